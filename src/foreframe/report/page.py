"""Writes the report: one self-contained HTML page for one run or several."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from foreframe.errors import InputError, UsageError
from foreframe.files import write_whole
from foreframe.report.clips import ERROR_STOPS, MAX_CLIPS, NUM_ERROR_LEVELS, Clip, draw_clips
from foreframe.report.curves import MAX_POINTS, Curve, curves
from foreframe.report.runs import Run, find_key, read_run, spoken
from foreframe.report.tables import DetailTable, MetricTable, compare, detail_table, metric_tables, summary
from foreframe.scores import stamp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_PICTURE_BYTES = 7_000_000
"""What the clips of a page may weigh together, so that the page stays below 8 MB."""

FIRST_IN_RECEIPT = ("simulated", "split", "num_clips", "num_recordings")


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run as its section shows it."""

    run: Run
    id: str
    title: str
    simulated: bool
    units: str
    """What the intervals were resampled over, in words."""
    summary: str
    tables: list[MetricTable]
    details: DetailTable | None
    curves: list[Curve]
    curve_notes: list[str]
    clips: list[Clip]
    clip_notes: list[str]
    receipt: list[tuple[str, str]]
    receipt_line: str
    documents: list[tuple[str, str]]
    """Long JSON to unfold: (title, text)."""


def write_report(runs: Sequence[Path], out: Path, *, title: str | None = None) -> None:
    """Write one HTML page about the run folders `runs` to `out`; it needs no network and no other file.

    Raises `UsageError` for a run folder that is not there or a place that cannot be written, and `InputError`
    for a file in a run folder that cannot be read. What a run does not hold yet is named on the page, with the
    command that makes it.
    """
    if not runs:
        raise UsageError("no run folder given; say `foreframe report RUN --out report.html`")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder, the report is one file; say --out {out / 'report.html'}")
    if out.exists() and not out.is_file():
        raise UsageError(f"{out}: is a pipe or a device, and the report a file to keep; name one with --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UsageError(f"{out}: the report cannot be written: {error.strerror or error}") from error
    page = _render_settled(runs, title=title)
    # Names of files and texts of strangers may hold half a character, which has no encoding.
    write_whole(out, page.encode(errors="replace"))


def _render_settled(runs: Sequence[Path], *, title: str | None) -> str:
    """The page of one evaluation of each run, read again where a new one has come meanwhile."""
    while True:
        before = [stamp(run) for run in runs]
        try:
            page = render([read_run(run) for run in runs], title=title)
        except InputError:
            if before == [stamp(run) for run in runs]:
                raise
            continue
        if before == [stamp(run) for run in runs]:
            return page


def render(runs: Sequence[Run], *, title: str | None = None) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("foreframe.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["spoken"] = spoken
    environment.filters["argument"] = lambda value: shlex.quote(str(value))
    views = [_view(run, index, runs) for index, run in enumerate(runs)]
    page = environment.get_template("template.html.j2").render(
        title=title or (views[0].title if len(views) == 1 else f"{len(views)} runs"),
        tracks=sorted({run.track for run in runs}),
        views=views,
        titles={view.run.path: view.title for view in views},
        comparisons=compare(runs),
        error_stops=ERROR_STOPS,
        num_error_levels=NUM_ERROR_LEVELS,
    )
    return page.strip() + "\n"


def _view(run: Run, index: int, runs: Sequence[Run]) -> RunView:
    twins = Counter(other.name for other in runs)[run.name] > 1
    scores = run.scores
    simulated = scores is not None and scores.simulated
    clips, clip_notes = _clips(run, num_runs=len(runs))
    return RunView(
        run=run,
        id=f"run-{index + 1}",
        title=f"{run.path.resolve().parent.name}/{run.name}" if twins else run.name,
        simulated=simulated,
        units=_units(run),
        summary=summary(scores) if scores else "",
        tables=metric_tables(scores) if scores else [],
        details=detail_table(scores) if scores else None,
        curves=curves(run.journal, track=run.track, metrics=scores.metrics if scores else ()),
        curve_notes=_curve_notes(run),
        clips=clips,
        clip_notes=clip_notes,
        receipt=_receipt_rows(scores.receipt) if scores else [],
        receipt_line=_receipt_line(scores.receipt) if scores else "",
        documents=_documents(run),
    )


def _units(run: Run) -> str:
    """What the evaluation resampled: recordings, with their number where the receipt has it."""
    num_recordings = None if run.scores is None else find_key(run.scores.receipt, "num_recordings")
    return f"{num_recordings} recordings" if isinstance(num_recordings, int) and num_recordings != 1 else "recordings"


def _curve_notes(run: Run) -> list[str]:
    notes = []
    longest = max((len(line) for splits in run.journal.curves.values() for line in splits.values()), default=0)
    if longest > MAX_POINTS:
        notes.append(f"Lines of more than {MAX_POINTS} entries are drawn as means over neighbouring steps.")
    if run.journal.num_not_finite:
        notes.append(f"{_count(run.journal.num_not_finite, 'value')} left out: infinite or not a number.")
    if run.journal.num_unreadable:
        notes.append(f"{_count(run.journal.num_unreadable, 'line')} of metrics.jsonl could not be read.")
    return notes


def _clips(run: Run, *, num_runs: int) -> tuple[list[Clip], list[str]]:
    files = run.prediction_files[: max(1, MAX_CLIPS // num_runs)]
    clips = draw_clips(files, max_bytes=MAX_PICTURE_BYTES // num_runs)
    if not clips:
        return [], []
    chosen = list(dict.fromkeys(clip.chosen for clip in clips if clip.chosen))
    if chosen:
        notes = [f"How the clips were chosen: {'; '.join(chosen)}."]
    else:
        notes = ["The saved clips do not say how they were chosen."]
    if len(files) < len(run.prediction_files):
        notes.append(f"The page shows the first {len(files)} of {len(run.prediction_files)} saved clips.")
    if recorded := sorted({clip.recorded for clip in clips if clip.recorded}):
        notes.append(f"Frames are shown smaller than they are ({', '.join(recorded)}).")
    return clips, notes


def _receipt_rows(receipt: dict[str, Any]) -> list[tuple[str, str]]:
    """The receipt as (name, value) lines, nested keys joined by a dot; the config is a document of its own."""
    rows = [row for key, value in receipt.items() if key != "config" for row in _flat(str(key), value)]
    rank = {key: index for index, key in enumerate(FIRST_IN_RECEIPT)}
    return sorted(rows, key=lambda row: rank.get(row[0], len(rank)))


def _flat(key: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [row for inner, child in value.items() for row in _flat(f"{key} \N{MIDDLE DOT} {inner}", child)]
    if isinstance(value, bool):
        return [(key, "yes" if value else "no")]
    return [(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]


def _receipt_line(receipt: dict[str, Any]) -> str:
    """The receipt in a line: clips, recordings and split."""
    parts = []
    for key, noun in (("num_clips", "clip"), ("num_recordings", "recording")):
        count = find_key(receipt, key)
        if isinstance(count, int):
            parts.append(_count(count, noun))
    split = find_key(receipt, "split")
    if isinstance(split, str):
        parts.append(f"split {split}")
    return ", ".join(parts)


def _documents(run: Run) -> list[tuple[str, str]]:
    documents = [("Resolved configuration (config.json)", json.dumps(run.config, indent=2, ensure_ascii=False))]
    scored = run.scores.receipt.get("config") if run.scores else None
    if scored is not None and scored != run.config:
        documents.append(("Configuration in the receipt", json.dumps(scored, indent=2, ensure_ascii=False)))
    return documents


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
