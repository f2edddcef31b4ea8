"""The last observed frame where a prediction shows it: all of it where nothing changed, nothing of it elsewhere."""

from __future__ import annotations

import torch

from foreframe.inference.unchanged import keep_unchanged


def frames(*, seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).double() - 0.5


def test_a_still_frame_comes_out_as_it_was_observed() -> None:
    decoded, observed = frames(seed=1), frames(seed=2)
    still = decoded[:, :, None].expand(-1, -1, 4, -1, -1)
    kept = keep_unchanged(still, decoded, observed, tolerance=0.1)
    assert torch.allclose(kept, observed[:, :, None].expand_as(still), atol=1e-12)
    assert torch.equal(keep_unchanged(still, decoded, observed, tolerance=0), still)


def test_each_place_counts_for_itself() -> None:
    decoded, observed = frames(seed=1), frames(seed=2)
    predicted = decoded[:, :, None].repeat(1, 1, 2, 1, 1)
    predicted[:, :, 1, :, 8:] += 1  # in the second frame the right half shows something else
    kept = keep_unchanged(predicted, decoded, observed, tolerance=0.1)
    assert torch.allclose(kept[:, :, 0], observed, atol=1e-12)
    assert torch.allclose(kept[:, :, 1, :, :6], observed[..., :6], atol=1e-12)
    assert torch.allclose(kept[:, :, 1, :, 10:], predicted[:, :, 1, :, 10:], atol=1e-12)


def test_weight_is_that_of_the_window_around_a_pixel() -> None:
    decoded, observed = frames(seed=1), frames(seed=2)
    predicted = (decoded + 0.1 * frames(seed=3))[:, :, None]
    kept = keep_unchanged(predicted, decoded, observed, tolerance=0.05)
    window = (predicted[1, :, 0, 3:8, 5:10] - decoded[1, :, 3:8, 5:10]).square().mean()
    weight = torch.exp(-window / (2 * 0.05**2))
    wanted = weight * observed[1, :, 5, 7] + (1 - weight) * predicted[1, :, 0, 5, 7]
    assert torch.allclose(kept[1, :, 0, 5, 7], wanted, atol=1e-12)
