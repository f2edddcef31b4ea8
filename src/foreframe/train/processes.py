"""Which device and which processes a run has: CUDA where there is one, else the CPU, alone or under `torchrun`."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator


def start_accelerator() -> Accelerator:
    """An accelerator that agrees with the launcher about the number of processes.

    Without CUDA the CPU is named outright: else accelerate would take an Apple GPU, which has no float64, and would
    not join the processes that `torchrun` started. Mixed precision and accumulation are the loop's own business;
    float32 means float32 from here on (`keep_float32`).
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    assert accelerator.num_processes == launched, f"{accelerator.num_processes} processes joined of {launched} launched"
    keep_float32()
    return accelerator


def local_device() -> torch.device:
    """The device of a process that joins no others, in which float32 means float32: its own CUDA device, or the CPU."""
    keep_float32()
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def keep_float32() -> None:
    """Compute float32 products in float32 on CUDA, not in TF32, which keeps 10 of their 23 bits.

    cuDNN's convolutions take TF32 unless told not to: those of the frozen autoencoder, the tokenizer and the state
    encoder. Matrix products do not by default; that they do not is said here too.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
