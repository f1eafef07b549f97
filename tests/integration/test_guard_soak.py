"""A guarded server under mixed abuse: nothing healthy is lost, nothing is left over.

``STILLALIVE_GUARD_SOAK_SECONDS`` makes the run longer; soak_guard.py runs by itself, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from . import soak_guard

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far")

SECONDS = float(os.environ.get("STILLALIVE_GUARD_SOAK_SECONDS", "20"))
SABOTAGE = {"hit": "client: talks", "leak": "left over", "grow": "memory grows"}

Reports = dict[str | None, Future[dict[str, Any]]]


@pytest.fixture(scope="module")
def reports() -> Iterator[Reports]:
    """Run the soak, and beside it those that must find something, for they mostly wait."""
    with ThreadPoolExecutor(max_workers=1 + len(SABOTAGE)) as pool:
        found: Reports = {None: pool.submit(soak_guard.soak, SECONDS)}
        for name in SABOTAGE:
            found[name] = pool.submit(soak_guard.soak, 5, sabotage=name)
        yield found


def test_nothing_healthy_is_lost_and_nothing_is_left_over(reports: Reports) -> None:
    report = reports[None].result()
    assert report["problems"] == [], f"seed {report['seed']}"
    assert report["echoes"] > 20 * SECONDS
    # Every kind of abuser was there, and was dealt with.
    for kind in ("silent", "half_head", "rests", "trickles", "never_reads"):
        assert report["ended"][kind], kind
    for why in ("never_spoke", "unanswered", "answered", "min_rate", "stalled"):
        assert report["told"][why], why
    assert report["stats"]["dropped"] == 0


@pytest.mark.parametrize("sabotage", SABOTAGE)
def test_the_soak_finds_what_is_wrong(sabotage: str, reports: Reports) -> None:
    problems = reports[sabotage].result()["problems"]
    assert [problem for problem in problems if SABOTAGE[sabotage] in problem]
