/* ward.c - one connection under watch: where it is kept, and a look at it.
 *
 * A look asks the bare number, because that costs a system call or two and a
 * duplicate four more. What it learns may be wrong: the owner can have closed
 * the number and another thread can have opened it. So nothing follows from a
 * look but when to look again, and that deed.c is to ask the same on a
 * duplicate. Told "gone", too, is only what asked for the identity alone.
 *
 * For the same reason most looks do not ask who that is: of the time of a look
 * it was a third. Whoever was found is asked at the first look, for discovery
 * may have seen two sockets; from then on each pass of discovery asks every
 * number, and takes a ward back whose number means something else. Nobody does
 * that for what is watched or has ended, and where a connection is named by
 * its ends the clocks of sample.c are at stake.
 *
 * Looks that are a second or more away meet at the next tenth of a second. A
 * look that follows another one finds the kernel's path in the caches: a
 * quarter cheaper than the same looks in every tick, and fewer wake-ups.
 *
 * Wards lie in pages beside those of the table and never move, so that a
 * pointer holds while others are added. An id is a number that a slot had at
 * one time: everybody who keeps one asks ka_ward_of whether it still is.
 *
 * Whatever may fail for want of memory fails before anything is changed; a
 * larger hash is a wish: without it the chains are longer.
 */
#include "ward.h"

#include "os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KA_REVIEWED 4096 /* slots to a slice */
#define KA_MOST_BUCKETS (1u << 30)
#define KA_LONGEST_MS 86400000 /* between two looks, if there are any */
#define KA_LEISURE_MS 1000 /* so far away a look may be late by less than */
#define KA_TOGETHER_MS 100 /* this */
#define KA_WATCH_MOST_MS 1000
#define KA_WATCH_LEAST_MS 100
#define KA_ORDER_MS 8000 /* as a limit: who is to be evicted first */
/* A drain looks at everybody, for not more than a quarter of a core. */
#define KA_DRAINED_PER_MS 160

/* ---- memory and the hash ------------------------------------------------ */

static uint32_t *bucket_of(const struct ka_watcher *watcher,
                           uint64_t identity) {
    uint64_t mixed = identity * UINT64_C(0x9E3779B97F4A7C15);

    return &watcher->bucket[(uint32_t)(mixed >> 32) & (watcher->buckets - 1)];
}

static void chain(struct ka_watcher *watcher, uint32_t slot) {
    struct ka_ward *ward = ka_ward_at(watcher, slot);
    uint32_t *bucket = bucket_of(watcher, ward->identity);

    ward->next = *bucket;
    *bucket = slot + 1;
}

static void unchain(struct ka_watcher *watcher, uint32_t slot) {
    const struct ka_ward *ward = ka_ward_at(watcher, slot);
    uint32_t *link = bucket_of(watcher, ward->identity);

    while (*link != slot + 1)
        link = &ka_ward_at(watcher, *link - 1)->next;
    *link = ward->next;
}

static void widen(struct ka_watcher *watcher) {
    uint32_t buckets = watcher->buckets * 2, old_buckets = watcher->buckets;
    uint32_t *old = watcher->bucket, *fresh;
    uint32_t i, link, next;

    if (watcher->wards < old_buckets || old_buckets >= KA_MOST_BUCKETS)
        return;
    fresh = calloc(buckets, sizeof *fresh);
    if (fresh == NULL)
        return;
    watcher->bucket = fresh;
    watcher->buckets = buckets;
    for (i = 0; i < old_buckets; i++) {
        for (link = old[i]; link; link = next) {
            next = ka_ward_at(watcher, link - 1)->next;
            chain(watcher, link - 1);
        }
    }
    free(old);
}

static int reserve_slot(struct ka_watcher *watcher, uint32_t slot) {
    struct ka_ward **larger, **old = watcher->page, *page;

    while (watcher->pages <= slot / KA_PAGE) { /* in order: once */
        page = calloc(KA_PAGE, sizeof *page);
        larger = malloc((watcher->pages + (size_t)1) * sizeof *larger);
        if (page == NULL || larger == NULL) {
            free(page);
            free(larger);
            return -1;
        }
        if (watcher->pages > 0)
            memcpy(larger, old, watcher->pages * sizeof *larger);
        larger[watcher->pages] = page;
        watcher->page = larger;
        watcher->pages++;
        free(old);
        old = larger;
    }
    return 0;
}

void ka_wards_free(struct ka_watcher *watcher) {
    uint32_t slot;

    for (slot = 0; slot < watcher->pages * KA_PAGE; slot++)
        free(ka_ward_at(watcher, slot)->ends);
    for (slot = 0; slot < watcher->pages; slot++)
        free(watcher->page[slot]);
    free(watcher->page);
    free(watcher->bucket);
    ka_table_close(&watcher->table);
}

/* ---- birth and end ------------------------------------------------------ */

struct ka_ward *ka_ward_of(const struct ka_watcher *watcher, ka_id id) {
    struct ka_ward *ward;

    if (id == 0 || KA_SLOT(id) / KA_PAGE >= watcher->pages)
        return NULL;
    ward = ka_ward_at(watcher, KA_SLOT(id));
    return ward->id == id ? ward : NULL;
}

struct ka_ward *ka_ward_next(const struct ka_watcher *watcher,
                             uint64_t identity, const struct ka_ward *ward) {
    uint32_t link = ward ? ward->next : *bucket_of(watcher, identity);
    struct ka_ward *other;

    for (; link; link = other->next) {
        other = ka_ward_at(watcher, link - 1);
        if (other->identity == identity)
            return other;
    }
    return NULL;
}

struct ka_ward *ka_ward_add(struct ka_watcher *watcher, ka_sock sock,
                            uint64_t identity, uint32_t flags) {
    struct ka_ward *ward;
    ka_id id;

    if (ka_table_add(&watcher->table, 0, watcher->tick, &id) < 0)
        return NULL;
    if (reserve_slot(watcher, KA_SLOT(id)) < 0) {
        (void)ka_table_release(&watcher->table, id);
        return NULL;
    }
    watcher->wards++;
    widen(watcher);
    ward = ka_ward_at(watcher, KA_SLOT(id));
    memset(ward, 0, sizeof *ward);
    ward->id = id;
    ward->sock = sock;
    ward->identity = identity;
    ward->flags = flags;
    ward->seen_state = -1;
    chain(watcher, KA_SLOT(id));
    if (flags & KA_WARD_WATCHED)
        watcher->stats.watched++;
    else
        watcher->stats.tracked++;
    return ward;
}

static uint64_t *count_of(struct ka_watcher *watcher, uint32_t flag) {
    if (flag == KA_WARD_TOLD)
        return &watcher->silent;
    return flag == KA_WARD_SPARED ? &watcher->spared : &watcher->waiting;
}

int ka_ward_mark(struct ka_watcher *watcher, struct ka_ward *ward,
                 uint32_t flag, int on) {
    if (!(ward->flags & flag) == !on)
        return 0;
    ward->flags ^= flag;
    *count_of(watcher, flag) += on ? 1 : (uint64_t)-1;
    return 1;
}

void ka_ward_end(struct ka_watcher *watcher, struct ka_ward *ward) {
    (void)ka_ward_mark(watcher, ward, KA_WARD_TOLD, 0);
    (void)ka_ward_mark(watcher, ward, KA_WARD_SPARED, 0);
    (void)ka_ward_mark(watcher, ward, KA_WARD_WAITS, 0);
    if (ward->flags & KA_WARD_ENDED)
        return;
    ward->flags |= KA_WARD_ENDED;
    if (ward->flags & KA_WARD_WATCHED)
        watcher->stats.watched--;
    else
        watcher->stats.tracked--;
}

void ka_ward_drop(struct ka_watcher *watcher, struct ka_ward *ward) {
    ka_id id = ward->id;

    ka_ward_end(watcher, ward);
    unchain(watcher, KA_SLOT(id));
    free(ward->ends);
    memset(ward, 0, sizeof *ward);
    watcher->wards--;
    (void)ka_table_release(&watcher->table, id);
}

/* ---- when to look ------------------------------------------------------- */

void ka_ward_arm(struct ka_watcher *watcher, struct ka_ward *ward,
                 int64_t again_ms, int64_t now_ms) {
    ka_tick limit = KA_NO_LIMIT, until;

    if (again_ms == KA_LET_GO) {
        ka_ward_drop(watcher, ward);
        return;
    }
    if (again_ms >= 0) { /* claimed one tick after the limit */
        again_ms = ka_clamp(again_ms, 0, KA_LONGEST_MS);
        until = (ka_tick)((now_ms + again_ms + KA_TICK_MS - 1) / KA_TICK_MS);
        limit = ka_tick_since(until, watcher->tick) > 0
                    ? until - watcher->tick - 1
                    : 0;
    }
    (void)ka_touch(&watcher->table, ward->id, watcher->tick);
    (void)ka_table_set_limit(&watcher->table, ward->id, limit, watcher->tick);
}

/* Also what an abort has still to do: it must not be forgotten. */
static int is_wanted(const struct ka_watcher *watcher,
                     const struct ka_ward *ward) {
    const struct ka_watcher_settings *settings = &watcher->settings;

    if (ward->flags & (KA_WARD_WATCHED | KA_WARD_ENDING))
        return 1;
    if (!settings->discover)
        return 0;
    return settings->ports == 0 ||
           (watcher->discovery.chosen[ward->port / 64] >> ward->port % 64 & 1);
}

int ka_wards_review(struct ka_watcher *watcher, int64_t now_ms) {
    uint32_t end = watcher->review, slot;
    struct ka_ward *ward;

    watcher->review = end > KA_REVIEWED ? end - KA_REVIEWED : 0;
    for (slot = watcher->review; slot < end; slot++) {
        ward = ka_ward_at(watcher, slot);
        if (ward->id == 0)
            continue;
        if (!is_wanted(watcher, ward)) {
            ka_ward_drop(watcher, ward);
            continue;
        }
        (void)ka_ward_mark(watcher, ward, KA_WARD_TOLD, 0);
        ward->flags &= ~(uint32_t)(KA_WARD_EXEMPT | KA_WARD_PACED);
        ward->count_ms = 0;
        ka_ward_arm(watcher, ward, 0, now_ms);
    }
    return watcher->review > 0;
}

/* ---- a look ------------------------------------------------------------- */

static int is_connected(const struct ka_info *info) {
    return info->state != KA_TCP_CLOSE && info->state != KA_TCP_LISTEN &&
           info->state != KA_TCP_SYN_SENT && info->state != KA_TCP_SYN_RECV;
}

/* It was ours, by all that is left of it: see ka_deed_nameless. */
static int is_nameless(const struct ka_ward *ward) {
    struct ka_endpoint local, peer;
    int rc;

    if (!KA_NAMED_BY_ENDS || ward->ends == NULL || ward->seen_state < 0 ||
        (ward->flags & (KA_WARD_WATCHED | KA_WARD_ENDED)) != KA_WARD_WATCHED)
        return 0;
    rc = ka_endpoints(ward->sock, &local, &peer);
    if (rc < 0)
        return rc != -EBADF && rc != -ENOTSOCK;
    return peer.family == 0 && local.family == ward->ends[0].family &&
           local.port == ward->ends[0].port &&
           memcmp(local.address, ward->ends[0].address,
                  sizeof local.address) == 0;
}

static int is_same(const struct ka_ward *ward) {
    uint64_t identity;

    return ka_identify(ward->sock, &identity) == 0 &&
           identity == ward->identity;
}

static int needs_name(const struct ka_ward *ward) {
    return KA_NAMED_BY_ENDS || !(ward->flags & KA_WARD_BEGUN) ||
           (ward->flags & (KA_WARD_WATCHED | KA_WARD_ENDING | KA_WARD_ENDED));
}

static void limits_of(const struct ka_watcher *watcher,
                      const struct ka_ward *ward, struct ka_limits *out) {
    if (!(ward->flags & KA_WARD_WATCHED)) {
        *out = watcher->settings.limits;
        return;
    }
    out->never_spoke_ms = out->unanswered_ms = out->answered_ms = KA_NO_TIME;
    out->stalled_ms = out->min_rate = KA_NO_TIME;
    out->detect_ms = ward->detect_ms;
    out->idle_ms = ward->idle_ms;
}

int64_t ka_ward_since(const struct ka_watcher *watcher,
                      const struct ka_ward *ward) {
    return ward->from_ms > watcher->epoch_ms ? ward->from_ms
                                             : watcher->epoch_ms;
}

int ka_ward_ask(struct ka_ward *ward, ka_sock sock, struct ka_info *info,
                int64_t now_ms) {
    int64_t read_ms = now_ms, real_ms;
    int rc = ka_info(sock, info);

    if (rc < 0 || !ka_sample_needed(info))
        return rc;
    real_ms = ka_os_now_ms() + ka_os_clock_lag_ms();
    if (real_ms > read_ms)
        read_ms = real_ms;
    return ka_sample_look(&ward->sample, info, read_ms, now_ms) < 0 ? -ESTALE
                                                                    : 0;
}

/* What is needed beside the looks that the judge asks for. */
static int64_t pace_of(const struct ka_watcher *watcher,
                       const struct ka_ward *ward, struct ka_limits *limits) {
    if (!(ward->flags & KA_WARD_WATCHED) && watcher->settings.evict_above >= 0)
        limits->idle_ms = ka_sooner(limits->idle_ms, KA_ORDER_MS);
    return ka_sample_pace(limits,
                          watcher->stats.tracked + watcher->stats.watched);
}

void ka_ward_judge(const struct ka_watcher *watcher, struct ka_ward *ward,
                   const struct ka_info *info, int64_t now_ms,
                   struct ka_judgement *out) {
    int64_t since = ka_ward_since(watcher, ward);
    struct ka_limits limits;

    if (!(ward->flags & KA_WARD_BEGUN) || ward->past.since_ms < since)
        ka_past_begin(&ward->past, info, since, now_ms);
    ward->flags |= KA_WARD_BEGUN;
    limits_of(watcher, ward, &limits);
    if (ka_is_deaf(info))
        limits.detect_ms = KA_NO_TIME;
    if (info->unacked <= 0 && info->notsent_bytes < 0 &&
        info->queued_bytes < 0) /* bytes may wait */
        limits.idle_ms = KA_NO_TIME;
    ka_judge(&limits, &ward->past, info, now_ms, out);
    if (ward->sample.begun)
        out->again_ms =
            ka_sooner(out->again_ms, pace_of(watcher, ward, &limits));
}

static void is_fine(struct ka_watcher *watcher, struct ka_ward *ward) {
    (void)ka_ward_mark(watcher, ward, KA_WARD_SPARED, 0);
    (void)ka_ward_mark(watcher, ward, KA_WARD_WAITS, 0);
}

void ka_ward_see(struct ka_ward *ward, const struct ka_info *info,
                 int64_t now_ms) {
    struct ka_endpoint *ends;

    ward->seen_ms = now_ms;
    ward->seen_segs = info->segs_in;
    if (info->state >= 0 || ward->seen_state < 0)
        ward->seen_state = info->state >= 0 ? info->state : KA_SEEN;
    if (info->state == KA_TCP_SYN_SENT)
        ward->seen_beyond = 1; /* as soon as it is connected */
    if (info->unacked == 0 && info->notsent_bytes == 0 &&
        (info->state == KA_TCP_ESTABLISHED ||
         info->state == KA_TCP_CLOSE_WAIT) &&
        ka_acked_beyond(info) != KA_UNTOLD)
        ward->seen_beyond = ka_acked_beyond(info);
    if (ward->ends != NULL)
        return;
    /* A reset connection cannot tell its peer any more, so ask now. Asked
     * once more who it is, the number meant the same socket in between. */
    ends = calloc(2, sizeof *ends);
    if (ends &&
        (ka_endpoints(ward->sock, &ends[0], &ends[1]) < 0 || !is_same(ward))) {
        free(ends);
        ends = NULL;
    }
    ward->ends = ends;
}

/* A connection that was, and is no more. Where the state is not told, or not
 * any more, poll() has to do: an end alone is the peer's, unless a state was
 * told as long as it was open. */
static int is_over(const struct ka_ward *ward, const struct ka_info *info) {
    struct ka_pending pending;

    if (info->state >= 0)
        return info->state == KA_TCP_CLOSE &&
               (ward->seen_state >= 0 || info->rtt_us > 0);
    if (ka_pending(ward->sock, &pending) < 0)
        return 0;
    return pending.error || (pending.rdhup && ward->seen_state > KA_SEEN);
}

static int64_t look_at_watch(struct ka_watcher *watcher, struct ka_ward *ward,
                             const struct ka_info *info, int64_t now_ms) {
    int64_t limit = ward->detect_ms >= 0 ? ward->detect_ms : ward->idle_ms;
    int64_t pace =
        limit < 0 ? KA_WATCH_MOST_MS
                  : ka_clamp(limit / 40, KA_WATCH_LEAST_MS, KA_WATCH_MOST_MS);
    struct ka_judgement judged;
    int64_t again;

    if (is_over(ward, info)) {
        again = ka_deed_closed(watcher, ward, now_ms);
        return again == KA_LET_GO ? again : ka_sooner(again, pace);
    }
    if (!is_connected(info)) {
        ward->from_ms = KA_NOT_YET;
        if (info->state == KA_TCP_SYN_SENT)
            ka_ward_see(ward, info, now_ms);
        return pace;
    }
    if (!(ward->flags & KA_WARD_PACED)) {
        again = ka_pace_watched(watcher, ward, info, now_ms);
        if (again != KA_NO_TIME || watcher->lost)
            return again;
    }
    if (ka_pace_is_due(ward, now_ms)) {
        again = ka_pace_count(watcher, ward, now_ms);
        if (again != KA_NO_TIME || watcher->lost)
            return again;
    }
    if (ward->from_ms == KA_NOT_YET) {
        ward->from_ms = now_ms;
        free(ward->ends); /* of the attempt */
        ward->ends = NULL;
    }
    ka_ward_see(ward, info, now_ms);
    ka_ward_judge(watcher, ward, info, now_ms, &judged);
    again = judged.again_ms;
    if (judged.cause != KA_NO_CAUSE)
        again = ka_deed_act(watcher, ward, judged.cause, now_ms);
    else
        is_fine(watcher, ward);
    if (again == KA_LET_GO || (ward->flags & KA_WARD_ENDED))
        return again;
    return ka_sooner(again, pace);
}

/* What a drain makes of it; *again is brought nearer. */
static int32_t drained(const struct ka_watcher *watcher,
                       const struct ka_judgement *judged, int64_t *again) {
    int64_t left = watcher->settings.evict_idle_ms - judged->clock_ms;
    int64_t pace = (int64_t)(watcher->stats.tracked / KA_DRAINED_PER_MS);

    *again = ka_sooner(*again, pace > KA_DRAIN_MS ? pace : KA_DRAIN_MS);
    if (judged->klass != KA_ANSWERED && judged->klass != KA_NEVER_SPOKE)
        return KA_NO_CAUSE;
    if (left <= 0)
        return KA_FOR_DRAINED;
    *again = ka_sooner(*again, left);
    return KA_NO_CAUSE;
}

static int64_t together(int64_t again_ms, int64_t now_ms) {
    int64_t late_ms = now_ms + again_ms + KA_TOGETHER_MS - 1;

    if (again_ms < KA_LEISURE_MS)
        return again_ms;
    return late_ms - late_ms % KA_TOGETHER_MS - now_ms;
}

static int64_t look_at_found(struct ka_watcher *watcher, struct ka_ward *ward,
                             const struct ka_info *info, int64_t now_ms) {
    struct ka_judgement judged;
    int32_t cause;
    int64_t again;

    if ((ward->flags & KA_WARD_EXEMPT) || !is_connected(info))
        return KA_NO_TIME;
    if ((ward->flags & KA_WARD_TOLD) &&
        ward->told_in == info->bytes_received &&
        ward->told_out == info->bytes_sent) /* so often none is missed */
        return watcher->least_ms;
    (void)ka_ward_mark(watcher, ward, KA_WARD_TOLD, 0);
    if (watcher->settings.limits.detect_ms >= 0 &&
        !(ward->flags & KA_WARD_PACED)) {
        again = ka_pace_found(watcher, ward, info, now_ms);
        if (again != KA_NO_TIME || watcher->lost)
            return again;
    }
    if (ka_pace_is_due(ward, now_ms)) {
        again = ka_pace_count(watcher, ward, now_ms);
        if (again != KA_NO_TIME || watcher->lost)
            return again;
    }
    ka_ward_judge(watcher, ward, info, now_ms, &judged);
    again = judged.again_ms;
    if (ward->count_ms > 0)
        again = ka_sooner(again, ward->count_ms - now_ms);
    cause = judged.cause;
    if (cause == KA_NO_CAUSE && watcher->draining)
        cause = drained(watcher, &judged, &again);
    if (cause != KA_NO_CAUSE)
        return ka_deed_act(watcher, ward, cause, now_ms);
    is_fine(watcher, ward);
    return again;
}

void ka_ward_look(struct ka_watcher *watcher, struct ka_ward *ward,
                  int64_t now_ms) {
    struct ka_info info;
    int64_t again;

    watcher->stats.looks++;
    if ((needs_name(ward) && !is_same(ward)) ||
        ka_ward_ask(ward, ward->sock, &info, now_ms) < 0)
        again = is_nameless(ward) ? ka_deed_nameless(watcher, ward, now_ms)
                                  : ka_deed_gone(watcher, ward, now_ms);
    else if (ward->flags & KA_WARD_ENDING)
        again = ka_deed_go_on(watcher, ward, &info, now_ms);
    else if (ward->flags & KA_WARD_ENDED)
        again = KA_ENDED_MS;
    else if (ward->flags & KA_WARD_WATCHED)
        again = look_at_watch(watcher, ward, &info, now_ms);
    else
        again = together(look_at_found(watcher, ward, &info, now_ms), now_ms);
    ka_ward_arm(watcher, ward, again, now_ms);
}

/* ---- the first look ----------------------------------------------------- */

static int is_open(ka_sock sock, const struct ka_info *info) {
    struct ka_pending pending;

    if (info->state >= 0)
        return info->state == KA_TCP_ESTABLISHED ||
               info->state == KA_TCP_CLOSE_WAIT;
    return ka_pending(sock, &pending) < 0 || !pending.error;
}

int ka_first_look(ka_sock sock, struct ka_first_look *out) {
    int rc;

    memset(out, 0, sizeof *out);
    /* First: who asks it again afterwards knows that all of this is the same
     * socket's. */
    (void)ka_identify(sock, &out->identity);
    out->at_ms = ka_os_now_ms();
    rc = ka_info(sock, &out->info);
    if (rc < 0)
        return rc;
    out->open = is_open(sock, &out->info);
    (void)ka_endpoints(sock, &out->local, &out->peer);
    return 0;
}

static void keep_ends(struct ka_ward *ward,
                      const struct ka_first_look *first) {
    if (first->local.family == 0)
        return; /* to be asked by the next look */
    ward->ends = calloc(2, sizeof *ward->ends);
    if (ward->ends == NULL)
        return;
    ward->ends[0] = first->local;
    ward->ends[1] = first->peer;
}

void ka_ward_first(struct ka_ward *ward, const struct ka_first_look *first) {
    const struct ka_info *info = &first->info;

    if (first->open || info->state == KA_TCP_SYN_SENT) {
        keep_ends(ward, first);
        ka_ward_see(ward, info, first->at_ms);
    }
    if (!is_connected(info))
        ward->from_ms = KA_NOT_YET;
}
