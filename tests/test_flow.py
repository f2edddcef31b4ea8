"""Flow matching and its samplers: the published numbers, identities, diffusers' schedulers, exact solutions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from foreframe.flow import (
    clean_of,
    draw_timesteps,
    flow_matching_loss,
    frame_timesteps,
    inference_sigmas,
    interpolate,
    noise_of,
    timestep_sigmas,
    timestep_weights,
    velocity_of,
)
from foreframe.flow_config import FlowConfig
from foreframe.inference.config import SamplerConfig
from foreframe.inference.flow_sampler import Velocity, sample

SOLVERS = ("euler", "unipc")
CONTEXT, FRAMES = 2, 6


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inputs(batch: int = 2, *, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Context latents and noise."""
    return (
        normal(batch, 3, CONTEXT, 4, 4, seed=1, dtype=dtype),
        normal(batch, 3, FRAMES, 4, 4, seed=2, dtype=dtype),
    )


def toy(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """A velocity field that is neither constant nor linear, and mixes frames as attention would."""
    return torch.tanh(noisy + noisy.mean(2, keepdim=True)) - 0.3 + timesteps[:, None, :, None, None] / 2000


# -- the schedule ------------------------------------------------------------------------------------------------------


def test_training_levels_have_the_published_numbers() -> None:
    timesteps = 1000 * timestep_sigmas(FlowConfig())
    assert timesteps[0] == 1000
    assert timesteps.shape == (1000,) and bool((timesteps.diff() < 0).all())
    assert timesteps.median().item() == pytest.approx(834, abs=1)
    assert (timesteps > 500).double().mean().item() == pytest.approx(0.83, abs=0.005)
    assert timesteps[-1].item() == pytest.approx(1000 * 0.005 / 1.004, rel=1e-12)


def test_weights_have_the_published_numbers() -> None:
    timesteps, weights = 1000 * timestep_sigmas(FlowConfig()), timestep_weights(FlowConfig())
    assert weights[0] == 0 and bool((weights >= 0).all())
    assert weights.mean().item() == pytest.approx(1, rel=1e-12)
    assert weights.max().item() == pytest.approx(2.08, abs=0.005)
    assert timesteps[weights.argmax()].item() == pytest.approx(500, abs=3)
    assert weights[-1].item() == pytest.approx(0.03, abs=0.005)
    # The formula as challenge-facts 5.8 prints it, over timesteps.
    heights = [math.exp(-2 * ((t - 500) / 1000) ** 2) for t in timesteps.tolist()]
    total = sum(height - min(heights) for height in heights)
    expected = [(height - min(heights)) * 1000 / total for height in heights]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))


def test_levels_equal_those_of_diffusers() -> None:
    reference = FlowMatchEulerDiscreteScheduler(shift=5.0)
    torch.testing.assert_close(timestep_sigmas(FlowConfig()).float(), reference.sigmas, rtol=3e-7, atol=0)
    for steps in (1, 10, 20, 100):
        # Left to itself it would shift twice, and never begin at 1 - i/N.
        reference.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
        torch.testing.assert_close(inference_sigmas(steps, FlowConfig()).float(), reference.sigmas, rtol=3e-7, atol=0)


def test_inference_levels() -> None:
    assert inference_sigmas(2, FlowConfig(shift=5.0)).tolist() == [1, pytest.approx(5 / 6), 0]
    assert inference_sigmas(4, FlowConfig(shift=1.0)).tolist() == [1, 0.75, 0.5, 0.25, 0]
    with pytest.raises(ValueError, match="at least 1, not 0"):
        inference_sigmas(0, FlowConfig())
    with pytest.raises(ValueError, match="shift must be"):
        FlowConfig(shift=0)


def test_draws_are_uniform_and_repeatable() -> None:
    config = FlowConfig()
    ids = draw_timesteps(100_000, config, torch.Generator().manual_seed(0))
    assert ids.dtype == torch.int64
    assert ids.min() == 0 and ids.max() == 999
    counts = torch.bincount(ids, minlength=1000).double()
    assert ((counts - 100) ** 2 / 100).sum().item() == pytest.approx(999, abs=5 * math.sqrt(2 * 999))  # chi squared
    assert torch.equal(ids, draw_timesteps(100_000, config, torch.Generator().manual_seed(0)))
    timesteps = 1000 * timestep_sigmas(config)[ids]
    assert timesteps.median().item() == pytest.approx(834, abs=3)
    assert (timesteps > 500).double().mean().item() == pytest.approx(0.83, abs=0.01)


def test_context_frames_are_told_to_be_clean() -> None:
    timesteps = frame_timesteps(torch.tensor([1.0, 0.25], dtype=torch.float64), num_context=2, num_frames=4)
    assert timesteps.dtype == torch.float32
    assert timesteps.tolist() == [[0, 0, 1000, 1000], [0, 0, 250, 250]]


# -- clean, noise, noisy, velocity -------------------------------------------------------------------------------------


def test_velocity_leads_to_clean_and_to_noise() -> None:
    clean, noise = (normal(5, 3, 2, 4, 4, seed=seed, dtype=torch.float64) for seed in (1, 2))
    sigma = torch.tensor([0, 0.1, 0.5, 0.9, 1], dtype=torch.float64)
    noisy, velocity = interpolate(clean, noise, sigma), velocity_of(clean, noise)
    assert torch.equal(noisy[0], clean[0]) and torch.equal(noisy[-1], noise[-1])
    torch.testing.assert_close(clean_of(noisy, velocity, sigma), clean)
    torch.testing.assert_close(noise_of(noisy, velocity, sigma), noise)
    torch.testing.assert_close(interpolate(clean, noise, sigma + 0.01), noisy + 0.01 * velocity)


def test_levels_keep_their_digits_in_half_precision() -> None:
    clean, noise = torch.zeros(1, 8).bfloat16(), torch.ones(1, 8).bfloat16()
    noisy = interpolate(clean, noise, torch.tensor([0.9983], dtype=torch.float64))
    assert noisy.dtype == torch.float32
    assert noisy[0, 0].item() == pytest.approx(0.9983, abs=1e-7)  # 1.0 in bfloat16


def test_loss_is_the_weighted_mean_over_samples() -> None:
    predicted, target = (normal(3, 2, 4, seed=seed) for seed in (1, 2))
    weight = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    expected = sum(
        w * torch.nn.functional.mse_loss(p, t).item()
        for w, p, t in zip(weight.tolist(), predicted, target, strict=True)
    )
    loss = flow_matching_loss(predicted.requires_grad_(), target, weight)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected / 3, rel=1e-6)
    loss.backward()
    assert predicted.grad is not None
    assert not predicted.grad[0].any() and predicted.grad[1].any()
    assert flow_matching_loss(target.bfloat16(), target.bfloat16(), weight) == 0


# -- sampling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 20, 1000])
def test_a_single_clean_point_is_reached(solver: str, steps: int) -> None:
    """If the data are one point, velocity = (noisy - clean) / sigma, and straight lines lead there."""
    context, noise = inputs()
    clean = normal(2, 3, FRAMES, 4, 4, seed=3)

    def velocity(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return (noisy - clean) / (timesteps / 1000).clamp(min=1e-9)[:, None, :, None, None]

    latents = sample(velocity, context=context, noise=noise, config=config_of(solver, steps))
    torch.testing.assert_close(latents[:, :, CONTEXT:], clean[:, :, CONTEXT:], atol=1e-5, rtol=0)


def test_gaussian_data_are_reached_with_each_solvers_order() -> None:
    """Data of deviation d: the velocity is linear in noisy, and noise x ends exactly at d x."""
    deviation = 0.5
    context, noise = inputs(dtype=torch.float64)

    def velocity(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        sigma = timesteps.double()[:, None, :, None, None] / 1000
        variance = sigma**2 + (1 - sigma) ** 2 * deviation**2
        return noisy * (sigma - (1 - sigma) * deviation**2) / variance

    def error(solver: str, steps: int, shift: float) -> float:
        config = replace(config_of(solver, steps), shift=shift)
        latents = sample(velocity, context=context, noise=noise, config=config)
        return (latents - deviation * noise)[:, :, CONTEXT:].abs().max().item()

    # Twice the steps: half the error, or a quarter. Over shifted levels UniPC's order shows only after many steps.
    assert error("euler", 40, 1.0) / error("euler", 80, 1.0) == pytest.approx(2, abs=0.1)
    assert error("unipc", 40, 1.0) / error("unipc", 80, 1.0) == pytest.approx(4, abs=0.4)
    assert error("unipc", 80, 1.0) < error("euler", 80, 1.0) / 20
    assert error("euler", 20, 5.0) / error("euler", 40, 5.0) == pytest.approx(2, abs=0.2)
    assert error("unipc", 20, 5.0) < error("euler", 20, 5.0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 7, 20])
def test_solvers_equal_diffusers(solver: str, steps: int) -> None:
    context, noise = inputs()
    latents = sample(toy, context=context, noise=noise, config=config_of(solver, steps))

    evenly = 1 - np.arange(steps) / steps
    reference: Any
    if solver == "euler":
        reference = FlowMatchEulerDiscreteScheduler(shift=5.0)
    else:
        reference = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    reference.set_timesteps(sigmas=evenly)
    reference.set_begin_index(0)
    expected = noise
    for index in range(steps):
        noisy = torch.cat([context, expected[:, :, CONTEXT:]], 2)
        level = float(5 * evenly[index] / (1 + 4 * evenly[index]))
        velocity = toy(noisy, torch.tensor([[0.0] * CONTEXT + [1000 * level] * (FRAMES - CONTEXT)]))
        expected = reference.step(velocity, reference.timesteps[index], noisy, return_dict=False)[0]
    torch.testing.assert_close(latents[:, :, CONTEXT:], expected[:, :, CONTEXT:], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_context_stays_bit_for_bit(solver: str) -> None:
    context, noise = inputs()
    seen: list[torch.Tensor] = []

    def velocity(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        assert torch.equal(noisy[:, :, :CONTEXT], context)
        assert not timesteps[:, :CONTEXT].any()
        assert timesteps.shape == (2, FRAMES) and bool((timesteps[:, CONTEXT:] == timesteps[0, -1]).all())
        seen.append(timesteps[0, -1])
        result = toy(noisy, timesteps)
        noisy.fill_(7)  # A network that writes over its input does no harm.
        return result

    before = context.clone()
    latents = sample(velocity, context=context, noise=noise, config=config_of(solver, 5))
    assert torch.equal(latents[:, :, :CONTEXT], before) and torch.equal(context, before)
    torch.testing.assert_close(torch.stack(seen).double(), 1000 * inference_sigmas(5, FlowConfig())[:-1])
    other = noise.clone()
    other[:, :, :CONTEXT] = 9
    assert torch.equal(latents, sample(velocity, context=context, noise=other, config=config_of(solver, 5)))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sample_does_not_depend_on_its_batch(solver: str) -> None:
    context, noise = inputs(4)
    together = sample(toy, context=context, noise=noise, config=config_of(solver, 6))
    for index in range(4):
        part = slice(index, index + 1)
        alone = sample(toy, context=context[part], noise=noise[part], config=config_of(solver, 6))
        torch.testing.assert_close(together[part], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_half_precision_networks_are_solved_in_float32(solver: str) -> None:
    context, noise = inputs()

    def half(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        assert noisy.dtype == torch.float32
        return toy(noisy, timesteps).bfloat16()

    def rounded(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return half(noisy, timesteps).float()

    config = config_of(solver, 20)
    latents = sample(half, context=context.bfloat16(), noise=noise.bfloat16(), config=config)
    assert latents.dtype == torch.float32
    assert torch.equal(latents[:, :, :CONTEXT], context.bfloat16().float())
    same = sample(rounded, context=context.bfloat16().float(), noise=noise.bfloat16().float(), config=config)
    assert torch.equal(latents, same)


def test_guidance() -> None:
    context, noise = inputs()

    def never(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the unconditional pass ran at scale 1")

    def other(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * noisy)

    def run(velocity: Velocity, scale: float, unconditional: Velocity | None = None) -> torch.Tensor:
        config = SamplerConfig(num_inference_steps=4, guidance_scale=scale)
        return sample(velocity, context=context, noise=noise, config=config, unconditional=unconditional)

    def guided(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        u, c = other(noisy, timesteps), toy(noisy, timesteps)
        return u + 1.5 * (c - u)

    plain = run(toy, 1.0)
    assert torch.equal(run(toy, 1.0, never), plain)
    assert torch.equal(run(toy, 1.5, other), run(guided, 1.0))
    torch.testing.assert_close(run(toy, 0.0, other), run(other, 1.0))
    torch.testing.assert_close(run(toy, 3.0, toy), plain)
    assert not torch.allclose(run(toy, 1.5, other), plain)
    with pytest.raises(ValueError, match=r"scale of 1\.5 needs an unconditional pass"):
        run(toy, 1.5)


def test_what_does_not_fit_is_refused() -> None:
    context, noise = inputs()
    for wrong in (noise[:1], noise[:, :, :CONTEXT], noise[..., :2]):
        with pytest.raises(ValueError, match="does not continue a context"):
            sample(toy, context=context, noise=wrong, config=SamplerConfig())
    with pytest.raises(ValueError, match="solver must be euler or unipc, not 'heun'"):
        SamplerConfig(solver="heun")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="num_inference_steps must be"):
        SamplerConfig(num_inference_steps=0)


def config_of(solver: str, steps: int) -> SamplerConfig:
    return SamplerConfig(num_inference_steps=steps, solver=solver)  # pyright: ignore[reportArgumentType]
