"""What a run is made of, as one value: written to `config.json` first, read back by every later command."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 (pydantic resolves the annotation)
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from foreframe.errors import InputError
from foreframe.files import read_json, write_whole
from foreframe.inference.config import InferenceConfig
from foreframe.tracks.config import (  # noqa: TC001 (pydantic resolves the annotation)
    CompressionConfig,
    ReconstructionConfig,
    SamplingConfig,
)
from foreframe.train.config import OptimConfig, TrainConfig

CONFIG_FILE = "config.json"
CONFIG_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run's result, and where its data lies."""

    recipe: str
    """Name of the recipe it started from."""
    track: CompressionConfig | ReconstructionConfig | SamplingConfig
    """Data, model and objective."""
    data: Literal["sample"] | Path | None = None
    """Folder with `train` and `val` datasets, or one dataset folder; `sample` is the one inside the package."""
    on_bad_shard: Literal["raise", "skip"] = "raise"
    """Broken shards of the training split: an error, or left out, counted and named. Never so for held-out data."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Length, batch and schedule of looking."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser."""
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    """How `evaluate` predicts."""
    version: int = CONFIG_VERSION
    """Format version of `config.json`."""


_ADAPTER = TypeAdapter(RunConfig)


def to_json(config: RunConfig) -> dict[str, Any]:
    """JSON-ready, in the order of the fields."""
    return _ADAPTER.dump_python(config, mode="json")


def run_name(config: RunConfig, source: str) -> str:
    """SHA-256 that names a run: of its settings at the start and of what they were applied to.

    `source` is the training data's fingerprint, or of an exported copy the hash of its weights. Two runs with one name
    are the same run, bit for bit.
    """
    return hashlib.sha256(json.dumps([to_json(config), source]).encode()).hexdigest()


def save_config(run: Path, config: RunConfig, *, name: str | None = None) -> None:
    """Write `config.json` whole, with the run's `name`: the one that it has there, unless another is given."""
    path = run / CONFIG_FILE
    if name is None and path.exists():
        name = read_json(path).get("run")
    content = to_json(config) if name is None else {**to_json(config), "run": name}
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def load_config(run: Path) -> RunConfig:
    """Read `config.json`; `InputError` with the field if it is not one of this build's."""
    path = run / CONFIG_FILE
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a run's configuration: {error}") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != CONFIG_VERSION:
        raise InputError(f"{path}: configuration version {version!r}, this build reads {CONFIG_VERSION}")
    try:
        config = _ADAPTER.validate_python(content)
    except (ValidationError, ValueError) as error:
        raise InputError(f"{path}: {_first_problem(error)}") from error
    if unknown := _flatten(content).keys() - _flatten(to_json(config)).keys() - {"run"}:
        raise InputError(f"{path}: {sorted(unknown)[0]} is no field of this build's configuration")
    return config


def differences(ours: RunConfig, theirs: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted name -> (ours, theirs) of every field in which two configurations differ."""
    left, right = _flatten(to_json(ours)), _flatten(to_json(theirs))
    names = [*left, *(name for name in right if name not in left)]
    return {name: (left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)}


def _flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Nested objects as one, with dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    pieces = [_flatten(item, f"{name}.{key}" if name else str(key)) for key, item in value.items()]
    return {key: item for piece in pieces for key, item in piece.items()}


def _first_problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}"
    return str(error)
