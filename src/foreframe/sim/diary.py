"""What the scripted robot did and how it came out, read from the simulator's truth, for the side files."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Diary:
    """Records with plain JSON values; `frame` counts 1/30 s from the start of the robot's work."""

    behaviours: list[tuple[int, str]] = field(default_factory=list)
    """(first frame, name)."""
    grasps: list[dict[str, object]] = field(default_factory=list)
    """Object, side, frame of closing, rise in m, and whether it was lifted by more than 5 cm."""
    fixtures: list[dict[str, object]] = field(default_factory=list)
    """Fixture, kind, action, side, frame of closing the hand, joint position before, wanted and after (m or rad), and
    whether it moved more than 60 % of the way from before to wanted."""
    carries: list[dict[str, object]] = field(default_factory=list)
    """Object, side, frame of setting off, stations from and to (indices), the end's frame, and whether the object then
    stood on the other work surface."""
    topples: list[dict[str, object]] = field(default_factory=list)
    """Object, side, frame of the push, tilt in degrees after it, and whether that is more than 45."""
