"""Where the parts of a diffusers model lie: in a folder on disk, or on the Hugging Face hub if one may ask there."""

from __future__ import annotations

import re
from pathlib import Path

from foreframe.errors import InputError, UsageError
from foreframe.files import listed, read_json, shortened
from foreframe.permissions import NONE, Permissions

PUBLIC_FOLDER = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
"""The public base in the form that is read here."""
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ORIGINAL_ID = re.compile(r"Wan-AI/Wan2\.\d-(?!.*-Diffusers$).+")
_ORIGINAL_FILES = re.compile(r"Wan2\.\d_VAE\.(pth|safetensors)|models_t5_umt5-xxl-enc-bf16\.(pth|safetensors)")
_PARTS_FETCHED = ("json", "safetensors", "model", "txt")
"""Endings of files that are fetched: whatever else is there would have to be unpickled, or is not needed."""


def is_on_hub(source: str) -> bool:
    """Whether a name can only mean a repository on the hub: `someone/thing`, and nothing of that name here."""
    return not Path(source).expanduser().exists() and _HUB_ID.fullmatch(source) is not None


def diffusers_folder(source: str, *parts: str, revision: str | None = None, permissions: Permissions = NONE) -> Path:
    """A folder on disk as it is, or those parts (subfolders) of a repository on the Hugging Face hub.

    Without `permissions.download` nothing is asked of the network: only what was fetched before is used.

    Args:
        source: Folder or hub id.
        parts: What is needed of it.
        revision: Commit of the repository; None for its newest.
        permissions: Whether it may be fetched.

    Raises:
        InputError: It is neither, is known to be of another form, or cannot be fetched.
        UsageError: It would have to be fetched, and nobody said `--download`.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        refuse_other_forms(folder)
        return folder
    if not is_on_hub(source):
        raise InputError(f"{source}: is neither a folder nor a hub id such as {PUBLIC_FOLDER}")
    if _ORIGINAL_ID.fullmatch(source):
        raise InputError(f"{source}: is Wan in its original form, which is not read; name {PUBLIC_FOLDER}")
    if (cached := _cached(source, parts, revision)) is not None:
        return cached
    if not permissions.download:
        at = f" at revision {revision}" if revision else ""
        raise UsageError(
            f"{source}: no such folder here; if it is a repository on the Hugging Face hub, --download fetches its "
            f"{' and '.join(parts)}{at}"
        )
    return _fetch(source, [f"{part}/*.{ending}" for part in parts for ending in _PARTS_FETCHED], revision=revision)


def pinned_revision(source: str, *, permissions: Permissions) -> str | None:
    """The commit that a hub id means now, to be kept wherever the id is; None for a folder.

    Raises `InputError` if the hub gives none and `UsageError` if it would have to be asked without `--download`.
    """
    if not is_on_hub(source) or _ORIGINAL_ID.fullmatch(source):
        return None  # a folder, or what is refused where it is read
    if permissions.download:
        folder = _fetch(source, ["model_index.json"], revision=None)
    elif (found := _cached(source, (), None)) is not None:
        folder = found  # fetched before: the network need not be asked
    else:
        raise UsageError(
            f"{source}: no such folder here; if it is a repository on the Hugging Face hub, --download fetches what is "
            "needed of it"
        )
    if not _COMMIT.fullmatch(folder.name):
        raise InputError(f"{source}: the hub does not say which revision it gave ({folder.name}); name a folder")
    return folder.name


def _fetch(source: str, patterns: list[str], *, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except Exception as error:  # The client's errors are of many families: the net's, the file system's, its own.
        raise InputError(f"{source}: there is no such folder, and the hub gives none: {shortened(error)}") from error


def _cached(source: str, parts: tuple[str, ...], revision: str | None) -> Path | None:
    """Where an earlier command put the parts, in the client's own cache; None if one of them is not there."""
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = Path(HF_HUB_CACHE) / f"models--{source.replace('/', '--')}"
    try:
        commit = revision or (repository / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        return None
    folder = repository / "snapshots" / commit
    return folder if _COMMIT.fullmatch(commit) and all((folder / part).is_dir() for part in parts) else None


def refuse_other_forms(folder: Path) -> None:
    """Raise `InputError` if a folder holds a model in a known form that is not read, saying what to fetch instead."""
    names = {path.name for path in listed(folder)}
    if names & {"model_index.json", "transformer", "vae"}:
        return
    config = folder / "config.json"
    kind = None
    if config.is_file():
        try:
            kind = read_json(config).get("_class_name")
        except InputError:
            return  # whoever reads it next says what is wrong with it
    advice = f"name {PUBLIC_FOLDER} with --download, or a folder with its files"
    if kind == "WanModel" or any(_ORIGINAL_FILES.fullmatch(name) for name in names):
        raise InputError(f"{folder}: is Wan in its original form, which is not read; {advice}")
    if "adapter_config.json" in names and "config.json" not in names and "model.json" not in names:
        raise InputError(f"{folder}: is a PEFT adapter, which is no model without its base; {advice}")
