"""The optimiser and its learning-rate schedule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
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


_HAS_MATRIX = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
"""Modules whose `weight` is a matrix of the model, LoRA's among them."""


def decay_groups(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the trained parameters that are decayed and of those that are not.

    Decayed is the `weight` of a linear layer, a convolution or the token embedding. All else is not, however many axes
    it has: biases, norms, gains (`WanRMS_norm.gamma` has four axes), the tables of positions and of modulations
    (`scale_shift_table` and `robot_modulation` have three), the token that stands for no states.
    """
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owner, _, leaf = name.rpartition(".")
            is_matrix = leaf == "weight" and isinstance(model.get_submodule(owner), _HAS_MATRIX)
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
