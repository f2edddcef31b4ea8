"""Where in a shard states and pictures part: stretches that lag, and recordings with another's states.

How far turning and bending by a radian move the picture is the camera's, the same in all recordings. Known from all of
them together it leaves a single recording nothing to fit: the motion that its states foretell is in its pictures at lag
0, at another lag, or at none. That tells from 6 to 12 seconds what `motion.judge`, which fits each set of recordings by
itself, tells from a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from foreframe.data.check.motion import MAX_LAG, camera_motion, resampled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreframe.data.check.motion import Floats, Recording

_PIECE = 30
"""Frames of a piece of a recording: a second."""
_POWER = 0.005
"""Mean square of seen and foretold shift, in pixels, from which a recording tells anything."""
_FITS = 0.25
"""Share of the motion, seen and foretold, that may remain as their difference where both are right; evesim: 0.06."""
_LEAST_RECORDINGS = 4
"""Recordings with motion in which picture and states agree that there must be, and half of all that move."""
_LEAST_PIECES = 3
"""Pieces that must speak for a lag."""
_LEAST_GAIN = 2.0
"""Sum of squared differences, in pixels, by which a lag must be better than none, for one that leaves a single times
less; n times less needs an n-th of it. Whole recordings of evesim reach 0.6 where three pieces speak."""
_TIMES_BETTER = 2.0
"""How much smaller the difference must be at a lag than without."""
_APART = 0.75
"""Share that must remain at every lag before a recording's states are called another's."""
_CLAIMED = 0.02
"""Mean square of foretold shift, in pixels, that pictures must follow."""
_MOST_STRETCHES = 8
_LAGS = np.array([lag for lag in range(-MAX_LAG, MAX_LAG + 1) if abs(lag) > 1])
"""A frame more or less is within what cameras and encoders do."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Rows of a shard whose states and pictures part."""

    fault: Literal["lag", "unrelated"]
    first_row: int
    """First row, known to about a second."""
    end_row: int
    """The row after the last."""
    confidence: float
    """Share of resampled pieces that tell the same, at most 0.999."""
    strength: float
    """Correlation at the best lag."""
    lag: int
    """Frames by which the states come after the pictures."""


@dataclass(frozen=True)
class _Costs:
    """What the states foretell against what is seen, piece by piece and lag by lag."""

    rows: list[tuple[int, int]]
    """First row and the row after the last of each piece."""
    error: Floats
    """(pieces, lags): sums of squared differences."""
    power: Floats
    """(pieces, lags): sums of both squares."""
    claimed: float
    """Mean square of the foretold shift."""
    frames: int

    @property
    def moves(self) -> bool:
        """Whether there is motion to compare."""
        return self.frames > 0 and float(self.power[:, MAX_LAG].sum()) > _POWER * self.frames

    @property
    def share(self) -> Floats:
        """(lags,) what remains of the motion."""
        return self.error.sum(0) / np.maximum(self.power.sum(0), 1e-9)


def find_stretches(shards: Sequence[Sequence[Recording]], told: Sequence[int], *, hz: float) -> list[list[Stretch]]:
    """Stretches of each shard that lag or have another's states, given the lag that each shard was found to have.

    None at all where pictures and states do not agree in most of the recordings that move.
    """
    recordings = [recording for shard in shards for recording in shard]
    lags = [lag for shard, lag in zip(shards, told, strict=True) for _ in shard]
    kept = [True] * len(recordings)
    costs: list[_Costs] = []
    for _ in range(3):
        scale = _fit([one for one, keep in zip(zip(recordings, lags, strict=True), kept, strict=True) if keep], hz)
        if scale is None:
            return [[] for _ in shards]
        costs = [_compare(recording, scale, hz) for recording in recordings]
        for index, one in enumerate(costs):
            if one.moves:
                lags[index] = int(one.share.argmin()) - MAX_LAG
                kept[index] = float(one.share.min()) < 2 * _FITS
    moving = [index for index, one in enumerate(costs) if one.moves]
    good = [index for index in moving if kept[index]]
    if len(good) < max(_LEAST_RECORDINGS, len(moving) / 2):
        return [[] for _ in shards]
    remains = sum(float(costs[index].error[:, lags[index] + MAX_LAG].sum()) for index in good)
    if remains > _FITS * sum(float(costs[index].power[:, lags[index] + MAX_LAG].sum()) for index in good):
        return [[] for _ in shards]
    found: list[list[Stretch]] = []
    begin = 0
    for shard in shards:
        here = costs[begin : begin + len(shard)]
        begin += len(shard)
        apart = [_apart(one, recording) for one, recording in zip(here, shard, strict=True)]
        rest = [one for one, stretch in zip(here, apart, strict=True) if stretch is None]
        lagging = _lagging(rest, told[len(found)])
        found.append(sorted([*filter(None, apart), *lagging], key=lambda stretch: stretch.first_row))
    return found


def _fit(recordings: Sequence[tuple[Recording, int]], hz: float) -> tuple[Floats, Floats] | None:
    """Pixels by which a radian of each joint moves the picture, across and down, with each recording at its lag."""
    grams, crosses = [np.zeros((2, 2)), np.zeros((4, 4))], [np.zeros(2), np.zeros(4)]
    for recording, lag in recordings:
        rows = np.arange(MAX_LAG, len(recording.motion) - MAX_LAG)
        for axis, claimed in enumerate(camera_motion(recording.states, hz)):
            moved = claimed[rows + lag]
            grams[axis] += moved.T @ moved
            crosses[axis] += recording.motion[rows, axis] @ moved
    if min(float(np.trace(gram)) for gram in grams) == 0:
        return None
    ridges = [(1e-4 * np.trace(gram) / len(gram) + 1e-9) * np.eye(len(gram)) for gram in grams]
    across, down = (np.linalg.solve(gram + r, cross) for gram, r, cross in zip(grams, ridges, crosses, strict=True))
    return across, down


def _compare(recording: Recording, scale: tuple[Floats, Floats], hz: float) -> _Costs:
    length = len(recording.motion)
    starts = list(range(MAX_LAG, length - MAX_LAG - _PIECE // 2 + 1, _PIECE))
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    frames = max(length - 2 * MAX_LAG, 0) if starts else 0
    error, power = np.zeros((len(starts), len(lags))), np.zeros((len(starts), len(lags)))
    total = 0.0
    if starts:
        inside = np.arange(MAX_LAG, length - MAX_LAG)
        bounds = [start - MAX_LAG for start in starts]
        for axis, claimed in enumerate(camera_motion(recording.states, hz)):
            foretold = (claimed @ scale[axis])[inside[:, None] + lags]
            seen = recording.motion[inside, axis].astype(np.float64)[:, None]
            error += np.add.reduceat((seen - foretold) ** 2, bounds)
            power += np.add.reduceat(seen**2 + foretold**2, bounds)
            total += float((foretold[:, MAX_LAG] ** 2).sum())
    edges = [0, *starts[1:], len(recording.states)]  # with the rows at either end that no lag could be tried on
    rows = [(recording.first_row + a, recording.first_row + b) for a, b in pairwise(edges)] if starts else []
    return _Costs(rows=rows, error=error, power=power, claimed=total / max(frames, 1), frames=frames)


def _apart(costs: _Costs, recording: Recording) -> Stretch | None:
    """A whole recording, if its states foretell a motion that its pictures do not have at any lag."""
    if not costs.moves or costs.claimed < _CLAIMED or len(costs.rows) < _LEAST_PIECES:
        return None
    weights = resampled(len(costs.rows))
    share = ((weights @ costs.error) / np.maximum(weights @ costs.power, 1e-9)).min(axis=1)
    confidence = float((share[1:] > 2 * _FITS).mean())
    if share[0] < _APART or confidence < 0.98:
        return None
    return Stretch(
        fault="unrelated",
        first_row=recording.first_row,
        end_row=recording.first_row + len(recording.states),
        confidence=min(confidence, 0.999),
        strength=float(np.clip(1 - share[0], 0, 1)),
        lag=0,
    )


def _lagging(costs: Sequence[_Costs], told: int) -> list[Stretch]:
    """Runs of pieces that fit a lag much better than none, the most telling first; they do not overlap.

    `told` is the lag that the shard has as a whole.
    """
    rows = [row for one in costs for row in one.rows]
    if len(rows) < _LEAST_PIECES:
        return []
    error, power = (np.concatenate(list(values)) for values in zip(*((c.error, c.power) for c in costs), strict=True))
    gains = error[:, [MAX_LAG]] - error
    free = np.ones(len(rows), np.bool_)
    found: list[Stretch] = []
    for _ in range(_MOST_STRETCHES):
        runs = [(*_best_run(np.where(free, gains[:, index], -1e9)), index) for index in _LAGS + MAX_LAG]
        gain, begin, end, index = max(runs)
        if gain < 0.1 * _LEAST_GAIN:
            break
        free[begin:end] = False
        inside = slice(begin, end)
        left, without = float(error[inside, index].sum()), float(error[inside, MAX_LAG].sum())
        share = left / max(float(power[inside, index].sum()), 1e-9)
        speaking = int((gains[inside, index] > 0.02 * gain).sum())
        weights = resampled(end - begin)
        best = (weights @ error[inside]).argmin(axis=1)[1:] - MAX_LAG
        confidence = float((best * (index - MAX_LAG) > 0).mean())
        better = without / max(left, 1e-9)
        if share > _FITS or better < _TIMES_BETTER or gain * better < _LEAST_GAIN:
            continue
        if speaking < _LEAST_PIECES or confidence < 0.99:
            continue
        # Pieces that hardly move do not say where the lag begins and ends.
        spoken = np.flatnonzero(gains[inside, index] > 0.02 * gain)
        begin, end = begin + int(spoken[0]), begin + int(spoken[-1]) + 1
        if told * (index - MAX_LAG) > 0:
            begin = 0 if gains[:begin, index].sum() > -0.05 * _LEAST_GAIN else begin
            end = len(rows) if gains[end:, index].sum() > -0.05 * _LEAST_GAIN else end
        found.append(
            Stretch(
                fault="lag",
                first_row=rows[begin][0],
                end_row=rows[end - 1][1],
                confidence=min(confidence, 0.999),
                strength=float(np.clip(1 - share, 0, 1)),
                lag=int(index) - MAX_LAG,
            )
        )
    return found


def _best_run(gains: Floats) -> tuple[float, int, int]:
    """Largest sum of consecutive gains, the first of them and the one after the last."""
    sums = np.concatenate([[0], np.cumsum(gains)])
    lowest = np.minimum.accumulate(sums)
    end = int((sums - lowest).argmax())
    begin = int(sums[: end + 1].argmin())
    return float(sums[end] - sums[begin]), begin, end
