/* SPDX-License-Identifier: MIT */
/*
 * The direct tile: each input value is broadcast and multiplied with TILE_VECTORS vectors of weights. One loop for every register tile of up to
 * 14 pixels and 4 vectors; the including file defines the vector operations, TILE_PIXELS and TILE_VECTORS, then lists its tile functions:
 *   DIRECT_TILE(6, 2) ... and the table of them (see any direct_f32_*.c).
 *
 * Pixels are reached from a pointer for every third one, with 0, 1 and 2 pixel strides as scaled index: 14 pointers would not fit the
 * general registers, and the stride is a run-time value that lets NHWC, blocked tensors and strips share the loop.
 */
#ifndef DOCONV_BODY_DIRECT_H
#define DOCONV_BODY_DIRECT_H

#include "body_tile.h"

#define X0 r0[0]
#define X1 r0[s]
#define X2 r0[2 * s]
#define X3 r3[0]
#define X4 r3[s]
#define X5 r3[2 * s]
#define X6 r6[0]
#define X7 r6[s]
#define X8 r6[2 * s]
#define X9 r9[0]
#define X10 r9[s]
#define X11 r9[2 * s]
#define X12 r12[0]
#define X13 r12[s]

#define DIRECT_WEIGHT(p, v) const vec w##v = v_load(w + (v)*V_LENGTH);
/* One prefetch a cache line of the row of weights that will be wanted later. */
#define DIRECT_PREFETCH(p, v)                                                                                                                        \
    if ((v)*V_LENGTH % 16 == 0) {                                                                                                                    \
        __builtin_prefetch(w + ahead + (v)*V_LENGTH, 0, 2);                                                                                          \
    }
#define DIRECT_FMA(p, v) a##p##_##v = v_accumulate(x, w##v, a##p##_##v);
#define DIRECT_ROW(L, p)                                                                                                                             \
    {                                                                                                                                                \
        const vec x = v_set1(X##p);                                                                                                                  \
        L(DIRECT_FMA, p)                                                                                                                             \
    }
#define DIRECT_STEP(P, NV)                                                                                                                           \
    {                                                                                                                                                \
        VECTORS_##NV(DIRECT_WEIGHT, 0) VECTORS_##NV(DIRECT_PREFETCH, 0) PIXELS_##P(DIRECT_ROW, VECTORS_##NV) w += TILE_CHANNELS;                     \
        r0++, r3++, r6++, r9++, r12++;                                                                                                               \
    }

#define DIRECT_TILE(P, NV)                                                                                                                           \
    static void direct_tile_##P##_##NV(const struct dc_run_args *args, ptrdiff_t first)                                                              \
    {                                                                                                                                                \
        const ptrdiff_t s = args->src_pixel, ahead = args->weights_ahead;                                                                            \
        const float *const src = args->src + first * s;                                                                                              \
        TILE_START(P, NV)                                                                                                                            \
        const struct dc_segment *segment = args->segments;                                                                                           \
        for (ptrdiff_t left = args->segment_count; left > 0; left--, segment++) {                                                                    \
            const float *w = args->weights + segment->weight_offset;                                                                                 \
            const float *r0 = src + segment->src_offset, *r3 = r0 + 3 * s, *r6 = r3 + 3 * s, *r9 = r6 + 3 * s, *r12 = r9 + 3 * s;                    \
            ptrdiff_t j = segment->length;                                                                                                           \
            for (; j >= 4; j -= 4) {                                                                                                                 \
                DIRECT_STEP(P, NV)                                                                                                                   \
                DIRECT_STEP(P, NV)                                                                                                                   \
                DIRECT_STEP(P, NV)                                                                                                                   \
                DIRECT_STEP(P, NV)                                                                                                                   \
            }                                                                                                                                        \
            for (; j > 0; j--) {                                                                                                                     \
                DIRECT_STEP(P, NV)                                                                                                                   \
            }                                                                                                                                        \
            (void)r3, (void)r6, (void)r9, (void)r12;                                                                                                 \
        }                                                                                                                                            \
        TILE_FINISH(P, NV)                                                                                                                           \
    }

/* All tile functions of 1..n pixels, and the row of the table that holds them. */
#define DIRECT_TILES_1(NV) DIRECT_TILE(1, NV)
#define DIRECT_TILES_2(NV) DIRECT_TILES_1(NV) DIRECT_TILE(2, NV)
#define DIRECT_TILES_3(NV) DIRECT_TILES_2(NV) DIRECT_TILE(3, NV)
#define DIRECT_TILES_4(NV) DIRECT_TILES_3(NV) DIRECT_TILE(4, NV)
#define DIRECT_TILES_5(NV) DIRECT_TILES_4(NV) DIRECT_TILE(5, NV)
#define DIRECT_TILES_6(NV) DIRECT_TILES_5(NV) DIRECT_TILE(6, NV)
#define DIRECT_TILES_7(NV) DIRECT_TILES_6(NV) DIRECT_TILE(7, NV)
#define DIRECT_TILES_8(NV) DIRECT_TILES_7(NV) DIRECT_TILE(8, NV)
#define DIRECT_TILES_9(NV) DIRECT_TILES_8(NV) DIRECT_TILE(9, NV)
#define DIRECT_TILES_10(NV) DIRECT_TILES_9(NV) DIRECT_TILE(10, NV)
#define DIRECT_TILES_11(NV) DIRECT_TILES_10(NV) DIRECT_TILE(11, NV)
#define DIRECT_TILES_12(NV) DIRECT_TILES_11(NV) DIRECT_TILE(12, NV)
#define DIRECT_TILES_13(NV) DIRECT_TILES_12(NV) DIRECT_TILE(13, NV)
#define DIRECT_TILES_14(NV) DIRECT_TILES_13(NV) DIRECT_TILE(14, NV)
#define DIRECT_NAMES_1(NV) direct_tile_1_##NV
#define DIRECT_NAMES_2(NV) DIRECT_NAMES_1(NV), direct_tile_2_##NV
#define DIRECT_NAMES_3(NV) DIRECT_NAMES_2(NV), direct_tile_3_##NV
#define DIRECT_NAMES_4(NV) DIRECT_NAMES_3(NV), direct_tile_4_##NV
#define DIRECT_NAMES_5(NV) DIRECT_NAMES_4(NV), direct_tile_5_##NV
#define DIRECT_NAMES_6(NV) DIRECT_NAMES_5(NV), direct_tile_6_##NV
#define DIRECT_NAMES_7(NV) DIRECT_NAMES_6(NV), direct_tile_7_##NV
#define DIRECT_NAMES_8(NV) DIRECT_NAMES_7(NV), direct_tile_8_##NV
#define DIRECT_NAMES_9(NV) DIRECT_NAMES_8(NV), direct_tile_9_##NV
#define DIRECT_NAMES_10(NV) DIRECT_NAMES_9(NV), direct_tile_10_##NV
#define DIRECT_NAMES_11(NV) DIRECT_NAMES_10(NV), direct_tile_11_##NV
#define DIRECT_NAMES_12(NV) DIRECT_NAMES_11(NV), direct_tile_12_##NV
#define DIRECT_NAMES_13(NV) DIRECT_NAMES_12(NV), direct_tile_13_##NV
#define DIRECT_NAMES_14(NV) DIRECT_NAMES_13(NV), direct_tile_14_##NV

#endif
