"""The simulator: the same seed gives the same data, everything is measured, and the folder it writes reads back."""

from __future__ import annotations

import colorsys
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

if find_spec("mujoco") is None:  # not importorskip: MuJoCo must be imported after the simulator has chosen its OpenGL
    pytest.skip("needs MuJoCo", allow_module_level=True)

from foreframe.data.layout import find_layout
from foreframe.data.video import downsample
from foreframe.errors import InputError, UsageError
from foreframe.sim import SimulateConfig, gl, simulate
from foreframe.sim.behaviour import BehaviourConfig, Policy
from foreframe.sim.body import JOINTS, LIMITS
from foreframe.sim.branch import branch, load_snapshot, replay
from foreframe.sim.camera import MASK_CLASSES
from foreframe.sim.generate import GENERATOR_VERSION, run_episode
from foreframe.sim.navigation import plan_path
from foreframe.sim.recording import BEHAVIOURS, Recording
from foreframe.sim.room import _HUES, _palette
from foreframe.sim.simulator import EpisodeConfig, Simulator
from foreframe.states import CHANNEL_INDEX, CHANNEL_NAMES

try:
    gl.ensure_gl()
except UsageError as error:
    if "CI" in os.environ:  # A machine that judges must be able to render.
        raise
    pytest.skip(str(error), allow_module_level=True)


def _states(config: EpisodeConfig, num_frames: int, *, lead_in: float = 0.0) -> np.ndarray:
    steps = run_episode(config, num_frames=num_frames, lead_in=lead_in, render=False)
    return np.stack([seen.states for _, seen, _ in steps])


def test_joints_are_the_channels_in_order():
    assert CHANNEL_NAMES[:21] == JOINTS


def test_same_seed_gives_bit_identical_states():
    config = EpisodeConfig(seed=3, episode=1)
    first, second = _states(config, 240), _states(config, 240)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, _states(EpisodeConfig(seed=3, episode=2), 240))


def test_states_do_not_depend_on_rendering():
    config = EpisodeConfig(seed=3, episode=1)
    seen = np.stack([seen.states for _, seen, _ in run_episode(config, num_frames=20)])
    assert np.array_equal(seen, _states(config, 20))


def test_lead_in_films_a_later_part_of_the_same_episode():
    config = EpisodeConfig(seed=3, episode=1)
    whole, part = _states(config, 100), _states(config, 10, lead_in=3.0)
    starts = [start for start in range(91) if np.array_equal(whole[start : start + 10], part)]
    assert len(starts) == 1
    assert starts[0] > 0


def test_measured_channels_are_finite_and_in_range():
    states = np.concatenate([_states(EpisodeConfig(seed=11, episode=k), 600, lead_in=25.0) for k in range(4)])
    assert states.shape == (2400, 25)
    assert states.dtype == np.float32
    assert np.isfinite(states).all()
    for name in JOINTS:
        low, high = LIMITS[name.removeprefix("left_").removeprefix("right_")]
        column = states[:, CHANNEL_INDEX[name]]
        assert column.min() > low - 0.1, name
        assert column.max() < high + 0.1, name
    hands = states[:, 21:23]
    assert hands.min() > -0.1
    assert hands.max() < 1.1
    assert hands.max() - hands.min() > 0.3
    assert np.abs(states[:, 23]).max() < 1.0
    assert np.abs(states[:, 24]).max() < 1.5
    assert np.abs(states[:, 24]).max() > 0.1


def test_velocities_agree_with_the_base_path():
    with Simulator(EpisodeConfig(seed=1), render=False) as simulator:
        policy = Policy(simulator)
        policy.begin()
        command = policy.command.copy()
        command[23], command[24] = -0.2, 0.3
        before = simulator.data.qpos[simulator.base_address].copy()
        states = np.stack([simulator.step(command, render=False).states for _ in range(30)])
        after = simulator.data.qpos[simulator.base_address]
    assert np.hypot(*(after - before)[:2]) == pytest.approx(abs(states[:, 23].mean()), rel=0.1)
    assert after[2] - before[2] == pytest.approx(states[:, 24].mean(), rel=0.1)


def test_splits_and_episodes_have_their_own_rooms():
    texts = set()
    for split in ("train", "val", "test"):
        for episode in range(2):
            with Simulator(EpisodeConfig(seed=0, split=split, episode=episode), render=False) as simulator:
                texts.add(simulator.room.xml)
    assert len(texts) == 6


def test_no_wall_is_painted_with_another_splits_hues():
    for split in ("train", "val", "test"):
        for seed in range(30):
            wall = _palette(np.random.default_rng(seed), split, "office").wall
            hue = colorsys.rgb_to_hsv(*wall)[0]
            homes = {name for name, bands in _HUES.items() for low, high in bands if low - 1e-6 <= hue <= high + 1e-6}
            assert homes == {split}


def _psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def test_small_frames_are_box_means_of_large_ones_to_the_bit():
    seen = {
        size: [seen.frame for _, seen, _ in run_episode(EpisodeConfig(seed=3, episode=1, size=size), num_frames=3)]
        for size in (256, 512)
    }
    for small, large in zip(seen[256], seen[512], strict=True):
        assert large.shape == (512, 512, 3)
        assert np.array_equal(downsample(large, 256, where="test"), small)


@pytest.mark.parametrize("size", [256, 512])
def test_noise_caps_what_a_still_scene_can_score(size):
    with Simulator(EpisodeConfig(seed=2, size=size)) as simulator:
        Policy(simulator).begin()
        frames = [simulator.render() for _ in range(90)]
    assert 34 < np.mean([_psnr(frames[k], frames[k + 60]) for k in range(0, 30, 3)]) < 37
    with pytest.raises(ValueError, match="not 128"):
        Simulator(EpisodeConfig(size=128), render=False)


def test_culling_hides_nothing_that_shows():
    with Simulator(EpisodeConfig(seed=2)) as simulator:
        policy = Policy(simulator)
        policy.begin()
        commands = policy.commands()
        camera = simulator._camera
        for _ in range(6):
            for _ in range(60):
                simulator.step(next(commands), render=False)
            culled = camera.draw(simulator.data).copy()
            drawn = camera._scene.ngeom
            camera._cull = lambda data: simulator.model.geom_group.fill(0)
            whole = camera.draw(simulator.data).copy()
            del camera._cull
            assert drawn < camera._scene.ngeom / 2
            assert np.array_equal(culled, whole)


def test_replay_is_bit_exact_and_other_commands_give_another_future():
    with Simulator(EpisodeConfig(seed=2)) as simulator:
        policy = Policy(simulator)
        policy.begin()
        commands = policy.commands()
        for _ in range(10):
            simulator.step(next(commands), render=False)
        start, first = simulator.snapshot(), simulator.render()
        script = [next(commands).copy() for _ in range(8)]
        seen = [simulator.step(command) for command in script]
        again = replay(simulator, start, script)
        turned = [np.concatenate([command[:24], [0.5]]) for command in script]
        other = replay(simulator, start, turned)
    assert np.array_equal(again.states[1:], np.stack([step.states for step in seen]))
    assert again.frames is not None and other.frames is not None
    assert np.array_equal(again.frames, np.stack([first, *(step.frame for step in seen)]))
    assert np.array_equal(other.frames[0], first)
    assert _psnr(other.frames[-1], again.frames[-1]) < 30
    assert other.states[-1, 24] > again.states[-1, 24] + 0.1


WRONG_COMMANDS = {
    "one command": np.zeros(25),
    "too narrow": np.zeros((3, 24)),
    "not a number": np.full((3, 25), np.nan),
    "infinite": np.full((3, 25), -np.inf),
    "absurd": np.full((3, 25), 1e30),
}


@pytest.mark.parametrize("name", WRONG_COMMANDS)
def test_wrong_commands_are_refused_before_a_step(name):
    with Simulator(EpisodeConfig(seed=2), render=False) as simulator:
        before = simulator.snapshot()
        with pytest.raises(ValueError, match="command"):
            replay(simulator, before, WRONG_COMMANDS[name], render=False)
        assert np.array_equal(simulator.snapshot().physics, before.physics)
    with pytest.raises(ValueError, match="command"):
        branch(EpisodeConfig(seed=2), before, WRONG_COMMANDS[name], render=False)


def test_a_simulation_that_breaks_down_is_no_future(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("foreframe.sim.branch.LARGEST", np.inf)
    with Simulator(EpisodeConfig(seed=2), render=False) as simulator:
        policy = Policy(simulator)
        policy.begin()
        start, commands = simulator.snapshot(), np.tile(policy.command, (3, 1))
        commands[:, 23] = 1e4
        with pytest.raises(ValueError, match=r"cannot follow these commands .*unstable"):
            replay(simulator, start, commands, render=False)
        assert np.array_equal(simulator.snapshot().physics, start.physics)
        commands[:, 23] = 0
        assert np.isfinite(replay(simulator, start, commands, render=False).states).all()
    assert not list(tmp_path.iterdir())  # MuJoCo would leave a log


def test_a_snapshot_of_another_room_is_refused():
    with Simulator(EpisodeConfig(seed=2), render=False) as simulator:
        snapshot = simulator.snapshot()
        with pytest.raises(ValueError, match="in this room"):
            simulator.restore(replace(snapshot, physics=snapshot.physics[:-7]))
        with pytest.raises(ValueError, match="finite"):
            replace(snapshot, physics=np.full_like(snapshot.physics, np.nan))


def test_a_path_stays_clear_of_furniture():
    with Simulator(EpisodeConfig(seed=5), render=False) as simulator:
        room = simulator.room
    behind = [(s.x - 0.25 * np.cos(s.yaw), s.y - 0.25 * np.sin(s.yaw)) for s in room.stations if s.surface]
    assert len(behind) >= 2
    path = np.array(plan_path(room, behind[0], behind[1], 0.36))
    for a, b in pairwise(path):
        for x, y in a + (b - a) * np.linspace(0, 1, 20)[:, None]:
            assert abs(x) < room.half[0] and abs(y) < room.half[1]
            assert not any(o.x0 < x < o.x1 and o.y0 < y < o.y1 for o in room.obstacles)


SMALL = SimulateConfig(episodes=3, seconds=0.7, lead_in=4.0, workers=1, episodes_per_shard=2, seed=4, masks=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A data set of 2 + 1 episodes of 21 frames, made without a break."""
    root = tmp_path_factory.mktemp("sim") / "small"
    simulate(root, SMALL)
    return root


def _contents(root) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_side_files_describe_every_frame(small):
    side = small / "sim"
    settings = json.loads((side / "config.json").read_text())
    records = [json.loads(line) for line in (side / "episodes.jsonl").read_text().splitlines()]
    assert settings["seed"] == 4 and settings["version"] == GENERATOR_VERSION and "workers" not in settings
    assert [(r["segment"], r["shard"], r["first_frame"]) for r in records] == [(0, 0, 0), (1, 0, 21), (2, 1, 0)]
    for shard, rows in ((0, 42), (1, 21)):
        load = {name: np.load(side / f"{name}_{shard}.npy") for name in ("commands", "poses", "fixtures", "labels")}
        here = [record for record in records if record["shard"] == shard]
        widest = {k: max(len(record[f"{k}_names"]) for record in here) for k in ("object", "fixture")}
        assert load["commands"].shape == (rows, 25) and load["commands"].dtype == np.float32
        assert load["poses"].shape == (rows, widest["object"], 7) and load["poses"].dtype == np.float32
        assert load["fixtures"].shape == (rows, widest["fixture"])
        for record in here:
            own = slice(record["first_frame"], record["first_frame"] + 21)
            poses = load["poses"][own, : len(record["object_names"])]
            assert np.allclose(np.linalg.norm(poses[..., 3:], axis=-1), 1, atol=1e-4)
            assert not load["poses"][own, len(record["object_names"]) :].any()
            doing = [name for start, name in record["behaviours"] if start <= 0]
            assert settings["behaviours"][load["labels"][own][0]] == doing[-1]
    assert settings["behaviours"] == list(BEHAVIOURS)
    names = sorted(path.name for path in side.iterdir())
    kinds = ("commands", "fixtures", "labels", "masks", "poses", "snapshots")
    arrays = [
        f"{kind}_{shard}.np{'z' if kind in ('masks', 'snapshots') else 'y'}" for kind in kinds for shard in (0, 1)
    ]
    assert names == sorted([*arrays, "config.json", "episodes.jsonl"])


def test_every_behaviour_in_the_source_has_a_label():
    source = "".join(path.read_text() for path in Path(gl.__file__).parent.glob("*.py"))
    names = set(re.findall(r'(?:\.start\(|_lead\(robot, station, name, )"(\w+)"', source))
    assert names == set(BEHAVIOURS)
    with pytest.raises(AssertionError, match="somersault"):
        Recording().add(np.zeros(25, np.float32), {"behaviours": [(0, "drive"), (3, "somersault")]})


def test_data_set_is_what_the_episodes_give(small):
    for shard in find_layout(small).shards:
        states, segments = shard.open_states(), shard.open_segments()
        for segment in np.unique(segments):
            config = EpisodeConfig(seed=4, episode=int(segment))
            assert np.array_equal(states[segments == segment], _states(config, 21, lead_in=4.0))


def test_fewer_actions_at_a_stop_mean_more_driving():
    """Counted in rows where the base moves, over whole episodes of the same rooms."""

    def share_driving(actions: tuple[int, int]) -> float:
        behaviour = BehaviourConfig(actions_per_stop=actions)
        moving = [
            abs(seen.states[23]) > 0.02
            for episode in range(3)
            for _, seen, _ in run_episode(
                EpisodeConfig(seed=4, episode=episode), num_frames=600, behaviour=behaviour, render=False
            )
        ]
        return float(np.mean(moving))

    assert share_driving((0, 1)) > 2 * share_driving((4, 6))


def test_a_data_set_can_be_of_robots_that_drive(tmp_path):
    simulate(tmp_path / "roam", replace(SMALL, episodes=1, seconds=1, lead_in=0, actions_per_stop=(0, 0), masks=False))
    behaviour = BehaviourConfig(actions_per_stop=(0, 0))
    episode = run_episode(EpisodeConfig(seed=4), num_frames=30, behaviour=behaviour, render=False)
    assert np.array_equal(
        find_layout(tmp_path / "roam").shards[0].open_states(), np.stack([seen.states for _, seen, _ in episode])
    )
    assert json.loads((tmp_path / "roam" / "sim" / "config.json").read_text())["actions_per_stop"] == [0, 0]
    record = json.loads((tmp_path / "roam" / "sim" / "episodes.jsonl").read_text())
    assert {name for _, name in record["behaviours"]} == {"drive"}


def test_branches_from_disk(small):
    states, commands = find_layout(small).shards[0].open_states(), np.load(small / "sim" / "commands_0.npy")
    poses = np.load(small / "sim" / "poses_0.npy")
    config, snapshot = load_snapshot(small, 0, 34)
    assert config == EpisodeConfig(seed=4, episode=1)
    same = branch(config, snapshot, commands[35:])
    assert np.array_equal(same.states, states[34:])
    assert np.array_equal(same.poses, poses[34:, : same.poses.shape[1]])
    episode = run_episode(config, num_frames=21, lead_in=4.0)
    assert same.frames is not None
    assert np.array_equal(same.frames, np.stack([seen.frame for _, seen, _ in episode])[13:])
    lifted = commands[35:].copy()
    lifted[:, 10:14] += 0.6
    other = branch(config, snapshot, lifted)
    assert other.frames is not None
    assert np.array_equal(other.frames[0], same.frames[0])
    assert not np.array_equal(other.states[-1], same.states[-1])
    assert branch(config, snapshot, lifted, render=False).frames is None


def test_snapshots_that_are_not_there(small, tmp_path):
    with pytest.raises(UsageError, match="nearest is that of frame 17"):
        load_snapshot(small, 0, 20)
    with pytest.raises(InputError, match="simulate it again"):
        load_snapshot(tmp_path, 0, 0)


def _rewrite(path: Path, **changes) -> None:
    """Change some of a snapshots file's arrays; None leaves one out."""
    with np.load(path) as file:
        arrays = {**file, **changes}
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})


def _set(path: Path, **changes) -> None:
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))


def _flip(path: Path, start: float) -> None:
    content = bytearray(path.read_bytes())
    begin = int(start * len(content))
    content[begin : begin + 40] = bytes(255 - value for value in content[begin : begin + 40])
    path.write_bytes(content)


FAULTS = {
    "no settings": lambda side: (side / "config.json").unlink(),
    "settings are a list": lambda side: (side / "config.json").write_text("[]"),
    "settings are not text": lambda side: (side / "config.json").write_bytes(b"\xff\xfe"),
    "no seed": lambda side: _set(side / "config.json", seed=None),
    "seed is text": lambda side: _set(side / "config.json", seed="four"),
    "seed is negative": lambda side: _set(side / "config.json", seed=-4),
    "unknown split": lambda side: _set(side / "config.json", split="dev"),
    "unhashable split": lambda side: _set(side / "config.json", split=["val"]),
    "wrong size": lambda side: _set(side / "config.json", size=100),
    "empty file": lambda side: (side / "snapshots_0.npz").write_bytes(b""),
    "cut": lambda side: os.truncate(side / "snapshots_0.npz", 5000),
    "bits turned": lambda side: _flip(side / "snapshots_0.npz", 0.5),
    "header turned": lambda side: _flip(side / "snapshots_0.npz", 0.0),
    "an array missing": lambda side: _rewrite(side / "snapshots_0.npz", noise=None),
    "no moments": lambda side: _rewrite(side / "snapshots_0.npz", frame=np.zeros(0, np.int64)),
    "flat physics": lambda side: _rewrite(side / "snapshots_0.npz", physics=np.zeros(3)),
    "other physics": lambda side: _rewrite(side / "snapshots_0.npz", physics=np.full((3, 9999), np.nan)),
    "short noise": lambda side: _rewrite(side / "snapshots_0.npz", noise=np.zeros((3, 4), np.uint64)),
    "odd noise": lambda side: _rewrite(side / "snapshots_0.npz", noise=np.full((3, 6), 1 << 40, np.uint64)),
    "infinite exposure": lambda side: _rewrite(side / "snapshots_0.npz", exposure=np.full(3, np.inf)),
    "negative size": lambda side: _rewrite(side / "snapshots_0.npz", physics_size=np.full(3, -1)),
    "negative segment": lambda side: _rewrite(side / "snapshots_0.npz", segment=np.full(3, -1)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_snapshots_are_one_line(small, tmp_path, fault):
    shutil.copytree(small / "sim", tmp_path / "sim")
    FAULTS[fault](tmp_path / "sim")
    with pytest.raises(InputError, match=r"holds no readable snapshots of shard 0 .*; simulate it again") as caught:
        load_snapshot(tmp_path, 0, 34)
    assert "\n" not in str(caught.value)


def test_snapshots_of_an_older_generator_are_refused(small, tmp_path):
    shutil.copytree(small / "sim", tmp_path / "sim")
    _set(tmp_path / "sim" / "config.json", version=1)
    with pytest.raises(InputError, match="made by evesim 1"):
        load_snapshot(tmp_path, 0, 34)


def test_masks_show_the_robot_and_what_moves(small):
    with np.load(small / "sim" / "masks_0.npz") as file:
        masks = file["masks"]
    assert masks.shape == (42, 128, 128) and masks.dtype == np.uint8
    assert masks.max() < len(MASK_CLASSES)
    with Simulator(EpisodeConfig(seed=2)) as simulator:
        Policy(simulator).begin()
        mask, frame = simulator.mask(), simulator.render()
        simulator.restore(simulator.snapshot())
        assert np.array_equal(simulator.mask(), mask)
        # Whatever changes in the picture when loose objects are lifted off was, or was shaded by, an object.
        address = simulator._objects
        simulator.data.qpos[address + 2] += 5
        simulator._refresh()
        gone, after = simulator.mask(), simulator.render()
    objects = mask == MASK_CLASSES.index("object")
    assert objects.sum() > 30
    assert (mask == MASK_CLASSES.index("robot")).sum() > 100
    assert not (gone == MASK_CLASSES.index("object")).any()
    change = np.abs(after.astype(int) - frame).mean(2).reshape(128, 2, 128, 2).mean((1, 3))
    assert change[objects].mean() > 4 * change[~objects].mean()


def test_validation_data_is_flat(tmp_path):
    simulate(tmp_path / "val", SimulateConfig(episodes=1, seconds=0.1, lead_in=0, split="val"))
    assert (tmp_path / "val" / "video_0.mp4").is_file()
    assert find_layout(tmp_path / "val").num_images == 3


def test_a_killed_run_goes_on_where_it_was(small, tmp_path):
    script = (
        "import os, signal, sys, pathlib\n"
        "from foreframe.sim import SimulateConfig, simulate\n"
        "def progress(done, total):\n"
        "    if done == 50: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"simulate(pathlib.Path(sys.argv[1]), {SMALL!r}, progress=progress)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], check=False)
    assert killed.returncode == -signal.SIGKILL
    (partial,) = tmp_path.iterdir()
    assert partial.name == ".out.partial"
    before = (partial / "folder" / "videos" / "video_0.mp4").stat().st_mtime_ns
    with pytest.raises(UsageError, match="seed 4, not 5"):
        simulate(tmp_path / "out", replace(SMALL, seed=5))
    seen = []
    simulate(tmp_path / "out", replace(SMALL, workers=2), progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (42, 63) and seen[-1] == (63, 63)
    assert (tmp_path / "out" / "videos" / "video_0.mp4").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert _contents(tmp_path / "out") == _contents(small)


def test_an_early_stop_leaves_nothing_and_the_folder_free_for_other_settings(small, tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for config in (replace(SMALL, workers=2), replace(SMALL, seed=5, split="val", workers=1)):
        with pytest.raises(KeyboardInterrupt):
            simulate(tmp_path / "new" / "out", config, progress=stop)
        assert not list(tmp_path.iterdir())
    simulate(tmp_path / "out", replace(SMALL, workers=2))
    assert _contents(tmp_path / "out") == _contents(small)


def test_a_stop_after_a_whole_shard_keeps_it(tmp_path):
    def stop(done: int, total: int) -> None:
        if done > 3:
            raise KeyboardInterrupt

    config = SimulateConfig(episodes=2, seconds=0.1, lead_in=0, workers=1)
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "out", config, progress=stop)
    (partial,) = tmp_path.iterdir()
    assert [path.name for path in partial.rglob("metadata_*.json")] == ["metadata_0.json"]


LONG_RUN = (
    "import pathlib, signal, sys\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs inherit it ignored
    "from foreframe.sim import SimulateConfig, simulate\n"
    "def progress(done, total):\n"
    "    print('frame', flush=True)\n"
    "if __name__ == '__main__':\n"
    "    config = SimulateConfig(episodes=2, seconds=600, lead_in=0, workers=2)\n"
    "    simulate(pathlib.Path(sys.argv[1]), config, progress=progress)\n"
)


@pytest.fixture
def long_run(tmp_path):
    """A simulation over two processes in a process group of its own, and the folder that it writes to."""
    (tmp_path / "run.py").write_text(LONG_RUN)
    folder = tmp_path / "data"
    folder.mkdir()
    command = [sys.executable, str(tmp_path / "run.py"), str(folder / "out")]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield process, folder
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
@pytest.mark.parametrize("while_rendering", [False, True])
def test_ctrl_c_twice_ends_soon_and_leaves_nothing(long_run, while_rendering):
    process, folder = long_run
    if while_rendering:
        assert process.stdout.readline()
    else:
        while not list(folder.iterdir()):
            time.sleep(0.01)
        time.sleep(0.1)  # the workers are being started
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    # Also waits until the workers, who hold the other end of the pipes, are gone.
    _, said = process.communicate(timeout=10)
    assert process.returncode not in (0, None)
    assert said.decode().count("Traceback") == 1  # the script's own, for it does not catch it
    assert "KeyboardInterrupt" in said.decode()
    assert not list(folder.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_worker_is_one_clear_error(long_run):
    process, folder = long_run
    assert process.stdout.readline()
    children = [
        int(path.name) for path in Path("/proc").iterdir()
        if path.name.isdigit() and b"spawn_main" in _command_line(path)
        and (path / "stat").read_text().rsplit(")", 1)[1].split()[1] == str(process.pid)
    ]  # fmt: skip
    os.kill(children[0], signal.SIGKILL)
    _, said = process.communicate(timeout=10)
    assert "InputError: a worker process was killed" in said.decode()
    assert not list(folder.iterdir())


def _command_line(path: Path) -> bytes:
    try:
        return (path / "cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""


WRONG_SETTINGS = (
    {"episodes": 0}, {"episodes_per_shard": 0}, {"size": 128}, {"split": "dev"}, {"seconds": 0}, {"seconds": np.nan},
    {"seconds": np.inf}, {"lead_in": -1}, {"lead_in": np.nan}, {"lead_in": np.inf}, {"crf": 52}, {"crf": -1},
    {"seed": -1}, {"seed": 1 << 32}, {"workers": -1}, {"actions_per_stop": (-1, 2)}, {"actions_per_stop": (3, 2)},
)  # fmt: skip


@pytest.mark.parametrize("change", WRONG_SETTINGS, ids=str)
def test_wrong_settings_are_usage_errors(change):
    (name,) = change
    with pytest.raises(UsageError, match=f"^{name.replace('_', '-')} must [^\n]*$"):
        SimulateConfig(**change)


def test_no_opengl_is_one_line_that_names_the_packages(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)  # mujoco sets it when it has drawn
    monkeypatch.setattr(gl, "probe", lambda backend: False)
    with pytest.raises(UsageError, match="apt-get install libegl1 libgl1-mesa-dri libopengl0") as caught:
        gl.ensure_gl()
    assert "\n" not in str(caught.value)


def test_a_platform_that_nothing_renders_with_is_named(monkeypatch):
    monkeypatch.setattr(gl, "probe", lambda backend: False)
    monkeypatch.setenv("PYOPENGL_PLATFORM", "nonsense")
    for chosen in ("", "egl"):
        monkeypatch.setenv("MUJOCO_GL", chosen)
        monkeypatch.setenv("FOREFRAME_GL_TRIED", "")
        with pytest.raises(UsageError, match=r"^PYOPENGL_PLATFORM=nonsense: cannot render here; unset it"):
            gl.ensure_gl()


def test_opengl_choice(monkeypatch):
    tried = []

    def probe(backend: str) -> bool:
        tried.append(backend)
        return backend in ("chosen", "osmesa")

    monkeypatch.setattr(gl, "probe", probe)
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)
    monkeypatch.delitem(sys.modules, "mujoco.rendering.classic.gl_context", raising=False)  # else loaded for OSMesa
    monkeypatch.setenv("FOREFRAME_GL_TRIED", "")
    monkeypatch.setenv("MUJOCO_GL", "chosen")
    assert gl.ensure_gl() == gl.ensure_gl() == "chosen"
    assert tried == ["chosen"]
    monkeypatch.setenv("MUJOCO_GL", "")
    assert gl.ensure_gl() == gl.ensure_gl() == "osmesa"
    assert tried == ["chosen", "egl", "osmesa"]
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(UsageError, match=r"^MUJOCO_GL=nonsense: cannot render here; unset it[^\n]*$"):
        gl.ensure_gl()


def test_states_alone_need_no_opengl(monkeypatch):
    def refuse() -> str:
        raise UsageError("no OpenGL")

    monkeypatch.setattr(gl, "ensure_gl", refuse)
    config = EpisodeConfig(seed=2)
    assert len(_states(config, 2)) == 2
    with Simulator(config, render=False) as simulator:
        snapshot = simulator.snapshot()
    assert branch(config, snapshot, np.zeros((1, 25)), render=False).frames is None
    with pytest.raises(UsageError, match="no OpenGL"):
        Simulator(config)


def test_a_value_that_stops_mujocos_import_is_one_line():
    script = "from foreframe.sim.simulator import *; Simulator(EpisodeConfig(), render=False)"
    environment = {**os.environ, "MUJOCO_GL": "nonsense"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "UsageError: MuJoCo cannot be imported (" in done.stderr.splitlines()[-1]


def test_import_is_light():
    script = "import sys, foreframe.sim; sys.exit('mujoco' in sys.modules or 'OpenGL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_simulated_folder_checks_clean(tmp_path):
    from foreframe.data.check import check_folder

    for split in ("train", "val"):
        simulate(tmp_path / split, SimulateConfig(episodes=2, seconds=1.5, split=split, workers=1, seed=8))
    assert check_folder(tmp_path) == []
