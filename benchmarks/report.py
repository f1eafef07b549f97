"""Show what was measured: on the terminal, as markdown, as JSON."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .timing import Row
from .topic import Facts, Goal, Topic

__all__ = ["as_json", "as_markdown", "show"]

_WIDTH = 150  # where no terminal is

METHOD = (
    (
        "All contenders of a table run in turn, round after round; medians over the rounds, "
        "spread = from the fastest tenth to the slowest tenth."
    ),
    (
        "x limit = time / limit, and pure / this = time of the pure-Python twin / time: the median "
        "of the ratios within each round."
    ),
    (
        "The cost of an empty Python loop is subtracted from what is called in one; C loops time "
        "themselves. The garbage collector is off."
    ),
)


@dataclass(frozen=True)
class _Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def as_json(machine: Mapping[str, str], topics: Sequence[Topic]) -> str:
    """Return everything as JSON; times are nanoseconds."""
    return json.dumps(
        {
            "machine": dict(machine),
            "method": METHOD,
            "topics": [_plain(topic) for topic in topics],
        },
        indent=1,
    )


def _plain(topic: Topic) -> dict[str, object]:
    found = dataclasses.asdict(topic)
    found["goals"] = [dataclasses.asdict(goal) | {"met": goal.met} for goal in topic.goals]
    return found


def as_markdown(machine: Mapping[str, str], topics: Sequence[Topic]) -> str:
    """Return everything as markdown that a page can include."""
    lines = ["<!-- written by python -m benchmarks -->", ""]
    lines += [f"* {name}: {value}" for name, value in machine.items()]
    lines += ["", *(f"* {text}" for text in METHOD)]
    for table in _tables(topics):
        lines += ["", f"### {table.title}", ""]
        lines += [_line(table.columns), _line(["---", *["---:"] * (len(table.columns) - 1)])]
        lines += [_line(row) for row in table.rows]
        lines += ["", *(f"* {note}" for note in table.notes)] if table.notes else []
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def show(machine: Mapping[str, str], topics: Sequence[Topic]) -> None:
    """Print everything, with rich if it is there."""
    for name, value in machine.items():
        print(f"{name}: {value}")
    print("", *METHOD, sep="\n")
    for table in _tables(topics):
        print()
        _print(table)
        print(*table.notes, sep="\n")


def _print(table: _Table) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        _print_plainly(table)
        return
    drawn = Table(title=table.title, title_justify="left", title_style="bold")
    for number, column in enumerate(table.columns):
        drawn.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*row)
    width = shutil.get_terminal_size((_WIDTH, 0)).columns
    Console(highlight=False, markup=False, width=width).print(drawn)


def _print_plainly(table: _Table) -> None:
    lines = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(table.title)
    for line in lines:
        first, *rest = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join([first, *(cell.strip().rjust(len(cell)) for cell in rest)]))


def _tables(topics: Sequence[Topic]) -> list[_Table]:
    found = []
    for topic in topics:
        if topic.rows:
            found.append(_times(topic))
        if topic.facts is not None:
            found.append(_facts(topic.facts))
    goals = [goal for topic in topics for goal in topic.goals]
    found.append(
        _Table("figures to reach", ("", "reached", "at most", "met"), [*map(_goal, goals)], ())
    )
    return found


def _times(topic: Topic) -> _Table:
    columns = ["", "median", "spread", "x limit", "pure / this"]
    rows = [_cells(row, topic.limit) for row in topic.rows]
    if any(row.cpu is not None for row in topic.rows):
        columns[2:2] = ["mean"]
        columns += ["CPU", ""]
        rows = [
            [
                *cells[:2],
                _time(row.mean),
                *cells[2:],
                "" if row.cpu is None else _time(row.cpu),
                row.note,
            ]
            for cells, row in zip(rows, topic.rows, strict=True)
        ]
    return _Table(topic.title, columns, rows, topic.notes)


def _cells(row: Row, limit: str) -> list[str]:
    return [
        row.name + (" (the limit)" if row.name == limit else ""),
        _time(row.median),
        f"{_time(row.low)} - {_time(row.high)}",
        "" if row.to_limit is None else f"{row.to_limit:.3g}",
        "" if row.to_pure is None else f"{row.to_pure:.3g}",
    ]


def _time(ns: float) -> str:
    if ns < 1000:
        return f"{ns:.0f} ns"
    return f"{ns / 1000:.3g} us" if ns < 1_000_000 else f"{ns / 1_000_000:.3g} ms"


def _facts(facts: Facts) -> _Table:
    return _Table(facts.title, facts.columns, facts.rows, facts.notes)


def _goal(goal: Goal) -> list[str]:
    return [goal.text, _figure(goal.reached), _figure(goal.at_most), "yes" if goal.met else "NO"]


def _figure(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.2g}"
