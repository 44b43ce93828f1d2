/* SPDX-License-Identifier: MIT */
/*
 * The tile of sums of outer products (struct dc_product_args): as the direct tile, each value of
 * the left tensor is broadcast and multiplied with TILE_VECTORS vectors of the right one, but what
 * follows in the reduction lies any distance away on both sides, so tensors of all layouts are read
 * in place. The including file defines the vector operations, TILE_PIXELS (rows here) and
 * TILE_VECTORS, then lists its tile functions: PRODUCT_TILES_n.
 */
#ifndef DOCONV_BODY_PRODUCT_H
#define DOCONV_BODY_PRODUCT_H

#include "body_tile.h"

#define PRODUCT_RIGHT(p, v) const vec w##v = v_load((const float *)w + (v)*V_LENGTH);
#define PRODUCT_FMA(p, v) a##p##_##v = v_accumulate(x, w##v, a##p##_##v);
#define PRODUCT_ROW(L, p)                                                                          \
    {                                                                                              \
        const vec x = v_set1(X##p);                                                                \
        L(PRODUCT_FMA, p)                                                                          \
    }
#define PRODUCT_STEP(P, NV)                                                                        \
    {                                                                                              \
        VECTORS_##NV(PRODUCT_RIGHT, 0) PIXELS_##P(PRODUCT_ROW, VECTORS_##NV) r0 += left;           \
        r7 += left;                                                                                \
        w += right;                                                                                \
    }
#define PRODUCT_ZERO(p, v) a##p##_##v = v_zero();
#define PRODUCT_LOAD(p, v) a##p##_##v = v_load(sums + (p)*row + (v)*V_LENGTH);
#define PRODUCT_STORE(p, v) v_store(sums + (p)*row + (v)*V_LENGTH, a##p##_##v);

/* P rows x NV vectors. Pointers are integers: the last step moves them past the tensors. */
typedef void product_fn(const struct dc_product_args *args);
#define PRODUCT_TILE(P, NV)                                                                        \
    static void product_tile_##P##_##NV(const struct dc_product_args *args)                        \
    {                                                                                              \
        const ptrdiff_t s = args->left_row * (ptrdiff_t)sizeof(float), s3 = 3 * s, s5 = 5 * s;     \
        const uintptr_t left = (uintptr_t)args->left_step * sizeof(float),                         \
                        right = (uintptr_t)args->right_step * sizeof(float);                       \
        const struct dc_segment *segment = args->segments;                                         \
        for (ptrdiff_t list = 0; list < args->lists; list++) {                                     \
            if (args->soon != 0) {                                                                 \
                uintptr_t soon = (uintptr_t)(args->soon + list * TILE_CHANNELS);                   \
                for (int p = 0; p < (P); p++, soon += (uintptr_t)args->soon_row * sizeof(float)) { \
                    for (size_t byte = 0; byte < (NV)*V_LENGTH * sizeof(float); byte += 64) {      \
                        __builtin_prefetch((const void *)(soon + byte), 1, 3);                     \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
            PIXELS_##P(VECTORS_##NV, TILE_DECLARE) if (args->resume)                               \
            {                                                                                      \
                const float *const sums = args->sums + list * args->sums_list;                     \
                const ptrdiff_t row = args->sums_row;                                              \
                PIXELS_##P(VECTORS_##NV, PRODUCT_LOAD)                                             \
            }                                                                                      \
            else                                                                                   \
            {                                                                                      \
                PIXELS_##P(VECTORS_##NV, PRODUCT_ZERO)                                             \
            }                                                                                      \
            for (ptrdiff_t more = args->counts[list]; more > 0; more--, segment++) {               \
                uintptr_t w =                                                                      \
                    (uintptr_t)args->right + (uintptr_t)segment->weight_offset * sizeof(float);    \
                uintptr_t r0 = (uintptr_t)args->left +                                             \
                               (uintptr_t)segment->src_offset * sizeof(float),                     \
                          r7 = r0 + (uintptr_t)(7 * s);                                            \
                ptrdiff_t j = segment->length;                                                     \
                for (; j % 4 != 0; j--) {                                                          \
                    PRODUCT_STEP(P, NV)                                                            \
                }                                                                                  \
                for (; j != 0; j -= 4) {                                                           \
                    PRODUCT_STEP(P, NV)                                                            \
                    PRODUCT_STEP(P, NV)                                                            \
                    PRODUCT_STEP(P, NV)                                                            \
                    PRODUCT_STEP(P, NV)                                                            \
                }                                                                                  \
                (void)r7, (void)s3, (void)s5;                                                      \
            }                                                                                      \
            float *const sums = args->sums + list * args->sums_list;                               \
            const ptrdiff_t row = args->sums_row;                                                  \
            PIXELS_##P(VECTORS_##NV, PRODUCT_STORE)                                                \
        }                                                                                          \
    }

/* All tile functions of 1..n rows, and the row of the table that holds them. */
#define PRODUCT_TILES_1(NV) PRODUCT_TILE(1, NV)
#define PRODUCT_TILES_2(NV) PRODUCT_TILES_1(NV) PRODUCT_TILE(2, NV)
#define PRODUCT_TILES_3(NV) PRODUCT_TILES_2(NV) PRODUCT_TILE(3, NV)
#define PRODUCT_TILES_4(NV) PRODUCT_TILES_3(NV) PRODUCT_TILE(4, NV)
#define PRODUCT_TILES_5(NV) PRODUCT_TILES_4(NV) PRODUCT_TILE(5, NV)
#define PRODUCT_TILES_6(NV) PRODUCT_TILES_5(NV) PRODUCT_TILE(6, NV)
#define PRODUCT_TILES_7(NV) PRODUCT_TILES_6(NV) PRODUCT_TILE(7, NV)
#define PRODUCT_TILES_8(NV) PRODUCT_TILES_7(NV) PRODUCT_TILE(8, NV)
#define PRODUCT_TILES_9(NV) PRODUCT_TILES_8(NV) PRODUCT_TILE(9, NV)
#define PRODUCT_TILES_10(NV) PRODUCT_TILES_9(NV) PRODUCT_TILE(10, NV)
#define PRODUCT_TILES_11(NV) PRODUCT_TILES_10(NV) PRODUCT_TILE(11, NV)
#define PRODUCT_TILES_12(NV) PRODUCT_TILES_11(NV) PRODUCT_TILE(12, NV)
#define PRODUCT_TILES_13(NV) PRODUCT_TILES_12(NV) PRODUCT_TILE(13, NV)
#define PRODUCT_TILES_14(NV) PRODUCT_TILES_13(NV) PRODUCT_TILE(14, NV)
#define PRODUCT_NAMES_1(NV) product_tile_1_##NV
#define PRODUCT_NAMES_2(NV) PRODUCT_NAMES_1(NV), product_tile_2_##NV
#define PRODUCT_NAMES_3(NV) PRODUCT_NAMES_2(NV), product_tile_3_##NV
#define PRODUCT_NAMES_4(NV) PRODUCT_NAMES_3(NV), product_tile_4_##NV
#define PRODUCT_NAMES_5(NV) PRODUCT_NAMES_4(NV), product_tile_5_##NV
#define PRODUCT_NAMES_6(NV) PRODUCT_NAMES_5(NV), product_tile_6_##NV
#define PRODUCT_NAMES_7(NV) PRODUCT_NAMES_6(NV), product_tile_7_##NV
#define PRODUCT_NAMES_8(NV) PRODUCT_NAMES_7(NV), product_tile_8_##NV
#define PRODUCT_NAMES_9(NV) PRODUCT_NAMES_8(NV), product_tile_9_##NV
#define PRODUCT_NAMES_10(NV) PRODUCT_NAMES_9(NV), product_tile_10_##NV
#define PRODUCT_NAMES_11(NV) PRODUCT_NAMES_10(NV), product_tile_11_##NV
#define PRODUCT_NAMES_12(NV) PRODUCT_NAMES_11(NV), product_tile_12_##NV
#define PRODUCT_NAMES_13(NV) PRODUCT_NAMES_12(NV), product_tile_13_##NV
#define PRODUCT_NAMES_14(NV) PRODUCT_NAMES_13(NV), product_tile_14_##NV

/* Eight lanes (NEON: four) of as many lists from `list` on. */
static inline void weave_square(const struct dc_weave_args *a, const float *sums, float *dst,
                                ptrdiff_t list)
{
    side r[V_TRANSPOSE];
    transpose_load(sums + list * a->sums_list, a->sums_list, r);
#define PUT(i) side_store(dst + (i)*a->dst_lane + list, r[i]);
    SIDES(PUT)
#undef PUT
}

static void weave(const struct dc_weave_args *a)
{
    for (ptrdiff_t row = 0; row < a->rows; row++) {
        const float *sums = a->sums + row * a->sums_row;
        float *dst = a->dst + row * a->dst_row;
        ptrdiff_t lane = 0;
        for (; lane + V_TRANSPOSE <= a->lanes;
             lane += V_TRANSPOSE, sums += V_TRANSPOSE, dst += V_TRANSPOSE * a->dst_lane) {
            ptrdiff_t list = 0;
            for (; list + V_TRANSPOSE <= a->lists; list += V_TRANSPOSE) {
                weave_square(a, sums, dst, list);
            }
            if (list + 2 < a->lists && a->lists >= V_TRANSPOSE) {
                list = a->lists - V_TRANSPOSE; /* some of them twice */
                weave_square(a, sums, dst, list);
                list = a->lists;
            }
            for (; list < a->lists; list++) {
#define PUT(i) dst[(i)*a->dst_lane + list] = sums[list * a->sums_list + (i)];
                SIDES(PUT)
#undef PUT
            }
        }
        for (; lane < a->lanes; lane++, sums++, dst += a->dst_lane) {
            for (ptrdiff_t list = 0; list < a->lists; list++) {
                dst[list] = sums[list * a->sums_list];
            }
        }
    }
}

static inline void run_product(const struct dc_product_args *args,
                               product_fn *const table[TILE_VECTORS][TILE_PIXELS])
{
    table[(args->lanes + V_LENGTH - 1) / V_LENGTH - 1][args->rows - 1](args);
}

#endif
