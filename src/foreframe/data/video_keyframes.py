"""Keyframes of codecs whose packets are not looked into: which of them hold, by comparison with the whole film."""

# PyAV's annotations are partial: what they leave unknown is not ours to fix.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import zlib
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import av.error
import numpy as np

from foreframe.data.video_decoder import ONE_THREAD, VideoDecoder

if TYPE_CHECKING:
    from pathlib import Path

    from av.video.frame import VideoFrame

    from foreframe.data.video_index import VideoIndex

_APART = 8
"""Frames between keyframes that are of use: to decode so many is quicker than to begin anew."""
_MOST_DECODED = 2
"""Times the film's length that may be decoded in search of keyframes; what is not tried by then is not used."""


def compared(path: Path, index: VideoIndex) -> VideoIndex:
    """The index with the keyframes from which the same pictures come as from the file's start, up to the next such.

    Takes two to three times as long as decoding the file once.
    """
    truth: list[int | None] = [None] * len(index)
    own_word: set[int] = set()
    decoder = VideoDecoder(path, index)
    holding: list[int] = []
    try:
        with suppress(av.error.FFmpegError):  # what is behind that cannot be read either way
            for number, picture in decoder.pictures():
                truth[number] = _checksum(picture)
                if picture.key_frame:
                    own_word.add(number)
        end, left = len(index), _MOST_DECODED * len(index)
        for keyframe in range(len(index.keyframe_pts) - 1, 0, -1):
            first = index.first_shown(keyframe)
            # Files without a list of keyframes call every picture one: ask the decoder as well.
            if first not in own_word or end - first < (_APART if holding else 1) or left <= 0:
                continue
            decoder.jump(int(index.keyframe_packets[keyframe]))
            missing = set(range(first, end))
            with suppress(av.error.FFmpegError):
                for number, picture in decoder.pictures():
                    left -= 1
                    if number >= first and _checksum(picture) != truth[number]:
                        break
                    missing.discard(number)
                    if not missing:
                        holding.append(keyframe)
                        end = first
                        break
    finally:
        decoder.close()
    keep = np.array([0, *reversed(holding)], dtype=np.int64)
    return replace(
        index,
        keyframe_pts=index.keyframe_pts[keep],
        keyframe_packets=index.keyframe_packets[keep],
        keyframes_hold=True,
    )


def _checksum(picture: VideoFrame) -> int:
    frame = picture.reformat(format="rgb24", **ONE_THREAD).to_ndarray()
    return zlib.crc32(frame.tobytes(), zlib.crc32(str(frame.shape).encode()))
