/* SPDX-License-Identifier: MIT */
/* One cache entry as text: a pure printer and a strict parser, no I/O. */
#ifndef DOCONV_CACHEFILE_H
#define DOCONV_CACHEFILE_H

#include <stdbool.h>

#include <doconv/doconv_tune.h>

#include "base/context.h"

#define CACHEFILE_VERSION 2
#define CACHEFILE_MEASURED 32          /* most candidates that an entry remembers */
#define CACHEFILE_SIZE ((size_t)65536) /* most bytes of an entry's text */

#define CACHEFILE_WHEN 21 /* "2026-11-27T22:56:22Z" */

/* What became of a measured candidate. */
enum cache_fate { CACHE_KEPT, CACHE_SLOWER, CACHE_WRONG };

struct cache_measured {
    char variant[DC_VARIANT_SIZE];
    int64_t picoseconds; /* median of an execute */
    int rounds;          /* samples; of these */
    int clean;           /* had their cores to themselves; */
    int retaken;         /* tries that others disturbed, and that were made again */
    int spread_ppm;      /* median absolute deviation / median, in millionths */
    int fate;            /* cache_fate */
};

struct cache_entry {
    char key[DC_KEY_SIZE];
    char variant[DC_VARIANT_SIZE]; /* SOLVER:KERNEL[+SECOND][:PARAMETERS] */
    unsigned revision;             /* of KERNEL, at most INT32_MAX; 0: portable loops */
    unsigned second_revision;      /* likewise of SECOND; 0: there is none */
    int64_t workspace;             /* bytes that the variant needs */
    int64_t picoseconds;           /* the winner's median */
    int64_t max_rel_error_e12;     /* its largest error relative to the largest value, times 1e12 */
    char when[CACHEFILE_WHEN];     /* it was measured: UTC, ISO 8601 */
    /* What the library would take without measuring, and its median. */
    char against[DC_VARIANT_SIZE];
    int64_t against_picoseconds;
    int confidence_ppm; /* in millionths, how sure that no other measured one is faster */
    int doubtful;       /* 1: too little; a later run measures again */
    int count;
    struct cache_measured measured[CACHEFILE_MEASURED];
};

/*
 * Writes an entry's text of at most size bytes, its NUL included; returns the length without it. 0
 * if it does not fit or if the entry holds what the parser would refuse (an empty text, a newline,
 * a negative number).
 */
size_t dc_cachefile_print(const struct cache_entry *entry, char *text, size_t size);

/*
 * Reads an entry of exactly length bytes, which need no NUL. Returns NULL, or the reason (a
 * constant string) why the text is no entry; then *entry is undefined. What it accepts,
 * dc_cachefile_print() gives back byte for byte.
 */
const char *dc_cachefile_parse(const char *text, size_t length, struct cache_entry *entry);

/* A measured candidate as the API shows it. */
doconv_tune_entry dc_cachefile_public(const struct cache_measured *measured);

/* Is it a layer's as a whole, whose variant names a composition and no kernel? */
bool dc_cachefile_composes(const struct cache_entry *entry);

/* The kernel's name in a variant text, and its length; NULL if there is none. */
const char *dc_cachefile_kernel(const char *variant, size_t *length);
/* Likewise of the second one, that works with it. */
const char *dc_cachefile_second(const char *variant, size_t *length);

#endif
