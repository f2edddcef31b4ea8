"""What a run is made of, as one value: written to `config.json` first, read back by every later command."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path  # noqa: TC003 (pydantic resolves the annotation)
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import TypeAdapter, ValidationError

from foreframe.errors import InputError
from foreframe.files import read_json, shortened, write_whole
from foreframe.inference.config import InferenceConfig
from foreframe.models.config import AutoencoderConfig, TokenizerConfig
from foreframe.tracks.config import CompressionConfig, ReconstructionConfig, SamplingConfig
from foreframe.train.config import OptimConfig, TrainConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_FILE = "config.json"
CONFIG_VERSION = 1
_ADVICE = "put it right, or take an undamaged copy"
_TRACKS: dict[str, Any] = {
    "compression": CompressionConfig,
    "reconstruction": ReconstructionConfig,
    "sampling": SamplingConfig,
}


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

    def __post_init__(self) -> None:
        if self.version != CONFIG_VERSION:
            raise ValueError(f"version must be {CONFIG_VERSION}, not {self.version}")


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
    content = read_json(path, advice=_ADVICE)
    version = content.get("version")
    if version != CONFIG_VERSION:
        raise InputError(
            f"{path}: configuration version {shortened(repr(version), 60)}, this build reads {CONFIG_VERSION}"
        )
    # What a union may be is decided by what is there, so that a message names the field and not every class it may be.
    track = dict(_object(content, "track", path))
    kind = track.get("kind")
    if not isinstance(kind, str) or kind not in _TRACKS:
        known = ", ".join(_TRACKS)
        raise InputError(f"{path}: track.kind: must be one of {known}, not {shortened(repr(kind), 60)}; {_ADVICE}")
    if kind == "reconstruction" and "model" in track:
        model = _object(track, "model", path, "track.")
        sizes = AutoencoderConfig if "base_dim" in model else TokenizerConfig
        track["model"] = _valid(model, sizes, path, "track.model.")
    built = _valid(track, _TRACKS[kind], path, "track.")
    config: RunConfig = _valid({**content, "track": built}, RunConfig, path)
    ours = _flatten(to_json(config))
    if unknown := sorted(_flatten(content).keys() - ours.keys() - {"run"}):
        meant = get_close_matches(unknown[0], ours, 1)
        hint = f"; {meant[0]} is one" if meant else ""
        raise InputError(f"{path}: {shortened(unknown[0], 80)} is no field of this build's configuration{hint}")
    return config


def _object(content: Mapping[str, Any], name: str, path: Path, prefix: str = "") -> dict[str, Any]:
    value = content.get(name)
    if not isinstance(value, dict):
        raise InputError(f"{path}: {prefix}{name}: must be an object, not {shortened(repr(value), 60)}; {_ADVICE}")
    return cast("dict[str, Any]", value)


def _valid(content: object, kind: Any, path: Path, prefix: str = "") -> Any:
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = prefix + ".".join(str(part) for part in first["loc"])
        if place.startswith("data."):
            raise InputError(f"{path}: data: must be a folder, sample or null; {_ADVICE}") from error
        value = first.get("input")
        shown = f", not {shortened(repr(value), 60)}" if isinstance(value, (str, int, float, bool)) else ""
        said = shortened(str(first["msg"]).removeprefix("Value error, "), 120)
        raise InputError(f"{path}: {place.rstrip('.') or 'settings'}: {said}{shown}; {_ADVICE}") from error
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: {shortened(error)}; {_ADVICE}") from error


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
