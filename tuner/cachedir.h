/* SPDX-License-Identifier: MIT */
/*
 * The files of an environment's directory: read with suspicion, written atomically. For the tuner.
 */
#ifndef DOCONV_CACHEDIR_H
#define DOCONV_CACHEDIR_H

#include <stddef.h>
#include <sys/types.h>

#define CACHEDIR_PATH 4096 /* room for the path of an environment's directory */
#define CACHEDIR_NAME 128  /* room for the longest name in it */
#define CACHEDIR_MANIFEST "MANIFEST"

/*
 * Reads a plain file of less than size bytes. Its length, or -1 and the reason ("" if there is no
 * such file). No link is followed, of the file's name nor of its directory's.
 */
ssize_t dc_cachedir_read(const char *path, char *text, size_t size, const char **reason);

/* Likewise the first bytes of one, size at most. Their number, or -1. */
ssize_t dc_cachedir_head(const char *path, char *text, size_t size);

/*
 * Makes the directory of an environment, and those above it, with its manifest, also in place of
 * one that is damaged. NULL, or the reason of a failure.
 */
const char *dc_cachedir_create(const char *directory, const char *manifest);

/*
 * Writes a file there, which is made as dc_cachedir_create() does if need be. Atomic: a reader, and
 * a crash, see the old file or the new one. A link of the file's name is replaced, one of the
 * directory's refused. NULL, or the reason of a failure, after which nothing is left of the file.
 */
const char *dc_cachedir_store(const char *directory, const char *manifest, const char *name,
                              const char *text, size_t length);

/* Removes a file there. 0 or an errno. */
int dc_cachedir_remove(const char *directory, const char *name);

#endif
