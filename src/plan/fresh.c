/* SPDX-License-Identifier: MIT */
/*
 * Executing a plan with weights that change with each call, as in training. A plan in DC_ORDER_PACK
 * makes each block of weights just before it uses it, so that neither what is folded nor what is
 * packed leaves the cache in between; any other makes them all first. The tuner measures both.
 * Where the blocks are too few for the threads, all is folded first, and packed on the way.
 */
#include "compose/fold.h"
#include "plan/candidate.h"
#include "plan/fresh.h"
#include "plan/plan.h"
#include "plan/solver.h"
#include "solvers/direct/direct.h"

static size_t aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Is the fold part of the execution? */
static bool folds_blocks(const doconv_plan *plan, const doconv_fold_desc *fold)
{
    return fold != NULL && plan->candidate.order == DC_ORDER_PACK && dc_direct_folds_blocks(fold) &&
           dc_direct_shares_blocks(plan);
}

size_t dc_fresh_workspace_size(const doconv_plan *plan, const doconv_fold_desc *fold)
{
    const struct dc_candidate *c = &plan->candidate;
    const size_t run =
        c->order == DC_ORDER_PACK
            ? plan->solver->fresh_workspace_size(plan, folds_blocks(plan, fold) ? fold : NULL)
            : aligned(c->packed_size) + c->workspace_size;
    const size_t folding =
        fold != NULL && !folds_blocks(plan, fold) ? dc_fold_workspace_size(plan->ctx, fold) : 0;
    return aligned(run > folding ? run : folding);
}

void dc_fresh_run(const doconv_plan *plan, const struct dc_weight_source *source, const float *src,
                  const float *residual, float *dst, char *workspace)
{
    struct dc_weight_source rest = *source;
    if (source->fold != NULL && !folds_blocks(plan, source->fold)) {
        dc_fold_run(plan->ctx, source->fold, source->w, source->d, source->folded, workspace);
        rest.fold = NULL;
    }
    if (plan->candidate.order == DC_ORDER_PACK) {
        plan->solver->execute_fresh(plan, &rest, src, residual, dst, workspace);
        return;
    }
    float *const packed = (float *)workspace;
    plan->solver->pack(plan, &rest.view, rest.bias, packed);
    plan->solver->execute(plan, packed, src, residual, dst,
                          workspace + aligned(plan->candidate.packed_size));
}
