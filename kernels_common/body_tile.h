/* SPDX-License-Identifier: MIT */
/*
 * What every register tile does around its own loop: its sums at the start and at the end. The
 * including file has defined the vector operations (a vec_*.h), TILE_PIXELS and TILE_VECTORS.
 *
 * Accumulators are scalars with names (a0_0, a0_1, ...), not an array: compilers keep arrays of
 * more than about 12 vectors in memory.
 */
#ifndef DOCONV_BODY_TILE_H
#define DOCONV_BODY_TILE_H

#include "kernel.h"

#define TILE_CHANNELS (TILE_VECTORS * V_LENGTH)

/* PIXELS_n(L, X): L(X, p) for each pixel p; with L = VECTORS_m: X(p, v) for each accumulator. */
#define PIXELS_1(L, X) L(X, 0)
#define PIXELS_2(L, X) PIXELS_1(L, X) L(X, 1)
#define PIXELS_3(L, X) PIXELS_2(L, X) L(X, 2)
#define PIXELS_4(L, X) PIXELS_3(L, X) L(X, 3)
#define PIXELS_5(L, X) PIXELS_4(L, X) L(X, 4)
#define PIXELS_6(L, X) PIXELS_5(L, X) L(X, 5)
#define PIXELS_7(L, X) PIXELS_6(L, X) L(X, 6)
#define PIXELS_8(L, X) PIXELS_7(L, X) L(X, 7)
#define PIXELS_9(L, X) PIXELS_8(L, X) L(X, 8)
#define PIXELS_10(L, X) PIXELS_9(L, X) L(X, 9)
#define PIXELS_11(L, X) PIXELS_10(L, X) L(X, 10)
#define PIXELS_12(L, X) PIXELS_11(L, X) L(X, 11)
#define PIXELS_13(L, X) PIXELS_12(L, X) L(X, 12)
#define PIXELS_14(L, X) PIXELS_13(L, X) L(X, 13)

#define VECTORS_1(X, p) X(p, 0)
#define VECTORS_2(X, p) VECTORS_1(X, p) X(p, 1)
#define VECTORS_3(X, p) VECTORS_2(X, p) X(p, 2)
#define VECTORS_4(X, p) VECTORS_3(X, p) X(p, 3)

/*
 * Pixels are reached from two pointers, the first and the eighth, with 1, 2, 4 and 3, 6 and 5
 * strides as scaled indexes: a pointer for each pixel would not fit the general registers, and the
 * stride is a run-time value that lets NHWC, blocked tensors and strips share the loop.
 */
#define AT(base, bytes) (*(const float *)((const char *)(base) + (bytes)))
#define X0 AT(r0, 0)
#define X1 AT(r0, s)
#define X2 AT(r0, 2 * s)
#define X3 AT(r0, s3)
#define X4 AT(r0, 4 * s)
#define X5 AT(r0, s5)
#define X6 AT(r0, 2 * s3)
#define X7 AT(r7, 0)
#define X8 AT(r7, s)
#define X9 AT(r7, 2 * s)
#define X10 AT(r7, s3)
#define X11 AT(r7, 4 * s)
#define X12 AT(r7, s5)
#define X13 AT(r7, 2 * s3)

/*
 * The sums of a tile, [pixels][vectors * V_LENGTH], whose channels end inside a vector or are
 * followed by zeros to write.
 */
static __attribute__((noinline, unused)) void finish_tail(const struct dc_run_args *args,
                                                          const float *sums, ptrdiff_t first,
                                                          int pixels, int vectors)
{
    const vec lo = v_set1(args->lo), hi = v_set1(args->hi);
    for (int p = 0; p < pixels; p++) {
        const ptrdiff_t at = (first + p) * args->dst_pixel;
        for (int v = 0; v < vectors; v++) {
            const ptrdiff_t lane = (ptrdiff_t)v * V_LENGTH;
            const int valid = (int)(args->channels - lane < 0          ? 0
                                    : args->channels - lane < V_LENGTH ? args->channels - lane
                                                                       : V_LENGTH);
            const int stored =
                (int)(args->stored - lane < V_LENGTH ? args->stored - lane : V_LENGTH);
            vec sum = v_load(sums + ((ptrdiff_t)p * vectors + v) * V_LENGTH);
            if (args->residual != 0) {
                sum = v_add(sum, v_load_first(args->residual + at + args->dst_vector[v], valid));
            }
            v_store_first(args->dst + at + args->dst_vector[v],
                          v_keep_first(v_clamp(sum, lo, hi), valid), stored);
        }
    }
}

/*
 * Pieces of a tile function; `first` is the tile's first pixel in the run, lo and hi hold the
 * clamp.
 */
#define TILE_DECLARE(p, v) vec a##p##_##v;
#define TILE_BIAS(p, v) a##p##_##v = v_load(args->bias + (v)*V_LENGTH);
#define TILE_RESUME(p, v) a##p##_##v = v_load(in + ((p)*TILE_VECTORS + (v)) * V_LENGTH);
#define TILE_SUSPEND(p, v) v_store(out + ((p)*TILE_VECTORS + (v)) * V_LENGTH, a##p##_##v);
/*
 * Addresses and strides in locals: what is stored might change args for all that a compiler knows.
 */
#define TILE_OUT(p, v)                                                                             \
    float *const out##v = args->dst + first * args->dst_pixel + args->dst_vector[v];
#define TILE_ADDEND(p, v)                                                                          \
    const float *const in##v = args->residual + first * args->dst_pixel + args->dst_vector[v];
#define TILE_ADD(p, v) a##p##_##v = v_add(a##p##_##v, v_load(in##v + (p)*pixel));
#define TILE_MAX(p, v) a##p##_##v = v_max(lo, a##p##_##v);
#define TILE_MIN(p, v) a##p##_##v = v_min(hi, a##p##_##v);
#define TILE_STORE(p, v) v_store(out##v + (p)*pixel, a##p##_##v);
#define TILE_SPILL(p, v) v_store(sums + ((p)*SPILL_VECTORS + (v)) * V_LENGTH, a##p##_##v);

/* Before the first FMA. P and NV are the tile's numbers of pixels and vectors, literals. */
#define TILE_START(P, NV)                                                                          \
    PIXELS_##P(VECTORS_##NV, TILE_DECLARE) if (args->partial_in != 0)                              \
    {                                                                                              \
        const float *const in = args->partial_in + first * TILE_CHANNELS;                          \
        PIXELS_##P(VECTORS_##NV, TILE_RESUME)                                                      \
    }                                                                                              \
    else                                                                                           \
    {                                                                                              \
        PIXELS_##P(VECTORS_##NV, TILE_BIAS)                                                        \
    }

/* After the last FMA. */
#define TILE_FINISH(P, NV)                                                                         \
    if (args->partial_out != 0) {                                                                  \
        float *const out = args->partial_out + first * TILE_CHANNELS;                              \
        PIXELS_##P(VECTORS_##NV, TILE_SUSPEND)                                                     \
    } else if (args->channels >= (NV)*V_LENGTH) {                                                  \
        const ptrdiff_t pixel = args->dst_pixel;                                                   \
        if (args->residual != 0) {                                                                 \
            VECTORS_##NV(TILE_ADDEND, 0) PIXELS_##P(VECTORS_##NV, TILE_ADD)                        \
        }                                                                                          \
        if (args->lo > -__builtin_inff()) {                                                        \
            const vec lo = v_set1(args->lo);                                                       \
            PIXELS_##P(VECTORS_##NV, TILE_MAX)                                                     \
        }                                                                                          \
        if (args->hi < __builtin_inff()) {                                                         \
            const vec hi = v_set1(args->hi);                                                       \
            PIXELS_##P(VECTORS_##NV, TILE_MIN)                                                     \
        }                                                                                          \
        VECTORS_##NV(TILE_OUT, 0) PIXELS_##P(VECTORS_##NV, TILE_STORE)                             \
    } else {                                                                                       \
        enum { SPILL_VECTORS = (NV) };                                                             \
        float sums[(P) * (NV)*V_LENGTH];                                                           \
        PIXELS_##P(VECTORS_##NV, TILE_SPILL) finish_tail(args, sums, first, (P), (NV));            \
    }

#endif
