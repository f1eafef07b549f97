"""Draw the results of a run: ``python -m benchmarks.charts RESULTS.json FOLDER``.

The same results give the same bytes. Text is grey and the ground transparent:
the pages show them in light and in dark.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["draw"]

Topic = Mapping[str, Any]

_GREY, _FAINT = "#808080", "#80808055"
_OURS, _OURS_PALE = "#2f9e72", "#8fd0b6"
_RIVAL, _RIVAL_PALE = "#7d8fb3", "#b9c4da"
_LIMIT, _LIMIT_PALE = "#d08a2e", "#e8c48f"
_STYLE = {
    "svg.hashsalt": "stillalive",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans", "sans-serif"],
    "font.size": 10,
    "text.color": _GREY,
    "axes.labelcolor": _GREY,
    "axes.edgecolor": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "grid.color": _FAINT,
    "legend.frameon": False,
}
_WIDTH = 8.0
_TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns"))


def draw(results: Path, folder: Path) -> list[Path]:
    """Draw a chart of every topic that the results have; return the files."""
    found = json.loads(results.read_text(encoding="utf-8"))
    topics = {topic["key"]: topic for topic in found["topics"]}
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):
        for key, chart in _CHARTS.items():
            if key in topics:
                path = folder / f"bench-{key}.svg"
                figure = chart(topics[key])
                # No date and no version: nothing but the figures changes the file.
                metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
                figure.savefig(path, transparent=True, bbox_inches="tight", metadata=metadata)
                drawn.append(path)
    return drawn


def _touch(topic: Topic) -> Figure:
    rows = topic["rows"]
    with _axes(len(rows), "one touch, log scale", log=True) as (figure, axes):
        _bars(axes, rows, [row["median"] for row in rows], topic["limit"])
    return figure


def _accept(topic: Topic) -> Figure:
    rows = topic["rows"]
    with _axes(len(rows), "CPU for one accepted connection") as (figure, axes):
        _bars(axes, rows, [row["median"] for row in rows], topic["limit"])
    return figure


def _echo(topic: Topic) -> Figure:
    rows = topic["rows"]
    with _axes(len(rows), "CPU for one message: user dark, system pale") as (figure, axes):
        user = [row["user"] for row in rows]
        _bars(axes, rows, user, topic["limit"], beside=[row["system"] for row in rows])
    return figure


def _select(topic: Topic) -> Figure:
    """Draw groups of bars, one group for each number of ready ones."""
    ways: dict[str, dict[int, float]] = {}
    for row in topic["rows"]:
        name, _, ready = row["name"].removesuffix(" ready").rpartition(", ")
        ways.setdefault(name, {})[int(ready)] = row["median"] / int(ready)
    groups = sorted(next(iter(ways.values())))
    with _axes(len(ways) * len(groups), "one event, log scale", log=True) as (figure, axes):
        names, times, colours, at = [], [], [], []
        for group, ready in enumerate(groups):
            for step, (name, per_event) in enumerate(ways.items()):
                names.append(f"{name}, {ready:,} ready")
                times.append(per_event[ready])
                colours.append(_colours(name, topic["limit"])[0])
                at.append(group * (len(ways) + 0.7) + step)
        axes.barh(at, times, color=colours, height=0.8)
        _label(axes, at, times)
        axes.set_yticks(at, names)
        axes.invert_yaxis()
    return figure


def _tracked(topic: Topic) -> Figure:
    """Draw lines over the number of connections, both axes logarithmic."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in topic["rows"]:
        name, _, number = row["name"].rpartition(", ")
        lines.setdefault(name, []).append((int(number.replace(",", "")), row["median"]))
    with _axes(9, "") as (figure, axes):
        for name, points in lines.items():
            xs, ys = zip(*sorted(points), strict=True)
            colour = _LIMIT if name == topic["limit"] else _OURS
            axes.plot(xs, ys, marker="o", color=colour, label=name, linewidth=2)
            for x, y in points:
                axes.annotate(
                    _time(y), (x, y), (0, 7), textcoords="offset points", ha="center", color=_GREY
                )
        axes.set(xscale="log", yscale="log", xlabel="connections", ylabel="one sweep")
        axes.margins(x=0.08, y=0.15)
        axes.grid(visible=True, axis="both")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_major_formatter(lambda value, _: _time(value))
        axes.minorticks_off()
        axes.legend()
    return figure


_CHARTS: dict[str, Callable[[Topic], Figure]] = {
    "touch": _touch,
    "select": _select,
    "tracked": _tracked,
    "echo": _echo,
    "echo-idle": _echo,
    "accept": _accept,
}


@contextmanager
def _axes(bars: int, label: str, *, log: bool = False) -> Iterator[tuple[Figure, Axes]]:
    figure = Figure(figsize=(_WIDTH, 0.9 + 0.3 * bars))
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    yield figure, axes
    if label:
        axes.set_xlabel(label)
        axes.grid(visible=True, axis="x")
        axes.tick_params(axis="y", length=0)
        axes.margins(y=0.01)
        if log:
            axes.set_xscale("log")
        axes.set_xlim(right=axes.get_xlim()[1] * (1.6 if log else 1.12))
        axes.xaxis.set_major_formatter(lambda value, _: _time(value))
        axes.minorticks_off()


def _bars(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    times: Sequence[float],
    limit: str,
    beside: Sequence[float] | None = None,
) -> None:
    names = [row["name"] for row in rows]
    dark, pale = zip(*(_colours(name, limit) for name in names), strict=True)
    at = range(len(names))
    axes.barh(at, times, color=dark, height=0.75)
    ends = times
    if beside is not None:
        axes.barh(at, beside, left=times, color=pale, height=0.75)
        ends = [one + other for one, other in zip(times, beside, strict=True)]
    _label(axes, at, ends)
    axes.set_yticks(at, names)
    axes.invert_yaxis()


def _label(axes: Axes, at: Sequence[float], times: Sequence[float]) -> None:
    for y, time in zip(at, times, strict=True):
        axes.annotate(
            _time(time), (time, y), (4, 0), textcoords="offset points", va="center", color=_GREY
        )


def _colours(name: str, limit: str) -> tuple[str, str]:
    if name == limit:
        return _LIMIT, _LIMIT_PALE
    if name.startswith("c: "):
        return _OURS, _OURS_PALE
    return _RIVAL, _RIVAL_PALE


def _time(ns: float) -> str:
    for size, unit in _TIMES:
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.2g} ns"


def main(arguments: Sequence[str]) -> int:
    """Draw by hand."""
    if len(arguments) != 2:
        print("usage: python -m benchmarks.charts RESULTS.json FOLDER", file=sys.stderr)
        return 2
    for path in draw(Path(arguments[0]), Path(arguments[1])):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
