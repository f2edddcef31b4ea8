"""What the scripted robot does with empty hands: look around, rest, gesture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from foreframe.sim.body import SIDES
from foreframe.sim.motion import Robot, arm
from foreframe.sim.reach import INDEX

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from foreframe.sim.room import Station

    Vector = npt.NDArray[np.float64]


def look(robot: Robot, _station: Station) -> Iterator[Vector]:
    """Turn the torso and the eyes here and there."""
    robot.start("look")
    r = robot.rng
    for _ in range(int(r.integers(1, 4))):
        robot.look_ahead(r.uniform(-0.2, 0.35))
        yield from robot.move({INDEX["hip_yaw"]: r.uniform(-0.5, 0.5)}, r.uniform(1.2, 2.0))
        yield from robot.wait(r.uniform(0.2, 0.9))
    yield from robot.move({INDEX["hip_yaw"]: 0.0}, 0.9)


def rest(robot: Robot, station: Station) -> Iterator[Vector]:
    """Stand still and look at what is in front."""
    robot.start("rest")
    robot.look_at(station.focus)
    yield from robot.wait(robot.rng.uniform(3.0, 6.5))


def gesture(robot: Robot, station: Station) -> Iterator[Vector]:
    """Raise one arm or both and wave."""
    robot.start("gesture")
    r = robot.rng
    robot.look_at((station.focus[0], station.focus[1], station.focus[2] + 0.15))
    sides = SIDES if r.random() < 0.35 else (SIDES[r.integers(2)],)
    raised = np.array([1.1, 0.25, r.uniform(-0.3, 0.3), 1.5, 0.0, 0.0, 0.0]) + r.normal(0, 0.12, 7)
    yield from robot.move({k: v for side in sides for k, v in arm(side, raised).items()}, r.uniform(1.1, 1.6))
    for _ in range(int(r.integers(1, 4))):
        waver = np.array([r.normal(0, 0.15), 0, r.normal(0, 0.3), r.normal(0, 0.3), r.normal(0, 0.5), 0, 0])
        targets = {k: v for side in sides for k, v in arm(side, raised + waver).items()}
        yield from robot.move(targets | {21 + SIDES.index(sides[0]): r.choice([0.0, 1.0])}, r.uniform(0.6, 1.0))
    yield from robot.move(robot.posture(robot.ready) | {21: 0.0, 22: 0.0}, 1.2)
