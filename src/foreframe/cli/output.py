"""What the command line says on standard error: one line for a fault, a bar while work goes on."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@contextlib.contextmanager
def progress_bar(label: str, unit: str) -> Generator[Callable[[int, int], None], None, None]:
    """A bar on standard error; called with what is done and what there is in all."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} " + unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=2)
    task = bar.add_task(label, total=None)

    def show(done: int, total: int) -> None:
        # Shown only once there is progress, so that a fault found before it is told in one line.
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()


def complain(message: object) -> None:
    """One line on standard error."""
    print(f"foreframe: {' '.join(str(message).split())}", file=sys.stderr)
