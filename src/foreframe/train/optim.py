"""The optimiser and its learning-rate schedule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

    from foreframe.train.config import OptimConfig


def learning_rate_factor(config: OptimConfig, step: int, num_steps: int) -> float:
    """Learning rate of step `step` (from 0) as a share of the peak; the last step's is just above zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    progress = min(1.0, progress)
    return 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))


def decay_groups(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the trained parameters that are decayed and of those that are not.

    A matrix is a weight of two or more axes (linear, convolution, token embedding); position tables are not.
    """
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and "position" not in name.rsplit(".", 1)[-1]
            (decayed if is_matrix else kept).append(name)
    return decayed, kept


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW over the two decay groups; set the rate of each step with `set_learning_rate`."""
    parameters = dict(model.named_parameters())
    decayed, kept = decay_groups(model)
    if config.decay == "all":
        decayed, kept = [*decayed, *kept], []
    groups = [
        {"params": [parameters[name] for name in decayed], "weight_decay": config.weight_decay},
        {"params": [parameters[name] for name in kept], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, num_steps: int) -> float:
    """Give every group the rate of step `step`, and return it."""
    rate = config.learning_rate * learning_rate_factor(config, step, num_steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate
