"""Files on disk: SHA-256, JSON from strangers, whole writes, loud listings, locks that say who holds them."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import stat
import sys
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

from foreframe.errors import InputError, UsageError

try:
    import fcntl
except ImportError:  # Windows: nothing then keeps two processes from working on one folder
    fcntl = None

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

MAX_JSON_BYTES = 32 << 20
"""Largest JSON file that is read: the statistics of 64,000 tokens take one megabyte."""
MAX_JSON_DEPTH = 64
"""Deepest nesting of objects and lists that is read; files written here have six."""
_LONGEST_NUMBER = 32
"""Characters of a number: 17 digits, sign, point and exponent tell any float64."""
_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_BYTES = 1024
"""Largest Git LFS pointer, by its specification."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

POINTER_HINT = "is a Git LFS pointer, not the file it stands for; run `git lfs pull` in that repository"

T = TypeVar("T")


# -- reading ---------------------------------------------------------------------------------------------------------


def require_regular(path: Path) -> os.stat_result:
    """Facts of a file that ends and can be read again; `InputError` for a folder, a pipe, a device or a lost link.

    Opening a pipe waits for whoever writes into it, and a device may have no end: neither is opened.
    """
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: is missing") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(facts.st_mode):
        what = "a folder" if stat.S_ISDIR(facts.st_mode) else "a pipe, a device or a socket"
        raise InputError(f"{path}: is {what}, where a file is wanted")
    return facts


def require_content(path: Path) -> os.stat_result:
    """Facts of a regular file; `InputError` also where a Git LFS pointer lies in place of the file it stands for."""
    facts = require_regular(path)
    try:
        if is_pointer(path):
            raise InputError(f"{path}: {POINTER_HINT}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return facts


def is_pointer(path: Path) -> bool:
    """Whether a regular file is a Git LFS pointer, which is what a clone holds until `git lfs pull`."""
    if not len(_POINTER) < path.stat().st_size <= _POINTER_BYTES:
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a regular file's bytes, read in pieces."""
    require_regular(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def read_json(path: Path, *, advice: str = "write it again") -> dict[str, Any]:
    """The object in a JSON file that may come from anyone; `InputError` naming the file, what is wrong and `advice`.

    Refused are: what is no regular file, more than `MAX_JSON_BYTES`, nesting below `MAX_JSON_DEPTH`, numbers of more
    digits than any float has or beyond float64, NaN and infinities, and anything but an object.
    """
    facts = require_content(path)
    if facts.st_size > MAX_JSON_BYTES:
        raise InputError(f"{path}: has {facts.st_size} bytes, more than any JSON file here; {advice}")
    try:
        with path.open("rb") as file:
            content = parse_json(file.read(MAX_JSON_BYTES + 1))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); {advice}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a JSON object; {advice}")
    return cast("dict[str, Any]", content)


def parse_json(
    text: bytes | str,
    *,
    objects: Callable[[list[tuple[str, Any]]], Any] | None = None,
    odd_number: Callable[[str], Any] | None = None,
) -> Any:
    """What JSON text says; `ValueError` within the same bounds as `read_json`'s, which is for whole files.

    `objects` makes an object of its pairs, for whoever wants to see a key that is given twice; `odd_number` makes
    something of a number that is out of bounds, which is otherwise an error.
    """

    def whole(number: str) -> Any:
        if len(number) <= _LONGEST_NUMBER:
            return int(number)
        return odd(number, f"a number of {len(number)} digits")

    def real(number: str) -> Any:
        value = float(number)
        if len(number) <= _LONGEST_NUMBER and math.isfinite(value):
            return value
        return odd(number, f"a number too long or too large, {number[:12]}...")

    def odd(number: str, why: str) -> Any:
        if odd_number is None:
            raise ValueError(why)
        return odd_number(number)

    try:
        content = json.loads(
            text,
            parse_int=whole,
            parse_float=real,
            parse_constant=lambda name: odd(name, f"{name} is no number"),
            object_pairs_hook=objects,
        )
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_JSON_DEPTH}") from error
    level, depth = [content], 0
    while level := [one for value in level for one in _inside(value)]:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"nested deeper than {MAX_JSON_DEPTH}")
    return content


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(cast("dict[str, Any]", value).values())
    return cast("list[Any]", value) if isinstance(value, list) else []


def read_typed(path: Path, kind: type[T], *, advice: str = "write it again") -> T:
    """A JSON file as a dataclass or typed dict; `InputError` naming file, field, value and what is wanted there."""
    return typed(read_json(path, advice=advice), kind, where=str(path), advice=advice)


def typed(content: object, kind: type[T], *, where: str, advice: str = "write it again") -> T:
    """JSON content as a dataclass or typed dict, unknown fields refused where `kind` says so; see `read_typed`."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        raise InputError(f"{where}: {first_problem(error)}; {advice}") from error
    except (ValueError, RecursionError, OverflowError) as error:
        raise InputError(f"{where}: {shortened(error)}; {advice}") from error


def first_problem(error: Any) -> str:
    """The first of pydantic's complaints: field, what is wanted, and the value, in at most 200 characters."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    value = first.get("input")
    shown = "" if isinstance(value, (dict, list, tuple)) else f", not {shortened(repr(value), 60)}"
    return f"{field}: {shortened(first['msg'], 120)}{shown}" if field else shortened(first["msg"])


def shortened(text: object, most: int = 200) -> str:
    """Text on one line, cut in its middle to at most `most` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most // 2 - 2]} ... {line[len(line) - most // 2 + 3 :]}"


def listed(folder: Path, pattern: str = "*") -> list[Path]:
    """What lies in a folder, by name, sorted; an empty list where there is no such folder.

    A folder that cannot be listed raises its `OSError`: `Path.glob` would call it empty, and whoever decides by that
    starts a run anew or finds nothing wrong.
    """
    try:
        there = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for path in there if fnmatch(path.name, pattern)]


# -- writing ---------------------------------------------------------------------------------------------------------


@contextmanager
def naming(path: Path) -> Generator[None, None, None]:
    """Let an `OSError` that names no file, as a full disk's does, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` beside `path` and rename, so that `path` is never seen half written. Makes the parent folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with naming(path):
            partial.write_bytes(content)
            partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


# -- locks -----------------------------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path, *, taken: str | None = None) -> Generator[None, None, None]:
    """Hold a lock file until the end of the body or of this process.

    Where another process holds it: wait if `taken` is None, else raise `UsageError` with that text, in which `{pid}`
    stands for the other's number. Where the file system offers no locks, this is said once and the work goes on.
    """
    if fcntl is None:
        yield
        return
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if taken else 0))
        except BlockingIOError as error:
            assert taken is not None
            file.seek(0)
            holder = re.match(r"\d+", file.read(20))
            raise UsageError(taken.replace("{pid}", f"pid {holder[0]}" if holder else "pid unknown")) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _say_no_locks(path)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)


_held: set[TextIO] = set()
"""Files whose locks this process holds."""


def _forget_locks() -> None:
    """A forked child has its parent's open files and would hold their locks after the parent was killed."""
    for file in _held:
        file.close()
    _held.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget_locks)


_told: set[str] = set()


def _say_no_locks(path: Path) -> None:
    place = str(path.parent)
    if place not in _told:
        _told.add(place)
        print(
            f"foreframe: {place}: this file system offers no locks; work goes on, let no second command work there",
            file=sys.stderr,
        )
