/* failing.h - an allocator that fails when the test says so, linked in place
 * of the system's by -Wl,--wrap. One program includes it once.
 */
#ifndef KA_FAILING_H
#define KA_FAILING_H

#include <stddef.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);

static int until_failure = -1; /* allocations that succeed; -1: all */
static int allocations, failures;

static int refuse(void) {
    allocations++;
    if (until_failure < 0)
        return 0;
    if (until_failure > 0) {
        until_failure--;
        return 0;
    }
    failures++;
    return 1;
}

void *__wrap_malloc(size_t size) {
    return refuse() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size) {
    return refuse() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size) {
    return refuse() ? NULL : __real_realloc(old, size);
}

#endif
