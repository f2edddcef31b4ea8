"""Resolve the dependencies for every Python that is promised, with and without constraints.txt; nothing is installed.

    make resolve

`requires-python` in pyproject.toml says which Pythons. uv evaluates markers for the Python asked for (pip: for the one
that runs it), reads the index's metadata alone and takes wheels only: a package that would have to be compiled counts
as missing. What is installed beside this script must be what constraints.txt pins.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT, CONSTRAINTS = ROOT / "pyproject.toml", ROOT / "constraints.txt"
_SHOWN = ("torch", "numpy", "diffusers", "transformers")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One question to the resolver."""

    python: str
    """Version, as in 3.10."""
    options: tuple[str, ...]
    """What of pyproject.toml is wanted, and which versions."""
    title: str
    """The same in words."""


def promised_pythons() -> list[str]:
    """The versions that `requires-python` admits, oldest first."""
    admitted = SpecifierSet(tomllib.loads(PROJECT.read_text())["project"]["requires-python"])
    return [f"3.{minor}" for minor in range(100) if f"3.{minor}" in admitted]


def cases() -> list[Case]:
    """Core and all extras, newest and as constrained, for every Python; and every lower bound, for the oldest."""
    pythons = promised_pythons()
    found = [
        Case(python=python, options=(*extras, *limits), title=f"{what}, {how}")
        for python in pythons
        for what, extras in (("core", ()), ("all extras", ("--all-extras",)))
        for how, limits in (("newest", ()), ("constraints.txt", ("--constraint", str(CONSTRAINTS))))
    ]
    lowest = ("--extra", "sim", "--extra", "wan", "--resolution", "lowest-direct")
    return [*found, Case(python=pythons[0], options=lowest, title="core, sim and wan, lower bounds")]


def resolve(case: Case) -> tuple[bool, str]:
    """Whether there is a set of versions, and the line or the resolver's own words that say so."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--no-config", "--quiet", "--no-header", "--no-annotate"]
    command += ["--only-binary", ":all:", "--python-version", case.python, *case.options, str(PROJECT)]
    # Asked for another Python, uv would fetch one.
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    title = f"Python {case.python:4}  {case.title}"
    if done.returncode:
        return False, f"{title}: cannot be resolved\n{done.stderr.strip()}"
    found = dict(line.split(" ")[0].split("==") for line in done.stdout.splitlines() if "==" in line)
    shown = ", ".join(f"{name} {found[name]}" for name in _SHOWN if name in found)
    return True, f"{title}: {len(found)} packages ({shown})"


def unlike_constraints() -> list[str]:
    """Installed packages that are not what constraints.txt pins for this Python, one line each."""
    lines = (line.split("#")[0].strip() for line in CONSTRAINTS.read_text().splitlines())
    wrong: list[str] = []
    for pin in (Requirement(line) for line in lines if line):
        if pin.marker is not None and not pin.marker.evaluate():
            continue
        try:
            installed = version(pin.name)
        except PackageNotFoundError:
            continue  # an extra's
        if not pin.specifier.contains(installed, prereleases=True):
            wrong.append(f"{pin.name} {installed} is installed here, constraints.txt has {pin.specifier}")
    return wrong


def main() -> int:
    """Print a line for each case; 1 if one cannot be resolved or the packages here are not those pinned."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        answers = list(pool.map(resolve, cases()))
    wrong = unlike_constraints()
    for _, line in answers:
        print(line)
    for line in wrong:
        print(line)
    failed = sum(not good for good, _ in answers)
    if failed:
        print(
            f"{failed} of {len(answers)} cannot be resolved: change pyproject.toml's bounds or constraints.txt's pins"
        )
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
