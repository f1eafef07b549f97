/* sockopt.h - what each operating system's file must provide.
 *
 * One file per OS, the same functions in each: ka_supported, ka_option_name,
 * ka_option_range, ka_get, ka_set, ka_kind, ka_identify, ka_info, ka_pending
 * (declared in stillalive.h) and those below. What an OS cannot do is
 * -ENOPROTOOPT, never a guess. core/policy.c and core/liveness.c build on
 * these and hold everything that is the same everywhere.
 */
#ifndef KA_SOCKOPT_H
#define KA_SOCKOPT_H

#include "stillalive.h"

/* The order in which a policy must be set for it to take effect at once. */
extern const int ka_set_order[KA_OPTIONS];

/* Set what is not KA_LEAVE; of each option that is set, its bit in *changed.
 * Stops at the first that fails, and names it. ka_set_in_order does it with
 * ka_set, one option after the other, for systems that set them so. */
int ka_os_set(ka_sock sock, const struct ka_policy *policy, unsigned *changed,
              struct ka_fault *fault);
int ka_set_in_order(ka_sock sock, const struct ka_policy *policy,
                    unsigned *changed, struct ka_fault *fault);

/* Give an option back. A default from sysctl may lie beyond what setsockopt
 * takes: the nearest value is set then. KA_UNREADABLE: the system's default.
 */
int ka_os_put_back(ka_sock sock, int option, int32_t value);

/* 1 when ka_os_ask works here: a question can be put, and all it changes
 * given back. */
extern const int ka_os_asks;

/* Make the kernel send one question to the peer's kernel as soon as it can.
 * `guard` other than KA_UNGUARDED: first set what keeps the probe from
 * killing. The caller has saved all options. Returns the ms until the question
 * leaves, 0 when it has left. */
int ka_os_ask(ka_sock sock, const struct ka_policy *saved, int guard,
              struct ka_fault *fault);

/* Put back what ka_os_ask changed, in an order that arms no timer it need
 * not arm. */
int ka_os_unask(ka_sock sock, const struct ka_policy *saved,
                struct ka_fault *fault);

#endif
