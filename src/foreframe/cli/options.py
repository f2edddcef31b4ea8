"""Options from the command line and the environment; whatever is wrong with them becomes one line."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from foreframe.errors import UsageError
from foreframe.permissions import Permissions

T = TypeVar("T")

GivenPermissions = Annotated[Permissions, tyro.conf.arg(name=""), tyro.conf.UseAppendAction]
"""Options `--download` and `--trust-sha256` of every command that may fetch, or run a program."""


def _run_path(text: str) -> Path:
    """A run's folder as it was named. `./NAME` is not the shipped run NAME, though `Path` forgets the dot."""
    path = Path(text)
    return path.absolute() if len(path.parts) == 1 and text != path.name else path


RunPath = Annotated[
    Path,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda texts: _run_path(texts[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    ),
]


def require_utf8(out: Path) -> None:
    """Raise `UsageError` for a folder in which weights could be written and not be read again."""
    try:
        str(out).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(out).decode(errors="replace")
        raise UsageError(f"{shown}: is not UTF-8, which weights' files need; name another folder with --out") from error


def recipe_named(name: str) -> Any:
    """A complete `RunConfig` by its name."""
    from foreframe.recipes import RECIPES

    if name not in RECIPES:
        raise UsageError(f"{name}: no such recipe; there are: {', '.join(RECIPES)}")
    return RECIPES[name]()


def parse(options: type[T] | Any, arguments: list[str], *, prog: str, default: Any = None) -> T:
    """Options from the command line; whatever tyro has to say against them becomes one line."""
    keywords = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(options, prog=prog, args=arguments, **keywords)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(f"{_one_line(said.getvalue())}; {prog} --help lists the options") from None
    except ValueError as error:  # of the outermost settings, which tyro lets through
        raise UsageError(f"{error}; {prog} --help lists the options") from error


def _one_line(box: str) -> str:
    """The message inside tyro's framed error, without the frame, the title and what follows it after a rule."""
    words: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip("│╭╮╰╯| ")
        is_rule = set(text) <= {"─", "-"}
        if is_rule and words:
            break
        words += [] if is_rule else text.split()
    return " ".join(words).replace("Error parsing config.", "").removeprefix("Error parsing ").rstrip(".")


def from_environment(name: str, default: int) -> int:
    """A whole number that `torchrun` sets."""
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise UsageError(f"{name} is {value!r} in the environment, not a whole number; start it with torchrun")
    return int(value)
