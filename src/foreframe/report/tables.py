"""Turns scores into tables with a dot and an interval on every row: the model beside the trivial predictors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from foreframe.report.runs import Interval, Metric, Run, Score, Scores, find_key, spoken

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL = "model"
"""The name under which the run's own model is scored; `model_shuffled_states` is the same model, told wrong states."""

EDGE = 3.0
"""Per cent of a chart's width kept free at either end, so that no dot is cut."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One predictor's line in a metric's table; positions are per cent of the chart's width."""

    name: str
    note: str
    is_model: bool
    mean: str
    interval: str
    dot: float | None
    low: float | None
    high: float | None
    margin: str
    margin_interval: str
    verdict: str
    """`better`, `worse`, `unclear`, or nothing for the model and where there is no margin."""


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """One metric of one run."""

    title: str
    unit: str
    direction: str
    description: str
    rows: tuple[Row, ...]
    ticks: tuple[tuple[float, str], ...]
    model_dot: float | None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One predictor on one metric, where many of them stand in one table."""

    mean: str
    interval: str
    is_model: bool
    verdict: str
    """As in `Row`."""


@dataclass(frozen=True, kw_only=True)
class DetailTable:
    """The metrics of one run that are shown folded away: a row each, a column for each predictor that has any."""

    predictors: tuple[str, ...]
    """The model first."""
    rows: tuple[tuple[Metric, tuple[Cell | None, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several runs of one track side by side: columns are runs, rows predictors, a group of rows per metric."""

    track: str
    runs: tuple[Run, ...]
    groups: tuple[tuple[Metric, tuple[tuple[str, tuple[tuple[str, str], ...]], ...]], ...]
    """(metric, ((predictor, ((mean, interval) for each run)), ...)) for each metric."""
    same_clips: bool
    """Whether the receipts name the same data, split and number of clips."""


def metric_tables(scores: Scores) -> list[MetricTable]:
    """One table per metric that has a score and is no detail: the model, its rivals, then the references."""
    tables = []
    for metric in _main(scores):
        entries = sorted(
            (score for score in scores.scores if score.metric == metric.name),
            key=lambda score: (score.predictor != MODEL, score.predictor in scores.references),
        )
        if entries:
            tables.append(_table(metric, entries, scores.predictors))
    return tables


def detail_table(scores: Scores) -> DetailTable | None:
    """The metrics that are details; None if none of them has a score."""
    details = {metric.name: metric for metric in scores.metrics if metric.detail}
    values = {(score.metric, score.predictor): score for score in scores.scores if score.metric in details}
    if not values:
        return None
    names = sorted(dict.fromkeys(name for _, name in values), key=lambda name: name != MODEL)
    rows: list[tuple[Metric, tuple[Cell | None, ...]]] = []
    for metric in details.values():
        row = [values.get((metric.name, name)) for name in names]
        decimals = decimals_for([score.value for score in row if score])
        if any(row):
            rows.append((metric, tuple(_cell(score, metric, decimals) if score else None for score in row)))
    return DetailTable(predictors=tuple(map(spoken, names)), rows=tuple(rows))


def _cell(score: Score, metric: Metric, decimals: int) -> Cell:
    return Cell(
        mean=number(score.value.mean, decimals),
        interval=span(score.value, decimals),
        is_model=score.predictor == MODEL,
        verdict=verdict(score.margin, higher_is_better=metric.higher_is_better) if score.margin else "",
    )


def _main(scores: Scores) -> list[Metric]:
    return [metric for metric in scores.metrics if not metric.detail]


def _table(metric: Metric, entries: Sequence[Score], predictors: dict[str, str]) -> MetricTable:
    decimals = decimals_for([entry.value for entry in entries])
    margin_decimals = max(decimals, decimals_for([entry.margin for entry in entries if entry.margin]))
    ends = [v for e in entries for v in (e.value.mean, e.value.low, e.value.high) if v is not None and math.isfinite(v)]
    bottom, top = (min(ends), max(ends)) if ends else (0.0, 1.0)
    size = max(1.0, abs(bottom), abs(top))
    if top - bottom < 1e-12 * size:
        bottom, top = bottom - 0.5 * size, top + 0.5 * size

    def place(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        return round(EDGE + (100 - 2 * EDGE) * (value - bottom) / (top - bottom), 2)

    rows = tuple(
        Row(
            name=spoken(entry.predictor),
            note=predictors.get(entry.predictor, ""),
            is_model=entry.predictor == MODEL,
            mean=number(entry.value.mean, decimals),
            interval=span(entry.value, decimals),
            dot=place(entry.value.mean),
            low=place(entry.value.low),
            high=place(entry.value.high),
            margin=signed(entry.margin.mean, margin_decimals) if entry.margin else "",
            margin_interval=span(entry.margin, margin_decimals, sign=True) if entry.margin else "",
            verdict=verdict(entry.margin, higher_is_better=metric.higher_is_better) if entry.margin else "",
        )
        for entry in entries
    )
    ticks = [(place(tick), tick) for tick in nice_ticks(bottom, top, 4)]
    step = min((b - a for (_, a), (_, b) in pairwise(ticks)), default=1.0)
    tick_decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return MetricTable(
        title=metric.title,
        unit=metric.unit,
        direction="higher is better" if metric.higher_is_better else "lower is better",
        description=metric.description,
        rows=rows,
        ticks=tuple((where, number(tick, tick_decimals)) for where, tick in ticks if where is not None),
        model_dot=next((row.dot for row in rows if row.is_model), None),
    )


def verdict(margin: Interval, *, higher_is_better: bool) -> str:
    """What a margin (model minus predictor) says of the model: `better`, `worse`, or `unclear` if it spans zero."""
    if not margin.excludes_zero():
        return "unclear"
    return "better" if (margin.mean > 0) == higher_is_better else "worse"


def summary(scores: Scores) -> str:
    """One sentence: on how many metrics the model beats the best of the trivial predictors."""
    counts = {"better": 0, "worse": 0, "unclear": 0}
    for metric in _main(scores):
        own = [score for score in scores.scores if score.metric == metric.name and score.margin]
        rivals = [score for score in own if score.predictor not in scores.references]
        if rivals:
            best = (max if metric.higher_is_better else min)(rivals, key=lambda score: score.value.mean)
            assert best.margin is not None
            counts[verdict(best.margin, higher_is_better=metric.higher_is_better)] += 1
    total = sum(counts.values())
    if not total:
        return ""
    words = {"better": "better on", "worse": "worse on", "unclear": "no clear difference on"}
    parts = [f"{words[kind]} {count}" for kind, count in counts.items() if count]
    parts[0] += f" of {total} metric{'s' if total > 1 else ''}"
    return f"Against the best trivial predictor the model is {', '.join(parts)}.".replace(
        "the model is no clear", "the model shows no clear"
    )


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """A comparison for every track that at least two scored runs share."""
    by_track: dict[str, list[tuple[Run, Scores]]] = {}
    for run in runs:
        if run.scores is not None:
            by_track.setdefault(run.track, []).append((run, run.scores))
    comparisons = []
    for track, pairs in by_track.items():
        if len(pairs) < 2:
            continue
        metrics = {metric.name: metric for _, scores in pairs for metric in _main(scores)}
        comparisons.append(
            Comparison(
                track=track,
                runs=tuple(run for run, _ in pairs),
                groups=tuple((metric, rows) for metric in metrics.values() if (rows := _columns(metric, pairs))),
                same_clips=len({_what_was_scored(scores) for _, scores in pairs}) == 1,
            )
        )
    return comparisons


def _columns(
    metric: Metric, pairs: Sequence[tuple[Run, Scores]]
) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    cells = [{score.predictor: score.value for score in s.scores if score.metric == metric.name} for _, s in pairs]
    names = sorted(dict.fromkeys(name for column in cells for name in column), key=lambda name: name != MODEL)
    decimals = decimals_for([value for column in cells for value in column.values()])
    return tuple(
        (
            spoken(name),
            tuple(
                (number(column[name].mean, decimals), span(column[name], decimals)) if name in column else ("", "")
                for column in cells
            ),
        )
        for name in names
    )


def _what_was_scored(scores: Scores) -> str:
    keys = ("dataset_fingerprint", "fingerprint", "dataset", "split", "num_clips")
    return repr([find_key(scores.receipt, key) for key in keys])


def decimals_for(values: Sequence[Interval]) -> int:
    """Decimals that show the narrowest interval with about two figures; three significant figures without one."""
    halves = [(v.high - v.low) / 2 for v in values if v.low is not None and v.high is not None]
    if wide := [half for half in halves if half > 0]:
        return min(6, max(0, 1 - math.floor(math.log10(min(wide)))))
    largest = max((abs(v.mean) for v in values if math.isfinite(v.mean)), default=1.0)
    return min(6, max(0, 2 - math.floor(math.log10(largest)))) if largest > 0 else 2


def number(value: float, decimals: int) -> str:
    """A number to print: grouped thousands, a true minus sign."""
    if not math.isfinite(value):
        return "not finite"
    text = f"{value:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", "\N{MINUS SIGN}")


def signed(value: float, decimals: int) -> str:
    """Like `number`, with a plus sign."""
    text = number(value, decimals)
    return f"+{text}" if value > 0 and text[0].isdigit() else text


def span(value: Interval, decimals: int, *, sign: bool = False) -> str:
    """An interval to print."""
    if value.low is None or value.high is None:
        return "no interval"
    show = signed if sign else number
    return f"{show(value.low, decimals)} to {show(value.high, decimals)}"


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) inside [low, high]."""
    raw = max(high - low, 1e-12) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.7 * raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    decimals = 12 - math.floor(math.log10(step))
    return [round(index * step, decimals) for index in range(first, last + 1)]
