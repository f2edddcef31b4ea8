"""The authors' own list of clips: without those that end just where their recording or shard does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from conftest import tiny_sampling_config, write_raw
from foreframe.cli import run
from foreframe.data.encoding import ENCODING_FILE
from foreframe.data.latents import LatentClips
from foreframe.encode import LatentEncoder, is_encoding_of, latents_of, load_autoencoder
from foreframe.errors import InputError
from foreframe.runs import evaluate_run, load_config, train_run
from foreframe.tracks.sampling import SamplingTrack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from foreframe.batch import ClipId
    from foreframe.config import RunConfig

SOUND = [0, 77, 155, 232]
"""Of recordings of 77, 78 and 154 frames, every 77 frames; the last one ends the shard."""
LEGACY = [77, 155]
"""The first recording loses its only clip, the second keeps its own by one frame, the third loses its second."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ends")
    write_raw(root / "train", style="subfolders", segments=[77, 140], seed=0)
    write_raw(root / "val", style="flat", segments=[77, 78, 154], seed=1)
    return root


def config_for(raw: Path, autoencoder: Path, *, legacy: bool = True, latents: str = "cached") -> RunConfig:
    config = tiny_sampling_config(raw, autoencoder)
    track = replace(config.track, legacy_segment_check=legacy, latents=latents, val_clip_stride=77)
    return replace(config, track=track, train=replace(config.train, num_steps=1))


def starts(clips: Sequence[ClipId]) -> list[int]:
    return [clip.start for clip in clips]


@pytest.mark.parametrize("latents", ["cached", "online"])
def test_which_clips_are_lost(raw: Path, autoencoder_run: Path, tmp_path: Path, latents: str) -> None:
    for legacy, wanted in ((False, SOUND), (True, LEGACY)):
        track = SamplingTrack(config_for(raw, autoencoder_run, legacy=legacy, latents=latents).track)
        # One cache for both: neither may take the other's latents.
        assert starts(track.open(raw / "val", cache=tmp_path, with_video=True).clips) == wanted


def test_training_and_evaluation_take_it(raw: Path, autoencoder_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train_run(folder, config_for(raw, autoencoder_run))
    assert load_config(folder).track.legacy_segment_check
    (cache,) = (folder / "cache").glob("latents-*-16-legacy")
    assert starts(LatentClips(cache, expected={"legacy_segment_check": True}).clips) == [77, 93, 109, 125]  # not 0
    content = evaluate_run(folder)
    assert [row["start"] for row in content["clips"]] == LEGACY
    assert content["receipt"]["config"]["track"]["legacy_segment_check"] is True
    content = evaluate_run(folder, predicting={"legacy_segment_check": False})
    assert [row["start"] for row in content["clips"]] == SOUND
    assert content["receipt"]["config"]["track"]["legacy_segment_check"] is False


def test_latents_of_one_list_do_not_stand_for_the_other(
    raw: Path, autoencoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "encode", str(raw / "val"), "--encoder", str(autoencoder_run), "--stride", "77", "--out"]
    out = tmp_path / "latents"
    assert run([*command, str(out), "--legacy-segment-check"]) == 0
    assert starts(LatentClips(out, expected={"legacy_segment_check": True}).clips) == LEGACY
    assert run(["data", "info", str(out)]) == 0
    assert "legacy" in capsys.readouterr().out
    assert run([*command, str(out), "--legacy-segment-check"]) == 0
    assert "is made already" in capsys.readouterr().out
    assert run([*command, str(out)]) != 0
    assert len(capsys.readouterr().err.splitlines()) == 1
    SamplingTrack(config_for(raw, autoencoder_run).track).open(out, cache=tmp_path)
    with pytest.raises(InputError, match="legacy_segment_check is True, but False is wanted here"):
        SamplingTrack(config_for(raw, autoencoder_run, legacy=False).track).open(out, cache=tmp_path)


def test_latents_made_before_it_was_an_option_are_sound(raw: Path, autoencoder_run: Path, tmp_path: Path) -> None:
    autoencoder, weights = load_autoencoder(str(autoencoder_run))
    encoder = LatentEncoder(autoencoder=autoencoder, weights=weights, size=32, stride=77)
    made = latents_of(raw / "val", cache=tmp_path, encoder=encoder).root
    content = json.loads((made / ENCODING_FILE).read_text())
    del content["legacy_segment_check"]
    (made / ENCODING_FILE).write_text(json.dumps(content))
    assert starts(latents_of(raw / "val", cache=tmp_path, encoder=encoder).clips) == SOUND
    assert not is_encoding_of(made, raw / "val", encoder=replace(encoder, legacy_segment_check=True))
