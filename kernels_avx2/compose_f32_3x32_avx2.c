/* SPDX-License-Identifier: MIT */
/*
 * Folding W and D: 3 taps x 4 rows of 8 channels. 12 sums, 3 vectors of D and 1 of W: 16 registers;
 * a 3 x 3 kernel is three such tiles.
 */
#include "few_avx.h"
#include "vec_avx2.h"

#define TILE_TAPS 3
#define TILE_ROWS 4
#define HOLD_TAPS 1
#define NINES 1
#define OCTETS 0
#define OUTPUT_LANES 0

static inline vec join_rows(const float *base, const ptrdiff_t *lanes)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(base + lanes[0])),
                                _mm_loadu_ps(base + lanes[4]), 1);
}

static inline vec join_few(const float *base, const ptrdiff_t *lanes, int n)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(load_few(base + lanes[0], n)),
                                load_few(base + lanes[4], n), 1);
}

static inline void split_rows(float *base, const ptrdiff_t *lanes, vec v)
{
    _mm_storeu_ps(base + lanes[0], _mm256_castps256_ps128(v));
    _mm_storeu_ps(base + lanes[4], _mm256_extractf128_ps(v, 1));
}

static inline void split_few(float *base, const ptrdiff_t *lanes, vec v, int n)
{
    store_few(base + lanes[0], _mm256_castps256_ps128(v), n);
    store_few(base + lanes[4], _mm256_extractf128_ps(v, 1), n);
}

static inline void transpose_quads(vec *a, vec *b, vec *c, vec *d)
{
    const vec low0 = _mm256_unpacklo_ps(*a, *b), high0 = _mm256_unpackhi_ps(*a, *b);
    const vec low1 = _mm256_unpacklo_ps(*c, *d), high1 = _mm256_unpackhi_ps(*c, *d);
    *a = _mm256_shuffle_ps(low0, low1, 0x44);
    *b = _mm256_shuffle_ps(low0, low1, 0xee);
    *c = _mm256_shuffle_ps(high0, high1, 0x44);
    *d = _mm256_shuffle_ps(high0, high1, 0xee);
}

/*
 * Nine vectors hold 8 rows of nine floats: float f = 8 * v + k is lane k of vector v and belongs to
 * column f % 9 = (k - v) % 9. Numbered u = -v % 9, lane k of column s is in vector (s - k) % 9: so
 * the vectors rotate by k in lane k, by one, two and four where k has these bits. A column then has
 * all of its floats, that of row i in lane (9 * i + s) % 8 = (i + s) % 8: a permutation whose
 * indexes are those of the column before plus one (only their last three bits count). The way back
 * is the same backwards.
 */
#define BY_1 0xaa
#define BY_2 0xcc
#define BY_4 0xf0
#define BLEND(x, y, which) _mm256_blend_ps(x, y, which)

static const int32_t nines_lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7};

static __attribute__((noinline)) void nines_in(const float *src, ptrdiff_t src_step, ptrdiff_t rows,
                                               float *dst)
{
    const ptrdiff_t stride = rows * 8;
    for (; rows > 0; rows--) {
        const vec p0 = v_load(src), p1 = v_load(src + 8 * 8), p2 = v_load(src + 7 * 8),
                  p3 = v_load(src + 6 * 8), p4 = v_load(src + 5 * 8), p5 = v_load(src + 4 * 8),
                  p6 = v_load(src + 3 * 8), p7 = v_load(src + 2 * 8), p8 = v_load(src + 1 * 8);
        NINE_BLENDS(q, p, BY_1, 8, 0, 1, 2, 3, 4, 5, 6, 7)
        NINE_BLENDS(r, q, BY_2, 7, 8, 0, 1, 2, 3, 4, 5, 6)
        NINE_BLENDS(u, r, BY_4, 5, 6, 7, 8, 0, 1, 2, 3, 4)
#define NINES_STORE(s)                                                                             \
    v_store(dst + (s)*stride, v_permute(u##s, v_load_lanes(nines_lanes + (s) % 8)));
        NINES_EACH(NINES_STORE)
        src += src_step;
        dst += 8;
    }
}

static __attribute__((noinline)) void nines_out(const float *src, float *dst, ptrdiff_t dst_step,
                                                ptrdiff_t rows)
{
    for (; rows > 0; rows--) {
#define NINES_LOAD(m)                                                                              \
    const vec p##m = v_permute_from(src + (m)*8, v_load_lanes(nines_lanes + (16 - (m)) % 8));
        NINES_EACH(NINES_LOAD)
        NINE_BLENDS(q, p, BY_1, 1, 2, 3, 4, 5, 6, 7, 8, 0)
        NINE_BLENDS(r, q, BY_2, 2, 3, 4, 5, 6, 7, 8, 0, 1)
        NINE_BLENDS(u, r, BY_4, 4, 5, 6, 7, 8, 0, 1, 2, 3)
        v_store(dst, u0);
        v_store(dst + 1 * 8, u8);
        v_store(dst + 2 * 8, u7);
        v_store(dst + 3 * 8, u6);
        v_store(dst + 4 * 8, u5);
        v_store(dst + 5 * 8, u4);
        v_store(dst + 6 * 8, u3);
        v_store(dst + 7 * 8, u2);
        v_store(dst + 8 * 8, u1);
        src += 9 * 8;
        dst += dst_step;
    }
}

#include "body_compose.h"
#include "body_compose_gradient.h"

COMPOSE_TILES_3(1)
COMPOSE_TILES_3(2)
COMPOSE_TILES_3(3)
COMPOSE_TILES_3(4)

static compose_fn *const tiles[TILE_ROWS][TILE_TAPS] = {
    {COMPOSE_NAMES_3(1)}, {COMPOSE_NAMES_3(2)}, {COMPOSE_NAMES_3(3)}, {COMPOSE_NAMES_3(4)}};

static void compose(const struct dc_compose_args *args)
{
    run_compose(args, tiles);
}

static void compose_gradient(const struct dc_compose_gradient_args *args)
{
    run_compose_gradient(args, tiles);
}

const struct dc_kernel dck_compose_f32_3x32_avx2 = {
    .name = "compose_f32_3x32@avx2",
    .revision = 1,
    .isa = DC_ISA_AVX2,
    .tile_pixels = TILE_TAPS,
    .tile_channels = TILE_ROWS * V_LENGTH,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_COMPOSE_FUNCTIONS(compose, compose_gradient),
};
