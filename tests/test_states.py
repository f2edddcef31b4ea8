"""The 25 channels and their training statistics."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from foreframe.errors import InputError
from foreframe.states import (
    CHANNEL_INDEX,
    CHANNEL_NAMES,
    CHANNELS,
    GROUPS,
    NUM_CHANNELS,
    StateStatistics,
    mirrored,
    with_value,
)

CLOSURES = [index for index, channel in enumerate(CHANNELS) if channel.kind == "closure"]


def rows(count: int = 1000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(count, NUM_CHANNELS)) * rng.uniform(0.1, 3, 25) + rng.normal(size=25)).astype(np.float32)


def test_channels_are_1xs() -> None:
    assert NUM_CHANNELS == 25
    assert [channel.kind for channel in CHANNELS] == ["angle"] * 21 + ["closure"] * 2 + ["velocity"] * 2
    assert CHANNEL_INDEX["hip_yaw"] == 0
    assert CHANNEL_INDEX["neck_pitch"] == 20
    assert (CHANNEL_INDEX["left_hand_closure"], CHANNEL_INDEX["right_hand_closure"]) == (21, 22)


def test_statistics_of_pieces_are_those_of_the_whole() -> None:
    data = rows()
    fitted = StateStatistics.fit([data[:1], data[1:400], data[400:400], data[400:]])
    others = [index for index in range(25) if index not in CLOSURES]
    np.testing.assert_allclose(np.array(fitted.mean)[others], data.mean(0, dtype=np.float64)[others], rtol=1e-10)
    np.testing.assert_allclose(np.array(fitted.std)[others], data.std(0, dtype=np.float64)[others], rtol=1e-10)
    assert fitted.num_rows == 1000


def test_normalising_leaves_closures_alone_and_standardises_the_rest() -> None:
    data = torch.from_numpy(rows()).double()
    normalised = StateStatistics.fit([rows()]).normalise(data)
    assert torch.equal(normalised[:, CLOSURES], data[:, CLOSURES])
    others = [index for index in range(25) if index not in CLOSURES]
    torch.testing.assert_close(normalised[:, others].mean(0), torch.zeros(23, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(normalised[:, others].std(0, correction=0), torch.ones(23, dtype=torch.float64))


def test_a_channel_that_never_moves_stays_finite() -> None:
    data = rows()
    data[:, 3] = 0.25
    fitted = StateStatistics.fit([data])
    assert fitted.std[3] == 1
    assert torch.isfinite(fitted.normalise(torch.from_numpy(data))).all()


def test_written_statistics_read_back_and_other_channels_are_refused() -> None:
    fitted = StateStatistics.fit([rows()])
    content = json.loads(json.dumps(fitted.to_dict()))
    assert StateStatistics.from_dict(content, where="file") == fitted
    for change, says in (
        ({"channels": content["channels"][::-1]}, "other channels"),
        ({"version": 2}, "version 2"),
        ({"std": [0.0] * 25}, "not positive"),
        ({"mean": [float("nan")] * 25}, "finite"),
        ({"mean": "many"}, "list of 25"),
    ):
        with pytest.raises(InputError, match=f"file: .*{says}"):
            StateStatistics.from_dict(content | change, where="file")


def test_rows_that_are_not_finite_are_named() -> None:
    data = rows(10)
    data[7, 2] = np.inf
    with pytest.raises(InputError, match="row 7"):
        StateStatistics.fit([data])
    with pytest.raises(InputError, match="no state rows"):
        StateStatistics.fit([])


def test_mirroring_twice_changes_nothing_and_once_exchanges_sides() -> None:
    states = torch.randn(2, 5, NUM_CHANNELS, generator=torch.Generator().manual_seed(0))
    other = mirrored(states)
    assert torch.equal(mirrored(other), states)
    for index, name in enumerate(CHANNEL_NAMES):
        if name.startswith("left_"):
            assert torch.equal(other[..., index], states[..., CHANNEL_INDEX[name.replace("left_", "right_")]])
        elif name in ("hip_yaw", "hip_roll", "ankle_roll", "angular_velocity"):
            assert torch.equal(other[..., index], -states[..., index])
        elif not name.startswith("right_"):
            assert torch.equal(other[..., index], states[..., index])


def test_groups_share_out_all_channels() -> None:
    assert sorted(index for group in GROUPS.values() for index in group) == list(range(NUM_CHANNELS))
    assert {CHANNEL_NAMES[index] for index in GROUPS["hands"]} == {"left_hand_closure", "right_hand_closure"}
    assert all(CHANNEL_NAMES[index].split("_")[0] in ("left", "right") for index in GROUPS["arms"])


def test_with_value_leaves_what_was_observed() -> None:
    states = torch.zeros(1, 6, NUM_CHANNELS)
    other = with_value(states, ("angular_velocity",), 0.5, first_row=4)
    assert torch.count_nonzero(other) == 2
    assert (other[:, 4:, CHANNEL_INDEX["angular_velocity"]] == 0.5).all()
