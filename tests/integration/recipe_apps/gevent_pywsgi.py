"""gevent.pywsgi: gevent_pywsgi.py PORT [CERTIFICATE KEY]."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from gevent.pywsgi import WSGIServer  # noqa: E402
from wsgi_app import app  # noqa: E402

if __name__ == "__main__":
    port, *pair = sys.argv[1:]
    secured = dict(zip(("certfile", "keyfile"), pair, strict=False))
    # recipe
    WSGIServer(("127.0.0.1", int(port)), app, log=None, **secured).serve_forever()
