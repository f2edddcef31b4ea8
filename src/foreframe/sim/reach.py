"""Inverse kinematics of the simulated robot's arms: damped least squares on a copy of the physics data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from foreframe.sim.body import ARM_JOINTS, JOINTS, LIMITS, SIDES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from foreframe.sim.simulator import Simulator

    Vector = npt.NDArray[np.float64]

INDEX = {name: k for k, name in enumerate(JOINTS)}
ARM = {side: np.array([INDEX[f"{side}_{joint}"] for joint in ARM_JOINTS]) for side in SIDES}
LOW = np.array([LIMITS[name.removeprefix("left_").removeprefix("right_")][0] for name in JOINTS])
HIGH = np.array([LIMITS[name.removeprefix("left_").removeprefix("right_")][1] for name in JOINTS])


class ArmSolver:
    """Finds arm angles for a grip pose; keeps scratch data of its own, so that the simulation is not disturbed."""

    def __init__(self, simulator: Simulator, *, rest: Mapping[str, Vector]) -> None:
        self._sim, self._rest, self._mujoco = simulator, rest, simulator.mujoco
        model = simulator.model
        self._scratch = simulator.mujoco.MjData(model)
        self._jacobian = np.zeros((6, model.nv))
        self._dofs = {side: np.array([model.joint(JOINTS[k]).dofadr[0] for k in ARM[side]]) for side in SIDES}
        self._sites = {side: model.site(f"{side}_grip").id for side in SIDES}

    def solve(
        self,
        side: str,
        point: Vector,
        *,
        pitch: float,
        heading: float,
        joints: Vector,
        start: Vector | None = None,
    ) -> tuple[Vector, float]:
        """Arm angles that bring the grip to `point`, approaching `pitch` below the horizontal; and the miss, m.

        Position counts in full, orientation at a quarter; `joints` are the 21 commanded angles, of which the torso's
        stay. Where both leave a choice, the arm tends to its resting pose.
        """
        sim, data = self._sim, self._scratch
        data.qpos[:] = sim.data.qpos
        data.qpos[sim.joint_address] = joints
        angles = (joints[ARM[side]] if start is None else start).copy()
        approach = np.array(
            [math.cos(heading) * math.cos(pitch), math.sin(heading) * math.cos(pitch), -math.sin(pitch)]
        )
        across = np.array([-math.sin(heading), math.cos(heading), 0.0])
        wanted = np.stack([np.cross(across, -approach), across, -approach], axis=1)
        site, dofs, addresses = self._sites[side], self._dofs[side], sim.joint_address[ARM[side]]
        rest, low, high = self._rest[side], LOW[ARM[side]], HIGH[ARM[side]]
        distance = math.inf
        for _ in range(45):
            data.qpos[addresses] = angles
            self._mujoco.mj_kinematics(sim.model, data)
            self._mujoco.mj_comPos(sim.model, data)
            self._mujoco.mj_jacSite(sim.model, data, self._jacobian[:3], self._jacobian[3:], site)
            offset = point - data.site_xpos[site]
            distance = float(np.linalg.norm(offset))
            frame = data.site_xmat[site].reshape(3, 3)
            twist = 0.5 * np.sum([np.cross(frame[:, k], wanted[:, k]) for k in range(3)], axis=0)
            error = np.concatenate([np.clip(offset, -0.08, 0.08), 0.25 * np.clip(twist, -0.4, 0.4)])
            if distance < 0.002 and np.abs(twist).max() < 0.05:
                break
            jacobian = self._jacobian[:, dofs].copy()
            jacobian[3:] *= 0.25
            square = jacobian @ jacobian.T + 2e-4 * np.eye(6)
            null = 0.01 * (rest - angles)
            change = jacobian.T @ np.linalg.solve(square, error - jacobian @ null) + null
            angles = np.clip(angles + np.clip(change, -0.25, 0.25), low + 0.01, high - 0.01)
        return angles, distance
