/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's input. Inputs whose coordinates (padding included) have the same
 * residues modulo the strides meet the same taps: a class. Each class is a convolution of the
 * output's gradient with stride 1 by its taps, flipped, with input and output channels exchanged,
 * so every kernel of the forward pass serves here too. (The transposed convolution of Dumoulin and
 * Visin, arXiv 1603.07285, without its zeros.)
 */
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/layout.h"
#include "base/log.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "train/input_gradient.h"

/* A class along one axis. */
struct axis_class {
    /* taps first_tap, first_tap + tap_step, ... of the forward kernel */
    int64_t taps, first_tap, tap_step;
    int64_t dilation; /* of the class's convolution, as everything below */
    /* rows of the output's gradient that it reads; size 0: none, the gradient is zero */
    int64_t begin, size;
    int64_t pad_before, pad_after;
    int64_t first, count; /* inputs first, first + stride, ... */
};

struct gradient_class {
    struct axis_class y, x;
    doconv_plan *plan; /* NULL: the gradient is zero */
    bool crop;         /* its plan reads a copy of a part of the output's gradient */
};

struct dc_input_gradient {
    doconv_context *ctx;
    struct dc_problem problem; /* the forward one */
    /* one class, which writes the gradient itself */
    bool in_place;
    size_t plan_size, crop_size, class_size; /* of the workspace's parts */
    int classes;
    struct gradient_class items[];
};

static int64_t common_divisor(int64_t a, int64_t b)
{
    while (b != 0) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* a / b rounded down, b > 0. */
static int64_t divide_down(int64_t a, int64_t b)
{
    return a >= 0 ? a / b : -((-a + b - 1) / b);
}

/*
 * Inputs y with (y + pad) % stride = residue: y + pad = p * stride + k * dilation for an output p
 * and a tap k. With y + pad = residue + stride * u, k = first_tap + j * tap_step: p = u + (residue
 * - first_tap * dilation) / stride - j * (dilation / divisor).
 */
static struct axis_class axis_class(int64_t residue, int64_t size, int64_t pad, int64_t stride,
                                    int64_t dilation, int64_t kernel, int64_t out)
{
    const int64_t divisor = common_divisor(stride, dilation);
    struct axis_class a = {.tap_step = stride / divisor, .dilation = dilation / divisor};
    /* The first u whose y is not negative, and the last that is inside. */
    const int64_t first = -divide_down(residue - pad, stride),
                  last = divide_down(size - 1 + pad - residue, stride);
    a.first = residue + stride * first - pad;
    a.count = most(0, last - first + 1);
    while (a.first_tap < kernel && a.first_tap < a.tap_step &&
           a.first_tap * dilation % stride != residue) {
        a.first_tap++;
    }
    if (a.first_tap >= kernel || a.first_tap >= a.tap_step || a.count == 0) {
        return a;
    }
    a.taps = (kernel - 1 - a.first_tap) / a.tap_step + 1;
    /*
     * The output rows that the first and the last input of the class read, from their first tap's
     * to their last's; j falls as rows rise.
     */
    const int64_t shift = (residue - a.first_tap * dilation) / stride,
                  reach = (a.taps - 1) * a.dilation;
    const int64_t low = first + shift - reach, high = first + a.count - 1 + shift;
    a.begin = most(0, low);
    a.size = most(0, least(out - 1, high) - a.begin + 1);
    a.pad_before = a.begin - low;
    a.pad_after = high - (a.begin + a.size - 1);
    return a;
}

/* The forward taps of a class, last one first, with inputs and outputs exchanged. */
static struct dc_weight_view exchanged(const struct dc_problem *p, const struct gradient_class *c,
                                       const float *weight)
{
    const struct dc_weight_view forward = dc_weight_view(p, weight);
    return (struct dc_weight_view){
        .data = weight + (c->y.first_tap + (c->y.taps - 1) * c->y.tap_step) * forward.row +
                c->x.first_tap + (c->x.taps - 1) * c->x.tap_step,
        .group = forward.group,
        .out = forward.in,
        .in = forward.out,
        .row = -c->y.tap_step * forward.row,
        .column = -c->x.tap_step,
    };
}

/*
 * A tensor as rows of pixels of `inner` floats that lie together, in `blocks` blocks of an image.
 */
struct view {
    float *data;
    int64_t blocks, inner;
    ptrdiff_t image, block, row, pixel;
};

static struct view view_of(doconv_layout layout, float *data, int64_t c, int64_t h, int64_t w)
{
    const struct dc_tensor_map map = dc_tensor_map(layout, c, h, w);
    struct view v = {.data = data, .image = map.image, .row = map.row, .pixel = map.pixel};
    const int64_t block = dc_layout_block(layout);
    v.blocks = layout == DOCONV_NHWC ? 1 : divide_up(c, block);
    v.inner = layout == DOCONV_NHWC ? c : block;
    v.block = layout == DOCONV_NCHW ? map.channel : map.block;
    return v;
}

struct copy {
    struct view from, to; /* from.data NULL: zeros */
    int64_t images, rows, columns;
    int tasks;
};

static void copy_task(void *arg, int index)
{
    const struct copy *c = arg;
    const int64_t lines = c->images * c->to.blocks * c->rows, inner = c->to.inner;
    for (int64_t line = lines * index / c->tasks; line < lines * (index + 1) / c->tasks; line++) {
        const int64_t row = line % c->rows, block = line / c->rows % c->to.blocks,
                      image = line / c->rows / c->to.blocks;
        float *to = c->to.data + image * c->to.image + block * c->to.block + row * c->to.row;
        if (c->from.data == NULL) {
            for (int64_t x = 0; x < c->columns; x++) {
                memset(to + x * c->to.pixel, 0, (size_t)inner * sizeof(float));
            }
            continue;
        }
        const float *from =
            c->from.data + image * c->from.image + block * c->from.block + row * c->from.row;
        if (inner == 1) {
            for (int64_t x = 0; x < c->columns; x++) {
                to[x * c->to.pixel] = from[x * c->from.pixel];
            }
            continue;
        }
        for (int64_t x = 0; x < c->columns; x++) {
            memcpy(to + x * c->to.pixel, from + x * c->from.pixel, (size_t)inner * sizeof(float));
        }
    }
}

static void copy_pixels(const doconv_context *ctx, struct copy *c)
{
    c->tasks = (int)least(ctx->threads, c->images * c->to.blocks * c->rows);
    dc_parallel(ctx, c->tasks, copy_task, c);
}

static doconv_status plan_class(doconv_context *ctx, const struct dc_problem *p,
                                const doconv_plan_options *options, struct gradient_class *c)
{
    const doconv_conv_desc *forward = &p->desc;
    doconv_conv_desc d;
    doconv_conv_desc_init(&d);
    d.n = forward->n;
    d.cin = forward->cout;
    d.cout = forward->cin;
    d.groups = forward->groups;
    d.h = c->y.size;
    d.w = c->x.size;
    d.kh = c->y.taps;
    d.kw = c->x.taps;
    d.dilation_h = c->y.dilation;
    d.dilation_w = c->x.dilation;
    d.pad_top = c->y.pad_before;
    d.pad_bottom = c->y.pad_after;
    d.pad_left = c->x.pad_before;
    d.pad_right = c->x.pad_after;
    d.src_layout = forward->dst_layout;
    d.dst_layout = forward->src_layout;
    d.accuracy = forward->accuracy;
    c->crop = c->y.size != p->hout || c->x.size != p->wout;
    struct dc_problem problem;
    doconv_status status = dc_plan_problem(ctx, &d, options, &problem);
    if (status == DOCONV_OK) {
        problem.threads = p->threads;
        problem.fresh_weights = true;
        status = dc_plan_create(ctx, &problem, options, &c->plan);
    }
    return status;
}

static void grow(size_t *size, size_t needed)
{
    *size = needed > *size ? needed : *size;
}

/* Room for a tensor and to align what follows it. */
static size_t tensor_size(doconv_layout layout, int64_t n, int64_t c, int64_t h, int64_t w)
{
    size_t bytes = 0;
    /* can't fail: a part of a tensor that is none too large */
    doconv_tensor_bytes(layout, n, c, h, w, &bytes);
    return align_bytes(bytes);
}

/* Class (y, x), its plan and the workspace that it needs. */
static doconv_status add_class(struct dc_input_gradient *g, int64_t y, int64_t x, bool only,
                               const doconv_plan_options *options)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    struct gradient_class *c = &g->items[g->classes];
    *c = (struct gradient_class){
        .y = axis_class((y + d->pad_top) % d->stride_h, d->h, d->pad_top, d->stride_h,
                        d->dilation_h, d->kh, p->hout),
        .x = axis_class((x + d->pad_left) % d->stride_w, d->w, d->pad_left, d->stride_w,
                        d->dilation_w, d->kw, p->wout),
    };
    if (c->y.size > 0 && c->x.size > 0) {
        const doconv_status status = plan_class(g->ctx, p, options, c);
        if (status != DOCONV_OK) {
            return status;
        }
        grow(&g->plan_size, c->plan->workspace_size);
        if (c->crop) {
            grow(&g->crop_size, tensor_size(d->dst_layout, d->n, d->cout, c->y.size, c->x.size));
        }
        if (!only) {
            grow(&g->class_size, tensor_size(d->src_layout, d->n, d->cin, c->y.count, c->x.count));
        }
    }
    g->classes++;
    return DOCONV_OK;
}

doconv_status dc_input_gradient_create(doconv_context *ctx, const struct dc_problem *problem,
                                       const doconv_plan_options *options,
                                       struct dc_input_gradient **gradient)
{
    const doconv_conv_desc *d = &problem->desc;
    *gradient = NULL;
    /*
     * Strides past the kernel have classes without taps: one is enough, for zeros are written where
     * the image is larger than its classes.
     */
    const int64_t ys = least(d->stride_h, d->h), xs = least(d->stride_w, d->w);
    if (ys * xs > 1 << 20) {
        return dc_fail(ctx, DOCONV_UNSUPPORTED,
                       "stride_h, stride_w: %lld, %lld are too large to train with",
                       (long long)d->stride_h, (long long)d->stride_w);
    }
    struct dc_input_gradient *g = dc_alloc(ctx, sizeof *g + (size_t)(ys * xs) * sizeof *g->items);
    if (g == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "training: out of memory");
    }
    *g = (struct dc_input_gradient){.ctx = ctx, .problem = *problem, .in_place = ys * xs == 1};
    for (int64_t i = 0; i < ys * xs; i++) {
        const doconv_status status = add_class(g, i / xs, i % xs, g->in_place, options);
        if (status != DOCONV_OK) {
            dc_input_gradient_destroy(g);
            return status;
        }
    }
    *gradient = g;
    return DOCONV_OK;
}

const doconv_plan *dc_input_gradient_plan(const struct dc_input_gradient *g, int index)
{
    int found = 0;
    for (int i = 0; i < g->classes; i++) {
        if (g->items[i].plan != NULL && found++ == index) {
            return g->items[i].plan;
        }
    }
    return NULL;
}

void dc_input_gradient_destroy(struct dc_input_gradient *gradient)
{
    if (gradient != NULL) {
        for (int i = 0; i < gradient->classes; i++) {
            doconv_plan_destroy(gradient->items[i].plan);
        }
        dc_free(gradient->ctx, gradient);
    }
}

size_t dc_input_gradient_workspace_size(const struct dc_input_gradient *g)
{
    return g->plan_size + g->crop_size + g->class_size;
}

/* A class's gradient by its convolution, which may read a copy of a part of grad_dst. */
static void run_class(const struct dc_input_gradient *g, const struct gradient_class *c,
                      const float *weight, const float *grad_dst, float *dst, char *workspace)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    char *const crop_space = workspace + g->plan_size;
    const struct dc_weight_source source = {.view = exchanged(p, c, weight)};
    struct dc_tensors tensors = {.src = grad_dst, .fresh = &source, .dst = dst};
    if (c->crop) {
        struct copy in = {
            .from = view_of(d->dst_layout, (float *)grad_dst, d->cout, p->hout, p->wout),
            .to = view_of(d->dst_layout, (float *)crop_space, d->cout, c->y.size, c->x.size),
            .images = d->n,
            .rows = c->y.size,
            .columns = c->x.size,
        };
        in.from.data += c->y.begin * in.from.row + c->x.begin * in.from.pixel;
        copy_pixels(g->ctx, &in);
        tensors.src = (const float *)crop_space;
    }
    dc_plan_run(c->plan, &tensors, workspace);
}

void dc_input_gradient_run(const struct dc_input_gradient *g, const float *weight,
                           const float *grad_dst, float *grad_src, char *workspace)
{
    const doconv_conv_desc *d = &g->problem.desc;
    float *const class_space = (float *)(workspace + g->plan_size + g->crop_size);
    const struct view whole = view_of(d->src_layout, grad_src, d->cin, d->h, d->w);
    for (int i = 0; i < g->classes; i++) {
        const struct gradient_class *c = &g->items[i];
        /* The class's inputs in the gradient. */
        struct copy out = {.to = whole, .images = d->n, .rows = c->y.count, .columns = c->x.count};
        out.to.data += c->y.first * whole.row + c->x.first * whole.pixel;
        out.to.row *= d->stride_h;
        out.to.pixel *= d->stride_w;
        if (c->plan != NULL) {
            run_class(g, c, weight, grad_dst, g->in_place ? grad_src : class_space, workspace);
            out.from = view_of(d->src_layout, class_space, d->cin, c->y.count, c->x.count);
        }
        if (c->plan == NULL || !g->in_place) {
            copy_pixels(g->ctx, &out);
        }
    }
}
