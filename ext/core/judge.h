/* judge.h - which connections have been let down, by the kernel's counters.
 *
 * Arithmetic on ka_info and the time; no system call, no allocation. The
 * essay on what each class means, and which innocent traffic looks alike, is
 * at the top of judge.c.
 */
#ifndef KA_JUDGE_H
#define KA_JUDGE_H

#include "stillalive.h"

enum ka_class {
    KA_NO_CLASS = 0,    /* not connected yet, or being closed by its owner */
    KA_NEVER_SPOKE = 1, /* no payload either way */
    KA_UNANSWERED = 2,  /* the peer spoke last, or the owner never */
    KA_ANSWERED = 3,    /* the owner spoke last */
    KA_SENDING = 4      /* bytes unsent or unacknowledged */
};

/* Why something is done about a connection, or told. */
enum ka_cause {
    KA_NO_CAUSE = 0,
    KA_FOR_NEVER_SPOKE = 1,
    KA_FOR_UNANSWERED = 2,
    KA_FOR_ANSWERED = 3,
    KA_FOR_MIN_RATE = 4,
    KA_FOR_STALLED = 5,
    KA_FOR_EVICTED = 6,
    KA_FOR_DRAINED = 7,
    KA_FOR_IDLE = 8,       /* of a watch: no payload for idle_ms */
    KA_FOR_SILENT = 9,     /* asked, and not heard for detect_ms */
    KA_FOR_RESET = 10,     /* of a watch: the connection was reset */
    KA_FOR_TIMED_OUT = 11, /* of a watch: the kernel gave it up */
    KA_FOR_GONE = 12,      /* of a watch: the owner has closed it */
    KA_FOR_LOST = 13       /* the watcher's own descriptors were closed */
};

#define KA_NO_TIME (-1) /* no limit; never */

struct ka_limits {
    int64_t never_spoke_ms;
    int64_t unanswered_ms;
    int64_t answered_ms;
    int64_t stalled_ms;
    int64_t min_rate; /* bytes per second, or KA_NO_TIME */
    int64_t detect_ms;
    int64_t idle_ms;
};

/* How long a low rate must last: two stretches, with bytes in each. */
#define KA_RATE_STRETCH_MS 5000
/* Questions that must be unanswered before silence counts. */
#define KA_QUESTIONS 2

/* What is remembered of one connection between two looks. */
struct ka_past {
    int64_t since_ms; /* silence before this does not count; may be moved
                       * forward at any time, all begins anew then */
    int64_t began_ms; /* the since_ms that the rest belongs to */
    int64_t first_retrans, first_probes; /* when that began */
    int64_t acked, acked_ms; /* when the peer was last seen to take bytes */
    int64_t mark_ms[3], mark_bytes[3];
    int64_t mark_out; /* payload segments sent when the marks began */
    int32_t marks;
    int32_t slow;  /* below min_rate, when the last mark was made */
    int32_t heard; /* a segment came since began_ms, or that is 0 */
    int32_t klass; /* at the last look */
};

struct ka_judgement {
    int32_t klass;
    int32_t cause;
    int64_t clock_ms; /* how long the limit's clock has run; of the class when
                       * there is no cause */
    int64_t
        again_ms; /* from now: nothing can be due before; KA_NO_TIME never */
};

/* Begin to remember; `since_ms` is 0 where the kernel's clocks hold from the
 * connection's birth, or the time from which on silence counts. */
void ka_past_begin(struct ka_past *past, const struct ka_info *info,
                   int64_t since_ms, int64_t now_ms);
/* Judge; doing so twice with the same info and time changes nothing more. */
void ka_judge(const struct ka_limits *limits, struct ka_past *past,
              const struct ka_info *info, int64_t now_ms,
              struct ka_judgement *out);
/* The class and its clock alone. */
int ka_classify(const struct ka_info *info);
/* Since the last payload either way; -1 not told. */
int64_t ka_payload_idle_ms(const struct ka_info *info);

#endif
