"""Times listing the clips of a data set of 1X's size: 100 shards, 38,846 segments, 11,254,161 frames.

    python benchmarks/index.py

The folder is made here. Segment files are real, with lengths drawn to have 1X's number, sum, least and largest
(challenge-facts 1.2); states and tokens are sparse files of the right sizes, as listing clips reads neither. Each row
is measured in processes of their own, from an imported package to the finished list, by the time on the wall and by
the most memory the process ever held (VmHWM: `getrusage` would count the parent's too), mapped files included.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from foreframe.data.clips import clip_ids, token_pair_ids
from foreframe.data.layout import TOKEN_BLOCK_FRAMES, TOKEN_BLOCK_GRIDS, find_layout, shard_files
from foreframe.data.windows import CLIP_FRAMES
from foreframe.evaluate import code_version, processor
from foreframe.states import NUM_CHANNELS

NUM_SHARDS = 100
NUM_SEGMENTS = 38_846
NUM_FRAMES = 11_254_161
LONGEST = 29_861
GRID = 32
WORKS = {
    "clip_ids(length=77, stride=8)": lambda segments: clip_ids(segments, length=CLIP_FRAMES, stride=8),
    "clip_ids(length=77, stride=1)": lambda segments: clip_ids(segments, length=CLIP_FRAMES, stride=1),
    "token_pair_ids(stride_blocks=2)": lambda segments: token_pair_ids(segments, stride_blocks=2),
    "token_pair_ids(stride_blocks=1)": lambda segments: token_pair_ids(segments, stride_blocks=1),
}
MOST_SECONDS, MOST_MB = 10, 500
REPEATS = 3


def segment_lengths() -> np.ndarray:
    """Many short recordings and few long ones, as 1X's mean and largest suggest."""
    generator = np.random.default_rng(0)
    lengths = generator.lognormal(0, 1.1, NUM_SEGMENTS - 2)
    lengths = (lengths * (NUM_FRAMES - LONGEST - 1) / lengths.sum()).astype(np.int64).clip(1, LONGEST)
    short = NUM_FRAMES - LONGEST - 1 - lengths.sum()  # by rounding
    lengths[generator.choice(len(lengths), abs(short), replace=False)] += np.sign(short)
    lengths = generator.permutation([*lengths, 1, LONGEST])
    assert (len(lengths), lengths.sum(), lengths.min(), lengths.max()) == (NUM_SEGMENTS, NUM_FRAMES, 1, LONGEST)
    return lengths


def write_dataset(root: Path) -> None:
    """A tokenised folder in 1X's training layout."""
    lengths = segment_lengths()
    shard_of = np.minimum((lengths.cumsum() - 1) * NUM_SHARDS // NUM_FRAMES, NUM_SHARDS - 1)
    for shard in range(NUM_SHARDS):
        files = shard_files(root, shard, kind="tokens", style="subfolders")
        for path in (files.video, files.states, files.segments, files.metadata):
            path.parent.mkdir(parents=True, exist_ok=True)
        (own,) = np.nonzero(shard_of == shard)
        num_frames = int(lengths[own].sum())
        np.repeat(own, lengths[own]).astype("<i4").tofile(files.segments)
        blocks = -(-num_frames // TOKEN_BLOCK_FRAMES)
        for path, size in (
            (files.states, NUM_CHANNELS * num_frames),
            (files.video, blocks * TOKEN_BLOCK_GRIDS * GRID**2),
        ):
            path.touch()
            os.truncate(path, size * 4)
        files.metadata.write_text(json.dumps({"shard_num_frames": num_frames, "shard_ind": shard}))
    metadata = {"num_shards": NUM_SHARDS, "num_images": NUM_FRAMES, "hz": 30, "query": None}
    (root / "metadata.json").write_text(json.dumps(metadata))


def most_memory_mb() -> float:
    """Most memory this process held so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status does not tell VmHWM; this needs Linux")


def measure(root: Path, name: str) -> dict[str, Any]:
    """One measurement, in this process."""
    imported = most_memory_mb()
    began = time.perf_counter()
    layout = find_layout(root)
    found = time.perf_counter() - began
    clips = WORKS[name]({shard.index: shard.open_segments() for shard in layout.shards})
    seconds = time.perf_counter() - began
    assert layout.num_images == NUM_FRAMES
    return {"clips": len(clips), "seconds": seconds, "of_it_find_layout": found, "imports_mb": imported}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--measure", nargs=2, metavar=("ROOT", "WORK"), help="one row, as a process of its own")
    arguments = parser.parse_args()
    if arguments.measure:
        result = measure(Path(arguments.measure[0]), arguments.measure[1])
        print(json.dumps(result | {"peak_mb": most_memory_mb()}))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="foreframe-index-") as folder:
        write_dataset(Path(folder))
        for name in WORKS:
            command = [sys.executable, __file__, "--measure", folder, name]
            runs = [json.loads(subprocess.check_output(command)) for _ in range(REPEATS)]
            rows.append(
                {
                    "work": f"find_layout, {name}",
                    "clips": runs[0]["clips"],
                    "seconds": round(statistics.median(run["seconds"] for run in runs), 3),
                    "seconds_at_worst": round(max(run["seconds"] for run in runs), 3),
                    "of_it_find_layout": round(statistics.median(run["of_it_find_layout"] for run in runs), 3),
                    "peak_mb": round(max(run["peak_mb"] for run in runs)),
                    "of_it_imports_mb": round(max(run["imports_mb"] for run in runs)),
                }
            )
            print(rows[-1], flush=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    report = {
        "what": f"listing the clips of {NUM_SHARDS} shards, {NUM_SEGMENTS} segments, {NUM_FRAMES} frames;"
        f" {REPEATS} processes to a row",
        "wanted": f"at most {MOST_SECONDS} s and {MOST_MB} MB",
        "met": all(row["seconds_at_worst"] <= MOST_SECONDS and row["peak_mb"] <= MOST_MB for row in rows),
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit,
        "code": code_version(),
        "date": datetime.date.today().isoformat(),
        "hardware": f"{processor()}, {os.cpu_count()} cores, shared with other work",
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
