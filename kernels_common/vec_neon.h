/* SPDX-License-Identifier: MIT */
/* Vector operations on NEON (aarch64). The same names in every vec_*.h. */
#ifndef DOCONV_VEC_NEON_H
#define DOCONV_VEC_NEON_H

#include <arm_neon.h>
#include <stddef.h>

#define V_LENGTH 4
typedef float32x4_t vec;

static inline vec v_load(const float *p)
{
    return vld1q_f32(p);
}
static inline void v_store(float *p, vec v)
{
    vst1q_f32(p, v);
}
static inline vec v_set1(float x)
{
    return vdupq_n_f32(x);
}
static inline vec v_zero(void)
{
    return vdupq_n_f32(0.0f);
}
/* a * b + c, rounded once. */
static inline vec v_fma(vec a, vec b, vec c)
{
    return vfmaq_f32(c, a, b);
}
/* c - a * b, rounded once. */
static inline vec v_fnma(vec a, vec b, vec c)
{
    return vfmsq_f32(c, a, b);
}
/* v_fma, which compilers keep in place here. */
static inline vec v_accumulate(vec a, vec b, vec sum)
{
    return vfmaq_f32(sum, a, b);
}
/* Makes a vector's origin unknown to the compiler. */
#define V_OPAQUE(vector) __asm__("" : "+w"(vector))
/* v_accumulate with the second factor in memory. */
static inline vec v_accumulate_from(vec a, const float *p, vec sum)
{
    return v_accumulate(a, v_load(p), sum);
}
static inline vec v_add(vec a, vec b)
{
    return vaddq_f32(a, b);
}
static inline vec v_sub(vec a, vec b)
{
    return vsubq_f32(a, b);
}
static inline vec v_mul(vec a, vec b)
{
    return vmulq_f32(a, b);
}
/* Where b is NaN the result is b. */
static inline vec v_max(vec a, vec b)
{
    return vmaxq_f32(a, b);
}
static inline vec v_min(vec a, vec b)
{
    return vminq_f32(a, b);
}
/* min(max(v, lo), hi); FMAX and FMIN let a NaN through. */
static inline vec v_clamp(vec v, vec lo, vec hi)
{
    return vminq_f32(vmaxq_f32(v, lo), hi);
}
static inline vec v_keep_first(vec v, int n)
{
    static const int32_t lanes[4] = {0, 1, 2, 3};
    return vreinterpretq_f32_u32(
        vandq_u32(vreinterpretq_u32_f32(v), vcgtq_s32(vdupq_n_s32(n), vld1q_s32(lanes))));
}
/*
 * The first n lanes, 0 <= n <= V_LENGTH; memory past them is not touched, lanes past them are zero.
 */
static inline vec v_load_first(const float *p, int n)
{
    float lanes[V_LENGTH] = {0};
    for (int i = 0; i < n; i++) {
        lanes[i] = p[i];
    }
    return v_load(lanes);
}
/* p's vector, or zeros without touching memory. */
static inline vec v_load_if(const float *p, int on)
{
    return on ? v_load(p) : v_zero();
}
/* Lane i becomes lane lanes[i]: as bytes. */
typedef uint8x16_t v_lanes;
static inline v_lanes v_load_lanes(const int32_t *lanes)
{
    const uint32x4_t bytes =
        vmlaq_n_u32(vdupq_n_u32(0x03020100u), vreinterpretq_u32_s32(vld1q_s32(lanes)), 0x04040404u);
    return vreinterpretq_u8_u32(bytes);
}
static inline vec v_permute(vec v, v_lanes lanes)
{
    return vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(v), lanes));
}
/* v_permute of a vector in memory. */
static inline vec v_permute_from(const float *p, v_lanes lanes)
{
    return v_permute(v_load(p), lanes);
}
static inline void v_store_first(float *p, vec v, int n)
{
    float lanes[V_LENGTH];
    v_store(lanes, v);
    for (int i = 0; i < n; i++) {
        p[i] = lanes[i];
    }
}

/* v_store past the caches, which has no intrinsic here; and after the last of them. */
static inline void v_stream(float *p, vec v)
{
    v_store(p, v);
}
static inline void v_stream_end(void)
{
}

/* Vectors of doubles, as wide as vec: half as many. Floats become doubles, and are rounded back. */
#define D_LENGTH 2
typedef float64x2_t vecd;
static inline vecd d_load(const float *p)
{
    return vcvt_f64_f32(vld1_f32(p));
}
static inline void d_store(float *p, vecd v)
{
    vst1_f32(p, vcvt_f32_f64(v));
}
static inline vecd d_set1(double x)
{
    return vdupq_n_f64(x);
}
static inline vecd d_mul(vecd a, vecd b)
{
    return vmulq_f64(a, b);
}
static inline vecd d_fma(vecd a, vecd b, vecd c)
{
    return vfmaq_f64(c, a, b);
}
static inline vecd d_fnma(vecd a, vecd b, vecd c)
{
    return vfmsq_f64(c, a, b);
}

#define V_TRANSPOSE 4
typedef vec side;

/* X(i) for each side of a square. */
#define SIDES(X) X(0) X(1) X(2) X(3)

static inline void side_store(float *p, side r)
{
    v_store(p, r);
}
static inline side side_load(const float *p)
{
    return v_load(p);
}
/* The first n lanes, 0 <= n < V_TRANSPOSE; memory past them is not touched. */
static inline side side_load_first(const float *p, int n)
{
    return v_load_first(p, n);
}
static inline void side_store_first(float *p, side r, int n)
{
    v_store_first(p, r, n);
}
static inline side side_add(side a, side b)
{
    return v_add(a, b);
}
static inline side side_set1(float x)
{
    return v_set1(x);
}
static inline side side_clamp(side r, side lo, side hi)
{
    return v_clamp(r, lo, hi);
}

static inline void transpose_rows(const side from[V_TRANSPOSE], side to[V_TRANSPOSE])
{
    const float32x4x2_t a = vtrnq_f32(from[0], from[1]), b = vtrnq_f32(from[2], from[3]);
    to[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    to[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    to[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    to[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

/* Lane j of to[i] is src[j * stride + i]. */
static inline void transpose_load(const float *src, ptrdiff_t stride, side to[V_TRANSPOSE])
{
    const side from[V_TRANSPOSE] = {v_load(src), v_load(src + stride), v_load(src + 2 * stride),
                                    v_load(src + 3 * stride)};
    transpose_rows(from, to);
}

/* The same for i < n < V_TRANSPOSE; memory past the first n columns is not touched. */
static inline void transpose_load_first(const float *src, ptrdiff_t stride, int n,
                                        side to[V_TRANSPOSE])
{
    const side from[V_TRANSPOSE] = {v_load_first(src, n), v_load_first(src + stride, n),
                                    v_load_first(src + 2 * stride, n),
                                    v_load_first(src + 3 * stride, n)};
    transpose_rows(from, to);
}

/*
 * p[0], p[2], ...: n of them, 1 <= n <= V_LENGTH, lanes past them are zero; nothing past p[2 * n -
 * 2] is touched.
 */
static inline vec v_load_even(const float *p, int n)
{
    if (n == V_LENGTH) {
        return vuzp1q_f32(v_load(p), v_load_first(p + V_LENGTH, V_LENGTH - 1));
    }
    float lanes[V_LENGTH] = {0};
    for (int i = 0; i < n; i++) {
        lanes[i] = p[2 * i];
    }
    return v_load(lanes);
}

/* What the x86 twin does with stores that overlap; here the caller's loop does it. */
static inline ptrdiff_t interleave_few(float *to, ptrdiff_t pixel, const float *src,
                                       ptrdiff_t plane, ptrdiff_t channels, ptrdiff_t count)
{
    (void)to, (void)pixel, (void)src, (void)plane, (void)channels, (void)count;
    return 0;
}

#endif
