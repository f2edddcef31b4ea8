"""Lays out the learning curves: one small chart per quantity, its splits and readings as lines, drawn as SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from foreframe.report.runs import spoken
from foreframe.report.tables import nice_ticks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foreframe.report.runs import Journal, Metric

MAX_POINTS = 400
"""Points a line is drawn with; a longer one is averaged over stretches of equal length."""

LEFT, RIGHT, TOP, BOTTOM = 46.0, 392.0, 10.0, 186.0
"""The plot's box inside a chart of 400 x 210 units."""

COLOURS = {"train": 1, "val": 2}

READINGS = ("autoregressive", "teacher_forced")
"""How a metric's name may end: these are readings of one quantity and share its chart, the first with a whole line."""

TRAINING_NAMES = {
    "compression": {"loss": "cross_entropy_teacher_forced", "accuracy": "accuracy_teacher_forced"},
    "sampling": {"loss": "flow_loss"},
}
"""What validation calls that which a track's training logs under another name: track > training's name > metric.

By default it is the same quantity of other clips; `scheduled_sampling` and `loss_grids` can make it a harder one.
"""

LAST_METRICS = ("learning_rate", "gradient_norm", "samples_per_second")
"""Shown after the metrics that say how good the model is."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One split's curve, in one reading."""

    label: str
    """`val`, or `val, teacher-forced` where the quantity has readings."""
    colour: int
    """Which of the page's line colours: 1 for train, 2 for val, 3 for any other."""
    dashed: bool
    """Whether another reading of the same split has the whole line."""
    points: str
    """`x,y x,y ...` in chart units, as SVG's polyline wants them."""
    dots: tuple[tuple[float, float], ...]
    """Points to mark, where there are few."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity over the steps."""

    title: str
    unit: str
    """Empty where no metric says."""
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    data: dict[str, Any]
    """What hovering reads: steps, values and the box they are drawn in."""


def curves(journal: Journal, *, track: str = "", metrics: Sequence[Metric] = ()) -> list[Curve]:
    """One chart per quantity of the journal: training's loss with the validation metrics that it is one of, first.

    `track` says what training calls otherwise (`TRAINING_NAMES`); `metrics` lend titles and units to their names.
    """
    known = {metric.name: metric for metric in metrics}
    others = TRAINING_NAMES.get(track, {})
    charts: dict[str, dict[str, dict[str, dict[int, float]]]] = {}
    ranks: dict[str, int] = {}
    for name, splits in journal.curves.items():
        for split, points in splits.items():
            metric = others.get(name, name) if split == "train" else name
            if metric in known and known[metric].detail:
                continue
            quantity, reading = _readings(metric)
            charts.setdefault(quantity, {}).setdefault(split, {})[reading] = points
            rank = 0 if name == "loss" else 2 + LAST_METRICS.index(name) if name in LAST_METRICS else 1
            ranks[quantity] = min(rank, ranks.get(quantity, rank))
    return [_curve(*_heading(name, known), charts[name]) for name in sorted(charts, key=lambda name: ranks[name])]


def _readings(metric: str) -> tuple[str, str]:
    """A metric's quantity and its reading, which may be none."""
    for reading in READINGS:
        if metric.endswith(f"_{reading}"):
            return metric.removesuffix(f"_{reading}"), reading
    return metric, ""


def _heading(quantity: str, known: Mapping[str, Metric]) -> tuple[str, str]:
    """Title and unit: of the metric of that name, or what its readings' titles say alike before their last comma."""
    metrics = [metric for name, metric in known.items() if _readings(name)[0] == quantity and not metric.detail]
    titles = {metric.title.rpartition(",")[0] if metric.name != quantity else metric.title for metric in metrics}
    units = {metric.unit for metric in metrics}
    title = titles.pop() if len(titles) == 1 else ""
    return title or spoken(quantity).capitalize(), units.pop() if len(units) == 1 else ""


def downsample(points: Sequence[tuple[float, float]], count: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `count` points: means of step and value over stretches of nearly equal length."""
    if len(points) <= count:
        return list(points)
    edges = [round(index * len(points) / count) for index in range(count + 1)]
    stretches = [points[a:b] for a, b in pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in stretches]


def _curve(title: str, unit: str, splits: dict[str, dict[str, dict[int, float]]]) -> Curve:
    """`splits`: split > reading > step > value."""
    keys = sorted(
        ((split, reading) for split, readings in splits.items() for reading in readings),
        key=lambda key: (COLOURS.get(key[0], 3), key[0], READINGS[::-1].index(key[1]) if key[1] in READINGS else -1),
    )
    lines = {key: downsample(sorted(splits[key[0]][key[1]].items())) for key in keys}
    labels = {(s, r): f"{s}, {spoken(r).replace(' ', '-')}" if r else s for s, r in keys}
    dashed = {(s, r): r == READINGS[1] and READINGS[0] in splits[s] for s, r in keys}
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

    placed = {key: [place(x, y) for x, y in points] for key, points in lines.items()}
    return Curve(
        title=title,
        unit=unit,
        lines=tuple(
            Line(
                label=labels[key],
                colour=COLOURS.get(key[0], 3),
                dashed=dashed[key],
                points=" ".join(f"{x},{y}" for x, y in points),
                dots=tuple(points) if len(points) <= 24 else (),
            )
            for key, points in placed.items()
        ),
        x_ticks=tuple((place(x, y_low)[0], short(x)) for x in nice_ticks(x_low, x_high, 4) if float(x).is_integer()),
        y_ticks=tuple((place(x_low, y)[1], short(y)) for y in nice_ticks(y_low, y_high, 4)),
        data={
            "lines": [
                {
                    "label": labels[key],
                    "colour": COLOURS.get(key[0], 3),
                    "steps": [round(x) for x, _ in points],
                    "values": [float(f"{y:.5g}") for _, y in points],
                    "places": placed[key],
                }
                for key, points in lines.items()
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
