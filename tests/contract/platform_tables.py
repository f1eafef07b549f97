"""Write the tables of docs/platforms.md: ``python -m tests.contract.platform_tables``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stillalive._evidence import COLUMNS, EVIDENCE, NOT
from stillalive._systems import OPTION_NAMES, SYSTEMS

PAGE = Path(__file__).parents[2] / "docs" / "platforms.md"

Rows = Iterator[tuple[str, ...]]


def evidence() -> Rows:
    """Yield what is known of each feature on each system, and how."""
    yield ("feature", *(SYSTEMS[key].title for key in COLUMNS))
    for feature, cells in EVIDENCE.items():
        plain = " " in feature
        yield (
            feature if plain else f"`{feature}`",
            *("-" if cells[key] == NOT else cells[key] for key in COLUMNS),
        )


def options() -> Rows:
    """Yield name, unit, range and version of each option on each system."""
    yield ("option", "system", "kernel's name", "unit", "range", "since", "inherited", "read back")
    for number, name in enumerate(OPTION_NAMES):
        for key in COLUMNS:
            row = SYSTEMS[key].option(number)
            if row is None:
                continue
            low, high = row.native_range
            yield (
                *(f"`{name}`", SYSTEMS[key].title, f"`{row.native}`", row.unit),
                *(f"{low} to {high}", row.since),
                "yes" if name in SYSTEMS[key].inherited else "no",
                "yes" if row.readable else "no",
            )


TABLES = {"evidence": evidence, "options": options}


def rendered(name: str) -> str:
    """Return one table as Markdown."""
    head, *rows = TABLES[name]()
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def between(text: str, name: str) -> tuple[str, str, str]:
    """Divide a page into what comes before a table, the table, and what comes after."""
    before, found, rest = text.partition(f"<!-- table: {name} -->\n")
    table, end, after = rest.partition("\n<!-- end -->")
    assert found and end, f"{PAGE.name} has no place for the table {name!r}"
    return before + found, table, end + after


def main() -> None:
    """Put the tables of today into the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name in TABLES:
        before, _, after = between(text, name)
        text = before + rendered(name) + after
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
