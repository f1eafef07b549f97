"""Show the demo's judgement: as a table with a verdict, or as one JSON document."""

from __future__ import annotations

from dataclasses import asdict

from .._errors import os_name
from .._impl import backend
from .._version import __version__
from ._guarding import KINDS, Kind
from ._idle import LIMIT
from ._judge import Failure, GroupResult, Report, Run
from ._show import Show, Table, Tone, paragraphs
from ._words import counted, joined, latency, seconds

__all__ = ["SCHEMA", "as_json", "summarize"]

_FAILURES_SHOWN = 12

SCHEMA = """\
JSON document (schema 1; keys are only added):
  schema command version implementation system
  ok           true exactly if the exit status is 0
  guard        false with --no-guard
  connections elapsed
  detect_within  the limit in seconds
  tuned        what the listener holds; null with --no-guard: idle interval
               count user_timeout rto_max detects_idle_within
               detects_in_flight_within
  groups       list: name title connections healthy expected (list of states)
               found (state: number) right latency_median latency_worst
               ended slowest_end limit (the last three null if not required)
  guarded      list, the clients of a server of others: kind title connections
               limit (null: to be spared) ended earliest latest
  idle         the second server's idle timeout: limit, connections, to_end,
               earliest, latest (seconds of silence; null if none ended)
  criteria     list: rule title ok kept total
  failures     list: connection group address rule expected found
  Times are seconds."""


def as_json(run: Run, report: Report, elapsed: float) -> dict[str, object]:
    """Return the document that SCHEMA describes."""
    return {
        "schema": 1,
        "command": "demo",
        "version": __version__,
        "implementation": backend.NAME,
        "system": os_name(),
        "ok": report.ok,
        "guard": run.guarded,
        "connections": len(run.connections),
        "elapsed": round(elapsed, 3),
        "detect_within": run.within,
        "tuned": _tuned(run),
        "groups": [_group(result, run.within) for result in report.groups],
        "guarded": [_kind(kind, run) for kind in KINDS],
        "idle": _idle(run),
        "criteria": [
            {
                "rule": criterion.rule,
                "title": criterion.title,
                "ok": criterion.ok,
                "kept": criterion.kept,
                "total": criterion.total,
            }
            for criterion in report.criteria
        ],
        "failures": [asdict(failure) for failure in report.failures],
    }


def _tuned(run: Run) -> dict[str, object] | None:
    held = run.held
    if held is None:
        return None
    return {
        "idle": held.idle,
        "interval": held.interval,
        "count": held.count,
        "user_timeout": held.user_timeout,
        "rto_max": held.rto_max,
        "detects_idle_within": held.detects_idle_within,
        "detects_in_flight_within": held.detects_in_flight_within,
    }


def _idle(run: Run) -> dict[str, object]:
    ends = [c.ended_after for c in run.idle_clients if c.ended_after is not None]
    return {
        "limit": LIMIT,
        "connections": len(run.idle_clients),
        "to_end": sum(c.must_end for c in run.idle_clients),
        "earliest": _rounded(min(ends, default=None)),
        "latest": _rounded(max(ends, default=None)),
    }


def _kind(kind: Kind, run: Run) -> dict[str, object]:
    clients = [c for c in run.guarded_clients if c.kind is kind]
    ends = [c.ended_after for c in clients if c.ended_after is not None]
    return {
        "kind": kind.name,
        "title": kind.title,
        "connections": len(clients),
        "limit": kind.limit,
        "ended": len(ends),
        "earliest": _rounded(min(ends, default=None)),
        "latest": _rounded(max(ends, default=None)),
    }


def _group(result: GroupResult, within: float) -> dict[str, object]:
    ends = result.group.ends
    return {
        "name": result.group.name,
        "title": result.group.title,
        "connections": result.total,
        "healthy": result.group.healthy,
        "expected": [state.value for state in result.group.right],
        "found": result.found,
        "right": result.right,
        "latency_median": _rounded(result.median),
        "latency_worst": _rounded(result.worst),
        "ended": result.ended if ends else None,
        "slowest_end": _rounded(result.slowest_end) if ends else None,
        "limit": within if ends else None,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def summarize(show: Show, run: Run, report: Report, elapsed: float) -> None:
    """Write the summary table, the criteria, the failures and the verdict."""
    show.line()
    show.table(_table(report))
    show.line()
    show.table(_guarded_table(run))
    show.line()
    for criterion in report.criteria:
        mark = "ok  " if criterion.ok else "FAIL"
        kept = counted(criterion.kept, criterion.total)
        tone: Tone = "good" if criterion.ok else "bad"
        show.line(f"{mark}  {kept:>12}  {criterion.title}", tone)
    if report.failures:
        _failures(show, report)
    show.line()
    show.line(_verdict(run, report, elapsed), "good" if report.ok else "bad")


def _table(report: Report) -> Table:
    table = Table(("client", "expected", "right", ">median", ">worst", ">ended in"))
    for result in report.groups:
        right = counted(result.right, result.total)
        if list(result.found) != [result.group.right[0].value]:
            right += f" ({joined(result.found)})"
        ended = ""
        if result.group.ends:
            ended = "never" if result.slowest_end is None else f"{result.slowest_end:.1f} s"
        table.add(
            result.group.title,
            result.group.right[0].value,
            right,
            latency(result.median),
            latency(result.worst),
            ended,
            tone="" if result.right == result.total else "bad",
        )
    return table


def _guarded_table(run: Run) -> Table:
    table = Table(("client of a server of others", ">limit", ">ended", ">after"))
    for kind in KINDS:
        clients = [c for c in run.guarded_clients if c.kind is kind]
        ends = [c.ended_after for c in clients if c.ended_after is not None]
        wanted = 0 if kind.limit is None else len(clients)
        table.add(
            kind.title,
            "spare" if kind.limit is None else f"{kind.limit:g} s",
            counted(len(ends), len(clients)),
            f"{min(ends):.1f} to {max(ends):.1f} s" if ends else "",
            tone="" if len(ends) == wanted else "bad",
        )
    return table


def _failures(show: Show, report: Report) -> None:
    shown = report.failures
    if len(shown) > _FAILURES_SHOWN:
        shown = _one_of_each_kind(shown)
    lines = []
    for failure in shown:
        lines += [
            f"{_name(failure)} ({failure.group}, client {failure.address}):",
            f"  expected {failure.expected}",
            f"  found    {failure.found}",
        ]
    more = len(report.failures) - len(shown)
    if more > 0:
        lines.append(f"and {more} more of these kinds (--json lists them all)")
    paragraphs(show, "What went wrong", lines)


def _name(failure: Failure) -> str:
    return (
        f"connection {failure.connection}" if failure.connection else "connection to another server"
    )


def _one_of_each_kind(failures: list[Failure]) -> list[Failure]:
    kinds: dict[tuple[str, str], Failure] = {}
    for failure in failures:
        group = failure.group if failure.rule == "verdict" else ""
        kinds.setdefault((failure.rule, group), failure)
    return list(kinds.values())


def _verdict(run: Run, report: Report, elapsed: float) -> str:
    total = len(run.connections) + len(run.idle_clients) + len(run.guarded_clients)
    took = seconds(elapsed)
    if report.ok:
        return f"ok: {total} connections, every one told right, in {took} ({backend.NAME})"
    missed = sum(not criterion.ok for criterion in report.criteria)
    wrong = len({failure.address for failure in report.failures})
    rules = counted(missed, len(report.criteria))
    text = f"FAILED: {rules} rules missed, on {counted(wrong, total)} connections, in {took}"
    return text if run.guarded else f"{text} (--no-guard)"
