"""The two errors a person can cause, and the exit status each one ends with."""

from __future__ import annotations

import math
import re


class InputError(ValueError):
    """What was given to read is faulty: a broken file, an empty folder, a mismatch. Exit status 1.

    The message is one line that says what is wrong, where, and what to do.
    """


class UsageError(ValueError):
    """The command line is wrong: an unknown recipe, a path that is not there, a place not writable. Exit status 2."""


class Stopped(Exception):
    """A signal asked the work to end, what was done is kept, and that has been said. Exit status 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


LARGEST = 2**53
"""Largest setting that has no bound of its own: `config.json` holds it exactly, and reads it again."""


def require(config: object, **ranges: tuple[float, float]) -> None:
    """Raise `ValueError` unless each named field of `config` is None or within its inclusive range.

    NaN is in no range. Where a range has no upper end, `LARGEST` is it.
    """
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= min(high, LARGEST):
            is_open = high == math.inf and not value > LARGEST
            bound = f"at least {low}" if is_open else f"from {low} to {min(high, LARGEST)}"
            raise ValueError(f"{name} must be {bound}, not {value}")


def require_revision(config: object, name: str) -> None:
    """Raise `ValueError` unless the named field of `config` is None or a commit's 40 hexadecimal digits."""
    value = getattr(config, name)
    if value is not None and not re.fullmatch(r"[0-9a-f]{40}", value):
        raise ValueError(f"{name} must be a commit, 40 hexadecimal digits, not {value[:60]!r}")
