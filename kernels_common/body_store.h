/* SPDX-License-Identifier: MIT */
/* Storing finished sums (struct dc_store_args) into any layout. The including file has defined the vector operations. */
#ifndef DOCONV_BODY_STORE_H
#define DOCONV_BODY_STORE_H

#include "kernel.h"

/* One channel of a run: strided sums to strided pixels. */
static inline void store_channel(const struct dc_store_args *a, ptrdiff_t c, ptrdiff_t first)
{
    const ptrdiff_t place = a->dst_first_channel + c;
    const ptrdiff_t at = place / a->dst_block_channels * a->dst_block + place % a->dst_block_channels * a->dst_channel;
    for (ptrdiff_t p = first; p < a->pixels; p++) {
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

static void store_tile(const struct dc_store_args *a)
{
    ptrdiff_t c = 0;
    /* Planes: transpose squares, then treat each of their rows as a vector of pixels. */
    if (a->dst_channel != 1 && a->dst_pixel == 1) {
        const vec lo = v_set1(a->lo), hi = v_set1(a->hi);
        for (; c + V_TRANSPOSE <= a->channels; c += V_TRANSPOSE) {
            float *dst = a->dst + (a->dst_first_channel + c) * a->dst_channel;
            const float *residual = a->residual != 0 ? a->residual + (a->dst_first_channel + c) * a->dst_channel : 0;
            ptrdiff_t p = 0;
            for (; p + V_LENGTH <= a->pixels; p += V_LENGTH) {
                float square[V_TRANSPOSE * V_LENGTH];
                for (int part = 0; part < V_LENGTH; part += V_TRANSPOSE) {
                    v_transpose(a->tile + (p + part) * a->tile_channels + c, a->tile_channels, square + part, V_LENGTH);
                }
                for (int i = 0; i < V_TRANSPOSE; i++) {
                    vec value = v_load(square + i * V_LENGTH);
                    if (residual != 0) {
                        value = v_add(value, v_load(residual + i * a->dst_channel + p));
                    }
                    v_store(dst + i * a->dst_channel + p, v_clamp(value, lo, hi));
                }
            }
            for (int i = 0; i < V_TRANSPOSE && p < a->pixels; i++) {
                store_channel(a, c + i, p);
            }
        }
    }
    for (; c < a->stored; c++) {
        store_channel(a, c, 0);
    }
}

#endif
