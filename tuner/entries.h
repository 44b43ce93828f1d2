/* SPDX-License-Identifier: MIT */
/* A set of the cache's entries in memory. Whoever has one may use it; no I/O, no locks. */
#ifndef DOCONV_ENTRIES_H
#define DOCONV_ENTRIES_H

#include <doconv/doconv_tune.h>

#include "cachefile.h"

#define ENTRIES_NAME 17                 /* of an environment: 16 hexadecimal digits and a NUL */
#define ENTRIES_MANIFEST ((size_t)1024) /* most bytes of a manifest, its NUL included */
#define ENTRIES_MANIFEST_HEAD "doconv-cache " /* and the version of the entries' format */

struct entries_environment {
    char name[ENTRIES_NAME];
    char manifest[ENTRIES_MANIFEST];
    struct cache_entry **items; /* sorted by key */
    int count, capacity;
};

struct doconv_entries {
    doconv_context *ctx;
    char own[ENTRIES_NAME];                   /* the context's environment */
    struct entries_environment *environments; /* sorted by name; none is empty */
    int count, capacity;
};

/* The name of an environment by its manifest. */
void dc_entries_name(const char *manifest, size_t length, char name[ENTRIES_NAME]);
bool dc_entries_is_name(const char *name, size_t length);

/* NULL: a manifest of this name whose entries are this version's; else why not. */
const char *dc_entries_check_manifest(const char *name, const char *manifest, size_t length);

/* Of two entries of one key in one environment: does a stay, where b is new? */
bool dc_entries_keeps(const struct cache_entry *a, const struct cache_entry *b);

/*
 * Adds a copy of an entry to the environment with this manifest (checked, length bytes), or does
 * nothing where a better one is there. DOCONV_OK or OUT_OF_MEMORY.
 */
doconv_status dc_entries_add(struct doconv_entries *entries, const char *manifest, size_t length,
                             const struct cache_entry *entry);

/* The entry of a key; NULL: there is none. */
const struct cache_entry *dc_entries_find(const struct entries_environment *environment,
                                          const char *key);

#endif
