/* Preloaded into a node's processes: their clock is CLOCK_AHEAD_S seconds ahead. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(id, now);
    const char *ahead = getenv("CLOCK_AHEAD_S");
    if (id == CLOCK_REALTIME && ahead) now->tv_sec += atoi(ahead);
    return done;
}
