"""How a run is trained: length, batch, precision, optimiser; no torch is imported here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from foreframe.errors import require


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, in what pieces and how often to look."""

    num_steps: int = 1000
    """Optimiser steps in all."""
    global_batch_size: int = 8
    """Clips per step over all processes; accumulation is derived from it and must divide."""
    micro_batch_size: int = 8
    """Clips in memory at once on one device."""
    seed: int = 0
    """Seeds initialisation, data order and dropout."""
    precision: Literal["no", "bf16"] = "no"
    """`no` trains in float32; `bf16` runs forward and backward under bfloat16 autocast."""
    compile: bool = False
    """Let torch.compile fuse the model's forward and backward: a minute or more before the first step, then faster
    ones. Needs a C++ compiler on a CPU. Sums are rounded otherwise than without it."""
    checkpoint_every: int = 200
    """Steps between checkpoints; the last step always gets one."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay."""
    log_every: int = 10
    """Steps between lines of the training curve; each is a mean over the steps since the last."""
    validate_every: int = 100
    """Steps between validations; 0 for none."""
    num_val_clips: int = 16
    """Validation clips, spread evenly over the split."""
    num_workers: int = 0
    """Reader processes per training process."""

    def __post_init__(self) -> None:
        counts = (
            "global_batch_size",
            "micro_batch_size",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
        )
        require(self, **dict.fromkeys((*counts, "num_val_clips"), (1, math.inf)))
        require(self, validate_every=(0, math.inf), num_workers=(0, 1024), seed=(0, 2**32 - 1))
        require(self, num_steps=(1, 10**8 - 1))  # eight digits name a checkpoint


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and a schedule. The defaults are the compression entry's (report, section 3.2)."""

    learning_rate: float = 8e-4
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """From the peak to zero at the last step, or constant, after the warm-up."""
    warmup_steps: int = 2000
    """Optimiser steps from zero to the peak."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Adam's running-average factors."""
    eps: float = 1e-8
    """Adam's denominator term (*assumed*)."""
    weight_decay: float = 0.05
    """Decoupled decay."""
    decay: Literal["matrices", "all"] = "matrices"
    """What is decayed: matrices but no biases, norms, gains or tables of positions (report, section 3.2) or, *assumed*,
    of modulations; or everything trained, as in the sampling entry's script (challenge-facts 5.7, [team])."""
    gradient_clip: float = 1.0
    """Largest total gradient norm; 0 switches clipping off (*assumed*)."""

    def __post_init__(self) -> None:
        require(
            self,
            learning_rate=(0, 1e6),
            warmup_steps=(0, math.inf),
            eps=(0, 1),
            weight_decay=(0, 1e6),
            gradient_clip=(0, math.inf),
        )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be from 0 to below 1, not {self.betas}")
