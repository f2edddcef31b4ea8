"""Pictures of one mp4 from a keyframe on: the bytes of its packets, read where the index says, through FFmpeg."""

# PyAV's annotations are partial: what they leave unknown is not ours to fix.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import av

from foreframe.data.film import open_film
from foreframe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from av.packet import Packet
    from av.video.frame import VideoFrame

    from foreframe.data.video_index import VideoIndex

ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
"""For colour conversion, which takes a thread per core from PyAV 17 on: a forked loader worker that frees such a
converter of its parent's waits for ever for threads that it does not have."""


class VideoDecoder:
    """Decodes one file in order, from its start or from a keyframe of its index; one thread.

    FFmpeg's own search is not used: it goes by what a file marks as keyframes and, in fragmented files, elsewhere.
    """

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self.path, self.index = path, index
        self._container, self._stream = open_film(path)
        self._file = path.open("rb", buffering=0)
        self._next = 0
        # Of these it is known that nothing before a keyframe counts; others keep tables from wherever they were, be
        # every picture a keyframe (JPEG).
        self._may_go_on = self._stream.codec_context.name in ("h264", "hevc") and not index.parameters_change
        self.leaves_out = self._stream.codec_context.name == "h264"
        """H.264 predicts nothing from a picture it marks as not referred to; other codecs' higher layers may."""

    def jump(self, packet: int) -> None:
        """Make decoding start at one of the index's `keyframe_packets`; iterate over `pictures` anew after that."""
        if self._may_go_on and len(self.index.places):
            self._stream.codec_context.flush_buffers()
        else:
            self._container.close()
            self._container, self._stream = open_film(self.path)
        self._next = packet

    def pictures(self, leave_out: Callable[[int], bool] | None = None) -> Iterator[tuple[int, VideoFrame]]:
        """Each picture that is shown, with its frame number; those to `leave_out` only where nothing needs them."""
        context = self._stream.codec_context
        context.skip_frame = "DEFAULT"
        leaving_out = False
        for packet in self._packets():
            if leave_out is not None:
                out = packet is not None and packet.pts is not None and leave_out(packet.pts)
                if out != leaving_out:
                    # With one thread the decoder takes a packet when it is sent, so this is for this picture alone.
                    context.skip_frame = "NONREF" if out else "DEFAULT"
                    leaving_out = out
            for picture in context.decode(packet):
                if picture.pts is not None:
                    yield picture.pts, picture

    def _packets(self) -> Iterator[Packet[Any] | None]:
        """The packets from the next one on, stamped with their frame numbers; at last None, for what is held back."""
        index = self.index
        if not len(index.places):
            number = 0
            for packet in self._container.demux(self._stream):
                if packet.size:
                    packet.pts = _frame(index, number)
                    number += 1
                    yield packet
            yield None
            return
        before = index.parameters.get(self._next, b"")
        for number in range(self._next, len(index.places)):
            size = int(index.sizes[number])
            content = os.pread(self._file.fileno(), size, int(index.places[number]))
            if len(content) < size:
                raise InputError(f"{self.path}: has become shorter while it was read; fetch the file again")
            content = before + content
            packet = av.Packet(len(content))  # of that size first: only so does FFmpeg get the zeros it needs behind
            packet.update(content)
            packet.pts = _frame(index, number)
            before = b""
            yield packet
        yield None

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()
        self._file.close()


def _frame(index: VideoIndex, packet: int) -> int | None:
    frame = int(index.frame_of_packet[packet])
    return None if frame < 0 else frame
