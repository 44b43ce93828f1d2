/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's weight and bias. For src/train.
 */
#ifndef DOCONV_WEIGHT_GRADIENT_H
#define DOCONV_WEIGHT_GRADIENT_H

#include <stddef.h>

#include <doconv/doconv.h>

#include "compose/fold.h"
#include "plan/problem.h"

struct dc_weight_gradient;
/* problem: the forward convolution. */
doconv_status dc_weight_gradient_create(doconv_context *ctx, const struct dc_problem *problem,
                                        struct dc_weight_gradient **gradient);
void dc_weight_gradient_destroy(struct dc_weight_gradient *gradient);
size_t dc_weight_gradient_workspace_size(const struct dc_weight_gradient *gradient);
/* OIHW, and Cout sums; NULL: not wanted. workspace: 64-byte aligned. */
void dc_weight_gradient_run(const struct dc_weight_gradient *gradient, const float *src,
                            const float *grad_dst, float *grad_weight, float *grad_bias,
                            char *workspace);
/*
 * The weight's gradient of a layer that is composed by kernel, handed back to W and D as it comes,
 * a part that stays in L2 at a time; bitwise what dc_weight_gradient_run() and
 * dc_fold_gradient_run() give. Its workspace's bytes, 0: not for this layer.
 */
size_t dc_weight_gradient_fold_workspace_size(const struct dc_weight_gradient *gradient,
                                              const doconv_fold_desc *fold);
void dc_weight_gradient_fold(const struct dc_weight_gradient *gradient,
                             const doconv_fold_desc *fold, const float *w, const float *d,
                             const float *src, const float *grad_dst, float *grad_w, float *grad_d,
                             char *workspace);

#endif
