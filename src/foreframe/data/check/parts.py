"""One shard under check: how long it is by all its files together, and its numbers opened whatever their type."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from foreframe.data.check.inventory import read_json, whole_number
from foreframe.data.check.rows import ROW_BYTES, ChannelRanges, token_blocks
from foreframe.data.check.video import VideoFacts
from foreframe.data.hints import (
    FLOATS,
    SWAPPED,
    Array,
    axes_hint,
    integers_fault,
    integers_hint,
    integers_type,
    is_other_robot,
    open_array,
    states_hint,
    states_type,
    swapped_states,
    tokens_hint,
)
from foreframe.data.layout import FETCH_AGAIN, TOKEN_BLOCK_FRAMES, TOKEN_BLOCK_GRIDS
from foreframe.states import NUM_CHANNELS

if TYPE_CHECKING:
    from foreframe.data.check.findings import Report
    from foreframe.data.check.inventory import Inventory

_GRID = 32
"""Side of the token grids of 1X's data (challenge-facts 1.3)."""


@dataclass
class Part:
    """What is known of one shard."""

    number: int
    stated: int | None = None
    """`shard_num_frames`, if it is a number."""
    video: VideoFacts = field(default_factory=VideoFacts)
    num_units: int = 0
    """Frames of recordings, or samples of a test split."""
    states: Array | None = None
    """(rows, 25)."""
    segments: Array | None = None
    """(N,)."""
    tokens: Array | None = None
    """(blocks, 3, grid, grid)."""
    ranges: ChannelRanges = field(default_factory=ChannelRanges)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a data set is made of, the same for all its shards."""

    rows_each: int | None
    """State rows of a sample; None for recordings."""
    grid: int
    """Side of the token grids."""

    def rows(self, units: int) -> int:
        """State rows of so many frames or samples."""
        return units * (self.rows_each or 1)

    def frames(self, units: int) -> int:
        """Pictures of so many frames or samples."""
        return units * TOKEN_BLOCK_FRAMES if self.rows_each else units

    def blocks(self, units: int) -> int:
        """Token blocks of so many frames or samples."""
        return units if self.rows_each else math.ceil(units / TOKEN_BLOCK_FRAMES)

    @property
    def block_bytes(self) -> int:
        """Bytes of a token block."""
        return TOKEN_BLOCK_GRIDS * self.grid**2 * 4


def read_metadata(inventory: Inventory, number: int, report: Report) -> int | None:
    """`shard_num_frames` of a shard's metadata file, which must state the shard's own number."""
    name = inventory.readable("metadata", number)
    content = read_json(inventory.root, name, report) if name else None
    if name is None or content is None:
        return None
    index = whole_number(content, "shard_ind", name, report, least=0)
    if index is not None and index != number:
        report.add(
            "metadata-mismatch",
            name,
            "shard_ind",
            f"is {index} in the file of shard {number}; correct it, or rename the file",
        )
    return whole_number(content, "shard_num_frames", name, report, least=1)


def count_units(part: Part, inventory: Inventory, shape: Shape) -> int:
    """Frames (or samples) of a shard, by the vote of its files; metadata goes first where they are divided."""
    votes: list[int] = []
    if part.stated is not None:
        if shape.rows_each is None:
            votes.append(part.stated)
        else:  # what a test split's metadata counts is not known
            votes += [
                part.stated // each for each in (1, TOKEN_BLOCK_FRAMES, shape.rows_each) if part.stated % each == 0
            ]
    size = _size(inventory, "segments", part.number)
    if size and size % 4 == 0 and shape.rows_each is None:
        votes.append(size // 4)
    size = _size(inventory, "states", part.number)
    if size and size % (ROW_BYTES * shape.rows(1)) == 0:
        votes.append(size // (ROW_BYTES * shape.rows(1)))
    if part.video.num_frames and part.video.num_frames % shape.frames(1) == 0:
        votes.append(part.video.num_frames // shape.frames(1))
    blocks = _size(inventory, "video", part.number) // shape.block_bytes if inventory.kind == "tokens" else 0
    if shape.rows_each and blocks:
        votes.append(blocks)
    if not votes:
        return 0
    counts = Counter(votes)
    for vote in counts:
        counts[vote] += bool(blocks) and not shape.rows_each and shape.blocks(vote) == blocks
    return max(counts, key=lambda vote: (counts[vote], -votes.index(vote)))


def open_part(part: Part, inventory: Inventory, shape: Shape, report: Report) -> None:
    """Compare the sizes of a shard's files with its length, and open its numbers."""
    units = part.num_units
    name = inventory.files["metadata"].get(part.number)
    allowed = {units} if shape.rows_each is None else {units, shape.frames(units), shape.rows(units)}
    if name and part.stated is not None and part.stated not in allowed:
        report.add(
            "metadata-mismatch",
            name,
            "shard_num_frames",
            f"is {part.stated} but the shard's files hold {units} {_units(shape)}; correct it, or {FETCH_AGAIN}",
        )
    if name := inventory.readable("states", part.number):
        part.states = _open_states(inventory, name, shape.rows(units), report)
    if shape.rows_each is None and (name := inventory.readable("segments", part.number)):
        part.segments = _open_segments(inventory, name, units, report)
    name = inventory.readable("video", part.number)
    if name and inventory.kind == "tokens":
        part.tokens = _open_tokens(
            inventory, name, shape.blocks(units), report, grid=shape.grid, frames=shape.frames(units)
        )
    elif name and part.video.num_frames is not None and part.video.num_frames != shape.frames(units):
        report.add(
            "frames-mismatch",
            name,
            f"frame {min(part.video.num_frames, shape.frames(units))}",
            f"has {part.video.num_frames} frames but the shard has {shape.rows(units)} state rows (by its files), "
            f"which go with {shape.frames(units)}; {FETCH_AGAIN}",
        )


def _units(shape: Shape) -> str:
    return "frames" if shape.rows_each is None else "samples"


def _size(inventory: Inventory, role: Any, number: int) -> int:
    name = inventory.readable(role, number)
    return inventory.sizes[name] if name else 0


def _open_states(inventory: Inventory, name: str, rows: int, report: Report) -> Array | None:
    size, expected, path = inventory.sizes[name], rows * ROW_BYTES, inventory.root / name
    said = f"has {size} bytes, {rows} rows of 25 float32 are {expected}"
    dtype, hint = states_type(path, size, rows), states_hint(path, size, rows, advice=FETCH_AGAIN)
    if dtype != "<f4":
        report.add("states-dtype", name, "", f"{said}; {hint}")
    elif size != expected and is_other_robot(path, size, rows):
        report.add("states-channels", name, "", f"{said}; {hint}")
        return None  # read as EVE's, none of it would make sense
    elif size != expected:
        full, rest = divmod(size, ROW_BYTES)
        part_of = f", the last cut after {rest} bytes" if rest else ""
        report.add(
            "states-size",
            name,
            f"row {min(full, rows)} (byte {min(full, rows) * ROW_BYTES})",
            f"{said}: it has {full} whole rows{part_of} for {rows} frames; {hint}",
        )
        rows = min(full, rows)
    values = open_array(path, dtype, rows * NUM_CHANNELS)
    if dtype == "<f4" and swapped_states(values):
        report.add("byte-order", name, "byte 0", SWAPPED)
        values = open_array(path, ">f4", rows * NUM_CHANNELS)
    return values.reshape(rows, NUM_CHANNELS) if rows else None


def _open_integers(inventory: Inventory, name: str, count: int, kind: str, report: Report) -> Array:
    """The first `count` ids or tokens of a file, whatever their type; what it is not is reported as `kind`."""
    size, path = inventory.sizes[name], inventory.root / name
    dtype = integers_type(path, size, count, tokens=kind == "tokens-dtype")
    if hint := integers_hint(dtype):
        report.add(kind, name, "", f"has {size} bytes, {count} int32 are {4 * count}: {hint}")
        return open_array(path, dtype, count)
    values = open_array(path, "<i4", count)
    fault = integers_fault(values)
    if fault is None:
        return values
    report.add(*((kind, name, "") if fault == FLOATS else ("byte-order", name, "byte 0")), fault)
    return open_array(path, "<f4" if fault == FLOATS else ">i4", count)


def _open_segments(inventory: Inventory, name: str, count: int, report: Report) -> Array | None:
    size = inventory.sizes[name]
    if size != 4 * count and not integers_hint(integers_type(inventory.root / name, size, count)):
        full = min(size // 4, count)
        report.add(
            "segments-size",
            name,
            f"row {full} (byte {4 * full})",
            f"has {size} bytes, {count} int32 are {4 * count}: {size // 4} ids for {count} frames; {FETCH_AGAIN}",
        )
        count = full
    return _open_integers(inventory, name, count, "segments-dtype", report)


def _open_tokens(
    inventory: Inventory, name: str, blocks: int, report: Report, *, grid: int, frames: int
) -> Array | None:
    size, path = inventory.sizes[name], inventory.root / name
    cells = TOKEN_BLOCK_GRIDS * grid * grid
    if size != blocks * cells * 4 and not integers_hint(integers_type(path, size, blocks * cells, tokens=True)):
        full = min(size // (cells * 4), blocks)
        hint = tokens_hint(path, size, frames, grid=None, block_frames=TOKEN_BLOCK_FRAMES)
        report.add(
            "tokens-size",
            name,
            f"block {full} (byte {full * cells * 4})",
            f"has {size} bytes, {blocks} blocks of 3 int32 grids of {grid}x{grid} are {blocks * cells * 4}: "
            + (hint or f"{size // (cells * 4)} whole blocks where {blocks} are wanted; {FETCH_AGAIN}"),
        )
        blocks = full
    values = token_blocks(_open_integers(inventory, name, blocks * cells, "tokens-dtype", report), blocks, grid)
    if blocks and (hint := axes_hint(values)):
        report.add("tokens-order", name, "", hint)
    return values if blocks else None


def find_shape(parts: list[Part], inventory: Inventory, *, rows_each: int, grid: int | None) -> Shape:
    """Whether a folder holds recordings or samples, and the side of its token grids.

    Samples have no segment files at all, and `rows_each` state rows to a token block (17 pictures); recordings have a
    row to a picture. `grid` is the side if it is stated beside the data.
    """
    has_segments = bool(inventory.files["segments"])
    if inventory.kind == "raw":
        ratios = [
            _size(inventory, "states", part.number) / ROW_BYTES / part.video.num_frames
            for part in parts
            if part.video.num_frames
        ]
        samples = bool(ratios) and not has_segments and float(np.median(ratios)) > 2
        return Shape(rows_each=rows_each if samples else None, grid=grid or _GRID)
    if has_segments:
        return Shape(rows_each=None, grid=grid or _common_grid(parts, inventory, None) or _GRID)
    if votes := _sample_votes(parts, inventory, rows_each, grid):
        (samples, side), _ = votes.most_common(1)[0]
        return Shape(rows_each=rows_each if samples else None, grid=side)
    sizes = {part.number: _size(inventory, "video", part.number) for part in parts}
    if grid is None:
        one, other = _common_grid(parts, inventory, rows_each), _common_grid(parts, inventory, None)
        if one and not other:
            return Shape(rows_each=rows_each, grid=one)
        if other and not one:
            return Shape(rows_each=None, grid=other)
    block_bytes = TOKEN_BLOCK_GRIDS * (grid or _GRID) ** 2 * 4
    ratios = [
        _size(inventory, "states", part.number) / ROW_BYTES / (sizes[part.number] / block_bytes)
        for part in parts
        if sizes[part.number]
    ]
    samples = bool(ratios) and float(np.median(ratios)) > 25  # 17 rows to a block of recordings, 64 to a sample
    return Shape(rows_each=rows_each if samples else None, grid=grid or _GRID)


def _sample_votes(
    parts: list[Part], inventory: Inventory, rows_each: int, grid: int | None
) -> Counter[tuple[bool, int]]:
    """For shards whose sizes are whole: whether they hold samples, and their grid, by the rule of `layout`."""
    votes: Counter[tuple[bool, int]] = Counter()
    for part in parts:
        rows, rest = divmod(_size(inventory, "states", part.number), ROW_BYTES)
        if rest or not rows:
            continue
        size = _size(inventory, "video", part.number)
        as_samples = _side(size, rows // rows_each) if rows % rows_each == 0 else None
        as_recordings = _side(size, math.ceil(rows / TOKEN_BLOCK_FRAMES))
        if grid is not None:  # stated beside the data
            as_samples = grid if as_samples == grid else None
            as_recordings = grid if as_recordings == grid else None
        # Sizes alone may fit both, with different grids: 1X's own is 32.
        doubtful = as_recordings is not None and _GRID in (as_samples, as_recordings)
        if as_samples and (as_samples == _GRID if doubtful else rows != part.stated):
            votes[True, as_samples] += 1
        elif as_recordings:
            votes[False, as_recordings] += 1
        elif as_samples:
            votes[True, as_samples] += 1
    return votes


def _side(size: int, blocks: int) -> int | None:
    """Side of the square int32 grids if so many blocks have that size."""
    cells, rest = divmod(size, blocks * TOKEN_BLOCK_GRIDS * 4)
    side = math.isqrt(cells)
    return side if rest == 0 and side * side == cells and side > 0 else None


def _common_grid(parts: list[Part], inventory: Inventory, rows_each: int | None) -> int | None:
    """The grid side that most token files are whole with; None if no file is."""
    sides: Counter[int] = Counter()
    for part in parts:
        lengths = (
            {part.stated, _size(inventory, "segments", part.number) // 4} if rows_each is None else set[int | None]()
        )
        lengths.add(_size(inventory, "states", part.number) // ROW_BYTES)
        for rows in lengths:
            if not rows or (rows_each is not None and rows % rows_each):
                continue
            blocks = rows // rows_each if rows_each else math.ceil(rows / TOKEN_BLOCK_FRAMES)
            wide = _looks_int64(inventory, part.number)
            for scale in (1, 2) if wide else (1, 0.5):  # another number type keeps the side
                area = _size(inventory, "video", part.number) / (blocks * TOKEN_BLOCK_GRIDS * 4 * scale)
                if area >= 1 and area == math.isqrt(int(area)) ** 2:
                    sides[math.isqrt(int(area))] += 2 if scale == 1 else 1
    return max(sides, key=lambda side: (sides[side], side == _GRID)) if sides else None


def _looks_int64(inventory: Inventory, number: int) -> bool:
    """Whether a token file's numbers take eight bytes: the upper four, which come last or first, are empty."""
    name = inventory.readable("video", number)
    if name is None or inventory.sizes[name] < 8:
        return False
    words = np.asarray(open_array(inventory.root / name, "<i4", min(inventory.sizes[name] // 8 * 2, 1 << 14)))
    return bool(words[1::2].any()) != bool(words[::2].any())
