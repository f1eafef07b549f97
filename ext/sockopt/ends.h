/* ends.h - the two ends of a socket, mixed into the number that names it where
 * the system has no other name for one. Port, address and scope count, and
 * not the rest, which differs between two answers. Include it after the
 * system's headers of sockets.
 */
#ifndef KA_ENDS_H
#define KA_ENDS_H

#include <stddef.h>
#include <stdint.h>

#define KA_MIX_SEED UINT64_C(0xCBF29CE484222325)

static inline uint64_t ka_mix(uint64_t seed, const void *bytes, size_t size) {
    const unsigned char *byte = bytes;

    while (size--)
        seed = (seed ^ *byte++) * UINT64_C(0x100000001B3);
    return seed ^ seed >> 29;
}

static inline uint64_t ka_mix_end(uint64_t seed,
                                  const struct sockaddr_storage *address,
                                  int size) {
    const struct sockaddr_in *four = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;

    seed = ka_mix(seed, &address->ss_family, sizeof address->ss_family);
    if (address->ss_family == AF_INET) {
        seed = ka_mix(seed, &four->sin_port, sizeof four->sin_port);
        return ka_mix(seed, &four->sin_addr, sizeof four->sin_addr);
    }
    if (address->ss_family == AF_INET6) {
        seed = ka_mix(seed, &six->sin6_port, sizeof six->sin6_port);
        seed = ka_mix(seed, &six->sin6_scope_id, sizeof six->sin6_scope_id);
        return ka_mix(seed, &six->sin6_addr, sizeof six->sin6_addr);
    }
    return ka_mix(seed, address, (size_t)size);
}

#endif
