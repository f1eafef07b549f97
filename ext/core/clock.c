/* clock.c - the time that counts as idleness. */
#include "clock.h"

#include <errno.h>

void ka_clock_init(struct ka_clock *clock) {
    atomic_init(&clock->skipped, 0);
    atomic_init(&clock->frozen, 0);
    atomic_init(&clock->shown, 0);
    (void)ka_os_tick(); /* the system's clock is chosen now, not in a loop */
}

void ka_clock_skip(struct ka_clock *clock, uint32_t ticks) {
    atomic_fetch_add_explicit(&clock->skipped, ticks, memory_order_relaxed);
}

void ka_clock_freeze(struct ka_clock *clock, ka_tick tick) {
    uint32_t skipped =
        atomic_load_explicit(&clock->skipped, memory_order_relaxed);

    /* The order matters to a reader that sees the clock freeze. */
    atomic_store_explicit(&clock->shown, tick + skipped, memory_order_relaxed);
    atomic_store_explicit(&clock->frozen, 1, memory_order_release);
}

void ka_clock_advance(struct ka_clock *clock, uint32_t ticks) {
    atomic_fetch_add_explicit(&clock->shown, ticks, memory_order_relaxed);
}

int64_t ka_clock_ticks(int64_t ms) {
    int64_t ticks;

    if (ms <= 0)
        return 1;
    if (ms >= (int64_t)KA_MOST_TICKS * KA_TICK_MS)
        return -ERANGE;
    ticks = (ms + ka_os_clock_lag_ms() + KA_TICK_MS - 1) / KA_TICK_MS;
    return ticks < (int64_t)KA_MOST_TICKS ? ticks : -ERANGE;
}
