/* SPDX-License-Identifier: MIT */
/*
 * Running a plan: checks, and what comes before and after the solver's part. Weights that change in
 * each call, as in training, are folded and packed first, unless the solver makes each block of
 * them just before it uses it, so that neither what is folded nor what is packed leaves the cache
 * in between. The tuner measures both ways.
 */
#include "base/arithmetic.h"
#include "base/clock.h"
#include "base/context.h"
#include "base/log.h"
#include "base/overlap.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

static void run_fresh(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace)
{
    const struct dc_solver *solver = plan->candidate.solver;
    struct dc_weight_source source = *tensors->fresh;
    struct dc_tensors rest = *tensors;
    rest.fresh = &source;
    if (source.fold != NULL && !plan->folds_parts) {
        const struct dc_tensors fold = {.w = source.w, .d = source.d, .weight = source.folded};
        dc_plan_run(source.fold, &fold, workspace);
        source.fold = NULL;
    }
    if (!plan->takes_fresh) {
        float *const packed = (float *)workspace;
        solver->pack(plan, &source.view, source.bias, packed);
        rest.packed = packed;
        workspace += align_bytes(plan->candidate.packed_size);
    }
    solver->execute(plan, &rest, workspace);
}

/* The gradient of a weight that W and D fold to, as a whole, and then those of W and D. */
static void run_weight_gradient(const doconv_plan *plan, const struct dc_tensors *tensors,
                                char *workspace)
{
    float *const folded = (float *)workspace;
    char *const rest = workspace + align_bytes(plan->problem.weight_bytes);
    struct dc_tensors whole = *tensors;
    whole.grad_weight = folded;
    plan->candidate.solver->execute(plan, &whole, rest);
    const struct dc_tensors back = {
        .w = tensors->w,
        .d = tensors->d,
        .grad_folded = folded,
        .grad_w = tensors->grad_w,
        .grad_d = tensors->grad_d,
    };
    dc_plan_run(plan->fold, &back, rest);
}

void dc_plan_run(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace)
{
    if (tensors->fresh != NULL) {
        run_fresh(plan, tensors, workspace);
    } else if (plan->problem.operation == DC_WEIGHT_GRADIENT && plan->fold != NULL &&
               !plan->folds_parts) {
        run_weight_gradient(plan, tensors, workspace);
    } else {
        plan->candidate.solver->execute(plan, tensors, workspace);
    }
}

doconv_status doconv_execute(const doconv_plan *plan, const doconv_weights *weights,
                             const float *src, const float *residual, float *dst, void *workspace,
                             size_t workspace_size)
{
    if (plan == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    doconv_context *ctx = plan->ctx;
    const bool wants_residual = plan->problem.desc.residual != 0;
    if (plan->problem.empty && weights != NULL && weights->packed_layout == plan->packed_layout) {
        return DOCONV_OK; /* no tensor has an element, so that any may be NULL */
    }
    if (weights == NULL || src == NULL || dst == NULL || (residual == NULL) == wants_residual) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "%s",
                       weights == NULL  ? "weights: NULL"
                       : src == NULL    ? "src: NULL"
                       : dst == NULL    ? "dst: NULL"
                       : wants_residual ? "residual: NULL, but the descriptor asks for one"
                                        : "residual: given, but the descriptor asks for none");
    }
    if (weights->packed_layout != plan->packed_layout) {
        return dc_fail(ctx, DOCONV_MISMATCH, "weights: packed for another plan's layout");
    }
    const size_t needed = plan->candidate.workspace_size;
    if (needed != 0 && (workspace == NULL || workspace_size < needed)) {
        return dc_fail(ctx, DOCONV_WORKSPACE_TOO_SMALL, "workspace: %zu bytes of %zu",
                       workspace == NULL ? 0 : workspace_size, needed);
    }
    const struct dc_problem *problem = &plan->problem;
    const struct dc_range ranges[] = {
        {"dst", dst, problem->dst_bytes, true},
        {"src", src, problem->src_bytes, false},
        {"workspace", workspace, needed, true},
        /* dst itself is read before it is written */
        {"residual", residual != dst ? residual : NULL, problem->dst_bytes, false},
    };
    const doconv_status status = dc_check_overlaps(ctx, ranges, sizeof ranges / sizeof ranges[0]);
    if (status != DOCONV_OK) {
        return status;
    }
    const double start = ctx->verbose >= 2 ? dc_now(ctx) : 0.0;
    /* The caller's workspace may start anywhere: solvers that need one ask for 64 bytes more. */
    char *const aligned = needed != 0 ? dc_align_workspace(workspace) : NULL;
    const struct dc_tensors tensors = {
        .src = src,
        .residual = residual,
        .packed = weights->data,
        .dst = dst,
    };
    dc_plan_run(plan, &tensors, aligned);
    if (ctx->verbose >= 2) {
        char text[DOCONV_PROBLEM_TEXT_SIZE];
        const double seconds = dc_now(ctx) - start;
        dc_problem_format(problem, text, sizeof text);
        dc_log(ctx, DOCONV_LOG_VERBOSE, "execute,%s,%s,%.6f ms", plan->candidate.text, text,
               1e3 * seconds);
    }
    return DOCONV_OK;
}
