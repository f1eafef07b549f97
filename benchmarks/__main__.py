"""Measure, print, and write the results."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import (
    auditing,
    checking,
    guarding,
    probing,
    reaping,
    selecting,
    serving,
    touching,
    tracking,
    tuning,
)
from .machine import describe_machine, load, neutral_name
from .report import as_json, as_markdown, show
from .sockets import verify_switch
from .timing import Effort
from .topic import Bench, Topic

_RESULTS = Path(__file__).resolve().parent / "results"
_CHARTS = _RESULTS.parents[1] / "docs" / "_static"
_FULL = Effort(
    rounds=200,
    slice_ns=2_000_000,
    probe_rounds=150,
    burst=200,
    burst_rounds=7,
    few=100,
    many=9_000,
    backlog=4_000,
    serve_rounds=9,
    wide_rounds=5,
    serve_ms=500,
    tracked=1_000_000,
    stuck=200,
)
_SMOKE = Effort(
    rounds=2,
    slice_ns=100_000,
    probe_rounds=2,
    burst=10,
    burst_rounds=1,
    few=4,
    many=200,
    backlog=50,
    serve_rounds=1,
    wide_rounds=1,
    serve_ms=60,
    tracked=10_000,
    stuck=4,
)
_TOPICS: dict[str, Callable[[Bench], Topic]] = {
    "tune": tuning.tune,
    "check": checking.check,
    "describe": tuning.describe,
    "probe": probing.probe,
    "touch": touching.touch,
    "select": selecting.select,
    "tracked": tracking.tracked,
    "echo": serving.echo,
    "echo-idle": serving.echo_idle,
    "accept": serving.accept,
    "audit": auditing.audit,
    "guard": guarding.guard,
    "reap": reaping.reap,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen topics; the exit code is 0 whatever the figures are."""
    chosen = _parse(arguments)
    if sys.platform != "linux":
        print("benchmarks: Linux only so far", file=sys.stderr)
        return 2
    verify_switch()
    bench = Bench.start(_SMOKE if chosen.smoke else _FULL)
    machine = describe_machine()
    before = load()
    topics = [_measured(name, bench) for name in chosen.topics or _TOPICS]
    machine["load average"] = f"{before} at the beginning, {load()} at the end"
    if chosen.smoke:
        machine["smoke run"] = "far too short: these figures mean nothing"
    show(machine, topics)
    folder = chosen.out or (None if chosen.smoke or chosen.topics else _RESULTS)
    if folder is not None:
        written = _write(folder, machine, topics)
        if folder == _RESULTS:
            _draw(written)
    return 0


def _measured(name: str, bench: Bench) -> Topic:
    """Run one topic, and say so: a full run takes minutes."""
    print(f"{name}: begins", file=sys.stderr, flush=True)
    began = time.monotonic()
    topic = _TOPICS[name](bench)
    print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    return topic


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "topics",
        nargs="*",
        metavar="TOPIC",
        help=f"only these ({', '.join(_TOPICS)}); writes results only with --out",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="a few seconds, to see that it runs; writes results only with --out",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where results go (default: benchmarks/results)"
    )
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.topics if name not in _TOPICS]
    if unknown:
        parser.error(f"no such topic: {', '.join(unknown)} (allowed: {', '.join(_TOPICS)})")
    return chosen


def _write(folder: Path, machine: dict[str, str], topics: list[Topic]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{time.strftime('%Y-%m-%d', time.gmtime())}-{neutral_name()}.json"
    (folder / name).write_text(as_json(machine, topics) + "\n", encoding="utf-8")
    (folder / "latest.md").write_text(as_markdown(machine, topics), encoding="utf-8")
    print(f"\nwritten: {name} and latest.md")
    return folder / name


def _draw(results: Path) -> None:
    try:
        from . import charts
    except ImportError as missing:
        print(f"benchmarks: no charts: {missing}", file=sys.stderr)
        return
    drawn = charts.draw(results, _CHARTS)
    print(f"drawn: {', '.join(path.name for path in drawn)}")


if __name__ == "__main__":
    # Being told to stop ends the servers and removes what was compiled, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
