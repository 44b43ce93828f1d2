/* SPDX-License-Identifier: MIT */
/*
 * The contract of DC_FAMILY_PIXEL: all output channels of a single pixel, a matrix times a vector.
 * tile_pixels is 1, tile_channels what the widest block of outputs has. Included by kernel.h alone.
 */
#ifndef DOCONV_CONTRACT_PIXEL_H
#define DOCONV_CONTRACT_PIXEL_H

#include <stddef.h>

/*
 * Blocks of output channels that follow each other: `larger` of size + 1 vectors, then `smaller` of
 * `size` vectors. Block b begins at output first(b), which is 0 for the first.
 *
 *   acc[output] = bias[output] + sum over c, in order, of weight(output, c) * src[c]
 *   dst[output] = min(max(acc + residual[output], lo), hi)
 *
 *   weight(output, c), in block b of n channels, is at
 *   weights + first(b) * channels + c * n + (output - first(b))
 */
struct dc_pixel_args {
    const float *src;
    /* of the reduction, >= 1 */
    ptrdiff_t channels;
    /* 64-byte aligned */
    const float *weights, *bias;
    /* >= 0, but one of them >= 1; size >= 1 where smaller is not 0 */
    ptrdiff_t larger, smaller, size;
    float *dst;
    /* as dst; NULL: none; may equal dst */
    const float *residual;
    /* valid outputs, and outputs to write: outputs <= stored, the rest become zero */
    ptrdiff_t outputs, stored;
    /* -inf, inf: unchanged; a NaN stays one */
    float lo, hi;
};

/* All functions are required. */
struct dc_pixel_kernel {
    void (*run)(const struct dc_pixel_args *args);
};

/* Sets the family and its functions in a kernel's row; one left out is a compile error. */
#define DC_PIXEL_FUNCTIONS(run) .family = DC_FAMILY_PIXEL, .pixel = {run}

#endif
