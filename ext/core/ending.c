/* ending.c - how a connection that was watched has ended.
 *
 * What can go wrong, and how this file stops it:
 *
 * The error is gone. It is told once, and a blocked call of the owner's takes
 * it before anybody looks. Then a reset looks like an end in order. But two
 * who close in order acknowledge everything, each other's FIN too; so where
 * something of ours is not acknowledged, the connection has broken.
 *
 * Everything was acknowledged, a FIN perhaps. The counters know: what was
 * acknowledged beyond the bytes that were sent is a SYN, if we connected, and
 * a FIN. Whether there was a SYN shows a look with nothing under way. It must
 * be the same as then, and not less: of a segment that our own host dropped
 * the bytes count twice as sent, and less would prove nothing.
 *
 * A reset passes for a timeout. No segment came in since the last look, which
 * is what a timeout looks like. But Linux reads the state before it locks the
 * counters, so a look at an open connection can hold the segment that reset
 * it. And our own timers end nothing without having asked.
 *
 * Somebody tells of an attempt that it was reset. Nothing was: its owner has
 * been told by the call that was to connect.
 */
#include "ward.h"

#include <errno.h>
#include <string.h>

static int ask_verdict(const struct ka_ward *ward, ka_sock sock,
                       int64_t now_ms, struct ka_verdict *verdict) {
    struct ka_witness witness;

    if (ward->seen_state < 0)
        return ka_check(sock, verdict);
    /* Who has seen it open can tell a reset from a timeout. */
    memset(&witness, 0, sizeof witness);
    witness.sock = sock;
    witness.identity = ward->identity;
    witness.began_ms = ward->seen_ms;
    witness.segs_in = witness.first.segs_in = ward->seen_segs;
    witness.first.state = ward->seen_state;
    return ka_witness_look(&witness, 0, now_ms, verdict);
}

static int has_broken(const struct ka_ward *ward, ka_sock sock,
                      const struct ka_info *info) {
    if (ward->seen_state < 0 || info->segs_in <= 0)
        return 0; /* never seen, or disconnected by its owner */
    if (ward->seen_state == KA_TCP_SYN_SENT && info->rtt_us <= 0)
        return 0; /* never connected */
    return ka_unacked(sock) > 0 || ka_acked_beyond(info) == ward->seen_beyond;
}

static void ask_counters(const struct ka_ward *ward,
                         const struct ka_info *info, struct ka_ending *out) {
    int asked = info->retransmits > 0 || info->probes > 0;

    if (info->segs_in == ward->seen_segs && asked) {
        out->cause = KA_FOR_TIMED_OUT;
        out->err = ETIMEDOUT;
    } else {
        out->cause = KA_FOR_RESET;
        out->err = ward->seen_state == KA_TCP_CLOSE_WAIT ? EPIPE : ECONNRESET;
    }
}

int ka_how_it_ended(const struct ka_ward *ward, ka_sock sock, int64_t now_ms,
                    struct ka_ending *out) {
    struct ka_verdict verdict;
    int told;

    out->cause = KA_FOR_GONE;
    out->err = 0;
    memset(&out->info, -1, sizeof out->info);
    told = ka_info(sock, &out->info) == 0;
    if (ask_verdict(ward, sock, now_ms, &verdict) < 0)
        return 1;
    out->err = verdict.err;
    if (verdict.state == KA_RESET)
        out->cause = KA_FOR_RESET;
    else if (verdict.state == KA_DEAD)
        out->cause = KA_FOR_TIMED_OUT;
    else if (verdict.state != KA_PEER_CLOSED)
        return 0; /* only this part of it */
    else if (told && verdict.reason == KA_WHY_CLOSED &&
             has_broken(ward, sock, &out->info))
        ask_counters(ward, &out->info, out);
    return 1;
}
