"""Places to work at in simulated rooms, drawn against a wall: tables, kitchen counters, workbenches, lab benches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreframe.sim.clutter import clutter, fill
from foreframe.sim.furniture import fronts
from foreframe.sim.textures import hsv

if TYPE_CHECKING:
    from foreframe.sim.scene import Scene

WORK_PIECES = ("counter", "table", "bench", "lab bench")


def depth_of(s: Scene, name: str) -> float:
    """Draw the depth of a work piece, m."""
    return {"counter": 0.6, "bench": 0.65, "lab bench": 0.65}.get(name) or float(s.rng.uniform(0.6, 0.75))


def table(s: Scene, width: float, height: float, depth: float) -> None:
    """A table or desk on four legs."""
    r = s.rng
    top = s.timber() if r.random() < 0.65 else s.material("speckle", s.colour((0.02, 0.2), (0.55, 0.9)))
    s.box(0, depth / 2, height - 0.035, width, depth, 0.035, top, solid=True)
    legs = s.palette.metal if r.random() < 0.5 else s.palette.timber
    for x in (-1, 1):
        for y in (0.06, depth - 0.06):
            s.box(x * (width / 2 - 0.06), y, 0, 0.05, 0.05, height - 0.035, legs, solid=True)
    if r.random() < 0.5:
        s.box(
            r.choice([-1, 1]) * (width / 2 - 0.26),
            depth / 2,
            0.06,
            0.38,
            depth - 0.15,
            0.5,
            s.material("doorleaf", s.palette.cabinet),
            solid=True,
        )
    else:
        s.box(0, 0.03, height - 0.16, width - 0.12, 0.02, 0.12, legs)


def desk_back(s: Scene, width: float, z: float, *, free: tuple[tuple[float, float], ...] = ()) -> None:
    """What stands at the back of an office desk, but not in the stretches of `free`: monitors, a small thing."""
    r = s.rng
    for k in range(int(r.integers(1, 3))):
        x = (k - 0.3) * 0.56 + r.normal(0, 0.05)
        if abs(x) > width / 2 - 0.25 or any(a - 0.27 < x < b + 0.27 for a, b in free):
            continue
        s.box(x, 0.14, z, 0.2, 0.14, 0.012, (0.1, 0.1, 0.11))
        s.box(x, 0.12, z, 0.04, 0.03, 0.2, (0.1, 0.1, 0.11))
        s.box(
            x,
            0.14,
            z + 0.12,
            0.52,
            0.03,
            0.31,
            s.material("screen", (0, 0, 0), glow=0.35, variant=int(r.integers(3))),
            turn=r.normal(0, 0.08),
            solid=True,
        )
    mark = len(s.geoms)
    clutter(s, -width / 2 + 0.16, 0.14, z, 0.18, solid=True)
    if any(a < -width / 2 + 0.25 for a, _ in free):
        del s.geoms[mark:]


def counter(s: Scene, width: float, height: float, *, free: tuple[tuple[float, float], ...] = ()) -> None:
    """A kitchen run: base units, worktop, tiles behind, wall units, and outside `free` a sink or a hob."""
    r = s.rng
    depth = 0.6
    s.box(0, depth / 2 - 0.02, 0.08, width, depth - 0.04, height - 0.12, s.palette.cabinet, solid=True)
    s.box(0, depth / 2 - 0.05, 0, width, depth - 0.12, 0.08, (0.12, 0.12, 0.12))
    fronts(s, width, depth - 0.04, 0.08, height - 0.12, s.material("doorleaf", s.palette.cabinet))
    top = s.material(
        str(r.choice(["speckle", "wood"])),
        hsv(r.uniform(0.05, 0.15), r.uniform(0.02, 0.3), r.uniform(0.3, 0.8)),
        shine=0.4,
    )
    s.box(0, depth / 2, height - 0.04, width + 0.02, depth + 0.02, 0.04, top, solid=True)
    s.panel(
        0,
        0.012,
        height,
        width,
        0.55,
        s.material("tiles", s.colour((0.02, 0.25), (0.6, 0.95)), cube=False, repeat=2.5, shine=0.5),
    )
    if r.random() < 0.75:
        z = height + 0.55
        s.box(0, 0.16, z, width, 0.32, 0.65, s.palette.cabinet)
        fronts(s, width, 0.32, z, 0.65, s.material("doorleaf", s.palette.cabinet))
    else:
        s.box(0, 0.12, height + 0.6, width, 0.22, 0.025, s.timber())
        fill(s, width, 0.12, height + 0.625, 0.18)
    x, mark = r.uniform(-0.3, 0.3) * width, len(s.geoms)
    if r.random() < 0.5:
        s.box(x, 0.18, height, 0.5, 0.26, 0.006, (0.07, 0.07, 0.08))
        for k in (-1, 1):
            s.cylinder(x + 0.12 * k, 0.18, height + 0.006, 0.08, 0.004, (0.2, 0.2, 0.21))
        if r.random() < 0.7:
            s.cylinder(x + 0.12, 0.18, height + 0.01, 0.09, 0.12, s.palette.metal, solid=True)
            s.geom("capsule", (x + 0.28, 0.18, height + 0.1), (0.01, 0.08), (0.15, 0.15, 0.15), euler=(0, 1.57, 0))
    else:
        s.box(x, 0.2, height, 0.44, 0.24, 0.003, (0.45, 0.46, 0.48))
        s.cylinder(x, 0.06, height, 0.015, 0.24, (0.7, 0.7, 0.72))
        s.geom("capsule", (x, 0.13, height + 0.24), (0.012, 0.07), (0.7, 0.7, 0.72), euler=(1.57, 0, 0))
    if any(a - 0.27 < x < b + 0.27 for a, b in free):
        del s.geoms[mark:]


def bench(s: Scene, width: float, height: float) -> None:
    """A workbench with a pegboard of tools above it."""
    r = s.rng
    depth = 0.65
    s.box(0, depth / 2, height - 0.06, width, depth, 0.06, s.timber(), solid=True)
    for x in (-1, 1):
        s.box(x * (width / 2 - 0.08), depth / 2, 0, 0.09, depth - 0.1, height - 0.06, s.palette.metal, solid=True)
    s.box(0, depth / 2, 0.22, width - 0.2, depth - 0.15, 0.03, s.timber())
    fill(s, width - 0.3, depth * 0.5, 0.25, 0.3)
    board = s.material("dots", hsv(r.uniform(0.05, 0.6), 0.15, r.uniform(0.5, 0.8)), cube=False, repeat=4)
    s.panel(0, 0.02, height + 0.2, width, 0.75, board)
    for k in range(int(width / 0.13)):
        x, z, length = (k + 0.6) * 0.13 - width / 2, height + r.uniform(0.45, 0.85), r.uniform(0.08, 0.16)
        s.geom(
            "capsule",
            (x, 0.045, z),
            (r.uniform(0.008, 0.018), length / 2),
            s.colour((0.2, 0.5), (0.3, 0.8)),
            euler=(0, r.normal(0, 0.1), 0),
        )
        s.box(x, 0.045, z - length * 0.9, r.uniform(0.02, 0.07), 0.02, r.uniform(0.03, 0.09), (0.4, 0.41, 0.43))


def lab_bench(s: Scene, width: float, height: float, *, free: tuple[tuple[float, float], ...] = ()) -> None:
    """A laboratory bench: white units, a pale top, a bridge of bottles above, and outside `free` instruments."""
    r = s.rng
    depth, white = 0.65, hsv(r.uniform(0.5, 0.6), r.uniform(0.01, 0.08), r.uniform(0.72, 0.88))
    s.box(0, depth / 2 - 0.05, 0.06, width, depth - 0.1, height - 0.1, white, solid=True)
    fronts(s, width, depth - 0.1, 0.06, height - 0.1, s.material("plaster", white))
    top = s.material("speckle", hsv(0.55, 0.04, r.uniform(0.45, 0.8)), shine=0.4)
    s.box(0, depth / 2, height - 0.035, width + 0.02, depth + 0.02, 0.035, top, solid=True)
    for x in (-1, 1):
        s.box(x * (width / 2 - 0.02), 0.1, height, 0.03, 0.16, 0.76, s.palette.metal)
    for z in (0.38, 0.75):
        s.box(0, 0.1, height + z, width, 0.19, 0.02, white)
        fill(s, width - 0.1, 0.1, height + z + 0.02, 0.2, chance=0.8)
    for k in range(max(1, int(width / 0.6))):
        x, mark = (k + 0.5) * 0.6 - width / 2 + r.normal(0, 0.04), len(s.geoms)
        (microscope if r.random() < 0.4 else instrument)(s, x, 0.17, height)
        if abs(x) > width / 2 - 0.2 or any(a - 0.2 < x < b + 0.2 for a, b in free):
            del s.geoms[mark:]


def instrument(s: Scene, x: float, y: float, z: float) -> None:
    """A box with a dial plate and a display."""
    r = s.rng
    width, height = r.uniform(0.24, 0.36), r.uniform(0.16, 0.28)
    case = hsv(r.uniform(0.5, 0.65), r.uniform(0.02, 0.15), r.uniform(0.45, 0.85))
    s.box(x, y, z, width, 0.26, height, case, solid=True)
    s.box(x, y + 0.132, z + 0.02, width - 0.03, 0.006, height - 0.04, hsv(0.6, 0.05, 0.3))
    show = s.material("screen", (0, 0, 0), glow=0.35, variant=int(r.integers(3)))
    s.box(x - width * 0.18, y + 0.136, z + height * 0.4, width * 0.42, 0.006, height * 0.4, show)
    for k in (0, 1):
        dial = (x + width * (0.16 + 0.17 * k), y + 0.142, z + height * 0.55)
        s.geom("cylinder", dial, (0.016, 0.008), (0.75, 0.75, 0.72), euler=(1.5708, 0, 0))


def microscope(s: Scene, x: float, y: float, z: float) -> None:
    """A foot, an arm, a stage and a slanted tube."""
    body = hsv(0.58, 0.05, s.rng.uniform(0.25, 0.85))
    s.box(x, y, z, 0.15, 0.2, 0.035, body, solid=True)
    s.box(x, y - 0.07, z + 0.035, 0.05, 0.05, 0.24, body, solid=True)
    s.box(x, y + 0.01, z + 0.11, 0.12, 0.12, 0.012, (0.12, 0.12, 0.13))
    s.geom("capsule", (x, y + 0.02, z + 0.27), (0.024, 0.08), body, euler=(-0.5, 0, 0))
    s.geom("cylinder", (x, y + 0.005, z + 0.18), (0.014, 0.04), (0.7, 0.7, 0.72))
