/* test_watcher_watch.c - connections that are watched one at a time, and what
 * their owners are told, by the watcher and by the kernel.
 */
#include "watcher_fixture.h"

#include <pthread.h>

/* ---- an owner that blocks ----------------------------------------------- */

struct owner {
    pthread_t thread;
    int fd;
    ssize_t got;
    int error;
};

static void *receive(void *argument) {
    struct owner *owner = argument;
    char byte;

    owner->got = recv(owner->fd, &byte, 1, 0);
    owner->error = errno;
    return NULL;
}

static void block_in(struct owner *owner, int fd) {
    owner->fd = fd;
    loop_need(pthread_create(&owner->thread, NULL, receive, owner) == 0,
              "pthread_create");
}

/* A blocked recv that comes back with an error, and not with an end. */
static void idle_aborts_by_an_error(void) {
    struct owner owner;
    struct pair pair;
    int64_t token;

    settings.discover = 0;
    settings.dry_run = 1; /* of others; a watch is its own */
    settings.closes_per_second = 1;
    open_watcher();
    pair = meet();
    token = watch(pair.far, KA_NO_TIME, 150, KA_DEED_ABORT);
    block_in(&owner, pair.far);
    if (told_of(pair.far, KA_FOR_IDLE)) {
        CHECK_EQ(event.token, token);
        CHECK_EQ(event.deed, KA_DEED_ABORT);
        CHECK_EQ(event.dry_run, 0);
        CHECK(event.clock_ms >= 150);
    }
    CHECK_EQ(STAT(watched), 0);
    CHECK_EQ(ka_watcher_cancel(watcher, token), 0);
    step_for(500);
    pthread_join(owner.thread, NULL);
    CHECK_EQ(owner.got, -1);
    CHECK(owner.error == ETIMEDOUT || owner.error == ECONNRESET ||
          owner.error == EPIPE);
    CHECK(loop_await(pair.near, POLLIN) & POLLERR);
    CHECK(!taken());
    CHECK_EQ(watcher->wards, 0);
    part(&pair);
}

/* Told when it is decided; what is left to do outlives the watch. */
static void silence_aborts_by_an_error(void) {
    struct owner owner;
    struct pair pair;
    int64_t token;

    settings.discover = 0;
    open_watcher();
    pair = meet();
    exchange(&pair);
    token = watch(pair.far, 300, KA_NO_TIME, KA_DEED_ABORT);
    step_for(30);
    vanish(pair.near);
    say(pair.far, "anybody?");
    block_in(&owner, pair.far);
    if (told_of(pair.far, KA_FOR_SILENT)) {
        CHECK_EQ(event.token, token);
        CHECK_EQ(event.deed, KA_DEED_ABORT);
    }
    CHECK_EQ(STAT(watched), 0);
    CHECK_EQ(watcher->wards, 1);
    CHECK_EQ(ka_watcher_cancel(watcher, token), 0);
    step_for(600);
    pthread_join(owner.thread, NULL);
    CHECK_EQ(owner.got, -1);
    CHECK(owner.error == ETIMEDOUT || owner.error == ECONNRESET ||
          owner.error == EPIPE);
    CHECK_EQ(watcher->wards, 0);
    CHECK(!taken());
    part(&pair);
}

static void idle_may_end_or_only_tell(void) {
    struct pair ended, left;

    settings.discover = 0;
    open_watcher();
    ended = meet();
    left = meet();
    (void)watch(ended.near, KA_NO_TIME, 150, KA_DEED_SHUTDOWN);
    (void)watch(left.near, KA_NO_TIME, 400, KA_DEED_NONE);
    if (told_of(ended.near, KA_FOR_IDLE))
        CHECK_EQ(event.deed, KA_DEED_SHUTDOWN);
    CHECK(at_end(ended.near) && at_end(ended.far));
    if (told_of(left.near, KA_FOR_IDLE))
        CHECK_EQ(event.deed, KA_DEED_NONE);
    step_for(200);
    CHECK(is_well(left.near) && is_well(left.far));
    CHECK(!taken());
    CHECK_EQ(watcher->wards, 0);
    CHECK_EQ(STAT(ended), 1);
    part(&ended);
    part(&left);
}

static void who_speaks_is_not_idle(void) {
    struct pair pair;
    int i;

    settings.discover = 0;
    open_watcher();
    pair = meet();
    (void)watch(pair.near, KA_NO_TIME, 250, KA_DEED_ABORT);
    for (i = 0; i < 8; i++) {
        say(pair.far, "tick");
        step_for(60);
        hear(pair.near, "tick");
    }
    CHECK(!taken());
    say(pair.far, "unread");
    step_for(400);
    CHECK(!taken()); /* its owner is late, not the peer */
    hear(pair.near, "unread");
    CHECK(told_of(pair.near, KA_FOR_IDLE));
    part(&pair);
}

static void ends_are_told(void) {
    struct pair reset, left, closed, refused;
    int64_t token;

    settings.discover = 0;
    open_watcher();
    reset = meet();
    token = watch(reset.near, 4000, KA_NO_TIME, KA_DEED_ABORT);
    step_for(30);
    loop_reset(&reset.far);
    if (told_of(reset.near, KA_FOR_RESET)) {
        CHECK_EQ(event.token, token);
        CHECK_EQ(event.err, ECONNRESET);
        CHECK_EQ(event.deed, KA_DEED_NONE);
        CHECK_EQ(event.peer.port, ntohs(place.sin_port));
    }
    CHECK_EQ(loop_error(reset.near), ECONNRESET); /* it is the owner's */
    part(&reset);

    closed = meet();
    token = watch(closed.near, 4000, KA_NO_TIME, KA_DEED_ABORT);
    step_for(30);
    close(closed.near);
    closed.near = -1;
    if (told()) {
        CHECK_EQ(event.cause, KA_FOR_GONE);
        CHECK_EQ(event.token, token);
    }
    part(&closed);

    left = meet(); /* an end of the peer's side is no death */
    token = watch(left.near, 4000, KA_NO_TIME, KA_DEED_ABORT);
    step_for(30);
    CHECK_EQ(shutdown(left.far, SHUT_WR), 0);
    step_for(300);
    CHECK(!taken());
    CHECK_EQ(ka_watcher_cancel(watcher, token), 1);
    part(&left);

    refused.near = socket(AF_INET, SOCK_STREAM, 0);
    close(listener);
    listener = -1;
    token = watch(refused.near, 4000, KA_NO_TIME, KA_DEED_ABORT);
    step_for(30);
    CHECK(!taken()); /* it has not been connected */
    close(refused.near);
    CHECK(told() && event.cause == KA_FOR_GONE && event.token == token);
}

static void the_kernel_s_own_timeout_is_told(void) {
    struct pair pair;

    settings.discover = 0;
    open_watcher();
    pair = meet();
    exchange(&pair);
    CHECK_EQ(ka_set(pair.far, KA_USER_TIMEOUT, 100), 0);
    (void)watch(pair.far, 60000, KA_NO_TIME, KA_DEED_ABORT);
    step_for(30);
    vanish(pair.near);
    say(pair.far, "anybody?");
    if (told_of(pair.far, KA_FOR_TIMED_OUT))
        CHECK_EQ(event.err, ETIMEDOUT);
    part(&pair);
}

static void a_watch_begins_when_it_is_connected(void) {
    struct pair pair;
    int64_t token, began;

    settings.discover = 0;
    open_watcher();
    pair.near = socket(AF_INET, SOCK_STREAM, 0);
    token = watch(pair.near, KA_NO_TIME, 200, KA_DEED_NONE);
    step_for(400);
    CHECK(!taken());
    loop_need(connect(pair.near, (struct sockaddr *)&place, sizeof place) == 0,
              "connect");
    began = ka_os_now_ms();
    pair.far = accept(listener, NULL, NULL);
    if (told_of(pair.near, KA_FOR_IDLE))
        CHECK_EQ(event.token, token);
    CHECK(ka_os_now_ms() - began >= 200 - ka_os_clock_lag_ms());
    part(&pair);
}

static void a_cancelled_watch_is_silent(void) {
    struct pair pair;
    int64_t token;

    settings.discover = 0;
    open_watcher();
    pair = meet();
    token = watch(pair.near, KA_NO_TIME, 100, KA_DEED_ABORT);
    step_for(30);
    CHECK_EQ(STAT(watched), 1);
    CHECK_EQ(ka_watcher_cancel(watcher, token), 1);
    CHECK_EQ(ka_watcher_cancel(watcher, token), 0);
    CHECK_EQ(ka_watcher_cancel(watcher, 0), 0);
    CHECK_EQ(ka_watcher_cancel(watcher, INT64_MAX), 0);
    CHECK_EQ(STAT(watched), 0);
    step_for(200);
    CHECK(!taken());
    CHECK(is_well(pair.near));
    part(&pair);
}

static void one_socket_may_have_several(void) {
    struct pair pair;
    int64_t first, second;

    settings.limits.never_spoke_ms = 60000;
    open_watcher();
    pair = meet();
    first = watch(pair.far, KA_NO_TIME, 150, KA_DEED_NONE);
    second = watch(pair.far, KA_NO_TIME, 350, KA_DEED_SHUTDOWN);
    CHECK(first != second);
    step_for(30);
    CHECK_EQ(STAT(tracked), 1);
    CHECK_EQ(STAT(watched), 2);
    CHECK(told_of(pair.far, KA_FOR_IDLE) && event.token == first);
    CHECK(is_well(pair.far));
    CHECK(told_of(pair.far, KA_FOR_IDLE) && event.token == second);
    CHECK(at_end(pair.far));
    step_for(50);
    CHECK_EQ(STAT(tracked), 1);
    CHECK_EQ(ka_watcher_hold(watcher, name_of(pair.far)), 0);
    part(&pair);
}

static void a_held_watch_waits_and_still_tells_a_reset(void) {
    struct pair pair;

    settings.discover = 0;
    open_watcher();
    pair = meet();
    (void)watch(pair.near, KA_NO_TIME, 100, KA_DEED_ABORT);
    CHECK_EQ(ka_watcher_hold(watcher, name_of(pair.near)), 0);
    step_for(300);
    CHECK(!taken());
    loop_reset(&pair.far);
    CHECK(told_of(pair.near, KA_FOR_RESET));
    part(&pair);
}

static void a_number_that_means_another_ends_the_watch(void) {
    struct pair old, fresh;
    int64_t token;

    settings.discover = 0;
    open_watcher();
    old = meet();
    token = watch(old.near, KA_NO_TIME, 60000, KA_DEED_ABORT);
    step_for(30);
    fresh = meet();
    CHECK_EQ(dup2(fresh.near, old.near), old.near);
    CHECK(told() && event.cause == KA_FOR_GONE);
    CHECK_EQ(event.token, token);
    CHECK_EQ(STAT(watched), 0);
    CHECK(is_well(fresh.near) && is_well(fresh.far));
    part(&old);
    part(&fresh);
}

/* Its owner has taken the error before the watcher knows of it. */
static void reset_and_taken(struct pair *pair) {
    loop_reset(&pair->far);
    CHECK(loop_await(pair->near, POLLIN) & POLLERR);
    CHECK_EQ(loop_error(pair->near), ECONNRESET);
}

static int64_t watch_from(int fd, const struct ka_first_look *first) {
    return ka_watcher_watch(watcher, fd, name_of(fd), first, 60000, KA_NO_TIME,
                            KA_DEED_ABORT);
}

static void what_was_seen_before_says_how_it_ended(void) {
    struct ka_first_look first;
    struct pair pair;

    settings.discover = 0;
    open_watcher();
    pair = meet();
    CHECK_EQ(ka_first_look(pair.near, &first), 0);
    CHECK(first.open && first.info.state == KA_TCP_ESTABLISHED);
    CHECK_EQ(first.peer.port, ntohs(place.sin_port));
    reset_and_taken(&pair);
    CHECK(watch_from(pair.near, &first) > 0);
    CHECK(told_of(pair.near, KA_FOR_RESET));
    CHECK_EQ(event.err, ECONNRESET);
    CHECK_EQ(event.peer.port, ntohs(place.sin_port));
    part(&pair);
}

static void what_was_seen_of_another_says_nothing(void) {
    struct pair pair, other;
    struct ka_first_look first;

    settings.discover = 0;
    open_watcher();
    pair = meet();
    other = meet();
    CHECK_EQ(ka_first_look(other.near, &first), 0);
    reset_and_taken(&pair);
    CHECK(watch_from(pair.near, &first) > 0);
    CHECK(told_of(pair.near, KA_FOR_GONE));
    CHECK_EQ(ka_first_look(-1, &first), -EBADF);
    part(&pair);
    part(&other);
}

static void who_was_never_quiet_is_reset_too(void) {
    struct ka_first_look first;
    struct pair pair;
    char much[1 << 16];

    settings.discover = 0;
    open_watcher();
    pair = meet();
    memset(much, 'x', sizeof much);
    while (send(pair.near, much, sizeof much, MSG_DONTWAIT) > 0)
        ;
    CHECK_EQ(ka_first_look(pair.near, &first), 0);
    CHECK(first.info.notsent_bytes > 0);
    reset_and_taken(&pair);
    CHECK(watch_from(pair.near, &first) > 0);
    CHECK(told_of(pair.near, KA_FOR_RESET));
    part(&pair);
}

int main(void) {
    test.before = begin_case;
    test.after = end_case;
    RUN(idle_aborts_by_an_error);
    RUN(silence_aborts_by_an_error);
    RUN(idle_may_end_or_only_tell);
    RUN(who_speaks_is_not_idle);
    RUN(ends_are_told);
    RUN(the_kernel_s_own_timeout_is_told);
    RUN(a_watch_begins_when_it_is_connected);
    RUN(a_cancelled_watch_is_silent);
    RUN(one_socket_may_have_several);
    RUN(a_held_watch_waits_and_still_tells_a_reset);
    RUN(a_number_that_means_another_ends_the_watch);
    RUN(what_was_seen_before_says_how_it_ended);
    RUN(what_was_seen_of_another_says_nothing);
    RUN(who_was_never_quiet_is_reset_too);
    return test_report("test_watcher_watch");
}
