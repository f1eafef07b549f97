"""Choose the file that talks to this operating system."""

from __future__ import annotations

import sys

__all__ = ["system"]

if sys.platform == "linux":
    from . import _linux as system
elif sys.platform == "win32":
    from . import _windows as system
elif (
    sys.platform == "darwin"
    or sys.platform.startswith("freebsd")
    or sys.platform.startswith("netbsd")
    or sys.platform.startswith("openbsd")
):
    from . import _unix as system
else:
    from . import _none as system
