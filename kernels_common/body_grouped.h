/* SPDX-License-Identifier: MIT */
/*
 * Convolutions of few input channels an output: depthwise (one) and narrow groups. A vector of
 * output channels is summed for up to 14 neighbouring pixels; the inputs come as vectors too, in
 * place (depthwise) or with their lanes dealt out to the groups that need them (a permutation a
 * channel). Inputs outside the image are loaded as zeros by a mask, or not at all (rows), so no
 * copy with borders is needed.
 *
 * The including file defines the vector operations, TILE_PIXELS, PERMUTES and SLIDES (0 or 1 each;
 * a kernel that permutes slides), then lists GROUPED_TILES_n and the tables (see any
 * depthwise_f32_*.c).
 */
#ifndef DOCONV_BODY_GROUPED_H
#define DOCONV_BODY_GROUPED_H

#include <math.h>
#include <stdbool.h>

#include "kernel.h"

/* X(p, P, E) for each pixel p of P. */
#define EACH_1(X, P, E) X(0, P, E)
#define EACH_2(X, P, E) EACH_1(X, P, E) X(1, P, E)
#define EACH_3(X, P, E) EACH_2(X, P, E) X(2, P, E)
#define EACH_4(X, P, E) EACH_3(X, P, E) X(3, P, E)
#define EACH_5(X, P, E) EACH_4(X, P, E) X(4, P, E)
#define EACH_6(X, P, E) EACH_5(X, P, E) X(5, P, E)
#define EACH_7(X, P, E) EACH_6(X, P, E) X(6, P, E)
#define EACH_8(X, P, E) EACH_7(X, P, E) X(7, P, E)
#define EACH_9(X, P, E) EACH_8(X, P, E) X(8, P, E)
#define EACH_10(X, P, E) EACH_9(X, P, E) X(9, P, E)
#define EACH_11(X, P, E) EACH_10(X, P, E) X(10, P, E)
#define EACH_12(X, P, E) EACH_11(X, P, E) X(11, P, E)
#define EACH_13(X, P, E) EACH_12(X, P, E) X(12, P, E)
#define EACH_14(X, P, E) EACH_13(X, P, E) X(13, P, E)

/* What a tile of a row needs to know of its place. */
struct place {
    /*
     * address of the first pixel's first tap in the first row inside: an integer, for it may lie
     * where only masked loads go
     */
    uintptr_t x;
    ptrdiff_t row0, rows;        /* kernel rows [row0, row0 + rows) lie inside */
    ptrdiff_t column;            /* x's input column, may be negative */
    const float *weights, *bias; /* of the vector of outputs */
    float *dst;
    const float *residual; /* or NULL */
};

/* The kernel rows that lie inside the image, if the first one lies at row `top`. */
static inline void meet_rows(const struct dc_grouped_args *args, ptrdiff_t top, struct place *at)
{
    ptrdiff_t row0 = top < 0 ? -top : 0, row1 = args->h - top;
    if (args->dilation_h != 1) {
        row0 = (row0 + args->dilation_h - 1) / args->dilation_h;
        row1 = row1 <= 0 ? 0 : (row1 + args->dilation_h - 1) / args->dilation_h;
    }
    at->row0 = row0;
    at->rows = (row1 < args->kh ? row1 : args->kh) - row0;
}

/* `count` vectors on, of the same pixels; back, where it is negative. */
static inline void move_vectors(const struct dc_grouped_args *args, ptrdiff_t count,
                                struct place *at)
{
    at->x += (uintptr_t)(count * args->src_vector * (ptrdiff_t)sizeof(float));
    at->weights += count * args->weights_vector;
    at->bias += count * V_LENGTH;
    at->dst += count * args->dst_vector;
    at->residual += at->residual != 0 ? count * args->dst_vector : 0;
}

/*
 * Sums [pixels][V_LENGTH] whose channels end inside the vector or are followed by zeros to write.
 */
static __attribute__((noinline)) void finish_grouped_tail(const struct dc_grouped_args *args,
                                                          float *dst, const float *residual,
                                                          const float *sums, int pixels)
{
    const vec lo = v_set1(args->lo), hi = v_set1(args->hi);
    for (int p = 0; p < pixels; p++) {
        vec sum = v_load(sums + (ptrdiff_t)p * V_LENGTH);
        if (residual != 0) {
            sum = v_add(sum, v_load_first(residual + p * args->dst_pixel, (int)args->channels));
        }
        v_store_first(dst + p * args->dst_pixel,
                      v_keep_first(v_clamp(sum, lo, hi), (int)args->channels), (int)args->stored);
    }
}

#if PERMUTES
#define EACH_PLANE for (ptrdiff_t i = 0; i < args->planes; i++)
#define GROUPED_INDEX(i) const v_lanes lanes = v_load_lanes(args->lanes + (i)*V_LENGTH);
#define GROUPED_LOAD(p) v_permute_from(p, lanes)
#define GROUPED_LOAD_IF(p, on) v_permute(v_load_if(p, on), lanes)
#else
#define EACH_PLANE
#define GROUPED_INDEX(i)
#define GROUPED_LOAD(p) v_load(p)
#define GROUPED_LOAD_IF(p, on) v_load_if(p, on)
#endif

/*
 * For each kernel row inside the image and each channel of a group: T taps at once. What
 * neighbouring pixels share is loaded once. Each output takes its taps in the same order in every
 * tile.
 */
#define GROUPED_ROWS(T, kx, BODY)                                                                  \
    {                                                                                              \
        const float *w = at.weights + ((kx)*args->kh + at.row0 * (T)) * planes * V_LENGTH;         \
        const ptrdiff_t column = at.column + (kx);                                                 \
        uintptr_t x = at.x + (uintptr_t)((kx)*pixel);                                              \
        for (ptrdiff_t row = at.rows; row > 0; row--) {                                            \
            EACH_PLANE                                                                             \
            {                                                                                      \
                GROUPED_INDEX(i)                                                                   \
                BODY w += (T)*V_LENGTH;                                                            \
            }                                                                                      \
            x += (uintptr_t)row_bytes;                                                             \
        }                                                                                          \
    }

/*
 * Keeps the compiler from computing all pixels' addresses beforehand: it would have to keep them on
 * the stack.
 */
#define OPAQUE(pointer) __asm__("" : "+r"(pointer))

/*
 * Pixels u bytes apart from x on: a pointer for every third one, as 14 would not fit the general
 * registers.
 */
#define PIXEL_POINTERS(x)                                                                          \
    uintptr_t r0 = (x);                                                                            \
    OPAQUE(r0);                                                                                    \
    uintptr_t r3 = r0 + 3 * u;                                                                     \
    OPAQUE(r3);                                                                                    \
    uintptr_t r6 = r3 + 3 * u;                                                                     \
    OPAQUE(r6);                                                                                    \
    uintptr_t r9 = r6 + 3 * u;                                                                     \
    OPAQUE(r9);                                                                                    \
    uintptr_t r12 = r9 + 3 * u;                                                                    \
    OPAQUE(r12);
#define UNUSED_POINTERS (void)r3, (void)r6, (void)r9, (void)r12;
#define R0 r0
#define R1 (r0 + u)
#define R2 (r0 + 2 * u)
#define R3 r3
#define R4 (r3 + u)
#define R5 (r3 + 2 * u)
#define R6 r6
#define R7 (r6 + u)
#define R8 (r6 + 2 * u)
#define R9 r9
#define R10 (r9 + u)
#define R11 (r9 + 2 * u)
#define R12 r12
#define R13 (r12 + u)

#define WEIGHTS_1 const vec w0 = v_load(w);

#if SLIDES
/*
 * What neighbouring pixels share is loaded once: for registers enough to hold three columns and
 * three weights beside the sums. NEXT: column c of the n that a tile reads at one kernel row; only
 * the first and the last E may lie outside of the image. V_OPAQUE keeps the compiler from loading
 * it again for each use.
 */
#define NEXT(into, c, n, E)                                                                        \
    into = (c) < (E) || (c) >= (n) - (E)                                                           \
               ? GROUPED_LOAD_IF((const float *)next, (size_t)(column + (c)) < width)              \
               : GROUPED_LOAD((const float *)next);                                                \
    V_OPAQUE(into);                                                                                \
    next += (uintptr_t)pixel;                                                                      \
    OPAQUE(next);
#define TAPS_3_1(p, P, E)                                                                          \
    NEXT(x2, (p) + 2, (P) + 2, E)                                                                  \
    a##p = v_accumulate(x2, w2, v_accumulate(x1, w1, v_accumulate(x0, w0, a##p)));                 \
    x0 = x1;                                                                                       \
    x1 = x2;
#define TAPS_3_2(p, P, E)                                                                          \
    NEXT(x1, 2 * (p) + 1, 2 * (P) + 1, E)                                                          \
    NEXT(x2, 2 * (p) + 2, 2 * (P) + 1, E)                                                          \
    a##p = v_accumulate(x2, w2, v_accumulate(x1, w1, v_accumulate(x0, w0, a##p)));                 \
    x0 = x2;
#define TAPS_2_1(p, P, E)                                                                          \
    NEXT(x1, (p) + 1, (P) + 1, E)                                                                  \
    a##p = v_accumulate(x1, w1, v_accumulate(x0, w0, a##p));                                       \
    x0 = x1;
#define TAPS_2_2(p, P, E)                                                                          \
    NEXT(x0, 2 * (p), 2 * (P), E)                                                                  \
    NEXT(x1, 2 * (p) + 1, 2 * (P), E)                                                              \
    a##p = v_accumulate(x1, w1, v_accumulate(x0, w0, a##p));
#define TAPS_1_1(p, P, E)                                                                          \
    NEXT(x0, p, P, E)                                                                              \
    a##p = v_accumulate(x0, w0, a##p);
#define TAPS_1_2(p, P, E)                                                                          \
    NEXT(x0, 2 * (p), 2 * (P)-1, E)                                                                \
    next += (uintptr_t)pixel;                                                                      \
    a##p = v_accumulate(x0, w0, a##p);
/*
 * Five taps of a row, a column at a time: it is added to the sums of all pixels that see it, so no
 * register has another column. ADD_TAP: the column, times weight `tap`, to the sum of the pixel
 * that is `back` before p. Where there is none, that is an addition to what nobody reads, which
 * compilers leave out.
 */
#define JOIN_TOKENS(x, y) x##y
#define JOIN(x, y) JOIN_TOKENS(x, y)
#define BEFORE_none none
#define BEFORE_0 none
#define BEFORE_1 0
#define BEFORE_2 1
#define BEFORE_3 2
#define BEFORE_4 3
#define BEFORE_5 4
#define BEFORE_6 5
#define BEFORE_7 6
#define BEFORE_8 7
#define BEFORE_9 8
#define BEFORE_10 9
#define BEFORE_11 10
#define BEFORE_12 11
#define BEFORE_13 12
#define BEFORE_14 13
#define SUM_0(p) JOIN(a, p)
#define SUM_1(p) JOIN(a, JOIN(BEFORE_, p))
#define SUM_2(p) JOIN(a, JOIN(BEFORE_, JOIN(BEFORE_, p)))
#define SUM_3(p) JOIN(a, JOIN(BEFORE_, JOIN(BEFORE_, JOIN(BEFORE_, p))))
#define SUM_4(p) JOIN(a, JOIN(BEFORE_, JOIN(BEFORE_, JOIN(BEFORE_, JOIN(BEFORE_, p)))))
#define ADD_TAP(tap, back, p) SUM_##back(p) = v_accumulate(x0, w##tap, SUM_##back(p))
#define TAPS_5_1(p, P, E)                                                                          \
    NEXT(x0, p, (P) + 4, E)                                                                        \
    ADD_TAP(4, 4, p);                                                                              \
    ADD_TAP(3, 3, p);                                                                              \
    ADD_TAP(2, 2, p);                                                                              \
    ADD_TAP(1, 1, p);                                                                              \
    ADD_TAP(0, 0, p);
#define TAPS_5_2(p, P, E)                                                                          \
    NEXT(x0, 2 * (p), 2 * (P) + 3, E)                                                              \
    ADD_TAP(4, 2, p);                                                                              \
    ADD_TAP(2, 1, p);                                                                              \
    ADD_TAP(0, 0, p);                                                                              \
    NEXT(x0, 2 * (p) + 1, 2 * (P) + 3, E)                                                          \
    ADD_TAP(3, 1, p);                                                                              \
    ADD_TAP(1, 0, p);
#define WEIGHTS_2 WEIGHTS_1 const vec w1 = v_load(w + V_LENGTH);
#define WEIGHTS_3 WEIGHTS_2 const vec w2 = v_load(w + 2 * V_LENGTH);
#define WEIGHTS_5 WEIGHTS_3 const vec w3 = v_load(w + 3 * V_LENGTH), w4 = v_load(w + 4 * V_LENGTH);
#define BODY_5_1(P, E)                                                                             \
    WEIGHTS_5 uintptr_t next = x;                                                                  \
    OPAQUE(next);                                                                                  \
    vec x0, anone = w0;                                                                            \
    EACH_##P(TAPS_5_1, P, E) NEXT(x0, P, (P) + 4, E) ADD_TAP(4, 4, P);                             \
    ADD_TAP(3, 3, P);                                                                              \
    ADD_TAP(2, 2, P);                                                                              \
    ADD_TAP(1, 1, P);                                                                              \
    NEXT(x0, (P) + 1, (P) + 4, E)                                                                  \
    ADD_TAP(4, 3, P);                                                                              \
    ADD_TAP(3, 2, P);                                                                              \
    ADD_TAP(2, 1, P);                                                                              \
    NEXT(x0, (P) + 2, (P) + 4, E)                                                                  \
    ADD_TAP(4, 2, P);                                                                              \
    ADD_TAP(3, 1, P);                                                                              \
    NEXT(x0, (P) + 3, (P) + 4, E)                                                                  \
    ADD_TAP(4, 1, P);                                                                              \
    (void)anone;
#define BODY_5_2(P, E)                                                                             \
    WEIGHTS_5 uintptr_t next = x;                                                                  \
    OPAQUE(next);                                                                                  \
    vec x0, anone = w0;                                                                            \
    EACH_##P(TAPS_5_2, P, E) NEXT(x0, 2 * (P), 2 * (P) + 3, E) ADD_TAP(4, 2, P);                   \
    ADD_TAP(2, 1, P);                                                                              \
    NEXT(x0, 2 * (P) + 1, 2 * (P) + 3, E)                                                          \
    ADD_TAP(3, 1, P);                                                                              \
    NEXT(x0, 2 * (P) + 2, 2 * (P) + 3, E)                                                          \
    ADD_TAP(4, 1, P);                                                                              \
    (void)anone;
#define BODY_3_1(P, E)                                                                             \
    WEIGHTS_3 uintptr_t next = x;                                                                  \
    OPAQUE(next);                                                                                  \
    vec x0, x1, x2;                                                                                \
    NEXT(x0, 0, (P) + 2, E) NEXT(x1, 1, (P) + 2, E) EACH_##P(TAPS_3_1, P, E)
#define BODY_3_2(P, E)                                                                             \
    WEIGHTS_3 uintptr_t next = x;                                                                  \
    OPAQUE(next);                                                                                  \
    vec x0, x1, x2;                                                                                \
    NEXT(x0, 0, 2 * (P) + 1, E) EACH_##P(TAPS_3_2, P, E)
#define BODY_2_1(P, E)                                                                             \
    WEIGHTS_2 uintptr_t next = x;                                                                  \
    OPAQUE(next);                                                                                  \
    vec x0, x1;                                                                                    \
    NEXT(x0, 0, (P) + 1, E) EACH_##P(TAPS_2_1, P, E)
#define BODY_2_2(P, E)                                                                             \
    WEIGHTS_2 uintptr_t next = x;                                                                  \
    OPAQUE(next);                                                                                  \
    vec x0, x1;                                                                                    \
    EACH_##P(TAPS_2_2, P, E)
#define BODY_1_1(P, E)                                                                             \
    WEIGHTS_1 uintptr_t next = x;                                                                  \
    OPAQUE(next);                                                                                  \
    vec x0;                                                                                        \
    EACH_##P(TAPS_1_1, P, E)
#define BODY_1_2(P, E)                                                                             \
    WEIGHTS_1 uintptr_t next = x;                                                                  \
    OPAQUE(next);                                                                                  \
    vec x0;                                                                                        \
    EACH_##P(TAPS_1_2, P, E)
#else
/* What lies outside of the image. */
static const float no_inputs[V_LENGTH];
/*
 * A tap at a time, its inputs straight from memory: the registers are left to the sums, whose
 * number hides the latency of the additions.
 */
#define TAP(p, c, n, E)                                                                            \
    {                                                                                              \
        uintptr_t from = R##p;                                                                     \
        if ((c) < (E) || (c) >= (n) - (E)) {                                                       \
            from = (size_t)(column + (c)) < width ? from : (uintptr_t)no_inputs;                   \
            OPAQUE(from);                                                                          \
        }                                                                                          \
        a##p = v_accumulate_from(w0, (const float *)from, a##p);                                   \
    }
#define TAP_0_1(p, P, E) TAP(p, p, (P) + 2, E)
#define TAP_1_1(p, P, E) TAP(p, (p) + 1, (P) + 2, E)
#define TAP_2_1(p, P, E) TAP(p, (p) + 2, (P) + 2, E)
#define TAP_0_2(p, P, E) TAP(p, 2 * (p), 2 * (P) + 1, E)
#define TAP_1_2(p, P, E) TAP(p, 2 * (p) + 1, 2 * (P) + 1, E)
#define TAP_2_2(p, P, E) TAP(p, 2 * (p) + 2, 2 * (P) + 1, E)
#define ONE_TAP(t, P, X, S, E)                                                                     \
    {                                                                                              \
        const vec w0 = v_load(w + (t)*V_LENGTH);                                                   \
        const uintptr_t u = (uintptr_t)((S)*pixel);                                                \
        PIXEL_POINTERS(x + (uintptr_t)((t)*pixel))                                                 \
        EACH_##P(X, P, E) UNUSED_POINTERS                                                          \
    }
#define BODY_3_1(P, E)                                                                             \
    ONE_TAP(0, P, TAP_0_1, 1, E) ONE_TAP(1, P, TAP_1_1, 1, E) ONE_TAP(2, P, TAP_2_1, 1, E)
#define BODY_3_2(P, E)                                                                             \
    ONE_TAP(0, P, TAP_0_2, 2, E) ONE_TAP(1, P, TAP_1_2, 2, E) ONE_TAP(2, P, TAP_2_2, 2, E)
#define TAP_3_1(p, P, E) TAP(p, (p) + 3, (P) + 4, E)
#define TAP_4_1(p, P, E) TAP(p, (p) + 4, (P) + 4, E)
#define TAP_3_2(p, P, E) TAP(p, 2 * (p) + 3, 2 * (P) + 3, E)
#define TAP_4_2(p, P, E) TAP(p, 2 * (p) + 4, 2 * (P) + 3, E)
#define BODY_5_1(P, E)                                                                             \
    ONE_TAP(0, P, TAP_0_1, 1, E)                                                                   \
    ONE_TAP(1, P, TAP_1_1, 1, E)                                                                   \
    ONE_TAP(2, P, TAP_2_1, 1, E) ONE_TAP(3, P, TAP_3_1, 1, E) ONE_TAP(4, P, TAP_4_1, 1, E)
#define BODY_5_2(P, E)                                                                             \
    ONE_TAP(0, P, TAP_0_2, 2, E)                                                                   \
    ONE_TAP(1, P, TAP_1_2, 2, E)                                                                   \
    ONE_TAP(2, P, TAP_2_2, 2, E) ONE_TAP(3, P, TAP_3_2, 2, E) ONE_TAP(4, P, TAP_4_2, 2, E)
/* The last column of two is the last but one of three. */
#define BODY_2_1(P, E) ONE_TAP(0, P, TAP_0_1, 1, (E) + 1) ONE_TAP(1, P, TAP_1_1, 1, (E) + 1)
#define BODY_2_2(P, E) ONE_TAP(0, P, TAP_0_2, 2, (E) + 1) ONE_TAP(1, P, TAP_1_2, 2, (E) + 1)
#define BODY_1_1(P, E) ONE_TAP(0, P, TAP_0_1, 1, (E) + 2)
#define BODY_1_2(P, E) ONE_TAP(0, P, TAP_0_2, 2, (E) + 2)
#endif

#define GROUPED_BIAS(p, P, E) vec a##p = bias;
#define GROUPED_ADD(p, P, E)                                                                       \
    a##p = v_add(a##p, v_load(residual));                                                          \
    residual += (p) + 1 < (P) ? out_pixel : 0;                                                     \
    OPAQUE(residual);
#define GROUPED_CLAMP(p, P, E) a##p = v_clamp(a##p, lo, hi);
#define GROUPED_STORE(p, P, E)                                                                     \
    v_store(dst, a##p);                                                                            \
    dst += (p) + 1 < (P) ? out_pixel : 0;                                                          \
    OPAQUE(dst);
#define GROUPED_SPILL(p, P, E) v_store(sums + (p)*V_LENGTH, a##p);

/* `tiles` tiles of P pixels from pixel `first` of each row on; TAPS adds the taps to the sums. */
#define GROUPED_FUNCTION(NAME, P, S, TAPS)                                                         \
    static void NAME(const struct dc_grouped_args *args, ptrdiff_t first, ptrdiff_t tiles)         \
    {                                                                                              \
        const ptrdiff_t pixel = args->src_pixel * (ptrdiff_t)sizeof(float), planes = args->planes, \
                        out_pixel = args->dst_pixel;                                               \
        const ptrdiff_t row_bytes = args->src_row * args->dilation_h * (ptrdiff_t)sizeof(float);   \
        const size_t width = (size_t)args->w;                                                      \
        const bool whole = args->channels == V_LENGTH && args->stored == V_LENGTH,                 \
                   clamps = args->lo != -INFINITY || args->hi != INFINITY;                         \
        const ptrdiff_t column0 = first * args->stride_w - args->pad_left;                         \
        ptrdiff_t top = args->y0 * args->stride_h - args->pad_top;                                 \
        uintptr_t row_x =                                                                          \
            (uintptr_t)args->src + (uintptr_t)((top * args->src_row + column0 * args->src_pixel) * \
                                               (ptrdiff_t)sizeof(float));                          \
        ptrdiff_t out = first * out_pixel;                                                         \
        for (ptrdiff_t y = args->y0; y < args->y1; y++) {                                          \
            struct place at;                                                                       \
            meet_rows(args, top, &at);                                                             \
            at.x = row_x + (uintptr_t)(at.row0 * row_bytes);                                       \
            at.column = column0;                                                                   \
            at.weights = args->weights;                                                            \
            at.bias = args->bias;                                                                  \
            at.dst = args->dst + out;                                                              \
            at.residual = args->residual != 0 ? args->residual + out : 0;                          \
            for (ptrdiff_t left = tiles;; left--) {                                                \
                for (ptrdiff_t more = args->vectors;;) {                                           \
                    const vec bias = v_load(at.bias);                                              \
                    EACH_##P(GROUPED_BIAS, P, 0) TAPS(P, S);                                       \
                    if (whole) {                                                                   \
                        if (at.residual != 0) {                                                    \
                            const float *residual = at.residual;                                   \
                            EACH_##P(GROUPED_ADD, P, 0)                                            \
                        }                                                                          \
                        if (clamps) {                                                              \
                            const vec lo = v_set1(args->lo), hi = v_set1(args->hi);                \
                            EACH_##P(GROUPED_CLAMP, P, 0)                                          \
                        }                                                                          \
                        float *dst = at.dst;                                                       \
                        EACH_##P(GROUPED_STORE, P, 0)                                              \
                    } else {                                                                       \
                        float sums[(P)*V_LENGTH];                                                  \
                        EACH_##P(GROUPED_SPILL, P, 0)                                              \
                            finish_grouped_tail(args, at.dst, at.residual, sums, P);               \
                    }                                                                              \
                    if (--more == 0) {                                                             \
                        break;                                                                     \
                    }                                                                              \
                    move_vectors(args, 1, &at);                                                    \
                }                                                                                  \
                if (args->vectors != 1) {                                                          \
                    move_vectors(args, 1 - args->vectors, &at);                                    \
                }                                                                                  \
                if (left == 1) {                                                                   \
                    break; /* no pointer is formed past the row's end */                           \
                }                                                                                  \
                at.column += (P)*args->stride_w;                                                   \
                at.x += (uintptr_t)((P)*args->stride_w * pixel);                                   \
                at.dst += (P)*out_pixel;                                                           \
                at.residual += at.residual != 0 ? (P)*out_pixel : 0;                               \
            }                                                                                      \
            top += args->stride_h;                                                                 \
            row_x += (uintptr_t)(args->stride_h * args->src_row * (ptrdiff_t)sizeof(float));       \
            out += args->dst_row;                                                                  \
        }                                                                                          \
    }

/*
 * Taps side by side: kernels of 3 columns first, their padding is 1 nearly always; five columns
 * at once, so that what a row costs beside its taps is paid once.
 */
#define SLIDE(P, S)                                                                                \
    if (args->kw == 3 && args->edge <= 1) {                                                        \
        GROUPED_ROWS(3, 0, BODY_3_##S(P, 1))                                                       \
    } else if (args->chunk == 5) {                                                                 \
        GROUPED_ROWS(5, 0, BODY_5_##S(P, DC_GROUPED_EDGE_5))                                       \
    } else {                                                                                       \
        ptrdiff_t kx = 0;                                                                          \
        for (; args->kw - kx >= 3; kx += 3) {                                                      \
            GROUPED_ROWS(3, kx, BODY_3_##S(P, DC_GROUPED_EDGE))                                    \
        }                                                                                          \
        if (args->kw - kx == 2) {                                                                  \
            GROUPED_ROWS(2, kx, BODY_2_##S(P, DC_GROUPED_EDGE))                                    \
        } else if (args->kw - kx == 1) {                                                           \
            GROUPED_ROWS(1, kx, BODY_1_##S(P, DC_GROUPED_EDGE))                                    \
        }                                                                                          \
    }

/* Any stride and dilation, tap by tap. */
#define STEP_INSIDE(p, P, E) a##p = v_accumulate(GROUPED_LOAD((const float *)R##p), w0, a##p);
#define STEP_MASKED(p, P, E)                                                                       \
    a##p = v_accumulate(                                                                           \
        GROUPED_LOAD_IF((const float *)R##p, (size_t)(column + (p)*args->stride_w) < width), w0,   \
        a##p);
#define STEPS(P, S)                                                                                \
    const uintptr_t u = (uintptr_t)(pixel * args->stride_w);                                       \
    for (ptrdiff_t kx = 0; kx < args->kw; kx++) {                                                  \
        const float *w = at.weights + (kx * args->kh + at.row0) * planes * V_LENGTH;               \
        const ptrdiff_t column = at.column + kx * args->dilation_w,                                \
                        last = column + ((P)-1) * args->stride_w;                                  \
        uintptr_t x = at.x + (uintptr_t)(kx * args->dilation_w * pixel);                           \
        if (last < 0 || column >= args->w) {                                                       \
            continue;                                                                              \
        }                                                                                          \
        for (ptrdiff_t row = at.rows; row > 0; row--) {                                            \
            EACH_PLANE                                                                             \
            {                                                                                      \
                GROUPED_INDEX(i)                                                                   \
                WEIGHTS_1 PIXEL_POINTERS(x) if (column >= 0 && last < args->w)                     \
                {                                                                                  \
                    EACH_##P(STEP_INSIDE, P, 0)                                                    \
                }                                                                                  \
                else {EACH_##P(STEP_MASKED, P, 0)} UNUSED_POINTERS w += V_LENGTH;                  \
            }                                                                                      \
            x += (uintptr_t)row_bytes;                                                             \
        }                                                                                          \
    }

typedef void grouped_fn(const struct dc_grouped_args *args, ptrdiff_t first, ptrdiff_t tiles);

/* Rows are cut into tiles of nearly equal size: all of the larger size, then all of the smaller. */
static inline void run_grouped(const struct dc_grouped_args *args,
                               grouped_fn *const tables[3][TILE_PIXELS])
{
    grouped_fn *const *table = tables[args->chunk == 1 ? 2 : args->stride_w - 1];
    const ptrdiff_t tiles = (args->wout + TILE_PIXELS - 1) / TILE_PIXELS;
    const ptrdiff_t size = args->wout / tiles, larger = args->wout % tiles;
    if (larger != 0) {
        table[size](args, 0, larger);
    }
    table[size - 1](args, larger * (size + 1), tiles - larger);
}

#define GROUPED_TILE(P)                                                                            \
    GROUPED_FUNCTION(grouped_slide_1_##P, P, 1, SLIDE)                                             \
    GROUPED_FUNCTION(grouped_slide_2_##P, P, 2, SLIDE)                                             \
    GROUPED_FUNCTION(grouped_steps_##P, P, 0, STEPS)
#define GROUPED_TILES_7                                                                            \
    GROUPED_TILE(1)                                                                                \
    GROUPED_TILE(2) GROUPED_TILE(3) GROUPED_TILE(4) GROUPED_TILE(5) GROUPED_TILE(6) GROUPED_TILE(7)
#define GROUPED_TILES_8 GROUPED_TILES_7 GROUPED_TILE(8)
#define GROUPED_TILES_14                                                                           \
    GROUPED_TILES_8 GROUPED_TILE(9) GROUPED_TILE(10) GROUPED_TILE(11) GROUPED_TILE(12)             \
        GROUPED_TILE(13) GROUPED_TILE(14)
#define GROUPED_NAMES_7(name) name##1, name##2, name##3, name##4, name##5, name##6, name##7
#define GROUPED_NAMES_8(name) GROUPED_NAMES_7(name), name##8
#define GROUPED_NAMES_14(name)                                                                     \
    GROUPED_NAMES_8(name), name##9, name##10, name##11, name##12, name##13, name##14
/* The three tables of a kernel, for n = TILE_PIXELS. */
#define GROUPED_TABLE(n)                                                                           \
    {                                                                                              \
        {GROUPED_NAMES_##n(grouped_slide_1_)}, {GROUPED_NAMES_##n(grouped_slide_2_)},              \
        {                                                                                          \
            GROUPED_NAMES_##n(grouped_steps_)                                                      \
        }                                                                                          \
    }

#endif
