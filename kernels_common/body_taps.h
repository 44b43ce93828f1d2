/* SPDX-License-Identifier: MIT */
/*
 * What a depthwise convolution with several outputs a channel hands back, a tap at a time (struct
 * dc_taps_args): lanes are channels, and each pixel of src or of its gradient meets up to
 * TAPS_STEPS vectors of the outputs' gradient. And where each input is read once, up to so many
 * taps at a time (struct dc_spread_args). The including file has defined the vector operations.
 */
#ifndef DOCONV_BODY_TAPS_H
#define DOCONV_BODY_TAPS_H

#include "kernel.h"

/* Steps, or taps, of a tile: their sums, or their factors, stay in registers. */
#define TAPS_STEPS 10

#define STEPS_1(X) X(0)
#define STEPS_2(X) STEPS_1(X) X(1)
#define STEPS_3(X) STEPS_2(X) X(2)
#define STEPS_4(X) STEPS_3(X) X(3)
#define STEPS_5(X) STEPS_4(X) X(4)
#define STEPS_6(X) STEPS_5(X) X(5)
#define STEPS_7(X) STEPS_6(X) X(6)
#define STEPS_8(X) STEPS_7(X) X(7)
#define STEPS_9(X) STEPS_8(X) X(8)
#define STEPS_10(X) STEPS_9(X) X(9)

#define TAPS_POINTER(q) const float *const z##q = args->z + args->steps_at[first + (q)];
#define TAPS_FACTOR(q) vec f##q = v_load(args->factors + (first + (q)) * args->factors_step);
#define TAPS_CORRELATE(q) f##q = v_accumulate_from(x, z##q + at, f##q);
#define TAPS_SCATTER(q) x = v_accumulate_from(f##q, z##q + at, x);
#define TAPS_KEEP(q) v_store(args->factors + (first + (q)) * args->factors_step, f##q);

#define TAPS_LOOP(BODY)                                                                            \
    for (ptrdiff_t row = 0; row < args->rows; row++) {                                             \
        ptrdiff_t at = row * args->z_row;                                                          \
        float *p = args->x + row * args->x_row;                                                    \
        for (ptrdiff_t left = args->pixels;; left--) {                                             \
            vec x = v_load(p);                                                                     \
            BODY if (left == 1)                                                                    \
            {                                                                                      \
                break; /* no pointer is formed past the row's end */                               \
            }                                                                                      \
            p += args->x_pixel;                                                                    \
            at += args->z_pixel;                                                                   \
        }                                                                                          \
    }

typedef void taps_fn(const struct dc_taps_args *args, ptrdiff_t first);
#define TAPS_TILE(Q)                                                                               \
    static void taps_correlate_##Q(const struct dc_taps_args *args, ptrdiff_t first)               \
    {                                                                                              \
        STEPS_##Q(TAPS_POINTER) STEPS_##Q(TAPS_FACTOR) TAPS_LOOP(STEPS_##Q(TAPS_CORRELATE))        \
            STEPS_##Q(TAPS_KEEP)                                                                   \
    }                                                                                              \
    static void taps_scatter_##Q(const struct dc_taps_args *args, ptrdiff_t first)                 \
    {                                                                                              \
        STEPS_##Q(TAPS_POINTER) STEPS_##Q(TAPS_FACTOR)                                             \
            TAPS_LOOP(STEPS_##Q(TAPS_SCATTER) v_store(p, x);)                                      \
    }
TAPS_TILE(1)
TAPS_TILE(2)
TAPS_TILE(3)
TAPS_TILE(4)
TAPS_TILE(5)
TAPS_TILE(6)
TAPS_TILE(7)
TAPS_TILE(8)
TAPS_TILE(9)
TAPS_TILE(10)

#define SPREAD_POINTER(q) float *const x##q = args->x + args->taps_at[first + (q)];
#define SPREAD_FACTOR(q)                                                                           \
    const vec f##q = v_load(args->factors + (first + (q)) * args->factors_step);
#define SPREAD_STORE(q) v_store(x##q + to, v_mul(f##q, z));

typedef void spread_fn(const struct dc_spread_args *args, ptrdiff_t first);
#define SPREAD_TILE(Q)                                                                             \
    static void taps_spread_##Q(const struct dc_spread_args *args, ptrdiff_t first)                \
    {                                                                                              \
        STEPS_##Q(SPREAD_POINTER)                                                                  \
            STEPS_##Q(SPREAD_FACTOR) for (ptrdiff_t row = 0; row < args->rows; row++)              \
        {                                                                                          \
            const float *from = args->z + row * args->z_row;                                       \
            ptrdiff_t to = row * args->x_row;                                                      \
            for (ptrdiff_t left = args->pixels;; left--) {                                         \
                const vec z = v_load(from);                                                        \
                STEPS_##Q(SPREAD_STORE) if (left == 1)                                             \
                {                                                                                  \
                    break; /* no pointer is formed past the row's end */                           \
                }                                                                                  \
                from += args->z_pixel;                                                             \
                to += args->x_pixel;                                                               \
            }                                                                                      \
        }                                                                                          \
    }
SPREAD_TILE(1)
SPREAD_TILE(2)
SPREAD_TILE(3)
SPREAD_TILE(4)
SPREAD_TILE(5)
SPREAD_TILE(6)
SPREAD_TILE(7)
SPREAD_TILE(8)
SPREAD_TILE(9)
SPREAD_TILE(10)

#define TAPS_NAMES(name)                                                                           \
    name##1, name##2, name##3, name##4, name##5, name##6, name##7, name##8, name##9, name##10

/* Steps in tiles of nearly equal size. */
static inline void run_taps(const struct dc_taps_args *args, taps_fn *const table[TAPS_STEPS])
{
    const ptrdiff_t tiles = (args->steps + TAPS_STEPS - 1) / TAPS_STEPS;
    for (ptrdiff_t tile = 0; tile < tiles; tile++) {
        const ptrdiff_t first = args->steps * tile / tiles, end = args->steps * (tile + 1) / tiles;
        table[end - first - 1](args, first);
    }
}

static void taps_correlate(const struct dc_taps_args *args)
{
    static taps_fn *const table[TAPS_STEPS] = {TAPS_NAMES(taps_correlate_)};
    run_taps(args, table);
}

static void taps_scatter(const struct dc_taps_args *args)
{
    static taps_fn *const table[TAPS_STEPS] = {TAPS_NAMES(taps_scatter_)};
    run_taps(args, table);
}

static void taps_spread(const struct dc_spread_args *args)
{
    static spread_fn *const table[TAPS_STEPS] = {TAPS_NAMES(taps_spread_)};
    const ptrdiff_t tiles = (args->taps + TAPS_STEPS - 1) / TAPS_STEPS;
    for (ptrdiff_t tile = 0; tile < tiles; tile++) {
        const ptrdiff_t first = args->taps * tile / tiles, end = args->taps * (tile + 1) / tiles;
        table[end - first - 1](args, first);
    }
}

#endif
