/* raw.h - numbers out of what a kernel has filled in, as long as it is; -1
 * where that ends before them: an older kernel fills in less.
 */
#ifndef KA_RAW_H
#define KA_RAW_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline int64_t ka_u32_at(const unsigned char *raw, size_t size,
                                int offset) {
    uint32_t value;

    if ((size_t)offset + sizeof value > size)
        return -1;
    memcpy(&value, raw + offset, sizeof value);
    return value;
}

static inline int64_t ka_u64_at(const unsigned char *raw, size_t size,
                                int offset) {
    uint64_t value;

    if ((size_t)offset + sizeof value > size)
        return -1;
    memcpy(&value, raw + offset, sizeof value);
    return (int64_t)value;
}

#endif
