"""Scores as a table in the terminal, the trivial predictors beside the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from foreframe.tracks.track import MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping


def print_scores(content: Mapping[str, Any], *, title: str | None = None) -> None:
    """Print the content of `scores.json`: a metric to a block, a predictor to a row."""
    receipt = content["receipt"]
    heading = f"{receipt['num_clips']} clips of {receipt['num_recordings']} recordings, split {receipt['split']}"
    if receipt["simulated"]:
        heading += ", simulated data"
    table = Table(title=f"{title}: {heading}" if title else heading, title_justify="left")
    table.add_column("metric")
    table.add_column("predictor")
    table.add_column("mean [95 %]", justify="right")
    table.add_column("model minus it [95 %]", justify="right")
    shown = {name: metric for name, metric in content["metrics"].items() if not metric.get("detail", False)}
    if more := len(content["metrics"]) - len(shown):
        table.caption = f"{more} more metric{'s' if more > 1 else ''} in scores.json; `foreframe report` shows them"
        table.caption_justify = "left"
    for name, metric in shown.items():
        rows = [row for row in content["scores"] if row["metric"] == name]
        better = "higher" if metric["higher_is_better"] else "lower"
        for row in sorted(rows, key=lambda row: row["predictor"] != MODEL):
            first = row["predictor"] == MODEL
            label = f"{metric['title']} ({metric['unit']}, {better} is better)" if first else ""
            margin = "" if row["margin"] is None else _interval(row["margin"], sign="+")
            table.add_row(label, row["predictor"], _interval(row), margin, style="bold" if first else None)
        table.add_section()
    console = Console()
    # Into a file or a pipe a line may be as long as it likes.
    (console if console.is_terminal else Console(width=140)).print(table)


def _interval(row: Mapping[str, Any], *, sign: str = "") -> str:
    if row["low"] is None:
        return f"{row['mean']:{sign}.3f}"
    return f"{row['mean']:{sign}.3f} [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"
