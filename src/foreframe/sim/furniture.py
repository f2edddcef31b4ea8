"""Furniture that stands or hangs at the walls of simulated rooms: x along the wall, y out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreframe.sim.clutter import fill, plant
from foreframe.sim.textures import Colour, hsv

if TYPE_CHECKING:
    from collections.abc import Callable

    from foreframe.sim.scene import Scene

# Every piece below draws itself against a wall at y = 0 and returns (width, depth) of its footprint.


def shelf(s: Scene) -> tuple[float, float]:
    """An open shelf with books and things."""
    r = s.rng
    width, depth, height = r.uniform(0.8, 1.5), r.uniform(0.28, 0.38), r.uniform(1.3, 2.2)
    look = s.timber() if r.random() < 0.6 else s.palette.cabinet
    for side in (-1, 1):
        s.box(side * (width / 2 - 0.012), depth / 2, 0, 0.025, depth, height, look, solid=True)
    s.box(0, 0.006, 0, width, 0.01, height, look)
    levels = int(height / r.uniform(0.32, 0.42))
    for level in range(levels + 1):
        z = 0.06 + level * (height - 0.08) / levels
        s.box(0, depth / 2, z, width, depth, 0.022, look, solid=True)
        if level == levels:
            fill(s, width - 0.1, depth / 2, z + 0.022, chance=0.5)
            break
        if r.random() < 0.55:
            part = width * r.uniform(0.35, 0.95)
            at = r.choice([-1, 1]) * (width - part - 0.06) / 2
            spines = s.material("books", s.palette.timber, variant=int(r.integers(4)))
            s.box(
                at,
                depth * 0.5,
                z + 0.02,
                part - 0.06,
                depth * 0.65,
                (height - 0.08) / levels * r.uniform(0.62, 0.8),
                spines,
            )
        else:
            fill(s, width - 0.1, depth * 0.55, z + 0.022, chance=0.8)
    return width, depth


def fronts(s: Scene, width: float, depth: float, z: float, height: float, look: str | Colour) -> None:
    """Doors or drawers with handles on the front of a carcass."""
    r = s.rng
    columns = max(1, round(width / r.uniform(0.4, 0.6)))
    step = width / columns
    for k in range(columns):
        x = (k + 0.5) * step - width / 2
        rows = int(r.choice([1, 1, 3]))
        for row in range(rows):
            h = height / rows
            s.box(x, depth + 0.008, z + row * h + 0.008, step - 0.014, 0.018, h - 0.016, look)
            if rows > 1:
                s.box(x, depth + 0.025, z + row * h + h * 0.7, step * 0.4, 0.016, 0.014, s.palette.metal)
            else:
                s.box(x + step * 0.36, depth + 0.025, z + h * 0.6, 0.014, 0.016, min(0.16, h * 0.3), s.palette.metal)


def sofa(s: Scene) -> tuple[float, float]:
    """A sofa with cushions."""
    r = s.rng
    width, depth = r.uniform(1.5, 2.1), 0.85
    look = s.material("fabric", s.palette.textile)
    s.box(0, depth / 2, 0.12, width, depth, 0.3, look, solid=True)
    s.box(0, 0.12, 0.3, width, 0.22, 0.52, look, solid=True)
    for x in (-1, 1):
        s.box(x * (width / 2 - 0.08), depth / 2, 0.12, 0.16, depth, 0.46, look, solid=True)
        s.geom(
            "ellipsoid",
            (x * width * 0.27, 0.32, 0.6),
            (0.22, 0.09, 0.2),
            s.material("stripes", s.colour(value=(0.4, 0.9)), variant=x),
            euler=(-0.35, 0, x * 0.15),
        )
        s.geom(
            "box", (x * (width - 0.34) / 4, depth / 2 + 0.1, 0.47), ((width - 0.36) / 4, depth / 2 - 0.13, 0.06), look
        )
    return width, depth


def cabinet(s: Scene) -> tuple[float, float]:
    """A sideboard or a tall cupboard with things on it."""
    r = s.rng
    width, depth = r.uniform(0.7, 1.4), r.uniform(0.38, 0.5)
    height = r.uniform(0.7, 1.1) if r.random() < 0.65 else r.uniform(1.7, 2.1)
    look = s.timber() if r.random() < 0.5 else s.material("doorleaf", s.palette.cabinet)
    s.box(0, depth / 2, 0.06, width, depth, height - 0.06, look, solid=True)
    fronts(s, width, depth, 0.06, height - 0.08, look)
    fill(s, width - 0.1, depth * 0.5, height, chance=0.85)
    return width, depth


def fridge(s: Scene) -> tuple[float, float]:
    """A fridge with notes stuck to it."""
    r = s.rng
    colour = hsv(r.random(), 0.04, r.uniform(0.6, 0.92))
    s.box(0, 0.33, 0.04, 0.64, 0.62, 1.8, colour, solid=True)
    s.box(0, 0.655, 0.06, 0.62, 0.03, 0.62, colour)
    s.box(0, 0.655, 0.7, 0.62, 0.03, 1.12, colour)
    for z in (0.45, 0.85):
        s.box(0.26, 0.69, z, 0.025, 0.03, 0.3, (0.55, 0.56, 0.58))
    for _ in range(5):
        s.box(
            r.uniform(-0.22, 0.15),
            0.674,
            r.uniform(0.9, 1.6),
            0.1,
            0.004,
            r.uniform(0.08, 0.16),
            s.colour((0.05, 0.3), (0.7, 0.95)),
        )
    fill(s, 0.6, 0.3, 1.84, 0.3)
    return 0.68, 0.68


def rack(s: Scene) -> tuple[float, float]:
    """A metal storage rack with cartons and crates."""
    r = s.rng
    width, depth, height = r.uniform(0.9, 1.5), 0.42, r.uniform(1.6, 2.1)
    for x in (-1, 1):
        for y in (0.02, depth - 0.02):
            s.box(x * (width / 2 - 0.02), y, 0, 0.035, 0.035, height, s.palette.metal, solid=True)
    for level in range(4):
        z = 0.12 + level * (height - 0.15) / 3
        s.box(0, depth / 2, z, width, depth, 0.03, s.palette.metal)
        x = -width / 2 + 0.06
        while level < 3 and x < width / 2 - 0.2:
            w = r.uniform(0.18, 0.4)
            if x + w > width / 2 - 0.04:
                break
            card = hsv(0.085, 0.38, r.uniform(0.5, 0.75)) if r.random() < 0.6 else s.colour(value=(0.3, 0.7))
            s.box(
                x + w / 2,
                depth / 2 + r.normal(0, 0.02),
                z + 0.03,
                w,
                r.uniform(0.25, 0.38),
                r.uniform(0.14, 0.36),
                s.material("label", card, variant=int(r.integers(3))),
            )
            x += w + r.uniform(0.01, 0.12)
    return width, depth


def door(s: Scene) -> tuple[float, float]:
    """A door in its frame."""
    r = s.rng
    frame = hsv(0.1, 0.05, r.uniform(0.7, 0.95))
    leaf = s.material("doorleaf", s.palette.timber if r.random() < 0.5 else hsv(0.1, 0.06, r.uniform(0.6, 0.9)))
    s.box(0, 0.02, 0, 0.86, 0.03, 2.05, leaf)
    for x in (-1, 1):
        s.box(x * 0.48, 0.025, 0, 0.1, 0.05, 2.1, frame)
    s.box(0, 0.025, 2.05, 1.06, 0.05, 0.1, frame)
    s.geom("capsule", (0.33, 0.07, 1.0), (0.011, 0.05), (0.6, 0.6, 0.6), euler=(0, 1.57, 0))
    s.box(0.36, 0.045, 0.95, 0.03, 0.01, 0.16, (0.6, 0.6, 0.6))
    s.box(-0.72, 0.005, 1.1, 0.08, 0.012, 0.08, (0.85, 0.85, 0.83))
    return 1.2, 0.1


def window(s: Scene) -> tuple[float, float]:
    """A window with a sill, a radiator under it, and sometimes curtains."""
    r = s.rng
    width, height, sill = r.uniform(1.0, 1.8), r.uniform(1.0, 1.4), r.uniform(0.8, 1.0)
    white = hsv(0.1, 0.03, r.uniform(0.75, 0.95))
    s.box(0, 0.02, sill, width, 0.03, height, s.material("outdoors", white, glow=0.55, variant=int(r.integers(3))))
    for x in (-1, 1):
        s.box(x * width / 2, 0.035, sill - 0.04, 0.07, 0.07, height + 0.08, white)
    for z in (sill - 0.06, sill + height):
        s.box(0, 0.035, z, width + 0.07, 0.07, 0.06, white)
    s.box(0, 0.1, sill - 0.04, width + 0.1, 0.22, 0.03, white, solid=True)
    fill(s, width - 0.2, 0.12, sill - 0.01, 0.35, chance=0.6)
    if r.random() < 0.6:
        cloth = s.material("stripes", s.palette.textile, variant=9)
        for x in (-1, 1):
            for k in range(4):
                s.cylinder(x * (width / 2 + 0.02 + 0.075 * k), 0.1, 0.15, 0.05, sill + height, cloth)
    for k in range(int(width * 0.8 / 0.09)):
        s.box((k + 0.5) * 0.09 - width * 0.4, 0.09, 0.15, 0.07, 0.09, sill - 0.3, white)
    return width + 0.3, 0.25


def corner(s: Scene) -> tuple[float, float]:
    """Things that stand on the floor: a big plant, a floor lamp, a stack of cartons, a bin."""
    r = s.rng
    kind = r.choice(["plant", "lamp", "cartons", "bin"])
    if kind == "plant":
        plant(s, 0, 0.3, 0, 0.26, r.uniform(0.9, 1.5))
    elif kind == "lamp":
        s.cylinder(0, 0.28, 0, 0.14, 0.03, s.palette.metal, solid=True)
        s.cylinder(0, 0.28, 0, 0.015, 1.4, s.palette.metal, solid=True)
        s.cylinder(0, 0.28, 1.35, 0.19, 0.28, s.material("fabric", hsv(0.1, 0.15, 0.97), glow=0.4))
    elif kind == "cartons":
        z = 0.0
        for _ in range(int(r.integers(2, 5))):
            height = r.uniform(0.2, 0.38)
            card = hsv(0.085, r.uniform(0.25, 0.4), r.uniform(0.5, 0.75))
            s.box(
                r.normal(0, 0.03),
                0.3,
                z,
                r.uniform(0.3, 0.5),
                r.uniform(0.3, 0.45),
                height,
                s.material("label", card, variant=int(r.integers(3))),
                solid=True,
                turn=r.normal(0, 0.2),
            )
            z += height
    else:
        s.cylinder(0, 0.25, 0, 0.16, r.uniform(0.4, 0.6), s.colour((0.02, 0.3)), solid=True)
        s.cylinder(0.38, 0.22, 0, 0.12, 0.3, s.colour((0.02, 0.3)), solid=True)
    return 0.62, 0.55


def chair(s: Scene) -> None:
    """A chair centred on its own origin, back towards -y."""
    r = s.rng
    look = s.material("fabric", s.palette.textile) if r.random() < 0.5 else s.timber()
    s.box(0, 0, 0.43, 0.42, 0.42, 0.04, look, solid=True)
    s.box(0, -0.19, 0.6, 0.4, 0.03, 0.32, look, solid=True)
    for x in (-1, 1):
        for y in (-1, 1):
            s.box(x * 0.18, y * 0.18, 0, 0.03, 0.03, 0.62 if y < 0 else 0.43, s.palette.metal)


def hangings(s: Scene, low: float, high: float) -> None:
    """A picture, a clock or a small shelf on the wall between two heights, in the piece's frame."""
    r = s.rng
    middle = (low + high) / 2
    kind = r.choice(["picture", "picture", "pair", "clock", "shelf", "board"])
    if kind in ("picture", "board"):
        width, height = r.uniform(0.4, 0.95), min(r.uniform(0.4, 0.75), high - low)
        look = s.material(
            "painting", s.palette.metal if r.random() < 0.5 else s.palette.timber, variant=int(r.integers(5))
        )
        s.box(r.normal(0, 0.05), 0.015, middle - height / 2, width, 0.03, height, look)
    elif kind == "pair":
        for x in (-0.28, 0.28):
            s.box(
                x,
                0.015,
                middle - 0.22,
                0.36,
                0.03,
                0.44,
                s.material("painting", s.palette.metal, variant=int(r.integers(5))),
            )
    elif kind == "clock":
        s.geom("cylinder", (0, 0.02, middle), (0.16, 0.015), (0.93, 0.92, 0.88), euler=(1.5708, 0, 0))
        s.geom("cylinder", (0, 0.015, middle), (0.18, 0.014), (0.15, 0.15, 0.16), euler=(1.5708, 0, 0))
        s.box(0.03, 0.04, middle, 0.09, 0.005, 0.012, (0.1, 0.1, 0.1))
        s.box(0, 0.04, middle, 0.012, 0.005, 0.12, (0.1, 0.1, 0.1))
    else:
        width = r.uniform(0.6, 1.0)
        s.box(0, 0.11, middle - 0.1, width, 0.2, 0.025, s.timber())
        fill(s, width, 0.11, middle - 0.075, 0.17, chance=0.9)


WALL_PIECES: dict[str, Callable[[Scene], tuple[float, float]]] = {
    "shelf": shelf, "cabinet": cabinet, "sofa": sofa, "fridge": fridge, "rack": rack, "corner": corner,
}  # fmt: skip
