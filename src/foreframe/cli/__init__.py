"""The command line: reads options, calls the library, and turns every fault of the input into one line.

Exit status: 0 done, 1 the input is faulty, 2 wrong usage, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import foreframe
from foreframe.cli.data import data_command
from foreframe.cli.evaluate import evaluate_command, export_command, report_command
from foreframe.cli.output import complain
from foreframe.cli.train import demo_command, plan_command, recipes_command, train_command
from foreframe.errors import InputError, Stopped, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `foreframe` command; exits with the status."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    try:
        return _dispatch(arguments)
    except UsageError as error:
        complain(error)
        return 2
    except InputError as error:
        complain(error)
        return 1
    except ValueError as error:
        # A value that only the library behind an option could judge.
        complain(error)
        return 1
    except Stopped as stopped:
        return 128 + stopped.number
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
        complain(f"{error.filename}: {reason}" if error.filename else reason)
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
        "demo": demo_command,
        "data": data_command,
        "plan": plan_command,
        "train": train_command,
        "evaluate": evaluate_command,
        "report": report_command,
        "export": export_command,
        "recipes": recipes_command,
    }
    if command not in commands:
        raise UsageError(f"{command}: no such command; there are: {', '.join(commands)}")
    return commands[command](rest)


def _overview() -> str:
    lines = ["usage: foreframe COMMAND ...", "", f"{foreframe.__doc__}", ""]
    lines += [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    return "\n".join([*lines, "", "foreframe COMMAND --help tells a command's options."])
