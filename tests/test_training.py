"""The whole road at tiny size: train, stop, resume, evaluate."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SIZE, tiny_compression_config, tiny_tokenizer_config, write_raw
from foreframe.config import save_config
from foreframe.data.raw import RawDataset
from foreframe.data.writer import write_metadata, write_token_shard
from foreframe.encode import TokenEncoder, encode_folder, load_tokenizer
from foreframe.errors import InputError, Stopped, UsageError
from foreframe.inference.config import InferenceConfig, RolloutConfig
from foreframe.manifest import seal
from foreframe.models.tokenizer import VideoTokenizer
from foreframe.models.weights import checkpoint_folders, find_weights, load_model, read_tensors, weights_hash
from foreframe.recipes import RECIPES
from foreframe.runs import evaluate_run, export_run, open_run, train_run
from foreframe.tracks.table import build_track
from foreframe.train import loop


def curve(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("time", "split")} for line in lines]


def same_weights(run: Path, other: Path) -> bool:
    ours, theirs = (read_tensors(checkpoint_folders(r)[-1] / "model.safetensors") for r in (run, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_resumed_run_equals_uninterrupted_one(
    raw_root: Path, tokenizer_run: Path, compression_run: Path, tmp_path: Path
) -> None:
    config = tiny_compression_config(raw_root, tokenizer_run)
    run = tmp_path / "run"
    # Killed after the checkpoint of step 4: the schedule still reaches to 6.
    assert train_run(run, config)
    for folder in checkpoint_folders(run)[1:]:
        (folder / "manifest.json").unlink()
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    assert [folder.name for folder in checkpoint_folders(run)] == ["step_00000004"]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "torn')
    assert train_run(run, config)
    assert same_weights(run, compression_run)
    assert curve(run) == curve(compression_run)


def test_damaged_checkpoint_is_refused(raw_root: Path, tokenizer_run: Path, tmp_path: Path) -> None:
    config = tiny_compression_config(raw_root, tokenizer_run)
    run = tmp_path / "run"
    assert train_run(run, config)
    weights = checkpoint_folders(run)[-1] / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: is not what the manifest says"):
        train_run(run, config)


def test_other_settings_are_refused(raw_root: Path, tokenizer_run: Path, compression_run: Path) -> None:
    config = tiny_compression_config(raw_root, tokenizer_run)
    changed = replace(config, optim=replace(config.optim, learning_rate=1.0))
    with pytest.raises(UsageError, match=r"optim\.learning_rate is .* there and 1\.0 here"):
        train_run(compression_run, changed)


def test_stop_inside_a_logging_window_leaves_the_curve_unchanged(
    raw_root: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    config = tiny_compression_config(raw_root, tokenizer_run)
    config = replace(config, train=replace(config.train, log_every=5, checkpoint_every=3))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train_run(whole, config)
    assert train_run(stopped, config)
    shutil.rmtree(checkpoint_folders(stopped)[-1])
    assert train_run(stopped, config)
    assert curve(stopped) == curve(whole)


def test_a_compiled_run_learns_the_same_and_is_saved_the_same(
    raw_root: Path, tokenizer_run: Path, compression_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and run by torch itself, without the code generator, which takes a minute and a compiler."""
    compiled: list[object] = []

    def traced(what: object) -> object:
        compiled.append(what)
        return compile_with(what, backend="eager")

    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    config = tiny_compression_config(raw_root, tokenizer_run)
    config = replace(config, train=replace(config.train, compile=True))
    run = tmp_path / "run"
    assert train_run(run, config)
    assert sum(isinstance(what, torch.nn.Module) for what in compiled) == 1
    for ours, theirs in zip(curve(run), curve(compression_run), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    ours, theirs = (read_tensors(checkpoint_folders(r)[-1] / "model.safetensors") for r in (run, compression_run))
    assert ours.keys() == theirs.keys()


def test_a_machine_that_cannot_compile_says_so_first(
    raw_root: Path, tokenizer_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(_what: object) -> object:
        def call(*_arguments: object) -> object:
            raise RuntimeError("No working C++ compiler found in ('g++',)\n\nSet TORCHDYNAMO_VERBOSE=1")

        return call

    monkeypatch.setattr(torch, "compile", no_compiler)
    config = tiny_compression_config(raw_root, tokenizer_run)
    config = replace(config, train=replace(config.train, compile=True))
    with pytest.raises(UsageError, match=r"train\.compile: .*No working C\+\+ compiler .*leave the option out$"):
        train_run(tmp_path / "run", config)


def test_sigterm_stops_after_the_step_and_resumes_exactly(
    raw_root: Path, tokenizer_run: Path, compression_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    config = tiny_compression_config(raw_root, tokenizer_run)
    step = loop._step  # pyright: ignore[reportPrivateUsage]

    def interrupted(*arguments: object) -> dict[str, float]:
        values = step(*arguments)  # type: ignore[arg-type]
        if arguments[-1] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return values

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_step", interrupted)
        with pytest.raises(Stopped) as stopped:
            train_run(run, config)
        assert stopped.value.number == signal.SIGTERM
    assert checkpoint_folders(run)[-1].name == "step_00000003"
    assert train_run(run, config)
    assert same_weights(run, compression_run)
    assert curve(run) == curve(compression_run)


def test_two_processes_equal_one(raw_root: Path, tokenizer_run: Path, tmp_path: Path) -> None:
    config = tiny_compression_config(raw_root, tokenizer_run)
    model = replace(config.track.model, dropout=0.0, attention_dropout=0.0)
    config = replace(config, track=replace(config.track, model=model))
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert train_run(alone, config)
    together.mkdir()
    save_config(together, config)
    script = tmp_path / "train.py"
    script.write_text(
        "import sys; from pathlib import Path\n"
        "from foreframe.config import load_config; from foreframe.runs import train_run\n"
        "train_run(Path(sys.argv[1]), load_config(Path(sys.argv[1])))\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*launch, str(together)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    ours, theirs = (read_tensors(checkpoint_folders(r)[-1] / "model.safetensors") for r in (alone, together))
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=2e-5, msg=name)
    for one, two in zip(curve(alone), curve(together), strict=True):
        assert two == pytest.approx(one, rel=1e-3)


def test_other_data_or_other_tokens_are_refused(
    raw_root: Path, tokenizer_run: Path, compression_run: Path, tmp_path: Path
) -> None:
    config = tiny_compression_config(raw_root, tokenizer_run)
    write_raw(tmp_path / "other" / "train", style="subfolders", segments=[90, 120], seed=5)
    with pytest.raises(InputError, match="was trained on other data"):
        train_run(compression_run, replace(config, data=tmp_path / "other"))
    with pytest.raises(InputError, match="is what the run was trained on"):
        evaluate_run(compression_run, data=raw_root / "train")
    run = tmp_path / "run"
    shutil.copytree(compression_run, run)
    retrained = tmp_path / "tokenizer"
    tokenizer = tiny_tokenizer_config(raw_root)
    assert train_run(retrained, replace(tokenizer, train=replace(tokenizer.train, seed=9)))
    save_config(run, replace(config, track=replace(config.track, tokenizer=str(retrained))))
    with pytest.raises(InputError, match="trained on the tokens of other weights"):
        evaluate_run(run)


def test_weights_that_are_not_finite_are_never_saved(raw_root: Path, tokenizer_run: Path, tmp_path: Path) -> None:
    config = tiny_compression_config(raw_root, tokenizer_run)
    config = replace(config, optim=replace(config.optim, learning_rate=1e6, warmup_steps=0, gradient_clip=0))
    config = replace(config, train=replace(config.train, num_steps=400, checkpoint_every=1))
    with pytest.raises(InputError, match="not finite"):
        # Overflows float32 in a few steps.
        train_run(tmp_path / "run", config)
    for folder in checkpoint_folders(tmp_path / "run"):
        assert all(value.isfinite().all() for value in read_tensors(folder / "model.safetensors").values())


def test_run_without_tokenizer_is_scored_over_tokens(raw_root: Path, tokenizer_run: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokenizer = load_model(find_weights(tokenizer_run), VideoTokenizer)
    encoder = TokenEncoder(tokenizer=tokenizer, weights="none", size=SIZE)
    for split in ("train", "val"):
        assert encode_folder(raw_root / split, tokens / split, encoder=encoder)
        (tokens / split / "encoding.json").unlink()  # As 1X's own folders are.
    config = tiny_compression_config(tokens, tokenizer_run)
    run = tmp_path / "run"
    assert train_run(run, replace(config, track=replace(config.track, tokenizer=None)))
    content = evaluate_run(run)
    assert "psnr" not in content["metrics"]
    assert not content["receipt"]["simulated"]
    assert list((run / "predictions").iterdir()) == []


def test_evaluate_writes_scores_with_receipt(compression_run: Path) -> None:
    content = evaluate_run(compression_run)
    on_disk = json.loads((compression_run / "scores.json").read_text())
    assert on_disk == json.loads(json.dumps(content))
    rows = on_disk["clips"]
    assert on_disk["receipt"]["num_clips"] == len(rows) > 0
    by_name = {(row["metric"], row["predictor"]): row for row in on_disk["scores"]}
    for regime in ("autoregressive", "teacher_forced"):
        values = [row["values"][f"cross_entropy_{regime}"]["model"] for row in rows]
        assert by_name[f"cross_entropy_{regime}", "model"]["mean"] == pytest.approx(sum(values) / len(values))
        assert by_name[f"cross_entropy_{regime}", "copy"]["margin"] is not None
    assert ("psnr", "reconstruction") in by_name
    assert len(list((compression_run / "predictions").glob("*.npz"))) == min(8, len(rows))


def test_a_broken_training_shard_is_skipped_only_when_asked_and_named(
    tmp_path: Path, tokenizer_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    root = tmp_path / "data" / "train"
    for shard in range(3):
        write_token_shard(
            root, shard, style="subfolders", tokens=rng.integers(0, 12, (6, 3, 4, 4)),
            states=rng.normal(size=(102, 25)).astype(np.float32), segments=np.full(102, shard),
        )  # fmt: skip
    write_metadata(root, num_shards=3, num_images=306)
    path = root / "robot_states" / "states_1.bin"
    path.write_bytes(path.read_bytes()[:-100])
    config = tiny_compression_config(tmp_path / "data", tokenizer_run)
    config = replace(config, track=replace(config.track, tokenizer=None))
    with pytest.raises(InputError, match=r"states_1\.bin: has 10100 bytes, expected 10200"):
        train_run(tmp_path / "run", config)
    assert train_run(tmp_path / "skipping", replace(config, on_bad_shard="skip"))
    said = capsys.readouterr().err
    assert "skipped shard 1:" in said
    assert "states_1.bin" in said
    assert "skipped 1 shard of" in said


def test_wrong_states_are_another_recordings_and_cost_what_they_cost(compression_run: Path, raw_root: Path) -> None:
    settings = InferenceConfig(batch_size=3, num_shown=1, num_resamples=20, wrong_states=("shuffled", "frozen"))
    content = evaluate_run(compression_run, inference=settings)
    assert content["references"] == ["model_shuffled_states", "model_frozen_states", "reconstruction"]

    # Again by hand: the same clips one by one, each with the states of the clip that stands half the list further.
    run = open_run(compression_run)
    clips = run.track.open(raw_root / "val", cache=compression_run / "cache")
    segments = [clip.segment for clip in clips.clips]
    for place, row in enumerate(content["clips"]):
        other = next(
            k % len(clips) for k in range(place + len(clips) // 2, 9**9) if segments[k % len(clips)] != segments[place]
        )
        own, frozen = clips[place], clips[place].states.clone()
        frozen[:, 17:] = frozen[:, 16:17]
        for kind, states in (("shuffled", clips[other].states), ("frozen", frozen)):
            wrong = replace(own, states=states)
            scores = run.track.score(run.model, wrong, run.track.predict(run.model, wrong))
            for name in ("cross_entropy_autoregressive", "top_k_teacher_forced_grid_2"):
                assert row["values"][name][f"model_{kind}_states"] == pytest.approx(scores[name].item(), rel=1e-5)
    with pytest.raises(UsageError, match="one recording"):
        evaluate_run(compression_run, inference=replace(settings, max_clips=1))
    # What failed cost nothing. (JSON has no tuples.)
    assert json.loads((compression_run / "scores.json").read_text()) == json.loads(json.dumps(content))


def test_kept_frames_are_those_of_their_clip(compression_run: Path, raw_root: Path) -> None:
    evaluate_run(compression_run, inference=InferenceConfig(batch_size=3, num_shown=4, num_resamples=20))
    recorded = RawDataset(raw_root / "val")
    kept = sorted((compression_run / "predictions").glob("*.npz"))
    assert len(kept) == 4
    for path in kept:
        with np.load(path) as panels:
            clip = json.loads(str(panels["meta"]))
            frames = recorded.frames(clip["shard"], range(clip["start"], clip["start"] + 34), size=SIZE)
            assert np.array_equal(panels["context"], frames[:17])
            assert np.array_equal(panels["truth"], frames[17:])
            assert np.array_equal(panels["baseline_copy_last"], frames[16:17].repeat(17, 0))


def test_grids_average_to_the_whole(compression_run: Path) -> None:
    content = evaluate_run(compression_run, inference=InferenceConfig(num_shown=0, num_resamples=20))
    for row in content["clips"]:
        for name, values in row["values"].items():
            if f"{name}_grid_1" in row["values"]:
                for predictor, value in values.items():
                    grids = [row["values"][f"{name}_grid_{grid}"][predictor] for grid in (1, 2, 3)]
                    assert value == pytest.approx(sum(grids) / 3)
    names = [name for name, metric in content["metrics"].items() if not metric["detail"]]
    assert names[0] == "cross_entropy_autoregressive" and "top_k_autoregressive" in names and len(names) == 7


def test_drawn_rollouts_are_recorded_and_repeat(compression_run: Path) -> None:
    settings = InferenceConfig(num_shown=0, num_resamples=20)

    def scores(**rollout) -> list[float]:
        content = evaluate_run(compression_run, inference=settings, predicting={"rollout": RolloutConfig(**rollout)})
        assert content["receipt"]["config"]["track"]["rollout"] == {"temperature": 0.0, "seed": 0, **rollout}
        return [row["values"]["cross_entropy_autoregressive"]["model"] for row in content["clips"]]

    assert scores(temperature=2.0) == scores(temperature=2.0) != scores(temperature=2.0, seed=1)
    with pytest.raises(ValueError, match="temperature"):
        RolloutConfig(temperature=float("inf"))


def test_a_tokenizer_has_no_rollout_and_reads_no_states(tokenizer_run: Path) -> None:
    with pytest.raises(UsageError, match="no rollout"):
        evaluate_run(tokenizer_run, predicting={"rollout": RolloutConfig(temperature=1.0)})
    with pytest.raises(UsageError, match="reads no states"):
        evaluate_run(tokenizer_run, inference=InferenceConfig(wrong_states=("frozen",)))


def test_a_checkpoint_without_cell_statistics_says_what_to_do(compression_run: Path, tmp_path: Path) -> None:
    shutil.copytree(compression_run, tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    (newest / "cells.safetensors").unlink()
    (newest / "manifest.json").unlink()
    seal(newest)
    with pytest.raises(InputError, match=r"cells\.safetensors: is missing, .* train anew"):
        open_run(tmp_path / "run")


def test_a_decoder_trained_alone_draws_the_same_tokens_better(
    raw_root: Path, tokenizer_run: Path, compression_run: Path, tmp_path: Path
) -> None:
    """So what was trained on the tokens goes on to work with the new decoder."""
    config = tiny_tokenizer_config(raw_root)
    track = replace(config.track, start_from=str(tokenizer_run), freeze_encoder=True)  # pyright: ignore[reportCallIssue]
    run = tmp_path / "tokenizer"
    assert train_run(run, replace(config, track=track))
    before, after = (load_tokenizer(str(folder)) for folder in (tokenizer_run, run))
    assert before[1] == after[1]
    for name, value in after[0].state_dict().items():
        same = torch.equal(value, before[0].state_dict()[name])
        assert same == name.startswith("encoder."), name
    first, last = (next(line["loss"] for line in reversed(curve(r)) if "loss" in line) for r in (tokenizer_run, run))
    assert last < first
    moved = tmp_path / "compression"
    shutil.copytree(compression_run, moved)
    description = moved / "config.json"
    description.write_text(description.read_text().replace(str(tokenizer_run), str(run)))
    assert str(run) in description.read_text()
    assert open_run(moved).checkpoint


def test_held_out_clips_lie_as_far_apart_whatever_training_takes(raw_root: Path, tmp_path: Path) -> None:
    config = tiny_tokenizer_config(raw_root)
    close = replace(config.track, clip_stride=3)  # pyright: ignore[reportCallIssue]
    track = build_track(close)
    starts = {
        scored: [clip.start for clip in track.open(raw_root / "val", cache=tmp_path, with_video=scored).clips]
        for scored in (False, True)
    }
    assert starts[False][:3] == [0, 3, 6]
    assert starts[True][:2] == [0, 17]


def test_exported_weights_are_the_mean_of_runs(
    raw_root: Path, tokenizer_run: Path, compression_run: Path, tmp_path: Path
) -> None:
    """What was frozen in between stays the same to the bit, so that tokens do."""
    config = tiny_tokenizer_config(raw_root)
    track = replace(config.track, start_from=str(tokenizer_run), freeze_encoder=True)  # pyright: ignore[reportCallIssue]
    assert train_run(tmp_path / "second", replace(config, track=track))
    export_run(tokenizer_run, tmp_path / "mean", average_with=[tmp_path / "second"])
    first, second, mean = (
        load_tokenizer(str(folder)) for folder in (tokenizer_run, tmp_path / "second", tmp_path / "mean")
    )
    weights = [one[0].state_dict() for one in (first, second, mean)]
    for name, value in weights[2].items():
        expected = (weights[0][name] + weights[1][name]) / 2
        assert torch.allclose(value, expected, atol=float(expected.abs().max()) / 200 + 1e-3), name
    export_run(tokenizer_run, tmp_path / "alone")
    alone = load_tokenizer(str(tmp_path / "alone"))
    assert mean[1] == alone[1]
    export_run(tokenizer_run, tmp_path / "itself", average_with=[tokenizer_run])
    same, other = (weights_hash(open_run(tmp_path / name).checkpoint) for name in ("itself", "alone"))
    assert same == other
    with pytest.raises(UsageError, match="only one model's weights can be averaged"):
        export_run(tokenizer_run, tmp_path / "no", average_with=[compression_run])
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("recipe", ["autoencoder_tiny", "tokenizer_tiny"])
def test_only_a_known_encoder_can_be_frozen(recipe: str) -> None:
    with pytest.raises(ValueError, match="freeze_encoder needs a tokenizer, and start_from"):
        replace(RECIPES[recipe]().track, freeze_encoder=True)


def test_imitated_bfloat16_is_announced(
    raw_root: Path,
    tokenizer_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = tiny_compression_config(raw_root, tokenizer_run)
    config = replace(config, train=replace(config.train, precision="bf16", num_steps=1))
    assert loop.has_fast_bfloat16(torch.device("cuda"))
    for fast in (True, False):
        monkeypatch.setattr(loop, "has_fast_bfloat16", lambda _device, fast=fast: fast)
        assert train_run(tmp_path / str(fast), config)
        assert ("--train.precision no" in capfd.readouterr().err) == (not fast)
