"""Exact frames from any mp4: the same bits as decoding it from its start."""

from __future__ import annotations

import multiprocessing
import pickle
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest

from foreframe.data.raw import RawDataset
from foreframe.data.video import (
    VideoIndex,
    VideoReader,
    VideoWriter,
    downsample,
    iterate_frames,
    iterate_windows,
)
from foreframe.data.writer import RawShardWriter, write_metadata
from foreframe.errors import InputError

NUM_FRAMES = 260
ENCODINGS = {
    f"gop{gop}_b{b_frames}_from{first}": ({"g": str(gop), "bf": str(b_frames)}, first)
    for gop in (12, 30, 250)
    for b_frames in (0, 3)
    for first in (0, 17)
} | {
    "gop30_cut_by_an_edit_list": ({"g": "30"}, -10),
    "pyramid": ({"g": "60", "x264-params": "asm=0:bframes=3:b-adapt=0:b-pyramid=normal"}, 0),
    "open_gop": ({"g": "24", "x264-params": "asm=0:open-gop=1:bframes=5:b-pyramid=normal"}, 5),
    "many_b_frames": ({"g": "250", "x264-params": "asm=0:bframes=16:b-adapt=0"}, 0),
    "intra": ({"g": "1"}, 0),
    "gop2": ({"g": "2"}, 2),
}
"""x264 options and the first time stamp."""
STRIDE4 = np.array([*range(0, 77, 4), 76])


@cache
def noisy_picture(index: int) -> np.ndarray:
    y, x = np.mgrid[:64, :64]
    picture = (np.sin(x / 9 + index / 5) + np.cos(y / 13 - index / 7)) * 50 + 120
    return (picture[..., None] + np.random.default_rng(index).uniform(-9, 9, (64, 64, 3))).astype(np.uint8)


def encode(
    path: Path,
    options: dict[str, str],
    first_pts: int,
    container: dict[str, str] | None = None,
    num_frames: int = NUM_FRAMES,
    hz: int = 30,
) -> None:
    output = av.open(str(path), "w", options=container or {})
    stream = output.add_stream("libx264", rate=hz, options={"x264-params": "asm=0", **options})
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    for index in range(num_frames):
        frame = av.VideoFrame.from_ndarray(noisy_picture(index % NUM_FRAMES), format="rgb24")
        frame.pts, frame.time_base = first_pts + index, Fraction(1, hz)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
    output.close()


def decode_from_start(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module", params=list(ENCODINGS))
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / f"{request.param}.mp4"
    encode(path, *ENCODINGS[request.param])
    return path


def test_any_order_equals_decoding_from_the_start(video: Path) -> None:
    truth = decode_from_start(video)
    assert len(truth) == (NUM_FRAMES if "edit" not in video.name else NUM_FRAMES - 10)
    assert len(VideoIndex.read(video)) == len(truth)
    generator = np.random.default_rng(0)
    with VideoReader(video) as reader:
        assert len(reader) == len(truth)
        for _ in range(25):
            indices = generator.integers(0, len(truth), generator.integers(1, 6))
            assert np.array_equal(reader.frames(indices), truth[indices])
        clip = 40 + STRIDE4
        assert np.array_equal(reader.frames(clip), truth[clip])
        assert np.array_equal(reader.frames(clip[::-1]), truth[clip[::-1]])
        assert np.array_equal(reader.frames([len(truth) - 1, 0]), truth[[-1, 0]])
        assert np.array_equal(reader.frames(range(len(truth))), truth)


def test_reading_forward_never_jumps(video: Path) -> None:
    truth = decode_from_start(video)
    with VideoReader(video) as reader:
        for index in range(len(truth)):
            assert np.array_equal(reader.frames([index])[0], truth[index])
        assert reader.num_seeks == 0
        assert len(truth) <= reader.num_decoded <= NUM_FRAMES
        reader.frames([0])
        for index in range(0, len(truth), 4):
            reader.frames([index])
        assert reader.num_seeks <= 2  # back to the start, and once more because 0 was read twice
    assert all(np.array_equal(*pair) for pair in zip(iterate_frames(video), truth, strict=True))


WINDOWS = {
    "overlapping": (range(0, 170, 8), STRIDE4),
    "every_start": (range(100, 130), range(30)),
    "side_by_side": (range(3, 170, 77), range(77)),
    "apart": ([2, 90, 91, 240], [0, 1, 2]),
    "any_order_and_repeats": ([5, 5, 20, 60], [9, 0, 9, 30, 4]),
    "before_and_after": ([40, 50], [-30, 3, 60]),
    "one_frame": ([249], [0]),
    "none": ([], [0]),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_decode_each_picture_at_most_once(video: Path, name: str) -> None:
    truth = decode_from_start(video)
    starts, offsets = WINDOWS[name]
    wanted = [truth[start + np.array(offsets)] for start in starts]
    with VideoReader(video) as reader:
        assert all(np.array_equal(*pair) for pair in zip(reader.windows(starts, offsets), wanted, strict=True))
        assert reader.num_decoded <= NUM_FRAMES
        read_since = reader.frames([8, 7, 200])  # whatever was left out is there when asked for
        assert np.array_equal(read_since, truth[[8, 7, 200]])
    small = [np.stack([downsample(frame, 16, where="") for frame in window]) for window in wanted]
    found = iterate_windows(video, starts, offsets, size=16, index=reader.index)
    assert all(np.array_equal(*pair) for pair in zip(found, small, strict=True))


def test_windows_and_frames_in_turns(video: Path) -> None:
    truth = decode_from_start(video)
    generator = np.random.default_rng(1)
    with VideoReader(video) as reader:
        for start, window in zip(range(0, 170, 11), reader.windows(range(0, 170, 11), STRIDE4), strict=True):
            assert np.array_equal(window, truth[start + STRIDE4])
            window[:] = 0  # belongs to the caller
            for index in (start + 77, int(generator.integers(0, len(truth)))):
                assert np.array_equal(reader.frames([index])[0], truth[index])
        assert reader._passes_over  # what had been left out was known, not found missing


def test_random_windows_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    encode(path, {"g": "30"}, 17, num_frames=3000)
    truth, generator = decode_from_start(path), np.random.default_rng(2)
    with VideoReader(path) as reader:
        assert len(reader) == len(truth) == 3000
        for start in generator.integers(0, 3000 - 76, 40):
            assert np.array_equal(reader.frames(start + STRIDE4), truth[start + STRIDE4])
        starts = np.sort(generator.integers(0, 3000 - 76, 40))
        windows = reader.windows(starts, STRIDE4)
        assert all(np.array_equal(w, truth[start + STRIDE4]) for start, w in zip(starts, windows, strict=True))
    with VideoReader(path) as reader:
        for _ in reader.windows([5, 2900], STRIDE4):
            pass
        assert reader.num_seeks == 1
        assert reader.num_decoded < 200


def test_pictures_that_nothing_needs_are_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    encode(path, *ENCODINGS["pyramid"])
    clip = 60 + STRIDE4
    with VideoReader(path) as reader:
        frames = reader.frames(clip)
        assert len(STRIDE4) <= reader.num_decoded <= 50  # half of all are B-frames that no other refers to
    with VideoReader(path) as reader:
        assert np.array_equal(reader.frames(range(60, 137))[clip - 60], frames)
        assert reader.num_decoded >= 77
    with VideoReader(path) as reader:
        for _ in reader.windows(range(0, 180, 8), STRIDE4):
            pass
        assert reader.num_decoded <= 150
        assert reader.num_seeks == 0


def test_a_picture_lost_by_leaving_others_out_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "video.mp4"
    encode(path, *ENCODINGS["pyramid"])
    truth = decode_from_start(path)
    with VideoReader(path) as reader:
        look = reader._picture
        monkeypatch.setattr(reader, "_picture", lambda index: None if reader._passes_over else look(index))
        assert np.array_equal(reader.frames(STRIDE4), truth[STRIDE4])


def test_windows_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    encode(path, *ENCODINGS["gop30_b3_from0"])
    with VideoReader(path) as reader:
        with pytest.raises(ValueError, match="window start 3 comes after 9; starts must increase"):
            reader.windows([9, 3], [0])
        with pytest.raises(ValueError, match="at least one frame offset"):
            reader.windows([9, 3], [])
        for starts, offsets, wrong in (([0, 200], range(77), 276), ([3, 9], [-5, 0], -2)):
            with pytest.raises(InputError, match=rf"video\.mp4: has no frame {wrong}, only 0\.\.259"):
                reader.windows(starts, offsets)
        assert reader.num_decoded == 0


def test_a_reader_works_on_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    encode(path, *ENCODINGS["gop12_b3_from17"], container={"movflags": "faststart"})
    truth, content = decode_from_start(path), bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    with VideoReader(path) as reader:
        with pytest.raises(InputError, match=r"video\.mp4: frame \d+ cannot be decoded"):
            reader.frames(range(260))
        with pytest.raises(InputError, match=r"video\.mp4: frame \d+ cannot be decoded"):
            list(reader.windows(range(0, 180, 8), range(77)))
        for index in (259, 3, 4, 250):
            assert np.array_equal(reader.frames([index])[0], truth[index])
        assert all(
            np.array_equal(window, truth[start : start + 20])
            for start, window in zip((0, 8, 230), reader.windows([0, 8, 230], range(20)), strict=True)
        )


@pytest.mark.parametrize(("num_frames", "first", "hz"), [(1, 0, 30), (2, 9, 30), (7, 0, 10)])
def test_short_files_and_what_the_index_tells(tmp_path: Path, num_frames: int, first: int, hz: int) -> None:
    path = tmp_path / "video.mp4"
    encode(path, {}, first, num_frames=num_frames, hz=hz)
    truth, index = decode_from_start(path), VideoIndex.read(path)
    assert (len(index), index.hz, index.width, index.height) == (num_frames, hz, 64, 64)
    with VideoReader(path, index=index) as reader:
        assert np.array_equal(reader.frames(range(num_frames)), truth)
        assert np.array_equal(reader.frames([num_frames - 1, 0]), truth[[-1, 0]])
    assert [len(window) for window in iterate_windows(path, range(num_frames), [0])] == [1] * num_frames


def test_a_known_index_saves_reading_it(video: Path) -> None:
    index = VideoIndex.read(video)
    with VideoReader(video, index=index) as reader:
        assert reader.index is index
        assert reader.frames([]).shape[0] == 0


def test_frames_that_do_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    encode(path, *ENCODINGS["gop30_b3_from0"])
    with VideoReader(path) as reader:
        for wrong in (NUM_FRAMES, -1):
            with pytest.raises(InputError, match=rf"video\.mp4: has no frame {wrong}, only 0\.\.259"):
                reader.frames([5, wrong])


def test_files_that_are_not_videos(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    for content in (None, b"", b"hello" * 1000):
        if content is not None:
            path.write_bytes(content)
        for look in (VideoReader, VideoIndex.read, lambda path: next(iterate_frames(path))):
            with pytest.raises(InputError, match=r"video\.mp4: ") as caught:
                look(path)
            assert "\n" not in str(caught.value)
    encode(tmp_path / "video.ts", *ENCODINGS["gop30_b3_from0"])
    (tmp_path / "video.ts").rename(path)
    with pytest.raises(InputError, match=r"video\.mp4: is mpegts, not mp4"):
        VideoReader(path)
    encode(path, *ENCODINGS["gop30_b3_from0"])
    path.write_bytes(path.read_bytes()[:-5000])  # the index lies at the end
    with pytest.raises(InputError, match=r"video\.mp4: cannot be opened"):
        VideoReader(path)


def test_truncated_files_name_the_frame(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    encode(path, *ENCODINGS["gop30_b3_from0"], container={"movflags": "faststart"})
    content = path.read_bytes()
    for share in (0.5, 0.8, 0.999):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(InputError, match=r"video\.mp4: ends inside frame \d+; the file is truncated"):
            VideoReader(path)


def test_damage_spoils_what_builds_on_it_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    encode(path, *ENCODINGS["gop12_b0_from0"], container={"movflags": "faststart"})
    content, truth = path.read_bytes(), decode_from_start(path)
    for seed in range(12):
        generator = np.random.default_rng(seed)
        broken = bytearray(content)
        place = int(len(content) * generator.uniform(0.2, 0.9))
        size = int(generator.choice([1, 10, 100, 600]))
        broken[place : place + size] = generator.bytes(size)
        path.write_bytes(broken)
        faults = []
        with VideoReader(path) as reader:
            for index in range(len(truth)):
                try:
                    reader.frames([index])
                except InputError as error:
                    assert f"{path}: frame {index} cannot be decoded" in str(error)
                    assert "\n" not in str(error)
                    faults.append(index)
            starts = [reader.index.first_shown(keyframe) for keyframe in range(len(reader.index.keyframe_pts))]
            if not faults:  # a few bytes may well make another legal picture
                assert size <= 10
                continue
            for start, end in zip(starts, [*starts[1:], len(truth)], strict=True):
                spoilt = [index for index in faults if start <= index < end]
                assert spoilt == (list(range(spoilt[0], end)) if spoilt else [])
            before = starts[np.searchsorted(starts, faults[0], side="right") - 1]
            for index in (0, before - 1, len(truth) - 1):
                assert np.array_equal(reader.frames([index])[0], truth[index])


def test_downsample_is_the_rounded_mean_of_boxes() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    naive = np.empty((16, 16, 3), np.uint8)
    for y in range(16):
        for x in range(16):
            box = frame[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].reshape(16, 3).astype(float)
            naive[y, x] = np.floor(box.mean(0) + 0.5)
    assert np.array_equal(downsample(frame, 16, where=""), naive)
    assert downsample(frame, 64, where="") is frame
    for size in (48, 128, 0, -2):
        with pytest.raises(InputError, match=f"video: frames of 64x64 cannot be box-downsampled to {size}x{size}"):
            downsample(frame, size, where="video")
    with pytest.raises(InputError, match="frames of 32x64 are not read, only square ones"):
        downsample(frame[:, :32], 16, where="video")


def test_colours_survive(tmp_path: Path) -> None:
    colours = np.array([(200, 30, 30), (20, 200, 30), (30, 40, 210), (250, 250, 5)], np.uint8)
    with VideoWriter(tmp_path / "video.mp4", size=64) as writer:
        for colour in colours:
            writer.append(np.broadcast_to(colour, (64, 64, 3)))
    for frame, colour in zip(iterate_frames(tmp_path / "video.mp4", size=16), colours, strict=True):
        assert frame.shape == (16, 16, 3)
        assert np.abs(frame.astype(int) - colour).max() <= 6


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    for shard in range(2):
        with RawShardWriter(root, shard, style="flat", size=64, crf=1) as writer:
            for index in range(60):
                writer.append(noisy_picture(index + 100 * shard), np.zeros(25, np.float32), segment=0)
    write_metadata(root, num_shards=2, num_images=120)
    return root


def read_in_child(data: RawDataset, queue: multiprocessing.Queue) -> None:
    queue.put([data.frames(1, [index]).sum() for index in range(60)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dataset_goes_into_worker_processes(raw: Path, method: str) -> None:
    truth = [RawDataset(raw).frames(1, [index]).sum() for index in range(60)]
    data = RawDataset(raw)
    data.frames(1, [0])  # the file is open when the child starts: a fork must not move its read position
    assert (raw / "video_1.mp4").stat().st_size > 2 * 32768  # FFmpeg's buffer holds only part of it
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(data, queue), daemon=True)
    child.start()
    assert queue.get(timeout=30) == truth
    child.join()
    assert [data.frames(1, [index]).sum() for index in range(60)] == truth


def test_pickled_dataset_keeps_its_indices(raw: Path) -> None:
    data = RawDataset(raw)
    frames = data.frames(0, [7, 3], size=32)
    assert frames.shape == (2, 32, 32, 3)
    again = pickle.loads(pickle.dumps(data))
    assert np.array_equal(again.video_index(0).pts, data.video_index(0).pts)
    assert np.array_equal(again.frames(0, [7, 3], size=32), frames)


def test_few_decoders_stay_open(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foreframe.data.raw.MAX_OPEN_VIDEOS", 1)
    data = RawDataset(raw)
    first = [data.frames(shard, [index]) for index in (5, 40, 2) for shard in (0, 1)]
    monkeypatch.undo()
    data = RawDataset(raw)
    assert all(np.array_equal(data.frames(shard, [index]), first.pop(0)) for index in (5, 40, 2) for shard in (0, 1))


def test_video_with_another_number_of_frames(raw: Path, tmp_path: Path) -> None:
    for path in raw.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    encode(tmp_path / "video_1.mp4", *ENCODINGS["gop30_b3_from0"])
    data = RawDataset(tmp_path)
    assert data.frames(0, [59]).shape == (1, 64, 64, 3)
    with pytest.raises(InputError, match=r"video_1\.mp4: has 260 frames, metadata_1\.json says 60") as caught:
        data.frames(1, [0])
    assert "\n" not in str(caught.value)
