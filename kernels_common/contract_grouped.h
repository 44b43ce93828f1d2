/* SPDX-License-Identifier: MIT */
/*
 * The contract of DC_FAMILY_DEPTHWISE and DC_FAMILY_GROUPED: convolutions whose outputs see one
 * input channel, or a few. A tile is pixels x one vector of output channels. Included by kernel.h
 * alone.
 */
#ifndef DOCONV_CONTRACT_GROUPED_H
#define DOCONV_CONTRACT_GROUPED_H

#include <stddef.h>
#include <stdint.h>

#include "contract_strip.h"

/* Columns outside of the image, on a side, that a tile may have: of taps by threes, by fives. */
#define DC_GROUPED_EDGE 3
#define DC_GROUPED_EDGE_5 2

/*
 * Rows [y0, y1) of one vector of output channels of an image. Every output channel sees `planes`
 * input channels.
 *
 *   acc[y][x][c] = bias[c] + sum over ky, i, kx of src(row, column, lanes[i][c]) * weight
 *     row    = y * stride_h - pad_top + ky * dilation_h
 *     column = x * stride_w - pad_left + kx * dilation_w
 *     taps whose row and column lie outside [0, h) x [0, w) are left out
 *   dst = min(max(acc + residual, lo), hi)
 *
 *   array           element at
 *   src             row * src_row + column * src_pixel + lane
 *   weights         [kx / chunk][ky][i][kx % chunk][c]
 *   dst, residual   (y - y0) * dst_row + x * dst_pixel + c
 *
 * A vector of inputs is read whole: lanes that no output needs must be readable too.
 */
struct dc_grouped_args {
    /* row 0, column 0 */
    const float *src;
    ptrdiff_t src_row, src_pixel, h, w;
    /* 64-byte aligned */
    const float *weights, *bias;
    /*
     * >= 1: vectors of output channels of the same pixels. From one to the next, src, weights, and
     * dst and residual move by src_vector, weights_vector and dst_vector, bias by a vector. Several
     * are all whole (channels and stored: vector)
     */
    ptrdiff_t vectors, src_vector, weights_vector, dst_vector;
    /* [planes][vector], each in [0, vector); DC_FAMILY_DEPTHWISE: unused, lanes are in order */
    const int32_t *lanes;
    /* DC_FAMILY_DEPTHWISE: 1 */
    ptrdiff_t planes;
    ptrdiff_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    /*
     * kernel columns that are taken together: 1; or 3, which needs dilation_w 1, stride_w 1 or 2,
     * and edge <= DC_GROUPED_EDGE; or 5, which needs kw 5 and edge <= DC_GROUPED_EDGE_5 besides
     */
    ptrdiff_t chunk;
    /* most columns that the kernel reaches out of the image on a side */
    ptrdiff_t edge;
    ptrdiff_t y0, y1, wout;
    /* row y0, pixel 0 */
    float *dst;
    /* strides as dst; NULL: none; may equal dst */
    const float *residual;
    ptrdiff_t dst_row, dst_pixel;
    /* valid channels and channels to write: channels <= stored <= vector, the rest become zero */
    ptrdiff_t channels, stored;
    /* -inf, inf: unchanged; a NaN stays one */
    float lo, hi;
};

/*
 * A tap of a depthwise convolution with `steps` outputs a channel, backward, over a rectangle of
 * output pixels. A lane is a channel.
 *
 *   vector              at
 *   z(step, y, p)       z + steps_at[step] + y * z_row + p * z_pixel: the gradient of an output
 *   x(y, p)             x + y * x_row + p * x_pixel: what the tap reads, or its gradient
 *   factor(step)        factors + step * factors_step
 *
 *   taps_correlate: factor(step) += sum over y, p of z(step, y, p) * x(y, p)
 *   taps_scatter:   x(y, p) += sum over steps of factor(step) * z(step, y, p)
 */
struct dc_taps_args {
    const float *z;
    const ptrdiff_t *steps_at;
    ptrdiff_t z_row, z_pixel;
    /* only read by taps_correlate */
    float *x;
    ptrdiff_t x_row, x_pixel;
    /* only read by taps_scatter */
    float *factors;
    ptrdiff_t factors_step;
    /* >= 1 */
    ptrdiff_t steps, rows, pixels;
};

/*
 * Taps of a depthwise convolution whose inputs are read by one output at most, backward: what each
 * output of a rectangle hands back through some taps. A lane is a channel.
 *
 *   vector            at
 *   z(y, p)           z + y * z_row + p * z_pixel: the gradient of an output
 *   x(tap, y, p)      x + taps_at[tap] + y * x_row + p * x_pixel: that of the input which it reads
 *   factor(tap)       factors + tap * factors_step
 *
 *   taps_spread: x(tap, y, p) = factor(tap) * z(y, p)
 */
struct dc_spread_args {
    const float *z;
    ptrdiff_t z_row, z_pixel;
    float *x;
    const ptrdiff_t *taps_at;
    ptrdiff_t x_row, x_pixel;
    const float *factors;
    ptrdiff_t factors_step;
    /* >= 1 */
    ptrdiff_t taps, rows, pixels;
};

/* All functions are required, but those of taps are NULL in DC_FAMILY_GROUPED. */
struct dc_grouped_kernel {
    void (*run)(const struct dc_grouped_args *args);
    void (*load)(const struct dc_load_args *args);
    void (*store)(const struct dc_store_args *args);
    void (*taps_correlate)(const struct dc_taps_args *args);
    void (*taps_scatter)(const struct dc_taps_args *args);
    void (*taps_spread)(const struct dc_spread_args *args);
};

/* Sets the family and its functions in a kernel's row; one left out is a compile error. */
#define DC_DEPTHWISE_FUNCTIONS(run, load, store, taps_correlate, taps_scatter, taps_spread)        \
    .family = DC_FAMILY_DEPTHWISE,                                                                 \
    .grouped = {run, load, store, taps_correlate, taps_scatter, taps_spread}
#define DC_GROUPED_FUNCTIONS(run, load, store)                                                     \
    .family = DC_FAMILY_GROUPED, .grouped = {run, load, store, NULL, NULL, NULL}

#endif
