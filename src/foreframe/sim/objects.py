"""Loose objects for simulated rooms: things a two-finger hand can grasp, push and topple."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foreframe.sim.textures import hsv

if TYPE_CHECKING:
    import numpy as np

    from foreframe.sim.scene import Scene


@dataclass(frozen=True, kw_only=True)
class LooseObject:
    """A thing that can be grasped or pushed."""

    name: str
    """Name of its body."""
    height: float
    """m"""
    radius: float
    """Half its width, m."""


def draw_object(s: Scene, r: np.random.Generator, name: str, *, small: bool = False) -> tuple[str, LooseObject]:
    """Geoms of one graspable object about its centre, and what it is; `small` ones fit into a drawer."""
    kind = "brick" if small else str(r.choice(["box", "can", "ball", "mug", "bottle", "brick"]))
    colour = hsv(r.random(), r.uniform(0.2, 0.48), r.uniform(0.4, 0.85))
    rgba = f'rgba="{colour[0]:.3f} {colour[1]:.3f} {colour[2]:.3f} 1"'
    # Labels are painted from the objects' own stream, so that they do not shift the room's textures.
    plain = kind in ("brick", "ball", "mug", "bottle")
    look = rgba if plain else f'material="{s.material("label", colour, variant=len(name), paint=r)}"'
    mass = f'mass="{r.uniform(0.06, 0.2):.3f}"'

    def thing(height: float, radius: float) -> LooseObject:
        return LooseObject(name=name, height=height, radius=radius)

    if kind == "box":
        width, depth, height = r.uniform(0.036, 0.055), r.uniform(0.036, 0.055), r.uniform(0.07, 0.14)
        half = f"{width / 2:.4f} {depth / 2:.4f} {height / 2:.4f}"
        return f'<geom class="loose" type="box" size="{half}" {mass} {look}/>', thing(height, max(width, depth) / 2)
    if kind == "brick":
        side = r.uniform(0.036, 0.046) if small else r.uniform(0.04, 0.056)
        half = f"{side / 2:.4f} {side / 2:.4f} {side / 2:.4f}"
        return f'<geom class="loose" type="box" size="{half}" {mass} {look}/>', thing(side, side / 2)
    if kind == "ball":
        radius = r.uniform(0.026, 0.036)
        return f'<geom class="loose" type="sphere" size="{radius:.4f}" {mass} {look}/>', thing(radius * 2, radius)
    return _vessel(r, name, kind, rgba, look)


def _vessel(r: np.random.Generator, name: str, kind: str, rgba: str, label: str) -> tuple[str, LooseObject]:
    """A can, mug or bottle: one cylinder that touches, and marks that only show."""
    radius = r.uniform(0.024, 0.034)
    height = {"can": r.uniform(0.09, 0.12), "mug": r.uniform(0.08, 0.1), "bottle": r.uniform(0.11, 0.15)}[kind]
    half, skin, mass = height / 2, label if kind == "can" else rgba, r.uniform(0.06, 0.2)

    def part(shape: str, place: str, size: str, mass: float, paint: str) -> str:
        return f'<geom class="mark" type="{shape}" pos="{place}" size="{size}" mass="{mass}" {paint}/>'

    xml = f'<geom class="loose" type="cylinder" size="{radius:.4f} {half:.4f}" mass="{mass:.3f}" {skin}/>'
    if kind == "mug":
        xml += part("capsule", f"{radius + 0.004:.4f} 0 0", f"0.006 {height * 0.25:.4f}", 0.001, rgba)
        xml += part("cylinder", f"0 0 {half:.4f}", f"{radius * 0.86:.4f} 0.001", 0.001, 'rgba="0.2 0.14 0.1 1"')
    elif kind == "bottle":
        xml += part("cylinder", f"0 0 {half + 0.02:.4f}", f"{radius * 0.4:.4f} 0.02", 0.002, rgba)
        xml += part("cylinder", "0 0 0", f"{radius * 1.02:.4f} {height * 0.25:.4f}", 0.001, 'rgba="0.9 0.88 0.84 1"')
    return xml, LooseObject(name=name, height=height, radius=radius)
