/* The ring of occurrences: order, loss, and many threads at both ends. */
#include "test.h"

#include <errno.h>
#include <stdint.h>
#include <time.h>

#include "atomics.h"
#include "ring.h"
#include "monitor.h"

#define PRODUCERS 4
#define CONSUMERS 3
#define EACH 20000

static int put(struct ka_ring *ring, int64_t token) {
    struct ka_occurrence one = {.token = token, .unsent = ~token};

    return ka_ring_put(ring, &one);
}

/* Its token, or what ka_ring_take says instead. */
static int64_t take(struct ka_ring *ring, int64_t timeout_ms) {
    struct ka_occurrence one = {0};
    int rc = ka_ring_take(ring, &one, 1, timeout_ms);

    if (rc == 1 && one.unsent != ~one.token)
        CHECK_EQ(one.unsent, ~one.token);
    return rc == 1 ? one.token : rc;
}

static int64_t now_ms(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static struct ka_thread *start(void (*run)(void *), void *argument) {
    struct ka_thread *thread = NULL;

    if (!CHECK_EQ(ka_thread_start(&thread, run, argument, "ring"), 0))
        exit(99);
    return thread;
}

static void first_come_first_taken(void) {
    struct ka_ring *ring = ka_ring_new(3);
    int64_t token;

    CHECK_EQ(take(ring, 0), 0);
    for (token = 10; token < 30; token++) { /* round and round */
        CHECK_EQ(put(ring, token), 1);
        CHECK_EQ(put(ring, -token), 1);
        CHECK_EQ(take(ring, 0), token);
        CHECK_EQ(take(ring, 1000), -token);
    }
    CHECK_EQ(take(ring, 0), 0);
    CHECK_EQ(ka_ring_dropped(ring), 0);
    ka_ring_free(ring);
    ka_ring_free(NULL);
}

static void a_full_ring_drops_the_newest(void) {
    struct ka_ring *ring = ka_ring_new(2), *nothing = ka_ring_new(0);

    CHECK_EQ(put(ring, 11), 1);
    CHECK_EQ(put(ring, 12), 1);
    CHECK_EQ(put(ring, 13), 0);
    CHECK_EQ(put(ring, 14), 0);
    CHECK_EQ(ka_ring_dropped(ring), 2);
    CHECK_EQ(take(ring, 0), 11);
    CHECK_EQ(put(ring, 15), 1);
    CHECK_EQ(take(ring, 0), 12);
    CHECK_EQ(take(ring, 0), 15);
    CHECK_EQ(ka_ring_dropped(ring), 2);
    ka_ring_free(ring);
    CHECK_EQ(put(nothing, 1), 0);
    CHECK_EQ(take(nothing, 0), 0);
    CHECK_EQ(ka_ring_dropped(nothing), 1);
    ka_ring_free(nothing);
}

static void several_are_taken_at_once(void) {
    struct ka_ring *ring = ka_ring_new(8);
    struct ka_occurrence got[8] = {{0}};
    int i;

    for (i = 1; i <= 5; i++) /* so that the rest goes across the end */
        put(ring, i);
    CHECK_EQ(ka_ring_take(ring, got, 5, 0), 5);
    for (i = 1; i <= 8; i++)
        put(ring, 100 + i);
    CHECK_EQ(ka_ring_take(ring, got, 0, -1), 0);
    CHECK_EQ(ka_ring_take(ring, got, -1, -1), 0);
    CHECK_EQ(ka_ring_take(ring, got, 6, -1), 6);
    for (i = 0; i < 6; i++)
        CHECK_EQ(got[i].token, 101 + i);
    CHECK_EQ(ka_ring_take(ring, got, 6, -1), 2);
    CHECK_EQ(got[1].token, 108);
    ka_ring_free(ring);
}

static void what_was_put_outlives_the_end(void) {
    struct ka_ring *ring = ka_ring_new(4);

    put(ring, 21);
    put(ring, 22);
    ka_ring_close(ring);
    CHECK_EQ(put(ring, 23), 0);
    CHECK_EQ(ka_ring_dropped(ring), 1);
    CHECK_EQ(take(ring, -1), 21);
    CHECK_EQ(take(ring, 0), 22);
    CHECK_EQ(take(ring, -1), -ESHUTDOWN);
    CHECK_EQ(take(ring, 0), -ESHUTDOWN);
    ka_ring_close(ring);
    CHECK_EQ(take(ring, 1000), -ESHUTDOWN);
    ka_ring_free(ring);
}

static void a_wait_is_not_shorter_than_said(void) {
    struct ka_ring *ring = ka_ring_new(4);
    int i;

    for (i = 0; i < 5; i++) { /* at any point of the clock's tick */
        int64_t begun = now_ms();

        CHECK_EQ(take(ring, 21), 0);
        CHECK(now_ms() - begun >= 20); /* both are rounded down */
        CHECK(now_ms() - begun < 5000);
    }
    ka_ring_free(ring);
}

struct sleeper {
    struct ka_ring *ring;
    int64_t timeout_ms, got;
    KA_ATOMIC(int) begun;
};

static void sleep_for_one(void *argument) {
    struct sleeper *sleeper = argument;

    atomic_store(&sleeper->begun, 1);
    sleeper->got = take(sleeper->ring, sleeper->timeout_ms);
}

static void who_waits_is_woken(void) {
    static const int64_t timeouts[] = {-1, 3600000, INT64_MAX};
    size_t i;

    alarm(60);
    for (i = 0; i < 6; i++) {
        struct sleeper sleeper = {.ring = ka_ring_new(4),
                                  .timeout_ms = timeouts[i % 3]};
        struct ka_thread *thread = start(sleep_for_one, &sleeper);
        struct timespec moment = {0, 5000000};

        /* Whether it sleeps already is not to be seen; both are right. */
        while (!atomic_load(&sleeper.begun))
            ;
        nanosleep(&moment, NULL);
        if (i < 3)
            put(sleeper.ring, 31);
        else
            ka_ring_close(sleeper.ring);
        ka_thread_join(thread);
        CHECK_EQ(sleeper.got, i < 3 ? 31 : -ESHUTDOWN);
        ka_ring_free(sleeper.ring);
    }
    alarm(0);
}

/* Two wait, one comes: the other goes on waiting. */
static void who_was_too_slow_waits_on(void) {
    struct ka_ring *ring = ka_ring_new(4);
    struct timespec moment = {0, 20000000};
    struct sleeper sleeper[2];
    struct ka_thread *thread[2];
    int i;

    alarm(60);
    memset(sleeper, 0, sizeof sleeper);
    for (i = 0; i < 2; i++) {
        sleeper[i].ring = ring;
        sleeper[i].timeout_ms = i ? 3600000 : -1;
        thread[i] = start(sleep_for_one, &sleeper[i]);
    }
    nanosleep(&moment, NULL);
    put(ring, 41);
    nanosleep(&moment, NULL);
    ka_ring_close(ring);
    for (i = 0; i < 2; i++)
        ka_thread_join(thread[i]);
    CHECK_EQ(sleeper[0].got + sleeper[1].got, 41 - ESHUTDOWN);
    ka_ring_free(ring);
    alarm(0);
}

struct worker {
    struct ka_ring *ring;
    int64_t number; /* of the producer, from 1 */
    int64_t last[PRODUCERS + 1];
    int64_t count, sum;
    int out_of_order;
};

static void produce(void *argument) {
    struct worker *worker = argument;
    int64_t i;

    for (i = 1; i <= EACH; i++) {
        int64_t token = worker->number << 32 | i;

        if (put(worker->ring, token)) {
            worker->count++;
            worker->sum += token;
        }
    }
}

static void consume(void *argument) {
    struct worker *worker = argument;
    struct ka_occurrence got[7];
    int i, rc;

    while ((rc = ka_ring_take(worker->ring, got, 7, -1)) > 0)
        for (i = 0; i < rc; i++) {
            int64_t from = got[i].token >> 32;

            worker->out_of_order += got[i].token <= worker->last[from] ||
                                    got[i].unsent != ~got[i].token;
            worker->last[from] = got[i].token;
            worker->count++;
            worker->sum += got[i].token;
        }
    worker->number = rc;
}

/* All that was kept is taken once, and the rest is counted as dropped. */
static void nothing_is_lost_between_threads(void) {
    struct ka_ring *ring = ka_ring_new(64);
    struct worker worker[PRODUCERS + CONSUMERS];
    struct ka_thread *thread[PRODUCERS + CONSUMERS];
    int64_t kept = 0, taken = 0, sum = 0;
    int i;

    alarm(120);
    memset(worker, 0, sizeof worker);
    for (i = 0; i < PRODUCERS + CONSUMERS; i++) {
        worker[i].ring = ring;
        worker[i].number = i + 1;
        thread[i] = start(i < PRODUCERS ? produce : consume, &worker[i]);
    }
    for (i = 0; i < PRODUCERS; i++) {
        ka_thread_join(thread[i]);
        kept += worker[i].count;
        sum += worker[i].sum;
    }
    ka_ring_close(ring);
    for (; i < PRODUCERS + CONSUMERS; i++) {
        ka_thread_join(thread[i]);
        CHECK_EQ(worker[i].number, -ESHUTDOWN);
        CHECK_EQ(worker[i].out_of_order, 0);
        taken += worker[i].count;
        sum -= worker[i].sum;
    }
    CHECK(kept > 0);
    CHECK_EQ(taken, kept);
    CHECK_EQ(sum, 0);
    CHECK_EQ(ka_ring_dropped(ring), (int64_t)PRODUCERS * EACH - kept);
    ka_ring_free(ring);
    alarm(0);
}

int main(void) {
    RUN(first_come_first_taken);
    RUN(a_full_ring_drops_the_newest);
    RUN(several_are_taken_at_once);
    RUN(what_was_put_outlives_the_end);
    RUN(a_wait_is_not_shorter_than_said);
    RUN(who_waits_is_woken);
    RUN(who_was_too_slow_waits_on);
    RUN(nothing_is_lost_between_threads);
    return test_report("ring");
}
