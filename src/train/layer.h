/* SPDX-License-Identifier: MIT */
/*
 * A layer in training as plans, whose composition is settled: plain and by kernel composition three
 * convolutions (forward; the input's gradient; the weight's) around the weight as it is now, which
 * a DO-Conv layer folds from W and D first and hands its gradient back through; by feature
 * composition two operations of its own. For src/train.
 */
#ifndef DOCONV_LAYER_H
#define DOCONV_LAYER_H

#include <stdbool.h>
#include <stddef.h>

#include <doconv/doconv.h>

#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "train/input_gradient.h"

/* How the weight of kernel composition is made before it is used, and its gradient taken. */
enum dc_layer_fold {
    DC_LAYER_FREE,  /* as each operation chooses for itself */
    DC_LAYER_WHOLE, /* the whole weight first; its whole gradient, which is then handed back */
    DC_LAYER_PARTS  /* a block at a time, while it is in cache; where the operation can */
};

/* Immutable once made. */
struct dc_layer {
    doconv_context *ctx;
    struct dc_problem problem; /* its convolution; of a DO-Conv layer, with the fold */
    doconv_plan *forward;      /* DC_CONVOLUTION with fresh weights, or DC_FEATURE_FORWARD */
    doconv_plan *backward;     /* DC_FEATURE_BACKWARD; or, NULL, these two: */
    struct dc_input_gradient *input;
    doconv_plan *weight;   /* DC_WEIGHT_GRADIENT */
    size_t weight_size;    /* of the folded weight in the workspace: 0 if there is none */
    size_t workspace_size; /* from a 64-byte boundary on */
};

/*
 * problem: a DC_CONVOLUTION, whose composition is not AUTO. options: of choosing the operations, or
 * NULL. On failure *layer is NULL.
 */
doconv_status dc_layer_create(doconv_context *ctx, const struct dc_problem *problem,
                              enum dc_layer_fold fold, const doconv_plan_options *options,
                              struct dc_layer **layer);
void dc_layer_destroy(struct dc_layer *layer);

/* The index-th operation and what it is for, or NULL past the last. */
const doconv_plan *dc_layer_operation(const struct dc_layer *layer, int index, const char **role);

/* The sum of what is expected of the operations of a forward pass or, with step, of both. */
double dc_layer_estimate(const struct dc_layer *layer, bool step);

/*
 * tensors: src, w (a plain layer's weight), d, bias, dst. saved: where the weight that W and D fold
 * to is left for the backward pass, or NULL. workspace: 64-byte aligned.
 */
void dc_layer_forward(const struct dc_layer *layer, const struct dc_tensors *tensors, float *saved,
                      char *workspace);
/*
 * tensors: src, w, d, grad_dst; grad_src, grad_w (a plain layer's weight's), grad_d, or NULL.
 * saved: what the forward pass left, or NULL.
 */
void dc_layer_backward(const struct dc_layer *layer, const struct dc_tensors *tensors,
                       const float *saved, char *workspace);

/* A DO-Conv layer whose composition is open: solvers of DC_LAYER_FORWARD and DC_LAYER_STEP. */
extern const struct dc_solver dc_solver_layer_forward_kernel, dc_solver_layer_forward_feature,
    dc_solver_layer_step_kernel, dc_solver_layer_step_feature;

/* The layer that such a plan has chosen; it lives as long as the plan. */
const struct dc_layer *dc_layer_of(const doconv_plan *plan);

#endif
