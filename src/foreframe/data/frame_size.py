"""Which sizes of frames are read: one line about every other, the same from every command."""

from __future__ import annotations

from foreframe.errors import InputError


def frame_size_fault(width: int, height: int, *, size: int | None = None) -> str | None:
    """What is wrong with frames of that size in pixels, to be read at `size` if given, and what to do; None if nothing.

    Frames are square with an even side, and become smaller by whole boxes of pixels only.
    """
    if width != height or width % 2:
        side = max(min(width, height) // 16 * 16, 16)
        return (
            f"frames of {width}x{height} are not read, only square ones with an even side, such as {side}x{side}; crop "
            f"or pad them, as with `ffmpeg -i OLD -vf crop={side}:{side} NEW.mp4`"
        )
    if size is not None and (size <= 0 or width % size):
        return (
            f"frames of {width}x{height} cannot be box-downsampled to {size}x{size}; choose a size that divides "
            f"{width}, or scale the video to a multiple of the size"
        )
    return None


def check_frame_size(where: object, width: int, height: int, *, size: int | None = None) -> None:
    """Raise `InputError` with what `frame_size_fault` says."""
    if fault := frame_size_fault(width, height, size=size):
        raise InputError(f"{where}: {fault}")
