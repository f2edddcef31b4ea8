"""`encoding.json`: the side file that keeps tokens and latents from meeting the wrong data or the wrong weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from foreframe.data.integrity import fingerprint
from foreframe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from foreframe.data.layout import OnBadShard

ENCODING_FILE = "encoding.json"
"""Beside tokens or latents that were made here: by which weights, from what. 1X's own folders have none."""
ENCODING_VERSION = 2
_ALWAYS = {"version", "kind", "source_fingerprint", "weights_sha256", "frame_size", "simulated", "skipped"}
ENCODING_KEYS = {
    "tokens": _ALWAYS | {"vocab_size", "source_shards"},
    "latents": _ALWAYS | {"frame_indices", "clip_stride", "dtype", "latent_shape", "num_states", "clips"},
}
"""What the side file must hold, by its kind."""


def describe_source(raw: Path, *, on_bad_shard: OnBadShard) -> dict[str, object]:
    """What an encoding says of the raw folder it is made from."""
    return {
        "version": ENCODING_VERSION,
        "source_fingerprint": fingerprint(raw, on_bad_shard=on_bad_shard),
        "simulated": is_simulated(raw),
    }


def read_encoding(root: Path) -> dict[str, Any] | None:
    """The side file's content, or None where there is none."""
    path = root / ENCODING_FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != ENCODING_VERSION:
        raise InputError(
            f"{path}: describes an encoding of version {version!r}, this build reads {ENCODING_VERSION}; encode the "
            "video again into another folder"
        )
    needed = ENCODING_KEYS.get(str(content.get("kind")), {"kind"})
    if content.get("kind") not in ENCODING_KEYS or not needed <= content.keys():
        missing = ", ".join(sorted(needed - content.keys())) or f"kind {content['kind']!r} unknown"
        raise InputError(f"{path}: is no description of tokens or latents ({missing}); encode the video again")
    if content["kind"] == "latents":
        # Not among the keys that must be there: latents were made before it was an option.
        content.setdefault("legacy_segment_check", False)
    return content


def require_encoding(root: Path, expected: Mapping[str, object]) -> dict[str, Any]:
    """The folder's encoding; `InputError` naming the first fact in which it is not the `expected` one."""
    encoding = read_encoding(root)
    if encoding is None:
        raise InputError(f"{root}: has no {ENCODING_FILE}, so what it holds cannot be trusted; encode the video again")
    for name, value in json.loads(json.dumps(dict(expected))).items():
        if encoding.get(name) != value:
            raise InputError(
                f"{root / ENCODING_FILE}: {name} is {encoding.get(name)!r}, but {value!r} is wanted here; encode the "
                "video again into another folder"
            )
    return encoding


def source_fingerprint(root: Path, *, on_bad_shard: OnBadShard = "raise") -> str:
    """Fingerprint of a dataset folder, or of the video its tokens were made from: the same data has the same one."""
    encoding = read_encoding(root)
    return str(encoding["source_fingerprint"]) if encoding else fingerprint(root, on_bad_shard=on_bad_shard)


def is_simulated(root: Path) -> bool:
    """Whether the simulator made this folder, or made the video its tokens are of."""
    encoding = read_encoding(root)
    return bool(encoding and encoding.get("simulated")) or (root / "sim" / "config.json").is_file()
