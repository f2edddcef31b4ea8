"""The training loop: the same steps on one CPU and on many nodes, resumed by the same command."""

from __future__ import annotations

import math
import signal
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn

from foreframe.data.loader import BatchSchedule, ClipDataset, ordered_batches, training_batches
from foreframe.errors import InputError, Stopped, UsageError
from foreframe.models.weights import checkpoint_folders
from foreframe.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from foreframe.train.journal import Journal
from foreframe.train.optim import build_optimizer, set_learning_rate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from accelerate import Accelerator

    from foreframe.batch import Batch
    from foreframe.tracks.track import Loss, Track
    from foreframe.train.config import OptimConfig, TrainConfig


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
    """The model together with its loss and precision, so that a distributed wrapper sees one forward pass."""

    def __init__(self, track: Track[Any], model: nn.Module, config: TrainConfig) -> None:
        super().__init__()
        self.track = track
        self.model = model
        self.precision = config.precision
        # In a tuple, so that its parameters, which are the model's, are not found twice.
        self.called = (torch.compile(model) if config.compile else model,)

    def forward(self, batch: Batch) -> Loss:
        with torch.autocast(batch.states.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.track.loss(self.called[0], batch)


def train(
    run: Path,
    *,
    track: Track[Any],
    train_clips: ClipDataset,
    val_clips: ClipDataset | None,
    data_fingerprint: str,
    config: TrainConfig,
    optim: OptimConfig,
    accelerator: Accelerator,
    label: str = "train",
) -> None:
    """Train to `config.num_steps`, from the newest checkpoint in `run` if there is one.

    Raises `Stopped` if a signal (`_STOPPING`) asked it to stop early: a checkpoint is written first, and the same call
    goes on from there. Weights and curves are then the same, bit for bit, as without the stop. `data_fingerprint` names
    the training data in every checkpoint.
    """
    num_micro_batches = accumulation_steps(config, accelerator.num_processes)
    if config.compile:
        _check_compiler(accelerator.device)
    torch.manual_seed(config.seed)
    model = track.build()
    optimizer = build_optimizer(model, optim)
    done = Progress(data_fingerprint=data_fingerprint)
    if checkpoints := checkpoint_folders(run):
        done = load_checkpoint(checkpoints[-1], track=track, model=model, optimizer=optimizer)
    else:
        track.start(model)
        track.fit(train_clips)
    objective, optimizer = accelerator.prepare(_Objective(track, model, config), optimizer)
    schedule = BatchSchedule(num_clips=len(train_clips), global_batch_size=config.global_batch_size, seed=config.seed)
    step, window = done.step, list(done.window)
    with (
        _stop_requested() as stop,
        _journal(run, done, config, accelerator, label=label) as journal,
        training_batches(
            train_clips,
            schedule,
            steps=range(step, config.num_steps),
            micro_batch_size=config.micro_batch_size,
            num_workers=config.num_workers,
            rank=accelerator.process_index,
            num_processes=accelerator.num_processes,
        ) as batches,
    ):
        if journal is not None and config.precision == "bf16" and not has_fast_bfloat16(accelerator.device):
            journal.say("this CPU has no bfloat16 arithmetic and imitates it: --train.precision no will be far faster")
        while step < config.num_steps:
            rate = set_learning_rate(optimizer, optim, step, config.num_steps)
            values = _step(accelerator, objective, optimizer, batches, num_micro_batches, config, optim, step)
            step += 1
            window.append(values)
            last = step == config.num_steps
            stopping = _anywhere(accelerator, stop.number)
            if step % config.log_every == 0 or last:
                means = {name: float(np.mean([row[name] for row in window])) for name in values}
                window.clear()
                if journal is not None:
                    journal.write(step, "train", {**means, "learning_rate": rate})
            if journal is not None:
                journal.advance(step, status=f"loss {values['loss']:.4f}")
            if val_clips is not None and config.validate_every and (step % config.validate_every == 0 or last):
                scores = validate(track, model, val_clips, config, accelerator)
                if journal is not None:
                    journal.write(step, "val", scores)
            if step % config.checkpoint_every == 0 or last or stopping:
                _check_finite(model, step)
                if journal is not None:
                    reached = Progress(
                        step=step, elapsed=journal.elapsed, window=tuple(window), data_fingerprint=data_fingerprint
                    )
                    inner = getattr(optimizer, "optimizer", optimizer)
                    keep = config.keep_checkpoints
                    save_checkpoint(run, reached, track=track, model=model, optimizer=inner, keep=keep)
                accelerator.wait_for_everyone()
            if stopping and not last:
                if journal is not None:
                    journal.say(f"stopped after step {step}; the same command goes on from there")
                raise Stopped(stopping)


@contextmanager
def _journal(
    run: Path, done: Progress, config: TrainConfig, accelerator: Accelerator, *, label: str
) -> Iterator[Journal | None]:
    """The run's journal, for the one process that writes it."""
    if not accelerator.is_main_process:
        yield None
        return
    with Journal(run, first_step=done.step, num_steps=config.num_steps, elapsed=done.elapsed, label=label) as journal:
        yield journal


def _check_compiler(device: torch.device) -> None:
    """Compile a line, so that a machine that cannot says so before an hour of preparation and not after."""
    try:
        torch.compile(torch.square)(torch.ones(1, device=device))
    except Exception as error:  # whatever a compiler, its driver or the system raises
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"train.compile: torch.compile does not work here ({reason}); a CPU needs a C++ compiler (Debian: apt-get "
            "install g++), or leave the option out"
        ) from error


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 itself; a CPU without AVX-512 or its like takes a hundred times as long."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return device.type != "cpu" or supported is None or bool(supported())


def _check_finite(model: nn.Module, step: int) -> None:
    """Nothing that is not a number is ever saved as the newest checkpoint."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise InputError(
                f"step {step}: {name} is not finite, so no checkpoint was written; train anew into another folder with "
                "a lower optim.learning-rate"
            )


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
        batch = replace(next(batches), seed=_seed(config.seed, step)).to(accelerator.device)
        last = index == num_micro_batches - 1
        with nullcontext() if last else accelerator.no_sync(objective):
            loss: Loss = objective(batch)
            (loss.value / num_micro_batches).backward()
        for name, value in {"loss": loss.value.detach(), **loss.logs}.items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value / num_micro_batches
    norm = accelerator.clip_grad_norm_(objective.parameters(), optim.gradient_clip or math.inf)
    assert norm is not None
    values = {name: float(_reduced(accelerator, value, "mean")) for name, value in totals.items()}
    values["gradient_norm"] = float(norm)
    if not all(map(math.isfinite, values.values())):
        raise InputError(
            f"step {step + 1}: the loss or its gradient is not finite ({values}), so no checkpoint was written; look "
            "at the data, or train anew into another folder with a lower optim.learning-rate"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return values


@torch.no_grad()
def validate(
    track: Track[Any], model: nn.Module, clips: ClipDataset, config: TrainConfig, accelerator: Accelerator
) -> dict[str, float]:
    """Mean of the model's metrics, but for details, over `num_val_clips` clips spread over the split.

    Processes share the work.
    """
    count = min(config.num_val_clips, len(clips))
    chosen = np.linspace(0, len(clips) - 1, count).round().astype(int)
    mine = chosen[accelerator.process_index :: accelerator.num_processes].tolist()
    model.eval()
    sums: dict[str, float] = {}
    for batch in ordered_batches(clips, mine, batch_size=config.micro_batch_size):
        moved = batch.to(accelerator.device)
        for name, values in track.score(model, moved, track.predict(model, moved, quick=True)).items():
            sums[name] = sums.get(name, 0.0) + float(values.sum())
    parts: list[dict[str, float]] = gather_object([sums])
    kept = (name for name, metric in track.metrics.items() if name in parts[0] and not metric.detail)
    return {name: sum(part.get(name, 0.0) for part in parts) / count for name in kept}


def _seed(*numbers: int) -> int:
    """A 63-bit seed that differs for every tuple of numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(2, np.uint32).view(np.uint64)[0] >> 1)


def _anywhere(accelerator: Accelerator, number: int) -> int:
    """The signal that asked any process to stop, agreed by all of them; 0 for none, of several the highest."""
    if accelerator.num_processes == 1:
        return number
    gathered: Any = accelerator.gather(torch.tensor([number], device=accelerator.device))
    return int(gathered.max())


def _reduced(accelerator: Accelerator, value: torch.Tensor, reduction: Literal["mean", "sum"]) -> torch.Tensor:
    """A tensor's mean or sum over all processes."""
    reduced = accelerator.reduce(value.to(accelerator.device), reduction=reduction)
    assert isinstance(reduced, torch.Tensor)
    return reduced


_STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Signals that ask for a checkpoint and an end: Ctrl-C, a scheduler's two, and a terminal that is gone."""


_URGENT = ("SIGINT", "SIGTERM")
_REPEATED_WITHIN = 1.0
"""Seconds within which a second signal is the first one's echo: `timeout` and schedulers signal a process and then its
group."""


class _Request:
    """Whether a signal asked training to stop, and the handler that notes it."""

    def __init__(self) -> None:
        self.number = 0
        """The first signal; 0 while there is none."""
        self._urgent_since = math.inf
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Catch the signals, but for those that are ignored at the start, as SIGHUP is under nohup."""
        for name in _STOPPING:
            if name not in signal.Signals.__members__:  # Windows has not all of them
                continue
            number = signal.Signals[name]
            # A shell without jobs ignores Ctrl-C for what it runs behind, where `kill -INT` is still meant.
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Handlers as they were before `listen`."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        self.number = self.number or number
        # A second SIGHUP means no more than the first: shell and system both send one when a terminal closes.
        if signal.Signals(number).name in _URGENT:
            if time.monotonic() > self._urgent_since + _REPEATED_WITHIN:
                self.restore()
                signal.raise_signal(number)
            self._urgent_since = min(self._urgent_since, time.monotonic())


@contextmanager
def _stop_requested() -> Iterator[_Request]:
    """Turn a signal into a request to stop after the step; another Ctrl-C or SIGTERM interrupts at once."""
    request = _Request()
    # Signals can be caught in the main thread only; elsewhere whoever runs us handles them.
    if threading.current_thread() is threading.main_thread():
        request.listen()
    try:
        yield request
    finally:
        request.restore()
