"""What the tests of Selector share: moving its time, and reading what it says."""

from __future__ import annotations

import math
from typing import Any

from stillalive.selector import Selector

from .. import needs

TICK = 0.01
LATE = (4 if needs.WINDOWS else 3) * TICK
"""How far past its limit an entry must be reported, in time that counts.

The clock of Windows lags by up to 16 ms, which limits are rounded up by.
"""


def advance(selector: Selector, seconds: float) -> None:
    selector._engine.advance(seconds)


def just_before(selector: Selector, limit: float) -> None:
    """Advance to the last tick that is earlier than the limit."""
    advance(selector, (math.ceil(round(limit / TICK, 6)) - 1) * TICK)


def seen(selector: Selector, timeout: float = 0) -> dict[Any, int]:
    """Return what select says as {data: mask}; nothing may come twice."""
    events = selector.select(timeout)
    found = {key.data: mask for key, mask in events}
    assert len(found) == len(events), events
    assert all(mask for mask in found.values()), events
    return found


def grace(tick: int) -> int:
    """Return how many ticks later a touch at this one may count.

    A word that holds 0, 1 or 2 means something else: once in 497 days, when the
    ticks wrap round, these three are taken for the next.
    """
    return max(0, 3 - tick % 2**32)
