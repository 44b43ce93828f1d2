/* SPDX-License-Identifier: MIT */
/*
 * The depthwise tile: a vector of channels for each pixel, one FMA a tap. One loop for every ISA; the including file defines the vector
 * operations, TILE_PIXELS and TILE_VECTORS = 1, and lists DEPTHWISE_TILES_n and DEPTHWISE_NAMES_n.
 */
#ifndef DOCONV_BODY_DEPTHWISE_H
#define DOCONV_BODY_DEPTHWISE_H

#include "body_tile.h"

#define DEPTHWISE_FMA(p, v) a##p##_##v = v_fma(v_load(x + (p) * s), w, a##p##_##v);

#define DEPTHWISE_TILE(P)                                                                                                                            \
    static void depthwise_tile_##P(const struct dc_run_args *args, ptrdiff_t first)                                                                  \
    {                                                                                                                                                \
        const ptrdiff_t s = args->src_pixel;                                                                                                         \
        const float *const src = args->src + first * s;                                                                                              \
        TILE_START(P, 1)                                                                                                                             \
        const struct dc_segment *segment = args->segments;                                                                                           \
        for (ptrdiff_t left = args->segment_count; left > 0; left--, segment++) {                                                                    \
            const float *x = src + segment->src_offset;                                                                                              \
            const vec w = v_load(args->weights + segment->weight_offset);                                                                            \
            PIXELS_##P(VECTORS_1, DEPTHWISE_FMA)                                                                                                     \
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
#define DEPTHWISE_NAMES_1 depthwise_tile_1
#define DEPTHWISE_NAMES_2 DEPTHWISE_NAMES_1, depthwise_tile_2
#define DEPTHWISE_NAMES_3 DEPTHWISE_NAMES_2, depthwise_tile_3
#define DEPTHWISE_NAMES_4 DEPTHWISE_NAMES_3, depthwise_tile_4
#define DEPTHWISE_NAMES_5 DEPTHWISE_NAMES_4, depthwise_tile_5
#define DEPTHWISE_NAMES_6 DEPTHWISE_NAMES_5, depthwise_tile_6
#define DEPTHWISE_NAMES_7 DEPTHWISE_NAMES_6, depthwise_tile_7
#define DEPTHWISE_NAMES_8 DEPTHWISE_NAMES_7, depthwise_tile_8

#endif
