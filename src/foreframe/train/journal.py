"""A run's measurements: a line of JSON each in `metrics.jsonl`, and a progress bar for whoever watches."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from foreframe.files import naming, parse_json, require_regular, write_whole

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

METRICS_FILE = "metrics.jsonl"


class Journal:
    """Append to `metrics.jsonl` and show progress. A context manager; one process of a run writes it."""

    def __init__(
        self, run: Path, *, first_step: int, num_steps: int, elapsed: float, label: str, shown: TextIO | None = None
    ) -> None:
        """`first_step` and `elapsed` seconds are where a resumed run goes on: later lines are dropped first.

        Progress is shown on the error stream, unless `shown` is given.
        """
        self._path = run / METRICS_FILE
        keep_lines(self._path, up_to_step=first_step)
        # Unbuffered: what a full disk refused is not tried again while the file is closed.
        self._file = self._path.open("ab", buffering=0)
        self._started = time.monotonic() - elapsed
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("step {task.completed}/{task.total}"),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(file=shown, stderr=shown is None),
            refresh_per_second=2,
        )
        self._task = self._progress.add_task(label, total=num_steps, completed=first_step, status="")

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, over all sittings."""
        return time.monotonic() - self._started

    def write(self, step: int, split: Literal["train", "val"], values: dict[str, float]) -> None:
        """One line: after `step` optimiser steps, on `split`. Values that are not finite are written as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = {"step": step, "time": round(self.elapsed, 3), "split": split, **finite}
        left = (json.dumps(line) + "\n").encode()
        with naming(self._path):
            while left:
                left = left[self._file.write(left) :]

    def advance(self, step: int, *, status: str) -> None:
        """Show that `step` steps are done."""
        self._progress.update(self._task, completed=step, status=status)

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        # The terminal may be gone, as after a lost connection: nobody looks then, and the work goes on.
        with suppress(OSError):
            self._progress.console.print(text, highlight=False)

    def __enter__(self) -> Self:
        with suppress(OSError):
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._progress.stop()
        self._file.close()


def keep_lines(path: Path, *, up_to_step: int) -> None:
    """Drop what a killed run wrote after the checkpoint it resumes from, and a torn last line."""
    try:
        path.lstat()
    except FileNotFoundError:
        return
    require_regular(path)
    kept: list[str] = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            step = parse_json(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(step, int) and step <= up_to_step:
            kept.append(line + "\n")
    write_whole(path, "".join(kept).encode())
