"""The user timeout of a connection that was idle for long: set after an answer."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from stillalive import KeepAlive, _impl, _pending, describe, tune
from stillalive import _backend as b
from tests.unit.test_tune import held

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far")


class Quiet:
    """A backend that shows a connection as silent for as long as the test wants."""

    def __init__(self, impl: b.Backend) -> None:
        self._impl = impl
        self.silent_ms: int | None = 100_000
        self.probes = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._impl, name)

    def tcp_info(self, fd: int) -> tuple[int, ...]:
        info = b.Info(*self._impl.tcp_info(fd))
        if self.silent_ms is not None:
            info = info._replace(
                last_ack_recv_ms=self.silent_ms,
                last_data_recv_ms=self.silent_ms,
                probes=self.probes,
            )
        return tuple(info)


@pytest.fixture
def quiet(impl, monkeypatch) -> Iterator[Quiet]:
    backend = Quiet(impl)
    monkeypatch.setattr(_impl, "backend", backend)
    yield backend
    _pending._by_identity.clear()


def wait_until(true: object, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_safe_part_first_the_rest_after_an_answer(quiet, tcp_pair):
    a, _ = tcp_pair()
    result = tune(a, detect_within=10)
    assert result.pending
    assert result.user_timeout == 0
    assert held(a)["user_timeout"] == 0
    assert held(a)["idle"] == result.idle
    shown = describe(a)
    assert shown.pending
    assert any("as soon as the peer has answered" in text for text in shown.warnings)
    quiet.silent_ms = 0
    wait_until(lambda: held(a)["user_timeout"] > 0)
    wait_until(lambda: not describe(a).pending)
    shown = describe(a)
    assert shown.idle + shown.interval * (shown.count - 1) < shown.user_timeout
    assert shown.detects_in_flight_within <= 10


def test_without_an_answer_it_is_set_when_the_probes_have_decided(quiet, tcp_pair, monkeypatch):
    a, _ = tcp_pair()
    now = time.monotonic()
    monkeypatch.setattr(_pending, "_clock", lambda: now)
    result = tune(a, detect_within=10)
    time.sleep(0.1)
    assert held(a)["user_timeout"] == 0
    later = now + result.idle + result.interval * result.count
    monkeypatch.setattr(_pending, "_clock", lambda: later)
    with _pending._wake:
        _pending._wake.notify()
    wait_until(lambda: held(a)["user_timeout"] > 0)


def test_a_recent_connection_is_tuned_at_once(impl, tcp_pair):
    a, _ = tcp_pair()
    result = tune(a, detect_within=10)
    assert not result.pending
    assert held(a)["user_timeout"] == result.user_timeout * 1000


def test_an_old_user_timeout_is_lifted_meanwhile(quiet, tcp_pair):
    a, _ = tcp_pair()
    a.setsockopt(6, 18, 30_000)
    assert tune(a, idle=5, interval=2, count=3).pending
    assert held(a)["user_timeout"] == 0
    quiet.silent_ms = 0
    wait_until(lambda: held(a)["user_timeout"] == 30_000)


def test_probes_unanswered_before_do_not_count_against_the_new_count(quiet, tcp_pair):
    a, _ = tcp_pair()
    quiet.probes = 4
    result = tune(a, idle=1, interval=1, count=3)
    assert result.pending
    assert held(a)["count"] == 7
    assert result.count == 7
    quiet.silent_ms = 0
    wait_until(lambda: held(a)["count"] == 3)
    quiet.probes = 1
    assert not tune(a, idle=2, interval=1, count=3).pending


def test_a_user_timeout_far_off_is_set_at_once(quiet, tcp_pair):
    a, _ = tcp_pair()
    quiet.probes = 1
    assert not tune(a, idle=90, interval=10, count=7, user_timeout=150).pending
    assert held(a)["user_timeout"] == 150_000


def test_without_a_user_timeout_nothing_is_pending(quiet, tcp_pair):
    a, _ = tcp_pair()
    assert not tune(a, idle=5, interval=2, count=3).pending
    assert not tune(a, KeepAlive.OFF).pending


def test_tuning_again_replaces_what_was_pending(quiet, tcp_pair):
    a, _ = tcp_pair()
    assert tune(a, detect_within=10).pending
    assert tune(a, user_timeout=60, idle=20, interval=20, count=3).pending
    quiet.silent_ms = 0
    wait_until(lambda: held(a)["user_timeout"] == 60_000)
    time.sleep(0.1)
    assert held(a)["user_timeout"] == 60_000


def test_switching_off_sets_the_rest_at_once(quiet, tcp_pair):
    a, _ = tcp_pair()
    tune(a, detect_within=10)
    result = tune(a, KeepAlive.OFF)
    assert not result.pending
    assert result.user_timeout > 0
    assert held(a)["enabled"] == 0


def test_tuning_a_duplicate_is_tuning_the_socket(quiet, tcp_pair):
    a, _ = tcp_pair()
    tune(a, detect_within=10)
    twin = a.dup()
    with twin:
        assert describe(twin).pending
        tune(twin, user_timeout=0)
    quiet.silent_ms = 0
    wait_until(lambda: not _pending._by_identity)
    assert held(a)["user_timeout"] == 0


def test_a_closed_or_replaced_descriptor_is_left_alone(quiet, tcp_pair):
    a, _ = tcp_pair()
    other, _ = tcp_pair()
    untouched = held(other)
    tune(a, detect_within=10)
    os.dup2(other.fileno(), a.fileno())
    quiet.silent_ms = 0
    wait_until(lambda: not _pending._by_identity)
    assert held(other) == untouched


def test_the_thread_ends_when_nothing_is_left(quiet, tcp_pair):
    a, _ = tcp_pair()
    tune(a, detect_within=10)
    assert any(thread.name == "stillalive-pending" for thread in threading.enumerate())
    quiet.silent_ms = 0
    wait_until(lambda: all(thread.name != "stillalive-pending" for thread in threading.enumerate()))
    assert held(a)["user_timeout"] > 0


def test_many_at_once(quiet, tcp_pair):
    pairs = [tcp_pair() for _ in range(100)]
    descriptors = len(os.listdir("/proc/self/fd"))
    for a, _ in pairs:
        assert tune(a, detect_within=10).pending
    quiet.silent_ms = 0
    wait_until(lambda: all(held(a)["user_timeout"] > 0 for a, _ in pairs))
    wait_until(lambda: not _pending._by_identity)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_child_forgets_and_the_parent_completes(quiet, tcp_pair):
    a, _ = tcp_pair()
    tune(a, detect_within=10)
    pid = os.fork()
    if pid == 0:
        clean = not _pending._by_identity and not _pending._lock.locked()
        os._exit(0 if clean else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    quiet.silent_ms = 0
    wait_until(lambda: held(a)["user_timeout"] > 0)
