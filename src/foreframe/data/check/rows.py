"""Checks of the numbers in a data set: states, segment ids and tokens, file by file and over all shards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from foreframe.data.check.video import place, runs
from foreframe.data.layout import FETCH_AGAIN, TOKEN_BLOCK_GRIDS
from foreframe.states import CHANNELS, NUM_CHANNELS

if TYPE_CHECKING:
    from foreframe.data.check.findings import Report
    from foreframe.data.hints import Array

_PIECE = 1 << 16
"""Rows looked at at once."""
ROW_BYTES = NUM_CHANNELS * 4
"""Bytes of a row of states."""
_LIMITS = np.array([{"angle": 4 * np.pi, "closure": 2.0, "velocity": 20.0}[channel.kind] for channel in CHANNELS])
"""Two turns, twice shut, and faster than any humanoid."""


@dataclass
class ChannelRanges:
    """Least and largest value of each channel over rows seen so far, and which channels were always alike."""

    low: npt.NDArray[np.float32] = field(default_factory=lambda: np.full(NUM_CHANNELS, np.inf, np.float32))
    high: npt.NDArray[np.float32] = field(default_factory=lambda: np.full(NUM_CHANNELS, -np.inf, np.float32))
    num_rows: int = 0
    num_recordings: int = 0

    def add(self, rows: npt.NDArray[np.float32]) -> None:
        """Take in rows (n, 25)."""
        self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))
        self.num_rows += len(rows)

    def merge(self, other: ChannelRanges) -> None:
        """Take in what another has seen."""
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.num_rows += other.num_rows
        self.num_recordings += other.num_recordings

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """(25,) channels that have one value."""
        return self.low == self.high


def check_states(states: Array, name: str, report: Report) -> ChannelRanges:
    """Look at every row of (N, 25)."""
    ranges = ChannelRanges()
    wrong: list[tuple[int, int]] = []
    far: dict[int, tuple[int, float, int]] = {}
    for start in range(0, len(states), _PIECE):
        rows = np.asarray(states[start : start + _PIECE]).astype(np.float32)
        finite = np.isfinite(rows)
        if not finite.all():
            wrong += [(start + int(row), int(channel)) for row, channel in np.argwhere(~finite)[:10000]]
            rows = np.where(finite, rows, 0)
            ranges.add(rows[finite.all(1)]) if finite.all(1).any() else None
        else:
            ranges.add(rows)
        beyond = np.abs(rows) > _LIMITS
        for channel in np.flatnonzero(beyond.any(0)).tolist():
            row = int(beyond[:, channel].argmax())
            first, value, count = far.get(channel, (start + row, float(rows[row, channel]), 0))
            far[channel] = (first, value, count + int(beyond[:, channel].sum()))
    for channel in sorted({channel for _, channel in wrong}):
        for first, last in runs([row for row, other in wrong if other == channel]):
            value = float(states[first][channel])
            report.add(
                "states-not-finite",
                name,
                where_cell(first, last, channel),
                f"is {value}; leave the rows out, or {FETCH_AGAIN}",
            )
    for channel, (row, value, count) in far.items():
        hint = {"angle": "degrees", "closure": "percent"}.get(CHANNELS[channel].kind, "another unit")
        report.add(
            "states-units",
            name,
            where_cell(row, row, channel),
            f"is {value:.6g} {CHANNELS[channel].unit.replace('1', '')}".rstrip()
            + f" (and {count} rows are beyond {_LIMITS[channel]:.4g}), which no robot does: {hint}? write radians, "
            "closures from 0 to 1, m/s and rad/s",
        )
    return ranges


def where_cell(first: int, last: int, channel: int) -> str:
    """ "row 17, channel neck_pitch (byte 1780)"."""
    return f"{place('row', first, last)}, {where_channel(channel)} (byte {first * ROW_BYTES + channel * 4})"


def where_channel(channel: int) -> str:
    """ "channel neck_pitch"."""
    return f"channel {CHANNELS[channel].name}"


def check_segments(ids: Array, name: str, report: Report, *, before: int | None) -> int | None:
    """Look at the ids (N,) of one shard; `before` is the last of the shard before it. Gives the last."""
    if len(ids) == 0:
        return before
    values = np.asarray(ids).astype(np.int64)
    for first, last in runs(np.flatnonzero(values < 0)[:100000].tolist()):
        report.add(
            "segments-negative",
            name,
            f"{place('row', first, last)} (byte {first * 4})",
            f"is {values[first]}; ids count recordings from 0: {FETCH_AGAIN}",
        )
    for row in (np.flatnonzero(np.diff(values) < 0) + 1)[:100000].tolist():
        report.add(
            "segments-decreasing",
            name,
            f"row {row} (byte {row * 4})",
            f"is {values[row]} after {values[row - 1]}; ids must not decrease: {FETCH_AGAIN}",
        )
    if before is not None and values[0] < before:
        report.add(
            "segments-decreasing",
            name,
            "row 0 (byte 0)",
            f"is {values[0]} though the shard before ends with {before}; ids go on over the shards: write them again",
        )
    return int(values[-1])


def check_tokens(tokens: Array, name: str, report: Report, *, vocab_size: int) -> None:
    """Look at every token of (blocks, 3, grid, grid)."""
    cells = int(np.prod(tokens.shape[1:]))
    for start in range(0, len(tokens), 512):
        piece = np.asarray(tokens[start : start + 512])
        wrong = (piece < 0) | (piece >= vocab_size)
        for block in np.flatnonzero(wrong.reshape(len(piece), -1).any(1)).tolist():
            at = int(wrong[block].argmax())
            grid, row, column = np.unravel_index(at, piece.shape[1:])
            report.add(
                "tokens-range",
                name,
                f"block {start + block}, grid {grid}, cell ({row}, {column}) "
                f"(byte {((start + block) * cells + at) * tokens.dtype.itemsize})",
                f"is {piece[block].flat[at]}, outside 0..{vocab_size - 1} (so are {int(wrong[block].sum())} of the "
                "block); encode it again, or name the vocabulary's size",
            )


def check_channels(ranges: dict[str, ChannelRanges], states: list[Array], report: Report, *, hz: float) -> None:
    """Channels that never change over all shards or over one, and channels that are alike; by states file.

    Ten seconds of two recordings or more, or twenty of one, without any change are too much to be a robot at rest; for
    one shard among others half a minute.
    """
    total = ChannelRanges()
    for one in ranges.values():
        total.merge(one)
    needed = (10 if total.num_recordings > 1 else 20) * hz
    if not ranges or total.num_rows < needed:
        return
    first = next(iter(ranges))
    stuck = np.flatnonzero(total.constant)
    if len(stuck) == NUM_CHANNELS:
        report.add(
            "states-constant",
            first,
            f"all rows of all {len(ranges)} shards, all channels",
            f"never change in {total.num_rows} rows; the states were not recorded: write the data set again",
        )
        return
    for channel in stuck.tolist():
        report.add(
            "states-constant",
            first,
            f"all rows of all {len(ranges)} shards, channel {CHANNELS[channel].name} (byte {channel * 4})",
            f"is {total.low[channel]:.6g} in all {total.num_rows} rows; record that channel, or say that it is dead",
        )
    for name, one in ranges.items():
        if one.num_rows < 30 * hz or one.num_recordings < 2:
            continue
        for channel in np.flatnonzero(one.constant & ~total.constant).tolist():
            report.add(
                "states-constant",
                name,
                f"all {one.num_rows} rows, channel {CHANNELS[channel].name} (byte {channel * 4})",
                f"is {one.low[channel]:.6g} throughout though it changes in other shards; write that shard again",
            )
    _check_identical(total, states, first, report)


def _check_identical(total: ChannelRanges, states: list[Array], first: str, report: Report) -> None:
    moving = np.flatnonzero(~total.constant).tolist()
    for place_, one in enumerate(moving):
        for other in moving[place_ + 1 :]:
            if total.low[one] != total.low[other] or total.high[one] != total.high[other]:
                continue
            if all(bool((rows[:, one] == rows[:, other]).all()) for rows in states):
                report.add(
                    "states-identical",
                    first,
                    f"all rows, channels {CHANNELS[one].name} and {CHANNELS[other].name}",
                    "hold the same values throughout; one was written over the other: write the data set again",
                )


def token_blocks(values: Array, blocks: int, grid: int) -> Array:
    """Tokens (blocks, 3, grid, grid) of a flat array."""
    return values.reshape(blocks, TOKEN_BLOCK_GRIDS, grid, grid)
