"""Build the compiled backend; everything else is in pyproject.toml.

Switches, all environment variables:
STILLALIVE_PURE=1   build without the extension
STILLALIVE_ABI3=1   limited API, only for cross-build checks: hot calls get slower
STILLALIVE_DEBUG=1  -Werror and assertions, as CI builds
"""

import os
import sys

from setuptools import Extension, setup

CORE = ["ext/core/policy.c", "ext/core/liveness.c"]
SOCKOPT = {
    "linux": "linux",
    "darwin": "darwin",
    "win32": "windows",
    "freebsd": "bsd",
    "netbsd": "bsd",
    "openbsd": "bsd",
    "dragonfly": "bsd",
}


def wanted(name):
    return os.environ.get(name, "") not in ("", "0")


def sockopt_source():
    system = next((s for s in SOCKOPT if sys.platform.startswith(s)), None)
    return f"ext/sockopt/{SOCKOPT.get(system, 'none')}.c"


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
    flags = [] if sys.platform == "win32" else ["-std=c11", "-fvisibility=hidden"]
    if wanted("STILLALIVE_DEBUG") and sys.platform != "win32":
        flags += ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    module = Extension(
        "stillalive._core",
        ["ext/binding/_core.pyx" if cythonize else generated, *CORE, sockopt_source()],
        include_dirs=["ext/include", "ext/sockopt"],
        libraries=["ws2_32"] if sys.platform == "win32" else [],
        extra_compile_args=flags,
        define_macros=macros,
        depends=["ext/include/stillalive.h", "ext/sockopt/sockopt.h", "ext/sockopt/unsupported.h"],
        **options,
    )
    if cythonize is None:
        return [module]
    return cythonize([module], include_path=["ext/binding"], emit_linenums=False)


pure = wanted("STILLALIVE_PURE") or sys.implementation.name != "cpython"
setup(ext_modules=[] if pure else extension())
