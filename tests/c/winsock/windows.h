/* windows.h - as much of Windows as ext/core/reserve_windows.c uses beside its
 * sockets; see winsock2.h. */
#ifndef KA_FAKE_WINDOWS_H
#define KA_FAKE_WINDOWS_H

#include <winsock2.h>

typedef void *HANDLE;
typedef int BOOL;

DWORD GetCurrentProcessId(void);
BOOL CancelIoEx(HANDLE file, LPWSAOVERLAPPED one);

#endif
