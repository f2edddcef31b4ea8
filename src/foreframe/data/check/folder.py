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
from foreframe.data.check.latents import check_latents, is_latents
from foreframe.data.check.parts import Part, Shape, count_units, find_shape, open_part, read_metadata
from foreframe.data.check.rows import ROW_BYTES, check_channels, check_segments, check_states, check_tokens
from foreframe.data.check.video import check_video
from foreframe.data.encoding import ENCODING_FILE, ENCODING_KEYS, ENCODING_VERSION, verify_encoded
from foreframe.data.hints import numbering_fault
from foreframe.data.layout import FETCH_AGAIN, RAW_SAMPLE_STATES, TOKEN_SAMPLE_STATES
from foreframe.data.places import other_form, require_there
from foreframe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from foreframe.data.hints import Role

_SPLIT = re.compile(r"(train|val|test)(_v\d+(\.\d+)?)?(_raw)?")


def check_folder(
    root: Path, config: CheckConfig | None = None, *, progress: Callable[[int, int], None] | None = None
) -> list[Finding]:
    """All that is wrong with the dataset folder `root`, or with each split folder in it; an empty list if nothing is.

    Raises `UsageError` only where there is no such folder. `progress` is told the frames done and their number.
    """
    config = CheckConfig() if config is None else config
    require_there(root)
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
            other_form(root)
            or "holds no metadata.json, video, states or segment files, nor a folder that does; name a dataset folder "
            "in 1X's v2.0 layout",
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
        self.inventory = Inventory(root=root)
        self.parts: list[Part] = []
        self.hz, self.hz_stated = config.hz, False
        self.vocab_size = config.vocab_size
        self.grid: int | None = None
        self.progress = progress
        self.done, self.total = 0, 0

    def run(self) -> None:
        """All checks, in the order in which they build on each other."""
        self._look()
        if self.report.found:
            return
        # What nothing else can tell: numbers that could be right, and are not those that were encoded.
        with _Guard(self.report, ENCODING_FILE):
            try:
                verify_encoded(self.root)
            except InputError as error:
                self.report.add("metadata-mismatch", ENCODING_FILE, "files", str(error).replace(f"{self.root}/", ""))

    def _look(self) -> None:
        report = self.report
        encoding = self._read_encoding()
        if is_latents(self.root, encoding):
            with _Guard(report, "."):
                check_latents(self.root, encoding, report)
            return
        self.inventory = inventory = take_inventory(self.root, report)
        self.total = sum(inventory.sizes.get(name, 0) // ROW_BYTES for name in inventory.files["states"].values())
        metadata = self._read_metadata()
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
        rows_each = TOKEN_SAMPLE_STATES if inventory.kind == "tokens" else RAW_SAMPLE_STATES
        shape = find_shape(self.parts, inventory, rows_each=rows_each, grid=self.grid)
        with _Guard(report, "."):
            self._check_presence(metadata, shape)
        before: int | None = None
        for part in self.parts:
            with _Guard(report, inventory.files["states"].get(part.number, ".")):
                part.num_units = count_units(part, inventory, shape)
                open_part(part, inventory, shape, report)
                before = self._check_numbers(part, shape, before)
        with _Guard(report, "."):
            self._check_total(metadata, shape)
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

    def _read_encoding(self) -> dict[str, Any] | None:
        name = "encoding.json"
        if not os.path.lexists(self.root / name):
            return None
        content = read_json(self.root, name, self.report)
        if content is None:
            return None
        if content.get("version") != ENCODING_VERSION:
            said = "is missing" if "version" not in content else f"is {repr(content['version'])[:60]}"
            again = f"this build reads {ENCODING_VERSION}: encode the video again"
            self.report.add("metadata-invalid", name, "version", f"{said}; {again}")
        kind: object = content.get("kind")
        needed = ENCODING_KEYS.get(kind) if isinstance(kind, str) else None
        if needed is None:
            said = "is missing" if "kind" not in content else f"is {repr(kind)[:60]}"
            self.report.add("metadata-invalid", name, "kind", f"{said}, expected tokens or latents; {FETCH_AGAIN}")
        for key in sorted(needed or ()):
            if key not in content:
                said = "is missing, so that what is encoded here cannot be trusted; encode the video again"
                self.report.add("metadata-invalid", name, key, said)
        if "vocab_size" in content:
            size = whole_number(content, "vocab_size", name, self.report, least=1)
            self.vocab_size = self.vocab_size if size is None else size
        side: object = content.get("frame_size")
        if isinstance(side, int) and not isinstance(side, bool) and 8 <= side <= 1 << 14 and side % 8 == 0:
            self.grid = side // 8
        return content

    def _check_presence(self, metadata: dict[str, Any] | None, shape: Shape) -> None:
        """Shards and files that are missing, or there without being counted."""
        inventory, report = self.inventory, self.report
        is_test = shape.rows_each is not None
        if metadata is None and not is_test:
            report.add("file-missing", "metadata.json", "", f"is missing; {FETCH_AGAIN}")
        counted = None
        if metadata and not (is_test and "num_shards" not in metadata):
            counted = whole_number(metadata, "num_shards", "metadata.json", report, least=1)
        faults = [numbering_fault(inventory.files[role], counted or 0) for role in ROLES]
        if fault := next((one for one in faults if one is not None), None):
            report.add("shard-numbers", ".", "", fault)
        else:
            self._check_counted(metadata, counted)
        for number in inventory.numbers:
            present: list[Role] = [role for role in ROLES if number in inventory.files[role]]
            if is_test and "segments" not in present and self._counts_rows(number):
                report.add(
                    "file-missing",
                    inventory.expected("segments", number),
                    "",
                    f"is missing: {inventory.files['metadata'][number]} counts as many frames as "
                    f"{inventory.files['states'][number]} has rows, as of recordings, though the sizes are those of a "
                    f"test split's samples; {FETCH_AGAIN}",
                )
            for role in ROLES:
                optional = is_test and (role == "segments" or (role == "metadata" and not inventory.files["metadata"]))
                if role not in present and not optional:
                    report.add(
                        "file-missing",
                        inventory.expected(role, number),
                        "",
                        f"is missing though shard {number} has {inventory.files[present[0]][number]}; {FETCH_AGAIN}",
                    )

    def _check_counted(self, metadata: dict[str, Any] | None, counted: int | None) -> None:
        """Shards that are not there though counted, and the other way round."""
        inventory, report = self.inventory, self.report
        for first, last in _gaps(inventory.numbers, counted):
            which = f"shard {first}" if first == last else f"shards {first} to {last}"
            said = "the shards' numbers have a gap" if counted is None else f"is {counted}"
            report.add(
                "shard-missing",
                "." if metadata is None else "metadata.json",
                "" if metadata is None else "num_shards",
                f"{said}, but there is no file of {which} (such as {inventory.expected('video', first)}); fetch them, "
                + (
                    "or number the files from 0"
                    if metadata is None
                    else "or set num_shards and num_images to what is there"
                ),
            )
        for number in inventory.numbers:
            if counted is not None and number >= counted:
                name = next(inventory.files[role][number] for role in ROLES if number in inventory.files[role])
                report.add(
                    "shard-extra",
                    name,
                    "",
                    f"belongs to shard {number}, but metadata.json counts {counted}; move the shard away, or correct "
                    "num_shards and num_images",
                )

    def _counts_rows(self, number: int) -> bool:
        """Whether a shard that is read as samples is said to have as many frames as it has state rows."""
        stated = next((part.stated for part in self.parts if part.number == number), None)
        name = self.inventory.readable("states", number)
        return stated is not None and name is not None and stated * ROW_BYTES == self.inventory.sizes[name]

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
                f"is {stated} but the shards have {units} {what}; correct it, or {FETCH_AGAIN}",
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
        if not isinstance(error, Exception):  # a broken file may bring any of them out of a decoder
            return False
        said = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        self.report.add(
            "unreadable", self.name, "", f"cannot be checked ({' '.join(str(said).split())[:200]}); {FETCH_AGAIN}"
        )
        return True
