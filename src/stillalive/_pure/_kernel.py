"""What the systems besides Linux have in common: options by their row of the table.

The dangers are those that ext/core/policy.c tells of. A policy is set whole or
not at all: everything is read first, what the socket does not have is found
while it is untouched, and a setter that fails puts back those before it, last
first. What a system takes but does not tell goes back to the system's default,
and what was set stands for what cannot be read.

None of these systems has Linux's cookie: a socket is known by the addresses of
its two ends. A connection that has ended has lost one of them, and its options
and counters with it: nobody can tell any more which it was, so `identify`
says ENOTCONN, which is neither the name it had nor another.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

from .._backend import ENABLED, IDLE, LEAVE, UNREADABLE, Info, Values
from .._errors import Kind, fault, not_supported
from .._systems import System

NAMES = (
    "SO_KEEPALIVE",
    "TCP_KEEPIDLE",
    "TCP_KEEPINTVL",
    "TCP_KEEPCNT",
    "TCP_USER_TIMEOUT",
    "TCP_RTO_MAX_MS",
)
"""What messages call an option that a system has nothing of."""

UNTOLD = Info(*[-1] * len(Info._fields))
ABSENT = (errno.ENOPROTOOPT, errno.EOPNOTSUPP)


class Pending(NamedTuple):
    """What the system shows of a socket that is ready, and how many bytes wait to be read."""

    error: bool
    hangup: bool
    rdhup: bool
    """Nothing more comes in, whoever shut it."""
    fin: bool
    """The peer's end, where TCP_INFO does not show it."""
    unread: int
    code: int = 0
    """The error's number, where it can be seen and left."""


def as_values(numbers: list[int]) -> Values:
    """Return six numbers as what they are."""
    enabled, idle, interval, count, user_timeout, rto_max = numbers
    return enabled, idle, interval, count, user_timeout, rto_max


def is_tcp(kind: Kind) -> bool:
    """Tell whether a socket can have TCP's options."""
    family, type_, *_ = kind
    return type_ == socket.SOCK_STREAM and family in (socket.AF_INET, socket.AF_INET6)


class Field(NamedTuple):
    """Where one of Info's fields lies in a system's struct, and how to make its unit ours."""

    offset: int
    code: str
    times: int = 1
    over: int = 1


def decoded(raw: bytes, states: tuple[int, ...], fields: Mapping[str, Field]) -> Info:
    """Return the counters of a struct whose first byte is the state; -1 beyond its end."""
    told = {
        name: struct.unpack_from("=" + field.code, raw, field.offset)[0] * field.times // field.over
        for name, field in fields.items()
        if field.offset + struct.calcsize("=" + field.code) <= len(raw)
    }
    return UNTOLD._replace(state=states[raw[0]] if raw[0] < len(states) else -1, **told)


def mixed(*what: object) -> int:
    """Return a number of 64 bits, never 0, that stands for something."""
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "big") or 1


class Kernel(ABC):
    """The calls of one system."""

    def __init__(self, row: System, order: tuple[int, ...]) -> None:
        self.row = row
        self.order = order
        """In which a policy takes effect at once."""
        self.ASKS = row.asks
        self._supported: int | None = None

    @abstractmethod
    def borrowed(self, fd: int) -> AbstractContextManager[socket.socket]:
        """Use a descriptor that somebody else owns as a socket object."""

    @abstractmethod
    def pending(self, fd: int) -> Pending:
        """Show what waits; takes nothing from the owner."""

    @abstractmethod
    def tcp_info(self, fd: int) -> Info:
        """Return the kernel's counters."""

    # ---- what kind of socket, and which ------------------------------------

    def option_name(self, option: int) -> str:
        if not 0 <= option < len(NAMES):
            return "?"
        entry = self.row.options[option]
        return NAMES[option] if entry is None else entry.native

    def option_range(self, option: int) -> tuple[int, int] | None:
        entry = self.row.options[option] if 0 <= option < len(NAMES) else None
        return None if entry is None else (entry.low, entry.high)

    def kind(self, fd: int) -> Kind:
        with self.borrowed(fd) as sock:
            return self._kind(sock)

    def _kind(self, sock: socket.socket) -> Kind:
        type_ = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        family = _family_of(_name(sock.getsockname))
        listening = False
        with contextlib.suppress(OSError):
            listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != 0
        known: dict[int, int] = {
            socket.SOCK_STREAM: socket.IPPROTO_TCP,
            socket.SOCK_DGRAM: socket.IPPROTO_UDP,
        }
        inet = family in (socket.AF_INET, socket.AF_INET6)
        return family, type_, known.get(type_, 0) if inet else 0, listening

    def identify(self, fd: int) -> int:
        with self.borrowed(fd) as sock:
            local, peer = _name(sock.getsockname), _name(sock.getpeername)
        if peer is None and self._has_ended(fd):
            raise OSError(errno.ENOTCONN, "getpeername: the connection has ended")
        return mixed(_family_of(local), local, peer)

    def _has_ended(self, fd: int) -> bool:
        """Tell a connection whose end has taken the peer's address from one that has had none."""
        return self.pending(fd).hangup

    def _fault(self, error: OSError, call: str, sock: socket.socket) -> OSError:
        kind = None
        with contextlib.suppress(OSError):
            kind = self._kind(sock)
        return fault(error.errno or 0, call, kind)

    # ---- options -----------------------------------------------------------

    def supported(self) -> int:
        if self._supported is None:
            with self._own() as sock:
                self._supported = sum(
                    1 << option for option in range(len(NAMES)) if self._has(sock, option)
                )
        return self._supported

    def _own(self) -> socket.socket:
        """Return a socket that nobody else has."""
        try:
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        except OSError:  # a host without IPv4
            return socket.socket(socket.AF_INET6, socket.SOCK_STREAM)

    def _has(self, sock: socket.socket, option: int) -> bool:
        """Find out whether a socket of our own has an option."""
        entry = self.row.options[option]
        if entry is None:
            return False
        try:
            if entry.readable:
                self._get(sock, option)
            else:
                self._set(sock, option, entry.default or entry.low)
        except OSError:
            return False
        return True

    def _get(self, sock: socket.socket, option: int) -> int:
        """Return one option in the backends' unit, or raise what the system raises."""
        entry = self.row.options[option]
        assert entry is not None
        held = sock.getsockopt(getattr(socket, entry.level), entry.number)
        if option == ENABLED:  # BSD shows the flag's own bit
            return int(held != 0)
        return min((held & 0xFFFFFFFF) * entry.step, 2**31 - 1)

    def _set(self, sock: socket.socket, option: int, value: int) -> None:
        """Set one option, in the backends' unit."""
        entry = self.row.options[option]
        assert entry is not None
        if not entry.low <= value <= entry.high:  # some kernels take 0 for their own default
            raise OSError(errno.EINVAL, f"{entry.native}={value}")
        self._put(sock, option, self._to_kernel(option, value))

    def _put(self, sock: socket.socket, option: int, raw: int) -> None:
        entry = self.row.options[option]
        assert entry is not None
        sock.setsockopt(getattr(socket, entry.level), entry.number, raw)

    def _to_kernel(self, option: int, value: int) -> int:
        """Return a value in the kernel's unit, rounded up."""
        entry = self.row.options[option]
        assert entry is not None
        return -(-value // entry.step)

    def read_options(self, fd: int) -> Values:
        with self.borrowed(fd) as sock:
            return self._read(sock)

    def _read(self, sock: socket.socket) -> Values:
        kind = self._kind(sock)
        if not is_tcp(kind):  # what a kernel answers then differs too much to go by it
            raise not_supported(f"getsockopt({self.option_name(IDLE)})", kind)
        return as_values([self._held(sock, option) for option in range(len(NAMES))])

    def _held(self, sock: socket.socket, option: int) -> int:
        entry = self.row.options[option]
        if entry is None:
            return LEAVE
        if not entry.readable:
            return UNREADABLE if self.supported() >> option & 1 else LEAVE
        try:
            return self._get(sock, option)
        except OSError as error:
            if error.errno in ABSENT:
                return LEAVE
            raise self._fault(error, f"getsockopt({entry.native})", sock) from None

    def set_option(self, fd: int, option: int, value: int) -> None:
        """Set one option, for the probe."""
        with self.borrowed(fd) as sock:
            self._set_named(sock, option, value)

    def _set_named(self, sock: socket.socket, option: int, value: int) -> None:
        call = f"setsockopt({self.option_name(option)})"
        if self.row.options[option] is None:
            raise not_supported(call, self._kind(sock))
        try:
            self._set(sock, option, value)
        except OSError as error:
            raise self._fault(error, call, sock) from None

    def put_back(self, fd: int, option: int, value: int) -> None:
        """Give an option back; UNREADABLE: the system's default."""
        with self.borrowed(fd) as sock:
            self._give_back(sock, option, value)

    def _give_back(self, sock: socket.socket, option: int, value: int) -> None:
        """Set what was read: also 0, which is some systems' word for their own default."""
        entry = self.row.options[option]
        call = f"setsockopt({self.option_name(option)})"
        if entry is None:
            raise not_supported(call, self._kind(sock))
        if value < 0:
            raise fault(errno.EINVAL, call, None)
        try:  # a default from sysctl may lie beyond what can be set
            self._put(sock, option, self._to_kernel(option, min(value, entry.high)))
        except OSError as error:
            raise self._fault(error, call, sock) from None

    def apply_options(self, fd: int, values: Values) -> Values:
        with self.borrowed(fd) as sock:
            before = self._read(sock)
            for option, value in enumerate(values):
                if value != LEAVE and before[option] == LEAVE:
                    raise not_supported(f"getsockopt({self.option_name(option)})", self._kind(sock))
            changed: list[int] = []
            try:
                self._set_all(sock, values, changed)
                after = self._read(sock)
            except BaseException:
                for option in reversed(changed):
                    with contextlib.suppress(OSError):  # one lost option is better than four
                        self._give_back(sock, option, before[option])
                raise
        both = zip(after, values, strict=True)
        return as_values([v if a == UNREADABLE and v != LEAVE else a for a, v in both])

    def apply_fresh(self, fd: int, values: Values) -> None:
        """Set a policy without reading: for sockets just made or accepted."""
        with self.borrowed(fd) as sock:
            self._set_all(sock, values, [])

    def _set_all(self, sock: socket.socket, values: Values, changed: list[int]) -> None:
        for option in self.order:
            if values[option] != LEAVE:
                self._set_named(sock, option, values[option])
                changed.append(option)

    # ---- the probe, where there is one -------------------------------------

    def ask(self, fd: int, saved: Values, guard: int) -> int:
        """Make the kernel send a question; return in how many ms at the earliest."""
        del saved, guard
        raise not_supported("a question to the peer's kernel", self.kind(fd))

    def unask(self, fd: int, saved: Values) -> None:
        """Put back what `ask` changed."""
        del saved
        raise not_supported("a question to the peer's kernel", self.kind(fd))


class BoundPolicy:
    """Six values ready to be set, for sockets just made or accepted."""

    __slots__ = ("_kernel", "_values")

    def __init__(self, kernel: Kernel, values: Values) -> None:
        self._kernel = kernel
        self._values = values

    def apply(self, fd: int) -> None:
        self._kernel.apply_fresh(fd, self._values)


def _name(ask: object) -> object:
    """Return what getsockname or getpeername says, None where there is no such end."""
    assert callable(ask)
    try:
        return ask()
    except OSError as error:
        # EINVAL: unbound on Windows, shut on a Mac; ECONNRESET: ended.
        if error.errno in (errno.ENOTCONN, errno.EINVAL, errno.ECONNRESET):
            return None
        raise


def _family_of(name: object) -> int:
    if isinstance(name, tuple):
        if isinstance(name[0], int):  # a family that Python does not know
            return name[0]
        return socket.AF_INET if len(name) == 2 else socket.AF_INET6
    if name is None:  # Windows does not say before it is bound
        return socket.AF_INET
    unix: int = getattr(socket, "AF_UNIX", 0)
    return unix
