/* SPDX-License-Identifier: MIT */
/*
 * The transform of filters in double precision, rounded once, for weights that are packed
 * (struct dc_winograd_filter_args). Each ISA computes the same: plans with the same order of sums
 * have the same weights, to the bit. Included by body_winograd.h alone.
 */
#ifndef DOCONV_BODY_WINOGRAD_PACK_H
#define DOCONV_BODY_WINOGRAD_PACK_H

#include <stdbool.h>

#include "kernel.h"

/*
 * Pairs of points p, -p by the first one's row of G. The last row, of infinity, stands alone, and
 * so does the first where there is a point 0.
 */
#if WINOGRAD_POINTS == 4
#define EACH_ROW_PAIR(X) X(1)
#elif WINOGRAD_POINTS == 6
#define EACH_ROW_PAIR(X) X(1) X(3)
#elif WINOGRAD_POINTS == 8
#define EACH_ROW_PAIR(X) X(1) X(3) X(5)
#else
#define EACH_ROW_PAIR(X) X(0) X(2) X(4) X(6)
#endif
/*
 * Taps whose factors are the same in both rows of a pair, but for the first of them, and those of
 * opposite signs: even and odd ones. Where there is no point 0, the second row's scale is the
 * first's with the other sign, and it is the other way round.
 */
#if WINOGRAD_TAPS == 3
#define FIRST_SAME_TAP 0
#define LATER_SAME_TAPS(X) X(2)
#define OPPOSITE_TAPS(X) X(1)
#elif WINOGRAD_TAPS == 5
#define FIRST_SAME_TAP 0
#define LATER_SAME_TAPS(X) X(2) X(4)
#define OPPOSITE_TAPS(X) X(1) X(3)
#else
#define FIRST_SAME_TAP 1
#define LATER_SAME_TAPS(X) X(3) X(5)
#define OPPOSITE_TAPS(X) X(0) X(2) X(4) X(6)
#endif

/* r = G f */
static inline __attribute__((always_inline)) void exact_line(const vecd f[WINOGRAD_TAPS],
                                                             vecd r[WINOGRAD_POINTS])
{
#define G(p, k) d_set1(winograd_filter[(p)*WINOGRAD_TAPS + (k)])
    if (WINOGRAD_POINTS % 2 == 0) {
        r[0] = d_mul(G(0, 0), f[0]);
    }
#define PAIR(p)                                                                                    \
    {                                                                                              \
        enum { pair = p };                                                                         \
        vecd same = d_mul(G(pair, FIRST_SAME_TAP), f[FIRST_SAME_TAP]);                             \
        LATER_SAME_TAPS(SAME)                                                                      \
        vecd first = same, second = same;                                                          \
        OPPOSITE_TAPS(OPPOSITE)                                                                    \
        r[p] = first;                                                                              \
        r[(p) + 1] = second;                                                                       \
    }
#define SAME(k) same = d_fma(G(pair, k), f[k], same);
#define OPPOSITE(k)                                                                                \
    first = d_fma(G(pair, k), f[k], first);                                                        \
    second = d_fnma(G(pair, k), f[k], second);
    EACH_ROW_PAIR(PAIR)
#undef OPPOSITE
#undef SAME
#undef PAIR
    r[WINOGRAD_POINTS - 1] = d_mul(G(WINOGRAD_POINTS - 1, WINOGRAD_TAPS - 1), f[WINOGRAD_TAPS - 1]);
#undef G
}

/* Floats that are transformed together: what waits between the axes stays in L1. */
#define PACK_FLOATS 64

/* A line's points, rounded, `step` apart. */
static inline __attribute__((always_inline)) void put_line(const vecd r[WINOGRAD_POINTS], float *to,
                                                           ptrdiff_t step)
{
#define PUT(j) d_store(to + (j)*step, r[j]);
    EACH_POINT(PUT)
#undef PUT
}

/* A line's points to where they belong; stream, a literal: past the caches. */
static inline __attribute__((always_inline)) void
move_line(const float *line, ptrdiff_t floats, float *points, ptrdiff_t point, bool stream)
{
    for (int j = 0; j < WINOGRAD_POINTS; j++) {
        for (ptrdiff_t at = 0; at < floats; at += V_LENGTH) {
            const vec v = v_load(line + j * PACK_FLOATS + at);
            if (stream) {
                v_stream(points + j * point + at, v);
            } else {
                v_store(points + j * point + at, v);
            }
        }
    }
}

/* A line of points of `floats` filters: f has the taps of a vector of them, then of the next. */
static inline void pack_line(const vecd *f, ptrdiff_t floats, float *points, ptrdiff_t point,
                             bool stream)
{
    /*
     * Points lie a power of two apart for most layers, and share a few sets of the cache: eight
     * streams would push each other out before a line of the cache is full. And what goes past the
     * caches has to go by full lines of them.
     */
    const bool through = stream || WINOGRAD_POINTS >= 8;
    float line[WINOGRAD_POINTS * PACK_FLOATS] __attribute__((aligned(64)));
    float *const to = through ? line : points;
    const ptrdiff_t step = through ? PACK_FLOATS : point;
    for (ptrdiff_t at = 0; at < floats; at += D_LENGTH) {
        vecd r[WINOGRAD_POINTS];
        exact_line(f + at / D_LENGTH * WINOGRAD_TAPS, r);
        put_line(r, to + at, step);
    }
    if (stream) {
        move_line(line, floats, points, point, true);
    } else if (through) {
        move_line(line, floats, points, point, false);
    }
}

/* At most PACK_FLOATS of them. */
static inline void pack_floats(const float *src, ptrdiff_t tap, ptrdiff_t floats, float *points,
                               ptrdiff_t point, bool stream)
{
#if WINOGRAD_AXES == 2
    /* Columns of all first: a row's points are few streams at a time. */
    vecd rows[WINOGRAD_POINTS][PACK_FLOATS / D_LENGTH][WINOGRAD_TAPS];
    for (ptrdiff_t v = 0; v < floats / D_LENGTH; v++) {
        for (int x = 0; x < WINOGRAD_TAPS; x++) {
            const float *const at = src + v * D_LENGTH + x * tap;
            vecd f[WINOGRAD_TAPS], r[WINOGRAD_POINTS];
#define GET(y) f[y] = d_load(at + (y)*WINOGRAD_TAPS * tap);
            EACH_TAP(GET)
#undef GET
            exact_line(f, r);
#define PUT(i) rows[i][v][x] = r[i];
            EACH_POINT(PUT)
#undef PUT
        }
    }
    for (int i = 0; i < WINOGRAD_POINTS; i++) {
        pack_line(rows[i][0], floats, points + i * WINOGRAD_POINTS * point, point, stream);
    }
#else
    vecd row[PACK_FLOATS / D_LENGTH][WINOGRAD_TAPS];
    for (ptrdiff_t v = 0; v < floats / D_LENGTH; v++) {
#define GET(x) row[v][x] = d_load(src + v * D_LENGTH + (x)*tap);
        EACH_TAP(GET)
#undef GET
    }
    pack_line(row[0], floats, points, point, stream);
#endif
}

static void winograd_pack_filters(const struct dc_winograd_filter_args *a)
{
    for (ptrdiff_t at = 0; at < a->floats; at += PACK_FLOATS) {
        const ptrdiff_t left = a->floats - at;
        pack_floats(a->src + at, a->src_tap, left < PACK_FLOATS ? left : PACK_FLOATS,
                    a->points + at, a->point, a->stream != 0);
    }
    if (a->stream) {
        v_stream_end();
    }
}

#endif
