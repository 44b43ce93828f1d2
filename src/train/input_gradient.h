/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's input. For src/train.
 */
#ifndef DOCONV_INPUT_GRADIENT_H
#define DOCONV_INPUT_GRADIENT_H

#include <stddef.h>

#include <doconv/doconv.h>

#include "plan/problem.h"

struct dc_input_gradient;
/* problem: the forward convolution. options: of choosing its kernels, or NULL. */
doconv_status dc_input_gradient_create(doconv_context *ctx, const struct dc_problem *problem,
                                       const doconv_plan_options *options,
                                       struct dc_input_gradient **gradient);
/* The index-th convolution that it is made of; NULL past the last. */
const doconv_plan *dc_input_gradient_plan(const struct dc_input_gradient *gradient, int index);
void dc_input_gradient_destroy(struct dc_input_gradient *gradient);
size_t dc_input_gradient_workspace_size(const struct dc_input_gradient *gradient);
/* The seconds that are expected of its convolutions. */
double dc_input_gradient_estimate(const struct dc_input_gradient *gradient);
/*
 * grad_src, in src_layout, from grad_dst, in dst_layout, and the forward weight (OIHW). workspace:
 * 64-byte aligned.
 */
void dc_input_gradient_run(const struct dc_input_gradient *gradient, const float *weight,
                           const float *grad_dst, float *grad_src, char *workspace);

#endif
