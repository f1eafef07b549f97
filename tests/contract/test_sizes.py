"""No file over 600 lines and no function over 60: what is longer hides a second concept."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from . import tree

MOST_FILE_LINES = 600
MOST_FUNCTION_LINES = 60

Function = tuple[str, int]
"""(name, lines without the docstring)."""


def python_functions(source: str) -> Iterator[Function]:
    """Yield each function; its docstring is documentation and does not count."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        first = node.body[0]
        if ast.get_docstring(node) is not None:
            lines -= (first.end_lineno or first.lineno) - first.lineno + 1
        yield node.name, lines


_C_START = re.compile(r"^[A-Za-z_][^;={}]*?\b(\w+)\s*\([^;{}]*\)\s*\{", re.MULTILINE)


def c_functions(source: str) -> Iterator[Function]:
    """Yield each function that starts, and ends with its brace, at the left margin."""
    text = tree.without_comments(source)
    for found in _C_START.finditer(text):
        end = text.find("\n}", found.end())
        yield found.group(1), text.count("\n", found.start(), end if end >= 0 else None) + 2


_PYX_START = re.compile(r"^(\s*)(?:cpdef|cdef|async def|def)\b[^=]*?(\w+)\s*\(")


def pyx_functions(source: str) -> Iterator[Function]:
    """Yield each function of a Cython file, up to the next line that is not deeper."""
    lines = source.splitlines()
    for number, line in enumerate(lines):
        found = _PYX_START.match(line)
        if found is None:
            continue
        margin, end = len(found.group(1)), number + 1
        in_signature = not re.search(r":\s*(#.*)?$", line)
        for at in range(number + 1, len(lines)):
            text = lines[at]
            if in_signature:
                in_signature = not re.search(r":\s*(#.*)?$", text)
            elif text.strip() and len(text) - len(text.lstrip()) <= margin:
                break
            if text.strip():
                end = at + 1
        yield found.group(2), end - number


PARSERS = {
    ".py": python_functions,
    ".c": c_functions,
    ".h": c_functions,
    ".pyx": pyx_functions,
    ".pxi": pyx_functions,
}
SOURCES = [name for top in ("src", "ext", "tests") for name in tree.under(top, *PARSERS)]


def too_long(name: str, source: str) -> list[str]:
    lines = source.count("\n")
    found = [f"{name}: {lines} lines"] if lines > MOST_FILE_LINES else []
    parse = PARSERS["." + name.rpartition(".")[2]]
    return found + [
        f"{name}: {function}() has {lines} lines"
        for function, lines in parse(source)
        if lines > MOST_FUNCTION_LINES
    ]


def test_nothing_is_too_long():
    assert len(SOURCES) > 30
    assert [complaint for name in SOURCES for complaint in too_long(name, tree.read(name))] == []


@pytest.mark.parametrize(
    ("name", "head", "line"),
    [
        ("a.py", "def f(a,\n      b):\n", "    b()\n"),
        ("a.py", "class C:\n    async def f(self):\n", "        pass\n"),
        ("a.c", "static int f(int a,\n             int b) {\n", "    b();\n"),
        ("a.pyx", "cdef int f(int a,\n           int b) except -1:\n", "    b()\n"),
    ],
)
def test_a_long_function_is_found(name, head, line):
    end = "}\n" if name == "a.c" else ""
    taken = head.count("\n") - head.count("class") + len(end) // 2
    fits = head + line * (MOST_FUNCTION_LINES - taken) + end
    assert too_long(name, fits) == []
    over = head + line * (MOST_FUNCTION_LINES - taken + 1) + end
    assert [found.rpartition(" has")[0] for found in too_long(name, over)] == [f"{name}: f()"]


def test_a_docstring_does_not_count_and_a_long_file_does():
    documented = 'def f():\n    """Say it.\n' + "    word\n" * 80 + '    """\n    return 1\n'
    assert too_long("a.py", documented) == []
    assert too_long("a.py", "a = 1\n" * (MOST_FILE_LINES + 1)) == ["a.py: 601 lines"]


def test_the_parsers_see_the_functions_that_are_there():
    assert "ka_apply" in dict(c_functions(tree.read("ext/core/policy.c")))
    assert "judge_ended" in dict(c_functions(tree.read("ext/core/liveness.c")))
    binding = [
        f
        for name in tree.under("ext/binding", ".pyx", ".pxi")
        for f in pyx_functions(tree.read(name))
    ]
    assert {"apply_options", "_raise", "begin"} <= {name for name, _ in binding}
    assert dict(pyx_functions(tree.read("ext/binding/_core.pyx")))["supported"] == 2
