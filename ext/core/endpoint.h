/* endpoint.h - a socket's address as an endpoint, the same on every system.
 * Include it after the system's headers of sockets.
 */
#ifndef KA_ENDPOINT_H
#define KA_ENDPOINT_H

#include <string.h>

#include "reserve.h"

static inline void ka_copy_endpoint(const struct sockaddr_storage *from,
                                    struct ka_endpoint *out) {
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0,    0,
                                             0, 0, 0, 0, 0xff, 0xff};
    const struct sockaddr_in *four = (const struct sockaddr_in *)from;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)from;

    if (from->ss_family == AF_INET) {
        out->family = 4;
        out->port = ntohs(four->sin_port);
        memcpy(out->address, &four->sin_addr, 4);
    } else if (from->ss_family == AF_INET6) {
        out->port = ntohs(six->sin6_port);
        if (memcmp(&six->sin6_addr, mapped, sizeof mapped) == 0) {
            out->family = 4;
            memcpy(out->address, six->sin6_addr.s6_addr + 12, 4);
        } else {
            out->family = 6;
            out->scope = six->sin6_scope_id;
            memcpy(out->address, &six->sin6_addr, 16);
        }
    }
}

#endif
