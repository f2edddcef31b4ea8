"""The check of a folder of latents: its `encoding.json`, its files' sizes, and every record in them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from foreframe.data.check.inventory import check_file, is_beside, listed, read_json, whole_number
from foreframe.data.check.rows import where_channel
from foreframe.data.latents import record_type, shard_file
from foreframe.data.layout import FETCH_AGAIN

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from foreframe.data.check.findings import Report

_CLIPS = re.compile(r"clips_(0|[1-9]\d{0,8})\.bin")
_AT_ONCE = 1 << 24
"""Bytes read at once."""
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_MOST_BYTES = 1 << 34
_ENCODE_AGAIN = "fetch the file again, or encode the video again"


def is_latents(root: Path, encoding: dict[str, Any] | None) -> bool:
    """Whether a folder holds latents, by its `encoding.json` or, where that says nothing, by its files."""
    if encoding is not None and "kind" in encoding:
        return encoding["kind"] == "latents"
    return any(_CLIPS.fullmatch(name) for name, _ in listed(root))


def check_latents(root: Path, encoding: dict[str, Any] | None, report: Report) -> None:
    """Look at a folder of latents; `encoding` is its `encoding.json` if that can be read."""
    held: dict[int, int] = {}
    names = listed(root, report, ".")
    for name, _ in names:
        if match := _CLIPS.fullmatch(name):
            size = check_file(root, name, report, may_be_empty=True)
            if size is not None:
                held[int(match[1])] = size
        elif not is_beside(name):
            report.add("file-extra", name, "", "is not part of a folder of latents; move it elsewhere")
    if encoding is None:
        if all(name != "encoding.json" for name, _ in names):
            report.add(
                "file-missing", "encoding.json", "", f"is missing, and says what the latents are; {_ENCODE_AGAIN}"
            )
        return
    clips = _clips(encoding, report)
    _check_metadata(root, clips, report)
    record = _record(encoding, report)
    if clips is None:
        return
    present = {int(match[1]) for name, _ in names if (match := _CLIPS.fullmatch(name))}
    for shard in sorted(present - set(clips)):
        report.add("file-extra", f"clips_{shard}.bin", "", "is not counted in encoding.json; move it elsewhere")
    for shard, count in clips.items():
        name = f"clips_{shard}.bin"
        if shard not in present:
            report.add(
                "file-missing", name, "", f"is missing though encoding.json counts {count} clips; {_ENCODE_AGAIN}"
            )
        elif record is not None and shard in held:
            size, expected = held[shard], count * record.itemsize
            if size != expected:
                whole = min(size // record.itemsize, count)
                report.add(
                    "latents-size",
                    name,
                    f"clip {whole} (byte {whole * record.itemsize})",
                    f"has {size} bytes, {count} clips of {record.itemsize} are {expected}; {_ENCODE_AGAIN}",
                )
                count = whole
            if count:
                _check_records(root, shard, count, record, str(encoding["dtype"]), report)


def _clips(encoding: dict[str, Any], report: Report) -> dict[int, int] | None:
    """Clips of each shard, as stated."""
    stated: object = encoding.get("clips")
    if "clips" not in encoding:
        return None  # told already
    if isinstance(stated, dict):
        counts = cast("dict[str, object]", stated)
        named = all(re.fullmatch(r"0|[1-9]\d{0,8}", key) for key in counts)
        if named and all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 40 for n in counts.values()):
            return {int(key): cast("int", number) for key, number in counts.items()}
    report.add(
        "metadata-invalid",
        "encoding.json",
        "clips",
        f"is {repr(stated)[:60]}, expected the number of clips by shard; {_ENCODE_AGAIN}",
    )
    return None


def _record(encoding: dict[str, Any], report: Report) -> np.dtype[np.void] | None:
    shape: object = encoding.get("latent_shape")
    dtype: object = encoding.get("dtype")
    rows: object = encoding.get("num_states")
    if any(key not in encoding for key in ("latent_shape", "dtype", "num_states")):
        return None  # told already
    sides = cast("list[object]", shape) if isinstance(shape, list) else []
    good = len(sides) == 4 and all(type(side) is int and 0 < side < 1 << 20 for side in sides)
    wrong = {
        "latent_shape": (good, shape, "[C, F, h, w]"),
        "dtype": (isinstance(dtype, str) and dtype in _BYTES, dtype, "bfloat16, float16 or float32"),
        "num_states": (type(rows) is int and 0 < rows < 1 << 20, rows, "a whole number of state rows"),
    }
    for key, (fine, value, expected) in wrong.items():
        if not fine:
            said = f"is {repr(value)[:60]}, expected {expected}; {_ENCODE_AGAIN}"
            report.add("metadata-invalid", "encoding.json", key, said)
    if not all(fine for fine, _, _ in wrong.values()):
        return None
    whole = [side for side in sides if isinstance(side, int)]
    if np.prod([float(side) for side in whole]) * 4 > _MOST_BYTES:
        said = f"is {whole}, which no clip's latents are; {_ENCODE_AGAIN}"
        report.add("metadata-invalid", "encoding.json", "latent_shape", said)
        return None
    assert isinstance(rows, int)
    return record_type(whole, num_states=rows, dtype=cast("Literal['bfloat16', 'float16', 'float32']", dtype))


def _check_metadata(root: Path, clips: dict[int, int] | None, report: Report) -> None:
    """`metadata.json` beside latents: the shards of their source that are in them."""
    if all(name != "metadata.json" for name, _ in listed(root)):
        report.add("file-missing", "metadata.json", "", f"is missing; {_ENCODE_AGAIN}")
        return
    content = read_json(root, "metadata.json", report)
    if content is None:
        return
    stated = whole_number(content, "num_shards", "metadata.json", report, least=1)
    if stated is not None and clips is not None and stated != len(clips):
        report.add(
            "metadata-mismatch",
            "metadata.json",
            "num_shards",
            f"is {stated} but encoding.json counts the clips of {len(clips)} shards; {_ENCODE_AGAIN}",
        )


def _check_records(root: Path, shard: int, count: int, record: np.dtype[np.void], dtype: str, report: Report) -> None:
    """Look at the first `count` records of a file, a few at a time."""
    path = shard_file(root, shard)
    name = path.name
    start_before, segment_before = -1, -1
    step = max(1, _AT_ONCE // record.itemsize)
    for first in range(0, count, step):
        with path.open("rb") as file:
            file.seek(first * record.itemsize)
            records = np.frombuffer(file.read(min(step, count - first) * record.itemsize), dtype=record)
        for offset in range(len(records)):
            clip = first + offset
            where = f"clip {clip} (byte {clip * record.itemsize})"
            start, segment = int(records["start"][offset]), int(records["segment"][offset])
            if start < 0 or segment < 0:
                said = f"starts at frame {start} of recording {segment}, which is negative; {_ENCODE_AGAIN}"
                report.add("latents-address", name, where, said)
            elif start <= start_before or segment < segment_before:
                said = (
                    f"starts at frame {start} of recording {segment} after one at {start_before} of {segment_before}; "
                    f"clips follow each other: {_ENCODE_AGAIN}"
                )
                report.add("latents-address", name, where, said)
            start_before, segment_before = start, segment
        _check_values(records, first, record, dtype, name, report)


def _check_values(
    records: npt.NDArray[np.void], first: int, record: np.dtype[np.void], dtype: str, name: str, report: Report
) -> None:
    finite = np.isfinite(records["states"])
    for clip, row, channel in np.argwhere(~finite)[:1000].tolist():
        report.add(
            "states-not-finite",
            name,
            f"clip {first + clip} (byte {(first + clip) * record.itemsize}), row {row}, {where_channel(channel)}",
            f"is {float(records['states'][clip, row, channel])}; {FETCH_AGAIN}",
        )
    for clip in np.flatnonzero((records["states_valid"] > 1).any(axis=1)).tolist():
        row = int((records["states_valid"][clip] > 1).argmax())
        report.add(
            "latents-valid",
            name,
            f"clip {first + clip} (byte {(first + clip) * record.itemsize}), row {row}",
            f"has states_valid {int(records['states_valid'][clip, row])}, expected 0 or 1; {_ENCODE_AGAIN}",
        )
    latents = records["latents"]
    # An exponent of nothing but ones is infinity or no number.
    wrong = (latents & 0x7F80) == 0x7F80 if dtype == "bfloat16" else ~np.isfinite(latents)
    for clip in np.flatnonzero(wrong.reshape(len(records), -1).any(axis=1)).tolist():
        at = np.unravel_index(int(wrong[clip].argmax()), wrong.shape[1:])
        report.add(
            "latents-not-finite",
            name,
            f"clip {first + clip} (byte {(first + clip) * record.itemsize}), latent {tuple(map(int, at))}",
            f"is infinite or no number (so are {int(wrong[clip].sum())} of the clip); {_ENCODE_AGAIN}",
        )
