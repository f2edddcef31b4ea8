"""evesim's body: MJCF text of a humanoid on a driven base, with the 25 channels of 1X's EVE (not EVE itself)."""

from __future__ import annotations

from dataclasses import dataclass

TORSO_JOINTS = ("hip_yaw", "hip_roll", "hip_pitch", "knee_pitch", "ankle_roll", "ankle_pitch")
ARM_JOINTS = (
    "shoulder_pitch",
    "shoulder_roll",
    "shoulder_yaw",
    "elbow_pitch",
    "elbow_yaw",
    "wrist_pitch",
    "wrist_roll",
)
SIDES = ("left", "right")
JOINTS: tuple[str, ...] = (
    *TORSO_JOINTS,
    *(f"{side}_{joint}" for side in SIDES for joint in ARM_JOINTS),
    "neck_pitch",
)
"""The 21 joints in channel order; channels 21-24 are left and right closure, linear and angular velocity."""

FINGER_TRAVEL = 0.042
"""How far one finger slides from closed to open, m."""

LIMITS: dict[str, tuple[float, float]] = {
    "hip_yaw": (-0.8, 0.8),
    "hip_roll": (-0.3, 0.3),
    "hip_pitch": (-0.3, 1.0),
    "knee_pitch": (0.0, 1.5),
    "ankle_roll": (-0.2, 0.2),
    "ankle_pitch": (-0.3, 0.8),
    "shoulder_pitch": (-0.8, 2.6),
    "shoulder_roll": (-0.35, 1.7),
    "shoulder_yaw": (-1.6, 1.6),
    "elbow_pitch": (0.0, 2.5),
    "elbow_yaw": (-1.9, 1.9),
    "wrist_pitch": (-1.2, 1.2),
    "wrist_roll": (-1.0, 1.0),
    "neck_pitch": (-0.5, 1.1),
}
"""Joint limits, rad; *assumed*. Left and right arm mirror each other, so that equal numbers are symmetric poses."""

# Servo gains (stiffness N m/rad, damping N m s/rad), chosen for no visible overshoot.
_GAINS = {
    "hip": (6000, 500),
    "knee": (8000, 700),
    "ankle": (12000, 1000),
    "shoulder": (420, 34),
    "elbow": (260, 18),
    "wrist": (90, 5),
    "neck": (120, 8),
}


@dataclass(frozen=True, kw_only=True)
class BodyLook:
    """Colours of the robot's shells."""

    shell: str = "0.83 0.82 0.79 1"
    """Main shells, RGBA."""
    joint: str = "0.23 0.24 0.26 1"
    """Joints and fingers, RGBA."""
    accent: str = "0.45 0.52 0.58 1"
    """Rings and trim, RGBA."""


def _joint(name: str, axis: str, damping: float = 1.0, armature: float = 0.05) -> str:
    low, high = LIMITS[name.removeprefix("left_").removeprefix("right_")]
    return f'<joint name="{name}" axis="{axis}" range="{low} {high}" damping="{damping}" armature="{armature}"/>'


def _arm(side: str) -> str:
    """Seven joints; at zero the arm hangs straight down. +x forward, +y left."""
    s = 1 if side == "left" else -1
    fingers = "".join(
        f"""<body name="{side}_finger_{k}" pos="0 {sign * 0.006} -0.088" gravcomp="1">
          <joint name="{side}_finger_{k}" type="slide" axis="0 {sign} 0" range="0 {FINGER_TRAVEL}"
            damping="4" armature="0.05" solreflimit="0.009 1" solimplimit="0.98 0.999 0.0005"/>
          <geom class="shell" type="box" pos="0 {sign * 0.012} 0.008" size="0.011 0.009 0.022" material="robot_joint"/>
          <geom class="pad" type="box" pos="0 {sign * 0.006} -0.038" size="0.013 0.006 0.036" material="robot_joint"/>
          <geom class="mark" type="box" pos="0 {sign * 0.0125} -0.03" size="0.009 0.001 0.02" material="robot_accent"/>
        </body>"""
        for k, sign in enumerate((1, -1))
    )
    return f"""
    <body name="{side}_shoulder" pos="0 {0.2 * s} 0.38" gravcomp="1">
      {_joint(f"{side}_shoulder_pitch", "0 -1 0", 2, 0.1)}
      <geom class="mark" type="sphere" size="0.068" material="robot_joint"/>
      <body name="{side}_upper" gravcomp="1">
        {_joint(f"{side}_shoulder_roll", f"{s} 0 0", 2, 0.1)}
        <geom class="mark" type="capsule" fromto="0 0 0 0 {0.03 * s} -0.05" size="0.06" material="robot_shell"/>
        <body name="{side}_humerus" gravcomp="1">
          {_joint(f"{side}_shoulder_yaw", f"0 0 {s}", 1, 0.06)}
          <geom class="shell" type="capsule" fromto="0 {0.02 * s} -0.08 0 {0.01 * s} -0.25"
            size="0.05" material="robot_shell"/>
          <geom class="mark" type="cylinder" fromto="0 {0.01 * s} -0.205 0 {0.01 * s} -0.222"
            size="0.053" material="robot_accent"/>
          <body name="{side}_elbow" pos="0 0 -0.3" gravcomp="1">
            {_joint(f"{side}_elbow_pitch", "0 -1 0", 1, 0.05)}
            <geom class="mark" type="cylinder" fromto="0 -0.046 0 0 0.046 0" size="0.045" material="robot_joint"/>
            <body name="{side}_forearm" gravcomp="1">
              {_joint(f"{side}_elbow_yaw", f"0 0 {s}", 0.5, 0.03)}
              <geom class="shell" type="capsule" fromto="0 0 -0.05 0 0 -0.2" size="0.043" material="robot_shell"/>
              <geom class="mark" type="cylinder" fromto="0 0 -0.2 0 0 -0.235" size="0.036" material="robot_joint"/>
              <geom class="mark" type="box" pos="0.036 0 -0.12" size="0.012 0.018 0.05" material="robot_accent"/>
              <body name="{side}_wrist" pos="0 0 -0.265" gravcomp="1">
                {_joint(f"{side}_wrist_pitch", "0 -1 0", 0.3, 0.02)}
                <geom class="mark" type="sphere" size="0.034" material="robot_joint"/>
                <body name="{side}_hand" gravcomp="1">
                  {_joint(f"{side}_wrist_roll", f"{s} 0 0", 0.3, 0.02)}
                  <geom class="shell" type="box" pos="0 0 -0.045" size="0.026 0.042 0.03" material="robot_shell"/>
                  <geom class="mark" type="box" pos="0 0 -0.078" size="0.022 0.056 0.008" material="robot_joint"/>
                  <site name="{side}_grip" pos="0 0 -0.142" size="0.004" rgba="0 0 0 0"/>
                  {fingers}
                </body>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>"""


def body_defaults() -> str:
    """Geom classes of the robot. Bits: 1 robot, 2 furniture, 4 loose objects; the robot does not touch itself."""
    return """
    <default class="robot">
      <default class="shell"><geom contype="1" conaffinity="6" density="400" friction="0.5 0.005 0.0001"/></default>
      <default class="mark"><geom contype="0" conaffinity="0" density="300"/></default>
      <default class="pad"><geom contype="1" conaffinity="6" density="800" friction="1.8 0.03 0.002" condim="4"
        solref="0.008 1" solimp="0.95 0.99 0.001" priority="1"/></default>
    </default>"""


def body_assets(look: BodyLook) -> str:
    """The robot's three materials."""
    return f"""
    <material name="robot_shell" rgba="{look.shell}" specular="0.35" shininess="0.5"/>
    <material name="robot_joint" rgba="{look.joint}" specular="0.3" shininess="0.3"/>
    <material name="robot_accent" rgba="{look.accent}" specular="0.3" shininess="0.4"/>"""


def body_xml(*, camera_height: float, fovy: float, extra: str = "") -> str:
    """The kinematic tree: planar base, ankle, knee, hip, torso, two arms, neck, camera; `extra` rides on the base."""
    return f"""
    <body name="base" gravcomp="1">{extra}
      <joint name="base_x" type="slide" axis="1 0 0"/>
      <joint name="base_y" type="slide" axis="0 1 0"/>
      <joint name="base_yaw" type="hinge" axis="0 0 1"/>
      <geom class="shell" type="cylinder" pos="0 0 0.11" size="0.22 0.08" material="robot_joint" mass="50"/>
      <geom class="mark" type="cylinder" pos="0 0 0.2" size="0.15 0.03" material="robot_joint"/>
      <body name="foot" pos="0 0 0.25" gravcomp="1">
        {_joint("ankle_roll", "1 0 0", 20, 0.5)}
        <geom class="mark" type="sphere" size="0.07" material="robot_joint"/>
        <body name="shank" gravcomp="1">
          {_joint("ankle_pitch", "0 1 0", 20, 0.5)}
          <geom class="shell" type="capsule" fromto="0 0 0.03 0 0 0.34" size="0.075" material="robot_shell"/>
          <body name="thigh" pos="0 0 0.37" gravcomp="1">
            {_joint("knee_pitch", "0 -1 0", 20, 0.5)}
            <geom class="mark" type="cylinder" fromto="0 -0.09 0 0 0.09 0" size="0.08" material="robot_joint"/>
            <geom class="shell" type="capsule" fromto="0 0 0.04 0 0 0.27" size="0.085" material="robot_shell"/>
            <body name="pelvis" pos="0 0 0.33" gravcomp="1">
              {_joint("hip_pitch", "0 1 0", 20, 0.5)}
              <geom class="mark" type="capsule" fromto="0 -0.09 0 0 0.09 0" size="0.085" material="robot_joint"/>
              <body name="waist" gravcomp="1">
                {_joint("hip_roll", "1 0 0", 20, 0.5)}
                <geom class="mark" type="sphere" size="0.05"/>
                <body name="torso" gravcomp="1">
                  {_joint("hip_yaw", "0 0 1", 20, 0.5)}
                  <geom class="shell" type="capsule" fromto="0 -0.05 0.14 0 0.05 0.14"
                    size="0.1" material="robot_shell"/>
                  <geom class="shell" type="capsule" fromto="-0.02 -0.1 0.34 -0.02 0.1 0.34"
                    size="0.1" material="robot_shell"/>
                  <body name="head" pos="0 0 0.5" gravcomp="1">
                    {_joint("neck_pitch", "0 1 0", 1, 0.05)}
                    <geom class="mark" type="capsule" fromto="0 0 -0.05 0 0 0.02" size="0.045" material="robot_joint"/>
                    <geom class="mark" type="ellipsoid" pos="-0.02 0 0.1"
                      size="0.08 0.085 0.11" material="robot_shell"/>
                    <camera name="head" pos="0.09 0 {camera_height}" xyaxes="0 -1 0 0 0 1" fovy="{fovy}"/>
                  </body>
                  {_arm("left")}
                  {_arm("right")}
                </body>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>"""


def actuator_xml() -> str:
    """Actuators in command order: 21 joint servos, 4 fingers, then base x, y, yaw velocity."""
    lines = []
    for joint in JOINTS:
        part = joint.removeprefix("left_").removeprefix("right_").split("_")[0]
        stiffness, damping = _GAINS[part]
        low, high = LIMITS[joint.removeprefix("left_").removeprefix("right_")]
        lines.append(
            f'<position name="{joint}" joint="{joint}" kp="{stiffness}" kv="{damping}" ctrlrange="{low} {high}"/>'
        )
    for side in SIDES:
        for k in range(2):
            name = f"{side}_finger_{k}"
            lines.append(
                f'<position name="{name}" joint="{name}" kp="900" kv="40" ctrlrange="-0.02 {FINGER_TRAVEL}" '
                'forcerange="-14 14"/>'
            )
    lines.append('<velocity name="base_x" joint="base_x" kv="4000"/>')
    lines.append('<velocity name="base_y" joint="base_y" kv="4000"/>')
    lines.append('<velocity name="base_yaw" joint="base_yaw" kv="1500"/>')
    return "".join(lines)
