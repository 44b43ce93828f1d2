/* SPDX-License-Identifier: MIT */
/*
 * Plans of calls that have none of their own, as folding: planned, run, and left for the next call,
 * which is often of the same layer. Planning takes longer than folding a small layer does.
 */
#include <string.h>

#include "base/context.h"
#include "base/log.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

struct kept_plan {
    struct dc_kept kept;
    doconv_plan *plan;
    unsigned long choices; /* the context's, when the plan was made */
};

static void destroy(struct dc_kept *kept)
{
    struct kept_plan *k = (struct kept_plan *)kept;
    doconv_context *ctx = k->plan->ctx;
    doconv_plan_destroy(k->plan);
    dc_free(ctx, k);
}

/* Where a context keeps plans of the operation. */
static _Atomic(struct dc_kept *) *slot_of(doconv_context *ctx, enum dc_operation operation)
{
    return &ctx->kept[operation == DC_FOLD];
}

/* Would the plan be made again for this problem, which its fold and the context say all of? */
static bool serves(const struct kept_plan *k, const struct dc_problem *problem)
{
    const struct dc_problem *own = &k->plan->problem;
    return own->operation == problem->operation &&
           memcmp(&own->fold, &problem->fold, sizeof own->fold) == 0 &&
           k->choices == atomic_load(&k->plan->ctx->choices);
}

doconv_status dc_plan_take(doconv_context *ctx, const struct dc_problem *problem,
                           struct dc_kept **taken, const doconv_plan **plan)
{
    *taken = atomic_exchange(slot_of(ctx, problem->operation), NULL);
    struct kept_plan *k = (struct kept_plan *)*taken;
    if (k != NULL && serves(k, problem)) {
        *plan = k->plan;
        return DOCONV_OK;
    }
    if (k != NULL) {
        destroy(*taken);
        *taken = NULL;
    }
    k = dc_alloc(ctx, sizeof *k);
    if (k == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "plan: out of memory");
    }
    *k = (struct kept_plan){.kept.destroy = destroy, .choices = atomic_load(&ctx->choices)};
    const doconv_status status = dc_plan_create(ctx, problem, NULL, &k->plan);
    if (status != DOCONV_OK) {
        dc_free(ctx, k);
        return status;
    }
    *taken = &k->kept;
    *plan = k->plan;
    return DOCONV_OK;
}

void dc_plan_leave(struct dc_kept *taken)
{
    if (taken == NULL) {
        return;
    }
    struct kept_plan *k = (struct kept_plan *)taken;
    doconv_context *ctx = k->plan->ctx;
    /* In this mode each call measures anew. */
    if (ctx->tune != DOCONV_TUNE_FORCE) {
        taken = atomic_exchange(slot_of(ctx, k->plan->problem.operation), taken);
    }
    if (taken != NULL) {
        taken->destroy(taken);
    }
}

doconv_status dc_plan_once(doconv_context *ctx, const struct dc_problem *problem,
                           const struct dc_tensors *tensors)
{
    struct dc_kept *taken;
    const doconv_plan *plan = NULL;
    doconv_status status = dc_plan_take(ctx, problem, &taken, &plan);
    const size_t size = status == DOCONV_OK ? plan->workspace_size : 0;
    char *workspace = size != 0 ? dc_alloc(ctx, size) : NULL;
    if (status == DOCONV_OUT_OF_MEMORY || (size != 0 && workspace == NULL)) {
        status = dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "%s: out of memory",
                         dc_operation_name(problem->operation));
    }
    if (status == DOCONV_OK) {
        dc_plan_run(plan, tensors, workspace);
    }
    dc_free(ctx, workspace);
    dc_plan_leave(taken);
    return status;
}
