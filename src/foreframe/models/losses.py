"""Cross-entropy over many classes without holding every logit: 64,000 of them for 60,000 cells would take 15 GB."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

_PIECE = 2**28
"""Logits held at once; at 64,000 classes 4,194 rows, enough to keep matrix products efficient."""


def linear_cross_entropy(
    features: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, *, piece: int = _PIECE
) -> torch.Tensor:
    """Mean of -log softmax(features @ weight.T)[target]: features (N, D), weight (V, D), targets int64 (N,) -> scalar.

    Matrix products run in autocast's precision, softmax and loss in float32. Value and gradients are those of the
    plain loss; gradients are computed in the forward pass, so that each logit is computed once and kept nowhere.
    """
    device = features.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype
    # torch's own (from 2.13 on) gives the loss in its inputs' precision: in bfloat16 it is off by up to 0.5 nats.
    if dtype == torch.float32 and hasattr(F, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions()
        return F.linear_cross_entropy(features.to(dtype), weight.to(dtype), targets, options=options)
    with torch.autocast(device, enabled=False):
        value = _ChunkedLinearCrossEntropy.apply(features.to(dtype), weight.to(dtype), targets, piece)
    assert isinstance(value, torch.Tensor)
    return value


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, piece: int
    ) -> torch.Tensor:
        num_rows = max(1, piece // len(weight))
        total = features.new_zeros((), dtype=torch.float32)
        feature_gradients: list[torch.Tensor] = []
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32)
        for x, target in zip(features.split(num_rows), targets.split(num_rows), strict=True):
            log_probs = (x @ weight.T).float().log_softmax(-1)
            total -= log_probs.gather(1, target[:, None]).sum()
            slope = log_probs.exp_()
            slope.scatter_add_(1, target[:, None], slope.new_full((len(target), 1), -1.0))
            slope = (slope / len(targets)).to(weight.dtype)
            feature_gradients.append(slope @ weight)
            weight_gradient += slope.T @ x
        ctx.save_for_backward(torch.cat(feature_gradients), weight_gradient.to(weight.dtype))
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (outer,) = gradients
        by_features, by_weight = ctx.saved_tensors
        return by_features * outer, by_weight * outer, None, None
