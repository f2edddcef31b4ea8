"""H.264 and HEVC packets by the types of their NAL units: which pictures decoding can start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["entry", "broken entry", "leading", "other"]
"""Of a picture: `entry`, what is shown from it on depends on nothing before it; `broken entry`, the same, and pictures
that lead it are never shown; `leading`, it leads an entry and also depends on what comes before that; `other`, none."""

_H264: dict[int, Kind] = {5: "entry"}  # IDR; a recovery point only promises a picture that looks right
_HEVC: dict[int, Kind] = {
    **dict.fromkeys((19, 20, 21), "entry"),  # IDR and CRA
    **dict.fromkeys((16, 17, 18), "broken entry"),  # BLA
    **dict.fromkeys((8, 9), "leading"),  # RASL
}
_START_CODE = b"\0\0\1"


@dataclass(frozen=True)
class Head:
    """What a packet says before its picture's first slice."""

    kind: Kind
    parameters: tuple[bytes, ...] = ()
    """Parameter sets that stand in the packet itself, each one NAL unit."""


class NalUnits:
    """How one stream's packets are made of NAL units, by its extradata: avcC, hvcC, or start codes (Annex B)."""

    def __init__(self, codec: Literal["h264", "hevc"], extradata: bytes) -> None:
        self._hevc = codec == "hevc"
        self._extradata = extradata
        place = 21 if self._hevc else 4
        in_boxes = extradata[:1] == b"\1" or (self._hevc and len(extradata) > place and extradata[:3] != b"\0\0\0")
        self.length_size = (extradata[place] & 3) + 1 if in_boxes and len(extradata) > place else 0
        """Bytes of the length before each unit; 0 for start codes."""

    def head(self, packet: bytes) -> Head:
        """Of the packet's first picture; `other` where it cannot be made out."""
        parameters: list[bytes] = []
        for begin, end in self._with_lengths(packet) if self.length_size else self._with_start_codes(packet):
            first = packet[begin]
            if self._hevc:
                kind = first >> 1 & 63
                if first & 1 or packet[begin + 1] >> 3:
                    continue  # another layer, which is not decoded
                if kind < 32:
                    return _head(_HEVC.get(kind, "other"), parameters)
                is_parameters = kind <= 34
            else:
                kind = first & 31
                if 1 <= kind <= 5:
                    return _head(_H264.get(kind, "other"), parameters)
                is_parameters = kind in (7, 8, 13, 15)
            if is_parameters:
                parameters.append(packet[begin:end].rstrip(b"\0"))
        return _head("other", parameters)

    def is_known(self, parameters: bytes) -> bool:
        """Whether the extradata hold that parameter set as well."""
        return parameters in self._extradata

    def join(self, units: list[bytes]) -> bytes:
        """Units as they stand in a packet."""
        size = self.length_size
        return b"".join((len(unit).to_bytes(size, "big") if size else b"\0" + _START_CODE) + unit for unit in units)

    def _with_lengths(self, packet: bytes) -> Iterator[tuple[int, int]]:
        """Begin and end of each unit, as far as the lengths make sense."""
        size, place = self.length_size, 0
        while place + size < len(packet):
            begin = place + size
            place = begin + int.from_bytes(packet[place:begin], "big")
            if place > len(packet):
                return
            if place - begin >= 2:
                yield begin, place

    def _with_start_codes(self, packet: bytes) -> Iterator[tuple[int, int]]:
        begin = packet.find(_START_CODE) + 3
        while begin >= 3:
            following = packet.find(_START_CODE, begin)
            end = len(packet) if following < 0 else following
            if end - begin >= 2:
                yield begin, end
            begin = following + 3


_BARE: dict[Kind, Head] = {kind: Head(kind) for kind in ("entry", "broken entry", "leading", "other")}


def _head(kind: Kind, parameters: list[bytes]) -> Head:
    return Head(kind, tuple(parameters)) if parameters else _BARE[kind]
