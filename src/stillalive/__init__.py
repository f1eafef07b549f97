"""Is that peer still alive, and what do we do if not?

Kernel keepalive with a deadline instead of three magic numbers (``tune``),
what the kernel will do about a vanished peer (``describe``), and whether it is
still there (``check``, ``probe``), told when it is not (``watch``). For servers
that one did not write: an end for connections that only cost (``Guard``), and
keepalive for every socket (``autotune``). For loops of one's own: which
connections have been silent for too long (``Selector``), and a small server
(``Server``).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from . import _impl
from ._captable import Capabilities, Capability, capabilities
from ._describing import Description, TcpInfo, TcpState
from ._errors import ConnectionEndedError, NotSupportedError, StillAliveError
from ._events import LivenessEvent
from ._include import get_include
from ._pacing import DetectsWithin
from ._sockets import SocketLike
from ._version import __version__
from ._watching import Watch
from .autotune import Autotune, autotune
from .guard import Guard, watch
from .liveness import Liveness, State, aprobe, check, probe
from .policy import KeepAlive
from .presets import PRESETS, Preset
from .selector import EVENT_IDLE, EVENT_READ, EVENT_WRITE, Handle, Selector
from .server import Server
from .tuning import describe, tune

if TYPE_CHECKING:
    from . import aio, integrations

IMPLEMENTATION: str = _impl.backend.NAME
"""``"c"`` or ``"pure"``."""

__all__ = [
    "EVENT_IDLE",
    "EVENT_READ",
    "EVENT_WRITE",
    "IMPLEMENTATION",
    "PRESETS",
    "Autotune",
    "Capabilities",
    "Capability",
    "ConnectionEndedError",
    "Description",
    "DetectsWithin",
    "Guard",
    "Handle",
    "KeepAlive",
    "Liveness",
    "LivenessEvent",
    "NotSupportedError",
    "Preset",
    "Selector",
    "Server",
    "SocketLike",
    "State",
    "StillAliveError",
    "TcpInfo",
    "TcpState",
    "Watch",
    "__version__",
    "aio",
    "aprobe",
    "autotune",
    "capabilities",
    "check",
    "describe",
    "get_include",
    "integrations",
    "probe",
    "tune",
    "watch",
]


def __getattr__(name: str) -> object:
    """Import a submodule when it is asked for first."""
    if name in ("aio", "integrations"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
