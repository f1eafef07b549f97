/* Many threads at once; the thread sanitizer is the judge. */
#include "loop.h"
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>

#define THREADS 6
#define ROUNDS 300

static struct pair shared;
static atomic_int wrong;
static unsigned expected;

static void count(int good) {
    if (!good)
        atomic_fetch_add(&wrong, 1);
}

static void one_round(int sock, int round) {
    struct ka_policy policy = {{1, 30 + round % 7, 10, 3, 5000, KA_LEAVE}};
    struct ka_policy out;
    struct ka_fault fault;
    struct ka_verdict verdict;
    struct ka_witness witness;
    uint64_t identity;

    count(ka_check(sock, &verdict) == 0 && verdict.state <= KA_OPEN);
    count(ka_apply(sock, &policy, &out, &fault) == 0);
    count(ka_apply_fresh(sock, &policy, &fault) == 0);
    count(ka_identify(sock, &identity) == 0);
    count(ka_witness_begin(&witness, sock, round, &verdict) == 0);
    count(ka_witness_look(&witness, 0, round + 1, &verdict) == 0);
    count(ka_witness_give_up(&witness, 0, round + 2, &verdict) == 0);
}

/* A question of its own for each socket: those may not be shared. */
static void ask_own(int sock, int round) {
    struct ka_policy before, after;
    struct ka_question question;
    struct ka_fault fault;
    uint64_t identity = 0;

    count(ka_identify(sock, &identity) == 0);
    count(ka_read(sock, &before, &fault) == 0);
    ka_question_begin(&question, sock, identity);
    count(ka_question_ask(&question, round, &fault) == 1);
    count(ka_question_end(&question, &fault) == 0);
    count(ka_read(sock, &after, &fault) == 0);
    count(memcmp(&before, &after, sizeof before) == 0);
}

static void *work(void *unused) {
    struct pair own = loop_pair();
    int round;

    (void)unused;
    for (round = 0; round < ROUNDS; round++) {
        count(ka_supported() == expected || expected == 0);
        one_round(own.near, round);
        one_round(shared.near, round);
        ask_own(own.near, round);
    }
    loop_close(&own);
    return NULL;
}

static void run_all(void) {
    pthread_t thread[THREADS];
    int i;

    shared = loop_pair();
    for (i = 0; i < THREADS; i++)
        loop_need(pthread_create(&thread[i], NULL, work, NULL) == 0,
                  "pthread_create");
    for (i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    loop_close(&shared);
    CHECK_EQ(wrong, 0);
}

/* The first to ask for the options fill the cache together. */
static void first_calls_together(void) {
    expected = 0;
    run_all();
}

static void later_calls_agree(void) {
    expected = ka_supported();
    CHECK(expected != 0);
    run_all();
}

int main(void) {
    RUN(first_calls_together);
    RUN(later_calls_agree);
    return test_report("threads");
}
