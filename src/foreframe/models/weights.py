"""A model as a folder: `model.json` says what it is, `model.safetensors` holds its parameters, nothing is unpickled.

A run keeps such folders under `checkpoints/step_00001000/`; whoever needs a trained model names the run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from foreframe.errors import InputError, UsageError
from foreframe.files import listed, naming, read_json, require_regular, sha256_file, shortened, typed
from foreframe.manifest import MANIFEST_FILE, verify
from foreframe.models.autoencoder import VideoAutoencoder
from foreframe.models.config import AutoencoderConfig, STTransformerConfig, TokenizerConfig
from foreframe.models.hub import is_on_hub
from foreframe.models.st_transformer import STTransformer
from foreframe.models.tokenizer import VideoTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

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
_DEPTHS = ("num_layers", "num_blocks", "num_drawing_blocks", "num_res_blocks")
"""Fields of models' settings that say how many layers of a kind there are, each with a tensor at least."""
_DTYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"}
"""Types of numbers that are read, as safetensors calls them; the others (float8, say) need a scale nobody states."""
_STEP = re.compile(r"step_[0-9]{8}")


def save_model(folder: Path, model: Model, *, compact: bool = False) -> None:
    """Write `model.json` and `model.safetensors` into an existing folder.

    `compact` keeps matrices and kernels as int8 with a scale for each row, and the rest in half precision: a quarter
    of the size, at an error of at most 1/254 of the row's largest weight.
    """
    description = {"class": type(model).__name__, "config": asdict(without_place(_settings(model)))}
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


def without_place(settings: Any) -> Any:
    """A model's settings without where on this machine its base lies; a hub id is a public name and stays."""
    base = getattr(settings, "base", None)
    return settings if base is None or is_on_hub(base) else replace(settings, base=None)


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


def _expanded(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Inverse of `_compacted`, in float32, up to what was rounded away; other tensors pass unchanged."""
    scales = _scale_names(tensors)
    for name in scales:
        value, scale = tensors[name.removesuffix(_SCALE)], tensors[name]
        wanted = (*value.shape[:1], *[1] * (value.ndim - 1))
        if value.dtype != torch.int8 or scale.dtype != torch.float32 or scale.shape != wanted or value.ndim < 2:
            raise InputError(
                f"{path}: {name} is {_said(scale)} and what it scales {_said(value)}, but scales are float32 "
                f"{list(wanted)} of int8; take an undamaged copy"
            )
    return {
        name: value * tensors[name + _SCALE] if name + _SCALE in scales else value
        for name, value in tensors.items()
        if name not in scales
    }


def _scale_names(names: Iterable[str]) -> set[str]:
    """Those names that stand for the scales of another tensor that is there."""
    there = set(names)
    return {name for name in there if name.endswith(_SCALE) and name.removesuffix(_SCALE) in there}


def _said(value: torch.Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file; a disk that is full is an `OSError` like any other, and names the file.

    Whoever may read the files beside it may read it: safetensors alone would let nobody but its owner.
    """
    try:
        with naming(path):
            path.touch()
            mode = path.stat().st_mode
            save_file(tensors, path)
            path.chmod(mode & 0o777)
    except SafetensorError as error:
        told = re.search(r"os error (\d+)", str(error))
        number = int(told[1]) if told else errno.EIO
        raise OSError(number, os.strerror(number) if told else str(error), str(path)) from error


def model_class(folder: Path) -> str:
    """Name of the class that a model folder describes."""
    return _description(folder)[0]


def _description(folder: Path) -> tuple[str, dict[str, Any]]:
    """Class and configuration in `model.json`."""
    path, advice = folder / MODEL_FILE, "take an undamaged copy of the model"
    description = read_json(path, advice=advice)
    name, config = description.get("class"), description.get("config")
    if not isinstance(name, str) or not isinstance(config, dict):
        raise InputError(f"{path}: is no description of a model, which has a class and a config; {advice}")
    return name, config


def load_model(folder: Path, expected: type[ModelT]) -> ModelT:
    """Build what `model.json` describes and fill it in float32; `InputError` if it is another class or does not fit."""
    _require_class(folder, expected)
    name, config = _description(folder)
    where = f"{folder / MODEL_FILE}: not a valid {name} configuration"
    settings: Any = typed(config, _CONFIGS[name], where=where, advice="take an undamaged copy of the model")
    require_fit(folder, settings, lambda: expected(settings))
    model = expected(settings)
    load_weights(folder, model)
    return model.eval()


def _require_class(folder: Path, expected: type[Any]) -> None:
    if (found := model_class(folder)) != expected.__name__:
        raise InputError(f"{folder}: holds a {shortened(found, 80)}, but a {expected.__name__} is needed here")


def require_fit(folder: Path, settings: object, build: Callable[[], nn.Module]) -> None:
    """Raise `InputError` unless `folder` holds the weights of the model that `build` makes from `settings`.

    `build` is called on the meta device and of the files only the headers are read: a configuration that asks for more
    than is there is refused before it is given memory, or the time that thousands of layers take.
    """
    files = [folder / name for name in (WEIGHTS_FILE, *PARTS) if name.endswith(".safetensors")]
    there = sum(len(tensor_shapes(path)) for path in files if path.exists())
    depth = max(getattr(settings, name, 0) for name in _DEPTHS)
    if depth > max(there, 1):
        raise InputError(
            f"{folder}: does not fit the model, which has {depth} layers, more than the {there} tensors there; take an "
            "undamaged copy"
        )
    with torch.device("meta"):
        model = build()
    _require_class(folder, type(model))
    if is_partly_trained(model):
        partly: Any = model
        partly.require_trained(folder)
        return
    path = folder / WEIGHTS_FILE
    shapes = tensor_shapes(path)
    scales = _scale_names(shapes)
    require_tensors(path, model.state_dict(), {name: shapes[name] for name in shapes if name not in scales})


def differing_setting(folder: Path, settings: Any) -> tuple[str, Any, Any] | None:
    """Name, value in `folder` and own value of the first setting in which the model there was built otherwise."""
    there, own = _description(folder)[1], json.loads(json.dumps(asdict(settings)))
    for name in own:
        if name in there and there[name] != own[name]:
            return name, there[name], own[name]
    return None


def require_tensors(where: Path, targets: Mapping[str, torch.Tensor], found: Mapping[str, torch.Size]) -> None:
    """Raise `InputError` unless the tensors found in a file are those of the model, by name and shape."""
    missing = sorted(targets.keys() - found.keys())
    unexpected = sorted(found.keys() - targets.keys())
    other = [name for name in sorted(targets.keys() & found.keys()) if targets[name].shape != found[name]]
    shown = [f"{name} ({list(found[name])}, not {list(targets[name].shape)})" for name in other[:3]]
    lists = (("missing", missing), ("unexpected", unexpected), ("of another shape", shown))
    counts = (len(missing), len(unexpected), len(other))
    faults = [
        f"{count} {what}: {', '.join(names[:3])}{', ...' if count > 3 else ''}"
        for (what, names), count in zip(lists, counts, strict=True)
        if count
    ]
    if faults:
        raise InputError(f"{where}: does not fit the model; tensors {shortened('; '.join(faults), 240)}")


def load_weights(folder: Path, model: nn.Module) -> None:
    """Fill `model` in place from what `save_model` wrote; class, names and shapes must match exactly."""
    _require_class(folder, type(model))
    if is_partly_trained(model):
        loader: Any = model
        loader.load_trained(folder)
        return
    path = folder / WEIGHTS_FILE
    tensors, targets = _expanded(read_tensors(path), path), model.state_dict()
    require_tensors(path, targets, {name: value.shape for name, value in tensors.items()})
    for name, value in tensors.items():
        if value.is_floating_point() != targets[name].is_floating_point():
            raise InputError(f"{path}: {name} is {_said(value)}, but {_said(targets[name])} of this model")
    model.load_state_dict(tensors)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a safetensors file, on the CPU; `InputError` naming the file if it is missing or broken."""
    tensor_shapes(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {shortened(error)}") from error


def tensor_shapes(path: Path) -> dict[str, torch.Size]:
    """Shape by name of every tensor in a safetensors file, from its header alone, which is compared with its size.

    Raises `InputError` naming the file if it is missing or broken, and the tensor whose type is not read.
    """
    require_regular(path)
    shapes: dict[str, torch.Size] = {}
    try:
        with path.open("rb"):  # safetensors calls all that it cannot open missing
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                entry = file.get_slice(name)
                if (dtype := entry.get_dtype()) not in _DTYPES:
                    raise InputError(
                        f"{path}: {shortened(name, 80)} is of type {dtype}, which is not read; save it as float32 or "
                        "bfloat16"
                    )
                shapes[name] = torch.Size(entry.get_shape())
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {shortened(error)}") from error
    return shapes


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

    Its contents are those of its manifest (`manifest.verify`); a plain model folder may have none. Raises `UsageError`
    if there is no such thing and `InputError` if a run has no complete checkpoint or what is there is damaged.
    """
    folder = locate_weights(name)
    if (folder / MANIFEST_FILE).exists() or _STEP.fullmatch(folder.name):
        verify(folder)
    return folder


def locate_weights(name: str | Path) -> Path:
    """Where `find_weights` looks, before it looks closely."""
    path = named_folder(name)
    if not path.exists():
        raise UsageError(
            f"{name}: no such run or model folder, nor one of the shipped models: {', '.join(shipped_runs())}"
        )
    if (path / MODEL_FILE).exists():
        return path
    steps = checkpoint_folders(path)
    if not steps:
        raise InputError(f"{path}: holds neither {MODEL_FILE} nor a finished checkpoint; train it first")
    return steps[-1]


def named_folder(name: str | Path) -> Path:
    """The folder that a name means, wherever one is given: that of a shipped model, or else the path itself.

    `./NAME` is a path, whatever is shipped; `Path` forgets the dot, so names come as they were written. Where a folder
    here has a shipped model's name, it is said which is meant.
    """
    shipped = shipped_runs().get(str(name))
    if shipped is None:
        return Path(name)
    here = Path(name)
    if here.exists() and not here.samefile(shipped) and str(name) not in _told:
        _told.add(str(name))
        print(f"foreframe: {name}: the shipped model is meant; for the folder here write ./{name}", file=sys.stderr)
    return shipped


_told: set[str] = set()
"""Names whose clash has been said, so that it is said once."""


def shipped_runs() -> dict[str, Path]:
    """The trained runs inside the package, by name."""
    root = Path(str(resources.files("foreframe"))) / "weights"
    return {folder.name: folder for folder in sorted(root.glob("*")) if (folder / "checkpoints").is_dir()}


def checkpoint_folders(run: Path) -> list[Path]:
    """A run's finished checkpoints, oldest first. Whatever is not named `step_` and eight digits is not finished.

    Raises `InputError` where `checkpoints` is there and is no folder: a run whose drive is gone has not begun anew.
    """
    folder = run / "checkpoints"
    if os.path.lexists(folder) and not folder.is_dir():
        what = "a link to what is not there" if folder.is_symlink() else "no folder"
        raise InputError(f"{folder}: is {what}, where the run's checkpoints are wanted; put them back")
    return [path for path in listed(folder, "step_*") if _STEP.fullmatch(path.name)]
