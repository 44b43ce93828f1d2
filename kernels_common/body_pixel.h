/* SPDX-License-Identifier: MIT */
/*
 * A single pixel: each input is broadcast and multiplied with up to 8 vectors of weights, whose
 * sums hide the latency of an FMA. Every weight is used once, so what counts is that they come in
 * one stream: blocks follow each other in memory and in time, and the hardware fetches such a
 * stream ahead better than prefetches in the loop do.
 *
 * The including file defines the vector operations and TILE_VECTORS, then lists PIXEL_TILES_8 and
 * the table of PIXEL_NAMES_8 (see any pixel_f32_*.c).
 */
#ifndef DOCONV_BODY_PIXEL_H
#define DOCONV_BODY_PIXEL_H

#include "kernel.h"

#define TILE_CHANNELS (TILE_VECTORS * V_LENGTH)

#define BLOCK_1(X) X(0)
#define BLOCK_2(X) BLOCK_1(X) X(1)
#define BLOCK_3(X) BLOCK_2(X) X(2)
#define BLOCK_4(X) BLOCK_3(X) X(3)
#define BLOCK_5(X) BLOCK_4(X) X(4)
#define BLOCK_6(X) BLOCK_5(X) X(5)
#define BLOCK_7(X) BLOCK_6(X) X(6)
#define BLOCK_8(X) BLOCK_7(X) X(7)

/* Sums of `vectors` vectors from output `first` on, some of which are not valid. */
static __attribute__((noinline)) void
finish_pixel_tail(const struct dc_pixel_args *args, const float *sums, ptrdiff_t first, int vectors)
{
    const vec lo = v_set1(args->lo), hi = v_set1(args->hi);
    for (int v = 0; v < vectors; v++, first += V_LENGTH) {
        const ptrdiff_t left = args->outputs - first, write = args->stored - first;
        const int valid = (int)(left < 0          ? 0
                                : left < V_LENGTH ? left
                                                  : V_LENGTH),
                  stored = (int)(write < V_LENGTH ? write : V_LENGTH);
        vec sum = v_load(sums + (ptrdiff_t)v * V_LENGTH);
        if (args->residual != 0 && valid != 0) {
            sum = v_add(sum, v_load_first(args->residual + first, valid));
        }
        v_store_first(args->dst + first, v_keep_first(v_clamp(sum, lo, hi), valid), stored);
    }
}

#define PIXEL_BIAS(v) vec a##v = v_load(args->bias + first + (v)*V_LENGTH);
#define PIXEL_FMA(v) a##v = v_accumulate_from(x, w + (v)*V_LENGTH, a##v);
#define PIXEL_STEP(NV)                                                                             \
    {                                                                                              \
        const vec x = v_set1(*src);                                                                \
        BLOCK_##NV(PIXEL_FMA) w += (NV)*V_LENGTH;                                                  \
        src++;                                                                                     \
    }
#define PIXEL_ADD(v) a##v = v_add(a##v, v_load(args->residual + first + (v)*V_LENGTH));
#define PIXEL_CLAMP(v) a##v = v_clamp(a##v, lo, hi);
#define PIXEL_STORE(v) v_store(args->dst + first + (v)*V_LENGTH, a##v);
#define PIXEL_SPILL(v) v_store(sums + (v)*V_LENGTH, a##v);

/* `count` blocks of NV vectors, from output `first` on. */
typedef void pixel_fn(const struct dc_pixel_args *args, ptrdiff_t first, ptrdiff_t count);
#define PIXEL_TILE(NV)                                                                             \
    static void pixel_tile_1_##NV(const struct dc_pixel_args *args, ptrdiff_t first,               \
                                  ptrdiff_t count)                                                 \
    {                                                                                              \
        const float *w = args->weights + first * args->channels;                                   \
        for (; count > 0; count--, first += (NV)*V_LENGTH) {                                       \
            const float *src = args->src;                                                          \
            BLOCK_##NV(PIXEL_BIAS) ptrdiff_t left = args->channels;                                \
            for (; left % 4 != 0; left--) {                                                        \
                PIXEL_STEP(NV)                                                                     \
            }                                                                                      \
            for (; left != 0; left -= 4) {                                                         \
                PIXEL_STEP(NV)                                                                     \
                PIXEL_STEP(NV)                                                                     \
                PIXEL_STEP(NV)                                                                     \
                PIXEL_STEP(NV)                                                                     \
            }                                                                                      \
            if (first + (NV)*V_LENGTH <= args->outputs) {                                          \
                if (args->residual != 0) {                                                         \
                    BLOCK_##NV(PIXEL_ADD)                                                          \
                }                                                                                  \
                if (args->lo > -__builtin_inff() || args->hi < __builtin_inff()) {                 \
                    const vec lo = v_set1(args->lo), hi = v_set1(args->hi);                        \
                    BLOCK_##NV(PIXEL_CLAMP)                                                        \
                }                                                                                  \
                BLOCK_##NV(PIXEL_STORE)                                                            \
            } else {                                                                               \
                float sums[(NV)*V_LENGTH];                                                         \
                BLOCK_##NV(PIXEL_SPILL) finish_pixel_tail(args, sums, first, (NV));                \
            }                                                                                      \
        }                                                                                          \
    }

static inline void run_pixel(const struct dc_pixel_args *args, pixel_fn *const table[TILE_VECTORS])
{
    if (args->larger != 0) {
        table[args->size](args, 0, args->larger);
    }
    if (args->smaller != 0) {
        table[args->size - 1](args, args->larger * (args->size + 1) * V_LENGTH, args->smaller);
    }
}

/* All tile functions of 1..8 vectors, and the table that holds them. */
#define PIXEL_TILES_8                                                                              \
    PIXEL_TILE(1)                                                                                  \
    PIXEL_TILE(2)                                                                                  \
    PIXEL_TILE(3) PIXEL_TILE(4) PIXEL_TILE(5) PIXEL_TILE(6) PIXEL_TILE(7) PIXEL_TILE(8)
#define PIXEL_NAMES_8                                                                              \
    pixel_tile_1_1, pixel_tile_1_2, pixel_tile_1_3, pixel_tile_1_4, pixel_tile_1_5,                \
        pixel_tile_1_6, pixel_tile_1_7, pixel_tile_1_8

#endif
