"""Build the compiled backend; everything else is in pyproject.toml.

Switches, all environment variables:
STILLALIVE_PURE=1   build without the extension
STILLALIVE_ABI3=1   limited API, only for cross-build checks: hot calls get slower
STILLALIVE_DEBUG=1  -Werror and assertions, as CI builds
"""

import os
import shutil
import sys
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import BaseError, CCompilerError, CompileError

SOCKOPT = {
    "linux": "linux",
    "darwin": "darwin",
    "win32": "windows",
    "freebsd": "freebsd",
    "netbsd": "netbsd",
    "openbsd": "openbsd",
}
POLL = {
    "linux": ["epoll"],
    **{name: ["kqueue"] for name in ("darwin", "freebsd", "netbsd", "openbsd", "dragonfly")},
}
if os.environ.get("STILLALIVE_FORCE_KQUEUE"):  # with a libkqueue: docs/contributing.md
    POLL["linux"] = ["kqueue"]
DIAG = {"linux": "linux"} | dict.fromkeys(("darwin", "freebsd", "netbsd", "openbsd"), "posix")
INCLUDED = ["ext/include/stillalive.h", "ext/include/stillalive.pxd"]
"""What C and Cython extensions of others need: stillalive.get_include() is where it lies."""
WITHOUT_COMPILER = """{failure}

The compiled part of stillalive could not be built. There is no ready-made wheel for this
system and Python, or it was not wanted; building one takes a C compiler and Python's headers
(Debian: gcc python3-dev).
To use the slower pure-Python path instead, say so:

    STILLALIVE_PURE=1 pip install --no-cache-dir --no-binary stillalive stillalive
"""


def wanted(name):
    return os.environ.get(name, "") not in ("", "0")


def for_this_system(choices, default):
    return next((choices[s] for s in choices if sys.platform.startswith(s)), default)


def c_sources():
    system = "windows" if sys.platform == "win32" else "posix"
    systems = ("_posix.c", "_windows.c")
    core = [name for name in glob("ext/core/*.c") if not name.endswith(systems)]
    core += glob(f"ext/core/*_{system}.c")
    poll = [*for_this_system(POLL, []), "pollfallback"]
    sockopt = for_this_system(SOCKOPT, "none")
    diag = for_this_system(DIAG, "none")
    return [
        *sorted(core),
        *(f"ext/poll/{name}.c" for name in poll),
        f"ext/sockopt/{sockopt}.c",
        f"ext/diag/{diag}.c",
    ]


def extension():
    generated = "ext/binding/_core.c"
    try:
        from Cython.Build import cythonize
    except ImportError:  # from an sdist, which carries the generated file
        if not os.path.exists(generated):
            raise
        cythonize = None
    macros = []
    options = {}
    if wanted("STILLALIVE_ABI3"):
        macros.append(("Py_LIMITED_API", "0x030B0000"))
        options["py_limited_api"] = True
    if sys.platform == "win32":
        flags = ["/std:c11"]  # core/atomics.h stands in for the atomics that it lacks
    else:
        flags = ["-std=c11", "-fvisibility=hidden"]
        if wanted("STILLALIVE_DEBUG"):
            flags += ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    folders = ["ext/include", "ext/sockopt", "ext/core", "ext/poll", "ext/diag", "ext/binding"]
    module = Extension(
        "stillalive._core",
        ["ext/binding/_core.pyx" if cythonize else generated, *c_sources()],
        include_dirs=folders,
        libraries=["ws2_32"] if sys.platform == "win32" else [],
        extra_compile_args=flags,
        define_macros=macros,
        depends=sorted(glob("ext/*/*.h") + glob("ext/*/*.px[di]")),
        **options,
    )
    if cythonize is None:
        return [module]
    return cythonize([module], include_path=["ext/include", "ext/binding"], emit_linenums=False)


class BuildOrExplain(build_ext):
    """Say what to do where there is no compiler; never fall back silently."""

    def run(self):
        try:
            super().run()
        except (BaseError, CCompilerError, OSError) as failure:
            raise CompileError(WITHOUT_COMPILER.format(failure=failure)) from failure


class BuildWithHeaders(build_py):
    """Put the public headers into the package; an editable install uses them where they are."""

    def _copies(self):
        folder = os.path.join(self.build_lib, "stillalive", "include")
        return {name: os.path.join(folder, os.path.basename(name)) for name in INCLUDED}

    def run(self):
        super().run()
        if not self.editable_mode:
            for source, target in self._copies().items():
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode=True):
        copies = [] if self.editable_mode else list(self._copies().values())
        return super().get_outputs(include_bytecode) + copies


pure = wanted("STILLALIVE_PURE") or sys.implementation.name != "cpython"
commands = {"build_py": BuildWithHeaders, "build_ext": BuildOrExplain}
setup(ext_modules=[] if pure else extension(), cmdclass=commands)
