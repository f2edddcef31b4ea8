"""Which windows are valid, against slow and plain second implementations, and what an item holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from foreframe.batch import ClipId, collate
from foreframe.data.clips import TokenClips, VideoClips, clip_ids, state_window, token_pair_ids
from foreframe.data.raw import RawDataset
from foreframe.data.tokens import TokenDataset
from foreframe.data.windows import frame_indices
from foreframe.data.writer import RawShardWriter, write_metadata, write_token_shard

if TYPE_CHECKING:
    from pathlib import Path


def random_segments(generator: np.random.Generator) -> list[np.ndarray]:
    """Up to three shards of recordings of very different lengths; a recording may go on in the next shard."""
    shards, segment = [], 0
    for _ in range(generator.integers(1, 4)):
        lengths = generator.choice([1, 2, 16, 17, 18, 33, 34, 35, 51, 76, 77, 78, 100, 160], generator.integers(1, 9))
        shards.append(np.repeat(segment + np.arange(len(lengths)), lengths).astype(np.int32))
        segment = int(shards[-1][-1]) + int(generator.integers(0, 2))
    return shards


def naive_clips(shards: list[np.ndarray], length: int, stride: int, legacy: bool) -> list[ClipId]:
    clips = []
    for shard, segments in enumerate(shards):
        ids = segments.tolist()
        start = 0
        while start < len(ids):
            if legacy:
                fits = start + length < len(ids) and ids[start] == ids[start + length]
            else:
                fits = start + length <= len(ids) and len(set(ids[start : start + length])) == 1
            if fits:
                clips.append(ClipId(shard, start, ids[start]))
            start += stride if fits else 1
    return clips


def naive_pairs(shards: list[np.ndarray], stride_blocks: int) -> list[ClipId]:
    clips = []
    for shard, segments in enumerate(shards):
        ids = segments.tolist()
        block = 0
        while block * 17 < len(ids):
            window = ids[block * 17 : block * 17 + 34]
            fits = len(window) == 34 and len(set(window)) == 1
            if fits:
                clips.append(ClipId(shard, block * 17, window[0]))
            block += stride_blocks if fits else 1
    return clips


@pytest.mark.parametrize("legacy", [False, True])
def test_clips_equal_a_plain_loop(legacy: bool) -> None:
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(150):
        shards = random_segments(generator)
        length = int(generator.choice([1, 2, 17, 34, 77]))
        stride = int(generator.choice([1, 2, 8, 17, 77, 100]))  # also strides that leap over whole recordings
        clips = clip_ids(dict(enumerate(shards)), length=length, stride=stride, legacy_segment_check=legacy)
        assert list(clips) == naive_clips(shards, length, stride, legacy)
        found += len(clips)
    assert found > 1000


def test_pairs_equal_a_plain_loop() -> None:
    generator = np.random.default_rng(1)
    found = 0
    for _ in range(300):
        shards = random_segments(generator)
        for stride_blocks in (1, 2, 3):
            clips = token_pair_ids(dict(enumerate(shards)), stride_blocks=stride_blocks)
            assert list(clips) == naive_pairs(shards, stride_blocks)
            found += len(clips)
    assert found > 1000


def test_segments_that_come_back_are_not_joined() -> None:
    segments = np.array([0] * 40 + [1] * 5 + [0] * 40)  # first and last id agree, the frames between do not
    starts = [clip.start for clip in clip_ids({0: segments}, length=40)]
    assert starts == [0, 45]
    assert len(token_pair_ids({0: np.array([0] * 10 + [1] * 5 + [0] * 19)})) == 0


def test_the_clip_at_the_segment_end_and_the_legacy_check() -> None:
    segments = np.array([3] * 77 + [4] * 78 + [5] * 77)
    assert list(clip_ids({0: segments})) == [ClipId(0, 0, 3), ClipId(0, 77, 4), ClipId(0, 78, 4), ClipId(0, 155, 5)]
    # The entry looked one frame past the clip: a clip that ends with its segment, or with the shard, was lost.
    assert list(clip_ids({0: segments}, legacy_segment_check=True)) == [ClipId(0, 77, 4)]
    assert list(clip_ids({0: np.zeros(77, int)})) == [ClipId(0, 0, 0)]
    assert list(clip_ids({0: np.zeros(77, int)}, legacy_segment_check=True)) == []
    assert list(clip_ids({0: np.zeros(76, int)})) == []


def test_strides() -> None:
    segments = np.zeros(17 * 6, int)
    assert [clip.start for clip in clip_ids({0: segments}, stride=8)] == [0, 8, 16, 24]
    assert [clip.start for clip in clip_ids({0: segments}, stride=77)] == [0]
    assert [clip.start for clip in token_pair_ids({0: segments})] == [0, 34, 68]
    assert [clip.start for clip in token_pair_ids({0: segments}, stride_blocks=1)] == [0, 17, 34, 51, 68]
    assert [clip.start for clip in token_pair_ids({0: segments[:-1]})] == [0, 34]  # the last block lacks a frame
    for wrong in ({"stride": 0}, {"length": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            clip_ids({0: segments}, **wrong)
    with pytest.raises(ValueError, match="at least 1"):
        token_pair_ids({0: segments}, stride_blocks=0)


def test_an_index_is_a_sequence_of_addresses_by_shard_number() -> None:
    index = clip_ids({2: np.repeat([5, 6], 80), 7: np.repeat([6], 78)}, length=78, stride=1)
    assert list(index) == [ClipId(2, 0, 5), ClipId(2, 1, 5), ClipId(2, 2, 5), ClipId(2, 80, 6), ClipId(2, 81, 6),
                           ClipId(2, 82, 6), ClipId(7, 0, 6)]  # fmt: skip
    assert index[-1] == ClipId(7, 0, 6)
    assert index[2:4] == (ClipId(2, 2, 5), ClipId(2, 80, 6))
    with pytest.raises(IndexError):
        index[7]


def test_addresses_are_plain_numbers() -> None:
    shards = {0: np.zeros(80, np.int32)}
    for clip in [*clip_ids(shards), *token_pair_ids(shards)]:
        assert [type(value) for value in clip] == [int, int, int]


def test_state_window_repeats_the_last_row_of_the_segment() -> None:
    states = np.arange(30 * 25, dtype=np.float32).reshape(30, 25)
    segments = np.array([0] * 12 + [1] * 18)
    for start in range(30):
        for length in (1, 5, 12, 40):
            rows, valid = state_window(states, segments, start, length)
            end = 12 if start < 12 else 30
            assert rows.shape == (length, 25)
            assert rows.dtype == np.float32
            assert valid.tolist() == [start + row < end for row in range(length)]
            assert np.array_equal(rows, states[[min(start + row, end - 1) for row in range(length)]])
    for start in (-1, 30):
        with pytest.raises(ValueError, match=f"start {start} is outside"):
            state_window(states, segments, start, 5)


def test_frame_indices() -> None:
    assert frame_indices("stride4_dup_last").tolist() == [*range(0, 77, 4), 76]
    assert len(frame_indices("stride4_dup_last")) == 21
    assert frame_indices("uniform21", 100).tolist() == [100 + round(i * 3.8) for i in range(21)]
    stride2 = frame_indices("stride2").tolist()
    assert len(stride2) == 41
    # The list of the challenge code, which rounds halves to even.
    assert stride2[:7] == [0, 2, 4, 6, 8, 10, 11]
    assert stride2[7] == 13
    assert stride2[14:17] == [27, 28, 30]
    assert stride2[24:28] == [46, 48, 49, 51]
    assert stride2[33:] == [63, 65, 66, 68, 70, 72, 74, 76]
    assert frame_indices("all", 5).tolist() == list(range(5, 82))
    assert frame_indices("all").dtype == np.int64


def test_token_clips(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    num_frames = 17 * 5 + 3
    tokens = generator.integers(0, 64000, (6, 3, 4, 4))
    states = generator.normal(size=(num_frames, 25)).astype(np.float32)
    segments = np.array([0] * 17 + [1] * (num_frames - 17))
    write_token_shard(tmp_path, 0, style="flat", tokens=tokens, states=states, segments=segments)
    write_metadata(tmp_path, num_shards=1, num_images=num_frames)
    data = TokenDataset(tmp_path)
    clips = TokenClips(data, token_pair_ids(data.all_segments(), stride_blocks=1))
    assert clips.clips[:] == (ClipId(0, 17, 1), ClipId(0, 34, 1), ClipId(0, 51, 1))
    assert len(clips) == 3
    batch = collate([clips[0], clips[2]])
    assert batch.clips == (clips.clips[0], clips.clips[2])
    assert batch.tokens is not None
    assert batch.video is None
    assert batch.tokens.dtype == torch.int64
    assert torch.equal(batch.tokens[1], torch.from_numpy(tokens[3:5].reshape(6, 4, 4)))
    assert batch.states.shape == (2, 64, 25)
    assert torch.equal(batch.states[1, :37], torch.from_numpy(states[51:]))
    assert torch.equal(batch.states[1, 37:], torch.from_numpy(states[[-1] * 27]))
    assert batch.states_valid.sum(1).tolist() == [64, 37]


@pytest.mark.filterwarnings("error")
def test_video_clips(tmp_path: Path) -> None:
    states = np.random.default_rng(0).normal(size=(90, 25)).astype(np.float32)
    with RawShardWriter(tmp_path, 0, style="subfolders", size=64) as writer:
        for index in range(90):
            writer.append(np.full((64, 64, 3), 2 * index, np.uint8), states[index], segment=index // 80)
    write_metadata(tmp_path, num_shards=1, num_images=90)
    data = RawDataset(tmp_path)
    offsets = frame_indices("stride4_dup_last")
    ids = clip_ids(data.all_segments())
    assert [clip.start for clip in ids] == [0, 1, 2, 3]
    for size in (None, 16):
        clips = VideoClips(data, ids, frame_offsets=offsets, num_states=90, size=size)
        item = clips[2]
        assert item.video is not None
        assert item.tokens is None
        assert item.video.shape == (1, 3, 21, size or 64, size or 64)
        assert item.video.dtype == torch.float32
        assert item.video.is_contiguous()
        frames = torch.from_numpy(data.frames(0, 2 + offsets, size=size)).permute(3, 0, 1, 2)[None]
        assert torch.equal(item.video, 2 * frames.float() / 255 - 1)
        assert -1 <= item.video.min() <= item.video.max() <= 1
        assert torch.equal(item.states[0, :78], torch.from_numpy(states[2:80]))
        assert item.states_valid[0].tolist() == [True] * 78 + [False] * 12
    assert VideoClips(data, ids, frame_offsets=[0])[0].states.shape == (1, 77, 25)
