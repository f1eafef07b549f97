/* model_kqueue_preload.c - the model kqueue as a library to be loaded before
 * all others, so that it sees what Python closes: .ci/kqueue.
 */
#include <dlfcn.h>
#include <unistd.h>

int __real_close(int fd);
int __real_dup2(int from, int to);
int __wrap_close(int fd);
int __wrap_dup2(int from, int to);

int __real_close(int fd) {
    return ((int (*)(int))dlsym(RTLD_NEXT, "close"))(fd);
}

int __real_dup2(int from, int to) {
    return ((int (*)(int, int))dlsym(RTLD_NEXT, "dup2"))(from, to);
}

int close(int fd) {
    return __wrap_close(fd);
}

int dup2(int from, int to) {
    return __wrap_dup2(from, to);
}
