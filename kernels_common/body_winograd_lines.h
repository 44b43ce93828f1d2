/* SPDX-License-Identifier: MIT */
/*
 * Winograd's transforms along one axis, for WINOGRAD_OUTPUTS outputs of WINOGRAD_TAPS taps, as few
 * operations as there are: a pair of points p, -p shares its even and its odd part. At has ones in
 * it where a point's sums, and to undo that its row of G, were scaled for it. Which points there
 * are, and so line_in(), follows from their number alone. Included by body_winograd.h alone.
 *
 *   points   outputs, taps
 *   4        2, 3
 *   6        4, 3
 *   8        6, 3   4, 5
 *   9        3, 7
 */
#ifndef DOCONV_BODY_WINOGRAD_LINES_H
#define DOCONV_BODY_WINOGRAD_LINES_H

#define WINOGRAD_POINTS (WINOGRAD_OUTPUTS + WINOGRAD_TAPS - 1)

/* A row of G: the powers of a point p, scaled. */
#define POWERS_2(scale, p) (scale), (scale) * (p)
#define POWERS_3(scale, p) (scale), POWERS_2((scale) * (p), p)
#define POWERS_5(scale, p) POWERS_3(scale, p), POWERS_2((scale) * (p) * (p) * (p), p)
#define POWERS_7(scale, p) POWERS_5(scale, p), POWERS_2((scale) * (p) * (p) * (p) * (p) * (p), p)
#if WINOGRAD_TAPS == 3
#define EACH_TAP(X) X(0) X(1) X(2)
#define POWERS POWERS_3
#elif WINOGRAD_TAPS == 5
#define EACH_TAP(X) X(0) X(1) X(2) X(3) X(4)
#define POWERS POWERS_5
#else
#define EACH_TAP(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6)
#define POWERS POWERS_7
#endif

#if WINOGRAD_OUTPUTS == 2
#define EACH_OUTPUT(X) X(0) X(1)
#elif WINOGRAD_OUTPUTS == 3
#define EACH_OUTPUT(X) X(0) X(1) X(2)
#elif WINOGRAD_OUTPUTS == 4
#define EACH_OUTPUT(X) X(0) X(1) X(2) X(3)
#else
#define EACH_OUTPUT(X) X(0) X(1) X(2) X(3) X(4) X(5)
#endif

#if WINOGRAD_POINTS == 4
/* Points 0, 1, -1 and infinity. */
#define EACH_POINT(X) X(0) X(1) X(2) X(3)

static const double winograd_filter[WINOGRAD_POINTS * WINOGRAD_TAPS] = {
    1.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5, -0.5, 0.5, 0.0, 0.0, 1.0,
};

static inline __attribute__((always_inline)) void line_in(const vec x[WINOGRAD_POINTS],
                                                          vec r[WINOGRAD_POINTS])
{
    r[0] = v_sub(x[0], x[2]);
    r[1] = v_add(x[2], x[1]);
    r[2] = v_sub(x[2], x[1]);
    r[3] = v_sub(x[3], x[1]);
}

static inline __attribute__((always_inline)) void line_filter(const vec f[WINOGRAD_TAPS],
                                                              vec r[WINOGRAD_POINTS])
{
    const vec half = v_set1(0.5f), even = v_add(f[0], f[2]);
    r[0] = f[0];
    r[1] = v_mul(half, v_add(even, f[1]));
    r[2] = v_mul(half, v_sub(even, f[1]));
    r[3] = f[2];
}

static inline __attribute__((always_inline)) void line_out(const vec x[WINOGRAD_POINTS],
                                                           vec y[WINOGRAD_OUTPUTS])
{
    y[0] = v_add(x[0], v_add(x[1], x[2]));
    y[1] = v_add(x[3], v_sub(x[1], x[2]));
}

#elif WINOGRAD_POINTS == 6
/*
 * Points 0, a, -a, b, -b and infinity, a = 1/sqrt(2) and b = sqrt(2): they round half as badly as
 * 1 and 2, and their powers are few. Sums of the points +-a are scaled by a, those of +-b by b^2.
 */
#define EACH_POINT(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define ROOT_HALF 0.70710678118654752440
#define ROOT_TWO 1.41421356237309504880

static const double winograd_filter[WINOGRAD_POINTS * WINOGRAD_TAPS] = {
    1.0,
    0.0,
    0.0,
    -ROOT_HALF / 1.5,
    -0.5 / 1.5,
    -ROOT_HALF / 3.0,
    -ROOT_HALF / 1.5,
    0.5 / 1.5,
    -ROOT_HALF / 3.0,
    1.0 / 3.0,
    ROOT_TWO / 3.0,
    2.0 / 3.0,
    1.0 / 3.0,
    -(ROOT_TWO / 3.0),
    2.0 / 3.0,
    0.0,
    0.0,
    1.0,
};

static inline __attribute__((always_inline)) void line_in(const vec x[WINOGRAD_POINTS],
                                                          vec r[WINOGRAD_POINTS])
{
    const vec two = v_set1(2.0f), half = v_set1(0.5f), five_halves = v_set1(2.5f);
    const vec a = v_set1((float)ROOT_HALF), b = v_set1((float)ROOT_TWO);
    const vec even_a = v_fnma(two, x[2], x[4]), odd_a = v_fnma(two, x[1], x[3]);
    const vec even_b = v_fnma(half, x[2], x[4]), odd_b = v_fnma(half, x[1], x[3]);
    r[0] = v_fnma(five_halves, x[2], v_add(x[0], x[4]));
    r[1] = v_fma(a, odd_a, even_a);
    r[2] = v_fnma(a, odd_a, even_a);
    r[3] = v_fma(b, odd_b, even_b);
    r[4] = v_fnma(b, odd_b, even_b);
    r[5] = v_fnma(five_halves, x[3], v_add(x[1], x[5]));
}

static inline __attribute__((always_inline)) void line_filter(const vec f[WINOGRAD_TAPS],
                                                              vec r[WINOGRAD_POINTS])
{
    const vec third = v_set1((float)(1.0 / 3.0)), odd_b = v_set1((float)(ROOT_TWO / 3.0));
    const vec even_a = v_mul(v_set1((float)(-ROOT_HALF / 1.5)), v_fma(v_set1(0.5f), f[2], f[0]));
    const vec even_b = v_mul(third, v_fma(v_set1(2.0f), f[2], f[0]));
    r[0] = f[0];
    r[1] = v_fnma(third, f[1], even_a);
    r[2] = v_fma(third, f[1], even_a);
    r[3] = v_fma(odd_b, f[1], even_b);
    r[4] = v_fnma(odd_b, f[1], even_b);
    r[5] = f[2];
}

static inline __attribute__((always_inline)) void line_out(const vec x[WINOGRAD_POINTS],
                                                           vec y[WINOGRAD_OUTPUTS])
{
    const vec half = v_set1(0.5f), a = v_set1((float)ROOT_HALF), b = v_set1((float)ROOT_TWO);
    const vec sum_a = v_add(x[1], x[2]), difference_a = v_sub(x[1], x[2]);
    const vec sum_b = v_add(x[3], x[4]), difference_b = v_sub(x[3], x[4]);
    y[0] = v_fma(b, sum_a, v_fma(half, sum_b, x[0]));
    y[1] = v_fma(a, difference_b, difference_a);
    y[2] = v_fma(a, sum_a, sum_b);
    y[3] = v_fma(half, difference_a, v_fma(b, difference_b, x[5]));
}

#elif WINOGRAD_POINTS == 8
/*
 * Points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity: of all the choices of three pairs, none that
 * rounds better was found, whatever the taps, and these are exact.
 */
#define EACH_POINT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

static const double winograd_filter[WINOGRAD_POINTS * WINOGRAD_TAPS] = {
    POWERS(1.0, 0.0),          POWERS(-1.0 / 4.5, 1.0),
    POWERS(-1.0 / 4.5, -1.0),  POWERS(1.0 / 90.0, 2.0),
    POWERS(1.0 / 90.0, -2.0),  POWERS(32.0 / 45.0, 0.5),
    POWERS(32.0 / 45.0, -0.5), [WINOGRAD_POINTS * WINOGRAD_TAPS - 1] = 1.0,
};

static inline __attribute__((always_inline)) void line_in(const vec x[WINOGRAD_POINTS],
                                                          vec r[WINOGRAD_POINTS])
{
    const vec two = v_set1(2.0f), half = v_set1(0.5f), quarter = v_set1(0.25f), four = v_set1(4.0f),
              five = v_set1(5.0f);
    const vec quarters_5 = v_set1(1.25f), quarters_17 = v_set1(4.25f), quarters_21 = v_set1(5.25f);
    r[0] = v_fma(quarters_21, v_sub(x[4], x[2]), v_sub(x[0], x[6]));
    r[7] = v_fma(quarters_21, v_sub(x[3], x[5]), v_sub(x[7], x[1]));
    const vec even_1 = v_fnma(quarters_17, x[4], v_add(x[2], x[6])),
              odd_1 = v_fnma(quarters_17, x[3], v_add(x[1], x[5]));
    r[1] = v_add(even_1, odd_1);
    r[2] = v_sub(even_1, odd_1);
    const vec even_2 = v_fma(quarter, x[2], v_fnma(quarters_5, x[4], x[6])),
              odd_2 = v_fma(quarter, x[1], v_fnma(quarters_5, x[3], x[5]));
    r[3] = v_fma(two, odd_2, even_2);
    r[4] = v_fnma(two, odd_2, even_2);
    const vec even_3 = v_fma(four, x[2], v_fnma(five, x[4], x[6])),
              odd_3 = v_fma(four, x[1], v_fnma(five, x[3], x[5]));
    r[5] = v_fma(half, odd_3, even_3);
    r[6] = v_fnma(half, odd_3, even_3);
}

static inline __attribute__((always_inline)) void line_filter(const vec f[WINOGRAD_TAPS],
                                                              vec r[WINOGRAD_POINTS])
{
    const vec two = v_set1(2.0f), half = v_set1(0.5f), quarter = v_set1(0.25f), four = v_set1(4.0f);
    const vec scale_1 = v_set1((float)(-1.0 / 4.5)), scale_2 = v_set1((float)(1.0 / 90.0)),
              scale_3 = v_set1((float)(32.0 / 45.0));
#if WINOGRAD_TAPS == 3
    const vec even_1 = v_add(f[0], f[2]), even_2 = v_fma(four, f[2], f[0]),
              even_3 = v_fma(quarter, f[2], f[0]);
    const vec odd_1 = f[1], odd_2 = f[1], odd_3 = f[1];
#else
    const vec even_1 = v_add(f[0], v_add(f[2], f[4])),
              even_2 = v_fma(four, v_fma(four, f[4], f[2]), f[0]),
              even_3 = v_fma(quarter, v_fma(quarter, f[4], f[2]), f[0]);
    const vec odd_1 = v_add(f[1], f[3]), odd_2 = v_fma(four, f[3], f[1]),
              odd_3 = v_fma(quarter, f[3], f[1]);
#endif
    r[0] = f[0];
    r[1] = v_mul(scale_1, v_add(even_1, odd_1));
    r[2] = v_mul(scale_1, v_sub(even_1, odd_1));
    r[3] = v_mul(scale_2, v_fma(two, odd_2, even_2));
    r[4] = v_mul(scale_2, v_fnma(two, odd_2, even_2));
    r[5] = v_mul(scale_3, v_fma(half, odd_3, even_3));
    r[6] = v_mul(scale_3, v_fnma(half, odd_3, even_3));
    r[7] = f[WINOGRAD_TAPS - 1];
}

static inline __attribute__((always_inline)) void line_out(const vec x[WINOGRAD_POINTS],
                                                           vec y[WINOGRAD_OUTPUTS])
{
    const vec sum_1 = v_add(x[1], x[2]), difference_1 = v_sub(x[1], x[2]);
    const vec sum_2 = v_add(x[3], x[4]), difference_2 = v_sub(x[3], x[4]);
    const vec sum_3 = v_add(x[5], x[6]), difference_3 = v_sub(x[5], x[6]);
    y[0] = v_add(v_add(x[0], sum_1), v_add(sum_2, sum_3));
    y[1] = v_fma(v_set1(2.0f), difference_2, v_fma(v_set1(0.5f), difference_3, difference_1));
    y[2] = v_fma(v_set1(4.0f), sum_2, v_fma(v_set1(0.25f), sum_3, sum_1));
#if WINOGRAD_OUTPUTS == 4
    y[3] = v_fma(v_set1(8.0f), difference_2,
                 v_fma(v_set1(0.125f), difference_3, v_add(x[7], difference_1)));
#else
    y[3] = v_fma(v_set1(8.0f), difference_2, v_fma(v_set1(0.125f), difference_3, difference_1));
    y[4] = v_fma(v_set1(16.0f), sum_2, v_fma(v_set1(0.0625f), sum_3, sum_1));
    y[5] = v_fma(v_set1(32.0f), difference_2,
                 v_fma(v_set1(0.03125f), difference_3, v_add(x[7], difference_1)));
#endif
}

#else
/*
 * Points a, -a, ... d, -d and infinity, found by a search for the least rounding, on a grid where
 * their powers are exact. With no zero among them a pair's odd part has no more terms than its even
 * one. Q_p is the product of t - q^2 over the other pairs: its powers of t are line_in()'s factors.
 */
#define EACH_POINT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#define EACH_PAIR(X) X(0) X(1) X(2) X(3)
#define A 0.25
#define B 0.6875
#define C 1.125
#define D 2.0
#define Q_0(x, y, z) (-(x) * (x) * (y) * (y) * (z) * (z))
#define Q_1(x, y, z) ((x) * (x) * (y) * (y) + (x) * (x) * (z) * (z) + (y) * (y) * (z) * (z))
#define Q_2(x, y, z) (-((x) * (x) + (y) * (y) + (z) * (z)))
#define Q(p, x, y, z) (((p) * (p) - (x) * (x)) * ((p) * (p) - (y) * (y)) * ((p) * (p) - (z) * (z)))
#define SCALE(p, x, y, z) (0.5 / (p) / Q(p, x, y, z))
#define FACTORS(p, x, y, z)                                                                        \
    {                                                                                              \
        (float)((p) * (p)), (float)SCALE(p, x, y, z), (float)((p)*SCALE(p, x, y, z))               \
    }

static const double winograd_filter[WINOGRAD_POINTS * WINOGRAD_TAPS] = {
    POWERS(SCALE(A, B, C, D), A),
    POWERS(-SCALE(A, B, C, D), -A),
    POWERS(SCALE(B, A, C, D), B),
    POWERS(-SCALE(B, A, C, D), -B),
    POWERS(SCALE(C, A, B, D), C),
    POWERS(-SCALE(C, A, B, D), -C),
    POWERS(SCALE(D, A, B, C), D),
    POWERS(-SCALE(D, A, B, C), -D),
    [WINOGRAD_POINTS * WINOGRAD_TAPS - 1] = 1.0,
};

static inline __attribute__((always_inline)) void line_in(const vec x[WINOGRAD_POINTS],
                                                          vec r[WINOGRAD_POINTS])
{
/* Terms of x_0, x_2, x_4, x_6; or of x_1, x_3, x_5, x_7. */
#define PART(first, p, q, s)                                                                       \
    v_fma(v_set1((float)Q_2(p, q, s)), x[(first) + 4],                                             \
          v_fma(v_set1((float)Q_1(p, q, s)), x[(first) + 2],                                       \
                v_fma(v_set1((float)Q_0(p, q, s)), x[first], x[(first) + 6])))
    const vec even_a = PART(0, B, C, D), even_b = PART(0, A, C, D), even_c = PART(0, A, B, D),
              even_d = PART(0, A, B, C);
    /* The product over all pairs is t - a^2 times that over the others. */
    r[8] = v_fnma(v_set1((float)(A * A)), even_a,
                  v_fma(v_set1((float)Q_2(B, C, D)), x[6],
                        v_fma(v_set1((float)Q_1(B, C, D)), x[4],
                              v_fma(v_set1((float)Q_0(B, C, D)), x[2], x[8]))));
    const vec odd_a = PART(1, B, C, D), odd_b = PART(1, A, C, D), odd_c = PART(1, A, B, D),
              odd_d = PART(1, A, B, C);
#undef PART
    r[0] = v_fma(v_set1((float)A), even_a, odd_a);
    r[1] = v_fnma(v_set1((float)A), even_a, odd_a);
    r[2] = v_fma(v_set1((float)B), even_b, odd_b);
    r[3] = v_fnma(v_set1((float)B), even_b, odd_b);
    r[4] = v_fma(v_set1((float)C), even_c, odd_c);
    r[5] = v_fnma(v_set1((float)C), even_c, odd_c);
    r[6] = v_fma(v_set1((float)D), even_d, odd_d);
    r[7] = v_fnma(v_set1((float)D), even_d, odd_d);
}

static inline __attribute__((always_inline)) void line_filter(const vec f[WINOGRAD_TAPS],
                                                              vec r[WINOGRAD_POINTS])
{
    /*
     * Factors of pairs: p^2, those of even and of odd parts. Read where they are used: compilers
     * would hold them all in registers along the whole loop, and push parts out.
     */
    static const float factors[4][3] = {FACTORS(A, B, C, D), FACTORS(B, A, C, D),
                                        FACTORS(C, A, B, D), FACTORS(D, A, B, C)};
    const float(*at)[3] = factors;
    __asm__ volatile("" : "+r"(at));
    vec even[4], odd[4];
/* Even parts first, which V_OPAQUE makes sure of: they free half of f. */
#define EVEN(i)                                                                                    \
    even[i] = v_fma(v_set1(at[i][0]), f[6], f[4]);                                                 \
    even[i] = v_fma(v_set1(at[i][0]), v_fma(v_set1(at[i][0]), even[i], f[2]), f[0]);               \
    even[i] = v_mul(v_set1(at[i][1]), even[i]);                                                    \
    V_OPAQUE(even[i]);
    EACH_PAIR(EVEN)
#undef EVEN
#define ODD(i)                                                                                     \
    odd[i] = v_fma(v_set1(at[i][0]), v_fma(v_set1(at[i][0]), f[5], f[3]), f[1]);                   \
    odd[i] = v_mul(v_set1(at[i][2]), odd[i]);                                                      \
    V_OPAQUE(odd[i]);                                                                              \
    r[2 * (i)] = v_add(odd[i], even[i]);                                                           \
    r[2 * (i) + 1] = v_sub(odd[i], even[i]);
    EACH_PAIR(ODD)
#undef ODD
    r[8] = f[6];
}

static inline __attribute__((always_inline)) void line_out(const vec x[WINOGRAD_POINTS],
                                                           vec y[WINOGRAD_OUTPUTS])
{
    vec sum, difference;
    y[0] = v_add(x[0], x[1]);
    y[1] = v_mul(v_set1((float)A), v_sub(x[0], x[1]));
    y[2] = v_fma(v_set1((float)(A * A)), y[0], x[8]);
/* Pair by pair: few vectors wait. */
#define PAIR(i, p)                                                                                 \
    sum = v_add(x[2 * (i)], x[2 * (i) + 1]);                                                       \
    difference = v_sub(x[2 * (i)], x[2 * (i) + 1]);                                                \
    y[0] = v_add(y[0], sum);                                                                       \
    y[1] = v_fma(v_set1((float)(p)), difference, y[1]);                                            \
    y[2] = v_fma(v_set1((float)((p) * (p))), sum, y[2]);
    PAIR(1, B)
    PAIR(2, C)
    PAIR(3, D)
#undef PAIR
}
#undef A
#undef B
#undef C
#undef D
#endif

#endif
