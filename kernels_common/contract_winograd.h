/* SPDX-License-Identifier: MIT */
/*
 * The contract of DC_FAMILY_WINOGRAD: the transforms of Winograd's convolutions F(m, r), to which
 * the products of a direct kernel belong. A tile is m x m outputs of a vector of channels, or 1 x m
 * of them where only columns are transformed: tile_pixels outputs, tile_channels = vector. Included
 * by kernel.h alone.
 *
 * Along an axis, m outputs y of a correlation of m + r - 1 inputs x with a filter f of r taps are
 *
 *   y = At ((G f) * (Bt x)),   * being elementwise, over as many points as there are inputs,
 *
 * and where both axes are transformed the points are (m + r - 1)^2, by rows.
 */
#ifndef DOCONV_CONTRACT_WINOGRAD_H
#define DOCONV_CONTRACT_WINOGRAD_H

#include <stddef.h>

/* Points and taps of an axis, at most. */
#define DC_WINOGRAD_FILTER 7
#define DC_WINOGRAD_POINTS 9

/*
 * Tiles side by side, as the points that they have for every vector of channels:
 *
 *   points(t)[p][c] = (Bt x)[p]
 *   x(i, j) = src(y0 + i, x0 + t * m + j, c), or 0 where that row and column lie outside of
 *             [0, h) x [0, w)       for i, j < m + r - 1 (rows are not transformed: i = 0 alone)
 *
 *   array    element at
 *   src      c / src_block_channels * src_block + c % src_block_channels +
 *            row * src_row + column * src_pixel
 *   points   p * point + t * tile + c
 *
 * Whole vectors are read and written.
 */
struct dc_winograd_input_args {
    /* row 0, column 0, the first channel: of a block that has room for all, or begins there */
    const float *src;
    /* a multiple of vector */
    ptrdiff_t src_block_channels;
    ptrdiff_t src_block, src_row, src_pixel;
    ptrdiff_t h, w, y0, x0;
    /* >= 1 */
    ptrdiff_t tiles, vectors;
    float *points;
    ptrdiff_t point, tile;
};

/*
 * The outputs of tiles side by side:
 *
 *   dst(i, t * m + j, c) = min(max((At points(t))[i][j][c] + bias[c] + residual, lo), hi)
 *                          for i < rows, t * m + j < columns
 *
 *   array           element at
 *   points          p * point + t * tile + c
 *   dst, residual   vector_at[c / vector] + c % vector + i * dst_row + column * dst_pixel
 */
struct dc_winograd_output_args {
    const float *points;
    ptrdiff_t point, tile;
    /* vectors * vector floats */
    const float *bias;
    /* >= 1 */
    ptrdiff_t tiles, vectors;
    /* 1..m (1 where rows are not transformed); (tiles - 1) * m < columns <= tiles * m */
    ptrdiff_t rows, columns;
    float *dst;
    /* strides as dst; NULL: none; may equal dst */
    const float *residual;
    const ptrdiff_t *vector_at;
    ptrdiff_t dst_row, dst_pixel;
    /* -inf, inf: unchanged; a NaN stays one */
    float lo, hi;
};

/*
 * Filters, many side by side.
 *
 *   points[p] = (G f)[p], f(y, x) = tap r * y + x of src   (rows are not transformed: y = 0 alone)
 *
 *   array    element at
 *   src      tap * src_tap + i      for i < floats
 *   points   p * point + i
 */
struct dc_winograd_filter_args {
    const float *src;
    ptrdiff_t src_tap;
    /* a multiple of vector */
    ptrdiff_t floats;
    float *points;
    ptrdiff_t point;
    /*
     * pack_filters alone. 1: points are written past the caches, which don't hold them all; then
     * they begin at a 64-byte boundary, and point and floats are multiples of 16
     */
    int stream;
};

/* All are required. */
struct dc_winograd_kernel {
    /* axes that are transformed: 2; or 1, the columns */
    int axes;
    /* of an axis */
    int outputs, taps, points; /* points = outputs + taps - 1 */
    void (*input)(const struct dc_winograd_input_args *args);
    /* in float: for weights that are transformed in a call */
    void (*filter_rows)(const struct dc_winograd_filter_args *args);
    void (*output)(const struct dc_winograd_output_args *args);
    /* in double, rounded once, to the same bits on every ISA: for weights that are packed */
    void (*pack_filters)(const struct dc_winograd_filter_args *args);
};

/* Sets the family and its functions in a kernel's row; one left out is a compile error. */
#define DC_WINOGRAD_FUNCTIONS(axes, outputs, taps, points, input, filter_rows, output,             \
                              pack_filters)                                                        \
    .family = DC_FAMILY_WINOGRAD,                                                                  \
    .winograd = {axes, outputs, taps, points, input, filter_rows, output, pack_filters}

#endif
