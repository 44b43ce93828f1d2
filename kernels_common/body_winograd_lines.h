/* SPDX-License-Identifier: MIT */
/*
 * Winograd's transforms along one axis, for WINOGRAD_OUTPUTS outputs of three taps, as few
 * operations as there are: a pair of points p, -p shares its even and its odd part. At has ones in
 * it where a point's sums, and to undo that its row of G, were scaled for it. Included by
 * body_winograd.h alone.
 */
#ifndef DOCONV_BODY_WINOGRAD_LINES_H
#define DOCONV_BODY_WINOGRAD_LINES_H

#define WINOGRAD_TAPS 3
#define WINOGRAD_POINTS (WINOGRAD_OUTPUTS + WINOGRAD_TAPS - 1)

#if WINOGRAD_OUTPUTS == 2
/* Points 0, 1, -1 and infinity. */
#define EACH_POINT(X) X(0) X(1) X(2) X(3)
#define EACH_OUTPUT(X) X(0) X(1)

static const double winograd_filter[WINOGRAD_POINTS * 3] = {
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

static inline __attribute__((always_inline)) void line_filter(const vec f[3],
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

#elif WINOGRAD_OUTPUTS == 4
/*
 * Points 0, a, -a, b, -b and infinity, a = 1/sqrt(2) and b = sqrt(2): they round half as badly as
 * 1 and 2, and their powers are few. Sums of the points +-a are scaled by a, those of +-b by b^2.
 */
#define EACH_POINT(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define EACH_OUTPUT(X) X(0) X(1) X(2) X(3)
#define ROOT_HALF 0.70710678118654752440
#define ROOT_TWO 1.41421356237309504880

static const double winograd_filter[WINOGRAD_POINTS * 3] = {
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

static inline __attribute__((always_inline)) void line_filter(const vec f[3],
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

#else
/*
 * Points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity: of all the choices of three pairs, none that
 * rounds better was found, and these are exact.
 */
#define EACH_POINT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define EACH_OUTPUT(X) X(0) X(1) X(2) X(3) X(4) X(5)

static const double winograd_filter[WINOGRAD_POINTS * 3] = {
    1.0,         0.0,          0.0,        -1.0 / 4.5,  -1.0 / 4.5,  -1.0 / 4.5,
    -1.0 / 4.5,  1.0 / 4.5,    -1.0 / 4.5, 1.0 / 90.0,  2.0 / 90.0,  4.0 / 90.0,
    1.0 / 90.0,  -2.0 / 90.0,  4.0 / 90.0, 32.0 / 45.0, 16.0 / 45.0, 8.0 / 45.0,
    32.0 / 45.0, -16.0 / 45.0, 8.0 / 45.0, 0.0,         0.0,         1.0,
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

static inline __attribute__((always_inline)) void line_filter(const vec f[3],
                                                              vec r[WINOGRAD_POINTS])
{
    const vec two = v_set1(2.0f), half = v_set1(0.5f);
    const vec scale_1 = v_set1((float)(-1.0 / 4.5)), scale_2 = v_set1((float)(1.0 / 90.0)),
              scale_3 = v_set1((float)(32.0 / 45.0));
    const vec even_1 = v_add(f[0], f[2]), even_2 = v_fma(v_set1(4.0f), f[2], f[0]),
              even_3 = v_fma(v_set1(0.25f), f[2], f[0]);
    r[0] = f[0];
    r[1] = v_mul(scale_1, v_add(even_1, f[1]));
    r[2] = v_mul(scale_1, v_sub(even_1, f[1]));
    r[3] = v_mul(scale_2, v_fma(two, f[1], even_2));
    r[4] = v_mul(scale_2, v_fnma(two, f[1], even_2));
    r[5] = v_mul(scale_3, v_fma(half, f[1], even_3));
    r[6] = v_mul(scale_3, v_fnma(half, f[1], even_3));
    r[7] = f[2];
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
    y[3] = v_fma(v_set1(8.0f), difference_2, v_fma(v_set1(0.125f), difference_3, difference_1));
    y[4] = v_fma(v_set1(16.0f), sum_2, v_fma(v_set1(0.0625f), sum_3, sum_1));
    y[5] = v_fma(v_set1(32.0f), difference_2,
                 v_fma(v_set1(0.03125f), difference_3, v_add(x[7], difference_1)));
}
#endif

#endif
