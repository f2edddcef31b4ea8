"""Checks that set things against each other: pictures against states, one place of a data set against another."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from foreframe.data.check.duplicates import WINDOW, find_repeats
from foreframe.data.check.motion import Recording, judge
from foreframe.data.check.video import place, runs
from foreframe.data.layout import TOKEN_BLOCK_FRAMES
from foreframe.data.video import VideoReader
from foreframe.errors import InputError
from foreframe.states import CHANNEL_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreframe.data.check.duplicates import Repeat
    from foreframe.data.check.findings import Report
    from foreframe.data.check.inventory import Inventory
    from foreframe.data.check.motion import Verdict
    from foreframe.data.check.parts import Part, Shape

_FROZEN_FRAMES = 30
_FROZEN_BLOCKS = 4
_TELLING_TOKENS = 50
"""Different tokens that a block must have: a coarse tokenizer gives the same block for many pictures."""
_TRAVEL = 0.15
"""Radians of camera motion that cannot leave a picture as it is."""
_MOST_COMPARED = 40
"""Repeated stretches whose pictures are decoded."""
_ALIKE = 4.0
"""Mean difference, in levels, up to which pictures of two encodings are the same."""


def check_pictures(parts: Sequence[Part], inventory: Inventory, report: Report, *, hz: float, stated: bool) -> None:
    """Sizes and rates of the videos among each other; `stated` says whether `hz` is from metadata.json."""
    sizes = Counter(part.video.size for part in parts if part.video.size)
    usual = sizes.most_common(1)[0][0] if sizes else None
    for part in parts:
        name = inventory.files["video"].get(part.number, "")
        size, rate = part.video.size, part.video.rate
        if size is not None and size[0] != size[1]:
            report.add(
                "video-resolution", name, "", f"is {size[0]}x{size[1]}, not square; write the video with equal sides"
            )
        elif size is not None and usual is not None and size != usual:
            report.add(
                "video-resolution",
                name,
                "",
                f"is {size[0]}x{size[1]} while most shards are {usual[0]}x{usual[1]}; write them at one size",
            )
        if rate is not None and abs(rate - hz) > 0.01 * hz:
            wanted = "metadata.json states" if stated else "are expected"
            report.add(
                "video-rate", name, "", f"has {rate:.4g} frames per second where {hz:g} {wanted}; write it at that rate"
            )


def check_frozen(part: Part, inventory: Inventory, shape: Shape, report: Report, *, hz: float) -> None:
    """Pictures, or token blocks, that stay the same while the states say that the camera moves."""
    name = inventory.files["video"].get(part.number, "")
    if part.states is None or shape.rows_each is not None:
        return
    if part.tokens is not None:
        same = [
            block + 1
            for block in range(len(part.tokens) - 1)
            if np.array_equal(part.tokens[block], part.tokens[block + 1])
            and len(np.unique(part.tokens[block])) >= _TELLING_TOKENS
        ]
        for first, last in runs(same):
            if last - first + 2 >= _FROZEN_BLOCKS:
                begin, end = (first - 1) * TOKEN_BLOCK_FRAMES, min((last + 1) * TOKEN_BLOCK_FRAMES, len(part.states))
                _say_frozen(part, name, place("block", first - 1, last), begin, end, report, hz)
        return
    for first, last in runs(np.flatnonzero(part.video.unchanged).tolist()):
        if last - first + 2 >= _FROZEN_FRAMES:
            _say_frozen(part, name, place("frame", first, last + 1), first, min(last + 2, len(part.states)), report, hz)


def _say_frozen(part: Part, name: str, where: str, begin: int, end: int, report: Report, hz: float) -> None:
    assert part.states is not None
    rows = np.nan_to_num(np.asarray(part.states[begin:end]).astype(np.float64), posinf=0, neginf=0)
    if len(rows) < 2:
        return
    joints = [CHANNEL_INDEX[channel] for channel in ("hip_yaw", "hip_pitch", "neck_pitch")]
    travel = (
        np.abs(np.diff(rows[:, joints], axis=0)).sum() + np.abs(rows[:, CHANNEL_INDEX["angular_velocity"]]).sum() / hz
    )
    if travel > _TRAVEL:
        report.add(
            "video-frozen",
            name,
            where,
            f"shows one and the same picture while the states turn and bend the camera by {travel:.2f} rad; record it "
            "again, or leave it out",
        )


def check_duplicates(parts: Sequence[Part], inventory: Inventory, shape: Shape, report: Report) -> None:
    """Stretches of states that occur twice, and whether their pictures or tokens do; identical video files."""
    usable = [part for part in parts if part.states is not None]
    edges = [recording_edges(part) for part in usable]
    rows = [part.states for part in usable if part.states is not None]
    repeats = find_repeats(rows, edges, window=shape.rows_each)
    paired: set[tuple[int, int]] = set()
    for count, repeat in enumerate(repeats):
        one, other = usable[repeat.first_part], usable[repeat.second_part]
        alike = None
        if count < _MOST_COMPARED or one.tokens is not None:
            alike = _same_pictures(repeat, one, other, inventory, shape)
        inside = repeat.first_part == repeat.second_part and _one_recording(repeat, edges[repeat.first_part])
        if inside and alike is not True:
            continue  # a movement done twice, to the bit
        paired.add((one.number, other.number))
        what = "tokens" if one.tokens is not None else "pictures"
        said = {True: f"and so are the {what}", False: f"under other {what}", None: f"(the {what} were not compared)"}[
            alike
        ]
        report.add(
            "states-duplicated" if alike is False else "clip-duplicated",
            inventory.files["states"][other.number],
            _rows(repeat.second_row, repeat.num_rows, other, shape),
            f"are the same as {_rows(repeat.first_row, repeat.num_rows, one, shape)} of "
            f"{inventory.files['states'][one.number]}, {said}; keep one of the two",
        )
    _identical_files(parts, inventory, paired, report)


def _rows(row: int, count: int, part: Part, shape: Shape) -> str:
    if shape.rows_each is not None:
        first, last = row // shape.rows_each, (row + count - 1) // shape.rows_each
        return f"{place('sample', first, last)} (byte {row * 100})"
    segment = "" if part.segments is None or row >= len(part.segments) else f", segment {int(part.segments[row])}"
    return f"rows {row} to {row + count - 1} (byte {row * 100}{segment})"


def _one_recording(repeat: Repeat, edges: npt.NDArray[np.int64]) -> bool:
    begin, end = np.searchsorted(edges, [repeat.first_row, repeat.second_row + repeat.num_rows - 1], side="right")
    return bool(begin == end)


def _same_pictures(repeat: Repeat, one: Part, other: Part, inventory: Inventory, shape: Shape) -> bool | None:
    """Whether both places look alike; None if that cannot be said."""
    if one.tokens is not None and other.tokens is not None:
        if shape.rows_each is not None:
            first, second = repeat.first_row // shape.rows_each, repeat.second_row // shape.rows_each
            count = repeat.num_rows // shape.rows_each
        else:
            if (repeat.second_row - repeat.first_row) % TOKEN_BLOCK_FRAMES:
                return None  # the blocks were cut elsewhere
            first, second = -(-repeat.first_row // TOKEN_BLOCK_FRAMES), -(-repeat.second_row // TOKEN_BLOCK_FRAMES)
            count = (repeat.second_row + repeat.num_rows) // TOKEN_BLOCK_FRAMES - second
        left, right = one.tokens[first : first + count], other.tokens[second : second + count]
        return bool(np.array_equal(left, right)) if len(left) and len(left) == len(right) else None
    if inventory.kind != "raw":
        return None
    offsets = np.array([0, repeat.num_rows // 2, repeat.num_rows - 1])
    if shape.rows_each is not None:
        offsets = np.array([0, TOKEN_BLOCK_FRAMES // 2, TOKEN_BLOCK_FRAMES - 1])
    shown: list[npt.NDArray[np.float32]] = []
    try:
        for part, row in ((one, repeat.first_row), (other, repeat.second_row)):
            frame = row if shape.rows_each is None else row // shape.rows_each * TOKEN_BLOCK_FRAMES
            name = inventory.readable("video", part.number)
            if name is None:
                return None
            with VideoReader(inventory.root / name) as reader:
                shown.append(reader.frames(frame + offsets).astype(np.float32))
    except (InputError, OSError, ValueError):
        return None
    return shown[0].shape == shown[1].shape and bool(np.abs(shown[0] - shown[1]).mean() < _ALIKE)


def _identical_files(parts: Sequence[Part], inventory: Inventory, paired: set[tuple[int, int]], report: Report) -> None:
    """Video files that are the same to the byte, unless their states already told so; uniform ones say nothing."""
    by_size: dict[int, list[int]] = {}
    for part in parts:
        if name := inventory.readable("video", part.number):
            if part.tokens is not None and len(np.unique(part.tokens[:4])) < _TELLING_TOKENS:
                continue
            by_size.setdefault(inventory.sizes[name], []).append(part.number)
    seen: dict[str, int] = {}
    for numbers in by_size.values():
        for number in numbers if len(numbers) > 1 else []:
            name = inventory.files["video"][number]
            with (inventory.root / name).open("rb") as file:
                digest = _sha256(file)
            first = seen.setdefault(digest, number)
            if first != number and (first, number) not in paired:
                report.add(
                    "file-duplicated",
                    name,
                    "",
                    f"is the same file as {inventory.files['video'][first]}, with other states; fetch the right one",
                )


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def recording_edges(part: Part) -> npt.NDArray[np.int64]:
    """First rows of a shard's recordings, and the number of its rows."""
    assert part.states is not None
    count = len(part.states)
    if part.segments is None or len(part.segments) != count:
        return np.array([0, count], dtype=np.int64)
    return np.concatenate([[0], np.flatnonzero(np.diff(np.asarray(part.segments).astype(np.int64))) + 1, [count]])


def check_motion(parts: Sequence[Part], inventory: Inventory, report: Report, *, hz: float) -> None:
    """Lag, swapped arms and mirrored pictures: shard by shard, and over all where no shard tells it by itself."""
    everything: list[Recording] = []
    told: set[str] = set()
    measured: list[Part] = []
    for part in parts:
        recordings = _recordings(part)
        if recordings:
            measured.append(part)
            everything += recordings
            told |= _say(judge(recordings, hz=hz), inventory.files["states"][part.number], "all rows", report)
    if len(measured) > 1 and not told:
        first, last = measured[0].number, measured[-1].number
        where = f"shards {first} to {last} together"
        _say(judge(everything, hz=hz), inventory.files["states"][first], where, report)


def _recordings(part: Part) -> list[Recording]:
    motion, states = part.video.motion, part.states
    if motion is None or states is None or len(states) != part.video.num_frames:
        return []
    found: list[Recording] = []
    edges = recording_edges(part)
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        end = min(end, len(motion) + 1)
        rows = np.asarray(states[begin:end]).astype(np.float32)
        if end - begin > 2 and np.isfinite(rows).all() and float(np.abs(rows).max()) < 100:
            found.append(Recording(motion=motion[begin : end - 1], states=rows))
    return found


def _say(verdicts: list[Verdict], name: str, where: str, report: Report) -> set[str]:
    by_fault = {verdict.fault: verdict for verdict in verdicts}
    if unrelated := by_fault.get("unrelated"):
        report.add(
            "states-unrelated",
            name,
            where,
            "the states turn and the pictures move, but never together, with no lag either (correlation at best "
            f"{unrelated.strength:.2f}): these are another recording's states, or its pictures; fetch the right file",
            confidence=unrelated.confidence,
        )
    lag, arms, turning = by_fault.get("lag"), by_fault.get("arms"), by_fault.get("turning")
    if lag is not None:
        many = "at least " if abs(lag.lag) >= 15 else ""
        report.add(
            "states-lag",
            name,
            where,
            f"the states come {many}{abs(lag.lag)} frames {'after' if lag.lag > 0 else 'before'} the pictures they "
            f"belong to (motion fits best there, correlation {lag.strength:.2f}); shift the rows inside each recording",
            confidence=lag.confidence,
        )
    if arms is not None and turning is not None:
        report.add(
            "video-mirrored",
            name,
            where,
            "the pictures are mirrored left to right: they move against the robot's turning, and its left arm stirs "
            f"their right half (correlations -{turning.strength:.2f} and -{arms.strength:.2f}); mirror them back",
            confidence=min(arms.confidence, turning.confidence),
        )
    elif arms is not None:
        report.add(
            "arms-swapped",
            name,
            f"{where}, channels left_* and right_*",
            f"left and right are swapped: the left half of the picture stirs when the right arm moves (correlation "
            f"-{arms.strength:.2f}); exchange channels 6..12, 21 with 13..19, 22, or mirror the pictures",
            confidence=arms.confidence,
        )
    elif turning is not None:
        report.add(
            "turning-reversed",
            name,
            f"{where}, channels hip_yaw and angular_velocity",
            f"the picture moves against the robot's turning (correlation -{turning.strength:.2f}): mirrored pictures, "
            "or a wrong sign; turning left is positive and moves the picture to the right",
            confidence=turning.confidence,
        )
    return set(by_fault)


__all__ = ["WINDOW", "check_duplicates", "check_frozen", "check_motion", "check_pictures", "recording_edges"]
