/* SPDX-License-Identifier: MIT */
/*
 * Packed weights of a plan: from a convolution's weight, or folded from the W and D of a DO-Conv
 * layer on the way.
 */
#include "base/arithmetic.h"
#include "base/context.h"
#include "base/log.h"
#include "compose/fold.h"
#include "plan/plan.h"
#include "plan/solver.h"
#include "solvers/direct/direct.h"

static doconv_status check_bias(const doconv_plan *plan, const float *bias)
{
    if ((bias == NULL) != (plan->problem.desc.has_bias != 0)) {
        return DOCONV_OK;
    }
    return dc_fail(plan->ctx, DOCONV_INVALID_ARGUMENT, "%s",
                   bias == NULL ? "bias: NULL, but the descriptor has one"
                                : "bias: given, but the descriptor has none");
}

/* Memory for a plan's weights, not filled yet. */
static doconv_status allocate(const doconv_plan *plan, doconv_weights **weights)
{
    doconv_weights *result = dc_alloc(plan->ctx, sizeof *result);
    float *data = dc_alloc(plan->ctx, plan->candidate.packed_size);
    if (result == NULL || data == NULL) {
        dc_free(plan->ctx, result);
        dc_free(plan->ctx, data);
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "weights: no memory for %zu bytes",
                       plan->candidate.packed_size);
    }
    *result =
        (doconv_weights){.ctx = plan->ctx, .packed_layout = plan->packed_layout, .data = data};
    *weights = result;
    return DOCONV_OK;
}

doconv_status doconv_weights_create(const doconv_plan *plan, const float *weight, const float *bias,
                                    doconv_weights **weights)
{
    if (weights != NULL) {
        *weights = NULL;
    }
    if (plan == NULL || weights == NULL) {
        return plan == NULL ? DOCONV_INVALID_ARGUMENT
                            : dc_fail(plan->ctx, DOCONV_INVALID_ARGUMENT, "weights: NULL");
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
            return dc_fail(plan->ctx, DOCONV_MISMATCH, "fold: %s: %lld, but the plan has %lld",
                           sizes[i].name, (long long)sizes[i].seen, (long long)sizes[i].expected);
        }
    }
    return DOCONV_OK;
}

/*
 * A layer for the direct kernels: an output block at a time, of which only the part in cache is
 * ever unpacked.
 */
struct fold_job {
    const doconv_plan *plan;
    const doconv_fold_desc *fold;
    const float *w, *d, *bias;
    float *packed, *space; /* a task's folded block, then its scratch */
    ptrdiff_t block_floats, task_floats;
    int tasks;
};

static void fold_task(void *arg, int index)
{
    const struct fold_job *job = arg;
    const struct dc_direct_state *s = job->plan->state;
    float *const space = job->space + index * job->task_floats;
    for (int64_t block = s->out_blocks * index / job->tasks;
         block < s->out_blocks * (index + 1) / job->tasks; block++) {
        /* As if the block were in its place among all. */
        float *const folded = space - block * job->block_floats;
        const struct dc_weight_source source = {
            .view = dc_weight_view(&job->plan->problem, folded),
            .bias = job->bias,
            .fold = job->fold,
            .w = job->w,
            .d = job->d,
            .folded = folded,
        };
        dc_direct_make_block(job->plan, &source, block, job->packed + block * s->tile_channels,
                             job->packed + s->bias_floats + block * s->block_floats,
                             space + divide_up(job->block_floats, 16) * 16);
    }
}

static doconv_status fold_blocks(struct fold_job *job)
{
    doconv_context *ctx = job->plan->ctx;
    const struct dc_direct_state *s = job->plan->state;
    job->tasks = (int)least(ctx->threads, s->out_blocks);
    job->block_floats = s->tile_channels * s->cin * s->taps;
    job->task_floats = divide_up(job->block_floats, 16) * 16 +
                       divide_up((ptrdiff_t)dc_fold_part_floats(ctx, job->fold), 16) * 16;
    job->space = dc_alloc(ctx, (size_t)job->tasks * (size_t)job->task_floats * sizeof *job->space);
    if (job->space == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "fold: out of memory");
    }
    dc_parallel(ctx, job->tasks, fold_task, job);
    dc_free(ctx, job->space);
    return DOCONV_OK;
}

static doconv_status fold_whole(const struct fold_job *job)
{
    doconv_context *ctx = job->plan->ctx;
    const size_t floats = (job->plan->problem.weight_bytes / sizeof(float) + 15) / 16 * 16;
    float *const weight =
        dc_alloc(ctx, floats * sizeof *weight + dc_fold_workspace_size(ctx, job->fold));
    if (weight == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "fold: out of memory");
    }
    dc_fold_run(ctx, job->fold, job->w, job->d, weight, (char *)(weight + floats));
    const struct dc_weight_view view = dc_weight_view(&job->plan->problem, weight);
    job->plan->solver->pack(job->plan, &view, job->bias, job->packed);
    dc_free(ctx, weight);
    return DOCONV_OK;
}

doconv_status doconv_weights_fold(const doconv_plan *plan, const doconv_fold_desc *desc,
                                  const float *w, const float *d, const float *bias,
                                  doconv_weights **weights)
{
    if (weights != NULL) {
        *weights = NULL;
    }
    if (plan == NULL || weights == NULL) {
        return plan == NULL ? DOCONV_INVALID_ARGUMENT
                            : dc_fail(plan->ctx, DOCONV_INVALID_ARGUMENT, "weights: NULL");
    }
    doconv_context *ctx = plan->ctx;
    if (desc == NULL || w == NULL) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "fold: %s: NULL", desc == NULL ? "desc" : "w");
    }
    doconv_fold_desc own;
    doconv_status status = dc_fold_read(ctx, desc, &own);
    desc = &own;
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
            return dc_fail(ctx, DOCONV_INVALID_ARGUMENT,
                           "fold: d: NULL, but only a 1x1 kernel with d_mul 1 has no D");
        }
        return doconv_weights_create(plan, w, bias, weights);
    }
    status = allocate(plan, weights);
    if (status != DOCONV_OK) {
        return status;
    }
    struct fold_job job = {
        .plan = plan, .fold = desc, .w = w, .d = d, .bias = bias, .packed = (*weights)->data};
    status = plan->solver == &dc_solver_direct && dc_direct_folds_blocks(desc) ? fold_blocks(&job)
                                                                               : fold_whole(&job);
    if (status != DOCONV_OK) {
        doconv_weights_destroy(*weights);
        *weights = NULL;
    }
    return status;
}

void doconv_weights_destroy(doconv_weights *weights)
{
    if (weights != NULL) {
        dc_free(weights->ctx, weights->data);
        dc_free(weights->ctx, weights);
    }
}
