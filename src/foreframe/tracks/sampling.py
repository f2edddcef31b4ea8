"""The sampling track: 17 frames and 77 state rows in, an ensemble of the frames that may follow out."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from foreframe import baselines
from foreframe.batch import Batch, to_frames
from foreframe.data.clips import VideoClips, clip_ids
from foreframe.data.encoding import read_encoding, verify_encoded
from foreframe.data.latents import LatentClips
from foreframe.data.raw import RawDataset
from foreframe.data.windows import CLIP_FRAMES
from foreframe.encode import LatentEncoder, latents_of, load_autoencoder
from foreframe.errors import InputError, UsageError
from foreframe.files import read_json
from foreframe.flow import (
    draw_timesteps,
    flow_matching_loss,
    frame_timesteps,
    interpolate,
    timestep_sigmas,
    timestep_weights,
    velocity_of,
)
from foreframe.inference.autoregressive import clip_generator
from foreframe.inference.ensemble import Draw, ensemble, member_noise, post_process
from foreframe.inference.flow_sampler import sample
from foreframe.inference.unchanged import keep_unchanged
from foreframe.metrics.image import PSNR_CAP_DB, psnr, ssim
from foreframe.models.weights import find_weights, load_weights
from foreframe.permissions import NONE, Permissions
from foreframe.states import with_value
from foreframe.tracks.config import NUM_OBSERVED, SamplingConfig
from foreframe.tracks.track import Loss, Metric, Scores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from foreframe.batch import ClipId
    from foreframe.data.layout import OnBadShard
    from foreframe.data.loader import ClipDataset
    from foreframe.inference.config import EnsembleConfig, SamplerConfig
    from foreframe.inference.ensemble import Ensemble
    from foreframe.inference.flow_sampler import Velocity
    from foreframe.models.autoencoder import VideoAutoencoder
    from foreframe.models.wan import StateConditionedWan

STATISTICS_FILE = "statistics.json"
RECONSTRUCTION = "reconstruction"
"""The predictor that decodes the true latents: what the autoencoder alone loses."""


@dataclass(frozen=True, kw_only=True)
class SamplingPrediction:
    """What is predicted for each of B clips.

    T is the number of future frames, or 2 if only the last is decoded: both show it.
    """

    image: torch.Tensor
    """uint8 (B, H, W, 3): frame 76, to be scored."""
    sample: torch.Tensor
    """uint8 (B, H, W, 3): the ensemble's first member alone."""
    videos: Ensemble
    """Mean, spread and first member of the frames, float (B, 3, T, H, W)."""


class SamplingTrack:
    """`Track` over clips of 77 frames."""

    kind = "sampling"

    def __init__(self, config: SamplingConfig, *, permissions: Permissions = NONE) -> None:
        self.config = config
        self.permissions = permissions
        """What may be fetched and run for it."""
        self.share: tuple[int, int] = (0, 1)
        """This process's number and how many share the members of every ensemble."""
        self.reduce: Callable[[torch.Tensor], torch.Tensor] | None = None
        """Sums a tensor over them."""
        self._prompt_file: Path | None = None

    # -- what is measured --------------------------------------------------------------------------------------------

    @property
    def metrics(self) -> dict[str, Metric]:
        """See `Track`."""
        size = self.config.ensemble.size
        ours = f"Frame 76, {size} samples averaged, against the recorded one, 8-bit RGB; mean over clips."
        alone = "The same of one sample alone."

        def metric(title: str, unit: str, description: str) -> Metric:
            return Metric(title=title, unit=unit, higher_is_better=True, description=description)

        sigmas = timestep_sigmas(self.config.flow)[self._scored_levels].tolist()
        by_level = {
            f"flow_loss_{number}": Metric(
                title=f"Flow-matching loss at sigma {sigma:.2f}",
                unit="1",
                higher_is_better=False,
                description="The same at one noise level, with its weight.",
                detail=True,
            )
            for number, sigma in enumerate(sigmas, start=1)
        }
        return {
            "psnr": metric("PSNR of the predicted frame", "dB", ours),
            "psnr_sample": metric("PSNR of one sample", "dB", alone),
            "ssim": metric("SSIM of the predicted frame", "1", ours),
            "ssim_sample": metric("SSIM of one sample", "1", alone),
            "flow_loss": Metric(
                title="Flow-matching loss",
                unit="1",
                higher_is_better=False,
                description="The training objective at fixed noise levels and noise; mean over clips.",
            ),
            **by_level,
        }

    @property
    def _scored_levels(self) -> list[int]:
        """Timestep ids at which the loss is scored: eight at even distances, without the ends."""
        return torch.linspace(0, self.config.flow.num_timesteps - 1, 10)[1:-1].round().long().tolist()

    @property
    def predictors(self) -> dict[str, str]:
        """See `Track`."""
        return {
            "copy_last": "the last observed frame again",
            "context_mean": f"mean of the {self.config.num_context_frames} observed frames that the model sees",
            "blur": "the last observed frame, blurred",
            RECONSTRUCTION: "the true future through the autoencoder: what is lost before any prediction",
        }

    @property
    def references(self) -> frozenset[str]:
        """See `Track`."""
        return frozenset({RECONSTRUCTION})

    @property
    def num_observed(self) -> int:
        """See `Track`."""
        return NUM_OBSERVED

    @property
    def scores_pixels(self) -> bool:
        """See `Track`."""
        return True

    @property
    def fps(self) -> float:
        """See `Track`: 30 recorded frames a second, of which the model sees some."""
        return 30 * (len(self.config.frame_offsets) - 1) / (CLIP_FRAMES - 1)

    # -- data --------------------------------------------------------------------------------------------------------

    def open(
        self, root: Path, *, cache: Path, with_video: bool = False, on_bad_shard: OnBadShard = "raise"
    ) -> ClipDataset:
        """Clips of a folder of latents, or of a raw one, which is encoded once under `cache` unless `online`.

        With the frames, to be scored, they are `val_clip_stride` apart, else `clip_stride`.
        """
        config = self.config
        stride = config.val_clip_stride if with_video else config.clip_stride
        self._prompt_file = cache / "prompt.safetensors"
        self._require_fit()
        encoding = read_encoding(root)
        if encoding is not None and encoding["kind"] == "latents":
            if with_video:
                raise InputError(
                    f"{root}: holds latents, but scores need the frames; evaluate with --data RAW; to train, put the "
                    "raw folder in its place, or leave validation out with --train.validate-every 0"
                )
            expected = {
                "weights_sha256": self._autoencoder_hash,
                "frame_indices": config.frame_offsets,
                "frame_size": config.size,
                "legacy_segment_check": config.legacy_segment_check,
            }
            clips = LatentClips(root, expected=expected)
            verify_encoded(root)
            return clips
        raw = RawDataset(root, on_bad_shard=on_bad_shard)
        if config.latents == "online":
            raw.check(size=config.size)
            ids = clip_ids(raw.all_segments(), stride=stride, legacy_segment_check=config.legacy_segment_check)
            if not ids:
                raise InputError(f"{root}: no recording is as long as a clip of {CLIP_FRAMES} frames")
            return VideoClips(raw, ids, frame_offsets=config.frame_offsets, size=config.size)
        encoder = LatentEncoder(
            autoencoder=self.autoencoder.to(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            weights=self._autoencoder_hash,
            size=config.size,
            frames=config.frames,
            stride=stride,
            legacy_segment_check=config.legacy_segment_check,
        )
        clips = latents_of(root, cache=cache, encoder=encoder, on_bad_shard=on_bad_shard)
        if not len(clips):
            raise InputError(f"{root}: no recording is as long as a clip of {CLIP_FRAMES} frames")
        return _WithVideo(clips, raw, offsets=config.frame_offsets, size=config.size) if with_video else clips

    def fit(self, clips: ClipDataset) -> None:
        """Nothing is counted: states are heard in their own units (challenge-facts 1.6)."""

    def save_statistics(self, folder: Path) -> None:
        """Write whose latents the model was trained on."""
        (folder / STATISTICS_FILE).write_text(json.dumps({"autoencoder_sha256": self._autoencoder_hash}) + "\n")

    def load_statistics(self, folder: Path) -> None:
        """Read it; `InputError` if the autoencoder is another one now."""
        path = folder / STATISTICS_FILE
        content = read_json(path, advice="take an undamaged copy of the checkpoint")
        if "autoencoder_sha256" not in content:
            raise InputError(f"{path}: cannot be read as training statistics, autoencoder_sha256 is missing")
        trained_on = content["autoencoder_sha256"]
        if trained_on != self._autoencoder_hash:
            raise InputError(
                f"{path}: the model was trained on the latents of other weights than {self._autoencoder_name} has "
                "now; bring those weights back, or train anew"
            )

    # -- model -------------------------------------------------------------------------------------------------------

    def build(self) -> StateConditionedWan:
        """See `Track`; the base's weights are read if it has a base, and the empty prompt's embedding made or read."""
        from foreframe.models.prompt import prompt_row
        from foreframe.models.wan import StateConditionedWan

        config = self.config
        model = StateConditionedWan(config.model, permissions=self.permissions)
        own = None if config.prompt is None else Path(config.prompt).expanduser()
        if own is None and config.model.base is None:
            model.set_prompt(torch.ones(1, config.model.text_dim))
        elif own is not None and own.is_file():
            # Not compared to what the base's text encoder gives, which would replace it.
            model.set_prompt(prompt_row(own))
        elif self._prompt_file is not None:
            row = prompt_row(
                own or self._prompt_file,
                base=config.model.base,
                revision=config.model.base_revision,
                permissions=self.permissions,
            )
            model.set_prompt(row)
        # Else no data was opened to train on: the checkpoint that comes next holds the prompt.
        return model

    def start(self, model: StateConditionedWan) -> None:
        """See `Track`: from the weights of `start_from`, of the same size and trained on the same latents."""
        if self.config.start_from is not None:
            folder = find_weights(self.config.start_from)
            load_weights(folder, model)
            self.load_statistics(folder)

    def loss(self, model: StateConditionedWan, batch: Batch) -> Loss:
        """Weighted error of the velocity, over the latents that are to be predicted (challenge-facts 5.8).

        What is drawn for a clip depends on the batch's seed and the clip's address alone: not on how many processes
        share the batch.
        """
        config, latents = self.config, self._latents(batch)
        device = latents.device
        generators = [clip_generator(batch.seed, *clip) for clip in batch.clips]
        ids = torch.cat([draw_timesteps(1, config.flow, generator) for generator in generators])
        noise = torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in generators])
        keep = torch.cat([torch.rand(1, generator=generator) for generator in generators]) >= config.state_dropout
        by_clip = self._losses(model, batch, latents, ids=ids, noise=noise.to(device), keep=keep.to(device))
        return Loss(value=by_clip.mean(), logs={})

    def _losses(
        self,
        model: StateConditionedWan,
        batch: Batch,
        latents: torch.Tensor,
        *,
        ids: torch.Tensor,
        noise: torch.Tensor,
        keep: torch.Tensor | None,
    ) -> torch.Tensor:
        """The loss of each clip (B,) at timestep `ids` (B,) with `noise` like the latents (B, C, F, h, w)."""
        config, context = self.config, self.config.num_context_latents
        sigma = timestep_sigmas(config.flow)[ids].to(latents.device)
        weight = timestep_weights(config.flow)[ids].to(latents.device)
        noisy = interpolate(latents, noise, sigma)
        noisy = torch.cat([latents[:, :, :context], noisy[:, :, context:]], 2)
        timesteps = frame_timesteps(sigma, num_context=context, num_frames=latents.shape[2])
        R = model.encode_states(self._states(batch), keep if config.model.guidance else None)
        first = context if config.loss_latents == "future" else latents.shape[2] - 1
        predicted = model(noisy, timesteps, R)[:, :, first:]
        target = velocity_of(latents, noise)[:, :, first:]
        pairs = zip(predicted.split(1), target.split(1), weight.split(1), strict=True)
        return torch.stack([flow_matching_loss(*pair) for pair in pairs])

    @torch.no_grad()
    def predict(self, model: StateConditionedWan, batch: Batch, *, quick: bool = False) -> SamplingPrediction:
        """The mean of an ensemble, from the context's latents and the states; `quick`: one sample of ten steps.

        The validation of the team's training script takes ten steps, too (challenge-facts 5.9, [team]).
        """
        config = self.config
        sampler, members = config.sampler, config.ensemble
        if quick:
            sampler, members = replace(sampler, num_inference_steps=10), replace(members, size=1)
        videos = self._ensemble(model, batch, self._states(batch), sampler, members)
        if config.answer == "both":
            mean, alone = (one[:, :, -2:].mean(2) for one in (videos.mean, videos.sample))
        else:
            mean, alone = videos.mean[:, :, -1], videos.sample[:, :, -1]
        observed = batch.video
        last = torch.zeros(0) if observed is None else to_frames(observed[:, :, : config.num_context_frames])[:, -1]
        if members.match_histogram and observed is None:
            raise InputError("matching histograms needs the observed frames, and this batch has none")
        return SamplingPrediction(
            image=post_process(mean, last, members),
            sample=to_frames(alone[:, :, None])[:, 0],
            videos=videos,
        )

    def _ensemble(
        self,
        model: StateConditionedWan,
        batch: Batch,
        states: torch.Tensor,
        sampler: SamplerConfig,
        members: EnsembleConfig,
    ) -> Ensemble:
        """Members of every clip through sampler and decoder, `max_batch` at a time."""
        config = self.config
        context = self._context(batch)
        device = context.device
        observed = self._last_observed(batch) if config.unchanged_tolerance else None
        shape = (*context.shape[1:2], self._num_latents, *context.shape[3:])
        with torch.autocast(device.type, torch.bfloat16, enabled=config.inference_precision == "bf16"):
            R = model.encode_states(states)
            silent = None
            if sampler.guidance_scale != 1:
                silent = model.encode_states(states, torch.zeros(len(states), dtype=torch.bool, device=device))
            prefix = self.autoencoder.to(device).decode_prefix(context)

            def predict(draws: Sequence[Draw]) -> torch.Tensor:
                clips = torch.tensor([draw.clip for draw in draws], device=device)
                noises = [member_noise(members.seed, batch.clips[d.clip], d.member, shape) for d in draws]
                latents = sample(
                    _velocity(model, R[clips]),
                    context=context[clips],
                    noise=torch.stack(noises).to(device),
                    config=sampler,
                    unconditional=None if silent is None else _velocity(model, silent[clips]),
                )
                future = latents[:, :, config.num_context_latents :]
                shared = prefix.select(clips)
                frames = self.autoencoder.decode_from(shared, future, last_only=config.decode == "last").float()
                if observed is None:
                    return frames
                decoded = shared.video[:, :, -1]
                return keep_unchanged(frames, decoded, observed[clips], tolerance=config.unchanged_tolerance)

            return ensemble(
                predict,
                num_clips=len(batch),
                num_members=members.size,
                max_batch=members.max_batch,
                share=self.share,
                reduce=self.reduce,
            )

    @torch.no_grad()
    def score(
        self, model: StateConditionedWan, batch: Batch, prediction: SamplingPrediction
    ) -> dict[str, torch.Tensor]:
        """PSNR and SSIM of the ensemble and of one sample; the loss at eight fixed noise levels."""
        truth = self._truth(batch)[:, -1]
        scores = {
            "psnr": psnr(prediction.image, truth, cap_db=PSNR_CAP_DB),
            "psnr_sample": psnr(prediction.sample, truth, cap_db=PSNR_CAP_DB),
            "ssim": ssim(prediction.image, truth),
            "ssim_sample": ssim(prediction.sample, truth),
        }
        latents = self._latents(batch)
        by_level: dict[str, torch.Tensor] = {}
        for number, level in enumerate(self._scored_levels):
            noises = [member_noise(number, clip, 0, latents.shape[1:]) for clip in batch.clips]
            noise, ids = torch.stack(noises).to(latents.device), torch.full((len(batch),), level)
            losses = self._losses(model, batch, latents, ids=ids, noise=noise, keep=None)
            by_level[f"flow_loss_{number + 1}"] = losses.double()
        return {**scores, "flow_loss": torch.stack(list(by_level.values())).mean(0), **by_level}

    @torch.no_grad()
    def score_trivial(self, batch: Batch) -> Scores:
        """The same of copies of frames, and of the truth through the autoencoder."""
        truth = self._truth(batch)[:, -1]
        context = self._observed(batch)
        decoded = to_frames(self.autoencoder.to(truth.device).decode(self._latents(batch)))
        images = {
            "copy_last": baselines.copy_last(context, 1)[:, 0],
            "context_mean": baselines.context_mean(context, 1)[:, 0],
            "blur": baselines.blur(context, 1)[:, 0],
            RECONSTRUCTION: decoded[:, -1],
        }
        scores: Scores = {}
        for name, image in images.items():
            decibel, similarity = psnr(image, truth, cap_db=PSNR_CAP_DB), ssim(image, truth)
            for metric in ("psnr", "psnr_sample"):
                scores.setdefault(metric, {})[name] = decibel
            for metric in ("ssim", "ssim_sample"):
                scores.setdefault(metric, {})[name] = similarity
        return scores

    @torch.no_grad()
    def panels(
        self, model: StateConditionedWan, batch: Batch, prediction: SamplingPrediction, places: Sequence[int]
    ) -> dict[str, npt.NDArray[np.uint8]]:
        """See `Track`: mean, one sample and spread of the ensemble, and the same start given other states."""
        shown = list(places)
        some = _chosen(batch, shown)
        num = prediction.videos.mean.shape[2]
        context = self._observed(some)
        decoded = to_frames(self.autoencoder.to(some.states.device).decode(self._latents(some)))
        spread = (prediction.videos.spread_map()[shown] * 127.5).round().clamp(0, 255).byte()
        videos = {
            "context": context,
            "truth": self._truth(some)[:, -num:],
            "prediction": to_frames(prediction.videos.mean[shown]),
            "sample": to_frames(prediction.videos.sample[shown]),
            "spread": spread,
            RECONSTRUCTION: decoded[:, -num:],
            "baseline_copy_last": baselines.copy_last(context, num),
        }
        members = replace(self.config.ensemble, size=min(self.config.ensemble.size, _WHAT_IF_MEMBERS))
        for name, states in self._other_states(some).items():
            other = self._ensemble(model, some, states, self.config.sampler, members)
            videos[f"what_if_{name}"] = to_frames(other.mean)
        return {name: video.cpu().numpy() for name, video in videos.items()}

    def _other_states(self, batch: Batch) -> dict[str, torch.Tensor]:
        """States that the robot did not have, from the last observed row on, by what it would be doing."""
        rows = batch.states[:, :NUM_OBSERVED].clone()
        still = torch.cat([rows, rows[:, -1:].expand(-1, CLIP_FRAMES - NUM_OBSERVED, -1)], 1)
        still = with_value(still, ("linear_velocity", "angular_velocity"), 0.0, first_row=NUM_OBSERVED)
        turning = {
            name: with_value(still, ("angular_velocity",), rate, first_row=NUM_OBSERVED)
            for name, rate in (("turning_left", _TURN), ("turning_right", -_TURN))
        }
        return {name: self.select_rows(states) for name, states in {"standing_still": still, **turning}.items()}

    # -- pieces ------------------------------------------------------------------------------------------------------

    @cached_property
    def _opened_autoencoder(self) -> tuple[VideoAutoencoder, str]:
        own = self.config.autoencoder is not None
        revision = self.config.autoencoder_revision if own else self.config.model.base_revision
        return load_autoencoder(self._autoencoder_name, revision=revision, permissions=self.permissions)

    @property
    def autoencoder(self) -> VideoAutoencoder:
        """The frozen autoencoder that `config.autoencoder` or the base names."""
        return self._opened_autoencoder[0]

    @property
    def _autoencoder_hash(self) -> str:
        return self._opened_autoencoder[1]

    @property
    def _autoencoder_name(self) -> str:
        name = self.config.autoencoder or self.config.model.base
        if name is None:
            raise UsageError("this run names neither an autoencoder nor a base that holds one; set track.autoencoder")
        return name

    def _require_fit(self) -> None:
        """Raise `UsageError` unless the model takes the autoencoder's latents."""
        config, model = self.config, self.config.model
        channels, _, side, _ = self.autoencoder.latent_shape(num_frames=len(config.frame_offsets), size=config.size)
        if channels != model.latent_channels:
            raise UsageError(
                f"{self._autoencoder_name}: its latents have {channels} channels, but track.model.latent-channels is "
                f"{model.latent_channels}; name the autoencoder that the model is for"
            )
        if any(side % cells for cells in model.patch_size[1:]):
            raise UsageError(
                f"frames of {config.size} pixels give latents of {side}x{side}, which do not divide into patches of "
                f"{model.patch_size[1]}x{model.patch_size[2]}; choose another track.size"
            )

    @property
    def _num_latents(self) -> int:
        return self.autoencoder.latent_shape(num_frames=len(self.config.frame_offsets), size=self.config.size)[1]

    def _states(self, batch: Batch) -> torch.Tensor:
        return self.select_rows(batch.states)

    def select_rows(self, states: torch.Tensor) -> torch.Tensor:
        """The rows of (B, 77, 25) that the model hears: all, or those of the frames that it sees."""
        if states.shape[1] != CLIP_FRAMES:
            raise InputError(f"a clip has {states.shape[1]} state rows, the sampling track needs {CLIP_FRAMES}")
        return states if self.config.model.state_rows == "full" else states[:, self.config.frame_offsets]

    def _latents(self, batch: Batch) -> torch.Tensor:
        """All latents of clips whose future is known."""
        if batch.latents is not None:
            return batch.latents
        if batch.video is None:
            raise InputError("the sampling track needs clips of video or latents, and this batch has neither")
        return self._encode(batch.video)

    def _context(self, batch: Batch) -> torch.Tensor:
        """Latents of the frames that are given: those of the whole clip begin with the same."""
        if batch.latents is not None:
            return batch.latents[:, :, : self.config.num_context_latents]
        if batch.video is None:
            raise InputError("the sampling track needs clips of video or latents, and this batch has neither")
        used = 1 + 4 * (self.config.num_context_latents - 1)
        return self._encode(batch.video[:, :, :used])

    def _last_observed(self, batch: Batch) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1]: the last frame that the context's latents are made of."""
        if batch.video is None:
            raise InputError(
                "unchanged_tolerance needs the observed frames, and this batch has none; set it to 0, or give the video"
            )
        return batch.video[:, :, 4 * (self.config.num_context_latents - 1)]

    def _encode(self, video: torch.Tensor) -> torch.Tensor:
        """Latents in the autoencoder's own precision, as they are kept on disk, whatever autocast says."""
        with torch.autocast(video.device.type, enabled=False):
            return self.autoencoder.to(video.device).encode(video)

    def _observed(self, batch: Batch) -> torch.Tensor:
        """uint8 (B, T, H, W, 3): the given frames that the model sees."""
        return self._frames(batch)[:, : self.config.num_context_frames]

    def _truth(self, batch: Batch) -> torch.Tensor:
        """uint8 (B, T, H, W, 3): the recorded future."""
        return self._frames(batch)[:, self.config.num_context_frames :]

    def _frames(self, batch: Batch) -> torch.Tensor:
        if batch.video is None:
            raise InputError("scores need the recorded frames, and this batch has none")
        return to_frames(batch.video)


_TURN = 0.6
"""Angular velocity of the what-if turns, rad/s: evesim's robot turns so."""
_WHAT_IF_MEMBERS = 4
"""Samples averaged to show what other states would bring."""


class _WithVideo:
    """Clips of latents together with the frames they were made from."""

    def __init__(self, clips: LatentClips, raw: RawDataset, *, offsets: list[int], size: int) -> None:
        self._clips, self._video = clips, VideoClips(raw, clips.clips, frame_offsets=offsets, size=size)

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
        return replace(self._clips[index], video=self._video[index].video)


def _velocity(model: StateConditionedWan, R: torch.Tensor) -> Velocity:
    """The model with the states' modulations given."""
    return lambda noisy, timesteps: model(noisy, timesteps, R)


def _chosen(batch: Batch, places: list[int]) -> Batch:
    """Some clips of a batch."""
    return replace(
        batch,
        clips=tuple(batch.clips[place] for place in places),
        states=batch.states[places],
        states_valid=batch.states_valid[places],
        latents=None if batch.latents is None else batch.latents[places],
        video=None if batch.video is None else batch.video[places],
    )
