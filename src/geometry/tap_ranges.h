/* SPDX-License-Identifier: MIT */
/*
 * Which taps of a kernel lie inside the image, along one axis: for output i and tap k the input is
 * i * stride + k * dilation - pad. Any file above src/base may include this.
 */
#ifndef DOCONV_TAP_RANGES_H
#define DOCONV_TAP_RANGES_H

#include <stdint.h>

#include "base/arithmetic.h"

/* An axis of a convolution. */
struct dc_axis {
    int64_t size, out; /* inputs; outputs */
    int64_t kernel, stride, dilation;
    int64_t pad; /* before the first input */
};

/* Outputs [begin, end) that meet the same taps [tap0, tap1) inside the image. */
struct dc_tap_range {
    int64_t begin, end, tap0, tap1;
};

/*
 * Fills ranges (NULL: counts them), in order, and returns how many there are; where they are more
 * than `limit`, limit + 1. It takes time by their number, not by the outputs'.
 */
int64_t dc_tap_ranges(const struct dc_axis *axis, struct dc_tap_range *ranges, int64_t limit);

/* The outputs [*begin, *end) of `out` for which i * stride + offset lies in [0, size). */
static inline void dc_outputs_inside(int64_t size, int64_t stride, int64_t offset, int64_t out,
                                     int64_t *begin, int64_t *end)
{
    *begin = offset >= 0 ? 0 : least(out, divide_up(-offset, stride));
    *end = offset > size - 1 ? *begin : most(*begin, least(out, (size - 1 - offset) / stride + 1));
}

/* Inputs [*first, *end) that outputs [y0, y1) read, those outside the image left out. */
static inline void dc_inputs_read(const struct dc_axis *a, int64_t y0, int64_t y1, int64_t *first,
                                  int64_t *end)
{
    *first = least(a->size, most(0, y0 * a->stride - a->pad));
    *end = most(*first,
                least(a->size, (y1 - 1) * a->stride - a->pad + (a->kernel - 1) * a->dilation + 1));
}

/* Inputs that `outputs` outputs in a row span at most. */
static inline int64_t dc_inputs_spanned(const struct dc_axis *a, int64_t outputs)
{
    return (outputs - 1) * a->stride + (a->kernel - 1) * a->dilation + 1;
}

#endif
