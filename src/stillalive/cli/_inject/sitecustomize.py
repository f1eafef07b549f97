"""Guard and tune the process that this is imported into.

Python imports a module of this name before it runs a program. ``stillalive
run`` puts this folder first on PYTHONPATH and the settings into STILLALIVE_RUN,
and every Python process below it inherits both.

The program must not notice: the folder leaves sys.path, a sitecustomize of
the program's own is imported in place of this one, and whatever goes wrong here
is said on stderr while the program goes on. It may run in another
environment, even in a Python too old for this package: only syntax and modules
that all of them have.
"""

from __future__ import annotations

import os
import sys

_SETTINGS = "STILLALIVE_RUN"
_TOLD = "STILLALIVE_RUN_TOLD"
"""Set in the environment, which children inherit: the same is said once."""


def _say(text: str) -> None:
    try:
        sys.stderr.write(f"stillalive run: pid {os.getpid()}: {text}\n")
        sys.stderr.flush()
    except Exception:  # there is none, or it is closed
        pass


def _say_once(text: str) -> None:
    if _TOLD not in os.environ:
        os.environ[_TOLD] = "1"
        _say(text)


def _start(text: str) -> None:
    import json

    from stillalive.autotune import autotune
    from stillalive.guard import Guard
    from stillalive.policy import KeepAlive

    settings = json.loads(text)
    log = settings["log"]
    started = []
    if settings["keepalive"] is not None:
        policy = KeepAlive(**settings["keepalive"])
        autotune(policy, outgoing=settings["outgoing"])
        started.append(f"tunes with {policy!r}")
    limits = {name: value for name, value in settings["guard"].items() if value is not None}
    Guard(on_event=_tell if log else None, **limits).start()
    if log:
        started.append("guards with " + ", ".join(f"{n}={v!r}" for n, v in limits.items()))
        _say("; ".join(started))


def _tell(event: object) -> None:
    _say(str(event))


def _leave_path() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]


def _import_shadowed() -> None:
    this = sys.modules.pop(__name__)
    try:
        __import__(__name__)
    except ImportError as missing:
        if missing.name != __name__:
            raise
        sys.modules[__name__] = this


def _main() -> None:
    _leave_path()
    text = os.environ.get(_SETTINGS)
    if text:
        try:
            import stillalive  # noqa: F401
        except ImportError as missing:
            _say_once(f"not guarded: {sys.executable} cannot import stillalive ({missing})")
        except Exception as error:
            _say_once(f"not guarded: {sys.executable} cannot use stillalive ({error})")
        else:
            try:
                _start(text)
            except Exception as error:
                _say_once(f"not guarded: {type(error).__name__}: {error}")
    _import_shadowed()


if __name__ == "sitecustomize":  # and not for who reads the package
    _main()
