/* deed.c - everything that is done to other people's connections.
 *
 * What can go wrong, and how this file stops it:
 *
 * An innocent connection is hit. Its number was another's a moment ago. So
 * nothing here is ever done to a number: the socket is duplicated onto our
 * own, the duplicate says who it is, and while we hold it it cannot become
 * anything else. Judged is again on the duplicate, for what led here may
 * have been read from the wrong socket, or a while ago.
 *
 * A living connection is hit. Bytes that have come and that the owner has not
 * read yet are no silence of the peer; it is the owner who is late, so the
 * connection is spared and looked at soon. (Not when it is the silence itself
 * that counts: a peer that vanished after its last request is as dead.) Time
 * in which nobody looked is no silence either. It may pass between two lines
 * of this file, when the process is stopped: then the ages from the kernel
 * are new and the time of the step is old, and the owner has had no chance to
 * answer. So the last thing before a deed is to ask the clock how long the
 * step has taken; a stop that comes after that finds a judgement that was
 * right when it was made.
 *
 * MPTCP shows the counters of its first path only; where there are others,
 * that one may well be silent. Such a connection is as good as exempt.
 *
 * The owner takes a death for an end. shutdown lets him read a clean end of
 * stream, which is right for who is sent away, and wrong for a connection
 * that broke in the middle of something: a half-received body would pass as
 * whole. When the peer is silent, an abort leaves it to the kernel to give the
 * connection up, whose error then is the truth. If the kernel does not get to
 * it the connection is disconnected after a while, by a reset; but that
 * throws away what has not been read, so not as long as there is something.
 * For any other cause the peer's kernel is alive and would answer: that one
 * is disconnected at once. Not every system can disconnect. On macOS and
 * FreeBSD the kernel gives up, unasked, whoever has been silent for longer
 * than his keepalive allows: with the shortest values that is two seconds of
 * silence, which an idle connection has behind it or will have soon. So it is
 * pressed until then, and never shut down instead: an end would be a lie.
 * (OpenBSD has no times for one connection. NetBSD has, but the idle time
 * does not keep its timer quiet, and what the owner had cannot be read, to be
 * left as it was when the pressing fails. There nobody can order an abort.
 * Whether Windows has that rule is not known: who asks for the abort of a
 * living peer's connection there is refused before he comes here.)
 *
 * A name is lost. Where connections are named by their ends a dead one has no
 * name any more, and no peer. Nothing is done then, so nobody can be hit; it
 * is told what poll shows, if the socket there is at the same local address
 * and has an error.
 *
 * An end is not told. A watch that ends has somebody who waits for it; while
 * the ring is full it does not end, and is looked at again.
 *
 * A close is forgotten. A decision is told when it falls, and an abort takes
 * its time: the ward stays until it is complete, also when its watch is over
 * or the settings no longer want it. Only when the number means another
 * socket there is nothing left to do.
 *
 * An owner's close is put off. While we hold a duplicate his close is not the
 * last one; ours is, some microseconds later. Nothing here waits while there
 * is a duplicate. (A socket with SO_LINGER would let our close wait for the
 * peer; callers wait with it then.)
 *
 * Our own numbers are lost. Somebody closed them. Then not even a duplicate
 * can be made, for the number it would replace is somebody's: that is told
 * once, as soon as the ring has room for it, and nothing is touched any more.
 *
 * Too much at once. Of what is found only so many are ended per second; a
 * wrong limit then shows before it has emptied the server. Those who wait
 * come back one after the other and not all at the same time.
 */
#include "ward.h"

#include <errno.h>
#include <string.h>

#define KA_ABORT_PACE_MS 50
#define KA_ABORT_MS 300         /* for the kernel's own error */
#define KA_ABORT_UNREAD_MS 5300 /* the same, while bytes are unread */
#define KA_ABORT_MOST_MS 30000
#define KA_ABORT_PRESS_MS 1700 /* a second of silence, and a slow timer */
#define KA_ABORT_QUIET_S 4     /* longer than that */
#define KA_RETRY_MS 50
#define KA_LATE_MS 1000
/* Looks at those who must wait: at most about 2 % of a core. */
#define KA_SPARED_PER_MS 13
#define KA_WAITING_PER_MS 5
#define KA_LINE_MS 1000

/* What is known on the duplicate. */
struct deed {
    struct ka_watcher *watcher;
    struct ka_ward *ward;
    ka_sock sock; /* the duplicate */
    int64_t now_ms;
    struct ka_info info;
    struct ka_judgement judged;
    struct ka_endpoint local, peer;
    int64_t unread;
    int32_t cause, kind, dry_run, err;
};

/* ---- telling ------------------------------------------------------------ */

/* A clock of ours begins at our first look: where the kernel has one, too, of
 * segments of any kind, that is the one. */
static int64_t heard_ms(const struct deed *deed) {
    const struct ka_info *info = &deed->info;

    if (deed->ward->sample.begun && info->last_ack_recv_ms >= 0)
        return info->last_ack_recv_ms;
    return ka_sooner(info->last_ack_recv_ms, info->last_data_recv_ms);
}

static void tell(const struct deed *deed) {
    struct ka_watcher *watcher = deed->watcher;
    const struct ka_info *info = &deed->info;
    struct ka_occurrence event = {
        .token =
            deed->ward->flags & KA_WARD_WATCHED ? (int64_t)deed->ward->id : 0,
        .cause = deed->cause,
        .klass = deed->judged.klass,
        .deed = deed->kind,
        .dry_run = deed->dry_run,
        .err = deed->err,
        .sock = deed->ward->sock,
        .identity = deed->ward->identity,
        .local = deed->local,
        .peer = deed->peer,
        .at_ms = deed->now_ms,
        .clock_ms = deed->judged.clock_ms,
        .heard_ms = heard_ms(deed),
        /* The clocks run from the handshake when there was no payload. */
        .data_in_ms = info->bytes_received > 0 ? info->last_data_recv_ms : -1,
        .data_out_ms = info->bytes_sent > 0 ? info->last_data_sent_ms : -1,
        .bytes_in = info->bytes_received,
        .bytes_out = info->bytes_sent,
        .unread = deed->unread,
        .unsent = info->notsent_bytes,
    };

    if (info->bytes_sent > 0 && info->bytes_retrans > 0)
        event.bytes_out -= info->bytes_retrans;
    (void)ka_ring_put(watcher->ring, &event);
    watcher->stats.told++;
    watcher->stats.by_cause[deed->cause]++;
}

/* With nothing known but the ward itself. */
static void blank(struct deed *deed, struct ka_watcher *watcher,
                  struct ka_ward *ward, int32_t cause, int64_t now_ms) {
    memset(deed, 0, sizeof *deed);
    memset(&deed->info, -1, sizeof deed->info); /* not told */
    deed->watcher = watcher;
    deed->ward = ward;
    deed->sock = watcher->reserve.sock;
    deed->cause = cause;
    deed->now_ms = now_ms;
    deed->judged.clock_ms = deed->unread = -1;
    if (ward->ends != NULL) {
        deed->local = ward->ends[0];
        deed->peer = ward->ends[1];
    }
}

int64_t ka_deed_gone(struct ka_watcher *watcher, struct ka_ward *ward,
                     int64_t now_ms) {
    struct deed deed;

    if ((ward->flags & (KA_WARD_WATCHED | KA_WARD_ENDED)) == KA_WARD_WATCHED) {
        if (ka_ring_is_full(watcher->ring))
            return KA_RETRY_MS;
        blank(&deed, watcher, ward, KA_FOR_GONE, now_ms);
        tell(&deed);
    }
    return KA_LET_GO;
}

static void lose(struct ka_watcher *watcher, int64_t now_ms) {
    struct ka_ward nobody;
    struct deed deed;

    if (ka_ring_is_full(watcher->ring)) /* who looks next finds out, too */
        return;
    watcher->lost = 1;
    memset(&nobody, 0, sizeof nobody);
    nobody.sock = watcher->reserve.sock;
    blank(&deed, watcher, &nobody, KA_FOR_LOST, now_ms);
    tell(&deed);
}

/* ---- the duplicate ------------------------------------------------------ */

/* The same whoever it is. */
static int take_any(struct ka_watcher *watcher, struct ka_ward *ward,
                    int64_t now_ms, int64_t *again) {
    int rc = ka_reserve_take(&watcher->reserve, ward->sock);

    watcher->taken++;
    *again = KA_RETRY_MS;
    if (rc == -ESTALE) {
        lose(watcher, now_ms);
        *again = watcher->lost ? KA_NO_TIME : KA_RETRY_MS;
    } else if (rc == -EBADF) {
        *again = ka_deed_gone(watcher, ward, now_ms);
    }
    return rc >= 0;
}

int ka_deed_take(struct ka_watcher *watcher, struct ka_ward *ward,
                 int64_t now_ms, int64_t *again) {
    uint64_t identity;
    int rc;

    if (!take_any(watcher, ward, now_ms, again))
        return 0;
    rc = ka_identify(watcher->reserve.sock, &identity);
    if (rc == 0 && identity == ward->identity)
        return 1;
    ka_reserve_give(&watcher->reserve);
    *again = ka_deed_gone(watcher, ward, now_ms);
    return 0;
}

/* The process was stopped, or starved, since this step began. */
static int is_late(struct ka_watcher *watcher) {
    if (ka_os_now_ms() - watcher->entered_ms > KA_LATE_MS)
        watcher->late = 1;
    return watcher->late;
}

/* ---- who is left alone -------------------------------------------------- */

static int is_inside(const struct ka_network *network,
                     const struct ka_endpoint *peer) {
    int whole = network->bits / 8, rest = network->bits % 8;

    if (network->family != peer->family ||
        memcmp(network->address, peer->address, (size_t)whole) != 0)
        return 0;
    return rest == 0 || ((network->address[whole] ^ peer->address[whole]) >>
                         (8 - rest)) == 0;
}

/* Where the peer cannot be asked any more it may be anybody. */
static int is_exempt(const struct deed *deed) {
    const struct ka_watcher_settings *settings = &deed->watcher->settings;
    int i;

    for (i = 0; i < settings->networks; i++)
        if (deed->peer.family == 0 ||
            is_inside(&settings->exempt[i], &deed->peer))
            return 1;
    return 0;
}

static int64_t spare(const struct deed *deed) {
    struct ka_watcher *watcher = deed->watcher;
    int64_t pace;

    if (ka_ward_mark(watcher, deed->ward, KA_WARD_SPARED, 1))
        watcher->stats.spared_unread++;
    pace = (int64_t)(watcher->spared / KA_SPARED_PER_MS);
    return pace > KA_SPARE_MS ? pace : KA_SPARE_MS;
}

/* ---- closes per second -------------------------------------------------- */

static int64_t rate_of(const struct ka_watcher *watcher) {
    int64_t rate = watcher->settings.closes_per_second;

    return rate > 0 ? rate : 1;
}

int64_t ka_budget_wait(struct ka_watcher *watcher, int64_t now_ms) {
    int64_t rate = rate_of(watcher), most = rate < 20 ? 1000 : rate * 100;
    int64_t passed = now_ms - watcher->budget_ms;

    /* A thousandth of a close per millisecond for each close per second. */
    if (passed > most / rate)
        watcher->budget = most;
    else if (passed > 0)
        watcher->budget += passed * rate;
    if (watcher->budget > most)
        watcher->budget = most;
    watcher->budget_ms = now_ms;
    if (watcher->budget >= 1000)
        return 0;
    return (1000 - watcher->budget + rate - 1) / rate;
}

/* 0: it may be ended. Else when to look again, each at a place of its own. */
static int64_t queue_up(const struct deed *deed) {
    struct ka_watcher *watcher = deed->watcher;
    int64_t left = ka_budget_wait(watcher, deed->now_ms);
    int64_t least = deed->now_ms + left, most;

    if (left == 0) {
        watcher->budget -= 1000;
        return 0;
    }
    if (ka_ward_mark(watcher, deed->ward, KA_WARD_WAITS, 1))
        watcher->stats.spared_rate++;
    most = (int64_t)(watcher->waiting / KA_WAITING_PER_MS);
    if (most < KA_LINE_MS)
        most = KA_LINE_MS;
    if (watcher->line_ms < least || watcher->line_ms > deed->now_ms + most)
        watcher->line_ms = least;
    left = watcher->line_ms - deed->now_ms;
    watcher->line_ms += (1000 + rate_of(watcher) - 1) / rate_of(watcher);
    return left;
}

/* ---- the deeds ---------------------------------------------------------- */

/* The kernel is to give up at its next chance, with its own error. Whatever
 * of this fails: what is left of it does less, and the disconnect remains. */
static void begin_abort(const struct deed *deed) {
    static const int order[] = {KA_ENABLED, KA_INTERVAL, KA_COUNT,
                                KA_USER_TIMEOUT, KA_IDLE};
    size_t i;

    for (i = 0; i < sizeof order / sizeof order[0]; i++)
        (void)ka_set(deed->sock, order[i], 1);
    deed->ward->flags |= KA_WARD_ENDING;
    deed->ward->abort_ms = deed->now_ms;
}

/* Where nobody but the kernel can end it with an error. When its timer fires
 * it gives up who has been silent for idle + count * interval, and asks who
 * has not; with the answer all begins anew. So by turns: no question for a
 * while, and then the shortest time. */
static int64_t press(ka_sock sock, int64_t age) {
    int64_t turn = age / KA_ABORT_PRESS_MS;

    if (turn > 0)
        (void)ka_set(sock, KA_IDLE, turn % 2 ? KA_ABORT_QUIET_S : 1);
    return KA_ABORT_PRESS_MS - age % KA_ABORT_PRESS_MS;
}

static int64_t end_of_abort(struct ka_ward *ward) {
    ward->flags &= ~(uint32_t)KA_WARD_ENDING;
    return ward->flags & KA_WARD_WATCHED ? KA_LET_GO : KA_ENDED_MS;
}

int64_t ka_deed_go_on(struct ka_watcher *watcher, struct ka_ward *ward,
                      const struct ka_info *info, int64_t now_ms) {
    int64_t age, unread = 0, again;
    struct ka_info own;
    int rc;

    /* A process that was stopped has had no time to read. */
    if (ward->abort_ms < watcher->epoch_ms)
        ward->abort_ms = watcher->epoch_ms;
    age = now_ms - ward->abort_ms;
    if (age < KA_ABORT_MS && info->state != KA_TCP_CLOSE)
        return KA_ABORT_PACE_MS;
    if (!ka_deed_take(watcher, ward, now_ms, &again))
        return again;
    again = KA_ABORT_PACE_MS;
    if (ka_info(watcher->reserve.sock, &own) == 0 && own.state == KA_TCP_CLOSE)
        again = end_of_abort(ward);
    else if (age >= KA_ABORT_MS &&
             (age >= KA_ABORT_UNREAD_MS ||
              (ka_unread(watcher->reserve.sock, &unread) == 0 &&
               unread == 0))) {
        /* Some kernels refuse while a thread of the owner waits. */
        rc = ka_end_disconnect(watcher->reserve.sock);
        if (rc == 0 || age >= KA_ABORT_MOST_MS)
            again = end_of_abort(ward);
        else if (rc == -EOPNOTSUPP)
            again = press(watcher->reserve.sock, age);
    }
    ka_reserve_give(&watcher->reserve);
    return again;
}

static int64_t do_it(struct deed *deed) {
    struct ka_watcher *watcher = deed->watcher;
    struct ka_ward *ward = deed->ward;
    int watched = (ward->flags & KA_WARD_WATCHED) != 0;

    if (deed->dry_run) {
        tell(deed);
        (void)ka_ward_mark(watcher, ward, KA_WARD_SPARED, 0);
        (void)ka_ward_mark(watcher, ward, KA_WARD_TOLD, 1);
        ward->told_in = deed->info.bytes_received;
        ward->told_out = deed->info.bytes_sent;
        return watcher->least_ms;
    }
    if (deed->kind == KA_DEED_SHUTDOWN && ka_end_shutdown(deed->sock) < 0)
        return KA_RETRY_MS; /* it has just ended by itself */
    if (deed->kind == KA_DEED_ABORT && deed->cause == KA_FOR_SILENT)
        begin_abort(deed);
    else if (deed->kind == KA_DEED_ABORT && /* its kernel would answer */
             ka_end_disconnect(deed->sock) < 0)
        begin_abort(deed);
    tell(deed);
    watcher->stats.ended += deed->kind != KA_DEED_NONE;
    ka_ward_end(watcher, ward);
    if (ward->flags & KA_WARD_ENDING)
        return KA_ABORT_PACE_MS;
    return watched ? KA_LET_GO : KA_ENDED_MS;
}

/* ---- act ---------------------------------------------------------------- */

/* Whether the duplicate says so too; evicting and draining are our own
 * wishes and no cause that the judge would find. */
static int is_still(const struct deed *deed) {
    const struct ka_judgement *judged = &deed->judged;

    if (judged->cause != KA_NO_CAUSE)
        return judged->cause == deed->cause;
    if (judged->clock_ms < deed->watcher->settings.evict_idle_ms)
        return 0;
    if (deed->cause == KA_FOR_EVICTED)
        return judged->klass == KA_ANSWERED;
    return deed->cause == KA_FOR_DRAINED &&
           (judged->klass == KA_ANSWERED || judged->klass == KA_NEVER_SPOKE);
}

/* It has just spoken, or there is another cause. The judge knows nothing of a
 * drain. */
static int64_t look_again(const struct deed *deed) {
    if (deed->judged.cause != KA_NO_CAUSE)
        return 0;
    if (deed->watcher->draining && !(deed->ward->flags & KA_WARD_WATCHED))
        return ka_sooner(deed->judged.again_ms, KA_DRAIN_MS);
    return deed->judged.again_ms;
}

/* What holds for discovered ones only. 0: go on. */
static int64_t ask_settings(struct deed *deed) {
    struct ka_watcher *watcher = deed->watcher;

    deed->kind =
        deed->cause == KA_FOR_SILENT ? KA_DEED_ABORT : KA_DEED_SHUTDOWN;
    deed->dry_run = watcher->settings.dry_run != 0;
    if (!is_exempt(deed) && !ka_has_paths(deed->sock))
        return 0;
    watcher->stats.spared_exempt++;
    deed->ward->flags |= KA_WARD_EXEMPT;
    return KA_NO_TIME;
}

static int64_t act_on_duplicate(struct deed *deed) {
    struct ka_watcher *watcher = deed->watcher;
    struct ka_ward *ward = deed->ward;
    int watched = (ward->flags & KA_WARD_WATCHED) != 0, rc;
    int64_t again = 0;

    rc = ka_ward_ask(ward, deed->sock, &deed->info, deed->now_ms);
    if (rc == -ESTALE)
        return ka_deed_gone(watcher, ward, deed->now_ms);
    if (rc < 0)
        return KA_RETRY_MS;
    ka_ward_judge(watcher, ward, &deed->info, deed->now_ms, &deed->judged);
    if (!is_still(deed))
        return look_again(deed);
    (void)ka_endpoints(deed->sock, &deed->local, &deed->peer);
    deed->kind = ward->deed;
    if (!watched)
        again = ask_settings(deed);
    if (again != 0)
        return again;
    if (ka_is_held(watcher, ward->identity)) {
        watcher->stats.spared_held++;
        ward->flags |= KA_WARD_HELD;
        return KA_NO_TIME;
    }
    if ((ka_unread(deed->sock, &deed->unread) < 0 || deed->unread > 0) &&
        deed->cause != KA_FOR_SILENT)
        return spare(deed);
    if (is_late(watcher))
        return 0;
    if (watched && ka_ring_is_full(watcher->ring))
        return KA_RETRY_MS;
    if (!watched && !deed->dry_run)
        again = queue_up(deed);
    return again != 0 ? again : do_it(deed);
}

int64_t ka_deed_act(struct ka_watcher *watcher, struct ka_ward *ward,
                    int32_t cause, int64_t now_ms) {
    struct deed deed;
    int64_t again;

    if (!ka_deed_take(watcher, ward, now_ms, &again))
        return again;
    blank(&deed, watcher, ward, cause, now_ms);
    again = act_on_duplicate(&deed);
    ka_reserve_give(&watcher->reserve);
    return again;
}

/* ---- how a watched one has ended ---------------------------------------- */

int64_t ka_deed_closed(struct ka_watcher *watcher, struct ka_ward *ward,
                       int64_t now_ms) {
    struct ka_ending ending;
    struct deed deed;
    int64_t again;

    if (ka_ring_is_full(watcher->ring))
        return KA_RETRY_MS;
    if (!ka_deed_take(watcher, ward, now_ms, &again))
        return again;
    blank(&deed, watcher, ward, KA_FOR_GONE, now_ms);
    if (!ka_how_it_ended(ward, deed.sock, now_ms, &ending)) {
        ka_reserve_give(&watcher->reserve);
        return KA_NO_TIME;
    }
    deed.cause = ending.cause;
    deed.err = ending.err;
    deed.info = ending.info;
    (void)ka_unread(deed.sock, &deed.unread);
    ka_reserve_give(&watcher->reserve);
    tell(&deed);
    ka_ward_end(watcher, ward);
    return KA_LET_GO;
}

static int is_reset(int code) {
    return code == ECONNRESET || code == ECONNREFUSED || code == EPIPE ||
           code == ECONNABORTED;
}

int64_t ka_deed_nameless(struct ka_watcher *watcher, struct ka_ward *ward,
                         int64_t now_ms) {
    struct ka_pending pending;
    struct deed deed;
    int64_t again;
    int rc;

    if (ka_ring_is_full(watcher->ring))
        return KA_RETRY_MS;
    if (!take_any(watcher, ward, now_ms, &again))
        return again;
    rc = ka_pending(watcher->reserve.sock, &pending);
    ka_reserve_give(&watcher->reserve);
    if (rc < 0 || (!pending.error && pending.code == 0))
        return ka_deed_gone(watcher, ward, now_ms);
    blank(&deed, watcher, ward,
          is_reset(pending.code) ? KA_FOR_RESET : KA_FOR_TIMED_OUT, now_ms);
    deed.err = pending.code;
    deed.unread = pending.unread;
    tell(&deed);
    ka_ward_end(watcher, ward);
    return KA_LET_GO;
}
