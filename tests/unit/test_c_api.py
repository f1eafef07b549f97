"""Extensions of others touch and tune through the capsule, without linking and without Python."""

from __future__ import annotations

import gc
import importlib.machinery
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from types import ModuleType

import pytest

import stillalive
from stillalive import _impl
from stillalive._backend import LEAVE

from .selecting import advance, seen

IN_C = r"""
#include <Python.h>
#include <errno.h>
#include <stillalive.h>

static const struct ka_api *api;
static struct ka_mark kept;

static PyObject *mark(PyObject *self, PyObject *handle) {
    (void)self;
    return PyLong_FromLong(api->mark_of(handle, &kept));
}

static PyObject *touch(PyObject *self, PyObject *times) {
    long i, many = PyLong_AsLong(times);
    int alive = 0;

    (void)self;
    Py_BEGIN_ALLOW_THREADS
    for (i = 0; i < many; i++)
        alive = api->touch_now(&kept);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(alive);
}

static PyObject *tune(PyObject *self, PyObject *fd) {
    struct ka_policy policy = {{1, 77, 7, 5, KA_LEAVE, KA_LEAVE}}, held;
    struct ka_fault fault;
    int rc = api->apply((ka_sock)PyLong_AsLong(fd), &policy, &held, &fault);

    (void)self;
    return Py_BuildValue("ii", rc, rc < 0 ? 0 : (int)held.value[KA_IDLE]);
}

static PyObject *fresh(PyObject *self, PyObject *fd) {
    struct ka_policy policy = {{1, 66, 6, 4, KA_LEAVE, KA_LEAVE}};
    struct ka_fault fault;

    (void)self;
    return PyLong_FromLong(
        api->apply_fresh((ka_sock)PyLong_AsLong(fd), &policy, &fault));
}

static PyObject *check(PyObject *self, PyObject *fd) {
    struct ka_verdict verdict = {-1, 0, 0, 0, 0, 0, 0};
    int rc = api->check((ka_sock)PyLong_AsLong(fd), &verdict);

    (void)self;
    return Py_BuildValue("ii", rc, (int)verdict.state);
}

static PyObject *about(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return Py_BuildValue("iii", (int)api->version, (int)api->size,
                         (int)sizeof(struct ka_api));
}

static PyMethodDef methods[] = {
    {"mark", mark, METH_O, NULL},   {"touch", touch, METH_O, NULL},
    {"tune", tune, METH_O, NULL},   {"fresh", fresh, METH_O, NULL},
    {"check", check, METH_O, NULL}, {"about", about, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "foreign_c",
                                    .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_foreign_c(void);
PyMODINIT_FUNC PyInit_foreign_c(void) {
    PyObject *made;

    api = PyCapsule_Import("stillalive._core.api", 0);
    made = api ? PyModule_Create(&module) : NULL;
#ifdef Py_GIL_DISABLED
    if (made)
        PyUnstable_Module_SetGIL(made, Py_MOD_GIL_NOT_USED);
#endif
    return made;
}
"""

IN_CYTHON = r"""
# cython: language_level=3, freethreading_compatible=True
from stillalive cimport (KA_LEAVE, ka_api, ka_fault, ka_import_api, ka_mark,
                         ka_policy, ka_verdict)

cdef const ka_api *api = ka_import_api()
cdef ka_mark kept

def mark(handle):
    return api.mark_of(<void *>handle, &kept)

def touch(long times):
    cdef int alive = 0
    cdef long i
    with nogil:
        for i in range(times):
            alive = api.touch_now(&kept)
    return alive

def tune(int fd):
    cdef ka_policy held
    cdef ka_fault fault
    cdef ka_policy policy = ka_policy(value=[1, 77, 7, 5, KA_LEAVE, KA_LEAVE])
    cdef int rc = api.apply(fd, &policy, &held, &fault)
    return rc, held.value[1] if rc >= 0 else 0

def fresh(int fd):
    cdef ka_fault fault
    cdef ka_policy policy = ka_policy(value=[1, 66, 6, 4, KA_LEAVE, KA_LEAVE])
    return api.apply_fresh(fd, &policy, &fault)

def check(int fd):
    cdef ka_verdict verdict
    verdict.state = -1
    return api.check(fd, &verdict), verdict.state

def about():
    return api.version, api.size, sizeof(ka_api)
"""


def _has_extension() -> bool:
    try:
        _impl.choose("c")
    except ImportError:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far"),
    pytest.mark.skipif(not _has_extension(), reason="the extension is not built"),
]
MIB = 1024 * 1024


def compiler() -> str:
    name = (os.environ.get("CC") or "cc").split()[0]
    found = shutil.which(name) or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        pytest.skip("there is no C compiler")
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        pytest.skip("Python.h is not installed")
    return found


def build(source: Path, *flags: str) -> ModuleType:
    """Compile one C file as a stranger would: with two include paths, linked with nothing."""
    target = source.with_suffix(sysconfig.get_config_var("EXT_SUFFIX"))
    include = ["-I", sysconfig.get_path("include"), "-I", stillalive.get_include()]
    command = [compiler(), "-shared", "-fPIC", "-O1", "-std=c11", *flags, *include]
    done = subprocess.run([*command, source, "-o", target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loader = importlib.machinery.ExtensionFileLoader(source.stem, str(target))
    spec = importlib.util.spec_from_loader(source.stem, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def in_c(tmp_path_factory) -> ModuleType:
    source = tmp_path_factory.mktemp("c") / "foreign_c.c"
    source.write_text(IN_C)
    return build(source, "-Wall", "-Wextra", "-Werror")


@pytest.fixture(scope="module")
def in_cython(tmp_path_factory) -> ModuleType:
    compiler()
    build_module = pytest.importorskip("Cython.Build")
    source = tmp_path_factory.mktemp("cython") / "foreign_cython.pyx"
    source.write_text(IN_CYTHON)
    build_module.cythonize([str(source)], include_path=[stillalive.get_include()], quiet=True)
    return build(source.with_suffix(".c"))


@pytest.fixture(params=["in_c", "in_cython"])
def foreign(request) -> ModuleType:
    return request.getfixturevalue(request.param)


@pytest.fixture
def compiled(monkeypatch):
    """Make a Selector whose time stands still, whichever backend the others use."""
    monkeypatch.setattr(_impl, "backend", _impl.choose("c"))
    with stillalive.Selector() as selector:
        selector._engine.freeze(1000)
        yield selector


def test_the_header_is_that_of_the_package(foreign):
    version, size, expected = foreign.about()
    assert version == 1
    assert size == expected


def test_a_touch_from_c_counts(foreign, compiled, pair):
    a, _ = pair()
    compiled.register(a, stillalive.EVENT_READ, "a", idle_timeout=1)
    handle = compiled.handle(a)
    assert foreign.mark(handle) == 0
    advance(compiled, 0.9)
    assert handle.idle_for() == pytest.approx(0.9)
    assert foreign.touch(1) == 1
    assert handle.idle_for() == 0
    advance(compiled, 0.9)
    assert seen(compiled) == {}
    advance(compiled, 0.2)
    assert seen(compiled) == {"a": stillalive.EVENT_IDLE}
    assert foreign.touch(2) == 1
    assert handle.idle_for() == 0


def test_a_touch_after_the_end_reaches_nobody(foreign, compiled, pair):
    a, _ = pair()
    compiled.register(a, stillalive.EVENT_READ, "old", idle_timeout=1)
    old = compiled.handle(a)
    assert foreign.mark(old) == 0
    compiled.unregister(a)
    assert foreign.touch(1) == 0
    others = []
    for _ in range(3):  # whichever gets the slot
        other, _ = pair()
        compiled.register(other, stillalive.EVENT_READ, "new", idle_timeout=1)
        others.append(compiled.handle(other))
    advance(compiled, 0.5)
    assert foreign.touch(1) == 0
    assert [other.idle_for() for other in others] == [0.5] * 3
    assert foreign.mark(old) == 0
    assert foreign.touch(1) == 0
    compiled.close()
    assert foreign.touch(1) == 0
    assert foreign.mark(others[0]) == 0
    assert foreign.touch(1) == 0


def test_a_handle_keeps_what_its_mark_points_at(foreign, compiled, pair):
    a, _ = pair()
    selector = stillalive.Selector()
    selector.register(a, stillalive.EVENT_READ, idle_timeout=1)
    handle = selector.handle(a)
    assert foreign.mark(handle) == 0
    del selector
    gc.collect()
    ballast = [bytearray(MIB) for _ in range(8)]  # over memory that was given back
    assert foreign.touch(1000) == 0
    assert len(ballast) == 8
    assert handle.touch() is False


def test_what_is_no_handle_is_refused(foreign, compiled, pair):
    a, _ = pair()
    key = compiled.register(a, stillalive.EVENT_READ)
    foreign.mark(compiled.handle(a))
    for stranger in (None, key, compiled, compiled._engine, object(), type(compiled.handle(a))):
        assert foreign.mark(stranger) < 0
    assert foreign.touch(1) == 1
    unborn = type(compiled.handle(a))()
    assert unborn.touch() is False
    assert foreign.mark(unborn) == 0
    assert foreign.touch(1) == 0


def test_threads_touch_while_the_owner_closes(foreign, compiled, pair):
    """Without the GIL: what is due is rescued, which wakes the owner, or is stale."""
    pairs = [pair() for _ in range(8)]
    for _ in range(20):
        selector = stillalive.Selector()
        for a, _ in pairs:
            selector.register(a, stillalive.EVENT_READ, "a", idle_timeout=0.01)
        assert foreign.mark(selector.handle(pairs[0][0])) == 0
        handle = selector.handle(pairs[0][0])
        busy = threading.Thread(target=foreign.touch, args=(200_000,))
        busy.start()
        for _ in range(3):
            selector.select(0.005)
        selector.close()
        busy.join()
        assert handle.touch() is False


def test_tuning_reaches_the_kernel(foreign, tcp_pair):
    a, b = tcp_pair()
    assert foreign.tune(a.fileno()) == (0, 77)
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    assert a.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert [a.getsockopt(socket.IPPROTO_TCP, name) for name in names] == [77, 7, 5]
    assert foreign.fresh(b.fileno()) == 0
    assert [b.getsockopt(socket.IPPROTO_TCP, name) for name in names] == [66, 6, 4]
    assert a.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
    assert LEAVE == -1
    closed = socket.socket()
    number = closed.fileno()
    closed.close()
    assert foreign.tune(number)[0] < 0


def test_checking_sees_what_python_sees(foreign, tcp_pair):
    a, b = tcp_pair()
    assert foreign.check(a.fileno()) == (0, 0)
    b.close()
    rc, state = foreign.check(a.fileno())
    assert rc == 0
    assert list(stillalive.State)[state] is stillalive.State.PEER_CLOSED
    assert stillalive.check(a).state is stillalive.State.PEER_CLOSED


def test_the_capsule_is_named_after_its_place():
    assert "stillalive._core.api" in repr(_impl.choose("c").api)  # type: ignore[attr-defined]
