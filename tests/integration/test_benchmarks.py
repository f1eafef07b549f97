"""The benchmarks run and report every row; what the figures are is not tested.

The sizes in the names are those of a smoke run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

import pytest

from stillalive import _impl

ROOT = Path(__file__).resolve().parents[2]


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _if_there(module: str, *names: str) -> set[str]:
    """Rows of a peer, if it is installed."""
    return set(names) if _has(module) else set()


ECHO_WIDE = {
    "plain C, epoll, idle timeout by scan",
    "c: Server(idle_timeout=60)",
    "pure: Server(idle_timeout=60)",
    "our Selector(idle_timeout=60), Python recv and send",
    "selectors + heap, Python recv and send",
    "asyncio protocol, no timeout",
    "asyncio protocol, stamp + scan",
    "asyncio protocol, call_later per message",
    *_if_there(
        "uvloop",
        "uvloop protocol, no timeout",
        "uvloop protocol, stamp + scan",
        "uvloop protocol, call_later per message",
    ),
    *_if_there(
        "gevent", "gevent StreamServer, no timeout", "gevent StreamServer, Timeout per read"
    ),
}

ROWS = {
    "tune": {
        "5 x getppid (system call floor)",
        "raw C, 5 setsockopt",
        "C core: ka_apply_fresh",
        "c: Policy.apply(fd)",
        "five Python setsockopt calls",
        "pure: Policy.apply(fd)",
        "C core: ka_apply (read, set, read back)",
        "c: tune(sock, KeepAlive(...))",
        "pure: tune(sock, KeepAlive(...))",
        "c: tune(sock, detect_within=30)",
        "pure: tune(sock, detect_within=30)",
    },
    "check": {
        "raw C, poll + TCP_INFO",
        "C core: ka_check",
        "c: check(sock)",
        "pure: check(sock)",
        "select.poll, zero timeout",
        "recv(1, MSG_PEEK | MSG_DONTWAIT)",
        "getsockopt(TCP_INFO) + struct",
    },
    "describe": {
        "raw C, 6 getsockopt + TCP_INFO",
        "c: describe(sock)",
        "pure: describe(sock)",
        "c: describe(sock), no user_timeout",
        "pure: describe(sock), no user_timeout",
    },
    "probe": {
        "raw C, KEEPIDLE and spin on TCP_INFO",
        "c: probe(sock)",
        "pure: probe(sock)",
        "c: await aprobe(sock)",
        "pure: await aprobe(sock)",
        "select.poll + recv(MSG_PEEK)",
        "c: 10 aprobes at once",
        "pure: 10 aprobes at once",
    },
    "touch": {
        "empty C method",
        "C core: touch, every one in a new tick",
        "C core: touch, the clock read",
        "c: Handle.touch()",
        "c: Handle.touch(), first in its tick",
        "pure: Handle.touch()",
        "conn.last = monotonic()",
        "asyncio: cancel + call_later",
        *_if_there("uvloop", "uvloop: cancel + call_later"),
        *_if_there("gevent", "gevent: timer.again()"),
    },
    "select": {
        f"{way}, {ready} ready"
        for ready in (1, 100, 200)
        for way in (
            "raw C, epoll_wait and a stamp",
            "select.epoll.poll(0)",
            "c: Selector.select(0)",
            "pure: Selector.select(0)",
            "selectors.EpollSelector.select(0)",
        )
    },
    "tracked": {
        f"{way}, {number}"
        for number in ("1,000", "10,000")
        for way in ("plain C, full scan of 4-byte deadlines", "deadline table of the C core")
    },
    "echo": {
        *ECHO_WIDE,
        "asyncio protocol, no timeout, on our Selector",
        "asyncio streams, asyncio.timeout per read",
        *_if_there("uvloop", "uvloop streams, asyncio.timeout per read"),
    },
    "echo-idle": ECHO_WIDE,
    "accept": {
        "plain C, listener tuned, accept4 and epoll_ctl",
        "c: Server(idle_timeout=60)",
        "pure: Server(idle_timeout=60)",
        "our Selector, Python accept, listener tuned",
        "plain Python: accept, four setsockopt, register",
        "asyncio, keepalive left as it is",
        *_if_there("uvloop", "uvloop, keepalive left as it is"),
        *_if_there("gevent", "gevent, keepalive left as it is"),
    },
    "guard": {
        f"{server}, {how}"
        for server in (
            "asyncio echo",
            *_if_there("uvicorn", "uvicorn"),
            *_if_there("gunicorn", "gunicorn, 4 threads"),
        )
        for how in ("alone", "guarded")
    },
    "reap": set(),
    "audit": {
        f"{job}, {hook}"
        for job in (
            "an audited event alone",
            "open and close a file",
            "make and close a socket",
            "bind a TCP socket",
            "bind a UDP socket",
            "connect over loopback",
        )
        for hook in ("no hook", "c: autotune", "pure: autotune", "an empty hook in Python")
    },
}

CHARTS = {"touch", "select", "tracked", "echo", "echo-idle", "accept"}


def _needs() -> str:
    """Say what is missing to run the benchmarks, or nothing."""
    if sys.platform != "linux":
        return "Linux only so far"
    if not (ROOT / "ext").is_dir() or not (ROOT / "benchmarks").is_dir():
        return "no source tree"
    if shutil.which(os.environ.get("CC", "cc").split()[0]) is None:
        return "no C compiler"
    try:
        _impl.choose("c")
    except ImportError:
        return "no compiled backend"
    return ""


pytestmark = pytest.mark.skipif(_needs() != "", reason=_needs() or "runs")


def _run(*arguments: str, module: str = "benchmarks") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "STILLALIVE_IMPL"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )


class Output(NamedTuple):
    """What one smoke run says and writes."""

    progress: str
    json: Path
    found: dict[str, Any]
    markdown: str


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Output:
    folder = tmp_path_factory.mktemp("results")
    run = _run("--smoke", "--out", str(folder))
    assert run.returncode == 0, run.stdout + run.stderr
    (written,) = folder.glob("*.json")
    found = json.loads(written.read_text(encoding="utf-8"))
    markdown = (folder / "latest.md").read_text(encoding="utf-8")
    return Output(run.stderr, written, found, markdown)


def test_every_row_is_there(output):
    topics = output.found["topics"]
    rows = {topic["key"]: {row["name"] for row in topic["rows"]} for topic in topics}
    assert rows == ROWS
    for names in ROWS.values():
        for name in names:
            assert name.replace("|", "\\|") in output.markdown


def test_every_row_has_a_time_and_pure_rows_a_ratio(output):
    for topic in output.found["topics"]:
        for row in topic["rows"]:
            assert row["median"] >= 0
            assert row["low"] <= row["median"] <= row["high"]
            ours = row["name"].startswith("c: ") or ", c: " in row["name"]
            assert (row["to_pure"] is not None) == ours


def test_what_each_way_sees_is_measured(output):
    facts = next(topic["facts"] for topic in output.found["topics"] if topic["key"] == "check")
    answers = {name: cells for name, *cells in facts["rows"]}
    for path in ("c", "pure"):
        *cases, reset_left = answers[f"{path}: check(sock)"]
        assert all(cell.startswith("right: ") for cell in cases)
        assert reset_left == "yes"
    assert len(answers) == 5


def test_who_is_stuck_is_ended_and_the_others_are_served(output):
    facts = next(topic["facts"] for topic in output.found["topics"] if topic["key"] == "reap")
    ((server, stuck, ended, _, asked, answered, *_, cut),) = facts["rows"]
    assert server == "http.server"
    assert stuck == ended == "4"
    assert asked == answered != "0"
    assert cut == "0"


def test_each_server_row_divides_its_cpu_into_user_and_system(output):
    for topic in output.found["topics"]:
        if topic["key"].startswith("echo"):
            for row in topic["rows"]:
                assert row["user"] >= 0
                assert row["system"] >= 0
                assert row["user"] + row["system"] > 0


def test_goals_say_whether_they_are_met(output):
    goals = [goal for topic in output.found["topics"] for goal in topic["goals"]]
    assert len({goal["text"] for goal in goals}) == len(goals)
    for goal in goals:
        assert goal["met"] == (goal["reached"] <= goal["at_most"])
        assert goal["text"] in output.markdown


def test_progress_is_told(output):
    for key in ROWS:
        assert f"{key}: begins\n{key}: " in output.progress


@pytest.mark.skipif(not _has("matplotlib"), reason="no matplotlib")
def test_charts_are_drawn_and_the_same_again(output, tmp_path):
    for folder in ("first", "second"):
        run = _run(str(output.json), str(tmp_path / folder), module="benchmarks.charts")
        assert run.returncode == 0, run.stderr
    drawn = sorted((tmp_path / "first").iterdir())
    assert [path.name for path in drawn] == sorted(f"bench-{key}.svg" for key in CHARTS)
    for path in drawn:
        text = path.read_text(encoding="utf-8")
        assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
        assert text == (tmp_path / "second" / path.name).read_text(encoding="utf-8")
        assert "date>" not in text
    touch = (tmp_path / "first" / "bench-touch.svg").read_text(encoding="utf-8")
    assert all(name in touch for name in ROWS["touch"])


def test_the_results_do_not_name_the_host(output):
    for text in (json.dumps(output.found), output.markdown):
        assert str(ROOT) not in text
        assert sys.prefix not in text


def test_the_machine_is_named_and_a_smoke_run_says_so(output):
    assert {"CPU", "kernel", "Python", "load average", "smoke run"} <= set(output.found["machine"])


def test_an_unknown_topic_is_refused_with_the_known_ones():
    run = _run("nonsense")
    assert run.returncode == 2
    assert "nonsense" in run.stderr
    assert "tune" in run.stderr
