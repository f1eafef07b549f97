"""The application that the WSGI servers serve."""

import time
from urllib.parse import parse_qs

# recipe


def body_of(environ):
    left, size = int(environ.get("CONTENT_LENGTH") or 0), 0
    while left and (piece := environ["wsgi.input"].read(min(left, 1000))):
        size += len(piece)
        left -= len(piece)
    return size


def stream(events):
    for number in range(events):
        yield f"data: {number}\n\n".encode()
        time.sleep(1)


def app(environ, start_response):
    query = parse_qs(environ["QUERY_STRING"])
    size = body_of(environ)
    if environ["PATH_INFO"] == "/stream":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return stream(int(query["n"][0]))
    if environ["PATH_INFO"] == "/slow":
        time.sleep(float(query["s"][0]))
    answer = f"{size} bytes".encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
