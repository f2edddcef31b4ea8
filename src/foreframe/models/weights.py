"""A model as a folder: `model.json` says what it is, `model.safetensors` holds its parameters, nothing is unpickled.

A run keeps such folders under `checkpoints/step_00001000/`; whoever needs a trained model names the run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from foreframe.errors import InputError, UsageError
from foreframe.files import listed, naming, sha256_file
from foreframe.models.autoencoder import VideoAutoencoder
from foreframe.models.config import AutoencoderConfig, STTransformerConfig, TokenizerConfig
from foreframe.models.st_transformer import STTransformer
from foreframe.models.tokenizer import VideoTokenizer

if TYPE_CHECKING:
    from torch import nn

    from foreframe.models.wan import StateConditionedWan

    Model = STTransformer | VideoTokenizer | VideoAutoencoder | StateConditionedWan

ModelT = TypeVar("ModelT", STTransformer, VideoTokenizer, VideoAutoencoder)

WEIGHTS_FILE = "model.safetensors"
MODEL_FILE = "model.json"
PARTS = ("adapter_config.json", "adapter_model.safetensors", "robot.safetensors")
"""What is kept of a model whose base is frozen (`models.wan`)."""
_CONFIGS: dict[str, type[Any]] = {
    "STTransformer": STTransformerConfig,
    "VideoTokenizer": TokenizerConfig,
    "VideoAutoencoder": AutoencoderConfig,
}
_SCALE = ".scale"
_STEP = re.compile(r"step_\d{8}")


def save_model(folder: Path, model: Model, *, compact: bool = False) -> None:
    """Write `model.json` and `model.safetensors` into an existing folder.

    `compact` keeps matrices and kernels as int8 with a scale for each row, and the rest in half precision: a quarter
    of the size, at an error of at most 1/254 of the row's largest weight.
    """
    description = {"class": type(model).__name__, "config": asdict(_settings(model))}
    (folder / MODEL_FILE).write_text(json.dumps(description, indent=1) + "\n")
    if is_partly_trained(model):
        partly: Any = model
        partly.save_trained(folder)
        return
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if compact:
        tensors = _compacted(tensors)
    save_tensors(tensors, folder / WEIGHTS_FILE)


def _settings(model: Any) -> Any:
    """The dataclass that a model was built from; a diffusers model's `config` is another thing."""
    return getattr(model, "settings", None) or model.config


def is_partly_trained(model: Any) -> bool:
    """Whether a model's base is frozen, and lies elsewhere: only what was trained on top of it is ours to keep."""
    return getattr(_settings(model), "lora_rank", 0) > 0


def _compacted(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Floating-point tensors of two or more axes as `NAME` int8 and `NAME.scale` float32 (rows, 1, ...)."""
    compacted: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        if not value.is_floating_point():
            compacted[name] = value
        elif value.ndim < 2:
            compacted[name] = value.half()
        else:
            scale = value.float().abs().amax(tuple(range(1, value.ndim)), keepdim=True).clamp(min=1e-30) / 127
            compacted[name] = (value / scale).round().to(torch.int8)
            compacted[name + _SCALE] = scale
    return compacted


def _expanded(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Inverse of `_compacted`, in float32, up to what was rounded away; other tensors pass unchanged."""
    scales = {name: value for name, value in tensors.items() if name.endswith(_SCALE)}
    return {
        name: value * scale if (scale := scales.get(name + _SCALE)) is not None else value
        for name, value in tensors.items()
        if name not in scales
    }


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file; a disk that is full is an `OSError` like any other, and names the file."""
    try:
        with naming(path):
            save_file(tensors, path)
    except SafetensorError as error:
        told = re.search(r"os error (\d+)", str(error))
        number = int(told[1]) if told else errno.EIO
        raise OSError(number, os.strerror(number) if told else str(error), str(path)) from error


def model_class(folder: Path) -> str:
    """Name of the class that a model folder describes."""
    return _description(folder)[0]


def _description(folder: Path) -> tuple[str, Any]:
    """Class and configuration in `model.json`."""
    try:
        description = json.loads((folder / MODEL_FILE).read_text())
        return str(description["class"]), description["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / MODEL_FILE}: cannot be read as a model description: {error}") from error


def load_model(folder: Path, expected: type[ModelT]) -> ModelT:
    """Build what `model.json` describes and fill it in float32; `InputError` if it is another class or does not fit."""
    _require_class(folder, expected)
    name, config = _description(folder)
    try:
        settings: Any = TypeAdapter(_CONFIGS[name]).validate_python(config)
        model = expected(settings)
    except (ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder / MODEL_FILE}: not a valid {name} configuration: {reason}") from error
    load_weights(folder, model)
    return model.eval()


def _require_class(folder: Path, expected: type[Any]) -> None:
    if (found := model_class(folder)) != expected.__name__:
        raise InputError(f"{folder}: holds a {found}, but a {expected.__name__} is needed here")


def load_weights(folder: Path, model: nn.Module) -> None:
    """Fill `model` in place from what `save_model` wrote; class, names and shapes must match exactly."""
    _require_class(folder, type(model))
    if is_partly_trained(model):
        loader: Any = model
        loader.load_trained(folder)
        return
    tensors = _expanded(read_tensors(folder / WEIGHTS_FILE))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder / WEIGHTS_FILE}: does not fit the model: {reason}") from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a safetensors file, on the CPU; `InputError` naming the file if it is missing or broken."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from error


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weights, which a receipt or a cache's fingerprint names: of `model.safetensors`, or of the parts
    that were trained on a frozen base, one after the other.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return sha256_file(folder / WEIGHTS_FILE)
    parts = [sha256_file(folder / name) for name in PARTS if (folder / name).is_file()]
    if not parts:
        raise InputError(f"{folder}: holds no {WEIGHTS_FILE}")
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def find_weights(name: str | Path) -> Path:
    """The folder that holds `model.json` for a shipped model's name, a model folder, or a run's newest checkpoint.

    Raises `UsageError` if there is no such thing and `InputError` if a run has no complete checkpoint.
    """
    shipped = shipped_runs()
    path = shipped[str(name)] if str(name) in shipped else Path(name)
    if not path.exists():
        raise UsageError(f"{name}: no such run or model folder, nor one of the shipped models: {', '.join(shipped)}")
    if (path / MODEL_FILE).is_file():
        return path
    steps = checkpoint_folders(path)
    if not steps:
        raise InputError(f"{path}: holds neither {MODEL_FILE} nor a finished checkpoint; train it first")
    return steps[-1]


def shipped_runs() -> dict[str, Path]:
    """The trained runs inside the package, by name."""
    root = Path(str(resources.files("foreframe"))) / "weights"
    return {folder.name: folder for folder in sorted(root.glob("*")) if (folder / "checkpoints").is_dir()}


def checkpoint_folders(run: Path) -> list[Path]:
    """A run's finished checkpoints, oldest first. Whatever is not named `step_` and eight digits is not finished."""
    return [folder for folder in listed(run / "checkpoints", "step_*") if _STEP.fullmatch(folder.name)]
