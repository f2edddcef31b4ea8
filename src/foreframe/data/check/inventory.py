"""Which files of a data set a folder holds, whatever else lies in it and however it is broken."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from foreframe.data.hints import FILE_NAMES, Role, rename_hint, role_by_name
from foreframe.data.layout import FETCH_AGAIN
from foreframe.files import MAX_JSON_BYTES, NUMPY_HINT, POINTER_HINT, is_numpy, is_pointer, parse_json, shortened

if TYPE_CHECKING:
    from pathlib import Path

    from foreframe.data.check.findings import Report
    from foreframe.data.layout import Kind, Style

ROLES: tuple[Role, ...] = ("metadata", "video", "states", "segments")

_PATTERNS = FILE_NAMES
_FOLDERS: dict[Role, tuple[str, ...]] = {
    "metadata": ("metadata",),
    "video": ("videos",),
    "states": ("robot_states", "states"),
    "segments": ("segment_indices", "segment_idx"),
}
_BESIDE = re.compile(
    r"\..*|metadata\.json|encoding\.json|sim|(readme|licen[cs]e|changelog|notice|citation)\b.*|.*\.md", re.I
)
"""What may lie beside the data."""
_LARGEST_NUMBER = 1 << 63


@dataclass
class Inventory:
    """The files found, by role and number; the names are relative to `root`."""

    root: Path
    kind: Kind = "raw"
    style: Style = "subfolders"
    folders: dict[Role, str] = field(default_factory=lambda: dict[Role, str]())
    """Folder of each role, "" for the root."""
    files: dict[Role, dict[int, str]] = field(default_factory=lambda: {role: dict[int, str]() for role in ROLES})
    sizes: dict[str, int] = field(default_factory=lambda: dict[str, int]())
    """Bytes of each file that can be read."""

    @property
    def numbers(self) -> list[int]:
        """Shard numbers of which there is any file."""
        return sorted({number for files in self.files.values() for number in files})

    def expected(self, role: Role, number: int) -> str:
        """Where a shard's file should lie."""
        suffix = "mp4" if self.kind == "raw" else "bin"
        stem = {"metadata": "metadata", "video": "video", "states": "states", "segments": "segment_idx"}[role]
        name = f"{stem}_{number}.{'json' if role == 'metadata' else suffix if role == 'video' else 'bin'}"
        folder = self.folders.get(role) or (_FOLDERS[role][0] if self.style == "subfolders" else "")
        return f"{folder}/{name}" if folder else name

    def readable(self, role: Role, number: int) -> str | None:
        """The name of a file that is there, is not empty and can be read."""
        name = self.files[role].get(number)
        return name if name is not None and self.sizes.get(name, 0) > 0 else None


def holds_data(folder: Path) -> bool:
    """Whether anything in a folder has the name of a data set's file or folder."""
    names = {name for name, _ in listed(folder)}
    nested = {name for names in _FOLDERS.values() for name in names}
    if names & {"metadata.json", "encoding.json"} or any(
        p.fullmatch(name) for p in _PATTERNS.values() for name in names
    ):
        return True
    return any(
        pattern.fullmatch(name)
        for role, pattern in _PATTERNS.items()
        for sub in nested & names & set(_FOLDERS[role])
        for name, _ in listed(folder / sub)
    )


def take_inventory(root: Path, report: Report) -> Inventory:
    """List a folder and its known sub-folders, once each; report what does not belong and what cannot be read."""
    inventory = Inventory(root=root)
    top = listed(root, report, ".")
    nested: dict[str, list[tuple[str, bool]]] = {}
    for name, is_folder in top:
        if any(name in names for names in _FOLDERS.values()):
            if is_folder:
                nested[name] = listed(root / name, report, name)
            else:
                report.add("not-a-file", name, "", "is a file or a broken link where a folder should be; replace it")
    video_folders = {"": top, "videos": nested.get("videos", [])}
    found: dict[tuple[Kind, str], int] = {}
    kinds: tuple[tuple[str, Kind], ...] = (("mp4", "raw"), ("bin", "tokens"))
    for folder, entries in video_folders.items():
        for suffix, kind in kinds:
            found[kind, folder] = sum(
                1 for name, _ in entries if _PATTERNS["video"].fullmatch(name) and name.endswith(suffix)
            )
    (inventory.kind, chosen), most = max(found.items(), key=lambda item: item[1])
    flat_files = sum(1 for name, _ in top for p in _PATTERNS.values() if p.fullmatch(name))
    nested_files = sum(
        1 for entries in nested.values() for name, _ in entries for p in _PATTERNS.values() if p.fullmatch(name)
    )
    nothing_named = flat_files == nested_files and not chosen
    inventory.style = "flat" if flat_files > nested_files or (nothing_named and not nested) else "subfolders"
    if most == 0 and any(name == "encoding.json" for name, _ in top):
        inventory.kind = "tokens"
    held = [f"{count} {kind} in {folder or 'the folder itself'}" for (kind, folder), count in found.items() if count]
    if len({kind for (kind, _), count in found.items() if count}) > 1:
        report.add(
            "folder-ambiguous",
            "videos" if inventory.style == "subfolders" else ".",
            "",
            f"holds raw video and tokens ({', '.join(held)}); keep one data set to a folder",
        )
    _choose_folders(inventory, nested, report)
    _collect(inventory, top, nested, report)
    return inventory


def _choose_folders(inventory: Inventory, nested: dict[str, list[tuple[str, bool]]], report: Report) -> None:
    for role, names in _FOLDERS.items():
        if inventory.style == "flat":
            inventory.folders[role] = ""
            continue
        present = [name for name in names if name in nested]
        counts = {name: sum(1 for file, _ in nested[name] if _PATTERNS[role].fullmatch(file)) for name in present}
        inventory.folders[role] = max(present, key=lambda name: counts[name]) if present else names[0]
        if len(present) > 1:
            report.add(
                "folder-ambiguous",
                next(name for name in present if name != inventory.folders[role]),
                "",
                f"lies beside {inventory.folders[role]}/, which is for the same; keep the one made with the videos",
            )


def _collect(
    inventory: Inventory, top: list[tuple[str, bool]], nested: dict[str, list[tuple[str, bool]]], report: Report
) -> None:
    """Sort every entry into its role, or report it."""
    home: dict[str, Role] = {}
    if inventory.style == "subfolders":
        home = {folder: role for role, folder in inventory.folders.items()}
    suffix = ".mp4" if inventory.kind == "raw" else ".bin"
    for folder, entries in [("", top), *nested.items()]:
        for name, _ in entries:
            path = f"{folder}/{name}" if folder else name
            role, number = _role(name)
            if role is None:
                known = (not folder and (name in nested or any(name in names for names in _FOLDERS.values()))) or (
                    _BESIDE.fullmatch(name) and (not folder or name.startswith("."))
                )
                if known and inventory.style == "flat" and name in nested:
                    if any(_role(file)[0] for file, _ in nested[name]):
                        continue  # its files are told one by one
                    known = False
                if not known:
                    report.add("file-extra", path, "", _said_of_extra(inventory, home.get(folder), name))
            elif home.get(folder) != role if inventory.style == "subfolders" else folder:
                report.add(
                    "file-extra", path, "", f"lies in the wrong place; move it to {inventory.expected(role, number)}"
                )
            elif role == "video" and not name.endswith(suffix):
                report.add(
                    "file-extra", path, "", f"is of the other kind than the {inventory.kind} videos; move it away"
                )
            else:
                inventory.files[role][number] = path
                _measure(inventory, path, report)


def _said_of_extra(inventory: Inventory, role: Role | None, name: str) -> str:
    """What to do about a file of no known name; `role` is that of the folder it lies in, if it has one."""
    if inventory.style == "flat":
        role = role_by_name(name) or "video"
    wanted = None if role is None else rename_hint(name, role)
    if wanted is not None:
        return f"is not part of the layout by its name; if it is {wanted}, rename it, else move it elsewhere"
    return "is not part of the layout; move it elsewhere"


def _role(name: str) -> tuple[Role | None, int]:
    for role, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(name):
            return role, int(match[1])
    return None, -1


def _measure(inventory: Inventory, name: str, report: Report) -> None:
    """Note a file's size, if it can be read."""
    size = check_file(inventory.root, name, report)
    if size is not None:
        inventory.sizes[name] = size


def check_file(root: Path, name: str, report: Report, *, may_be_empty: bool = False) -> int | None:
    """A file's bytes; what is no file, is empty or cannot be read is reported."""
    path = root / name
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            report.add("not-a-file", name, "", f"is {_what(status.st_mode)}, not a file; replace it: {FETCH_AGAIN}")
            return None
        if is_pointer(path):
            report.add("git-lfs-pointer", name, "", POINTER_HINT)
            return None
        if is_numpy(path):
            report.add("not-a-file", name, "", NUMPY_HINT)
            return None
    except OSError as error:
        report.add("unreadable", name, "", f"cannot be read ({error.strerror}); mend the link or its permissions")
        return None
    if status.st_size == 0 and not may_be_empty:
        report.add("file-empty", name, "byte 0", f"is an empty file; {FETCH_AGAIN}")
    return status.st_size


def _what(mode: int) -> str:
    for test, name in ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket")):
        if test(mode):
            return name
    return "a device"


def is_beside(name: str) -> bool:
    """Whether a file or folder may lie beside the data."""
    return bool(_BESIDE.fullmatch(name))


def listed(folder: Path, report: Report | None = None, name: str = "") -> list[tuple[str, bool]]:
    """Names in a folder, sorted, each with whether it is a folder (links followed once)."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError as error:
        if report is not None:
            report.add("unreadable", name, "", f"cannot be listed ({error.strerror}); mend the link or its permissions")
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def read_json(root: Path, name: str, report: Report) -> dict[str, Any] | None:
    """A JSON object, or None and a finding."""
    path = root / name
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            report.add(
                "not-a-file", name, "", f"is {_what(path.stat().st_mode)}, not a file; replace it: {FETCH_AGAIN}"
            )
            return None
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            report.add("metadata-invalid", name, "", f"has {size} bytes where a few keys are expected; {FETCH_AGAIN}")
            return None
        if is_pointer(path):
            report.add("git-lfs-pointer", name, "", POINTER_HINT)
            return None
        twice: list[str] = []
        # A number that is none stays as its text, so that what is told of it names the key.
        content = parse_json(
            path.read_bytes().decode("utf-8"), objects=lambda pairs: _object(pairs, twice), odd_number=str
        )
    except json.JSONDecodeError as error:
        report.add("metadata-invalid", name, f"byte {error.pos}", f"is not JSON ({error.msg}); {FETCH_AGAIN}")
        return None
    except UnicodeDecodeError as error:
        report.add("metadata-invalid", name, f"byte {error.start}", f"is not UTF-8 text; {FETCH_AGAIN}")
        return None
    except ValueError as error:
        report.add("metadata-invalid", name, "", f"cannot be read as JSON ({shortened(error, 80)}); {FETCH_AGAIN}")
        return None
    except OSError as error:
        report.add("unreadable", name, "", f"cannot be read ({error.strerror}); mend the link or its permissions")
        return None
    for key in twice:
        report.add("metadata-invalid", name, key[:60], f"is given more than once; keep one, or {FETCH_AGAIN}")
    if not isinstance(content, dict):
        report.add("metadata-invalid", name, "", f"is a JSON {type(content).__name__}, not an object; {FETCH_AGAIN}")
        return None
    return cast("dict[str, Any]", content)


def _object(pairs: list[tuple[str, Any]], twice: list[str]) -> dict[str, Any]:
    """A JSON object; keys that it has more than once are added to `twice`."""
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen and key not in twice:
            twice.append(key)
        seen.add(key)
    return dict(pairs)


def whole_number(content: dict[str, Any], key: str, name: str, report: Report, *, least: int) -> int | None:
    """A whole number of at least `least`, or None and a finding."""
    value: object = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _LARGEST_NUMBER:
        said = "is missing" if key not in content else f"is {repr(value)[:60]}"
        report.add("metadata-invalid", name, key, f"{said}, expected a whole number of at least {least}; correct it")
        return None
    return value
