"""Keepalive on the connections of an HTTP client that you did not write.

Where a library takes socket options, give it those of a policy. Where it only
shows its socket, tune that. urllib3 (and with it requests) does the former,
http.client the latter.
"""

import contextlib
import http.client
import http.server
import threading

import stillalive

POLICY = stillalive.KeepAlive.plan(detect_within=30)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def running_server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address
        server.shutdown()


def with_http_client(host, port):
    connection = http.client.HTTPConnection(host, port, timeout=5)
    connection.connect()
    held = stillalive.tune(connection.sock, POLICY)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"hello"
    assert stillalive.probe(connection.sock)
    print("http.client:", held)
    connection.close()


def with_urllib3(urllib3, host, port):
    options = urllib3.connection.HTTPConnection.default_socket_options
    options = [*options, *POLICY.socket_options()]
    with urllib3.HTTPConnectionPool(host, port, socket_options=options) as pool:
        assert pool.request("GET", "/").data == b"hello"
        connection = pool._get_conn()  # only to look at its socket
        held = stillalive.describe(connection.sock)
        pool._put_conn(connection)
    print("urllib3: ended after", held.detects_idle_within, "s of silence")
    assert held.detects_idle_within == POLICY.detects_idle_within


def main():
    with running_server() as (host, port):
        with_http_client(host, port)
        try:
            import urllib3
            import urllib3.connection
        except ImportError:
            print("urllib3 is not installed: that half was skipped")
        else:
            with_urllib3(urllib3, host, port)


if __name__ == "__main__":
    main()
