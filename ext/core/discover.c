/* discover.c - which connections there are, and which of them are too many.
 *
 * Nobody tells us of a new connection: the server's own path is to cost
 * nothing. So a pass asks every number that may be open for its socket's
 * identity, and only what is new is asked for more. Numbers change their
 * meaning under our hands; a map from number to identity says when. What is
 * found by a number may belong to another one by then: it is entered with the
 * identity that was asked first, and the first look at it finds that out.
 *
 * A connection is guarded when its local port is one that this process
 * listens at, or one that was chosen. Listeners come and go, and a
 * connection may be met before its listener. So the ports of this pass and
 * of the one before count; what has an unknown port is asked again at each
 * meeting, which costs a bit; and a pass that has found new ports is followed
 * by one more at once.
 *
 * One socket may have several numbers. It is entered once; when the number
 * that it was entered by is closed, the next pass enters it by another.
 *
 * A pass is cut in slices, so that callers get in, and the next begins no
 * sooner than a hundred times its cost later: 1 % of a core.
 *
 * Eviction needs the longest idle of all. A scan keeps the best as many as
 * are too many in a heap; then each goes through the same door as everybody
 * else (ka_deed_act). It has slices, too, and a bound on its share.
 */
#include "ward.h"

#include "diag.h"

#include <stdlib.h>
#include <string.h>

#define KA_NUMBERS 4096 /* to a slice */
#define KA_NEWCOMERS 256
#define KA_SHARE 100 /* discovery costs one part of so many */
#define KA_DRAIN_SHARE 10
#define KA_PASS_LEAST_MS 250
#define KA_PASS_MOST_MS 2000

_Static_assert(KA_SEEN_PAGES >= KA_DIAG_MOST / KA_PAGE,
               "every number has its place");

#define KA_EVICT_MS 1000
#define KA_EVICT_SHARE 50
#define KA_EVICT_SLICE 1024
#define KA_EVICT_MOST 65536 /* candidates of a scan */

enum what { /* stands behind a number */
            NOTHING = 0,
            OTHER = 1, /* no TCP */
            FRESH = 2, /* neither connected nor listening, so far */
            LISTENING = 3,
            STRANGE = 4, /* connected, at a port that is nobody's so far */
            GUARDED = 5
};

/* CPU time, or where that is not told the time that passes. */
static int64_t spent_us(void) {
    int64_t us = ka_thread_cpu_us();

    return us >= 0 ? us : ka_os_now_ms() * 1000;
}

/* ---- ports -------------------------------------------------------------- */

static int has_port(const uint64_t *set, uint16_t port) {
    return set[port / 64] >> port % 64 & 1;
}

static void put_port(uint64_t *set, uint16_t port) {
    set[port / 64] |= (uint64_t)1 << port % 64;
}

static int is_ours(const struct ka_watcher *watcher, uint16_t port) {
    const struct ka_discovery *found = &watcher->discovery;

    if (watcher->settings.ports > 0)
        return has_port(found->chosen, port);
    return has_port(found->listens, port) || has_port(found->listened, port);
}

static void note_listener(struct ka_discovery *found, uint16_t port) {
    if (!has_port(found->listens, port) && !has_port(found->listened, port))
        found->grew = 1;
    put_port(found->listens, port);
}

void ka_discovery_settings(struct ka_watcher *watcher) {
    struct ka_discovery *found = &watcher->discovery;
    int i;

    memset(found->chosen, 0, sizeof found->chosen);
    for (i = 0; i < watcher->settings.ports; i++)
        put_port(found->chosen, watcher->settings.port[i]);
    found->next_ms = 0;
    watcher->eviction.next_ms = 0;
}

/* ---- one number --------------------------------------------------------- */

static struct ka_seen *seen_at(const struct ka_discovery *found, int64_t fd) {
    struct ka_seen *page = found->page[fd / KA_PAGE];

    return page ? &page[fd % KA_PAGE] : NULL;
}

static struct ka_seen *make_seen(struct ka_watcher *watcher, int64_t fd) {
    struct ka_seen **page = &watcher->discovery.page[fd / KA_PAGE];

    if (*page == NULL)
        *page = calloc(KA_PAGE, sizeof **page);
    if (*page == NULL) {
        watcher->stats.no_memory++;
        return NULL;
    }
    return &(*page)[fd % KA_PAGE];
}

/* The number means something else now. */
static void forget(struct ka_watcher *watcher, struct ka_seen *seen,
                   int64_t fd) {
    struct ka_ward *ward = ka_ward_of(watcher, seen->ward);

    if (ward && (int64_t)ward->sock == fd)
        ka_ward_drop(watcher, ward);
    memset(seen, 0, sizeof *seen);
}

/* Connected, and at one of our ports. */
static void guard(struct ka_watcher *watcher, struct ka_seen *seen,
                  int64_t fd) {
    struct ka_ward *ward = NULL;

    seen->what = STRANGE;
    if (!is_ours(watcher, seen->port))
        return;
    do
        ward = ka_ward_next(watcher, seen->identity, ward);
    while (ward && (ward->flags & KA_WARD_WATCHED));
    if (ward == NULL) {
        ward = ka_ward_add(watcher, (ka_sock)fd, seen->identity, 0);
        if (ward == NULL) { /* the next pass tries again */
            watcher->stats.no_memory++;
            return;
        }
        ward->port = seen->port;
        ward->from_ms = ka_held_until(watcher, seen->identity);
    }
    seen->ward = ward->id;
    seen->what = GUARDED;
}

static void examine(struct ka_watcher *watcher, struct ka_seen *seen,
                    int64_t fd) {
    struct ka_found found;

    if (ka_diag_look((ka_sock)fd, &found) < 0) {
        seen->what = OTHER;
        return;
    }
    seen->port = found.port;
    seen->what = FRESH;
    if (found.listening) {
        seen->what = LISTENING;
        note_listener(&watcher->discovery, found.port);
    } else if (found.connected) {
        guard(watcher, seen, fd);
    }
}

/* 1 when it took more than a question. */
static int visit(struct ka_watcher *watcher, int64_t fd) {
    struct ka_seen *seen = seen_at(&watcher->discovery, fd);
    uint64_t identity;

    if (ka_identify((ka_sock)fd, &identity) < 0) {
        if (seen && seen->what != NOTHING)
            forget(watcher, seen, fd);
        return 0;
    }
    if (seen && seen->what != NOTHING && seen->identity == identity) {
        if (seen->what == OTHER ||
            (seen->what == STRANGE && !is_ours(watcher, seen->port)) ||
            (seen->what == GUARDED && ka_ward_of(watcher, seen->ward)))
            return 0;
        if (seen->what == FRESH || seen->what == LISTENING)
            examine(watcher, seen, fd);
        else
            guard(watcher, seen, fd);
        return 1;
    }
    if (seen && seen->what != NOTHING)
        forget(watcher, seen, fd);
    if (seen == NULL)
        seen = make_seen(watcher, fd);
    if (seen == NULL)
        return 1;
    seen->identity = identity;
    examine(watcher, seen, fd);
    return 1;
}

/* ---- a pass ------------------------------------------------------------- */

static int64_t interval_of(const struct ka_watcher *watcher) {
    const struct ka_discovery *found = &watcher->discovery;
    int64_t share = watcher->draining ? KA_DRAIN_SHARE : KA_SHARE;
    int64_t interval = watcher->draining
                           ? KA_PASS_LEAST_MS
                           : ka_clamp(watcher->least_ms / 4, KA_PASS_LEAST_MS,
                                      KA_PASS_MOST_MS);
    int64_t least = found->cost_us * share / 1000;

    return interval > least ? interval : least;
}

static void begin_pass(struct ka_discovery *found, int64_t now_ms) {
    int64_t bound = ka_diag_bound();

    bound = ka_clamp(bound, 0, KA_DIAG_MOST);
    found->running = 1;
    found->grew = 0;
    found->cursor = 0;
    found->began_ms = now_ms;
    found->cost_us = 0;
    /* What is above the bound now is closed, and must be forgotten. */
    found->bound = bound > found->top ? bound : found->top;
    found->top = bound;
}

static void end_pass(struct ka_watcher *watcher, int64_t now_ms) {
    struct ka_discovery *found = &watcher->discovery;

    found->running = 0;
    memcpy(found->listened, found->listens, sizeof found->listens);
    memset(found->listens, 0, sizeof found->listens);
    /* Once: a process may open listeners all the time. */
    found->extra = found->grew && !found->extra;
    found->next_ms =
        found->extra ? now_ms : found->began_ms + interval_of(watcher);
    watcher->stats.passes++;
    watcher->stats.pass_cpu_us += (uint64_t)found->cost_us;
    ka_holds_forget(watcher);
}

static void pass_slice(struct ka_watcher *watcher) {
    struct ka_discovery *found = &watcher->discovery;
    int64_t end = found->cursor + KA_NUMBERS;
    int newcomers = 0;

    if (end > found->bound)
        end = found->bound;
    while (found->cursor < end && newcomers < KA_NEWCOMERS)
        newcomers += visit(watcher, found->cursor++);
}

void ka_discover(struct ka_watcher *watcher, int64_t now_ms) {
    struct ka_discovery *found = &watcher->discovery;
    int64_t before = spent_us(), cost;

    if (!watcher->settings.discover) {
        found->running = 0;
        return;
    }
    if (!found->running && now_ms < found->next_ms)
        return;
    if (!found->running)
        begin_pass(found, now_ms);
    pass_slice(watcher);
    cost = spent_us() - before;
    found->cost_us += cost > 0 ? cost : 0;
    if (found->cursor >= found->bound)
        end_pass(watcher, now_ms);
}

int64_t ka_discover_next(const struct ka_watcher *watcher, int64_t now_ms) {
    const struct ka_discovery *found = &watcher->discovery;

    if (!watcher->settings.discover)
        return KA_NO_TIME;
    if (found->running || found->next_ms <= now_ms)
        return 0;
    return found->next_ms - now_ms;
}

void ka_discovery_free(struct ka_watcher *watcher) {
    int i;

    for (i = 0; i < KA_SEEN_PAGES; i++)
        free(watcher->discovery.page[i]);
    free(watcher->eviction.heap);
}

/* ---- eviction: the longest idle ----------------------------------------- */

static int64_t excess(const struct ka_watcher *watcher) {
    if (watcher->settings.evict_above < 0 || !watcher->settings.discover)
        return 0;
    return (int64_t)watcher->stats.tracked - (int64_t)watcher->silent -
           watcher->settings.evict_above;
}

static void sift_down(struct ka_candidate *heap, uint32_t count, uint32_t at,
                      struct ka_candidate one) {
    uint32_t child;

    for (; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1].idle_ms < heap[child].idle_ms)
            child++;
        if (heap[child].idle_ms >= one.idle_ms)
            break;
        heap[at] = heap[child];
    }
    heap[at] = one;
}

static void consider(struct ka_eviction *evict, struct ka_candidate one) {
    struct ka_candidate *heap = evict->heap;
    uint32_t at = evict->count;

    if (at == evict->room) {
        if (one.idle_ms > heap[0].idle_ms)
            sift_down(heap, evict->count, 0, one);
        return;
    }
    evict->count++;
    for (; at > 0 && heap[(at - 1) / 2].idle_ms > one.idle_ms;
         at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = one;
}

/* By the bare number: who is chosen is judged again. */
static void scan_one(struct ka_watcher *watcher, struct ka_ward *ward,
                     int64_t now_ms) {
    struct ka_candidate one = {0, ward->id};
    struct ka_info info;
    int64_t awake = now_ms - ka_ward_since(watcher, ward);

    if (ward->id == 0 ||
        (ward->flags &
         (KA_WARD_WATCHED | KA_WARD_ENDED | KA_WARD_EXEMPT | KA_WARD_TOLD)) ||
        ka_is_held(watcher, ward->identity) ||
        ka_ward_ask(ward, ward->sock, &info, now_ms) < 0 ||
        ka_classify(&info) != KA_ANSWERED)
        return;
    one.idle_ms = ka_payload_idle_ms(&info);
    if (one.idle_ms > awake)
        one.idle_ms = awake;
    if (one.idle_ms >= watcher->settings.evict_idle_ms)
        consider(&watcher->eviction, one);
}

static int longest_first(const void *a, const void *b) {
    int64_t left = ((const struct ka_candidate *)a)->idle_ms;
    int64_t right = ((const struct ka_candidate *)b)->idle_ms;

    return left < right ? 1 : left > right ? -1 : 0;
}

static void rest(struct ka_eviction *evict, int64_t now_ms) {
    int64_t pause = evict->cost_us * KA_EVICT_SHARE / 1000;

    free(evict->heap);
    evict->heap = NULL;
    evict->scanning = evict->ending = 0;
    evict->next_ms =
        evict->began_ms + (pause > KA_EVICT_MS ? pause : KA_EVICT_MS);
    if (evict->next_ms < now_ms)
        evict->next_ms = now_ms;
}

static void begin_scan(struct ka_watcher *watcher, int64_t now_ms) {
    struct ka_eviction *evict = &watcher->eviction;

    evict->began_ms = now_ms;
    evict->cost_us = 0;
    evict->room = (uint32_t)ka_clamp(excess(watcher), 1, KA_EVICT_MOST);
    evict->count = evict->done = evict->cursor = 0;
    evict->heap = malloc(evict->room * sizeof *evict->heap);
    if (evict->heap == NULL) {
        watcher->stats.no_memory++;
        rest(evict, now_ms);
        return;
    }
    evict->scanning = 1;
}

static void scan_slice(struct ka_watcher *watcher, int64_t now_ms) {
    struct ka_eviction *evict = &watcher->eviction;
    uint32_t slots = watcher->pages * KA_PAGE;
    uint32_t end = evict->cursor + KA_EVICT_SLICE;

    if (end > slots)
        end = slots;
    for (; evict->cursor < end; evict->cursor++)
        scan_one(watcher, ka_ward_at(watcher, evict->cursor), now_ms);
    if (evict->cursor < slots)
        return;
    evict->scanning = 0;
    evict->ending = 1;
    qsort(evict->heap, evict->count, sizeof *evict->heap, longest_first);
}

/* Until a new scan would know better. */
static void end_slice(struct ka_watcher *watcher, int64_t now_ms) {
    struct ka_eviction *evict = &watcher->eviction;
    struct ka_ward *ward;
    int64_t again;

    while (watcher->taken < KA_TAKES && evict->done < evict->count &&
           excess(watcher) > 0) {
        if (!watcher->settings.dry_run && ka_budget_wait(watcher, now_ms) > 0)
            break;
        ward = ka_ward_of(watcher, evict->heap[evict->done++].id);
        if (ward == NULL || (ward->flags & KA_WARD_ENDED))
            continue;
        again = ka_deed_act(watcher, ward, KA_FOR_EVICTED, now_ms);
        ka_ward_arm(watcher, ward, again, now_ms);
        if (watcher->lost || watcher->late)
            return;
    }
    if (evict->done >= evict->count || excess(watcher) <= 0 ||
        now_ms >= evict->began_ms + KA_EVICT_MS)
        rest(evict, now_ms);
}

void ka_evict(struct ka_watcher *watcher, int64_t now_ms) {
    struct ka_eviction *evict = &watcher->eviction;
    int64_t before, cost;

    if (!evict->scanning && !evict->ending) {
        if (now_ms < evict->next_ms || excess(watcher) <= 0)
            return;
        begin_scan(watcher, now_ms);
    }
    before = spent_us();
    if (evict->scanning)
        scan_slice(watcher, now_ms);
    else if (evict->ending)
        end_slice(watcher, now_ms);
    cost = spent_us() - before;
    evict->cost_us += cost > 0 ? cost : 0;
}

int64_t ka_evict_next(struct ka_watcher *watcher, int64_t now_ms) {
    const struct ka_eviction *evict = &watcher->eviction;

    if (evict->scanning)
        return 0;
    if (evict->ending)
        return watcher->settings.dry_run ? 0 : ka_budget_wait(watcher, now_ms);
    if (excess(watcher) <= 0)
        return KA_NO_TIME;
    return evict->next_ms > now_ms ? evict->next_ms - now_ms : 0;
}
