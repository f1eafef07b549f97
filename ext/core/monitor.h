/* monitor.h - a thread, and a place where threads wait for each other.
 *
 * One file per family, monitor_posix.c and monitor_windows.c, the same
 * functions in each. The thread that is started here never knows Python and
 * takes no signal.
 */
#ifndef KA_MONITOR_H
#define KA_MONITOR_H

#include <stdint.h>

/* One at a time is inside; who is inside may wait for a notice. */
struct ka_monitor;

struct ka_monitor *ka_monitor_new(void); /* NULL: no memory */
void ka_monitor_free(struct ka_monitor *monitor);
void ka_monitor_enter(struct ka_monitor *monitor);
void ka_monitor_leave(struct ka_monitor *monitor);
/* From inside: leave, wait for a notice or for timeout_ms (< 0: for ever),
 * enter again. By a clock that nobody sets. May come back early. */
void ka_monitor_wait(struct ka_monitor *monitor, int64_t timeout_ms);
void ka_monitor_notify(struct ka_monitor *monitor); /* all who wait */

struct ka_thread;

/* Run run(argument) in a thread of its own, with every signal blocked and a
 * small stack. `name` (at most 15 characters) shows where the system shows
 * threads. 0 or -errno. */
int ka_thread_start(struct ka_thread **out, void (*run)(void *),
                    void *argument, const char *name);
/* Wait for its end and free it. */
void ka_thread_join(struct ka_thread *thread);
/* In a forked child, where the thread is not: free it without waiting. */
void ka_thread_forget(struct ka_thread *thread);
/* CPU time of the calling thread so far; -1 where it is not told. */
int64_t ka_thread_cpu_us(void);

#endif
