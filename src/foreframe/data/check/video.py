"""Checks of one mp4: its boxes, its packets and every picture, and what is kept of the pictures for other checks."""

# PyAV's annotations are partial: what they leave unknown is not ours to fix.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import av.error
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation

from foreframe.data.check.motion import MOTION_SIZE, image_motion
from foreframe.data.film import LARGEST_INDEX, boxes, films, open_container, too_many_films
from foreframe.data.layout import FETCH_AGAIN
from foreframe.data.video_decoder import ONE_THREAD
from foreframe.data.video_index import VideoIndex
from foreframe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from foreframe.data.check.findings import Report

_BATCH = 128
"""Pictures whose motion is measured at once."""
_BLACK = 20
"""Largest luma of a black picture; 16 is black itself."""
_FEW = 8
"""Pictures that are too few to tell rounded times from uneven ones."""
_OFTEN = 0.125
"""Share of steps that rounding makes longer or shorter; below it pictures are taken to be missing."""
_SAME = 2
"""Largest difference, in levels of a small grey picture, that a codec leaves where nothing moves."""


@dataclass
class VideoFacts:
    """What was learnt from one file."""

    num_frames: int | None = None
    """Pictures by the packets; None if they could not be counted."""
    size: tuple[int, int] | None = None
    """Width and height."""
    rate: float | None = None
    """Pictures per second by their time stamps."""
    whole: bool = False
    """Every picture was decoded without fault."""
    motion: npt.NDArray[np.float32] | None = None
    """`image_motion` (M-1, 5) of the first M pictures."""
    unchanged: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """(N-1,) whether a picture is the one before it."""


def check_video(
    path: Path,
    name: str,
    report: Report,
    *,
    decode: bool,
    motion_frames: int,
    on_frame: Callable[[int], None],
) -> VideoFacts:
    """Look at one mp4; `motion_frames` says how many pictures have their motion measured."""
    facts = VideoFacts()
    if not _check_boxes(path, name, report):
        return facts
    try:
        container = open_container(path)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        report.add("video-container", name, "", f"cannot be opened as a video ({_reason(error)}); {FETCH_AGAIN}")
        return facts
    with container:
        streams = films(container)
        if not streams:
            kinds = {"a cover" if stream.type == "video" else stream.type for stream in container.streams}
            held = ", ".join(sorted(kinds)) or "nothing"
            report.add("video-no-stream", name, "", f"holds no pictures, only {held}; {FETCH_AGAIN}")
            return facts
        if len(streams) > 1:
            report.add("video-several", name, "", too_many_films(streams))
        stream = streams[0]
        # PyAV says that there always is one, and gives None where it has no decoder.
        if cast("object", stream.codec_context) is None:
            report.add("video-container", name, "", f"names a codec that is not known; {FETCH_AGAIN}")
            return facts
        stream.codec_context.thread_count = 1
        _Pass(facts, name, report, decode, motion_frames, on_frame).run(container, stream)
    if not any(file == name for _, file in report.counts):
        # What decodes in one go may still not be read frame by frame.
        try:
            VideoIndex.read(path)
        except InputError as error:
            report.add("video-undecodable", name, "", str(error).removeprefix(f"{path}: "))
    return facts


def _check_boxes(path: Path, name: str, report: Report) -> bool:
    """Whether the top-level boxes of the file make an mp4 that is worth opening."""
    size, place, kinds = path.stat().st_size, 0, list[bytes]()
    with path.open("rb") as file:
        while place < size:
            file.seek(place)
            head = file.read(16)
            kind, length = head[4:8], int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            elif length == 0:
                length = size - place
            if place == 0 and kind != b"ftyp":
                report.add("video-not-mp4", name, "byte 0", f"starts with {head[:8]!r}, not as an mp4; {FETCH_AGAIN}")
                return False
            if len(head) < 8 or length < 8 or not kind.isascii() or not kind.decode().isprintable():
                report.add("video-container", name, f"byte {place}", f"holds no mp4 box there; {FETCH_AGAIN}")
                break
            kinds.append(kind)
            if kind == b"moov" and place + length <= size and length <= LARGEST_INDEX:
                file.seek(place)
                _check_matrix(file.read(length), name, place, report)
            if place + length > size:
                report.add(
                    "video-truncated",
                    name,
                    f"byte {size}",
                    f"ends inside its {kind.decode()!r} box, {place + length - size} bytes early; {FETCH_AGAIN}",
                )
                break
            place += length
    if b"moov" in kinds:
        return True
    if not report.counts.get(("video-truncated", name)):
        report.add("video-truncated", name, f"byte {size}", f"lacks its index (no 'moov' box); {FETCH_AGAIN}")
    return False


def _check_matrix(moov: bytes, name: str, offset: int, report: Report) -> None:
    """Whether the pictures' track header asks for them to be turned or mirrored."""
    for track, begin, end in boxes(moov, 8, len(moov)):
        if track != b"trak" or b"vide" not in moov[begin:end]:
            continue
        for kind, first, last in boxes(moov, begin, end):
            if kind != b"tkhd" or last <= first:
                continue
            at = first + (52 if moov[first] == 1 else 40)
            numbers = [int.from_bytes(moov[at + 4 * i : at + 4 * i + 4], "big", signed=True) for i in range(5)]
            if at + 36 <= last and (numbers[0] <= 0 or numbers[4] <= 0 or numbers[1] or numbers[3]):
                report.add(
                    "video-rotated",
                    name,
                    f"byte {offset + at}",
                    "asks players to turn or mirror its pictures (display matrix), which readers of the data ignore; "
                    "write the pictures as they are to be seen",
                )


class _Pass:
    """One way through a file, from its first packet to its last."""

    def __init__(
        self,
        facts: VideoFacts,
        name: str,
        report: Report,
        decode: bool,
        motion_frames: int,
        on_frame: Callable[[int], None],
    ) -> None:
        self.facts, self.name, self.report, self.decode = facts, name, report, decode
        self.motion_frames, self.on_frame = motion_frames, on_frame
        self.shown = 0
        """Pictures decoded."""
        self.time: int | None = None
        """Time stamp of the last one."""
        self.damaged: list[int] = []
        self.black: list[int] = []
        self.unchanged: list[bool] = []
        self.motion: list[npt.NDArray[np.float32]] = []
        self.batch: list[npt.NDArray[np.uint8]] = []
        self.still: npt.NDArray[np.int16] | None = None

    def run(self, container: InputContainer, stream: VideoStream) -> None:
        times: list[int] = []
        num_packets = 0
        try:
            for packet in container.demux(stream):
                if packet.size:
                    if packet.is_corrupt:
                        self.report.add(
                            "video-truncated",
                            self.name,
                            f"frame {num_packets}",
                            f"ends inside that frame; {FETCH_AGAIN}",
                        )
                    num_packets += 1
                    if not packet.is_discard and packet.pts is not None:
                        times.append(packet.pts)
                if self.decode:
                    self._decode(packet)
        except (av.error.FFmpegError, OSError) as error:
            self.report.add(
                "video-undecodable",
                self.name,
                f"frame {num_packets}",
                f"cannot be read past that frame ({_reason(error)}); {FETCH_AGAIN}",
            )
        self.facts.num_frames = len(times)
        self.facts.size = (stream.codec_context.width, stream.codec_context.height)
        if not times:
            self.report.add("video-container", self.name, "", f"holds no picture; {FETCH_AGAIN}")
            return
        self._check_times(np.sort(np.array(times, dtype=np.int64)), stream)
        if self.decode:
            self._finish()

    def _decode(self, packet: Packet[VideoStream]) -> None:
        try:
            for picture in packet.decode():
                self._look(picture)
        except (av.error.FFmpegError, OSError, ValueError):
            self.damaged.append(self.shown)

    def _look(self, picture: VideoFrame) -> None:
        number = self.shown
        self.shown += 1
        self.on_frame(1)
        if picture.is_corrupt:
            self.damaged.append(number)
        if picture.pts is not None:
            if self.time is not None and picture.pts <= self.time:
                self.report.add(
                    "video-timestamps",
                    self.name,
                    f"frame {number}",
                    f"is shown no later than the one before it; {FETCH_AGAIN}",
                )
            self.time = picture.pts
        size = (picture.width, picture.height)
        if self.facts.size is None:
            self.facts.size = size
        elif self.facts.size != size:
            self.report.add(
                "video-resolution",
                self.name,
                f"frame {number}",
                f"is {size[0]}x{size[1]} from there on, {self.facts.size[0]}x{self.facts.size[1]} before; write the "
                "video at one size",
            )
            self.facts.size = size
        grey = (
            picture.reformat(
                width=MOTION_SIZE, height=MOTION_SIZE, format="gray", interpolation=Interpolation.AREA, **ONE_THREAD
            )
            .to_ndarray()
            .astype(np.uint8, copy=False)
        )
        if grey.max() <= _BLACK:
            self.black.append(number)
        # Compared with the first picture of a still stretch, so that a slow movement adds up.
        same = self.still is not None and bool(np.abs(grey.astype(np.int16) - self.still).max() <= _SAME)
        self.unchanged.append(same)
        if not same:
            self.still = grey.astype(np.int16)
        if number < self.motion_frames:
            self.batch.append(grey)
            if len(self.batch) > _BATCH:
                self._measure()

    def _measure(self) -> None:
        if len(self.batch) > 1:
            self.motion.append(image_motion(np.stack(self.batch)))
            self.batch = self.batch[-1:]

    def _finish(self) -> None:
        self._measure()
        facts = self.facts
        facts.unchanged = np.array(self.unchanged[1:], dtype=np.bool_)
        for first, last in runs(self.damaged):
            self.report.add(
                "video-undecodable",
                self.name,
                place("frame", first, last),
                f"is damaged or cannot be decoded; {FETCH_AGAIN}",
            )
        for first, last in runs(self.black):
            self.report.add(
                "video-black", self.name, place("frame", first, last), f"is black; leave it out, or {FETCH_AGAIN}"
            )
        if not self.damaged and self.shown != facts.num_frames:
            self.report.add(
                "video-undecodable",
                self.name,
                f"frame {self.shown}",
                f"decodes to {self.shown} pictures though it has {facts.num_frames} packets of them; {FETCH_AGAIN}",
            )
        facts.whole = not self.damaged and self.shown == facts.num_frames
        if facts.whole and self.motion:
            facts.motion = np.concatenate(self.motion)

    def _check_times(self, times: npt.NDArray[np.int64], stream: VideoStream) -> None:
        steps = np.diff(times)
        if len(steps) == 0 or stream.time_base is None:
            return
        usual = float(np.median(steps))
        uneven = np.abs(steps - usual) > 0.5 * max(usual, 1)
        if usual > 0:
            # Their mean, not the usual one: in milliseconds 30 pictures a second are 33, 33 and 34 apart.
            self.facts.rate = 1 / (float(steps[~uneven].mean()) * float(stream.time_base))
        if _is_rounding(times, steps, usual, uneven):
            self.facts.rate = len(steps) / (float(times[-1] - times[0]) * float(stream.time_base))
            return
        for frame in np.flatnonzero(uneven).tolist():
            self.report.add(
                "video-timestamps",
                self.name,
                f"frame {frame + 1}",
                f"comes {steps[frame] * float(stream.time_base):.4f} s after the one before, others "
                f"{usual * float(stream.time_base):.4f} s; write the video with even time stamps",
            )


def _is_rounding(
    times: npt.NDArray[np.int64], steps: npt.NDArray[np.int64], usual: float, uneven: npt.NDArray[np.bool_]
) -> bool:
    """Whether steps differ only because even times were rounded to a time base nearly as coarse as they are.

    Then a step more or less comes again and again, and no stamp is away from the straight line; a picture that is
    missing now and then also makes steps longer, but seldom.
    """
    if not len(times) > _FEW or np.abs(steps - usual).max() > 1 or uneven.mean() < _OFTEN:
        return False
    line = times[0] + np.arange(len(times)) * (float(times[-1] - times[0]) / len(steps))
    return bool(np.ptp(times - line) <= 2)


def runs(numbers: list[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers, in order and without repeats."""
    if not numbers:
        return []
    ordered = np.unique(np.array(numbers, dtype=np.int64))
    breaks = np.flatnonzero(np.diff(ordered) > 1)
    firsts, lasts = ordered[np.concatenate([[0], breaks + 1])], ordered[np.concatenate([breaks, [len(ordered) - 1]])]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def place(what: str, first: int, last: int) -> str:
    """ "frame 3", or "frames 3 to 5"."""
    return f"{what} {first}" if first == last else f"{what}s {first} to {last}"


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return getattr(error, "strerror", None) or (os.strerror(number) if number else type(error).__name__)
