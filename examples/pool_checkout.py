"""A connection pool that asks before it hands a connection out.

A pool can know three things about an idle connection. What its own kernel has
been told (a FIN, a reset) costs a microsecond: `check`. That nothing has been
told for long is a reason to ask the peer: `probe`, one round trip. And a
connection that a NAT has forgotten looks perfect until it is asked.
"""

import contextlib
import socket
import threading
import time

import stillalive

FRESH = 30.0  # seconds: a connection heard of since then is handed out unasked
PATIENCE = 1.0  # seconds: longer than a round trip, shorter than a caller's patience


class Pool:
    """Keep idle connections, newest first; hand out only usable ones."""

    def __init__(self, address):
        self.address = address
        self.idle = []
        self.dropped = []

    def connect(self):
        sock = socket.create_connection(self.address, timeout=5)
        # A dead peer ends within 30 s, idle or not; an idle flow passes an AWS NLB.
        stillalive.tune(sock, detect_within=30, middlebox="aws-nlb")
        return sock

    def checkout(self):
        while self.idle:
            sock = self.idle.pop()
            found = self.ask(sock)
            # An idle connection of a request-response protocol has nothing to read.
            if found and not found.readable:
                return sock
            self.dropped.append(found)
            sock.close()
        return self.connect()

    def ask(self, sock):
        found = stillalive.check(sock)
        if found.usable and (found.heard_ago is None or found.heard_ago > FRESH):
            found = stillalive.probe(sock, PATIENCE)
        return found

    def give_back(self, sock):
        self.idle.append(sock)

    def close(self):
        while self.idle:
            self.idle.pop().close()


def echo(connection):
    """Serve one connection; b"bye" makes the server close it a moment later."""
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(4096):
            connection.sendall(data)
            if data == b"bye":
                return


def serve(listener):
    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()


def request(pool, text):
    sock = pool.checkout()
    sock.sendall(text)
    answer = sock.recv(4096)
    pool.give_back(sock)
    return answer


def main():
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        pool = Pool(listener.getsockname())
        stack.callback(pool.close)

        assert request(pool, b"one") == b"one"
        first = pool.idle[0]
        assert request(pool, b"two") == b"two"
        assert pool.idle == [first]
        print("a healthy connection was used twice")

        assert request(pool, b"bye") == b"bye"
        while stillalive.check(first):  # until the FIN has arrived
            time.sleep(0.001)
        assert request(pool, b"three") == b"three"
        assert pool.idle != [first]
        print("a closed one was dropped:", pool.dropped[0].reason)

        found = stillalive.probe(pool.idle[0], PATIENCE)
        print("asked:", found.state.name)
        assert found.state is stillalive.State.ALIVE


if __name__ == "__main__":
    main()
