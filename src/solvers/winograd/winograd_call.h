/* SPDX-License-Identifier: MIT */
/* What the files of a call of the Winograd solver share. For these alone. */
#ifndef DOCONV_WINOGRAD_CALL_H
#define DOCONV_WINOGRAD_CALL_H

#include "plan/plan.h"
#include "solvers/winograd/winograd.h"

struct dc_winograd_job {
    const doconv_plan *plan;
    const struct dc_winograd_state *s;
    const float *packed, *src, *residual;
    float *dst;
    float *shared; /* points of all places, or NULL */
    float *space;  /* the tasks' */
};

/* A task's buffers. */
struct dc_winograd_task {
    float *points, *products, *strip, *rows, *filters;
};

struct dc_winograd_place {
    int64_t group;
    int64_t first, tiles; /* of the block */
};

/* Points of channels [first, last) of a place. */
void dc_winograd_transform(const struct dc_winograd_job *job, const struct dc_winograd_task *task,
                           const struct dc_winograd_place *place, int64_t first, int64_t last,
                           float *points);
/* Outputs of output block ob of a place. */
void dc_winograd_transform_back(const struct dc_winograd_job *job,
                                const struct dc_winograd_task *task,
                                const struct dc_winograd_place *place, int64_t ob,
                                const float *products);

#endif
