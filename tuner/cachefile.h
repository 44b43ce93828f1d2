/* SPDX-License-Identifier: MIT */
/* One cache entry as text: a pure printer and a strict parser, no I/O. */
#ifndef DOCONV_CACHEFILE_H
#define DOCONV_CACHEFILE_H

#include "core.h"

#define CACHEFILE_VERSION 1
#define CACHEFILE_MEASURED 32          /* most candidates that an entry remembers */
#define CACHEFILE_SIZE ((size_t)65536) /* most bytes of an entry */

struct cache_measured {
    char variant[DC_VARIANT_SIZE];
    int64_t picoseconds; /* median of an execute */
    int rounds;
    int spread_ppm; /* median absolute deviation / median, in millionths */
    int dropped;
};

struct cache_entry {
    char key[DC_KEY_SIZE];
    char variant[DC_VARIANT_SIZE];
    unsigned revision;         /* of the variant's kernel */
    int64_t picoseconds;       /* the winner's median */
    int64_t max_rel_error_e12; /* the winner's largest error relative to the largest value, times 1e12 */
    int count;
    struct cache_measured measured[CACHEFILE_MEASURED];
};

/* Writes an entry; returns its length, or 0 if it does not fit size bytes. */
size_t cachefile_print(const struct cache_entry *entry, char *text, size_t size);

/* Reads an entry of exactly length bytes. NULL, or the reason (a constant string) why the text is no entry; then *entry is undefined. */
const char *cachefile_parse(const char *text, size_t length, struct cache_entry *entry);

#endif
