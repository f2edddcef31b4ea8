"""A small causal video tokenizer with finite scalar quantisation: 17 frames become three grids of integers.

The block structure is that of NVIDIA's Cosmos DV8x8x8 tokenizer, whose tokens the challenge uses: grid 0 is made
from frame 0 alone, grid t from frames up to 8t, and one cell covers 8x8 pixels. Blocks of 17 frames are
independent of each other.

Inside, encoder and decoder each carry on from grid to grid: the one what it has seen, the other what it has drawn, so
that what stands still is drawn better with every grid, instead of three times. With every grid the decoder also draws
the frame before its group once more, now knowing what came next. The encoder does not see what the
decoder has drawn, as in a video codec it would: corrections of past rounding are as good as noise to whoever wants to
predict them, while the same picture seen again gives the same tokens again (docs/log.md has both in numbers).
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from foreframe.models.config import BLOCK_FRAMES, CELL, TokenizerConfig

_PATCH = 4
"""Side, in pixels, of the patches that the network works on; a stride of 2 makes it a cell's 8."""
_PATCH_CHANNELS = 3 * _PATCH**2
_GROUP = 8
"""Frames that a grid adds; grid 0 adds frame 0 alone, shown as a group that stands still."""


class FiniteScalarQuantizer(nn.Module):
    """Round each of a few bounded numbers to its own small set of levels (Mentzer et al. 2023).

    The token is a mixed-radix number whose first digit moves fastest, as in Cosmos: basis 1, l0, l0*l1, ...
    """

    levels: torch.Tensor
    basis: torch.Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self._sizes = levels
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        basis = [math.prod(levels[:index]) for index in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Quantise (..., num_levels) to codes in [-1, 1]; the gradient passes the rounding unchanged."""
        bounded = self._bound(z)
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / (self.levels // 2)

    def unevenness(self, codes: torch.Tensor) -> torch.Tensor:
        """How far codes (..., num_levels) are from using all levels alike, differentiably; 0 if they do.

        Squared differences of the codes' mean and mean square from those of the levels, summed over dimensions. Left
        to themselves codes gather in the middle: in five dimensions they then tell a bit less than they could.
        """
        total = codes.new_zeros(())
        for dimension, num in zip(codes.flatten(0, -2).unbind(-1), self._sizes, strict=True):
            levels = [(level - num // 2) / (num // 2) for level in range(num)]
            for power in (1, 2):
                wanted = sum(level**power for level in levels) / num
                total = total + (dimension.pow(power).mean() - wanted).square()
        return total

    def tokens(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (..., num_levels) to integers (...)."""
        half = self.levels // 2
        digits = (codes * half + half).round().long()
        return (digits * self.basis).sum(-1)

    def codes(self, tokens: torch.Tensor) -> torch.Tensor:
        """Integers (...) to codes (..., num_levels); inverse of `tokens`."""
        half = self.levels // 2
        digits = tokens[..., None] // self.basis % self.levels
        return (digits - half) / half

    def _bound(self, z: torch.Tensor) -> torch.Tensor:
        """Squash to just within the outer levels; an even number of levels is centred half a step low."""
        half_range = (self.levels - 1) * (1 - 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        shift = torch.atanh(offset / half_range)
        return torch.tanh(z + shift) * half_range - offset


class VideoTokenizer(nn.Module):
    """Video blocks (B, 3, 17, H, W) in [-1, 1] to tokens (B, 3, H/8, W/8) and back."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.quantizer = FiniteScalarQuantizer(config.levels)
        self.decoder = _Decoder(config)
        # Convolutions are faster so on a CPU.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # torch annotates it so in part

    @property
    def vocab_size(self) -> int:
        """Number of distinct tokens."""
        return self.config.vocab_size

    @property
    def encoder_hash(self) -> str:
        """SHA-256 of what decides the tokens: the levels and the encoder's weights in float32, not the decoder's."""
        digest = hashlib.sha256(f"{self.config.levels}\n".encode())
        for name, value in sorted(self.encoder.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}\n".encode())
            digest.update(value.cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Video (B, 3, 17, H, W) in [-1, 1] to tokens (B, 3, H/8, W/8), int64."""
        return self.quantizer.tokens(self.codes(video))

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, 3, h, w) to video (B, 3, 17, 8h, 8w), clamped to [-1, 1]."""
        return self.draw(self.quantizer.codes(tokens).to(self.decoder.head.weight.dtype)).clamp(-1, 1)

    def forward(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruct (B, 3, 17, H, W) through the quantiser, differentiably and not clamped.

        With it the `FiniteScalarQuantizer.unevenness` of the codes, a scalar.
        """
        codes = self.codes(video)
        return self.draw(codes), self.quantizer.unevenness(codes)

    def codes(self, video: torch.Tensor) -> torch.Tensor:
        """Video (B, 3, 17, H, W) to codes (B, 3, h, w, num_levels) in [-1, 1]."""
        _, channels, num_frames, height, width = video.shape
        if channels != 3 or num_frames != BLOCK_FRAMES or height % CELL or width % CELL:
            raise ValueError(
                f"the tokenizer takes (B, 3, {BLOCK_FRAMES}, H, W) with H and W multiples of {CELL}, "
                f"not {tuple(video.shape)}"
            )
        patches = _patchify(video.to(_working_dtype(video)))
        carried = _blank(self.config, len(video), height // CELL, width // CELL, like=patches)
        grids: list[torch.Tensor] = []
        for group in (patches[:, :1].expand(-1, _GROUP, -1, -1, -1), *patches[:, 1:].split(_GROUP, 1)):
            z, carried = self.encoder(group, carried)
            grids.append(self.quantizer(z.movedim(1, -1).to(video.dtype)))
        return torch.stack(grids, 1)

    def draw(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, 3, h, w, num_levels) to video (B, 3, 17, 8h, 8w), not clamped."""
        carried = _blank(self.config, len(codes), *codes.shape[2:4], like=codes)
        groups: list[torch.Tensor] = []
        for grid in codes.unbind(1):
            drawn, carried = self.decoder(grid.movedim(-1, 1), carried)
            groups.append(drawn)
        return _join(groups)


class _Carried(NamedTuple):
    """What the encoder, or the decoder, keeps from one group of frames to the next."""

    picture: torch.Tensor
    """(B, 48, H/4, W/4): the last frame that it saw, or drew."""
    fine: torch.Tensor
    """(B, fine_width, H/4, W/4): its features."""
    coarse: torch.Tensor
    """(B, coarse_width, H/8, W/8)."""


def _blank(config: TokenizerConfig, num: int, height: int, width: int, *, like: torch.Tensor) -> _Carried:
    """Nothing yet, for `num` blocks of height x width cells."""
    return _Carried(
        picture=like.new_zeros(num, _PATCH_CHANNELS, 2 * height, 2 * width),
        fine=like.new_zeros(num, config.fine_width, 2 * height, 2 * width, dtype=_working_dtype(like)),
        coarse=like.new_zeros(num, config.coarse_width, height, width, dtype=_working_dtype(like)),
    )


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to their input, at first without effect."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


def _stage(width: int, num_blocks: int) -> nn.Sequential:
    return nn.Sequential(*(_ResidualBlock(width) for _ in range(num_blocks)))


class _Encoder(nn.Module):
    """A group of frames in patches (B, 8, 48, H/4, W/4) to unquantised codes (B, num_levels, h, w)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        fine, coarse = config.fine_width, config.coarse_width
        self.stem = nn.Conv2d((_GROUP + 1) * _PATCH_CHANNELS + fine, fine, 1)
        self.fine = _stage(fine, config.num_blocks)
        self.down = nn.Conv2d(fine, coarse, 2, stride=2)
        self.join = nn.Conv2d(2 * coarse, coarse, 1)
        self.coarse = _stage(coarse, config.num_blocks)
        self.head = nn.Conv2d(coarse, len(config.levels), 1)

    def forward(self, group: torch.Tensor, carried: _Carried) -> tuple[torch.Tensor, _Carried]:
        fine = self.fine(self.stem(torch.cat([group.flatten(1, 2), carried.picture, carried.fine], 1)))
        coarse = self.coarse(self.join(torch.cat([self.down(fine), carried.coarse], 1)))
        return self.head(F.silu(coarse)), _Carried(picture=group[:, -1], fine=fine, coarse=coarse)


class _Decoder(nn.Module):
    """Codes (B, num_levels, h, w) to the frame before, again, and a group of frames: patches (B, 9, 48, H/4, W/4)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        fine, coarse = config.fine_width, config.coarse_width
        self.stem = nn.Conv2d(len(config.levels) + coarse, coarse, 3, padding=1)
        self.coarse = _stage(coarse, config.num_blocks)
        self.up = nn.Conv2d(coarse, 4 * fine, 1)
        self.join = nn.Conv2d(2 * fine + _PATCH_CHANNELS, fine, 1)
        self.fine = _stage(fine, config.num_drawing_blocks)
        self.head = nn.Conv2d(fine, (1 + _GROUP) * _PATCH_CHANNELS, 1)

    def forward(self, codes: torch.Tensor, carried: _Carried) -> tuple[torch.Tensor, _Carried]:
        coarse = self.coarse(self.stem(torch.cat([codes.to(carried.coarse.dtype), carried.coarse], 1)))
        x = F.pixel_shuffle(self.up(F.silu(coarse)), 2)
        fine = self.fine(self.join(torch.cat([x, carried.fine, carried.picture.to(x.dtype)], 1)))
        # Every frame is the last one drawn and what is to change in it.
        change = self.head(F.silu(fine)).unflatten(1, (1 + _GROUP, _PATCH_CHANNELS))
        drawn = carried.picture[:, None] + change.to(carried.picture.dtype)
        return drawn, _Carried(picture=drawn[:, -1], fine=fine, coarse=coarse)


def _working_dtype(like: torch.Tensor) -> torch.dtype:
    """What convolutions compute in: autocast's precision, or the tensor's own."""
    device = like.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype


def _patchify(video: torch.Tensor) -> torch.Tensor:
    """(B, 3, T, H, W) to (B, T, 48, H/4, W/4)."""
    return F.pixel_unshuffle(video.transpose(1, 2), _PATCH)


def _join(groups: list[torch.Tensor]) -> torch.Tensor:
    """Three groups of patches (B, 9, 48, H/4, W/4) to video (B, 3, 17, H, W).

    Of the first group there is only its last frame, which the second draws again; of each last frame that drawn later.
    """
    frames = torch.cat([*(group[:, :-1] for group in groups[1:-1]), groups[-1]], 1)
    return F.pixel_shuffle(frames, _PATCH).transpose(1, 2)
