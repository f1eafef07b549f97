"""Guard: what it takes, what it tells, and a real server that has no deadline of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import socket
import time

import pytest

from stillalive import _backend as b
from stillalive import _impl, _limits
from stillalive.guard import Guard, watch

from . import guarding
from .guarding import Blocked, deafen, served
from .serving import until

fake, real = guarding.fake, guarding.real

# ---- arguments --------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({}, ValueError, "needs a limit, at least one of: never_spoke, unanswered, answered"),
        ({"dry_run": True}, ValueError, "needs a limit"),
        ({"never_spoke": 0.9}, ValueError, "never_spoke=0.9: out of range .allowed: 1 to 4000000"),
        ({"never_spoke": 0}, ValueError, "never_spoke=0"),
        ({"unanswered": -3}, ValueError, "unanswered=-3"),
        ({"answered": float("inf")}, ValueError, "answered=inf: must be finite"),
        ({"stalled": "10"}, TypeError, "stalled='10': must be a number of seconds"),
        ({"stalled": 4_000_001}, ValueError, "stalled=4000001"),
        ({"answered": True}, TypeError, "answered=True"),
        ({"min_rate": 0}, ValueError, "min_rate=0: must be 1 or more"),
        ({"min_rate": 1.5}, TypeError, "min_rate=1.5: must be an int"),
        ({"min_rate": 2**31}, ValueError, "min_rate=2147483648: out of range"),
        ({"detect_within": 3}, ValueError, "detect_within=3: too short.*4 s"),
        ({"evict_above": 0}, ValueError, "evict_above=0"),
        ({"evict_above": 5, "evict_idle": 0.05}, ValueError, "evict_idle=0.05.*allowed: 0.1"),
        ({"answered": 5, "evict_idle": 1}, ValueError, "evict_idle=1: says nothing without"),
        ({"answered": 5, "dry_run": 1}, TypeError, "dry_run=1: must be True or False"),
        ({"answered": 5, "max_closes_per_second": 0}, ValueError, "max_closes_per_second=0"),
        ({"answered": 5, "max_closes_per_second": None}, TypeError, "max_closes_per_second=None"),
        ({"answered": 5, "exempt": "10.0.0.1"}, TypeError, "exempt='10.0.0.1': must be an iter"),
        ({"answered": 5, "exempt": 7}, TypeError, "exempt=7"),
        ({"answered": 5, "exempt": [7]}, TypeError, "exempt: 7 is no address"),
        ({"answered": 5, "exempt": ["10.0.0.0.1"]}, ValueError, "exempt: '10.0.0.0.1'"),
        ({"answered": 5, "exempt": ["10.0.0.1/8"]}, ValueError, "exempt: .*host bits set"),
        ({"answered": 5, "exempt": ["::1"] * 65}, ValueError, "65 networks.*allowed: 64"),
        ({"answered": 5, "on_event": 1}, TypeError, "on_event=1: must be callable"),
        ({"answered": 5, "listeners": "every"}, TypeError, "listeners='every': must be 'all'"),
        ({"answered": 5, "listeners": 80}, TypeError, "listeners=80"),
        ({"answered": 5, "listeners": []}, ValueError, "listeners=.*is empty"),
        ({"answered": 5, "listeners": [0]}, ValueError, "0 is no port .allowed: 1 to 65535"),
        ({"answered": 5, "listeners": [True]}, TypeError, "True is no port"),
        ({"answered": 5, "listeners": ["80"]}, TypeError, "'80' is no port and no socket"),
        ({"answered": 5, "listeners": range(1, 66)}, ValueError, "65 ports.*allowed: 64"),
        ({"answering": 5}, TypeError, "answering"),
    ],
)
def test_arguments_are_checked(fake, arguments, error, says):
    with pytest.raises(error, match=says):
        Guard(**arguments)
    assert fake == []


def test_what_a_watcher_is_told(fake):
    networks = ["10.0.0.0/8", ipaddress.ip_address("::1"), ipaddress.ip_network("192.0.2.0/30")]
    with Guard(
        listeners=[8000, 80, 8000],
        never_spoke=2,
        unanswered=2.3,
        answered=1.0004,
        min_rate=100,
        stalled=30,
        detect_within=60,
        evict_above=1000,
        evict_idle=0.5,
        exempt=iter(networks),
        dry_run=True,
        max_closes_per_second=7,
    ):
        settings = fake[0].settings
    # Rounded up, and a tick of the kernel's more: never early.
    assert settings._replace(pace=()) == b.WatcherSettings(
        never_spoke_ms=2010,
        unanswered_ms=2310,
        answered_ms=1011,
        stalled_ms=30_010,
        min_rate=100,
        detect_ms=57_000,
        discover=True,
        ports=(8000, 80),
        exempt=(
            (bytes((10, 0, 0, 0)), 8),
            (ipaddress.ip_address("::1").packed, 128),
            (bytes((192, 0, 2, 0)), 30),
        ),
        evict_above=1000,
        evict_idle_ms=510,
        dry_run=True,
        closes_per_second=7,
        pace=(),
        pace_jitter=3,
    )
    assert settings.pace[:5] == (1, 15, 15, 127, 0)


def test_no_limit_is_no_time(fake):
    with Guard(evict_above=10):
        settings = fake[0].settings
    assert settings == b.WatcherSettings(discover=True, evict_above=10, evict_idle_ms=1010)


def test_listening_sockets_name_their_ports(fake):
    with socket.create_server(("127.0.0.1", 0)) as one, socket.socket() as other:
        with Guard(answered=5, listeners=[one, 1]):
            assert fake[0].settings.ports == (one.getsockname()[1], 1)
        assert one.getblocking()
        with pytest.raises(ValueError, match="is a TCP socket, not a listening one"):
            Guard(answered=5, listeners=[other])
    with pytest.raises(OSError, match="closed"):
        Guard(answered=5, listeners=[one])


def test_without_a_watcher_it_is_not_supported(impl, monkeypatch):
    bare = dataclasses.make_dataclass("Bare", ["NAME"])("pure")
    monkeypatch.setattr(_impl, "backend", bare)
    with pytest.raises(OSError, match="watch and Guard: not supported"):
        Guard(answered=5).start()


# ---- update -----------------------------------------------------------------


def test_limits_change_while_it_runs(fake):
    guard = Guard(never_spoke=10, evict_above=5, evict_idle=2)
    guard.update(answered=60)
    with guard:
        assert fake[0].settings.answered_ms == 60_010
        guard.update(never_spoke=None, unanswered=3, exempt=["::1"], dry_run=True)
        settings = fake[0].settings
        assert (settings.never_spoke_ms, settings.unanswered_ms) == (b.NO_TIME, 3010)
        assert (settings.answered_ms, settings.evict_idle_ms) == (60_010, 2010)
        assert settings.dry_run
        assert len(settings.exempt) == 1
        guard.update(evict_above=None, exempt=None, max_closes_per_second=3)
        settings = fake[0].settings
        assert (settings.evict_above, settings.evict_idle_ms) == (b.NO_TIME, 1010)
        assert settings.exempt == ()
        assert settings.closes_per_second == 3
        assert "unanswered=3.0" in repr(guard)
        assert "running" in repr(guard)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"listeners": [80]}, TypeError, "update.. has no 'listeners' .allowed: never_spoke"),
        ({"on_event": print}, TypeError, "has no 'on_event'"),
        ({"never_spoke": 0.5}, ValueError, "never_spoke=0.5"),
        ({"answered": 3, "never_spoke": None, "dry_run": 0}, TypeError, "dry_run=0"),
        ({"never_spoke": None}, ValueError, "needs a limit"),
        ({"evict_idle": 3}, ValueError, "without evict_above"),
    ],
)
def test_a_wrong_change_changes_nothing(fake, changes, error, says):
    with Guard(never_spoke=10) as guard:
        before = fake[0].settings
        with pytest.raises(error, match=says):
            guard.update(**changes)
        assert fake[0].settings is before
        guard.update()
        assert fake[0].settings == before


# ---- hold, drain, stats -----------------------------------------------------


def test_holds_count_and_outlast_a_stop(fake, tcp_pair):
    a, z = tcp_pair()
    identity = _impl.backend.identify(a.fileno())
    guard = Guard(answered=5)
    outer = guard.hold(a)
    with outer:
        with guard, guard.hold(a.fileno()), guard.hold(z):
            assert fake[0].held.count(identity) == 2
            assert len(fake[0].held) == 3
        guard.start()
        assert fake[1].held == [identity]
    assert fake[1].held == []
    assert not guard._holds
    guard.stop()
    with pytest.raises(TypeError, match="not a socket"):
        guard.hold(object())
    z.close()
    with pytest.raises(OSError, match="closed"):
        guard.hold(z)


def test_draining_waits_for_a_whole_pass_and_for_the_busy(fake):
    with Guard(answered=5) as guard:
        fake[0].tracked = [0, 2, 1, 0]
        assert guard.drain(timeout=10) == 0
        assert fake[0].calls[-2:] == [("drain", True), ("drain", False)]
        fake[0].tracked = [3]
        began = time.monotonic()
        assert guard.drain(timeout=0.2) == 3
        assert 0.2 <= time.monotonic() - began < 2
        assert guard.drain(0) == 3
        with pytest.raises(ValueError, match="timeout=-1"):
            guard.drain(-1)
        with pytest.raises(TypeError, match="timeout=None"):
            guard.drain(None)
    with pytest.raises(RuntimeError, match="not running"):
        guard.drain(1)


def test_an_interrupt_ends_the_draining(fake, monkeypatch):
    with Guard(answered=5) as guard:
        fake[0].tracked = [3]

        def interrupted(seconds):
            raise KeyboardInterrupt

        monkeypatch.setattr("stillalive.guard.time.sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            guard.drain(10)
        assert fake[0].calls[-1] == ("drain", False)


def test_stats_have_the_same_keys_always(real):
    guard = Guard(answered=5)
    before = guard.stats()
    assert set(before.values()) == {0}
    with guard:
        assert guard.stats().keys() == before.keys()
    assert guard.stats().keys() == before.keys()


def test_only_a_running_guard_watches(fake, tcp_pair):
    a, _ = tcp_pair()
    guard = Guard(answered=5)
    with pytest.raises(RuntimeError, match="not running: start"):
        guard.watch(a, idle_timeout=5)
    with pytest.raises(TypeError, match="needs detect_within"):
        guard.watch(a)


# ---- real servers -----------------------------------------------------------


def test_a_silent_client_is_ended_and_a_talking_one_is_not(real):
    seen = []
    with served() as (listener, accept):
        with Guard(listeners=[listener], never_spoke=1, unanswered=30, on_event=seen.append) as g:
            began = time.monotonic()
            client, server = accept()
            talking, answering = accept()
            asking, silent = accept()
            talking.sendall(b"hello")
            asking.sendall(b"what")
            answering.recv(5)
            answering.sendall(b"hello yourself")
            silent.recv(4)
            assert server.recv(1) == b""
            took = time.monotonic() - began
            assert took >= 1
            assert took < 4 or g.stats()["stalls"]  # where nobody looked, clocks begin anew
            assert client.recv(1) == b""
            event = until(lambda: seen)[0]
            assert (event.why, event.done) == ("never_spoke", "shutdown")
            assert event.local == listener.getsockname()
            assert event.peer == client.getsockname()
            assert event.idle_for >= 1
            time.sleep(0.3)
            assert len(seen) == 1
            assert g.stats()["ended"] == g.stats()["told_never_spoke"] == 1
            assert g.stats()["tracked"] == 2
        silent.sendall(b"that")
        assert asking.recv(4) == b"that"


def test_a_dry_run_only_tells(real):
    seen = []
    with served() as (listener, accept):
        guard = Guard(
            listeners=[listener], never_spoke=1, answered=1, dry_run=True, on_event=seen.append
        )
        client, server = accept()
        with guard:
            event = until(lambda: seen)[0]
            assert (event.done, event.dry_run) == ("shutdown", True)
            client.sendall(b"still here")
            assert server.recv(10) == b"still here"
            assert guard.stats()["ended"] == 0


def test_held_and_exempt_connections_are_left_alone(real):
    seen = []
    with served() as (listener, accept):
        client, server = accept()
        with Guard(listeners=[listener], never_spoke=1, on_event=seen.append) as guard:
            with guard.hold(server):
                time.sleep(1.8)
                assert not seen
            assert server.recv(1) == b""
        with Guard(
            listeners=[listener], never_spoke=1, exempt=["127.0.0.0/8"], on_event=seen.append
        ):
            client, server = accept()
            seen.clear()
            time.sleep(1.8)
            assert not seen
            client.sendall(b"x")
            assert server.recv(1) == b"x"


def test_drain_ends_what_is_idle_and_waits_for_what_owes_an_answer(real):
    with served() as (listener, accept):
        asking, busy = accept()
        resting, idle = accept()
        with Guard(listeners=[listener], answered=60, evict_above=1000, evict_idle=0.2) as guard:
            asking.sendall(b"q")
            busy.recv(1)
            resting.sendall(b"q")
            idle.recv(1)
            idle.sendall(b"a")
            resting.recv(1)
            until(lambda: guard.stats()["tracked"] == 2)
            assert guard.drain(timeout=1.5) == 1
            assert idle.recv(1) == b""
            draining = Blocked(guard.drain, 10)
            busy.sendall(b"a")
            assert asking.recv(1) == b"a"
            assert draining.end() is None
            assert draining.result == 0
            assert busy.recv(1) == b""


def test_a_vanished_client_is_aborted(real):
    seen = []
    with served() as (listener, accept):
        client, server = accept()
        living, kept = accept()
        with Guard(listeners=[listener], detect_within=4, on_event=seen.append):
            until(lambda: real.read_options(server.fileno())[b.ENABLED] == 1)
            began = time.monotonic()
            deafen(client)
            with pytest.raises(OSError, match="Errno"):
                server.recv(1)
            assert time.monotonic() - began < 5
            event = until(lambda: seen)[0]
            assert (event.why, event.done) == ("silent", "abort")
            time.sleep(0.5)
            assert len(seen) == 1
            living.sendall(b"x")
            assert kept.recv(1) == b"x"


def test_an_asyncio_server_needs_nothing(real):
    async def main():
        ended = asyncio.Event()

        async def serve(reader, writer):
            assert await reader.read() == b""
            writer.close()
            ended.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        with Guard(listeners=server.sockets, never_spoke=1):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await asyncio.wait_for(ended.wait(), 10)
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

    asyncio.run(main())


def test_the_guard_behind_watch_looks_at_nothing_else(real, tcp_pair):
    with served() as (_, accept):
        _, server = accept()
        watch(server, idle_timeout=60)
        from stillalive import guard as guards

        assert guards._default_guard.stats()["tracked"] == 0
        assert guards._default_guard.stats()["watched"] == 1
        with pytest.raises(RuntimeError, match="no limits"):
            guards._default_guard.update(answered=5)
        assert "no limits" in repr(guards._default_guard)


def test_limits_by_name():
    limits = _limits.check(**Guard(answered=5)._limits.given())
    assert limits.given()["answered"] == 5.0
    assert set(_limits.LIMITS) <= set(limits.given())


@pytest.mark.parametrize("one", [("10.0.0.0", 8), (b"xx", 99), ()])
def test_a_tuple_is_no_network(one):
    with pytest.raises(TypeError, match="exempt: .* is no address and no network"):
        Guard(answered=5, exempt=[one])


def test_an_update_keeps_what_is_exempt(fake):
    with Guard(answered=5, exempt=["10.0.0.0/8"]) as guard:
        guard.update(answered=6)
        assert fake[-1].settings.exempt == ((b"\x0a\0\0\0", 8),)


def test_two_may_drain_at_a_time(fake):
    with Guard(answered=5) as guard:
        told = []
        fake[-1].drain = told.append
        run = guard._run
        run.drain(1)
        guard.drain(0)
        run.drain(-1)
        assert told == [True, True, True, False]


def test_what_subscribes_can_be_called(fake):
    with Guard(answered=5) as guard, pytest.raises(TypeError, match="callback=5: must be callable"):
        guard.subscribe(5)
