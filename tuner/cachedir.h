/* SPDX-License-Identifier: MIT */
/*
 * The files of an environment's directory: read with suspicion, written atomically. For the tuner.
 */
#ifndef DOCONV_CACHEDIR_H
#define DOCONV_CACHEDIR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define CACHEDIR_PATH 4096 /* room for the path of an environment's directory */
#define CACHEDIR_NAME 128  /* room for the longest name in it */
#define CACHEDIR_MANIFEST "MANIFEST"

/*
 * Reads a plain file of less than size bytes. Its length, or -1 and the reason ("" if there is no
 * such file).
 */
ssize_t dc_cachedir_read(const char *path, char *text, size_t size, const char **reason);

/* Likewise the first bytes of one, size at most. Their number, or -1. */
ssize_t dc_cachedir_head(const char *path, char *text, size_t size);

bool dc_cachedir_exists(const char *directory);

/*
 * Makes the directory of an environment, and those above it, with its manifest. NULL, or the reason
 * of a failure.
 */
const char *dc_cachedir_create(const char *directory, const char *manifest);

/*
 * Atomic: a reader, and a crash, see the old file or the new one. NULL, or the reason of a failure.
 */
const char *dc_cachedir_write(const char *directory, const char *name, const char *text,
                              size_t length);

#endif
