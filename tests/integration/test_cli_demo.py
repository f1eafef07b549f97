"""Run ``stillalive demo`` as people do, and sabotage it to see whether it notices."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import stillalive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the demo needs Linux so far")

SMALL = ("--connections", "36", "--seconds", "5")
SOURCES = str(Path(stillalive.__file__).parents[1])
HERE = {"PYTHONPATH": os.pathsep.join([SOURCES, os.environ.get("PYTHONPATH", "")])}
RUN = "import sys; from stillalive.cli import main; sys.exit(main(sys.argv[1:]))"
NO_RICH = "import sys; sys.modules['rich'] = None\n" + RUN

# Each replaces one thing before the demo runs, and names the rules that must notice.
SABOTAGE = {
    "probe that does not ask": (
        """
        from stillalive import check
        from stillalive.cli import _examine
        async def aprobe(sock, timeout):
            return check(sock)
        _examine.aprobe = aprobe
        """,
        {"verdict"},
    ),
    "probe that finds nobody alive": (
        """
        from stillalive.cli import _examine
        from stillalive import State
        ask = _examine.Guarded.ask
        async def closed(self, sock, known):
            found = await ask(self, sock, known)
            return _examine.Verdict(State.PEER_CLOSED, "sabotage", found.seconds)
        _examine.Guarded.ask = closed
        """,
        {"verdict", "proof", "answers"},
    ),
    "tune that does nothing": (
        """
        from stillalive import KeepAlive
        from stillalive.cli import _examine
        _examine.tune = lambda sock, **wishes: KeepAlive(idle=1, interval=1, count=1)
        """,
        {"tuned", "ended"},
    ),
    "probe that leaves an option behind": (
        """
        import socket
        from stillalive.cli import _examine
        ask = _examine.Guarded.ask
        async def careless(self, sock, known):
            found = await ask(self, sock, known)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 99)
            return found
        _examine.Guarded.ask = careless
        """,
        {"options"},
    ),
    "server that answers something else": (
        """
        from stillalive.cli import _http_server
        do_GET = _http_server.Handler.do_GET
        def wrong(self):
            if self.path.startswith(("/hello/later", "/hello/new")):
                self.path = "/something/else"
            do_GET(self)
        _http_server.Handler.do_GET = wrong
        """,
        {"answers", "server"},
    ),
    "guard that ends nobody": (
        """
        from stillalive.cli import _guarding
        guard = _guarding.Guard
        _guarding.Guard = lambda **limits: guard(**limits, dry_run=True)
        """,
        {"guard"},
    ),
    "guard that is early": (
        """
        from stillalive.cli import _guarding
        guard = _guarding.Guard
        _guarding.Guard = lambda **limits: guard(**{**limits, "answered": 3.5})
        """,
        {"guard"},
    ),
    "guard that does not wait for slow answers": (
        """
        from stillalive.cli import _guarding
        guard = _guarding.Guard
        _guarding.Guard = lambda **limits: guard(**{**limits, "unanswered": 1})
        """,
        {"guard", "spared"},
    ),
}


def start(*arguments: str, code: str | None = None, **environment: str) -> subprocess.Popen[str]:
    how = ["-m", "stillalive"] if code is None else ["-c", code]
    return subprocess.Popen(
        [sys.executable, *how, "demo", *arguments],
        env={**os.environ, **HERE, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job, such as a CI run, hands down an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


class Finished:
    """What a run left behind."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.out, self.err = process.communicate(timeout=120)
        self.status = process.returncode

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def missed(self) -> set[str]:
        return {c["rule"] for c in self.document["criteria"] if not c["ok"]}


def demo(*arguments: str, code: str | None = None, **environment: str) -> Finished:
    return Finished(start(*arguments, code=code, **environment))


@pytest.fixture(scope="module")
def runs() -> dict[str, Finished]:
    """Run everything that takes its time at the same time."""
    json_ = (*SMALL, "--json")
    started = {
        "default": start(*json_),
        "pure": start(*json_, STILLALIVE_IMPL="pure"),
        "text": start(*SMALL),
        "no rich": start(*json_, code=NO_RICH),
        "no guard": start(*json_, "--no-guard"),
        "no guard text": start(*SMALL, "--no-guard"),
    }
    for name, (code, _) in SABOTAGE.items():
        started[name] = start(*json_, code=textwrap.dedent(code) + RUN)
    return {name: Finished(process) for name, process in started.items()}


@pytest.mark.parametrize("name", ["default", "pure", "no rich"])
def test_every_connection_is_told_right(runs: dict[str, Finished], name: str) -> None:
    finished = runs[name]
    document = finished.document
    assert finished.status == 0, document["failures"]
    assert finished.err == ""
    assert document["ok"] is True
    assert document["failures"] == []
    assert document["connections"] == 36
    assert document["guard"] is True
    assert sum(group["connections"] for group in document["groups"]) == 36
    for group in document["groups"]:
        assert group["right"] == group["connections"] > 0
        assert set(group["found"]) <= set(group["expected"])
        if group["limit"] is not None:
            assert group["ended"] == group["connections"]
            assert 1 < group["slowest_end"] <= 5
    assert all(c["ok"] and c["kept"] == c["total"] > 0 for c in document["criteria"])
    assert document["tuned"]["detects_idle_within"] <= 5
    for kind in document["guarded"]:
        assert kind["ended"] == (0 if kind["limit"] is None else kind["connections"])
        assert kind["limit"] is None or kind["limit"] <= kind["earliest"] <= kind["latest"]


def test_implementations_are_named(runs: dict[str, Finished]) -> None:
    assert runs["pure"].document["implementation"] == "pure"
    assert runs["default"].document["implementation"] == stillalive.IMPLEMENTATION


def test_text_names_every_group_and_rule(runs: dict[str, Finished]) -> None:
    finished = runs["text"]
    assert finished.status == 0
    for part in ("ThreadingHTTPServer", "detect_within=5", "closed behind data", "36 of 36"):
        assert part in finished.out
    assert "\x1b" not in finished.out
    assert "FAIL" not in finished.out
    assert finished.out.rstrip().splitlines()[-1].startswith("ok: 140 connections")
    assert max(map(len, finished.out.splitlines())) <= 80


def test_without_the_package_the_same_rules_fail(runs: dict[str, Finished]) -> None:
    finished = runs["no guard"]
    document = finished.document
    assert finished.status == 1
    assert document["ok"] is False
    assert document["tuned"] is None
    assert finished.missed == {"verdict", "proof", "tuned", "ended", "idle", "guard"}
    right = {group["name"]: group["right"] for group in document["groups"]}
    assert right["closed"] > 0
    assert right["reset"] > 0
    assert right["waiting"] > 0
    for name in ("closed-unread", "reset-unread", "vanished-idle", "vanished-answering"):
        assert right[name] == 0
    wrong = [f for f in document["failures"] if f["rule"] == "verdict"]
    assert {f["group"] for f in wrong} == {name for name, count in right.items() if count == 0}
    assert all(f["address"].startswith("127.0.0.1:") and f["expected"] for f in wrong)


def test_without_the_package_the_text_says_what_was_missed(runs: dict[str, Finished]) -> None:
    finished = runs["no guard text"]
    assert finished.status == 1
    assert "closed-unread, client 127.0.0.1:" in finished.out
    assert "expected peer_closed" in finished.out
    assert "found    open (readable, and there is data)" in finished.out
    assert "FAILED: 6 of 11 rules missed" in finished.out


@pytest.mark.parametrize("name", SABOTAGE)
def test_sabotage_is_noticed(runs: dict[str, Finished], name: str) -> None:
    finished = runs[name]
    assert finished.status == 1, finished.err
    assert finished.document["ok"] is False
    assert finished.missed >= SABOTAGE[name][1]
    assert "options" not in finished.missed or "options" in SABOTAGE[name][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--connections", "0"), "argument --connections: '0': must be a whole number, 9 to 5000"),
        (("--connections", "8"), "9 to 5000"),
        (("--connections", "1000000000"), "'1000000000': must be a whole number, 9 to 5000"),
        (("--connections", "-3"), "9 to 5000"),
        (("--connections", "abc"), "'abc': must be a whole number, 9 to 5000"),
        (("--connections", "36.5"), "9 to 5000"),
        (("--connections",), "expected one argument"),
        (("--seconds", "nan"), "argument --seconds: 'nan': must be a number of seconds, 5 to 60"),
        (("--seconds", "inf"), "5 to 60"),
        (("--seconds", "4.9"), "5 to 60"),
        (("--seconds", "soon"), "5 to 60"),
        (("--guard",), "unrecognized arguments: --guard"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], message: str) -> None:
    finished = demo(*arguments, "--json")
    assert finished.status == 2
    assert finished.out == ""
    assert message in finished.err


def limited(descriptors: int) -> str:
    limit = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors}))"
    return f"import resource; {limit}\n{RUN}"


def test_more_connections_than_descriptors_are_refused() -> None:
    finished = demo("--connections", "300", "--json", code=limited(400))
    assert finished.status == 2
    assert finished.out == ""
    assert "argument --connections: 300 connections need 864 descriptors" in finished.err
    assert "RLIMIT_NOFILE is 400" in finished.err


def test_the_default_takes_what_the_limit_allows() -> None:
    finished = demo("--seconds", "5", "--json", code=limited(348))
    assert finished.status == 0, finished.out
    assert 9 <= finished.document["connections"] < 60
    assert "RLIMIT_NOFILE is 348" in finished.err


def test_no_room_at_all_is_an_error_in_json_too() -> None:
    finished = demo("--json", code=limited(50))
    assert finished.status == 1
    assert finished.document["ok"] is False
    assert "at least 9 connections" in finished.document["error"]


def test_other_systems_are_told() -> None:
    code = "import asyncio, http.client, http.server, sys; sys.platform = 'plan9'\n" + RUN
    finished = demo(code=code, STILLALIVE_IMPL="pure")
    assert finished.status == 1
    assert finished.out == ""
    assert "the demo needs Linux so far" in finished.err


@pytest.mark.parametrize("after", [0.0, 1.0, 3.0])
def test_interrupt(after: float) -> None:
    process = start("--connections", "50")
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    finished = Finished(process)
    assert finished.status == 130, finished.err
    assert "ThreadingHTTPServer" in first
    assert finished.err == "stillalive: stopped\n"


def test_reader_that_goes_away() -> None:
    process = start(*SMALL)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def on_terminal(*arguments: str) -> tuple[int, str]:
    """Run with a terminal of 80 columns for standard output."""
    mine, theirs = pty.openpty()
    environment = {**os.environ, **HERE, "COLUMNS": "80", "LINES": "50", "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "stillalive", "demo", *arguments], stdout=theirs, env=environment
    )
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the process is
        while piece := os.read(mine, 65536):
            seen += piece
    os.close(mine)
    return process.wait(timeout=60), seen.decode()


def test_terminal_has_a_live_table() -> None:
    pytest.importorskip("rich")
    status, seen = on_terminal("--connections", "18", "--seconds", "5")
    assert status == 0, seen
    assert "\x1b[32m" in seen
    assert seen.count("known at once") > 10
    assert "…" not in seen


def test_plain_terminal() -> None:
    status, seen = on_terminal("--connections", "18", "--seconds", "5", "--plain")
    assert status == 0, seen
    assert "\x1b" not in seen
