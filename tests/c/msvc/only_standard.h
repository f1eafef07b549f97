/* only_standard.h - included before everything: what Microsoft's compiler has
 * not may not be spoken of. */
#include <stddef.h>
#include <stdint.h>
#pragma clang poison __attribute__ __attribute __typeof__ __typeof typeof
#pragma clang poison __extension__ __asm__ asm __label__ __thread __int128
#pragma clang poison __builtin_expect __builtin_unreachable __builtin_clz
#pragma clang poison __builtin_ctz __builtin_popcount __builtin_add_overflow
#pragma clang poison __builtin_mul_overflow ssize_t usleep getpid
#pragma clang poison strncasecmp strcasecmp pthread_create alloca
