"""1X v2.0 dataset folders on disk: which files belong to which shard, checked before anything is read.

Two layouts, each raw or tokenised (challenge-facts 1.2). 1X's training splits use sub-folders, its validation splits
are flat; which one a folder has is seen from what lies in it, never from its name:

    train_v2.0/                                  val_v2.0/
    ├── metadata.json                            ├── metadata.json
    ├── metadata/                                ├── metadata_0.json
    │   └── metadata_{i}.json                    ├── video_0.bin           (raw: video_0.mp4)
    ├── videos/                                  ├── states_0.bin
    │   └── video_{i}.bin  (raw: video_{i}.mp4)  └── segment_idx_0.bin
    ├── robot_states/      (or states/)
    │   └── states_{i}.bin
    └── segment_indices/   (or segment_idx/)
        └── segment_idx_{i}.bin

For a shard of N frames, all little endian: `states` float32 (N, 25); `segment_idx` int32 (N,); tokens int32
(ceil(N/17), 3, grid, grid) with grid 32 in 1X's data; an mp4 of N frames. `metadata.json` holds num_shards, num_images
(the sum of N), hz, query (null); `metadata_{i}.json` holds shard_num_frames (N), shard_ind (i).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from foreframe.errors import InputError, UsageError
from foreframe.states import CHANNEL_NAMES, NUM_CHANNELS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

Kind = Literal["raw", "tokens"]
Style = Literal["subfolders", "flat"]
Split = Literal["train", "val", "test"]

TOKEN_BLOCK_FRAMES = 17
"""Frames in one tokenizer block (challenge-facts 1.5)."""
TOKEN_BLOCK_GRIDS = 3
"""Token grids in one block: frame 0 alone, then 8 frames each."""

_SUFFIXES: dict[Kind, str] = {"raw": "mp4", "tokens": "bin"}
_STATES_FOLDERS = ("robot_states", "states")
_SEGMENTS_FOLDERS = ("segment_indices", "segment_idx")
_FETCH = "fetch the file again, or write the data set again"


@dataclass(frozen=True, kw_only=True)
class ShardFiles:
    """The four files of one shard."""

    video: Path
    """`video_{i}.mp4` (raw) or `video_{i}.bin` (tokens)."""
    states: Path
    """float32 (N, 25)."""
    segments: Path
    """int32 (N,), global ids of uninterrupted recordings, non-decreasing."""
    metadata: Path
    """JSON with `shard_num_frames` and `shard_ind`."""


@dataclass(frozen=True, kw_only=True)
class Shard(ShardFiles):
    """One shard whose files are there and have the right sizes."""

    index: int
    """i in the file names."""
    num_frames: int
    """N."""

    @property
    def num_blocks(self) -> int:
        """Token blocks, the last of which may be incomplete."""
        return math.ceil(self.num_frames / TOKEN_BLOCK_FRAMES)

    def open_states(self) -> npt.NDArray[np.float32]:
        """State rows (N, 25), mapped into memory read-only."""
        return np.memmap(self.states, dtype="<f4", mode="r", shape=(self.num_frames, NUM_CHANNELS))

    def open_segments(self) -> npt.NDArray[np.int32]:
        """Segment ids (N,), mapped into memory read-only."""
        return np.memmap(self.segments, dtype="<i4", mode="r", shape=(self.num_frames,))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A dataset folder that was found to be whole."""

    root: Path
    kind: Kind
    style: Style
    hz: float
    """Frames per second."""
    num_images: int
    """Frames in all shards."""
    grid: int | None
    """Side of a token grid; None for raw data."""
    shards: tuple[Shard, ...]
    """In the order of their numbers, from 0."""


def shard_files(
    root: Path,
    index: int,
    *,
    kind: Kind,
    style: Style,
    states_folder: str = _STATES_FOLDERS[0],
    segments_folder: str = _SEGMENTS_FOLDERS[0],
) -> ShardFiles:
    """Where the files of shard `index` lie; with 1X's own folder names unless told otherwise."""
    nested = style == "subfolders"
    return ShardFiles(
        video=(root / "videos" if nested else root) / f"video_{index}.{_SUFFIXES[kind]}",
        states=(root / states_folder if nested else root) / f"states_{index}.bin",
        segments=(root / segments_folder if nested else root) / f"segment_idx_{index}.bin",
        metadata=(root / "metadata" if nested else root) / f"metadata_{index}.json",
    )


def find_layout(root: Path) -> Layout:
    """Find and check the files of the dataset folder `root`, by their names and sizes; nothing large is read.

    Raises `UsageError` if there is no such folder, `InputError` naming the file and the remedy if it is not whole.
    """
    _require_folder(root)
    path = root / "metadata.json"
    if not path.is_file():
        raise InputError(_not_a_dataset(root))
    metadata = _read_json(path)
    num_shards = _whole_number(metadata, "num_shards", path, least=1)
    num_images = _whole_number(metadata, "num_images", path, least=1)
    hz = metadata.get("hz")
    if isinstance(hz, bool) or not isinstance(hz, (int, float)) or not 0 < hz < math.inf:
        raise InputError(f"{path}: hz is {hz!r}, expected frames per second such as 30")
    kind, style = _kind_and_style(root)
    states_folder = _existing_folder(root, _STATES_FOLDERS) if style == "subfolders" else ""
    segments_folder = _existing_folder(root, _SEGMENTS_FOLDERS) if style == "subfolders" else ""
    shards: list[Shard] = []
    for index in range(num_shards):
        files = shard_files(
            root, index, kind=kind, style=style, states_folder=states_folder, segments_folder=segments_folder
        )
        shards.append(_check_shard(files, index, num_shards))
    total = sum(shard.num_frames for shard in shards)
    if total != num_images:
        raise InputError(
            f"{path}: num_images is {num_images} but the {num_shards} shards have {total} frames; {_FETCH}"
        )
    grid = _token_grid(shards) if kind == "tokens" else None
    return Layout(
        root=root, kind=kind, style=style, hz=float(hz), num_images=num_images, grid=grid, shards=tuple(shards)
    )


def find_split(root: Path, split: Split, *, kind: Kind | None = None) -> Path | None:
    """The dataset folder of `split` in `root`, or None if there is none.

    `root` may hold split folders, named `train`, `val`, `test` or as 1X does (`train_v2.0`, `val_v2.0_raw`); `kind`
    chooses between raw and tokens where both are there. A `root` that is itself a dataset is returned for any split,
    since its name says nothing: a caller that wants two splits must see whether it was given the same folder twice.
    """
    _require_folder(root)
    if (root / "metadata.json").is_file():
        return root
    named = re.compile(rf"{split}([_.-].*)?")
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and named.fullmatch(path.name)]
    # A folder like `train_logs` may lie beside the data.
    folders = [path for path in folders if (path / "metadata.json").is_file()] or folders
    if kind is not None and len(folders) > 1:
        folders = [path for path in folders if _holds(path, kind)] or folders
    if len(folders) > 1:
        names = ", ".join(path.name for path in folders)
        raise InputError(f"{root}: holds more than one {split} folder ({names}); name the one you mean")
    return folders[0] if folders else None


def check_rows(shard: Shard) -> None:
    """Raise `InputError` naming the file and row if a state is not finite or a segment id is out of order."""
    states = shard.open_states()
    finite = np.isfinite(states)
    if not finite.all():
        row, channel = np.argwhere(~finite)[0]
        raise InputError(
            f"{shard.states}: row {row}, {CHANNEL_NAMES[channel]} is not finite ({states[row, channel]}); {_FETCH}"
        )
    segments = np.asarray(shard.open_segments(), dtype=np.int64)
    steps = np.diff(segments, prepend=min(0, int(segments[0])))
    if (steps < 0).any() or segments[0] < 0:
        row = int(np.argmax(steps < 0))
        raise InputError(f"{shard.segments}: row {row} has segment {segments[row]}, below what it may be; {_FETCH}")


def fingerprint(root: Path) -> str:
    """SHA-256 over the names, sizes and bytes of every file that belongs to the data set, read in pieces."""
    layout = find_layout(root)
    digest = hashlib.sha256(b"foreframe dataset 1\n")
    paths = [layout.root / "metadata.json"]
    for shard in layout.shards:
        paths += [shard.metadata, shard.states, shard.segments, shard.video]
    for path in paths:
        digest.update(f"{path.relative_to(layout.root).as_posix()} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def _require_folder(root: Path) -> None:
    if not root.exists():
        raise UsageError(f"{root}: does not exist; name a dataset folder")
    if not root.is_dir():
        raise UsageError(f"{root}: is a file; name the dataset folder that holds metadata.json")


def _not_a_dataset(root: Path) -> str:
    if not any(root.iterdir()):
        return f"{root}: is an empty folder, with no metadata.json; name a dataset folder in 1X's v2.0 layout"
    inside = [path.parent.name for path in sorted(root.glob("*/metadata.json"))]
    if inside:
        return f"{root}: has no metadata.json, but folders in it have: {', '.join(inside[:5])}; name one of them"
    return f"{root}: has no metadata.json; name a dataset folder in 1X's v2.0 layout, or fetch that file"


def _holds(path: Path, kind: Kind) -> bool:
    pattern = f"video_*.{_SUFFIXES[kind]}"
    return any(path.glob(pattern)) or any(path.glob(f"videos/{pattern}"))


def _kind_and_style(root: Path) -> tuple[Kind, Style]:
    found: list[tuple[Kind, Style]] = []
    places: tuple[tuple[Style, Path], ...] = (("subfolders", root / "videos"), ("flat", root))
    for style, folder in places:
        for kind, suffix in _SUFFIXES.items():
            if any(folder.glob(f"video_*.{suffix}")):
                found.append((kind, style))
    if len(found) > 1:
        what = ", ".join(f"{kind} in {style}" for kind, style in found)
        raise InputError(f"{root}: holds videos in more than one way ({what}); keep one data set to a folder")
    if not found:
        raise InputError(f"{root}: holds no video_0.mp4 or video_0.bin, nor does videos/ in it; fetch the videos")
    return found[0]


def _existing_folder(root: Path, names: tuple[str, ...]) -> str:
    found = [name for name in names if (root / name).is_dir()]
    if not found:
        raise InputError(f"{root / names[0]}: is missing (nor is there {names[1]}/); {_FETCH}")
    if len(found) > 1:
        raise InputError(f"{root}: holds both {names[0]}/ and {names[1]}/; keep the one that belongs to the videos")
    return found[0]


def _check_shard(files: ShardFiles, index: int, num_shards: int) -> Shard:
    for path in (files.metadata, files.video, files.states, files.segments):
        if not path.is_file():
            raise InputError(
                f"{path}: is missing though metadata.json counts {num_shards} shards; fetch it, or set num_shards and"
                " num_images in metadata.json to the shards you have"
            )
    metadata = _read_json(files.metadata)
    number = _whole_number(metadata, "shard_ind", files.metadata, least=0)
    if number != index:
        raise InputError(f"{files.metadata}: shard_ind is {number}, expected {index} as in the file's name; {_FETCH}")
    num_frames = _whole_number(metadata, "shard_num_frames", files.metadata, least=1)
    for path, expected in ((files.states, num_frames * NUM_CHANNELS * 4), (files.segments, num_frames * 4)):
        if (size := path.stat().st_size) != expected:
            raise InputError(f"{path}: has {size} bytes, expected {expected} for {num_frames} frames; {_FETCH}")
    if files.video.stat().st_size == 0:
        raise InputError(f"{files.video}: is an empty file; {_FETCH}")
    return Shard(
        video=files.video,
        states=files.states,
        segments=files.segments,
        metadata=files.metadata,
        index=index,
        num_frames=num_frames,
    )


def _token_grid(shards: list[Shard]) -> int:
    """Side of the square token grids, from the first file's size; the others must agree."""
    first = shards[0]
    grid = math.isqrt(first.video.stat().st_size // (first.num_blocks * TOKEN_BLOCK_GRIDS * 4))
    for shard in shards:
        size, cells = shard.video.stat().st_size, shard.num_blocks * TOKEN_BLOCK_GRIDS * 4
        if size == 0 or size != cells * grid * grid:
            expected = f"{cells} times {'a square' if shard is first else grid * grid}"
            raise InputError(
                f"{shard.video}: has {size} bytes, expected {expected} for {shard.num_frames} frames; {_FETCH}"
            )
    return grid


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); {_FETCH}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a JSON object; {_FETCH}")
    return cast("dict[str, Any]", content)


def _whole_number(metadata: dict[str, Any], key: str, path: Path, *, least: int) -> int:
    value = metadata.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{path}: {key} is {value!r}, expected a whole number of at least {least}; {_FETCH}")
    return value
