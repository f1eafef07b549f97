"""Imports and #includes point one way: from what is built on to what it builds on."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

import pytest

from . import tree

# Python, lowest layer first. A module may import its own layer and those
# below; cycles are wrong even inside a layer. A folder counts as one module.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(layer.split())
    for layer in (
        "_version _systems _evidence",
        "_errors _values _backend _borrowed _include _rules _bounds",
        "_pure _core",
        "_impl",
        "_asking _captable _elsewhere _host _pending _planning _sockets presets",
        "policy",
        "_describing",
        "liveness tuning",
        "_events _pacing _seeing",
        "_limits",
        "_watching",
        "_guarding",
        "guard heartbeat http pool selector",
        "autotune server",
        "aio integrations",
        "__init__",
        "cli __main__",
    )
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
SIBLINGS_APART = frozenset(("_pure", "_core", "tuning", "liveness"))
"""Modules of one layer that must not know each other."""

# C: what a file outside this table may include, besides its own header, is
# the header of its folder. `core` files are listed one by one.
FOLDER_HEADERS = {
    "ext/sockopt": {
        "bsd.h",
        "ends.h",
        "raw.h",
        "sockopt.h",
        "unsupported.h",
        "stillalive.h",
        "windows_errors.h",
        "windows_layout.h",
    },
    "ext/poll": {"backend.h", "os.h"},
    "ext/diag": {"diag.h", "stillalive.h"},
    "ext/include": set[str](),
}
CORE_HEADERS = {
    "policy": {"sockopt.h", "stillalive.h"},
    "liveness": {"sockopt.h", "stillalive.h"},
    "os": {"stillalive.h"},
    "os_posix": {"os.h"},
    "os_windows": {"os.h", "windows_errors.h"},
    "clock": {"os.h"},
    "table": {"clock.h"},
    "table_scan": {"table.h"},
    "monitor_posix": {"monitor.h", "os.h"},
    "monitor_windows": {"monitor.h", "os.h"},
    "reserve": {"stillalive.h"},
    "endpoint": {"reserve.h"},
    "reserve_posix": {"reserve.h", "endpoint.h"},
    "reserve_windows": {"reserve.h", "endpoint.h", "windows_errors.h"},
    "judge": {"stillalive.h"},
    "ring": {"judge.h", "reserve.h", "monitor.h", "os.h"},
    "loop": {"table.h", "clock.h", "backend.h", "registry.h", "stillalive.h"},
    "registry": {"loop.h"},
    "autotune": {"sockopt.h", "reserve.h", "stillalive.h"},
    "sample": {"judge.h"},
    "pace": {"ward.h"},
    "watcher": {"judge.h", "ring.h", "ward.h", "stillalive.h"},
    "ward": {"watcher.h", "table.h", "reserve.h", "sample.h", "monitor.h", "clock.h", "os.h"},
    "deed": {"ward.h", "sockopt.h"},
    "ending": {"ward.h"},
    "discover": {"ward.h", "diag.h"},
    "stream": {"loop.h", "conn.h", "stillalive.h"},
    "conn": {"stream.h"},
    "accept": {"conn.h", "sockopt.h"},
}
PORTABLE = """
    assert.h errno.h inttypes.h limits.h stdatomic.h stdbool.h stddef.h stdint.h stdlib.h string.h
""".split()
INTRINSICS = {"ext/core/atomics.h": ["intrin.h"]}
"""The compiler's own headers, which a portable file asks for under a guard."""
SYSTEM_HEADERS = """
    assert.h ctype.h epoll.h errno.h event.h fcntl.h in.h limits.h math.h netdb.h poll.h pthread.h
    sched.h select.h semaphore.h signal.h socket.h stdatomic.h stdint.h stdlib.h string.h tcp.h
    termios.h thread.h threads.h time.h types.h uio.h unistd.h wait.h windows.h winsock.h
""".split()
_OS_WORDS = re.compile(r"linux|darwin|bsd|windows|posix|epoll|kqueue")
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)


def module_of(name: str) -> str:
    """Return the module or sub-package directly below stillalive that a file belongs to."""
    return PurePosixPath(name).relative_to("src/stillalive").parts[0].removesuffix(".py")


def imported(name: str, source: str, known: frozenset[str]) -> Iterator[str]:
    """Yield the modules of this package that a file imports, at any depth of nesting."""
    package = ["stillalive", *PurePosixPath(name).relative_to("src/stillalive").parts[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            paths = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for path in paths:
            if path[0] == "stillalive":
                yield path[1] if len(path) > 1 and path[1] in known else "__init__"


def wrong_imports(sources: Mapping[str, str]) -> list[str]:
    """Say which imports go up a layer, go in a circle, or come from an unknown module."""
    known = frozenset(RANK) | {module_of(name) for name in sources}
    arrows: dict[str, set[str]] = {}
    wrong = []
    for name, source in sources.items():
        module = module_of(name)
        if module not in RANK:
            wrong.append(f"{name}: {module} has no layer yet, give it one in LAYERS")
            continue
        for target in set(imported(name, source, known)) - {module}:
            if target not in RANK:
                continue  # reported for its own file
            arrows.setdefault(module, set()).add(target)
            apart = {module, target} <= SIBLINGS_APART
            if RANK[target] > RANK[module] or (apart and RANK[target] == RANK[module]):
                wrong.append(f"{name} imports {target}")
    return wrong + [f"imports go in a circle: {' -> '.join(ring)}" for ring in circles(arrows)]


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Return one path for each module from which a walk along the arrows comes back."""

    def walk(path: list[str]) -> list[str] | None:
        for target in sorted(arrows.get(path[-1], ())):
            if target == path[0]:
                return [*path, target]
            if target not in path and (found := walk([*path, target])):
                return found
        return None

    return [found for start in sorted(arrows) if (found := walk([start]))]


def wrong_includes(sources: Mapping[str, str]) -> list[str]:
    """Say which #includes cross a border, or tie a portable file to one system."""
    wrong = []
    for name, source in sources.items():
        path = PurePosixPath(name)
        if path.name in SYSTEM_HEADERS:
            wrong.append(f"{name} bears a system header's name")
        allowed = {path.stem + ".h", "atomics.h"} | (
            CORE_HEADERS.get(path.stem, set())
            if path.parts[1] == "core"
            else FOLDER_HEADERS.get(str(path.parent), set())
        )
        portable = _OS_WORDS.search(path.stem) is None
        own = INTRINSICS.get(name, ())
        for bracket, header in _INCLUDE.findall(tree.without_comments(source)):
            if header == "Python.h":
                wrong.append(f"{name} includes Python.h")
            elif bracket == '"' and header not in allowed:
                wrong.append(f'{name} includes "{header}"')
            elif bracket == "<" and portable and header not in {*PORTABLE, *own}:
                wrong.append(f"{name} has no system in its name and includes <{header}>")
    return wrong


def test_python_imports_point_downwards():
    sources = {name: tree.read(name) for name in tree.under("src/stillalive", ".py")}
    assert len(sources) > 10
    assert wrong_imports(sources) == []


def test_includes_stay_inside_their_layer():
    names = tree.under("ext", ".c", ".h")
    sources = {name: tree.read(name) for name in names if "/binding/" not in name}
    assert len(sources) > 5
    assert wrong_includes(sources) == []


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("src/stillalive/_pure/_linux.py", "def f():\n    from .. import _core", "imports _core"),
        ("src/stillalive/_values.py", "from .policy import KeepAlive", "imports policy"),
        ("src/stillalive/policy.py", "import stillalive.tuning", "imports tuning"),
        ("src/stillalive/liveness.py", "from . import tuning", "imports tuning"),
        ("src/stillalive/_host.py", "from . import NotSupportedError", "imports __init__"),
        ("src/stillalive/tuning.py", "if TYPE_CHECKING:\n    from .cli import main", "imports cli"),
        ("src/stillalive/novelty.py", "", "has no layer yet"),
    ],
)
def test_a_wrong_import_is_found(name, source, complaint):
    assert [found for found in wrong_imports({name: source}) if complaint in found]


def test_a_circle_inside_a_layer_is_found():
    sources = {
        "src/stillalive/_host.py": "from ._planning import Host",
        "src/stillalive/_planning.py": "from . import _host",
    }
    assert wrong_imports(sources)[0] == "imports go in a circle: _host -> _planning -> _host"


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("ext/core/policy.c", "#include <Python.h>", "Python.h"),
        ("ext/core/policy.c", "#include <poll.h>", "<poll.h>"),
        ("ext/core/table.c", '#include "watcher.h"', '"watcher.h"'),
        ("ext/sockopt/linux.c", '#  include "table.h"', '"table.h"'),
        ("ext/core/novelty.c", '#include "sockopt.h"', '"sockopt.h"'),
        ("ext/poll/poll.h", "", "system header"),
    ],
)
def test_a_wrong_include_is_found(name, source, complaint):
    assert [found for found in wrong_includes({name: source}) if complaint in found]


def test_a_right_arrow_is_not_a_complaint():
    assert wrong_imports({"src/stillalive/policy.py": "from . import _backend as b"}) == []
    assert wrong_includes({"ext/sockopt/linux.c": '#include "sockopt.h"\n#include <poll.h>'}) == []
