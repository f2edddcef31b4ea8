"""What the command line says: streams that outlive their readers, one line for a fault, a bar while work goes on."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from typing import TYPE_CHECKING

from foreframe.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from _typeshed import ReadableBuffer

MOST = 400
"""Characters of the longest line for a fault, paths included."""


class _Sink(io.FileIO):
    """A standard stream's file, which stays open; after its first failure what is written is dropped.

    A reader that has gone never stops the work: whoever asked for the first line alone still gets the whole folder
    written. Any other failure of standard output, as a full disk's, is raised once.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)
        self.failure: OSError | None = None

    def write(self, b: ReadableBuffer, /) -> int:
        """Bytes taken: all of them where they can only be dropped."""
        if self.failure is None:
            try:
                return super().write(b)
            except OSError as error:
                self.failure = error
                if self.fileno() == 1 and not isinstance(error, BrokenPipeError):
                    raise
        return memoryview(b).nbytes


def prepare_streams() -> None:
    """Let standard output and error take every character, and outlive their readers; open what was closed.

    A descriptor that is closed at the start would be given to the first file that is opened, and whatever prints would
    write into that. Streams that are not the system's own, as a test's, only learn to replace characters.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken: those below are open by now.
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
    sys.stdout = _prepared(sys.stdout, number=1, errors="replace")
    sys.stderr = _prepared(sys.stderr, number=2, errors="backslashreplace")


def _prepared(stream: object, *, number: int, errors: str) -> io.TextIOWrapper:
    if not isinstance(stream, io.TextIOWrapper):
        if stream is not None:  # somebody's own
            return stream  # pyright: ignore[reportReturnType]
        return io.TextIOWrapper(io.BufferedWriter(_Sink(number)), encoding="utf-8", errors=errors)
    raw = getattr(stream.buffer, "raw", stream.buffer)  # PYTHONUNBUFFERED leaves out what buffers
    if type(raw) is not io.FileIO or raw.fileno() != number:
        stream.reconfigure(errors=errors)
        return stream
    stream.flush()
    buffer, by_line = io.BufferedWriter(_Sink(number)), stream.line_buffering or stream.write_through
    return io.TextIOWrapper(buffer, encoding=stream.encoding, errors=errors, line_buffering=by_line)


def finish_streams(status: int) -> int:
    """Write what is still held back and return the exit status: the work's, or what the output's failure makes of it.

    A reader that has gone leaves success a success; of what it did not read, 141 says as much as a shell would.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        complain_output(error)
        status = status or 1
    failure = _failure(sys.stdout)
    if isinstance(failure, BrokenPipeError):
        status = 141 if status else 0
    elif failure is not None:
        status = status or 1
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    return status


def _failure(stream: io.TextIOBase | object) -> OSError | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Sink) else None


def is_output_failure(error: OSError) -> bool:
    """Whether this is standard output's own failure, not that of a file."""
    return error is _failure(sys.stdout)


def complain_output(error: OSError) -> None:
    """Say that standard output took no more."""
    complain(f"standard output: {error.strerror or error}")


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


def printable(text: str) -> str:
    """Text for a terminal: what moves its cursor or changes its colours, as names of strangers' files may, is shown."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def complain(message: object) -> None:
    """One line on standard error."""
    line = printable(" ".join(str(message).split()))
    if len(line) > MOST:
        line = f"{line[: MOST // 2 - 3]} ... {line[-MOST // 2 + 2 :]}"
    with contextlib.suppress(OSError):
        print(f"foreframe: {line}", file=sys.stderr)


def require_place(out: Path) -> None:
    """Raise `UsageError` unless a file can be written at `out`, in a folder that is there: asked before any work."""
    if out.exists() and not out.is_file():
        what = "a folder" if out.is_dir() else "a device or a pipe"
        raise UsageError(f"{out}: is {what}; name a file with --out")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"{out}: cannot be written ({reason}); name a file in a writable folder with --out") from error
