"""The scripted policy: chooses what to do at a place and where to go next, and gives one command a frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from foreframe.sim.body import SIDES
from foreframe.sim.handling import carry, grasp, push, topple
from foreframe.sim.idling import gesture, look, rest
from foreframe.sim.motion import MotionConfig, Robot, working_torso
from foreframe.sim.opening import open_or_shut
from foreframe.sim.reach import ARM, INDEX
from foreframe.sim.simulator import HZ, Simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from foreframe.sim.diary import Diary
    from foreframe.sim.room import Station

    Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BehaviourConfig:
    """How lively the robot is."""

    motion: MotionConfig = field(default_factory=MotionConfig)
    """How fast it moves."""
    actions: tuple[tuple[str, float], ...] = (
        ("grasp", 0.28),
        ("open", 0.15),
        ("carry", 0.08),
        ("topple", 0.06),
        ("push", 0.04),
        ("gesture", 0.05),
        ("look", 0.05),
        ("rest", 0.34),
    )
    """What it does at a work surface, with weights."""
    actions_per_stop: tuple[int, int] = (4, 6)
    """Fewest and most actions before it drives on."""
    shifts: float = 0.3
    """How often it shifts its stance between two actions, as a share."""


SKILLS: dict[str, Callable[[Robot, Station], Iterator[Vector]]] = {
    "grasp": grasp, "open": open_or_shut, "topple": topple, "push": push,
    "gesture": gesture, "look": look, "rest": rest,
}  # fmt: skip
"""What can be done at one place."""


class Policy:
    """Yields one command per frame for ever; reads the simulator's true state to plan (a script, not a learner)."""

    def __init__(self, simulator: Simulator, config: BehaviourConfig | None = None) -> None:
        self.config = config or BehaviourConfig()
        self.robot = Robot(simulator, self.config.motion)
        self._station = simulator.room.stations[0]

    @property
    def command(self) -> Vector:
        """The 25 numbers being given."""
        return self.robot.command

    @property
    def diary(self) -> Diary:
        """What happened so far."""
        return self.robot.diary

    def begin(self) -> None:
        """Stand at a station drawn for the episode's start."""
        robot, sim = self.robot, self.robot.sim
        work = [station for station in sim.room.stations if station.surface] or list(sim.room.stations)
        self._station = station = work[robot.rng.integers(len(work))]
        joints = np.zeros(21)
        for side in SIDES:
            joints[ARM[side]] = robot.ready[side]
        for index, angle in working_torso(station).items():
            joints[index] = angle
        joints[INDEX["neck_pitch"]] = 0.45
        robot.command[:21] = joints
        back = float(robot.rng.uniform(0.0, 0.05))
        x, y = station.x - back * math.cos(station.yaw), station.y - back * math.sin(station.yaw)
        sim.reset(x=x, y=y, yaw=station.yaw + robot.rng.normal(0, 0.03), joints=joints)
        # The first frame finds it at ease: objects settled, eyes already on the work.
        robot.look_at(station.focus)
        for _ in range(HZ):
            sim.step(robot.emit(), render=False)
        sim.frame_index = 0

    def commands(self) -> Iterator[Vector]:
        """The endless stream of commands; call `begin` first and step the simulator with each."""
        robot = self.robot
        names, weights = zip(*self.config.actions, strict=True)
        odds = np.array(weights) / sum(weights)
        low, high = self.config.actions_per_stop
        while True:
            if self._station.surface:
                for name in robot.rng.choice(names, size=int(robot.rng.integers(low, high + 1)), p=odds):
                    if name == "carry":
                        yield from self._carry()
                    else:
                        yield from self._do(str(name))
                    yield from robot.wait(robot.rng.exponential(0.9))
                    if robot.rng.random() < self.config.shifts:
                        yield from robot.shift(self._station)
            else:
                yield from self._do(str(robot.rng.choice(["look", "rest", "gesture"])))
            target = self._elsewhere(work=False)
            if target is not None:
                self._station = target
                yield from robot.go(target)

    def _do(self, name: str) -> Iterator[Vector]:
        """One action; where it finds nothing to do, the robot looks around instead."""
        before = len(self.diary.behaviours)
        yield from SKILLS[name](self.robot, self._station)
        if len(self.diary.behaviours) == before:
            yield from look(self.robot, self._station)

    def _carry(self) -> Iterator[Vector]:
        target = self._elsewhere(work=True)
        if target is not None and (yield from carry(self.robot, self._station, target)):
            self._station = target

    def _elsewhere(self, *, work: bool) -> Station | None:
        """Draw another place, work surfaces more often; with `work`, only these."""
        others = [
            station
            for station in self.robot.sim.room.stations
            if station is not self._station and (station.surface or not work)
        ]
        if not others:
            return None
        odds = np.array([4.0 if station.surface else 1.0 for station in others])
        return others[int(self.robot.rng.choice(len(others), p=odds / odds.sum()))]
