"""Sizes of the networks, read by all that plan or describe one without building it; no torch is imported here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from foreframe.errors import require
from foreframe.files import shortened

BLOCK_FRAMES = 17
"""Frames in a block."""


BLOCK_GRIDS = 3
"""Token grids in a block: one for frame 0, one for each 8 frames after it."""


CELL = 8
"""Pixels along the side of one token cell."""


MAX_VOCABULARY = 2**24
"""Most tokens that a vocabulary may have: Cosmos' has 64,000."""
NUM_GROUPS = 8
"""Groups of the GroupNorms between the temporal convolutions."""


@dataclass(frozen=True, kw_only=True)
class STTransformerConfig:
    """Size of an `STTransformer`. The defaults are the winning entry's 136 M parameters."""

    vocab_size: int = 64_000
    """Number of distinct tokens (Cosmos: 8*8*8*5*5*5)."""
    grid: int = 32
    """Cells along each side of a token grid (section 3)."""
    num_grids: int = 5
    """Longest input, in grids (section 3.1: T = 5)."""
    num_layers: int = 24
    """Section 3.1."""
    num_heads: int = 8
    """Section 3.1."""
    width: int = 512
    """Embedding dimension (section 3.1)."""
    mlp_ratio: int = 4
    """Feed-forward width over `width` (*assumed*; with it the count comes to 136 M)."""
    dropout: float = 0.1
    """On feed-forward and residual paths (section 3.1) and, *assumed*, on the embeddings."""
    attention_dropout: float = 0.1
    """On attention weights (section 3.1); a switch of its own because it decides which attention kernels can run."""
    num_states: int = 64
    """State rows given with a clip (section 3)."""
    state_width: int = 2048
    """Hidden width of the state MLP (*assumed*; with it the count comes to 136 M)."""
    state_pooling: Literal["target_rows", "adaptive"] = "target_rows"
    """How state rows become one vector for each position (*assumed*; the report says only that they are combined).

    `target_rows`: the mean over the rows of the frames that the predicted grid was made from. Grid 5 ends with frame
    33, so of 64 rows the model never reads 35 to 63 (row 34 through the convolution), although the report's equation 1
    conditions on all of s_0 to s_63. `adaptive` reads all 64: they are split evenly over the positions, as
    `adaptive_avg_pool1d` does, so a position's rows are not those of its grid's frames."""

    def __post_init__(self) -> None:
        # Bounds far beyond any model, so that a damaged or hostile configuration is refused before it is given memory.
        require(self, vocab_size=(1, 2**24), grid=(1, 1024), num_grids=(1, 4096), num_states=(1, 2**16))
        require(self, num_layers=(1, 512), num_heads=(1, 2**16), width=(1, 2**16), mlp_ratio=(1, 64))
        require(self, state_width=(1, 2**16))
        require(self, dropout=(0, 1), attention_dropout=(0, 1))
        if self.state_pooling == "target_rows" and grid_rows(self.num_grids)[-1] >= self.num_states:
            raise ValueError(f"num_states {self.num_states} ends before the frames of grid {self.num_grids}")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} does not divide into {self.num_heads} heads")


def grid_rows(grid: int) -> range:
    """Frames of the clip that token grid `grid` was made from: 0 | 1-8 | 9-16 | 17 | 18-25 | 26-33 and so on.

    Every block of three grids stands for 17 frames and starts with a single one (Cosmos DV8x8x8).
    """
    block, inside = divmod(grid, 3)
    first = 17 * block
    return range(first, first + 1) if inside == 0 else range(first + 8 * inside - 7, first + 8 * inside + 1)


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Size of a `VideoTokenizer`."""

    levels: tuple[int, ...] = (8, 5, 5, 5, 4)
    """Quantisation levels of each code dimension; their product is the vocabulary. Cosmos: (8, 8, 8, 5, 5, 5)."""
    fine_width: int = 96
    """Channels at 1/4 of the resolution, where most of the time goes."""
    coarse_width: int = 160
    """Channels at 1/8, the resolution of the tokens."""
    num_blocks: int = 2
    """Residual blocks at each resolution of the encoder, and at 1/8 of the decoder."""
    num_drawing_blocks: int = 3
    """Residual blocks of the decoder at 1/4."""

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 3 or math.prod(self.levels[:24]) > MAX_VOCABULARY:
            raise ValueError(
                f"levels must be whole numbers of at least 3, their product at most {MAX_VOCABULARY}, not "
                f"{shortened(self.levels, 80)}"
            )
        if self.fine_width < 8 or self.coarse_width < 8 or self.fine_width % 8 or self.coarse_width % 8:
            raise ValueError(f"widths must be multiples of 8, not {self.fine_width} and {self.coarse_width}")
        # Bounds far beyond any model, so that a damaged or hostile configuration is refused before it is given memory.
        require(self, fine_width=(8, 2**14), coarse_width=(8, 2**14), num_blocks=(0, 512), num_drawing_blocks=(0, 512))

    @property
    def vocab_size(self) -> int:
        """Number of distinct tokens."""
        return math.prod(self.levels)


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Size of a `VideoAutoencoder`, in diffusers' words. The defaults are Wan2.2's (challenge-facts 5.1)."""

    base_dim: int = 160
    """Channels of the encoder's finest level."""
    decoder_base_dim: int = 256
    """Channels of the decoder's finest level."""
    z_dim: int = 48
    """Channels of the latents."""
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Channels of each level over the base, from fine to coarse."""
    num_res_blocks: int = 2
    """Residual blocks of each encoder level; the decoder's have one more. 0 needs the same multiple everywhere."""
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    """Whether each step to a coarser level halves time as well (diffusers spells it so)."""
    patch_size: int | None = 2
    """Side of the squares of pixels that enter as channels; None for Wan2.1, which has none."""
    is_residual: bool = True
    """Wan2.2's levels, with averages past each change of resolution."""
    latent_noise: float = 0.0
    """Standard deviation of the noise added to normalised latents in training (*assumed*; Wan's weights come trained):
    small differences between latents then mean little, which is kind to a model that predicts them."""

    def __post_init__(self) -> None:
        for name in ("dim_mult", "temperal_downsample"):  # a configuration read from JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        # Bounds far beyond any model, so that a damaged or hostile configuration is refused before it is given memory.
        require(self, base_dim=(1, 2**12), decoder_base_dim=(1, 2**12), z_dim=(1, 2**12))
        require(self, num_res_blocks=(0, 64), patch_size=(1, 64), latent_noise=(0, math.inf))
        if not 1 <= len(self.dim_mult) <= 8 or not all(1 <= multiple <= 64 for multiple in self.dim_mult):
            raise ValueError(f"dim_mult must be one to eight numbers from 1 to 64, not {shortened(self.dim_mult, 80)}")
        if len(self.temperal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(f"{len(self.dim_mult)} levels need {len(self.dim_mult) - 1} temperal_downsample")
        if not self.num_res_blocks and len(set(self.dim_mult)) > 1:
            raise ValueError(f"num_res_blocks 0 cannot change channels, and dim_mult is {self.dim_mult}")

    @property
    def scale_factor_temporal(self) -> int:
        """Frames in a latent, but for the first, which is made from one."""
        return 2 ** sum(self.temperal_downsample)

    @property
    def scale_factor_spatial(self) -> int:
        """Pixels along the side of a latent."""
        return 2 ** len(self.temperal_downsample) * (self.patch_size or 1)


@dataclass(frozen=True, kw_only=True)
class StateEncoderConfig:
    """Size of a `StateEncoder`. The defaults are those of the winning entry."""

    modulation_width: int = 3072
    """D, the transformer's width."""
    width: int = 256
    """Width of a state row's features; a multiple of 8."""
    rows: Literal["downsample", "full"] = "downsample"
    """Which rows come in: one for each frame that the video has (21 rows to 6 steps), or all 77 (to 6 as well)."""
    combine: Literal["additive", "multiplicative"] = "additive"
    """How a block's table meets the modulation. If added, the last layer starts at zero, else the table alone does."""
    guidance: bool = False
    """Whether there is a token that stands for no states, as classifier-free guidance needs (challenge-facts 5.6)."""

    def __post_init__(self) -> None:
        require(self, modulation_width=(1, 2**16), width=(1, 2**16))
        if self.width % NUM_GROUPS:
            raise ValueError(f"width must be a multiple of {NUM_GROUPS}, not {self.width}")
