"""NVIDIA's Cosmos-Tokenizer-DV8x8x8, whose tokens 1X's data holds, from its TorchScript files (challenge-facts 1.5).

A folder holds `encoder.jit` and `decoder.jit`; to decode, the second is enough. TorchScript is a program, so a file is
loaded only if its SHA-256 is known here or given with `--trust-sha256`. Nothing in the folder can vouch for it: whoever
made the one made the other. A hash says that the file is the one that was looked at, not that it is harmless.
"""

from __future__ import annotations

import hashlib
import io
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from foreframe.errors import InputError, UsageError
from foreframe.files import require_regular, sha256_file
from foreframe.models.config import CELL
from foreframe.permissions import NONE, Permissions

if TYPE_CHECKING:
    from pathlib import Path

ENCODER_FILE = "encoder.jit"
"""Video to indices (B, F, h, w), of which more may follow in a tuple."""
DECODER_FILE = "decoder.jit"
"""Indices (B, F, h, w) to video in [-1, 1]."""
LEVELS = (8, 8, 8, 5, 5, 5)
"""Quantisation levels of the six code dimensions; the token's first digit moves fastest (challenge-facts 1.5)."""
KNOWN_HASHES = {DECODER_FILE: "881f1f6317872fad3eeeaa1e595061aa3ee12590d14ce435ac9e9e5c883e797b"}
"""SHA-256 of files that need no voucher; a third party's audit read this one (challenge-facts 1.5)."""
_REPOSITORY = "nvidia/Cosmos-0.1-Tokenizer-DV8x8x8"
_CHECK_ORIGIN = f"check that the file is that of {_REPOSITORY}"
_GRID_FRAMES = 8
"""Frames in every grid after the first, which holds one."""


def is_cosmos(folder: Path) -> bool:
    """Whether a folder holds `encoder.jit` or `decoder.jit`; nothing is read."""
    return any((folder / name).exists() for name in (ENCODER_FILE, DECODER_FILE))


def cosmos_hash(folder: Path) -> str:
    """SHA-256 of `decoder.jit`, by which its tokens are known; `InputError` if it is missing.

    The decoder stands for the pair, because whoever has only 1X's tokens needs no encoder.
    """
    return sha256_file(_existing(folder / DECODER_FILE))


class CosmosTokenizer(nn.Module):
    """Video (B, 3, T, H, W) in [-1, 1] to Cosmos tokens (B, F, H/8, W/8) and back, F = 1 + (T - 1)/8, frozen.

    Stands where a `VideoTokenizer` encodes or decodes: blocks of 17 frames are three grids (challenge-facts 1.5). Files
    are looked at when they are first needed, and again after a move to another device.
    """

    def __init__(self, folder: Path, *, dtype: torch.dtype | None = None, permissions: Permissions = NONE) -> None:
        """Nothing is read yet.

        Args:
            folder: Holds `encoder.jit`, `decoder.jit` or both.
            dtype: Precision to compute in; by default bfloat16 on CUDA, as NVIDIA does, and float32 elsewhere.
            permissions: Which files may be run besides those known here.
        """
        super().__init__()
        self.folder = folder
        self.dtype = dtype
        self.permissions = permissions
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)
        """Holds no number: its device is where the networks are loaded to, and where results lie."""
        # No submodules: a scripted network may hold constants that `to` does not move, so a move loads it anew.
        self._networks: dict[str, Any] = {}
        self._loaded_to = self.place.device

    @property
    def precision(self) -> str:
        """What it computes in where it is now: `bfloat16` or `float32`, say."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def vocab_size(self) -> int:
        """Number of distinct tokens: 64,000."""
        return math.prod(LEVELS)

    def require_trusted(self, *, encoder: bool = False) -> None:
        """Raise what the first use would, before any work: `UsageError` unless the decoder may be run.

        With `encoder` so must the encoder be; tokens are known by the decoder's hash, so it makes none alone.
        """
        for name in (DECODER_FILE, ENCODER_FILE) if encoder else (DECODER_FILE,):
            path = _existing(self.folder / name)
            _require_trusted(path, sha256_file(path), self.permissions)

    @torch.no_grad()
    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Video (B, 3, 1 + 8k, H, W) in [-1, 1] to tokens (B, 1 + k, H/8, W/8), int64, 0 to 63,999.

        Grid 0 is made from frame 0 alone, grid t from frames up to 8t.

        Raises:
            ValueError: The video has another shape.
            InputError: A file is missing, damaged, or gives what is no token grid.
            UsageError: Nobody vouches for a file (`require_trusted`).
        """
        if (
            video.dim() != 5
            or video.shape[1] != 3
            or video.shape[2] % _GRID_FRAMES != 1
            or video.shape[3] % CELL
            or video.shape[4] % CELL
        ):
            raise ValueError(
                f"the tokenizer takes (B, 3, T, H, W) with T = 1 + {_GRID_FRAMES} k and H and W multiples of {CELL}, "
                f"not {tuple(video.shape)}"
            )
        output = self._run(ENCODER_FILE, video.to(self.place.device, self._dtype))
        indices = output[0] if isinstance(output, tuple) and output else output
        batch, _, num_frames, height, width = video.shape
        wanted = (batch, 1 + (num_frames - 1) // _GRID_FRAMES, height // CELL, width // CELL)
        path = self.folder / ENCODER_FILE
        if not isinstance(indices, torch.Tensor) or indices.is_floating_point() or tuple(indices.shape) != wanted:
            raise InputError(f"{path}: gives {_describe(indices)} where indices {wanted} are due; {_CHECK_ORIGIN}")
        if outside := _outside(indices):
            raise InputError(f"{path}: gives indices {outside}; {_CHECK_ORIGIN}")
        return indices.long()

    @torch.no_grad()
    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, 1 + k, h, w), 0 to 63,999, to video (B, 3, 1 + 8k, 8h, 8w), float32, clamped to [-1, 1].

        Raises:
            ValueError: The tokens have another shape or are not whole numbers.
            InputError: A token is out of range, or `decoder.jit` is missing, damaged or gives no video.
            UsageError: Nobody vouches for `decoder.jit` (`require_trusted`).
        """
        if tokens.dim() != 4 or tokens.is_floating_point():
            raise ValueError(f"the tokenizer takes whole numbers (B, F, h, w), not {_describe(tokens)}")
        path = self.folder / DECODER_FILE
        if outside := _outside(tokens):
            raise InputError(f"{path}: cannot decode tokens {outside}; another tokenizer made them")
        # The type of the encoder's indices.
        video = self._run(DECODER_FILE, tokens.to(self.place.device, torch.int32))
        batch, num_grids, height, width = tokens.shape
        wanted = (batch, 3, 1 + _GRID_FRAMES * (num_grids - 1), CELL * height, CELL * width)
        if not isinstance(video, torch.Tensor) or not video.is_floating_point() or tuple(video.shape) != wanted:
            raise InputError(f"{path}: gives {_describe(video)} where video {wanted} is due; {_CHECK_ORIGIN}")
        return video.float().clamp(-1, 1)

    @property
    def _dtype(self) -> torch.dtype:
        if self.dtype is not None:
            return self.dtype
        return torch.bfloat16 if self.place.device.type == "cuda" else torch.float32

    def _run(self, name: str, value: torch.Tensor) -> object:
        """What the network gives for `value`; its failure is an `InputError` in one line."""
        network = self._network(name)
        try:
            # Else TorchScript fuses operations after a look at the first calls, and later ones may round otherwise.
            with torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]
                return network(value)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, torch.jit.Error) as error:
            reason = _one_line(error)
            raise InputError(
                f"{self.folder / name}: fails on {_describe(value)}, computing in {self._dtype} on "
                f"{self.place.device}: {reason} (a file can be bound to one precision: try another dtype)"
            ) from error

    def _network(self, name: str) -> Any:
        if self._loaded_to != self.place.device:
            self._networks.clear()
            self._loaded_to = self.place.device
        if name not in self._networks:
            if name == ENCODER_FILE:
                self.require_trusted()
            program = _program(self.folder / name, self.permissions)
            self._networks[name] = _load(program, self.folder / name, device=self._loaded_to, dtype=self._dtype)
        return self._networks[name]


def _existing(path: Path) -> Path:
    if not path.exists():
        raise InputError(
            f"{path}: is not there; fetch {path.name} of {_REPOSITORY} (also called Cosmos-Tokenizer-DV8x8x8) on "
            "Hugging Face"
        )
    require_regular(path)
    return path


def _require_trusted(path: Path, found: str, permissions: Permissions) -> None:
    """Raise `UsageError` unless a file with that SHA-256 may be run."""
    if found != KNOWN_HASHES.get(path.name) and not permissions.trusts(found):
        raise UsageError(
            f"{path}: is TorchScript, a program, and none that is known here; check that it came from {_REPOSITORY}, "
            f"then say --trust-sha256 {found}"
        )


def _program(path: Path, permissions: Permissions) -> bytes:
    """A file's content, read once, so that what is run is what was compared."""
    try:
        content = _existing(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    _require_trusted(path, hashlib.sha256(content).hexdigest(), permissions)
    return content


def _load(program: bytes, path: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """The network in a trusted file's content, ready to run on `device`; `path` names it in errors."""
    try:
        network: Any = torch.jit.load(io.BytesIO(program), map_location=device)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # Damaged bytes come out as almost any: RuntimeError, IndexError, UnicodeDecodeError.
        raise InputError(f"{path}: cannot be read as TorchScript: {_one_line(error)}") from error
    return network.to(device=device, dtype=dtype).eval()


def _outside(tokens: torch.Tensor) -> str:
    """Says between what the tokens lie if some are out of range; else nothing."""
    low, high = (int(value) for value in tokens.aminmax())
    last = math.prod(LEVELS) - 1
    return "" if low >= 0 and high <= last else f"from {low} to {high}, out of the range 0 to {last}"


def _describe(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _one_line(error: Exception) -> str:
    """The reason alone: TorchScript puts its traceback before it, the file reader its own behind it."""
    reason = str(error).rpartition("RuntimeError: ")[2].partition("Exception raised from")[0]
    return " ".join(reason.split())[:300]
