"""Raw folders to tokenised 1X v2.0 folders, and the side file that keeps tokens from meeting the wrong tokenizer."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from foreframe.batch import to_video
from foreframe.data.layout import check_rows, fingerprint
from foreframe.data.raw import RawDataset
from foreframe.data.writer import atomic_folder, write_metadata, write_token_shard
from foreframe.errors import InputError
from foreframe.models.tokenizer import BLOCK_FRAMES, CELL, VideoTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

ENCODING_FILE = "encoding.json"
"""Beside 1X's own files: which tokenizer made the tokens, from what. 1X's folders have none."""
ENCODING_VERSION = 1
_BLOCKS_AT_ONCE = 8


def encode_folder(
    raw: Path,
    out: Path,
    *,
    tokenizer: VideoTokenizer,
    weights: str,
    size: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Tokenise every shard of the raw folder `raw` into `out`, which appears when it is whole.

    Args:
        raw: Raw dataset folder; each file is decoded once, in order.
        out: Folder to make, in the same style (sub-folders or flat).
        tokenizer: What turns blocks of 17 frames into three grids.
        weights: SHA-256 of its weights, recorded in `encoding.json`.
        size: Side of the frames in pixels when tokenised: the video's own divided by a whole number.
        progress: Called with frames done and frames in all.
    """
    dataset = RawDataset(raw)
    layout = dataset.layout
    for shard in layout.shards:
        check_rows(shard)
    if size % CELL:
        raise InputError(f"frames of {size} pixels do not divide into cells of {CELL}; choose a multiple of {CELL}")
    done = 0
    with atomic_folder(out) as partial:
        for shard in layout.shards:
            grids = []
            for blocks in _blocks(dataset, shard.index, size=size):
                grids.append(_encode(tokenizer, blocks))
                done = min(done + len(blocks) * BLOCK_FRAMES, layout.num_images)
                if progress is not None:
                    progress(done, layout.num_images)
            write_token_shard(
                partial,
                shard.index,
                style=layout.style,
                tokens=np.concatenate(grids),
                states=np.asarray(dataset.states(shard.index)),
                segments=np.asarray(dataset.segments(shard.index)),
            )
        write_metadata(partial, num_shards=len(layout.shards), num_images=layout.num_images, hz=layout.hz)
        encoding = {
            "version": ENCODING_VERSION,
            "weights_sha256": weights,
            "vocab_size": tokenizer.vocab_size,
            "frame_size": size,
            "source_fingerprint": fingerprint(raw),
            "simulated": is_simulated(raw),
        }
        (partial / ENCODING_FILE).write_text(json.dumps(encoding, indent=1) + "\n")


def tokens_of(raw: Path, *, cache: Path, tokenizer: VideoTokenizer, size: int, weights: str) -> Path:
    """The tokenised copy of `raw` under `cache`, made now unless it is there; never another data's or tokenizer's."""
    source = fingerprint(raw)
    out = cache / f"tokens-{source[:12]}-{weights[:12]}-{size}"
    if not out.exists():
        for leftover in cache.glob(f".{out.name}.partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        encode_folder(raw, out, tokenizer=tokenizer, weights=weights, size=size)
    if not is_encoding_of(out, source=source, weights=weights, size=size):
        raise InputError(f"{out / ENCODING_FILE}: is of other data; delete that folder, it is only a cache")
    return out


def is_encoding_of(out: Path, *, source: str, weights: str, size: int) -> bool:
    """Whether `out` holds the tokens of just that data, by just those weights, at just that size."""
    encoding = read_encoding(out) or {}
    expected = {"source_fingerprint": source, "weights_sha256": weights, "frame_size": size}
    return all(encoding.get(key) == value for key, value in expected.items())


def source_fingerprint(root: Path) -> str:
    """Fingerprint of a dataset folder, or of the video its tokens were made from: the same data has the same one."""
    encoding = read_encoding(root)
    return str(encoding["source_fingerprint"]) if encoding else fingerprint(root)


def check_encoding(root: Path, *, weights: str) -> None:
    """Raise `InputError` if the folder says its tokens are another tokenizer's."""
    encoding = read_encoding(root)
    if encoding is not None and encoding.get("weights_sha256") != weights:
        raise InputError(
            f"{root / ENCODING_FILE}: these tokens were made by another tokenizer than track.tokenizer names; encode "
            "the video again, or name the tokenizer that made them"
        )


def read_encoding(root: Path) -> dict[str, Any] | None:
    """The side file's content, or None where there is none."""
    path = root / ENCODING_FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("version") != ENCODING_VERSION:
        raise InputError(f"{path}: is not an encoding description of version {ENCODING_VERSION}")
    return content


def is_simulated(root: Path) -> bool:
    """Whether the simulator made this folder, or made the video its tokens are of."""
    encoding = read_encoding(root)
    return bool(encoding and encoding.get("simulated")) or (root / "sim" / "config.json").is_file()


def _blocks(dataset: RawDataset, shard: int, *, size: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames (b, 17, H, W, 3) of consecutive blocks, a few at a time; the last one is padded to 17.

    A short block is padded as Cosmos does: first and last frame repeated, half in front and half behind.
    """
    num_frames = dataset.layout.shards[shard].num_frames
    for first in range(0, num_frames, BLOCK_FRAMES * _BLOCKS_AT_ONCE):
        last = min(first + BLOCK_FRAMES * _BLOCKS_AT_ONCE, num_frames)
        frames = dataset.frames(shard, range(first, last), size=size)
        missing = -len(frames) % BLOCK_FRAMES
        if missing:
            tail = frames[-(BLOCK_FRAMES - missing) :]
            front = missing // 2
            padded = np.concatenate([tail[:1]] * front + [tail] + [tail[-1:]] * (missing - front))
            frames = np.concatenate([frames[: len(frames) - len(tail)], padded])
        yield frames.reshape(-1, BLOCK_FRAMES, *frames.shape[1:])


@torch.no_grad()
def _encode(tokenizer: VideoTokenizer, blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    device = next(tokenizer.parameters()).device
    return tokenizer.encode(to_video(torch.from_numpy(blocks)).to(device)).cpu().numpy()
