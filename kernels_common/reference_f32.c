/* SPDX-License-Identifier: MIT */
/*
 * The portable reference: takes every valid problem on every CPU, sums in double. What the tuner
 * checks winners against.
 */
#include "kernel.h"

static ptrdiff_t channel_at(const struct dc_tensor_map *map, ptrdiff_t channel)
{
    return channel / map->block_channels * map->block +
           channel % map->block_channels * map->channel;
}

static void reference(const struct dc_reference_args *a)
{
    const ptrdiff_t o = a->out_channel, group_cin = a->cin / a->groups, taps = a->kh * a->kw;
    float *dst = a->dst + a->n * a->dst_map.image + channel_at(&a->dst_map, o);
    const float *residual = a->residual != 0 ? a->residual + (dst - a->dst) : 0;
    for (ptrdiff_t p = 0; p < a->hout; p++) {
        for (ptrdiff_t q = 0; q < a->wout; q++) {
            const ptrdiff_t at = p * a->dst_map.row + q * a->dst_map.pixel;
            if (o >= a->cout) {
                dst[at] = 0.0f; /* padding of a blocked layout */
                continue;
            }
            const ptrdiff_t first = o / (a->cout / a->groups) * group_cin;
            double sum = a->bias != 0 ? (double)a->bias[o] : 0.0;
            for (ptrdiff_t y = 0; y < a->kh; y++) {
                const ptrdiff_t row = p * a->stride_h + y * a->dilation_h - a->pad_top;
                if (row < 0 || row >= a->h) {
                    continue;
                }
                for (ptrdiff_t x = 0; x < a->kw; x++) {
                    const ptrdiff_t column = q * a->stride_w + x * a->dilation_w - a->pad_left;
                    if (column < 0 || column >= a->w) {
                        continue;
                    }
                    const float *src = a->src + a->n * a->src_map.image + row * a->src_map.row +
                                       column * a->src_map.pixel;
                    const float *weight = a->weight + o * group_cin * taps + y * a->kw + x;
                    for (ptrdiff_t i = 0; i < group_cin; i++) {
                        sum += (double)src[channel_at(&a->src_map, first + i)] *
                               (double)weight[i * taps];
                    }
                }
            }
            float value = (float)sum;
            if (residual != 0) {
                value += residual[at];
            }
            /* Written so that a NaN stays one. */
            value = value < a->lo ? a->lo : value;
            value = value > a->hi ? a->hi : value;
            dst[at] = value;
        }
    }
}

const struct dc_kernel dck_reference_f32 = {
    .name = "reference_f32@none",
    .revision = 1,
    .isa = DC_ISA_NONE,
    .tile_pixels = 1,
    .tile_channels = 1,
    .vector = 1,
    .error_amplification = 1.0f,
    DC_REFERENCE_FUNCTIONS(reference),
};
