"""Options and counters of macOS and the BSDs in pure Python, on models of their kernels."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys

import pytest

from stillalive import NotSupportedError
from stillalive import _backend as b
from stillalive._pure import _unix
from stillalive._systems import SYSTEMS

from .model_systems import FD, HERE, NUMBERS, THERE, ModelUnix, Queue, fails

posix = pytest.mark.skipif(sys.platform == "win32", reason="what Python has on POSIX alone")

HANDSHAKE = "TCP_CONNECTIONTIMEOUT"
"""Goes along with the user timeout of a Mac, and is no option by itself."""

L, U = b.LEAVE, b.UNREADABLE
FRESH = {
    "darwin": (0, 7200, 75, 8, 0, L),
    "freebsd": (0, 7200, 75, 8, 0, L),
    "netbsd": (0, U, U, U, L, L),
    "openbsd": (0, L, L, L, L, L),
}
UNIX = tuple(FRESH)
WHOLE = {
    "darwin": (1, 60, 10, 5, 1500, L),
    "freebsd": (1, 60, 10, 5, 1500, L),
    "netbsd": (1, 60, 10, 5, L, L),
}
SET = {
    "darwin": [
        ("TCP_KEEPCNT", 5),
        ("SO_KEEPALIVE", 1),
        ("TCP_KEEPINTVL", 10),
        ("TCP_RXT_CONNDROPTIME", 2),
        (HANDSHAKE, 2),
        ("TCP_KEEPALIVE", 60),
    ],
    "freebsd": [
        ("TCP_KEEPCNT", 5),
        ("TCP_KEEPINTVL", 10),
        ("SO_KEEPALIVE", 1),
        ("TCP_MAXUNACKTIME", 2),
        ("TCP_KEEPIDLE", 60),
    ],
    "netbsd": [
        ("TCP_KEEPCNT", 5),
        ("TCP_KEEPINTVL", 20),
        ("TCP_KEEPIDLE", 120),
        ("SO_KEEPALIVE", 1),
    ],
}


@pytest.fixture
def queue(monkeypatch):
    """Stand in for the system's kqueue; it shows nothing until it is told to."""
    made = Queue()
    monkeypatch.setattr(_unix, "select", made.module())
    return made


@pytest.fixture
def no_sysctl(monkeypatch):
    monkeypatch.setattr(_unix, "sysctl", lambda name: None)


# ---- reading and setting --------------------------------------------------


@pytest.mark.parametrize("key", UNIX)
def test_a_fresh_socket_reads_as_the_system_has_it(key):
    assert ModelUnix(key).read_options(FD) == FRESH[key]


@pytest.mark.parametrize("key", UNIX)
def test_the_numbers_are_those_of_the_table(key):
    row = SYSTEMS[key]
    table = {(getattr(socket, o.level), o.number): o.native for o in row.options if o is not None}
    known = {where: name for where, (name, _) in NUMBERS[key].items()}
    assert table == {where: name for where, name in known.items() if name != HANDSHAKE}


@pytest.mark.parametrize("key", WHOLE)
def test_a_policy_is_set_in_the_systems_order_and_units(key):
    kernel = ModelUnix(key)
    rounded = (*WHOLE[key][:4], 2000 if key != "netbsd" else L, L)
    assert kernel.apply_options(FD, WHOLE[key]) == rounded
    assert kernel.sock.log == SET[key]


@pytest.mark.parametrize("key", WHOLE)
def test_a_fresh_socket_is_set_in_the_same_steps(key):
    kernel = ModelUnix(key)
    kernel.apply_fresh(FD, WHOLE[key])
    assert kernel.sock.log == SET[key]


@pytest.mark.parametrize("key", UNIX)
def test_what_is_left_is_not_touched(key):
    kernel = ModelUnix(key)
    assert kernel.apply_options(FD, (1, L, L, L, L, L)) == (1, *FRESH[key][1:])
    assert kernel.sock.log == [("SO_KEEPALIVE", 1)]


@pytest.mark.parametrize("key", WHOLE)
@pytest.mark.parametrize("step", range(4))
def test_a_setting_that_fails_puts_back_those_before_it(key, step, no_sysctl):
    kernel = ModelUnix(key)
    before = dict(kernel.sock.held)
    kernel.sock.fails_at = step
    with fails(errno.ENOBUFS, f"setsockopt({SET[key][step][0]})"):
        kernel.apply_options(FD, WHOLE[key])
    assert kernel.sock.held == before
    names = [name for name, _ in kernel.sock.log]
    done = [name for name, _ in SET[key][:step]]
    assert names == done + done[::-1]


def test_reading_back_that_fails_puts_everything_back(monkeypatch):
    kernel = ModelUnix("darwin")
    before, reads = dict(kernel.sock.held), []
    real = kernel._read

    def read(sock):
        reads.append(sock)
        if len(reads) == 2:
            raise KeyboardInterrupt
        return real(sock)

    monkeypatch.setattr(kernel, "_read", read)
    with pytest.raises(KeyboardInterrupt):
        kernel.apply_options(FD, WHOLE["darwin"])
    assert kernel.sock.held == before


def test_what_netbsd_does_not_tell_goes_back_to_what_sysctl_says(monkeypatch):
    told = {"net.inet.tcp.keepidle": 600, "net.inet.tcp.keepintvl": 30, "net.inet.tcp.keepcnt": 4}
    monkeypatch.setattr(_unix, "sysctl", told.get)
    kernel = ModelUnix("netbsd")
    kernel.sock.fails_at = 3
    with pytest.raises(OSError, match="SO_KEEPALIVE"):
        kernel.apply_options(FD, WHOLE["netbsd"])
    back = [("TCP_KEEPIDLE", 600), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 4)]
    assert kernel.sock.log[3:] == back  # as the kernel counts, not doubled


def test_netbsd_keeps_telling_nothing_of_what_was_not_set():
    kernel = ModelUnix("netbsd")
    assert kernel.apply_options(FD, (1, 60, L, L, L, L)) == (1, 60, U, U, L, L)


@posix
def test_sysctl_says_none_where_there_is_no_such_number():
    assert _unix.sysctl("net.inet.tcp.no_such_thing") is None


@pytest.mark.parametrize("option", [b.IDLE, b.INTERVAL, b.COUNT, b.USER_TIMEOUT])
def test_openbsd_says_no_before_anything_is_touched(option):
    kernel = ModelUnix("openbsd")
    values = [1, L, L, L, L, L]
    values[option] = 9
    with pytest.raises(NotSupportedError, match=kernel.option_name(option)):
        kernel.apply_options(FD, tuple(values))
    assert kernel.sock.log == []


@pytest.mark.parametrize(
    ("option", "value"),
    [(b.ENABLED, 2), (b.IDLE, 0), (b.INTERVAL, 4294968), (b.COUNT, 0), (b.USER_TIMEOUT, -3)],
)
def test_a_value_out_of_range_is_refused_here(option, value):
    """A Mac takes 0 for its own default, and multiplies without looking."""
    kernel = ModelUnix("darwin")
    with fails(errno.EINVAL):
        kernel.set_option(FD, option, value)
    assert kernel.sock.log == []


@pytest.mark.parametrize(
    ("ms", "raw"), [(0, 0), (1, 1), (1000, 1), (1001, 2), (2147483000, 2147483)]
)
def test_milliseconds_are_rounded_up_to_seconds(ms, raw):
    kernel = ModelUnix("freebsd")
    kernel.set_option(FD, b.USER_TIMEOUT, ms)
    assert kernel.sock.log == [("TCP_MAXUNACKTIME", raw)]


def test_what_a_kernel_counts_beyond_31_bits_is_the_most(queue):
    kernel = ModelUnix("freebsd")
    kernel.sock.held[socket.IPPROTO_TCP, 68] = 3_000_000
    kernel.sock.held[socket.IPPROTO_TCP, 1024] = -1  # an unsigned number, as Python reads it
    assert kernel.read_options(FD)[b.COUNT :] == (2**31 - 1, 2**31 - 1, L)


def test_a_default_beyond_what_can_be_set_comes_back_as_the_nearest():
    kernel = ModelUnix("darwin")
    kernel.put_back(FD, b.IDLE, 2**31 - 1)
    kernel.put_back(FD, b.INTERVAL, 0)  # the system's own, below a second
    assert kernel.sock.log == [("TCP_KEEPALIVE", 4294967), ("TCP_KEEPINTVL", 0)]


@pytest.mark.parametrize("key", UNIX)
def test_what_is_supported_is_found_on_a_socket_of_our_own(key):
    kernel = ModelUnix(key)
    want = sum(1 << n for n, option in enumerate(SYSTEMS[key].options) if option is not None)
    assert kernel.supported() == want
    assert kernel.supported() == want
    assert len(kernel.own) == 1  # asked once
    assert kernel.sock.log == []
    assert bool(kernel.own[0].log) == (key == "netbsd")  # which must set, to know


@pytest.mark.parametrize("key", ["freebsd", "netbsd"])
def test_an_older_kernel_without_an_option_is_found_out(key):
    kernel = ModelUnix(key)
    del kernel.sock.held[next(k for k, (n, _) in NUMBERS[key].items() if n == "TCP_KEEPCNT")]
    assert not kernel.supported() >> b.COUNT & 1
    assert kernel.read_options(FD)[b.COUNT] == L
    with pytest.raises(NotSupportedError, match="TCP_KEEPCNT"):
        kernel.apply_options(FD, WHOLE[key])
    assert kernel.sock.log == []


def test_names_and_ranges():
    kernel = ModelUnix("darwin")
    assert [kernel.option_name(n) for n in (-1, b.IDLE, b.RTO_MAX, 6)] == [
        *("?", "TCP_KEEPALIVE", "TCP_RTO_MAX_MS", "?")
    ]
    assert kernel.option_range(b.COUNT) == (1, 2**31 - 1)
    assert kernel.option_range(b.RTO_MAX) is None
    assert kernel.option_range(17) is None


# ---- what kind of socket, and which ---------------------------------------


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOPROTOOPT])
@pytest.mark.parametrize("key", UNIX)
@pytest.mark.parametrize(
    ("type_", "local", "what"),
    [
        (socket.SOCK_DGRAM, HERE, "UDP"),
        pytest.param(socket.SOCK_STREAM, "/run/x", "AF_UNIX", marks=posix),
        pytest.param(socket.SOCK_STREAM, "", "AF_UNIX", marks=posix),
        (socket.SOCK_STREAM, (40, b"vsock"), "family 40"),
    ],
)
def test_what_is_no_tcp_socket_is_told_so(key, code, type_, local, what, queue):
    kernel = ModelUnix(key)
    kernel.sock.type, kernel.sock.local, kernel.sock.not_tcp = type_, local, code
    for ask in (
        lambda: kernel.read_options(FD),
        lambda: kernel.apply_options(FD, (1, L, L, L, L, L)),
        lambda: kernel.tcp_info(FD),
    ):
        with pytest.raises(NotSupportedError, match=what):
            ask()
    assert kernel.sock.log == []


def test_kinds():
    kernel = ModelUnix("freebsd")
    assert kernel.kind(FD) == (socket.AF_INET, socket.SOCK_STREAM, 6, False)
    kernel.sock.local, kernel.sock.listening = ("::1", 80, 0, 0), True
    assert kernel.kind(FD) == (socket.AF_INET6, socket.SOCK_STREAM, 6, True)
    kernel.sock.type = socket.SOCK_DGRAM
    assert kernel.kind(FD)[2] == 17


def test_a_socket_is_known_by_both_its_ends(queue):
    kernel = ModelUnix("darwin")
    first = kernel.identify(FD)
    assert 0 < first < 2**64
    assert ModelUnix("darwin").identify(FD) == first
    others = set()
    for local, peer in ((HERE, HERE), (THERE, HERE), (("::1", 1, 0, 0), ("::1", 2, 0, 0))):
        kernel.sock.local, kernel.sock.peer = local, peer
        others.add(kernel.identify(FD))
    kernel.sock.local, kernel.sock.peer = HERE, errno.ENOTCONN  # it has had no peer yet
    others.add(kernel.identify(FD))
    assert len(others | {first}) == 5


@pytest.mark.parametrize("gone", [errno.ENOTCONN, errno.EINVAL])
def test_an_end_takes_the_name_with_it(queue, gone):
    kernel = ModelUnix("darwin")
    kernel.sock.peer = gone
    queue.show(read="end", write="end")
    with fails(errno.ENOTCONN):
        kernel.identify(FD)


def test_a_closed_descriptor_is_closed(queue):
    with fails(errno.EBADF):
        ModelUnix("darwin").identify(FD + 1)


@posix
@pytest.mark.parametrize("timeout", [None, 5.0])
def test_the_owners_blocking_mode_is_put_back(monkeypatch, tcp_pair, timeout):
    """Where no socket object can be made that leaves it alone, as on a Mac."""
    a, _ = tcp_pair()
    monkeypatch.delattr(socket, "SOCK_NONBLOCK")
    socket.setdefaulttimeout(timeout)
    try:
        with _unix.Unix(SYSTEMS["darwin"]).borrowed(a.fileno()) as sock:
            assert os.get_blocking(a.fileno())
            assert sock.fileno() != a.fileno()
            assert sock.getpeername() == a.getpeername()
    finally:
        socket.setdefaulttimeout(None)
    assert os.get_blocking(a.fileno())
    a.getpeername()  # still open


# ---- counters -------------------------------------------------------------


def struct_of(size: int, fields: dict[int, tuple[str, int]], state: int = 4) -> bytes:
    raw = bytearray(b"\xee" * size)
    raw[0] = state
    for offset, (code, value) in fields.items():
        struct.pack_into("=" + code, raw, offset, value)
    return bytes(raw)


LAYOUTS = {
    "darwin": (
        112,
        {
            12: ("I", 230),
            28: ("I", 65535),
            32: ("I", 77),
            44: ("I", 30),
            48: ("I", 4),
            56: ("Q", 5),
            64: ("Q", 500),
            72: ("Q", 50),
            80: ("Q", 6),
            88: ("Q", 600),
            104: ("Q", 2),
        },
        {
            "rto_us": 230_000,
            "snd_wnd": 65535,
            "notsent_bytes": 77,
            "rtt_us": 30_000,
            "rttvar_us": 4_000,
            "data_segs_out": 5,
            "bytes_sent": 500,
            "bytes_retrans": 50,
            "data_segs_in": 6,
            "bytes_received": 600,
            "total_retrans": 2,
        },
    ),
    "freebsd": (
        256,
        {
            8: ("I", 230_000),
            52: ("I", 4_000_999),
            68: ("I", 30_000),
            72: ("I", 4000),
            5: ("B", 7),
            100: ("I", 65535),
            108: ("I", 2**32 - 1),
            112: ("I", 12),
            120: ("I", 2),
            180: ("I", 3),
        },
        {
            "rto_us": 230_000,
            "snd_nxt": 2**32 - 1,
            "rcv_nxt": 12,
            "snd_max": 3,
            "last_ack_recv_ms": 4000,
            "rtt_us": 30_000,
            "rttvar_us": 4000,
            "snd_wnd": 65535,
            "total_retrans": 2,
        },
    ),
    "netbsd": (
        236,
        {108: ("I", 2**32 - 1), 112: ("I", 12), 120: ("I", 2)},
        {"snd_nxt": 2**32 - 1, "rcv_nxt": 12, "total_retrans": 2},
    ),
    "openbsd": (
        212,
        {
            8: ("I", 230_000),
            44: ("I", 9_000_000),
            52: ("I", 4_000_999),
            68: ("I", 30_000),
            72: ("I", 4000),
            104: ("I", 2**32 - 1),
            108: ("I", 12),
            160: ("I", 3),
            196: ("I", 77),
        },
        {
            "rto_us": 230_000,
            "snd_nxt": 2**32 - 1,
            "rcv_nxt": 12,
            "snd_max": 3,
            "queued_bytes": 77,
            "last_data_sent_ms": 9000,
            "last_ack_recv_ms": 4000,
            "rtt_us": 30_000,
            "rttvar_us": 4000,
        },
    ),
}


@pytest.mark.parametrize("key", UNIX)
def test_the_counters_are_where_the_system_has_them(key):
    size, fields, want = LAYOUTS[key]
    kernel = ModelUnix(key)
    kernel.sock.info = struct_of(size, fields)
    info = kernel.tcp_info(FD)
    assert {n: v for n, v in info._asdict().items() if v != -1} == {"state": b.ESTABLISHED} | want


@pytest.mark.parametrize("key", ["freebsd", "netbsd"])
def test_the_send_buffer_is_looked_at_before_the_numbers(key):
    size, fields, _ = LAYOUTS[key]
    kernel = ModelUnix(key)
    kernel.sock.info, kernel.sock.queued = struct_of(size, fields), 77
    assert kernel.tcp_info(FD).queued_bytes == 77
    assert kernel.sock.looks == ["queue", "info"]
    kernel.sock.queued = None
    assert kernel.tcp_info(FD).queued_bytes == -1
    kernel.sock.info = struct_of(size, fields, state=0)
    assert kernel.tcp_info(FD).queued_bytes == -1


@posix
def test_the_call_for_the_send_buffer_fills_in_four_bytes(tcp_pair):
    import termios

    a, c = tcp_pair()
    c.sendall(b"abc")
    a.recv(1, socket.MSG_PEEK)
    raw = _unix.Unix(SYSTEMS["freebsd"])._ioctl(a, termios.FIONREAD)
    assert struct.unpack("=i", raw) == (3,)


def test_a_card_s_numbers_are_not_told():
    size, fields, _ = LAYOUTS["freebsd"]
    kernel = ModelUnix("freebsd")
    kernel.sock.info = struct_of(size, fields | {5: ("B", 0x17)})
    info = kernel.tcp_info(FD)
    assert (info.snd_nxt, info.snd_max, info.rcv_nxt) == (-1, -1, -1)
    assert info.total_retrans == 2


@pytest.mark.parametrize(("sent", "received"), [(0, 0), (5, 0), (0, 5)])
def test_noughts_of_openbsd_are_no_numbers(sent, received):
    size, fields, _ = LAYOUTS["openbsd"]
    kernel = ModelUnix("openbsd")
    zeros = {104: ("I", sent), 108: ("I", received), 160: ("I", sent), 196: ("I", 0)}
    kernel.sock.info = struct_of(size, fields | zeros)
    info = kernel.tcp_info(FD)
    told = (info.snd_nxt, info.snd_max, info.rcv_nxt, info.queued_bytes)
    assert told == ((sent, sent, received, 0) if sent or received else (-1, -1, -1, -1))


@pytest.mark.parametrize("key", UNIX)
def test_a_shorter_struct_tells_less_and_nothing_wrong(key):
    size, fields, want = LAYOUTS[key]
    kernel = ModelUnix(key)
    for length in range(1, size):
        kernel.sock.info = struct_of(size, fields)[:length]
        told = {n: v for n, v in kernel.tcp_info(FD)._asdict().items() if v != -1}
        assert told.items() <= ({"state": b.ESTABLISHED} | want).items()
        ends = [offset + struct.calcsize("=" + code) for offset, (code, _) in fields.items()]
        flags = key == "freebsd" and length > 5  # what decides on others, and is not told
        assert len(told) == 1 + sum(end <= length for end in ends) - flags
    kernel.sock.info = b""
    with pytest.raises(NotSupportedError):
        kernel.tcp_info(FD)


STATES = [7, 10, 2, 3, 1, 8, 4, 11, 9, 5, 6]


@pytest.mark.parametrize("key", UNIX)
def test_states_have_linux_numbers(key):
    kernel = ModelUnix(key)
    found = []
    for native in range(12):
        kernel.sock.info = struct_of(LAYOUTS[key][0], {}, native)
        found.append(kernel.tcp_info(FD).state)
    assert found == [*STATES, -1]


@pytest.mark.parametrize("native", [0, 1])
def test_where_there_is_no_connection_there_are_no_counters(native):
    kernel = ModelUnix("freebsd")
    kernel.sock.info = struct_of(256, {}, native)
    assert set(kernel.tcp_info(FD)[1:]) == {-1}


def test_a_mac_without_an_armed_timer_tells_no_timeout():
    kernel = ModelUnix("darwin")
    kernel.sock.info = struct_of(112, LAYOUTS["darwin"][1] | {12: ("I", 0)})
    assert kernel.tcp_info(FD).rto_us == -1


@pytest.mark.parametrize("code", [errno.ECONNRESET, errno.EINVAL])
def test_the_counters_of_an_ended_connection_are_gone(code):
    kernel = ModelUnix("darwin")
    kernel.sock.info = code
    info = kernel.tcp_info(FD)
    assert info.state == b.CLOSE
    assert set(info[1:]) == {-1}


def test_a_kernel_without_the_counters_says_so():
    kernel = ModelUnix("openbsd")
    kernel.sock.info = errno.ENOPROTOOPT
    with pytest.raises(NotSupportedError, match="TCP_INFO"):
        kernel.tcp_info(FD)


# ---- what waits -----------------------------------------------------------


def test_a_quiet_connection_shows_nothing_and_its_queue_is_closed(queue):
    queue.show(write="ready")
    assert ModelUnix("darwin").pending(FD) == (False, False, False, False, 0, 0)
    assert (queue.opened, queue.closed, queue.waits) == (1, 1, 0)
    read, write = queue.wanted
    assert (read.ident, read.filter, read.flags, read.fflags, read.data) == (FD, -1, 1, 1, 1)
    assert (write.ident, write.filter, write.flags) == (FD, -2, 1)


@pytest.mark.parametrize(
    ("show", "want"),
    [
        ({"read": "ready", "data": 9}, (False, False, False, False, 9, 0)),
        ({"read": "end", "data": 9, "write": "ready"}, (False, False, True, False, 9, 0)),
        ({"read": "ready", "data": 9, "write": "end"}, (False, False, False, False, 9, 0)),
        ({"read": "end", "write": "end"}, (False, True, True, False, 0, 0)),
        (
            {"read": "end", "write": "end", "data": 3, "code": errno.ECONNRESET},
            (True, True, True, False, 3, errno.ECONNRESET),
        ),
    ],
)
def test_ends_and_errors_are_seen_and_left(queue, show, want):
    queue.show(**show)
    assert ModelUnix("freebsd").pending(FD) == want


def test_a_backlog_is_not_bytes(queue):
    kernel = ModelUnix("netbsd")
    kernel.sock.listening = True
    queue.show(read="ready", data=3)
    assert kernel.pending(FD).unread == 0


def test_an_error_of_the_queue_is_raised_and_it_is_closed(queue):
    queue.show(read="ready", data=errno.EBADF)
    queue.shown[0].flags = 0x4000
    with fails(errno.EBADF):
        ModelUnix("darwin").pending(FD)
    assert queue.closed == 1
