"""What each part of the robot's motion shows in the picture, in a simulated dataset folder, where that can be known.

    python scripts/at_stake.py DATA/val [RUN/scores.json]

Every clip of 77 frames is simulated again from the first snapshot after its 17 observed frames: once as it was
commanded, and once with a part of the robot held still (the base stopped). The two last frames, at 64x64, differ by
what that part shows, and by what it moved. Beside it, with a model's scores of these clips, the decibels that hearing
this part is worth at most: by how much its PSNR would fall if that difference came on top of its error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foreframe.data.clips import clip_ids
from foreframe.data.raw import RawDataset
from foreframe.data.video import downsample
from foreframe.data.windows import CLIP_FRAMES
from foreframe.metrics.interval import bootstrap
from foreframe.sim.branch import load_snapshot
from foreframe.sim.gl import ensure_gl
from foreframe.sim.recording import SNAPSHOT_EVERY
from foreframe.sim.simulator import Simulator
from foreframe.states import GROUPS
from foreframe.tracks.config import NUM_OBSERVED

SIZE = 64
SEEN = 1e-5
"""Squared error, of a range of 1, from which on a part shows: the sensor's noise is the same in both frames."""


def differences(root: Path, shard: int, start: int) -> dict[str, float]:
    """Mean squared difference of the clip's last frame, range 1, for each group of channels held still."""
    first = -(-(start + NUM_OBSERVED - 1) // SNAPSHOT_EVERY) * SNAPSHOT_EVERY
    commands = np.load(root / "sim" / f"commands_{shard}.npy")
    config, snapshot = load_snapshot(root, shard, first)
    script = commands[first + 1 : start + CLIP_FRAMES]
    with Simulator(config) as simulator:

        def last_frame(script: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
            simulator.restore(snapshot)
            for command in script:
                simulator.step(command, render=False)
            return downsample(simulator.render(), SIZE, where=f"shard {shard}") / 255

        truth = last_frame(script)
        found: dict[str, float] = {}
        for group, channels in GROUPS.items():
            still = script.copy()
            still[:, channels] = 0 if group == "base" else commands[first, channels]
            found[group] = float(np.square(last_frame(still) - truth).mean())
    return found


def main(root: Path, scores: Path | None = None) -> None:
    """Print a line for each group: share of clips where it shows, mean over all clips, median PSNR where it shows."""
    ensure_gl()
    clips = clip_ids(RawDataset(root).all_segments(), stride=CLIP_FRAMES)
    found = [differences(root, int(clip.shard), int(clip.start)) for clip in clips]
    rooms = [int(clip.segment) for clip in clips]
    error = None
    if scores is not None:
        scored = {
            (one["shard"], one["start"]): one["values"]["psnr"] for one in json.loads(scores.read_text())["clips"]
        }
        error = np.array([10 ** (-scored[clip.shard, clip.start]["model"] / 10) for clip in clips])
    print(f"{len(clips)} clips of {len(set(rooms))} rooms of {root}, simulated")
    for group in GROUPS:
        difference = np.array([one[group] for one in found])
        shows = difference > SEEN
        line = f"{group:<6} shows in {shows.mean():4.0%} of clips"
        if shows.any():
            line += f", there {-10 * np.log10(np.median(difference[shows])):.1f} dB in the median"
        if error is not None:
            worth = bootstrap(10 * np.log10((error + difference) / error), np.array(rooms))
            line += f"; at stake {worth.mean:.2f} dB [{worth.low:.2f}, {worth.high:.2f}]"
        print(line)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
