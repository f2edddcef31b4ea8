"""NVIDIA's Cosmos-Tokenizer-DV8x8x8, whose tokens 1X's data holds, from its TorchScript files (challenge-facts 1.5).

A folder holds `encoder.jit` and `decoder.jit`; to decode, the second is enough. TorchScript is a program, so a file is
loaded only if its SHA-256 is known here, or if the user vouches for it in a `SHA256SUMS` beside it, as `sha256sum`
writes it. That says that the file is the one that was looked at, not that it is harmless.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from foreframe.errors import InputError
from foreframe.files import sha256_file
from foreframe.models.config import CELL

if TYPE_CHECKING:
    from pathlib import Path

ENCODER_FILE = "encoder.jit"
"""Video to indices (B, F, h, w), of which more may follow in a tuple."""
DECODER_FILE = "decoder.jit"
"""Indices (B, F, h, w) to video in [-1, 1]."""
SUMS_FILE = "SHA256SUMS"
"""Where a user vouches for files: lines of a hexadecimal SHA-256, two spaces (or a space and a `*`) and a file name."""
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
    return any((folder / name).is_file() for name in (ENCODER_FILE, DECODER_FILE))


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

    def __init__(self, folder: Path, *, dtype: torch.dtype | None = None) -> None:
        """Nothing is read yet.

        Args:
            folder: Holds `encoder.jit`, `decoder.jit` or both, and perhaps `SHA256SUMS`.
            dtype: Precision to compute in; by default bfloat16 on CUDA, as NVIDIA does, and float32 elsewhere.
        """
        super().__init__()
        self.folder = folder
        self.dtype = dtype
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

    @torch.no_grad()
    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Video (B, 3, 1 + 8k, H, W) in [-1, 1] to tokens (B, 1 + k, H/8, W/8), int64, 0 to 63,999.

        Grid 0 is made from frame 0 alone, grid t from frames up to 8t.

        Raises:
            ValueError: The video has another shape.
            InputError: A file is missing, not known, damaged, or gives what is no token grid.
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
            InputError: A token is out of range, or `decoder.jit` is missing, not known, damaged or gives no video.
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
                # Tokens are known by the decoder's hash, so an encoder without a decoder makes none.
                _require_known(self.folder / DECODER_FILE)
            self._networks[name] = _load(self.folder / name, device=self._loaded_to, dtype=self._dtype)
        return self._networks[name]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(
            f"{path}: is not there; fetch {path.name} of {_REPOSITORY} (also called Cosmos-Tokenizer-DV8x8x8) on "
            "Hugging Face"
        )
    return path


def _require_known(path: Path) -> None:
    """Raise `InputError` unless the file is there and its hash is known here or vouched for beside it."""
    found = sha256_file(_existing(path))
    if found == KNOWN_HASHES.get(path.name):
        return
    sums = path.with_name(SUMS_FILE)
    listed = _read_sums(sums).get(path.name)
    if listed is None:
        raise InputError(
            f"{path}: foreframe does not know this file, whose SHA-256 is {found}, and would run what is in it; check "
            f"that it came from {_REPOSITORY}, then run `sha256sum *.jit > {SUMS_FILE}` in that folder"
        )
    if listed != found:
        raise InputError(
            f"{path}: its SHA-256 is {found}, but {sums} lists {listed}; the file has changed or is damaged: fetch it "
            f"from {_REPOSITORY} again"
        )


def _read_sums(path: Path) -> dict[str, str]:
    """Hash by file name; empty if there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a list of hashes: {_one_line(error)}") from error
    pairs = (line.split(maxsplit=1) for line in lines)
    return {pair[1].removeprefix("*").removeprefix("./"): pair[0].lower() for pair in pairs if len(pair) == 2}


def _load(path: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """The network in a file, ready to run on `device`; the file must be known."""
    _require_known(path)
    try:
        network: Any = torch.jit.load(str(path), map_location=device)
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
