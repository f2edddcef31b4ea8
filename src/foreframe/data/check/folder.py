"""The check of one folder: which looks are taken at it, in which order.

Nothing here stops at the first fault: what a broken file leaves unknown is asked of the others. Files and sizes come
first (`inventory`, `parts`), then pictures (`video`) and numbers (`rows`), last what only both together or all shards
tell (`across`, `motion`).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from foreframe.data.check.across import check_duplicates, check_frozen, check_motion, check_pictures, recording_edges
from foreframe.data.check.findings import CheckConfig, Finding, Report
from foreframe.data.check.inventory import ROLES, Inventory, holds_data, read_json, take_inventory, whole_number
from foreframe.data.check.parts import Part, Shape, count_units, find_shape, open_part, read_metadata
from foreframe.data.check.rows import check_channels, check_segments, check_states, check_tokens
from foreframe.data.check.video import check_video
from foreframe.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from foreframe.data.check.inventory import Role

_SPLIT = re.compile(r"(train|val|test)(_v\d+(\.\d+)?)?(_raw)?")
_SAMPLE_ROWS = {"tokens": 64, "raw": 77}
"""State rows of a sample of a test split (challenge-facts 1.3, 2.1; raw *assumed*)."""
_AGAIN = "fetch the file again, or write the data set again"


def check_folder(
    root: Path, config: CheckConfig | None = None, *, progress: Callable[[int, int], None] | None = None
) -> list[Finding]:
    """All that is wrong with the dataset folder `root`, or with each split folder in it; an empty list if nothing is.

    Raises `UsageError` only where there is no such folder. `progress` is told the frames done and their number.
    """
    config = CheckConfig() if config is None else config
    if not root.exists():
        raise UsageError(f"{root}: does not exist; name a dataset folder")
    if not root.is_dir():
        raise UsageError(f"{root}: is a file; name the dataset folder that holds metadata.json")
    report = Report()
    if holds_data(root):
        _FolderCheck(root, config, report, progress).run()
        return report.findings()
    splits = _splits(root, report)
    if not splits and not report.found:
        report.add(
            "not-a-dataset",
            ".",
            "",
            "holds no metadata.json, video, states or segment files, nor a folder that does; name a dataset folder in "
            "1X's v2.0 layout",
        )
    findings = report.findings()
    for split in splits:
        report = Report()
        _FolderCheck(split, config, report, progress).run()
        findings += report.findings(split.name)
    return findings


def _splits(root: Path, report: Report) -> list[Path]:
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        report.add("unreadable", ".", "", f"cannot be listed ({error.strerror}); mend its permissions")
        return []
    return [folder for folder in folders if _SPLIT.fullmatch(folder.name) or holds_data(folder)]


class _FolderCheck:
    """The check of one data set."""

    def __init__(
        self, root: Path, config: CheckConfig, report: Report, progress: Callable[[int, int], None] | None
    ) -> None:
        self.root, self.config, self.report = root, config, report
        self.inventory: Inventory = take_inventory(root, report)
        self.parts: list[Part] = []
        self.hz, self.hz_stated = config.hz, False
        self.vocab_size = config.vocab_size
        self.grid: int | None = None
        self.progress = progress
        self.done = 0
        self.total = sum(self.inventory.sizes.get(name, 0) // 100 for name in self.inventory.files["states"].values())

    def run(self) -> None:
        """All checks, in the order in which they build on each other."""
        report, inventory = self.report, self.inventory
        metadata = self._read_metadata()
        self._read_encoding()
        if not inventory.numbers:
            report.add(
                "not-a-dataset", ".", "", "holds no video, states or segment files; fetch them, or name another folder"
            )
            return
        for number in inventory.numbers:
            part = Part(number=number)
            self.parts.append(part)
            with _Guard(report, inventory.files["metadata"].get(number, ".")):
                part.stated = read_metadata(inventory, number, report)
            if inventory.kind == "raw" and (name := inventory.readable("video", number)):
                with _Guard(report, name):
                    part.video = check_video(
                        self.root / name,
                        name,
                        report,
                        decode=self.config.decode,
                        motion_frames=int(self.config.motion_minutes * 60 * self.hz),
                        on_frame=self._advance,
                    )
        rows_each = _SAMPLE_ROWS[inventory.kind]
        shape = find_shape(self.parts, inventory, rows_each=rows_each, grid=self.grid)
        self._check_presence(metadata, shape)
        before: int | None = None
        for part in self.parts:
            with _Guard(report, inventory.files["states"].get(part.number, ".")):
                part.num_units = count_units(part, inventory, shape)
                open_part(part, inventory, shape, report)
                before = self._check_numbers(part, shape, before)
        self._check_total(metadata, shape)
        with _Guard(report, "."):
            self._check_together(shape)
        if self.progress is not None:
            self.progress(self.total, self.total)

    def _check_numbers(self, part: Part, shape: Shape, before: int | None) -> int | None:
        inventory, report = self.inventory, self.report
        if part.states is not None:
            part.ranges = check_states(part.states, inventory.files["states"][part.number], report)
            part.ranges.num_recordings = (
                part.num_units if shape.rows_each is not None else len(recording_edges(part)) - 1
            )
        if part.segments is not None:
            before = check_segments(part.segments, inventory.files["segments"][part.number], report, before=before)
        if part.tokens is not None:
            name = inventory.files["video"][part.number]
            check_tokens(part.tokens, name, report, vocab_size=self.vocab_size)
            self._advance(part.num_units)
        check_frozen(part, inventory, shape, report, hz=self.hz)
        return before

    def _check_together(self, shape: Shape) -> None:
        inventory, report = self.inventory, self.report
        if inventory.kind == "raw":
            check_pictures(self.parts, inventory, report, hz=self.hz, stated=self.hz_stated)
        ranges = {
            inventory.files["states"][part.number]: part.ranges for part in self.parts if part.ranges.num_rows > 0
        }
        states = [part.states for part in self.parts if part.states is not None]
        check_channels(ranges, states, report, hz=self.hz)
        check_duplicates(self.parts, inventory, shape, report)
        if inventory.kind == "raw" and self.config.decode and shape.rows_each is None:
            check_motion(self.parts, inventory, report, hz=self.hz)

    def _read_metadata(self) -> dict[str, Any] | None:
        if not os.path.lexists(self.root / "metadata.json"):
            return None
        content = read_json(self.root, "metadata.json", self.report)
        if content is None:
            return {}
        hz: object = content.get("hz")
        if isinstance(hz, bool) or not isinstance(hz, (int, float)) or not 0 < hz < 1e4:
            said = f"is {repr(hz)[:60]}" if "hz" in content else "is missing"
            self.report.add("metadata-invalid", "metadata.json", "hz", f"{said}, expected frames per second such as 30")
            return content
        self.hz, self.hz_stated = float(hz), True
        if abs(self.hz - self.config.hz) > 0.01 * self.config.hz:
            self.report.add(
                "video-rate",
                "metadata.json",
                "hz",
                f"is {hz:g} where {self.config.hz:g} frames per second are expected; correct it, or expect that rate",
            )
        return content

    def _read_encoding(self) -> None:
        if not os.path.lexists(self.root / "encoding.json"):
            return
        content = read_json(self.root, "encoding.json", self.report)
        if content is None:
            return
        if "vocab_size" in content:
            size = whole_number(content, "vocab_size", "encoding.json", self.report, least=1)
            self.vocab_size = self.vocab_size if size is None else size
        side: object = content.get("frame_size")
        if isinstance(side, int) and not isinstance(side, bool) and 8 <= side <= 1 << 14 and side % 8 == 0:
            self.grid = side // 8

    def _check_presence(self, metadata: dict[str, Any] | None, shape: Shape) -> None:
        """Shards and files that are missing, or there without being counted."""
        inventory, report = self.inventory, self.report
        is_test = shape.rows_each is not None
        if metadata is None and not is_test:
            report.add("file-missing", "metadata.json", "", f"is missing; {_AGAIN}")
        counted = None
        if metadata and not (is_test and "num_shards" not in metadata):
            counted = whole_number(metadata, "num_shards", "metadata.json", report, least=1)
        for first, last in _gaps(inventory.numbers, counted):
            which = f"shard {first}" if first == last else f"shards {first} to {last}"
            said = "the shards' numbers have a gap" if counted is None else f"is {counted}"
            report.add(
                "shard-missing",
                "metadata.json",
                "num_shards",
                f"{said}, but there is no file of {which} (such as {inventory.expected('video', first)}); fetch them, "
                "or set num_shards and num_images to what is there",
            )
        for number in inventory.numbers:
            present: list[Role] = [role for role in ROLES if number in inventory.files[role]]
            if counted is not None and number >= counted:
                report.add(
                    "shard-extra",
                    inventory.files[present[0]][number],
                    "",
                    f"belongs to shard {number}, but metadata.json counts {counted}; move the shard away, or correct "
                    "num_shards and num_images",
                )
            for role in ROLES:
                optional = is_test and (role == "segments" or (role == "metadata" and not inventory.files["metadata"]))
                if role not in present and not optional:
                    report.add(
                        "file-missing",
                        inventory.expected(role, number),
                        "",
                        f"is missing though shard {number} has {inventory.files[present[0]][number]}; {_AGAIN}",
                    )

    def _check_total(self, metadata: dict[str, Any] | None, shape: Shape) -> None:
        if not metadata or (shape.rows_each is not None and "num_images" not in metadata):
            return
        stated = whole_number(metadata, "num_images", "metadata.json", self.report, least=1)
        if stated is None or self.report.counts.get(("shard-missing", "metadata.json")):
            return
        counted: object = metadata.get("num_shards")
        most = counted if isinstance(counted, int) and counted >= 1 else None
        units = sum(part.num_units for part in self.parts if most is None or part.number < most)
        every = sum(part.num_units for part in self.parts)
        allowed = {units, every} if shape.rows_each is None else {units, shape.frames(units), shape.rows(units)}
        if stated not in allowed:
            what = "frames" if shape.rows_each is None else "samples"
            self.report.add(
                "metadata-mismatch",
                "metadata.json",
                "num_images",
                f"is {stated} but the shards have {units} {what}; correct it, or {_AGAIN}",
            )

    def _advance(self, frames: int) -> None:
        self.done += frames
        if self.progress is not None and (self.done % 64 == 0 or frames > 1):
            self.progress(min(self.done, self.total), self.total)


def _gaps(numbers: list[int], counted: int | None) -> Iterator[tuple[int, int]]:
    """First and last of each run of shard numbers that are not there, up to the count or the last number."""
    expected = 0
    for number in numbers:
        if counted is not None and number >= counted:
            break
        if number > expected:
            yield expected, number - 1
        expected = number + 1
    if counted is not None and expected < counted:
        yield expected, counted - 1


class _Guard:
    """Turns what a file does to the code that reads it into a finding, so that the other checks go on."""

    def __init__(self, report: Report, name: str) -> None:
        self.report, self.name = report, name

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, (OSError, ValueError, ArithmeticError, MemoryError)):
            return False
        said = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        self.report.add(
            "unreadable", self.name, "", f"cannot be checked ({' '.join(str(said).split())[:200]}); {_AGAIN}"
        )
        return True
