"""A watched peer that vanishes is told within the promise, whatever the connection was doing; one
that is alive is never told, however slow, silent or stalled it is.

Every fault has a control: the same connection, not watched, of which nothing is told in the same
time. All scenarios run at once, in a wave that takes as long as the slowest one;
``STILLALIVE_REPEAT`` runs so many waves and prints how late each scenario was told.
"""

from __future__ import annotations

import os
import statistics
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from . import watched_alive, watched_dead
from .netlab import NetLab
from .watching import CASES, EOF, ERROR, Case, GroupLab, Lateness, Told

assert watched_alive and watched_dead  # they fill CASES

REPEAT = int(os.environ.get("STILLALIVE_REPEAT", "1"))
RESULT_TIMEOUT = 120.0

DEAD = [case for case in CASES if case.why is not None and case.watched]
ALIVE = [case for case in CASES if case.why is None]
CONTROLS = [case for case in CASES if not case.watched]


class Wave:
    """All scenarios, under way."""

    def __init__(self, lab: NetLab, nat_lab: NetLab, pool: ThreadPoolExecutor) -> None:
        self.lateness = Lateness()
        self.lateness.start()
        self._running: dict[Case, Future[Told | None]] = {
            case: pool.submit(case, nat_lab if case.nat else lab) for case in CASES
        }

    def __getitem__(self, case: Case) -> Told | None:
        return self._running[case].result(timeout=RESULT_TIMEOUT)


class Latencies:
    """How long after the vanishing each scenario was told, over all waves."""

    def __init__(self) -> None:
        self.seen: dict[str, list[float]] = defaultdict(list)

    def table(self) -> str:
        rows = [f"{'scenario':<48} {'runs':>4} {'min':>6} {'median':>6} {'max':>6}"]
        for name, seen in self.seen.items():
            times = (min(seen), statistics.median(seen), max(seen))
            rows.append(f"{name:<48} {len(seen):>4} " + " ".join(f"{t:6.2f}" for t in times))
        return "\n".join(rows)


@pytest.fixture(scope="module")
def latencies(pytestconfig: pytest.Config) -> Iterator[Latencies]:
    kept = Latencies()
    yield kept
    if REPEAT > 1:
        capture = pytestconfig.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print(f"\n{kept.table()}")


@pytest.fixture(scope="module")
def group_lab(network_host: None) -> Iterator[NetLab]:
    network = GroupLab()
    yield network
    network.close()


@pytest.fixture(scope="module", params=range(REPEAT), ids=lambda number: f"wave{number}")
def wave(
    request: pytest.FixtureRequest, group_lab: NetLab, nat_lab: NetLab, latencies: Latencies
) -> Iterator[Wave]:
    """Start every scenario; the tests wait each for its own."""
    with ThreadPoolExecutor(max_workers=len(CASES)) as pool:
        running = Wave(group_lab, nat_lab, pool)
        yield running
    running.lateness.stop()


def name_of(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", DEAD, ids=name_of)
def test_dead_peer_is_told_in_time(case: Case, wave: Wave, latencies: Latencies) -> None:
    told = wave[case]
    assert told is not None
    assert told.moment, f"not told within {case.within:g} s"
    latencies.seen[case.name].append(told.after)
    assert told.after <= case.within + wave.lateness.around(told.moment)
    if case.why == "silent":
        # What a third of the promise would do is another matter: that must be survived.
        assert told.after > case.within / 3
    if case.why:
        assert told.event is not None
        assert told.event.why == case.why
        assert told.event.done == case.done
    else:
        assert told.event is None
    if case.owner in (ERROR, EOF):
        assert told.owner is not None, "the owner's call is still blocked"
        assert bool(told.owner.error) == (case.owner == ERROR), f"the owner's call {told.owner}"


@pytest.mark.parametrize("case", CONTROLS, ids=name_of)
def test_control_without_a_watch(case: Case, wave: Wave) -> None:
    told = wave[case]
    assert told is not None
    assert not told.moment, f"told {told.after:.1f} s after the vanishing, by the kernel alone"


@pytest.mark.parametrize("case", ALIVE, ids=name_of)
def test_living_peer_is_not_told(case: Case, wave: Wave) -> None:
    assert wave[case] is None
