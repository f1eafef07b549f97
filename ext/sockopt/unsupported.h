/* unsupported.h - the functions of sockopt.h for a system that has none of
 * them yet. Included by exactly one file of a build; a system's own file
 * replaces this include by real functions.
 */
#ifndef KA_UNSUPPORTED_H
#define KA_UNSUPPORTED_H

#include <errno.h>

const int ka_set_order[KA_OPTIONS] = {KA_ENABLED, KA_IDLE,         KA_INTERVAL,
                                      KA_COUNT,   KA_USER_TIMEOUT, KA_RTO_MAX};

const int ka_os_asks = 0;

unsigned ka_supported(void) {
    return 0;
}

const char *ka_option_name(int option) {
    static const char *const name[KA_OPTIONS] = {
        "SO_KEEPALIVE", "TCP_KEEPIDLE",     "TCP_KEEPINTVL",
        "TCP_KEEPCNT",  "TCP_USER_TIMEOUT", "TCP_RTO_MAX_MS"};

    return option >= 0 && option < KA_OPTIONS ? name[option] : "?";
}

int ka_option_range(int option, struct ka_range *range) {
    (void)option;
    range->low = range->high = 0;
    return -ENOPROTOOPT;
}

int ka_get(ka_sock sock, int option, int32_t *value) {
    (void)sock;
    (void)option;
    *value = KA_LEAVE;
    return -ENOPROTOOPT;
}

int ka_set(ka_sock sock, int option, int32_t value) {
    (void)sock;
    (void)option;
    (void)value;
    return -ENOPROTOOPT;
}

int ka_kind(ka_sock sock, struct ka_kind *kind) {
    (void)sock;
    kind->family = kind->type = kind->protocol = kind->listening = 0;
    return -ENOPROTOOPT;
}

int ka_identify(ka_sock sock, uint64_t *identity) {
    (void)sock;
    *identity = 0;
    return -ENOPROTOOPT;
}

int ka_info(ka_sock sock, struct ka_info *info) {
    (void)sock;
    info->state = -1;
    return -ENOPROTOOPT;
}

int ka_pending(ka_sock sock, struct ka_pending *pending) {
    (void)sock;
    pending->error = pending->hangup = 0;
    pending->rdhup = pending->fin = pending->code = 0;
    pending->unread = 0;
    return -ENOPROTOOPT;
}

int ka_os_set(ka_sock sock, const struct ka_policy *policy, unsigned *changed,
              struct ka_fault *fault) {
    return ka_set_in_order(sock, policy, changed, fault);
}

int ka_os_put_back(ka_sock sock, int option, int32_t value) {
    return ka_set(sock, option, value);
}

int ka_os_ask(ka_sock sock, const struct ka_policy *saved, int guard,
              struct ka_fault *fault) {
    (void)sock;
    (void)saved;
    (void)guard;
    fault->option = KA_ENABLED;
    fault->setting = 1;
    return -ENOPROTOOPT;
}

int ka_os_unask(ka_sock sock, const struct ka_policy *saved,
                struct ka_fault *fault) {
    (void)sock;
    (void)saved;
    fault->option = KA_ENABLED;
    fault->setting = 1;
    return -ENOPROTOOPT;
}

#endif
