/* SPDX-License-Identifier: MIT */
/*
 * A convolution written down as naively as its definition, in double: what every kernel is held
 * against. It shares nothing with the library but the public header's types; layouts have an index
 * function of their own.
 */
#ifndef DOCONV_TEST_ORACLE_H
#define DOCONV_TEST_ORACLE_H

#include <stddef.h>
#include <stdint.h>

#include <doconv/doconv.h>

/* Output size along an axis; at least 1 for a valid problem. */
int64_t oracle_out_size(int64_t size, int64_t kernel, int64_t stride, int64_t dilation,
                        int64_t pad_before, int64_t pad_after);

/*
 * Floats of a tensor of logical shape channels x h x w, n times, with the padding of blocked
 * layouts.
 */
size_t oracle_floats(doconv_layout layout, int64_t n, int64_t channels, int64_t h, int64_t w);

/* Channels that a layout stores: channels, rounded up to the block in blocked layouts. */
int64_t oracle_stored_channels(doconv_layout layout, int64_t channels);

/*
 * Place, in floats, of element (image, channel, y, x); channel may also be one of the padding
 * channels of a blocked layout.
 */
size_t oracle_index(doconv_layout layout, int64_t channels, int64_t h, int64_t w, int64_t image,
                    int64_t channel, int64_t y, int64_t x);

/*
 * dst[n][o][p][q] of a descriptor, in NCHW order whatever its layouts say: value after bias,
 * residual, ReLU and clamp in that order, and magnitude = sum |src * weight| + |bias| + |residual|,
 * which scales the error bound. src and residual: NCHW; weight: OIHW; bias and residual are used
 * (and must not be NULL) where the descriptor asks for them. The descriptor is trusted to be valid.
 */
void oracle_convolve(const doconv_conv_desc *desc, const float *src, const float *weight,
                     const float *bias, const float *residual, double *value, double *magnitude);

#endif
