"""Finding dataset folders, and what is said when one is not whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from foreframe.data.integrity import fingerprint
from foreframe.data.layout import find_layout, find_split
from foreframe.data.raw import RawDataset
from foreframe.data.tokens import TokenDataset
from foreframe.data.writer import write_metadata, write_token_shard
from foreframe.errors import InputError, UsageError


def write_tokens(root: Path, *, style: str = "flat", counts: tuple[int, ...] = (40, 17)) -> Path:
    for index, count in enumerate(counts):
        write_token_shard(
            root,
            index,
            style=style,
            tokens=np.full((-(-count // 17), 3, 8, 8), index),
            states=np.full((count, 25), index, np.float32),
            segments=np.full(count, index),
        )
    write_metadata(root, num_shards=len(counts), num_images=sum(counts))
    return root


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        find_layout(root)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_folder_aliases_are_accepted_and_the_name_says_nothing(tmp_path: Path) -> None:
    root = write_tokens(tmp_path / "val_v2.0", style="subfolders")
    (root / "robot_states").rename(root / "states")
    (root / "segment_indices").rename(root / "segment_idx")
    layout = find_layout(root)
    assert (layout.style, layout.kind, layout.grid, layout.num_images) == ("subfolders", "tokens", 8, 57)
    assert [(shard.index, shard.num_frames, shard.num_blocks) for shard in layout.shards] == [(0, 40, 3), (1, 17, 1)]
    assert layout.shards[1].states == root / "states" / "states_1.bin"
    assert layout.shards[1].segments == root / "segment_idx" / "segment_idx_1.bin"
    assert TokenDataset(root).states(1)[16, 24] == 1
    flat = write_tokens(tmp_path / "train_v2.0", style="flat")
    assert find_layout(flat).style == "flat"
    (root / "robot_states").mkdir()
    assert "holds both robot_states/ and states/" in refusal(root)


def test_paths_that_are_not_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, said in ((tmp_path / "nowhere", "does not exist"), (tmp_path / "file", "is a file")):
        for look in (find_layout, fingerprint, RawDataset, TokenDataset, lambda root: find_split(root, "train")):
            with pytest.raises(UsageError, match=said) as caught:
                look(path)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)


def test_no_metadata(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith(f"{tmp_path}: is an empty folder")
    write_tokens(tmp_path / "train")
    assert "has no metadata.json, but folders in it have: train" in refusal(tmp_path)
    (tmp_path / "train" / "metadata.json").unlink()
    assert "has no metadata.json; name" in refusal(tmp_path / "train")


@pytest.mark.parametrize("style", ["flat", "subfolders"])
def test_every_missing_or_cut_file_is_named(tmp_path: Path, style: str) -> None:
    whole = write_tokens(tmp_path / "whole", style=style)
    files = [path for path in whole.rglob("*") if path.is_file() and path.name != "metadata.json"]
    assert len(files) == 8
    for file in files:
        root = tmp_path / "broken"
        shutil.copytree(whole, root)
        path = root / file.relative_to(whole)
        content = path.read_bytes()
        path.unlink()
        if file.name == "video_0.bin":  # the other video still says what kind of folder this is
            assert refusal(root).startswith(f"{path}: is missing")
        else:
            assert refusal(root).startswith(f"{path}: is missing though metadata.json counts 2 shards; fetch it")
        for cut in (content[:-1], content + b"\0", b""):
            path.write_bytes(cut)
            if file.suffix == ".json" and cut.endswith(b"}"):
                continue  # only the last line end is gone
            assert refusal(root).startswith(f"{path}: ")
        shutil.rmtree(root)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("metadata.json", {"num_images": 58}, "num_images is 58 but the 2 shards have 57 frames"),
        ("metadata.json", {"num_shards": 3}, "metadata_2.json: is missing though metadata.json counts 3 shards"),
        ("metadata.json", {"num_shards": 0}, "num_shards is 0"),
        ("metadata.json", {"num_shards": "2"}, "num_shards is '2'"),
        ("metadata.json", {"num_shards": True}, "num_shards is True"),
        ("metadata.json", {"hz": None}, "hz is None"),
        ("metadata.json", {"hz": 0}, "hz is 0"),
        ("metadata_1.json", {"shard_ind": 0}, "metadata_1.json: shard_ind is 0, expected 1"),
        ("metadata_1.json", {"shard_num_frames": 18}, "states_1.bin: has 1700 bytes, expected 1800 for 18 frames"),
        ("metadata_1.json", {"shard_num_frames": -1}, "shard_num_frames is -1"),
        ("metadata_1.json", {"shard_num_frames": 17.0}, "shard_num_frames is 17.0"),
    ],
)
def test_metadata_that_disagrees(tmp_path: Path, file: str, changes: dict[str, object], said: str) -> None:
    root = write_tokens(tmp_path / "data")
    edit(root / file, **changes)
    assert said in refusal(root)


def test_metadata_that_is_not_json(tmp_path: Path) -> None:
    for name in ("metadata.json", "metadata_0.json"):
        root = write_tokens(tmp_path / name)
        for content in (b"", b"{", b"[1]", b"\xff\xfe", b"{\n\n  'a': 1\n}"):
            (root / name).write_bytes(content)
            assert refusal(root).startswith(f"{root / name}: ")


def test_token_grids_are_square_and_alike(tmp_path: Path) -> None:
    root = write_tokens(tmp_path / "data")
    content = (root / "video_0.bin").read_bytes()
    (root / "video_0.bin").write_bytes(content[: len(content) // 2])
    assert "video_0.bin: has 1152 bytes, expected 36 times a square" in refusal(root)
    (root / "video_0.bin").write_bytes(content * 4)
    assert "video_1.bin: has 768 bytes, expected 12 times 256" in refusal(root)


def test_two_data_sets_in_one_folder(tmp_path: Path) -> None:
    root = write_tokens(tmp_path / "data")
    (root / "video_0.mp4").write_bytes(b"x")
    assert "more than one way (raw in flat, tokens in flat)" in refusal(root)
    for path in root.glob("video_*"):
        path.unlink()
    assert "no video_0.mp4 or video_0.bin" in refusal(root)


def test_a_folder_of_the_other_kind(tmp_path: Path) -> None:
    root = write_tokens(tmp_path / "tokens")
    with pytest.raises(InputError, match="holds tokens") as caught:
        RawDataset(root)
    assert str(root) in str(caught.value)
    for path in root.glob("video_*.bin"):
        path.rename(path.with_suffix(".mp4"))
    with pytest.raises(InputError, match="holds raw video"):
        TokenDataset(root)


def test_vocabulary(tmp_path: Path) -> None:
    data = TokenDataset(write_tokens(tmp_path / "data"))
    data.check(2)
    with pytest.raises(InputError, match=r"video_1\.bin: block 0 holds token 1, outside 0\.\.0"):
        data.check(1)


def test_find_split_by_name(tmp_path: Path) -> None:
    for train, val in (("train", "val"), ("train_v2.0", "val_v2.0"), ("train_v2.0_raw", "val_v2.0_raw")):
        root = tmp_path / train
        write_tokens(root / train)
        write_tokens(root / val)
        (root / "training").mkdir()
        (root / "train_logs").mkdir()
        (root / "val.txt").write_text("")
        assert find_split(root, "train") == root / train
        assert find_split(root, "val") == root / val
        assert find_split(root, "test") is None
        (root / "test_v2.0").mkdir()
        assert find_split(root, "test") == root / "test_v2.0"
        for split in ("train", "val", "test"):  # a data set itself is what was asked for
            assert find_split(root / train, split) == root / train


def test_find_split_among_several(tmp_path: Path) -> None:
    write_tokens(tmp_path / "train_v2.0", style="subfolders")
    raw = write_tokens(tmp_path / "train_v2.0_raw", style="subfolders")
    for path in raw.glob("videos/*.bin"):
        path.rename(path.with_suffix(".mp4"))
    with pytest.raises(InputError, match=r"more than one train folder \(train_v2\.0, train_v2\.0_raw\)"):
        find_split(tmp_path, "train")
    assert find_split(tmp_path, "train", kind="tokens") == tmp_path / "train_v2.0"
    assert find_split(tmp_path, "train", kind="raw") == raw
    write_tokens(tmp_path / "train")
    with pytest.raises(InputError, match=r"more than one train folder \(train, train_v2\.0\)"):
        find_split(tmp_path, "train", kind="tokens")
