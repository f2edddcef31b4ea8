"""Whether states and pictures of a recording belong together: their lag, swapped arms, mirrored pictures.

The picture's own motion is measured on small grey frames and set against the motion that the states claim. Turning left
(positive `angular_velocity`) moves the picture to the right, bending moves it up or down, and a moving arm stirs its
own side of the picture. What data cannot tell, for want of motion or of length, is not judged.

Limits. All thresholds are from evesim's video. A shard as a whole, or all together, needs 8 s of motion for a lag, 16 s
for exchanged states; single recordings and parts of a shard (`stretches`) need three seconds in which the camera turns
or bends, and other recordings in which pictures and states agree. Invisible remain: any fault of a recording whose
camera hardly moves (in evesim's calm rooms half of them), a lag of one frame in less than half a minute of motion or in
one recording, slow movements a few frames late, arms exchanged in single recordings, mirrored pictures where the robot
neither turns nor moves its arms, and everything where more than half of the recordings are wrong in different ways.
Where a lag begins is known to a second of motion: while the camera rests any row may be it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from foreframe.states import CHANNEL_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

MOTION_SIZE = 64
"""Side of the grey frames that motion is measured on."""
MAX_LAG = 15
"""Frames by which states are tried to be early or late."""

_PIECE = 60
"""Frames of a piece of a recording, the unit of the bootstrap: two seconds, about one movement."""
_RESAMPLES = 400
_LAG_PIECES = 4
"""Fewest moving pieces (8 s) that a lag is read from."""
_STILL = 0.001
"""Mean squared shift, in pixels, up to which a picture stands still."""
_MOST_UNEXPLAINED = 0.5
"""Share of the shift that the states must explain at their best lag; with evesim they leave 0.01 to 0.07."""
_UNRELATED = 0.75
"""Share of the shift that must stay unexplained at every lag before states are called another recording's; evesim's
own leave at most 0.2, exchanged ones 0.8 to 1."""
_UNRELATED_PIECES = 8
"""Fewest pieces in which the picture shifts along an axis, and in which the states claim that it does."""
_SIDE_PIECES = 3
"""Fewest pieces in which the robot turns, or moves one arm more than the other."""

_LEAST_CORRELATION = 0.5
"""Below it nothing is said of sides; evesim's data has 0.96 for turning and 0.8 for the arms."""
_TURNING = 0.001
"""Root mean square turning between two frames, in rad, that a piece must have on average (0.03 rad/s)."""
_ARMS = 0.3
"""The same for the difference of the logarithms of the arms' speeds."""

_YAW = CHANNEL_INDEX["angular_velocity"]
_HIP_YAW = CHANNEL_INDEX["hip_yaw"]
_PITCHES = [CHANNEL_INDEX[name] for name in ("hip_pitch", "knee_pitch", "ankle_pitch", "neck_pitch")]
_DRIVE = [CHANNEL_INDEX["linear_velocity"], _YAW]
_LEFT_ARM = [index for name, index in CHANNEL_INDEX.items() if name.startswith("left_") and "hand" not in name]
_RIGHT_ARM = [index for name, index in CHANNEL_INDEX.items() if name.startswith("right_") and "hand" not in name]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Part of an uninterrupted recording of T frames."""

    motion: npt.NDArray[np.float32]
    """(T-1, 5): `image_motion` of its frames."""
    states: npt.NDArray[np.float32]
    """(T, 25)."""
    first_row: int = 0
    """Row of its shard that it begins with."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A fault that the motion tells."""

    fault: Literal["lag", "arms", "turning", "unrelated"]
    """States early or late; the arms exchanged; the picture moving against the robot's turning; states and pictures
    that have nothing to do with each other."""
    confidence: float
    """Share of resampled data that tells the same, at most 0.999."""
    strength: float
    """Correlation on which it rests."""
    turns_rightly: bool = False
    """With exchanged arms: the picture moves with the robot's turning, so that it cannot be mirrored."""
    lag: int = 0
    """Frames by which the states come after the video; negative if they come before it."""


def image_motion(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """How the picture moves from each grey frame of (T, 64, 64) to the next, as (T-1, 5).

    Columns: shift to the right and downwards in pixels, growth (relative), and the mean change that these leave
    unexplained in the lower left and the lower right quarter. The first three by least squares on
    `I(t+1) - I(t) = -(u + g x) dI/dx - (v + g y) dI/dy`.
    """
    smooth = frames.astype(np.float32)
    for axis in (1, 2):
        smooth = (np.roll(smooth, 1, axis) + 2 * smooth + np.roll(smooth, -1, axis)) / 4
    mean, change = (smooth[1:] + smooth[:-1]) / 2, (smooth[1:] - smooth[:-1])[:, 2:-2, 2:-2]
    across = (mean[:, 2:-2, 3:-1] - mean[:, 2:-2, 1:-3]) / 2
    down = (mean[:, 3:-1, 2:-2] - mean[:, 1:-3, 2:-2]) / 2
    size = frames.shape[1]
    y, x = (np.mgrid[2 : size - 2, 2 : size - 2].astype(np.float32) - (size - 1) / 2) / np.float32(size)
    count = len(change)
    basis = np.stack([across, down, across * x + down * y], axis=1).reshape(count, 3, -1)
    flat = change.reshape(count, -1)
    weighted = basis / (1 + np.abs(flat) / 8)[:, None]  # large changes are seldom the camera's
    # A picture without texture shall stand still rather than make noise: the ridge.
    gram = weighted @ basis.transpose(0, 2, 1) + 50 * np.eye(3, dtype=np.float32)
    shift = np.linalg.solve(gram, -(weighted @ flat[..., None]))[..., 0]
    left_over = np.abs(flat + np.einsum("ti,tip->tp", shift, basis)).reshape(change.shape)
    half = change.shape[1] // 2
    sides = [left_over[:, half:, :half].mean((1, 2)), left_over[:, half:, half:].mean((1, 2))]
    return np.concatenate([shift, np.stack(sides, axis=1)], axis=1).astype(np.float32)


def judge(recordings: Sequence[Recording], *, hz: float) -> list[Verdict]:
    """The faults that these recordings tell with near certainty; none where they tell too little."""
    if unrelated := _unrelated(recordings, hz):
        return [unrelated]
    arms = _arms(recordings, hz)
    if arms is not None and _turning(recordings, hz, sign=-1) is not None:
        arms = replace(arms, turns_rightly=True)
    found = [_lag(recordings, hz), _turning(recordings, hz), arms]
    return [verdict for verdict in found if verdict is not None]


@dataclass(frozen=True)
class _Fit:
    """Sums of one piece from which a least-squares fit at every lag follows."""

    gram: Floats
    """(lags, p, p)."""
    cross: Floats
    """(lags, p)."""
    power: float
    """Sum of squares of what is to be explained."""
    count: int


def camera_motion(states: npt.NDArray[np.float32], hz: float) -> tuple[Floats, Floats]:
    """Turning (T-1, 2) and bending (T-1, 4) from each frame to the next, in radians."""
    rows = states.astype(np.float64)
    step = np.diff(rows, axis=0)
    turn = (rows[1:, _YAW] + rows[:-1, _YAW]) / 2 / hz
    return np.stack([turn, step[:, _HIP_YAW]], axis=1), step[:, _PITCHES]


def _pieces(recording: Recording, hz: float) -> list[tuple[_Fit, _Fit]]:
    """Fits of the horizontal and the vertical shift, for each piece with all lags inside the recording."""
    turning, bending = camera_motion(recording.states, hz)
    length = len(recording.motion)
    pieces: list[tuple[_Fit, _Fit]] = []
    for start in range(MAX_LAG, length - MAX_LAG - _PIECE // 2 + 1, _PIECE):
        rows = np.arange(start, min(start + _PIECE, length - MAX_LAG))
        both: list[_Fit] = []
        for column, claimed in ((0, turning), (1, bending)):
            seen = recording.motion[rows, column].astype(np.float64)
            moved = np.stack([claimed[rows + lag] for lag in range(-MAX_LAG, MAX_LAG + 1)])
            gram = moved.transpose(0, 2, 1) @ moved
            both.append(_Fit(gram=gram, cross=seen @ moved, power=float(seen @ seen), count=len(rows)))
        pieces.append((both[0], both[1]))
    return pieces


def _unexplained(fits: Sequence[_Fit], weights: Floats) -> tuple[Floats, Floats]:
    """Share of the shift that the states leave unexplained at each lag (samples, lags), and its power (samples,).

    `weights` (samples, pieces) says how often each piece counts.
    """
    gram = np.einsum("sp,pljk->sljk", weights, np.stack([fit.gram for fit in fits]))
    cross = np.einsum("sp,plj->slj", weights, np.stack([fit.cross for fit in fits]))
    power = weights @ np.array([fit.power for fit in fits])
    size = gram.shape[-1]
    ridge = (1e-4 * np.trace(gram, axis1=2, axis2=3) / size + 1e-9)[..., None, None] * np.eye(size)
    solved = np.linalg.solve(gram + ridge, cross[..., None])[..., 0]
    explained = np.einsum("slj,slj->sl", solved, cross)
    return np.clip(1 - explained / np.maximum(power, 1e-9)[:, None], 1e-6, 1), power


def resampled(count: int) -> Floats:
    """How often each of `count` pieces is drawn in each resample (resamples, count); the first draws each once."""
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    return np.concatenate([np.ones((1, count)), drawn]).astype(np.float64)


def _lag(recordings: Sequence[Recording], hz: float) -> Verdict | None:
    pieces = [piece for recording in recordings for piece in _pieces(recording, hz)]
    moving = [p for p in pieces if sum(fit.power / fit.count for fit in p) > _STILL]
    if len(moving) < _LAG_PIECES:
        return None
    weights = resampled(len(moving))
    counts = weights @ np.array([piece[0].count for piece in moving])
    score = np.zeros((len(weights), 2 * MAX_LAG + 1))
    least = 1.0
    for axis in range(2):
        share, power = _unexplained([piece[axis] for piece in moving], weights)
        if power[0] / counts[0] > _STILL:
            score += counts[:, None] * np.log(share)
            least = min(least, float(share[0].min()))
    lags = score.argmin(axis=1) - MAX_LAG
    best = int(lags[0])
    same = (np.sign(lags) == np.sign(best)) & (np.abs(lags) >= min(abs(best), 2))
    confidence = float(same[1:].mean())
    if best == 0 or least > _MOST_UNEXPLAINED or confidence < (0.99 if abs(best) > 1 else 1):
        return None
    if abs(best) == 1 and len(moving) < 4 * _LAG_PIECES:
        return None
    return Verdict(fault="lag", confidence=min(confidence, 0.999), strength=float(np.sqrt(1 - least)), lag=best)


def _unrelated(recordings: Sequence[Recording], hz: float) -> Verdict | None:
    """Whether the picture shifts, and the robot claims to turn or bend, but never together at any lag."""
    pieces = [piece for recording in recordings for piece in _pieces(recording, hz)]
    least: list[Floats] = []
    for axis in range(2):
        fits = [piece[axis] for piece in pieces]
        claimed = [float(np.trace(fit.gram[MAX_LAG])) / fit.count > _TURNING**2 for fit in fits]
        seen = [fit.power / fit.count > _STILL for fit in fits]
        if min(sum(claimed), sum(seen)) >= _UNRELATED_PIECES:
            least.append(_unexplained(fits, resampled(len(fits)))[0].min(axis=1))
    if not least:
        return None
    share = np.min(least, axis=0)
    confidence = float((share[1:] > _MOST_UNEXPLAINED).mean())
    if share[0] < _UNRELATED or confidence < 0.98:
        return None
    return Verdict(fault="unrelated", confidence=min(confidence, 0.999), strength=float(np.sqrt(1 - share[0])))


def _turning(recordings: Sequence[Recording], hz: float, *, sign: int = 1) -> Verdict | None:
    """Whether the picture moves to the left where the robot turns left; with `sign` -1, to the right."""
    products: list[tuple[float, float, float]] = []
    for recording in recordings:
        claimed = sign * camera_motion(recording.states, hz)[0].sum(axis=1)
        seen = recording.motion[:, 0].astype(np.float64)
        products += _products(seen, claimed, np.ones(len(seen)))
    return _against("turning", products, least_power=_TURNING**2)


def _arms(recordings: Sequence[Recording], hz: float) -> Verdict | None:
    """Whether the left of the picture stirs where the right arm moves, while the camera is still."""
    products: list[tuple[float, float, float]] = []
    for recording in recordings:
        speed = np.diff(recording.states.astype(np.float64), axis=0) * hz
        left, right = (np.sqrt((speed[:, arm] ** 2).sum(axis=1)) for arm in (_LEFT_ARM, _RIGHT_ARM))
        camera = np.abs(speed[:, [_HIP_YAW, *_PITCHES]]).sum(axis=1) + np.abs(recording.states[1:, _DRIVE]).sum(axis=1)
        still = 1 / (1 + (camera / 0.1) ** 2)
        sides = np.log(recording.motion[:, 3:5].astype(np.float64) + 0.3)
        seen, claimed = sides[:, 0] - sides[:, 1], np.log(left + 0.15) - np.log(right + 0.15)
        # What one side always shows more than the other, such as a shelf, says nothing.
        seen, claimed = (values - (still * values).sum() / still.sum() for values in (seen, claimed))
        products += _products(seen, claimed, still)
    return _against("arms", products, least_power=_ARMS**2)


def _products(seen: Floats, claimed: Floats, weight: Floats) -> list[tuple[float, float, float]]:
    """For each piece the weighted sums of seen times claimed, seen squared and claimed squared."""
    pieces = range(0, len(seen), _PIECE)
    sums = [np.add.reduceat(weight * product, pieces) for product in (seen * claimed, seen**2, claimed**2)]
    return list(zip(*(values.tolist() for values in sums), strict=True))


def _against(
    fault: Literal["arms", "turning"], products: list[tuple[float, float, float]], *, least_power: float
) -> Verdict | None:
    """The fault, if what is seen goes against what is claimed in nearly all the pieces that tell."""
    both, seen, claimed = np.array(products, dtype=np.float64).reshape(-1, 3).T
    if claimed.sum() < least_power * _PIECE * _SIDE_PIECES or seen.sum() == 0:
        return None
    strength = float(both.sum() / np.sqrt(seen.sum() * claimed.sum()))
    telling = both.sum() ** 2 / max(float((both**2).sum()), 1e-30)  # pieces, had all weighed the same
    confidence = float(((resampled(len(both)) @ both)[1:] < 0).mean())
    if strength > -_LEAST_CORRELATION or telling < _SIDE_PIECES or confidence < 0.99:
        return None
    return Verdict(fault=fault, confidence=min(confidence, 0.999), strength=-strength)
