"""What an evaluation leaves in a run folder, `scores.json` and `predictions/`: found, guarded and exchanged whole.

    RUN/
    ├── scores.json, predictions/     of the last evaluation
    ├── .evaluate.lock                held by the one at work
    ├── .scores-XXXXXXXX.partial/     what that has so far
    ├── .scores.new/                  its scores.json and predictions/, whole: they count from the rename that makes it
    ├── .predictions.kept/            the predictions, for the moment in which it is tried whether they can be moved
    └── .predictions.old-N/           the predictions before, on their way out

Two things cannot be exchanged by one rename. So the new ones first appear together in `.scores.new`, then take the
places of the old ones; killed anywhere, `find_scores` finds the old or the new, and never the predictions of another
evaluation than the scores'. The next evaluation ends the exchange.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foreframe.errors import InputError, UsageError
from foreframe.files import listed, locked, write_whole

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

SCORES_FILE = "scores.json"
PREDICTIONS_FOLDER = "predictions"
EVALUATION_LOCK = ".evaluate.lock"
_NEW = ".scores.new"
_KEPT = ".predictions.kept"
_OLD = ".predictions.old-"


@dataclass(frozen=True, kw_only=True)
class Found:
    """Where the results of a run's last evaluation lie."""

    scores: Path
    """`scores.json`, which need not be there."""
    predictions: Path
    """The folder of saved clips, which need not be there."""


def find_scores(run: Path) -> Found:
    """The last evaluation's results, also while they are exchanged or after that was killed."""
    new = run / _NEW
    if _holds_scores(new):
        inside = new / PREDICTIONS_FOLDER
        return Found(scores=new / SCORES_FILE, predictions=inside if inside.is_dir() else run / PREDICTIONS_FOLDER)
    predictions, kept = run / PREDICTIONS_FOLDER, run / _KEPT
    only_aside = os.path.lexists(kept) and not os.path.lexists(predictions)
    return Found(scores=run / SCORES_FILE, predictions=kept if only_aside else predictions)


def stamp(run: Path) -> tuple[object, ...]:
    """What changes with every new evaluation of `run`: a reader between two equal stamps has read one of them."""
    marks: list[object] = []
    for path in (found := find_scores(run)).scores, found.predictions:
        try:
            facts = path.stat()
            marks.append((path, facts.st_dev, facts.st_ino, facts.st_ctime_ns))
        except OSError:
            marks.append((path, None))
    return tuple(marks)


@contextmanager
def one_evaluation(run: Path) -> Generator[None, None, None]:
    """Keep other evaluations out of `run` until the body ends; training goes on.

    `UsageError` if another one is at work, or if what it would exchange cannot be exchanged: said before the work.
    """
    taken = f"{run}: another `evaluate` ({{pid}}) is at work here; let it end"
    with ExitStack() as stack:
        try:
            held = stack.enter_context(locked(run / EVALUATION_LOCK, taken=taken))
        except OSError as error:
            raise UsageError(f"{run}: cannot be written ({error.strerror}); evaluate a copy of your own") from error
        if held:
            for left in listed(run, ".scores-*.partial"):
                shutil.rmtree(left, ignore_errors=True)
        _finish(run)
        _require_exchangeable(run)
        yield


def new_partial(run: Path) -> Path:
    """Where an evaluation may put what it has so far; `put_scores` makes it the run's."""
    return run / f".scores-{secrets.token_hex(4)}.partial"


def put_scores(run: Path, partial: Path) -> None:
    """Make `scores.json` and `predictions/` in `partial`, both whole, the run's; the old ones are removed."""
    _finish(run)
    partial.rename(run / _NEW)
    try:
        _finish(run)
    except OSError as error:
        raise InputError(
            f"{error.filename or run}: cannot be exchanged ({error.strerror}); the new scores and predictions are kept "
            f"in {run / _NEW}, where `report` finds them; the next `evaluate` tries again"
        ) from error


def _finish(run: Path) -> None:
    """Bring what lies in `.scores.new` to its places, and remove what is not needed any more."""
    new, predictions = run / _NEW, run / PREDICTIONS_FOLDER
    if new.is_symlink():
        new.unlink()
    if _holds_scores(new):
        if (new / PREDICTIONS_FOLDER).is_dir():
            _aside(run)
            write_whole(run / SCORES_FILE, (new / SCORES_FILE).read_bytes())
            (new / PREDICTIONS_FOLDER).rename(predictions)
        (new / SCORES_FILE).unlink()
    if new.is_dir():
        shutil.rmtree(new, ignore_errors=True)
    if os.path.lexists(run / _KEPT) and not os.path.lexists(predictions):
        (run / _KEPT).rename(predictions)
    for old in _put_aside(run):
        _remove(old, predictions)


def _holds_scores(new: Path) -> bool:
    """Whether `.scores.new` counts. A link does not: through it, another run would lose its scores."""
    return not new.is_symlink() and (new / SCORES_FILE).is_file()


def _require_exchangeable(run: Path) -> None:
    """Raise `UsageError` if the old predictions cannot be moved away, as another's in a shared folder cannot."""
    if (run / SCORES_FILE).is_dir():
        raise UsageError(f"{run / SCORES_FILE}: is a folder, where the scores belong; move it elsewhere")
    predictions = run / PREDICTIONS_FOLDER
    if not os.path.lexists(predictions):
        return
    try:
        predictions.rename(run / _KEPT)
        (run / _KEPT).rename(predictions)
    except OSError as error:
        raise UsageError(
            f"{predictions}: cannot be replaced ({error.strerror}), so the scores there stay; move it elsewhere, or "
            "evaluate a copy of the run"
        ) from error


def _aside(run: Path) -> None:
    """Rename `predictions`, if it is there, to the next free name beside it."""
    predictions = run / PREDICTIONS_FOLDER
    if os.path.lexists(predictions):
        numbers = [int(path.name.removeprefix(_OLD)) for path in _put_aside(run)]
        predictions.rename(run / f"{_OLD}{max(numbers, default=0) + 1}")


def _put_aside(run: Path) -> list[Path]:
    """What was put aside and is not removed yet."""
    return [path for path in listed(run, f"{_OLD}*") if path.name.removeprefix(_OLD).isdecimal()]


def _remove(old: Path, predictions: Path) -> None:
    """Remove old predictions; where that cannot be done, or they lie elsewhere, say so."""
    if old.is_symlink():
        target = old.readlink()
        old.unlink()
        print(
            f"foreframe: {predictions}: was a link to {target}; it is a folder now, and what the link led to stays",
            file=sys.stderr,
        )
        return
    try:
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    except OSError as error:
        print(f"foreframe: {old}: old predictions cannot be removed ({error.strerror}); remove them", file=sys.stderr)
