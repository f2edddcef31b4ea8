"""Furnishes a simulated room: walks along the walls, sets pieces down, and notes where one can stand and work."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from foreframe.sim import furniture, workplaces
from foreframe.sim.clutter import clutter, fill
from foreframe.sim.fixtures import Chest, Fixture, build_chest, draw_chest
from foreframe.sim.navigation import distance_to
from foreframe.sim.objects import LooseObject, draw_object

if TYPE_CHECKING:
    from foreframe.sim.room import RoomConfig
    from foreframe.sim.scene import Scene

_WORK: dict[str, tuple[str, ...]] = {
    "kitchen": ("counter", "counter", "table"),
    "office": ("table", "table", "table"),
    "living room": ("table", "table"),
    "workshop": ("bench", "bench", "table"),
    "storeroom": ("table", "bench"),
    "laboratory": ("lab bench", "lab bench", "table"),
}
_PIECES: dict[str, tuple[str, ...]] = {
    "kitchen": ("fridge", "cabinet", "shelf", "corner"),
    "office": ("shelf", "cabinet", "corner", "shelf", "sofa"),
    "living room": ("sofa", "shelf", "cabinet", "corner", "sofa"),
    "workshop": ("rack", "shelf", "cabinet", "corner"),
    "storeroom": ("rack", "rack", "shelf", "corner"),
    "laboratory": ("cabinet", "shelf", "fridge", "cabinet", "corner"),
}

STAND_OFF = 0.37
"""From the base's centre to the edge of the table it works at, m."""
_CLEAR_TO_WORK = 0.3
"""From the base's centre, 0.22 m wide, to whatever else stands near a work surface, m."""
_CLEAR_TO_LOOK = 0.4
"""The same where it only stands and looks, m."""


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


@dataclass
class Furnisher:
    """Walks along the four walls and sets pieces down."""

    scene: Scene
    things: np.random.Generator
    joinery: np.random.Generator
    kind: str
    half: tuple[float, float]
    config: RoomConfig

    def __post_init__(self) -> None:
        self.obstacles: list[Rect] = []
        self.stations: list[Station] = []
        self.objects: dict[str, LooseObject] = {}
        self.object_xml: list[str] = []
        self.fixtures: dict[str, Fixture] = {}

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
        self._keep_clear()

    def _keep_clear(self) -> None:
        """Forget places to stand where the base would touch furniture or a wall, or could not get away from it."""
        work = [station for station in self.stations if station.surface]
        kept = [s for s in self.stations if self._room_at(s) > (_CLEAR_TO_WORK if s.surface else _CLEAR_TO_LOOK)]
        if work and not any(station.surface for station in kept):
            kept.append(max(work, key=self._room_at))
        if not kept:
            kept.append(max(self.stations, key=self._room_at))
        places = [kept.index(station) if station in kept else -1 for station in self.stations]
        for name, fixture in self.fixtures.items():
            self.fixtures[name] = replace(fixture, station=places[fixture.station])
        self.stations = kept

    def _room_at(self, station: Station) -> float:
        """From the base's centre to the nearest footprint or wall, m."""
        walls = min(self.half[0] - abs(station.x), self.half[1] - abs(station.y))
        return min(walls, *(distance_to(box, station.x, station.y) for box in self.obstacles))

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
            if name in workplaces.WORK_PIECES:
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
        offset = float(r.uniform(-1, 1)) * max(0.0, width / 2 - 0.5)
        depth = workplaces.depth_of(s, name)
        chest = self._chest(offset, width, depth, height)
        free = (chest.span,) if chest else ()
        if name == "table":
            workplaces.table(s, width, height, depth)
            if self.kind == "office":
                workplaces.desk_back(s, width, height, free=free)
            else:
                fill(s, width - 0.2, 0.15, height, 0.26, solid=True, free=free)
            furniture.hangings(s, 1.35, 2.05)
        elif name == "bench":
            workplaces.bench(s, width, height)
            fill(s, width - 0.2, 0.15, height, 0.3, chance=0.6, solid=True, free=free)
        elif name == "lab bench":
            workplaces.lab_bench(s, width, height, free=free)
        else:
            workplaces.counter(s, width, height, free=free)
        names = self._objects(wall, along, offset, depth, height, free=free)
        if chest:
            self._install(chest, wall, along)
        self.put(wall, along)
        self.block(wall, along, width, depth)
        x, y = self.to_room(wall, along + offset, depth + STAND_OFF)
        fx, fy = self.to_room(wall, along + offset, depth - 0.32)
        station = Station(
            x=x, y=y, yaw=(wall - 1) * math.pi / 2, focus=(fx, fy, height + 0.1), surface=height, objects=names
        )
        self.stations.append(station)

    def _chest(self, offset: float, width: float, depth: float, height: float) -> Chest | None:
        """Draw a chest for most surfaces, on the side of the station where the surface goes on."""
        r = self.joinery
        wanted, outer = r.random() < self.config.chests, -1 if offset > 0 else 1
        chest = draw_chest(r, along=offset, outer=outer, edge=depth, surface=height)
        return chest if wanted and abs(chest.x) + chest.width / 2 < width / 2 else None

    def _install(self, chest: Chest, wall: int, along: float) -> None:
        """Build a chest into the piece being drawn, a drawer with one or two things in it."""
        name = f"fixture_{len(self.fixtures)}"
        build_chest(self.scene, self.joinery, chest, name)
        contents: list[str] = []
        if chest.kind == "drawer":
            for side in (-1, 1)[: int(self.joinery.integers(1, 3))]:
                place = (along + chest.x + side * 0.06, chest.front - 0.07 - float(self.joinery.uniform(0, 0.06)))
                contents.append(self._loose(wall, place, chest.z + 0.018, self.joinery, small=True))
        self.fixtures[name] = Fixture(
            joint=name, kind=chest.kind, travel=chest.travel, handle=f"{name}_handle",
            station=len(self.stations), contents=tuple(contents),
        )  # fmt: skip

    def _objects(
        self, wall: int, along: float, offset: float, depth: float, surface: float, *,
        free: tuple[tuple[float, float], ...],
    ) -> tuple[str, ...]:  # fmt: skip
        """Loose objects on the front of a surface, apart from each other and clear of what opens."""
        r = self.things
        low, high = self.config.objects_per_station
        count = int(r.integers(low, high + 1))
        slots = [float(slot) for slot in r.permutation(np.linspace(-0.4, 0.4, 6))]
        names: list[str] = []
        for slot, own in zip(slots, r.spawn(len(slots)), strict=True):  # a stream each: one left out shifts no other
            if len(names) == count or any(a - 0.03 < offset + slot < b + 0.03 for a, b in free):
                continue
            place = (along + offset + slot + float(own.normal(0, 0.01)), depth - float(own.uniform(0.08, 0.22)))
            names.append(self._loose(wall, place, surface, own))
        return tuple(names)

    def _loose(
        self, wall: int, place: tuple[float, float], surface: float, r: np.random.Generator, *, small: bool = False
    ) -> str:
        """Set one loose object down at (along, out) on a surface; returns its name."""
        name = f"object_{len(self.objects)}"
        x, y = self.to_room(wall, *place)
        xml, thing = draw_object(self.scene, r, name, small=small)
        turn = wall * math.pi / 2 + r.normal(0, 0.25)
        self.object_xml.append(
            f'<body name="{name}" pos="{x:.4f} {y:.4f} {surface + thing.height / 2 + 0.002:.4f}" '
            f'euler="0 0 {turn:.3f}">'
            f'<joint name="{name}" type="free" damping="0.0004" armature="0.0001"/>{xml}</body>'
        )
        self.objects[name] = thing
        return name

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
