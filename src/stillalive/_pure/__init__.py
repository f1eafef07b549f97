"""The pure-Python backend: the same functions as the compiled one.

It needs nothing but the standard library, serves where no wheel fits, and is
the model and the opponent of the compiled backend in tests and benchmarks.
"""

from __future__ import annotations

import sys

from ._autotune import Rule, audit_install
from ._engine import Engine, mechanisms
from ._server import ServerEngine
from ._system import system
from ._verdict import Question, Witness, check

if sys.platform == "linux":
    from ._ending import FirstLook
    from ._watcher import Watcher
else:
    from ._no_watcher import FirstLook, Watcher

Policy = system.Policy
apply_options = system.apply_options
identify = system.identify
kind = system.kind
option_name = system.option_name
option_range = system.option_range
read_options = system.read_options
supported = system.supported
tcp_info = system.tcp_info

NAME = "pure"

__all__ = [
    "NAME",
    "Engine",
    "FirstLook",
    "Policy",
    "Question",
    "Rule",
    "ServerEngine",
    "Watcher",
    "Witness",
    "apply_options",
    "audit_install",
    "check",
    "identify",
    "kind",
    "mechanisms",
    "option_name",
    "option_range",
    "read_options",
    "supported",
    "tcp_info",
]
