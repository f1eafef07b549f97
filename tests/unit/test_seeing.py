"""Which limits are refused where, and in what words."""

from __future__ import annotations

import pytest

from stillalive import NotSupportedError, _limits, _seeing
from stillalive._systems import SYSTEMS

COUNTED = [name for name in _limits.LIMITS if name != "detect_within"] + ["idle_timeout"]


@pytest.mark.parametrize("key", ["linux", "darwin"])
@pytest.mark.parametrize("name", [*COUNTED, "detect_within"])
def test_where_the_payload_is_counted_all_limits_can_be_kept(key: str, name: str) -> None:
    _seeing.refuse([name], SYSTEMS[key])


@pytest.mark.parametrize("key", ["freebsd", "netbsd", "openbsd"])
@pytest.mark.parametrize("name", COUNTED)
def test_where_it_is_not_nobody_guesses(key: str, name: str) -> None:
    with pytest.raises(NotSupportedError, match=rf"{name}.*{SYSTEMS[key].title}.*payload"):
        _seeing.refuse([name], SYSTEMS[key])


@pytest.mark.parametrize("key", ["netbsd", "openbsd"])
def test_a_deadline_needs_probes_that_can_be_set_and_read(key: str) -> None:
    with pytest.raises(NotSupportedError, match=rf"detect_within.*{SYSTEMS[key].title}"):
        _seeing.refuse(["detect_within"], SYSTEMS[key])
    _seeing.refuse(["detect_within"], SYSTEMS["freebsd"])


@pytest.mark.parametrize("key", ["windows", "other"])
def test_where_nothing_can_be_done_nothing_is_promised(key: str) -> None:
    with pytest.raises(NotSupportedError, match="detect_within"):
        _seeing.refuse(["detect_within"], SYSTEMS[key])
    _seeing.refuse([], SYSTEMS[key])


def test_only_linux_is_told_the_answers() -> None:
    assert [key for key, row in SYSTEMS.items() if not _seeing.decides_itself(row)] == ["linux"]
    assert [key for key, row in SYSTEMS.items() if _seeing.names_its_own(row)] == ["linux"]
