"""Is that peer still alive, and what do we do if not?

Kernel keepalive with a deadline instead of three magic numbers (``tune``),
what the kernel will do about a vanished peer (``describe``), and whether it is
still there (``check``, ``probe``).
"""

from __future__ import annotations

from . import _impl
from ._captable import Capabilities, Capability, capabilities
from ._describing import Description, TcpInfo, TcpState
from ._errors import NotSupportedError, StillAliveError
from ._sockets import SocketLike
from ._version import __version__
from .liveness import Liveness, State, aprobe, check, probe
from .policy import KeepAlive
from .presets import PRESETS, Preset
from .tuning import describe, tune

IMPLEMENTATION: str = _impl.backend.NAME
"""``"c"`` or ``"pure"``."""

__all__ = [
    "IMPLEMENTATION",
    "PRESETS",
    "Capabilities",
    "Capability",
    "Description",
    "KeepAlive",
    "Liveness",
    "NotSupportedError",
    "Preset",
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
    "probe",
    "tune",
]
