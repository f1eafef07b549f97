/* test.h - the whole harness: cases, checks, a count at the end.
 *
 * A program is a main() of RUN() lines that returns test_report(). A check
 * that fails prints itself and the case goes on, so one run shows all of it.
 */
#ifndef KA_TEST_H
#define KA_TEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifndef _WIN32
#include <sys/wait.h>
#include <unistd.h>
#elif defined(__MINGW32__)
#include <unistd.h>
#define alarm(seconds) ((void)(seconds)) /* wine is given a time instead */
#endif

static struct {
    const char *name;
    int failures; /* of the case that runs now */
    int passed;
    int failed;
    void (*before)(void);
    void (*after)(void);
} test;

static inline int test_check(int good, const char *file, int line,
                             const char *text) {
    if (!good) {
        test.failures++;
        printf("%s:%d: %s: %s\n", file, line, test.name, text);
    }
    return good;
}

static inline int test_equal(long long got, long long want, const char *file,
                             int line, const char *text) {
    char both[300];

    snprintf(both, sizeof both, "%s is %lld, not %lld", text, got, want);
    return test_check(got == want, file, line, both);
}

#define CHECK(what) test_check(!!(what), __FILE__, __LINE__, #what)
#define CHECK_EQ(got, want) \
    test_equal((long long)(got), (long long)(want), __FILE__, __LINE__, #got)

/* A case by hand, for tables: one per row. */
static inline void test_begin(const char *name) {
    test.name = name;
    test.failures = 0;
    if (test.before)
        test.before();
}

static inline void test_end(void) {
    if (test.after)
        test.after();
    if (test.failures)
        test.failed++;
    else
        test.passed++;
}

/* Of the cases that are functions, TEST_ONLY in the environment chooses those
 * whose names begin so. */
static inline int test_is_left_out(const char *name) {
    const char *only = getenv("TEST_ONLY");

    return only && strncmp(name, only, strlen(only)) != 0;
}

static inline void test_run(const char *name, void (*body)(void)) {
    if (test_is_left_out(name))
        return;
    test_begin(name);
    body();
    test_end();
}

#ifndef _WIN32

/* For what is remembered for the life of a process. */
static inline void test_run_forked(const char *name, void (*body)(void)) {
    int status = -1;
    pid_t child;

    if (test_is_left_out(name))
        return;
    test_begin(name);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        body();
        if (test.after)
            test.after();
        fflush(stdout);
        _exit(test.failures != 0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    test_end();
}

#define RUN_FORKED(body) test_run_forked(#body, body)

#endif

#define RUN(body) test_run(#body, body)

static inline int test_report(const char *program) {
    if (test.failed)
        printf("%s: %d FAILED, ", program, test.failed);
    else
        printf("%s: ", program);
    printf("%d passed\n", test.passed);
    return test.failed || !test.passed;
}

#endif
