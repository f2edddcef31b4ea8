"""The UniPC solver through diffusers, on noise levels of the caller's choice (challenge-facts 5.1, 5.9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


def unipc_steps(sigmas: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A function (velocity, noisy) -> noisy at the next level, to be called once for each level in turn.

    Wan's setting: from velocities to clean samples, order 2 with corrector, variant bh2, order 1 in the last step.

    Args:
        sigmas: (N + 1,) from 1 to 0. They are used as they are, but for the first: at 1 the logarithm of the
            signal-to-noise ratio is infinite, so diffusers lowers it by 1e-6.
    """
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    # Its own shift stays 1, which changes nothing: the levels come shifted.
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", solver_order=2, solver_type="bh2", use_flow_sigmas=True, flow_shift=1.0
    )
    levels: Any = sigmas[:-1].cpu().double().numpy()  # Annotated as a list, and computed with as an array.
    scheduler.set_timesteps(sigmas=levels)
    # Steps are counted, not looked up by timestep: diffusers rounds those to integers, and near ones would coincide.
    scheduler.set_begin_index(0)

    def step(velocity: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
        return scheduler.step(velocity, scheduler.timesteps[0], noisy, return_dict=False)[0]

    return step
