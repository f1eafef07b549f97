/* registry.h - what loop.c and registry.c need of each other.
 *
 * Entries lie in pages beside those of the table and never move. Descriptors
 * are found by a hash, for on some systems they are no small numbers.
 *
 * Threads: the loop's owner, but for ka_wake_poller.
 */
#ifndef KA_REGISTRY_H
#define KA_REGISTRY_H

#include <stdint.h>

#include "loop.h"

/* ---- registry.c --------------------------------------------------------- */

/* The slot must be one that has been in use. */
static inline struct ka_entry *ka_entry_at(const struct ka_loop *loop,
                                           uint32_t slot) {
    return &loop->page[slot / KA_PAGE][slot % KA_PAGE];
}

void ka_registry_free(struct ka_loop *loop);

/* Deadlines have come nearer than the loop knows. */
static inline void ka_moved(struct ka_loop *loop) {
    atomic_store_explicit(&loop->moved, 1, memory_order_release);
}

/* ---- loop.c ------------------------------------------------------------- */

/* 0: the poller is this process's, now if not before. Or -errno. */
int ka_at_home(struct ka_loop *loop);

/* The time as it will be when the next round has taken out its excess. */
ka_tick ka_owner_now(struct ka_loop *loop);

/* End a sleep. Any thread, and signal handlers. */
int ka_wake_poller(struct ka_loop *loop);

#endif
