"""The head camera: draws the scene at 512, hides what cannot be seen, and adds what a real sensor adds."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

RENDER_SIZE = 512
"""Side of the drawn picture, pixels; smaller frames are its box means, so that data sets of both sizes agree."""
MASK_SIZE = 128
"""Side of an object mask, pixels."""
MASK_CLASSES = ("background", "robot", "object", "fixture")
"""What the values of an object mask mean: the robot, loose objects, and doors and drawers."""
_MAX_GEOMS = 2000
_AHEAD = 0.5
_LIT_HEIGHT = 0.7
_FLAT = 0.02


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """What a real sensor adds to a rendered frame."""

    noise: float = 2.6
    """Standard deviation of sensor noise per pixel, grey levels of 255; the same at 256 and 512, see `Sensor`."""
    exposure: float = 0.025
    """Standard deviation of the slow exposure drift, fraction."""
    exposure_seconds: float = 6.0
    """Time constant of the drift, s."""


class Sensor:
    """Exposure drift and noise.

    A grain of noise covers 2x2 pixels of the 512 picture, one of the 256 picture. Levels stop short of black and white
    by the largest grain, so that nothing is ever clipped: noise and box mean then commute to the bit.
    """

    def __init__(self, config: CameraConfig, *, size: int, noise: np.random.Generator) -> None:
        self._config, self._size, self._noise = config, size, noise
        side = RENDER_SIZE // 2
        # Grey noise with a little colour, drawn once, shown at a random offset: a fresh draw costs 10 % of a frame.
        shape = (2 * side, 2 * side)
        grain = noise.standard_normal((*shape, 1)) * 0.9 + noise.standard_normal((*shape, 3)) * 0.45
        self._margin = int(np.ceil(4 * config.noise))
        grain = np.clip((grain * config.noise).round(), -self._margin, self._margin)
        self._grain = grain.astype(np.int8).view(np.uint8)  # two's complement: adding wraps to the right sum
        self.exposure = float(noise.normal(0, config.exposure))

    def state(self) -> npt.NDArray[np.uint64]:
        """The noise stream's position, (6,)."""
        whole: Any = self._noise.bit_generator.state
        words = [word for name in ("state", "inc") for word in divmod(whole["state"][name], 1 << 64)]
        return np.array([*words, whole["has_uint32"], whole["uinteger"]], dtype=np.uint64)

    def set_state(self, state: npt.NDArray[np.uint64]) -> None:
        """Take a position that `state` gave."""
        position, increment = (int(state[k]) << 64 | int(state[k + 1]) for k in (0, 2))
        self._noise.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": position, "inc": increment},
            "has_uint32": int(state[4]),
            "uinteger": int(state[5]),
        }

    def expose(self, clean: npt.NDArray[np.uint8], *, hz: int) -> npt.NDArray[np.uint8]:
        """From the drawn picture (512, 512, 3) to a frame (size, size, 3); moves the streams on by one frame."""
        config, noise, side = self._config, self._noise, RENDER_SIZE // 2
        keep = np.exp(-1 / (hz * config.exposure_seconds))
        drift = np.sqrt(1 - keep**2) * config.exposure * noise.standard_normal()
        self.exposure = float(keep * self.exposure + drift)
        levels = np.clip(np.arange(256) * (1 + self.exposure), self._margin, 255 - self._margin).astype(np.uint8)
        y, x = noise.integers(0, side, 2)
        grain = self._grain[y : y + side, x : x + side]
        exposed = np.take(levels, clean, mode="clip")
        if self._size < RENDER_SIZE:
            return _halve(exposed) + grain
        return exposed + grain.repeat(2, 0).repeat(2, 1)


def _halve(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Box mean over 2x2 pixels, rounded half up; seven times faster than the general one of `data.video`."""
    half = len(frame) // 2
    rows = np.add(frame[0::2], frame[1::2], dtype=np.uint16).reshape(half, 6 * half)
    total = np.empty((half, 3 * half), dtype=np.uint16)
    for channel in range(3):
        np.add(rows[:, channel::6], rows[:, channel + 3 :: 6], out=total[:, channel::3])
    total += 2
    total >>= 2
    return total.astype(np.uint8).reshape(half, half, 3)


class HeadCamera:
    """Owns the OpenGL context of one simulator. Call `close`."""

    def __init__(self, mujoco: Any, model: Any, *, shadow_reach: float) -> None:
        self._mujoco, self._model, self._shadow_reach = mujoco, model, shadow_reach
        # Where mujoco's own Renderer gets it: the place differs between versions.
        self._gl: Any = import_module(mujoco.Renderer.__module__).gl_context.GLContext(RENDER_SIZE, RENDER_SIZE)
        self._gl.make_current()
        self._context: Any = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, _MAX_GEOMS)
        self._options = mujoco.MjvOption()
        self._options.geomgroup[:] = (1, 1, 1, 0, 0, 0)
        self._view = mujoco.MjvCamera()
        self._view.type, self._view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera("head").id
        self._buffer = np.empty((RENDER_SIZE, RENDER_SIZE, 3), dtype=np.uint8)
        self._sun = int(np.flatnonzero(model.light_castshadow)[0])
        flat = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
        self._radius = np.where(flat, np.hypot(model.geom_size[:, 0], model.geom_size[:, 1]), model.geom_rbound)
        self._rise = np.where(flat, 0, model.geom_size[:, 2])
        self._casts = np.ones(model.ngeom, dtype=bool)
        self._classes: npt.NDArray[np.uint8] | None = None
        self._soften_shadows()

    def _soften_shadows(self) -> None:
        """Let a shadow's edge be the mean of four comparisons with the shadow map instead of one comparison.

        MuJoCo takes the nearest texel, and discards what is less than fully lit by its alpha. As a luminance, the share
        of light scales the colour and leaves alpha alone.
        """
        gl: Any = import_module("OpenGL.GL")
        gl.glBindTexture(gl.GL_TEXTURE_2D, self._context.shadowTex)
        for setting, value in (
            (gl.GL_TEXTURE_MIN_FILTER, gl.GL_LINEAR),
            (gl.GL_TEXTURE_MAG_FILTER, gl.GL_LINEAR),
            (gl.GL_DEPTH_TEXTURE_MODE, gl.GL_LUMINANCE),
        ):
            gl.glTexParameteri(gl.GL_TEXTURE_2D, setting, value)
        gl.glBindTexture(gl.GL_TEXTURE_2D, 0)

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None

    def draw(self, data: Any) -> npt.NDArray[np.uint8]:
        """The clean picture (512, 512, 3), in a buffer that the next call overwrites."""
        self._aim_sun(data)
        self._cull(data)
        return self._read(data, RENDER_SIZE)[::-1]

    def mask(self, data: Any, parts: Mapping[str, tuple[str, ...]]) -> npt.NDArray[np.uint8]:
        """(128, 128) indices into `MASK_CLASSES`; `parts` names a joint or more of each class but the background."""
        if self._classes is None:
            self._classes = self._classify(parts)
        flags, mujoco = self._scene.flags, self._mujoco
        self._cull(data)
        coded = [mujoco.mjtRndFlag.mjRND_SEGMENT.value, mujoco.mjtRndFlag.mjRND_IDCOLOR.value]
        flags[coded] = 1
        colours = self._read(data, MASK_SIZE)[::-1].astype(np.uint32)
        flags[coded] = 0
        table = np.zeros(self._scene.ngeom + 1, dtype=np.uint8)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid >= 0 and geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                table[geom.segid + 1] = self._classes[geom.objid]
        return table[colours @ np.array([1, 1 << 8, 1 << 16], dtype=np.uint32)]

    def _read(self, data: Any, size: int) -> npt.NDArray[np.uint8]:
        """Draw, and read the lowest row first, as OpenGL keeps it."""
        mujoco, rectangle = self._mujoco, self._mujoco.MjrRect(0, 0, size, size)
        self._gl.make_current()
        mujoco.mjv_updateScene(
            self._model, data, self._options, None, self._view, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        decor = mujoco.mjtCatBit.mjCAT_DECOR.value
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if not self._casts[geom.objid]:
                geom.category = decor  # which the shadow map leaves out
        mujoco.mjr_render(rectangle, self._scene, self._context)
        pixels = self._buffer.reshape(-1)[: size * size * 3].reshape(size, size, 3)
        mujoco.mjr_readPixels(pixels, None, rectangle, self._context)
        return pixels

    def _classify(self, parts: Mapping[str, tuple[str, ...]]) -> npt.NDArray[np.uint8]:
        """Class of each geom: that of the nearest body at or above it with a named joint."""
        model = self._model
        bodies = np.zeros(model.nbody, dtype=np.uint8)
        for name, joints in parts.items():
            for joint in joints:
                bodies[model.joint(joint).bodyid[0]] = MASK_CLASSES.index(name)
        for body in range(1, model.nbody):  # parents come first
            bodies[body] = bodies[body] or bodies[model.body_parentid[body]]
        return bodies[model.geom_bodyid]

    def _aim_sun(self, data: Any) -> None:
        """Centre the shadow map on what is in front of the robot at the height of its hands."""
        camera = self._view.fixedcamid
        forward = -data.cam_xmat[camera].reshape(3, 3)[:, 2]
        level = forward[:2] / max(float(np.hypot(*forward[:2])), 1e-6)
        direction = data.light_xdir[self._sun]
        drop = data.light_xpos[self._sun, 2] - _LIT_HEIGHT
        target = data.cam_xpos[camera, :2] + _AHEAD * self._shadow_reach * level
        data.light_xpos[self._sun, :2] = target + direction[:2] * drop / direction[2]

    def _cull(self, data: Any) -> None:
        """Hide what neither shows nor casts a shadow into view: rendering in software pays per geom."""
        model, camera = self._model, self._view.fixedcamid
        right, up, back = data.cam_xmat[camera].reshape(3, 3).T
        half = np.radians(model.cam_fovy[camera] / 2)
        sides = [np.cos(half) * axis + np.sin(half) * back for axis in (right, -right, up, -up)]
        outward = np.array([*sides, back]).T
        outside = (data.geom_xpos - data.cam_xpos[camera]) @ outward
        direction = data.light_xdir[self._sun]
        offset = data.geom_xpos - data.light_xpos[self._sun]
        across = np.linalg.norm(offset - np.outer(offset @ direction, direction), axis=1)
        casts = across < np.sqrt(2) * self._shadow_reach + self._radius
        casts &= data.geom_xpos[:, 2] + self._rise > _FLAT  # floor and rug have nothing below to throw a shadow on
        self._casts = casts
        # A shadow reaches from the thing along the light to the floor.
        length = np.where(casts, (data.geom_xpos[:, 2] + self._radius) / -direction[2], 0)
        nearest = np.minimum(outside, outside + np.outer(length, direction @ outward))
        model.geom_group[:] = np.where((nearest < self._radius[:, None]).all(1), 0, 3)
