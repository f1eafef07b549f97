"""autotune: which sockets are tuned when they are bound or connected, and which never are."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading

import pytest

from stillalive import Autotune, KeepAlive, NotSupportedError, _impl, autotune, describe, tune

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far")

POLICY = KeepAlive(idle=61, interval=11, count=4)
OTHER = KeepAlive(idle=33, interval=7, count=3, user_timeout=50)
IPPROTO_MPTCP = 262
LOOPBACK = ("127.0.0.1", 0)
NUMBERS = {"idle": 4, "interval": 5, "count": 6, "user_timeout": 18}


def held(sock: socket.socket) -> dict[str, int]:
    """Ask the kernel, not the package."""
    found = {"enabled": sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)}
    return found | {n: sock.getsockopt(socket.IPPROTO_TCP, code) for n, code in NUMBERS.items()}


def fresh() -> dict[str, int]:
    with socket.socket() as sock:
        return held(sock)


TUNED = {"enabled": 1, "idle": 61, "interval": 11, "count": 4, "user_timeout": 0}
OTHERS = {"enabled": 1, "idle": 33, "interval": 7, "count": 3, "user_timeout": 50000}


@pytest.fixture
def auto(impl):
    """Put rules in force that are out of it after the test."""
    handles = []

    def make(policy=POLICY, **kwargs):
        handles.append(autotune(policy, **kwargs))
        return handles[-1]

    yield make
    for handle in handles:
        handle.disable()


@pytest.fixture
def listener():
    """Listen before anything is in force."""
    with socket.create_server(LOOPBACK) as sock:
        yield sock


# ---- what is tuned ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_listener_is_tuned_and_what_it_accepts_inherits(auto, family):
    handle = auto()
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=family) as server:
        assert held(server) == TUNED
        with socket.create_connection(server.getsockname()[:2]) as client:
            accepted, _ = server.accept()
            with accepted:
                assert held(accepted) == TUNED
            assert held(client) == fresh()
    assert handle.stats() == {"tuned": 1, "given_back": 0}


def test_nothing_is_tuned_at_listen_or_without_bind(auto):
    auto()
    with socket.socket() as sock:
        sock.listen()
        assert held(sock) == fresh()


def test_outgoing_connections_are_tuned_and_listeners_not(auto, listener):
    handle = auto(OTHER, listeners=False, outgoing=True)
    with socket.create_connection(listener.getsockname()) as client:
        assert held(client) == OTHERS
    with socket.create_server(LOOPBACK) as server:
        assert held(server) == fresh()
    assert handle.stats()["tuned"] == 1


def test_connect_ex_and_non_blocking_connections(auto, listener):
    handle = auto(listeners=False, outgoing=True)
    with socket.socket() as sock:
        sock.setblocking(False)
        assert sock.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
        assert held(sock) == TUNED
        sock.connect_ex(listener.getsockname())  # asks how it stands
    assert handle.stats()["tuned"] == 1


def test_a_value_that_the_policy_leaves_stays(auto):
    auto(KeepAlive(idle=61))
    with socket.create_server(LOOPBACK) as server:
        assert held(server) == fresh() | {"enabled": 1, "idle": 61}


def test_enabled_alone_is_a_policy(auto):
    auto(KeepAlive(enabled=True))
    with socket.create_server(LOOPBACK) as server:
        assert held(server) == fresh() | {"enabled": 1}


def test_a_planned_policy(auto):
    auto(KeepAlive.plan(detect_within=30))
    with socket.create_server(LOOPBACK) as server:
        assert describe(server).detects_idle_within <= 30


def test_subclasses_are_sockets(auto):
    class Own(socket.socket):
        __slots__ = ()

    auto()
    with Own() as sock:
        sock.bind(LOOPBACK)
        assert held(sock) == TUNED


def test_the_bare_socket_type(auto):
    import _socket

    auto()
    sock = _socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.bind(LOOPBACK)
        assert sock.getsockopt(socket.IPPROTO_TCP, 4) == 61
    finally:
        sock.close()


def test_an_option_that_the_socket_lacks_is_left_out(auto):
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    except OSError:
        pytest.skip("this kernel has no MPTCP")
    with sock:
        auto(OTHER)
        sock.bind(LOOPBACK)
        assert describe(sock).idle == 33
        assert describe(sock).user_timeout is None


# ---- what is left alone ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "number", "value"),
    [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, 4, 100),
        (socket.IPPROTO_TCP, 5, 20),
        (socket.IPPROTO_TCP, 6, 5),
        (socket.IPPROTO_TCP, 18, 9000),
    ],
)
def test_what_the_owner_has_tuned_stays(auto, listener, level, number, value):
    handle = auto(outgoing=True)
    for event in ("bind", "connect"):
        with socket.socket() as sock:
            sock.setsockopt(level, number, value)
            before = held(sock)
            if event == "bind":
                sock.bind(LOOPBACK)
            else:
                sock.connect(listener.getsockname())
            assert held(sock) == before
    assert handle.stats()["tuned"] == 0


def test_one_that_differs_does_not_spoil_the_next(auto):
    """It meets one that differs, learns nothing new, and goes on with the next."""
    auto()
    for _ in range(3):
        with socket.socket() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, 4, 99)
            sock.bind(LOOPBACK)
            assert held(sock)["idle"] == 99
        with socket.create_server(LOOPBACK) as server:
            assert held(server) == TUNED


def test_udp_and_unix_sockets_stay(auto, tmp_path):
    handle = auto(outgoing=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(LOOPBACK)
        udp.connect(udp.getsockname())
        assert udp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
    path = str(tmp_path / "s")
    with (
        socket.socket(socket.AF_UNIX) as server,
        socket.socket(socket.AF_UNIX) as client,
    ):
        server.bind(path)
        server.listen()
        client.connect(path)
        for sock in (server, client):
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
    assert handle.stats() == {"tuned": 0, "given_back": 0}


def test_a_connection_is_not_touched_by_another_connect(auto, tcp_pair):
    a, _ = tcp_pair()
    auto(outgoing=True)
    assert a.connect_ex(("127.0.0.1", 9)) in (0, errno.EISCONN)
    assert held(a) == fresh()


# ---- bound, then connected -------------------------------------------------------------------


def bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(LOOPBACK)
    return sock


def test_who_is_bound_and_connects_gets_its_values_back(auto, listener):
    handle = auto(OTHER)
    with bound() as sock:
        assert held(sock) == OTHERS
        sock.connect(listener.getsockname())
        assert held(sock) == fresh()
    assert handle.stats() == {"tuned": 1, "given_back": 1}


def test_source_address(auto, listener):
    auto()
    with socket.create_connection(listener.getsockname(), source_address=LOOPBACK) as sock:
        assert held(sock) == fresh()


def test_what_the_owner_changed_meanwhile_stays(auto, listener):
    handle = auto()
    with bound() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, 4, 62)
        sock.connect(listener.getsockname())
        assert held(sock) == TUNED | {"idle": 62}
    assert handle.stats() == {"tuned": 1, "given_back": 0}


def test_the_same_values_chosen_by_the_owner_stay(auto, listener):
    auto()
    with socket.socket() as sock:
        tune(sock, POLICY)
        sock.bind(LOOPBACK)
        sock.connect(listener.getsockname())
        assert held(sock) == TUNED


def test_with_outgoing_it_is_kept(auto, listener):
    handle = auto(outgoing=True)
    with bound() as sock:
        sock.connect(listener.getsockname())
        assert held(sock) == TUNED
    assert handle.stats() == {"tuned": 1, "given_back": 0}


def test_another_rule_for_outgoing_takes_over(auto, listener):
    auto()
    auto(OTHER, listeners=False, outgoing=True)
    with bound() as sock:
        assert held(sock) == TUNED
        sock.connect(listener.getsockname())
        assert held(sock) == OTHERS


def test_only_the_last_64_are_remembered(auto, listener):
    handle = auto()
    socks = [bound() for _ in range(66)]
    try:
        for sock in socks:
            sock.connect(listener.getsockname())
        kept = [held(sock) == TUNED for sock in socks]
    finally:
        for sock in socks:
            sock.close()
    assert kept == [True] * 2 + [False] * 64
    assert handle.stats() == {"tuned": 66, "given_back": 64}


# ---- rules come and go -----------------------------------------------------------------------


def test_after_disable_nothing_happens(auto, listener):
    handle = auto(outgoing=True)
    with bound() as sock:
        handle.disable()
        handle.disable()
        assert not handle.enabled
        sock.connect(listener.getsockname())
        assert held(sock) == TUNED
    with socket.create_server(LOOPBACK) as server:
        assert held(server) == fresh()
    assert handle.stats() == {"tuned": 1, "given_back": 0}


def test_the_newest_that_applies_counts(auto, listener):
    first = auto(POLICY, outgoing=True)
    second = auto(OTHER)
    with socket.create_server(LOOPBACK) as server:
        assert held(server) == OTHERS
    with socket.create_connection(listener.getsockname()) as client:
        assert held(client) == TUNED
    second.disable()
    with socket.create_server(LOOPBACK) as server:
        assert held(server) == TUNED
    first.disable()
    with socket.create_server(LOOPBACK) as server:
        assert held(server) == fresh()
    assert (first.stats()["tuned"], second.stats()["tuned"]) == (2, 1)


def test_rules_end_in_any_order(auto):
    handles = [auto(KeepAlive(idle=100 + n)) for n in range(4)]
    for gone, newest in ((1, 103), (3, 102), (0, 102), (2, fresh()["idle"])):
        handles[gone].disable()
        with socket.create_server(LOOPBACK) as server:
            assert held(server)["idle"] == newest


def test_the_handle_need_not_be_kept(impl):
    handle = autotune(POLICY)
    rule = handle._rule
    del handle
    try:
        with socket.create_server(LOOPBACK) as server:
            assert held(server) == TUNED
    finally:
        rule.end()


def test_what_the_handle_says(auto):
    handle = auto(outgoing=True)
    assert isinstance(handle, Autotune)
    assert (handle.enabled, handle.policy) == (True, POLICY)
    assert (handle.listeners, handle.outgoing) == (True, True)
    assert "in force, 0 tuned" in repr(handle)
    handle.disable()
    assert "disabled" in repr(handle)


def test_threads_that_bind_while_rules_come_and_go(auto):
    auto()
    stop, wrong = threading.Event(), []

    def bind() -> None:
        while not stop.is_set():
            with socket.create_server(LOOPBACK) as server:
                if held(server)["idle"] not in (61, 33):
                    wrong.append(held(server))

    threads = [threading.Thread(target=bind) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            auto(OTHER).disable()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []


# ---- wrong arguments -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kwargs", "error", "message"),
    [
        ((None,), {}, TypeError, "policy=None: must be a KeepAlive"),
        (({"idle": 60},), {}, TypeError, "must be a KeepAlive"),
        ((KeepAlive(),), {}, ValueError, "must set something"),
        ((KeepAlive.OFF,), {}, ValueError, "must set something"),
        ((POLICY,), {"listeners": False}, ValueError, "nothing would be tuned"),
        ((POLICY,), {"listeners": 1}, TypeError, "listeners=1"),
        ((POLICY,), {"outgoing": "yes"}, TypeError, "outgoing='yes'"),
        ((KeepAlive(idle=40000),), {}, ValueError, "allowed: 1 to 32767 s"),
    ],
)
def test_wrong_arguments(impl, arguments, kwargs, error, message):
    with pytest.raises(error, match=message):
        autotune(*arguments, **kwargs)
    with socket.create_server(LOOPBACK) as server:
        assert held(server) == fresh()


def test_an_option_that_this_kernel_lacks(impl, monkeypatch):
    monkeypatch.setattr(impl, "supported", lambda: 0b1111)
    with pytest.raises(NotSupportedError, match="user_timeout"):
        autotune(OTHER)


# ---- the audited call goes on ----------------------------------------------------------------


class Odd:
    def __init__(self, answer):
        self.answer = answer

    def fileno(self):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (5,),
        (5, LOOPBACK),
        (True, LOOPBACK),
        (None, LOOPBACK),
        (object(), LOOPBACK),
        (Odd(-1), LOOPBACK),
        (Odd(10**6), LOOPBACK),
        (Odd(2**70), LOOPBACK),
        (Odd("1"), LOOPBACK),
        (Odd(ValueError("no")), LOOPBACK),
        (Odd(0), LOOPBACK),
        ("text", "text"),
        (Odd(1), None, 3),
    ],
)
@pytest.mark.parametrize("event", ["socket.bind", "socket.connect"])
def test_events_that_are_none(auto, event, arguments):
    handle = auto(outgoing=True)
    with socket.create_server(LOOPBACK):  # so that connect looks at what was bound
        sys.audit(event, *arguments)
    assert handle.stats()["tuned"] == 1


@pytest.mark.parametrize("event", ["s", "so", "socket", "socket.", "socket.bindx", "socket.bin"])
def test_events_of_other_names(auto, event):
    handle = auto()
    with socket.socket() as sock:
        sys.audit(event, sock, LOOPBACK)
        assert held(sock) == fresh()
    assert handle.stats()["tuned"] == 0


def test_a_closed_socket(auto):
    auto(outgoing=True)
    sock = socket.socket()
    sock.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        sock.bind(LOOPBACK)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        sock.connect(LOOPBACK)


def test_interrupts_are_not_swallowed(auto):
    auto()
    with pytest.raises(KeyboardInterrupt):
        sys.audit("socket.bind", Odd(KeyboardInterrupt()), LOOPBACK)


def test_a_bind_that_fails_raises_its_own_error(auto, listener):
    auto()
    with socket.socket() as sock, pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        sock.bind(listener.getsockname())


def test_a_policy_that_the_kernel_refuses_leaves_the_socket(auto, monkeypatch):
    """Past the checks, as a kernel with other ranges would do."""
    policy = KeepAlive(idle=61, interval=11)
    policy._put("_values", (1, 40000, 11, -1, -1, -1))
    handle = auto(policy)
    with socket.create_server(LOOPBACK) as server:
        assert held(server) == fresh()
    assert handle.stats()["tuned"] == 0


def test_both_count_alike(impl):
    rule = _impl.backend.Rule(POLICY.values(), True, False)
    assert rule.stats() == {"tuned": 0, "given_back": 0}
    rule.end()
    rule.end()
