/* policy.c - set a whole policy, or none of it.
 *
 * The danger is the half-way state: keepalive on with somebody's interval
 * and nobody's timeout kills or spares at random. So everything is read
 * before anything is set, an option that the socket does not have is found
 * while the socket is still untouched, and a setter that fails all the same
 * puts back those before it, last first.
 */
#include "sockopt.h"

#include <errno.h>

#define KA_PROTOCOL_TCP 6 /* IPPROTO_TCP, on every system */

static int at_fault(int rc, int option, int setting, struct ka_fault *fault) {
    fault->option = option;
    fault->setting = setting;
    return rc;
}

/* Only TCP sockets have an idle time, but not all of them the rest (MPTCP has
 * no user timeout). Where the system has none at all, it must be asked. */
static int may_lack(ka_sock sock, int option) {
    struct ka_range range;
    struct ka_kind kind;

    if (option != KA_IDLE)
        return 1;
    return ka_option_range(KA_IDLE, &range) < 0 && ka_kind(sock, &kind) == 0 &&
           kind.protocol == KA_PROTOCOL_TCP;
}

int ka_read(ka_sock sock, struct ka_policy *out, struct ka_fault *fault) {
    int option, rc;

    for (option = 0; option < KA_OPTIONS; option++) {
        rc = ka_get(sock, option, &out->value[option]);
        if (rc == 0)
            continue;
        if ((rc == -ENOPROTOOPT || rc == -EOPNOTSUPP) &&
            may_lack(sock, option)) {
            out->value[option] = KA_LEAVE;
            continue;
        }
        return at_fault(rc, option, 0, fault);
    }
    return 0;
}

int ka_set_in_order(ka_sock sock, const struct ka_policy *policy,
                    unsigned *changed, struct ka_fault *fault) {
    int i, rc;

    for (i = 0; i < KA_OPTIONS; i++) {
        int option = ka_set_order[i];

        if (policy->value[option] == KA_LEAVE)
            continue;
        rc = ka_set(sock, option, policy->value[option]);
        if (rc < 0)
            return at_fault(rc, option, 1, fault);
        *changed |= 1u << option;
    }
    return 0;
}

static void put_back(ka_sock sock, const struct ka_policy *before,
                     unsigned changed) {
    int i;

    for (i = KA_OPTIONS - 1; i >= 0; i--)
        if (changed >> ka_set_order[i] & 1)
            (void)ka_os_put_back(sock, ka_set_order[i],
                                 before->value[ka_set_order[i]]);
}

/* What was set where nothing can be read. */
static void fold_in(const struct ka_policy *policy, struct ka_policy *out) {
    int option;

    for (option = 0; option < KA_OPTIONS; option++)
        if (out->value[option] == KA_UNREADABLE &&
            policy->value[option] != KA_LEAVE)
            out->value[option] = policy->value[option];
}

int ka_apply(ka_sock sock, const struct ka_policy *policy,
             struct ka_policy *out, struct ka_fault *fault) {
    struct ka_policy before;
    unsigned changed = 0;
    int i, rc = ka_read(sock, &before, fault);

    if (rc < 0)
        return rc;
    for (i = 0; i < KA_OPTIONS; i++)
        if (policy->value[i] != KA_LEAVE && before.value[i] == KA_LEAVE)
            return at_fault(-ENOPROTOOPT, i, 0, fault);
    rc = ka_os_set(sock, policy, &changed, fault);
    if (rc == 0)
        rc = ka_read(sock, out, fault);
    if (rc < 0)
        put_back(sock, &before, changed);
    else
        fold_in(policy, out);
    return rc;
}

int ka_apply_fresh(ka_sock sock, const struct ka_policy *policy,
                   struct ka_fault *fault) {
    unsigned changed = 0;

    return ka_os_set(sock, policy, &changed, fault);
}
