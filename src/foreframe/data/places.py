"""Which of a dataset's files lie where in a folder, by their names alone: raw or tokens, flat or in sub-folders.

Whatever cannot be listed is an error: a folder without permission is not an empty one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foreframe.data import hints
from foreframe.errors import InputError, UsageError
from foreframe.files import listed

if TYPE_CHECKING:
    from foreframe.data.layout import Contents, Kind, Style

SUFFIXES: dict[Kind, str] = {"raw": "mp4", "tokens": "bin"}
"""Endings of the video or token files."""
STATES_FOLDERS = ("robot_states", "states")
SEGMENTS_FOLDERS = ("segment_indices", "segment_idx")
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_OTHER_CONTAINERS = (".avi", ".mkv", ".mov", ".webm", ".m4v")
FETCH_AGAIN = "fetch the file again, or write the data set again"
"""What to do about a broken file."""


def require_there(root: Path) -> None:
    """`UsageError` unless there is a folder of that name."""
    try:
        root.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{root}: does not exist; name a dataset folder") from error
    except OSError as error:
        raise UsageError(f"{root}: cannot be looked at ({error.strerror}); mend its permissions") from error
    if not root.is_dir():
        raise UsageError(f"{root}: is a file; name the dataset folder that holds metadata.json")


def require_folder(root: Path) -> list[Path]:
    """What lies in the folder that was named; `UsageError` if there is none, or none that may be looked into."""
    require_there(root)
    try:
        return visible(root)
    except InputError as error:
        raise UsageError(str(error)) from error


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, empty if there is no such folder; `InputError` where that cannot be said.

    Hidden files are left out: macOS and editors put them beside whatever they see (`._video_0.mp4`, `.DS_Store`).
    """
    try:
        return [path for path in listed(folder) if not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: cannot be looked into ({error.strerror}); mend its permissions") from error


def is_there(path: Path) -> bool:
    """Whether anything lies there, be it a lost link; `InputError` where that cannot be said."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(f"{path}: cannot be looked at ({error.strerror}); mend its permissions") from error
    return True


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the files of a dataset folder lie, and which there are."""

    states: str
    """Name of the folder of states; "" in a flat folder."""
    segments: str
    contents: Contents
    names: dict[hints.Role, list[str]]
    """Names of the files in each role's folder."""

    @classmethod
    def find(cls, root: Path, style: Style) -> Places:
        """Look into the folder, or into its sub-folders; `InputError` if one is missing or there twice."""
        if style == "flat":
            names = [path.name for path in visible(root)]
            contents: Contents = "recordings" if hints.numbered(names, "segments") else "samples"
            roles = dict.fromkeys(hints.FILE_NAMES, names)
            return cls(states="", segments="", contents=contents, names=roles)
        states = _existing_folder(root, STATES_FOLDERS)
        found = [name for name in SEGMENTS_FOLDERS if (root / name).is_dir()]
        recordings = any(path.name.startswith("segment_idx_") for name in found for path in visible(root / name))
        segments = (
            _existing_folder(root, SEGMENTS_FOLDERS) if recordings else (found[0] if found else SEGMENTS_FOLDERS[0])
        )
        places: dict[hints.Role, str] = {
            "metadata": "metadata",
            "video": "videos",
            "states": states,
            "segments": segments,
        }
        return cls(
            states=states,
            segments=segments,
            contents="recordings" if recordings else "samples",
            names={role: [path.name for path in visible(root / name)] for role, name in places.items()},
        )

    def present(self) -> dict[int, str]:
        """Numbers of the shards of which there is any file, each with the name of one."""
        roles: tuple[hints.Role, ...] = ("metadata", "segments", "states", "video")
        return {number: name for role in roles for number, name in hints.numbered(self.names[role], role).items()}


def other_form(root: Path) -> str | None:
    """What a folder without `metadata.json` is instead, and what to do; None where nothing in it tells."""
    inside = visible(root)
    if is_there(root / "meta" / "info.json"):
        return "is a LeRobot data set, which cannot be read yet; write it in 1X's v2.0 layout"
    if meant := next((path.name for path in inside if path.name.lower() == "metadata.json"), None):
        return f"has no metadata.json, but {meant}; rename it"
    if packed := next((path.name for path in inside if path.suffix.lower() in _ARCHIVES), None):
        return f"has no metadata.json, but {packed}; unpack it there"
    return None


def without_split(root: Path | str | None, said: str) -> str:
    """What is said of a place that lacks the split that is wanted: its other form, or else `said`."""
    return f"{root}: {(other_form(root) if isinstance(root, Path) else None) or said}"


def not_a_dataset(root: Path) -> str:
    """What is said of a folder without `metadata.json`."""
    inside = visible(root)
    if not inside:
        return f"{root}: is an empty folder, with no metadata.json; name a dataset folder in 1X's v2.0 layout"
    folders = [path.name for path in inside if path.is_dir() and path / "metadata.json" in visible(path)]
    if folders:
        return f"{root}: has no metadata.json, but folders in it have: {', '.join(folders[:5])}; name one of them"
    if said := other_form(root):
        return f"{root}: {said}"
    return f"{root}: has no metadata.json; name a dataset folder in 1X's v2.0 layout, or fetch that file"


def is_dataset(path: Path) -> bool:
    """Whether a folder is a dataset, rather than holding some or none."""
    return path / "metadata.json" in visible(path) or is_undescribed_test(path)


def is_undescribed_test(root: Path) -> bool:
    """Videos and states without `metadata.json` and segments: all that is known of 1X's test splits."""
    names = [path.name for path in visible(root)]
    if "metadata.json" in names or any(name.startswith("segment_") for name in names):
        return False
    places = [root, *(root / name for name in STATES_FOLDERS)]
    states = any(path.match("states_*.bin") for place in places for path in visible(place))
    return states and any(holds(root, kind) for kind in SUFFIXES)


def _videos(root: Path, kind: Kind, style: Style) -> list[Path]:
    folder = root / "videos" if style == "subfolders" else root
    return [path for path in visible(folder) if path.match(f"video_*.{SUFFIXES[kind]}")]


def holds(path: Path, kind: Kind) -> bool:
    """Whether a folder holds videos, or token files."""
    return bool(_videos(path, kind, "flat") or _videos(path, kind, "subfolders"))


def kind_and_style(root: Path) -> tuple[Kind, Style]:
    """What a dataset folder holds, and how; `InputError` if it holds no videos, or both kinds."""
    found: list[tuple[Kind, Style]] = []
    styles: tuple[Style, ...] = ("subfolders", "flat")
    for style in styles:
        for kind in SUFFIXES:
            if _videos(root, kind, style):
                found.append((kind, style))
    if len(found) > 1:
        what = ", ".join(f"{kind} in {style}" for kind, style in found)
        raise InputError(f"{root}: holds videos in more than one way ({what}); keep one data set to a folder")
    if not found:
        raise InputError(_no_videos(root))
    return found[0]


def _no_videos(root: Path) -> str:
    """What is said where no file has a video's name; it may have another, or lie in another folder."""
    said = f"{root}: holds no video_0.mp4 or video_0.bin, nor does videos/ in it"
    inside = visible(root)
    folders = [path for path in inside if path.is_dir() and path.name not in (*STATES_FOLDERS, *SEGMENTS_FOLDERS)]
    for path in [*inside, *(path for folder in folders for path in visible(folder))]:
        if path.suffix.lower() in _OTHER_CONTAINERS:
            return f"{said}, but {path.relative_to(root)}; write it as mp4"
        meant = hints.rename_hint(path.name, "video")
        if meant is not None and hints.role_by_name(path.name) in (None, "video"):
            place = meant if path.parent == root else f"videos/{meant}"
            return f"{said}, but {path.relative_to(root)}; if that is {place}, rename it, and other shards' alike"
    return f"{said}; fetch the videos"


def _existing_folder(root: Path, names: tuple[str, ...]) -> str:
    found = [name for name in names if (root / name).is_dir()]
    if not found:
        start = names[-1].partition("_")[0]  # states_0.bin, segment_idx_0.bin
        folders = [path for path in visible(root) if path.is_dir()]
        other = next((path for path in folders if any(one.name.startswith(start) for one in visible(path))), None)
        advice = FETCH_AGAIN if other is None else f"but {other.name}/ holds such files: rename it to {names[0]}"
        raise InputError(f"{root / names[0]}: is missing (nor is there {names[1]}/); {advice}")
    if len(found) > 1:
        raise InputError(f"{root}: holds both {names[0]}/ and {names[1]}/; keep the one that belongs to the videos")
    return found[0]
