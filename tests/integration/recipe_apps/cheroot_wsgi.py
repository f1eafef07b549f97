"""Cheroot: cheroot_wsgi.py PORT [CERTIFICATE KEY]."""

import sys

from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Server
from wsgi_app import app

if __name__ == "__main__":
    port, *pair = sys.argv[1:]
    # A half-sent head occupies a thread; the other connections need some, too.
    server = Server(("127.0.0.1", int(port)), app, numthreads=100, timeout=600)
    server.keep_alive_conn_limit = 1000
    server.request_queue_size = 128  # it is 5, which is little for many at once
    if pair:
        server.ssl_adapter = BuiltinSSLAdapter(*pair)
    # recipe
    server.start()
