"""The whole road at tiny size: train, stop, resume, evaluate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import tiny_compression_config
from foreframe.errors import InputError, UsageError
from foreframe.models.weights import checkpoint_folders, read_tensors
from foreframe.runs import evaluate_run, train_run


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
    ours, theirs = (read_tensors(checkpoint_folders(r)[-1] / "model.safetensors") for r in (run, compression_run))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    def curve(folder: Path) -> list[dict[str, float]]:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "time"} for line in lines]

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
