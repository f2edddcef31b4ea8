"""Wan's autoencoder: causal, trained small, kept in diffusers' form, and decoded once for what members share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import diffusers
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foreframe.errors import InputError, UsageError
from foreframe.models.autoencoder import VideoAutoencoder, autoencoder_folder
from foreframe.models.config import AutoencoderConfig

if TYPE_CHECKING:
    from pathlib import Path

SIZE, NUM_FRAMES, NUM_CONTEXT = 32, 21, 5
CONFIGS = {
    "wan22": AutoencoderConfig(base_dim=4, decoder_base_dim=8, z_dim=6, dim_mult=(1, 2, 2, 2)),
    "small": AutoencoderConfig(
        base_dim=8, decoder_base_dim=8, z_dim=6, dim_mult=(1, 1, 1), num_res_blocks=0, temperal_downsample=(True, True),
        patch_size=4, latent_noise=0.1,
    ),
    "wan21": AutoencoderConfig(
        base_dim=8, decoder_base_dim=8, z_dim=6, dim_mult=(1, 1, 1, 1), num_res_blocks=1, patch_size=None,
        is_residual=False,
    ),
}  # fmt: skip


def build(name: str) -> VideoAutoencoder:
    """Random weights, and statistics that are not zero and one."""
    torch.manual_seed(0)
    model = VideoAutoencoder(CONFIGS[name]).eval()
    model.latents_mean += torch.linspace(-0.2, 0.1, 6)
    model.latents_std *= torch.linspace(0.5, 1.5, 6)
    return model


def video(num_clips: int = 2, seed: int = 0) -> torch.Tensor:
    """Coloured noise that changes slowly, in [-1, 1]: (B, 3, 21, 32, 32)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(num_clips, 3, 6, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, (NUM_FRAMES, SIZE, SIZE), mode="trilinear").clamp(-1, 1)


def train(model: VideoAutoencoder, *, num_steps: int) -> None:
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    for step in range(num_steps):
        batch = video(seed=step % 3)
        optimizer.zero_grad()
        (model(batch) - batch).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", CONFIGS)
def test_context_alone_gives_the_same_latents(name: str) -> None:
    model = build(name)
    whole, context = model.encode(video()), model.encode(video()[:, :, :NUM_CONTEXT])
    spatial = model.config.scale_factor_spatial
    assert whole.shape == (2, *model.latent_shape(num_frames=NUM_FRAMES, size=SIZE))
    assert whole.shape == (2, 6, 6, SIZE // spatial, SIZE // spatial)
    torch.testing.assert_close(context, whole[:, :, :2], atol=1e-5, rtol=1e-5)
    changed = video()
    changed[:, :, NUM_CONTEXT:] *= -1
    torch.testing.assert_close(model.encode(changed)[:, :, :2], context, atol=1e-5, rtol=1e-5)
    assert (model.encode(changed)[:, :, 2] - whole[:, :, 2]).abs().max() > 1e-3
    with pytest.raises(UsageError, match="22 frames of 32 pixels do not divide"):
        model.latent_shape(num_frames=22, size=SIZE)


@pytest.mark.parametrize("name", CONFIGS)
def test_training_runs_what_diffusers_runs(name: str) -> None:
    model = build(name)
    with torch.no_grad():
        reconstruction = model(video())
    vae = model.vae
    torch.testing.assert_close(reconstruction.clamp(-1, 1), vae(video()).sample, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reconstruction.clamp(-1, 1), model.decode(model.encode(video())), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_reach_every_parameter(name: str) -> None:
    model = build(name).train()
    model(video()).square().mean().backward()
    unreached = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert unreached == []
    assert all(value.grad.isfinite().all() for value in model.parameters())  # pyright: ignore[reportOptionalMemberAccess]


def test_latents_come_out_normalised_after_a_few_steps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = VideoAutoencoder(CONFIGS["small"])
    raw = model.vae.encode(video()).latent_dist.mode()
    assert raw.std() < 0.5, "there is something to normalise"
    train(model, num_steps=12)
    latents = [model.eval().encode(video(seed=seed)) for seed in range(3)]
    std, mean = torch.std_mean(torch.cat(latents), dim=(0, 2, 3, 4))
    assert (std - 1).abs().max() < 0.3, std
    assert mean.abs().max() < 0.3, mean
    assert int(model.num_updates) == 12
    before = model.latents_std.clone()
    model(video())
    assert torch.equal(model.latents_std, before), "evaluation moves the statistics"

    again = VideoAutoencoder(CONFIGS["small"]).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.encode(video()), model.encode(video()))
    model.save(tmp_path)
    assert torch.equal(VideoAutoencoder.load(tmp_path).encode(video()), model.encode(video()))


def test_noise_is_measured_in_deviations_of_the_latents() -> None:
    """The decoder's input with noise less that without is noise times each channel's deviation in the batch."""
    model = build("small").train()
    seen: list[torch.Tensor] = []
    model.vae.post_quant_conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    torch.manual_seed(1)
    model(video(8))
    model.eval()
    model(video(8))
    noisy, clean = seen
    std = clean.std((0, 2, 3, 4))
    assert std.max() > 1.5 * std.min()
    torch.testing.assert_close((noisy - clean).std((0, 2, 3, 4)) / std, torch.full((6,), 0.1), atol=0.015, rtol=0)


def test_a_clip_without_any_detail_breaks_nothing() -> None:
    model = build("small").train()
    for parameter in model.vae.encoder.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    model(torch.zeros_like(video())).mean().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())
    assert model.eval().encode(video()).isfinite().all()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_folder_is_plain_diffusers(name: str, tmp_path: Path) -> None:
    model = build(name)
    (tmp_path / "model.json").write_text("{}")
    model.save(tmp_path)
    assert autoencoder_folder(tmp_path) == tmp_path
    names = ["config.json", "diffusion_pytorch_model.safetensors", "model.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    plain: Any = diffusers.AutoencoderKLWan.from_pretrained(tmp_path, local_files_only=True)
    assert plain.config.latents_std == pytest.approx(model.latents_std.tolist())
    assert torch.equal(plain.encode(video()).latent_dist.mode(), model.vae.encode(video()).latent_dist.mode())
    loaded = VideoAutoencoder.load(tmp_path)
    assert {**vars(loaded.config), "latent_noise": 0} == {**vars(model.config), "latent_noise": 0}
    assert torch.equal(loaded.decode(loaded.encode(video())), model.decode(model.encode(video())))
    assert not loaded.training
    assert not any(value.requires_grad for value in loaded.parameters())

    model.save(tmp_path, dtype=torch.float16)
    loaded = VideoAutoencoder.load(tmp_path)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.encode(video()), model.encode(video()), atol=0.05, rtol=0.05)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(loaded.encode(video()), model.encode(video()), atol=0, rtol=0)


def test_a_folder_that_is_something_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config.json: is missing"):
        VideoAutoencoder.load(tmp_path)
    build("small").save(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"cannot be read as an AutoencoderKLWan"):
        VideoAutoencoder.load(tmp_path)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="4 levels need 3 temperal_downsample"):
        AutoencoderConfig(temperal_downsample=(True, True))
    with pytest.raises(ValueError, match="cannot change channels"):
        AutoencoderConfig(num_res_blocks=0)
    assert AutoencoderConfig(**json.loads(json.dumps(vars(CONFIGS["small"])))) == CONFIGS["small"]


# -- futures that share a past ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_clips", "num_members"), [(1, 3), (2, 2)])
@pytest.mark.parametrize("name", CONFIGS)
def test_members_share_the_decoded_past(name: str, num_clips: int, num_members: int) -> None:
    model = build(name)
    shape = model.latent_shape(num_frames=NUM_FRAMES, size=SIZE)
    latents = torch.randn(num_clips * num_members, *shape, generator=torch.Generator().manual_seed(0))
    context = latents[::num_members, :, :2]
    latents[:, :, :2] = context.repeat_interleave(num_members, 0)
    whole = model.decode(latents)
    prefix = model.decode_prefix(context)
    torch.testing.assert_close(prefix.video, whole[::num_members, :, :NUM_CONTEXT], atol=1e-4, rtol=0)
    for _ in range(2):  # a prefix is not used up
        future = model.decode_from(prefix, latents[:, :, 2:])
        torch.testing.assert_close(future, whole[:, :, NUM_CONTEXT:], atol=1e-4, rtol=0)
        last = model.decode_from(prefix, latents[:, :, 2:], last_only=True)
        torch.testing.assert_close(last, whole[:, :, -2:], atol=1e-4, rtol=0)
    # From a longer past, and with so short a future that the last frames need that past at every level.
    longer = model.decode_prefix(latents[:, :, :5])
    last = model.decode_from(longer, latents[:, :, 5:], last_only=True)
    torch.testing.assert_close(last, whole[:, :, -2:], atol=1e-4, rtol=0)
    first = model.decode_prefix(latents[:, :, :1])
    torch.testing.assert_close(model.decode_from(first, latents[:, :, 1:]), whole[:, :, 1:], atol=1e-4, rtol=0)


def test_futures_must_divide_among_the_clips() -> None:
    model = build("small")
    prefix = model.decode_prefix(torch.zeros(2, 6, 2, 2, 2))
    with pytest.raises(ValueError, match="3 futures are not the same number for each of 2 clips"):
        model.decode_from(prefix, torch.zeros(3, 6, 4, 2, 2))


def test_what_the_full_size_costs() -> None:
    """TFLOP at 512x512: challenge-facts 5.1 and the report's sizes, counted without any memory."""
    with torch.device("meta"):
        model = VideoAutoencoder(AutoencoderConfig()).eval()
        frames = torch.empty(1, 3, NUM_FRAMES, 512, 512)
        latents = torch.empty(1, 48, 6, 32, 32)
    assert sum(value.numel() for value in model.parameters()) == 704_688_668

    def cost(run: Any) -> float:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops() / 1e12

    assert cost(lambda: model.encode(frames)) == pytest.approx(19.54, abs=0.005)
    assert cost(lambda: model.encode(frames[:, :, :NUM_CONTEXT])) == pytest.approx(4.88, abs=0.005)
    assert cost(lambda: model.decode(latents)) == pytest.approx(102.4, abs=0.05)
    prefix = model.decode_prefix(latents[:, :, :2])
    assert cost(lambda: model.decode_prefix(latents[:, :, :2])) == pytest.approx(25.27, abs=0.005)
    future = latents[:, :, 2:].expand(4, -1, -1, -1, -1)
    assert cost(lambda: model.decode_from(prefix, future)) / 4 == pytest.approx(77.17, abs=0.005)
    assert cost(lambda: model.decode_from(prefix, future, last_only=True)) / 4 == pytest.approx(71.47, abs=0.005)
