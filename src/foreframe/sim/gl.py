"""MuJoCo and headless OpenGL: find a way to render without a display, or say in one line which package is missing."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from foreframe.errors import UsageError

PROBE = (
    "import mujoco;m=mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size=\"1\"/></worldbody></mujoco>');"
    "r=mujoco.Renderer(m,8,8);r.update_scene(mujoco.MjData(m));r.render();r.close();print('works')"
)
"""What a child process runs: a driver that crashes takes only the child with it."""

_TRIED = "FOREFRAME_GL_TRIED"
"""Environment variable with the value of MUJOCO_GL that was found to render, so that children need not try it again."""


def probe(backend: str) -> bool:
    """Whether a fresh process can render with this value of MUJOCO_GL."""
    environment = {**os.environ, "MUJOCO_GL": backend}
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE], env=environment, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"works" in done.stdout


def ensure_gl() -> str:
    """Choose MUJOCO_GL for this process and its children and return it; call before rendering.

    A value that is already set is kept, and is a `UsageError` if it cannot render. Otherwise EGL, then OSMesa; if
    neither renders, `UsageError` names packages.
    """
    _require_mujoco()
    chosen = os.environ.get("MUJOCO_GL")
    if chosen:
        if chosen != os.environ.get(_TRIED) and not probe(chosen):
            _refuse_platform()
            raise UsageError(f"MUJOCO_GL={chosen}: cannot render here; unset it, or set it to egl or osmesa")
        os.environ[_TRIED] = chosen
        return chosen
    for backend in ("egl", "osmesa"):
        if probe(backend):
            os.environ["MUJOCO_GL"] = os.environ[_TRIED] = backend
            # MuJoCo reads the variable when it is imported: somebody may have done that already.
            if chooser := sys.modules.get("mujoco.rendering.classic.gl_context"):
                importlib.reload(chooser)
            return backend
    _refuse_platform()
    raise UsageError(
        "the simulator found no OpenGL to render with: "
        "`apt-get install libegl1 libgl1-mesa-dri libopengl0` or `apt-get install libosmesa6`"
    )


def _refuse_platform() -> None:
    """Raise `UsageError` if PYOPENGL_PLATFORM names what MuJoCo cannot render with."""
    if (platform := os.environ.get("PYOPENGL_PLATFORM")) and platform not in ("egl", "osmesa"):
        raise UsageError(f"PYOPENGL_PLATFORM={platform[:60]}: cannot render here; unset it, or set it to egl or osmesa")


def load_mujoco(*, render: bool) -> Any:
    """MuJoCo's module, through Any: it does not declare its names to type checkers. Needs OpenGL only for `render`."""
    if render:
        ensure_gl()
    _require_mujoco()
    try:
        return importlib.import_module("mujoco")
    except RuntimeError as error:  # a value that MuJoCo does not know stops even its import
        raise UsageError(f"MuJoCo cannot be imported ({error}); unset MUJOCO_GL, or set it to egl or osmesa") from error


def _require_mujoco() -> None:
    if find_spec("mujoco") is None:
        raise UsageError('the simulator needs MuJoCo, which is not installed: pip install "foreframe[sim]"')
