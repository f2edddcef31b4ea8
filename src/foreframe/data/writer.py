"""Write 1X v2.0 dataset folders: a whole folder or nothing, a whole shard or nothing (challenge-facts 1.2, 1.3)."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from foreframe.data.layout import (
    RAW_SAMPLE_STATES,
    TOKEN_BLOCK_FRAMES,
    TOKEN_BLOCK_GRIDS,
    TOKEN_SAMPLE_STATES,
    Kind,
    ShardFiles,
    Style,
    shard_files,
)
from foreframe.data.video import VideoWriter
from foreframe.files import write_whole
from foreframe.states import NUM_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from typing_extensions import Self


def shard_is_written(root: Path, index: int, *, kind: Kind, style: Style) -> bool:
    """Whether a shard's metadata file, which is written last, is there."""
    return shard_files(root, index, kind=kind, style=style).metadata.is_file()


def write_metadata(root: Path, *, num_shards: int, num_images: int, hz: float = 30) -> None:
    """Write the folder's `metadata.json`; `num_images` is the sum of the shards' frames."""
    write_whole(root / "metadata.json", metadata_json(num_shards=num_shards, num_images=num_images, hz=hz))


def metadata_json(*, num_shards: int, num_images: int, hz: float = 30) -> bytes:
    """What `write_metadata` writes."""
    content = {
        "num_shards": num_shards,
        "num_images": num_images,
        "hz": int(hz) if hz == int(hz) else hz,
        "query": None,
    }
    return _json(content)


class RawShardWriter:
    """Write one raw shard frame by frame; a context manager.

    On a clean exit the states, the segment ids, the video and, last, `metadata_{i}.json` appear, each whole. On an
    exception none does. A shard without its metadata file is not finished.
    """

    def __init__(
        self, root: Path, index: int, *, style: Style, size: int, hz: int = 30, crf: int = 23, gop: int = 30
    ) -> None:
        self._files = shard_files(root, index, kind="raw", style=style)
        self._index = index
        self._states: list[npt.NDArray[np.float32]] = []
        self._segments: list[int] = []
        self._files.video.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self._files.video.with_name(f".{self._files.video.name}.partial")
        self._video = VideoWriter(self._partial, size=size, hz=hz, crf=crf, gop=gop)

    def append(self, frame: npt.NDArray[np.uint8], states: npt.NDArray[np.float32], *, segment: int) -> None:
        """Add one frame (H, W, 3) RGB, its 25 states and the id of the recording it belongs to.

        Raises `ValueError` on a wrong shape or type, states that are not finite, or a segment id that decreases.
        """
        row = _checked_states(states[None], 1)
        _check_segments(np.array([self._segments[-1] if self._segments else 0, segment]))
        self._video.append(frame)
        self._states.append(row[0].copy())
        self._segments.append(segment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._finish()
            else:
                self._video.close()
        finally:
            self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        if not self._states:
            self._video.close()
            raise ValueError(f"{self._files.video}: no frame was appended to this shard")
        self._video.finish()
        _write_rows(self._files, np.stack(self._states), np.array(self._segments))
        self._partial.replace(self._files.video)
        _write_shard_metadata(self._files, self._index, len(self._states))


def write_token_shard(
    root: Path,
    index: int,
    *,
    style: Style,
    tokens: npt.NDArray[np.integer[Any]],
    states: npt.NDArray[np.float32],
    segments: npt.NDArray[np.integer[Any]],
) -> None:
    """Write one tokenised shard: tokens (ceil(N/17), 3, h, w), states (N, 25), segments (N,).

    The number of frames N is that of `segments`. Raises `ValueError` if the three disagree, a token is negative, a
    state is not finite or a segment id decreases; nothing is written then.
    """
    num_frames = len(segments)
    num_blocks = math.ceil(num_frames / TOKEN_BLOCK_FRAMES)
    if num_frames == 0:
        raise ValueError("a token shard needs at least one frame")
    if tokens.ndim != 4 or tokens.shape[:2] != (num_blocks, TOKEN_BLOCK_GRIDS) or tokens.shape[2] != tokens.shape[3]:
        raise ValueError(f"tokens have shape {tokens.shape}, expected ({num_blocks}, 3, n, n) for {num_frames} frames")
    if not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens are {tokens.dtype}, expected integers")
    if tokens.size == 0 or tokens.min() < 0 or tokens.max() > np.iinfo(np.int32).max:
        raise ValueError("tokens must be non-negative int32 values, at least one to a grid")
    rows = _checked_states(states, num_frames)
    _check_segments(segments)
    files = shard_files(root, index, kind="tokens", style=style)
    _write_rows(files, rows, segments)
    write_whole(files.video, tokens.astype("<i4").tobytes())
    _write_shard_metadata(files, index, num_frames)


def write_token_samples(
    root: Path,
    index: int,
    *,
    style: Style,
    tokens: npt.NDArray[np.integer[Any]],
    states: npt.NDArray[np.float32],
) -> None:
    """Write one shard of a tokenised test split: tokens (n, 3, h, w) and states (n, 64, 25) of n samples.

    No segment file, as in 1X's own; what `shard_num_frames` says there is not known, here it is 17 n (*assumed*).
    """
    shape = (len(tokens), TOKEN_BLOCK_GRIDS, *tokens.shape[3:4] * 2)
    if len(tokens) == 0 or tokens.shape != shape or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens are {tokens.dtype} {tokens.shape}, expected integers (n, 3, h, h)")
    if tokens.size == 0 or tokens.min() < 0 or tokens.max() > np.iinfo(np.int32).max:
        raise ValueError("tokens must be non-negative int32 values, at least one to a grid")
    rows = _sample_rows(states, len(tokens), TOKEN_SAMPLE_STATES)
    files = shard_files(root, index, kind="tokens", style=style)
    write_whole(files.states, rows.astype("<f4").tobytes())
    write_whole(files.video, tokens.astype("<i4").tobytes())
    _write_shard_metadata(files, index, len(tokens) * TOKEN_BLOCK_FRAMES)


def write_raw_samples(
    root: Path,
    index: int,
    *,
    style: Style,
    frames: Sequence[npt.NDArray[np.uint8]],
    states: npt.NDArray[np.float32],
    hz: int = 30,
    crf: int = 23,
    gop: int = TOKEN_BLOCK_FRAMES,
) -> None:
    """Write one shard of a raw test split: n samples of frames (17, H, W, 3) each, and states (n, 77, 25).

    The samples' frames follow each other in one mp4. That 1X's own test split looks like this is *assumed*: only the
    name of its video file is public (challenge-facts 1.2).
    """
    rows = _sample_rows(states, len(frames), RAW_SAMPLE_STATES)
    if not frames:
        raise ValueError("a shard needs at least one sample")
    files = shard_files(root, index, kind="raw", style=style)
    files.video.parent.mkdir(parents=True, exist_ok=True)
    partial = files.video.with_name(f".{files.video.name}.partial")
    try:
        with VideoWriter(partial, size=frames[0].shape[1], hz=hz, crf=crf, gop=gop) as video:
            for sample in frames:
                if len(sample) != TOKEN_BLOCK_FRAMES:
                    raise ValueError(f"a sample has {len(sample)} frames, expected {TOKEN_BLOCK_FRAMES}")
                for frame in sample:
                    video.append(frame)
        write_whole(files.states, rows.astype("<f4").tobytes())
        partial.replace(files.video)
    finally:
        partial.unlink(missing_ok=True)
    _write_shard_metadata(files, index, len(frames) * TOKEN_BLOCK_FRAMES)


def _sample_rows(states: npt.NDArray[np.float32], num_samples: int, num_rows: int) -> npt.NDArray[np.float32]:
    if states.shape != (num_samples, num_rows, NUM_CHANNELS):
        raise ValueError(f"states are {states.shape}, expected {(num_samples, num_rows, NUM_CHANNELS)}")
    return _checked_states(states.reshape(-1, NUM_CHANNELS), num_samples * num_rows)


def _write_rows(files: ShardFiles, states: npt.NDArray[np.float32], segments: npt.NDArray[np.integer[Any]]) -> None:
    write_whole(files.states, states.astype("<f4").tobytes())
    write_whole(files.segments, segments.astype("<i4").tobytes())


def _write_shard_metadata(files: ShardFiles, index: int, num_frames: int) -> None:
    write_whole(files.metadata, _json({"shard_num_frames": num_frames, "shard_ind": index}))


def _checked_states(states: npt.NDArray[np.float32], num_frames: int) -> npt.NDArray[np.float32]:
    if states.shape != (num_frames, NUM_CHANNELS) or states.dtype != np.float32:
        expected = (num_frames, NUM_CHANNELS)
        raise ValueError(f"states are {states.dtype} {states.shape}, expected float32 {expected}")
    if not np.isfinite(states).all():
        row, channel = np.argwhere(~np.isfinite(states))[0]
        raise ValueError(f"state row {row}, channel {channel} is not finite: {states[row, channel]}")
    return states


def _check_segments(segments: npt.NDArray[np.integer[Any]]) -> None:
    if segments.ndim != 1 or not np.issubdtype(segments.dtype, np.integer):
        raise ValueError(f"segment ids are {segments.dtype} {segments.shape}, expected integers of shape (N,)")
    if segments.min() < 0 or segments.max() > np.iinfo(np.int32).max:
        raise ValueError(f"segment ids must be non-negative int32 values, not {segments.min()}..{segments.max()}")
    steps = np.diff(segments.astype(np.int64))
    if (steps < 0).any():
        at = int(np.argmax(steps < 0))
        raise ValueError(f"segment ids must not decrease: {segments[at]} is followed by {segments[at + 1]}")


def _json(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content) + "\n").encode()
