"""Size and training mode of the state-conditioned Wan transformer: read by all that plan it without building it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foreframe.errors import require, require_revision
from foreframe.models.config import StateEncoderConfig


@dataclass(frozen=True, kw_only=True)
class WanConfig:
    """Size and training mode of a `StateConditionedWan`. The defaults are the winning entry on Wan2.2 TI2V-5B.

    Fields that diffusers' configuration has too bear its names.
    """

    num_layers: int = 30
    """Blocks (challenge-facts 5.1, like all sizes here)."""
    num_attention_heads: int = 24
    """Heads of either attention."""
    attention_head_dim: int = 128
    """Channels of a head; the width D is heads times this."""
    ffn_dim: int = 14_336
    """Hidden width of the feed-forward."""
    latent_channels: int = 48
    """C of the latents, in and out."""
    patch_size: tuple[int, int, int] = (1, 2, 2)
    """Latent frames, rows and columns of a token. A token lies in one latent frame."""
    freq_dim: int = 256
    """Length of a timestep's sinusoids."""
    text_dim: int = 4096
    """Width of the text encoder's output."""
    rope_max_seq_len: int = 1024
    """Most positions along an axis."""
    num_prompt_rows: int = 512
    """Rows of the text encoder's output: the one of the empty prompt's only token, and zeros (challenge-facts 5.1)."""
    collapse_prompt: bool = True
    """Attend to the two distinct prompt rows, each with its number, instead of to all. The result is the same."""
    state_rows: Literal["downsample", "full"] = "downsample"
    """State rows given with a clip: one for each of its 21 frames, or all 77 (challenge-facts 5.4)."""
    state_width: int = 256
    """Width of a state row's features (challenge-facts 5.4)."""
    combine: Literal["additive", "multiplicative"] = "additive"
    """How the states' modulation meets each block's table (challenge-facts 5.5)."""
    guidance: bool = False
    """Whether states can be withheld, for classifier-free guidance (challenge-facts 5.6)."""
    lora_rank: int = 32
    """Rank of the adapters on the frozen base (report); 0 has none and trains everything."""
    checkpointing: Literal["none", "selective", "full"] = "none"
    """What backward computes again instead of keeping: nothing, pointwise results, or whole blocks."""
    base: str | None = None
    """Folder or hub id of a diffusers model whose transformer is the base. None starts from a random one, which makes
    sense only if everything trains or nothing does."""
    base_revision: str | None = None
    """Commit of a base on the hub: what the id meant when the run was started with `--download`. None for a folder."""
    base_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the frozen base's matrices; tables, norms and the time embedding stay float32, as in diffusers."""

    def __post_init__(self) -> None:
        # Bounds far beyond any model, so that a damaged or hostile configuration is refused before it is given memory.
        counts = ("num_attention_heads", "attention_head_dim", "ffn_dim", "latent_channels", "freq_dim", "text_dim")
        require(self, **dict.fromkeys((*counts, "rope_max_seq_len", "state_width", "width"), (1, 2**16)))
        require(self, num_layers=(1, 512), num_prompt_rows=(2, 2**16), lora_rank=(0, 2**12))
        require_revision(self, "base_revision")
        if not all(1 <= side <= 64 for side in self.patch_size):
            raise ValueError(f"patch_size must be numbers from 1 to 64, not {self.patch_size}")
        if self.patch_size[0] != 1:
            raise ValueError(f"patch_size must start with 1, not {self.patch_size}: a token lies in one latent frame")
        if self.attention_head_dim % 2:
            raise ValueError(f"attention_head_dim must be even, not {self.attention_head_dim}: positions turn pairs")
        if self.lora_rank == 0 and self.base_dtype != "float32":
            raise ValueError(f"base_dtype {self.base_dtype} needs a frozen base; with lora_rank 0 everything trains")

    @property
    def width(self) -> int:
        """D, the channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def state_encoder(self) -> StateEncoderConfig:
        """The robot branch's part of this."""
        return StateEncoderConfig(
            modulation_width=self.width,
            width=self.state_width,
            rows=self.state_rows,
            combine=self.combine,
            guidance=self.guidance,
        )
