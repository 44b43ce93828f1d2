/* SPDX-License-Identifier: MIT */
#include "cachedir.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Without O_NONBLOCK a FIFO of that name would stop the program. */
static int open_to_read(const char *path)
{
    return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
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
    const int fd = open_to_read(path);
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
    const int fd = open_to_read(path);
    if (fd < 0) {
        *reason = errno == ENOENT || errno == ENOTDIR ? ""
                  : errno == ELOOP                    ? "it is a symbolic link"
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

bool dc_cachedir_exists(const char *path)
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
            const bool ok = mkdir(path, 0777) == 0 || errno == EEXIST || dc_cachedir_exists(path);
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
 * The new name survives a crash only once its directory is written. Not every file system can do
 * that: a wish.
 */
static void sync_directory(const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
}

const char *dc_cachedir_write(const char *directory, const char *name, const char *text,
                              size_t length)
{
    /*
     * Process and counter tell apart the temporary files of one machine; on a shared directory the
     * address helps, and O_EXCL decides.
     */
    static atomic_ulong counter;
    char path[CACHEDIR_PATH + CACHEDIR_NAME], temporary[CACHEDIR_PATH + CACHEDIR_NAME];
    if ((size_t)snprintf(path, sizeof path, "%s/%s", directory, name) >= sizeof path ||
        (size_t)snprintf(temporary, sizeof temporary, "%s/%s.%ld.%lu.%" PRIxPTR ".tmp", directory,
                         name, (long)getpid(), atomic_fetch_add(&counter, 1),
                         (uintptr_t)path) >= sizeof temporary) {
        return strerror(ENAMETOOLONG);
    }
    const int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        return strerror(errno);
    }
    bool ok = write_all(fd, text, length);
    int error = errno;
    if (close(fd) != 0 && ok) {
        ok = false;
        error = errno;
    }
    if (ok && rename(temporary, path) != 0) {
        ok = false;
        error = errno;
    }
    if (!ok) {
        unlink(temporary);
        return strerror(error);
    }
    sync_directory(directory);
    return NULL;
}

const char *dc_cachedir_create(const char *directory, const char *manifest)
{
    char path[CACHEDIR_PATH + CACHEDIR_NAME];
    if ((size_t)snprintf(path, sizeof path, "%s", directory) >= CACHEDIR_PATH) {
        return strerror(ENAMETOOLONG);
    }
    if (!make_directories(path)) {
        return strerror(errno);
    }
    snprintf(path, sizeof path, "%s/" CACHEDIR_MANIFEST, directory);
    return access(path, F_OK) == 0
               ? NULL
               : dc_cachedir_write(directory, CACHEDIR_MANIFEST, manifest, strlen(manifest));
}
