/* SPDX-License-Identifier: MIT */
/* The gradient of a convolution's input by loops: a task has whole input channels of images. */
#include "base/arithmetic.h"
#include "base/context.h"
#include "base/layout.h"
#include "kernel.h"
#include "plan/problem.h"
#include "train/input_ways.h"

struct job {
    const struct dc_problem *p;
    struct dc_tensor_map src_map, dst_map;
    const float *weight, *grad_dst;
    float *grad_src;
    int64_t channels; /* of all images, those that fill a layout's last block included */
    int tasks;
};

/*
 * The first tap that an input at `place`, padding included, meets inside the outputs, if its
 * distance from the first output is a multiple of the stride there; kernel: none.
 */
static int64_t next_tap(const struct dc_axis *a, int64_t place, int64_t tap)
{
    while (tap < a->kernel) {
        const int64_t rest = place - tap * a->dilation;
        if (rest < 0) {
            return a->kernel;
        }
        if (rest % a->stride == 0 && rest / a->stride < a->out) {
            return tap;
        }
        tap++;
    }
    return tap;
}

static float gradient_at(const struct job *job, int64_t image, int64_t channel, int64_t y,
                         int64_t x)
{
    const struct dc_problem *p = job->p;
    const doconv_conv_desc *d = &p->desc;
    const struct dc_axis rows = dc_rows_axis(p), columns = dc_columns_axis(p);
    const int64_t group = channel / p->group_cin, taps = d->kh * d->kw;
    const int64_t place_y = y + d->pad_top, place_x = x + d->pad_left;
    const float *const weight =
        job->weight + group * p->group_cout * p->group_cin * taps + channel % p->group_cin * taps;
    const float *const grad = job->grad_dst + image * job->dst_map.image;
    float sum = 0.0f;
    for (int64_t ky = next_tap(&rows, place_y, 0); ky < d->kh;
         ky = next_tap(&rows, place_y, ky + 1)) {
        const int64_t oy = (place_y - ky * d->dilation_h) / d->stride_h;
        for (int64_t kx = next_tap(&columns, place_x, 0); kx < d->kw;
             kx = next_tap(&columns, place_x, kx + 1)) {
            const int64_t ox = (place_x - kx * d->dilation_w) / d->stride_w;
            for (int64_t o = 0; o < p->group_cout; o++) {
                sum += weight[o * p->group_cin * taps + ky * d->kw + kx] *
                       grad[channel_at(&job->dst_map, group * p->group_cout + o) +
                            oy * job->dst_map.row + ox * job->dst_map.pixel];
            }
        }
    }
    return sum;
}

static void run_task(void *arg, int index)
{
    const struct job *job = arg;
    const doconv_conv_desc *d = &job->p->desc;
    const int64_t block = dc_layout_block(d->src_layout), stored = divide_up(d->cin, block) * block;
    for (int64_t unit = job->channels * index / job->tasks;
         unit < job->channels * (index + 1) / job->tasks; unit++) {
        const int64_t image = unit / stored, channel = unit % stored;
        float *const to =
            job->grad_src + image * job->src_map.image + channel_at(&job->src_map, channel);
        for (int64_t y = 0; y < d->h; y++) {
            for (int64_t x = 0; x < d->w; x++) {
                to[y * job->src_map.row + x * job->src_map.pixel] =
                    channel < d->cin ? gradient_at(job, image, channel, y, x) : 0.0f;
            }
        }
    }
}

void dc_input_loops_run(const doconv_context *ctx, const struct dc_problem *p, const float *weight,
                        const float *grad_dst, float *grad_src)
{
    const doconv_conv_desc *d = &p->desc;
    const int64_t block = dc_layout_block(d->src_layout);
    struct job job = {
        .p = p,
        .src_map = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
        .dst_map = dc_tensor_map(d->dst_layout, d->cout, p->hout, p->wout),
        .weight = weight,
        .grad_dst = grad_dst,
        .grad_src = grad_src,
        .channels = d->n * divide_up(d->cin, block) * block,
    };
    job.tasks = (int)least(p->threads, job.channels);
    dc_parallel(ctx, job.tasks, run_task, &job);
}
