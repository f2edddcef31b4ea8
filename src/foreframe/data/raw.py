"""A raw dataset folder: mp4 frames, states and segment ids by shard."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from foreframe.data.layout import find_layout
from foreframe.data.video import VideoIndex, VideoReader
from foreframe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

MAX_OPEN_VIDEOS = 16
"""Decoders kept open per process: each holds the last pictures it decoded, some megabytes at 512x512."""


class RawDataset:
    """What lies in a raw folder, read on demand.

    May be pickled or forked into loader workers: each process opens its own decoders. Frame indices made so far
    travel along, so a parent that reads them first saves its workers a pass over the files.
    """

    def __init__(self, root: Path) -> None:
        self.layout = find_layout(root)
        if self.layout.kind != "raw":
            raise InputError(
                f"{root}: holds tokens (video_*.bin) where raw video (video_*.mp4) is wanted; name a raw folder"
            )
        self._indices: dict[int, VideoIndex] = {}
        self._readers: OrderedDict[int, VideoReader] = OrderedDict()
        self._process = os.getpid()

    def states(self, shard: int) -> npt.NDArray[np.float32]:
        """State rows (N, 25) of a shard, mapped into memory."""
        return self.layout.shards[shard].open_states()

    def segments(self, shard: int) -> npt.NDArray[np.int32]:
        """Segment ids (N,) of a shard, mapped into memory."""
        return self.layout.shards[shard].open_segments()

    def frames(
        self, shard: int, indices: Sequence[int] | npt.NDArray[np.integer[Any]], *, size: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """Frames of a shard in any order, uint8 (T, H, W, 3), box-downsampled to `size` if given."""
        return self._reader(shard).frames(indices, size=size)

    def video_index(self, shard: int) -> VideoIndex:
        """Where the shard's frames lie; read once. Raises `InputError` if the video has not the frames it should."""
        if shard not in self._indices:
            files = self.layout.shards[shard]
            index = VideoIndex.read(files.video)
            if len(index) != files.num_frames:
                raise InputError(
                    f"{files.video}: has {len(index)} frames, {files.metadata.name} says {files.num_frames};"
                    " fetch the file again, or write the data set again"
                )
            self._indices[shard] = index
        return self._indices[shard]

    def _reader(self, shard: int) -> VideoReader:
        if self._process != os.getpid():
            # Forked: the parent's open files share their read position with ours, so never touch them.
            self._readers, self._process = OrderedDict(), os.getpid()
        if shard not in self._readers:
            self._readers[shard] = VideoReader(self.layout.shards[shard].video, index=self.video_index(shard))
            if len(self._readers) > MAX_OPEN_VIDEOS:
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(shard)
        return self._readers[shard]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_readers": OrderedDict()}
