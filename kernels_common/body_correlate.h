/* SPDX-License-Identifier: MIT */
/*
 * Gradients of the weights of depthwise convolutions and of narrow groups (struct
 * dc_correlate_args): up to 3 x 3 taps have their sums in registers, and take their products from
 * each pixel of dst's gradient and the inputs around it. Taps outside the image are left out, by
 * rows and columns. The including file defines the vector operations, PERMUTES (0: lanes of the
 * only plane are in order) and SLIDES (1: registers for 3 x 3 inputs beside the sums, so
 * neighbouring pixels share what they load).
 */
#ifndef DOCONV_BODY_CORRELATE_H
#define DOCONV_BODY_CORRELATE_H

#include <stdbool.h>

#include "kernel.h"

#define KX_1(X, k) X(k, 0)
#define KX_2(X, k) KX_1(X, k) X(k, 1)
#define KX_3(X, k) KX_2(X, k) X(k, 2)
#define KY_1(L, X) L(X, 0)
#define KY_2(L, X) KY_1(L, X) L(X, 1)
#define KY_3(L, X) KY_2(L, X) L(X, 2)

#if PERMUTES
#define CORRELATE_LANES const v_lanes lanes = v_load_lanes(args->lanes + plane * V_LENGTH);
#define CORRELATE_INPUT(p) v_permute_from(p, lanes)
#define CORRELATE_TAP(k, t)                                                                        \
    a##k##_##t = v_accumulate(v_permute_from(AT_TAP(k, t), lanes), g, a##k##_##t);
#else
#define CORRELATE_LANES (void)plane;
#define CORRELATE_INPUT(p) v_load(p)
#define CORRELATE_TAP(k, t) a##k##_##t = v_accumulate_from(g, AT_TAP(k, t), a##k##_##t);
#endif

/* Row k's input of tap t: x is that of the tile's first tap. */
#define AT_TAP(k, t) ((const float *)(x + (uintptr_t)((k)*row) + (uintptr_t)((t)*tap)))
#define CORRELATE_START(k, t) vec a##k##_##t = v_load(sums + ((k)*args->kw + (t)) * V_LENGTH);
#define CORRELATE_END(k, t) v_store(sums + ((k)*args->kw + (t)) * V_LENGTH, a##k##_##t);
#define CORRELATE_COLUMN(t, k) CORRELATE_TAP(k, t)
#define CORRELATE_COLUMN_0(X, k) X(0, k)
#define CORRELATE_COLUMN_1(X, k) X(1, k)
#define CORRELATE_COLUMN_2(X, k) X(2, k)
#define CORRELATE_IF(Y, t)                                                                         \
    if ((size_t)(column + (t)*args->dilation_w) < width) {                                         \
        KY_##Y(CORRELATE_COLUMN_##t, CORRELATE_COLUMN)                                             \
    }
#define CORRELATE_IF_1(Y) CORRELATE_IF(Y, 0)
#define CORRELATE_IF_2(Y) CORRELATE_IF_1(Y) CORRELATE_IF(Y, 1)
#define CORRELATE_IF_3(Y) CORRELATE_IF_2(Y) CORRELATE_IF(Y, 2)

#define CORRELATE_NEXT                                                                             \
    x += (uintptr_t)step;                                                                          \
    at += args->grad_pixel;

/* A pixel at the left or right border. */
#define CORRELATE_EDGE(Y, X)                                                                       \
    {                                                                                              \
        const vec g = v_load(at);                                                                  \
        CORRELATE_IF_##X(Y) CORRELATE_NEXT column += args->stride_w;                               \
    }

#if SLIDES
/* Three columns of taps side by side: two of them are the pixel's before. */
#define SLIDE_FIRST(k, t) vec x##k##_##t = CORRELATE_INPUT(AT_TAP(k, t));
#define SLIDE_ROW(X, k)                                                                            \
    {                                                                                              \
        const vec last = CORRELATE_INPUT(AT_TAP(k, 2));                                            \
        a##k##_0 = v_accumulate(x##k##_0, g, a##k##_0);                                            \
        a##k##_1 = v_accumulate(x##k##_1, g, a##k##_1);                                            \
        a##k##_2 = v_accumulate(last, g, a##k##_2);                                                \
        x##k##_0 = x##k##_1;                                                                       \
        x##k##_1 = last;                                                                           \
    }
#define CORRELATE_SLIDE_1(Y)
#define CORRELATE_SLIDE_2(Y)
#define CORRELATE_SLIDE_3(Y)                                                                       \
    if (step == tap && count > 0) {                                                                \
        KY_##Y(KX_2, SLIDE_FIRST) for (; count > 0; count--)                                       \
        {                                                                                          \
            const vec g = v_load(at);                                                              \
            KY_##Y(SLIDE_ROW, 0) CORRELATE_NEXT                                                    \
        }                                                                                          \
    }
#else
#define CORRELATE_SLIDE_1(Y)
#define CORRELATE_SLIDE_2(Y)
#define CORRELATE_SLIDE_3(Y)
#endif

/*
 * Taps [ky, ky + Y) x [kx, kx + X) of a plane over rows [y0, y1), which have these kernel rows
 * inside. Pointers are integers: taps in the padding lie anywhere.
 */
typedef void correlate_fn(const struct dc_correlate_args *args, ptrdiff_t plane, ptrdiff_t ky,
                          ptrdiff_t kx, ptrdiff_t y0, ptrdiff_t y1);
#define CORRELATE_TILE(Y, X)                                                                       \
    static void correlate_tile_##Y##_##X(const struct dc_correlate_args *args, ptrdiff_t plane,    \
                                         ptrdiff_t ky, ptrdiff_t kx, ptrdiff_t y0, ptrdiff_t y1)   \
    {                                                                                              \
        const ptrdiff_t row = args->dilation_h * args->src_row * (ptrdiff_t)sizeof(float);         \
        const ptrdiff_t tap = args->dilation_w * args->src_pixel * (ptrdiff_t)sizeof(float);       \
        const ptrdiff_t step = args->stride_w * args->src_pixel * (ptrdiff_t)sizeof(float);        \
        const size_t width = (size_t)args->w;                                                      \
        float *const sums = args->sums + ((plane * args->kh + ky) * args->kw + kx) * V_LENGTH;     \
        CORRELATE_LANES                                                                            \
        KY_##Y(KX_##X, CORRELATE_START) const ptrdiff_t left =                                     \
            kx * args->dilation_w - args->pad_left;                                                \
        /* All columns of taps lie inside for pixels [begin, end). */                              \
        const ptrdiff_t right = args->w - 1 - left - ((X)-1) * args->dilation_w;                   \
        ptrdiff_t begin = left >= 0 ? 0 : (-left + args->stride_w - 1) / args->stride_w,           \
                  end = right < 0 ? 0 : right / args->stride_w + 1;                                \
        end = end < args->wout ? end : args->wout;                                                 \
        begin = begin < end ? begin : end; /* none: all pixels are at the right border */          \
        for (ptrdiff_t y = y0; y < y1; y++) {                                                      \
            const ptrdiff_t top = y * args->stride_h - args->pad_top + ky * args->dilation_h;      \
            const float *at = args->grad + (y - args->y0) * args->grad_row;                        \
            uintptr_t x = (uintptr_t)args->src +                                                   \
                          (uintptr_t)((top * args->src_row + left * args->src_pixel) *             \
                                      (ptrdiff_t)sizeof(float));                                   \
            ptrdiff_t column = left;                                                               \
            for (ptrdiff_t count = begin; count > 0; count--) {                                    \
                CORRELATE_EDGE(Y, X)                                                               \
            }                                                                                      \
            ptrdiff_t count = end - begin;                                                         \
            column += count * args->stride_w;                                                      \
            CORRELATE_SLIDE_##X(Y) for (; count > 0; count--)                                      \
            {                                                                                      \
                const vec g = v_load(at);                                                          \
                KY_##Y(KX_##X, CORRELATE_TAP) CORRELATE_NEXT                                       \
            }                                                                                      \
            for (count = args->wout - end; count > 0; count--) {                                   \
                CORRELATE_EDGE(Y, X)                                                               \
            }                                                                                      \
        }                                                                                          \
        KY_##Y(KX_##X, CORRELATE_END)                                                              \
    }

CORRELATE_TILE(1, 1)
CORRELATE_TILE(1, 2)
CORRELATE_TILE(1, 3)
CORRELATE_TILE(2, 1)
CORRELATE_TILE(2, 2)
CORRELATE_TILE(2, 3)
CORRELATE_TILE(3, 1)
CORRELATE_TILE(3, 2)
CORRELATE_TILE(3, 3)

/* Kernel rows [*first, *end) of [ky, ky + 3) lie inside the image for output row y. */
static inline void correlate_rows(const struct dc_correlate_args *args, ptrdiff_t ky, ptrdiff_t y,
                                  ptrdiff_t *first, ptrdiff_t *end)
{
    *end = ky + 3 < args->kh ? ky + 3 : args->kh;
    const ptrdiff_t top = y * args->stride_h - args->pad_top;
    for (; ky < *end && top + ky * args->dilation_h < 0; ky++) {
    }
    *first = ky;
    for (; *end > ky && top + (*end - 1) * args->dilation_h >= args->h; --*end) {
    }
}

static void correlate(const struct dc_correlate_args *args)
{
    static correlate_fn *const tiles[3][3] = {
        {correlate_tile_1_1, correlate_tile_1_2, correlate_tile_1_3},
        {correlate_tile_2_1, correlate_tile_2_2, correlate_tile_2_3},
        {correlate_tile_3_1, correlate_tile_3_2, correlate_tile_3_3}};
    for (ptrdiff_t plane = 0; plane < args->planes; plane++) {
        for (ptrdiff_t ky = 0; ky < args->kh; ky += 3) {
            ptrdiff_t after;
            for (ptrdiff_t y = args->y0; y < args->y1; y = after) {
                /* Rows that have the same kernel rows inside. */
                ptrdiff_t first, end, next_first, next_end;
                correlate_rows(args, ky, y, &first, &end);
                for (after = y + 1; after < args->y1; after++) {
                    correlate_rows(args, ky, after, &next_first, &next_end);
                    if (next_first != first || next_end != end) {
                        break;
                    }
                }
                for (ptrdiff_t kx = 0; kx < args->kw && first < end; kx += 3) {
                    tiles[end - first - 1][(args->kw - kx < 3 ? args->kw - kx : 3) - 1](
                        args, plane, first, kx, y, after);
                }
            }
        }
    }
}

#endif
