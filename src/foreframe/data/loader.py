"""Which clips each training step sees: a pure function of seed and step, so that a resumed run repeats nothing."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Dataset, Sampler

from foreframe.batch import Batch, collate
from foreframe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

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


class _AsTorch(Dataset[Batch]):
    def __init__(self, clips: ClipDataset) -> None:
        self.clips = clips

    def __getitem__(self, index: int) -> Batch:
        return self.clips[index]


def training_batches(
    clips: ClipDataset,
    schedule: BatchSchedule,
    *,
    steps: range,
    micro_batch_size: int,
    num_workers: int = 0,
    rank: int = 0,
    num_processes: int = 1,
) -> Iterable[Batch]:
    """Micro-batches of the given steps, in order, for one of `num_processes` processes.

    The processes' shares of a step are disjoint and make up the whole step, whatever their number.
    """
    sampler = _MicroBatches(
        schedule, steps=steps, micro_batch_size=micro_batch_size, rank=rank, num_processes=num_processes
    )
    return DataLoader(
        _AsTorch(clips),
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=_leave_signals_to_the_parent,
    )


def _leave_signals_to_the_parent(_worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; the parent still needs its readers for the step it finishes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def ordered_batches(clips: ClipDataset, indices: Sequence[int], *, batch_size: int) -> Iterator[Batch]:
    """The clips named by `indices`, in that order, `batch_size` at a time: for evaluation."""
    for first in range(0, len(indices), batch_size):
        yield collate([clips[index] for index in indices[first : first + batch_size]])
