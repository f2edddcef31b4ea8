"""The six layouts of 1X v2.0 data, written and read back; test splits in both physical forms; broken shards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from conftest import write_raw
from foreframe.batch import ClipId, to_frames
from foreframe.data.clips import (
    TokenClips,
    TokenSamples,
    VideoClips,
    VideoSamples,
    clip_ids,
    sample_ids,
    token_pair_ids,
)
from foreframe.data.describe import describe
from foreframe.data.layout import find_layout, find_split
from foreframe.data.raw import RawDataset
from foreframe.data.tokens import TokenDataset
from foreframe.data.video import iterate_frames
from foreframe.data.writer import (
    RawShardWriter,
    write_metadata,
    write_raw_samples,
    write_token_samples,
    write_token_shard,
)
from foreframe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

GENERATOR = np.random.default_rng(0)
STYLES = {"train": "subfolders", "val": "flat"}


def rows(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=(*shape, 25)).astype(np.float32)


def pictures(count: int, *, side: int = 32) -> np.ndarray:
    """Frames that differ from each other and survive compression: a bright square on its way."""
    frames = np.full((count, side, side, 3), 40, np.uint8)
    for index, frame in enumerate(frames):
        left = index % (side - 8)
        frame[8:16, left : left + 8] = 200
    return frames


def write_test_tokens(root: Path, *, one_shard: bool, samples: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """A tokenised test split, all samples in one shard or a shard for each; without `metadata.json`."""
    tokens, states = GENERATOR.integers(0, 64000, (samples, 3, 4, 4)), rows(samples, 64)
    cuts = [slice(None)] if one_shard else [slice(k, k + 1) for k in range(samples)]
    for index, cut in enumerate(cuts):
        write_token_samples(root, index, style="flat", tokens=tokens[cut], states=states[cut])
    return tokens, states


@pytest.mark.parametrize("split", ["train", "val"])
def test_raw_recordings(tmp_path: Path, split: str) -> None:
    frames, states = pictures(100), rows(100)
    with RawShardWriter(tmp_path, 0, style=STYLES[split], size=32) as writer:
        for index in range(100):
            writer.append(frames[index], states[index], segment=index // 90)
    write_metadata(tmp_path, num_shards=1, num_images=100)
    data = RawDataset(tmp_path)
    assert (data.layout.kind, data.layout.style, data.layout.contents) == ("raw", STYLES[split], "recordings")
    assert np.array_equal(data.states(0), states)
    assert np.array_equal(data.segments(0), np.arange(100) // 90)
    decoded = np.stack(list(iterate_frames(data.layout.shards[0].video)))
    clips = VideoClips(data, clip_ids(data.all_segments(), stride=8), frame_offsets=range(77))
    assert [clip.start for clip in clips.clips] == [0, 8]
    item = clips[1]
    assert item.video is not None
    assert np.array_equal(to_frames(item.video)[0].numpy(), decoded[8:85])
    assert np.abs(decoded.astype(int) - frames).mean() < 4


@pytest.mark.parametrize("split", ["train", "val"])
def test_token_recordings(tmp_path: Path, split: str) -> None:
    tokens, states = GENERATOR.integers(0, 64000, (6, 3, 4, 4)), rows(100)
    segments = np.arange(100) // 90
    write_token_shard(tmp_path, 0, style=STYLES[split], tokens=tokens, states=states, segments=segments)
    write_metadata(tmp_path, num_shards=1, num_images=100)
    data = TokenDataset(tmp_path)
    assert (data.layout.kind, data.layout.style, data.layout.contents) == ("tokens", STYLES[split], "recordings")
    assert np.array_equal(data.tokens(0), tokens)
    assert np.array_equal(data.states(0), states)
    clips = TokenClips(data, token_pair_ids(data.all_segments(), stride_blocks=1))
    # Five blocks are whole and inside recording 0: the sixth stands for 15 frames and straddles two recordings.
    assert [clip.start for clip in clips.clips] == [0, 17, 34, 51]


@pytest.mark.parametrize("one_shard", [True, False])
@pytest.mark.parametrize("described", [True, False])
def test_token_samples(tmp_path: Path, one_shard: bool, described: bool) -> None:
    tokens, states = write_test_tokens(tmp_path, one_shard=one_shard)
    if described:
        write_metadata(tmp_path, num_shards=1 if one_shard else 5, num_images=5 * 17)
    else:
        for path in tmp_path.glob("metadata*"):
            path.unlink()
    layout = find_layout(tmp_path)
    assert (layout.contents, layout.kind, layout.grid, layout.num_images) == ("samples", "tokens", 4, 85)
    samples = TokenSamples(TokenDataset(tmp_path))
    assert len(samples) == 5
    assert [clip.segment for clip in samples.clips] == [0, 1, 2, 3, 4]
    for number in range(5):
        item = samples[number]
        assert item.tokens is not None
        assert torch.equal(item.tokens, torch.from_numpy(tokens[number])[None])
        assert torch.equal(item.states, torch.from_numpy(states[number])[None])
        assert item.states_valid.all()
    assert samples.clips[3] == (ClipId(0, 51, 3) if one_shard else ClipId(3, 0, 3))
    assert describe(tmp_path)["samples"] == 5


@pytest.mark.parametrize(("style", "one_shard"), [("subfolders", True), ("subfolders", False), ("flat", True)])
def test_raw_samples(tmp_path: Path, style: Any, one_shard: bool) -> None:
    frames, states = pictures(51).reshape(3, 17, 32, 32, 3), rows(3, 77)
    cuts = [slice(None)] if one_shard else [slice(k, k + 1) for k in range(3)]
    for index, cut in enumerate(cuts):
        write_raw_samples(tmp_path, index, style=style, frames=list(frames[cut]), states=states[cut])
    write_metadata(tmp_path, num_shards=len(cuts), num_images=51)
    data = RawDataset(tmp_path)
    samples = VideoSamples(data)
    assert [clip.segment for clip in samples.clips] == [0, 1, 2]
    decoded = np.concatenate([np.stack(list(iterate_frames(shard.video))) for shard in data.layout.shards])
    for number in range(3):
        item = samples[number]
        assert item.video is not None
        assert item.video.shape == (1, 3, 17, 32, 32)
        assert np.array_equal(to_frames(item.video)[0].numpy(), decoded.reshape(3, 17, 32, 32, 3)[number])
        assert torch.equal(item.states, torch.from_numpy(states[number])[None])
    with pytest.raises(InputError, match="as in a test split"):
        clip_ids(data.all_segments())


def test_wrong_samples_are_refused(tmp_path: Path) -> None:
    tokens, states = np.zeros((2, 3, 4, 4), int), rows(2, 64)
    wrong: list[dict[str, Any]] = [
        {"tokens": tokens[:1]}, {"states": states[:, :63]}, {"tokens": -1 - tokens}, {"tokens": tokens[:, :2]},
        {"tokens": tokens[:0], "states": states[:0]}, {"states": states * np.nan},
    ]  # fmt: skip
    for change in wrong:
        with pytest.raises(ValueError, match=r"expected|must be|not finite"):
            write_token_samples(tmp_path, 0, style="flat", **{"tokens": tokens, "states": states, **change})
    with pytest.raises(ValueError, match="a sample has 16 frames"):
        write_raw_samples(tmp_path, 0, style="flat", frames=[pictures(16)], states=rows(1, 77))
    assert list(tmp_path.iterdir()) == []


def test_recordings_that_lost_their_segments_are_no_test_split(tmp_path: Path) -> None:
    # 64 rows and 4 blocks in recordings, 64 rows and 1 block in a sample.
    write_token_shard(
        tmp_path / "tokens",
        0,
        style="flat",
        tokens=np.zeros((4, 3, 4, 4), int),
        states=rows(64),
        segments=np.zeros(64, int),
    )
    write_metadata(tmp_path / "tokens", num_shards=1, num_images=64)
    write_raw(tmp_path / "raw", style="flat", segments=[77])
    for root in (tmp_path / "tokens", tmp_path / "raw"):
        (root / "segment_idx_0.bin").unlink()
        with pytest.raises(InputError, match=r"segment_idx_0\.bin: is missing.*is no test split"):
            find_layout(root)


def test_unequal_sample_counts_are_refused(tmp_path: Path) -> None:
    write_test_tokens(tmp_path, one_shard=True)
    path = tmp_path / "video_0.bin"
    path.write_bytes(path.read_bytes()[: -3 * 16 * 4])
    with pytest.raises(InputError, match="is no test split of 64 state rows"):
        find_layout(tmp_path)


def test_recordings_are_not_samples_and_the_other_way_round(tmp_path: Path, raw_root: Path) -> None:
    with pytest.raises(InputError, match="holds recordings"):
        sample_ids(find_layout(raw_root / "val"))
    write_test_tokens(tmp_path / "test", one_shard=True)
    assert find_split(tmp_path, "test") == tmp_path / "test"


# -- broken shards ---------------------------------------------------------------------------------------------------


def three_shards(root: Path) -> None:
    for index in range(3):
        write_token_shard(
            root,
            index,
            style="subfolders",
            tokens=GENERATOR.integers(0, 10, (3, 3, 4, 4)),
            states=rows(51),
            segments=np.full(51, index),
        )
    write_metadata(root, num_shards=3, num_images=153)


def make_nan(root: Path) -> None:
    np.memmap(root / "robot_states" / "states_1.bin", dtype="<f4", mode="r+")[30] = np.nan


def make_short(root: Path) -> None:
    path = root / "videos" / "video_1.bin"
    path.write_bytes(path.read_bytes()[:-4])


def make_unknown_token(root: Path) -> None:
    np.memmap(root / "videos" / "video_1.bin", dtype="<i4", mode="r+")[7] = 64000


@pytest.mark.parametrize("breakage", [make_nan, make_short, make_unknown_token])
def test_a_broken_shard_is_an_error_or_skipped_by_name(tmp_path: Path, breakage: Any) -> None:
    three_shards(tmp_path)
    breakage(tmp_path)
    with pytest.raises(InputError, match=r"(states|video)_1\.bin"):
        TokenDataset(tmp_path).check(64000)
    data = TokenDataset(tmp_path, on_bad_shard="skip")
    data.check(64000)
    assert [shard.index for shard in data.layout.shards] == [0, 2]
    assert list(data.layout.skipped) == [1]
    assert "_1.bin" in data.layout.skipped[1]
    assert data.layout.num_images == 102
    ids = token_pair_ids(data.all_segments(), stride_blocks=1)
    assert list(ids) == [ClipId(0, 0, 0), ClipId(0, 17, 0), ClipId(2, 0, 2), ClipId(2, 17, 2)]
    clips = TokenClips(data, ids)
    item = clips[3]
    assert item.tokens is not None
    third = np.fromfile(tmp_path / "videos" / "video_2.bin", dtype="<i4").reshape(3, 3, 4, 4)
    assert np.array_equal(item.tokens[0].numpy(), third[1:].reshape(6, 4, 4))
    with pytest.raises(InputError, match=r"_1\.bin"):
        data.states(1)


def test_a_truncated_video_is_skipped_and_nothing_left_is_an_error(tmp_path: Path) -> None:
    write_raw(tmp_path / "data", style="flat", segments=[80])
    path = tmp_path / "data" / "video_0.mp4"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"video_0\.mp4"):
        RawDataset(tmp_path / "data", on_bad_shard="skip")


def test_an_absurd_number_of_shards_is_refused_at_once(tmp_path: Path) -> None:
    three_shards(tmp_path)
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_shards": 10**15}))
    for on_bad_shard in ("raise", "skip"):
        with pytest.raises(InputError, match="there are 3 videos"):
            find_layout(tmp_path, on_bad_shard=on_bad_shard)
