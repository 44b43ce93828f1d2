/* SPDX-License-Identifier: MIT */
/* Timing the variants of one problem against each other. */
#ifndef DOCONV_MEASURE_H
#define DOCONV_MEASURE_H

#include <doconv/doconv_tune.h>

#include "core.h"

#define MEASURE_SAMPLES 96 /* most samples of a candidate */
#define MEASURE_COPIES 64  /* most copies of cold weights */

/* Tensors of a problem, filled with reproducible values in [-0.5, 0.5); NULL where the problem has none. */
struct measure_data {
    float *src, *weight, *bias, *residual, *dst;
};
doconv_status measure_data_create(doconv_context *ctx, const struct dc_problem *problem, struct measure_data *data);
void measure_data_destroy(doconv_context *ctx, struct measure_data *data);

struct measured {
    doconv_plan *plan;
    doconv_weights *weights[MEASURE_COPIES]; /* one, or enough copies that none is in cache when its turn comes */
    int copies, next_copy;
    void *workspace;
    double samples[MEASURE_SAMPLES]; /* seconds of an execute */
    int rounds;
    int first_kept; /* samples before it came from the coarse rounds */
    bool dropped;   /* far behind, or wrong: sampled no more */
    double median, spread; /* of samples from first_kept on; spread = median absolute deviation / median, for finalists relative to their rounds */
};
/* Creates plan, weights and workspace of a variant. */
doconv_status measured_create(doconv_context *ctx, const struct dc_problem *problem, const doconv_plan_options *options, const char *variant,
                              const struct measure_data *data, struct measured *m);
void measured_destroy(doconv_context *ctx, struct measured *m);

struct measure_limits {
    double budget_seconds;
    int least_rounds; /* of each candidate that is kept, whatever the budget */
    doconv_tune_progress_fn progress;
    void *progress_user;
};

/*
 * Interleaved rounds; candidates far behind are dropped; the best three run again against each other. Afterwards median and spread of each are set
 * and the fastest stands first. The item at index 0 on entry is the default: it stays first unless another is faster by 1 %.
 */
void measure(struct measured *items, int count, const struct measure_data *data, const struct measure_limits *limits);

/* Runs a candidate once. */
void measure_run(struct measured *m, const struct measure_data *data);

#endif
