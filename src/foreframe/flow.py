"""Flow matching on straight lines: noise levels, velocities and the weighted loss (challenge-facts 5.8, 5.9).

A noisy sample lies on the line from clean to noise, `noisy = (1 - sigma) clean + sigma noise`, and the network learns
the line's direction, `velocity = noise - clean`. One schedule serves both ways: training draws one of its levels, and
inference walks down a thinned copy of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from foreframe.flow_config import FlowConfig

TIMESTEP_SCALE = 1000.0
"""What networks are told is `timestep = 1000 sigma`, however many levels the schedule has."""


# -- the schedule ------------------------------------------------------------------------------------------------------


def timestep_sigmas(config: FlowConfig) -> torch.Tensor:
    """The noise level of each timestep id, falling from 1: float64 (num_timesteps,).

    s = 1 - id / num_timesteps; sigma = shift s / (1 + (shift - 1) s). Zero is not among them.
    """
    return inference_sigmas(config.num_timesteps, config)[:-1]


def inference_sigmas(num_inference_steps: int, config: FlowConfig) -> torch.Tensor:
    """The levels that a sampler walks down, from 1 to 0 with both ends: float64 (num_inference_steps + 1,).

    s = 1 - i / num_inference_steps, shifted as in training.
    """
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps must be at least 1, not {num_inference_steps}")
    s = 1 - torch.arange(num_inference_steps + 1, dtype=torch.float64) / num_inference_steps
    return config.shift * s / (1 + (config.shift - 1) * s)


def timestep_weights(config: FlowConfig) -> torch.Tensor:
    """The weight of each timestep id in the loss: float64 (num_timesteps,), mean 1.

    y = exp(-2 (sigma - 1/2)^2), weight = (y - min y) / mean(y - min y): middle levels count most, pure noise nothing.
    """
    heights = torch.exp(-2 * (timestep_sigmas(config) - 0.5).square())
    heights = heights - heights.min()
    return heights / heights.mean()


def draw_timesteps(num: int, config: FlowConfig, generator: torch.Generator) -> torch.Tensor:
    """Timestep ids, each as likely as any other: int64 (num,) on the generator's device."""
    return torch.randint(config.num_timesteps, (num,), generator=generator, device=generator.device)


def frame_timesteps(sigma: torch.Tensor, *, num_context: int, num_frames: int) -> torch.Tensor:
    """What the network is told about each latent frame: sigma (B,) -> float32 (B, num_frames).

    0 for the context frames, which are clean, and 1000 sigma for those after them (challenge-facts 5.3).
    """
    timesteps = (sigma * TIMESTEP_SCALE).float()[:, None].repeat(1, num_frames)
    timesteps[:, :num_context] = 0
    return timesteps


# -- clean, noise, noisy, velocity -------------------------------------------------------------------------------------
# Samples are (B, ...), sigma is (B,). What sigma enters is float32 at least, also if the samples are half-precision.


def interpolate(clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The point at sigma of the way: noisy = (1 - sigma) clean + sigma noise."""
    sigma = _along(sigma, clean)
    return (1 - sigma) * clean + sigma * noise


def velocity_of(clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """What the network is to predict, the same at every sigma: velocity = noise - clean."""
    return noise - clean


def clean_of(noisy: torch.Tensor, velocity: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Where the line begins, if the velocity is right: clean = noisy - sigma velocity."""
    return noisy - _along(sigma, noisy) * velocity


def noise_of(noisy: torch.Tensor, velocity: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Where the line ends, if the velocity is right: noise = noisy + (1 - sigma) velocity."""
    return noisy + (1 - _along(sigma, noisy)) * velocity


def flow_matching_loss(predicted: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean over samples of weight times mean squared error: velocities (B, ...) and weight (B,) -> float32 scalar.

    Pass the frames that are to be predicted only: over context frames the error means nothing (challenge-facts 5.8).
    """
    errors = (predicted.float() - target.float()).square().flatten(1).mean(1)
    return (errors * weight.to(errors)).mean()


def _along(sigma: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """Sigma (B,) shaped for samples (B, ...), at least in float32: bfloat16 has 3 digits for 1,000 levels."""
    dtype = torch.promote_types(samples.dtype, torch.float32)
    return sigma.to(samples.device, dtype).reshape(-1, *[1] * (samples.ndim - 1))
