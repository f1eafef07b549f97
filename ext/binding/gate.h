/* gate.h - one thread inside, told from all others.
 *
 * The GIL does not do this: a waiting thread gives it away, and builds
 * without it exist. Nobody waits for the gate; who does not get in is
 * refused.
 */
#ifndef KA_GATE_H
#define KA_GATE_H

#include <stdint.h>

#include "atomics.h"

struct ka_gate {
    KA_ATOMIC(uint64_t) holder; /* a thread's number, 0 nobody */
    uint32_t open; /* the holder runs Python code, which may come in again */
};

enum ka_passed { KA_REFUSED = 0, KA_ENTERED = 1, KA_INSIDE = 2 };

static inline int ka_gate_enter(struct ka_gate *gate, uint64_t me) {
    uint64_t holder = 0;

    if (atomic_compare_exchange_strong_explicit(&gate->holder, &holder, me,
                                                memory_order_acquire,
                                                memory_order_relaxed))
        return KA_ENTERED;
    return holder == me && gate->open ? KA_INSIDE : KA_REFUSED;
}

/* In a forked child: whoever else was inside is no more. */
static inline int ka_gate_inherit(struct ka_gate *gate, uint64_t me) {
    if (atomic_load(&gate->holder) == me)
        return KA_REFUSED;
    atomic_store(&gate->holder, 0);
    return ka_gate_enter(gate, me);
}

static inline void ka_gate_leave(struct ka_gate *gate) {
    gate->open = 0;
    atomic_store_explicit(&gate->holder, 0, memory_order_release);
}

#endif
