"""The command line: ``stillalive`` and ``python -m stillalive``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from .. import _impl
from .._version import __version__
from . import demo, doctor, run
from ._limits import CommandError, UsageError

__all__ = ["main"]

_EPILOG = """\
examples:
  stillalive doctor        what this host can do, and what its defaults mean
  stillalive demo          see it at work on real connections
  stillalive demo --help   what exactly it does
  stillalive run -- python -m http.server   a server, guarded and autotuned

exit status: 0 yes; 1 no, or not possible here; 2 wrong arguments;
130 stopped with Ctrl-C"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; wrong arguments are a SystemExit(2)."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    command: argparse.ArgumentParser = arguments.parser
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except UsageError as error:
        command.error(str(error))
    except (CommandError, OSError) as error:
        return _failed(arguments, error)
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped", file=sys.stderr)
        return 130
    return status


def _failed(arguments: argparse.Namespace, error: Exception) -> int:
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has gone: do not stumble over it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if arguments.json:
        document = {
            "schema": 1,
            "command": arguments.command,
            "version": __version__,
            "ok": False,
            "error": str(error),
        }
        print(json.dumps(document))
    print(f"{arguments.parser.prog}: {error}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stillalive",
        description="Is that TCP peer still alive, and what do we do if not?",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"%(prog)s {__version__} ({_impl.backend.NAME})"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo.add_to(commands)
    doctor.add_to(commands)
    run.add_to(commands)
    return parser
