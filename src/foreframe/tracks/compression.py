"""The compression track: three token grids and 64 state rows in, a distribution over the next three grids out."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from foreframe import baselines
from foreframe.batch import Batch, to_frames, to_video
from foreframe.data.clips import TokenClips, token_pair_ids
from foreframe.data.layout import find_layout
from foreframe.data.raw import RawDataset
from foreframe.data.tokens import TokenDataset
from foreframe.encode import AnyTokenizer, TokenEncoder, check_encoding, load_tokenizer, tokens_of
from foreframe.errors import InputError, UsageError
from foreframe.files import read_json
from foreframe.inference.autoregressive import Rollout, clip_generator, rollout
from foreframe.metrics.image import PSNR_CAP_DB, psnr
from foreframe.metrics.tokens import TOP_K, cell_scores, top_k_scores
from foreframe.models.config import BLOCK_FRAMES, CELL
from foreframe.models.cosmos import CosmosTokenizer
from foreframe.models.losses import linear_cross_entropy
from foreframe.models.st_transformer import STTransformer
from foreframe.permissions import NONE, Permissions
from foreframe.states import StateStatistics
from foreframe.tracks.config import NUM_CONTEXT, NUM_FUTURE, CompressionConfig
from foreframe.tracks.track import Loss, Metric, Scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from foreframe.batch import ClipId
    from foreframe.data.layout import OnBadShard
    from foreframe.data.loader import ClipDataset

STATISTICS_FILE = "statistics.json"
CELLS_FILE = "cells.safetensors"
"""How often each token occurs in each cell, beside the statistics."""
RECONSTRUCTION = "reconstruction"
"""The predictor that decodes the true tokens: what the tokenizer alone loses."""


_REGIMES: dict[baselines.Regime, str] = {
    "autoregressive": "Given the model's own grids before it, as a submission would be.",
    "teacher_forced": "Given the true grids before it, which is easier.",
}
_TOP = f"Cross-entropy from the {TOP_K} likeliest tokens of each cell alone"
_TOKEN_METRICS: dict[str, tuple[str, str, bool, str]] = {
    "cross_entropy": ("Cross-entropy", "nats/token", False, "Of the true token, over the whole vocabulary."),
    "top_k": ("Top-500 cross-entropy", "nats/token", False, f"{_TOP}; the others share what these leave."),
    "accuracy": ("Accuracy", "share", True, "Share of cells whose most likely token is the true one."),
    "top_k_minfill": ("Top-500, minfill", "nats/token", False, f"{_TOP}; the others get the smallest of their scores."),
    "top_k_renorm": (
        "Top-500, renorm",
        "nats/token",
        False,
        f"{_TOP}, normalised; a miss costs log V: not a proper score.",
    ),
    "top_k_coverage": (
        "Top-500 coverage",
        "share",
        True,
        f"Share of true tokens among the {TOP_K} likeliest of their cell.",
    ),
}
"""name -> title, unit, whether higher is better, meaning (challenge-facts 2.2)."""
_DETAILS = ("top_k_minfill", "top_k_renorm", "top_k_coverage")


class CompressionTrack:
    """`Track` over pairs of token blocks."""

    kind = "compression"

    def __init__(self, config: CompressionConfig, *, permissions: Permissions = NONE) -> None:
        self.config = config
        self.permissions = permissions
        """What may be fetched and run for it."""
        self.state_statistics: StateStatistics | None = None
        self.token_statistics: baselines.TokenStatistics | None = None
        self.cell_statistics: baselines.CellStatistics | None = None

    # -- what is measured --------------------------------------------------------------------------------------------

    @property
    def metrics(self) -> dict[str, Metric]:
        """See `Track`."""
        metrics: dict[str, Metric] = {}
        for name, (title, unit, higher_is_better, meaning) in _TOKEN_METRICS.items():
            for regime, given in _REGIMES.items():
                overall = Metric(
                    title=f"{title}, {regime.replace('_', '-')}",
                    unit=unit,
                    higher_is_better=higher_is_better,
                    description=f"{meaning} {given} Mean over clips, three grids and all cells.",
                    detail=name in _DETAILS,
                )
                metrics[f"{name}_{regime}"] = overall
                for grid in range(1, NUM_FUTURE + 1):
                    metrics[f"{name}_{regime}_grid_{grid}"] = replace(
                        overall,
                        title=f"{overall.title}, grid {grid}",
                        description=f"{meaning} {given} Future grid {grid} alone.",
                        detail=True,
                    )
        metrics["psnr"] = Metric(
            title="PSNR of the decoded future",
            unit="dB",
            higher_is_better=True,
            description="Predicted frames against recorded ones at the tokenizer's size, 8-bit RGB; mean over clips of "
            "the mean over 17 future frames.",
        )
        return dict(sorted(metrics.items(), key=lambda item: item[1].detail))

    @property
    def predictors(self) -> dict[str, str]:
        """See `Track`."""
        return {
            "copy": "repeats the same cell's token of an earlier grid, smoothed with training frequencies "
            "(which grid, and the weight, fitted on train)",
            "unigram": "training frequencies of the tokens, the same for every cell",
            "cell_unigram": "training frequencies of the tokens in each cell (smoothing fitted on train)",
            "copy_last": "the last observed frame again",
            "context_mean": "mean of the 17 observed frames",
            "blur": "the last observed frame, blurred",
            RECONSTRUCTION: "the true future through the tokenizer: what is lost before any prediction",
        }

    @property
    def references(self) -> frozenset[str]:
        """See `Track`."""
        return frozenset({RECONSTRUCTION})

    @property
    def num_observed(self) -> int:
        """See `Track`."""
        return BLOCK_FRAMES

    @property
    def scores_pixels(self) -> bool:
        """See `Track`: tokens suffice."""
        return False

    @property
    def fps(self) -> float:
        """See `Track`."""
        return 30.0

    # -- data --------------------------------------------------------------------------------------------------------

    def open(
        self, root: Path, *, cache: Path, with_video: bool = False, on_bad_shard: OnBadShard = "raise"
    ) -> ClipDataset:
        """Clips of a tokenised folder, or of a raw one, which is tokenised once under `cache`."""
        if self.config.tokenizer is not None and self.tokenizer.vocab_size != self.config.model.vocab_size:
            raise UsageError(
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
            if isinstance(self.tokenizer, CosmosTokenizer):
                self.tokenizer.require_trusted(encoder=True)
            encoder = TokenEncoder(tokenizer=self.tokenizer, weights=self._tokenizer_hash, size=size)
            root = tokens_of(raw, cache=cache, encoder=encoder, on_bad_shard=on_bad_shard)
        else:
            check_encoding(root, weights=None if self.config.tokenizer is None else self._tokenizer_hash)
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
        pairs = (clips[index].tokens for index in range(len(clips)))
        self.token_statistics = baselines.TokenStatistics.fit(
            (pair[0] for pair in pairs if pair is not None), vocab_size=self.config.model.vocab_size
        )
        pairs = (clips[index].tokens for index in range(len(clips)))
        self.cell_statistics = baselines.CellStatistics.fit(
            (pair[0] for pair in pairs if pair is not None),
            self.token_statistics,
            recordings=[clip.segment for clip in clips.clips],
        )

    def save_statistics(self, folder: Path) -> None:
        """See `Track`."""
        assert self.state_statistics is not None
        assert self.token_statistics is not None
        assert self.cell_statistics is not None
        content = {
            "states": self.state_statistics.to_dict(),
            "tokens": self.token_statistics.to_dict(),
            "tokenizer_sha256": self._tokenizer_hash if self.config.tokenizer else None,
        }
        (folder / STATISTICS_FILE).write_text(json.dumps(content) + "\n")
        self.cell_statistics.save(folder / CELLS_FILE)

    def load_statistics(self, folder: Path) -> None:
        """See `Track`."""
        path = folder / STATISTICS_FILE
        advice = "take an undamaged copy of the checkpoint"
        content = read_json(path, advice=advice)
        if missing := sorted({"states", "tokens", "tokenizer_sha256"} - content.keys()):
            raise InputError(f"{path}: cannot be read as training statistics, {missing[0]} is missing; {advice}")
        states, tokens, tokenizer = content["states"], content["tokens"], content["tokenizer_sha256"]
        if self.config.tokenizer is not None and tokenizer not in (None, self._tokenizer_hash):
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
        self.cell_statistics = baselines.CellStatistics.load(
            folder / CELLS_FILE, vocab_size=self.config.model.vocab_size, num_cells=self.config.model.grid**2
        )

    # -- model -------------------------------------------------------------------------------------------------------

    def build(self) -> STTransformer:
        """See `Track`."""
        return STTransformer(self.config.model)

    def start(self, model: STTransformer) -> None:
        """See `Track`: always from its initialisation."""

    def loss(self, model: STTransformer, batch: Batch) -> Loss:
        """Teacher forcing over six grids shifted by one: position t predicts grid t + 1.

        Teacher forcing is the report's (section 3.2), the shift by one *derived* (challenge-facts 4.3).
        """
        tokens, states = _tokens(batch), self._states(batch)
        inputs = tokens[:, :-1]
        if self.config.scheduled_sampling > 0:
            inputs = self._with_own_guesses(model, inputs, states)
        first = NUM_CONTEXT if self.config.loss_grids == "future" else 1
        features = model(inputs, states)[:, first - 1 :]
        targets = tokens[:, first:]
        return Loss(value=linear_cross_entropy(features.flatten(0, 2), model.embedding.weight, targets.flatten()))

    @torch.no_grad()
    def _with_own_guesses(self, model: STTransformer, inputs: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Replace a share of the cells of future grids by what the model, given the true grids, finds most likely."""
        features = model(inputs, states)[:, NUM_CONTEXT - 1 : -1]  # they predict the future grids that are inputs
        guesses = torch.stack([model.logits(clip).argmax(-1) for clip in features]).reshape_as(inputs[:, NUM_CONTEXT:])
        replaced = torch.rand(guesses.shape, device=inputs.device) < self.config.scheduled_sampling
        future = torch.where(replaced, guesses, inputs[:, NUM_CONTEXT:])
        return torch.cat([inputs[:, :NUM_CONTEXT], future], 1)

    def predict(self, model: STTransformer, batch: Batch, *, quick: bool = False) -> Rollout:
        """Three grids, greedily unless configured otherwise, from the context and the states (report, section 3.3)."""
        del quick  # a rollout is cheap
        settings = self.config.rollout
        return rollout(
            model,
            _tokens(batch)[:, :NUM_CONTEXT],
            self._states(batch),
            num_future=NUM_FUTURE,
            temperature=settings.temperature,
            generators=[clip_generator(settings.seed, *clip) for clip in batch.clips],
        )

    @torch.no_grad()
    def score(self, model: STTransformer, batch: Batch, prediction: Rollout) -> dict[str, torch.Tensor]:
        """Every token metric in both regimes; PSNR where the batch has the frames."""
        tokens = _tokens(batch)
        truth = tokens[:, NUM_CONTEXT:].flatten(2)
        forced = model(tokens[:, :-1], self._states(batch))[:, NUM_CONTEXT - 1 :]
        size = self.config.model.vocab_size
        scores = {
            **_by_clip("autoregressive", cell_scores(model.logits, prediction.features, truth, vocab_size=size)),
            **_by_clip("teacher_forced", cell_scores(model.logits, forced, truth, vocab_size=size)),
        }
        if batch.video is not None:
            scores["psnr"] = self._psnr(batch, self._decode(prediction.tokens))
        return scores

    @torch.no_grad()
    def score_trivial(self, batch: Batch) -> Scores:
        """The same of copies and frequencies of tokens, and in pixels of copies of frames."""
        scores: Scores = {}
        for predictor, cells in self._trivial_cells(_tokens(batch)).items():
            for regime in baselines.REGIMES:
                for name, values in _by_clip(regime, cells[regime]).items():
                    scores.setdefault(name, {})[predictor] = values
        if batch.video is not None:
            context = to_frames(batch.video[:, :, :BLOCK_FRAMES])
            videos = {
                "copy_last": baselines.copy_last(context, BLOCK_FRAMES),
                "context_mean": baselines.context_mean(context, BLOCK_FRAMES),
                "blur": baselines.blur(context, BLOCK_FRAMES),
                RECONSTRUCTION: self._decode(_tokens(batch)[:, NUM_CONTEXT:]),
            }
            scores["psnr"] = {name: self._psnr(batch, video) for name, video in videos.items()}
        return scores

    def _trivial_cells(self, tokens: torch.Tensor) -> dict[str, dict[baselines.Regime, dict[str, torch.Tensor]]]:
        """Of each predictor in each regime, metric -> (B, 3, h, w) float64."""
        common, by_cell = self.token_statistics, self.cell_statistics
        assert common is not None
        assert by_cell is not None
        truth = tokens[:, NUM_CONTEXT:]
        shape, k = truth.shape, min(TOP_K, common.vocab_size)

        def cells(log_probs: torch.Tensor, indices: torch.Tensor, values: torch.Tensor) -> dict[str, torch.Tensor]:
            return {
                "cross_entropy": -log_probs,
                "accuracy": (indices[..., 0] == truth).double(),
                **top_k_scores(indices, values, truth, vocab_size=common.vocab_size),
            }

        def copy(regime: baselines.Regime) -> dict[str, torch.Tensor]:
            source = common.copy_sources(tokens, regime)
            steps = [
                (
                    baselines.copy_log_probs(common, source[:, step], truth[:, step], grid_step=step, regime=regime),
                    *baselines.copy_top_k(common, source[:, step], k=k, grid_step=step, regime=regime),
                )
                for step in range(NUM_FUTURE)
            ]
            return cells(*(torch.stack(parts, 1) for parts in zip(*steps, strict=True)))

        unigram = cells(
            baselines.unigram_log_probs(common, truth),
            *(x.to(truth.device).expand(*shape, k) for x in baselines.unigram_top_k(common, k=k)),
        )
        cell_unigram = cells(
            baselines.cell_log_probs(by_cell, common, truth),
            *(x.to(truth.device).reshape(*shape[2:], k).expand(*shape, k) for x in self._cell_top_k),
        )
        return {
            "copy": {regime: copy(regime) for regime in baselines.REGIMES},
            "unigram": dict.fromkeys(baselines.REGIMES, unigram),
            "cell_unigram": dict.fromkeys(baselines.REGIMES, cell_unigram),
        }

    @torch.no_grad()
    def panels(
        self, model: STTransformer, batch: Batch, prediction: Rollout, places: Sequence[int]
    ) -> dict[str, npt.NDArray[np.uint8]]:
        """See `Track`. Without recorded frames the decoded true tokens stand for them; without a tokenizer, nothing."""
        del model
        if self.config.tokenizer is None:
            return {}
        shown = list(places)
        tokens = _tokens(batch)[shown]
        decoded = self._decode(tokens[:, NUM_CONTEXT:])
        if batch.video is not None:
            frames = to_frames(batch.video[shown])
        else:
            frames = torch.cat([self._decode(tokens[:, :NUM_CONTEXT]), decoded], 1)
        videos = {
            "context": frames[:, :BLOCK_FRAMES],
            "truth": frames[:, BLOCK_FRAMES:],
            "prediction": self._decode(prediction.tokens[shown]),
            RECONSTRUCTION: decoded,
            "baseline_copy_last": baselines.copy_last(frames[:, :BLOCK_FRAMES], BLOCK_FRAMES),
        }
        return {name: video.cpu().numpy() for name, video in videos.items()}

    @cached_property
    def _opened_tokenizer(self) -> tuple[AnyTokenizer, str]:
        if self.config.tokenizer is None:
            raise InputError("this run names no tokenizer, so tokens cannot be made into frames; set track.tokenizer")
        return load_tokenizer(self.config.tokenizer, permissions=self.permissions)

    @property
    def tokenizer(self) -> AnyTokenizer:
        """The tokenizer that `config.tokenizer` names."""
        return self._opened_tokenizer[0]

    @property
    def _tokenizer_hash(self) -> str:
        return self._opened_tokenizer[1]

    @cached_property
    def _cell_top_k(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The per-cell unigram's top 500, (h * w, k): the same for every clip."""
        assert self.token_statistics is not None
        assert self.cell_statistics is not None
        k = min(TOP_K, self.token_statistics.vocab_size)
        return baselines.cell_top_k(self.cell_statistics, self.token_statistics, k=k)

    def _states(self, batch: Batch) -> torch.Tensor:
        if not self.config.normalise_states:
            return batch.states
        assert self.state_statistics is not None
        return self.state_statistics.normalise(batch.states)

    def _decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """One block (B, 3, h, w) to uint8 (B, 17, H, W, 3)."""
        return to_frames(self.tokenizer.to(tokens.device).decode(tokens))

    def _psnr(self, batch: Batch, future: torch.Tensor) -> torch.Tensor:
        """PSNR (B,) of future frames uint8 (B, 17, H, W, 3)."""
        assert batch.video is not None
        return psnr(future, to_frames(batch.video[:, :, BLOCK_FRAMES:]), cap_db=PSNR_CAP_DB).mean(1)


def _by_clip(regime: baselines.Regime, cells: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Means over all cells, and over each future grid's, of values (B, 3, ...): metric -> (B,)."""
    scores: dict[str, torch.Tensor] = {}
    for name, values in cells.items():
        by_grid = values.flatten(2).mean(2)
        scores[f"{name}_{regime}"] = by_grid.mean(1)
        scores |= {f"{name}_{regime}_grid_{grid}": own for grid, own in enumerate(by_grid.unbind(1), 1)}
    return scores


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

    @property
    def encoded_fingerprint(self) -> str | None:
        return self._clips.encoded_fingerprint

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
