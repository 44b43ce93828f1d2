/* SPDX-License-Identifier: MIT */
/*
 * Filling a strip (struct dc_load_args) from any layout. The including file has defined the vector
 * operations.
 */
#ifndef DOCONV_BODY_LOAD_H
#define DOCONV_BODY_LOAD_H

#include <stdbool.h>

#include "kernel.h"

static inline ptrdiff_t least(ptrdiff_t a, ptrdiff_t b)
{
    return a < b ? a : b;
}

/* count columns of zeros, lanes channels each. */
static inline void zero_pixels(float *strip, ptrdiff_t pixel, ptrdiff_t count, ptrdiff_t lanes)
{
    for (ptrdiff_t x = 0; x < count; x++) {
        ptrdiff_t c = 0;
        for (; c + V_LENGTH <= lanes; c += V_LENGTH) {
            v_store(strip + x * pixel + c, v_zero());
        }
        for (; c < lanes; c++) {
            strip[x * pixel + c] = 0.0f;
        }
    }
}

/* Channels contiguous in memory, a multiple of the vector length. */
static inline void copy_vectors(float *strip, ptrdiff_t pixel, const float *src, ptrdiff_t src_step,
                                ptrdiff_t channels, ptrdiff_t count)
{
    for (ptrdiff_t x = 0; x < count; x++) {
        for (ptrdiff_t v = 0; v < channels; v += V_LENGTH) {
            v_store(strip + x * pixel + v, v_load(src + x * src_step + v));
        }
    }
}

/* A square of channels and the first n pixels. */
static inline void copy_square(float *strip, ptrdiff_t pixel, const float *src, ptrdiff_t plane,
                               ptrdiff_t n)
{
    side r[V_TRANSPOSE];
    if (n >= V_TRANSPOSE) {
        transpose_load(src, plane, r);
#define PUT(i) side_store(strip + (i)*pixel, r[i]);
        SIDES(PUT)
#undef PUT
    } else {
        transpose_load_first(src, plane, (int)n, r);
#define PUT(i)                                                                                     \
    if ((i) < n) {                                                                                 \
        side_store(strip + (i)*pixel, r[i]);                                                       \
    }
        SIDES(PUT)
#undef PUT
    }
}

/* Channels planes apart, pixels contiguous. channels <= DC_CHANNEL_BLOCK. */
static inline void copy_planes(float *strip, ptrdiff_t pixel, const float *src, ptrdiff_t plane,
                               ptrdiff_t channels, ptrdiff_t count)
{
    ptrdiff_t c = 0;
    for (; c + V_TRANSPOSE <= channels; c += V_TRANSPOSE) {
        ptrdiff_t x = 0;
        for (; x + V_TRANSPOSE <= count; x += V_TRANSPOSE) {
            copy_square(strip + x * pixel + c, pixel, src + c * plane + x, plane, V_TRANSPOSE);
        }
        if (x < count && count >= V_TRANSPOSE) {
            x = count - V_TRANSPOSE; /* some pixels twice */
            copy_square(strip + x * pixel + c, pixel, src + c * plane + x, plane, V_TRANSPOSE);
        } else if (x < count) {
            copy_square(strip + x * pixel + c, pixel, src + c * plane + x, plane, count - x);
        }
    }
    const ptrdiff_t done = c == 0 ? interleave_few(strip, pixel, src, plane, channels, count) : 0;
    for (; c < channels; c++) {
        for (ptrdiff_t x = done; x < count; x++) {
            strip[x * pixel + c] = src[c * plane + x];
        }
    }
}

/* Every second pixel of up to DC_CHANNEL_BLOCK planes: put together in a buffer, then as above. */
static inline void copy_even(float *strip, ptrdiff_t pixel, const float *src, ptrdiff_t plane,
                             ptrdiff_t channels, ptrdiff_t count)
{
    enum { PART = 64 };
    float even[DC_CHANNEL_BLOCK * PART];
    for (ptrdiff_t first = 0; first < count; first += PART) {
        const ptrdiff_t pixels = least(PART, count - first);
        for (ptrdiff_t c = 0; c < channels; c++) {
            for (ptrdiff_t x = 0; x < pixels; x += V_LENGTH) {
                v_store(even + c * PART + x, v_load_even(src + c * plane + 2 * (first + x),
                                                         (int)least(V_LENGTH, pixels - x)));
            }
        }
        copy_planes(strip + first * pixel, pixel, even, PART, channels, pixels);
    }
}

/* A load of a pixel's channels has room for so many on every CPU with vectors of 8. */
#define FEW_CHANNELS 8

/*
 * Few channels, contiguous in memory, to the lanes of a strip's pixels, `copies` times side by
 * side; the other lanes become zero. from may be the strip.
 */
static inline void copy_few(float *strip, const float *from, ptrdiff_t from_step,
                            ptrdiff_t channels, ptrdiff_t copies, ptrdiff_t count)
{
    const ptrdiff_t filled = channels * copies;
    if (channels > V_LENGTH || (channels == V_LENGTH && filled < DC_CHANNEL_BLOCK)) {
        for (ptrdiff_t x = 0; x < count; x++) {
            for (ptrdiff_t lane = 0; lane < DC_CHANNEL_BLOCK; lane++) {
                strip[x * DC_CHANNEL_BLOCK + lane] =
                    lane < filled ? from[x * from_step + lane % channels] : 0.0f;
            }
        }
        return;
    }
    v_lanes lanes[DC_CHANNEL_BLOCK / V_LENGTH];
    for (int v = 0; v < DC_CHANNEL_BLOCK / V_LENGTH; v++) {
        int32_t places[V_LENGTH];
        for (int i = 0; i < V_LENGTH; i++) {
            const ptrdiff_t lane = v * V_LENGTH + i;
            /* that one is zero */
            places[i] = (int32_t)(lane < filled ? lane % channels : channels);
        }
        lanes[v] = v_load_lanes(places);
    }
    for (ptrdiff_t x = 0; x < count; x++) {
        const vec pixel = v_load_first(from + x * from_step, (int)channels);
        for (int v = 0; v < DC_CHANNEL_BLOCK / V_LENGTH; v++) {
            v_store(strip + x * DC_CHANNEL_BLOCK + v * V_LENGTH, v_permute(pixel, lanes[v]));
        }
    }
}

/*
 * One row, inside [0, w), of up to DC_CHANNEL_BLOCK channels from c0 on. from: src's first pixel in
 * channel c0, which is the place-th of its block.
 */
static inline void copy_row(const struct dc_load_args *a, float *strip, const float *from,
                            ptrdiff_t place, ptrdiff_t channels, ptrdiff_t count)
{
    const ptrdiff_t step = a->src_pixel * a->step_x;
    if (a->src_channel == 1 && channels % V_LENGTH == 0 &&
        channels <= a->src_block_channels - place) {
        copy_vectors(strip, a->strip_pixel, from, step, channels, count);
    } else if (a->src_channel != 1 && step == 1) {
        copy_planes(strip, a->strip_pixel, from, a->src_channel, channels, count);
    } else if (a->src_channel != 1 && step == 2) {
        copy_even(strip, a->strip_pixel, from, a->src_channel, channels, count);
    } else {
        for (ptrdiff_t c = 0; c < channels; c++) {
            const ptrdiff_t b = (place + c) / a->src_block_channels,
                            i = (place + c) % a->src_block_channels - place;
            const float *channel = from + b * a->src_block + i * a->src_channel;
            for (ptrdiff_t x = 0; x < count; x++) {
                strip[x * a->strip_pixel + c] = channel[x * step];
            }
        }
    }
}

static void load_strip(const struct dc_load_args *a)
{
    /* Columns [left, right) of the strip lie inside the image. */
    const ptrdiff_t left = a->x0 >= 0 ? 0 : least(a->columns, (-a->x0 + a->step_x - 1) / a->step_x);
    ptrdiff_t inside = a->w - a->x0 <= 0 ? 0 : (a->w - a->x0 + a->step_x - 1) / a->step_x;
    const ptrdiff_t lanes_most = least(a->strip_pixel, DC_CHANNEL_BLOCK);
    /* Whole rows that follow each other on both sides are one long row: few ends. */
    const bool whole = a->x0 == 0 && a->step_x == 1 && a->step_y == 1 && a->columns == a->w &&
                       a->src_row == a->w * a->src_pixel &&
                       a->strip_row == a->columns * a->strip_pixel && a->y0 >= 0 &&
                       a->y0 + a->rows <= a->h;
    const ptrdiff_t rows = whole ? 1 : a->rows, columns = whole ? a->rows * a->columns : a->columns;
    inside = whole ? columns : inside;
    const ptrdiff_t right = inside < left ? left : least(columns, inside),
                    copies = a->copies > 1 ? a->copies : 1;
    for (ptrdiff_t c = 0; c < a->channels; c += DC_CHANNEL_BLOCK) {
        const ptrdiff_t channels = least(a->channels - c, DC_CHANNEL_BLOCK);
        const ptrdiff_t block = (a->src_first_channel + c) / a->src_block_channels,
                        place = (a->src_first_channel + c) % a->src_block_channels;
        const float *src = a->src + block * a->src_block + place * a->src_channel;
        const bool few = a->src_channel == 1 && channels <= FEW_CHANNELS &&
                         channels <= a->src_block_channels - place &&
                         a->strip_pixel == DC_CHANNEL_BLOCK;
        for (ptrdiff_t y = 0; y < rows; y++) {
            float *strip = a->strip + c / DC_CHANNEL_BLOCK * a->strip_block + y * a->strip_row;
            const ptrdiff_t row = a->y0 + y * a->step_y;
            if (row < 0 || row >= a->h) {
                zero_pixels(strip, a->strip_pixel, columns, lanes_most);
                continue;
            }
            zero_pixels(strip, a->strip_pixel, left, lanes_most);
            float *const to = strip + left * a->strip_pixel;
            const float *const from =
                src + row * a->src_row + (a->x0 + left * a->step_x) * a->src_pixel;
            if (few && right > left) {
                copy_few(to, from, a->src_pixel * a->step_x, channels, copies, right - left);
            } else if (right > left) {
                if (channels < lanes_most) {
                    zero_pixels(to, a->strip_pixel, right - left, lanes_most);
                }
                copy_row(a, to, from, place, channels, right - left);
                if (copies > 1) {
                    copy_few(to, to, DC_CHANNEL_BLOCK, channels, copies, right - left);
                }
            }
            zero_pixels(strip + right * a->strip_pixel, a->strip_pixel, columns - right,
                        lanes_most);
        }
    }
}

#endif
