/* SPDX-License-Identifier: MIT */
/*
 * Folding W and D: 9 taps x 3 rows of 16 channels. 27 sums, 3 vectors of W and 1 of D: 31 of 32
 * registers.
 */
#include "few_avx.h"
#include "vec_avx512.h"

#define TILE_TAPS 9
#define TILE_ROWS 3
#define HOLD_TAPS 0
#define NINES 1
#define OCTETS 1
#define OUTPUT_LANES 1

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

static inline vec join_halves(const float *low, const float *high)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(low)), _mm256_loadu_ps(high),
                              1);
}

/*
 * Columns of 16 rows of eight: of i and i + 4 in vector i < 4, of i + 4 and i + 8 in those after.
 * Transposed in quarters, which then change places.
 */
static inline __attribute__((always_inline)) void transpose_octet(vec *rows, vec *columns)
{
    transpose_quads(&rows[0], &rows[1], &rows[2], &rows[3]);
    transpose_quads(&rows[4], &rows[5], &rows[6], &rows[7]);
#define OCTET_COLUMNS(i)                                                                           \
    columns[i] = _mm512_shuffle_f32x4(rows[i], rows[(i) + 4], 0x88);                               \
    columns[(i) + 4] = _mm512_shuffle_f32x4(rows[i], rows[(i) + 4], 0xdd);
    OCTET_COLUMNS(0) OCTET_COLUMNS(1) OCTET_COLUMNS(2) OCTET_COLUMNS(3)
}

static inline void octet_in(const float *base, const ptrdiff_t *lanes, float *to, ptrdiff_t stride)
{
    vec rows[8], columns[8];
#define OCTET_ROWS(i)                                                                              \
    rows[i] = join_halves(base + lanes[i], base + lanes[(i) + 4]);                                 \
    rows[(i) + 4] = join_halves(base + lanes[(i) + 8], base + lanes[(i) + 12]);
    OCTET_ROWS(0) OCTET_ROWS(1) OCTET_ROWS(2) OCTET_ROWS(3) transpose_octet(rows, columns);
#define OCTET_STORE(i) v_store(to + (i)*stride, columns[i]);
    OCTET_STORE(0)
    OCTET_STORE(1)
    OCTET_STORE(2) OCTET_STORE(3) OCTET_STORE(4) OCTET_STORE(5) OCTET_STORE(6) OCTET_STORE(7)
}

/*
 * Nine vectors hold 16 rows of nine floats: float f = 16 * v + k is lane k of vector v and belongs
 * to column f % 9 = (7 * v + k) % 9. Numbered u = 7 * v % 9, lane k of column s is in vector (s -
 * k) % 9: so the vectors rotate by k % 9 in lane k, by one, two, four and eight where k % 9 has
 * these bits. A column then has all of its floats, that of row i in lane (9 * i + s) % 16: a
 * permutation whose indexes are those of the column before plus one (only their last four bits
 * count). The way back is the same backwards; 9 * 9 = 1 modulo 16.
 */
#define BLEND(x, y, which) _mm512_mask_blend_ps(which, x, y)
/*
 * Masks in registers before the loop over rows: compilers would load them from constants at each
 * use.
 */
#define NINES_MASKS                                                                                \
    __mmask16 by_1 = 0x54aa, by_2 = 0x98cc, by_4 = 0xe0f0, by_8 = 0x0100;                          \
    __asm__("" : "+Yk"(by_1), "+Yk"(by_2), "+Yk"(by_4), "+Yk"(by_8));
static const int32_t nines_lanes[16] = {0, 9, 2, 11, 4, 13, 6, 15, 8, 1, 10, 3, 12, 5, 14, 7};

static __attribute__((noinline)) void nines_in(const float *src, ptrdiff_t src_step, ptrdiff_t rows,
                                               float *dst)
{
    const ptrdiff_t stride = rows * 16;
    NINES_MASKS
#define NINES_LANES(s)                                                                             \
    v_lanes lanes##s = _mm512_add_epi32(v_load_lanes(nines_lanes), _mm512_set1_epi32(s));          \
    V_OPAQUE(lanes##s);
    NINES_EACH(NINES_LANES)
    for (; rows > 0; rows--) {
        const vec p0 = v_load(src), p1 = v_load(src + 4 * 16), p2 = v_load(src + 8 * 16),
                  p3 = v_load(src + 3 * 16), p4 = v_load(src + 7 * 16), p5 = v_load(src + 2 * 16),
                  p6 = v_load(src + 6 * 16), p7 = v_load(src + 1 * 16), p8 = v_load(src + 5 * 16);
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

static __attribute__((noinline)) void nines_out(const float *src, float *dst, ptrdiff_t dst_step,
                                                ptrdiff_t rows)
{
    NINES_MASKS
#undef NINES_LANES
#define NINES_LANES(m)                                                                             \
    v_lanes lanes##m = _mm512_add_epi32(v_load_lanes(nines_lanes), _mm512_set1_epi32(7 * (m)));    \
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

/*
 * Instead of permuting each column, lanes may only be turned by its number: then row i is in lane 9
 * * i % 16 of every column.
 */
#define NINES_ORDER(lane) (9 * (lane) % 16)
#define TURN(v, lanes)                                                                             \
    _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(v), _mm512_castps_si512(v), lanes))

/*
 * The columns of a row, their lanes turned: three to each of `to`, to + third and to + 2 * third.
 */
static inline void nines_columns(const float *src, float *to, ptrdiff_t third)
{
    NINES_MASKS
    const vec p0 = v_load(src), p1 = v_load(src + 4 * 16), p2 = v_load(src + 8 * 16),
              p3 = v_load(src + 3 * 16), p4 = v_load(src + 7 * 16), p5 = v_load(src + 2 * 16),
              p6 = v_load(src + 6 * 16), p7 = v_load(src + 1 * 16), p8 = v_load(src + 5 * 16);
    NINE_BLENDS(q, p, by_1, 8, 0, 1, 2, 3, 4, 5, 6, 7)
    NINE_BLENDS(r, q, by_2, 7, 8, 0, 1, 2, 3, 4, 5, 6)
    NINE_BLENDS(t, r, by_4, 5, 6, 7, 8, 0, 1, 2, 3, 4)
    NINE_BLENDS(u, t, by_8, 1, 2, 3, 4, 5, 6, 7, 8, 0)
    v_store(to, u0), v_store(to + 16, TURN(u1, 1)), v_store(to + 2 * 16, TURN(u2, 2));
    to += third;
    v_store(to, TURN(u3, 3)), v_store(to + 16, TURN(u4, 4)), v_store(to + 2 * 16, TURN(u5, 5));
    to += third;
    v_store(to, TURN(u6, 6)), v_store(to + 16, TURN(u7, 7)), v_store(to + 2 * 16, TURN(u8, 8));
}

#include "body_compose.h"
#include "compose_nines.h"
#include "body_compose_gradient.h"

COMPOSE_TILES_9(1)
COMPOSE_TILES_9(2)
COMPOSE_TILES_9(3)

static compose_fn *const tiles[TILE_ROWS][TILE_TAPS] = {
    {COMPOSE_NAMES_9(1)}, {COMPOSE_NAMES_9(2)}, {COMPOSE_NAMES_9(3)}};

static void compose(const struct dc_compose_args *args)
{
    run_compose(args, tiles);
}

static void compose_gradient(const struct dc_compose_gradient_args *args)
{
    run_compose_gradient(args, tiles);
}

const struct dc_kernel dck_compose_f32_9x48_avx512 = {
    .name = "compose_f32_9x48@avx512",
    .revision = 1,
    .isa = DC_ISA_AVX512,
    .tile_pixels = TILE_TAPS,
    .tile_channels = TILE_ROWS * V_LENGTH,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    DC_COMPOSE_FUNCTIONS(compose, compose_gradient),
};
