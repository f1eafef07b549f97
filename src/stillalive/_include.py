"""Where the headers for C and Cython extensions are."""

from __future__ import annotations

from pathlib import Path

__all__ = ["get_include"]


def get_include() -> str:
    """Return the folder of ``stillalive.h`` and ``stillalive.pxd``.

    For the compiler's ``include_dirs``, and ``include_path`` of ``cythonize``.
    Nothing need be linked: the capsule ``stillalive._core.api`` holds the
    functions; the pure-Python path has none.

    >>> get_include().endswith("include")
    True
    """
    package = Path(__file__).resolve().parent
    installed = package / "include"
    folder = installed if installed.is_dir() else package.parents[1] / "ext" / "include"
    if not (folder / "stillalive.h").is_file():
        raise FileNotFoundError(f"stillalive.h is not in {folder}")
    return str(folder)
