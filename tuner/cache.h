/* SPDX-License-Identifier: MIT */
/* The cache of winners: a bounded table in memory over one small file an entry on disk. Thread-safe. */
#ifndef DOCONV_CACHE_H
#define DOCONV_CACHE_H

#include "cachefile.h"

#define CACHE_MEMORY_ENTRIES 1024 /* kept in memory, misses included; the least recently used goes first */

struct cache;

/* NULL if out of memory. A context without cache directory gets a cache in memory only. */
struct cache *cache_create(doconv_context *ctx);
void cache_destroy(struct cache *cache);
doconv_context *cache_context(const struct cache *cache);

/* Copies the entry of a key; false on a miss. A file that is no valid entry of this key is a miss and one log line. Each key's file is probed once. */
bool cache_lookup(struct cache *cache, const char *key, struct cache_entry *entry);

/* Keeps an entry in memory and writes its file. DOCONV_IO_ERROR (with a log line) if the file can't be written: memory has it all the same. */
doconv_status cache_store(struct cache *cache, const struct cache_entry *entry);

/* Number of entries in memory, misses included: for tests. */
int cache_memory_count(struct cache *cache);

#endif
