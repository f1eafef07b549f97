"""Put tables and lines on the terminal: with rich where it is, as plain text elsewhere."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

__all__ = ["Row", "Show", "Table", "Tone", "has_rich", "output", "paragraphs"]

Tone = Literal["", "good", "bad", "faint", "head"]
_STYLES: dict[Tone, str] = {
    "": "",
    "good": "green",
    "bad": "bold red",
    "faint": "dim",
    "head": "bold",
}


@dataclass(frozen=True, slots=True)
class Row:
    cells: tuple[str, ...]
    tone: Tone = ""


@dataclass(slots=True)
class Table:
    """Rows under headings; a heading that starts with ``>`` is of a right-aligned column."""

    headings: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)

    def add(self, *cells: str, tone: Tone = "") -> None:
        self.rows.append(Row(cells, tone))


class Show(Protocol):
    """Where a command writes what people read."""

    def line(self, text: str = "", tone: Tone = "") -> None: ...
    def table(self, table: Table) -> None: ...
    def live(self, table: Callable[[], Table]) -> AbstractContextManager[object]: ...


class Quiet:
    """Nothing: the output is JSON."""

    def line(self, text: str = "", tone: Tone = "") -> None:
        pass

    def table(self, table: Table) -> None:
        pass

    def live(self, table: Callable[[], Table]) -> AbstractContextManager[object]:
        return nullcontext()


class PlainText:
    """Lines, one after the other."""

    def line(self, text: str = "", tone: Tone = "") -> None:
        print(text, flush=True)

    def table(self, table: Table) -> None:
        names = tuple(heading.lstrip(">") for heading in table.headings)
        lines = [names, *(row.cells for row in table.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for number, cells in enumerate(lines):
            aligned = [
                cell.rjust(width) if heading.startswith(">") else cell.ljust(width)
                for cell, width, heading in zip(cells, widths, table.headings, strict=True)
            ]
            self.line("  ".join(aligned).rstrip())
            if number == 0:
                self.line("  ".join("-" * width for width in widths))

    def live(self, table: Callable[[], Table]) -> AbstractContextManager[object]:
        return nullcontext()


class Rich:
    """Colours, and a table that changes in place."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def line(self, text: str = "", tone: Tone = "") -> None:
        self._console.print(
            text, style=_STYLES[tone] or None, markup=False, highlight=False, soft_wrap=True
        )

    def table(self, table: Table) -> None:
        self._console.print(self._rich(table))

    def live(self, table: Callable[[], Table]) -> AbstractContextManager[object]:
        from rich.live import Live

        return Live(
            console=self._console,
            get_renderable=lambda: self._rich(table()),
            refresh_per_second=8,
            transient=True,
        )

    def _rich(self, table: Table) -> RichTable:
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable(
            box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold"
        )
        for heading in table.headings:
            right = heading.startswith(">")
            drawn.add_column(
                heading.lstrip(">"), justify="right" if right else "left", no_wrap=right
            )
        for row in table.rows:
            drawn.add_row(*(Text(cell) for cell in row.cells), style=_STYLES[row.tone] or None)
        return drawn


def has_rich() -> bool:
    """Tell whether the extra ``stillalive[cli]`` is installed."""
    try:
        importlib.import_module("rich.console")
    except ImportError:
        return False
    return True


def output(*, json: bool, plain: bool, color: bool) -> Show:
    """Choose by the options, the terminal, and what is installed."""
    if json:
        return Quiet()
    if plain or not sys.stdout.isatty() or not has_rich():
        return PlainText()
    from rich.console import Console

    return Rich(Console(no_color=None if color else True))


def paragraphs(show: Show, title: str, lines: Sequence[str]) -> None:
    """Write a heading and indented lines under it."""
    show.line()
    show.line(title, "head")
    for line in lines:
        show.line(f"  {line}")
