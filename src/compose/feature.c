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
#include "compose/feature_state.h"
#include "plan/problem.h"

doconv_status dc_feature_create(doconv_context *ctx, const struct dc_problem *problem,
                                int64_t d_mul, int add_identity, struct dc_feature **feature)
{
    const doconv_conv_desc *d = &problem->desc;
    *feature = NULL;
    if ((double)problem->group_cin * (double)d_mul * (double)problem->wout > 1e12) {
        return dc_fail(ctx, DOCONV_UNSUPPORTED,
                       "d_mul: a row of %lld times the input channels needs too much workspace",
                       (long long)d_mul);
    }
    struct dc_feature *f = dc_alloc(ctx, sizeof *f);
    if (f == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "training: out of memory");
    }
    const int64_t taps = d->kh * d->kw;
    *f = (struct dc_feature){
        .ctx = ctx,
        .problem = *problem,
        .src_map = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
        .dst_map = dc_tensor_map(d->dst_layout, d->cout, problem->hout, problem->wout),
        .d_mul = d_mul,
        .taps = taps,
        .repeated = add_identity ? d_mul / taps * taps : 0,
        .forward_tasks = (int)least(ctx->threads, d->n * problem->hout),
        .backward_tasks = (int)least(ctx->threads, d->cin),
        .forward_floats = divide_up((problem->group_cin * d_mul + 1) * problem->wout, 16) * 16,
        .backward_floats = divide_up(2 * d_mul * problem->wout, 16) * 16,
    };
    dc_feature_plan_blocks(f);
    *feature = f;
    return DOCONV_OK;
}

void dc_feature_destroy(struct dc_feature *feature)
{
    if (feature != NULL) {
        dc_free(feature->ctx, feature);
    }
}

size_t dc_feature_workspace_size(const struct dc_feature *f)
{
    const int64_t forward = f->forward_tasks * f->forward_floats,
                  backward =
                      f->backward_tasks * f->backward_floats + f->planes_floats + f->pixels_floats;
    return (size_t)most(forward, backward) * sizeof(float);
}

struct job {
    const struct dc_feature *f;
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
    tap->x0 = tap->shift >= 0 ? 0 : divide_up(-tap->shift, d->stride_w);
    tap->x1 = tap->shift > d->w - 1 ? 0 : least(p->wout, (d->w - 1 - tap->shift) / d->stride_w + 1);
    return tap->row >= 0 && tap->row < d->h && tap->x0 < tap->x1;
}

static float composed(const struct job *job, int64_t channel, int64_t m, int64_t s)
{
    const struct dc_feature *f = job->f;
    return job->d[(channel * f->taps + m) * f->d_mul + s] +
           (s < f->repeated && s % f->taps == m ? 1.0f : 0.0f);
}

/* Row y of the channels of Z that belong to an input channel: z[s][x]. */
static void make_row(const struct job *job, int64_t image, int64_t channel, int64_t y, float *z)
{
    const struct dc_feature *f = job->f;
    const int64_t width = f->problem.wout;
    const float *src = job->src + image * f->src_map.image + channel_at(&f->src_map, channel);
    memset(z, 0, (size_t)(f->d_mul * width) * sizeof *z);
    for (int64_t m = 0; m < f->taps; m++) {
        struct tap tap;
        if (!find_tap(&f->problem, m, y, &tap)) {
            continue;
        }
        const float *from = src + tap.row * f->src_map.row + tap.shift * f->src_map.pixel;
        const ptrdiff_t step = f->problem.desc.stride_w * f->src_map.pixel;
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
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
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

void dc_feature_forward(const struct dc_feature *f, const float *w, const float *d,
                        const float *bias, const float *src, float *dst, char *workspace)
{
    if (f->direct != NULL) {
        dc_feature_forward_blocks(f, w, d, bias, src, dst, workspace);
        return;
    }
    struct job job = {.f = f,
                      .w = w,
                      .d = d,
                      .bias = bias,
                      .src = src,
                      .dst = dst,
                      .workspace = (float *)workspace};
    dc_parallel(f->ctx, f->forward_tasks, forward_task, &job);
}

/*
 * Row y of the gradient of Z: grad_z[s][x] = sum over outputs o of the group of W[o][i][s] *
 * grad_dst[o]. And what grad_dst and Z add to that of W.
 */
static void contract_row(const struct job *job, int64_t image, int64_t channel, int64_t y,
                         const float *z, float *grad_z)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
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
    const struct dc_feature *f = job->f;
    const int64_t width = f->problem.wout;
    const ptrdiff_t plane = image * f->src_map.image + channel_at(&f->src_map, channel),
                    step = f->problem.desc.stride_w * f->src_map.pixel;
    for (int64_t m = 0; m < f->taps; m++) {
        struct tap tap;
        if (!find_tap(&f->problem, m, y, &tap)) {
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
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
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

void dc_feature_backward(const struct dc_feature *f, const float *w, const float *d,
                         const float *src, const float *grad_dst, float *grad_src, float *grad_w,
                         float *grad_d, char *workspace)
{
    struct job job = {.f = f,
                      .w = w,
                      .d = d,
                      .src = src,
                      .grad_dst = grad_dst,
                      .grad_src = grad_src,
                      .grad_w = grad_w,
                      .grad_d = grad_d,
                      .workspace = (float *)workspace};
    const doconv_conv_desc *desc = &f->problem.desc;
    const int64_t block = dc_layout_block(desc->src_layout);
    if (grad_src != NULL && desc->cin % block != 0) {
        memset(grad_src, 0, f->problem.src_bytes); /* the channels past the last */
    }
    if ((grad_src != NULL || grad_w != NULL || grad_d != NULL) && f->wide != NULL) {
        dc_feature_backward_blocks(f, w, d, src, grad_dst, grad_src, grad_w, grad_d, workspace);
    } else if (grad_src != NULL || grad_w != NULL || grad_d != NULL) {
        dc_parallel(f->ctx, f->backward_tasks, backward_task, &job);
    }
}
