"""A raw dataset whose frames are decoded once, to a size, and read from memory maps after that."""

from __future__ import annotations

import errno
import io
import math
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from foreframe.data.clips import require_rate
from foreframe.data.integrity import fingerprint
from foreframe.data.raw import RawDataset
from foreframe.files import locked, make_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from foreframe.data.layout import OnBadShard

_AT_ONCE = 512
"""Frames decoded in one go."""


class DecodedDataset(RawDataset):
    """Like `RawDataset` at one size, with every shard's frames as `shard_{i}.npy`, uint8 (N, size, size, 3).

    For small frames that are read many times: a two-hour recording at 128x128 takes 10.6 GB, and a window of it a
    copy from memory instead of decoding three seconds of video.
    """

    def __init__(self, root: Path, *, cache: Path, size: int, on_bad_shard: OnBadShard = "raise") -> None:
        """Open the folder, and decode into `cache` what is not there yet; the data's fingerprint names the place."""
        super().__init__(root, on_bad_shard=on_bad_shard)
        require_rate(self.layout.hz, root / "metadata.json")  # before hours of decoding, not after
        self.check(size=size)
        self.size = size
        self._folder = cache / f"frames-{fingerprint(root, on_bad_shard=on_bad_shard)[:12]}-{size}"
        missing = [shard for shard in self.layout.shards if not self._is_whole(shard.index, shard.num_frames)]
        if missing:  # else nothing is written: the folder may be read only
            make_folder(self._folder, advice="decoded frames are kept there; mend that, or leave out track.decode-once")
            waiting = f"waiting for another process ({{pid}}), which is making {self._folder}"
            with locked(self._folder / ".lock", waiting=waiting):
                for shard in missing:
                    if not self._is_whole(shard.index, shard.num_frames):
                        self._make(shard.index, shard.num_frames)

    def frames(
        self, shard: int, indices: Sequence[int] | npt.NDArray[np.integer[Any]], *, size: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """See `RawDataset`; from the memory map at its own size, decoded anew at any other."""
        if size != self.size:
            return super().frames(shard, indices, size=size)
        return np.load(self._path(shard), mmap_mode="r", allow_pickle=False)[np.asarray(indices)]

    def _path(self, shard: int) -> Path:
        return self._folder / f"shard_{shard}.npy"

    def _is_whole(self, shard: int, num_frames: int) -> bool:
        path = self._path(shard)
        try:
            frames = np.lib.format.open_memmap(path, mode="r")
        except (FileNotFoundError, ValueError, EOFError):  # missing, cut, emptied, or something else
            return False
        is_all = frames.shape == (num_frames, self.size, self.size, 3) and frames.dtype == np.uint8
        return is_all and path.stat().st_size == frames.offset + frames.nbytes

    def _make(self, shard: int, num_frames: int) -> None:
        """Decode a shard whose file is missing, or not whole, which is said."""
        path, shape = self._path(shard), (num_frames, self.size, self.size, 3)
        if path.exists():
            size = path.stat().st_size
            print(f"foreframe: {path}: is not whole ({size} bytes); it is made again", file=sys.stderr)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        length = len(header.getvalue()) + math.prod(shape)
        partial = self._folder / f".shard_{shard}.partial"
        try:
            with partial.open("wb") as file:
                # Before hours of decoding, and never as a hole in the file: a map of one dies where the disk is full.
                _reserve(file.fileno(), length)
                file.write(header.getvalue())
                for first in range(0, num_frames, _AT_ONCE):
                    some = range(first, min(first + _AT_ONCE, num_frames))
                    file.write(super().frames(shard, some, size=self.size).data)
            partial.replace(path)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(
                error.errno, f"{os.strerror(error.errno)}: it takes {length / 1e6:.1f} MB; make room there", str(path)
            ) from error


def _reserve(file: int, length: int) -> None:
    """Take the room of a file before it is written, where the file system can."""
    reserve = getattr(os, "posix_fallocate", None)  # macOS has none
    if reserve is None:
        return
    try:
        reserve(file, 0, length)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
