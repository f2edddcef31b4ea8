"""Checkpoints that are whole or not there: written beside, sealed by a manifest, shown by one rename.

    RUN/checkpoints/step_00001000/
        model.json, model.safetensors   what and where the model is (models/weights.py)
        statistics.json, ...            the track's training-set numbers
        optimizer.safetensors           Adam's averages by parameter name
        trainer.json                    step, elapsed seconds
        manifest.json                   step, run, size and SHA-256 of every other file; written last

Random numbers need no saving: every step draws from a seed of its own (`train.loop`).

What is read is verified first, which reads every byte of the checkpoint once to hash it: once in `evaluate` and
`export`, twice where `train` goes on.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from foreframe.errors import InputError
from foreframe.files import listed, naming, read_typed, write_whole
from foreframe.manifest import MANIFEST_FILE, seal, sync, verify
from foreframe.models.weights import (
    MODEL_FILE,
    PARTS,
    WEIGHTS_FILE,
    checkpoint_folders,
    load_weights,
    read_tensors,
    save_model,
    save_tensors,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from foreframe.tracks.track import Track

TRAINER_FILE = "trainer.json"
OPTIMIZER_FILE = "optimizer.safetensors"
CHECKPOINT_VERSION = 1
_ADVICE = "move that checkpoint out of the run to go on from the one before it, if there is one"
_MOMENTS = {"exp_avg", "exp_avg_sq"}
"""Adam's averages, in the shape and strides of their parameter."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    """Optimiser steps done."""
    elapsed: float = 0.0
    """Seconds of training over all sittings."""
    window: tuple[dict[str, float], ...] = ()
    """Measurements of the steps since the last line of the training curve."""
    data_fingerprint: str = ""
    """Of the training data."""


def save_checkpoint(
    run: Path, progress: Progress, *, track: Track[Any], model: Any, optimizer: torch.optim.Optimizer, keep: int
) -> Path:
    """Write the checkpoint of `progress.step` and remove all but the newest `keep`; returns its folder."""
    root = run / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    for leftover in listed(root, ".partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    final = root / f"step_{progress.step:08d}"
    partial = root / f".partial-{secrets.token_hex(4)}"
    try:
        with naming(final):
            partial.mkdir()
            save_model(partial, model)
            track.save_statistics(partial)
            save_tensors(_optimizer_tensors(optimizer, model), partial / OPTIMIZER_FILE)
            (partial / TRAINER_FILE).write_text(json.dumps({"version": CHECKPOINT_VERSION, **asdict(progress)}) + "\n")
            seal(partial, step=progress.step)
            partial.rename(final)
            sync(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in checkpoint_folders(run)[:-keep]:
        _prune(old)
    return final


_not_pruned: set[Path] = set()
"""Checkpoints that could not be removed, so that each is told once."""


def _prune(folder: Path) -> None:
    """Remove an old checkpoint; where that is not allowed, another's for one, say so and keep it."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        if folder not in _not_pruned:
            _not_pruned.add(folder)
            told = f"{folder}: this old checkpoint cannot be removed ({error.strerror}) and stays; training goes on"
            with suppress(OSError):  # the terminal may be gone
                print(f"foreframe: {told}", file=sys.stderr)


def load_checkpoint(
    folder: Path, *, track: Track[Any], model: Any, optimizer: torch.optim.Optimizer | None = None
) -> Progress:
    """Fill model, statistics and optimiser from a checkpoint whose files all match its manifest."""
    progress = read_progress(folder)
    load_weights(folder, model)
    track.load_statistics(folder)
    if optimizer is not None:
        _load_optimizer(folder / OPTIMIZER_FILE, optimizer, model)
    return progress


@dataclass(frozen=True, kw_only=True)
class _Trainer:
    """The content of `trainer.json`."""

    version: int
    step: int
    elapsed: float
    window: tuple[dict[str, float], ...]
    data_fingerprint: str


def read_progress(folder: Path) -> Progress:
    """How far a checkpoint is, after a look at all its files (`verify`)."""
    manifest = verify(folder, advice=_ADVICE)
    path = folder / TRAINER_FILE
    trainer = read_typed(path, _Trainer, advice=_ADVICE)
    if trainer.version != CHECKPOINT_VERSION:
        raise InputError(
            f"{path}: checkpoint version {trainer.version}, this build reads {CHECKPOINT_VERSION}; train anew into "
            "another folder"
        )
    if trainer.step != manifest.step:
        raise InputError(f"{path}: step is {trainer.step}, but the manifest's is {manifest.step}; {_ADVICE}")
    return Progress(
        step=trainer.step,
        elapsed=trainer.elapsed,
        window=trainer.window,
        data_fingerprint=trainer.data_fingerprint,
    )


def input_files(folder: Path) -> set[str]:
    """Names of the files that say what model it is and what it takes in: all but weights and training's own.

    Hidden files are none of a checkpoint's.
    """
    own = (MANIFEST_FILE, WEIGHTS_FILE, OPTIMIZER_FILE, TRAINER_FILE, *PARTS)
    return {path.name for path in listed(folder) if not path.name.startswith(".")} - set(own)


def export_checkpoint(files: Mapping[str, bytes], out: Path, *, model: Any) -> None:
    """Write the checkpoint that `model` was loaded from, weights compact and without the optimiser's state.

    `files` are that checkpoint's small ones by name, which training may have removed since they were read.
    `out` stands in a run folder with a `config.json` of its own, whose name it is sealed with.
    """
    out.mkdir(parents=True)
    save_model(out, model, compact=True)
    for name in files.keys() - {MODEL_FILE}:
        write_whole(out / name, files[name])
    seal(out)


def _optimizer_tensors(optimizer: torch.optim.Optimizer, model: Any) -> dict[str, torch.Tensor]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value.detach().cpu().contiguous()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def _load_optimizer(path: Path, optimizer: torch.optim.Optimizer, model: Any) -> None:
    tensors = read_tensors(path)
    parameters = dict(model.named_parameters())
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    for name, value in tensors.items():
        parameter_name, _, key = name.rpartition("/")
        parameter = parameters.get(parameter_name)
        if parameter is None or parameter not in trained:
            raise InputError(f"{path}: holds state of {parameter_name}, which this model does not train; {_ADVICE}")
        if value.shape != (parameter.shape if key in _MOMENTS else ()) or key not in {*_MOMENTS, "step"}:
            raise InputError(f"{path}: {name} has shape {list(value.shape)}, which Adam's has not; {_ADVICE}")
        if key in _MOMENTS:
            # Files hold no strides. Fused Adam walks through weight and moments side by side in memory, so that both
            # must lie there in the same order: channels last, where the weights do.
            optimizer.state[parameter][key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        else:
            # Adam counts its steps on the CPU unless fused on an accelerator, and then beside the parameter.
            optimizer.state[parameter][key] = value.to(parameter.device)
    for parameter_name, parameter in parameters.items():
        if parameter in optimizer.state and optimizer.state[parameter].keys() != {*_MOMENTS, "step"}:
            raise InputError(f"{path}: lacks a part of Adam's state of {parameter_name}; {_ADVICE}")
