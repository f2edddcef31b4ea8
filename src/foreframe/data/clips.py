"""Clips: which windows of a dataset are valid, and what a model sees of one.

Addresses first, pixels later: `clip_ids`, `token_pair_ids` and `sample_ids` list the windows from the segment ids or
the sizes alone; `VideoClips`, `TokenClips` and `TokenSamples` read one window when it is asked for.
"""

# NumPy's and PyTorch's annotations leave some array members unknown.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import torch

from foreframe.batch import Batch, ClipId, to_video
from foreframe.data.encoding import encoded_fingerprint
from foreframe.data.layout import TOKEN_BLOCK_FRAMES
from foreframe.data.windows import CLIP_FRAMES, CLIP_HZ
from foreframe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from foreframe.data.layout import Layout
    from foreframe.data.raw import RawDataset
    from foreframe.data.tokens import TokenDataset

Segments = npt.NDArray[np.integer[Any]]
PAIR_FRAMES = 2 * TOKEN_BLOCK_FRAMES
"""Frames of a context block and the block to predict."""
PAIR_STATES = 64
"""State rows given with a token clip; they look 30 frames past it (challenge-facts 4.4)."""


def require_rate(hz: float, metadata: Path) -> None:
    """Raise `InputError` unless `hz`, of a dataset's `metadata.json`, is `CLIP_HZ` to one in a hundred, as 29.97 is.

    Frames are counted, not timed: of data at another rate a clip would last another time, and be learnt as if not.
    """
    if abs(hz - CLIP_HZ) > 0.01 * CLIP_HZ:
        raise InputError(
            f"{metadata}: hz is {hz:g}, but the models' clips are of {CLIP_HZ:g} frames a second, and other rates "
            f"cannot be used yet; write the data at {CLIP_HZ:g} Hz, or correct hz if that is its rate"
        )


class ClipIndex(Sequence[ClipId]):
    """Clip addresses in columns of 32-bit numbers: ten million fit into 80 MB."""

    def __init__(self, pieces: Iterable[tuple[int, Segments, Segments]]) -> None:
        """`pieces` are (shard, starts, segments), in the order the clips shall have."""
        self._shards: list[int] = []
        self._ends: list[int] = []
        starts = [np.empty(0, dtype=np.int32)]
        segments = [np.empty(0, dtype=np.int32)]
        for shard, some_starts, some_segments in pieces:
            starts.append(some_starts.astype(np.int32))
            segments.append(some_segments.astype(np.int32))
            self._shards.append(shard)
            self._ends.append(len(some_starts) + (self._ends[-1] if self._ends else 0))
        self._starts, self._segments = np.concatenate(starts), np.concatenate(segments)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> ClipId: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ClipId, ...]: ...
    def __getitem__(self, index: int | slice) -> ClipId | tuple[ClipId, ...]:
        places = range(len(self))
        if isinstance(index, slice):
            return tuple(self[place] for place in places[index])
        place = places[index]
        shard = self._shards[bisect_right(self._ends, place)]
        return ClipId(shard, int(self._starts[place]), int(self._segments[place]))


def clip_ids(
    segments: Mapping[int, Segments],
    *,
    length: int = CLIP_FRAMES,
    stride: int = 1,
    legacy_segment_check: bool = False,
) -> ClipIndex:
    """Windows of `length` frames that lie inside one segment, in order of shard and start.

    The start advances by `stride` after a valid window, else by 1, as the entry's loader did (challenge-facts 5.7,
    5.10). `legacy_segment_check` repeats its off-by-one, which also wants the frame after the window to be in the
    segment and so loses the window that ends where the segment does (1.6).

    Args:
        segments: Segment ids (N,) by shard number.
        length: Frames of a window.
        stride: Frames from one start to the next.
        legacy_segment_check: Whether to repeat the off-by-one.
    """
    if length < 1 or stride < 1:
        raise ValueError(f"clip length {length} and stride {stride} must be at least 1")
    needed = length + legacy_segment_check

    def of_shard(ids: Segments) -> npt.NDArray[np.int64]:
        found = [np.empty(0, dtype=np.int64)]
        edges = _segment_edges(ids)
        next_start = 0
        for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            starts = range(max(first, next_start), end - needed + 1, stride)
            if starts:
                found.append(np.arange(starts.start, starts.stop, stride))
                next_start = starts[-1] + stride
        return np.concatenate(found)

    return _index(segments, of_shard)


def token_pair_ids(segments: Mapping[int, Segments], *, stride_blocks: int = 2) -> ClipIndex:
    """Pairs of whole 17-frame blocks whose 34 frames lie inside one segment (challenge-facts 1.6, 4.4).

    After a valid pair at block k the next tried is k + `stride_blocks`, else k + 1: 2 makes pairs that share no block,
    1 makes every pair. `segments` are the segment ids (N,) by shard number.
    """
    if stride_blocks < 1:
        raise ValueError(f"stride {stride_blocks} must be at least 1 block")

    def of_shard(ids: Segments) -> npt.NDArray[np.int64]:
        starts = np.arange(len(ids) // TOKEN_BLOCK_FRAMES - 1, dtype=np.int64) * TOKEN_BLOCK_FRAMES
        # A pair is inside one segment if the segment of its first frame ends no earlier than the pair.
        edges = _segment_edges(ids)
        ends = edges[np.searchsorted(edges, starts, side="right")]
        found: list[int] = []
        next_start = 0
        for start in starts[starts + PAIR_FRAMES <= ends].tolist():
            if start >= next_start:
                found.append(start)
                next_start = start + stride_blocks * TOKEN_BLOCK_FRAMES
        return np.array(found, dtype=np.int64)

    return _index(segments, of_shard)


def sample_ids(layout: Layout) -> ClipIndex:
    """The samples of a test split; a sample's number in the whole split stands in `segment` (challenge-facts 1.3)."""
    if layout.contents != "samples":
        raise InputError(f"{layout.root}: holds recordings, not the samples of a test split; name a test folder")
    pieces: list[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    first = 0
    for shard in layout.shards:
        numbers = np.arange(shard.num_samples or 0, dtype=np.int64)
        pieces.append((shard.index, numbers * TOKEN_BLOCK_FRAMES, first + numbers))
        first += len(numbers)
    return ClipIndex(pieces)


def _index(segments: Mapping[int, Segments], starts_of: Callable[[Segments], npt.NDArray[np.int64]]) -> ClipIndex:
    def pieces() -> Iterator[tuple[int, npt.NDArray[np.int64], Segments]]:
        for shard, ids in segments.items():
            starts = starts_of(ids)
            yield shard, starts, np.asarray(ids)[starts]

    return ClipIndex(pieces())


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
        require_rate(dataset.layout.hz, dataset.layout.root / "metadata.json")
        self.dataset = dataset
        self.clips = clips
        self.num_states = num_states

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def skipped(self) -> Mapping[int, str]:
        """Shards left out because they are broken, and why."""
        return self.dataset.skipped

    @property
    def encoded_fingerprint(self) -> str | None:
        """See `ClipDataset`."""
        return encoded_fingerprint(self.dataset.encoding)

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


class TokenSamples:
    """The samples of a tokenised test split: one block and its 64 state rows, one sample to an item."""

    def __init__(self, dataset: TokenDataset) -> None:
        require_rate(dataset.layout.hz, dataset.layout.root / "metadata.json")
        self.dataset = dataset
        self.clips = sample_ids(dataset.layout)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def skipped(self) -> Mapping[int, str]:
        """Shards left out because they are broken, and why."""
        return self.dataset.skipped

    @property
    def encoded_fingerprint(self) -> str | None:
        """See `ClipDataset`."""
        return encoded_fingerprint(self.dataset.encoding)

    def __getitem__(self, index: int) -> Batch:
        """Tokens (1, 3, grid, grid) int64; states (1, 64, 25), all valid."""
        clip = self.clips[index]
        number = clip.start // TOKEN_BLOCK_FRAMES
        tokens = self.dataset.tokens(clip.shard)[number].astype(np.int64)
        return _sample(clip, self.dataset.states(clip.shard)[number], tokens=torch.from_numpy(tokens)[None])


class VideoSamples:
    """The samples of a raw test split: 17 frames and 77 state rows, one sample to an item."""

    def __init__(self, dataset: RawDataset, *, size: int | None = None) -> None:
        require_rate(dataset.layout.hz, dataset.layout.root / "metadata.json")
        self.dataset = dataset
        self.clips = sample_ids(dataset.layout)
        self.size = size

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def skipped(self) -> Mapping[int, str]:
        """Shards left out because they are broken, and why."""
        return self.dataset.skipped

    @property
    def encoded_fingerprint(self) -> str | None:
        """See `ClipDataset`."""
        return None

    def __getitem__(self, index: int) -> Batch:
        """Video (1, 3, 17, H, W) float32 in [-1, 1]; states (1, 77, 25), all valid."""
        clip = self.clips[index]
        indices = range(clip.start, clip.start + TOKEN_BLOCK_FRAMES)
        frames = self.dataset.frames(clip.shard, indices, size=self.size)
        states = self.dataset.states(clip.shard)[clip.start // TOKEN_BLOCK_FRAMES]
        return _sample(clip, states, video=to_video(torch.from_numpy(frames)[None]))


def _sample(
    clip: ClipId,
    states: npt.NDArray[np.float32],
    *,
    tokens: torch.Tensor | None = None,
    video: torch.Tensor | None = None,
) -> Batch:
    rows = torch.from_numpy(np.array(states, dtype=np.float32))[None]
    return Batch(
        clips=(clip,),
        states=rows,
        states_valid=torch.ones(rows.shape[:2], dtype=torch.bool),
        tokens=tokens,
        video=video,
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
        require_rate(dataset.layout.hz, dataset.layout.root / "metadata.json")
        self.dataset = dataset
        self.clips = clips
        self.frame_offsets = np.asarray(frame_offsets, dtype=np.int64)
        self.num_states = num_states
        self.size = size

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def skipped(self) -> Mapping[int, str]:
        """Shards left out because they are broken, and why."""
        return self.dataset.skipped

    @property
    def encoded_fingerprint(self) -> str | None:
        """See `ClipDataset`."""
        return None

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
