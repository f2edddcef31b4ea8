"""Where the parts of a diffusers model lie: in a folder on disk, or on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from foreframe.errors import InputError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def diffusers_folder(source: str, *parts: str) -> Path:
    """A folder on disk as it is, or those parts (subfolders) of a repository on the Hugging Face hub, fetched.

    Raises `InputError` if it is neither, or if it cannot be fetched.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or not _HUB_ID.fullmatch(source):
        raise InputError(f"{source}: is neither a folder nor a hub id such as Wan-AI/Wan2.2-TI2V-5B-Diffusers")
    from huggingface_hub import snapshot_download

    try:
        # Whatever is not safetensors, a tokenizer's file or JSON is left there: it would have to be unpickled.
        patterns = [f"{part}/*.{ending}" for part in parts for ending in ("json", "safetensors", "model", "txt")]
        return Path(snapshot_download(source, allow_patterns=patterns))
    except Exception as error:  # The client's errors are of many families: the net's, the file system's, its own.
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{source}: there is no such folder, and the hub gives none: {reason}") from error
