/* SPDX-License-Identifier: MIT */
/*
 * Choosing a candidate (forced > table > cache > measured > estimate) and fixing it in an immutable
 * plan.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/clock.h"
#include "base/context.h"
#include "base/cpu.h"
#include "base/log.h"
#include "base/registry.h"
#include "base/table.h"
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
    if ((int)options->rigor < 0 || (int)options->rigor > DOCONV_RIGOR_MEASURE) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "options.rigor: %d is not in 0..%d",
                       (int)options->rigor, DOCONV_RIGOR_MEASURE);
    }
    if ((int)options->operation < 0 || (int)options->operation >= DC_OPERATIONS) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "options.operation: %d is not in 0..%d",
                       (int)options->operation, DC_OPERATIONS - 1);
    }
    if (options->cold_weights != 0 && options->cold_weights != 1) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "options.cold_weights: %d is not in 0..1",
                       options->cold_weights);
    }
    if (options->fresh_weights != 0 && options->fresh_weights != 1) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "options.fresh_weights: %d is not in 0..1",
                       options->fresh_weights);
    }
    return DOCONV_OK;
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

/* The accepted candidate of this text, or NULL. */
static const struct dc_candidate *find(struct dc_candidate_list *list, const char *text)
{
    for (int i = 0; i < list->count; i++) {
        if (list->items[i].refused == NULL && dc_candidate_is(&list->items[i], text)) {
            return &list->items[i];
        }
    }
    return NULL;
}

/* Why the variant that is asked for can't be had. */
static doconv_status refuse_forced(doconv_context *ctx, const char *forced,
                                   struct dc_candidate_list *list)
{
    dc_candidates_describe(list);
    for (int i = 0; i < list->count; i++) {
        const struct dc_candidate *c = &list->items[i];
        const char *kernel = c->kernel != NULL ? c->kernel->name : "";
        if (strcmp(kernel, forced) == 0 || strcmp(c->text, forced) == 0) {
            return dc_fail(ctx, DOCONV_NOT_FOUND, "variant: \"%.100s\" can't take this problem: %s",
                           forced, c->refused);
        }
    }
    return dc_fail(ctx, DOCONV_NOT_FOUND, "variant: no candidate is called \"%.100s\"", forced);
}

/* The table's choice, if it has one for this key that is a candidate here; else NULL. */
static const struct dc_candidate *find_in_table(const doconv_context *ctx, const char *key,
                                                struct dc_candidate_list *list)
{
    size_t count;
    const doconv_table_row *rows = dc_table_find(&ctx->table, key, &count);
    for (size_t i = 0; i < count; i++) {
        if (rows[i].isa != DOCONV_ISA_DEFAULT &&
            !dc_isa_usable((enum dc_isa)rows[i].isa, ctx->isa)) {
            continue;
        }
        const struct dc_candidate *found = find(list, rows[i].variant);
        if (found != NULL) {
            return found;
        }
        dc_log(ctx, DOCONV_LOG_WARNING, "table: \"%.120s\" is no candidate of %s", rows[i].variant,
               key);
    }
    return NULL;
}

/* The cache's choice, if it has one for this key that is a candidate here; else NULL. */
static const struct dc_candidate *find_in_cache(const doconv_context *ctx, const char *key,
                                                bool measures, struct dc_candidate_list *list)
{
    const struct dc_advisor *advisor = &ctx->advisor;
    char variant[DC_VARIANT_SIZE];
    if (advisor->lookup == NULL ||
        !advisor->lookup(advisor->self, key, measures, variant, sizeof variant)) {
        return NULL;
    }
    const struct dc_candidate *found = find(list, variant);
    if (found == NULL) {
        dc_log(ctx, DOCONV_LOG_WARNING, "cache: \"%s\" is no candidate of %s any more", variant,
               key);
    }
    return found;
}

/*
 * A measurement's choice; NULL, with a line in the log, if it fails. UNSUPPORTED: it did not, and
 * found every variant wrong.
 */
static doconv_status measure(const doconv_plan *plan, const doconv_plan_options *options,
                             const char *key, struct dc_candidate_list *list,
                             const struct dc_candidate **found)
{
    doconv_context *ctx = plan->ctx;
    const struct dc_advisor *advisor = &ctx->advisor;
    char variant[DC_VARIANT_SIZE];
    const doconv_status status =
        advisor->measure(advisor->self, &plan->problem, options, variant, sizeof variant);
    *found = status == DOCONV_OK ? find(list, variant) : NULL;
    if (status != DOCONV_OK && status != DOCONV_UNSUPPORTED) {
        char detail[256];
        doconv_context_last_error(ctx, detail, sizeof detail);
        dc_log(ctx, DOCONV_LOG_WARNING, "tune: %s: %.200s; planned without: %s",
               doconv_status_string(status), detail, key);
    }
    return status == DOCONV_UNSUPPORTED ? status : DOCONV_OK;
}

/*
 * The choice of the cache, or, if the mode asks for it, of a measurement: *found and *origin, or
 * *found NULL. NOT_FOUND if the mode allows nothing else.
 */
static doconv_status ask_advisor(const doconv_plan *plan, const doconv_plan_options *options,
                                 const char *key, struct dc_candidate_list *list,
                                 const struct dc_candidate **found, const char **origin)
{
    doconv_context *ctx = plan->ctx;
    const doconv_rigor rigor = options != NULL ? options->rigor : DOCONV_RIGOR_DEFAULT;
    const bool by_mode = rigor == DOCONV_RIGOR_DEFAULT;
    const bool force = by_mode && ctx->tune == DOCONV_TUNE_FORCE;
    const bool only = by_mode && ctx->tune == DOCONV_TUNE_ONLY;
    const bool measures =
        ctx->advisor.measure != NULL &&
        (rigor == DOCONV_RIGOR_MEASURE || force || (by_mode && ctx->tune == DOCONV_TUNE_TUNE));
    *origin = "cache";
    *found = force ? NULL : find_in_cache(ctx, key, measures, list);
    if (*found == NULL && measures) {
        const doconv_status status = measure(plan, options, key, list, found);
        if (status != DOCONV_OK) {
            return status;
        }
        *origin = "measured";
        if (*found == NULL) {
            /* A result that was found wanting is better than none. */
            *found = find_in_cache(ctx, key, false, list);
            *origin = "cache";
        }
    }
    return *found == NULL && only
               ? dc_fail(ctx, DOCONV_NOT_FOUND,
                         "tune mode only: the cache has no choice for %.180s", key)
               : DOCONV_OK;
}

/* Nothing takes the problem, within the limits that the caller sets. */
static doconv_status refuse_all(doconv_context *ctx, const doconv_plan_options *options)
{
    const size_t workspace = options != NULL ? options->workspace_limit : 0,
                 packed = options != NULL ? options->packed_limit : 0;
    char limits[128] = "";
    if (workspace != 0) {
        snprintf(limits, sizeof limits, " within a workspace of %zu bytes", workspace);
    }
    if (packed != 0) {
        const size_t used = strlen(limits);
        snprintf(limits + used, sizeof limits - used, "%s packed weights of %zu bytes",
                 used != 0 ? " and" : " within", packed);
    }
    return dc_fail(ctx, DOCONV_UNSUPPORTED, "no kernel takes this problem%s%s", limits,
                   limits[0] != '\0' && ctx->deterministic ? ", with its order of sums kept" : "");
}

static doconv_status choose(doconv_plan *plan, const doconv_plan_options *options,
                            struct dc_candidate_list *list)
{
    doconv_context *ctx = plan->ctx;
    const doconv_rigor rigor = options != NULL ? options->rigor : DOCONV_RIGOR_DEFAULT;
    const char *forced = options != NULL ? options->variant : NULL;
    if (list->count == 0 || list->items[0].refused != NULL) {
        if (forced != NULL) {
            return refuse_forced(ctx, forced, list);
        }
        return refuse_all(ctx, options);
    }
    plan->candidate = list->items[0];
    plan->origin = forced != NULL ? "forced" : "estimate";
    const bool off = rigor == DOCONV_RIGOR_DEFAULT && ctx->tune == DOCONV_TUNE_OFF;
    if (forced != NULL || rigor == DOCONV_RIGOR_ESTIMATE || (off && ctx->table.count == 0)) {
        return DOCONV_OK;
    }
    char key[DC_KEY_SIZE];
    dc_plan_key(ctx, &plan->problem, options, key, sizeof key);
    const struct dc_candidate *found = find_in_table(ctx, key, list);
    const char *origin = "table";
    if (found == NULL && !off) {
        const doconv_status status = ask_advisor(plan, options, key, list, &found, &origin);
        if (status != DOCONV_OK) {
            return status;
        }
    }
    if (found != NULL) {
        plan->candidate = *found;
        plan->origin = origin;
    }
    return DOCONV_OK;
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
static doconv_status plan_fold(doconv_plan *plan, const doconv_plan_options *options)
{
    const bool convolves = plan->problem.operation == DC_CONVOLUTION;
    if (plan->problem.fold.d_mul == 0 ||
        !(convolves || plan->problem.operation == DC_WEIGHT_GRADIENT)) {
        return DOCONV_OK;
    }
    const enum dc_operation operation = convolves ? DC_FOLD : DC_FOLD_GRADIENT;
    struct dc_problem problem = dc_problem_for(&plan->problem, operation);
    problem.threads = plan->problem.threads;
    doconv_plan_options own = {.size = sizeof own};
    own.rigor = options != NULL ? options->rigor : DOCONV_RIGOR_DEFAULT;
    return dc_plan_create(plan->ctx, &problem, &own, &plan->fold);
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

static doconv_status choose_candidate(doconv_plan *plan, const doconv_plan_options *options)
{
    struct dc_candidate_list list;
    doconv_status status = dc_enumerate_quickly(plan->ctx, &plan->problem, options, &list);
    if (status == DOCONV_OK) {
        status = choose(plan, options, &list);
        if (status == DOCONV_OK) {
            dc_candidate_describe(&plan->candidate);
        }
        dc_free(plan->ctx, list.items);
    }
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
    *result = (doconv_plan){.ctx = ctx, .problem = *problem};
    result->rigor = options != NULL ? options->rigor : DOCONV_RIGOR_DEFAULT;
    doconv_status status = plan_fold(result, options);
    if (status == DOCONV_OK) {
        status = choose_candidate(result, options);
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

size_t doconv_plan_workspace_size(const doconv_plan *plan)
{
    return plan != NULL && !plan->problem.empty ? plan->candidate.workspace_size : 0;
}

size_t doconv_plan_packed_size(const doconv_plan *plan)
{
    return plan != NULL ? plan->candidate.packed_size : 0;
}
