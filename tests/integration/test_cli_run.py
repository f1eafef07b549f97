"""Run commands under ``stillalive run``, as people do: what they see, and what is done for them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import stillalive

SOURCES = str(Path(stillalive.__file__).parents[1])
INJECTED = str(Path(stillalive.__file__).parent / "cli" / "_inject")
PATH = [SOURCES, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
HERE = {**os.environ, "PYTHONPATH": os.pathsep.join(PATH), "PYTHONUNBUFFERED": "1"}
RUN = [sys.executable, "-m", "stillalive", "run"]
PYTHON = sys.executable
NOT_GUARDED = "not guarded: "

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far")

STATE = """
import socket, sys, threading
server = socket.create_server(("127.0.0.1", 0))
guarded = any(t.name == "stillalive-events" for t in threading.enumerate())
print(server.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), guarded)
"""
GUARDED = "14 True"
"""What STATE prints with the default settings: the keepalive of a minute."""


def usual_idle() -> int:
    with socket.socket() as sock:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)


BARE = f"{usual_idle()} False"


def run(*arguments: str, **kwargs) -> subprocess.CompletedProcess[str]:
    environment = HERE | kwargs.pop("env", {})
    return subprocess.run(
        [*RUN, *arguments], env=environment, capture_output=True, text=True, timeout=60, **kwargs
    )


def python(code: str, *arguments: str, **kwargs) -> subprocess.CompletedProcess[str]:
    return run("--", PYTHON, "-c", code, *arguments, **kwargs)


@contextlib.contextmanager
def started(*arguments: str, **kwargs) -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*RUN, *arguments], env=HERE, text=True, **pipes, **kwargs)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def connected(port: int) -> socket.socket:
    """Connect as soon as the server listens."""
    end = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


# ---- the command is the process --------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 7, 130])
def test_the_exit_status_is_the_commands(status):
    done = python(f"import sys; sys.exit({status})")
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_arguments_arrive_as_they_are():
    odd = ["a b", "", "--json", "--", "-x", "*", "$HOME", "'\"", "ä"]
    done = python("import sys; print(sys.argv[1:])", *odd)
    assert done.stdout.strip() == repr(odd)


def test_the_dashes_may_be_left_out():
    done = run("--dry-run", PYTHON, "-c", "print('yes')")
    assert (done.stdout, done.stderr) == ("yes\n", "")


def test_standard_input_is_passed():
    assert python("print(input())", input="hello\n").stdout == "hello\n"


def test_it_is_the_same_process():
    with started("--", PYTHON, "-c", "import os; print(os.getpid())") as process:
        assert int(process.stdout.readline()) == process.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_pass(number):
    if signal.getsignal(number) == signal.SIG_IGN:  # by nohup
        pytest.skip("who started these tests ignores this signal, and so does the command")
    code = "import time; print('ready'); time.sleep(60)"
    with started("--", PYTHON, "-c", code) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(10) == -number


def test_a_handler_of_the_command_decides():
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('ready'); time.sleep(60)"
    )
    with started("--", PYTHON, "-c", code) as process:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(10) == 5


@pytest.mark.parametrize("name", ["PIPE", "XFSZ"])
def test_what_python_ignores_is_not_ignored_in_the_command(name):
    done = run("--", "sh", "-c", f"kill -{name} $$")
    assert done.returncode == -getattr(signal, f"SIG{name}")


# ---- what is done for it ---------------------------------------------------------------------


def test_it_is_tuned_and_guarded():
    done = python(STATE)
    assert (done.stdout.strip(), done.stderr) == (GUARDED, "")


def test_without_autotune():
    done = run("--no-autotune", "--", PYTHON, "-c", STATE)
    assert done.stdout.strip() == f"{usual_idle()} True"


def test_outgoing():
    code = STATE + "\nprint(socket.create_connection(server.getsockname()).getsockopt(6, 4))"
    assert run("--outgoing", "--", PYTHON, "-c", code).stdout.split()[-1] == "14"
    assert python(code).stdout.split()[-1] == str(usual_idle())


def test_no_user_timeout_so_that_slow_readers_live():
    code = STATE + "\nprint(server.getsockopt(6, 18), server.getsockopt(6, 5))"
    done = run("--keepalive-within", "300", "--", PYTHON, "-c", code)
    assert done.stdout.split()[2] == "0"


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_multiprocessing_children(method, tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import multiprocessing\n"
        f"def child():\n    exec({STATE!r})\n"
        "if __name__ == '__main__':\n"
        f"    made = multiprocessing.get_context({method!r}).Process(target=child)\n"
        "    made.start(); made.join()\n"
    )
    done = run("--", PYTHON, str(script))
    assert (done.stdout.strip(), done.stderr) == (GUARDED, "")


def test_processes_of_a_shell():
    done = run("--", "sh", "-c", f"{PYTHON} -c '{STATE}' && {PYTHON} -c '{STATE}'")
    assert done.stdout.split("\n") == [GUARDED, GUARDED, ""]


def test_http_server(tmp_path):
    port = free_port()
    (tmp_path / "a").write_text("content")
    command = ["--", PYTHON, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with started("--never-spoke", "2", "--log", *command, cwd=tmp_path) as process:
        with connected(port) as silent:
            began = time.monotonic()
            _get(port, "/a", b"content")
            assert silent.recv(1) == b""
            assert 1.5 < time.monotonic() - began < 5
        _get(port, "/a", b"content")
        # The line is written after the end, and nothing of a process that SIGTERM ends.
        told = _lines_until(process, "never_spoke: not a byte")
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM
        told += process.stderr.readlines()
    lines = [line for line in told if line.startswith("stillalive run: pid ")]
    assert "guards with never_spoke=2.0" in lines[0]
    assert len([line for line in lines if "never_spoke: not a byte" in line]) == 1


def _lines_until(process: subprocess.Popen[str], text: str) -> list[str]:
    lines = [""]
    while text not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], "".join(lines)
    return lines


def test_uvicorn_and_a_slow_handler(tmp_path):
    pytest.importorskip("uvicorn", reason="needs uvicorn")
    (tmp_path / "served.py").write_text(
        "import asyncio\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] != 'http': return\n"
        "    await asyncio.sleep(3)\n"
        "    await send({'type': 'http.response.start', 'status': 200})\n"
        "    await send({'type': 'http.response.body', 'body': b'slow'})\n"
    )
    port = free_port()
    arguments = ["--port", str(port), "--lifespan", "off"]
    command = ["--", PYTHON, "-m", "uvicorn", "served:app", *arguments]
    with (
        started("--never-spoke", "1", *command, cwd=tmp_path) as process,
        connected(port) as silent,
    ):
        _get(port, "/", b"slow")
        assert silent.recv(1) == b""
        process.terminate()
        process.wait(10)


def _get(port: int, path: str, body: bytes) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(client):
        client.request("GET", path)
        assert client.getresponse().read() == body


def test_dry_run_ends_nobody(tmp_path):
    port = free_port()
    command = ["--", PYTHON, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    options = ["--dry-run", "--never-spoke", "1", "--log"]
    with started(*options, *command, cwd=tmp_path) as process, connected(port) as silent:
        assert "never_spoke" in _lines_until(process, "dry run")[-1]
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.recv(1)


# ---- the program does not notice -------------------------------------------------------------

PATHS = "import os, sys; print([p for p in sys.path if p.endswith('_inject')])"


def test_the_folder_is_not_on_the_path():
    assert python(PATHS).stdout.strip() == "[]"


def test_a_sitecustomize_of_its_own_still_runs(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.own = __file__; extra = 5")
    code = "import sys, sitecustomize as s; print(sys.own == s.__file__, s.extra);" + PATHS
    path = os.pathsep.join([str(tmp_path), HERE["PYTHONPATH"]])
    done = python(code + "\n" + STATE, env={"PYTHONPATH": path})
    assert done.stdout.splitlines() == ["True 5", "[]", GUARDED]
    assert done.stderr == ""


def test_a_sitecustomize_of_its_own_that_fails_is_told_as_ever(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("raise ValueError('its own')")
    path = os.pathsep.join([str(tmp_path), HERE["PYTHONPATH"]])
    done = python(STATE, env={"PYTHONPATH": path})
    assert done.stdout.strip() == GUARDED
    assert "Error in sitecustomize" in done.stderr
    assert "ValueError: its own" in done.stderr


def test_without_one_of_its_own(tmp_path):
    done = python("import sitecustomize; print(sitecustomize.__file__)")
    assert done.returncode == 0


def test_what_was_on_pythonpath_stays_there(tmp_path):
    (tmp_path / "of_mine.py").write_text("value = 5")
    path = os.pathsep.join([str(tmp_path), HERE["PYTHONPATH"]])
    assert python("import of_mine; print(of_mine.value)", env={"PYTHONPATH": path}).stdout == "5\n"


def test_nested_the_inner_settings_hold():
    code = STATE + "\nimport os; print(os.environ['PYTHONPATH'].count('_inject'))"
    inner = [*RUN, "--keepalive-within", "300", "--", PYTHON, "-c", code]
    done = run("--", *inner)
    idle, guarded, count = done.stdout.split()
    assert int(idle) > 14
    assert (guarded, count) == ("True", "1")


@pytest.mark.parametrize("option", ["-I", "-E", "-S"])
def test_interpreters_that_do_not_look(option):
    done = run("--", PYTHON, option, "-c", STATE)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, BARE, "")


def test_a_python_without_the_package_says_so_once(tmp_path):
    venv.create(tmp_path / "other", with_pip=False)
    other = tmp_path / "other" / "bin" / "python"
    again = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STATE!r}])"
    shell = 'PYTHONPATH="${PYTHONPATH%%:*}" exec "$@"'
    done = run("--", "sh", "-c", shell, "sh", str(other), "-c", STATE + again)
    assert done.stdout.splitlines() == [BARE, BARE]
    assert done.stderr.count(NOT_GUARDED) == 1
    assert f"{other} cannot import stillalive" in done.stderr


@pytest.mark.parametrize("settings", ["{", "[]", '{"log": false}', '{"guard": {"no": 1}}'])
def test_settings_that_are_none_do_not_stop_it(settings):
    path = os.pathsep.join([INJECTED, HERE["PYTHONPATH"]])
    done = subprocess.run(
        [PYTHON, "-c", "print('runs')"],
        env=HERE | {"STILLALIVE_RUN": settings, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "runs\n")
    assert done.stderr.count(NOT_GUARDED) == 1


def test_without_settings_nothing_happens():
    path = os.pathsep.join([INJECTED, HERE["PYTHONPATH"]])
    kept = {name: value for name, value in HERE.items() if name != "STILLALIVE_RUN"}
    code = "import sys; print('stillalive' in sys.modules)"
    done = subprocess.run(
        [PYTHON, "-c", code],
        env=kept | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_standard_error_that_is_closed_does_no_harm():
    done = run("--log", "--", "sh", "-c", f"exec {PYTHON} -c '{STATE}' 2>&-")
    assert done.stdout.strip() == GUARDED


# ---- what it says by itself ------------------------------------------------------------------


def _script(tmp_path: Path, text: str, mode: int) -> str:
    path = tmp_path / "script"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("make", "status", "message"),
    [
        (lambda tmp: "no-such-command", 127, "no-such-command: not found"),
        (lambda tmp: str(tmp / "none"), 127, "no such file, or its interpreter is missing"),
        (lambda tmp: _script(tmp, "#!/no/such\n", 0o755), 127, "its interpreter is missing"),
        (lambda tmp: _script(tmp, "#!/bin/sh\n", 0o644), 126, "Permission denied"),
        (lambda tmp: _script(tmp, "text\n", 0o755), 126, "a script needs a first line"),
        (str, 126, "Permission denied"),
    ],
)
def test_what_cannot_be_run(tmp_path, make: Callable[[Path], str], status, message):
    done = run("--", make(tmp_path))
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "CMD is missing"),
        (("--",), "CMD is missing"),
        (("--never-spoke", "0", "--", "true"), "--never-spoke: '0': must be a number of seconds"),
        (("--detect-within", "3", "--", "true"), "--detect-within: '3'"),
        (("--keepalive-within", "2", "--", "true"), "--keepalive-within: '2'"),
        (("--listeners", "http", "--", "true"), "--listeners: 'http'"),
        (("--exempt", "10.0.0.0/99", "--", "true"), "--exempt: '10.0.0.0/99'"),
        (("--evict-idle", "5", "--never-spoke", "9", "--", "true"), "evict_idle"),
        (("--no-autotune", "--outgoing", "--", "true"), "--outgoing: not with --no-autotune"),
        (("--such", "--", "true"), "unrecognized arguments: --such"),
    ],
)
def test_wrong_arguments(arguments, message):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_json_runs_nothing():
    options = ["--unanswered", "30", "--listeners", "80", "--listeners", "443", "--exempt", "::1"]
    done = run("--json", *options, "--max-closes-per-second", "5", "--", "no-such", "a b")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["ok"] is True
    assert found["program"] == ["no-such", "a b"]
    guard = found["settings"]["guard"]
    assert guard["unanswered"] == 30
    assert guard["listeners"] == [80, 443]
    assert guard["exempt"] == ["::1"]
    assert guard["max_closes_per_second"] == 5
    assert "never_spoke" not in guard
    assert json.loads(found["environment"]["STILLALIVE_RUN"]) == found["settings"]


def test_the_defaults_meet_no_slow_handler():
    guard = json.loads(run("--json", "--", "true").stdout)["settings"]["guard"]
    limits = {name for name, value in guard.items() if isinstance(value, float)}
    assert limits == {"never_spoke", "detect_within"}
