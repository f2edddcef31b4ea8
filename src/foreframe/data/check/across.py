"""Checks that set things against each other: pictures against states, one place of a data set against another."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from foreframe.data.check.duplicates import find_repeats
from foreframe.data.check.motion import Recording, Verdict, judge
from foreframe.data.check.rows import ROW_BYTES
from foreframe.data.check.stretches import find_stretches
from foreframe.data.check.video import place, runs
from foreframe.data.frame_size import frame_size_fault
from foreframe.data.layout import TOKEN_BLOCK_FRAMES
from foreframe.data.video import VideoReader
from foreframe.errors import InputError
from foreframe.files import sha256_file
from foreframe.states import CHANNEL_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreframe.data.check.duplicates import Repeat
    from foreframe.data.check.findings import Report
    from foreframe.data.check.inventory import Inventory
    from foreframe.data.check.parts import Part, Shape
    from foreframe.data.check.stretches import Stretch

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
    # Of sizes that are equally frequent, a square of whole macroblocks is the likelier one.
    usual = max(sizes, key=lambda s: (sizes[s], s[0] == s[1], s[0] % 16 == 0, s), default=None)
    tied = usual is not None and list(sizes.values()).count(sizes[usual]) > 1
    for part in parts:
        name = inventory.files["video"].get(part.number, "")
        size, rate = part.video.size, part.video.rate
        if size is not None and (fault := frame_size_fault(*size)):
            report.add("video-resolution", name, "", fault)
        elif size is not None and usual is not None and size != usual:
            report.add(
                "video-resolution",
                name,
                "",
                f"is {size[0]}x{size[1]} while {'others' if tied else 'most shards'} are {usual[0]}x{usual[1]}; write "
                "them at one size",
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
        return f"{place('sample', first, last)} (byte {row * ROW_BYTES})"
    segment = "" if part.segments is None or row >= len(part.segments) else f", segment {int(part.segments[row])}"
    return f"rows {row} to {row + count - 1} (byte {row * ROW_BYTES}{segment})"


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
            digest = sha256_file(inventory.root / name)
            first = seen.setdefault(digest, number)
            if first != number and (first, number) not in paired:
                report.add(
                    "file-duplicated",
                    name,
                    "",
                    f"is the same file as {inventory.files['video'][first]}, with other states; fetch the right one",
                )


def recording_edges(part: Part) -> npt.NDArray[np.int64]:
    """First rows of a shard's recordings, and the number of its rows."""
    assert part.states is not None
    count = len(part.states)
    if part.segments is None or len(part.segments) != count:
        return np.array([0, count], dtype=np.int64)
    return np.concatenate([[0], np.flatnonzero(np.diff(np.asarray(part.segments).astype(np.int64))) + 1, [count]])


def check_motion(parts: Sequence[Part], inventory: Inventory, report: Report, *, hz: float) -> None:
    """Lag, swapped arms, mirrored and exchanged pictures: by shard, over all, and inside the shards."""
    shards = [(part, recordings) for part in parts if (recordings := _recordings(part))]
    verdicts = [judge(recordings, hz=hz) for _, recordings in shards]
    if len(shards) > 1 and not any(verdicts):
        together = judge([recording for _, recordings in shards for recording in recordings], hz=hz)
        if together:
            where = f"shards {shards[0][0].number} to {shards[-1][0].number} together"
            _say(together, shards[0][0], inventory, where, report)
            return
    lags = [next((verdict.lag for verdict in found if verdict.fault == "lag"), 0) for found in verdicts]
    # A shard that is wrong as a whole would only mislead about the others.
    wrong = [any(verdict.fault in ("unrelated", "turning") for verdict in found) for found in verdicts]
    sound = [[] if bad else recordings for (_, recordings), bad in zip(shards, wrong, strict=True)]
    stretches = find_stretches(sound, lags, hz=hz)
    for (part, _), found, lag, inside in zip(shards, verdicts, lags, stretches, strict=True):
        if any(stretch.fault == "lag" and stretch.lag * lag > 0 for stretch in inside):
            found = [verdict for verdict in found if verdict.fault != "lag"]
        _say(found, part, inventory, "all rows", report)
        for stretch in inside:
            told = Verdict(
                fault=stretch.fault, confidence=stretch.confidence, strength=stretch.strength, lag=stretch.lag
            )
            _say([told], part, inventory, _where(stretch, part), report)


def _where(stretch: Stretch, part: Part) -> str:
    """Rows of a stretch, which are known to about a second, and less well where the robot stands still."""
    assert part.states is not None
    first, end = stretch.first_row, stretch.end_row
    if first == 0 and end >= len(part.states) - 1:
        return "all rows"
    inside = "" if part.segments is None else _segments(part.segments, first, end)
    if stretch.fault == "unrelated":
        return f"rows {first} to {end - 1}{inside}"
    if end >= len(part.states) - 1:
        return f"from about row {first} on{inside}"
    return f"about rows {first} to {end - 1}{inside}"


def _segments(ids: npt.NDArray[Any], first: int, end: int) -> str:
    one, other = int(ids[first]), int(ids[min(end, len(ids)) - 1])
    return f" (segment {one})" if one == other else f" (segments {one} to {other})"


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
            found.append(Recording(motion=motion[begin : end - 1], states=rows, first_row=begin))
    return found


def _say(verdicts: Sequence[Verdict], part: Part, inventory: Inventory, where: str, report: Report) -> None:
    name, video = (inventory.files[role][part.number] for role in ("states", "video"))
    by_fault = {verdict.fault: verdict for verdict in verdicts}
    if unrelated := by_fault.get("unrelated"):
        report.add(
            "states-unrelated",
            name,
            where,
            "the states turn and the pictures move, but never together, with no lag either (correlation at best "
            f"{unrelated.strength:.2f}): these are another recording's states, or {video} shows another's pictures; "
            "fetch the right file",
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
            f"belong to in {video} (motion fits best there, correlation {lag.strength:.2f}); shift the rows inside "
            "each recording",
            confidence=lag.confidence,
        )
    if arms is not None and turning is not None:
        report.add(
            "video-mirrored",
            name,
            where,
            f"the pictures in {video} are mirrored left to right: they move against the robot's turning, and its "
            f"left arm stirs their right half (correlations -{turning.strength:.2f} and -{arms.strength:.2f}); mirror "
            "them back",
            confidence=min(arms.confidence, turning.confidence),
        )
    elif arms is not None:
        report.add(
            "arms-swapped",
            name,
            f"{where}, channels left_* and right_*",
            f"left and right are swapped: the left half of {video} stirs when the right arm moves (correlation "
            f"-{arms.strength:.2f}); exchange channels 6..12, 21 with 13..19, 22"
            + (
                ""
                if arms.turns_rightly
                else f", or mirror the pictures of {video}: the robot turns too little to tell exchanged arms from them"
            ),
            confidence=arms.confidence,
        )
    elif turning is not None:
        report.add(
            "turning-reversed",
            name,
            f"{where}, channels hip_yaw and angular_velocity",
            f"the picture in {video} moves against the robot's turning (correlation -{turning.strength:.2f}): mirrored "
            "pictures, or a wrong sign; turning left is positive and moves the picture to the right",
            confidence=turning.confidence,
        )
