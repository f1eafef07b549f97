"""Options and counters of Windows in pure Python, on models of older and newer ones."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

import pytest

from stillalive import NotSupportedError
from stillalive import _backend as b
from stillalive._pure import _windows
from stillalive._systems import SYSTEMS

from .model_systems import FD, NUMBERS, OLD, TIMES, ModelWindows, fails

L, U = b.LEAVE, b.UNREADABLE
WHOLE = (1, 60, 10, 5, 1500, L)
SIO = "SIO_KEEPALIVE_VALS"
WITH_COUNT = TIMES
"""What 1703 lacks: it has TCP_KEEPCNT already."""

SET = {
    (): [
        ("SO_KEEPALIVE", 1),
        ("TCP_KEEPINTVL", 10),
        ("TCP_KEEPCNT", 5),
        ("TCP_MAXRTMS", 1500),
        ("TCP_KEEPIDLE", 60),
    ],
    WITH_COUNT: [
        ("SO_KEEPALIVE", 1),
        (SIO, (1, 60_000, 10_000)),
        ("TCP_KEEPCNT", 5),
        ("TCP_MAXRTMS", 1500),
    ],
    OLD: [("SO_KEEPALIVE", 1), (SIO, (1, 60_000, 5_000)), ("TCP_MAXRT", 2)],
}
READ_BACK = {(): 1500, WITH_COUNT: 1500, OLD: 2000}
AGES = tuple(SET)


def test_the_numbers_are_those_of_the_table():
    table = {o.number: o.native for o in SYSTEMS["windows"].options if o is not None}
    assert table.items() <= {n: name for (_, n), (name, _) in NUMBERS["windows"].items()}.items()


@pytest.mark.parametrize("age", AGES)
def test_a_policy_is_set_by_what_there_is(age):
    kernel = ModelWindows(age)
    assert kernel.apply_options(FD, WHOLE) == (*WHOLE[:4], READ_BACK[age], L)
    assert kernel.sock.log == SET[age]


@pytest.mark.parametrize(
    ("age", "held"),
    [((), (0, 7200, 1, 10, 0, L)), (WITH_COUNT, (0, U, U, 10, 0, L)), (OLD, (0, U, U, U, 0, L))],
)
def test_what_a_fresh_socket_tells(age, held):
    kernel = ModelWindows(age)
    assert kernel.read_options(FD) == held
    assert kernel.supported() == 0b11111
    assert kernel.sock.log == []


def test_a_system_without_a_bound_of_retransmission():
    kernel = ModelWindows((*OLD, "TCP_MAXRT"))
    assert kernel.supported() == 0b01111
    assert kernel.read_options(FD)[b.USER_TIMEOUT] == L
    with pytest.raises(NotSupportedError, match="TCP_MAXRTMS"):
        kernel.apply_options(FD, WHOLE)
    assert kernel.sock.log == []


@pytest.mark.parametrize(
    ("values", "given", "missing"),
    [
        ((1, 60, L, L, L, L), "TCP_KEEPIDLE", "TCP_KEEPINTVL"),
        ((1, L, 10, L, L, L), "TCP_KEEPINTVL", "TCP_KEEPIDLE"),
        ((1, L, 10, 5, L, L), "TCP_KEEPINTVL", "TCP_KEEPIDLE"),
        ((1, L, L, 5, L, L), "TCP_KEEPCNT", "TCP_KEEPIDLE"),
    ],
)
def test_half_of_the_pair_is_refused_and_nothing_changed(values, given, missing):
    kernel = ModelWindows(OLD)
    before = dict(kernel.sock.held)
    with pytest.raises(NotSupportedError, match=rf"{given}\) without .*{missing}"):
        kernel.apply_options(FD, values)
    assert kernel.sock.log == []
    assert kernel.sock.held == before
    with pytest.raises(NotSupportedError):
        kernel.apply_fresh(FD, values)
    assert kernel.sock.log == []


def test_a_count_alone_is_set_where_it_is_an_option():
    kernel = ModelWindows(WITH_COUNT)
    assert kernel.apply_options(FD, (1, L, L, 5, L, L)) == (1, U, U, 5, 0, L)
    assert kernel.sock.log == [("SO_KEEPALIVE", 1), ("TCP_KEEPCNT", 5)]


@pytest.mark.parametrize(
    ("interval", "count", "ms"), [(10, 10, 10_000), (1, 1, 100), (3, 7, 2100), (75, 255, 1_912_500)]
)
def test_a_fixed_count_keeps_the_total(interval, count, ms):
    kernel = ModelWindows(OLD)
    held = kernel.apply_options(FD, (1, 60, interval, count, L, L))
    assert kernel.sock.log[1] == (SIO, (1, 60_000, ms))
    assert held[:4] == (1, 60, interval, count)
    assert ms * 10 == interval * count * 1000


@pytest.mark.parametrize(
    "values",
    [
        (1, 60, 2147483, 255, L, L),  # more than 32 bits of milliseconds
        (1, 0, 10, 5, L, L),
        (1, 60, 2147484, 1, L, L),
        (1, 60, 10, 256, L, L),
        (2, 60, 10, 5, L, L),
    ],
)
def test_a_value_out_of_range_is_found_before_the_pair_is_lost(values):
    kernel = ModelWindows(OLD)
    with fails(errno.EINVAL):
        kernel.apply_options(FD, values)
    assert kernel.sock.log == []


@pytest.mark.parametrize("age", [WITH_COUNT, OLD])
@pytest.mark.parametrize("enabled", [0, L])
def test_what_is_off_stays_off(age, enabled):
    """The pair is taken together with "on" only."""
    kernel = ModelWindows(age)
    assert kernel.apply_options(FD, (enabled, 60, 10, L, L, L))[:3] == (0, 60, 10)
    assert kernel.sock.log[-2:] == [(SIO, (1, 60_000, 10_000)), ("SO_KEEPALIVE", 0)]


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("step", range(3))
def test_a_setting_that_fails_puts_back_those_before_it(age, step):
    kernel = ModelWindows(age)
    before = dict(kernel.sock.held)
    kernel.sock.fails_at = step
    with fails(errno.ENOBUFS):
        kernel.apply_options(FD, WHOLE)
    assert kernel.sock.held == before
    pair_was_set = any(name == SIO for name, _ in SET[age][:step])
    put_back = kernel.sock.log[step:]
    assert ((SIO, (1, 7_200_000, 1000)) in put_back) == pair_was_set


def test_a_pair_that_cannot_be_switched_off_again_is_undone():
    kernel = ModelWindows(OLD)
    kernel.sock.fails_at = 1
    with pytest.raises(OSError, match="SIO_KEEPALIVE_VALS"):
        kernel.apply_options(FD, (L, 60, 10, L, L, L))
    assert kernel.sock.log == [
        (SIO, (1, 60_000, 10_000)),
        ("SO_KEEPALIVE", 0),
        (SIO, (1, 7_200_000, 1000)),
        ("SO_KEEPALIVE", 0),
    ]
    assert kernel.sock.named("SO_KEEPALIVE") == 0


def test_half_of_the_pair_is_not_put_back_either():
    kernel = ModelWindows(OLD)
    with pytest.raises(NotSupportedError):
        kernel.put_back(FD, b.IDLE, 60)
    assert kernel.sock.log == []
    kernel.put_back(FD, b.INTERVAL, U)
    assert kernel.sock.log == [(SIO, (1, 7_200_000, 1000)), ("SO_KEEPALIVE", 0)]


def test_a_python_that_hides_an_option_is_believed(monkeypatch):
    monkeypatch.delattr(socket, "TCP_KEEPIDLE")
    kernel = ModelWindows()
    assert kernel.read_options(FD)[b.IDLE :] == (U, U, 10, 0, L)


@pytest.mark.parametrize(
    ("age", "ms", "raw"),
    [
        ((), 0, 21000),
        ((), 1, 1),
        ((), 2**31 - 2, 2**31 - 2),
        ((), 2**31 - 1, -1),
        (OLD, 0, 21),
        (OLD, 1001, 2),
        (OLD, 2**31 - 1, -1),
    ],
)
def test_off_is_the_systems_own_and_the_most_is_never(age, ms, raw):
    kernel = ModelWindows(age)
    kernel.set_option(FD, b.USER_TIMEOUT, ms)
    assert kernel.sock.log == [("TCP_MAXRT" if age else "TCP_MAXRTMS", raw)]
    told = kernel.read_options(FD)[b.USER_TIMEOUT]
    assert told == (-(-ms // 1000) * 1000 if age and ms != 2**31 - 1 else ms)


@pytest.mark.parametrize("age", AGES)
def test_what_is_no_tcp_socket_is_told_so(age):
    kernel = ModelWindows(age)
    kernel.sock.type = socket.SOCK_DGRAM
    kernel.sock.not_tcp = errno.EINVAL
    for ask in (
        lambda: kernel.read_options(FD),
        lambda: kernel.apply_options(FD, WHOLE),
        lambda: kernel.tcp_info(FD),
    ):
        with pytest.raises(NotSupportedError, match="UDP"):
            ask()
    assert kernel.sock.log == []


def test_an_unbound_socket_has_a_kind_and_an_identity():
    kernel = ModelWindows()
    kernel.sock.local = errno.EINVAL
    kernel.sock.connect(fresh=True)
    assert kernel.kind(FD) == (socket.AF_INET, socket.SOCK_STREAM, 6, False)
    assert kernel.identify(FD) != 0


# ---- counters -------------------------------------------------------------


def info(state: int = 4, **fields: int) -> bytes:
    raw = bytearray(b"\xee" * 88)
    layout = {"mss": (4, "I"), "rtt": (20, "I"), "min_rtt": (24, "I"), "in_flight": (28, "I")}
    layout |= {"snd_wnd": (36, "I"), "out": (48, "Q"), "in_": (56, "Q"), "retrans": (68, "I")}
    struct.pack_into("<I", raw, 0, state)
    for name, (offset, code) in layout.items():
        struct.pack_into("<" + code, raw, offset, fields.get(name, 0))
    return bytes(raw)


def test_the_counters_are_where_windows_has_them():
    kernel = ModelWindows()
    kernel.winsock.info = info(
        *(4,), mss=1460, rtt=30_000, min_rtt=20_000, in_flight=1461, snd_wnd=65535, out=7, in_=8,
        retrans=9,
    )  # fmt: skip
    told = {n: v for n, v in kernel.tcp_info(FD)._asdict().items() if v != -1}
    assert told == {
        "state": b.ESTABLISHED,
        "unacked": 2,
        "rtt_us": 30_000,
        "min_rtt_us": 20_000,
        "snd_wnd": 65535,
        "bytes_sent": 7,
        "bytes_received": 8,
        "bytes_retrans": 9,
    }


def test_states_have_linux_numbers():
    kernel = ModelWindows()
    found = []
    for native in range(12):
        kernel.winsock.info = info(native)
        found.append(kernel.tcp_info(FD).state)
    assert found == [-1, 10, 2, 3, 1, 4, 5, 8, 11, 9, 6, -1]


@pytest.mark.parametrize("told", [10045, info(0)])
def test_without_a_state_there_must_be_a_connection(told):
    kernel = ModelWindows()
    kernel.winsock.info = told
    assert kernel.tcp_info(FD).state == -1
    kernel.sock.connect(fresh=True)
    with fails(errno.ENOTCONN):
        kernel.tcp_info(FD)
    kernel.winsock.shown = 1  # a connect that failed
    assert kernel.tcp_info(FD).state == -1
    kernel.sock.listening = True
    with pytest.raises(NotSupportedError, match="listening"):
        kernel.tcp_info(FD)


def test_an_error_that_explains_nothing_is_raised():
    kernel = ModelWindows()
    kernel.winsock.info = errno.ENOBUFS
    with fails(errno.ENOBUFS):
        kernel.tcp_info(FD)


@pytest.mark.parametrize("code", [errno.ENOTSOCK, errno.EBADF])
def test_a_closed_handle_is_a_bad_descriptor(code):
    kernel = ModelWindows()
    kernel.winsock.info = code
    with fails(errno.EBADF):
        kernel.tcp_info(FD)


@pytest.mark.parametrize(
    ("shown", "want"),
    [
        (0, (False, False, False, False, 0, 0)),
        (0x100, (False, False, False, False, 9, 0)),
        (0x102, (False, False, True, False, 9, 0)),
        (0x003, (True, True, True, False, 0, 0)),
        (0x001, (True, False, False, False, 0, 0)),
    ],
)
def test_what_poll_shows(shown, want):
    kernel = ModelWindows()
    kernel.winsock.shown, kernel.winsock.waiting = shown, 9
    assert kernel.pending(FD) == want


def test_poll_of_a_closed_handle():
    kernel = ModelWindows()
    kernel.winsock.shown = 4
    with fails(errno.EBADF):
        kernel.pending(FD)


# ---- the calls themselves -------------------------------------------------


class Library:
    """ws2_32, as far as it is called."""

    def __init__(self) -> None:
        self.rc = 0
        self.calls: list[tuple[object, ...]] = []

    def WSAIoctl(self, *arguments):
        self.calls.append(arguments)
        arguments[4][0:3] = b"abc"
        arguments[6]._obj.value = 3
        return self.rc

    def WSAPoll(self, entries, count, timeout):
        entry = entries._obj
        self.calls.append((entry.fd, entry.events, count.value, timeout))
        entry.revents = 0x102
        return -1 if self.rc else 1

    def ioctlsocket(self, fd, command, waiting):
        self.calls.append((fd.value, command.value & 0xFFFFFFFF))
        waiting._obj.value = 12
        return self.rc


@pytest.fixture
def library(monkeypatch):
    made = Library()
    monkeypatch.setattr(ctypes, "WinDLL", lambda name, use_last_error: made, raising=False)
    return made


HANDLE = 0x1_0000_0004  # wider than an int


def test_winsock_gets_the_whole_handle_and_what_it_wants(library):
    winsock = _windows.Winsock()
    assert winsock.tcp_info(HANDLE) == b"abc"
    fd, code, version, *_ = library.calls[0]
    assert (fd.value, code.value, version._obj.value) == (HANDLE, 0xD8000027, 0)
    assert winsock.poll(HANDLE) == 0x102
    assert library.calls[1] == (HANDLE, 0x100, 1, 0)
    assert winsock.unread(HANDLE) == 12
    assert library.calls[2] == (HANDLE, 0x4004667F)


@pytest.mark.parametrize(("code", "want"), [(10045, 10045), (10022, errno.EINVAL), (10009, 9)])
def test_winsocks_errors_are_those_of_pythons_sockets(library, monkeypatch, code, want):
    monkeypatch.setattr(ctypes, "get_last_error", lambda: code, raising=False)
    library.rc = -1
    winsock = _windows.Winsock()
    for call in (winsock.tcp_info, winsock.poll, winsock.unread):
        with fails(want):
            call(HANDLE)


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_a_default_timeout_does_not_reach_the_owners_socket(monkeypatch, tcp_pair, timeout):
    a, _ = tcp_pair()
    made = []
    real = socket.fromfd

    def fromfd(*arguments):
        made.append(socket.getdefaulttimeout())
        return real(*arguments)

    monkeypatch.setattr(socket, "fromfd", fromfd)
    socket.setdefaulttimeout(timeout)
    try:
        with _windows.Windows(SYSTEMS["windows"]).borrowed(a.fileno()) as sock:
            assert sock.getpeername() == a.getpeername()
        assert socket.getdefaulttimeout() == timeout
    finally:
        socket.setdefaulttimeout(None)
    assert made == [None]


def test_borrowing_a_closed_handle():
    with fails(errno.EBADF), _windows.Windows(SYSTEMS["windows"]).borrowed(2**20):
        pass
