"""`encoding.json`: the side file that keeps tokens and latents from meeting the wrong data or the wrong weights.

It names every file beside it with its size and SHA-256, and ends with a SHA-256 of itself. Who trains or scores on
what was encoded calls `verify_encoded`, which reads it all once: its cost is as many bytes hashed, for each folder that
a command opens, as the folder holds (1X's 100 hours: 8 GB of tokens; latents at 512x512 and stride 8: 600 kB a clip).
Of several processes on one machine, the first one does it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, Strict, StringConstraints
from typing_extensions import TypedDict

from foreframe.data.integrity import fingerprint
from foreframe.errors import InputError
from foreframe.files import read_json, sha256_file, shortened, typed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from foreframe.data.layout import OnBadShard

ENCODING_FILE = "encoding.json"
"""Beside tokens or latents that were made here: by which weights, from what. 1X's own folders have none."""
ENCODING_VERSION = 3
_AGAIN = "encode the video again"
_MOST_VALUES = 1 << 28
"""Numbers in the latents of one clip: a gigabyte in float32."""


def _moderate(shape: list[int]) -> list[int]:
    if math.prod(shape) > _MOST_VALUES:
        raise ValueError(f"holds {math.prod(shape)} numbers a clip, more than {_MOST_VALUES}")
    return shape


_Count = Annotated[int, Strict(), Field(ge=0, le=1 << 62)]
_Positive = Annotated[int, Strict(), Field(ge=1, le=(1 << 31) - 1)]
_Side = Annotated[int, Strict(), Field(ge=1, le=1 << 16)]
_Text = Annotated[str, Strict(), StringConstraints(max_length=1 << 16)]
_Number = Annotated[str, StringConstraints(pattern=r"^(0|[1-9]\d{0,8})$")]
"""A shard's number, as JSON's keys are."""
_Flag = Annotated[bool, Strict()]
_Name = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9_]+/)?[A-Za-z0-9_]+\.(bin|json)$", max_length=200)]
_Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class FileFacts(TypedDict):
    """What a file of an encoded folder is."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # pyright: ignore[reportGeneralTypeIssues]
    size: _Count
    """Bytes."""
    sha256: _Hash


class _Encoding(TypedDict):
    """What both kinds say."""

    version: int
    source_fingerprint: _Text
    """Of the raw folder."""
    weights_sha256: _Text
    """Of what encodes."""
    frame_size: _Side
    """Side of the frames in pixels when they were encoded."""
    simulated: _Flag
    skipped: dict[_Number, _Text]
    """Raw shards that were left out, and why."""
    files: dict[_Name, FileFacts]
    """Every file but this one, by its path in the folder."""
    sealed: _Hash
    """SHA-256 of all other fields."""


class _Precision(TypedDict, total=False):
    dtype: _Text
    """Precision of a tokenizer that draws other tokens in another one."""


class TokensEncoding(_Encoding, _Precision):
    """`encoding.json` of a tokenised folder."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # pyright: ignore[reportGeneralTypeIssues]
    kind: Literal["tokens"]
    vocab_size: _Positive
    source_shards: list[_Count]
    """Number of the raw shard that each shard was made of."""


class LatentsEncoding(_Encoding):
    """`encoding.json` of a folder of latents."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # pyright: ignore[reportGeneralTypeIssues]
    kind: Literal["latents"]
    frame_indices: Annotated[list[_Count], Field(min_length=1, max_length=4096)]
    clip_stride: _Positive
    legacy_segment_check: bool
    """Whether the clips are those of the authors' own check (`data.clips.clip_ids`)."""
    dtype: Literal["bfloat16", "float16", "float32"]
    latent_shape: Annotated[list[_Side], Field(min_length=4, max_length=4), AfterValidator(_moderate)]
    num_states: _Side
    clips: dict[_Number, _Count]
    """Clips of each raw shard that was encoded."""


_KINDS: dict[str, Any] = {"tokens": TokensEncoding, "latents": LatentsEncoding}
ENCODING_KEYS: dict[str, set[str]] = {kind: set(fields.__required_keys__) for kind, fields in _KINDS.items()}
"""What the side file must hold, by its kind."""


def describe_source(raw: Path, *, on_bad_shard: OnBadShard) -> dict[str, object]:
    """What an encoding says of the raw folder it is made from."""
    return {
        "version": ENCODING_VERSION,
        "source_fingerprint": fingerprint(raw, on_bad_shard=on_bad_shard),
        "simulated": is_simulated(raw),
    }


def describe_files(root: Path, *, also: Mapping[str, bytes]) -> dict[str, dict[str, object]]:
    """Size and SHA-256 of every file under `root`, and of those in `also` that are still to be written."""
    facts: dict[str, dict[str, object]] = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not path.name.startswith(".") and name != ENCODING_FILE:
            facts[name] = {"size": path.stat().st_size, "sha256": sha256_file(path)}
    for name, content in also.items():
        facts[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return dict(sorted(facts.items()))


def sealed(content: Mapping[str, object]) -> bytes:
    """`encoding.json` as it is written: the content with its seal."""
    return (json.dumps({**content, "sealed": _seal(content)}, indent=1) + "\n").encode()


def _seal(content: Mapping[str, object]) -> str:
    rest = {name: value for name, value in content.items() if name != "sealed"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_encoding(root: Path) -> dict[str, Any] | None:
    """The side file's content, of the types in `TokensEncoding` or `LatentsEncoding`; None where there is none."""
    path = root / ENCODING_FILE
    if not os.path.lexists(path):
        return None
    content = read_json(path, advice=_AGAIN)
    version, kind = content.get("version"), content.get("kind")
    if type(version) is not int or version != ENCODING_VERSION:
        raise InputError(
            f"{path}: describes an encoding of version {shortened(repr(version), 60)}, this build reads "
            f"{ENCODING_VERSION}; {_AGAIN} into another folder"
        )
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InputError(f"{path}: is no description of tokens or latents (kind {shortened(repr(kind), 60)}); {_AGAIN}")
    encoding: dict[str, Any] = typed(content, _KINDS[kind], where=str(path), advice=_AGAIN)
    if _seal(content) != encoding["sealed"]:
        raise InputError(f"{path}: was changed after it had been written (its sealed is another); {_AGAIN}")
    return encoding


def require_encoding(root: Path, expected: Mapping[str, object]) -> dict[str, Any]:
    """The folder's encoding; `InputError` naming the first fact in which it is not the `expected` one."""
    encoding = read_encoding(root)
    if encoding is None:
        raise InputError(f"{root}: has no {ENCODING_FILE}, so what it holds cannot be trusted; {_AGAIN}")
    for name, value in json.loads(json.dumps(dict(expected))).items():
        if encoding.get(name) != value:
            raise InputError(
                f"{root / ENCODING_FILE}: {name} is {encoding.get(name)!r}, but {value!r} is wanted here; {_AGAIN} "
                "into another folder"
            )
    return encoding


def verify_encoded(root: Path) -> None:
    """Read every file that `encoding.json` names; `InputError` naming the first that is not what it was.

    Nothing is done where there is no `encoding.json`, and by all but the first process of a machine.
    """
    encoding = read_encoding(root)
    if encoding is None or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    facts: dict[str, FileFacts] = encoding["files"]
    for name in facts:  # sizes first: that costs nothing
        path = root / name
        if not path.is_file():
            raise InputError(f"{path}: is missing though {ENCODING_FILE} names it; {_AGAIN}")
        if (size := path.stat().st_size) != facts[name]["size"]:
            raise InputError(f"{path}: has {size} bytes, not the {facts[name]['size']} that were written; {_AGAIN}")
    for name, digest in zip(facts, _hashes(root / name for name in facts), strict=True):
        if digest != facts[name]["sha256"]:
            raise InputError(f"{root / name}: was changed after it had been written (another SHA-256); {_AGAIN}")


def _hashes(paths: Iterable[Path]) -> Iterable[str]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(sha256_file, paths)


def encoded_fingerprint(encoding: Mapping[str, Any] | None) -> str | None:
    """SHA-256 over the files that `encoding.json` names: which tokens or latents these are, to the bit."""
    return None if encoding is None else _seal(encoding["files"])


def source_fingerprint(root: Path, *, on_bad_shard: OnBadShard = "raise") -> str:
    """Fingerprint of a dataset folder, or of the video its tokens were made from: the same data has the same one."""
    encoding = read_encoding(root)
    return str(encoding["source_fingerprint"]) if encoding else fingerprint(root, on_bad_shard=on_bad_shard)


def is_simulated(root: Path) -> bool:
    """Whether the simulator made this folder, or made the video its tokens are of."""
    encoding = read_encoding(root)
    return bool(encoding and encoding.get("simulated")) or (root / "sim" / "config.json").is_file()
