"""probe and aprobe on loopback: answered at once, everything restored."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import sys
import threading
import time

import pytest

from stillalive import KeepAlive, State, _asking, aprobe, describe, liveness, probe, tune
from stillalive import _backend as b
from tests.unit.test_tune import held

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far")


@pytest.fixture(scope="module")
def idle_connections():
    """A few connections that have been idle for longer than a second."""
    from tests.conftest import connect

    pairs = [connect() for _ in range(12)]
    time.sleep(1.1)  # below a second of silence the kernel sends no probe
    with contextlib.ExitStack() as stack:
        for sock in (end for pair in pairs for end in pair):
            stack.enter_context(sock)
        yield iter(pairs)


@pytest.fixture
def idle_pair(idle_connections):
    return next(idle_connections)


def test_an_idle_peer_answers_and_reads_nothing(impl, idle_pair):
    a, c = idle_pair
    before = held(a)
    found = probe(a, timeout=5)
    assert found.state is State.ALIVE
    assert found.asked >= 1
    assert "answered within" in found.reason
    assert 0 < found.elapsed < 5
    assert held(a) == before
    c.setblocking(False)
    with pytest.raises(BlockingIOError):
        c.recv(1)


def test_aprobe_answers_without_a_thread(impl, idle_pair):
    a, _ = idle_pair
    threads = threading.active_count()

    async def main() -> None:
        task = asyncio.ensure_future(aprobe(a, timeout=5))
        await asyncio.sleep(0)
        assert threading.active_count() == threads
        assert (await task).state is State.ALIVE

    asyncio.run(main())


def test_a_recent_segment_is_answer_enough(impl, tcp_pair):
    a, _ = tcp_pair()
    before = held(a)
    found = probe(a)
    assert found.state is State.ALIVE
    assert found.asked == 0
    assert held(a) == before


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, 3601])
def test_timeouts_out_of_range(impl, tcp_pair, timeout):
    a, _ = tcp_pair()
    with pytest.raises(ValueError, match="timeout="):
        probe(a, timeout=timeout)


@pytest.mark.parametrize("timeout", ["3", None, True])
def test_timeouts_of_the_wrong_type(impl, tcp_pair, timeout):
    a, _ = tcp_pair()
    with pytest.raises(TypeError, match="timeout="):
        probe(a, timeout=timeout)


# ---- a peer that does not answer, without a network that loses packets ----


class Deaf:
    """A backend whose witness hears nothing and whose question is real."""

    def __init__(self, impl: b.Backend) -> None:
        self._impl = impl

    def __getattr__(self, name: str) -> object:
        return getattr(self._impl, name)

    def Witness(self, fd: int) -> object:
        return DeafWitness(fd, self._impl)


class DeafWitness:
    def __init__(self, fd: int, impl: b.Backend) -> None:
        self.identity = impl.identify(fd)

    def begin(self, now_ms: int) -> b.Verdict:
        return b.ASKING, b.WHY_MUST_ASK, 0, 0, 5000, 0, 0

    def look(self, asked: int, now_ms: int) -> b.Verdict:
        return b.ASKING, b.WHY_MUST_ASK, 0, asked, 5000, 0, asked

    def give_up(self, asked: int, now_ms: int) -> b.Verdict:
        return b.SILENT, b.WHY_NO_ANSWER, 0, asked, 5000, 0, asked


@pytest.fixture
def deaf(impl, monkeypatch):
    from stillalive import _impl

    monkeypatch.setattr(_impl, "backend", Deaf(impl))


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += max(seconds, 1e-4)


@pytest.fixture
def fake_time(monkeypatch):
    clock = FakeTime()
    monkeypatch.setattr(liveness, "_clock", lambda: clock.now)
    monkeypatch.setattr(liveness, "_sleep", clock.sleep)
    return clock


ODD = {"idle": 61, "interval": 11, "count": 5, "user_timeout": 100.5}


def odd(sock: socket.socket, enabled: bool) -> dict[str, int]:
    tune(sock, **ODD)
    if not enabled:
        tune(sock, KeepAlive.OFF)
    return held(sock)


@pytest.mark.parametrize("enabled", [True, False])
def test_silence_restores_every_option(deaf, fake_time, tcp_pair, enabled):
    a, _ = tcp_pair()
    before = odd(a, enabled)
    found = probe(a, timeout=3)
    assert found.state is State.SILENT
    assert found.asked == 4  # at 0, 0.75, 1.5 and 2.25 s
    assert not found
    assert held(a) == before
    assert fake_time.now == pytest.approx(1003, abs=0.01)


@pytest.mark.parametrize("enabled", [True, False])
def test_while_asking_nothing_can_kill(deaf, fake_time, tcp_pair, monkeypatch, enabled):
    a, _ = tcp_pair()
    odd(a, enabled)
    seen = []

    def sleep(seconds: float) -> None:
        seen.append(held(a))
        fake_time.sleep(seconds)

    monkeypatch.setattr(liveness, "_sleep", sleep)
    probe(a, timeout=2)
    for options in seen:
        assert (options["enabled"], options["count"]) == (1, 127)
        assert (options["user_timeout"], options["idle"]) == (0, 1)


def test_the_owners_values_are_described_meanwhile(deaf, fake_time, tcp_pair, monkeypatch):
    a, _ = tcp_pair()
    odd(a, True)
    shown = []

    def sleep(seconds: float) -> None:
        shown.append(describe(a))
        fake_time.sleep(seconds)

    monkeypatch.setattr(liveness, "_sleep", sleep)
    probe(a, timeout=1)
    for description in shown:
        assert (description.idle, description.count) == (61, 5)
        assert description.user_timeout == 100.5


def test_tuning_meanwhile_is_not_undone(deaf, fake_time, tcp_pair, monkeypatch):
    a, _ = tcp_pair()
    odd(a, True)

    def sleep(seconds: float) -> None:
        tune(a, idle=77, interval=7)
        fake_time.sleep(seconds)

    monkeypatch.setattr(liveness, "_sleep", sleep)
    probe(a, timeout=2)
    assert held(a)["idle"] == 77
    assert held(a)["interval"] == 7
    assert held(a)["count"] == 5


def test_an_exception_restores(deaf, fake_time, tcp_pair, monkeypatch):
    a, _ = tcp_pair()
    before = odd(a, True)

    def interrupt(seconds: float) -> None:
        assert held(a) != before
        raise KeyboardInterrupt

    monkeypatch.setattr(liveness, "_sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        probe(a)
    assert held(a) == before
    assert not _asking._sessions


def test_cancelling_and_timing_out_restore(deaf, tcp_pair):
    a, _ = tcp_pair()
    before = odd(a, False)

    async def main() -> None:
        task = asyncio.ensure_future(aprobe(a, timeout=60))
        await asyncio.sleep(0.02)
        assert held(a) != before
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert held(a) == before
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await aprobe(a, timeout=60)
        assert held(a) == before

    asyncio.run(main())


def test_a_coroutine_that_is_dropped_restores(deaf, tcp_pair):
    a, _ = tcp_pair()
    before = odd(a, False)
    loop = asyncio.new_event_loop()
    task = loop.create_task(aprobe(a, timeout=60))
    loop.run_until_complete(asyncio.sleep(0.02))
    assert held(a) != before
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
    assert held(a) == before


def test_probers_of_one_socket_share_the_question(deaf, tcp_pair):
    a, _ = tcp_pair()
    before = odd(a, True)

    async def main() -> None:
        found = await asyncio.gather(*(aprobe(a, timeout=1 + i / 20) for i in range(6)))
        assert {answer.state for answer in found} == {State.SILENT}
        assert all(answer.asked == 2 for answer in found), found

    asyncio.run(main())
    assert held(a) == before
    assert not _asking._sessions


def test_threads_and_duplicates_share_it_too(impl, idle_pair):
    a, _ = idle_pair
    before = held(a)
    twin = os.dup(a.fileno())
    answers: list[State] = []
    threads = [
        threading.Thread(target=lambda fd=fd: answers.append(probe(fd, timeout=5).state))
        for fd in (a.fileno(), twin) * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    os.close(twin)
    assert answers == [State.ALIVE] * 6
    assert held(a) == before
    assert not _asking._sessions


def test_silence_warns_when_the_next_tick_ends_the_connection(deaf, fake_time, tcp_pair):
    a, _ = tcp_pair()
    tune(a, idle=1, interval=1, count=2, user_timeout=2)
    assert "because user_timeout 2 s has passed" in probe(a, timeout=3).reason
    tune(a, user_timeout=0)
    found = probe(a, timeout=3)
    assert "4 are unanswered and count is 2" in found.reason
    tune(a, KeepAlive.OFF)
    assert "next tick" not in probe(a, timeout=3).reason


def test_a_descriptor_that_comes_to_mean_another_socket_is_left_alone(
    deaf, fake_time, tcp_pair, monkeypatch
):
    a, _ = tcp_pair()
    other, _ = tcp_pair()
    number = a.fileno()
    untouched = held(other)

    def replace(seconds: float) -> None:
        os.dup2(other.fileno(), number)
        fake_time.sleep(seconds)

    monkeypatch.setattr(liveness, "_sleep", replace)
    with pytest.raises(OSError, match="Bad file descriptor"):
        probe(a, timeout=3)
    assert held(other) == untouched
    assert not _asking._sessions


def test_closing_meanwhile_is_ebadf(deaf, fake_time, tcp_pair, monkeypatch):
    a, _ = tcp_pair()

    def close(seconds: float) -> None:
        a.close()
        fake_time.sleep(seconds)

    monkeypatch.setattr(liveness, "_sleep", close)
    with pytest.raises(OSError, match="Bad file descriptor"):
        probe(a, timeout=3)
    assert not _asking._sessions


def test_pauses_grow_and_never_pass_the_deadline(deaf, fake_time, tcp_pair):
    a, _ = tcp_pair()
    probe(a, timeout=0.1)
    assert fake_time.pauses[0] == 0.001
    assert max(fake_time.pauses) <= 0.02
    assert sum(fake_time.pauses) <= 0.1 + 1e-9


def test_a_fork_meanwhile_leaves_the_child_free(deaf, fake_time, tcp_pair, monkeypatch):
    a, _ = tcp_pair()
    codes = []

    def fork(seconds: float) -> None:
        fake_time.sleep(10)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if not _asking._sessions and not _asking._lock.locked() else 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    monkeypatch.setattr(liveness, "_sleep", fork)
    probe(a, timeout=3)
    assert codes == [0]
