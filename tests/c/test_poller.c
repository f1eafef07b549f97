/* The pollers, all cases on each: the same calls must mean the same. */
#include "test.h"
#include "loop.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>

#include "pollers.h"

#define MANY 300

static const struct ka_backend *backend;
static struct ka_poller *poller;
static int lowest; /* free descriptor before the case */
static int count;  /* of the last wait */
static const struct ka_ready *ready;

static int is(const char *name) {
    return strcmp(backend->name, name) == 0;
}

static int64_t monotonic_us(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int lowest_free(void) {
    int fd = dup(0);

    close(fd);
    return fd;
}

static void before(void) {
    lowest = lowest_free();
    CHECK_EQ(backend->open(&poller), 0);
}

static void after(void) {
    backend->close(poller);
    CHECK_EQ(lowest_free(), lowest);
}

static struct pair local_pair(void) {
    int end[2];

    loop_need(socketpair(AF_UNIX, SOCK_STREAM, 0, end) == 0, "socketpair");
    return (struct pair){end[0], end[1]};
}

static void feed(int fd) {
    CHECK_EQ(write(fd, "x", 1), 1);
}

static void eat(int fd) {
    char byte;

    CHECK_EQ(read(fd, &byte, 1), 1);
}

static int look(int timeout_ms) {
    count = backend->wait(poller, timeout_ms, &ready);
    return count;
}

/* What the last wait found under a tag; twice the same is a failure. */
static uint32_t found(uint64_t tag) {
    uint32_t events = 0;
    int i;

    for (i = 0; i < count; i++)
        if (ready[i].tag == tag) {
            CHECK_EQ(events, 0);
            events = ready[i].events;
        }
    return events;
}

static int add(int fd, uint32_t events, uint64_t tag) {
    return backend->add(poller, fd, events, tag);
}

/* kqueue tells of ends by the filter alone. */
#define BOTH_ENDED (is("kqueue") ? KA_READ : KA_READ | KA_HANGUP)

/* ---- readiness ---------------------------------------------------------- */

static void reading_and_writing(void) {
    struct pair pair = loop_pair();

    CHECK_EQ(look(0), 0);
    CHECK_EQ(add(pair.near, KA_READ, 7), 0);
    CHECK_EQ(look(0), 0);
    feed(pair.far);
    CHECK_EQ(look(1000), 1);
    CHECK_EQ(found(7), KA_READ);
    CHECK_EQ(look(0), 1); /* level-triggered */
    CHECK_EQ(found(7), KA_READ);
    CHECK_EQ(backend->modify(poller, pair.near, KA_WRITE, 8), 0);
    CHECK_EQ(look(0), 1);
    CHECK_EQ(found(8), KA_WRITE);
    CHECK_EQ(backend->modify(poller, pair.near, KA_READ | KA_WRITE, 8), 0);
    CHECK_EQ(look(0), 1);
    CHECK_EQ(found(8), KA_READ | KA_WRITE);
    eat(pair.near);
    CHECK_EQ(look(0), 1);
    CHECK_EQ(found(8), KA_WRITE);
    CHECK_EQ(backend->remove(poller, pair.near), 0);
    CHECK_EQ(look(0), 0);
    loop_close(&pair);
}

static void fin_is_readable(void) {
    struct pair pair = loop_pair();

    CHECK_EQ(add(pair.near, KA_READ, 1), 0);
    shutdown(pair.far, SHUT_WR);
    CHECK_EQ(look(1000), 1);
    CHECK_EQ(found(1), KA_READ);
    shutdown(pair.near, SHUT_WR); /* now both have ended */
    CHECK_EQ(look(1000), 1);
    CHECK_EQ(found(1), BOTH_ENDED);
    loop_close(&pair);
}

static void reset_is_broken_and_hung_up(void) {
    static const uint32_t wanted[] = {KA_READ, KA_WRITE, KA_READ | KA_WRITE};
    size_t i;

    for (i = 0; i < 3; i++) {
        struct pair pair = loop_pair();

        loop_reset(&pair.far);
        loop_await(pair.near, POLLIN);
        CHECK_EQ(add(pair.near, wanted[i], 1), 0);
        CHECK_EQ(look(1000), 1);
        CHECK_EQ(found(1), KA_BROKEN | KA_HANGUP | wanted[i]);
        CHECK_EQ(backend->remove(poller, pair.near), 0);
        loop_close(&pair);
    }
}

static void pipes(void) {
    int end[2], other[2];

    loop_need(pipe(end) == 0 && pipe(other) == 0, "pipe");
    CHECK_EQ(add(end[0], KA_READ, 1), 0);
    CHECK_EQ(add(other[1], KA_WRITE, 2), 0);
    CHECK_EQ(look(0), 1);
    CHECK_EQ(found(2), KA_WRITE);
    feed(end[1]);
    CHECK_EQ(look(0), 2);
    CHECK_EQ(found(1), KA_READ);
    eat(end[0]);
    close(end[1]);
    close(other[0]);
    CHECK_EQ(look(0), 2);
    CHECK_EQ(found(1), is("kqueue") ? KA_READ : KA_HANGUP);
    CHECK_EQ(found(2), is("kqueue") ? KA_WRITE : KA_WRITE | KA_BROKEN);
    close(end[0]);
    close(other[1]);
}

static void local_sockets(void) {
    struct pair pair = local_pair();

    CHECK_EQ(add(pair.near, KA_READ, 1), 0);
    CHECK_EQ(add(pair.far, KA_READ | KA_WRITE, 2), 0);
    feed(pair.far);
    CHECK_EQ(look(0), 2);
    CHECK_EQ(found(1), KA_READ);
    CHECK_EQ(found(2), KA_WRITE);
    close(pair.far);
    pair.far = -1;
    CHECK_EQ(look(0), 1);
    CHECK_EQ(found(1), BOTH_ENDED);
    loop_close(&pair);
}

static void tags_come_back_whole(void) {
    static const uint64_t tags[] = {0,
                                    1,
                                    UINT64_MAX - 1,
                                    UINT64_C(1) << 63,
                                    UINT32_MAX,
                                    UINT64_C(0xFFFFFFFF00000000),
                                    UINT64_C(0x123456789ABCDEF0)};
    enum { TAGS = sizeof tags / sizeof tags[0] };
    struct pair pair[TAGS];
    int i;

    for (i = 0; i < TAGS; i++) {
        pair[i] = local_pair();
        CHECK_EQ(add(pair[i].near, KA_WRITE, tags[i]), 0);
    }
    CHECK_EQ(look(0), TAGS);
    for (i = 0; i < TAGS; i++)
        CHECK_EQ(found(tags[i]), KA_WRITE);
    for (i = 0; i < TAGS; i++)
        CHECK_EQ(backend->modify(poller, pair[i].near, KA_WRITE,
                                 tags[(i + 3) % TAGS]),
                 0);
    close(pair[0].near); /* has got the tag 3 */
    pair[0].near = -1;
    CHECK_EQ(look(0), TAGS - 1);
    CHECK_EQ(found(tags[3]), 0);
    for (i = 0; i < TAGS; i++)
        loop_close(&pair[i]);
}

static void more_than_the_array_holds(void) {
    static struct pair pair[MANY];
    int i, seen;

    for (i = 0; i < MANY; i++) {
        pair[i] = local_pair();
        CHECK_EQ(add(pair[i].near, KA_READ, (uint64_t)i), 0);
        feed(pair[i].far);
    }
    CHECK_EQ(backend->wake(poller), 0);
    CHECK_EQ(look(0), MANY + 1);
    for (i = seen = 0; i < MANY; i++)
        seen += found((uint64_t)i) == KA_READ;
    CHECK_EQ(seen, MANY);
    CHECK_EQ(found(KA_WAKE_TAG), KA_READ);
    for (i = 0; i < MANY; i += 2)
        CHECK_EQ(backend->remove(poller, pair[i].near), 0);
    CHECK_EQ(look(0), MANY / 2);
    for (i = seen = 0; i < MANY; i++)
        seen += found((uint64_t)i) == (i & 1 ? KA_READ : 0);
    CHECK_EQ(seen, MANY);
    for (i = 0; i < MANY; i++)
        loop_close(&pair[i]);
    CHECK_EQ(look(0), 0);
}

/* ---- registering -------------------------------------------------------- */

static void wrong_descriptors_are_refused(void) {
    struct pair pair = loop_pair();
    int closed = pair.far;

    close(closed);
    pair.far = -1;
    CHECK_EQ(add(closed, KA_READ, 1), -EBADF);
    CHECK_EQ(add(-1, KA_READ, 1), -EBADF);
    CHECK_EQ(add(-2, KA_READ, 1), -EBADF);
    CHECK_EQ(add(INT_MAX, KA_READ, 1), -EBADF);
    CHECK_EQ(backend->modify(poller, closed, KA_READ, 1), -EBADF);
    CHECK_EQ(backend->remove(poller, closed), -EBADF);
    CHECK_EQ(backend->modify(poller, pair.near, KA_READ, 1), -ENOENT);
    CHECK_EQ(backend->remove(poller, pair.near), -ENOENT);
    CHECK_EQ(add(pair.near, KA_READ, 1), 0);
    CHECK_EQ(backend->remove(poller, pair.near), 0);
    CHECK_EQ(backend->remove(poller, pair.near), -ENOENT);
    CHECK_EQ(look(0), 0);
    loop_close(&pair);
}

static void a_number_is_there_once(void) {
    struct pair pair = local_pair();

    CHECK_EQ(add(pair.near, KA_READ, 1), 0);
    /* The others cannot tell that it is the same open file, and take it. */
    CHECK_EQ(add(pair.near, KA_WRITE, 2), is("epoll") ? -EEXIST : 0);
    feed(pair.far);
    CHECK_EQ(look(0), 1);
    CHECK_EQ(found(1), is("epoll") ? KA_READ : 0);
    CHECK_EQ(found(2), is("epoll") ? 0 : KA_WRITE);
    CHECK_EQ(backend->remove(poller, pair.near), 0);
    CHECK_EQ(look(0), 0);
    loop_close(&pair);
}

static void regular_files(void) {
    FILE *file = tmpfile();
    int wanted = is("epoll") ? -EPERM : 0;

    CHECK_EQ(add(fileno(file), KA_READ, 1), wanted);
    CHECK_EQ(look(0), is("poll") ? 1 : 0);
    fclose(file);
}

static void a_closed_descriptor_is_forgotten(void) {
    struct pair pair[5];
    int64_t began, spent;
    clock_t busy;
    int i;

    for (i = 0; i < 5; i++) {
        pair[i] = local_pair();
        CHECK_EQ(add(pair[i].near, KA_READ, (uint64_t)i), 0);
    }
    for (i = 0; i < 5; i += 2) {
        close(pair[i].near);
        pair[i].near = -1;
    }
    began = monotonic_us();
    busy = clock();
    CHECK_EQ(look(100), 0); /* goes on waiting, and does not spin */
    spent = monotonic_us() - began;
    CHECK(spent >= 100000);
    CHECK(clock() - busy < CLOCKS_PER_SEC / 100);
    feed(pair[1].far);
    feed(pair[3].far);
    CHECK_EQ(look(0), 2);
    CHECK_EQ(found(1), KA_READ);
    CHECK_EQ(found(3), KA_READ);
    CHECK_EQ(backend->remove(poller, pair[3].near), 0);
    CHECK_EQ(look(0), 1);
    CHECK_EQ(found(1), KA_READ);
    for (i = 0; i < 5; i++)
        loop_close(&pair[i]);
}

/* The number of a closed one comes back, and is added again. */
static void a_number_is_used_again(int with_a_wait_between) {
    struct pair old = local_pair(), new = local_pair();
    int number = old.near;

    CHECK_EQ(add(number, KA_READ | KA_WRITE, 1), 0);
    close(number);
    if (with_a_wait_between)
        CHECK_EQ(look(0), 0);
    loop_need(dup2(new.near, number) == number, "dup2");
    CHECK_EQ(add(number, KA_READ, 2), 0);
    CHECK_EQ(look(0), 0);
    feed(new.far);
    CHECK_EQ(look(0), 1);
    CHECK_EQ(found(2), KA_READ);
    CHECK_EQ(backend->remove(poller, number), 0);
    CHECK_EQ(look(0), 0);
    loop_close(&old);
    loop_close(&new);
}

static void a_number_comes_back_at_once(void) {
    a_number_is_used_again(0);
}

static void a_number_comes_back_later(void) {
    a_number_is_used_again(1);
}

static void duplicates(void) {
    struct pair pair = local_pair();
    int twin = dup(pair.near);

    CHECK_EQ(add(pair.near, KA_READ, 1), 0);
    CHECK_EQ(add(twin, KA_WRITE, 2), 0);
    feed(pair.far);
    CHECK_EQ(look(0), 2);
    CHECK_EQ(found(1), KA_READ);
    CHECK_EQ(found(2), KA_WRITE);
    CHECK_EQ(backend->remove(poller, twin), 0);
    close(pair.near);
    /* The twin keeps the open file, and epoll's entry for it, alive: the
     * loop must know such a tag for stale and rebuild. */
    CHECK_EQ(look(0), is("epoll") ? 1 : 0);
    CHECK_EQ(backend->remove(poller, pair.near), -EBADF);
    CHECK_EQ(look(0), is("epoll") ? 1 : 0);
    close(twin);
    CHECK_EQ(look(0), 0);
    close(pair.far);
}

/* Against a model: what is registered is reported, with its tag. */
static void any_order_of_calls(void) {
    enum { NUMBERS = 400, BASE = 100 };
    static uint64_t tag[NUMBERS]; /* 0: not registered */
    struct pair pair = local_pair();
    uint32_t random = 1;
    uint64_t next = 1;
    int step, i, live = 0;

    memset(tag, 0, sizeof tag);
    for (i = 0; i < NUMBERS; i++)
        loop_need(dup2(pair.near, BASE + i) >= 0, "dup2");
    for (step = 0; step < 6000; step++) {
        random = random * 1664525u + 1013904223u;
        i = (int)(random >> 8) % NUMBERS;
        if (!tag[i]) {
            CHECK_EQ(add(BASE + i, KA_WRITE, tag[i] = next++), 0);
            live++;
        } else if (random >> 30) {
            CHECK_EQ(backend->remove(poller, BASE + i), 0);
            tag[i] = 0;
            live--;
        } else {
            CHECK_EQ(
                backend->modify(poller, BASE + i, KA_WRITE, tag[i] = next++),
                0);
        }
        if (step % 97 || !CHECK_EQ(look(0), live))
            continue;
        for (i = 0; i < NUMBERS; i++)
            if (tag[i] && !CHECK_EQ(found(tag[i]), KA_WRITE))
                break;
    }
    for (i = 0; i < NUMBERS; i++) {
        if (tag[i])
            CHECK_EQ(backend->remove(poller, BASE + i), 0);
        close(BASE + i);
    }
    CHECK_EQ(look(0), 0);
    loop_close(&pair);
}

/* ---- waiting ------------------------------------------------------------ */

static void no_wait_is_too_short(void) {
    static const int asked[] = {1, 2, 7, 20, 20, 20};
    int64_t began, spent;
    size_t i;

    for (i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        began = monotonic_us();
        CHECK_EQ(look(asked[i]), 0);
        spent = monotonic_us() - began;
        CHECK(spent >= asked[i] * 1000);
        CHECK(spent < 1000000);
    }
}

static void alarmed(int number) {
    (void)number;
}

/* Again and again, lest the only one comes before the wait. */
static void alarms(long every_us, void (*handler)(int), int flags) {
    struct itimerval every = {{0, every_us}, {0, every_us}};
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_handler = every_us ? handler : SIG_IGN;
    action.sa_flags = flags;
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
}

static void a_signal_interrupts(void) {
    struct pair pair = local_pair();

    CHECK_EQ(add(pair.near, KA_READ, 1), 0);
    alarms(10000, alarmed, 0);
    CHECK_EQ(look(5000), -EINTR);
    CHECK_EQ(look(-1), -EINTR);
    alarms(10000, alarmed, SA_RESTART);
    CHECK_EQ(look(5000), -EINTR);
    alarms(0, NULL, 0);
    feed(pair.far);
    CHECK_EQ(look(-1), 1);
    CHECK_EQ(found(1), KA_READ);
    loop_close(&pair);
}

static void a_wake_comes_before_the_wait(void) {
    struct pair pair = local_pair();
    int i, refused = 0;

    CHECK_EQ(backend->wake(poller), 0);
    CHECK_EQ(look(-1), 1);
    CHECK_EQ(found(KA_WAKE_TAG), KA_READ);
    CHECK_EQ(look(0), 0);       /* drained */
    for (i = 0; i < 70000; i++) /* more than a pipe holds */
        refused += backend->wake(poller) != 0;
    CHECK_EQ(refused, 0);
    CHECK_EQ(add(pair.near, KA_WRITE, 1), 0);
    CHECK_EQ(look(-1), 2);
    CHECK_EQ(found(KA_WAKE_TAG), KA_READ);
    CHECK_EQ(found(1), KA_WRITE);
    CHECK_EQ(look(0), 1);
    CHECK_EQ(found(1), KA_WRITE);
    loop_close(&pair);
}

static void *wake_soon(void *unused) {
    usleep(30000);
    CHECK_EQ(backend->wake(poller), 0);
    return unused;
}

static void a_thread_wakes(void) {
    pthread_t thread;
    int64_t began = monotonic_us();

    CHECK_EQ(pthread_create(&thread, NULL, wake_soon, NULL), 0);
    CHECK_EQ(look(-1), 1);
    CHECK(monotonic_us() - began >= 30000);
    CHECK_EQ(found(KA_WAKE_TAG), KA_READ);
    pthread_join(thread, NULL);
    CHECK_EQ(look(0), 0);
}

static void wake_from_handler(int number) {
    (void)number;
    backend->wake(poller);
}

static void a_signal_handler_wakes(void) {
    struct sigaction action;
    int i;

    memset(&action, 0, sizeof action);
    action.sa_handler = wake_from_handler;
    sigaction(SIGUSR1, &action, NULL);
    errno = 77;
    raise(SIGUSR1);
    CHECK_EQ(errno, 77);
    CHECK_EQ(look(-1), 1);
    CHECK_EQ(found(KA_WAKE_TAG), KA_READ);
    for (i = 0; i < 70000; i++) /* EAGAIN is hidden, too */
        backend->wake(poller);
    errno = 78;
    raise(SIGUSR1);
    CHECK_EQ(errno, 78);
    CHECK_EQ(look(-1), 1);
    alarms(10000, wake_from_handler, 0);
    while (look(-1) == -EINTR) /* it may come before the wait */
        ;
    alarms(0, NULL, 0);
    CHECK_EQ(found(KA_WAKE_TAG), KA_READ);
}

static void the_set_can_be_polled(void) {
    struct pair pair = local_pair();
    int fd = backend->fileno(poller);

    CHECK_EQ(fd >= 0, !is("poll"));
    if (fd >= 0)
        CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    if (is("epoll")) { /* what stands in for a kqueue's cannot */
        CHECK_EQ(add(pair.near, KA_READ, 1), 0);
        feed(pair.far);
        CHECK_EQ(loop_await(fd, POLLIN), POLLIN);
    }
    loop_close(&pair);
}

static void all_of(const struct ka_backend *tested) {
    static const struct {
        const char *name;
        void (*body)(void);
    } cases[] = {
#define CASE(body) {#body, body}
        CASE(reading_and_writing),
        CASE(fin_is_readable),
        CASE(reset_is_broken_and_hung_up),
        CASE(pipes),
        CASE(local_sockets),
        CASE(tags_come_back_whole),
        CASE(more_than_the_array_holds),
        CASE(wrong_descriptors_are_refused),
        CASE(a_number_is_there_once),
        CASE(regular_files),
        CASE(a_closed_descriptor_is_forgotten),
        CASE(a_number_comes_back_at_once),
        CASE(a_number_comes_back_later),
        CASE(duplicates),
        CASE(any_order_of_calls),
        CASE(no_wait_is_too_short),
        CASE(a_signal_interrupts),
        CASE(a_wake_comes_before_the_wait),
        CASE(a_thread_wakes),
        CASE(a_signal_handler_wakes),
        CASE(the_set_can_be_polled),
    };
    char name[80];
    size_t i;

    backend = tested;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(name, sizeof name, "%s %s", backend->name, cases[i].name);
        test_run(name, cases[i].body);
    }
}

int main(void) {
    struct rlimit most;

    getrlimit(RLIMIT_NOFILE, &most);
    if (most.rlim_cur < 2048) {
        most.rlim_cur = most.rlim_max < 2048 ? most.rlim_max : 2048;
        setrlimit(RLIMIT_NOFILE, &most);
    }
    test.before = before;
    test.after = after;
    all_of(&best_poller);
    all_of(&ka_backend_poll);
    return test_report("poller");
}
