/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's weight and bias. It is a matrix product whose reduction runs over
 * the pixels of all images: rows are output channels, whose gradients are broadcast from where they
 * lie, lanes are inputs that meet them, side by side for each pixel. A lane is an input channel and
 * a tap of `inner` taps; the other taps, `outer` ones, are lists of segments that shift the lanes
 * against the rows. There are two ways to share the taps out:
 *
 * - inner = 1: lanes are channels, taken in place or copied; all taps share them, and those in the
 *   padding are left out.
 * - inner = all taps (im2col): full lanes for few channels, one segment, and sums that lie as the
 *   gradient does.
 *
 * Depthwise convolutions and narrow groups have kernels of their own, whose lanes are output
 * channels and whose sums are taps.
 *
 * The order of an output's additions depends on the problem and the kernel alone: pixels in order,
 * in each lane.
 */
#ifndef DOCONV_WEIGHT_GRADIENT_PLAN_H
#define DOCONV_WEIGHT_GRADIENT_PLAN_H

#include "base/arithmetic.h"
#include "kernel.h"
#include "plan/problem.h"

enum way { PORTABLE, PRODUCT, CORRELATE };

/*
 * A tensor of a product: output pixel (y, x) and tap (ky, kx) meet its row y * stride_h + ky *
 * dilation_h - pad_top, and so on.
 */
struct operand {
    struct dc_tensor_map map;
    int64_t channels; /* of a group */
    int64_t h, w, stride_h, stride_w, pad_top, pad_left;
};

struct dc_weight_gradient {
    doconv_context *ctx;
    struct dc_problem problem;
    enum way way;
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
    /*
     * Narrow groups: vectors of output channels; copies of the rows of a call, where a vector isn't
     * contiguous.
     */
    int64_t vectors, call_rows;
    ptrdiff_t src_strip, grad_strip;
    int32_t *lanes;
};

/* Where x * stride + offset lies in [0, size): [*begin, *end). */
static inline void valid_range(int64_t size, int64_t stride, int64_t offset, int64_t out,
                               int64_t *begin, int64_t *end)
{
    *begin = offset >= 0 ? 0 : least(out, divide_up(-offset, stride));
    *end = offset > size - 1 ? *begin : most(*begin, least(out, (size - 1 - offset) / stride + 1));
}

/* The source row of the panel's first row, if the panel's first output row is y. */
static inline int64_t panel_origin(const struct dc_weight_gradient *g, int64_t y)
{
    const int64_t row = y * g->right.stride_h - g->right.pad_top;
    return g->by_output ? row : least(g->right.h, most(0, row));
}

/* Rows of the panel of output rows [y0, y1). */
static inline int64_t panel_rows(const struct dc_weight_gradient *g, int64_t y0, int64_t y1)
{
    const doconv_conv_desc *d = &g->problem.desc;
    const struct operand *r = &g->right;
    const int64_t first = panel_origin(g, y0),
                  end = least(r->h, (y1 - 1) * r->stride_h - r->pad_top +
                                        (d->kh - 1) * d->dilation_h + 1);
    return g->by_output ? y1 - y0 : most(0, end - first);
}

/*
 * The first input channel that the vector of outputs from `channel` on sees, and how many it sees
 * (none past the last).
 */
static inline int64_t first_input(const struct dc_problem *p, int64_t channel)
{
    return channel / p->group_cout * p->group_cin;
}

static inline int64_t inputs_seen(const struct dc_problem *p, int64_t vector, int64_t channel)
{
    const int64_t groups = p->group_cout < vector ? vector / p->group_cout : 1;
    return least(groups * p->group_cin, p->desc.cin - first_input(p, channel));
}

/*
 * Can the kernel read a vector of a tensor's channels, from `first` on, where it is? Should it:
 * channels of a group are passes over the pixels, which pixels far apart push out of L1.
 */
static inline bool reads_in_place(const struct dc_problem *p, const struct dc_tensor_map *map,
                                  int64_t vector, int64_t first, int64_t channels)
{
    const bool near = p->group_cin < 4 || map->pixel < 128;
    return near && map->channel == 1 &&
           first % map->block_channels + vector <=
               (map->block != 0 ? map->block_channels : channels);
}

#endif
