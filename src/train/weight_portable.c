/* SPDX-License-Identifier: MIT */
/* The gradient of a convolution's weight by loops: a task has whole output channels. */
#include "base/arithmetic.h"
#include "base/context.h"
#include "base/layout.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "train/weight_gradient.h"

struct job {
    const struct dc_problem *p;
    struct dc_tensor_map src_map, dst_map;
    const float *src, *grad_dst;
    float *grad_weight;
    int tasks;
};

/* Row y of an image, under tap (ky, kx), added to sum in the order of its pixels. */
static float add_row(const struct job *job, const float *plane, const float *grad, int64_t y,
                     int64_t ky, int64_t kx, float sum)
{
    const doconv_conv_desc *d = &job->p->desc;
    const int64_t row = y * d->stride_h + ky * d->dilation_h - d->pad_top;
    for (int64_t x = 0; x < job->p->wout && row >= 0 && row < d->h; x++) {
        const int64_t column = x * d->stride_w + kx * d->dilation_w - d->pad_left;
        if (column >= 0 && column < d->w) {
            sum += grad[y * job->dst_map.row + x * job->dst_map.pixel] *
                   plane[row * job->src_map.row + column * job->src_map.pixel];
        }
    }
    return sum;
}

static void add_output(const struct job *job, int64_t o)
{
    const struct dc_problem *p = job->p;
    const doconv_conv_desc *d = &p->desc;
    const int64_t taps = d->kh * d->kw;
    float *const out = job->grad_weight + o * p->group_cin * taps;
    for (int64_t i = 0; i < p->group_cin; i++) {
        const int64_t channel = o / p->group_cout * p->group_cin + i;
        for (int64_t m = 0; m < taps; m++) {
            float sum = 0.0f;
            for (int64_t n = 0; n < d->n; n++) {
                const float *plane =
                    job->src + n * job->src_map.image + channel_at(&job->src_map, channel);
                const float *grad =
                    job->grad_dst + n * job->dst_map.image + channel_at(&job->dst_map, o);
                for (int64_t y = 0; y < p->hout; y++) {
                    sum = add_row(job, plane, grad, y, m / d->kw, m % d->kw, sum);
                }
            }
            out[i * taps + m] = sum;
        }
    }
}

static void run_task(void *arg, int index)
{
    const struct job *job = arg;
    const int64_t cout = job->p->desc.cout;
    for (int64_t o = cout * index / job->tasks; o < cout * (index + 1) / job->tasks; o++) {
        add_output(job, o);
    }
}

static const char *enumerate(const doconv_context *ctx, const struct dc_problem *p,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    struct dc_candidate c = {
        .solver = &dc_solver_weight_portable,
        .kernel = kernel,
        .order_of_sums = DC_SUMS_PORTABLE,
        .error_amplification = 1.0f,
        .estimated_seconds = p->macs / 5e8 / (double)least(p->threads, p->desc.cout),
    };
    dc_candidate_append(ctx, list, &c);
    return NULL;
}

static void execute(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace)
{
    (void)workspace;
    const struct dc_problem *p = &plan->problem;
    const doconv_conv_desc *d = &p->desc;
    struct job job = {
        .p = p,
        .src_map = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
        .dst_map = dc_tensor_map(d->dst_layout, d->cout, p->hout, p->wout),
        .src = tensors->src,
        .grad_dst = tensors->grad_dst,
        .grad_weight = tensors->grad_weight,
        .tasks = (int)least(p->threads, d->cout),
    };
    dc_parallel(plan->ctx, job.tasks, run_task, &job);
}

const struct dc_solver dc_solver_weight_portable = {
    .name = "loops",
    .operation = DC_WEIGHT_GRADIENT,
    .family = DC_FAMILY_NONE,
    .enumerate = enumerate,
    .execute = execute,
};
