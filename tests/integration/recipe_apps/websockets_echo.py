"""websockets: websockets_echo.py PORT [CERTIFICATE KEY]."""

import asyncio
import ssl
import sys

from websockets.asyncio.server import serve


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def main():
    port, *pair = sys.argv[1:]
    context = None
    if pair:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*pair)
    # recipe
    async with serve(
        echo,
        "127.0.0.1",
        int(port),
        ssl=context,
        open_timeout=600,
        ping_interval=1,
        ping_timeout=600,
    ):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
