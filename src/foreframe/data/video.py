"""mp4 files through PyAV: frames by exact index, and writing them. The only file that imports `av`."""

# PyAV's annotations are partial: what they leave unknown is not ours to fix.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace

from foreframe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from typing_extensions import Self

Frames = npt.NDArray[np.uint8]
"""(T, H, W, 3) RGB."""

WORTH_A_SEEK = 16
"""Frames that a jump forward must save before it is made: a seek empties the decoder, and refilling it costs a few."""

ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
"""For colour conversion, which takes a thread per core from PyAV 17 on: a forked loader worker that frees such a
converter of its parent's waits for ever for threads that it does not have."""


@dataclass(frozen=True, kw_only=True)
class VideoIndex:
    """Where the frames of one file lie, in presentation order; made by reading its packets, without decoding."""

    pts: npt.NDArray[np.int64]
    """(N,) increasing time stamps: the frame number of a decoded picture is its position here."""
    keyframe_pts: npt.NDArray[np.int64]
    """(K,) increasing time stamps of the pictures that decoding can start from."""

    def __len__(self) -> int:
        return len(self.pts)

    @classmethod
    def read(cls, path: Path) -> VideoIndex:
        """Index the file at `path`; raises `InputError` if it is not a whole video."""
        container = _open(path)
        times: list[int] = []
        keyframes: list[int] = []
        num_packets = 0
        try:
            for packet in container.demux(container.streams.video[0]):
                if not packet.size:
                    continue  # PyAV's end mark
                if packet.is_corrupt:
                    raise InputError(f"{path}: ends inside frame {num_packets}; the file is truncated, fetch it again")
                if packet.pts is None:
                    raise InputError(f"{path}: frame {num_packets} has no time stamp; write the video as mp4 again")
                num_packets += 1
                if packet.is_keyframe:
                    keyframes.append(packet.pts)
                if not packet.is_discard:  # cut away by an edit list: decoded, never shown
                    times.append(packet.pts)
        except av.error.FFmpegError as error:
            raise InputError(f"{path}: cannot be read past frame {num_packets} ({_reason(error)})") from error
        finally:
            container.close()
        pts = np.sort(np.array(times, dtype=np.int64))
        if len(pts) == 0 or not keyframes:
            raise InputError(f"{path}: holds no video frame that can be decoded; write it again")
        if (repeated := np.flatnonzero(np.diff(pts) == 0)).size:
            raise InputError(
                f"{path}: frames {repeated[0]} and {repeated[0] + 1} have the same time stamp; write it again"
            )
        return cls(pts=pts, keyframe_pts=np.sort(np.array(keyframes, dtype=np.int64)))

    def start_for(self, index: int) -> int:
        """Position in `keyframe_pts` of the last keyframe shown no later than frame `index`."""
        return max(int(np.searchsorted(self.keyframe_pts, self.pts[index], side="right")) - 1, 0)

    def first_shown(self, keyframe: int) -> int:
        """Number of the first frame shown at or after a keyframe."""
        return int(np.searchsorted(self.pts, self.keyframe_pts[keyframe]))


class VideoReader:
    """Frames of one file by their exact number, whatever its keyframe distance, B-frames or first time stamp.

    The same bits as decoding the file from its start, in any order. The decoder stays open between calls and goes on
    where it stands when that is shorter than starting from a keyframe. One thread; not to be shared between threads
    or processes.
    """

    def __init__(self, path: Path, *, index: VideoIndex | None = None) -> None:
        self.path = path
        self.index = VideoIndex.read(path) if index is None else index
        self.num_seeks = 0
        """Jumps made so far, for tests and benchmarks."""
        self._container = _open(path)
        self._pictures = self._decode(self._packets())
        self._position = 0

    def __len__(self) -> int:
        return len(self.index)

    def frames(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]], *, size: int | None = None) -> Frames:
        """Frames `indices`, in any order and with repeats: uint8 (T, H, W, 3) RGB.

        With `size`, each is box-downsampled to (size, size, 3). Raises `InputError` naming file and frame for a frame
        that does not exist or that the decoder finds damaged; damage that makes a legal bit stream goes unseen.
        """
        wanted, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < len(self):
            outside = wanted[-1] if wanted[-1] >= len(self) else wanted[0]
            raise InputError(f"{self.path}: has no frame {outside}, only 0..{len(self) - 1}")
        distinct = [downsample(self._frame(int(index)), size, where=str(self.path)) for index in wanted]
        if not distinct:
            return np.empty((0, 0, 0, 3), dtype=np.uint8)
        return np.stack(distinct)[inverse]

    def _frame(self, index: int) -> Frames:
        keyframe = self.index.start_for(index)
        first_used = self.index.first_shown(keyframe)
        damaged = False
        try:
            if not self._position <= index or first_used - self._position > WORTH_A_SEEK:
                self._seek(keyframe)
            for picture in self._pictures:
                shown = int(np.searchsorted(self.index.pts, picture.pts or 0))
                if shown == len(self) or self.index.pts[shown] != picture.pts:
                    continue  # not part of the film, by an edit list
                self._position = shown + 1
                # Later pictures build on a damaged one, up to the next keyframe, and are not marked themselves.
                damaged |= picture.is_corrupt and shown >= first_used
                if shown == index and not damaged:
                    return picture.reformat(format="rgb24", **ONE_THREAD).to_ndarray().astype(np.uint8, copy=False)
                if shown >= index:
                    break
        except av.error.FFmpegError as error:
            self._position = len(self) + 1  # wherever it goes next, by a seek
            raise InputError(
                f"{self.path}: frame {index} cannot be decoded ({_reason(error)}); fetch it again"
            ) from error
        self._position = len(self) + 1
        raise InputError(f"{self.path}: frame {index} cannot be decoded (damaged or missing); fetch the file again")

    def _seek(self, keyframe: int) -> None:
        """Make decoding start at `keyframe`, or at an earlier one where the file leads there."""
        self.num_seeks += 1
        self._container.seek(int(self.index.keyframe_pts[keyframe]), stream=self._container.streams.video[0])
        packets = self._packets()
        first = next(packets)
        assert first.pts is not None
        self._position = self.index.first_shown(int(np.searchsorted(self.index.keyframe_pts, first.pts)))
        self._pictures = self._decode(packets, first)

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        return iter(self._container.demux(self._container.streams.video[0]))

    @staticmethod
    def _decode(
        packets: Iterator[Packet[VideoStream]], first: Packet[VideoStream] | None = None
    ) -> Iterator[VideoFrame]:
        if first is not None:
            yield from first.decode()
        for packet in packets:
            yield from packet.decode()

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def iterate_frames(path: Path, *, size: int | None = None) -> Iterator[Frames]:
    """All frames of the file in order, each uint8 (H, W, 3) RGB, or (size, size, 3)."""
    with VideoReader(path) as reader:
        for index in range(len(reader)):
            yield reader.frames([index], size=size)[0]


def count_frames(path: Path) -> int:
    """How many frames the file shows, without decoding them."""
    return len(VideoIndex.read(path))


def downsample(frame: Frames, size: int | None, *, where: str) -> Frames:
    """Mean over whole boxes of pixels, rounded half up: (H, W, 3) to (size, size, 3); None leaves it as it is."""
    height, width, _ = frame.shape
    if size is None or height == width == size:
        return frame
    if size <= 0 or height != width or height % size:
        raise InputError(
            f"{where}: frames of {height}x{width} cannot be box-downsampled to {size}x{size}; choose a divisor"
        )
    factor = height // size
    area = factor * factor
    total = np.full((size, size, 3), area // 2, dtype=np.uint32)
    for y in range(factor):  # by slices: several times faster than a sum over split axes
        for x in range(factor):
            total += frame[y::factor, x::factor]
    return (total // area).astype(np.uint8)


class VideoWriter:
    """Encode square RGB frames to one H.264 mp4; a context manager.

    One thread and no dates in the header, so that the same frames give the same bytes with the same FFmpeg and x264.
    The caller renames the file when it is whole.
    """

    def __init__(self, path: Path, *, size: int, hz: int = 30, crf: int = 23, gop: int = 30) -> None:
        if size <= 0 or size % 2:
            raise ValueError(f"frame size {size} must be even and positive: yuv420p halves it for colour")
        options = {"crf": str(crf), "g": str(gop)}
        if size < 128:
            # x264's AVX-512 code reads outside small frames: at 64 to 112 the same frames gave other bytes each time,
            # with plain C (and at 128 and above) never.
            options["x264-params"] = "asm=0"
        self._container = av.open(str(path), "w", format="mp4", container_options={"fflags": "+bitexact"})
        self._stream = self._container.add_stream("libx264", rate=hz, options=options)
        self._stream.width = self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1
        # Say which matrix turned RGB into YUV, or readers have to guess it from the frame size.
        self._stream.codec_context.colorspace = Colorspace.ITU601
        self._stream.codec_context.color_range = ColorRange.MPEG
        self._time_base = Fraction(1, hz)
        self._shape = (size, size, 3)
        self._num_frames = 0

    def append(self, frame: Frames) -> None:
        """Encode one (size, size, 3) uint8 RGB frame."""
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise ValueError(f"frame is {frame.dtype} {frame.shape}, expected uint8 {self._shape}")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = picture.reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG, **ONE_THREAD
        )
        picture.pts, picture.time_base = self._num_frames, self._time_base
        self._num_frames += 1
        self._container.mux(self._stream.encode(picture))

    def finish(self) -> None:
        """Write what the encoder still holds, and the index."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def close(self) -> None:
        """Let go of the file without finishing it."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.close()


def _open(path: Path) -> InputContainer:
    if not path.is_file():
        raise InputError(f"{path}: there is no such video file")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{path}: cannot be opened as a video ({_reason(error)}); fetch or write it again") from error
    if "mp4" not in container.format.name:
        # Others search by decoding time, which B-frames shift, or give no time stamps.
        name = container.format.name
        container.close()
        raise InputError(f"{path}: is {name}, not mp4; wrap it again, as with `ffmpeg -i OLD -c copy NEW.mp4`")
    if not container.streams.video:
        container.close()
        raise InputError(f"{path}: holds no video stream")
    # More threads would keep several frames in flight per open file; loaders run many readers side by side instead.
    container.streams.video[0].codec_context.thread_count = 1
    return container


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
