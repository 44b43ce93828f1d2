/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a fold: from that of the weight to those of W and D. W's composes the weight's
 * gradient with D turned round, so it is a fold itself; D's sums products over all rows of W that
 * meet a channel.
 */
#include <stdio.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/log.h"
#include "compose/fold.h"
#include "compose/fold_cut.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

/* A plan's state. */
struct state {
    const struct dc_kernel *kernel;
    struct dc_fold_cut back; /* W's gradient */
    int64_t together;        /* D's: vectors of channels of a call */
    int tasks;
    int64_t scratch_floats; /* a task's, of D's gradient */
};

/* Rows of several blocks follow each other in memory: that pays where they are far and leave L1. */
static int blocks_together(const doconv_fold_desc *desc)
{
    return dc_fold_rows_are_far(desc) && desc->kh * desc->kw * desc->d_mul <= 256
               ? DC_COMPOSE_GRADIENT_BLOCKS
               : 1;
}

static int64_t gradient_floats(const doconv_fold_desc *desc, const struct dc_kernel *kernel,
                               int64_t together)
{
    return align_floats(dc_compose_gradient_floats(
        desc->kh * desc->kw, desc->d_mul, kernel->tile_pixels,
        kernel->tile_channels / kernel->vector, kernel->vector, together));
}

static struct state create_state(const struct dc_problem *p, const struct dc_kernel *kernel,
                                 const struct dc_fold_parameters *q)
{
    const doconv_fold_desc other = dc_fold_turned(&p->fold);
    return (struct state){
        .kernel = kernel,
        .back = dc_fold_cut(&other, true, kernel, p->threads, q->blocks),
        .together = q->together,
        .tasks = (int)least(p->threads, divide_up(p->fold.cin, kernel->vector)),
        .scratch_floats = gradient_floats(&p->fold, kernel, q->together),
    };
}

static size_t workspace_bytes(const struct state *s)
{
    const size_t grad_w = (size_t)s->back.tasks * s->back.scratch_floats,
                 grad_d = (size_t)s->tasks * (size_t)s->scratch_floats;
    return most_bytes(grad_w, grad_d) * sizeof(float);
}

static const char *enumerate(const doconv_context *ctx, const struct dc_problem *p,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    const doconv_fold_desc other = dc_fold_turned(&p->fold);
    const bool far = dc_fold_rows_are_far(&other);
    const int first = blocks_together(&p->fold);
    for (int i = 0; i < 2; i++) {
        const struct dc_fold_parameters q = {
            .blocks = dc_fold_blocks_fitting(&other, kernel, far),
            .together = i == 0 ? first : DC_COMPOSE_GRADIENT_BLOCKS + 1 - first,
        };
        const struct state s = create_state(p, kernel, &q);
        struct dc_candidate c = {
            .solver = &dc_solver_fold_gradient,
            .kernel = kernel,
            .order_of_sums = (int)kernel->isa,
            .error_amplification = kernel->error_amplification,
            .workspace_size = workspace_bytes(&s),
            .estimated_seconds = 2.0 * dc_fold_estimate(p, kernel, s.tasks) * (i == 0 ? 1.0 : 1.02),
        };
        dc_set_parameters(&c, &q);
        dc_candidate_append(ctx, list, &c);
    }
    return NULL;
}

static void describe(const struct dc_candidate *c, char *text, size_t size)
{
    struct dc_fold_parameters q;
    dc_get_parameters(c, &q);
    snprintf(text, size, ":blocks=%d,together=%d", q.blocks, q.together);
}

static doconv_status prepare(doconv_plan *plan)
{
    struct state *s = dc_alloc(plan->ctx, sizeof *s);
    if (s == NULL) {
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "fold gradient: out of memory");
    }
    struct dc_fold_parameters q;
    dc_get_parameters(&plan->candidate, &q);
    *s = create_state(&plan->problem, plan->candidate.kernel, &q);
    plan->state = s;
    return DOCONV_OK;
}

/* ---- the gradient of D ---- */

struct job {
    const struct state *s;
    const doconv_fold_desc *desc;
    const float *w, *grad_folded;
    float *grad_d;
    float *scratch;
    /*
     * inputs 0: grad_folded has all rows. Else those of inputs from `in` on, of the call's outputs.
     */
    int64_t in, inputs;
};

/*
 * Outputs [start, end) of a layer, of the paper's mapping or one group, in the gradient of D for
 * blocks [block, block + count) of channels.
 */
static void add_to_grad_d(const struct job *job, int64_t block, int64_t count, int64_t start,
                          int64_t end, float *scratch)
{
    const doconv_fold_desc *desc = job->desc;
    const int64_t vector = job->s->kernel->vector, rows_a_channel = desc->cout / desc->groups;
    enum { LANES = DC_COMPOSE_GRADIENT_BLOCKS * DC_CHANNEL_BLOCK };
    ptrdiff_t rows[LANES], g_rows[LANES], channels[LANES];
    for (int64_t lane = 0; lane < count * vector; lane++) {
        const int64_t channel = block * vector + lane;
        /* past the last: the block's first again */
        channels[lane] = channel < desc->cin ? channel : (block + lane / vector) * vector;
        const struct dc_row_series series = dc_fold_rows(desc, channels[lane]);
        rows[lane] = series.first + start * series.step;
        g_rows[lane] = job->inputs == 0 ? rows[lane] : channels[lane] - job->in;
    }
    const ptrdiff_t step = dc_fold_rows(desc, 0).step;
    const struct dc_compose_gradient_args args = {
        .w = job->w,
        .g = job->grad_folded,
        .grad_d = job->grad_d,
        .rows = rows,
        .g_rows = g_rows,
        .channels = channels,
        .blocks = count,
        .row_step = step,
        .g_step = job->inputs == 0 ? step : job->inputs,
        .steps = end - start,
        .resumes = start != 0,
        .goes_on = end != rows_a_channel,
        .taps = desc->kh * desc->kw,
        .d_mul = desc->d_mul,
        .scratch = scratch,
    };
    job->s->kernel->compose.gradient(&args);
}

/* A task has whole vectors of channels, some of them a call. */
static void grad_d_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct state *s = job->s;
    const int64_t blocks = divide_up(job->desc->cin, s->kernel->vector),
                  end = blocks * (index + 1) / s->tasks;
    for (int64_t block = blocks * index / s->tasks, count; block < end; block += count) {
        count = least(s->together, end - block);
        add_to_grad_d(job, block, count, 0, job->desc->cout / job->desc->groups,
                      job->scratch + index * s->scratch_floats);
    }
}

static void execute(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace)
{
    const struct state *s = plan->state;
    if (tensors->grad_w != NULL) {
        struct dc_compose_job back = {
            .cut = &s->back,
            .w = tensors->grad_folded,
            .d = tensors->d,
            .weight = tensors->grad_w,
            .scratch = (float *)workspace,
        };
        dc_parallel(plan->ctx, s->back.tasks, dc_compose_task, &back);
    }
    if (tensors->grad_d != NULL) {
        struct job job = {
            .s = s,
            .desc = &plan->problem.fold,
            .w = tensors->w,
            .grad_folded = tensors->grad_folded,
            .grad_d = tensors->grad_d,
            .scratch = (float *)workspace,
        };
        dc_parallel(plan->ctx, s->tasks, grad_d_task, &job);
    }
}

/* ---- parts, as they come ---- */

static int64_t part_inputs(const doconv_plan *plan)
{
    const struct state *s = plan->state;
    const doconv_fold_desc *desc = &plan->problem.fold;
    const bool fits = desc->kh * desc->kw * desc->d_mul <= 256;
    return desc->groups == 1 && fits ? DC_COMPOSE_GRADIENT_BLOCKS * s->kernel->vector : 0;
}

/* The sums of the gradient of D, which wait from part to part, then W's scratch. */
static int64_t waiting_floats(const doconv_plan *plan)
{
    const struct state *s = plan->state;
    return gradient_floats(&plan->problem.fold, s->kernel, DC_COMPOSE_GRADIENT_BLOCKS);
}

static size_t part_scratch(const doconv_plan *plan)
{
    const struct state *s = plan->state;
    return (size_t)waiting_floats(plan) + s->back.scratch_floats;
}

static void run_part(const doconv_plan *plan, const struct dc_part *part,
                     const struct dc_tensors *tensors, float *scratch)
{
    const struct state *s = plan->state;
    const int64_t block = part->in / s->kernel->vector,
                  end = divide_up(part->in + part->ins, s->kernel->vector);
    if (tensors->grad_d != NULL) {
        const struct job job = {
            .s = s,
            .desc = &plan->problem.fold,
            .w = tensors->w,
            .grad_folded = tensors->grad_folded,
            .grad_d = tensors->grad_d,
            .in = part->in,
            .inputs = part->ins,
        };
        add_to_grad_d(&job, block, end - block, part->out, part->out + part->outs, scratch);
    }
    if (tensors->grad_w != NULL) {
        const struct dc_compose_job back = {
            .cut = &s->back,
            .w = tensors->grad_folded,
            .d = tensors->d,
            .weight = tensors->grad_w,
            .out = part->out,
            .in = part->in,
            .inputs = part->ins,
        };
        dc_compose_blocks(&back, scratch + waiting_floats(plan), block, end, part->out,
                          part->out + part->outs);
    }
}

static const struct dc_part_hooks parts = {
    .inputs = part_inputs,
    .scratch_floats = part_scratch,
    .run = run_part,
};

const struct dc_solver dc_solver_fold_gradient = {
    .name = "compose",
    .operation = DC_FOLD_GRADIENT,
    .family = DC_FAMILY_COMPOSE,
    .enumerate = enumerate,
    .describe = describe,
    .prepare = prepare,
    .execute = execute,
    .parts = &parts,
};

/* ---- without a kernel ---- */

struct portable_job {
    const doconv_fold_desc *desc;
    const float *w, *d, *grad_folded;
    float *grad_w, *grad_d;
    int tasks;
};

/* Row `row` of W in the gradients of itself (grad_w, or NULL) and of D's channel (grad_d). */
static void add_row(const struct portable_job *job, int64_t row, const float *d, float *grad_w,
                    float *grad_d)
{
    const doconv_fold_desc *desc = job->desc;
    const int64_t taps = desc->kh * desc->kw, d_mul = desc->d_mul,
                  repeated = dc_fold_repeated(desc);
    const float *w = job->w + row * d_mul, *grad = job->grad_folded + row * taps;
    for (int64_t s = 0; s < d_mul && grad_w != NULL; s++) {
        grad_w[s] = s < repeated ? grad[s % taps] : 0.0f;
    }
    for (int64_t m = 0; m < taps; m++) {
        for (int64_t s = 0; s < d_mul && grad_w != NULL; s++) {
            grad_w[s] += d[m * d_mul + s] * grad[m];
        }
        for (int64_t s = 0; s < d_mul && grad_d != NULL; s++) {
            grad_d[m * d_mul + s] += w[s] * grad[m];
        }
    }
}

/* A task has whole channels of D: all that meets them is summed there, in order of the outputs. */
static void portable_task(void *arg, int index)
{
    const struct portable_job *job = arg;
    const doconv_fold_desc *desc = job->desc;
    const int64_t taps = desc->kh * desc->kw, d_mul = desc->d_mul;
    for (int64_t channel = desc->cin * index / job->tasks;
         channel < desc->cin * (index + 1) / job->tasks; channel++) {
        const struct dc_row_series rows = dc_fold_rows(desc, channel);
        const float *d = job->d + channel * taps * d_mul;
        float *grad_d = job->grad_d != NULL ? job->grad_d + channel * taps * d_mul : NULL;
        if (grad_d != NULL) {
            memset(grad_d, 0, (size_t)(taps * d_mul) * sizeof *grad_d);
        }
        for (int64_t t = 0; t < desc->cout / desc->groups; t++) {
            const int64_t row = rows.first + t * rows.step;
            add_row(job, row, d, job->grad_w != NULL ? job->grad_w + row * d_mul : NULL, grad_d);
        }
    }
}

static const char *enumerate_portable(const doconv_context *ctx, const struct dc_problem *p,
                                      const struct dc_kernel *kernel,
                                      struct dc_candidate_list *list)
{
    struct dc_candidate c = {
        .solver = &dc_solver_fold_gradient_portable,
        .error_amplification = 1.0f,
        .estimated_seconds = 2.0 * dc_fold_estimate(p, kernel, (int)least(p->threads, p->fold.cin)),
    };
    dc_candidate_append(ctx, list, &c);
    return NULL;
}

static void execute_portable(const doconv_plan *plan, const struct dc_tensors *tensors,
                             char *workspace)
{
    (void)workspace;
    struct portable_job job = {
        .desc = &plan->problem.fold,
        .w = tensors->w,
        .d = tensors->d,
        .grad_folded = tensors->grad_folded,
        .grad_w = tensors->grad_w,
        .grad_d = tensors->grad_d,
        .tasks = (int)least(plan->problem.threads, plan->problem.fold.cin),
    };
    dc_parallel(plan->ctx, job.tasks, portable_task, &job);
}

const struct dc_solver dc_solver_fold_gradient_portable = {
    .name = "compose",
    .operation = DC_FOLD_GRADIENT,
    .family = DC_FAMILY_NONE,
    .enumerate = enumerate_portable,
    .execute = execute_portable,
};

/* ---- the public call ---- */

doconv_status doconv_fold_gradient(doconv_context *context, const doconv_fold_desc *desc,
                                   const float *w, const float *d, const float *grad_weight,
                                   float *grad_w, float *grad_d)
{
    if (context == NULL || desc == NULL || w == NULL || grad_weight == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "fold gradient: %s: NULL",
                       context == NULL ? "context"
                       : desc == NULL  ? "desc"
                       : w == NULL     ? "w"
                                       : "grad_weight");
    }
    struct dc_problem problem;
    const struct dc_tensors tensors = {
        .w = w, .d = d, .grad_folded = grad_weight, .grad_w = grad_w, .grad_d = grad_d};
    doconv_status status = dc_problem_create_fold(context, desc, DC_FOLD_GRADIENT, &problem);
    if (status == DOCONV_OK) {
        status = dc_fold_check_memory(context, &problem.fold, &tensors);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    const doconv_fold_desc *f = &problem.fold;
    if (d == NULL) {
        if (f->kh * f->kw != 1 || f->d_mul != 1 || grad_d != NULL) {
            return dc_fail(context, DOCONV_INVALID_ARGUMENT, "fold gradient: %s",
                           grad_d != NULL ? "grad_d: given, but the layer has no D"
                                          : "d: NULL, but only a 1x1 kernel with d_mul 1 has no D");
        }
        if (grad_w != NULL) {
            memcpy(grad_w, grad_weight, (size_t)(f->cout * (f->cin / f->groups)) * sizeof(float));
        }
        return DOCONV_OK;
    }
    return dc_plan_once(context, &problem, &tensors);
}
