/* A disk that fails on demand: while the file $BROKEN_DISK_FLAG exists, whatever would write below
 * $BROKEN_DISK fails with the error number in $BROKEN_DISK_ERRNO. To be preloaded (LD_PRELOAD). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int broken(int folder, const char *path) {
    const char *below = getenv("BROKEN_DISK"), *flag = getenv("BROKEN_DISK_FLAG");
    const char *code = getenv("BROKEN_DISK_ERRNO");
    char whole[PATH_MAX];
    if (!below || !flag || !code || !path) return 0;
    if (path[0] != '/') {
        if (folder != AT_FDCWD || !getcwd(whole, sizeof whole / 2)) return 0;
        strcat(whole, "/");
        strncat(whole, path, sizeof whole - strlen(whole) - 1);
        path = whole;
    }
    if (strncmp(path, below, strlen(below)) != 0) return 0;
    int before = errno;
    if (access(flag, F_OK) != 0) {
        errno = before;
        return 0;
    }
    errno = atoi(code);
    return 1;
}

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT); }

#define OPEN(name)                                                                \
    int name(const char *path, int flags, ...) {                                  \
        va_list rest;                                                             \
        va_start(rest, flags);                                                    \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                             \
        if (writes(flags) && broken(AT_FDCWD, path)) return -1;                   \
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name);            \
        return real(path, flags, mode);                                           \
    }
#define OPENAT(name)                                                              \
    int name(int folder, const char *path, int flags, ...) {                      \
        va_list rest;                                                             \
        va_start(rest, flags);                                                    \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                             \
        if (writes(flags) && broken(folder, path)) return -1;                     \
        int (*real)(int, const char *, int, ...) = dlsym(RTLD_NEXT, #name);       \
        return real(folder, path, flags, mode);                                   \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int mkdir(const char *path, mode_t mode) {
    if (broken(AT_FDCWD, path)) return -1;
    int (*real)(const char *, mode_t) = dlsym(RTLD_NEXT, "mkdir");
    return real(path, mode);
}

int link(const char *from, const char *to) {
    if (broken(AT_FDCWD, to)) return -1;
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "link");
    return real(from, to);
}

int rename(const char *from, const char *to) {
    if (broken(AT_FDCWD, to)) return -1;
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    return real(from, to);
}
