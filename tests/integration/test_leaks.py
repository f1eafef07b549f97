"""A million registrations, handles, touches and waits leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stillalive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far")

# Each does its work `n` times; a leak of a few bytes each time shows after that many.
SCRIPT = """
import gc, json, os, socket, sys
from stillalive.selector import EVENT_IDLE, EVENT_READ, EVENT_WRITE, Selector

R, W = EVENT_READ, EVENT_WRITE
a, b = socket.socketpair()
c, d = socket.socketpair()
selector = Selector()
out, into = os.pipe()
fds = [os.dup(out) for _ in range(100)]

class Data:
    pass

def register(n):
    for _ in range(n):
        selector.register(a, R, Data(), idle_timeout=30)
        selector.unregister(a)

def register_many(n):
    for _ in range(n // 100):
        for fd in fds:
            selector.register(fd, R, fd, idle_timeout=30)
        for fd in fds:
            selector.unregister(fd)

def refuse(n):
    selector.register(a, R)
    for _ in range(n // 4):
        try:
            selector.register(a, R, Data(), idle_timeout=30)
        except KeyError:
            continue
    selector.unregister(a)

def modify(n):
    selector.register(a, R)
    for _ in range(n // 2):
        selector.modify(a, W, Data())
        selector.modify(a, R, Data())
    selector.unregister(a)

def handle(n):
    kept = []
    for _ in range(n // 100):
        selector.register(a, R, Data(), idle_timeout=30)
        for _ in range(100):
            found = selector.handle(a)
            found.touch()
        kept.append(found)
        selector.unregister(a)
        if len(kept) == 100:
            assert not any(found.touch() for found in kept)
            kept.clear()

def limits(n):
    selector.register(a, R, idle_timeout=30)
    found = selector.handle(a)
    for at in range(n // 4):
        found.idle_timeout = 30 + at % 7
        found.pause()
        found.resume()
        found.idle_for()
    selector.unregister(a)

def select(n):
    selector.register(c, W, Data(), idle_timeout=30)
    for _ in range(n // 4):
        (event,) = selector.select(0)
    selector.unregister(c)
    for _ in range(n // 4):
        assert selector.select(0) == []

def idle(n):
    selector._engine.freeze(1000)
    selector.register(a, R, Data(), idle_timeout=0.01)
    found = selector.handle(a)
    for _ in range(n // 4):
        found.touch()
        selector._engine.advance(0.05)
        ((key, mask),) = selector.select(0)
        assert mask == EVENT_IDLE
    selector.unregister(a)

def shed(n):
    selector.register(a, R, idle_timeout=30)
    for _ in range(n // 10):
        selector.shed(5)
    selector.unregister(a)

def wake(n):
    for _ in range(n // 10):
        selector.wake()
        assert selector.select(0) == []

def selectors(n):
    for at in range(n // 500):
        made = Selector()
        made.register(a, R, made, idle_timeout=30)
        made.handle(a).touch()
        made.select(0)
        if at % 2:
            made.close()
        del made
        if at % 50 == 0:
            gc.collect()

def measure():
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {
        "kilobytes": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
    }

act, n = globals()[sys.argv[1]], int(sys.argv[2])
# Without a GIL memory is given back late, and it takes longer until it no longer grows.
has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
act(max(n // 10, 20_000) if has_gil else n)
before = measure()
act(n)
after = measure()
print(json.dumps({name: after[name] - before[name] for name in before}))
"""

ACTS = [
    *("register", "register_many", "refuse", "modify", "handle", "limits"),
    *("select", "idle", "shed", "wake", "selectors"),
]


def growth(impl: str, act: str, n: int) -> dict[str, int]:
    sources = str(Path(stillalive.__file__).parents[1])
    path = os.pathsep.join([sources, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, act, str(n)],
        env={**os.environ, "STILLALIVE_IMPL": impl, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize("act", ACTS)
def test_nothing_grows(impl, act):
    n = 100_000 if impl.NAME == "pure" else 1_000_000
    grown = growth(impl.NAME, act, n)
    print(grown)
    assert grown["descriptors"] == 0
    # The pure path drops what has ended from its heap in batches of a hundred or so.
    assert grown["objects"] < 300
    assert grown["blocks"] < 1000
    assert grown["kilobytes"] < 1000  # one byte each time would be that much


def test_a_leak_is_seen(monkeypatch):
    """Keep every hundredth of the data, and one descriptor."""
    leaky = SCRIPT.replace(
        "selector.unregister(a)\n\ndef register_many", "LEAK\n\ndef register_many"
    )
    leaky = leaky.replace("LEAK", "selector.unregister(a)\n    kept.append(os.dup(out))", 1)
    leaky = leaky.replace("class Data:\n    pass", "kept = []\nclass Data:\n" + LEAK)
    monkeypatch.setitem(globals(), "SCRIPT", leaky)
    grown = growth("pure", "register", 100_000)
    assert grown["descriptors"] == 1
    assert grown["objects"] > 700
    assert grown["blocks"] > 700


LEAK = """
    def __init__(self):
        Data.made = getattr(Data, "made", 0) + 1
        if Data.made % 100 == 0:
            kept.append(self)
"""
