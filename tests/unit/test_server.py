"""Server: what protocols and transports promise while a connection lives."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import sys
import threading

import pytest

from stillalive import KeepAlive
from stillalive.server import Server

from .. import needs
from .serving import RUN, Serving, echo, read, read_all, run, until


def listening(family=socket.AF_INET, host="127.0.0.1"):
    return socket.create_server((host, 0), family=family)


# ---- making one -------------------------------------------------------------

SECONDS = [0, -1, float("nan"), float("inf"), 10_000_001]
WRONG_VALUES = [
    *[({name: value}, ValueError) for name in ("idle_timeout", "max_age") for value in SECONDS],
    *[({name: value}, TypeError) for name in ("idle_timeout", "max_age") for value in ("1", True)],
    ({"max_connections": 0}, ValueError),
    ({"max_connections": -3}, ValueError),
    ({"max_connections": 1.5}, TypeError),
    ({"max_connections": True}, TypeError),
    ({"keepalive": 30}, TypeError),
    ({"keepalive": {"idle": 30}}, TypeError),
    ({"on_error": 5}, TypeError),
]


@pytest.mark.parametrize(("options", "kind"), WRONG_VALUES, ids=str)
def test_a_wrong_argument_is_named_and_nothing_is_taken(impl, options, kind):
    with listening() as listener:
        (name,) = options
        with pytest.raises(kind, match=f"^{name}="):
            Server(listener, asyncio.Protocol, **options)
        assert listener.gettimeout() is None
        with socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            accepted.close()
            assert read_all(client) == b""


def test_what_is_no_listener_is_refused(impl):
    with listening() as listener, socket.socket() as idle, socket.socket(type=2) as udp:
        idle.bind(("127.0.0.1", 0))
        for wrong in (None, 3, "listener", listener.fileno(), object()):
            with pytest.raises(TypeError, match=r"^listener="):
                Server(wrong, asyncio.Protocol)
        for wrong in (idle, udp):
            with pytest.raises(ValueError, match=r"^listener="):
                Server(wrong, asyncio.Protocol)
        with pytest.raises(TypeError, match=r"^protocol_factory="):
            Server(listener, asyncio.Protocol())
    with pytest.raises(OSError, match=r"listener=.*closed") as closed:
        Server(listener, asyncio.Protocol)
    assert closed.value.errno == errno.EBADF


def test_a_tls_listener_is_refused_with_advice(impl):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with (
        context.wrap_socket(listening(), server_side=True) as listener,
        pytest.raises(TypeError, match="asyncio"),
    ):
        Server(listener, asyncio.Protocol)


def test_a_failure_leaves_the_listener_as_it_was(impl, monkeypatch):
    needs.options(impl)

    def fail(*_):
        raise OSError(errno.EMFILE, "epoll_create1")

    monkeypatch.setattr(impl, "ServerEngine", fail)
    with listening() as listener:
        listener.settimeout(7)
        before = impl.read_options(listener.fileno())
        with pytest.raises(OSError, match="epoll_create1"):
            Server(listener, asyncio.Protocol, keepalive=KeepAlive(idle=77, interval=7))
        assert impl.read_options(listener.fileno()) == before
        assert listener.gettimeout() == 7


def test_the_listener_is_taken_over_and_closed(impl):
    listener = listening()
    address = listener.getsockname()
    server = Server(listener, asyncio.Protocol)
    assert listener.fileno() == -1
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


# ---- protocols --------------------------------------------------------------


def test_large_data_comes_back_whole(mechanism):
    data = bytes(range(256)) * 20_000
    with Serving(answer=echo) as serving:
        client = serving.connect()
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        assert read(client, len(data)) == data
        sender.join()
        until(lambda: serving.stats()["sent"] == len(data))
        assert serving.stats()["received"] == len(data)
        assert serving.stats()["buffered"] == 0


def test_only_data_received_is_mandatory(impl):
    class Least:
        def data_received(self, data):
            got.append(data)

    got = []
    with Serving(Least) as serving:
        client = serving.connect(wait=False)
        client.sendall(b"one")
        until(lambda: got)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
        until(lambda: serving.stats()["open"] == 0)
        assert (got, serving.errors) == ([b"one"], [])


def test_callbacks_come_in_asyncios_order(impl):
    with Serving() as serving:
        client = serving.connect()
        client.sendall(b"x")
        until(lambda: "data" in serving.made[0].log)
        client.shutdown(socket.SHUT_WR)
        protocol = serving.made[0].was_lost()
        assert protocol.log == ["made", "data", "eof", "lost"]
        assert (protocol.exception, protocol.reason) == (None, "peer")
        assert serving.stats()["ended_peer"] == 1


class Filling(asyncio.BufferedProtocol):
    def __init__(self, log):
        self.log, self.buffer = log, bytearray(5)

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        self.log.append(("get", sizehint))
        return self.buffer

    def buffer_updated(self, nbytes):
        self.log.append(bytes(self.buffer[:nbytes]))

    def connection_lost(self, exc):
        self.log.append(exc)


class PlainFilling:
    """The same without asyncio's class."""

    __init__, get_buffer = Filling.__init__, Filling.get_buffer
    buffer_updated, connection_lost = Filling.buffer_updated, Filling.connection_lost


@pytest.mark.parametrize("kind", [Filling, PlainFilling])
def test_a_buffered_protocol_gets_data_in_its_own_buffer(impl, kind):
    log = []
    with Serving(lambda: kind(log)) as serving:
        client = serving.connect(wait=False)
        client.sendall(b"abcdefg")
        client.shutdown(socket.SHUT_WR)
        until(lambda: None in log)
        got = [entry for entry in log if isinstance(entry, bytes)]
        assert got == [b"abcde", b"fg"]
        assert ("get", -1) in log
        assert not serving.errors


def test_a_protocol_can_be_replaced(impl):
    log = []

    def answer(protocol, data):
        new = Filling(log)
        protocol.transport.set_protocol(new)
        changed.append(protocol.transport.get_protocol() is new)
        with pytest.raises(TypeError):
            protocol.transport.set_protocol(object())

    changed = []
    with Serving(answer=answer) as serving:
        client = serving.connect()
        client.sendall(b"old")
        until(lambda: changed)
        client.sendall(b"new")
        until(lambda: b"new" in log)
        client.close()
        until(lambda: None in log)
        assert (changed, serving.errors) == ([True], [])
        assert "lost" not in serving.made[0].log


# ---- writing ----------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"abc", bytearray(b"abc"), memoryview(b"xabcx")[1:4]],
    ids=["bytes", "bytearray", "memoryview"],
)
def test_what_is_like_bytes_is_sent(impl, data):
    with Serving() as serving:
        client = serving.connect()
        run(serving, client, lambda transport: transport.write(data))
        assert read(client, 3) == b"abc"


@pytest.mark.parametrize("data", ["abc", 3, None, [b"abc"]], ids=repr)
def test_what_is_not_like_bytes_is_refused(impl, data):
    with Serving(answer=echo) as serving:
        client = serving.connect()
        with pytest.raises(TypeError):
            run(serving, client, lambda transport: transport.write(data))
        client.sendall(b"still there")
        assert read(client, 11) == b"still there"


def test_pieces_are_sent_as_one(impl):
    with Serving() as serving:
        client = serving.connect()
        run(serving, client, lambda t: t.writelines([b"a", bytearray(b"b"), memoryview(b"c")]))
        assert read(client, 3) == b"abc"


def test_data_that_changes_after_the_write_is_sent_as_it_was(impl):
    with Serving() as serving:
        client = serving.connect()
        data = bytearray(b"a" * 8_000_000)

        def write_and_change(transport):
            transport.write(data)
            data[:] = b"b" * len(data)
            return transport.get_write_buffer_size()

        assert run(serving, client, write_and_change) > 0
        assert set(read(client, len(data))) == set(b"a")


def test_close_sends_what_is_kept_and_ignores_what_comes_later(impl):
    with Serving() as serving:
        client = serving.connect()

        def write_and_close(transport):
            transport.write(b"a" * 8_000_000)
            transport.close()
            transport.write(b"b")
            transport.close()
            return transport.is_closing(), transport.is_reading()

        assert run(serving, client, write_and_close) == (True, False)
        assert not serving.made[0].lost.is_set()
        data = read_all(client)
        assert (len(data), set(data)) == (8_000_000, set(b"a"))
        protocol = serving.made[0].was_lost()
        assert (protocol.exception, protocol.reason) == (None, "owner")


@needs.resets
def test_abort_drops_what_is_kept_and_resets(impl):
    with Serving() as serving:
        client = serving.connect()

        def write_and_abort(transport):
            transport.write(b"a" * 8_000_000)
            transport.set_write_buffer_limits(1 << 40)
            transport.abort()
            transport.abort()

        run(serving, client, write_and_abort)
        with pytest.raises(ConnectionResetError):
            read_all(client)
        protocol = serving.made[0].was_lost()
        assert (protocol.exception, protocol.reason) == (None, "owner")
        assert protocol.log == ["made", "pause", "lost"]
        assert serving.stats()["buffered"] == 0


def test_the_server_may_end_its_side_and_still_read(impl):
    with Serving() as serving:
        client = serving.connect()

        def finish(transport):
            transport.write(b"all")
            transport.write_eof()
            transport.write_eof()
            return transport.can_write_eof()

        assert run(serving, client, finish)
        assert read_all(client) == b"all"
        client.sendall(b"more")
        until(lambda: serving.made[0].data == b"more")
        with pytest.raises(RuntimeError, match="write_eof"):
            run(serving, client, lambda transport: transport.write(b"x"))
        client.close()
        assert serving.made[0].was_lost().reason == "peer"


def test_the_peer_may_end_its_side_and_still_get_an_answer(impl):
    with Serving(stay_open=True, answer=echo) as serving:
        client, driver = serving.connect(), serving.connect()
        protocol = serving.made[0]
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        until(lambda: "eof" in protocol.log)
        assert read(client, 8) == b"question"
        assert not protocol.lost.is_set()
        late = (lambda: protocol.transport.write(b" late"), protocol.transport.close)
        for work in late:
            serving.in_server(driver, work)
        assert read_all(client) == b" late"
        assert protocol.was_lost().reason == "peer"


def test_two_ended_sides_are_the_end(impl):
    with Serving(stay_open=True) as serving:
        client = serving.connect()
        run(serving, client, lambda transport: transport.write_eof())
        client.shutdown(socket.SHUT_WR)
        assert serving.made[0].was_lost().reason == "peer"
        client, driver = serving.connect(), serving.connect()
        protocol = serving.made[1]
        client.shutdown(socket.SHUT_WR)
        until(lambda: "eof" in protocol.log)
        serving.in_server(driver, protocol.transport.write_eof)
        assert protocol.was_lost().reason == "peer"


def test_a_slow_reader_pauses_writing_and_resumes_it(impl):
    size = 8_000_000
    with Serving() as serving:
        client = serving.connect()
        protocol = serving.made[0]

        def fill(transport):
            transport.write(b"x" * size)
            transport.write(b"y")
            return transport.get_write_buffer_size(), list(protocol.log)

        kept, log = run(serving, client, fill)
        assert 65536 < kept < size
        assert log == ["made", "pause"]
        assert serving.stats()["buffered"] == kept
        data = read(client, size + 1)
        assert data[-1:] == b"y"
        until(lambda: "resume" in protocol.log)
        assert protocol.log == ["made", "pause", "resume"]
        assert run(serving, client, lambda t: t.get_write_buffer_size()) == 0


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, (16384, 65536)),
        ({"high": 1000}, (250, 1000)),
        ({"low": 1000}, (1000, 4000)),
        ({"high": 1000, "low": 10}, (10, 1000)),
        ({"high": 0}, (0, 0)),
    ],
    ids=str,
)
def test_write_limits_are_derived_as_in_asyncio(impl, limits, expected):
    def change(transport):
        transport.set_write_buffer_limits(**limits)
        return transport.get_write_buffer_limits()

    with Serving() as serving:
        assert run(serving, serving.connect(), change) == expected


@pytest.mark.parametrize("limits", [{"high": 1, "low": 2}, {"high": -1}, {"low": -1}], ids=str)
def test_wrong_write_limits_are_refused(impl, limits):
    with Serving() as serving:
        client = serving.connect()
        with pytest.raises(ValueError, match="must be >="):
            run(serving, client, lambda t: t.set_write_buffer_limits(**limits))
        assert run(serving, client, lambda t: t.get_write_buffer_limits()) == (16384, 65536)


def test_new_write_limits_count_at_once(impl):
    with Serving() as serving:
        client = serving.connect()
        protocol = serving.made[0]
        huge = 1 << 40

        def raise_and_lower(transport):
            transport.set_write_buffer_limits(high=huge)
            transport.write(b"x" * 8_000_000)
            before = list(protocol.log)
            transport.set_write_buffer_limits(high=1000)
            return before, list(protocol.log)

        before, after = run(serving, client, raise_and_lower)
        assert (before, after) == (["made"], ["made", "pause"])
        run(serving, client, lambda transport: transport.set_write_buffer_limits(high=huge))
        until(lambda: protocol.log == ["made", "pause", "resume"])


# ---- reading, and what a transport knows ------------------------------------


def test_paused_reading_receives_nothing_until_it_is_resumed(impl):
    with Serving() as serving:
        client, driver = serving.connect(), serving.connect()
        protocol = serving.made[0]
        transport = protocol.transport

        def pause():
            transport.pause_reading()
            transport.pause_reading()
            return transport.is_reading()

        assert serving.in_server(driver, pause) is False
        client.sendall(b"data")
        client.shutdown(socket.SHUT_WR)
        serving.in_server(driver, lambda: None)
        assert protocol.log == ["made"]
        assert serving.stats()["received"] == 2 * len(RUN)
        serving.in_server(driver, transport.resume_reading)
        protocol.was_lost()
        assert protocol.log == ["made", "data", "eof", "lost"]


def test_a_transport_knows_its_addresses_and_its_socket(impl):
    with Serving() as serving:
        client = serving.connect()
        address = client.getsockname()
        transport = serving.made[0].transport

        def ask(transport):
            shown = transport.get_extra_info("socket")
            return (
                transport.get_extra_info("peername"),
                transport.get_extra_info("sockname"),
                transport.get_extra_info("end_reason"),
                transport.get_extra_info("nothing", 7),
                shown is transport.get_extra_info("socket"),
                (shown.family, shown.type, shown.proto),
                shown.getpeername(),
                shown.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                shown.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
                shown.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                shown.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0,
            )

        # Python asks for the protocol of a number only where SO_PROTOCOL exists.
        protocol = socket.IPPROTO_TCP if hasattr(socket, "SO_PROTOCOL") else 0
        tcp = (socket.AF_INET, socket.SOCK_STREAM, protocol)
        expected = (address, serving.address, None, 7, True, tcp, address, 0, None, 1, True)
        assert run(serving, client, ask) == expected
        shown = run(serving, client, lambda transport: transport.get_extra_info("socket"))
        client.close()
        serving.made[0].was_lost()
        until(lambda: shown.fileno() == -1)
        with pytest.raises(OSError, match=r"."):
            shown.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert transport.get_extra_info("end_reason") == "peer"
        assert serving.made[0].peername == address


def test_the_shown_socket_does_not_close_the_connection(impl):
    with Serving(answer=echo) as serving:
        client = serving.connect()
        for _ in range(3):
            run(serving, client, lambda t: t.get_extra_info("socket").getsockname())
        client.sendall(b"there")
        assert read(client, 5) == b"there"


@pytest.mark.skipif(sys.platform != "linux", reason="keepalive is supported on Linux so far")
def test_accepted_connections_have_the_keepalive(impl):
    def held(transport):
        shown = transport.get_extra_info("socket")
        return [
            shown.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            shown.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        ]

    with Serving(keepalive=KeepAlive(idle=77)) as serving:
        assert run(serving, serving.connect(), held) == [1, 77]
        assert serving.stats()["untuned"] == 0


@needs.local_sockets
def test_local_sockets_are_served(impl, tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    with Serving(listener=listener, answer=echo) as serving:
        client = serving.connect()
        client.sendall(b"local")
        assert read(client, 5) == b"local"


@pytest.mark.skipif(not socket.has_ipv6, reason="this system has no IPv6")
def test_ipv6_is_served(impl):
    with Serving(listener=listening(socket.AF_INET6, "::1"), answer=echo) as serving:
        client = serving.connect()
        client.sendall(b"six")
        assert read(client, 3) == b"six"
        assert serving.made[0].peername[:2] == client.getsockname()[:2]


def test_counters_add_up(impl):
    with Serving(answer=echo) as serving:
        for _ in range(3):
            client = serving.connect()
            client.sendall(b"12345")
            read(client, 5)
            client.close()
        until(lambda: serving.stats()["open"] == 0)
        stats = serving.stats()
        assert set(stats) == set(
            "accepted open lingering received sent shed refused aborted_accepts untuned buffered "
            "ended_peer ended_owner ended_error ended_idle ended_shed ended_age "
            "ended_shutdown".split()
        )
        wanted = {"accepted": 3, "received": 15, "sent": 15, "ended_peer": 3}
        assert {name: count for name, count in stats.items() if count} == wanted
