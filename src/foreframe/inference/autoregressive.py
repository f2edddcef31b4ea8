"""Predict token grids one after another: autoregressive over time, all cells of a grid in parallel (report, 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from foreframe.models.st_transformer import STTransformer


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Future grids and the distributions they were taken from."""

    tokens: torch.Tensor
    """(B, N, h, w) int64: the most likely token of each cell, fed back as input for the next grid."""
    logits: torch.Tensor
    """(B, N, h, w, V) float32."""


@torch.no_grad()
def greedy_rollout(
    model: STTransformer, context: torch.Tensor, states: torch.Tensor, *, num_future: int = 3
) -> Rollout:
    """Continue `context` (B, C, h, w) by `num_future` grids, each the argmax given everything before it.

    `states` are the normalised rows (B, R, 25) of context and future; only logits of the newest grid are computed.
    """
    batch_size, _, height, width = context.shape
    grids, logits = context, []
    for _ in range(num_future):
        newest = model.logits(model(grids, states)[:, -1]).float()
        logits.append(newest)
        tokens = newest.argmax(-1).reshape(batch_size, 1, height, width)
        grids = torch.cat([grids, tokens], 1)
    stacked = torch.stack(logits, 1).reshape(batch_size, num_future, height, width, -1)
    return Rollout(tokens=grids[:, context.shape[1] :], logits=stacked)
