"""What `data info` and `data sheet` say of a folder, and that the page on formats holds what it promises."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import SIZE, write_raw
from foreframe.cli import run
from foreframe.data.describe import contact_sheet, copy_last_psnr, describe, distribution
from foreframe.data.video import iterate_frames
from foreframe.data.writer import write_metadata, write_token_shard

DOCS = Path(__file__).parents[1] / "docs"


def test_facts_of_raw_and_tokens(raw_root: Path, tmp_path: Path) -> None:
    facts = describe(raw_root / "train")
    assert facts["kind"] == "raw"
    assert facts["contents"] == "recordings"
    assert facts["frames"] == 315
    assert facts["recordings"] == 4
    assert facts["frame_size"] == "32x32"
    assert facts["clips_of_77_frames"] == 14 + 44
    tokens = np.zeros((4, 3, 4, 4), np.int32)
    tokens[2] = 7
    write_token_shard(
        tmp_path, 0, style="flat", tokens=tokens, states=np.zeros((68, 25), np.float32), segments=np.zeros(68, int)
    )
    write_metadata(tmp_path, num_shards=1, num_images=68)
    facts = describe(tmp_path)
    assert facts["largest_token"] == 7
    assert facts["token_pairs"] == 3


def test_copy_last_equals_a_plain_loop(raw_root: Path) -> None:
    frames = np.stack(list(iterate_frames(raw_root / "val" / "video_0.mp4"))).astype(np.float64)
    expected = []
    for first, end in ((0, 70), (70, 110), (110, 200)):  # the recordings of `raw_root`
        for start in range(first, end - 60, 60):
            error = ((frames[start] - frames[start + 60]) ** 2).mean()
            expected.append(10 * np.log10(255**2 / error))
    assert len(expected) == 2
    np.testing.assert_allclose(copy_last_psnr(raw_root / "val"), expected, atol=1e-4)


def test_a_distribution_counts_what_is_still() -> None:
    facts = distribution(np.array([10.0, 20.0, 20.0, 35.0]))
    assert facts["median_db"] == 20
    assert facts["near_static"] == 0.25
    assert facts["pairs"] == 4


def test_info_prints_copy_last(raw_root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["data", "info", str(raw_root / "val"), "--copy-last"]) == 0
    assert re.search(r"median \d+\.\d+ dB .* % near-static .* over 2 pairs", capsys.readouterr().out)
    assert run(["data", "info", str(raw_root / "val"), "--copy-last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["copy_last"]["pairs"] == 2
    write_raw(tmp_path / "short", style="flat", segments=[30])
    assert run(["data", "info", str(tmp_path / "short"), "--copy-last"]) == 1
    assert "no recording has two frames 60 apart" in capsys.readouterr().err


def test_info_shows_what_it_skipped(raw_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_token_shard(
        tmp_path, 0, style="flat", tokens=np.zeros((2, 3, 4, 4), int), states=np.zeros((34, 25), np.float32),
        segments=np.zeros(34, int),
    )  # fmt: skip
    write_metadata(tmp_path, num_shards=2, num_images=68)
    assert run(["data", "info", str(tmp_path)]) == 1
    assert "metadata_1.json: is missing" in capsys.readouterr().err
    assert run(["data", "info", str(tmp_path), "--on-bad-shard", "skip"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"skipped +shard 1: .*metadata_1\.json: is missing", said)
    assert re.search(r"frames +34", said)


def test_a_sheet_shows_rows_of_recordings(raw_root: Path, tmp_path: Path) -> None:
    sheet = contact_sheet(raw_root / "train", rows=3, columns=4, size=SIZE)
    assert sheet.size == (4 * (SIZE + 2), 3 * (SIZE + 14))
    frames = list(iterate_frames(raw_root / "train" / "videos" / "video_0.mp4"))
    first = np.asarray(sheet)[14 : 14 + SIZE, :SIZE]
    assert np.array_equal(first, frames[0])
    last = np.asarray(sheet)[-SIZE:, 3 * (SIZE + 2) : 3 * (SIZE + 2) + SIZE]
    assert np.array_equal(last, frames[-1])
    assert run(["data", "sheet", str(raw_root / "train"), "--out", str(tmp_path / "sheet.png")]) == 0
    with Image.open(tmp_path / "sheet.png") as written:
        assert written.size == (6 * 194, 4 * 206)


def test_the_documented_reader_reads(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "data-format.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    code = blocks[0] + "\nprint(frames, len(states), int(tokens[1, 0, 0, 0]), start)\n"
    for style in ("flat", "subfolders"):
        tokens = np.zeros((4, 3, 32, 32), np.int32)
        tokens[1] = 5
        root = tmp_path / "val_v2.0"
        write_token_shard(
            root, 0, style=style, tokens=tokens, states=np.zeros((60, 25), np.float32), segments=np.zeros(60, int)
        )
        write_metadata(root, num_shards=1, num_images=60)
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stdout.split() == ["60", "60", "5", "17"], done.stderr
        shutil.rmtree(root)
