"""Other people's folders: whatever reads them says the same of another type, order, robot, rate, number or name."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import foreframe
from conftest import write_raw
from foreframe.cli import run
from foreframe.data.check import CheckConfig, check_folder
from foreframe.data.clips import TokenClips, VideoClips
from foreframe.data.describe import describe
from foreframe.data.encoding import ENCODING_VERSION, sealed
from foreframe.data.hints import axes_hint
from foreframe.data.integrity import fingerprint
from foreframe.data.latents import LatentClips
from foreframe.data.layout import find_layout, find_split
from foreframe.data.raw import RawDataset
from foreframe.data.tokens import TokenDataset
from foreframe.data.writer import write_metadata, write_token_shard
from foreframe.errors import InputError, UsageError
from foreframe.recipes import RECIPES
from foreframe.runs import export_run
from foreframe.tracks.table import build_track

SAMPLE = Path(foreframe.__file__).parent / "sample"
FOLDERS = ("videos", "robot_states", "segment_indices", "metadata")
GRID = 16
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "a" + "\nsize 123456\n"


def some_tokens(blocks: int, seed: int) -> np.ndarray:
    """Blocks as of a picture that changes slowly: from grid to grid by little, from cell to cell by much."""
    rng = np.random.default_rng(seed)
    first = rng.integers(100, 3900, (blocks, 1, GRID, GRID))
    return np.concatenate([first + rng.integers(-1000, 1000, first.shape), first, first + rng.integers(0, 9)], 1) % 4000


def write_tokens(root: Path, counts: tuple[int, ...] = (102, 85)) -> Path:
    """Tokens in 1X's style with sub-folders; recordings 0, 1, 2, 3, two to a shard."""
    for index, count in enumerate(counts):
        walk = np.random.default_rng(index).normal(size=(count, 25)).cumsum(0) * 0.01
        write_token_shard(
            root,
            index,
            style="subfolders",
            tokens=some_tokens(-(-count // 17), index),
            states=np.tanh(walk).astype(np.float32),
            segments=2 * index + (np.arange(count) >= count // 2),
        )
    write_metadata(root, num_shards=len(counts), num_images=sum(counts))
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("whole")
    write_raw(root / "raw", style="subfolders", segments=[40, 44])
    return {"raw": root / "raw", "tokens": write_tokens(root / "tokens")}


@pytest.fixture
def copies(whole: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Folders to break, by kind."""
    return {kind: Path(shutil.copytree(root, tmp_path / kind)) for kind, root in whole.items()}


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def read(root: Path, kind: str) -> None:
    """What every training and encoding does first."""
    if kind == "raw":
        RawDataset(root).check()
    else:
        TokenDataset(root).check(4000)


def told(root: Path, kind: str) -> list[str]:
    """What `info`, whatever trains or encodes, and `check` say of a folder: one line each."""
    lines: list[str] = []
    for look in (describe, lambda folder: read(folder, kind)):
        with pytest.raises(InputError) as caught:
            look(root)
        lines.append(str(caught.value))
    findings = check_folder(root, CheckConfig(decode=False, vocab_size=4000))
    lines.append(" / ".join(f"{one.file} {one.message}" for one in findings))
    assert all("\n" not in line for line in lines)
    assert all(len(line) < 320 + len(str(root)) for line in lines[:2]), lines
    return lines


def rewrite(folder: str, before: str, after: str) -> Callable[[Path], None]:
    """Every file of a sub-folder in another number type."""

    def do(root: Path) -> None:
        for path in (root / folder).iterdir():
            np.fromfile(path, before).astype(after).tofile(path)

    return do


def reorder(*axes: int) -> Callable[[Path], None]:
    def do(root: Path) -> None:
        for path in (root / "videos").iterdir():
            tokens = np.fromfile(path, "<i4").reshape(-1, 3, GRID, GRID)
            np.ascontiguousarray(tokens.transpose(axes)).tofile(path)

    return do


def cut_incomplete_block(root: Path) -> None:
    edit(root / "metadata.json", num_images=187 - 5)
    edit(root / "metadata/metadata_0.json", shard_num_frames=97)
    for name, each in (("robot_states/states_0.bin", 100), ("segment_indices/segment_idx_0.bin", 4)):
        os.truncate(root / name, 97 * each)
    os.truncate(root / "videos/video_0.bin", 5 * 3 * GRID * GRID * 4)


def a_grid_for_each_frame(root: Path) -> None:
    (root / "videos/video_0.bin").write_bytes(np.arange(102 * GRID * GRID, dtype="<i4").tobytes())


@pytest.mark.parametrize(
    ("do", "said"),
    [
        (rewrite("robot_states", "<f4", "<f8"), "float64 instead of float32? write it as little-endian float32"),
        (rewrite("robot_states", "<f4", ">f8"), "big-endian float64 instead of float32?"),
        (rewrite("robot_states", "<f4", "<f2"), "float16 instead of float32?"),
        (rewrite("robot_states", "<f4", ">f4"), "holds big-endian numbers"),
        (rewrite("segment_indices", "<i4", "<i8"), "int64 instead of int32? write it as little-endian int32"),
        (rewrite("segment_indices", "<i4", ">i8"), "big-endian int64 instead of int32?"),
        (rewrite("segment_indices", "<i4", "<f8"), "float64 instead of int32?"),
        (rewrite("segment_indices", "<i4", "<i2"), "int16 instead of int32?"),
        (rewrite("segment_indices", "<i4", "u1"), "uint8 instead of int32?"),
        (rewrite("segment_indices", "<i4", "<f4"), "holds float32 numbers instead of int32"),
        (rewrite("segment_indices", "<i4", ">i4"), "holds big-endian numbers"),
        (rewrite("videos", "<i4", "<i8"), "int64 instead of int32?"),
        (rewrite("videos", "<i4", ">i8"), "big-endian int64 instead of int32?"),
        (rewrite("videos", "<i4", "<u2"), "uint16 instead of int32?"),
        (rewrite("videos", "<i4", "<f4"), "holds float32 numbers instead of int32"),
        (rewrite("videos", "<i4", ">i4"), "holds big-endian numbers"),
        (reorder(0, 2, 3, 1), "holds tokens as (blocks, 16, 16, 3) by their values"),
        (reorder(0, 2, 1, 3), "holds tokens as (blocks, 16, 3, 16) by their values"),
        (cut_incomplete_block, "5 blocks of 3 grids of 16x16: the last, incomplete block of 97 frames is missing"),
        (a_grid_for_each_frame, "a grid of 16x16 for each frame?"),
    ],
)
def test_types_and_orders_are_told_wherever_a_folder_is_read(
    copies: dict[str, Path], do: Callable[[Path], None], said: str
) -> None:
    root = copies["tokens"]
    do(root)
    lines = told(root, "tokens")
    assert all(said in line for line in lines), lines
    assert all(line.startswith(str(root)) and ".bin: " in line for line in lines[:2])


def test_states_of_raw_folders_are_told_as_well(copies: dict[str, Path]) -> None:
    root = copies["raw"]
    rewrite("robot_states", "<f4", ">f4")(root)
    assert all("states_0.bin" in line and "holds big-endian numbers" in line for line in told(root, "raw"))


def test_whole_tokens_are_in_order(whole: dict[str, Path], tmp_path: Path) -> None:
    """Nothing is told of tokens that are right, nor of ones that tell nothing."""
    read(whole["tokens"], "tokens")
    assert check_folder(whole["tokens"], CheckConfig(vocab_size=4000)) == []
    rng = np.random.default_rng(0)
    for side in (9, 12, 15, 16, 32):  # with sides that three divides, every third pair crosses the end of a row
        ramp = np.arange(side * side).reshape(1, 1, side, side) * 7 + rng.integers(0, 5, (30, 3, side, side))
        for tokens in (ramp, rng.integers(0, 64000, ramp.shape), np.zeros(ramp.shape, int)):
            assert axes_hint(tokens.astype(np.int32)) is None


@pytest.mark.parametrize("channels", [7, 14, 32, 50])
@pytest.mark.parametrize("kind", ["raw", "tokens"])
def test_another_robots_folder_is_called_that(copies: dict[str, Path], kind: str, channels: int) -> None:
    root = copies[kind]
    for path in (root / "robot_states").iterdir():
        rows = path.stat().st_size // 100
        walk = np.random.default_rng(0).normal(size=(rows, channels)).cumsum(0) * 0.01
        np.tanh(walk).astype("<f4").tofile(path)
    lines = told(root, kind)
    said = f"it holds {channels} channels a row, this build reads EVE's 25: another robot's data cannot be used yet"
    assert all(said in line and "fetch" not in line for line in lines), lines


def test_another_robots_folder_in_float64(copies: dict[str, Path]) -> None:
    walk = np.random.default_rng(0).normal(size=(102, 14)).cumsum(0) * 0.01
    np.tanh(walk).astype("<f8").tofile(copies["tokens"] / "robot_states/states_0.bin")
    assert all("it holds 14 channels a row" in line for line in told(copies["tokens"], "tokens"))


def test_rows_lost_are_not_another_robot(copies: dict[str, Path]) -> None:
    """Half of 100 frames' rows are as many bytes as 10 channels of 125; the values tell."""
    root = write_tokens(copies["tokens"].parent / "even", (100,))
    states = root / "robot_states/states_0.bin"
    os.truncate(states, 40 * 100)  # 10 channels of 100 rows, by size
    for line in told(root, "tokens"):
        assert "fetch the file again" in line and "it holds" not in line
    # By size alone both are possible: rows of 10 channels change least from one to the next where they are 10.
    walk = np.random.default_rng(0).normal(size=(100, 10)).cumsum(0) * 0.01
    np.tanh(walk).astype("<f4").tofile(states)
    assert all("it holds 10 channels a row" in line for line in told(root, "tokens"))


# -- rates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["compression_tiny", "tokenizer_tiny", "autoencoder_tiny"])
def test_no_track_opens_data_of_another_rate(tmp_path: Path, recipe: str) -> None:
    root = Path(shutil.copytree(SAMPLE / "val", tmp_path / "val"))
    edit(root / "metadata.json", hz=10)
    track = build_track(RECIPES[recipe]().track)
    for with_video in (False, True):
        with pytest.raises(InputError, match=r"metadata\.json: hz is 10, but the models' clips are of 30 frames"):
            track.open(root, cache=tmp_path / "cache", with_video=with_video)
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_decoding_once_refuses_another_rate_before_any_work(copies: dict[str, Path], tmp_path: Path) -> None:
    config = RECIPES["tokenizer_tiny"]()
    edit(copies["raw"] / "metadata.json", hz=10)
    track = build_track(replace(config.track, decode_once=True))
    with pytest.raises(InputError, match="hz is 10"):
        track.open(copies["raw"], cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("hz", [10, 15, 29, 31, 60, 29.97, 30, 30.0])
def test_only_thirty_frames_a_second_make_clips(copies: dict[str, Path], hz: float) -> None:
    for root in copies.values():
        edit(root / "metadata.json", hz=hz)
    makes = (
        lambda: VideoClips(RawDataset(copies["raw"]), [], frame_offsets=range(17)),
        lambda: TokenClips(TokenDataset(copies["tokens"]), []),
    )
    for make in makes:
        if abs(hz - 30) < 0.1:
            make()
            continue
        with pytest.raises(InputError, match=f"hz is {hz}, but the models' clips are of 30 frames a second"):
            make()
    assert describe(copies["raw"])["hz"] == hz
    findings = check_folder(copies["raw"], CheckConfig(decode=False))
    assert ("video-rate" in {one.kind for one in findings}) == (abs(hz - 30) >= 0.1)


def test_latents_of_another_rate_are_refused(tmp_path: Path) -> None:
    """Latents that an earlier build made of such data."""
    facts = {
        "version": ENCODING_VERSION,
        "kind": "latents",
        "source_fingerprint": "0",
        "weights_sha256": "0",
        "frame_size": 32,
        "simulated": False,
        "skipped": {},
        "frame_indices": [0, 4],
        "clip_stride": 8,
        "dtype": "float32",
        "latent_shape": [1, 1, 1, 1],
        "num_states": 1,
        "clips": {},
        "files": {},
        "legacy_segment_check": False,
    }
    (tmp_path / "encoding.json").write_bytes(sealed(facts))
    write_metadata(tmp_path, num_shards=1, num_images=100)
    assert len(LatentClips(tmp_path, expected={})) == 0
    edit(tmp_path / "metadata.json", hz=10)
    with pytest.raises(InputError, match="hz is 10"):
        LatentClips(tmp_path, expected={})


@pytest.mark.parametrize("hz", [None, "30", [30], 0, -30, True, 1e5])
def test_odd_rates_are_named(copies: dict[str, Path], hz: object) -> None:
    edit(copies["raw"] / "metadata.json", hz=hz)
    assert all("hz" in line and repr(hz) in line for line in told(copies["raw"], "raw")[:2])


# -- numbers and names -----------------------------------------------------------------------------------------------


def renumber(root: Path, number: Callable[[int], str]) -> None:
    for folder in FOLDERS:
        for path in sorted((root / folder).iterdir(), reverse=True):
            stem, _, old = path.stem.rpartition("_")
            new = number(int(old))
            path = path.rename(path.with_name(f"{stem}_{new}{path.suffix}"))
            if folder == "metadata":
                edit(path, shard_ind=int(new))


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (lambda n: str(n + 1), "shards are numbered 1 to 2, wanted is 0 to 1; make shard 1 ("),
        (lambda n: str(n + 100), "shards are numbered 100 to 101, wanted is 0 to 1; make shard 100 ("),
        (lambda n: str(2 * n), "shards are numbered 0 to 2, with gaps, wanted is 0 to 1; make shard 2 ("),
        (lambda n: f"{n:02}", "metadata_00.json"),
        (lambda n: f"{n + 1:06}", "metadata_000001.json"),
    ],
)
def test_shards_that_are_numbered_otherwise(copies: dict[str, Path], number: Callable[[int], str], said: str) -> None:
    renumber(copies["tokens"], number)
    lines = told(copies["tokens"], "tokens")
    assert all(said in line for line in lines), lines
    assert all(", rename it" in line or "make shard" in line for line in lines), lines
    with pytest.raises(InputError):
        find_layout(copies["tokens"], on_bad_shard="skip")


def test_files_of_one_kind_that_are_numbered_otherwise(copies: dict[str, Path]) -> None:
    for number in (1, 0):
        (copies["tokens"] / f"videos/video_{number}.bin").rename(copies["tokens"] / f"videos/video_{number + 1}.bin")
    assert all("shards are numbered 1 to 2" in line for line in told(copies["tokens"], "tokens"))


def test_names_in_a_flat_folder(tmp_path: Path) -> None:
    """A file is never taken for one of another role."""
    root = tmp_path / "flat"
    for index in range(2):
        write_token_shard(
            root,
            index,
            style="flat",
            tokens=some_tokens(2, index),
            states=np.zeros((34, 25), np.float32),
            segments=np.full(34, index),
        )
    write_metadata(root, num_shards=2, num_images=68)
    for path in list(root.glob("*_?.*")):
        stem, _, number = path.stem.rpartition("_")
        path.rename(path.with_name(f"{stem}_00{number}{path.suffix}"))
    findings = {one.file: one.message for one in check_folder(root, CheckConfig(vocab_size=4000))}
    for stem, ending in (("video", "bin"), ("states", "bin"), ("metadata", "json"), ("segment_idx", "bin")):
        said = rf"{stem}_0\.{ending}: is missing, but {stem}_000\.{ending} lies there; if that is it, rename it"
        with pytest.raises(InputError, match=said):
            find_layout(root)
        for number in range(2):
            wanted = f"{stem}_{number}.{ending}"
            assert f"if it is {wanted}, rename it" in findings[f"{stem}_00{number}.{ending}"]
            (root / f"{stem}_00{number}.{ending}").rename(root / wanted)
    assert len(find_layout(root).shards) == 2


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_of_other_names(copies: dict[str, Path], folder: str) -> None:
    root = copies["raw"]
    (path,) = (root / folder).iterdir()
    path.rename(path.with_name(f"Take-0{path.suffix}"))
    lines = told(root, "raw")
    assert all(f"Take-0{path.suffix}" in line and "rename it" in line for line in lines), lines


def test_folders_of_other_names(copies: dict[str, Path]) -> None:
    (copies["raw"] / "videos").rename(copies["raw"] / "video")
    with pytest.raises(InputError, match=r"but video/video_0\.mp4; if that is videos/video_0\.mp4, rename it"):
        find_layout(copies["raw"])
    (copies["tokens"] / "robot_states").rename(copies["tokens"] / "joints")
    with pytest.raises(InputError, match="but joints/ holds such files: rename it to robot_states"):
        find_layout(copies["tokens"])


@pytest.mark.parametrize("folders", [FOLDERS, FOLDERS[:1], FOLDERS[3:]])
def test_files_that_metadata_does_not_count(copies: dict[str, Path], folders: tuple[str, ...]) -> None:
    root = copies["tokens"]
    for folder in folders:
        (path,) = (root / folder).glob("*_1.*")
        shutil.copy(path, str(path).replace("_1.", "_2."))
    lines = told(root, "tokens")
    assert all("metadata.json: counts 2 shards, but there are files of shard 2" in line for line in lines[:2])
    assert "belongs to shard 2, but metadata.json counts 2" in lines[2]
    layout = find_layout(root, on_bad_shard="skip")
    assert [shard.index for shard in layout.shards] == [0, 1]
    assert "counts 2 shards, but there are files of shard 2" in layout.skipped[2]


def test_what_macos_leaves_is_not_seen(copies: dict[str, Path]) -> None:
    for kind, root in copies.items():
        before = fingerprint(root)
        for path in list(root.rglob("*")):
            if path.is_file():
                path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
        for folder in (root, *(root / name for name in FOLDERS)):
            (folder / ".DS_Store").write_bytes(b"x")
        read(root, kind)
        assert fingerprint(root) == before
        assert check_folder(root, CheckConfig(decode=False, vocab_size=4000)) == []
    empty = copies["raw"].parent / "empty"
    empty.mkdir()
    (empty / ".DS_Store").write_bytes(b"x")
    with pytest.raises(InputError, match="is an empty folder"):
        find_layout(empty)


# -- what is no file, or not the file --------------------------------------------------------------------------------

FILES = [
    ("raw", "metadata.json"),
    ("raw", "metadata/metadata_0.json"),
    ("raw", "videos/video_0.mp4"),
    ("raw", "robot_states/states_0.bin"),
    ("raw", "segment_indices/segment_idx_0.bin"),
    ("tokens", "videos/video_1.bin"),
]


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_git_lfs_pointers_are_called_that(copies: dict[str, Path], kind: str, name: str) -> None:
    (copies[kind] / name).write_text(POINTER)
    said = "is a Git LFS pointer, not the file it stands for; run `git lfs pull`"
    lines = told(copies[kind], kind)
    assert all(name in line and said in line for line in lines), lines


@pytest.mark.parametrize(
    "name", ["robot_states/states_0.bin", "segment_indices/segment_idx_1.bin", "videos/video_0.bin"]
)
def test_numpy_files_are_called_that(copies: dict[str, Path], name: str) -> None:
    path = copies["tokens"] / name
    with path.open("r+b") as file:
        np.save(file, np.zeros(7, np.float32))
    said = "is a NumPy file, numbers behind a header; write the numbers alone"
    lines = told(copies["tokens"], "tokens")
    assert all(name in line and said in line for line in lines), lines


def test_a_file_of_another_form_is_named(copies: dict[str, Path]) -> None:
    states = copies["tokens"] / "robot_states/states_0.bin"
    states.rename(states.with_suffix(".npy"))
    with pytest.raises(InputError, match=r"states_0\.bin: is missing, but states_0\.npy lies there; fetch"):
        describe(copies["tokens"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("meta/info.json", "is a LeRobot data set, which cannot be read yet"),
        ("METADATA.JSON", "has no metadata.json, but METADATA.JSON; rename it"),
        ("train_v2.0.zip", "has no metadata.json, but train_v2.0.zip; unpack it there"),
    ],
)
def test_what_is_no_dataset_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    exported = tmp_path / "exported"
    export_run(Path("tokenizer_tiny"), exported)
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    for command in (
        ["data", "info"],
        ["data", "sheet"],
        ["data", "encode", "--out", str(tmp_path / "encoded")],
        ["train", "tokenizer_tiny", "--out", str(tmp_path / "run"), "--data"],
        ["evaluate", str(exported), "--data"],
    ):
        assert run([*command, str(tmp_path / "data")]) == 1
        assert said in capsys.readouterr().err
    assert run(["data", "check", str(tmp_path / "data")]) == 1
    assert said in capsys.readouterr().out


def test_names_of_files_do_not_steer_the_terminal(copies: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    video = copies["raw"] / "videos/video_0.mp4"
    video.rename(video.with_name("\x1b[31m\nvideo_0.mp4"))
    assert run(["data", "info", str(copies["raw"])]) == 1
    error = capsys.readouterr().err
    assert "\x1b" not in error and "\\x1b[31m" in error
    assert run(["data", "check", str(copies["raw"])]) == 1
    output = capsys.readouterr().out
    assert "\x1b" not in output and "videos/\\x1b[31m\\nvideo_0.mp4: is not part" in output


@pytest.mark.parametrize(("kind", "name"), FILES)
@pytest.mark.parametrize("what", ["pipe", "folder"])
def test_what_is_no_file_is_never_opened(copies: dict[str, Path], kind: str, name: str, what: str) -> None:
    """Opening a pipe would wait for ever."""
    path = copies[kind] / name
    path.unlink()
    os.mkfifo(path) if what == "pipe" else path.mkdir()
    lines = told(copies[kind], kind)
    assert all(name in line and f"is a {what}" in line for line in lines), lines
    with pytest.raises(InputError, match=f"is a {what}"):
        fingerprint(copies[kind])


def test_a_pipe_in_place_of_a_folder(copies: dict[str, Path]) -> None:
    shutil.rmtree(copies["raw"] / "videos")
    os.mkfifo(copies["raw"] / "videos")
    assert all("videos" in line for line in told(copies["raw"], "raw"))


@pytest.mark.parametrize("name", ["metadata.json", "metadata/metadata_0.json"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 10_000 + "]" * 10_000, "nested deeper than 64"),
        ('{"a":' * 10_000 + "1" + "}" * 10_000, "nested deeper than 64"),
        (f'{{"num_shards": 1{"0" * 400}, "shard_ind": 0}}', "a number of 401 digits"),
        ('{"num_shards": [], "shard_ind": {}}', "expected a whole number"),
        ("[1]", "is not a JSON object"),
    ],
)
def test_json_beyond_all_bounds(copies: dict[str, Path], name: str, text: str, said: str) -> None:
    (copies["raw"] / name).write_text(text)
    lines = told(copies["raw"], "raw")
    assert all(name in line for line in lines)
    assert all(said in line for line in lines[:2]), lines


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("metadata.json", "num_shards", 10**9),
        ("metadata.json", "num_images", 10**12),
        ("metadata/metadata_0.json", "shard_num_frames", 10**12),
        ("metadata/metadata_0.json", "shard_num_frames", 10**30),
        ("metadata/metadata_0.json", "shard_ind", 10**12),
    ],
)
@pytest.mark.parametrize("kind", ["raw", "tokens"])
def test_huge_counts_are_answered_at_once(
    copies: dict[str, Path], kind: str, name: str, field: str, value: int
) -> None:
    edit(copies[kind] / name, **{field: value})
    assert all(str(value) in line for line in told(copies[kind], kind))


def test_values_that_fill_pages_are_cut(copies: dict[str, Path]) -> None:
    edit(copies["raw"] / "metadata.json", hz="x" * 100_000)
    told(copies["raw"], "raw")
    edit(copies["raw"] / "metadata.json", num_shards=["x"] * 10_000)
    told(copies["raw"], "raw")


# -- permission ------------------------------------------------------------------------------------------------------


def forbid(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Let a folder be one that cannot be listed, or a file one that cannot be looked at: root may look everywhere."""
    iterdir, look = Path.iterdir, Path.stat
    scandir = os.scandir

    def refuse(path: object) -> None:
        if Path(str(path)) == place:
            raise PermissionError(13, "Permission denied", str(path))

    def no_iterdir(self: Path) -> object:
        refuse(self)
        return iterdir(self)

    def no_stat(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        facts = look(self, follow_symlinks=follow_symlinks)
        if not stat.S_ISDIR(facts.st_mode):
            refuse(self)
        return facts

    def no_scandir(path: object = ".") -> object:
        refuse(path)
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "iterdir", no_iterdir)
    monkeypatch.setattr(Path, "stat", no_stat)
    monkeypatch.setattr(os, "scandir", no_scandir)


@pytest.mark.parametrize("name", [*FOLDERS, "metadata.json", "videos/video_0.bin", "robot_states/states_0.bin"])
def test_permission_is_called_permission(copies: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    root = copies["tokens"]
    forbid(monkeypatch, root / name)
    lines = told(root, "tokens")
    assert all(name in line and "Permission denied" in line for line in lines), lines
    assert not any("missing" in line for line in lines[:2])


def test_a_folder_that_may_not_be_looked_into_is_refused_before_any_work(
    copies: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copies["raw"]
    forbid(monkeypatch, root)
    for look in (find_layout, describe, lambda folder: find_split(folder, "train"), fingerprint):
        with pytest.raises(UsageError, match="Permission denied"):
            look(root)
    assert run(["data", "info", str(root)]) == 2
    assert "cannot be looked into (Permission denied); mend its permissions" in capsys.readouterr().err
