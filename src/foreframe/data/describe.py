"""What a dataset folder holds: facts in a few lines, how hard it is to beat a still picture, a contact sheet."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from foreframe.data.clips import clip_ids, sample_ids, token_pair_ids
from foreframe.data.encoding import read_encoding
from foreframe.data.integrity import check_types
from foreframe.data.layout import TOKEN_BLOCK_FRAMES, find_layout
from foreframe.data.places import require_folder
from foreframe.data.raw import RawDataset
from foreframe.data.tokens import TokenDataset
from foreframe.data.windows import CLIP_FRAMES
from foreframe.metrics.image import PSNR_CAP_DB, psnr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from foreframe.data.layout import Layout, OnBadShard

HORIZON = CLIP_FRAMES - TOKEN_BLOCK_FRAMES
"""Frames from the last observed to the predicted one: 60, two seconds (challenge-facts 2.1)."""
NEAR_STATIC_DB = 30.0
"""Copying the last frame scores more than this where next to nothing moves."""


def describe(root: Path, *, on_bad_shard: OnBadShard = "raise") -> dict[str, Any]:
    """Facts by name, JSON-ready: layout, length, recordings, frame or grid size, and how many clips can be cut."""
    require_folder(root)
    encoding = read_encoding(root)
    if encoding is not None and encoding.get("kind") == "latents":
        return _describe_latents(root, encoding)
    layout = find_layout(root, on_bad_shard=on_bad_shard)
    dataset = (RawDataset if layout.kind == "raw" else TokenDataset)(root, on_bad_shard=on_bad_shard)
    layout = dataset.layout
    if isinstance(dataset, TokenDataset):
        dataset.check_types()
    else:
        for shard in layout.shards:
            check_types(shard)
    facts: dict[str, Any] = {
        "folder": str(root),
        "kind": layout.kind,
        "contents": layout.contents,
        "layout": layout.style,
        "shards": len(layout.shards),
        "frames": layout.num_images,
        "hz": layout.hz,
        "minutes": round(layout.num_images / layout.hz / 60, 2),
    }
    if dataset.skipped:
        facts["skipped"] = {str(index): reason for index, reason in dataset.skipped.items()}
    if isinstance(dataset, RawDataset):
        height, width = dataset.frames(layout.shards[0].index, [0]).shape[1:3]
        facts["frame_size"] = f"{width}x{height}"
    else:
        facts["grid"] = f"{dataset.grid}x{dataset.grid}"
        facts["largest_token"] = max(int(dataset.tokens(shard.index).max(initial=0)) for shard in layout.shards)
    return facts | _countable(dataset)


def _countable(dataset: RawDataset | TokenDataset) -> dict[str, Any]:
    """Samples of a test split, or recordings and the clips that can be cut from them."""
    if dataset.layout.contents == "samples":
        return {"samples": len(sample_ids(dataset.layout))}
    segments = dataset.all_segments()
    # A recording may continue into the next shard: count its frames over all of them.
    _, lengths = np.unique(np.concatenate(list(segments.values())), return_counts=True)
    facts: dict[str, Any] = {
        "recordings": len(lengths),
        "recording_frames": f"{lengths.min()} to {lengths.max()}, mean {lengths.mean():.1f}",
    }
    if isinstance(dataset, RawDataset):
        facts["clips_of_77_frames"] = len(clip_ids(segments, length=CLIP_FRAMES))
    else:
        facts["token_pairs"] = len(token_pair_ids(segments, stride_blocks=1))
    return facts


def _describe_latents(root: Path, encoding: dict[str, Any]) -> dict[str, Any]:
    return {
        "folder": str(root),
        "kind": "latents",
        "clips": sum(encoding["clips"].values()),
        "latent_shape": "x".join(map(str, encoding["latent_shape"])),
        "dtype": encoding["dtype"],
        "frame_indices": encoding["frame_indices"],
        "clip_stride": encoding["clip_stride"],
        "legacy_segment_check": encoding["legacy_segment_check"],
        "skipped": encoding["skipped"],
    }


def copy_last_psnr(
    root: Path,
    *,
    size: int | None = None,
    on_bad_shard: OnBadShard = "raise",
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float64]:
    """PSNR in dB between frames 60 apart, over each recording of a raw folder, one after the other.

    What a predictor scores that repeats the last observed frame: the number to know before any model's. Frames are
    box-downsampled to `size` if given.
    """
    dataset = RawDataset(root, on_bad_shard=on_bad_shard)
    values = [np.empty(0)]
    pairs = list(_pairs(dataset))
    for done, (shard, first) in enumerate(pairs):
        frames = torch.from_numpy(dataset.frames(shard, [first, first + HORIZON], size=size))
        values.append(psnr(frames[:1], frames[1:], cap_db=PSNR_CAP_DB).numpy())
        if progress is not None:
            progress(done + 1, len(pairs))
    return np.concatenate(values)


def _pairs(dataset: RawDataset) -> Iterator[tuple[int, int]]:
    """(shard, first frame) of pairs that do not overlap."""
    for shard, first, _ in clip_ids(dataset.all_segments(), length=HORIZON + 1, stride=HORIZON):
        yield shard, first


def distribution(values: npt.NDArray[np.float64]) -> dict[str, float]:
    """Deciles' ends, median, and the share of near-static pairs, of what `copy_last_psnr` found."""
    low, median, high = np.percentile(values, [10, 50, 90])
    return {
        "pairs": len(values),
        "p10_db": round(float(low), 2),
        "median_db": round(float(median), 2),
        "p90_db": round(float(high), 2),
        "near_static": round(float((values > NEAR_STATIC_DB).mean()), 4),
    }


def contact_sheet(root: Path, *, rows: int = 8, columns: int = 6, size: int = 192) -> Image.Image:
    """Frames at even distances from recordings at even distances, none of them chosen: a row for a recording."""
    dataset = RawDataset(root)
    layout = dataset.layout
    runs = _runs(layout, dataset)
    picked = [runs[place] for place in np.unique(np.linspace(0, len(runs) - 1, rows).round().astype(int))]
    margin = 14
    sheet = Image.new("RGB", (columns * (size + 2), len(picked) * (size + margin)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (shard, first, end, name) in enumerate(picked):
        indices = np.linspace(first, end - 1, columns).round().astype(np.int64)
        for column, frame in enumerate(dataset.frames(shard, indices)):
            picture = Image.fromarray(frame).resize((size, size), Image.Resampling.BOX)
            sheet.paste(picture, (column * (size + 2), row * (size + margin) + margin))
        label = f"{name}: shard {shard}, frames {first} to {end - 1}"
        draw.text((2, row * (size + margin) + 1), label, fill="black")
    return sheet


def _runs(layout: Layout, dataset: RawDataset) -> list[tuple[int, int, int, str]]:
    """(shard, first frame, end, name) of every recording's part in every shard, or of every sample."""
    if layout.contents == "samples":
        return [
            (shard, first, first + TOKEN_BLOCK_FRAMES, f"sample {number}")
            for shard, first, number in sample_ids(layout)
        ]
    runs: list[tuple[int, int, int, str]] = []
    for shard, ids in dataset.all_segments().items():
        edges = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
        runs += [(shard, a, b, f"recording {ids[a]}") for a, b in pairwise(edges)]
    return runs
