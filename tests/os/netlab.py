"""A test network of three namespaces: client - router - server.

Faults are applied per connection in the router's forward hook, where neither end can see them: an
end whose packets vanish gets no local error, exactly as with a peer that lost power. Because every
fault names one connection by its client port, many scenarios share one network and each has its
own timeline.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import hashlib
import itertools
import json
import math
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

T = TypeVar("T")
Prepare = Callable[[socket.socket], object]

CLONE_NEWNET = 0x40000000
NAMESPACES = Path("/run/netns")
PREFIX = "sa-"
COMMAND_TIMEOUT = 20.0
IO_TIMEOUT = 10.0

ADDRESSES = {
    socket.AF_INET: ("10.77.1.1", "10.77.2.1"),
    socket.AF_INET6: ("fd77:1::1", "fd77:2::1"),
}

RULES = """
table inet lab {
    set cut_out { type inet_service; }
    set cut_back { type inet_service; }
    set unreachable { type inet_service; }
    chain forward {
        type filter hook forward priority 0; policy accept;
        tcp sport @cut_out drop
        tcp dport @cut_back drop
        tcp sport @unreachable reject with icmpx type host-unreachable
        jump losses
    }
    chain losses { }
}
"""

NAT_RULES = """
table inet nat {
    set resetting { type inet_service; }
    chain postrouting {
        type nat hook postrouting priority 100; policy accept;
        oifname "server" masquerade
    }
    chain unknown {
        type filter hook forward priority -10; policy accept;
        ct state invalid tcp dport @resetting reject with tcp reset
        ct state invalid drop
    }
}
"""


def missing_requirement() -> str | None:
    """Why this host cannot make the network, or None when it can."""
    if sys.platform != "linux":
        return "needs Linux network namespaces"
    if os.geteuid() != 0:
        return "needs root to make network namespaces"
    for tool in ("ip", "nft"):
        if shutil.which(tool) is None:
            return f"needs the {tool!r} command to make network namespaces"
    return None


def run_command(*argv: str, text: str | None = None) -> str:
    """Run a command to its end; a failure carries what it printed."""
    done = subprocess.run(
        argv, input=text, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False
    )
    if done.returncode:
        raise OSError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def remove_stale_namespaces() -> None:
    """Delete the namespaces of test processes that are gone."""
    for path in NAMESPACES.glob(f"{PREFIX}*"):
        owner = path.name.removeprefix(PREFIX).split("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            with contextlib.suppress(OSError):
                run_command("ip", "netns", "delete", path.name)


def enter_namespace(name: str) -> None:
    """Move the calling thread, and it alone, into a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(NAMESPACES / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), name)
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Ending:
    """How and when the kernel ended a connection."""

    moment: float
    error: int


def wait_for_error(sock: socket.socket, timeout: float) -> bool:
    """Wait for an error condition without taking the error from the socket's owner.

    Asking for no event at all leaves the error conditions, so neither data nor a FIN wakes us.
    """
    poller = select.poll()
    poller.register(sock, 0)
    return bool(poller.poll(max(0, timeout * 1000)))


def wait_for_end(sock: socket.socket, timeout: float) -> Ending | None:
    """Wait until the kernel ends a connection; None when it outlives the timeout."""
    if not wait_for_error(sock, timeout):
        return None
    moment = time.monotonic()
    return Ending(moment, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def tcp_option(sock: socket.socket, option: int) -> int:
    """An integer option of the TCP level, as the kernel holds it."""
    return sock.getsockopt(socket.IPPROTO_TCP, option)


def user_timeout(sock: socket.socket) -> float:
    """TCP_USER_TIMEOUT in seconds."""
    return tcp_option(sock, socket.TCP_USER_TIMEOUT) / 1000


def retransmission_timeout(sock: socket.socket) -> float:
    """The current RTO in seconds (tcpi_rto)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 12)
    return float(struct.unpack_from("I", info, 8)[0] / 1e6)


def idle_death(sock: socket.socket) -> float:
    """Seconds of silence after which this kernel ends an idle connection.

    Death is only decided when a probe is due; a user timeout replaces the probe count there.
    """
    idle = tcp_option(sock, socket.TCP_KEEPIDLE)
    interval = tcp_option(sock, socket.TCP_KEEPINTVL)
    limit = user_timeout(sock)
    if not limit:
        return idle + interval * tcp_option(sock, socket.TCP_KEEPCNT)
    return idle + interval * max(1, math.ceil((limit - idle) / interval))


def in_flight(sock: socket.socket) -> int:
    """Bytes (a FIN counts as one) written but not yet acknowledged."""
    count = fcntl.ioctl(sock, termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", count)[0])


def until(condition: Callable[[], bool], timeout: float = IO_TIMEOUT) -> None:
    """Wait for a condition that must come true."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the awaited condition did not come true")
        time.sleep(0.01)


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Receive ``size`` bytes, or what came before the end of the stream."""
    received = bytearray()
    while len(received) < size:
        chunk = sock.recv(size - len(received))
        if not chunk:
            break
        received += chunk
    return bytes(received)


def small_buffers(sock: socket.socket) -> None:
    """Keep what a stalled connection holds small."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)


def fill(sock: socket.socket) -> bytes:
    """Write until the peer's window and our buffer are full; what was written."""
    written = bytearray()
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    while poller.poll(300):
        block = os.urandom(8192)
        written += block[: sock.send(block, socket.MSG_DONTWAIT)]
    return bytes(written)


class Reader:
    """What a background reader has received."""

    def __init__(self) -> None:
        self.received = 0
        self.digest = hashlib.sha256()
        self.ended = False


@contextlib.contextmanager
def background_reader(sock: socket.socket) -> Iterator[Reader]:
    """Read everything that arrives until the stream or the block ends."""
    reader = Reader()
    stop = threading.Event()

    # A timeout set on the socket would also cut short what another thread sends on it.
    poller = select.poll()
    poller.register(sock, select.POLLIN)

    def read() -> None:
        while not stop.is_set():
            if not poller.poll(100):
                continue
            try:
                data = sock.recv(1 << 18)
            except OSError:
                return
            reader.received += len(data)
            reader.digest.update(data)
            if not data:
                reader.ended = True
                return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield reader
    finally:
        stop.set()
        thread.join(timeout=IO_TIMEOUT)


class Namespace:
    """A network namespace with one thread living in it.

    A socket stays in the namespace it was created in, whichever thread uses it later; a child
    process starts in the namespace of the thread that spawned it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        run_command("ip", "netns", "add", name)
        self._thread = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix=name, initializer=enter_namespace, initargs=(name,)
        )

    def call(self, function: Callable[..., T], *args: object) -> T:
        """Run a function inside the namespace."""
        return self._thread.submit(function, *args).result(timeout=COMMAND_TIMEOUT + 5)

    def command(self, *argv: str, text: str | None = None) -> str:
        """Run a command inside the namespace."""
        return self.call(lambda: run_command(*argv, text=text))

    def ip(self, *lines: str, family: str = "-4") -> None:
        """Run several ``ip`` commands in one process."""
        self.command("ip", family, "-batch", "-", text="\n".join(lines) + "\n")

    def sysctl(self, **settings: int) -> None:
        """Write sysctls; a double underscore in a name stands for the path separator."""

        def write() -> None:
            for name, value in settings.items():
                Path("/proc/sys/net", name.replace("__", "/")).write_text(f"{value}\n")

        self.call(write)

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        with contextlib.suppress(OSError):
            run_command("ip", "netns", "delete", self.name)


@dataclass(frozen=True)
class Listener:
    """A listening socket in the server namespace."""

    sock: socket.socket
    family: socket.AddressFamily
    port: int


@dataclass
class Connection:
    """Both ends of one connection, and the faults the router applies to it."""

    lab: NetLab
    client: socket.socket
    server: socket.socket
    port: int

    def cut(self) -> None:
        """Drop every packet in both directions."""
        self.lab.nft(
            f"add element inet lab cut_out {{ {self.port} }}",
            f"add element inet lab cut_back {{ {self.port} }}",
        )

    def cut_return(self) -> None:
        """Drop only what the server sends."""
        self.lab.nft(f"add element inet lab cut_back {{ {self.port} }}")

    def heal(self) -> None:
        """Undo cut(), cut_return() and make_unreachable()."""
        names = ("cut_out", "cut_back", "unreachable")
        # Adding first makes the deletion valid for a set that does not hold the port.
        self.lab.nft(
            *(f"add element inet lab {name} {{ {self.port} }}" for name in names),
            *(f"delete element inet lab {name} {{ {self.port} }}" for name in names),
        )

    def make_unreachable(self) -> None:
        """Answer what the client sends with an ICMP host-unreachable."""
        self.lab.nft(f"add element inet lab unreachable {{ {self.port} }}")

    def drop_next(self, count: int = 1) -> None:
        """Lose exactly the next ``count`` packets from client to server."""
        # A new numgen starts at 0 and is only advanced by packets the earlier matches let through.
        self.lab.nft(
            f'add rule inet lab losses iifname "client" tcp sport {self.port} '
            f"numgen inc mod 2147483647 < {count} counter drop"
        )

    def dropped(self) -> int:
        """Packets that drop_next() has lost so far."""
        listing = json.loads(self.lab.router.command("nft", "-j", "list", "table", "inet", "lab"))
        total = 0
        for entry in listing["nftables"]:
            expressions = entry.get("rule", {}).get("expr", [])
            ports = [e["match"]["right"] for e in expressions if "match" in e]
            counters = [e["counter"]["packets"] for e in expressions if "counter" in e]
            if self.port in ports:
                total += sum(counters)
        return total

    def reboot_server(self) -> None:
        """Make the server forget the connection: it answers RST from now on."""
        self.cut()
        # With linger 0 the socket is gone at once and its RST dies in the cut.
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.close()
        self.heal()

    def exchange(self, data: bytes = b"ping") -> None:
        """Send data each way and return when both ends have all of it acknowledged."""
        self.client.sendall(data)
        if receive_exactly(self.server, len(data)) != data:
            raise AssertionError("the server received other bytes than were sent")
        self.server.sendall(data)
        if receive_exactly(self.client, len(data)) != data:
            raise AssertionError("the client received other bytes than were sent")
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is in flight in either direction."""
        until(lambda: not in_flight(self.client) and not in_flight(self.server))

    def close(self) -> None:
        self.client.close()
        self.server.close()


class NetLab:
    """Client, router and server namespaces joined by veth pairs, IPv4 and IPv6.

    With ``nat_timeout`` the router masquerades the client and forgets a connection that has been
    idle for so many seconds; it then drops its packets, or answers RST for the ports of listeners
    made with ``nat_resets=True``.
    """

    _serials = itertools.count()
    _open: ClassVar[set[NetLab]] = set()

    def __init__(self, nat_timeout: int | None = None) -> None:
        name = f"{PREFIX}{os.getpid()}-{next(self._serials)}"
        self._client_ports = itertools.count(20000)
        self._server_ports = itertools.count(5000)
        self._lock = threading.RLock()
        self._relays: dict[float, tuple[int, subprocess.Popen[str]]] = {}
        self._sockets: list[socket.socket] = []
        self._cleanup = contextlib.ExitStack()
        NetLab._open.add(self)
        try:
            self.client = self._namespace(f"{name}c")
            self.router = self._namespace(f"{name}r")
            self.server = self._namespace(f"{name}s")
            self._wire()
            self.nft(RULES)
            if nat_timeout is not None:
                self._enable_nat(nat_timeout)
            self._warm_up()
        except BaseException:
            self.close()
            raise

    def _namespace(self, name: str) -> Namespace:
        namespace = Namespace(name)
        self._cleanup.callback(namespace.close)
        return namespace

    def _wire(self) -> None:
        for namespace in (self.client, self.router, self.server):
            # Duplicate address detection would keep IPv6 silent for the first seconds.
            namespace.sysctl(ipv6__conf__default__accept_dad=0, ipv4__conf__all__rp_filter=0)
            namespace.sysctl(ipv4__conf__default__rp_filter=0)
        self.router.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        for subnet, end in ((1, self.client), (2, self.server)):
            far = "client" if subnet == 1 else "server"
            self.router.ip(
                f"link add {far} type veth peer name uplink netns {end.name}",
                f"address add 10.77.{subnet}.254/24 dev {far}",
                f"link set {far} up",
            )
            self.router.ip(f"address add fd77:{subnet}::fe/64 dev {far} nodad", family="-6")
            end.ip(
                "link set lo up",
                f"address add 10.77.{subnet}.1/24 dev uplink",
                "link set uplink up",
                f"route add default via 10.77.{subnet}.254",
            )
            end.ip(
                f"address add fd77:{subnet}::1/64 dev uplink nodad",
                f"route add default via fd77:{subnet}::fe",
                family="-6",
            )

    def _enable_nat(self, timeout: int) -> None:
        self.nft(NAT_RULES)
        # Loose tracking would silently adopt the forgotten connection again.
        self.router.sysctl(
            netfilter__nf_conntrack_tcp_timeout_established=timeout,
            netfilter__nf_conntrack_tcp_loose=0,
        )

    def _warm_up(self) -> None:
        # Address resolution of the first packets must not look like a slow network to TCP.
        for family in ADDRESSES:
            self.connect(self.listen(family)).close()

    def nft(self, *lines: str) -> None:
        """Change the router's rules, all lines in one transaction."""
        self.router.command("nft", "-f", "-", text="\n".join(lines) + "\n")

    def listen(
        self,
        family: socket.AddressFamily = socket.AF_INET,
        *,
        rtt: float = 0.0,
        prepare: Prepare | None = None,
        nat_resets: bool = False,
    ) -> Listener:
        """Open a listener in the server namespace; connections to it have the given RTT."""
        port = next(self._server_ports)
        if rtt:
            self._delay(port, rtt)
        if nat_resets:
            self.nft(f"add element inet nat resetting {{ {port} }}")
        sock = self._socket(self.server, family)
        sock.bind((ADDRESSES[family][1], port))
        if prepare is not None:
            prepare(sock)
        sock.listen(64)
        return Listener(sock, family, port)

    def connect(self, listener: Listener, prepare: Prepare | None = None) -> Connection:
        """Connect from the client namespace; ``prepare`` sees the socket before it connects."""
        port = next(self._client_ports)
        client = self._socket(self.client, listener.family)
        client.bind((ADDRESSES[listener.family][0], port))
        if prepare is not None:
            prepare(client)
        client.connect((ADDRESSES[listener.family][1], listener.port))
        server, _ = listener.sock.accept()
        server.settimeout(IO_TIMEOUT)
        self._sockets.append(server)
        return Connection(self, client, server, port)

    def open(
        self,
        family: socket.AddressFamily = socket.AF_INET,
        *,
        rtt: float = 0.0,
        prepare: Prepare | None = None,
        nat_resets: bool = False,
    ) -> Connection:
        """A connection of its own listener, after one exchange in each direction."""
        listener = self.listen(family, rtt=rtt, nat_resets=nat_resets)
        connection = self.connect(listener, prepare)
        listener.sock.close()
        connection.exchange()
        return connection

    def _socket(self, namespace: Namespace, family: socket.AddressFamily) -> socket.socket:
        sock = namespace.call(socket.socket, family, socket.SOCK_STREAM)
        sock.settimeout(IO_TIMEOUT)
        self._sockets.append(sock)
        return sock

    def _delay(self, port: int, rtt: float) -> None:
        """Route a server port, both ways, through the relay for this RTT."""
        with self._lock:
            if rtt not in self._relays:
                self._relays[rtt] = self._start_relay(rtt)
            table = self._relays[rtt][0]
        # TCP is 6: a minimal system has no /etc/protocols to find the name in.
        rules = (
            f"rule add iif client ipproto 6 dport {port} lookup {table}",
            f"rule add iif server ipproto 6 sport {port} lookup {table}",
        )
        for version in ("-4", "-6"):
            self.router.ip(*rules, family=version)

    def _start_relay(self, rtt: float) -> tuple[int, subprocess.Popen[str]]:
        table = 100 + len(self._relays)
        device = f"delay{table}"
        script = str(Path(__file__).with_name("delay_relay.py"))
        relay: subprocess.Popen[str] = self.router.call(
            lambda: subprocess.Popen(
                [sys.executable, "-S", "-E", script, device, str(rtt / 2)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        self._cleanup.callback(stop_relay, relay)
        assert relay.stdout is not None
        if not select.select([relay.stdout], [], [], COMMAND_TIMEOUT)[0]:
            raise TimeoutError("the delay relay does not start")
        if relay.stdout.readline().strip() != "ready":
            raise OSError("the delay relay failed to start")
        self.router.ip(f"link set {device} up")
        for version in ("-4", "-6"):
            self.router.ip(f"route add default dev {device} table {table}", family=version)
        return table, relay

    def close(self) -> None:
        """Close every socket made here, end the relays and delete the namespaces."""
        for sock in self._sockets:
            # A descriptor the code under test has closed must not keep the network open.
            with contextlib.suppress(OSError):
                sock.close()
        self._cleanup.close()
        NetLab._open.discard(self)

    @classmethod
    def close_all(cls) -> None:
        """Close every network still open in this process."""
        for lab in list(cls._open):
            lab.close()


def stop_relay(relay: subprocess.Popen[str]) -> None:
    """End a relay by closing its standard input, or by force if that does not do."""
    assert relay.stdin is not None and relay.stdout is not None
    relay.stdin.close()
    try:
        relay.wait(timeout=5)
    except subprocess.TimeoutExpired:
        relay.kill()
        relay.wait(timeout=5)
    relay.stdout.close()


atexit.register(NetLab.close_all)
