"""The sampling track: what its loss and its predictions depend on, its whole road, and the full-size path in small."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from conftest import SIZE, tiny_sampling_config
from foreframe.batch import Batch, ClipId
from foreframe.data.loader import ordered_batches
from foreframe.errors import InputError, UsageError
from foreframe.inference.config import EnsembleConfig, InferenceConfig, SamplerConfig
from foreframe.models.weights import checkpoint_folders, read_tensors
from foreframe.recipes import RECIPES
from foreframe.report import write_report
from foreframe.runs import evaluate_run, export_run, open_run, sample_data, train_run
from foreframe.tracks.config import SamplingConfig
from foreframe.tracks.sampling import SamplingTrack
from foreframe.tracks.table import build_track


@pytest.fixture(scope="module")
def track(raw_root: Path, autoencoder_run: Path) -> SamplingTrack:
    return SamplingTrack(tiny_sampling_config(raw_root, autoencoder_run).track)


@pytest.fixture(scope="module")
def model(track: SamplingTrack):
    """Random everywhere, also where training starts at zero."""
    torch.manual_seed(0)
    model = track.build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def batch(track: SamplingTrack, raw_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    clips = track.open(raw_root / "train", cache=tmp_path_factory.mktemp("cache"), with_video=True)
    return replace(next(ordered_batches(clips, range(4), batch_size=4)), seed=5)


def one(batch: Batch, place: int) -> Batch:
    return replace(
        batch,
        clips=batch.clips[place : place + 1],
        states=batch.states[place : place + 1],
        states_valid=batch.states_valid[place : place + 1],
        latents=batch.latents[place : place + 1],
        video=batch.video[place : place + 1],
    )


def test_frames_and_latents_of_each_mode() -> None:
    counts = {
        mode: (len(config.frame_offsets), config.num_context_frames, config.num_context_latents)
        for mode in ("stride4_dup_last", "uniform21", "stride2", "all")
        if (config := SamplingConfig(frames=mode))
    }
    assert counts == {
        "stride4_dup_last": (21, 5, 2),
        "uniform21": (21, 5, 2),
        "stride2": (41, 9, 3),
        "all": (77, 17, 5),
    }


def test_loss_of_a_batch_is_the_mean_of_its_clips(track: SamplingTrack, model, batch: Batch) -> None:
    """So neither the other clips' states nor how a step is shared over processes changes what a clip contributes."""
    together = track.loss(model, batch).value
    alone = torch.stack([track.loss(model, one(batch, place)).value for place in range(4)])
    torch.testing.assert_close(together, alone.mean())
    again = track.loss(model, replace(batch, seed=6)).value
    assert not torch.isclose(together, again)


def test_loss_ignores_the_context(track: SamplingTrack, model, batch: Batch) -> None:
    """The velocity of clean frames is nobody's business: its error is left out, its gradient zero."""
    captured = {}

    def through(module, inputs, output):
        output.retain_grad()
        captured["velocity"] = output

    handle = model.register_forward_hook(through)
    try:
        track.loss(model, batch).value.backward()
    finally:
        handle.remove()
        model.zero_grad()
    gradient = captured["velocity"].grad
    assert torch.count_nonzero(gradient[:, :, :2]) == 0
    assert torch.count_nonzero(gradient[:, :, 2:]) > 0
    last = SamplingTrack(replace(track.config, loss_latents="last"))
    handle = model.register_forward_hook(through)
    try:
        last.loss(model, batch).value.backward()
    finally:
        handle.remove()
        model.zero_grad()
    gradient = captured["velocity"].grad
    assert torch.count_nonzero(gradient[:, :, :-1]) == 0
    assert torch.count_nonzero(gradient[:, :, -1]) > 0


def test_context_reaches_the_model_clean(track: SamplingTrack, model, batch: Batch) -> None:
    seen = {}

    def look(module, inputs):
        seen["noisy"], seen["timesteps"] = inputs[:2]

    handle = model.register_forward_pre_hook(look)
    try:
        track.loss(model, batch)
    finally:
        handle.remove()
    assert torch.equal(seen["noisy"][:, :, :2], batch.latents[:, :, :2])
    assert torch.count_nonzero(seen["timesteps"][:, :2]) == 0
    levels = seen["timesteps"][:, 2:]
    assert (levels > 0).all()
    assert (levels == levels[:, :1]).all()
    assert len(levels[:, 0].unique()) > 1  # per clip, not per batch


def test_context_alone_gives_the_latents_that_the_clip_begins_with(track: SamplingTrack, batch: Batch) -> None:
    """Nothing of the future is needed, or used, to predict it."""
    video = batch.video.clone()
    video[:, :, 5:] = 0.3
    from_frames = track._context(replace(batch, latents=None, video=video))
    kept = batch.latents[:, :, :2]  # in bfloat16 on disk
    assert torch.allclose(from_frames, kept, atol=2e-2 * kept.abs().max().item())


def test_prediction_needs_no_future(track: SamplingTrack, model, batch: Batch) -> None:
    base = track.predict(model, batch)
    video, latents = batch.video.clone(), batch.latents.clone()
    video[:, :, 5:], latents[:, :, 2:] = 0.9, 4.0
    other = track.predict(model, replace(batch, video=video, latents=latents))
    assert torch.equal(base.image, other.image)
    states = batch.states.clone()
    states[:, 40] += 1
    assert not torch.equal(base.videos.mean, track.predict(model, replace(batch, states=states)).videos.mean)


def test_what_is_unchanged_is_shown_as_observed(track: SamplingTrack, model, batch: Batch) -> None:
    def sample_with(tolerance: float) -> torch.Tensor:
        config = replace(track.config, unchanged_tolerance=tolerance, ensemble=EnsembleConfig(size=1))
        return SamplingTrack(config).predict(model, batch).videos.sample

    plain = sample_with(0.0)
    decoded = track.autoencoder.decode(batch.latents)[:, :, 4].clamp(-1, 1)
    observed = batch.video[:, :, 4][:, :, None]
    change = (plain - decoded[:, :, None]).square().mean(1)
    around = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(change, (2, 2, 2, 2), mode="replicate"), 5, 1)
    for tolerance in (0.1, 2.0):
        weight = (-around / (2 * tolerance**2)).exp()[:, None]
        wanted = weight * observed + (1 - weight) * plain
        assert torch.allclose(sample_with(tolerance), wanted.clamp(-1, 1), atol=1e-4)


def test_what_is_unchanged_is_told_without_the_future(track: SamplingTrack, model, batch: Batch) -> None:
    keeping = SamplingTrack(replace(track.config, unchanged_tolerance=0.5))
    video, latents = batch.video.clone(), batch.latents.clone()
    video[:, :, 5:], latents[:, :, 2:] = 0.9, 4.0
    other = keeping.predict(model, replace(batch, video=video, latents=latents))
    assert torch.equal(keeping.predict(model, batch).image, other.image)
    with pytest.raises(InputError, match="unchanged_tolerance needs the observed frames"):
        keeping.predict(model, replace(batch, video=None))


def test_members_are_the_same_in_any_batch(track: SamplingTrack, model, batch: Batch) -> None:
    base = track.predict(model, batch).videos
    for size in (1, 5, 100):
        config = replace(track.config, ensemble=replace(track.config.ensemble, max_batch=size))
        other = SamplingTrack(config).predict(model, batch).videos
        assert torch.allclose(other.mean, base.mean, atol=1e-5)
        assert torch.allclose(other.spread, base.spread, atol=1e-4)
    alone = track.predict(model, one(batch, 2)).videos
    assert torch.allclose(alone.mean[0], base.mean[2], atol=1e-5)


def test_an_ensemble_of_one_is_a_sample(track: SamplingTrack, model, batch: Batch) -> None:
    single = SamplingTrack(replace(track.config, ensemble=replace(track.config.ensemble, size=1)))
    prediction = single.predict(model, batch)
    assert torch.equal(prediction.image, prediction.sample)
    assert torch.count_nonzero(prediction.videos.spread) == 0
    assert torch.equal(prediction.sample, track.predict(model, batch).sample)


def test_last_frame_alone_is_the_last_of_all(track: SamplingTrack, model, batch: Batch) -> None:
    everything = track.predict(model, batch)
    last = SamplingTrack(replace(track.config, decode="last")).predict(model, batch)
    assert everything.videos.mean.shape[2] == 16
    assert last.videos.mean.shape[2] == 2
    assert torch.allclose(last.videos.mean, everything.videos.mean[:, :, -2:], atol=1e-4)
    both = SamplingTrack(replace(track.config, answer="both")).predict(model, batch)
    means = everything.videos.mean[:, :, -2:].mean(2)
    wanted = ((means.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1)
    assert torch.equal(both.image, wanted)


def test_processes_share_the_members(track: SamplingTrack, model, batch: Batch) -> None:
    whole = track.predict(model, batch).videos
    parts = []
    for rank in range(2):
        part = SamplingTrack(track.config)
        sums = []
        part.share, part.reduce = (rank, 2), lambda tensor, sums=sums: sums.append(tensor) or tensor
        part.predict(model, batch)
        parts.append(sums[0])
    together = sum(parts)[0] / track.config.ensemble.size
    assert torch.allclose(together.float(), whole.mean, atol=1e-5)


def test_guidance_of_one_needs_no_second_pass(track: SamplingTrack, batch: Batch) -> None:
    config = replace(track.config, model=replace(track.config.model, guidance=True), state_dropout=0.5)
    guided = SamplingTrack(config)
    torch.manual_seed(1)
    model = guided.build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.eval()
    calls = []
    handle = model.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    try:
        plain = guided.predict(model, batch).videos.mean
        num_plain = sum(calls)
        calls.clear()
        strong = SamplingTrack(replace(config, sampler=replace(config.sampler, guidance_scale=2.0)))
        other = strong.predict(model, batch).videos.mean
    finally:
        handle.remove()
    assert sum(calls) == 2 * num_plain
    assert not torch.allclose(plain, other)
    withheld = guided.loss(model, batch).value
    assert not torch.isclose(withheld, SamplingTrack(replace(config, state_dropout=0.0)).loss(model, batch).value)


def test_dropout_without_the_token_is_refused() -> None:
    with pytest.raises(ValueError, match=r"state_dropout needs model\.guidance"):
        SamplingConfig(state_dropout=0.1)
    with pytest.raises(ValueError, match="needs a model trained with guidance"):
        SamplingConfig(sampler=SamplerConfig(guidance_scale=1.5))


def test_whole_road(sampling_run: Path, tmp_path: Path) -> None:
    content = evaluate_run(sampling_run)
    receipt = content["receipt"]
    assert receipt["num_clips"] == len(content["clips"]) > 0
    assert receipt["config"]["track"]["ensemble"]["size"] == 3
    for metric in ("psnr", "psnr_sample", "ssim", "ssim_sample"):
        predictors = set(content["clips"][0]["values"][metric])
        assert predictors >= {"model", "copy_last", "context_mean", "blur", "reconstruction", "model_frozen_states"}
    (saved,) = (sampling_run / "predictions").glob("*.npz")
    with np.load(saved, allow_pickle=False) as arrays:
        assert arrays["context"].shape == (5, SIZE, SIZE, 3)
        assert arrays["prediction"].shape == arrays["what_if_turning_left"].shape == (16, SIZE, SIZE, 3)
        assert arrays["spread"].shape == (16, SIZE, SIZE)
        assert json.loads(str(arrays["meta"]))["fps"] == pytest.approx(30 * 20 / 76)
    write_report([sampling_run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Same start, other states" in page and "Flow-matching loss at sigma 0.98" in page
    export_run(sampling_run, tmp_path / "exported")
    exported = evaluate_run(tmp_path / "exported", data=Path(receipt["config"]["data"]))
    assert exported["clips"][0]["values"]["psnr"]["model"] == pytest.approx(
        content["clips"][0]["values"]["psnr"]["model"], abs=0.5
    )


def test_settings_of_prediction_are_given_anew(sampling_run: Path) -> None:
    settings = InferenceConfig(num_shown=0, num_resamples=20)
    changed = {"ensemble": EnsembleConfig(size=1), "sampler": SamplerConfig(num_inference_steps=1)}
    content = evaluate_run(sampling_run, inference=settings, predicting=changed)
    assert content["receipt"]["config"]["track"]["sampler"]["num_inference_steps"] == 1
    row = content["clips"][0]["values"]
    assert row["psnr"]["model"] == row["psnr_sample"]["model"]
    with pytest.raises(UsageError, match="has no rollout to set"):
        evaluate_run(sampling_run, predicting={"rollout": None})


def test_training_goes_on_from_another_run(
    sampling_run: Path, raw_root: Path, autoencoder_run: Path, tmp_path: Path
) -> None:
    """On any data; the run that it started from may then be gone."""
    shutil.copytree(sampling_run, tmp_path / "first")
    config = tiny_sampling_config(raw_root, autoencoder_run)
    track = replace(config.track, start_from=str(tmp_path / "first"))  # pyright: ignore[reportCallIssue]
    still = replace(config.optim, learning_rate=1e-12, schedule="constant", warmup_steps=0)
    run = tmp_path / "second"
    short = replace(config, track=track, optim=still, train=replace(config.train, num_steps=1))
    assert train_run(run, short)
    shutil.rmtree(tmp_path / "first")
    assert train_run(run, replace(short, train=replace(short.train, num_steps=2)))
    first = open_run(sampling_run).model.state_dict()
    for name, value in open_run(run).model.state_dict().items():
        assert torch.allclose(value, first[name], atol=1e-9), name
    export_run(run, tmp_path / "exported")
    assert "first" not in (tmp_path / "exported" / "config.json").read_text()


def test_a_stopped_run_ends_where_it_would_have(
    sampling_run: Path, raw_root: Path, autoencoder_run: Path, tmp_path: Path
) -> None:
    config = tiny_sampling_config(raw_root, autoencoder_run)
    short = replace(config, optim=replace(config.optim, schedule="constant"))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train_run(whole, short)
    for num_steps in (2, 4):
        assert train_run(parts, replace(short, train=replace(short.train, num_steps=num_steps)))
    a, b = (read_tensors(checkpoint_folders(run)[-1] / "model.safetensors") for run in (whole, parts))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_another_autoencoder_is_refused(
    sampling_run: Path, raw_root: Path, autoencoder_run: Path, tmp_path: Path
) -> None:
    from conftest import tiny_autoencoder_config

    config = tiny_autoencoder_config(raw_root)
    other = tmp_path / "other"
    assert train_run(other, replace(config, train=replace(config.train, seed=9)))
    content = json.loads((sampling_run / "config.json").read_text())
    content["track"]["autoencoder"] = str(other)
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "config.json").write_text(json.dumps(content))
    (moved / "checkpoints").symlink_to(sampling_run / "checkpoints")
    with pytest.raises(InputError, match="latents of other weights"):
        open_run(moved)
    config = tiny_sampling_config(raw_root, other)
    track = replace(config.track, start_from=str(sampling_run))  # pyright: ignore[reportCallIssue]
    with pytest.raises(InputError, match="latents of other weights"):
        train_run(tmp_path / "begun", replace(config, track=track))
    track = replace(track, start_from=str(other))
    with pytest.raises(InputError, match="holds a VideoAutoencoder, but a StateConditionedWan is needed here"):
        train_run(tmp_path / "begun", replace(config, track=track))


def test_memorises_four_clips(track: SamplingTrack, batch: Batch) -> None:
    """Loss at fixed noise falls by far: everything that should learn does."""
    torch.manual_seed(0)
    config = replace(
        track.config, model=replace(track.config.model, num_attention_heads=4, attention_head_dim=16, ffn_dim=128)
    )
    own = SamplingTrack(config)
    model = own.build().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = None
    for step in range(150):
        loss = own.loss(model, replace(batch, seed=step % 4)).value
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        first = loss.item() if first is None else first
    final = torch.stack([own.loss(model, replace(batch, seed=seed)).value.detach() for seed in range(4)]).mean().item()
    assert final < 0.2 * first


def test_two_steps_of_the_tiny_recipe_are_what_they_were() -> None:
    """Golden values: regenerated only on purpose."""
    config = RECIPES["sampling_tiny"]()
    assert isinstance(config.track, SamplingConfig)
    torch.manual_seed(0)
    track = SamplingTrack(config.track)
    model = track.build().train()
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_914_896
    generator = torch.Generator().manual_seed(3)
    made = Batch(
        clips=(ClipId(0, 0, 0), ClipId(0, 77, 1)),
        states=torch.randn(2, 77, 25, generator=generator),
        states_valid=torch.ones(2, 77, dtype=torch.bool),
        latents=torch.randn(2, 48, 6, 8, 8, generator=generator),
        seed=11,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        value = track.loss(model, made).value
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses += [value.item(), norm.item()]
    assert losses == pytest.approx(GOLDEN, rel=2e-4)


GOLDEN = [0.50958925, 0.13867581, 0.49965847, 0.13497652]
"""Loss and gradient norm of two steps."""


@pytest.mark.parametrize("latents", ["cached", "online"])
def test_data_of_another_rate_is_refused(tmp_path: Path, latents: Literal["cached", "online"]) -> None:
    root = Path(shutil.copytree(sample_data() / "val", tmp_path / "val"))
    facts = json.loads((root / "metadata.json").read_text())
    (root / "metadata.json").write_text(json.dumps({**facts, "hz": 10}))
    config = RECIPES["sampling_tiny"]()
    track = build_track(replace(config, track=replace(config.track, latents=latents)))
    for with_video in (False, True):
        with pytest.raises(InputError, match=r"hz is 10, but the models' clips are of 30 frames a second"):
            track.open(root, cache=tmp_path / "cache", with_video=with_video)
    assert not (tmp_path / "cache").exists()


def test_every_recipe_of_the_track_builds() -> None:
    for name in ("sampling_wan5b", "sampling_wan5b_cfg"):
        config = RECIPES[name]()
        track = build_track(replace(config.track, model=replace(config.track.model, base=None)))
        with torch.device("meta"):
            model = track.build()
        counts = {"lora": 0, "robot": 0, "base": 0}
        for path, parameter in model.named_parameters():
            kind = "lora" if "lora_" in path else "robot" if "state_encoder" in path or "robot_" in path else "base"
            counts[kind] += parameter.numel()
            assert parameter.requires_grad == (kind != "base")
        assert counts["base"] == pytest.approx(5.000e9, rel=1e-3)
        assert counts["lora"] == pytest.approx(80.6e6, rel=1e-3)
        assert counts["robot"] == pytest.approx(67.9e6, rel=1e-3)
