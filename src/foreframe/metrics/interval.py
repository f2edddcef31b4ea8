"""How sure a mean over clips is: studentised bootstrap intervals that resample whole recordings, not clips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from foreframe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PIECE = 2**20
"""Draws held at once."""
_ROUNDING = 1e-12
"""Spread that rounding alone leaves, as a share of the largest deviation."""
_NO_SPREAD = 1e-9
"""Standard error of a resample, as a share of the data's own, below which its recordings are all alike."""


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, in the unit of the values.

    `low` and `high` are nan when there was only one group: nothing then says how much another would differ.
    """

    mean: float
    low: float
    high: float


def bootstrap(
    values: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean of `values` (N,) and the studentised interval of a cluster bootstrap over `groups` (N,) int.

    Clips of one recording resemble each other, so each resample draws as many groups as there are, with replacement,
    and takes the mean over the clips of those drawn (a group counts as often as it is drawn, by its number of clips).
    With m the mean and s its standard error (jackknife over groups), t* = (m* - m) / s* over the resamples, and the
    interval is from m - s q_high to m - s q_low, q the quantiles of t*. Percentiles of m* would hold the truth in
    about 89 % of cases with 12 groups where 95 % is claimed; this holds it in 93 to 95 %. It may leave the range of
    the values, as of a share near 1.

    Equal groups have an interval of no width. Where the resamples of nothing but alike groups are so many that they
    would decide a limit (three groups or fewer, or values that are the same almost everywhere), q are the quantiles
    of Student's t with one degree of freedom less than there are groups. The same arguments give the same interval.
    Raises `InputError` for no values or one that is not finite.
    """
    array, group = _checked(values, groups, num_resamples=num_resamples, level=level)
    counts = np.bincount(group)
    # Measured from the first value, equal values give an interval of exactly no width.
    origin, array = float(array[0]), array - array[0]
    mean = float(array.mean())
    if len(counts) == 1:
        return Interval(origin + mean, np.nan, np.nan)
    sums = np.bincount(group, weights=array).astype(np.float64)
    error = float(_standard_error(sums, counts))
    if error <= _ROUNDING * np.abs(array).max():
        return Interval(origin + mean, origin + mean, origin + mean)
    ratios: list[npt.NDArray[np.float64]] = []
    for drawn in _draws(len(counts), num_resamples, seed):
        means, errors = _means(sums[drawn], counts[drawn]), _standard_error(sums[drawn], counts[drawn])
        has_spread = errors > _NO_SPREAD * error
        ratios.append((means - mean)[has_spread] / errors[has_spread])
    t = np.concatenate(ratios)
    tail = (1 - level) / 2
    if num_resamples - len(t) > tail * num_resamples:
        high = _student_quantile(1 - tail, len(counts) - 1)
        low = -high
    else:
        low, high = np.quantile(t, [tail, 1 - tail])
    return Interval(origin + mean, float(origin + mean - error * high), float(origin + mean - error * low))


def paired_bootstrap(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """`bootstrap` of a - b, two scores (N,) of the same clips in the same order.

    What the clips share cancels, so an interval that leaves out 0 shows a difference that two overlapping ones hide.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise InputError(f"paired scores differ in shape: {first.shape} and {second.shape}")
    return bootstrap(first - second, groups, num_resamples=num_resamples, seed=seed, level=level)


def whole_set_bootstrap(
    score: Callable[[npt.NDArray[np.int64]], float],
    groups: npt.ArrayLike,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The score of a whole set of clips that is no mean over them, with its expanded percentile interval.

    `score` takes the numbers of the clips in the set, of which a resample repeats some and lacks others. Such a score
    has no standard error to divide by. Instead the percentiles lie further out than `level` says, by what Student's t
    and the missing sqrt(n / (n - 1)) of a resample of n groups would add to a mean's interval: the tail is
    Phi(-sqrt(n / (n - 1)) t), t the quantile of n - 1 degrees of freedom (Hesterberg, 2015, section 5.3).

    Raises `InputError` for no clips or a score that is not finite.
    """
    labels = np.asarray(groups)
    clips, group = _checked(np.arange(labels.size, dtype=np.float64), labels, num_resamples=num_resamples, level=level)
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(group))[:-1])
    whole = float(score(np.arange(len(clips))))
    num_groups = len(members)
    if num_groups == 1:
        return Interval(whole, np.nan, np.nan)
    resamples = (row for drawn in _draws(num_groups, num_resamples, seed) for row in drawn)
    scores = np.array([float(score(np.concatenate([members[i] for i in row]))) for row in resamples])
    if not np.isfinite([whole, *scores]).all():
        raise InputError("the score of the set or of a resample of it is not finite; an interval needs finite scores")
    t = _student_quantile((1 + level) / 2, num_groups - 1)
    tail = math.erfc(t * math.sqrt(num_groups / (num_groups - 1)) / math.sqrt(2)) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return Interval(whole, float(low), float(high))


def _checked(
    values: npt.ArrayLike, groups: npt.ArrayLike, *, num_resamples: int, level: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The values (N,), and the groups numbered from 0 without gaps (N,)."""
    if not 0 < level < 1 or num_resamples < 1:
        raise ValueError(f"level must be in (0, 1) and num_resamples at least 1, got {level} and {num_resamples}")
    array, labels = np.asarray(values, dtype=np.float64), np.asarray(groups)
    if array.ndim != 1 or array.shape != labels.shape or array.size == 0:
        raise InputError(f"expected (N,) values and groups with N > 0, got {array.shape} and {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"groups must be integers, got {labels.dtype}")
    if not np.isfinite(array).all():
        clip = int(np.argmin(np.isfinite(array)))
        raise InputError(f"the score of clip {clip} is {array[clip]}; a mean needs finite scores")
    return array, np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _draws(num_groups: int, num_resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """The groups of every resample, (R, num_groups) in blocks of bounded size."""
    rng = np.random.default_rng(seed)
    block = max(1, _PIECE // num_groups)
    for start in range(0, num_resamples, block):
        yield rng.integers(num_groups, size=(min(block, num_resamples - start), num_groups))


def _means(sums: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Mean over the clips of the groups along the last axis."""
    return sums.sum(-1) / counts.sum(-1)


def _standard_error(sums: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Jackknife standard error of that mean: how far it moves as each of the n groups in turn is left out."""
    n = counts.shape[-1]
    others = counts.sum(-1, keepdims=True) - counts
    moved = (sums - _means(sums, counts)[..., None] * counts) / others
    return np.sqrt((n - 1) / n * (moved**2).sum(-1))


@cache
def _student_quantile(share: float, degrees: int) -> float:
    """Quantile of Student's t, by quadrature: with t = sqrt(k) tan(a), the density of a is as cos(a)^(k - 1)."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, 200_001)
    density = np.cos(angles) ** (degrees - 1)
    cumulative = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(degrees) * math.tan(np.interp(share, cumulative / cumulative[-1], angles))
