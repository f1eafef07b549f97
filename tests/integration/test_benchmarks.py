"""The benchmarks run and report every row; what the figures are is not tested."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stillalive import _impl

ROOT = Path(__file__).resolve().parents[2]

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
}


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


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "STILLALIVE_IMPL"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], str]:
    """What one smoke run prints, and the JSON and markdown that it writes."""
    folder = tmp_path_factory.mktemp("results")
    run = _run("--smoke", "--out", str(folder))
    assert run.returncode == 0, run.stdout + run.stderr
    (written,) = folder.glob("*.json")
    markdown = (folder / "latest.md").read_text(encoding="utf-8")
    return run.stdout, json.loads(written.read_text(encoding="utf-8")), markdown


def test_every_row_is_there(output):
    _, found, markdown = output
    rows = {topic["key"]: {row["name"] for row in topic["rows"]} for topic in found["topics"]}
    assert rows == ROWS
    for names in ROWS.values():
        for name in names:
            assert name.replace("|", "\\|") in markdown


def test_every_row_has_a_time_and_pure_rows_a_ratio(output):
    for topic in output[1]["topics"]:
        for row in topic["rows"]:
            assert row["median"] >= 0
            assert row["low"] <= row["median"] <= row["high"]
            assert (row["to_pure"] is not None) == row["name"].startswith("c: ")


def test_what_each_way_sees_is_measured(output):
    facts = next(topic["facts"] for topic in output[1]["topics"] if topic["key"] == "check")
    answers = {name: cells for name, *cells in facts["rows"]}
    for path in ("c", "pure"):
        *cases, reset_left = answers[f"{path}: check(sock)"]
        assert all(cell.startswith("right: ") for cell in cases)
        assert reset_left == "yes"
    assert len(answers) == 5


def test_the_results_do_not_name_the_host(output):
    _, found, markdown = output
    for text in (json.dumps(found), markdown):
        assert str(ROOT) not in text
        assert sys.prefix not in text


def test_the_machine_is_named_and_a_smoke_run_says_so(output):
    assert {"CPU", "kernel", "Python", "load average", "smoke run"} <= set(output[1]["machine"])


def test_an_unknown_topic_is_refused_with_the_known_ones():
    run = _run("nonsense")
    assert run.returncode == 2
    assert "nonsense" in run.stderr
    assert "tune" in run.stderr
