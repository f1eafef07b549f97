"""What a user gets from ``import stillalive``: the right backend, every name, no side effect."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import stillalive
from stillalive import _impl, _include


def python(code, **environment):
    """Run code in a fresh interpreter, without this one's STILLALIVE_* settings."""
    kept = {name: value for name, value in os.environ.items() if "STILLALIVE" not in name}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def has_extension():
    try:
        _impl.choose("c")
    except ImportError:
        return False
    return True


needs_extension = pytest.mark.skipif(not has_extension(), reason="the extension is not built")
SHOW = "import stillalive; print(stillalive.IMPLEMENTATION)"


def test_implementation_tells_which_backend_runs():
    assert stillalive.IMPLEMENTATION in ("c", "pure")
    assert stillalive.IMPLEMENTATION == _impl.backend.NAME


@needs_extension
@pytest.mark.parametrize("wish", ["c", ""])
def test_the_compiled_backend_is_taken_where_it_is(wish):
    done = python(SHOW, STILLALIVE_IMPL=wish)
    assert (done.stdout.strip(), done.stderr) == ("c", "")


def test_the_pure_backend_can_be_asked_for():
    done = python(
        "import sys; " + SHOW + "; print('stillalive._core' in sys.modules)", STILLALIVE_IMPL="pure"
    )
    assert done.stdout.split() == ["pure", "False"]
    assert done.stderr == ""


def test_an_unknown_backend_is_an_error_that_names_the_known_ones():
    done = python(SHOW, STILLALIVE_IMPL="rust")
    assert done.returncode == 1
    assert "STILLALIVE_IMPL='rust' is not known (allowed: 'c', 'pure')" in done.stderr


WITHOUT_EXTENSION = "import sys; sys.modules['stillalive._core'] = None; "
"""Makes ``from . import _core`` fail as if it had not been built."""


def test_falling_back_is_logged_once():
    logged = "import logging; logging.basicConfig(level='INFO'); "
    done = python(WITHOUT_EXTENSION + logged + SHOW)
    assert done.stdout.strip() == "pure"
    assert done.stderr.count("using the pure-Python path") == 1


def test_falling_back_says_nothing_to_who_did_not_ask():
    assert python(WITHOUT_EXTENSION + SHOW).stderr == ""


def test_a_missing_extension_is_an_error_when_it_was_asked_for():
    done = python(WITHOUT_EXTENSION + SHOW, STILLALIVE_IMPL="c")
    assert done.returncode == 1
    assert "ImportError" in done.stderr or "ModuleNotFoundError" in done.stderr


def test_every_public_name_is_there():
    assert [name for name in stillalive.__all__ if not hasattr(stillalive, name)] == []
    assert sorted(set(stillalive.__all__)) == sorted(stillalive.__all__)


def test_the_public_names_need_no_other_package():
    done = python(
        "import sys, site\n"
        "import stillalive\n"
        "for name in stillalive.__all__: getattr(stillalive, name)\n"
        "foreign = {'rich', 'uvloop', 'typing_extensions', 'trustme', 'hypothesis', 'pytest'}\n"
        "print(sorted(foreign & set(sys.modules)))"
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_importing_starts_no_thread_and_opens_nothing():
    done = python(
        "import os, socket, sys, threading\n"
        "opened = []\n"
        "watched = ('socket.__new__', 'subprocess.Popen', 'os.fork')\n"
        "sys.addaudithook(lambda name, _: opened.append(name) if name in watched else None)\n"
        "fds = '/proc/self/fd' if os.path.isdir('/proc/self/fd') else None\n"
        "before = fds and len(os.listdir(fds))\n"
        "import stillalive\n"
        "print(threading.active_count(), opened, (fds and len(os.listdir(fds))) == before)"
    )
    assert (done.stdout.strip(), done.stderr) == ("1 [] True", "")


def test_the_package_is_typed_and_ships_the_stub():
    shipped = {entry.name for entry in resources.files("stillalive").iterdir()}
    assert {"py.typed", "_core.pyi"} <= shipped


def test_the_headers_are_where_get_include_says():
    """In a wheel inside the package, in a checkout at their only place."""
    folder = Path(stillalive.get_include())
    assert folder.name == "include"
    assert {"stillalive.h", "stillalive.pxd"} == {path.name for path in folder.iterdir()}
    assert "struct ka_api" in (folder / "stillalive.h").read_text()
    show = "import stillalive; print(stillalive.get_include())"
    done = python(show, STILLALIVE_IMPL="pure")
    assert (done.stdout.strip(), done.stderr) == (str(folder), "")


def test_missing_headers_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(_include, "__file__", str(tmp_path / "a" / "b" / "_include.py"))
    with pytest.raises(FileNotFoundError, match="stillalive.h is not in"):
        _include.get_include()


def test_the_version_is_that_of_the_distribution():
    assert stillalive.__version__ == importlib.metadata.version("stillalive")


def test_the_console_script_names_a_function():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="stillalive")
    assert callable(script.load())
