"""A run's measurements: a line of JSON each in `metrics.jsonl`, and a progress bar for whoever watches."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

METRICS_FILE = "metrics.jsonl"


class Journal:
    """Append to `metrics.jsonl` and show progress. A context manager; one process of a run writes it."""

    def __init__(self, run: Path, *, first_step: int, num_steps: int, elapsed: float, label: str) -> None:
        """`first_step` and `elapsed` seconds are where a resumed run goes on: later lines are dropped first."""
        self._path = run / METRICS_FILE
        keep_lines(self._path, up_to_step=first_step)
        self._file = self._path.open("a")
        self._started = time.monotonic() - elapsed
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("step {task.completed}/{task.total}"),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
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
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def advance(self, step: int, *, status: str) -> None:
        """Show that `step` steps are done."""
        self._progress.update(self._task, completed=step, status=status)

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        self._progress.console.print(text, highlight=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._file.close()


def keep_lines(path: Path, *, up_to_step: int) -> None:
    """Drop what a killed run wrote after the checkpoint it resumes from, and a torn last line."""
    if not path.exists():
        return
    kept: list[str] = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(step, int) and step <= up_to_step:
            kept.append(line + "\n")
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept))
    partial.replace(path)
