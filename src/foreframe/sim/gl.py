"""Headless OpenGL for MuJoCo: find a way to render without a display, or say in one line which package is missing."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib.util import find_spec

from foreframe.errors import UsageError

PROBE = (
    "import mujoco;m=mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size=\"1\"/></worldbody></mujoco>');"
    "r=mujoco.Renderer(m,8,8);r.update_scene(mujoco.MjData(m));r.render();r.close();print('works')"
)
"""What a child process runs: a driver that crashes takes only the child with it."""


def probe(backend: str) -> bool:
    """Whether a fresh process can render with this value of MUJOCO_GL."""
    environment = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE], env=environment, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"works" in done.stdout


def ensure_gl() -> str:
    """Choose MUJOCO_GL for this process and its children and return it; call before rendering.

    A value that is already set is kept. Otherwise EGL, then OSMesa; if neither renders, `UsageError` names packages.
    """
    if find_spec("mujoco") is None:
        raise UsageError('the simulator needs MuJoCo, which is not installed: pip install "foreframe[sim]"')
    chosen = os.environ.get("MUJOCO_GL")
    if chosen:
        return chosen
    for backend in ("egl", "osmesa"):
        if probe(backend):
            os.environ["MUJOCO_GL"] = backend
            # MuJoCo reads the variable when it is imported: somebody may have done that already.
            if chooser := sys.modules.get("mujoco.rendering.classic.gl_context"):
                importlib.reload(chooser)
            return backend
    raise UsageError(
        "the simulator found no OpenGL to render with: "
        "`apt-get install libegl1 libgl1-mesa-dri libopengl0` or `apt-get install libosmesa6`"
    )
