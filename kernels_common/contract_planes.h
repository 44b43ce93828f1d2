/* SPDX-License-Identifier: MIT */
/*
 * The contract of DC_FAMILY_PLANES: 1x1 convolutions between planes (NCHW). A tile is pixels x
 * output channels, its vectors are of pixels: tile_pixels is a multiple of vector, tile_channels
 * any number. Included by kernel.h alone.
 */
#ifndef DOCONV_CONTRACT_PLANES_H
#define DOCONV_CONTRACT_PLANES_H

#include <stddef.h>

/*
 * Pixels against one block of output channels.
 *
 *   acc[output][pixel] = bias[output] + sum over c, in order, of
 *                        weights[c * tile_channels + output] * src(c, pixel)
 *   dst = min(max(acc + residual, lo), hi)
 *
 *   array           element at
 *   src             pixel / tile_pixels * src_tile + c * src_channel + pixel % tile_pixels
 *   dst, residual   output * dst_channel + pixel
 */
struct dc_planes_args {
    /* readable to the end of the last vector */
    const float *src;
    /* >= tile_pixels, unless there is one tile or none */
    ptrdiff_t src_channel;
    /* tile_pixels where the tensor is read in place */
    ptrdiff_t src_tile;
    const float *weights;
    /* tile_channels floats */
    const float *bias;
    /* of the reduction, >= 1 */
    ptrdiff_t channels;
    /* >= 1; outputs <= tile_channels */
    ptrdiff_t outputs, pixels;
    float *dst;
    /* strides as dst; NULL: none; may equal dst */
    const float *residual;
    ptrdiff_t dst_channel;
    /* -inf, inf: unchanged; a NaN stays one */
    float lo, hi;
    /* other than 0: prefetch the next tile's pixels while a tile is computed */
    int fetch_next;
};

/*
 * Copies pixels into a panel, tile by tile. Pixel i is number first + i of an image whose rows have
 * `columns` pixels; that one has row y, column x of it.
 *
 *   element (channel c, pixel i)   at
 *   panel                          i / tile_pixels * panel_tile + c * tile_pixels + i % tile_pixels
 *   src                            c * src_channel + y * src_row + x * step
 *
 * The rest of the last vector becomes zero.
 */
struct dc_gather_args {
    float *panel;
    ptrdiff_t panel_tile;
    /* scratch: pixels and a vector */
    float *line;
    const float *src;
    ptrdiff_t src_channel, src_row, step, columns;
    ptrdiff_t channels, first, pixels;
};

/* All functions are required. */
struct dc_planes_kernel {
    void (*run)(const struct dc_planes_args *args);
    void (*gather)(const struct dc_gather_args *args);
};

/* Sets the family and its functions in a kernel's row; one left out is a compile error. */
#define DC_PLANES_FUNCTIONS(run, gather) .family = DC_FAMILY_PLANES, .planes = {run, gather}

#endif
