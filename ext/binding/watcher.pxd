# The headers of the watcher, for the binding alone.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from stillalive cimport ka_info, ka_policy, ka_sock

cdef extern from "judge.h" nogil:
    enum:
        KA_NO_TIME

    struct ka_limits:
        int64_t never_spoke_ms
        int64_t unanswered_ms
        int64_t answered_ms
        int64_t stalled_ms
        int64_t min_rate
        int64_t detect_ms
        int64_t idle_ms

cdef extern from "reserve.h" nogil:
    struct ka_endpoint:
        unsigned char address[16]
        uint32_t scope
        uint16_t port
        uint8_t family

cdef extern from "ring.h" nogil:
    struct ka_occurrence:
        int64_t token
        int32_t cause
        int32_t klass
        int32_t deed
        int32_t dry_run
        int32_t err
        ka_sock sock
        uint64_t identity
        ka_endpoint local
        ka_endpoint peer
        int64_t at_ms
        int64_t clock_ms
        int64_t heard_ms
        int64_t data_in_ms
        int64_t data_out_ms
        int64_t bytes_in
        int64_t bytes_out
        int64_t unread
        int64_t unsent

cdef extern from "watcher.h" nogil:
    enum:
        KA_MOST_PORTS
        KA_MOST_NETWORKS

    struct ka_network:
        unsigned char address[16]
        uint8_t family
        uint8_t bits

    struct ka_watcher_settings:
        ka_limits limits
        int32_t discover
        int32_t ports
        uint16_t port[KA_MOST_PORTS]
        int32_t networks
        ka_network exempt[KA_MOST_NETWORKS]
        int64_t evict_above
        int64_t evict_idle_ms
        int32_t dry_run
        int32_t closes_per_second
        ka_policy pace
        int32_t pace_jitter

    struct ka_watcher_stats:
        uint64_t tracked
        uint64_t watched
        uint64_t held
        uint64_t looks
        uint64_t told
        uint64_t ended
        uint64_t by_cause[16]
        uint64_t spared_unread
        uint64_t spared_rate
        uint64_t spared_exempt
        uint64_t spared_held
        uint64_t passes
        uint64_t pass_cpu_us
        uint64_t cpu_us
        uint64_t stalls
        uint64_t dropped
        uint64_t no_memory

    struct ka_first_look:
        uint64_t identity
        ka_info info

    struct ka_watcher:
        pass

    int ka_first_look_of "ka_first_look"(ka_sock sock, ka_first_look *out)

    int ka_watcher_new(ka_watcher **out, const ka_watcher_settings *settings,
                       uint32_t queue)
    int ka_watcher_start(ka_watcher *watcher)
    void ka_watcher_stop(ka_watcher *watcher)
    void ka_watcher_free(ka_watcher *watcher)
    void ka_watcher_abandon(ka_watcher *watcher)
    int ka_watcher_update(ka_watcher *watcher,
                          const ka_watcher_settings *settings)
    int64_t ka_watcher_watch(ka_watcher *watcher, ka_sock sock,
                             uint64_t identity, const ka_first_look *first,
                             int64_t detect_ms, int64_t idle_ms, int32_t deed)
    int ka_watcher_cancel(ka_watcher *watcher, int64_t token)
    int ka_watcher_hold(ka_watcher *watcher, uint64_t identity)
    void ka_watcher_release(ka_watcher *watcher, uint64_t identity)
    void ka_watcher_drain(ka_watcher *watcher, int on)
    int ka_watcher_take(ka_watcher *watcher, ka_occurrence *out, int room,
                        int64_t timeout_ms)
    void ka_watcher_stats_of "ka_watcher_stats"(ka_watcher *watcher,
                                                ka_watcher_stats *out)
    int64_t ka_watcher_step(ka_watcher *watcher, int64_t now_ms)
