/* SPDX-License-Identifier: MIT */
/*
 * The transforms of Winograd's convolutions (struct dc_winograd_input_args and _output_args), a
 * vector of channels of a tile at a time. The including file has defined the vector operations,
 * WINOGRAD_AXES (2: tiles; 1: rows stay as they are), and of an axis WINOGRAD_OUTPUTS and
 * WINOGRAD_TAPS (see body_winograd_lines.h for which there are).
 */
#ifndef DOCONV_BODY_WINOGRAD_H
#define DOCONV_BODY_WINOGRAD_H

#include <stdbool.h>

#include "body_winograd_lines.h"
#include "body_winograd_pack.h"
#include "kernel.h"

/* Rows of a tile that are read, and written. */
#if WINOGRAD_AXES == 2
#define ROWS_IN WINOGRAD_POINTS
#define ROWS_OUT WINOGRAD_OUTPUTS
#else
#define ROWS_IN 1
#define ROWS_OUT 1
#endif

/* The part of a tile that lies inside the image: rows and columns [begin, end) of it. */
struct tile_inside {
    int row_begin, row_end, column_begin, column_end;
};

static inline int clip(ptrdiff_t value, int most)
{
    return value < 0 ? 0 : value > most ? most : (int)value;
}

/*
 * A vector of a tile: columns first, then rows. src: the tile's first pixel inside the image.
 * `whole` is a literal: all of the tile is inside.
 */
static inline __attribute__((always_inline)) void
input_vector(const float *src, ptrdiff_t row, ptrdiff_t pixel, const struct tile_inside *in,
             bool whole, float *points, ptrdiff_t point)
{
#define INSIDE(i, begin, end) (whole || ((i) >= in->begin && (i) < in->end))
#if WINOGRAD_AXES == 2
    vec lines[WINOGRAD_POINTS * WINOGRAD_POINTS];
    for (int j = 0; j < WINOGRAD_POINTS; j++) {
        vec x[WINOGRAD_POINTS], r[WINOGRAD_POINTS];
        const bool column = INSIDE(j, column_begin, column_end);
        const float *const at = column ? src + (j - (whole ? 0 : in->column_begin)) * pixel : src;
#define GET(i)                                                                                     \
    x[i] = column && INSIDE(i, row_begin, row_end)                                                 \
               ? v_load(at + ((i) - (whole ? 0 : in->row_begin)) * row)                            \
               : v_zero();
        EACH_POINT(GET)
#undef GET
        line_in(x, r);
#define PUT(i) lines[(i)*WINOGRAD_POINTS + j] = r[i];
        EACH_POINT(PUT)
#undef PUT
    }
    for (int i = 0; i < WINOGRAD_POINTS; i++) {
        vec r[WINOGRAD_POINTS];
        float *const to = points + i * WINOGRAD_POINTS * point;
        line_in(lines + i * WINOGRAD_POINTS, r);
#define PUT(j) v_store(to + (j)*point, r[j]);
        EACH_POINT(PUT)
#undef PUT
    }
#else
    vec x[WINOGRAD_POINTS], r[WINOGRAD_POINTS];
    const bool inside = INSIDE(0, row_begin, row_end);
    (void)row;
#define GET(j)                                                                                     \
    x[j] = inside && INSIDE(j, column_begin, column_end)                                           \
               ? v_load(src + ((j) - (whole ? 0 : in->column_begin)) * pixel)                      \
               : v_zero();
    EACH_POINT(GET)
#undef GET
    line_in(x, r);
#define PUT(j) v_store(points + (j)*point, r[j]);
    EACH_POINT(PUT)
#undef PUT
#endif
#undef INSIDE
}

static void winograd_input(const struct dc_winograd_input_args *a)
{
    /* A block's vectors follow each other; then the next block does. */
    const ptrdiff_t of_block = a->src_block_channels / V_LENGTH < a->vectors
                                   ? a->src_block_channels / V_LENGTH
                                   : a->vectors;
    struct tile_inside in = {.row_begin = clip(-a->y0, ROWS_IN),
                             .row_end = clip(a->h - a->y0, ROWS_IN)};
    for (ptrdiff_t t = 0; t < a->tiles; t++) {
        const ptrdiff_t x = a->x0 + t * WINOGRAD_OUTPUTS;
        in.column_begin = clip(-x, WINOGRAD_POINTS);
        in.column_end = clip(a->w - x, WINOGRAD_POINTS);
        const bool whole = in.row_end - in.row_begin == ROWS_IN &&
                           in.column_end - in.column_begin == WINOGRAD_POINTS,
                   none = in.row_end <= in.row_begin || in.column_end <= in.column_begin;
        const float *src = none ? a->src
                                : a->src + (a->y0 + in.row_begin) * a->src_row +
                                      (x + in.column_begin) * a->src_pixel;
        float *points = a->points + t * a->tile;
        for (ptrdiff_t v = 0, in_block = 0; v < a->vectors; v++, points += V_LENGTH) {
            if (whole) {
                input_vector(src, a->src_row, a->src_pixel, &in, true, points, a->point);
            } else {
                input_vector(src, a->src_row, a->src_pixel, &in, false, points, a->point);
            }
            if (v + 1 < a->vectors) {
                src += V_LENGTH;
                if (++in_block == of_block) {
                    src += a->src_block - of_block * V_LENGTH;
                    in_block = 0;
                }
            }
        }
    }
}

static void winograd_filter_rows(const struct dc_winograd_filter_args *a)
{
    const ptrdiff_t point = a->point, tap = a->src_tap;
    for (ptrdiff_t at = 0; at < a->floats; at += V_LENGTH) {
        const float *const src = a->src + at;
        float *const points = a->points + at;
#if WINOGRAD_AXES == 2
        vec lines[WINOGRAD_POINTS * WINOGRAD_TAPS];
        for (int x = 0; x < WINOGRAD_TAPS; x++) {
            vec f[WINOGRAD_TAPS], r[WINOGRAD_POINTS];
#define GET(y) f[y] = v_load(src + ((y)*WINOGRAD_TAPS + x) * tap);
            EACH_TAP(GET)
#undef GET
            line_filter(f, r);
#define PUT(i) lines[(i)*WINOGRAD_TAPS + x] = r[i];
            EACH_POINT(PUT)
#undef PUT
        }
        for (int i = 0; i < WINOGRAD_POINTS; i++) {
            vec r[WINOGRAD_POINTS];
            float *const to = points + i * WINOGRAD_POINTS * point;
            line_filter(lines + i * WINOGRAD_TAPS, r);
#define PUT(j) v_store(to + (j)*point, r[j]);
            EACH_POINT(PUT)
#undef PUT
        }
#else
        vec f[WINOGRAD_TAPS], r[WINOGRAD_POINTS];
#define GET(x) f[x] = v_load(src + (x)*tap);
        EACH_TAP(GET)
#undef GET
        line_filter(f, r);
#define PUT(j) v_store(points + (j)*point, r[j]);
        EACH_POINT(PUT)
#undef PUT
#endif
    }
}

/* A row of a tile's outputs, of which `columns` exist. */
static inline __attribute__((always_inline)) void
output_row(const struct dc_winograd_output_args *a, const vec x[WINOGRAD_POINTS], vec bias,
           float *dst, const float *residual, int columns)
{
    const ptrdiff_t pixel = a->dst_pixel;
    vec y[WINOGRAD_OUTPUTS];
    line_out(x, y);
#define ADD(j) y[j] = v_add(y[j], bias);
    EACH_OUTPUT(ADD)
#undef ADD
    if (residual != 0) {
#define ADD(j)                                                                                     \
    if ((j) < columns) {                                                                           \
        y[j] = v_add(y[j], v_load(residual + (j)*pixel));                                          \
    }
        EACH_OUTPUT(ADD)
#undef ADD
    }
    if (a->lo > -__builtin_inff()) {
        const vec lo = v_set1(a->lo);
#define LEAST(j) y[j] = v_max(lo, y[j]);
        EACH_OUTPUT(LEAST)
#undef LEAST
    }
    if (a->hi < __builtin_inff()) {
        const vec hi = v_set1(a->hi);
#define MOST(j) y[j] = v_min(hi, y[j]);
        EACH_OUTPUT(MOST)
#undef MOST
    }
    if (columns >= WINOGRAD_OUTPUTS) {
#define PUT(j) v_store(dst + (j)*pixel, y[j]);
        EACH_OUTPUT(PUT)
#undef PUT
    } else {
#define PUT(j)                                                                                     \
    if ((j) < columns) {                                                                           \
        v_store(dst + (j)*pixel, y[j]);                                                            \
    }
        EACH_OUTPUT(PUT)
#undef PUT
    }
}

static void winograd_output(const struct dc_winograd_output_args *a)
{
    const ptrdiff_t point = a->point;
    /* Read but once: else compilers merge that with the sums, and run out of registers. */
    const float *const residuals = a->residual;
    for (ptrdiff_t t = 0; t < a->tiles; t++) {
        const ptrdiff_t first = t * WINOGRAD_OUTPUTS * a->dst_pixel;
        const int columns = clip(a->columns - t * WINOGRAD_OUTPUTS, WINOGRAD_OUTPUTS);
        const float *points = a->points + t * a->tile;
        for (ptrdiff_t v = 0; v < a->vectors; v++, points += V_LENGTH) {
            const ptrdiff_t at = first + a->vector_at[v];
            const vec bias = v_load(a->bias + v * V_LENGTH);
            float *dst = a->dst + at;
            const float *residual = residuals != 0 ? residuals + at : 0;
#if WINOGRAD_AXES == 2
            vec lines[ROWS_OUT * WINOGRAD_POINTS];
            for (int j = 0; j < WINOGRAD_POINTS; j++) {
                vec x[WINOGRAD_POINTS], y[WINOGRAD_OUTPUTS];
                const float *const from = points + j * point;
#define GET(i) x[i] = v_load(from + (i)*WINOGRAD_POINTS * point);
                EACH_POINT(GET)
#undef GET
                line_out(x, y);
#define PUT(i) lines[(i)*WINOGRAD_POINTS + j] = y[i];
                EACH_OUTPUT(PUT)
#undef PUT
            }
            for (int i = 0; i < a->rows; i++) {
                output_row(a, lines + i * WINOGRAD_POINTS, bias, dst, residual, columns);
                dst += i + 1 < a->rows ? a->dst_row : 0;
                residual += residual != 0 && i + 1 < a->rows ? a->dst_row : 0;
            }
#else
            vec x[WINOGRAD_POINTS];
#define GET(j) x[j] = v_load(points + (j)*point);
            EACH_POINT(GET)
#undef GET
            output_row(a, x, bias, dst, residual, columns);
#endif
        }
    }
}

#endif
