/* kqueue.c on a model kqueue: what it asks, in which order, and what it makes
 * of the answers. What all pollers share is in test_poller.c. */
#include "test.h"
#include "loop.h"

#include <fcntl.h>
#include <stdint.h>
#include <sys/resource.h>

#include "model_kqueue.h"
#include "pollers.h"

#define RW (KA_READ | KA_WRITE)

static const struct ka_backend *const backend = &ka_backend_kqueue;
static struct ka_poller *poller;
static const struct ka_ready *ready;
static int count; /* of the last wait */
static struct pair pair;

static void before(void) {
    int end[2];

    model_reset();
    CHECK_EQ(backend->open(&poller), 0);
    loop_need(socketpair(AF_UNIX, SOCK_STREAM, 0, end) == 0, "socketpair");
    pair = (struct pair){end[0], end[1]};
    model_reset(); /* the wake's own */
}

static void after(void) {
    backend->close(poller);
    loop_close(&pair);
}

static void feed(void) {
    CHECK_EQ(write(pair.far, "x", 1), 1);
}

static int look(void) {
    count = backend->wait(poller, 0, &ready);
    return count;
}

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

static int there(int fd) {
    return model_filters(backend->fileno(poller), fd);
}

static int asked(int n, int filter, int flags) {
    return model.change[n].fd == pair.near &&
           model.change[n].filter == filter &&
           model.change[n].flags == (flags | EV_RECEIPT);
}

/* ---- changes ------------------------------------------------------------ */

static void two_filters_are_one_call(void) {
    CHECK_EQ(backend->add(poller, pair.near, RW, 1), 0);
    CHECK_EQ(model.calls, 1);
    CHECK_EQ(model.changes, 2);
    CHECK(asked(0, EVFILT_READ, EV_ADD));
    CHECK(asked(1, EVFILT_WRITE, EV_ADD));
    CHECK_EQ(backend->modify(poller, pair.near, KA_READ, 2), 0);
    CHECK_EQ(model.calls, 2);
    CHECK_EQ(model.changes, 4);
    CHECK(asked(2, EVFILT_READ, EV_ADD));
    CHECK(asked(3, EVFILT_WRITE, EV_DELETE));
    CHECK_EQ(look(), 0);
    feed();
    CHECK_EQ(look(), 1);
    CHECK_EQ(found(2), KA_READ);
    CHECK_EQ(backend->remove(poller, pair.near), 0);
    CHECK_EQ(model.changes, 5);
    CHECK(asked(4, EVFILT_READ, EV_DELETE));
    CHECK_EQ(look(), 0);
}

static void a_swap_drops_last(void) {
    CHECK_EQ(backend->add(poller, pair.near, KA_READ, 1), 0);
    feed();
    CHECK_EQ(backend->modify(poller, pair.near, KA_WRITE, 1), 0);
    CHECK_EQ(model.calls, 3);
    CHECK(asked(1, EVFILT_WRITE, EV_ADD));
    CHECK(asked(2, EVFILT_READ, EV_DELETE));
    CHECK_EQ(look(), 1);
    CHECK_EQ(found(1), KA_WRITE);
}

static void half_an_add_is_undone(void) {
    int which;

    feed();
    for (which = 0; which < 2; which++) {
        model.refuse[which] = ENOMEM;
        CHECK_EQ(backend->add(poller, pair.near, RW, 1), -ENOMEM);
        CHECK_EQ(there(pair.near), 0);
        CHECK_EQ(look(), 0);
        CHECK_EQ(backend->remove(poller, pair.near), -ENOENT);
        CHECK_EQ(backend->modify(poller, pair.near, RW, 1), -ENOENT);
        model.refuse[which] = 0;
    }
    CHECK_EQ(backend->add(poller, pair.near, RW, 1), 0);
    CHECK_EQ(look(), 1);
    CHECK_EQ(found(1), RW);
}

static void a_failed_modify_changes_nothing(void) {
    feed();
    CHECK_EQ(backend->add(poller, pair.near, KA_READ, 1), 0);
    model.refuse[1] = ENOMEM;
    CHECK_EQ(backend->modify(poller, pair.near, RW, 2), -ENOMEM);
    CHECK_EQ(there(pair.near), KA_READ);
    CHECK_EQ(backend->modify(poller, pair.near, KA_WRITE, 2), -ENOMEM);
    CHECK_EQ(there(pair.near), KA_READ);
    CHECK_EQ(look(), 1);
    CHECK_EQ(found(1), KA_READ);
    model.refuse[1] = 0;
    CHECK_EQ(backend->modify(poller, pair.near, KA_WRITE, 2), 0);
    model.refuse[0] = EBADF;
    CHECK_EQ(backend->modify(poller, pair.near, RW, 3), -EBADF);
    CHECK_EQ(there(pair.near), KA_WRITE);
    CHECK_EQ(look(), 1);
    CHECK_EQ(found(2), KA_WRITE);
}

static void what_cannot_be_waited_for_is_refused_alike(void) {
    static const int words[] = {EINVAL, ENODEV, EOPNOTSUPP};
    int null = open("/dev/null", O_RDWR);
    size_t i;

    CHECK_EQ(backend->add(poller, null, KA_READ, 1), -EPERM);
    close(null);
    for (i = 0; i < 3; i++) {
        model.refuse[0] = words[i];
        CHECK_EQ(backend->add(poller, pair.near, RW, 1), -EPERM);
    }
    model.refuse[0] = 0;
    model.refuse[1] = EPIPE; /* says something else */
    CHECK_EQ(backend->add(poller, pair.near, RW, 1), -EPIPE);
    CHECK_EQ(there(pair.near), 0);
}

static void a_pipe_without_reader_is_refused(void) {
    int end[2];

    loop_need(pipe(end) == 0, "pipe");
    close(end[0]);
    CHECK_EQ(backend->add(poller, end[1], KA_WRITE, 1), -EPIPE);
    CHECK_EQ(look(), 0);
    close(end[1]);
}

static void regular_files_are_readable_before_their_end(void) {
    FILE *file = tmpfile();
    int fd = fileno(file);

    CHECK_EQ(backend->add(poller, fd, KA_READ, 1), 0);
    CHECK_EQ(write(fd, "x", 1), 1);
    CHECK_EQ(look(), 0);
    lseek(fd, 0, SEEK_SET);
    CHECK_EQ(look(), 1);
    CHECK_EQ(found(1), KA_READ);
    fclose(file);
    CHECK_EQ(look(), 0);
}

static void added_twice_the_new_one_counts(void) {
    CHECK_EQ(backend->add(poller, pair.near, RW, 1), 0);
    CHECK_EQ(backend->add(poller, pair.near, KA_READ, 2), 0);
    CHECK_EQ(there(pair.near), KA_READ);
    feed();
    CHECK_EQ(look(), 1);
    CHECK_EQ(found(2), KA_READ);
}

static void an_interrupted_change_is_made(void) {
    model.interrupts = 2;
    CHECK_EQ(backend->add(poller, pair.near, RW, 1), 0);
    CHECK_EQ(there(pair.near), RW);
    model.interrupts = 1;
    CHECK_EQ(backend->modify(poller, pair.near, KA_WRITE, 2), 0);
    CHECK_EQ(there(pair.near), KA_WRITE);
    model.interrupts = 1;
    CHECK_EQ(backend->remove(poller, pair.near), 0);
    CHECK_EQ(there(pair.near), 0);
    CHECK_EQ(backend->remove(poller, pair.near), -ENOENT);
    model.interrupts = 1;
    CHECK_EQ(backend->wake(poller), 0);
    model.interrupts = 0;
    CHECK_EQ(look(), 1);
    CHECK_EQ(found(KA_WAKE_TAG), KA_READ);
}

/* ---- closed, and back again --------------------------------------------- */

static void come_back(void) {
    int other = dup(pair.near);

    loop_need(dup2(other, pair.near) == pair.near, "dup2");
    close(other);
}

static void what_has_been_closed_is_not_there(void) {
    CHECK_EQ(backend->add(poller, pair.near, KA_READ, 1), 0);
    feed();
    come_back();
    CHECK_EQ(look(), 0);
    CHECK_EQ(backend->remove(poller, pair.near), -ENOENT);
    CHECK_EQ(backend->add(poller, pair.near, KA_READ, 2), 0);
    come_back();
    CHECK_EQ(backend->modify(poller, pair.near, RW, 3), 0); /* adds */
    CHECK_EQ(there(pair.near), RW);
    come_back();
    CHECK_EQ(backend->add(poller, pair.near, KA_WRITE, 4), 0);
    CHECK_EQ(there(pair.near), KA_WRITE);
    CHECK_EQ(look(), 1);
    CHECK_EQ(found(4), KA_WRITE);
    close(pair.near);
    CHECK_EQ(backend->modify(poller, pair.near, KA_READ, 5), -EBADF);
    CHECK_EQ(backend->remove(poller, pair.near), -EBADF);
    pair.near = -1;
}

static void high_numbers(void) {
    static const int numbers[] = {63, 64, 129, 1500};
    size_t i;

    for (i = 0; i < 4; i++)
        CHECK_EQ(backend->add(poller, dup2(pair.near, numbers[i]), KA_WRITE,
                              numbers[i]),
                 0);
    CHECK_EQ(look(), 4);
    for (i = 0; i < 4; i++) {
        CHECK_EQ(found(numbers[i]), KA_WRITE);
        close(numbers[i]);
    }
    CHECK_EQ(look(), 0);
}

/* Half of it is in place, and the number is another's. */
static void a_reused_number_is_not_half_added(void) {
    CHECK_EQ(backend->add(poller, pair.near, KA_READ, 1), 0);
    come_back();
    model.refuse[1] = ENOMEM;
    CHECK_EQ(backend->add(poller, pair.near, RW, 2), -ENOMEM);
    CHECK_EQ(there(pair.near), 0);
}

/* ---- what a wait makes of events ---------------------------------------- */

static uint32_t made_of(int filter, int flags, unsigned fflags, int data) {
    struct kevent event;

    memset(&event, 0, sizeof event);
    event.ident = (uintptr_t)pair.near;
    event.filter = (short)filter;
    event.flags = (unsigned short)flags;
    event.fflags = fflags;
    event.data = data;
    model.inject = &event;
    model.injected = 1;
    return look() == 1 ? found(7) : (uint32_t)count;
}

static void ends(void) {
    static const struct {
        int filter, flags;
        unsigned fflags;
        int data;
        uint32_t events;
    } rows[] = {
        {EVFILT_READ, 0, 0, 5, KA_READ},
        {EVFILT_READ, EV_EOF, 0, 0, KA_READ},
        {EVFILT_READ, EV_EOF, 0, 5, KA_READ}, /* data before the end */
        {EVFILT_READ, EV_EOF, ECONNRESET, 0, KA_READ | KA_BROKEN | KA_HANGUP},
        {EVFILT_READ, EV_EOF, ETIMEDOUT, 5, KA_READ | KA_BROKEN | KA_HANGUP},
        {EVFILT_READ, 0, 1, 5, KA_READ}, /* not an error without the end */
        {EVFILT_WRITE, 0, 0, 2048, KA_WRITE},
        {EVFILT_WRITE, EV_EOF, 0, 0, KA_WRITE},
        {EVFILT_WRITE, EV_EOF, EPIPE, 0, KA_WRITE | KA_BROKEN | KA_HANGUP},
        {EVFILT_READ, EV_ERROR, 0, EIO, KA_READ | KA_BROKEN},
        {EVFILT_READ, EV_ERROR, 0, EBADF, 0},
        {EVFILT_WRITE, EV_ERROR, 0, ENOENT, 0},
    };
    size_t i;

    CHECK_EQ(backend->add(poller, pair.near, KA_READ, 7), 0);
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++)
        CHECK_EQ(made_of(rows[i].filter, rows[i].flags, rows[i].fflags,
                         rows[i].data),
                 rows[i].events);
}

static void both_filters_are_one_entry(void) {
    int twin[30];
    int i;

    feed();
    for (i = 0; i < 30; i++) {
        twin[i] = dup(pair.near);
        CHECK_EQ(backend->add(poller, twin[i], i % 3 + 1, 100 + i), 0);
    }
    CHECK_EQ(look(), 30); /* all reading comes before all writing */
    for (i = 0; i < 30; i++)
        CHECK_EQ(found(100 + i), i % 3 + 1);
    for (i = 0; i < 30; i += 2)
        close(twin[i]);
    CHECK_EQ(look(), 15); /* others are in their places now */
    for (i = 1; i < 30; i += 2)
        CHECK_EQ(found(100 + i), i % 3 + 1);
    for (i = 1; i < 30; i += 2)
        close(twin[i]);
}

static void a_reset_on_both_sides_is_one_entry(void) {
    struct pair tcp = loop_pair();

    loop_reset(&tcp.far);
    loop_await(tcp.near, POLLIN);
    CHECK_EQ(backend->add(poller, tcp.near, RW, 1), 0);
    CHECK_EQ(look(), 1);
    CHECK_EQ(found(1), RW | KA_BROKEN | KA_HANGUP);
    CHECK_EQ(loop_error(tcp.near), ECONNRESET); /* left for its owner */
    loop_close(&tcp);
}

static void many_add(int *twin, int n) {
    int i;

    for (i = 0; i < n; i++) {
        twin[i] = dup(pair.near);
        CHECK_EQ(backend->add(poller, twin[i], KA_WRITE, (uint64_t)i), 0);
    }
}

static void many_close(const int *twin, int n) {
    int i;

    for (i = 0; i < n; i++)
        close(twin[i]);
}

/* A wake is told once, and that was the answer that has been thrown away. */
static void growth_loses_no_wake(void) {
    int twin[200];

    many_add(twin, 200);
    CHECK_EQ(backend->wake(poller), 0);
    CHECK_EQ(look(), 201);
    CHECK_EQ(found(KA_WAKE_TAG), KA_READ);
    CHECK_EQ(look(), 200);
    CHECK_EQ(found(KA_WAKE_TAG), 0);
    many_close(twin, 200);
}

static void an_interrupted_second_answer_is_none(void) {
    int twin[64];

    many_add(twin, 64);
    CHECK_EQ(backend->wake(poller), 0);
    model.first_only = 2;
    CHECK_EQ(look(), 64); /* with the wake, 63 others */
    CHECK_EQ(found(KA_WAKE_TAG), KA_READ);
    CHECK_EQ(look(), 64);
    CHECK_EQ(found(KA_WAKE_TAG), 0);
    model.first_only = 1;
    CHECK_EQ(look(), -EINTR);
    many_close(twin, 64);
}

/* ---- fork --------------------------------------------------------------- */

static int child(void) {
    int number = backend->fileno(poller);
    struct ka_poller *own;
    int another;

    if (fcntl(number, F_GETFD) >= 0 || dup2(pair.near, number) != number)
        return 1; /* the number is free, and means another file now */
    if (backend->open(&own) < 0)
        return 2;
    backend->close(poller);
    if (fcntl(number, F_GETFD) < 0)
        return 3;
    another = backend->fileno(own);
    backend->close(own);
    return fcntl(another, F_GETFD) >= 0 ? 4 : 0;
}

static void a_child_closes_nothing_of_its_own(void) {
    int status = -1;
    pid_t pid;

    CHECK_EQ(backend->add(poller, pair.near, KA_READ, 1), 0);
    fflush(stdout);
    pid = fork();
    if (pid == 0)
        _exit(child());
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    feed();
    CHECK_EQ(look(), 1);
    CHECK_EQ(found(1), KA_READ);
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
    RUN(two_filters_are_one_call);
    RUN(a_swap_drops_last);
    RUN(half_an_add_is_undone);
    RUN(a_failed_modify_changes_nothing);
    RUN(what_cannot_be_waited_for_is_refused_alike);
    RUN(a_pipe_without_reader_is_refused);
    RUN(regular_files_are_readable_before_their_end);
    RUN(added_twice_the_new_one_counts);
    RUN(an_interrupted_change_is_made);
    RUN(what_has_been_closed_is_not_there);
    RUN(high_numbers);
    RUN(a_reused_number_is_not_half_added);
    RUN(ends);
    RUN(both_filters_are_one_entry);
    RUN(a_reset_on_both_sides_is_one_entry);
    RUN(growth_loses_no_wake);
    RUN(an_interrupted_second_answer_is_none);
    RUN(a_child_closes_nothing_of_its_own);
    return test_report("kqueue");
}
