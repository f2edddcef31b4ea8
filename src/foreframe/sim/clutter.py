"""Small things that stand on surfaces in simulated rooms: cartons, bottles, plants, lamps, books, toys."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from foreframe.sim.textures import hsv

if TYPE_CHECKING:
    from foreframe.sim.scene import Scene
    from foreframe.sim.textures import Colour


def clutter(s: Scene, x: float, y: float, z: float, room: float, *, solid: bool = False) -> None:
    """One small thing that stands on a surface, within `room` metres across and at most ~0.35 m high."""
    r = s.rng
    kind = r.choice(["carton", "bottle", "plant", "mug", "pile", "bowl", "vase", "tin", "lamp", "frame", "toy"])
    half = room / 2
    if kind == "carton":
        look = s.material("label", s.colour(value=(0.4, 0.9)), variant=int(r.integers(6)))
        s.box(
            x,
            y,
            z,
            r.uniform(0.5, 0.95) * room,
            r.uniform(0.3, 0.7) * room,
            r.uniform(0.07, 0.24),
            look,
            solid=solid,
            turn=r.normal(0, 0.2),
        )
    elif kind == "bottle":
        radius, height, colour = (
            min(half, r.uniform(0.03, 0.045)),
            r.uniform(0.13, 0.22),
            s.colour((0.2, 0.5), (0.2, 0.7)),
        )
        s.cylinder(x, y, z, radius, height, colour, solid=solid)
        s.cylinder(x, y, z + height, radius * 0.4, 0.06, colour)
        s.cylinder(x, y, z + height * 0.25, radius * 1.02, height * 0.4, s.colour((0.0, 0.3), (0.7, 0.95)))
    elif kind == "plant":
        plant(s, x, y, z, min(half, 0.09), r.uniform(0.1, 0.22))
    elif kind in ("mug", "tin"):
        look: str | Colour = (
            s.colour(value=(0.5, 0.95))
            if kind == "mug"
            else s.material("label", s.colour(), variant=int(r.integers(6)))
        )
        radius, height = min(half, r.uniform(0.035, 0.045)), r.uniform(0.08, 0.12)
        s.cylinder(x, y, z, radius, height, look, solid=solid)
        if kind == "mug":
            s.cylinder(x, y, z + height, radius * 0.86, 0.001, (0.2, 0.14, 0.1))
            s.geom("capsule", (x + radius + 0.004, y, z + height / 2), (0.007, height * 0.25), look)
    elif kind == "pile":
        for level in range(int(r.integers(2, 6))):
            s.box(
                x,
                y,
                z + 0.025 * level,
                room * r.uniform(0.7, 1),
                room * r.uniform(0.5, 0.75),
                0.024,
                s.colour(),
                solid=solid,
                turn=r.normal(0, 0.15),
            )
    elif kind == "bowl":
        s.geom(
            "ellipsoid",
            (x, y, z + 0.035),
            (min(half, 0.11), min(half, 0.11), 0.045),
            s.colour(value=(0.5, 0.95)),
            solid=solid,
        )
        for _ in range(3):
            fruit = hsv(r.uniform(0.02, 0.25), 0.55, r.uniform(0.6, 0.85))
            s.geom(
                "sphere", (x + r.normal(0, 0.025), y + r.normal(0, 0.025), z + 0.085), (r.uniform(0.025, 0.035),), fruit
            )
    elif kind == "vase":
        colour = s.colour(value=(0.4, 0.9))
        s.geom("ellipsoid", (x, y, z + 0.08), (min(half, 0.06), min(half, 0.06), 0.08), colour, solid=solid)
        s.cylinder(x, y, z + 0.12, 0.025, 0.08, colour)
        for _ in range(4):
            s.geom(
                "capsule",
                (x + r.normal(0, 0.02), y + r.normal(0, 0.02), z + 0.26),
                (0.004, 0.08),
                hsv(0.27, 0.4, 0.4),
                euler=(r.normal(0, 0.25), r.normal(0, 0.25), 0),
            )
    elif kind == "lamp":
        s.cylinder(x, y, z, min(half, 0.07), 0.015, s.palette.metal)
        s.cylinder(x, y, z, 0.01, 0.25, s.palette.metal, solid=solid)
        s.cylinder(x, y, z + 0.22, min(half, 0.1), 0.13, s.material("fabric", hsv(0.1, 0.18, 0.95), glow=0.35))
    elif kind == "frame":
        look = s.material("painting", s.palette.metal, variant=int(r.integers(4)))
        s.box(x, y, z, min(room, 0.18), 0.015, r.uniform(0.14, 0.24), look, turn=r.normal(0, 0.15))
    else:
        for _ in range(3):
            width = r.uniform(0.04, 0.07)
            s.box(
                x + r.uniform(-0.5, 0.5) * (room - width),
                y + r.normal(0, 0.02),
                z,
                width,
                width,
                width,
                s.colour((0.25, 0.5), (0.45, 0.85)),
                turn=r.uniform(0, 1.5),
            )


def plant(s: Scene, x: float, y: float, z: float, radius: float, height: float) -> None:
    """A pot with leaves."""
    r = s.rng
    s.cylinder(x, y, z, radius * 0.75, height * 0.45, s.colour((0.05, 0.4), (0.4, 0.85)))
    s.cylinder(x, y, z + height * 0.45, radius * 0.65, 0.002, (0.16, 0.11, 0.08))
    hue = r.uniform(0.22, 0.36)
    for _ in range(int(r.integers(7, 12))):
        lean, turn = r.uniform(0.15, 0.9), r.uniform(0, 6.283)
        length = height * r.uniform(0.4, 0.75)
        ox, oy = math.sin(turn) * math.sin(lean) * length, -math.cos(turn) * math.sin(lean) * length
        leaf = hsv(hue + r.normal(0, 0.02), r.uniform(0.3, 0.5), r.uniform(0.25, 0.55))
        s.geom(
            "ellipsoid", (x + ox * 0.8, y + oy * 0.8, z + height * 0.45 + length * math.cos(lean) * 0.8),
            (radius * 0.3, radius * 0.09, length * 0.8), leaf, euler=(lean * math.cos(turn), lean * math.sin(turn), 0),
        )  # fmt: skip


def fill(
    s: Scene, width: float, y: float, z: float, spacing: float = 0.24, *, chance: float = 0.75, solid: bool = False,
    free: tuple[tuple[float, float], ...] = (),
) -> None:  # fmt: skip
    """A row of clutter along x, centred; what would stand in a stretch of `free` is left out."""
    count = max(1, int(width / spacing))
    room = min(0.2, 0.8 * width / count)
    for k in range(count):
        if s.rng.random() < chance:
            x, mark = (k + 0.5) * width / count - width / 2, len(s.geoms)
            clutter(s, x, y + s.rng.normal(0, 0.02), z, room, solid=solid)
            if any(a - room / 2 < x < b + room / 2 for a, b in free):
                del s.geoms[mark:]
