/* test_autotune_masked.c - who was bound is found again without a cookie. */
#include "loop.h"
#include "mask.h"
#include "test.h"

#include "autotune.h"

static struct sockaddr_in place;
static int listener;

static struct ka_policy policy_of(int32_t idle) {
    struct ka_policy policy = {{1, idle, 10, 4, KA_LEAVE, KA_LEAVE}};

    return policy;
}

static int bound_socket(void) {
    struct sockaddr_in name;
    int sock = socket(AF_INET, SOCK_STREAM, 0);

    memset(&name, 0, sizeof name);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_EQ(ka_autotune(sock, KA_AT_BIND), KA_TUNED); /* told before it is */
    loop_need(bind(sock, (struct sockaddr *)&name, sizeof name) == 0, "bind");
    return sock;
}

static int32_t value_of(int sock, int option) {
    int32_t value = -1;

    CHECK_EQ(ka_get(sock, option, &value), 0);
    return value;
}

static void begin(void) {
    struct ka_policy fresh;
    struct ka_fault fault;
    int sock = socket(AF_INET, SOCK_STREAM, 0);

    CHECK_EQ(ka_read(sock, &fresh, &fault), 0);
    ka_autotune_fresh(&fresh);
    close(sock);
    listener = loop_listen(&place);
}

static void end(void) {
    close(listener);
}

static void who_connects_gets_his_values_back(void) {
    struct ka_policy policy = policy_of(77);
    struct ka_rule *rule = ka_rule_add(&policy, 1, 0);
    int sock = bound_socket();

    CHECK_EQ(value_of(sock, KA_IDLE), 77);
    CHECK_EQ(ka_autotune(sock, KA_AT_CONNECT), KA_LEFT);
    CHECK_EQ(value_of(sock, KA_ENABLED), 0);
    CHECK_EQ(value_of(sock, KA_IDLE), 7200);
    CHECK_EQ(ka_rule_given_back(rule), 1);
    ka_rule_end(rule);
    close(sock);
}

static void what_its_owner_set_stays(void) {
    struct ka_policy policy = policy_of(77);
    struct ka_rule *rule = ka_rule_add(&policy, 1, 0);
    int sock = bound_socket();

    CHECK_EQ(ka_set(sock, KA_IDLE, 78), 0);
    CHECK_EQ(ka_autotune(sock, KA_AT_CONNECT), KA_LEFT);
    CHECK_EQ(value_of(sock, KA_ENABLED), 1);
    CHECK_EQ(value_of(sock, KA_IDLE), 78);
    ka_rule_end(rule);
    close(sock);
}

/* Its number was another's, who was bound and is no more. */
static void a_new_one_of_the_same_number_is_tuned(void) {
    struct ka_policy policy = policy_of(77);
    struct ka_rule *rule = ka_rule_add(&policy, 1, 1);
    int sock = bound_socket(), number = sock;

    close(sock);
    sock = socket(AF_INET, SOCK_STREAM, 0);
    loop_need(sock == number, "the same number");
    CHECK_EQ(ka_autotune(sock, KA_AT_CONNECT), KA_TUNED);
    CHECK_EQ(value_of(sock, KA_IDLE), 77);
    ka_rule_end(rule);
    close(sock);
}

int main(void) {
    test.before = begin;
    test.after = end;
    for (mask = MAC; mask <= OPENBSD; mask++) {
        RUN_FORKED(who_connects_gets_his_values_back);
        RUN_FORKED(what_its_owner_set_stays);
        RUN_FORKED(a_new_one_of_the_same_number_is_tuned);
    }
    return test_report("autotune_masked");
}
