/* SPDX-License-Identifier: MIT */
/* 8 x 8 transposition, for both x86 bundles. */
#ifndef DOCONV_TRANSPOSE_AVX_H
#define DOCONV_TRANSPOSE_AVX_H

#include <immintrin.h>
#include <stddef.h>

#define V_TRANSPOSE 8

/* dst[i * dst_stride + j] = src[j * src_stride + i] for i, j in [0, V_TRANSPOSE). */
static inline void v_transpose(const float *src, ptrdiff_t src_stride, float *dst, ptrdiff_t dst_stride)
{
    __m256 r[8], t[8];
    /* Halves of rows 4 apart in one register: then only in-lane shuffles are left. */
#define HALVES(k, column)                                                                                                                            \
    _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(src + (k)*src_stride + (column))),                                                      \
                         _mm_loadu_ps(src + ((k) + 4) * src_stride + (column)), 1)
    r[0] = HALVES(0, 0);
    r[1] = HALVES(1, 0);
    r[2] = HALVES(2, 0);
    r[3] = HALVES(3, 0);
    r[4] = HALVES(0, 4);
    r[5] = HALVES(1, 4);
    r[6] = HALVES(2, 4);
    r[7] = HALVES(3, 4);
#undef HALVES
#define QUAD(k)                                                                                                                                      \
    t[(k) + 0] = _mm256_unpacklo_ps(r[(k) + 0], r[(k) + 1]);                                                                                         \
    t[(k) + 1] = _mm256_unpackhi_ps(r[(k) + 0], r[(k) + 1]);                                                                                         \
    t[(k) + 2] = _mm256_unpacklo_ps(r[(k) + 2], r[(k) + 3]);                                                                                         \
    t[(k) + 3] = _mm256_unpackhi_ps(r[(k) + 2], r[(k) + 3]);                                                                                         \
    _mm256_storeu_ps(dst + ((k) + 0) * dst_stride, _mm256_shuffle_ps(t[(k) + 0], t[(k) + 2], 0x44));                                                 \
    _mm256_storeu_ps(dst + ((k) + 1) * dst_stride, _mm256_shuffle_ps(t[(k) + 0], t[(k) + 2], 0xee));                                                 \
    _mm256_storeu_ps(dst + ((k) + 2) * dst_stride, _mm256_shuffle_ps(t[(k) + 1], t[(k) + 3], 0x44));                                                 \
    _mm256_storeu_ps(dst + ((k) + 3) * dst_stride, _mm256_shuffle_ps(t[(k) + 1], t[(k) + 3], 0xee));
    QUAD(0)
    QUAD(4)
#undef QUAD
}

#endif
