"""The training loop: the same steps on one CPU and on many nodes, resumed by the same command."""

from __future__ import annotations

import math
import signal
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from foreframe.data.loader import BatchSchedule, ClipDataset, ordered_batches, training_batches
from foreframe.errors import InputError, UsageError
from foreframe.models.weights import checkpoint_folders
from foreframe.tracks.track import MODEL, Loss, Track
from foreframe.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from foreframe.train.journal import Journal
from foreframe.train.optim import OptimConfig, build_optimizer, set_learning_rate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from foreframe.batch import Batch


_LEAST = {
    "num_steps": 1,
    "global_batch_size": 1,
    "micro_batch_size": 1,
    "seed": 0,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
    "log_every": 1,
    "validate_every": 0,
    "num_val_clips": 1,
    "num_workers": 0,
}


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
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")


def accumulation_steps(config: TrainConfig, num_processes: int) -> int:
    """Micro-batches per process and step; `UsageError` if the sizes do not divide."""
    together = config.micro_batch_size * num_processes
    if config.global_batch_size % together:
        raise UsageError(
            f"train.global-batch-size {config.global_batch_size} is not a multiple of train.micro-batch-size "
            f"{config.micro_batch_size} x {num_processes} processes; change one of them"
        )
    return config.global_batch_size // together


class _Objective(nn.Module):
    """The model together with its loss, so that a distributed wrapper sees one forward pass."""

    def __init__(self, track: Track[Any], model: nn.Module) -> None:
        super().__init__()
        self.track = track
        self.model = model

    def forward(self, batch: Batch) -> Loss:
        return self.track.loss(self.model, batch)


def train(
    run: Path,
    *,
    track: Track[Any],
    train_clips: ClipDataset,
    val_clips: ClipDataset | None,
    config: TrainConfig,
    optim: OptimConfig,
    label: str = "train",
) -> bool:
    """Train to `config.num_steps`, from the newest checkpoint in `run` if there is one.

    Returns False if Ctrl-C or SIGTERM asked it to stop early: a checkpoint is written first, and the same call goes
    on from there. The result is the same, bit for bit, as without the stop.
    """
    accelerator = Accelerator(mixed_precision=config.precision)
    num_micro_batches = accumulation_steps(config, accelerator.num_processes)
    torch.manual_seed(config.seed)
    model = track.build()
    optimizer = build_optimizer(model, optim)
    done = Progress()
    if checkpoints := checkpoint_folders(run):
        done = load_checkpoint(checkpoints[-1], track=track, model=model, optimizer=optimizer)
    else:
        track.fit(train_clips)
    objective, optimizer = accelerator.prepare(_Objective(track, model), optimizer)
    schedule = BatchSchedule(num_clips=len(train_clips), global_batch_size=config.global_batch_size, seed=config.seed)
    batches = iter(
        training_batches(
            train_clips,
            schedule,
            steps=range(done.step, config.num_steps),
            micro_batch_size=config.micro_batch_size,
            num_workers=config.num_workers,
            rank=accelerator.process_index,
            num_processes=accelerator.num_processes,
        )
    )
    journal = (
        Journal(run, first_step=done.step, num_steps=config.num_steps, elapsed=done.elapsed, label=label)
        if accelerator.is_main_process
        else None
    )

    def checkpoint(step: int) -> None:
        if accelerator.is_main_process and journal is not None:
            progress = Progress(step=step, elapsed=journal.elapsed)
            raw = getattr(optimizer, "optimizer", optimizer)
            save_checkpoint(run, progress, track=track, model=model, optimizer=raw, keep=config.keep_checkpoints)
        accelerator.wait_for_everyone()

    window: list[dict[str, float]] = []
    step = done.step
    with journal or nullcontext(), _stop_requested() as stop:
        while step < config.num_steps:
            rate = set_learning_rate(optimizer, optim, step, config.num_steps)
            values = _step(accelerator, objective, optimizer, batches, num_micro_batches, config, optim, step)
            step += 1
            window.append(values)
            last = step == config.num_steps
            stopping = _anywhere(accelerator, stop.is_set)
            if journal is not None:
                journal.advance(step, status=f"loss {values['loss']:.4f}")
                if step % config.log_every == 0 or last:
                    means = {name: float(np.mean([row[name] for row in window])) for name in values}
                    journal.write(step, "train", {**means, "learning_rate": rate})
                    window.clear()
            if val_clips is not None and config.validate_every and (step % config.validate_every == 0 or last):
                scores = validate(track, model, val_clips, config, accelerator)
                if journal is not None:
                    journal.write(step, "val", scores)
            if step % config.checkpoint_every == 0 or last or stopping:
                checkpoint(step)
            if stopping and not last:
                if journal is not None:
                    journal.say(f"stopped after step {step}; the same command goes on from there")
                return False
    accelerator.end_training()
    return True


def _step(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: Any,
    batches: Iterator[Batch],
    num_micro_batches: int,
    config: TrainConfig,
    optim: OptimConfig,
    step: int,
) -> dict[str, float]:
    """One optimiser step: forward and backward over the micro-batches, clip, update. Returns the means to log."""
    objective.train()
    totals: dict[str, torch.Tensor] = {}
    for index in range(num_micro_batches):
        # Dropout of step n is the same whether or not the run was stopped before it.
        torch.manual_seed(_seed(config.seed, step, accelerator.process_index, index))
        batch = next(batches).to(accelerator.device)
        last = index == num_micro_batches - 1
        with nullcontext() if last else accelerator.no_sync(objective):
            loss: Loss = objective(batch)
            accelerator.backward(loss.value / num_micro_batches)
        for name, value in {"loss": loss.value.detach(), **loss.logs}.items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value / num_micro_batches
    norm = accelerator.clip_grad_norm_(objective.parameters(), optim.gradient_clip or math.inf)
    assert norm is not None
    values = {name: float(_reduced(accelerator, value, "mean")) for name, value in totals.items()}
    values["gradient_norm"] = float(norm)
    if not all(map(math.isfinite, values.values())):
        raise InputError(
            f"step {step + 1}: the loss or its gradient is not finite ({values}); no checkpoint was written of it. "
            "Lower optim.learning-rate or look at the data with `foreframe data check`, then run the same command"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return values


@torch.no_grad()
def validate(
    track: Track[Any], model: nn.Module, clips: ClipDataset, config: TrainConfig, accelerator: Accelerator
) -> dict[str, float]:
    """Mean of every metric of the model over `num_val_clips` clips spread over the split; processes share the work."""
    count = min(config.num_val_clips, len(clips))
    chosen = np.linspace(0, len(clips) - 1, count).round().astype(int)
    mine = chosen[accelerator.process_index :: accelerator.num_processes].tolist()
    model.eval()
    sums: dict[str, float] = {}
    for batch in ordered_batches(clips, mine, batch_size=config.micro_batch_size):
        moved = batch.to(accelerator.device)
        for name, by_predictor in track.score(model, moved, track.predict(model, moved)).items():
            sums[name] = sums.get(name, 0.0) + float(by_predictor[MODEL].sum())
    parts: list[dict[str, float]] = gather_object([sums])
    return {name: sum(part.get(name, 0.0) for part in parts) / count for name in track.metrics if name in parts[0]}


def _seed(*numbers: int) -> int:
    """A 63-bit seed that differs for every tuple of numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(2, np.uint32).view(np.uint64)[0] >> 1)


def _anywhere(accelerator: Accelerator, is_set: Any) -> bool:
    """Whether any process was asked to stop, agreed by all of them."""
    if accelerator.num_processes == 1:
        return bool(is_set())
    return float(_reduced(accelerator, torch.tensor(float(is_set())), "sum")) > 0


def _reduced(accelerator: Accelerator, value: torch.Tensor, reduction: Literal["mean", "sum"]) -> torch.Tensor:
    """A tensor's mean or sum over all processes."""
    reduced = accelerator.reduce(value.to(accelerator.device), reduction=reduction)
    assert isinstance(reduced, torch.Tensor)
    return reduced


class _Flag:
    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


@contextmanager
def _stop_requested() -> Iterator[_Flag]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop after the step; the second one interrupts at once."""
    flag = _Flag()
    before = {}

    def ask(number: int, _frame: object) -> None:
        flag.set()
        signal.signal(number, before[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.getsignal(number)
            signal.signal(number, ask)
    except ValueError:  # Not the main thread: then whoever runs us handles signals.
        pass
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
