/* What fake_bsd.c has of a BSD's <sys/sysctl.h>. */
#ifndef FAKE_SYS_SYSCTL_H
#define FAKE_SYS_SYSCTL_H

#include <stddef.h>

int sysctlbyname(const char *name, void *old, size_t *size, const void *wanted,
                 size_t n);

#endif
