"""Every example in a docstring or on a page of docs/ runs, on both implementations."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
import runpy
from pathlib import Path

import pytest

import stillalive
from stillalive._backend import Backend

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
FLAGS = doctest.ELLIPSIS | doctest.DONT_ACCEPT_TRUE_FOR_1
SKIPPED = ("._core", ".__main__", "._pure._linux")

pytestmark = pytest.mark.skipif(
    not stillalive.capabilities()["probe"].supported, reason="nothing is supported on this system"
)


def module_names() -> list[str]:
    found = pkgutil.walk_packages(stillalive.__path__, "stillalive.")
    names = [module.name for module in found if not module.name.endswith(SKIPPED)]
    return ["stillalive", *names]


def examples_in_docstrings() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = []
    for name in module_names():
        try:
            module = importlib.import_module(name)
        except ImportError:  # an optional dependency
            continue
        tests += [test for test in finder.find(module, name) if test.examples]
    return tests


def examples_on_page(page: Path) -> doctest.DocTest | None:
    """Parse the doctest blocks of a MyST page; the blocks share their names."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\{doctest\}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    test = doctest.DocTestParser().get_doctest(
        "\n".join(blocks), {}, page.name, str(page), lineno=0
    )
    return test if test.examples else None


DOCSTRINGS = examples_in_docstrings()
ON_PAGES = [test for test in map(examples_on_page, PAGES) if test is not None]


def run(test: doctest.DocTest) -> None:
    test.globs = runpy.run_path(str(DOCS / "doctest_setup.py"))
    report = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    with contextlib.redirect_stderr(report):
        runner.run(test, out=report.write, clear_globs=False)
    test.globs["close_pairs"]()
    assert runner.summarize(verbose=False).failed == 0, report.getvalue()


@pytest.mark.parametrize("test", DOCSTRINGS, ids=lambda test: test.name)
def test_docstring_example(test: doctest.DocTest, impl: Backend) -> None:
    run(test)


@pytest.mark.parametrize("test", ON_PAGES, ids=lambda test: test.name)
def test_example_on_page(test: doctest.DocTest, impl: Backend) -> None:
    run(test)


@pytest.mark.parametrize(
    "name", [name for name in stillalive.__all__ if callable(getattr(stillalive, name))]
)
def test_public_names_have_a_docstring(name: str) -> None:
    assert getattr(stillalive, name).__doc__


def test_public_names_are_on_the_api_page() -> None:
    page = (DOCS / "api.rst").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\.\. (?:auto)?\w+:: (\w+)$", page, re.MULTILINE))
    assert set(stillalive.__all__) - {"__version__"} <= documented
