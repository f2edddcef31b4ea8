"""A raw dataset folder: mp4 frames, states and segment ids by shard."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from foreframe.data.film import film_size
from foreframe.data.frame_size import check_frame_size
from foreframe.data.integrity import check_rows, without_broken
from foreframe.data.layout import find_layout
from foreframe.data.video import VideoIndex, VideoReader
from foreframe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from foreframe.data.layout import OnBadShard

MAX_OPEN_VIDEOS = 16
"""Decoders kept open per process: each holds the last pictures it decoded, some megabytes at 512x512."""


class RawDataset:
    """What lies in a raw folder, read on demand.

    May be pickled or forked into loader workers: each process opens its own decoders. Frame indices made so far
    travel along, so a parent that reads them first saves its workers a pass over the files.
    """

    def __init__(self, root: Path, *, on_bad_shard: OnBadShard = "raise") -> None:
        """Open the folder; `on_bad_shard="skip"` leaves out shards that are broken, `layout.skipped` says which.

        To skip means to look first: rows and the videos' packets are then read at once, but no picture is decoded.
        """
        self.layout = find_layout(root, on_bad_shard=on_bad_shard)
        if self.layout.kind != "raw":
            raise InputError(
                f"{root}: holds tokens (video_*.bin) where raw video (video_*.mp4) is wanted; name a raw folder"
            )
        self._indices: dict[int, VideoIndex] = {}
        self._readers: OrderedDict[int, VideoReader] = OrderedDict()
        self._process = os.getpid()
        if on_bad_shard == "skip":
            self.layout = without_broken(self.layout, also=lambda shard: self.video_index(shard.index))

    @property
    def skipped(self) -> dict[int, str]:
        """Shards left out, and why."""
        return self.layout.skipped

    def check(self, *, size: int | None = None) -> None:
        """Read every state row and segment id; `InputError` on the first that is broken.

        With `size`, also open every video and see that its frames can be read at that size.
        """
        for shard in self.layout.shards:
            check_rows(shard)
        if size is not None:
            self.check_size(size)

    def check_size(self, size: int) -> None:
        """Open every video; `InputError` on the first whose frames cannot be read at that size."""
        for shard in self.layout.shards:
            check_frame_size(shard.video, *film_size(shard.video), size=size)

    def states(self, shard: int) -> npt.NDArray[np.float32]:
        """State rows (N, 25) of a shard, or (samples, 77, 25), mapped into memory."""
        return self.layout.shard(shard).open_states()

    def segments(self, shard: int) -> npt.NDArray[np.int32]:
        """Segment ids (N,) of a shard, mapped into memory."""
        return self.layout.shard(shard).open_segments()

    def all_segments(self) -> dict[int, npt.NDArray[np.int32]]:
        """Segment ids by shard: what clips are cut from."""
        return {shard.index: shard.open_segments() for shard in self.layout.shards}

    def frames(
        self, shard: int, indices: Sequence[int] | npt.NDArray[np.integer[Any]], *, size: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """Frames of a shard in any order, uint8 (T, H, W, 3), box-downsampled to `size` if given."""
        reader = self._reader(shard)
        frames = reader.frames(indices, size=size)
        self._indices[shard] = reader.index  # what was learnt of keyframes goes to the next reader
        return frames

    @property
    def frame_size(self) -> int:
        """Side of the square frames, pixels."""
        return self.video_index(self.layout.shards[0].index).width

    def video_index(self, shard: int) -> VideoIndex:
        """Where the shard's frames lie; read once. Raises `InputError` if the video has not the frames it should.

        Neither in number nor in shape, which must be square.
        """
        if shard not in self._indices:
            files = self.layout.shard(shard)
            index = VideoIndex.read(files.video)
            if len(index) != files.num_frames:
                raise InputError(
                    f"{files.video}: has {len(index)} frames, {files.metadata.name} says {files.num_frames};"
                    " fetch the file again, or write the data set again"
                )
            check_frame_size(files.video, index.width, index.height)
            self._indices[shard] = index
        return self._indices[shard]

    def _reader(self, shard: int) -> VideoReader:
        if self._process != os.getpid():
            # Forked: the parent's open files share their read position with ours, so never touch them.
            self._readers, self._process = OrderedDict(), os.getpid()
        if shard not in self._readers:
            self._readers[shard] = VideoReader(self.layout.shard(shard).video, index=self.video_index(shard))
            if len(self._readers) > MAX_OPEN_VIDEOS:
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(shard)
        return self._readers[shard]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_readers": OrderedDict()}
