/* SPDX-License-Identifier: MIT */
/*
 * Feature composition of a DO-Conv layer (arXiv 2006.12030, section 3): Z, D_mul channels for each
 * input channel, is a depthwise convolution of src by D, and dst a contraction of Z by W.
 * feature_forward.c and feature_backward.c do that with kernels, as feature_plan.c decides. The
 * loops here, for where there are none and for narrow groups of very few outputs, make Z a row at a
 * time, forward and backward.
 *
 * Backward, a task owns an input channel: everything that it adds to (its gradients of src, W and
 * D) belongs to that channel, so no sum is shared and the order of additions does not depend on
 * threads.
 */
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/layout.h"
#include "base/log.h"
#include "compose/feature.h"
#include "compose/feature.h"
#include "compose/fold_cut.h"
#include "geometry/tap_ranges.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/problem.h"

/* A plan's state. */
struct state {
    const struct dc_problem *problem;
    struct dc_tensor_map src_map, dst_map;
    int64_t d_mul, taps;
    int64_t repeated; /* channels of Z, of each input channel's, that the identity adds to */
    int forward_tasks, backward_tasks;
    int64_t forward_floats, backward_floats; /* of the workspace, a task's */
};

struct job {
    const struct state *f;
    const float *w, *d, *bias, *src, *grad_dst;
    float *dst, *grad_src, *grad_w, *grad_d;
    float *workspace;
};

/*
 * A tap of an output row: the row of src that it reads and the outputs [x0, x1) whose column is
 * inside. False if there is none.
 */
struct tap {
    int64_t row, shift, x0, x1;
};

static bool find_tap(const struct dc_problem *p, int64_t m, int64_t y, struct tap *tap)
{
    const doconv_conv_desc *d = &p->desc;
    tap->row = y * d->stride_h + m / d->kw * d->dilation_h - d->pad_top;
    tap->shift = m % d->kw * d->dilation_w - d->pad_left;
    dc_outputs_inside(d->w, d->stride_w, tap->shift, p->wout, &tap->x0, &tap->x1);
    return tap->row >= 0 && tap->row < d->h && tap->x0 < tap->x1;
}

static float composed(const struct job *job, int64_t channel, int64_t m, int64_t s)
{
    const struct state *f = job->f;
    return job->d[(channel * f->taps + m) * f->d_mul + s] +
           (s < f->repeated && s % f->taps == m ? 1.0f : 0.0f);
}

/* Row y of the channels of Z that belong to an input channel: z[s][x]. */
static void make_row(const struct job *job, int64_t image, int64_t channel, int64_t y, float *z)
{
    const struct state *f = job->f;
    const int64_t width = f->problem->wout;
    const float *src = job->src + image * f->src_map.image + channel_at(&f->src_map, channel);
    memset(z, 0, (size_t)(f->d_mul * width) * sizeof *z);
    for (int64_t m = 0; m < f->taps; m++) {
        struct tap tap;
        if (!find_tap(f->problem, m, y, &tap)) {
            continue;
        }
        const float *from = src + tap.row * f->src_map.row + tap.shift * f->src_map.pixel;
        const ptrdiff_t step = f->problem->desc.stride_w * f->src_map.pixel;
        for (int64_t s = 0; s < f->d_mul; s++) {
            const float factor = composed(job, channel, m, s);
            for (int64_t x = tap.x0; x < tap.x1; x++) {
                z[s * width + x] += factor * from[x * step];
            }
        }
    }
}

static void forward_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct state *f = job->f;
    const struct dc_problem *p = f->problem;
    const int64_t rows = p->desc.n * p->hout, width = p->wout, terms = p->group_cin * f->d_mul;
    float *const sums = job->workspace + index * f->forward_floats, *const z = sums + width;
    const int64_t stored = divide_up(p->desc.cout, dc_layout_block(p->desc.dst_layout)) *
                           dc_layout_block(p->desc.dst_layout);
    for (int64_t line = rows * index / f->forward_tasks;
         line < rows * (index + 1) / f->forward_tasks; line++) {
        const int64_t image = line / p->hout, y = line % p->hout;
        for (int64_t o = 0; o < stored; o++) {
            const int64_t group = o / p->group_cout;
            for (int64_t i = 0; i < p->group_cin && o < p->desc.cout && o % p->group_cout == 0;
                 i++) {
                make_row(job, image, group * p->group_cin + i, y, z + i * f->d_mul * width);
            }
            for (int64_t x = 0; x < width; x++) {
                sums[x] = job->bias != NULL && o < p->desc.cout ? job->bias[o] : 0.0f;
            }
            for (int64_t k = 0; k < terms && o < p->desc.cout; k++) {
                const float factor = job->w[o * terms + k];
                for (int64_t x = 0; x < width; x++) {
                    sums[x] += factor * z[k * width + x];
                }
            }
            float *dst = job->dst + image * f->dst_map.image + channel_at(&f->dst_map, o) +
                         y * f->dst_map.row;
            for (int64_t x = 0; x < width; x++) {
                dst[x * f->dst_map.pixel] = sums[x];
            }
        }
    }
}

/*
 * Row y of the gradient of Z: grad_z[s][x] = sum over outputs o of the group of W[o][i][s] *
 * grad_dst[o]. And what grad_dst and Z add to that of W.
 */
static void contract_row(const struct job *job, int64_t image, int64_t channel, int64_t y,
                         const float *z, float *grad_z)
{
    const struct state *f = job->f;
    const struct dc_problem *p = f->problem;
    const int64_t width = p->wout, group = channel / p->group_cin, i = channel % p->group_cin;
    memset(grad_z, 0, (size_t)(f->d_mul * width) * sizeof *grad_z);
    for (int64_t o = group * p->group_cout; o < (group + 1) * p->group_cout; o++) {
        const float *grad = job->grad_dst + image * f->dst_map.image + channel_at(&f->dst_map, o) +
                            y * f->dst_map.row;
        const ptrdiff_t at = (o * p->group_cin + i) * f->d_mul;
        for (int64_t s = 0; s < f->d_mul; s++) {
            const float factor = job->w[at + s];
            float sum = 0.0f;
            for (int64_t x = 0; x < width; x++) {
                grad_z[s * width + x] += factor * grad[x * f->dst_map.pixel];
                sum += z[s * width + x] * grad[x * f->dst_map.pixel];
            }
            if (job->grad_w != NULL) {
                job->grad_w[at + s] += sum;
            }
        }
    }
}

static void backward_row(const struct job *job, int64_t image, int64_t channel, int64_t y,
                         const float *grad_z)
{
    const struct state *f = job->f;
    const int64_t width = f->problem->wout;
    const ptrdiff_t plane = image * f->src_map.image + channel_at(&f->src_map, channel),
                    step = f->problem->desc.stride_w * f->src_map.pixel;
    for (int64_t m = 0; m < f->taps; m++) {
        struct tap tap;
        if (!find_tap(f->problem, m, y, &tap)) {
            continue;
        }
        const ptrdiff_t at = plane + tap.row * f->src_map.row + tap.shift * f->src_map.pixel;
        for (int64_t s = 0; s < f->d_mul; s++) {
            const float factor = composed(job, channel, m, s);
            float sum = 0.0f;
            for (int64_t x = tap.x0; x < tap.x1; x++) {
                sum += grad_z[s * width + x] * job->src[at + x * step];
            }
            for (int64_t x = tap.x0; x < tap.x1 && job->grad_src != NULL; x++) {
                job->grad_src[at + x * step] += factor * grad_z[s * width + x];
            }
            if (job->grad_d != NULL) {
                job->grad_d[(channel * f->taps + m) * f->d_mul + s] += sum;
            }
        }
    }
}

static void backward_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct state *f = job->f;
    const struct dc_problem *p = f->problem;
    const doconv_conv_desc *d = &p->desc;
    float *const z = job->workspace + index * f->backward_floats, *const grad_z =
                                                                      z + f->d_mul * p->wout;
    for (int64_t channel = d->cin * index / f->backward_tasks;
         channel < d->cin * (index + 1) / f->backward_tasks; channel++) {
        for (int64_t at = 0; at < d->n * d->h * d->w && job->grad_src != NULL; at++) {
            const int64_t x = at % d->w, y = at / d->w % d->h, image = at / d->w / d->h;
            job->grad_src[image * f->src_map.image + channel_at(&f->src_map, channel) +
                          y * f->src_map.row + x * f->src_map.pixel] = 0.0f;
        }
        if (job->grad_d != NULL) {
            memset(job->grad_d + channel * f->taps * f->d_mul, 0,
                   (size_t)(f->taps * f->d_mul) * sizeof(float));
        }
        for (int64_t t = 0; t < p->group_cout && job->grad_w != NULL; t++) {
            const int64_t o = channel / p->group_cin * p->group_cout + t;
            memset(job->grad_w + (o * p->group_cin + channel % p->group_cin) * f->d_mul, 0,
                   (size_t)f->d_mul * sizeof(float));
        }
        for (int64_t line = 0; line < d->n * p->hout; line++) {
            make_row(job, line / p->hout, channel, line % p->hout, z);
            contract_row(job, line / p->hout, channel, line % p->hout, z, grad_z);
            backward_row(job, line / p->hout, channel, line % p->hout, grad_z);
        }
    }
}

/* ---- the solvers ---- */

static struct state create_state(const struct dc_problem *p)
{
    const doconv_conv_desc *d = &p->desc;
    return (struct state){
        .problem = p,
        .src_map = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
        .dst_map = dc_tensor_map(d->dst_layout, d->cout, p->hout, p->wout),
        .d_mul = p->fold.d_mul,
        .taps = d->kh * d->kw,
        .repeated = dc_fold_repeated(&p->fold),
        .forward_tasks = (int)least(p->threads, d->n * p->hout),
        .backward_tasks = (int)least(p->threads, d->cin),
        .forward_floats = align_floats((p->group_cin * p->fold.d_mul + 1) * p->wout),
        .backward_floats = align_floats(2 * p->fold.d_mul * p->wout),
    };
}

static const char *offer(const doconv_context *ctx, const struct dc_problem *p,
                         const struct dc_solver *solver, struct dc_candidate_list *list)
{
    if ((double)p->group_cin * (double)p->fold.d_mul * (double)p->wout > 1e12) {
        return "a row of D_mul times the input channels needs too much workspace";
    }
    const struct state f = create_state(p);
    const bool forward = solver == &dc_solver_feature_forward_portable;
    const double pixels = (double)(p->desc.n * p->hout * p->wout);
    const double products = pixels * (double)(p->desc.cin * f.d_mul) *
                            (double)(f.taps + p->group_cout) * (forward ? 1.0 : 2.0);
    const int64_t floats =
        forward ? f.forward_tasks * f.forward_floats : f.backward_tasks * f.backward_floats;
    struct dc_candidate c = {
        .solver = solver,
        .error_amplification = 1.0f,
        .workspace_size = (size_t)floats * sizeof(float),
        .estimated_seconds = products / 5e8 / (forward ? f.forward_tasks : f.backward_tasks),
    };
    dc_candidate_append(ctx, list, &c);
    return NULL;
}

static const char *enumerate_forward(const doconv_context *ctx, const struct dc_problem *p,
                                     const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    (void)kernel;
    return offer(ctx, p, &dc_solver_feature_forward_portable, list);
}

static const char *enumerate_backward(const doconv_context *ctx, const struct dc_problem *p,
                                      const struct dc_kernel *kernel,
                                      struct dc_candidate_list *list)
{
    (void)kernel;
    return offer(ctx, p, &dc_solver_feature_backward_portable, list);
}

static void execute_forward(const doconv_plan *plan, const struct dc_tensors *tensors,
                            char *workspace)
{
    const struct state f = create_state(&plan->problem);
    struct job job = {
        .f = &f,
        .w = tensors->w,
        .d = tensors->d,
        .bias = tensors->bias,
        .src = tensors->src,
        .dst = tensors->dst,
        .workspace = (float *)workspace,
    };
    dc_parallel(plan->ctx, f.forward_tasks, forward_task, &job);
}

static void execute_backward(const doconv_plan *plan, const struct dc_tensors *tensors,
                             char *workspace)
{
    const struct state f = create_state(&plan->problem);
    const doconv_conv_desc *d = &plan->problem.desc;
    struct job job = {
        .f = &f,
        .w = tensors->w,
        .d = tensors->d,
        .src = tensors->src,
        .grad_dst = tensors->grad_dst,
        .grad_src = tensors->grad_src,
        .grad_w = tensors->grad_w,
        .grad_d = tensors->grad_d,
        .workspace = (float *)workspace,
    };
    if (job.grad_src != NULL && d->cin % dc_layout_block(d->src_layout) != 0) {
        memset(job.grad_src, 0, plan->problem.src_bytes); /* the channels past the last */
    }
    dc_parallel(plan->ctx, f.backward_tasks, backward_task, &job);
}

const struct dc_solver dc_solver_feature_forward_portable = {
    .name = "feature",
    .operation = DC_FEATURE_FORWARD,
    .family = DC_FAMILY_NONE,
    .enumerate = enumerate_forward,
    .execute = execute_forward,
};

const struct dc_solver dc_solver_feature_backward_portable = {
    .name = "feature",
    .operation = DC_FEATURE_BACKWARD,
    .family = DC_FAMILY_NONE,
    .enumerate = enumerate_backward,
    .execute = execute_backward,
};
