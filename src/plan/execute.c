/* SPDX-License-Identifier: MIT */
/* Running a plan: argument checks, then the solver. */
#include "base/context.h"
#include "base/log.h"
#include "plan/plan.h"
#include "plan/solver.h"

doconv_status doconv_execute(const doconv_plan *plan, const doconv_weights *weights,
                             const float *src, const float *residual, float *dst, void *workspace,
                             size_t workspace_size)
{
    if (plan == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    doconv_context *ctx = plan->ctx;
    const bool wants_residual = plan->problem.desc.residual != 0;
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
    const double start = ctx->verbose >= 2 ? dc_now() : 0.0;
    /* The caller's workspace may start anywhere: solvers that need one ask for 64 bytes more. */
    char *const aligned =
        needed != 0 ? (char *)workspace + (64 - (uintptr_t)workspace % 64) % 64 : NULL;
    plan->solver->execute(plan, weights->data, src, residual, dst, aligned);
    if (ctx->verbose >= 2) {
        dc_log(ctx, DOCONV_LOG_VERBOSE, "execute,%s,%s,%.6f ms", plan->candidate.text,
               plan->problem_text, 1e3 * (dc_now() - start));
    }
    return DOCONV_OK;
}
