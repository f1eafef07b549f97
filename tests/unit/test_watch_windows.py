"""watch() as it is on Windows: what is set, in which order, and what comes back.

The first part has Windows' row on whatever system it runs; the second is of
Windows itself, old and new, as wine 8 and wine 10 are.
"""

from __future__ import annotations

import errno
import socket
import sys
import threading
from types import SimpleNamespace

import pytest

from stillalive import Guard, NotSupportedError, _impl, _pacing, _seeing, capabilities
from stillalive import _backend as b
from stillalive import guard as guards
from stillalive._systems import SYSTEMS
from stillalive.guard import watch

from .. import needs
from . import guarding
from .serving import until

fake = guarding.fake

here = pytest.mark.skipif(sys.platform != "win32", reason="Winsock is on Windows only")
elsewhere = pytest.mark.skipif(sys.platform == "win32", reason="with the row of Windows elsewhere")
OFF = (0, 7200, 75, 9)


def options(sock):
    return _impl.backend.read_options(sock.fileno())


def times(sock):
    return options(sock)[: b.COUNT + 1]


@pytest.fixture
def windows(fake, monkeypatch):
    """Have the rules of Windows; what is set is recorded."""
    row, calls = SYSTEMS["windows"], []
    apply = _impl.backend.apply_options

    def recorded(fd, values):
        calls.append(values)
        return apply(fd, values)

    monkeypatch.setattr(_seeing, "system", lambda: row)
    monkeypatch.setattr(_pacing, "_systems", SimpleNamespace(system=lambda: row))
    monkeypatch.setattr(_impl.backend, "option_range", lambda number: (1, row.options[number].high))
    monkeypatch.setattr(_impl.backend, "apply_options", recorded)
    monkeypatch.setattr(_pacing, "has_rto_max", lambda: False)
    return calls


@elsewhere
def test_a_count_that_is_not_high_enough_has_a_long_interval(windows):
    for deadline in (4, 10, 60, 3600):
        enabled, idle, interval, count, user_timeout, rto_max = _pacing.pace(deadline, False, 3)
        assert (enabled, user_timeout, rto_max) == (1, 0, b.LEAVE)
        assert 0.7 * deadline / 4 < idle <= deadline / 4
        assert idle + interval * count >= 2_000_000
        assert count <= 127
    # A pace so slow that a count is high enough by itself.
    _, idle, interval, count, _, _ = _pacing.pace(200_000, False)
    assert idle == interval == 32767
    assert interval * count >= 2_000_000 - interval


@elsewhere
def test_only_the_idle_bound_is_known(windows):
    within = _pacing.bounds(10, False, 0.2)
    assert within == _pacing.NO_BOUNDS._replace(idle=within.idle)
    assert within.idle >= 9 * 9 / 8 + 4 * 0.5


@elsewhere
def test_nothing_on_the_way_is_deadly(windows, tcp_pair):
    a, _ = tcp_pair()
    watching = watch(a, detect_within=8)
    leave = b.LEAVE
    assert windows == [(leave, leave, 15749, 127, leave, leave), (1, 2, 15749, 127, 0, leave)]
    assert times(a) == (1, 2, 15749, 127)
    # The watcher, in two steps.
    _impl.backend.apply_options(a.fileno(), (leave, leave, 2, leave, leave, leave))
    _impl.backend.apply_options(a.fileno(), (leave, leave, leave, 2, leave, leave))
    windows.clear()
    watching.cancel()
    assert windows[0] == (leave, 7200, leave, leave, leave, leave)  # before its own count
    assert times(a) == OFF


@elsewhere
def test_one_that_is_on_keeps_what_is_quicker(windows, tcp_pair):
    a, _ = tcp_pair()
    own = _impl.backend.apply_options(a.fileno(), (1, 1, 30, 5, b.LEAVE, b.LEAVE))
    windows.clear()
    watching = watch(a, detect_within=20)
    assert windows == [(1, 1, 15749, 127, 0, b.LEAVE)]
    watching.cancel()
    assert options(a) == own


@elsewhere
def test_a_second_watch_leaves_what_was_lowered_for_the_first(windows, tcp_pair):
    a, _ = tcp_pair()
    first = watch(a, detect_within=20)
    _impl.backend.apply_options(a.fileno(), (b.LEAVE, b.LEAVE, 5, 2, b.LEAVE, b.LEAVE))
    second = watch(a, detect_within=8)
    assert times(a) == (1, 2, 5, 2)
    second.cancel()
    assert times(a) == (1, 2, 5, 2)
    first.cancel()
    assert times(a) == OFF


@elsewhere
def test_what_is_tuned_meanwhile_stays(windows, tcp_pair):
    a, _ = tcp_pair()
    watching = watch(a, detect_within=8)
    _impl.backend.apply_options(a.fileno(), (1, 90, 20000, 100, b.LEAVE, b.LEAVE))
    watching.cancel()
    assert times(a)[:3] == (1, 90, 20000)


@elsewhere
def test_a_failure_leaves_it_as_it_was(windows, tcp_pair, monkeypatch):
    a, _ = tcp_pair()
    apply = _impl.backend.apply_options

    def failing(fd, values):
        if values[b.ENABLED] == 1:
            raise OSError(errno.ENOBUFS, "no room")
        return apply(fd, values)

    monkeypatch.setattr(_impl.backend, "apply_options", failing)
    with pytest.raises(OSError, match="no room"):
        watch(a, detect_within=8)
    assert times(a) == OFF
    assert not _pacing._loans


@elsewhere
@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"idle_timeout": 5}, "action='abort'"),
        ({"idle_timeout": 5, "detect_within": 8}, "action='abort'"),
    ],
)
def test_what_is_refused_changes_nothing(windows, tcp_pair, wishes, says):
    a, _ = tcp_pair()
    with pytest.raises(NotSupportedError, match=says):
        watch(a, **wishes)
    assert windows == []
    watch(a, idle_timeout=5, action="shutdown").cancel()
    watch(a, idle_timeout=5, action=None).cancel()
    watch(a, detect_within=8).cancel()


@elsewhere
def test_a_guard_has_nothing_to_find(windows):
    with pytest.raises(NotSupportedError, match="no call lists the sockets of a process"):
        Guard(detect_within=10)
    with pytest.raises(ValueError, match="needs a limit"):
        Guard()


# ---- Windows itself ---------------------------------------------------------


@pytest.fixture
def real(impl):
    """Run with the watcher of the compiled part, the only one on Windows."""
    if impl.NAME == "pure":
        pytest.skip("the pure-Python path has no watcher here")
    return impl


@pytest.fixture
def probed(real):
    """Run where the kernel's probes are options of their own."""
    if not capabilities()["watch"].supported:
        pytest.skip("this Windows is older than 10 1709")
    return real


@here
def test_an_old_one_says_so(real, tcp_pair):
    a, _ = tcp_pair()
    before = options(a)
    if not capabilities()["watch"].supported:
        with pytest.raises(NotSupportedError, match="TCP_KEEPIDLE.*Windows 10 1709"):
            watch(a, detect_within=8)
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            pytest.raises(NotSupportedError, match="TCP_KEEPIDLE.*Windows 10 1709"),
        ):
            watch(listener, detect_within=8)
    if b.Info(*real.tcp_info(a.fileno())).bytes_received < 0:
        with pytest.raises(NotSupportedError, match="SIO_TCP_INFO.*Windows 10 1703"):
            watch(a, idle_timeout=8, action=None)
    assert options(a) == before


@here
def test_what_no_windows_can_do(real, tcp_pair):
    a, _ = tcp_pair()
    with pytest.raises(NotSupportedError, match="action='abort'"):
        watch(a, idle_timeout=8)
    with pytest.raises(NotSupportedError, match="no call lists the sockets of a process"):
        Guard(answered=8)
    with socket.socket() as fresh, pytest.raises(NotSupportedError, match="before it is connected"):
        watch(fresh, detect_within=8)


@here
def test_the_pure_path_has_no_watcher(impl, tcp_pair):
    if impl.NAME != "pure":
        pytest.skip("of the pure-Python path")
    a, _ = tcp_pair()
    before = options(a)
    with pytest.raises(NotSupportedError, match="compiled part|Windows 10"):
        watch(a, detect_within=8)
    assert options(a) == before
    assert not guards._started


@here
def test_the_kernel_gets_its_count_and_the_socket_its_own(probed, tcp_pair):
    a, z = tcp_pair()
    before = options(a)
    watching = watch(a, detect_within=4)
    until(lambda: times(a)[b.INTERVAL] == 1)
    assert times(a) == (1, 1, 1, 127)
    until(lambda: times(a)[b.COUNT] == 2)
    for _ in range(5):
        a.sendall(b"ping")
        assert z.recv(10) == b"ping"
    assert watching.event is None
    watching.cancel()
    assert options(a) == before
    assert options(z)[b.ENABLED] == 0


@here
def test_healthy_ones_are_left_alone(probed, tcp_pair):
    pairs = [tcp_pair() for _ in range(10)]
    watches = [watch(a, detect_within=4) for a, _ in pairs]
    until(lambda: all(times(a)[b.COUNT] == 2 for a, _ in pairs))
    threading.Event().wait(5)  # longer than the deadline, and not a word
    for (a, z), watching in zip(pairs, watches, strict=True):
        assert watching.event is None
        a.sendall(b"ping")
        assert z.recv(10) == b"ping"
        z.sendall(b"pong")
        assert a.recv(10) == b"pong"
        watching.cancel()
        assert options(a)[b.ENABLED] == 0


@here
def test_closing_cancels_and_the_next_of_the_number_is_left_alone(probed, tcp_pair):
    a, z = tcp_pair()
    number = a.fileno()
    watching = watch(a, detect_within=8)
    a.close()
    z.close()
    assert watching.wait(10) is None
    next_, peer = tcp_pair()
    assert options(next_)[b.ENABLED] == 0
    assert number in (next_.fileno(), peer.fileno(), number)
    next_.sendall(b"ping")
    assert peer.recv(10) == b"ping"


@here
def test_many_watches_leave_no_handle(probed, tcp_pair):
    a, _ = tcp_pair()
    watch(a, detect_within=8).cancel()
    before = needs.descriptors_in_use()
    for _ in range(50):
        watching = watch(a, detect_within=8)
        until(lambda: times(a)[b.INTERVAL] < 15749)
        watching.cancel()
    assert needs.descriptors_in_use() <= before + 2


@here
def test_a_reset_is_told_and_left_to_its_owner(probed, tcp_pair):
    """wine resets nothing on close; bytes to whoever has no socket are answered by a reset."""
    a, z = tcp_pair()
    watching = watch(a, detect_within=8)
    until(lambda: times(a)[b.INTERVAL] < 15749)
    z.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, needs.RESET_ON_CLOSE)
    z.close()
    failed = False
    for _ in range(50):
        try:
            a.sendall(b"more")
        except ConnectionError:
            failed = True
        if watching.wait(0.1) is not None:
            break
    event = watching.event
    assert event is not None
    assert event.why in ("timed_out", "reset")
    assert event.done == "nothing"
    assert event.peer is not None
    if event.errno is None:
        assert "reset, or the kernel" in event.reason
    if not failed:
        with pytest.raises(ConnectionError):
            a.recv(1)
