/* The pollers when there is no memory: each allocation fails in its turn,
 * and what is registered stays registered. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>

#include "failing.h"
#include "pollers.h"

#define MANY 300

static const struct ka_backend *backend;
static int number[MANY]; /* always readable */

static int lowest_free(void) {
    int fd = dup(0);

    close(fd);
    return fd;
}

static void open_gives_all_back(void) {
    int lowest = lowest_free();
    struct ka_poller *poller;
    int n, rc = -1;

    for (n = 0; rc < 0 && n < 50; n++) {
        until_failure = n;
        rc = backend->open(&poller);
        if (rc < 0) {
            CHECK_EQ(rc, -ENOMEM);
            CHECK_EQ(lowest_free(), lowest);
        }
    }
    until_failure = -1;
    CHECK(n > 1);
    if (CHECK_EQ(rc, 0))
        backend->close(poller);
    CHECK_EQ(lowest_free(), lowest);
}

/* Which tags a wait shows; each once. */
static int seen_by(struct ka_poller *poller, char seen[MANY]) {
    const struct ka_ready *ready;
    int count = backend->wait(poller, 0, &ready);
    int i;

    memset(seen, 0, MANY);
    for (i = 0; i < count; i++) {
        if (!CHECK(ready[i].tag < MANY) || !CHECK(!seen[ready[i].tag]))
            return -1;
        seen[ready[i].tag] = 1;
    }
    return count;
}

/* Adding fails from the n-th allocation on, and succeeds in the end. */
static void adding_n(int n) {
    struct ka_poller *poller;
    char seen[MANY];
    int i, rc;

    CHECK_EQ(backend->open(&poller), 0);
    until_failure = n;
    for (i = 0; i < MANY; i++) {
        rc = backend->add(poller, number[i], KA_READ, (uint64_t)i);
        if (rc < 0) {
            CHECK_EQ(rc, -ENOMEM);
            CHECK_EQ(backend->remove(poller, number[i]), -ENOENT);
            if (i > 0)
                CHECK_EQ(backend->modify(poller, number[0], KA_READ, 0), 0);
            until_failure = -1; /* a wait may take some, too */
            CHECK_EQ(seen_by(poller, seen), i);
            CHECK_EQ(backend->add(poller, number[i], KA_READ, (uint64_t)i), 0);
        }
    }
    until_failure = -1;
    CHECK_EQ(seen_by(poller, seen), MANY);
    for (i = 0; i < MANY; i++)
        CHECK_EQ(backend->remove(poller, number[i]), 0);
    CHECK_EQ(seen_by(poller, seen), 0);
    backend->close(poller);
}

static void a_failed_add_changes_nothing(void) {
    int n;

    for (n = 0; n < 20; n++)
        adding_n(n);
}

/* The array cannot grow: what it holds is the answer, the rest comes later,
 * and all of it once there is memory again. */
static void a_wait_without_memory_is_still_one(void) {
    struct ka_poller *poller;
    char seen[MANY], ever[MANY];
    int i, round, count, first = 0, all = 0;

    CHECK_EQ(backend->open(&poller), 0);
    for (i = 0; i < MANY; i++)
        CHECK_EQ(backend->add(poller, number[i], KA_READ, (uint64_t)i), 0);
    memset(ever, 0, sizeof ever);
    for (round = 0; round < 10; round++) {
        until_failure = 0;
        count = seen_by(poller, seen);
        until_failure = -1;
        CHECK(count >= 64);
        first = round ? first : count;
        for (i = 0; i < MANY; i++)
            ever[i] |= seen[i];
    }
    for (i = 0; i < MANY; i++)
        all += ever[i];
    CHECK_EQ(all, MANY);
    until_failure = 1; /* grows once, and not a second time */
    CHECK(seen_by(poller, seen) >= first);
    until_failure = -1;
    CHECK_EQ(seen_by(poller, seen), MANY);
    allocations = 0;
    CHECK_EQ(seen_by(poller, seen), MANY);
    CHECK_EQ(allocations, 0); /* nothing in a wait like the last one */
    backend->close(poller);
}

static void all_of(const struct ka_backend *tested) {
    static const struct {
        const char *name;
        void (*body)(void);
    } cases[] = {
        {"open_gives_all_back", open_gives_all_back},
        {"a_failed_add_changes_nothing", a_failed_add_changes_nothing},
        {"a_wait_without_memory_is_still_one",
         a_wait_without_memory_is_still_one},
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
    int end[2];
    int i;

    if (pipe(end) < 0 || write(end[1], "x", 1) != 1)
        return 99;
    for (i = 0; i < MANY; i++)
        number[i] = dup(end[0]);
    all_of(&best_poller);
    all_of(&ka_backend_poll);
    return test_report("poller_memory");
}
