"""Name the machine that was measured on, without saying whose it is."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import stillalive

from .native import compiler

__all__ = ["describe_machine", "load", "neutral_name"]

_CLOCK_MONOTONIC_COARSE = 6  # the time module does not name it


def describe_machine() -> dict[str, str]:
    """Return what a reader needs to judge the figures."""
    return {
        "CPU": f"{_cpu()}, {os.cpu_count()} of them",
        "kernel": f"{platform.system()} {_kernel()}, {_ticks()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}, {_build()}",
        "compiler of the limits": _compiler(),
        "compiler of Python": platform.python_compiler(),
        "stillalive": stillalive.__version__,
    }


def neutral_name() -> str:
    """Return the kind of machine, for a file name."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    implementation = platform.python_implementation().lower()
    return f"{platform.system().lower()}-{platform.machine()}-{implementation}{version}"


def load() -> str:
    """Return the load average of the last minute: how busy the neighbours are."""
    return f"{os.getloadavg()[0]:.2f}"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _kernel() -> str:
    found = re.match(r"[0-9.]+", platform.release())
    return found[0] if found else "?"


def _ticks() -> str:
    """Read the tick from the coarse clock: a probe leaves at the next one."""
    tick = time.clock_getres(_CLOCK_MONOTONIC_COARSE)
    return f"{round(1 / tick)} ticks a second"


def _build() -> str:
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    flags = {"PGO": "--enable-optimizations", "LTO": "--with-lto"}
    return ", ".join(
        f"{name} {'on' if flag in arguments else 'off'}" for name, flag in flags.items()
    )


def _compiler() -> str:
    command = [*compiler(), "--version"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return f"{shown.splitlines()[0]}, -O2"
