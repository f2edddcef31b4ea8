"""Times reading 77-frame windows from a long mp4 against decord as the winning entry used it.

    pip install decord==0.6.0 && python benchmarks/decode.py

Their way, per sample (`model/dataset.py` of their public code): open `decord.VideoReader` anew, decode and convert all
77 frames, keep frames [::4] and [76]. Ours: one open `VideoReader`, asked for `frame_indices("stride4_dup_last")`. Both
read the same windows of the same file in turns (A, B, A, B, ...); every pair of results is compared. The clips are made
here: a few hundred frames encoded by x264 (veryfast, crf 23), then the same groups of pictures again and again with
later time stamps, which is as dear to decode and as large as distinct ones.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import decord
import numpy as np

from foreframe.data.video import VideoIndex, VideoReader
from foreframe.data.windows import CLIP_FRAMES, frame_indices
from foreframe.evaluate import code_version, processor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

SIZE = 512
NUM_FRAMES = 54_000
OFFSETS = frame_indices("stride4_dup_last")
STREAMED = 6_000
"""Frames that the rows on sequential reading cover."""


def scene(num_frames: int) -> Iterator[np.ndarray]:
    """A camera over a textured plane, a moving box, and sensor noise: about 2 kB a frame, near 1X's 1.75 kB."""
    generator = np.random.default_rng(0)
    plane = np.full((1024, 1024, 3), 120, np.float32)
    for cells, contrast in ((4, 60), (16, 40), (64, 25), (256, 12)):
        coarse = generator.uniform(-contrast, contrast, (cells, cells, 3)).astype(np.float32)
        plane += coarse.repeat(1024 // cells, 0).repeat(1024 // cells, 1)
    for index in range(num_frames):
        x, y = int(200 + 180 * np.sin(index / 60)), int(200 + 180 * np.cos(index / 83))
        frame = plane[y : y + SIZE, x : x + SIZE].copy()
        left = int(216 + 150 * np.sin(index / 17))
        frame[200:300, left : left + 80] = (200, 80, 40)
        frame += generator.normal(0, 2, frame.shape).astype(np.float32)
        yield frame.clip(0, 255).astype(np.uint8)


def make_video(folder: Path, *, gop: int, b_frames: int) -> Path:
    """A file of NUM_FRAMES frames in `folder`, made once."""
    path = folder / f"{SIZE}_gop{gop}_b{b_frames}_{NUM_FRAMES}.mp4"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    distinct = max(600 // gop, 2) * gop
    short, partial = path.with_suffix(".short.mp4"), path.with_suffix(".partial.mp4")
    options = {"preset": "veryfast", "crf": "23", "g": str(gop), "keyint_min": str(gop), "sc_threshold": "0"}
    with av.open(str(short), "w") as output:
        stream = output.add_stream("libx264", rate=30, options={**options, "bf": str(b_frames)})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for index, frame in enumerate(scene(distinct)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 30)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    with av.open(str(short)) as source, av.open(str(partial), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for index in range(NUM_FRAMES):
            original = packets[index % distinct]
            later = index // distinct * distinct * original.duration
            packet = av.Packet(bytes(original))
            packet.stream, packet.time_base, packet.duration = stream, original.time_base, original.duration
            packet.pts, packet.dts = original.pts + later, original.dts + later
            packet.is_keyframe = original.is_keyframe
            output.mux(packet)
    short.unlink()
    partial.rename(path)
    return path


class Sides:
    """The ways to read one file; each takes the first frame of a window."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reader = VideoReader(path)
        self.open_decord = self._decord()

    def _decord(self) -> decord.VideoReader:
        return decord.VideoReader(str(self.path), ctx=decord.cpu(0), num_threads=1)

    def ours(self, start: int) -> np.ndarray:
        return self.reader.frames(start + OFFSETS)

    def entry(self, start: int) -> np.ndarray:
        frames = self._decord().get_batch(range(start, start + CLIP_FRAMES)).asnumpy()
        return np.concatenate([frames[::4], frames[[CLIP_FRAMES - 1]]])

    def decord_reopened(self, start: int) -> np.ndarray:
        return self._decord().get_batch(list(start + OFFSETS)).asnumpy()

    def decord_kept_open(self, start: int) -> np.ndarray:
        return self.open_decord.get_batch(list(start + OFFSETS)).asnumpy()

    def ours_scattered(self, start: int) -> np.ndarray:
        return self.reader.frames(scattered(start))

    def decord_scattered(self, start: int) -> np.ndarray:
        return self.open_decord.get_batch(list(scattered(start))).asnumpy()


def scattered(seed: int) -> np.ndarray:
    """20 frames from anywhere in the file."""
    return np.random.default_rng(seed).integers(0, NUM_FRAMES, 20)


def timed(work: Callable[[int], np.ndarray], starts: list[int]) -> tuple[float, list[np.ndarray]]:
    began = time.perf_counter()
    frames = [work(start) for start in starts]
    return time.perf_counter() - began, frames


def compare(sides: Sides, ours: str, other: str, *, rounds: int, windows: int) -> dict[str, Any]:
    """Time two sides in turns on the same windows; ratios above 1 mean that ours is faster."""
    generator = np.random.default_rng(rounds)
    times: list[tuple[float, float]] = []
    differing = largest = 0
    for number in range(rounds + 1):
        starts = generator.integers(0, NUM_FRAMES - CLIP_FRAMES + 1, windows).tolist()
        a, frames = timed(getattr(sides, ours), starts)
        b, reference = timed(getattr(sides, other), starts)
        for pair in zip(frames, reference, strict=True):
            largest = max(largest, int(np.abs(np.subtract(*pair, dtype=np.int16)).max()))
            differing += not np.array_equal(*pair)
        if number:  # the first is a warm-up
            times.append((a, b))
    return {
        "against": other,
        **spread(times, windows),
        "windows_compared": (rounds + 1) * windows,
        "windows_that_differ": differing,
        "largest_pixel_difference": largest,
    }


def spread(times: list[tuple[float, float]], windows: int) -> dict[str, Any]:
    ratios = sorted(b / a for a, b in times)
    return {
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(ratios[0], 2), round(ratios[-1], 2)],
        "pairs": len(times),
        "windows_per_turn": windows,
        "our_windows_per_second": round(windows / statistics.median(a for a, _ in times), 2),
        "their_windows_per_second": round(windows / statistics.median(b for _, b in times), 2),
    }


def serve(path: Path, core: int, pipe: Connection) -> None:
    """A worker process on one core: reads the windows it is sent, by the side it is told."""
    os.sched_setaffinity(0, {core})
    sides = Sides(path)
    pipe.send("ready")
    while (order := pipe.recv()) is not None:
        side, starts = order
        for start in starts:
            getattr(sides, side)(start)
        pipe.send("done")


def compare_all_cores(path: Path, cores: list[int], *, rounds: int, windows: int) -> dict[str, Any]:
    """As `compare`, with a process on every core; a turn lasts until the last of them is done."""
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    for core in cores:
        here, there = context.Pipe()
        context.Process(target=serve, args=(path, core, there), daemon=True).start()
        pipes.append(here)
    for pipe in pipes:
        pipe.recv()
    generator = np.random.default_rng(7)
    times: list[tuple[float, ...]] = []
    for _ in range(rounds + 1):
        starts = generator.integers(0, NUM_FRAMES - CLIP_FRAMES + 1, (len(cores), windows)).tolist()
        turn: list[float] = []
        for side in ("ours", "entry"):
            began = time.perf_counter()
            for pipe, own in zip(pipes, starts, strict=True):
                pipe.send((side, own))
            for pipe in pipes:
                pipe.recv()
            turn.append(time.perf_counter() - began)
        times.append(tuple(turn))
    for pipe in pipes:
        pipe.send(None)
    return {"processes": len(cores), **spread([(a, b) for a, b in times[1:]], windows * len(cores))}


def sequential(path: Path) -> list[dict[str, Any]]:
    """Pictures decoded per frame or clip, and the rate, when the file is streamed once."""
    rows: list[dict[str, Any]] = []
    for name, stride, offsets in (
        ("every frame, in clips of 77 side by side", CLIP_FRAMES, range(CLIP_FRAMES)),
        ("stride-8 clips of 77, all frames", 8, range(CLIP_FRAMES)),
        ("stride-8 clips of 77, the 21 the model sees", 8, OFFSETS),
    ):
        starts = range(0, STREAMED - CLIP_FRAMES + 1, stride)
        with VideoReader(path) as reader:
            began = time.perf_counter()
            for _ in reader.windows(starts, list(offsets)):
                pass
            took, shown = time.perf_counter() - began, starts[-1] + CLIP_FRAMES
            rows.append(
                {
                    "name": name,
                    "clips": len(starts),
                    "frames_passed": shown,
                    "pictures_decoded_per_frame": round(reader.num_decoded / shown, 3),
                    "pictures_decoded_per_clip": round(reader.num_decoded / len(starts), 2),
                    "clips_per_second": round(len(starts) / took, 2),
                    "frames_passed_per_second": round(shown / took, 1),
                }
            )
    return rows


def measure(path: Path, *, rounds: int, windows: int, full: bool) -> dict[str, Any]:
    began = time.perf_counter()
    index = VideoIndex.read(path)
    index_seconds = time.perf_counter() - began
    sides = Sides(path)
    result: dict[str, Any] = {
        "file": path.name,
        "bytes_per_frame": round(path.stat().st_size / len(index)),
        "seconds_to_index_once": round(index_seconds, 3),
        "one_core": compare(sides, "ours", "entry", rounds=rounds, windows=windows),
    }
    print(json.dumps(result), flush=True)
    decoded, num_windows = sides.reader.num_decoded, (rounds + 1) * windows
    result["pictures_decoded_per_window"] = round(decoded / num_windows, 2)
    if full:
        result["context"] = [
            compare(sides, "ours", "decord_reopened", rounds=rounds, windows=windows),
            compare(sides, "ours", "decord_kept_open", rounds=rounds, windows=windows),
            {"what": "20 frames from anywhere, no window"}
            | compare(sides, "ours_scattered", "decord_scattered", rounds=rounds, windows=1),
        ]
        result["sequential"] = sequential(path)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "foreframe" / "bench")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    began = time.perf_counter()
    encodings = [(30, 3), (30, 0), (12, 3), (250, 3)]
    paths = [make_video(arguments.cache, gop=gop, b_frames=b_frames) for gop, b_frames in encodings]
    print(f"files made or found in {time.perf_counter() - began:.0f} s", flush=True)
    results = [
        measure(path, rounds=arguments.rounds if path is paths[0] else 10, windows=2, full=path is paths[0])
        for path in paths
    ]
    results[0]["all_cores"] = compare_all_cores(paths[0], cores, rounds=arguments.rounds, windows=2)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    report = {
        "what": f"random {CLIP_FRAMES}-frame windows of {SIZE}x{SIZE} H.264, {NUM_FRAMES} frames to a file; ratio is"
        " our windows per second over the other side's",
        "files": "600 frames (500 at GOP 250) of pan, texture, moving box and noise encoded once by x264 veryfast crf"
        " 23, the same packets repeated with later time stamps up to the full length",
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit,
        "code": code_version(),
        "date": datetime.date.today().isoformat(),
        "hardware": f"{processor()}, {len(cores)} cores, shared with other work",
        "versions": {
            "python": platform.python_version(),
            "av": av.__version__,
            "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
            "decord": decord.__version__,
            "numpy": np.__version__,
        },
        "results": results,
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
