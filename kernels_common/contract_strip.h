/* SPDX-License-Identifier: MIT */
/*
 * The parts of the contract that several families share: where a tensor's elements lie, loading
 * strips, storing tiles. Included by kernel.h alone.
 */
#ifndef DOCONV_CONTRACT_STRIP_H
#define DOCONV_CONTRACT_STRIP_H

#include <stddef.h>

/* Channels of a block of strips and of packed weights. */
#define DC_CHANNEL_BLOCK 16
/* Pixels past the end of a dc_store_args tile that may be read. They are never stored. */
#define DC_TILE_SLACK 8

/*
 * A tensor in any layout: element (image n, channel c, row y, column x) lies at
 *   n * image + c / block_channels * block + c % block_channels * channel + y * row + x * pixel
 *
 *   layout          block_channels   channel   pixel
 *   NCHW            PTRDIFF_MAX      H * W     1
 *   NHWC            PTRDIFF_MAX      1         C
 *   NCHW8c, 16c     8, 16            1         8, 16
 */
struct dc_tensor_map {
    ptrdiff_t image, block_channels, block, channel, row, pixel;
};

/*
 * Fills part of a strip: a copy of input rows with a border of zeros. Strips let the loops over
 * pixels serve every layout, padding and stride.
 *
 *   element (channel c, row y, column x)   at
 *   strip                                  c / 16 * strip_block + y * strip_row +
 *                                          x * strip_pixel + c % 16
 *   src                                    q / src_block_channels * src_block +
 *                                          q % src_block_channels * src_channel +
 *                                          y * src_row + x * src_pixel
 *                                          where q = src_first_channel + c
 *
 *   strip(c, y, x) = src(c, y0 + y * step_y, x0 + x * step_x), or 0 where that row and column lie
 *                    outside [0, h) x [0, w)
 */
struct dc_load_args {
    float *strip;
    /* strip_pixel >= min(channels, 16) */
    ptrdiff_t strip_block, strip_row, strip_pixel;
    /* size of the part */
    ptrdiff_t channels, rows, columns;
    /* row 0, column 0, first channel of a block */
    const float *src;
    ptrdiff_t src_block_channels, src_block, src_channel, src_row, src_pixel;
    /* the part's first channel, counted from src: parts may start inside a block */
    ptrdiff_t src_first_channel;
    ptrdiff_t h, w, y0, x0, step_y, step_x;
    /*
     * 0: the lanes of a strip's pixel past the channels become zero, as many as it has.
     * Else lane k * channels + c has channel c for every k in [0, copies). Needs
     * channels * copies <= 16 and strip_pixel 16.
     */
    ptrdiff_t copies;
};

/*
 * Stores finished sums into any layout, with the post-ops: for layouts that a tile can't be stored
 * to directly.
 *
 *   element (pixel p, channel c)   at
 *   tile                           p * tile_channels + c
 *   dst, residual                  q / dst_block_channels * dst_block +
 *                                  q % dst_block_channels * dst_channel + p * dst_pixel
 *                                  where q = dst_first_channel + c
 *
 *   dst(p, c) = min(max(tile(p, c) + residual(p, c), lo), hi)   for c in [0, channels)
 *               0                                               for c in [channels, stored)
 */
struct dc_store_args {
    /* followed by DC_TILE_SLACK pixels of anything */
    const float *tile;
    ptrdiff_t tile_channels;
    /* stored >= channels: blocked layouts have padding */
    ptrdiff_t pixels, channels, stored;
    /* first pixel, first channel of a block */
    float *dst;
    /* NULL: none; may equal dst */
    const float *residual;
    ptrdiff_t dst_block_channels, dst_block, dst_channel, dst_pixel;
    ptrdiff_t dst_first_channel;
    /* -inf, inf: unchanged; a NaN stays one */
    float lo, hi;
};

#endif
