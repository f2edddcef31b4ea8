"""The reconstruction track: train a tokenizer, or an autoencoder, to give back the frames it was shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from foreframe.batch import Batch, to_frames
from foreframe.data.clips import VideoClips, clip_ids
from foreframe.data.decoded import DecodedDataset
from foreframe.data.raw import RawDataset
from foreframe.errors import InputError
from foreframe.metrics.image import PSNR_CAP_DB, psnr
from foreframe.models.autoencoder import VideoAutoencoder
from foreframe.models.config import TokenizerConfig
from foreframe.models.tokenizer import VideoTokenizer
from foreframe.models.weights import find_weights, load_weights
from foreframe.tracks.track import Loss, Metric, Scores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from foreframe.data.layout import OnBadShard
    from foreframe.data.loader import ClipDataset
    from foreframe.tracks.config import ReconstructionConfig

_NO_ERROR = 1e-4
"""Squared error, of a range of 2, below which a frame is as good as given back: 46 dB."""


Reconstructor = VideoTokenizer | VideoAutoencoder


class ReconstructionTrack:
    """`Track` over the frames that one call of the tokenizer or autoencoder takes."""

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
                description="Decoded against recorded frames, 8-bit RGB; mean over clips, each of its frames.",
            ),
            "psnr_last": Metric(
                title="PSNR of the last frame's reconstruction",
                unit="dB",
                higher_is_better=True,
                description="Of the last decoded frame alone, 8-bit RGB; mean over clips.",
            ),
        }

    @property
    def predictors(self) -> dict[str, str]:
        """See `Track`."""
        return {
            "first_frame": "the clip's first frame, repeated",
            "clip_mean": "the mean of the clip's frames, repeated",
        }

    @property
    def references(self) -> frozenset[str]:
        """See `Track`: what knows one picture of the clip knows less than a tokenizer, which sees all."""
        return frozenset()

    @property
    def num_observed(self) -> int:
        """See `Track`: neither reads states."""
        return 0

    @property
    def fps(self) -> float:
        """See `Track`: a tokenizer sees every frame, an autoencoder every fourth."""
        return 30.0 if isinstance(self.config.model, TokenizerConfig) else 7.5

    def open(
        self, root: Path, *, cache: Path, with_video: bool = False, on_bad_shard: OnBadShard = "raise"
    ) -> ClipDataset:
        """Clips of a raw folder; the video is always there, decoded under `cache` if the configuration says so.

        To be scored (`with_video`) they are `val_clip_stride` apart, else `clip_stride`.
        """
        stride = self.config.val_clip_stride if with_video else self.config.clip_stride
        offsets = self.config.frame_offsets
        length = offsets[-1] + 1
        if self.config.decode_once:
            dataset = DecodedDataset(root, cache=cache, size=self.config.size, on_bad_shard=on_bad_shard)
        else:
            dataset = RawDataset(root, on_bad_shard=on_bad_shard)
            dataset.check(size=self.config.size)
        ids = clip_ids(dataset.all_segments(), length=length, stride=stride)
        if not ids:
            raise InputError(f"{root}: no recording is as long as a clip of {length} frames")
        return VideoClips(dataset, ids, frame_offsets=offsets, num_states=length, size=self.config.size)

    @property
    def scores_pixels(self) -> bool:
        """See `Track`."""
        return True

    def fit(self, clips: ClipDataset) -> None:
        """Nothing is counted: pixels need no statistics."""

    def save_statistics(self, folder: Path) -> None:
        """There are none."""

    def load_statistics(self, folder: Path) -> None:
        """There are none."""

    def build(self) -> Reconstructor:
        """See `Track`."""
        settings = self.config.model
        model = VideoTokenizer(settings) if isinstance(settings, TokenizerConfig) else VideoAutoencoder(settings)
        if self.config.freeze_encoder:
            assert isinstance(model, VideoTokenizer)
            model.encoder.requires_grad_(False)
        return model

    def start(self, model: Reconstructor) -> None:
        """See `Track`: from the weights of `start_from`, which must be of the same size."""
        if self.config.start_from is not None:
            load_weights(find_weights(self.config.start_from), model)

    def loss(self, model: Reconstructor, batch: Batch) -> Loss:
        """Error of the frames, straight through the quantiser where there is one, whose uneven usage counts as well."""
        video = _video(batch)
        logs: dict[str, torch.Tensor] = {}
        drawn: torch.Tensor | tuple[torch.Tensor, torch.Tensor] = model(video)
        unevenness = video.new_zeros(())
        if isinstance(drawn, tuple):
            drawn, unevenness = drawn
            logs["unevenness"] = unevenness.detach()
        by_frame = (drawn.float() - video).square().mean((1, 3, 4))
        logs["squared_error"] = by_frame.mean().detach()
        value = by_frame.mean() if self.config.loss == "squared" else (by_frame + _NO_ERROR).log().mean()
        return Loss(value=value + self.config.even_usage * unevenness, logs=logs)

    @torch.no_grad()
    def predict(self, model: Reconstructor, batch: Batch, *, quick: bool = False) -> torch.Tensor:
        """The clip encoded and decoded, uint8 (B, T, H, W, 3)."""
        del quick
        return to_frames(model.decode(model.encode(_video(batch))))

    def score(self, model: Reconstructor, batch: Batch, prediction: torch.Tensor) -> dict[str, torch.Tensor]:
        """PSNR of the clip."""
        del model
        return _psnr(prediction, batch)

    def score_trivial(self, batch: Batch) -> Scores:
        """PSNR of what knows one picture of the clip."""
        truth = to_frames(_video(batch))
        mean = truth.double().mean(1, keepdim=True).round().byte()
        videos = {"first_frame": truth[:, :1], "clip_mean": mean}
        scores: Scores = {}
        for predictor, video in videos.items():
            for name, values in _psnr(video.expand_as(truth), batch).items():
                scores.setdefault(name, {})[predictor] = values
        return scores

    def panels(
        self, model: Reconstructor, batch: Batch, prediction: torch.Tensor, places: Sequence[int]
    ) -> dict[str, npt.NDArray[np.uint8]]:
        """See `Track`. The clip's first frame stands where others show context; it is given back like the rest."""
        del model
        truth = to_frames(_video(batch)[list(places)])
        videos = {"context": truth[:, :1], "truth": truth[:, 1:], "prediction": prediction[list(places), 1:]}
        return {name: video.cpu().numpy() for name, video in videos.items()}


def _psnr(video: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
    """Of uint8 (B, T, H, W, 3) against the batch's: the mean over frames and the last frame's, (B,) each."""
    by_frame = psnr(video, to_frames(_video(batch)), cap_db=PSNR_CAP_DB)
    return {"psnr": by_frame.mean(1), "psnr_last": by_frame[:, -1]}


def _video(batch: Batch) -> torch.Tensor:
    if batch.video is None:
        raise InputError("the reconstruction track needs video clips, and this batch has none")
    return batch.video
