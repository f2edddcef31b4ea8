"""How the scripted robot moves: its command, its gaze, reaching by inverse kinematics, and driving."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from foreframe.sim.body import SIDES
from foreframe.sim.diary import Diary
from foreframe.sim.navigation import distance_to, plan_path
from foreframe.sim.reach import ARM, HIGH, INDEX, LOW, ArmSolver
from foreframe.sim.simulator import HZ, Simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from foreframe.sim.room import Station

    Vector = npt.NDArray[np.float64]

READY = np.array([0.3, 0.2, 0.05, 1.45, 0.0, -0.1, 0.0])
"""An arm held over the work, rad."""
CARRY = np.array([0.05, 0.15, 0.1, 1.8, 0.0, -0.2, 0.0])
"""An arm drawn in for driving, rad."""
UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """How fast the robot moves."""

    speed: float = 0.4
    """Top driving speed, m/s."""
    turning: float = 0.5
    """Top turning speed, rad/s."""
    clearance: float = 0.36
    """Between the base's centre and furniture on the road, m."""
    reach_seconds: float = 1.7
    """Duration of a reach."""


@dataclass(frozen=True, kw_only=True)
class Approach:
    """From where a hand comes at a point."""

    pitch: float
    """Below the horizontal, rad."""
    heading: float
    """In the room, rad."""

    @property
    def direction(self) -> Vector:
        """Unit vector along the fingers."""
        level = math.cos(self.pitch)
        return np.array([math.cos(self.heading) * level, math.sin(self.heading) * level, -math.sin(self.pitch)])


def wrap(angle: float) -> float:
    """The same angle in [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def smooth(t: float) -> float:
    """Minimum-jerk progress, 0 to 1."""
    return 10 * t**3 - 15 * t**4 + 6 * t**5


def arm(side: str, angles: Vector) -> dict[int, float]:
    """Command entries of one arm."""
    return dict(zip(ARM[side].tolist(), angles.tolist(), strict=True))


def hand(side: str, closure: float) -> dict[int, float]:
    """Command entry of one hand; 0 is open, 1 shut."""
    return {21 + SIDES.index(side): closure}


def torso(lean: float, crouch: float, turn: float = 0.0) -> dict[int, float]:
    """Command entries of hips, knee and ankle, rad."""
    return {
        INDEX["hip_pitch"]: lean + crouch, INDEX["ankle_pitch"]: crouch, INDEX["knee_pitch"]: 2 * crouch,
        INDEX["hip_yaw"]: turn, INDEX["hip_roll"]: 0.0, INDEX["ankle_roll"]: 0.0,
    }  # fmt: skip


def lean_for(station: Station, forward: float) -> dict[int, float]:
    """Command entries that bend over a work surface towards something `forward` metres away."""
    low = max(0.0, 0.9 - station.surface)
    return torso(float(np.clip(0.28 + 0.7 * (forward - 0.48), 0.2, 0.5)), float(np.clip(2.2 * low, 0.0, 0.35)))


def working_torso(station: Station) -> dict[int, float]:
    """Command entries of the torso at a station between two actions."""
    return lean_for(station, 0.5) if station.surface else torso(0.08, 0.0)


class Robot:
    """The command being given, and the primitives that change it: generators that yield it once per frame."""

    def __init__(self, simulator: Simulator, config: MotionConfig) -> None:
        self.sim, self.config = simulator, config
        self.rng = simulator.streams["behaviour"]
        self.diary = Diary()
        self.command = np.zeros(25)
        self.ready = {side: READY + self.rng.normal(0, 0.08, 7) for side in SIDES}
        self.drawn_in = {side: CARRY + self.rng.normal(0, 0.06, 7) for side in SIDES}
        self.holding: str | None = None
        self.glance = 0.0
        self._solver = ArmSolver(simulator, rest=self.ready)
        self._gaze: Callable[[], Vector] | None = None
        self._nod = 0.0

    # Reading the world.

    def pose(self) -> tuple[float, float, float]:
        """The base's x and y in m, and its heading in rad."""
        x, y, yaw = self.sim.data.qpos[self.sim.base_address]
        return float(x), float(y), float(yaw)

    def object(self, name: str) -> Vector:
        """Where a loose object's centre is, m."""
        return self.sim.data.body(name).xpos.copy()

    def upright(self, name: str) -> float:
        """Cosine of an object's tilt."""
        return float(self.sim.data.body(name).xmat[8])

    def grip(self, side: str) -> Vector:
        """The point between the fingertips, m."""
        return self.sim.data.site(f"{side}_grip").xpos.copy()

    def local(self, point: Vector | tuple[float, ...]) -> tuple[float, float]:
        """How far a point is forward and to the left of the base, m."""
        x, y, yaw = self.pose()
        dx, dy = point[0] - x, point[1] - y
        return dx * math.cos(yaw) + dy * math.sin(yaw), -dx * math.sin(yaw) + dy * math.cos(yaw)

    def there(self, forward: float, left: float, z: float) -> Vector:
        """The point of the room at a place relative to the base, m."""
        x, y, yaw = self.pose()
        c, s = math.cos(yaw), math.sin(yaw)
        return np.array([x + forward * c - left * s, y + forward * s + left * c, z])

    # Gaze: a target that may move; the neck follows it with limited speed and acceleration.

    def look_ahead(self, glance: float = 0.0) -> None:
        """Look at the way, `glance` rad lower."""
        self._gaze, self.glance = None, glance

    def look_at(self, point: Vector | tuple[float, float, float]) -> None:
        """Look at a fixed point, m."""
        fixed = np.array(point, dtype=float)
        self._gaze = lambda: fixed

    def follow(self, target: Callable[[], Vector], station: Station, share: float = 0.4) -> None:
        """Look between a work surface and a target that moves: eyes that jump make the picture restless.

        What has fallen to the floor is not looked after: the robot would stare at its own feet.
        """
        focus = np.asarray(station.focus)

        def between() -> Vector:
            point = target()
            return (1 - share) * focus + share * (point if point[2] > station.surface - 0.15 else focus)

        self._gaze = between

    def follow_on_the_way(self, target: Callable[[], Vector]) -> None:
        """Look between the way ahead and something carried."""
        self._gaze = lambda: 0.55 * self.there(1.6, 0.0, 0.75) + 0.45 * target()

    def emit(self) -> Vector:
        """The command of this frame: the gaze rides on whatever the body does."""
        q = self.sim.data.qpos[self.sim.joint_address]
        lean = q[INDEX["hip_pitch"]] + q[INDEX["ankle_pitch"]] - q[INDEX["knee_pitch"]]
        if self._gaze is not None:
            camera, target = self.sim.data.cam("head").xpos, self._gaze()
            forward = math.hypot(target[0] - camera[0], target[1] - camera[1])
            wanted = math.atan2(camera[2] - target[2], max(forward, 0.05)) - lean
        else:
            wanted = 0.32 + self.glance - lean
        neck = INDEX["neck_pitch"]
        error = float(np.clip(wanted, LOW[neck], HIGH[neck])) - self.command[neck]
        speed = float(np.clip(error * 0.09, -0.02, 0.02))
        self._nod += float(np.clip(speed - self._nod, -0.003, 0.003))
        self.command[neck] += self._nod
        return np.concatenate(
            [np.clip(self.command[:21], LOW, HIGH), np.clip(self.command[21:23], 0, 1), self.command[23:]]
        )

    def start(self, name: str) -> None:
        """Note in the diary that a behaviour begins."""
        self.diary.behaviours.append((self.sim.frame_index, name))

    # Primitives: each yields once per frame.

    def wait(self, seconds: float) -> Iterator[Vector]:
        """Hold still."""
        for _ in range(max(1, round(seconds * HZ))):
            yield self.emit()

    def move(self, targets: dict[int, float], seconds: float) -> Iterator[Vector]:
        """Minimum-jerk motion of some command entries."""
        keys = np.array(list(targets))
        start, end = self.command[keys].copy(), np.array([targets[int(key)] for key in keys])
        frames = max(1, round(seconds * HZ))
        for frame in range(1, frames + 1):
            self.command[keys] = start + (end - start) * smooth(frame / frames)
            yield self.emit()

    def converge(self, side: str, seconds: float = 0.8, tolerance: float = 0.025) -> Iterator[Vector]:
        """Wait until the arm is where it was told to be."""
        for _ in range(round(seconds * HZ)):
            measured = self.sim.data.qpos[self.sim.joint_address[ARM[side]]]
            if np.abs(measured - self.command[ARM[side]]).max() < tolerance:
                return
            yield self.emit()

    def posture(self, poses: dict[str, Vector]) -> dict[int, float]:
        """Command entries that bring the arms to a pose, save one that holds something."""
        targets: dict[int, float] = {}
        for side in SIDES:
            if self.holding != side:
                targets |= arm(side, poses[side])
        return targets

    # Reaching.

    def best(self, side: str, point: Vector, pitches: tuple[float, ...], turn: float = 0.0) -> Approach:
        """The pitch and heading that reach a point best, around the base's heading plus `turn`."""
        _, _, yaw = self.pose()
        inward = -0.25 if side == "left" else 0.25
        options: list[tuple[float, Approach]] = []
        for pitch in pitches:
            for sideways in (0.0, inward):
                approach = Approach(pitch=pitch, heading=yaw + turn + sideways)
                _, miss = self.solve(side, point, approach, start=self.ready[side])
                options.append((miss + 0.004 * len(options), approach))
        return min(options, key=lambda option: option[0])[1]

    def solve(
        self, side: str, point: Vector, approach: Approach, *, start: Vector | None = None,
        body: dict[int, float] | None = None,
    ) -> tuple[Vector, float]:  # fmt: skip
        """Arm angles for a grip pose, and the miss in m; `body` replaces commanded angles of the torso."""
        joints = self.command[:21].copy()
        for index, angle in (body or {}).items():
            joints[index] = angle
        return self._solver.solve(
            side, point, pitch=approach.pitch, heading=approach.heading, joints=joints, start=start
        )

    def reach(self, side: str, point: Vector, approach: Approach, seconds: float) -> Iterator[Vector]:
        """Bring the grip to a point and wait until it is there."""
        angles, _ = self.solve(side, point, approach)
        yield from self.move(arm(side, angles), seconds)
        yield from self.converge(side)

    def trace(self, side: str, path: Sequence[tuple[Vector, Approach]], seconds: float) -> Iterator[Vector]:
        """Lead the grip along a path of poses without stopping between them."""
        knots = [self.command[ARM[side]].copy()]
        for point, approach in path:
            knots.append(self.solve(side, point, approach, start=knots[-1])[0])
        table, stops = np.stack(knots), np.linspace(0, 1, len(knots))
        frames = max(1, round(seconds * HZ))
        for frame in range(1, frames + 1):
            at = smooth(frame / frames)
            self.command[ARM[side]] = [float(np.interp(at, stops, column)) for column in table.T]
            yield self.emit()
        yield from self.converge(side)

    # Driving.

    def go(self, station: Station) -> Iterator[Vector]:
        """To a station, with the arms drawn in; an arm that holds something stays as it is."""
        self.start("drive")
        x, y, _ = self.pose()
        gap = min((distance_to(box, x, y) for box in self.sim.room.obstacles), default=1.0)
        yield from self.move(torso(0.05, 0.0) | self.posture(self.drawn_in), 0.9)
        if gap < 0.42:
            yield from self.straight(-0.22)
        if station.surface:
            behind = 0.25
            ahead = (station.x - behind * math.cos(station.yaw), station.y - behind * math.sin(station.yaw))
            yield from self.drive(ahead, station.yaw)
            self.look_at(station.focus)
            yield from self.straight(self.local((station.x, station.y))[0])
        else:
            yield from self.drive((station.x, station.y), station.yaw)
        self.look_at(station.focus)
        if self.holding is None:
            yield from self.move(self.posture(self.ready) | working_torso(station), 1.0)

    def drive(self, goal: tuple[float, float], yaw: float) -> Iterator[Vector]:
        """Along a planned path: turn on the spot towards a far-off heading, otherwise steer while driving."""
        x, y, _ = self.pose()
        path = plan_path(self.sim.room, (x, y), goal, self.config.clearance)[1:]
        phase = self.rng.uniform(0, 6.28)
        stuck = 0
        for number, (px, py) in enumerate(path):
            last = number == len(path) - 1
            for frame in range(HZ * 12):
                x, y, heading = self.pose()
                distance = math.hypot(px - x, py - y)
                if distance < (0.03 if last else 0.18):
                    break
                error = wrap(math.atan2(py - y, px - x) - heading)
                if last and distance < 0.12 and abs(error) > 1.2:
                    break
                stuck = stuck + 1 if self.command[23] > 0.1 and self._speed() < 0.02 else 0
                if stuck > HZ // 2:
                    yield from self._brake()
                    return
                forward = min(self.config.speed, 1.4 * distance + 0.06) * max(0.0, math.cos(error)) ** 3
                self._velocity(forward if abs(error) < 1.0 else 0.0, 1.9 * error)
                sway = 0.05 * math.sin(phase + frame / HZ * 2.2) * forward
                self.command[INDEX["hip_roll"]] = 0.4 * sway
                yield self.emit()
        yield from self._turn(yaw)

    def shift(self, station: Station) -> Iterator[Vector]:
        """Stand a little differently before a surface: some degrees, some centimetres."""
        self.look_at(station.focus)
        yield from self._turn(station.yaw + self.rng.normal(0, 0.045))
        yield from self.straight(self.local((station.x, station.y))[0] - self.rng.uniform(-0.01, 0.05))

    def _turn(self, yaw: float) -> Iterator[Vector]:
        """On the spot, to a heading in rad."""
        for _ in range(HZ * 6):
            error = wrap(yaw - self.pose()[2])
            if abs(error) < 0.02:
                break
            self._velocity(0.0, 2.0 * error + math.copysign(0.04, error))
            yield self.emit()
        yield from self._brake()

    def _speed(self) -> float:
        """Measured forward speed, m/s."""
        return abs(float(self.sim.measure()[23]))

    def straight(self, distance: float) -> Iterator[Vector]:
        """Forward or backward in a line, m."""
        x0, y0, heading = self.pose()
        for _ in range(HZ * 4):
            x, y, yaw = self.pose()
            left = distance - ((x - x0) * math.cos(heading) + (y - y0) * math.sin(heading))
            if abs(left) < 0.008:
                break
            self._velocity(float(np.clip(1.6 * left, -0.35, 0.35)), 2 * wrap(heading - yaw))
            yield self.emit()
        yield from self._brake()

    def _velocity(self, forward: float, turning: float) -> None:
        limit = self.config.turning
        self.command[23] += float(np.clip(forward - self.command[23], -0.04, 0.03))
        self.command[24] += float(np.clip(np.clip(turning, -limit, limit) - self.command[24], -0.09, 0.09))

    def _brake(self) -> Iterator[Vector]:
        while abs(self.command[23]) > 1e-3 or abs(self.command[24]) > 1e-3:
            self._velocity(0.0, 0.0)
            yield self.emit()
        self.command[23:25] = 0
