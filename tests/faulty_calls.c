/* SPDX-License-Identifier: MIT */
#include "faulty_calls.h"

#include <errno.h>
#include <string.h>

#define WRITE_SIZE 100 /* most bytes of a write */

struct faults faults;

void faults_set(enum fault_kind kind, int at, int error, const char *only)
{
    faults = (struct faults){.kind = kind, .at = at, .error = error, .only = only};
}

/* Is this the call that ends the process or fails? errno is set then. */
static bool fails(const char *name)
{
    const size_t used = strlen(faults.trace);
    snprintf(faults.trace + used, sizeof faults.trace - used, "%s ", name);
    if (faults.only != NULL && strcmp(faults.only, name) != 0) {
        return false;
    }
    const int number = faults.calls++;
    if (faults.kind == FAULT_END_BEFORE && number == faults.at) {
        _exit(FAULT_ENDED);
    }
    errno = faults.error;
    return (faults.kind == FAULT_ONCE && number == faults.at) ||
           (faults.kind == FAULT_FROM_NOW && number >= faults.at);
}

/* The call is done. */
static void done(const char *name)
{
    if (faults.kind == FAULT_END_AFTER && faults.calls == faults.at + 1 &&
        (faults.only == NULL || strcmp(faults.only, name) == 0)) {
        _exit(FAULT_ENDED);
    }
}

#define FAULTY(name, failure, call)                                                                \
    do {                                                                                           \
        if (fails(name)) {                                                                         \
            return failure;                                                                        \
        }                                                                                          \
        const long result = (call);                                                                \
        done(name);                                                                                \
        return (int)result;                                                                        \
    } while (0)

int faulty_open(const char *path, int flags)
{
    FAULTY("open", -1, open(path, flags));
}

int faulty_openat(int at, const char *path, int flags, mode_t mode)
{
    FAULTY("openat", -1, openat(at, path, flags, mode));
}

int faulty_mkdir(const char *path, mode_t mode)
{
    FAULTY("mkdir", -1, mkdir(path, mode));
}

int faulty_fstat(int fd, struct stat *info)
{
    FAULTY("fstat", -1, fstat(fd, info));
}

ssize_t faulty_read(int fd, void *data, size_t size)
{
    FAULTY("read", -1, read(fd, data, size));
}

ssize_t faulty_write(int fd, const void *data, size_t size)
{
    FAULTY("write", -1, write(fd, data, size < WRITE_SIZE ? size : WRITE_SIZE));
}

int faulty_fsync(int fd)
{
    FAULTY("fsync", -1, 0 * fd); /* a power cut is not tested, so the disk need not turn */
}

int faulty_close(int fd)
{
    const bool failed = fails("close");
    const int result = close(fd); /* also of one that fails */
    done("close");
    if (failed && faults.kind == FAULT_ONCE) {
        errno = faults.error;
        return -1;
    }
    return result;
}

int faulty_renameat(int from, const char *old, int to, const char *new)
{
    FAULTY("renameat", -1, renameat(from, old, to, new));
}

int faulty_unlinkat(int at, const char *path, int flags)
{
    FAULTY("unlinkat", -1, unlinkat(at, path, flags));
}

DIR *faulty_opendir(const char *path)
{
    if (fails("opendir")) {
        return NULL;
    }
    DIR *directory = opendir(path);
    done("opendir");
    return directory;
}
