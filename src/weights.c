/* SPDX-License-Identifier: MIT */
/* Packed weights of a plan: from a convolution's weight, or folded from the W and D of a DO-Conv layer on the way. */
#include "direct.h"

static doconv_status check_bias(const doconv_plan *plan, const float *bias)
{
    if ((bias == NULL) != (plan->problem.desc.has_bias != 0)) {
        return DOCONV_OK;
    }
    return dc_fail(plan->ctx, DOCONV_INVALID_ARGUMENT, "%s",
                   bias == NULL ? "bias: NULL, but the descriptor has one" : "bias: given, but the descriptor has none");
}

/* Memory for a plan's weights, not filled yet. */
static doconv_status allocate(const doconv_plan *plan, doconv_weights **weights)
{
    doconv_weights *result = dc_alloc(plan->ctx, sizeof *result);
    float *data = dc_alloc(plan->ctx, plan->candidate.packed_size);
    if (result == NULL || data == NULL) {
        dc_free(plan->ctx, result);
        dc_free(plan->ctx, data);
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "weights: no memory for %zu bytes", plan->candidate.packed_size);
    }
    *result = (doconv_weights){.ctx = plan->ctx, .packed_layout = plan->packed_layout, .data = data};
    *weights = result;
    return DOCONV_OK;
}

doconv_status doconv_weights_create(const doconv_plan *plan, const float *weight, const float *bias, doconv_weights **weights)
{
    if (weights != NULL) {
        *weights = NULL;
    }
    if (plan == NULL || weights == NULL) {
        return plan == NULL ? DOCONV_INVALID_ARGUMENT : dc_fail(plan->ctx, DOCONV_INVALID_ARGUMENT, "weights: NULL");
    }
    if (weight == NULL) {
        return dc_fail(plan->ctx, DOCONV_INVALID_ARGUMENT, "weight: NULL");
    }
    doconv_status status = check_bias(plan, bias);
    if (status == DOCONV_OK) {
        status = allocate(plan, weights);
    }
    if (status == DOCONV_OK) {
        const struct dc_weight_view view = dc_weight_view(&plan->problem, weight);
        plan->solver->pack(plan, &view, bias, (*weights)->data);
    }
    return status;
}

/* Does the fold give the plan's weight? */
static doconv_status check_fold(const doconv_plan *plan, const doconv_fold_desc *fold)
{
    const doconv_conv_desc *d = &plan->problem.desc;
    const struct {
        const char *name;
        int64_t seen, expected;
    } sizes[] = {{"cout", fold->cout, d->cout},
                 {"cin", fold->cin, d->cin},
                 {"kh", fold->kh, d->kh},
                 {"kw", fold->kw, d->kw},
                 {"groups", fold->groups, d->groups}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i].seen != sizes[i].expected) {
            return dc_fail(plan->ctx, DOCONV_MISMATCH, "fold: %s: %lld, but the plan has %lld", sizes[i].name, (long long)sizes[i].seen,
                           (long long)sizes[i].expected);
        }
    }
    return DOCONV_OK;
}

/*
 * A layer of one group for the direct kernels: a block of output channels at a time, whose kernel stays in L2 between being folded and being packed. The
 * rows of W that belong to a block are those of a layer with fewer outputs.
 */
static void fold_blocks(const doconv_plan *plan, const doconv_fold_desc *fold, const float *w, const float *d, const float *bias, float *weight,
                        char *workspace, float *packed)
{
    const int64_t step = plan->candidate.kernel->tile_channels, row = fold->cin * fold->kh * fold->kw;
    for (int64_t first = 0; first < fold->cout; first += step) {
        doconv_fold_desc part = *fold;
        part.cout = least(step, fold->cout - first);
        dc_fold_run(plan->ctx, &part, w + first * fold->cin * fold->d_mul, d, weight, workspace);
        const struct dc_weight_view view = dc_weight_view(&plan->problem, weight - first * row);
        dc_direct_pack_blocks(plan, &view, bias, packed, first / step, 1);
    }
}

doconv_status doconv_weights_fold(const doconv_plan *plan, const doconv_fold_desc *desc, const float *w, const float *d, const float *bias,
                                  doconv_weights **weights)
{
    if (weights != NULL) {
        *weights = NULL;
    }
    if (plan == NULL || weights == NULL) {
        return plan == NULL ? DOCONV_INVALID_ARGUMENT : dc_fail(plan->ctx, DOCONV_INVALID_ARGUMENT, "weights: NULL");
    }
    doconv_context *ctx = plan->ctx;
    if (desc == NULL || w == NULL) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "fold: %s: NULL", desc == NULL ? "desc" : "w");
    }
    doconv_status status = dc_fold_check(ctx, desc);
    if (status == DOCONV_OK) {
        status = check_fold(plan, desc);
    }
    if (status == DOCONV_OK) {
        status = check_bias(plan, bias);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    if (d == NULL) {
        if (desc->kh * desc->kw != 1 || desc->d_mul != 1) {
            return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "fold: d: NULL, but only a 1x1 kernel with d_mul 1 has no D");
        }
        return doconv_weights_create(plan, w, bias, weights);
    }
    const bool by_blocks = plan->solver == &dc_solver_direct && desc->groups == 1;
    doconv_fold_desc part = *desc;
    part.cout = by_blocks ? least(plan->candidate.kernel->tile_channels, desc->cout) : desc->cout;
    const size_t floats = (size_t)(part.cout * (desc->cin / desc->groups) * desc->kh * desc->kw + 15) / 16 * 16;
    const size_t space = dc_fold_workspace_size(ctx, &part);
    float *const weight = dc_alloc(ctx, floats * sizeof *weight + space);
    if (weight == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "fold: out of memory");
    }
    status = allocate(plan, weights);
    if (status == DOCONV_OK && by_blocks) {
        fold_blocks(plan, desc, w, d, bias, weight, (char *)(weight + floats), (*weights)->data);
    } else if (status == DOCONV_OK) {
        dc_fold_run(ctx, desc, w, d, weight, (char *)(weight + floats));
        const struct dc_weight_view view = dc_weight_view(&plan->problem, weight);
        plan->solver->pack(plan, &view, bias, (*weights)->data);
    }
    dc_free(ctx, weight);
    return status;
}

void doconv_weights_destroy(doconv_weights *weights)
{
    if (weights != NULL) {
        dc_free(weights->ctx, weights->data);
        dc_free(weights->ctx, weights);
    }
}
