/* SPDX-License-Identifier: MIT */
/*
 * Choosing a candidate (forced > cache > measured > estimate) and fixing it in an immutable plan.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/context.h"
#include "base/log.h"
#include "base/registry.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

doconv_status dc_plan_options_check(doconv_context *ctx, const doconv_plan_options *options)
{
    if (options == NULL) {
        return DOCONV_OK;
    }
    if (options->size != sizeof *options) {
        return dc_fail(
            ctx, DOCONV_MISMATCH,
            "options.size: %zu is not %zu, the size of doconv_plan_options in this version",
            options->size, sizeof *options);
    }
    if ((int)options->rigor < 0 || (int)options->rigor > DOCONV_RIGOR_MEASURE) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "options.rigor: %d is not in 0..%d",
                       (int)options->rigor, DOCONV_RIGOR_MEASURE);
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
    const bool cold = options != NULL && options->cold_weights != 0,
               fresh = options != NULL && options->fresh_weights != 0;
    snprintf(key + used, size - used, " threads=%d runner=%s workspace=%zu weights=%s%s",
             ctx->threads, ctx->own_threads ? "caller" : "default",
             options != NULL ? options->workspace_limit : 0, cold ? "cold" : "warm",
             fresh ? ",fresh" : "");
}

/* The accepted candidate of this text, or NULL. */
static const struct dc_candidate *find(const struct dc_candidate_list *list, const char *text)
{
    for (int i = 0; i < list->count; i++) {
        if (list->items[i].refused == NULL && strcmp(list->items[i].text, text) == 0) {
            return &list->items[i];
        }
    }
    return NULL;
}

static doconv_status choose(doconv_plan *plan, const doconv_plan_options *options,
                            const struct dc_candidate_list *list)
{
    doconv_context *ctx = plan->ctx;
    const doconv_rigor rigor = options != NULL ? options->rigor : DOCONV_RIGOR_DEFAULT;
    const char *forced = options != NULL ? options->variant : NULL;
    if (list->count == 0 || list->items[0].refused != NULL) {
        if (forced != NULL) {
            for (int i = 0; i < list->count; i++) {
                const struct dc_candidate *c = &list->items[i];
                if (strcmp(c->kernel->name, forced) == 0 || strcmp(c->text, forced) == 0) {
                    return dc_fail(ctx, DOCONV_NOT_FOUND,
                                   "variant: \"%.100s\" can't take this problem: %s", forced,
                                   c->refused);
                }
            }
            return dc_fail(ctx, DOCONV_NOT_FOUND, "variant: no candidate is called \"%.100s\"",
                           forced);
        }
        return dc_fail(ctx, DOCONV_UNSUPPORTED,
                       "no kernel takes this problem within a workspace of %zu bytes",
                       options != NULL ? options->workspace_limit : 0);
    }
    plan->candidate = list->items[0];
    plan->origin = forced != NULL ? "forced" : "estimate";
    if (forced != NULL || rigor == DOCONV_RIGOR_ESTIMATE ||
        (rigor == DOCONV_RIGOR_DEFAULT && ctx->tune == DOCONV_TUNE_OFF)) {
        return DOCONV_OK;
    }
    const bool force = rigor == DOCONV_RIGOR_DEFAULT && ctx->tune == DOCONV_TUNE_FORCE;
    const bool only = rigor == DOCONV_RIGOR_DEFAULT && ctx->tune == DOCONV_TUNE_ONLY;
    const bool measure =
        rigor == DOCONV_RIGOR_MEASURE ||
        (rigor == DOCONV_RIGOR_DEFAULT && (force || ctx->tune == DOCONV_TUNE_TUNE));
    char key[DC_KEY_SIZE], variant[DC_VARIANT_SIZE];
    dc_plan_key(ctx, &plan->problem, options, key, sizeof key);
    const struct dc_candidate *found = NULL;
    if (!force && ctx->advisor.lookup != NULL &&
        ctx->advisor.lookup(ctx->advisor.self, key, variant, sizeof variant)) {
        found = find(list, variant);
        if (found == NULL) {
            dc_log(ctx, DOCONV_LOG_WARNING, "cache: \"%s\" is no candidate of %s any more", variant,
                   key);
        }
    }
    const char *origin = "cache";
    if (found == NULL && measure && ctx->advisor.measure != NULL) {
        const doconv_status status = ctx->advisor.measure(ctx->advisor.self, &plan->problem.desc,
                                                          options, variant, sizeof variant);
        if (status != DOCONV_OK) {
            return status;
        }
        found = find(list, variant);
        origin = "measured";
    }
    if (found != NULL) {
        plan->candidate = *found;
        plan->origin = origin;
    } else if (only) {
        return dc_fail(ctx, DOCONV_NOT_FOUND, "tune mode only: the cache has no choice for %.180s",
                       key);
    }
    return DOCONV_OK;
}

static doconv_status fill(doconv_plan *plan, const doconv_conv_desc *desc,
                          const doconv_plan_options *options)
{
    doconv_context *ctx = plan->ctx;
    doconv_status status = dc_problem_create(ctx, desc, &plan->problem);
    if (status == DOCONV_OK) {
        status = dc_plan_options_check(ctx, options);
    }
    struct dc_candidate_list list = {0};
    if (status == DOCONV_OK) {
        status = dc_enumerate(ctx, &plan->problem, options, &list);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    status = choose(plan, options, &list);
    dc_free(ctx, list.items);
    if (status != DOCONV_OK) {
        return status;
    }
    plan->solver = dc_solver_of(plan->candidate.kernel);
    const struct dc_kernel *kernel = plan->candidate.kernel;
    dc_problem_format(&plan->problem, plan->problem_text, sizeof plan->problem_text);
    const doconv_conv_desc *d = &plan->problem.desc;
    const int64_t layout[] = {
        kernel->op, kernel->tile_channels, d->cin, d->cout, d->kh, d->kw, d->groups, d->has_bias};
    plan->packed_layout = dc_hash(0, layout, sizeof layout);
    return plan->solver->prepare(plan);
}

doconv_status dc_plan_create(doconv_context *ctx, const doconv_conv_desc *desc,
                             const doconv_plan_options *options, doconv_plan **plan)
{
    *plan = NULL;
    doconv_plan *result = dc_alloc(ctx, sizeof *result);
    if (result == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "plan: out of memory");
    }
    *result = (doconv_plan){.ctx = ctx};
    const doconv_status status = fill(result, desc, options);
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
    const double start = dc_now();
    const doconv_status status = dc_plan_create(context, desc, options, plan);
    if (status == DOCONV_OK && context->verbose >= 1) {
        dc_log(context, DOCONV_LOG_VERBOSE, "plan,%s,%s,%s,%.3f ms", (*plan)->candidate.text,
               (*plan)->origin, (*plan)->problem_text, 1e3 * (dc_now() - start));
    }
    return status;
}

void doconv_plan_destroy(doconv_plan *plan)
{
    if (plan != NULL) {
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
