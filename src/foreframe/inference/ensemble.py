"""The mean of many predicted frames, which scores better than any of them, and what may follow it (report, section 2).

PSNR rewards the expected frame, and a sample is not that but one of the frames that may come. The mean over members
that differ in their noise comes closer to it; how far the members lie apart says where the future is open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from foreframe.batch import to_frames
from foreframe.inference.autoregressive import clip_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foreframe.batch import ClipId
    from foreframe.inference.config import EnsembleConfig


class Draw(NamedTuple):
    """One sample to be made."""

    clip: int
    """Its clip's position in the batch."""
    member: int
    """Its number in the clip's ensemble, from 0."""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """What the members of each clip have in common, on the [-1, 1] scale of videos: float32 (B, 3, ..., H, W) each."""

    mean: torch.Tensor
    """`batch.to_frames` rounds it, once."""
    spread: torch.Tensor
    """Standard deviation over the members, 0 for one member; times 127.5 it is in 8-bit steps."""
    sample: torch.Tensor
    """The first member alone: sharp where the mean is soft."""

    def spread_map(self) -> torch.Tensor:
        """The spread averaged over colour channels: (B, ..., H, W)."""
        return self.spread.mean(1)


def member_noise(seed: int, clip: ClipId, member: int, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal noise of that shape, float32 on the CPU: the same in whichever batch and process it is drawn."""
    return torch.randn(tuple(shape), generator=clip_generator(seed, *clip, member))


@torch.no_grad()
def ensemble(
    predict: Callable[[Sequence[Draw]], torch.Tensor],
    *,
    num_clips: int,
    num_members: int,
    max_batch: int,
    share: tuple[int, int] = (0, 1),
    reduce: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Ensemble:
    """Average the members of each clip of a batch in pixel space, in memory that does not grow with their number.

    Each frame is clamped to [-1, 1] before it counts (challenge-facts 5.9). Sums are float64, in which those of float32
    frames are exact but for values within 1e-7 of 0: neither batches nor processes change a mean.

    Args:
        predict: Makes the frames of up to `max_batch` draws, float (m, 3, ..., H, W) in their order. Draws come clip
            after clip, and one call may span two clips or more.
        num_clips: B; draws name clips 0 to B - 1.
        num_members: Members for each clip.
        max_batch: Most draws in one call.
        share: This process's number and how many there are. Each makes a part of the draws.
        reduce: Sums a tensor over all processes and returns it, on each of them; needed if there are several.
    """
    rank, num_ranks = share
    draws = [Draw(clip, member) for clip in range(num_clips) for member in range(num_members)]
    if num_ranks > len(draws):
        raise ValueError(f"{num_ranks} processes cannot share {len(draws)} samples: some would have none")
    if num_ranks > 1 and reduce is None:
        raise ValueError(f"{num_ranks} processes need a way to add up what they made")
    mine = draws[len(draws) * rank // num_ranks : len(draws) * (rank + 1) // num_ranks]
    sums: torch.Tensor | None = None  # (3, B, 3, ..., H, W): frames, their squares, first members
    for start in range(0, len(mine), max_batch):
        batch = mine[start : start + max_batch]
        frames = predict(batch).clamp(-1, 1)
        if sums is None:
            sums = torch.zeros(3, num_clips, *frames.shape[1:], dtype=torch.float64, device=frames.device)
        for draw, frame in zip(batch, frames.double(), strict=True):
            sums[0, draw.clip] += frame
            sums[1, draw.clip] += frame.square()
            if draw.member == 0:
                sums[2, draw.clip] += frame
    assert sums is not None
    if reduce is not None:
        sums = reduce(sums)
    if not sums.isfinite().all():  # Only now, so that all processes stop together.
        raise ValueError("an ensemble member has values that are not finite")
    mean = sums[0] / num_members
    spread = (sums[1] / num_members - mean.square()).clamp(min=0).sqrt()
    return Ensemble(mean=mean.float(), spread=spread.float(), sample=sums[2].float())


# -- after the mean ----------------------------------------------------------------------------------------------------


def post_process(frames: torch.Tensor, last_observed: torch.Tensor, config: EnsembleConfig) -> torch.Tensor:
    """Predicted float (B, 3, H, W) in [-1, 1] to the images to be scored, uint8 (B, H, W, 3).

    Blurred if asked, rounded once, then matched to the histogram of `last_observed`, uint8 (B, H, W, 3), if asked.
    """
    images = to_frames(gaussian_blur(frames, config.blur_sigma))
    if not config.match_histogram:
        return images
    pairs = zip(images, last_observed, strict=True)
    return torch.stack([match_histogram(image, reference) for image, reference in pairs])


def gaussian_blur(frames: torch.Tensor, sigma: float) -> torch.Tensor:
    """Float (B, C, H, W) blurred with a Gaussian of `sigma` pixels, cut at four sigma or the frame's size.

    Borders are reflected; a sigma of 0 returns the frames themselves.
    """
    if sigma == 0:
        return frames
    height, width = frames.shape[-2:]
    radius = min(math.ceil(4 * sigma), height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=frames.dtype, device=frames.device)
    kernel = torch.softmax(-0.5 * (offsets / sigma) ** 2, 0)
    blurred = frames.reshape(-1, 1, height, width)
    blurred = F.conv2d(F.pad(blurred, (radius, radius, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
    blurred = F.conv2d(F.pad(blurred, (0, 0, radius, radius), mode="reflect"), kernel.view(1, 1, -1, 1))
    return blurred.reshape(frames.shape)


def match_histogram(image: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Map each channel's levels so that their distribution becomes that of `reference`: uint8 (H, W, 3) both.

    A level goes to where the reference's distribution function, linear between the levels it has, takes the image's
    value at that level; then to the nearest whole level.
    """
    channels = [_match_levels(image[..., channel], reference[..., channel]) for channel in range(image.shape[-1])]
    return torch.stack(channels, -1)


def _match_levels(image: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    counts, wanted = (torch.bincount(levels.flatten(), minlength=256).cpu().numpy() for levels in (image, reference))
    (present,) = wanted.nonzero()
    shares = wanted[present].cumsum() / wanted.sum()
    table = np.interp(counts.cumsum() / counts.sum(), shares, present).round().astype(np.uint8)
    return torch.from_numpy(table).to(image.device)[image.long()]
