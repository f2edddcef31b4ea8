"""State rows that occur twice in a data set, found by rolling hashes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WINDOW = 32
"""Rows that must be equal one after the other: a second."""
_SHORTEST = 8
"""Rows of the shortest recording that is compared as a whole."""
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """Rows `first_row` .. of one part equal rows `second_row` .. of another, which may be the same."""

    first_part: int
    first_row: int
    second_part: int
    second_row: int
    num_rows: int


def find_repeats(
    parts: Sequence[npt.NDArray[Any]], edges: Sequence[npt.NDArray[np.int64]], *, window: int | None = None
) -> list[Repeat]:
    """Stretches of state rows that occur twice, bit for bit, in parts (N, 25) float32.

    Looked for are windows of 32 rows at any offset and whole recordings (from one edge of a part to the next) of 8 rows
    or more; with `window`, only windows of that length that start at its multiples: samples. A window counts if the
    robot moves in a quarter of its rows, for a robot at rest repeats itself. 10^7 rows take a few seconds.
    """
    found: list[Repeat] = []
    hashes = [_row_hashes(rows) for rows in parts]
    starts, keys = _windows(hashes, window or WINDOW, only_multiples=window is not None)
    offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in parts])])
    for one, other, count in _stretches(starts, keys, window or WINDOW):
        found.append(_repeat(offsets, one, other, count))
    if window is None:
        found += _short_recordings(hashes, edges, offsets)
    return sorted(found, key=lambda repeat: (repeat.second_part, repeat.second_row))


def _row_hashes(rows: npt.NDArray[Any]) -> Hashes:
    factors = np.random.default_rng(7).integers(1, 1 << 63, rows.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = np.zeros(len(rows), np.uint64)
    for start in range(0, len(rows), 1 << 16):
        piece = np.ascontiguousarray(rows[start : start + (1 << 16)], dtype="<f4").view("<u4").astype(np.uint64)
        mixed = (piece + np.uint64(0x51ED)) * factors
        hashes[start : start + len(piece)] = (mixed ^ (mixed >> np.uint64(29))).sum(axis=1, dtype=np.uint64)
    return hashes


def _powers(base: np.uint64, count: int) -> Hashes:
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _sums(hashes: Hashes) -> Hashes:
    """S with S[j] - S[i] the sum of hash k times base^k for i <= k < j, modulo 2^64."""
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes * _powers(_BASE, len(hashes)), dtype=np.uint64)])


def _moves(hashes: Hashes) -> npt.NDArray[np.int64]:
    """M with M[j] - M[i] the rows k in i <= k < j that differ from the row before them."""
    changed = np.concatenate([[0, 0], np.cumsum(hashes[1:] != hashes[:-1])])
    return changed[: len(hashes) + 1].astype(np.int64)


def _windows(hashes: list[Hashes], window: int, *, only_multiples: bool) -> tuple[npt.NDArray[np.int64], Hashes]:
    """Start (counted over all parts) and hash of every window in which the robot moves."""
    starts: list[npt.NDArray[np.int64]] = []
    keys: list[Hashes] = []
    offset = 0
    for one in hashes:
        if len(one) >= window:
            sums, moves = _sums(one), _moves(one)
            key = (sums[window:] - sums[:-window]) * _powers(_INVERSE, len(one) - window + 1)
            telling = moves[window:] - moves[:-window] >= window // 4
            if only_multiples:
                telling[np.arange(len(telling)) % window != 0] = False
            at = np.flatnonzero(telling)
            starts.append(at + offset)
            keys.append(key[at])
        offset += len(one)
    if not starts:
        return np.zeros(0, np.int64), np.zeros(0, np.uint64)
    return np.concatenate(starts), np.concatenate(keys)


def _stretches(starts: npt.NDArray[np.int64], keys: Hashes, window: int) -> Iterator[tuple[int, int, int]]:
    """First place, second place and length of stretches of equal windows."""
    order = np.argsort(keys, kind="stable")
    ordered, places = keys[order], starts[order]
    if len(ordered) < 2:
        return
    new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    firsts = places[np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))]
    apart = places - firsts
    repeated = apart >= window  # nearer ones are a movement with a short period
    one, other, apart = firsts[repeated], places[repeated], apart[repeated]
    if len(one) == 0:
        return
    order = np.lexsort((other, apart))
    one, other, apart = one[order], other[order], apart[order]
    breaks = np.flatnonzero((np.diff(apart) != 0) | (np.diff(other) != 1)) + 1
    edges = [0, *breaks.tolist(), len(one)]
    for begin, end in pairwise(edges):
        yield int(one[begin]), int(other[begin]), end - begin + window - 1


def _repeat(offsets: npt.NDArray[np.int64], one: int, other: int, count: int) -> Repeat:
    first, second = (int(np.searchsorted(offsets, at, side="right")) - 1 for at in (one, other))
    return Repeat(
        first_part=first,
        first_row=one - int(offsets[first]),
        second_part=second,
        second_row=other - int(offsets[second]),
        num_rows=count,
    )


def _short_recordings(
    hashes: list[Hashes], edges: Sequence[npt.NDArray[np.int64]], offsets: npt.NDArray[np.int64]
) -> list[Repeat]:
    """Whole recordings shorter than a window that occur twice."""
    seen: dict[tuple[int, int], int] = {}
    found: list[Repeat] = []
    for part, (one, bounds) in enumerate(zip(hashes, edges, strict=True)):
        if len(one) == 0:
            continue
        sums, moves, inverse = _sums(one), _moves(one), _powers(_INVERSE, len(one))
        for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            length = end - begin
            if not _SHORTEST <= length < WINDOW or moves[end] - moves[begin + 1] < length // 4:
                continue
            content = (sums[end : end + 1] - sums[begin : begin + 1]) * inverse[begin : begin + 1]
            key = (length, int(content[0]))
            here = int(offsets[part]) + begin
            if key in seen:
                found.append(_repeat(offsets, seen[key], here, length))
            else:
                seen[key] = here
    return found
