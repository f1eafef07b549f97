"""asyncio streams: asyncio_streams.py PORT [CERTIFICATE KEY]."""

import asyncio
import contextlib
import ssl
import sys
from urllib.parse import parse_qs, urlsplit


async def stream(writer, events):
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    for number in range(events):
        writer.write(f"data: {number}\n\n".encode())
        await asyncio.sleep(1)


async def talk(reader, writer):
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        url = urlsplit(head.split()[1])
        query = parse_qs(url.query)
        if url.path == "/stream":
            await stream(writer, int(query["n"][0]))
            return
        size = int(head.partition("content-length:")[2].split("\r\n")[0] or 0)
        await reader.readexactly(size)
        await asyncio.sleep(float(query.get("s", ["0"])[0]))
        answer = f"{size} bytes"
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n{answer}".encode())
        await writer.drain()


serve = talk
# recipe


async def main():
    port, *pair = sys.argv[1:]
    context = None
    if pair:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*pair)
    # The handshake has a limit of its own, 60 s.
    server = await asyncio.start_server(serve, "127.0.0.1", int(port), ssl=context)
    with contextlib.suppress(asyncio.CancelledError):
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
