/* monitor_posix.c - threads of Linux, macOS and the BSDs.
 *
 * What can go wrong, and how this file stops it:
 *
 * Signals. A signal of the process goes to any thread that takes it. Ours
 * has no handler that could do anything, and Python's must run in the main
 * thread. So the thread is born with all of them blocked; to block them
 * itself would leave a moment in which one arrives.
 *
 * Stack. The default may be 8 MiB of a container's memory limit, or all of a
 * small address space; this thread needs a few KiB. But glibc takes thread
 * local storage out of the stack, and a program with much of it gets EINVAL
 * for a small one: then the default it is. Sanitizers need the default.
 *
 * Clocks. A condition waits by the wall clock unless told otherwise, and
 * then a clock that is set back by an hour makes a second an hour long.
 *
 * Fork. In the child the lock may be held, and the condition waited for, by
 * threads that are not there; glibc's pthread_cond_destroy waits for them to
 * leave. So a child gives back the memory and nothing else.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#ifndef _DARWIN_C_SOURCE
#define _DARWIN_C_SOURCE
#endif
#ifndef _NETBSD_SOURCE
#define _NETBSD_SOURCE
#endif
#include "monitor.h"

#include "os.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#if defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__DragonFly__)
#include <pthread_np.h>
#endif
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define KA_STACK_BYTES ((size_t)256 << 10)
#define KA_NAME_BYTES 16
#define KA_LONGEST_MS ((int64_t)INT32_MAX) /* a wait may end early */
#define KA_MS_NS 1000000

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KA_SMALL_STACK 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer) || \
    __has_feature(thread_sanitizer)
#define KA_SMALL_STACK 0
#endif
#endif
#ifndef KA_SMALL_STACK
#define KA_SMALL_STACK 1
#endif

/* ---- monitor ------------------------------------------------------------ */

struct ka_monitor {
    pthread_mutex_t mutex;
    pthread_cond_t notice;
    pid_t born_in; /* and after so many forks: a child in a new namespace may
                    * have its parent's number */
    unsigned forks;
};

static int make_condition(pthread_cond_t *notice) {
#ifdef __APPLE__ /* waits for a span, not until a time */
    return pthread_cond_init(notice, NULL);
#else
    pthread_condattr_t attributes;
    int rc = pthread_condattr_init(&attributes);

    if (rc != 0)
        return rc;
    rc = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (rc == 0)
        rc = pthread_cond_init(notice, &attributes);
    pthread_condattr_destroy(&attributes);
    return rc;
#endif
}

struct ka_monitor *ka_monitor_new(void) {
    struct ka_monitor *monitor = malloc(sizeof *monitor);

    if (monitor == NULL)
        return NULL;
    monitor->born_in = getpid();
    monitor->forks = ka_os_fork_generation();
    if (pthread_mutex_init(&monitor->mutex, NULL) == 0) {
        if (make_condition(&monitor->notice) == 0)
            return monitor;
        pthread_mutex_destroy(&monitor->mutex);
    }
    free(monitor);
    return NULL;
}

void ka_monitor_free(struct ka_monitor *monitor) {
    if (monitor == NULL)
        return;
    if (monitor->born_in == getpid() &&
        monitor->forks == ka_os_fork_generation()) {
        pthread_cond_destroy(&monitor->notice);
        pthread_mutex_destroy(&monitor->mutex);
    }
    free(monitor);
}

void ka_monitor_enter(struct ka_monitor *monitor) {
    pthread_mutex_lock(&monitor->mutex);
}

void ka_monitor_leave(struct ka_monitor *monitor) {
    pthread_mutex_unlock(&monitor->mutex);
}

static void wait_for(struct ka_monitor *monitor, int64_t timeout_ms) {
    struct timespec time = {0, 0};

#ifndef __APPLE__
    clock_gettime(CLOCK_MONOTONIC, &time);
#endif
    time.tv_sec += (time_t)(timeout_ms / 1000);
    time.tv_nsec += (long)(timeout_ms % 1000) * KA_MS_NS;
    if (time.tv_nsec >= 1000L * KA_MS_NS) {
        time.tv_nsec -= 1000L * KA_MS_NS;
        time.tv_sec++;
    }
#ifdef __APPLE__
    pthread_cond_timedwait_relative_np(&monitor->notice, &monitor->mutex,
                                       &time);
#else
    pthread_cond_timedwait(&monitor->notice, &monitor->mutex, &time);
#endif
}

void ka_monitor_wait(struct ka_monitor *monitor, int64_t timeout_ms) {
    if (timeout_ms < 0)
        pthread_cond_wait(&monitor->notice, &monitor->mutex);
    else
        wait_for(monitor,
                 timeout_ms < KA_LONGEST_MS ? timeout_ms : KA_LONGEST_MS);
}

void ka_monitor_notify(struct ka_monitor *monitor) {
    pthread_cond_broadcast(&monitor->notice);
}

/* ---- thread ------------------------------------------------------------- */

struct ka_thread {
    pthread_t id;
    void (*run)(void *);
    void *argument;
    char name[KA_NAME_BYTES];
};

/* Some systems name only the thread that asks. */
static void name_this_thread(const char *name) {
#if defined(__APPLE__)
    pthread_setname_np(name);
#elif defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__DragonFly__)
    pthread_set_name_np(pthread_self(), name);
#elif defined(__NetBSD__)
    pthread_setname_np(pthread_self(), "%s", (void *)(uintptr_t)name);
#elif defined(__linux__)
    pthread_setname_np(pthread_self(), name);
#else
    (void)name;
#endif
}

static void *begin(void *started) {
    const struct ka_thread *thread = started;

    name_this_thread(thread->name);
    thread->run(thread->argument);
    return NULL;
}

static int create_small(struct ka_thread *thread) {
    pthread_attr_t attributes;
    size_t least = (size_t)PTHREAD_STACK_MIN;
    int rc = pthread_attr_init(&attributes);

    if (rc != 0)
        return rc;
    rc = pthread_attr_setstacksize(
        &attributes, least > KA_STACK_BYTES ? least : KA_STACK_BYTES);
    if (rc == 0)
        rc = pthread_create(&thread->id, &attributes, begin, thread);
    pthread_attr_destroy(&attributes);
    return rc;
}

int ka_thread_start(struct ka_thread **out, void (*run)(void *),
                    void *argument, const char *name) {
    struct ka_thread *thread = calloc(1, sizeof *thread);
    sigset_t all, before;
    int rc;

    if (thread == NULL)
        return -ENOMEM;
    thread->run = run;
    thread->argument = argument;
    strncpy(thread->name, name, KA_NAME_BYTES - 1);
    sigfillset(&all);
    rc = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (rc == 0) {
        rc = KA_SMALL_STACK ? create_small(thread) : EINVAL;
        if (rc == EINVAL)
            rc = pthread_create(&thread->id, NULL, begin, thread);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (rc == 0)
        *out = thread;
    else
        free(thread);
    return -rc;
}

void ka_thread_join(struct ka_thread *thread) {
    pthread_join(thread->id, NULL);
    free(thread);
}

void ka_thread_forget(struct ka_thread *thread) {
    free(thread);
}

int64_t ka_thread_cpu_us(void) {
#ifdef CLOCK_THREAD_CPUTIME_ID
    struct timespec used;

    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used) == 0)
        return (int64_t)used.tv_sec * 1000000 + used.tv_nsec / 1000;
#endif
    return -1;
}
