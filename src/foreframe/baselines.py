"""Trivial predictors that every score is shown beside: copy, mean and blur of frames; copy and unigrams of tokens.

Token pairs are six grids: three of context, three to predict. None of these predictors reads the robot's states.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from foreframe.errors import InputError
from foreframe.files import shortened
from foreframe.models.weights import read_tensors, save_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

Regime = Literal["teacher_forced", "autoregressive"]
"""What a grid is predicted from: the true grid before it, or only what the context leaves."""

REGIMES: tuple[Regime, ...] = get_args(Regime)
NUM_CONTEXT_GRIDS = 3
NUM_FUTURE_GRIDS = 3
TOKEN_STATISTICS_VERSION = 2
"""Format version of `TokenStatistics.to_dict`."""
CELL_STATISTICS_VERSION = 2
"""Format version of the file that `CellStatistics.save` writes."""

_MOST = 2**48
"""Beyond any count: the sum over a vocabulary still fits 64 bits."""
_PIECE = 2**23
"""Entries of a table worked on at once; a table of the challenge's size has 65 million."""


@dataclass(frozen=True, kw_only=True)
class TokenStatistics:
    """What the token baselines learn from the *training* pairs."""

    vocab_size: int
    """Number of classes V."""
    num_pairs: int
    """How many pairs were seen."""
    counts: tuple[int, ...]
    """How often each of the V tokens occurs in the future grids."""
    copy_grids: dict[Regime, tuple[int, ...]]
    """For each of the three future grids, which of the six a copy repeats: of those known in a regime, the one whose
    tokens come again most often. In a tokenizer whose grids differ in kind it is that of the same kind a block before,
    in others the last one."""
    copy_rates: dict[Regime, tuple[float, ...]]
    """For each of the three future grids, the share of cells that equal their source (`copy_sources`)."""
    copy_weights: dict[Regime, tuple[float, ...]]
    """For each of the three future grids, the maximum-likelihood `a` of p(z) = a [z = source] + (1 - a) unigram(z)."""

    @classmethod
    def fit(cls, pairs: Iterable[torch.Tensor], *, vocab_size: int) -> TokenStatistics:
        """Count over pairs of grids, int (6, h, w) each, in one pass."""
        counts = torch.zeros(vocab_size, dtype=torch.int64)
        # copies[step][grid, z]: how often a cell of future grid `step` is z, and so is that cell of the earlier grid.
        copies = [
            torch.zeros(NUM_CONTEXT_GRIDS + step, vocab_size, dtype=torch.int64) for step in range(NUM_FUTURE_GRIDS)
        ]
        num_pairs = num_cells = 0
        for pair in pairs:
            _check_pair(pair, vocab_size=vocab_size)
            grids = pair.long().cpu().flatten(1)
            counts += torch.bincount(grids[NUM_CONTEXT_GRIDS:].flatten(), minlength=vocab_size)
            for step, sums in enumerate(copies):
                future, earlier = grids[NUM_CONTEXT_GRIDS + step], grids[: NUM_CONTEXT_GRIDS + step]
                sums.scatter_add_(1, future.expand_as(earlier), (earlier == future).long())
            num_pairs += 1
            num_cells += grids.shape[1]
        if num_pairs == 0:
            raise InputError("no token pairs to fit the baselines to: the training split is empty")
        unigram = _smoothed(counts.numpy())
        copy_grids: dict[Regime, tuple[int, ...]] = {}
        copy_rates: dict[Regime, tuple[float, ...]] = {}
        copy_weights: dict[Regime, tuple[float, ...]] = {}
        for regime in REGIMES:
            known = [sums[:NUM_CONTEXT_GRIDS] if regime == "autoregressive" else sums for sums in copies]
            # Of equals the latest.
            chosen = [len(sums) - 1 - int(sums.sum(1).flip(0).argmax()) for sums in known]
            best = [sums[grid] for sums, grid in zip(known, chosen, strict=True)]
            copy_grids[regime] = tuple(chosen)
            copy_rates[regime] = tuple(int(step.sum()) / num_cells for step in best)
            copy_weights[regime] = tuple(_copy_weight(step.numpy(), unigram, num_cells=num_cells) for step in best)
        return cls(
            vocab_size=vocab_size,
            num_pairs=num_pairs,
            counts=tuple(counts.tolist()),
            copy_grids=copy_grids,
            copy_rates=copy_rates,
            copy_weights=copy_weights,
        )

    def copy_sources(self, grids: torch.Tensor, regime: Regime) -> torch.Tensor:
        """The tokens that a copy predicts: (..., 6, h, w) -> (..., 3, h, w).

        Teacher-forced, any grid before the future one may be repeated. Autoregressive, only the context is read, so
        (..., 3, h, w) is enough.
        """
        if regime not in REGIMES:
            raise ValueError(f"regime must be one of {', '.join(REGIMES)}, got {regime!r}")
        needed = NUM_CONTEXT_GRIDS + (NUM_FUTURE_GRIDS - 1 if regime == "teacher_forced" else 0)
        if grids.ndim < 3 or grids.shape[-3] < needed:
            raise InputError(f"a {regime} copy needs {needed} grids, got {tuple(grids.shape)}")
        return grids[..., list(self.copy_grids[regime]), :, :]

    @cached_property
    def log_unigram(self) -> torch.Tensor:
        """(V,) float64 log-probabilities, each token counted once more than it was seen."""
        return torch.from_numpy(_smoothed(np.array(self.counts, dtype=np.int64))).log()

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "version": TOKEN_STATISTICS_VERSION,
            "vocab_size": self.vocab_size,
            "num_pairs": self.num_pairs,
            "counts": list(self.counts),
            "copy_grids": {regime: list(self.copy_grids[regime]) for regime in REGIMES},
            "copy_rates": {regime: list(self.copy_rates[regime]) for regime in REGIMES},
            "copy_weights": {regime: list(self.copy_weights[regime]) for regime in REGIMES},
        }

    @classmethod
    def from_dict(cls, data: object, *, where: str) -> TokenStatistics:
        """Inverse of `to_dict`; `where` names the file in the error. Refuses another version."""
        if not isinstance(data, dict):
            raise InputError(f"{where}: token statistics must be a JSON object")
        version = data.get("version")
        if version != TOKEN_STATISTICS_VERSION:
            raise InputError(
                f"{where}: token statistics version {shortened(repr(version), 40)}, this build reads "
                f"{TOKEN_STATISTICS_VERSION}"
            )
        vocab_size, num_pairs, counts = (data.get(name) for name in ("vocab_size", "num_pairs", "counts"))
        if not isinstance(vocab_size, int) or not isinstance(num_pairs, int) or vocab_size < 1 or num_pairs < 1:
            raise InputError(
                f"{where}: vocab_size and num_pairs must be positive, got "
                f"{shortened(repr(vocab_size), 40)} and {shortened(repr(num_pairs), 40)}"
            )
        if not isinstance(counts, list) or len(counts) != vocab_size:
            raise InputError(f"{where}: token statistics must hold {vocab_size} counts")
        if not all(isinstance(count, int) and 0 <= count <= _MOST for count in counts):
            raise InputError(f"{where}: a count of the token statistics is not a whole number from 0 to {_MOST}")
        return cls(
            vocab_size=vocab_size,
            num_pairs=num_pairs,
            counts=tuple(counts),
            copy_grids=_copy_grids(data.get("copy_grids"), where=f"{where}: copy_grids"),
            copy_rates=_regimes(data.get("copy_rates"), where=f"{where}: copy_rates", below_one=False),
            copy_weights=_regimes(data.get("copy_weights"), where=f"{where}: copy_weights", below_one=True),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class CellStatistics:
    """What the unigram per cell learns from the *training* pairs.

    p(z | cell) = (counts[cell, z] + weight u(z)) / (n_cell + weight), where u is the smoothed unigram of the
    `TokenStatistics` from the same pairs, and n_cell the sum of the cell's counts.
    """

    counts: torch.Tensor
    """int32 (h*w, V): how often each token occurs in each cell over the future grids; cells row by row."""
    weight: float
    """How many tokens the unigram counts for in each cell, above 0; see `fit`."""

    @classmethod
    def fit(
        cls, pairs: Iterable[torch.Tensor], unigram: TokenStatistics, *, recordings: Iterable[int] | None = None
    ) -> CellStatistics:
        """Count over pairs of grids, int (6, h, w) each, in one pass; then choose the weight.

        Whatever is fitted to the tokens it was counted from sets the weight to 0: nothing suits them like their own
        frequencies. So a token's likelihood is taken from *other* tokens alone, and the weight maximises the sum of

            m log((o + weight u(z)) / (n_o + weight))

        over cells and tokens z, where m tokens are left out, and o of the n_o others are the same. `recordings` names
        the recording of each pair: every other recording is left out, then the rest, so that a cell is asked about
        rooms it does not know. Tokens of one recording repeat each other, and a weight that lets them vouch for each
        other is too small. Without `recordings`, or if there is but one, each token is left out by itself
        (leave-one-out: m = c, o = c - 1); in a cell with one token nothing then remains but the unigram.
        """
        halves: list[torch.Tensor] = []
        half_of: dict[int, int] = {}
        shape: torch.Size | None = None
        named = zip(pairs, repeat(0) if recordings is None else recordings, strict=recordings is not None)
        for pair, recording in named:
            _check_pair(pair, vocab_size=unigram.vocab_size)
            shape = pair.shape if shape is None else shape
            if pair.shape != shape:
                raise InputError(f"token pairs differ in shape: {tuple(shape)} and {tuple(pair.shape)}")
            half = half_of.setdefault(recording, len(half_of) % 2)
            if half == len(halves):
                halves.append(torch.zeros(shape[1:].numel(), unigram.vocab_size, dtype=torch.int32))
            future = pair[NUM_CONTEXT_GRIDS:].long().cpu().flatten(1)
            entries = (future + torch.arange(future.shape[1]) * unigram.vocab_size).flatten()
            halves[half].view(-1).scatter_add_(0, entries, torch.ones(len(entries), dtype=torch.int32))
        if not halves:
            raise InputError("no token pairs to fit the unigram per cell to: the training split is empty")
        weight = _cell_weight(halves, unigram.log_unigram.exp())
        for half in halves[1:]:
            halves[0] += half
        return cls(counts=halves[0], weight=weight)

    @cached_property
    def totals(self) -> torch.Tensor:
        """float64 (h*w,): n_cell, how many tokens were counted in each cell."""
        return _totals(self.counts)

    def save(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all; the counts, mostly zeros, as zlib packs them."""
        counts = self.counts.cpu().numpy().astype("<i4" if int(self.counts.max()) >= 2**15 else "<i2")
        packed = zlib.compress(counts.tobytes())
        tensors = {
            "version": torch.tensor([CELL_STATISTICS_VERSION]),
            "shape": torch.tensor(self.counts.shape),
            "weight": torch.tensor([self.weight], dtype=torch.float64),
            "bytes_each": torch.tensor([counts.itemsize]),
            "counts": torch.frombuffer(bytearray(packed), dtype=torch.uint8),
        }
        partial = path.with_name(f".{path.name}.partial")
        try:
            save_tensors(tensors, partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path, *, vocab_size: int, num_cells: int) -> CellStatistics:
        """Inverse of `save`; `InputError` if the file is missing, damaged, or about other cells or tokens."""
        if not path.exists():
            raise InputError(f"{path}: is missing, as in runs of earlier versions of foreframe; train anew")
        tensors = read_tensors(path)
        if "version" not in tensors or "shape" not in tensors:
            raise InputError(f"{path}: not the statistics of tokens per cell that training writes")
        if (version := tensors["version"].tolist()) != [CELL_STATISTICS_VERSION]:
            raise InputError(
                f"{path}: statistics of tokens per cell, version {shortened(version, 40)}, this build reads "
                f"{CELL_STATISTICS_VERSION}"
            )
        if (shape := tensors["shape"].tolist()) != [num_cells, vocab_size]:
            raise InputError(
                f"{path}: statistics of cells and tokens of size {shortened(shape, 40)}, but the model has "
                f"{num_cells} cells and {vocab_size} tokens"
            )
        damaged = InputError(f"{path}: damaged: its counts and weight do not fit together")
        if not set(tensors) >= {"weight", "bytes_each", "counts"} or tensors["counts"].dtype != torch.uint8:
            raise damaged
        weight, bytes_each = tensors["weight"].flatten().tolist(), tensors["bytes_each"].flatten().tolist()
        if bytes_each not in ([2], [4]) or len(weight) != 1 or not 0 < weight[0] < math.inf:
            raise damaged
        unpacker, size = zlib.decompressobj(), num_cells * vocab_size * bytes_each[0]
        try:
            # No more than belongs there, whatever the file would unpack to.
            content = unpacker.decompress(tensors["counts"].numpy().tobytes(), size + 1)
        except zlib.error:
            raise damaged from None
        if len(content) != size or not unpacker.eof:
            raise damaged
        counts = np.frombuffer(content, dtype=f"<i{bytes_each[0]}").astype(np.int32).reshape(num_cells, vocab_size)
        if counts.min() < 0 or counts.max() == 0:
            raise damaged
        return cls(counts=torch.from_numpy(counts), weight=weight[0])


def unigram_log_probs(statistics: TokenStatistics, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability, in nats, of each target token by its frequency in training: (...) int -> (...) float64."""
    return statistics.log_unigram.to(targets.device)[targets.long()]


def unigram_top_k(statistics: TokenStatistics, *, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k likeliest tokens of any cell by the unigram: indices int32 (k,), log-probabilities float32 (k,)."""
    _check_k(k, vocab_size=statistics.vocab_size)
    top = statistics.log_unigram.topk(k)
    return top.indices.int(), top.values.float()


def cell_log_probs(cells: CellStatistics, unigram: TokenStatistics, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability, in nats, of each target by the unigram of its cell: (..., h, w) int -> (..., h, w) float64."""
    _check_cells(cells, unigram)
    if targets.ndim < 2 or targets.shape[-2:].numel() != len(cells.counts):
        raise InputError(f"targets have shape {tuple(targets.shape)}, the statistics are of {len(cells.counts)} cells")
    tokens = targets.long().cpu().flatten(-2)  # (..., h*w)
    seen = cells.counts[torch.arange(len(cells.counts)), tokens]
    smoothed = seen + cells.weight * unigram.log_unigram[tokens].exp()
    return (smoothed / (cells.totals + cells.weight)).log().view(targets.shape).to(targets.device)


def cell_top_k(cells: CellStatistics, unigram: TokenStatistics, *, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k likeliest tokens of each cell by the same: indices int32 (h*w, k), log-probabilities float32 (h*w, k).

    Descending, as `metrics.tokens.top_k_cross_entropy` takes them. The same for every clip: compute it once.
    """
    _check_cells(cells, unigram)
    _check_k(k, vocab_size=unigram.vocab_size)
    smoothing = cells.weight * unigram.log_unigram.exp()
    tops = [(rows + smoothing).topk(k) for rows in _pieces(cells.counts)]
    values = torch.cat([top.values for top in tops]) / (cells.totals + cells.weight)[:, None]
    return torch.cat([top.indices.int() for top in tops]), values.log().float()


def copy_log_probs(
    statistics: TokenStatistics, source: torch.Tensor, targets: torch.Tensor, *, grid_step: int, regime: Regime
) -> torch.Tensor:
    """Log-probability, in nats, of each target by copy with smoothing: (..., h, w) int twice -> float64.

    log(a [target = source] + (1 - a) unigram(target)), where `a` is the weight of `regime` for future grid `grid_step`
    (0, 1 or 2), and `source` is that grid of `TokenStatistics.copy_sources`. A proper distribution over all V tokens
    of a cell, of which only the target's entry is ever computed.
    """
    log_copy, log_rest = _log_weights(statistics, grid_step=grid_step, regime=regime)
    smoothing = log_rest + unigram_log_probs(statistics, targets)
    copied = torch.logaddexp(smoothing.new_tensor(log_copy), smoothing)
    return torch.where(source == targets, copied, smoothing)


def copy_top_k(
    statistics: TokenStatistics, source: torch.Tensor, *, k: int, grid_step: int, regime: Regime
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k likeliest tokens of the same distribution: source (..., h, w) -> indices int32, values float32 (..., k).

    Descending log-probabilities, as `metrics.tokens.top_k_cross_entropy` and a submission take them.
    """
    _check_k(k, vocab_size=statistics.vocab_size)
    common = statistics.log_unigram.topk(k).indices.to(source.device)
    source = source.long()[..., None]
    # The source first, then the most common tokens; where it is one of them, that second mention is struck out.
    candidates = torch.cat([source, common.expand(*source.shape[:-1], k)], -1)
    log_probs = copy_log_probs(statistics, source, candidates, grid_step=grid_step, regime=regime)
    log_probs[..., 1:].masked_fill_(candidates[..., 1:] == source, -math.inf)
    top = log_probs.topk(k)
    return candidates.gather(-1, top.indices).int(), top.values.float()


def copy_last(context: torch.Tensor, num_future: int) -> torch.Tensor:
    """The last context frame again: uint8 (B, T, H, W, 3) -> uint8 (B, num_future, H, W, 3)."""
    _check_context(context, num_future)
    return _repeat(context[:, -1], num_future)


def context_mean(context: torch.Tensor, num_future: int) -> torch.Tensor:
    """The mean of the context frames, rounded: uint8 (B, T, H, W, 3) -> uint8 (B, num_future, H, W, 3)."""
    _check_context(context, num_future)
    mean = context.sum(1, dtype=torch.int32).double() / context.shape[1]
    return _repeat(mean.round().byte(), num_future)


def blur(context: torch.Tensor, num_future: int, *, sigma: float = 3.0) -> torch.Tensor:
    """The last context frame, blurred: uint8 (B, T, H, W, 3) -> uint8 (B, num_future, H, W, 3).

    Where things move, a blur loses less PSNR than a sharp frame out of place. Gaussian of `sigma` pixels, cut at four
    sigma or the frame's size, borders reflected. The default is *assumed*; choose it on training clips.
    """
    _check_context(context, num_future)
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be a positive number of pixels, got {sigma}")
    height, width = context.shape[2:4]
    radius = min(math.ceil(4 * sigma), height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=context.device)
    kernel = torch.softmax(-0.5 * (offsets / sigma) ** 2, 0)
    frames = context[:, -1].movedim(-1, 1).float().reshape(-1, 1, height, width)  # (B*3, 1, H, W)
    frames = F.conv2d(F.pad(frames, (radius, radius, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
    frames = F.conv2d(F.pad(frames, (0, 0, radius, radius), mode="reflect"), kernel.view(1, 1, -1, 1))
    blurred = frames.round().clamp(0, 255).byte().reshape(-1, 3, height, width).movedim(1, -1)
    return _repeat(blurred, num_future)


def _smoothed(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return (counts + 1) / (counts.sum() + len(counts))


def _copy_weight(copies: npt.NDArray[np.int64], unigram: npt.NDArray[np.float64], *, num_cells: int) -> float:
    """Maximum-likelihood `a`, given how often each token was copied, by bisection on the likelihood's slope.

    The log-likelihood sum_z copies_z log(a + (1 - a) u_z) + misses log(1 - a) is concave in a, so its slope has one
    root. One miss is added to those seen, so that a stays below 1 and no token is ever impossible.
    """
    misses = num_cells - int(copies.sum()) + 1
    seen = copies > 0
    times, u = copies[seen], unigram[seen]

    def slope(a: float) -> float:
        return float((times * (1 - u) / (a + (1 - a) * u)).sum()) - misses / (1 - a)

    low, high = 0.0, 1 - 1 / (num_cells + 1)  # The slope is never positive at `high`: a term is at most 1/a there.
    if slope(low) <= 0:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return low


def _cell_weight(halves: Sequence[torch.Tensor], unigram: torch.Tensor) -> float:
    """The pseudo-count of `CellStatistics.fit`, between a thousandth of a token and a million times what a cell holds.

    A coarse search over its logarithm brackets the maximum, golden sections narrow the bracket. Where cells make no
    difference the likelihood rises to the last, and what comes out is the unigram in all but name.
    """
    totals = [_totals(half) for half in halves]
    if len(halves) == 1:
        parts, asked, given = [_left_out(halves[0], None)], totals[0], totals[0] - 1
    else:
        parts = [_left_out(*halves), _left_out(*reversed(halves))]
        asked, given = torch.cat(totals), torch.cat(totals[::-1])
    tokens, others, times = (torch.cat([part[index] for part in parts]) for index in range(3))
    u, times = unigram[tokens], times.double()

    def likelihood(log_weight: float) -> float:
        weight = math.exp(log_weight)
        return float((others + weight * u).log() @ times - (given + weight).log() @ asked)

    low, high = math.log(1e-3), math.log(1e6 * (float(given.max()) + 1))
    step = (high - low) / 48
    best = max((low + index * step for index in range(49)), key=likelihood)
    low, high = max(low, best - step), min(high, best + step)
    golden = (math.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if likelihood(left) >= likelihood(right) else (left, high)
    return math.exp((low + high) / 2)


def _left_out(counts: torch.Tensor, others: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How often a token z is left out where o of the same remain: (z, o, how often), far fewer than entries.

    `others` are the counts that remain, (cells, V) as `counts`; None for leave-one-out, where one less remains.
    """
    base = 1 + int((counts if others is None else others).max())
    width = max(1, _PIECE // len(counts))
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    for first in range(0, counts.shape[1], width):
        block = counts[:, first : first + width].T
        rest = block - 1 if others is None else others[:, first : first + width].T
        token, cell = block.nonzero(as_tuple=True)
        keys, places = ((first + token) * base + rest[token, cell]).unique(return_inverse=True)
        parts.append((keys, torch.zeros_like(keys).scatter_add_(0, places, block[token, cell].long())))
    keys, times = (torch.cat([part[index] for part in parts]) for index in (0, 1))
    return keys // base, keys % base, times


def _totals(counts: torch.Tensor) -> torch.Tensor:
    """float64 sums of a table's rows."""
    return torch.cat([rows.double().sum(1) for rows in _pieces(counts)])


def _pieces(table: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A table's rows in order, a few at a time."""
    return table.split(max(1, _PIECE // table.shape[1]))


def _log_weights(statistics: TokenStatistics, *, grid_step: int, regime: Regime) -> tuple[float, float]:
    """Logarithms of a and 1 - a."""
    if regime not in REGIMES:
        raise ValueError(f"regime must be one of {', '.join(REGIMES)}, got {regime!r}")
    if grid_step not in range(NUM_FUTURE_GRIDS):
        raise ValueError(f"grid_step must be in 0..{NUM_FUTURE_GRIDS - 1}, got {grid_step}")
    weight = statistics.copy_weights[regime][grid_step]
    return math.log(weight) if weight > 0 else -math.inf, math.log1p(-weight)


def _regimes(data: object, *, where: str, below_one: bool) -> dict[Regime, tuple[float, ...]]:
    """Read a share for each regime and future grid, or raise `InputError`."""
    if not isinstance(data, dict) or set(data) != set(REGIMES):
        raise InputError(f"{where} must hold {' and '.join(REGIMES)}")
    result: dict[Regime, tuple[float, ...]] = {}
    for regime in REGIMES:
        shares = data[regime]
        if not isinstance(shares, list) or len(shares) != NUM_FUTURE_GRIDS:
            raise InputError(f"{where} must hold {NUM_FUTURE_GRIDS} numbers for {regime}, got {shortened(shares, 80)}")
        if not all(isinstance(x, int | float) and 0 <= x <= 1 and not (below_one and x == 1) for x in shares):
            raise InputError(
                f"{where} must be shares from 0 to 1{' exclusive' if below_one else ''}, got {shortened(shares, 80)}"
            )
        result[regime] = tuple(map(float, shares))
    return result


def _copy_grids(data: object, *, where: str) -> dict[Regime, tuple[int, ...]]:
    """Read which grid is copied in each regime to each future grid, or raise `InputError`."""
    if not isinstance(data, dict) or set(data) != set(REGIMES):
        raise InputError(f"{where} must hold {' and '.join(REGIMES)}")
    result: dict[Regime, tuple[int, ...]] = {}
    for regime in REGIMES:
        grids = data[regime]
        known = [NUM_CONTEXT_GRIDS + (step if regime == "teacher_forced" else 0) for step in range(NUM_FUTURE_GRIDS)]
        if (
            not isinstance(grids, list)
            or len(grids) != NUM_FUTURE_GRIDS
            or not all(type(grid) is int and 0 <= grid < below for grid, below in zip(grids, known, strict=True))
        ):
            raise InputError(
                f"{where} must name an earlier grid for each future one in {regime}, got {shortened(grids, 80)}"
            )
        result[regime] = tuple(grids)
    return result


def _check_pair(pair: torch.Tensor, *, vocab_size: int) -> None:
    if pair.ndim != 3 or len(pair) != NUM_CONTEXT_GRIDS + NUM_FUTURE_GRIDS or pair.is_floating_point():
        raise InputError(f"a token pair must be integers of shape (6, h, w), got {pair.dtype} {tuple(pair.shape)}")
    if pair.numel() == 0:
        raise InputError(f"a token pair has no cells: {tuple(pair.shape)}")
    if not 0 <= int(pair.min()) <= int(pair.max()) < vocab_size:
        raise InputError(f"a token pair ranges over {pair.min()}..{pair.max()}, expected 0..{vocab_size - 1}")


def _check_k(k: int, *, vocab_size: int) -> None:
    if not 1 <= k <= vocab_size:
        raise ValueError(f"k must be in 1..{vocab_size}, the number of tokens, got {k}")


def _check_cells(cells: CellStatistics, unigram: TokenStatistics) -> None:
    if cells.counts.shape[1] != unigram.vocab_size:
        raise ValueError(f"statistics of {cells.counts.shape[1]} tokens per cell and of {unigram.vocab_size} in all")


def _check_context(context: torch.Tensor, num_future: int) -> None:
    if context.dtype != torch.uint8 or context.ndim != 5 or context.shape[-1] != 3 or context.shape[1] == 0:
        raise InputError(f"context must be uint8 (B, T, H, W, 3), got {context.dtype} {tuple(context.shape)}")
    if num_future < 1:
        raise ValueError(f"num_future must be at least 1, got {num_future}")


def _repeat(frame: torch.Tensor, num_future: int) -> torch.Tensor:
    return frame[:, None].repeat(1, num_future, 1, 1, 1)
