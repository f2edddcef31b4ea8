"""Ensembles: members that depend on nothing but their number, exact means, and the processing after them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from threading import Barrier, Thread

import numpy as np
import numpy.typing as npt
import pytest
import torch

from foreframe.batch import ClipId, to_frames
from foreframe.inference.config import EnsembleConfig, SamplerConfig
from foreframe.inference.ensemble import (
    Draw,
    Ensemble,
    ensemble,
    gaussian_blur,
    match_histogram,
    member_noise,
    post_process,
)
from foreframe.inference.flow_sampler import sample

CLIPS = (ClipId(0, 0, 0), ClipId(0, 8, 0), ClipId(3, 16, 5))
SHAPE = (3, 4, 6, 6)  # (C, F, h, w)


def predict(draws: Sequence[Draw]) -> torch.Tensor:
    """A small sampler from noise to frames (m, 3, H, W), some of their values outside of [-1, 1]."""
    noise = torch.stack([member_noise(0, CLIPS[draw.clip], draw.member, SHAPE) for draw in draws])
    context = torch.stack([torch.full((3, 1, 6, 6), 0.1 * draw.clip) for draw in draws])
    config = SamplerConfig(num_inference_steps=2)
    return sample(lambda noisy, _: noisy.sin(), context=context, noise=noise, config=config)[:, :, -1]


def run(num_members: int, max_batch: int = 4, **options: object) -> Ensemble:
    return ensemble(predict, num_clips=len(CLIPS), num_members=num_members, max_batch=max_batch, **options)  # pyright: ignore[reportArgumentType]


def run_ranks(num_ranks: int, num_members: int, max_batch: int) -> list[Ensemble]:
    """Each process a thread; `reduce` adds up what they hand in, as an all-reduce does."""
    given: list[torch.Tensor | None] = [None] * num_ranks
    done: list[Ensemble | None] = [None] * num_ranks
    barrier = Barrier(num_ranks, timeout=20)

    def work(rank: int) -> None:
        def reduce(tensor: torch.Tensor) -> torch.Tensor:
            given[rank] = tensor
            barrier.wait()
            return torch.stack([part for part in given if part is not None]).sum(0)

        done[rank] = run(num_members, max_batch, share=(rank, num_ranks), reduce=reduce)

    threads = [Thread(target=work, args=(rank,)) for rank in range(num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [result for result in done if result is not None]


def assert_same(one: Ensemble, other: Ensemble) -> None:
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.sample, other.sample)
    torch.testing.assert_close(one.spread, other.spread, atol=1e-7, rtol=1e-6)


def test_noise_depends_on_seed_clip_and_member_alone() -> None:
    noises = [member_noise(seed, clip, member, SHAPE) for seed in (0, 1) for clip in CLIPS for member in range(3)]
    assert all(not torch.equal(a, b) for index, a in enumerate(noises) for b in noises[:index])
    torch.manual_seed(5)
    assert torch.equal(member_noise(1, CLIPS[2], 2, SHAPE), noises[-1])
    assert torch.stack(noises).mean().abs() < 0.02
    assert torch.stack(noises).std().item() == pytest.approx(1, abs=0.02)
    # Pinned: a prediction made today can be made again tomorrow.
    assert member_noise(0, ClipId(2, 34, 7), 1, (2,)).tolist() == pytest.approx([1.3056920, 0.6446122], abs=1e-6)


def test_one_member_is_the_plain_sample() -> None:
    result = run(1)
    plain = predict([Draw(clip, 0) for clip in range(3)])
    assert (plain.abs() > 1).any()
    assert torch.equal(result.mean, plain.clamp(-1, 1))
    assert torch.equal(result.sample, result.mean)
    assert not result.spread.any()
    assert torch.equal(post_process(result.mean, to_frames(plain), EnsembleConfig()), to_frames(plain))


def test_mean_and_spread_are_those_of_all_members_at_once() -> None:
    result = run(7)
    members = torch.stack([predict([Draw(clip, member) for clip in range(3)]) for member in range(7)]).clamp(-1, 1)
    torch.testing.assert_close(result.mean, members.mean(0))
    torch.testing.assert_close(result.spread, members.std(0, correction=0))
    torch.testing.assert_close(result.spread_map(), members.std(0, correction=0).mean(1))
    assert torch.equal(result.sample, members[0])
    assert result.spread_map().shape == (3, 6, 6)
    assert result.mean.dtype == result.spread.dtype == torch.float32
    for clip in range(3):
        alone = ensemble(
            lambda draws, clip=clip: predict([Draw(clip, draw.member) for draw in draws]),
            num_clips=1,
            num_members=7,
            max_batch=7,
        )
        assert torch.equal(alone.mean[0], result.mean[clip])


@pytest.mark.parametrize("max_batch", [1, 2, 5, 15, 100])
def test_batches_change_nothing(max_batch: int) -> None:
    calls: list[list[Draw]] = []

    def counted(draws: Sequence[Draw]) -> torch.Tensor:
        calls.append(list(draws))
        return predict(draws)

    assert_same(ensemble(counted, num_clips=3, num_members=5, max_batch=max_batch), run(5))
    assert [len(call) for call in calls[:-1]] == [max_batch] * (math.ceil(15 / max_batch) - 1)
    assert [draw for call in calls for draw in call] == [Draw(clip, m) for clip in range(3) for m in range(5)]


@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_processes_change_nothing(num_ranks: int) -> None:
    results = run_ranks(num_ranks, num_members=5, max_batch=3)
    assert len(results) == num_ranks
    for result in results:
        assert_same(result, run(5))


def test_videos_keep_their_shape() -> None:
    def videos(draws: Sequence[Draw]) -> torch.Tensor:
        return predict(draws)[:, :, None].expand(-1, -1, 4, -1, -1).bfloat16()

    result = ensemble(videos, num_clips=3, num_members=3, max_batch=2)
    assert result.mean.shape == (3, 3, 4, 6, 6) and result.mean.dtype == torch.float32
    assert result.spread_map().shape == (3, 4, 6, 6)
    assert to_frames(result.mean).shape == (3, 4, 6, 6, 3)


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(ValueError, match="4 processes cannot share 3 samples"):
        run(1, share=(0, 4), reduce=lambda tensor: tensor)
    with pytest.raises(ValueError, match="2 processes need a way to add up"):
        run(2, share=(0, 2))
    with pytest.raises(ValueError, match="not finite"):
        ensemble(lambda draws: predict(draws) / 0 * 0, num_clips=3, num_members=2, max_batch=2)
    with pytest.raises(ValueError, match="size must be"):
        EnsembleConfig(size=0)


# -- after the mean ----------------------------------------------------------------------------------------------------


def images(seed: int, *, height: int = 12, width: int = 9, levels: tuple[int, int] = (0, 256)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(*levels, (2, height, width, 3), generator=generator, dtype=torch.uint8)


def test_nothing_is_done_by_default() -> None:
    frames = torch.rand(2, 3, 12, 9, generator=torch.Generator().manual_seed(0)) * 2.2 - 1.1
    assert torch.equal(post_process(frames, images(0), EnsembleConfig()), to_frames(frames))
    assert gaussian_blur(frames, 0) is frames


@pytest.mark.parametrize("sigma", [0.5, 1.3, 6.0])
def test_blur_equals_a_dense_convolution(sigma: float) -> None:
    frames = torch.randn(1, 2, 12, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def matrix(size: int) -> npt.NDArray[np.float64]:
        """Row i: the weights with which output i sees each input, borders reflected without repeating them."""
        radius = min(math.ceil(4 * sigma), 12 - 1, 9 - 1)
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        rows = np.zeros((size, size))
        for i in range(size):
            for offset, weight in zip(range(-radius, radius + 1), weights / weights.sum(), strict=True):
                j = abs(i + offset)
                rows[i, j if j < size else 2 * (size - 1) - j] += weight
        return rows

    expected = np.einsum("yi,bcij,xj->bcyx", matrix(12), frames.numpy(), matrix(9))
    np.testing.assert_allclose(gaussian_blur(frames, sigma).numpy(), expected, atol=1e-12)


def test_blur_keeps_what_is_flat_and_spreads_a_point_by_sigma() -> None:
    flat = torch.full((1, 3, 20, 20), 0.3)
    torch.testing.assert_close(gaussian_blur(flat, 2.0), flat)
    point = torch.zeros(1, 1, 61, 61)
    point[..., 30, 30] = 1
    blurred = gaussian_blur(point, 3.0)[0, 0]
    offsets = torch.arange(61.0) - 30
    assert blurred.sum().item() == pytest.approx(1, rel=1e-5)
    assert (blurred.sum(0) * offsets**2).sum().sqrt().item() == pytest.approx(3, rel=0.01)
    assert (blurred.sum(1) * offsets**2).sum().sqrt().item() == pytest.approx(3, rel=0.01)


def by_quantiles(image: npt.NDArray[np.uint8], reference: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """As scikit-image has it, rounded: value -> share of pixels up to it -> the reference's value."""
    _, where, counts = np.unique(image.ravel(), return_inverse=True, return_counts=True)
    values, wanted = np.unique(reference.ravel(), return_counts=True)
    matched = np.interp(np.cumsum(counts) / image.size, np.cumsum(wanted) / reference.size, values)
    return np.round(matched[where].reshape(image.shape)).astype(np.uint8)


@pytest.mark.parametrize("levels", [(0, 256), (40, 90), (254, 256)])
def test_histogram_matching_equals_quantile_interpolation(levels: tuple[int, int]) -> None:
    image, reference = images(0, levels=levels)[0], images(1, height=7, levels=(30, 200))[0]
    matched = match_histogram(image, reference)
    assert matched.dtype == torch.uint8 and matched.shape == image.shape
    for channel in range(3):
        expected = by_quantiles(image[..., channel].numpy(), reference[..., channel].numpy())
        np.testing.assert_array_equal(matched[..., channel].numpy(), expected)


def test_histogram_matching_identities() -> None:
    image = images(0)[0]
    assert torch.equal(match_histogram(image, image), image)
    assert torch.equal(match_histogram(image, image.flip(0, 1)), image)
    darker = image // 2  # Two levels fall together: the upper one's place is where both go.
    assert (match_histogram(darker, image).int() - image.int()).abs().max() <= 1 + np.diff(np.unique(image)).max()
    flat = torch.full_like(image, 77)
    assert torch.equal(match_histogram(image, flat), flat)
    # Strictly monotone changes of an image's brightness are undone.
    narrow = images(3, levels=(0, 100))[0]
    assert torch.equal(match_histogram(narrow * 2 + 20, narrow), narrow)


def test_post_processing_blurs_then_rounds_then_matches() -> None:
    frames = torch.rand(2, 3, 12, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    last = images(1)
    config = EnsembleConfig(blur_sigma=1.5, match_histogram=True)
    rounded = to_frames(gaussian_blur(frames, 1.5))
    result = post_process(frames, last, config)
    assert torch.equal(result, torch.stack([match_histogram(rounded[i], last[i]) for i in range(2)]))
    assert torch.equal(post_process(frames, last, EnsembleConfig(blur_sigma=1.5)), rounded)
    assert not torch.equal(result, rounded)
