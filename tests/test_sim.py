"""The simulator: the same seed gives the same data, everything is measured, and the folder it writes reads back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest

if find_spec("mujoco") is None:  # not importorskip: MuJoCo must be imported after the simulator has chosen its OpenGL
    pytest.skip("needs MuJoCo", allow_module_level=True)

from foreframe.data.layout import find_layout
from foreframe.data.video import downsample
from foreframe.errors import InputError, UsageError
from foreframe.sim import SimulateConfig, gl, simulate
from foreframe.sim.behaviour import Policy
from foreframe.sim.body import JOINTS, LIMITS
from foreframe.sim.branch import branch, load_snapshot, replay
from foreframe.sim.camera import MASK_CLASSES
from foreframe.sim.generate import run_episode
from foreframe.sim.navigation import plan_path
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
    assert settings["seed"] == 4 and settings["version"] == 2 and "workers" not in settings
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
    names = sorted(path.name for path in side.iterdir())
    kinds = ("commands", "fixtures", "labels", "masks", "poses", "snapshots")
    arrays = [
        f"{kind}_{shard}.np{'z' if kind in ('masks', 'snapshots') else 'y'}" for kind in kinds for shard in (0, 1)
    ]
    assert names == sorted([*arrays, "config.json", "episodes.jsonl"])


def test_data_set_is_what_the_episodes_give(small):
    for shard in find_layout(small).shards:
        states, segments = shard.open_states(), shard.open_segments()
        for segment in np.unique(segments):
            config = EpisodeConfig(seed=4, episode=int(segment))
            assert np.array_equal(states[segments == segment], _states(config, 21, lead_in=4.0))


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
    before = (partial / "videos" / "video_0.mp4").stat().st_mtime_ns
    with pytest.raises(UsageError, match="seed 4, not 5"):
        simulate(tmp_path / "out", replace(SMALL, seed=5))
    seen = []
    simulate(tmp_path / "out", replace(SMALL, workers=2), progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (42, 63) and seen[-1] == (63, 63)
    assert (tmp_path / "out" / "videos" / "video_0.mp4").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert _contents(tmp_path / "out") == _contents(small)


def test_an_interrupted_run_is_finished_by_the_same_command_with_other_workers(small, tmp_path):
    def stop(done: int, total: int) -> None:
        if done >= 5:
            raise KeyboardInterrupt

    config = replace(SMALL, workers=2)
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "out", config, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] in ([], [".out.partial"])
    simulate(tmp_path / "out", config)
    assert _contents(tmp_path / "out") == _contents(small)


@pytest.mark.parametrize("change", [{"episodes": 0}, {"size": 128}, {"split": "dev"}, {"seconds": 0}, {"seed": -1}])
def test_wrong_settings_are_usage_errors(change):
    with pytest.raises(UsageError, match="must"):
        SimulateConfig(**change)


def test_no_opengl_is_one_line_that_names_the_packages(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl, "probe", lambda backend: False)
    with pytest.raises(UsageError, match="apt-get install libegl1 libgl1-mesa-dri libopengl0") as caught:
        gl.ensure_gl()
    assert "\n" not in str(caught.value)


def test_opengl_choice(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "chosen")
    assert gl.ensure_gl() == "chosen"
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(gl, "probe", lambda backend: backend == "osmesa")
    assert gl.ensure_gl() == "osmesa"


def test_import_is_light():
    script = "import sys, foreframe.sim; sys.exit('mujoco' in sys.modules or 'OpenGL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_simulated_folder_checks_clean(tmp_path):
    from foreframe.data.check import check_folder

    for split in ("train", "val"):
        simulate(tmp_path / split, SimulateConfig(episodes=2, seconds=1.5, split=split, workers=1, seed=8))
    assert check_folder(tmp_path) == []
