/* SPDX-License-Identifier: MIT */
/* Vector operations on AVX-512 (F, BW, DQ, VL). The same names in every vec_*.h. */
#ifndef DOCONV_VEC_AVX512_H
#define DOCONV_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define V_LENGTH 16
typedef __m512 vec;

static inline vec v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, vec v)
{
    _mm512_storeu_ps(p, v);
}
static inline vec v_set1(float x)
{
    return _mm512_set1_ps(x);
}
static inline vec v_zero(void)
{
    return _mm512_setzero_ps();
}
/* a * b + c, rounded once. */
static inline vec v_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}
/* c - a * b, rounded once. */
static inline vec v_fnma(vec a, vec b, vec c)
{
    return _mm512_fnmadd_ps(a, b, c);
}
/*
 * v_fma in the form that adds in place. With the intrinsic, compilers turn the last FMAs of a
 * loop's body into the form that overwrites a factor, and then move sums through the stack where a
 * tile fills the registers.
 */
static inline vec v_accumulate(vec a, vec b, vec sum)
{
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}
/* Makes a vector's origin unknown to the compiler. */
#define V_OPAQUE(vector) __asm__("" : "+v"(vector))
/* v_accumulate with the second factor in memory. */
static inline vec v_accumulate_from(vec a, const float *p, vec sum)
{
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "m"(*(const float(*)[V_LENGTH])p));
    return sum;
}
static inline vec v_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}
static inline vec v_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}
static inline vec v_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}
/* Where b is NaN the result is b. */
static inline vec v_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}
static inline vec v_min(vec a, vec b)
{
    return _mm512_min_ps(a, b);
}
/* min(max(v, lo), hi); the operand order lets a NaN in v through. */
static inline vec v_clamp(vec v, vec lo, vec hi)
{
    return _mm512_min_ps(hi, _mm512_max_ps(lo, v));
}
/*
 * The first n lanes, 0 <= n <= V_LENGTH; memory past them is not touched, lanes past them are zero.
 */
static inline vec v_load_first(const float *p, int n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
/* p's vector, or zeros without touching memory. */
static inline vec v_load_if(const float *p, int on)
{
    return _mm512_maskz_loadu_ps((__mmask16)-on, p);
}
/* Lane i becomes lane lanes[i]. */
typedef __m512i v_lanes;
static inline v_lanes v_load_lanes(const int32_t *lanes)
{
    return _mm512_loadu_si512(lanes);
}
static inline vec v_permute(vec v, v_lanes lanes)
{
    return _mm512_permutexvar_ps(lanes, v);
}
/* v_permute of a vector in memory. */
static inline vec v_permute_from(const float *p, v_lanes lanes)
{
    vec v;
    __asm__("vpermps %2, %1, %0" : "=v"(v) : "v"(lanes), "m"(*(const float(*)[V_LENGTH])p));
    return v;
}
static inline void v_store_first(float *p, vec v, int n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
}
static inline vec v_keep_first(vec v, int n)
{
    return _mm512_maskz_mov_ps((__mmask16)((1u << n) - 1), v);
}
/*
 * p[0], p[2], ...: n of them, 1 <= n <= V_LENGTH, lanes past them are zero; nothing past p[2 * n -
 * 2] is touched.
 */
static inline vec v_load_even(const float *p, int n)
{
    const uint32_t mask = (uint32_t)((UINT64_C(1) << (2 * n - 1)) - 1);
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(_mm512_maskz_loadu_ps((__mmask16)mask, p), even,
                                  _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), p + V_LENGTH));
}

/* v_store past the caches, to a multiple of a vector's bytes; and after the last of them. */
static inline void v_stream(float *p, vec v)
{
    _mm512_stream_ps(p, v);
}
static inline void v_stream_end(void)
{
    _mm_sfence();
}

/* Vectors of doubles, as wide as vec: half as many. Floats become doubles, and are rounded back. */
#define D_LENGTH 8
typedef __m512d vecd;
static inline vecd d_load(const float *p)
{
    return _mm512_cvtps_pd(_mm256_loadu_ps(p));
}
static inline void d_store(float *p, vecd v)
{
    _mm256_storeu_ps(p, _mm512_cvtpd_ps(v));
}
static inline vecd d_set1(double x)
{
    return _mm512_set1_pd(x);
}
static inline vecd d_mul(vecd a, vecd b)
{
    return _mm512_mul_pd(a, b);
}
static inline vecd d_fma(vecd a, vecd b, vecd c)
{
    return _mm512_fmadd_pd(a, b, c);
}
static inline vecd d_fnma(vecd a, vecd b, vecd c)
{
    return _mm512_fnmadd_pd(a, b, c);
}

#include "transpose_avx.h"

#endif
