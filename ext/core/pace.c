/* pace.c - the keepalive of what is watched or was found.
 *
 * A watcher that is to tell silence needs questions: keepalive probes,
 * retransmissions and window probes, often enough. Who asks for a watch sets
 * the probes; what is found gets them here, unless its owner has an opinion of
 * his own. It is done on a duplicate, as all that is done.
 *
 * What can go wrong, and how this file stops it:
 *
 * The owner's values. A user timeout, or probes as frequent as ours, are his,
 * and stay. Where the system does not tell what probes he has, he has some.
 *
 * Everybody asks together. Thousands of connections that were found in one
 * pass would be probed in one moment; each gets a pace of its own.
 *
 * A watcher that is deaf. Where the kernel does not say how many questions
 * went unanswered the watcher cannot decide, and must not guess. The kernel
 * decides instead: it gives the connection up when its count of probes has
 * run out, within the same deadline. It takes its probes for answered by any
 * segment, asks also while data is under way or the window is shut (the
 * systems that are deaf have one timer for it beside the others), and the
 * owner reads its error, as of any connection that broke.
 *
 * A low count kills the living. Those same kernels look at the clock before
 * they ask: whoever has been quiet for longer than idle + count * interval is
 * given up without one question. A healthy connection that nobody has used
 * for an hour would be dead at once. So the count comes first and is as high
 * as their arithmetic in ticks bears (three weeks of silence), then the pace;
 * and the real count only when the first two questions had the time to be
 * answered. A peer that is gone by then has been silent ever since, and goes
 * at the next tick.
 *
 * A count that is not high enough. Windows takes no more than 255, and whether
 * it looks at the clock first nobody says; so it is taken for one that does.
 * There the interval is long in place of the count, as long as three weeks of
 * silence need, before anything else is set. The first look lowers it to what
 * the connection's age needs, since it cannot have been silent for longer; the
 * questions come at that pace, and what was meant is set with the count.
 */
#include "ward.h"

/* In ticks of a millisecond it must stay below 2^31. */
#define PATIENT_S 2000000
#define LATE_MS 2000 /* an answer on its way, a slow timer */
#define AGE_MARGIN_MS 60000

/* ---- the kernel's count ------------------------------------------------- */

/* So that idle and all intervals lie within the deadline. */
static int32_t count_for(int64_t detect_ms, int32_t idle, int32_t interval) {
    int64_t left = detect_ms / 1000 - idle;

    return (int32_t)ka_clamp(left / interval, 1, 127);
}

static int32_t patient_count(int32_t interval) {
    struct ka_range range;

    if (ka_option_range(KA_COUNT, &range) < 0)
        return KA_LEAVE;
    return (int32_t)ka_clamp(PATIENT_S / interval, range.low, range.high);
}

static int64_t asked_twice_ms(int32_t idle, int32_t interval) {
    return ((int64_t)idle + 2 * (int64_t)interval) * 1000 + LATE_MS;
}

static int is_told(ka_sock sock, int option, int32_t *value) {
    return ka_get(sock, option, value) == 0 && *value > 0;
}

/* What is meant in place of a patient interval: a quarter of the deadline,
 * which detect_ms is nineteen twentieths of. */
static int32_t meant(int64_t detect_ms, int32_t interval) {
    return (int32_t)ka_clamp(detect_ms / 3800, 1, interval);
}

/* Whoever waits longer than that is patient, for `sock` may have been silent
 * since it was connected. */
static void hasten(ka_sock sock, int64_t detect_ms) {
    int64_t age_ms = ka_connected_ms(sock), need;
    int32_t interval, count;

    if (age_ms < 0 || !is_told(sock, KA_INTERVAL, &interval) ||
        !is_told(sock, KA_COUNT, &count))
        return;
    need = (age_ms + AGE_MARGIN_MS) / 1000 / count + 1;
    need = ka_clamp(need, meant(detect_ms, interval), interval);
    if (need < interval)
        (void)ka_set(sock, KA_INTERVAL, (int32_t)need);
}

/* When the count may be set: 0 never, its owner has put none of ours there. */
static int64_t count_when(ka_sock sock, int64_t now_ms) {
    int32_t idle, interval;

    if (!is_told(sock, KA_IDLE, &idle) ||
        !is_told(sock, KA_INTERVAL, &interval))
        return 0;
    return now_ms + asked_twice_ms(idle, interval);
}

int64_t ka_pace_count(struct ka_watcher *watcher, struct ka_ward *ward,
                      int64_t now_ms) {
    int64_t detect_ms = ward->flags & KA_WARD_WATCHED
                            ? ward->detect_ms
                            : watcher->settings.limits.detect_ms;
    int32_t idle = ward->paced_idle, interval = ward->paced_interval;
    int64_t again;
    ka_sock sock;

    if (!ka_deed_take(watcher, ward, now_ms, &again))
        return again;
    sock = watcher->reserve.sock;
    if (detect_ms >= 0 && idle > 0 && interval > 0) {
        if (meant(detect_ms, interval) < interval) {
            interval = meant(detect_ms, interval);
            (void)ka_set(sock, KA_INTERVAL, interval);
        }
        (void)ka_set(sock, KA_COUNT, count_for(detect_ms, idle, interval));
    }
    ka_reserve_give(&watcher->reserve);
    ward->count_ms = 0;
    return KA_NO_TIME;
}

/* ---- what is watched ---------------------------------------------------- */

/* While it was connecting the pace would have shortened the attempt. */
static void quicken(ka_sock sock, int64_t detect_ms) {
    int64_t margin = detect_ms / 19, most;
    int32_t held;

    most = (detect_ms + (margin > 200 ? margin : 200) + 2) / 4000;
    most = ka_clamp(most, 1, 120) * 1000;
    if (ka_get(sock, KA_RTO_MAX, &held) == 0 && held > most)
        (void)ka_set(sock, KA_RTO_MAX, (int32_t)most);
}

int64_t ka_pace_watched(struct ka_watcher *watcher, struct ka_ward *ward,
                        const struct ka_info *info, int64_t now_ms) {
    int64_t again;
    ka_sock sock;

    if (ward->detect_ms < 0)
        return KA_NO_TIME;
    if (!ka_deed_take(watcher, ward, now_ms, &again))
        return again;
    sock = watcher->reserve.sock;
    quicken(sock, ward->detect_ms);
    if (ka_is_deaf(info)) {
        hasten(sock, ward->detect_ms);
        ward->count_ms = count_when(sock, now_ms);
        (void)ka_get(sock, KA_IDLE, &ward->paced_idle);
        (void)ka_get(sock, KA_INTERVAL, &ward->paced_interval);
    }
    ka_reserve_give(&watcher->reserve);
    ward->flags |= KA_WARD_PACED;
    return KA_NO_TIME;
}

/* ---- what was found ----------------------------------------------------- */

static int32_t lowered(int32_t value, int32_t by) {
    return value == KA_LEAVE ? value : value - by > 1 ? value - by : 1;
}

/* A timeout of the owner's own, or probes as frequent, are left to him. */
static int is_slow(ka_sock sock, const struct ka_policy *pace) {
    int32_t enabled, idle, interval, timeout;

    if (pace->value[KA_IDLE] == KA_LEAVE ||
        pace->value[KA_INTERVAL] == KA_LEAVE ||
        ka_get(sock, KA_ENABLED, &enabled) < 0 ||
        ka_get(sock, KA_IDLE, &idle) < 0 ||
        ka_get(sock, KA_INTERVAL, &interval) < 0 || idle == KA_LEAVE ||
        interval == KA_LEAVE)
        return 0;
    if (ka_get(sock, KA_USER_TIMEOUT, &timeout) == 0 && timeout > 0)
        return 0;
    if (!enabled || idle == KA_UNREADABLE || interval == KA_UNREADABLE)
        return !enabled;
    return (int64_t)idle + interval >
           (int64_t)pace->value[KA_IDLE] + pace->value[KA_INTERVAL];
}

/* The first of the two steps of a deaf one. */
static void be_patient(struct ka_ward *ward, ka_sock sock,
                       struct ka_policy *pace, int64_t now_ms) {
    int32_t idle = pace->value[KA_IDLE], interval = pace->value[KA_INTERVAL];

    pace->value[KA_COUNT] = patient_count(interval);
    (void)ka_set(sock, KA_COUNT, pace->value[KA_COUNT]);
    ward->paced_idle = idle;
    ward->paced_interval = interval;
    ward->count_ms = now_ms + asked_twice_ms(idle, interval);
}

int64_t ka_pace_found(struct ka_watcher *watcher, struct ka_ward *ward,
                      const struct ka_info *info, int64_t now_ms) {
    struct ka_policy pace = watcher->settings.pace;
    struct ka_fault fault;
    int64_t again;
    int32_t by;
    ka_sock sock;

    if (!ka_deed_take(watcher, ward, now_ms, &again))
        return again;
    sock = watcher->reserve.sock;
    if (is_slow(sock, &pace)) {
        by = watcher->settings.pace_jitter;
        by = by > 0 ? (int32_t)(ward->identity % ((uint64_t)by + 1)) : 0;
        pace.value[KA_IDLE] = lowered(pace.value[KA_IDLE], by);
        pace.value[KA_INTERVAL] = lowered(pace.value[KA_INTERVAL], by);
        if (ka_is_deaf(info))
            be_patient(ward, sock, &pace, now_ms);
        (void)ka_apply_fresh(sock, &pace, &fault);
    }
    ka_reserve_give(&watcher->reserve);
    ward->flags |= KA_WARD_PACED;
    return KA_NO_TIME;
}
