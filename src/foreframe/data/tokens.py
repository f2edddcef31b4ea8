"""A tokenised dataset folder: token blocks, states and segment ids by shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from foreframe.data.layout import TOKEN_BLOCK_FRAMES, TOKEN_BLOCK_GRIDS, find_layout
from foreframe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


class TokenDataset:
    """What lies in a tokenised folder, mapped into memory on demand. Holds no open file: may be pickled or forked."""

    def __init__(self, root: Path) -> None:
        self.layout = find_layout(root)
        if self.layout.grid is None:
            raise InputError(
                f"{root}: holds raw video (video_*.mp4) where tokens (video_*.bin) are wanted; encode it first"
            )
        self.grid: int = self.layout.grid
        """Side of a token grid: 32 in 1X's data."""

    def tokens(self, shard: int) -> npt.NDArray[np.int32]:
        """Token blocks (ceil(N/17), 3, grid, grid) of a shard; the last may stand for fewer than 17 real frames."""
        files = self.layout.shards[shard]
        shape = (files.num_blocks, TOKEN_BLOCK_GRIDS, self.grid, self.grid)
        return np.memmap(files.video, dtype="<i4", mode="r", shape=shape)

    def num_complete_blocks(self, shard: int) -> int:
        """Blocks of 17 real frames; an incomplete last one is never used (challenge-facts 1.6)."""
        return self.layout.shards[shard].num_frames // TOKEN_BLOCK_FRAMES

    def states(self, shard: int) -> npt.NDArray[np.float32]:
        """State rows (N, 25) of a shard, mapped into memory."""
        return self.layout.shards[shard].open_states()

    def segments(self, shard: int) -> npt.NDArray[np.int32]:
        """Segment ids (N,) of a shard, mapped into memory."""
        return self.layout.shards[shard].open_segments()

    def check_vocabulary(self, vocab_size: int) -> None:
        """Read every token; raises `InputError` naming the first shard with one outside 0..vocab_size-1."""
        for shard in self.layout.shards:
            tokens = self.tokens(shard.index)
            for token in (int(tokens.min()), int(tokens.max())):
                if not 0 <= token < vocab_size:
                    block = int(np.argwhere(tokens == token)[0, 0])
                    raise InputError(
                        f"{shard.video}: block {block} holds token {token}, outside 0..{vocab_size - 1}; "
                        "fetch the file again, or use a model with that vocabulary"
                    )
