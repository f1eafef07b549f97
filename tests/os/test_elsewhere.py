"""Where peers cannot be cut off, say so."""

from __future__ import annotations

import sys

import pytest


@pytest.mark.skipif(
    sys.platform != "linux", reason="peers are cut off in network namespaces, which are Linux's"
)
def test_the_network_of_these_tests_can_be_described():
    from .netlab import missing_requirement

    reason = missing_requirement()
    assert reason is None or reason.startswith("needs ")
