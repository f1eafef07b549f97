"""http.server with a thread per connection: stdlib_http.py PORT [CERTIFICATE KEY]."""

import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/stream":
            self.stream(int(query["n"][0]))
            return
        time.sleep(float(query.get("s", ["0"])[0]))
        answer = f"{self.upload()} bytes".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_POST(self):
        self.do_GET()

    def upload(self):
        left, size = int(self.headers.get("Content-Length", "0")), 0
        while size < left and (piece := self.rfile.read1(left - size)):
            size += len(piece)
        return size

    def stream(self, events):
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number in range(events):
            self.wfile.write(f"data: {number}\n\n".encode())
            time.sleep(1)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


if __name__ == "__main__":
    port, *pair = sys.argv[1:]
    server = Server(("127.0.0.1", int(port)), Handler)
    if pair:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*pair)
        # The handshake belongs into the thread of the connection.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    # recipe
    server.serve_forever()
