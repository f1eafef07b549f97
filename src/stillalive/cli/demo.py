"""``stillalive demo``: the main job of this package, on real sockets."""

from __future__ import annotations

import argparse
import json
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from .._errors import os_name
from ._arguments import command, number_between, whole_between
from ._examine import Examiner, Guarded, Plain
from ._groups import can_vanish
from ._judge import judge
from ._limits import LEAST_CONNECTIONS, MOST_CONNECTIONS, CommandError, room_for
from ._report import SCHEMA, as_json, summarize
from ._show import output
from ._stage import PROBE_TIMEOUT, Demo

if TYPE_CHECKING:
    from ._arguments import Commands

__all__ = ["add_to"]

_CONNECTIONS = 300
_SECONDS = (5, 60)
_DEFAULT_SECONDS = 8

_TEXT = """\
Start an unmodified http.server.ThreadingHTTPServer, tune its listener with
tune(listener, detect_within=S), and open real connections to it on loopback.
Some clients wait for an answer or idle after one, the others close, reset or
vanish. Which is which is found out from the server's accepted sockets, with
describe, check and aprobe, while the server's handlers work and do not read.

A client "vanishes" by dropping every packet of the server before TCP sees it
(IP_MINTTL), as with a pulled cable. No privileges are needed, and nothing
leaves this machine.

Meanwhile a second one, untouched too, is guarded with
Guard(never_spoke=2, unanswered=3, answered=4, min_rate=100). Clients that say
nothing, send half a request, a byte now and then, or idle after an answer must
be ended by that; clients that ask again and again, wait for a slow answer,
listen to events, upload slowly or do not read for long must not be touched.

Then a server of this package, with an idle timeout of 1.5 s, serves clients
that talk, read slowly, or fall silent: the silent ones must be ended in time,
none early, and the others left alone.

The exit status is 0 only if every verdict was right, every accepted socket
inherited the deadline, no socket option differs after the probes, every
vanished client's connection was ended within S, every healthy client got the
right answers afterwards, the server still answers, and guard and idle timeout
ended whom they should, in time, and nobody else. With --no-guard the
package is left out: poll and recv(MSG_PEEK) look instead, as plain code does,
and the same rules judge it."""

_EPILOG = f"""\
examples:
  stillalive demo
  stillalive demo --no-guard
  stillalive demo --connections 50 --seconds 5 --json

{SCHEMA}"""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = command(
        commands,
        "demo",
        "the main job on real sockets: who is still there, and who is not",
        _TEXT,
        _EPILOG,
    )
    parser.add_argument(
        "--no-guard", action="store_true", help="leave the package out: this must fail"
    )
    parser.add_argument(
        "--connections",
        metavar="N",
        type=whole_between(LEAST_CONNECTIONS, MOST_CONNECTIONS),
        help=f"how many, {LEAST_CONNECTIONS} to {MOST_CONNECTIONS} (default {_CONNECTIONS}, or "
        "as many as RLIMIT_NOFILE allows)",
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=number_between(*_SECONDS, "seconds"),
        default=_DEFAULT_SECONDS,
        help="limit in which a vanished client must be noticed, "
        f"{_SECONDS[0]} to {_SECONDS[1]} (default {_DEFAULT_SECONDS})",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo, show it, and return the exit status."""
    show = output(json=arguments.json, plain=arguments.plain, color=not arguments.no_color)
    if not can_vanish():
        raise CommandError(f"{os_name()}: the demo needs Linux so far")
    total = room_for(arguments.connections, _CONNECTIONS)
    examiner: Examiner = Plain() if arguments.no_guard else Guarded(PROBE_TIMEOUT)
    began = time.monotonic()
    with ExitStack() as stack:
        demo = Demo(examiner, arguments.seconds, show, stack)
        with show.live(demo.progress):
            for phase in demo.phases(total):
                phase()
    report = judge(demo.run)
    elapsed = time.monotonic() - began
    if arguments.json:
        print(json.dumps(as_json(demo.run, report, elapsed), indent=2))
    else:
        summarize(show, demo.run, report, elapsed)
    return 0 if report.ok else 1
