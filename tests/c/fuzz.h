/* fuzz.h - bytes into decisions, and promises that abort when broken. */
#ifndef KA_FUZZ_H
#define KA_FUZZ_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_kernel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct feed {
    const uint8_t *data;
    size_t left;
};

static inline uint64_t feed_bytes(struct feed *feed, int n) {
    uint64_t value = 0;

    while (n-- > 0 && feed->left > 0) {
        value = value << 8 | *feed->data++;
        feed->left--;
    }
    return value;
}

/* A number from low to high. */
static inline int64_t feed_range(struct feed *feed, int64_t low,
                                 int64_t high) {
    uint64_t span = (uint64_t)(high - low) + 1;

    return low + (int64_t)(feed_bytes(feed, span > 65536 ? 4 : 2) % span);
}

#define PROMISE(what)                                                  \
    do {                                                               \
        if (!(what)) {                                                 \
            fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, \
                    #what);                                            \
            abort();                                                   \
        }                                                              \
    } while (0)

/* Values that an owner could have set, and options that may be missing. */
static inline void feed_options(struct feed *feed,
                                struct fake_socket *socket) {
    uint64_t absent = feed_bytes(feed, 1);
    int option;

    for (option = 0; option < KA_OPTIONS; option++) {
        struct fake_option *held = &socket->option[option];
        int64_t low = held->low, high = held->high;

        if (option == KA_ENABLED)
            low = 0, high = 1;
        else if (high > 20000 && (absent & 1)) /* small ones are lifelike */
            high = 20000;
        held->value = (int32_t)feed_range(feed, low, high);
        /* Mostly there: otherwise hardly a run gets any further. */
        held->absent = absent >= 0xc0 && (absent >> option & 1);
    }
}

#endif
