"""Setting keepalive on a connected socket, and describing it."""

from __future__ import annotations

import socket

import stillalive
from stillalive import KeepAlive

from .sockets import on_path, pair
from .timing import Contender, measure, statement
from .topic import Bench, Goal, Topic

__all__ = ["describe", "tune"]

_LIMIT = "raw C, 5 setsockopt"
_PURE_POLICY = "pure: Policy.apply(fd)"
_PURE_TUNE = "pure: tune(sock, KeepAlive(...))"
_PURE_WISH = "pure: tune(sock, detect_within=30)"
_COMPILED = "c: Policy.apply(fd)"
_FIVE_CALLS = """\
set_(SOL_SOCKET, SO_KEEPALIVE, 1)
set_(IPPROTO_TCP, TCP_KEEPINTVL, 10)
set_(IPPROTO_TCP, TCP_KEEPCNT, 4)
set_(IPPROTO_TCP, TCP_USER_TIMEOUT, 90000)
set_(IPPROTO_TCP, TCP_KEEPIDLE, 60)"""


def tune(bench: Bench) -> Topic:
    """Measure setting SO_KEEPALIVE, IDLE, INTVL, CNT and USER_TIMEOUT."""
    with pair() as (client, _):
        rows = measure(_ways_to_tune(bench, client), bench.effort, _LIMIT)
    ratio = next(row.to_limit for row in rows if row.name == _COMPILED)
    assert ratio is not None
    return Topic(
        key="tune",
        title="tune: five options on a connected socket",
        limit=_LIMIT,
        rows=rows,
        notes=(
            (
                "tune() checks ranges, reads everything before, sets, reads back what the kernel "
                "holds, and restores on failure; a Policy sets and nothing else, as raw C does."
            ),
            "detect_within=30 also plans, and sets rto_max where the kernel has it.",
            "An accepted socket inherits all of it from a tuned listener: no call at all.",
        ),
        goals=(Goal("compiled policy / raw C", ratio, 1.25),),
    )


def _ways_to_tune(bench: Bench, client: socket.socket) -> list[Contender]:
    policy = KeepAlive(idle=60, interval=10, count=4, user_timeout=90)
    values = policy.values()
    fd = client.fileno()
    native = bench.native
    names = {
        "fd": fd,
        "sock": client,
        "policy": policy,
        "tune": stillalive.tune,
        "fast": bench.compiled.Policy(values),
        "slow": bench.pure.Policy(values),
        "set_": client.setsockopt,
        "SOL_SOCKET": socket.SOL_SOCKET,
        "SO_KEEPALIVE": socket.SO_KEEPALIVE,
        "IPPROTO_TCP": socket.IPPROTO_TCP,
        "TCP_KEEPINTVL": socket.TCP_KEEPINTVL,
        "TCP_KEEPCNT": socket.TCP_KEEPCNT,
        "TCP_USER_TIMEOUT": 18,
        "TCP_KEEPIDLE": socket.TCP_KEEPIDLE,
    }
    public = statement("tune(sock, policy)", names)
    wish = statement("tune(sock, detect_within=30)", names)
    return [
        Contender("5 x getppid (system call floor)", native.five_getppid, interpreted=False),
        Contender(_LIMIT, lambda n: native.tune(fd, values, n), interpreted=False),
        Contender(
            "C core: ka_apply_fresh",
            lambda n: native.apply_fresh(fd, values, n),
            interpreted=False,
        ),
        Contender(_COMPILED, statement("fast.apply(fd)", names), twin=_PURE_POLICY),
        Contender("five Python setsockopt calls", statement(_FIVE_CALLS, names)),
        Contender(_PURE_POLICY, statement("slow.apply(fd)", names)),
        Contender(
            "C core: ka_apply (read, set, read back)",
            lambda n: native.apply(fd, values, n),
            interpreted=False,
        ),
        Contender(
            "c: tune(sock, KeepAlive(...))", on_path(bench.compiled, public), twin=_PURE_TUNE
        ),
        Contender(_PURE_TUNE, on_path(bench.pure, public)),
        Contender(
            "c: tune(sock, detect_within=30)", on_path(bench.compiled, wish), twin=_PURE_WISH
        ),
        Contender(_PURE_WISH, on_path(bench.pure, wish)),
    ]


def describe(bench: Bench) -> Topic:
    """Measure reading all options and TCP_INFO, with bounds and warnings."""
    limit = "raw C, 6 getsockopt + TCP_INFO"
    twin, plain_twin = "pure: describe(sock)", "pure: describe(sock), no user_timeout"
    with pair() as (client, server):
        stillalive.tune(client, idle=60, interval=10, count=4, user_timeout=90)
        stillalive.tune(server, idle=60, interval=10, count=4)
        fd = client.fileno()
        names = {"client": client, "server": server, "describe": stillalive.describe}
        call = statement("describe(client)", names)
        plain = statement("describe(server)", names)
        ways = [
            Contender(limit, lambda n: bench.native.describe(fd, n), interpreted=False),
            Contender("c: describe(sock)", on_path(bench.compiled, call), twin=twin),
            Contender(twin, on_path(bench.pure, call)),
            Contender(
                "c: describe(sock), no user_timeout",
                on_path(bench.compiled, plain),
                twin=plain_twin,
            ),
            Contender(plain_twin, on_path(bench.pure, plain)),
        ]
        rows = measure(ways, bench.effort, limit)
    return Topic(
        key="describe",
        title="describe: what the kernel will do about a vanished peer",
        limit=limit,
        rows=rows,
        notes=("Without a user_timeout the bound depends on tcp_retries2, which is read anew.",),
    )
