"""The simulator: one room, one robot; step a 25-number command, get a frame and the 25 measured state channels."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from foreframe.sim.body import FINGER_TRAVEL, JOINTS, SIDES
from foreframe.sim.gl import ensure_gl
from foreframe.sim.room import Room, RoomConfig, Split, build_room

if TYPE_CHECKING:
    import numpy.typing as npt

NUM_CHANNELS = 25
SUBSTEPS = 8
HZ = 30
PURPOSES = ("room", "textures", "lights", "objects", "body", "behaviour", "noise", "start")
_SPLIT_CODES: dict[Split, int] = {"train": 1, "val": 2, "test": 3}


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """What a real sensor adds to a rendered frame."""

    noise: float = 2.6
    """Standard deviation of sensor noise per pixel, grey levels of 255."""
    exposure: float = 0.025
    """Standard deviation of the slow exposure drift, fraction."""
    exposure_seconds: float = 6.0
    """Time constant of the drift, s."""


@dataclass(frozen=True, kw_only=True)
class EpisodeConfig:
    """All that decides an episode."""

    seed: int = 0
    split: Split = "train"
    """Splits never share a room: the split is part of the seed, and has colours of its own."""
    episode: int = 0
    """Number of the episode within the split."""
    size: int = 256
    """Side of the square frame, pixels."""
    room: RoomConfig = field(default_factory=RoomConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)


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
    """MuJoCo's integration state."""
    camera: dict[str, object]
    """State of the sensor-noise stream."""
    exposure: float
    """Present exposure drift, fraction."""


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
        ensure_gl()
        # Through Any: the extension module does not declare its names to type checkers. Imported once GL is chosen.
        mujoco: Any = import_module("mujoco")
        self.mujoco = mujoco
        self.config = config
        self.streams = streams(config)
        self.room: Room = build_room(
            split=config.split, config=config.room,
            **{name: self.streams[name] for name in ("room", "textures", "lights", "objects", "body")},
        )  # fmt: skip
        self.model = mujoco.MjModel.from_xml_string(self.room.xml, dict(self.room.pngs))
        self.data = mujoco.MjData(self.model)
        model = self.model
        self.joint_address = np.array([model.joint(name).qposadr[0] for name in JOINTS])
        self.base_address = np.array([model.joint(name).qposadr[0] for name in ("base_x", "base_y", "base_yaw")])
        self._base_speed = np.array([model.joint(name).dofadr[0] for name in ("base_x", "base_y", "base_yaw")])
        self._fingers = np.array([[model.joint(f"{side}_finger_{k}").qposadr[0] for k in (0, 1)] for side in SIDES])
        self.frame_index = 0
        self._renderer = mujoco.Renderer(model, config.size, config.size) if render else None
        self._options = mujoco.MjvOption()
        self._options.geomgroup[:] = (1, 1, 1, 0, 0, 0)
        noise = self.streams["noise"]
        side = 2 * config.size
        # Grey noise with a little colour, drawn once, shown at a random offset: a fresh draw costs 10 % of a frame.
        grain = noise.standard_normal((side, side, 1)) * 0.9 + noise.standard_normal((side, side, 3)) * 0.45
        self._grain = (grain * config.camera.noise).round().astype(np.int16)
        self._exposure = float(noise.normal(0, config.camera.exposure))

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

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

    def step(self, command: npt.NDArray[np.float64], *, render: bool = True) -> Observation:
        """Advance 1/30 s. `command` has the states' order: 21 joint targets, 2 closures, forward and turning speed."""
        self._advance(np.asarray(command, dtype=np.float64))
        self.frame_index += 1
        return Observation(frame=self.render() if render else None, states=self.measure())

    def measure(self) -> npt.NDArray[np.float32]:
        """The 25 channels, read from positions and velocities."""
        qpos, qvel = self.data.qpos, self.data.qvel
        yaw = qpos[self.base_address[2]]
        vx, vy, turning = qvel[self._base_speed]
        states = np.empty(NUM_CHANNELS)
        states[:21] = qpos[self.joint_address]
        states[21:23] = 1 - qpos[self._fingers].mean(1) / FINGER_TRAVEL
        states[23] = vx * np.cos(yaw) + vy * np.sin(yaw)
        states[24] = turning
        return states.astype(np.float32)

    def render(self) -> npt.NDArray[np.uint8]:
        """The head camera's picture, with exposure drift and sensor noise."""
        if self._renderer is None:
            raise ValueError("this simulator was made with render=False")
        self._cull()
        self._renderer.update_scene(self.data, camera="head", scene_option=self._options)
        clean = self._renderer.render()
        camera, noise = self.config.camera, self.streams["noise"]
        keep = np.exp(-1 / (HZ * camera.exposure_seconds))
        self._exposure = float(keep * self._exposure + np.sqrt(1 - keep**2) * camera.exposure * noise.standard_normal())
        table = (np.arange(256) * (1 + self._exposure)).astype(np.int16)
        y, x = noise.integers(0, self.config.size, 2)
        noisy = table[clean] + self._grain[y : y + self.config.size, x : x + self.config.size]
        return np.clip(noisy, 0, 255).astype(np.uint8)

    def _cull(self) -> None:
        """Hide what neither shows nor shades: rendering in software pays per geom, and most are behind the robot."""
        model, data = self.model, self.data
        camera = model.camera("head").id
        forward = -data.cam_xmat[camera].reshape(3, 3)[:, 2]
        offset = data.geom_xpos - data.cam_xpos[camera]
        along = offset @ forward
        across = np.sqrt(np.maximum((offset**2).sum(1) - along**2, 0))
        half = np.arctan(np.tan(np.radians(self.config.room.fovy / 2)) * np.sqrt(2))
        # The cone around the frustum, and 0.3 m more for shadows that fall into view.
        shown = across * np.cos(half) - along * np.sin(half) < model.geom_rbound + 0.3
        model.geom_group[:] = np.where(shown | (model.geom_rbound == 0), 0, 3)

    def snapshot(self) -> Snapshot:
        """A copy of the present moment."""
        kind = self.mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(self.mujoco.mj_stateSize(self.model, kind))
        self.mujoco.mj_getState(self.model, self.data, physics, kind)
        return Snapshot(
            physics=physics, camera=dict(self.streams["noise"].bit_generator.state), exposure=self._exposure
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go back: the same commands give bit-identical states again."""
        self.mujoco.mj_setState(self.model, self.data, snapshot.physics, self.mujoco.mjtState.mjSTATE_INTEGRATION)
        self._refresh()
        self.streams["noise"].bit_generator.state = snapshot.camera
        self._exposure = snapshot.exposure
