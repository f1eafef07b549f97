# Engine and Handle: what Selector and its handles are made of.
#
# What can go wrong, and how this file stops it:
#
# Memory. The loop holds borrowed pointers to handles; the dict `handles`
# keeps those alive. A handle that dies first (the collector clears the dict)
# takes itself out of the loop, or, while another thread waits in it, leaves
# NULL behind. Handles outlive engines: both hold the memory of the loop by a
# reference that the collector does not see and need not see, for `_Loop`
# refers to nothing. So a late touch, from any thread, finds a stale word and
# never freed memory; `close` gives the descriptors back, not the memory.
#
# Cycles. key.data may lead back to the selector. All references to Python
# objects are plain attributes, so the collector sees them, and no handle
# refers to its engine.
#
# Python code in the middle of select. Making a tuple may run the collector
# (before Python 3.12), and so anybody's finaliser, which may unregister,
# register or close. From the end of the wait until the first new tuple
# nothing can have changed; from then on each event's id is asked for anew.
# A second select inside is refused: it would replace the batch.
#
# Other threads. While the owner waits the GIL is free, and there are builds
# without one, so the GIL protects nothing: whoever changes the loop, or what
# select reads of a handle, passes the gate. What others may read beside it,
# a handle's key and limit, is read and changed in a critical section of the
# handle, and where they ask whether a handle is stale they ask the table,
# which lets any thread read, and not the entries, whose directory moves.
# Signal handlers run while the gate is held, too: they may touch and wake.
cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EINTR, ENOMEM
from libc.math cimport INFINITY, ceil, llround

from loop cimport *

from stillalive._errors import os_error as _new_os_error
from stillalive._values import as_timeout as _as_timeout

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil
    int _check_signals "PyErr_CheckSignals"()


@cython.final
cdef class _Loop:
    """The memory of a loop, and who is inside."""
    cdef ka_loop c
    cdef ka_gate gate
    cdef bint made
    cdef bint closed
    cdef bint still

    def __dealloc__(self):
        if self.made:
            ka_loop_close(&self.c)


cdef object _os_error(int rc):
    if rc == -ENOMEM:
        raise MemoryError()
    raise _new_os_error(_python_errno(-rc))


cdef object _refuse():
    raise RuntimeError("select() is waiting: other threads and signal "
                       "handlers may only touch and wake")


cdef inline int _enter(_Loop loop) except -1:
    cdef uint64_t me = PyThread_get_thread_ident()
    cdef int how
    if loop.closed or not loop.made:
        raise RuntimeError("Selector is closed")
    how = ka_gate_enter(&loop.gate, me)
    if how == KA_REFUSED and (loop.c.fork_generation
                              != ka_os_fork_generation()):
        how = ka_gate_inherit(&loop.gate, me)
    if how == KA_REFUSED:
        _refuse()
    if loop.closed:  # by another thread, just now
        _leave(loop, how)
        raise RuntimeError("Selector is closed")
    return how


cdef inline void _leave(_Loop loop, int how) noexcept:
    if how == KA_ENTERED:
        ka_gate_leave(&loop.gate)


cdef ka_tick _ticks(object seconds) except? 0:
    """The fewest ticks that are no shorter than this timeout."""
    if seconds is None:
        return KA_NO_LIMIT
    cdef double exact = seconds
    cdef int64_t found = ka_clock_ticks(<int64_t>ceil(exact * 1e3))
    if found < 0:
        _os_error(<int>found)
    return <ka_tick>found


cdef int64_t _wait_ms(object timeout) except? -1:
    cdef double seconds
    try:
        seconds = timeout
    except OverflowError:
        seconds = INFINITY if timeout > 0 else 0
    except TypeError:
        raise TypeError("timeout=%r: must be a number of seconds (int or"
                        " float), or None" % (timeout,)) from None
    if seconds != seconds:
        raise ValueError("timeout=%r: must not be NaN" % (timeout,))
    if seconds <= 0:
        return 0
    seconds = ceil(seconds * 1e3)
    return <int64_t>1 << 50 if seconds > 1e15 else <int64_t>seconds


# What a handle that no engine has made touches: it is stale.
cdef uint64_t _no_word
cdef ka_loop _no_loop
cdef ka_mark _nobody
_nobody.word = &_no_word
_nobody.loop = &_no_loop
_nobody.generation = 1


@cython.final
cdef class Handle:
    """One registration. See stillalive.selector.Handle."""
    # What select reads comes first, and together.
    cdef tuple read, idle, write, both  # (key, mask), made when first needed
    cdef uint32_t events
    cdef ka_mark mark
    cdef ka_id id  # 0 when removed
    cdef PyObject *home  # a _Loop, owned
    cdef object _key
    cdef object seconds
    cdef object __weakref__

    def __cinit__(self):
        self.mark = _nobody

    def __dealloc__(self):
        if self.home != NULL:
            if self.id:
                _forget(<_Loop>self.home, self.id)
            Py_DECREF(<_Loop>self.home)

    @property
    def key(self):
        with cython.critical_section(self):
            return self._key

    def touch(self):
        return ka_mark_touch(&self.mark) != 0

    def idle_for(self):
        cdef int64_t ms = -1
        if self.home != NULL:
            ms = ka_loop_idle_ms(&(<_Loop>self.home).c, self.id)
        if ms < 0:
            _stale()
        return ms / 1e3

    @property
    def idle_timeout(self):
        _alive(self)
        with cython.critical_section(self):
            return self.seconds

    @idle_timeout.setter
    def idle_timeout(self, seconds):
        seconds = _as_timeout("idle_timeout", seconds)
        cdef ka_tick limit = _ticks(seconds)
        cdef _Loop loop = _alive(self)
        cdef int how = _enter(loop)
        ka_loop_set_limit(&loop.c, self.id, limit)
        _leave(loop, how)
        with cython.critical_section(self):
            self.seconds = seconds

    def pause(self):
        cdef _Loop loop = _alive(self)
        cdef int how = _enter(loop)
        ka_loop_pause(&loop.c, self.id)
        _leave(loop, how)

    def resume(self):
        cdef _Loop loop = _alive(self)
        cdef int how = _enter(loop)
        ka_loop_resume(&loop.c, self.id)
        _leave(loop, how)


cdef object _stale():
    raise KeyError("this handle is stale: its registration has ended")


cdef _Loop _alive(Handle handle):
    """The loop of a handle that is not stale; any thread may ask."""
    if handle.home == NULL:
        _stale()
    cdef _Loop loop = <_Loop>handle.home
    if ka_loop_idle_ms(&loop.c, handle.id) < 0:
        _stale()
    return loop


cdef void _forget(_Loop loop, ka_id id) noexcept:
    """Take a dying handle out of the loop."""
    cdef int how = ka_gate_enter(&loop.gate, PyThread_get_thread_ident())
    cdef ka_entry *entry
    if how != KA_REFUSED:
        ka_loop_remove(&loop.c, id)
        _leave(loop, how)
        return
    entry = ka_loop_entry(&loop.c, id)
    if entry != NULL:
        entry.user = NULL


cdef void _rekey(_Loop loop, int how, Handle handle, object key,
                 uint32_t events) noexcept:
    """Change the key, and leave. What was there goes last: it may run anything."""
    cdef object old = handle._key
    cdef tuple read = handle.read, idle = handle.idle
    cdef tuple write = handle.write, both = handle.both
    with cython.critical_section(handle):
        handle._key = key
    handle.events = events
    handle.read = handle.write = handle.both = handle.idle = None
    _leave(loop, how)


cdef tuple _new_pair(Handle given, uint32_t mask):
    cdef Handle handle = given  # a reference: the collector may run
    cdef object key = handle._key
    cdef tuple pair = (key, mask)
    if handle._key is not key:
        return pair
    if mask == KA_READ:
        handle.read = pair
    elif mask == KA_WRITE:
        handle.write = pair
    elif mask == KA_READ | KA_WRITE:
        handle.both = pair
    elif mask == KA_IDLENESS:
        handle.idle = pair
    return pair


cdef inline uint32_t _mask(uint32_t found, uint32_t events) noexcept:
    """What selectors show: a broken one can be read and written."""
    cdef uint32_t mask = found & (KA_READ | KA_WRITE | KA_IDLENESS)
    if found & (KA_BROKEN | KA_HANGUP):
        mask |= KA_READ | KA_WRITE
    return mask & (events | KA_IDLENESS)


cdef inline tuple _pair(Handle handle, uint32_t mask):
    if mask == KA_READ:
        return handle.read
    if mask == KA_IDLENESS:
        return handle.idle
    if mask == KA_WRITE:
        return handle.write
    if mask == KA_READ | KA_WRITE:
        return handle.both
    return None


cdef int _gather(_Loop loop, int count, list found) except -1:
    """Append a pair of key and mask for each event of the batch."""
    cdef bint changed = False
    cdef ka_event *event
    cdef ka_entry *entry
    cdef void *user
    cdef uint32_t mask
    cdef tuple pair
    cdef int i
    for i in range(count):
        event = &loop.c.event[i]
        user = event.user
        if changed:
            entry = ka_loop_entry(&loop.c, event.id)
            user = entry.user if entry != NULL else NULL
        if user == NULL:
            ka_loop_remove(&loop.c, event.id)
            continue
        mask = _mask(event.events, (<Handle>user).events)
        if mask == 0:
            continue
        pair = _pair(<Handle>user, mask)
        if pair is None:
            pair = _new_pair(<Handle>user, mask)
            changed = True
        found.append(pair)
    return 0


cdef int _round(_Loop loop, int64_t ms) except -1:
    """Wait for a batch; the number of its events."""
    cdef int rc = ka_loop_begin(&loop.c, ms)
    while rc == KA_LOOP_WAIT:
        with nogil:
            ka_loop_wait(&loop.c)
        if loop.c.waited == -EINTR and _check_signals() < 0:
            return -1
        rc = ka_loop_finish(&loop.c)
    if rc < 0:
        _os_error(rc)
    return rc


def mechanisms():
    cdef str names = ka_loop_backend_names().decode("ascii")
    return tuple(names.split(", "))


@cython.final
cdef class Engine:
    """Descriptors, readiness and idleness of one thread."""
    cdef PyObject *home  # a _Loop, owned
    cdef dict _handles
    cdef object __weakref__

    def __cinit__(self):
        cdef _Loop loop = _Loop.__new__(_Loop)
        Py_INCREF(loop)
        self.home = <PyObject *>loop
        self._handles = {}

    def __init__(self, mechanism):
        cdef _Loop loop = <_Loop>self.home
        cdef const ka_backend *backend = NULL
        cdef bytes name
        cdef int rc
        if loop.made:
            raise RuntimeError("this Engine has been made already")
        if mechanism is not None:
            name = mechanism.encode()
            backend = ka_loop_backend(name)
            if backend == NULL:
                raise ValueError("mechanism=%r: not on this system (allowed: %s)"
                                 % (mechanism, ", ".join(mechanisms())))
        rc = ka_loop_init(&loop.c, backend)
        if rc < 0:
            _os_error(rc)
        loop.made = True

    def __dealloc__(self):
        cdef PyObject *home = self.home
        if home != NULL:
            if (<_Loop>home).made and not (<_Loop>home).closed:
                (<_Loop>home).closed = True
                ka_loop_shut(&(<_Loop>home).c)
            Py_DECREF(<_Loop>home)

    @property
    def mechanism(self):
        cdef _Loop loop = <_Loop>self.home
        return loop.c.backend.name.decode("ascii") if loop.made else ""

    @property
    def handles(self):
        return self._handles

    def add(self, key, idle_timeout):
        cdef _Loop loop = <_Loop>self.home
        cdef ka_sock fd = key[1]
        cdef uint32_t events = key[2]
        cdef ka_tick limit = _ticks(idle_timeout)
        cdef Handle handle = Handle.__new__(Handle)
        cdef ka_id id = 0
        cdef int rc, how
        handle._key = key
        handle.events = events
        handle.seconds = idle_timeout
        how = _enter(loop)
        rc = ka_loop_add(&loop.c, fd, events, limit, <void *>handle, &id)
        if rc >= 0:
            ka_loop_mark(&loop.c, id, &handle.mark)
            handle.id = id
            Py_INCREF(loop)
            handle.home = <PyObject *>loop
        _leave(loop, how)
        if rc < 0:
            _os_error(rc)
        self._handles[key[1]] = handle
        return handle

    def modify(self, Handle handle not None, key):
        cdef _Loop loop = <_Loop>self.home
        cdef uint32_t events = key[2]
        cdef int rc, how
        if handle.home != self.home or not handle.id:
            _stale()
        how = _enter(loop)
        rc = ka_loop_modify(&loop.c, handle.id, events)
        if rc < 0:
            _leave(loop, how)
            _os_error(rc)
        _rekey(loop, how, handle, key, events)

    def remove(self, Handle handle not None):
        cdef _Loop loop = <_Loop>self.home
        cdef int how
        if handle.home != self.home:
            return
        how = _enter(loop)
        ka_loop_remove(&loop.c, handle.id)
        handle.id = 0
        key = handle._key
        _rekey(loop, how, handle, key, 0)
        if self._handles.get(key[1]) is handle:
            del self._handles[key[1]]

    def select(self, timeout=None):
        cdef _Loop loop = <_Loop>self.home
        cdef int64_t ms = -1 if timeout is None else _wait_ms(timeout)
        cdef list found = []
        cdef int count
        if _enter(loop) == KA_INSIDE:
            raise RuntimeError("select() was called inside select()")
        try:
            count = _round(loop, ms)
            loop.gate.open = 1
            try:
                _gather(loop, count, found)
            except BaseException:
                ka_loop_put_back(&loop.c)
                raise
        finally:
            ka_gate_leave(&loop.gate)
        return found

    def shed(self, n):
        cdef _Loop loop = <_Loop>self.home
        cdef int room = min(n, len(self._handles))
        cdef list keys = []
        cdef ka_entry *entry
        cdef ka_id *ids
        cdef int count, how, i
        how = _enter(loop)
        ids = <ka_id *>PyMem_Malloc((room + 1) * sizeof(ka_id))
        count = -ENOMEM
        if ids != NULL:
            count = ka_loop_longest_idle(&loop.c, ids, room)
        try:
            if count < 0:
                _os_error(count)
            for i in range(count):
                entry = ka_loop_entry(&loop.c, ids[i])
                if entry != NULL and entry.user != NULL:
                    keys.append((<Handle>entry.user)._key)
        finally:
            PyMem_Free(ids)
            _leave(loop, how)
        return keys

    def wake(self):
        cdef _Loop loop = <_Loop>self.home
        if loop.closed or not loop.made:
            raise RuntimeError("Selector is closed")
        cdef int rc = ka_loop_wake(&loop.c)
        if rc < 0:
            _os_error(rc)

    def stats(self):
        cdef _Loop loop = <_Loop>self.home
        cdef ka_loop_stats *s = &loop.c.stats
        cdef size_t hot = 0, all_ = 0
        if loop.closed or not loop.made:
            raise RuntimeError("Selector is closed")
        ka_table_bytes(&loop.c.table, &hot, &all_)
        return {
            "waits": s.waits,
            "events": s.events,
            "idle": s.idle,
            "stale_events": s.stale_events,
            "rebuilds": s.rebuilds,
            "interrupted": s.interrupted,
            "wakes": s.wakes,
            "stalls": s.stalls,
            "skipped_ticks": s.skipped_ticks,
            "claims": loop.c.table.claims,
            "opened": loop.c.table.opened,
            "registered": loop.c.registered,
            "bytes_hot": hot,
            "bytes_all": all_,
        }

    def close(self):
        cdef _Loop loop = <_Loop>self.home
        cdef int how
        if loop.made and not loop.closed:
            how = _enter(loop)
            loop.closed = True
            ka_loop_shut(&loop.c)
            _leave(loop, how)
        self._handles.clear()  # not another dict: who reads it has no lock

    def freeze(self, ka_tick tick):
        cdef _Loop loop = <_Loop>self.home
        cdef int how = _enter(loop)
        loop.still = True
        ka_loop_freeze(&loop.c, tick)
        _leave(loop, how)

    def advance(self, double seconds):
        cdef _Loop loop = <_Loop>self.home
        cdef int64_t us = llround(seconds * 1e6)
        cdef int64_t tick = KA_TICK_MS * 1000
        cdef int how
        if not loop.still:
            raise RuntimeError("only a frozen clock can be advanced")
        how = _enter(loop)
        ka_loop_advance(&loop.c, <uint32_t>((us + tick - 1) // tick))
        _leave(loop, how)
