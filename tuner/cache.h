/* SPDX-License-Identifier: MIT */
/*
 * The cache of winners: a bounded table in memory over one small file an entry on disk.
 * Thread-safe.
 */
#ifndef DOCONV_CACHE_H
#define DOCONV_CACHE_H

#include <doconv/doconv_tune.h>

#include "cachefile.h"

#define CACHE_MEMORY_ENTRIES                                                                       \
    1024 /* kept in memory, misses included; the least recently used goes first */

struct cache;
struct nearest;

/* Where a winner comes from. */
enum cache_state {
    CACHE_MISS,
    CACHE_DOUBTFUL, /* on disk, measured by another context, and to be measured again */
    CACHE_MEMORY,   /* measured in this context, but its file could not be written */
    CACHE_STORED    /* on disk */
};

/*
 * Reads the environment variable DOCONV_SYSTEM_CACHE, a directory with the same structure as the
 * user's, which is only read, and after the user's. The directory's environment part follows from
 * ctx's ISA cap and kernels as they are now. NULL if out of memory.
 */
struct cache *dc_cache_create(doconv_context *ctx);
void dc_cache_destroy(struct cache *cache);
doconv_context *dc_cache_context(const struct cache *cache);
/* The index of its keys. */
struct nearest *dc_cache_index(const struct cache *cache);
/* The environment's directory, the user's or (system) the one that is only read; "": none. */
const char *dc_cache_directory(const struct cache *cache, bool system);
/* The environment: what makes measured choices comparable, a line each. */
const char *dc_cache_manifest(const struct cache *cache);

/*
 * Copies the entry of a key. Its kernels are in the build with the same revisions; whether its
 * variant is still a candidate is the caller's question. A file that is no valid entry of this key
 * is a miss and one log line; a key's file is probed once in the cache's life.
 */
enum cache_state dc_cache_lookup(struct cache *cache, const char *key, struct cache_entry *entry);

/*
 * Keeps an entry in memory and writes its file. CACHE_MEMORY if that is impossible: the first time
 * with a log line, unless the context asks for memory only. Doubtful or not, this context has it
 * from now on.
 */
enum cache_state dc_cache_store(struct cache *cache, const struct cache_entry *entry);

/* A doubtful entry is this context's own from now on: it was measured again, and is better. */
void dc_cache_settle(struct cache *cache, const struct cache_entry *entry);

/*
 * Removes old environments and temporary files from the user's directory, with all = true every
 * environment; see collect.h. What is in memory stays. 0 or an errno.
 */
int dc_cache_clean(struct cache *cache, bool all, doconv_cache_report_fn report, void *user);

/* Forgets in memory what is known of a key: the next look-up reads its file. */
void dc_cache_drop(struct cache *cache, const char *key);

/*
 * Copies the entry in a place of the memory, index in [0, CACHE_MEMORY_ENTRIES); false unless there
 * is one that no file has.
 */
bool dc_cache_memory_get(struct cache *cache, int index, struct cache_entry *entry);

/* Number of entries in memory, misses included. */
int dc_cache_memory_count(struct cache *cache);

#endif
