/* SPDX-License-Identifier: MIT */
/* What is measured: an operation's tensors and candidates ready to run on them. */
#include "base/clock.h"
#include "base/context.h"
#include "base/cpu.h"
#include "base/log.h"
#include "measure.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

#include <string.h>

#define FLUSH_BYTES ((size_t)256 << 20)

static float *create_values(doconv_context *ctx, size_t bytes, uint64_t seed)
{
    float *values = dc_alloc(ctx, bytes);
    if (values != NULL) {
        uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
        for (size_t i = 0; i < bytes / sizeof(float); i++) {
            state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            values[i] = (float)(state >> 40) * 0x1p-24f - 0.5f;
        }
    }
    return values;
}

/* Enough to push everything else out of the caches of all threads. */
static size_t flush_size(const doconv_context *ctx)
{
    const struct dc_cpu *cpu = dc_cpu_probe();
    const double bytes = 2.0 * ((double)cpu->l3_bytes + (double)cpu->l2_bytes * ctx->threads);
    return bytes < (double)FLUSH_BYTES ? (size_t)bytes : FLUSH_BYTES;
}

/* Bytes of the tensors that the operation has; 0: it has none. */
static void set_sizes(struct measure_set *set)
{
    const struct dc_problem *p = &set->problem;
    const enum dc_operation operation = p->operation;
    const size_t taps = (size_t)(p->desc.kh * p->desc.kw), d_mul = (size_t)p->fold.d_mul,
                 w_bytes = p->weight_bytes / taps * d_mul,
                 d_bytes = (size_t)p->desc.cin * taps * d_mul * sizeof(float);
    const bool convolves = operation == DC_CONVOLUTION, step = operation == DC_LAYER_STEP,
               forward = convolves || operation == DC_FEATURE_FORWARD || dc_is_layer(operation),
               composes = operation == DC_FEATURE_BACKWARD || step,
               backward = operation == DC_WEIGHT_GRADIENT || composes,
               composed = d_mul != 0 && (!convolves || p->fresh_weights),
               folds = composed && (convolves || operation == DC_FOLD),
               grads = composed && (backward || operation == DC_FOLD_GRADIENT);
    const size_t bytes[MEASURE_TENSORS] = {
        [MEASURE_SRC] = forward || backward ? p->src_bytes : 0,
        [MEASURE_RESIDUAL] = convolves && p->desc.residual ? p->dst_bytes : 0,
        [MEASURE_BIAS] = p->desc.has_bias ? (size_t)p->desc.cout * sizeof(float) : 0,
        [MEASURE_WEIGHT] = convolves && !composed ? p->weight_bytes : 0,
        [MEASURE_W] = composed ? w_bytes : 0,
        [MEASURE_D] = composed ? d_bytes : 0,
        [MEASURE_GRAD_DST] = backward ? p->dst_bytes : 0,
        [MEASURE_GRAD_FOLDED] = operation == DC_FOLD_GRADIENT ? p->weight_bytes : 0,
        [MEASURE_DST] = forward ? p->dst_bytes : 0,
        [MEASURE_FOLDED] = folds ? p->weight_bytes : 0,
        [MEASURE_GRAD_SRC] = composes ? p->src_bytes : 0,
        [MEASURE_GRAD_WEIGHT] = backward && !composed ? p->weight_bytes : 0,
        [MEASURE_GRAD_W] = grads ? w_bytes : 0,
        [MEASURE_GRAD_D] = grads ? d_bytes : 0,
    };
    memcpy(set->bytes, bytes, sizeof bytes);
}

/* NULL, or what there is no memory for. */
static const char *create_tensors(struct measure_set *set)
{
    for (int i = 0; i < MEASURE_TENSORS; i++) {
        if (set->bytes[i] != 0) {
            set->tensors[i] = create_values(set->ctx, set->bytes[i], (uint64_t)i + 1);
            if (set->tensors[i] == NULL) {
                return "tensors";
            }
        }
    }
    set->flush_bytes = flush_size(set->ctx);
    set->evict = dc_find_evict();
    if (set->cold && set->evict == NULL) {
        set->flush = dc_alloc(set->ctx, set->flush_bytes);
        if (set->flush == NULL) {
            return "flushing the caches";
        }
        memset(set->flush, 1, set->flush_bytes);
    }
    return NULL;
}

doconv_status dc_measure_set_create(doconv_context *ctx, const struct dc_problem *problem,
                                    const doconv_plan_options *options, int capacity,
                                    struct measure_set *set)
{
    *set = (struct measure_set){
        .ctx = ctx,
        .problem = *problem,
        .cold = options != NULL && options->cold_weights != 0,
        .items = dc_alloc(ctx, (size_t)capacity * sizeof *set->items),
        .capacity = capacity,
        .wall_start = dc_now(ctx),
        .thread_start = ctx->clock->thread(ctx->clock->user),
    };
    set_sizes(set);
    const char *missing = set->items != NULL ? create_tensors(set) : "candidates";
    if (missing != NULL) {
        dc_measure_set_destroy(set);
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "tune: no memory for %s of a %s", missing,
                       dc_operation_name(problem->operation));
    }
    return DOCONV_OK;
}

void dc_measure_set_destroy(struct measure_set *set)
{
    doconv_context *ctx = set->ctx;
    for (int i = 0; i < set->count; i++) {
        if (set->items[i].owns_weights) {
            doconv_weights_destroy(set->items[i].weights);
        }
        doconv_plan_destroy(set->items[i].plan);
    }
    for (int i = 0; i < MEASURE_TENSORS; i++) {
        dc_free(ctx, set->tensors[i]);
    }
    dc_free(ctx, set->workspace);
    dc_free(ctx, set->expected);
    dc_free(ctx, set->flush);
    dc_free(ctx, set->items);
    *set = (struct measure_set){0};
}

/* Room for the largest workspace of all items. */
static doconv_status reserve_workspace(struct measure_set *set, size_t needed)
{
    if (needed <= set->workspace_size) {
        return DOCONV_OK;
    }
    char *workspace = dc_alloc(set->ctx, needed);
    if (workspace == NULL) {
        return dc_fail(set->ctx, DOCONV_OUT_OF_MEMORY,
                       "tune: no memory for a workspace of %zu bytes", needed);
    }
    memset(workspace, 0, needed); /* its pages are there: a first call may be a sample */
    dc_free(set->ctx, set->workspace);
    set->workspace = workspace;
    set->workspace_size = needed;
    return DOCONV_OK;
}

/* Weights packed for an item, unless they are fresh or those of an item before it. */
static doconv_status pack_weights(struct measure_set *set, struct measured *item)
{
    if (set->problem.operation != DC_CONVOLUTION || set->problem.fresh_weights) {
        return DOCONV_OK;
    }
    for (int i = 0; i < set->count; i++) {
        if (set->items[i].plan->packed_layout == item->plan->packed_layout) {
            item->weights = set->items[i].weights;
            item->owns_weights = false;
            return DOCONV_OK;
        }
    }
    return doconv_weights_create(item->plan, set->tensors[MEASURE_WEIGHT],
                                 set->tensors[MEASURE_BIAS], &item->weights);
}

/* The operations that a layer is made of may be measured here: they have budgets of their own. */
static doconv_status create_plan(struct measure_set *set, const doconv_plan_options *options,
                                 doconv_plan **plan)
{
    const struct dc_clock *clock = set->ctx->clock;
    const double wall = dc_now(set->ctx), thread = clock->thread(clock->user);
    const doconv_status status = dc_plan_create(set->ctx, &set->problem, options, plan);
    if (dc_is_layer(set->problem.operation)) {
        set->wall_start += dc_now(set->ctx) - wall;
        set->thread_start += clock->thread(clock->user) - thread;
    }
    return status;
}

doconv_status dc_measure_set_add(struct measure_set *set, const doconv_plan_options *options,
                                 const char *variant)
{
    struct measured item = {.owns_weights = true, .is_default = set->count == 0};
    doconv_plan_options forced = {.size = sizeof forced};
    if (options != NULL) {
        forced = *options;
    }
    forced.variant = variant;
    /*
     * Of the operations that it is made of: those of a layer are measured before it; of a fold
     * beside an operation the winner may be known.
     */
    forced.rigor = dc_is_layer(set->problem.operation) ? DOCONV_RIGOR_MEASURE : DOCONV_RIGOR_READ;
    doconv_status status = create_plan(set, &forced, &item.plan);
    if (status != DOCONV_OK) {
        return status;
    }
    status = pack_weights(set, &item);
    if (status == DOCONV_OK) {
        status = reserve_workspace(set, item.plan->workspace_size);
    }
    if (status != DOCONV_OK) {
        if (item.owns_weights) {
            doconv_weights_destroy(item.weights);
        }
        doconv_plan_destroy(item.plan);
        return status;
    }
    set->items[set->count++] = item;
    return DOCONV_OK;
}

void dc_measure_run(const struct measure_set *set, const struct measured *m)
{
    float *const *t = set->tensors;
    const bool folds = t[MEASURE_W] != NULL;
    const struct dc_weight_source source = {
        .view = dc_weight_view(&set->problem, t[folds ? MEASURE_FOLDED : MEASURE_WEIGHT]),
        .bias = t[MEASURE_BIAS],
        .fold = folds ? m->plan->fold : NULL,
        .w = t[MEASURE_W],
        .d = t[MEASURE_D],
        .folded = t[MEASURE_FOLDED],
    };
    const struct dc_tensors tensors = {
        .src = t[MEASURE_SRC],
        .residual = t[MEASURE_RESIDUAL],
        .bias = t[MEASURE_BIAS],
        .packed = m->weights != NULL ? m->weights->data : NULL,
        .fresh = set->problem.fresh_weights ? &source : NULL,
        .w = t[MEASURE_W],
        .d = t[MEASURE_D],
        .grad_dst = t[MEASURE_GRAD_DST],
        .grad_folded = t[MEASURE_GRAD_FOLDED],
        .dst = t[MEASURE_DST],
        .weight = t[MEASURE_FOLDED],
        .grad_src = t[MEASURE_GRAD_SRC],
        .grad_weight = t[MEASURE_GRAD_WEIGHT],
        .grad_w = t[MEASURE_GRAD_W],
        .grad_d = t[MEASURE_GRAD_D],
    };
    dc_plan_run(m->plan, &tensors, set->workspace);
}
