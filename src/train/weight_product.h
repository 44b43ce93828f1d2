/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's weight by products. For src/train/weight_product*.c.
 *
 * It is a matrix product whose reduction runs over the pixels of all images: rows are output
 * channels, whose gradients are broadcast from where they lie, lanes are inputs that meet them,
 * side by side for each pixel. A lane is an input channel and a tap of `inner` taps; the other
 * taps, `outer` ones, are lists of segments that shift the lanes against the rows. There are two
 * ways to share the taps out:
 *
 * - inner = 1: lanes are channels, taken in place or copied; all taps share them, and those in the
 *   padding are left out.
 * - inner = all taps (im2col): full lanes for few channels, one segment, and sums that lie as the
 *   gradient does.
 *
 * The order of an output's additions depends on the problem and the kernel alone: pixels in order,
 * in each lane.
 */
#ifndef DOCONV_WEIGHT_PRODUCT_H
#define DOCONV_WEIGHT_PRODUCT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arithmetic.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

/* What a candidate chooses. */
struct dc_product_parameters {
    int inner; /* taps that lanes share: 1 or all of them */
    int parts; /* 1: the gradient of a fold follows part by part */
    int folds; /* 1: one follows at all */
};

/*
 * A tensor of a product: output pixel (y, x) and tap (ky, kx) meet its row y * stride_h + ky *
 * dilation_h - pad_top, and so on.
 */
struct operand {
    struct dc_tensor_map map;
    int64_t channels; /* of a group */
    int64_t h, w, stride_h, stride_w, pad_top, pad_left;
};

struct dc_weight_product {
    doconv_context *ctx;
    struct dc_problem problem;
    const struct dc_kernel *kernel;
    struct dc_tensor_map src_map, dst_map;
    /*
     * Rows are left's channels, lanes are right's: dst's gradient and src, or, for 1x1 kernels, the
     * other way round if that spares copying.
     */
    struct operand left, right;
    bool swapped;
    int64_t taps, inner, outer; /* inner * outer = taps */
    int64_t tile;               /* lanes of the kernel */
    int64_t columns, blocks;    /* lanes of a group; blocks of them */
    /*
     * Chunks: `chunk_rows` output rows of an image, or `chunk_images` images, which have one list
     * of segments for each outer tap.
     */
    int64_t chunk_rows, chunk_images, chunks; /* chunks of an image */
    /* [chunks + 1][outer]: the last is that of the images that are left over */
    ptrdiff_t *counts;
    ptrdiff_t *first; /* [chunks + 1]: where its segments begin */
    struct dc_segment *segments;
    /*
     * The lanes of a block: in place, or a panel, a copy of those of `panel_chunks` chunks of an
     * image, or of a chunk of images.
     */
    bool in_place;
    bool by_output; /* panel rows are output rows; else rows of src */
    int64_t panel_chunks;
    ptrdiff_t left_step, right_step, panel_row, panel_image, panel_floats;
    /* A task: some blocks of lanes and some rows of a group. */
    int tasks, block_parts, row_parts;
    int64_t part_blocks, part_rows; /* most of them */
    ptrdiff_t sums_floats, task_floats;
    /* For a fold whose gradient follows part by part: */
    int64_t fold_blocks, fold_parts; /* blocks of lanes of a part; parts of all */
    int fold_tasks;
    ptrdiff_t fold_sums, fold_out, fold_scratch, fold_floats; /* fold_floats: a task's in all */
};

/* The source row of the panel's first row, if the panel's first output row is y. */
static inline int64_t panel_origin(const struct dc_weight_product *g, int64_t y)
{
    const int64_t row = y * g->right.stride_h - g->right.pad_top;
    return g->by_output ? row : least(g->right.h, most(0, row));
}

/* Rows of the panel of output rows [y0, y1). */
static inline int64_t panel_rows(const struct dc_weight_product *g, int64_t y0, int64_t y1)
{
    const doconv_conv_desc *d = &g->problem.desc;
    const struct operand *r = &g->right;
    const int64_t first = panel_origin(g, y0),
                  end = least(r->h, (y1 - 1) * r->stride_h - r->pad_top +
                                        (d->kh - 1) * d->dilation_h + 1);
    return g->by_output ? y1 - y0 : most(0, end - first);
}

/* Output channels of a part of a fold's gradient: DC_COMPOSE_CHUNK or a multiple. */
#define DC_PART_ROWS (2 * DC_COMPOSE_CHUNK)

/* The hook of dc_solver_weight_product in weight_product.c. */
void dc_weight_product_execute(const doconv_plan *plan, const struct dc_tensors *tensors,
                               char *workspace);

#endif
