/* SPDX-License-Identifier: MIT */
/*
 * The depthwise tile: a vector of channels for each pixel, one FMA a tap. One loop for every ISA; the including file defines the vector
 * operations, TILE_PIXELS and TILE_VECTORS = 1, and lists DEPTHWISE_TILES_n and DEPTHWISE_NAMES_n.
 */
#ifndef DOCONV_BODY_DEPTHWISE_H
#define DOCONV_BODY_DEPTHWISE_H

#include <stdbool.h>

#include "body_tile.h"

#define DEPTHWISE_FMA(p, v) a##p##_##v = v_fma(v_load(x + (p)*s), w, a##p##_##v);

/* Three taps at equal steps, of a kernel's row or column: what neighbouring pixels share is loaded once. Each output still takes its taps in order. */
#define DEPTHWISE_NEXT_1(p, v)                                                                                                                       \
    x2 = v_load(x + (p)*s + 2 * tap);                                                                                                                \
    a##p##_##v = v_fma(x2, w2, v_fma(x1, w1, v_fma(x0, w0, a##p##_##v)));                                                                            \
    x0 = x1;                                                                                                                                         \
    x1 = x2;
#define DEPTHWISE_NEXT_2(p, v)                                                                                                                       \
    x1 = v_load(x + (p)*s + tap);                                                                                                                    \
    x2 = v_load(x + (p)*s + 2 * tap);                                                                                                                \
    a##p##_##v = v_fma(x2, w2, v_fma(x1, w1, v_fma(x0, w0, a##p##_##v)));                                                                            \
    x0 = x2;

#define DEPTHWISE_TILE(P)                                                                                                                            \
    static void depthwise_tile_##P(const struct dc_run_args *args, ptrdiff_t first)                                                                  \
    {                                                                                                                                                \
        const ptrdiff_t s = args->src_pixel;                                                                                                         \
        const float *const src = args->src + first * s;                                                                                              \
        TILE_START(P, 1)                                                                                                                             \
        const struct dc_segment *segment = args->segments;                                                                                           \
        const struct dc_segment *const end = segment + args->segment_count;                                                                          \
        while (segment < end) {                                                                                                                      \
            const float *x = src + segment->src_offset;                                                                                              \
            const float *taps = args->weights + segment->weight_offset;                                                                              \
            const ptrdiff_t tap = end - segment < 3 ? 0 : segment[1].src_offset - segment[0].src_offset;                                             \
            const bool slides = tap != 0 && segment[2].src_offset - segment[1].src_offset == tap;                                                    \
            const ptrdiff_t tap1 = slides ? segment[1].weight_offset - segment[0].weight_offset : 0;                                                 \
            const ptrdiff_t tap2 = slides ? segment[2].weight_offset - segment[0].weight_offset : 0;                                                 \
            if (slides && s == tap) {                                                                                                                \
                const vec w0 = v_load(taps), w1 = v_load(taps + tap1), w2 = v_load(taps + tap2);                                                     \
                vec x0 = v_load(x), x1 = v_load(x + tap), x2;                                                                                        \
                PIXELS_##P(VECTORS_1, DEPTHWISE_NEXT_1) segment += 3;                                                                                \
            } else if (slides && s == 2 * tap) {                                                                                                     \
                const vec w0 = v_load(taps), w1 = v_load(taps + tap1), w2 = v_load(taps + tap2);                                                     \
                vec x0 = v_load(x), x1, x2;                                                                                                          \
                PIXELS_##P(VECTORS_1, DEPTHWISE_NEXT_2) segment += 3;                                                                                \
            } else {                                                                                                                                 \
                const vec w = v_load(taps);                                                                                                          \
                PIXELS_##P(VECTORS_1, DEPTHWISE_FMA) segment++;                                                                                      \
            }                                                                                                                                        \
        }                                                                                                                                            \
        TILE_FINISH(P, 1)                                                                                                                            \
    }

#define DEPTHWISE_TILES_1 DEPTHWISE_TILE(1)
#define DEPTHWISE_TILES_2 DEPTHWISE_TILES_1 DEPTHWISE_TILE(2)
#define DEPTHWISE_TILES_3 DEPTHWISE_TILES_2 DEPTHWISE_TILE(3)
#define DEPTHWISE_TILES_4 DEPTHWISE_TILES_3 DEPTHWISE_TILE(4)
#define DEPTHWISE_TILES_5 DEPTHWISE_TILES_4 DEPTHWISE_TILE(5)
#define DEPTHWISE_TILES_6 DEPTHWISE_TILES_5 DEPTHWISE_TILE(6)
#define DEPTHWISE_TILES_7 DEPTHWISE_TILES_6 DEPTHWISE_TILE(7)
#define DEPTHWISE_TILES_8 DEPTHWISE_TILES_7 DEPTHWISE_TILE(8)
#define DEPTHWISE_TILES_9 DEPTHWISE_TILES_8 DEPTHWISE_TILE(9)
#define DEPTHWISE_TILES_10 DEPTHWISE_TILES_9 DEPTHWISE_TILE(10)
#define DEPTHWISE_TILES_11 DEPTHWISE_TILES_10 DEPTHWISE_TILE(11)
#define DEPTHWISE_TILES_12 DEPTHWISE_TILES_11 DEPTHWISE_TILE(12)
#define DEPTHWISE_TILES_13 DEPTHWISE_TILES_12 DEPTHWISE_TILE(13)
#define DEPTHWISE_TILES_14 DEPTHWISE_TILES_13 DEPTHWISE_TILE(14)
#define DEPTHWISE_NAMES_1 depthwise_tile_1
#define DEPTHWISE_NAMES_2 DEPTHWISE_NAMES_1, depthwise_tile_2
#define DEPTHWISE_NAMES_3 DEPTHWISE_NAMES_2, depthwise_tile_3
#define DEPTHWISE_NAMES_4 DEPTHWISE_NAMES_3, depthwise_tile_4
#define DEPTHWISE_NAMES_5 DEPTHWISE_NAMES_4, depthwise_tile_5
#define DEPTHWISE_NAMES_6 DEPTHWISE_NAMES_5, depthwise_tile_6
#define DEPTHWISE_NAMES_7 DEPTHWISE_NAMES_6, depthwise_tile_7
#define DEPTHWISE_NAMES_8 DEPTHWISE_NAMES_7, depthwise_tile_8
#define DEPTHWISE_NAMES_9 DEPTHWISE_NAMES_8, depthwise_tile_9
#define DEPTHWISE_NAMES_10 DEPTHWISE_NAMES_9, depthwise_tile_10
#define DEPTHWISE_NAMES_11 DEPTHWISE_NAMES_10, depthwise_tile_11
#define DEPTHWISE_NAMES_12 DEPTHWISE_NAMES_11, depthwise_tile_12
#define DEPTHWISE_NAMES_13 DEPTHWISE_NAMES_12, depthwise_tile_13
#define DEPTHWISE_NAMES_14 DEPTHWISE_NAMES_13, depthwise_tile_14

#endif
