"""What each track is: its data, its model's size, its objective and how it predicts; no torch is imported here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from foreframe.data.windows import frame_indices
from foreframe.errors import require, require_revision
from foreframe.flow_config import FlowConfig
from foreframe.inference.config import EnsembleConfig, RolloutConfig, SamplerConfig
from foreframe.models.config import (
    BLOCK_FRAMES,
    BLOCK_GRIDS,
    CELL,
    AutoencoderConfig,
    STTransformerConfig,
    TokenizerConfig,
)
from foreframe.models.wan_config import WanConfig

NUM_CONTEXT = BLOCK_GRIDS
"""Context grids: one block of 17 frames (report, section 3)."""


NUM_FUTURE = BLOCK_GRIDS
"""Grids to predict: the next block."""


_FULL_ROWS_FRAMES = 21
"""Frames whose latents are as many as the steps that a state encoder makes of all 77 rows: 6."""


NUM_OBSERVED = 17
"""Frames of a clip that are given (report, section 2)."""


@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """What is trained on token clips, and how."""

    kind: Literal["compression"] = "compression"
    """Names the track in `config.json`."""
    model: STTransformerConfig = field(default_factory=STTransformerConfig)
    """The transformer's size."""
    tokenizer: str | None = None
    """Whose tokens these are: a shipped model, a run folder, or a folder with Cosmos' `encoder.jit` and `decoder.jit`.
    It encodes raw folders and decodes predictions to pixels. With None there are scores over tokens only."""
    loss_grids: Literal["future", "all"] = "future"
    """Cross-entropy on grids 3-5, as the report's sum reads (*assumed*), or on all five that follow another."""
    pair_stride: int = 2
    """Blocks from one clip to the next; a clip is two blocks (*assumed*: 2 gives the report's count)."""
    normalise_states: bool = True
    """Z-score the states with the training split's statistics, closures excepted (*assumed*)."""
    scheduled_sampling: float = 0.0
    """Share of the cells of future grids that are, as training input, the model's own guess instead of the true token.
    The report tried it without gain (section 3.4)."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How evaluation picks the tokens it feeds back."""

    def __post_init__(self) -> None:
        require(self, pair_stride=(1, math.inf), scheduled_sampling=(0, 1))
        if self.model.num_grids < NUM_CONTEXT + NUM_FUTURE - 1:
            raise ValueError(f"num_grids {self.model.num_grids} is too few to predict {NUM_FUTURE} from {NUM_CONTEXT}")


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """Which tokenizer or autoencoder is trained, on what frames."""

    kind: Literal["reconstruction"] = "reconstruction"
    """Names the track in `config.json`."""
    model: TokenizerConfig | AutoencoderConfig = field(default_factory=TokenizerConfig)
    """Its size. A tokenizer is trained on 17 frames in a row, an autoencoder on the 21 of a 77-frame clip that the
    sampling model sees (`data.clips.frame_indices`)."""
    size: int = 128
    """Side of the frames in pixels: the video's own divided by a whole number."""
    clip_stride: int = 17
    """Frames from the start of one clip to the next, in training."""
    val_clip_stride: int = 17
    """The same in validation and evaluation: blocks of a tokenizer that do not overlap."""
    loss: Literal["decibel", "squared"] = "decibel"
    """`decibel`: mean over frames of the squared error's logarithm, so that each counts as it does in the mean PSNR;
    `squared`: the squared error itself, of which frames that are hard to draw have most."""
    even_usage: float = 1.0
    """Weight, beside the loss, of what draws a tokenizer towards using all levels alike
    (`FiniteScalarQuantizer.unevenness`)."""
    decode_once: bool = False
    """Keep every frame decoded, at `size`, in the run's cache: for many passes over data that fits on the disk."""
    start_from: str | None = None
    """Shipped model or run whose weights training starts from; None for a fresh initialisation."""
    freeze_encoder: bool = False
    """Train a tokenizer's decoder alone. The tokens stay what they were, so that what was trained on them goes on to
    work, and is drawn better."""

    def __post_init__(self) -> None:
        if self.freeze_encoder and not (isinstance(self.model, TokenizerConfig) and self.start_from):
            raise ValueError("freeze_encoder needs a tokenizer, and start_from, which says whose encoder it is")
        require(self, clip_stride=(1, math.inf), val_clip_stride=(1, math.inf))
        require(self, size=(CELL, 2**14), even_usage=(0, math.inf))
        side = CELL if isinstance(self.model, TokenizerConfig) else self.model.scale_factor_spatial
        if self.size % side:
            raise ValueError(f"size {self.size} is not a multiple of {side}, the side of a cell")

    @property
    def frame_offsets(self) -> list[int]:
        """Frames of a clip that are encoded."""
        if isinstance(self.model, TokenizerConfig):
            return list(range(BLOCK_FRAMES))
        return frame_indices("stride4_dup_last").tolist()


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """What is trained on clips of video, and how it predicts."""

    kind: Literal["sampling"] = "sampling"
    """Names the track in `config.json`."""
    model: WanConfig = field(default_factory=WanConfig)
    """The transformer's size, its base and what of it is trained."""
    autoencoder: str | None = None
    """Whose latents: a shipped model, a run folder, or a folder in diffusers' form. None: `model.base` holds it."""
    autoencoder_revision: str | None = None
    """Commit of an autoencoder on the hub: what the id meant when the run was started with `--download`."""
    prompt: str | None = None
    """File with the empty prompt's embedding, made once where there is no text encoder. None: by the text encoder of
    `model.base`, or, without a base, a prompt of ones."""
    start_from: str | None = None
    """Shipped model or run whose weights training starts from, of the same size and on the same autoencoder's latents;
    None for a fresh start, from `model.base` if there is one."""
    size: int = 512
    """Side of the frames in pixels: the video's own divided by a whole number (report: 512)."""
    frames: Literal["stride4_dup_last", "uniform21", "stride2", "all"] = "stride4_dup_last"
    """Which of the 77 frames the model sees (challenge-facts 5.2)."""
    clip_stride: int = 8
    """Frames from the start of one clip to the next, in training (challenge-facts 5.7)."""
    val_clip_stride: int = 77
    """The same in validation and evaluation: clips that do not overlap (challenge-facts 5.10)."""
    legacy_segment_check: bool = False
    """Whether to list clips as the entry's loader did, in training and in evaluation: it also asks for the frame after
    a clip, and so loses the clip that ends just where its recording or shard does (challenge-facts 1.6, 7.13)."""
    latents: Literal["cached", "online"] = "cached"
    """Encode every clip once and keep its latents on disk, or anew each time it is seen."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Noise levels in training."""
    loss_latents: Literal["future", "last"] = "future"
    """Latent frames that the loss is over: all that are to be predicted (*assumed*), or the last alone."""
    state_dropout: float = 0.0
    """Share of clips whose states are withheld in training, for guidance. Where the entry has any, its training
    script has 0.1 (challenge-facts 5.6, [team]); the report gives no share."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """Steps, solver and guidance of a prediction."""
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    """Samples averaged for a prediction, and what is done to their mean."""
    decode: Literal["last", "all"] = "last"
    """Decode the predicted frame only, or all of the future, to look at."""
    answer: Literal["last", "both"] = "last"
    """The last decoded frame, or the mean of the two that show frame 76 (with `stride4_dup_last` only)."""
    unchanged_tolerance: float = 0.0
    """Difference, on the scale [-1, 1], below which a place of a sample counts as unchanged and shows the last observed
    frame itself (`inference.unchanged`); 0 is never, as in the entry."""
    inference_precision: Literal["no", "bf16"] = "no"
    """Precision of the transformer's and the decoder's matrix products in prediction."""

    def __post_init__(self) -> None:
        require(self, size=(16, 2**14), clip_stride=(1, math.inf), val_clip_stride=(1, math.inf))
        require_revision(self, "autoencoder_revision")
        require(self, state_dropout=(0, 1), unchanged_tolerance=(0, 2))
        if self.state_dropout > 0 and not self.model.guidance:
            raise ValueError("state_dropout needs model.guidance, the token that stands for no states")
        if self.sampler.guidance_scale != 1 and not self.model.guidance:
            raise ValueError(f"a guidance scale of {self.sampler.guidance_scale} needs a model trained with guidance")
        if self.answer == "both" and self.frames != "stride4_dup_last":
            raise ValueError(f"answer both needs frames stride4_dup_last, not {self.frames}")
        if self.model.state_rows == "full" and len(self.frame_offsets) != _FULL_ROWS_FRAMES:
            raise ValueError(
                f"frames {self.frames} needs model.state_rows downsample: of all 77 rows the encoder makes the steps "
                f"of {_FULL_ROWS_FRAMES} frames, and these are {len(self.frame_offsets)}"
            )

    @property
    def frame_offsets(self) -> list[int]:
        """Frames of the clip that the model sees, T of them."""
        return frame_indices(self.frames).tolist()

    @property
    def num_context_frames(self) -> int:
        """Those among them that are given."""
        return sum(offset < NUM_OBSERVED for offset in self.frame_offsets)

    @property
    def num_context_latents(self) -> int:
        """Latent frames made of them; what is left over of a group of four stays unused (challenge-facts 5.2)."""
        return 1 + (self.num_context_frames - 1) // 4
