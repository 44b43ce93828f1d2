/* SPDX-License-Identifier: MIT */
/*
 * The API of a layer in training: options, arguments, memory. What its passes are made of is
 * layer.c's; a composition that is open is chosen as an operation's variant is, by layer_solver.c.
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
#include "train/layer.h"

struct doconv_training {
    doconv_context *ctx;
    struct dc_problem problem; /* as dc_layer.problem, but for a composition that is open */
    /* DC_LAYER_FORWARD or DC_LAYER_STEP, of composition AUTO; else NULL */
    doconv_plan *choice;
    struct dc_layer *own;         /* of a settled composition; else NULL */
    const struct dc_layer *layer; /* the choice's, or own */
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

static doconv_status check_options(doconv_context *ctx, const doconv_training_options *options,
                                   const doconv_conv_desc *desc)
{
    if ((int)options->purpose < 0 || (int)options->purpose > DOCONV_PURPOSE_FORWARD) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "options.purpose: %d is not in 0..%d",
                       (int)options->purpose, DOCONV_PURPOSE_FORWARD);
    }
    if (options->variant != NULL && desc->composition != DOCONV_COMPOSITION_AUTO) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT,
                       "options.variant: given, but the layer's composition is not auto");
    }
    return DOCONV_OK;
}

/* The layer, of the composition that suits it if none is asked for. */
static doconv_status plan_layer(doconv_training *t, const doconv_training_options *options,
                                const doconv_plan_options *plans)
{
    if (t->problem.desc.composition != DOCONV_COMPOSITION_AUTO) {
        const doconv_status status =
            dc_layer_create(t->ctx, &t->problem, DC_LAYER_FREE, plans, &t->own);
        t->layer = t->own;
        return status;
    }
    const struct dc_problem problem = dc_problem_for(
        &t->problem, options->purpose == DOCONV_PURPOSE_FORWARD ? DC_LAYER_FORWARD : DC_LAYER_STEP);
    const doconv_status status = dc_plan_create(t->ctx, &problem, plans, &t->choice);
    t->layer = status == DOCONV_OK ? dc_layer_of(t->choice) : NULL;
    return status;
}

static doconv_status create(doconv_training *t, const doconv_conv_desc *desc,
                            const doconv_training_options *options)
{
    const doconv_plan_options plans = {
        .size = sizeof plans, .rigor = options->rigor, .variant = options->variant};
    doconv_plan_options checked;
    doconv_status status = dc_problem_create(t->ctx, desc, &t->problem);
    if (status == DOCONV_OK) {
        status = check(t->ctx, &t->problem.desc);
    }
    if (status == DOCONV_OK) {
        status = check_options(t->ctx, options, &t->problem.desc);
    }
    if (status == DOCONV_OK) {
        status = dc_plan_options_read(t->ctx, &plans, &checked);
    }
    return status == DOCONV_OK ? plan_layer(t, options, &checked) : status;
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
        doconv_plan_destroy(training->choice);
        dc_layer_destroy(training->own);
        dc_free(training->ctx, training);
    }
}

size_t doconv_training_workspace_size(const doconv_training *training)
{
    return training == NULL || training->layer->workspace_size == 0 || training->problem.empty
               ? 0
               : training->layer->workspace_size + 64;
}

size_t doconv_training_saved_size(const doconv_training *training)
{
    return training != NULL && training->layer->weight_size != 0 && !training->problem.empty
               ? training->problem.weight_bytes
               : 0;
}

doconv_composition doconv_training_composition(const doconv_training *training)
{
    return training != NULL ? training->layer->problem.desc.composition : DOCONV_COMPOSITION_NONE;
}

/* The index-th operation, the choice of a composition first, or NULL past the last. */
static const doconv_plan *operation_at(const doconv_training *t, int index, const char **role)
{
    if (t->choice == NULL) {
        return dc_layer_operation(t->layer, index, role);
    }
    *role = "composition";
    return index == 0 ? t->choice : dc_layer_operation(t->layer, index - 1, role);
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
    const bool has_d = t->problem.fold.d_mul != 0, has_bias = t->problem.desc.has_bias != 0;
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
    const size_t taps = (size_t)(t->problem.desc.kh * t->problem.desc.kw);
    return t->problem.fold.d_mul != 0
               ? t->problem.weight_bytes / taps * (size_t)t->problem.fold.d_mul
               : t->problem.weight_bytes;
}

static size_t d_bytes(const doconv_training *t)
{
    const doconv_conv_desc *d = &t->problem.desc;
    return (size_t)(d->cin * d->kh * d->kw * t->problem.fold.d_mul) * sizeof(float);
}

static size_t bias_bytes(const doconv_training *t)
{
    return (size_t)t->problem.desc.cout * sizeof(float);
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
    const size_t src_bytes = t->problem.empty ? 0 : t->problem.src_bytes,
                 dst_bytes = t->problem.empty ? 0 : t->problem.dst_bytes;
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
    if (status != DOCONV_OK || t->problem.empty) {
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
    const struct dc_tensors tensors = {
        .src = src,
        .w = parameters->weight,
        .d = parameters->d,
        .bias = parameters->bias,
        .dst = dst,
    };
    dc_layer_forward(t->layer, &tensors, saved, space);
    return DOCONV_OK;
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
    const bool no_tensors = (src == NULL || grad_dst == NULL) && !t->problem.empty;
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
    const bool composed = t->problem.fold.d_mul != 0;
    if ((gradients->d != NULL && !composed) ||
        (gradients->bias != NULL && !t->problem.desc.has_bias)) {
        return dc_fail(t->ctx, DOCONV_INVALID_ARGUMENT,
                       "gradients.%s: given, but the layer has none",
                       gradients->d != NULL && !composed ? "d" : "bias");
    }
    status = check_memory(t, parameters, src, grad_dst, NULL, gradients, saved, workspace);
    if (status != DOCONV_OK) {
        return status;
    }
    if (t->problem.empty) {
        clear_gradients(t, gradients);
        return DOCONV_OK;
    }
    if (gradients->bias != NULL) {
        dc_bias_gradient(t->ctx, &t->problem, grad_dst, gradients->bias);
    }
    const struct dc_tensors tensors = {
        .src = src,
        .w = parameters->weight,
        .d = parameters->d,
        .grad_dst = grad_dst,
        .grad_src = gradients->src,
        .grad_w = gradients->weight,
        .grad_d = gradients->d,
    };
    dc_layer_backward(t->layer, &tensors, saved, space);
    return DOCONV_OK;
}
