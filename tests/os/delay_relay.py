"""Hold every packet of a TUN device for a fixed time, then hand it back.

Run inside the router's namespace: ``python delay_relay.py DEVICE SECONDS``. Prints ``ready`` once
the device exists. Ends when its standard input closes, so it cannot outlive the test process.
"""

from __future__ import annotations

import collections
import fcntl
import math
import os
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
MAX_PACKET = 65536
MAX_QUEUED = 4096


def open_tun(device: str) -> int:
    """Create the TUN device and return its non-blocking descriptor."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    return fd


def read_arrivals(tun: int, due: float, queue: collections.deque[tuple[float, bytes]]) -> None:
    """Move everything the device holds into the queue."""
    while True:
        try:
            packet = os.read(tun, MAX_PACKET)
        except BlockingIOError:
            return
        if len(queue) < MAX_QUEUED:
            queue.append((due, packet))


def write_due(tun: int, queue: collections.deque[tuple[float, bytes]]) -> None:
    """Send on every packet whose time has come."""
    while queue and queue[0][0] <= time.monotonic():
        _, packet = queue.popleft()
        try:
            os.write(tun, packet)
        except OSError:
            # A packet the kernel refuses is a lost packet, as on any network.
            continue


def relay(tun: int, delay: float) -> None:
    """Relay until standard input closes."""
    queue: collections.deque[tuple[float, bytes]] = collections.deque()
    poller = select.poll()
    poller.register(tun, select.POLLIN)
    poller.register(0, select.POLLIN)
    while True:
        wait = None
        if queue:
            wait = max(0, math.ceil((queue[0][0] - time.monotonic()) * 1000))
        for fd, _ in poller.poll(wait):
            if fd == 0:
                return
            read_arrivals(tun, time.monotonic() + delay, queue)
        write_due(tun, queue)


def main() -> None:
    device, delay = sys.argv[1], float(sys.argv[2])
    tun = open_tun(device)
    print("ready", flush=True)
    relay(tun, delay)


if __name__ == "__main__":
    main()
