/* judge.c - which connections have been let down, by the kernel's counters.
 *
 * Why the counters can be trusted.  They belong to the socket, not to a
 * process: whatever reads and writes it, and through however many layers, the
 * kernel has seen each byte. Bytes count as received when they arrive; that
 * the owner reads them late, or never, moves nothing. Payload that the peer
 * sends a second time moves neither the receive clock nor bytes_received. A
 * keepalive probe moves no payload clock on either side; one that carries a
 * byte of old data, as some systems send it, does count as a segment with
 * data, so whether the peer has ever spoken is asked of bytes_received. Our
 * own retransmissions do move the send clock, but only while bytes are
 * unacknowledged, and then the connection is in no class whose clock that is;
 * if the peer asked meanwhile, it passes for answered afterwards.
 * All clocks begin at the handshake and go in steps of the kernel's tick, 4 ms
 * as a rule: to the kernel's clock nothing here is early, to any other clock
 * it may be by one such step. Only the clock of `stalled` is our own.
 *
 * The classes tell who spoke last. That is all that can be known from outside
 * of the protocol, and each has its innocents:
 *
 * Never spoke: no payload either way. Someone connected and says nothing. So
 *   do connections opened in advance (browsers, pools), health checks by
 *   connecting, and clients that wait for a slow server of a protocol where
 *   the server speaks first (SMTP, SSH, FTP, MySQL); once it has, its silent
 *   clients are "answered".
 * Unanswered: the peer spoke last, or the owner never did. Half a request
 *   head, and a trickle of one, look like that; and so do a slow handler, a
 *   long poll, a slow upload between two chunks (its clock begins anew with
 *   each), a client that only ever sends (logs, MQTT publishers at QoS 0), and
 *   one that has closed its own side and waits for the answer. The limit must
 *   be longer than the slowest answer that is worth having. A first byte of
 *   the answer ends the class, however slow the rest.
 * Answered: the owner spoke last. Idle keep-alive connections, but also
 *   server-sent events between two events, a WebSocket that nobody uses, a
 *   subscription. TLS moves clients here that never asked for anything: the
 *   server's session tickets are the last word of a handshake. A tie of the
 *   two clocks counts as answered: both words fell in one tick, and a request
 *   in the same tick as its answer is the usual reason. Where it was not, this
 *   limit ends it all the same.
 * Sending: bytes are unsent or unacknowledged. A slow reader of a large answer
 *   looks like that for as long as it reads; it is let down only when it takes
 *   nothing at all for `stalled`. A paused video does just that.
 *
 * `min_rate` is for the trickle. It needs bytes in two stretches of 5 s one
 * after the other: a client that has sent all it had, and waits for a slow
 * handler, sends none, and is left to the limit for the unanswered. Whoever
 * sends little by nature (WebSocket, MQTT, HTTP/2 pings without an answer)
 * looks the same, so it is only for owners that know their protocol. A peer
 * that has closed its side sends no more and cannot be too slow any more.
 *
 * `stalled` is judged by what looks have seen. A look that finds bytes under
 * way where the last found none cannot know since when: they may have been
 * sent just now after an hour of silence, with the acknowledgement still on
 * its way. So the clock begins at that look, and at each that finds that more
 * was acknowledged. It is never early, and late by the time between two looks:
 * an eighth of the limit while nothing is under way, 400 ms at most then.
 *
 * Silence is one sided as long as nobody asks, so it counts only when at least
 * KA_QUESTIONS of the kernel's questions went unanswered: keepalive or window
 * probes, or retransmissions. The kernel forgets probes with each segment that
 * arrives, but retransmissions only with an acknowledgement of what they
 * carry, so a peer that speaks and does not get our data seems to have been
 * asked long ago: they count only when one left after it was last heard. That
 * shows in the send clock, as a retransmitted FIN does not. When silence
 * counts from a later time only, one question must be from after that: before
 * it the peer may have been as deaf as it liked.
 *
 * The time of the next look is the earliest at which anything could be due
 * whatever happens until then: a limit of the class it is in ends when its
 * clock does, one of a class that it may change to, not before it has run in
 * full. What may end a look's ignorance at any moment (an acknowledgement, a
 * probe that is due) is looked for at a pace instead.
 */
#include "judge.h"

/* Bytes under way: when they arrive, a clock that ran meanwhile counts. */
#define SENDING_PACE_MS 100
/* Silent long enough, but not asked often enough. */
#define ASKED_PACE_MS 100
#define ASKED_ALMOST_PACE_MS 50
#define SOONEST_MS 10

/* Differences and products of whatever numbers there are. */
static int64_t elapsed(int64_t now, int64_t then) {
    uint64_t gone = (uint64_t)now - (uint64_t)then;

    if (now <= then)
        return 0;
    return gone > INT64_MAX ? INT64_MAX : (int64_t)gone;
}

static int64_t times(int64_t a, int64_t b) { /* of what is not negative */
    return b > 0 && a > INT64_MAX / b ? INT64_MAX : a * b;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* Of two ages; -1 unless both are told. */
static int64_t younger(int64_t a, int64_t b) {
    return a < 0 || b < 0 ? -1 : smaller(a, b);
}

static int64_t heard_ms(const struct ka_info *info) {
    int64_t ack = info->last_ack_recv_ms, data = info->last_data_recv_ms;

    return ack < 0 || data < 0 ? larger(larger(ack, data), -1)
                               : smaller(ack, data);
}

int64_t ka_payload_idle_ms(const struct ka_info *info) {
    return younger(info->last_data_recv_ms, info->last_data_sent_ms);
}

/* ---- who spoke last --------------------------------------------------- */

static int in_class(const struct ka_info *info) {
    return info->state == KA_TCP_ESTABLISHED ||
           info->state == KA_TCP_CLOSE_WAIT;
}

/* Shut down at most: it has been established, and has not ended. */
static int is_open(const struct ka_info *info) {
    return in_class(info) || info->state == KA_TCP_FIN_WAIT1 ||
           info->state == KA_TCP_FIN_WAIT2 || info->state == KA_TCP_CLOSING ||
           info->state == KA_TCP_LAST_ACK;
}

static int is_ending(const struct ka_info *info) {
    return info->state == KA_TCP_TIME_WAIT ||
           (is_open(info) && !in_class(info));
}

static int is_sending(const struct ka_info *info) {
    return info->unacked > 0 || info->notsent_bytes > 0 ||
           info->queued_bytes > 0;
}

/* 1, 0, or -1 not told. The peer's end counts as a byte received, the
 * handshake's SYN as one acknowledged. */
static int peer_spoke(const struct ka_info *info) {
    if (info->bytes_received >= 0)
        return info->bytes_received > (info->state == KA_TCP_CLOSE_WAIT);
    return info->data_segs_in < 0 ? -1 : info->data_segs_in > 0;
}

static int owner_spoke(const struct ka_info *info) {
    if (info->data_segs_out >= 0)
        return info->data_segs_out > 0;
    return info->bytes_acked < 0 ? -1 : info->bytes_acked > 1;
}

/* The class as if nothing were under way. */
static int by_last_word(const struct ka_info *info) {
    int in = peer_spoke(info), out = owner_spoke(info);

    if (in < 0 || out < 0 || ka_payload_idle_ms(info) < 0)
        return KA_NO_CLASS;
    if (!in)
        return out ? KA_ANSWERED : KA_NEVER_SPOKE;
    return !out || info->last_data_recv_ms < info->last_data_sent_ms
               ? KA_UNANSWERED
               : KA_ANSWERED;
}

int ka_classify(const struct ka_info *info) {
    if (!in_class(info))
        return KA_NO_CLASS;
    return is_sending(info) ? KA_SENDING : by_last_word(info);
}

/* ---- what is remembered ----------------------------------------------- */

void ka_past_begin(struct ka_past *past, const struct ka_info *info,
                   int64_t since_ms, int64_t now_ms) {
    int i;

    past->since_ms = past->began_ms = since_ms;
    past->first_retrans = info->total_retrans;
    past->first_probes = info->probes;
    past->acked = info->bytes_acked;
    past->acked_ms = now_ms;
    for (i = 0; i < 3; i++)
        past->mark_ms[i] = past->mark_bytes[i] = 0;
    past->mark_out = 0;
    past->marks = past->slow = 0;
    past->heard = since_ms == 0; /* every question was put to this silence */
    past->klass = KA_NO_CLASS;
}

static int64_t age(const struct ka_past *past, int64_t kernel_ms,
                   int64_t now_ms) {
    if (kernel_ms < 0)
        return -1;
    return smaller(kernel_ms, elapsed(now_ms, past->since_ms));
}

/* Too slow from mark 0 until `now_ms`. */
static int too_slow(const struct ka_past *past, int64_t bytes, int64_t rate,
                    int64_t now_ms) {
    return times(elapsed(bytes, past->mark_bytes[0]), 1000) <
           times(rate, elapsed(now_ms, past->mark_ms[0]));
}

static void make_mark(struct ka_past *past, const struct ka_info *info,
                      int64_t rate, int64_t now_ms) {
    int i;

    if (past->marks == 3)
        for (i = 0; i < 2; i++) {
            past->mark_ms[i] = past->mark_ms[i + 1];
            past->mark_bytes[i] = past->mark_bytes[i + 1];
        }
    else
        past->marks++;
    past->mark_ms[past->marks - 1] = now_ms;
    past->mark_bytes[past->marks - 1] = info->bytes_received;
    past->slow = past->marks == 3 &&
                 past->mark_bytes[0] < past->mark_bytes[1] &&
                 past->mark_bytes[1] < past->mark_bytes[2] &&
                 info->last_data_recv_ms < KA_RATE_STRETCH_MS &&
                 too_slow(past, info->bytes_received, rate, now_ms);
}

static int has_rate(const struct ka_limits *limits,
                    const struct ka_info *info) {
    return limits->min_rate > 0 && info->bytes_received >= 0;
}

static void remember_rate(const struct ka_limits *limits, struct ka_past *past,
                          const struct ka_info *info, int klass,
                          int64_t now_ms) {
    int64_t sent =
        info->data_segs_out >= 0 ? info->data_segs_out : info->bytes_acked;

    if (klass != past->klass || sent != past->mark_out || past->marks < 0 ||
        past->marks > 3)
        past->marks = past->slow = 0;
    past->mark_out = sent;
    if (!has_rate(limits, info) || klass != KA_UNANSWERED) {
        past->marks = past->slow = 0;
        return;
    }
    if (past->marks == 0 ||
        elapsed(now_ms, past->mark_ms[past->marks - 1]) >= KA_RATE_STRETCH_MS)
        make_mark(past, info, limits->min_rate, now_ms);
    else if (!too_slow(past, info->bytes_received, limits->min_rate, now_ms))
        past->slow = 0; /* it has caught up since the mark */
}

static void remember(const struct ka_limits *limits, struct ka_past *past,
                     const struct ka_info *info, int klass, int64_t now_ms) {
    int64_t heard = heard_ms(info);

    if (past->since_ms > past->began_ms)
        ka_past_begin(past, info, past->since_ms, now_ms);
    if (heard >= 0 && heard < elapsed(now_ms, past->since_ms))
        past->heard = 1;
    if (klass != KA_SENDING || past->klass != KA_SENDING ||
        info->bytes_acked != past->acked) {
        past->acked = info->bytes_acked;
        past->acked_ms = now_ms;
    }
    remember_rate(limits, past, info, klass, now_ms);
    past->klass = klass;
}

/* ---- the limits, one by one ------------------------------------------- */

struct look {
    const struct ka_limits *limits;
    const struct ka_past *past;
    const struct ka_info *info;
    int64_t now_ms;
    struct ka_judgement *out;
};

/* The first cause that is found stays. */
static void found(const struct look *look, int cause, int64_t clock) {
    if (look->out->cause != KA_NO_CAUSE)
        return;
    look->out->cause = cause;
    look->out->clock_ms = clock;
}

static void again(const struct look *look, int64_t in_ms) {
    in_ms = larger(in_ms, SOONEST_MS);
    if (look->out->again_ms < 0 || in_ms < look->out->again_ms)
        look->out->again_ms = in_ms;
}

/* A limit whose clock runs; not told, it may start any time. */
static void check_limit(const struct look *look, int cause, int64_t limit,
                        int64_t clock, int due) {
    if (limit < 0)
        return;
    if (due && clock >= limit)
        found(look, cause, clock);
    again(look, larger(limit - larger(clock, 0), due ? 0 : SENDING_PACE_MS));
}

/* Questions that nobody has answered, as far as they matter. */
static int64_t unanswered(const struct ka_info *info) {
    int64_t probes = larger(info->probes, 0);
    int64_t retransmits = larger(info->retransmits, 0);

    /* All from before it was last heard: that did not take what they carry. */
    if (in_class(info) && info->last_data_sent_ms >= heard_ms(info))
        retransmits = 0;
    return smaller(probes, KA_QUESTIONS) + smaller(retransmits, KA_QUESTIONS);
}

static void check_silent(const struct look *look) {
    const struct ka_info *info = look->info;
    const struct ka_past *past = look->past;
    int64_t limit = look->limits->detect_ms, asked, silence;
    int fresh;

    if (limit < 0 || info->state == KA_TCP_TIME_WAIT)
        return;
    silence = is_open(info) ? age(past, heard_ms(info), look->now_ms) : -1;
    if (silence < limit) {
        again(look, limit - larger(silence, 0));
        return;
    }
    asked = unanswered(info);
    fresh = past->heard || info->total_retrans > past->first_retrans ||
            info->probes > past->first_probes;
    if (asked >= KA_QUESTIONS && fresh)
        found(look, KA_FOR_SILENT, silence);
    again(look,
          asked >= KA_QUESTIONS - 1 ? ASKED_ALMOST_PACE_MS : ASKED_PACE_MS);
}

static void check_idle(const struct look *look) {
    const struct ka_info *info = look->info;
    int64_t clock = age(look->past, ka_payload_idle_ms(info), look->now_ms);

    if (is_open(info))
        check_limit(look, KA_FOR_IDLE, look->limits->idle_ms, clock,
                    !is_sending(info));
    else if (!is_ending(info))
        check_limit(look, KA_FOR_IDLE, look->limits->idle_ms, -1, 1);
}

static void check_rate(const struct look *look) {
    const struct ka_past *past = look->past;
    int last = past->marks - 1;

    if (!has_rate(look->limits, look->info) || is_ending(look->info) ||
        look->info->state == KA_TCP_CLOSE_WAIT)
        return;
    if (past->slow)
        found(look, KA_FOR_MIN_RATE, elapsed(look->now_ms, past->mark_ms[0]));
    again(look, last < 0 ? KA_RATE_STRETCH_MS
                         : KA_RATE_STRETCH_MS -
                               elapsed(look->now_ms, past->mark_ms[last]));
}

static int64_t stalled_for(const struct look *look) {
    return age(look->past, elapsed(look->now_ms, look->past->acked_ms),
               look->now_ms);
}

static void check_stalled(const struct look *look) {
    int64_t limit = look->limits->stalled_ms, pace = larger(limit / 8, 100);

    if (limit < 0 || look->info->bytes_acked < 0 || is_ending(look->info))
        return;
    if (look->out->klass != KA_SENDING) {
        again(look, pace);
        return;
    }
    if (stalled_for(look) >= limit)
        found(look, KA_FOR_STALLED, stalled_for(look));
    again(look, smaller(smaller(pace, 400), limit - stalled_for(look)));
}

static int64_t class_clock(const struct look *look, int klass) {
    const struct ka_info *info = look->info;

    if (klass == KA_NO_CLASS)
        return 0;
    if (klass == KA_SENDING)
        return stalled_for(look);
    return age(look->past,
               klass == KA_ANSWERED ? ka_payload_idle_ms(info)
                                    : info->last_data_recv_ms,
               look->now_ms);
}

static void check_class(const struct look *look) {
    const struct ka_limits *limits = look->limits;
    int64_t limit[4] = {KA_NO_TIME, limits->never_spoke_ms,
                        limits->unanswered_ms, limits->answered_ms};
    int klass = by_last_word(look->info), other;
    int64_t clock = class_clock(look, klass);

    if (is_ending(look->info))
        return;
    if (!in_class(look->info))
        klass = KA_NO_CLASS;
    for (other = KA_NEVER_SPOKE; other <= KA_ANSWERED; other++)
        if (other == klass) /* KA_FOR_* of a class is its number */
            check_limit(look, klass, limit[klass], clock,
                        look->out->klass == klass);
        else if (other != KA_NEVER_SPOKE || klass == KA_NO_CLASS)
            check_limit(look, other, limit[other], -1, 1);
}

void ka_judge(const struct ka_limits *limits, struct ka_past *past,
              const struct ka_info *info, int64_t now_ms,
              struct ka_judgement *out) {
    struct look look = {limits, past, info, now_ms, out};

    out->klass = ka_classify(info);
    out->cause = KA_NO_CAUSE;
    out->again_ms = KA_NO_TIME;
    remember(limits, past, info, out->klass, now_ms);
    out->clock_ms = class_clock(&look, out->klass);
    check_silent(&look);
    check_idle(&look);
    check_rate(&look);
    check_stalled(&look);
    check_class(&look);
}
