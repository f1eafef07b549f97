/* monitor_windows.c - threads of Windows.
 *
 * The thread is made by the C library, because what it runs calls it. There
 * are no signals and there is no fork. The name can only be given on systems
 * that have the function, which are found out at run time.
 */
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include "monitor.h"

#include <windows.h>
#include <process.h>

#include <errno.h>
#include <stdlib.h>

#define KA_STACK_BYTES (256u << 10)
#define KA_NAME_CHARACTERS 16
#define KA_LONGEST_MS ((int64_t)INT32_MAX) /* a wait may end early */

/* ---- monitor ------------------------------------------------------------ */

struct ka_monitor {
    SRWLOCK lock;
    CONDITION_VARIABLE notice;
};

struct ka_monitor *ka_monitor_new(void) {
    struct ka_monitor *monitor = malloc(sizeof *monitor);

    if (monitor) {
        InitializeSRWLock(&monitor->lock);
        InitializeConditionVariable(&monitor->notice);
    }
    return monitor;
}

void ka_monitor_free(struct ka_monitor *monitor) {
    free(monitor);
}

void ka_monitor_enter(struct ka_monitor *monitor) {
    AcquireSRWLockExclusive(&monitor->lock);
}

void ka_monitor_leave(struct ka_monitor *monitor) {
    ReleaseSRWLockExclusive(&monitor->lock);
}

void ka_monitor_wait(struct ka_monitor *monitor, int64_t timeout_ms) {
    DWORD wait = INFINITE;

    if (timeout_ms >= 0)
        wait =
            (DWORD)(timeout_ms < KA_LONGEST_MS ? timeout_ms : KA_LONGEST_MS);
    SleepConditionVariableSRW(&monitor->notice, &monitor->lock, wait, 0);
}

void ka_monitor_notify(struct ka_monitor *monitor) {
    WakeAllConditionVariable(&monitor->notice);
}

/* ---- thread ------------------------------------------------------------- */

struct ka_thread {
    HANDLE handle;
    void (*run)(void *);
    void *argument;
    WCHAR name[KA_NAME_CHARACTERS];
};

typedef HRESULT(WINAPI *ka_describe)(HANDLE, PCWSTR);

static void name_this_thread(const WCHAR *name) {
    HMODULE library = GetModuleHandleW(L"kernelbase.dll");
    ka_describe describe = NULL;

    if (library)
        describe = (ka_describe)(void (*)(void))GetProcAddress(
            library, "SetThreadDescription");
    if (describe)
        describe(GetCurrentThread(), name);
}

static unsigned __stdcall begin(void *started) {
    const struct ka_thread *thread = started;

    name_this_thread(thread->name);
    thread->run(thread->argument);
    return 0;
}

int ka_thread_start(struct ka_thread **out, void (*run)(void *),
                    void *argument, const char *name) {
    struct ka_thread *thread = calloc(1, sizeof *thread);
    int i;

    if (thread == NULL)
        return -ENOMEM;
    thread->run = run;
    thread->argument = argument;
    for (i = 0; i < KA_NAME_CHARACTERS - 1 && name[i]; i++)
        thread->name[i] = (WCHAR)(unsigned char)name[i];
    thread->handle =
        (HANDLE)_beginthreadex(NULL, KA_STACK_BYTES, begin, thread,
                               STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (thread->handle == NULL) {
        free(thread);
        return -EAGAIN;
    }
    *out = thread;
    return 0;
}

void ka_thread_join(struct ka_thread *thread) {
    WaitForSingleObject(thread->handle, INFINITE);
    CloseHandle(thread->handle);
    free(thread);
}

void ka_thread_forget(struct ka_thread *thread) {
    CloseHandle(thread->handle);
    free(thread);
}

static int64_t units(const FILETIME *time) { /* of 100 ns */
    return (int64_t)(((uint64_t)time->dwHighDateTime << 32) |
                     time->dwLowDateTime);
}

int64_t ka_thread_cpu_us(void) {
    FILETIME born, ended, kernel, user;

    if (!GetThreadTimes(GetCurrentThread(), &born, &ended, &kernel, &user))
        return -1;
    return (units(&kernel) + units(&user)) / 10;
}
