"""The state-conditioned Wan: equal to diffusers' model where nothing is added, and everything added is heard."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode

from foreframe.errors import InputError
from foreframe.models.config import StateEncoderConfig
from foreframe.models.hub import diffusers_folder
from foreframe.models.lora import TARGETS, is_lora, save_lora
from foreframe.models.state_encoder import StateEncoder, state_features
from foreframe.models.wan import (
    ROBOT_FILE,
    StateConditionedWan,
    collapsed_cross_attention,
    cross_attention,
)
from foreframe.models.wan_config import WanConfig
from foreframe.permissions import Permissions

TINY = WanConfig(
    num_layers=2,
    num_attention_heads=2,
    attention_head_dim=12,
    ffn_dim=40,
    latent_channels=4,
    freq_dim=16,
    text_dim=20,
    rope_max_seq_len=64,
    state_width=16,
    lora_rank=4,
    collapse_prompt=False,
)
FRAMES = 6


def randomise(model: torch.nn.Module, *, seed: int = 0, std: float = 0.3) -> None:
    """Every parameter random and of ordinary size, so that nothing is hidden by a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers model folder with a tiny random transformer in it."""
    folder = tmp_path_factory.mktemp("wan")
    names = ("num_layers", "num_attention_heads", "attention_head_dim", "ffn_dim", "freq_dim", "text_dim")
    sizes = {name: getattr(TINY, name) for name in names}
    reference = WanTransformer3DModel(in_channels=4, out_channels=4, rope_max_seq_len=64, **sizes)
    randomise(reference)
    reference.save_pretrained(folder / "transformer")
    return folder


def reference_of(base: Path) -> WanTransformer3DModel:
    return WanTransformer3DModel.from_pretrained(base / "transformer")


def build(base: Path, *, seed: int = 0, **changes: Any) -> StateConditionedWan:
    torch.manual_seed(seed)
    model = StateConditionedWan(replace(TINY, base=str(base), **changes))
    model.set_prompt(prompt_row())
    return model


def prompt_row() -> torch.Tensor:
    return torch.randn(1, TINY.text_dim, generator=torch.Generator().manual_seed(7))


def randomise_trained(model: StateConditionedWan, *, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def inputs(batch: int = 2, *, size: int = 4, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, timesteps with two context frames, and states."""
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(batch, 4, FRAMES, size, size + 2, generator=generator)
    timesteps = torch.rand(batch, 1, generator=generator).mul(1000).repeat(1, FRAMES)
    timesteps[:, :2] = 0
    return noisy, timesteps, torch.randn(batch, 21, 25, generator=generator)


def run_reference(reference: WanTransformer3DModel, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """The forward of diffusers with all 512 prompt rows; timesteps (B,), or (B, F) sent to it for each token."""
    prompt = torch.zeros(1, 512, TINY.text_dim)
    prompt[:, :1] = prompt_row()
    if timesteps.dim() == 2:
        timesteps = timesteps.repeat_interleave(noisy.shape[-1] * noisy.shape[-2] // 4, dim=1)
    prompt = prompt.expand(len(noisy), -1, -1).to(reference.patch_embedding.weight.dtype)
    return reference(noisy.to(prompt.dtype), timesteps, prompt).sample


# The size


def test_full_size_parameters() -> None:
    with torch.device("meta"):
        model = StateConditionedWan(WanConfig(base="nothing/is-read"))
    counts = {"lora": 0, "robot": 0, "base": 0}
    for name, parameter in model.named_parameters():
        robot = name.startswith("state_encoder.") or name.endswith("robot_modulation")
        counts["lora" if is_lora(name) else "robot" if robot else "base"] += parameter.numel()
        assert parameter.requires_grad == (is_lora(name) or robot)
    assert counts["base"] == pytest.approx(5.000e9, rel=1e-4)
    assert counts["lora"] == pytest.approx(80.61e6, rel=1e-4)
    assert counts["robot"] == pytest.approx(67.90e6, rel=1e-4)


@pytest.mark.parametrize(("collapse", "batch", "teraflops"), [(False, 1, 15.10), (True, 1, 13.36), (True, 20, 13.345)])
def test_full_size_work(collapse: bool, batch: int, teraflops: float) -> None:
    """Collapsed, 26 rows go through each output layer whatever the batch: 13.338 is what the tokens themselves cost."""
    work: list[int] = []
    for num_layers in (1, 2):
        with torch.device("meta"), torch.no_grad():
            model = StateConditionedWan(WanConfig(lora_rank=0, collapse_prompt=collapse, num_layers=num_layers))
            with FlopCounterMode(display=False) as counter:
                model(torch.zeros(batch, 48, 6, 32, 32), torch.zeros(batch, 6), torch.zeros(batch, 6, 6, 3072))
        work.append(counter.get_total_flops())
    assert of_30_layers(work) / batch == pytest.approx(teraflops * 1e12, rel=4e-4)


def of_30_layers(work: list[int]) -> int:
    """What 30 layers cost, from what one and two do."""
    return work[0] + 29 * (work[1] - work[0])


@pytest.mark.parametrize(("checkpointing", "teraflops"), [("none", 28.15), ("selective", 28.25), ("full", 41.69)])
def test_full_size_work_of_a_training_step(checkpointing: Any, teraflops: float) -> None:
    """Forward and backward of one clip in sixteen; the frozen weights have no gradients."""
    work: list[int] = []
    for num_layers in (1, 2):
        with torch.device("meta"):
            model = StateConditionedWan(WanConfig(num_layers=num_layers, checkpointing=checkpointing))
            with FlopCounterMode(display=False) as counter:
                R = model.encode_states(torch.zeros(16, 21, 25))
                model(torch.zeros(16, 48, 6, 32, 32), torch.zeros(16, 6), R).sum().backward()
        work.append(counter.get_total_flops())
    assert of_30_layers(work) / 16 == pytest.approx(teraflops * 1e12, rel=1e-3)


# Equality with diffusers


def test_zero_start_is_diffusers_model(base: Path) -> None:
    reference, model = reference_of(base), build(base)
    noisy, timesteps, states = inputs()
    ours = model(noisy, timesteps, model.encode_states(states))
    torch.testing.assert_close(ours, run_reference(reference, noisy, timesteps), atol=1e-5, rtol=1e-5)
    assert ours.std() > 0.1
    # The robot branch changes not one bit, and neither do untrained adapters.
    assert torch.equal(ours, model(noisy, timesteps))


def test_block_is_diffusers_block_to_the_bit(base: Path) -> None:
    """Given the same modulation; a model differs in the last digits, as its time embedding has fewer rows."""
    model, reference = build(base, lora_rank=0), reference_of(base)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, FRAMES, 5, 24, generator=generator)
    e = torch.randn(2, FRAMES, 6, 24, generator=generator)
    prompt = torch.randn(1, 512, 24, generator=generator)
    angles = torch.rand(1, FRAMES * 5, 1, 12, generator=generator)
    rotary = (angles.cos(), angles.sin())
    expected = reference.blocks[0](x.flatten(1, 2), prompt.expand(2, -1, -1), e.repeat_interleave(5, 1), rotary)
    assert torch.equal(model.blocks[0](x, e, None, prompt, rotary).flatten(1, 2), expected)


def test_equal_timesteps_are_the_scalar_path(base: Path) -> None:
    reference, model = reference_of(base), build(base, lora_rank=0)
    noisy, _, _ = inputs()
    scalar = torch.tensor([700.0, 13.5])
    ours = model(noisy, scalar[:, None].repeat(1, FRAMES))
    torch.testing.assert_close(ours, run_reference(reference, noisy, scalar), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("combine", ["additive", "multiplicative"])
def test_states_have_no_effect_at_the_start_and_some_later(base: Path, combine: str) -> None:
    model = build(base, combine=combine)
    noisy, timesteps, states = inputs()
    R = model.encode_states(states)
    assert (R.abs().max() == 0) == (combine == "additive")
    assert torch.equal(model(noisy, timesteps, R), model(noisy, timesteps))
    randomise_trained(model)
    moved = model(noisy, timesteps, model.encode_states(states)) - model(noisy, timesteps)
    assert moved.abs().max() > 1e-3


@pytest.mark.parametrize("combine", ["additive", "multiplicative"])
def test_modulation_is_the_stated_sum(base: Path, combine: str) -> None:
    """The block of diffusers, given the sum for each token (challenge-facts 5.5), does what ours does."""
    model = build(base, combine=combine, lora_rank=0)
    randomise(model, seed=5, std=0.2)
    reference = reference_of(base)
    generator = torch.Generator().manual_seed(0)
    block, other = model.blocks[1], reference.blocks[1]
    other.load_state_dict(block.state_dict(), strict=False)
    x = torch.randn(2, FRAMES, 5, 24, generator=generator)
    e, R = (torch.randn(2, FRAMES, 6, 24, generator=generator) for _ in range(2))
    prompt = torch.randn(1, 512, 24, generator=generator)
    angles = torch.rand(1, FRAMES * 5, 1, 12, generator=generator)
    rotary = (angles.cos(), angles.sin())
    g = R + block.robot_modulation if combine == "additive" else R * block.robot_modulation
    expected = other(x.flatten(1, 2), prompt.expand(2, -1, -1), (e + g).repeat_interleave(5, 1), rotary)
    torch.testing.assert_close(block(x, e, R, prompt, rotary).flatten(1, 2), expected, atol=1e-5, rtol=1e-5)


def test_frozen_base_in_bfloat16_is_diffusers_in_bfloat16(base: Path) -> None:
    reference = WanTransformer3DModel.from_pretrained(base / "transformer", torch_dtype=torch.bfloat16)
    model = build(base, base_dtype="bfloat16")
    ours = {name.replace(".base_layer.", "."): value.dtype for name, value in model.named_parameters()}
    assert {name: ours[name] for name, _ in reference.named_parameters()} == {
        name: value.dtype for name, value in reference.named_parameters()
    }
    assert all(value.dtype == torch.float32 for value in model.parameters() if value.requires_grad)
    noisy, timesteps, states = inputs()
    expected = run_reference(reference, noisy, timesteps).float()
    exact = run_reference(reference_of(base), noisy, timesteps)
    for context in (torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)):
        with context:
            velocity = model(noisy, timesteps, model.encode_states(states))
        assert velocity.dtype == torch.float32
        # No further from the float32 result than diffusers' own bfloat16 is.
        assert (velocity - exact).pow(2).mean() < 2 * (expected - exact).pow(2).mean()


def test_autocast_keeps_states_and_times_in_float32(base: Path) -> None:
    model = build(base)
    randomise_trained(model)
    noisy, timesteps, states = inputs()
    exact = model(noisy, timesteps, model.encode_states(states))
    times: list[torch.dtype] = []
    model.condition_embedder.register_forward_hook(lambda _module, _inputs, output: times.append(output[1].dtype))
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        warnings.simplefilter("error")
        R = model.encode_states(states)
        velocity = model(noisy, timesteps, R)
    assert torch.equal(R, model.encode_states(states))
    assert times == [torch.float32]
    error = (velocity - exact).std() / exact.std()
    assert 1e-5 < error < 0.05


# The prompt


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_two_keys_are_all_keys(base: Path, dtype: torch.dtype, tolerance: float) -> None:
    model = build(base)
    randomise_trained(model)
    attention = model.blocks[0].attn2.to(dtype)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 30, 24, generator=generator, dtype=dtype, requires_grad=True)
    rows = torch.randn(1, 2, 24, generator=generator, dtype=dtype) * torch.tensor([3.0, 1.0])[:, None]
    every = torch.cat([rows[:, :1], rows[:, 1:].expand(-1, 511, -1)], 1)
    some, all_ = collapsed_cross_attention(attention, x, rows, 511), cross_attention(attention, x, every)
    # Of the largest output, which is 10: in float32 it is the sum over 512 keys that is off, ten times more than ours.
    torch.testing.assert_close(some, all_, atol=tolerance * all_.abs().max().item(), rtol=0)
    if dtype == torch.float32:
        return
    # Gradients too, of tokens and of every adapter.
    trained = [x, *(value for name, value in attention.named_parameters() if is_lora(name))]
    probe = torch.randn(some.shape, generator=generator, dtype=dtype)
    for a, b in zip(*(torch.autograd.grad(y, trained, probe) for y in (some, all_)), strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b, atol=tolerance * b.abs().max().item(), rtol=0)
    # Were the zero rows counted once, it would show.
    assert (collapsed_cross_attention(attention, x, rows, 1) - all_).abs().max() > 1e-2


def test_collapse_is_a_switch(base: Path) -> None:
    noisy, timesteps, states = inputs()
    outputs: list[torch.Tensor] = []
    for collapse in (False, True):
        model = build(base, collapse_prompt=collapse)
        randomise_trained(model)
        outputs.append(model(noisy, timesteps, model.encode_states(states)))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)
    assert not torch.equal(outputs[0], outputs[1])  # It does take another road.


# Training


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("combine", ["additive", "multiplicative"])
@pytest.mark.parametrize("collapse", [False, True])
def test_gradient_reaches_what_trains_and_nothing_else(base: Path, rank: int, combine: str, collapse: bool) -> None:
    model = build(base, guidance=True, lora_rank=rank, combine=combine, collapse_prompt=collapse)
    randomise_trained(model)
    noisy, timesteps, states = inputs()
    model(noisy, timesteps, model.encode_states(states, torch.tensor([True, False]))).pow(2).mean().backward()
    for name, parameter in model.named_parameters():
        trains = rank == 0 or is_lora(name) or name.startswith("state_encoder.") or name.endswith("robot_modulation")
        assert parameter.requires_grad == trains, name
        assert (parameter.grad is not None and parameter.grad.abs().max() > 0) == trains, name


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_checkpointing_changes_nothing(base: Path, mode: str) -> None:
    """Values and gradients to the last bit; the work tells what is computed again."""
    noisy, timesteps, states = inputs()
    results: list[tuple[torch.Tensor, dict[str, torch.Tensor], int, int]] = []
    added: dict[str, int] = {}
    """Values that each adapter adds to its layer's output."""
    for checkpointing in ("none", mode):
        model = build(base, checkpointing=checkpointing, collapse_prompt=True)
        randomise_trained(model)
        for name, module in model.named_modules():
            if "lora_B." in name:
                module.register_forward_hook(lambda _m, _i, out, name=name: added.update({name: out.numel()}))
        kept = 0

        def keep(value: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += value.numel()
            return value

        with FlopCounterMode(display=False) as counter:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
                velocity = model(noisy, timesteps, model.encode_states(states))
            velocity.pow(2).mean().backward()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        results.append((velocity, gradients, counter.get_total_flops(), kept))
    (value, gradients, work, kept), (value2, gradients2, work2, kept2) = results
    assert torch.equal(value, value2)
    assert gradients.keys() == gradients2.keys()
    assert all(torch.equal(gradients[name], gradients2[name]) for name in gradients)
    assert kept2 < kept / 2
    if mode == "selective":
        # What the adapters add is computed again, and nothing else.
        assert work2 - work == 2 * model.settings.lora_rank * sum(added.values())
    else:
        assert work2 > 1.2 * work


def test_clips_of_a_batch_do_not_meet(base: Path) -> None:
    model = build(base)
    randomise_trained(model)
    noisy, timesteps, states = inputs()
    before = model(noisy, timesteps, model.encode_states(states))
    noisy2, timesteps2, states2 = (value.clone() for value in (noisy, timesteps, states))
    noisy2[1] += 1
    timesteps2[1] += 100
    states2[1] += 1
    after = model(noisy2, timesteps2, model.encode_states(states2))
    assert torch.equal(before[0], after[0])
    assert (before[1] - after[1]).abs().max() > 1e-2


def test_a_small_model_learns_from_scratch() -> None:
    torch.manual_seed(0)
    model = StateConditionedWan(replace(TINY, lora_rank=0))
    noisy, timesteps, states = inputs()
    assert torch.equal(model(noisy, timesteps, model.encode_states(states)), torch.zeros_like(noisy))
    target = noisy.roll(1, 2) * 0.5 + states.mean((1, 2))[:, None, None, None, None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses: list[float] = []
    for _ in range(30):
        loss = (model(noisy, timesteps, model.encode_states(states)) - target).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


# States


def test_state_features() -> None:
    states = torch.randn(3, 25)
    features = state_features(states)
    assert features.shape == (3, 71)
    c = torch.cat([states[:, :21], states[:, 23:]], 1)
    assert torch.equal(features, torch.cat([c, c.sin(), c.cos(), states[:, 21:23]], 1))


def test_state_encoder_is_the_stated_stack() -> None:
    """The named layers one after another, in the order of challenge-facts 5.4."""
    encoder = StateEncoder(StateEncoderConfig(modulation_width=24, width=16))
    randomise(encoder)
    weights, states = dict(encoder.named_parameters()), torch.randn(2, 21, 25)
    silu, linear = torch.nn.functional.silu, torch.nn.functional.linear

    def layer(x: torch.Tensor, name: str) -> torch.Tensor:
        return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = layer(silu(layer(state_features(states), "compression.0")), "compression.2").transpose(1, 2)
    for first in (0, 3):
        convolution = (weights[f"temporal.{first}.weight"], weights[f"temporal.{first}.bias"])
        norm = (weights[f"temporal.{first + 2}.weight"], weights[f"temporal.{first + 2}.bias"])
        x = torch.nn.functional.conv1d(x, *convolution, stride=2, padding=1)
        x = torch.nn.functional.group_norm(silu(x), 8, *norm)
    x = layer(silu(layer(x.transpose(1, 2), "embedding.0")), "embedding.2")
    expected = layer(silu(x), "projection.1").reshape(2, 6, 6, 24)
    torch.testing.assert_close(encoder(states), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("rows", "num_rows"), [("downsample", 21), ("full", 77)])
def test_state_rows_become_six_steps(rows: Any, num_rows: int) -> None:
    encoder = StateEncoder(StateEncoderConfig(modulation_width=24, width=16, rows=rows))
    assert encoder(torch.zeros(3, num_rows, 25)).shape == (3, 6, 6, 24)
    with pytest.raises(ValueError, match=r"\(3, 21, 24\), not \(B, T, 25\)"):
        encoder(torch.zeros(3, 21, 24))


def test_withheld_states_are_the_token(base: Path) -> None:
    model = build(base, guidance=True)
    randomise_trained(model)
    _, _, states = inputs(batch=3)
    keep = torch.tensor([True, False, False])
    R, every = model.encode_states(states, keep), model.encode_states(states)
    assert torch.equal(R[0], every[0])
    # All withheld clips and all their steps are alike, whatever the states are.
    torch.testing.assert_close(R[1:], R[1:2, :1].expand(2, 6, -1, -1), atol=1e-6, rtol=0)
    assert (R[1] - every[1]).abs().max() > 1e-2
    assert "state_encoder.no_states" in model.trained_tensors()
    plain = build(base)
    assert "state_encoder.no_states" not in plain.state_dict()
    with pytest.raises(ValueError, match="guidance=True"):
        plain.encode_states(states, keep)
    with pytest.raises(ValueError, match="keep must be 3 bools"):
        model.encode_states(states, keep[:2])


# Files


@pytest.mark.parametrize("rank", [0, 4])
def test_save_then_load(base: Path, tmp_path: Path, rank: int) -> None:
    model = build(base, lora_rank=rank, guidance=True, collapse_prompt=True)
    randomise_trained(model)
    model.save_trained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == (
        {"adapter_config.json", "adapter_model.safetensors", ROBOT_FILE} if rank else {"model.safetensors"}
    )
    assert sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) == pytest.approx(
        sum(4 * value.numel() for value in model.trained_tensors().values()), rel=0.3
    )
    torch.manual_seed(99)
    # What is trained as a whole needs no base.
    settings = replace(model.settings, base=str(base) if rank else None)
    other = StateConditionedWan(settings)
    noisy, timesteps, states = inputs()
    expected = model(noisy, timesteps, model.encode_states(states))
    assert (other(noisy, timesteps, other.encode_states(states)) - expected).abs().max() > 1e-2
    identities = {name: id(value) for name, value in other.named_parameters()}
    other.load_trained(tmp_path)
    assert torch.equal(other(noisy, timesteps, other.encode_states(states)), expected)
    # In place: an optimizer that holds the parameters still does.
    assert identities == {name: id(value) for name, value in other.named_parameters()}


def test_peft_and_diffusers_load_the_adapter(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model = build(base)
    randomise_trained(model)
    model.save_trained(tmp_path)
    noisy, timesteps, _ = inputs()
    ours = model(noisy, timesteps)
    wrapped: Any = PeftModel.from_pretrained(reference_of(base), str(tmp_path))
    torch.testing.assert_close(run_reference(wrapped.base_model.model, noisy, timesteps), ours, atol=1e-5, rtol=1e-5)
    reference = reference_of(base)
    reference.load_lora_adapter(str(tmp_path), prefix="base_model.model", weight_name="adapter_model.safetensors")
    torch.testing.assert_close(run_reference(reference, noisy, timesteps), ours, atol=1e-5, rtol=1e-5)
    assert (run_reference(reference_of(base), noisy, timesteps) - ours).abs().max() > 1e-2


def test_the_same_adapter_is_the_same_file(tmp_path: Path) -> None:
    """PEFT's own writer lists the targets in another order in every process."""
    save_lora(torch.nn.Linear(2, 2), tmp_path, rank=4, base=None)
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    assert described["target_modules"] == sorted(TARGETS)
    assert (described["r"], described["lora_alpha"], described["lora_dropout"]) == (4, 4, 0.0)


def test_merged_is_the_same_model(base: Path, tmp_path: Path) -> None:
    model = build(base, collapse_prompt=True)
    randomise_trained(model)
    noisy, timesteps, states = inputs()
    with torch.no_grad():
        expected = model(noisy, timesteps, model.encode_states(states))
        merged = copy.deepcopy(model)
        merged.merge()
        torch.testing.assert_close(
            merged(noisy, timesteps, merged.encode_states(states)), expected, atol=1e-5, rtol=1e-5
        )
    assert not any(is_lora(name) or "base_layer" in name for name, _ in merged.named_parameters())
    assert any(is_lora(name) for name, _ in model.named_parameters())
    with pytest.raises(ValueError, match="merged"):
        merged.save_trained(tmp_path)
    with pytest.raises(ValueError, match="merged"):
        merged.load_trained(tmp_path)


def test_unfit_trained_files_are_refused(base: Path, tmp_path: Path) -> None:
    model = build(base)
    model.save_trained(tmp_path)
    before = {name: value.clone() for name, value in model.trained_tensors().items()}

    def refused(other: StateConditionedWan, pattern: str) -> None:
        with pytest.raises(InputError, match=pattern) as caught:
            other.load_trained(tmp_path)
        assert "\n" not in str(caught.value)

    refused(build(base, lora_rank=8), r"adapter_config.json: r is 4, but this model's adapter has 8")
    refused(build(base, guidance=True), r"robot.safetensors: .*1 missing: state_encoder.no_states")
    refused(build(base, state_width=24), r"of another shape: .*\[16, 71\], not \[24, 71\]")
    refused(build(base, lora_rank=0), r"model.safetensors: is missing")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no")
    randomise_trained(model)
    moved = {name: value.clone() for name, value in model.trained_tensors().items()}
    refused(model, r"adapter_model.safetensors: cannot be read")
    # Nothing was taken from the part that is whole.
    assert all(torch.equal(value, moved[name]) for name, value in model.trained_tensors().items())
    assert not torch.equal(before["state_encoder.embedding.0.weight"], moved["state_encoder.embedding.0.weight"])


@pytest.mark.parametrize("form", ["shards", "bfloat16", "transformer alone"])
def test_every_form_of_a_base(base: Path, tmp_path: Path, form: str) -> None:
    reference = reference_of(base)
    folder = tmp_path / "transformer"
    if form == "shards":
        reference.save_pretrained(folder, max_shard_size="20KB")
        assert len(list(folder.glob("*.safetensors"))) > 2
    elif form == "bfloat16":
        reference.to(torch.bfloat16).save_pretrained(folder)
    else:
        folder = tmp_path
        reference.save_pretrained(folder)
    model = build(folder if form == "transformer alone" else tmp_path)
    for name, value in reference.state_dict().items():
        ours = dict(model.named_parameters())
        parameter = ours.get(name, ours.get(name.replace(".weight", ".base_layer.weight")))
        parameter = ours.get(name.replace(".bias", ".base_layer.bias")) if parameter is None else parameter
        assert parameter is not None and parameter.dtype == torch.float32
        assert torch.equal(parameter, value.float()), name


def test_base_can_be_replaced_under_adapters(base: Path) -> None:
    torch.manual_seed(0)
    model = StateConditionedWan(TINY)
    randomise_trained(model)
    model.set_prompt(prompt_row())
    kept = {name: value.clone() for name, value in model.trained_tensors().items()}
    model.load_base(str(base))
    assert all(torch.equal(value, kept[name]) for name, value in model.trained_tensors().items())
    other = build(base)
    randomise_trained(other)
    noisy, timesteps, states = inputs()
    expected = other(noisy, timesteps, other.encode_states(states))
    assert torch.equal(model(noisy, timesteps, model.encode_states(states)), expected)


def test_unfit_bases_are_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pattern: str, where: Path | str = tmp_path, **changes: Any) -> None:
        with pytest.raises(InputError, match=pattern) as caught:
            build(Path(where), **changes)
        assert "\n" not in str(caught.value)

    refused("num_layers is 2, but num_layers of this model is 3", base, num_layers=3)
    refused("in_channels is 4, but latent_channels of this model is 8", base, latent_channels=8)
    refused("config.json: is missing", tmp_path)
    refused("is neither a folder nor a hub id", tmp_path / "absent")

    folder = tmp_path / "transformer"
    reference = reference_of(base)
    shutil.copytree(base / "transformer", folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    refused("holds 0 safetensors files")
    weights.write_bytes(b"broken")
    refused("cannot be read as safetensors")

    from safetensors.torch import save_file

    tensors = reference.state_dict()
    some = {name: value for name, value in tensors.items() if not name.startswith("blocks.1.ffn")}
    some["extra"] = torch.zeros(1)
    save_file(some, weights)
    refused(r"tensors 4 missing: blocks.1.ffn.net.0.proj.bias, .*, \.\.\.; 1 unexpected: extra$")
    save_file({**tensors, "proj_out.bias": torch.zeros(3)}, weights)
    refused(r"1 of another shape: proj_out.bias \(\[3\], not \[16\]\)")
    weights.unlink()
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"proj_out.bias": "a.safetensors"}}))
    refused("a.safetensors: is missing, but diffusion_pytorch_model.safetensors.index.json lists it")
    index.write_text("{}")
    refused("index.json: weight_map: Field required")

    import huggingface_hub

    def fail(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no\nnet")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match="someone/thing: there is no such folder, and the hub gives none: no net"):
        StateConditionedWan(replace(TINY, base="someone/thing"), permissions=Permissions(download=True))


def test_hub_fetches_the_named_part_only(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[str, str | None, list[str]]] = []

    def fetch(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(base)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    may = Permissions(download=True)
    assert diffusers_folder("someone/thing", "transformer", revision="a" * 40, permissions=may) == base
    assert asked[0][:2] == ("someone/thing", "a" * 40)
    assert all(pattern.startswith("transformer/") for pattern in asked[0][2])


# Mistakes


def test_wrong_shapes_and_options_are_refused(base: Path) -> None:
    model = build(base)
    noisy, timesteps, states = inputs()
    with pytest.raises(ValueError, match=r"timesteps have shape \(2,\), not \(2, 6\)"):
        model(noisy, timesteps[:, 0])
    with pytest.raises(ValueError, match=r"R has shape .*, not \(2, 6, 6, 24\)"):
        model(noisy, timesteps, model.encode_states(states)[:, :5])
    with pytest.raises(ValueError, match="5x6 do not divide into patches of 2x2"):
        model(torch.zeros(2, 4, 6, 5, 6), timesteps)
    with pytest.raises(ValueError, match=r"the prompt has shape \(512, 20\), not \(1, 20\)"):
        model.set_prompt(torch.zeros(512, 20))
    with pytest.raises(ValueError, match="with lora_rank 0 everything trains"):
        WanConfig(lora_rank=0, base_dtype="bfloat16")
    with pytest.raises(ValueError, match="patch_size must start with 1"):
        WanConfig(patch_size=(2, 2, 2))
    with pytest.raises(ValueError, match="num_prompt_rows must be from 2 to"):
        WanConfig(num_prompt_rows=1)
    with pytest.raises(ValueError, match="multiple of 8"):
        StateEncoderConfig(width=12)
