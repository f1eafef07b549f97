"""Where the sources are, and how the contract tests read them."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = frozenset(("ext/binding/_core.c",))
_SKIPPED = frozenset((".git", ".venv", "build", "dist", "out", "__pycache__", "node_modules"))

_C_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


@cache
def files() -> tuple[str, ...]:
    """Return every file of the project, as git has it or would take it."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, timeout=60)
        names = done.stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):  # an unpacked sdist
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        names = [path.as_posix() for path in found if not _SKIPPED.intersection(path.parts)]
    kept = (name for name in names if name and name not in GENERATED)
    return tuple(sorted(name for name in kept if (ROOT / name).is_file()))


def under(folder: str, *suffixes: str) -> list[str]:
    """Return the files below a folder that end in one of the suffixes."""
    return [name for name in files() if name.startswith(folder + "/") and name.endswith(suffixes)]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def without_comments(source: str) -> str:
    """Blank out C comments, keeping the line numbers."""
    return _C_COMMENT.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), source)
