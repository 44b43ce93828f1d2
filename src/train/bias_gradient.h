/* SPDX-License-Identifier: MIT */
/* The gradient of a convolution's bias. For src/train. */
#ifndef DOCONV_BIAS_GRADIENT_H
#define DOCONV_BIAS_GRADIENT_H

#include <doconv/doconv.h>

#include "plan/problem.h"

/*
 * Cout sums of dst's gradient, over all images and pixels, on the context's threads. problem: the
 * convolution.
 */
void dc_bias_gradient(const doconv_context *ctx, const struct dc_problem *problem,
                      const float *grad_dst, float *grad_bias);

#endif
