"""The table of middleboxes: every row is sourced, and every row can be used."""

from __future__ import annotations

import re

import pytest

from stillalive import PRESETS, KeepAlive, Preset, _rules
from stillalive._backend import Backend

from .. import needs

L4 = [preset for preset in PRESETS.values() if preset.layer == "L4"]
L7 = [preset for preset in PRESETS.values() if preset.layer == "L7"]

each = pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
each_l4 = pytest.mark.parametrize("preset", L4, ids=lambda preset: preset.name)
each_l7 = pytest.mark.parametrize("preset", L7, ids=lambda preset: preset.name)


def test_known_products_are_there() -> None:
    wanted = {"aws-nlb": 350, "aws-nat-gateway": 350, "azure-lb": 240, "gcp-vpc": 600}
    wanted |= {"docker-swarm": 900, "rfc5382": 7440, "unknown-nat": 30}
    assert {name: PRESETS[name].timeout for name in wanted} == wanted


def test_table_is_read_only() -> None:
    with pytest.raises(TypeError):
        PRESETS["mine"] = PRESETS["aws-nlb"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        PRESETS["aws-nlb"].timeout = 1  # type: ignore[misc]


def test_every_row_is_a_layer_4_or_layer_7_row() -> None:
    assert len(L4) + len(L7) == len(PRESETS)
    assert L4
    assert L7


@each
def test_row_is_complete_and_sourced(preset: Preset) -> None:
    assert PRESETS[preset.name] is preset
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", preset.name)
    assert preset.title
    assert preset.timeout > 0
    assert len(preset.source) > 10


@each
def test_source_is_a_url_or_names_a_document(preset: Preset) -> None:
    source = preset.source
    assert source.startswith("https://") or "documentation" in source or "," in source


@each_l4
def test_planning_refreshes_an_l4_box_twice_in_time(preset: Preset, impl: Backend) -> None:
    policy = KeepAlive.plan(middlebox=preset.name)

    assert policy.idle is not None
    assert policy.interval is not None
    assert policy.idle <= preset.timeout / 2
    assert _rules.with_lateness(policy.idle + policy.interval) <= preset.timeout


@each_l4
def test_l4_box_and_a_deadline_can_be_met_together(preset: Preset, impl: Backend) -> None:
    needs.options(impl, "user_timeout")
    policy = KeepAlive.plan(middlebox=preset.name, detect_within=30)

    assert policy.idle is not None
    assert policy.idle <= preset.timeout / 2
    assert policy.detects_idle_within is not None
    assert policy.detects_idle_within <= 30


@each_l7
def test_l7_box_is_refused_with_advice(preset: Preset) -> None:
    with pytest.raises(ValueError, match="keepalive cannot refresh it") as caught:
        KeepAlive.plan(middlebox=preset.name)

    message = str(caught.value)
    assert repr(preset.name) in message
    assert f"{preset.timeout:g} s" in message
    assert "bytes of the application" in message


def test_unknown_name_is_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match="no such preset") as caught:
        KeepAlive.plan(middlebox="aws")

    assert all(name in str(caught.value) for name in PRESETS)
