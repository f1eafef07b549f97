"""Run ``stillalive doctor`` and the command itself as people do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import stillalive
from stillalive.presets import PRESETS

SOURCES = str(Path(stillalive.__file__).parents[1])
HERE = {"PYTHONPATH": os.pathsep.join([SOURCES, os.environ.get("PYTHONPATH", "")])}
RUN = "import sys; from stillalive.cli import main; sys.exit(main(sys.argv[1:]))"
linux = pytest.mark.skipif(sys.platform != "linux", reason="so far")


def command(
    *arguments: str, code: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    how = ["-m", "stillalive"] if code is None else ["-c", code + "\n" + RUN]
    return subprocess.run(
        [sys.executable, *how, *arguments],
        env={**os.environ, **HERE, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def document(finished: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


@linux
@pytest.mark.parametrize("implementation", [None, "pure"])
def test_json(implementation: str | None) -> None:
    environment = {} if implementation is None else {"STILLALIVE_IMPL": implementation}
    finished = command("doctor", "--json", **environment)
    found = document(finished)
    assert finished.returncode == 0, found["problems"]
    assert finished.stderr == ""
    assert found["schema"] == 1
    assert found["ok"] is True
    assert found["problems"] == []
    assert found["implementation"] == (implementation or stillalive.IMPLEMENTATION)
    names = {option["name"] for option in found["options"] if option["supported"]}
    assert names >= {"enabled", "idle", "interval", "count"}
    assert {"check", "probe", "aprobe"} <= {call["name"] for call in found["calls"]}
    assert len(found["presets"]) == len(PRESETS)
    assert found["limits"]["nofile_soft"] > 0


@linux
def test_defaults_are_explained_in_numbers() -> None:
    found = document(command("doctor", "--json"))
    defaults = found["defaults"]
    meant = {meaning["about"]: meaning for meaning in found["meanings"]}
    bare = meant["while idle, keepalive on"]
    assert bare["seconds"] == defaults["idle"] + defaults["interval"] * defaults["count"]
    assert meant["while idle"]["seconds"] is None
    if (defaults["retries2"], defaults["rto_max"] or 120) == (15, 120):
        assert meant["with data in flight"]["seconds"] == pytest.approx(924.6)
    if bare["seconds"] == 7875:
        assert "2 h 11 min 15 s" in bare["text"]
    for preset in found["presets"]:
        assert preset["forgets_first"] == (preset["timeout"] < defaults["idle"])
        assert preset["refreshable"] == (preset["layer"] != "L7")


@linux
def test_self_check_measures_an_answer() -> None:
    steps = {step["name"]: step for step in document(command("doctor", "--json"))["self_check"]}
    assert set(steps) == {"tune", "probe", "closed peer", "reset peer", "vanished peer"}
    assert all(step["ok"] for step in steps.values())
    assert 0 < steps["probe"]["seconds"] < 1
    assert steps["vanished peer"]["seconds"] == pytest.approx(1, abs=0.3)


@linux
def test_text() -> None:
    finished = command("doctor")
    assert finished.returncode == 0
    assert finished.stderr == ""
    assert "\x1b" not in finished.stdout
    for part in ("TCP_KEEPIDLE", "keepalive is off by default", "aws-nlb 350 s", "peers answered"):
        assert part in finished.stdout
    assert finished.stdout.rstrip().splitlines()[-1].startswith("ok: everything works here")


@linux
def test_without_rich() -> None:
    finished = command("doctor", code="import sys; sys.modules['rich'] = None")
    assert finished.returncode == 0
    assert "pip install 'stillalive[cli]'" in finished.stdout
    assert document(command("doctor", "--json", code="import sys; sys.modules['rich'] = None"))[
        "extras"
    ] == {"cli": None}


@pytest.mark.parametrize("form", ["text", "json"])
def test_system_without_keepalive(form: str) -> None:
    code = "import asyncio, http.client, http.server, sys; sys.platform = 'plan9'"
    arguments = ["doctor", *(["--json"] if form == "json" else [])]
    finished = command(*arguments, code=code, STILLALIVE_IMPL="pure")
    assert finished.returncode == 1
    assert finished.stderr == ""
    if form == "json":
        problems = document(finished)["problems"]
        assert any(problem.startswith("idle: not supported by") for problem in problems)
        assert document(finished)["self_check"] == []
    else:
        assert "PROBLEM  idle: not supported by" in finished.stdout
        assert "FAILED: " in finished.stdout


@linux
@pytest.mark.parametrize(
    ("code", "step"),
    [
        ("_selfcheck.check = lambda sock: stillalive.probe(sock_pair[0])", "closed peer"),
        ("_selfcheck.tune = lambda sock, **wishes: stillalive.KeepAlive(idle=9)", "tune"),
        ("_selfcheck.probe = lambda sock, timeout: stillalive.check(sock)", "vanished peer"),
        ("_selfcheck.drop_everything = lambda sock, on: None", "vanished peer"),
    ],
)
def test_what_does_not_work_is_named(code: str, step: str) -> None:
    prepare = (
        "import socket, stillalive\n"
        "from stillalive.cli import _selfcheck\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "sock_pair = socket.create_connection(listener.getsockname()), listener.accept()\n"
    )
    finished = command("doctor", "--json", code=prepare + code)
    found = document(finished)
    assert finished.returncode == 1
    assert found["ok"] is False
    assert [name for name in found["problems"] if name.startswith(step + ": ")]


def test_no_loopback_is_named() -> None:
    code = (
        "import socket\n"
        "def fail(*a, **k): raise OSError(99, 'Cannot assign requested address')\n"
        "import stillalive.cli; socket.create_server = fail"
    )
    finished = command("doctor", "--json", code=code)
    assert finished.returncode == 1
    assert "no connection on loopback" in finished.stdout or sys.platform != "linux"


def test_version() -> None:
    finished = command("--version")
    assert finished.returncode == 0
    assert finished.stdout == f"stillalive {stillalive.__version__} ({stillalive.IMPLEMENTATION})\n"


@pytest.mark.parametrize("arguments", [(), ("demo",), ("doctor",), ("run",)])
def test_help_has_an_example(arguments: tuple[str, ...]) -> None:
    finished = command(*arguments, "--help", COLUMNS="80")
    assert finished.returncode == 0
    assert "examples:\n  stillalive " in finished.stdout
    assert max(map(len, finished.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("heal",), "invalid choice: 'heal'"),
        (("doctor", "me"), "unrecognized arguments: me"),
        (("doctor", "--seconds", "5"), "unrecognized arguments: --seconds 5"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], message: str) -> None:
    finished = command(*arguments)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert message in finished.stderr
