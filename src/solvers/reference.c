/* SPDX-License-Identifier: MIT */
/* Any valid problem through the scalar reference: one task an image and output channel. */
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/layout.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "solvers/reference.h"

/* A task has whole (image, output channel) pairs. */
static int tasks_of(const struct dc_problem *p)
{
    const int64_t block = dc_layout_block(p->desc.dst_layout);
    return (int)least(p->threads, p->desc.n * divide_up(p->desc.cout, block) * block);
}

static const char *enumerate(const doconv_context *ctx, const struct dc_problem *problem,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    struct dc_candidate c = {
        .solver = &dc_solver_reference,
        .kernel = kernel,
        .order_of_sums = DC_SUMS_REFERENCE,
        .error_amplification = kernel->error_amplification,
        .estimated_seconds = problem->macs / 1e9 / (double)tasks_of(problem),
        .packed_size = problem->weight_bytes +
                       (problem->desc.has_bias ? (size_t)problem->desc.cout * sizeof(float) : 0),
    };
    dc_candidate_append(ctx, list, &c);
    return NULL;
}

static void pack(const doconv_plan *plan, const struct dc_weight_view *weight, const float *bias,
                 float *packed)
{
    const struct dc_problem *p = &plan->problem;
    float *to = packed;
    for (int64_t o = 0; o < p->desc.cout; o++) {
        const float *filter =
            weight->data + o / p->group_cout * weight->group + o % p->group_cout * weight->out;
        for (int64_t c = 0; c < p->group_cin; c++) {
            for (int64_t tap = 0; tap < p->desc.kh * p->desc.kw; tap++) {
                *to++ = filter[c * weight->in + tap / p->desc.kw * weight->row +
                               tap % p->desc.kw * weight->column];
            }
        }
    }
    if (bias != NULL) {
        memcpy(packed + plan->problem.weight_bytes / sizeof(float), bias,
               (size_t)plan->problem.desc.cout * sizeof(float));
    }
}

struct job {
    const doconv_plan *plan;
    struct dc_reference_args args;
    int64_t channels; /* stored ones, of all images */
    int tasks;
};

static void run_task(void *arg, int index)
{
    const struct job *job = arg;
    struct dc_reference_args args = job->args;
    const int64_t block = dc_layout_block(job->plan->problem.desc.dst_layout);
    const int64_t stored = (args.cout + block - 1) / block * block;
    for (int64_t unit = job->channels * index / job->tasks;
         unit < job->channels * (index + 1) / job->tasks; unit++) {
        args.n = unit / stored;
        args.out_channel = unit % stored;
        job->plan->candidate.kernel->reference.run(&args);
    }
}

struct dc_reference_args dc_reference_args(const struct dc_problem *p, const float *src,
                                           const float *weight, const float *bias,
                                           const float *residual, float *dst)
{
    const doconv_conv_desc *d = &p->desc;
    return (struct dc_reference_args){
        .src = src,
        .weight = weight,
        .bias = bias,
        .residual = residual,
        .dst = dst,
        .src_map = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
        .dst_map = dc_tensor_map(d->dst_layout, d->cout, p->hout, p->wout),
        .cin = d->cin,
        .h = d->h,
        .w = d->w,
        .cout = d->cout,
        .kh = d->kh,
        .kw = d->kw,
        .hout = p->hout,
        .wout = p->wout,
        .stride_h = d->stride_h,
        .stride_w = d->stride_w,
        .pad_top = d->pad_top,
        .pad_left = d->pad_left,
        .dilation_h = d->dilation_h,
        .dilation_w = d->dilation_w,
        .groups = d->groups,
        .lo = p->lo,
        .hi = p->hi,
    };
}

static void execute(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace)
{
    (void)workspace;
    const struct dc_problem *p = &plan->problem;
    const int64_t block = dc_layout_block(p->desc.dst_layout);
    const float *bias = p->desc.has_bias ? tensors->packed + p->weight_bytes / sizeof(float) : NULL;
    struct job job = {
        .plan = plan,
        .args = dc_reference_args(p, tensors->src, tensors->packed, bias, tensors->residual,
                                  tensors->dst),
        .channels = p->desc.n * divide_up(p->desc.cout, block) * block,
        .tasks = tasks_of(p),
    };
    dc_parallel(plan->ctx, job.tasks, run_task, &job);
}

const struct dc_solver dc_solver_reference = {
    .name = "reference",
    .operation = DC_CONVOLUTION,
    .family = DC_FAMILY_REFERENCE,
    .enumerate = enumerate,
    .execute = execute,
    .pack = pack,
};
