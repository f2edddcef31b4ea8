"""Run folders: start or resume one, evaluate one. What the command line and the demo share."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreframe.config import CONFIG_FILE, RunConfig, build_track, differences, load_config, save_config, to_json
from foreframe.data.layout import find_split, fingerprint
from foreframe.data.writer import atomic_folder
from foreframe.encode import is_simulated
from foreframe.errors import InputError, UsageError
from foreframe.evaluate import SCORES_FILE, InferenceConfig, evaluate
from foreframe.models.weights import checkpoint_folders, shipped_runs, weights_hash
from foreframe.train.checkpoint import export_checkpoint, load_checkpoint
from foreframe.train.journal import METRICS_FILE
from foreframe.train.loop import train

if TYPE_CHECKING:
    from collections.abc import Callable

    from foreframe.data.layout import Split
    from foreframe.data.loader import ClipDataset
    from foreframe.tracks.track import Track

_FREE_TO_CHANGE = (
    "data",
    "inference",
    "train.num_steps",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.log_every",
    "train.validate_every",
    "train.num_val_clips",
    "train.num_workers",
    "train.micro_batch_size",
)
"""What a resumed run may be given anew: where the data lies now, how long, and how often to look."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """An existing run folder, ready to use."""

    folder: Path
    config: RunConfig
    track: Track[Any]
    model: Any
    checkpoint: Path
    """The newest finished checkpoint, which `model` holds."""


def sample_data() -> Path:
    """The simulated sample inside the package: `train` and `val`, from different rooms."""
    return Path(str(resources.files("foreframe"))) / "sample"


def split_folder(root: Path | None, split: Split) -> Path:
    """The dataset folder of `split` under `root` (None: the sample). Raises when there is none."""
    root = sample_data() if root is None else root
    found = find_split(root, split)
    if found is None:
        raise InputError(f"{root}: holds no {split} split; give it a folder {split}/ in 1X's v2.0 format")
    return found


def train_run(folder: Path, config: RunConfig, *, cache: Path | None = None) -> bool:
    """Start or resume the run in `folder`. Returns False if it was asked to stop before the last step."""
    root = split_folder(config.data, "train")
    _prepare(folder, config)
    track = build_track(config)
    cache = folder / "cache" if cache is None else cache
    train_clips = track.open(root, cache=cache)
    val_clips = _open_val(track, config, cache)
    return train(
        folder,
        track=track,
        train_clips=train_clips,
        val_clips=val_clips,
        config=config.train,
        optim=config.optim,
        label=config.recipe,
    )


def open_run(folder: Path) -> Run:
    """Read a run's configuration and newest checkpoint; a shipped run's name stands for its folder."""
    shipped = shipped_runs()
    if not folder.exists() and str(folder) in shipped:
        folder = shipped[str(folder)]
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such run folder; `foreframe train RECIPE --out {folder}` makes one")
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(f"{folder}: is not a run folder, it holds no {CONFIG_FILE}")
    config = load_config(folder)
    checkpoints = checkpoint_folders(folder)
    if not checkpoints:
        raise InputError(
            f"{folder}: has no finished checkpoint yet; `foreframe train {config.recipe} --out {folder}` goes on"
        )
    track = build_track(config)
    model = track.build()
    load_checkpoint(checkpoints[-1], track=track, model=model)
    return Run(folder=folder, config=config, track=track, model=model.eval(), checkpoint=checkpoints[-1])


def evaluate_run(
    folder: Path,
    *,
    data: Path | None = None,
    inference: InferenceConfig | None = None,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score a run's newest checkpoint on the val split of `data` (default: where it was trained)."""
    run = open_run(folder)
    root = _held_out(run.config, data)
    clips = run.track.open(root, cache=run.folder / "cache" if cache is None else cache, with_video=True)
    config = run.config.inference if inference is None else inference
    receipt = {
        "recipe": run.config.recipe,
        "checkpoint": run.checkpoint.name,
        "weights_sha256": weights_hash(run.checkpoint),
        "data": root.name,
        "data_fingerprint": fingerprint(root),
        "split": "val",
        "simulated": is_simulated(root),
        "seed": run.config.train.seed,
        "config": to_json(run.config),
    }
    return evaluate(
        run.folder, track=run.track, model=run.model, clips=clips, config=config, receipt=receipt, progress=progress
    )


def copy_shipped(name: str, out: Path) -> None:
    """A shipped run as a folder of one's own, to evaluate and report like any other. An earlier copy is replaced."""
    runs = shipped_runs()
    if name not in runs:
        raise UsageError(f"{name}: is not shipped; these are: {', '.join(runs) or 'none'}")
    if out.exists() and not (out / CONFIG_FILE).is_file():
        raise UsageError(f"{out}: is there and is not a run folder; name another place")
    shutil.rmtree(out, ignore_errors=True)
    with atomic_folder(out) as partial:
        shutil.copytree(runs[name], partial, dirs_exist_ok=True)


def export_run(folder: Path, out: Path) -> None:
    """Copy a run with its newest checkpoint in half precision: no optimiser state, no cache, no data path."""
    run = open_run(folder)
    with atomic_folder(out) as partial:
        save_config(partial, replace(run.config, data=None))
        (partial / "checkpoints").mkdir()
        export_checkpoint(run.checkpoint, partial / "checkpoints" / run.checkpoint.name, model=run.model)
        for name in (METRICS_FILE, SCORES_FILE):
            if (run.folder / name).is_file():
                shutil.copy(run.folder / name, partial / name)


def make_folder(folder: Path) -> None:
    """Make `folder` if it is not there; `UsageError` if that cannot be, or nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"{folder}: cannot be written ({reason}); name a writable folder with --out") from error


def _prepare(folder: Path, config: RunConfig) -> None:
    """Make the folder and write `config.json`, or make sure that the run there is the same one."""
    if (folder / CONFIG_FILE).is_file():
        there = load_config(folder)
        changed = {
            name: values for name, values in differences(there, config).items() if not name.startswith(_FREE_TO_CHANGE)
        }
        if changed:
            name, (old, new) = next(iter(changed.items()))
            raise UsageError(
                f"{folder}: holds another run: {name} is {old!r} there and {new!r} here; use its settings to go on "
                "with it, or another --out"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder}: is a folder with other files in it; name a new one with --out")
    make_folder(folder)
    save_config(folder, config)


def _held_out(config: RunConfig, data: Path | None) -> Path:
    """The split to score: the named data's, else the one beside the training data, never the training data itself."""
    if data is not None:
        return split_folder(data, "val")
    root = split_folder(config.data, "val")
    if root == config.data:
        raise InputError(f"{root}: is what the run was trained on; name held-out data with --data")
    return root


def _open_val(track: Track[Any], config: RunConfig, cache: Path) -> ClipDataset | None:
    root = sample_data() if config.data is None else config.data
    if not config.train.validate_every:
        return None
    found = find_split(root, "val")
    # A root that is itself a dataset is the training split: nothing is held out then.
    return None if found is None or found == root else track.open(found, cache=cache)
