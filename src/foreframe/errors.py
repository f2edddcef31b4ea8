"""The two errors a person can cause, and the exit status each one ends with."""


class InputError(ValueError):
    """What was given to read is faulty: a broken file, an empty folder, a mismatch. Exit status 1.

    The message is one line that says what is wrong, where, and what to do.
    """


class UsageError(ValueError):
    """The command line is wrong: an unknown recipe, a path that is not there, a place not writable. Exit status 2."""
