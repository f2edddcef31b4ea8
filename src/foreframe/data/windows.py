"""Which frames of a recording make a clip; no torch is imported here, so that configurations can ask."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

FrameMode = Literal["stride4_dup_last", "uniform21", "stride2", "all"]


CLIP_HZ = 30.0
"""Frames a second of the recordings that clips are cut from; lengths here are stated at it (challenge-facts 1.1)."""
CLIP_FRAMES = 77
"""Frames from the first observed to the predicted one: 17 given, 60 to go (challenge-facts 2.1)."""


def frame_indices(mode: FrameMode, start: int = 0) -> npt.NDArray[np.int64]:
    """Frames of a 77-frame clip that the sampling model sees (challenge-facts 5.2, 7.1).

    `stride4_dup_last`: 0, 4, ..., 76 and 76 again, as the entry did; `uniform21`: round(3.8 i); `stride2`:
    round(1.9 i), 41 frames; `all`: 77.
    """
    last = CLIP_FRAMES - 1
    match mode:
        case "stride4_dup_last":
            offsets = [*range(0, CLIP_FRAMES, 4), last]
        case "uniform21":
            offsets = [round(i * last / 20) for i in range(21)]
        case "stride2":
            offsets = [round(i * last / 40) for i in range(41)]
        case "all":
            offsets = list(range(CLIP_FRAMES))
    return start + np.array(offsets, dtype=np.int64)
