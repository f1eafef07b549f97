/* model_kqueue.c - see the header. Its memory is static: the programs make
 * the allocator fail. A wake takes no lock: signal handlers call it.
 */
#include "model_kqueue.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SETS 64
#define NUMBERS 16384

int __real_close(int fd);
int __real_dup2(int from, int to);
int __wrap_close(int fd);
int __wrap_dup2(int from, int to);

struct model model;

static struct set {
    _Atomic int number; /* of an eventfd, which is its wake; 0: free */
    int user;
    int highest;
    int turn; /* where the next answer begins */
    unsigned char filters[NUMBERS];
} sets[SETS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t forks_watched = PTHREAD_ONCE_INIT;

void model_reset(void) {
    memset(&model, 0, sizeof model);
}

static struct set *set_of(int number) {
    int i;

    for (i = 0; i < SETS; i++)
        if (number > 0 && atomic_load(&sets[i].number) == number)
            return &sets[i];
    return NULL;
}

int model_filters(int number, int fd) {
    return set_of(number)->filters[fd];
}

static void empty(struct set *set) {
    atomic_store(&set->number, 0);
    set->user = set->turn = set->highest = 0;
    memset(set->filters, 0, sizeof set->filters);
}

/* ---- what a set does not survive ---------------------------------------- */

static void enter(void) {
    pthread_mutex_lock(&lock);
}

static void leave(void) {
    pthread_mutex_unlock(&lock);
}

static void not_inherited(void) {
    int i, number;

    for (i = 0; i < SETS; i++) {
        number = atomic_load(&sets[i].number);
        if (number) {
            empty(&sets[i]);
            __real_close(number);
        }
    }
    leave();
}

static void watch_forks(void) {
    pthread_atfork(enter, leave, not_inherited);
}

static void forget(int fd) {
    struct set *set = set_of(fd);
    int i;

    if (fd < 0 || fd >= NUMBERS)
        return;
    enter();
    for (i = 0; i < SETS; i++)
        sets[i].filters[fd] = 0;
    if (set)
        empty(set);
    leave();
}

int __wrap_close(int fd) {
    forget(fd);
    return __real_close(fd);
}

int __wrap_dup2(int from, int to) {
    if (from != to)
        forget(to);
    return __real_dup2(from, to);
}

int kqueue(void) {
    int number, i;

    pthread_once(&forks_watched, watch_forks);
    number = eventfd(0, EFD_NONBLOCK);
    if (number < 0)
        return -1;
    enter();
    for (i = 0; i < SETS && atomic_load(&sets[i].number); i++)
        ;
    if (i < SETS)
        atomic_store(&sets[i].number, number);
    leave();
    if (i < SETS)
        return number;
    __real_close(number);
    errno = ENOMEM;
    return -1;
}

/* ---- changes ------------------------------------------------------------ */

static short shown(int fd, short events) {
    struct pollfd one = {fd, events, 0};

    return poll(&one, 1, 0) > 0 ? one.revents : 0;
}

/* Why a descriptor cannot be added, or 0. */
static int objection(int fd, int which) {
    struct stat is;

    if (model.refuse[which])
        return model.refuse[which];
    if (fstat(fd, &is) < 0)
        return EBADF;
    if (S_ISCHR(is.st_mode) && !isatty(fd))
        return EINVAL;
    if (which == 1 && S_ISFIFO(is.st_mode) && shown(fd, POLLOUT) & POLLERR)
        return EPIPE;
    return 0;
}

static int apply(struct set *set, const struct kevent *asked) {
    int which = asked->filter == EVFILT_WRITE;
    int fd = (int)asked->ident;
    int error;

    if (model.changes < 64)
        model.change[model.changes++] =
            (struct model_change){fd, asked->filter, asked->flags};
    if (asked->filter == EVFILT_USER) {
        set->user |= asked->flags & EV_ADD;
        return 0;
    }
    if (fd < 0 || fd >= NUMBERS || fcntl(fd, F_GETFD) < 0)
        return EBADF;
    if (asked->flags & EV_DELETE) {
        if (!(set->filters[fd] >> which & 1))
            return ENOENT;
        set->filters[fd] &= (unsigned char)~(1 << which);
        return 0;
    }
    error = objection(fd, which);
    if (error)
        return error;
    set->filters[fd] |= (unsigned char)(1 << which);
    if (fd > set->highest)
        set->highest = fd;
    return 0;
}

/* How many receipts, or -1 and errno. */
static int apply_all(struct set *set, const struct kevent *changes,
                     int nchanges, struct kevent *events, int nevents) {
    int i, error, receipts = 0;

    model.calls++;
    for (i = 0; i < nchanges; i++) {
        error = apply(set, &changes[i]);
        if (!error && !(changes[i].flags & EV_RECEIPT))
            continue;
        if (receipts == nevents) {
            errno = error;
            return -1;
        }
        events[receipts] = changes[i];
        events[receipts].flags = EV_ERROR;
        events[receipts++].data = error;
    }
    if (model.interrupts > 0) {
        model.interrupts--;
        errno = EINTR;
        return -1;
    }
    return receipts;
}

/* ---- waiting ------------------------------------------------------------ */

static _Thread_local struct pollfd seen[NUMBERS];

/* A regular file is readable before its end, and there is nothing to wait
 * for. */
static short regular(int fd) {
    struct stat is;

    if (fstat(fd, &is) < 0 || !S_ISREG(is.st_mode))
        return -1;
    return (short)(POLLOUT |
                   (lseek(fd, 0, SEEK_CUR) < is.st_size ? POLLIN : 0));
}

/* [0] is the wake. */
static int list(const struct set *set) {
    int fd, count = 1;
    short ready;

    seen[0] = (struct pollfd){set->user ? set->number : -1, POLLIN, 0};
    for (fd = 0; fd <= set->highest; fd++) {
        short events =
            (short)((set->filters[fd] & 1 ? POLLIN | POLLRDHUP : 0) |
                    (set->filters[fd] & 2 ? POLLOUT : 0));

        if (!events)
            continue;
        ready = regular(fd);
        if (ready >= 0)
            events &= ready;
        seen[count++] = (struct pollfd){fd, events, 0};
    }
    return count;
}

static int64_t left_ns(const struct timespec *end) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (end->tv_sec - now.tv_sec) * INT64_C(1000000000) + end->tv_nsec -
           now.tv_nsec;
}

static int is_socket(int fd) {
    struct stat is;

    return fstat(fd, &is) == 0 && S_ISSOCK(is.st_mode);
}

/* One filter of one descriptor, if it has something to show. */
static int report(const struct set *set, const struct pollfd *one, int which,
                  struct kevent *event) {
    short all = which ? POLLOUT | POLLERR | POLLHUP
                      : POLLIN | POLLRDHUP | POLLERR | POLLHUP;
    short ends = which ? POLLERR | POLLHUP : POLLRDHUP | POLLERR | POLLHUP;
    int size = 0;

    if (!(set->filters[one->fd] >> which & 1) || !(one->revents & all))
        return 0;
    memset(event, 0, sizeof *event);
    event->ident = (uintptr_t)one->fd;
    event->filter = which ? EVFILT_WRITE : EVFILT_READ;
    if (one->revents & ends)
        event->flags |= EV_EOF;
    if (one->revents & POLLERR && is_socket(one->fd))
        event->fflags = ECONNRESET;
    if (which == 0 && ioctl(one->fd, FIONREAD, &size) == 0)
        event->data = size;
    return 1;
}

static int collect(struct set *set, int listed, struct kevent *events,
                   int nevents) {
    int i, at, made = 0;
    uint64_t wakes;

    if (seen[0].revents & POLLIN &&
        read(set->number, &wakes, sizeof wakes) > 0) {
        memset(&events[made], 0, sizeof *events);
        events[made].flags = EV_CLEAR;
        events[made++].filter = EVFILT_USER;
    }
    for (i = 1; i < listed; i++)
        if (seen[i].revents & POLLNVAL)
            set->filters[seen[i].fd] = 0;
    for (i = 0; i < 2 * listed && made < nevents; i++) {
        at = (set->turn + i) % (2 * listed);
        if (at % listed > 0)
            made +=
                report(set, &seen[at % listed], at / listed, &events[made]);
    }
    if (made == nevents)
        set->turn = (set->turn + i) % (2 * listed);
    return made;
}

static int scan(int number, struct kevent *events, int nevents,
                const struct timespec *timeout) {
    struct timespec end, rest = {0, 0};
    struct set *set;
    int listed, found;

    clock_gettime(CLOCK_MONOTONIC, &end);
    if (timeout) {
        end.tv_sec += timeout->tv_sec;
        end.tv_nsec += timeout->tv_nsec;
        rest = *timeout;
    }
    for (;;) {
        enter();
        set = set_of(number);
        listed = set ? list(set) : 0;
        leave();
        if (!set) {
            errno = EBADF;
            return -1;
        }
        found = ppoll(seen, (nfds_t)listed, timeout ? &rest : NULL, NULL);
        if (found < 0)
            return -1;
        enter();
        found = found ? collect(set, listed, events, nevents) : 0;
        leave();
        if (found || (timeout && left_ns(&end) <= 0))
            return found;
        if (timeout) { /* only such as have been closed */
            int64_t left = left_ns(&end);

            left = left < 0 ? 0 : left;
            rest.tv_sec = left / 1000000000;
            rest.tv_nsec = left % 1000000000;
        }
    }
}

static int trigger(const struct set *set) {
    uint64_t one = 1;

    if (model.interrupts > 0) {
        model.interrupts--;
        errno = EINTR;
        return -1;
    }
    if (write(set->number, &one, sizeof one) < 0 && errno != EAGAIN)
        return -1;
    errno = 99; /* a wake must not let this through */
    return 0;
}

int kevent(int number, const struct kevent *changes, int nchanges,
           struct kevent *events, int nevents,
           const struct timespec *timeout) {
    struct set *set = set_of(number);
    int rc;

    if (!set) {
        errno = EBADF;
        return -1;
    }
    if (nchanges == 1 && changes->fflags & NOTE_TRIGGER)
        return trigger(set);
    if (nchanges > 0) {
        enter();
        rc = apply_all(set, changes, nchanges, events, nevents);
        leave();
        if (rc != 0 || nevents == 0)
            return rc;
    }
    if (model.inject) {
        rc = model.injected < nevents ? model.injected : nevents;
        memcpy(events, model.inject, (size_t)rc * sizeof *events);
        model.inject = NULL;
        return rc;
    }
    if (model.first_only && --model.first_only == 0) {
        errno = EINTR;
        return -1;
    }
    return scan(number, events, nevents, timeout);
}
