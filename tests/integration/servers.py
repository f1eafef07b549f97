"""Start servers that nobody patched, with the lines that docs/recipes.md says to add.

The lines are taken from the page itself: a code block named ``recipe-X`` is
what a server with the recipe X gets, in the file of its caption. Only the
limits are replaced, by such as a test can wait for. What they are added to is
in recipe_apps/, at the line ``# recipe``.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import stillalive

ROOT = Path(__file__).resolve().parents[2]
APPS = Path(__file__).with_name("recipe_apps")
PAGE = ROOT / "docs" / "recipes.md"
CONFIG = "gunicorn.conf.py"
PATIENCE = 30

_BLOCK = re.compile(
    r"^```\{code-block\} python\n:caption: (?P<caption>[^\n]*)\n:name: recipe-(?P<name>[^\n]*)\n\n"
    r"(?P<lines>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LIMIT = re.compile(r"\b(never_spoke|unanswered|answered|min_rate|detect_within)=[\d.]+")

# Ends the whole group of the server when whoever started it says so, or dies in whatever way:
# then the pipe closes.
_WARDEN = """
trap : INT TERM HUP
setsid "$@" </dev/null >&2 & group=$!
echo $group; exec >&-
read -r _
kill -TERM -$group; n=0
while kill -0 -$group && [ $n -lt 30 ]; do sleep 0.1; n=$((n + 1)); done
kill -KILL -$group; wait
"""


@dataclass(frozen=True)
class Recipe:
    caption: str
    lines: str

    def with_limits(self, limits: dict[str, float]) -> str:
        """Return the lines with other limits; those that `limits` does not have go to None."""
        return _LIMIT.sub(lambda found: f"{found[1]}={limits.get(found[1])}", self.lines)


_RUN = re.compile(r"^stillalive (?P<options>run .*?) -- ", re.MULTILINE)
_OPTION = re.compile(r"--([a-z-]+) [\d.]+")


def run_options(limits: dict[str, float]) -> list[str]:
    """Return what the page says for servers without a line of code, with other limits."""
    found = _RUN.search(PAGE.read_text(encoding="utf-8"))
    assert found, "the page has no `stillalive run`"
    return _OPTION.sub(
        lambda option: f"--{option[1]} {limits[option[1].replace('-', '_')]}", found["options"]
    ).split()


@cache
def recipes() -> dict[str, Recipe]:
    text = PAGE.read_text(encoding="utf-8")
    return {b["name"]: Recipe(b["caption"], b["lines"]) for b in _BLOCK.finditer(text)}


@dataclass(frozen=True)
class Server:
    """How one server is started, and what is special about it."""

    name: str
    recipe: str
    needs: str
    """Modules, without which it is skipped."""
    program: str
    """In recipe_apps/."""
    command: str
    secured: str | None
    """What is added to the command for TLS; None: it cannot."""
    config: bool = False
    """The lines belong into gunicorn.conf.py, not into the program."""
    keeps_alive: bool = True
    own_idle: float = 600
    """Seconds after which it ends an idle connection by itself."""
    frees_late: float = 0
    """Seconds that it may take to close what has ended."""
    talks: str = "http"
    shakes_in_turn: bool = False
    """With TLS one client that says nothing keeps all the others waiting."""

    def missing(self) -> list[str]:
        return [m for m in self.needs.split() if importlib.util.find_spec(m) is None]


_UVICORN = "-m uvicorn asgi_app:app --port {port} --timeout-keep-alive 600 --log-level warning"
_GUNICORN = "-m gunicorn -b 127.0.0.1:{port} --keep-alive 600 --log-level warning"
_PROGRAM = "{program} {port}"
_PAIR = "{certificate} {key}"
_OPTIONS = "--certfile {certificate} --keyfile {key}"
_SSL_OPTIONS = "--ssl-certfile {certificate} --ssl-keyfile {key}"

SERVERS = {
    server.name: server
    for server in (
        Server(
            "uvicorn-h11",
            "uvicorn",
            "uvicorn h11",
            "asgi_app.py",
            _UVICORN + " --http h11 --loop asyncio",
            _SSL_OPTIONS,
        ),
        Server(
            "uvicorn-httptools",
            "uvicorn",
            "uvicorn httptools uvloop",
            "asgi_app.py",
            _UVICORN + " --http httptools --loop uvloop --workers 2",
            _SSL_OPTIONS,
        ),
        Server(
            "gunicorn-sync",
            "gunicorn",
            "gunicorn",
            "wsgi_app.py",
            _GUNICORN + " -k sync wsgi_app:app",
            _OPTIONS,
            config=True,
            keeps_alive=False,
            talks="one-by-one",
        ),
        Server(
            "gunicorn-gthread",
            "gunicorn",
            "gunicorn",
            "wsgi_app.py",
            _GUNICORN + " -k gthread --threads 100 wsgi_app:app",
            _OPTIONS,
            config=True,
        ),
        Server(
            "gunicorn-preload",
            "gunicorn-preload",
            "gunicorn",
            "wsgi_app.py",
            _GUNICORN + " -k gthread --threads 70 --workers 2 --preload wsgi_app:app",
            _OPTIONS,
        ),
        Server(
            "gunicorn-gevent",
            "gunicorn",
            "gunicorn gevent",
            "wsgi_app.py",
            _GUNICORN + " -k gevent wsgi_app:app",
            _OPTIONS,
            config=True,
        ),
        Server(
            "gunicorn-asgi",
            "gunicorn",
            "gunicorn",
            "asgi_app.py",
            _GUNICORN + " -k asgi asgi_app:app",
            _OPTIONS,
            config=True,
        ),
        Server(
            "hypercorn",
            "hypercorn",
            "hypercorn",
            "asgi_app.py",
            "-m hypercorn asgi_app:app -b 127.0.0.1:{port} --keep-alive 8",
            _OPTIONS,
            own_idle=8,
            frees_late=8,
        ),
        Server(
            "granian",
            "granian",
            "granian",
            "asgi_app.py",
            "-m granian --interface asgi --port {port} --http1-header-read-timeout 60000"
            " --log-level warning asgi_app:app",
            "--ssl-certificate {certificate} --ssl-keyfile {key}",
            own_idle=60,
        ),
        Server("aiohttp", "aiohttp", "aiohttp", "aiohttp_web.py", _PROGRAM, _PAIR),
        Server("tornado", "tornado", "tornado", "tornado_web.py", _PROGRAM, _PAIR),
        Server("waitress", "waitress", "waitress", "waitress_wsgi.py", _PROGRAM, None),
        Server(
            "cheroot",
            "cheroot",
            "cheroot",
            "cheroot_wsgi.py",
            _PROGRAM,
            _PAIR,
            shakes_in_turn=True,
        ),
        Server("gevent.pywsgi", "gevent", "gevent", "gevent_pywsgi.py", _PROGRAM, _PAIR),
        Server(
            "flask",
            "flask",
            "flask",
            "flask_dev.py",
            _PROGRAM,
            _PAIR,
            keeps_alive=False,
            shakes_in_turn=True,
        ),
        Server("http.server", "http-server", "http.server", "stdlib_http.py", _PROGRAM, _PAIR),
        Server(
            "asyncio-streams", "asyncio-streams", "asyncio", "asyncio_streams.py", _PROGRAM, _PAIR
        ),
        Server(
            "websockets",
            "websockets",
            "websockets",
            "websockets_echo.py",
            _PROGRAM,
            _PAIR,
            talks="websocket",
        ),
        Server(
            "asyncssh",
            "asyncssh",
            "asyncssh",
            "asyncssh_server.py",
            _PROGRAM,
            None,
            talks="ssh",
        ),
    )
}


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 and its key, in the form that every server reads."""
    import trustme
    from cryptography.hazmat.primitives import serialization

    made = trustme.CA().issue_cert("127.0.0.1")
    key = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
    certificate_file, key_file = directory / "certificate.pem", directory / "key.pem"
    certificate_file.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_file, key_file


def write_program(server: Server, limits: dict[str, float] | None, directory: Path) -> None:
    """Write the server's files, with the page's lines unless `limits` is None."""
    directory.mkdir()
    lines = "" if limits is None else recipes()[server.recipe].with_limits(limits)
    bare = directory / CONFIG if server.config else None
    for app in {server.program, "wsgi_app.py"}:
        source = (APPS / app).read_text(encoding="utf-8")
        margin = re.search(r"^( *)# recipe$", source, re.MULTILINE)
        assert margin, f"{app} has no place for the recipe"
        indented = re.sub(r"^(?=.)", margin[1], lines, flags=re.MULTILINE)
        here = app == server.program and bare is None
        source = source.replace(margin[0], indented.rstrip() if here else "")
        (directory / app).write_text(source, encoding="utf-8")
    if bare is not None:
        bare.write_text(lines, encoding="utf-8")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@dataclass
class Running:
    server: Server
    port: int
    secured: bool
    group: int
    log: Path


def running(group: int) -> bool:
    """Return whether the process is there, and not only its remains."""
    try:
        status = Path(f"/proc/{group}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def arguments_of(
    server: Server, port: int, pair: tuple[Path, Path] | None, run: list[str]
) -> list[str]:
    command = server.command if pair is None else f"{server.command} {server.secured}"
    certificate, key = pair or ("", "")
    filled = command.format(port=port, program=server.program, certificate=certificate, key=key)
    before = [sys.executable, "-m", "stillalive", *run, "--"] if run else []
    return [*before, sys.executable, *filled.split()]


@contextlib.asynccontextmanager
async def started(
    server: Server,
    directory: Path,
    limits: dict[str, float] | None,
    pair: tuple[Path, Path] | None = None,
    *,
    by_command: bool = False,
) -> AsyncIterator[Running]:
    """Start a server and wait until it takes connections; end it and all it started.

    `limits` None: unguarded. `by_command`: by `stillalive run`, not by the recipe.
    """
    write_program(server, None if by_command else limits, directory)
    run = run_options(limits) if by_command and limits else []
    path = [str(Path(stillalive.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    port, log = free_port(), directory / "log"
    with log.open("wb") as output:
        warden = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", _WARDEN, "warden"),
            *arguments_of(server, port, pair, run),
            cwd=directory,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            start_new_session=True,  # what ends the tests is not to end it first
        )
    assert warden.stdin is not None and warden.stdout is not None
    try:
        group = int(await warden.stdout.readline())
        async with asyncio.timeout(PATIENCE):
            while not await listening(port):
                assert running(group), f"{server.name} ended: {log.read_text()}"
                await asyncio.sleep(0.1)
        yield Running(server, port, pair is not None, group, log)
    finally:
        warden.stdin.close()
        await warden.wait()
