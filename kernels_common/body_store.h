/* SPDX-License-Identifier: MIT */
/*
 * Storing finished sums (struct dc_store_args) into any layout. The including file has defined the
 * vector operations.
 */
#ifndef DOCONV_BODY_STORE_H
#define DOCONV_BODY_STORE_H

#include "kernel.h"

/* One channel of a run: strided sums to strided pixels. */
static inline void store_channel(const struct dc_store_args *a, ptrdiff_t c)
{
    const ptrdiff_t place = a->dst_first_channel + c;
    const ptrdiff_t at = place / a->dst_block_channels * a->dst_block +
                         place % a->dst_block_channels * a->dst_channel;
    for (ptrdiff_t p = 0; p < a->pixels; p++) {
        float value = 0.0f;
        if (c < a->channels) {
            value = a->tile[p * a->tile_channels + c];
            if (a->residual != 0) {
                value += a->residual[at + p * a->dst_pixel];
            }
            /* Written so that a NaN stays one. */
            value = value < a->lo ? a->lo : value;
            value = value > a->hi ? a->hi : value;
        }
        a->dst[at + p * a->dst_pixel] = value;
    }
}

/* A square of channels and pixels that is cut off: fewer channels, or fewer pixels. */
static __attribute__((noinline)) void store_part(const struct dc_store_args *a, ptrdiff_t c,
                                                 ptrdiff_t p)
{
    const side lo = side_set1(a->lo), hi = side_set1(a->hi);
    const ptrdiff_t at = (a->dst_first_channel + c) * a->dst_channel + p, pixels = a->pixels - p;
    side r[V_TRANSPOSE];
    transpose_load(a->tile + p * a->tile_channels + c, a->tile_channels, r);
    for (int i = 0; i < V_TRANSPOSE && c + i < a->channels; i++) {
        const ptrdiff_t channel = at + i * a->dst_channel;
        side value = r[i];
        if (pixels >= V_TRANSPOSE) {
            value = a->residual != 0 ? side_add(value, side_load(a->residual + channel)) : value;
            side_store(a->dst + channel, side_clamp(value, lo, hi));
        } else {
            value = a->residual != 0
                        ? side_add(value, side_load_first(a->residual + channel, (int)pixels))
                        : value;
            side_store_first(a->dst + channel, side_clamp(value, lo, hi), (int)pixels);
        }
    }
}

/*
 * Planes: squares of the tile, transposed, are vectors of pixels. Those at the end may read past
 * the last pixel: see DC_TILE_SLACK.
 */
static inline void store_planes(const struct dc_store_args *a)
{
    const side lo = side_set1(a->lo), hi = side_set1(a->hi);
    const ptrdiff_t channel = a->dst_channel, stride = a->tile_channels;
    for (ptrdiff_t c = 0; c < a->channels; c += V_TRANSPOSE) {
        ptrdiff_t p = 0;
        if (c + V_TRANSPOSE <= a->channels) {
            const ptrdiff_t first = (a->dst_first_channel + c) * channel;
            const float *tile = a->tile + c;
            float *dst = a->dst + first;
            const float *residual = a->residual != 0 ? a->residual + first : 0;
            for (; p + V_TRANSPOSE <= a->pixels; p += V_TRANSPOSE) {
                side r[V_TRANSPOSE];
                transpose_load(tile + p * stride, stride, r);
                if (residual != 0) {
#define ADD(i) r[i] = side_add(r[i], side_load(residual + (i)*channel + p));
                    SIDES(ADD)
#undef ADD
                }
#define PUT(i) side_store(dst + (i)*channel + p, side_clamp(r[i], lo, hi));
                SIDES(PUT)
#undef PUT
            }
        }
        for (; p < a->pixels; p += V_TRANSPOSE) {
            store_part(a, c, p);
        }
    }
}

/*
 * Channels [c, c + count) of the tile, contiguous in memory from place `at` of dst on; those past
 * the tile's channels are zero.
 */
static inline void store_pixels(const struct dc_store_args *a, ptrdiff_t c, ptrdiff_t count,
                                ptrdiff_t at)
{
    const vec lo = v_set1(a->lo), hi = v_set1(a->hi);
    for (ptrdiff_t p = 0; p < a->pixels; p++) {
        const float *tile = a->tile + p * a->tile_channels + c, *const residual =
                                                                    a->residual != 0
                                                                        ? a->residual + at +
                                                                              p * a->dst_pixel
                                                                        : 0;
        float *const dst = a->dst + at + p * a->dst_pixel;
        ptrdiff_t i = 0;
        for (; i + V_LENGTH <= count && c + i + V_LENGTH <= a->channels; i += V_LENGTH) {
            const vec sum = v_load(tile + i);
            v_store(dst + i,
                    v_clamp(residual != 0 ? v_add(sum, v_load(residual + i)) : sum, lo, hi));
        }
        for (; i < count; i += V_LENGTH) {
            const ptrdiff_t left = a->channels - c - i;
            const int valid = (int)(left < 0          ? 0
                                    : left < V_LENGTH ? left
                                                      : V_LENGTH),
                      stored = (int)(count - i < V_LENGTH ? count - i : V_LENGTH);
            const int computed = valid < stored ? valid : stored;
            vec sum = v_load_first(tile + i, computed);
            sum = residual != 0 ? v_add(sum, v_load_first(residual + i, computed)) : sum;
            v_store_first(dst + i, v_keep_first(v_clamp(sum, lo, hi), computed), stored);
        }
    }
}

static void store_tile(const struct dc_store_args *a)
{
    if (a->dst_channel != 1 && a->dst_pixel == 1 &&
        a->dst_block_channels >= a->dst_first_channel + a->channels) {
        store_planes(a); /* planes have no channels past the last to fill with zeros */
        return;
    }
    for (ptrdiff_t c = 0; a->dst_channel == 1 && c < a->stored;) {
        const ptrdiff_t place = a->dst_first_channel + c, block = place / a->dst_block_channels,
                        in_block = place % a->dst_block_channels;
        const ptrdiff_t room = a->dst_block_channels - in_block,
                        count = a->stored - c < room ? a->stored - c : room;
        store_pixels(a, c, count, block * a->dst_block + in_block);
        c += count;
    }
    for (ptrdiff_t c = 0; a->dst_channel != 1 && c < a->stored; c++) {
        store_channel(a, c);
    }
}

#endif
