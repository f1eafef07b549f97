"""Check the arguments of the commands: one wording for all of them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

__all__ = ["Commands", "command", "number_between", "whole_between"]

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def whole_between(low: int, high: int) -> Callable[[str], int]:
    """Return an argparse type: an int from `low` to `high`."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number, {low} to {high}")
        return value

    return convert


def number_between(low: float, high: float, unit: str) -> Callable[[str], float]:
    """Return an argparse type: a finite number from `low` to `high`."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{text!r}: must be a number of {unit}, {low:g} to {high:g}"
            )
        return value

    return convert


def command(
    commands: Commands, name: str, summary: str, text: str, epilog: str
) -> argparse.ArgumentParser:
    """Add a command with the options that all of them have."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document, no text")
    parser.add_argument("--plain", action="store_true", help="plain lines, without rich")
    parser.add_argument("--no-color", action="store_true", help="no colours")
    parser.set_defaults(parser=parser)
    return parser
