"""The empty prompt's embedding by UMT5, computed once and kept in a small file (challenge-facts 5.1).

The empty string is one token, the end, so the embedding is one row; Wan has it followed by zeros to 512 rows, which the
transformer adds itself (`WanConfig.num_prompt_rows`).
"""

from __future__ import annotations

import gc
import hashlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from foreframe.errors import InputError, UsageError, require
from foreframe.files import listed, read_typed, require_regular, sha256_file, shortened
from foreframe.models.hub import diffusers_folder
from foreframe.models.weights import tensor_shapes
from foreframe.permissions import NONE, Permissions

if TYPE_CHECKING:
    from collections.abc import Callable

PROMPT_FILE = "prompt.safetensors"
"""Holds `prompt`, (1, text_dim) float32, and in its metadata the fingerprint of the text encoder that made it."""
PARTS = ("text_encoder", "tokenizer")
"""What is needed of a diffusers model's folder."""
_FINGERPRINT = "text_encoder_sha256"


def prompt_row(
    file: str | Path | None = None,
    *,
    base: str | None = None,
    revision: str | None = None,
    permissions: Permissions = NONE,
) -> torch.Tensor:
    """The empty prompt's row (1, text_dim), float32: from `file` or, if there is none, by the text encoder of `base`.

    With both, the file is a cache: it is read if its fingerprint is that of the text encoder that `base` holds, or if
    `base` holds none, and written otherwise.

    Args:
        file: A `prompt.safetensors`, or where one is to be.
        base: Folder or hub id of a diffusers model with `text_encoder` and `tokenizer`.
        revision: Commit of a hub id.
        permissions: Whether it may be fetched.

    Raises:
        InputError: There is neither file nor text encoder, or one of them cannot be read.
        UsageError: There is a text encoder, but it may not be fetched, or transformers is not installed.
    """
    path = None if file is None else Path(file).expanduser()
    if path is not None and path.exists() and (base is None or not Path(base).expanduser().is_dir()):
        return read_prompt(path)[0]  # What a hub holds is not fetched, 11 GB of it, to check a file against.
    if base is None:
        raise InputError(f"{path or PROMPT_FILE}: there is no such file; {_HOW}")
    folder = diffusers_folder(base, *PARTS, revision=revision, permissions=permissions)
    if not all((folder / part).is_dir() for part in PARTS):
        if path is not None and path.exists():
            return read_prompt(path)[0]
        missing = " and no ".join(part for part in PARTS if not (folder / part).is_dir())
        raise InputError(f"{folder}: has no {missing}, and there is no {path or PROMPT_FILE}; {_HOW}")
    fingerprint = text_encoder_hash(folder)
    if path is not None and path.exists():
        row, made_by = read_prompt(path)
        if made_by == fingerprint:
            return row
    row = encode_empty_prompt(folder)
    if path is not None:
        write_prompt(path, row, fingerprint=fingerprint)
    return row


_HOW = (
    "fetch text_encoder and tokenizer of the model (hf download Wan-AI/Wan2.2-TI2V-5B-Diffusers --include "
    f"'text_encoder/*' 'tokenizer/*'), or bring a {PROMPT_FILE} made where they are"
)


def encode_empty_prompt(folder: Path) -> torch.Tensor:
    """The last hidden state (1, text_dim) of the empty string's one token, computed in bfloat16, as float32.

    The text encoder is on the default device while it is needed, and freed.

    Args:
        folder: Holds `text_encoder` (a `UMT5EncoderModel`) and `tokenizer`.

    Raises `InputError` if they cannot be read, or if the empty string is not one token.
    """
    if find_spec("transformers") is None:
        raise UsageError('the text encoder needs transformers, which is not installed: pip install "foreframe[wan]"')
    from transformers import AutoTokenizer, UMT5EncoderModel

    _require_readable(folder)
    options: dict[str, Any] = {"local_files_only": True}
    tokenizer: Any = _load(folder / "tokenizer", lambda path: AutoTokenizer.from_pretrained(path, **options))
    ids: list[int] = tokenizer("")["input_ids"]
    if len(ids) != 1:
        raise InputError(f"{folder / 'tokenizer'}: the empty string is {len(ids)} tokens, not the end token alone")
    options |= {"dtype": torch.bfloat16, "use_safetensors": True}
    encoder: Any = _load(folder / "text_encoder", lambda path: UMT5EncoderModel.from_pretrained(path, **options))
    device = torch.get_default_device()
    with torch.no_grad():
        # The tokens that pad it to 512 rows are masked there, so they may as well be left out.
        row = encoder.eval().to(device)(torch.tensor([ids], device=device)).last_hidden_state[0].float()
    del encoder
    gc.collect()
    return row


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """What of a text encoder's `config.json` decides how much memory and time it takes."""

    num_layers: int = 1
    num_heads: int = 1
    d_model: int = 1
    d_kv: int = 1
    d_ff: int = 1
    vocab_size: int = 1
    relative_attention_num_buckets: int = 1

    def __post_init__(self) -> None:
        # Bounds beyond any text encoder; UMT5-XXL has 24 layers of 10,240, and 256,384 tokens.
        widths = ("num_heads", "d_model", "d_kv", "d_ff", "relative_attention_num_buckets")
        require(self, **dict.fromkeys(widths, (1, 2**16)))
        require(self, num_layers=(1, 512), vocab_size=(1, 2**22))


def _require_readable(folder: Path) -> None:
    """Raise `InputError` if text encoder or tokenizer hold what is no file, or ask for sizes beyond reason."""
    for part in PARTS:
        for path in listed(folder / part):
            if not path.is_dir():
                require_regular(path)
    read_typed(folder / "text_encoder" / "config.json", _Sizes, advice="fetch text_encoder again")


def text_encoder_hash(folder: Path) -> str:
    """SHA-256 over the text encoder's configuration and weights and the tokenizer's files, by name and content."""
    digest = hashlib.sha256()
    for part, ending in (("text_encoder", "*.json"), ("text_encoder", "*.safetensors"), ("tokenizer", "*")):
        for path in listed(folder / part, ending):
            if path.is_file():
                digest.update(f"{part}/{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def read_prompt(path: Path) -> tuple[torch.Tensor, str]:
    """The row (1, text_dim) and the fingerprint of the text encoder that made it; `InputError` if it is none."""
    shape = tensor_shapes(path).get("prompt", torch.Size())
    if len(shape) == 2 and shape[1] > 2**16:
        raise InputError(f"{path}: the prompt has shape {tuple(shape)}, more than any text encoder gives")
    try:
        with safe_open(path, framework="pt") as file:
            row: torch.Tensor = file.get_tensor("prompt")
            fingerprint = (file.metadata() or {})[_FINGERPRINT]
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as a prompt's embedding: {shortened(error)}") from error
    if row.dim() != 2 or len(row) != 1 or not row.isfinite().all():
        raise InputError(f"{path}: the prompt has shape {tuple(row.shape)}, not one row of finite numbers")
    return row.float(), fingerprint


def write_prompt(path: Path, row: torch.Tensor, *, fingerprint: str) -> None:
    """Inverse of `read_prompt`; whoever reads at the same time finds the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({"prompt": row.detach().cpu().float().contiguous()}, partial, metadata={_FINGERPRINT: fingerprint})
    partial.replace(path)


def _load(path: Path, load: Callable[[Path], object]) -> object:
    """What `load` makes of a folder, its errors in one line."""
    try:
        return load(path)
    # Beside what files give, the tokenizers library raises `Exception` itself.
    except Exception as error:
        raise InputError(f"{path}: cannot be read by transformers: {shortened(error, 300)}") from error
