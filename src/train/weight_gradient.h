/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's weight: three ways. For src/train and src/library.c; others use
 * plans of DC_WEIGHT_GRADIENT.
 */
#ifndef DOCONV_WEIGHT_GRADIENT_H
#define DOCONV_WEIGHT_GRADIENT_H

#include "plan/solver.h"

/*
 * product: matrix products over pixels. correlate: depthwise and narrow groups, lanes of output
 * channels. portable: loops.
 */
extern const struct dc_solver dc_solver_weight_product, dc_solver_weight_correlate,
    dc_solver_weight_portable;

/* Orders of sums; the last one has numbers above it, one an ISA. */
enum { DC_SUMS_PIXELS, DC_SUMS_PIXELS_BY_TAP, DC_SUMS_PORTABLE, DC_SUMS_CORRELATE };

/* Listed in a few milliseconds, and 16 MB: a tap has one for each row, or each of 512 images. */
#define DC_MOST_PRODUCT_SEGMENTS 5e5

/*
 * Is the problem small enough for copies and lists of segments? In double: what would overflow, or
 * need absurd copies, is left to the loop without any.
 */
static inline bool dc_weight_gradient_is_small(const struct dc_problem *p)
{
    const doconv_conv_desc *d = &p->desc;
    const double taps = (double)d->kh * (double)d->kw,
                 row = ((double)d->w + (double)p->wout) * 64.0;
    const double extent = (double)d->kh * (double)d->dilation_h + (double)d->stride_h * 512.0;
    return row * extent < 1e10 && taps * (double)(p->hout + 512) < DC_MOST_PRODUCT_SEGMENTS &&
           taps * (double)d->cin * (double)d->cout < 1e10;
}

#endif
