"""The table of systems, and what the package says and does by it on each of them."""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import errno
import socket
import sys

import pytest

from stillalive import (
    KeepAlive,
    NotSupportedError,
    Server,
    _errors,
    _host,
    _systems,
    capabilities,
    describe,
    tune,
)
from stillalive import _backend as b
from stillalive._systems import OPTION_NAMES, SYSTEMS, System, system

from .kernels import ELSEWHERE, WITH_TIMES, installed

everywhere = pytest.mark.parametrize("key", ELSEWHERE)
with_times = pytest.mark.parametrize("key", WITH_TIMES)


# ---- the table --------------------------------------------------------------


@pytest.mark.parametrize("found", SYSTEMS.values(), ids=lambda row: row.key)
def test_every_row_is_sound(found: System):
    assert len(found.options) == len(OPTION_NAMES) == 6
    assert found.inherited <= set(OPTION_NAMES)
    numbers = [row.number for row in found.options[1:] if row is not None]
    assert len(set(numbers)) == len(numbers)
    for name, row in zip(OPTION_NAMES, found.options, strict=True):
        if row is None:
            assert name not in found.inherited
            continue
        assert row.low <= row.high <= 2**31 - 1
        assert row.low % row.step == row.high % row.step == 0
        assert max(row.native_range) <= 2**32 - 1
        assert row.default is None or row.low <= row.default <= row.high
        assert row.since.startswith(("Mac OS X", "OS X", found.title))
    assert not found.asks or found.answers_show
    assert found.call("probe").supported == found.asks
    assert found.call("tune").supported == (found.options[b.ENABLED] is not None)
    assert found.call("autotune").supported == found.call("tune").supported
    assert found.call("Selector").supported
    assert not found.call("nonsense").supported


def test_the_backend_of_this_system_has_the_tables_numbers(impl):
    here = system()
    assert impl.supported() < 1 << len(here.options)
    for number, row in enumerate(here.options):
        if row is not None and impl.supported():
            assert impl.option_name(number) == row.native
            assert impl.option_range(number) == (row.low, row.high)
            known = getattr(socket, row.native, row.number)
            assert known == row.number or row.native == "SO_KEEPALIVE"


@pytest.mark.parametrize(
    ("platform", "key"),
    [
        *(("linux", "linux"), ("darwin", "darwin"), ("freebsd14", "freebsd")),
        *(("netbsd10", "netbsd"), ("openbsd7", "openbsd"), ("win32", "windows")),
        *(("dragonfly6", "other"), ("sunos5", "other"), ("aix", "other"), ("cygwin", "other")),
    ],
)
def test_a_platform_finds_its_row(platform, key):
    assert system(platform).key == key


# ---- values -----------------------------------------------------------------

ALL = KeepAlive(idle=60, interval=10, count=4)


@pytest.mark.parametrize(
    ("key", "numbers"),
    [
        ("darwin", [(0x8, 1), (0x10, 60), (0x101, 10), (0x102, 4)]),
        ("freebsd", [(0x8, 1), (256, 60), (512, 10), (1024, 4)]),
        ("netbsd", [(0x8, 1), (3, 120), (5, 20), (6, 4)]),
        ("windows", [(0x8, 1), (3, 60), (17, 10), (16, 4)]),
    ],
)
def test_socket_options_are_this_systems_numbers_in_its_own_unit(key, numbers):
    with installed(key):
        triples = KeepAlive(idle=60, interval=10, count=4).socket_options()
        assert triples[0] == (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert [triple[1:] for triple in triples[1:]] == numbers[1:]
        assert {triple[0] for triple in triples[1:]} == {socket.IPPROTO_TCP}


@pytest.mark.parametrize(
    ("key", "held", "native"),
    [("darwin", 3.0, 3), ("freebsd", 3.0, 3), ("windows", 2.3, 2300)],
)
def test_a_user_timeout_is_rounded_up_to_what_the_kernel_counts_in(key, held, native):
    with installed(key) as kernel:
        policy = KeepAlive(user_timeout=2.3)
        assert policy.values()[b.USER_TIMEOUT] == held * 1000
        assert policy.socket_options()[-1][2] == native
        assert tune(kernel.connect(), policy).user_timeout == held
        assert tune(kernel.connect(), user_timeout=0).user_timeout == 0


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("windows", {"count": 256}, r"count=256: out of range \(allowed: 1 to 255 for TCP_KEEPCNT"),
        ("netbsd", {"idle": 3_000_000}, "idle=3000000: .*allowed: 1 to 2147483 s"),
        ("darwin", {"user_timeout": 3_000_000}, "allowed: 0 to 2147483 s for TCP_RXT_CONNDROPTIME"),
    ],
)
def test_a_value_out_of_the_systems_range_is_named(key, values, message):
    with installed(key) as kernel, pytest.raises(ValueError, match=message):
        tune(kernel.connect(), **values)
    with installed("freebsd") as kernel:
        assert tune(kernel.connect(), idle=40_000).idle == 40_000


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("openbsd", {"idle": 5}, "idle .*there is one since Linux 2.4, .*NetBSD 5.0, Windows 10"),
        ("netbsd", {"user_timeout": 5}, "user_timeout .*since Linux 2.6.37.*OS X 10.7"),
        ("darwin", {"rto_max": 5}, "rto_max .*since Linux 6.15"),
    ],
)
def test_an_option_that_is_not_there_names_who_has_it(key, values, message):
    with installed(key) as kernel:
        fd = kernel.connect()
        for call in (lambda: tune(fd, **values), lambda: KeepAlive(**values).socket_options()):
            with pytest.raises(NotSupportedError, match=message):
                call()
        assert kernel.calls == []


def test_a_socket_of_another_kind_names_no_version():
    udp = (socket.AF_INET, socket.SOCK_DGRAM, 17, False)
    assert "needs" not in str(_errors.not_supported("getsockopt(TCP_KEEPIDLE)", udp))
    tcp = (socket.AF_INET, socket.SOCK_STREAM, 6, False)
    with installed("freebsd"):
        text = str(_errors.not_supported("setsockopt(TCP_KEEPCNT)", tcp))
    assert "it needs FreeBSD 9.0" in text


def test_what_an_ioctl_stands_in_for_is_no_socket_option():
    with installed("windows") as kernel:
        kernel.by_ioctl = {b.IDLE, b.INTERVAL}
        assert tune(kernel.connect(), idle=60).idle == 60
        with pytest.raises(NotSupportedError, match=r"TCP_KEEPIDLE\).*needs Windows 10 1709"):
            ALL.socket_options()


# ---- what cannot be read ----------------------------------------------------


def test_what_a_system_does_not_tell_is_none_and_said():
    with installed("netbsd") as kernel:
        fd = kernel.connect()
        shown = describe(fd)
        assert (shown.idle, shown.interval, shown.count) == (None, None, None)
        assert shown.detects_idle_within is None
        assert "NetBSD does not tell idle, interval, count of a socket: None is shown" in (
            shown.warnings
        )
        held = tune(fd, idle=60)
        assert held.idle == 60
        assert held.interval is None


def test_what_was_read_can_be_set_again():
    with installed("netbsd") as kernel:
        listener = kernel.listen()
        held = tune(listener, idle=60)
        kernel.calls.clear()
        assert b.UNREADABLE not in held.values()
        tune(kernel.listen(), held)
        assert kernel.calls == [(b.IDLE, 60), (b.ENABLED, 1)]


def test_undoing_sets_what_cannot_be_read_to_the_systems_default():
    with installed("netbsd"):
        before = (0, b.UNREADABLE, b.UNREADABLE, b.UNREADABLE, b.LEAVE, b.LEAVE)
        changed = (1, 60, b.LEAVE, 4, b.LEAVE, b.LEAVE)
        assert _host.restoring(before, changed) == (0, 7200, b.LEAVE, 8, b.LEAVE, b.LEAVE)
    plain = (1, 5, 6, 7, 0, b.LEAVE)
    assert _host.restoring(plain, plain) == plain


# ---- listeners --------------------------------------------------------------

NOT_INHERITED = {
    "darwin": ("idle",),
    "freebsd": (),
    "netbsd": ("idle", "interval", "count"),
    "windows": (),
}


@with_times
def test_a_listener_says_what_accepted_sockets_do_not_inherit(key):
    with installed(key) as kernel:
        listener = kernel.listen()
        held = tune(listener, ALL)
        assert held.not_inherited == NOT_INHERITED[key]
        assert ("not_inherited" in repr(held)) == bool(held.not_inherited)
        accepted = kernel.sockets[kernel.accept(listener)].values
        for name, mine in zip(OPTION_NAMES, kernel.sockets[listener].values, strict=True):
            if name in held.not_inherited:
                assert mine != accepted[OPTION_NAMES.index(name)]
            elif mine >= 0:
                assert mine == accepted[OPTION_NAMES.index(name)]
        if held.not_inherited:
            text = f"accepted connections do not inherit {', '.join(held.not_inherited)}"
            assert any(text in warning for warning in describe(listener).warnings)


def test_a_listener_says_so_of_what_it_was_given_only():
    with installed("freebsd") as kernel:
        assert tune(kernel.listen(), user_timeout=5).not_inherited == ("user_timeout",)
        assert tune(kernel.listen(), idle=5).not_inherited == ()
        assert tune(kernel.connect(), user_timeout=5).not_inherited == ()


class Recorder:
    """A ServerEngine that only remembers what it was given."""

    given: object = None

    def __init__(self, *arguments: object) -> None:
        Recorder.given = arguments[6]


@pytest.mark.parametrize(
    ("key", "policy", "each"),
    [
        ("darwin", ALL, True),
        ("netbsd", ALL, True),
        ("freebsd", ALL, False),
        ("freebsd", KeepAlive(idle=60, user_timeout=20), True),
        ("windows", ALL, False),
        ("darwin", KeepAlive(interval=10), False),
        ("openbsd", KeepAlive(enabled=True), False),
    ],
)
def test_a_server_tunes_each_connection_where_something_is_not_inherited(key, policy, each):
    with installed(key) as kernel, socket.create_server(("127.0.0.1", 0)) as listener:
        fake = kernel.listen()
        kernel.sockets[listener.fileno()] = kernel.sockets.pop(fake)
        kernel.ServerEngine = Recorder
        server = Server(listener, asyncio.Protocol, keepalive=policy)
        del server
        values = Recorder.given
        assert (values is not None) == each
        if each:
            wanted = policy.values()
            assert [v for v, w in zip(values, wanted, strict=True) if w != b.LEAVE] == [
                w for w in wanted if w != b.LEAVE
            ]


def test_windows_does_not_tell_that_a_socket_listens_by_its_counters():
    with installed("windows") as kernel:
        listener = kernel.listen()
        assert tune(listener, user_timeout=5).not_inherited == ("user_timeout",)
        assert any("listens" in text for text in describe(listener).warnings)


# ---- describing -------------------------------------------------------------


@everywhere
def test_describing_says_nothing_of_linux(key):
    with installed(key) as kernel:
        for fd in (kernel.connect(), kernel.listen(), kernel.connect(enabled=True)):
            for text in describe(fd).warnings:
                assert "tcp_retries2" not in text
                assert "spare_stalled" not in text
        shown = describe(kernel.connect())
        assert shown.user_timeout in (None, 0.0)
        assert (shown.tcp_info.heard_ago is not None) == kernel.system.answers_show


def test_a_user_timeout_overrules_the_count_on_linux_only():
    with installed("freebsd"):
        policy = KeepAlive(idle=1, interval=1, count=2, user_timeout=9)
        assert policy.detects_idle_within == 3
    with installed("linux"):
        assert policy.detects_idle_within == 9


def test_freebsd_probes_whatever_the_socket_says():
    with installed("freebsd") as kernel:
        assert "net.inet.tcp.always_keepalive" in describe(kernel.connect()).warnings[0]


def test_what_was_never_connected_is_no_error_where_there_is_no_state(monkeypatch):
    with installed("darwin") as kernel:
        fd = kernel.connect(silent=5000)

        def nothing(fd):
            raise OSError(errno.ENOTCONN, "getsockopt(TCP_CONNECTION_INFO)")

        monkeypatch.setattr(kernel, "tcp_info", nothing)
        assert not tune(fd, idle=60, interval=10, count=5).pending
        assert describe(fd).idle == 60


def test_where_the_state_is_not_told_a_socket_counts_as_connected(monkeypatch):
    with installed("darwin") as kernel:
        untold = tuple(-1 for _ in b.Info._fields)
        monkeypatch.setattr(kernel, "tcp_info", lambda fd: untold)
        fd = kernel.connect(silent=5000)
        assert tune(fd, idle=60, interval=10, count=5).pending
        assert describe(fd).tcp_info.state is None


def test_a_count_that_cannot_be_read_is_no_reason_to_warn(monkeypatch):
    from stillalive import _asking, liveness

    monkeypatch.setattr(_asking, "held_by_owner", lambda fd: (1, -2, -2, -2, -1, -1))
    run = liveness._Run(3, 1.0)
    assert run._warning((b.SILENT, 0, 0, 1, 5000, 0, 3)) == ""


# ---- system-wide defaults ---------------------------------------------------


class Libc:
    """A C library whose sysctl knows some names; sizes and failures as the real one."""

    def __init__(self, known: dict[str, int]) -> None:
        self.known = known

    def _answer(self, name, value, size, new, length):
        assert new is None
        assert length.value == 0
        if name not in self.known:
            return -1
        ctypes.cast(value, ctypes.POINTER(ctypes.c_int))[0] = self.known[name]
        return 0

    def sysctlbyname(self, name, *rest):
        return self._answer(name.decode(), *rest)

    def sysctl(self, mib, length, *rest):
        assert length.value == len(mib)
        return self._answer(".".join(map(str, mib)), *rest)


@pytest.mark.parametrize(
    ("key", "known", "found"),
    [
        ("darwin", {"idle": 7_200_000, "intvl": 75_000, "cnt": 8}, (7200, 75, 8)),
        ("freebsd", {"idle": 60_500, "intvl": 75_000, "cnt": 8}, (61, 75, 8)),
        ("netbsd", {"idle": 14_400, "intvl": 150, "cnt": 8}, (7200, 75, 8)),
        ("netbsd", {"cnt": 3}, (None, None, 3)),
        ("openbsd", {"4.2.6.3": 7200, "4.2.6.4": 75}, (7200, 75, 8)),
    ],
)
def test_defaults_come_from_sysctl_in_its_own_unit(key, known, found, monkeypatch):
    named = {n if n[0] == "4" else f"net.inet.tcp.keep{n}": value for n, value in known.items()}
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc(named))
    monkeypatch.setattr(_systems, "system", lambda *unused: SYSTEMS[key])
    defaults = _host.system_defaults()
    assert (defaults.idle, defaults.interval, defaults.count) == found
    assert defaults.retries2 is None


@pytest.mark.skipif(sys.platform != "linux", reason="its C library has no such function")
def test_a_c_library_without_sysctl_is_no_error(monkeypatch):
    monkeypatch.setattr(_systems, "system", lambda *unused: SYSTEMS["darwin"])
    assert _host.system_defaults() == _host.SystemDefaults(*(None,) * 6)


@pytest.mark.parametrize(
    ("registered", "found"),
    [
        ({}, (7200, 1, 10)),
        ({"KeepAliveTime": 300_000, "KeepAliveInterval": 1500}, (300, 2, 10)),
    ],
)
def test_windows_defaults_come_from_the_registry_or_are_as_documented(
    registered, found, monkeypatch
):
    monkeypatch.setattr(_systems, "system", lambda *unused: SYSTEMS["windows"])
    monkeypatch.setattr(_host, "_registered", registered.get)
    defaults = _host.system_defaults()
    assert (defaults.idle, defaults.interval, defaults.count) == found


def test_an_unknown_system_has_unknown_defaults(monkeypatch):
    monkeypatch.setattr(_systems, "system", lambda *unused: SYSTEMS["other"])
    assert _host.system_defaults() == _host.SystemDefaults(*(None,) * 6)


# ---- capabilities -----------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "name", "unit", "span"),
    [
        ("darwin", "user_timeout", "s", (0, 2147483)),
        ("netbsd", "idle", "half-seconds", (2, 4294966)),
        ("windows", "user_timeout", "ms", (0, 2**31 - 1)),
        ("freebsd", "count", "", (1, 2**31 - 1)),
    ],
)
def test_capabilities_have_the_kernels_unit_and_range(key, name, unit, span):
    with installed(key):
        found = capabilities()[name]
        assert found.supported
        assert (found.unit, found.range) == (unit, span)


def test_capabilities_ask_the_kernel_too():
    with installed("freebsd") as kernel:
        kernel.without.add(b.USER_TIMEOUT)
        found = capabilities()["user_timeout"]
        assert not found
        assert (found.native, found.since) == ("TCP_MAXUNACKTIME", "FreeBSD 14.0")
        assert found.evidence == "not supported"
        assert capabilities()["probe"]
        assert capabilities()["Guard"]
    with installed("netbsd"):
        assert not capabilities()["Guard"]


def test_where_the_backend_has_no_option_only_the_loops_are_left():
    with installed("other"):
        calls = capabilities().calls
        assert [name for name, call in calls.items() if call] == ["Selector", "Server"]
        assert not any(capabilities().options.values())
    with installed("darwin") as kernel:
        kernel.without |= set(range(6))
        assert not capabilities()["tune"]


# ---- the doctor ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "missing"),
    [
        *((key, []) for key in WITH_TIMES),
        ("openbsd", ["idle", "interval", "count"]),
        ("other", ["enabled", "idle", "interval", "count", "check"]),
    ],
)
def test_the_doctor_blames_no_system_for_what_it_never_had(key, missing):
    from stillalive.cli import doctor

    with installed(key):
        assert doctor._missing(capabilities()) == missing


def test_the_doctor_misses_a_probe_where_the_system_can():
    from stillalive.cli import doctor

    with installed("freebsd"):
        can = capabilities()
        calls = {**can.calls, "probe": dataclasses.replace(can["probe"], supported=False)}
        assert doctor._missing(dataclasses.replace(can, calls=calls)) == ["probe"]
