"""Fixtures of the unit tests: a Selector on each implementation and each mechanism."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from stillalive import _impl
from stillalive._backend import Backend
from stillalive.selector import Selector

from .. import needs
from ..conftest import IMPLEMENTATIONS, Pair

WATCHING = (
    "test_guard_lifetime test_prometheus test_watch_options test_watcher test_watcher_discovery "
    "test_watcher_ends test_watcher_hazards"
).split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what watches connections of others where that does not exist."""
    if needs.WINDOWS:
        reason = "nothing is done to connections of others on Windows"
        for item in items:
            if item.path.stem in WATCHING:
                item.add_marker(pytest.mark.skip(reason=reason))


MECHANISMS = list(
    dict.fromkeys(name for one in IMPLEMENTATIONS for name in _impl.choose(one).mechanisms())
)
"""What this system has, the best first; epoll or kqueue, and poll."""


@pytest.fixture(params=MECHANISMS)
def mechanism(
    request: pytest.FixtureRequest, impl: Backend, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Force one mechanism, as a user would."""
    name: str = request.param
    if name not in impl.mechanisms():
        pytest.skip(f"this implementation has no {name} here")
    monkeypatch.setenv("STILLALIVE_BACKEND", name)
    return name


@pytest.fixture
def epoll(impl: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Force epoll, for what only epoll does."""
    if "epoll" not in impl.mechanisms():
        pytest.skip("this system has no epoll")
    monkeypatch.setenv("STILLALIVE_BACKEND", "epoll")


@pytest.fixture
def selector(mechanism: str) -> Iterator[Selector]:
    """Make one that is closed after the test; its time is the real one."""
    with Selector() as made:
        yield made


@pytest.fixture(params=[2**31 - 150, 2**32 - 150])
def still(selector: Selector, request: pytest.FixtureRequest) -> Selector:
    """Make one whose time stands still, shortly before its ticks change sign or wrap round."""
    selector._engine.freeze(request.param)
    return selector


@pytest.fixture
def pair() -> Iterator[Callable[[], Pair]]:
    """Make pairs of connected local sockets that are closed after the test."""
    with contextlib.ExitStack() as stack:

        def make() -> Pair:
            a, b = socket.socketpair()
            for end in (a, b):
                end.setblocking(False)
                stack.enter_context(end)
            return a, b

        yield make
