"""`foreframe evaluate`, `report` and `export`: what is done with a run."""

# No `from __future__ import annotations` here: the options of some commands are classes made inside functions, whose
# annotations can only be resolved where they stand.

import sys
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from tyro.conf import Positional

from foreframe.cli.options import GivenPermissions, RunPath, from_environment, parse, require_utf8
from foreframe.cli.output import progress_bar
from foreframe.errors import UsageError
from foreframe.permissions import NONE

_NOT_OF_THE_TRACK = ("run", "data", "inference", "permissions")
"""Options of `evaluate` beside those that say how a track predicts."""


def evaluate_command(arguments: list[str]) -> int:
    """Score a run; its own settings are the options' defaults."""
    from foreframe.config import CONFIG_FILE, load_config
    from foreframe.inference.config import InferenceConfig
    from foreframe.tracks.config import CompressionConfig, SamplingConfig

    def options_with(settings: InferenceConfig, track: Any) -> Any:
        """Options of a run's own track, its own settings being the defaults; of every track where it is not known."""
        compression = track if isinstance(track, CompressionConfig) else CompressionConfig()
        sampling = track if isinstance(track, SamplingConfig) else SamplingConfig()
        fields: list[tuple[str, Any, Any]] = [("inference", InferenceConfig, settings)]
        if not isinstance(track, SamplingConfig):
            fields += [("rollout", type(compression.rollout), compression.rollout)]
        if not isinstance(track, CompressionConfig):
            names = (
                "sampler",
                "ensemble",
                "decode",
                "answer",
                "unchanged_tolerance",
                "inference_precision",
                "legacy_segment_check",
            )
            types = get_type_hints(SamplingConfig)
            fields += [(name, types[name], getattr(sampling, name)) for name in names]

        @dataclass(frozen=True, kw_only=True)
        class Options:
            """Score a run's newest checkpoint on held-out clips; writes `scores.json` and `predictions/` into it."""

            run: Positional[RunPath]
            """Run folder, or the name of a shipped run."""
            data: Literal["sample"] | Path | None = None
            """Dataset folder, or one that holds `val`; `sample` is the one inside the package; default: beside the
            run's training data."""
            permissions: GivenPermissions = NONE

        return make_dataclass(
            "Options",
            [(name, kind, field(default=default)) for name, kind, default in fields],
            bases=(Options,),
            namespace={"__doc__": Options.__doc__},
            frozen=True,
            kw_only=True,
        )

    # Once to learn which run, once more with that run's own settings as the defaults.
    options: Any = parse(options_with(InferenceConfig(), None), arguments, prog="foreframe evaluate")
    own = None
    if (options.run / CONFIG_FILE).is_file():
        config = load_config(options.run)
        own = config.track
        options = parse(options_with(config.inference, own), arguments, prog="foreframe evaluate")
    given = {name: value for name, value in vars(options).items() if name not in _NOT_OF_THE_TRACK}
    from foreframe.runs import evaluate_run, sample_data
    from foreframe.tables import print_scores

    with progress_bar("evaluate", "clips") as progress:
        content = evaluate_run(
            options.run,
            data=sample_data() if options.data == "sample" else options.data,
            inference=options.inference,
            permissions=options.permissions,
            predicting={name: value for name, value in given.items() if value != getattr(own, name, value)},
            progress=progress,
        )
    if from_environment("RANK", 0):
        return 0  # one of several processes speaks
    print_scores(content)
    print(f"wrote {options.run / 'scores.json'}; now: foreframe report {options.run} --out report.html")
    return 0


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write one self-contained HTML page: scores, curves, clips, receipts."""

    runs: Positional[tuple[RunPath, ...]]
    """Run folders."""
    out: Path = Path("report.html")
    """File to write."""


def report_command(arguments: list[str]) -> int:
    """Write a page about runs."""
    options = parse(ReportOptions, arguments, prog="foreframe report")
    if not options.runs:
        raise UsageError("report: name at least one run folder")
    from foreframe.report import write_report

    write_report(options.runs, options.out)
    print(f"wrote {options.out}")
    return 0


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Copy a run with its newest checkpoint, weights in 8 bits and without optimiser state: small enough to pass on."""

    run: Positional[RunPath]
    """Run folder, or the name of a shipped run."""
    out: Path
    """Run folder to make."""
    average_with: tuple[RunPath, ...] = ()
    """Other runs of the same model on the same inputs: the copy's weights are the mean of all."""
    permissions: GivenPermissions = NONE


def export_command(arguments: list[str]) -> int:
    """Copy a run."""
    options = parse(ExportOptions, arguments, prog="foreframe export")
    require_utf8(options.out)
    from foreframe.runs import export_run

    needed = export_run(options.run, options.out, average_with=options.average_with, permissions=options.permissions)
    print(f"wrote {options.out}")
    for name in needed:
        print(f"foreframe: {options.out}: still names {name}; whoever gets it needs that too", file=sys.stderr)
    return 0
