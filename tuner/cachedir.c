/* SPDX-License-Identifier: MIT */
#include "cachedir.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRIES 16 /* of what other processes may get in the way of */

/*
 * Opens the directory of an environment, never through a link of its name: nothing outside of the
 * cache's directory is read or written, whoever else writes there. -1 and errno, ELOOP of a link.
 */
static int open_directory(const char *path)
{
    struct stat info;
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    const int error = errno;
    if (fd < 0) {
        errno = lstat(path, &info) == 0 && S_ISLNK(info.st_mode) ? ELOOP : error;
    }
    return fd;
}

/* Likewise a file in it. */
static int open_file(const char *path)
{
    char directory[CACHEDIR_PATH];
    const char *slash = strrchr(path, '/');
    if (slash == NULL || slash - path >= CACHEDIR_PATH) {
        errno = ENOENT;
        return -1;
    }
    memcpy(directory, path, (size_t)(slash - path));
    directory[slash - path] = '\0';
    const int at = open_directory(directory);
    if (at < 0) {
        return -1;
    }
    /* Without O_NONBLOCK a FIFO of that name would stop the program. */
    const int fd = openat(at, slash + 1, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    const int error = errno;
    close(at);
    errno = error;
    return fd;
}

/* Reads until `size` bytes are there or the file ends. The last read()'s result. */
static ssize_t read_up_to(int fd, char *text, size_t size, size_t *length)
{
    ssize_t n = 0;
    *length = 0;
    while (*length < size &&
           ((n = read(fd, text + *length, size - *length)) > 0 || (n < 0 && errno == EINTR))) {
        *length += n > 0 ? (size_t)n : 0;
    }
    return n;
}

ssize_t dc_cachedir_head(const char *path, char *text, size_t size)
{
    const int fd = open_file(path);
    struct stat info;
    size_t length = 0;
    ssize_t n = -1;
    if (fd < 0) {
        return -1;
    }
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) {
        n = read_up_to(fd, text, size, &length);
    }
    close(fd);
    return n < 0 ? -1 : (ssize_t)length;
}

ssize_t dc_cachedir_read(const char *path, char *text, size_t size, const char **reason)
{
    const int fd = open_file(path);
    if (fd < 0) {
        *reason = errno == ENOENT || errno == ENOTDIR ? ""
                  : errno == ELOOP                    ? "it is, or is in, a symbolic link"
                                                      : "it can't be opened";
        return -1;
    }
    struct stat info;
    size_t length = 0;
    ssize_t n = -1;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        *reason = "it is no plain file";
    } else if (info.st_size >= (off_t)size) {
        *reason = "it is too large";
    } else {
        *reason = "it can't be read";
        n = read_up_to(fd, text, size, &length);
    }
    close(fd);
    return n < 0 ? -1 : (ssize_t)length;
}

static bool is_directory(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* mkdir -p. The umask alone says who may read: a cache may be filled for other users. */
static bool make_directories(char *path)
{
    for (char *c = path + 1; *c != '\0'; c++) {
        if (*c == '/') {
            *c = '\0';
            const bool ok = mkdir(path, 0777) == 0 || errno == EEXIST || is_directory(path);
            *c = '/';
            if (!ok) {
                return false;
            }
        }
    }
    return mkdir(path, 0777) == 0 || errno == EEXIST;
}

static bool write_all(int fd, const char *text, size_t length)
{
    while (length > 0) {
        const ssize_t n = write(fd, text, length);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        text += n > 0 ? n : 0;
        length -= n > 0 ? (size_t)n : 0;
    }
    return fsync(fd) == 0;
}

/*
 * Process and counter tell apart the temporary files of one machine; on a shared directory the
 * address helps, and O_EXCL decides: a writer that was killed may have left the very name.
 */
static int open_temporary(int at, const char *name, char temporary[CACHEDIR_NAME])
{
    static atomic_ulong counter;
    for (int i = 0; i < TRIES; i++) {
        if (snprintf(temporary, CACHEDIR_NAME, "%s.%ld.%lu.%" PRIxPTR ".tmp", name, (long)getpid(),
                     atomic_fetch_add(&counter, 1), (uintptr_t)temporary) >= CACHEDIR_NAME) {
            errno = ENAMETOOLONG;
            return -1;
        }
        const int fd = openat(at, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 || errno != EEXIST) {
            return fd;
        }
    }
    return -1;
}

/* 0 or an errno. */
static int write_at(int at, const char *name, const char *text, size_t length)
{
    char temporary[CACHEDIR_NAME];
    const int fd = open_temporary(at, name, temporary);
    if (fd < 0) {
        return errno;
    }
    int error = write_all(fd, text, length) ? 0 : errno;
    if (close(fd) != 0 && error == 0) {
        error = errno;
    }
    if (error == 0 && renameat(at, temporary, at, name) != 0) {
        error = errno;
    }
    if (error != 0) {
        unlinkat(at, temporary, 0);
    }
    return error;
}

/* Atomic: a reader, and a crash, see the old file or the new one. 0 or an errno. */
static int write_file(const char *directory, const char *name, const char *text, size_t length)
{
    const int at = open_directory(directory);
    if (at < 0) {
        return errno;
    }
    const int error = write_at(at, name, text, length);
    if (error == 0) {
        /*
         * The new name survives a crash only once its directory is written. Not every file system
         * can do that: a wish.
         */
        (void)fsync(at);
    }
    close(at);
    return error;
}

/* Has the directory this manifest, whole? */
static bool has_manifest(const char *directory, const char *manifest)
{
    char path[CACHEDIR_PATH + CACHEDIR_NAME], text[1024];
    const char *reason;
    const size_t length = strlen(manifest);
    snprintf(path, sizeof path, "%s/" CACHEDIR_MANIFEST, directory);
    return dc_cachedir_read(path, text, sizeof text, &reason) == (ssize_t)length &&
           memcmp(text, manifest, length) == 0;
}

static int create(const char *directory, const char *manifest)
{
    char path[CACHEDIR_PATH];
    if ((size_t)snprintf(path, sizeof path, "%s", directory) >= sizeof path) {
        return ENAMETOOLONG;
    }
    if (!make_directories(path)) {
        return errno;
    }
    if (!has_manifest(directory, manifest)) {
        /* Entries are found without it: no reason to do without them. */
        (void)write_file(directory, CACHEDIR_MANIFEST, manifest, strlen(manifest));
    }
    return 0;
}

const char *dc_cachedir_create(const char *directory, const char *manifest)
{
    const int error = create(directory, manifest);
    return error == 0 ? NULL : strerror(error);
}

const char *dc_cachedir_store(const char *directory, const char *manifest, const char *name,
                              const char *text, size_t length)
{
    int error = ENOENT;
    /* Another process may clean up meanwhile: the directory, or the temporary file in it. */
    for (int i = 0; i < TRIES && error == ENOENT; i++) {
        error = create(directory, manifest);
        error = error == 0 ? write_file(directory, name, text, length) : error;
    }
    return error == 0 ? NULL : strerror(error);
}

int dc_cachedir_remove(const char *directory, const char *name)
{
    const int at = open_directory(directory);
    if (at < 0) {
        return errno;
    }
    const int error = unlinkat(at, name, 0) == 0 ? 0 : errno;
    close(at);
    return error;
}
