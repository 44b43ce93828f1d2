/* SPDX-License-Identifier: MIT */
/*
 * The ways to the gradient of a convolution's input: input_gradient.c chooses among them. For
 * input_*.c.
 */
#ifndef DOCONV_INPUT_WAYS_H
#define DOCONV_INPUT_WAYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

#include "base/arithmetic.h"
#include "base/layout.h"
#include "plan/plan.h"
#include "plan/problem.h"

/*
 * By classes: inputs whose coordinates (padding included) have the same residues modulo the strides
 * meet the same taps. Each class is a convolution of the output's gradient with stride 1. NULL in
 * *classes and DOCONV_OK: their number, or that of different convolutions, is too large.
 */
struct dc_input_classes;
doconv_status dc_input_classes_create(doconv_context *ctx, const struct dc_problem *problem,
                                      const doconv_plan_options *options,
                                      struct dc_input_classes **classes);
void dc_input_classes_destroy(struct dc_input_classes *classes);
const doconv_plan *dc_input_classes_plan(const struct dc_input_classes *classes, int index);
size_t dc_input_classes_workspace_size(const struct dc_input_classes *classes);
double dc_input_classes_estimate(const struct dc_input_classes *classes);
void dc_input_classes_run(const struct dc_input_classes *classes, const float *weight,
                          const float *grad_dst, float *grad_src, char *workspace);

/*
 * By one product: where each input is read by one output at most, the gradients of all inputs that
 * an output reads are a 1x1 convolution, whose outputs are pairs of an input channel and a tap. All
 * of them at once, or those of a few rows of outputs at a time, while they are in cache.
 */
struct dc_input_product {
    doconv_context *ctx;
    struct dc_problem problem; /* the forward one */
    doconv_plan *plan;         /* of all rows of all images, or of a chunk's */
    bool by_taps;              /* the pairs of a group: tap by tap; else channel by channel */
    int64_t pairs;             /* of a group, and zeros */
    int64_t rows, chunks;      /* rows of outputs of a chunk, chunks of an image; 0: all at once */
    struct dc_tensor_map map;  /* of the pairs */
    int tasks;                 /* that each have: */
    size_t grad_size, pairs_size;
    size_t weight_size, packed_size; /* of the weight by taps, and packed for the chunks */
};
bool dc_input_product_suits(const struct dc_problem *problem);
doconv_status dc_input_product_create(doconv_context *ctx, const struct dc_problem *problem,
                                      const doconv_plan_options *options,
                                      struct dc_input_product *product);
size_t dc_input_product_workspace_size(const struct dc_input_product *product);
void dc_input_product_run(const struct dc_input_product *product, const float *weight,
                          const float *grad_dst, float *grad_src, char *workspace);

/*
 * By taps: where each input is read by one output at most, in depthwise layers and groups as narrow
 * as vectors, kernels write what each tap hands back to its places. No plan: there is nothing to
 * choose.
 */
struct dc_input_spread;
bool dc_input_spread_suits(const doconv_context *ctx, const struct dc_problem *problem);
doconv_status dc_input_spread_create(doconv_context *ctx, const struct dc_problem *problem,
                                     struct dc_input_spread **spread);
void dc_input_spread_destroy(struct dc_input_spread *spread);
size_t dc_input_spread_workspace_size(const struct dc_input_spread *spread);
void dc_input_spread_run(const struct dc_input_spread *spread, const float *weight,
                         const float *grad_dst, float *grad_src, char *workspace);

/* By loops over all that an input meets: any problem, without a plan or workspace. */
void dc_input_loops_run(const doconv_context *ctx, const struct dc_problem *problem,
                        const float *weight, const float *grad_dst, float *grad_src);

/*
 * A convolution of the output's gradient, with channels exchanged: one of a single pixel, stride
 * and tap, to be completed.
 */
doconv_conv_desc dc_input_convolution(const struct dc_problem *problem);
doconv_status dc_input_plan(doconv_context *ctx, const struct dc_problem *problem,
                            const doconv_plan_options *options, const doconv_conv_desc *desc,
                            doconv_plan **plan);

/*
 * A tensor as rows of pixels of `inner` floats that lie together, in `blocks` blocks of an image.
 */
struct dc_pixels {
    float *data;
    int64_t blocks, inner;
    ptrdiff_t image, block, row, pixel;
};
static inline struct dc_pixels dc_pixels_of(doconv_layout layout, float *data, int64_t c, int64_t h,
                                            int64_t w)
{
    const struct dc_tensor_map map = dc_tensor_map(layout, c, h, w);
    struct dc_pixels v = {.data = data, .image = map.image, .row = map.row, .pixel = map.pixel};
    const int64_t block = dc_layout_block(layout);
    v.blocks = layout == DOCONV_NHWC ? 1 : divide_up(c, block);
    v.inner = layout == DOCONV_NHWC ? c : block;
    v.block = layout == DOCONV_NCHW ? map.channel : map.block;
    return v;
}

/* Room for a tensor and to align what follows it. */
static inline size_t dc_room_for(doconv_layout layout, int64_t n, int64_t c, int64_t h, int64_t w)
{
    size_t bytes = 0;
    /* can't fail: a part of a tensor that is none too large */
    doconv_tensor_bytes(layout, n, c, h, w, &bytes);
    return align_bytes(bytes);
}

#endif
