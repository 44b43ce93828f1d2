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
    const struct dc_weight_source *fresh; /* weights that are made on the way; NULL: packed */
    float *shared;                        /* points of all places, or NULL */
    float *space;                         /* the tasks', */
    ptrdiff_t task_floats;                /* which have so many each */
};

/* A task's buffers. */
struct dc_winograd_task {
    float *points, *products, *strip, *rows, *filters, *made;
};

struct dc_winograd_place {
    int64_t group;
    int64_t first, tiles; /* of the block */
};

/* An output block of a group. */
struct dc_winograd_output {
    int64_t group, ob;
    const float *weights, *bias;
};

/* Points of channels [first, last) of a place. */
void dc_winograd_transform(const struct dc_winograd_job *job, const struct dc_winograd_task *task,
                           const struct dc_winograd_place *place, int64_t first, int64_t last,
                           float *points);
/* Outputs of an output block of a place. */
void dc_winograd_transform_back(const struct dc_winograd_job *job,
                                const struct dc_winograd_task *task,
                                const struct dc_winograd_place *place,
                                const struct dc_winograd_output *output, const float *products);

#endif
