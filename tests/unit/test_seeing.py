"""Which limits are refused where, and in what words."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from stillalive import NotSupportedError, _limits, _seeing, guard
from stillalive import _backend as b
from stillalive._systems import SYSTEMS

COUNTED = [name for name in _limits.LIMITS if name != "detect_within"] + ["idle_timeout"]


@pytest.mark.parametrize("key", ["linux", "darwin", "windows"])
@pytest.mark.parametrize("name", [*COUNTED, "detect_within"])
def test_where_the_payload_is_counted_all_limits_can_be_kept(key: str, name: str) -> None:
    _seeing.refuse([name], SYSTEMS[key])


@pytest.mark.parametrize("key", ["freebsd", "netbsd", "openbsd"])
@pytest.mark.parametrize("name", [name for name in COUNTED if name != "idle_timeout"])
def test_where_it_is_not_nobody_guesses(
    key: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_seeing, "_is_root", lambda: True)
    said = rf"{name}.*{SYSTEMS[key].title}.*payload.*sequence numbers.*before the first look"
    with pytest.raises(NotSupportedError, match=said):
        _seeing.refuse([name], SYSTEMS[key])


def test_without_numbers_not_even_idleness_can_be_told() -> None:
    row = replace(SYSTEMS["freebsd"], sequence_numbers=False)
    with pytest.raises(NotSupportedError, match=r"idle_timeout.*does not count.*who spoke$"):
        _seeing.refuse(["idle_timeout"], row)


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("key", ["freebsd", "netbsd"])
def test_numbers_suffice_for_idleness(
    key: str, root: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_seeing, "_is_root", lambda: root)
    _seeing.refuse(["idle_timeout"], SYSTEMS[key])


def test_openbsd_tells_its_numbers_to_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_seeing, "_is_root", lambda: True)
    _seeing.refuse(["idle_timeout"], SYSTEMS["openbsd"])
    monkeypatch.setattr(_seeing, "_is_root", lambda: False)
    with pytest.raises(NotSupportedError, match="idle_timeout.*OpenBSD.*root alone"):
        _seeing.refuse(["idle_timeout"], SYSTEMS["openbsd"])


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users")
def test_who_is_root_is_told_by_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert _seeing._is_root()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not _seeing._is_root()


@pytest.mark.parametrize("key", ["netbsd", "openbsd", "windows"])
def test_where_nothing_aborts_the_rest_is_named(key: str) -> None:
    with pytest.raises(NotSupportedError, match=rf"'abort'.*{SYSTEMS[key].title}.*'shutdown'"):
        _seeing.refuse_abort(SYSTEMS[key])


@pytest.mark.parametrize("key", ["linux", "darwin", "freebsd"])
def test_elsewhere_every_action_can_be_done(key: str) -> None:
    _seeing.refuse_abort(SYSTEMS[key])


@pytest.mark.parametrize("key", ["netbsd", "openbsd"])
def test_a_watch_asks_for_its_action_too(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_seeing, "system", lambda: SYSTEMS[key])
    monkeypatch.setattr(_seeing, "_is_root", lambda: True)
    with pytest.raises(NotSupportedError, match="action='abort'"):
        guard._wish(None, 60, "abort", None)
    assert guard._wish(None, 60, "shutdown", None).idle == 60
    with pytest.raises(NotSupportedError, match="detect_within"):
        guard._wish(60, None, "shutdown", None)


@pytest.mark.parametrize("key", ["netbsd", "openbsd"])
def test_a_deadline_needs_probes_that_can_be_set_and_read(key: str) -> None:
    with pytest.raises(NotSupportedError, match=rf"detect_within.*{SYSTEMS[key].title}"):
        _seeing.refuse(["detect_within"], SYSTEMS[key])
    _seeing.refuse(["detect_within"], SYSTEMS["freebsd"])


def test_where_nothing_can_be_done_nothing_is_promised() -> None:
    with pytest.raises(NotSupportedError, match="detect_within"):
        _seeing.refuse(["detect_within"], SYSTEMS["other"])
    _seeing.refuse([], SYSTEMS["other"])


@pytest.mark.parametrize("name", _limits.LIMITS)
def test_a_guard_finds_nothing_on_windows(name: str) -> None:
    with pytest.raises(NotSupportedError, match=rf"{name}.*Windows.*no call lists the sockets"):
        _seeing.refuse([name], SYSTEMS["windows"], found=True)
    _seeing.refuse(["detect_within"], SYSTEMS["freebsd"], found=True)


NEW = (0, 7200, 1, 10, 0, b.LEAVE)
COUNTED_INFO = b.Info(*(-1,) * len(b.Info._fields))._replace(bytes_received=0)


@pytest.mark.parametrize("option", [b.IDLE, b.INTERVAL, b.COUNT])
@pytest.mark.parametrize("value", [b.LEAVE, b.UNREADABLE])
def test_an_older_windows_cannot_keep_a_deadline(option: int, value: int) -> None:
    held = tuple(value if number == option else own for number, own in enumerate(NEW))
    with pytest.raises(NotSupportedError, match="detect_within.*TCP_KEEPIDLE.*Windows 10 1709"):
        _seeing.refuse_here(held, None, SYSTEMS["windows"])  # type: ignore[arg-type]
    _seeing.refuse_here(held, None, SYSTEMS["linux"])  # type: ignore[arg-type]


def test_an_older_windows_does_not_count() -> None:
    with pytest.raises(NotSupportedError, match="idle_timeout.*SIO_TCP_INFO.*Windows 10 1703"):
        _seeing.refuse_here(None, COUNTED_INFO._replace(bytes_received=-1), SYSTEMS["windows"])
    _seeing.refuse_here(NEW, COUNTED_INFO, SYSTEMS["windows"])
    _seeing.refuse_here(None, None, SYSTEMS["windows"])


def test_only_linux_is_told_the_answers() -> None:
    assert [key for key, row in SYSTEMS.items() if not _seeing.decides_itself(row)] == ["linux"]
    assert [key for key, row in SYSTEMS.items() if _seeing.names_its_own(row)] == ["linux"]
