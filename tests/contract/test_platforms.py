"""Docs, evidence, capability table and the table of systems say the same."""

from __future__ import annotations

import pytest

from stillalive import _captable, _evidence, _impl, _systems, capabilities
from stillalive._evidence import COLUMNS, EVIDENCE, KINDS, NOT, RAN
from stillalive._systems import LISTED, OPTION_NAMES, SYSTEMS, Option

from . import platform_tables as tables

CELLS = [(feature, key) for feature in EVIDENCE for key in COLUMNS]


def wrong_cells(evidence=EVIDENCE):
    """Say which cells have evidence for what is not supported, or none for what is."""
    return [
        f"{feature} on {key}: {evidence[feature][key]}"
        for feature in (*OPTION_NAMES, *_captable.CALLS)
        for key in COLUMNS
        if supported(feature, key) == (evidence[feature][key] == NOT)
    ]


def supported(feature: str, key: str) -> bool:
    if feature in OPTION_NAMES:
        return SYSTEMS[key].option(OPTION_NAMES.index(feature)) is not None
    return SYSTEMS[key].call(feature).supported


def test_every_supported_cell_has_evidence_and_no_other_has():
    assert wrong_cells() == []


def test_a_wrong_cell_is_found():
    changed = {feature: dict(cells) for feature, cells in EVIDENCE.items()}
    changed["rto_max"]["windows"] = RAN
    changed["tune"]["linux"] = NOT
    assert wrong_cells(changed) == [
        "rto_max on windows: ran natively",
        "tune on linux: not supported",
    ]


def test_every_feature_and_every_system_has_a_place():
    assert set(EVIDENCE) >= {*OPTION_NAMES, *_captable.CALLS}
    assert set(COLUMNS) == set(SYSTEMS) - {"other"}
    assert {call for row in SYSTEMS.values() for call in row.calls} == set(_captable.CALLS)


@pytest.mark.parametrize(("feature", "key"), CELLS)
def test_evidence_is_of_a_known_kind_and_fits_the_system(feature, key):
    found = EVIDENCE[feature][key]
    assert found in KINDS
    assert found != RAN or key == "linux"
    assert not found.startswith("under wine") or key == "windows"
    assert found != _evidence.LIBKQUEUE or (key != "windows" and "kqueue" in feature)


@pytest.mark.parametrize("name", tables.TABLES)
def test_the_page_has_the_table(name):
    text = tables.PAGE.read_text(encoding="utf-8")
    assert tables.between(text, name)[1] == tables.rendered(name), (
        "python -m tests.contract.platform_tables writes it"
    )


def test_the_page_names_the_systems_that_are_not_supported():
    text = tables.PAGE.read_text(encoding="utf-8")
    for title in LISTED:
        assert title in text


@pytest.mark.parametrize("key", COLUMNS)
def test_capabilities_say_what_the_evidence_says(key, monkeypatch, impl):
    row = SYSTEMS[key]
    every = sum(1 << n for n, option in enumerate(row.options) if isinstance(option, Option))
    monkeypatch.setattr(_systems, "system", lambda: row)
    monkeypatch.setattr(impl, "supported", lambda: every)
    found = capabilities()
    path = _evidence.PURE if _impl.backend.NAME == "pure" else None
    for name, one in {**found.options, **found.calls}.items():
        told = EVIDENCE[name][key]
        if path and name in _captable.WATCHING and key != "linux":
            told = NOT
        assert one.supported == (told != NOT)
        assert one.evidence == (EVIDENCE[path][key] if path and told != NOT else told)
