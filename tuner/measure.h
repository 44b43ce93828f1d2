/* SPDX-License-Identifier: MIT */
/* Timing the variants of one problem against each other, and checking one against the reference. */
#ifndef DOCONV_MEASURE_H
#define DOCONV_MEASURE_H

#include <doconv/doconv_tune.h>

#include "plan/problem.h"

#define MEASURE_SAMPLES 96 /* most samples of a candidate */

/* A variant ready to run. */
struct measured {
    doconv_plan *plan;
    doconv_weights *weights;
    bool owns_weights;               /* variants with the same packed layout share theirs */
    bool is_default;                 /* what the library would take without measuring */
    bool wrong;                      /* its result is: never timed, never chosen */
    bool dropped;                    /* far behind, or wrong: sampled no more */
    int repeats;                     /* executes of a sample */
    int rounds;                      /* samples taken */
    int first_kept;                  /* samples before it came from the coarse rounds */
    double samples[MEASURE_SAMPLES]; /* seconds of an execute */
    double median;                   /* of the samples kept */
    /* their median absolute deviation / median, for finalists relative to their rounds */
    double spread;
};

struct measure_set {
    doconv_context *ctx;
    struct dc_problem problem;
    bool cold;  /* weights are not in cache when an execute starts */
    bool fresh; /* weights are packed in each run */
    /* Tensors with reproducible values in [-0.5, 0.5); NULL where the problem has none. */
    float *src, *weight, *bias, *residual, *dst;
    char *workspace; /* shared by all */
    size_t workspace_size;
    char *flush; /* as large as the caches; NULL: warm */
    size_t flush_bytes;
    struct measured *items;
    int count, capacity;
};

/*
 * Tensors and room for capacity candidates; options: those of their plans, or NULL. OUT_OF_MEMORY
 * with its detail; dc_measure_set_destroy() is right for a set of zeros, and after any failure.
 */
doconv_status dc_measure_set_create(doconv_context *ctx, const struct dc_problem *problem,
                                    const doconv_plan_options *options, int capacity,
                                    struct measure_set *set);
void dc_measure_set_destroy(struct measure_set *set);

/*
 * Appends a candidate of the problem: its plan, its weights, room in the workspace. The first one
 * is the default. On failure the set is as before.
 */
doconv_status dc_measure_set_add(struct measure_set *set, const doconv_plan_options *options,
                                 const char *variant);

struct measure_limits {
    double budget_seconds; /* aimed at */
    /* of each candidate that is kept, whatever the budget; at most MEASURE_SAMPLES / 4 */
    int least_rounds;
    doconv_tune_progress_fn progress; /* may be NULL */
    void *progress_user;
};

/*
 * Interleaved rounds over all items that are not wrong (at least one must be left); those far
 * behind are dropped; the best three and the default, if it is still there, run again side by side.
 * Then median and spread of each are set, the winner stands first, the others behind it by their
 * medians, wrong ones last. The default wins unless another is faster by a margin in the paired
 * samples.
 */
void dc_measure(struct measure_set *set, const struct measure_limits *limits);

/*
 * Runs an item once, packing first if weights are fresh. Past doconv_execute(): a verbose context
 * would log thousands of executes, and the log would be timed.
 */
void dc_measure_run(const struct measure_set *set, const struct measured *item);

/*
 * Runs an item once on a dst full of NaN and compares it with the context's reference kernel:
 * *max_rel_error is the largest |y - ref| / max|ref| (infinite for a NaN), *right whether that is
 * within the rounding that the kernel declares. Large problems are compared on a part of their
 * images' channels. UNSUPPORTED if the context has no reference kernel, OUT_OF_MEMORY.
 */
doconv_status dc_measure_check(struct measure_set *set, const struct measured *item,
                               double *max_rel_error, bool *right);

#endif
