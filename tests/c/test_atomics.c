/* The operations of atomics.h, on every type that the core uses; once with
 * the compiler's own and once with those that stand in for them. */
#include "test.h"

#include <stdint.h>

#ifdef _WIN32
#include <windows.h>
#define YIELD() Sleep(0)
#else
#include <sched.h>
#define YIELD() sched_yield()
#endif

#include "atomics.h"
#include "monitor.h"

struct thing; /* nobody knows what is in it */

static KA_ATOMIC(uint32_t) word;
static KA_ATOMIC(uint64_t) wide;
static KA_ATOMIC(int) number;
static KA_ATOMIC(struct thing *) pointer;
static char there[2];
#define THING(i) ((struct thing *)(void *)&there[i])

static void what_is_stored_is_loaded(void) {
    atomic_init(&word, 7u);
    CHECK_EQ(atomic_load(&word), 7);
    atomic_store(&word, UINT32_MAX);
    CHECK_EQ(atomic_load_explicit(&word, memory_order_relaxed), UINT32_MAX);
    atomic_store_explicit(&wide, UINT64_C(0x123456789ABCDEF0),
                          memory_order_release);
    CHECK(atomic_load_explicit(&wide, memory_order_acquire) ==
          UINT64_C(0x123456789ABCDEF0));
    atomic_store_explicit(&number, -5, memory_order_relaxed);
    CHECK_EQ(atomic_load(&number), -5);
    CHECK(atomic_load(&pointer) == NULL);
    atomic_store(&pointer, THING(0));
    CHECK(atomic_load_explicit(&pointer, memory_order_acquire) == THING(0));
    atomic_store(&pointer, NULL);
    CHECK(atomic_load(&pointer) == NULL);
}

static void an_exchange_tells_what_was(void) {
    atomic_store(&word, 1);
    CHECK_EQ(atomic_exchange(&word, 2), 1);
    CHECK_EQ(atomic_load(&word), 2);
    atomic_store(&wide, UINT64_C(1) << 40);
    CHECK(atomic_exchange(&wide, UINT64_C(1) << 41) == UINT64_C(1) << 40);
    CHECK(atomic_load(&wide) == UINT64_C(1) << 41);
    atomic_store(&pointer, THING(0));
    CHECK(atomic_exchange(&pointer, THING(1)) == THING(0));
    CHECK(atomic_exchange(&pointer, NULL) == THING(1));
    atomic_store(&number, -1);
    CHECK_EQ(atomic_exchange(&number, 3), -1);
}

static void sums_wrap_and_tell_what_was(void) {
    atomic_store(&word, UINT32_MAX);
    CHECK_EQ(atomic_fetch_add(&word, 2u), UINT32_MAX);
    CHECK_EQ(atomic_load(&word), 1);
    CHECK_EQ(atomic_fetch_sub(&word, 2u), 1);
    CHECK_EQ(atomic_load(&word), UINT32_MAX);
    atomic_store(&wide, UINT32_MAX);
    CHECK(atomic_fetch_add_explicit(&wide, 1u, memory_order_relaxed) ==
          UINT32_MAX);
    CHECK(atomic_load(&wide) == UINT64_C(1) << 32);
    atomic_store(&number, 1);
    CHECK_EQ(atomic_fetch_sub(&number, 3), 1);
    CHECK_EQ(atomic_load(&number), -2);
    CHECK_EQ(atomic_fetch_add(&number, 2), -2);
    CHECK_EQ(atomic_load(&number), 0);
}

static void bits_are_added(void) {
    atomic_store(&word, 5);
    CHECK_EQ(atomic_fetch_or(&word, 0u), 5);
    CHECK_EQ(atomic_fetch_or(&word, 2u), 5);
    CHECK_EQ(atomic_load(&word), 7);
}

static void a_compare_exchange_is_all_or_nothing(void) {
    uint32_t seen = 4;
    uint64_t big = UINT64_C(1) << 33;

    atomic_store(&word, 5);
    CHECK(!atomic_compare_exchange_strong(&word, &seen, 9));
    CHECK_EQ(seen, 5);
    CHECK_EQ(atomic_load(&word), 5);
    CHECK(atomic_compare_exchange_strong(&word, &seen, 9));
    CHECK_EQ(atomic_load(&word), 9);
    atomic_store(&wide, 0); /* the low half is the same */
    CHECK(!atomic_compare_exchange_strong_explicit(
        &wide, &big, 1, memory_order_relaxed, memory_order_relaxed));
    CHECK_EQ(big, 0);
    CHECK(atomic_compare_exchange_strong(&wide, &big, UINT64_C(1) << 50));
    CHECK(atomic_load(&wide) == UINT64_C(1) << 50);
    big = UINT64_C(1) << 50;
    while (!atomic_compare_exchange_weak_explicit(
        &wide, &big, 3, memory_order_relaxed, memory_order_relaxed))
        ;
    CHECK_EQ(atomic_load(&wide), 3);
}

/* ---- two threads -------------------------------------------------------- */

#define ROUNDS 5000

/* Until it is so; the other thread may have to be let in first. */
#define AWAIT(condition)            \
    do {                            \
        int tries = 0;              \
        while (!(condition))        \
            if (++tries % 100 == 0) \
                YIELD();            \
    } while (0)

static KA_ATOMIC(uint32_t) count_32;
static KA_ATOMIC(uint64_t) count_64, by_exchange;
static KA_ATOMIC(int) count_int;

static void count_up(void *unused) {
    uint64_t seen;
    int i;

    (void)unused;
    for (i = 0; i < ROUNDS; i++) {
        atomic_fetch_add(&count_32, 3u);
        atomic_fetch_add_explicit(&count_64, UINT64_C(1) << 31,
                                  memory_order_relaxed);
        atomic_fetch_sub(&count_int, 1);
        seen = atomic_load_explicit(&by_exchange, memory_order_relaxed);
        while (!atomic_compare_exchange_weak(&by_exchange, &seen, seen + 7))
            ;
    }
}

static void nothing_is_lost_between_threads(void) {
    struct ka_thread *thread[2];
    int i;

    for (i = 0; i < 2; i++)
        CHECK_EQ(ka_thread_start(&thread[i], count_up, NULL, "count"), 0);
    for (i = 0; i < 2; i++)
        ka_thread_join(thread[i]);
    CHECK_EQ(atomic_load(&count_32), 2 * ROUNDS * 3);
    CHECK(atomic_load(&count_64) == (uint64_t)2 * ROUNDS << 31);
    CHECK_EQ(atomic_load(&count_int), -2 * ROUNDS);
    CHECK_EQ(atomic_load(&by_exchange), 2 * ROUNDS * 7);
}

static int payload; /* plain: what is told is what the flag carries over */
static KA_ATOMIC(uint32_t) told, taken;

static void tell_it(void *unused) {
    uint32_t i;

    (void)unused;
    for (i = 1; i <= ROUNDS; i++) {
        payload = (int)i;
        atomic_store_explicit(&told, i, memory_order_release);
        AWAIT(atomic_load_explicit(&taken, memory_order_acquire) == i);
    }
}

static void what_was_written_before_is_seen_after(void) {
    struct ka_thread *thread;
    uint32_t i;
    int wrong = 0;

    CHECK_EQ(ka_thread_start(&thread, tell_it, NULL, "tell"), 0);
    for (i = 1; i <= ROUNDS; i++) {
        AWAIT(atomic_load_explicit(&told, memory_order_acquire) == i);
        wrong += payload != (int)i;
        atomic_store_explicit(&taken, i, memory_order_release);
    }
    ka_thread_join(thread);
    CHECK_EQ(wrong, 0);
}

/* Each says that it is there and looks whether the other is: in one order of
 * all, at least one of them sees the other. */
static KA_ATOMIC(uint32_t) here, over_there, round_begun, round_done;
static int saw_here;

static void other_side(void *unused) {
    uint32_t i;

    (void)unused;
    for (i = 1; i <= ROUNDS; i++) {
        AWAIT(atomic_load(&round_begun) == i);
        atomic_store(&over_there, 1);
        saw_here = (int)atomic_load(&here);
        atomic_store(&round_done, i);
    }
}

static void one_of_two_sees_the_other(void) {
    struct ka_thread *thread;
    uint32_t i;
    int saw, blind = 0;

    CHECK_EQ(ka_thread_start(&thread, other_side, NULL, "other"), 0);
    for (i = 1; i <= ROUNDS; i++) {
        atomic_store(&here, 0);
        atomic_store(&over_there, 0);
        atomic_store(&round_begun, i);
        atomic_store(&here, 1);
        saw = (int)atomic_load(&over_there);
        AWAIT(atomic_load(&round_done) == i);
        blind += !saw && !saw_here;
    }
    ka_thread_join(thread);
    CHECK_EQ(blind, 0);
}

int main(void) {
    RUN(what_is_stored_is_loaded);
    RUN(an_exchange_tells_what_was);
    RUN(sums_wrap_and_tell_what_was);
    RUN(bits_are_added);
    RUN(a_compare_exchange_is_all_or_nothing);
    RUN(nothing_is_lost_between_threads);
    RUN(what_was_written_before_is_seen_after);
    RUN(one_of_two_sees_the_other);
    return test_report("atomics");
}
