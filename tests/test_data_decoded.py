"""Frames decoded once: the same as decoded anew, made again only if they are not there, never another data's."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from conftest import SIZE, write_raw
from foreframe.cli import run
from foreframe.data.decoded import DecodedDataset
from foreframe.data.raw import RawDataset
from foreframe.errors import InputError, UsageError


def test_frames_are_those_of_the_video(raw_root: Path, tmp_path: Path) -> None:
    root = raw_root / "train"
    plain, decoded = RawDataset(root), DecodedDataset(root, cache=tmp_path, size=SIZE // 2)
    indices = [5, 200, 3, 3, 314]
    assert np.array_equal(decoded.frames(0, indices, size=SIZE // 2), plain.frames(0, indices, size=SIZE // 2))
    assert np.array_equal(decoded.frames(0, indices), plain.frames(0, indices))
    assert np.array_equal(decoded.states(0), plain.states(0))


def test_what_is_there_is_used_and_what_is_missing_made(raw_root: Path, tmp_path: Path) -> None:
    root = raw_root / "val"
    DecodedDataset(root, cache=tmp_path, size=SIZE)
    (path,) = tmp_path.glob("frames-*/shard_0.npy")
    before = path.stat().st_mtime_ns
    DecodedDataset(root, cache=tmp_path, size=SIZE)
    assert path.stat().st_mtime_ns == before
    path.rename(path.with_name(".shard_0.partial"))  # as a kill while it was written leaves it
    again = DecodedDataset(root, cache=tmp_path, size=SIZE)
    assert np.array_equal(again.frames(0, [0, 7], size=SIZE), RawDataset(root).frames(0, [0, 7], size=SIZE))


def test_other_data_has_a_place_of_its_own(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_raw(tmp_path / f"data{seed}", style="flat", segments=[20], seed=seed)
    first, second = (DecodedDataset(tmp_path / f"data{seed}", cache=tmp_path / "cache", size=SIZE) for seed in (1, 2))
    assert len(list((tmp_path / "cache").glob("frames-*"))) == 2
    assert not np.array_equal(first.frames(0, [3], size=SIZE), second.frames(0, [3], size=SIZE))


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    write_raw(tmp_path / "data", style="flat", segments=[20])
    (states,) = (tmp_path / "data").glob("states_*.bin")
    states.write_bytes(states.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"states_0\.bin"):
        DecodedDataset(tmp_path / "data", cache=tmp_path / "cache", size=SIZE)


@pytest.mark.parametrize("damage", ["emptied", "cut", "too long", "other header"])
def test_a_file_of_the_cache_that_is_not_whole_is_made_again(
    raw_root: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = raw_root / "val"
    DecodedDataset(root, cache=tmp_path, size=SIZE)
    (path,) = tmp_path.glob("frames-*/shard_0.npy")
    whole = path.read_bytes()
    assert np.array_equal(np.load(path)[7], RawDataset(root).frames(0, [7], size=SIZE)[0])
    damaged = {"emptied": b"", "cut": whole[:-1], "too long": whole + b"x", "other header": bytes(64) + whole[64:]}
    path.write_bytes(damaged[damage])
    capsys.readouterr()
    again = DecodedDataset(root, cache=tmp_path, size=SIZE)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{path}: is not whole" in said and "made again" in said
    assert path.read_bytes() == whole
    assert np.array_equal(again.frames(0, [0, 7], size=SIZE), RawDataset(root).frames(0, [0, 7], size=SIZE))
    DecodedDataset(root, cache=tmp_path, size=SIZE)
    assert capsys.readouterr().err == ""


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("when", ["reserving", "writing"])
def test_a_full_disk_names_the_file_and_the_room_it_wants(
    raw_root: Path, tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = raw_root / "val"
    DecodedDataset(root, cache=tmp_path, size=SIZE)
    (path,) = tmp_path.glob("frames-*/shard_0.npy")
    size = path.stat().st_size
    path.unlink()
    if when == "reserving":
        monkeypatch.setattr(os, "posix_fallocate", full)
    else:  # where room cannot be reserved, as on macOS, each write may fail
        monkeypatch.delattr(os, "posix_fallocate")
        path.with_name(".shard_0.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: it takes \d+\.\d MB") as caught:
        DecodedDataset(root, cache=tmp_path, size=SIZE)
    assert caught.value.filename == str(path) and caught.value.errno == errno.ENOSPC
    assert f"{size / 1e6:.1f} MB" in str(caught.value)
    assert not list(path.parent.glob("*shard_0*"))  # nothing half-written stays
    command = ["train", "tokenizer_tiny", "--data", str(raw_root), "--out", str(tmp_path / "run")]
    if when == "reserving":
        options = ["--track.size", str(SIZE), "--track.decode-once", "--train.num-steps", "1"]
        assert run([*command, *options]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "shard_0.npy: No space left on device: it takes" in line


def test_no_hole_is_left_to_be_filled(raw_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room is taken before the first frame is decoded, so that no map of the file can fail later."""
    reserved: list[int] = []
    reserve = os.posix_fallocate
    monkeypatch.setattr(os, "posix_fallocate", lambda *place: reserved.append(place[2]) or reserve(*place))
    monkeypatch.setattr(RawDataset, "frames", lambda *_, **__: pytest.fail("decoded first") if not reserved else full())
    with pytest.raises(OSError, match="No space left"):
        DecodedDataset(raw_root / "val", cache=tmp_path, size=SIZE)
    assert reserved and not list(tmp_path.glob("frames-*/*shard*"))


def test_whole_files_are_read_where_nothing_may_be_written(
    raw_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = raw_root / "val"
    DecodedDataset(root, cache=tmp_path, size=SIZE)
    (path,) = tmp_path.glob("frames-*/shard_0.npy")
    np.save(path, np.load(path))  # as any NumPy writes it
    monkeypatch.setattr("foreframe.data.decoded.locked", lambda _: pytest.fail("opens a lock file"))
    again = DecodedDataset(root, cache=tmp_path, size=SIZE)
    assert np.array_equal(again.frames(0, [5], size=SIZE), RawDataset(root).frames(0, [5], size=SIZE))


def test_a_broken_video_leaves_no_part_of_a_file(
    raw_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise InputError("frame 3 cannot be decoded")

    monkeypatch.setattr(RawDataset, "frames", broken)
    with pytest.raises(InputError, match="frame 3"):
        DecodedDataset(raw_root / "val", cache=tmp_path, size=SIZE)
    assert not list(tmp_path.glob("frames-*/*shard*"))


def test_a_cache_that_cannot_be_written_is_refused_before_any_work(
    raw_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UsageError, match=r"cannot be written \(Read-only file system\); decoded frames are kept there"):
        DecodedDataset(raw_root / "train", cache=tmp_path / "cache", size=SIZE)
