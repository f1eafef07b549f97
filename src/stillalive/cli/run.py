"""``stillalive run``: any Python server command, guarded and autotuned."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .._version import __version__
from ..policy import KeepAlive
from ._arguments import command, number_between, whole_between
from ._limits import UsageError

if TYPE_CHECKING:
    from ._arguments import Commands

__all__ = ["add_to"]

_FOLDER = str(Path(__file__).with_name("_inject"))
_SETTINGS = "STILLALIVE_RUN"
_TOLD = "STILLALIVE_RUN_TOLD"

_LIMITS = (
    "never_spoke",
    "unanswered",
    "answered",
    "min_rate",
    "stalled",
    "detect_within",
    "evict_above",
)
_DEFAULTS = {"never_spoke": 60.0, "detect_within": 60.0}
"""Without a limit given: what no handler and no stream, however slow, comes into."""
_KEEPALIVE_WITHIN = 60.0
_LONGEST = 86400.0

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
"""Exit statuses of shells."""

_TEXT = """\
Run a Python server, any command that starts one, with no change to its code:
connections that hold it up are ended, as by stillalive.Guard, and its
listening sockets are tuned, as by stillalive.autotune. This holds for every
Python process that the command starts, too: workers, reloaders, spawned
children. The command replaces this one, so that signals, arguments, exit
status and process tree are its own.

Without a limit, --never-spoke 60 and --detect-within 60 hold: connections
without a single byte, and peers that have vanished. Neither meets a slow
handler, a slow client or a quiet stream. Begin other limits with --dry-run
--log; the manual of Guard says what innocent traffic looks like in each."""

_EPILOG = f"""\
Python learns of it by PYTHONPATH and sitecustomize. So python -I and -E, which
ignore PYTHONPATH, and -S, which imports no site, run unguarded, as do
programs whose environment is cleared. A Python that cannot import stillalive
says so on stderr, once, and runs unguarded.

examples:
  stillalive run -- python -m http.server
  stillalive run --unanswered 60 --answered 75 --log -- gunicorn -w 4 app:app
  stillalive run --unanswered 300 --dry-run --log -- uvicorn app:app
  stillalive run --json --evict-above 5000 -- python server.py

JSON document (schema 1; keys are only added), instead of running:
  schema command version ok
  program     list: the command and its arguments
  environment what is added: {_SETTINGS}, PYTHONPATH
  settings    guard: what Guard is given; keepalive: what KeepAlive is given,
              or null; outgoing; log

exit status: the command's; {_NOT_FOUND} if it is not found, {_NOT_EXECUTABLE} if it cannot be
executed; 2 wrong arguments"""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = command(commands, "run", "a Python server, guarded and autotuned", _TEXT, _EPILOG)
    parser.usage = "%(prog)s [options] -- CMD [ARG ...]"
    _add_limits(parser)
    _add_rest(parser)
    parser.add_argument(
        "program", nargs=argparse.REMAINDER, metavar="CMD", help="what to run, and its arguments"
    )
    parser.set_defaults(run=run)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits, after which a connection is ended")
    seconds = number_between(1, _LONGEST, "seconds")

    def add(name: str, meaning: str, kind: object = seconds, metavar: str = "S") -> None:
        group.add_argument(name, type=kind, metavar=metavar, help=meaning)  # type: ignore[arg-type]

    add("--never-spoke", "not a byte either way for S seconds")
    add("--unanswered", "the client spoke last, S seconds ago (slow handlers look like this)")
    add(
        "--answered",
        "the server spoke last, S seconds ago (quiet streams look like this; with TLS or a fast "
        "network slow handlers, too: not below --unanswered)",
    )
    add(
        "--min-rate",
        "while unanswered, the client sends fewer bytes per second",
        whole_between(1, 2**30),
        "N",
    )
    add("--stalled", "bytes wait for a client that has read nothing for S seconds")
    add(
        "--detect-within",
        "the client has vanished, S seconds ago (4 or more)",
        number_between(4, _LONGEST, "seconds"),
    )
    add(
        "--evict-above",
        "beyond N connections, the longest answered ones",
        whole_between(1, 2**30),
        "N",
    )
    add(
        "--evict-idle",
        "only those idle for S seconds (default: 1)",
        number_between(0.1, _LONGEST, "seconds"),
    )


def _add_rest(parser: argparse.ArgumentParser) -> None:
    guard = parser.add_argument_group("whom the limits hold for")
    guard.add_argument(
        "--listeners",
        action="append",
        type=whole_between(1, 65535),
        metavar="PORT",
        help="only connections to this port (repeatable; default: to all listeners)",
    )
    guard.add_argument(
        "--exempt",
        action="append",
        type=_network,
        default=[],
        metavar="NET",
        help="never connections from this address or network (repeatable)",
    )
    guard.add_argument("--dry-run", action="store_true", help="end nobody, with --log tell only")
    guard.add_argument(
        "--max-closes-per-second",
        type=whole_between(1, 2**30),
        metavar="N",
        help="end at most so many (default: 100)",
    )
    guard.add_argument("--log", action="store_true", help="a line on stderr for each one ended")
    tuning = parser.add_argument_group("keepalive of the sockets that the server makes")
    tuning.add_argument(
        "--keepalive-within",
        type=number_between(5, _LONGEST, "seconds"),
        metavar="S",
        help=f"the kernel ends idle connections to vanished peers (default: {_KEEPALIVE_WITHIN:g})",
    )
    tuning.add_argument(
        "--outgoing", action="store_true", help="also connections that the server opens"
    )
    tuning.add_argument("--no-autotune", action="store_true", help="leave keepalive alone")


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        message = f"{text!r}: must be an IP address or a network such as 10.0.0.0/8"
        raise argparse.ArgumentTypeError(message) from None
    return text


def run(arguments: argparse.Namespace) -> int:
    """Become the command; return only if that fails, or to say what would be run."""
    program = arguments.program
    if program[:1] == ["--"]:
        program = program[1:]
    if not program:
        raise UsageError("CMD is missing: what is to be run goes behind --")
    settings = _settings(arguments)
    added = {
        _SETTINGS: json.dumps(settings, separators=(",", ":")),
        "PYTHONPATH": _python_path(os.environ.get("PYTHONPATH", "")),
    }
    if arguments.json:
        document = {
            "schema": 1,
            "command": "run",
            "version": __version__,
            "ok": True,
            "program": program,
            "environment": added,
            "settings": settings,
        }
        print(json.dumps(document, indent=2))
        return 0
    try:
        _become(program, {**os.environ, **added})
    except OSError as error:
        return _failed(program[0], error)


def _settings(arguments: argparse.Namespace) -> dict[str, object]:
    from ..guard import Guard

    limits = {name: getattr(arguments, name) for name in _LIMITS}
    if all(value is None for value in limits.values()):
        limits |= _DEFAULTS
    guard = limits | {
        "evict_idle": arguments.evict_idle,
        "exempt": arguments.exempt,
        "listeners": sorted(set(arguments.listeners)) if arguments.listeners else "all",
        "dry_run": arguments.dry_run,
        "max_closes_per_second": arguments.max_closes_per_second,
    }
    guard = {name: value for name, value in guard.items() if value is not None}
    try:
        Guard(**guard)  # finds now what each process would find later
    except ValueError as error:
        raise UsageError(str(error)) from None
    keepalive = _keepalive(arguments)
    return {
        "schema": 1,
        "guard": guard,
        "keepalive": keepalive,
        "outgoing": arguments.outgoing,
        "log": arguments.log,
    }


def _keepalive(arguments: argparse.Namespace) -> dict[str, object] | None:
    if arguments.no_autotune:
        for name in ("keepalive_within", "outgoing"):
            if getattr(arguments, name):
                option = "--" + name.replace("_", "-")
                raise UsageError(f"argument {option}: not with --no-autotune")
        return None
    within = arguments.keepalive_within or _KEEPALIVE_WITHIN
    plan = KeepAlive.plan(detect_within=within)
    # Without its user timeout, which ends a client that lives and does not read.
    return {"idle": plan.idle, "interval": plan.interval, "count": plan.count}


def _python_path(before: str) -> str:
    """Put the folder first, once, however often this is nested."""
    entries = [entry for entry in before.split(os.pathsep) if before and entry != _FOLDER]
    return os.pathsep.join([_FOLDER, *entries])


def _become(program: list[str], environment: dict[str, str]) -> NoReturn:
    environment.pop(_TOLD, None)
    # This interpreter ignores them, and what is ignored stays so in the command.
    for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ"):
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe(program[0], program, environment)


def _failed(name: str, error: OSError) -> int:
    if isinstance(error, FileNotFoundError):
        why = "no such file, or its interpreter is missing" if os.sep in name else "not found"
        status = _NOT_FOUND
    else:
        why = error.strerror or str(error)
        if error.errno == errno.ENOEXEC:
            why += " (a script needs a first line such as #!/bin/sh)"
        status = _NOT_EXECUTABLE
    print(f"stillalive run: {shlex.quote(name)}: {why}", file=sys.stderr)
    return status
