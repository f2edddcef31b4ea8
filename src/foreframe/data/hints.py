"""What a file is likely to be where it is not what is wanted: another type, byte order, axis order, robot or name.

Sizes tell most of it. Where they do not, the first numbers of a file do: those of a robot's states and of recordings'
ids are small, and with their bytes the other way round they are not.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from foreframe.states import NUM_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

Array = npt.NDArray[Any]
Role = Literal["metadata", "video", "states", "segments"]
"""What a shard's files hold."""

_LOOKED_AT = 1 << 16
"""Numbers of a file that are looked at."""
_FEW_TOKENS = 1 << 10
"""Tokens among which agreement may be chance."""
_MOST_CHANNELS = 1000
"""More than any robot sends."""
_TYPES = {
    "f8": "float64", "f4": "float32", "f2": "float16", "i8": "int64", "i4": "int32", "i2": "int16", "u2": "uint16",
    "u1": "uint8",
}  # fmt: skip
SWAPPED = "holds big-endian numbers (their bytes the other way round make sense); write them little-endian"
FLOATS = "holds float32 numbers instead of int32; write it as little-endian int32"


def open_array(path: Path, dtype: str, count: int) -> Array:
    """The first `count` numbers of a file, mapped into memory; empty if there are none."""
    if count <= 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=(count,))


# -- states ----------------------------------------------------------------------------------------------------------


def states_type(path: Path, size: int, num_rows: int, *, channels: int = NUM_CHANNELS) -> str:
    """NumPy's name of the type of states (num_rows, channels) in a file of `size` bytes; "<f4" unless all tells so."""
    for item in (8, 2):
        if num_rows > 0 and size == num_rows * channels * item:
            for dtype in (f"<f{item}", f">f{item}"):
                if _sane(open_array(path, dtype, num_rows * channels)):
                    return dtype
    return "<f4"


def states_hint(path: Path, size: int, num_rows: int, *, advice: str) -> str:
    """What states of another size than float32 (num_rows, 25) are, and what to do: `advice` where nothing else fits.

    `num_rows` must be known from other files than this one.
    """
    dtype = states_type(path, size, num_rows)
    if dtype != "<f4":
        return f"{type_name(dtype)} instead of float32? write it as little-endian float32"
    channels = _channels(size, num_rows)
    if channels is None:
        return advice
    if is_other_robot(path, size, num_rows):
        if channels % 2 == 0 and not _sane(open_array(path, "<f4", size // 4)):
            kind = states_type(path, size, num_rows, channels=channels // 2)
            channels = channels // 2 if kind != "<f4" else channels
        return (
            f"it holds {channels} channels a row, this build reads EVE's {NUM_CHANNELS}: another robot's data cannot "
            "be used yet"
        )
    return f"{advice}; or are these {channels} channels a row? another robot's data cannot be used yet"


def is_other_robot(path: Path, size: int, num_rows: int) -> bool:
    """Whether a states file is whole with another number of channels than EVE's, and not EVE's with rows lost.

    Where its size is that of whole rows of EVE's as well, the width tells at which values change least to the next row.
    """
    channels = _channels(size, num_rows)
    if channels is None:
        return False
    if size % (4 * NUM_CHANNELS):
        return True
    values = np.asarray(open_array(path, "<f4", size // 4)[:_LOOKED_AT], dtype=np.float64)
    return _change(values, channels) < 0.5 * _change(values, NUM_CHANNELS)


def _channels(size: int, num_rows: int) -> int | None:
    """Channels of float32 rows if the file is whole with another number of them than EVE's, else None."""
    channels, rest = divmod(size, 4 * num_rows) if num_rows > 0 else (0, 1)
    return channels if not rest and 0 < channels <= _MOST_CHANNELS and channels != NUM_CHANNELS else None


def _change(values: Array, channels: int) -> float:
    """Mean change of a value from a row to the next; infinite if there are not two rows, or if none is a number."""
    with np.errstate(invalid="ignore", over="ignore"):
        change = np.abs(values[channels:] - values[:-channels])
    return float(change.mean()) if len(change) and np.isfinite(change).all() else math.inf


def swapped_states(values: Array) -> bool:
    """Whether float32 numbers (n,) make sense only with their bytes the other way round."""
    sample = np.asarray(values[:_LOOKED_AT], dtype="<f4")
    return len(sample) > 0 and _absurd(sample) > 0.2 and _absurd(sample.view(">f4")) < 0.01


def _absurd(values: Array) -> float:
    with np.errstate(invalid="ignore"):  # bytes that are no number
        size = np.abs(values.astype(np.float64))
    return float((~np.isfinite(size) | (size > 1e6) | ((size > 0) & (size < 1e-20))).mean())


def _sane(values: Array) -> bool:
    """Whether numbers read as another type could be a robot's states, in whatever unit."""
    with np.errstate(invalid="ignore"):
        size = np.abs(np.asarray(values[:_LOOKED_AT]).astype(np.float64))
    wild = ~np.isfinite(size) | (size > 1e3) | ((size > 0) & (size < 1e-18))
    return bool(wild.mean() < 0.02)


# -- segment ids and tokens ------------------------------------------------------------------------------------------


def integers_type(path: Path, size: int, count: int, *, tokens: bool = False) -> str:
    """NumPy's name of the type of `count` ids, or tokens, in a file of `size` bytes; "<i4" unless all tells another."""
    kinds = {8: ("i8", "f8"), 2: ("u2",) if tokens else ("i2",), 1: () if tokens else ("u1",)}
    item = size // count if count > 0 and size % count == 0 else 4
    return _best_type(path, kinds.get(item, ()), count, tokens=tokens) or "<i4"


def _best_type(path: Path, kinds: Iterable[str], count: int, *, tokens: bool) -> str | None:
    """Of these types, in either byte order, the one as which a file's numbers are the smallest tokens or ids."""
    largest: dict[str, float] = {}
    for dtype in [f"{order}{kind}" for kind in kinds for order in "<>"]:
        sample = np.asarray(open_array(path, dtype, count)[:_LOOKED_AT])
        with np.errstate(invalid="ignore"):
            if not ((sample >= 0) & (sample < 1 << 24) & (sample == np.floor(sample))).all():
                continue
        # Halves of whole int32 numbers are numbers as well: those of tokens leave every second one empty.
        if (kinds != ("u2",) or sample[1::2].any()) if tokens else (sample[1:] >= sample[:-1]).all():
            largest[dtype] = float(sample.max())
    return min(largest, key=lambda dtype: largest[dtype], default=None)


def integers_hint(dtype: str) -> str | None:
    """What to do about ids or tokens of a type that `integers_type` gave; None for the right one."""
    if dtype == "<i4":
        return None
    return f"{type_name(dtype)} instead of int32? write it as little-endian int32, or fetch it again"


def integers_fault(values: Array) -> str | None:
    """What int32 numbers (n,) are if they make no sense as such: big-endian, or floats; None where they do."""
    if looks_float(values):
        return FLOATS
    return SWAPPED if swapped_integers(values) else None


def type_name(dtype: str) -> str:
    """ "float64" of "<f8", "big-endian float64" of ">f8"."""
    return f"{'big-endian ' * dtype.startswith('>')}{_TYPES[dtype.lstrip('<>')]}"


def swapped_integers(values: Array) -> bool:
    """Whether int32 numbers (n,) are big-endian: small numbers with their bytes the other way round."""
    sample = np.asarray(values[:_LOOKED_AT], dtype="<i4")
    other = sample.view(">i4").astype(np.int64)
    # An id or token below 2^16, swapped, has its two low bytes empty.
    return len(sample) > 0 and bool(sample.any()) and not (sample & 0xFFFF).any() and bool((other >= 0).all())


def looks_float(values: Array) -> bool:
    """Whether int32 numbers (n,) are float32 whole numbers: 0, or 1.0 and above by their bits."""
    sample = np.asarray(values[:_LOOKED_AT], dtype="<i4")
    if len(sample) == 0 or not sample.any():
        return False
    floats = sample.view("<f4").astype(np.float64)
    return bool(((sample == 0) | ((sample >= 0x3F800000) & (floats < 1e6) & (floats == np.round(floats)))).all())


def tokens_hint(path: Path, size: int, num_frames: int, *, grid: int | None, block_frames: int) -> str | None:
    """What a token file of a size that does not fit is, by its size; None where nothing fits.

    `grid` is the side of the grids if other files tell it. Fitting are blocks of another number type, a grid for each
    frame, and whole blocks only.
    """
    blocks = -(-num_frames // block_frames)
    for item, kinds in ((8, ("i8", "f8")), (2, ("u2",))):
        side = _side(size, 3 * blocks * item, grid)
        dtype = None if side is None else _best_type(path, kinds, size // item, tokens=True)
        if dtype is not None:
            return f"{blocks} blocks of 3 grids of {side}x{side} in {integers_hint(dtype)}"
    if num_frames % block_frames and (side := _side(size, 12 * (blocks - 1), grid)):
        return (
            f"{blocks - 1} blocks of 3 grids of {side}x{side}: the last, incomplete block of {num_frames} frames is "
            "missing; encode the video again"
        )
    if side := _side(size, 4 * num_frames, grid):
        return (
            f"a grid of {side}x{side} for each frame? wanted are 3 grids for each {block_frames} frames: encode the "
            "video again"
        )
    return None


def _side(size: int, grids_bytes: int, grid: int | None) -> int | None:
    """Side of the square grids if a file holds so many bytes for each cell; None if it cannot."""
    cells, rest = divmod(size, grids_bytes) if grids_bytes > 0 else (0, 1)
    side = math.isqrt(cells)
    return side if not rest and side > 0 and side * side == cells and side == (grid or side) else None


def axes_hint(tokens: Array) -> str | None:
    """What order of axes tokens (blocks, 3, grid, grid) are in if not in this one; None where they do not tell.

    The second and the third grid of a block show nearly the same picture. Where the three tokens, or three rows, of a
    place lie next to each other, the third is therefore closer to the second than to the first of the next place; in
    the right order no picture makes every third pair of neighbours closer than the pairs after it.
    """
    side = tokens.shape[-1]
    flat = np.asarray(tokens[: max(2, _LOOKED_AT // (3 * side * side))]).reshape(-1)
    if flat.size < _FEW_TOKENS:
        return None
    for step, order, axis in ((1, f"blocks, {side}, {side}, 3", -1), (side, f"blocks, {side}, 3, {side}", 2)):
        if _alternates(flat, side=side, step=step):
            return (
                f"holds tokens as ({order}) by their values; write them as (blocks, 3, {side}, {side}): "
                f"numpy.moveaxis(tokens, {axis}, 1)"
            )
    return None


def _alternates(flat: Array, *, side: int, step: int) -> bool:
    """Whether of runs of `step` tokens the third of three is closer to the second than to the first of the next."""
    runs = flat.reshape(-1, step).astype(np.float64)
    change = np.abs(runs[1:] - runs[:-1]).mean(1)
    place = np.arange(len(change))
    inside = place % side != side - 1  # not from the end of a row, or of a grid, to the next one's start
    near, far = change[inside & (place % 3 == 1)], change[inside & (place % 3 == 2)]
    if min(len(near), len(far)) < 2:
        return False
    error = math.hypot(near.std() / math.sqrt(len(near)), far.std() / math.sqrt(len(far)))
    return bool(near.mean() < 0.85 * far.mean() - 4 * error)


# -- names -----------------------------------------------------------------------------------------------------------

FILE_NAMES: dict[Role, re.Pattern[str]] = {
    "metadata": re.compile(r"metadata_(0|[1-9]\d{0,8})\.json"),
    "video": re.compile(r"video_(0|[1-9]\d{0,8})\.(?:mp4|bin)"),
    "states": re.compile(r"states_(0|[1-9]\d{0,8})\.bin"),
    "segments": re.compile(r"segment_idx_(0|[1-9]\d{0,8})\.bin"),
}
"""Names of a shard's files, by what they hold; the number is the shard's."""
_STEMS: dict[Role, str] = {
    "metadata": "metadata", "video": "video", "states": "states", "segments": "segment_idx"
}  # fmt: skip
_MOST_DIGITS = 9
_SUFFIXES: dict[Role, tuple[str, ...]] = {
    "metadata": (".json",), "video": (".mp4", ".bin"), "states": (".bin",), "segments": (".bin",)
}  # fmt: skip


def numbered(names: Iterable[str], role: Role) -> dict[int, str]:
    """Those of the names that a shard's file of this role has, by the shard's number."""
    found = (FILE_NAMES[role].fullmatch(name) for name in names)
    return {int(match[1]): match[0] for match in found if match}


def numbering_fault(files: Mapping[int, str], counted: int) -> str | None:
    """What is wrong where files of one role, by number, are as many as `counted` but not numbered from 0 on, else None.

    With what to do about it.
    """
    numbers = sorted(files)
    if len(numbers) != counted or numbers == list(range(counted)):
        return None
    first, last = numbers[0], numbers[-1]
    named = f"{first}" if first == last else f"{first} to {last}"
    gaps = "" if last - first + 1 == counted else ", with gaps"
    place, moved = next((place, number) for place, number in enumerate(numbers) if number != place)
    return (
        f"shards are numbered {named}{gaps}, wanted is 0 to {counted - 1}; make shard {moved} ({files[moved]}) number "
        f"{place} and so on, in the names of all its files and as shard_ind in its metadata"
    )


def uncounted_fault(numbers: Mapping[int, str], counted: int) -> str | None:
    """What is wrong where there are files, by number, of more shards than `counted`, and what to do; else None."""
    beyond = sorted(number for number in numbers if number >= counted)
    if not beyond:
        return None
    what = f"shard {beyond[0]}" if len(beyond) == 1 else f"shards {beyond[0]} to {beyond[-1]}"
    return (
        f"counts {counted} shard{'s' * (counted > 1)}, but there are files of {what} ({numbers[beyond[0]]}); set "
        "num_shards and num_images to what is there, or move those files away"
    )


def other_name(names: Iterable[str], wanted: str) -> str | None:
    """A file that `wanted` ("video_0.mp4") may have been meant to be: of no known name, but with a number and its end.

    One that begins alike goes first, then one with the same number: "video_00.mp4", "clip-0.mp4".
    """
    stem, _, number = wanted.rpartition(".")[0].rpartition("_")
    ending = wanted.rpartition(".")[2]
    ranked: list[tuple[bool, bool, str]] = []
    for name in names:
        known = any(pattern.fullmatch(name) for pattern in FILE_NAMES.values())
        begins, found = role_by_name(name), _last_number(name)
        if known or found is None or not name.lower().endswith(f".{ending}"):
            continue
        if begins is None or _STEMS[begins] == stem:
            ranked.append((begins is None, found != int(number), name))
    return min(ranked, default=(True, True, None))[2]


def role_by_name(name: str) -> Role | None:
    """Whose files begin like this name."""
    return next((role for role, stem in _STEMS.items() if name.lower().startswith(stem.partition("_")[0])), None)


def _last_number(name: str) -> int | None:
    """The last number in a file's name before its ending."""
    digits = re.findall(r"\d+", name.rpartition(".")[0])
    return int(digits[-1]) if digits and len(digits[-1]) <= _MOST_DIGITS else None


def rename_hint(name: str, role: Role) -> str | None:
    """What a file that is named otherwise should be called, if it ends like one of this role and has a number."""
    number = _last_number(name)
    ending = next((ending for ending in _SUFFIXES[role] if name.lower().endswith(ending)), None)
    return None if ending is None or number is None else f"{_STEMS[role]}_{number}{ending}"
