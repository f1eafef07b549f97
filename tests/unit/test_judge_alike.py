"""The C judge and its pure twin, on the same connections."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillalive._backend import Info
from stillalive._pure import _judge as judging
from stillalive._pure._judge import Judgement, Limits, Past

EXT = Path(__file__).parents[2] / "ext"


def struct_of(name: str, *members: str | tuple[str, type]) -> type[ctypes.Structure]:
    fields = [(one, ctypes.c_int64) if isinstance(one, str) else one for one in members]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


CInfo = struct_of("CInfo", *Info._fields)
CLimits = struct_of("CLimits", *Limits._fields)
CPast = struct_of(
    "CPast",
    *("since_ms", "began_ms", "first_retrans", "first_probes", "acked", "acked_ms"),
    ("mark_ms", ctypes.c_int64 * 3),
    ("mark_bytes", ctypes.c_int64 * 3),
    "mark_out",
    *((name, ctypes.c_int32) for name in ("marks", "slow", "heard", "klass")),
)
CJudgement = struct_of(
    "CJudgement", ("klass", ctypes.c_int32), ("cause", ctypes.c_int32), "clock_ms", "again_ms"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    if not (EXT / "core" / "judge.c").exists():
        pytest.skip("the C core is not here")
    built = tmp_path_factory.mktemp("judge") / "judge.so"
    include = [f"-I{EXT / name}" for name in ("include", "core")]
    command = [compiler, "-std=c11", "-O1", "-shared", "-fPIC", *include]
    subprocess.run([*command, EXT / "core" / "judge.c", "-o", built], check=True)
    loaded = ctypes.CDLL(str(built))
    loaded.ka_past_begin.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 2
    loaded.ka_past_begin.restype = None
    loaded.ka_judge.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64, ctypes.c_void_p]
    loaded.ka_judge.restype = None
    loaded.ka_classify.argtypes = [ctypes.c_void_p]
    loaded.ka_payload_idle_ms.argtypes = [ctypes.c_void_p]
    loaded.ka_payload_idle_ms.restype = ctypes.c_int64
    return loaded


def remembered(past: ctypes.Structure) -> Past:
    """Read what the C side remembers as the twin would have it."""
    told = {name: getattr(past, name) for name, _ in past._fields_}
    marks = list(zip(told.pop("mark_ms"), told.pop("mark_bytes"), strict=True))
    told["marks"] = marks[: told["marks"]]
    return Past(**told | {"slow": bool(past.slow), "heard": bool(past.heard)})


class Step(NamedTuple):
    wait: int
    changes: dict[str, int]
    since: int | None
    """Moved to so long before now."""


WHOLE = st.integers(-1, 2**48)
SMALL = st.integers(-1, 3)
AGE = st.one_of(
    st.integers(-1, 12_000), st.sampled_from((0, 999, 1000, 4999, 5000, 5001, 8000)), WHOLE
)
COUNT = st.one_of(SMALL, st.integers(0, 3000), WHOLE)
LIMIT = st.one_of(
    st.just(-1), st.sampled_from((0, 1, 800, 1000, 5000, 8000)), st.integers(0, 20_000), WHOLE
)
FIELD: dict[str, st.SearchStrategy[int]] = (
    dict.fromkeys(Info._fields, COUNT)
    | {name: AGE for name in Info._fields if name.endswith("_recv_ms") or "_sent_ms" in name}
    | dict.fromkeys(("unacked", "notsent_bytes", "probes", "retransmits"), SMALL)
    | {name: st.integers(-1, 300) for name in ("bytes_received", "bytes_acked")}
    | {"state": st.one_of(st.sampled_from((1, 8, 1, 1)), st.integers(-1, 14))}
)
MOVING = (
    *("state", "unacked", "notsent_bytes", "probes", "retransmits", "total_retrans"),
    *("last_data_sent_ms", "last_data_recv_ms", "last_ack_recv_ms", "data_segs_in"),
    *("data_segs_out", "bytes_acked", "bytes_received"),
)
# Of a trickle: without it hardly any three marks would follow each other.
BYTES = st.builds(
    lambda count, age: {"bytes_received": count, "last_data_recv_ms": age},
    st.integers(0, 4000),
    st.integers(0, 6000),
)
CHANGES = st.one_of(
    st.fixed_dictionaries({}, optional={name: FIELD[name] for name in MOVING}), BYTES, BYTES
)
STEP = st.builds(
    Step,
    st.one_of(st.integers(0, 12_000), st.sampled_from((0, 10, 5000, 10_000, -5)), WHOLE),
    CHANGES,
    st.one_of(st.none(), st.none(), st.none(), st.integers(-10, 9000)),
)
LIMITS = st.builds(
    Limits, LIMIT, LIMIT, LIMIT, LIMIT, st.one_of(LIMIT, st.sampled_from((1, 100))), LIMIT, LIMIT
)
TRICKLE = {"state": 1, "unacked": 0, "notsent_bytes": 0, "data_segs_in": 1, "data_segs_out": 0}


def follow(
    library: ctypes.CDLL,
    limits: Limits,
    first: dict[str, int],
    since: int | None,
    steps: list[Step],
    told: Callable[[Judgement], object] = lambda judgement: None,
) -> None:
    now = 10_000_000
    fields = dict(first)
    since_ms = 0 if since is None else now - since
    info, c_past, c_limits = CInfo(**fields), CPast(), CLimits(*limits)
    library.ka_past_begin(ctypes.byref(c_past), ctypes.byref(info), since_ms, now)
    past = judging.begin(Info(**fields), since_ms, now)
    assert remembered(c_past) == past
    for step in steps:
        now += step.wait
        fields |= step.changes
        if step.since is not None:
            c_past.since_ms = past.since_ms = now - step.since
        info, judgement = CInfo(**fields), CJudgement()
        library.ka_judge(*map(ctypes.byref, (c_limits, c_past, info)), now, ctypes.byref(judgement))
        want = judging.judge(limits, past, Info(**fields), now)
        got = Judgement(*(getattr(judgement, name) for name in Judgement._fields))
        assert got == want
        assert remembered(c_past) == past
        assert library.ka_classify(ctypes.byref(info)) == want.klass
        idle_ms = judging.payload_idle_ms(Info(**fields))
        assert library.ka_payload_idle_ms(ctypes.byref(info)) == idle_ms
        told(want)


@given(
    limits=LIMITS,
    first=st.fixed_dictionaries(FIELD),
    since=st.one_of(st.none(), st.integers(-10, 9000)),
    steps=st.lists(STEP, min_size=1, max_size=8),
)
def test_any_numbers(library, limits, first, since, steps):
    follow(library, limits, first, since, steps)


@given(
    limits=LIMITS,
    first=st.fixed_dictionaries(FIELD),
    steps=st.lists(st.builds(Step, st.integers(4990, 5100), BYTES, st.none()), min_size=3),
)
def test_a_trickle(library, limits, first, steps):
    follow(library, limits, first | TRICKLE, None, steps)


def test_each_cause_is_seen(library):
    """The two agree on causes, not only on their absence."""
    seen = set()
    base = dict.fromkeys(Info._fields, 0) | TRICKLE
    quiet = {"last_data_recv_ms": 9000, "last_data_sent_ms": 9000, "last_ack_recv_ms": 9000}
    marks = [Step(5000, {"bytes_received": n}, None) for n in (1, 2, 3)]
    for limits, changes, steps in [
        (Limits(never_spoke_ms=1), quiet, [Step(0, {}, None)]),
        (Limits(unanswered_ms=1), quiet | {"bytes_received": 9}, [Step(0, {}, None)]),
        (Limits(answered_ms=1), quiet | {"data_segs_out": 9}, [Step(0, {}, None)]),
        (Limits(idle_ms=1), quiet, [Step(0, {}, None)]),
        (Limits(detect_ms=1), quiet | {"probes": 2}, [Step(0, {}, None)]),
        (Limits(stalled_ms=1), quiet | {"unacked": 2}, [Step(0, {}, None), Step(9, {}, None)]),
        (Limits(min_rate=9), {}, marks),
    ]:
        follow(library, limits, base | changes, None, steps, lambda told: seen.add(told.cause))
    assert seen == {0, 1, 2, 3, 4, 5, 8, 9}
