/* test_watcher_memory.c - a watcher for which there is no memory: each
 * allocation fails in its turn, nothing that was there is lost, and what
 * could not be had is had later.
 */
#include "failing.h"
#include "watcher_fixture.h"

static int lowest_free(void) {
    int fd = dup(listener);

    close(fd);
    return fd;
}

static void birth_gives_all_back(void) {
    int before = lowest_free(), n, rc = -1;
    struct ka_watcher *born = NULL;

    for (n = 0; rc < 0 && n < 50; n++) {
        until_failure = n;
        rc = ka_watcher_new(&born, &settings, 16);
        until_failure = -1;
        if (rc < 0)
            CHECK_EQ(rc, -ENOMEM);
        if (rc < 0)
            CHECK_EQ(lowest_free(), before);
    }
    CHECK(n > 4);
    CHECK_EQ(rc, 0);
    ka_watcher_free(born);
    CHECK_EQ(lowest_free(), before);
}

static void birth_without_numbers(void) {
    struct rlimit before, few;
    struct ka_watcher *born = NULL;

    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = (rlim_t)lowest_free() + 1;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
    CHECK_EQ(ka_watcher_new(&born, &settings, 16), -EMFILE);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

#define MORE (KA_PAGE + 10) /* than a page holds, than the hash began with */

static void a_failing_watch_changes_nothing(void) {
    struct pair pair;
    uint64_t identity, wards;
    int64_t token = -1;
    int i, n, failures = 0;

    settings.discover = 0;
    open_watcher();
    pair = meet();
    identity = name_of(pair.near);
    for (i = 0; i < MORE; i++) {
        token = -1;
        for (n = 0; token < 0 && n < 20; n++) {
            wards = watcher->wards;
            until_failure = n;
            token = ka_watcher_watch(watcher, pair.near, identity, NULL, 60000,
                                     KA_NO_TIME, KA_DEED_NONE);
            until_failure = -1;
            if (token < 0) {
                failures++;
                CHECK_EQ(token, -ENOMEM);
                CHECK_EQ(watcher->wards, wards);
                CHECK_EQ(watcher->table.live, wards);
                CHECK_EQ(STAT(watched), wards);
            }
        }
    }
    CHECK(failures >= 5); /* two pages, of the table and of wards */
    CHECK_EQ(STAT(watched), MORE);
    CHECK_EQ(ka_watcher_cancel(watcher, token), 1);
    until_failure = 0; /* a look needs none */
    for (i = 0; i < 40; i++)
        (void)step_now();
    until_failure = -1;
    CHECK(!taken());
    close(pair.near);
    pair.near = -1;
    for (i = 0; i < MORE - 1 && told(); i++)
        if (!CHECK_EQ(event.cause, KA_FOR_GONE))
            break;
    CHECK_EQ(watcher->wards, 0);
    part(&pair);
}

static void a_failing_hold_is_none(void) {
    uint64_t i;

    open_watcher();
    for (i = 1; i < 200; i++) { /* the hash grows in between, or not */
        until_failure = 0;
        CHECK_EQ(ka_watcher_hold(watcher, i), -ENOMEM);
        CHECK(!ka_is_held(watcher, i));
        until_failure = i % 2 ? 1 : -1;
        CHECK_EQ(ka_watcher_hold(watcher, i), 0);
        until_failure = -1;
        CHECK_EQ(STAT(held), i);
    }
    for (i = 1; i < 200; i++) {
        CHECK(ka_is_held(watcher, i));
        ka_watcher_release(watcher, i);
    }
    CHECK_EQ(STAT(held), 0);
}

static void discovery_comes_back(void) {
    struct pair pair[3];
    int i, n;

    settings.limits.never_spoke_ms = 1000; /* a pass each 250 ms */
    for (n = 0; n < 8; n++) {
        open_watcher();
        for (i = 0; i < 3; i++)
            pair[i] = meet();
        until_failure = n;
        for (i = 0; i < 5; i++)
            (void)step_now();
        until_failure = -1;
        CHECK(n > 5 || STAT(no_memory) > 0);
        for (i = 0; i < 3; i++)
            CHECK(told_of(pair[i].far, KA_FOR_NEVER_SPOKE));
        step_for(20);
        CHECK(!taken());
        close_watcher();
        for (i = 0; i < 3; i++)
            part(&pair[i]);
        if (n == 2)
            n = 5; /* a second each: the rest alike */
    }
}

static void eviction_comes_back(void) {
    struct pair pair = meet();

    settings.evict_above = 0;
    settings.evict_idle_ms = 20;
    open_watcher();
    exchange(&pair);
    nap(40);
    settings.evict_above = KA_NO_TIME;
    update();
    step_for(40);
    settings.evict_above = 0;
    update();
    until_failure = 0;
    (void)step_now();
    (void)step_now();
    until_failure = -1;
    CHECK(!taken());
    CHECK(STAT(no_memory) > 0);
    CHECK(told_of(pair.far, KA_FOR_EVICTED));
    part(&pair);
}

int main(void) {
    test.before = begin_case;
    test.after = end_case;
    RUN(birth_gives_all_back);
    RUN(birth_without_numbers);
    RUN(a_failing_watch_changes_nothing);
    RUN(a_failing_hold_is_none);
    RUN(discovery_comes_back);
    RUN(eviction_comes_back);
    return test_report("test_watcher_memory");
}
