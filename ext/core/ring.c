#include "ring.h"

#include "os.h"
#include "monitor.h"

#include <errno.h>
#include <stdlib.h>

struct ka_ring {
    struct ka_monitor *monitor; /* all below is touched inside it */
    uint64_t dropped;
    uint32_t room, first, count;
    int closed;
    struct ka_occurrence event[];
};

struct ka_ring *ka_ring_new(uint32_t room) {
    struct ka_ring *ring;
    size_t wanted = room,
           most = (SIZE_MAX - sizeof *ring) / sizeof *ring->event;

    if (wanted > most)
        return NULL;
    ring = malloc(sizeof *ring + wanted * sizeof *ring->event);
    if (ring == NULL)
        return NULL;
    ring->monitor = ka_monitor_new();
    if (ring->monitor == NULL) {
        free(ring);
        return NULL;
    }
    ring->dropped = 0;
    ring->room = room;
    ring->first = ring->count = 0;
    ring->closed = 0;
    return ring;
}

void ka_ring_free(struct ka_ring *ring) {
    if (ring == NULL)
        return;
    ka_monitor_free(ring->monitor);
    free(ring);
}

/* In 64 bit: the sum may be above UINT32_MAX. */
static uint32_t place(const struct ka_ring *ring, uint32_t number) {
    return (uint32_t)(((uint64_t)ring->first + number) % ring->room);
}

int ka_ring_is_full(struct ka_ring *ring) {
    int full;

    ka_monitor_enter(ring->monitor);
    full = ring->closed || ring->count >= ring->room;
    ka_monitor_leave(ring->monitor);
    return full;
}

int ka_ring_put(struct ka_ring *ring, const struct ka_occurrence *event) {
    int kept;

    ka_monitor_enter(ring->monitor);
    kept = !ring->closed && ring->count < ring->room;
    if (kept) {
        ring->event[place(ring, ring->count)] = *event;
        ring->count++;
        ka_monitor_notify(ring->monitor);
    } else {
        ring->dropped++;
    }
    ka_monitor_leave(ring->monitor);
    return kept;
}

/* From inside: until there is an occurrence, or the end, or no time left. The
 * first wait is exact; only who was woken for nothing, because another was
 * faster, goes by the clock that lags. */
static void wait_for_one(struct ka_ring *ring, int64_t timeout_ms) {
    int64_t left = timeout_ms < INT32_MAX ? timeout_ms : INT32_MAX, end = 0;

    if (left > 0)
        end = ka_os_now_ms() + left;
    while (ring->count == 0 && !ring->closed && left != 0) {
        ka_monitor_wait(ring->monitor, left);
        if (left > 0) {
            left = end - ka_os_now_ms();
            if (left < 0)
                left = 0;
        }
    }
}

int ka_ring_take(struct ka_ring *ring, struct ka_occurrence *out, int room,
                 int64_t timeout_ms) {
    int taken = 0;

    if (room <= 0)
        return 0;
    ka_monitor_enter(ring->monitor);
    wait_for_one(ring, timeout_ms);
    while (taken < room && ring->count > 0) {
        out[taken++] = ring->event[ring->first];
        ring->first = place(ring, 1);
        ring->count--;
    }
    if (taken == 0 && ring->closed)
        taken = -ESHUTDOWN;
    ka_monitor_leave(ring->monitor);
    return taken;
}

void ka_ring_close(struct ka_ring *ring) {
    ka_monitor_enter(ring->monitor);
    ring->closed = 1;
    ka_monitor_notify(ring->monitor);
    ka_monitor_leave(ring->monitor);
}

uint64_t ka_ring_dropped(struct ka_ring *ring) {
    uint64_t dropped;

    ka_monitor_enter(ring->monitor);
    dropped = ring->dropped;
    ka_monitor_leave(ring->monitor);
    return dropped;
}
