"""Dataset folders: whole or absent, and what is written is what is read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from foreframe.data.folders import atomic_folder
from foreframe.data.integrity import fingerprint
from foreframe.data.layout import TOKEN_BLOCK_FRAMES, find_layout
from foreframe.data.raw import RawDataset
from foreframe.data.tokens import TokenDataset
from foreframe.data.writer import RawShardWriter, write_metadata, write_token_shard
from foreframe.errors import UsageError
from foreframe.files import write_whole


def picture(index: int, size: int = 64) -> np.ndarray:
    """A smooth, moving RGB picture, kind to the codec."""
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(3 * x + index / 9), np.cos(4 * y - index / 7), np.sin(2 * (x + y) + index / 5)]
    return (127 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)


def some_states(num_frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_frames, 25)).astype(np.float32)


def write_raw(root: Path, *, style: str, counts: tuple[int, ...] = (50, 20)) -> None:
    for index, count in enumerate(counts):
        with RawShardWriter(root, index, style=style, size=64, gop=12) as shard:
            for frame, row in enumerate(some_states(count, index)):
                shard.append(picture(frame + 100 * index), row, segment=index + (frame >= 30))
    write_metadata(root, num_shards=len(counts), num_images=sum(counts))


def tree(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def test_raw_folder_reads_back_in_both_styles(tmp_path: Path) -> None:
    for style in ("subfolders", "flat"):
        root = tmp_path / style
        with atomic_folder(root) as partial:
            write_raw(partial, style=style)
        data = RawDataset(root)
        assert (data.layout.kind, data.layout.style, data.layout.hz, data.layout.grid) == ("raw", style, 30, None)
        assert [shard.num_frames for shard in data.layout.shards] == [50, 20]
        for index, count in enumerate((50, 20)):
            assert np.array_equal(data.states(index), some_states(count, index))
            assert np.array_equal(data.segments(index), index + (np.arange(count) >= 30))
            frames = data.frames(index, range(count))
            truth = np.stack([picture(frame + 100 * index) for frame in range(count)])
            error = np.abs(frames.astype(int) - truth).mean(axis=(1, 2, 3))
            assert error.max() < 4
    assert not list(tmp_path.rglob("*.partial*"))


def test_files_are_1x_own_byte_for_byte(tmp_path: Path) -> None:
    write_raw(tmp_path / "train", style="subfolders")
    assert tree(tmp_path / "train") == [
        "metadata",
        "metadata.json",
        "metadata/metadata_0.json",
        "metadata/metadata_1.json",
        "robot_states",
        "robot_states/states_0.bin",
        "robot_states/states_1.bin",
        "segment_indices",
        "segment_indices/segment_idx_0.bin",
        "segment_indices/segment_idx_1.bin",
        "videos",
        "videos/video_0.mp4",
        "videos/video_1.mp4",
    ]
    write_raw(tmp_path / "val", style="flat", counts=(20,))
    names = ["metadata.json", "metadata_0.json", "segment_idx_0.bin", "states_0.bin", "video_0.mp4"]
    assert tree(tmp_path / "val") == names
    metadata = json.loads((tmp_path / "train/metadata.json").read_text())
    assert metadata == {"num_shards": 2, "num_images": 70, "hz": 30, "query": None}
    assert json.loads((tmp_path / "val/metadata_0.json").read_text()) == {"shard_num_frames": 20, "shard_ind": 0}
    assert (tmp_path / "val/states_0.bin").read_bytes() == some_states(20).astype("<f4").tobytes()
    assert (tmp_path / "val/segment_idx_0.bin").read_bytes() == np.zeros(20, "<i4").tobytes()


@pytest.mark.parametrize("size", [64, 96, 128])
def test_same_frames_give_the_same_bytes(tmp_path: Path, size: int) -> None:
    """x264 reads outside small frames in its fastest code; six runs showed it every time."""
    frames = [picture(index, size) for index in range(40)]
    seen = set()
    for run in range(6):
        junk = [np.random.default_rng(run).bytes(n) for n in range(1000, 40000, 1000)]  # other memory each time
        with RawShardWriter(tmp_path / str(run), 0, style="flat", size=size) as shard:
            for frame in frames:
                shard.append(frame, np.zeros(25, np.float32), segment=0)
        seen.add(hashlib.sha256((tmp_path / str(run) / "video_0.mp4").read_bytes()).hexdigest())
        del junk
    assert len(seen) == 1


@pytest.mark.parametrize("num_frames", [17, 51, 60])
def test_token_shard_reads_back(tmp_path: Path, num_frames: int) -> None:
    num_blocks = -(-num_frames // TOKEN_BLOCK_FRAMES)
    tokens = np.random.default_rng(num_frames).integers(0, 64000, (num_blocks, 3, 16, 16))
    states, segments = some_states(num_frames), np.arange(num_frames) // 20 + 7
    for style in ("subfolders", "flat"):
        root = tmp_path / style
        write_token_shard(root, 0, style=style, tokens=tokens, states=states, segments=segments)
        write_metadata(root, num_shards=1, num_images=num_frames, hz=15)
        data = TokenDataset(root)
        assert (data.layout.kind, data.layout.style, data.grid, data.layout.hz) == ("tokens", style, 16, 15)
        assert data.tokens(0).dtype == np.int32
        assert np.array_equal(data.tokens(0), tokens)
        assert np.array_equal(data.states(0), states)
        assert np.array_equal(data.segments(0), segments)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": np.zeros((2, 3, 8, 8), int)}, r"expected \(3, 3, n, n\)"),
        ({"tokens": np.zeros((3, 3, 8, 4), int)}, "expected"),
        ({"tokens": np.zeros((3, 3, 8, 8))}, "integers"),
        ({"tokens": np.full((3, 3, 8, 8), -1)}, "non-negative"),
        ({"tokens": np.full((3, 3, 8, 8), 1 << 31)}, "int32"),
        ({"states": np.zeros((49, 25), np.float32)}, r"expected float32 \(50, 25\)"),
        ({"states": np.zeros((50, 25))}, "float64"),
        ({"states": np.full((50, 25), np.nan, np.float32)}, "not finite"),
        ({"segments": np.arange(50)[::-1]}, "must not decrease: 49 is followed by 48"),
        ({"segments": np.zeros(50)}, "integers"),
        ({"segments": np.zeros(0, int)}, "at least one frame"),
    ],
)
def test_token_shard_refuses(tmp_path: Path, change: dict[str, np.ndarray], said: str) -> None:
    good = {"tokens": np.zeros((3, 3, 8, 8), int), "states": some_states(50), "segments": np.zeros(50, int)}
    with pytest.raises(ValueError, match=said):
        write_token_shard(tmp_path, 0, style="flat", **{**good, **change})
    assert tree(tmp_path) == []


def test_raw_append_refuses(tmp_path: Path) -> None:
    frame, row = picture(0), np.zeros(25, np.float32)
    bad = row.copy()
    bad[3] = np.inf
    with RawShardWriter(tmp_path, 0, style="flat", size=64) as shard:
        shard.append(frame, row, segment=5)
        for wrong in (frame[:32], frame.astype(np.float32), frame[..., :1]):
            with pytest.raises(ValueError, match="expected uint8"):
                shard.append(wrong, row, segment=5)
        for wrong in (row[:24], row[None], row.astype(np.float64)):
            with pytest.raises(ValueError, match="expected float32"):
                shard.append(frame, wrong, segment=5)
        with pytest.raises(ValueError, match="channel 3 is not finite"):
            shard.append(frame, bad, segment=5)
        with pytest.raises(ValueError, match="must not decrease"):
            shard.append(frame, row, segment=4)
        shard.append(frame, row, segment=5)
    write_metadata(tmp_path, num_shards=1, num_images=2)
    assert RawDataset(tmp_path).frames(0, [0, 1]).shape == (2, 64, 64, 3)  # refused frames left no trace


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_raw_shard_leaves_no_file(tmp_path: Path, error: type[BaseException]) -> None:
    for count in (0, 1, 40):
        with pytest.raises(error), RawShardWriter(tmp_path, 0, style="flat", size=64) as shard:
            for frame in range(count):
                shard.append(picture(frame), np.zeros(25, np.float32), segment=0)
            raise error
        assert tree(tmp_path) == []
    with pytest.raises(ValueError, match="no frame"), RawShardWriter(tmp_path, 0, style="flat", size=64):
        pass
    assert tree(tmp_path) == []
    with pytest.raises(ValueError, match="even"):
        RawShardWriter(tmp_path, 0, style="flat", size=63)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_atomic_folder_leaves_nothing_on_failure(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_folder(tmp_path / "a" / "b" / "out") as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "file").write_text("half")
        raise error
    assert tree(tmp_path) == []


def test_atomic_folder_makes_parents_and_fills_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty", target_is_directory=True)
    for out in (tmp_path / "a" / "b" / "out", tmp_path / "link"):
        with atomic_folder(out) as partial:
            assert partial.parent.parent == out.resolve().parent
            (partial / "file").write_text("whole")
        assert (out / "file").read_text() == "whole"
    assert tree(tmp_path) == ["a", "a/b", "a/b/out", "a/b/out/file", "empty", "empty/file", "link"]


def test_atomic_folder_refuses_a_used_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = tree(tmp_path)
    places = {
        tmp_path / "file": "is a file",
        tmp_path / "full": "files in it",
        tmp_path / "file" / "under" / "it": "cannot be made",
        tmp_path / ("n" * 300): "cannot be made",
        Path("/proc/nowhere/out"): "cannot be made",  # read-only even for root
        Path(): "current folder",
    }
    for out, said in places.items():
        with pytest.raises(UsageError, match=said) as caught, atomic_folder(out):
            pytest.fail("must not be entered")
        assert "\n" not in str(caught.value)
        assert str(out.resolve()) in str(caught.value)
    assert tree(tmp_path) == before


def test_atomic_folder_does_not_overwrite_what_appeared_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="meanwhile"), atomic_folder(tmp_path / "out") as partial:
        (partial / "file").write_text("ours")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").write_text("theirs")
    assert tree(tmp_path) == ["out", "out/file"]
    assert (tmp_path / "out" / "file").read_text() == "theirs"


def test_write_whole_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "file", b"old")

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "file", b"new")
    assert tree(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_raw(tmp_path / name, style="flat", counts=(20,))
    first = fingerprint(tmp_path / "a")
    assert len(first) == 64
    assert fingerprint(tmp_path / "b") == first
    (tmp_path / "b" / "notes.txt").write_text("not part of the data")
    assert fingerprint(tmp_path / "b") == first
    for name in ("states_0.bin", "segment_idx_0.bin", "video_0.mp4", "metadata_0.json", "metadata.json"):
        path = tmp_path / "b" / name
        content = path.read_bytes()
        changed = content.replace(b"}", b" }") if name.endswith("json") else content[:-1] + bytes([content[-1] ^ 1])
        path.write_bytes(changed)
        assert fingerprint(tmp_path / "b") != first
        path.write_bytes(content)
    assert find_layout(tmp_path / "b").num_images == 20
