"""A folder's manifest: size and SHA-256 of every file, written last, and compared before anything in it is used.

A checkpoint's also names its step and its run, so that one that was renamed or put into another run's folder is told
apart: `RUN/checkpoints/step_00001000/manifest.json` has step 1000 and what `RUN/config.json` says under `run`.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from foreframe.errors import InputError
from foreframe.files import listed, naming, read_json, require_regular, sha256_file, shortened, typed, write_whole

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST_FILE = "manifest.json"
MANIFEST_VERSION = 2
RUN_CONFIG = "config.json"
"""Of a run, beside its `checkpoints/`; `run` in it names the run (`config.run_name`)."""
_STEP = re.compile(r"step_([0-9]{8})")


@dataclass(frozen=True)
class Entry:
    """What a manifest says of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`."""

    version: int
    step: int | None
    """Of a checkpoint: optimiser steps done."""
    run: str | None
    """Of a checkpoint: name of its run."""
    files: dict[str, Entry]


def seal(folder: Path, *, step: int | None = None) -> None:
    """Flush every file to disk and write the manifest, last.

    The run is that in whose `checkpoints/` the folder stands; the step is in the folder's name, unless given.
    """
    files: dict[str, Entry] = {}
    for path in _visible(folder):
        if path.name != MANIFEST_FILE:
            with naming(path):
                sync(path)
            files[path.name] = Entry(size=path.stat().st_size, sha256=sha256_file(path))
    step = _step_named(folder) if step is None else step
    config = _run_config(folder)
    run = None if config is None else _run_named(config)
    content = asdict(Manifest(version=MANIFEST_VERSION, step=step, run=run, files=files))
    manifest = folder / MANIFEST_FILE
    write_whole(manifest, (json.dumps(content, indent=1) + "\n").encode())
    with naming(manifest):
        sync(manifest)
        sync(folder)


def verify(folder: Path, *, advice: str = "take an undamaged copy of that folder") -> Manifest:
    """The manifest; `InputError` with `advice` unless every file that it names is there with its size and hash.

    A checkpoint must also be where its manifest says: in its own run, under the name of its step. Every byte of the
    folder is read once. Hidden files, as file managers leave them, are no part of it.
    """
    manifest = _read_manifest(folder, advice=advice)
    _check_place(folder, manifest)
    there = {path.name for path in _visible(folder)} - {MANIFEST_FILE}
    if lost := sorted(manifest.files.keys() - there):
        raise InputError(f"{folder / lost[0]}: is missing, and the manifest names it; {advice}")
    if odd := sorted(there - manifest.files.keys()):
        raise InputError(f"{folder / odd[0]}: is not in the manifest beside it; move that file out of the folder")
    for name, entry in manifest.files.items():
        path = folder / name
        if require_regular(path).st_size != entry.size or sha256_file(path) != entry.sha256:
            raise InputError(f"{path}: is not what the manifest says (damaged or changed); {advice}")
    return manifest


def _read_manifest(folder: Path, *, advice: str) -> Manifest:
    path = folder / MANIFEST_FILE
    if not path.exists():
        raise InputError(f"{path}: is missing, so nothing says what belongs to it; {advice}")
    content = read_json(path, advice=advice)
    version = content.get("version")
    if version == 1:
        raise InputError(
            f"{path}: version 1, which names no run; seal it anew with scripts/reseal.py of the source, or train anew"
        )
    if version != MANIFEST_VERSION:
        shown = shortened(repr(version), 60)
        raise InputError(f"{path}: manifest version {shown}, this build reads {MANIFEST_VERSION}; {advice}")
    return typed(content, Manifest, where=str(path), advice=advice)


def _check_place(folder: Path, manifest: Manifest) -> None:
    """A checkpoint's name and run, where it has them, are those it was sealed with."""
    named, config = _step_named(folder), _run_config(folder)
    if named is not None and named != manifest.step:
        own = "no step" if manifest.step is None else f"step {manifest.step}"
        raise InputError(f"{folder}: is sealed as {own}, so it was renamed or copied; give it its own name back")
    if config is not None and _run_named(config) != manifest.run:
        raise InputError(
            f"{folder}: is a checkpoint of another run than {config} names; put it back where it came from, and this "
            "run's own here"
        )


def _step_named(folder: Path) -> int | None:
    match = _STEP.fullmatch(folder.name)
    return None if match is None else int(match[1])


def _run_config(folder: Path) -> Path | None:
    """`config.json` of the run in whose `checkpoints/` a folder stands, if it stands in one."""
    checkpoints = folder.absolute().parent
    config = checkpoints.parent / RUN_CONFIG
    return config if checkpoints.name == "checkpoints" and config.exists() else None


def _run_named(config: Path) -> str | None:
    name = read_json(config).get("run")
    return name if isinstance(name, str) else None


def _visible(folder: Path) -> list[Path]:
    return [path for path in listed(folder) if not path.name.startswith(".")]


def sync(path: Path) -> None:
    """Wait until a file, or the list of a folder's files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
