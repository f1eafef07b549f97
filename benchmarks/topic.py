"""What a topic hands to the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stillalive import _impl
from stillalive._backend import Backend

from .native import Native
from .timing import Effort, Row

__all__ = ["Bench", "Facts", "Goal", "Topic"]


@dataclass(frozen=True)
class Bench:
    """What every topic needs."""

    native: Native
    compiled: Backend
    pure: Backend
    effort: Effort

    @classmethod
    def start(cls, effort: Effort) -> Bench:
        return cls(Native(), _impl.choose("c"), _impl.choose("pure"), effort)


@dataclass(frozen=True)
class Goal:
    """A figure to reach, and what was reached."""

    text: str
    reached: float
    at_most: float

    @property
    def met(self) -> bool:
        return self.reached <= self.at_most


@dataclass(frozen=True)
class Facts:
    """A table of observations that are not times."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Topic:
    """One table of times, and what belongs to it."""

    key: str
    title: str
    limit: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    goals: Sequence[Goal] = ()
    facts: Facts | None = None
