"""The scripted policy: drives, looks, reaches, grasps, pushes, gestures and rests, as one command a frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from foreframe.sim.body import SIDES
from foreframe.sim.navigation import distance_to, plan_path
from foreframe.sim.reach import ARM, HIGH, INDEX, LOW, ArmSolver
from foreframe.sim.simulator import HZ, Simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from foreframe.sim.room import Station

    Vector = npt.NDArray[np.float64]

READY = np.array([0.3, 0.2, 0.05, 1.45, 0.0, -0.1, 0.0])
CARRY = np.array([0.05, 0.15, 0.1, 1.8, 0.0, -0.2, 0.0])


@dataclass(frozen=True, kw_only=True)
class BehaviourConfig:
    """How lively the robot is."""

    speed: float = 0.45
    """Top driving speed, m/s."""
    turning: float = 0.55
    """Top turning speed, rad/s."""
    clearance: float = 0.36
    """Between the base's centre and furniture on the road, m."""
    reach_seconds: float = 1.7
    """Duration of a reach."""
    actions: tuple[tuple[str, float], ...] = (
        ("grasp", 0.42),
        ("push", 0.08),
        ("gesture", 0.07),
        ("look", 0.08),
        ("rest", 0.29),
    )
    """What it does at a work surface, with weights."""
    actions_per_stop: tuple[int, int] = (2, 3)
    """Fewest and most actions before it drives on."""


@dataclass(kw_only=True)
class Diary:
    """What the robot did, for the side files."""

    behaviours: list[tuple[int, str]] = field(default_factory=list)
    """(first frame, name)."""
    grasps: list[dict[str, object]] = field(default_factory=list)
    """Object, side, frame of closing, rise in m, and whether it was lifted by more than 5 cm."""


def _wrap(angle: float) -> float:
    return (angle + math.pi) % (2 * math.pi) - math.pi


class Policy:
    """Yields one command per frame for ever; reads the simulator's true state to plan (a script, not a learner)."""

    def __init__(self, simulator: Simulator, config: BehaviourConfig | None = None) -> None:
        self.sim, self.config = simulator, config or BehaviourConfig()
        self.rng = simulator.streams["behaviour"]
        self.diary = Diary()
        self.command = np.zeros(25)
        self._ready = {side: READY + self.rng.normal(0, 0.08, 7) for side in SIDES}
        self._carry = {side: CARRY + self.rng.normal(0, 0.06, 7) for side in SIDES}
        self._solver = ArmSolver(simulator, rest=self._ready)
        self._gaze: tuple[float, float, float] | None = None
        self._glance = 0.0
        self._holding: str | None = None

    # Reading the world.

    def _pose(self) -> tuple[float, float, float]:
        x, y, yaw = self.sim.data.qpos[self.sim.base_address]
        return float(x), float(y), float(yaw)

    def _object(self, name: str) -> Vector:
        return self.sim.data.body(name).xpos.copy()

    def _local(self, point: Vector | tuple[float, ...]) -> tuple[float, float]:
        x, y, yaw = self._pose()
        dx, dy = point[0] - x, point[1] - y
        return dx * math.cos(yaw) + dy * math.sin(yaw), -dx * math.sin(yaw) + dy * math.cos(yaw)

    # One frame: the gaze rides on whatever the body does.

    def _emit(self) -> Vector:
        q = self.sim.data.qpos[self.sim.joint_address]
        lean = q[INDEX["hip_pitch"]] + q[INDEX["ankle_pitch"]] - q[INDEX["knee_pitch"]]
        if self._gaze is not None:
            camera = self.sim.data.cam("head").xpos
            forward = math.hypot(self._gaze[0] - camera[0], self._gaze[1] - camera[1])
            wanted = math.atan2(camera[2] - self._gaze[2], max(forward, 0.05)) - lean
        else:
            wanted = 0.32 + self._glance - lean
        neck = INDEX["neck_pitch"]
        error = float(np.clip(wanted, LOW[neck], HIGH[neck])) - self.command[neck]
        self.command[neck] += float(np.clip(error * 0.09, -0.02, 0.02))
        return np.concatenate(
            [np.clip(self.command[:21], LOW, HIGH), np.clip(self.command[21:23], 0, 1), self.command[23:]]
        )

    def _start(self, name: str) -> None:
        self.diary.behaviours.append((self.sim.frame_index, name))

    # Primitives: each yields once per frame.

    def _wait(self, seconds: float) -> Iterator[Vector]:
        for _ in range(max(1, round(seconds * HZ))):
            yield self._emit()

    def _move(self, targets: dict[int, float], seconds: float) -> Iterator[Vector]:
        """Minimum-jerk motion of some command entries."""
        keys = np.array(list(targets))
        start, end = self.command[keys].copy(), np.array([targets[int(key)] for key in keys])
        frames = max(1, round(seconds * HZ))
        for frame in range(1, frames + 1):
            t = frame / frames
            self.command[keys] = start + (end - start) * (10 * t**3 - 15 * t**4 + 6 * t**5)
            yield self._emit()

    def _converge(self, side: str, seconds: float = 0.8, tolerance: float = 0.025) -> Iterator[Vector]:
        """Wait until the arm is where it was told to be."""
        for _ in range(round(seconds * HZ)):
            if (
                np.abs(self.sim.data.qpos[self.sim.joint_address[ARM[side]]] - self.command[ARM[side]]).max()
                < tolerance
            ):
                return
            yield self._emit()

    def _arm(self, side: str, angles: Vector) -> dict[int, float]:
        return dict(zip(ARM[side].tolist(), angles.tolist(), strict=True))

    def _posture(self, name: str) -> dict[int, float]:
        poses = self._ready if name == "ready" else self._carry
        targets: dict[int, float] = {}
        for side in SIDES:
            if self._holding != side:
                targets |= self._arm(side, poses[side])
        return targets

    def _torso(self, lean: float, crouch: float, turn: float = 0.0) -> dict[int, float]:
        return {
            INDEX["hip_pitch"]: lean + crouch, INDEX["ankle_pitch"]: crouch, INDEX["knee_pitch"]: 2 * crouch,
            INDEX["hip_yaw"]: turn, INDEX["hip_roll"]: 0.0, INDEX["ankle_roll"]: 0.0,
        }  # fmt: skip

    def _drive(self, goal: tuple[float, float], yaw: float | None) -> Iterator[Vector]:
        """Along a planned path: turn on the spot towards a far-off heading, otherwise steer while driving."""
        x, y, _ = self._pose()
        path = plan_path(self.sim.room, (x, y), goal, self.config.clearance)[1:]
        phase = self.rng.uniform(0, 6.28)
        for number, (px, py) in enumerate(path):
            last = number == len(path) - 1
            for frame in range(HZ * 12):
                x, y, heading = self._pose()
                distance = math.hypot(px - x, py - y)
                if distance < (0.03 if last else 0.18):
                    break
                error = _wrap(math.atan2(py - y, px - x) - heading)
                if last and distance < 0.12 and abs(error) > 1.2:
                    break
                forward = min(self.config.speed, 1.4 * distance + 0.06) * max(0.0, math.cos(error)) ** 3
                self._velocity(forward if abs(error) < 1.0 else 0.0, 1.9 * error)
                sway = 0.05 * math.sin(phase + frame / HZ * 2.2) * forward
                self.command[INDEX["hip_roll"]] = 0.4 * sway
                yield self._emit()
        if yaw is not None:
            for _ in range(HZ * 6):
                error = _wrap(yaw - self._pose()[2])
                if abs(error) < 0.02:
                    break
                self._velocity(0.0, 2.0 * error + math.copysign(0.04, error))
                yield self._emit()
        yield from self._brake()

    def _straight(self, distance: float) -> Iterator[Vector]:
        """Forward or backward in a line."""
        x0, y0, heading = self._pose()
        for _ in range(HZ * 4):
            x, y, yaw = self._pose()
            left = distance - ((x - x0) * math.cos(heading) + (y - y0) * math.sin(heading))
            if abs(left) < 0.008:
                break
            self._velocity(float(np.clip(1.6 * left, -0.35, 0.35)), 2 * _wrap(heading - yaw))
            yield self._emit()
        yield from self._brake()

    def _velocity(self, forward: float, turning: float) -> None:
        limit = self.config.turning
        self.command[23] += float(np.clip(forward - self.command[23], -0.04, 0.03))
        self.command[24] += float(np.clip(np.clip(turning, -limit, limit) - self.command[24], -0.09, 0.09))

    def _brake(self) -> Iterator[Vector]:
        while abs(self.command[23]) > 1e-3 or abs(self.command[24]) > 1e-3:
            self._velocity(0.0, 0.0)
            yield self._emit()
        self.command[23:25] = 0

    # Inverse kinematics.

    def _best(self, side: str, point: Vector, pitches: tuple[float, ...]) -> tuple[Vector, float, float, float]:
        """The pitch and heading that reach a point best: (angles, distance, pitch, heading)."""
        _, _, yaw = self._pose()
        inward = -0.25 if side == "left" else 0.25
        options = []
        for pitch in pitches:
            for turn in (0.0, inward):
                angles, distance = self._solver.solve(
                    side, point, pitch=pitch, heading=yaw + turn, joints=self.command[:21], start=self._ready[side]
                )
                options.append((distance + 0.004 * len(options), angles, distance, pitch, yaw + turn))
        _, angles, distance, pitch, heading = min(options, key=lambda option: option[0])
        return angles, distance, pitch, heading

    def _reach(self, side: str, point: Vector, pitch: float, heading: float, seconds: float) -> Iterator[Vector]:
        angles, _ = self._solver.solve(side, point, pitch=pitch, heading=heading, joints=self.command[:21])
        yield from self._move(self._arm(side, angles), seconds)
        yield from self._converge(side)

    # Behaviours.

    def _reachable(self, station: Station) -> list[str]:
        found = []
        for name in station.objects:
            position = self._object(name)
            forward, sideways = self._local(position)
            if 0.3 < forward < 0.68 and abs(sideways) < 0.5 and position[2] > station.surface - 0.02:
                found.append(name)
        return found

    def _watch(self, station: Station, point: Vector) -> None:
        """Look between the work surface and a point on it: eyes that jump make the picture restless."""
        self._gaze = tuple((0.5 * np.asarray(station.focus) + 0.5 * point).tolist())

    def _lean_for(self, station: Station, forward: float) -> dict[int, float]:
        low = max(0.0, 0.9 - station.surface)
        return self._torso(
            float(np.clip(0.28 + 0.7 * (forward - 0.48), 0.2, 0.5)), float(np.clip(2.2 * low, 0.0, 0.35))
        )

    def _working_torso(self, station: Station) -> dict[int, float]:
        return self._lean_for(station, 0.5) if station.surface else self._torso(0.08, 0.0)

    def _grasp(self, station: Station) -> Iterator[Vector]:
        names = self._reachable(station)
        if not names:
            yield from self._look(station)
            return
        self._start("grasp")
        name = str(self.rng.choice(names))
        position = self._object(name)
        forward, sideways = self._local(position)
        side = "left" if sideways > 0 else "right"
        hand = 21 + SIDES.index(side)
        self._watch(station, position)
        yield from self._move(self._lean_for(station, forward) | self._arm(side, self._ready[side]) | {hand: 0.0}, 1.0)
        height = self.sim.room.objects[name].height
        low = position[2] - height / 2
        aim = np.array([0, 0, max(0.0, low + max(0.035, 0.55 * height) - position[2])])
        pitches = (0.5, 0.75, 1.0) if height > 0.085 else (0.8, 1.05, 0.6)
        _, _, pitch, heading = self._best(side, position + aim, pitches)
        approach = np.array(
            [math.cos(heading) * math.cos(pitch), math.sin(heading) * math.cos(pitch), -math.sin(pitch)]
        )
        pace = self.config.reach_seconds * self.rng.uniform(0.8, 1.25)
        yield from self._reach(side, position + aim - 0.12 * approach + np.array([0, 0, 0.03]), pitch, heading, pace)
        position = self._object(name)
        self._watch(station, position)
        yield from self._reach(side, position + aim + 0.012 * approach, pitch, heading, 0.55 * pace)
        closing = self.sim.frame_index
        yield from self._move({hand: 1.0}, 0.4)
        yield from self._wait(0.2)
        yaw = self._pose()[2]
        back = np.array([-math.cos(yaw), -math.sin(yaw), 0.0])
        grip = self.sim.data.site(f"{side}_grip").xpos.copy()
        lift = self.rng.uniform(0.11, 0.2)
        yield from self._reach(side, grip + np.array([0, 0, lift]) + 0.06 * back, pitch * 0.8, heading, 0.8 * pace)
        rise = float(self._object(name)[2] - position[2])
        self.diary.grasps.append(
            {"object": name, "side": side, "frame": closing, "rise": round(rise, 4), "lifted": rise > 0.05}
        )
        if rise > 0.05 and self.rng.random() < 0.4:
            self._start("inspect")
            self._watch(station, self._object(name))
            held = self.command[ARM[side]].copy()
            turned = held + np.array(
                [0.1, 0, 0, 0.25, self.rng.choice([-0.7, 0.7]), self.rng.normal(0, 0.3), self.rng.normal(0, 0.2)]
            )
            yield from self._move(self._arm(side, turned), 0.9)
            yield from self._wait(self.rng.uniform(0.2, 1.2))
            yield from self._move(self._arm(side, held), 0.8)
        self._start("place")
        shift = np.array([math.sin(yaw), -math.cos(yaw), 0.0]) * self.rng.uniform(-0.1, 0.1)
        if self.rng.random() < 0.85:
            self._watch(station, grip + shift)
            yield from self._reach(side, grip + shift + np.array([0, 0, 0.06]), pitch, heading, 0.6 * pace)
            yield from self._reach(side, grip + shift + np.array([0, 0, 0.006]), pitch, heading, 0.5 * pace)
        yield from self._move({hand: 0.0}, 0.4)
        here = self.sim.data.site(f"{side}_grip").xpos.copy()
        yield from self._reach(side, here - 0.1 * approach + np.array([0, 0, 0.05]), pitch, heading, 0.5)
        yield from self._move(self._arm(side, self._ready[side]), 0.9)

    def _push(self, station: Station) -> Iterator[Vector]:
        names = self._reachable(station)
        if not names:
            yield from self._gesture(station)
            return
        self._start("push")
        name = str(self.rng.choice(names))
        position = self._object(name)
        forward, sideways = self._local(position)
        side = "left" if sideways > 0 else "right"
        self._watch(station, position)
        yield from self._move(
            self._lean_for(station, forward) | self._arm(side, self._ready[side]) | {21 + SIDES.index(side): 0.85}, 1.0
        )
        _, _, yaw = self._pose()
        left = np.array([-math.sin(yaw), math.cos(yaw), 0.0])
        outer = 1.0 if side == "left" else -1.0
        lift = np.array([0, 0, 0.02])
        _, _, pitch, heading = self._best(side, position + 0.1 * outer * left + lift, (0.7, 0.95))
        pace = self.config.reach_seconds
        yield from self._reach(side, position + 0.11 * outer * left + np.array([0, 0, 0.14]), pitch, heading, pace)
        yield from self._reach(side, position + 0.1 * outer * left + lift, pitch, heading, 0.6 * pace)
        far = position - self.rng.uniform(0.06, 0.14) * outer * left + lift
        yield from self._reach(side, far, pitch, heading, pace)
        yield from self._reach(side, far + np.array([0, 0, 0.14]), pitch, heading, 0.6)
        yield from self._move(self._arm(side, self._ready[side]), 0.9)

    def _gesture(self, station: Station) -> Iterator[Vector]:
        self._start("gesture")
        self._gaze = (*station.focus[:2], station.focus[2] + 0.15)
        sides = SIDES if self.rng.random() < 0.35 else (SIDES[self.rng.integers(2)],)
        raised = np.array([1.1, 0.25, self.rng.uniform(-0.3, 0.3), 1.5, 0.0, 0.0, 0.0]) + self.rng.normal(0, 0.12, 7)
        yield from self._move(
            {k: v for side in sides for k, v in self._arm(side, raised).items()}, self.rng.uniform(1.1, 1.6)
        )
        for _ in range(int(self.rng.integers(1, 4))):
            swing = raised + np.array(
                [
                    self.rng.normal(0, 0.15),
                    0,
                    self.rng.normal(0, 0.3),
                    self.rng.normal(0, 0.3),
                    self.rng.normal(0, 0.5),
                    0,
                    0,
                ]
            )
            targets = {k: v for side in sides for k, v in self._arm(side, swing).items()}
            yield from self._move(
                targets | {21 + SIDES.index(sides[0]): self.rng.choice([0.0, 1.0])}, self.rng.uniform(0.6, 1.0)
            )
        yield from self._move(self._posture("ready") | {21: 0.0, 22: 0.0}, 1.2)

    def _look(self, _station: Station) -> Iterator[Vector]:
        self._start("look")
        self._gaze = None
        for _ in range(int(self.rng.integers(1, 4))):
            self._glance = self.rng.uniform(-0.25, 0.35)
            yield from self._move({INDEX["hip_yaw"]: self.rng.uniform(-0.6, 0.6)}, self.rng.uniform(0.9, 1.6))
            yield from self._wait(self.rng.uniform(0.2, 0.9))
        self._glance = 0.0
        yield from self._move({INDEX["hip_yaw"]: 0.0}, 0.9)

    def _rest(self, station: Station) -> Iterator[Vector]:
        self._start("rest")
        self._gaze = station.focus
        yield from self._wait(self.rng.uniform(3.0, 6.0))

    def _go(self, station: Station) -> Iterator[Vector]:
        self._start("drive")
        self._gaze = None
        self._glance = self.rng.uniform(-0.1, 0.12)
        x, y, _ = self._pose()
        gap = min((distance_to(box, x, y) for box in self.sim.room.obstacles), default=1.0)
        yield from self._move(self._torso(0.05, 0.0) | self._posture("carry"), 0.9)
        if gap < 0.42:
            yield from self._straight(-0.22)
        if not station.surface:
            yield from self._drive((station.x, station.y), station.yaw)
        else:
            behind = 0.25
            ahead = (station.x - behind * math.cos(station.yaw), station.y - behind * math.sin(station.yaw))
            yield from self._drive(ahead, station.yaw)
            self._gaze = station.focus
            yield from self._straight(self._local((station.x, station.y))[0])
        self._gaze = station.focus
        yield from self._move(self._posture("ready") | self._working_torso(station), 1.0)

    def begin(self) -> None:
        """Stand at a station drawn for the episode's start."""
        room = self.sim.room
        work = [station for station in room.stations if station.surface] or list(room.stations)
        self._station = work[self.rng.integers(len(work))]
        joints = np.zeros(21)
        for side in SIDES:
            joints[ARM[side]] = self._ready[side]
        for index, angle in self._working_torso(self._station).items():
            joints[index] = angle
        joints[INDEX["neck_pitch"]] = 0.45
        self.command[:21] = joints
        station = self._station
        back = float(self.rng.uniform(0.0, 0.05))
        x, y = station.x - back * math.cos(station.yaw), station.y - back * math.sin(station.yaw)
        self.sim.reset(x=x, y=y, yaw=station.yaw + self.rng.normal(0, 0.03), joints=joints)
        # The first frame finds it at ease: objects settled, eyes already on the work.
        self._gaze = station.focus
        for _ in range(HZ):
            self.sim.step(self._emit(), render=False)
        self.sim.frame_index = 0

    def commands(self) -> Iterator[Vector]:
        """The endless stream of commands; call `begin` first and step the simulator with each."""
        names, weights = zip(*self.config.actions, strict=True)
        stations = list(self.sim.room.stations)
        skills = {
            "grasp": self._grasp,
            "push": self._push,
            "gesture": self._gesture,
            "look": self._look,
            "rest": self._rest,
        }
        while True:
            if self._station.surface:
                low, high = self.config.actions_per_stop
                for name in self.rng.choice(
                    names, size=int(self.rng.integers(low, high + 1)), p=np.array(weights) / sum(weights)
                ):
                    yield from skills[str(name)](self._station)
                    yield from self._wait(self.rng.exponential(0.9))
            else:
                yield from skills[str(self.rng.choice(["look", "rest", "gesture"]))](self._station)
            others = [station for station in stations if station is not self._station]
            if not others:
                continue
            odds = np.array([2.5 if station.surface else 1.0 for station in others])
            self._station = others[int(self.rng.choice(len(others), p=odds / odds.sum()))]
            yield from self._go(self._station)
