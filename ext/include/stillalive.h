/* stillalive.h - is that peer still alive, and what do we do if not?
 *
 * The C API of the stillalive package, and its manual. Nothing here knows
 * Python, allocates, keeps a clock or starts a thread: the caller owns every
 * struct and passes the time in, so each function can be tested with a fake
 * clock and a fake kernel.
 *
 * Results.  Every int function returns >= 0, or -errno (ENOPROTOOPT: this
 *           OS or this socket does not have it). errno itself is not part of
 *           the API.
 * Threads.  Functions keep no state between calls except the bit set that
 *           ka_supported() caches. One ka_question may be used by one thread
 *           at a time; different sockets are independent.
 * Units.    Seconds for idle and interval, milliseconds for user_timeout and
 *           rto_max, as Linux takes them; *_us and *_ms say the rest.
 */
#ifndef STILLALIVE_H
#define STILLALIVE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As wide as a SOCKET on Windows, a file descriptor everywhere else. */
#ifdef _WIN32
typedef uintptr_t ka_sock;
#else
typedef int ka_sock;
#endif

/* ---- kernel keepalive ------------------------------------------------- */

enum ka_option {
    KA_ENABLED = 0,      /* SO_KEEPALIVE, 0 or 1 */
    KA_IDLE = 1,         /* seconds of silence before the first probe */
    KA_INTERVAL = 2,     /* seconds between probes */
    KA_COUNT = 3,        /* unanswered probes that end the connection */
    KA_USER_TIMEOUT = 4, /* ms that sent data may stay unacknowledged, 0 off */
    KA_RTO_MAX = 5       /* ms, upper bound of the retransmission timer */
};
#define KA_OPTIONS 6
#define KA_LEAVE \
    (-1) /* in a policy: leave as it is; read back: no such option */
#define KA_UNREADABLE \
    (-2) /* read back: it can be set, but this system does not tell it */

struct ka_policy {
    int32_t value[KA_OPTIONS]; /* by enum ka_option */
};

struct ka_range {
    int32_t low;
    int32_t high;
};

/* Which call of several failed. */
struct ka_fault {
    int32_t option;  /* enum ka_option, -1 the identity */
    int32_t setting; /* 1 setsockopt, 0 getsockopt */
};

/* What the kernel says about a socket of any kind. */
struct ka_kind {
    int32_t family;
    int32_t type;
    int32_t protocol;
    int32_t listening;
};

/* Bit (1 << option) for each option that this kernel has, found by asking a
 * socket of its own once; 0 when no socket could be made. */
unsigned ka_supported(void);

/* The kernel's name of an option ("TCP_KEEPIDLE"), for messages. */
const char *ka_option_name(int option);

/* The values that the kernel accepts for an option. */
int ka_option_range(int option, struct ka_range *range);

/* One option. A value outside the range is -EINVAL, from the kernel. */
int ka_get(ka_sock sock, int option, int32_t *value);
int ka_set(ka_sock sock, int option, int32_t value);

/* All options; KA_LEAVE where this socket has none, KA_UNREADABLE where the
 * system does not tell. -ENOPROTOOPT or -EOPNOTSUPP when it is no TCP socket.
 * *fault tells the option. */
int ka_read(ka_sock sock, struct ka_policy *out, struct ka_fault *fault);

/* Set what is not KA_LEAVE, in the order in which the OS must hear it, and
 * read back. A failure puts back what was changed and returns the
 * error, its option in *fault; `out` is then unspecified. What cannot be read
 * goes back to the system's default, and `out` holds what was set. */
int ka_apply(ka_sock sock, const struct ka_policy *policy,
             struct ka_policy *out, struct ka_fault *fault);

/* The same without reading anything: for sockets that the caller has just
 * made or accepted, where no half-way state is worth saving. */
int ka_apply_fresh(ka_sock sock, const struct ka_policy *policy,
                   struct ka_fault *fault);

int ka_kind(ka_sock sock, struct ka_kind *kind);

/* A number that names the socket itself, whatever descriptor points at it,
 * and is never used again (Linux: SO_COOKIE). Elsewhere the best there is, a
 * mix of the addresses of its two ends: another socket has the same number
 * only when it has the same ends. */
int ka_identify(ka_sock sock, uint64_t *identity);

/* ---- is it alive ------------------------------------------------------ */

/* Linux's numbers; other systems are mapped onto them. */
enum ka_tcp_state {
    KA_TCP_ESTABLISHED = 1,
    KA_TCP_SYN_SENT = 2,
    KA_TCP_SYN_RECV = 3,
    KA_TCP_FIN_WAIT1 = 4,
    KA_TCP_FIN_WAIT2 = 5,
    KA_TCP_TIME_WAIT = 6,
    KA_TCP_CLOSE = 7,
    KA_TCP_CLOSE_WAIT = 8,
    KA_TCP_LAST_ACK = 9,
    KA_TCP_LISTEN = 10,
    KA_TCP_CLOSING = 11
};

/* The kernel's view of a connection; -1 where the kernel does not tell.
 * Where it has one clock for segments of any kind, that is last_ack_recv_ms.
 */
struct ka_info {
    int64_t state; /* enum ka_tcp_state */
    int64_t retransmits;
    int64_t probes; /* unanswered keepalive or zero-window probes */
    int64_t backoff;
    int64_t rto_us;
    int64_t rtt_us;
    int64_t rttvar_us;
    int64_t min_rtt_us;
    int64_t unacked; /* segments */
    int64_t last_data_sent_ms;
    int64_t last_data_recv_ms;
    int64_t last_ack_recv_ms;
    int64_t total_retrans;
    int64_t bytes_acked;
    int64_t bytes_received;
    int64_t segs_out;
    int64_t segs_in;
    int64_t notsent_bytes;
    int64_t data_segs_in;
    int64_t data_segs_out;
    int64_t bytes_sent;
    int64_t bytes_retrans;
    int64_t snd_wnd;
    /* Sequence numbers, modulo 2^32: that they move is all they tell. */
    int64_t snd_nxt; /* goes back to retransmit */
    int64_t snd_max; /* the highest that was sent */
    int64_t rcv_nxt;
    int64_t queued_bytes; /* unsent, or sent and not acknowledged */
};

int ka_info(ka_sock sock, struct ka_info *info);

/* What poll() shows, and how many bytes wait to be read. Takes nothing from
 * the owner: no recv, no MSG_PEEK, no SO_ERROR. */
struct ka_pending {
    int32_t error;  /* POLLERR */
    int32_t hangup; /* POLLHUP */
    int32_t rdhup;  /* POLLRDHUP: nothing more comes in, whoever shut it */
    int32_t fin;    /* the peer's end, where TCP_INFO does not show it */
    int32_t code; /* errno of the error, where it can be seen and left, or 0 */
    int64_t unread;
};
int ka_pending(ka_sock sock, struct ka_pending *pending);

enum ka_liveness {
    KA_ALIVE = 0,
    KA_OPEN = 1,
    KA_PEER_CLOSED = 2,
    KA_RESET = 3,
    KA_DEAD = 4,
    KA_SILENT = 5,
    KA_UNKNOWN = 6,
    KA_ASKING = 7 /* of a witness only: nothing decided yet, look again */
};

enum ka_reason {
    KA_WHY_HEARD = 0,          /* a segment arrived a moment ago */
    KA_WHY_ANSWERED = 1,       /* a segment arrived since the witness began */
    KA_WHY_QUIET = 2,          /* open, nothing proved */
    KA_WHY_UNANSWERED = 3,     /* open, but questions are outstanding */
    KA_WHY_CONNECTING = 4,     /* the handshake has not finished */
    KA_WHY_FIN = 5,            /* the peer has ended its sending side */
    KA_WHY_RST = 6,            /* ended by a reset */
    KA_WHY_TIMED_OUT = 7,      /* ended by the kernel's own timers */
    KA_WHY_RST_OR_TIMEOUT = 8, /* ended, by the one or the other */
    KA_WHY_CLOSED = 9,         /* ended, and no error is pending */
    KA_WHY_NO_ANSWER = 10,     /* asked in vain */
    KA_WHY_NO_QUESTION = 11,   /* the kernel had no chance to ask */
    KA_WHY_MUST_ASK = 12,      /* KA_ASKING: somebody must send a question */
    KA_WHY_KERNEL_ASKS = 13,   /* KA_ASKING: retransmissions are questions */
    KA_WHY_CANNOT_ASK = 14,    /* KA_UNKNOWN: no question can be put here */
    KA_WHY_CANNOT_TELL = 15    /* KA_UNKNOWN: no answer would show here */
};

struct ka_verdict {
    int32_t state;      /* enum ka_liveness */
    int32_t reason;     /* enum ka_reason */
    int32_t err;        /* errno it ended with, 0 unknown. ECONNRESET for a
                         * reset; a witness that saw it open knows when the
                         * owner will read EPIPE or ECONNREFUSED instead */
    int32_t asked;      /* questions that left on behalf of this witness */
    int64_t heard_ms;   /* since the last segment, -1 unknown */
    int64_t unread;     /* bytes */
    int64_t unanswered; /* probes or retransmissions not answered so far */
};

/* Judge without asking. -ENOTCONN for a socket that was never connected;
 * -EOPNOTSUPP or -ENOPROTOOPT for a listening one and for what is not TCP. */
int ka_check(ka_sock sock, struct ka_verdict *verdict);

/* A witness says whether the peer has been heard since it began. It changes
 * nothing; any number of them may look at one socket. `asked` are the
 * questions put so far by a ka_question; the kernel's own are added. */
struct ka_witness {
    ka_sock sock;
    uint64_t identity;
    int64_t began_ms;
    int64_t segs_in; /* when it looked last */
    struct ka_info first;
};
int ka_witness_begin(struct ka_witness *witness, ka_sock sock, int64_t now_ms,
                     struct ka_verdict *verdict);
/* -EBADF when the descriptor has come to mean another socket. */
int ka_witness_look(struct ka_witness *witness, int32_t asked, int64_t now_ms,
                    struct ka_verdict *verdict);
/* The verdict when no time is left. */
int ka_witness_give_up(struct ka_witness *witness, int32_t asked,
                       int64_t now_ms, struct ka_verdict *verdict);

/* The questions put to one socket: at most one of these per socket. The
 * options are borrowed from the first ask to the end, and no probe can kill
 * the connection meanwhile. */
enum ka_guard {
    KA_UNGUARDED = 0,
    KA_GUARD_COUNT = 1,   /* the highest count, no user timeout */
    KA_GUARD_TIMEOUT = 2, /* a user timeout of 24 days, which overrules it */
};
struct ka_question {
    ka_sock sock;
    uint64_t identity;
    int32_t borrowed; /* options are changed, `saved` holds the owner's */
    int32_t guard;    /* enum ka_guard: what keeps a probe from killing */
    int32_t asked;
    int64_t asked_ms;
    struct ka_policy saved;
};
#define KA_ASK_SPACING_MS 750

void ka_question_begin(struct ka_question *question, ka_sock sock,
                       uint64_t identity);
/* Ask now, unless the last question is younger than KA_ASK_SPACING_MS. From
 * KA_UNANSWERED_MAX unanswered probes on, no count that can be set keeps the
 * next from killing; a user timeout of 24 days does. Where the socket has none
 * no more is asked. 1 when a question was put, 0 when not. */
#define KA_UNANSWERED_MAX 120
int ka_question_ask(struct ka_question *question, int64_t now_ms,
                    struct ka_fault *fault);
/* Give the options back; also right when nothing was asked, and twice. */
int ka_question_end(struct ka_question *question, struct ka_fault *fault);

/* ---- activity --------------------------------------------------------- */

/* What touching one registered connection takes: a few loads, and a store
 * when the tick has changed. Valid while the Handle it was taken from exists,
 * also after the connection was unregistered: it is stale then, and a touch
 * reaches nobody else. Any thread, no lock, no Python. */
struct ka_mark {
    void *word; /* the members are the library's own */
    void *cold;
    void *page;
    void *loop;
    uint32_t generation;
    uint32_t slot;
};

/* Note activity now. 1, or 0 when stale. */
int ka_touch_now(const struct ka_mark *mark);

/* What other extensions get from the capsule "stillalive._core.api", so that
 * they need not link with this package. Members are only ever added at the
 * end: check `size`, or that `version` is KA_API_VERSION. */
#define KA_API_VERSION 1
struct ka_api {
    int32_t version;
    int32_t size; /* sizeof (struct ka_api) of the package that is there */
    int (*touch_now)(const struct ka_mark *mark);
    /* `handle` is a PyObject *, a stillalive Handle of a compiled Selector.
     * 0, or -EINVAL when it is none. With the GIL; this is the only one that
     * needs it. Hold a reference to the handle while using the mark. */
    int (*mark_of)(void *handle, struct ka_mark *mark);
    int (*apply)(ka_sock sock, const struct ka_policy *policy,
                 struct ka_policy *out, struct ka_fault *fault);
    int (*apply_fresh)(ka_sock sock, const struct ka_policy *policy,
                       struct ka_fault *fault);
    int (*check)(ka_sock sock, struct ka_verdict *verdict);
};

#ifdef __cplusplus
}
#endif

#endif
