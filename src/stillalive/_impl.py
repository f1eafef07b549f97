"""Choose the backend: compiled if it is there, else pure Python.

``STILLALIVE_IMPL=c`` insists on the compiled one, ``STILLALIVE_IMPL=pure``
avoids it. Falling back is logged once, because it costs speed.
"""

from __future__ import annotations

import logging
import os
from typing import cast

from ._backend import Backend

__all__ = ["backend", "choose"]


def choose(wish: str | None) -> Backend:
    """Return the backend that `wish` ("c", "pure" or None) names."""
    if wish not in (None, "", "c", "pure"):
        raise ImportError(f"STILLALIVE_IMPL={wish!r} is not known (allowed: 'c', 'pure')")
    if wish != "pure":
        try:
            from . import _core

            return cast(Backend, _core)
        except ImportError as missing:
            if wish == "c":
                raise
            logging.getLogger("stillalive").info(
                "the compiled extension is not there (%s): using the pure-Python path", missing
            )
    from . import _pure

    return cast(Backend, _pure)


backend: Backend = choose(os.environ.get("STILLALIVE_IMPL"))
