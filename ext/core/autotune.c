/* autotune.c - tune a socket that somebody else has just made, or let it be.
 *
 * The owner does not know that this happens, so four things must never be:
 *
 * Overriding him. A socket is ours to tune only while it is exactly as the
 * system hands out fresh ones: keepalive off, no user timeout, and the times
 * those that any new socket shows. These come from sysctl and may change
 * while we run; a socket that differs from what we know is therefore compared
 * once more, with a fresh socket of this moment, before it is taken for
 * tuned. Whatever cannot be read is left alone.
 *
 * Harming a connection. Only sockets without one are touched. A user timeout
 * given to a connection that has long been idle could end it by one lost
 * probe (see pending in the manual of tune).
 *
 * Tuning what was not asked for. A bind may be followed by listen or by
 * connect. Who is to be tuned as a listener and then connects gets his values
 * back, if they are still exactly the ones that were set here: never by
 * comparison with a rule alone, because the owner may have chosen the same
 * values, but only for a socket that is remembered by its cookie, which no
 * other socket ever bears. Of KA_BOUND sockets this is remembered, which is
 * enough, because connect follows bind at once or not at all. Where sockets
 * have no cookie (all systems but Linux) the descriptor and, on macOS, its
 * inode stand for it: they come again when a socket is closed, so there it
 * must also hold the very values that were set. Options that cannot be read
 * cannot be compared; what is on them is thought to be ours.
 *
 * A half-way state. What fails puts back everything it may have changed.
 *
 * Threads. Events come from all threads, of several interpreters even, and no
 * lock may be taken: a forked child would inherit it locked. Rules do not
 * change once they are linked in, and their memory is never freed, so that a
 * reader may stand on one that has just been taken out. An entry of `bound`
 * is written with its cookie at 0 and published by the cookie; a reader whose
 * entry was overwritten meanwhile sees another cookie afterwards.
 */
#include "autotune.h"

#include <stdlib.h>

#include "atomics.h"
#include "reserve.h"
#include "sockopt.h"

struct ka_rule {
    struct ka_policy policy;
    int32_t applies[2]; /* by enum ka_moment */
    KA_ATOMIC(uint64_t) tuned, given_back;
    KA_ATOMIC(struct ka_rule *) older;
};

struct bound {
    KA_ATOMIC(uint64_t) cookie; /* 0: nobody */
    KA_ATOMIC(struct ka_rule *) rule;
    KA_ATOMIC(int32_t) before[KA_OPTIONS], after[KA_OPTIONS];
};

static KA_ATOMIC(struct ka_rule *) newest;
static struct bound bound[KA_BOUND];
static KA_ATOMIC(uint32_t) bound_so_far;
static KA_ATOMIC(int32_t) fresh[KA_OPTIONS];
static KA_ATOMIC(int) fresh_known;

/* ---- rules ---------------------------------------------------------------
 */

struct ka_rule *ka_rule_add(const struct ka_policy *policy, int listeners,
                            int outgoing) {
    struct ka_rule *rule = calloc(1, sizeof *rule);

    if (!rule)
        return NULL;
    rule->policy = *policy;
    rule->applies[KA_AT_BIND] = listeners;
    rule->applies[KA_AT_CONNECT] = outgoing;
    atomic_store(&rule->older, atomic_load(&newest));
    atomic_store(&newest, rule);
    return rule;
}

void ka_rule_end(struct ka_rule *rule) {
    KA_ATOMIC(struct ka_rule *) *link = &newest;
    struct ka_rule *found;

    while ((found = atomic_load(link)) != NULL) {
        if (found == rule) {
            atomic_store(link, atomic_load(&rule->older));
            return;
        }
        link = &found->older;
    }
}

uint64_t ka_rule_tuned(const struct ka_rule *rule) {
    return atomic_load_explicit(&rule->tuned, memory_order_relaxed);
}

uint64_t ka_rule_given_back(const struct ka_rule *rule) {
    return atomic_load_explicit(&rule->given_back, memory_order_relaxed);
}

static struct ka_rule *rule_for(int moment) {
    struct ka_rule *rule = atomic_load(&newest);

    while (rule && !rule->applies[moment])
        rule = atomic_load(&rule->older);
    return rule;
}

int ka_autotune_concerns(int moment) {
    if (!atomic_load_explicit(&newest, memory_order_relaxed))
        return 0;
    return rule_for(moment) != NULL ||
           (moment == KA_AT_CONNECT && atomic_load(&bound_so_far) > 0);
}

/* ---- by what a socket is found again -------------------------------------
 */

static int name_of(ka_sock sock, uint64_t *name) {
#if KA_NAMED_BY_ENDS
    return ka_name_while_open(sock, name);
#else
    return ka_identify(sock, name);
#endif
}

/* ---- who was bound lately ------------------------------------------------
 */

static void remember(uint64_t cookie, struct ka_rule *rule,
                     const struct ka_policy *before,
                     const struct ka_policy *after) {
    struct bound *entry =
        &bound[atomic_fetch_add(&bound_so_far, 1) % KA_BOUND];
    int i;

    atomic_store(&entry->cookie, 0);
    atomic_store(&entry->rule, rule);
    for (i = 0; i < KA_OPTIONS; i++) {
        atomic_store(&entry->before[i], before->value[i]);
        atomic_store(&entry->after[i], after->value[i]);
    }
    atomic_store(&entry->cookie, cookie);
}

/* Forgets it, too: whoever gets 1 is the only one. */
static int recall(uint64_t cookie, struct ka_rule **rule,
                  struct ka_policy *before, struct ka_policy *after) {
    uint64_t seen;
    int i, option;

    for (i = 0; i < KA_BOUND; i++) {
        if (atomic_load(&bound[i].cookie) != cookie)
            continue;
        *rule = atomic_load(&bound[i].rule);
        for (option = 0; option < KA_OPTIONS; option++) {
            before->value[option] = atomic_load(&bound[i].before[option]);
            after->value[option] = atomic_load(&bound[i].after[option]);
        }
        seen = cookie;
        return atomic_compare_exchange_strong(&bound[i].cookie, &seen, 0);
    }
    return 0;
}

static void put_back(ka_sock sock, const struct ka_policy *before,
                     const struct ka_policy *after) {
    int option;

    for (option = 0; option < KA_OPTIONS; option++)
        if (before->value[option] != after->value[option])
            (void)ka_os_put_back(sock, option, before->value[option]);
}

static int is_as_set(const struct ka_policy *held,
                     const struct ka_policy *set) {
    int i;

    for (i = 0; i < KA_OPTIONS; i++)
        if (held->value[i] != set->value[i] && held->value[i] != KA_UNREADABLE)
            return 0;
    return 1;
}

/* Returns 1 when it was bound under the very rule that now applies. */
static int undo_bind(ka_sock sock, const struct ka_rule *now) {
    struct ka_policy before, after, held;
    struct ka_rule *rule;
    struct ka_fault fault;
    uint64_t cookie;

    if (atomic_load(&bound_so_far) == 0 || name_of(sock, &cookie) < 0 ||
        !recall(cookie, &rule, &before, &after))
        return 0;
    if (rule == now && !KA_NAMED_BY_ENDS)
        return 1;
    if (ka_read(sock, &held, &fault) < 0 || !is_as_set(&held, &after))
        return 0;
    if (rule == now)
        return 1;
    put_back(sock, &before, &after);
    atomic_fetch_add_explicit(&rule->given_back, 1, memory_order_relaxed);
    return 0;
}

/* ---- tuning --------------------------------------------------------------
 */

void ka_autotune_fresh(const struct ka_policy *now) {
    int i;

    for (i = 0; i < KA_OPTIONS; i++)
        atomic_store(&fresh[i], now->value[i]);
    atomic_store(&fresh_known, 1);
}

static int is_fresh(const struct ka_policy *held) {
    int i, same = atomic_load(&fresh_known);

    for (i = 0; i < KA_OPTIONS; i++) {
        int32_t usual = atomic_load(&fresh[i]);

        if (held->value[i] != KA_LEAVE && usual != KA_LEAVE)
            same = same && held->value[i] == usual;
    }
    return same;
}

/* What the kernel has made of it: some count in whole seconds. */
static void read_back(ka_sock sock, struct ka_policy *after) {
    struct ka_policy held;
    struct ka_fault fault;
    int i;

    if (!KA_NAMED_BY_ENDS || ka_read(sock, &held, &fault) < 0)
        return;
    for (i = 0; i < KA_OPTIONS; i++)
        if (held.value[i] != KA_UNREADABLE)
            after->value[i] = held.value[i];
}

static int tune(ka_sock sock, struct ka_rule *rule, int moment) {
    struct ka_policy held, wanted = rule->policy, after;
    struct ka_fault fault;
    struct ka_info info;
    uint64_t cookie;
    int32_t idle;
    int i, rc;

    /* By the first answer everything but TCP is told apart. */
    if (ka_get(sock, KA_IDLE, &idle) < 0 || ka_read(sock, &held, &fault) < 0)
        return KA_LEFT;
    if (held.value[KA_ENABLED] != 0 || held.value[KA_USER_TIMEOUT] > 0)
        return KA_LEFT;
    if (ka_info(sock, &info) == 0 && info.state != KA_TCP_CLOSE)
        return KA_LEFT;
    if (!is_fresh(&held))
        return KA_UNLIKE;
    after = held;
    for (i = 0; i < KA_OPTIONS; i++) {
        if (held.value[i] == KA_LEAVE) /* MPTCP has no user timeout */
            wanted.value[i] = KA_LEAVE;
        if (wanted.value[i] != KA_LEAVE)
            after.value[i] = wanted.value[i];
    }
    rc = ka_apply_fresh(sock, &wanted, &fault);
    if (rc < 0) {
        put_back(sock, &held, &after);
        return rc;
    }
    if (moment == KA_AT_BIND && name_of(sock, &cookie) == 0) {
        read_back(sock, &after);
        remember(cookie, rule, &held, &after);
    }
    atomic_fetch_add_explicit(&rule->tuned, 1, memory_order_relaxed);
    return KA_TUNED;
}

int ka_autotune(ka_sock sock, int moment) {
    struct ka_rule *rule = rule_for(moment);

    if (moment == KA_AT_CONNECT && undo_bind(sock, rule))
        return KA_LEFT;
    return rule ? tune(sock, rule, moment) : KA_LEFT;
}
