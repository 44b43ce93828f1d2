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
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), vcgtq_s32(vdupq_n_s32(n), vld1q_s32(lanes))));
}
/* The first n lanes, 0 <= n <= V_LENGTH; memory past them is not touched, lanes past them are zero. */
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
    const uint32x4_t bytes = vmlaq_n_u32(vdupq_n_u32(0x03020100u), vreinterpretq_u32_s32(vld1q_s32(lanes)), 0x04040404u);
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

#define V_TRANSPOSE 4

/* dst[i * dst_stride + j] = src[j * src_stride + i] for i, j in [0, V_TRANSPOSE). */
static inline void v_transpose(const float *src, ptrdiff_t src_stride, float *dst, ptrdiff_t dst_stride)
{
    const float32x4x2_t a = vtrnq_f32(v_load(src), v_load(src + src_stride));
    const float32x4x2_t b = vtrnq_f32(v_load(src + 2 * src_stride), v_load(src + 3 * src_stride));
    v_store(dst, vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0])));
    v_store(dst + dst_stride, vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1])));
    v_store(dst + 2 * dst_stride, vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0])));
    v_store(dst + 3 * dst_stride, vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1])));
}

#endif
