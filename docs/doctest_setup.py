"""The names that every documented example may use, for Sphinx and for pytest."""

import asyncio  # noqa: F401
import socket

import stillalive  # noqa: F401
from stillalive import *  # noqa: F403

_opened = []


def tcp_pair():
    """Return two connected TCP sockets on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    _opened.extend((client, server))
    return client, server


def close_pairs():
    """Close what the examples left open."""
    while _opened:
        _opened.pop().close()
