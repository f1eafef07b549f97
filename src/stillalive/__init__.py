"""Is that peer still alive, and what do we do if not?

Kernel keepalive with a deadline instead of three magic numbers (``tune``),
what the kernel will do about a vanished peer (``describe``), and whether it is
still there (``check``, ``probe``). For loops of one's own: which connections
have been silent for too long (``Selector``), and a small server (``Server``).
"""

from __future__ import annotations

from . import _impl
from ._captable import Capabilities, Capability, capabilities
from ._describing import Description, TcpInfo, TcpState
from ._errors import ConnectionEndedError, NotSupportedError, StillAliveError
from ._include import get_include
from ._sockets import SocketLike
from ._version import __version__
from .liveness import Liveness, State, aprobe, check, probe
from .policy import KeepAlive
from .presets import PRESETS, Preset
from .selector import EVENT_IDLE, EVENT_READ, EVENT_WRITE, Handle, Selector
from .server import Server
from .tuning import describe, tune

IMPLEMENTATION: str = _impl.backend.NAME
"""``"c"`` or ``"pure"``."""

__all__ = [
    "EVENT_IDLE",
    "EVENT_READ",
    "EVENT_WRITE",
    "IMPLEMENTATION",
    "PRESETS",
    "Capabilities",
    "Capability",
    "ConnectionEndedError",
    "Description",
    "Handle",
    "KeepAlive",
    "Liveness",
    "NotSupportedError",
    "Preset",
    "Selector",
    "Server",
    "SocketLike",
    "State",
    "StillAliveError",
    "TcpInfo",
    "TcpState",
    "__version__",
    "aprobe",
    "capabilities",
    "check",
    "describe",
    "get_include",
    "probe",
    "tune",
]
