/* fake_test.h - test cases over the fake kernel. */
#ifndef KA_FAKE_TEST_H
#define KA_FAKE_TEST_H

#include "fake_kernel.h"
#include "test.h"

static inline void fake_verify(void) {
    if (fake.forbidden)
        test_check(0, __FILE__, __LINE__, fake.forbidden);
}

static inline void fake_begin(void) {
    test.before = fake_reset;
    test.after = fake_verify;
}

static inline int32_t fake_held(int option) {
    return fake.socket[0].option[option].value;
}

static inline void fake_hold(int option, int32_t value) {
    fake.socket[0].option[option].value = value;
}

static inline int fake_count(enum fake_op op) {
    int i, n = 0;

    for (i = 0; i < fake.calls; i++)
        n += fake.call[i].op == op;
    return n;
}

static inline struct ka_policy fake_policy(void) {
    struct ka_policy held;
    int option;

    for (option = 0; option < KA_OPTIONS; option++)
        held.value[option] = fake.socket[0].option[option].absent
                                 ? KA_LEAVE
                                 : fake_held(option);
    return held;
}

static inline int same_policy(const struct ka_policy *a,
                              const struct ka_policy *b) {
    return memcmp(a->value, b->value, sizeof a->value) == 0;
}

#endif
