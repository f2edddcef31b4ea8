"""The robot's 25 state channels: names, units, kinds, training statistics and normalisation (challenge-facts 1.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch

from foreframe.errors import InputError
from foreframe.files import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable

Kind = Literal["angle", "closure", "velocity"]

_LARGEST = 1e30
"""Beyond any mean or deviation; further up, squares leave float32."""
STATISTICS_VERSION = 1
"""Format version of the statistics file."""


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One column of a state row."""

    name: str
    """Lower-case name, as the organiser's card lists it."""
    kind: Kind
    """`angle`, `closure` (0 open, 1 closed) or `velocity`."""
    unit: str
    """`rad`, `1`, `m/s` or `rad/s`. The organiser publishes none; these are the natural reading (*assumed*)."""


def _angle(name: str) -> Channel:
    return Channel(name=name, kind="angle", unit="rad")


CHANNELS: tuple[Channel, ...] = (
    _angle("hip_yaw"),
    _angle("hip_roll"),
    _angle("hip_pitch"),
    _angle("knee_pitch"),
    _angle("ankle_roll"),
    _angle("ankle_pitch"),
    _angle("left_shoulder_pitch"),
    _angle("left_shoulder_roll"),
    _angle("left_shoulder_yaw"),
    _angle("left_elbow_pitch"),
    _angle("left_elbow_yaw"),
    _angle("left_wrist_pitch"),
    _angle("left_wrist_roll"),
    _angle("right_shoulder_pitch"),
    _angle("right_shoulder_roll"),
    _angle("right_shoulder_yaw"),
    _angle("right_elbow_pitch"),
    _angle("right_elbow_yaw"),
    _angle("right_wrist_pitch"),
    _angle("right_wrist_roll"),
    _angle("neck_pitch"),
    Channel(name="left_hand_closure", kind="closure", unit="1"),
    Channel(name="right_hand_closure", kind="closure", unit="1"),
    Channel(name="linear_velocity", kind="velocity", unit="m/s"),
    Channel(name="angular_velocity", kind="velocity", unit="rad/s"),
)
"""The 25 channels in file order."""

NUM_CHANNELS = len(CHANNELS)
CHANNEL_NAMES: tuple[str, ...] = tuple(channel.name for channel in CHANNELS)
CHANNEL_INDEX: dict[str, int] = {name: index for index, name in enumerate(CHANNEL_NAMES)}


@dataclass(frozen=True, kw_only=True)
class StateStatistics:
    """Mean and standard deviation of each channel over the rows of one *training* split.

    Closures are left as they are (mean 0, std 1), and so is any channel that never moves: dividing by its
    rounding noise would blow it up.
    """

    mean: tuple[float, ...]
    """25 means, in the channels' own units."""
    std: tuple[float, ...]
    """25 standard deviations, all positive."""
    num_rows: int
    """How many rows they were computed from."""

    @classmethod
    def fit(cls, rows: Iterable[npt.NDArray[np.float32]]) -> StateStatistics:
        """Statistics of state rows given in pieces of shape (N, 25), in float64, one piece at a time.

        Raises `InputError` if there is no row or one is not finite.
        """
        count = 0
        mean = np.zeros(NUM_CHANNELS)
        squares = np.zeros(NUM_CHANNELS)
        for piece in rows:
            if piece.ndim != 2 or piece.shape[1] != NUM_CHANNELS:
                raise InputError(f"state rows have shape {tuple(piece.shape)}, expected (N, {NUM_CHANNELS})")
            if len(piece) == 0:
                continue
            values = np.asarray(piece, dtype=np.float64)
            if not np.isfinite(values).all():
                row = int(np.argwhere(~np.isfinite(values))[0, 0])
                raise InputError(f"state row {row} is not finite; repair or leave out that shard before training")
            # Chan et al.'s pairwise update: exact enough for 11 million rows, unlike a sum of squares.
            piece_mean = values.mean(0)
            delta = piece_mean - mean
            total = count + len(values)
            squares += ((values - piece_mean) ** 2).sum(0) + delta**2 * (count * len(values) / total)
            mean += delta * (len(values) / total)
            count = total
        if count == 0:
            raise InputError("no state rows to compute statistics from: the training split is empty")
        std = np.sqrt(squares / count)
        for index, channel in enumerate(CHANNELS):
            if channel.kind == "closure":
                mean[index], std[index] = 0.0, 1.0
            elif std[index] < 1e-6:
                std[index] = 1.0
        return cls(mean=tuple(mean.tolist()), std=tuple(std.tolist()), num_rows=count)

    def to_dict(self) -> dict[str, object]:
        """JSON-ready, with the channel list that `from_dict` checks."""
        return {
            "version": STATISTICS_VERSION,
            "channels": list(CHANNEL_NAMES),
            "mean": list(self.mean),
            "std": list(self.std),
            "num_rows": self.num_rows,
        }

    @classmethod
    def from_dict(cls, data: object, *, where: str) -> StateStatistics:
        """Inverse of `to_dict`; `where` names the file in the error. Refuses another version or channel list."""
        if not isinstance(data, dict):
            raise InputError(f"{where}: state statistics must be a JSON object")
        version = data.get("version")
        if version != STATISTICS_VERSION:
            raise InputError(
                f"{where}: state statistics version {shortened(repr(version), 40)}, this build reads "
                f"{STATISTICS_VERSION}"
            )
        channels = data.get("channels")
        if channels != list(CHANNEL_NAMES):
            raise InputError(
                f"{where}: state statistics are for other channels than this build's 25: {shortened(channels, 80)}"
            )
        mean = _numbers(data.get("mean"), where=f"{where}: mean of the state statistics")
        std = _numbers(data.get("std"), where=f"{where}: std of the state statistics")
        if min(std) <= 0:
            raise InputError(f"{where}: a standard deviation in the state statistics is not positive: {min(std)}")
        num_rows = data.get("num_rows", 0)
        if not isinstance(num_rows, int) or isinstance(num_rows, bool) or num_rows < 0:
            raise InputError(
                f"{where}: num_rows of the state statistics is {shortened(repr(num_rows), 60)}, not a count"
            )
        return cls(mean=mean, std=std, num_rows=num_rows)

    def normalise(self, states: torch.Tensor) -> torch.Tensor:
        """(states - mean) / std over the last axis of (..., 25); closures pass unchanged."""
        mean = torch.tensor(self.mean, dtype=states.dtype, device=states.device)
        std = torch.tensor(self.std, dtype=states.dtype, device=states.device)
        return (states - mean) / std


GROUPS: dict[str, tuple[int, ...]] = {
    "torso": tuple(range(6)),
    "arms": tuple(range(6, 20)),
    "neck": (20,),
    "hands": (21, 22),
    "base": (23, 24),
}
"""Channels that move a part of the robot together."""

_TURNED = tuple(CHANNEL_INDEX[name] for name in ("hip_yaw", "hip_roll", "ankle_roll", "angular_velocity"))
_LEFT = tuple(index for index, name in enumerate(CHANNEL_NAMES) if name.startswith("left_"))
_RIGHT = tuple(CHANNEL_INDEX[CHANNEL_NAMES[index].replace("left_", "right_")] for index in _LEFT)


def mirrored(states: torch.Tensor) -> torch.Tensor:
    """State rows (..., 25) of the robot seen in a mirror: arms and hands exchanged, turns and sideways leans reversed.

    Equal angles of both arms are a symmetric pose (*assumed*; so in evesim).
    """
    other = states.clone()
    other[..., _LEFT], other[..., _RIGHT] = states[..., _RIGHT], states[..., _LEFT]
    other[..., _TURNED] = -states[..., _TURNED]
    return other


def with_value(states: torch.Tensor, names: tuple[str, ...], value: float, *, first_row: int) -> torch.Tensor:
    """State rows (B, T, 25) in which some channels have a value from a row on."""
    other = states.clone()
    other[:, first_row:, [CHANNEL_INDEX[name] for name in names]] = value
    return other


def _numbers(values: object, *, where: str) -> tuple[float, ...]:
    """25 finite numbers, or `InputError`."""
    if not isinstance(values, list) or len(values) != NUM_CHANNELS:
        raise InputError(f"{where} must be a list of {NUM_CHANNELS} numbers")
    if not all(isinstance(value, int | float) and abs(value) <= _LARGEST for value in values):
        raise InputError(f"{where} must be {NUM_CHANNELS} finite numbers, got {shortened(values, 80)}")
    return tuple(map(float, values))
