"""Times the pieces of the demo on this machine: `make bench`. Ratios come from one run; seconds are this machine's.

Each pair of sides is timed in turns (A, B, A, B, ...), so that a neighbour's load falls on both, and the median of the
paired ratios is printed with its range.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from foreframe.batch import to_video
from foreframe.data.clips import clip_ids
from foreframe.data.raw import RawDataset
from foreframe.data.video import iterate_frames
from foreframe.evaluate import code_version, processor
from foreframe.inference.autoregressive import rollout
from foreframe.models.tokenizer import VideoTokenizer
from foreframe.models.weights import find_weights, load_model
from foreframe.recipes import RECIPES
from foreframe.runs import sample_data
from foreframe.states import NUM_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 7


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(name: str, ours: Callable[[], object], other: Callable[[], object], *, against: str) -> dict[str, object]:
    """Median over rounds of other's time over ours: above 1, ours is faster."""
    ours(), other()
    pairs = [(seconds(ours), seconds(other)) for _ in range(ROUNDS)]
    ratios = sorted(b / a for a, b in pairs)
    print(f"{name}: {statistics.median(ratios):.2f}x against {against} (range {ratios[0]:.2f}-{ratios[-1]:.2f})")
    return {"name": name, "against": against, "ratio": statistics.median(ratios), "range": [ratios[0], ratios[-1]]}


def rate(name: str, work: Callable[[], object], *, count: int, unit: str) -> dict[str, object]:
    work()
    best = count / min(seconds(work) for _ in range(ROUNDS))
    print(f"{name}: {best:.1f} {unit} (best of {ROUNDS})")
    return {"name": name, "value": best, "unit": unit}


def random_windows() -> dict[str, object]:
    """Random 77-frame windows: an open decoder and exact seeks, against decoding the file from its start."""
    root = sample_data() / "train"
    dataset = RawDataset(root)
    ids = clip_ids(dataset.all_segments())
    chosen = [ids[i] for i in np.random.default_rng(0).integers(0, len(ids), 4)]

    def ours() -> None:
        for clip in chosen:
            dataset.frames(clip.shard, range(clip.start, clip.start + 77))

    def from_start() -> None:
        for clip in chosen:
            for index, _frame in enumerate(iterate_frames(dataset.layout.shards[clip.shard].video)):
                if index == clip.start + 76:
                    break

    return compare("random 77-frame windows", ours, from_start, against="decoding from the first frame")


def main() -> None:
    print(f"foreframe {code_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    tokenizer = load_model(find_weights("tokenizer_tiny"), VideoTokenizer)
    block = to_video(torch.randint(0, 256, (8, 17, 128, 128, 3), dtype=torch.uint8))
    recipe = RECIPES["compression_tiny"]()
    model_config = recipe.track.model
    from foreframe.models.st_transformer import STTransformer

    model = STTransformer(model_config)
    tokens = torch.randint(0, model_config.vocab_size, (8, 6, model_config.grid, model_config.grid))
    states = torch.randn(8, model_config.num_states, NUM_CHANNELS)

    def train_step() -> None:
        logits = model.logits(model(tokens[:, :-1], states)[:, 2:])
        torch.nn.functional.cross_entropy(logits.flatten(0, 2), tokens[:, 3:].flatten()).backward()
        model.zero_grad()

    with torch.no_grad():
        encode = rate("tokenizer_tiny encode", lambda: tokenizer.encode(block), count=8 * 17, unit="frames/s")
    results = [
        random_windows(),
        encode,
        rate("compression_tiny forward and backward", train_step, count=8, unit="clips/s"),
        rate("compression_tiny rollout", lambda: rollout(model, tokens[:, :3], states), count=8, unit="clips/s"),
    ]
    out = Path(__file__).parent / "results.json"
    machine = {"code": code_version(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    out.write_text(
        json.dumps({**machine, "machine": f"{processor()}, {platform.platform()}", "results": results}, indent=1) + "\n"
    )
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
