/* test_watcher_deeds.c - what is done, to whom, and when it is not done. */
#include "watcher_fixture.h"

#include <sys/stat.h>

/* ---- spared ------------------------------------------------------------- */

static void unread_bytes_spare_until_they_are_read(void) {
    struct pair pair;

    settings.limits.unanswered_ms = 100;
    open_watcher();
    pair = meet();
    say(pair.near, "waits");
    step_for(350);
    CHECK(!taken());
    CHECK(is_well(pair.near));
    CHECK_EQ(STAT(spared_unread), 1);
    hear(pair.far, "waits");
    CHECK(told_of(pair.far, KA_FOR_UNANSWERED));
    CHECK(at_end(pair.near));
    part(&pair);
}

static void unread_bytes_that_are_answered_are_no_cause(void) {
    struct pair pair;

    settings.limits.unanswered_ms = 100;
    settings.limits.answered_ms = 60000;
    open_watcher();
    pair = meet();
    say(pair.near, "waits");
    step_for(250);
    hear(pair.far, "waits");
    say(pair.far, "done");
    hear(pair.near, "done");
    step_for(250);
    CHECK(!taken());
    CHECK(is_well(pair.far));
    CHECK_EQ(watcher->spared, 0);
    part(&pair);
}

static void a_dry_run_tells_once_and_does_nothing(void) {
    struct pair pair;

    settings.limits.answered_ms = settings.limits.never_spoke_ms = 120;
    settings.dry_run = 1;
    settings.closes_per_second = 1;
    open_watcher();
    pair = meet();
    if (told_of(pair.far, KA_FOR_NEVER_SPOKE)) {
        CHECK_EQ(event.dry_run, 1);
        CHECK_EQ(event.deed, KA_DEED_SHUTDOWN);
    }
    step_for(400);
    CHECK(!taken());
    CHECK(is_well(pair.far) && is_well(pair.near));
    exchange(&pair);
    CHECK(told_of(pair.far, KA_FOR_ANSWERED));
    step_for(400);
    CHECK(!taken());
    CHECK_EQ(STAT(told), 2);
    CHECK_EQ(STAT(ended), 0);
    CHECK_EQ(STAT(tracked), 1);
    settings.dry_run = 0; /* and now in earnest */
    update();
    CHECK(told_of(pair.far, KA_FOR_ANSWERED));
    CHECK_EQ(event.dry_run, 0);
    CHECK(at_end(pair.near));
    part(&pair);
}

static void put_network(int at, int family, const char *text, int bits) {
    settings.exempt[at].family = (uint8_t)family;
    settings.exempt[at].bits = (uint8_t)bits;
    CHECK_EQ(inet_pton(family == 4 ? AF_INET : AF_INET6, text,
                       settings.exempt[at].address),
             1);
    settings.networks = at + 1;
}

static void exempt_networks_are_left_alone(void) {
    static const struct {
        int family;
        const char *text;
        int bits, exempt;
    } row[] = {{4, "127.0.0.0", 8, 1},
               {4, "127.0.0.1", 32, 1},
               {4, "0.0.0.0", 0, 1},
               {4, "127.0.0.0", 31, 1},
               {4, "127.0.0.2", 31, 0},
               {4, "10.0.0.0", 8, 0},
               {6, "::ffff:127.0.0.0", 104, 1},
               {6, "::1", 128, 0},
               {6, "::", 0, 0}};
    struct pair pair;
    size_t i;

    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        settings.limits.never_spoke_ms = 60;
        put_network(0, 6, "2001:db8::", 32);
        put_network(1, row[i].family, row[i].text, row[i].bits);
        open_watcher();
        pair = meet();
        if (row[i].exempt) {
            step_for(150);
            CHECK(!taken());
            CHECK(is_well(pair.far));
            CHECK_EQ(STAT(spared_exempt), 1);
            settings.networks = 0;
            update();
        }
        CHECK(told_of(pair.far, KA_FOR_NEVER_SPOKE));
        close_watcher();
        part(&pair);
    }
}

static void a_v6_peer_is_exempt(void) {
    struct sockaddr_in6 address = {.sin6_family = AF_INET6,
                                   .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    socklen_t size = sizeof address;
    int six = socket(AF_INET6, SOCK_STREAM, 0), near, far;

    if (six < 0 || bind(six, (struct sockaddr *)&address, size) < 0)
        return; /* a host without IPv6 */
    loop_need(listen(six, 5) == 0 &&
                  getsockname(six, (struct sockaddr *)&address, &size) == 0,
              "listen");
    near = socket(AF_INET6, SOCK_STREAM, 0);
    loop_need(connect(near, (struct sockaddr *)&address, size) == 0,
              "connect");
    far = accept(six, NULL, NULL);
    settings.limits.never_spoke_ms = 60;
    put_network(0, 6, "::1", 128);
    open_watcher();
    step_for(150);
    CHECK(!taken());
    CHECK_EQ(STAT(spared_exempt), 1);
    settings.networks = 0;
    update();
    if (told_of(far, KA_FOR_NEVER_SPOKE))
        CHECK_EQ(event.peer.family, 6);
    close(near);
    close(far);
    close(six);
}

static void held_ones_are_left_alone(void) {
    struct pair pair;
    uint64_t identity;
    int64_t released;

    settings.limits.never_spoke_ms = 120;
    open_watcher();
    pair = meet();
    identity = name_of(pair.far);
    CHECK_EQ(ka_watcher_hold(watcher, identity), 0); /* not yet discovered */
    CHECK_EQ(ka_watcher_hold(watcher, identity), 0);
    CHECK_EQ(STAT(held), 1);
    step_for(250);
    CHECK_EQ(STAT(spared_held), 1);
    ka_watcher_release(watcher, identity);
    CHECK_EQ(STAT(held), 1);
    step_for(200);
    CHECK(!taken());
    CHECK(is_well(pair.far));
    ka_watcher_release(watcher, identity);
    released = ka_os_now_ms();
    CHECK_EQ(STAT(held), 0);
    CHECK(told_of(pair.far, KA_FOR_NEVER_SPOKE));
    CHECK(ka_os_now_ms() - released >= 120 - ka_os_clock_lag_ms());
    CHECK(event.clock_ms >= 120 && event.clock_ms < 450);
    ka_watcher_release(watcher, identity); /* one too many */
    CHECK_EQ(STAT(held), 0);
    part(&pair);
}

static void a_short_hold_restarts_the_clock(void) {
    struct pair pair;
    uint64_t identity;
    int64_t released;

    settings.limits.never_spoke_ms = 300;
    open_watcher();
    pair = meet();
    identity = name_of(pair.far);
    step_for(150);
    CHECK_EQ(ka_watcher_hold(watcher, identity), 0);
    step_for(50);
    ka_watcher_release(watcher, identity);
    released = ka_os_now_ms();
    CHECK(told_of(pair.far, KA_FOR_NEVER_SPOKE));
    CHECK(ka_os_now_ms() - released >= 300 - ka_os_clock_lag_ms());
    part(&pair);
}

static void many_holds_are_told_apart(void) {
    uint64_t i;

    open_watcher();
    for (i = 1; i <= 1000; i++)
        CHECK_EQ(ka_watcher_hold(watcher, i << 20), 0);
    CHECK_EQ(STAT(held), 1000);
    for (i = 1; i <= 1000; i += 2)
        ka_watcher_release(watcher, i << 20);
    for (i = 1; i <= 1000; i++)
        CHECK_EQ(ka_is_held(watcher, i << 20), i % 2 == 0);
    CHECK_EQ(STAT(held), 500);
}

#define CROWD 12

static void only_so_many_per_second(void) {
    struct pair pair[CROWD];
    int i, count = 0;

    settings.limits.never_spoke_ms = 100;
    settings.closes_per_second = 10;
    open_watcher();
    for (i = 0; i < CROWD; i++)
        pair[i] = meet();
    step_for(400);
    while (taken())
        count++;
    CHECK(count >= 2 && count <= 6); /* one, and one each 100 ms */
    CHECK(STAT(spared_rate) > 0);
    while (count < CROWD && told())
        count++;
    CHECK_EQ(watcher->waiting, 0);
    for (i = 0; i < CROWD; i++) {
        CHECK(at_end(pair[i].near));
        part(&pair[i]);
    }
}

#define QUEUED 60

/* They try one after the other, and not all at each chance. */
static void who_waits_costs_little(void) {
    static struct pair pair[QUEUED];
    uint64_t before;
    int i;

    settings.limits.never_spoke_ms = 50;
    settings.closes_per_second = 20;
    open_watcher();
    for (i = 0; i < QUEUED; i++)
        pair[i] = meet();
    step_for(200);
    before = STAT(looks);
    step_for(500);
    CHECK(STAT(looks) - before <= 2 * QUEUED);
    CHECK(STAT(ended) >= 8); /* and every chance is taken */
    for (i = 0; i < QUEUED; i++)
        part(&pair[i]);
}

/* The process is stopped in the middle of a step. */
static void a_late_step_does_nothing(void) {
    struct pair pair;
    struct ka_ward *ward;
    int64_t now;

    settings.limits.never_spoke_ms = 200;
    open_watcher();
    pair = meet();
    step_for(60);
    nap(200);
    ward = ka_ward_next(watcher, name_of(pair.far), NULL);
    loop_need(ward != NULL, "no ward");
    now = ka_os_now_ms();
    watcher->entered_ms = now - 1500;
    CHECK_EQ(ka_deed_act(watcher, ward, KA_FOR_NEVER_SPOKE, now), 0);
    CHECK(!taken());
    CHECK(is_well(pair.far));
    (void)step_now();
    CHECK_EQ(STAT(stalls), 1);
    CHECK(!taken());
    CHECK(told_of(pair.far, KA_FOR_NEVER_SPOKE));
    part(&pair);
}

/* ---- keepalive of what is found ----------------------------------------- */

static void look_at_keepalive(int fd, int *enabled, int *idle) {
    int32_t value = -1;

    CHECK_EQ(ka_get(fd, KA_ENABLED, &value), 0);
    *enabled = value;
    CHECK_EQ(ka_get(fd, KA_IDLE, &value), 0);
    *idle = value;
}

static void slow_keepalive_is_set_and_fast_is_kept(void) {
    struct pair plain, fast, own;
    int enabled, idle;

    settings.limits.detect_ms = 60000;
    settings.pace.value[KA_ENABLED] = 1;
    settings.pace.value[KA_IDLE] = 15;
    settings.pace.value[KA_INTERVAL] = 15;
    settings.pace.value[KA_COUNT] = 3;
    settings.pace_jitter = 3;
    open_watcher();
    plain = meet();
    fast = meet();
    own = meet();
    CHECK_EQ(ka_set(fast.far, KA_ENABLED, 1), 0);
    CHECK_EQ(ka_set(fast.far, KA_IDLE, 5), 0);
    CHECK_EQ(ka_set(fast.far, KA_INTERVAL, 6), 0);
    CHECK_EQ(ka_set(own.far, KA_USER_TIMEOUT, 9000), 0);
    step_for(60);
    look_at_keepalive(plain.far, &enabled, &idle);
    CHECK_EQ(enabled, 1);
    CHECK_EQ(idle, 15 - (int)(name_of(plain.far) % 4));
    look_at_keepalive(fast.far, &enabled, &idle);
    CHECK_EQ(idle, 5);
    look_at_keepalive(own.far, &enabled, &idle);
    CHECK_EQ(enabled, 0);
    look_at_keepalive(plain.near, &enabled, &idle);
    CHECK_EQ(enabled, 0);
    part(&plain);
    part(&fast);
    part(&own);
}

/* Idle, so that only probes ask; it takes two of them, a second apart. */
static void an_idle_vanished_peer_times_out(void) {
    struct pair pair;
    char byte;

    settings.limits.detect_ms = 300;
    settings.pace.value[KA_ENABLED] = settings.pace.value[KA_IDLE] =
        settings.pace.value[KA_INTERVAL] = 1;
    settings.pace.value[KA_COUNT] = 100;
    open_watcher();
    pair = meet();
    exchange(&pair);
    step_for(100);
    vanish(pair.near);
    if (told_of(pair.far, KA_FOR_SILENT))
        CHECK(event.clock_ms >= 300);
    step_for(250);
    CHECK_EQ(recv(pair.far, &byte, 1, MSG_DONTWAIT), -1);
    CHECK_EQ(errno, ETIMEDOUT);
    part(&pair);
}

/* No error so far. */
static int is_quiet(int fd) {
    struct pollfd seen = {.fd = fd};

    return poll(&seen, 1, 0) == 0;
}

/* What has come before it vanished can still be read. */
static void an_abort_leaves_what_is_unread(void) {
    struct pair pair;
    char text[10];
    int64_t end;

    settings.limits.detect_ms = 300;
    open_watcher();
    pair = meet();
    exchange(&pair);
    say(pair.near, "tail");
    step_for(50);
    vanish(pair.near);
    say(pair.far, "more");
    CHECK(told_of(pair.far, KA_FOR_SILENT));
    CHECK_EQ(event.unread, 4);
    end = ka_os_now_ms() + 3000;
    while (ka_os_now_ms() < end && is_quiet(pair.far))
        step_for(20);
    CHECK_EQ(recv(pair.far, text, sizeof text, MSG_DONTWAIT), 4);
    CHECK_EQ(recv(pair.far, text, sizeof text, MSG_DONTWAIT), -1);
    CHECK_EQ(errno, ETIMEDOUT);
    part(&pair);
}

/* ---- numbers ------------------------------------------------------------ */

static void a_duplicate_is_the_same_connection(void) {
    struct pair pair;
    int second;

    settings.limits.never_spoke_ms = 250;
    open_watcher();
    pair = meet();
    second = dup(pair.far);
    step_for(50);
    CHECK_EQ(STAT(tracked), 1);
    close(pair.far); /* by which it was found */
    pair.far = second;
    CHECK(told_of(second, KA_FOR_NEVER_SPOKE));
    CHECK(at_end(pair.near));
    step_for(300);
    CHECK(!taken());
    part(&pair);
}

static void works_without_a_free_number(void) {
    struct rlimit before, few;
    int taken_up[200], count = 0, i;
    struct pair pair;

    settings.limits.never_spoke_ms = 100;
    open_watcher();
    pair = meet();
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = 100;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
    while (count < 200 && (taken_up[count] = dup(listener)) >= 0)
        count++;
    CHECK_EQ(errno, EMFILE);
    CHECK(told_of(pair.far, KA_FOR_NEVER_SPOKE));
    CHECK(at_end(pair.near));
    for (i = 0; i < count; i++)
        close(taken_up[i]);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    part(&pair);
}

static void lost_numbers_touch_nobody(void) {
    struct pair pair;
    struct stat seen;
    int mine, file[2], innocent;

    settings.limits.never_spoke_ms = 150;
    open_watcher();
    pair = meet();
    step_for(30);
    mine = watcher->reserve.sock;
    CHECK_EQ(pipe(file), 0);
    close(mine); /* somebody closes everything, and opens a file */
    innocent = dup2(file[1], mine);
    CHECK_EQ(innocent, mine);
    if (told())
        CHECK_EQ(event.cause, KA_FOR_LOST);
    CHECK_EQ(step_now(), KA_NO_TIME);
    step_for(200);
    CHECK(!taken());
    CHECK(is_well(pair.far) && is_well(pair.near));
    close_watcher();
    CHECK_EQ(fstat(innocent, &seen), 0);
    CHECK_EQ(write(innocent, "x", 1), 1);
    close(innocent);
    close(file[0]);
    close(file[1]);
    part(&pair);
}

int main(void) {
    test.before = begin_case;
    test.after = end_case;
    RUN(unread_bytes_spare_until_they_are_read);
    RUN(unread_bytes_that_are_answered_are_no_cause);
    RUN(a_dry_run_tells_once_and_does_nothing);
    RUN(exempt_networks_are_left_alone);
    RUN(a_v6_peer_is_exempt);
    RUN(held_ones_are_left_alone);
    RUN(a_short_hold_restarts_the_clock);
    RUN(many_holds_are_told_apart);
    RUN(only_so_many_per_second);
    RUN(who_waits_costs_little);
    RUN(a_late_step_does_nothing);
    RUN(slow_keepalive_is_set_and_fast_is_kept);
    RUN(an_idle_vanished_peer_times_out);
    RUN(an_abort_leaves_what_is_unread);
    RUN(a_duplicate_is_the_same_connection);
    RUN(works_without_a_free_number);
    RUN(lost_numbers_touch_nobody);
    return test_report("test_watcher_deeds");
}
