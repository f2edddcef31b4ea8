"""Baselines against naive second implementations and identities."""

from __future__ import annotations

import json
import math
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from foreframe.baselines import (
    REGIMES,
    CellStatistics,
    TokenStatistics,
    blur,
    cell_log_probs,
    cell_top_k,
    context_mean,
    copy_last,
    copy_log_probs,
    copy_top_k,
    unigram_log_probs,
    unigram_top_k,
)
from foreframe.errors import InputError
from foreframe.metrics.tokens import top_k_cross_entropy
from foreframe.models.weights import read_tensors, save_tensors

VOCAB_SIZE = 12


def token_pairs(seed: int = 0, *, num: int = 40) -> torch.Tensor:
    """(num, 6, 3, 4) skewed tokens; each grid keeps half the cells of the one before."""
    generator = torch.Generator().manual_seed(seed)
    frequencies = 1.0 / torch.arange(1, VOCAB_SIZE + 1)
    grids = torch.multinomial(frequencies, num * 6 * 12, replacement=True, generator=generator).view(num, 6, 3, 4)
    keep = torch.rand(grids.shape, generator=generator) < 0.5
    for step in range(1, 6):
        grids[:, step] = torch.where(keep[:, step], grids[:, step - 1], grids[:, step])
    return grids


@pytest.fixture(scope="module")
def statistics() -> TokenStatistics:
    return TokenStatistics.fit(token_pairs(), vocab_size=VOCAB_SIZE)


class TestTokens:
    def test_counts_and_rates_are_what_was_seen(self, statistics: TokenStatistics) -> None:
        pairs = token_pairs()
        assert statistics.num_pairs == 40
        assert list(statistics.counts) == [int((pairs[:, 3:] == z).sum()) for z in range(VOCAB_SIZE)]
        for step in range(3):
            previous = (pairs[:, 3 + step] == pairs[:, 2 + step]).double().mean().item()
            last_context = (pairs[:, 3 + step] == pairs[:, 2]).double().mean().item()
            assert statistics.copy_rates["teacher_forced"][step] == pytest.approx(previous)
            assert statistics.copy_rates["autoregressive"][step] == pytest.approx(last_context)
        rates = statistics.copy_rates["autoregressive"]
        assert rates[0] == statistics.copy_rates["teacher_forced"][0]
        assert rates[0] > rates[1] > rates[2]

    def test_sources(self, statistics: TokenStatistics) -> None:
        pairs = token_pairs()
        assert torch.equal(statistics.copy_sources(pairs, "teacher_forced"), pairs[:, 2:5])
        expected = pairs[:, [2, 2, 2]]
        assert torch.equal(statistics.copy_sources(pairs, "autoregressive"), expected)
        assert torch.equal(statistics.copy_sources(pairs[:, :3], "autoregressive"), expected)
        with pytest.raises(InputError, match="needs 5 grids"):
            statistics.copy_sources(pairs[:, :3], "teacher_forced")
        with pytest.raises(ValueError, match="regime"):
            statistics.copy_sources(pairs, "greedy")  # pyright: ignore[reportArgumentType]

    def test_sources_are_the_grids_that_come_again(self) -> None:
        """Blocks whose grids differ in kind repeat a block later; then the last grid but one follows its own pace."""
        pairs = token_pairs(7)
        pairs[:, 3:] = torch.where(
            torch.rand(40, 3, 3, 4, generator=torch.Generator().manual_seed(3)) < 0.9, pairs[:, :3], 0
        )
        pairs[:, 5] = pairs[:, 3]
        fitted = TokenStatistics.fit(pairs, vocab_size=VOCAB_SIZE)
        naive = [
            [(pairs[:, grid] == pairs[:, 3 + step]).double().mean().item() for grid in range(5)] for step in range(3)
        ]
        assert fitted.copy_grids["autoregressive"] == tuple(int(np.argmax(rates[:3])) for rates in naive)
        assert fitted.copy_grids["teacher_forced"] == tuple(
            int(np.argmax(rates[: 3 + step])) for step, rates in enumerate(naive)
        )
        assert fitted.copy_grids == {"teacher_forced": (0, 1, 3), "autoregressive": (0, 1, 0)}
        for regime in REGIMES:
            rates = [naive[step][grid] for step, grid in enumerate(fitted.copy_grids[regime])]
            assert fitted.copy_rates[regime] == pytest.approx(rates)
            assert torch.equal(fitted.copy_sources(pairs, regime), pairs[:, list(fitted.copy_grids[regime])])

    def test_unigram(self, statistics: TokenStatistics) -> None:
        assert statistics.log_unigram.exp().sum().item() == pytest.approx(1)
        targets = torch.tensor([[0, 11]])
        total = sum(statistics.counts) + VOCAB_SIZE
        expected = [[math.log((statistics.counts[z] + 1) / total) for z in (0, 11)]]
        torch.testing.assert_close(unigram_log_probs(statistics, targets), torch.tensor(expected, dtype=torch.float64))

    @pytest.mark.parametrize("regime", REGIMES)
    @pytest.mark.parametrize("grid_step", [0, 1, 2])
    def test_copy_is_a_distribution(self, statistics: TokenStatistics, regime, grid_step: int) -> None:
        source = torch.arange(VOCAB_SIZE)[:, None].expand(-1, VOCAB_SIZE)
        every_token = torch.arange(VOCAB_SIZE).expand(VOCAB_SIZE, -1)
        log_probs = copy_log_probs(statistics, source, every_token, grid_step=grid_step, regime=regime)
        torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(VOCAB_SIZE, dtype=torch.float64))
        weight, unigram = statistics.copy_weights[regime][grid_step], statistics.log_unigram.exp()
        naive = weight * torch.eye(VOCAB_SIZE, dtype=torch.float64) + (1 - weight) * unigram
        torch.testing.assert_close(log_probs.exp(), naive)

    @pytest.mark.parametrize("regime", REGIMES)
    def test_weights_are_the_likeliest(self, statistics: TokenStatistics, regime) -> None:
        pairs = token_pairs()
        sources = statistics.copy_sources(pairs, regime)
        unigram = statistics.log_unigram.exp().numpy()
        for step in range(3):
            source, target = sources[:, step].flatten().numpy(), pairs[:, 3 + step].flatten().numpy()
            grid = np.linspace(0, 0.999, 1000)[:, None]
            likelihood = np.log(grid * (source == target) + (1 - grid) * unigram[target]).sum(1) + np.log(
                1 - grid[:, 0]
            )
            assert statistics.copy_weights[regime][step] == pytest.approx(grid[likelihood.argmax(), 0], abs=1.1e-3)
            # A cell that is kept half the time is copied, and seen to be copied more often still.
            assert 0 < statistics.copy_weights[regime][step] < statistics.copy_rates[regime][step]
        assert statistics.copy_weights["teacher_forced"][2] == pytest.approx(0.5, abs=0.1)

    def test_a_frozen_world_leaves_every_token_possible(self) -> None:
        still = [torch.randint(5, (2, 2)).expand(6, 2, 2) for _ in range(10)]
        frozen = TokenStatistics.fit(still, vocab_size=5)
        assert frozen.copy_rates == dict.fromkeys(REGIMES, (1.0, 1.0, 1.0))
        weight = frozen.copy_weights["teacher_forced"][0]
        assert 0.9 < weight < 1
        source, target = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
        log_prob = copy_log_probs(frozen, source, target, grid_step=0, regime="teacher_forced")
        assert log_prob.isfinite().all()

    def test_what_never_repeats_is_not_copied(self) -> None:
        checkers = torch.arange(6)[:, None, None].expand(6, 2, 2) % 6
        restless = TokenStatistics.fit([checkers], vocab_size=6)
        assert restless.copy_weights == dict.fromkeys(REGIMES, (0.0, 0.0, 0.0))
        log_probs = copy_log_probs(restless, checkers[2], checkers[2], grid_step=0, regime="autoregressive")
        torch.testing.assert_close(log_probs, unigram_log_probs(restless, checkers[2]))

    @pytest.mark.parametrize("k", [1, 5, VOCAB_SIZE])
    def test_top_k_is_that_of_the_whole_distribution(self, statistics: TokenStatistics, k: int) -> None:
        source = torch.arange(VOCAB_SIZE).view(1, VOCAB_SIZE, 1)
        every_token = torch.arange(VOCAB_SIZE).expand(1, VOCAB_SIZE, -1)
        whole = copy_log_probs(statistics, source, every_token, grid_step=1, regime="autoregressive")
        indices, values = copy_top_k(statistics, source[..., 0], k=k, grid_step=1, regime="autoregressive")
        assert indices.shape == values.shape == (1, VOCAB_SIZE, k)
        assert (indices.dtype, values.dtype) == (torch.int32, torch.float32)
        torch.testing.assert_close(values, whole.topk(k).values.float())
        torch.testing.assert_close(values, whole.gather(-1, indices.long()).float())

    def test_top_k_of_all_tokens_scores_as_the_log_probs_do(self, statistics: TokenStatistics) -> None:
        pairs = token_pairs(1)
        source, targets = statistics.copy_sources(pairs, "teacher_forced")[:, 0], pairs[:, 3]
        top = copy_top_k(statistics, source, k=VOCAB_SIZE, grid_step=0, regime="teacher_forced")
        plain = -copy_log_probs(statistics, source, targets, grid_step=0, regime="teacher_forced").mean((1, 2))
        torch.testing.assert_close(top_k_cross_entropy(*top, targets, vocab_size=VOCAB_SIZE), plain, rtol=1e-6, atol=0)
        assert plain.mean() < -unigram_log_probs(statistics, targets).mean()

    def test_survives_json(self, statistics: TokenStatistics) -> None:
        data = json.loads(json.dumps(statistics.to_dict()))
        assert TokenStatistics.from_dict(data, where="here") == statistics

    @pytest.mark.parametrize(
        "change",
        [
            {"version": 1},
            {"vocab_size": 13},
            {"num_pairs": None},
            {"counts": [-1] * VOCAB_SIZE},
            {"copy_rates": {}},
            {"copy_grids": None},
            {"copy_grids": {"teacher_forced": [2, 3, 4], "autoregressive": [2, 2]}},
            {"copy_grids": {"teacher_forced": [2, 3, 5], "autoregressive": [2, 2, 2]}},
            {"copy_grids": {"teacher_forced": [2, 3, 4], "autoregressive": [2, 2, 3]}},
            {"copy_grids": {"teacher_forced": [2, 3, 4], "autoregressive": [2, 2, -1]}},
            {"copy_grids": {"teacher_forced": [2, 3, 4], "autoregressive": [2, 2, 1.0]}},
            {"copy_weights": {regime: [0.5, 0.5] for regime in REGIMES}},
            {"copy_weights": {regime: [0.5, 0.5, 1.0] for regime in REGIMES}},
            {"copy_weights": {regime: [0.5, 0.5, math.nan] for regime in REGIMES}},
        ],
    )
    def test_faulty_files_are_refused(self, statistics: TokenStatistics, change: dict[str, object]) -> None:
        with pytest.raises(InputError, match=r"^stats\.json"):
            TokenStatistics.from_dict({**statistics.to_dict(), **change}, where="stats.json")

    def test_faulty_pairs_are_refused(self, statistics: TokenStatistics) -> None:
        with pytest.raises(InputError, match="empty"):
            TokenStatistics.fit([], vocab_size=3)
        with pytest.raises(InputError, match=r"0\.\.2"):
            TokenStatistics.fit([torch.full((6, 2, 2), 3)], vocab_size=3)
        with pytest.raises(InputError, match=r"\(6, h, w\)"):
            TokenStatistics.fit([torch.zeros(5, 2, 2, dtype=torch.int64)], vocab_size=3)
        grid = torch.zeros(1, 2, 2, dtype=torch.int64)
        with pytest.raises(ValueError, match="grid_step"):
            copy_log_probs(statistics, grid, grid, grid_step=-1, regime="autoregressive")
        with pytest.raises(ValueError, match="regime"):
            copy_log_probs(statistics, grid, grid, grid_step=0, regime="greedy")  # pyright: ignore[reportArgumentType]

    def test_scales_to_the_challenge(self) -> None:
        pair = torch.randint(64_000, (6, 32, 32), generator=torch.Generator().manual_seed(0))
        large = TokenStatistics.fit([pair], vocab_size=64_000)
        source = large.copy_sources(pair, "autoregressive")[0]
        indices, values = copy_top_k(large, source, k=500, grid_step=0, regime="autoregressive")
        assert indices.shape == (32, 32, 500)
        assert (values.exp().sum(-1) <= 1).all()
        cells = CellStatistics.fit([pair], large)
        assert cells.counts.shape == (1024, 64_000)
        assert cell_log_probs(cells, large, pair[3:]).isfinite().all()

    @pytest.mark.parametrize("k", [1, 5, VOCAB_SIZE])
    def test_unigram_top_k(self, statistics: TokenStatistics, k: int) -> None:
        indices, values = unigram_top_k(statistics, k=k)
        assert (indices.dtype, values.dtype, len(indices)) == (torch.int32, torch.float32, k)
        torch.testing.assert_close(values, statistics.log_unigram.sort(descending=True).values[:k].float())
        torch.testing.assert_close(values, statistics.log_unigram[indices.long()].float())
        with pytest.raises(ValueError, match="number of tokens"):
            unigram_top_k(statistics, k=0)


def local_pairs(seed: int = 0, *, num: int = 40, sameness: float = 0.0) -> torch.Tensor:
    """(num, 6, 3, 4) tokens from a distribution of each cell's own, mixed with one of all cells."""
    everywhere = 1.0 / torch.arange(1, VOCAB_SIZE + 1)
    own = torch.rand(12, VOCAB_SIZE, generator=torch.Generator().manual_seed(99)) ** 6
    mixed = sameness * everywhere / everywhere.sum() + (1 - sameness) * own / own.sum(1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(mixed, num * 6, replacement=True, generator=generator).T.reshape(num, 6, 3, 4)


def packed(content: bytes) -> torch.Tensor:
    """As a file of `CellStatistics` holds its counts."""
    return torch.frombuffer(bytearray(zlib.compress(content)), dtype=torch.uint8)


def rooms(seed: int, *, num: int, pairs_each: int = 5) -> tuple[torch.Tensor, list[int]]:
    """Pairs of still rooms: a cell shows one of its tokens throughout a recording, most of the time."""
    stills = local_pairs(seed, num=num, sameness=0.7)[:, :1].repeat_interleave(pairs_each, 0).expand(-1, 6, -1, -1)
    moved = torch.rand(stills.shape, generator=torch.Generator().manual_seed(seed)) < 0.1
    pairs = torch.where(moved, local_pairs(seed + 1, num=len(stills), sameness=0.7), stills)
    return pairs, [index // pairs_each for index in range(len(pairs))]


def naive_likelihood(asked: np.ndarray, given: np.ndarray, unigram: np.ndarray, weight: float) -> float:
    """Of each count in `asked` (cells, V), from the counts `given`, which may lack one of the same token."""
    p = (given + weight * unigram) / (given.sum(1, keepdims=True) + weight)
    return float((asked[asked > 0] * np.log(p[asked > 0])).sum())


def leave_one_out(counts: np.ndarray, unigram: np.ndarray, weight: float) -> float:
    total = 0.0
    for cell, token in np.argwhere(counts):
        others = counts[cell].copy()
        others[token] -= 1
        p = (others[token] + weight * unigram[token]) / (others.sum() + weight)
        total += counts[cell, token] * math.log(p)
    return total


@pytest.fixture(scope="module")
def unigram() -> TokenStatistics:
    return TokenStatistics.fit(local_pairs(), vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="module")
def cells(unigram: TokenStatistics) -> CellStatistics:
    return CellStatistics.fit(iter(local_pairs()), unigram)


class TestCells:
    def test_counts_are_what_was_seen(self, cells: CellStatistics, unigram: TokenStatistics) -> None:
        future = local_pairs()[:, 3:].flatten(2)
        for cell in range(12):
            assert cells.counts[cell].tolist() == [int((future[..., cell] == z).sum()) for z in range(VOCAB_SIZE)]
        assert cells.counts.dtype == torch.int32
        assert cells.totals.tolist() == [120.0] * 12
        assert tuple(cells.counts.sum(0).tolist()) == unigram.counts

    def test_every_cell_has_a_distribution(self, cells: CellStatistics, unigram: TokenStatistics) -> None:
        every_token = torch.arange(VOCAB_SIZE).view(-1, 1, 1).expand(-1, 3, 4)
        log_probs = cell_log_probs(cells, unigram, every_token)
        assert log_probs.dtype == torch.float64
        torch.testing.assert_close(log_probs.exp().sum(0), torch.ones(3, 4, dtype=torch.float64))

    def test_log_probs_equal_a_naive_loop(self, cells: CellStatistics, unigram: TokenStatistics) -> None:
        targets = local_pairs(1, num=2)[:, 3:].int()
        log_probs = cell_log_probs(cells, unigram, targets)
        assert log_probs.shape == targets.shape
        u = unigram.log_unigram.exp()
        for clip, grid, row, column in np.ndindex(*targets.shape):
            z = int(targets[clip, grid, row, column])
            seen = int(cells.counts[4 * row + column, z])
            p = (seen + cells.weight * u[z].item()) / (120 + cells.weight)
            assert log_probs[clip, grid, row, column].item() == pytest.approx(math.log(p), abs=1e-12)

    @pytest.mark.parametrize("sameness", [0.0, 0.5, 0.8])
    def test_weight_is_the_likeliest_with_each_token_left_out(self, sameness: float) -> None:
        pairs = local_pairs(num=30, sameness=sameness)
        unigram = TokenStatistics.fit(pairs, vocab_size=VOCAB_SIZE)
        cells = CellStatistics.fit(pairs, unigram)
        counts, u = cells.counts.numpy().astype(np.float64), unigram.log_unigram.exp().numpy()
        dense = np.exp(np.linspace(math.log(0.1), math.log(1e5), 400))
        likelihoods = [leave_one_out(counts, u, weight) for weight in dense]
        assert leave_one_out(counts, u, cells.weight) >= max(likelihoods)
        assert cells.weight == pytest.approx(dense[int(np.argmax(likelihoods))], rel=0.04)

    def test_weight_is_the_likeliest_with_half_the_recordings_left_out(self) -> None:
        pairs, recordings = rooms(0, num=31)
        unigram = TokenStatistics.fit(pairs, vocab_size=VOCAB_SIZE)
        cells = CellStatistics.fit(pairs, unigram, recordings=recordings)
        assert torch.equal(cells.counts, CellStatistics.fit(pairs, unigram).counts)
        one_hot = np.eye(VOCAB_SIZE)[pairs[:, 3:].flatten(2).numpy()].sum(1)  # (pairs, cells, V)
        odd = np.array(recordings) % 2 == 1
        halves, u = (one_hot[~odd].sum(0), one_hot[odd].sum(0)), unigram.log_unigram.exp().numpy()

        def likelihood(weight: float) -> float:
            return sum(naive_likelihood(asked, given, u, weight) for asked, given in (halves, halves[::-1]))

        dense = np.exp(np.linspace(math.log(0.1), math.log(1e5), 2000))
        likelihoods = [likelihood(weight) for weight in dense]
        assert likelihood(cells.weight) >= max(likelihoods)
        assert cells.weight == pytest.approx(dense[int(np.argmax(likelihoods))], rel=0.01)

    def test_recordings_that_repeat_themselves_need_to_be_named(self) -> None:
        pairs, recordings = rooms(0, num=30)
        held_out, _ = rooms(50, num=30)
        unigram = TokenStatistics.fit(pairs, vocab_size=VOCAB_SIZE)

        def score(cells: CellStatistics) -> float:
            return float(cell_log_probs(cells, unigram, held_out[:, 3:]).mean())

        named = CellStatistics.fit(pairs, unigram, recordings=recordings)
        unnamed = CellStatistics.fit(pairs, unigram)
        assert unnamed.weight < named.weight
        assert score(named) > max(score(unnamed), float(unigram_log_probs(unigram, held_out[:, 3:]).mean()))
        assert CellStatistics.fit(pairs, unigram, recordings=[7] * len(pairs)).weight == unnamed.weight

    def test_beats_the_unigram_where_cells_matter(self, cells: CellStatistics, unigram: TokenStatistics) -> None:
        held_out = local_pairs(2)[:, 3:]
        gain = cell_log_probs(cells, unigram, held_out) - unigram_log_probs(unigram, held_out)
        assert gain.mean() > 0.5

    def test_equals_the_unigram_where_cells_do_not_matter(self) -> None:
        # Every cell sees the same tokens: what a cell has of its own is less than chance would give it.
        pairs = torch.arange(6).view(6, 1, 1).expand(6, 3, 4).repeat(4, 1, 1, 1)
        pairs[1::2, 3:] -= 3
        unigram = TokenStatistics.fit(pairs, vocab_size=6)
        cells = CellStatistics.fit(pairs, unigram)
        torch.testing.assert_close(
            cell_log_probs(cells, unigram, pairs[0, 3:]), unigram_log_probs(unigram, pairs[0, 3:]), rtol=0, atol=1e-3
        )
        chance, held_out = local_pairs(3, num=4, sameness=1.0), local_pairs(4, sameness=1.0)[:, 3:]
        unigram = TokenStatistics.fit(chance, vocab_size=VOCAB_SIZE)
        cells = CellStatistics.fit(chance, unigram)
        gain = cell_log_probs(cells, unigram, held_out) - unigram_log_probs(unigram, held_out)
        assert abs(float(gain.mean())) < 1e-3

    def test_a_cell_seen_once_has_a_weight(self) -> None:
        unigram = TokenStatistics.fit([torch.zeros(6, 1, 1, dtype=torch.int64)], vocab_size=3)
        once = CellStatistics(counts=torch.tensor([[1, 0, 0]], dtype=torch.int32), weight=2.0)
        assert cell_log_probs(once, unigram, torch.tensor([[1]])).isfinite().all()
        fitted = CellStatistics.fit([torch.zeros(6, 1, 1, dtype=torch.int64)], unigram)
        assert 0 < fitted.weight < math.inf

    @pytest.mark.parametrize("k", [1, 5, VOCAB_SIZE])
    def test_top_k_equals_a_full_sort(self, cells: CellStatistics, unigram: TokenStatistics, k: int) -> None:
        every_token = torch.arange(VOCAB_SIZE).view(-1, 1, 1).expand(-1, 3, 4)
        whole = cell_log_probs(cells, unigram, every_token).flatten(1).T  # (cells, V)
        indices, values = cell_top_k(cells, unigram, k=k)
        assert (indices.dtype, values.dtype, indices.shape) == (torch.int32, torch.float32, (12, k))
        torch.testing.assert_close(values, whole.sort(descending=True).values[:, :k].float())
        torch.testing.assert_close(values, whole.gather(1, indices.long()).float())
        if k == VOCAB_SIZE:
            targets = local_pairs(1)[:, 3:4]
            plain = -cell_log_probs(cells, unigram, targets).flatten(1).mean(1)
            top = (x.view(1, 1, 3, 4, k).expand(len(targets), -1, -1, -1, -1) for x in (indices, values))
            torch.testing.assert_close(
                top_k_cross_entropy(*top, targets, vocab_size=VOCAB_SIZE), plain, rtol=1e-6, atol=0
            )

    def test_pieces_change_nothing(
        self, cells: CellStatistics, unigram: TokenStatistics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        top, (pairs, recordings) = cell_top_k(cells, unigram, k=4), rooms(0, num=4)
        weight = CellStatistics.fit(pairs, unigram, recordings=recordings).weight
        monkeypatch.setattr("foreframe.baselines._PIECE", 2 * VOCAB_SIZE)
        again = CellStatistics.fit(local_pairs(), unigram)
        assert again.weight == pytest.approx(cells.weight, rel=1e-3)
        assert CellStatistics.fit(pairs, unigram, recordings=recordings).weight == pytest.approx(weight, rel=1e-3)
        assert all(map(torch.equal, cell_top_k(cells, unigram, k=4), top))
        cells.save(tmp_path / "cells")
        loaded = CellStatistics.load(tmp_path / "cells", vocab_size=VOCAB_SIZE, num_cells=12)
        assert torch.equal(loaded.counts, cells.counts)

    def test_survives_a_file(self, cells: CellStatistics, tmp_path: Path) -> None:
        for statistics in (cells, CellStatistics(counts=cells.counts * 70_000, weight=1 / 3)):
            statistics.save(tmp_path / "cells.safetensors")
            loaded = CellStatistics.load(tmp_path / "cells.safetensors", vocab_size=VOCAB_SIZE, num_cells=12)
            assert torch.equal(loaded.counts, statistics.counts)
            assert loaded.counts.dtype == torch.int32
            assert loaded.weight == statistics.weight
        assert [path.name for path in tmp_path.iterdir()] == ["cells.safetensors"]

    def test_a_full_disk_leaves_no_half_file(
        self, cells: CellStatistics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def torn(_tensors: object, path: Path) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("foreframe.baselines.save_tensors", torn)
        with pytest.raises(OSError, match="No space left"):
            cells.save(tmp_path / "cells.safetensors")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "change",
        [
            {"version": torch.tensor([1])},
            {"shape": torch.tensor([13, VOCAB_SIZE])},
            {"shape": torch.tensor([12, VOCAB_SIZE + 1])},
            {"shape": None},
            {"weight": torch.tensor([0.0], dtype=torch.float64)},
            {"weight": torch.tensor([math.nan], dtype=torch.float64)},
            {"weight": torch.tensor([1.0, 1.0], dtype=torch.float64)},
            {"weight": None},
            {"bytes_each": torch.tensor([4])},
            {"bytes_each": torch.tensor([3])},
            {"bytes_each": torch.tensor([2, 2])},
            {"counts": None},
            {"counts": torch.zeros(4)},
            {"counts": torch.zeros(40, dtype=torch.uint8)},
            {"counts": packed(bytes(12 * VOCAB_SIZE * 2))},
            {"counts": packed(b"\xff" * (12 * VOCAB_SIZE * 2))},
            {"counts": packed(b"\x01" * (12 * VOCAB_SIZE * 2 - 1))},
            {"counts": packed(b"\x01" * (12 * VOCAB_SIZE * 2 + 1))},
            {"counts": packed(b"\x01" * (12 * VOCAB_SIZE * 2))[:-1]},
        ],
    )
    def test_faulty_files_are_refused(self, cells: CellStatistics, tmp_path: Path, change: dict) -> None:
        path = tmp_path / "cells.safetensors"
        cells.save(path)
        tensors = {**read_tensors(path), **change}
        save_tensors({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
        with pytest.raises(InputError, match=r"cells\.safetensors: ") as caught:
            CellStatistics.load(path, vocab_size=VOCAB_SIZE, num_cells=12)
        assert "\n" not in str(caught.value)

    def test_a_file_unpacks_to_no_more_than_a_table(self, cells: CellStatistics, tmp_path: Path) -> None:
        """Zeros without end are refused after the first few."""
        path = tmp_path / "cells.safetensors"
        cells.save(path)
        bomb = zlib.compress(bytes(2**28), level=9)
        save_tensors({**read_tensors(path), "counts": torch.frombuffer(bytearray(bomb), dtype=torch.uint8)}, path)
        tracemalloc.start()
        with pytest.raises(InputError, match="damaged"):
            CellStatistics.load(path, vocab_size=VOCAB_SIZE, num_cells=12)
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()

    def test_missing_and_torn_files_are_refused(self, cells: CellStatistics, tmp_path: Path) -> None:
        path = tmp_path / "cells.safetensors"
        with pytest.raises(InputError, match=r"cells\.safetensors: is missing, .* train anew"):
            CellStatistics.load(path, vocab_size=VOCAB_SIZE, num_cells=12)
        cells.save(path)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(InputError, match=r"cells\.safetensors: cannot be read"):
            CellStatistics.load(path, vocab_size=VOCAB_SIZE, num_cells=12)

    def test_what_does_not_fit_is_refused(self, cells: CellStatistics, unigram: TokenStatistics) -> None:
        with pytest.raises(InputError, match="empty"):
            CellStatistics.fit([], unigram)
        with pytest.raises(InputError, match="differ in shape"):
            CellStatistics.fit([torch.zeros(6, 2, 2).long(), torch.zeros(6, 2, 3).long()], unigram)
        with pytest.raises(ValueError, match="zip"):
            CellStatistics.fit(local_pairs(), unigram, recordings=[0, 1])
        with pytest.raises(InputError, match="12 cells"):
            cell_log_probs(cells, unigram, torch.zeros(2, 2).long())
        other = TokenStatistics.fit([torch.zeros(6, 3, 4).long()], vocab_size=5)
        with pytest.raises(ValueError, match="12 tokens per cell and of 5"):
            cell_top_k(cells, other, k=2)
        with pytest.raises(ValueError, match="number of tokens"):
            cell_top_k(cells, unigram, k=VOCAB_SIZE + 1)


def context(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


class TestFrames:
    def test_copy_last(self) -> None:
        frames = context(2, 4, 6, 5, 3)
        predicted = copy_last(frames, 3)
        assert predicted.shape == (2, 3, 6, 5, 3)
        assert all(torch.equal(predicted[:, i], frames[:, -1]) for i in range(3))

    def test_context_mean(self) -> None:
        frames = context(2, 17, 6, 5, 3)
        expected = np.rint(frames.numpy().astype(np.float64).mean(1)).astype(np.uint8)
        assert np.array_equal(context_mean(frames, 2)[:, 1].numpy(), expected)

    @pytest.mark.parametrize("sigma", [0.7, 2.0, 50.0])
    def test_blur_equals_a_naive_one(self, sigma: float) -> None:
        frames = context(2, 3, 11, 14, 3)
        radius = min(math.ceil(4 * sigma), 10)
        offsets = np.arange(-radius, radius + 1)
        kernel = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * sigma**2))
        kernel /= kernel.sum()
        last = frames[:, -1].numpy().astype(np.float64)
        padded = np.pad(last, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (len(offsets), len(offsets)), axis=(1, 2))
        expected = (windows * kernel).sum((-1, -2))
        predicted = blur(frames, 2, sigma=sigma)
        assert predicted.shape == (2, 2, 11, 14, 3)
        assert np.abs(predicted[:, 1].numpy() - expected).max() <= 0.5 + 1e-3

    @pytest.mark.parametrize("predict", [copy_last, context_mean, blur])
    def test_a_still_grey_world_is_predicted_exactly(self, predict) -> None:
        frames = torch.full((1, 17, 16, 16, 3), 127, dtype=torch.uint8)
        predicted = predict(frames, 1)
        assert predicted.dtype == torch.uint8
        assert torch.equal(predicted, frames[:, :1])

    @pytest.mark.parametrize("predict", [copy_last, context_mean, blur])
    def test_predictions_do_not_share_memory(self, predict) -> None:
        frames = context(1, 2, 16, 16, 3)
        before = frames.clone()
        predicted = predict(frames, 2)
        kept = predicted[:, 1].clone()
        predicted[:, 0] = 0
        assert torch.equal(frames, before)
        assert torch.equal(predicted[:, 1], kept)

    @pytest.mark.parametrize("predict", [copy_last, context_mean, blur])
    def test_faulty_context_is_refused(self, predict) -> None:
        with pytest.raises(InputError, match="uint8"):
            predict(context(1, 2, 8, 8, 3).float(), 1)
        with pytest.raises(InputError, match="uint8"):
            predict(context(2, 8, 8, 3), 1)
        with pytest.raises(ValueError, match="num_future"):
            predict(context(1, 2, 8, 8, 3), 0)
        with pytest.raises(ValueError, match="sigma"):
            blur(context(1, 2, 8, 8, 3), 1, sigma=0.0)
