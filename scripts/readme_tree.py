"""Writes the tree in README.md anew, from the first line of every source file."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from test_house import FLOORS  # noqa: E402

TITLES = (
    "values and maths",
    "folders on disk; networks",
    "predicting, simulating, the challenge's tasks",
    "training, evaluation, the page",
    "what a person runs",
)


def tree() -> str:
    """A line for every file, in the order of the floors and rooms."""
    package = ROOT / "src" / "foreframe"
    lines: list[str] = []
    for number, (title, rooms) in enumerate(zip(TITLES, FLOORS, strict=True)):
        lines.append(f"floor {number}: {title}")
        for room in rooms:
            single = package / f"{room}.py"
            for path in [single] if single.exists() else sorted((package / room).rglob("*.py")):
                said = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
                if path.name != "__init__.py":
                    lines.append(f"  {path.relative_to(package).as_posix():<28} {said[0].rstrip('.')}")
    return "\n".join(lines)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    text = readme.read_text()
    readme.write_text(re.sub(r"```\nfloor 0.*?```", lambda _: f"```\n{tree()}\n```", text, flags=re.DOTALL))
