"""Baselines against naive second implementations and identities."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from foreframe.baselines import (
    REGIMES,
    TokenStatistics,
    blur,
    context_mean,
    copy_last,
    copy_log_probs,
    copy_sources,
    copy_top_k,
    unigram_log_probs,
)
from foreframe.errors import InputError
from foreframe.metrics.tokens import top_k_cross_entropy

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

    def test_sources(self) -> None:
        pairs = token_pairs()
        assert torch.equal(copy_sources(pairs, "teacher_forced"), pairs[:, 2:5])
        expected = pairs[:, [2, 2, 2]]
        assert torch.equal(copy_sources(pairs, "autoregressive"), expected)
        assert torch.equal(copy_sources(pairs[:, :3], "autoregressive"), expected)
        with pytest.raises(InputError, match="needs 5 grids"):
            copy_sources(pairs[:, :3], "teacher_forced")

    def test_unigram(self, statistics: TokenStatistics) -> None:
        assert statistics.log_unigram.exp().sum().item() == pytest.approx(1)
        targets = torch.tensor([[0, 11]])
        total = sum(statistics.counts) + VOCAB_SIZE
        expected = [[math.log((statistics.counts[z] + 1) / total) for z in (0, 11)]]
        torch.testing.assert_close(unigram_log_probs(statistics, targets), torch.tensor(expected, dtype=torch.float64))
        assert statistics.most_common == int(token_pairs()[:, 3:].flatten().bincount().argmax())

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
        sources = copy_sources(pairs, regime)
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
        source, targets = copy_sources(pairs, "teacher_forced")[:, 0], pairs[:, 3]
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
            {"version": 2},
            {"vocab_size": 13},
            {"num_pairs": None},
            {"counts": [-1] * VOCAB_SIZE},
            {"copy_rates": {}},
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
        source = copy_sources(pair, "autoregressive")[0]
        indices, values = copy_top_k(large, source, k=500, grid_step=0, regime="autoregressive")
        assert indices.shape == (32, 32, 500)
        assert (values.exp().sum(-1) <= 1).all()


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
