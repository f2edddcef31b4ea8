"""Latents of clips on disk: each clip's address, states and latents in one record, so that they cannot part.

    latents/
    ├── encoding.json    which frames of which data, by which weights, in which precision; the records' shape; hashes
    ├── metadata.json    as in 1X's folders, of the video
    └── clips_{i}.bin    one record after the other, for the clips of shard i in order

A record is `shard`, `start` and `segment`, int64 each, `states` float32 (77, 25), `states_valid` uint8 (77,) and
`latents` (C, F, h, w) in the precision that `dtype` names (bfloat16 as its 16 bits), little endian and without gaps.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from foreframe.batch import Batch
from foreframe.data.clips import ClipIndex, require_rate
from foreframe.data.encoding import encoded_fingerprint, require_encoding
from foreframe.data.layout import read_hz
from foreframe.data.places import is_there
from foreframe.errors import InputError
from foreframe.files import naming, require_regular
from foreframe.states import NUM_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from foreframe.batch import ClipId

LatentDtype = Literal["bfloat16", "float16", "float32"]
_TORCH: dict[LatentDtype, torch.dtype] = {
    "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32
}  # fmt: skip
_STORED: dict[LatentDtype, str] = {"bfloat16": "<i2", "float16": "<f2", "float32": "<f4"}


def record_type(shape: Sequence[int], *, num_states: int, dtype: LatentDtype) -> np.dtype[np.void]:
    """Layout of one clip's record; `shape` is that of its latents, (C, F, h, w)."""
    return np.dtype(
        [
            ("shard", "<i8"),
            ("start", "<i8"),
            ("segment", "<i8"),
            ("states", "<f4", (num_states, NUM_CHANNELS)),
            ("states_valid", "u1", (num_states,)),
            ("latents", _STORED[dtype], tuple(shape)),
        ]
    )


def shard_file(root: Path, shard: int) -> Path:
    """Where the records of a shard lie."""
    return root / f"clips_{shard}.bin"


class LatentShardWriter:
    """Append the records of one shard to a file in `scratch`, which gets its name in `root` when it is whole.

    What an earlier process had written is kept: `num_written` records, a multiple of `multiple`, are there already.
    """

    def __init__(self, root: Path, shard: int, *, scratch: Path, record: np.dtype[np.void], multiple: int) -> None:
        self._path = shard_file(root, shard)
        self._partial = scratch / f".{self._path.name}.partial"
        self._record = record
        self._file = self._partial.open("ab")
        whole = self._partial.stat().st_size // record.itemsize
        self.num_written: int = whole - whole % multiple
        with naming(self._partial):
            self._file.truncate(self.num_written * record.itemsize)

    def append(self, batch: Batch, latents: torch.Tensor, *, dtype: LatentDtype) -> None:
        """Write the clips of `batch` with their latents (B, C, F, h, w)."""
        records = np.zeros(len(batch), dtype=self._record)
        records["shard"] = [clip.shard for clip in batch.clips]
        records["start"] = [clip.start for clip in batch.clips]
        records["segment"] = [clip.segment for clip in batch.clips]
        records["states"] = batch.states.numpy()
        records["states_valid"] = batch.states_valid.numpy()
        stored = latents.cpu().to(_TORCH[dtype])
        records["latents"] = (stored.view(torch.int16) if dtype == "bfloat16" else stored).numpy()
        with naming(self._partial):
            self._file.write(records.tobytes())
            self._file.flush()

    def finish(self) -> None:
        """Give the file its name."""
        with naming(self._partial):
            os.fsync(self._file.fileno())
        self.close()
        self._partial.replace(self._path)

    def close(self) -> None:
        """Stop here; what is written stays for the next attempt."""
        with naming(self._partial):
            self._file.close()


class LatentClips:
    """Clips whose frames were encoded before: latents with the states of the same record."""

    def __init__(self, root: Path, *, expected: Mapping[str, object]) -> None:
        """Open the folder; `InputError` unless its `encoding.json` agrees with every fact in `expected`."""
        self.encoding = require_encoding(root, {"kind": "latents", **expected})
        if is_there(metadata := root / "metadata.json"):
            require_rate(read_hz(metadata), metadata)
        self.root = root
        self.dtype: LatentDtype = self.encoding["dtype"]
        self._record = record_type(
            self.encoding["latent_shape"], num_states=self.encoding["num_states"], dtype=self.dtype
        )
        pieces: list[tuple[int, npt.NDArray[Any], npt.NDArray[Any]]] = []
        self._first: dict[int, int] = {}
        num_clips = 0
        for shard, count in ((int(key), int(value)) for key, value in self.encoding["clips"].items()):
            records = self._records(shard, count)
            if (records["shard"] != shard).any():
                raise InputError(f"{shard_file(root, shard)}: holds the clips of another shard; encode the video again")
            self._first[shard] = num_clips
            num_clips += count
            pieces.append((shard, records["start"], records["segment"]))
        self.clips = ClipIndex(pieces)

    @property
    def skipped(self) -> Mapping[int, str]:
        """Shards that were left out when the latents were made, and why."""
        return {int(shard): reason for shard, reason in self.encoding["skipped"].items()}

    @property
    def encoded_fingerprint(self) -> str | None:
        """See `ClipDataset`."""
        return encoded_fingerprint(self.encoding)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Batch:
        """Latents (1, C, F, h, w) float32; states (1, num_states, 25)."""
        index = range(len(self))[index]
        clip: ClipId = self.clips[index]
        record = self._records(clip.shard)[index - self._first[clip.shard]]
        stored = torch.from_numpy(np.array(record["latents"]))
        latents = stored.view(torch.bfloat16) if self.dtype == "bfloat16" else stored
        return Batch(
            clips=(clip,),
            latents=latents.float()[None],
            states=torch.from_numpy(np.array(record["states"]))[None],
            states_valid=torch.from_numpy(np.array(record["states_valid"]).astype(np.bool_))[None],
        )

    def _records(self, shard: int, count: int | None = None) -> npt.NDArray[np.void]:
        path = shard_file(self.root, shard)
        if count is not None and require_regular(path).st_size != count * self._record.itemsize:
            raise InputError(f"{path}: is not {count} records of {self._record.itemsize} bytes; encode the video again")
        if count == 0:
            return np.empty(0, dtype=self._record)
        return np.memmap(path, dtype=self._record, mode="r")
