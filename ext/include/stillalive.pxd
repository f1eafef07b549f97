# The C API for Cython. Read stillalive.h, it is the manual.
#
# stillalive.get_include() is the folder of both files: include_path for
# cythonize, include_dirs for the compiler. Nothing is linked:
#
#     from stillalive cimport ka_api, ka_import_api, ka_mark
#
#     cdef const ka_api *api = ka_import_api()
#     cdef ka_mark mark
#     if api.mark_of(<void *>handle, &mark) == 0:  # selector.handle(sock)
#         api.touch_now(&mark)                     # also without the GIL
#
# The functions declared by their own names are for who compiles the C sources
# of this package into his own extension.
from cpython.pycapsule cimport PyCapsule_Import
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef extern from "stillalive.h" nogil:
    ctypedef int ka_sock  # the compiler takes the true width from the header

    enum:
        KA_OPTIONS
        KA_LEAVE
        KA_ENABLED
        KA_IDLE
        KA_INTERVAL
        KA_COUNT
        KA_USER_TIMEOUT
        KA_RTO_MAX
        KA_API_VERSION

    struct ka_policy:
        int32_t value[6]

    struct ka_range:
        int32_t low
        int32_t high

    struct ka_fault:
        int32_t option
        int32_t setting

    struct ka_kind:
        int32_t family
        int32_t type
        int32_t protocol
        int32_t listening

    struct ka_info:
        int64_t state
        int64_t retransmits
        int64_t probes
        int64_t backoff
        int64_t rto_us
        int64_t rtt_us
        int64_t rttvar_us
        int64_t min_rtt_us
        int64_t unacked
        int64_t last_data_sent_ms
        int64_t last_data_recv_ms
        int64_t last_ack_recv_ms
        int64_t total_retrans
        int64_t bytes_acked
        int64_t bytes_received
        int64_t segs_out
        int64_t segs_in
        int64_t notsent_bytes
        int64_t data_segs_in
        int64_t data_segs_out
        int64_t bytes_sent
        int64_t bytes_retrans
        int64_t snd_wnd
        int64_t snd_nxt
        int64_t snd_max
        int64_t rcv_nxt
        int64_t queued_bytes

    struct ka_verdict:
        int32_t state
        int32_t reason
        int32_t err
        int32_t asked
        int64_t heard_ms
        int64_t unread
        int64_t unanswered

    struct ka_witness:
        uint64_t identity

    struct ka_question:
        int32_t borrowed
        int32_t asked
        ka_policy saved

    unsigned ka_supported()
    const char *ka_option_name(int option)
    int ka_option_range(int option, ka_range *range)
    int ka_read(ka_sock sock, ka_policy *out, ka_fault *fault)
    int ka_apply(ka_sock sock, const ka_policy *policy, ka_policy *out,
                 ka_fault *fault)
    int ka_apply_fresh(ka_sock sock, const ka_policy *policy, ka_fault *fault)
    int ka_kind_of "ka_kind"(ka_sock sock, ka_kind *kind)
    int ka_identify(ka_sock sock, uint64_t *identity)
    int ka_info_of "ka_info"(ka_sock sock, ka_info *info)
    int ka_check(ka_sock sock, ka_verdict *verdict)
    int ka_witness_begin(ka_witness *witness, ka_sock sock, int64_t now_ms,
                         ka_verdict *verdict)
    int ka_witness_look(ka_witness *witness, int32_t asked, int64_t now_ms,
                        ka_verdict *verdict)
    int ka_witness_give_up(ka_witness *witness, int32_t asked, int64_t now_ms,
                           ka_verdict *verdict)
    void ka_question_begin(ka_question *question, ka_sock sock,
                           uint64_t identity)
    int ka_question_ask(ka_question *question, int64_t now_ms,
                        ka_fault *fault)
    int ka_question_end(ka_question *question, ka_fault *fault)

    struct ka_mark:
        void *word
        void *cold
        void *page
        void *loop
        uint32_t generation
        uint32_t slot

    int ka_touch_now(const ka_mark *mark)

    struct ka_api:
        int32_t version
        int32_t size
        int (*touch_now)(const ka_mark *mark) noexcept nogil
        int (*mark_of)(void *handle, ka_mark *mark) noexcept
        int (*apply)(ka_sock sock, const ka_policy *policy, ka_policy *out,
                     ka_fault *fault) noexcept nogil
        int (*apply_fresh)(ka_sock sock, const ka_policy *policy,
                           ka_fault *fault) noexcept nogil
        int (*check)(ka_sock sock, ka_verdict *verdict) noexcept nogil


cdef inline const ka_api *ka_import_api() except NULL:
    """The functions of the package that is installed, or ImportError."""
    cdef const ka_api *api
    import stillalive._core
    api = <const ka_api *>PyCapsule_Import("stillalive._core.api", 0)
    if api.version != KA_API_VERSION or api.size < <int32_t>sizeof(ka_api):
        raise ImportError("stillalive has another C API: %d" % api.version)
    return api
