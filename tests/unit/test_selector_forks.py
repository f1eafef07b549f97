"""Forks beside a Selector, in a process of their own: this one has threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stillalive
from stillalive.selector import EVENT_IDLE, EVENT_READ, EVENT_WRITE

R, W, I = EVENT_READ, EVENT_WRITE, EVENT_IDLE  # noqa: E741

PRELUDE = """
import json, os, socket, sys, threading, time
from stillalive.selector import EVENT_IDLE, EVENT_READ, EVENT_WRITE, Selector

R, W, I = EVENT_READ, EVENT_WRITE, EVENT_IDLE

def seen(selector, timeout=0):
    return {key.data: mask for key, mask in selector.select(timeout)}

def in_child(act):
    "Run `act` in a child; return what it returned."
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = act()
        except BaseException as failure:
            answer = repr(failure)
        os.write(into, json.dumps(answer).encode())
        os._exit(0)
    os.close(into)
    with open(out, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(pid, 0)
    return answer

def fds():
    return {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")[:-1]}

a, b = socket.socketpair()
c, d = socket.socketpair()
selector = Selector()
selector.register(a, R, "a", idle_timeout=100)
selector.register(c, R, "c", idle_timeout=100)
"""


@pytest.fixture
def run(impl, mechanism) -> Callable[[str], Any]:
    """Run a script after the prelude; return what it prints as JSON."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    sources = str(Path(stillalive.__file__).parents[1])
    path = os.pathsep.join([sources, os.environ.get("PYTHONPATH", "")])

    def act(script: str) -> Any:
        wish = "pure" if impl.NAME == "pure" else "c"
        done = subprocess.run(
            [
                sys.executable,
                "-W",
                "ignore::DeprecationWarning",
                "-c",
                PRELUDE + textwrap.dedent(script),
            ],
            env={**os.environ, "STILLALIVE_IMPL": wish, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return act


def test_after_a_fork_both_have_a_set_of_their_own(run):
    found = run("""
        before = fds()
        def child():
            first = seen(selector)
            b.send(b"1")
            second = seen(selector, 5)
            selector.unregister(a)
            selector.modify(c, R | W, "c")
            selector.register(b, W, "b")
            third = seen(selector)
            selector.close()
            return [first, second, third]
        child = in_child(child)
        same = before == fds()
        first = seen(selector, 5)
        a.recv(1)
        d.send(b"1")
        b.send(b"1")
        print(json.dumps({"child": child, "same": same, "parent": [first, seen(selector, 5)]}))
    """)
    assert found["child"] == [{}, {"a": R}, {"c": W, "b": W}]
    assert found["same"] is True
    assert found["parent"] == [{"a": R}, {"a": R, "c": R}]


def test_what_a_child_unregisters_stays_with_the_parent(run):
    found = run("""
        in_child(lambda: selector.unregister(a) and None)
        in_child(lambda: selector.modify(c, W, "c") and None)
        in_child(selector.close)
        b.send(b"1")
        d.send(b"1")
        print(json.dumps([seen(selector, 5), selector.stats()["rebuilds"]]))
    """)
    assert found == [{"a": R, "c": R}, 0]


def test_a_child_wakes_itself_only(run):
    found = run("""
        selector.handle(a).idle_timeout = 0.01
        while not seen(selector, 5):
            pass
        handle = selector.handle(a)
        def child():
            handle.touch()  # rescues it here, and wakes nobody there
            selector.wake()
            begin = time.monotonic()
            first = seen(selector, 20)
            return [first, time.monotonic() - begin < 10]
        child = in_child(child)
        begin = time.monotonic()
        first = seen(selector, 0.1)
        print(json.dumps([child, first, time.monotonic() - begin >= 0.1]))
    """)
    assert found in ([[{}, True], {}, True], [[{"a": I}, True], {}, True])


def test_a_wake_before_the_fork_is_kept_by_the_parent(run):
    found = run("""
        selector.wake()
        child = in_child(lambda: seen(selector, 0.05))
        begin = time.monotonic()
        first = seen(selector, 20)
        print(json.dumps([child, first, time.monotonic() - begin < 10]))
    """)
    assert found == [{}, {}, True]


def test_a_thread_forks_while_the_owner_waits(run):
    """The child has no owner that waits: it may use everything."""
    found = run("""
        answers = []
        def fork():
            time.sleep(0.05)
            def child():
                b.send(b"1")
                key = selector.unregister(c)
                return [seen(selector, 5), key.data, len(selector.get_map())]
            answers.append(in_child(child))
        thread = threading.Thread(target=fork)
        thread.start()
        parent = seen(selector, 20)
        thread.join()
        d.send(b"1")
        print(json.dumps([answers, parent, seen(selector, 5)]))
    """)
    assert found == [[[{"a": R}, "c", 1]], {"a": R}, {"a": R, "c": R}]


def test_a_grandchild_and_idleness_across_forks(run):
    found = run("""
        selector._engine.freeze(2**32 - 5)
        for name, sock in {"a": a, "c": c}.items():
            selector.unregister(sock)
            selector.register(sock, R, name, idle_timeout=100)
        def grandchild():
            selector._engine.advance(60)
            return seen(selector)
        def child():
            selector._engine.advance(60)
            return [seen(selector), in_child(grandchild), seen(selector)]
        child = in_child(child)
        selector._engine.advance(100.05)
        print(json.dumps([child, seen(selector)]))
    """)
    assert found == [[{}, {"a": I, "c": I}, {}], {"a": I, "c": I}]


def test_an_interrupt_from_outside_ends_the_process(run):
    found = run("""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        parent = os.getpid()
        begin = time.monotonic()
        try:
            if os.fork() == 0:
                time.sleep(0.1)
                os.kill(parent, signal.SIGINT)
                os._exit(0)
            answer = selector.select(None)
        except KeyboardInterrupt:
            answer = "interrupted"
        os.wait()
        print(json.dumps([answer, time.monotonic() - begin < 10]))
    """)
    assert found == ["interrupted", True]
