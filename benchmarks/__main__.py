"""Measure, print, and write the results."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import checking, probing, tuning
from .machine import describe_machine, load, neutral_name
from .report import as_json, as_markdown, show
from .sockets import verify_switch
from .timing import Effort
from .topic import Bench, Topic

_RESULTS = Path(__file__).resolve().parent / "results"
_FULL = Effort(rounds=200, slice_ns=2_000_000, probe_rounds=150, burst=200, burst_rounds=7)
_SMOKE = Effort(rounds=2, slice_ns=100_000, probe_rounds=2, burst=10, burst_rounds=1)
_TOPICS: dict[str, Callable[[Bench], Topic]] = {
    "tune": tuning.tune,
    "check": checking.check,
    "describe": tuning.describe,
    "probe": probing.probe,
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
    topics = [_TOPICS[name](bench) for name in chosen.topics or _TOPICS]
    machine["load average"] = f"{before} at the beginning, {load()} at the end"
    if chosen.smoke:
        machine["smoke run"] = "far too short: these figures mean nothing"
    show(machine, topics)
    folder = chosen.out or (None if chosen.smoke or chosen.topics else _RESULTS)
    if folder is not None:
        _write(folder, machine, topics)
    return 0


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


def _write(folder: Path, machine: dict[str, str], topics: list[Topic]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{time.strftime('%Y-%m-%d', time.gmtime())}-{neutral_name()}.json"
    (folder / name).write_text(as_json(machine, topics) + "\n", encoding="utf-8")
    (folder / "latest.md").write_text(as_markdown(machine, topics), encoding="utf-8")
    print(f"\nwritten: {name} and latest.md")


if __name__ == "__main__":
    sys.exit(main())
