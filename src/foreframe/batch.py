"""What a model sees at once: clip addresses and the tensors that belong to them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


class ClipId(NamedTuple):
    """The address of a clip: where its first frame lies, and which recording it is from."""

    shard: int
    """Shard number in the dataset folder."""
    start: int
    """First frame inside the shard; a multiple of 17 for token clips."""
    segment: int
    """The recording's global id: scores are bootstrapped over segments, and a simulated segment is one room."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Clips stacked along axis 0. A track fills what it uses: `tokens`, `video` or, encoded before, `latents`."""

    clips: tuple[ClipId, ...]
    """B addresses."""
    states: torch.Tensor
    """(B, T, 25) float32 state rows in their own units, row 0 at the clip's first frame."""
    states_valid: torch.Tensor
    """(B, T) bool: False where the row lies past the end of the segment and repeats the last valid one."""
    tokens: torch.Tensor | None = None
    """(B, F, h, w) int64 token grids."""
    video: torch.Tensor | None = None
    """(B, 3, T, H, W) float32 in [-1, 1]."""
    latents: torch.Tensor | None = None
    """(B, C, F, h, w) float32, normalised to about unit variance."""
    seed: int = 0
    """Of what a loss draws at random for these clips, each by its address: the same however a step is shared."""

    def __len__(self) -> int:
        return len(self.clips)

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`."""
        moved = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return replace(self, **moved)


def collate(items: Sequence[Batch]) -> Batch:
    """Concatenate batches (of one clip each, as a dataset yields them) along axis 0."""
    assert items

    def join(name: str) -> torch.Tensor | None:
        values = [getattr(item, name) for item in items]
        return None if values[0] is None else torch.cat(values)

    states, valid = join("states"), join("states_valid")
    assert states is not None
    assert valid is not None
    clips = tuple(clip for item in items for clip in item.clips)
    return Batch(
        clips=clips,
        states=states,
        states_valid=valid,
        tokens=join("tokens"),
        video=join("video"),
        latents=join("latents"),
    )


def to_video(frames: torch.Tensor) -> torch.Tensor:
    """Frames uint8 (B, T, H, W, 3) to video float32 (B, 3, T, H, W): 2x/255 - 1."""
    video = frames.movedim(-1, 1).to(torch.float32, memory_format=torch.contiguous_format)
    return video * 2 / 255 - 1


def to_frames(video: torch.Tensor) -> torch.Tensor:
    """Inverse of `to_video`: clamped, rounded to the nearest level, uint8 (B, T, H, W, 3)."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1)
