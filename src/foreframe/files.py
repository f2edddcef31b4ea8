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
import tempfile
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, TypeVar, cast

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

_NUMPY = b"\x93NUMPY"

NUMPY_HINT = "is a NumPy file, numbers behind a header; write the numbers alone, as numpy.load(...).tofile(...) does"
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
        what = "is a link to what is not there" if path.is_symlink() else "is missing"
        raise InputError(f"{path}: {what}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(facts.st_mode):
        what = "a folder" if stat.S_ISDIR(facts.st_mode) else "a pipe, a device or a socket"
        raise InputError(f"{path}: is {what}, where a file is wanted")
    return facts


def require_content(path: Path) -> os.stat_result:
    """Facts of a regular file; `InputError` also where a Git LFS pointer or a NumPy file lies in its place."""
    facts = require_regular(path)
    try:
        if is_pointer(path):
            raise InputError(f"{path}: {POINTER_HINT}")
        if is_numpy(path):
            raise InputError(f"{path}: {NUMPY_HINT}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return facts


def is_pointer(path: Path) -> bool:
    """Whether a regular file is a Git LFS pointer, which is what a clone holds until `git lfs pull`."""
    if not len(_POINTER) < path.stat().st_size <= _POINTER_BYTES:
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def is_numpy(path: Path) -> bool:
    """Whether a regular file is one of `numpy.save`, whatever its name."""
    with path.open("rb") as file:
        return file.read(len(_NUMPY)) == _NUMPY


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


def meant_run(path: Path, mark: str) -> str:
    """What to add to a message about `path`, given where a folder with a file named `mark` is wanted: the one nearby.

    That is the folder around it, as of a checkpoint or of the file itself, or one inside it; empty if there is none.
    """
    try:
        for around in path.absolute().parents[:3]:
            if (around / mark).is_file():
                return f"; the run {around} is meant, perhaps"
        inside = [one for one in listed(path) if (one / mark).is_file()]
    except OSError:
        return ""
    if not inside:
        return ""
    return f"; the run {inside[0]} is meant, perhaps" + (f", or another of {len(inside)} there" if inside[1:] else "")


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


def make_folder(folder: Path, *, advice: str) -> None:
    """Make `folder` if it is not there; `UsageError` with `advice` if that cannot be, or nothing can be put into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"{folder}: cannot be written ({reason}); {advice}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` beside `path` and rename, so that `path` is never seen half written. Makes the parent folder.

    What a killed process leaves, `.NAME.partial`, is written over by the next call for the same path.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, descriptor, held = _own_partial(path)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.truncate(0)
                file.write(content)
                file.flush()
                if held:  # as long as nobody else may write into it
                    partial.replace(path)
            if not held:
                partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _own_partial(path: Path) -> tuple[Path, int, bool]:
    """A file beside `path` that no other process writes, its descriptor, and whether closing that gives it free."""
    partial = path.with_name(f".{path.name}.partial")
    with suppress(OSError):  # another's file, a link, no locks: a name of its own then
        descriptor, held = _open_locked(partial, wait=True)
        if held:
            return partial, descriptor, True
        os.close(descriptor)
        partial.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    return partial, os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), False


# -- locks -----------------------------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path, *, taken: str | None = None, waiting: str | None = None) -> Generator[bool, None, None]:
    """Hold a lock file until the end of the body or of this process; yields whether it is held.

    It is not where the file system, or the system, offers no locks: that is said once and the work goes on, so the
    body must do nothing then that hurts another process at the same work.

    Args:
        path: The lock file, made if it is not there; `FileNotFoundError` if its folder is not.
        taken: Where another process holds it, raise `UsageError` with this text; `{pid}` stands for the other's
            number. None waits instead.
        waiting: Said on the error stream before waiting, with the same `{pid}`.
    """
    try:
        descriptor, held = _open_locked(path, wait=taken is None and waiting is None)
    except BlockingIOError as error:
        text = (taken or waiting or "").replace("{pid}", _holder(path))
        if taken is not None:
            raise UsageError(text) from error
        print(f"foreframe: {text}", file=sys.stderr)
        descriptor, held = _open_locked(path, wait=True)
    _open_locks.add(descriptor)
    try:
        if held:
            with suppress(OSError):  # a full disk: only whoever is refused reads it
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
        yield held
    finally:
        if descriptor in _open_locks:  # a forked child has let go of it
            _open_locks.discard(descriptor)
            if held and fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough where a started process has it too
            os.close(descriptor)


_open_locks: set[int] = set()
"""Descriptors of the lock files that this process has open."""


def _forget_locks() -> None:
    """A forked child has its parent's open files and would hold their locks after the parent was killed."""
    for descriptor in _open_locks:
        os.close(descriptor)
    _open_locks.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget_locks)


def _open_locked(path: Path, *, wait: bool) -> tuple[int, bool]:
    """Descriptor of the file at `path` and whether it is locked; `BlockingIOError` if another process has it."""
    # A link could point at any file of whoever runs this, and its content would be lost.
    flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(f"{path}: is no regular file; remove it")
            if not _flock(descriptor, path, wait=wait):
                return descriptor, False
            # Who held it before may have removed the file, or given it another name.
            if _is_still(descriptor, path):
                return descriptor, True
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _flock(descriptor: int, path: Path, *, wait: bool) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _say_no_locks(path)
        return False
    return True


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        number = re.match(rb"\d{1,20}", path.read_bytes()[:20])
    except OSError:
        number = None
    return f"pid {number[0].decode()}" if number else "pid unknown"


_told: set[str] = set()


def _say_no_locks(path: Path) -> None:
    place = str(path.parent)
    if place not in _told:
        _told.add(place)
        print(
            f"foreframe: {place}: this file system offers no locks; work goes on, let no second command work there",
            file=sys.stderr,
        )
