/* windows_fixture.h - ext/sockopt/windows.c over fake_winsock.c. The file is
 * included whole, so that a case can choose another Windows: what there is, is
 * asked once in the life of a process. */
#ifndef KA_WINDOWS_FIXTURE_H
#define KA_WINDOWS_FIXTURE_H

#include "windows.c"

#include "fake_winsock.h"
#include "test.h"

static struct ka_fault fault;
static struct ka_policy out;

static inline void forget(void) {
    atomic_store(&ka_found, 0);
    fault.option = fault.setting = -1;
}

static inline void on_newest(void) { /* Windows 10 1809 and later */
    fake_reset();
    fake.times = fake.count = fake.rt_ms = fake.rt_s = fake.vals = 1;
    fake.info_version = 1;
    fake.own_rt = fake.rt = 21000;
    forget();
}

static inline void on_1703(void) {
    fake_reset();
    fake.count = fake.rt_ms = fake.rt_s = fake.vals = 1;
    fake.info_version = 0;
    fake.own_rt = fake.rt = 21000;
    forget();
}

static inline void on_old(void) { /* Vista to Windows 10 1511 */
    fake_reset();
    fake.rt_s = fake.vals = 1;
    fake.own_rt = fake.rt = 21;
    forget();
}

static inline struct ka_policy policy_of(int32_t on, int32_t idle,
                                         int32_t interval, int32_t count,
                                         int32_t user_timeout) {
    struct ka_policy policy = {
        {on, idle, interval, count, user_timeout, KA_LEAVE}};

    return policy;
}

static inline int apply(int32_t on, int32_t idle, int32_t interval,
                        int32_t count, int32_t user_timeout) {
    struct ka_policy policy =
        policy_of(on, idle, interval, count, user_timeout);

    return ka_apply(FAKE_SOCK, &policy, &out, &fault);
}

/* The nth call that changed the socket. */
static inline void check_set(int nth, int number, long value, long other,
                             int line) {
    const struct fake_set *set = &fake.set[nth];
    char text[120];

    snprintf(text, sizeof text, "line %d: call %d set %d to %ld %ld", line,
             nth, set->number, set->value, set->other);
    test_check(nth < fake.sets && set->number == number &&
                   set->value == value && set->other == other,
               __FILE__, __LINE__, text);
}
#define CHECK_SET(nth, number, value) \
    check_set(nth, number, value, 0, __LINE__)
#define CHECK_VALS(nth, idle_ms, interval_ms) \
    check_set(nth, FAKE_VALS, idle_ms, interval_ms, __LINE__)

static inline int untouched(void) {
    return fake.sets == 0;
}

static inline void check_out(int32_t on, int32_t idle, int32_t interval,
                             int32_t count, int32_t user_timeout) {
    struct ka_policy want = policy_of(on, idle, interval, count, user_timeout);
    int option;

    for (option = 0; option < KA_OPTIONS; option++)
        CHECK_EQ(out.value[option], want.value[option]);
}

#endif
