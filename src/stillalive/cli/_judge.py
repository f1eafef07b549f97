"""Judge what the demo saw: one table of rules, the same with and without the package."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from ..liveness import State
from ..policy import KeepAlive
from ._examine import Verdict
from ._groups import GROUPS, Client, Group
from ._guarding import GuardedClient
from ._http_server import Session
from ._idle import LATE, LIMIT, IdleClient
from ._words import joined, seconds

__all__ = ["RULES", "Connection", "Criterion", "Failure", "GroupResult", "Report", "Run", "judge"]


@dataclass(slots=True)
class Connection:
    """One connection, both its ends, and everything observed about it."""

    number: int
    group: Group
    client: Client
    session: Session
    tuned: bool = False
    options_before: dict[str, int] = field(default_factory=dict)
    options_after: dict[str, int] = field(default_factory=dict)
    known: Verdict | None = None
    """What could be said at once."""
    found: Verdict | None = None
    """What asking brought."""
    vanished_at: float = 0.0
    """Last sign of life, or first unanswered write; monotonic clock."""
    ended_after: float | None = None
    ended_by: str = ""
    later_answer: str = "none"

    @property
    def latency(self) -> float | None:
        """Seconds from the question to the right verdict."""
        if self.known is not None and not self.known.state.usable:
            return self.known.seconds
        return None if self.found is None else self.found.seconds


@dataclass(slots=True)
class Run:
    """Everything that is judged."""

    guarded: bool
    within: float
    held: KeepAlive | None
    connections: list[Connection]
    server_answers: int = 0
    server_asked: int = 0
    idle_clients: list[IdleClient] = field(default_factory=list)
    guarded_clients: list[GuardedClient] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Failure:
    """One expectation about one connection that was not met."""

    connection: int
    group: str
    address: str
    rule: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Criterion:
    """One rule and how many connections kept it."""

    rule: str
    title: str
    kept: int
    total: int

    @property
    def ok(self) -> bool:
        return self.kept == self.total > 0


@dataclass(frozen=True, slots=True)
class GroupResult:
    """The summary of one group."""

    group: Group
    total: int
    right: int
    found: dict[str, int]
    median: float | None
    worst: float | None
    ended: int
    slowest_end: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """The judgement; ``ok`` decides the exit status."""

    ok: bool
    groups: list[GroupResult]
    criteria: list[Criterion]
    failures: list[Failure]


Finding = tuple[str, str]
"""(expected, found)"""


@dataclass(frozen=True, slots=True)
class Rule:
    """An expectation about connections: whom it concerns, and how it is missed."""

    name: str
    title: str
    concerns: Callable[[Connection], bool]
    missed: Callable[[Connection, float], Finding | None]


def _everybody(connection: Connection) -> bool:
    return True


def _healthy(connection: Connection) -> bool:
    return connection.group.healthy


def _mortal(connection: Connection) -> bool:
    return connection.group.ends


def _state(connection: Connection) -> str:
    found = connection.found
    return "no verdict" if found is None else f"{found.state.value} ({found.reason})"


def _options(options: dict[str, int]) -> str:
    return joined(f"{name} {value}" for name, value in options.items())


def _wrong_verdict(connection: Connection, within: float) -> Finding | None:
    if connection.found is not None and connection.found.state in connection.group.right:
        return None
    return " or ".join(state.value for state in connection.group.right), _state(connection)


def _unproved(connection: Connection, within: float) -> Finding | None:
    if connection.found is not None and connection.found.state is State.ALIVE:
        return None
    return "alive, proved by a segment from the client", _state(connection)


def _untuned(connection: Connection, within: float) -> Finding | None:
    if connection.tuned:
        return None
    return (
        f"the listener's values, which notice a vanished client within {seconds(within)}",
        f"other values: {_options(connection.options_before)}",
    )


def _changed(connection: Connection, within: float) -> Finding | None:
    before, after = connection.options_before, connection.options_after
    return None if before == after else (_options(before), _options(after))


def _endless(connection: Connection, within: float) -> Finding | None:
    after, by = connection.ended_after, connection.ended_by
    if after is not None and after <= within and by == "timeout":
        return None
    expected = f"ended by the kernel's timeout within {seconds(within)}"
    return expected, "still open" if after is None else f"ended by {by} after {after:.2f} s"


def _wrong_answer(connection: Connection, within: float) -> Finding | None:
    answer = connection.later_answer
    return None if answer == "right" else ("the right answer to a later request", answer)


RULES = (
    Rule("verdict", "the right verdict on every connection", _everybody, _wrong_verdict),
    Rule("proof", "every living client proved alive by its own answer", _healthy, _unproved),
    Rule("tuned", "accepted sockets inherited the listener's deadline", _everybody, _untuned),
    Rule("options", "no socket option differs after the probes", _everybody, _changed),
    Rule("ended", "vanished clients' connections ended within {within}", _mortal, _endless),
    Rule("answers", "healthy clients got the right answers afterwards", _healthy, _wrong_answer),
)


def judge(run: Run) -> Report:
    """Compare what was observed with what each group requires."""
    failures: list[Failure] = []
    criteria: list[Criterion] = []
    for rule in RULES:
        concerned = [c for c in run.connections if rule.concerns(c)]
        missed = [
            _failure(connection, rule, finding)
            for connection in concerned
            if (finding := rule.missed(connection, run.within)) is not None
        ]
        failures += missed
        kept = len(concerned) - len(missed)
        title = rule.title.format(within=seconds(run.within))
        criteria.append(Criterion(rule.name, title, kept, len(concerned)))
    criteria.append(
        Criterion("server", "the server answers new clients", run.server_answers, run.server_asked)
    )
    criteria += _judge_idle(run, failures)
    criteria += _judge_guarded(run, failures)
    groups = [_summary(group, run) for group in GROUPS]
    return Report(all(c.ok for c in criteria), groups, criteria, failures)


def _judge_idle(run: Run, failures: list[Failure]) -> list[Criterion]:
    """Silent clients of our own server are ended in time and never early, the others not."""
    criteria = []
    for name, title, concerned, missed in (
        (
            "idle",
            f"a server ended its silent clients after {LIMIT:g} s, none early",
            [c for c in run.idle_clients if c.must_end],
            _not_ended,
        ),
        (
            "busy",
            "and left alone those that talked, or read slowly",
            [c for c in run.idle_clients if not c.must_end],
            _disturbed,
        ),
    ):
        kept = 0
        for client in concerned:
            finding = missed(client)
            kept += finding is None
            if finding is not None:
                failures.append(Failure(0, client.kind, client.address, name, *finding))
        criteria.append(Criterion(name, title, kept, len(concerned)))
    return criteria


def _not_ended(client: IdleClient) -> Finding | None:
    after = client.ended_after
    if after is not None and LIMIT <= after <= LIMIT + LATE:
        return None
    expected = f"ended after {LIMIT:g} s, at most {LATE:g} s later"
    return expected, "still open" if after is None else f"ended after {after:.2f} s"


def _disturbed(client: IdleClient) -> Finding | None:
    if client.ended_after is not None:
        return "left open", f"ended after {client.ended_after:.2f} s of silence"
    return ("every byte, in order", "other bytes") if client.wrong else None


def _judge_guarded(run: Run, failures: list[Failure]) -> list[Criterion]:
    """Who exhausts a server of others is ended in time and never early, all others are spared."""
    criteria = []
    for name, title, concerned in (
        (
            "guard",
            "a guarded server got rid of its bad clients, none early",
            [c for c in run.guarded_clients if c.kind.limit is not None],
        ),
        (
            "spared",
            "and none of its healthy clients was touched",
            [c for c in run.guarded_clients if c.kind.limit is None],
        ),
    ):
        kept = 0
        for client in concerned:
            finding = _misguarded(client)
            kept += finding is None
            if finding is not None:
                failures.append(Failure(0, client.kind.name, client.address, name, *finding))
        criteria.append(Criterion(name, title, kept, len(concerned)))
    return criteria


def _misguarded(client: GuardedClient) -> Finding | None:
    kind, after = client.kind, client.ended_after
    found = "still open" if after is None else f"ended after {after:.2f} s"
    if kind.limit is None:
        if after is not None:
            return "left open", found
        return None if client.content else ("its answers", "too few of them, or incomplete")
    if after is not None and kind.limit <= after <= kind.limit + kind.late:
        return None
    return f"ended after {kind.limit:g} to {kind.limit + kind.late:g} s", found


def _failure(connection: Connection, rule: Rule, finding: Finding) -> Failure:
    address = "{}:{}".format(*connection.client.address)
    expected, found = finding
    return Failure(connection.number, connection.group.name, address, rule.name, expected, found)


def _summary(group: Group, run: Run) -> GroupResult:
    members = [c for c in run.connections if c.group is group]
    states: dict[str, int] = {}
    for connection in members:
        state = "none" if connection.found is None else connection.found.state.value
        states[state] = states.get(state, 0) + 1
    times = [c.latency for c in members if c.latency is not None]
    ends = [c.ended_after for c in members if c.ended_after is not None]
    return GroupResult(
        group=group,
        total=len(members),
        right=sum(_wrong_verdict(c, run.within) is None for c in members),
        found=states,
        median=statistics.median(times) if times else None,
        worst=max(times, default=None),
        ended=len(ends),
        slowest_end=max(ends, default=None),
    )
