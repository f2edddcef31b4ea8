"""The reconstruction track: train the video tokenizer to give back the frames it was shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from foreframe.batch import Batch, to_frames
from foreframe.data.clips import VideoClips, clip_ids
from foreframe.data.raw import RawDataset
from foreframe.errors import InputError, require
from foreframe.metrics.image import PSNR_CAP_DB, psnr
from foreframe.models.tokenizer import BLOCK_FRAMES, CELL, TokenizerConfig, VideoTokenizer
from foreframe.models.weights import find_weights, load_weights
from foreframe.tracks.track import Loss, Metric, Scores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from foreframe.data.layout import OnBadShard
    from foreframe.data.loader import ClipDataset


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """Which tokenizer is trained, on what frames."""

    kind: Literal["reconstruction"] = "reconstruction"
    """Names the track in `config.json`."""
    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The tokenizer's size."""
    size: int = 128
    """Side of the frames in pixels: the video's own divided by a whole number."""
    clip_stride: int = 17
    """Frames from the start of one training clip to the next."""
    absolute_weight: float = 0.2
    """Weight of the absolute error beside the squared one, which alone would blur edges."""
    start_from: str | None = None
    """Shipped model or run whose weights training starts from; None for a fresh initialisation."""

    def __post_init__(self) -> None:
        require(self, clip_stride=(1, math.inf), absolute_weight=(0, math.inf), size=(CELL, math.inf))
        if self.size % CELL:
            raise ValueError(f"size {self.size} is not a multiple of {CELL}, the side of a token cell")


class ReconstructionTrack:
    """`Track` over single blocks of 17 frames."""

    kind = "reconstruction"

    def __init__(self, config: ReconstructionConfig) -> None:
        self.config = config

    @property
    def metrics(self) -> dict[str, Metric]:
        """See `Track`."""
        return {
            "psnr": Metric(
                title="PSNR of the reconstruction",
                unit="dB",
                higher_is_better=True,
                description="Decoded against recorded frames, 8-bit RGB; mean over clips of the mean over 17 frames.",
            )
        }

    @property
    def predictors(self) -> dict[str, str]:
        """See `Track`."""
        return {
            "first_frame": "the block's first frame, repeated",
            "block_mean": "the mean of the block's 17 frames, repeated",
        }

    @property
    def references(self) -> frozenset[str]:
        """See `Track`: what knows one picture of the block knows less than a tokenizer, which sees all."""
        return frozenset()

    @property
    def num_observed(self) -> int:
        """See `Track`: a tokenizer reads no states."""
        return 0

    def open(
        self, root: Path, *, cache: Path, with_video: bool = False, on_bad_shard: OnBadShard = "raise"
    ) -> ClipDataset:
        """Blocks of a raw folder; nothing is cached, and the video is always there."""
        del cache, with_video
        dataset = RawDataset(root, on_bad_shard=on_bad_shard)
        dataset.check()
        ids = clip_ids(dataset.all_segments(), length=BLOCK_FRAMES, stride=self.config.clip_stride)
        if not ids:
            raise InputError(f"{root}: no recording is as long as a block of {BLOCK_FRAMES} frames")
        return VideoClips(
            dataset, ids, frame_offsets=range(BLOCK_FRAMES), num_states=BLOCK_FRAMES, size=self.config.size
        )

    def fit(self, clips: ClipDataset) -> None:
        """Nothing is counted: pixels need no statistics."""

    def save_statistics(self, folder: Path) -> None:
        """There are none."""

    def load_statistics(self, folder: Path) -> None:
        """There are none."""

    def build(self) -> VideoTokenizer:
        """See `Track`; with `start_from`, the model found there, which must be of the configured size."""
        model = VideoTokenizer(self.config.model)
        if self.config.start_from is not None:
            load_weights(find_weights(self.config.start_from), model)
        return model

    def loss(self, model: VideoTokenizer, batch: Batch) -> Loss:
        """Mean squared plus weighted absolute error of the frames, straight through the quantiser."""
        video = _video(batch)
        error = model(video).float() - video
        squared = error.square().mean()
        value = squared + self.config.absolute_weight * error.abs().mean()
        return Loss(value=value, logs={"squared_error": squared.detach()})

    @torch.no_grad()
    def predict(self, model: VideoTokenizer, batch: Batch) -> torch.Tensor:
        """The block through tokens and back, uint8 (B, 17, H, W, 3)."""
        return to_frames(model.decode(model.encode(_video(batch))))

    def score(self, model: VideoTokenizer, batch: Batch, prediction: torch.Tensor) -> dict[str, torch.Tensor]:
        """PSNR of the block."""
        del model
        return {"psnr": _block_psnr(prediction, batch)}

    def score_trivial(self, batch: Batch) -> Scores:
        """PSNR of what knows one picture of the block."""
        truth = to_frames(_video(batch))
        mean = truth.double().mean(1, keepdim=True).round().byte()
        videos = {"first_frame": truth[:, :1], "block_mean": mean}
        return {"psnr": {name: _block_psnr(video.expand_as(truth), batch) for name, video in videos.items()}}

    def panels(self, batch: Batch, prediction: torch.Tensor, places: Sequence[int]) -> dict[str, npt.NDArray[np.uint8]]:
        """See `Track`. The block's first frame stands where others show context; it is given back like the rest."""
        truth = to_frames(_video(batch)[list(places)])
        videos = {"context": truth[:, :1], "truth": truth[:, 1:], "prediction": prediction[list(places), 1:]}
        return {name: video.cpu().numpy() for name, video in videos.items()}


def _block_psnr(video: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Mean over frames, (B,), of uint8 (B, 17, H, W, 3) against the batch's."""
    return psnr(video, to_frames(_video(batch)), cap_db=PSNR_CAP_DB).mean(1)


def _video(batch: Batch) -> torch.Tensor:
    if batch.video is None:
        raise InputError("the reconstruction track needs video clips, and this batch has none")
    return batch.video
