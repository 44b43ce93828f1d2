/* SPDX-License-Identifier: MIT */
/* Files that a verb reads whole and writes whole. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command_shared.h"

static int system_error(const char *verb, const char *path)
{
    return command_error("%s: %s: %s", verb, path, strerror(errno));
}

int command_read_file(const char *verb, const char *path, unsigned char **data, size_t *size)
{
    *data = NULL;
    /* a pipe without writer is refused below, not waited for */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) != 0) {
        system_error(verb, path);
        if (fd >= 0) {
            close(fd);
        }
        return COMMAND_USAGE;
    }
    int result = COMMAND_OK;
    size_t done = 0;
    if (!S_ISREG(status.st_mode)) {
        command_error("%s: %s: not a regular file", verb, path);
        result = COMMAND_USAGE;
    } else if ((uintmax_t)status.st_size > PTRDIFF_MAX ||
               (*data = malloc((size_t)status.st_size + 1)) == NULL) {
        result = command_error("%s: %s: out of memory for its %jd bytes", verb, path,
                               (intmax_t)status.st_size);
    } else {
        *size = (size_t)status.st_size;
        while (result == COMMAND_OK && done < *size) {
            const ssize_t n = read(fd, *data + done, *size - done);
            if (n > 0) {
                done += (size_t)n;
            } else if (n == 0) {
                result = command_error("%s: %s: shrank while being read", verb, path);
            } else if (errno != EINTR) {
                result = system_error(verb, path);
            }
        }
    }
    close(fd);
    if (result != COMMAND_OK) {
        free(*data);
        *data = NULL;
    }
    return result;
}

static bool write_all(int fd, const unsigned char *data, size_t size)
{
    while (size > 0) {
        const ssize_t n = write(fd, data, size);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        data += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
    return fsync(fd) == 0;
}

/*
 * The new name survives a crash only once its directory is written. Not every file system can do
 * that: a wish.
 */
static void sync_directory_of(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash != NULL) {
        slash[slash == path] = '\0';
    }
    const int fd = open(slash != NULL ? path : ".", O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
}

int command_write_file(const char *verb, const char *path, const unsigned char *data, size_t size)
{
    const size_t length = strlen(path) + 32;
    char *temporary = malloc(length);
    if (temporary == NULL) {
        return command_error("%s: out of memory", verb);
    }
    snprintf(temporary, length, "%s.%ld.tmp", path, (long)getpid());
    const int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        const int result = system_error(verb, temporary);
        free(temporary);
        return result;
    }
    bool ok = write_all(fd, data, size);
    int error = errno;
    if (close(fd) != 0 && ok) {
        ok = false;
        error = errno;
    }
    if (ok && rename(temporary, path) != 0) {
        ok = false;
        error = errno;
    }
    if (ok) {
        sync_directory_of(temporary);
    } else {
        unlink(temporary);
        errno = error;
        system_error(verb, path);
    }
    free(temporary);
    return ok ? COMMAND_OK : COMMAND_FAILED;
}
