"""aiohttp's server: aiohttp_web.py PORT [CERTIFICATE KEY]."""

import asyncio
import ssl
import sys

from aiohttp import web


async def answer(request):
    size = len(await request.read())
    await asyncio.sleep(float(request.query.get("s", "0")))
    return web.Response(text=f"{size} bytes")


async def stream(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for number in range(int(request.query["n"])):
        await response.write(f"data: {number}\n\n".encode())
        await asyncio.sleep(1)
    return response


app = web.Application()
app.add_routes([web.get("/stream", stream), web.route("*", "/{path}", answer)])

# recipe

if __name__ == "__main__":
    port, *pair = sys.argv[1:]
    context = None
    if pair:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*pair)
    web.run_app(app, host="127.0.0.1", port=int(port), ssl_context=context, keepalive_timeout=600)
