/* SPDX-License-Identifier: MIT */
/*
 * 8 x 8 transposition in registers, for both x86 bundles: `side` is a vector of V_TRANSPOSE floats.
 * Squares of 256-bit vectors need no fewer shuffles a float than 512-bit ones, and both AMD and
 * Intel start two of them a cycle.
 */
#ifndef DOCONV_TRANSPOSE_AVX_H
#define DOCONV_TRANSPOSE_AVX_H

#include <immintrin.h>
#include <stddef.h>

#define V_TRANSPOSE 8
typedef __m256 side;

/*
 * X(i) for each side of a square. Loops would keep arrays of sides in memory: compilers unroll them
 * too late, if at all.
 */
#define SIDES(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

static inline void side_store(float *p, side r)
{
    _mm256_storeu_ps(p, r);
}
static inline side side_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
/* The first n lanes, 0 <= n < V_TRANSPOSE; memory past them is not touched. */
static inline side side_load_first(const float *p, int n)
{
    return _mm256_maskload_ps(
        p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
}
/* In halves: masked stores are slow on AMD. */
static inline void side_store_first(float *p, side r, int n)
{
    __m128 part = _mm256_castps256_ps128(r);
    if (n & 4) {
        _mm_storeu_ps(p, part);
        part = _mm256_extractf128_ps(r, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)(void *)p, part);
        part = _mm_movehl_ps(part, part);
        p += 2;
    }
    if (n & 1) {
        _mm_store_ss(p, part);
    }
}
static inline side side_add(side a, side b)
{
    return _mm256_add_ps(a, b);
}
static inline side side_set1(float x)
{
    return _mm256_set1_ps(x);
}
/* min(max(r, lo), hi); the operand order lets a NaN in r through. */
static inline side side_clamp(side r, side lo, side hi)
{
    return _mm256_min_ps(hi, _mm256_max_ps(lo, r));
}

/*
 * From rows that hold columns 0..3 (or 4..7) of source rows k and k + 4 in their halves: only
 * shuffles inside halves are left.
 */
static inline __attribute__((always_inline)) void
transpose_halves(const side low[4], const side high[4], side to[V_TRANSPOSE])
{
#define HALF(from, k)                                                                              \
    {                                                                                              \
        const side a = _mm256_unpacklo_ps(from[0], from[1]),                                       \
                   b = _mm256_unpackhi_ps(from[0], from[1]);                                       \
        const side c = _mm256_unpacklo_ps(from[2], from[3]),                                       \
                   d = _mm256_unpackhi_ps(from[2], from[3]);                                       \
        to[(k) + 0] = _mm256_shuffle_ps(a, c, 0x44);                                               \
        to[(k) + 1] = _mm256_shuffle_ps(a, c, 0xee);                                               \
        to[(k) + 2] = _mm256_shuffle_ps(b, d, 0x44);                                               \
        to[(k) + 3] = _mm256_shuffle_ps(b, d, 0xee);                                               \
    }
    HALF(low, 0)
    HALF(high, 4)
#undef HALF
}

/* Lane j of to[i] is src[j * stride + i]. */
static inline __attribute__((always_inline)) void transpose_load(const float *src, ptrdiff_t stride,
                                                                 side to[V_TRANSPOSE])
{
    side low[4], high[4];
#define PAIR(at)                                                                                   \
    _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(at)),                                 \
                         _mm_loadu_ps((at) + 4 * stride), 1)
#define ROWS(k)                                                                                    \
    low[k] = PAIR(src + (k)*stride);                                                               \
    high[k] = PAIR(src + (k)*stride + 4);
    ROWS(0)
    ROWS(1)
    ROWS(2)
    ROWS(3)
#undef ROWS
#undef PAIR
    transpose_halves(low, high, to);
}

/* The same for i < n < V_TRANSPOSE; memory past the first n columns is not touched. */
static inline void transpose_load_first(const float *src, ptrdiff_t stride, int n,
                                        side to[V_TRANSPOSE])
{
    side low[4], high[4];
#define ROWS(k)                                                                                    \
    {                                                                                              \
        const side first = side_load_first(src + (k)*stride, n),                                   \
                   second = side_load_first(src + ((k) + 4) * stride, n);                          \
        low[k] = _mm256_permute2f128_ps(first, second, 0x20);                                      \
        high[k] = _mm256_permute2f128_ps(first, second, 0x31);                                     \
    }
    ROWS(0)
    ROWS(1)
    ROWS(2)
    ROWS(3)
#undef ROWS
    transpose_halves(low, high, to);
}

/*
 * Pixels of up to 4 channels, planes apart in src, together in `to`: how many of `count` are done.
 * Each pixel is stored with 4 floats, of which the next pixel overwrites what is too much, so the
 * last ones are left to the caller.
 */
static inline ptrdiff_t interleave_few(float *to, ptrdiff_t pixel, const float *src,
                                       ptrdiff_t plane, ptrdiff_t channels, ptrdiff_t count)
{
    ptrdiff_t x = 0;
    if (channels > 1 && channels <= 4) {
        for (; x + 5 <= count; x += 4) {
            __m128 a = _mm_loadu_ps(src + x), b = _mm_loadu_ps(src + plane + x),
                   c = _mm_setzero_ps(), d = _mm_setzero_ps();
            if (channels > 2) {
                c = _mm_loadu_ps(src + 2 * plane + x);
            }
            if (channels > 3) {
                d = _mm_loadu_ps(src + 3 * plane + x);
            }
            _MM_TRANSPOSE4_PS(a, b, c, d);
            _mm_storeu_ps(to + x * pixel, a);
            _mm_storeu_ps(to + (x + 1) * pixel, b);
            _mm_storeu_ps(to + (x + 2) * pixel, c);
            _mm_storeu_ps(to + (x + 3) * pixel, d);
        }
    }
    return x;
}

#endif
