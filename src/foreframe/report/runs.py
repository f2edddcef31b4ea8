"""Reads what a run folder holds for the report: configuration, journal, scores with their receipt, predicted clips."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Any

from foreframe.errors import InputError, UsageError
from foreframe.files import listed, meant_run, parse_json, read_json, require_regular, shortened
from foreframe.scores import find_scores

if TYPE_CHECKING:
    from pathlib import Path

MAX_JOURNAL_BYTES = 256 << 20
"""Largest journal that is read: a line for each of a million steps."""
SCORES_VERSION = 1
"""Format version of scores.json that this build reads."""

LARGEST = 1e300
"""Magnitude of the largest number that is drawn: differences of larger ones overflow. Beyond it counts as infinite."""
NOT_METRICS = frozenset({"step", "time", "split"})


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95 % interval; the ends are None where none was computed."""

    mean: float
    low: float | None
    high: float | None

    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a score measures."""

    name: str
    title: str
    unit: str
    higher_is_better: bool
    description: str
    detail: bool = False
    """Shown folded away, and in no curve, comparison or summary."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One predictor on one metric."""

    metric: str
    predictor: str
    value: Interval
    margin: Interval | None
    """Model minus this predictor, paired over the same clips; None for the model itself."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """scores.json, with the receipt that makes it fit to be shown."""

    track: str
    receipt: dict[str, Any]
    metrics: tuple[Metric, ...]
    scores: tuple[Score, ...]
    predictors: dict[str, str]
    """What each trivial predictor does, by name."""
    references: frozenset[str]
    """Predictors that no model competes with: they are given the truth, or are the model itself."""

    @property
    def simulated(self) -> bool:
        """Whether the receipt says that the clips are simulated."""
        return find_key(self.receipt, "simulated") is True


@dataclass(frozen=True, kw_only=True)
class Journal:
    """metrics.jsonl as curves."""

    curves: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    """metric > split > step > value. A step logged again after a resumed run keeps its last value."""
    num_unreadable: int = 0
    """Lines that are no JSON object with a step, apart from a torn last line."""
    num_not_finite: int = 0
    """Values left out because they are infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run folder, read."""

    path: Path
    name: str
    recipe: str
    track: str
    config: dict[str, Any]
    journal: Journal
    scores: Scores | None
    """None when the run was not evaluated, or when its scores carry no receipt."""
    receipt_missing: bool
    """There are scores, but no receipt to show them with."""
    prediction_files: tuple[Path, ...]


def read_run(path: Path) -> Run:
    """The run folder at `path`. Only config.json must be there; what else is missing stays empty."""
    if len(path.parts) == 1 and not path.is_absolute():
        _refuse_shipped(path)
    if not path.is_dir():
        near = meant_run(path, "config.json") if path.exists() else ""
        advice = near or f"; `foreframe train RECIPE --out {path}` makes one"
        raise UsageError(f"{path}: {'is no folder' if path.exists() else 'no such run folder'}{advice}")
    if not (path / "config.json").exists():
        raise InputError(f"{path}: not a run folder, config.json is missing{meant_run(path, 'config.json')}")
    config = _read_object(path / "config.json", missing=f"{path}: not a run folder, config.json is missing")
    scores, receipt_missing = None, False
    found = find_scores(path)
    if found.scores.is_file():
        scores = read_scores(found.scores)
        receipt_missing = scores is None
    track = config.get("track")
    kind = track.get("kind") if isinstance(track, dict) else track
    return Run(
        path=path,
        name=path.resolve().name,
        recipe=str(config.get("recipe") or "unnamed"),
        track=str(kind or (scores.track if scores else "unknown")),
        config=config,
        journal=read_journal(path / "metrics.jsonl"),
        scores=scores,
        receipt_missing=receipt_missing,
        prediction_files=tuple(sorted(listed(found.predictions, "*.npz"), key=_natural)),
    )


def _refuse_shipped(path: Path) -> None:
    from foreframe.models.weights import shipped_runs  # which imports torch, of no use to a page

    if str(path) in shipped_runs():
        raise UsageError(
            f"{path}: is the shipped model, which holds no scores; `foreframe export {path} --out RUN` makes a copy, "
            f"`foreframe evaluate RUN` its scores, `foreframe report RUN` the page; for a folder here write ./{path}"
        )


def read_scores(path: Path) -> Scores | None:
    """scores.json; None when it carries no receipt. Raises `InputError` if it is not in the expected form."""
    data = _read_object(path, missing=f"{path}: missing")
    if data.get("version") != SCORES_VERSION:
        raise InputError(f"{path}: scores version {data.get('version')!r}, this build reads {SCORES_VERSION}")
    receipt = data.get("receipt")
    if not isinstance(receipt, dict) or not receipt:
        return None
    try:
        metrics = tuple(
            Metric(
                name=name,
                title=str(entry.get("title") or spoken(name)),
                unit="" if entry.get("unit") in (None, "1") else str(entry["unit"]),  # 1: a plain number
                higher_is_better=bool(entry["higher_is_better"]),
                description=str(entry.get("description") or ""),
                detail=bool(entry.get("detail", False)),
            )
            for name, entry in data["metrics"].items()
        )
        scores = tuple(
            Score(
                metric=str(entry["metric"]),
                predictor=str(entry["predictor"]),
                value=_interval(entry),
                margin=None if entry.get("margin") is None else _interval(entry["margin"]),
            )
            for entry in data["scores"]
        )
        references = frozenset(map(str, data.get("references") or ()))
        predictors = {str(name): str(text) for name, text in (data.get("predictors") or {}).items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{type(error).__name__}: {shortened(error, 80)}"
        raise InputError(f"{path}: not in the form that `foreframe evaluate` writes ({what}); run it again") from error
    unknown = sorted({score.metric for score in scores} - {metric.name for metric in metrics})
    if unknown:
        raise InputError(f"{path}: scores for metrics that it does not describe: {shortened(', '.join(unknown), 120)}")
    track = str(data.get("track") or "unknown")
    return Scores(
        track=track, receipt=receipt, metrics=metrics, scores=scores, predictors=predictors, references=references
    )


def read_journal(path: Path) -> Journal:
    """metrics.jsonl as curves; a torn last line (a killed run) is left out without a word."""
    if not path.exists():
        return Journal()
    if require_regular(path).st_size > MAX_JOURNAL_BYTES:
        raise InputError(f"{path}: is larger than any journal ({MAX_JOURNAL_BYTES >> 20} MB); shorten it")
    lines = path.read_bytes().split(b"\n")
    curves: dict[str, dict[str, dict[int, float]]] = {}
    num_unreadable = num_not_finite = 0
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            entry = parse_json(line, odd_number=lambda _: math.nan)
            step, split = index(entry["step"]), str(entry.get("split", "train"))
        except (ValueError, KeyError, TypeError, AttributeError):
            num_unreadable += number < len(lines) - 1
            continue
        for name, value in entry.items():
            if name in NOT_METRICS or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if abs(value) <= LARGEST:
                curves.setdefault(name, {}).setdefault(split, {})[step] = float(value)
            else:
                num_not_finite += 1
    return Journal(curves=curves, num_unreadable=num_unreadable, num_not_finite=num_not_finite)


def find_key(tree: object, key: str) -> Any:
    """The first value stored under `key` anywhere in a nested receipt, the outermost first; None if there is none."""
    level = [tree]
    while level:
        found = [node[key] for node in level if isinstance(node, dict) and key in node]
        if found:
            return found[0]
        level = [child for node in level if isinstance(node, dict) for child in node.values()]
    return None


def spoken(name: str) -> str:
    """A name in code as words: `copy_last` is "copy last"."""
    return name.replace("_", " ")


def _read_object(path: Path, *, missing: str) -> dict[str, Any]:
    if not path.exists():
        raise InputError(missing)
    return read_json(path, advice="take an undamaged copy, or make it again")


def _interval(entry: dict[str, Any]) -> Interval:
    ends = [entry.get("low"), entry.get("high")]
    low, high = (float(end) if end is not None and abs(end) <= LARGEST else None for end in ends)
    mean = float(entry["mean"])
    return Interval(mean=mean if abs(mean) <= LARGEST else math.nan, low=low, high=high)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key under which clip_2 comes before clip_10."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
