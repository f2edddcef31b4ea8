"""The house stands as drawn: imports point down or left, data and models never meet, packages stay in their rooms."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import foreframe
from foreframe.cli import COMMANDS

ROOT = Path(foreframe.__file__).parent

FLOORS: list[list[str]] = [
    ["errors", "files", "manifest", "permissions", "scores", "states", "batch", "flow_config", "flow", "metrics"],
    ["data", "models"],
    ["inference", "sim", "baselines", "encode", "tracks"],
    ["train", "evaluate", "tables", "report"],
    ["config", "recipes", "plan", "runs", "demo", "cli"],
]
"""Rooms from the ground up. A room may import from lower floors, and on its own floor from rooms to its left."""
SEALED = {"data", "models"}
"""Rooms of floor 1 that never import each other."""
ONLY_IN = {
    "accelerate": {"train", "evaluate"},
    "av": {"data"},
    "diffusers": {"models"},
    "jinja2": {"report"},
    "mujoco": {"sim"},
    "peft": {"models"},
    "transformers": {"models"},
    "tyro": {"cli"},
}
"""Packages and the rooms that may import them."""


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere, also inside functions and for type checking."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            found.add(node.module)
            if node.module == "foreframe":
                found |= {f"foreframe.{alias.name}" for alias in node.names}
    return found


def room_of(module: str) -> str:
    return module.split(".")[1]


def sources() -> list[tuple[str, Path]]:
    files = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]
    return [(path.relative_to(ROOT).parts[0].removesuffix(".py"), path) for path in files]


def test_every_room_has_a_floor() -> None:
    assert {room for room, _ in sources()} == {room for floor in FLOORS for room in floor}


def test_imports_point_down_or_left() -> None:
    place = {room: (level, column) for level, floor in enumerate(FLOORS) for column, room in enumerate(floor)}
    for room, path in sources():
        for module in imports(path):
            if not module.startswith("foreframe."):
                continue
            other = room_of(module)
            if other not in place or other == room:
                continue
            assert place[other] < place[room], f"{path.relative_to(ROOT)} imports {module}, which is not below it"
            assert not {room, other} <= SEALED, f"{path.relative_to(ROOT)} imports {module}: sealed from each other"


def test_packages_stay_in_their_rooms() -> None:
    for room, path in sources():
        for module in imports(path):
            package = module.split(".")[0]
            allowed = ONLY_IN.get(package)
            assert allowed is None or room in allowed, f"{path.relative_to(ROOT)} imports {package}"


def test_nothing_is_unpickled() -> None:
    for _, path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"torch.load", "eval", "exec", "pickle.load", "pickle.loads"}, f"{path}: {called}"
                for keyword in node.keywords:
                    assert keyword.arg not in {"allow_pickle", "trust_remote_code"} or not getattr(
                        keyword.value, "value", True
                    ), f"{path}: {keyword.arg}"


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import sys, foreframe.cli as c; c.run(['--help']);"
        "print([m for m in ('torch', 'av', 'mujoco') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_readme_names_every_file_and_command() -> None:
    readme = (ROOT.parents[1] / "README.md").read_text()
    for _, path in sources():
        if path.name != "__init__.py":
            assert f" {path.relative_to(ROOT).as_posix()} " in readme, f"README's tree lacks {path.relative_to(ROOT)}"
    for command in COMMANDS:
        assert f"foreframe {command}" in readme, f"README lacks the command {command}"


def test_the_page_on_reliability_names_tests_that_exist() -> None:
    """A line about a fault stays true only as long as its test is there."""
    root = Path(__file__).parent
    named = re.findall(r"`(test_\w+)::(\w+)`", (root.parent / "docs" / "reliability.md").read_text())
    assert len(named) > 60
    for file, test in named:
        assert re.search(rf"^\s*(def|class) {test}\b", (root / f"{file}.py").read_text(), re.MULTILINE), (file, test)
