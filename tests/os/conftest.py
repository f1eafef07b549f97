"""Fixtures shared by the tests that need a network of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

if sys.platform == "linux":
    from .netlab import NetLab, missing_requirement, remove_stale_namespaces
else:
    collect_ignore_glob = ["test_*_peers.py", "test_many_connections.py", "test_wire.py"]


@pytest.fixture(scope="session")
def network_host() -> None:
    """Skip where namespaces cannot be made; clear what a killed run left behind."""
    reason = missing_requirement()
    if reason is not None:
        pytest.skip(reason)
    remove_stale_namespaces()


@pytest.fixture(scope="session")
def lab(network_host: None) -> Iterator[NetLab]:
    """A plain routed network."""
    network = NetLab()
    yield network
    network.close()


@pytest.fixture(scope="session")
def nat_lab(network_host: None) -> Iterator[NetLab]:
    """A network whose router forgets a connection after one idle second."""
    network = NetLab(nat_timeout=1)
    yield network
    network.close()
