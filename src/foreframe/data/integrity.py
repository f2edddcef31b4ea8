"""What a layout's files hold: rows checked, broken shards left out, bytes fingerprinted."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from foreframe.data import hints
from foreframe.data.layout import FETCH_AGAIN, find_layout
from foreframe.data.places import is_there
from foreframe.errors import InputError
from foreframe.files import require_content
from foreframe.states import CHANNEL_NAMES, NUM_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from foreframe.data.layout import Layout, OnBadShard, Shard


def check_types(shard: Shard) -> None:
    """Raise `InputError` if states or segment ids make sense only in another byte order, or ids only as floats.

    The first numbers of each file tell, so that this is quick.
    """
    if hints.swapped_states(hints.open_array(shard.states, "<f4", shard.num_rows * NUM_CHANNELS)):
        raise InputError(f"{shard.states}: {hints.SWAPPED}")
    if shard.num_samples is None and (fault := hints.integers_fault(shard.open_segments())):
        raise InputError(f"{shard.segments}: {fault}")


def check_rows(shard: Shard) -> None:
    """Raise `InputError` naming the file and row if a state is not finite or a segment id is out of order."""
    check_types(shard)
    states = shard.open_states()
    finite = np.isfinite(states)
    if not finite.all():
        flat = states.reshape(-1, NUM_CHANNELS)
        row, channel = np.argwhere(~finite.reshape(flat.shape))[0]
        raise InputError(
            f"{shard.states}: row {row}, {CHANNEL_NAMES[channel]} is not finite ({flat[row, channel]}); {FETCH_AGAIN}"
        )
    if shard.num_samples is not None:
        return
    segments = np.asarray(shard.open_segments(), dtype=np.int64)
    steps = np.diff(segments, prepend=min(0, int(segments[0])))
    if (steps < 0).any() or segments[0] < 0:
        row = int(np.argmax(steps < 0))
        raise InputError(
            f"{shard.segments}: row {row} has segment {segments[row]}, below what it may be; {FETCH_AGAIN}"
        )


def without_broken(layout: Layout, *, also: Callable[[Shard], object] | None = None) -> Layout:
    """The layout without shards whose rows, or for which `also`, raise `InputError`."""
    bad: dict[int, str] = {}
    for shard in layout.shards:
        try:
            check_rows(shard)
            if also is not None:
                also(shard)
        except InputError as error:
            bad[shard.index] = str(error)
    return layout.without(bad) if bad else layout


def fingerprint(root: Path, *, on_bad_shard: OnBadShard = "raise") -> str:
    """SHA-256 over the names, sizes and bytes of every file that belongs to the data set, read in pieces."""
    layout = find_layout(root, on_bad_shard=on_bad_shard)
    digest = hashlib.sha256(b"foreframe dataset 1\n")
    paths = [layout.root / "metadata.json"]
    for shard in layout.shards:
        paths += [shard.metadata, shard.states, shard.segments, shard.video]
    for path in paths:
        if not is_there(path):  # a test split has no segments and may have no metadata
            continue
        size = require_content(path).st_size
        digest.update(f"{path.relative_to(layout.root).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()
