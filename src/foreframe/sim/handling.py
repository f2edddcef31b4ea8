"""What the scripted robot does with loose objects: grasp, inspect, place, carry elsewhere, push, topple."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from foreframe.sim.motion import UP, Approach, Robot, arm, hand, lean_for, torso
from foreframe.sim.reach import ARM

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import numpy.typing as npt

    from foreframe.sim.room import Station

    Vector = npt.NDArray[np.float64]

LIFTED = 0.05
"""A grasp counts when the object has risen by more than this, m."""
TOPPLED = 45.0
"""An object counts as toppled when it is tilted by more than this, degrees."""


def reachable(robot: Robot, station: Station) -> list[str]:
    """Loose objects before the robot on a work surface, whoever put them there; not those in a drawer."""
    room, found = robot.sim.room, list[str]()
    inside = {name for fixture in room.fixtures.values() for name in fixture.contents}
    for name in room.objects:
        position = robot.object(name)
        forward, sideways = robot.local(position)
        on_top = station.surface - 0.02 < position[2] < station.surface + 0.2
        if 0.3 < forward < 0.62 and abs(sideways) < 0.5 and on_top and name not in inside:
            found.append(name)
    return found


def side_of(robot: Robot, point: Vector) -> str:
    """The hand on whose side a point is."""
    return "left" if robot.local(point)[1] > 0 else "right"


def lift(robot: Robot, station: Station, name: str, side: str) -> Generator[Vector, None, Approach]:
    """Grasp an object and lift it; `robot.holding` and the diary's last grasp say whether it came along."""
    position = robot.object(name)
    robot.follow(lambda: robot.object(name), station)
    forward, _ = robot.local(position)
    yield from robot.move(lean_for(station, forward) | arm(side, robot.ready[side]) | hand(side, 0.0), 1.0)
    height = robot.sim.room.objects[name].height
    low = position[2] - height / 2
    aim = UP * max(0.0, low + max(0.035, 0.55 * height) - position[2])
    approach = robot.best(side, position + aim, (0.5, 0.75, 1.0) if height > 0.085 else (0.8, 1.05, 0.6))
    pace = robot.config.reach_seconds * robot.rng.uniform(0.8, 1.25)
    yield from robot.reach(side, position + aim - 0.12 * approach.direction + 0.03 * UP, approach, pace)
    position = robot.object(name)
    yield from robot.reach(side, position + aim + 0.012 * approach.direction, approach, 0.55 * pace)
    closing = robot.sim.frame_index
    yield from robot.move(hand(side, 1.0), 0.4)
    yield from robot.wait(0.2)
    yaw = robot.pose()[2]
    back = np.array([-math.cos(yaw), -math.sin(yaw), 0.0])
    up = robot.rng.uniform(0.11, 0.2)
    raised = Approach(pitch=approach.pitch * 0.8, heading=approach.heading)
    yield from robot.reach(side, robot.grip(side) + up * UP + 0.06 * back, raised, 0.8 * pace)
    rise = float(robot.object(name)[2] - position[2])
    robot.diary.grasps.append(
        {"object": name, "side": side, "frame": closing, "rise": round(rise, 4), "lifted": rise > LIFTED}
    )
    robot.holding = side if rise > LIFTED else None
    return raised


def let_go(robot: Robot, side: str, approach: Approach) -> Iterator[Vector]:
    """Open the hand, draw it back, and return the arm over the work."""
    yield from robot.move(hand(side, 0.0), 0.4)
    away = robot.grip(side) - 0.1 * approach.direction + 0.05 * UP
    robot.holding = None
    yield from robot.reach(side, away, approach, 0.6)
    yield from robot.move(arm(side, robot.ready[side]), 0.9)


def set_down(
    robot: Robot, station: Station, name: str, side: str, spot: Vector, approach: Approach
) -> Iterator[Vector]:
    """Lower what is held until it stands on the surface at `spot` (x, y in m), and let go."""
    hang = robot.grip(side)[2] - _bottom(robot, name)
    on = np.array([spot[0], spot[1], station.surface + hang])
    pace = robot.config.reach_seconds
    yield from robot.reach(side, on + 0.07 * UP, approach, 0.7 * pace)
    yield from robot.reach(side, on + 0.006 * UP, approach, 0.5 * pace)
    yield from let_go(robot, side, approach)


def _bottom(robot: Robot, name: str) -> float:
    """Height of an object's lowest point, m; as if it were a cylinder."""
    thing, upright = robot.sim.room.objects[name], abs(robot.upright(name))
    across = math.sqrt(max(0.0, 1 - upright**2))
    return float(robot.object(name)[2]) - upright * thing.height / 2 - across * thing.radius


def _in_hand(robot: Robot, name: str, side: str) -> bool:
    return float(np.linalg.norm(robot.object(name) - robot.grip(side))) < 0.1


def grasp(robot: Robot, station: Station) -> Iterator[Vector]:
    """Lift something, perhaps turn it before the eyes, and put it down again, or drop it."""
    names = reachable(robot, station)
    if not names:
        return
    robot.start("grasp")
    name = str(robot.rng.choice(names))
    side = side_of(robot, robot.object(name))
    approach = yield from lift(robot, station, name, side)
    if robot.holding and robot.rng.random() < 0.4:
        yield from _inspect(robot, station, name, side)
    if robot.holding and robot.rng.random() < 0.9:
        robot.start("place")
        forward, left = robot.local(robot.object(name))
        left = float(np.clip(left + robot.rng.uniform(-0.1, 0.1), -0.4, 0.4))
        yield from set_down(robot, station, name, side, robot.there(min(forward + 0.05, 0.55), left, 0.0), approach)
    else:
        if robot.holding:
            robot.start("drop")
        yield from let_go(robot, side, approach)


def _inspect(robot: Robot, station: Station, name: str, side: str) -> Iterator[Vector]:
    """Turn what is held in front of the camera."""
    robot.start("inspect")
    robot.follow(lambda: robot.object(name), station, 0.6)
    held, r = robot.command[ARM[side]].copy(), robot.rng
    turned = held + np.array([0.1, 0, 0, 0.25, r.choice([-0.7, 0.7]), r.normal(0, 0.3), r.normal(0, 0.2)])
    yield from robot.move(arm(side, turned), 0.9)
    yield from robot.wait(r.uniform(0.2, 1.2))
    yield from robot.move(arm(side, held), 0.8)


def free_spot(robot: Robot, side: str) -> Vector:
    """A place before the robot, on the hand's side, far from other objects and from handles; x, y in m."""
    sim, sign = robot.sim, 1.0 if side == "left" else -1.0
    taken = [robot.object(name)[:2] for name in sim.room.objects]
    handles = [sim.data.site(fixture.handle).xpos[:2] for fixture in sim.room.fixtures.values()]
    best, widest = robot.there(0.5, sign * 0.15, 0.0)[:2], -1.0
    for forward in (0.47, 0.51, 0.55):
        for left in np.linspace(-0.05, 0.32, 9) * sign:
            spot = robot.there(forward, float(left), 0.0)[:2]
            gap = min([0.3, *(float(np.hypot(*(spot - other))) for other in taken)])
            gap = min([gap, *(0.6 * float(np.hypot(*(spot - other))) for other in handles)])
            if gap > widest + 1e-6:
                best, widest = spot, gap
    return best


def carry(robot: Robot, station: Station, destination: Station) -> Generator[Vector, None, bool]:
    """Lift something, drive it to another work surface and put it down there; returns whether the robot drove."""
    names = reachable(robot, station)
    if not names:
        return False
    robot.start("grasp")
    name = str(robot.rng.choice(names))
    side = side_of(robot, robot.object(name))
    approach = yield from lift(robot, station, name, side)
    if not robot.holding:
        yield from let_go(robot, side, approach)
        return False
    robot.start("carry")
    stations = robot.sim.room.stations
    record: dict[str, object] = {
        "object": name, "side": side, "frame": robot.sim.frame_index,
        "from_station": stations.index(station), "to_station": stations.index(destination),
    }  # fmt: skip
    turn = approach.heading - robot.pose()[2]
    sign, upright = (1.0 if side == "left" else -1.0), torso(0.05, 0.0)
    level = Approach(pitch=min(approach.pitch, 0.5), heading=robot.pose()[2])
    close_by = robot.there(0.36, 0.17 * sign, station.surface + 0.3)
    angles, _ = robot.solve(side, close_by, level, body=upright)
    robot.follow_on_the_way(lambda: robot.object(name))
    yield from robot.move(upright | arm(side, angles), 1.3)
    yield from robot.go(destination)
    if _in_hand(robot, name, side):
        robot.start("place")
        robot.follow(lambda: robot.object(name), destination)
        spot = free_spot(robot, side)
        forward, _ = robot.local(spot)
        bent = lean_for(destination, forward)
        approach = Approach(pitch=approach.pitch, heading=robot.pose()[2] + turn)
        above = np.array([spot[0], spot[1], destination.surface + 0.2])
        angles, _ = robot.solve(side, above, approach, body=bent)
        yield from robot.move(bent | arm(side, angles), 1.3)
        yield from set_down(robot, destination, name, side, spot, approach)
    else:
        yield from let_go(robot, side, level)
    forward, left = robot.local(robot.object(name))
    stands = abs(_bottom(robot, name) - destination.surface) < 0.03
    delivered = bool(stands and 0.3 < forward < 0.8 and abs(left) < 0.6)
    robot.diary.carries.append({**record, "end": robot.sim.frame_index, "delivered": delivered})
    return True


def push(robot: Robot, station: Station) -> Iterator[Vector]:
    """Shove something aside with a closed hand, low."""
    names = reachable(robot, station)
    if names:
        robot.start("push")
        name = str(robot.rng.choice(names))
        yield from _sweep(robot, station, name, height=0.02, past=robot.rng.uniform(0.06, 0.14))


def topple(robot: Robot, station: Station) -> Iterator[Vector]:
    """Push something tall near its top, so that it falls over."""
    objects = robot.sim.room.objects
    tall = [
        name for name in reachable(robot, station)
        if objects[name].height > 3 * objects[name].radius and robot.upright(name) > 0.95
    ]  # fmt: skip
    if not tall:
        return
    robot.start("topple")
    name, frame = str(robot.rng.choice(tall)), robot.sim.frame_index
    height = 0.36 * objects[name].height
    side = yield from _sweep(robot, station, name, height=height, past=robot.rng.uniform(0.04, 0.09))
    tilt = math.degrees(math.acos(float(np.clip(robot.upright(name), -1, 1))))
    robot.diary.topples.append(
        {"object": name, "side": side, "frame": frame, "tilt": round(tilt, 1), "toppled": tilt > TOPPLED}
    )


def _sweep(robot: Robot, station: Station, name: str, *, height: float, past: float) -> Generator[Vector, None, str]:
    """Draw a closed hand inwards through an object, `height` above its centre and `past` m beyond; returns the side."""
    position = robot.object(name)
    forward, _ = robot.local(position)
    side = side_of(robot, position)
    robot.follow(lambda: robot.object(name), station)
    yield from robot.move(lean_for(station, forward) | arm(side, robot.ready[side]) | hand(side, 0.85), 1.0)
    _, _, yaw = robot.pose()
    outwards = np.array([-math.sin(yaw), math.cos(yaw), 0.0]) * (1.0 if side == "left" else -1.0)
    rise = height * UP
    approach = robot.best(side, position + 0.1 * outwards + rise, (0.7, 0.95))
    pace = robot.config.reach_seconds
    yield from robot.reach(side, position + 0.11 * outwards + 0.17 * UP, approach, pace)
    position = robot.object(name)  # The hand may have brushed it on the way.
    yield from robot.reach(side, position + 0.1 * outwards + rise, approach, 0.6 * pace)
    far = position - past * outwards + rise
    yield from robot.reach(side, far, approach, pace)
    yield from robot.reach(side, far + 0.14 * UP, approach, 0.6)
    yield from robot.move(arm(side, robot.ready[side]), 0.9)
    return side
