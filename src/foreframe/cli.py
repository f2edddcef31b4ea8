"""The command line: reads options, calls the library, and turns every fault of the input into one line.

Exit status: 0 done, 1 the input is faulty, 2 wrong usage, 130 stopped by Ctrl-C.
"""

# No `from __future__ import annotations` here: the options of some commands are classes made inside functions, whose
# annotations can only be resolved where they stand.

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import tyro
from tyro.conf import AvoidSubcommands, Positional

import foreframe
from foreframe.errors import InputError, UsageError
from foreframe.permissions import NONE, Permissions

# Torch and all that needs it is imported inside the commands, so that `--help` answers at once.

COMMANDS = {
    "demo": "see it all work on the sample data that ships with the package: train, evaluate, look",
    "data": "simulate | info | check | sheet | encode: make, describe, check, look at and encode dataset folders",
    "plan": "what training a recipe costs, before anything is loaded: parameters, FLOPs, memory, steps, disk",
    "train": "train a recipe into a run folder; the same command resumes",
    "evaluate": "score a run on held-out clips, beside the trivial predictors",
    "report": "one self-contained HTML page about one run or several",
    "export": "copy a run without optimiser state, weights compact",
    "recipes": "the named recipes, a line each",
}

T = TypeVar("T")

GivenPermissions = Annotated[Permissions, tyro.conf.arg(name=""), tyro.conf.UseAppendAction]
"""Options `--download` and `--trust-sha256` of every command that may fetch, or run a program."""


def _run_path(text: str) -> Path:
    """A run's folder as it was named. `./NAME` is not the shipped run NAME, though `Path` forgets the dot."""
    path = Path(text)
    return path.absolute() if len(path.parts) == 1 and text != path.name else path


RunPath = Annotated[
    Path,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda texts: _run_path(texts[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    ),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `foreframe` command; exits with the status."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    try:
        return _dispatch(arguments)
    except UsageError as error:
        _complain(error)
        return 2
    except InputError as error:
        _complain(error)
        return 1
    except ValueError as error:
        # A value that only the library behind an option could judge.
        _complain(error)
        return 1
    except KeyboardInterrupt:
        print("foreframe: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        sys.stderr.close()
        return 0
    except OSError as error:
        # A full disk, a folder that may not be read or written: the system says which and why.
        reason = error.strerror or str(error)
        _complain(f"{error.filename}: {reason}" if error.filename else reason)
        return 1


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"foreframe {foreframe.__version__}")
        return 0
    command, rest = arguments[0], arguments[1:]
    commands: dict[str, Callable[[list[str]], int]] = {
        "demo": _demo,
        "data": _data,
        "plan": _plan,
        "train": _train,
        "evaluate": _evaluate,
        "report": _report,
        "export": _export,
        "recipes": _recipes,
    }
    if command not in commands:
        raise UsageError(f"{command}: no such command; there are: {', '.join(commands)}")
    return commands[command](rest)


def _overview() -> str:
    lines = ["usage: foreframe COMMAND ...", "", f"{foreframe.__doc__}", ""]
    lines += [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    return "\n".join([*lines, "", "foreframe COMMAND --help tells a command's options."])


# -- commands --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Train a tiny model on the shipped sample, score it and the shipped weights, and write a page to look at."""

    out: Path = Path("out/demo")
    """Folder for the runs and the page. Stopped half-way, the same command goes on."""
    num_steps: int | None = None
    """Optimiser steps of the model trained from scratch; default: the recipe's, about two minutes on two cores."""


def _demo(arguments: list[str]) -> int:
    options = _parse(DemoOptions, arguments, prog="foreframe demo")
    from foreframe.demo import demo

    return 0 if demo(options.out, num_steps=options.num_steps) else 130


def _data(arguments: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "simulate": _simulate,
        "info": _info,
        "check": _check,
        "sheet": _sheet,
        "encode": _encode,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: foreframe data {{{','.join(commands)}}} ...")
        return 0 if arguments else 2
    if arguments[0] not in commands:
        raise UsageError(f"data {arguments[0]}: no such command; there are: {', '.join(commands)}")
    return commands[arguments[0]](arguments[1:])


def _simulate(arguments: list[str]) -> int:
    from foreframe.sim import SimulateConfig, simulate

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Write a simulated dataset folder in 1X's v2.0 format: video, states and segments of `evesim`."""

        out: Positional[Path]
        """Folder to make."""
        config: Annotated[SimulateConfig, tyro.conf.arg(name="")] = field(default_factory=SimulateConfig)

    options = _parse(Options, arguments, prog="foreframe data simulate")
    with _progress("simulate", "frames") as progress:
        simulate(options.out, options.config, progress=progress)
    print(f"wrote {options.out}")
    if options.config.frames_per_episode > 60:
        print(_copy_last_line(_copy_last(options.out)))
    return 0


def _copy_last(folder: Path, on_bad_shard: Literal["raise", "skip"] = "raise") -> dict[str, Any]:
    from foreframe.data.describe import copy_last_psnr, distribution

    with _progress("copy last", "pairs") as progress:
        values = copy_last_psnr(folder, on_bad_shard=on_bad_shard, progress=progress)
    if not len(values):
        raise InputError(f"{folder}: no recording has two frames 60 apart to compare")
    return distribution(values)


def _copy_last_line(facts: dict[str, Any]) -> str:
    return (
        f"copying the last frame, 60 frames ahead: median {facts['median_db']} dB "
        f"(10 % below {facts['p10_db']}, 10 % above {facts['p90_db']}), "
        f"{100 * facts['near_static']:.1f} % near-static (above 30 dB), over {facts['pairs']} pairs"
    )


@dataclass(frozen=True, kw_only=True)
class InfoOptions:
    """Say what a dataset folder holds."""

    folder: Positional[Path]
    """Dataset folder in 1X's v2.0 format, raw or tokenised, or a folder of latents."""
    json: bool = False
    """Print JSON."""
    copy_last: bool = False
    """Also how well copying the last frame predicts the one 60 frames later: raw recordings only."""
    on_bad_shard: Literal["raise", "skip"] = "raise"
    """A broken shard: an error, or left out and named."""


def _info(arguments: list[str]) -> int:
    options = _parse(InfoOptions, arguments, prog="foreframe data info")
    from foreframe.data.describe import describe

    facts = describe(options.folder, on_bad_shard=options.on_bad_shard)
    if options.copy_last:
        facts["copy_last"] = _copy_last(options.folder, options.on_bad_shard)
    if options.json:
        print(json.dumps(facts, indent=1))
        return 0
    width = max(map(len, facts))
    for name, value in facts.items():
        if name == "copy_last":
            print(_copy_last_line(value))
        elif name == "skipped":
            for index, reason in value.items():
                print(f"{'skipped':<{width}}  shard {index}: {reason}")
        else:
            print(f"{name.replace('_', ' '):<{width}}  {value}")
    return 0


def _check(arguments: list[str]) -> int:
    from foreframe.data.check import CheckConfig, check_folder

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Look for everything that can be wrong with a dataset folder. Exit status 1 if something was found."""

        folder: Positional[Path]
        """Dataset folder in 1X's v2.0 format, or one that holds split folders."""
        json: bool = False
        """Print JSON."""
        config: Annotated[CheckConfig, tyro.conf.arg(name="")] = field(default_factory=CheckConfig)

    options = _parse(Options, arguments, prog="foreframe data check")
    with _progress("check", "frames") as progress:
        findings = check_folder(options.folder, options.config, progress=progress)
    if options.json:
        print(json.dumps({"folder": str(options.folder), "findings": [asdict(one) for one in findings]}, indent=1))
    else:
        for one in findings:
            where = f", {one.where}" if one.where else ""
            confidence = "" if one.confidence is None else f" (confidence {one.confidence:.3f})"
            print(f"{one.file}{where}: {one.message} [{one.kind}]{confidence}")
        print(
            f"{options.folder}: {len(findings)} finding{'s' * (len(findings) != 1)}"
            if findings
            else f"{options.folder}: nothing wrong found"
        )
    return 1 if findings else 0


@dataclass(frozen=True, kw_only=True)
class SheetOptions:
    """Write a contact sheet: frames at even distances from recordings at even distances, none of them chosen."""

    folder: Positional[Path]
    """Raw dataset folder."""
    out: Path = Path("sheet.png")
    """Picture to write: .png, .jpg or .webp."""
    rows: int = 8
    """Recordings, a row each."""
    columns: int = 6
    """Frames of each."""
    size: int = 192
    """Side of a frame on the sheet, pixels."""


def _sheet(arguments: list[str]) -> int:
    options = _parse(SheetOptions, arguments, prog="foreframe data sheet")
    if min(options.rows, options.columns, options.size) < 1:
        raise UsageError("sheet: rows, columns and size must be at least 1")
    if options.out.suffix not in (".png", ".jpg", ".webp"):
        raise UsageError(f"{options.out}: is no .png, .jpg or .webp; name a picture with --out")
    from foreframe.data.describe import contact_sheet

    sheet = contact_sheet(options.folder, rows=options.rows, columns=options.columns, size=options.size)
    sheet.save(options.out, quality=90)
    print(f"wrote {options.out}")
    return 0


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """Turn raw folders into tokens or latents. Stopped or killed, the same command goes on.

    Under `torchrun` the shards are shared over the processes.
    """

    folder: Positional[Path]
    """Raw dataset folder, or a folder that holds `train`, `val` or `test`."""
    out: Path
    """Folder to make; split folders keep their names in it."""
    encoder: str = "tokenizer_tiny"
    """For tokens a shipped tokenizer, the run folder of one, or a folder with NVIDIA's Cosmos files `encoder.jit` and
    `decoder.jit`; for latents a folder with a Wan autoencoder in diffusers' form."""
    size: int | None = None
    """Side of the frames in pixels when encoded, the video's own divided by a whole number; default: 128 for tokens
    (Cosmos: 256), the video's own for latents."""
    frames: Literal["stride4_dup_last", "uniform21", "stride2", "all"] = "stride4_dup_last"
    """Latents: which frames of a 77-frame clip are encoded."""
    stride: int = 8
    """Latents: frames from the start of one clip to the next."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Latents: precision on disk."""
    on_bad_shard: Literal["raise", "skip"] = "raise"
    """A broken shard: an error, or left out, named, and recorded in `encoding.json`."""
    permissions: GivenPermissions = NONE


def _encode(arguments: list[str]) -> int:
    options = _parse(EncodeOptions, arguments, prog="foreframe data encode")
    from foreframe.data.encoding import read_encoding
    from foreframe.data.layout import find_split
    from foreframe.encode import Share, encode_folder, is_encoding_of
    from foreframe.runs import tell_skipped

    splits: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
    found = {root for split in splits if (root := find_split(options.folder, split, kind="raw"))}
    if not found:
        raise InputError(f"{options.folder}: holds no dataset folder, nor any named train, val or test")
    share = Share(rank=_from_environment("RANK", 0), num_ranks=_from_environment("WORLD_SIZE", 1))
    if not 0 <= share.rank < share.num_ranks:
        raise UsageError(f"RANK {share.rank} is not below WORLD_SIZE {share.num_ranks}; start it with torchrun")
    for root in sorted(found):
        encoder = _encoder(options, root)
        out = options.out if root == options.folder else options.out / root.name
        if out.exists() and is_encoding_of(out, root, encoder=encoder, on_bad_shard=options.on_bad_shard):
            print(f"{out}: is made already")
            continue
        with _progress(f"encode {root.name}", "frames") as progress:
            whole = encode_folder(
                root, out, encoder=encoder, share=share, on_bad_shard=options.on_bad_shard, progress=progress
            )
        if whole:
            skipped = (read_encoding(out) or {}).get("skipped", {})
            tell_skipped(root, skipped)
            print(f"wrote {out}")
        else:
            print(f"{out}: share {share.rank} of {share.num_ranks} is done; the folder appears when the others are")
    return 0


def _from_environment(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise UsageError(f"{name} is {value!r} in the environment, not a whole number; start it with torchrun")
    return int(value)


def _encoder(options: EncodeOptions, raw: Path) -> Any:
    """What `--encoder` names, ready to use on this process's device."""
    import torch

    from foreframe.encode import LatentEncoder, TokenEncoder, holds_autoencoder, load_autoencoder, load_tokenizer
    from foreframe.models.cosmos import CosmosTokenizer

    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else "cpu"
    given = options.permissions
    if holds_autoencoder(options.encoder):
        from foreframe.data.raw import RawDataset

        autoencoder, weights = load_autoencoder(options.encoder, permissions=given)
        size = RawDataset(raw, on_bad_shard=options.on_bad_shard).frame_size if options.size is None else options.size
        return LatentEncoder(
            autoencoder=autoencoder.to(torch.device(device)),
            weights=weights,
            size=size,
            frames=options.frames,
            stride=options.stride,
            dtype=options.dtype,
        )
    tokenizer, weights = load_tokenizer(options.encoder, permissions=given)
    if isinstance(tokenizer, CosmosTokenizer):
        tokenizer.require_trusted(encoder=True)
    # NVIDIA's makes 1X's own grids of 32x32 cells.
    size = (256 if isinstance(tokenizer, CosmosTokenizer) else 128) if options.size is None else options.size
    return TokenEncoder(tokenizer=tokenizer.to(device), weights=weights, size=size)


def _plan(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: foreframe plan RECIPE [--json] [--device cuda|cpu] [--field.sub VALUE ...]")
        print("`foreframe recipes` lists the recipes, `foreframe plan RECIPE --help` a recipe's fields")
        return 0 if arguments else 2
    config = _recipe(arguments[0])
    from foreframe.config import RunConfig
    from foreframe.plan import PlanConfig, plan, print_plan

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Say what training a recipe costs. Nothing is loaded, computed or written; options as for `train`."""

        json: bool = False
        """Print JSON."""
        settings: Annotated[PlanConfig, tyro.conf.arg(name="")] = field(default_factory=PlanConfig)
        config: Annotated[RunConfig, tyro.conf.arg(name="")]

    options = _parse(
        AvoidSubcommands[Options],  # type: ignore[valid-type]
        arguments[1:],
        prog=f"foreframe plan {arguments[0]}",
        default=Options(config=config),
    )
    planned = plan(options.config, options.settings)
    if options.json:
        print(json.dumps(asdict(planned), indent=1))
    else:
        print_plan(planned)
    return 0


def _train(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: foreframe train RECIPE --out RUN [--field.sub VALUE ...]")
        print("`foreframe recipes` lists the recipes, `foreframe train RECIPE --help` a recipe's fields")
        return 0 if arguments else 2
    from foreframe.config import RunConfig

    config = _recipe(arguments[0])

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Train a recipe into a run folder. The same command again resumes it."""

        out: Path
        """Run folder: new, or one that this command made."""
        permissions: GivenPermissions = NONE
        config: Annotated[RunConfig, tyro.conf.arg(name="")]

    options = _parse(
        AvoidSubcommands[Options],  # type: ignore[valid-type]
        arguments[1:],
        prog=f"foreframe train {arguments[0]}",
        default=Options(out=tyro.MISSING, config=config),
    )
    from foreframe.runs import train_run

    if not train_run(options.out, _with_absolute_paths(options.config), permissions=options.permissions):
        return 130
    print(f"trained {options.out}; now: foreframe evaluate {options.out}")
    return 0


def _with_absolute_paths(config: Any) -> Any:
    """So that the run can be used from any folder."""
    if isinstance(config.data, Path):
        config = replace(config, data=config.data.absolute())
    from foreframe.models.weights import shipped_runs

    for name in ("tokenizer", "start_from", "autoencoder", "prompt"):
        path = getattr(config.track, name, None)
        if path is not None and path not in shipped_runs() and Path(path).exists():
            config = replace(config, track=replace(config.track, **{name: str(Path(path).absolute())}))
    base = getattr(config.track.model, "base", None)
    if base is not None and Path(base).exists():
        model = replace(config.track.model, base=str(Path(base).absolute()))
        config = replace(config, track=replace(config.track, model=model))
    return config


_NOT_OF_THE_TRACK = ("run", "data", "inference", "permissions")
"""Options of `evaluate` beside those that say how a track predicts."""


def _evaluate(arguments: list[str]) -> int:
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
            names = ("sampler", "ensemble", "decode", "answer", "unchanged_tolerance", "inference_precision")
            types = get_type_hints(SamplingConfig)
            fields += [(name, types[name], getattr(sampling, name)) for name in names]

        @dataclass(frozen=True, kw_only=True)
        class Options:
            """Score a run's newest checkpoint on held-out clips; writes `scores.json` and `predictions/` into it."""

            run: Positional[RunPath]
            """Run folder, or the name of a shipped run."""
            data: Path | None = None
            """Dataset folder, or one that holds `val`; default: beside the run's training data."""
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
    options: Any = _parse(options_with(InferenceConfig(), None), arguments, prog="foreframe evaluate")
    own = None
    if (options.run / CONFIG_FILE).is_file():
        config = load_config(options.run)
        own = config.track
        options = _parse(options_with(config.inference, own), arguments, prog="foreframe evaluate")
    given = {name: value for name, value in vars(options).items() if name not in _NOT_OF_THE_TRACK}
    from foreframe.runs import evaluate_run
    from foreframe.tables import print_scores

    with _progress("evaluate", "clips") as progress:
        content = evaluate_run(
            options.run,
            data=options.data,
            inference=options.inference,
            permissions=options.permissions,
            predicting={name: value for name, value in given.items() if value != getattr(own, name, value)},
            progress=progress,
        )
    if _from_environment("RANK", 0):
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


def _report(arguments: list[str]) -> int:
    options = _parse(ReportOptions, arguments, prog="foreframe report")
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


def _export(arguments: list[str]) -> int:
    options = _parse(ExportOptions, arguments, prog="foreframe export")
    from foreframe.runs import export_run

    needed = export_run(options.run, options.out, average_with=options.average_with, permissions=options.permissions)
    print(f"wrote {options.out}")
    for name in needed:
        print(f"foreframe: {options.out}: still names {name}; whoever gets it needs that too", file=sys.stderr)
    return 0


@dataclass(frozen=True, kw_only=True)
class RecipesOptions:
    """List the named recipes."""


def _recipes(arguments: list[str]) -> int:
    _parse(RecipesOptions, arguments, prog="foreframe recipes")
    from foreframe.recipes import RECIPES

    width = max(map(len, RECIPES))
    for name, recipe in RECIPES.items():
        print(f"{name:<{width}}  {' '.join((recipe.__doc__ or '').split())}")
    return 0


# -- pieces ----------------------------------------------------------------------------------------------------------


def _recipe(name: str) -> Any:
    from foreframe.recipes import RECIPES

    if name not in RECIPES:
        raise UsageError(f"{name}: no such recipe; there are: {', '.join(RECIPES)}")
    return RECIPES[name]()


def _parse(options: type[T] | Any, arguments: list[str], *, prog: str, default: Any = None) -> T:
    """Options from the command line; whatever tyro has to say against them becomes one line."""
    keywords = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(options, prog=prog, args=arguments, **keywords)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(f"{_one_line(said.getvalue())}; {prog} --help lists the options") from None


def _one_line(box: str) -> str:
    """The message inside tyro's framed error, without the frame, the title and what follows it after a rule."""
    words: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip("│╭╮╰╯| ")
        is_rule = set(text) <= {"─", "-"}
        if is_rule and words:
            break
        words += [] if is_rule else text.split()
    return " ".join(words).replace("Error parsing config.", "").removeprefix("Error parsing ").rstrip(".")


@contextlib.contextmanager
def _progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} " + unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=2)
    task = bar.add_task(label, total=None)

    def show(done: int, total: int) -> None:
        # Shown only once there is progress, so that a fault found before it is told in one line.
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()


def _complain(message: object) -> None:
    print(f"foreframe: {' '.join(str(message).split())}", file=sys.stderr)
