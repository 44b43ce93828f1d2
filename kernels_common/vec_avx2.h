/* SPDX-License-Identifier: MIT */
/* Vector operations on AVX2 with FMA. The same names in every vec_*.h. */
#ifndef DOCONV_VEC_AVX2_H
#define DOCONV_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define V_LENGTH 8
typedef __m256 vec;

static inline vec v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
static inline void v_store(float *p, vec v)
{
    _mm256_storeu_ps(p, v);
}
static inline vec v_set1(float x)
{
    return _mm256_set1_ps(x);
}
static inline vec v_zero(void)
{
    return _mm256_setzero_ps();
}
/* a * b + c, rounded once. */
static inline vec v_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}
/* c - a * b, rounded once. */
static inline vec v_fnma(vec a, vec b, vec c)
{
    return _mm256_fnmadd_ps(a, b, c);
}
/*
 * v_fma in the form that adds in place. With the intrinsic, compilers turn the last FMAs of a
 * loop's body into the form that overwrites a factor, and then move sums through the stack where a
 * tile fills the registers.
 */
static inline vec v_accumulate(vec a, vec b, vec sum)
{
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
    return sum;
}
/* Makes a vector's origin unknown to the compiler. */
#define V_OPAQUE(vector) __asm__("" : "+x"(vector))
/* v_accumulate with the second factor in memory. */
static inline vec v_accumulate_from(vec a, const float *p, vec sum)
{
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "m"(*(const float(*)[V_LENGTH])p));
    return sum;
}
static inline vec v_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}
static inline vec v_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}
static inline vec v_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}
/* Where b is NaN the result is b. */
static inline vec v_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}
static inline vec v_min(vec a, vec b)
{
    return _mm256_min_ps(a, b);
}
/* min(max(v, lo), hi); the operand order lets a NaN in v through. */
static inline vec v_clamp(vec v, vec lo, vec hi)
{
    return _mm256_min_ps(hi, _mm256_max_ps(lo, v));
}
static inline __m256i v_first_mask(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
/*
 * The first n lanes, 0 <= n <= V_LENGTH; memory past them is not touched, lanes past them are zero.
 */
static inline vec v_load_first(const float *p, int n)
{
    return _mm256_maskload_ps(p, v_first_mask(n));
}
/*
 * p's vector, or zeros without touching its memory. A masked load takes hundreds of cycles where
 * that is in no page of the process's; the compiler must not make a branch of the choice.
 */
static inline vec v_load_if(const float *p, int on)
{
    static const float zeros[V_LENGTH];
    p = on ? p : zeros;
    __asm__("" : "+r"(p));
    return _mm256_loadu_ps(p);
}
/* Lane i becomes lane lanes[i]. */
typedef __m256i v_lanes;
static inline v_lanes v_load_lanes(const int32_t *lanes)
{
    return _mm256_loadu_si256((const __m256i *)lanes);
}
static inline vec v_permute(vec v, v_lanes lanes)
{
    return _mm256_permutevar8x32_ps(v, lanes);
}
/* v_permute of a vector in memory. */
static inline vec v_permute_from(const float *p, v_lanes lanes)
{
    vec v;
    __asm__("vpermps %2, %1, %0" : "=x"(v) : "x"(lanes), "m"(*(const float(*)[V_LENGTH])p));
    return v;
}
/* In parts: a masked store takes tens of cycles on AMD's cores. */
static inline void v_store_first(float *p, vec v, int n)
{
    __m128 part = _mm256_castps256_ps128(v);
    if (n == V_LENGTH) {
        v_store(p, v);
        return;
    }
    if (n & 4) {
        _mm_storeu_ps(p, part);
        part = _mm256_extractf128_ps(v, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, part);
        part = _mm_movehl_ps(part, part);
        p += 2;
    }
    if (n & 1) {
        _mm_store_ss(p, part);
    }
}
static inline vec v_keep_first(vec v, int n)
{
    return _mm256_and_ps(v, _mm256_castsi256_ps(v_first_mask(n)));
}
/*
 * p[0], p[2], ...: n of them, 1 <= n <= V_LENGTH, lanes past them are zero; nothing past p[2 * n -
 * 2] is touched.
 */
static inline vec v_load_even(const float *p, int n)
{
    const int inputs = 2 * n - 1;
    const vec low = v_load_first(p, inputs),
              high = inputs > V_LENGTH ? v_load_first(p + V_LENGTH, inputs - V_LENGTH) : v_zero();
    return _mm256_castpd_ps(
        _mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(low, high, 0x88)), 0xd8));
}

/* v_store past the caches, to a multiple of a vector's bytes; and after the last of them. */
static inline void v_stream(float *p, vec v)
{
    _mm256_stream_ps(p, v);
}
static inline void v_stream_end(void)
{
    _mm_sfence();
}

/* Vectors of doubles, as wide as vec: half as many. Floats become doubles, and are rounded back. */
#define D_LENGTH 4
typedef __m256d vecd;
static inline vecd d_load(const float *p)
{
    return _mm256_cvtps_pd(_mm_loadu_ps(p));
}
static inline void d_store(float *p, vecd v)
{
    _mm_storeu_ps(p, _mm256_cvtpd_ps(v));
}
static inline vecd d_set1(double x)
{
    return _mm256_set1_pd(x);
}
static inline vecd d_mul(vecd a, vecd b)
{
    return _mm256_mul_pd(a, b);
}
static inline vecd d_fma(vecd a, vecd b, vecd c)
{
    return _mm256_fmadd_pd(a, b, c);
}
static inline vecd d_fnma(vecd a, vecd b, vecd c)
{
    return _mm256_fnmadd_pd(a, b, c);
}

#include "transpose_avx.h"

#endif
