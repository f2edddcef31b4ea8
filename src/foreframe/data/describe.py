"""What a dataset folder holds, in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from foreframe.data.clips import CLIP_FRAMES, clip_ids, token_pair_ids
from foreframe.data.layout import find_layout
from foreframe.data.raw import RawDataset
from foreframe.data.tokens import TokenDataset

if TYPE_CHECKING:
    from pathlib import Path


def describe(root: Path) -> dict[str, Any]:
    """Facts by name, JSON-ready: layout, length, recordings, frame or grid size, and how many clips can be cut."""
    layout = find_layout(root)
    dataset = RawDataset(root) if layout.kind == "raw" else TokenDataset(root)
    segments = [np.asarray(dataset.segments(index)) for index in range(len(layout.shards))]
    # A recording may continue into the next shard: count its frames over all of them.
    _, lengths = np.unique(np.concatenate(segments), return_counts=True)
    facts: dict[str, Any] = {
        "folder": str(root),
        "kind": layout.kind,
        "layout": layout.style,
        "shards": len(layout.shards),
        "frames": layout.num_images,
        "hz": layout.hz,
        "minutes": round(layout.num_images / layout.hz / 60, 2),
        "recordings": len(lengths),
        "recording_frames": f"{lengths.min()} to {lengths.max()}, mean {lengths.mean():.1f}",
    }
    if isinstance(dataset, RawDataset):
        height, width = dataset.frames(0, [0]).shape[1:3]
        facts["frame_size"] = f"{width}x{height}"
        facts["clips_of_77_frames"] = len(clip_ids(segments, length=CLIP_FRAMES))
    else:
        facts["grid"] = f"{dataset.grid}x{dataset.grid}"
        facts["token_pairs"] = len(token_pair_ids(segments, stride_blocks=1))
        facts["largest_token"] = max(int(dataset.tokens(i).max(initial=0)) for i in range(len(layout.shards)))
    return facts
