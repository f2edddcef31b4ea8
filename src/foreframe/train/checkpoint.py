"""Checkpoints that are whole or not there: written beside, sealed by a manifest, shown by one rename.

    RUN/checkpoints/step_00001000/
        model.json, model.safetensors   what and where the model is (models/weights.py)
        statistics.json, ...            the track's training-set numbers
        optimizer.safetensors           Adam's averages by parameter name
        trainer.json                    step, elapsed seconds
        manifest.json                   size and SHA-256 of every other file; written last

Random numbers need no saving: every step draws from a seed of its own (`train.loop`).
"""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from foreframe.errors import InputError
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

    import torch

    from foreframe.tracks.track import Track

TRAINER_FILE = "trainer.json"
OPTIMIZER_FILE = "optimizer.safetensors"
CHECKPOINT_VERSION = 1
_ADVICE = "delete that checkpoint folder to go on from the one before it, if there is one"


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
    for leftover in root.glob(".partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    final = root / f"step_{progress.step:08d}"
    if final.exists():
        return final
    partial = root / f".partial-{secrets.token_hex(4)}"
    partial.mkdir()
    try:
        save_model(partial, model)
        track.save_statistics(partial)
        save_tensors(_optimizer_tensors(optimizer, model), partial / OPTIMIZER_FILE)
        (partial / TRAINER_FILE).write_text(json.dumps({"version": CHECKPOINT_VERSION, **asdict(progress)}) + "\n")
        seal(partial)
        partial.rename(final)
        sync(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in checkpoint_folders(run)[:-keep]:
        shutil.rmtree(old)
    return final


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


def read_progress(folder: Path) -> Progress:
    """How far a checkpoint is, after a look at all its files (`verify`)."""
    verify(folder, advice=_ADVICE)
    trainer = _read_json(folder / TRAINER_FILE)
    if trainer.get("version") != CHECKPOINT_VERSION:
        raise InputError(
            f"{folder / TRAINER_FILE}: checkpoint version {trainer.get('version')!r}, this build reads "
            f"{CHECKPOINT_VERSION}; train anew into another folder"
        )
    return Progress(
        step=trainer["step"],
        elapsed=trainer["elapsed"],
        window=tuple(trainer["window"]),
        data_fingerprint=trainer["data_fingerprint"],
    )


def input_files(folder: Path) -> set[str]:
    """Names of the files that say what model it is and what it takes in: all but weights and training's own."""
    own = (MANIFEST_FILE, WEIGHTS_FILE, OPTIMIZER_FILE, TRAINER_FILE, *PARTS)
    return {path.name for path in folder.iterdir()} - set(own)


def export_checkpoint(folder: Path, out: Path, *, model: Any) -> None:
    """Copy the checkpoint that `model` was loaded from, weights compact and without the optimiser's state."""
    out.mkdir()
    save_model(out, model, compact=True)
    for name in (input_files(folder) | {TRAINER_FILE}) - {MODEL_FILE}:
        shutil.copy(folder / name, out / name)
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
            raise InputError(f"{path}: holds state of {parameter_name}, which this model does not train")
        # Adam counts its steps on the CPU unless fused on an accelerator, and then beside the parameter.
        optimizer.state[parameter][key] = value.to(parameter.device)


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: is not a JSON object")
    return data
