"""Clips: which windows of a dataset are valid, and what a model sees of one.

Addresses first, pixels later: `clip_ids` and `token_pair_ids` list the windows from the segment ids alone; `VideoClips`
and `TokenClips` read one window when it is asked for.
"""

# NumPy's and PyTorch's annotations leave some array members unknown.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from foreframe.batch import Batch, ClipId, to_video
from foreframe.data.layout import TOKEN_BLOCK_FRAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreframe.data.raw import RawDataset
    from foreframe.data.tokens import TokenDataset

Segments = npt.NDArray[np.integer[Any]]
FrameMode = Literal["stride4_dup_last", "uniform21", "stride2", "all"]

CLIP_FRAMES = 77
"""Frames from the first observed to the predicted one: 17 given, 60 to go (challenge-facts 2.1)."""
PAIR_FRAMES = 2 * TOKEN_BLOCK_FRAMES
"""Frames of a context block and the block to predict."""
PAIR_STATES = 64
"""State rows given with a token clip; they look 30 frames past it (challenge-facts 4.4)."""


def frame_indices(mode: FrameMode, start: int = 0) -> npt.NDArray[np.int64]:
    """Frames of a 77-frame clip that the sampling model sees (challenge-facts 5.2, 7.1).

    `stride4_dup_last`: 0, 4, ..., 76 and 76 again, as the entry did; `uniform21`: round(3.8 i); `stride2`:
    round(1.9 i), 41 frames; `all`: 77.
    """
    last = CLIP_FRAMES - 1
    match mode:
        case "stride4_dup_last":
            offsets = [*range(0, CLIP_FRAMES, 4), last]
        case "uniform21":
            offsets = [round(i * last / 20) for i in range(21)]
        case "stride2":
            offsets = [round(i * last / 40) for i in range(41)]
        case "all":
            offsets = list(range(CLIP_FRAMES))
    return start + np.array(offsets, dtype=np.int64)


def clip_ids(
    segments_per_shard: Sequence[Segments],
    *,
    length: int = CLIP_FRAMES,
    stride: int = 1,
    legacy_segment_check: bool = False,
) -> list[ClipId]:
    """Windows of `length` frames that lie inside one segment, in order of shard and start.

    The start advances by `stride` after a valid window, else by 1, as the entry's loader did (challenge-facts 5.7,
    5.10). `legacy_segment_check` repeats its off-by-one, which also wants the frame after the window to be in the
    segment and so loses the window that ends where the segment does (1.6).
    """
    if length < 1 or stride < 1:
        raise ValueError(f"clip length {length} and stride {stride} must be at least 1")
    needed = length + legacy_segment_check
    clips: list[ClipId] = []
    for shard, segments in enumerate(segments_per_shard):
        edges = _segment_edges(segments)
        next_start = 0
        for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            starts = range(max(first, next_start), end - needed + 1, stride)
            if starts:
                segment = int(segments[first])
                clips.extend(ClipId(shard, start, segment) for start in starts)
                next_start = starts[-1] + stride
    return clips


def token_pair_ids(segments_per_shard: Sequence[Segments], *, stride_blocks: int = 2) -> list[ClipId]:
    """Pairs of whole 17-frame blocks whose 34 frames lie inside one segment (challenge-facts 1.6, 4.4).

    After a valid pair at block k the next tried is k + `stride_blocks`, else k + 1: 2 makes pairs that share no block,
    1 makes every pair.
    """
    if stride_blocks < 1:
        raise ValueError(f"stride {stride_blocks} must be at least 1 block")
    clips: list[ClipId] = []
    for shard, segments in enumerate(segments_per_shard):
        starts = np.arange(len(segments) // TOKEN_BLOCK_FRAMES - 1, dtype=np.int64) * TOKEN_BLOCK_FRAMES
        # A pair is inside one segment if the segment of its first frame ends no earlier than the pair.
        edges = _segment_edges(segments)
        ends = edges[np.searchsorted(edges, starts, side="right")]
        next_start = 0
        for start in starts[starts + PAIR_FRAMES <= ends].tolist():
            if start >= next_start:
                clips.append(ClipId(shard, start, int(segments[start])))
                next_start = start + stride_blocks * TOKEN_BLOCK_FRAMES
    return clips


def state_window(
    states: npt.NDArray[np.float32], segments: Segments, start: int, length: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """State rows `start` to `start + length - 1` as (length, 25), and which of them are real, as (length,).

    Rows past the segment's or the shard's end repeat the last row before it.
    """
    if not 0 <= start < len(segments):
        raise ValueError(f"start {start} is outside the shard's {len(segments)} frames")
    ahead = np.asarray(segments[start : start + length])
    changes = np.flatnonzero(ahead != ahead[0])
    num_valid = int(changes[0]) if changes.size else len(ahead)
    rows = start + np.minimum(np.arange(length), num_valid - 1)
    return np.asarray(states[rows], dtype=np.float32), np.arange(length) < num_valid


class TokenClips:
    """Pairs of token blocks with the state rows from their first frame on, one clip to an item."""

    def __init__(self, dataset: TokenDataset, clips: Sequence[ClipId], *, num_states: int = PAIR_STATES) -> None:
        self.dataset = dataset
        self.clips = tuple(clips)
        self.num_states = num_states

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Batch:
        """Tokens (1, 6, grid, grid) int64; states (1, num_states, 25)."""
        clip = self.clips[index]
        block = clip.start // TOKEN_BLOCK_FRAMES
        grids = self.dataset.tokens(clip.shard)[block : block + 2].reshape(-1, self.dataset.grid, self.dataset.grid)
        tokens = torch.from_numpy(grids.astype(np.int64))
        rows, valid = state_window(
            self.dataset.states(clip.shard), self.dataset.segments(clip.shard), clip.start, self.num_states
        )
        return Batch(
            clips=(clip,),
            tokens=tokens[None],
            states=torch.from_numpy(rows)[None],
            states_valid=torch.from_numpy(valid)[None],
        )


class VideoClips:
    """Frames at chosen offsets with the state rows from the clip's first frame on, one clip to an item."""

    def __init__(
        self,
        dataset: RawDataset,
        clips: Sequence[ClipId],
        *,
        frame_offsets: Sequence[int] | npt.NDArray[np.int64],
        num_states: int = CLIP_FRAMES,
        size: int | None = None,
    ) -> None:
        self.dataset = dataset
        self.clips = tuple(clips)
        self.frame_offsets = np.asarray(frame_offsets, dtype=np.int64)
        self.num_states = num_states
        self.size = size

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Batch:
        """Video (1, 3, T, H, W) float32 in [-1, 1]; states (1, num_states, 25)."""
        clip = self.clips[index]
        frames = self.dataset.frames(clip.shard, clip.start + self.frame_offsets, size=self.size)
        rows, valid = state_window(
            self.dataset.states(clip.shard), self.dataset.segments(clip.shard), clip.start, self.num_states
        )
        return Batch(
            clips=(clip,),
            video=to_video(torch.from_numpy(frames)[None]),
            states=torch.from_numpy(rows)[None],
            states_valid=torch.from_numpy(valid)[None],
        )


def _segment_edges(segments: Segments) -> npt.NDArray[np.int64]:
    """First frame of every run of equal ids, and the number of frames."""
    ids = np.asarray(segments)
    return np.concatenate([[0], np.flatnonzero(np.diff(ids)) + 1, [len(ids)]]).astype(np.int64)
