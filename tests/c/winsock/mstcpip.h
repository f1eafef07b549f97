/* mstcpip.h - see winsock2.h of this folder. */
#ifndef KA_FAKE_MSTCPIP_H
#define KA_FAKE_MSTCPIP_H

#include <winsock2.h>

struct tcp_keepalive {
    u_long onoff;
    u_long keepalivetime;
    u_long keepaliveinterval;
};
#define SIO_KEEPALIVE_VALS 2550136836u

#endif
