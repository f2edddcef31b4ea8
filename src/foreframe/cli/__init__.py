"""The command line: reads options, calls the library, and turns every fault of the input into one line.

Exit status: 0 done; 1 the input is faulty, or a device fails during the work; 2 refused before any work begins;
128 and the signal's number where one stopped it, 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import foreframe
from foreframe.cli.data import data_command
from foreframe.cli.evaluate import evaluate_command, export_command, report_command
from foreframe.cli.faults import out_of_memory, place_of
from foreframe.cli.output import complain, complain_output, finish_streams, is_output_failure, prepare_streams
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
    """Run one command and return its exit status; everything is written by then."""
    prepare_streams()
    return finish_streams(_status(arguments))


def _status(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except SystemExit as stop:  # after a command's --help
        return int(stop.code or 0)
    except UsageError as error:
        complain(error)
        return 2
    except InputError as error:
        complain(error)
        return 1
    except ValueError as error:
        # What an option or a file makes wrong is told where it is read. This comes from elsewhere.
        complain(f"{type(error).__name__} in {place_of(error)}: {error}; please report this fault with the command")
        return 1
    except Stopped as stopped:
        return 128 + stopped.number
    except KeyboardInterrupt:
        complain("stopped")
        return 130
    except OSError as error:
        if is_output_failure(error):
            complain_output(error)
        else:
            # A full disk, a file that may not be read: the system says which and why.
            reason = error.strerror or str(error)
            complain(f"{error.filename}: {reason}" if error.filename else reason)
        return 1
    except (MemoryError, RuntimeError) as error:
        if (line := out_of_memory(error)) is None:
            raise
        complain(line)
        return 1


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"foreframe {foreframe.__version__}")
        return 0
    _require_working_directory()
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


def _require_working_directory() -> None:
    try:
        Path.cwd()
    except OSError as error:
        raise UsageError(
            f"the working directory is not there any more ({error.strerror}); change into one that is, with cd"
        ) from error


def _overview() -> str:
    lines = ["usage: foreframe COMMAND ...", "", f"{foreframe.__doc__}", ""]
    lines += [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    return "\n".join([*lines, "", "foreframe COMMAND --help tells a command's options."])
