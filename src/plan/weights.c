/* SPDX-License-Identifier: MIT */
/*
 * Packed weights of a plan: from a convolution's weight, or folded from the W and D of a DO-Conv
 * layer on the way.
 */
#include "base/arithmetic.h"
#include "base/context.h"
#include "base/log.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

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
        plan->candidate.solver->pack(plan, &view, bias, (*weights)->data);
    }
    return status;
}

/* Inputs that are folded before they are packed: both stay in L1 or L2. */
#define FOLDED_INPUTS (8 * DC_CHANNEL_BLOCK)

void dc_fold_block(const struct dc_weight_source *source, int64_t out, int64_t outs, int64_t cin,
                   bool whole, float *scratch,
                   void (*pack)(void *arg, const struct dc_weight_view *view,
                                const struct dc_part *part),
                   void *arg)
{
    struct dc_part part = {.out = out, .outs = outs};
    struct dc_weight_view view = source->view;
    view.first = whole ? 0 : out;
    const struct dc_tensors tensors = {
        .w = source->w,
        .d = source->d,
        .weight = source->folded + (out - view.first) * view.out,
    };
    for (part.in = 0; part.in < cin; part.in += part.ins) {
        part.ins = least(FOLDED_INPUTS, cin - part.in);
        source->fold->candidate.solver->parts->run(source->fold, &part, &tensors, scratch);
        pack(arg, &view, &part);
    }
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

/* An output block at a time, of which only the part in cache is ever unpacked. */
struct fold_job {
    const doconv_plan *plan, *fold;
    const float *w, *d, *bias;
    float *packed, *space; /* a task's folded block, then its scratch */
    int64_t blocks, block_floats, task_floats;
    int tasks;
};

static void fold_task(void *arg, int index)
{
    const struct fold_job *job = arg;
    float *const folded = job->space + index * job->task_floats;
    const struct dc_weight_source source = {
        .view = dc_weight_view(&job->plan->problem, folded),
        .bias = job->bias,
        .fold = job->fold,
        .w = job->w,
        .d = job->d,
        .folded = folded,
    };
    const struct dc_block_hooks *hooks = job->plan->candidate.solver->blocks;
    for (int64_t block = job->blocks * index / job->tasks;
         block < job->blocks * (index + 1) / job->tasks; block++) {
        hooks->make(job->plan, &source, block, job->packed, folded + job->block_floats);
    }
}

static doconv_status fold_blocks(struct fold_job *job)
{
    doconv_context *ctx = job->plan->ctx;
    const struct dc_block_hooks *hooks = job->plan->candidate.solver->blocks;
    const size_t scratch = job->fold->candidate.solver->parts->scratch_floats(job->fold);
    job->blocks = hooks->count(job->plan);
    job->tasks = (int)least(job->plan->problem.threads, job->blocks);
    job->block_floats = align_floats(hooks->weight_floats(job->plan));
    job->task_floats = job->block_floats + align_floats((int64_t)scratch);
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
    const size_t bytes = align_bytes(job->plan->problem.weight_bytes);
    char *const memory = dc_alloc(ctx, bytes + job->fold->workspace_size);
    if (memory == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "fold: out of memory");
    }
    float *const weight = (float *)memory;
    const struct dc_tensors fold = {.w = job->w, .d = job->d, .weight = weight};
    dc_plan_run(job->fold, &fold, memory + bytes);
    const struct dc_weight_view view = dc_weight_view(&job->plan->problem, weight);
    job->plan->candidate.solver->pack(job->plan, &view, job->bias, job->packed);
    dc_free(ctx, memory);
    return DOCONV_OK;
}

/* Folds into weights that are allocated. */
static doconv_status fold(const doconv_plan *plan, const struct dc_problem *problem, const float *w,
                          const float *d, const float *bias, float *packed)
{
    struct dc_kept *taken;
    const doconv_plan *folding = NULL;
    doconv_status status = dc_plan_take(plan->ctx, problem, &taken, &folding);
    if (status != DOCONV_OK) {
        return status;
    }
    struct fold_job job = {
        .plan = plan, .fold = folding, .w = w, .d = d, .bias = bias, .packed = packed};
    const struct dc_part_hooks *parts = folding->candidate.solver->parts;
    const bool blockwise = plan->candidate.solver->blocks != NULL && parts->inputs(folding) != 0;
    status = blockwise ? fold_blocks(&job) : fold_whole(&job);
    dc_plan_leave(taken);
    return status;
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
    struct dc_problem problem;
    doconv_status status = dc_problem_create_fold(ctx, desc, DC_FOLD, &problem);
    if (status == DOCONV_OK) {
        status = check_fold(plan, &problem.fold);
    }
    if (status == DOCONV_OK) {
        status = check_bias(plan, bias);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    if (d == NULL) {
        if (problem.fold.kh * problem.fold.kw != 1 || problem.fold.d_mul != 1) {
            return dc_fail(ctx, DOCONV_INVALID_ARGUMENT,
                           "fold: d: NULL, but only a 1x1 kernel with d_mul 1 has no D");
        }
        return doconv_weights_create(plan, w, bias, weights);
    }
    status = allocate(plan, weights);
    if (status != DOCONV_OK) {
        return status;
    }
    status = fold(plan, &problem, w, d, bias, (*weights)->data);
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
