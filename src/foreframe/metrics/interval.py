"""How sure a mean over clips is: bootstrap intervals that resample whole recordings, not clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foreframe.errors import InputError

_PIECE = 2**22
"""Draws held at once."""


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
    """Mean of `values` (N,) and the percentile interval of a cluster bootstrap over `groups` (N,) int.

    Clips of one recording resemble each other, so each resample draws as many groups as there are, with replacement,
    and takes the mean over the clips of those drawn (a group counts as often as it is drawn, by its number of clips).
    The same arguments give the same interval. Raises `InputError` for no values or one that is not finite.
    """
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

    _, group = np.unique(labels, return_inverse=True)
    counts = np.bincount(group)
    # Measured from the first value, equal values give an interval of exactly no width.
    origin, array = float(array[0]), array - array[0]
    mean = origin + float(array.mean())
    num_groups = len(counts)
    if num_groups == 1:
        return Interval(mean, np.nan, np.nan)
    sums = np.bincount(group, weights=array)
    rng = np.random.default_rng(seed)
    block = max(1, _PIECE // num_groups)
    means = np.empty(num_resamples)
    for start in range(0, num_resamples, block):
        stop = min(start + block, num_resamples)
        drawn = rng.integers(num_groups, size=(stop - start, num_groups))
        means[start:stop] = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = origin + np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


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
