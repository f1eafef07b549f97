"""autotune beyond one process and one interpreter: forks, other hooks, the end, subinterpreters."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far")


def usual_idle() -> str:
    with socket.socket() as sock:
        return str(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))


SHOW = "print(s.getsockopt(6, 4), flush=True)"
START = (
    "import os, socket, sys, stillalive\n"
    "handle = stillalive.autotune(stillalive.KeepAlive(idle=61), outgoing=True)\n"
)


def python(impl, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", START + code],
        env=os.environ | {"STILLALIVE_IMPL": impl.NAME},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_forked_children_keep_it_and_end_it_for_themselves(impl):
    code = (
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        f"    s = socket.create_server(('127.0.0.1', 0)); {SHOW}\n"
        "    handle.disable()\n"
        f"    s = socket.create_server(('127.0.0.1', 0)); {SHOW}\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
        f"s = socket.create_server(('127.0.0.1', 0)); {SHOW}\n"
    )
    assert python(impl, code).split() == ["61", usual_idle(), "61"]


def test_the_systems_defaults_may_change(impl):
    """In a network namespace of its own, where the test may change them."""
    code = START + (
        "def show():\n"
        f"    s = socket.create_server(('0.0.0.0', 0)); {SHOW}\n"
        "show()\n"
        "open('/proc/sys/net/ipv4/tcp_keepalive_time', 'w').write('300')\n"
        "print(socket.socket().getsockopt(6, 4))\n"
        "show()\n"
        "handle.disable()\n"
        "show()\n"
    )
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare(1)")
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", code],
        env=os.environ | {"STILLALIVE_IMPL": impl.NAME},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unshare" in done.stderr or "/proc/sys" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.stdout.split() == ["61", "300", "61", "300"]


def test_one_hook_however_often_it_is_called(impl):
    code = (
        "added = []\n"
        "watched = 'sys.addaudithook'\n"
        "sys.addaudithook(lambda name, a: added.append(name) if name == watched else None)\n"
        "for _ in range(50):\n"
        "    stillalive.autotune(stillalive.KeepAlive(idle=62)).disable()\n"
        "print(added)"
    )
    assert python(impl, code).strip() == "[]"


def test_a_hook_that_forbids_others_is_told(impl):
    code = (
        "import os, socket, sys, stillalive\n"
        "def forbid(name, arguments):\n"
        "    if name == 'sys.addaudithook': raise RuntimeError('no')\n"
        "sys.addaudithook(forbid)\n"
        "try: stillalive.autotune(stillalive.KeepAlive(idle=61))\n"
        "except stillalive.StillAliveError as error: print(error)\n"
        "s = socket.create_server(('127.0.0.1', 0))\n" + SHOW
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"STILLALIVE_IMPL": impl.NAME},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert "refuses another one" in done.stdout
    assert done.stdout.split()[-1] == usual_idle()


def test_events_during_and_after_shutdown(impl):
    code = (
        "import atexit, weakref\n"
        "class Late:\n"
        "    def __del__(self):\n"
        "        s = socket.socket(); s.bind(('127.0.0.1', 0)); s.close()\n"
        "late = Late()\n"
        "late.self = late\n"
        "atexit.register(lambda: socket.create_server(('127.0.0.1', 0)).close())\n"
    )
    assert python(impl, code) == ""


def test_subinterpreters(impl):
    """The compiled hook sees their events, and uses nothing of the main interpreter."""
    code = (
        "try: import _interpreters as subs\n"
        "except ImportError: import _xxsubinterpreters as subs\n"
        "for _ in range(3):\n"
        "    one = subs.create()\n"
        "    text = ('import socket, sys\\n'\n"
        "        's = socket.create_server((\"127.0.0.1\", 0))\\n'\n"
        "        'c = socket.create_connection(s.getsockname())\\n'\n"
        "        'print(s.getsockopt(6, 4), c.getsockopt(6, 4), flush=True)')\n"
        "    subs.run_string(one, text)\n"
        "    subs.destroy(one)\n"
        "s = socket.create_server(('127.0.0.1', 0))\n" + SHOW
    )
    usual = usual_idle()
    inside = "61" if impl.NAME == "c" else usual
    assert python(impl, code).split() == [inside] * 6 + ["61"]
