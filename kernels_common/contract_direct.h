/* SPDX-License-Identifier: MIT */
/*
 * The contract of DC_FAMILY_DIRECT: convolutions whose pixels have contiguous stretches of inputs.
 * A tile is pixels x output channels. Included by kernel.h; and by contract_product.h, for struct
 * dc_segment.
 */
#ifndef DOCONV_CONTRACT_DIRECT_H
#define DOCONV_CONTRACT_DIRECT_H

#include <stddef.h>
#include <stdint.h>

#include "contract_strip.h"

/* Vectors of output channels in the widest tile of a kernel. */
#define DC_MAX_TILE_VECTORS 8
/* Lanes that a call of a packing kernel may have: no tile has more channels. */
#define DC_PACK_LANES 64

/* A stretch of the reduction: `length` inputs that are contiguous for each pixel. */
struct dc_segment {
    ptrdiff_t src_offset;
    ptrdiff_t weight_offset;
    ptrdiff_t length;
    /* other than 0: the inputs of the segment that follows may not be in L1, prefetch them */
    ptrdiff_t fetch;
};

/*
 * A run: `lines` lines of `pixels` pixels, against one block of output channels. A line is a row or
 * a column; all pixels share the segments.
 *
 *   sum[line][pixel][channel] = start + sum over segments s, j in [0, s.length) of
 *       src[line * src_line + pixel * src_pixel + s.src_offset + j] *
 *       weights[s.weight_offset + j * tile_channels + channel]
 *   start = bias[channel], or partial_in[line][pixel][channel] where that is given
 *
 * The additions of one output are in the order of segments and j, whatever the number of pixels:
 * every split into runs gives the same bits.
 *
 *   partial_out   the sums go       to
 *   given         as they are       partial_out[line][pixel][channel]
 *   NULL          with post-ops     dst + line * dst_line + pixel * dst_pixel +
 *                                   dst_vector[channel / vector] + channel % vector
 *
 *   post-ops: min(max(sum + residual, lo), hi)
 */
struct dc_run_args {
    const float *src;
    ptrdiff_t src_pixel, src_line;
    const struct dc_segment *segments;
    /* may be 0: all taps lie in the padding */
    ptrdiff_t segment_count;
    /* rows of tile_channels floats, 64-byte aligned each */
    const float *weights;
    /* packed weights that the next run will want: prefetched into L2; soon_floats 0: none */
    const float *soon;
    ptrdiff_t soon_floats;
    /* tile_channels floats, 64-byte aligned; used if partial_in is NULL */
    const float *bias;
    /* [lines][pixels][tile_channels], 64-byte aligned; NULL at the start of the reduction */
    const float *partial_in;
    /* likewise; if given, nothing below is used but lines, pixels and channels */
    float *partial_out;
    /* >= 1 */
    ptrdiff_t lines, pixels;
    /* valid output channels, 1..tile_channels */
    ptrdiff_t channels;
    float *dst;
    /* strides as dst; NULL: none; may equal dst */
    const float *residual;
    ptrdiff_t dst_pixel, dst_line;
    ptrdiff_t dst_vector[DC_MAX_TILE_VECTORS];
    /* channels to write, >= channels: those past `channels` become zero (blocked layouts) */
    ptrdiff_t stored;
    /* -inf, inf: unchanged; a NaN stays one */
    float lo, hi;
    /* set by the kernel itself: where the next line's pixels start, to prefetch */
    uintptr_t src_next;
};

/*
 * Packs weights: lanes that lie apart come side by side.
 *   to[place[j] + lane] = src[lane * lane_step + j]   for lane < lanes, j < columns, place[j] >= 0
 * Columns without a place are read all the same.
 */
struct dc_pack_args {
    const float *src;
    /* lanes <= DC_PACK_LANES */
    ptrdiff_t lane_step, lanes;
    const ptrdiff_t *place;
    ptrdiff_t columns;
    float *to;
    /* what will be packed next, to be fetched: soon_rows rows of soon_floats, soon_step apart */
    const float *soon;
    ptrdiff_t soon_rows, soon_step, soon_floats;
};

/* All functions are required. */
struct dc_direct_kernel {
    void (*run)(const struct dc_run_args *args);
    void (*load)(const struct dc_load_args *args);
    void (*store)(const struct dc_store_args *args);
    void (*pack)(const struct dc_pack_args *args);
};

/* Sets the family and its functions in a kernel's row; one left out is a compile error. */
#define DC_DIRECT_FUNCTIONS(run, load, store, pack)                                                \
    .family = DC_FAMILY_DIRECT, .direct = {run, load, store, pack}

#endif
