"""Furniture that moves on joints: chests with a drawer or a hinged door that stand on the work surfaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from foreframe.sim.textures import hsv

if TYPE_CHECKING:
    import numpy as np

    from foreframe.sim.scene import Scene
    from foreframe.sim.textures import Colour

FRONT = 0.3
"""From the edge of the work surface back to the front of a chest, m: the handle is then within reach."""

_PANEL = 0.014
_STAND = 0.05
_BAR = 0.0115


@dataclass(frozen=True, kw_only=True)
class Fixture:
    """A drawer or a door that the robot can open and close."""

    joint: str
    """Name of its joint; 0 is shut."""
    kind: Literal["drawer", "door"]
    """A drawer slides, a door turns on a hinge."""
    travel: float
    """Upper end of the joint's range, m or rad."""
    handle: str
    """Name of the site at the middle of its handle."""
    station: int
    """Index in `Room.stations` of the place from which it is worked."""
    contents: tuple[str, ...] = ()
    """Loose objects inside."""


@dataclass(frozen=True, kw_only=True)
class Chest:
    """Size and place of a chest, in the frame of its wall: x along it, y out of it."""

    kind: Literal["drawer", "door"]
    x: float
    """Middle, m."""
    front: float
    """Out of the wall, m."""
    z: float
    """Height of what it stands on, m."""
    width: float
    """m"""
    depth: float
    """m"""
    height: float
    """m"""
    outer: int
    """-1 or 1: the side away from where the robot stands; a door has its hinge there."""

    @property
    def span(self) -> tuple[float, float]:
        """Along the wall, with a margin: where nothing else may stand, m."""
        return self.x - self.width / 2 - 0.02, self.x + self.width / 2 + 0.02

    @property
    def travel(self) -> float:
        """How far it opens, m or rad."""
        return self.depth - 0.08 if self.kind == "drawer" else 1.6


def draw_chest(r: np.random.Generator, *, along: float, outer: int, edge: float, surface: float) -> Chest:
    """Draw a chest beside a place to work at `along`; `edge` is where the surface ends, m out of the wall."""
    kind: Literal["drawer", "door"] = "drawer" if r.random() < 0.55 else "door"
    front = edge - FRONT
    return Chest(
        kind=kind,
        x=along + outer * float(r.uniform(0.25, 0.3)),
        front=front,
        z=surface,
        width=float(r.uniform(0.26, 0.33)),
        depth=min(float(r.uniform(0.23, 0.28)), front - 0.015),
        height=float(r.uniform(0.15, 0.18)) if kind == "drawer" else float(r.uniform(0.27, 0.33)),
        outer=outer,
    )


def _solid(place: tuple[float, float, float], half: tuple[float, float, float], paint: str, mass: float = 0.0) -> str:
    numbers = f'pos="{place[0]:.4f} {place[1]:.4f} {place[2]:.4f}" size="{half[0]:.4f} {half[1]:.4f} {half[2]:.4f}"'
    return f'<geom class="solid" type="box" {numbers} {paint}' + (f' mass="{mass}"' if mass else "") + "/>"


def _handle(name: str, x: float, z: float, length: float, paint: str) -> str:
    """An upright bar that two fingers can close on, standing off the front (y = 0.018)."""
    y = 0.018 + _STAND - _BAR
    return (
        f'<geom class="solid" type="cylinder" pos="{x:.4f} {y:.4f} {z:.4f}" size="{_BAR} {length / 2:.4f}" '
        f'mass="0.03" {paint}/>'
        f'<geom class="still" type="box" pos="{x:.4f} {0.018 + _STAND / 2 - _BAR:.4f} {z:.4f}" '
        f'size="0.005 {_STAND / 2 - _BAR / 2:.4f} 0.006" mass="0.01" {paint}/>'
        f'<site name="{name}_handle" pos="{x:.4f} {y:.4f} {z:.4f}" size="0.004" rgba="0 0 0 0"/>'
    )


def build_chest(s: Scene, r: np.random.Generator, chest: Chest, name: str) -> None:
    """Draw the carcass and its drawer or door into the scene; the joint is called `name`, its handle `name`_handle.

    Textures come from the fixtures' own stream `r`, so that a chest shifts nothing that is drawn after it.
    """
    wood = r.random() < 0.6
    tone = s.palette.timber if wood else s.palette.cabinet
    colour: Colour = (tone[0] * 0.9, tone[1] * 0.9, tone[2] * 0.9)
    look = s.material("wood" if wood else "plaster", colour, variant=100, shine=0.15, paint=r)
    face = s.material("wood" if wood else "doorleaf", tone, variant=101, shine=0.15, paint=r)
    metal = hsv(0.1, 0.06, float(r.choice([0.25, 0.7])))
    bar = f'rgba="{metal[0]:.3f} {metal[1]:.3f} {metal[2]:.3f} 1"'
    w, d, h, t, y = chest.width, chest.depth, chest.height, _PANEL, chest.front - chest.depth / 2
    s.box(chest.x, y, chest.z + h - t, w, d, t, look, solid=True)
    for side in (-1, 1):
        s.box(chest.x + side * (w / 2 - t / 2), y, chest.z, t, d, h - t, look, solid=True)
    if chest.kind == "drawer":
        s.geoms.append(_drawer(chest, name, f'material="{look}"', f'material="{face}"', bar))
        return
    dark: Colour = (tone[0] * 0.45, tone[1] * 0.45, tone[2] * 0.45)
    s.box(chest.x, chest.front - d + 0.008, chest.z, w - 2 * t, 0.014, h - t, dark)
    s.box(chest.x, y, chest.z, w - 2 * t, d, 0.01, look, solid=True)
    for x in (-0.06, 0.055):
        tin = hsv(r.random(), r.uniform(0.15, 0.4), r.uniform(0.45, 0.85))
        radius, tall = r.uniform(0.03, 0.045), r.uniform(0.09, 0.18)
        s.cylinder(chest.x + x, y + 0.02, chest.z + 0.01, radius, tall, tin, solid=True)
    s.geoms.append(_door(chest, name, f'material="{face}"', bar))


def _drawer(chest: Chest, name: str, look: str, face: str, bar: str) -> str:
    """A front, a bottom and three low walls, on a slide with a little friction."""
    w, d, h = chest.width - 2 * _PANEL - 0.006, chest.depth - 0.025, chest.height - _PANEL
    wall = 0.6 * h
    parts = _solid((0, 0.009, h / 2), (chest.width / 2 - 0.003, 0.009, h / 2 - 0.003), face, 0.25)
    parts += _solid((0, -d / 2, 0.009), (w / 2, d / 2, 0.006), look, 0.2)
    parts += _solid((0, -d + 0.005, wall / 2), (w / 2, 0.005, wall / 2), look, 0.05)
    for side in (-1, 1):
        parts += _solid((side * (w / 2 - 0.005), -d / 2, wall / 2), (0.005, d / 2, wall / 2), look, 0.05)
    return (
        f'<body name="{name}" pos="{chest.x:.4f} {chest.front:.4f} {chest.z + 0.001:.4f}">'
        f'<joint name="{name}" type="slide" axis="0 1 0" range="0 {chest.travel:.4f}" damping="6" frictionloss="1.5" '
        f'armature="0.05"/>{parts}{_handle(name, 0, h * 0.52, 0.07, bar)}</body>'
    )


def _door(chest: Chest, name: str, face: str, bar: str) -> str:
    """A leaf on a hinge with a little friction, its handle at the free edge."""
    width, height, free = chest.width - 0.006, chest.height - 0.006, -chest.outer
    leaf = _solid((free * width / 2, 0.009, height / 2), (width / 2, 0.009, height / 2), face, 0.5)
    return (
        f'<body name="{name}" pos="{chest.x + chest.outer * width / 2:.4f} {chest.front:.4f} {chest.z + 0.003:.4f}">'
        f'<joint name="{name}" type="hinge" axis="0 0 {free}" range="0 {chest.travel:.4f}" damping="0.12" '
        f'frictionloss="0.1" armature="0.01"/>'
        f"{leaf}{_handle(name, free * (width - 0.035), height * 0.42, 0.09, bar)}</body>"
    )
