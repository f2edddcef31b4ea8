"""How the scripted robot opens and shuts drawers and doors: it takes the handle between two fingers and leads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from foreframe.sim.handling import side_of
from foreframe.sim.motion import Approach, Robot, arm, hand, lean_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from foreframe.sim.fixtures import Fixture
    from foreframe.sim.room import Station

    Vector = npt.NDArray[np.float64]

MOVED = 0.6
"""A fixture counts as moved when its joint has gone more than this share of the wanted way."""


def fixture_at(robot: Robot, station: Station) -> str | None:
    """Name of the fixture worked from a station, if there is one."""
    index = robot.sim.room.stations.index(station)
    return next((name for name, fixture in robot.sim.room.fixtures.items() if fixture.station == index), None)


def opened(robot: Robot, fixture: Fixture) -> float:
    """Position of the joint, m or rad."""
    return float(robot.sim.data.joint(fixture.joint).qpos[0])


def open_or_shut(robot: Robot, station: Station) -> Iterator[Vector]:
    """Open the station's fixture if it is shut, and often shut it after a look; shut it if it is open."""
    name = fixture_at(robot, station)
    if name is None:
        return
    fixture = robot.sim.room.fixtures[name]
    if opened(robot, fixture) > 0.4 * _ample(fixture):
        yield from _lead(robot, station, name, "close", 0.0)
        return
    yield from _lead(robot, station, name, "open", _ample(fixture) * robot.rng.uniform(0.8, 1.15))
    yield from robot.wait(robot.rng.uniform(0.5, 1.5))
    if opened(robot, fixture) > 0.4 * _ample(fixture) and robot.rng.random() < 0.6:
        yield from _lead(robot, station, name, "close", 0.0)


def _ample(fixture: Fixture) -> float:
    """How far open is well open, m or rad: as far as the arm can comfortably lead it."""
    return 0.8 * fixture.travel if fixture.kind == "drawer" else 0.75


def _handle_at(robot: Robot, fixture: Fixture, position: float) -> tuple[Vector, float]:
    """Where the handle is when the joint is at `position`, and by how much the front is then turned, rad."""
    joint = robot.sim.data.joint(fixture.joint)
    now = robot.sim.data.site(fixture.handle).xpos.copy()
    change = position - float(joint.qpos[0])
    if fixture.kind == "drawer":
        return now + change * joint.xaxis, 0.0
    angle = change * float(joint.xaxis[2])
    c, s = np.cos(angle), np.sin(angle)
    arm_x, arm_y, _ = now - joint.xanchor
    turned = np.array([c * arm_x - s * arm_y, s * arm_x + c * arm_y, now[2] - joint.xanchor[2]])
    return joint.xanchor + turned, position * float(joint.xaxis[2])


def _lead(robot: Robot, station: Station, name: str, action: str, wanted: float) -> Iterator[Vector]:
    """Take the handle, lead it until the joint should be at `wanted`, and let go."""
    fixture = robot.sim.room.fixtures[name]
    robot.start(action)
    before = opened(robot, fixture)
    handle, turned = _handle_at(robot, fixture, before)
    side = side_of(robot, handle)
    robot.follow(lambda: robot.sim.data.site(fixture.handle).xpos, station, 0.55)
    forward, _ = robot.local(handle)
    yield from robot.move(lean_for(station, forward) | arm(side, robot.ready[side]) | hand(side, 0.0), 1.0)
    approach = robot.best(side, handle, (0.3, 0.55, 0.8), 0.5 * turned)
    pace = robot.config.reach_seconds * robot.rng.uniform(0.85, 1.2)
    yield from robot.reach(side, handle - 0.12 * approach.direction, approach, pace)
    yield from robot.reach(side, handle + 0.008 * approach.direction, approach, 0.6 * pace)
    frame = robot.sim.frame_index
    yield from robot.move(hand(side, 1.0), 0.4)
    path: list[tuple[Vector, Approach]] = []
    for share in np.linspace(0, 1, 6)[1:]:
        point, front = _handle_at(robot, fixture, before + float(share) * (wanted - before))
        heading = approach.heading + 0.5 * (front - turned)
        path.append((point + 0.008 * approach.direction, Approach(pitch=approach.pitch, heading=heading)))
    yield from robot.trace(side, path, 1.1 * pace)
    yield from robot.move(hand(side, 0.0), 0.4)
    last = path[-1][1]
    yield from robot.reach(side, robot.grip(side) - 0.11 * last.direction, last, 0.6)
    after = opened(robot, fixture)
    robot.diary.fixtures.append(
        {
            "fixture": name, "kind": fixture.kind, "action": action, "side": side, "frame": frame,
            "before": round(before, 4), "wanted": round(wanted, 4), "after": round(after, 4),
            "moved": (after - before) / (wanted - before) > MOVED,
        }
    )  # fmt: skip
    yield from robot.move(arm(side, robot.ready[side]), 0.9)
