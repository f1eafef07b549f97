/* chance.h - the chance of random lives, the same again from the same `state`.
 */
#ifndef KA_CHANCE_H
#define KA_CHANCE_H

#include <stdint.h>

static uint64_t state;

static int64_t chance(int64_t below) { /* xorshift64 */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (int64_t)((state >> 16) % (uint64_t)below);
}

static int64_t between(int64_t low, int64_t high) {
    return low + chance(high - low + 1);
}

#endif
