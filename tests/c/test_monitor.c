/* Monitors and threads, on the real kernel. */
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <time.h>

#include "monitor.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define CROWD 4
#define TURNS 20000

static int64_t now_ms(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static struct ka_thread *start(void (*run)(void *), void *argument,
                               const char *name) {
    struct ka_thread *thread = NULL;

    if (!CHECK_EQ(ka_thread_start(&thread, run, argument, name), 0))
        exit(99);
    return thread;
}

/* What a thread finds out about itself. */
struct self {
    sigset_t blocked;
    char name[16];
    size_t stack;
    int64_t cpu_us;
};

static void describe(void *argument) {
    struct self *self = argument;
    pthread_attr_t attributes;

    pthread_sigmask(SIG_BLOCK, NULL, &self->blocked);
    pthread_getname_np(pthread_self(), self->name, sizeof self->name);
    if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
        pthread_attr_getstacksize(&attributes, &self->stack);
        pthread_attr_destroy(&attributes);
    }
    self->cpu_us = ka_thread_cpu_us();
}

static void no_signal_reaches_it(void) {
    struct self self = {0};
    sigset_t after;
    int number;

    ka_thread_join(start(describe, &self, "quiet"));
    for (number = 1; number < NSIG; number++) {
        if (number == SIGKILL || number == SIGSTOP ||
            (number > SIGSYS && number < SIGRTMIN))
            continue; /* the system's own, and the C library's */
        if (!sigismember(&self.blocked, number))
            CHECK_EQ(number, 0);
    }
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    CHECK_EQ(sigismember(&after, SIGUSR1), 0);
    CHECK_EQ(sigismember(&after, SIGTERM), 0);
}

static void it_bears_its_name(void) {
    struct self self = {0};

    ka_thread_join(start(describe, &self, "stillalive"));
    CHECK(strcmp(self.name, "stillalive") == 0);
    ka_thread_join(start(describe, &self, "0123456789abcdefgh"));
    CHECK(strcmp(self.name, "0123456789abcde") == 0);
}

static void its_stack_is_small(void) {
    struct self self = {0};

    ka_thread_join(start(describe, &self, "small"));
    CHECK(self.stack >= (size_t)128 << 10);
    if (!SANITIZED)
        CHECK(self.stack <= (size_t)512 << 10);
}

static void cpu_time_is_that_of_the_thread(void) {
    struct self self = {0};
    int64_t before = ka_thread_cpu_us();

    CHECK(before >= 0);
    while (ka_thread_cpu_us() < before + 20000)
        ;
    ka_thread_join(start(describe, &self, "idle"));
    CHECK(self.cpu_us >= 0);
    CHECK(self.cpu_us < 20000);
}

static void no_room_for_a_thread_is_told(void) {
    struct rlimit none = {0, 0};
    struct ka_thread *thread = NULL;
    sigset_t after;

    if (SANITIZED) /* they need the address space themselves */
        return;
    ka_monitor_free(ka_monitor_new()); /* leaves memory for small things */
    setrlimit(RLIMIT_AS, &none);
    CHECK_EQ(ka_thread_start(&thread, describe, NULL, "none"), -EAGAIN);
    CHECK(thread == NULL);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    CHECK_EQ(sigismember(&after, SIGUSR1), 0);
}

/* ---- monitor ------------------------------------------------------------ */

struct shared {
    struct ka_monitor *monitor;
    int64_t timeout_ms;
    int inside, waiting, woken, open;
    long turns;
};

static void take_turns(void *argument) {
    struct shared *shared = argument;
    int i;

    for (i = 0; i < TURNS; i++) {
        ka_monitor_enter(shared->monitor);
        shared->inside++;
        if (shared->inside != 1)
            CHECK_EQ(shared->inside, 1);
        shared->turns++;
        shared->inside--;
        ka_monitor_leave(shared->monitor);
    }
}

static void one_at_a_time_is_inside(void) {
    struct shared shared = {.monitor = ka_monitor_new()};
    struct ka_thread *crowd[CROWD];
    int i;

    for (i = 0; i < CROWD; i++)
        crowd[i] = start(take_turns, &shared, "turns");
    for (i = 0; i < CROWD; i++)
        ka_thread_join(crowd[i]);
    CHECK_EQ(shared.turns, (long)CROWD * TURNS);
    ka_monitor_free(shared.monitor);
}

static void wait_until_open(void *argument) {
    struct shared *shared = argument;

    ka_monitor_enter(shared->monitor);
    shared->waiting++;
    ka_monitor_notify(shared->monitor);
    while (!shared->open)
        ka_monitor_wait(shared->monitor, shared->timeout_ms);
    shared->woken++;
    ka_monitor_leave(shared->monitor);
}

static void await_waiting(struct shared *shared, int number) {
    ka_monitor_enter(shared->monitor);
    while (shared->waiting < number)
        ka_monitor_wait(shared->monitor, -1);
    ka_monitor_leave(shared->monitor);
}

static void all_who_wait_are_woken(void) {
    static const int64_t timeouts[] = {-1, INT64_MAX, 3600000};
    size_t row;
    int i;

    alarm(60); /* who is not woken waits for ever */
    for (row = 0; row < sizeof timeouts / sizeof timeouts[0]; row++) {
        struct shared shared = {.monitor = ka_monitor_new(),
                                .timeout_ms = timeouts[row]};
        struct ka_thread *crowd[CROWD];

        for (i = 0; i < CROWD; i++)
            crowd[i] = start(wait_until_open, &shared, "waits");
        await_waiting(&shared, CROWD);
        ka_monitor_enter(shared.monitor);
        CHECK_EQ(shared.woken, 0);
        shared.open = 1;
        ka_monitor_notify(shared.monitor);
        ka_monitor_leave(shared.monitor);
        for (i = 0; i < CROWD; i++)
            ka_thread_join(crowd[i]);
        CHECK_EQ(shared.woken, CROWD);
        ka_monitor_free(shared.monitor);
    }
    alarm(0);
}

/* How often a wait of `step_ms` comes back within `all_ms`. */
static int waits_within(struct ka_monitor *monitor, int64_t step_ms,
                        int64_t all_ms) {
    int64_t end = now_ms() + all_ms;
    int count = 0;

    ka_monitor_enter(monitor);
    while (now_ms() < end) {
        ka_monitor_wait(monitor, step_ms);
        count++;
    }
    ka_monitor_leave(monitor);
    return count;
}

static void a_wait_takes_its_time(void) {
    struct ka_monitor *monitor = ka_monitor_new();
    int64_t begun = now_ms();

    CHECK(waits_within(monitor, 20, 100) <= 7);
    CHECK(waits_within(monitor, 950, 1000) <= 4); /* across a second */
    CHECK(now_ms() - begun < 30000);
    ka_monitor_enter(monitor);
    ka_monitor_wait(monitor, 0);
    ka_monitor_leave(monitor);
    ka_monitor_free(monitor);
    ka_monitor_free(NULL);
}

/* Its lock is held and its condition waited for by threads that a child does
 * not have. */
static void a_child_frees_without_waiting(void) {
    struct shared shared = {.monitor = ka_monitor_new(), .timeout_ms = -1};
    struct ka_thread *thread = start(wait_until_open, &shared, "waits");
    int status = -1;
    pid_t child;

    await_waiting(&shared, 1);
    ka_monitor_enter(shared.monitor);
    child = fork();
    if (child == 0) {
        alarm(5);
        ka_monitor_free(shared.monitor);
        ka_thread_forget(thread);
        _exit(0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    shared.open = 1;
    ka_monitor_notify(shared.monitor);
    ka_monitor_leave(shared.monitor);
    ka_thread_join(thread);
    CHECK_EQ(shared.woken, 1);
    ka_monitor_free(shared.monitor);
}

int main(void) {
    /* First: stacks of threads that have ended are used again. */
    RUN_FORKED(no_room_for_a_thread_is_told);
    RUN(no_signal_reaches_it);
    RUN(it_bears_its_name);
    RUN(its_stack_is_small);
    RUN(cpu_time_is_that_of_the_thread);
    RUN(one_at_a_time_is_inside);
    RUN(all_who_wait_are_woken);
    RUN(a_wait_takes_its_time);
    RUN(a_child_frees_without_waiting);
    return test_report("thread");
}
