"""Encoding goes on after a kill, is shared over processes, skips what is broken by name, and never mixes clips up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import foreframe.encode
from conftest import SIZE, die, in_child, limited, no_locks, tiny_compression_config, tiny_sampling_config, write_raw
from foreframe.batch import collate, to_video
from foreframe.cli import run
from foreframe.data import folders
from foreframe.data.check import check_folder
from foreframe.data.clips import TokenSamples, clip_ids, state_window
from foreframe.data.describe import describe
from foreframe.data.encoding import encoded_fingerprint, read_encoding, sealed
from foreframe.data.folders import resumable_folder
from foreframe.data.integrity import fingerprint
from foreframe.data.latents import LatentClips
from foreframe.data.raw import RawDataset
from foreframe.data.tokens import TokenDataset
from foreframe.data.windows import frame_indices
from foreframe.data.writer import RawShardWriter, write_metadata, write_raw_samples
from foreframe.encode import LatentEncoder, Share, TokenEncoder, encode_folder, is_encoding_of, latents_of, tokens_of
from foreframe.errors import InputError, UsageError
from foreframe.models.autoencoder import VideoAutoencoder, autoencoder_folder, autoencoder_hash
from foreframe.models.config import TokenizerConfig
from foreframe.models.tokenizer import VideoTokenizer
from foreframe.tracks.table import build_track

if TYPE_CHECKING:
    from pathlib import Path

NUM_FRAMES = (330, 150, 200)
"""Frames of the three shards: the first has more blocks than are encoded at once."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of moving squares, two recordings in each."""
    root = tmp_path_factory.mktemp("three")
    rng = np.random.default_rng(0)
    for shard, count in enumerate(NUM_FRAMES):
        with RawShardWriter(root, shard, style="subfolders", size=SIZE) as writer:
            for index in range(count):
                frame = np.full((SIZE, SIZE, 3), 40 + 40 * shard, np.uint8)
                frame[8:16, index % (SIZE - 8) :][:, :8] = (200, 60, 90)
                states = rng.normal(size=25).astype(np.float32)
                writer.append(frame, states, segment=2 * shard + index // 140)
    write_metadata(root, num_shards=3, num_images=sum(NUM_FRAMES))
    return root


@pytest.fixture(scope="module")
def tokens_encoder() -> TokenEncoder:
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(TokenizerConfig(levels=(4, 3), fine_width=8, coarse_width=16, num_blocks=1)).eval()
    return TokenEncoder(tokenizer=tokenizer, weights="w" * 64, size=SIZE)


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Wan 2.2 autoencoder (residual, 2x2 patches) with few channels and random weights, in diffusers' form."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKLWan(
        base_dim=8, decoder_base_dim=8, z_dim=6, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True], latents_mean=[0.1] * 6, latents_std=[2.0] * 6, is_residual=True,
        in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16, scale_factor_temporal=4,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("wan") / "vae"
    vae.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def latents_encoder(vae_folder: Path) -> LatentEncoder:
    autoencoder = VideoAutoencoder.load(vae_folder)
    return LatentEncoder(autoencoder=autoencoder, weights=autoencoder_hash(vae_folder), size=SIZE, stride=20)


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


class Stopped(Exception):
    """Stands for whatever ends a process."""


def stop_after(frames: int) -> Any:
    def progress(done: int, _total: int) -> None:
        if done >= frames:
            raise Stopped

    return progress


@pytest.mark.parametrize("kind", ["tokens_encoder", "latents_encoder"])
def test_stopped_anywhere_it_ends_the_same(
    raw: Path, tmp_path: Path, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = request.getfixturevalue(kind)
    assert encode_folder(raw, tmp_path / "whole", encoder=encoder)
    for frames in (100, 300, 400, 679):
        with pytest.raises(Stopped):
            encode_folder(raw, tmp_path / "out", encoder=encoder, progress=stop_after(frames))
        assert not (tmp_path / "out").exists()
    decoded = []
    frames_of = RawDataset.frames
    monkeypatch.setattr(
        RawDataset, "frames", lambda self, shard, indices, **rest: decoded.append(shard) or frames_of(
            self, shard, indices, **rest)
    )  # fmt: skip
    assert encode_folder(raw, tmp_path / "out", encoder=encoder)
    assert 0 not in decoded, "the first shard was done and is not decoded again"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out", "whole"]


def test_a_killed_process_is_gone_on_with(raw: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; import foreframe.encode as e; from foreframe.cli import run\n"
        "slow = e._encode_tokens\n"
        "def encode(*a):\n    time.sleep(0.2)\n    return slow(*a)\n"
        "e._encode_tokens = encode\n"
        "sys.exit(run(['data', 'encode', sys.argv[1], '--out', sys.argv[2], '--size', '32']))"
    )
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", script, str(raw), str(out)])
    begun = tmp_path / ".out.partial" / ".tokens-0.partial"
    deadline = time.monotonic() + 60
    while not (begun.exists() and begun.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert begun.stat().st_size > 0
    assert run(["data", "encode", str(raw), "--out", str(out), "--size", "32"]) == 0
    assert run(["data", "encode", str(raw), "--out", str(tmp_path / "again"), "--size", "32"]) == 0
    assert contents(out) == contents(tmp_path / "again")


def test_other_work_is_not_gone_on_with(raw: Path, tmp_path: Path, tokens_encoder: TokenEncoder) -> None:
    with pytest.raises(Stopped):
        encode_folder(raw, tmp_path / "out", encoder=tokens_encoder, progress=stop_after(200))
    other = TokenEncoder(tokenizer=tokens_encoder.tokenizer, weights="v" * 64, size=SIZE)
    with pytest.raises(UsageError, match=r"unfinished work with weights_sha256 'www.*delete that folder"):
        encode_folder(raw, tmp_path / "out", encoder=other)
    assert encode_folder(raw, tmp_path / "out", encoder=tokens_encoder)
    with pytest.raises(UsageError, match="with files in it"):
        encode_folder(raw, tmp_path / "out", encoder=tokens_encoder)


def test_two_processes_do_not_write_one_share(tmp_path: Path) -> None:
    with resumable_folder(tmp_path / "out", identity={"a": 1}) as begun:
        (begun.folder / "video_0.bin").write_bytes(b"1")
        with (
            pytest.raises(UsageError, match=f"another process \\(pid {os.getpid()}\\) is writing it"),
            resumable_folder(tmp_path / "out", identity={"a": 1}),
        ):
            pass
        with resumable_folder(tmp_path / "out", identity={"a": 1}, rank=1) as same:
            assert same == begun
    assert not (tmp_path / "out").exists()
    assert (begun.folder / "video_0.bin").exists()


def test_work_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Stopped), resumable_folder(tmp_path / "new" / "out", identity={}):
        raise Stopped
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["tokens_encoder", "latents_encoder"])
def test_shares_make_up_the_whole(raw: Path, tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    encoder = request.getfixturevalue(kind)
    assert encode_folder(raw, tmp_path / "whole", encoder=encoder)
    assert not encode_folder(raw, tmp_path / "out", encoder=encoder, share=Share(rank=1, num_ranks=2))
    assert not (tmp_path / "out").exists()
    assert encode_folder(raw, tmp_path / "out", encoder=encoder, share=Share(rank=0, num_ranks=2))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_processes_side_by_side(raw: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from foreframe.cli import main; main(sys.argv[1:])"]
    command += ["data", "encode", str(raw), "--out", str(tmp_path / "out"), "--size", "32"]
    environments = [{**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"} for rank in (0, 1)]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for environment in environments
    ]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sum("wrote" in text for text in said) >= 1
    assert run(["data", "encode", str(raw), "--out", str(tmp_path / "one"), "--size", "32"]) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "out"]


def broken_copy(raw: Path, root: Path, where: float) -> None:
    """The same data with the second video's bytes overwritten from `where` (0 to 1) on: packets stay, pictures go."""
    for name, content in contents(raw).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    path = root / "videos" / "video_1.mp4"
    content = bytearray(path.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    first = start + int(where * (end - start))
    content[first:end] = bytes(np.random.default_rng(0).integers(0, 256, end - first, dtype=np.uint8))
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", ["tokens_encoder", "latents_encoder"])
def test_a_shard_that_breaks_half_way_is_skipped_by_name(
    raw: Path, tmp_path: Path, kind: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = request.getfixturevalue(kind)
    broken_copy(raw, tmp_path / "broken", 0.5)
    with pytest.raises(InputError, match=r"video_1\.mp4: frame \d+ cannot be decoded"):
        encode_folder(tmp_path / "broken", tmp_path / "out", encoder=encoder)
    assert encode_folder(tmp_path / "broken", tmp_path / "skipped", encoder=encoder, on_bad_shard="skip")
    encoding = read_encoding(tmp_path / "skipped")
    assert encoding is not None
    assert list(encoding["skipped"]) == ["1"]
    assert "video_1.mp4" in encoding["skipped"]["1"]
    if kind == "tokens_encoder":
        assert encode_folder(raw, tmp_path / "whole", encoder=encoder)
        ours, theirs = TokenDataset(tmp_path / "skipped"), TokenDataset(tmp_path / "whole")
        assert encoding["source_shards"] == [0, 2]
        assert [shard.num_frames for shard in ours.layout.shards] == [330, 200]
        assert np.array_equal(ours.tokens(1), theirs.tokens(2))
        assert np.array_equal(ours.states(1), theirs.states(2))
    else:
        clips = LatentClips(tmp_path / "skipped", expected=encoder.describe())
        assert {clip.shard for clip in clips.clips} == {0, 2}
        assert list(clips.skipped) == [1]
    command = ["data", "encode", str(tmp_path / "broken"), "--out", str(tmp_path / "cli"), "--on-bad-shard", "skip"]
    assert run([*command, "--size", "32"]) == 0
    said = capsys.readouterr()
    assert "skipped shard 1" in said.err
    assert "skipped 1 shard of" in said.err


def test_latents_are_the_autoencoders_and_keep_their_states(
    raw: Path, tmp_path: Path, latents_encoder: LatentEncoder
) -> None:
    assert encode_folder(raw, tmp_path / "out", encoder=latents_encoder)
    clips = LatentClips(tmp_path / "out", expected=latents_encoder.describe())
    data = RawDataset(raw)
    ids = list(clip_ids(data.all_segments(), stride=20))
    assert list(clips.clips) == ids
    assert len(ids) > 10
    vae = latents_encoder.autoencoder.vae
    for index in (0, 5, len(ids) - 1):
        item, clip = clips[index], ids[index]
        assert item.clips == (clip,)
        assert item.latents is not None
        assert item.latents.shape == (1, 6, 6, 2, 2)
        frames = data.frames(clip.shard, clip.start + frame_indices("stride4_dup_last"))
        with torch.no_grad():
            alone = (vae.encode(to_video(torch.from_numpy(frames)[None])).latent_dist.mode() - 0.1) / 2.0
        # Kept with 8 bits of mantissa.
        torch.testing.assert_close(item.latents, alone, rtol=1e-2, atol=1e-3)
        rows, valid = state_window(data.states(clip.shard), data.segments(clip.shard), clip.start, 77)
        assert np.array_equal(item.states[0].numpy(), rows)
        assert np.array_equal(item.states_valid[0].numpy(), valid)
    batch = collate([clips[0], clips[-1]])
    assert batch.latents is not None
    assert batch.latents.shape[0] == 2
    assert describe(tmp_path / "out")["latent_shape"] == "6x6x2x2"
    # The causal autoencoder gives the two context latents from the five context frames alone (challenge-facts 5.2).
    context = to_video(torch.from_numpy(data.frames(0, [0, 4, 8, 12, 16]))[None])
    torch.testing.assert_close(
        latents_encoder.autoencoder.encode(context), clips[0].latents[:, :, :2], rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize(
    "change",
    [{"weights_sha256": "0" * 64}, {"clip_stride": 8}, {"frame_indices": list(range(21))}, {"dtype": "float32"},
     {"source_fingerprint": "0" * 64}],
)  # fmt: skip
def test_latents_of_other_data_weights_frames_or_precision_are_refused(
    raw: Path, tmp_path: Path, latents_encoder: LatentEncoder, change: dict[str, Any]
) -> None:
    assert encode_folder(raw, tmp_path / "out", encoder=latents_encoder)
    LatentClips(tmp_path / "out", expected={"source_fingerprint": fingerprint(raw), **latents_encoder.describe()})
    with pytest.raises(InputError, match=f"{next(iter(change))} is .* is wanted here"):
        LatentClips(tmp_path / "out", expected=change)
    records = tmp_path / "out" / "clips_1.bin"
    records.write_bytes(records.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"clips_1\.bin: is not \d+ records"):
        LatentClips(tmp_path / "out", expected={})


def test_precision(raw: Path, tmp_path: Path, latents_encoder: LatentEncoder) -> None:
    found = {}
    for dtype in ("float32", "float16", "bfloat16"):
        encoder = LatentEncoder(
            autoencoder=latents_encoder.autoencoder, weights="w", size=SIZE, stride=300, dtype=dtype
        )
        assert encode_folder(raw, tmp_path / dtype, encoder=encoder)
        found[dtype] = LatentClips(tmp_path / dtype, expected={"dtype": dtype})[0].latents
    assert torch.equal(found["float16"], found["float32"].half().float())
    assert torch.equal(found["bfloat16"], found["float32"].bfloat16().float())
    assert not torch.equal(found["bfloat16"], found["float32"])


def test_the_command_makes_latents_and_refuses_what_does_not_divide(
    raw: Path, tmp_path: Path, vae_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert autoencoder_folder(vae_folder.parent) == vae_folder
    command = ["data", "encode", str(raw), "--encoder", str(vae_folder.parent), "--out"]
    assert run([*command, str(tmp_path / "out"), "--stride", "50", "--dtype", "float16"]) == 0
    assert run(["data", "info", str(tmp_path / "out")]) == 0
    assert "6x6x2x2" in capsys.readouterr().out
    assert run([*command, str(tmp_path / "out"), "--stride", "50", "--dtype", "float16"]) == 0
    assert "is made already" in capsys.readouterr().out
    assert run([*command, str(tmp_path / "no"), "--frames", "all", "--size", "8"]) == 2
    assert "do not divide" in capsys.readouterr().err
    (vae_folder.parent / "broken").mkdir()
    (vae_folder.parent / "broken" / "config.json").write_text('{"_class_name": "AutoencoderKLWan"}')
    assert run(["data", "encode", str(raw), "--encoder", str(vae_folder.parent / "broken"), "--out", "x"]) == 1
    assert "cannot be read as an AutoencoderKLWan" in capsys.readouterr().err


def test_a_cache_is_never_another_datas(
    tmp_path: Path, tokens_encoder: TokenEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        write_raw(tmp_path / f"raw{seed}", style="flat", segments=[40], seed=seed)
    ours = tokens_of(tmp_path / "raw0", cache=tmp_path / "cache", encoder=tokens_encoder)
    assert tokens_of(tmp_path / "raw0", cache=tmp_path / "cache", encoder=tokens_encoder) == ours
    assert is_encoding_of(ours, tmp_path / "raw0", encoder=tokens_encoder)
    assert not is_encoding_of(ours, tmp_path / "raw1", encoder=tokens_encoder)
    assert tokens_of(tmp_path / "raw1", cache=tmp_path / "cache", encoder=tokens_encoder) != ours
    path = ours / "encoding.json"
    before = contents(ours)
    path.write_bytes(sealed({**json.loads(path.read_text()), "source_fingerprint": "other"}))
    assert tokens_of(tmp_path / "raw0", cache=tmp_path / "cache", encoder=tokens_encoder) == ours
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "source_fingerprint is 'other'" in said[0]
    assert "this cache is made again" in said[0]
    assert contents(ours) == before


def test_a_raw_test_split_becomes_a_tokenised_one(tmp_path: Path, tokens_encoder: TokenEncoder) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (3, 17, SIZE, SIZE, 3), dtype=np.uint8)
    states = rng.normal(size=(3, 77, 25)).astype(np.float32)
    write_raw_samples(tmp_path / "test", 0, style="subfolders", frames=list(frames), states=states)
    assert encode_folder(tmp_path / "test", tmp_path / "out", encoder=tokens_encoder)
    samples = TokenSamples(TokenDataset(tmp_path / "out"))
    assert len(samples) == 3
    video = to_video(torch.from_numpy(RawDataset(tmp_path / "test").frames(0, range(17, 34)))[None])
    assert samples[1].tokens is not None
    assert torch.equal(samples[1].tokens, tokens_encoder.tokenizer.encode(video))
    assert torch.equal(samples[1].states[0], torch.from_numpy(states[1, :64]))


def test_processes_that_count_themselves_differently_do_not_mix(raw: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from foreframe.cli import main; main(sys.argv[1:])"]
    command += ["data", "encode", str(raw), "--out", str(tmp_path / "out"), "--size", "32"]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, "RANK": rank, "WORLD_SIZE": size, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, size in (("0", "1"), ("1", "2"))
    ]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert run(["data", "encode", str(raw), "--out", str(tmp_path / "one"), "--size", "32"]) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


def test_stopped_before_the_last_rename_it_is_still_the_same_work(
    raw: Path, tmp_path: Path, tokens_encoder: TokenEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_partial: Path, _out: Path) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("foreframe.data.folders._appear", stop)
        with pytest.raises(Stopped):
            encode_folder(raw, tmp_path / "out", encoder=tokens_encoder)
    other = TokenEncoder(tokenizer=tokens_encoder.tokenizer, weights="v" * 64, size=SIZE)
    with pytest.raises(UsageError, match="unfinished work"):
        encode_folder(raw, tmp_path / "out", encoder=other)
    assert encode_folder(raw, tmp_path / "out", encoder=tokens_encoder)
    assert encode_folder(raw, tmp_path / "whole", encoder=tokens_encoder)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_after_a_failure_the_same_place_takes_the_same_work_with_skipping(
    raw: Path, tmp_path: Path, tokens_encoder: TokenEncoder
) -> None:
    broken_copy(raw, tmp_path / "broken", 0.5)
    with pytest.raises(InputError, match=r"video_1\.mp4"):
        encode_folder(tmp_path / "broken", tmp_path / "out", encoder=tokens_encoder)
    assert encode_folder(tmp_path / "broken", tmp_path / "out", encoder=tokens_encoder, on_bad_shard="skip")
    data = TokenDataset(tmp_path / "out")
    assert list(data.skipped) == [1]
    assert [data.source_shard(shard.index) for shard in data.layout.shards] == [0, 2]
    assert list(describe(tmp_path / "out")["skipped"]) == ["1"]
    with pytest.raises(InputError, match=r"video_1\.mp4"):
        encode_folder(tmp_path / "broken", tmp_path / "other", encoder=tokens_encoder)


def test_exchanged_latents_are_refused(raw: Path, tmp_path: Path, latents_encoder: LatentEncoder) -> None:
    encoder = LatentEncoder(autoencoder=latents_encoder.autoencoder, weights="w", size=SIZE, stride=300)
    out = tmp_path / "out"
    assert encode_folder(raw, out, encoder=encoder)
    (out / "clips_1.bin").rename(out / "kept")
    (out / "clips_2.bin").rename(out / "clips_1.bin")
    (out / "kept").rename(out / "clips_2.bin")
    assert (out / "clips_1.bin").stat().st_size == (out / "clips_2.bin").stat().st_size
    with pytest.raises(InputError, match=r"clips_1\.bin: holds the clips of another shard"):
        LatentClips(out, expected={})


@pytest.mark.parametrize(
    ("content", "says"),
    [("[" * 200_000, "cannot be read"), ('{"version": 3}', "is no description"), ('{"version": 2}', "version 2"),
     ('{"version": 3, "kind": "latents"}', "Field required"), ("[]", "is not a JSON object")],
)  # fmt: skip
def test_a_broken_description_is_one_line(
    tmp_path: Path, content: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "encoding.json").write_text(content)
    assert run(["data", "info", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(("rank", "size"), [("0", "0"), ("5", "2"), ("x", "2"), ("0", "-1")])
def test_odd_ranks_are_wrong_usage(
    raw: Path, tmp_path: Path, rank: str, size: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    assert run(["data", "encode", str(raw), "--out", str(tmp_path / "out")]) == 2
    assert "start it with torchrun" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


HELD = (
    "import os, sys, time; import foreframe.encode as e; from foreframe.cli import run\n"
    "slow = e._encode_tokens\n"
    "def encode(*a):\n"
    "    open(sys.argv[3] + '.ready', 'w').close()\n"
    "    while not os.path.exists(sys.argv[3]): time.sleep(0.01)\n"
    "    return slow(*a)\n"
    "e._encode_tokens = encode\n"
    "sys.exit(run(['data', 'encode', sys.argv[1], '--out', sys.argv[2], '--size', '32']))"
)
"""Encodes, but waits before its first tokens until a file is there."""


def held_encoding(raw: Path, out: Path, go: Path, **environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, str(raw), str(out), str(go)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not go.with_name(go.name + ".ready").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


def test_neither_a_refused_nor_an_idle_process_removes_anothers_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(tmp_path / "raw", style="flat", segments=[60])
    raw, out, go = tmp_path / "raw", tmp_path / "out", tmp_path / "go"
    command = ["data", "encode", str(raw), "--size", "32", "--out"]
    first = held_encoding(raw, out, go, RANK="0", WORLD_SIZE="3")
    # It has written nothing yet. The same again is refused; two ranks find no shard of theirs.
    assert run([*command, str(out)]) == 2
    assert f"another process (pid {first.pid}) is writing it" in capsys.readouterr().err
    for rank in ("1", "2"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RANK", rank)
            patch.setenv("WORLD_SIZE", "3")
            assert run([*command, str(out)]) == 0
            assert "appears when the others are" in capsys.readouterr().out
    go.touch()
    said = first.communicate()[0]
    assert first.returncode == 0, said
    assert run([*command, str(tmp_path / "one")]) == 0
    assert contents(out) == contents(tmp_path / "one")
    assert not list(tmp_path.glob(".*"))


def test_a_rank_that_comes_when_all_is_done_ends_well(tmp_path: Path, tokens_encoder: TokenEncoder) -> None:
    write_raw(tmp_path / "raw", style="flat", segments=[60])
    for rank in (0, 1):
        share = Share(rank=rank, num_ranks=2)
        assert encode_folder(tmp_path / "raw", tmp_path / "out", encoder=tokens_encoder, share=share)
    other = TokenEncoder(tokenizer=tokens_encoder.tokenizer, weights="v" * 64, size=SIZE)
    with pytest.raises(UsageError, match="with files in it"):
        encode_folder(tmp_path / "raw", tmp_path / "out", encoder=other, share=Share(rank=1, num_ranks=2))


def test_a_kill_just_behind_the_rename_leaves_a_clean_folder_and_a_rest_that_the_next_call_removes(
    raw: Path, tmp_path: Path, tokens_encoder: TokenEncoder
) -> None:
    out = tmp_path / "out"

    def encode() -> None:
        appear = folders._appear
        folders._appear = lambda partial, out: (appear(partial, out), die())
        encode_folder(raw, out, encoder=tokens_encoder)

    assert encode_folder(raw, tmp_path / "whole", encoder=tokens_encoder)
    assert in_child(encode) == 137
    assert contents(out) == contents(tmp_path / "whole")
    (left,) = tmp_path.glob(".*")
    assert sum(len(content) for content in contents(left).values()) > 0
    findings = check_folder(tmp_path)
    assert {one.kind for one in findings} <= {"states-units"}  # the test's own states are noise
    assert is_encoding_of(out, raw, encoder=tokens_encoder)
    folders.remove_leftovers(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]
    # Removed by hand, the folder is made again from what is left, but only of the same work.
    assert in_child(lambda: shutil.rmtree(out)) == 0
    assert in_child(encode) == 137
    shutil.rmtree(out)
    other = TokenEncoder(tokenizer=tokens_encoder.tokenizer, weights="v" * 64, size=SIZE)
    with pytest.raises(UsageError, match="unfinished work"):
        encode_folder(raw, out, encoder=other)
    assert encode_folder(raw, out, encoder=tokens_encoder)
    assert contents(out) == contents(tmp_path / "whole")


def test_the_command_removes_what_a_kill_behind_the_rename_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(tmp_path / "raw", style="flat", segments=[40])
    command = ["data", "encode", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--size", "32"]
    assert run(command) == 0
    left = tmp_path / ".out.partial"
    left.mkdir()
    for name in (".work.json", ".gate.lock", ".rank-0.lock", ".tokens-0.whole.partial"):
        (left / name).write_bytes(b"{}")
    with folders.locked(left / ".rank-0.lock"):  # as long as another rank is in there, it stays
        assert run(command) == 0
        assert left.exists()
    assert run(command) == 0
    assert "is made already" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_what_lies_in_a_partial_folder_without_a_name_is_not_taken_for_this_work(
    raw: Path, tmp_path: Path, tokens_encoder: TokenEncoder
) -> None:
    assert encode_folder(raw, tmp_path / "whole", encoder=tokens_encoder)
    partial = tmp_path / ".out.partial"
    (partial / "folder" / "videos").mkdir(parents=True)
    (partial / ".tokens-0.whole.partial").write_bytes(b"\1\0\0\0" * 3 * 16 * 20)
    (partial / "folder" / "videos" / "video_7.bin").write_bytes(b"of another work")
    assert encode_folder(raw, tmp_path / "out", encoder=tokens_encoder)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def damages(kind: str) -> dict[str, Any]:
    """What may happen to a file of a cache, by name; each takes the folder."""
    name = "video_0.bin" if kind == "tokens" else "clips_0.bin"

    def turn(root: Path) -> None:
        content = bytearray((root / name).read_bytes())
        content[-1] ^= 1
        (root / name).write_bytes(bytes(content))

    def other(root: Path) -> None:
        count = (root / name).stat().st_size // 4
        (np.arange(count) % 12).astype("<i4").tofile(root / name)

    return {
        "one bit": turn,
        "other tokens": other,
        "cut": lambda root: os.truncate(root / name, 100),
        "empty": lambda root: os.truncate(root / name, 0),
        "gone": lambda root: (root / name).unlink(),
        "description cut": lambda root: os.truncate(root / "encoding.json", 50),
        "description empty": lambda root: os.truncate(root / "encoding.json", 0),
        "description of a version before": lambda root: edit(root, version=2),
        "metadata empty": lambda root: os.truncate(root / "metadata.json", 0),
        "a file instead": lambda root: (shutil.rmtree(root), root.write_bytes(b"")),
        "an empty folder": lambda root: (shutil.rmtree(root), root.mkdir()),
    }


def edit(root: Path, **changes: Any) -> None:
    """Change fields of `encoding.json`, sealed anew."""
    path = root / "encoding.json"
    path.write_bytes(sealed({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("kind", ["tokens", "latents"])
@pytest.mark.parametrize("damage", damages("tokens"))
def test_a_damaged_cache_is_made_again_and_said(
    tmp_path: Path, kind: str, damage: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(tmp_path / "raw", style="flat", segments=[90])
    encoder = request.getfixturevalue(f"{kind}_encoder")
    make = tokens_of if kind == "tokens" else latents_of
    make(tmp_path / "raw", cache=tmp_path / "cache", encoder=encoder)
    (root,) = (tmp_path / "cache").glob("[!.]*")
    before = contents(root)
    assert capsys.readouterr().err == ""
    make(tmp_path / "raw", cache=tmp_path / "cache", encoder=encoder)
    assert capsys.readouterr().err == ""
    damages(kind)[damage](root)
    make(tmp_path / "raw", cache=tmp_path / "cache", encoder=encoder)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert str(root) in said[0]
    assert said[0].endswith("; this cache is made again")
    assert len(said[0]) < 350 + len(str(root))
    assert contents(root) == before


@pytest.mark.parametrize("damage", ["one bit", "other tokens", "cut", "empty", "gone"])
def test_damage_in_a_folder_that_was_given_is_refused(
    tmp_path: Path, damage: str, tokens_encoder: TokenEncoder, tokenizer_run: Path, raw_root: Path
) -> None:
    write_raw(tmp_path / "raw", style="flat", segments=[90])
    out = tmp_path / "out"
    assert encode_folder(tmp_path / "raw", out, encoder=tokens_encoder)
    config = tiny_compression_config(raw_root, tokenizer_run)
    track = build_track(replace(config.track, tokenizer=None))
    clips = track.open(out, cache=tmp_path / "cache")
    assert clips.encoded_fingerprint == encoded_fingerprint(read_encoding(out))
    assert clips.encoded_fingerprint != clips.dataset.encoding["source_fingerprint"]
    damages("tokens")[damage](out)
    with pytest.raises(InputError, match=r"video_0\.(bin: (was|has \d+ bytes|is an empty)|mp4 or video_0\.bin)"):
        track.open(out, cache=tmp_path / "cache")
    with pytest.raises(InputError, match=r"video_0\."):
        is_encoding_of(out, tmp_path / "raw", encoder=tokens_encoder)


def test_two_processes_that_want_one_cache_make_it_once(
    tmp_path: Path, tokens_encoder: TokenEncoder, capfd: pytest.CaptureFixture[str]
) -> None:
    write_raw(tmp_path / "raw", style="flat", segments=[90])
    made = tmp_path / "made"

    def make(pause: float) -> None:
        encode = foreframe.encode.encode_folder

        def counted(*arguments: Any, **rest: Any) -> bool:
            with made.open("a") as file:
                file.write("made\n")
            time.sleep(pause)
            return encode(*arguments, **rest)

        foreframe.encode.encode_folder = counted
        tokens_of(tmp_path / "raw", cache=tmp_path / "cache", encoder=tokens_encoder)

    child = os.fork()
    if child == 0:
        try:
            make(1.0)
            os._exit(0)
        finally:
            os._exit(1)
    while not made.exists():
        time.sleep(0.01)
    assert in_child(lambda: make(0)) == 0
    assert os.waitpid(child, 0)[1] == 0
    assert made.read_text() == "made\n"
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert f"waiting for another process (pid {child})" in said[0]


def test_a_process_that_was_stopped_holds_up_no_other(
    tmp_path: Path, tokens_encoder: TokenEncoder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_raw(tmp_path / "raw", style="flat", segments=[90])
    whole = contents(tokens_of(tmp_path / "raw", cache=tmp_path / "other", encoder=tokens_encoder))
    cache, slow = tmp_path / "cache", foreframe.encode._encode_tokens

    def stop(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGSTOP)
        return slow(*arguments)

    child = os.fork()
    if child == 0:
        try:
            foreframe.encode._encode_tokens = stop
            made = tokens_of(tmp_path / "raw", cache=cache, encoder=tokens_encoder)
            os._exit(0 if contents(made) == whole else 3)
        finally:
            os._exit(1)
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    monkeypatch.setattr(foreframe.encode, "_PATIENCE", 0.5)
    assert contents(tokens_of(tmp_path / "raw", cache=cache, encoder=tokens_encoder)) == whole
    os.kill(child, signal.SIGCONT)
    assert os.waitpid(child, 0)[1] == 0
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2
    assert f"waiting for another process (pid {child})" in said[0]
    assert "come to a stand" in said[1]
    assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == [
        path.name for path in (tmp_path / "other").iterdir() if path.suffix != ".lock"
    ]


WRONG: dict[str, tuple[str, Any]] = {
    "skipped list": ("skipped", [1]),
    "skipped number": ("skipped", 3),
    "skipped of numbers": ("skipped", {"0": 5}),
    "skipped by name": ("skipped", {"a": "x"}),
    "files list": ("files", []),
    "files outside": ("files", {"../x.bin": {"size": 1, "sha256": "0" * 64}}),
    "files without a hash": ("files", {"x.bin": {"size": 1}}),
    "files of text": ("files", {"x.bin": {"size": "1", "sha256": "0" * 64}}),
    "simulated": ("simulated", "yes"),
    "frame_size": ("frame_size", "32"),
    "frame_size true": ("frame_size", True),
    "frame_size negative": ("frame_size", -1),
    "weights": ("weights_sha256", 5),
    "source": ("source_fingerprint", None),
}
WRONG_TOKENS: dict[str, tuple[str, Any]] = {
    "shards of text": ("source_shards", ["0"]),
    "shards object": ("source_shards", {"0": 0}),
    "shards negative": ("source_shards", [-1, 0, 1]),
    "too few shards": ("source_shards", [0]),
    "too many shards": ("source_shards", list(range(9))),
    "vocab": ("vocab_size", 10**12),
}
WRONG_LATENTS: dict[str, tuple[str, Any]] = {
    "clips list": ("clips", [1, 2]),
    "clips of text": ("clips", {"0": "5"}),
    "clips negative": ("clips", {"0": -5}),
    "clips huge": ("clips", {"0": 10**30}),
    "shape huge": ("latent_shape", [10**12, 6, 2, 2]),
    "shape product": ("latent_shape", [60_000, 60_000, 60_000, 1]),
    "shape negative": ("latent_shape", [-6, 6, 2, 2]),
    "shape of text": ("latent_shape", ["6", "6", "2", "2"]),
    "shape short": ("latent_shape", [6, 6]),
    "shape fraction": ("latent_shape", [6.5, 6, 2, 2]),
    "dtype": ("dtype", "int8"),
    "states": ("num_states", 0),
    "indices": ("frame_indices", "all"),
    "stride": ("clip_stride", 0),
}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [("tokens", *pair) for pair in (WRONG | WRONG_TOKENS).values()]
    + [("latents", *pair) for pair in (WRONG | WRONG_LATENTS).values()],
)
def test_wrong_types_in_a_description_are_one_line(
    raw: Path, encoded: Path, tmp_path: Path, kind: str, field: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(encoded / kind, out)
    edit(out, **{field: value})
    assert run(["data", "info", str(out)]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "encoding.json: " in said
    assert field in said
    assert len(said) < 400 + len(str(out))


@pytest.fixture(scope="module")
def encoded(
    raw: Path, tmp_path_factory: pytest.TempPathFactory, tokens_encoder: TokenEncoder, latents_encoder: LatentEncoder
) -> Path:
    """Tokens and latents of the three shards."""
    root = tmp_path_factory.mktemp("encoded")
    assert encode_folder(raw, root / "tokens", encoder=tokens_encoder)
    assert encode_folder(raw, root / "latents", encoder=latents_encoder)
    return root


def test_a_description_that_was_edited_is_not_believed(encoded: Path, tmp_path: Path) -> None:
    shutil.copytree(encoded / "tokens", tmp_path / "out")
    path = tmp_path / "out" / "encoding.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "source_shards": content["source_shards"][::-1]}))
    with pytest.raises(InputError, match="was changed after it had been written"):
        TokenDataset(tmp_path / "out")
    path.write_text(json.dumps({**content, "more": 1}))
    with pytest.raises(InputError, match="more: Extra inputs"):
        TokenDataset(tmp_path / "out")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="pipe"):
        TokenDataset(tmp_path / "out")


def test_more_clips_than_the_file_holds_are_refused_before_it_is_read(encoded: Path, tmp_path: Path) -> None:
    shutil.copytree(encoded / "latents", tmp_path / "out")
    edit(tmp_path / "out", clips={"0": 1 << 40, "1": 0, "2": 0})
    with pytest.raises(InputError, match=r"clips_0\.bin: is not 1099511627776 records"):
        LatentClips(tmp_path / "out", expected={})


@pytest.mark.parametrize("kind", ["tokens_encoder", "latents_encoder"])
def test_a_full_disk_names_the_file_and_the_same_call_goes_on(
    raw: Path, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    encoder = request.getfixturevalue(kind)
    assert encode_folder(raw, tmp_path / "whole", encoder=encoder)
    with pytest.raises(OSError, match="File too large") as caught, limited(1500):
        encode_folder(raw, tmp_path / "out", encoder=encoder)
    assert str(caught.value.filename).startswith(str(tmp_path / ".out.partial"))
    assert encode_folder(raw, tmp_path / "out", encoder=encoder)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_without_locks_encoding_goes_on_and_removes_nobodys_work(
    raw: Path, tmp_path: Path, tokens_encoder: TokenEncoder, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert encode_folder(raw, tmp_path / "whole", encoder=tokens_encoder)
    no_locks(monkeypatch)
    share = Share(rank=3, num_ranks=4)  # has no shard, and cannot know whether others are at work
    assert not encode_folder(raw, tmp_path / "out", encoder=tokens_encoder, share=share)
    assert (tmp_path / ".out.partial" / "folder").is_dir()
    assert encode_folder(raw, tmp_path / "out", encoder=tokens_encoder)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]
    said = capsys.readouterr().err.splitlines()
    assert said
    assert all("offers no locks" in line for line in said)
    assert len(set(said)) == len(said)


def test_latents_that_were_given_are_compared_with_what_was_encoded(
    raw_root: Path, autoencoder_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track = build_track(tiny_sampling_config(raw_root, autoencoder_run).track)
    track.open(raw_root / "train", cache=tmp_path)
    (given,) = tmp_path.glob("latents-*")
    clips = track.open(given, cache=tmp_path)
    assert clips.encoded_fingerprint == encoded_fingerprint(read_encoding(given))
    damages("latents")["one bit"](given)
    with pytest.raises(InputError, match=r"clips_0\.bin: was changed"):
        track.open(given, cache=tmp_path)
    # The first process of a machine has looked already.
    monkeypatch.setenv("LOCAL_RANK", "1")
    track.open(given, cache=tmp_path)


def test_a_cache_that_cannot_be_written_is_refused_before_any_work(
    raw: Path, tokens_encoder: TokenEncoder, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(UsageError, match=r"cache: cannot be written \(.*; what is made of the data is kept there"):
        tokens_of(raw, cache=tmp_path / "cache", encoder=tokens_encoder)
