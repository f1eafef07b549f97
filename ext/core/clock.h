/* clock.h - the time that counts as idleness, in wrapping 32-bit ticks.
 *
 * A tick is KA_TICK_MS. The loop leaves out time in which it was not looking
 * (stopped process, suspended machine, a callback that takes for ever) by
 * ka_clock_skip. Tests freeze the clock and advance it.
 *
 * Threads: any thread may read; the loop's owner skips, freezes, advances.
 */
#ifndef KA_CLOCK_H
#define KA_CLOCK_H

#include <stdint.h>

#include "atomics.h"
#include "os.h"

#define KA_TICK_MS 10

typedef uint32_t ka_tick;

struct ka_clock {
    KA_ATOMIC(uint32_t) skipped; /* ticks that do not count */
    KA_ATOMIC(uint32_t) frozen;  /* 1: `shown` is the time */
    KA_ATOMIC(uint32_t) shown;
};

void ka_clock_init(struct ka_clock *clock);
void ka_clock_skip(struct ka_clock *clock, uint32_t ticks);
/* For tests: stand still at `tick`; from then on advance alone moves it on. */
void ka_clock_freeze(struct ka_clock *clock, ka_tick tick);
void ka_clock_advance(struct ka_clock *clock, uint32_t ticks);

/* The fewest ticks that last at least `ms`, whatever the clock's lag. At
 * least 1, below KA_MOST_TICKS; more is -ERANGE. */
#define KA_MOST_TICKS 1010000000u /* twice this, and 14 days, is < 2^31 */
#define KA_MOST_SECONDS 10000000  /* of a timeout: about 115 days */
int64_t ka_clock_ticks(int64_t ms);

static inline ka_tick ka_clock_now(struct ka_clock *clock) {
    ka_tick base;

    if (atomic_load_explicit(&clock->frozen, memory_order_relaxed))
        base = atomic_load_explicit(&clock->shown, memory_order_relaxed);
    else
        base = ka_os_tick();
    return base - atomic_load_explicit(&clock->skipped, memory_order_relaxed);
}

/* a - b of ticks that are less than 2^31 apart. */
static inline int32_t ka_tick_since(ka_tick a, ka_tick b) {
    return (int32_t)(a - b);
}

#endif
