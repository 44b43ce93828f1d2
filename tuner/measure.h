/* SPDX-License-Identifier: MIT */
/*
 * Timing the variants of one problem, of any operation, against each other, and checking one
 * against what shares no kernel with it. For the tuner.
 */
#ifndef DOCONV_MEASURE_H
#define DOCONV_MEASURE_H

#include <stdbool.h>
#include <stddef.h>

#include <doconv/doconv_tune.h>

#include "plan/problem.h"
#include "plan/solver.h"

#define MEASURE_SAMPLES 96 /* most samples of a candidate */

/* A variant ready to run. */
struct measured {
    doconv_plan *plan;
    doconv_weights *weights;
    bool owns_weights;               /* variants with the same packed layout share theirs */
    bool is_default;                 /* what the library would take without measuring */
    bool wrong;                      /* its result is: never timed, never chosen */
    bool dropped;                    /* far behind, or wrong: sampled no more */
    int repeats;                     /* calls of a sample */
    int rounds;                      /* samples taken */
    int first_kept;                  /* samples before it came from the coarse rounds */
    double samples[MEASURE_SAMPLES]; /* seconds of a call */
    double median;                   /* of the samples kept */
    /* their median absolute deviation / median, for finalists relative to their rounds */
    double spread;
    double rms_error; /* of its result, if it was checked; else 0 */
};

/* The tensors that operations have; which of them, dc_problem.operation says. */
enum measure_tensor {
    /* Read: reproducible values in [-0.5, 0.5). */
    MEASURE_SRC,
    MEASURE_RESIDUAL,
    MEASURE_BIAS,
    MEASURE_WEIGHT, /* of a convolution that folds none */
    MEASURE_W,
    MEASURE_D,
    MEASURE_GRAD_DST,
    MEASURE_GRAD_FOLDED,
    /* Written. */
    MEASURE_DST,
    MEASURE_FOLDED, /* the weight that W and D fold to: by DC_FOLD, or before a convolution */
    MEASURE_GRAD_SRC,
    MEASURE_GRAD_WEIGHT,
    MEASURE_GRAD_W,
    MEASURE_GRAD_D,
    MEASURE_TENSORS, /* how many */
    MEASURE_FIRST_WRITTEN = MEASURE_DST
};

struct measure_set {
    doconv_context *ctx;
    struct dc_problem problem;
    bool cold;                       /* weights are not in cache when a call starts */
    float *tensors[MEASURE_TENSORS]; /* NULL: the operation has none */
    size_t bytes[MEASURE_TENSORS];
    char *workspace; /* shared by all */
    size_t workspace_size;
    float *expected; /* dst by the reference kernel, where it is compared; NULL: not yet */
    char *flush;     /* as large as the caches; NULL: warm */
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
    doconv_progress_fn progress; /* may be NULL */
    void *progress_user;
    doconv_cancel_fn cancel; /* likewise */
    void *cancel_user;
};

/*
 * Interleaved rounds over all items that are not wrong (at least one must be left); those far
 * behind are dropped; the best three and the default, if it is still there, run again side by side.
 * Then median and spread of each are set, the winner stands first, the others behind it by their
 * medians, wrong ones last. The default wins unless another is faster by a margin in the paired
 * samples. False if it was cancelled: each item has run then, and the best so far stands first.
 */
bool dc_measure(struct measure_set *set, const struct measure_limits *limits);

/*
 * Runs an item once: all of the operation, so with folding and packing where weights are fresh, and
 * with the fold's gradient behind that of a DO-Conv layer's weight. Past the public calls: a
 * verbose context would log thousands of executes, and the log would be timed.
 */
void dc_measure_run(const struct measure_set *set, const struct measured *item);

struct check_result {
    double max_rel_error; /* the largest |y - ref| / max|ref| of any tensor; infinite for a NaN */
    double rms_error;     /* likewise of the root mean squares */
    bool right;           /* each is within the rounding that the candidate declares */
};

/*
 * Runs an item once on tensors and a workspace full of NaN and compares what it writes with what
 * shares no kernel with it: the context's reference kernel, portable loops, sums in double. Where
 * all would take long, a part is compared: some of the planes of dst, some elements of a gradient;
 * the weight's gradient behind those of W and D is then any kernel's of which such elements are
 * right. UNSUPPORTED if the context has no reference kernel, OUT_OF_MEMORY.
 */
doconv_status dc_measure_check(struct measure_set *set, const struct measured *item,
                               struct check_result *result);

#endif
