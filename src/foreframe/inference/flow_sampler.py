"""From noise to latents: the velocity followed from level to level, the context held clean (challenge-facts 5.9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from foreframe.flow import frame_timesteps, inference_sigmas
from foreframe.flow_config import FlowConfig

if TYPE_CHECKING:
    from foreframe.inference.config import SamplerConfig

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""noisy latents (B, C, F, h, w) and timesteps (B, F) in 0..1000 -> velocity (B, C, F, h, w), of any dtype."""


@torch.no_grad()
def sample(
    velocity: Velocity,
    *,
    context: torch.Tensor,
    noise: torch.Tensor,
    config: SamplerConfig,
    unconditional: Velocity | None = None,
) -> torch.Tensor:
    """Latents (B, C, F, h, w) that begin with `context`, bit for bit: the solver only ever sees the frames after it.

    The solver works in float32, or float64 if it is given that, whatever the network computes and returns.

    Args:
        velocity: The network, given the states.
        context: (B, C, Fc, h, w) clean latents of the frames that are known.
        noise: (B, C, F, h, w) standard normal; its first Fc frames are not used.
        config: Steps, solver, guidance.
        unconditional: The network without the states; called only if the guidance scale is not 1, and then
            guided = unconditional + scale (conditional - unconditional).
    """
    num_context, num_frames = context.shape[2], noise.shape[2]
    if context.shape[:2] + context.shape[3:] != noise.shape[:2] + noise.shape[3:] or num_context >= num_frames:
        raise ValueError(f"noise {tuple(noise.shape)} does not continue a context of {tuple(context.shape)}")
    if config.guidance_scale != 1 and unconditional is None:
        raise ValueError(f"a guidance scale of {config.guidance_scale} needs an unconditional pass")
    dtype = torch.promote_types(noise.dtype, torch.float32)
    context, future = context.to(dtype), noise[:, :, num_context:].to(dtype)
    sigmas = inference_sigmas(config.num_inference_steps, FlowConfig(shift=config.shift))
    step = _solver_steps(config, sigmas)
    for sigma in sigmas[:-1].tolist():
        noisy = torch.cat([context, future], 2)
        levels = torch.full((len(noise),), sigma, dtype=torch.float64, device=noise.device)
        timesteps = frame_timesteps(levels, num_context=num_context, num_frames=num_frames)
        direction = velocity(noisy, timesteps).to(dtype)
        if config.guidance_scale != 1 and unconditional is not None:
            without = unconditional(noisy, timesteps).to(dtype)
            direction = without + config.guidance_scale * (direction - without)
        future = step(direction[:, :, num_context:], future)
    return torch.cat([context, future], 2)


def _solver_steps(config: SamplerConfig, sigmas: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A function (velocity, noisy) -> noisy at the next level, to be called once for each level in turn."""
    if config.solver == "unipc":
        from foreframe.models.unipc import unipc_steps

        return unipc_steps(sigmas)
    widths = iter(sigmas.diff().tolist())
    return lambda velocity, noisy: noisy + velocity * next(widths)
