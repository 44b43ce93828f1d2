/* SPDX-License-Identifier: MIT */
/* Folding W and D: 9 taps x 3 rows of 16 channels. 27 sums, 3 vectors of W and 1 of D: 31 of 32 registers. */
#include "few_avx.h"
#include "vec_avx512.h"

#define TILE_TAPS 9
#define TILE_ROWS 3
#define HOLD_TAPS 0
#define NINES 1

static inline vec join_rows(const float *base, const ptrdiff_t *lanes)
{
    vec v = _mm512_castps128_ps512(_mm_loadu_ps(base + lanes[0]));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(base + lanes[4]), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(base + lanes[8]), 2);
    return _mm512_insertf32x4(v, _mm_loadu_ps(base + lanes[12]), 3);
}

static inline vec join_few(const float *base, const ptrdiff_t *lanes, int n)
{
    vec v = _mm512_castps128_ps512(load_few(base + lanes[0], n));
    v = _mm512_insertf32x4(v, load_few(base + lanes[4], n), 1);
    v = _mm512_insertf32x4(v, load_few(base + lanes[8], n), 2);
    return _mm512_insertf32x4(v, load_few(base + lanes[12], n), 3);
}

static inline void split_rows(float *base, const ptrdiff_t *lanes, vec v)
{
    _mm_storeu_ps(base + lanes[0], _mm512_castps512_ps128(v));
    _mm_storeu_ps(base + lanes[4], _mm512_extractf32x4_ps(v, 1));
    _mm_storeu_ps(base + lanes[8], _mm512_extractf32x4_ps(v, 2));
    _mm_storeu_ps(base + lanes[12], _mm512_extractf32x4_ps(v, 3));
}

static inline void split_few(float *base, const ptrdiff_t *lanes, vec v, int n)
{
    store_few(base + lanes[0], _mm512_castps512_ps128(v), n);
    store_few(base + lanes[4], _mm512_extractf32x4_ps(v, 1), n);
    store_few(base + lanes[8], _mm512_extractf32x4_ps(v, 2), n);
    store_few(base + lanes[12], _mm512_extractf32x4_ps(v, 3), n);
}

static inline void transpose_quads(vec *a, vec *b, vec *c, vec *d)
{
    const vec low0 = _mm512_unpacklo_ps(*a, *b), high0 = _mm512_unpackhi_ps(*a, *b);
    const vec low1 = _mm512_unpacklo_ps(*c, *d), high1 = _mm512_unpackhi_ps(*c, *d);
    *a = _mm512_shuffle_ps(low0, low1, 0x44);
    *b = _mm512_shuffle_ps(low0, low1, 0xee);
    *c = _mm512_shuffle_ps(high0, high1, 0x44);
    *d = _mm512_shuffle_ps(high0, high1, 0xee);
}

/*
 * Nine vectors hold 16 rows of nine floats: float f = 16 * v + k is lane k of vector v and belongs to column f % 9 = (7 * v + k) % 9. Numbered
 * u = 7 * v % 9, lane k of column s is in vector (s - k) % 9: so the vectors rotate by k % 9 in lane k, by one, two, four and eight where k % 9 has
 * these bits. A column then has all of its floats, that of row i in lane (9 * i + s) % 16: a permutation whose indexes are those of the column before
 * plus one (only their last four bits count). The way back is the same backwards; 9 * 9 = 1 modulo 16.
 */
#define BLEND(x, y, which) _mm512_mask_blend_ps(which, x, y)
/* Masks in registers before the loop over rows: compilers would load them from constants at each use. */
#define NINES_MASKS                                                                                                                                  \
    __mmask16 by_1 = 0x54aa, by_2 = 0x98cc, by_4 = 0xe0f0, by_8 = 0x0100;                                                                            \
    __asm__("" : "+Yk"(by_1), "+Yk"(by_2), "+Yk"(by_4), "+Yk"(by_8));
static const int32_t nines_lanes[16] = {0, 9, 2, 11, 4, 13, 6, 15, 8, 1, 10, 3, 12, 5, 14, 7};

static __attribute__((noinline)) void nines_in(const float *src, ptrdiff_t src_step, ptrdiff_t rows, float *dst)
{
    const ptrdiff_t stride = rows * 16;
    NINES_MASKS
#define NINES_LANES(s)                                                                                                                               \
    v_lanes lanes##s = _mm512_add_epi32(v_load_lanes(nines_lanes), _mm512_set1_epi32(s));                                                            \
    V_OPAQUE(lanes##s);
    NINES_EACH(NINES_LANES)
    for (; rows > 0; rows--) {
        const vec p0 = v_load(src), p1 = v_load(src + 4 * 16), p2 = v_load(src + 8 * 16), p3 = v_load(src + 3 * 16), p4 = v_load(src + 7 * 16),
                  p5 = v_load(src + 2 * 16), p6 = v_load(src + 6 * 16), p7 = v_load(src + 1 * 16), p8 = v_load(src + 5 * 16);
        NINE_BLENDS(q, p, by_1, 8, 0, 1, 2, 3, 4, 5, 6, 7)
        NINE_BLENDS(r, q, by_2, 7, 8, 0, 1, 2, 3, 4, 5, 6)
        NINE_BLENDS(t, r, by_4, 5, 6, 7, 8, 0, 1, 2, 3, 4)
        NINE_BLENDS(u, t, by_8, 1, 2, 3, 4, 5, 6, 7, 8, 0)
#define NINES_STORE(s) v_store(dst + (s)*stride, v_permute(u##s, lanes##s));
        NINES_EACH(NINES_STORE)
        src += src_step;
        dst += 16;
    }
}

static __attribute__((noinline)) void nines_out(const float *src, float *dst, ptrdiff_t dst_step, ptrdiff_t rows)
{
    NINES_MASKS
#undef NINES_LANES
#define NINES_LANES(m)                                                                                                                               \
    v_lanes lanes##m = _mm512_add_epi32(v_load_lanes(nines_lanes), _mm512_set1_epi32(7 * (m)));                                                      \
    V_OPAQUE(lanes##m);
    NINES_EACH(NINES_LANES)
    for (; rows > 0; rows--) {
#define NINES_LOAD(m) const vec p##m = v_permute_from(src + (m)*16, lanes##m);
        NINES_EACH(NINES_LOAD)
        NINE_BLENDS(q, p, by_1, 1, 2, 3, 4, 5, 6, 7, 8, 0)
        NINE_BLENDS(r, q, by_2, 2, 3, 4, 5, 6, 7, 8, 0, 1)
        NINE_BLENDS(t, r, by_4, 4, 5, 6, 7, 8, 0, 1, 2, 3)
        NINE_BLENDS(u, t, by_8, 8, 0, 1, 2, 3, 4, 5, 6, 7)
        v_store(dst, u0);
        v_store(dst + 1 * 16, u7);
        v_store(dst + 2 * 16, u5);
        v_store(dst + 3 * 16, u3);
        v_store(dst + 4 * 16, u1);
        v_store(dst + 5 * 16, u8);
        v_store(dst + 6 * 16, u6);
        v_store(dst + 7 * 16, u4);
        v_store(dst + 8 * 16, u2);
        src += 9 * 16;
        dst += dst_step;
    }
}

#include "body_compose.h"

COMPOSE_TILES_9(1)
COMPOSE_TILES_9(2)
COMPOSE_TILES_9(3)

static compose_fn *const tiles[TILE_ROWS][TILE_TAPS] = {{COMPOSE_NAMES_9(1)}, {COMPOSE_NAMES_9(2)}, {COMPOSE_NAMES_9(3)}};

static void compose(const struct dc_compose_args *args)
{
    run_compose(args, tiles);
}

const struct dc_kernel dck_compose_f32_9x48_avx512 = {
    .name = "compose_f32_9x48@avx512",
    .revision = 1,
    .op = DC_OP_COMPOSE,
    .isa = DC_ISA_AVX512,
    .tile_pixels = TILE_TAPS,
    .tile_channels = TILE_ROWS * V_LENGTH,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    .compose = compose,
};
