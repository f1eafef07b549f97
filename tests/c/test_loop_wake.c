/* test_loop_wake.c - what other threads and signal handlers do to a loop.
 *
 * The clock is the real one here: sleeping is the subject.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#include "loop_fixture.h"

static void run_clock(void) {
    ka_clock_init(&loop.clock);
    loop.looked = ka_clock_now(&loop.clock);
}

static void await_sleep(void) {
    while (!atomic_load(&loop.asleep))
        usleep(200);
}

static pthread_t start(void *(*body)(void *), void *argument) {
    pthread_t thread;

    need(pthread_create(&thread, NULL, body, argument) == 0, "thread");
    return thread;
}

/* ---- wake --------------------------------------------------------------- */

static void a_wake_before_ends_the_next_round_only(void) {
    int pair[2];
    ka_id id;

    open_pair(pair);
    id = add(pair[0], KA_READ, LIMIT, NULL);
    CHECK_EQ(ka_loop_wake(&loop), 0);
    CHECK_EQ(ka_loop_wake(&loop), 0);
    CHECK_EQ(ka_loop_begin(&loop, -1), 0);
    CHECK_EQ(loop.stats.wakes, 1);
    CHECK_EQ(ka_loop_begin(&loop, -1), KA_LOOP_WAIT);
    CHECK_EQ(ka_loop_wake(&loop), 0); /* between the steps */
    ka_loop_wait(&loop);
    CHECK_EQ(ka_loop_finish(&loop), 0);
    CHECK_EQ(loop.stats.wakes, 2);
    say(pair[1]);
    CHECK_EQ(ka_loop_wake(&loop), 0);
    CHECK_EQ(ka_loop_begin(&loop, -1), 1); /* with what is ready */
    CHECK_EQ(said(id), KA_READ);
    hear(pair[0]);
    CHECK_EQ(ka_loop_begin(&loop, 5), KA_LOOP_WAIT);
    ka_loop_wait(&loop);
    CHECK_EQ(ka_loop_finish(&loop), 0);
    CHECK_EQ(loop.waited, 0);
    CHECK_EQ(loop.stats.wakes, 3);
    close_pair(pair);
}

static void *wake_it(void *unused) {
    (void)unused;
    await_sleep();
    ka_loop_wake(&loop);
    return NULL;
}

static void a_wake_ends_a_sleep(void) {
    pthread_t thread = start(wake_it, NULL);
    int64_t began = real_ms();

    CHECK_EQ(go(2000), 0);
    CHECK(real_ms() - began < 1500);
    CHECK_EQ(loop.stats.wakes, 1);
    pthread_join(thread, NULL);
}

static volatile sig_atomic_t rings;

static void ring(int number) {
    (void)number;
    rings = rings + 1;
    ka_loop_wake(&loop);
}

static void note(int number) {
    (void)number;
    rings = rings + 1;
}

static void alarm_in_5_ms(void (*handler)(int)) {
    struct itimerval timer = {{0, 0}, {0, 5000}};
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    sigaction(SIGALRM, &action, NULL);
    rings = 0;
    setitimer(ITIMER_REAL, &timer, NULL);
}

static void a_signal_handler_may_wake(void) {
    alarm_in_5_ms(ring);
    CHECK_EQ(go(2000), 0);
    CHECK_EQ(rings, 1);
    CHECK_EQ(loop.stats.wakes, 1);
}

static void a_signal_alone_does_not_end_a_round(void) {
    int64_t began = real_ms();

    alarm_in_5_ms(note);
    CHECK_EQ(go(25), 0);
    CHECK_EQ(rings, 1);
    CHECK(real_ms() - began >= 24);
    CHECK_EQ(loop.stats.interrupted, 1);
}

/* ---- rescue ------------------------------------------------------------- */

static void *touch_it(void *mark) {
    await_sleep();
    CHECK_EQ(ka_touch_now(mark), 1);
    return NULL;
}

/* The only entry is due, so the owner would sleep to the end of its time. */
static void a_rescue_makes_a_sleeper_look_at_the_new_deadline(void) {
    struct ka_mark mark;
    pthread_t thread;
    int64_t began;
    ka_id id;

    run_clock();
    id = add(KA_NO_FD, 0, 1, NULL);
    CHECK_EQ(ka_loop_mark(&loop, id, &mark), 1);
    CHECK_EQ(go(-1), 1);
    began = real_ms();
    thread = start(touch_it, &mark);
    CHECK_EQ(go(2000), 1);
    CHECK_EQ(said(id), KA_IDLENESS);
    CHECK(real_ms() - began >= 10);
    CHECK(real_ms() - began < 1500);
    CHECK_EQ(loop.stats.wakes, 0);
    pthread_join(thread, NULL);
    CHECK_EQ(ka_loop_remove(&loop, id), 1);
    CHECK_EQ(ka_touch_now(&mark), 0);
    CHECK_EQ(ka_loop_mark(&loop, id, &mark), 0);
}

/* It may not cut the caller's own time short either. The clock stands, the
 * caller's time does not. */
static void a_rescue_does_not_end_a_round(void) {
    struct ka_mark mark;
    pthread_t thread;
    int64_t began;
    ka_id id = add(KA_NO_FD, 0, LIMIT, NULL);

    CHECK_EQ(ka_loop_mark(&loop, id, &mark), 1);
    ka_loop_advance(&loop, LIMIT + 1);
    CHECK_EQ(go(-1), 1);
    began = real_ms();
    thread = start(touch_it, &mark);
    CHECK_EQ(go(30), 0);
    CHECK(real_ms() - began >= 29);
    pthread_join(thread, NULL);
    CHECK_EQ(ka_loop_idle_ms(&loop, id), 0);
}

static void a_rescue_between_the_steps_is_seen(void) {
    struct ka_mark mark;
    ka_id id;

    run_clock();
    id = add(KA_NO_FD, 0, 1, NULL);
    CHECK_EQ(ka_loop_mark(&loop, id, &mark), 1);
    CHECK_EQ(go(-1), 1);
    CHECK_EQ(ka_loop_begin(&loop, -1), KA_LOOP_WAIT);
    CHECK_EQ(ka_touch_now(&mark), 1);
    ka_loop_wait(&loop);
    CHECK(loop.wait_ms >= 0 && loop.wait_ms < 40);
    while (ka_loop_finish(&loop) == KA_LOOP_WAIT)
        ka_loop_wait(&loop);
    CHECK_EQ(said(id), KA_IDLENESS);
}

/* ---- all of it ---------------------------------------------------------- */

#define TOUCHED 8

static struct ka_mark marks[TOUCHED];
static _Atomic int over;

static void *touch_all(void *unused) {
    int i;

    (void)unused;
    for (i = 0; !atomic_load(&over); i = (i + 1) % TOUCHED) {
        CHECK_EQ(ka_touch_now(&marks[i]), 1);
        if (i == 0)
            usleep(100);
    }
    return NULL;
}

static void *wake_always(void *unused) {
    (void)unused;
    while (!atomic_load(&over)) {
        CHECK_EQ(ka_loop_wake(&loop), 0);
        usleep(20);
    }
    return NULL;
}

/* The poller is replaced again and again while others wake through it. */
static void wakers_survive_a_new_poller(void) {
    int pair[2], copy, i;
    pthread_t waker, toucher;
    ka_id id;

    run_clock();
    for (i = 0; i < TOUCHED; i++)
        CHECK_EQ(ka_loop_mark(&loop, add(KA_NO_FD, 0, 0, NULL), &marks[i]), 1);
    atomic_store(&over, 0);
    waker = start(wake_always, NULL);
    toucher = start(touch_all, NULL);
    for (i = 0; i < 200; i++) {
        open_pair(pair);
        id = add(pair[0], KA_READ, KA_NO_LIMIT, NULL);
        copy = dup(pair[0]);
        close(pair[0]);
        CHECK_EQ(ka_loop_remove(&loop, id), 1);
        say(pair[1]);
        CHECK(go(-1) >= 0);
        close(copy);
        close(pair[1]);
    }
    atomic_store(&over, 1);
    pthread_join(waker, NULL);
    pthread_join(toucher, NULL);
    if (strcmp(chosen->name, "epoll") == 0)
        CHECK(loop.stats.rebuilds > 100);
    for (i = 0; i < 20; i++) /* what is left of the wakes */
        CHECK(go(0) >= 0);
}

int main(void) {
    RUN_BOTH(a_wake_before_ends_the_next_round_only);
    RUN_BOTH(a_wake_ends_a_sleep);
    RUN_BOTH(a_signal_handler_may_wake);
    RUN_BOTH(a_signal_alone_does_not_end_a_round);
    RUN_BOTH(a_rescue_makes_a_sleeper_look_at_the_new_deadline);
    RUN_BOTH(a_rescue_does_not_end_a_round);
    RUN_BOTH(a_rescue_between_the_steps_is_seen);
    RUN_BOTH(wakers_survive_a_new_poller);
    return test_report("loop_wake");
}
