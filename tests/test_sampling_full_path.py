"""The sampling track on a pretrained base, in small: a folder as Wan2.2 TI2V-5B's, from video to scores and back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from conftest import SIZE
from foreframe.cli import run as run_command
from foreframe.config import load_config
from foreframe.data.loader import ordered_batches
from foreframe.data.raw import RawDataset
from foreframe.encode import holds_autoencoder
from foreframe.errors import InputError, UsageError
from foreframe.inference.config import EnsembleConfig, InferenceConfig, SamplerConfig
from foreframe.inference.ensemble import member_noise
from foreframe.inference.flow_sampler import sample
from foreframe.metrics.image import PSNR_CAP_DB, psnr
from foreframe.models.autoencoder import VideoAutoencoder
from foreframe.models.config import AutoencoderConfig
from foreframe.models.lora import is_lora
from foreframe.models.prompt import prompt_row, read_prompt
from foreframe.models.weights import checkpoint_folders, load_weights, read_tensors, save_model
from foreframe.recipes import RECIPES
from foreframe.runs import evaluate_run, export_run, open_run, train_run
from foreframe.tracks.table import build_track
from test_prompt import WIDTH, write_text_encoder
from test_wan import randomise

if TYPE_CHECKING:
    from foreframe.batch import Batch

SIZES = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "ffn_dim": 40,
    "latent_channels": 8,
    "freq_dim": 16,
    "text_dim": WIDTH,
    "rope_max_seq_len": 64,
}
STATE_WIDTH, RANK = 16, 2
VAE = AutoencoderConfig(base_dim=4, decoder_base_dim=4, z_dim=8, dim_mult=(1, 2, 2, 2), num_res_blocks=1)
"""Wan2.2's kind: patches of 2x2 pixels, averages past each change of resolution; 16x16 pixels and 4 frames a latent."""
PARTS = {"adapter_config.json", "adapter_model.safetensors", "robot.safetensors"}
QUICK = InferenceConfig(batch_size=1, num_shown=0, max_clips=1, num_resamples=20)
USUAL = {"model.json", "statistics.json", "optimizer.safetensors", "trainer.json", "manifest.json"}


def write_base(folder: Path) -> None:
    """All of Wan-AI/Wan2.2-TI2V-5B-Diffusers that matters, by diffusers and transformers themselves."""
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    sizes: dict[str, Any] = {name: value for name, value in SIZES.items() if name != "latent_channels"}
    transformer: Any = WanTransformer3DModel(in_channels=8, out_channels=8, **sizes)
    randomise(transformer, std=0.2)
    transformer.to(torch.bfloat16).save_pretrained(folder / "transformer", max_shard_size="20KB")
    assert len(list((folder / "transformer").glob("*-of-*.safetensors"))) > 2
    torch.manual_seed(0)
    vae = VideoAutoencoder(VAE)
    vae.latents_mean += torch.linspace(-0.05, 0.05, 8)
    vae.latents_std *= torch.linspace(0.1, 0.2, 8)
    vae.save(folder / "vae")
    write_text_encoder(folder)
    kinds = {
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
    }
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "WanPipeline", "expand_timesteps": True, **kinds})
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "Wan"
    write_base(folder)
    return folder


@pytest.fixture
def own_base(base: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(base, tmp_path / "Wan")


def tiny(data: Path, base: Path, recipe: str = "sampling_wan5b", *, num_steps: int = 2, **track: Any) -> Any:
    """The full-size recipe with a small model, short and quick; all else is the recipe's."""
    config: Any = RECIPES[recipe]()
    assert config.train.precision == config.track.inference_precision == "bf16"
    assert config.track.model.base_dtype == "bfloat16" and config.track.model.checkpointing == "selective"
    model = replace(config.track.model, **SIZES, state_width=STATE_WIDTH, lora_rank=RANK, base=str(base))
    sampler = replace(config.track.sampler, num_inference_steps=2)
    settings = {"model": model, "size": SIZE, "sampler": sampler, "ensemble": EnsembleConfig(size=2), **track}
    return replace(
        config,
        data=data,
        track=replace(config.track, **settings),
        train=replace(
            config.train,
            num_steps=num_steps,
            global_batch_size=4,
            micro_batch_size=2,
            checkpoint_every=2,
            log_every=1,
            validate_every=0,
            num_val_clips=1,
        ),
        optim=replace(config.optim, learning_rate=1e-2),
        inference=replace(config.inference, num_shown=1, max_clips=1, num_resamples=20),
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents and prompt, once for all tests that need not see how they are made."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(raw_root: Path, base: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps in one go, on cached latents, with a look at the validation split."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    config = tiny(raw_root, base, num_steps=4)
    assert train_run(folder, replace(config, train=replace(config.train, validate_every=4)), cache=cache)
    return folder


def parts_of(run: Path, step: int = -1) -> dict[str, torch.Tensor]:
    """Everything that a checkpoint, by default the newest, holds of the model."""
    folder = checkpoint_folders(run)[-1] if step < 0 else run / "checkpoints" / f"step_{step:08d}"
    return read_tensors(folder / "adapter_model.safetensors") | read_tensors(folder / "robot.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def with_float32(config: Any, **track: Any) -> Any:
    """To compare with other ways to the same numbers."""
    model = replace(config.track.model, base_dtype="float32")
    return replace(config, track=replace(config.track, model=model, inference_precision="no", **track))


def moved(run: Path, to: Path, **track: Any) -> Path:
    """A copy of a run folder with other settings of its track; `base` is the model's."""
    shutil.copytree(run, to)
    content = json.loads((to / "config.json").read_text())
    if "base" in track:
        content["track"]["model"]["base"] = str(track.pop("base"))
    content["track"] |= track
    (to / "config.json").write_text(json.dumps(content))
    return to


def first_clip(track: Any, root: Path, cache: Path) -> Batch:
    return next(ordered_batches(track.open(root, cache=cache, with_video=True), [0], batch_size=1))


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> bool:
    return "\n" not in str(caught.value)


# Training


def test_adapters_are_not_averaged(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds adapters"):
        export_run(run, tmp_path / "mean", average_with=[run])


def test_checkpoint_holds_what_was_trained_alone(run: Path, base: Path) -> None:
    assert [folder.name for folder in checkpoint_folders(run)] == ["step_00000002", "step_00000004"]
    newest = checkpoint_folders(run)[-1]
    assert {path.name for path in newest.iterdir()} == PARTS | USUAL
    model, parts = open_run(run).model, parts_of(run)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    num_trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    num_values = sum(value.numel() for value in parts.values())
    assert num_values == num_trained + WIDTH, "the prompt's row is all there is besides"
    size = sum(path.stat().st_size for name in PARTS if (path := newest / name).suffix == ".safetensors")
    assert 4 * num_values < size < 4 * num_values + 20_000, "nothing of the base is in there"
    frozen = sum(value.numel() for value in model.parameters() if not value.requires_grad)
    assert frozen * 2 > 20_000
    kinds = (".lora_", "state_encoder.", ".robot_modulation", "prompt")
    assert all(any(kind in name for kind in kinds) for name in parts)
    assert {value.dtype for value in parts.values()} == {torch.float32}
    # All of it has left its start of zeros, adapters, robot tables and the encoder's last layer alike.
    assert all(value.any() for value in parts.values())
    averages = {name.rpartition("/")[0] for name in load_file(newest / "optimizer.safetensors")}
    assert averages == trained
    # The base is named by the run's configuration; a path in what is handed on would say where this machine keeps it.
    assert json.loads((newest / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    assert all(str(base.parent) not in path.read_text() for path in newest.glob("*.json"))
    # What is frozen is the base's own, bit for bit.
    held = {name.replace(".base_layer.", "."): value for name, value in model.named_parameters()}
    shards = [load_file(path) for path in (base / "transformer").glob("*.safetensors")]
    assert sum(len(shard) for shard in shards) == len(held) - len(trained)
    assert all(torch.equal(held[name].float(), value.float()) for shard in shards for name, value in shard.items())
    dtypes = {held[name].dtype for name in ("blocks.0.ffn.net.0.proj.weight", "blocks.0.attn2.to_k.weight")}
    assert dtypes == {torch.bfloat16}


def test_a_stopped_run_ends_where_it_would_have(
    run: Path, raw_root: Path, base: Path, cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "parts"
    for num_steps in (2, 4):
        assert train_run(folder, tiny(raw_root, base, num_steps=num_steps), cache=cache)
        assert same(parts_of(folder), parts_of(run, num_steps))
    assert same(*(load_file(checkpoint_folders(each)[-1] / "optimizer.safetensors") for each in (run, folder)))


def test_latents_made_anew_each_time(run: Path, raw_root: Path, base: Path, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "online"
    assert train_run(folder, tiny(raw_root, base, latents="online"))
    assert {path.name for path in checkpoint_folders(folder)[-1].iterdir()} == PARTS | USUAL
    assert {path.name for path in (folder / "cache").iterdir()} == {"prompt.safetensors"}
    assert len(list(cache.glob("latents-*"))) == 2  # of train and of val
    losses = [json.loads((each / "metrics.jsonl").read_text().splitlines()[0])["loss"] for each in (folder, run)]
    # Kept latents are rounded to bfloat16; those made anew come from an autoencoder under autocast.
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_encode_then_train_on_latents_alone(
    run: Path, raw_root: Path, base: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latents, folder = tmp_path / "latents", tmp_path / "run"
    assert run_command(["data", "encode", str(raw_root), "--out", str(latents), "--encoder", str(base)]) == 0
    assert {path.name for path in latents.iterdir()} == {"train", "val"}
    sizes = {f"--track.model.{name.replace('_', '-')}": str(value) for name, value in SIZES.items()}
    options = {
        "--out": str(folder),
        "--data": str(latents),
        "--track.model.base": str(base),
        **sizes,
        "--track.model.state-width": str(STATE_WIDTH),
        "--track.model.lora-rank": str(RANK),
        "--track.size": str(SIZE),
        "--train.num-steps": "2",
        "--train.global-batch-size": "4",
        "--train.micro-batch-size": "2",
        "--optim.learning-rate": "1e-2",
    }
    command = ["train", "sampling_wan5b", *(word for pair in options.items() for word in pair)]
    # Validation needs frames, and here are none.
    assert run_command(command) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "val: holds latents, but scores need the frames" in told and "--train.validate-every 0" in told
    assert run_command([*command, "--train.validate-every", "0"]) == 0
    assert same(parts_of(folder), parts_of(run, 2)), "the same latents as those that train makes itself"
    with pytest.raises(InputError, match=r"val: holds latents, but scores need the frames; .*--data RAW") as caught:
        evaluate_run(folder)
    assert one_line(caught)
    assert evaluate_run(folder, data=raw_root, inference=QUICK, cache=cache)["receipt"]["num_clips"] == 1
    # Latents to train on beside frames to validate on.
    shutil.rmtree(latents / "val")
    (latents / "val").symlink_to(raw_root / "val")
    assert run_command([*command, "--train.num-steps", "3"]) == 0
    assert '"psnr"' in (folder / "metrics.jsonl").read_text()


# Prediction


@pytest.mark.parametrize(("decode", "num_decoded"), [("last", 2), ("all", 16)])
def test_frame_76_is_predicted_and_scored(
    run: Path, raw_root: Path, cache: Path, tmp_path: Path, decode: str, num_decoded: int
) -> None:
    folder = moved(run, tmp_path / "run")
    content = evaluate_run(folder, predicting={"decode": decode}, cache=cache)
    (row,) = content["clips"]
    values = row["values"]
    by_level = [f"flow_loss_{number}" for number in range(1, 9)]
    assert set(values) == {"psnr", "psnr_sample", "ssim", "ssim_sample", "flow_loss", *by_level}
    assert values["flow_loss"]["model"] == pytest.approx(np.mean([values[name]["model"] for name in by_level]))
    assert {"model", "copy_last", "context_mean", "blur", "reconstruction"} <= set(values["psnr"])
    assert json.loads((folder / "scores.json").read_text())["clips"] == content["clips"]
    assert content["receipt"]["config"]["track"]["decode"] == decode

    recorded = RawDataset(raw_root / "val").frames(row["shard"], range(row["start"], row["start"] + 77), size=SIZE)
    (saved,) = (folder / "predictions").glob("*.npz")
    with np.load(saved, allow_pickle=False) as arrays:
        assert arrays["prediction"].shape == arrays["truth"].shape == (num_decoded, SIZE, SIZE, 3)
        assert np.array_equal(arrays["truth"][-1], recorded[76])
        assert np.array_equal(arrays["context"], recorded[:17:4])
        shown = arrays["prediction"][-1]

    opened = open_run(folder, predicting={"decode": decode})
    batch = first_clip(opened.track, raw_root / "val", cache)
    prediction = opened.track.predict(opened.model, batch)
    assert np.array_equal(prediction.image[0].numpy(), shown)
    # The picture that is handed in: what is read from it scores what the receipt says.
    Image.fromarray(prediction.image[0].numpy()).save(tmp_path / "frame.png")
    with Image.open(tmp_path / "frame.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (SIZE, SIZE))
        read = torch.from_numpy(np.array(image))
    assert torch.equal(read, prediction.image[0])
    decibel = psnr(read[None], torch.from_numpy(recorded[76:]), cap_db=PSNR_CAP_DB)
    assert decibel.item() == pytest.approx(values["psnr"]["model"], abs=1e-6)


def reference_frames(base: Path, prompt: torch.Tensor, batch: Batch, config: Any) -> list[torch.Tensor]:
    """The future (1, 3, 16, H, W) of each member, by diffusers' own transformer and autoencoder in float32."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    transformer: Any = WanTransformer3DModel.from_pretrained(base / "transformer", torch_dtype=torch.float32)
    vae: Any = AutoencoderKLWan.from_pretrained(base / "vae", torch_dtype=torch.float32)
    mean, std = (torch.tensor(vae.config[f"latents_{name}"]).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    rows = torch.zeros(1, 512, WIDTH)
    rows[0, :1] = prompt

    def velocity(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        num_tokens = noisy.shape[3] // 2 * (noisy.shape[4] // 2)
        return transformer(noisy, timesteps.repeat_interleave(num_tokens, 1), rows.expand(len(noisy), -1, -1)).sample

    assert batch.video is not None
    frames: list[torch.Tensor] = []
    with torch.no_grad():
        context = (vae.encode(batch.video[:, :, :5]).latent_dist.mode() - mean) / std
        for member in range(config.track.ensemble.size):
            shape = (*context.shape[1:2], 6, *context.shape[3:])
            noise = member_noise(config.track.ensemble.seed, batch.clips[0], member, shape)[None]
            plain = replace(config.track.sampler, guidance_scale=1.0)
            latents = sample(velocity, context=context, noise=noise, config=plain)
            frames.append(vae.decode(latents * std + mean).sample[:, :, 5:].clamp(-1, 1))
    return frames


@pytest.mark.parametrize("recipe", ["sampling_wan5b", "sampling_wan5b_cfg"])
def test_before_the_first_step_it_is_the_base(raw_root: Path, base: Path, tmp_path: Path, recipe: str) -> None:
    """From video to frames, with four tokens in a latent frame and, in `cfg`, states withheld from half the passes."""
    config = with_float32(tiny(raw_root, base, recipe), latents="online", decode="all", size=2 * SIZE)
    small = build_track(replace(config.track, size=SIZE))
    batch = first_clip(small, raw_root / "val", tmp_path)
    assert batch.video is not None and batch.latents is None
    larger = torch.nn.functional.interpolate(batch.video[0], scale_factor=2, mode="bilinear")[None]
    batch = replace(batch, video=larger)
    track = build_track(config.track)
    model = small.build().eval()
    prediction = track.predict(model, batch)
    row, _ = read_prompt(tmp_path / "prompt.safetensors")
    frames = reference_frames(base, row, batch, config)
    assert (frames[0] - frames[1]).abs().max() > 0.05, "noise is seen in the frames"
    torch.testing.assert_close(prediction.videos.sample, frames[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(prediction.videos.mean, (frames[0] + frames[1]) / 2, atol=1e-5, rtol=0)
    # And not so any more once something is learnt.
    with torch.no_grad():
        model.blocks[1].robot_modulation += 0.5
    assert (track.predict(model, batch).videos.sample - frames[0]).abs().max() > 1e-3


def test_trained_then_saved_loaded_and_merged(
    run: Path, raw_root: Path, base: Path, cache: Path, tmp_path: Path
) -> None:
    track: Any = build_track(with_float32(load_config(run)).track)
    batch = first_clip(track, raw_root / "val", cache)
    before = track.predict(track.build().eval(), batch).videos.mean
    model = track.build()
    load_weights(checkpoint_folders(run)[-1], model)
    trained = track.predict(model.eval(), batch).videos.mean
    assert (trained - before).abs().max() > 1e-3
    (tmp_path / "again").mkdir()
    save_model(tmp_path / "again", model)
    torch.manual_seed(5)
    other = track.build().eval()
    load_weights(tmp_path / "again", other)
    assert torch.equal(track.predict(other, batch).videos.mean, trained)
    other.merge()
    assert not any(is_lora(name) for name, _ in other.named_parameters())
    merged = track.predict(other, batch).videos.mean
    torch.testing.assert_close(merged, trained, atol=1e-5, rtol=0)
    for name, value in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.zeros_(value)
    # It is not the robot's part alone that made the difference.
    assert (track.predict(model, batch).videos.mean - trained).abs().max() > 1e-3
    # As it is run: base and sums in bfloat16.
    opened = open_run(run)
    ours = opened.track.predict(opened.model, batch).videos.mean
    opened.model.merge()
    rounded = opened.track.predict(opened.model, batch).videos.mean
    scale = (trained - before).square().mean().sqrt()
    for value in (ours, rounded):
        assert (value - trained).square().mean().sqrt() < 0.5 * scale


def test_guided_by_states_and_with_unipc(raw_root: Path, base: Path, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "guided"
    config = tiny(raw_root, base, "sampling_wan5b_cfg")
    assert config.track.sampler.guidance_scale == 1.5 and config.track.state_dropout == 0.1
    assert train_run(folder, config, cache=cache)
    assert "state_encoder.no_states" in parts_of(folder)
    content = evaluate_run(folder, inference=QUICK, cache=cache)
    assert content["receipt"]["config"]["track"]["sampler"]["guidance_scale"] == 1.5
    opened = open_run(folder)
    batch = first_clip(opened.track, raw_root / "val", cache)
    calls: list[int] = []
    opened.model.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    images, passes = {}, {}
    for solver in ("euler", "unipc"):
        for scale in (1.0, 1.5):
            calls.clear()
            sampler = SamplerConfig(num_inference_steps=3, solver=solver, guidance_scale=scale)
            track = build_track(replace(opened.config.track, sampler=sampler))
            images[solver, scale] = track.predict(opened.model, batch).videos.mean
            passes[solver, scale] = sum(calls)
    assert passes == {("euler", 1.0): 6, ("euler", 1.5): 12, ("unipc", 1.0): 6, ("unipc", 1.5): 12}
    values = list(images.values())
    assert all(value.isfinite().all() for value in values)
    for place, value in enumerate(values):
        assert all((value - other).abs().max() > 1e-3 for other in values[:place])


# The prompt


def test_without_its_text_encoder(run: Path, raw_root: Path, own_base: Path, cache: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.safetensors"
    row = prompt_row(prompt, base=str(own_base))
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(own_base / part)
    # What is trained holds the prompt's row.
    torch.testing.assert_close(parts_of(run)["prompt"], row.bfloat16().float(), atol=0, rtol=0)
    scores = evaluate_run(run, inference=QUICK, cache=cache)["clips"]
    assert evaluate_run(moved(run, tmp_path / "moved", base=own_base), inference=QUICK, cache=cache)["clips"] == scores
    # To train, someone has to bring it.
    with pytest.raises(
        InputError, match=r"Wan: has no text_encoder and no tokenizer, .* fetch .*, or bring a"
    ) as caught:
        train_run(tmp_path / "without", tiny(raw_root, own_base))
    assert one_line(caught)
    folder = tmp_path / "with"
    assert train_run(folder, tiny(raw_root, own_base, prompt=str(prompt)))
    assert same(parts_of(folder), parts_of(run, 2))
    # After which nobody needs it.
    prompt.unlink()
    assert evaluate_run(folder, inference=QUICK)["receipt"]["num_clips"] == 1


def test_a_prompt_that_was_brought_stays_as_it_is(raw_root: Path, own_base: Path, cache: Path, tmp_path: Path) -> None:
    """Even where there is a text encoder that would give another."""
    prompt = tmp_path / "prompt.safetensors"
    row = prompt_row(prompt, base=str(own_base))
    content = prompt.read_bytes()
    write_text_encoder(own_base, seed=1)
    track = build_track(tiny(raw_root, own_base, prompt=str(prompt)).track)
    track.open(raw_root / "train", cache=cache)
    assert torch.equal(track.build().prompt.float(), row)
    assert prompt.read_bytes() == content


# Faults


def refused(pattern: str, folder: Path, config: Any, cache: Path) -> None:
    with pytest.raises((InputError, UsageError), match=pattern) as caught:
        train_run(folder, config, cache=cache)
    assert one_line(caught)


def test_unfit_bases_are_named(raw_root: Path, own_base: Path, cache: Path, tmp_path: Path) -> None:
    folder, config = tmp_path / "run", tiny(raw_root, own_base)
    model = replace(config.track.model, num_layers=3)
    larger = replace(config, track=replace(config.track, model=model))
    refused(r"transformer/config.json: num_layers is 2, but num_layers of this model is 3", folder, larger, cache)
    shard = sorted((own_base / "transformer").glob("*-of-*.safetensors"))[1]
    shard.rename(tmp_path / "away")
    refused(rf"{shard.name}: is missing, but .*index.json lists it; fetch the folder again", folder, config, cache)
    (tmp_path / "away").rename(shard)
    # None of them left a checkpoint, and with everything in its place the same command goes on.
    assert checkpoint_folders(folder) == []
    (own_base / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    refused(r"vae: cannot be read as an AutoencoderKLWan", folder, config, cache)
    shutil.rmtree(own_base / "vae")
    refused(r"Wan: has no vae with a Wan autoencoder in it; fetch that part", folder, config, cache)
    with pytest.raises(InputError, match="Wan: has no vae"):
        holds_autoencoder(str(own_base))
    shutil.rmtree(own_base)
    refused(r"Wan: is neither a folder nor a hub id", folder, config, cache)


def test_unfit_latents_are_named_before_any_is_made(raw_root: Path, base: Path, cache: Path, tmp_path: Path) -> None:
    config = tiny(raw_root, base)
    VideoAutoencoder(replace(VAE, z_dim=4)).save(tmp_path / "vae")
    other = replace(config, track=replace(config.track, autoencoder=str(tmp_path)))
    refused(r"its latents have 4 channels, but track.model.latent-channels is 8", tmp_path / "run", other, cache)
    smaller = replace(config, track=replace(config.track, size=SIZE // 2))
    refused(r"frames of 16 pixels give latents of 1x1, which do not divide", tmp_path / "run", smaller, cache)
