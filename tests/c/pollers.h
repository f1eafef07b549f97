/* pollers.h - the mechanism that a build prefers; poll is in each. */
#ifndef KA_POLLERS_H
#define KA_POLLERS_H

#include "backend.h"

#ifdef KA_HAS_KQUEUE
#define BEST_POLLER "kqueue"
#define best_poller ka_backend_kqueue
#else
#define BEST_POLLER "epoll"
#define best_poller ka_backend_epoll
#endif

#endif
