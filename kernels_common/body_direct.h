/* SPDX-License-Identifier: MIT */
/*
 * The direct tile: each input value is broadcast and multiplied with TILE_VECTORS vectors of
 * weights. One loop for every register tile of up to 14 pixels and 4 vectors; the including file
 * defines the vector operations, TILE_PIXELS and TILE_VECTORS, then lists its tile functions:
 *   DIRECT_TILE(6, 2) ... and the table of them (see any direct_f32_*.c).
 */
#ifndef DOCONV_BODY_DIRECT_H
#define DOCONV_BODY_DIRECT_H

#include <stdbool.h>

#include "body_tile.h"

#define DIRECT_WEIGHT(p, v) const vec w##v = v_load(w + (v)*V_LENGTH);
#define DIRECT_FMA(p, v) a##p##_##v = v_accumulate(x, w##v, a##p##_##v);
#define DIRECT_ROW(L, p)                                                                           \
    {                                                                                              \
        const vec x = v_set1(X##p);                                                                \
        L(DIRECT_FMA, p)                                                                           \
    }

/*
 * Weights are fetched as fast as a tile has time for: a cache line every so many steps; beside FMAs
 * of 512 bits one in each, and as many again in a run of one large tile, which no other helps.
 */
#define STEPS_PER_FETCH (V_LENGTH == 16 ? 1 : 2)

/*
 * Prefetches. The inputs of the segment or tile that follows go to L1, all at once where the plan
 * says that they may be far; the weights of the run that follows to L2, step by step. Addresses are
 * integers: they may lie outside the tensor.
 */
#define DIRECT_FETCH_START(P)                                                                      \
    const uintptr_t after =                                                                        \
        first + (P) < args->pixels ? (uintptr_t)src + (uintptr_t)((P)*s) : args->src_next;         \
    if (soon >= soon_end) {                                                                        \
        soon = (uintptr_t)args->weights, soon_step = 0;                                            \
    }
#define DIRECT_FETCH_PIXEL(L, p)                                                                   \
    __builtin_prefetch((const void *)next, 0, 3);                                                  \
    next += (uintptr_t)s;
#define DIRECT_FETCH_INPUTS(P)                                                                     \
    if (segment->fetch != 0) {                                                                     \
        uintptr_t next = left > 1                                                                  \
                             ? (uintptr_t)src + (uintptr_t)segment[1].src_offset * sizeof(float)   \
                             : after + (uintptr_t)args->segments->src_offset * sizeof(float);      \
        PIXELS_##P(DIRECT_FETCH_PIXEL, 0)                                                          \
    }
#define DIRECT_FETCH_WEIGHTS(i)                                                                    \
    if ((i) % STEPS_PER_FETCH == STEPS_PER_FETCH - 1) {                                            \
        __builtin_prefetch((const void *)soon, 0, 2);                                              \
        soon += soon_step;                                                                         \
    }
/* After four steps, in runs that fetch twice as much: the P of these, a literal, is large. */
#define MAY_FETCH_TWICE(P) (STEPS_PER_FETCH == 1 && 2 * (P) > TILE_PIXELS)
#define DIRECT_FETCH_MORE                                                                          \
    for (int line = 0; line < 4; line++, soon += soon_step) {                                      \
        __builtin_prefetch((const void *)soon, 0, 2);                                              \
    }

/* Step i of four. */
#define DIRECT_STEP(P, NV, i)                                                                      \
    {                                                                                              \
        VECTORS_##NV(DIRECT_WEIGHT, 0) PIXELS_##P(DIRECT_ROW, VECTORS_##NV) w += TILE_CHANNELS;    \
        r0++, r7++;                                                                                \
        DIRECT_FETCH_WEIGHTS(i)                                                                    \
    }

/* Four of them; a kernel that has another way to take four inputs defines its own. */
#ifndef DIRECT_FOUR_STEPS
#define DIRECT_FOUR_STEPS(P, NV)                                                                   \
    DIRECT_STEP(P, NV, 0)                                                                          \
    DIRECT_STEP(P, NV, 1)                                                                          \
    DIRECT_STEP(P, NV, 2)                                                                          \
    DIRECT_STEP(P, NV, 3)
#endif

/*
 * Tiles of P pixels x NV vectors: `count` of them from pixel `first` of the line on; twice: weights
 * are fetched twice as fast. Tiles follow each other without a call between: the sums of one are
 * being stored while the next multiplies, and a core that has more to do between them runs out of
 * FMAs.
 */
typedef void tile_row_fn(const struct dc_run_args *args, ptrdiff_t first, ptrdiff_t count,
                         bool twice);
#define DIRECT_TILE(P, NV)                                                                         \
    static void direct_tile_##P##_##NV(const struct dc_run_args *args, ptrdiff_t first,            \
                                       ptrdiff_t count, bool twice)                                \
    {                                                                                              \
        const ptrdiff_t s = args->src_pixel * (ptrdiff_t)sizeof(float), s3 = 3 * s, s5 = 5 * s;    \
        uintptr_t soon = (uintptr_t)args->soon, soon_step = 64;                                    \
        const uintptr_t soon_end = soon + (uintptr_t)args->soon_floats * sizeof(float);            \
        for (; count > 0; count--, first += (P)) {                                                 \
            const float *const src = args->src + first * args->src_pixel;                          \
            DIRECT_FETCH_START(P)                                                                  \
            TILE_START(P, NV)                                                                      \
            const struct dc_segment *segment = args->segments;                                     \
            for (ptrdiff_t left = args->segment_count; left > 0; left--, segment++) {              \
                const float *w = args->weights + segment->weight_offset;                           \
                const float *r0 = src + segment->src_offset,                                       \
                            *r7 = (P) > 7 ? r0 + 7 * args->src_pixel : r0;                         \
                ptrdiff_t j = segment->length;                                                     \
                DIRECT_FETCH_INPUTS(P)                                                             \
                if (__builtin_expect(j % 4 != 0, 0)) {                                             \
                    do {                                                                           \
                        DIRECT_STEP(P, NV, 0)                                                      \
                    } while (--j % 4 != 0);                                                        \
                }                                                                                  \
                if (MAY_FETCH_TWICE(P) && twice) {                                                 \
                    for (; j != 0; j -= 4) {                                                       \
                        DIRECT_FOUR_STEPS(P, NV)                                                   \
                        DIRECT_FETCH_MORE                                                          \
                    }                                                                              \
                }                                                                                  \
                for (; j != 0; j -= 4) {                                                           \
                    DIRECT_FOUR_STEPS(P, NV)                                                       \
                }                                                                                  \
                (void)r7, (void)s3, (void)s5;                                                      \
            }                                                                                      \
            TILE_FINISH(P, NV)                                                                     \
        }                                                                                          \
    }

/*
 * Cuts lines into tiles of nearly equal size: 33 pixels are 11 + 11 + 11 rather than 14 + 14 + 5,
 * whose last would wait for its FMAs.
 */
static inline void run_direct_tiles(const struct dc_run_args *args,
                                    tile_row_fn *const table[TILE_VECTORS][TILE_PIXELS])
{
    struct dc_run_args line = *args;
    const ptrdiff_t lanes = args->partial_out != 0 ? args->channels : args->stored;
    tile_row_fn *const *row = table[(lanes + V_LENGTH - 1) / V_LENGTH - 1];
    const ptrdiff_t tiles = (args->pixels + TILE_PIXELS - 1) / TILE_PIXELS;
    const ptrdiff_t size = args->pixels / tiles, larger = args->pixels % tiles;
    const bool twice = tiles * args->lines == 1 && MAY_FETCH_TWICE(args->pixels);
    /* Each tile fetches a part of the weights that follow, until there are no more. */
    ptrdiff_t part = 0;
    for (ptrdiff_t i = 0; i < args->segment_count && args->soon_floats != 0; i++) {
        part += args->segments[i].length / STEPS_PER_FETCH * (twice ? 32 : 16);
    }
    for (ptrdiff_t left = args->lines;; left--) {
        line.src_next =
            (uintptr_t)line.src + (left > 1 ? (uintptr_t)args->src_line * sizeof(float) : 0);
        if (larger != 0) {
            row[size](&line, 0, larger, twice);
            const ptrdiff_t done =
                part * larger < line.soon_floats ? part * larger : line.soon_floats;
            line.soon += done, line.soon_floats -= done;
        }
        row[size - 1](&line, larger * (size + 1), tiles - larger, twice);
        if (left == 1) {
            break; /* no pointer is formed past the last line */
        }
        const ptrdiff_t done =
            part * (tiles - larger) < line.soon_floats ? part * (tiles - larger) : line.soon_floats;
        line.soon += done, line.soon_floats -= done;
        line.src += line.src_line;
        line.dst += line.dst != 0 ? line.dst_line : 0;
        line.residual += line.residual != 0 ? line.dst_line : 0;
        line.partial_in += line.partial_in != 0 ? line.pixels * TILE_CHANNELS : 0;
        line.partial_out += line.partial_out != 0 ? line.pixels * TILE_CHANNELS : 0;
    }
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
