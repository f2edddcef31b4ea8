"""Simulated rooms: furnished from seeded streams, as MJCF text with textures, stations and loose objects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from foreframe.sim import furniture
from foreframe.sim.body import BodyLook, actuator_xml, body_assets, body_defaults, body_xml
from foreframe.sim.clutter import clutter, fill
from foreframe.sim.objects import LooseObject, draw_object
from foreframe.sim.scene import Palette, Scene
from foreframe.sim.textures import hsv

if TYPE_CHECKING:
    from collections.abc import Mapping

Split = Literal["train", "val", "test"]
ROOM_KINDS = ("kitchen", "office", "living room", "workshop", "storeroom")

_WORK: dict[str, tuple[str, ...]] = {
    "kitchen": ("counter", "counter", "table"),
    "office": ("table", "table", "table"),
    "living room": ("table", "table"),
    "workshop": ("bench", "bench", "table"),
    "storeroom": ("table", "bench"),
}
_PIECES: dict[str, tuple[str, ...]] = {
    "kitchen": ("fridge", "cabinet", "shelf", "corner"),
    "office": ("shelf", "cabinet", "corner", "shelf", "sofa"),
    "living room": ("sofa", "shelf", "cabinet", "corner", "sofa"),
    "workshop": ("rack", "shelf", "cabinet", "corner"),
    "storeroom": ("rack", "rack", "shelf", "corner"),
}
_FLOORS: dict[str, tuple[str, ...]] = {
    "kitchen": ("tiles", "planks"),
    "office": ("carpet", "planks"),
    "living room": ("planks", "carpet"),
    "workshop": ("speckle", "plaster", "tiles"),
    "storeroom": ("speckle", "planks", "plaster"),
}
_WALLS: dict[str, tuple[str, ...]] = {
    "kitchen": ("plaster", "stripes", "tiles"),
    "office": ("plaster", "plaster", "stripes"),
    "living room": ("plaster", "stripes", "dots"),
    "workshop": ("bricks", "plaster"),
    "storeroom": ("plaster", "bricks"),
}
# Hue bands of the paint: validation and test rooms take other colours than training rooms, not just other draws.
_HUES: dict[Split, tuple[tuple[float, float], ...]] = {
    "train": ((0.02, 0.14), (0.30, 0.42), (0.52, 0.62)),
    "val": ((0.15, 0.24), (0.44, 0.50), (0.64, 0.74)),
    "test": ((0.24, 0.30), (0.76, 0.98)),
}

STAND_OFF = 0.37
"""From the base's centre to the edge of the table it works at, m."""


@dataclass(frozen=True, kw_only=True)
class RoomConfig:
    """What does not change from room to room."""

    shadow_size: int = 640
    """Side of the shadow map, texels."""
    shadow_reach: float = 1.9
    """Around the robot within which things cast shadows, m."""
    samples: int = 4
    """Multisampling, samples per pixel."""
    fovy: float = 82.0
    """Vertical field of view of the head camera, degrees; *assumed*."""
    camera_height: float = 0.11
    """Above the neck joint, m; *assumed*."""
    objects_per_station: tuple[int, int] = (4, 6)
    """Fewest and most loose objects on a work surface."""


@dataclass(frozen=True, kw_only=True)
class Station:
    """A place to stand, and what is in front of it."""

    x: float
    """m, room frame."""
    y: float
    """m, room frame."""
    yaw: float
    """Heading, rad."""
    focus: tuple[float, float, float]
    """Point to look at, m."""
    surface: float
    """Height of the work surface, m; 0 where there is none."""
    objects: tuple[str, ...] = ()
    """Loose objects within reach."""


@dataclass(frozen=True, kw_only=True)
class Rect:
    """An axis-aligned footprint that the base must not enter."""

    x0: float
    y0: float
    x1: float
    y1: float


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
    return Palette(
        wall=wall,
        accent_wall=accent,
        floor=floor,
        timber=wood,
        cabinet=hsv(hue(), rng.uniform(0.03, 0.3), rng.uniform(0.45, 0.92)),
        textile=hsv(hue(), rng.uniform(0.1, 0.42), rng.uniform(0.25, 0.75)),
        metal=hsv(0.6, 0.05, rng.uniform(0.12, 0.65)),
    )


@dataclass
class _Furnisher:
    """Walks along the four walls and sets pieces down."""

    scene: Scene
    things: np.random.Generator
    kind: str
    half: tuple[float, float]
    config: RoomConfig

    def __post_init__(self) -> None:
        self.obstacles: list[Rect] = []
        self.stations: list[Station] = []
        self.objects: dict[str, LooseObject] = {}
        self.object_xml: list[str] = []

    def to_room(self, wall: int, along: float, out: float) -> tuple[float, float]:
        """From a wall's frame (along it, out of it) to the room's."""
        hx, hy = self.half
        return [(along, -hy + out), (hx - out, along), (-along, hy - out), (-hx + out, -along)][wall]

    def block(self, wall: int, along: float, width: float, depth: float) -> None:
        """Mark a footprint as occupied."""
        (xa, ya), (xb, yb) = self.to_room(wall, along - width / 2, 0), self.to_room(wall, along + width / 2, depth)
        self.obstacles.append(Rect(x0=min(xa, xb), y0=min(ya, yb), x1=max(xa, xb), y1=max(ya, yb)))

    def put(self, wall: int, along: float) -> None:
        """Place what the scene holds against a wall."""
        x, y = self.to_room(wall, along, 0)
        self.scene.place(x, y, wall * math.pi / 2)

    def furnish(self) -> None:
        """All four walls, then the middle."""
        r = self.scene.rng
        work = list(r.permutation(_WORK[self.kind]))
        work_walls = list(r.permutation(4))
        for wall in range(4):
            length = 2 * self.half[wall % 2] - (0.2 if wall % 2 == 0 else 1.7)
            wanted = [work[k] for k in range(len(work)) if work_walls[k % 4] == wall]
            self._wall(wall, length, wanted, has_door=wall == work_walls[3], has_window=wall != work_walls[3])
        self._middle()

    def _wall(self, wall: int, length: float, work: list[str], *, has_door: bool, has_window: bool) -> None:
        s, r = self.scene, self.scene.rng
        plan = [*work, *(["door"] if has_door else []), *(["window"] if has_window and r.random() < 0.8 else [])]
        plan += list(r.choice(_PIECES[self.kind], 5))
        head, tail = plan[: len(plan) - 5], plan[len(plan) - 5 :]
        # Shuffle where the needed pieces stand, not whether there is room for them.
        needed = max(1, len(head))
        plan = list(r.permutation([*head, *tail[: 3 - min(needed, 3)]])) + tail[3 - min(needed, 3) :]
        if work:
            plan.remove(work[0])
            plan.insert(int(r.integers(0, 2)), work[0])
        at = -length / 2 + r.uniform(0.0, 0.15)
        for name in plan:
            left = length / 2 - at
            if left < 0.55:
                break
            if name in furniture.WORK_PIECES:
                width = min(left, r.uniform(1.3, 2.0))
                if width < 1.05:
                    continue
                self._work(name, wall, at + width / 2, width)
                at += width + r.uniform(0.05, 0.3)
                continue
            piece = {"door": furniture.door, "window": furniture.window}.get(name) or furniture.WALL_PIECES[name]
            width, depth = piece(s)
            if width > left:
                s.geoms.clear()
                continue
            if name == "sofa" or (name == "corner" and r.random() < 0.5):
                furniture.hangings(s, 1.3, 2.0)
            along = at + width / 2
            self.put(wall, along)
            self.block(wall, along, width, depth)
            if name != "corner":
                x, y = self.to_room(wall, along, depth + r.uniform(0.75, 1.2))
                fx, fy = self.to_room(wall, along, 0.1)
                self.stations.append(
                    Station(x=x, y=y, yaw=(wall - 1) * math.pi / 2, focus=(fx, fy, r.uniform(0.8, 1.4)), surface=0)
                )
            at += width + r.uniform(0.04, 0.25)
        if length / 2 - at > 0.5:
            furniture.hangings(s, 1.2, 2.0)
            self.put(wall, (at + length / 2) / 2)

    def _work(self, name: str, wall: int, along: float, width: float) -> None:
        """A work surface, what stands at its back, the objects at its front, and the place to stand."""
        s, r = self.scene, self.scene.rng
        height = float(r.uniform(0.78, 0.92))
        if name == "table":
            _, depth = furniture.table(s, width, height)
            if self.kind == "office":
                furniture.desk_back(s, width, height)
            else:
                fill(s, width - 0.2, 0.15, height, 0.26, solid=True)
            furniture.hangings(s, 1.35, 2.05)
        elif name == "bench":
            _, depth = furniture.bench(s, width, height)
            fill(s, width - 0.2, 0.15, height, 0.3, chance=0.6, solid=True)
        else:
            _, depth = furniture.counter(s, width, height)
        self.put(wall, along)
        self.block(wall, along, width, depth)
        offset = float(r.uniform(-1, 1)) * max(0.0, width / 2 - 0.5)
        names = self._objects(wall, along + offset, depth, height)
        x, y = self.to_room(wall, along + offset, depth + STAND_OFF)
        fx, fy = self.to_room(wall, along + offset, depth - 0.32)
        station = Station(
            x=x, y=y, yaw=(wall - 1) * math.pi / 2, focus=(fx, fy, height + 0.1), surface=height, objects=names
        )
        self.stations.append(station)

    def _objects(self, wall: int, along: float, depth: float, surface: float) -> tuple[str, ...]:
        """Loose objects on the front of a surface, apart from each other."""
        r = self.things
        low, high = self.config.objects_per_station
        count = int(r.integers(low, high + 1))
        slots = r.permutation(np.linspace(-0.4, 0.4, 6))[:count]
        names = []
        for slot in slots:
            name = f"object_{len(self.objects)}"
            x, y = self.to_room(wall, along + float(slot) + r.normal(0, 0.01), depth - r.uniform(0.08, 0.22))
            xml, height = draw_object(self.scene, r, name)
            turn = wall * math.pi / 2 + r.normal(0, 0.25)
            self.object_xml.append(
                f'<body name="{name}" pos="{x:.4f} {y:.4f} {surface + height / 2 + 0.002:.4f}" euler="0 0 {turn:.3f}">'
                f'<joint name="{name}" type="free" damping="0.0004" armature="0.0001"/>{xml}</body>'
            )
            self.objects[name] = LooseObject(name=name, height=height)
            names.append(name)
        return tuple(names)

    def _middle(self) -> None:
        """A rug, chairs, and in large rooms a low table."""
        s, r = self.scene, self.scene.rng
        hx, hy = self.half
        if r.random() < 0.6 and self.kind != "workshop":
            s.box(0, 0, 0, r.uniform(1.4, 2.2), r.uniform(1.0, 1.7), 0.008, s.material("rug", s.palette.textile))
            s.place(r.normal(0, 0.3), r.normal(0, 0.3), 0)
        spots = [(hx - 0.85, hy - 0.85), (-hx + 0.85, hy - 0.85), (-hx + 0.85, -hy + 0.85), (hx - 0.85, -hy + 0.85)]
        if min(hx, hy) > 2.1 and r.random() < 0.6:
            width, depth = r.uniform(0.6, 0.9), r.uniform(0.5, 0.7)
            height = r.uniform(0.4, 0.74)
            s.box(0, 0, height - 0.03, width, depth, 0.03, s.timber(), solid=True)
            for x in (-1, 1):
                for y in (-1, 1):
                    s.box(
                        x * (width / 2 - 0.05), y * (depth / 2 - 0.05), 0, 0.045, 0.045, height - 0.03, s.palette.timber
                    )
            for x in (-0.2, 0.15):
                clutter(s, x, r.normal(0, 0.08), height, 0.2, solid=True)
            x, y = r.normal(0, 0.15), r.normal(0, 0.15)
            s.place(x, y, 0)
            self.obstacles.append(Rect(x0=x - width / 2, y0=y - depth / 2, x1=x + width / 2, y1=y + depth / 2))
        for x, y in spots:
            room = Rect(x0=x - 0.25, y0=y - 0.25, x1=x + 0.25, y1=y + 0.25)
            clear = all(math.hypot(x - st.x, y - st.y) > 0.95 for st in self.stations if st.surface)
            if clear and not any(
                o.x0 < room.x1 and room.x0 < o.x1 and o.y0 < room.y1 and room.y0 < o.y1 for o in self.obstacles
            ):
                furniture.chair(s)
                s.place(x, y, math.atan2(-y, -x) - math.pi / 2 + r.normal(0, 0.4))
                self.obstacles.append(room)


def _lights(r: np.random.Generator, half: tuple[float, float], height: float) -> tuple[str, str, str]:
    """The light that casts shadows (it travels with the robot, to keep its map fine), the fills, the ambient level."""
    warm = hsv(r.uniform(0.06, 0.16) if r.random() < 0.7 else 0.58, r.uniform(0.0, 0.14), 1.0)
    level, fill, ambient = r.uniform(0.45, 0.7), r.uniform(0.16, 0.32), r.uniform(0.34, 0.46)
    turn, tilt = r.uniform(0, 2 * math.pi), r.uniform(0.1, 0.42)
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


def build_room(
    *, split: Split, room: np.random.Generator, textures: np.random.Generator, lights: np.random.Generator,
    objects: np.random.Generator, body: np.random.Generator, config: RoomConfig,
) -> Room:  # fmt: skip
    """Draw a room. Each argument named after a purpose is that purpose's own random stream."""
    kind = str(room.choice(ROOM_KINDS))
    half = (float(room.uniform(2.1, 3.0)), float(room.uniform(1.9, 2.6)))
    height = float(room.uniform(2.45, 2.9))
    palette = _palette(textures, split, kind)
    scene = Scene(rng=room, paint=textures, palette=palette)
    maker = _Furnisher(scene=scene, things=objects, kind=kind, half=half, config=config)
    maker.furnish()

    covering = str(textures.choice(_FLOORS[kind]))
    floor = scene.material(covering, palette.floor, cube=False, repeat=float(textures.uniform(0.45, 0.8)), shine=0.2)
    papers = (*_WALLS[kind], "hexagons") if split == "test" else _WALLS[kind]
    paper = str(textures.choice(papers))
    fineness = float(textures.uniform(0.6, 1.2)) * {"dots": 3.0, "stripes": 1.8}.get(paper, 1.0)
    walls = [scene.material(paper, palette.wall, cube=False, repeat=fineness, shine=0.0)] * 4
    other = "bricks" if paper != "bricks" and textures.random() < 0.3 else "plaster"
    walls[int(textures.integers(4))] = scene.material(other, palette.accent_wall, cube=False, repeat=0.8, shine=0.0)
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
    # The ceiling is the sky: MuJoCo lets a real one shade the whole room from the light below it.
    ceiling = " ".join(f"{value:.3f}" for value in hsv(0.1, 0.03, float(textures.uniform(0.6, 0.8))))
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
    <global offwidth="1024" offheight="1024"/>
    <quality shadowsize="{config.shadow_size}" offsamples="{config.samples}" numslices="10" numstacks="5"/>
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
    <texture type="skybox" builtin="flat" rgb1="{ceiling}" rgb2="{ceiling}" width="16" height="96"/>
    {body_assets(look)}{"".join(scene.assets)}
  </asset>
  <worldbody>
    {fills}{shell}{"".join(scene.bodies)}
    {body_xml(camera_height=config.camera_height, fovy=config.fovy, extra=sun)}
    {"".join(maker.object_xml)}
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
    )
