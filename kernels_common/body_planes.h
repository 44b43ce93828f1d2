/* SPDX-License-Identifier: MIT */
/*
 * The planes tile: vectors of pixels that are contiguous in memory, each multiplied with
 * TILE_OUTPUTS broadcast weights. The direct tile with its roles swapped: what NCHW needs to be
 * read and written without a transposition. The including file defines the vector operations,
 * TILE_OUTPUTS and TILE_VECTORS, then lists its tile functions (see any planes_f32_*.c).
 *
 * Accumulators are scalars with names (a0_0, a0_1, ...), not an array: compilers keep arrays of
 * more than about 12 vectors in memory.
 */
#ifndef DOCONV_BODY_PLANES_H
#define DOCONV_BODY_PLANES_H

#include <stdbool.h>

#include "kernel.h"

#define TILE_PIXELS (TILE_VECTORS * V_LENGTH)

/*
 * OUTPUTS_n(L, X): L(X, o) for each output channel o; with L = ACROSS_m: X(o, v) for each
 * accumulator.
 */
#define OUTPUTS_1(L, X) L(X, 0)
#define OUTPUTS_2(L, X) OUTPUTS_1(L, X) L(X, 1)
#define OUTPUTS_3(L, X) OUTPUTS_2(L, X) L(X, 2)
#define OUTPUTS_4(L, X) OUTPUTS_3(L, X) L(X, 3)
#define OUTPUTS_5(L, X) OUTPUTS_4(L, X) L(X, 4)
#define OUTPUTS_6(L, X) OUTPUTS_5(L, X) L(X, 5)
#define OUTPUTS_7(L, X) OUTPUTS_6(L, X) L(X, 6)
#define OUTPUTS_8(L, X) OUTPUTS_7(L, X) L(X, 7)
#define OUTPUTS_9(L, X) OUTPUTS_8(L, X) L(X, 8)
#define OUTPUTS_10(L, X) OUTPUTS_9(L, X) L(X, 9)
#define OUTPUTS_11(L, X) OUTPUTS_10(L, X) L(X, 10)
#define OUTPUTS_12(L, X) OUTPUTS_11(L, X) L(X, 11)
#define OUTPUTS_13(L, X) OUTPUTS_12(L, X) L(X, 12)
#define OUTPUTS_14(L, X) OUTPUTS_13(L, X) L(X, 13)
#define ACROSS_1(X, o) X(o, 0)
#define ACROSS_2(X, o) ACROSS_1(X, o) X(o, 1)
#define ACROSS_3(X, o) ACROSS_2(X, o) X(o, 2)
#define ACROSS_4(X, o) ACROSS_3(X, o) X(o, 3)

/* The sums of a tile, [outputs][vectors * V_LENGTH], whose pixels end inside its last vector. */
static __attribute__((noinline)) void finish_planes_tail(const struct dc_planes_args *args,
                                                         const float *sums, ptrdiff_t first,
                                                         int outputs, int vectors)
{
    const vec lo = v_set1(args->lo), hi = v_set1(args->hi);
    for (int o = 0; o < outputs; o++) {
        for (int v = 0; v < vectors; v++) {
            const ptrdiff_t pixel = first + (ptrdiff_t)v * V_LENGTH,
                            at = o * args->dst_channel + pixel;
            const int valid =
                (int)(args->pixels - pixel < V_LENGTH ? args->pixels - pixel : V_LENGTH);
            vec sum = v_load(sums + ((ptrdiff_t)o * vectors + v) * V_LENGTH);
            if (args->residual != 0) {
                sum = v_add(sum, v_load_first(args->residual + at, valid));
            }
            v_store_first(args->dst + at, v_clamp(sum, lo, hi), valid);
        }
    }
}

typedef void planes_fn(const struct dc_planes_args *args, const float *x, ptrdiff_t first,
                       ptrdiff_t ahead);

static inline void run_planes(const struct dc_planes_args *args,
                              planes_fn *const table[TILE_VECTORS][TILE_OUTPUTS])
{
    const float *x = args->src;
    for (ptrdiff_t first = 0; first < args->pixels; first += TILE_PIXELS) {
        const ptrdiff_t left = args->pixels - first;
        const ptrdiff_t vectors =
            left < TILE_PIXELS ? (left + V_LENGTH - 1) / V_LENGTH : TILE_VECTORS;
        /* no pointer is formed past the last tile */
        const ptrdiff_t next = left > TILE_PIXELS ? args->src_tile : 0;
        table[vectors - 1][args->outputs - 1](args, x, first, args->fetch_next ? next : 0);
        x += next;
    }
}

#define PLANES_DECLARE(o, v) vec a##o##_##v = v_set1(args->bias[o]);
#define PLANES_PIXELS(o, v) const vec x##v = v_load(x + (v)*V_LENGTH);
/*
 * One prefetch a cache line of the next tile's pixels: planes are too far apart for the hardware to
 * guess them.
 */
#define PLANES_PREFETCH(o, v)                                                                      \
    if ((v)*V_LENGTH % 16 == 0) {                                                                  \
        __builtin_prefetch(x + ahead + (v)*V_LENGTH, 0, 2);                                        \
    }
#ifndef PLANES_ROW /* else the including file multiplies in its own way */
#define PLANES_WEIGHTS
#define PLANES_FMA(o, v) a##o##_##v = v_accumulate(weight, x##v, a##o##_##v);
#define PLANES_ROW(L, o)                                                                           \
    {                                                                                              \
        const vec weight = v_set1(w[o]);                                                           \
        L(PLANES_FMA, o)                                                                           \
    }
#endif
#define PLANES_STEP(O, NV)                                                                         \
    {                                                                                              \
        ACROSS_##NV(PLANES_PIXELS, 0) ACROSS_##NV(PLANES_PREFETCH, 0)                              \
            PLANES_WEIGHTS OUTPUTS_##O(PLANES_ROW, ACROSS_##NV) w += TILE_OUTPUTS;                 \
        x += plane;                                                                                \
    }
#define PLANES_ADD(o, v)                                                                           \
    a##o##_##v = v_add(a##o##_##v, v_load(args->residual + first + (o)*channel + (v)*V_LENGTH));
#define PLANES_STORE(o, v)                                                                         \
    v_store(args->dst + first + (o)*channel + (v)*V_LENGTH, v_clamp(a##o##_##v, lo, hi));
#define PLANES_SPILL(o, v) v_store(sums + ((o)*SPILL_VECTORS + (v)) * V_LENGTH, a##o##_##v);

/* x: the tile's first pixel in the first channel. */
#define PLANES_TILE(O, NV)                                                                         \
    static void planes_tile_##O##_##NV(const struct dc_planes_args *args, const float *x,          \
                                       ptrdiff_t first, ptrdiff_t ahead)                           \
    {                                                                                              \
        OUTPUTS_##O(ACROSS_##NV, PLANES_DECLARE) const ptrdiff_t plane = args->src_channel;        \
        const float *w = args->weights;                                                            \
        ptrdiff_t j = args->channels;                                                              \
        for (; j >= 4; j -= 4) {                                                                   \
            PLANES_STEP(O, NV)                                                                     \
            PLANES_STEP(O, NV)                                                                     \
            PLANES_STEP(O, NV)                                                                     \
            PLANES_STEP(O, NV)                                                                     \
        }                                                                                          \
        for (; j > 0; j--) {                                                                       \
            PLANES_STEP(O, NV)                                                                     \
        }                                                                                          \
        if (args->pixels - first >= (NV)*V_LENGTH) {                                               \
            const ptrdiff_t channel = args->dst_channel;                                           \
            const vec lo = v_set1(args->lo), hi = v_set1(args->hi);                                \
            if (args->residual != 0) {                                                             \
                OUTPUTS_##O(ACROSS_##NV, PLANES_ADD)                                               \
            }                                                                                      \
            OUTPUTS_##O(ACROSS_##NV, PLANES_STORE)                                                 \
        } else {                                                                                   \
            enum { SPILL_VECTORS = (NV) };                                                         \
            float sums[(O) * (NV)*V_LENGTH];                                                       \
            OUTPUTS_##O(ACROSS_##NV, PLANES_SPILL)                                                 \
                finish_planes_tail(args, sums, first, (O), (NV));                                  \
        }                                                                                          \
    }

/* All tile functions of 1..n output channels, and the row of the table that holds them. */
#define PLANES_TILES_1(NV) PLANES_TILE(1, NV)
#define PLANES_TILES_2(NV) PLANES_TILES_1(NV) PLANES_TILE(2, NV)
#define PLANES_TILES_3(NV) PLANES_TILES_2(NV) PLANES_TILE(3, NV)
#define PLANES_TILES_4(NV) PLANES_TILES_3(NV) PLANES_TILE(4, NV)
#define PLANES_TILES_5(NV) PLANES_TILES_4(NV) PLANES_TILE(5, NV)
#define PLANES_TILES_6(NV) PLANES_TILES_5(NV) PLANES_TILE(6, NV)
#define PLANES_TILES_7(NV) PLANES_TILES_6(NV) PLANES_TILE(7, NV)
#define PLANES_TILES_8(NV) PLANES_TILES_7(NV) PLANES_TILE(8, NV)
#define PLANES_TILES_9(NV) PLANES_TILES_8(NV) PLANES_TILE(9, NV)
#define PLANES_TILES_10(NV) PLANES_TILES_9(NV) PLANES_TILE(10, NV)
#define PLANES_TILES_11(NV) PLANES_TILES_10(NV) PLANES_TILE(11, NV)
#define PLANES_TILES_12(NV) PLANES_TILES_11(NV) PLANES_TILE(12, NV)
#define PLANES_TILES_13(NV) PLANES_TILES_12(NV) PLANES_TILE(13, NV)
#define PLANES_TILES_14(NV) PLANES_TILES_13(NV) PLANES_TILE(14, NV)
#define PLANES_NAMES_1(NV) planes_tile_1_##NV
#define PLANES_NAMES_2(NV) PLANES_NAMES_1(NV), planes_tile_2_##NV
#define PLANES_NAMES_3(NV) PLANES_NAMES_2(NV), planes_tile_3_##NV
#define PLANES_NAMES_4(NV) PLANES_NAMES_3(NV), planes_tile_4_##NV
#define PLANES_NAMES_5(NV) PLANES_NAMES_4(NV), planes_tile_5_##NV
#define PLANES_NAMES_6(NV) PLANES_NAMES_5(NV), planes_tile_6_##NV
#define PLANES_NAMES_7(NV) PLANES_NAMES_6(NV), planes_tile_7_##NV
#define PLANES_NAMES_8(NV) PLANES_NAMES_7(NV), planes_tile_8_##NV
#define PLANES_NAMES_9(NV) PLANES_NAMES_8(NV), planes_tile_9_##NV
#define PLANES_NAMES_10(NV) PLANES_NAMES_9(NV), planes_tile_10_##NV
#define PLANES_NAMES_11(NV) PLANES_NAMES_10(NV), planes_tile_11_##NV
#define PLANES_NAMES_12(NV) PLANES_NAMES_11(NV), planes_tile_12_##NV
#define PLANES_NAMES_13(NV) PLANES_NAMES_12(NV), planes_tile_13_##NV
#define PLANES_NAMES_14(NV) PLANES_NAMES_13(NV), planes_tile_14_##NV

/* ---- panels ---- */

/*
 * Every step-th of `count` pixels from src on; src[(count - 1) * step] is the last that may be
 * read. to may be written to the end of its last vector.
 */
static inline void gather_pixels(float *to, const float *src, ptrdiff_t step, ptrdiff_t count)
{
    ptrdiff_t x = 0;
    if (step == 1) {
        for (; x + V_LENGTH <= count; x += V_LENGTH) {
            v_store(to + x, v_load(src + x));
        }
        if (x < count) {
            v_store(to + x, v_load_first(src + x, (int)(count - x)));
        }
    } else if (step == 2) {
        for (; x < count; x += V_LENGTH) {
            v_store(to + x,
                    v_load_even(src + 2 * x, (int)(count - x < V_LENGTH ? count - x : V_LENGTH)));
        }
    } else {
        for (; x < count; x++) {
            to[x] = src[x * step];
        }
    }
}

/* The panel's row of a channel from a line of pixels. */
static inline void put_line(const struct dc_gather_args *a, ptrdiff_t c, const float *line)
{
    float *to = a->panel + c * TILE_PIXELS;
    ptrdiff_t p = 0;
    for (; p + TILE_PIXELS <= a->pixels; p += TILE_PIXELS, to += a->panel_tile) {
        for (ptrdiff_t v = 0; v < TILE_VECTORS; v++) {
            v_store(to + v * V_LENGTH, v_load(line + p + v * V_LENGTH));
        }
    }
    for (; p < a->pixels; p += V_LENGTH, to += V_LENGTH) {
        const ptrdiff_t left = a->pixels - p;
        v_store(to, left >= V_LENGTH ? v_load(line + p) : v_load_first(line + p, (int)left));
    }
}

/*
 * A channel at a time. Its rows are put one after another in `line` first, unless they follow each
 * other in src.
 */
static void gather_panel(const struct dc_gather_args *a)
{
    const bool whole = a->step == 1 && a->src_row == a->columns;
    enum { AHEAD = 2 };
    for (ptrdiff_t c = 0; c < a->channels; c++) {
        const float *plane = a->src + c * a->src_channel;
        if (whole) {
            put_line(a, c, plane + a->first);
            continue;
        }
        /*
         * Rows apart are no pattern that the hardware follows: the same rows of a later channel are
         * fetched meanwhile.
         */
        const ptrdiff_t ahead = c + AHEAD < a->channels ? AHEAD * a->src_channel : 0;
        ptrdiff_t y = a->first / a->columns, x = a->first % a->columns;
        for (ptrdiff_t done = 0; done < a->pixels; y++) {
            const ptrdiff_t left = a->pixels - done,
                            count = a->columns - x < left ? a->columns - x : left;
            const float *from = plane + y * a->src_row + x * a->step;
            for (ptrdiff_t i = 0; i < count * a->step; i += 16) {
                __builtin_prefetch(from + ahead + i);
            }
            gather_pixels(a->line + done, from, a->step, count);
            done += count;
            x = 0;
        }
        put_line(a, c, a->line);
    }
}

#endif
