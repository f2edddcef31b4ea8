"""A tokenised dataset folder: token blocks, states and segment ids by shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from foreframe.data import hints
from foreframe.data.encoding import ENCODING_FILE, read_encoding
from foreframe.data.integrity import check_rows, check_types, without_broken
from foreframe.data.layout import TOKEN_BLOCK_GRIDS, find_layout
from foreframe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from foreframe.data.layout import Layout, OnBadShard, Shard


class TokenDataset:
    """What lies in a tokenised folder, mapped into memory on demand. Holds no open file: may be pickled or forked."""

    def __init__(self, root: Path, *, on_bad_shard: OnBadShard = "raise") -> None:
        """Open the folder; `on_bad_shard="skip"` leaves out shards that are broken, `layout.skipped` says which."""
        self.layout = find_layout(root, on_bad_shard=on_bad_shard)
        if self.layout.grid is None:
            raise InputError(
                f"{root}: holds raw video (video_*.mp4) where tokens (video_*.bin) are wanted; encode it first"
            )
        self.grid: int = self.layout.grid
        """Side of a token grid: 32 in 1X's data."""
        self._on_bad_shard: OnBadShard = on_bad_shard
        self.encoding = read_encoding(root)
        """What `encoding.json` says of how the tokens were made; None for 1X's own."""
        if self.encoding is not None:
            _check_description(root, self.encoding, self.layout)
        if on_bad_shard == "skip":
            self.layout = without_broken(self.layout, also=self._check_order)

    @property
    def skipped(self) -> dict[int, str]:
        """Shards left out, now or when the video was encoded, and why."""
        encoded = (self.encoding or {}).get("skipped", {})
        return {**{int(shard): str(reason) for shard, reason in encoded.items()}, **self.layout.skipped}

    def source_shard(self, shard: int) -> int:
        """Number of the raw shard that a shard was encoded from."""
        return shard if self.encoding is None else int(self.encoding["source_shards"][shard])

    def tokens(self, shard: int) -> npt.NDArray[np.int32]:
        """Token blocks (ceil(N/17), 3, grid, grid) of a shard; the last may stand for fewer than 17 real frames."""
        files = self.layout.shard(shard)
        shape = (files.num_blocks, TOKEN_BLOCK_GRIDS, self.grid, self.grid)
        return np.memmap(files.video, dtype="<i4", mode="r", shape=shape)

    def states(self, shard: int) -> npt.NDArray[np.float32]:
        """State rows (N, 25) of a shard, or (samples, 64, 25), mapped into memory."""
        return self.layout.shard(shard).open_states()

    def segments(self, shard: int) -> npt.NDArray[np.int32]:
        """Segment ids (N,) of a shard, mapped into memory."""
        return self.layout.shard(shard).open_segments()

    def all_segments(self) -> dict[int, npt.NDArray[np.int32]]:
        """Segment ids by shard: what clips are cut from."""
        return {shard.index: shard.open_segments() for shard in self.layout.shards}

    def check(self, vocab_size: int) -> None:
        """Read every row and token; `InputError` on the first broken shard, or with "skip" only when all are."""
        if self._on_bad_shard == "skip":
            self.layout = without_broken(self.layout, also=lambda shard: self._check_tokens(shard, vocab_size))
            return
        for shard in self.layout.shards:
            check_rows(shard)
            self._check_tokens(shard, vocab_size)

    def check_types(self) -> None:
        """Look at the first numbers of every file; `InputError` if one makes sense only in another type or order."""
        for shard in self.layout.shards:
            check_types(shard)
            self._check_order(shard)

    def _check_order(self, shard: Shard) -> None:
        tokens = self.tokens(shard.index)
        fault = hints.integers_fault(tokens.reshape(-1)) or hints.axes_hint(tokens)
        if fault is not None:
            raise InputError(f"{shard.video}: {fault}")

    def _check_tokens(self, shard: Shard, vocab_size: int) -> None:
        self._check_order(shard)
        tokens = self.tokens(shard.index)
        for token in (int(tokens.min()), int(tokens.max())):
            if not 0 <= token < vocab_size:
                block = int(np.argwhere(tokens == token)[0, 0])
                raise InputError(
                    f"{shard.video}: block {block} holds token {token}, outside 0..{vocab_size - 1}; "
                    "fetch the file again, or use a model with that vocabulary"
                )


def _check_description(root: Path, encoding: Mapping[str, Any], layout: Layout) -> None:
    """Raise `InputError` if `encoding.json` is not of this folder."""
    if encoding["kind"] != "tokens":
        raise InputError(f"{root / ENCODING_FILE}: kind is {encoding['kind']!r}, but the folder holds tokens")
    described, there = len(encoding["source_shards"]), len(layout.shards) + len(layout.skipped)
    if described != there:
        raise InputError(
            f"{root / ENCODING_FILE}: source_shards names {described} shards, but there are {there}; encode the video "
            "again"
        )
