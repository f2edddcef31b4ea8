"""`foreframe demo`, `plan`, `train` and `recipes`: what makes a run, and what it costs."""

# No `from __future__ import annotations` here: the options of some commands are classes made inside functions, whose
# annotations can only be resolved where they stand.

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import AvoidSubcommands

from foreframe.cli.options import GivenPermissions, parse, recipe_named, require_utf8
from foreframe.permissions import NONE


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Train a tiny model on the shipped sample, score it and the shipped weights, and write a page to look at."""

    out: Path = Path("out/demo")
    """Folder for the runs and the page. Stopped half-way, the same command goes on."""
    num_steps: int | None = None
    """Optimiser steps of the model trained from scratch; default: the recipe's, about two minutes on two cores."""


def demo_command(arguments: list[str]) -> int:
    """Train, evaluate and show on the sample."""
    options = parse(DemoOptions, arguments, prog="foreframe demo")
    require_utf8(options.out)
    from foreframe.demo import demo

    demo(options.out, num_steps=options.num_steps)
    return 0


def plan_command(arguments: list[str]) -> int:
    """Say what training a recipe costs."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: foreframe plan RECIPE [--json] [--device cuda|cpu] [--field.sub VALUE ...]")
        print("`foreframe recipes` lists the recipes, `foreframe plan RECIPE --help` a recipe's fields")
        return 0 if arguments else 2
    config = recipe_named(arguments[0])
    from foreframe.config import RunConfig
    from foreframe.plan import PlanConfig, plan, print_plan

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Say what training a recipe costs. Nothing is loaded, computed or written; options as for `train`."""

        json: bool = False
        """Print JSON."""
        settings: Annotated[PlanConfig, tyro.conf.arg(name="")] = field(default_factory=PlanConfig)
        config: Annotated[RunConfig, tyro.conf.arg(name="")]

    options = parse(
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


def train_command(arguments: list[str]) -> int:
    """Train a recipe into a run folder."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: foreframe train RECIPE --out RUN [--field.sub VALUE ...]")
        print("`foreframe recipes` lists the recipes, `foreframe train RECIPE --help` a recipe's fields")
        return 0 if arguments else 2
    from foreframe.config import RunConfig

    config = recipe_named(arguments[0])

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Train a recipe into a run folder. The same command again resumes it."""

        out: Path
        """Run folder: new, or one that this command made."""
        permissions: GivenPermissions = NONE
        config: Annotated[RunConfig, tyro.conf.arg(name="")]

    options = parse(
        AvoidSubcommands[Options],  # type: ignore[valid-type]
        arguments[1:],
        prog=f"foreframe train {arguments[0]}",
        default=Options(out=tyro.MISSING, config=config),
    )
    require_utf8(options.out)
    from foreframe.runs import train_run

    train_run(options.out, _with_absolute_paths(options.config), permissions=options.permissions)
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


@dataclass(frozen=True, kw_only=True)
class RecipesOptions:
    """List the named recipes."""


def recipes_command(arguments: list[str]) -> int:
    """List the named recipes."""
    parse(RecipesOptions, arguments, prog="foreframe recipes")
    from foreframe.recipes import RECIPES

    width = max(map(len, RECIPES))
    for name, recipe in RECIPES.items():
        print(f"{name:<{width}}  {' '.join((recipe.__doc__ or '').split())}")
    return 0
