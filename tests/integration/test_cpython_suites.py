"""CPython's own tests of selectors and of asyncio, run on Selector."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import stillalive


def has_test_suite() -> bool:
    try:
        return importlib.util.find_spec("test.test_selectors") is not None
    except ModuleNotFoundError:
        return False


pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far"),
    pytest.mark.skipif(
        not has_test_suite(),
        reason="this Python has no test suite (Debian has it in libpython3-testsuite)",
    ),
]

RUNNER = str(Path(__file__).with_name("cpython_suites.py"))


class Suite(NamedTuple):
    module: str
    least: int
    """So many must pass; fewer would mean that the suite was not found."""
    classes: tuple[str, ...] = ()


LOOP = ("EPollEventLoopTests",)
SUITES = [
    Suite("test_selectors", 19),
    Suite("test_asyncio.test_events", 70, LOOP),
    Suite("test_asyncio.test_sock_lowlevel", 12, LOOP),
    Suite("test_asyncio.test_sendfile", 18, LOOP),
    Suite("test_asyncio.test_buffered_proto", 1, ("BufferedProtocolSelectorTests",)),
    Suite("test_asyncio.test_server", 2, ("SelectorStartServerTests", "TestServer2")),
    Suite("test_asyncio.test_streams", 60, ("StreamTests",)),
    Suite("test_asyncio.test_sslproto", 10, ("SelectorStartTLSTests",)),
    Suite("test_asyncio.test_subprocess", 25, ("SubprocessThreadedWatcherTests",)),
    Suite(
        "test_asyncio.test_unix_events",
        25,
        ("SelectorEventLoopUnixSocketTests", "SelectorEventLoopUnixSockSendfileTests"),
    ),
]

LEFT_OUT = {
    "test_modify_unregister": (
        "it wants a failed modify to unregister, inside EpollSelector; here it changes nothing"
    ),
}


def run(impl: str, suite: Suite) -> dict[str, Any]:
    sources = str(Path(stillalive.__file__).parents[1])
    path = os.pathsep.join([sources, os.environ.get("PYTHONPATH", "")])
    wanted = {"module": suite.module, "classes": suite.classes, "left_out": list(LEFT_OUT)}
    done = subprocess.run(
        [sys.executable, RUNNER, json.dumps(wanted)],
        env={**os.environ, "STILLALIVE_IMPL": impl, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("suite", SUITES, ids=[suite.module for suite in SUITES])
def test_cpython_passes_on_selector(impl, suite):
    found = run(impl.NAME, suite)
    print({name: count for name, count in found.items() if name != "failed"})
    assert found["failed"] == [], "\n".join(text for _, text in found["failed"])
    assert found["unexpected"] == []
    assert found["passed"] >= suite.least
    assert found["made"] > 0
    assert found["asked"] >= found["made"]
