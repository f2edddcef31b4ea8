"""The compression track: three token grids and 64 state rows in, a distribution over the next three grids out."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from foreframe import baselines
from foreframe.batch import Batch, to_frames, to_video
from foreframe.data.clips import TokenClips, token_pair_ids
from foreframe.data.layout import find_layout
from foreframe.data.raw import RawDataset
from foreframe.data.tokens import TokenDataset
from foreframe.encode import TokenEncoder, check_encoding, tokens_of
from foreframe.errors import InputError, require
from foreframe.inference.autoregressive import Rollout, greedy_rollout
from foreframe.metrics.image import PSNR_CAP_DB, psnr
from foreframe.metrics.tokens import token_accuracy, token_cross_entropy
from foreframe.models.st_transformer import STTransformer, STTransformerConfig
from foreframe.models.tokenizer import BLOCK_FRAMES, CELL, VideoTokenizer
from foreframe.models.weights import find_weights, load_model, weights_hash
from foreframe.states import StateStatistics
from foreframe.tracks.track import MODEL, Loss, Metric, Scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from foreframe.batch import ClipId
    from foreframe.data.layout import OnBadShard
    from foreframe.data.loader import ClipDataset

NUM_CONTEXT = baselines.NUM_CONTEXT_GRIDS
"""Context grids: one block of 17 frames (report, section 3)."""
NUM_FUTURE = baselines.NUM_FUTURE_GRIDS
"""Grids to predict: the next block."""
STATISTICS_FILE = "statistics.json"
RECONSTRUCTION = "reconstruction"
"""The predictor that decodes the true tokens: what the tokenizer alone loses."""


@dataclass(frozen=True, kw_only=True)
class CompressionConfig:
    """What is trained on token clips, and how."""

    kind: Literal["compression"] = "compression"
    """Names the track in `config.json`."""
    model: STTransformerConfig = field(default_factory=STTransformerConfig)
    """The transformer's size."""
    tokenizer: str | None = None
    """Shipped model or run folder whose tokens these are: encodes raw folders, decodes predictions to pixels. None for
    1X's own Cosmos tokens: then there are scores over tokens only."""
    loss_grids: Literal["future", "all"] = "future"
    """Cross-entropy on grids 3-5, as the report's sum reads (*assumed*), or on all five that follow another."""
    pair_stride: int = 2
    """Blocks from one clip to the next; a clip is two blocks (*assumed*: 2 gives the report's count)."""
    normalise_states: bool = True
    """Z-score the states with the training split's statistics, closures excepted (*assumed*)."""

    def __post_init__(self) -> None:
        require(self, pair_stride=(1, math.inf))
        if self.model.num_grids < NUM_CONTEXT + NUM_FUTURE - 1:
            raise ValueError(f"num_grids {self.model.num_grids} is too few to predict {NUM_FUTURE} from {NUM_CONTEXT}")


class CompressionTrack:
    """`Track` over pairs of token blocks."""

    kind = "compression"

    def __init__(self, config: CompressionConfig) -> None:
        self.config = config
        self.state_statistics: StateStatistics | None = None
        self.token_statistics: baselines.TokenStatistics | None = None

    # -- what is measured --------------------------------------------------------------------------------------------

    @property
    def metrics(self) -> dict[str, Metric]:
        """See `Track`."""
        over = "mean over clips, three grids and all cells"
        return {
            "cross_entropy_autoregressive": Metric(
                title="Cross-entropy, autoregressive",
                unit="nats/token",
                higher_is_better=False,
                description=f"Each grid given the model's own grids before it, as a submission would be; {over}.",
            ),
            "cross_entropy_teacher_forced": Metric(
                title="Cross-entropy, teacher-forced",
                unit="nats/token",
                higher_is_better=False,
                description=f"Each grid given the true grids before it: a lower bound on the above; {over}.",
            ),
            "accuracy_autoregressive": Metric(
                title="Accuracy, autoregressive",
                unit="share",
                higher_is_better=True,
                description=f"Share of cells whose most likely token is the true one, given own grids; {over}.",
            ),
            "accuracy_teacher_forced": Metric(
                title="Accuracy, teacher-forced",
                unit="share",
                higher_is_better=True,
                description=f"Share of cells whose most likely token is the true one, given true grids; {over}.",
            ),
            "psnr": Metric(
                title="PSNR of the decoded future",
                unit="dB",
                higher_is_better=True,
                description="Predicted frames against recorded ones at the tokenizer's size, 8-bit RGB; mean over "
                "clips of the mean over 17 future frames.",
            ),
        }

    @property
    def predictors(self) -> dict[str, str]:
        """See `Track`."""
        return {
            "copy": "repeats the token of the same cell, smoothed with training frequencies (weight fitted on train)",
            "unigram": "training frequencies of the tokens, the same for every cell",
            "copy_last": "the last observed frame again",
            "context_mean": "mean of the 17 observed frames",
            "blur": "the last observed frame, blurred",
            RECONSTRUCTION: "the true future through the tokenizer: what is lost before any prediction",
        }

    # -- data --------------------------------------------------------------------------------------------------------

    def open(
        self, root: Path, *, cache: Path, with_video: bool = False, on_bad_shard: OnBadShard = "raise"
    ) -> ClipDataset:
        """Clips of a tokenised folder, or of a raw one, which is tokenised once under `cache`."""
        if self.config.tokenizer is not None and self.tokenizer.vocab_size != self.config.model.vocab_size:
            raise InputError(
                f"{self.config.tokenizer}: has {self.tokenizer.vocab_size} tokens and the model "
                f"{self.config.model.vocab_size}; set track.model.vocab-size"
            )
        raw = root if find_layout(root, on_bad_shard=on_bad_shard).kind == "raw" else None
        if raw is not None:
            if self.config.tokenizer is None:
                raise InputError(
                    f"{root}: holds video, but this recipe trains on tokens and names no tokenizer; encode the folder "
                    "with `foreframe data encode` first"
                )
            size = self.config.model.grid * CELL
            encoder = TokenEncoder(tokenizer=self.tokenizer, weights=self._tokenizer_hash, size=size)
            root = tokens_of(raw, cache=cache, encoder=encoder, on_bad_shard=on_bad_shard)
        elif self.config.tokenizer is not None:
            check_encoding(root, weights=self._tokenizer_hash)
        tokens = TokenDataset(root, on_bad_shard=on_bad_shard)
        if tokens.grid != self.config.model.grid:
            raise InputError(
                f"{root}: token grids are {tokens.grid}x{tokens.grid}, the model's are {self.config.model.grid}x"
                f"{self.config.model.grid}; set track.model.grid or encode at another size"
            )
        tokens.check(self.config.model.vocab_size)
        ids = token_pair_ids(tokens.all_segments(), stride_blocks=self.config.pair_stride)
        if not ids:
            raise InputError(f"{root}: no recording holds two whole blocks in a row ({2 * BLOCK_FRAMES} frames)")
        clips = TokenClips(tokens, ids, num_states=self.config.model.num_states)
        if not with_video or raw is None:
            return clips
        return _WithVideo(clips, RawDataset(raw), size=self.config.model.grid * CELL)

    def fit(self, clips: ClipDataset) -> None:
        """Z-scoring from the rows of the training folder, unigram and copy weights from its token pairs."""
        assert isinstance(clips, TokenClips)
        tokens = clips.dataset
        rows = (shard.open_states() for shard in tokens.layout.shards)
        self.state_statistics = StateStatistics.fit(rows)
        grids = (clips[index].tokens for index in range(len(clips)))
        self.token_statistics = baselines.TokenStatistics.fit(
            (grid[0] for grid in grids if grid is not None), vocab_size=self.config.model.vocab_size
        )

    def save_statistics(self, folder: Path) -> None:
        """See `Track`."""
        assert self.state_statistics is not None
        assert self.token_statistics is not None
        content = {
            "states": self.state_statistics.to_dict(),
            "tokens": self.token_statistics.to_dict(),
            "tokenizer_sha256": self._tokenizer_hash if self.config.tokenizer else None,
        }
        (folder / STATISTICS_FILE).write_text(json.dumps(content) + "\n")

    def load_statistics(self, folder: Path) -> None:
        """See `Track`."""
        path = folder / STATISTICS_FILE
        try:
            content = json.loads(path.read_text())
            states, tokens, tokenizer = content["states"], content["tokens"], content["tokenizer_sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: cannot be read as training statistics: {error}") from error
        if self.config.tokenizer is not None and tokenizer != self._tokenizer_hash:
            raise InputError(
                f"{path}: the model was trained on the tokens of other weights than {self.config.tokenizer} has now; "
                "bring those weights back, or train anew"
            )
        self.state_statistics = StateStatistics.from_dict(states, where=str(path))
        self.token_statistics = baselines.TokenStatistics.from_dict(tokens, where=str(path))
        if self.token_statistics.vocab_size != self.config.model.vocab_size:
            raise InputError(
                f"{path}: statistics of {self.token_statistics.vocab_size} tokens, but the model has "
                f"{self.config.model.vocab_size}"
            )

    # -- model -------------------------------------------------------------------------------------------------------

    def build(self) -> STTransformer:
        """See `Track`."""
        return STTransformer(self.config.model)

    def loss(self, model: STTransformer, batch: Batch) -> Loss:
        """Teacher forcing over six grids shifted by one: position t predicts grid t + 1 (report, section 3.2)."""
        tokens = _tokens(batch)
        first = NUM_CONTEXT if self.config.loss_grids == "future" else 1
        features = model(tokens[:, :-1], self._states(batch))[:, first - 1 :]
        logits = model.logits(features).float()
        targets = tokens[:, first:].flatten(2)
        value = F.cross_entropy(logits.flatten(0, 2), targets.flatten())
        accuracy = (logits.detach().argmax(-1) == targets).float().mean()
        return Loss(value=value, logs={"accuracy": accuracy})

    def predict(self, model: STTransformer, batch: Batch) -> Rollout:
        """Three grids, greedily, from the context and the states (report, section 3.3)."""
        return greedy_rollout(model, _tokens(batch)[:, :NUM_CONTEXT], self._states(batch), num_future=NUM_FUTURE)

    @torch.no_grad()
    def score(self, model: STTransformer, batch: Batch, prediction: Rollout) -> Scores:
        """Cross-entropy and accuracy in both regimes; PSNR where the batch has the frames."""
        assert self.token_statistics is not None
        tokens = _tokens(batch)
        truth = tokens[:, NUM_CONTEXT:]
        features = model(tokens[:, :-1], self._states(batch))[:, NUM_CONTEXT - 1 :]
        forced = model.logits(features).float().unflatten(2, truth.shape[2:])
        scores: Scores = {
            "cross_entropy_autoregressive": {MODEL: token_cross_entropy(prediction.logits, truth)},
            "cross_entropy_teacher_forced": {MODEL: token_cross_entropy(forced, truth)},
            "accuracy_autoregressive": {MODEL: token_accuracy(prediction.tokens, truth)},
            "accuracy_teacher_forced": {MODEL: token_accuracy(forced.argmax(-1), truth)},
        }
        unigram = -baselines.unigram_log_probs(self.token_statistics, truth).flatten(1).mean(1)
        most_common = torch.full_like(truth, self.token_statistics.most_common)
        for regime in baselines.REGIMES:
            source = baselines.copy_sources(tokens, regime)
            log_probs = [
                baselines.copy_log_probs(
                    self.token_statistics, source[:, step], truth[:, step], grid_step=step, regime=regime
                )
                for step in range(NUM_FUTURE)
            ]
            scores[f"cross_entropy_{regime}"] |= {
                "copy": -torch.stack(log_probs, 1).flatten(1).mean(1),
                "unigram": unigram,
            }
            scores[f"accuracy_{regime}"] |= {
                "copy": token_accuracy(source, truth),
                "unigram": token_accuracy(most_common, truth),
            }
        if batch.video is not None:
            scores["psnr"] = self._pixel_scores(batch, prediction)
        return scores

    @torch.no_grad()
    def panels(self, batch: Batch, prediction: Rollout) -> dict[str, npt.NDArray[np.uint8]]:
        """See `Track`. Without recorded frames the decoded true tokens stand for them; without a tokenizer, nothing."""
        if self.config.tokenizer is None:
            return {}
        tokens = _tokens(batch)
        decoded = self._decode(tokens[:, NUM_CONTEXT:])
        if batch.video is not None:
            frames = to_frames(batch.video)
        else:
            frames = torch.cat([self._decode(tokens[:, :NUM_CONTEXT]), decoded], 1)
        videos = {
            "context": frames[:, :BLOCK_FRAMES],
            "truth": frames[:, BLOCK_FRAMES:],
            "prediction": self._decode(prediction.tokens),
            RECONSTRUCTION: decoded,
            "baseline_copy_last": baselines.copy_last(frames[:, :BLOCK_FRAMES], BLOCK_FRAMES),
        }
        return {name: video.cpu().numpy() for name, video in videos.items()}

    @cached_property
    def tokenizer(self) -> VideoTokenizer:
        """The tokenizer that `config.tokenizer` names."""
        return load_model(self._tokenizer_folder, VideoTokenizer)

    @cached_property
    def _tokenizer_folder(self) -> Path:
        if self.config.tokenizer is None:
            raise InputError("this run names no tokenizer, so tokens cannot be made into frames; set track.tokenizer")
        return find_weights(self.config.tokenizer)

    @cached_property
    def _tokenizer_hash(self) -> str:
        return weights_hash(self._tokenizer_folder)

    def _states(self, batch: Batch) -> torch.Tensor:
        if not self.config.normalise_states:
            return batch.states
        assert self.state_statistics is not None
        return self.state_statistics.normalise(batch.states)

    def _decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """One block (B, 3, h, w) to uint8 (B, 17, H, W, 3)."""
        return to_frames(self.tokenizer.to(tokens.device).decode(tokens))

    def _pixel_scores(self, batch: Batch, prediction: Rollout) -> dict[str, torch.Tensor]:
        assert batch.video is not None
        frames = to_frames(batch.video)
        context, truth = frames[:, :BLOCK_FRAMES], frames[:, BLOCK_FRAMES:]
        predictions = {
            MODEL: self._decode(prediction.tokens),
            "copy_last": baselines.copy_last(context, BLOCK_FRAMES),
            "context_mean": baselines.context_mean(context, BLOCK_FRAMES),
            "blur": baselines.blur(context, BLOCK_FRAMES),
            RECONSTRUCTION: self._decode(_tokens(batch)[:, NUM_CONTEXT:]),
        }
        return {name: psnr(video, truth, cap_db=PSNR_CAP_DB).mean(1) for name, video in predictions.items()}


class _WithVideo:
    """Token clips together with the 34 frames they were made from."""

    def __init__(self, clips: TokenClips, raw: RawDataset, *, size: int) -> None:
        self._clips, self._raw, self._size = clips, raw, size

    @property
    def clips(self) -> Sequence[ClipId]:
        return self._clips.clips

    @property
    def skipped(self) -> Mapping[int, str]:
        return self._clips.skipped

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Batch:
        batch = self._clips[index]
        clip = batch.clips[0]
        shard = self._clips.dataset.source_shard(clip.shard)
        frames = self._raw.frames(shard, range(clip.start, clip.start + 2 * BLOCK_FRAMES), size=self._size)
        return Batch(
            clips=batch.clips,
            states=batch.states,
            states_valid=batch.states_valid,
            tokens=batch.tokens,
            video=to_video(torch.from_numpy(frames)[None]),
        )


def _tokens(batch: Batch) -> torch.Tensor:
    if batch.tokens is None:
        raise InputError("the compression track needs token clips, and this batch has none")
    return batch.tokens
