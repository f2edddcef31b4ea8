"""A raw dataset whose frames are decoded once, to a size, and read from memory maps after that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from foreframe.data.clips import require_rate
from foreframe.data.integrity import fingerprint
from foreframe.data.raw import RawDataset

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
        self.check()
        self.size = size
        self._folder = cache / f"frames-{fingerprint(root, on_bad_shard=on_bad_shard)[:12]}-{size}"
        self._folder.mkdir(parents=True, exist_ok=True)
        for shard in self.layout.shards:
            self._decode(shard.index, shard.num_frames)

    def frames(
        self, shard: int, indices: Sequence[int] | npt.NDArray[np.integer[Any]], *, size: int | None = None
    ) -> npt.NDArray[np.uint8]:
        """See `RawDataset`; from the memory map at its own size, decoded anew at any other."""
        if size != self.size:
            return super().frames(shard, indices, size=size)
        return np.load(self._path(shard), mmap_mode="r", allow_pickle=False)[np.asarray(indices)]

    def _path(self, shard: int) -> Path:
        return self._folder / f"shard_{shard}.npy"

    def _decode(self, shard: int, num_frames: int) -> None:
        if self._path(shard).is_file():
            return
        partial = self._folder / f".shard_{shard}.partial"
        shape = (num_frames, self.size, self.size, 3)
        frames = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        for first in range(0, num_frames, _AT_ONCE):
            some = range(first, min(first + _AT_ONCE, num_frames))
            frames[some.start : some.stop] = super().frames(shard, some, size=self.size)
        frames.flush()
        partial.replace(self._path(shard))
