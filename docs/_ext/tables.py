"""Tables that are made from the package itself when the pages are built.

``{presets} L4`` lists the middleboxes of one layer, ``{options}`` and
``{calls}`` what the capability table says, ``{help} demo`` is the help text of
a command, and the marker ``<!-- results -->`` becomes what the benchmarks have
written last. The pages cannot drift from the code.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

import stillalive


def _link(source):
    if not source.startswith("https://"):
        return source
    return f"[{source.split('/')[2]}]({source})"


def _with_flags(text):
    return re.sub(r"--[a-z-]+", r"`\g<0>`", text)


def _duration(seconds):
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 3 * size or (seconds >= size and seconds % size == 0):
            whole, rest = divmod(seconds, size)
            if rest == 0:
                return f"{seconds:g} s ({whole:g} {unit})"
    return f"{seconds:g} s"


class _Table(SphinxDirective):
    """Render rows as a Markdown table."""

    head: tuple[str, ...]

    def rows(self):
        raise NotImplementedError

    def run(self):
        lines = [self.head, ("---",) * len(self.head), *self.rows()]
        text = [
            "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines
        ]
        node = nodes.container(classes=["wide"])
        self.state.nested_parse(StringList(text, source=self.env.docname), 0, node)
        return node.children if len(node.children) != 1 else [node]


class Presets(_Table):
    """The middleboxes of one layer."""

    required_arguments = 1
    head = ("name", "what", "forgets after", "note", "source")

    def rows(self):
        chosen = [p for p in stillalive.PRESETS.values() if p.layer == self.arguments[0]]
        for preset in sorted(chosen, key=lambda p: (p.timeout, p.name)):
            yield (
                f"`{preset.name}`",
                preset.title,
                _duration(preset.timeout),
                _with_flags(preset.note),
                _link(preset.source),
            )


class Options(_Table):
    """The kernel options, from the capability table."""

    head = ("option", "kernel's name", "unit", "range", "since", "evidence")

    def rows(self):
        for option in stillalive.capabilities().options.values():
            low_high = "" if option.range is None else "{} to {}".format(*option.range)
            yield (
                f"`{option.name}`",
                f"`{option.native}`",
                option.unit,
                low_high,
                option.since,
                option.evidence,
            )


class Calls(_Table):
    """The calls, from the capability table."""

    head = ("call", "built on", "since", "evidence")

    def rows(self):
        for call in stillalive.capabilities().calls.values():
            yield f"`{call.name}`", call.native, call.since, call.evidence


class Help(SphinxDirective):
    """The help text of a command, from the command itself."""

    optional_arguments = 1

    def run(self):
        plain = {"COLUMNS": "88", "NO_COLOR": "1", "PYTHON_COLORS": "0", "TERM": "dumb"}
        path = os.pathsep.join(filter(None, [_PACKAGE, os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-m", "stillalive", *self.arguments, "--help"],
            env=os.environ | plain | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        block = nodes.literal_block(done.stdout, done.stdout)
        block["language"] = "text"
        return [block]


_PACKAGE = str(Path(stillalive.__file__).parents[1])
_RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "latest.md"
_MARKER = "<!-- results -->"


def insert_results(app, docname, source):
    """Replace the marker by the benchmarks' own markdown."""
    if _MARKER not in source[0]:
        return
    text = "Nothing has been measured in this checkout: `make bench` fills this section."
    if _RESULTS.exists():
        app.env.note_dependency(str(_RESULTS))
        text = _RESULTS.read_text(encoding="utf-8")
    source[0] = source[0].replace(_MARKER, text)


def setup(app):
    app.connect("source-read", insert_results)
    app.add_directive("help", Help)
    app.add_directive("presets", Presets)
    app.add_directive("options", Options)
    app.add_directive("calls", Calls)
    return {"version": "1", "parallel_read_safe": True}
