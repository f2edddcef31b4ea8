"""Frames per second of evesim on one core: script, physics, drawing at 512, noise and downsampling; no video encoder.

Run it as `python benchmarks/simulate.py`; about three minutes. Seconds of the process (CPU time) stand beside seconds
of the clock, which on a shared machine also count the neighbours.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["LP_NUM_THREADS"] = "1"  # one core draws too, in software

from foreframe.evaluate import code_version, processor
from foreframe.sim.generate import run_episode
from foreframe.sim.simulator import EpisodeConfig

SEED = 7
ROOMS = 6
FRAMES = 60
ROUNDS = 3
WARM_UP = 5


def measure(size: int) -> tuple[float, float]:
    """Frames per second of CPU time and of the clock, over all rooms."""
    cpu = clock = 0.0
    for episode in range(ROOMS):
        steps = run_episode(
            EpisodeConfig(seed=SEED, episode=episode, size=size), num_frames=FRAMES + WARM_UP, lead_in=25
        )
        for _ in islice(steps, WARM_UP):
            pass
        began_cpu, began = time.process_time(), time.perf_counter()
        for _ in steps:
            pass
        cpu, clock = cpu + time.process_time() - began_cpu, clock + time.perf_counter() - began
    return ROOMS * FRAMES / cpu, ROOMS * FRAMES / clock


def main() -> None:
    core = sorted(os.sched_getaffinity(0))[-1]
    os.sched_setaffinity(0, {core})
    rounds: dict[int, list[tuple[float, float]]] = {256: [], 512: []}
    for _ in range(ROUNDS):
        for size, found in rounds.items():
            found.append(measure(size))
            print(
                f"{size}: {found[-1][0]:.1f} frames a second of CPU time, {found[-1][1]:.1f} of the clock", flush=True
            )
    rows: list[dict[str, Any]] = [
        {
            "size": size,
            "frames_per_cpu_second": round(statistics.median(cpu for cpu, _ in found), 1),
            "frames_per_cpu_second_all": [round(cpu, 1) for cpu, _ in found],
            "frames_per_second": round(statistics.median(clock for _, clock in found), 1),
        }
        for size, found in rounds.items()
    ]
    content = {
        "what": f"evesim on one core, {ROOMS} rooms of seed {SEED}, {FRAMES} frames each, {ROUNDS} rounds, medians",
        "wanted": "40 frames a second at 256",
        "command": "python benchmarks/simulate.py",
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "code": code_version(),
        "date": date.today().isoformat(),
        "hardware": f"{processor()}, one core, shared with other work; load {os.getloadavg()[0]:.1f}",
        "versions": {"python": sys.version.split()[0], "mujoco": version("mujoco"), "gl": os.environ["MUJOCO_GL"]},
        "rows": rows,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
