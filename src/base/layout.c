/* SPDX-License-Identifier: MIT */
#include <string.h>

#include <stdbool.h>

#include "base/layout.h"
#include "base/overlap.h"
#include "kernel.h"

int64_t dc_layout_block(doconv_layout layout)
{
    return layout == DOCONV_NCHW8C ? 8 : layout == DOCONV_NCHW16C ? 16 : 1;
}

struct dc_tensor_map dc_tensor_map(doconv_layout layout, int64_t c, int64_t h, int64_t w)
{
    const int64_t block = dc_layout_block(layout);
    const int64_t blocks = (c + block - 1) / block;
    switch (layout) {
    case DOCONV_NCHW:
        return (struct dc_tensor_map){.image = c * h * w,
                                      .block_channels = PTRDIFF_MAX,
                                      .block = 0,
                                      .channel = h * w,
                                      .row = w,
                                      .pixel = 1};
    case DOCONV_NHWC:
        return (struct dc_tensor_map){.image = c * h * w,
                                      .block_channels = PTRDIFF_MAX,
                                      .block = 0,
                                      .channel = 1,
                                      .row = w * c,
                                      .pixel = c};
    default:
        return (struct dc_tensor_map){.image = blocks * block * h * w,
                                      .block_channels = block,
                                      .block = block * h * w,
                                      .channel = 1,
                                      .row = w * block,
                                      .pixel = block};
    }
}

static bool valid_layout(doconv_layout layout)
{
    return (unsigned)layout <= (unsigned)DOCONV_NCHW16C;
}

const char *doconv_layout_string(doconv_layout layout)
{
    static const char *const names[] = {"nchw", "nhwc", "nChw8c", "nChw16c"};
    return valid_layout(layout) ? names[layout] : "unknown";
}

doconv_status doconv_tensor_bytes(doconv_layout layout, int64_t n, int64_t c, int64_t h, int64_t w,
                                  size_t *bytes)
{
    if (bytes == NULL || !valid_layout(layout)) {
        return DOCONV_INVALID_ARGUMENT;
    }
    const int64_t dims[4] = {n, c, h, w};
    for (int i = 0; i < 4; i++) {
        if (dims[i] < (i == 0 ? 0 : 1)) {
            return DOCONV_INVALID_ARGUMENT;
        }
        if (dims[i] > INT32_MAX) {
            return DOCONV_OVERFLOW;
        }
    }
    const int64_t block = dc_layout_block(layout);
    int64_t product = (c + block - 1) / block * block;
    const int64_t factors[4] = {n, h, w, (int64_t)sizeof(float)};
    for (int i = 0; i < 4; i++) {
        if (__builtin_mul_overflow(product, factors[i], &product) || product > INT64_C(1) << 62) {
            return DOCONV_OVERFLOW;
        }
    }
    *bytes = (size_t)product;
    return DOCONV_OK;
}

doconv_status doconv_reorder(doconv_layout src_layout, doconv_layout dst_layout, int64_t n,
                             int64_t c, int64_t h, int64_t w, const float *src, float *dst)
{
    struct dc_range ranges[] = {{"src", src, 0, false}, {"dst", dst, 0, true}};
    if (((src == NULL || dst == NULL) && n != 0) || !valid_layout(src_layout)) {
        return DOCONV_INVALID_ARGUMENT;
    }
    doconv_status status = doconv_tensor_bytes(src_layout, n, c, h, w, &ranges[0].bytes);
    if (status == DOCONV_OK) {
        status = doconv_tensor_bytes(dst_layout, n, c, h, w, &ranges[1].bytes);
    }
    if (status == DOCONV_OK) {
        status = dc_check_overlaps(NULL, ranges, 2);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    const struct dc_tensor_map from = dc_tensor_map(src_layout, c, h, w),
                               to = dc_tensor_map(dst_layout, c, h, w);
    const int64_t block = dc_layout_block(dst_layout), stored = (c + block - 1) / block * block;
    for (int64_t image = 0; image < n; image++) {
        for (int64_t y = 0; y < h; y++) {
            for (int64_t channel = 0; channel < stored; channel++) {
                float *out = dst + image * to.image + channel / to.block_channels * to.block +
                             channel % to.block_channels * to.channel + y * to.row;
                if (channel >= c) {
                    for (int64_t x = 0; x < w; x++) {
                        out[x * to.pixel] = 0.0f;
                    }
                    continue;
                }
                const float *in = src + image * from.image +
                                  channel / from.block_channels * from.block +
                                  channel % from.block_channels * from.channel + y * from.row;
                for (int64_t x = 0; x < w; x++) {
                    out[x * to.pixel] = in[x * from.pixel];
                }
            }
        }
    }
    return DOCONV_OK;
}
