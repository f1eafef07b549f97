"""An abort: the owner's calls are to fail, and never to read a clean end.

Of a silent peer the kernel is told to give up, so that the error is the truth;
it may not get to that before its next timer. A reset throws away what the
owner has not read, so it comes last. Where the peer is heard its kernel would
answer whatever is asked, and nothing is unread: that one is reset at once.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

from .. import _backend as b
from .._backend import Info

if sys.platform == "linux":
    from . import _bare as bare
    from ._reserve import Reserve

assert not TYPE_CHECKING or sys.platform == "linux"

PACE_MS = 50
"""Between looks at what the kernel has still to end."""
_KERNEL_MS, _UNREAD_MS = 300, 5300
"""How long the kernel may take to end it by itself; while there are bytes to be read."""


def begin(reserve: Reserve, sock: socket.SocketType, cause: int) -> bool:
    """Abort a connection. False: that takes its time, and `finish` must follow."""
    if cause != b.FOR_SILENT and reserve.disconnect(sock):
        return True
    reserve.abort(sock)
    return False


def may_wait(info: Info, waited_ms: int) -> bool:
    """Tell whether there is nothing to be done yet."""
    return info.state != b.CLOSE and waited_ms < _KERNEL_MS


def finish(reserve: Reserve, sock: socket.SocketType, waited_ms: int) -> bool:
    """End it if the kernel has not. False: not yet."""
    info = bare.info_of(sock)
    if may_wait(info, waited_ms):
        return False
    if info.state != b.CLOSE:
        if waited_ms < _UNREAD_MS and bare.unread(sock) > 0:
            return False
        reserve.disconnect(sock)
    return True
