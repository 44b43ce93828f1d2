/* SPDX-License-Identifier: MIT */
/* Fixing the candidate that is chosen for a problem in an immutable plan. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/clock.h"
#include "base/context.h"
#include "base/log.h"
#include "base/registry.h"
#include "base/versioned.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

doconv_status dc_plan_options_read(doconv_context *ctx, const doconv_plan_options *from,
                                   doconv_plan_options *options)
{
    const doconv_status status = DC_READ_STRUCT(ctx, doconv_plan_options, from, options);
    if (status != DOCONV_OK) {
        return status;
    }
    const struct dc_number numbers[] = {
        {"rigor", (int)options->rigor, DOCONV_RIGOR_MEASURE},
        {"operation", (int)options->operation, DC_OPERATIONS - 1},
        {"cold_weights", options->cold_weights, 1},
        {"fresh_weights", options->fresh_weights, 1},
        {"fallback", options->fallback, 1},
        {"budget_seconds", options->budget_seconds, DC_MOST_SECONDS},
    };
    return dc_check_numbers(ctx, numbers, sizeof numbers / sizeof numbers[0]);
}

void dc_plan_key(const doconv_context *ctx, const struct dc_problem *problem,
                 const doconv_plan_options *options, char *key, size_t size)
{
    struct dc_problem asked = *problem;
    asked.empty = false; /* an empty batch is planned as one image */
    dc_problem_format(&asked, key, size);
    const size_t used = strlen(key);
    const bool cold = options != NULL && options->cold_weights != 0;
    const bool named = problem->operation != DC_CONVOLUTION;
    /* Training keeps to one order of sums in any context, but for a layer's composition. */
    const bool trains = (named && !dc_is_layer(problem->operation)) || problem->fresh_weights;
    const bool keeps = ctx->deterministic && !trains;
    char packed[32] = "";
    if (options != NULL && options->packed_limit != 0) {
        snprintf(packed, sizeof packed, " packed=%zu", options->packed_limit);
    }
    snprintf(key + used, size - used, "%s%s threads=%d runner=%s workspace=%zu weights=%s%s%s%s",
             named ? " operation=" : "", named ? dc_operation_name(problem->operation) : "",
             problem->threads, ctx->own_threads ? "caller" : "default",
             options != NULL ? options->workspace_limit : 0, cold ? "cold" : "warm",
             problem->fresh_weights ? ",fresh" : "", keeps ? " order=kept" : "", packed);
}

doconv_plan_options dc_plan_part_options(const doconv_plan_options *options)
{
    doconv_plan_options parts = {.size = sizeof parts};
    if (options != NULL) {
        parts.rigor = options->rigor;
        parts.budget_seconds = options->budget_seconds;
        parts.cancel = options->cancel;
        parts.cancel_user = options->cancel_user;
        parts.fallback = options->fallback;
    }
    return parts;
}

/* Does the layer have the operation? */
static doconv_status check_operation(doconv_context *ctx, const struct dc_problem *layer,
                                     enum dc_operation operation, bool fresh)
{
    const doconv_composition composition = layer->desc.composition;
    const bool feature = operation == DC_FEATURE_FORWARD || operation == DC_FEATURE_BACKWARD;
    const bool open = composition == DOCONV_COMPOSITION_AUTO;
    if (operation == DC_CONVOLUTION && layer->fold.d_mul != 0 && !fresh) {
        return dc_fail(ctx, DOCONV_UNSUPPORTED,
                       "d_mul: %" PRId64
                       ": plans are of plain convolutions; train with doconv_training_create(), or "
                       "fold D and W into one weight first",
                       layer->fold.d_mul);
    }
    if (open != dc_is_layer(operation)) {
        return dc_fail(ctx, DOCONV_INVALID_PROBLEM,
                       "operation: %s is %s a layer of composition auto",
                       dc_operation_name(operation), open ? "none of" : "that of");
    }
    if (feature ? composition != DOCONV_COMPOSITION_FEATURE
                : composition == DOCONV_COMPOSITION_FEATURE ||
                      (composition == DOCONV_COMPOSITION_NONE &&
                       (operation == DC_FOLD || operation == DC_FOLD_GRADIENT))) {
        return dc_fail(ctx, DOCONV_INVALID_PROBLEM,
                       "operation: %s is none of a layer with composition %d",
                       dc_operation_name(operation), (int)composition);
    }
    if (feature && layer->desc.mapping != DOCONV_MAPPING_PAPER) {
        return dc_fail(ctx, DOCONV_UNSUPPORTED,
                       "mapping: feature composition is defined for the paper's only");
    }
    return DOCONV_OK;
}

doconv_status dc_plan_problem(doconv_context *ctx, const doconv_conv_desc *desc,
                              const doconv_plan_options *options, struct dc_problem *problem)
{
    struct dc_problem layer;
    const enum dc_operation operation = (enum dc_operation)options->operation;
    const bool fresh = options->fresh_weights != 0;
    doconv_status status = dc_problem_create(ctx, desc, &layer);
    if (status == DOCONV_OK) {
        status = check_operation(ctx, &layer, operation, fresh);
    }
    if (status == DOCONV_OK) {
        *problem = dc_problem_for(&layer, operation);
        problem->fresh_weights = operation == DC_CONVOLUTION && fresh;
        problem->cold_weights = operation == DC_CONVOLUTION && !fresh && options->cold_weights != 0;
    }
    return status;
}

/*
 * The fold before a convolution, or the gradient of the fold after that of its weight, if there is
 * any. Before the choice of the plan's own candidate: those are measured with the fold that is
 * measured already.
 */
static doconv_status plan_fold(doconv_plan *plan)
{
    const bool convolves = plan->problem.operation == DC_CONVOLUTION;
    if (plan->problem.fold.d_mul == 0 ||
        !(convolves || plan->problem.operation == DC_WEIGHT_GRADIENT)) {
        return DOCONV_OK;
    }
    const enum dc_operation operation = convolves ? DC_FOLD : DC_FOLD_GRADIENT;
    struct dc_problem problem = dc_problem_for(&plan->problem, operation);
    problem.threads = plan->problem.threads;
    return dc_plan_create(plan->ctx, &problem, &plan->parts, &plan->fold);
}

/* Bytes of a call: the solver's, and what is folded and packed beside it or before it. */
static size_t call_workspace(const doconv_plan *plan)
{
    size_t run = plan->candidate.workspace_size;
    if (plan->problem.fresh_weights && !plan->takes_fresh) {
        run += align_bytes(plan->candidate.packed_size);
    }
    const size_t fold = plan->fold != NULL && !plan->folds_parts ? plan->fold->workspace_size : 0;
    if (plan->problem.operation == DC_WEIGHT_GRADIENT && plan->fold != NULL && !plan->folds_parts) {
        /* The gradient of the whole weight waits while its own is handed back. */
        return align_bytes(plan->problem.weight_bytes) + most_bytes(run, fold);
    }
    return most_bytes(run, fold);
}

static doconv_status fix(doconv_plan *plan)
{
    const struct dc_solver *solver = plan->candidate.solver;
    const struct dc_problem *p = &plan->problem;
    if (p->operation == DC_CONVOLUTION) {
        const struct dc_kernel *kernel = plan->candidate.kernel;
        const doconv_conv_desc *d = &p->desc;
        const int64_t layout[] = {
            kernel->family, kernel->tile_channels, d->cin, d->cout, d->kh, d->kw, d->groups,
            d->has_bias};
        plan->packed_layout = dc_hash(0, layout, sizeof layout);
        plan->packed_layout = dc_hash(plan->packed_layout, solver->name, strlen(solver->name));
    }
    const doconv_status status = solver->prepare != NULL ? solver->prepare(plan) : DOCONV_OK;
    plan->workspace_size = align_bytes(call_workspace(plan));
    return status;
}

doconv_status dc_plan_create(doconv_context *ctx, const struct dc_problem *problem,
                             const doconv_plan_options *options, doconv_plan **plan)
{
    *plan = NULL;
    doconv_plan *result = dc_alloc(ctx, sizeof *result);
    if (result == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "plan: out of memory");
    }
    *result =
        (doconv_plan){.ctx = ctx, .problem = *problem, .parts = dc_plan_part_options(options)};
    doconv_status status = plan_fold(result);
    if (status == DOCONV_OK) {
        status = dc_plan_choose(result, options);
    }
    if (status == DOCONV_OK) {
        status = fix(result);
    }
    if (status != DOCONV_OK) {
        doconv_plan_destroy(result);
        return status;
    }
    *plan = result;
    return DOCONV_OK;
}

doconv_status doconv_plan_create(doconv_context *context, const doconv_conv_desc *desc,
                                 const doconv_plan_options *options, doconv_plan **plan)
{
    if (plan != NULL) {
        *plan = NULL;
    }
    if (context == NULL || plan == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "%s: NULL",
                       context == NULL ? "context" : "plan");
    }
    const double start = dc_now(context);
    struct dc_problem problem;
    doconv_plan_options own;
    doconv_status status = dc_plan_options_read(context, options, &own);
    if (status == DOCONV_OK && own.operation != DOCONV_OPERATION_CONVOLUTION) {
        status = dc_fail(context, DOCONV_UNSUPPORTED,
                         "options.operation: %s: programs plan convolutions only",
                         doconv_operation_string(own.operation));
    }
    if (status == DOCONV_OK) {
        status = dc_plan_problem(context, desc, &own, &problem);
    }
    if (status == DOCONV_OK) {
        status = dc_plan_create(context, &problem, &own, plan);
    }
    if (status == DOCONV_OK && context->verbose >= 1) {
        char text[DOCONV_PROBLEM_TEXT_SIZE];
        dc_problem_format(&problem, text, sizeof text);
        dc_log(context, DOCONV_LOG_VERBOSE, "plan,%s,%s,%s,%.3f ms", (*plan)->candidate.text,
               (*plan)->origin, text, 1e3 * (dc_now(context) - start));
    }
    return status;
}

void doconv_plan_destroy(doconv_plan *plan)
{
    if (plan != NULL) {
        if (plan->state != NULL && plan->candidate.solver->release != NULL) {
            plan->candidate.solver->release(plan);
        }
        doconv_plan_destroy(plan->fold);
        dc_free(plan->ctx, plan->source);
        dc_free(plan->ctx, plan->state);
        dc_free(plan->ctx, plan);
    }
}

const char *doconv_plan_variant(const doconv_plan *plan)
{
    return plan != NULL ? plan->candidate.text : "";
}

const char *doconv_plan_origin(const doconv_plan *plan)
{
    return plan != NULL ? plan->origin : "";
}

const char *doconv_plan_source(const doconv_plan *plan)
{
    return plan != NULL && plan->source != NULL ? plan->source : "";
}

size_t doconv_plan_workspace_size(const doconv_plan *plan)
{
    return plan != NULL && !plan->problem.empty ? plan->candidate.workspace_size : 0;
}

size_t doconv_plan_packed_size(const doconv_plan *plan)
{
    return plan != NULL ? plan->candidate.packed_size : 0;
}
