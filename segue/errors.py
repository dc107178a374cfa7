"""Errors that a user can cause and mend. Each message names the file, column, row, field or step, and the way out."""

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Real


class SegueError(Exception):
    """Base of all errors that the command line prints as one message without a traceback."""

    exit_code = 2


class ConfigError(SegueError):
    """A method, task, field or value that does not exist or does not fit."""


class DataError(SegueError):
    """A dataset that cannot be used as it is."""


class HandoverError(SegueError):
    """A state that does not fit the learner of the next phase."""


class CheckpointError(SegueError):
    """A run directory or checkpoint that cannot be read or written."""


class EnvironmentFault(SegueError):
    """An environment that raised, or returned something that its spaces do not allow."""


class Diverged(SegueError):
    """A loss, metric or parameter that is no longer finite."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest known word, else the list of the known ones."""
    known = sorted(known)
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def within(owner: object, **intervals: str) -> None:
    """Raises `ConfigError` unless each named field of `owner` lies in its interval, ``"[0, 1)"``.

    Of a tuple each item must lie there. None passes: a field that may be None says what that means.
    """
    for name, interval in intervals.items():
        low, high = map(float, interval[1:-1].split(","))
        value = getattr(owner, name)
        for x in value if isinstance(value, tuple | list) else (value,):
            inside = x is None or (isinstance(x, Real) and low <= float(x) <= high)
            if not inside or (interval[0] == "(" and x == low) or (interval[-1] == ")" and x == high):
                raise ConfigError(f"{type(owner).__name__}.{name} lies in {interval}, not {value!r}")
