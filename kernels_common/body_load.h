/* SPDX-License-Identifier: MIT */
/* Filling a strip (struct dc_load_args) from any layout. The including file has defined the vector operations. */
#ifndef DOCONV_BODY_LOAD_H
#define DOCONV_BODY_LOAD_H

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
static inline void copy_vectors(float *strip, ptrdiff_t pixel, const float *src, ptrdiff_t src_step, ptrdiff_t channels, ptrdiff_t count)
{
    for (ptrdiff_t x = 0; x < count; x++) {
        for (ptrdiff_t v = 0; v < channels; v += V_LENGTH) {
            v_store(strip + x * pixel + v, v_load(src + x * src_step + v));
        }
    }
}

/* Channels planes apart, pixels contiguous. channels <= DC_CHANNEL_BLOCK. */
static inline void copy_planes(float *strip, ptrdiff_t pixel, const float *src, ptrdiff_t plane, ptrdiff_t channels, ptrdiff_t count)
{
    ptrdiff_t c = 0;
    for (; c + V_TRANSPOSE <= channels; c += V_TRANSPOSE) {
        ptrdiff_t x = 0;
        for (; x + V_TRANSPOSE <= count; x += V_TRANSPOSE) {
            v_transpose(src + c * plane + x, plane, strip + x * pixel + c, pixel);
        }
        for (; x < count; x++) {
            for (int i = 0; i < V_TRANSPOSE; i++) {
                strip[x * pixel + c + i] = src[(c + i) * plane + x];
            }
        }
    }
    for (; c < channels; c++) {
        for (ptrdiff_t x = 0; x < count; x++) {
            strip[x * pixel + c] = src[c * plane + x];
        }
    }
}

/* One row, inside [0, w), of up to DC_CHANNEL_BLOCK channels from c0 on. from: src's first pixel in channel c0, which is the place-th of its block. */
static inline void copy_row(const struct dc_load_args *a, float *strip, const float *from, ptrdiff_t place, ptrdiff_t channels, ptrdiff_t count)
{
    const ptrdiff_t step = a->src_pixel * a->step_x;
    if (a->src_channel == 1 && channels % V_LENGTH == 0 && channels <= a->src_block_channels - place) {
        copy_vectors(strip, a->strip_pixel, from, step, channels, count);
    } else if (a->src_channel != 1 && step == 1) {
        copy_planes(strip, a->strip_pixel, from, a->src_channel, channels, count);
    } else {
        for (ptrdiff_t c = 0; c < channels; c++) {
            const ptrdiff_t b = (place + c) / a->src_block_channels, i = (place + c) % a->src_block_channels - place;
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
    const ptrdiff_t inside = a->w - a->x0 <= 0 ? 0 : (a->w - a->x0 + a->step_x - 1) / a->step_x;
    const ptrdiff_t right = inside < left ? left : least(a->columns, inside);
    const ptrdiff_t lanes_most = least(a->strip_pixel, DC_CHANNEL_BLOCK);
    for (ptrdiff_t c = 0; c < a->channels; c += DC_CHANNEL_BLOCK) {
        const ptrdiff_t channels = least(a->channels - c, DC_CHANNEL_BLOCK);
        const ptrdiff_t block = (a->src_first_channel + c) / a->src_block_channels, place = (a->src_first_channel + c) % a->src_block_channels;
        const float *src = a->src + block * a->src_block + place * a->src_channel;
        for (ptrdiff_t y = 0; y < a->rows; y++) {
            float *strip = a->strip + c / DC_CHANNEL_BLOCK * a->strip_block + y * a->strip_row;
            const ptrdiff_t row = a->y0 + y * a->step_y;
            if (row < 0 || row >= a->h) {
                zero_pixels(strip, a->strip_pixel, a->columns, lanes_most);
                continue;
            }
            zero_pixels(strip, a->strip_pixel, left, lanes_most);
            if (channels < lanes_most) {
                zero_pixels(strip + left * a->strip_pixel, a->strip_pixel, right - left, lanes_most);
            }
            if (right > left) {
                copy_row(a, strip + left * a->strip_pixel, src + row * a->src_row + (a->x0 + left * a->step_x) * a->src_pixel, place, channels,
                         right - left);
            }
            zero_pixels(strip + right * a->strip_pixel, a->strip_pixel, a->columns - right, lanes_most);
        }
    }
}

#endif
