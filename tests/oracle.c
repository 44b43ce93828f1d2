/* SPDX-License-Identifier: MIT */
#include "oracle.h"

#include <math.h>

int64_t oracle_out_size(int64_t size, int64_t kernel, int64_t stride, int64_t dilation,
                        int64_t pad_before, int64_t pad_after)
{
    const int64_t room = size + pad_before + pad_after - ((kernel - 1) * dilation + 1);
    return room < 0 ? 0 : room / stride + 1;
}

static int64_t block_of(doconv_layout layout)
{
    switch (layout) {
    case DOCONV_NCHW8C:
        return 8;
    case DOCONV_NCHW16C:
        return 16;
    default:
        return 1;
    }
}

int64_t oracle_stored_channels(doconv_layout layout, int64_t channels)
{
    int64_t stored = channels;
    while (stored % block_of(layout) != 0) {
        stored++;
    }
    return stored;
}

size_t oracle_floats(doconv_layout layout, int64_t n, int64_t channels, int64_t h, int64_t w)
{
    return (size_t)(n * oracle_stored_channels(layout, channels) * h * w);
}

size_t oracle_index(doconv_layout layout, int64_t channels, int64_t h, int64_t w, int64_t image,
                    int64_t channel, int64_t y, int64_t x)
{
    const int64_t block = block_of(layout), stored = oracle_stored_channels(layout, channels);
    switch (layout) {
    case DOCONV_NCHW:
        return (size_t)(((image * channels + channel) * h + y) * w + x);
    case DOCONV_NHWC:
        return (size_t)(((image * h + y) * w + x) * channels + channel);
    default: /* [N][C / block][H][W][block] */
        return (size_t)((((image * (stored / block) + channel / block) * h + y) * w + x) * block +
                        channel % block);
    }
}

void oracle_convolve(const doconv_conv_desc *d, const float *src, const float *weight,
                     const float *bias, const float *residual, double *value, double *magnitude)
{
    const int64_t hout =
        oracle_out_size(d->h, d->kh, d->stride_h, d->dilation_h, d->pad_top, d->pad_bottom);
    const int64_t wout =
        oracle_out_size(d->w, d->kw, d->stride_w, d->dilation_w, d->pad_left, d->pad_right);
    const int64_t inputs = d->cin / d->groups, outputs = d->cout / d->groups;
    size_t at = 0;
    for (int64_t n = 0; n < d->n; n++) {
        for (int64_t o = 0; o < d->cout; o++) {
            for (int64_t p = 0; p < hout; p++) {
                for (int64_t q = 0; q < wout; q++, at++) {
                    double sum = d->has_bias ? (double)bias[o] : 0.0, size = fabs(sum);
                    for (int64_t i = 0; i < inputs; i++) {
                        const float *plane =
                            src + (n * d->cin + o / outputs * inputs + i) * d->h * d->w;
                        const float *filter = weight + (o * inputs + i) * d->kh * d->kw;
                        for (int64_t y = 0; y < d->kh; y++) {
                            const int64_t row = p * d->stride_h + y * d->dilation_h - d->pad_top;
                            for (int64_t x = 0; x < d->kw; x++) {
                                const int64_t column =
                                    q * d->stride_w + x * d->dilation_w - d->pad_left;
                                if (row >= 0 && row < d->h && column >= 0 && column < d->w) {
                                    const double product = (double)plane[row * d->w + column] *
                                                           (double)filter[y * d->kw + x];
                                    sum += product;
                                    size += fabs(product);
                                }
                            }
                        }
                    }
                    if (d->residual) {
                        sum += (double)residual[at];
                        size += fabs((double)residual[at]);
                    }
                    if (d->relu && sum < 0.0) {
                        sum = 0.0;
                    }
                    if (d->clamp && sum < (double)d->clamp_lo) {
                        sum = (double)d->clamp_lo;
                    }
                    if (d->clamp && sum > (double)d->clamp_hi) {
                        sum = (double)d->clamp_hi;
                    }
                    value[at] = sum;
                    magnitude[at] = size;
                }
            }
        }
    }
}
