"""Frames decoded once: the same as decoded anew, made again only if they are not there, never another data's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import SIZE, write_raw
from foreframe.data.decoded import DecodedDataset
from foreframe.data.raw import RawDataset
from foreframe.errors import InputError


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
