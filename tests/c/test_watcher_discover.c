/* test_watcher_discover.c - what is found, how soon, and whom eviction and
 * drain choose.
 */
#include "watcher_fixture.h"

#define MANY 2000

static struct pair crowd[MANY];

static void gather(int count) {
    int i;

    for (i = 0; i < count; i++)
        crowd[i] = meet();
}

static void scatter(int count) {
    int i;

    for (i = 0; i < count; i++)
        part(&crowd[i]);
}

/* ---- passes ------------------------------------------------------------- */

static void many_are_found_in_slices(void) {
    int64_t began, longest = 0, spent;
    int steps = 0, i, count = 0;

    settings.limits.never_spoke_ms = 800;
    open_watcher();
    gather(MANY);
    while (STAT(passes) == 0 && steps < 1000) {
        began = ka_os_now_ms();
        (void)step_now();
        spent = ka_os_now_ms() - began;
        longest = spent > longest ? spent : longest;
        steps++;
    }
    CHECK(steps >= MANY / 256);
    CHECK(longest < 500); /* a few ms, on a machine that does nothing else */
    CHECK_EQ(STAT(tracked), MANY);
    while (count < MANY && told())
        count++;
    step_for(20);
    CHECK(!taken());
    CHECK_EQ(STAT(ended), MANY);
    for (i = 0; i < MANY; i++)
        CHECK(at_end(crowd[i].near));
    scatter(MANY);
    step_for(600);
    CHECK_EQ(watcher->wards, 0);
    CHECK_EQ(watcher->table.live, 0);
}

static void passes_keep_their_distance(void) {
    struct sockaddr_in address;
    int more[10], i;

    settings.limits.never_spoke_ms = 60000;
    open_watcher();
    for (i = 0; i < 10; i++) { /* new ports: another pass, but only one */
        more[i] = loop_listen(&address);
        (void)step_now();
        CHECK(STAT(passes) >= 1 && STAT(passes) <= 2);
    }
    for (i = 0; i < 10; i++)
        close(more[i]);
    step_for(300);
    CHECK(STAT(passes) <= 2);           /* 60 s / 4, at most 2 s */
    watcher->discovery.cost_us = 20000; /* a costly pass: 1 % of a core */
    watcher->discovery.bound = 0;
    CHECK(ka_discover_next(watcher, ka_os_now_ms()) > 1000);
}

static void a_later_connection_is_found(void) {
    struct pair pair;

    settings.limits.never_spoke_ms = 100;
    open_watcher();
    step_for(50);
    pair = meet();
    CHECK(told_of(pair.far, KA_FOR_NEVER_SPOKE));
    part(&pair);
}

/* Bound before, listening later; and the number of the connection is below
 * that of its listener. */
static void a_later_listener_is_found(void) {
    socklen_t size = sizeof place;
    int low = dup(listener);
    struct pair pair;

    close(listener);
    listener = fcntl(low, F_DUPFD, 200);
    close(low);
    settings.limits.never_spoke_ms = 100;
    pair = meet();
    CHECK(pair.far < listener);
    open_watcher();
    CHECK(told_of(pair.far, KA_FOR_NEVER_SPOKE));
    part(&pair);

    close(listener);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    place.sin_port = 0;
    loop_need(bind(listener, (struct sockaddr *)&place, sizeof place) == 0,
              "bind");
    step_for(50); /* it is neither this nor that, so far */
    loop_need(listen(listener, 5) == 0, "listen");
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&place, &size), 0);
    pair = meet();
    CHECK(told_of(pair.far, KA_FOR_NEVER_SPOKE));
    part(&pair);
}

static int listen_with(int option) {
    int one = 1, sock = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t size = sizeof place;

    setsockopt(sock, SOL_SOCKET, option, &one, sizeof one);
    loop_need(bind(sock, (struct sockaddr *)&place, size) == 0, "bind");
    loop_need(listen(sock, 16) == 0, "listen");
    loop_need(getsockname(sock, (struct sockaddr *)&place, &size) == 0,
              "getsockname");
    return sock;
}

static void a_listener_may_close_and_reopen(void) {
    struct pair first, second;

    close(listener);
    place.sin_port = 0;
    listener = listen_with(SO_REUSEADDR);
    settings.limits.never_spoke_ms = 1500; /* a pass each 375 ms */
    open_watcher();
    step_for(30);
    first = meet();
    close(listener); /* before anybody has seen the connection */
    step_for(500);
    CHECK_EQ(STAT(tracked), 1);
    listener = listen_with(SO_REUSEADDR);
    second = meet();
    CHECK(told_of(first.far, KA_FOR_NEVER_SPOKE));
    CHECK(told_of(second.far, KA_FOR_NEVER_SPOKE));
    part(&first);
    part(&second);
}

static void listeners_may_share_a_port(void) {
    struct pollfd both[2];
    int other, i, mine = 0;
    struct sockaddr_in from;
    struct pair pair;

    close(listener);
    place.sin_port = 0;
    listener = listen_with(SO_REUSEPORT);
    other = listen_with(SO_REUSEPORT);
    settings.limits.never_spoke_ms = 100;
    open_watcher();
    for (i = 0; i < 8; i++) {
        from = place;
        pair.near = socket(AF_INET, SOCK_STREAM, 0);
        loop_need(
            connect(pair.near, (struct sockaddr *)&from, sizeof from) == 0,
            "connect");
        both[0].fd = listener;
        both[1].fd = other;
        both[0].events = both[1].events = POLLIN;
        CHECK(poll(both, 2, 2000) == 1);
        mine += both[0].revents != 0;
        pair.far = accept(both[0].revents ? listener : other, NULL, NULL);
        CHECK(told_of(pair.far, KA_FOR_NEVER_SPOKE));
        part(&pair);
        if (i == 3) { /* one of two goes, the port stays */
            close(other);
            other = listen_with(SO_REUSEPORT);
        }
    }
    CHECK(mine >= 0);
    close(other);
}

static void v6_listeners_take_both(void) {
    struct sockaddr_in6 address = {.sin6_family = AF_INET6};
    socklen_t size = sizeof address;
    struct sockaddr_in four = {.sin_family = AF_INET};
    int six = socket(AF_INET6, SOCK_STREAM, 0), off = 0;
    struct pair pair;

    if (six < 0)
        return;
    setsockopt(six, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(six, (struct sockaddr *)&address, size) < 0 ||
        listen(six, 5) < 0) {
        close(six);
        return; /* a host without IPv6 */
    }
    (void)getsockname(six, (struct sockaddr *)&address, &size);
    four.sin_port = address.sin6_port;
    four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    settings.limits.never_spoke_ms = 100;
    open_watcher();
    pair = loop_connect(six, &four);
    if (told_of(pair.far, KA_FOR_NEVER_SPOKE)) {
        CHECK_EQ(event.peer.family, 4); /* a mapped address */
        CHECK_EQ(event.local.port, ntohs(four.sin_port));
    }
    part(&pair);
    close(six);
}

static void what_is_no_connection_is_no_ward(void) {
    int fresh = socket(AF_INET, SOCK_STREAM, 0);
    int udp = socket(AF_INET, SOCK_DGRAM, 0), both[2], file[2];

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, both), 0);
    CHECK_EQ(pipe(file), 0);
    settings.limits.never_spoke_ms = 50;
    open_watcher();
    step_for(300);
    CHECK(!taken());
    CHECK_EQ(watcher->wards, 0);
    close(fresh);
    close(udp);
    close(both[0]);
    close(both[1]);
    close(file[0]);
    close(file[1]);
}

static void closed_ones_are_forgotten(void) {
    settings.limits.never_spoke_ms = 60000;
    settings.limits.detect_ms = 1000;
    open_watcher();
    gather(20);
    step_for(50);
    CHECK_EQ(STAT(tracked), 20);
    scatter(20);
    step_for(600);
    CHECK_EQ(STAT(tracked), 0);
    CHECK_EQ(watcher->wards, 0);
    CHECK(!taken());
}

/* ---- eviction ----------------------------------------------------------- */

#define SMALL 10

/* Each idle for longer than the next. */
static void answer_in_turn(int gap_ms) {
    int i;

    for (i = 0; i < SMALL; i++) {
        exchange(&crowd[i]);
        nap(gap_ms);
    }
}

static void the_longest_idle_go_first(void) {
    int i;

    settings.evict_above = SMALL - 3;
    settings.evict_idle_ms = 100;
    open_watcher();
    gather(SMALL);
    answer_in_turn(20);
    for (i = 0; i < 3; i++) { /* evicted above, down to the bound, in order */
        if (told_of(crowd[i].far, KA_FOR_EVICTED)) {
            CHECK_EQ(event.klass, KA_ANSWERED);
            CHECK(event.clock_ms >= 100);
        }
        CHECK(at_end(crowd[i].near));
    }
    step_for(1300);
    CHECK(!taken());
    for (; i < SMALL; i++)
        CHECK(is_well(crowd[i].near));
    CHECK_EQ(STAT(tracked), SMALL - 3);
    CHECK_EQ(STAT(by_cause[KA_FOR_EVICTED]), 3);
    scatter(SMALL);
}

static void who_is_busy_is_not_evicted(void) {
    uint64_t held;
    int i;

    settings.evict_above = 1;
    settings.evict_idle_ms = 300;
    open_watcher();
    gather(6);
    exchange(&crowd[0]);     /* the one to go */
    exchange(&crowd[1]);     /* held */
    say(crowd[2].near, "?"); /* never answered */
    hear(crowd[2].far, "?");
    exchange(&crowd[4]); /* asks again, and nobody has read it yet */
    held = name_of(crowd[1].far);
    CHECK_EQ(ka_watcher_hold(watcher, held), 0);
    nap(350);
    say(crowd[4].near, "!");
    exchange(&crowd[5]); /* not idle for long enough */
    (void)step_now();
    step_for(100);
    CHECK(told_of(crowd[0].far, KA_FOR_EVICTED));
    CHECK(!taken());
    for (i = 1; i < 6; i++)
        CHECK(is_well(crowd[i].near));
    scatter(6);
}

static void a_dry_run_evicts_nobody(void) {
    int i;

    settings.evict_above = SMALL - 2;
    settings.evict_idle_ms = 50;
    settings.dry_run = 1;
    open_watcher();
    gather(SMALL);
    answer_in_turn(15);
    CHECK(told_of(crowd[0].far, KA_FOR_EVICTED));
    CHECK_EQ(event.dry_run, 1);
    CHECK(told_of(crowd[1].far, KA_FOR_EVICTED));
    step_for(1300); /* another scan finds that enough would be gone */
    CHECK(!taken());
    for (i = 0; i < SMALL; i++)
        CHECK(is_well(crowd[i].near));
    scatter(SMALL);
}

static void evictions_have_a_budget(void) {
    int i, count = 0;

    settings.evict_above = 0;
    settings.evict_idle_ms = 20;
    settings.closes_per_second = 20; /* two at once, then one each 50 ms */
    open_watcher();
    gather(SMALL);
    for (i = 0; i < SMALL; i++)
        exchange(&crowd[i]);
    nap(40);
    step_for(160);
    while (taken())
        count++;
    CHECK(count >= 2 && count <= 7);
    while (count < SMALL && told())
        count++;
    scatter(SMALL);
}

static void everybody_may_be_too_many(void) {
    int i, count = 0;

    settings.evict_above = 5;
    settings.evict_idle_ms = 20;
    open_watcher();
    gather(500);
    for (i = 0; i < 500; i++) {
        say(crowd[i].near, "ping");
        hear(crowd[i].far, "ping");
    }
    nap(8);
    for (i = 0; i < 500; i++) {
        say(crowd[i].far, "pong");
        hear(crowd[i].near, "pong");
    }
    while (count < 495 && told() && CHECK_EQ(event.cause, KA_FOR_EVICTED))
        count++;
    step_for(100);
    CHECK(!taken());
    CHECK_EQ(STAT(tracked), 5);
    scatter(500);
}

/* ---- drain -------------------------------------------------------------- */

static void a_drain_ends_who_is_idle(void) {
    settings.limits.unanswered_ms = 60000;
    settings.limits.never_spoke_ms = settings.limits.answered_ms = 60000;
    settings.evict_idle_ms = 60;
    open_watcher();
    gather(3);
    exchange(&crowd[0]);
    say(crowd[1].near, "GET /");
    hear(crowd[1].far, "GET /");
    step_for(300);
    CHECK(!taken());
    ka_watcher_drain(watcher, 1);
    CHECK(told() && told());
    CHECK_EQ(event.cause, KA_FOR_DRAINED);
    CHECK(at_end(crowd[0].near) && at_end(crowd[2].near));
    step_for(300);
    CHECK(!taken());
    CHECK(is_well(crowd[1].near));
    say(crowd[1].far, "200 OK"); /* the request that was under way */
    hear(crowd[1].near, "200 OK");
    CHECK(told_of(crowd[1].far, KA_FOR_DRAINED));
    scatter(3);

    gather(1); /* it came while we drain */
    CHECK(told_of(crowd[0].far, KA_FOR_DRAINED));
    scatter(1);
    ka_watcher_drain(watcher, 0);
    gather(1);
    step_for(500);
    CHECK(!taken());
    scatter(1);
}

int main(void) {
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    test.before = begin_case;
    test.after = end_case;
    RUN(many_are_found_in_slices);
    RUN(passes_keep_their_distance);
    RUN(a_later_connection_is_found);
    RUN(a_later_listener_is_found);
    RUN(a_listener_may_close_and_reopen);
    RUN(listeners_may_share_a_port);
    RUN(v6_listeners_take_both);
    RUN(what_is_no_connection_is_no_ward);
    RUN(closed_ones_are_forgotten);
    RUN(the_longest_idle_go_first);
    RUN(who_is_busy_is_not_evicted);
    RUN(a_dry_run_evicts_nobody);
    RUN(evictions_have_a_budget);
    RUN(everybody_may_be_too_many);
    RUN(a_drain_ends_who_is_idle);
    return test_report("test_watcher_discover");
}
