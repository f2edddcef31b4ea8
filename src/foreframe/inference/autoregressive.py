"""Predict token grids one after another: autoregressive over time, all cells of a grid in parallel (report, 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from foreframe.metrics.tokens import TOP_K, top_k_log_probs
from foreframe.models.st_transformer import TemporalCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreframe.models.st_transformer import STTransformer


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Future grids, and the features whose logits they were taken from."""

    tokens: torch.Tensor
    """(B, N, h, w) int64: what was fed back as input for the next grid."""
    features: torch.Tensor
    """(B, N, S, D): `model.logits` of them are the distributions; those of 64,000 classes would fill a GPU."""


@torch.no_grad()
def rollout(
    model: STTransformer,
    context: torch.Tensor,
    states: torch.Tensor,
    *,
    num_future: int = 3,
    temperature: float = 0.0,
    generators: Sequence[torch.Generator] | None = None,
) -> Rollout:
    """Continue `context` (B, C, h, w) by `num_future` grids, each chosen given everything before it.

    Every grid passes through the model once (`TemporalCache`), and only the newest grid's logits are computed.

    Args:
        model: In evaluation mode.
        context: Token grids.
        states: (B, R, 25) normalised state rows of context and future.
        num_future: Grids to predict.
        temperature: See `RolloutConfig`; cells of a grid are drawn independently of each other.
        generators: One for each clip, on the CPU; needed if the temperature is above 0.
    """
    batch_size, _, height, width = context.shape
    if temperature > 0 and (generators is None or len(generators) != batch_size):
        raise ValueError(f"a temperature of {temperature} needs a generator for each of the {batch_size} clips")
    cache, newest = TemporalCache(model.config), context
    grids: list[torch.Tensor] = []
    features: list[torch.Tensor] = []
    for _ in range(num_future):
        features.append(model(newest, states, cache=cache)[:, -1])
        chosen = [
            _choose(model.logits(clip).float(), temperature, generators[index] if generators else None)
            for index, clip in enumerate(features[-1])
        ]
        newest = torch.stack(chosen).reshape(batch_size, 1, height, width)
        grids.append(newest)
    return Rollout(tokens=torch.cat(grids, 1), features=torch.stack(features, 1))


@torch.no_grad()
def top_log_probs(model: STTransformer, prediction: Rollout, *, k: int = TOP_K) -> tuple[torch.Tensor, torch.Tensor]:
    """What a submission carries of a rollout: the k likeliest tokens of each cell and their log-probabilities.

    Returns indices int32 and values float32, (B, N, S, k) each, descending; log-softmax over the whole vocabulary.
    """
    grids = prediction.features.flatten(0, 1)
    tops = [top_k_log_probs(model.logits(grid), k) for grid in grids]
    indices, values = (
        torch.stack(parts).unflatten(0, prediction.features.shape[:2]) for parts in zip(*tops, strict=True)
    )
    return indices, values


def clip_generator(*numbers: int) -> torch.Generator:
    """A CPU generator of its own for each tuple of numbers: a seed and a clip's address, say."""
    words = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words.view(np.uint64)[0] >> 1))


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator | None) -> torch.Tensor:
    """Tokens (S,) from logits (S, V): the most likely ones, or draws by inverting each cell's distribution function."""
    if temperature <= 0:
        return logits.argmax(-1)
    logits = logits - logits.amax(-1, keepdim=True)  # so that no temperature, however low, overflows
    cumulative = (logits / temperature).softmax(-1).double().cumsum(-1)
    draws = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64).to(logits.device)
    tokens = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)
    return tokens[:, 0].clamp(max=logits.shape[-1] - 1)
