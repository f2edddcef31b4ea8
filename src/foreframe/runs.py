"""Run folders: start or resume one, evaluate one. What the command line and the demo share."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from foreframe.config import CONFIG_FILE, RunConfig, differences, load_config, run_name, save_config, to_json
from foreframe.data.encoding import is_simulated, source_fingerprint
from foreframe.data.folders import atomic_folder
from foreframe.data.integrity import fingerprint
from foreframe.data.layout import find_split
from foreframe.data.places import without_split
from foreframe.errors import InputError, UsageError
from foreframe.evaluate import evaluate, evaluating
from foreframe.files import listed, locked, make_folder, meant_run, shortened, write_whole
from foreframe.models.hub import pinned_revision, refuse_other_forms
from foreframe.models.weights import (
    MODEL_FILE,
    checkpoint_folders,
    differing_setting,
    is_partly_trained,
    named_folder,
    require_fit,
    shipped_runs,
    weights_hash,
)
from foreframe.permissions import NONE, Permissions
from foreframe.tracks.config import ReconstructionConfig, SamplingConfig
from foreframe.tracks.table import build_track
from foreframe.train.checkpoint import (
    TRAINER_FILE,
    Progress,
    export_checkpoint,
    input_files,
    load_checkpoint,
    read_progress,
)
from foreframe.train.journal import METRICS_FILE
from foreframe.train.loop import train
from foreframe.train.processes import start_accelerator

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from foreframe.data.layout import Split
    from foreframe.inference.config import InferenceConfig
    from foreframe.tracks.track import Track

TRAIN_LOCK = ".train.lock"
"""In a run folder: held by the one process that trains there. Evaluation does not ask for it."""
_FREE_TO_CHANGE = {
    "data",
    "train.num_steps",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.validate_every",
    "train.num_val_clips",
    "train.num_workers",
}
"""What a resumed run may be given anew, besides `inference` and `_HOW_TO_PREDICT`: where its data lies now, how long,
how often to look."""


_MOST_TRIES = 10
"""Times that the newest checkpoint is read, where training removes it while it is read."""
_HOW_TO_PREDICT = ("rollout", "sampler", "ensemble", "decode", "answer", "inference_precision")
"""Fields of a track that leave what is learnt alone."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """An existing run folder, ready to use."""

    folder: Path
    config: RunConfig
    track: Track[Any]
    model: Any
    checkpoint: Path
    """The newest finished checkpoint when it was opened, which `model` holds. Training may have removed it since."""
    progress: Progress
    """How far that is, on what data."""
    weights_sha256: str
    """Of its weights."""
    files: Mapping[str, bytes]
    """Its small files by name: all but weights and the optimiser's state."""


def sample_data() -> Path:
    """The simulated sample inside the package: `train` and `val`, from different rooms."""
    return Path(str(resources.files("foreframe"))) / "sample"


def split_folder(config: RunConfig, root: Path | None, split: Split) -> Path | None:
    """The dataset folder of `split` under `root` (None: where the run's data lies), or None if there is none.

    Where a split is there both raw and tokenised, the track takes the form it works on.
    """
    if root is None:
        if config.data is None:
            raise UsageError(f"{config.recipe}: needs data; name a folder with `train` and `val` in it with --data")
        root = sample_data() if config.data == "sample" else config.data
    return find_split(root, split, kind="tokens" if config.track.kind == "compression" else "raw")


def train_run(folder: Path, config: RunConfig, *, cache: Path | None = None, permissions: Permissions = NONE) -> Path:
    """Start or resume the run in `folder` and return its last checkpoint; `Stopped` if a signal ends it before.

    One at a time: where another process trains in `folder`, `UsageError`.
    """
    root, held_out = (split_folder(config, None, split) for split in ("train", "val"))
    if root is None:
        said = "holds no train split; give it a folder train/ in 1X's v2.0 format"
        raise InputError(without_split(config.data, said))
    cache = folder / "cache" if cache is None else cache
    data_fingerprint = source_fingerprint(root, on_bad_shard=config.on_bad_shard)
    accelerator = start_accelerator()
    with _alone(folder) if accelerator.is_main_process else nullcontext():
        # The first process makes the folder and whatever is cached in it; the others find it made.
        with accelerator.main_process_first():
            config = _pinned_as(folder, config, permissions=permissions)
            if accelerator.is_main_process:
                _prepare(folder, config, data_fingerprint=data_fingerprint)
            track = build_track(config.track, permissions=permissions)
            train_clips = track.open(root, cache=cache, on_bad_shard=config.on_bad_shard)
            if accelerator.is_main_process:
                tell_skipped(root, train_clips.skipped)
            val_clips = None
            # A root that is itself a dataset stands for every split: nothing is held out then.
            if config.train.validate_every and held_out is not None and held_out != root:
                val_clips = track.open(held_out, cache=cache, with_video=track.scores_pixels)
        train(
            folder,
            track=track,
            train_clips=train_clips,
            val_clips=val_clips,
            data_fingerprint=data_fingerprint,
            config=config.train,
            optim=config.optim,
            accelerator=accelerator,
            label=config.recipe,
        )
    return folder / "checkpoints" / f"step_{config.train.num_steps:08d}"


@contextmanager
def _alone(folder: Path) -> Generator[None, None, None]:
    """Make the run folder, if it may be one, and keep other trainings out of it until the body ends."""
    names = {path.name for path in listed(folder)}
    if CONFIG_FILE not in names and any(not name.startswith(".") for name in names):
        raise UsageError(f"{folder}: is a folder with other files in it; name a new one with --out")
    make_folder(folder, advice="name a writable folder with --out")
    lock = folder / TRAIN_LOCK
    for path in (folder / METRICS_FILE, folder / "checkpoints"):
        if path.exists() and not os.access(path, os.W_OK):
            raise UsageError(f"{path}: cannot be written (Permission denied); name a folder of yours with --out")
    with ExitStack() as stack:
        try:
            taken = f"{folder}: another `train` ({{pid}}) is at work here; let it end, or name another --out"
            stack.enter_context(locked(lock, taken=taken))
        except OSError as error:
            raise UsageError(
                f"{lock}: cannot be written ({error.strerror}); name a folder of yours with --out"
            ) from error
        yield


def tell_skipped(root: Path, skipped: Mapping[int, str]) -> None:
    """Say on the error stream which shards were left out, and why."""
    for shard, reason in skipped.items():
        print(f"foreframe: skipped shard {shard}: {reason}", file=sys.stderr)
    if skipped:
        print(f"foreframe: skipped {len(skipped)} shard{'s' * (len(skipped) > 1)} of {root}", file=sys.stderr)


def open_run(folder: Path, *, predicting: Mapping[str, Any] | None = None, permissions: Permissions = NONE) -> Run:
    """Read a run's configuration and newest checkpoint; a shipped run's name stands for its folder.

    `predicting` replaces settings of how the track predicts, by their names; `UsageError` if it has no such setting.
    All that is ever needed of the checkpoint is read here: a training that goes on may remove it the next moment. If
    it does so meanwhile, the newest one is read again.
    Nothing in the folder is run, and nothing fetched for it, that `permissions` do not name.
    """
    folder, config = _settings(folder, predicting)
    config = _pinned(config, permissions=permissions)
    track = build_track(config.track, permissions=permissions)
    model: Any = None
    for _ in range(_MOST_TRIES):
        checkpoints = checkpoint_folders(folder)
        if not checkpoints:
            raise InputError(
                f"{folder}: has no finished checkpoint yet; `foreframe train {config.recipe} --out {folder}` goes on"
            )
        newest = checkpoints[-1]
        try:
            if model is None:
                require_fit(newest, config.track.model, track.build)
                model = track.build()
            progress = load_checkpoint(newest, track=track, model=model)
            return Run(
                folder=folder,
                config=config,
                track=track,
                model=model.eval(),
                checkpoint=newest,
                progress=progress,
                weights_sha256=weights_hash(newest),
                files=_small_files(newest),
            )
        except (InputError, OSError):
            # Damaged, unless another one has taken its place.
            if checkpoint_folders(folder)[-1:] == [newest]:
                if model is None:
                    _refuse_edited(folder, newest, config)
                raise
    raise InputError(
        f"{folder}: is trained on, and its checkpoints are removed faster than they are read; start again, or keep "
        "more of them with --train.keep-checkpoints"
    )


def _refuse_edited(folder: Path, checkpoint: Path, config: RunConfig) -> None:
    """Raise `InputError` if the configuration, edited most likely, asks for another model than the checkpoint holds."""
    if differs := differing_setting(checkpoint, config.track.model):
        name, there, own = differs
        raise InputError(
            f"{folder / CONFIG_FILE}: track.model.{name} is {shortened(repr(own), 60)}, but the model in "
            f"{checkpoint.name} was built with {shortened(repr(there), 60)}; put that back"
        )


def _settings(folder: Path, predicting: Mapping[str, Any] | None) -> tuple[Path, RunConfig]:
    """A run's folder, found by a shipped one's name too, and its configuration with what is to be replaced in it."""
    folder = named_folder(folder)
    if not folder.is_dir():
        near = meant_run(folder, CONFIG_FILE) if folder.exists() else ""
        advice = near or f"; `foreframe train RECIPE --out {folder}` makes one"
        raise UsageError(f"{folder}: {'is no folder' if folder.exists() else 'no such run folder'}{advice}")
    refuse_other_forms(folder)
    if not (folder / CONFIG_FILE).is_file():
        near = meant_run(folder, CONFIG_FILE)
        raise InputError(f"{folder}: is not a run folder, it holds no {CONFIG_FILE}{near}")
    config = load_config(folder)
    for name, value in (predicting or {}).items():
        if not hasattr(config.track, name):
            raise UsageError(f"{folder}: its track, {config.track.kind}, has no {name} to set")
        try:
            config = replace(config, track=replace(config.track, **{name: value}))
        except ValueError as error:
            raise UsageError(f"{folder}: {name} does not fit this run: {error}") from error
    return folder, config


def _small_files(checkpoint: Path) -> dict[str, bytes]:
    return {name: (checkpoint / name).read_bytes() for name in (*sorted(input_files(checkpoint)), TRAINER_FILE)}


def evaluate_run(
    folder: Path,
    *,
    data: Path | None = None,
    inference: InferenceConfig | None = None,
    predicting: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    permissions: Permissions = NONE,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score a run's newest checkpoint on the val split of `data` (default: beside what it was trained on).

    `inference` and `predicting` (see `open_run`) replace the run's own settings; the receipt holds what was used.
    """
    folder, settings = _settings(folder, predicting)
    if folder in shipped_runs().values():
        raise UsageError(
            f"{folder}: lies inside the package; `foreframe export {folder} --out RUN` makes a copy to evaluate"
        )
    root = split_folder(settings, data, "val")
    if root is None:
        said = "holds no val split; name held-out data with --data"
        raise InputError(without_split(data or settings.data, said))
    accelerator = start_accelerator()
    with evaluating(folder, accelerator):
        run = open_run(folder, predicting=predicting, permissions=permissions)
        if source_fingerprint(root) == run.progress.data_fingerprint:
            raise InputError(f"{root}: is what the run was trained on; name held-out data with --data")
        cache = run.folder / "cache" if cache is None else cache
        with accelerator.main_process_first():
            clips = run.track.open(root, cache=cache, with_video=True)
        config = run.config.inference if inference is None else inference
        receipt = {
            "recipe": run.config.recipe,
            "checkpoint": run.checkpoint.name,
            "weights_sha256": run.weights_sha256,
            "trained_on_fingerprint": run.progress.data_fingerprint,
            "dataset": root.name,
            "dataset_fingerprint": fingerprint(root),
            "encoded_fingerprint": clips.encoded_fingerprint,
            "split": "val" if root != data else "the folder given",
            "simulated": is_simulated(root),
            "seed": run.config.train.seed,
            "config": to_json(run.config),
        }
        return evaluate(
            run.folder,
            track=run.track,
            model=run.model,
            clips=clips,
            config=config,
            receipt=receipt,
            accelerator=accelerator,
            progress=progress,
        )


def copy_shipped(name: str, out: Path) -> None:
    """A shipped run as a folder of one's own, to evaluate and report like any other. An earlier copy is replaced."""
    runs = shipped_runs()
    if name not in runs:
        raise UsageError(f"{name}: is not shipped; these are: {', '.join(runs) or 'none'}")
    if out.exists():
        newest = checkpoint_folders(out)
        if not newest or weights_hash(newest[-1]) != weights_hash(checkpoint_folders(runs[name])[-1]):
            raise UsageError(f"{out}: is there and is not a copy of the shipped {name}; name another place")
    shutil.rmtree(out, ignore_errors=True)
    with atomic_folder(out) as partial:
        for path in sorted(runs[name].rglob("*")):
            if path.is_file():
                write_whole(partial / path.relative_to(runs[name]), path.read_bytes())


def export_run(
    folder: Path, out: Path, *, average_with: Sequence[Path] = (), permissions: Permissions = NONE
) -> list[str]:
    """Copy a run with its newest checkpoint, weights in 8 bits: no optimiser state, no cache, no data path, no scores.

    Scores are of the weights they were computed with; evaluate the copy for its own. With `average_with`, the weights
    are the mean of that run's and of these: of runs that went on from one another, it often predicts better than any
    (Wortsman et al., 2022). `UsageError` if they are not the same model on the same inputs.

    Returns the folders of this machine that the copy still names because it cannot predict without them.
    """
    run = open_run(folder, permissions=permissions)
    weights = run.weights_sha256
    if average_with:
        others = [open_run(other, permissions=permissions) for other in average_with]
        _average(run, others)
        weights = " ".join([weights, *(other.weights_sha256 for other in others)])
    with atomic_folder(out) as partial:
        config = _without_paths(run.config)
        save_config(partial, config, name=run_name(config, weights))
        export_checkpoint(run.files, partial / "checkpoints" / run.checkpoint.name, model=run.model)
        if (run.folder / METRICS_FILE).is_file():
            write_whole(partial / METRICS_FILE, (run.folder / METRICS_FILE).read_bytes())
    track: Any = run.config.track
    named = (getattr(track, "tokenizer", None), getattr(track, "autoencoder", None), getattr(track.model, "base", None))
    return sorted({name for name in named if name is not None and Path(name).is_absolute()})


@torch.no_grad()
def _average(run: Run, others: Sequence[Run]) -> None:
    """Make the weights of `run.model` the mean over all runs; what is the same in all stays so to the bit."""
    if is_partly_trained(run.model):
        raise UsageError(f"{run.folder}: holds adapters; the mean of two is not what they do together; export it alone")
    for other in others:
        names = {*run.files, *other.files} - {TRAINER_FILE}
        for name in sorted(names, key=lambda name: name != MODEL_FILE):
            if run.files.get(name) != other.files.get(name):
                raise UsageError(
                    f"{other.checkpoint / name}: is not what {run.folder} has; only one model's weights can be averaged"
                )
    weights = [one.model.state_dict() for one in others]
    for name, value in run.model.state_dict().items():
        if value.is_floating_point():
            value += sum(other[name] - value for other in weights) / (1 + len(weights))


def _without_paths(config: RunConfig) -> RunConfig:
    """The configuration without where its data and first weights lay; a tokenizer of one's own is still needed."""
    track = config.track
    if isinstance(track, ReconstructionConfig):
        config = replace(config, track=replace(track, start_from=None, freeze_encoder=False))
    elif isinstance(track, SamplingConfig):
        # The prompt's row lies beside the weights.
        config = replace(config, track=replace(track, start_from=None, prompt=None))
    return config if config.data == "sample" else replace(config, data=None)


def _pinned(config: RunConfig, *, permissions: Permissions) -> RunConfig:
    """The configuration in which whatever lies on the hub is named with its commit, found out once and then kept."""
    track = config.track
    if not isinstance(track, SamplingConfig):
        return config
    base, own = track.model.base, track.autoencoder
    if base is not None and track.model.base_revision is None:
        commit = pinned_revision(base, permissions=permissions)
        track = replace(track, model=replace(track.model, base_revision=commit))
    if own is not None and track.autoencoder_revision is None and own not in shipped_runs():
        track = replace(track, autoencoder_revision=pinned_revision(own, permissions=permissions))
    return replace(config, track=track)


def _pinned_as(folder: Path, config: RunConfig, *, permissions: Permissions) -> RunConfig:
    """`_pinned`, with the commits of the run that `folder` holds, if that names the same."""
    track = config.track
    if isinstance(track, SamplingConfig) and (folder / CONFIG_FILE).is_file():
        there = load_config(folder).track
        if isinstance(there, SamplingConfig):
            if there.model.base == track.model.base and track.model.base_revision is None:
                track = replace(track, model=replace(track.model, base_revision=there.model.base_revision))
            if there.autoencoder == track.autoencoder and track.autoencoder_revision is None:
                track = replace(track, autoencoder_revision=there.autoencoder_revision)
    return _pinned(replace(config, track=track), permissions=permissions)


def _prepare(folder: Path, config: RunConfig, *, data_fingerprint: str) -> None:
    """Write `config.json`, or make sure that the run in the folder is the same one."""
    name = run_name(config, data_fingerprint)
    # Whether the run has begun is never guessed from what cannot be listed.
    if CONFIG_FILE in {path.name for path in listed(folder)}:
        there, checkpoints = load_config(folder), checkpoint_folders(folder)
        changed = {
            name: values
            for name, values in differences(there, config).items()
            if name not in _FREE_TO_CHANGE
            and not name.startswith(("inference.", *(f"track.{field}" for field in _HOW_TO_PREDICT)))
        }
        # Until something is learnt the settings may still be put right.
        if changed and checkpoints:
            field, (old, new) = next(iter(changed.items()))
            raise UsageError(
                f"{folder}: holds another run: {field} is {old!r} there and {new!r} here; use its settings to go on "
                "with it, or another --out"
            )
        done = read_progress(checkpoints[-1]) if checkpoints else None
        if done is not None and done.data_fingerprint != data_fingerprint:
            raise InputError(f"{folder}: was trained on other data than it is given now; train anew into another --out")
        if done is not None and done.step > config.train.num_steps:
            raise UsageError(
                f"{folder}: has done {done.step} steps already, more than train.num-steps {config.train.num_steps}; "
                "name another --out to train for fewer"
            )
        if done is not None:
            save_config(folder, config)
            return
    save_config(folder, config, name=name)
