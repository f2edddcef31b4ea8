"""Which clips each training step sees: a pure function of seed and step, so that a resumed run repeats nothing."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Dataset, Sampler

from foreframe.batch import Batch, collate
from foreframe.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from foreframe.batch import ClipId


class ClipDataset(Protocol):
    """Addresses first, pixels later: `clips[i]` is where clip i lies, `dataset[i]` reads it as a batch of one."""

    @property
    def clips(self) -> Sequence[ClipId]:
        """Addresses of all clips."""
        ...

    @property
    def skipped(self) -> Mapping[int, str]:
        """Shards left out because they are broken, and why: empty unless that was asked for."""
        ...

    @property
    def encoded_fingerprint(self) -> str | None:
        """Which tokens or latents these are, to the bit; None for video, and for tokens that were not made here."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Batch: ...


@dataclass(frozen=True, kw_only=True)
class BatchSchedule:
    """The clips of every step: epochs of fresh permutations laid end to end and cut into global batches."""

    num_clips: int
    """Clips in the training split."""
    global_batch_size: int
    """Clips per optimiser step over all processes."""
    seed: int
    """Seed of the permutations."""
    _orders: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict[int, "npt.NDArray[np.int64]"], repr=False)
    """The last epoch's permutation: drawing millions of clips anew for each step would show."""

    def __post_init__(self) -> None:
        if self.num_clips < 1:
            raise InputError("there is no clip to train on: every recording is shorter than a clip")

    def indices(self, step: int) -> npt.NDArray[np.int64]:
        """Clip numbers (global_batch_size,) of optimiser step `step`, counted from 0."""
        positions = step * self.global_batch_size + np.arange(self.global_batch_size)
        epochs, places = np.divmod(positions, self.num_clips)
        chosen = np.empty(self.global_batch_size, dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen[epochs == epoch] = self._order(int(epoch))[places[epochs == epoch]]
        return chosen

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = np.random.default_rng((self.seed, epoch)).permutation(self.num_clips)
        return self._orders[epoch]


class _MicroBatches(Sampler[list[int]]):
    """This process's share of every step from `first_step` on, in pieces of `micro_batch_size`."""

    def __init__(
        self, schedule: BatchSchedule, *, steps: range, micro_batch_size: int, rank: int, num_processes: int
    ) -> None:
        self.schedule, self.steps = schedule, steps
        self.micro_batch_size, self.rank, self.num_processes = micro_batch_size, rank, num_processes

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            mine = self.schedule.indices(step)[self.rank :: self.num_processes]
            for first in range(0, len(mine), self.micro_batch_size):
                yield mine[first : first + self.micro_batch_size].tolist()


class _Readings(Dataset[Any]):
    """Whole micro-batches, or what went wrong with one, as a value: an exception that leaves a worker becomes text."""

    def __init__(self, clips: ClipDataset) -> None:
        self.clips = clips

    def __getitems__(self, indices: list[int]) -> Batch | Exception:
        try:
            return collate([self.clips[index] for index in indices])
        except (ValueError, OSError, EOFError, MemoryError) as error:
            return _told_anywhere(error)


def _told_anywhere(error: Exception) -> Exception:
    """The same error in a form that survives the way from one process to another."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, None if error.filename is None else str(error.filename))
    kind = next((kind for kind in (UsageError, MemoryError) if isinstance(error, kind)), InputError)
    return kind(str(error))


def _as_it_is(reading: Any) -> Any:
    return reading


@contextmanager
def training_batches(
    clips: ClipDataset,
    schedule: BatchSchedule,
    *,
    steps: range,
    micro_batch_size: int,
    num_workers: int = 0,
    rank: int = 0,
    num_processes: int = 1,
) -> Generator[Iterator[Batch], None, None]:
    """Micro-batches of the given steps, in order, for one of `num_processes` processes.

    The processes' shares of a step are disjoint and make up the whole step, whatever their number. What cannot be read
    is the same error with workers and without, at the same step; whichever way the body ends, so do the workers. One
    that dies is an `InputError`.
    """
    sampler = _MicroBatches(
        schedule, steps=steps, micro_batch_size=micro_batch_size, rank=rank, num_processes=num_processes
    )
    readings = iter(
        DataLoader(
            _Readings(clips),
            batch_sampler=sampler,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            worker_init_fn=_leave_signals_to_the_parent,
        )
    )
    try:
        yield _raised(readings)
    except RuntimeError as error:
        # Torch says so wherever the process happens to be when a worker ends.
        if not str(error).startswith("DataLoader worker"):
            raise
        reason = str(error).partition(". ")[0].removeprefix("DataLoader ").rstrip(". ")
        raise InputError(
            f"a reader process has died ({reason}), as when memory runs out; the same command goes on from the last "
            f"checkpoint, --train.num-workers {num_workers - 1} needs less memory"
        ) from error
    finally:
        if num_workers:
            _end_workers(readings)


def _raised(readings: Iterator[Batch | Exception]) -> Iterator[Batch]:
    for reading in readings:
        if isinstance(reading, Exception):
            raise reading
        yield reading


_PATIENCE = 5.0
"""Seconds in which a loader's processes may end by themselves: one may be waiting for a drive that is gone."""


def _end_workers(readings: Any) -> None:
    """End a loader's processes: by torch's own way, and those that do not hear it within `_PATIENCE`, at once.

    Without it an error would keep the process for ever: at its exit it waits for workers, which ignore SIGTERM.
    """

    def kill() -> None:
        for worker in readings._workers:
            if worker.is_alive():
                worker.kill()

    deadline = threading.Timer(_PATIENCE, kill)
    deadline.start()
    try:
        with suppress(RuntimeError):  # by which torch tells of those that were killed
            readings._shutdown_workers()
    finally:
        deadline.cancel()
        kill()


def _leave_signals_to_the_parent(_worker: int) -> None:
    """Ctrl-C or a hang-up reaches every process of the terminal, and a scheduler's signals every process of a job.

    The parent still needs its readers for the step that it finishes, and ends them itself.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        if name in signal.Signals.__members__:  # Windows has not all of them
            signal.signal(signal.Signals[name], signal.SIG_IGN)


def ordered_batches(clips: ClipDataset, indices: Sequence[int], *, batch_size: int) -> Iterator[Batch]:
    """The clips named by `indices`, in that order, `batch_size` at a time: for evaluation."""
    for first in range(0, len(indices), batch_size):
        yield collate([clips[index] for index in indices[first : first + batch_size]])
