"""Predict every clip of a split, score it beside the trivial predictors, and write it all down with its receipt."""

from __future__ import annotations

import json
import math
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

import foreframe
from foreframe.data.loader import ordered_batches
from foreframe.metrics.interval import Interval, bootstrap, paired_bootstrap
from foreframe.tracks.track import MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from foreframe.batch import ClipId
    from foreframe.data.loader import ClipDataset
    from foreframe.tracks.track import Track

SCORES_FILE = "scores.json"
SCORES_VERSION = 1
PREDICTIONS_FOLDER = "predictions"
_FPS = 30


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How `evaluate` predicts, and how much of it is kept to look at."""

    batch_size: int = 8
    """Clips predicted at once."""
    max_clips: int | None = None
    """Score only this many clips, evenly spaced; None for all. The receipt says how many it was."""
    num_shown: int = 8
    """Clips whose frames are kept for the report: evenly spaced over those scored, never chosen by score."""
    num_resamples: int = 2000
    """Bootstrap resamples over recordings."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("max_clips", 1), ("num_shown", 0), ("num_resamples", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")


def evaluate(
    run: Path,
    *,
    track: Track[Any],
    model: torch.nn.Module,
    clips: ClipDataset,
    config: InferenceConfig,
    receipt: Mapping[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write `scores.json` and `predictions/` into `run`, each whole, and return the scores' content.

    `receipt` says what only the caller knows: configuration, data, weights. Clips are shared over processes.
    """
    accelerator = Accelerator()
    model = model.to(accelerator.device).eval()
    count = len(clips) if config.max_clips is None else min(config.max_clips, len(clips))
    chosen = _evenly(len(clips), count)
    shown = {int(chosen[place]) for place in _evenly(count, min(config.num_shown, count))}
    mine = chosen[accelerator.process_index :: accelerator.num_processes]
    rows: list[dict[str, Any]] = []
    partial = run / f".{PREDICTIONS_FOLDER}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    with torch.no_grad():
        for first in range(0, len(mine), config.batch_size):
            indices = mine[first : first + config.batch_size]
            batch = next(ordered_batches(clips, indices, batch_size=config.batch_size)).to(accelerator.device)
            prediction = track.predict(model, batch)
            scores = track.score(model, batch, prediction)
            wanted = [place for place, index in enumerate(indices) if index in shown]
            if wanted:
                panels = track.panels(batch, prediction)
                for place in wanted:
                    text = f"{len(shown)} of {count} clips, evenly spaced over the split, not chosen by score"
                    _save_panels(partial, batch.clips[place], {k: v[place] for k, v in panels.items()}, chosen=text)
            for place, (index, clip) in enumerate(zip(indices, batch.clips, strict=True)):
                values = {m: {p: float(v[place]) for p, v in by.items()} for m, by in scores.items()}
                rows.append({"index": index, **clip._asdict(), "values": values})
            if progress is not None and accelerator.is_main_process:
                progress(min(len(rows) * accelerator.num_processes, count), count)
    rows = sorted(gather_object(rows), key=lambda row: row["index"])
    content: dict[str, Any] = {
        "version": SCORES_VERSION,
        "track": track.kind,
        "receipt": {
            **receipt,
            "num_clips": len(rows),
            "num_recordings": len({row["segment"] for row in rows}),
            "inference": asdict(config),
            **_environment(accelerator),
        },
        "metrics": {name: asdict(metric) for name, metric in track.metrics.items() if name in rows[0]["values"]},
        "predictors": track.predictors,
        "scores": summarise(rows, names=list(track.metrics), num_resamples=config.num_resamples),
        "clips": rows,
    }
    if accelerator.is_main_process:
        shutil.rmtree(run / PREDICTIONS_FOLDER, ignore_errors=True)
        partial.rename(run / PREDICTIONS_FOLDER)
        _write_json(run / SCORES_FILE, content)
    accelerator.wait_for_everyone()
    return content


def summarise(rows: Sequence[Mapping[str, Any]], *, names: Sequence[str], num_resamples: int) -> list[dict[str, Any]]:
    """Means with bootstrap intervals over recordings, and for each trivial predictor the paired margin to the model.

    A margin is model minus predictor on the same clips, resampled together.
    """
    groups = np.array([row["segment"] for row in rows])
    result: list[dict[str, Any]] = []
    for name in names:
        if name not in rows[0]["values"]:
            continue
        values = {p: np.array([row["values"][name][p] for row in rows]) for p in rows[0]["values"][name]}
        for predictor, own in values.items():
            margin = (
                None
                if predictor == MODEL
                else _finite(paired_bootstrap(values[MODEL], own, groups, num_resamples=num_resamples))
            )
            interval = bootstrap(own, groups, num_resamples=num_resamples)
            result.append({"metric": name, "predictor": predictor, **_finite(interval), "margin": margin})
    return result


def _finite(interval: Interval) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in asdict(interval).items()}


def _evenly(total: int, count: int) -> list[int]:
    """`count` of the numbers 0 to total-1, evenly spaced, first and last among them."""
    return np.linspace(0, total - 1, count).round().astype(int).tolist() if count else []


def _save_panels(folder: Path, clip: ClipId, panels: Mapping[str, npt.NDArray[np.uint8]], *, chosen: str) -> None:
    meta = {**clip._asdict(), "fps": _FPS, "chosen": chosen}
    path = folder / f"clip_{clip.shard:03d}_{clip.start:06d}.npz"
    np.savez_compressed(path, allow_pickle=False, meta=np.array(json.dumps(meta)), **dict(panels))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def _environment(accelerator: Accelerator) -> dict[str, Any]:
    """What the numbers were made with: code, libraries, hardware, time."""
    device = accelerator.device
    return {
        "code_version": code_version(),
        "libraries": {name: _version(name) for name in ("torch", "numpy", "accelerate", "av")},
        "python": platform.python_version(),
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "num_processes": accelerator.num_processes,
        "num_threads": torch.get_num_threads(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def code_version() -> str:
    """The package's version and, in a git checkout, the commit; `+changed` if files differ from it."""
    root = Path(foreframe.__file__).parents[2]
    if not (root / ".git").exists():
        return foreframe.__version__

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = "+changed" if git("status", "--porcelain", "--untracked-files=no") else ""
    except (OSError, subprocess.CalledProcessError):
        return foreframe.__version__
    return f"{foreframe.__version__} ({commit}{changed})"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
