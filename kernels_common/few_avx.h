/* SPDX-License-Identifier: MIT */
/* One to three floats at a place, for both x86 bundles: masked stores are slow on some CPUs. */
#ifndef DOCONV_FEW_AVX_H
#define DOCONV_FEW_AVX_H

#include <immintrin.h>

/* n in 1..3; the other floats are zero. */
static inline __m128 load_few(const float *p, int n)
{
    const __m128 low =
        n > 1 ? _mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)p)) : _mm_load_ss(p);
    return n > 2 ? _mm_insert_ps(low, _mm_load_ss(p + 2), 0x20) : low;
}

static inline void store_few(float *p, __m128 v, int n)
{
    if (n == 1) {
        _mm_store_ss(p, v);
        return;
    }
    _mm_storel_epi64((__m128i *)p, _mm_castps_si128(v));
    if (n > 2) {
        _mm_store_ss(p + 2, _mm_movehl_ps(v, v));
    }
}

/*
 * Nine vectors y##j = x##(the j-th of the list) in the lanes of `which`, else x##j: rotates nine
 * vectors in some lanes.
 */
#define NINE_BLENDS(y, x, which, a, b, c, d, e, f, g, h, i)                                        \
    const vec y##0 = BLEND(x##0, x##a, which), y##1 = BLEND(x##1, x##b, which),                    \
              y##2 = BLEND(x##2, x##c, which), y##3 = BLEND(x##3, x##d, which),                    \
              y##4 = BLEND(x##4, x##e, which), y##5 = BLEND(x##5, x##f, which),                    \
              y##6 = BLEND(x##6, x##g, which), y##7 = BLEND(x##7, x##h, which),                    \
              y##8 = BLEND(x##8, x##i, which);

#define NINES_EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)

#endif
