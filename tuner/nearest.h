/* SPDX-License-Identifier: MIT */
/*
 * An index of the cache's keys by layer: what is known of problems like one that the cache lacks.
 * For the tuner's cache and advisor. Thread-safe.
 */
#ifndef DOCONV_NEAREST_H
#define DOCONV_NEAREST_H

#include <stdbool.h>
#include <stddef.h>

#include "base/context.h"
#include "plan/problem.h"

#define NEAREST_READ 2000    /* most entries of the cache's directories that are indexed */
#define NEAREST_ENTRIES 2500 /* those and this context's own */
#define NEAREST_SECONDS 0.05 /* after which reading stops, with what it has then */

struct cache;
struct nearest;

/* What a key of the cache says: dc_plan_key() read back. */
struct nearest_key {
    struct dc_problem problem; /* of a context with as many threads */
    doconv_plan_options options;
    bool caller; /* threads are run by the caller's parallel_for */
    bool kept;   /* the order of sums is */
};

/* False if it is no key of this version. */
bool dc_nearest_parse(const char *key, struct nearest_key *parsed);

/* NULL if out of memory. */
struct nearest *dc_nearest_create(doconv_context *ctx);
void dc_nearest_destroy(struct nearest *index);

/* An entry that the cache has from now on. What can't be read, or held, is left out. */
void dc_nearest_add(struct nearest *index, const char *key);

/*
 * The advisor's infer(), for a context whose advisor is a cache. Reads the directories at the first
 * call.
 */
bool dc_nearest_infer(void *cache, const struct dc_problem *problem,
                      const doconv_plan_options *options, struct dc_candidate_list *list,
                      struct dc_hint *hint);

#endif
