/* SPDX-License-Identifier: MIT */
/*
 * Feature composition of a DO-Conv layer. For src/train.
 */
#ifndef DOCONV_FEATURE_H
#define DOCONV_FEATURE_H

#include <stddef.h>

#include <doconv/doconv.h>

#include "plan/problem.h"
#include "train/weight_gradient.h"

struct dc_feature;
/* problem: the plain convolution, without post-operations. The mapping is the paper's. */
doconv_status dc_feature_create(doconv_context *ctx, const struct dc_problem *problem,
                                int64_t d_mul, int add_identity, struct dc_feature **feature);
void dc_feature_destroy(struct dc_feature *feature);
/* Of both passes, whose workspace is 64-byte aligned. */
size_t dc_feature_workspace_size(const struct dc_feature *feature);
/* w: Cout x Cin/groups x D_mul; d: Cin x KH*KW x D_mul; bias: or NULL. */
void dc_feature_forward(const struct dc_feature *feature, const float *w, const float *d,
                        const float *bias, const float *src, float *dst, char *workspace);
/* Gradients that are NULL are not wanted. That of the bias is dc_weight_gradient_run()'s. */
void dc_feature_backward(const struct dc_feature *feature, const float *w, const float *d,
                         const float *src, const float *grad_dst, float *grad_src, float *grad_w,
                         float *grad_d, char *workspace);

#endif
