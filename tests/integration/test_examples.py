"""The README's snippets and the programs in examples/ run as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import stillalive

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# What an example uses if it is there; without it half of the example is left out.
OPTIONAL = {"http_client": "urllib3"}
TIMEOUT = 60

SNIPPET = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL
)
SNIPPETS = list(SNIPPET.finditer(README.read_text(encoding="utf-8")))

pytestmark = pytest.mark.skipif(
    not stillalive.capabilities()["probe"].supported, reason="nothing is supported on this system"
)
implementations = pytest.mark.parametrize("implementation", ["c", "pure"])


def run(arguments: list[str], implementation: str, directory: Path) -> str:
    """Run Python with this package in a process of its own; return what it printed."""
    path = [str(Path(stillalive.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "STILLALIVE_IMPL": implementation,
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def skip_without_compiled(implementation: str) -> None:
    if implementation == "c" and stillalive.IMPLEMENTATION != "c":
        pytest.skip("the compiled extension is not there")


def test_readme_has_all_its_snippets() -> None:
    assert len(SNIPPETS) == 6


def page_snippets() -> list[tuple[str, re.Match[str]]]:
    pages = sorted((ROOT / "docs").glob("*.md"))
    return [(p.name, s) for p in pages for s in SNIPPET.finditer(p.read_text(encoding="utf-8"))]


PAGE_SNIPPETS = page_snippets()


def test_the_pages_have_snippets() -> None:
    assert len(PAGE_SNIPPETS) >= 3


@implementations
@pytest.mark.parametrize("number", range(len(PAGE_SNIPPETS)))
def test_page_snippet_runs(number: int, implementation: str, tmp_path: Path) -> None:
    """Run it; where the page says what it prints, it prints that."""
    skip_without_compiled(implementation)
    _, snippet = PAGE_SNIPPETS[number]

    printed = run(["-W", "error", "-c", snippet["code"]], implementation, tmp_path)

    assert printed == (snippet["output"] or "")


@implementations
@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_readme_snippet_prints_what_the_readme_says(
    number: int, implementation: str, tmp_path: Path
) -> None:
    skip_without_compiled(implementation)
    snippet = SNIPPETS[number]

    printed = run(["-c", snippet["code"]], implementation, tmp_path)

    assert printed == snippet["output"]


def test_examples_are_found() -> None:
    assert len(EXAMPLES) >= 3


def test_every_example_is_listed() -> None:
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert [e.name for e in EXAMPLES if f"({e.name})" not in listed] == []


@implementations
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_ends(example: Path, implementation: str, tmp_path: Path) -> None:
    skip_without_compiled(implementation)
    module = OPTIONAL.get(example.stem)
    if module is not None:
        pytest.importorskip(module, reason=f"{example.name} needs {module}")

    assert run(["-W", "error", str(example)], implementation, tmp_path)
