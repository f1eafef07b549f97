"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["counted", "duration", "joined", "latency", "seconds"]


def seconds(value: float) -> str:
    """Write seconds without superfluous digits: ``5.5 s``."""
    return f"{value:.1f}".removesuffix(".0") + " s"


def latency(value: float | None) -> str:
    """Write a short time in the unit that fits it."""
    if value is None:
        return "-"
    if value < 0.001:
        return f"{value * 1e6:.0f} us"
    if value < 1:
        return f"{value * 1e3:.1f} ms"
    return f"{value:.2f} s"


def duration(value: float) -> str:
    """Write a long time in hours, minutes and seconds: ``2 h 11 min 15 s``."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"


def counted(number: int, total: int) -> str:
    return f"{number} of {total}"


def joined(parts: Iterable[object], none: str = "none") -> str:
    return ", ".join(map(str, parts)) or none
