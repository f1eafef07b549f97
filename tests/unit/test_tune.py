"""tune: what the kernel holds afterwards, read back from the kernel itself."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillalive import KeepAlive, NotSupportedError, _impl, describe, tune
from stillalive import _backend as b
from tests.conftest import connect

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far")

IPPROTO_MPTCP = 262
NUMBERS = {"idle": 4, "interval": 5, "count": 6, "user_timeout": 18, "rto_max": 44}


def held(sock: socket.socket) -> dict[str, int]:
    """Ask the kernel, not the package."""
    found = {"enabled": sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)}
    for name, number in NUMBERS.items():
        with contextlib.suppress(OSError):
            found[name] = sock.getsockopt(socket.IPPROTO_TCP, number)
    return found


def test_explicit_values_are_set_exactly(impl, tcp_pair):
    a, _ = tcp_pair()
    result = tune(a, idle=61, interval=11, count=4, user_timeout=100.5, rto_max=2)
    assert held(a) == {
        "enabled": 1,
        "idle": 61,
        "interval": 11,
        "count": 4,
        "user_timeout": 100500,
        "rto_max": 2000,
    }
    assert result == KeepAlive(idle=61, interval=11, count=4, user_timeout=100.5, rto_max=2)
    assert not result.pending
    assert result.unsupported == ()


def test_what_is_not_named_stays_as_it_is(impl, tcp_pair):
    a, _ = tcp_pair()
    before = held(a)
    result = tune(a, idle=61)
    assert held(a) == before | {"enabled": 1, "idle": 61}
    assert (result.interval, result.count, result.user_timeout) == (75, 9, 0)


def test_off_switches_only_off(impl, tcp_pair):
    a, _ = tcp_pair()
    tune(a, idle=61, interval=7)
    assert tune(a, KeepAlive.OFF).enabled is False
    assert held(a)["enabled"] == 0
    assert held(a)["idle"] == 61


def test_an_unwise_combination_is_set_as_asked(impl, tcp_pair):
    a, _ = tcp_pair()
    tune(a, idle=60, interval=20, count=9, user_timeout=1)
    assert held(a)["user_timeout"] == 1000
    assert any("single lost probe" in text for text in describe(a).warnings)


@pytest.mark.parametrize("detect_within", [3, 4, 5, 6, 10, 30, 3600])
def test_a_deadline_on_a_live_connection_holds_by_the_kernels_rules(impl, tcp_pair, detect_within):
    a, _ = tcp_pair()
    result = tune(a, detect_within=detect_within)
    assert result.detects_idle_within <= detect_within
    assert result.detects_in_flight_within <= detect_within
    assert held(a)["user_timeout"] == round(result.user_timeout * 1000)
    assert result.idle + result.interval * (result.count - 1) < result.user_timeout


def test_the_shortest_deadline_is_longer_before_the_connection_is_there(impl, tcp_pair):
    a, _ = tcp_pair()
    with pytest.raises(ValueError, match="shortest possible here is 3 s on a connected socket"):
        tune(a, detect_within=2.9)
    with (
        socket.socket() as fresh,
        pytest.raises(ValueError, match="shortest possible here is 5 s"),
    ):
        tune(fresh, detect_within=4)


def test_a_long_unsettled_rto_never_gives_a_small_user_timeout(impl, tcp_pair, monkeypatch):
    a, _ = tcp_pair()
    real = impl.tcp_info(a.fileno())
    slow = b.Info(*real)._replace(rto_us=6_000_000)
    monkeypatch.setattr(impl, "tcp_info", lambda fd: tuple(slow))
    for detect_within in (3, 4, 6, 10):
        result = tune(a, detect_within=detect_within)
        assert result.user_timeout > result.idle + result.interval * (result.count - 1)
        assert result.detects_idle_within <= detect_within


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"idle": -1}, ValueError, "idle=-1"),
        ({"idle": float("nan")}, ValueError, "idle=nan"),
        ({"interval": float("inf")}, ValueError, "interval=inf"),
        ({"idle": "30"}, TypeError, "idle='30'"),
        ({"idle": 40000}, ValueError, "allowed: 1 to 32767 s"),
        ({"count": 128}, ValueError, "allowed: 1 to 127"),
        ({"count": 2.0}, TypeError, "count=2.0"),
        ({"user_timeout": -5}, ValueError, "user_timeout=-5"),
        ({"rto_max": 0.5}, ValueError, "allowed: 1 to 120 s"),
        ({"detect_within": 1}, ValueError, "detect_within=1"),
        ({"detect_within": 30, "tolerate": 25}, ValueError, "tolerate=25 cannot hold"),
        ({"detect_within": 30, "idle": 40}, ValueError, "contradicts detect_within=30"),
        ({"middlebox": 60, "idle": 40}, ValueError, "contradicts middlebox=60"),
        ({"spare_stalled": True, "user_timeout": 5}, ValueError, "contradicts spare_stalled"),
        ({"tolerate": 60, "interval": 1, "count": 3}, ValueError, "contradicts tolerate=60"),
        ({}, TypeError, "either a KeepAlive or keywords"),
    ],
)
def test_bad_input_changes_nothing(impl, tcp_pair, kwargs, error, message):
    a, _ = tcp_pair()
    before = held(a)
    with pytest.raises(error, match=message):
        tune(a, **kwargs)
    assert held(a) == before


def test_ranges_are_checked_before_the_first_system_call(impl, monkeypatch):
    def never(*args: object) -> None:
        raise AssertionError("the kernel was asked")

    for name in ("read_options", "apply_options", "tcp_info", "identify"):
        monkeypatch.setattr(impl, name, never)
    with pytest.raises(ValueError, match="idle=40000"):
        tune(0, idle=40000)


def test_a_policy_and_keywords_exclude_each_other(impl, tcp_pair):
    a, _ = tcp_pair()
    with pytest.raises(TypeError, match="either a KeepAlive or keywords"):
        tune(a, KeepAlive(idle=5), idle=6)
    with pytest.raises(TypeError, match="must be a KeepAlive"):
        tune(a, 30)  # type: ignore[arg-type]


def test_an_outage_is_tolerated_whatever_was_tuned_before(impl, tcp_pair):
    a, _ = tcp_pair()
    tune(a, detect_within=30)
    tune(a, tolerate=60)
    shown = describe(a)
    assert shown.detects_in_flight_within > 120
    assert shown.detects_idle_within > 60


def test_values_beside_wishes_hold_together_or_raise(impl, tcp_pair):
    a, _ = tcp_pair()
    result = tune(a, detect_within=30, interval=4)
    assert result.interval == 4
    assert result.detects_idle_within <= 30


def test_an_empty_policy_only_reads(impl, tcp_pair):
    a, _ = tcp_pair()
    before = held(a)
    assert tune(a, KeepAlive()).enabled is False
    assert held(a) == before


# ---- every kind of socket ------------------------------------------------


def test_v6(impl, tcp_pair):
    a, _ = tcp_pair(socket.AF_INET6)
    tune(a, detect_within=10)
    assert held(a)["enabled"] == 1


def test_v4_mapped_on_a_dual_stack_listener_inherits(impl):
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        tune(listener, detect_within=30)
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, peer = listener.accept()
            with accepted:
                assert peer[0] == "::ffff:127.0.0.1"
                assert held(accepted) == held(listener)
                assert held(client)["enabled"] == 0
                assert tune(accepted, detect_within=4).enabled


def test_a_connection_already_in_the_queue_does_not_inherit(impl):
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        tune(listener, idle=33)
        accepted, _ = listener.accept()
        with accepted:
            assert held(accepted)["enabled"] == 0
    # which is why describe says so on a listener
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert any("already in the queue" in text for text in describe(listener).warnings)


def test_an_unconnected_socket_keeps_its_values_through_connect(impl):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        tune(sock, detect_within=5)
        before = held(sock)
        sock.connect(listener.getsockname())
        assert held(sock) == before


def test_int_descriptors_and_objects_with_fileno(impl, tcp_pair):
    a, _ = tcp_pair()

    class Wrapper:
        def fileno(self) -> int:
            return a.fileno()

    tune(a.fileno(), idle=61)
    assert held(a)["idle"] == 61
    tune(Wrapper(), idle=62)
    assert held(a)["idle"] == 62


def tls_pair(stack: contextlib.ExitStack) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    trustme = pytest.importorskip("trustme", reason="trustme makes the certificate for TLS")
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    client, server = connect()
    wrapped_server = server_context.wrap_socket(
        server, server_side=True, do_handshake_on_connect=False
    )
    wrapped_client = client_context.wrap_socket(
        client, server_hostname="localhost", do_handshake_on_connect=False
    )
    stack.enter_context(wrapped_client)
    stack.enter_context(wrapped_server)
    handshake(wrapped_client, wrapped_server)
    return wrapped_client, wrapped_server


def handshake(*ends: ssl.SSLSocket) -> None:
    waiting = set(ends)
    for end in ends:
        end.setblocking(False)
    while waiting:
        for end in tuple(waiting):
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                end.do_handshake()
                waiting.discard(end)
    for end in ends:
        end.setblocking(True)


def test_tls_sockets(impl):
    with contextlib.ExitStack() as stack:
        client, server = tls_pair(stack)
        tune(client, detect_within=10)
        assert held(client)["enabled"] == 1
        client.sendall(b"still encrypted")
        assert server.recv(100) == b"still encrypted"


@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
def test_transports_and_stream_writers(impl, loop_name):
    factory = asyncio.new_event_loop
    if loop_name == "uvloop":
        factory = pytest.importorskip("uvloop", reason="uvloop is not installed").new_event_loop

    async def main() -> None:
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        result = tune(writer, idle=61)
        assert result.idle == 61
        assert tune(writer.transport, idle=62).idle == 62
        assert describe(writer.transport).idle == 62
        assert describe(writer.get_extra_info("socket")).idle == 62
        writer.close()
        await writer.wait_closed()
        with pytest.raises(OSError, match="closed|Bad file descriptor") as caught:
            tune(writer, idle=63)
        assert caught.value.errno == errno.EBADF
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_closed_sockets_are_ebadf(impl, tcp_pair):
    a, _ = tcp_pair()
    number = os.dup(a.fileno())
    os.close(number)
    a.close()
    for closed in (a, number):
        with pytest.raises(OSError, match="closed|Bad file descriptor") as caught:
            tune(closed, idle=5)
        assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("family", ["udp", "unix"])
def test_other_sockets_are_refused_untouched(impl, family):
    sock = (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if family == "udp"
        else socket.socket(socket.AF_UNIX)
    )
    with sock:
        for call in (
            lambda: tune(sock, idle=5),
            lambda: tune(sock, KeepAlive.OFF),
            lambda: tune(sock, detect_within=30),
            lambda: describe(sock),
        ):
            with pytest.raises(NotSupportedError, match="UDP" if family == "udp" else "AF_UNIX"):
                call()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


@pytest.fixture
def mptcp() -> socket.socket:
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    except OSError as error:
        pytest.skip(f"this kernel has no MPTCP: {error}")
    with sock:
        yield sock


def test_mptcp_has_no_user_timeout(impl, mptcp):
    assert tune(mptcp, idle=61, interval=11).idle == 61
    before = held(mptcp)
    with pytest.raises(NotSupportedError, match="user_timeout"):
        tune(mptcp, user_timeout=5, idle=9)
    with pytest.raises(NotSupportedError, match="TCP_USER_TIMEOUT"):
        tune(mptcp, detect_within=30)
    assert held(mptcp) == before
    result = tune(mptcp, detect_within=30, best_effort=True)
    assert result.unsupported == ("user_timeout",)
    assert result.detects_idle_within <= 30
    assert result.detects_in_flight_within is None
    assert describe(mptcp).user_timeout is None


@pytest.mark.parametrize("what", [None, "sock", object(), 3.0, True, b"1"])
def test_what_is_no_socket_is_a_type_error(impl, what):
    with pytest.raises(TypeError, match="sock: .*is not a socket"):
        tune(what, idle=5)


@pytest.mark.parametrize("number", [-1, 2**31, -(2**70)])
def test_numbers_that_can_be_no_descriptor(impl, number):
    with pytest.raises(ValueError, match="is no file descriptor"):
        tune(number, idle=5)


# ---- all or nothing -------------------------------------------------------


def test_a_failure_half_way_restores(monkeypatch, tcp_pair):
    """The pure path, whose setter can be made to fail; the C path's fake kernel does it too."""
    from stillalive._pure import _linux

    a, _ = tcp_pair()
    monkeypatch.setattr(_impl, "backend", _impl.choose("pure"))
    before = held(a)
    real = _linux._set

    def fail_at_last(sock: socket.socket, option: int, value: int) -> None:
        if option == b.IDLE and value == 61:
            raise OSError(errno.ENOMEM, "no memory")
        real(sock, option, value)

    monkeypatch.setattr(_linux, "_set", fail_at_last)
    with pytest.raises(OSError, match="no memory"):
        tune(a, idle=61, interval=11, count=4, user_timeout=3)
    assert held(a) == before


def test_the_owners_blocking_mode_is_not_touched(impl, tcp_pair):
    a, _ = tcp_pair()
    socket.setdefaulttimeout(5)
    try:
        tune(a, idle=61)
        describe(a)
        assert os.get_blocking(a.fileno())
    finally:
        socket.setdefaulttimeout(None)


@given(
    idle=st.integers(1, 32767) | st.floats(0.1, 32767),
    interval=st.integers(1, 32767),
    count=st.integers(1, 127),
    user_timeout=st.floats(0, 2_147_483),
)
def test_whatever_is_in_range_arrives_in_the_kernel(idle, interval, count, user_timeout):
    with socket.socket() as sock:
        result = tune(sock, idle=idle, interval=interval, count=count, user_timeout=user_timeout)
        found = held(sock)
        assert found["idle"] == result.idle >= idle
        assert found["idle"] - idle < 1
        assert found["interval"] == interval
        assert found["count"] == count
        assert found["user_timeout"] / 1000 == pytest.approx(user_timeout, abs=0.00101)
