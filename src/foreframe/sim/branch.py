"""Other futures from the same moment: restore a snapshot, live or from a data set, and give other commands."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from foreframe.errors import InputError, UsageError
from foreframe.sim.generate import GENERATOR_VERSION
from foreframe.sim.simulator import EpisodeConfig, Simulator, Snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Branch:
    """What follows a snapshot: T commands give T + 1 moments, of which the first is the snapshot's own."""

    frames: npt.NDArray[np.uint8] | None
    """(T + 1, H, W, 3) RGB, or None when not rendered."""
    states: npt.NDArray[np.float32]
    """(T + 1, 25) in the order of `foreframe.states.CHANNELS`."""
    poses: npt.NDArray[np.float32]
    """(T + 1, K, 7) position in m and quaternion of the loose objects."""
    fixtures: npt.NDArray[np.float32]
    """(T + 1, J) positions of drawers in m and doors in rad."""


def replay(
    simulator: Simulator, snapshot: Snapshot, commands: Sequence[npt.NDArray[np.floating[Any]]], *, render: bool = True
) -> Branch:
    """Put a live simulator back to `snapshot` and step it through `commands` (T, 25), where it is then left.

    The commands that were given the first time lead to the same states and frames, bit for bit. A snapshot taken
    between a step and its rendering also repeats that frame's noise.
    """
    simulator.restore(snapshot)
    frames = [simulator.render()] if render else []
    states, poses, fixtures = [simulator.measure()], [simulator.objects()], [simulator.fixtures()]
    for command in commands:
        seen = simulator.step(command, render=render)
        if seen.frame is not None:
            frames.append(seen.frame)
        states.append(seen.states)
        poses.append(simulator.objects())
        fixtures.append(simulator.fixtures())
    return Branch(
        frames=np.stack(frames) if render else None,
        states=np.stack(states),
        poses=np.stack(poses),
        fixtures=np.stack(fixtures),
    )


def branch(
    config: EpisodeConfig,
    snapshot: Snapshot,
    commands: Sequence[npt.NDArray[np.floating[Any]]],
    *,
    render: bool = True,
) -> Branch:
    """The future of `snapshot` in the episode's room under `commands` (T, 25); builds the room for it."""
    with Simulator(config, render=render) as simulator:
        return replay(simulator, snapshot, commands, render=render)


def load_snapshot(root: Path, shard: int, frame: int) -> tuple[EpisodeConfig, Snapshot]:
    """The episode, and the moment of row `frame` of a shard, which must be one that has a snapshot.

    The first moment of a `branch` is that row; the commands of the rows after it, `commands_{shard}.npy[frame + 1:]`,
    lead through the rest of the same segment.
    """
    side = root / "sim"
    try:
        settings = json.loads((side / "config.json").read_text())
        made, mujoco = settings["version"], settings["mujoco"]
        with np.load(side / f"snapshots_{shard}.npz", allow_pickle=False) as file:
            moments = {
                name: file[name] for name in ("frame", "segment", "physics", "physics_size", "noise", "exposure")
            }
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise InputError(
            f"{side}: holds no readable snapshots of shard {shard} ({error}); simulate it again"
        ) from error
    if made != GENERATOR_VERSION:
        raise InputError(
            f"{side}: was made by evesim {made}, this is {GENERATOR_VERSION}, other rooms; simulate it again"
        )
    if mujoco != version("mujoco"):
        warnings.warn(f"{side}: was made with MuJoCo {mujoco}: futures may differ", stacklevel=2)
    found = np.flatnonzero(moments["frame"] == frame)
    if not len(found):
        nearest = moments["frame"][np.abs(moments["frame"] - frame).argmin()]
        raise UsageError(f"shard {shard} has no snapshot of frame {frame}; the nearest is that of frame {nearest}")
    row = int(found[0])
    config = EpisodeConfig(
        seed=settings["seed"], split=settings["split"], episode=int(moments["segment"][row]), size=settings["size"]
    )
    snapshot = Snapshot(
        physics=moments["physics"][row, : moments["physics_size"][row]],
        noise=moments["noise"][row],
        exposure=float(moments["exposure"][row]),
    )
    return config, snapshot
