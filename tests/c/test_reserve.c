/* The reserved number: whose it is, and when it may be used. The innocent
 * must survive all of it. */
#include "test.h"
#include "loop.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "reserve_fixture.h"

static uint64_t inode_of(int fd) {
    struct stat seen;

    return fstat(fd, &seen) == 0 ? (uint64_t)seen.st_ino : 0;
}

/* On some systems its ends have two numbers, or none. */
static int is_our_pipe(int fd) {
    struct stat seen;

    return fstat(fd, &seen) == 0 && S_ISFIFO(seen.st_mode) &&
           (seen.st_ino == 0 || inode_of(fd) == reserve.inode ||
            inode_of(fd) == reserve.twin);
}

static uint64_t cookie_of(int fd) {
    uint64_t cookie = 0;
    socklen_t size = sizeof cookie;

    getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size);
    return cookie;
}

static int is_open(int fd) {
    return fcntl(fd, F_GETFD) >= 0;
}

static int talks(int from, int to) {
    char byte = 0;

    return send(from, "x", 1, MSG_NOSIGNAL) == 1 &&
           recv(to, &byte, 1, 0) == 1 && byte == 'x';
}

/* ---- our numbers -------------------------------------------------------- */

static void its_numbers_are_well_kept(void) {
    const int number[2] = {reserve.sock, reserve.filler};
    char byte;
    int i;

    for (i = 0; i < 2; i++) {
        CHECK_EQ(number[i], lowest + i);
        CHECK(fcntl(number[i], F_GETFD) & FD_CLOEXEC);
        CHECK(is_our_pipe(number[i]));
    }
    CHECK_EQ(read(reserve.sock, &byte, 1), -1); /* and does not block */
    CHECK_EQ(errno, EAGAIN);
    ka_reserve_close(&reserve);
    CHECK(!is_open(number[0]) && !is_open(number[1]));
    CHECK_EQ(reserve.sock, -1);
    CHECK_EQ(ka_reserve_take(&reserve, 2), -ESTALE);
    ka_reserve_give(&reserve);
    ka_reserve_close(&reserve);
}

static void standard_numbers_stay_free(void) {
    struct ka_reserve other;
    int input = dup(0);

    close(0);
    CHECK_EQ(ka_reserve_open(&other), 0);
    CHECK(other.sock >= 3 && other.filler >= 3);
    CHECK(!is_open(0));
    CHECK(fcntl(other.sock, F_GETFD) & FD_CLOEXEC);
    ka_reserve_close(&other);
    CHECK_EQ(dup2(input, 0), 0);
    close(input);
}

static void without_a_number_there_is_no_reserve(void) {
    struct rlimit limit, few;
    struct ka_reserve other;

    getrlimit(RLIMIT_NOFILE, &limit);
    few = limit;
    few.rlim_cur = (rlim_t)lowest_free() + 1; /* one of two */
    setrlimit(RLIMIT_NOFILE, &few);
    CHECK_EQ(ka_reserve_open(&other), -EMFILE);
    CHECK_EQ(other.sock, -1);
    ka_reserve_close(&other);
    CHECK_EQ(lowest_free(), (int)few.rlim_cur - 1);
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* ---- take and give ------------------------------------------------------ */

static void a_duplicate_is_the_same_socket(void) {
    struct pair pair = loop_pair();
    int i;

    for (i = 0; i < 1000; i++) {
        if (ka_reserve_take(&reserve, pair.near) != 0 ||
            cookie_of(reserve.sock) != cookie_of(pair.near)) {
            CHECK(!"taken");
            break;
        }
        ka_reserve_give(&reserve);
    }
    CHECK_EQ(ka_reserve_take(&reserve, pair.far), 0);
    CHECK(reserve.taken);
    CHECK_EQ(cookie_of(reserve.sock), cookie_of(pair.far));
    CHECK(fcntl(reserve.sock, F_GETFD) & FD_CLOEXEC);
    ka_reserve_give(&reserve);
    CHECK(!reserve.taken);
    CHECK(is_our_pipe(reserve.sock));
    CHECK(fcntl(reserve.sock, F_GETFD) & FD_CLOEXEC);
    ka_reserve_give(&reserve); /* nothing is taken */
    CHECK(is_our_pipe(reserve.sock));
    CHECK(talks(pair.near, pair.far) && talks(pair.far, pair.near));
    loop_close(&pair);
}

static void given_back_the_owner_s_close_ends_it(void) {
    struct pair pair = loop_pair();

    CHECK_EQ(ka_reserve_take(&reserve, pair.near), 0);
    close(pair.near);
    pair.near = -1;
    {
        struct pollfd far = {pair.far, POLLIN | POLLRDHUP, 0};

        CHECK_EQ(poll(&far, 1, 0), 0);
    }
    ka_reserve_give(&reserve);
    CHECK(loop_await(pair.far, POLLIN | POLLRDHUP) & POLLRDHUP);
    loop_close(&pair);
}

static void closed_while_taken(void) {
    struct pair pair = loop_pair();
    int number = reserve.sock;

    CHECK_EQ(ka_reserve_take(&reserve, pair.near), 0);
    ka_reserve_close(&reserve);
    CHECK(!is_open(number));
    CHECK(talks(pair.near, pair.far));
    loop_close(&pair);
}

static void what_is_no_open_socket_is_not_taken(void) {
    struct pair pair = loop_pair();
    int number = pair.far, file = open("/dev/null", O_RDONLY);

    close(pair.far);
    pair.far = -1;
    CHECK_EQ(ka_reserve_take(&reserve, number), -EBADF);
    CHECK_EQ(ka_reserve_take(&reserve, -1), -EBADF);
    CHECK_EQ(ka_reserve_take(&reserve, INT32_MAX), -EBADF);
    CHECK_EQ(ka_reserve_take(&reserve, reserve.sock), -EBADF);
    CHECK_EQ(ka_reserve_take(&reserve, reserve.filler), -EBADF);
    CHECK_EQ(ka_reserve_take(&reserve, file), -EBADF);
    CHECK(!reserve.taken);
    CHECK(is_our_pipe(reserve.sock));
    CHECK_EQ(ka_reserve_take(&reserve, pair.near), 0);
    ka_reserve_give(&reserve);
    close(file);
    loop_close(&pair);
}

static void it_acts_without_a_number_left(void) {
    struct pair pair = loop_pair();
    struct rlimit limit, full;
    char byte;

    getrlimit(RLIMIT_NOFILE, &limit);
    full = limit;
    full.rlim_cur = (rlim_t)lowest_free();
    setrlimit(RLIMIT_NOFILE, &full);
    CHECK_EQ(dup(pair.near), -1);
    CHECK_EQ(errno, EMFILE);
    CHECK_EQ(ka_reserve_take(&reserve, pair.near), 0);
    CHECK_EQ(ka_end_shutdown(reserve.sock), 0);
    ka_reserve_give(&reserve);
    CHECK_EQ(recv(pair.near, &byte, 1, 0), 0);
    CHECK_EQ(recv(pair.far, &byte, 1, 0), 0);
    setrlimit(RLIMIT_NOFILE, &limit);
    loop_close(&pair);
}

/* dup3 says EBADF then, as if the connection were gone. */
static void a_limit_below_it_is_not_a_closed_socket(void) {
    struct pair pair = loop_pair();
    struct rlimit limit, low;

    getrlimit(RLIMIT_NOFILE, &limit);
    low = limit;
    low.rlim_cur = (rlim_t)reserve.sock;
    setrlimit(RLIMIT_NOFILE, &low);
    CHECK_EQ(ka_reserve_take(&reserve, pair.near), -EMFILE);
    setrlimit(RLIMIT_NOFILE, &limit);
    CHECK_EQ(ka_reserve_take(&reserve, pair.near), 0);
    ka_reserve_give(&reserve);
    loop_close(&pair);
}

/* ---- numbers that were closed by somebody else -------------------------- */

/* An innocent file under a number that was ours. */
static int innocent_at(int number) {
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

    loop_need(fd >= 0 && fd != number && dup2(fd, number) == number,
              "innocent");
    return fd;
}

static void lost(int number) {
    struct pair pair = loop_pair();
    int fd = innocent_at(number);

    CHECK_EQ(ka_reserve_take(&reserve, pair.near), -ESTALE);
    CHECK(!reserve.taken);
    ka_reserve_give(&reserve);
    CHECK_EQ(inode_of(number), inode_of(fd));
    ka_reserve_close(&reserve);
    CHECK_EQ(inode_of(number), inode_of(fd));
    CHECK(talks(pair.near, pair.far));
    close(number);
    close(fd);
    loop_close(&pair);
}

static void who_got_our_number_keeps_it(void) {
    lost(reserve.sock);
}

static void who_got_our_other_number_keeps_it(void) {
    lost(reserve.filler);
}

static void a_closed_number_is_not_used_again(void) {
    struct pair pair = loop_pair();
    int number = reserve.sock;

    close(number);
    CHECK_EQ(ka_reserve_take(&reserve, pair.near), -ESTALE);
    CHECK(!is_open(number));
    loop_close(&pair);
}

static void who_got_it_while_taken_keeps_it(int with_a_file) {
    struct pair pair = loop_pair();
    int number = reserve.sock, again;

    for (again = 0; again < 2; again++) { /* give, then close */
        int fd;

        CHECK_EQ(ka_reserve_take(&reserve, pair.near), 0);
        if (with_a_file) {
            fd = innocent_at(number);
        } else {
            fd = dup(pair.far);
            loop_need(dup2(fd, number) == number, "dup2");
        }
        if (again == 0) {
            ka_reserve_give(&reserve);
            CHECK_EQ(ka_reserve_take(&reserve, pair.near), -ESTALE);
        } else {
            ka_reserve_close(&reserve);
        }
        CHECK_EQ(inode_of(number), inode_of(fd));
        close(number);
        close(fd);
        ka_reserve_close(&reserve);
        loop_need(ka_reserve_open(&reserve) == 0, "ka_reserve_open");
        number = reserve.sock;
    }
    CHECK(talks(pair.near, pair.far));
    loop_close(&pair);
}

static void a_file_that_got_it_while_taken_survives(void) {
    who_got_it_while_taken_keeps_it(1);
}

static void a_socket_that_got_it_while_taken_survives(void) {
    who_got_it_while_taken_keeps_it(0);
}

/* The duplicate would hold the connection open for ever. */
static void a_lost_pipe_leaves_no_duplicate(void) {
    struct pair pair = loop_pair();
    int number = reserve.sock, filler = reserve.filler, fd;

    CHECK_EQ(ka_reserve_take(&reserve, pair.near), 0);
    fd = innocent_at(filler);
    ka_reserve_give(&reserve);
    CHECK(!is_open(number));
    CHECK_EQ(inode_of(filler), inode_of(fd));
    CHECK_EQ(ka_reserve_take(&reserve, pair.near), -ESTALE);
    CHECK(talks(pair.near, pair.far));
    close(filler);
    close(fd);
    loop_close(&pair);
}

static void a_child_closes_its_own_copies(void) {
    struct pair pair = loop_pair();
    int status = -1;
    pid_t child;

    CHECK_EQ(ka_reserve_take(&reserve, pair.near), 0);
    child = fork();
    if (child == 0) {
        int number = reserve.sock, filler = reserve.filler;

        ka_reserve_abandon(&reserve);
        _exit(is_open(number) || is_open(filler));
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    CHECK_EQ(cookie_of(reserve.sock), cookie_of(pair.near));
    ka_reserve_give(&reserve);
    CHECK(talks(pair.near, pair.far));
    loop_close(&pair);
}

static struct pair many[8];
static _Atomic int over;

static void *take_and_give(void *argument) {
    uint32_t i;

    for (i = 0; !over; i++)
        if (ka_reserve_take(&reserve, many[i % 8].near) == 0)
            ka_reserve_give(&reserve);
    return argument;
}

/* Kept, it would hold a connection open that the child has closed. */
static void whenever_it_is_forked_a_child_closes_its_own(void) {
    int i, status, bad = 0;
    pthread_t thread;
    pid_t child;

    for (i = 0; i < 8; i++)
        many[i] = loop_pair();
    over = 0;
    loop_need(pthread_create(&thread, NULL, take_and_give, NULL) == 0,
              "pthread_create");
    for (i = 0; i < 100; i++) {
        child = fork();
        if (child == 0) {
            int number = reserve.sock, filler = reserve.filler;

            ka_reserve_abandon(&reserve);
            _exit(is_open(number) || is_open(filler));
        }
        status = -1;
        waitpid(child, &status, 0);
        bad += status != 0;
    }
    over = 1;
    pthread_join(thread, NULL);
    CHECK_EQ(bad, 0);
    for (i = 0; i < 8; i++)
        loop_close(&many[i]);
}

/* In a child as in the parent, what somebody else has put there stays. */
static void a_child_leaves_alone_what_is_not_its_own(void) {
    struct pair pair = loop_pair();
    int number = reserve.sock, status = -1;
    pid_t child;

    CHECK_EQ(ka_reserve_take(&reserve, pair.near), 0);
    ka_reserve_give(&reserve);
    child = fork();
    if (child == 0) {
        CHECK_EQ(dup2(pair.far, number), number);
        ka_reserve_abandon(&reserve);
        _exit(test.failed || !is_open(number));
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    loop_close(&pair);
}

int main(void) {
    test.before = before;
    test.after = after;
    RUN(its_numbers_are_well_kept);
    RUN_FORKED(standard_numbers_stay_free);
    RUN(without_a_number_there_is_no_reserve);
    RUN(a_duplicate_is_the_same_socket);
    RUN(given_back_the_owner_s_close_ends_it);
    RUN(closed_while_taken);
    RUN(what_is_no_open_socket_is_not_taken);
    RUN(it_acts_without_a_number_left);
    RUN(a_limit_below_it_is_not_a_closed_socket);
    RUN(who_got_our_number_keeps_it);
    RUN(who_got_our_other_number_keeps_it);
    RUN(a_closed_number_is_not_used_again);
    RUN(a_file_that_got_it_while_taken_survives);
    RUN(a_socket_that_got_it_while_taken_survives);
    RUN(a_lost_pipe_leaves_no_duplicate);
    RUN(a_child_closes_its_own_copies);
    RUN(whenever_it_is_forked_a_child_closes_its_own);
    RUN(a_child_leaves_alone_what_is_not_its_own);
    return test_report("reserve");
}
