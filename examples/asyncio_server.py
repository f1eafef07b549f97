"""An asyncio server that is told when a client vanishes.

The listener is tuned once, before the first connection comes; on Linux every
accepted connection inherits it and costs nothing more. A handler that is
about to spend work on an answer asks with `aprobe` whether anybody is there.
"""

import asyncio
import socket

import stillalive


async def handle(reader, writer):
    """Answer one request per line, but only to somebody who is still there."""
    try:
        while await reader.readline():
            found = await stillalive.aprobe(writer, timeout=1.0)
            if not found:
                print("nobody to answer:", found.reason)
                return
            held = stillalive.describe(writer)
            writer.write(f"{held.detects_idle_within:g} s when idle\n".encode())
            await writer.drain()
    finally:
        writer.close()


async def ask(address):
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"how long until you miss me?\n")
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer.decode().strip()


async def main():
    listener = socket.create_server(("127.0.0.1", 0))
    held = stillalive.tune(listener, detect_within=30)
    print("the listener was tuned:", held)

    server = await asyncio.start_server(handle, sock=listener)
    async with server:
        answers = await asyncio.gather(*(ask(listener.getsockname()) for _ in range(3)))
    print("three clients, each connection inherited it:", answers)
    assert answers == [f"{held.detects_idle_within:g} s when idle"] * 3


if __name__ == "__main__":
    asyncio.run(main())
