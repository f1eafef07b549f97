"""Run cases of CPython's own test suite on Selector, in a process of their own.

Takes and prints a JSON object. Of the classes asked for it takes those that are
there; the one of ``test_selectors`` is made here, as that module makes its own.
Whatever asks ``selectors`` for its best, or for epoll, gets Selector.
"""

from __future__ import annotations

import importlib
import io
import json
import selectors
import sys
import unittest
from typing import Any

from stillalive.selector import Selector, mechanism_wish


class Counted(Selector):
    """Proves that the suite has used it."""

    made = 0
    asked = 0

    def __init__(self) -> None:
        super().__init__()
        Counted.made += 1

    def register(self, *args: Any, **kwargs: Any) -> Any:
        Counted.asked += 1
        return super().register(*args, **kwargs)


def selector_cases() -> type[unittest.TestCase]:
    """Make what ``test_selectors`` makes for each selector of the standard library."""
    suite = importlib.import_module("test.test_selectors")

    class SelectorTestCase(
        suite.BaseSelectorTestCase, suite.ScalableSelectorMixIn, unittest.TestCase
    ):
        SELECTOR = Counted
        # poll(2) takes regular files, as PollSelector does; epoll does not.
        if mechanism_wish() != "poll" and hasattr(
            suite.EpollSelectorTestCase, "test_register_file"
        ):
            test_register_file = suite.EpollSelectorTestCase.test_register_file

    return SelectorTestCase


def load(module: str, classes: list[str]) -> unittest.TestSuite:
    if module == "test_selectors":
        cases = [selector_cases()]
    else:
        suite = importlib.import_module(f"test.{module}")
        cases = [getattr(suite, name) for name in classes if hasattr(suite, name)]
    loader = unittest.TestLoader()
    return unittest.TestSuite(loader.loadTestsFromTestCase(case) for case in cases)


def flat(suite: Any) -> list[Any]:
    if isinstance(suite, unittest.TestSuite):
        return [case for part in suite for case in flat(part)]
    return [suite]


def main(module: str, classes: list[str], left_out: list[str]) -> dict[str, Any]:
    selectors.EpollSelector = selectors.DefaultSelector = Counted  # type: ignore[misc]
    cases = [case for case in flat(load(module, classes)) if short(case) not in left_out]
    runner = unittest.TextTestRunner(stream=io.StringIO(), verbosity=0)
    result = runner.run(unittest.TestSuite(cases))
    return {
        "passed": result.testsRun
        - sum(len(group) for group in (result.failures, result.errors, result.skipped)),
        "failed": [(short(case), text) for case, text in result.failures + result.errors],
        "unexpected": [short(case) for case in result.unexpectedSuccesses],
        "skipped": [(short(case), reason) for case, reason in result.skipped],
        "made": Counted.made,
        "asked": Counted.asked,
    }


def short(case: Any) -> str:
    return case.id().rpartition(".")[2]


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    found = main(wanted["module"], wanted["classes"], wanted["left_out"])
    print(json.dumps(found), file=sys.__stdout__)
