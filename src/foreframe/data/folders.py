"""Folders that appear whole or not at all: made beside, resumed after a kill, shared by several processes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from foreframe.errors import UsageError
from foreframe.files import locked, read_json, write_whole

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping


@contextmanager
def atomic_folder(out: Path) -> Generator[Path, None, None]:
    """Yield a temporary folder beside `out` that becomes `out` on success and vanishes on any failure.

    `out` may be absent or an empty folder; missing parents are made. Raises `UsageError` before yielding when the
    place cannot be used. A killed process can leave a hidden `.NAME.partial-*` folder, never a half-written `out`.
    """
    out = Path(os.path.realpath(out))
    partial = out.parent / f".{_short(out.name)}.partial-{secrets.token_hex(4)}"
    with _made_parents(out) as made:
        _refuse_used(out)
        partial.mkdir()
    try:
        yield partial
        _appear(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_empty(made)
        raise


@contextmanager
def resumable_folder(out: Path, *, identity: Mapping[str, object], rank: int = 0) -> Generator[Path, None, None]:
    """Yield the hidden folder `.NAME.partial` beside `out`, in which the same work may have been begun before.

    When the body ends and a `metadata.json` has been written into it, it becomes `out`; when the body fails, is killed,
    or ends without that file (other ranks still work), it stays, and the same call goes on with it. A finished `out` is
    refused as `atomic_folder` does.

    Args:
        out: The folder to make.
        identity: What makes two works the same, JSON-ready. An unfinished folder of another one is refused.
        rank: Number of this process among several that fill one folder; each rank is held by one process at a time.
    """
    out = Path(os.path.realpath(out))
    partial = out.parent / f".{_short(out.name)}.partial"
    with _made_parents(out) as made:
        _refuse_used(out)
        partial.mkdir(exist_ok=True)
    with ExitStack() as stack:
        stack.callback(_drop_if_unused, partial, made)
        taken = f"{out}: another process ({{pid}}) is writing it just now; let it end"
        stack.enter_context(locked(partial / f".rank-{rank}.lock", taken=taken))
        with locked(partial / ".rank-any.lock"):
            _same_work(partial, identity)
        yield partial
        if not (partial / "metadata.json").is_file():
            return
        try:
            _appear(partial, out)
        except UsageError:
            # The rank that finished at the same moment was quicker.
            if partial.exists() or not out.exists():
                raise
            return
        # Only now: killed before the rename, the work must still be known as what it is.
        for path in (*out.rglob(".*.partial"), *out.glob(".rank-*.lock"), out / _IDENTITY_FILE):
            path.unlink(missing_ok=True)


@contextmanager
def one_at_a_time(partial: Path) -> Generator[bool, None, None]:
    """Wait until no other rank is in here; yields False if one has written the folder's `metadata.json` already."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(partial / ".rank-last.lock"))
        except FileNotFoundError:  # and it has even been given its name
            yield False
            return
        yield partial.is_dir() and not (partial / "metadata.json").is_file()


def _short(name: str) -> str:
    """Leave room for what is put around the name: file systems end at 255 bytes."""
    return name if len(name.encode()) <= 200 else hashlib.sha256(name.encode()).hexdigest()


_IDENTITY_FILE = ".work.json"


def _same_work(partial: Path, identity: Mapping[str, object]) -> None:
    path = partial / _IDENTITY_FILE
    wanted = json.loads(json.dumps(identity))
    if not path.is_file():
        write_whole(path, (json.dumps(wanted) + "\n").encode())
        return
    begun = read_json(path, advice=f"delete the folder {partial} to start anew")
    if begun != wanted:
        names = [name for name in {**begun, **wanted} if begun.get(name) != wanted.get(name)]
        name = names[0]
        raise UsageError(
            f"{partial}: holds unfinished work with {name} {begun.get(name)!r}, not {wanted.get(name)!r}; repeat that "
            "command to finish it, or delete that folder"
        )


def _drop_if_unused(partial: Path, made: list[Path]) -> None:
    """Work that ended before anything was written leaves no folder behind."""
    own = re.compile(rf"\.rank-.*\.lock|{re.escape(_IDENTITY_FILE)}")
    there = [path for path in partial.rglob("*") if path.is_file() and not own.fullmatch(path.name)]
    if partial.is_dir() and not any(path.stat().st_size for path in there):
        shutil.rmtree(partial, ignore_errors=True)
        _remove_empty(made)


@contextmanager
def _made_parents(out: Path) -> Generator[list[Path], None, None]:
    """Make the missing parents of `out` for what follows; where that fails, `UsageError` and no trace."""
    made: list[Path] = []
    try:
        for parent in reversed([parent for parent in out.parents if not parent.exists()]):
            parent.mkdir(exist_ok=True)
            made.append(parent)
        yield made
    except UsageError:
        _remove_empty(made)
        raise
    except OSError as error:
        _remove_empty(made)
        reason = error.strerror or type(error).__name__
        raise UsageError(f"{out}: cannot be made ({reason}); name a folder in a place that can be written") from error


def _appear(partial: Path, out: Path) -> None:
    try:
        partial.replace(out)
    except OSError as error:
        raise UsageError(f"{out}: was made or filled meanwhile ({error.strerror}); name another folder") from error


def _refuse_used(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out}: is a file; name a folder that does not exist yet")
    if any(out.iterdir()):
        raise UsageError(f"{out}: is a folder with files in it; name one that does not exist yet, or empty it first")
    if out.is_mount() or out == Path.cwd():
        # Neither can be replaced by a rename: better said now than after hours of work.
        raise UsageError(f"{out}: is a mount point or the current folder; name a new folder inside it")


def _remove_empty(made: list[Path]) -> None:
    for parent in reversed(made):
        with suppress(OSError):
            parent.rmdir()
