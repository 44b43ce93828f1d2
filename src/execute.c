/* SPDX-License-Identifier: MIT */
/* Packing weights and running a plan: argument checks, then the solver. */
#include "core.h"

doconv_status doconv_weights_create(const doconv_plan *plan, const float *weight, const float *bias, doconv_weights **weights)
{
    if (weights != NULL) {
        *weights = NULL;
    }
    if (plan == NULL || weights == NULL) {
        return plan == NULL ? DOCONV_INVALID_ARGUMENT : dc_fail(plan->ctx, DOCONV_INVALID_ARGUMENT, "weights: NULL");
    }
    if (weight == NULL || (bias == NULL) == (plan->problem.desc.has_bias != 0)) {
        return dc_fail(plan->ctx, DOCONV_INVALID_ARGUMENT, "%s",
                       weight == NULL ? "weight: NULL"
                       : bias == NULL ? "bias: NULL, but the descriptor has one"
                                      : "bias: given, but the descriptor has none");
    }
    doconv_weights *result = dc_alloc(plan->ctx, sizeof *result);
    float *data = dc_alloc(plan->ctx, plan->candidate.packed_size);
    if (result == NULL || data == NULL) {
        dc_free(plan->ctx, result);
        dc_free(plan->ctx, data);
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "weights: no memory for %zu bytes", plan->candidate.packed_size);
    }
    *result = (doconv_weights){.ctx = plan->ctx, .packed_layout = plan->packed_layout, .data = data};
    const struct dc_weight_view view = dc_weight_view(&plan->problem, weight);
    plan->solver->pack(plan, &view, bias, data);
    *weights = result;
    return DOCONV_OK;
}

void doconv_weights_destroy(doconv_weights *weights)
{
    if (weights != NULL) {
        dc_free(weights->ctx, weights->data);
        dc_free(weights->ctx, weights);
    }
}

doconv_status doconv_execute(const doconv_plan *plan, const doconv_weights *weights, const float *src, const float *residual, float *dst,
                             void *workspace, size_t workspace_size)
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
        return dc_fail(ctx, DOCONV_WORKSPACE_TOO_SMALL, "workspace: %zu bytes of %zu", workspace == NULL ? 0 : workspace_size, needed);
    }
    const double start = ctx->verbose >= 2 ? dc_now() : 0.0;
    /* The caller's workspace may start anywhere: solvers that need one ask for 64 bytes more. */
    char *const aligned = needed != 0 ? (char *)workspace + (64 - (uintptr_t)workspace % 64) % 64 : NULL;
    plan->solver->execute(plan, weights->data, src, residual, dst, aligned);
    if (ctx->verbose >= 2) {
        dc_log(ctx, DOCONV_LOG_VERBOSE, "execute,%s,%s,%.6f ms", plan->candidate.text, plan->problem_text, 1e3 * (dc_now() - start));
    }
    return DOCONV_OK;
}
