"""What an error means to a person: where it comes from, and whether memory was what was missing."""

from __future__ import annotations

import os
import re
import traceback
from pathlib import Path

import foreframe

_NO_MEMORY = re.compile(
    r"can't allocate memory|[Cc]annot allocate memory|out of memory|Storage size calculation overflowed|bad_alloc"
)
_AMOUNT = re.compile(r"allocate (\d[\d.]* ?(?:bytes|[KMGTPE]i?B))")


def out_of_memory(error: BaseException) -> str | None:
    """One line about an error that says that memory, or the depth of calls, was not enough; None of any other.

    Torch raises a plain `RuntimeError` for memory that the system does not give it.
    """
    if isinstance(error, RecursionError):
        return "something is nested too deep to be followed; make it flatter"
    said = str(error)
    # By its name: torch may not be there, and is not imported for this.
    is_known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not is_known and not _NO_MEMORY.search(said):
        return None
    amount = f", {found[1]} were asked for at once" if (found := _AMOUNT.search(said)) else ""
    return f"not enough memory{amount}; smaller sizes, batches or fewer processes need less"


def place_of(error: BaseException) -> str:
    """File of this package and line from which an error comes."""
    root = str(Path(foreframe.__file__).parent)
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename.startswith(root)]
    return f"{os.path.relpath(frames[-1].filename, root)}, line {frames[-1].lineno}" if frames else "foreframe"
