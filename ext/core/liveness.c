/* liveness.c - what TCP_INFO and poll() prove about the peer.
 *
 * Three rules keep the verdicts honest:
 *
 * The state has the last word. A reset is a received segment too, so
 * "something arrived" proves life only while the connection stands. TCP_INFO
 * reads the state before it waits for the socket's lock, and the counters
 * after: a reset that comes between is counted in a connection that still
 * looks open. poll() comes later and shows the end; TCP_INFO is read again
 * then. And since the counter moves a moment before the segment is worked on,
 * a segment that shows in nothing but the counter is an answer only at the
 * next look, if the connection still stands.
 *
 * An end is named only as far as it is known. The pending error itself must
 * stay for the owner; what ended the connection follows from the counters
 * that the dead socket keeps. Where those allow both a reset and a timeout,
 * the verdict says so.
 *
 * Silence needs a question. With data in flight or a shut window the kernel
 * sends no keepalive probe; its retransmissions and window probes are the
 * questions then, and if none left in the time given, nothing was learnt.
 */
#include "sockopt.h"

#include <errno.h>
#include <stddef.h>

/* A segment this young is an answer by itself: a probe sent now could prove
 * no more, and Linux would send none before one second of silence. */
#define KA_JUST_HEARD_MS 1000

static int64_t heard_ms(const struct ka_info *info) {
    int64_t ack = info->last_ack_recv_ms, data = info->last_data_recv_ms;

    if (ack < 0 || data < 0)
        return ack < 0 ? data : ack;
    return ack < data ? ack : data;
}

static int64_t unanswered(const struct ka_info *info) {
    int64_t most =
        info->probes > info->retransmits ? info->probes : info->retransmits;

    return most > 0 ? most : 0;
}

static void decide(struct ka_verdict *verdict, int state, int reason) {
    verdict->state = state;
    verdict->reason = reason;
}

static int may_have_timed_out(ka_sock sock, const struct ka_info *info) {
    int32_t count = 0, user_timeout = 0;

    if (info->retransmits > 0 || (info->probes < 0 && info->retransmits < 0))
        return 1; /* or it is not told */
    if (info->probes <= 0)
        return 0;
    if (ka_get(sock, KA_USER_TIMEOUT, &user_timeout) == 0 && user_timeout > 0)
        return heard_ms(info) >= user_timeout;
    if (ka_get(sock, KA_COUNT, &count) < 0)
        return 1;
    return info->probes >= count;
}

/* What the owner of a connection that a reset ended is told. */
static int reset_error(const struct ka_info *first) {
    if (first != NULL && first->state == KA_TCP_SYN_SENT)
        return ECONNREFUSED;
    return first != NULL && first->state == KA_TCP_CLOSE_WAIT ? EPIPE
                                                              : ECONNRESET;
}

static void decide_ended(struct ka_verdict *verdict, int reset, int error) {
    if (reset)
        decide(verdict, KA_RESET, KA_WHY_RST);
    else
        decide(verdict, KA_DEAD, KA_WHY_TIMED_OUT);
    verdict->err = error;
}

static int is_reset(int code) {
    return code == ECONNRESET || code == ECONNREFUSED || code == EPIPE ||
           code == ECONNABORTED;
}

/* The connection is over. `first` is an earlier look at it, or NULL. */
static void judge_ended(ka_sock sock, const struct ka_info *info,
                        const struct ka_pending *pending,
                        const struct ka_info *first, int64_t waited_ms,
                        struct ka_verdict *verdict) {
    int seen_open =
        first != NULL && first->state != KA_TCP_CLOSE && first->segs_in >= 0;
    int timers = may_have_timed_out(sock, info);

    if (pending->code != 0)
        decide_ended(verdict, is_reset(pending->code), pending->code);
    else if (seen_open && info->segs_in == first->segs_in &&
             (pending->error || timers)) /* nothing came: our own timers */
        decide_ended(verdict, 0, ETIMEDOUT);
    else if (!pending->error)
        decide(verdict, KA_PEER_CLOSED, KA_WHY_CLOSED);
    else if (seen_open && (heard_ms(info) >= waited_ms || !timers))
        decide_ended(verdict, 1, reset_error(first));
    else if (!timers)
        decide_ended(verdict, 1, reset_error(NULL));
    else
        decide(verdict, KA_DEAD, KA_WHY_RST_OR_TIMEOUT);
}

static void judge_open(const struct ka_witness *witness, int64_t waited_ms,
                       struct ka_verdict *verdict) {
    int64_t heard = verdict->heard_ms;

    if (witness != NULL && ((heard >= 0 && heard < waited_ms) ||
                            witness->segs_in != witness->first.segs_in))
        decide(verdict, KA_ALIVE, KA_WHY_ANSWERED);
    else if (heard >= 0 && heard <= KA_JUST_HEARD_MS)
        decide(verdict, KA_ALIVE, KA_WHY_HEARD);
    else
        decide(verdict, KA_OPEN,
               verdict->unanswered > 0 ? KA_WHY_UNANSWERED : KA_WHY_QUIET);
}

/* Where the state is not told poll() has to do. */
static void judge_by_poll(const struct ka_pending *pending,
                          struct ka_verdict *verdict) {
    if (pending->code != 0)
        decide_ended(verdict, is_reset(pending->code), pending->code);
    else if (pending->error)
        decide(verdict, KA_DEAD, KA_WHY_RST_OR_TIMEOUT);
    else if (pending->rdhup)
        decide(verdict, KA_PEER_CLOSED, KA_WHY_FIN);
    else if (pending->hangup)
        decide(verdict, KA_PEER_CLOSED, KA_WHY_CLOSED);
    else
        decide(verdict, KA_OPEN, KA_WHY_QUIET);
}

/* The end shows in poll(), but not yet in what TCP_INFO said before. */
static int outdated(const struct ka_info *info,
                    const struct ka_pending *pending) {
    if (info->state < 0)
        return 0;
    if (pending->hangup || pending->error)
        return info->state != KA_TCP_CLOSE && info->state != KA_TCP_LISTEN;
    return pending->rdhup && info->state == KA_TCP_ESTABLISHED;
}

/* Where a closed connection has no counters left, hanging up tells it from
 * one that never was; Linux hangs up on both. */
static int never_was(const struct ka_info *info,
                     const struct ka_pending *pending) {
    if (pending->error || info->segs_in > 0 || info->segs_out > 0)
        return 0;
    return !pending->hangup || info->rtt_us >= 0;
}

static int judge(ka_sock sock, struct ka_info *info,
                 const struct ka_witness *witness, int64_t waited_ms,
                 struct ka_verdict *verdict) {
    const struct ka_info *first = witness != NULL ? &witness->first : NULL;
    struct ka_pending pending;
    int rc = ka_pending(sock, &pending);

    if (rc == 0 && outdated(info, &pending))
        rc = ka_info(sock, info);
    if (rc < 0)
        return rc;
    verdict->err = 0;
    verdict->asked = 0;
    verdict->heard_ms = heard_ms(info);
    verdict->unread = pending.unread;
    verdict->unanswered = unanswered(info);
    if (pending.fin && !pending.error) {
        decide(verdict, KA_PEER_CLOSED, KA_WHY_FIN);
        return 0;
    }
    switch (info->state) {
        case -1:
            judge_by_poll(&pending, verdict);
            return 0;
        case KA_TCP_LISTEN:
            return -EOPNOTSUPP;
        case KA_TCP_CLOSE:
            if (info->rtt_us <= 0 && info->segs_in == 1) /* refused */
                verdict->heard_ms = -1;
            if (never_was(info, &pending))
                return -ENOTCONN;
            if (pending.hangup || pending.error)
                judge_ended(sock, info, &pending, first, waited_ms, verdict);
            else /* MPTCP: its first subflow is gone, others carry on */
                decide(verdict, KA_OPEN, KA_WHY_QUIET);
            return 0;
        case KA_TCP_SYN_SENT:
        case KA_TCP_SYN_RECV:
            verdict->heard_ms = -1;
            decide(verdict, KA_OPEN, KA_WHY_CONNECTING);
            return 0;
        case KA_TCP_CLOSE_WAIT:
        case KA_TCP_LAST_ACK:
        case KA_TCP_CLOSING:
        case KA_TCP_TIME_WAIT:
            decide(verdict, KA_PEER_CLOSED, KA_WHY_FIN);
            return 0;
        default:
            judge_open(witness, waited_ms, verdict);
            return 0;
    }
}

int ka_check(ka_sock sock, struct ka_verdict *verdict) {
    struct ka_info info;
    int rc = ka_info(sock, &info);

    return rc < 0 ? rc : judge(sock, &info, NULL, 0, verdict);
}

/* The kernel sends no keepalive probe now: it has better questions. */
static int kernel_asks(const struct ka_info *info) {
    return info->unacked > 0 || info->notsent_bytes > 0 ||
           info->state == KA_TCP_SYN_SENT || info->state == KA_TCP_SYN_RECV ||
           info->state == KA_TCP_FIN_WAIT1;
}

/* An answer to a probe would show in nothing that this kernel tells. */
static int is_blind(const struct ka_info *info) {
    return info->segs_in < 0 && heard_ms(info) < 0;
}

static void keep_asking(const struct ka_info *info,
                        struct ka_verdict *verdict) {
    int blind = is_blind(info);

    if (verdict->state != KA_OPEN ||
        (blind && verdict->reason == KA_WHY_CONNECTING))
        return;
    if (blind)
        decide(verdict, KA_UNKNOWN, KA_WHY_CANNOT_TELL);
    else if (kernel_asks(info))
        decide(verdict, KA_ASKING, KA_WHY_KERNEL_ASKS);
    else if (ka_os_asks)
        decide(verdict, KA_ASKING, KA_WHY_MUST_ASK);
    else
        decide(verdict, KA_UNKNOWN, KA_WHY_CANNOT_ASK);
}

static int32_t all_asked(const struct ka_witness *witness,
                         const struct ka_info *info, int32_t asked) {
    int64_t own = 0;

    if (info->total_retrans > witness->first.total_retrans)
        own = info->total_retrans - witness->first.total_retrans;
    if (asked == 0 && info->probes > witness->first.probes)
        own += info->probes - witness->first.probes;
    return own > INT32_MAX - asked ? INT32_MAX : asked + (int32_t)own;
}

int ka_witness_begin(struct ka_witness *witness, ka_sock sock, int64_t now_ms,
                     struct ka_verdict *verdict) {
    int rc = ka_info(sock, &witness->first);

    if (rc < 0)
        return rc;
    witness->sock = sock;
    witness->began_ms = now_ms;
    witness->segs_in = witness->first.segs_in;
    rc = ka_identify(sock, &witness->identity);
    if (rc == -ENOTCONN) /* its end has taken the identity */
        witness->identity = 0;
    else if (rc < 0)
        return rc;
    rc = judge(sock, &witness->first, NULL, 0, verdict);
    if (rc == 0)
        keep_asking(&witness->first, verdict);
    return rc;
}

static int look(struct ka_witness *witness, struct ka_info *info,
                int32_t asked, int64_t now_ms, struct ka_verdict *verdict) {
    uint64_t identity;
    int rc = ka_identify(witness->sock, &identity);

    if (rc < 0 && rc != -ENOTCONN)
        return rc;
    if (rc == 0 && identity != witness->identity)
        return -EBADF;
    rc = ka_info(witness->sock, info);
    if (rc == 0)
        rc = judge(witness->sock, info, witness, now_ms - witness->began_ms,
                   verdict);
    if (rc < 0)
        return rc;
    verdict->asked = all_asked(witness, info, asked);
    witness->segs_in = info->segs_in;
    return 0;
}

int ka_witness_look(struct ka_witness *witness, int32_t asked, int64_t now_ms,
                    struct ka_verdict *verdict) {
    struct ka_info info;
    int rc = look(witness, &info, asked, now_ms, verdict);

    if (rc == 0)
        keep_asking(&info, verdict);
    return rc;
}

int ka_witness_give_up(struct ka_witness *witness, int32_t asked,
                       int64_t now_ms, struct ka_verdict *verdict) {
    struct ka_info info;
    int rc = look(witness, &info, asked, now_ms, verdict);

    if (rc == 0 && witness->segs_in != witness->first.segs_in)
        rc = look(witness, &info, asked, now_ms, verdict);
    if (rc < 0 || verdict->state != KA_OPEN)
        return rc;
    if (verdict->asked > 0 || verdict->unanswered >= KA_UNANSWERED_MAX)
        decide(verdict, KA_SILENT, KA_WHY_NO_ANSWER);
    else
        verdict->reason = KA_WHY_NO_QUESTION;
    return rc;
}

void ka_question_begin(struct ka_question *question, ka_sock sock,
                       uint64_t identity) {
    question->sock = sock;
    question->identity = identity;
    question->borrowed = 0;
    question->guard = KA_UNGUARDED;
    question->asked = 0;
    question->asked_ms = 0;
}

static int still_ours(const struct ka_question *question,
                      struct ka_fault *fault) {
    uint64_t identity;
    int rc = ka_identify(question->sock, &identity);

    fault->option = -1;
    fault->setting = 0;
    if (rc < 0)
        return rc;
    return identity == question->identity ? 0 : -EBADF;
}

int ka_question_ask(struct ka_question *question, int64_t now_ms,
                    struct ka_fault *fault) {
    int rc, guard;
    struct ka_fault ignored;
    struct ka_info info;

    if (question->asked > 0 && now_ms - question->asked_ms < KA_ASK_SPACING_MS)
        return 0;
    if (question->borrowed && now_ms < question->asked_ms) /* not left yet */
        return 0;
    rc = still_ours(question, fault);
    if (rc == 0)
        rc = ka_info(question->sock, &info);
    if (rc == 0 && !question->borrowed)
        rc = ka_read(question->sock, &question->saved, fault);
    if (rc == -ENOTCONN) /* it has ended: the next look tells */
        return 0;
    if (rc < 0)
        return rc;
    guard =
        info.probes < KA_UNANSWERED_MAX ? KA_GUARD_COUNT : KA_GUARD_TIMEOUT;
    if (guard == KA_GUARD_TIMEOUT &&
        question->saved.value[KA_USER_TIMEOUT] == KA_LEAVE)
        return ka_question_end(question, fault);
    question->borrowed = 1;
    rc = ka_os_ask(question->sock, &question->saved,
                   question->guard < guard ? guard : KA_UNGUARDED, fault);
    if (rc < 0) {
        if (question->guard < guard) /* half a guard is none */
            (void)ka_question_end(question, &ignored);
        return rc;
    }
    if (question->guard < guard)
        question->guard = guard;
    question->asked_ms = now_ms + rc;
    if (rc > 0) /* what has not left is no question yet */
        return 0;
    question->asked++;
    return 1;
}

int ka_question_end(struct ka_question *question, struct ka_fault *fault) {
    int rc;

    if (!question->borrowed)
        return 0;
    rc = still_ours(question, fault);
    if (rc < 0 && rc != -EBADF && rc != -ENOTCONN)
        return rc;
    question->borrowed = 0;
    question->guard = KA_UNGUARDED;
    if (rc < 0) /* closed or ended meanwhile: nothing is left to mend */
        return 0;
    return ka_os_unask(question->sock, &question->saved, fault);
}
