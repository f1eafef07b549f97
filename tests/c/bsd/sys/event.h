/* What fake_bsd.c has of a BSD's <sys/event.h>. */
#ifndef FAKE_SYS_EVENT_H
#define FAKE_SYS_EVENT_H

#include <stdint.h>
#include <time.h>

#define EVFILT_READ (-1)
#define EVFILT_WRITE (-2)
#define EV_ADD 0x0001
#define EV_ERROR 0x4000
#define EV_EOF 0x8000
#define NOTE_LOWAT 0x0001

struct kevent {
    uintptr_t ident;
    short filter;
    unsigned short flags;
    unsigned fflags;
    int64_t data;
    void *udata;
};

#define EV_SET(at, ident_, filter_, flags_, fflags_, data_, udata_)           \
    (*(at) =                                                                  \
         (struct kevent){(uintptr_t)(ident_), (filter_), (flags_), (fflags_), \
                         (int64_t)(data_), (void *)(uintptr_t)(udata_)})

int kqueue(void);
int kevent(int queue, const struct kevent *changes, int n,
           struct kevent *events, int room, const struct timespec *timeout);

#endif
