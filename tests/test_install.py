"""The promise to install: what is imported is declared, and every promised Python has its own pins."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import foreframe

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SOURCE = Path(foreframe.__file__).parent
ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

PACKAGES = {"PIL": "pillow", "OpenGL": "pyopengl"}
"""Modules whose package has another name."""
_OURS_OR_PYTHONS = {"foreframe", "_typeshed", *sys.stdlib_module_names}
PROMISED = ("3.10", "3.11", "3.12", "3.13", "3.14")


def resolver() -> Any:
    spec = importlib.util.spec_from_file_location("resolve", ROOT / "scripts" / "resolve.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["resolve"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def third_party_imports(root: Path) -> Iterator[tuple[str, Path]]:
    """Packages by their names on the index: imported anywhere, in functions, for type checking or by name."""
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            for name in {name.split(".")[0] for name in names} - _OURS_OR_PYTHONS:
                yield canonicalize_name(PACKAGES.get(name, name)), path


def declared(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines} - {"foreframe"}


def pins(python: str) -> dict[str, list[str]]:
    """Pinned versions by package, of the lines of constraints.txt that hold for that Python."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                found.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier))
    return found


def test_every_import_is_declared() -> None:
    everywhere = declared(PROJECT["dependencies"])
    extras = declared(EXTRAS["sim"] + EXTRAS["wan"])
    imported = list(third_party_imports(SOURCE))
    for package, path in imported:
        assert package in everywhere | extras, f"{path.relative_to(SOURCE)} imports {package}, which no one installs"
    unused = (everywhere | extras) - {package for package, _ in imported}
    assert not unused, f"declared and never imported: {unused}"


def test_extras_are_not_needed_to_import_anything_else() -> None:
    extras = declared(EXTRAS["sim"] + EXTRAS["wan"])
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                for name in names:
                    package = canonicalize_name(PACKAGES.get(name.split(".")[0], name.split(".")[0]))
                    assert package not in extras, f"{path.relative_to(SOURCE)} needs the extra {package}"


@pytest.mark.parametrize("python", PROMISED)
def test_every_dependency_is_pinned_once_for_every_python(python) -> None:
    found = pins(python)
    direct = declared(PROJECT["dependencies"] + EXTRAS["sim"] + EXTRAS["wan"] + EXTRAS["dev"])
    for package in sorted(direct):
        assert len(found.get(package, [])) == 1, f"{package} has the pins {found.get(package)} for Python {python}"
        assert re.fullmatch(r"==[\d.]+", found[package][0])
    assert set(found) == direct  # and nothing is pinned that nobody declares


@pytest.mark.parametrize("python", PROMISED)
def test_pins_lie_within_the_bounds(python) -> None:
    for line in PROJECT["dependencies"] + EXTRAS["sim"] + EXTRAS["wan"]:
        wanted = Requirement(line)
        (pin,) = pins(python)[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(pin.removeprefix("==")), f"{wanted} excludes {pin} for Python {python}"
        assert [s for s in wanted.specifier if s.operator == ">="], f"{wanted.name} has no lower bound"


def test_the_promise_is_the_same_everywhere() -> None:
    assert tuple(resolver().promised_pythons()) == PROMISED
    makefile = (ROOT / "Makefile").read_text()
    assert "(3, 10) <= v <= (3, 14)" in makefile
    assert "Python 3.10-3.14" in makefile
    assert "needs Python 3.10 to 3.14" in makefile
    assert "make resolve" in (ROOT / ".ci" / "run").read_text()


def test_the_resolver_is_asked_about_every_python_with_and_without_pins() -> None:
    cases = resolver().cases()
    asked = {(case.python, "--all-extras" in case.options, "--constraint" in case.options) for case in cases}
    assert asked == set(product(PROMISED, (True, False), (True, False)))


def test_an_installed_version_unlike_its_pin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    module = resolver()
    real = module.version
    monkeypatch.setattr(module, "version", lambda name: "1.2.3+cpu" if name == "torch" else real(name))
    assert [line for line in module.unlike_constraints() if line.startswith("torch 1.2.3+cpu is installed here, ")]
    (pin,) = pins(f"3.{sys.version_info.minor}")["torch"]
    monkeypatch.setattr(module, "version", lambda name: f"{pin[2:]}+cpu" if name == "torch" else real(name))
    assert not [line for line in module.unlike_constraints() if line.startswith("torch")]


def test_what_cannot_be_resolved_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = resolver()

    def answer(command: list[str], **_: object) -> Any:
        failed = command[command.index("--python-version") + 1] == "3.10"
        return module.subprocess.CompletedProcess(command, int(failed), "numpy==2.2.6\n", "no solution found")

    monkeypatch.setattr(module.subprocess, "run", answer)
    monkeypatch.setattr(module, "unlike_constraints", list)
    assert module.main() == 1
    told = capsys.readouterr().out
    assert "Python 3.10  core, newest: cannot be resolved\nno solution found" in told
    assert "Python 3.11  core, newest: 1 packages (numpy 2.2.6)" in told
    assert told.splitlines()[-1].startswith("5 of 21 cannot be resolved")
