/* SPDX-License-Identifier: MIT */
/*
 * A training step of a layer. Plain and by kernel composition it is three convolutions (forward;
 * the input's gradient; the weight's) around the weight as it is now, which a DO-Conv layer folds
 * from W and D first and hands its gradient back through; by feature composition it is
 * two operations of its own.
 */
#include <string.h>

#include <doconv/doconv_train.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/log.h"
#include "base/overlap.h"
#include "base/versioned.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "train/bias_gradient.h"
#include "train/input_gradient.h"

struct doconv_training {
    doconv_context *ctx;
    struct dc_problem layer; /* its convolution; of a DO-Conv layer, with the fold */
    doconv_plan *forward;    /* DC_CONVOLUTION with fresh weights, or DC_FEATURE_FORWARD */
    doconv_plan *backward;   /* DC_FEATURE_BACKWARD; or, NULL, these two: */
    struct dc_input_gradient *input;
    doconv_plan *weight;   /* DC_WEIGHT_GRADIENT */
    size_t weight_size;    /* of the folded weight in the workspace: 0 for a plain layer */
    size_t workspace_size; /* without the bytes that align it */
};

/* Is the problem one of a layer in training? */
static doconv_status check(doconv_context *ctx, const doconv_conv_desc *desc)
{
    const struct {
        const char *name;
        int value;
    } post_operations[] = {
        {"residual", desc->residual}, {"relu", desc->relu}, {"clamp", desc->clamp}};
    for (size_t i = 0; i < sizeof post_operations / sizeof post_operations[0]; i++) {
        if (post_operations[i].value != 0) {
            return dc_fail(ctx, DOCONV_UNSUPPORTED,
                           "%s: post-operations are not part of a layer in training",
                           post_operations[i].name);
        }
    }
    if (desc->composition == DOCONV_COMPOSITION_FEATURE && desc->mapping != DOCONV_MAPPING_PAPER) {
        return dc_fail(ctx, DOCONV_UNSUPPORTED,
                       "mapping: feature composition is defined for the paper's only, and %s "
                       "differs from it for this layer",
                       desc->mapping == DOCONV_MAPPING_PYTORCH ? "pytorch" : "tensorflow");
    }
    return DOCONV_OK;
}

/* The plan of an operation on the layer. */
static doconv_status plan_operation(doconv_training *t, enum dc_operation operation,
                                    const doconv_plan_options *options, doconv_plan **plan)
{
    struct dc_problem problem = dc_problem_for(&t->layer, operation);
    problem.fresh_weights = operation == DC_CONVOLUTION;
    return dc_plan_create(t->ctx, &problem, options, plan);
}

/* The convolutions of a plain layer, and of kernel composition. */
static doconv_status plan_convolutions(doconv_training *t, const doconv_plan_options *options)
{
    doconv_status status = plan_operation(t, DC_CONVOLUTION, options, &t->forward);
    if (status == DOCONV_OK) {
        status = dc_input_gradient_create(t->ctx, &t->layer, options, &t->input);
    }
    if (status == DOCONV_OK) {
        status = plan_operation(t, DC_WEIGHT_GRADIENT, options, &t->weight);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    const bool composed = t->layer.fold.d_mul != 0;
    t->weight_size = composed ? align_bytes(t->layer.weight_bytes) : 0;
    const size_t fold = composed ? t->forward->fold->workspace_size : 0;
    const size_t backward =
        most_bytes(dc_input_gradient_workspace_size(t->input), t->weight->workspace_size);
    /* Folding is over before the others need room; only the weight stays. */
    t->workspace_size =
        t->weight_size + most_bytes(most_bytes(t->forward->workspace_size, backward), fold);
    return DOCONV_OK;
}

static doconv_status plan_feature(doconv_training *t, const doconv_plan_options *options)
{
    doconv_status status = plan_operation(t, DC_FEATURE_FORWARD, options, &t->forward);
    if (status == DOCONV_OK) {
        status = plan_operation(t, DC_FEATURE_BACKWARD, options, &t->backward);
    }
    if (status == DOCONV_OK) {
        t->workspace_size = most_bytes(t->forward->workspace_size, t->backward->workspace_size);
    }
    return status;
}

static doconv_status create(doconv_training *t, const doconv_conv_desc *desc,
                            const doconv_training_options *options)
{
    const doconv_plan_options plans = {.size = sizeof plans, .rigor = options->rigor};
    doconv_plan_options checked;
    doconv_status status = dc_problem_create(t->ctx, desc, &t->layer);
    if (status == DOCONV_OK) {
        status = check(t->ctx, &t->layer.desc);
    }
    if (status == DOCONV_OK) {
        status = dc_plan_options_read(t->ctx, &plans, &checked);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    return t->layer.desc.composition == DOCONV_COMPOSITION_FEATURE ? plan_feature(t, &checked)
                                                                   : plan_convolutions(t, &checked);
}

doconv_status doconv_training_create(doconv_context *context, const doconv_conv_desc *desc,
                                     const doconv_training_options *options,
                                     doconv_training **training)
{
    if (training != NULL) {
        *training = NULL;
    }
    if (context == NULL || training == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "%s: NULL",
                       context == NULL ? "context" : "training");
    }
    doconv_training_options own;
    doconv_status status = DC_READ_STRUCT(context, doconv_training_options, options, &own);
    if (status != DOCONV_OK) {
        return status;
    }
    doconv_training *result = dc_alloc(context, sizeof *result);
    if (result == NULL) {
        return dc_fail(context, DOCONV_OUT_OF_MEMORY, "training: out of memory");
    }
    *result = (doconv_training){.ctx = context};
    status = create(result, desc, &own);
    if (status != DOCONV_OK) {
        doconv_training_destroy(result);
        return status;
    }
    *training = result;
    return DOCONV_OK;
}

void doconv_training_destroy(doconv_training *training)
{
    if (training != NULL) {
        doconv_plan_destroy(training->forward);
        doconv_plan_destroy(training->backward);
        dc_input_gradient_destroy(training->input);
        doconv_plan_destroy(training->weight);
        dc_free(training->ctx, training);
    }
}

size_t doconv_training_workspace_size(const doconv_training *training)
{
    return training == NULL || training->workspace_size == 0 || training->layer.empty
               ? 0
               : training->workspace_size + 64;
}

size_t doconv_training_saved_size(const doconv_training *training)
{
    return training != NULL && training->weight_size != 0 && !training->layer.empty
               ? training->layer.weight_bytes
               : 0;
}

/* The index-th operation and what it is for, or NULL past the last. */
static const doconv_plan *operation_at(const doconv_training *t, int index, const char **role)
{
    const bool composed = t->backward == NULL && t->forward->fold != NULL;
    const struct {
        const char *role;
        const doconv_plan *plan;
    } fixed[] = {
        {"forward", t->forward},
        {"backward", t->backward},
        {"fold", composed ? t->forward->fold : NULL},
        {"gradient of weight", t->weight},
        {"gradient of fold", composed ? t->weight->fold : NULL},
    };
    int rest = index;
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++) {
        if (fixed[i].plan != NULL && rest-- == 0) {
            *role = fixed[i].role;
            return fixed[i].plan;
        }
    }
    *role = "gradient of src";
    return t->input != NULL && rest >= 0 ? dc_input_gradient_plan(t->input, rest) : NULL;
}

int doconv_training_operation_count(const doconv_training *training)
{
    const char *role;
    int count = 0;
    while (training != NULL && operation_at(training, count, &role) != NULL) {
        count++;
    }
    return count;
}

doconv_status doconv_training_operation_get(const doconv_training *training, int index,
                                            doconv_training_operation *operation)
{
    if (training == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    const char *role;
    const doconv_plan *plan = index >= 0 ? operation_at(training, index, &role) : NULL;
    if (operation == NULL || plan == NULL) {
        return dc_fail(training->ctx, DOCONV_INVALID_ARGUMENT,
                       "operation: NULL, or index: %d is none", index);
    }
    const doconv_training_operation result = {
        .size = sizeof result,
        .role = role,
        .operation = (doconv_operation)plan->problem.operation,
        .desc = &plan->problem.desc,
        .fresh_weights = plan->problem.fresh_weights,
        .variant = doconv_plan_variant(plan),
        .origin = doconv_plan_origin(plan),
        .source = doconv_plan_source(plan),
    };
    return DC_WRITE_STRUCT(training->ctx, doconv_training_operation, &result, operation);
}

/*
 * What both passes check. *parameters: the caller's, as ones of this version. *aligned_workspace:
 * the workspace from its first 64-byte boundary on.
 */
static doconv_status check_call(const doconv_training *t, const doconv_parameters *from,
                                void *workspace, size_t workspace_size,
                                doconv_parameters *parameters, char **aligned_workspace)
{
    doconv_context *ctx = t->ctx;
    if (from == NULL) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "parameters: NULL");
    }
    const doconv_status status = DC_READ_STRUCT(ctx, doconv_parameters, from, parameters);
    if (status != DOCONV_OK) {
        return status;
    }
    const bool has_d = t->layer.fold.d_mul != 0, has_bias = t->layer.desc.has_bias != 0;
    if (parameters->weight == NULL || (parameters->d != NULL) != has_d ||
        (parameters->bias != NULL) != has_bias) {
        return dc_fail(
            ctx, DOCONV_INVALID_ARGUMENT, "parameters.%s",
            parameters->weight == NULL ? "weight: NULL"
            : (parameters->d != NULL) != has_d
                ? (has_d ? "d: NULL, but the layer has a D" : "d: given, but the layer has none")
            : has_bias ? "bias: NULL, but the descriptor has one"
                       : "bias: given, but the descriptor has none");
    }
    const size_t needed = doconv_training_workspace_size(t);
    if (needed != 0 && (workspace == NULL || workspace_size < needed)) {
        return dc_fail(ctx, DOCONV_WORKSPACE_TOO_SMALL, "workspace: %zu bytes of %zu",
                       workspace == NULL ? 0 : workspace_size, needed);
    }
    *aligned_workspace =
        needed != 0 ? (char *)workspace + (64 - (uintptr_t)workspace % 64) % 64 : NULL;
    return DOCONV_OK;
}

/* Bytes of the parameters and of their gradients. */
static size_t weight_bytes(const doconv_training *t)
{
    const size_t taps = (size_t)(t->layer.desc.kh * t->layer.desc.kw);
    return t->layer.fold.d_mul != 0 ? t->layer.weight_bytes / taps * (size_t)t->layer.fold.d_mul
                                    : t->layer.weight_bytes;
}

static size_t d_bytes(const doconv_training *t)
{
    const doconv_conv_desc *d = &t->layer.desc;
    return (size_t)(d->cin * d->kh * d->kw * t->layer.fold.d_mul) * sizeof(float);
}

static size_t bias_bytes(const doconv_training *t)
{
    return (size_t)t->layer.desc.cout * sizeof(float);
}

/* The sums over an empty batch. */
static void clear_gradients(const doconv_training *t, const doconv_gradients *gradients)
{
    if (gradients->weight != NULL) {
        memset(gradients->weight, 0, weight_bytes(t));
    }
    if (gradients->d != NULL) {
        memset(gradients->d, 0, d_bytes(t));
    }
    if (gradients->bias != NULL) {
        memset(gradients->bias, 0, bias_bytes(t));
    }
}

/* dst or the gradients, what is saved, and the workspace are written; all else is read. */
static doconv_status check_memory(const doconv_training *t, const doconv_parameters *parameters,
                                  const float *src, const float *grad_dst, float *dst,
                                  const doconv_gradients *gradients, const void *saved,
                                  void *workspace)
{
    const doconv_gradients none = {.size = sizeof none}, *g = gradients != NULL ? gradients : &none;
    const size_t src_bytes = t->layer.empty ? 0 : t->layer.src_bytes,
                 dst_bytes = t->layer.empty ? 0 : t->layer.dst_bytes;
    const struct dc_range ranges[] = {
        {"src", src, src_bytes, false},
        {"grad_dst", grad_dst, dst_bytes, false},
        {"parameters.weight", parameters->weight, weight_bytes(t), false},
        {"parameters.d", parameters->d, d_bytes(t), false},
        {"parameters.bias", parameters->bias, bias_bytes(t), false},
        {"dst", dst, dst_bytes, true},
        {"gradients.src", g->src, src_bytes, true},
        {"gradients.weight", g->weight, weight_bytes(t), true},
        {"gradients.d", g->d, d_bytes(t), true},
        {"gradients.bias", g->bias, bias_bytes(t), true},
        {"saved", saved, doconv_training_saved_size(t), dst != NULL},
        {"workspace", workspace, doconv_training_workspace_size(t), true},
    };
    return dc_check_overlaps(t->ctx, ranges, sizeof ranges / sizeof ranges[0]);
}

doconv_status doconv_training_forward(const doconv_training *t, const doconv_parameters *parameters,
                                      const float *src, float *dst, void *saved, void *workspace,
                                      size_t workspace_size)
{
    if (t == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    char *space = NULL;
    doconv_parameters own;
    doconv_status status = check_call(t, parameters, workspace, workspace_size, &own, &space);
    if (status != DOCONV_OK || t->layer.empty) {
        return status;
    }
    parameters = &own;
    if (src == NULL || dst == NULL) {
        return dc_fail(t->ctx, DOCONV_INVALID_ARGUMENT, "%s: NULL", src == NULL ? "src" : "dst");
    }
    status = check_memory(t, parameters, src, NULL, dst, NULL, saved, workspace);
    if (status != DOCONV_OK) {
        return status;
    }
    struct dc_tensors tensors = {
        .src = src,
        .w = parameters->weight,
        .d = parameters->d,
        .bias = parameters->bias,
        .dst = dst,
    };
    if (t->backward != NULL) {
        dc_plan_run(t->forward, &tensors, space);
        return DOCONV_OK;
    }
    struct dc_weight_source source = {.bias = parameters->bias, .fold = t->forward->fold};
    if (source.fold != NULL) {
        source.w = parameters->weight;
        source.d = parameters->d;
        source.folded = saved != NULL ? saved : (float *)space;
    }
    source.view =
        dc_weight_view(&t->layer, source.fold != NULL ? source.folded : parameters->weight);
    tensors.fresh = &source;
    dc_plan_run(t->forward, &tensors, space + t->weight_size);
    return DOCONV_OK;
}

/* All gradients but the bias's. */
static void run_backward(const doconv_training *t, const doconv_parameters *parameters,
                         const float *src, const float *grad_dst, const void *saved,
                         const doconv_gradients *gradients, char *space)
{
    const bool composed = t->layer.fold.d_mul != 0;
    struct dc_tensors tensors = {
        .src = src,
        .w = parameters->weight,
        .d = parameters->d,
        .grad_dst = grad_dst,
        .grad_src = gradients->src,
        .grad_w = composed ? gradients->weight : NULL,
        .grad_weight = composed ? NULL : gradients->weight,
        .grad_d = gradients->d,
    };
    const bool wants_weight = gradients->weight != NULL || gradients->d != NULL;
    if (t->backward != NULL) {
        if (gradients->src != NULL || wants_weight) {
            dc_plan_run(t->backward, &tensors, space);
        }
        return;
    }
    char *const rest = space + t->weight_size;
    if (gradients->src != NULL) {
        const float *weight = composed ? saved : parameters->weight;
        if (weight == NULL) {
            tensors.weight = (float *)space;
            dc_plan_run(t->forward->fold, &tensors, rest);
            weight = tensors.weight;
        }
        dc_input_gradient_run(t->input, weight, grad_dst, gradients->src, rest);
    }
    if (wants_weight) {
        dc_plan_run(t->weight, &tensors, rest);
    }
}

doconv_status doconv_training_backward(const doconv_training *t,
                                       const doconv_parameters *parameters, const float *src,
                                       const float *grad_dst, const void *saved,
                                       const doconv_gradients *gradients, void *workspace,
                                       size_t workspace_size)
{
    if (t == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    char *space = NULL;
    doconv_parameters own;
    doconv_status status = check_call(t, parameters, workspace, workspace_size, &own, &space);
    if (status != DOCONV_OK) {
        return status;
    }
    parameters = &own;
    const bool no_tensors = (src == NULL || grad_dst == NULL) && !t->layer.empty;
    if (no_tensors || gradients == NULL) {
        return dc_fail(t->ctx, DOCONV_INVALID_ARGUMENT, "%s: NULL",
                       !no_tensors   ? "gradients"
                       : src == NULL ? "src"
                                     : "grad_dst");
    }
    doconv_gradients own_gradients;
    status = DC_READ_STRUCT(t->ctx, doconv_gradients, gradients, &own_gradients);
    if (status != DOCONV_OK) {
        return status;
    }
    gradients = &own_gradients;
    const bool composed = t->layer.fold.d_mul != 0;
    if ((gradients->d != NULL && !composed) ||
        (gradients->bias != NULL && !t->layer.desc.has_bias)) {
        return dc_fail(t->ctx, DOCONV_INVALID_ARGUMENT,
                       "gradients.%s: given, but the layer has none",
                       gradients->d != NULL && !composed ? "d" : "bias");
    }
    status = check_memory(t, parameters, src, grad_dst, NULL, gradients, saved, workspace);
    if (status != DOCONV_OK) {
        return status;
    }
    if (t->layer.empty) {
        clear_gradients(t, gradients);
        return DOCONV_OK;
    }
    if (gradients->bias != NULL) {
        dc_bias_gradient(t->ctx, &t->layer, grad_dst, gradients->bias);
    }
    run_backward(t, parameters, src, grad_dst, saved, gradients, space);
    return DOCONV_OK;
}
