"""Lays out the learning curves: one small chart per metric, a line per split, drawn as SVG by the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from foreframe.report.runs import spoken
from foreframe.report.tables import nice_ticks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreframe.report.runs import Journal, Metric

MAX_POINTS = 400
"""Points a line is drawn with; a longer one is averaged over stretches of equal length."""

LEFT, RIGHT, TOP, BOTTOM = 46.0, 392.0, 10.0, 186.0
"""The plot's box inside a chart of 400 x 210 units."""

COLOURS = {"train": 1, "val": 2}

LAST_METRICS = ("learning_rate", "grad_norm", "samples_per_second")
"""Shown after the metrics that say how good the model is."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One split's curve."""

    split: str
    colour: int
    """Which of the page's line colours: 1 for train, 2 for val, 3 for any other."""
    points: str
    """`x,y x,y ...` in chart units, as SVG's polyline wants them."""
    dots: tuple[tuple[float, float], ...]
    """Points to mark, where there are few."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One metric over the steps."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    data: dict[str, Any]
    """What hovering reads: steps, values and the box they are drawn in."""


def curves(journal: Journal, metrics: Sequence[Metric] = ()) -> list[Curve]:
    """One chart per metric of the journal; `metrics` lends its titles to those of the same name."""
    titles = {metric.name: metric.title for metric in metrics}

    def rank(name: str) -> tuple[int, int]:
        last = LAST_METRICS.index(name) + 1 if name in LAST_METRICS else 0
        return (last, 0 if name == "loss" else 1)

    names = sorted(journal.curves, key=rank)
    return [_curve(titles.get(name, spoken(name).capitalize()), journal.curves[name]) for name in names]


def downsample(points: Sequence[tuple[float, float]], count: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `count` points: means of step and value over stretches of nearly equal length."""
    if len(points) <= count:
        return list(points)
    edges = [round(index * len(points) / count) for index in range(count + 1)]
    stretches = [points[a:b] for a, b in pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in stretches]


def _curve(title: str, splits: dict[str, dict[int, float]]) -> Curve:
    lines = {
        split: downsample(sorted(splits[split].items()))
        for split in sorted(splits, key=lambda split: (COLOURS.get(split, 3), split))
    }
    x_low = min(x for points in lines.values() for x, _ in points)
    x_high = max(x for points in lines.values() for x, _ in points)
    y_low = min(y for points in lines.values() for _, y in points)
    y_high = max(y for points in lines.values() for _, y in points)
    if x_high == x_low:
        x_low, x_high = x_low - 1, x_high + 1
    room = 0.06 * (y_high - y_low) or 0.05 * abs(y_high) or 0.5
    y_low, y_high = y_low - room, y_high + room

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (RIGHT - LEFT) * (x - x_low) / (x_high - x_low)
        down = BOTTOM - (BOTTOM - TOP) * (y - y_low) / (y_high - y_low)
        return round(across, 1), round(down, 1)

    placed = {split: [place(x, y) for x, y in points] for split, points in lines.items()}
    return Curve(
        title=title,
        lines=tuple(
            Line(
                split=split,
                colour=COLOURS.get(split, 3),
                points=" ".join(f"{x},{y}" for x, y in points),
                dots=tuple(points) if len(points) <= 24 else (),
            )
            for split, points in placed.items()
        ),
        x_ticks=tuple((place(x, y_low)[0], short(x)) for x in nice_ticks(x_low, x_high, 4) if float(x).is_integer()),
        y_ticks=tuple((place(x_low, y)[1], short(y)) for y in nice_ticks(y_low, y_high, 4)),
        data={
            "lines": [
                {
                    "split": split,
                    "colour": COLOURS.get(split, 3),
                    "steps": [round(x) for x, _ in points],
                    "values": [float(f"{y:.5g}") for _, y in points],
                    "places": placed[split],
                }
                for split, points in lines.items()
            ]
        },
    )


def short(value: float) -> str:
    """A tick's label: 12000 is "12k", 0.0003 is "3e-4"."""
    size = abs(value)
    if value == 0:
        text = "0"
    elif size >= 1e6:
        text = f"{value / 1e6:g}M"
    elif size >= 1e4:
        text = f"{value / 1e3:g}k"
    elif size < 1e-3:
        power = math.floor(math.log10(size) + 1e-9)
        text = f"{value / 10**power:.3g}e{power}"
    else:
        text = f"{value:g}"
    return text.replace("-", "\N{MINUS SIGN}")
