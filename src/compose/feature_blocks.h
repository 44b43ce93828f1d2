/* SPDX-License-Identifier: MIT */
/*
 * What the files of feature composition with kernels share. For src/compose/feature_*.c.
 *
 * Ordered by s first, the channels of Z are depthwise convolutions of src like any other, so the
 * depthwise kernel makes them, a block of 16 input channels at a time, into a strip
 * [step][pixel][16] of the task's workspace; the direct kernel contracts that with W.
 *
 * W and D change with each step of training: a unit packs what it needs of them as it goes. The
 * order of an output's additions is that of the blocks, steps and lanes, however pixels and outputs
 * are cut: results don't depend on threads.
 */
#ifndef DOCONV_FEATURE_BLOCKS_H
#define DOCONV_FEATURE_BLOCKS_H

#include "base/arithmetic.h"
#include "base/context.h"
#include "compose/feature_state.h"
#include "kernel.h"
#include "plan/problem.h"

#define LANES DC_CHANNEL_BLOCK

struct dc_feature_job {
    const struct dc_feature *f;
    const float *w, *d, *bias, *src, *grad_dst;
    float *dst, *grad_src, *grad_w, *grad_d;
    float *workspace;
    /* Backward: dst's gradient as planes, and as pixels. */
    float *planes_copy, *pixels_copy;
    const float *planes, *pixels;
    struct dc_tensor_map pixels_map;
    int copy_tasks;
};

/* A block of input channels. */
struct dc_feature_block {
    int64_t group, number; /* in the group */
    int64_t first, count;  /* channels */
};

static inline struct dc_feature_block block_of(const struct dc_feature *f, int64_t group,
                                               int64_t number)
{
    const int64_t cin = f->group_cin;
    return (struct dc_feature_block){group, number, group * cin + number * LANES,
                                     least(LANES, cin - number * LANES)};
}

/* s of a lane of a step: d_mul or more if the lane is empty. */
static inline int64_t s_of(const struct dc_feature *f, const struct dc_feature_block *b, int64_t q,
                           int64_t lane)
{
    return lane < b->count * f->copies ? q * f->copies + lane / b->count : f->d_mul;
}

static inline bool block_in_place(const struct dc_feature *f, const struct dc_feature_block *b)
{
    return f->in_place && b->count == LANES;
}

/* Floats of W from the start to the block's inputs of an output of its group. */
static inline ptrdiff_t weight_at(const struct dc_feature *f, const struct dc_feature_block *b,
                                  int64_t o)
{
    const struct dc_problem *p = &f->problem;
    return ((b->group * p->group_cout + o) * p->group_cin + b->number * LANES) * f->d_mul;
}

/* Where dc_feature_pack_factors() puts tap m. */
static inline int64_t tap_place(const struct dc_feature *f, int64_t m)
{
    const doconv_conv_desc *d = &f->problem.desc;
    const int64_t x = m % d->kw, x0 = x / f->chunk * f->chunk;
    return x0 * d->kh + m / d->kw * (least(d->kw, x0 + f->chunk) - x0) + x - x0;
}

/*
 * Fetches what is `ahead` rows on: rows are pages apart, and a block's part of one is too short for
 * the hardware to see.
 */
static inline void fetch_row(const float *row, int64_t floats)
{
    for (int64_t at = 0; at < floats; at += 16) {
        __builtin_prefetch(row + at);
    }
}

static inline void fetch_row_to_write(const float *row, int64_t floats)
{
    for (int64_t at = 0; at < floats; at += 16) {
        __builtin_prefetch(row + at, 1);
    }
}

/*
 * D of a block: [step][vector of lanes][kx / chunk][ky][kx % chunk][lane of the vector], with the
 * identity.
 */
void dc_feature_pack_factors(const struct dc_feature_job *job, const struct dc_feature_block *b,
                             float *factors);

/*
 * Rows [y0, y0 + rows) of an image of src, a block's channels and their copies: [row][column][16].
 */
void dc_feature_load_block(const struct dc_feature_job *job, const struct dc_feature_block *b,
                           int64_t image, int64_t y0, int64_t rows, float *strip);

/*
 * Z of a block for output rows [y0, y1) of an image: lane e of all steps together lies at z + e /
 * lanes * z_block + e % lanes, pixels `lanes` apart. src: the block's first channel in row `row0`.
 */
void dc_feature_make_z(const struct dc_feature *f, const float *factors, const float *src,
                       ptrdiff_t src_row, ptrdiff_t src_pixel, const ptrdiff_t *vectors,
                       int64_t row0, int64_t row1, int64_t y0, int64_t y1, int64_t lanes, float *z,
                       ptrdiff_t z_block);

/* The same from src itself, or from a copy of the rows in `strip`. */
void dc_feature_make_z_of(const struct dc_feature_job *job, const struct dc_feature_block *b,
                          const float *factors, int64_t image, int64_t y0, int64_t y1, float *strip,
                          int64_t lanes, float *z, ptrdiff_t z_block);

/*
 * W of a block for the outputs [o, o + count) of its group: panel[step][lane][output], zeros past
 * the last. natural: room for it in the order of memory.
 */
void dc_feature_pack_panel(const struct dc_feature_job *job, const struct dc_feature_block *b,
                           int64_t o, int64_t count, float *natural, float *panel);

/*
 * Where each lane of all steps is in W's row of the block; -1: nowhere. Natural order needs no map.
 */
void dc_feature_map_lanes(const struct dc_feature *f, const struct dc_feature_block *b,
                          int32_t *map);
/* W of a block, [part][output][lanes], and its gradient, which lies likewise, back to W's order. */
void dc_feature_pack_weights(const struct dc_feature_job *job, const struct dc_feature_block *b,
                             const int32_t *map, float *weights);
void dc_feature_store_weights(const struct dc_feature_job *job, const struct dc_feature_block *b,
                              const int32_t *map, const float *sums);
/* The gradient of D, which lies as dc_feature_pack_factors() packs D. */
void dc_feature_store_factors(const struct dc_feature_job *job, const struct dc_feature_block *b,
                              const float *factor_sums);

/* ---- depthwise layers ---- */

/* Forward, a dc_parallel() task of a job. */
void dc_feature_depthwise_task(void *job, int index);
/*
 * W of a block, [t][s][16] for the multiplier's outputs t, and its gradient, which lies likewise,
 * back to W's order.
 */
void dc_feature_depthwise_pack_weights(const struct dc_feature_job *job,
                                       const struct dc_feature_block *b, float *weights);
void dc_feature_depthwise_store_weights(const struct dc_feature_job *job,
                                        const struct dc_feature_block *b, const float *sums);
/* Rows [y0, y1) of an image of dst's gradient: [t][walk_pixels][16]. */
void dc_feature_depthwise_load(const struct dc_feature_job *job, const struct dc_feature_block *b,
                               int64_t image, int64_t y0, int64_t y1, float *grad);
/*
 * From that and Z, [s][walk_pixels][16]: what they add to the gradient of W. And from that and W:
 * the gradient of Z, which lies as Z does.
 */
void dc_feature_depthwise_add_weights(const struct dc_feature *f, const float *z, float *grad,
                                      int64_t pixels, float *sums);
void dc_feature_depthwise_grad_z(const struct dc_feature *f, const float *grad, float *weights,
                                 int64_t pixels, float *grad_z);

#endif
