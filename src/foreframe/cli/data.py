"""`foreframe data`: make, describe, check, look at and encode dataset folders."""

# No `from __future__ import annotations` here: the options of some commands are classes made inside functions, whose
# annotations can only be resolved where they stand.

import json
from collections.abc import Callable  # noqa: TC003 (annotations are values here)
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from foreframe.cli.encode import encode_command
from foreframe.cli.options import parse
from foreframe.cli.output import printable, progress_bar, require_place
from foreframe.errors import InputError, UsageError


def data_command(arguments: list[str]) -> int:
    """Run one of the commands below `data`."""
    commands: dict[str, Callable[[list[str]], int]] = {
        "simulate": simulate_command,
        "info": info_command,
        "check": check_command,
        "sheet": sheet_command,
        "encode": encode_command,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: foreframe data {{{','.join(commands)}}} ...")
        return 0 if arguments else 2
    if arguments[0] not in commands:
        raise UsageError(f"data {arguments[0]}: no such command; there are: {', '.join(commands)}")
    return commands[arguments[0]](arguments[1:])


def simulate_command(arguments: list[str]) -> int:
    """Write a simulated dataset folder."""
    from foreframe.sim import SimulateConfig, is_made, simulate

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Write a simulated dataset folder in 1X's v2.0 format: video, states and segments of `evesim`."""

        out: Positional[Path]
        """Folder to make."""
        config: Annotated[SimulateConfig, tyro.conf.arg(name="")] = field(default_factory=SimulateConfig)

    options = parse(Options, arguments, prog="foreframe data simulate")
    if is_made(options.out, options.config):
        print(f"{options.out}: is made already")
        return 0
    with progress_bar("simulate", "frames") as progress:
        simulate(options.out, options.config, progress=progress)
    print(f"wrote {options.out}")
    if options.config.frames_per_episode > 60:
        print(_copy_last_line(_copy_last(options.out)))
    return 0


def _copy_last(folder: Path, on_bad_shard: Literal["raise", "skip"] = "raise") -> dict[str, Any]:
    from foreframe.data.describe import copy_last_psnr, distribution

    with progress_bar("copy last", "pairs") as progress:
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


def info_command(arguments: list[str]) -> int:
    """Say what a dataset folder holds."""
    options = parse(InfoOptions, arguments, prog="foreframe data info")
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


def check_command(arguments: list[str]) -> int:
    """Look for what is wrong with a dataset folder; status 1 if something is."""
    from foreframe.data.check import CheckConfig, check_folder

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Look for everything that can be wrong with a dataset folder. Exit status 1 if something was found."""

        folder: Positional[Path]
        """Dataset folder in 1X's v2.0 format, or one that holds split folders."""
        json: bool = False
        """Print JSON."""
        config: Annotated[CheckConfig, tyro.conf.arg(name="")] = field(default_factory=CheckConfig)

    options = parse(Options, arguments, prog="foreframe data check")
    with progress_bar("check", "frames") as progress:
        findings = check_folder(options.folder, options.config, progress=progress)
    if options.json:
        print(json.dumps({"folder": str(options.folder), "findings": [asdict(one) for one in findings]}, indent=1))
    else:
        for one in findings:
            where = f", {one.where}" if one.where else ""
            confidence = "" if one.confidence is None else f" (confidence {one.confidence:.3f})"
            print(printable(f"{one.file}{where}: {one.message} [{one.kind}]{confidence}"))
        print(
            f"{options.folder}: {len(findings)} finding{'s' * (len(findings) != 1)}"
            if findings
            else f"{options.folder}: nothing wrong found"
        )
    return 1 if findings else 0


_LARGEST_SHEET = 100_000_000
"""Pixels of a contact sheet that is still a picture to look at."""


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


def sheet_command(arguments: list[str]) -> int:
    """Write a contact sheet."""
    options = parse(SheetOptions, arguments, prog="foreframe data sheet")
    if min(options.rows, options.columns, options.size) < 1:
        raise UsageError("sheet: rows, columns and size must be at least 1")
    if options.rows * options.columns * options.size**2 > _LARGEST_SHEET:
        millions = _LARGEST_SHEET // 10**6
        raise UsageError(f"sheet: a picture of more than {millions} million pixels; ask for fewer or smaller frames")
    if options.out.suffix not in (".png", ".jpg", ".webp"):
        raise UsageError(f"{options.out}: is no .png, .jpg or .webp; name a picture with --out")
    require_place(options.out)
    from foreframe.data.describe import contact_sheet

    sheet = contact_sheet(options.folder, rows=options.rows, columns=options.columns, size=options.size)
    sheet.save(options.out, quality=90)
    print(f"wrote {options.out}")
    return 0
