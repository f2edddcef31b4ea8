"""A folder's manifest: size and SHA-256 of every file, written last, and compared before anything in it is used."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from foreframe.errors import InputError
from foreframe.files import listed, read_typed, require_regular, sha256_file

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST_FILE = "manifest.json"
MANIFEST_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """What a manifest says of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`."""

    version: int
    files: dict[str, Entry]


def seal(folder: Path) -> None:
    """Flush every file to disk and write the manifest, last."""
    files: dict[str, Entry] = {}
    for path in _visible(folder):
        sync(path)
        files[path.name] = Entry(size=path.stat().st_size, sha256=sha256_file(path))
    manifest = folder / MANIFEST_FILE
    content = asdict(Manifest(version=MANIFEST_VERSION, files=files))
    manifest.write_text(json.dumps(content, indent=1) + "\n")
    sync(manifest)
    sync(folder)


def verify(folder: Path, *, advice: str = "take an undamaged copy of that folder") -> Manifest:
    """The manifest; `InputError` with `advice` unless every file that it names is there with its size and hash.

    Every byte of the folder is read once. Hidden files, as file managers leave them, are no part of it.
    """
    manifest = read_typed(folder / MANIFEST_FILE, Manifest, advice=advice)
    there = {path.name for path in _visible(folder)} - {MANIFEST_FILE}
    if odd := sorted(there ^ manifest.files.keys()):
        raise InputError(f"{folder / odd[0]}: is missing, or not in the checkpoint's manifest; {advice}")
    for name, entry in manifest.files.items():
        path = folder / name
        if require_regular(path).st_size != entry.size or sha256_file(path) != entry.sha256:
            raise InputError(f"{path}: is not what the manifest says (damaged or changed); {advice}")
    return manifest


def _visible(folder: Path) -> list[Path]:
    return [path for path in listed(folder) if not path.name.startswith(".")]


def sync(path: Path) -> None:
    """Wait until a file, or the list of a folder's files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
