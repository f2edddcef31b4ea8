"""The simulator: one room, one robot; step a 25-number command, get a frame and the 25 measured state channels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from foreframe.sim.body import FINGER_TRAVEL, JOINTS, SIDES
from foreframe.sim.camera import RENDER_SIZE, CameraConfig, HeadCamera, Sensor
from foreframe.sim.gl import load_mujoco
from foreframe.sim.room import Room, RoomConfig, Split, build_room

if TYPE_CHECKING:
    import numpy.typing as npt

SUBSTEPS = 8
HZ = 30
PURPOSES = ("room", "textures", "lights", "objects", "body", "behaviour", "noise", "start", "fixtures")
_SPLIT_CODES: dict[Split, int] = {"train": 1, "val": 2, "test": 3}


@dataclass(frozen=True, kw_only=True)
class EpisodeConfig:
    """All that decides an episode's room, its look, and what its random streams hold.

    What then happens also depends on the policy and its `BehaviourConfig`; what is filmed of it, on the lead-in.
    """

    seed: int = 0
    split: Split = "train"
    """Splits never share a room: the split is part of the seed, and has colours of its own."""
    episode: int = 0
    """Number of the episode within the split, from 0."""
    size: int = 256
    """Side of the square frame, pixels: 256 or 512. The physics and the picture are the same."""
    room: RoomConfig = field(default_factory=RoomConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)

    def __post_init__(self) -> None:
        if self.split not in _SPLIT_CODES:
            raise ValueError(f"split must be one of {', '.join(_SPLIT_CODES)}, not {self.split!r}")
        if not 0 <= self.seed < 1 << 32 or self.episode < 0:
            raise ValueError(f"seed {self.seed} and episode {self.episode} must be from 0, the seed below 2**32")
        if self.size not in (RENDER_SIZE // 2, RENDER_SIZE):
            raise ValueError(f"frames are {RENDER_SIZE // 2} or {RENDER_SIZE} pixels wide, not {self.size}")


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What the robot sees and measures after a step."""

    frame: npt.NDArray[np.uint8] | None
    """(H, W, 3) RGB, or None when not rendered."""
    states: npt.NDArray[np.float32]
    """(25,) in the order of `foreframe.states.CHANNELS`."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything needed to continue from a moment: physics, and the camera's random stream."""

    physics: npt.NDArray[np.float64]
    """MuJoCo's integration state, (P,)."""
    noise: npt.NDArray[np.uint64]
    """Position of the sensor-noise stream, (6,)."""
    exposure: float
    """Present exposure drift, fraction."""

    def __post_init__(self) -> None:
        if self.physics.ndim != 1 or not np.isfinite(self.physics).all() or not np.isfinite(self.exposure):
            raise ValueError(f"physics {self.physics.shape} and exposure {self.exposure} must be finite numbers")
        noise = self.noise
        if noise.shape != (6,) or noise.dtype != np.uint64 or noise[4] > 1 or noise[5] >= 1 << 32:
            raise ValueError(f"noise {noise.dtype} {noise.shape} is not the position of a random stream")


def streams(config: EpisodeConfig) -> dict[str, np.random.Generator]:
    """One independent random stream per purpose."""
    root = np.random.SeedSequence([_SPLIT_CODES[config.split], config.seed, config.episode])
    return {
        purpose: np.random.default_rng(child)
        for purpose, child in zip(PURPOSES, root.spawn(len(PURPOSES)), strict=True)
    }


class Simulator:
    """A robot in a room. Use as a context manager, or call `close`."""

    def __init__(self, config: EpisodeConfig, *, render: bool = True) -> None:
        self.mujoco = mujoco = load_mujoco(render=render)
        self.config = config
        self.streams = streams(config)
        self.room: Room = build_room(
            split=config.split, config=config.room,
            **{name: self.streams[name] for name in ("room", "textures", "lights", "objects", "body", "fixtures")},
        )  # fmt: skip
        self.model = mujoco.MjModel.from_xml_string(self.room.xml, dict(self.room.pngs))
        self.data = mujoco.MjData(self.model)
        model = self.model
        self.joint_address = np.array([model.joint(name).qposadr[0] for name in JOINTS])
        self.base_address = np.array([model.joint(name).qposadr[0] for name in ("base_x", "base_y", "base_yaw")])
        self._base_speed = np.array([model.joint(name).dofadr[0] for name in ("base_x", "base_y", "base_yaw")])
        self._fingers = np.array([[model.joint(f"{side}_finger_{k}").qposadr[0] for k in (0, 1)] for side in SIDES])
        self.frame_index = 0
        self._objects = np.array([model.joint(name).qposadr[0] for name in self.room.objects], dtype=int)
        self._fixtures = np.array([model.joint(f.joint).qposadr[0] for f in self.room.fixtures.values()], dtype=int)
        self._sensor = Sensor(config.camera, size=config.size, noise=self.streams["noise"])
        self._camera = HeadCamera(mujoco, model, shadow_reach=config.room.shadow_reach) if render else None

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def reset(self, *, x: float, y: float, yaw: float, joints: npt.NDArray[np.float64]) -> None:
        """Stand the robot at a pose with 21 joint angles and let the objects settle."""
        self.data.qpos[self.base_address] = (x, y, yaw)
        self.data.qpos[self.joint_address] = joints
        self.data.qpos[self._fingers] = FINGER_TRAVEL
        command = np.concatenate([joints, np.zeros(4)])
        for _ in range(10):
            self._advance(command)
        self.frame_index = 0

    def _advance(self, command: npt.NDArray[np.float64]) -> None:
        data = self.data
        data.ctrl[:21] = command[:21]
        for hand in (0, 1):
            closure = float(command[21 + hand])
            # Beyond closed, so that the servo still squeezes what is between the fingers.
            data.ctrl[21 + 2 * hand : 23 + 2 * hand] = FINGER_TRAVEL * (1 - closure) - 0.02 * closure
        for _ in range(SUBSTEPS):
            yaw = data.qpos[self.base_address[2]]
            data.ctrl[25:28] = (command[23] * np.cos(yaw), command[23] * np.sin(yaw), command[24])
            self.mujoco.mj_step(self.model, data)
        self._refresh()

    def _refresh(self) -> None:
        """Bring body, site and camera poses up to date, which a step leaves one substep behind; touches no physics."""
        self.mujoco.mj_kinematics(self.model, self.data)
        self.mujoco.mj_comPos(self.model, self.data)
        self.mujoco.mj_camlight(self.model, self.data)

    def step(self, command: npt.NDArray[np.floating[Any]], *, render: bool = True) -> Observation:
        """Advance 1/30 s. `command` has the states' order: 21 joint targets, 2 closures, forward and turning speed."""
        self._advance(np.asarray(command, dtype=np.float64))
        self.frame_index += 1
        return Observation(frame=self.render() if render else None, states=self.measure())

    def measure(self) -> npt.NDArray[np.float32]:
        """The 25 channels, read from positions and velocities."""
        qpos, qvel = self.data.qpos, self.data.qvel
        yaw = qpos[self.base_address[2]]
        vx, vy, turning = qvel[self._base_speed]
        hands = 1 - qpos[self._fingers].mean(1) / FINGER_TRAVEL
        forward = vx * np.cos(yaw) + vy * np.sin(yaw)
        return np.concatenate([qpos[self.joint_address], hands, [forward, turning]]).astype(np.float32)

    def objects(self) -> npt.NDArray[np.float32]:
        """(K, 7) position in m and quaternion of the loose objects, in the order of `room.objects`."""
        return self.data.qpos[self._objects[:, None] + np.arange(7)].astype(np.float32)

    def fixtures(self) -> npt.NDArray[np.float32]:
        """(J,) positions of drawers in m and doors in rad, in the order of `room.fixtures`."""
        return self.data.qpos[self._fixtures].astype(np.float32)

    def render(self) -> npt.NDArray[np.uint8]:
        """The head camera's picture (size, size, 3), with exposure drift and sensor noise."""
        return self._sensor.expose(self._head().draw(self.data), hz=HZ)

    def mask(self) -> npt.NDArray[np.uint8]:
        """(128, 128) of what the head camera sees: indices into `camera.MASK_CLASSES`."""
        fixtures = tuple(fixture.joint for fixture in self.room.fixtures.values())
        parts = {"robot": ("base_x",), "object": tuple(self.room.objects), "fixture": fixtures}
        return self._head().mask(self.data, parts)

    def _head(self) -> HeadCamera:
        if self._camera is None:
            raise ValueError("this simulator was made with render=False")
        return self._camera

    def snapshot(self) -> Snapshot:
        """A copy of the present moment."""
        kind = self.mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(self.mujoco.mj_stateSize(self.model, kind))
        self.mujoco.mj_getState(self.model, self.data, physics, kind)
        return Snapshot(physics=physics, noise=self._sensor.state(), exposure=self._sensor.exposure)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back: the same commands give bit-identical states and frames again.

        Raises `ValueError` for a snapshot of another room, as far as its size tells.
        """
        kind = self.mujoco.mjtState.mjSTATE_INTEGRATION
        size = self.mujoco.mj_stateSize(self.model, kind)
        if len(snapshot.physics) != size:
            raise ValueError(f"the snapshot's physics are {len(snapshot.physics)} numbers, in this room {size}")
        self.mujoco.mj_setState(self.model, self.data, snapshot.physics, kind)
        self._refresh()
        self._sensor.set_state(snapshot.noise)
        self._sensor.exposure = snapshot.exposure
