/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's input by one product, where no input is read twice: kernels that
 * are no larger than the strides, as patch embeddings and projections have. A 1x1 convolution of
 * the output's gradient makes, for each output pixel, the gradients of all inputs that it reads:
 * pairs of a channel and a tap, in the order of the forward weight. Then each goes to its place.
 */
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/layout.h"
#include "geometry/tap_ranges.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "train/input_ways.h"

/*
 * Where a group has few outputs, its products are less work than the pairs' way through memory,
 * which few classes spare. Measured from 8 to 768 outputs.
 */
#define FEW_OUTPUTS 32
#define FEW_CLASSES 16

/* Is no input read by two outputs, but each output reads one? */
static bool reads_once(const struct dc_axis *a)
{
    const int64_t extent = (a->kernel - 1) * a->dilation + 1;
    return extent <= a->stride && a->pad < extent && (a->out - 1) * a->stride - a->pad < a->size;
}

bool dc_input_product_suits(const struct dc_problem *p)
{
    const doconv_conv_desc *d = &p->desc;
    const struct dc_axis rows = dc_rows_axis(p), columns = dc_columns_axis(p);
    if ((d->stride_h == 1 && d->stride_w == 1) || !reads_once(&rows) || !reads_once(&columns)) {
        return false;
    }
    if (d->kh * d->kw > 1 && p->group_cout <= FEW_OUTPUTS &&
        d->stride_h * d->stride_w <= FEW_CLASSES) {
        return false;
    }
    /* Pairs that lie in the padding are computed for nothing: no more of these than of others. */
    const double taps = (double)d->kh * (double)d->kw;
    return taps * (double)d->cin <= INT32_MAX &&
           taps * (double)p->hout * (double)p->wout <= 2.0 * (double)d->h * (double)d->w;
}

/* Where a pixel's pairs lie together, unless they are just its channels. */
static doconv_layout pairs_layout(const struct dc_problem *p)
{
    return p->desc.kh * p->desc.kw == 1 ? p->desc.src_layout : DOCONV_NHWC;
}

doconv_status dc_input_product_create(doconv_context *ctx, const struct dc_problem *problem,
                                      const doconv_plan_options *options,
                                      struct dc_input_product *product)
{
    doconv_conv_desc d = dc_input_convolution(problem);
    d.cout = problem->desc.cin * problem->desc.kh * problem->desc.kw;
    d.h = problem->hout;
    d.w = problem->wout;
    d.dst_layout = pairs_layout(problem);
    *product = (struct dc_input_product){
        .ctx = ctx,
        .problem = *problem,
        .map = dc_tensor_map(d.dst_layout, d.cout, d.h, d.w),
        .pairs_size = dc_room_for(d.dst_layout, d.n, d.cout, d.h, d.w),
    };
    return dc_input_plan(ctx, problem, options, &d, &product->plan);
}

struct job {
    const struct dc_input_product *g;
    const float *pairs;
    struct dc_pixels to;
    int64_t lines; /* rows of all blocks of all images */
    int tasks;
    bool clear; /* a row has inputs that no output reads, or channels past the last */
};

/* The inputs of a channel that a row of outputs reads by taps (ky, 0), (ky, 1), ... */
static void place_channel(const struct job *job, const float *from, float *row)
{
    const struct dc_input_product *g = job->g;
    const doconv_conv_desc *d = &g->problem.desc;
    for (int64_t kx = 0; kx < d->kw; kx++) {
        const int64_t offset = kx * d->dilation_w - d->pad_left;
        int64_t begin, end;
        dc_outputs_inside(d->w, d->stride_w, offset, g->problem.wout, &begin, &end);
        for (int64_t q = begin; q < end; q++) {
            row[q * d->stride_w + offset] = from[q * g->map.pixel + kx];
        }
    }
}

/* And those of `count` channels that lie together, of output q of the row alone. */
static void place_channels(const struct job *job, const float *from, int64_t q, int64_t count,
                           float *row)
{
    const doconv_conv_desc *d = &job->g->problem.desc;
    const int64_t taps = d->kh * d->kw;
    for (int64_t kx = 0; kx < d->kw; kx++, from++) {
        const int64_t x = q * d->stride_w + kx * d->dilation_w - d->pad_left;
        if (x < 0 || x >= d->w) {
            continue;
        }
        float *const to = row + x * job->to.pixel;
        if (taps == 1) {
            memcpy(to, from, (size_t)count * sizeof *to);
            continue;
        }
        for (int64_t c = 0; c < count; c++) {
            to[c] = from[c * taps];
        }
    }
}

/* Row y of a block of channels of an image. */
static void place_row(const struct job *job, int64_t image, int64_t block, int64_t y)
{
    const struct dc_input_product *g = job->g;
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t taps = d->kh * d->kw, first = block * job->to.inner,
                  count = least(job->to.inner, d->cin - first);
    const int64_t output = (y + d->pad_top) / d->stride_h, rest = (y + d->pad_top) % d->stride_h;
    const int64_t ky = rest / d->dilation_h;
    const bool read = output < p->hout && ky < d->kh && rest % d->dilation_h == 0;
    float *row = job->to.data + image * job->to.image + block * job->to.block + y * job->to.row;
    if (!read || job->clear) {
        memset(row, 0, (size_t)(d->w * job->to.pixel) * sizeof *row);
    }
    const float *from = job->pairs + image * g->map.image + output * g->map.row +
                        channel_at(&g->map, first * taps + ky * d->kw);
    if (read && job->to.inner == 1) {
        place_channel(job, from, row);
    }
    for (int64_t q = 0; q < p->wout && read && job->to.inner > 1; q++, from += g->map.pixel) {
        place_channels(job, from, q, count, row);
    }
}

static void place_task(void *arg, int index)
{
    const struct job *job = arg;
    const int64_t h = job->g->problem.desc.h, blocks = job->to.blocks;
    for (int64_t line = job->lines * index / job->tasks;
         line < job->lines * (index + 1) / job->tasks; line++) {
        place_row(job, line / h / blocks, line / h % blocks, line % h);
    }
}

void dc_input_product_run(const struct dc_input_product *g, const float *weight,
                          const float *grad_dst, float *grad_src, char *workspace)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const struct dc_weight_view forward = dc_weight_view(p, weight);
    const struct dc_weight_source source = {
        .view = {.data = weight, .group = forward.group, .out = 1, .in = forward.out}};
    float *const pairs = (float *)(workspace + g->plan->workspace_size);
    const struct dc_tensors tensors = {.src = grad_dst, .fresh = &source, .dst = pairs};
    dc_plan_run(g->plan, &tensors, workspace);
    struct job job = {
        .g = g,
        .pairs = pairs,
        .to = dc_pixels_of(d->src_layout, grad_src, d->cin, d->h, d->w),
        .clear = d->kw != d->stride_w || p->wout * d->stride_w - d->pad_left < d->w ||
                 d->cin % dc_layout_block(d->src_layout) != 0,
    };
    job.lines = d->n * job.to.blocks * d->h;
    job.tasks = (int)least(p->threads, job.lines);
    dc_parallel(g->ctx, job.tasks, place_task, &job);
}
