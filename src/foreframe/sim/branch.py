"""Other futures from the same moment: restore a snapshot, live or from a data set, and give other commands."""

from __future__ import annotations

import json
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from foreframe.errors import InputError, UsageError
from foreframe.sim.generate import GENERATOR_VERSION
from foreframe.sim.simulator import EpisodeConfig, Simulator, Snapshot
from foreframe.states import NUM_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

LARGEST = 5.0
"""No command may be beyond this, rad, m/s or rad/s: servos stop at their limits, but nothing stops a faster base."""


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
    between a step and its rendering also repeats that frame's noise. Commands that are not finite, are beyond
    `LARGEST`, or that MuJoCo cannot follow are a `ValueError`, and the simulator is then back at `snapshot`.
    """
    script = _checked(commands)
    simulator.restore(snapshot)
    try:
        with _stable(simulator):
            return _follow(simulator, script, render=render)
    except ValueError:
        simulator.restore(snapshot)
        raise


def _follow(simulator: Simulator, script: npt.NDArray[np.float64], *, render: bool) -> Branch:
    frames = [simulator.render()] if render else []
    states, poses, fixtures = [simulator.measure()], [simulator.objects()], [simulator.fixtures()]
    for command in script:
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
    """The future of `snapshot` in the episode's room under `commands` (T, 25); builds the room for `replay`."""
    script = list(_checked(commands))  # before the room is built
    with Simulator(config, render=render) as simulator:
        return replay(simulator, snapshot, script, render=render)


def _checked(commands: Sequence[npt.NDArray[np.floating[Any]]]) -> npt.NDArray[np.float64]:
    script = np.asarray(commands, dtype=np.float64)
    if script.ndim != 2 or script.shape[1] != NUM_CHANNELS:
        raise ValueError(f"commands have shape {script.shape}, expected (T, {NUM_CHANNELS})")
    wrong = np.argwhere(~(np.abs(script) <= LARGEST))
    if len(wrong):
        row, channel = (int(index) for index in wrong[0])
        raise ValueError(f"command {row}, channel {channel} is {script[row, channel]}, not within {LARGEST} of 0")
    return script


@contextmanager
def _stable(simulator: Simulator) -> Iterator[None]:
    """Raise `ValueError` at the end if MuJoCo warned: it may have started the room afresh, or left out contacts."""
    mujoco, counts = simulator.mujoco, simulator.data.warning
    said: list[str] = []
    before = mujoco.get_mju_user_warning()
    # MuJoCo says each thing once, to the screen and to a file in the current folder, unless somebody listens.
    for count in counts:
        count.number = 0
    mujoco.set_mju_user_warning(said.append)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
    if counts.number.any():
        reason = said[0] if said else "unstable"
        raise ValueError(f"the simulation cannot follow these commands ({reason})")


def load_snapshot(root: Path, shard: int, frame: int) -> tuple[EpisodeConfig, Snapshot]:
    """The episode, and the moment of row `frame` of a shard, which must be one that has a snapshot.

    The first moment of a `branch` is that row; the commands of the rows after it, `commands_{shard}.npy[frame + 1:]`,
    lead through the rest of the same segment.
    """
    side = root / "sim"
    with _readable(side, shard):
        settings = json.loads((side / "config.json").read_text())
        made, mujoco = settings["version"], settings["mujoco"]
        seed, split, size = settings["seed"], settings["split"], settings["size"]
    if made != GENERATOR_VERSION:
        raise InputError(
            f"{side}: was made by evesim {made}, this is {GENERATOR_VERSION}, other rooms; simulate it again"
        )
    if mujoco != version("mujoco"):
        warnings.warn(f"{side}: was made with MuJoCo {mujoco}: futures may differ", stacklevel=2)
    with _readable(side, shard):
        moments = _read_moments(side / f"snapshots_{shard}.npz")
    frames = moments["frame"]
    found = np.flatnonzero(frames == frame)
    if not len(found):
        nearest = frames[np.abs(frames - frame).argmin()]
        raise UsageError(f"shard {shard} has no snapshot of frame {frame}; the nearest is that of frame {nearest}")
    with _readable(side, shard):
        if type(seed) is not int or type(size) is not int:
            raise ValueError(f"seed {seed!r} and size {size!r} must be whole numbers")
        row = int(found[0])
        config = EpisodeConfig(seed=seed, split=split, episode=int(moments["segment"][row]), size=size)
        snapshot = Snapshot(
            physics=moments["physics"][row, : moments["physics_size"][row]],
            noise=moments["noise"][row],
            exposure=float(moments["exposure"][row]),
        )
    return config, snapshot


def _read_moments(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a snapshots file; `ValueError` if they are not what `generate` says."""
    kinds = {"frame": "i", "segment": "i", "physics": "f", "physics_size": "i", "noise": "u", "exposure": "f"}
    with np.load(path, allow_pickle=False) as file:
        moments = {name: file[name] for name in kinds}
    num_moments = moments["frame"].size
    width = moments["physics"].shape[-1] if moments["physics"].ndim == 2 else 0
    shapes = {"physics": (num_moments, width), "noise": (num_moments, 6)}
    for name, kind in kinds.items():
        array, shape = moments[name], shapes.get(name, (num_moments,))
        if array.size == 0 or array.shape != shape or array.dtype.kind != kind:
            raise ValueError(f"{name} is {array.dtype} {array.shape}")
    if moments["physics_size"].min() < 1 or moments["physics_size"].max() > width:
        raise ValueError(f"physics_size is not from 1 to {width}")
    return moments


_UNREADABLE = (OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, MemoryError, BadZipFile, zlib.error)
"""What the readers of JSON, zip and npy raise on broken files."""


@contextmanager
def _readable(side: Path, shard: int) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{side}: holds no readable snapshots of shard {shard} ({reason}); simulate it again"
        ) from error
