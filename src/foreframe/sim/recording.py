"""What 1X's format has no place for: the side files of one shard, under `sim/` of a simulated data set."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from foreframe.sim.simulator import Simulator, Snapshot

SNAPSHOT_EVERY = 17
"""Frames of a shard from one snapshot to the next: one token block."""

BEHAVIOURS = (
    "drive", "grasp", "inspect", "place", "drop", "carry", "push", "topple", "open", "close", "look", "rest", "gesture",
)  # fmt: skip
"""All that a diary can name. The labels are indices into it, the same in every data set: new names go to the end."""


class Recording:
    """Collects a shard frame by frame, then writes its files, each whole."""

    def __init__(self, *, masks: bool = False) -> None:
        self._commands: list[npt.NDArray[np.float32]] = []
        self._poses: list[npt.NDArray[np.float32]] = []
        self._fixtures: list[npt.NDArray[np.float32]] = []
        self._masks: list[npt.NDArray[np.uint8]] | None = [] if masks else None
        self._snapshots: list[Snapshot] = []
        self._segments: list[int] = []
        self._records: list[dict[str, Any]] = []

    def watch(self, simulator: Simulator) -> None:
        """Take down the present frame, after its step and before its picture."""
        if len(self._poses) % SNAPSHOT_EVERY == 0:
            self._snapshots.append(simulator.snapshot())
            self._segments.append(simulator.config.episode)
        self._poses.append(simulator.objects())
        self._fixtures.append(simulator.fixtures())
        if self._masks is not None:
            self._masks.append(simulator.mask())

    def add(self, command: npt.NDArray[np.float32], record: dict[str, Any] | None) -> None:
        """The command (25,) that led to the frame, and the record of the episode that ends with it."""
        self._commands.append(command)
        if record is not None:
            unknown = {name for _, name in record["behaviours"]} - set(BEHAVIOURS)
            assert not unknown, f"{unknown} have no label: add them to BEHAVIOURS"
            self._records.append(record)

    def write(self, side: Path, shard: int) -> None:
        """Write the shard's files into the folder `side`."""
        from foreframe.files import write_whole

        moments = self._snapshots
        rows = {
            "frame": np.arange(len(moments), dtype=np.int64) * SNAPSHOT_EVERY,
            "segment": np.array(self._segments, dtype=np.int32),
            "physics": _padded([moment.physics for moment in moments]),
            "physics_size": np.array([len(moment.physics) for moment in moments], dtype=np.int64),
            "noise": np.stack([moment.noise for moment in moments]),
            "exposure": np.array([moment.exposure for moment in moments]),
        }
        write_whole(side / f"commands_{shard}.npy", npy(np.stack(self._commands)))
        write_whole(side / f"poses_{shard}.npy", npy(_padded(self._poses)))
        write_whole(side / f"fixtures_{shard}.npy", npy(_padded(self._fixtures)))
        write_whole(side / f"snapshots_{shard}.npz", _npz(rows))
        if self._masks is not None:
            write_whole(side / f"masks_{shard}.npz", _npz({"masks": np.stack(self._masks)}))
        lines = "".join(json.dumps(record) + "\n" for record in self._records)
        write_whole(side / f"episodes_{shard}.jsonl", lines.encode())


def behaviour_labels(records: list[dict[str, Any]]) -> npt.NDArray[np.int8]:
    """(N,) index into `BEHAVIOURS` of what the robot is doing in each frame, -1 before it does anything."""
    labels: list[npt.NDArray[np.int8]] = []
    for record in records:
        label = np.full(record["num_frames"], -1, dtype=np.int8)
        for start, name in record["behaviours"]:
            label[max(start, 0) :] = BEHAVIOURS.index(name)
        labels.append(label)
    return np.concatenate(labels)


def npy(array: npt.NDArray[Any]) -> bytes:
    """The bytes of a .npy file."""
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _npz(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    file = BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _padded(rows: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Stacked, with zeros after the shorter ones."""
    out = np.zeros((len(rows), max(map(len, rows)), *rows[0].shape[1:]), dtype=rows[0].dtype)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return out
