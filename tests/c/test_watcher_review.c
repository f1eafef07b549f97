/* test_watcher_review.c - moments in which something could go unnoticed: a
 * full ring, a hold that is over too soon, a connect that fails at once, a
 * process that was stopped in the middle of an abort.
 */
#include "watcher_fixture.h"

#include <sched.h>
#include <stdlib.h>

static struct ka_ward *ward_of(int fd) {
    struct ka_ward *ward = ka_ward_next(watcher, name_of(fd), NULL);

    loop_need(ward != NULL, "it was found");
    return ward;
}

/* ---- what is told in the end -------------------------------------------- */

/* Those who wait for a watch would wait for ever. */
static void the_loss_is_told_when_there_is_room(void) {
    struct pair first, second;

    settings.discover = 0;
    loop_need(ka_watcher_new(&watcher, &settings, 1) == 0, "ka_watcher_new");
    first = meet();
    second = meet();
    (void)watch(first.far, KA_NO_TIME, 100, KA_DEED_NONE);
    step_for(300); /* the ring is full now */
    close(watcher->reserve.sock);
    (void)watch(second.far, KA_NO_TIME, 100, KA_DEED_NONE);
    step_for(400);
    CHECK(step_now() != KA_NO_TIME);
    if (told_of(first.far, KA_FOR_IDLE))
        CHECK(told() && event.cause == KA_FOR_LOST);
    CHECK_EQ(step_now(), KA_NO_TIME);
    CHECK(is_well(second.far) && is_well(second.near));
    CHECK_EQ(STAT(dropped), 0);
    part(&first);
    part(&second);
}

/* It has failed before the first look, and is CLOSE as if it never was. */
static void a_connect_that_fails_at_once_is_told(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), soon = 1;

    settings.discover = 0;
    open_watcher();
    vanish(listener);
    CHECK_EQ(setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &soon, sizeof soon),
             0);
    CHECK(connect(fd, (struct sockaddr *)&place, sizeof place) < 0 &&
          errno == EINPROGRESS);
    (void)watch(fd, 8000, KA_NO_TIME, KA_DEED_ABORT);
    CHECK(loop_await(fd, POLLOUT) & POLLERR);
    step_for(200);
    if (CHECK(taken())) {
        CHECK_EQ(event.cause, KA_FOR_TIMED_OUT);
        CHECK_EQ(event.err, ETIMEDOUT);
    }
    CHECK_EQ(STAT(watched), 0);
    close(fd);
}

/* ---- clocks ------------------------------------------------------------- */

static void a_hold_counts_before_it_is_found(void) {
    struct pair held, free;

    settings.limits.never_spoke_ms = 300;
    open_watcher();
    held = meet();
    free = meet();
    CHECK_EQ(ka_watcher_hold(watcher, name_of(held.far)), 0);
    nap(350);
    ka_watcher_release(watcher, name_of(held.far));
    CHECK_EQ(STAT(held), 0);
    CHECK(told_of(free.far, KA_FOR_NEVER_SPOKE));
    step_for(150);
    CHECK(!taken());
    CHECK(is_well(held.far) && is_well(held.near));
    CHECK_EQ(watcher->released, 0);
    if (told_of(held.far, KA_FOR_NEVER_SPOKE))
        CHECK(event.clock_ms >= 300);
    part(&held);
    part(&free);
}

static void holds_of_who_never_comes_are_forgotten(void) {
    uint64_t name;

    settings.limits.never_spoke_ms = 1000;
    open_watcher();
    for (name = 1; name <= 1000; name++)
        CHECK_EQ(ka_watcher_hold(watcher, name << 40), 0);
    CHECK_EQ(STAT(held), 1000);
    for (name = 1; name <= 1000; name++)
        ka_watcher_release(watcher, name << 40);
    CHECK_EQ(watcher->released, 1000);
    ka_watcher_release(watcher, (uint64_t)1 << 40); /* once too often */
    CHECK_EQ(ka_watcher_hold(watcher, (uint64_t)2 << 40), 0);
    CHECK_EQ(STAT(held), 1);
    CHECK(!ka_is_held(watcher, (uint64_t)1 << 40));
    CHECK(ka_is_held(watcher, (uint64_t)2 << 40));
    step_for(800);
    CHECK_EQ(watcher->released, 0);
    CHECK(ka_is_held(watcher, (uint64_t)2 << 40));
    ka_watcher_release(watcher, (uint64_t)2 << 40);
    CHECK_EQ(STAT(held), 0);

    settings.discover = 0; /* nobody will be found */
    update();
    CHECK_EQ(ka_watcher_hold(watcher, (uint64_t)3 << 40), 0);
    ka_watcher_release(watcher, (uint64_t)3 << 40);
    CHECK_EQ(watcher->released, 1); /* that of before */
}

/* The look found it idle, and then it spoke. */
static void a_drain_looks_again_at_who_spoke(void) {
    struct pair pair;
    int64_t again;

    settings.evict_above = 1000;
    settings.evict_idle_ms = 100;
    open_watcher();
    pair = meet();
    exchange(&pair);
    step_for(50);
    ka_watcher_drain(watcher, 1);
    exchange(&pair);
    again = ka_deed_act(watcher, ward_of(pair.far), KA_FOR_DRAINED,
                        ka_os_now_ms());
    CHECK(again > 0 && again <= KA_DRAIN_MS);
    CHECK(is_well(pair.near) && !taken());
    ka_watcher_drain(watcher, 0);
    again = ka_deed_act(watcher, ward_of(pair.far), KA_FOR_DRAINED,
                        ka_os_now_ms());
    CHECK_EQ(again, KA_NO_TIME); /* nothing can be due */
    part(&pair);
}

/* The owner was stopped, too, and has not had his five seconds to read. */
static void a_stop_within_an_abort_is_no_time_to_read(void) {
    struct pair pair;
    char heard[20];
    int64_t now;

    settings.discover = 0;
    open_watcher();
    pair = meet();
    exchange(&pair);
    (void)watch(pair.far, 300, KA_NO_TIME, KA_DEED_ABORT);
    step_for(30);
    say(pair.near, "last words");
    vanish(pair.near);
    say(pair.far, "anybody?");
    CHECK(told_of(pair.far, KA_FOR_SILENT));
    now = ka_os_now_ms() + 10000;
    (void)ka_watcher_step(watcher, now);
    (void)ka_watcher_step(watcher, now + 400);
    CHECK_EQ(STAT(stalls), 1);
    CHECK_EQ(recv(pair.far, heard, sizeof heard, MSG_DONTWAIT), 10);
    part(&pair);
}

/* Told is told: it does not live on with what was set to end it. */
static void who_comes_back_is_aborted_all_the_same(void) {
    struct pair pair;
    int none = 0;
    char byte;

    settings.discover = 0;
    open_watcher();
    pair = meet();
    exchange(&pair);
    (void)watch(pair.far, 300, KA_NO_TIME, KA_DEED_ABORT);
    step_for(30);
    vanish(pair.near);
    say(pair.far, "anybody?");
    CHECK(told_of(pair.far, KA_FOR_SILENT));
    CHECK_EQ(setsockopt(pair.near, SOL_SOCKET, SO_DETACH_FILTER, &none,
                        sizeof none),
             0);
    step_for(50);
    say(pair.near, "yes!"); /* acknowledges nothing, but is heard */
    step_for(600);
    hear(pair.far, "yes!"); /* it was kept for the owner */
    step_for(200);
    CHECK_EQ(recv(pair.far, &byte, 1, MSG_DONTWAIT), -1);
    CHECK(errno == ETIMEDOUT || errno == ECONNRESET);
    CHECK_EQ(watcher->wards, 0);
    CHECK(!taken());
    part(&pair);
}

/* ---- two paths ---------------------------------------------------------- */

#define MPTCP 262

/* A network of our own with two addresses; 0 where that cannot be had. */
static int has_two_ways(void) {
    return unshare(CLONE_NEWNET) == 0 &&
           system(
               "(ip link set lo up && ip mptcp limits set subflow 2 "
               "add_addr_accepted 2 && ip mptcp endpoint add 127.0.0.2 "
               "dev lo subflow) >/dev/null 2>&1") == 0;
}

static int listen_at_more(void) {
    socklen_t size = sizeof place;
    int sock = socket(AF_INET, SOCK_STREAM, MPTCP);

    if (sock < 0)
        return -1;
    memset(&place, 0, sizeof place);
    place.sin_family = AF_INET;
    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    loop_need(bind(sock, (struct sockaddr *)&place, size) == 0 &&
                  listen(sock, 16) == 0 &&
                  getsockname(sock, (struct sockaddr *)&place, &size) == 0,
              "listen");
    return sock;
}

static struct pair meet_by_more(void) {
    struct pair pair = {socket(AF_INET, SOCK_STREAM, MPTCP), -1};
    int i;

    loop_need(connect(pair.near, (struct sockaddr *)&place, sizeof place) == 0,
              "connect");
    pair.far = accept(listener, NULL, NULL);
    exchange(&pair);
    for (i = 0; i < 200 && !ka_has_paths(pair.far); i++)
        nap(10);
    return pair;
}

/* Only the first is seen, and the data may go by the other. */
static void two_paths_are_left_alone(void) {
    struct pair one, two;

    if (!has_two_ways())
        return;
    close(listener);
    listener = listen_at_more();
    if (listener < 0)
        return;
    settings.limits.answered_ms = 200;
    open_watcher();
    two = meet_by_more();
    CHECK(ka_has_paths(two.far));
    one = meet(); /* falls back to TCP */
    exchange(&one);
    CHECK(!ka_has_paths(one.far) && !ka_has_paths(one.near));
    CHECK(told_of(one.far, KA_FOR_ANSWERED));
    step_for(600);
    CHECK(!taken());
    CHECK(is_well(two.near) && is_well(two.far));
    CHECK_EQ(STAT(spared_exempt), 1);
    part(&one);
    part(&two);
}

int main(void) {
    test.before = begin_case;
    test.after = end_case;
    RUN(the_loss_is_told_when_there_is_room);
    RUN(a_connect_that_fails_at_once_is_told);
    RUN(a_hold_counts_before_it_is_found);
    RUN(holds_of_who_never_comes_are_forgotten);
    RUN(a_drain_looks_again_at_who_spoke);
    RUN(a_stop_within_an_abort_is_no_time_to_read);
    RUN(who_comes_back_is_aborted_all_the_same);
    RUN_FORKED(two_paths_are_left_alone);
    return test_report("test_watcher_review");
}
