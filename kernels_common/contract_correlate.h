/* SPDX-License-Identifier: MIT */
/*
 * The contract of DC_FAMILY_CORRELATE: the gradient of the weights of depthwise convolutions and of
 * narrow groups. A tile is taps x one vector of output channels: tile_pixels taps. Included by
 * kernel.h alone.
 */
#ifndef DOCONV_CONTRACT_CORRELATE_H
#define DOCONV_CONTRACT_CORRELATE_H

#include <stddef.h>
#include <stdint.h>

#include "contract_strip.h"

/*
 * One vector of output channels, over rows [y0, y1) of an image:
 *
 *   sums[i][ky][kx][c] += sum over y, x of grad(y, x, c) * src(row, column, lanes[i][c])
 *     row    = y * stride_h - pad_top + ky * dilation_h
 *     column = x * stride_w - pad_left + kx * dilation_w
 *     pixels whose row and column lie outside [0, h) x [0, w) are left out
 *
 *   array   element at
 *   grad    (y - y0) * grad_row + x * grad_pixel + c
 *   src     row * src_row + column * src_pixel + lane
 *
 * Whole vectors are read on both sides.
 */
struct dc_correlate_args {
    /* row 0, column 0 */
    const float *src;
    ptrdiff_t src_row, src_pixel, h, w;
    /* row y0, pixel 0 */
    const float *grad;
    ptrdiff_t grad_row, grad_pixel;
    /* [planes][vector], each in [0, vector), where the kernel deals; else NULL: in order */
    const int32_t *lanes;
    ptrdiff_t planes;
    ptrdiff_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    ptrdiff_t y0, y1, wout;
    /* [planes][kh][kw][vector] */
    float *sums;
};

/* All functions are required. */
struct dc_correlate_kernel {
    void (*run)(const struct dc_correlate_args *args);
    void (*load)(const struct dc_load_args *args);
    /* other than 0: it deals inputs out to lanes, and needs dc_correlate_args.lanes */
    int deals;
};

/* Sets the family and its functions in a kernel's row; one left out is a compile error. */
#define DC_CORRELATE_FUNCTIONS(run, load, deals)                                                   \
    .family = DC_FAMILY_CORRELATE, .correlate = {run, load, deals}

#endif
