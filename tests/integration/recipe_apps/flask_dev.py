"""Flask's own server: flask_dev.py PORT [CERTIFICATE KEY]."""

import sys
import time

from flask import Flask, request

app = Flask(__name__)


@app.route("/fast")
@app.route("/slow")
def answer():
    time.sleep(float(request.args.get("s", "0")))
    return "0 bytes"


@app.route("/upload", methods=["POST"])
def upload():
    size = 0
    while piece := request.stream.read(1000):
        size += len(piece)
    return f"{size} bytes"


@app.route("/stream")
def stream():
    def events(count):
        for number in range(count):
            yield f"data: {number}\n\n"
            time.sleep(1)

    return app.response_class(events(int(request.args["n"])), mimetype="text/event-stream")


if __name__ == "__main__":
    # recipe
    port, *pair = sys.argv[1:]
    app.run("127.0.0.1", int(port), threaded=True, ssl_context=tuple(pair) or None)
