"""The collector says what the Guard's counters say, by Prometheus's rules."""

from __future__ import annotations

import socket
import time

import pytest

from stillalive.guard import Guard

client = pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")

from stillalive.integrations.prometheus import GuardCollector  # noqa: E402


def test_every_counter_is_there(impl):
    guard = Guard(never_spoke=1)
    registry = client.CollectorRegistry()
    registry.register(GuardCollector(guard, {"server": "api"}))
    with socket.create_server(("127.0.0.1", 0)) as listener, guard:
        mine = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
        other.settimeout(10)
        assert other.recv(1) == b""
        deadline = time.monotonic() + 5
        name = "stillalive_guard_connections_told_total"
        labels = {"server": "api", "cause": "never_spoke"}
        while registry.get_sample_value(name, labels) != 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert registry.get_sample_value(name, labels) == 1
        mine.close()
        other.close()
    text = client.generate_latest(registry).decode()
    stats = guard.stats()
    for key in stats:
        if key.startswith(("told_", "spared_")):
            assert f'"{key.partition("_")[2]}"' in text
    assert 'stillalive_guard_tracked{server="api"} 0.0' in text
    assert "stillalive_guard_cpu_seconds_total" in text
    assert registry.get_sample_value("stillalive_guard_looks_total", {"server": "api"}) > 0


def test_two_guards_need_labels():
    registry = client.CollectorRegistry()
    registry.register(GuardCollector(Guard(never_spoke=60), {"guard": "a"}))
    registry.register(GuardCollector(Guard(never_spoke=60), {"guard": "b"}))
    text = client.generate_latest(registry).decode()
    assert 'stillalive_guard_tracked{guard="a"}' in text
    assert 'stillalive_guard_tracked{guard="b"}' in text


@pytest.mark.parametrize("guard", ["x", None, Guard])
def test_what_is_no_guard_is_refused(guard):
    with pytest.raises(TypeError, match="guard=.*: must be a Guard"):
        GuardCollector(guard)


@pytest.mark.parametrize("labels", [{"a": 1}, {1: "a"}, ["a"], "a"])
def test_labels_are_strings(labels):
    with pytest.raises(TypeError, match="labels=.*: must be a mapping of str to str"):
        GuardCollector(Guard(never_spoke=1), labels)
