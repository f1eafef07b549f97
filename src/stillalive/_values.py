"""Check the numbers that callers give: one wording for every argument."""

from __future__ import annotations

import math
import numbers
import operator
from typing import SupportsIndex

from . import _backend as b

__all__ = ["Seconds", "as_count", "as_flag", "as_seconds", "as_timeout", "plain"]

Seconds = int | float

_EXACT = (int, float)  # asking the abstract classes costs ten times as much


def plain(value: float) -> str:
    """Write a number of seconds without superfluous digits."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def as_seconds(name: str, value: object, *, zero: bool = False) -> Seconds:
    """Return `value` as a finite number of seconds, or raise naming `name`.

    ``TypeError`` for what is no number, ``ValueError`` for NaN, infinity,
    negative numbers, and 0 unless `zero` allows it.
    """
    if type(value) not in _EXACT and (
        isinstance(value, bool) or not isinstance(value, numbers.Real)
    ):
        raise TypeError(f"{name}={value!r}: must be a number of seconds (int or float)")
    try:
        seconds: Seconds = value if isinstance(value, (int, float)) else float(value)  # type: ignore[arg-type]
        finite = math.isfinite(seconds)
    except OverflowError:
        seconds, finite = 0, False
    allowed = "0 or more seconds" if zero else "more than 0 seconds"
    if not finite or seconds < 0 or (seconds == 0 and not zero):
        raise ValueError(f"{name}={value!r}: must be finite and {allowed}")
    return seconds


def as_timeout(name: str, value: object) -> Seconds | None:
    """Return `value` as seconds that the ticks can hold, or None."""
    if value is None:
        return None
    seconds = as_seconds(name, value)
    if seconds > b.MOST_SECONDS:
        raise ValueError(f"{name}={value!r}: must be at most {b.MOST_SECONDS} seconds")
    return seconds


def as_count(name: str, value: object) -> int:
    """Return `value` as a positive int, or raise naming `name`."""
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, SupportsIndex)):
        raise TypeError(f"{name}={value!r}: must be an int")
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{name}={value!r}: must be 1 or more")
    return number


def as_flag(name: str, value: object) -> bool:
    """Return `value` if it is True or False, or raise naming `name`."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: must be True or False")
    return value
