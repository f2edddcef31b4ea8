"""Generate a dataset folder of simulated episodes in 1X's v2.0 raw layout: over several processes, all or nothing."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from foreframe.errors import UsageError
from foreframe.sim.gl import ensure_gl
from foreframe.sim.simulator import HZ, EpisodeConfig, Simulator, streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from foreframe.sim.simulator import Observation

GENERATOR_VERSION = 1
"""Raised whenever the same seed gives other data."""


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """How much to simulate, and which draw."""

    episodes: int = 8
    """Episodes; each is one room and one segment."""
    seed: int = 0
    """Together with the split and the episode's number it decides everything."""
    size: int = 256
    """Side of the frames, pixels: 256 or 512."""
    split: Literal["train", "val", "test"] = "train"
    """train, val or test: no room occurs in two splits."""
    seconds: float = 20.0
    """Length of an episode, s."""
    lead_in: float = 25.0
    """The camera starts at a random moment within this many seconds of the robot's work, s: else every episode would
    begin with the robot in the same posture at its first table."""
    workers: int = 0
    """Processes; 0 means one per processor."""
    episodes_per_shard: int = 8
    """Episodes written into one video file."""
    crf: int = 23
    """x264 quality; 23 at 512 is near the real data's bit rate."""

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.episodes_per_shard < 1:
            raise UsageError(f"episodes must be at least 1, not {min(self.episodes, self.episodes_per_shard)}")
        if self.size not in (256, 512):
            raise UsageError(f"size must be 256 or 512, not {self.size}")
        if self.split not in ("train", "val", "test"):
            raise UsageError(f"split must be train, val or test, not {self.split!r}")
        if not 0 < self.seconds <= 3600:
            raise UsageError(f"seconds must be above 0 and at most 3600, not {self.seconds}")
        if self.lead_in < 0:
            raise UsageError(f"lead-in must not be negative, not {self.lead_in}")
        if self.seed < 0 or self.workers < 0:
            raise UsageError(f"seed and workers must not be negative, not {self.seed} and {self.workers}")

    @property
    def frames_per_episode(self) -> int:
        """At least one."""
        return max(1, round(self.seconds * HZ))

    @property
    def num_shards(self) -> int:
        """Shards in the folder."""
        return -(-self.episodes // self.episodes_per_shard)


def run_episode(
    config: EpisodeConfig, *, num_frames: int, lead_in: float = 0.0, render: bool = True
) -> Iterator[tuple[npt.NDArray[np.float64], Observation, dict[str, Any] | None]]:
    """Yield (command, observation, record) a frame; the record of what happened comes with the last frame only.

    Before the first one up to `lead_in` seconds pass unfilmed, how many the episode's own seed decides. Frame numbers
    in the record count from the first filmed frame, so that what began earlier has a negative one.
    """
    from foreframe.sim.behaviour import Policy

    with Simulator(config, render=render) as simulator:
        policy = Policy(simulator)
        policy.begin()
        commands = policy.commands()
        first = int(streams(config)["start"].uniform(0, lead_in) * HZ)
        for _ in range(first):
            simulator.step(next(commands), render=False)
        for frame in range(num_frames):
            command = next(commands)
            observation = simulator.step(command, render=render)
            record = None
            if frame == num_frames - 1:
                record = {
                    "seed": config.seed,
                    "split": config.split,
                    "episode": config.episode,
                    "room": simulator.room.kind,
                    "num_frames": num_frames,
                    "behaviours": [[start - first, name] for start, name in policy.diary.behaviours],
                    "grasps": [{**grasp, "frame": int(str(grasp["frame"])) - first} for grasp in policy.diary.grasps],
                }
            yield command, observation, record


def _write_shard(root: Path, shard: int, config: SimulateConfig, tick: Callable[[], None]) -> list[dict[str, Any]]:
    """Render one shard's episodes; `tick` is called after each frame and may raise to stop. Returns their records."""
    from foreframe.data.writer import RawShardWriter

    style = "subfolders" if config.split == "train" else "flat"
    first = shard * config.episodes_per_shard
    episodes = range(first, min(first + config.episodes_per_shard, config.episodes))
    records: list[dict[str, Any]] = []
    commands: list[npt.NDArray[np.float32]] = []
    with RawShardWriter(root, shard, style=style, size=config.size, hz=HZ, crf=config.crf) as writer:
        for episode in episodes:
            drawn = EpisodeConfig(seed=config.seed, split=config.split, episode=episode, size=config.size)
            for command, observation, record in run_episode(
                drawn, num_frames=config.frames_per_episode, lead_in=config.lead_in
            ):
                assert observation.frame is not None
                writer.append(observation.frame, observation.states, segment=episode)
                commands.append(command.astype(np.float32))
                if record is not None:
                    records.append({"segment": episode, "shard": shard, **record})
                tick()
    np.save(root / "sim" / f"commands_{shard}.npy", np.stack(commands))
    return records


class _Stopped(Exception):
    """The parent has asked a worker to stop."""


_worker: dict[str, Any] = {}


def _start_worker(ticks: Any, stop: Any) -> None:
    # Ctrl-C reaches the whole process group: the parent decides, the workers finish their frame and leave.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["LP_NUM_THREADS"] = "1"
    _worker.update(ticks=ticks, stop=stop)
    parent = os.getppid()

    def leave_when_orphaned() -> None:
        # A parent that was killed cannot ask: without this its workers would wait for the next task for ever.
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=leave_when_orphaned, daemon=True).start()


def _work(root: Path, shard: int, config: SimulateConfig) -> list[dict[str, Any]]:
    def tick() -> None:
        _worker["ticks"].put(1)
        if _worker["stop"].is_set():
            raise _Stopped

    return _write_shard(root, shard, config, tick)


def _in_pool(root: Path, config: SimulateConfig, workers: int, tick: Callable[[], None]) -> list[dict[str, Any]]:
    from multiprocessing import get_context

    context = get_context("spawn")
    ticks, stop = context.Queue(), context.Event()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(ticks, stop)) as pool:
        futures = [pool.submit(_work, root, shard, config) for shard in range(config.num_shards)]
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, timeout=0.2)
                for future in done:
                    future.result()
                while True:
                    try:
                        ticks.get_nowait()
                    except queue.Empty:
                        break
                    tick()
            return [record for future in futures for record in future.result()]
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        finally:
            ticks.cancel_join_thread()


def simulate(out: Path, config: SimulateConfig, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Write `config.episodes` episodes to the new folder `out`; a failure or Ctrl-C leaves nothing behind.

    `progress` is called with (frames done, frames in all). The side folder `sim/` holds what 1X's format has no place
    for: config.json, episodes.jsonl and the commands, one `commands_{i}.npy` of (N, 25) float32 per shard.
    """
    from foreframe.data.writer import atomic_folder, write_metadata

    ensure_gl()
    total = config.episodes * config.frames_per_episode
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    workers = min(config.workers or os.cpu_count() or 1, config.num_shards)
    with atomic_folder(out) as root:
        side = root / "sim"
        side.mkdir()
        if workers == 1:
            os.environ.setdefault("LP_NUM_THREADS", "1")
            records = [r for shard in range(config.num_shards) for r in _write_shard(root, shard, config, tick)]
        else:
            records = _in_pool(root, config, workers, tick)
            if progress is not None and done < total:
                progress(total, total)
        described = {
            "generator": "evesim",
            "version": GENERATOR_VERSION,
            "mujoco": version("mujoco"),
            **asdict(config),
        }
        (side / "config.json").write_text(json.dumps(described, indent=1) + "\n")
        (side / "episodes.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        write_metadata(root, num_shards=config.num_shards, num_images=total, hz=HZ)
