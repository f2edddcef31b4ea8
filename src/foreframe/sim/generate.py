"""Generate a dataset folder of simulated episodes in 1X's v2.0 raw layout: over several processes, and resumable.

Beside 1X's files lies what their format has no place for. Row n of each array is frame n of the shard:

    sim/
    ├── config.json            generator, versions and settings; `behaviours` and `mask_classes` name the ids below
    ├── episodes.jsonl         a line per episode: where it lies, its room, objects and fixtures, and the robot's diary
    ├── commands_{i}.npy       float32 (N, 25): the command that led to the frame, exactly as it was executed
    ├── poses_{i}.npy          float32 (N, K, 7): position in m and quaternion of the `object_names`, padded with zeros
    ├── fixtures_{i}.npy       float32 (N, J): drawers in m and doors in rad, the `fixture_names`, padded with zeros
    ├── labels_{i}.npy         int8 (N,): index into `behaviours`, the same in every data set, -1 for none yet
    ├── snapshots_{i}.npz      every 17 frames, S in all: all that is needed to go on from there, see `sim.branch`
    │       frame int64 (S,), segment int32 (S,), physics float64 (S, P) of which physics_size int64 (S,) count,
    │       noise uint64 (S, 6), exposure float64 (S,)
    └── masks_{i}.npz          only with `masks`: masks uint8 (N, 128, 128), index into `mask_classes`
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from foreframe.errors import InputError, UsageError
from foreframe.sim.camera import MASK_CLASSES
from foreframe.sim.gl import ensure_gl
from foreframe.sim.recording import BEHAVIOURS, Recording, behaviour_labels, npy
from foreframe.sim.simulator import HZ, EpisodeConfig, Simulator, streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from foreframe.data.layout import Style
    from foreframe.sim.behaviour import BehaviourConfig
    from foreframe.sim.simulator import Observation

GENERATOR_VERSION = 4
"""Raised whenever the same seed gives other data."""


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """How much to simulate, and which draw."""

    episodes: int = 8
    """Episodes; each is one room and one segment."""
    seed: int = 0
    """Decides, with the split and the episode's number, every random draw; below 2**32."""
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
    """Processes; 0 means one per processor that may be used. One process makes a whole shard, so no more are started
    than there are shards."""
    episodes_per_shard: int = 1
    """Episodes written into one video file. A shard is what one process makes and what a stopped run keeps."""
    crf: int = 23
    """x264 quality, from 0 (lossless) to 51; 23 at 512 is near the real data's bit rate."""
    actions_per_stop: tuple[int, int] = (4, 6)
    """Fewest and most actions at a place before the robot drives on; 0 2 has it drive about half of the time."""
    masks: bool = False
    """Also write which pixels show the robot, loose objects, and doors and drawers."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise UsageError(f"episodes must be at least 1, not {self.episodes}")
        if self.episodes_per_shard < 1:
            raise UsageError(f"episodes-per-shard must be at least 1, not {self.episodes_per_shard}")
        if self.size not in (256, 512):
            raise UsageError(f"size must be 256 or 512, not {self.size}")
        if self.split not in ("train", "val", "test"):
            raise UsageError(f"split must be train, val or test, not {self.split!r}")
        if not 0 < self.seconds <= 3600:
            raise UsageError(f"seconds must be above 0 and at most 3600, not {self.seconds}")
        if not 0 <= self.lead_in <= 3600:
            raise UsageError(f"lead-in must be from 0 to 3600, not {self.lead_in}")
        low, high = self.actions_per_stop
        if not 0 <= low <= high:
            raise UsageError(f"actions-per-stop must be two numbers from 0 up in order, not {low} {high}")
        if not 0 <= self.crf <= 51:
            raise UsageError(f"crf must be from 0 to 51, not {self.crf}")
        if not 0 <= self.seed < 1 << 32:
            raise UsageError(f"seed must be from 0 to {(1 << 32) - 1}, not {self.seed}")
        if self.workers < 0:
            raise UsageError(f"workers must be at least 0, not {self.workers}")

    @property
    def frames_per_episode(self) -> int:
        """At least one."""
        return max(1, round(self.seconds * HZ))

    @property
    def num_shards(self) -> int:
        """Shards in the folder."""
        return -(-self.episodes // self.episodes_per_shard)


def run_episode(
    config: EpisodeConfig, *, num_frames: int, lead_in: float = 0.0, behaviour: BehaviourConfig | None = None,
    render: bool = True, watch: Callable[[Simulator], None] | None = None,
    unfilmed: Callable[[], None] | None = None,
) -> Iterator[tuple[npt.NDArray[np.float32], Observation, dict[str, Any] | None]]:  # fmt: skip
    """Yield (command, observation, record) a frame; the record of what happened comes with the last frame only.

    Before the first one up to `lead_in` seconds pass unfilmed, how many the episode's own seed decides. Frame numbers
    in the record count from the first filmed frame, so that what began earlier has a negative one. `watch` is called
    with the simulator after each filmed step, before it is rendered; `unfilmed` before each step of the lead-in, and
    may raise to stop.
    """
    from foreframe.sim.behaviour import Policy

    with Simulator(config, render=render) as simulator:
        policy = Policy(simulator, behaviour)
        policy.begin()
        # Rounded as they are stored, so that the stored command is the one that was executed.
        commands = (command.astype(np.float32) for command in policy.commands())
        first = int(streams(config)["start"].uniform(0, lead_in) * HZ)
        for _ in range(first):
            if unfilmed is not None:
                unfilmed()
            simulator.step(next(commands), render=False)
        for frame in range(num_frames):
            command = next(commands)
            seen = simulator.step(command, render=False)
            if watch is not None:
                watch(simulator)
            if render:
                seen = replace(seen, frame=simulator.render())
            record = None
            if frame == num_frames - 1:
                record = {
                    "seed": config.seed,
                    "split": config.split,
                    "episode": config.episode,
                    "room": simulator.room.kind,
                    "num_frames": num_frames,
                    "object_names": list(simulator.room.objects),
                    "fixture_names": list(simulator.room.fixtures),
                    **{name: _shifted(entries, -first) for name, entries in asdict(policy.diary).items()},
                }
            yield command, seen, record


def _shifted(entries: list[Any], by: int) -> list[Any]:
    """A diary's list with its frame numbers moved: dicts with `frame` and `end`, or pairs that begin with a frame."""
    return [
        {key: value + by if key in ("frame", "end") else value for key, value in entry.items()}
        if isinstance(entry, dict)
        else [entry[0] + by, *entry[1:]]
        for entry in entries
    ]


def _style(config: SimulateConfig) -> Style:
    return "subfolders" if config.split == "train" else "flat"


def _write_shard(root: Path, shard: int, config: SimulateConfig, tick: Callable[[int], None]) -> None:
    """Render one shard's episodes; `tick` is called with the number of new frames, even if none, and may raise."""
    from foreframe.data.writer import RawShardWriter
    from foreframe.sim.behaviour import BehaviourConfig

    first = shard * config.episodes_per_shard
    behaviour = BehaviourConfig(actions_per_stop=config.actions_per_stop)
    recording = Recording(masks=config.masks)
    with RawShardWriter(root, shard, style=_style(config), size=config.size, hz=HZ, crf=config.crf) as writer:
        for episode in range(first, min(first + config.episodes_per_shard, config.episodes)):
            drawn = EpisodeConfig(seed=config.seed, split=config.split, episode=episode, size=config.size)
            begin = (episode - first) * config.frames_per_episode
            for command, seen, record in run_episode(
                drawn, num_frames=config.frames_per_episode, lead_in=config.lead_in, behaviour=behaviour,
                watch=recording.watch, unfilmed=lambda: tick(0),
            ):  # fmt: skip
                assert seen.frame is not None
                writer.append(seen.frame, seen.states, segment=episode)
                recording.add(command, record and {"segment": episode, "shard": shard, "first_frame": begin, **record})
                tick(1)
        # Before the writer's last file, which says that the shard is finished.
        recording.write(root / "sim", shard)


class _Stopped(Exception):
    """The parent has asked a worker to stop."""


_worker: dict[str, Any] = {}


def _start_worker(frames: Any, stop: Any) -> None:
    # Ctrl-C reaches the whole process group: the parent decides, the workers finish their frame and leave.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["LP_NUM_THREADS"] = "1"
    _worker.update(frames=frames, stop=stop)
    parent = os.getppid()

    def leave() -> None:
        # A parent that was killed cannot ask: without this its workers would wait for the next task for ever. And one
        # that imports modules or builds a room does not hear its parent.
        while os.getppid() == parent and not stop.value:
            time.sleep(0.1)
        time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def _work(root: Path, shard: int, config: SimulateConfig) -> None:
    _worker["frames"][shard] = 0

    def tick(frames: int) -> None:
        _worker["frames"][shard] += frames
        if _worker["stop"].value:
            raise _Stopped

    _write_shard(root, shard, config, tick)


@contextmanager
def _interrupts_held() -> Iterator[list[int]]:
    """Ctrl-C, once or often, only adds to the list, so that the body can stop in good order; raised at its end."""
    held: list[int] = []
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield held  # somebody else's business
        return
    signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if held:
        raise KeyboardInterrupt


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """For starting processes: they would die with a traceback of a Ctrl-C that comes before `_start_worker`."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_pool(root: Path, shards: list[int], config: SimulateConfig, workers: int, tick: Callable[[int], None]) -> None:
    from multiprocessing import get_context

    context: Any = get_context("spawn")
    # Without locks, which a worker that is killed would keep: each shard has a place that only its worker writes.
    frames, stop, seen = context.RawArray("q", config.num_shards), context.RawValue("b", 0), 0
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(frames, stop))
    with _interrupts_held() as interrupts:
        try:
            with _interrupts_blocked():
                pending = {pool.submit(_work, root, shard, config) for shard in shards}
            while pending:
                done, pending = wait(pending, timeout=0.2)
                if interrupts:
                    raise KeyboardInterrupt
                for future in done:
                    future.result()
                now = sum(frames)
                tick(now - seen)
                seen = now
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed, perhaps for want of memory; the same command goes on"
            ) from error
        finally:
            stop.value = 1
            pool.shutdown(wait=True, cancel_futures=True)


def _num_processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def simulate(out: Path, config: SimulateConfig, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Write `config.episodes` episodes to the new folder `out`, in the layout at the top of this file.

    What is stopped, by Ctrl-C or a kill, leaves only the hidden folder `.NAME.partial` beside `out` with the shards
    that were finished, or nothing if there were none; the same call goes on with it, and the outcome is the same to
    the byte. `progress` is called with (frames done, frames in all).
    """
    from foreframe.data.folders import resumable_folder
    from foreframe.data.writer import write_metadata

    ensure_gl()
    described = _described(config)
    total, done = config.episodes * config.frames_per_episode, 0

    def tick(frames: int) -> None:
        nonlocal done
        done += frames
        if progress is not None and frames:
            progress(done, total)

    with resumable_folder(out, identity=described) as unfinished, _nothing_for_nothing(unfinished.folder, config):
        root = unfinished.folder
        shards = _missing_shards(root, config)
        missing = sum(
            min(config.episodes_per_shard, config.episodes - shard * config.episodes_per_shard) for shard in shards
        )
        if missing < config.episodes:
            tick(total - missing * config.frames_per_episode)
        workers = min(config.workers or _num_processors(), len(shards))
        if workers > 1:
            _in_pool(root, shards, config, workers, tick)
        else:
            os.environ.setdefault("LP_NUM_THREADS", "1")
            for shard in shards:
                _write_shard(root, shard, config, tick)
        _finish_side(root / "sim", config, described)
        write_metadata(root, num_shards=config.num_shards, num_images=total, hz=HZ)


def _described(config: SimulateConfig) -> dict[str, Any]:
    """What decides the data, JSON-ready."""
    described = {"generator": "evesim", "version": GENERATOR_VERSION, "mujoco": version("mujoco"), **asdict(config)}
    del described["workers"]  # any number gives the same data
    return json.loads(json.dumps(described))


def is_made(out: Path, config: SimulateConfig) -> bool:
    """Whether `out` holds just what `simulate` would make of `config`; `UsageError` if it holds another simulation."""
    from foreframe.files import read_json, shortened

    path = out / "sim" / "config.json"
    if not path.is_file() or not (out / "metadata.json").is_file():
        return False
    there = read_json(path, advice="name another folder")
    for name, value in _described(config).items():
        if there.get(name) != value:
            raise UsageError(
                f"{out}: holds another simulation: {name} is {shortened(there.get(name), 60)} there and {value} here; "
                "name another folder"
            )
    if missing := _missing_shards(out, config):
        raise UsageError(f"{out}: shard {missing[0]} is not whole; delete the folder and make it again")
    return True


def _missing_shards(root: Path, config: SimulateConfig) -> list[int]:
    from foreframe.data.writer import shard_is_written

    written = [shard_is_written(root, shard, kind="raw", style=_style(config)) for shard in range(config.num_shards)]
    return [shard for shard, is_written in enumerate(written) if not is_written]


@contextmanager
def _nothing_for_nothing(root: Path, config: SimulateConfig) -> Iterator[None]:
    """Empty the folder after a failure before the first whole shard: it would only stand in other settings' way."""
    try:
        yield
    except BaseException:
        if len(_missing_shards(root, config)) == config.num_shards:
            for path in root.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        raise


def _finish_side(side: Path, config: SimulateConfig, described: dict[str, Any]) -> None:
    """Merge the shards' records and write what needs all of them; may be stopped anywhere and repeated."""
    from foreframe.files import write_whole

    merged, parts = side / "episodes.jsonl", [side / f"episodes_{shard}.jsonl" for shard in range(config.num_shards)]
    if not merged.is_file():
        write_whole(merged, b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink(missing_ok=True)
    records = [json.loads(line) for line in merged.read_text().splitlines()]
    for shard in range(config.num_shards):
        labels = behaviour_labels([record for record in records if record["shard"] == shard])
        write_whole(side / f"labels_{shard}.npy", npy(labels))
    settings = {**described, "behaviours": list(BEHAVIOURS), "mask_classes": list(MASK_CLASSES)}
    write_whole(side / "config.json", (json.dumps(settings, indent=1) + "\n").encode())
