"""A system whose keepalive options this package does not know."""

from __future__ import annotations

from typing import NoReturn

from .._backend import Info, Values
from .._errors import Kind, not_supported
from ._kernel import NAMES, Pending

ASKS = False


def _refuse(what: str) -> NoReturn:
    raise not_supported(what)


def supported() -> int:
    return 0


def option_name(option: int) -> str:
    return NAMES[option] if 0 <= option < len(NAMES) else "?"


def option_range(option: int) -> tuple[int, int] | None:
    del option
    return None


def kind(fd: int) -> Kind:
    del fd
    _refuse("getsockopt(SO_TYPE)")


def identify(fd: int) -> int:
    del fd
    _refuse("the identity of a socket")


def read_options(fd: int) -> Values:
    del fd
    _refuse("getsockopt(TCP_KEEPIDLE)")


def set_option(fd: int, option: int, value: int) -> None:
    del fd, value
    _refuse(f"setsockopt({option_name(option)})")


def put_back(fd: int, option: int, value: int) -> None:
    set_option(fd, option, value)


def apply_options(fd: int, values: Values) -> Values:
    del fd, values
    _refuse("setsockopt(TCP_KEEPIDLE)")


class Policy:
    """Refuse to be applied: nothing is known about this system."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def apply(self, fd: int) -> None:
        apply_options(fd, self._values)


def tcp_info(fd: int) -> Info:
    del fd
    _refuse("getsockopt(TCP_INFO)")


def pending(fd: int) -> Pending:
    del fd
    _refuse("poll")


def ask(fd: int, saved: Values, guard: int) -> int:
    del fd, saved, guard
    _refuse("a question to the peer's kernel")


def unask(fd: int, saved: Values) -> None:
    del fd, saved
    _refuse("a question to the peer's kernel")
