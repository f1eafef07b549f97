"""Waitress: waitress_wsgi.py PORT."""

import sys

import waitress
from wsgi_app import app

if __name__ == "__main__":
    # recipe
    waitress.serve(
        app,
        listen=f"127.0.0.1:{sys.argv[1]}",
        threads=16,
        connection_limit=1000,
        channel_timeout=600,
        send_bytes=1,  # events are to leave at once
    )
