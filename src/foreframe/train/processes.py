"""Which device and which processes a run has: CUDA where there is one, else the CPU, alone or under `torchrun`."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator


def start_accelerator() -> Accelerator:
    """An accelerator that agrees with the launcher about the number of processes.

    Without CUDA the CPU is named outright: else accelerate would take an Apple GPU, which has no float64, and would
    not join the processes that `torchrun` started. Precision and accumulation are the loop's own business.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    assert accelerator.num_processes == launched, f"{accelerator.num_processes} processes joined of {launched} launched"
    return accelerator
