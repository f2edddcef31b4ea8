"""Any frame of any mp4 is the one that decoding from the file's start gives, whatever is called a keyframe."""

from __future__ import annotations

import pickle
import struct
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from foreframe.data.raw import RawDataset
from foreframe.data.video import VideoIndex, VideoReader, VideoWriter
from foreframe.data.writer import RawShardWriter, write_metadata
from foreframe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NUM_FRAMES = 60
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
EACH_A_FRAGMENT = {"movflags": "frag_every_frame+empty_moov+default_base_moof"}


def x264(parameters: str) -> dict[str, str]:
    return {"x264-params": f"asm=0:{parameters}"}


def x265(parameters: str) -> dict[str, str]:
    return {"x265-params": f"log-level=none:{parameters}"}


FILMS: dict[str, tuple[str, dict[str, str], dict[str, str], int]] = {
    # encoder, its options, those of the container, and the first time stamp: below 0 an edit list cuts that much away
    "intra_refresh": ("libx264", x264("intra-refresh=1:keyint=15"), {}, 0),
    "open_groups": ("libx264", x264("open-gop=1:keyint=12:bframes=3:b-pyramid=normal"), {}, 0),
    "pyramid": ("libx264", x264("keyint=12:bframes=5:b-adapt=0:b-pyramid=normal"), {}, 7),
    "fields": ("libx264", x264("interlaced=1:slices=4:bframes=2:keyint=12"), {}, 0),
    "headers_in_packets": ("libx264", x264("keyint=12:repeat-headers=1:bframes=2"), {}, 0),
    "cut_by_an_edit_list": ("libx264", x264("keyint=12:bframes=3"), {}, -10),
    "fragments": ("libx264", x264("keyint=12:bframes=3"), FRAGMENTS, 0),
    "fragments_of_two": ("libx264", x264("keyint=2:bframes=3"), FRAGMENTS, 0),
    "fragments_of_one": ("libx264", x264("keyint=12:bframes=3"), EACH_A_FRAGMENT, 0),
    "hevc": ("libx265", x265("keyint=15"), {}, 0),
    "hevc_open_groups": ("libx265", x265("keyint=12:open-gop=1:bframes=4:b-pyramid=1:scenecut=0"), {}, 0),
    "hevc_closed_groups": ("libx265", x265("keyint=12:open-gop=0:bframes=4"), {}, 0),
    "hevc_radl": ("libx265", x265("keyint=15:open-gop=0:radl=2:bframes=4"), {}, 0),
    "hevc_intra_refresh": ("libx265", x265("keyint=15:intra-refresh=1"), {}, 0),
    "hevc_headers_in_packets": ("libx265", x265("keyint=12:repeat-headers=1"), {}, 0),
    "hevc_cut_by_an_edit_list": ("libx265", x265("keyint=15"), {}, -10),
    "hevc_fragments_of_two": ("libx265", x265("keyint=2:bframes=3"), FRAGMENTS, 0),
    "mpeg4": ("mpeg4", {"g": "12"}, {}, 0),
    "mpeg4_b_frames": ("mpeg4", {"g": "12", "bf": "2"}, {}, 0),
    "mpeg4_fragments": ("mpeg4", {"g": "12", "bf": "2"}, FRAGMENTS, 0),
    "mpeg2_b_frames": ("mpeg2video", {"g": "12", "bf": "2"}, {}, 0),
    "mpeg1": ("mpeg1video", {"g": "12"}, {}, 0),
    "vp9": ("libvpx-vp9", {"g": "15", "cpu-used": "8", "deadline": "realtime"}, {}, 0),
    "vp9_hidden_frames": ("libvpx-vp9", {"g": "30", "cpu-used": "8", "lag-in-frames": "16"}, {}, 0),
    "av1": ("libsvtav1", {"g": "12", "preset": "12", "svtav1-params": "lp=1"}, {}, 0),
    "mjpeg": ("mjpeg", {}, {}, 0),
    "png": ("png", {}, {}, 0),
}
PIXELS = {"mjpeg": "yuvj420p", "png": "rgb24"}


@cache
def picture(index: int, size: int = 64) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    waves = (np.sin(x / 9 + index / 5) + np.cos(y / 13 - index / 7)) * 50 + 120
    noise = np.random.default_rng(index).uniform(-9, 9, (size, size, 3))
    return (waves[..., None] + noise).astype(np.uint8)


def encode(
    path: Path,
    encoder: str,
    options: dict[str, str],
    container: dict[str, str] | None = None,
    first: int = 0,
    *,
    num_frames: int = NUM_FRAMES,
    size: int = 64,
) -> Path:
    try:
        av.Codec(encoder, "w")
    except ValueError:
        pytest.skip(f"this build of FFmpeg has no {encoder}")
    with av.open(str(path), "w", format="mp4", options=container or {}) as output:
        stream = output.add_stream(encoder, rate=30, options=dict(options))
        stream.width = stream.height = size
        stream.pix_fmt = PIXELS.get(encoder, "yuv420p")
        stream.codec_context.thread_count = 1
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(index, size), format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = first + index, Fraction(1, 30)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def decode_from_start(path: Path) -> np.ndarray:
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


def check(path: Path, *, num_frames: int | None = None) -> VideoReader:
    """Compare every way to read a file with decoding it from its start; the reader, closed, for what it learnt."""
    truth, generator = decode_from_start(path), np.random.default_rng(0)
    count = len(truth)
    assert num_frames is None or count == num_frames
    with VideoReader(path) as reader:
        assert len(reader) == count
        assert np.array_equal(reader.frames([count - 1])[0], truth[-1])  # the last frame alone
    with VideoReader(path) as reader:
        for index in [*generator.permutation(count)[:25].tolist(), 0, count - 1]:
            assert np.array_equal(reader.frames([index])[0], truth[index]), index
        for start in generator.permutation(count)[:12]:
            indices = np.unique(np.clip(start + np.arange(0, 40, 4), 0, count - 1))
            assert np.array_equal(reader.frames(indices), truth[indices]), indices
        starts, offsets = np.sort(generator.integers(0, count - 20, 5)), np.arange(0, 20, 3)
        for start, window in zip(starts, reader.windows(starts, offsets), strict=True):
            assert np.array_equal(window, truth[start + offsets]), start
        assert np.array_equal(reader.frames(range(count)), truth)
    return reader


@pytest.fixture(scope="module", params=list(FILMS))
def film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("film") / f"{request.param}.mp4", *FILMS[request.param])


def test_every_codec_is_read_as_from_its_start(film: Path) -> None:
    check(film, num_frames=NUM_FRAMES - 10 if "edit_list" in film.name else NUM_FRAMES)


def boxes(content: bytes, change: Callable[[bytes, bytes], bytes | None]) -> bytes:
    """An mp4's boxes, each with the content that `change` gives; None leaves it out."""
    result, at = b"", 0
    while at + 8 <= len(content):
        end = at + int.from_bytes(content[at : at + 4], "big")
        kind, inside = content[at + 4 : at + 8], content[at + 8 : end]
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
            inside = boxes(inside, change)
        changed = change(kind, inside)
        result += b"" if changed is None else struct.pack(">I", len(changed) + 8) + kind + changed
        at = end
    return result


@pytest.mark.parametrize(
    "name", ["intra_refresh", "open_groups", "hevc_open_groups", "hevc", "mpeg4", "mpeg4_b_frames", "mpeg2_b_frames"]
)
def test_files_without_a_list_of_keyframes(name: str, tmp_path: Path) -> None:
    path = encode(tmp_path / "film.mp4", *FILMS[name])
    content = path.read_bytes()
    changed = boxes(content, lambda kind, inside: None if kind == b"stss" else inside)
    assert len(changed) < len(content)
    path.write_bytes(changed)
    check(path, num_frames=NUM_FRAMES)


def test_what_an_entry_is(tmp_path: Path) -> None:
    counts: dict[str, int] = {}
    for name in ("intra_refresh", "open_groups", "pyramid", "hevc_open_groups", "hevc_intra_refresh", "mpeg4", "mjpeg"):
        index = VideoIndex.read(encode(tmp_path / f"{name}.mp4", *FILMS[name]))
        assert index.keyframes_hold == (name not in ("mpeg4", "mjpeg"))
        counts[name] = len(index.keyframe_pts)
    every_twelfth = NUM_FRAMES // 12
    # Recovery points and open groups of H.264 are none; CRA pictures of HEVC are for what is shown after them.
    assert counts == {
        "intra_refresh": 1,
        "open_groups": 1,
        "pyramid": every_twelfth,
        "hevc_open_groups": every_twelfth,
        "hevc_intra_refresh": 1,
        "mpeg4": every_twelfth,
        "mjpeg": NUM_FRAMES,
    }


def test_a_jpeg_without_tables_takes_those_of_the_picture_before_it(tmp_path: Path) -> None:
    path = encode(tmp_path / "film.mp4", *FILMS["mjpeg"])
    index = VideoIndex.read(path)
    content = bytearray(path.read_bytes())
    for frame in range(0, NUM_FRAMES, 2):  # every second one is finer
        tables = content.index(b"\xff\xdb", int(index.places[frame]))
        content[tables + 5 : tables + 69] = bytes(64 * [1])
    tables = content.index(b"\xff\xdb", int(index.places[41]))
    content[tables : tables + 2] = b"\xff\xe9"  # a segment that is skipped
    path.write_bytes(content)
    truth = decode_from_start(path)
    with VideoReader(path) as reader:
        for frame in (0, 55, 41, 3, 41, 40, 41, 58, 41):
            np.testing.assert_array_equal(reader.frames([frame])[0], truth[frame])


def test_words_in_a_file_may_be_in_any_encoding(tmp_path: Path) -> None:
    path = encode(tmp_path / "film.mp4", "mpeg4", {"g": "12"})
    content = path.read_bytes()
    assert content.count(b"VideoHandler") == 1
    path.write_bytes(content.replace(b"VideoHandler", b"Cam\xe9ra \xff\x80   "))  # Latin-1, and no text at all
    check(path, num_frames=NUM_FRAMES)


def test_keyframes_of_other_codecs_are_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in range(2):
        with RawShardWriter(tmp_path, shard, style="flat", size=64) as writer:
            for index in range(NUM_FRAMES):
                writer.append(picture(index), np.zeros(25, np.float32), segment=0)
        encode(tmp_path / f"video_{shard}.mp4", "mpeg4", {"g": "12"})
    write_metadata(tmp_path, num_shards=2, num_images=2 * NUM_FRAMES)
    truth = decode_from_start(tmp_path / "video_0.mp4")
    compared: list[str] = []
    from foreframe.data import video

    compare = video.compared
    monkeypatch.setattr(video, "compared", lambda path, index: compared.append(path.name) or compare(path, index))
    monkeypatch.setattr("foreframe.data.raw.MAX_OPEN_VIDEOS", 1)
    data = RawDataset(tmp_path)
    for index in range(0, NUM_FRAMES, 7):
        assert np.array_equal(data.frames(0, [index])[0], truth[index])
    assert not compared  # going forward needs no entry
    for index in (30, 50, 14):
        assert np.array_equal(data.frames(0, [index])[0], truth[index])
    assert compared == ["video_0.mp4"]
    monkeypatch.setattr(video, "WORTH_A_COMPARISON", 25)
    for index in (20, 30, 50, 14):
        for shard in (0, 1):  # only one is kept open: each begins anew
            assert np.array_equal(data.frames(shard, [index])[0], truth[index])
    assert compared == ["video_0.mp4", "video_1.mp4"]
    again = pickle.loads(pickle.dumps(data))
    assert np.array_equal(again.frames(0, [40])[0], truth[40]) and np.array_equal(again.frames(0, [3])[0], truth[3])
    assert len(compared) == 2


def test_keyframes_that_do_not_hold_are_not_used(tmp_path: Path) -> None:
    """Every picture marked as a keyframe, as files without a list say: those that a decoder can start from remain."""
    path = encode(tmp_path / "film.mp4", *FILMS["mpeg4_b_frames"])
    listed = VideoIndex.read(path)
    path.write_bytes(boxes(path.read_bytes(), lambda kind, inside: None if kind == b"stss" else inside))
    assert len(VideoIndex.read(path).keyframe_pts) > len(listed.keyframe_pts)
    reader = check(path)
    assert np.array_equal(reader.index.keyframe_pts, listed.keyframe_pts) and reader.index.keyframes_hold


# -- joined and cut files --------------------------------------------------------------------------------------------

Packets = list[tuple[bytes, int, int, int, bool]]


def packets(path: Path) -> Packets:
    with av.open(str(path)) as container:
        found = [packet for packet in container.demux(video=0) if packet.size]
        return [(bytes(one), one.pts or 0, one.dts or 0, one.duration or 0, one.is_keyframe) for one in found]


def join(path: Path, parts: list[Packets], template: Path) -> Path:
    """The parts one after the other, as `ffmpeg -c copy` joins files: described as `template`."""
    with av.open(str(template)) as source, av.open(str(path), "w") as output:
        like = source.streams.video[0]
        stream, end = output.add_stream_from_template(like), 0
        for part in parts:
            begin = min(dts for _, _, dts, _, _ in part)
            for content, pts, dts, duration, is_keyframe in part:
                packet = av.Packet(content)
                packet.pts, packet.dts, packet.duration = pts - begin + end, dts - begin + end, duration
                packet.time_base, packet.stream, packet.is_keyframe = like.time_base, stream, is_keyframe
                output.mux(packet)
            end += len(part) * part[0][3]
    return path


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_parameter_sets_that_change_within_a_file(codec: str, tmp_path: Path) -> None:
    """Joined recordings: the first has its parameter sets beside the film alone, others bring theirs along."""
    if codec == "h264":
        plain = encode(tmp_path / "1.mp4", "libx264", x264("keyint=10:bframes=0:crf=18"), num_frames=30)
        same = encode(tmp_path / "2.mp4", "libx264", x264("keyint=10:bframes=0:crf=18:repeat-headers=1"), num_frames=30)
        other = x264("keyint=10:bframes=0:crf=33:cabac=0:8x8dct=0:repeat-headers=1")
        other = encode(tmp_path / "3.mp4", "libx264", other, num_frames=30)
    else:
        plain = encode(tmp_path / "1.mp4", "libx265", x265("keyint=10:crf=20:repeat-headers=0"), num_frames=30)
        same = encode(tmp_path / "2.mp4", "libx265", x265("keyint=10:crf=20:repeat-headers=1"), num_frames=30)
        other = x265("keyint=10:crf=32:no-sao=1:no-amp=1:repeat-headers=1")
        other = encode(tmp_path / "3.mp4", "libx265", other, num_frames=30)
    parts = [packets(one) for one in (plain, other, same, other)]
    reader = check(join(tmp_path / "film.mp4", parts, plain), num_frames=120)
    assert reader.index.parameters_change and len(reader.index.keyframe_pts) == 12


def test_two_descriptions_of_one_track(tmp_path: Path) -> None:
    first = encode(tmp_path / "1.mp4", "libx264", x264("keyint=10:bframes=0:crf=18"), num_frames=30)
    second = encode(tmp_path / "2.mp4", "libx264", x264("keyint=10:bframes=0:crf=33:cabac=0:8x8dct=0"), num_frames=30)
    descriptions: list[bytes] = []
    boxes(
        second.read_bytes(), lambda kind, inside: descriptions.append(inside) or inside if kind == b"stsd" else inside
    )
    path = join(tmp_path / "film.mp4", [packets(first), packets(second)], first)
    length = sum(len(content) for content, *_ in packets(first))

    def change(kind: bytes, inside: bytes) -> bytes:
        if kind == b"stsd":
            return inside[:4] + struct.pack(">I", 2) + inside[8:] + descriptions[0][8:]
        if kind == b"stsc":
            return struct.pack(">8I", 0, 2, 1, 30, 1, 2, 30, 2)
        if kind == b"stco":
            (place,) = struct.unpack(">I", inside[8:12])
            return struct.pack(">4I", 0, 2, place, place + length)
        return inside

    path.write_bytes(boxes(path.read_bytes(), change))
    assert len(check(path, num_frames=60).index.keyframe_pts) == 1  # read from its start, through FFmpeg alone


@pytest.mark.parametrize("name", ["hevc_open_groups", "open_groups", "mpeg2_b_frames", "mpeg4_b_frames"])
def test_files_cut_at_an_open_group(name: str, tmp_path: Path) -> None:
    """Pictures that led the first one of a file which was cut are not shown by anybody: they do not count."""
    whole = encode(tmp_path / "whole.mp4", *FILMS[name])
    parts = packets(whole)
    second = [place for place, (*_, is_keyframe) in enumerate(parts) if is_keyframe][1]
    check(join(tmp_path / "film.mp4", [parts[second:]], whole))


def test_files_cut_between_keyframes_are_refused(tmp_path: Path) -> None:
    for name in ("intra_refresh", "hevc_closed_groups"):
        whole = encode(tmp_path / f"{name}.mp4", *FILMS[name])
        path = join(tmp_path / "film.mp4", [packets(whole)[5:]], whole)
        with pytest.raises(
            InputError, match=r"film\.mp4: frame \d+ cannot be decoded: the file begins between"
        ) as caught:
            VideoReader(path)
        assert "\n" not in str(caught.value)


# -- which film, which size ------------------------------------------------------------------------------------------


def add_cover(path: Path) -> None:
    """Cover art as music players write it, which FFmpeg lists as the first video stream."""
    picture_file = path.with_suffix(".cover.mp4")
    encode(picture_file, "mjpeg", {}, num_frames=1)
    data = struct.pack(">I4sII", 16 + len(packets(picture_file)[0][0]), b"data", 13, 0) + packets(picture_file)[0][0]
    cover = struct.pack(">I4s", 8 + len(data), b"covr") + data
    items = struct.pack(">I4s", 8 + len(cover), b"ilst") + cover
    handler = struct.pack(">I4sII8s9s", 33, b"hdlr", 0, 0, b"mdirappl", bytes(9))
    meta = struct.pack(">I4sI", 12 + len(handler + items), b"meta", 0) + handler + items
    user = struct.pack(">I4s", 8 + len(meta), b"udta") + meta
    path.write_bytes(
        boxes(path.read_bytes(), lambda kind, c: user + c if kind == b"moov" else None if kind == b"udta" else c)
    )


def two_films(path: Path) -> None:
    first = encode(path.with_suffix(".one.mp4"), *FILMS["pyramid"])
    with av.open(str(first)) as source, av.open(str(path), "w") as output:
        like = source.streams.video[0]
        streams = [output.add_stream_from_template(like) for _ in range(2)]
        for packet in source.demux(like):
            if packet.size:
                for stream in streams:
                    copy = av.Packet(bytes(packet))
                    copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                    copy.stream, copy.is_keyframe = stream, packet.is_keyframe
                    output.mux(copy)


def test_a_cover_before_the_film_is_not_the_film(tmp_path: Path) -> None:
    path = encode(tmp_path / "film.mp4", *FILMS["pyramid"])
    truth = decode_from_start(path)
    add_cover(path)
    with av.open(str(path)) as container:
        assert [stream.codec_context.name for stream in container.streams.video] == ["mjpeg", "h264"]
    with VideoReader(path) as reader:
        assert np.array_equal(reader.frames([40, 3, 59]), truth[[40, 3, 59]])
        assert (len(reader), reader.index.width) == (NUM_FRAMES, 64)


def test_two_films_in_a_file_are_refused(tmp_path: Path) -> None:
    two_films(tmp_path / "film.mp4")
    with pytest.raises(InputError, match=r"film\.mp4: holds 2 films \(streams 0, 1\).*keep one"):
        VideoReader(tmp_path / "film.mp4")


def change_size(path: Path) -> None:
    """30 frames of 64x64, then 30 of 96x96."""
    repeat = x264("keyint=10:bframes=0:repeat-headers=1")
    first = encode(path.with_suffix(".one.mp4"), "libx264", repeat, num_frames=30)
    second = encode(path.with_suffix(".two.mp4"), "libx264", repeat, num_frames=30, size=96)
    join(path, [packets(first), packets(second)], first)


def test_another_size_within_a_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    change_size(path)
    with VideoReader(path) as reader:
        assert reader.frames(range(30)).shape == (30, 64, 64, 3)
        for wanted in ([12, 41], [59], range(60)):
            with pytest.raises(
                InputError, match=r"film\.mp4: frame \d+ is 96x96, the first one 64x64; write"
            ) as caught:
                reader.frames(wanted)
            assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match="frame 30 is 96x96"):
            list(reader.windows(range(0, 50, 5), range(10)))
        assert reader.frames([7]).shape == (1, 64, 64, 3)  # what is whole is still read


def test_a_writer_may_be_finished_within_its_own_block(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "film.mp4", size=64) as writer:
        for index in range(9):
            writer.append(picture(index))
        writer.finish()
        assert len(VideoIndex.read(tmp_path / "film.mp4")) == 9
        writer.finish()
        with pytest.raises(ValueError, match=r"film\.mp4: is finished"):
            writer.append(picture(9))
    writer.close()
    assert len(decode_from_start(tmp_path / "film.mp4")) == 9


def test_a_full_disk_names_the_film(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught, VideoWriter(path, size=64) as writer:
        for index in range(9):
            writer.append(picture(index))
    assert caught.value.filename == str(path)
