"""1X v2.0 dataset folders on disk: which files belong to which shard, checked before anything is read.

Two styles, each raw or tokenised (challenge-facts 1.2). 1X's training splits use sub-folders, its validation splits
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

A test split holds *samples* instead of recordings: no segment files, and futures kept back. Tokenised, a sample is one
token block and 64 state rows; raw (*assumed*), 17 frames and 77 state rows. A shard may hold one sample or all of
them: their number follows from the sizes (challenge-facts 1.3). Samples are counted over the shards in order.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from foreframe.data import hints
from foreframe.data.places import (
    FETCH_AGAIN,
    SEGMENTS_FOLDERS,
    STATES_FOLDERS,
    SUFFIXES,
    Places,
    holds,
    is_dataset,
    is_there,
    is_undescribed_test,
    kind_and_style,
    not_a_dataset,
    require_folder,
    visible,
)
from foreframe.errors import InputError
from foreframe.files import read_json, require_content, shortened
from foreframe.states import NUM_CHANNELS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

Kind = Literal["raw", "tokens"]
Style = Literal["subfolders", "flat"]
Split = Literal["train", "val", "test"]
Contents = Literal["recordings", "samples"]
OnBadShard = Literal["raise", "skip"]

TOKEN_BLOCK_FRAMES = 17
"""Frames in one tokenizer block (challenge-facts 1.5)."""
TOKEN_BLOCK_GRIDS = 3
"""Token grids in one block: frame 0 alone, then 8 frames each."""
TOKEN_SAMPLE_STATES = 64
"""State rows of a sample in the tokenised test split (challenge-facts 1.3)."""
RAW_SAMPLE_STATES = 77
"""State rows of a sample in the raw test split: 17 seen frames and 60 to come (challenge-facts 2.1; *assumed*)."""

_MOST_MISSING = 10_000
"""Shards that may be missing before metadata.json is what must be wrong."""


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
    """N; of samples, 17 for each."""
    num_rows: int
    """State rows: N, or 64 (raw: 77) for each sample."""
    num_samples: int | None = None
    """Samples of a test split; None for recordings."""

    @property
    def num_blocks(self) -> int:
        """Token blocks, the last of which may be incomplete."""
        return math.ceil(self.num_frames / TOKEN_BLOCK_FRAMES)

    def open_states(self) -> npt.NDArray[np.float32]:
        """State rows (N, 25), or (samples, 64 or 77, 25), mapped into memory read-only."""
        shape = (self.num_rows, NUM_CHANNELS)
        if self.num_samples is not None:
            shape = (self.num_samples, self.num_rows // self.num_samples, NUM_CHANNELS)
        return np.memmap(self.states, dtype="<f4", mode="r", shape=shape)

    def open_segments(self) -> npt.NDArray[np.int32]:
        """Segment ids (N,), mapped into memory read-only."""
        if self.num_samples is not None:
            raise InputError(
                f"{self.segments}: is missing, as in a test split: its samples have no futures to train or score on; "
                "name a train or val folder"
            )
        return np.memmap(self.segments, dtype="<i4", mode="r", shape=(self.num_frames,))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A dataset folder that was found to be whole."""

    root: Path
    kind: Kind
    style: Style
    contents: Contents
    """`samples` for a test split."""
    hz: float
    """Frames per second."""
    num_images: int
    """Frames in all shards."""
    grid: int | None
    """Side of a token grid; None for raw data."""
    shards: tuple[Shard, ...]
    """In the order of their numbers."""
    skipped: dict[int, str]
    """Shards left out with `on_bad_shard="skip"`, and what is wrong with each. Empty unless asked for."""

    def shard(self, index: int) -> Shard:
        """The shard with this number."""
        for shard in self.shards:
            if shard.index == index:
                return shard
        raise InputError(self.skipped.get(index, f"{self.root}: has no shard {index}"))

    def without(self, bad: dict[int, str]) -> Layout:
        """The same folder without some shards, which are then among `skipped`; `InputError` if none is left."""
        shards = tuple(shard for shard in self.shards if shard.index not in bad)
        if not shards:
            raise InputError(next(iter(bad.values())))
        return replace(
            self,
            shards=shards,
            skipped=dict(sorted({**self.skipped, **bad}.items())),
            num_images=sum(shard.num_frames for shard in shards),
        )


def shard_files(
    root: Path,
    index: int,
    *,
    kind: Kind,
    style: Style,
    states_folder: str = STATES_FOLDERS[0],
    segments_folder: str = SEGMENTS_FOLDERS[0],
) -> ShardFiles:
    """Where the files of shard `index` lie; with 1X's own folder names unless told otherwise."""
    nested = style == "subfolders"
    return ShardFiles(
        video=(root / "videos" if nested else root) / f"video_{index}.{SUFFIXES[kind]}",
        states=(root / states_folder if nested else root) / f"states_{index}.bin",
        segments=(root / segments_folder if nested else root) / f"segment_idx_{index}.bin",
        metadata=(root / "metadata" if nested else root) / f"metadata_{index}.json",
    )


def find_layout(root: Path, *, on_bad_shard: OnBadShard = "raise") -> Layout:
    """Find and check the files of the dataset folder `root`, by their names and sizes; nothing large is read.

    Raises `UsageError` if there is no such folder, `InputError` naming the file and the remedy if it is not whole.
    With `on_bad_shard="skip"` a shard that is not whole is left out and told in `skipped`, as are files of shards that
    `metadata.json` does not count.
    """
    top = require_folder(root)
    path = root / "metadata.json"
    described = path in top
    if not described and not is_undescribed_test(root):
        raise InputError(not_a_dataset(root))
    kind, style = kind_and_style(root)
    folders = Places.find(root, style)
    present = folders.present()
    num_videos = len(hints.numbered(folders.names["video"], "video"))
    hz, num_shards, num_images = _read_metadata(path) if described else (30.0, max(len(present), 1), None)
    if num_shards > num_videos + _MOST_MISSING:
        raise InputError(f"{path}: num_shards is {num_shards} but there are {num_videos} videos; {FETCH_AGAIN}")
    for role in hints.FILE_NAMES:
        if fault := hints.numbering_fault(hints.numbered(folders.names[role], role), num_shards):
            raise InputError(f"{root}: {fault}")
    shards: list[Shard] = []
    bad: dict[int, str] = {}
    if fault := hints.uncounted_fault(present, num_shards):
        if on_bad_shard == "raise":
            raise InputError(f"{path}: {fault}")
        bad = {number: f"{path}: {fault}" for number in present if number >= num_shards}
    uncounted = frozenset(bad)
    grid: int | None = None
    for index in range(num_shards):
        one = shard_files(
            root, index, kind=kind, style=style, states_folder=folders.states, segments_folder=folders.segments
        )
        try:
            if folders.contents == "samples":
                shard = _check_samples(one, index, kind=kind, num_shards=num_shards, described=described)
            else:
                shard = _check_shard(one, index, num_shards)
            if kind == "tokens":
                grid = _token_grid(shard, grid)
            shards.append(shard)
        except InputError as error:
            if on_bad_shard == "raise":
                raise
            bad[index] = str(error)
    total = sum(shard.num_frames for shard in shards)
    # What num_images counts in a test split is not known.
    if folders.contents == "recordings" and bad.keys() == uncounted and num_images is not None and total != num_images:
        raise InputError(
            f"{path}: num_images is {num_images} but the {num_shards} shards have {total} frames; {FETCH_AGAIN}"
        )
    layout = Layout(
        root=root,
        kind=kind,
        style=style,
        contents=folders.contents,
        hz=hz,
        num_images=total,
        grid=grid,
        shards=tuple(shards),
        skipped={},
    )
    return layout.without(bad) if bad else layout


def read_hz(path: Path) -> float:
    """Frames per second by a `metadata.json`."""
    return _hz(read_json(path, advice=FETCH_AGAIN), path)


def _hz(metadata: dict[str, Any], path: Path) -> float:
    hz = metadata.get("hz")
    if isinstance(hz, bool) or not isinstance(hz, (int, float)) or not 0 < hz < 1e4:
        said = f"is {shortened(repr(hz), 60)}" if "hz" in metadata else "is missing"
        raise InputError(f"{path}: hz {said}, expected frames per second such as 30")
    return float(hz)


def _read_metadata(path: Path) -> tuple[float, int, int]:
    """hz, num_shards and num_images of `metadata.json`."""
    metadata = read_json(path, advice=FETCH_AGAIN)
    num_shards = _whole_number(metadata, "num_shards", path, least=1)
    num_images = _whole_number(metadata, "num_images", path, least=1)
    return _hz(metadata, path), num_shards, num_images


def find_split(root: Path, split: Split, *, kind: Kind | None = None) -> Path | None:
    """The dataset folder of `split` in `root`, or None if there is none.

    `root` may hold split folders, named `train`, `val`, `test` or as 1X does (`train_v2.0`, `val_v2.0_raw`); `kind`
    chooses between raw and tokens where both are there. A `root` that is itself a dataset is returned for any split,
    since its name says nothing: a caller that wants two splits must see whether it was given the same folder twice.
    """
    top = require_folder(root)
    if is_dataset(root):
        return root
    named = re.compile(rf"{split}([_.-].*)?")
    folders = [path for path in top if named.fullmatch(path.name) and path.is_dir()]
    # A folder like `train_logs` may lie beside the data.
    folders = [path for path in folders if is_dataset(path)] or folders
    if kind is not None and len(folders) > 1:
        folders = [path for path in folders if holds(path, kind)] or folders
    if len(folders) > 1:
        names = ", ".join(path.name for path in folders)
        raise InputError(f"{root}: holds more than one {split} folder ({names}); name the one you mean")
    return folders[0] if folders else None


# -- shards ----------------------------------------------------------------------------------------------------------


def _check_samples(files: ShardFiles, index: int, *, kind: Kind, num_shards: int, described: bool) -> Shard:
    """A shard of a test split; what is not one but has lost its segment file is told apart by its sizes."""
    for path in (files.video, files.states):
        _require_file(path, f"though there are {num_shards} shards; {FETCH_AGAIN}")
    rows_each = TOKEN_SAMPLE_STATES if kind == "tokens" else RAW_SAMPLE_STATES
    size = files.states.stat().st_size
    num_rows, rest = divmod(size, NUM_CHANNELS * 4)
    num_samples = num_rows // rows_each
    stated: int | None = None
    if described or is_there(files.metadata):
        metadata = _shard_metadata(files, index, num_shards)
        stated = _whole_number(metadata, "shard_num_frames", files.metadata, least=1)
    fits = rest == 0 and num_rows == num_samples * rows_each and num_samples > 0
    if kind == "raw":
        fits = fits and num_rows != stated  # a row for every frame: recordings
    elif fits:
        as_samples = _side(files.video, num_samples)
        as_recordings = _side(files.video, math.ceil(num_rows / TOKEN_BLOCK_FRAMES))
        # Sizes alone may fit both, with different grids: 1X's own is 32.
        doubtful = as_recordings is not None and 32 in (as_samples, as_recordings)
        fits = as_samples is not None and (as_samples == 32 if doubtful else num_rows != stated)
    if not fits:
        blocks, over = divmod(files.video.stat().st_size, TOKEN_BLOCK_GRIDS * 32 * 32 * 4)
        if kind == "tokens" and not over and hints.is_other_robot(files.states, size, blocks * rows_each):
            hint = hints.states_hint(files.states, size, blocks * rows_each, advice=FETCH_AGAIN)
            raise InputError(f"{files.states}: {hint}")
        _require_known_name(files.segments)
        raise InputError(
            f"{files.segments}: is missing, and {files.states.name} ({size} bytes) beside {files.video.name} is no "
            f"test split of {rows_each} state rows a sample; {FETCH_AGAIN}"
        )
    return Shard(
        video=files.video,
        states=files.states,
        segments=files.segments,
        metadata=files.metadata,
        index=index,
        num_frames=num_samples * TOKEN_BLOCK_FRAMES,
        num_rows=num_rows,
        num_samples=num_samples,
    )


def _shard_metadata(files: ShardFiles, index: int, num_shards: int) -> dict[str, Any]:
    _require_counted(files.metadata, num_shards)
    metadata = read_json(files.metadata, advice=FETCH_AGAIN)
    number = _whole_number(metadata, "shard_ind", files.metadata, least=0)
    if number != index:
        raise InputError(
            f"{files.metadata}: shard_ind is {number}, expected {index} as in the file's name; correct it, or "
            f"{FETCH_AGAIN}"
        )
    return metadata


def _require_counted(path: Path, num_shards: int) -> None:
    _require_file(
        path,
        f"though metadata.json counts {num_shards} shards; fetch it, or number the shards you have from 0 and set "
        "num_shards and num_images in metadata.json to them",
    )


def _require_file(path: Path, advice: str) -> None:
    """Raise `InputError` unless a file with content of its own lies there."""
    if not is_there(path):
        _require_known_name(path)
        raise InputError(f"{path}: is missing {advice}")
    require_content(path)


def _require_known_name(path: Path) -> None:
    """Raise `InputError` if a file lies beside `path` that it may have been meant to be."""
    other = hints.other_name((one.name for one in visible(path.parent)), path.name)
    if other is not None:
        raise InputError(
            f"{path}: is missing, but {other} lies there; if that is it, rename it, and other shards' alike"
        )
    form = next((one.name for one in visible(path.parent) if one.name.startswith(f"{path.stem}.")), None)
    if form is not None:  # states_0.npy, states_0.bin.npy, video_0.mkv
        raise InputError(
            f"{path}: is missing, but {form} lies there; fetch it, or write what that holds as {path.name} in 1X's "
            "v2.0 format"
        )


def _check_shard(files: ShardFiles, index: int, num_shards: int) -> Shard:
    metadata = _shard_metadata(files, index, num_shards)
    for path in (files.video, files.states, files.segments):
        _require_counted(path, num_shards)
    num_frames = _whole_number(metadata, "shard_num_frames", files.metadata, least=1)
    ids_type = hints.integers_type(files.segments, files.segments.stat().st_size, num_frames)
    size, expected = files.states.stat().st_size, num_frames * NUM_CHANNELS * 4
    if size != expected:
        # Only where another file has as many rows is it the states' rows that are of another kind.
        sure = ids_type != "<i4" or files.segments.stat().st_size == num_frames * 4
        hint = hints.states_hint(files.states, size, num_frames, advice=FETCH_AGAIN) if sure else FETCH_AGAIN
        raise InputError(f"{files.states}: has {size} bytes, expected {expected} for {num_frames} frames; {hint}")
    if (size := files.segments.stat().st_size) != num_frames * 4:
        raise InputError(
            f"{files.segments}: has {size} bytes, expected {num_frames * 4} for {num_frames} frames; "
            f"{hints.integers_hint(ids_type) or FETCH_AGAIN}"
        )
    if files.video.stat().st_size == 0:
        raise InputError(f"{files.video}: is an empty file; {FETCH_AGAIN}")
    return Shard(
        video=files.video,
        states=files.states,
        segments=files.segments,
        metadata=files.metadata,
        index=index,
        num_frames=num_frames,
        num_rows=num_frames,
    )


def _side(video: Path, num_blocks: int) -> int | None:
    """Side of the square grids if the file holds that many blocks; None if it cannot."""
    cells, rest = divmod(video.stat().st_size, num_blocks * TOKEN_BLOCK_GRIDS * 4)
    side = math.isqrt(cells)
    return side if rest == 0 and side * side == cells and side > 0 else None


def _token_grid(shard: Shard, grid: int | None) -> int:
    """Side of the square token grids, from the file's size; it must be that of the shards before."""
    side = _side(shard.video, shard.num_blocks)
    if side is None or side != (grid or side):
        size, cells = shard.video.stat().st_size, shard.num_blocks * TOKEN_BLOCK_GRIDS * 4
        expected = f"{cells} times {'a square' if grid is None else grid * grid}"
        hint = hints.tokens_hint(shard.video, size, shard.num_frames, grid=grid, block_frames=TOKEN_BLOCK_FRAMES)
        raise InputError(
            f"{shard.video}: has {size} bytes, expected {expected} for {shard.num_frames} frames; {hint or FETCH_AGAIN}"
        )
    return side


def _whole_number(metadata: dict[str, Any], key: str, path: Path, *, least: int) -> int:
    value = metadata.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        said = f"is {shortened(repr(value), 60)}" if key in metadata else "is missing"
        raise InputError(f"{path}: {key} {said}, expected a whole number of at least {least}; {FETCH_AGAIN}")
    return value
