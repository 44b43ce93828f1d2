/* SPDX-License-Identifier: MIT */
/*
 * What every call runs in: threads, memory, the log, the kernels that may be used, and whom the
 * planner asks for choices. Any file of src and tuner may include this.
 */
#ifndef DOCONV_CONTEXT_H
#define DOCONV_CONTEXT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "kernel.h"

struct dc_clock;
struct dc_runner;

#define DC_KEY_SIZE (DOCONV_PROBLEM_TEXT_SIZE + 192)
#define DC_VARIANT_SIZE DOCONV_VARIANT_TEXT_SIZE

struct dc_candidate_list;
struct dc_hint;
struct dc_problem;
struct dc_solver;

/* What the planner asks the tuner, if there is one. Thread-safe. */
struct dc_advisor {
    void *self;
    /*
     * Writes the cached variant for a key; false on a miss. measures: what is found wanting (a
     * doubtful result of another context) is one, as the caller will measure then.
     */
    bool (*lookup)(void *self, const char *key, bool measures, char *variant, size_t size);
    /*
     * The cache has no (or no valid) winner and the mode asks to measure: measures, stores, writes
     * the winner.
     */
    doconv_status (*measure)(void *self, const struct dc_problem *problem,
                             const doconv_plan_options *options, char *variant, size_t size);
    /*
     * A choice for what the cache lacks, from what it has for others: *hint is an accepted
     * candidate of the list. False if there is nothing to go by.
     */
    bool (*infer)(void *self, const struct dc_problem *problem, const doconv_plan_options *options,
                  struct dc_candidate_list *list, struct dc_hint *hint);
    void (*destroy)(void *self);
};

/* What a call leaves to the next one: who takes it out of its place owns it. */
struct dc_kept {
    void (*destroy)(struct dc_kept *kept);
};
#define DC_KEPT 2 /* places */

/* What stands above a context and is handed to it: nothing here knows it by name. */
struct dc_parts {
    const struct dc_kernel *const *kernels; /* best first, NULL at the end */
    const struct dc_solver *const *solvers; /* NULL at the end */
    /* Called last; fills ctx->advisor. */
    doconv_status (*attach_advisor)(doconv_context *ctx);
};
/* doconv_context_create(), of these parts. */
doconv_status dc_context_create(const doconv_context_options *options, const struct dc_parts *parts,
                                doconv_context **context);

struct doconv_context {
    int threads;
    doconv_parallel_for_fn parallel_for;
    void *parallel_for_user;
    bool own_threads;         /* parallel_for is the caller's */
    struct dc_runner *runner; /* else: parallel_for's user */
    doconv_allocate_fn allocate;
    doconv_release_fn release;
    void *allocate_user;
    doconv_log_fn log;
    void *log_user;
    int verbose;
    enum dc_isa isa;       /* best that plans may use */
    doconv_tune_mode tune; /* never DEFAULT */
    char *cache_directory; /* "" if none */
    bool memory_only;      /* the caller wants no directory */
    bool deterministic;    /* plans keep to one order of sums */
    doconv_table table;    /* the caller's choices; without rows if there are none */
    char fingerprint[17];
    _Atomic(struct dc_kept *) kept[DC_KEPT]; /* or NULL */
    _Atomic(struct dc_kept *) memo;          /* of choices (plan/memo.h), or NULL; it stays */
    atomic_ulong choices;                    /* that the advisor has made: what was before is old */
    struct dc_advisor advisor;               /* lookup is NULL in a build without tuner */
    const struct dc_kernel *const *kernels;  /* of dc_parts; tests put their own list here */
    const struct dc_solver *const *solvers;
    const struct dc_clock *clock; /* the system's; tests put their own here */
    /*
     * From 1 on, never used again in the process: by it a thread knows whose failure it keeps,
     * where an address may be that of a context that is gone.
     */
    uint64_t serial;
};
void *dc_alloc(doconv_context *ctx, size_t size); /* 64-byte aligned; NULL if out of memory */
void dc_free(doconv_context *ctx, void *memory);
/* task(arg, i) for each i in [0, count) on the context's threads; a single one on the caller's. */
void dc_parallel(const doconv_context *ctx, int count, void (*task)(void *arg, int index),
                 void *arg);

#endif
