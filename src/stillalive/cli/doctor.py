"""``stillalive doctor``: what this host can do, and what its defaults mean."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import textwrap
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .. import _systems
from .._captable import Capabilities, Capability, capabilities
from .._host import SystemDefaults, system_defaults
from .._version import __version__
from ..presets import PRESETS
from ._arguments import command
from ._limits import descriptor_limit, somaxconn
from ._meaning import Meaning, forgetful, meanings
from ._selfcheck import Step, self_check
from ._show import Show, Table, Tone, has_rich, output
from ._words import counted, duration, seconds

if TYPE_CHECKING:
    from ._arguments import Commands

__all__ = ["add_to"]

_OPTIONS = ("enabled", "idle", "interval", "count")
_ASKING = ("probe", "aprobe")
_MARKS: dict[bool, tuple[str, Tone]] = {True: ("ok", "good"), False: ("FAIL", "bad")}
_WIDTH = 78
_GLUE = "\N{NO-BREAK SPACE}"

_TEXT = """\
Say what this host can do: the keepalive options and calls of its kernel, its
system-wide defaults and what they mean when a peer vanishes, and its limits.
Then try it on loopback connections and measure how fast an answer comes.

The exit status is 0 if the essentials work: TCP keepalive with its times, and
telling whether a peer is there, by asking it where the system has a way to
(Linux, FreeBSD). Otherwise it is 1, and each problem is named. OpenBSD has no
times per socket: 1."""

_EPILOG = """\
examples:
  stillalive doctor
  stillalive doctor --json

JSON document (schema 1; keys are only added):
  schema command version implementation system python
  ok          true exactly if the exit status is 0
  options     list: name supported native unit range since evidence
  calls       the same list for calls
  defaults    idle interval count rto_max retries2 syn_retries (null: unknown)
  meanings    list: about text seconds (null: never)
  presets     list: name title layer timeout forgets_first refreshable
  limits      nofile_soft nofile_hard somaxconn
  extras      cli: version of rich, or null
  self_check  list: name ok detail seconds; empty if an essential is missing
  problems    list of texts
  Times are seconds."""


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was found out."""

    can: Capabilities
    defaults: SystemDefaults
    meanings: list[Meaning]
    steps: list[Step]

    @property
    def problems(self) -> list[str]:
        """Name what is essential and does not work."""
        missing = [f"{name}: not supported by {self.can.system}" for name in _missing(self.can)]
        return missing + [f"{step.name}: {step.detail}" for step in self.steps if not step.ok]


def _missing(can: Capabilities) -> list[str]:
    """Name what is essential and missing; no system is blamed that has no way to ask a peer."""
    missing = [name for name in (*_OPTIONS, "check") if not can[name].supported]
    asking = [name for name in _ASKING if _systems.system().call(name).supported]
    return missing + [name for name in asking if not can[name].supported]


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = command(
        commands, "doctor", "what this host can do, and what its defaults mean", _TEXT, _EPILOG
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Find out, show it, and return the exit status."""
    show = output(json=arguments.json, plain=arguments.plain, color=not arguments.no_color)
    defaults = system_defaults()
    began = time.monotonic()
    can = capabilities()
    steps = [] if _missing(can) else self_check()
    findings = Findings(can, defaults, meanings(defaults), steps)
    if arguments.json:
        print(json.dumps(_as_json(findings), indent=2))
    else:
        _show_all(show, findings)
        show.line()
        _show_verdict(show, findings, time.monotonic() - began)
    return 1 if findings.problems else 0


def _as_json(findings: Findings) -> dict[str, object]:
    idle = findings.defaults.idle
    soft, hard = descriptor_limit() or (None, None)
    return {
        "schema": 1,
        "command": "doctor",
        "version": __version__,
        "implementation": findings.can.implementation,
        "system": findings.can.system,
        "python": platform.python_version(),
        "ok": not findings.problems,
        "options": [asdict(option) for option in findings.can.options.values()],
        "calls": [asdict(call) for call in findings.can.calls.values()],
        "defaults": asdict(findings.defaults),
        "meanings": [asdict(meaning) for meaning in findings.meanings],
        "presets": [
            {
                "name": preset.name,
                "title": preset.title,
                "layer": preset.layer,
                "timeout": preset.timeout,
                "forgets_first": None if idle is None else preset.timeout < idle,
                "refreshable": preset.layer != "L7",
            }
            for preset in PRESETS.values()
        ],
        "limits": {"nofile_soft": soft, "nofile_hard": hard, "somaxconn": somaxconn()},
        "extras": {"cli": _rich_version()},
        "self_check": [asdict(step) for step in findings.steps],
        "problems": findings.problems,
    }


def _rich_version() -> str | None:
    return importlib.metadata.version("rich") if has_rich() else None


def _show_all(show: Show, findings: Findings) -> None:
    can = findings.can
    show.line(f"stillalive {__version__} on {can.system}, Python {platform.python_version()}")
    speed = "compiled" if can.implementation == "c" else "pure Python: the same, but slower"
    show.line(f"implementation {can.implementation} ({speed})")
    rich = _rich_version()
    wanted = "not installed: pip install 'stillalive[cli]' for colours and live tables"
    show.line(f"extra cli: {f'rich {rich}' if rich else wanted}")
    _show_capabilities(show, "What a socket can be told", can.options.values())
    _show_capabilities(show, "What can be asked", can.calls.values())
    if findings.meanings:
        _heading(show, "The system's defaults: what happens when a peer vanishes")
        table = Table(("the peer vanishes", "what happens"))
        for meaning in findings.meanings:
            table.add(meaning.about, meaning.text)
        show.table(table)
    _show_presets(show, findings.defaults.idle)
    _show_limits(show)
    if findings.steps:
        _show_steps(show, findings.steps)


def _show_limits(show: Show) -> None:
    _heading(show, "Limits")
    descriptors, backlog = descriptor_limit(), somaxconn()
    if descriptors is not None:
        show.line("open descriptors of this process: {}, hard limit {}".format(*descriptors))
    else:
        show.line("open descriptors of this process: unlimited or unknown")
    if backlog is not None:
        show.line(f"longest accept queue, whatever listen() asks for: {backlog}")


def _show_steps(show: Show, steps: list[Step]) -> None:
    _heading(show, "Tried just now, on loopback")
    table = Table(("", "what", "result"))
    for step in steps:
        mark, tone = _MARKS[step.ok]
        table.add(mark, step.name, step.detail, tone=tone)
    show.table(table)


def _show_capabilities(show: Show, title: str, rows: Iterable[Capability]) -> None:
    _heading(show, title)
    table = Table(("name", "here", "kernel's name", "range", "since"))
    for row in rows:
        span = "" if row.range is None else f"{row.range[0]} to {row.range[1]} {row.unit}"
        table.add(
            row.name,
            "yes" if row.supported else "NO",
            row.native,
            span.strip(),
            row.since,
            tone="" if row.supported else "bad",
        )
    show.table(table)


def _show_presets(show: Show, idle: int | None) -> None:
    if idle is None:
        return
    _heading(show, f"What forgets an idle flow before keepalive's default of {duration(idle)}")
    for layer, text in (("L4", "a shorter idle time keeps it"), ("L7", "only payload keeps it")):
        found = forgetful(idle, layer)
        known = sum(preset.layer == layer for preset in PRESETS.values())
        names = (f"{preset.name} {seconds(preset.timeout)}" for preset in found)
        glued = ", ".join(name.replace(" ", _GLUE) for name in names)
        whole = f"{layer} ({text}), {counted(len(found), known)}: {glued}"
        for line in textwrap.wrap(whole, _WIDTH, subsequent_indent="  ", break_on_hyphens=False):
            show.line(line.replace(_GLUE, " "))


def _show_verdict(show: Show, findings: Findings, elapsed: float) -> None:
    for problem in findings.problems:
        show.line(f"PROBLEM  {problem}", "bad")
    if findings.problems:
        show.line(f"FAILED: {len(findings.problems)} problems, in {seconds(elapsed)}", "bad")
    else:
        show.line(f"ok: everything works here, found out in {seconds(elapsed)}", "good")


def _heading(show: Show, text: str) -> None:
    show.line()
    show.line(text, "head")
