"""The project names no machine, no registry and no tracker: it must read the same anywhere."""

from __future__ import annotations

import re

import pytest

from . import tree

# A ~ is dropped before use, or this file would be the first to be found.
FORBIDDEN = {
    "a path of one machine": r"/~work/(main|shared)\b|/~root/|/~opt/(pypi|wheels)|/~etc/xdg/pip",
    "a registry's host": r"pypi\.~org|pythonhosted\.~org|npmjs\.~(org|com)|deb\.debian\.~org",
    "a tracker's number": r"\b[Ii]ssue ~#\d+",
}
PATTERNS = {what: re.compile(text.replace("~", "")) for what, text in FORBIDDEN.items()}
BINARY = (".png", ".gif", ".ico", ".woff2", ".gz", ".zip", ".pcap")


def words(name: str, text: str) -> list[str]:
    return [
        f"{name}:{number}: {what}: {found.group()}"
        for number, line in enumerate(text.splitlines(), 1)
        for what, pattern in PATTERNS.items()
        for found in pattern.finditer(line)
    ]


def test_no_file_names_a_machine_a_registry_or_a_tracker():
    names = [name for name in tree.files() if not name.endswith(BINARY)]
    assert len(names) > 30
    assert [found for name in names for found in words(name, tree.read(name))] == []


@pytest.mark.parametrize(
    "text",
    [
        "cd /~work/main",
        "HOME=/~root/x",
        "https://pypi.~org/simple",
        "see issue ~#12",
        "registry.npmjs.~org",
    ],
)
def test_a_forbidden_word_is_found(text):
    assert words("a.md", "fine\n" + text.replace("~", ""))[0].startswith("a.md:2: ")


@pytest.mark.parametrize("text", ["network/x", "issue: none", "a/root"])
def test_a_harmless_word_is_not(text):
    assert words("a.md", text) == []
