/* SPDX-License-Identifier: MIT */
/*
 * A DO-Conv layer whose composition is open, as an operation: its candidates are layers of a
 * settled composition, so which one it is, and whether folding goes in parts, is chosen, measured,
 * cached and explained like any kernel. What is expected of a candidate is the sum of what is
 * expected of its operations on one thread: compositions round differently, and the number of
 * threads must not change what is taken without a measurement.
 */
#include <math.h>
#include <stdio.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/log.h"
#include "train/layer.h"

struct parameters {
    int fold; /* enum dc_layer_fold */
};

/* A plan's state. */
struct state {
    struct dc_layer *layer;
    size_t saved_size; /* of the weight that a step hands from its first pass to its second */
};

static const char *const fold_texts[] = {
    [DC_LAYER_FREE] = "", [DC_LAYER_WHOLE] = ":fold=whole", [DC_LAYER_PARTS] = ":fold=parts"};

/* ---- candidates ---- */

/* The layer of a composition. */
static struct dc_problem settled(const struct dc_problem *p, doconv_composition composition)
{
    struct dc_problem layer = *p;
    layer.operation = DC_CONVOLUTION;
    layer.desc.composition = composition;
    return layer;
}

/* The most that an operation's algorithm may exceed a direct one's rounding. */
static float most_amplification(const struct dc_layer *layer)
{
    const char *role;
    float most = 1.0f;
    const doconv_plan *plan = dc_layer_operation(layer, 0, &role);
    for (int i = 1; plan != NULL; plan = dc_layer_operation(layer, i++, &role)) {
        most = fmaxf(most, plan->candidate.error_amplification);
    }
    return most;
}

/* NULL, or why there is no such candidate. */
static const char *offer(const doconv_context *ctx, const struct dc_problem *p,
                         const struct dc_solver *solver, doconv_composition composition,
                         enum dc_layer_fold fold, struct dc_candidate_list *list)
{
    const doconv_plan_options options = {.size = sizeof options, .rigor = DOCONV_RIGOR_ESTIMATE};
    struct dc_problem alone = settled(p, composition);
    alone.threads = 1;
    struct dc_layer *layer;
    const doconv_status status =
        dc_layer_create((doconv_context *)ctx, &alone, fold, &options, &layer);
    if (status != DOCONV_OK) {
        list->out_of_memory = list->out_of_memory || status == DOCONV_OUT_OF_MEMORY;
        return "one of its operations has no candidate";
    }
    struct dc_candidate c = {
        .solver = solver,
        .order_of_sums = (int)composition,
        .error_amplification = most_amplification(layer),
        .estimated_seconds = dc_layer_estimate(layer, p->operation == DC_LAYER_STEP),
    };
    const struct parameters q = {(int)fold};
    dc_set_parameters(&c, &q);
    const bool parts =
        layer->backward == NULL && (layer->forward->folds_parts || layer->weight->folds_parts);
    dc_layer_destroy(layer);
    if (fold != DC_LAYER_PARTS || parts) {
        dc_candidate_append(ctx, list, &c);
    }
    return NULL;
}

static const char *enumerate_kernel(const doconv_context *ctx, const struct dc_problem *p,
                                    const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    (void)kernel;
    const struct dc_solver *solver = p->operation == DC_LAYER_STEP
                                         ? &dc_solver_layer_step_kernel
                                         : &dc_solver_layer_forward_kernel;
    /* Where nothing folds in parts, all are the same. */
    static const enum dc_layer_fold folds[] = {DC_LAYER_FREE, DC_LAYER_PARTS, DC_LAYER_WHOLE};
    const int before = list->count;
    const char *refused = NULL;
    for (int i = 0; i < 3 && refused == NULL && list->count == before + i; i++) {
        refused = offer(ctx, p, solver, DOCONV_COMPOSITION_KERNEL, folds[i], list);
    }
    return refused;
}

static const char *enumerate_feature(const doconv_context *ctx, const struct dc_problem *p,
                                     const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    (void)kernel;
    if (p->desc.mapping != DOCONV_MAPPING_PAPER) {
        return "feature composition is defined for the paper's mapping only";
    }
    const struct dc_solver *solver = p->operation == DC_LAYER_STEP
                                         ? &dc_solver_layer_step_feature
                                         : &dc_solver_layer_forward_feature;
    return offer(ctx, p, solver, DOCONV_COMPOSITION_FEATURE, DC_LAYER_FREE, list);
}

static void describe(const struct dc_candidate *c, char *text, size_t size)
{
    struct parameters q;
    dc_get_parameters(c, &q);
    snprintf(text, size, "%s", fold_texts[q.fold]);
}

/* ---- the plan ---- */

static doconv_status prepare(doconv_plan *plan, doconv_composition composition)
{
    const struct dc_problem layer = settled(&plan->problem, composition);
    struct parameters q;
    dc_get_parameters(&plan->candidate, &q);
    struct state *state = dc_alloc(plan->ctx, sizeof *state);
    if (state == NULL) {
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "training: out of memory");
    }
    *state = (struct state){0};
    plan->state = state;
    const doconv_status status =
        dc_layer_create(plan->ctx, &layer, (enum dc_layer_fold)q.fold, &plan->parts, &state->layer);
    if (status == DOCONV_OK) {
        const bool hands_on = plan->problem.operation == DC_LAYER_STEP;
        state->saved_size = hands_on ? state->layer->weight_size : 0;
        plan->candidate.workspace_size = state->saved_size + state->layer->workspace_size;
        plan->candidate.error_amplification = most_amplification(state->layer);
    }
    return status;
}

static doconv_status prepare_kernel(doconv_plan *plan)
{
    return prepare(plan, DOCONV_COMPOSITION_KERNEL);
}

static doconv_status prepare_feature(doconv_plan *plan)
{
    return prepare(plan, DOCONV_COMPOSITION_FEATURE);
}

static void release(doconv_plan *plan)
{
    dc_layer_destroy(((struct state *)plan->state)->layer);
}

const struct dc_layer *dc_layer_of(const doconv_plan *plan)
{
    return ((const struct state *)plan->state)->layer;
}

/* What is measured: the layer's forward pass, or its step. */
static void execute(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace)
{
    const struct state *state = plan->state;
    float *const saved = state->saved_size != 0 ? (float *)workspace : NULL;
    workspace += state->saved_size;
    dc_layer_forward(state->layer, tensors, saved, workspace);
    if (plan->problem.operation == DC_LAYER_STEP) {
        dc_layer_backward(state->layer, tensors, saved, workspace);
    }
}

#define SOLVER(composition, of)                                                                    \
    {                                                                                              \
        .name = #composition, .operation = of, .family = DC_FAMILY_NONE, .composes = true,         \
        .enumerate = enumerate_##composition, .describe = describe,                                \
        .prepare = prepare_##composition, .release = release, .execute = execute,                  \
    }
const struct dc_solver dc_solver_layer_forward_kernel = SOLVER(kernel, DC_LAYER_FORWARD);
const struct dc_solver dc_solver_layer_forward_feature = SOLVER(feature, DC_LAYER_FORWARD);
const struct dc_solver dc_solver_layer_step_kernel = SOLVER(kernel, DC_LAYER_STEP);
const struct dc_solver dc_solver_layer_step_feature = SOLVER(feature, DC_LAYER_STEP);
