"""What will the kernel do about each TCP socket of this process?

A page like this in a server's admin interface, or on SIGUSR1, shows which
connections nobody would miss: those with "never" in the second column.
"""

import os
import socket

import stillalive


def tcp_sockets():
    """Yield the descriptors of this process that are TCP sockets."""
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            stillalive.describe(int(name))
        except OSError:  # a file, a pipe, a UDP socket, or closed meanwhile
            continue
        yield int(name)


def bound(seconds):
    return "never" if seconds is None else f"{seconds:.1f} s"


def peer_of(fd):
    with socket.socket(fileno=os.dup(fd)) as duplicate:
        try:
            return "{}:{}".format(*duplicate.getpeername()[:2])
        except OSError:
            return "-"


def table():
    yield "fd", "told if idle", "told if in flight", "state", "heard", "peer"
    for fd in tcp_sockets():
        held = stillalive.describe(fd)
        info = held.tcp_info
        yield (
            str(fd),
            bound(held.detects_idle_within),
            bound(held.detects_in_flight_within),
            info.state.name,
            "-" if info.heard_ago is None else f"{info.heard_ago:.1f} s ago",
            peer_of(fd),
        )


def main():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tuned = socket.create_connection(listener.getsockname())
        untouched = socket.create_connection(listener.getsockname())
        with tuned, untouched:
            stillalive.tune(tuned, detect_within=30)
            rows = list(table())
            for row in rows:
                print("{:>4}  {:>12}  {:>17}  {:<12}  {:>10}  {}".format(*row))
            told = {row[0]: row[1] for row in rows}
            assert told[str(tuned.fileno())] == "26.0 s"
            assert told[str(untouched.fileno())] == "never"


if __name__ == "__main__":
    main()
