"""Turns saved predictions into what the page's players draw: one sprite sheet of frames, or of a map, per panel."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from foreframe.errors import InputError
from foreframe.files import parse_json, shortened
from foreframe.report.archive import read_archive
from foreframe.report.runs import spoken

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Frames = npt.NDArray[np.uint8]

MAX_CLIPS = 24
"""Clips a page shows in all; the rest is named, not drawn."""

MAX_FRAMES = 1024
"""Frames of a video that is drawn: more do not fit into one sheet."""

LADDER = ((88, 256), (80, 192), (70, 128), (55, 96))
"""(WebP quality, longest side in pixels) tried in turn until a clip fits its share of the page."""

COLUMNS = 24
"""Frames in a row of a sheet: 24 x 256 stays far below WebP's limit of 16,383 pixels."""

NUM_ERROR_LEVELS = 64
"""Colours of the error map: one for each grey level of difference, the last for that many minus one or more."""

ERROR_STOPS = ("#000004", "#1c1044", "#4f127b", "#812581", "#b5367a", "#e55064", "#fb8761", "#fec287", "#fcfdbf")
"""Colours of the error map at equal distances from none to the last level; dark to light, readable without hue."""


WHAT_IF = "what_if_"
"""How the names of arrays begin whose future starts alike and is given other states than the recorded ones."""

LABELS = {"spread": "spread of the ensemble"}
"""What panels are called whose name in words would say too little."""


@dataclass(frozen=True, kw_only=True)
class SavedClip:
    """One file of RUN/predictions, checked."""

    name: str
    context: Frames
    truth: Frames
    panels: dict[str, Frames]
    """`prediction`, then `sample`, each `baseline_*` and `reconstruction` where saved; all shaped like `truth`."""
    spread: Frames | None
    """(T, H, W): how far the members of an ensemble lie apart, their standard deviation in grey levels."""
    what_ifs: dict[str, Frames]
    """Each `what_if_*` in the order they were saved, shaped like `truth`, which says nothing about them."""
    labels: dict[str, str]
    """Words of the file's own for panels, by key."""
    seconds: tuple[float, ...]
    """When each future frame is, the first frame after the context being at 0; empty where only the rate is known."""
    meta: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Frames side by side in one picture, row by row."""

    uri: str
    columns: int


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture of a player."""

    key: str
    label: str
    origin: str
    """What its future frames are: `recorded`, `predicted` (marked as such), `from the truth`, `of the prediction`."""
    is_map: bool
    """Whether it shows grey levels in the colours of `ERROR_STOPS`, and nothing while the context plays."""
    sheet: Sheet
    """The future frames; the context is shared by all panels."""
    errors: tuple[float, ...] | None
    """Mean absolute difference from the truth in grey levels, a value per future frame; None where there is none."""
    trace: str
    """`errors` as a polyline over the whole clip, in a box of 1000 x 100; empty where one frame makes no line."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A player."""

    facts: tuple[str, ...]
    psnr: float | None
    chosen: str
    width: int
    height: int
    recorded: str
    """The size of the saved frames, where the page shows smaller ones; else nothing."""
    context: Sheet
    panels: tuple[Panel, ...]
    what_ifs: tuple[Panel, ...]
    """A second row: the same start, given other states."""
    data: dict[str, Any]
    """What the player reads: counts, frame rate, times, size and errors."""

    @property
    def now(self) -> float:
        """Where the future begins on the timeline, in per cent."""
        context, count = self.data["context"], self.data["context"] + self.data["future"]
        return round(100 * (context - 0.5) / (count - 1), 3)

    @property
    def has_sample(self) -> bool:
        """Whether a member of the ensemble is shown beside the ensemble's mean."""
        return any(panel.key == "sample" for panel in self.panels)

    @property
    def has_spread(self) -> bool:
        """Whether it is shown how far the members of the ensemble lie apart."""
        return any(panel.key == "spread" for panel in self.panels)

    @property
    def columns(self) -> int:
        """Panels side by side on a wide screen, so that no row is left with a single one."""
        count = len(self.panels)
        return count if count <= 5 else 3 if count in (6, 9) else 4

    @property
    def num_bytes(self) -> int:
        """Size of the pictures inside the page."""
        return len(self.context.uri) + sum(len(panel.sheet.uri) for panel in (*self.panels, *self.what_ifs))


def read_clip(path: Path) -> SavedClip:
    """The arrays of one saved clip; raises `InputError` naming the file and the array that does not fit."""
    again = "run `foreframe evaluate` again"
    try:
        arrays: dict[str, npt.NDArray[Any]] = read_archive(path, wanted=_is_known)
        meta = parse_json(str(arrays.pop("meta", "{}")))
    except InputError as error:
        raise InputError(f"{error}; {again}") from error
    except ValueError as error:
        raise InputError(f"{path}: meta cannot be read as JSON ({shortened(error)}); {again}") from error
    if not isinstance(meta, dict):
        raise InputError(f"{path}: meta must be a JSON object; {again}")
    for name in ("context", "truth", "prediction"):
        if name not in arrays:
            raise InputError(f"{path}: array {name} is missing; {again}")
    what_ifs = [name for name in arrays if name.startswith(WHAT_IF)]
    baselines = sorted(name for name in arrays if name.startswith("baseline_"))
    names = [name for name in ("prediction", "sample", *baselines, "reconstruction") if name in arrays]
    maps = ["spread"] if "spread" in arrays else []
    for name in ("truth", "context", *names, *maps, *what_ifs):
        problem = _misfit(name, arrays[name], arrays["truth"])
        if problem:
            raise InputError(f"{path}: {problem}; {again}")
    try:
        labels, seconds = _labels(meta), _seconds(meta, len(arrays["truth"]))
    except ValueError as error:
        raise InputError(f"{path}: {error}; {again}") from error
    return SavedClip(
        name=path.stem,
        context=arrays["context"],
        truth=arrays["truth"],
        panels={name: arrays[name] for name in names},
        spread=arrays.get("spread"),
        what_ifs={name: arrays[name] for name in what_ifs},
        labels=labels,
        seconds=seconds,
        meta=meta,
    )


def _is_known(name: str) -> bool:
    """Whether an array of that name is drawn, or says something about the others; the rest is not unpacked."""
    known = ("meta", "context", "truth", "prediction", "sample", "reconstruction", "spread")
    return name in known or name.startswith((WHAT_IF, "baseline_"))


def _misfit(name: str, array: npt.NDArray[Any], truth: npt.NDArray[Any]) -> str:
    """What is wrong with an array, or nothing."""
    axes = "(frames, height, width)" if name == "spread" else "(frames, height, width, 3)"
    num_axes = axes.count(",") + 1
    if array.dtype != np.uint8 or array.ndim != num_axes or 0 in array.shape or array.shape[3:] not in ((), (3,)):
        return f"{name} is {array.dtype} {tuple(array.shape)}, must be uint8 {axes}"
    if len(array) > MAX_FRAMES:
        return f"{name} has {len(array)} frames, more than the {MAX_FRAMES} that a page draws"
    expected = array.shape[:1] + truth.shape[1:] if name == "context" else truth.shape
    if array.shape != expected[:num_axes]:
        return f"{name} has shape {array.shape}, truth has {truth.shape}"
    return ""


def _labels(meta: dict[str, Any]) -> dict[str, str]:
    labels = meta.get("labels", {})
    if not isinstance(labels, dict) or not all(
        isinstance(text, str) and text.strip() and len(text) <= 200 for text in labels.values()
    ):
        raise ValueError("labels in meta must be an object of texts by panel")
    return labels


def _seconds(meta: dict[str, Any], num_future: int) -> tuple[float, ...]:
    """The times in meta; one number will do for a single frame."""
    if meta.get("seconds") is None:
        return ()
    seconds = meta["seconds"] if isinstance(meta["seconds"], list) else [meta["seconds"]]
    numbers = [float(value) for value in seconds if isinstance(value, int | float) and math.isfinite(value)]
    if len(numbers) != len(seconds) or len(numbers) != num_future or numbers != sorted(numbers):
        raise ValueError(f"seconds in meta must be {num_future} rising times, one for each future frame")
    return tuple(numbers)


def draw_clips(paths: Sequence[Path], *, max_bytes: int) -> list[Clip]:
    """A player for every file, each within its equal share of `max_bytes` as far as the ladder reaches.

    A clip starts on the rung where the one before it fitted, so that they look alike and a long list stays quick.
    """
    share = max_bytes // max(len(paths), 1)
    clips: list[Clip] = []
    rung = 0
    for path in paths:
        saved = read_clip(path)
        clip = draw_clip(saved, quality=LADDER[rung][0], side=LADDER[rung][1])
        while clip.num_bytes > share and rung + 1 < len(LADDER):
            rung += 1
            clip = draw_clip(saved, quality=LADDER[rung][0], side=LADDER[rung][1])
        clips.append(clip)
    return clips


def draw_clip(saved: SavedClip, *, quality: int, side: int) -> Clip:
    """The player of one clip, frames shrunk to `side` pixels where they are larger."""
    num_context, num_future = len(saved.context), len(saved.truth)
    height, width = saved.truth.shape[1:3]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    maps = {name: difference(frames, saved.truth) for name, frames in saved.panels.items()}
    errors = {name: tuple(round(float(frame.mean()), 2) for frame in stack) for name, stack in maps.items()}
    top = max(max(max(values) for values in errors.values()), 1.0)

    def trace(name: str) -> str:
        count = num_context + num_future - 1
        points = [(1000 * (num_context + i) / count, 96 - 92 * e / top) for i, e in enumerate(errors[name])]
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)

    def panel(key: str, sheet: Sheet, origin: str, *, is_map: bool = False) -> Panel:
        return Panel(
            key=key,
            label=saved.labels.get(key) or LABELS.get(key) or _label(key),
            origin=origin,
            is_map=is_map,
            sheet=sheet,
            errors=errors.get(key),
            trace=trace(key) if key in errors and num_future > 1 else "",
        )

    panels = [panel("truth", webp_sheet(saved.truth, size, quality), "recorded")]
    for name, frames in saved.panels.items():
        origin = "from the truth" if name == "reconstruction" else "predicted"
        panels.append(panel(name, webp_sheet(frames, size, quality), origin))
    panels.insert(2, panel("error", map_sheet(maps["prediction"], size), "of the prediction", is_map=True))
    if saved.spread is not None:
        heat = map_sheet(saved.spread.astype(np.float32), size)
        place = 4 if "sample" in saved.panels else 3
        panels.insert(place, panel("spread", heat, "of the prediction", is_map=True))
    what_ifs = [panel(name, webp_sheet(frames, size, quality), "predicted") for name, frames in saved.what_ifs.items()]

    meta, psnr = saved.meta, saved.meta.get("psnr")
    words = {"shard": "shard", "start": "first frame", "segment": "recording"}
    fps = meta.get("fps")
    return Clip(
        facts=tuple(f"{word} {meta[key]}" for key, word in words.items() if key in meta) or (saved.name,),
        psnr=float(psnr) if isinstance(psnr, int | float) else None,
        chosen=str(meta.get("chosen") or ""),
        width=size[0],
        height=size[1],
        recorded=f"{width} × {height}" if size != (width, height) else "",  # noqa: RUF001
        context=webp_sheet(saved.context, size, quality),
        panels=tuple(panels),
        what_ifs=tuple(what_ifs),
        data={
            "context": num_context,
            "future": num_future,
            "fps": float(fps) if isinstance(fps, int | float) and 0 < fps < math.inf else 30.0,
            "width": size[0],
            "height": size[1],
            "seconds": saved.seconds,
            "errors": errors,
        },
    )


def difference(frames: Frames, truth: Frames) -> npt.NDArray[np.float32]:
    """Absolute difference in grey levels, mean over the colour channels: (T, H, W)."""
    return np.abs(frames.astype(np.int16) - truth.astype(np.int16)).mean(axis=3, dtype=np.float32)


def webp_sheet(frames: Frames, size: tuple[int, int], quality: int) -> Sheet:
    """Frames (T, H, W, 3) as a lossy sheet whose cells have `size` (width, height)."""
    pictures = [Image.fromarray(frame) for frame in frames]
    if pictures[0].size != size:
        pictures = [picture.resize(size, Image.Resampling.LANCZOS) for picture in pictures]
    return _sheet(pictures, "WEBP", quality=quality, method=4)


def map_sheet(maps: npt.NDArray[np.float32], size: tuple[int, int]) -> Sheet:
    """Errors or spreads (T, H, W) as a lossless sheet: the palette's index is the value in grey levels."""
    pictures = []
    for values in maps:
        picture = Image.fromarray(values)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BOX)
        levels = np.minimum(np.rint(np.asarray(picture)), NUM_ERROR_LEVELS - 1).astype(np.uint8)
        pictures.append(Image.fromarray(levels))
    return _sheet(pictures, "PNG", palette=error_palette(), optimize=True)


def error_palette() -> list[int]:
    """RGB values of the error map's colours, one after the other, interpolated between `ERROR_STOPS`."""
    stops = np.array([[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in ERROR_STOPS], dtype=float)
    at = np.linspace(0, len(stops) - 1, NUM_ERROR_LEVELS)
    columns = [np.interp(at, np.arange(len(stops)), stops[:, channel]) for channel in range(3)]
    return np.rint(np.stack(columns, axis=1)).astype(int).ravel().tolist()


def _sheet(pictures: Sequence[Image.Image], kind: str, *, palette: list[int] | None = None, **options: Any) -> Sheet:
    width, height = pictures[0].size
    columns = min(len(pictures), COLUMNS)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB" if palette is None else "L", (columns * width, rows * height))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    if palette is not None:
        sheet.putpalette(palette)
    data = io.BytesIO()
    sheet.save(data, kind, **options)
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    return Sheet(uri=f"data:image/{kind.lower()};base64,{encoded}", columns=columns)


def _label(key: str) -> str:
    if key.startswith(WHAT_IF):
        return f"what if: {spoken(key.removeprefix(WHAT_IF))}"
    return spoken(key.removeprefix("baseline_"))
