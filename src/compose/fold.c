/* SPDX-License-Identifier: MIT */
/*
 * Folding: the kernel that D and W of a DO-Conv layer compose to (arXiv 2006.12030, section 3; the
 * mappings of grouped layers are those of its modules).
 */
#include "compose/fold.h"

#include <stdio.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/log.h"
#include "compose/fold_cut.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

/* A plan's state is a struct dc_fold_cut. */

static const char *enumerate(const doconv_context *ctx, const struct dc_problem *p,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    const bool far = dc_fold_rows_are_far(&p->fold);
    int last = 0;
    for (int i = 0; i < 2; i++) {
        const struct dc_fold_parameters q = {
            .blocks = dc_fold_blocks_fitting(&p->fold, kernel, i == 0 ? far : !far)};
        if (q.blocks == last) {
            continue;
        }
        last = q.blocks;
        const struct dc_fold_cut cut = dc_fold_cut(&p->fold, false, kernel, p->threads, q.blocks);
        struct dc_candidate c = {
            .solver = &dc_solver_fold,
            .kernel = kernel,
            /* A kernel may begin sums with the identity's part: each has an order of its own. */
            .order_of_sums = (int)kernel->isa,
            .error_amplification = kernel->error_amplification,
            .workspace_size = (size_t)cut.tasks * cut.scratch_floats * sizeof(float),
            /* The second is where the rows' distance says that fewer or more should be worse. */
            .estimated_seconds = dc_fold_estimate(p, kernel, cut.tasks) * (i == 0 ? 1.0 : 1.02),
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
    snprintf(text, size, ":blocks=%d", q.blocks);
}

static doconv_status prepare(doconv_plan *plan)
{
    struct dc_fold_cut *cut = dc_alloc(plan->ctx, sizeof *cut);
    if (cut == NULL) {
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "fold: out of memory");
    }
    struct dc_fold_parameters q;
    dc_get_parameters(&plan->candidate, &q);
    *cut = dc_fold_cut(&plan->problem.fold, false, plan->candidate.kernel, plan->problem.threads,
                       q.blocks);
    plan->state = cut;
    return DOCONV_OK;
}

static void execute(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace)
{
    const struct dc_fold_cut *cut = plan->state;
    struct dc_compose_job job = {
        .cut = cut,
        .w = tensors->w,
        .d = tensors->d,
        .weight = tensors->weight,
        .scratch = (float *)workspace,
    };
    dc_parallel(plan->ctx, cut->tasks, dc_compose_task, &job);
}

/* ---- parts ---- */

/* Groups mix outputs of many blocks, but for one mapping. */
static int64_t part_inputs(const doconv_plan *plan)
{
    return plan->problem.fold.groups == 1 ? plan->problem.fold.cin : 0;
}

static size_t part_scratch(const doconv_plan *plan)
{
    const struct dc_fold_cut *cut = plan->state;
    return cut->scratch_floats;
}

static void run_part(const doconv_plan *plan, const struct dc_part *part,
                     const struct dc_tensors *tensors, float *scratch)
{
    const struct dc_fold_cut *cut = plan->state;
    const int64_t vector = cut->kernel->vector;
    const struct dc_compose_job job = {
        .cut = cut,
        .w = tensors->w,
        .d = tensors->d,
        .weight = tensors->weight,
        .first_result = part->out,
    };
    dc_compose_blocks(&job, scratch, part->in / vector, divide_up(part->in + part->ins, vector),
                      part->out, part->out + part->outs);
}

static const struct dc_part_hooks parts = {
    .inputs = part_inputs,
    .scratch_floats = part_scratch,
    .run = run_part,
};

const struct dc_solver dc_solver_fold = {
    .name = "compose",
    .operation = DC_FOLD,
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
    const float *w, *d;
    float *weight;
    int tasks;
};

/*
 * Channels [first, end) of D, and rows [start, stop) of those that meet each. weight begins with
 * the output first_result.
 */
static void fold_portably(const struct portable_job *job, int64_t first, int64_t end, int64_t start,
                          int64_t stop, int64_t first_result)
{
    const doconv_fold_desc *desc = job->desc;
    const int64_t taps = desc->kh * desc->kw, d_mul = desc->d_mul,
                  repeated = dc_fold_repeated(desc);
    for (int64_t channel = first; channel < end; channel++) {
        const struct dc_row_series rows = dc_fold_rows(desc, channel);
        for (int64_t t = start; t < stop; t++) {
            const float *w = job->w + (rows.first + t * rows.step) * d_mul;
            const float *d = job->d + channel * taps * d_mul;
            float *out = job->weight + (rows.first + (t - first_result) * rows.step) * taps;
            for (int64_t m = 0; m < taps; m++) {
                float sum = 0.0f;
                for (int64_t s = 0; s < d_mul; s++) {
                    const float identity = s < repeated && s % taps == m ? 1.0f : 0.0f;
                    sum += (d[m * d_mul + s] + identity) * w[s];
                }
                out[m] = sum;
            }
        }
    }
}

static void portable_task(void *arg, int index)
{
    const struct portable_job *job = arg;
    const doconv_fold_desc *desc = job->desc;
    fold_portably(job, desc->cin * index / job->tasks, desc->cin * (index + 1) / job->tasks, 0,
                  desc->cout / desc->groups, 0);
}

static const char *enumerate_portable(const doconv_context *ctx, const struct dc_problem *p,
                                      const struct dc_kernel *kernel,
                                      struct dc_candidate_list *list)
{
    const int tasks = (int)least(p->threads, p->fold.cin);
    struct dc_candidate c = {
        .solver = &dc_solver_fold_portable,
        .error_amplification = 1.0f,
        .estimated_seconds = dc_fold_estimate(p, kernel, tasks),
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
        .weight = tensors->weight,
        .tasks = (int)least(plan->problem.threads, plan->problem.fold.cin),
    };
    dc_parallel(plan->ctx, job.tasks, portable_task, &job);
}

static size_t no_scratch(const doconv_plan *plan)
{
    (void)plan;
    return 0;
}

static void run_part_portably(const doconv_plan *plan, const struct dc_part *part,
                              const struct dc_tensors *tensors, float *scratch)
{
    (void)scratch;
    const struct portable_job job = {
        .desc = &plan->problem.fold,
        .w = tensors->w,
        .d = tensors->d,
        .weight = tensors->weight,
    };
    fold_portably(&job, part->in, part->in + part->ins, part->out, part->out + part->outs,
                  part->out);
}

static const struct dc_part_hooks portable_parts = {
    .inputs = part_inputs,
    .scratch_floats = no_scratch,
    .run = run_part_portably,
};

const struct dc_solver dc_solver_fold_portable = {
    .name = "compose",
    .operation = DC_FOLD,
    .family = DC_FAMILY_NONE,
    .enumerate = enumerate_portable,
    .execute = execute_portable,
    .parts = &portable_parts,
};

/* ---- the public call ---- */

doconv_status doconv_fold(doconv_context *context, const doconv_fold_desc *desc, const float *w,
                          const float *d, float *weight)
{
    if (context == NULL || desc == NULL || w == NULL || weight == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "fold: %s: NULL",
                       context == NULL ? "context"
                       : desc == NULL  ? "desc"
                       : w == NULL     ? "w"
                                       : "weight");
    }
    struct dc_problem problem;
    const struct dc_tensors tensors = {.w = w, .d = d, .weight = weight};
    doconv_status status = dc_problem_create_fold(context, desc, DC_FOLD, &problem);
    if (status == DOCONV_OK) {
        status = dc_fold_check_memory(context, &problem.fold, &tensors);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    const doconv_fold_desc *f = &problem.fold;
    if (d == NULL) {
        if (f->kh * f->kw != 1 || f->d_mul != 1) {
            return dc_fail(context, DOCONV_INVALID_ARGUMENT,
                           "fold: d: NULL, but only a 1x1 kernel with d_mul 1 has no D");
        }
        memcpy(weight, w, (size_t)(f->cout * (f->cin / f->groups)) * sizeof(float));
        return DOCONV_OK;
    }
    return dc_plan_once(context, &problem, &tensors);
}
