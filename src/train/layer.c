/* SPDX-License-Identifier: MIT */
#include "train/layer.h"

#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/log.h"

/* ---- its plans ---- */

/* Can a variant of this text fold in parts, or take the weight's gradient so? */
static bool names_parts(const char *text)
{
    return strstr(text, "order=pack") != NULL || strstr(text, "fold=parts") != NULL;
}

/*
 * Plans the best candidate, by estimate, that folds in parts, or that doesn't. *plan NULL: there is
 * none.
 */
static doconv_status plan_folding(doconv_context *ctx, const struct dc_problem *problem, bool parts,
                                  const doconv_plan_options *options, doconv_plan **plan)
{
    struct dc_candidate_list list;
    doconv_status status = dc_enumerate(ctx, problem, options, &list);
    *plan = NULL;
    for (int i = 0; i < list.count && status == DOCONV_OK && *plan == NULL; i++) {
        struct dc_candidate *c = &list.items[i];
        if (c->refused != NULL) {
            break;
        }
        if (names_parts(c->text) != parts) {
            continue;
        }
        doconv_plan_options forced = *options;
        forced.variant = c->text;
        status = dc_plan_create(ctx, problem, &forced, plan);
        if (status == DOCONV_OK && (*plan)->folds_parts != parts) {
            doconv_plan_destroy(*plan);
            *plan = NULL;
        }
    }
    dc_free(ctx, list.items);
    return status;
}

/* The plan of an operation on the layer. fold: FREE where it folds nothing. */
static doconv_status plan_operation(struct dc_layer *layer, enum dc_operation operation,
                                    enum dc_layer_fold fold, const doconv_plan_options *options,
                                    doconv_plan **plan)
{
    struct dc_problem problem = dc_problem_for(&layer->problem, operation);
    problem.fresh_weights = operation == DC_CONVOLUTION;
    doconv_status status = dc_plan_create(layer->ctx, &problem, options, plan);
    const bool parts = fold == DC_LAYER_PARTS;
    if (status != DOCONV_OK || fold == DC_LAYER_FREE || (*plan)->folds_parts == parts) {
        return status;
    }
    doconv_plan *other;
    status = plan_folding(layer->ctx, &problem, parts, options, &other);
    if (other != NULL) {
        /* Who chose that such a one is taken. */
        other->origin = (*plan)->origin;
        other->source = (*plan)->source;
        (*plan)->source = NULL;
        doconv_plan_destroy(*plan);
        *plan = other;
    }
    return status;
}

/* The convolutions of a plain layer, and of kernel composition. */
static doconv_status plan_convolutions(struct dc_layer *layer, enum dc_layer_fold fold,
                                       const doconv_plan_options *options)
{
    doconv_status status = plan_operation(layer, DC_CONVOLUTION, fold, options, &layer->forward);
    if (status == DOCONV_OK) {
        status = dc_input_gradient_create(layer->ctx, &layer->problem, options, &layer->input);
    }
    if (status == DOCONV_OK) {
        status = plan_operation(layer, DC_WEIGHT_GRADIENT, fold, options, &layer->weight);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    const bool composed = layer->problem.fold.d_mul != 0;
    layer->weight_size = composed ? align_bytes(layer->problem.weight_bytes) : 0;
    const size_t folding = composed ? layer->forward->fold->workspace_size : 0;
    const size_t backward =
        most_bytes(dc_input_gradient_workspace_size(layer->input), layer->weight->workspace_size);
    /* Folding is over before the others need room; only the weight stays. */
    layer->workspace_size =
        layer->weight_size +
        most_bytes(most_bytes(layer->forward->workspace_size, backward), folding);
    return DOCONV_OK;
}

static doconv_status plan_feature(struct dc_layer *layer, const doconv_plan_options *options)
{
    doconv_status status =
        plan_operation(layer, DC_FEATURE_FORWARD, DC_LAYER_FREE, options, &layer->forward);
    if (status == DOCONV_OK) {
        status =
            plan_operation(layer, DC_FEATURE_BACKWARD, DC_LAYER_FREE, options, &layer->backward);
    }
    if (status == DOCONV_OK) {
        layer->workspace_size =
            most_bytes(layer->forward->workspace_size, layer->backward->workspace_size);
    }
    return status;
}

doconv_status dc_layer_create(doconv_context *ctx, const struct dc_problem *problem,
                              enum dc_layer_fold fold, const doconv_plan_options *options,
                              struct dc_layer **layer)
{
    const doconv_plan_options defaults = {.size = sizeof defaults};
    *layer = NULL;
    struct dc_layer *result = dc_alloc(ctx, sizeof *result);
    if (result == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "training: out of memory");
    }
    *result = (struct dc_layer){.ctx = ctx, .problem = *problem};
    options = options != NULL ? options : &defaults;
    const doconv_status status = problem->desc.composition == DOCONV_COMPOSITION_FEATURE
                                     ? plan_feature(result, options)
                                     : plan_convolutions(result, fold, options);
    if (status != DOCONV_OK) {
        dc_layer_destroy(result);
        return status;
    }
    *layer = result;
    return DOCONV_OK;
}

void dc_layer_destroy(struct dc_layer *layer)
{
    if (layer != NULL) {
        doconv_plan_destroy(layer->forward);
        doconv_plan_destroy(layer->backward);
        dc_input_gradient_destroy(layer->input);
        doconv_plan_destroy(layer->weight);
        dc_free(layer->ctx, layer);
    }
}

const doconv_plan *dc_layer_operation(const struct dc_layer *layer, int index, const char **role)
{
    const bool composed = layer->backward == NULL && layer->forward->fold != NULL;
    const struct {
        const char *role;
        const doconv_plan *plan;
    } fixed[] = {
        {"forward", layer->forward},
        {"backward", layer->backward},
        {"fold", composed ? layer->forward->fold : NULL},
        {"gradient of weight", layer->weight},
        {"gradient of fold", composed ? layer->weight->fold : NULL},
    };
    int rest = index;
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++) {
        if (fixed[i].plan != NULL && rest-- == 0) {
            *role = fixed[i].role;
            return fixed[i].plan;
        }
    }
    *role = "gradient of src";
    return layer->input != NULL && rest >= 0 ? dc_input_gradient_plan(layer->input, rest) : NULL;
}

/* ---- what is expected of it ---- */

/* Of an operation, and of the fold, or its gradient, that goes with it. */
static double seconds_of(const doconv_plan *plan)
{
    return plan->candidate.estimated_seconds +
           (plan->fold != NULL ? plan->fold->candidate.estimated_seconds : 0.0);
}

double dc_layer_estimate(const struct dc_layer *layer, bool step)
{
    const double forward = seconds_of(layer->forward);
    if (!step) {
        return forward;
    }
    return forward + (layer->backward != NULL
                          ? seconds_of(layer->backward)
                          : dc_input_gradient_estimate(layer->input) + seconds_of(layer->weight));
}

/* ---- its passes ---- */

void dc_layer_forward(const struct dc_layer *layer, const struct dc_tensors *tensors, float *saved,
                      char *workspace)
{
    if (layer->backward != NULL) {
        dc_plan_run(layer->forward, tensors, workspace);
        return;
    }
    struct dc_tensors own = *tensors;
    struct dc_weight_source source = {.bias = tensors->bias, .fold = layer->forward->fold};
    if (source.fold != NULL) {
        source.w = tensors->w;
        source.d = tensors->d;
        source.folded = saved != NULL ? saved : (float *)workspace;
    }
    source.view = dc_weight_view(&layer->problem, source.fold != NULL ? source.folded : tensors->w);
    own.fresh = &source;
    dc_plan_run(layer->forward, &own, workspace + layer->weight_size);
}

void dc_layer_backward(const struct dc_layer *layer, const struct dc_tensors *tensors,
                       const float *saved, char *workspace)
{
    const bool wants_weight = tensors->grad_w != NULL || tensors->grad_d != NULL;
    if (layer->backward != NULL) {
        if (tensors->grad_src != NULL || wants_weight) {
            dc_plan_run(layer->backward, tensors, workspace);
        }
        return;
    }
    struct dc_tensors own = *tensors;
    char *const rest = workspace + layer->weight_size;
    const bool composed = layer->problem.fold.d_mul != 0;
    if (tensors->grad_src != NULL) {
        const float *weight = composed ? saved : tensors->w;
        if (weight == NULL) {
            own.weight = (float *)workspace;
            dc_plan_run(layer->forward->fold, &own, rest);
            weight = own.weight;
        }
        dc_input_gradient_run(layer->input, weight, tensors->grad_dst, tensors->grad_src, rest);
    }
    if (wants_weight) {
        own.grad_weight = composed ? NULL : tensors->grad_w;
        own.grad_w = composed ? tensors->grad_w : NULL;
        dc_plan_run(layer->weight, &own, rest);
    }
}
