/* SPDX-License-Identifier: MIT */
/* Folding W and D: 9 taps x 3 rows of 16 channels. 27 sums, 3 vectors of W and 1 of D: 31 of 32 registers. */
#include "few_avx.h"
#include "vec_avx512.h"

#define TILE_TAPS 9
#define TILE_ROWS 3
#define HOLD_TAPS 0
#define NINES 1
#define OCTETS 1 /* octet_in() */
#define NINES_TILE 1 /* compose_nines() */

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

/* to[column * stride + lane] = base[lanes[lane] + column], eight columns: halves of 8 rows each, transposed in quarters of 4 x 4, which then change places. */
static inline void octet_in(const float *base, const ptrdiff_t *lanes, float *to, ptrdiff_t stride)
{
#define OCTET_LOAD(i)                                                                                                                                \
    const vec r##i = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(base + lanes[i])), _mm256_loadu_ps(base + lanes[8 + (i)]), 1);
    OCTET_LOAD(0) OCTET_LOAD(1) OCTET_LOAD(2) OCTET_LOAD(3) OCTET_LOAD(4) OCTET_LOAD(5) OCTET_LOAD(6) OCTET_LOAD(7)
    vec a0 = r0, a1 = r1, a2 = r2, a3 = r3, b0 = r4, b1 = r5, b2 = r6, b3 = r7;
    transpose_quads(&a0, &a1, &a2, &a3);
    transpose_quads(&b0, &b1, &b2, &b3);
/* Of rows 0 to 3 and 8 to 11 in a, and of 4 to 7 and 12 to 15 in b: column c in the even quarters, column c + 4 in the odd ones. */
#define OCTET_STORE(c)                                                                                                                               \
    {                                                                                                                                                \
        const __m512d a = _mm512_castps_pd(a##c), b = _mm512_castps_pd(b##c);                                                                        \
        v_store(to + (c)*stride, _mm512_castpd_ps(_mm512_mask_permutex_pd(a, 0xcc, b, 0x44)));                                                       \
        v_store(to + ((c) + 4) * stride, _mm512_castpd_ps(_mm512_mask_permutex_pd(b, 0x33, a, 0xee)));                                               \
    }
    OCTET_STORE(0) OCTET_STORE(1) OCTET_STORE(2) OCTET_STORE(3)
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

/*
 * All of it in registers, for nine taps and D_mul 9. Instead of permuting each column, lanes are only turned by its number: then row i is in lane
 * 9 * i % 16 of every column, and D has its channels in that order (NINES_ORDER).
 */
#define NINES_ORDER(lane) (9 * (lane) % 16)
#define ROW_BYTES (9 * 16 * sizeof(float))
#define TURN(v, lanes) _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(v), _mm512_castps_si512(v), (lanes) % 16))
/* A step of the sums: column s of W against its nine vectors of D, from memory. */
#define NINE_FMA(s, m) a##m = v_accumulate_from(w##s, d + ((m)*9 + (s)) * 16, a##m);
#define NINE_STEP(s)                                                                                                                                 \
    NINE_FMA(s, 0)                                                                                                                                   \
    NINE_FMA(s, 1) NINE_FMA(s, 2) NINE_FMA(s, 3) NINE_FMA(s, 4) NINE_FMA(s, 5) NINE_FMA(s, 6) NINE_FMA(s, 7) NINE_FMA(s, 8)
/* What stands before it is computed before what stands after it: compilers would gather what is interleaved here on purpose. */
#define NINE_FENCE(x)                                                                                                                                \
    __asm__ volatile(""                                                                                                                              \
                     : "+v"(a0), "+v"(a1), "+v"(a2), "+v"(a3), "+v"(a4), "+v"(a5), "+v"(a6), "+v"(a7), "+v"(a8)                                      \
                     : "v"(x##0), "v"(x##1), "v"(x##2), "v"(x##3), "v"(x##4), "v"(x##5), "v"(x##6), "v"(x##7), "v"(x##8));
/* The columns of the row at `from` in four stages, with the steps that F is (0: none) between them. */
#define NINE_COLUMNS(x, from, F)                                                                                                                     \
    const vec p0 = v_load(from), p1 = v_load((from) + 4 * 16), p2 = v_load((from) + 8 * 16), p3 = v_load((from) + 3 * 16),                           \
              p4 = v_load((from) + 7 * 16), p5 = v_load((from) + 2 * 16), p6 = v_load((from) + 6 * 16), p7 = v_load((from) + 1 * 16),                \
              p8 = v_load((from) + 5 * 16);                                                                                                          \
    NINE_BLENDS(q, p, by_1, 8, 0, 1, 2, 3, 4, 5, 6, 7)                                                                                               \
    F(5, q)                                                                                                                                          \
    NINE_BLENDS(r, q, by_2, 7, 8, 0, 1, 2, 3, 4, 5, 6)                                                                                               \
    F(6, r)                                                                                                                                          \
    NINE_BLENDS(t, r, by_4, 5, 6, 7, 8, 0, 1, 2, 3, 4)                                                                                               \
    F(7, t)                                                                                                                                          \
    NINE_BLENDS(u, t, by_8, 1, 2, 3, 4, 5, 6, 7, 8, 0)                                                                                               \
    x##0 = u0, x##1 = TURN(u1, 1), x##2 = TURN(u2, 2), x##3 = TURN(u3, 3), x##4 = TURN(u4, 4), x##5 = TURN(u5, 5), x##6 = TURN(u6, 6);               \
    x##7 = TURN(u7, 7), x##8 = TURN(u8, 8);                                                                                                          \
    F(8, x)
/* And back, from the sums b0..b8. */
#define NINE_STORES(to, F)                                                                                                                           \
    const vec p0 = b0, p1 = TURN(b1, 15), p2 = TURN(b2, 14), p3 = TURN(b3, 13), p4 = TURN(b4, 12), p5 = TURN(b5, 11), p6 = TURN(b6, 10),             \
              p7 = TURN(b7, 9), p8 = TURN(b8, 8);                                                                                                    \
    F(1, p)                                                                                                                                          \
    NINE_BLENDS(q, p, by_1, 1, 2, 3, 4, 5, 6, 7, 8, 0)                                                                                               \
    F(2, q)                                                                                                                                          \
    NINE_BLENDS(r, q, by_2, 2, 3, 4, 5, 6, 7, 8, 0, 1)                                                                                               \
    F(3, r)                                                                                                                                          \
    NINE_BLENDS(t, r, by_4, 4, 5, 6, 7, 8, 0, 1, 2, 3)                                                                                               \
    NINE_BLENDS(u, t, by_8, 8, 0, 1, 2, 3, 4, 5, 6, 7)                                                                                               \
    v_store(to, u0), v_store((to) + 1 * 16, u7), v_store((to) + 2 * 16, u5), v_store((to) + 3 * 16, u3), v_store((to) + 4 * 16, u1);                 \
    v_store((to) + 5 * 16, u8), v_store((to) + 6 * 16, u6), v_store((to) + 7 * 16, u4), v_store((to) + 8 * 16, u2);                                  \
    F(4, u)
#define NINE_ZERO(m) vec a##m = v_zero();
#define NINE_BETWEEN(s, x) NINE_FENCE(x) NINE_STEP(s)
#define NINE_ALONE(s, x)

/* The columns of a row, their lanes turned: three to each of `to`, to + third and to + 2 * third. */
static inline void nines_columns(const float *src, float *to, ptrdiff_t third)
{
    NINES_MASKS
    vec x0, x1, x2, x3, x4, x5, x6, x7, x8;
    NINE_COLUMNS(x, src, NINE_ALONE)
    v_store(to, x0), v_store(to + 16, x1), v_store(to + 2 * 16, x2);
    to += third;
    v_store(to, x3), v_store(to + 16, x4), v_store(to + 2 * 16, x5);
    to += third;
    v_store(to, x6), v_store(to + 16, x7), v_store(to + 2 * 16, x8);
}

#include "body_compose.h"

/*
 * While a row is multiplied, the sums of the row before it leave and the columns of the next are made, in stages between the steps: neither needs the units
 * that multiply. The row after a block's last is the first of the next block.
 */
static __attribute__((noinline)) void compose_nines(const struct nines *of)
{
    NINES_MASKS
    const ptrdiff_t count = of->count, w_step = of->w_step, weight_step = of->weight_step, ahead = of->ahead;
    vec w0, w1, w2, w3, w4, w5, w6, w7, w8, b0, b1, b2, b3, b4, b5, b6, b7, b8;
    float nowhere[9 * 16], *before = nowhere; /* where the sums of the row before go: there was none */
    {
        NINE_COLUMNS(w, of->blocks[0].w + of->w_offset, NINE_ALONE)
        b0 = b1 = b2 = b3 = b4 = b5 = b6 = b7 = b8 = v_zero();
    }
    /* What is ahead is prefetched in the order of memory, whatever the order of the work: hardware then reads on by itself. These may lie past the tensors. */
    uintptr_t w_ahead = (uintptr_t)of->blocks[0].w + (uintptr_t)(of->w_offset + ahead * w_step) * sizeof(float);
    uintptr_t weight_ahead = (uintptr_t)of->blocks[0].weight + (uintptr_t)(of->weight_offset + ahead * weight_step) * sizeof(float);
    ptrdiff_t fetched = 0;
    for (ptrdiff_t block = 0; block < count; block++) {
        const float *d = of->d + block * of->d_step, *w = of->blocks[block].w + of->w_offset;
        const float *const after = block + 1 < count ? of->blocks[block + 1].w + of->w_offset : w;
        float *weight = of->blocks[block].weight + of->weight_offset;
        for (ptrdiff_t rows = of->rows; rows > 0; rows--) {
            if (ahead != 0) {
                for (uintptr_t line = 0; line < ROW_BYTES; line += 64) {
                    __builtin_prefetch((const void *)(w_ahead + line), 0, 2);
                    __builtin_prefetch((const void *)(weight_ahead + line), 0, 2);
                }
                w_ahead += ROW_BYTES;
                weight_ahead += ROW_BYTES;
                if (++fetched == count) {
                    fetched = 0;
                    w_ahead += (uintptr_t)w_step * sizeof(float) - (uintptr_t)count * ROW_BYTES;
                    weight_ahead += (uintptr_t)weight_step * sizeof(float) - (uintptr_t)count * ROW_BYTES;
                }
            }
            __asm__("" : "+r"(d)); /* D stays in memory: there are no registers for it */
            w = rows > 1 ? w + w_step : after;
            vec x0, x1, x2, x3, x4, x5, x6, x7, x8;
            NINES_EACH(NINE_ZERO)
            NINE_STEP(0){NINE_STORES(before, NINE_BETWEEN)} {NINE_COLUMNS(x, w, NINE_BETWEEN)} b0 = a0, b1 = a1, b2 = a2, b3 = a3, b4 = a4, b5 = a5,
                                                                                               b6 = a6, b7 = a7, b8 = a8;
            w0 = x0, w1 = x1, w2 = x2, w3 = x3, w4 = x4, w5 = x5, w6 = x6, w7 = x7, w8 = x8;
            before = weight;
            weight += weight_step;
        }
    }
    NINE_STORES(before, NINE_ALONE)
}

#include "body_compose_gradient.h"

COMPOSE_TILES_9(1)
COMPOSE_TILES_9(2)
COMPOSE_TILES_9(3)

static compose_fn *const tiles[TILE_ROWS][TILE_TAPS] = {{COMPOSE_NAMES_9(1)}, {COMPOSE_NAMES_9(2)}, {COMPOSE_NAMES_9(3)}};

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
    .op = DC_OP_COMPOSE,
    .isa = DC_ISA_AVX512,
    .tile_pixels = TILE_TAPS,
    .tile_channels = TILE_ROWS * V_LENGTH,
    .vector = V_LENGTH,
    .error_amplification = 1.0f,
    .compose = compose,
    .compose_gradient = compose_gradient,
};
