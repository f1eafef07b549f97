"""Find the connections that the listeners of this process have accepted.

Every pass asks each descriptor number for the identity of its socket; what has
not changed since the pass before costs no more than that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if sys.platform == "linux":
    from . import _bare as bare
    from ._wards import Ward

assert not TYPE_CHECKING or sys.platform == "linux"

SLICE = 4096
"""Numbers asked at a time."""
_NEWCOMERS = 512
"""Those among them that may cost more than a question."""


class _Seen:
    """What stands under one number."""

    __slots__ = ("connected", "identity", "other", "port", "ward")

    def __init__(self, identity: int) -> None:
        self.identity = identity
        self.other = False
        """It can become neither a listener nor a connection."""
        self.connected = False
        self.port = 0
        self.ward: Ward | None = None

    def is_free(self) -> bool:
        return self.connected and (self.ward is None or self.ward.ended)


class Discovery:
    """Walk the numbers, in slices.

    `adopt(fd, identity, port)` begins to look after a connection, unless
    somebody does; `release(ward)` ends that.
    """

    def __init__(
        self,
        adopt: Callable[[int, int, int], Ward | None],
        release: Callable[[Ward], None],
        ports: Iterable[int],
    ) -> None:
        self._adopt, self._release = adopt, release
        self._wanted = frozenset(ports)
        """Those whose connections are looked after; empty: those of listeners."""
        self._seen: dict[int, _Seen] = {}
        self._listening: set[int] = set()
        """Ports of the listeners found in this pass."""
        self._listened: set[int] = set()
        """Those of the pass before: the last connections may come after their listener."""
        self._next = self._bound = self._examined = 0

    def want(self, ports: Iterable[int]) -> None:
        """Look after other ports, from a new pass on."""
        self._wanted = frozenset(ports)
        self._next = 0

    def under_way(self) -> bool:
        """Tell whether a pass has begun and is not over."""
        return self._next > 0

    def slice(self) -> bool:
        """Ask some numbers. True when that was the last of a pass."""
        if self._next == 0:
            self._bound = bare.bound()
            self._listened, self._listening = self._listening, set()
        end = min(self._next + SLICE, self._bound)
        self._examined = 0
        while self._next < end and self._examined < _NEWCOMERS:
            self._ask(self._next)
            self._next += 1
        if self._next < self._bound:
            return False
        self._next = 0
        for number in [number for number in self._seen if number >= self._bound]:
            self._forget(number)
        # A connection may stand under a lower number than its listener.
        for number, seen in self._seen.items():
            if seen.is_free():
                self._consider(number, seen)
        return True

    def _ask(self, number: int) -> None:
        seen = self._seen.get(number)
        try:
            identity = bare.identity(number)
            if seen is not None and seen.identity != identity:
                self._forget(number)
                seen = None
            if seen is None:
                seen = self._seen[number] = _Seen(identity)
            if not (seen.other or seen.connected):
                self._examine(number, seen)
        except OSError:
            if seen is not None:
                self._forget(number)
            return
        if seen.is_free():
            self._consider(number, seen)

    def _examine(self, number: int, seen: _Seen) -> None:
        self._examined += 1
        found = bare.examine(number)
        if found is None:
            seen.other = True
            return
        seen.port, seen.connected = found.port, found.connected
        if found.listening:
            self._listening.add(found.port)

    def _consider(self, number: int, seen: _Seen) -> None:
        """Take a connection on, if it is one of those that are looked after."""
        port = seen.port
        if self._wanted:
            wanted = port in self._wanted
        else:
            wanted = port in self._listening or port in self._listened
        if wanted:
            seen.ward = self._adopt(number, seen.identity, port)

    def _forget(self, number: int) -> None:
        seen = self._seen.pop(number, None)
        if seen is not None and seen.ward is not None and not seen.ward.ended:
            self._release(seen.ward)
