"""Who may be ended now, and who waits for a turn."""

from __future__ import annotations

_LINE_MS, _LINE_EACH_MS = 1000, 0.2
"""How far a queue of those who wait for their turn may reach, and per each of them."""


class Turns:
    """So many acts per second, and at most a tenth of that at once."""

    def __init__(self, per_second: int) -> None:
        self._rate = max(1, per_second)
        self._most = max(1000, 100 * self._rate)
        self._credit = self._most  # thousandths of an act
        self._filled_ms = 0
        self._line_ms = 0
        """When the next who has to wait may try."""

    def wait_ms(self, now_ms: int) -> int:
        """Return 0 if one may act now, else when."""
        passed_ms = max(0, now_ms - self._filled_ms)
        self._credit = min(self._most, self._credit + passed_ms * self._rate)
        self._filled_ms = now_ms
        return max(0, -((self._credit - 1000) // self._rate))

    def take(self, now_ms: int, waiting: int) -> int:
        """Return 0 if one may act now, else when to come again, each at another time."""
        wait_ms = self.wait_ms(now_ms)
        if wait_ms == 0:
            self._credit -= 1000
            return 0
        soonest_ms = now_ms + wait_ms
        latest_ms = now_ms + max(_LINE_MS, round(waiting * _LINE_EACH_MS))
        if not soonest_ms <= self._line_ms <= latest_ms:
            self._line_ms = soonest_ms
        wait_ms = self._line_ms - now_ms
        self._line_ms += -(-1000 // self._rate)
        return wait_ms
