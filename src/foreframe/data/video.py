"""mp4 files through PyAV: frames by exact index, and writing them."""

# PyAV's annotations are partial: what they leave unknown is not ours to fix.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace

from foreframe.data.film import reason
from foreframe.data.frame_size import check_frame_size
from foreframe.data.video_decoder import ONE_THREAD, VideoDecoder
from foreframe.data.video_index import VideoIndex
from foreframe.data.video_keyframes import compared
from foreframe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from av.video.frame import VideoFrame
    from typing_extensions import Self

WORTH_A_COMPARISON = 300
"""Frames that a jump forward must save before keyframes are compared for it, which takes the whole film."""

Frames = npt.NDArray[np.uint8]
"""(T, H, W, 3) RGB."""

WORTH_A_SEEK = 16
"""Frames that a jump forward must save before it is made: a seek empties the decoder, and refilling it costs a few."""


class VideoReader:
    """Frames of one file by their exact number, whatever its keyframe distance, B-frames or first time stamp.

    The same bits as decoding the file from its start, in any order. The decoder stays open between calls and goes on
    where it stands when that is shorter than starting from a keyframe; pictures that are neither wanted nor referred
    to by others are not decoded. One thread; not to be shared between threads or processes.
    """

    def __init__(self, path: Path, *, index: VideoIndex | None = None) -> None:
        self.path = path
        self.index = VideoIndex.read(path) if index is None else index
        """Replaced by a better one when keyframes had to be compared."""
        self.num_seeks = 0
        """Jumps made so far, for tests and benchmarks."""
        self.num_decoded = 0
        """Pictures that the decoder gave out so far, wanted or not; a jump loses the few it still held."""
        self._decoder = VideoDecoder(path, self.index)
        self._passes_over = self._decoder.leaves_out
        self._needed: set[int] = set()
        self._needed_until = 0
        """Frames to decode before `_needed_until`; from there on all are decoded, as nothing is known of them."""
        self._passed_over: set[int] = set()
        """Frames that may not come out, since the last jump."""
        self._pictures = self._decode()
        self._position = 0
        self._shape: tuple[int, int] | None = None
        """Width and height of the first frame, once one of another size than the index says has been seen."""

    def __len__(self) -> int:
        return len(self.index)

    def frames(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]], *, size: int | None = None) -> Frames:
        """Frames `indices`, in any order and with repeats: uint8 (T, H, W, 3) RGB.

        With `size`, each is box-downsampled to (size, size, 3). Raises `InputError` naming file and frame for a frame
        that does not exist or that the decoder finds damaged; damage that makes a legal bit stream goes unseen.
        """
        wanted, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        self._check(wanted)
        if not len(wanted):
            return np.empty((0, 0, 0, 3), dtype=np.uint8)
        self._needed, self._needed_until = set(wanted.tolist()), int(wanted[-1])
        frames: Frames | None = None
        for number, index in enumerate(wanted.tolist()):
            frame = self._frame(index, size)
            if frames is None:
                frames = np.empty((len(inverse), *frame.shape), dtype=np.uint8)
            for row in np.flatnonzero(inverse == number):
                frames[row] = frame
        assert frames is not None
        return frames

    def windows(
        self,
        starts: Sequence[int] | npt.NDArray[np.integer[Any]],
        offsets: Sequence[int] | npt.NDArray[np.integer[Any]],
        *,
        size: int | None = None,
    ) -> Iterator[Frames]:
        """Frames `start + offsets` for each of the increasing `starts`, as `frames` gives them: uint8 (T, H, W, 3).

        One pass forward: no picture is decoded or converted twice however much the windows overlap, and long stretches
        that none of them wants are jumped. Only frames that a later window shares are held in between.
        """
        firsts, shape = np.asarray(starts, dtype=np.int64), np.asarray(offsets, dtype=np.int64)
        if not len(shape):
            raise ValueError("windows need at least one frame offset")
        if (back := np.flatnonzero(np.diff(firsts) < 0)).size:
            raise ValueError(f"window start {firsts[back[0] + 1]} comes after {firsts[back[0]]}; starts must increase")
        if len(firsts):
            self._check(np.array([firsts[0] + shape.min(), firsts[-1] + shape.max()]))
        return self._windows(firsts, shape, size)

    def _windows(
        self, starts: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], size: int | None
    ) -> Iterator[Frames]:
        distinct = np.unique(offsets)
        pending: Counter[int] = Counter()  # how many of the windows seen so far still want a frame
        held: dict[int, Frames] = {}
        seen = 0
        for start in starts:
            last = int(start + distinct[-1])
            while seen < len(starts) and starts[seen] + distinct[0] <= last:
                pending.update((starts[seen] + distinct).tolist())
                seen += 1
            self._needed = set(pending)
            self._needed_until = int(starts[seen] + distinct[0]) if seen < len(starts) else len(self) - 1
            for index in sorted(index for index in pending if index <= last and index not in held):
                held[index] = self._frame(index, size)
            yield np.stack([held[index] for index in (start + offsets).tolist()])
            for index in (start + distinct).tolist():
                pending[index] -= 1
                if not pending[index]:
                    del pending[index], held[index]

    def _check(self, wanted: npt.NDArray[np.int64]) -> None:
        """Raise unless the file has all frames from the first to the last of `wanted`."""
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < len(self):
            outside = wanted[-1] if wanted[-1] >= len(self) else wanted[0]
            raise InputError(f"{self.path}: has no frame {outside}, only 0..{len(self) - 1}")

    def _frame(self, index: int, size: int | None) -> Frames:
        picture = self._picture(index)
        if picture is None and self._passes_over:
            # The file may say too little about the order of its pictures to find this one with others left out.
            self._passes_over = False
            picture = self._picture(index)
            self._passes_over = picture is None  # then it was something else
        if picture is None:
            raise InputError(f"{self.path}: frame {index} cannot be decoded (damaged or missing); fetch the file again")
        self._check_size(index, picture)
        frame = picture.reformat(format="rgb24", **ONE_THREAD).to_ndarray().astype(np.uint8, copy=False)
        return downsample(frame, size, where=str(self.path))

    def _check_size(self, index: int, picture: VideoFrame) -> None:
        """Raise if a picture has another size than those before it."""
        size = (picture.width, picture.height)
        if size in ((self.index.width, self.index.height), self._shape):
            return
        if self._shape is None:  # what a file says of itself need not be so
            decoder = VideoDecoder(self.path, self.index)
            try:
                first = next(decoder.pictures(), (0, picture))[1]
                self._shape = (first.width, first.height)
            finally:
                decoder.close()
        if size != self._shape:
            raise InputError(
                f"{self.path}: frame {index} is {size[0]}x{size[1]}, the first one {self._shape[0]}x{self._shape[1]}; "
                "write the video at one size"
            )

    def _picture(self, index: int) -> VideoFrame | None:
        """The decoded picture; None if it does not come out whole, after which decoding goes on by a jump."""
        damaged = False
        try:
            keyframe = self._keyframe(index)
            first_used = self.index.first_shown(keyframe)
            if not self._position <= index or first_used - self._position > WORTH_A_SEEK or index in self._passed_over:
                self._jump(keyframe)
            for shown, picture in self._pictures:
                self._position = shown + 1
                # Later pictures build on a damaged one, up to the next keyframe, and are not marked themselves.
                damaged |= picture.is_corrupt and shown >= first_used
                if shown == index and not damaged:
                    return picture
                if shown >= index:
                    break
        except av.error.FFmpegError as error:
            self._position = len(self) + 1  # wherever it goes next, by a jump
            raise InputError(
                f"{self.path}: frame {index} cannot be decoded ({reason(error)}); fetch it again"
            ) from error
        self._position = len(self) + 1
        return None

    def _keyframe(self, index: int) -> int:
        """The keyframe to start from for a frame, should it need a start."""
        if not self.index.keyframes_hold:
            if self._position <= index < self._position + WORTH_A_COMPARISON:
                return 0  # going on from here asks for no keyframe
            if self.index.start_for(index):
                self.index = compared(self.path, self.index)
        return self.index.start_for(index) if self.index.keyframes_hold else 0

    def _jump(self, keyframe: int) -> None:
        """Make decoding start at `keyframe`."""
        self.num_seeks += 1
        self._decoder.jump(int(self.index.keyframe_packets[keyframe]))
        self._position = self.index.first_shown(keyframe)
        self._passed_over.clear()
        self._pictures = self._decode()

    def _decode(self) -> Iterator[tuple[int, VideoFrame]]:
        for number, picture in self._decoder.pictures(self._leave_out if self._decoder.leaves_out else None):
            self.num_decoded += 1
            yield number, picture

    def _leave_out(self, frame: int) -> bool:
        if not self._passes_over or frame >= self._needed_until or frame in self._needed:
            return False
        self._passed_over.add(frame)
        return True

    def close(self) -> None:
        """Let go of the file."""
        self._decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def iterate_frames(path: Path, *, size: int | None = None) -> Iterator[Frames]:
    """All frames of the file in order, each uint8 (H, W, 3) RGB, or (size, size, 3)."""
    with VideoReader(path) as reader:
        for index in range(len(reader)):
            yield reader.frames([index], size=size)[0]


def iterate_windows(
    path: Path,
    starts: Sequence[int] | npt.NDArray[np.integer[Any]],
    offsets: Sequence[int] | npt.NDArray[np.integer[Any]],
    *,
    size: int | None = None,
    index: VideoIndex | None = None,
) -> Iterator[Frames]:
    """`VideoReader.windows` of a file that is opened for it and closed after the last window."""
    with VideoReader(path, index=index) as reader:
        yield from reader.windows(starts, offsets, size=size)


def downsample(frame: Frames, size: int | None, *, where: str) -> Frames:
    """Mean over whole boxes of pixels, rounded half up: (H, W, 3) to (size, size, 3); None leaves it as it is."""
    height, width, _ = frame.shape
    if size is None or height == width == size:
        return frame
    check_frame_size(where, width, height, size=size)
    factor = height // size
    area = factor * factor
    number = np.uint16 if area * 255 + area // 2 < 1 << 16 else np.uint32
    # Whole rows first, then one colour at a time: several times faster than a sum over split axes, or over pixels.
    rows = frame.reshape(size, factor, width * 3)
    total = rows[:, 0].astype(number)
    for y in range(1, factor):
        total += rows[:, y]
    columns = total.reshape(size, size, factor, 3)
    small = np.empty((size, size, 3), dtype=np.uint8)
    for colour in range(3):
        mean = columns[:, :, 0, colour] + number(area // 2)
        for x in range(1, factor):
            mean += columns[:, :, x, colour]
        small[:, :, colour] = mean // number(area)
    return small


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
        self._path, self._is_open = path, True
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
        if not self._is_open:
            raise ValueError(f"{self._path}: is finished, no frame can be added")
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
        """Write what the encoder still holds, and the index, and let go of the file; once, however often called."""
        if self._is_open:
            self._container.mux(self._stream.encode(None))
            self._is_open = False
            self._container.close()

    def close(self) -> None:
        """Let go of the file without finishing it."""
        if self._is_open:
            self._is_open = False
            self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.close()
