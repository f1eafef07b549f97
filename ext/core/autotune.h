/* autotune.h - rules for sockets that somebody else makes: what is tuned when
 * it is bound or connected, and what is left alone.
 *
 * Nothing here knows how the event was learned, and nothing waits. What can
 * go wrong, and how it is kept from happening, stands in autotune.c.
 *
 * Threads: ka_rule_add and ka_rule_end are called by one thread at a time;
 * everything else by any, also while a rule comes or goes.
 */
#ifndef KA_AUTOTUNE_H
#define KA_AUTOTUNE_H

#include <stdint.h>

#include "stillalive.h"

/* Of so many sockets bound lately it is known what they were before. */
#define KA_BOUND 64

enum ka_moment { KA_AT_BIND = 0, KA_AT_CONNECT = 1 };

enum ka_autotuned {
    KA_LEFT = 0,   /* none of ours, or as it should be */
    KA_TUNED = 1,  /* the newest rule that applies is in force */
    KA_UNLIKE = 2, /* not as fresh sockets are, as far as is known here: tell
                    * what they are by ka_autotune_fresh, and ask once more */
};

struct ka_rule; /* lives as long as the process: somebody may be reading it */

/* In force at once. NULL: no memory. */
struct ka_rule *ka_rule_add(const struct ka_policy *policy, int listeners,
                            int outgoing);
/* Out of force; it may be told twice. */
void ka_rule_end(struct ka_rule *rule);
uint64_t ka_rule_tuned(const struct ka_rule *rule);
uint64_t ka_rule_given_back(const struct ka_rule *rule);

/* Whether a socket that is bound or connected now is worth a look. */
int ka_autotune_concerns(int moment);
void ka_autotune_fresh(const struct ka_policy *fresh);
/* What becomes of a socket: enum ka_autotuned, or -errno with the socket as it
 * was. */
int ka_autotune(ka_sock sock, int moment);

#endif
