/* The clock: what is shown, what is left out, and that no limit is early. */
#include "test.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <time.h>

#include "clock.h"

static struct ka_clock ticking;

static int64_t monotonic_ms(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* First of all, so that the threads choose the clock together. */
static void *read_it(void *out) {
    *(uint32_t *)out = ka_os_tick();
    return NULL;
}

static void threads_choose_one_clock(void) {
    pthread_t thread[4];
    uint32_t tick[4];
    uint32_t later;
    int i;

    for (i = 0; i < 4; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, read_it, &tick[i]), 0);
    for (i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    later = ka_os_tick();
    for (i = 0; i < 4; i++)
        CHECK(later - tick[i] < 500);
}

static void a_frozen_clock_moves_when_told(void) {
    ka_clock_init(&ticking);
    ka_clock_freeze(&ticking, 4711);
    CHECK_EQ(ka_clock_now(&ticking), 4711);
    ka_clock_advance(&ticking, 0);
    CHECK_EQ(ka_clock_now(&ticking), 4711);
    ka_clock_advance(&ticking, 289);
    CHECK_EQ(ka_clock_now(&ticking), 5000);
    usleep(25000);
    CHECK_EQ(ka_clock_now(&ticking), 5000);
    ka_clock_skip(&ticking, 100);
    CHECK_EQ(ka_clock_now(&ticking), 4900);
    ka_clock_advance(&ticking, 1);
    CHECK_EQ(ka_clock_now(&ticking), 4901);
    ka_clock_freeze(&ticking, 1);
    CHECK_EQ(ka_clock_now(&ticking), 1);
}

static void a_frozen_clock_wraps(void) {
    ka_tick before, after;

    ka_clock_init(&ticking);
    ka_clock_freeze(&ticking, UINT32_MAX - 3);
    before = ka_clock_now(&ticking);
    ka_clock_advance(&ticking, 10);
    after = ka_clock_now(&ticking);
    CHECK_EQ(after, 6);
    CHECK_EQ(ka_tick_since(after, before), 10);
    CHECK_EQ(ka_tick_since(before, after), -10);
    CHECK_EQ(ka_tick_since(5, 5), 0);
    CHECK_EQ(ka_tick_since(0x80000000u, 1), INT32_MAX);
}

static void skipped_time_does_not_count(void) {
    ka_tick before, after;

    ka_clock_init(&ticking);
    before = ka_clock_now(&ticking);
    ka_clock_skip(&ticking, 1000);
    ka_clock_skip(&ticking, 500);
    after = ka_clock_now(&ticking);
    CHECK(ka_tick_since(after, before) >= -1500);
    CHECK(ka_tick_since(after, before) < -1000);
    /* ... nor does it shift what a freeze shows. */
    ka_clock_freeze(&ticking, 77);
    CHECK_EQ(ka_clock_now(&ticking), 77);
}

static void a_clock_starts_with_the_systems_time(void) {
    ka_tick before, now;

    ka_clock_init(&ticking);
    before = ka_os_tick();
    now = ka_clock_now(&ticking);
    CHECK(ka_tick_since(now, before) >= 0);
    CHECK(ka_tick_since(ka_os_tick(), now) >= 0);
}

/* A touch in the middle of a tick, read by a clock that lags; the sweep's
 * clock does not lag. Due is limit + 1 ticks after the touch's tick. */
static int early(int64_t ms, int64_t lag) {
    int64_t limit = ka_clock_ticks(ms);
    int64_t touched, shown, due;

    for (touched = 1000; touched < 1010; touched++)
        for (shown = touched - lag; shown <= touched; shown++) {
            due = (shown / KA_TICK_MS + limit + 1) * KA_TICK_MS;
            if (due - touched < ms)
                return 1;
        }
    return 0;
}

static void limits_are_never_early_and_not_late(void) {
    int64_t lag = ka_os_clock_lag_ms();
    int64_t ms, ticks;

    for (ms = 1; ms <= 5000; ms++) {
        ticks = ka_clock_ticks(ms);
        if (!CHECK(!early(ms, lag)) ||
            !CHECK(ticks * KA_TICK_MS >= ms + lag) ||
            !CHECK((ticks - 1) * KA_TICK_MS < ms + lag)) {
            printf("%lld ms are %lld ticks\n", (long long)ms,
                   (long long)ticks);
            break;
        }
    }
}

static void limits_have_bounds(void) {
    int64_t most = (int64_t)KA_MOST_TICKS * KA_TICK_MS;

    CHECK_EQ(ka_clock_ticks(0), 1);
    CHECK_EQ(ka_clock_ticks(-1), 1);
    CHECK_EQ(ka_clock_ticks(INT64_MIN), 1);
    CHECK_EQ(ka_clock_ticks(INT64_MAX), -ERANGE);
    CHECK_EQ(ka_clock_ticks(most), -ERANGE);
    CHECK_EQ(ka_clock_ticks(most - KA_TICK_MS + 1), -ERANGE);
    CHECK_EQ(ka_clock_ticks(most - 5 * KA_TICK_MS),
             KA_MOST_TICKS - 5 +
                 (ka_os_clock_lag_ms() + KA_TICK_MS - 1) / KA_TICK_MS);
    CHECK(ka_clock_ticks((int64_t)KA_MOST_SECONDS * 1000) > 0);
}

static void ticks_and_milliseconds_agree(void) {
    int64_t began = ka_os_now_ms();
    int64_t before = began;
    int64_t after;
    uint32_t tick, last = ka_os_tick();
    int bad = 0;

    do {
        tick = ka_os_tick();
        after = ka_os_now_ms();
        /* Between the two readings, and monotone. */
        bad += tick - (uint32_t)(before / 10) >
               (uint32_t)(after / 10) - (uint32_t)(before / 10);
        bad += after < before;
        bad += (int32_t)(tick - last) < 0;
        last = tick;
        before = after;
    } while (after - began < 60);
    CHECK_EQ(bad, 0);
}

static void the_clock_lags_no_more_than_it_says(void) {
    int64_t lag = ka_os_clock_lag_ms();
    int64_t until = monotonic_ms() + 60;
    int64_t before, shown, after;
    int looked = 0, ahead = 0, behind = 0;

    CHECK(lag >= 0);
    CHECK(lag <= 20);
    do {
        before = monotonic_ms();
        shown = ka_os_now_ms();
        after = monotonic_ms();
        ahead += shown > after;
        behind += shown + lag + 1 < before;
        looked++;
    } while (after < until);
    CHECK_EQ(ahead, 0);
    CHECK(behind <= looked / 10); /* the machine may be halted a while */
}

#ifndef _WIN32

static int in_child(int (*body)(unsigned), unsigned before) {
    int status = -1;
    pid_t child = fork();

    if (child == 0)
        _exit(body(before));
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int is_a_child(unsigned before) {
    return ka_os_fork_generation() == before + 1;
}

static int has_a_child(unsigned before) {
    return is_a_child(before) && in_child(is_a_child, before + 1) == 1 &&
           ka_os_fork_generation() == before + 1;
}

static void forks_are_counted_in_the_child(void) {
    unsigned before = ka_os_fork_generation();

    CHECK_EQ(ka_os_fork_generation(), before);
    CHECK_EQ(in_child(is_a_child, before), 1);
    CHECK_EQ(in_child(has_a_child, before), 1);
    CHECK_EQ(ka_os_fork_generation(), before);
}

#endif

int main(void) {
    RUN(threads_choose_one_clock);
    RUN(a_frozen_clock_moves_when_told);
    RUN(a_frozen_clock_wraps);
    RUN(skipped_time_does_not_count);
    RUN(a_clock_starts_with_the_systems_time);
    RUN(limits_are_never_early_and_not_late);
    RUN(limits_have_bounds);
    RUN(ticks_and_milliseconds_agree);
    RUN(the_clock_lags_no_more_than_it_says);
#ifndef _WIN32
    RUN(forks_are_counted_in_the_child);
#endif
    return test_report("clock");
}
