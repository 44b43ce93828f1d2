/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's input by classes: inputs whose coordinates (padding included)
 * have the same residues modulo the strides. Each class is a convolution of the output's gradient
 * with stride 1 by its taps, flipped, with input and output channels exchanged, so every kernel of
 * the forward pass serves here too. (The transposed convolution of Dumoulin and Visin, arXiv
 * 1603.07285, without its zeros.) Classes differ in which taps they have, but hardly in how many:
 * those that are convolutions of the same shape share a plan.
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
#include "train/input_ways.h"

/*
 * Without dilation an axis has at most four shapes: the number of taps, the first input and the
 * last change once each as residues rise. With dilation any residue may have its own.
 */
#define MOST_PLANS 32
#define MOST_CLASSES 65536

/* The convolution of a class along one axis. */
struct axis_shape {
    int64_t taps, dilation;
    int64_t size; /* rows of the output's gradient that it reads */
    int64_t pad_before, pad_after;
};

/* A class along one axis. */
struct axis_class {
    int shape;                /* -1: no output reads its inputs */
    int64_t first_tap, begin; /* of the forward kernel; of the output's gradient */
    int64_t first, count;     /* inputs first, first + stride, ... */
};

struct class_axis {
    int64_t count; /* classes */
    struct axis_class *classes;
    int64_t tap_step; /* of the forward kernel, from a tap of a class to its next */
    int shapes;
    struct axis_shape shape[MOST_PLANS];
};

struct dc_input_classes {
    doconv_context *ctx;
    struct dc_problem problem;               /* the forward one */
    bool in_place;                           /* one class, which writes the gradient itself */
    size_t plan_size, crop_size, class_size; /* of the workspace's parts */
    struct class_axis y, x;
    doconv_plan *plans[MOST_PLANS]; /* [shape of y][shape of x] */
};

/* ---- classes along an axis ---- */

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

/* The number in [0, modulus) that makes 1 of `value`, which has no divisor in common with it. */
static int64_t inverse(int64_t value, int64_t modulus)
{
    int64_t a = value % modulus, b = modulus, x = 1, y = 0;
    while (a > 1) {
        const int64_t quotient = b / a, rest = b % a, next = y - quotient * x;
        b = a;
        a = rest;
        y = x;
        x = next;
    }
    return modulus == 1 ? 0 : (x % modulus + modulus) % modulus;
}

/* The index of a shape that is there or new; MOST_PLANS: there are too many. */
static int shape_index(struct class_axis *axis, const struct axis_shape *shape)
{
    int i = 0;
    while (i < axis->shapes && memcmp(&axis->shape[i], shape, sizeof *shape) != 0) {
        i++;
    }
    if (i == axis->shapes && i < MOST_PLANS) {
        axis->shape[axis->shapes++] = *shape;
    }
    return i;
}

/*
 * Inputs y with (y + pad) % stride = residue: y + pad = p * stride + k * dilation for an output p
 * and a tap k. With y + pad = residue + stride * u, k = first_tap + j * tap_step: p = u + (residue
 * - first_tap * dilation) / stride - j * (dilation / divisor). unit: of the tap whose distance from
 * the first is `divisor`, modulo the stride. False: there are too many shapes.
 */
static bool add_class(struct class_axis *axis, const struct dc_axis *a, int64_t divisor,
                      int64_t unit, int64_t residue)
{
    /* The first u whose y is not negative, and the last that is inside. */
    const int64_t first = -divide_down(residue - a->pad, a->stride),
                  last = divide_down(a->size - 1 + a->pad - residue, a->stride);
    struct axis_class c = {
        .shape = -1,
        .first_tap = residue / divisor * unit % axis->tap_step,
        .first = residue + a->stride * first - a->pad,
        .count = most(0, last - first + 1),
    };
    struct axis_shape s = {.dilation = a->dilation / divisor};
    if (residue % divisor == 0 && c.first_tap < a->kernel && c.count > 0) {
        s.taps = (a->kernel - 1 - c.first_tap) / axis->tap_step + 1;
        /*
         * The output rows that the first and the last input of the class read, from their first
         * tap's to their last's; j falls as rows rise.
         */
        const int64_t shift = (residue - c.first_tap * a->dilation) / a->stride,
                      reach = (s.taps - 1) * s.dilation;
        const int64_t low = first + shift - reach, high = first + c.count - 1 + shift;
        c.begin = most(0, low);
        s.size = most(0, least(a->out - 1, high) - c.begin + 1);
        s.pad_before = c.begin - low;
        s.pad_after = high - (c.begin + s.size - 1);
    }
    if (s.size > 0) {
        c.shape = shape_index(axis, &s);
    }
    axis->classes[axis->count++] = c;
    return c.shape < MOST_PLANS;
}

static bool add_classes(struct class_axis *axis, const struct dc_axis *a, int64_t count)
{
    const int64_t divisor = common_divisor(a->stride, a->dilation);
    axis->tap_step = a->stride / divisor;
    const int64_t unit = inverse(a->dilation / divisor, axis->tap_step);
    bool few = true;
    for (int64_t i = 0; i < count && few; i++) {
        few = add_class(axis, a, divisor, unit, (i + a->pad) % a->stride);
    }
    return few;
}

/* ---- plans ---- */

/* The plan of a pair of shapes, and the workspace that its classes need. */
static doconv_status plan_shape(struct dc_input_classes *g, int y, int x,
                                const doconv_plan_options *options)
{
    const struct dc_problem *p = &g->problem;
    const struct axis_shape *ys = &g->y.shape[y], *xs = &g->x.shape[x];
    doconv_conv_desc d = dc_input_convolution(p);
    d.h = ys->size;
    d.w = xs->size;
    d.kh = ys->taps;
    d.kw = xs->taps;
    d.dilation_h = ys->dilation;
    d.dilation_w = xs->dilation;
    d.pad_top = ys->pad_before;
    d.pad_bottom = ys->pad_after;
    d.pad_left = xs->pad_before;
    d.pad_right = xs->pad_after;
    doconv_plan **const plan = &g->plans[y * g->x.shapes + x];
    const doconv_status status = dc_input_plan(g->ctx, p, options, &d, plan);
    if (status != DOCONV_OK) {
        return status;
    }
    g->plan_size = most_bytes(g->plan_size, (*plan)->workspace_size);
    if (d.h != p->hout || d.w != p->wout) {
        const size_t crop = dc_room_for(d.src_layout, d.n, d.cin, d.h, d.w);
        g->crop_size = most_bytes(g->crop_size, crop);
    }
    if (!g->in_place) {
        const struct dc_problem *own = &(*plan)->problem;
        const size_t room = dc_room_for(d.dst_layout, d.n, d.cout, own->hout, own->wout);
        g->class_size = most_bytes(g->class_size, room);
    }
    return DOCONV_OK;
}

doconv_status dc_input_classes_create(doconv_context *ctx, const struct dc_problem *problem,
                                      const doconv_plan_options *options,
                                      struct dc_input_classes **classes)
{
    const doconv_conv_desc *d = &problem->desc;
    const struct dc_axis rows = dc_rows_axis(problem), columns = dc_columns_axis(problem);
    *classes = NULL;
    /* Strides past the image have classes without inputs. */
    const int64_t ys = least(d->stride_h, d->h), xs = least(d->stride_w, d->w);
    if (ys > MOST_CLASSES / xs) {
        return DOCONV_OK;
    }
    struct dc_input_classes *g =
        dc_alloc(ctx, sizeof *g + (size_t)(ys + xs) * sizeof *g->y.classes);
    if (g == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "training: out of memory");
    }
    *g = (struct dc_input_classes){.ctx = ctx, .problem = *problem, .in_place = ys * xs == 1};
    g->y.classes = (struct axis_class *)(g + 1);
    g->x.classes = g->y.classes + ys;
    if (!add_classes(&g->y, &rows, ys) || !add_classes(&g->x, &columns, xs) ||
        g->y.shapes * g->x.shapes > MOST_PLANS) {
        dc_free(ctx, g);
        return DOCONV_OK;
    }
    for (int i = 0; i < g->y.shapes * g->x.shapes; i++) {
        const doconv_status status = plan_shape(g, i / g->x.shapes, i % g->x.shapes, options);
        if (status != DOCONV_OK) {
            dc_input_classes_destroy(g);
            return status;
        }
    }
    *classes = g;
    return DOCONV_OK;
}

const doconv_plan *dc_input_classes_plan(const struct dc_input_classes *g, int index)
{
    return index < g->y.shapes * g->x.shapes ? g->plans[index] : NULL;
}

void dc_input_classes_destroy(struct dc_input_classes *g)
{
    if (g != NULL) {
        for (int i = 0; i < MOST_PLANS; i++) {
            doconv_plan_destroy(g->plans[i]);
        }
        dc_free(g->ctx, g);
    }
}

size_t dc_input_classes_workspace_size(const struct dc_input_classes *g)
{
    return g->plan_size + g->crop_size + g->class_size;
}

/* ---- execution ---- */

struct copy {
    struct dc_pixels from, to; /* from.data NULL: zeros */
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

/* The forward taps of a class, last one first, with inputs and outputs exchanged. */
static struct dc_weight_view exchanged(const struct dc_input_classes *g, const struct axis_class *y,
                                       const struct axis_class *x, const float *weight)
{
    const struct dc_weight_view forward = dc_weight_view(&g->problem, weight);
    const int64_t ky = y->first_tap + (g->y.shape[y->shape].taps - 1) * g->y.tap_step,
                  kx = x->first_tap + (g->x.shape[x->shape].taps - 1) * g->x.tap_step;
    return (struct dc_weight_view){
        .data = weight + ky * forward.row + kx,
        .group = forward.group,
        .out = forward.in,
        .in = forward.out,
        .row = -g->y.tap_step * forward.row,
        .column = -g->x.tap_step,
    };
}

/* A class's gradient by its convolution, which may read a copy of a part of grad_dst. */
static void run_class(const struct dc_input_classes *g, const struct axis_class *y,
                      const struct axis_class *x, const float *weight, const float *grad_dst,
                      float *dst, char *workspace)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const doconv_plan *plan = g->plans[y->shape * g->x.shapes + x->shape];
    const int64_t h = plan->problem.desc.h, w = plan->problem.desc.w;
    const struct dc_weight_source source = {.view = exchanged(g, y, x, weight)};
    struct dc_tensors tensors = {.src = grad_dst, .fresh = &source, .dst = dst};
    if (h != p->hout || w != p->wout) {
        float *const part = (float *)(workspace + g->plan_size);
        struct copy in = {
            .from = dc_pixels_of(d->dst_layout, (float *)grad_dst, d->cout, p->hout, p->wout),
            .to = dc_pixels_of(d->dst_layout, part, d->cout, h, w),
            .images = d->n,
            .rows = h,
            .columns = w,
        };
        in.from.data += y->begin * in.from.row + x->begin * in.from.pixel;
        copy_pixels(g->ctx, &in);
        tensors.src = part;
    }
    dc_plan_run(plan, &tensors, workspace);
}

double dc_input_classes_estimate(const struct dc_input_classes *g)
{
    double seconds = 0.0;
    for (int64_t i = 0; i < g->y.count * g->x.count; i++) {
        const int y = g->y.classes[i / g->x.count].shape, x = g->x.classes[i % g->x.count].shape;
        seconds +=
            y < 0 || x < 0 ? 0.0 : g->plans[y * g->x.shapes + x]->candidate.estimated_seconds;
    }
    return seconds;
}

void dc_input_classes_run(const struct dc_input_classes *g, const float *weight,
                          const float *grad_dst, float *grad_src, char *workspace)
{
    const doconv_conv_desc *d = &g->problem.desc;
    float *const class_space = (float *)(workspace + g->plan_size + g->crop_size);
    const struct dc_pixels whole = dc_pixels_of(d->src_layout, grad_src, d->cin, d->h, d->w);
    for (int64_t i = 0; i < g->y.count * g->x.count; i++) {
        const struct axis_class *y = &g->y.classes[i / g->x.count],
                                *x = &g->x.classes[i % g->x.count];
        /* The class's inputs in the gradient. */
        struct copy out = {.to = whole, .images = d->n, .rows = y->count, .columns = x->count};
        out.to.data += y->first * whole.row + x->first * whole.pixel;
        out.to.row *= d->stride_h;
        out.to.pixel *= d->stride_w;
        const bool zero = y->shape < 0 || x->shape < 0;
        if (!zero) {
            run_class(g, y, x, weight, grad_dst, g->in_place ? grad_src : class_space, workspace);
            out.from = dc_pixels_of(d->src_layout, class_space, d->cin, y->count, x->count);
        }
        if (zero || !g->in_place) {
            copy_pixels(g->ctx, &out);
        }
    }
}
