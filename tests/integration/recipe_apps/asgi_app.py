"""The application that the ASGI servers serve."""

import asyncio
from urllib.parse import parse_qs

# recipe


async def body_of(receive):
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return size
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    return size


async def start(send, kind):
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def stream(send, events):
    await start(send, b"text/event-stream")
    for number in range(events):
        event = f"data: {number}\n\n".encode()
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.sleep(1)
    await send({"type": "http.response.body", "body": b""})


async def lifespan(receive, send):
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    query = parse_qs(scope["query_string"].decode())
    size = await body_of(receive)
    if scope["path"] == "/stream":
        await stream(send, int(query["n"][0]))
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(float(query["s"][0]))
    answer = f"{size} bytes".encode()
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
