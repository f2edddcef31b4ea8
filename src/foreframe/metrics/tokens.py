"""Token scores, one number per clip: cross-entropy in nats, accuracy, and cross-entropy from the top k alone.

Axis 0 is the clip; scores are means over every other axis but the vocabulary's. Logits are worked through in pieces, so
that 64,000 classes need little memory beyond their own.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from foreframe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

Definition = Literal["tail", "minfill", "renorm"]
"""What a target outside the top k costs; see `top_k_cross_entropy`."""

MAX_TOTAL_PROBABILITY = 1 + 1e-4
"""How much the exponentials of one cell's values may add up to: rounding is forgiven, raw logits are not."""

_MIN_TAIL = 1e-12
_PIECE = 2**26
"""Elements worked on at once: a 32x32 grid of 64,000 classes."""


def token_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean of -log softmax(logits)[target] over a clip's cells, in nats: logits (B, ..., V), targets (B, ...) -> (B,).

    Float32 per cell whatever the logits are, float64 mean. Made for scoring under `torch.no_grad`.
    """
    _check_targets(targets, vocab_size=logits.shape[-1], cells=logits.shape[:-1])
    pieces = zip(_rows(logits), targets.flatten().long().split(_rows_per_piece(logits)), strict=True)
    losses = torch.cat([F.cross_entropy(rows.float(), target, reduction="none") for rows, target in pieces])
    return _clip_mean(losses, targets)


def token_accuracy(predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Share of a clip's cells whose predicted token is the target: int (B, ...) twice -> float64 (B,)."""
    _check_targets(targets, vocab_size=None, cells=predicted.shape)
    return _clip_mean(predicted == targets, targets)


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
    (B, ...). The challenge scores k = 500 of V = 64,000 (1X challenge report, section 3) but publishes no formula.
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
    if definition not in ("tail", "minfill", "renorm"):
        raise ValueError(f"definition must be 'tail', 'minfill' or 'renorm', got {definition!r}")
    if floor is not None and definition != "renorm":
        warnings.warn(f"floor={floor} has no effect on the definition {definition!r}", stacklevel=2)
    if indices.shape != values.shape:
        raise InputError(f"indices {tuple(indices.shape)} and values {tuple(values.shape)} differ in shape")
    _check_targets(targets, vocab_size=vocab_size, cells=indices.shape[:-1])
    size = _rows_per_piece(indices)
    losses: list[torch.Tensor] = []
    for index, value, target in zip(_rows(indices), _rows(values), targets.flatten().split(size), strict=True):
        _check_top_k(index, value, vocab_size=vocab_size, normalised=definition == "tail")
        is_target = index == target[:, None]
        value = value.double()
        losses.append(
            _cell_losses(
                value,
                found=is_target.any(-1),
                hit=value.masked_fill(~is_target, 0).sum(-1),
                num_missing=vocab_size - indices.shape[-1],
                definition=definition,
                floor=math.log(vocab_size) if floor is None else floor,
            )
        )
    return _clip_mean(torch.cat(losses), targets)


def top_k_coverage(indices: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Share of a clip's targets (B, ...) that are among the submitted indices (B, ..., k): float64 (B,)."""
    _check_targets(targets, vocab_size=None, cells=indices.shape[:-1])
    return _clip_mean((indices == targets[..., None]).any(-1), targets)


def _cell_losses(
    values: torch.Tensor, *, found: torch.Tensor, hit: torch.Tensor, num_missing: int, definition: str, floor: float
) -> torch.Tensor:
    """Nats of each row of `values` (N, k), float64; see `top_k_cross_entropy`."""
    log_missing = math.log(num_missing) if num_missing else -math.inf
    if definition == "tail":
        tail = (1 - values.exp().sum(-1)).clamp(min=_MIN_TAIL)
        return torch.where(found, -hit, log_missing - tail.log())
    total = values.logsumexp(-1)
    if definition == "minfill":
        smallest = values.amin(-1)
        return torch.logaddexp(total, smallest + log_missing) - torch.where(found, hit, smallest)
    return torch.where(found, total - hit, floor)


def _rows_per_piece(x: torch.Tensor) -> int:
    return max(1, _PIECE // x.shape[-1])


def _rows(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """Pieces (n, x.shape[-1]) of x, in order."""
    yield from x.reshape(-1, x.shape[-1]).split(_rows_per_piece(x))


def _clip_mean(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.double().reshape(like.shape[0], -1).mean(1)


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
