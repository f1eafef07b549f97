"""Each server of docs/recipes.md, as it comes, with the lines of the page: who is ended, who not.

Many servers run side by side, each with its own clients; the tests look at
what those saw. On a busy machine things come late, which is allowed within
wide bounds; nothing may ever come early.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import stillalive

from . import recipe_clients as clients
from . import servers
from .recipe_clients import LIMITS, Outcome, Stuck
from .servers import SERVERS, Server

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far"),
    pytest.mark.skipif(
        shutil.which("setsid") is None, reason="servers are started with setsid (util-linux)"
    ),
]

SIDE_BY_SIDE = 9
LATE = 0.5
NOISE = 4.0
"""Seconds that a busy machine may add."""
RATE_LATE = 5.0
"""A rate is looked at in stretches of so many seconds."""
TICK = 0.01
TRIES = 3
STALL = 0.5
"""Seconds. Where even the clients rested for so long, a healthy one may have looked stuck."""

RUN = (
    "uvicorn-httptools",
    "gunicorn-preload",
    "gunicorn-gevent",
    "hypercorn",
    "granian",
    "gevent.pywsgi",
    "http.server",
    "asyncssh",
)
"""Servers that are guarded by the command, too: each starts its processes in its own way."""


class Case(NamedTuple):
    server: Server
    secured: bool = False
    by_command: bool = False

    def __str__(self) -> str:
        how = ["-tls"] * self.secured + ["-run"] * self.by_command
        return "".join([self.server.name, *how])


CASES = [
    *(Case(server) for server in SERVERS.values()),
    *(Case(server, secured=True) for server in SERVERS.values() if server.secured is not None),
    *(Case(SERVERS[name], by_command=True) for name in RUN),
]
cases = pytest.mark.parametrize("case", CASES, ids=str)


class Outcomes:
    """What the clients of each server saw, or why it could not be started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.found: dict[Case, Outcome] = {}
        self.failed: dict[Case, BaseException] = {}
        self.pair = servers.make_certificate(directory)
        self.context = ssl.create_default_context()
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE

    def gather(self, wanted: list[Case]) -> None:
        asyncio.run(self._gather(wanted))

    async def _gather(self, wanted: list[Case]) -> None:
        room = asyncio.Semaphore(SIDE_BY_SIDE)
        await asyncio.gather(*(self._one(case, room) for case in wanted))

    async def _one(self, case: Case, room: asyncio.Semaphore) -> None:
        async with room:
            for _ in range(TRIES):
                try:
                    self.found[case] = outcome = await self._attend(case)
                except Exception as error:
                    self.failed[case] = error
                    return
                if not outcome.problems or outcome.stalled < STALL:
                    return

    async def _attend(self, case: Case) -> Outcome:
        pair = self.pair if case.secured else None
        where = Path(tempfile.mkdtemp(dir=self.directory)) / "server"
        async with servers.started(
            case.server, where, LIMITS, pair, by_command=case.by_command
        ) as running:
            return await clients.attend(running, self.context)

    def of(self, case: Case) -> Outcome:
        if missing := case.server.missing():
            pytest.skip(f"not installed: {', '.join(missing)}")
        if case in self.failed:
            raise AssertionError(f"{case} could not be tried") from self.failed[case]
        return self.found[case]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Run what the chosen tests ask for, all of it side by side."""
    pytest.importorskip("trustme")
    made = Outcomes(tmp_path_factory.mktemp("recipes"))
    chosen = {
        item.callspec.params["case"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and hasattr(item, "callspec")
        and "case" in item.callspec.params
    }
    made.gather([case for case in CASES if case in chosen and not case.server.missing()])
    return made


def ended_of(outcome: Outcome) -> Iterator[tuple[str, list[Stuck]]]:
    for kind, stuck in outcome.stuck.items():
        left = [one for one in stuck if one.ended is None]
        assert not left, f"{len(left)} of {len(stuck)} are still open: {kind}"
        yield kind, stuck


def earliest(kind: str, case: Case) -> float:
    limit = clients.limit_of(case.server, kind)
    # With TLS 1.3 the server's tickets may leave after the first bytes of the request.
    after_tickets = case.secured and kind == "head"
    return min(limit, LIMITS["answered"]) if after_tickets else limit


def latest(kind: str, case: Case, count: int) -> float:
    limit = clients.limit_of(case.server, kind)
    bound = limit + LATE
    if clients.speech_of(case.server, secured=case.secured).healthy == ():
        bound += count * limit  # one after the other
    if kind == "trickle":
        bound += RATE_LATE
    if kind == "mute":
        bound += 1  # a ping is sent yet
    return bound


@cases
def test_who_is_stuck_is_ended_neither_early_nor_late(case: Case, outcomes: Outcomes) -> None:
    for kind, stuck in ended_of(outcomes.of(case)):
        times = [one.ended for one in stuck if one.ended is not None]
        assert min(times) >= earliest(kind, case) - TICK, f"{kind}: early: {sorted(times)}"
        bound = latest(kind, case, len(times))
        assert statistics.median(times) <= bound + NOISE / 2, f"{kind}: late: {sorted(times)}"
        assert max(times) <= bound + NOISE, f"{kind}: late: {sorted(times)}"


@cases
def test_the_server_closes_what_was_ended(case: Case, outcomes: Outcomes) -> None:
    late = case.server.frees_late
    for kind, stuck in ended_of(outcomes.of(case)):
        times = [one.freed for one in stuck if one.freed is not None]
        assert len(times) == len(stuck), f"{kind}: {len(stuck) - len(times)} are never closed"
        assert max(times) <= LATE + late + NOISE, f"{kind}: {sorted(times)}"


@cases
def test_who_is_well_is_left_alone_and_served(case: Case, outcomes: Outcomes) -> None:
    outcome = outcomes.of(case)

    assert outcome.problems == []
    assert outcome.waits
    assert statistics.median(outcome.waits) <= NOISE / 2


# The page.


def test_every_recipe_of_the_page_is_used_and_every_server_has_one() -> None:
    assert set(servers.recipes()) == {server.recipe for server in SERVERS.values()}


def test_a_recipe_says_where_it_belongs() -> None:
    for server in SERVERS.values():
        recipe = servers.recipes()[server.recipe]
        assert (recipe.caption == servers.CONFIG) == server.config, server.name


def test_limits_are_replaced_and_nothing_else() -> None:
    recipe = servers.Recipe("here", "Guard(never_spoke=10, answered=75.5, evict_above=900)")
    assert recipe.with_limits({"never_spoke": 2}) == (
        "Guard(never_spoke=2, answered=None, evict_above=900)"
    )


def test_without_its_recipe_a_server_keeps_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is the page's lines that end them; and clients that are not stuck would be found."""
    monkeypatch.setattr(clients, "PATIENCE", 6.0)
    server = SERVERS["http.server"]

    async def attend() -> Outcome:
        async with servers.started(server, tmp_path / "bare", None) as running:
            return await clients.attend(running, ssl.create_default_context())

    outcome = asyncio.run(attend())

    assert set(outcome.stuck) == {"silent", "head", "trickle", "idle"}
    assert [one for stuck in outcome.stuck.values() for one in stuck if one.ended is not None] == []


def test_what_was_started_ends_with_who_started_it(tmp_path: Path) -> None:
    async def start_and_fail() -> int:
        async with servers.started(SERVERS["http.server"], tmp_path / "one", None) as server:
            return server.group

    group = asyncio.run(start_and_fail())

    assert not servers.running(group)


# A pool of threads, all of them taken.

needs_gunicorn = pytest.mark.skipif(
    bool(SERVERS["gunicorn-gthread"].missing()), reason="not installed: gunicorn"
)
GTHREAD = dataclasses.replace(
    SERVERS["gunicorn-gthread"],
    command=SERVERS["gunicorn-gthread"].command.replace("--threads 100", "--threads 4"),
)


async def served(made: clients.Clients) -> bool:
    """Ask once; one that waited for a thread for longer than the limit may be ended, too."""
    try:
        await made.fresh()
    except (*clients.CUT, AssertionError):
        await asyncio.sleep(0.05)
        return False
    return True


async def wait_behind_heads(
    directory: Path,
    count: int,
    limits: dict[str, float] | None,
    patience: float = clients.PATIENCE / 2,
) -> float:
    """Return how long a request waits for one of 4 threads when `count` heads are half sent."""
    async with servers.started(GTHREAD, directory, limits) as server:
        made = clients.Clients(server, Outcome(), ssl.create_default_context())
        began = time.monotonic()
        stuck = [asyncio.create_task(made.sticky(made.head, Stuck(0))) for _ in range(count)]
        try:
            await asyncio.sleep(1)
            async with asyncio.timeout(patience):
                while not await served(made):
                    pass
            return time.monotonic() - began
        finally:
            for one in stuck:
                one.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)
            made.close()


@needs_gunicorn
@pytest.mark.parametrize(("count", "rounds"), [(4, 1), (400, 100)])
def test_four_threads_serve_again_soon_after_the_limit(
    count: int, rounds: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Heads behind the first four wait unread for a thread; each is ended when it has one."""
    waited = asyncio.run(wait_behind_heads(tmp_path / "server", count, LIMITS))

    record_property("seconds", round(waited, 2))
    assert LIMITS["unanswered"] - TICK <= waited
    assert waited <= LIMITS["unanswered"] + LATE + (rounds - 1) * 0.05 + NOISE


@needs_gunicorn
def test_four_threads_serve_nobody_without_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(wait_behind_heads(tmp_path / "server", 4, None, patience=7))


def test_this_package_is_what_the_servers_import() -> None:
    assert callable(stillalive.Guard)
