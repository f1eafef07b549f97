/* The watcher on a Windows that never was, step by step and by a clock of its
 * own: what is done to a watched connection, in which order, on which handle,
 * and that a healthy one is left alone. */
#include "windows_fixture.h"

#include "reserve_windows.c"

#include "monitor.h"
#include "os.h"
#include "ward.h"

#define START 5000000

static struct ka_watcher *watcher;
static struct ka_occurrence event;
static int64_t now;

/* ---- a clock and no threads --------------------------------------------- */

int64_t ka_os_now_ms(void) {
    return now;
}

int64_t ka_os_clock_lag_ms(void) {
    return 0;
}

int64_t ka_thread_cpu_us(void) {
    return -1;
}

struct ka_monitor *ka_monitor_new(void) {
    return calloc(1, 8);
}

void ka_monitor_free(struct ka_monitor *monitor) {
    free(monitor);
}

void ka_monitor_enter(struct ka_monitor *monitor) {
    (void)monitor;
}

void ka_monitor_leave(struct ka_monitor *monitor) {
    (void)monitor;
}

void ka_monitor_wait(struct ka_monitor *monitor, int64_t timeout_ms) {
    (void)monitor;
    (void)timeout_ms;
}

void ka_monitor_notify(struct ka_monitor *monitor) {
    (void)monitor;
}

int ka_thread_start(struct ka_thread **out, void (*run)(void *),
                    void *argument, const char *name) {
    (void)out;
    (void)run;
    (void)argument;
    (void)name;
    return -EAGAIN;
}

void ka_thread_join(struct ka_thread *thread) {
    (void)thread;
}

void ka_thread_forget(struct ka_thread *thread) {
    (void)thread;
}

/* ---- a connection ------------------------------------------------------- */

static void put_32(int offset, uint32_t value) {
    memcpy(fake.info + offset, &value, sizeof value);
}

static void put_64(int offset, uint64_t value) {
    memcpy(fake.info + offset, &value, sizeof value);
}

static void show(uint32_t state, uint64_t in, uint64_t out) {
    memset(fake.info, 0, sizeof fake.info);
    put_32(0, state);
    put_32(4, 1460);
    put_32(20, 30500);
    put_32(36, 65535);
    put_64(48, out);
    put_64(56, in);
}

static void begin(void) {
    struct ka_watcher_settings settings;

    on_newest();
    now = START;
    show(4, 100, 200);
    fake.connected_s = 10;
    fake.on = 1; /* as a caller has set it, who is patient */
    fake.idle = 1;
    fake.interval = 15749;
    fake.keepcnt = 127;
    memset(&settings, 0, sizeof settings);
    settings.limits.never_spoke_ms = settings.limits.unanswered_ms =
        settings.limits.answered_ms = settings.limits.stalled_ms =
            settings.limits.min_rate = settings.limits.detect_ms =
                settings.limits.idle_ms = settings.evict_above = KA_NO_TIME;
    settings.closes_per_second = 100;
    CHECK_EQ(ka_watcher_new(&watcher, &settings, 16), 0);
}

static void end(void) {
    ka_watcher_free(watcher);
    CHECK_EQ(fake.started, 0);
    CHECK_EQ(fake.twin, 0);
    CHECK_EQ(fake.on_owner, 0); /* by the duplicate or not at all */
}

static int64_t watch(int64_t detect_ms, int64_t idle_ms, int deed) {
    uint64_t identity = 0;

    CHECK_EQ(ka_identify(FAKE_SOCK, &identity), 0);
    return ka_watcher_watch(watcher, FAKE_SOCK, identity, NULL, detect_ms,
                            idle_ms, deed);
}

static void live(int64_t ms) {
    int64_t until = now + ms, delay;

    while (now < until) {
        delay = ka_watcher_step(watcher, now);
        if (delay < 0 || now + delay > until)
            delay = until - now;
        now += delay > 0 ? delay : 1;
    }
    (void)ka_watcher_step(watcher, now);
}

static int told(void) {
    return ka_watcher_take(watcher, &event, 1, 0);
}

/* ---- the kernel's count ------------------------------------------------- */

static void a_young_connection_gets_its_pace_at_once(void) {
    CHECK(watch(3800, KA_NO_TIME, KA_DEED_ABORT) > 0);
    live(100);
    CHECK_EQ(fake.interval, 1);
    CHECK_EQ(fake.keepcnt, 127); /* two questions first */
    live(4800);
    CHECK_EQ(fake.keepcnt, 127);
    live(300);
    CHECK_EQ(fake.keepcnt, 2); /* 1 + 2 * 1 s are less than 3.8 */
    CHECK_EQ(fake.interval, 1);
    CHECK_EQ(fake.idle, 1);
    live(60000);
    CHECK_EQ(fake.sets, 2);
    CHECK_EQ(told(), 0);
}

/* Whatever is set on the way bears the longest silence that there can be. */
static void an_old_connection_is_waited_for(void) {
    static const int64_t ages[] = {600, 3600, 86400, 1500000};
    size_t i;
    int64_t asked;
    int nth;

    for (i = 0; i < sizeof ages / sizeof ages[0]; i++) {
        if (i > 0) {
            end();
            begin();
        }
        fake.connected_s = ages[i];
        CHECK(watch(9500, KA_NO_TIME, KA_DEED_ABORT) > 0);
        live(100);
        CHECK(fake.interval <= 15749);
        CHECK((int64_t)fake.idle + (int64_t)fake.interval * 127 > ages[i]);
        CHECK((int64_t)fake.interval * 127 < 2 * ages[i] + 1000);
        asked = fake.idle + 2 * (int64_t)fake.interval;
        for (nth = 0; nth < 40; nth++)
            live(asked * 25);
        CHECK_EQ(fake.keepcnt, 127);
        live(3000);
        CHECK_EQ(fake.keepcnt, 4); /* 1 + 4 * 2 s are less than 9.5 */
        CHECK_EQ(fake.interval, 2);
        CHECK_EQ(told(), 0);
    }
}

static void of_an_age_that_is_not_told_the_longest_is_taken(void) {
    fake.connected_s = -1;
    CHECK(watch(9500, KA_NO_TIME, KA_DEED_ABORT) > 0);
    live(60000);
    CHECK_EQ(fake.sets, 0);
    CHECK_EQ(fake.interval, 15749);
}

static void the_pace_comes_first_and_then_the_count(void) {
    CHECK(watch(9500, KA_NO_TIME, KA_DEED_ABORT) > 0);
    live(20000);
    CHECK_SET(0, 17, 2);
    CHECK_SET(1, 16, 4);
    CHECK_EQ(fake.sets, 2);
}

static void another_socket_gets_nothing(void) {
    CHECK(watch(3800, KA_NO_TIME, KA_DEED_ABORT) > 0);
    fake.twin_ports = 5; /* between the question and the duplicate */
    live(20000);
    CHECK(fake.twins > 0);
    CHECK_EQ(fake.sets, 0);
    CHECK_EQ(told(), 1);
    CHECK_EQ(event.cause, KA_FOR_GONE);
}

static void without_a_handle_it_is_tried_again(void) {
    CHECK(watch(3800, KA_NO_TIME, KA_DEED_ABORT) > 0);
    fake.make_error = WSAEMFILE;
    live(2000);
    CHECK_EQ(fake.sets, 0);
    CHECK_EQ(told(), 0);
    fake.make_error = 0;
    live(100);
    CHECK_EQ(fake.interval, 1);
}

/* ---- idle --------------------------------------------------------------- */

static void idle_is_told_and_never_early(void) {
    uint64_t in = 100, out_bytes = 200;
    int i;

    CHECK(watch(KA_NO_TIME, 2000, KA_DEED_SHUTDOWN) > 0);
    for (i = 0; i < 20; i++) {
        live(1500);
        if (i % 2)
            show(4, in += 30, out_bytes);
        else
            show(4, in, out_bytes += 40);
        CHECK_EQ(told(), 0);
    }
    live(1990);
    CHECK_EQ(told(), 0);
    CHECK_EQ(fake.shutdowns, 0);
    live(500);
    CHECK_EQ(told(), 1);
    CHECK_EQ(event.cause, KA_FOR_IDLE);
    CHECK_EQ(event.deed, KA_DEED_SHUTDOWN);
    CHECK_EQ(fake.shutdowns, 1);
    CHECK_EQ(event.local.port, 0x1111);
    CHECK_EQ(event.peer.port, 0x2222);
}

static void only_told(void) {
    CHECK(watch(KA_NO_TIME, 2000, KA_DEED_NONE) > 0);
    live(3000);
    CHECK_EQ(told(), 1);
    CHECK_EQ(event.cause, KA_FOR_IDLE);
    CHECK_EQ(fake.shutdowns, 0);
    CHECK_EQ(fake.twin, 0);
}

static void what_may_wait_to_be_sent_is_not_idle(void) {
    CHECK(watch(KA_NO_TIME, 2000, KA_DEED_SHUTDOWN) > 0);
    put_32(36, 1459); /* no room for a segment at the peer's */
    live(10000);
    CHECK_EQ(told(), 0);
    put_32(36, 65535);
    put_32(28, 1); /* one byte is in flight */
    live(10000);
    CHECK_EQ(told(), 0);
    put_32(28, 0);
    live(3000);
    CHECK_EQ(told(), 1);
}

static void unread_bytes_spare_it(void) {
    CHECK(watch(KA_NO_TIME, 2000, KA_DEED_SHUTDOWN) > 0);
    fake.unread = 3;
    live(10000);
    CHECK_EQ(told(), 0);
    fake.unread = 0;
    live(300);
    CHECK_EQ(told(), 1);
}

static void without_counters_it_is_not_guessed(void) {
    fake.info_version = -1;
    CHECK(watch(KA_NO_TIME, 500, KA_DEED_SHUTDOWN) > 0);
    live(20000);
    CHECK_EQ(told(), 0);
    CHECK_EQ(fake.shutdowns, 0);
}

static void a_counter_that_goes_back_is_another_connection(void) {
    CHECK(watch(KA_NO_TIME, 2000, KA_DEED_SHUTDOWN) > 0);
    live(500);
    show(4, 7, 200);
    live(5000);
    CHECK_EQ(told(), 1);
    CHECK_EQ(event.cause, KA_FOR_GONE);
    CHECK_EQ(fake.shutdowns, 0);
}

static void a_stopped_process_begins_anew(void) {
    CHECK(watch(KA_NO_TIME, 2000, KA_DEED_SHUTDOWN) > 0);
    live(500);
    now += 60000;
    live(1900);
    CHECK_EQ(told(), 0);
    live(700);
    CHECK_EQ(told(), 1);
}

/* ---- how it ended ------------------------------------------------------- */

/* As Windows tells it: "closed", and by WSAPoll. */
static void an_end_is_told(void) {
    int64_t token = watch(3800, KA_NO_TIME, KA_DEED_ABORT);

    live(500);
    show(0, 0, 0);
    fake.revents = POLLERR | POLLHUP;
    live(300);
    CHECK_EQ(told(), 1);
    CHECK_EQ(event.token, token);
    CHECK_EQ(event.cause, KA_FOR_TIMED_OUT);
    CHECK_EQ(event.err, 0); /* or by a reset: nothing tells */
    CHECK_EQ(event.deed, KA_DEED_NONE);
}

static void also_when_its_name_is_lost(void) {
    int64_t token = watch(3800, KA_NO_TIME, KA_DEED_ABORT);

    live(500);
    show(0, 0, 0);
    fake.connected = 0;
    fake.revents = POLLERR | POLLHUP;
    live(300);
    CHECK_EQ(told(), 1);
    CHECK_EQ(event.token, token);
    CHECK_EQ(event.cause, KA_FOR_TIMED_OUT);
    CHECK_EQ(event.peer.port, 0x2222);
}

static void and_without_tcp_info(void) {
    int64_t token;

    fake.info_version = -1;
    token = watch(3800, KA_NO_TIME, KA_DEED_ABORT);
    live(500);
    fake.connected = 0;
    fake.revents = POLLERR | POLLHUP;
    live(300);
    CHECK_EQ(told(), 1);
    CHECK_EQ(event.token, token);
    CHECK_EQ(event.cause, KA_FOR_TIMED_OUT);
}

static void the_peers_end_is_none(void) {
    CHECK(watch(3800, KA_NO_TIME, KA_DEED_ABORT) > 0);
    live(500);
    show(7, 100, 200); /* CLOSE_WAIT */
    fake.revents = POLLHUP | POLLRDNORM;
    live(20000);
    CHECK_EQ(told(), 0);
    show(0, 0, 0); /* both have ended it in order */
    live(500);
    CHECK_EQ(told(), 1);
    CHECK_EQ(event.cause, KA_FOR_GONE);
}

static void nor_without_tcp_info(void) {
    fake.info_version = -1;
    CHECK(watch(3800, KA_NO_TIME, KA_DEED_ABORT) > 0);
    live(500);
    fake.revents = POLLHUP | POLLRDNORM;
    live(20000);
    CHECK_EQ(told(), 0);
    CHECK_EQ(fake.keepcnt, 2); /* its owner may still be sending */
}

static void its_owner_closes_it(void) {
    int64_t token = watch(3800, 60000, KA_DEED_ABORT);

    live(500);
    fake.closed = 1;
    live(300);
    CHECK_EQ(told(), 1);
    CHECK_EQ(event.token, token);
    CHECK_EQ(event.cause, KA_FOR_GONE);
}

int main(void) {
    test.before = begin;
    test.after = end;
    RUN(a_young_connection_gets_its_pace_at_once);
    RUN(an_old_connection_is_waited_for);
    RUN(of_an_age_that_is_not_told_the_longest_is_taken);
    RUN(the_pace_comes_first_and_then_the_count);
    RUN(another_socket_gets_nothing);
    RUN(without_a_handle_it_is_tried_again);
    RUN(idle_is_told_and_never_early);
    RUN(only_told);
    RUN(what_may_wait_to_be_sent_is_not_idle);
    RUN(unread_bytes_spare_it);
    RUN(without_counters_it_is_not_guessed);
    RUN(a_counter_that_goes_back_is_another_connection);
    RUN(a_stopped_process_begins_anew);
    RUN(an_end_is_told);
    RUN(also_when_its_name_is_lost);
    RUN(and_without_tcp_info);
    RUN(the_peers_end_is_none);
    RUN(nor_without_tcp_info);
    RUN(its_owner_closes_it);
    return test_report("windows_watch");
}
