"""The demo: on the sample inside the package, train a tiny model, score it and the shipped ones, and make a page."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from foreframe.config import load_config
from foreframe.errors import UsageError
from foreframe.files import make_folder
from foreframe.recipes import RECIPES
from foreframe.report import write_report
from foreframe.runs import copy_shipped, evaluate_run, sample_data, train_run
from foreframe.tables import print_scores

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = "compression_tiny"
PAGE = "report.html"
NUM_CLIPS = 48
"""Of the sample's 104, evenly spaced over all rooms: neighbours share half of what is predicted."""
SAMPLING_RECIPE = "sampling_tiny"
NUM_SAMPLING_CLIPS = 8
"""Clips whose futures are drawn twenty times: enough to look at, few enough for a minute."""


def demo(out: Path, *, num_steps: int | None = None) -> None:
    """Fill `out` with three runs and `report.html`, and say where the page is.

    Stopped by a signal, it raises `Stopped`; the same call goes on where it was. Nothing is ever half-written.
    """
    console = Console(stderr=True)
    started = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:4.0f} s[/dim]  {text}", highlight=False)

    config = RECIPES[RECIPE]()
    if num_steps is not None:
        try:
            config = replace(config, train=replace(config.train, num_steps=num_steps))
        except ValueError as error:
            raise UsageError(f"demo: {error}") from error
    make_folder(out, advice="name a writable folder with --out")
    scratch, shipped, sampling = out / "from_scratch", out / "shipped", out / "sampling"
    cache = out / "cache"
    say("sample: simulated robot video, train and val filmed in different rooms")
    say(f"training {RECIPE} from scratch for {config.train.num_steps} steps (first the video becomes tokens)")
    train_run(scratch, config, cache=cache)
    copy_shipped(RECIPE, shipped)
    copy_shipped(SAMPLING_RECIPE, sampling)
    scored = [(scratch, NUM_CLIPS), (shipped, NUM_CLIPS), (sampling, NUM_SAMPLING_CLIPS)]
    for run, num_clips in scored:
        say(f"evaluating {run.name} on rooms it has never seen")
        settings = replace(load_config(run).inference, max_clips=num_clips)
        if run == sampling:
            settings = replace(settings, num_shown=4, wrong_states=())
        print_scores(evaluate_run(run, data=sample_data(), inference=settings, cache=cache), title=run.name)
    write_report([run for run, _ in scored], out / PAGE, title="foreframe demo")
    say("done; open this page in a browser:")
    print((out / PAGE).resolve())
