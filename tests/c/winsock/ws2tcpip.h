/* ws2tcpip.h - nothing that winsock2.h of this folder does not have. */
#include <winsock2.h>
