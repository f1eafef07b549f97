# One thread that looks at connections of others: settings in, events out.
#
# Every call gives the GIL away, because it may have to wait for the slice of
# work that the thread is in. The thread itself never wants the GIL, so no
# call can wait for another.
#
# Threads: any may call anything. The memory lives as long as the object, so
# a take() that waits keeps it; stop() ends the thread and brings take() back.
# abandon() is for a forked child, which has none of the threads.
from libc.errno cimport ESHUTDOWN
from libc.string cimport memcpy, memset

from watcher cimport *

from stillalive._backend import CAUSES as _CAUSES
from stillalive._backend import Occurrence as _Occurrence

cdef enum:
    _EVENTS = 64  # events that one take() brings at most


cdef int _fill_limits(ka_limits *limits, object settings) except -1:
    limits.never_spoke_ms = settings.never_spoke_ms
    limits.unanswered_ms = settings.unanswered_ms
    limits.answered_ms = settings.answered_ms
    limits.stalled_ms = settings.stalled_ms
    limits.min_rate = settings.min_rate
    limits.detect_ms = settings.detect_ms
    limits.idle_ms = KA_NO_TIME
    return 0


cdef int _fill_network(ka_network *network, bytes address, int bits) except -1:
    if len(address) != 4 and len(address) != 16:
        raise ValueError("an address has 4 or 16 bytes")
    memcpy(network.address, <const char *>address, len(address))
    network.family = 4 if len(address) == 4 else 6
    network.bits = bits
    return 0


cdef int _fill_settings(ka_watcher_settings *c, object settings) except -1:
    cdef int i
    cdef tuple ports = settings.ports
    cdef tuple exempt = settings.exempt
    if len(ports) > KA_MOST_PORTS or len(exempt) > KA_MOST_NETWORKS:
        raise ValueError("too many ports or networks")
    memset(c, 0, sizeof(ka_watcher_settings))
    _fill_limits(&c.limits, settings)
    c.discover = settings.discover
    c.ports = <int>len(ports)
    for i in range(c.ports):
        c.port[i] = ports[i]
    c.networks = <int>len(exempt)
    for i in range(c.networks):
        _fill_network(&c.exempt[i], exempt[i][0], exempt[i][1])
    c.evict_above = settings.evict_above
    c.evict_idle_ms = settings.evict_idle_ms
    c.dry_run = settings.dry_run
    c.closes_per_second = settings.closes_per_second
    _fill(&c.pace, settings.pace)
    c.pace_jitter = settings.pace_jitter
    return 0


cdef object _endpoint(const ka_endpoint *end):
    if end.family == 4:
        return (<const char *>end.address)[:4], end.port, 0
    if end.family == 6:
        return (<const char *>end.address)[:16], end.port, end.scope
    return None


cdef object _occurrence(const ka_occurrence *e):
    return _Occurrence(
        e.token, e.cause, e.klass, e.deed, e.dry_run != 0,
        _python_errno(e.err), e.sock, e.identity, _endpoint(&e.local),
        _endpoint(&e.peer), e.at_ms, e.clock_ms, e.heard_ms, e.data_in_ms, e.data_out_ms,
        e.bytes_in, e.bytes_out, e.unread, e.unsent)


cdef dict _watcher_stats(const ka_watcher_stats *s):
    cdef int i
    found = {"tracked": s.tracked, "watched": s.watched, "held": s.held,
             "looks": s.looks, "told": s.told, "ended": s.ended}
    for i in range(1, <int>len(_CAUSES)):
        found["told_" + <str>_CAUSES[i]] = s.by_cause[i]
    found["spared_unread"] = s.spared_unread
    found["spared_rate"] = s.spared_rate
    found["spared_exempt"] = s.spared_exempt
    found["spared_held"] = s.spared_held
    found["passes"] = s.passes
    found["pass_cpu_us"] = s.pass_cpu_us
    found["cpu_us"] = s.cpu_us
    found["stalls"] = s.stalls
    found["dropped"] = s.dropped
    found["no_memory"] = s.no_memory
    return found


@cython.final
cdef class FirstLook:
    """How a connection looks before anything is asked of its peer."""
    cdef ka_first_look look

    def __init__(self, ka_sock fd):
        cdef int rc = ka_first_look_of(fd, &self.look)
        if rc < 0:
            _raise(fd, rc, "getsockopt(TCP_INFO)")

    @property
    def identity(self):
        return self.look.identity

    @property
    def info(self):
        return _info(&self.look.info)


@cython.final
cdef class Watcher:
    """A thread that looks at connections, and what it has to tell."""
    cdef ka_watcher *c
    cdef unsigned generation  # of forks, when it was made

    def __init__(self, settings, uint32_t queue):
        cdef ka_watcher_settings wanted
        if self.c is not NULL:
            raise RuntimeError("this Watcher has been made already")
        _fill_settings(&wanted, settings)
        self.generation = ka_os_fork_generation()
        _need(ka_watcher_new(&self.c, &wanted, queue))

    def __dealloc__(self):
        if self.c is NULL:
            return
        if self.generation != ka_os_fork_generation():
            ka_watcher_abandon(self.c)
        else:
            ka_watcher_free(self.c)

    cdef ka_watcher *alive(self) except NULL:
        # Also in a child whose fork Python has not seen: no lock, no thread.
        if self.c is NULL or self.generation != ka_os_fork_generation():
            raise RuntimeError("this Watcher belongs to the parent process")
        return self.c

    def start(self):
        cdef ka_watcher *c = self.alive()
        cdef int rc
        with nogil:
            rc = ka_watcher_start(c)
        _need(rc)

    def stop(self):
        cdef ka_watcher *c = self.alive()
        with nogil:
            ka_watcher_stop(c)

    def abandon(self):
        if self.c is not NULL:
            ka_watcher_abandon(self.c)
        self.c = NULL

    def update(self, settings):
        cdef ka_watcher *c = self.alive()
        cdef ka_watcher_settings wanted
        cdef int rc
        _fill_settings(&wanted, settings)
        with nogil:
            rc = ka_watcher_update(c, &wanted)
        _need(rc)

    def watch(self, ka_sock fd, uint64_t identity, int64_t detect_ms,
              int64_t idle_ms, int32_t deed, FirstLook first=None):
        cdef ka_watcher *c = self.alive()
        cdef const ka_first_look *seen = NULL
        cdef int64_t token
        if first is not None:
            seen = &first.look
        with nogil:
            token = ka_watcher_watch(c, fd, identity, seen, detect_ms,
                                     idle_ms, deed)
        if token < 0:
            _need(<int>token)
        return token

    def cancel(self, int64_t token):
        cdef ka_watcher *c = self.alive()
        cdef int found
        with nogil:
            found = ka_watcher_cancel(c, token)
        return found != 0

    def hold(self, uint64_t identity):
        cdef ka_watcher *c = self.alive()
        cdef int rc
        with nogil:
            rc = ka_watcher_hold(c, identity)
        _need(rc)

    def release(self, uint64_t identity):
        cdef ka_watcher *c = self.alive()
        with nogil:
            ka_watcher_release(c, identity)

    def drain(self, bint on):
        cdef ka_watcher *c = self.alive()
        with nogil:
            ka_watcher_drain(c, on)

    def take(self, int room, int64_t timeout_ms):
        cdef ka_watcher *c = self.alive()
        cdef ka_occurrence events[_EVENTS]
        cdef int i, count
        if room > _EVENTS:
            room = _EVENTS
        with nogil:
            count = ka_watcher_take(c, events, room, timeout_ms)
        if count == -ESHUTDOWN:
            return None
        _need(count)
        return [_occurrence(&events[i]) for i in range(count)]

    def stats(self):
        cdef ka_watcher *c = self.alive()
        cdef ka_watcher_stats found
        with nogil:
            ka_watcher_stats_of(c, &found)
        return _watcher_stats(&found)

    def step(self, int64_t now_ms):
        cdef ka_watcher *c = self.alive()
        cdef int64_t delay
        with nogil:
            delay = ka_watcher_step(c, now_ms)
        return delay
