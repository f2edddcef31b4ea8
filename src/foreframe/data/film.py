"""Opening an mp4 file: its one film, apart from cover pictures, and the boxes that describe it."""

# PyAV's annotations are partial: what they leave unknown is not ours to fix.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import av
import av.error
from av.stream import Disposition

from foreframe.errors import InputError
from foreframe.files import require_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.container import InputContainer
    from av.video.stream import VideoStream

LARGEST_INDEX = 1 << 26
"""Bytes of an mp4's index up to which it is looked into; an hour of pictures has 2 MB."""


def films(container: InputContainer) -> list[VideoStream]:
    """The video streams of a file without its pictures: covers and chapters' thumbnails."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def open_container(path: Path) -> InputContainer:
    """The file as FFmpeg opens it; what it says in words, which nobody reads here, may be in any encoding."""
    return av.open(str(path), metadata_errors="replace")


def open_film(path: Path) -> tuple[InputContainer, VideoStream]:
    """An open mp4 and its one film, to be decoded in one thread; `InputError` where there is no such thing."""
    require_regular(path)
    try:
        container = open_container(path)
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{path}: cannot be opened as a video ({reason(error)}); fetch or write it again") from error
    said = ""
    streams = films(container)
    if "mp4" not in container.format.name:
        # Others may give no time stamps, or other packets than they hold.
        said = f"is {container.format.name}, not mp4; wrap it again, as with `ffmpeg -i OLD -c copy NEW.mp4`"
    elif not streams:
        said = "holds no video stream"
        said += ", only a cover picture" if container.streams.video else ""
    elif len(streams) > 1:
        said = too_many_films(streams)
    elif cast("object", streams[0].codec_context) is None:
        said = "holds video in a form that cannot be decoded; fetch it again, or write it as H.264"
    if said:
        container.close()
        raise InputError(f"{path}: {said}")
    # More threads would keep several frames in flight per open file; loaders run many readers side by side instead.
    streams[0].codec_context.thread_count = 1
    return container, streams[0]


def film_size(path: Path) -> tuple[int, int]:
    """Width and height of a file's frames, as its header says; nothing else is read."""
    container, stream = open_film(path)
    try:
        return stream.codec_context.width, stream.codec_context.height
    finally:
        container.close()


def too_many_films(streams: list[VideoStream]) -> str:
    """What is wrong with a file of several films, and what to do."""
    numbers = ", ".join(str(stream.index) for stream in streams)
    return (
        f"holds {len(streams)} films (streams {numbers}), and which one is meant it does not say; keep one, as with "
        f"`ffmpeg -i OLD -map 0:{streams[0].index} -c copy NEW.mp4`"
    )


def reason(error: Exception) -> str:
    """An error of FFmpeg's or the system's in few words."""
    return getattr(error, "strerror", None) or type(error).__name__


def boxes(content: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each mp4 box from `begin` to `end`, and where its content begins and ends."""
    while begin + 8 <= end:
        length = int.from_bytes(content[begin : begin + 4], "big")
        if length < 8 or begin + length > end:
            return
        yield content[begin + 4 : begin + 8], begin + 8, begin + length
        begin += length


def is_described_twice(path: Path) -> bool:
    """Whether a track has several descriptions of its pictures: FFmpeg tells the decoder, apart from the bytes."""
    moov = _moov(path)
    return _has_descriptions(moov, 0, len(moov))


def _has_descriptions(content: bytes, begin: int, end: int) -> bool:
    for kind, first, last in boxes(content, begin, end):
        if kind == b"stsd" and int.from_bytes(content[first + 4 : first + 8], "big") > 1:
            return True
        is_inside = kind in (b"mdia", b"minf", b"stbl") or (kind == b"trak" and b"vide" in content[first:last])
        if is_inside and _has_descriptions(content, first, last):
            return True
    return False


def _moov(path: Path) -> bytes:
    """Content of the box that describes a file's tracks; empty if there is none."""
    size, place = path.stat().st_size, 0
    with path.open("rb") as file:
        while place + 8 <= size:
            file.seek(place)
            head = file.read(16)
            length, begin = int.from_bytes(head[:4], "big"), 8
            if length == 1:
                length, begin = int.from_bytes(head[8:], "big"), 16
            elif length == 0:
                length = size - place
            if head[4:8] == b"moov" and length <= LARGEST_INDEX:
                file.seek(place + begin)
                return file.read(length - begin)
            place += max(length, 8)
    return b""
