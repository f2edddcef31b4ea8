"""Reads a saved clip's arrays from a zip archive that may come from anyone: each is measured before it is unpacked."""

from __future__ import annotations

import math
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from foreframe.errors import InputError
from foreframe.files import require_regular, shortened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_BYTES = 1 << 30
"""What the arrays of a clip may take together, unpacked: nine videos of 60 frames of 512 x 512 take 425 MB."""
MAX_TEXT = 1 << 20
"""Bytes that a text in the archive may take."""
MAX_MEMBERS = 256
_PACKED = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1


def read_archive(path: Path, *, wanted: Callable[[str], bool]) -> dict[str, npt.NDArray[Any]]:
    """The arrays whose names are `wanted`, by name, of an `.npz` file of uint8 arrays and single texts.

    Raises `InputError` naming the file and the member for whatever else is there: objects, which would have to be
    unpickled, other ways of packing, encryption, two members of one name, sizes beyond `MAX_BYTES` or other than the
    archive claims.
    """
    require_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [(_name(info), info) for info in archive.infolist()]
            if len(members) > MAX_MEMBERS or len({name for name, _ in members}) < len(members):
                raise _Unfit(f"holds {len(members)} members, too many or two of one name")
            chosen = [(name, info) for name, info in members if wanted(name)]
            if (total := sum(info.file_size for _, info in chosen)) > MAX_BYTES:
                raise _Unfit(f"claims {total:,} bytes, more than a clip has")
            return {name: _array(archive, name, info) for name, info in chosen}
    except _Unfit as error:
        raise InputError(f"{path}: cannot be read as a saved clip: {error}") from error
    except (
        OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, IndexError, NotImplementedError,
        RuntimeError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise InputError(f"{path}: cannot be read as a saved clip ({shortened(error, 120)})") from error


class _Unfit(Exception):
    """Why an archive is refused; becomes an `InputError` where the file's name is known."""


def _header(file: IO[bytes], shown: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and type that a member claims."""
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        return read(file)
    # NumPy reads it as Python's literals: what else is there comes out as any error of the parser or tokenizer.
    except Exception as error:
        raise _Unfit(f"array {shown} has no header that is read ({type(error).__name__})") from error


def _name(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _array(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """One member, unpacked once its packing and its header are what they should be."""
    shown = shortened(name, 60)
    if info.flag_bits & _ENCRYPTED:
        raise _Unfit(f"array {shown} is encrypted")
    if info.compress_type not in _PACKED:
        raise _Unfit(f"array {shown} is packed by method {info.compress_type}, only stored and deflated are read")
    with archive.open(info) as file:
        shape, is_fortran, dtype = _header(file, shown)
        is_text = dtype.kind == "U" and shape == () and dtype.itemsize <= MAX_TEXT
        if dtype != np.uint8 and not is_text:
            raise _Unfit(f"array {shown} is {dtype} {shortened(shape, 60)}, must be uint8 or a single text")
        size = math.prod(shape) * dtype.itemsize
        if file.tell() + size != info.file_size:
            raise _Unfit(f"array {shown} claims {size:,} bytes of {info.file_size:,}")
        content = file.read(size + 1)  # the byte too many makes the archive compare its checksum
    if len(content) != size:
        raise _Unfit(f"array {shown} has {len(content):,} bytes of {size:,}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")
