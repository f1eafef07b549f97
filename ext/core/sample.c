/* sample.c - clocks from counters, where the kernel has no clocks.
 *
 * macOS and Windows count the payload of a connection and do not say when the
 * last of it came or left. The judge wants to know since when, and who spoke
 * last. So each look compares the counters with those of the look before, and
 * a change is dated by the look that saw it.
 *
 * Never early. The change came before that look, so its clock starts late and
 * nothing is due before its time. The stamp is a reading of the clock after
 * the counters were read, not the time of the step, which may be older.
 *
 * Late by the pace. A change cannot be dated afterwards, so who is not looked
 * at until his limit could end shows a clock that has just begun. There must
 * be looks in between: every eighth of the shortest limit, a tenth of a second
 * at least and a second at most; with very many connections less often, so
 * that they take some hundredths of a core. What was there before the first
 * look counts from that look on.
 *
 * Who spoke last. When both counters moved between two looks, both clocks
 * start together: a tie, and a tie is answered, by the judge's contract. It is
 * the usual case of a question that was answered at once. A question that
 * follows an answer within the pace cannot be told from it; then the limit of
 * the answered holds while it is worked on. The first look at a connection in
 * use finds a tie, too. When the owner has never spoken there is no doubt.
 *
 * A byte that is no word. Some systems ask "are you there" by one byte of old
 * data; Linux does not count that, others do. It must not turn a client that
 * waits for the next event into one that waits for an answer. So bytes that
 * come one to a segment, and not more often than once a second, open nothing:
 * nobody has spoken by them who had not, and who was answered still is, with
 * clocks that begin anew. (A peer whose kernel asks more often than the limit
 * of the answered therefore never reaches it.) While he is unanswered they
 * are bytes like others. A peer that sends words of one byte, slower than one
 * a second, and never anything else, is one who never spoke. A whole segment
 * that arrives a second time cannot be told from a new one.
 *
 * Our own retransmissions move the counter of sent bytes, as they move
 * Linux's clock, and for the same reason that does no harm: while they happen
 * bytes are under way.
 *
 * What the peer has taken. Without a count of acknowledged bytes two things
 * show that some were: fewer bytes wait in the buffer than before, or more
 * were sent for the first time. The second also happens once without the
 * peer's doing, when the window it has offered is filled; then the clock of
 * `stalled` begins once more, late and not early. While some are in flight (a
 * timer of retransmissions runs) more bytes in the buffer may hide that others
 * have left it: the clock begins once more then, too, and when the last of
 * them is not in flight any more. A peer that does not read has none in flight
 * soon, and that is exact; one that is gone, while the owner goes on writing,
 * is the deadline's and not this limit's. (What can be missed: the owner has
 * written to the byte what was taken, and the peer is gone before the rest.)
 *
 * Another connection. Where a connection is named by its two ends, the next
 * one of the same ends bears the same name. Its counters begin at nothing: a
 * counter that has gone back says that this is not the one we knew.
 *
 * Numbers that only move. The BSDs do not even count; they tell the sequence
 * numbers of a connection. One that is another at this look than at the last
 * says that payload, or an end, moved in its direction meanwhile; what had
 * moved before the first look, and so who spoke last, it does not say. So
 * there are two clocks, each since its number moved, or since the first look;
 * they serve the limit of idleness, and no class can be told from them: the
 * bytes and segments in `info` stay untold, and the judge finds none. Numbers
 * have 32 bits and begin anywhere; a retransmission sets the next to be sent
 * back, and forward again. They are only compared: any other is movement,
 * however far, and whichever way. That can make a clock start late, never
 * early. The next connection of the same ends has other numbers, too, and
 * begins anew with them. (Two looks between which each direction moved by a
 * multiple of 4 GiB, or not at all, pass for rest.) No probe moves a number,
 * with or without a byte of old data; but nor do bytes that wait for a shut
 * window, so where the send buffer is not told nothing passes for idle.
 */
#include "sample.h"

#define SHARE 8 /* looks to a limit */
#define LEAST_MS 100
#define MOST_MS 1000
#define LOOKS_PER_MS 10
#define ASKS_MS 1000 /* a kernel does not ask more often */

static int64_t elapsed(int64_t now, int64_t then) {
    return now > then ? now - then : 0;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t sooner(int64_t a, int64_t b) {
    if (a < 0 || b < 0)
        return a < 0 ? b : a;
    return a < b ? a : b;
}

static int64_t count_in(const struct ka_info *info) {
    return info->bytes_received >= 0 ? info->bytes_received
                                     : info->data_segs_in;
}

static int64_t count_out(const struct ka_info *info) {
    return info->bytes_sent >= 0 ? info->bytes_sent : info->data_segs_out;
}

/* Before that there is nothing to date, and afterwards nothing to count. */
static int is_connected(const struct ka_info *info) {
    return info->state >= 0 && info->state != KA_TCP_CLOSE &&
           info->state != KA_TCP_LISTEN && info->state != KA_TCP_SYN_SENT &&
           info->state != KA_TCP_SYN_RECV;
}

static int are_counted(const struct ka_info *info) {
    return count_in(info) >= 0 && count_out(info) >= 0;
}

static int are_numbered(const struct ka_info *info) {
    return info->snd_nxt >= 0 && info->rcv_nxt >= 0;
}

int ka_sample_needed(const struct ka_info *info) {
    return (info->last_data_recv_ms < 0 || info->last_data_sent_ms < 0) &&
           is_connected(info) && (are_counted(info) || are_numbered(info));
}

static int64_t first_sent(const struct ka_info *info) {
    return count_out(info) - larger(info->bytes_retrans, 0);
}

/* ---- what the peer said ------------------------------------------------- */

/* Bytes that came one to a segment. */
static int are_single(const struct ka_sample *sample,
                      const struct ka_info *info) {
    int64_t bytes = count_in(info) - sample->in;

    if (info->bytes_received < 0)
        return 0;
    if (info->data_segs_in >= 0)
        return bytes <= info->data_segs_in - sample->segs_in;
    return bytes == 1;
}

/* Now and then, as a kernel asks. */
static int are_rare(struct ka_sample *sample, int64_t bytes, int64_t read_ms) {
    if (sample->singles == 0)
        sample->singles_ms = read_ms;
    sample->singles += bytes;
    return sample->singles <=
           2 + elapsed(read_ms, sample->singles_ms) / ASKS_MS;
}

static int has_spoken(const struct ka_sample *sample) {
    return sample->in > sample->hidden;
}

static void peer_spoke(struct ka_sample *sample, const struct ka_info *info,
                       int64_t read_ms) {
    int64_t bytes = count_in(info) - sample->in;
    int is_answered = sample->out > 0 && sample->out_ms >= sample->in_ms;

    if (!are_single(sample, info) || !are_rare(sample, bytes, read_ms)) {
        sample->singles = sample->hidden = 0;
        sample->in_ms = read_ms;
    } else if (is_answered) {
        sample->in_ms = sample->out_ms = read_ms;
        if (!has_spoken(sample))
            sample->hidden += bytes;
    } else if (!has_spoken(sample)) {
        sample->hidden += bytes;
    } else {
        sample->in_ms = read_ms;
    }
}

static void owner_spoke(struct ka_sample *sample, int64_t read_ms) {
    sample->out_ms = read_ms;
    sample->singles = 0;
}

/* ---- a look ------------------------------------------------------------- */

static void begin(struct ka_sample *sample, const struct ka_info *info,
                  int64_t read_ms) {
    sample->begun = 1;
    sample->in_ms = sample->out_ms = read_ms;
    sample->first_sent = first_sent(info);
    sample->waiting = info->notsent_bytes;
    if (are_single(sample, info))
        sample->hidden = count_in(info);
}

/* Where the timer of retransmissions is told it is told while it runs. */
static int are_flying(struct ka_sample *sample, const struct ka_info *info) {
    if (info->unacked >= 0)
        return info->unacked > 0;
    if (info->rto_us > 0)
        sample->timer_shows = 1;
    return info->rto_us > 0 || !sample->timer_shows;
}

static void see_taken(struct ka_sample *sample, const struct ka_info *info) {
    int64_t more = info->notsent_bytes - sample->waiting;
    int flying = are_flying(sample, info);

    if (first_sent(info) > sample->first_sent || more < 0 ||
        (sample->in_flight && (more > 0 || !flying)))
        sample->taken++;
    sample->first_sent = larger(first_sent(info), sample->first_sent);
    sample->waiting = info->notsent_bytes;
    sample->in_flight = flying;
}

static void fill(const struct ka_sample *sample, struct ka_info *info,
                 int64_t now_ms) {
    info->last_data_recv_ms = elapsed(now_ms, sample->in_ms);
    info->last_data_sent_ms = elapsed(now_ms, sample->out_ms);
    /* The judge takes the peer's end for a byte, as Linux counts it. */
    if (info->bytes_received >= 0)
        info->bytes_received +=
            (info->state == KA_TCP_CLOSE_WAIT) - sample->hidden;
    info->data_segs_out = sample->out;
    if (info->bytes_acked < 0)
        info->bytes_acked = sample->taken;
}

/* The same by numbers that only move. */
static void see_movement(struct ka_sample *sample, struct ka_info *info,
                         int64_t read_ms, int64_t now_ms) {
    if (!sample->begun || info->rcv_nxt != sample->rcv_nxt)
        sample->in_ms = read_ms;
    if (!sample->begun || info->snd_nxt != sample->snd_nxt ||
        info->snd_max != sample->snd_max)
        sample->out_ms = read_ms;
    sample->begun = 1;
    sample->snd_nxt = info->snd_nxt;
    sample->snd_max = info->snd_max;
    sample->rcv_nxt = info->rcv_nxt;
    info->last_data_recv_ms = elapsed(now_ms, sample->in_ms);
    info->last_data_sent_ms = elapsed(now_ms, sample->out_ms);
}

int ka_sample_look(struct ka_sample *sample, struct ka_info *info,
                   int64_t read_ms, int64_t now_ms) {
    int64_t in = count_in(info), out = count_out(info);

    if (!ka_sample_needed(info))
        return 0;
    if (!are_counted(info)) {
        see_movement(sample, info, read_ms, now_ms);
        return 1;
    }
    if (sample->begun && (in < sample->in || out < sample->out))
        return -1;
    if (!sample->begun)
        begin(sample, info, read_ms);
    else if (in > sample->in)
        peer_spoke(sample, info, read_ms);
    if (out > sample->out)
        owner_spoke(sample, read_ms);
    sample->in = in;
    sample->out = out;
    sample->segs_in = info->data_segs_in;
    see_taken(sample, info);
    fill(sample, info, now_ms);
    return 1;
}

int64_t ka_sample_pace(const struct ka_limits *limits, uint64_t connections) {
    int64_t least = sooner(limits->never_spoke_ms, limits->unanswered_ms);
    int64_t pace;

    least = sooner(least, limits->answered_ms);
    least = sooner(least, limits->idle_ms);
    if (least < 0)
        return KA_NO_TIME;
    pace = larger(least / SHARE, LEAST_MS);
    pace = pace < MOST_MS ? pace : MOST_MS;
    return larger(pace, (int64_t)(connections / LOOKS_PER_MS));
}
