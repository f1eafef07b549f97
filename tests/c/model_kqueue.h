/* model_kqueue.h - a kqueue made of poll(2), that writes down what it is asked
 * and refuses what the test says.
 *
 * It keeps to what the BSDs do where kqueue.c depends on it: a receipt for
 * each change and no event beside receipts, changes that an interrupted call
 * has made, descriptors that vanish with close and dup2 (linked with
 * -Wl,--wrap), sets that a child does not inherit, reading and writing
 * reported apart, a wake reported once, and fairness when not all fits.
 * It says nothing of a BSD's kernel: what is wrong in both is not seen.
 */
#ifndef KA_MODEL_KQUEUE_H
#define KA_MODEL_KQUEUE_H

#include <sys/event.h>

struct model_change {
    int fd;
    int filter;
    int flags;
};

extern struct model {
    int calls; /* with changes */
    int changes;
    struct model_change change[64];
    int refuse[2];  /* errno for an added filter: reading, writing */
    int interrupts; /* so many calls do their changes, then EINTR */
    int first_only; /* the next wait after this one fails with EINTR */
    int injected;   /* events that the next wait returns */
    const struct kevent *inject;
} model;

void model_reset(void);
int model_filters(int set, int fd); /* bits: 1 reading, 2 writing */

#endif
