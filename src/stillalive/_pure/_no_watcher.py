"""A system whose connections cannot be looked at from outside."""

from __future__ import annotations

from typing import NoReturn

from .._backend import Occurrence, WatcherSettings
from .._errors import not_supported


def _refuse() -> NoReturn:
    raise not_supported("looking at connections of others without the compiled part")


class FirstLook:
    """Refuse to be made."""

    identity = 0
    info: tuple[int, ...] = ()

    def __init__(self, fd: int) -> None:
        del fd
        _refuse()


class Watcher:
    """Refuse to be made."""

    def __init__(self, settings: WatcherSettings, queue: int) -> None:
        del settings, queue
        _refuse()

    def start(self) -> None:
        _refuse()

    def stop(self) -> None:
        _refuse()

    def abandon(self) -> None:
        _refuse()

    def update(self, settings: WatcherSettings) -> None:
        _refuse()

    def watch(
        self,
        fd: int,
        identity: int,
        detect_ms: int,
        idle_ms: int,
        deed: int,
        first: FirstLook | None = None,
    ) -> int:
        _refuse()

    def cancel(self, token: int) -> bool:
        _refuse()

    def hold(self, identity: int) -> None:
        _refuse()

    def release(self, identity: int) -> None:
        _refuse()

    def drain(self, on: bool) -> None:
        _refuse()

    def take(self, room: int, timeout_ms: int) -> list[Occurrence] | None:
        _refuse()

    def stats(self) -> dict[str, int]:
        _refuse()

    def step(self, now_ms: int) -> int:
        _refuse()
