/* SPDX-License-Identifier: MIT */
/*
 * What the cache asks of the system, in a build of its sources for tests: this header is included
 * before their own and puts these functions in the place of the system's. Each can be the one that
 * fails, or the last of its process. A write takes a few bytes at a time, so that there are steps
 * within a file, too.
 */
#ifndef DOCONV_TEST_FAULTY_CALLS_H
#define DOCONV_TEST_FAULTY_CALLS_H

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum fault_kind {
    FAULT_NONE,
    FAULT_ONCE,       /* call `at` fails with `error` */
    FAULT_FROM_NOW,   /* and all after it, but for close(), which succeeds */
    FAULT_END_BEFORE, /* the process ends there, with status FAULT_ENDED, */
    FAULT_END_AFTER   /* or when the call has done its work */
};

#define FAULT_ENDED 99
#define FAULT_TRACE 2048

struct faults {
    enum fault_kind kind;
    int at; /* number of the call, from 0 on */
    int error;
    const char *only; /* only calls of this function count; NULL: all do */
    int calls;
    char trace[FAULT_TRACE]; /* names of the calls, a blank after each */
};
extern struct faults faults;

/* No call so far, and this for those that come. */
void faults_set(enum fault_kind kind, int at, int error, const char *only);

int faulty_open(const char *path, int flags);
int faulty_openat(int at, const char *path, int flags, mode_t mode);
int faulty_mkdir(const char *path, mode_t mode);
int faulty_fstat(int fd, struct stat *info);
ssize_t faulty_read(int fd, void *data, size_t size);
ssize_t faulty_write(int fd, const void *data, size_t size);
int faulty_fsync(int fd);
int faulty_close(int fd);
int faulty_renameat(int from, const char *old, int to, const char *new);
int faulty_unlinkat(int at, const char *path, int flags);
DIR *faulty_opendir(const char *path);

#ifdef FAULTY_CALLS
#define open(path, flags) faulty_open(path, flags)
#define FAULTY_OPENAT(at, path, flags, mode, ...) faulty_openat(at, path, flags, mode)
#define openat(...) FAULTY_OPENAT(__VA_ARGS__, 0, 0)
#define mkdir(path, mode) faulty_mkdir(path, mode)
#define fstat(fd, info) faulty_fstat(fd, info)
#define read(fd, data, size) faulty_read(fd, data, size)
#define write(fd, data, size) faulty_write(fd, data, size)
#define fsync(fd) faulty_fsync(fd)
#define close(fd) faulty_close(fd)
#define renameat(from, old, to, new) faulty_renameat(from, old, to, new)
#define unlinkat(at, path, flags) faulty_unlinkat(at, path, flags)
#define opendir(path) faulty_opendir(path)
#endif

#endif
