# The event loop's headers, for the binding alone.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from stillalive cimport ka_mark, ka_sock

cdef extern from "clock.h" nogil:
    ctypedef uint32_t ka_tick
    enum:
        KA_TICK_MS
    int64_t ka_clock_ticks(int64_t ms)

cdef extern from "table.h" nogil:
    ctypedef uint64_t ka_id
    enum:
        KA_NO_LIMIT
    struct ka_table:
        uint64_t claims
        uint64_t opened
    void ka_table_bytes(const ka_table *table, size_t *hot, size_t *all)

cdef extern from "backend.h" nogil:
    enum:
        KA_READ
        KA_WRITE
        KA_IDLENESS
        KA_BROKEN
        KA_HANGUP
    struct ka_backend:
        const char *name

cdef extern from "loop.h" nogil:
    enum:
        KA_LOOP_WAIT
    struct ka_entry:
        void *user
    struct ka_event:
        ka_id id
        void *user
        uint32_t events
    struct ka_loop_stats:
        uint64_t waits
        uint64_t events
        uint64_t idle
        uint64_t stale_events
        uint64_t rebuilds
        uint64_t interrupted
        uint64_t wakes
        uint64_t stalls
        uint64_t skipped_ticks
    struct ka_loop:
        const ka_backend *backend
        ka_table table
        uint32_t registered
        ka_event *event
        int waited
        unsigned fork_generation
        ka_loop_stats stats
    int ka_loop_init(ka_loop *loop, const ka_backend *backend)
    void ka_loop_shut(ka_loop *loop)
    void ka_loop_close(ka_loop *loop)
    const ka_backend *ka_loop_backend(const char *name)
    const char *ka_loop_backend_names()
    int ka_loop_add(ka_loop *loop, ka_sock fd, uint32_t events, ka_tick limit,
                    void *user, ka_id *out)
    int ka_loop_modify(ka_loop *loop, ka_id id, uint32_t events)
    int ka_loop_remove(ka_loop *loop, ka_id id)
    ka_entry *ka_loop_entry(const ka_loop *loop, ka_id id)
    int ka_loop_begin(ka_loop *loop, int64_t timeout_ms)
    void ka_loop_wait(ka_loop *loop)
    int ka_loop_finish(ka_loop *loop)
    int ka_loop_wake(ka_loop *loop)
    int ka_loop_set_limit(ka_loop *loop, ka_id id, ka_tick limit)
    int ka_loop_pause(ka_loop *loop, ka_id id)
    int ka_loop_resume(ka_loop *loop, ka_id id)
    void ka_loop_put_back(ka_loop *loop)
    int64_t ka_loop_idle_ms(ka_loop *loop, ka_id id)
    int ka_loop_longest_idle(ka_loop *loop, ka_id *out, int n)
    void ka_loop_freeze(ka_loop *loop, ka_tick tick)
    void ka_loop_advance(ka_loop *loop, uint32_t ticks)
    int ka_loop_mark(ka_loop *loop, ka_id id, ka_mark *out)
    int ka_mark_touch(const ka_mark *mark)

cdef extern from "os.h" nogil:
    unsigned ka_os_fork_generation()

cdef extern from "gate.h" nogil:
    struct ka_gate:
        uint32_t open
    enum:
        KA_REFUSED
        KA_ENTERED
        KA_INSIDE
    int ka_gate_enter(ka_gate *gate, uint64_t me)
    int ka_gate_inherit(ka_gate *gate, uint64_t me)
    void ka_gate_leave(ka_gate *gate)
