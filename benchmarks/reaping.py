"""How long a guarded server keeps stuck connections, and whether it serves meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import statistics
import sys
import tempfile
from pathlib import Path

from tests.integration import recipe_clients as clients
from tests.integration import servers

from .topic import Bench, Facts, Topic

__all__ = ["reap"]

_ONE_BY_ONE = 5
"""Stuck clients of a server that serves one client at a time."""
_LIMITS = {kind: value for kind, value in clients.LIMITS.items() if kind != "min_rate"}
_CAPTION = (
    "server",
    "stuck",
    "ended",
    "last one, s after its limit",
    "requests meanwhile",
    "answered",
    "median, ms",
    "longest, ms",
    "long-lived clients cut",
)


def reap(bench: Bench) -> Topic:
    """Be hundreds of stuck clients of each server of the recipes, and some that are well."""
    names = ["http.server"] if bench.effort.stuck < 100 else list(servers.SERVERS)
    found = [servers.SERVERS[name] for name in names]
    rows = [_reaped(server, bench.effort.stuck) for server in found if not server.missing()]
    missing = [server.name for server in found if server.missing()]
    limits = ", ".join(f"{name}={value:g}" for name, value in _LIMITS.items())
    return Topic(
        key="reap",
        title="stuck connections of servers that nobody patched, as their recipes guard them",
        limit="",
        rows=[],
        facts=Facts(
            title="stuck connections, ended by a Guard",
            columns=_CAPTION,
            rows=rows,
            notes=(
                (
                    f"Guard({limits}), at most 100 closes a second; in equal parts silent from the "
                    "beginning, in the middle of a request, and silent after an answer, as far as "
                    "the server has such."
                ),
                (
                    "Meanwhile a new connection asks every half a second; slow answers, event "
                    "streams, uploads and busy connections go on beside it."
                ),
                (
                    "All connect at once. Where the backlog is full a client's SYN is sent again, "
                    "after 1 s and then 2 s: most of what is over a second is that."
                ),
                (
                    "A worker that serves one client at a time meets its stuck clients one after "
                    "the other, so it has only a few, and is asked when they are gone."
                ),
                *([f"not installed: {', '.join(missing)}"] if missing else ()),
            ),
        ),
    )


def _reaped(server: servers.Server, count: int) -> list[str]:
    print(f"reap: {server.name}", file=sys.stderr, flush=True)
    usual = clients.speech_of(server, secured=False)
    kinds = [kind for kind in usual.stuck if kind != "trickle"]
    if not usual.healthy:
        count = min(count, _ONE_BY_ONE)
    shares = {kind: (count + i) // len(kinds) for i, kind in enumerate(kinds)}
    speech = dataclasses.replace(usual, stuck=shares)
    outcome = asyncio.run(_attended(server, speech))
    stuck = [one for ones in outcome.stuck.values() for one in ones]
    over = [one.ended - one.limit for one in stuck if one.ended is not None]
    waits = [wait * 1e3 for wait in outcome.waits]
    normal = [problem for problem in outcome.problems if problem.startswith(usual.normal)]
    return [
        server.name,
        str(len(stuck)),
        str(len(over)),
        f"{max(over, default=float('nan')):.2f}",
        str(len(waits) + len(normal)),
        str(len(waits)),
        f"{statistics.median(waits):.1f}" if waits else "-",
        f"{max(waits):.0f}" if waits else "-",
        str(len(outcome.problems) - len(normal)),
    ]


async def _attended(server: servers.Server, speech: clients.Speech) -> clients.Outcome:
    context = ssl.create_default_context()
    with tempfile.TemporaryDirectory(prefix="stillalive-reap-") as directory:
        where = Path(directory) / "server"
        async with servers.started(server, where, _LIMITS) as running:
            return await clients.attend(running, context, speech)
