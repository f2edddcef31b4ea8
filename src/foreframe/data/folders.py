"""Folders that appear whole or not at all: made beside, resumed after a kill, shared by several processes.

    .NAME.partial/          what `resumable_folder` fills until `NAME` is whole
    ├── folder/             becomes `NAME` by one rename: no work file and no lock ever lies in it
    ├── .work.json          what is being made; another work is refused
    ├── .gate.lock          held while a process comes or goes, so that none removes what another begins to use
    ├── .rank-{i}.lock      held by process i of those that fill it
    └── ...                 whatever the work needs only until then

Without `folder` in it, such a folder is what was left over when the rename was done. `atomic_folder` has a
`.NAME.partial-XXXXXXXX/` for each call, of `folder` and `.lock`; the next call for that name removes those whose maker
is dead, which their locks show.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foreframe.errors import UsageError
from foreframe.files import listed, locked, read_json, write_whole

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

_FOLDER = "folder"
_LAST_FILE = "metadata.json"
_IDENTITY_FILE = ".work.json"
_GATE = ".gate.lock"
_RANK = re.compile(r"\.rank-\d+\.lock")
_MOST_TRIES = 1000
"""Times that a folder may vanish just when it is to be used."""


@contextmanager
def atomic_folder(out: Path) -> Generator[Path, None, None]:
    """Yield a temporary folder beside `out` that becomes `out` on success and vanishes on any failure.

    `out` may be absent or an empty folder; missing parents are made. Raises `UsageError` before yielding when the
    place cannot be used. What a killed process leaves is hidden, and gone with the next call for the same `out`.
    """
    out = Path(os.path.realpath(out))
    with ExitStack() as stack:
        with _made_parents(out) as made:
            _refuse_used(out)
            _remove_dead(out)
            holder = _held_folder(stack, out)
        try:
            yield holder / _FOLDER
            _appear(holder / _FOLDER, out)
        except BaseException:
            shutil.rmtree(holder, ignore_errors=True)
            _remove_empty(made)
            raise
        shutil.rmtree(holder, ignore_errors=True)


def _held_folder(stack: ExitStack, out: Path) -> Path:
    """A new folder beside `out`, locked until `stack` closes."""
    for _ in range(_MOST_TRIES):
        holder = out.parent / f".{_short(out.name)}.partial-{secrets.token_hex(4)}"
        holder.mkdir()
        # Before it is locked, another call may take it for a dead one's.
        with suppress(FileNotFoundError, UsageError):
            stack.enter_context(locked(holder / ".lock", taken="taken"))
            (holder / _FOLDER).mkdir()
            return holder
    raise UsageError(f"{out}: is being made and removed by other processes; let them end")


def _remove_dead(out: Path) -> None:
    """Remove what killed calls of `atomic_folder` for `out` left behind."""
    ours = re.compile(rf"{re.escape(f'.{_short(out.name)}.partial-')}[0-9a-f]{{8}}")
    with suppress(OSError):  # a folder that can be written and not be listed
        for path in listed(out.parent):
            if ours.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                with suppress(OSError, UsageError), locked(path / ".lock", taken="at work") as held:
                    if held:
                        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A folder on its way."""

    folder: Path
    """What becomes the folder that was asked for, once a `metadata.json` lies in it."""
    scratch: Path
    """Beside it: what is needed until then."""


@contextmanager
def resumable_folder(out: Path, *, identity: Mapping[str, object], rank: int = 0) -> Generator[Unfinished, None, None]:
    """Yield what is to become `out`, in which the same work may have been begun before.

    When the body ends and a `metadata.json` has been written into its `folder`, that becomes `out`; when the body
    fails, is killed, or ends without that file (other ranks still work), it stays, and the same call goes on with it.
    A finished `out` is refused as `atomic_folder` does.

    Args:
        out: The folder to make.
        identity: What makes two works the same, JSON-ready. An unfinished folder of another one is refused.
        rank: Number of this process among several that fill one folder; each rank is held by one process at a time.
    """
    out = Path(os.path.realpath(out))
    partial = _partial_of(out)
    unfinished = Unfinished(folder=partial / _FOLDER, scratch=partial)
    made: list[Path] = []
    with ExitStack() as at_work:
        try:
            with _made_parents(out) as made:
                _refuse_used(out)
                with _gate(partial, make=True) as held:
                    taken = f"{out}: another process ({{pid}}) is writing it just now; let it end"
                    at_work.enter_context(locked(partial / f".rank-{rank}.lock", taken=taken))
                    _refuse_used(out)  # which another rank may have made since
                    _same_work(partial, identity, alone=held)
                    unfinished.folder.mkdir(exist_ok=True)
            yield unfinished
            _show(unfinished, out)
        finally:
            _leave(partial, at_work, made)


@contextmanager
def one_at_a_time(unfinished: Unfinished) -> Generator[bool, None, None]:
    """Wait until no other rank is in here; yields False if one has written the folder's `metadata.json` already."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(unfinished.scratch / ".last.lock"))
        except FileNotFoundError:  # and it has even been given its name
            yield False
            return
        yield unfinished.folder.is_dir() and not (unfinished.folder / _LAST_FILE).is_file()


def remove_leftovers(out: Path) -> None:
    """Remove what a process leaves beside a finished `out` that was killed just after it had been given its name."""
    out = Path(os.path.realpath(out))
    partial = _partial_of(out)
    if out.exists():
        _remove_dead(out)
    if out.exists() and partial.is_dir() and not (partial / _FOLDER).exists():
        with suppress(OSError), _gate(partial):
            _remove_unused(partial)


def discard_unfinished(out: Path) -> None:
    """Remove work on `out` that was begun and is not wanted any more, unless a process is at work in it."""
    partial = _partial_of(Path(os.path.realpath(out)))
    if partial.is_dir():
        with suppress(OSError), _gate(partial) as held:
            if held:
                _remove_unused(partial)


def last_written(out: Path) -> int:
    """When the work on `out` last came on: the latest time of change in it, in nanoseconds; 0 if there is none."""
    times = [0]
    for path in _partial_of(Path(os.path.realpath(out))).rglob("*"):
        with suppress(OSError):
            times.append(path.stat().st_mtime_ns)
    return max(times)


def _partial_of(out: Path) -> Path:
    return out.parent / f".{_short(out.name)}.partial"


def _short(name: str) -> str:
    """Leave room for what is put around the name: file systems end at 255 bytes."""
    return name if len(name.encode()) <= 200 else hashlib.sha256(name.encode()).hexdigest()


@contextmanager
def _gate(partial: Path, *, make: bool = False) -> Generator[bool, None, None]:
    """Hold the lock under which processes come and go; yields whether locks can be had at all here."""
    with ExitStack() as stack:
        for number in range(_MOST_TRIES):
            if make:
                partial.mkdir(parents=True, exist_ok=True)
            try:
                held = stack.enter_context(locked(partial / _GATE))
                break
            except FileNotFoundError:
                # Whoever left last has removed it meanwhile.
                if not make or number == _MOST_TRIES - 1:
                    raise
        else:
            raise AssertionError
        yield held


def _same_work(partial: Path, identity: Mapping[str, object], *, alone: bool) -> None:
    path = partial / _IDENTITY_FILE
    wanted = json.loads(json.dumps(identity))
    if not path.is_file():
        # What lies here without a name is left of a removal that was killed: nobody knows of what it is.
        for left in partial.iterdir() if alone else ():
            if not left.name.endswith(".lock"):
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
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


def _show(unfinished: Unfinished, out: Path) -> None:
    """Give a whole folder its name; nothing if it is not whole, or has been given it by another rank."""
    with suppress(FileNotFoundError), _gate(unfinished.scratch):
        if (unfinished.folder / _LAST_FILE).is_file():
            for path in unfinished.folder.rglob(".*.partial"):  # of a rank that was killed before another took over
                path.unlink(missing_ok=True)
            _appear(unfinished.folder, out)


def _leave(partial: Path, at_work: ExitStack, made: list[Path]) -> None:
    """End this rank's work; the last one removes what is not needed any more.

    That is everything when `out` has its name, or when nothing was written; what was begun stays. Where no locks can
    be had, others may still be at work: then only what is finished is removed.
    """
    with suppress(OSError), _gate(partial) as held:
        at_work.close()
        if not (partial / _FOLDER).exists() or (held and not _has_work(partial)):
            _remove_unused(partial)
    if not partial.exists():
        _remove_empty(made)


def _has_work(partial: Path) -> bool:
    """Whether anything was written but locks and what says what is made."""
    files = (path for path in partial.rglob("*") if path.is_file() and path.name != _IDENTITY_FILE)
    return any(path.suffix != ".lock" and path.stat().st_size for path in files)


def _remove_unused(partial: Path) -> None:
    """Remove the folder unless another process is at work in it; the gate must be held."""
    for path in listed(partial):
        if _RANK.fullmatch(path.name):
            try:
                with locked(path, taken="at work"):
                    pass
            except UsageError:
                return
    # What says what it is goes last: should this be stopped, nothing of it is taken for another work's.
    for path in sorted(listed(partial), key=lambda path: (path.name == _IDENTITY_FILE, path.name == _GATE)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    shutil.rmtree(partial, ignore_errors=True)


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
