/* SPDX-License-Identifier: MIT */
/*
 * What every call runs in: threads, memory, the log, the kernels that may be used, and whom the
 * planner asks for choices. Any file of src and tuner may include this.
 */
#ifndef DOCONV_CONTEXT_H
#define DOCONV_CONTEXT_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include <doconv/doconv.h>

#include "kernel.h"

struct dc_runner;

#define DC_KEY_SIZE (DOCONV_PROBLEM_TEXT_SIZE + 128)
#define DC_VARIANT_SIZE DOCONV_VARIANT_TEXT_SIZE

/*
 * What the planner asks the tuner. src never includes tuner: a context gets its advisor from
 * dc_tuner_attach(), which the tuner (or, in a build without it, its empty twin) defines.
 * Thread-safe.
 */
struct dc_advisor {
    void *self;
    /* Writes the cached variant for a key; false on a miss. */
    bool (*lookup)(void *self, const char *key, char *variant, size_t size);
    /*
     * The cache has no (or no valid) winner and the mode asks to measure: measures, stores, writes
     * the winner.
     */
    doconv_status (*measure)(void *self, const doconv_conv_desc *desc,
                             const doconv_plan_options *options, char *variant, size_t size);
    void (*destroy)(void *self);
};
/* called last by doconv_context_create(); fills ctx->advisor */
doconv_status dc_tuner_attach(doconv_context *ctx);

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
    char fingerprint[17];
    struct dc_advisor advisor;              /* lookup is NULL in a build without tuner */
    const struct dc_kernel *const *kernels; /* dc_builtin_kernels; tests put their own list here */
    pthread_mutex_t error_lock;             /* guards error */
    char error[256];
};
void *dc_alloc(doconv_context *ctx, size_t size); /* 64-byte aligned; NULL if out of memory */
void dc_free(doconv_context *ctx, void *memory);
/* task(arg, i) for each i in [0, count) on the context's threads; a single one on the caller's. */
void dc_parallel(const doconv_context *ctx, int count, void (*task)(void *arg, int index),
                 void *arg);

#endif
