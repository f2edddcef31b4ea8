"""Token scores: cross-entropy in nats, accuracy, and cross-entropy from the top k alone; for cells or for clips.

Axis 0 is the clip; a clip's score is the mean over its cells. Logits are worked through in pieces, so that 64,000
classes need little memory beyond their own.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F

from foreframe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Definition = Literal["tail", "minfill", "renorm"]
"""What a target outside the top k costs; see `top_k_cross_entropy`."""

DEFINITIONS: tuple[Definition, ...] = get_args(Definition)
_NAMES: dict[Definition, str] = {"tail": "top_k", "minfill": "top_k_minfill", "renorm": "top_k_renorm"}
TOP_K = 500
"""Classes of each cell that a submission carries (challenge-facts 2.2)."""

MAX_TOTAL_PROBABILITY = 1 + 1e-4
"""How much the exponentials of one cell's values may add up to: rounding is forgiven, raw logits are not."""

_MIN_TAIL = 1e-12
_PIECE = 2**26
"""Elements worked on at once: a 32x32 grid of 64,000 classes."""


def top_k_log_probs(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k likeliest classes: logits (..., V) -> indices int32 (..., k) and values float32 (..., k), descending.

    Values are log-softmax over *all* V classes, which every definition of the top-k score reads alike.
    """
    vocab_size = logits.shape[-1]
    if not 1 <= k <= vocab_size:
        raise ValueError(f"k must be in 1..{vocab_size}, the number of classes, got {k}")
    tops = [rows.float().log_softmax(-1).topk(k) for rows in _rows(logits)]
    shape = (*logits.shape[:-1], k)
    indices = torch.cat([top.indices.int() for top in tops]).reshape(shape)
    return indices, torch.cat([top.values for top in tops]).reshape(shape)


def top_k_cross_entropy(
    indices: torch.Tensor,
    values: torch.Tensor,
    targets: torch.Tensor,
    *,
    vocab_size: int,
    definition: Definition = "tail",
    floor: float | None = None,
) -> torch.Tensor:
    """Cross-entropy in nats from the k submitted classes of each cell alone, mean over a clip: float64 (B,).

    `indices` int (B, ..., k), unique in a cell; `values` float (B, ..., k), their log-probabilities; `targets` int
    (B, ...). The challenge scores k = 500 (1X challenge report, section 3) of Cosmos' V = 64,000, by no published
    formula.
    Three readings, equal to the plain cross-entropy when k = V; `hit` is the target's value if it is among the k:

    - `tail`: the k probabilities as given, and what they leave spread evenly over the other V - k classes.
      -hit, or else -log(r / (V - k)) with r = max(1 - sum exp(values), 1e-12). A proper score; the default.
    - `minfill`: softmax over V classes, those not submitted taking the cell's smallest value. Also reads raw logits;
      pessimistic.
    - `renorm`: softmax over the k classes; a missing target costs `floor`, by default log V. Not a proper score:
      report its floor with it.

    Raises `InputError` if a cell's indices repeat or leave 0..V-1, a value is not finite, or, for `tail`, a cell's
    probabilities add up to more than 1 + 1e-4.
    """
    if definition not in DEFINITIONS:
        raise ValueError(f"definition must be one of {', '.join(DEFINITIONS)}, got {definition!r}")
    if floor is not None and definition != "renorm":
        warnings.warn(f"floor={floor} has no effect on the definition {definition!r}", stacklevel=2)
    if indices.shape != values.shape:
        raise InputError(f"indices {tuple(indices.shape)} and values {tuple(values.shape)} differ in shape")
    _check_targets(targets, vocab_size=vocab_size, cells=indices.shape[:-1])
    for index, value in zip(_rows(indices), _rows(values), strict=True):
        _check_top_k(index, value, vocab_size=vocab_size, normalised=definition == "tail")
    floor = math.log(vocab_size) if floor is None else floor
    scores = top_k_scores(indices, values, targets, vocab_size=vocab_size, floor=floor)
    return scores[_NAMES[definition]].reshape(len(targets), -1).mean(1)


def top_k_scores(
    indices: torch.Tensor, values: torch.Tensor, targets: torch.Tensor, *, vocab_size: int, floor: float | None = None
) -> dict[str, torch.Tensor]:
    """Each cell's scores from its top k alone: name -> float64, shaped like `targets`.

    `top_k` is `top_k_cross_entropy` by its default definition, `top_k_minfill` and `top_k_renorm` by the others;
    `top_k_coverage` is 1 where the target is among the k. For arrays of our own making: nothing is checked.
    """
    pieces = zip(_rows(indices), _rows(values), targets.flatten().split(_rows_per_piece(indices)), strict=True)
    floor = math.log(vocab_size) if floor is None else floor
    found = [_top_k_cells(*piece, num_missing=vocab_size - indices.shape[-1], floor=floor) for piece in pieces]
    return {name: torch.cat([piece[name] for piece in found]).reshape(targets.shape) for name in found[0]}


def cell_scores(
    logits: Callable[[torch.Tensor], torch.Tensor], features: torch.Tensor, targets: torch.Tensor, *, vocab_size: int
) -> dict[str, torch.Tensor]:
    """`cross_entropy`, `accuracy` and `top_k_scores` of the 500 likeliest classes, for each cell.

    Args:
        logits: From features (n, D) to (n, V), as a model's output layer does: they are computed in pieces.
        features: (..., D).
        targets: int64 (...).
        vocab_size: V; where it is below 500, all classes are the top ones.

    Returns:
        Name -> float64, shaped like `targets`. Softmax is taken in float32.
    """
    _check_targets(targets, vocab_size=vocab_size, cells=features.shape[:-1])
    pieces: list[dict[str, torch.Tensor]] = []
    rows = max(1, _PIECE // vocab_size)
    flat = features.reshape(-1, features.shape[-1])
    for x, target in zip(flat.split(rows), targets.flatten().split(rows), strict=True):
        scores = logits(x).float()
        indices, values = top_k_log_probs(scores, min(TOP_K, vocab_size))
        pieces.append(
            {
                "cross_entropy": F.cross_entropy(scores, target, reduction="none").double(),
                "accuracy": (indices[:, 0] == target).double(),
                **top_k_scores(indices, values, target, vocab_size=vocab_size),
            }
        )
    return {name: torch.cat([piece[name] for piece in pieces]).reshape(targets.shape) for name in pieces[0]}


def _top_k_cells(
    indices: torch.Tensor, values: torch.Tensor, targets: torch.Tensor, *, num_missing: int, floor: float
) -> dict[str, torch.Tensor]:
    """Every reading of rows (N, k) with targets (N,): name -> float64 (N,)."""
    is_target = indices == targets[:, None]
    values = values.double()
    found, hit = is_target.any(-1), (values * is_target).sum(-1)
    total, smallest = values.logsumexp(-1), values.amin(-1)
    log_missing = math.log(num_missing) if num_missing else -math.inf
    tail = (1 - total.exp()).clamp(min=_MIN_TAIL)
    return {
        "top_k": torch.where(found, -hit, log_missing - tail.log()),
        "top_k_minfill": torch.logaddexp(total, smallest + log_missing) - torch.where(found, hit, smallest),
        "top_k_renorm": torch.where(found, total - hit, floor),
        "top_k_coverage": found.double(),
    }


def _rows_per_piece(x: torch.Tensor) -> int:
    return max(1, _PIECE // x.shape[-1])


def _rows(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """Pieces (n, x.shape[-1]) of x, in order."""
    yield from x.reshape(-1, x.shape[-1]).split(_rows_per_piece(x))


def _check_targets(targets: torch.Tensor, *, vocab_size: int | None, cells: torch.Size) -> None:
    if targets.ndim == 0 or targets.numel() == 0 or targets.is_floating_point():
        raise InputError(f"targets must be integers of shape (B, ...), got {targets.dtype} {tuple(targets.shape)}")
    if targets.shape != cells:
        raise InputError(f"targets have shape {tuple(targets.shape)}, the predictions are for {tuple(cells)}")
    if vocab_size is not None and not 0 <= int(targets.min()) <= int(targets.max()) < vocab_size:
        raise InputError(f"targets range over {targets.min()}..{targets.max()}, expected 0..{vocab_size - 1}")


def _check_top_k(indices: torch.Tensor, values: torch.Tensor, *, vocab_size: int, normalised: bool) -> None:
    if indices.is_floating_point() or not 0 <= int(indices.min()) <= int(indices.max()) < vocab_size:
        raise InputError(f"indices must be integers in 0..{vocab_size - 1}, found {indices.min()}..{indices.max()}")
    if (indices.sort(-1).values.diff(dim=-1) == 0).any():
        raise InputError("a cell lists the same index twice; the top-k score needs unique indices")
    if not values.isfinite().all():
        raise InputError("a value of the top k is not finite; submit log-probabilities")
    total = float(values.double().exp().sum(-1).max())
    if normalised and total > MAX_TOTAL_PROBABILITY:
        raise InputError(
            f"probabilities of one cell add up to {total:.6g}; values must be log-softmax over all {vocab_size} classes"
        )
