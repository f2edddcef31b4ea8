"""Simulated rooms: furnished from seeded streams, as MJCF text with textures, stations and loose objects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from foreframe.sim.body import BodyLook, actuator_xml, body_assets, body_defaults, body_xml
from foreframe.sim.furnish import Furnisher, Rect, Station
from foreframe.sim.scene import Palette, Scene
from foreframe.sim.textures import hsv

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from foreframe.sim.fixtures import Fixture
    from foreframe.sim.objects import LooseObject

Split = Literal["train", "val", "test"]
ROOM_KINDS = ("kitchen", "office", "living room", "workshop", "storeroom", "laboratory")

_FLOORS: dict[str, tuple[str, ...]] = {
    "kitchen": ("tiles", "planks"),
    "office": ("carpet", "planks"),
    "living room": ("planks", "carpet"),
    "workshop": ("speckle", "plaster", "tiles"),
    "storeroom": ("speckle", "planks", "plaster"),
    "laboratory": ("speckle", "tiles"),
}
_WALLS: dict[str, tuple[str, ...]] = {
    "kitchen": ("plaster", "stripes", "tiles"),
    "office": ("plaster", "plaster", "stripes"),
    "living room": ("plaster", "stripes", "dots"),
    "workshop": ("bricks", "plaster"),
    "storeroom": ("plaster", "bricks"),
    "laboratory": ("plaster", "tiles"),
}
# Hue bands of the paint: validation and test rooms take other colours than training rooms, not just other draws.
_HUES: dict[Split, tuple[tuple[float, float], ...]] = {
    "train": ((0.02, 0.14), (0.30, 0.42), (0.52, 0.62)),
    "val": ((0.15, 0.24), (0.44, 0.50), (0.64, 0.74)),
    "test": ((0.78, 0.98),),
}


@dataclass(frozen=True, kw_only=True)
class RoomConfig:
    """What does not change from room to room."""

    shadow_size: int = 640
    """Side of the shadow map, texels."""
    shadow_reach: float = 1.5
    """Around a point in front of the robot within which things cast shadows, m."""
    samples: int = 0
    """Multisampling, samples per pixel; frames of 256 are box means of 512 anyway."""
    fovy: float = 82.0
    """Vertical field of view of the head camera, degrees; *assumed*."""
    camera_height: float = 0.11
    """Above the neck joint, m; *assumed*."""
    objects_per_station: tuple[int, int] = (4, 6)
    """Fewest and most loose objects on a work surface, where there is room for them."""
    chests: float = 0.8
    """Share of the work surfaces with a chest that opens, where there is room for it."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """A room ready to compile."""

    kind: str
    xml: str
    pngs: Mapping[str, bytes]
    half: tuple[float, float]
    """Half extents along x and y, m."""
    obstacles: tuple[Rect, ...]
    stations: tuple[Station, ...]
    objects: Mapping[str, LooseObject]
    fixtures: Mapping[str, Fixture]
    """Drawers and doors by name."""


def _palette(rng: np.random.Generator, split: Split, kind: str) -> Palette:
    def hue() -> float:
        bands = _HUES[split]
        return float(rng.uniform(*bands[rng.integers(len(bands))]))

    wood = hsv(rng.uniform(0.05, 0.11), rng.uniform(0.2, 0.5), rng.uniform(0.35, 0.85))
    brick = kind in ("workshop", "storeroom")
    wall = hsv(hue(), rng.uniform(0.03, 0.17), rng.uniform(0.58, 0.9))
    accent = (
        hsv(rng.uniform(0.02, 0.06), 0.35, 0.6)
        if brick
        else hsv(hue(), rng.uniform(0.1, 0.35), rng.uniform(0.35, 0.85))
    )
    floor = hsv(rng.uniform(0.04, 0.14), rng.uniform(0.05, 0.45), rng.uniform(0.3, 0.75))
    cabinet = hsv(hue(), rng.uniform(0.03, 0.3), rng.uniform(0.45, 0.92))
    if kind == "laboratory":
        wall, cabinet = hsv(hue(), rng.uniform(0.01, 0.08), rng.uniform(0.7, 0.9)), hsv(hue(), 0.06, 0.82)
        floor = hsv(rng.uniform(0.3, 0.62), rng.uniform(0.02, 0.15), rng.uniform(0.35, 0.7))
    return Palette(
        wall=wall,
        accent_wall=accent,
        floor=floor,
        timber=wood,
        cabinet=cabinet,
        textile=hsv(hue(), rng.uniform(0.1, 0.42), rng.uniform(0.25, 0.75)),
        metal=hsv(0.6, 0.05, rng.uniform(0.12, 0.65)),
    )


def _lights(r: np.random.Generator, half: tuple[float, float], height: float) -> tuple[str, str, str]:
    """The light that casts shadows (it travels with the robot, to keep its map fine), the fills, the ambient level."""
    warm = hsv(r.uniform(0.06, 0.16) if r.random() < 0.7 else 0.58, r.uniform(0.0, 0.14), 1.0)
    level, fill, ambient = r.uniform(0.45, 0.7), r.uniform(0.16, 0.32), r.uniform(0.34, 0.46)
    if r.random() < 0.2:  # evening: the lamps alone
        warm, level, ambient = hsv(0.09, r.uniform(0.12, 0.2), 1.0), level * 0.85, ambient * 0.8
    turn, tilt = r.uniform(0, 2 * math.pi), r.uniform(0.1, 0.36)
    direction = (math.cos(turn) * math.sin(tilt), math.sin(turn) * math.sin(tilt), -math.cos(tilt))

    def rgb(gain: float) -> str:
        return f"{warm[0] * gain:.3f} {warm[1] * gain:.3f} {warm[2] * gain:.3f}"

    sun = (
        f'<light type="directional" mode="track" pos="0 0 {height - 0.06:.3f}" '
        f'dir="{direction[0]:.3f} {direction[1]:.3f} {direction[2]:.3f}" '
        f'diffuse="{rgb(level)}" specular="0.2 0.2 0.2" castshadow="true"/>'
    )
    lights = ""
    for k in (-1, 1):
        x, y = k * half[0] * r.uniform(0.2, 0.7), r.uniform(-0.6, 0.6) * half[1]
        lights += (
            f'<light pos="{x:.3f} {y:.3f} {height - 0.3:.3f}" dir="0 0 -1" cutoff="90" exponent="1" castshadow="false" '
            f'diffuse="{rgb(fill)}" specular="0.1 0.1 0.1" attenuation="1 0 0.04"/>'
        )
    return sun, lights, f'<headlight ambient="{rgb(ambient)}" diffuse="{rgb(0.24)}" specular="0 0 0"/>'


def _lamps(s: Scene, r: np.random.Generator, half: tuple[float, float], height: float) -> None:
    """A pendant in the middle or two panels under the ceiling; see-through by a hair, as such geoms cast no shadow."""
    glow = hsv(0.1, r.uniform(0.02, 0.12), 1.0)
    look = s.material("plaster", glow, glow=0.75, variant=200, paint=r, alpha=0.99)
    if r.random() < 0.5:
        low, radius = r.uniform(1.85, 2.05), r.uniform(0.14, 0.24)
        s.geom("ellipsoid", (0, 0, low), (radius, radius, radius * r.uniform(0.5, 1.0)), look)
        s.geom("cylinder", (0, 0, (low + height) / 2), (0.006, (height - low) / 2), look)
        s.place(r.normal(0, 0.2), r.normal(0, 0.2), 0)
        return
    for k in (-1, 1):
        s.box(k * half[0] * 0.5, 0, height - 0.04, 0.25, min(half) * 0.9, 0.04, look)
    s.place(0, 0, 0)


def build_room(
    *, split: Split, room: np.random.Generator, textures: np.random.Generator, lights: np.random.Generator,
    objects: np.random.Generator, body: np.random.Generator, fixtures: np.random.Generator, config: RoomConfig,
) -> Room:  # fmt: skip
    """Draw a room. Each argument named after a purpose is that purpose's own random stream."""
    kind = str(room.choice(ROOM_KINDS))
    half = (float(room.uniform(2.1, 3.0)), float(room.uniform(1.9, 2.6)))
    height = float(room.uniform(2.45, 2.9))
    palette = _palette(textures, split, kind)
    scene = Scene(rng=room, paint=textures, palette=palette)
    maker = Furnisher(scene=scene, things=objects, joinery=fixtures, kind=kind, half=half, config=config)
    maker.furnish()

    covering = str(textures.choice(_FLOORS[kind]))
    floor = scene.material(covering, palette.floor, cube=False, repeat=float(textures.uniform(0.45, 0.8)), shine=0.2)
    papers = (*_WALLS[kind], "hexagons") if split == "test" else _WALLS[kind]
    paper = str(textures.choice(papers))
    finer = {"dots": 3.0, "stripes": 1.8, "bricks": 1.6, "hexagons": 2.6}
    fineness = float(textures.uniform(0.6, 1.2)) * finer.get(paper, 1.0)
    walls = [scene.material(paper, palette.wall, cube=False, repeat=fineness, shine=0.0)] * 4
    other = "bricks" if paper != "bricks" and textures.random() < 0.3 else "plaster"
    walls[int(textures.integers(4))] = scene.material(other, palette.accent_wall, cube=False, repeat=1.3, shine=0.0)
    hx, hy = half
    skirting = hsv(0.1, 0.05, float(textures.uniform(0.3, 0.95)))
    shell = f'<geom class="ground" type="plane" size="{hx} {hy} 1" material="{floor}"/>'
    for wall, (x, y, turn, wide) in enumerate(
        [(0, -hy, 0.0, hx), (hx, 0, math.pi / 2, hy), (0, hy, math.pi, hx), (-hx, 0, -math.pi / 2, hy)]
    ):
        # A plane faces its own +z: tip it about x so that it looks into the room.
        shell += (
            f'<body pos="{x} {y} {height / 2}" euler="0 0 {turn}">'
            f'<geom class="still" type="plane" size="{wide} {height / 2} 1" euler="{-math.pi / 2} 0 0" '
            f'material="{walls[wall]}"/></body>'
        )
        scene.box(0, 0.008, 0, 2 * wide, 0.016, 0.09, skirting)
        scene.place(x, y, turn)
    # The ceiling is the sky, darker towards the walls: a real one would shade the whole room from the light below it.
    tone = float(textures.uniform(0.6, 0.8))
    ceiling, cornice = (" ".join(f"{v:.3f}" for v in hsv(0.1, 0.03, tone * gain)) for gain in (1.15, 0.8))
    _lamps(scene, lights, half, height)
    sun, fills, headlight = _lights(lights, half, height)
    white = body.uniform(0.6, 0.72)
    look = BodyLook(
        shell=f"{white:.3f} {white * 0.985:.3f} {white * 0.95:.3f} 1",
        accent=" ".join(f"{value:.3f}" for value in hsv(body.random(), 0.3, 0.55)) + " 1",
    )
    extent = math.hypot(hx, hy) + 0.2
    xml = f"""<mujoco model="evesim">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{1 / 240}" integrator="implicitfast" cone="elliptic" impratio="8" iterations="30"/>
  <size memory="40M"/>
  <statistic extent="{extent:.3f}" center="0 0 1"/>
  <visual>
    <global offwidth="512" offheight="512"/>
    <quality shadowsize="{config.shadow_size}" offsamples="{config.samples}" numquads="1" numslices="10" numstacks="5"/>
    <map znear="0.006" zfar="2.2" shadowclip="{config.shadow_reach / extent:.3f}"/>
    {headlight}
  </visual>
  <default>
    {body_defaults()}
    <default class="still"><geom contype="0" conaffinity="0"/></default>
    <default class="solid"><geom contype="2" conaffinity="0" friction="0.8 0.01 0.0005"/></default>
    <default class="ground"><geom contype="2" conaffinity="0"/></default>
    <default class="loose"><geom contype="4" conaffinity="6" friction="1.0 0.01 0.0008" condim="4"/></default>
  </default>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1="{ceiling}" rgb2="{cornice}" width="64" height="384"/>
    {body_assets(look)}{"".join(scene.assets)}
  </asset>
  <worldbody>
    {fills}
    {body_xml(camera_height=config.camera_height, fovy=config.fovy, extra=sun)}
    {"".join(maker.object_xml)}{"".join(scene.bodies)}
    <body>{shell}</body> <!-- last: software rendering gains from what is near being drawn first -->
  </worldbody>
  <actuator>{actuator_xml()}</actuator>
</mujoco>"""
    return Room(
        kind=kind,
        xml=xml,
        pngs=scene.pngs,
        half=half,
        obstacles=tuple(maker.obstacles),
        stations=tuple(maker.stations),
        objects=maker.objects,
        fixtures=maker.fixtures,
    )
