"""Where the frames of an mp4 file lie, and which of its pictures decoding can start from."""

# PyAV's annotations are partial: what they leave unknown is not ours to fix.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import av.error
import numpy as np
import numpy.typing as npt

from foreframe.data.film import is_described_twice, open_film, reason
from foreframe.data.nal_units import NalUnits
from foreframe.data.video_decoder import VideoDecoder
from foreframe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_BYTES_TELL_ALL = (
    "h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video", "h263", "mjpeg", "vp8", "vp9", "av1", "libdav1d", "libaom-av1",
)  # fmt: skip
"""Decoders that go by a packet's bytes alone. Others may also go by what the container says of it: PNG by its keyframe
flag, whatever has a palette by that."""
_FIRST_PACKETS = 32
"""Packets that are compared with what lies in the file, beside those marked as keyframes."""
_MOST_PARAMETERS = 64
"""Different parameter sets in one file up to which decoding starts anywhere but at its start."""


@dataclass(frozen=True, kw_only=True)
class VideoIndex:
    """Where the frames of one file lie, in presentation order; made by reading its packets, without decoding."""

    pts: npt.NDArray[np.int64]
    """(N,) increasing time stamps of the frames."""
    keyframe_pts: npt.NDArray[np.int64]
    """(K,) increasing time stamps of the pictures that decoding can start from; the first stands for the file's
    start. By the packets, whatever the file marks as keyframes."""
    keyframe_packets: npt.NDArray[np.int64]
    """(K,) their places among the packets."""
    keyframes_hold: bool
    """False where only a comparison with the pictures decoded from the start can tell (`video_keyframes`)."""
    frame_of_packet: npt.NDArray[np.int32]
    """(P,) the frame that each packet gives, in decoding order; -1 for none, cut away by an edit list."""
    places: npt.NDArray[np.int64]
    """(P,) bytes before each packet in the file; empty where packets are not simply parts of it."""
    sizes: npt.NDArray[np.int32]
    """(P,) bytes of each packet."""
    parameters: dict[int, bytes] = field(default_factory=lambda: dict[int, bytes]())
    """Parameter sets given in packets before one of `keyframe_packets`, as they stand in a packet."""
    parameters_change: bool = False
    """Whether parameter sets change after the first packet: decoding then starts with a new decoder."""
    hz: float
    """Frames per second, on average."""
    width: int
    """Of a frame, in pixels."""
    height: int
    """Of a frame, in pixels."""

    def __len__(self) -> int:
        return len(self.pts)

    @classmethod
    def read(cls, path: Path) -> VideoIndex:
        """Index the file at `path`; raises `InputError` if it is not a whole video."""
        container, stream = open_film(path)
        try:
            with path.open("rb", buffering=0) as file:
                packets = _Packets(path, stream, file.fileno())
                packets.read(container)
            index = packets.index()
        finally:
            container.close()
        if not packets.begins_with_keyframe:
            _check_beginning(path, index, codec=packets.codec)
        return index

    def start_for(self, index: int) -> int:
        """Position in `keyframe_pts` of the last keyframe shown no later than frame `index`."""
        return max(int(np.searchsorted(self.keyframe_pts, self.pts[index], side="right")) - 1, 0)

    def first_shown(self, keyframe: int) -> int:
        """Number of the first frame shown at or after a keyframe."""
        return int(np.searchsorted(self.pts, self.keyframe_pts[keyframe]))


class _Packets:
    """What one way through the packets tells."""

    def __init__(self, path: Path, stream: VideoStream, file: int) -> None:
        self._path, self._stream, self._file = path, stream, file
        context = stream.codec_context
        self.codec = codec = context.name
        extradata = bytes(context.extradata or b"")
        self._units = NalUnits(codec, extradata) if codec in ("h264", "hevc") else None
        self._times: list[int] = []
        self._shown: list[bool] = []
        may_be_read_alone = codec in _BYTES_TELL_ALL and not is_described_twice(path)
        self._places: list[int] | None = [] if may_be_read_alone else None
        self._sizes: list[int] = []
        self._keyframes: list[int] = []
        self._latest = 0
        """Largest time so far."""
        self._leading_are_lost = False
        self.begins_with_keyframe = True
        """As far as the first packet says."""
        self._given: dict[bytes, None] = {}
        """Parameter sets that the extradata lack, in the order in which they were last given."""
        self._given_before: dict[int, bytes] = {}
        self._parameters_change = False

    def read(self, container: InputContainer) -> None:
        """All packets; `InputError` where one is cut or has no time."""
        try:
            for packet in container.demux(self._stream):
                if not packet.size:
                    continue  # PyAV's end mark
                number = len(self._times)
                if packet.is_corrupt:
                    raise InputError(f"{self._path}: ends inside frame {number}; the file is truncated, fetch it again")
                if packet.pts is None:
                    raise InputError(f"{self._path}: frame {number} has no time stamp; write the video as mp4 again")
                self._add(number, packet, packet.pts)
        except av.error.FFmpegError as error:
            number = len(self._times)
            raise InputError(f"{self._path}: cannot be read past frame {number} ({reason(error)})") from error

    def _add(self, number: int, packet: Packet[VideoStream], time: int) -> None:
        content, shown = bytes(packet), not packet.is_discard  # what an edit list cuts away is decoded, never shown
        if self._places is not None:
            place = -1 if packet.pos is None else packet.pos
            self._places.append(place)
            # FFmpeg changes all packets of a stream or none.
            is_looked_at = number < _FIRST_PACKETS or packet.is_keyframe
            if place < 0 or (is_looked_at and os.pread(self._file, len(content), place) != content):
                self._places = None
        # What is decoded earlier must be shown earlier, or it would be looked for behind the keyframe.
        in_order = number == 0 or time > self._latest
        if self._units is not None:
            head = self._units.head(content)
            is_keyframe = head.kind in ("entry", "broken entry")
            self.begins_with_keyframe &= number > 0 or is_keyframe
            if is_keyframe:
                self._leading_are_lost = number == 0 or head.kind == "broken entry"
            elif head.kind == "leading" and self._leading_are_lost:
                shown = False
            if is_keyframe and in_order and self._given:
                self._given_before[number] = self._units.join(list(self._given))
            for unit in head.parameters:
                if unit in self._given:
                    self._given[unit] = self._given.pop(unit)
                elif self._given or not self._units.is_known(unit):
                    self._given[unit] = None
                    self._parameters_change |= number > 0
            is_keyframe &= len(self._given) <= _MOST_PARAMETERS
        else:
            is_keyframe = packet.is_keyframe
        if number == 0 or (is_keyframe and in_order):
            self._keyframes.append(number)
        self._latest = time if number == 0 else max(time, self._latest)
        self._times.append(time)
        self._shown.append(shown)
        self._sizes.append(len(content))

    def index(self) -> VideoIndex:
        """What was found; `InputError` if that is no film."""
        times, shown = np.array(self._times, dtype=np.int64), np.array(self._shown, dtype=np.bool_)
        pts = np.sort(times[shown])
        if len(pts) == 0:
            raise InputError(f"{self._path}: holds no video frame that can be decoded; write it again")
        if (repeated := np.flatnonzero(np.diff(pts) == 0)).size:
            raise InputError(
                f"{self._path}: frames {repeated[0]} and {repeated[0] + 1} have the same time stamp; write it again"
            )
        unit, rate = self._stream.time_base or Fraction(1), self._stream.average_rate or Fraction(0)
        if len(pts) > 1:
            rate = (len(pts) - 1) / (int(pts[-1] - pts[0]) * unit)
        # Where packets cannot be read alone, decoding starts at the file's start.
        keyframes = np.array(self._keyframes if self._places is not None else [0], dtype=np.int64)
        keyframe_pts = times[keyframes]
        keyframe_pts[0] = min(times.min(), pts[0])
        context = self._stream.codec_context
        return VideoIndex(
            pts=pts,
            keyframe_pts=keyframe_pts,
            keyframe_packets=keyframes,
            keyframes_hold=self._units is not None or len(keyframes) == 1,
            frame_of_packet=np.where(shown, np.searchsorted(pts, times), -1).astype(np.int32),
            places=np.array([] if self._places is None else self._places, dtype=np.int64),
            sizes=np.array(self._sizes, dtype=np.int32),
            parameters=self._given_before,
            parameters_change=self._parameters_change,
            hz=float(rate),
            width=context.width,
            height=context.height,
        )


def _check_beginning(path: Path, index: VideoIndex, *, codec: str) -> None:
    """Raise if pictures before the first true keyframe do not come out: a file that was cut between keyframes.

    H.264 may begin with a recovery point, after which all is well; in HEVC such pictures have nothing to build on, and
    some decoders give them out all the same.
    """
    end = index.first_shown(1) if len(index.keyframe_pts) > 1 else len(index)
    decoder = VideoDecoder(path, index)
    missing = set(range(end))
    try:
        for number, picture in decoder.pictures() if codec == "h264" else ():
            if not picture.is_corrupt:
                missing.discard(number)
            if number >= end or not missing:
                break
    except av.error.FFmpegError:
        pass  # those behind it are missing
    finally:
        decoder.close()
    if missing:
        raise InputError(
            f"{path}: frame {min(missing)} cannot be decoded: the file begins between keyframes, with pictures that "
            "build on others it lacks; cut it at a keyframe, or fetch the whole file"
        )
