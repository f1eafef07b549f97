"""What autotune reaches of clients and servers that others wrote, and what escapes it.

Each connects to a listener of the test. The sockets are found among the
descriptors of this process, so that those of C libraries are seen, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from stillalive import KeepAlive, autotune

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far")

IDLE = 61
TCP_KEEPIDLE = 4
FDS = "/proc/self/fd"


@pytest.fixture
def auto(impl):
    handle = autotune(KeepAlive(idle=IDLE, interval=11, count=4), outgoing=True)
    yield handle
    handle.disable()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *arguments: object) -> None:
        pass


class Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[int]:
    """Serve HTTP; it listened before anything was in force."""
    with Quiet(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def mute() -> Iterator[int]:
    """Accept, and say nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _is_socket(name: str) -> bool:
    try:
        return os.readlink(f"{FDS}/{name}").startswith("socket:")
    except OSError:  # it was that of listdir
        return False


def idle_times(port: int, *, listening: bool = False) -> list[int]:
    """Return TCP_KEEPIDLE of each socket here that is connected to a port, or listens on it."""
    found = []
    for name in os.listdir(FDS):
        if not _is_socket(name):
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as sock:
            if sock.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            end = sock.getsockname() if listening else sock.getpeername()
            listens = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            if end[1] == port and listens == listening:
                found.append(sock.getsockopt(socket.IPPROTO_TCP, TCP_KEEPIDLE))
    return found


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}/"


# ---- clients that are reached ----------------------------------------------------------------


def test_http_client(auto, web):
    import http.client

    client = http.client.HTTPConnection("127.0.0.1", web)
    with contextlib.closing(client):
        client.request("GET", "/")
        assert client.getresponse().read() == b"ok"
        assert idle_times(web) == [IDLE]


def test_urllib3(auto, web):
    urllib3 = pytest.importorskip("urllib3")
    with urllib3.PoolManager() as pool:
        assert pool.request("GET", url(web)).data == b"ok"
        assert idle_times(web) == [IDLE]


def test_urllib3_with_options_of_its_own(auto, web):
    urllib3 = pytest.importorskip("urllib3")
    own = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, TCP_KEEPIDLE, 77)]
    with urllib3.PoolManager(socket_options=own) as pool:
        assert pool.request("GET", url(web)).data == b"ok"
        assert idle_times(web) == [77]


def test_requests(auto, web):
    requests = pytest.importorskip("requests")
    with requests.Session() as session:
        session.trust_env = False
        assert session.get(url(web)).content == b"ok"
        assert idle_times(web) == [IDLE]


def test_httpx(auto, web):
    httpx = pytest.importorskip("httpx")
    with httpx.Client(trust_env=False) as client:
        assert client.get(url(web)).content == b"ok"
        assert idle_times(web) == [IDLE]


def test_httpx_async(auto, web):
    httpx = pytest.importorskip("httpx")

    async def main() -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(url(web))).content == b"ok"
            assert idle_times(web) == [IDLE]

    asyncio.run(main())


def test_aiohttp_keeps_keepalive_to_itself(auto, web):
    """It switches SO_KEEPALIVE on when it has connected; the times are ours."""
    aiohttp = pytest.importorskip("aiohttp")

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.get(url(web)) as response:
                assert await response.read() == b"ok"
            assert idle_times(web) == [IDLE]

    asyncio.run(main())


def test_asyncio_both_ways(auto, web):
    async def main() -> None:
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            assert idle_times(port, listening=True) == [IDLE]
        _, writer = await asyncio.open_connection("127.0.0.1", web)
        assert idle_times(web) == [IDLE]
        writer.close()
        await writer.wait_closed()

    asyncio.run(main())


def test_trio(auto, mute):
    trio = pytest.importorskip("trio")

    async def main() -> None:
        async with await trio.open_tcp_stream("127.0.0.1", mute):
            assert idle_times(mute) == [IDLE]

    trio.run(main)


# ---- servers that are reached ----------------------------------------------------------------


def test_uvloop_listens_through_python_and_connects_without_it(auto, mute):
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        assert idle_times(port, listening=True) == [IDLE]
        transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", mute)
        assert IDLE not in idle_times(mute)
        assert len(idle_times(mute)) == 1
        transport.abort()
        server.close()
        await server.wait_closed()

    with contextlib.closing(uvloop.new_event_loop()) as loop:
        loop.run_until_complete(main())


def test_uvicorn(auto):
    uvicorn = pytest.importorskip("uvicorn")

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    settings = uvicorn.Config(app, port=0, lifespan="off", log_level="critical", loop="asyncio")

    async def main() -> None:
        server = uvicorn.Server(settings)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        assert idle_times(port, listening=True) == [IDLE]
        server.should_exit = True
        await serving

    asyncio.run(main())


# ---- what escapes: sockets that are made in C ------------------------------------------------


def _seen_while_connecting(port: int) -> list[int]:
    end = time.monotonic() + 10
    while not (found := idle_times(port)):
        assert time.monotonic() < end, "it did not connect"
        time.sleep(0.01)
    return found


def test_libpq_escapes(auto, mute):
    psycopg = pytest.importorskip("psycopg")

    def connect() -> None:
        # Two seconds are the shortest that it takes; nobody answers.
        with contextlib.suppress(psycopg.Error):
            psycopg.connect(host="127.0.0.1", port=mute, connect_timeout=2, user="u").close()

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        assert IDLE not in _seen_while_connecting(mute)
    finally:
        thread.join()


def test_grpc_escapes(auto, mute):
    grpc = pytest.importorskip("grpc")
    with grpc.insecure_channel(f"127.0.0.1:{mute}") as channel:

        def told(state: object) -> None:
            pass

        channel.subscribe(told, try_to_connect=True)
        assert IDLE not in _seen_while_connecting(mute)
        channel.unsubscribe(told)
