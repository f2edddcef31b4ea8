"""`data check`: whole folders give nothing; every fault made here is found, with its file and its place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import foreframe
from foreframe.cli import run
from foreframe.data.check import KINDS, CheckConfig, Finding, check_folder
from foreframe.data.check.findings import MOST_OF_A_KIND
from foreframe.data.check.motion import Recording, image_motion, judge
from foreframe.data.check.stretches import find_stretches
from foreframe.data.encoding import ENCODING_VERSION, describe_files, sealed
from foreframe.data.latents import LatentClips, record_type
from foreframe.data.layout import find_layout
from foreframe.data.video import VideoIndex, VideoWriter, iterate_frames
from foreframe.data.writer import RawShardWriter, write_metadata, write_token_samples, write_token_shard
from foreframe.errors import UsageError
from foreframe.states import CHANNEL_INDEX
from test_data_keyframes import add_cover, change_size, join, packets, two_films

SAMPLE = Path(foreframe.__file__).parent / "sample"
COUNTS = (50, 40)


def some_states(count: int, seed: int = 0) -> np.ndarray:
    """A slow random walk within a robot's range."""
    walk = np.random.default_rng(seed).normal(size=(count, 25)).cumsum(0) * 0.01
    return np.tanh(walk).astype(np.float32)


def picture(index: int, size: int = 64) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(3 * x + index / 9), np.cos(4 * y - index / 7), np.sin(2 * (x + y) + index / 5)]
    return (127 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)


def some_segments(shard: int, count: int) -> np.ndarray:
    return 2 * shard + (np.arange(count) >= count // 2)


def write_raw(root: Path, style: str = "subfolders") -> Path:
    for index, count in enumerate(COUNTS):
        with RawShardWriter(root, index, style=style, size=64) as shard:
            for frame, row in enumerate(some_states(count, index)):
                shard.append(picture(frame + 100 * index), row, segment=int(some_segments(index, count)[frame]))
    write_metadata(root, num_shards=len(COUNTS), num_images=sum(COUNTS))
    return root


def write_tokens(root: Path, style: str = "flat", vocab: int = 64000) -> Path:
    for index, count in enumerate(COUNTS):
        write_token_shard(
            root,
            index,
            style=style,
            tokens=np.random.default_rng(index).integers(0, vocab, (-(-count // 17), 3, 8, 8)),
            states=some_states(count, index),
            segments=some_segments(index, count),
        )
    write_metadata(root, num_shards=len(COUNTS), num_images=sum(COUNTS))
    return root


def write_test(root: Path, kind: str, *, shards: int, each: int, described: bool = False) -> Path:
    """A test split of `shards` shards with `each` samples."""
    root.mkdir(parents=True)
    rows = 64 if kind == "tokens" else 77
    for index in range(shards):
        states = np.concatenate([some_states(rows, 100 * index + sample) for sample in range(each)])
        (root / f"states_{index}.bin").write_bytes(states.tobytes())
        if kind == "tokens":
            tokens = np.random.default_rng(index).integers(0, 64000, (each, 3, 32, 32))
            (root / f"video_{index}.bin").write_bytes(tokens.astype("<i4").tobytes())
        else:
            with VideoWriter(root / f"video_{index}.mp4", size=64) as video:
                for frame in range(17 * each):
                    video.append(picture(frame + 31 * index))
        if described:
            said = {"shard_num_frames": 17 * each, "shard_ind": index}
            (root / f"metadata_{index}.json").write_text(json.dumps(said))
    if described:
        write_metadata(root, num_shards=shards, num_images=17 * each * shards)
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("whole")
    return {
        "raw": write_raw(root / "raw"),
        "tokens": write_tokens(root / "tokens"),
        "test": write_test(root / "test", "tokens", shards=3, each=2, described=True),
    }


def found(root: Path, **config: object) -> list[Finding]:
    findings = check_folder(root, CheckConfig(**config))
    for one in findings:
        assert one.kind in KINDS
        assert one.message and "\n" not in one.message + one.where + one.file
    return findings


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change(path: Path, dtype: str, place: int, *values: float) -> None:
    content = np.fromfile(path, dtype)
    content[place : place + len(values)] = values
    content.tofile(path)


def recast(path: Path, dtype: str, other: str) -> None:
    np.fromfile(path, dtype).astype(other).tofile(path)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def make_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def rewrite(path: Path, frames: list[np.ndarray], **options: int) -> None:
    with VideoWriter(path, size=frames[0].shape[0], **options) as video:
        for frame in frames:
            video.append(frame)


def sound_only(path: Path) -> None:
    path.unlink()
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def spoil(path: Path) -> None:
    """Overwrite bytes in the middle of the pictures."""
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    end = content.index(b"moov")
    middle = (start + end) // 2
    content[middle : middle + 200] = np.random.default_rng(0).bytes(200)
    path.write_bytes(content)


def twice(root: Path, *, pictures: bool = True) -> None:
    """Shard 1 becomes a copy of the first 40 frames of shard 0."""
    rows = np.fromfile(root / "robot_states/states_0.bin", "<f4")[: 40 * 25]
    rows.tofile(root / "robot_states/states_1.bin")
    if pictures:
        rewrite(root / "videos/video_1.mp4", list(iterate_frames(root / "videos/video_0.mp4"))[:40])


def swap_bytes(path: Path, dtype: str) -> None:
    np.fromfile(path, dtype).byteswap().tofile(path)


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def turn(path: Path) -> None:
    """Ask players to turn the pictures upside down."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    content[at : at + 4] = (-65536).to_bytes(4, "big", signed=True)
    content[at + 16 : at + 20] = (-65536).to_bytes(4, "big", signed=True)
    path.write_bytes(content)


def film(
    path: Path,
    times: Iterable[float],
    *,
    ticks: int | None = None,
    encoder: str = "libx264",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    width: int = 64,
    height: int = 64,
) -> None:
    """Pictures at times in 30ths of a second, rounded to whole `ticks` of a second."""
    base = Fraction(1, ticks or 30)
    muxing = {**(container or {}), **({"video_track_timescale": str(ticks)} if ticks else {})}
    with av.open(str(path), "w", format="mp4", options=muxing) as output:
        stream = output.add_stream(encoder, rate=30, options={"g": "30", "bf": "0", **(options or {})})
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if width % 2 else "yuv420p"
        stream.codec_context.thread_count, stream.codec_context.time_base = 1, base
        for number, time in enumerate(times):
            large = np.tile(picture(number), (2, 2, 1))[:height, :width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(large), format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = round(time / 30 / base), base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def cut_between_keyframes(path: Path) -> None:
    whole = path.with_name("whole.mp4")
    film(whole, range(60), options={"x264-params": "intra-refresh=1"})
    join(path, [packets(whole)[10:]], whole)
    whole.unlink()


def shuffle_times(path: Path) -> None:
    """Exchange the times of pictures (by their offsets), so that they are even but not in order."""
    content = bytearray(path.read_bytes())
    at = content.index(b"ctts") + 12
    one, other = content[at + 12 : at + 16], content[at + 20 : at + 24]
    content[at + 12 : at + 16], content[at + 20 : at + 24] = other, one
    path.write_bytes(content)


V0, V1, S0, S1 = "videos/video_0.mp4", "videos/video_1.mp4", "robot_states/states_0.bin", "robot_states/states_1.bin"
G0, G1, M0, M1 = (
    "segment_indices/segment_idx_0.bin",
    "segment_indices/segment_idx_1.bin",
    "metadata/metadata_0.json",
    "metadata/metadata_1.json",
)
META = "metadata.json"
ENCODING = {"version": ENCODING_VERSION, "kind": "tokens", "weights_sha256": "w", "vocab_size": 64000, "frame_size": 64}
ENCODING |= {"source_fingerprint": "f", "simulated": False, "skipped": {}, "source_shards": [0, 1]}
ENCODING |= {"files": {}, "sealed": "0" * 64}

BREAKAGES: list[tuple[str, Callable[[Path], object], str, str, str]] = [
    # kind of data, what is done to it, and the finding's kind, file and start of its place
    ("raw", lambda r: (r / META).unlink(), "file-missing", META, ""),
    ("raw", lambda r: (r / V1).unlink(), "file-missing", V1, ""),
    ("raw", lambda r: (r / S0).unlink(), "file-missing", S0, ""),
    ("raw", lambda r: (r / G1).unlink(), "file-missing", G1, ""),
    ("raw", lambda r: (r / M1).unlink(), "file-missing", M1, ""),
    ("raw", lambda r: (r / "videos/notes.bin").write_text("x"), "file-extra", "videos/notes.bin", ""),
    ("raw", lambda r: (r / "states_7.bin").write_text("x"), "file-extra", "states_7.bin", ""),
    ("raw", lambda r: (r / "videos/video_0.bin").write_text("x"), "file-extra", "videos/video_0.bin", ""),
    ("raw", lambda r: (r / "videos/video_0.bin").write_text("x"), "folder-ambiguous", "videos", ""),
    ("raw", lambda r: (r / "states").mkdir(), "folder-ambiguous", "states", ""),
    ("raw", lambda r: (r / G0).write_bytes(b""), "file-empty", G0, "byte 0"),
    ("raw", lambda r: (r / V0).write_bytes(b""), "file-empty", V0, "byte 0"),
    ("raw", lambda r: make_folder(r / S1), "not-a-file", S1, ""),
    ("raw", lambda r: make_folder(r / META), "not-a-file", META, ""),
    ("raw", lambda r: ((r / S1).unlink(), (r / S1).symlink_to(r / S1)), "unreadable", S1, ""),
    ("raw", lambda r: (shutil.rmtree(r / "videos"), (r / "videos").symlink_to("videos")), "not-a-file", "videos", ""),
    ("raw", lambda r: edit(r / META, num_shards=3), "shard-missing", META, "num_shards"),
    ("raw", lambda r: edit(r / META, num_shards=10**12), "shard-missing", META, "num_shards"),
    ("raw", lambda r: edit(r / META, num_shards=1), "shard-extra", M1, ""),
    ("raw", lambda r: edit(r / META, num_shards="2"), "metadata-invalid", META, "num_shards"),
    ("raw", lambda r: edit(r / META, num_shards=float("nan")), "metadata-invalid", META, "num_shards"),
    ("raw", lambda r: edit(r / META, num_images=91), "metadata-mismatch", META, "num_images"),
    ("raw", lambda r: edit(r / META, hz=float("nan")), "metadata-invalid", META, "hz"),
    ("raw", lambda r: edit(r / META, hz=15), "video-rate", V0, ""),
    ("raw", lambda r: edit(r / META, hz=15), "video-rate", META, "hz"),
    ("raw", lambda r: (r / META).write_text("[1]"), "metadata-invalid", META, ""),
    ("raw", lambda r: (r / META).write_text('{"hz": 30,'), "metadata-invalid", META, "byte 10"),
    ("raw", lambda r: (r / M0).write_bytes(b"\xff\xfe{"), "metadata-invalid", M0, "byte 0"),
    ("raw", lambda r: (r / M0).write_text("[" * 100000), "metadata-invalid", M0, ""),
    ("raw", lambda r: edit(r / M1, shard_ind=0), "metadata-mismatch", M1, "shard_ind"),
    ("raw", lambda r: edit(r / M1, shard_ind=-1), "metadata-invalid", M1, "shard_ind"),
    ("raw", lambda r: edit(r / M0, shard_num_frames=51), "metadata-mismatch", M0, "shard_num_frames"),
    ("raw", lambda r: edit(r / M0, shard_num_frames=10**15), "metadata-mismatch", M0, "shard_num_frames"),
    ("raw", lambda r: edit(r / M0, shard_num_frames=None), "metadata-invalid", M0, "shard_num_frames"),
    ("raw", lambda r: cut(r / S0, 4930), "states-size", S0, "row 49 (byte 4900)"),
    ("raw", lambda r: cut(r / S0, 3000), "states-size", S0, "row 30 (byte 3000)"),
    ("raw", lambda r: recast(r / S0, "<f4", "<f8"), "states-dtype", S0, ""),
    ("raw", lambda r: recast(r / S0, "<f4", "<f2"), "states-dtype", S0, ""),
    ("raw", lambda r: swap_bytes(r / S1, "<f4"), "byte-order", S1, "byte 0"),
    (
        "raw",
        lambda r: change(r / S0, "<f4", 17 * 25 + 20, np.nan),
        "states-not-finite",
        S0,
        "row 17, channel neck_pitch (byte 1780)",
    ),
    ("raw", lambda r: change(r / S0, "<f4", 0, -np.inf), "states-not-finite", S0, "row 0, channel hip_yaw (byte 0)"),
    ("raw", lambda r: change(r / S0, "<f4", 5 * 25, 90.0), "states-units", S0, "row 5, channel hip_yaw (byte 500)"),
    (
        "raw",
        lambda r: change(r / S0, "<f4", 21, 100.0),
        "states-units",
        S0,
        "row 0, channel left_hand_closure (byte 84)",
    ),
    ("raw", lambda r: change(r / G0, "<i4", 10, 1), "segments-decreasing", G0, "row 11 (byte 44)"),
    ("raw", lambda r: change(r / G1, "<i4", 0, 0), "segments-decreasing", G1, "row 0 (byte 0)"),
    ("raw", lambda r: change(r / G0, "<i4", 0, -5), "segments-negative", G0, "row 0 (byte 0)"),
    ("raw", lambda r: recast(r / G0, "<i4", "<i8"), "segments-dtype", G0, ""),
    ("raw", lambda r: recast(r / G0, "<i4", "u1"), "segments-dtype", G0, ""),
    ("raw", lambda r: recast(r / G1, "<i4", "<f4"), "segments-dtype", G1, ""),
    ("raw", lambda r: swap_bytes(r / G1, "<i4"), "byte-order", G1, "byte 0"),
    ("raw", lambda r: cut(r / G0, 190), "segments-size", G0, "row 47 (byte 188)"),
    ("raw", lambda r: cut(r / V0, (r / V0).stat().st_size // 2), "video-truncated", V0, "byte "),
    ("raw", lambda r: (r / V0).write_text("not a film at all"), "video-not-mp4", V0, "byte 0"),
    ("raw", lambda r: sound_only(r / V0), "video-no-stream", V0, ""),
    ("raw", lambda r: spoil(r / V0), "video-undecodable", V0, "frame"),
    ("raw", lambda r: rewrite(r / V0, [picture(i) for i in range(49)]), "frames-mismatch", V0, "frame 49"),
    ("raw", lambda r: rewrite(r / V0, [picture(i) for i in range(51)]), "frames-mismatch", V0, "frame 50"),
    ("raw", lambda r: rewrite(r / V1, [picture(i, 32) for i in range(40)]), "video-resolution", V1, ""),
    ("raw", lambda r: rewrite(r / V1, [picture(i) for i in range(40)], hz=25), "video-rate", V1, ""),
    (
        "raw",
        lambda r: rewrite(r / V1, [picture(i) * (not 8 <= i < 12) for i in range(40)]),
        "video-black",
        V1,
        "frames 8 to 11",
    ),
    (
        "raw",
        lambda r: rewrite(r / V0, [picture(min(i, 10)) for i in range(50)], crf=1),
        "video-frozen",
        V0,
        "frames ",
    ),
    ("raw", lambda r: twice(r, pictures=False), "states-duplicated", S1, "rows 0 to"),
    ("raw", lambda r: shutil.copy(r / V0, r / V1), "file-duplicated", V1, ""),
    (
        "tokens",
        lambda r: change(r / "video_0.bin", "<i4", 192 * 2 + 70, 64000),
        "tokens-range",
        "video_0.bin",
        "block 2, ",
    ),
    ("tokens", lambda r: change(r / "video_1.bin", "<i4", 0, -1), "tokens-range", "video_1.bin", "block 0, grid 0, "),
    ("tokens", lambda r: recast(r / "video_0.bin", "<i4", "<i8"), "tokens-dtype", "video_0.bin", ""),
    ("tokens", lambda r: recast(r / "video_0.bin", "<i4", "<u2"), "tokens-dtype", "video_0.bin", ""),
    ("tokens", lambda r: recast(r / "video_1.bin", "<i4", "<f4"), "tokens-dtype", "video_1.bin", ""),
    ("tokens", lambda r: swap_bytes(r / "video_1.bin", "<i4"), "byte-order", "video_1.bin", "byte 0"),
    ("tokens", lambda r: cut(r / "video_0.bin", 2000), "tokens-size", "video_0.bin", "block 2 (byte 1536)"),
    ("tokens", lambda r: (r / "metadata_1.json").unlink(), "file-missing", "metadata_1.json", ""),
    ("tokens", lambda r: [p.unlink() for p in r.glob("segment*")], "file-missing", "segment_idx_0.bin", ""),
    (
        "tokens",
        lambda r: (r / "encoding.json").write_text(json.dumps({**ENCODING, "vocab_size": 100})),
        "tokens-range",
        "video_0.bin",
        "block 0",
    ),
    (
        "tokens",
        lambda r: (r / "encoding.json").write_text('{"vocab_size": "x"}'),
        "metadata-invalid",
        "encoding.json",
        "",
    ),
    ("raw", lambda r: replace_bytes(r / V0, b"avc1", b"zvc1"), "video-container", V0, ""),
    ("raw", lambda r: turn(r / V0), "video-rotated", V0, "byte "),
    ("raw", lambda r: shuffle_times(r / V0), "video-timestamps", V0, "frame "),
    ("raw", lambda r: film(r / V0, [*range(20), *range(21, 51)]), "video-timestamps", V0, "frame 20"),
    ("raw", lambda r: film(r / V0, [*range(20), *range(21, 51)], ticks=1000), "video-timestamps", V0, "frame 20"),
    ("raw", lambda r: film(r / V0, [k * 1.02 for k in range(50)], ticks=1000), "video-rate", V0, ""),
    ("raw", lambda r: film(r / V0, range(50), width=96), "video-resolution", V0, ""),
    (
        "raw",
        lambda r: [film(r / v, range(n), width=65, height=65) for v, n in ((V0, 50), (V1, 40))],
        "video-resolution",
        V1,
        "",
    ),
    ("raw", lambda r: two_films(r / V0), "video-several", V0, ""),
    ("raw", lambda r: change_size(r / V0), "video-resolution", V0, "frame 30"),
    ("raw", lambda r: cut_between_keyframes(r / V0), "video-undecodable", V0, "frame "),
    ("raw", lambda r: (r / M0).write_text("[" * 200_000), "metadata-invalid", M0, ""),
    ("raw", lambda r: (r / M0).write_text('{"a": ' * 100_000), "metadata-invalid", M0, ""),
    (
        "raw",
        lambda r: (r / META).write_text('{"num_shards": 2, "hz": 1%s}' % ("0" * 400)),
        "metadata-invalid",
        META,
        "hz",
    ),
    ("raw", lambda r: edit(r / META, num_shards=10**400), "metadata-invalid", META, "num_shards"),
    ("raw", lambda r: edit(r / META, num_images=10**400), "metadata-invalid", META, "num_images"),
    ("raw", lambda r: edit(r / M0, shard_num_frames=10**400), "metadata-invalid", M0, "shard_num_frames"),
    (
        "raw",
        lambda r: (r / M0).write_text('{"shard_ind": 0, "shard_num_frames": 49, "shard_num_frames": 50}'),
        "metadata-invalid",
        M0,
        "shard_num_frames",
    ),
    (
        "tokens",
        lambda r: (r / "encoding.json").write_text(json.dumps({"version": ENCODING_VERSION})),
        "metadata-invalid",
        "encoding.json",
        "kind",
    ),
    (
        "tokens",
        lambda r: (r / "encoding.json").write_text(json.dumps({"version": ENCODING_VERSION, "kind": "tokens"})),
        "metadata-invalid",
        "encoding.json",
        "source_fingerprint",
    ),
    (
        "tokens",
        lambda r: (r / "encoding.json").write_text(json.dumps({**ENCODING, "version": 1})),
        "metadata-invalid",
        "encoding.json",
        "version",
    ),
    ("tokens", lambda r: (r / "encoding.json").write_text("[1]"), "metadata-invalid", "encoding.json", ""),
    ("test", lambda r: (r / "video_1.bin").unlink(), "file-missing", "video_1.bin", ""),
    ("test", lambda r: cut(r / "states_1.bin", 6400 * 2 - 100), "states-size", "states_1.bin", "row 127 (byte 12700)"),
    ("test", lambda r: recast(r / "video_2.bin", "<i4", "<u2"), "tokens-dtype", "video_2.bin", ""),
    ("test", lambda r: edit(r / "metadata_0.json", shard_num_frames=3), "metadata-mismatch", "metadata_0.json", ""),
    (
        "test",
        lambda r: shutil.copy(r / "states_0.bin", r / "states_2.bin"),
        "states-duplicated",
        "states_2.bin",
        "sample",
    ),
]


@pytest.mark.parametrize(("kind", "do", "expected", "file", "where"), BREAKAGES)
def test_fault_is_found_at_its_place(
    whole: dict[str, Path],
    tmp_path: Path,
    kind: str,
    do: Callable[[Path], object],
    expected: str,
    file: str,
    where: str,
) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole[kind], root)
    do(root)
    findings = found(root)
    places = [(one.kind, one.file, one.where) for one in findings]
    assert any(k == expected and f == file and w.startswith(where) for k, f, w in places), places


def test_whole_folders_are_clean(whole: dict[str, Path], tmp_path: Path) -> None:
    for root in whole.values():
        assert found(root) == []
    assert found(write_raw(tmp_path / "flat", "flat")) == []
    assert found(whole["raw"], decode=False) == []
    nested = write_tokens(tmp_path / "nested", "subfolders")
    (nested / "robot_states").rename(nested / "states")
    (nested / "segment_indices").rename(nested / "segment_idx")
    for name in ("README.md", "LICENSE", ".hidden", "encoding.json"):
        (nested / name).write_bytes(sealed(ENCODING))
    (nested / "sim").mkdir()
    assert found(nested) == []


WHOLE_FILMS: dict[str, dict[str, Any]] = {
    "milliseconds": {"ticks": 1000},
    "hundredths": {"ticks": 100},
    "fiftieths": {"ticks": 50},
    "fortieths": {"ticks": 40},
    "intra refresh": {"options": {"x264-params": "intra-refresh=1"}},
    "fragments": {
        "encoder": "libx265",
        "options": {"x265-params": "keyint=2:bframes=3:log-level=none"},
        "container": {"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    },
    "MPEG-4 part 2": {"encoder": "mpeg4"},
}


@pytest.mark.parametrize("name", WHOLE_FILMS)
def test_films_as_others_write_them_are_clean(whole: dict[str, Path], tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole["raw"], root)
    film(root / V0, range(50), **WHOLE_FILMS[name])
    assert found(root) == []
    assert len(VideoIndex.read(root / V0)) == 50


def test_a_cover_is_no_film(whole: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole["raw"], root)
    add_cover(root / V0)
    (root / "videos/video_0.cover.mp4").unlink()
    assert found(root) == []


def test_every_command_says_the_same_of_frames_that_are_not_square(
    whole: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole["raw"], root / "train")
    film(root / "train" / V0, range(50), width=128, height=72)
    monkeypatch.chdir(tmp_path)
    line = "videos/video_0.mp4: frames of 128x72 are not read, only square ones with an even side, such as 64x64"
    train = ["--data", str(root), "--out", "run", "--train.num-steps", "1", "--train.validate-every", "0"]
    for command in (
        ["data", "check", str(root / "train")],
        ["data", "info", str(root / "train")],
        ["data", "sheet", str(root / "train")],
        ["data", "encode", str(root / "train"), "--out", "tokens", "--size", "64"],
        ["train", "tokenizer_tiny", *train],
        ["train", "sampling_tiny", *train],
    ):
        assert run(command) == 1, command
        said = capsys.readouterr()
        lines = [one for one in (said.out + said.err).splitlines() if "128x72" in one]
        assert len(lines) == 1 and line in lines[0], (command, said)


@pytest.mark.parametrize("kind", ["tokens", "raw"])
@pytest.mark.parametrize(("shards", "each"), [(1, 5), (4, 1)])
@pytest.mark.parametrize("described", [True, False])
def test_whole_test_splits_are_clean(tmp_path: Path, kind: str, shards: int, each: int, described: bool) -> None:
    assert found(write_test(tmp_path / "test", kind, shards=shards, each=each, described=described)) == []


def test_shipped_sample_is_clean() -> None:
    steps: list[tuple[int, int]] = []
    assert check_folder(SAMPLE / "val", progress=lambda done, total: steps.append((done, total))) == []
    assert steps and steps[-1] == (2160, 2160)
    assert found(SAMPLE / "train", decode=False) == []


def test_folders_of_splits(whole: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(whole["raw"], tmp_path / "train")
    shutil.copytree(whole["tokens"], tmp_path / "val_v2.0")
    (tmp_path / "runs").mkdir()
    assert found(tmp_path) == []
    (tmp_path / "train" / V0).unlink()
    (tmp_path / "val_v2.0" / "states_1.bin").write_bytes(b"")
    (tmp_path / "test").mkdir()
    files = {(one.kind, one.file) for one in found(tmp_path)}
    assert ("file-missing", f"train/{V0}") in files
    assert ("file-empty", "val_v2.0/states_1.bin") in files
    assert ("not-a-dataset", "test") in files


def test_nothing_there(tmp_path: Path) -> None:
    assert [one.kind for one in found(tmp_path)] == ["not-a-dataset"]
    write_metadata(tmp_path, num_shards=1, num_images=1)
    assert "not-a-dataset" in {one.kind for one in found(tmp_path)}
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(UsageError, match=str(path)):
            check_folder(path)


def write_latents(root: Path, dtype: str = "bfloat16") -> Path:
    """Two shards with 5 and 0 clips of latents (2, 3, 2, 2) and 7 state rows."""
    root.mkdir(parents=True)
    record = record_type([2, 3, 2, 2], num_states=7, dtype=dtype)
    clips = np.zeros(5, record)
    clips["start"], clips["segment"] = [0, 8, 16, 40, 48], [0, 0, 0, 1, 1]
    clips["states_valid"] = 1
    clips["latents"] = 0x3F80 if dtype == "bfloat16" else 1
    (root / "clips_0.bin").write_bytes(clips.tobytes())
    (root / "clips_3.bin").write_bytes(b"")
    facts: dict[str, object] = {
        "version": ENCODING_VERSION,
        "kind": "latents",
        "weights_sha256": "w",
        "dtype": dtype,
        "latent_shape": [2, 3, 2, 2],
    }
    facts |= {
        "frame_indices": [0],
        "clip_stride": 8,
        "legacy_segment_check": False,
        "num_states": 7,
        "clips": {"0": 5, "3": 0},
        "skipped": {},
    }
    facts |= {"simulated": False, "frame_size": 16}
    write_metadata(root, num_shards=2, num_images=100)
    facts |= {"source_fingerprint": "f", "files": describe_files(root, also={})}
    (root / "encoding.json").write_bytes(sealed(facts))
    return root


LATENTS: list[tuple[Callable[[Path], object], str, str, str]] = [
    (lambda r: (r / "clips_0.bin").unlink(), "file-missing", "clips_0.bin", ""),
    (lambda r: (r / "clips_3.bin").unlink(), "file-missing", "clips_3.bin", ""),
    (lambda r: (r / META).unlink(), "file-missing", META, ""),
    (lambda r: (r / "encoding.json").unlink(), "file-missing", "encoding.json", ""),
    (lambda r: (r / "encoding.json").write_text("{"), "metadata-invalid", "encoding.json", "byte 1"),
    (lambda r: edit(r / "encoding.json", clips=[5]), "metadata-invalid", "encoding.json", "clips"),
    (lambda r: edit(r / "encoding.json", clips={"0": -5}), "metadata-invalid", "encoding.json", "clips"),
    (lambda r: edit(r / "encoding.json", latent_shape=[2, 3]), "metadata-invalid", "encoding.json", "latent_shape"),
    (lambda r: edit(r / "encoding.json", latent_shape=[1 << 19] * 4), "metadata-invalid", "encoding.json", "latent_s"),
    (lambda r: edit(r / "encoding.json", dtype="int8"), "metadata-invalid", "encoding.json", "dtype"),
    (lambda r: edit(r / "encoding.json", num_states=0), "metadata-invalid", "encoding.json", "num_states"),
    (lambda r: edit(r / META, num_shards=3), "metadata-mismatch", META, "num_shards"),
    (lambda r: (r / "clips_7.bin").write_bytes(b""), "file-extra", "clips_7.bin", ""),
    (lambda r: (r / "states_0.bin").write_bytes(b"x"), "file-extra", "states_0.bin", ""),
    (lambda r: cut(r / "clips_0.bin", 2000), "latents-size", "clips_0.bin", "clip 2 (byte 1558)"),
    (lambda r: (r / "clips_3.bin").write_bytes(b"x"), "latents-size", "clips_3.bin", "clip 0"),
    (lambda r: poke(r, start=(2, 3)), "latents-address", "clips_0.bin", "clip 2 (byte 1558)"),
    (lambda r: poke(r, start=(0, -1)), "latents-address", "clips_0.bin", "clip 0 (byte 0)"),
    (lambda r: poke(r, segment=(4, 0)), "latents-address", "clips_0.bin", "clip 4"),
    (lambda r: poke(r, segment=(1, -2)), "latents-address", "clips_0.bin", "clip 1"),
    (lambda r: poke(r, states_valid=(1, 2)), "latents-valid", "clips_0.bin", "clip 1 (byte 779), row 0"),
    (
        lambda r: poke(r, states=(3, np.nan)),
        "states-not-finite",
        "clips_0.bin",
        "clip 3 (byte 2337), row 0, channel hip",
    ),
    (
        lambda r: poke(r, latents=(1, 0x7F80)),
        "latents-not-finite",
        "clips_0.bin",
        "clip 1 (byte 779), latent (0, 0, 0,",
    ),
    (lambda r: poke(r, latents=(1, 0xFFC1 - 65536)), "latents-not-finite", "clips_0.bin", "clip 1"),
]


def poke(root: Path, **change: tuple[int, float]) -> None:
    """Set the first number of a field in one record."""
    records = np.fromfile(root / "clips_0.bin", record_type([2, 3, 2, 2], num_states=7, dtype="bfloat16"))
    for name, (clip, value) in change.items():
        records[name].reshape(5, -1)[clip, 0] = value
    records.tofile(root / "clips_0.bin")


@pytest.mark.parametrize(("do", "kind", "file", "where"), LATENTS)
def test_fault_of_latents_is_found(
    tmp_path: Path, do: Callable[[Path], object], kind: str, file: str, where: str
) -> None:
    root = write_latents(tmp_path / "latents")
    do(root)
    places = [(one.kind, one.file, one.where) for one in found(root)]
    assert any(k == kind and f == file and w.startswith(where) for k, f, w in places), places
    assert len(places) <= 3


def test_whole_latents_are_clean(tmp_path: Path) -> None:
    for dtype in ("bfloat16", "float16", "float32"):
        root = write_latents(tmp_path / dtype, dtype)
        assert found(root) == []
        LatentClips(root, expected={})
    content = (root / "clips_0.bin").read_bytes()
    (root / "clips_0.bin").write_bytes(content[:-4] + np.float32(np.inf).tobytes())
    (one,) = found(root)
    assert one.kind == "latents-not-finite" and "clip 4" in one.where


def test_numbers_that_could_be_right_are_compared_with_what_was_encoded(tmp_path: Path) -> None:
    root = write_latents(tmp_path / "latents")
    poke(root, start=(1, 9))
    (one,) = found(root)
    assert (one.kind, one.file, one.where) == ("metadata-mismatch", "encoding.json", "files")
    assert one.message.startswith("clips_0.bin: was changed after it had been written")


def test_any_bytes_as_latents(tmp_path: Path) -> None:
    root = write_latents(tmp_path / "latents")
    for file in [path for path in root.iterdir() if path.stat().st_size]:
        content = file.read_bytes()
        for thing in (b"\0", b"null", b"{}", b"[]", b"\xff" * 3855, b"[" * 200_000):
            file.write_bytes(thing)
            assert found(root), (file, thing[:9])
        file.write_bytes(content)


def test_test_splits_with_other_grids(tmp_path: Path) -> None:
    """What the reader takes for samples, the check does; what has lost its segment ids, neither does."""
    for described in (True, False):
        root = tmp_path / str(described)
        for index in range(3):
            states = np.stack([some_states(64, 10 * index + sample) for sample in range(1 + index)])
            tokens = np.random.default_rng(index).integers(0, 64000, (1 + index, 3, 16, 16))
            write_token_samples(root, index, style="flat", tokens=tokens, states=states)
        write_metadata(root, num_shards=3, num_images=17 * 6)
        if not described:
            for path in root.glob("metadata*"):
                path.unlink()
        assert find_layout(root).contents == "samples"
        assert found(root) == []
        if not described:
            (root / "video_2.bin").unlink()
            assert [(one.kind, one.file) for one in found(root)] == [("file-missing", "video_2.bin")]
            (root / "states_1.bin").unlink()
            (root / "video_1.bin").unlink()
            assert ("shard-missing", ".") in [(one.kind, one.file) for one in found(root)]
    root = tmp_path / "lost"
    write_token_shard(
        root, 0, style="flat", tokens=np.random.default_rng(0).integers(0, 64000, (8, 3, 16, 16)),
        states=some_states(128), segments=np.zeros(128, np.int32),
    )  # fmt: skip
    write_metadata(root, num_shards=1, num_images=128)
    assert found(root) == []
    (root / "segment_idx_0.bin").unlink()
    assert ("file-missing", "segment_idx_0.bin") in [(one.kind, one.file) for one in found(root)]


@pytest.mark.parametrize("dtype", ["<u2", "<i8"])
def test_tokens_of_another_type_throughout(tmp_path: Path, dtype: str) -> None:
    root = tmp_path / "tokens"
    for index in range(2):
        tokens = np.random.default_rng(index).integers(0, 64000, (3, 3, 16, 16))
        states = some_states(50, index)
        write_token_shard(root, index, style="flat", tokens=tokens, states=states, segments=some_segments(index, 50))
        recast(root / f"video_{index}.bin", "<i4", dtype)
    write_metadata(root, num_shards=2, num_images=100)
    findings = found(root)
    assert [(one.kind, one.file) for one in findings] == [("tokens-dtype", f"video_{i}.bin") for i in range(2)]
    assert all(("uint16" if dtype == "<u2" else "int64") in one.message for one in findings)


def test_two_sizes_of_pictures(whole: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole["raw"], root)
    rewrite(root / V0, [picture(i, 66)[:66, :66] for i in range(50)])
    (one,) = [one for one in found(root) if one.kind == "video-resolution"]
    assert one.file == V0 and "is 66x66 while others are 64x64" in one.message


def test_no_error_of_a_broken_file_ends_the_check(
    whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([AttributeError("no codec"), RecursionError(), TypeError("x"), OverflowError()])

    def fail(*_: object, **__: object) -> None:
        raise next(errors)

    monkeypatch.setattr("foreframe.data.check.folder.check_video", fail)
    for _ in range(2):
        assert {(one.kind, one.file) for one in found(whole["raw"])} == {("unreadable", V0), ("unreadable", V1)}


def test_several_faults_are_all_found(whole: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole["raw"], root)
    edit(root / META, num_shards=4, hz="fast")
    change(root / S0, "<f4", 3, np.nan)
    change(root / S0, "<f4", 40 * 25 + 3, np.nan)
    change(root / G0, "<i4", 10, 1)
    (root / V1).write_text("no film")
    (root / "odd.txt").write_text("x")
    recast(root / G1, "<i4", "<i8")
    kinds = {(one.kind, one.file, one.where) for one in found(root)}
    assert kinds >= {
        ("shard-missing", META, "num_shards"),
        ("metadata-invalid", META, "hz"),
        ("states-not-finite", S0, "row 0, channel knee_pitch (byte 12)"),
        ("states-not-finite", S0, "row 40, channel knee_pitch (byte 4012)"),
        ("segments-decreasing", G0, "row 11 (byte 44)"),
        ("video-not-mp4", V1, "byte 0"),
        ("file-extra", "odd.txt", ""),
        ("segments-dtype", G1, ""),
    }


def test_many_faults_of_a_kind_are_counted(whole: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole["tokens"], root)
    (-np.ones((3, 3, 8, 8), "<i4")).tofile(root / "video_0.bin")
    np.arange(50, 0, -1).astype("<i4").tofile(root / "segment_idx_0.bin")
    decreasing = [one for one in found(root) if one.kind == "segments-decreasing" and one.file == "segment_idx_0.bin"]
    assert len(decreasing) == MOST_OF_A_KIND + 1
    assert decreasing[-1].where == f"{49 - MOST_OF_A_KIND} more places"


@pytest.mark.parametrize("kind", ["raw", "tokens", "test"])
def test_nothing_makes_it_fail(whole: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Every file in turn becomes each of these."""
    things = [b"", b"\0", b"null", b"{}", b"[]", b'"x"', b"1e999", b"\xff" * 1000, bytes(range(256)) * 40, b"\0" * 4004]
    things += [b"\0\0\0\x18ftypisom\0\0\0\0isommp42\0\0\0\x08moov", b"\0\0\0\x01mdat\xff\xff\xff\xff\xff\xff\xff\xff"]
    files = [path.relative_to(whole[kind]) for path in whole[kind].rglob("*") if path.is_file()]
    root = tmp_path / "data"
    shutil.copytree(whole[kind], root)
    for file in files:
        content = (root / file).read_bytes()
        for thing in things:
            (root / file).write_bytes(thing)
            findings = found(root, decode=len(thing) > 3000)
            assert any(one.file == file.as_posix() for one in findings), (file, thing[:20])
        (root / file).unlink()
        os.mkfifo(root / file)
        assert ("not-a-file", file.as_posix()) in {(one.kind, one.file) for one in found(root, decode=False)}
        (root / file).unlink()
        (root / file).write_bytes(content)
    for file in files:
        (root / file).write_bytes(b"\xff" * 64)
    assert found(root)


def test_unreadable_file(whole: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(whole["raw"], root)
    for name in (S0, V1, META):
        (root / name).chmod(0)
    if os.access(root / S0, os.R_OK):
        pytest.skip("this user may read everything")
    assert {("unreadable", name) for name in (S0, V1, META)} <= {(one.kind, one.file) for one in found(root)}


def long_tokens(root: Path, states: np.ndarray) -> Path:
    """One shard of tokens beside these states, in two recordings."""
    count = len(states)
    tokens = np.random.default_rng(9).integers(0, 64000, (-(-count // 17), 3, 8, 8))
    write_token_shard(root, 0, style="flat", tokens=tokens, states=states, segments=some_segments(0, count))
    write_metadata(root, num_shards=1, num_images=count)
    return root


def test_constant_and_identical_channels(tmp_path: Path) -> None:
    states = some_states(340)
    states[:, 20] = 0
    states[:, 7] = states[:, 14]
    findings = found(long_tokens(tmp_path / "long", states))
    assert [(one.kind, one.file) for one in findings] == [
        ("states-constant", "states_0.bin"),
        ("states-identical", "states_0.bin"),
    ]
    assert findings[0].where == "all rows of all 1 shards, channel neck_pitch (byte 80)"
    assert findings[1].where == "all rows, channels left_shoulder_roll and right_shoulder_roll"
    assert found(long_tokens(tmp_path / "short", states[:200])) == []  # a robot may rest
    assert [one.where for one in found(long_tokens(tmp_path / "all", states * 0))] == [
        "all rows of all 1 shards, all channels"
    ]


def test_duplicated_clips(whole: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "raw"
    shutil.copytree(whole["raw"], root)
    twice(root)
    (clip,) = found(root)
    assert (clip.kind, clip.file, clip.where) == ("clip-duplicated", S1, "rows 0 to 39 (byte 0, segment 2)")
    assert "rows 0 to 39 (byte 0, segment 0) of robot_states/states_0.bin, and so are the pictures" in clip.message

    states = some_states(170)
    states[85:] = states[:85]  # five blocks
    long_tokens(tmp_path / "tokens", states)
    (one,) = found(tmp_path / "tokens")
    assert (one.kind, one.where) == ("states-duplicated", "rows 85 to 169 (byte 8500, segment 1)")
    tokens = np.fromfile(tmp_path / "tokens/video_0.bin", "<i4").reshape(10, -1)
    np.concatenate([tokens[:5], tokens[:5]]).tofile(tmp_path / "tokens/video_0.bin")
    (one,) = found(tmp_path / "tokens")
    assert one.kind == "clip-duplicated" and "rows 0 to 84 (byte 0, segment 0) of states_0.bin" in one.message

    tokens[3:] = tokens[3]
    tokens.tofile(tmp_path / "tokens/video_0.bin")
    assert ("video-frozen", "video_0.bin", "blocks 3 to 9") in {
        (one.kind, one.file, one.where) for one in found(tmp_path / "tokens")
    }

    still = some_states(170)
    still[20:] = still[20]  # at rest, which repeats itself
    assert found(long_tokens(tmp_path / "still", still)) == []


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    """The shipped validation rooms, and a third of the training ones."""
    found: list[Recording] = []
    for root, states in ((SAMPLE / "val", "states_{}.bin"), (SAMPLE / "train", "robot_states/states_{}.bin")):
        for shard in range(2):
            video = next(path for path in root.rglob(f"video_{shard}.mp4"))
            segments = np.fromfile(next(root.rglob(f"segment_idx_{shard}.bin")), "<i4")
            rows = np.fromfile(root / states.format(shard), "<f4").reshape(-1, 25)
            grey = np.stack([frame[..., 1] for frame in iterate_frames(video, size=64)])
            for segment in np.unique(segments):
                inside = segments == segment
                found.append(Recording(motion=image_motion(grey[inside]), states=rows[inside]))
    return found


def roll(one: Recording, lag: int) -> Recording:
    return replace(one, states=one.states[np.clip(np.arange(len(one.states)) - lag, 0, len(one.states) - 1)])


def exchange(one: Recording) -> Recording:
    order = np.r_[0:6, 13:20, 6:13, 20, 22, 21, 23, 24]
    return replace(one, states=one.states[:, order])


def mirror(one: Recording) -> Recording:
    return replace(one, motion=one.motion[:, [0, 1, 2, 4, 3]] * np.array([-1, 1, 1, 1, 1], np.float32))


def test_motion_tells_lag_and_sides(recordings: list[Recording]) -> None:
    assert judge(recordings, hz=30) == []
    for lag in (-10, -3, 2, 3, 5):
        (verdict,) = [one for one in judge([roll(r, lag) for r in recordings], hz=30) if one.fault == "lag"]
        assert verdict.lag == lag and verdict.confidence >= 0.99
    assert [one.fault for one in judge([exchange(one) for one in recordings], hz=30)] == ["arms"]
    assert [one.fault for one in judge([mirror(one) for one in recordings], hz=30)] == ["turning", "arms"]
    rooms = recordings[12:]  # the training rooms, of one length
    others = [replace(one, states=other.states) for one, other in zip(rooms, rooms[1:] + rooms[:1], strict=True)]
    assert [one.fault for one in judge(others, hz=30)] == ["unrelated"]


def turning_room(seed: int, count: int = 300) -> Recording:
    """A robot that turns and nods all the time, and what its camera then sees, with some noise."""
    rng = np.random.default_rng(seed)
    smooth = [np.convolve(rng.normal(size=count + 40), np.hanning(41) / 20, "valid") for _ in range(2)]
    states = np.zeros((count, 25), np.float32)
    states[:, CHANNEL_INDEX["angular_velocity"]] = 0.5 * smooth[0]
    states[:, CHANNEL_INDEX["neck_pitch"]] = 0.3 * smooth[1]
    turned = (states[1:, CHANNEL_INDEX["angular_velocity"]] + states[:-1, CHANNEL_INDEX["angular_velocity"]]) / 60
    nodded = np.diff(states[:, CHANNEL_INDEX["neck_pitch"]])
    motion = rng.normal(0, 0.03, (count - 1, 5))
    motion[:, 0] += 45 * turned
    motion[:, 1] -= 45 * nodded
    motion[:, 3:] = np.abs(motion[:, 3:])
    return Recording(motion=motion.astype(np.float32), states=states, first_row=seed * count)


def test_parts_of_a_shard(recordings: list[Recording]) -> None:
    """Single recordings that lag, are exchanged, or have pictures twice in their middle; the others are left alone."""
    assert find_stretches([recordings[12:]], [0], hz=30) == [[]]
    assert find_stretches([recordings[:6], recordings[6:12]], [0, 0], hz=30) == [[], []]
    rooms = [turning_room(index) for index in range(8)]
    assert find_stretches([rooms], [0], hz=30) == [[]]
    for lag in (-10, 3, 10):
        lagging = [roll(one, lag) if index == 5 else one for index, one in enumerate(rooms)]
        ((one,),) = find_stretches([lagging], [0], hz=30)
        assert one.fault == "lag" and abs(one.lag - lag) <= 1 and one.confidence >= 0.99
        assert one.first_row < 6 * 300 and one.end_row > 5 * 300
    late = [one if index < 5 else roll(one, 5) for index, one in enumerate(rooms)]
    ((one,),) = find_stretches([late], [5], hz=30)  # as a whole, the shard lags
    assert one.lag == 5 and abs(one.first_row - 5 * 300) < 60 and one.end_row > 8 * 300 - 60
    told = 0
    for one, other in ((0, 1), (2, 6), (1, 4), (3, 5), (0, 7)):
        swapped = list(rooms)
        swapped[one] = replace(rooms[one], states=rooms[other].states)
        swapped[other] = replace(rooms[other], states=rooms[one].states)
        (apart,) = find_stretches([swapped], [0], hz=30)
        accused = [(stretch.fault, stretch.first_row) for stretch in apart]
        assert set(accused) <= {("unrelated", 300 * one), ("unrelated", 300 * other)}
        told += len(accused)
    assert told >= 5
    assert find_stretches([], [], hz=30) == [] and find_stretches([[]], [0], hz=30) == [[]]


def test_motion_says_nothing_of_little_or_still_data(recordings: list[Recording]) -> None:
    for one in recordings:
        assert judge([one], hz=30) == []
        assert judge([Recording(motion=one.motion[:10], states=one.states[:11])], hz=30) == []
        still = Recording(motion=one.motion * 0, states=one.states)
        assert judge([still] * 4, hz=30) == []
    assert judge([], hz=30) == []


def test_mirroring_pictures_mirrors_their_motion() -> None:
    frames = np.stack([picture(index).mean(-1).astype(np.uint8) for index in range(8)])
    assert np.allclose(image_motion(frames[:, :, ::-1])[:, 1:3], image_motion(frames)[:, 1:3], atol=0.05)
    assert np.allclose(image_motion(frames[:, :, ::-1])[:, 0], -image_motion(frames)[:, 0], atol=0.05)


def test_lagging_shard_of_a_folder(tmp_path: Path) -> None:
    """The whole road, on the shipped sample: one shard with late states, the other with its arms exchanged."""
    root = tmp_path / "train"
    shutil.copytree(SAMPLE / "train", root)
    rows = np.fromfile(root / S0, "<f4").reshape(-1, 25)
    np.roll(rows, 4, axis=0).tofile(root / S0)
    rows = np.fromfile(root / S1, "<f4").reshape(-1, 25)
    rows[:, np.r_[0:6, 13:20, 6:13, 20, 22, 21, 23, 24]].tofile(root / S1)
    lag, arms = found(root)
    assert (lag.kind, lag.file) == ("states-lag", S0) and "4 frames after" in lag.message
    assert (arms.kind, arms.file) == ("arms-swapped", S1)
    assert min(lag.confidence or 0, arms.confidence or 0) >= 0.99


def test_exchanged_states_and_mirrored_pictures_of_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "train"
    shutil.copytree(SAMPLE / "train", root)
    (root / S0).rename(root / "kept")
    (root / S1).rename(root / S0)
    (root / "kept").rename(root / S1)
    assert [(one.kind, one.file) for one in found(root)] == [("states-unrelated", S0), ("states-unrelated", S1)]
    shutil.rmtree(root)
    shutil.copytree(SAMPLE / "train", root)
    video = root / "videos" / "video_1.mp4"
    with VideoWriter(tmp_path / "mirrored.mp4", size=128) as writer:
        for frame in iterate_frames(video, size=128):
            writer.append(np.ascontiguousarray(frame[:, ::-1]))
    (tmp_path / "mirrored.mp4").replace(video)
    kinds = {(one.kind, one.file) for one in found(root)}
    assert ("video-mirrored", S1) in kinds
    assert kinds - {("video-mirrored", S1)} <= {("video-resolution", "videos/video_1.mp4"),
                                                ("video-resolution", "videos/video_0.mp4")}  # fmt: skip
