"""A small causal video tokenizer with finite scalar quantisation: 17 frames become three grids of integers.

The block structure is that of NVIDIA's Cosmos DV8x8x8 tokenizer, whose tokens the challenge uses: grid 0 is made
from frame 0 alone, grid t from frames up to 8t, and one cell covers 8x8 pixels. Blocks of 17 frames are
independent of each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from foreframe.errors import require

BLOCK_FRAMES = 17
"""Frames in a block."""
BLOCK_GRIDS = 3
"""Token grids in a block: one for frame 0, one for each 8 frames after it."""
CELL = 8
"""Pixels along the side of one token cell."""
_PATCH = 4
"""Side, in pixels and in frames, of the patch that enters the network; a stride of 2 makes it 8."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Size of a `VideoTokenizer`."""

    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Quantisation levels of each code dimension; their product is the vocabulary. Cosmos: (8, 8, 8, 5, 5, 5)."""
    fine_width: int = 64
    """Channels at 1/4 of the resolution, where most of the time goes."""
    coarse_width: int = 160
    """Channels at 1/8, the resolution of the tokens."""
    num_blocks: int = 2
    """Residual blocks at each resolution of the encoder and of the decoder."""

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 3:
            raise ValueError(f"levels must be whole numbers of at least 3, not {self.levels}")
        if self.fine_width < 8 or self.coarse_width < 8 or self.fine_width % 8 or self.coarse_width % 8:
            raise ValueError(f"widths must be multiples of 8, not {self.fine_width} and {self.coarse_width}")
        require(self, num_blocks=(0, math.inf))

    @property
    def vocab_size(self) -> int:
        """Number of distinct tokens."""
        return math.prod(self.levels)


class FiniteScalarQuantizer(nn.Module):
    """Round each of a few bounded numbers to its own small set of levels (Mentzer et al. 2023).

    The token is a mixed-radix number whose first digit moves fastest, as in Cosmos: basis 1, l0, l0*l1, ...
    """

    levels: torch.Tensor
    basis: torch.Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        basis = [math.prod(levels[:index]) for index in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Quantise (..., num_levels) to codes in [-1, 1]; the gradient passes the rounding unchanged."""
        bounded = self._bound(z)
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / (self.levels // 2)

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

    @property
    def vocab_size(self) -> int:
        """Number of distinct tokens."""
        return self.config.vocab_size

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Video (B, 3, 17, H, W) in [-1, 1] to tokens (B, 3, H/8, W/8), int64."""
        return self.quantizer.tokens(self.quantizer(self._latents(video)))

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, 3, h, w) to video (B, 3, 17, 8h, 8w), clamped to [-1, 1]."""
        codes = self.quantizer.codes(tokens).to(self.decoder.head.weight.dtype)
        return self.decoder(codes).clamp(-1, 1)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Reconstruct (B, 3, 17, H, W) through the quantiser, differentiably and not clamped."""
        return self.decoder(self.quantizer(self._latents(video)))

    def _latents(self, video: torch.Tensor) -> torch.Tensor:
        _, channels, num_frames, height, width = video.shape
        if channels != 3 or num_frames != BLOCK_FRAMES or height % CELL or width % CELL:
            raise ValueError(
                f"the tokenizer takes (B, 3, {BLOCK_FRAMES}, H, W) with H and W multiples of {CELL}, "
                f"not {tuple(video.shape)}"
            )
        return self.encoder(video)


class _TemporalMix(nn.Module):
    """A causal convolution over three steps of time, one cell at a time: the past is padded with the first step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3 * width, width, 1)

    def forward(self, x: torch.Tensor, num_steps: int) -> torch.Tensor:
        steps = x.unflatten(0, (-1, num_steps))
        first = steps[:, :1]
        one_back = torch.cat([first, steps[:, :-1]], 1)
        two_back = torch.cat([first, one_back[:, :-1]], 1)
        return self.mix(torch.cat([steps, one_back, two_back], 2).flatten(0, 1))


class _ResidualBlock(nn.Module):
    """Norm, 3x3 in space, norm, three steps back in time, added to the input. Steps lie along the batch axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_space = nn.GroupNorm(8, width)
        self.space = nn.Conv2d(width, width, 3, padding=1)
        self.norm_time = nn.GroupNorm(8, width)
        self.time = _TemporalMix(width)

    def forward(self, x: torch.Tensor, num_steps: int) -> torch.Tensor:
        h = self.space(F.silu(self.norm_space(x)))
        return x + self.time(F.silu(self.norm_time(h)), num_steps)


class _Stage(nn.ModuleList):
    """Residual blocks at one resolution."""

    def __init__(self, width: int, num_blocks: int) -> None:
        super().__init__(_ResidualBlock(width) for _ in range(num_blocks))

    def forward(self, x: torch.Tensor, num_steps: int) -> torch.Tensor:
        for block in self:
            x = block(x, num_steps)
        return x


class _Encoder(nn.Module):
    """(B, 3, 17, H, W) to unquantised codes (B, 3, H/8, W/8, num_levels)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        fine, coarse = config.fine_width, config.coarse_width
        self.stem = nn.Conv2d(3 * _PATCH**3, fine, 1)
        self.fine = _Stage(fine, config.num_blocks)
        self.down = nn.Conv2d(fine, coarse, 2, stride=2)
        self.pool = _TemporalMix(coarse)
        self.coarse = _Stage(coarse, config.num_blocks)
        self.norm = nn.GroupNorm(8, coarse)
        self.head = nn.Conv2d(coarse, len(config.levels), 1)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        # Frame 0 four times, then 16 frames: five groups of four, of which the first holds frame 0 alone.
        video = torch.cat([video[:, :, :1].expand(-1, -1, _PATCH - 1, -1, -1), video], 2)
        x = _patchify(video)
        num_groups = x.shape[1]
        x = self.fine(self.stem(x.flatten(0, 1)), num_groups)
        x = self.pool(self.down(x), num_groups)
        # Every second step: step 2t has seen groups up to 2t, which are the frames up to 8t.
        x = x.unflatten(0, (-1, num_groups))[:, ::2]
        x = self.coarse(x.flatten(0, 1), BLOCK_GRIDS)
        x = self.head(F.silu(self.norm(x)))
        return x.unflatten(0, (-1, BLOCK_GRIDS)).movedim(2, -1)


class _Decoder(nn.Module):
    """Codes (B, 3, h, w, num_levels) to video (B, 3, 17, 8h, 8w); frames of grid t depend on grids up to t."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        fine, coarse = config.fine_width, config.coarse_width
        self.stem = nn.Conv2d(len(config.levels), coarse, 3, padding=1)
        self.coarse = _Stage(coarse, config.num_blocks)
        # Twice the steps (axis 1) and twice the sides (pixel shuffle) in one linear map.
        self.up = nn.Conv2d(coarse, 2 * 4 * fine, 1)
        self.fine = _Stage(fine, config.num_blocks)
        self.norm = nn.GroupNorm(8, fine)
        self.head = nn.Conv2d(fine, 3 * _PATCH**3, 3, padding=1)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        x = codes.movedim(-1, 2).flatten(0, 1)
        x = self.coarse(self.stem(x), BLOCK_GRIDS)
        x = F.pixel_shuffle(self.up(x), 2).unflatten(1, (2, -1))
        # Grid 0 stands for one group, not two: its first half is dropped.
        x = x.unflatten(0, (-1, BLOCK_GRIDS)).flatten(1, 2)[:, 1:]
        num_groups = x.shape[1]
        x = self.fine(x.flatten(0, 1), num_groups)
        x = self.head(F.silu(self.norm(x))).unflatten(0, (-1, num_groups))
        return _unpatchify(x)[:, :, _PATCH - 1 :]


def _patchify(video: torch.Tensor) -> torch.Tensor:
    """(B, 3, 4g, H, W) to (B, g, 192, H/4, W/4)."""
    x = video.unflatten(2, (-1, _PATCH)).unflatten(4, (-1, _PATCH)).unflatten(6, (-1, _PATCH))
    return x.permute(0, 2, 1, 3, 5, 7, 4, 6).flatten(2, 5)


def _unpatchify(x: torch.Tensor) -> torch.Tensor:
    """Inverse of `_patchify`."""
    x = x.unflatten(2, (3, _PATCH, _PATCH, _PATCH))
    # (B, g, c, t, y, x, h, w) -> (B, c, g, t, h, y, w, x)
    return x.permute(0, 2, 1, 3, 6, 4, 7, 5).flatten(2, 3).flatten(3, 4).flatten(4, 5)
