/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's input in depthwise layers and narrow groups, where no input is
 * read twice. Each tap is a 1x1 convolution of the output's gradient, with channels exchanged,
 * whose results lie a stride apart: kernels of groups write them to their places at once, those of
 * depthwise layers a row of taps together. A unit of work is one vector of input channels, or a few
 * side by side, over a few rows of outputs and all rows of inputs that belong to these, which so
 * stay near from tap to tap.
 */
#include <math.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/layout.h"
#include "base/log.h"
#include "base/registry.h"
#include "geometry/strips.h"
#include "geometry/tap_ranges.h"
#include "kernel.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "train/input_ways.h"

/*
 * Floats of the inputs of a unit, if one row of outputs has no more: of what the kernel writes to
 * its place, a part of L2; of what is stored again, half of the smallest L1.
 */
#define UNIT_FLOATS 16384
#define STORED_FLOATS 4096
/* Where it has more than these, or the kernel is longer, others are as good. */
#define MOST_ROW_FLOATS 65536
#define MOST_TAPS 256
/* Channels that a unit takes where they lie side by side: what a tile costs is paid once. */
#define CHANNELS_TOGETHER 64

/* Outputs [begin, end) that read an input inside the image by a tap, the first of them `first`. */
struct reach {
    int64_t begin, end, first;
};

struct dc_input_spread {
    doconv_context *ctx;
    struct dc_problem problem; /* the forward one */
    struct dc_problem tap;     /* the convolution of a tap: counts of channels and groups alone */
    const struct dc_kernel *kernel;
    struct dc_tensor_map grad_map, src_map;
    int64_t vectors, together;        /* of input channels; of those, in a unit at most */
    int64_t rows, row_blocks;         /* of outputs, in a unit; units of an image's vector */
    int64_t gaps;                     /* columns that no output reads */
    int64_t vector_floats;            /* weights of a tap for a vector */
    int64_t strip_floats, sum_floats; /* a unit's copy of the output's gradient; its results */
    int tasks;
    struct reach *y, *x; /* [kh], [kw]; then of all columns at once */
    int32_t *gap;        /* [gaps] */
    int32_t *lanes;
};

/* The convolution of a tap, as far as channels go. */
static struct dc_problem exchanged(const struct dc_problem *p)
{
    struct dc_problem tap = {.group_cin = p->group_cout, .group_cout = p->group_cin};
    tap.desc.cin = p->desc.cout;
    tap.desc.cout = p->desc.cin;
    tap.desc.groups = p->desc.groups;
    tap.desc.dst_layout = p->desc.src_layout;
    return tap;
}

/*
 * The kernel that does a tap, of the best ISA that has one; or NULL. Its vectors are no wider than
 * blocks of src, which it else would store again: several times as slow as narrower vectors.
 */
static const struct dc_kernel *find_kernel(const doconv_context *ctx, const struct dc_problem *tap)
{
    const bool depthwise = tap->group_cin == 1 && tap->group_cout == 1;
    const enum dc_family family = depthwise ? DC_FAMILY_DEPTHWISE : DC_FAMILY_GROUPED;
    const int64_t block = dc_layout_block(tap->desc.dst_layout);
    for (int isa = (int)ctx->isa; isa > DC_ISA_NONE; isa--) {
        const struct dc_kernel *kernel = dc_kernel_next(ctx, family, (enum dc_isa)isa, NULL);
        if (kernel != NULL && (depthwise || dc_groups_fit_vector(tap, kernel->vector)) &&
            (block == 1 || kernel->vector <= block)) {
            return kernel;
        }
    }
    return NULL;
}

static bool reads_once(const struct dc_axis *a)
{
    return (a->kernel - 1) * a->dilation < a->stride;
}

bool dc_input_spread_suits(const doconv_context *ctx, const struct dc_problem *p)
{
    const doconv_conv_desc *d = &p->desc;
    const struct dc_axis rows = dc_rows_axis(p), columns = dc_columns_axis(p);
    const struct dc_problem tap = exchanged(p);
    if (d->groups == 1 || (d->stride_h == 1 && d->stride_w == 1) || !reads_once(&rows) ||
        !reads_once(&columns) || d->kh > MOST_TAPS || d->kw > MOST_TAPS) {
        return false;
    }
    const struct dc_kernel *kernel = find_kernel(ctx, &tap);
    return kernel != NULL &&
           (double)least(d->stride_h, d->h) * (double)most(d->w, p->wout) * kernel->vector <=
               MOST_ROW_FLOATS;
}

/* ---- places ---- */

/* The first input of a block of outputs that begins at `output`; past the last: where all end. */
static int64_t first_input(const struct dc_axis *a, int64_t output)
{
    return output == 0        ? 0
           : output >= a->out ? a->size
                              : least(a->size, most(0, output * a->stride - a->pad));
}

/* Does any output read an input? */
static bool is_read(const struct dc_axis *a, int64_t input)
{
    const int64_t place = input + a->pad, rest = place % a->stride;
    return place / a->stride < a->out && rest % a->dilation == 0 && rest / a->dilation < a->kernel;
}

static void find_reach(const struct dc_axis *a, struct reach *reach)
{
    for (int64_t k = 0; k < a->kernel; k++) {
        const int64_t offset = k * a->dilation - a->pad;
        dc_outputs_inside(a->size, a->stride, offset, a->out, &reach[k].begin, &reach[k].end);
        reach[k].first = reach[k].begin * a->stride + offset;
    }
}

/*
 * Can the kernel write a vector of channels where they belong? Depthwise ones write all lanes as
 * they are, those past the last channel too.
 */
static bool stores_directly(const struct dc_input_spread *g, int64_t channel, int64_t stored)
{
    const struct dc_tensor_map *map = &g->src_map;
    const int64_t vector = g->kernel->vector;
    return map->channel == 1 &&
           (g->kernel->family == DC_FAMILY_DEPTHWISE
                ? stored == vector && channel + vector <= g->tap.desc.cout
                : stored <= vector) &&
           channel % map->block_channels + stored <= map->block_channels;
}

static bool reads_in_place(const struct dc_input_spread *g, int64_t channel)
{
    return dc_vector_in_place(&g->grad_map, g->tap.desc.cin, g->kernel->vector,
                              dc_first_input(&g->tap, channel));
}

/* Vectors from v on that a unit takes: several are whole ones in pixels without blocks. */
static int64_t vectors_of(const struct dc_input_spread *g, int64_t v)
{
    const int64_t vector = g->kernel->vector;
    int64_t count = least(g->together, g->vectors - v);
    while (count > 1 && ((v + count) * vector > g->tap.desc.cout ||
                         !reads_in_place(g, (v + count - 1) * vector))) {
        count--;
    }
    return count;
}

static void cut(struct dc_input_spread *g)
{
    const doconv_conv_desc *d = &g->problem.desc;
    const int64_t vector = g->kernel->vector, row = least(d->stride_h, d->h) * d->w;
    const bool beside = d->src_layout == DOCONV_NHWC && d->dst_layout == DOCONV_NHWC &&
                        vector % g->tap.group_cout == 0;
    g->vectors = divide_up(d->cin, vector);
    g->together = beside ? CHANNELS_TOGETHER / vector : 1;
    const int64_t floats = g->src_map.channel == 1 ? UNIT_FLOATS : STORED_FLOATS;
    g->rows = most(1, least(g->problem.hout, floats / (row * vector * g->together)));
    g->row_blocks = divide_up(g->problem.hout, g->rows);
    g->vector_floats = align_floats(g->tap.group_cin * vector);
    /* The first block and the last also have what lies before and past all outputs. */
    const struct dc_axis axis = dc_rows_axis(&g->problem);
    int64_t inputs = 0;
    for (int64_t b = 0; b < g->row_blocks; b++) {
        inputs = most(inputs, first_input(&axis, least(axis.out, (b + 1) * g->rows)) -
                                  first_input(&axis, b * g->rows));
    }
    g->strip_floats = align_floats(g->rows * g->problem.wout * vector);
    g->sum_floats = align_floats((inputs * d->w + DC_TILE_SLACK) * vector);
    g->tasks =
        (int)least(g->problem.threads, d->n * g->row_blocks * divide_up(g->vectors, g->together));
}

doconv_status dc_input_spread_create(doconv_context *ctx, const struct dc_problem *problem,
                                     struct dc_input_spread **spread)
{
    const doconv_conv_desc *d = &problem->desc;
    const struct dc_axis rows = dc_rows_axis(problem), columns = dc_columns_axis(problem);
    const struct dc_problem tap = exchanged(problem);
    const struct dc_kernel *kernel = find_kernel(ctx, &tap);
    struct dc_input_spread *g =
        dc_alloc(ctx, sizeof *g + (size_t)(d->kh + d->kw + 1) * sizeof *g->y +
                          (size_t)(d->w + tap.group_cin * kernel->vector) * sizeof *g->gap);
    if (g == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "training: out of memory");
    }
    *g = (struct dc_input_spread){
        .ctx = ctx,
        .problem = *problem,
        .tap = tap,
        .kernel = kernel,
        .grad_map = dc_tensor_map(d->dst_layout, d->cout, problem->hout, problem->wout),
        .src_map = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
        .y = (struct reach *)(g + 1),
    };
    g->x = g->y + d->kh;
    g->lanes = (int32_t *)(g->x + d->kw + 1);
    g->gap = g->lanes + tap.group_cin * kernel->vector;
    find_reach(&rows, g->y);
    find_reach(&columns, g->x);
    struct reach *const all = &g->x[d->kw];
    *all = g->x[0];
    for (int64_t k = 1; k < d->kw; k++) {
        all->begin = most(all->begin, g->x[k].begin);
        all->end = least(all->end, g->x[k].end);
    }
    all->end = most(all->begin, all->end);
    dc_group_lanes(&tap, kernel->vector, g->lanes);
    for (int64_t x = 0; x < d->w; x++) {
        if (!is_read(&columns, x)) {
            g->gap[g->gaps++] = (int32_t)x;
        }
    }
    cut(g);
    *spread = g;
    return DOCONV_OK;
}

void dc_input_spread_destroy(struct dc_input_spread *g)
{
    if (g != NULL) {
        dc_free(g->ctx, g);
    }
}

static int64_t weight_floats(const struct dc_input_spread *g)
{
    return g->problem.desc.kh * g->problem.desc.kw * g->vectors * g->vector_floats;
}

/* Weights, zeros for a bias, and the tasks' own. */
size_t dc_input_spread_workspace_size(const struct dc_input_spread *g)
{
    return (size_t)(weight_floats(g) + CHANNELS_TOGETHER +
                    g->tasks * (g->strip_floats + g->sum_floats)) *
           sizeof(float);
}

/* ---- execution ---- */

struct job {
    const struct dc_input_spread *g;
    const float *weight, *grad_dst;
    float *grad_src;
    float *packed, *zeros, *space;
    int tasks;
};

/* Weights of a vector of input channels: [tap][vector][output of the group][lane]. */
static void pack_vector(const struct job *job, int64_t v)
{
    const struct dc_input_spread *g = job->g;
    const struct dc_problem *p = &g->problem;
    const int64_t vector = g->kernel->vector, taps = p->desc.kh * p->desc.kw;
    const struct dc_weight_view view = dc_weight_view(p, job->weight);
    for (int64_t tap = 0; tap < taps; tap++) {
        float *const to = job->packed + (tap * g->vectors + v) * g->vector_floats;
        for (int64_t o = 0; o < p->group_cout; o++) {
            for (int64_t lane = 0; lane < vector; lane++) {
                const int64_t c = v * vector + lane;
                to[o * vector + lane] =
                    c < p->desc.cin ? view.data[c / p->group_cin * view.group + o * view.out +
                                                c % p->group_cin * view.in + tap]
                                    : 0.0f;
            }
        }
    }
}

static void pack_task(void *arg, int index)
{
    const struct job *job = arg;
    const int64_t vectors = job->g->vectors;
    for (int64_t v = vectors * index / job->tasks; v < vectors * (index + 1) / job->tasks; v++) {
        pack_vector(job, v);
    }
}

/* Where a unit writes, and what: `channels` floats of each of its pixels. */
struct target {
    float *data; /* of its first row */
    ptrdiff_t row, pixel;
    int64_t first, end; /* rows */
    int64_t channels;
};

static void clear(float *to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        to[i] = 0.0f;
    }
}

/* Zeros for the inputs that no output reads. */
static void clear_gaps(const struct dc_input_spread *g, const struct target *t)
{
    const struct dc_axis axis = dc_rows_axis(&g->problem);
    const int64_t w = g->problem.desc.w;
    /* Where all rows are read, but those past the last output, and all columns. */
    const int64_t all =
        g->gaps == 0 && axis.kernel == axis.stride ? axis.out * axis.stride - axis.pad : 0;
    for (int64_t y = most(t->first, all); y < t->end; y++) {
        float *const row = t->data + (y - t->first) * t->row;
        const bool read = is_read(&axis, y);
        if (!read && t->channels == t->pixel) {
            memset(row, 0, (size_t)(w * t->pixel) * sizeof *row);
            continue;
        }
        for (int64_t i = 0; i < (read ? g->gaps : w); i++) {
            clear(row + (read ? g->gap[i] : i) * t->pixel, t->channels);
        }
    }
}

/* Where outputs [begin, end) of a unit hand back to by the taps of a kernel row. */
struct row_taps {
    int64_t skipped, rows; /* outputs whose inputs lie outside the image before, and inside */
    float *data;           /* the row of inputs that the first of these reads */
    const float *packed;   /* the weights of the first tap */
};

/* Columns [begin, end) of the outputs, by taps [kx, kx + taps) of a row, depthwise. */
static void spread_columns(const struct dc_input_spread *g, const struct target *t,
                           const struct row_taps *row, const struct dc_grouped_args *args,
                           int64_t kx, int64_t taps, int64_t begin, int64_t end)
{
    const doconv_conv_desc *d = &g->problem.desc;
    if (begin >= end) {
        return;
    }
    ptrdiff_t taps_at[MOST_TAPS];
    for (int64_t k = 0; k < taps; k++) {
        taps_at[k] = k * d->dilation_w * t->pixel;
    }
    const int64_t column = begin * d->stride_w + kx * d->dilation_w - d->pad_left;
    for (int64_t v = 0; v < args->vectors; v++) {
        g->kernel->grouped.taps_spread(&(struct dc_spread_args){
            .z = args->src + row->skipped * args->src_row + begin * args->src_pixel +
                 v * args->src_vector,
            .z_row = args->src_row,
            .z_pixel = args->src_pixel,
            .x = row->data + column * t->pixel + v * args->dst_vector,
            .taps_at = taps_at,
            .x_row = args->dst_row,
            .x_pixel = args->dst_pixel,
            .factors = row->packed + kx * g->vectors * g->vector_floats + v * g->vector_floats,
            .factors_step = g->vectors * g->vector_floats,
            .taps = taps,
            .rows = row->rows,
            .pixels = end - begin,
        });
    }
}

/* The outputs that have all taps of a row inside the image at once, then those at the borders. */
static void spread_row(const struct dc_input_spread *g, const struct target *t,
                       const struct row_taps *row, const struct dc_grouped_args *args)
{
    const int64_t kw = g->problem.desc.kw, begin = g->x[kw].begin, end = g->x[kw].end;
    spread_columns(g, t, row, args, 0, kw, begin, end);
    for (int64_t kx = 0; kx < kw; kx++) {
        const struct reach *const x = &g->x[kx];
        spread_columns(g, t, row, args, kx, 1, x->begin, least(x->end, begin));
        spread_columns(g, t, row, args, kx, 1, most(x->begin, end), x->end);
    }
}

/* A tap at a time, in groups. */
static void convolve_row(const struct dc_input_spread *g, const struct target *t,
                         const struct row_taps *row, const struct dc_grouped_args *shared)
{
    for (int64_t kx = 0; kx < g->problem.desc.kw; kx++) {
        const struct reach *const x = &g->x[kx];
        if (x->begin >= x->end) {
            continue;
        }
        struct dc_grouped_args args = *shared;
        args.src += row->skipped * args.src_row + x->begin * args.src_pixel;
        args.h = args.y1 = row->rows;
        args.w = args.wout = x->end - x->begin;
        args.weights = row->packed + kx * g->vectors * g->vector_floats;
        args.dst = row->data + x->first * t->pixel;
        g->kernel->grouped.run(&args);
    }
}

/* All taps of outputs [begin, end), of which args has the gradient, to their places. */
static void run_taps(const struct dc_input_spread *g, int64_t begin, int64_t end,
                     const struct target *t, const float *packed,
                     const struct dc_grouped_args *args)
{
    const doconv_conv_desc *d = &g->problem.desc;
    for (int64_t ky = 0; ky < d->kh; ky++) {
        const struct reach *const y = &g->y[ky];
        const int64_t first = most(begin, y->begin), rows = least(end, y->end) - first;
        if (rows <= 0) {
            continue;
        }
        const struct row_taps row = {
            .skipped = first - begin,
            .rows = rows,
            .data = t->data + (y->first + (first - y->begin) * d->stride_h - t->first) * t->row,
            .packed = packed + ky * d->kw * g->vectors * g->vector_floats,
        };
        if (g->kernel->family == DC_FAMILY_DEPTHWISE) {
            spread_row(g, t, &row, args);
        } else {
            convolve_row(g, t, &row, args);
        }
    }
}

/* The gradient of outputs [begin, end) of an image, in place or in a strip. */
static void find_grad(const struct job *job, int64_t image, int64_t channel, int64_t begin,
                      int64_t end, float *strip, struct dc_grouped_args *args)
{
    const struct dc_input_spread *g = job->g;
    const struct dc_problem *p = &g->problem;
    const int64_t vector = g->kernel->vector, first = dc_first_input(&g->tap, channel);
    const float *const grad = job->grad_dst + image * g->grad_map.image;
    if (reads_in_place(g, channel)) {
        args->src = grad + channel_at(&g->grad_map, first) + begin * g->grad_map.row;
        args->src_row = g->grad_map.row;
        args->src_pixel = g->grad_map.pixel;
        return;
    }
    struct dc_load_args load = dc_load_from(
        &g->grad_map, grad, first, dc_inputs_seen(&g->tap, vector, channel), p->hout, p->wout);
    load.strip = strip;
    load.strip_row = p->wout * vector;
    load.strip_pixel = vector;
    load.rows = end - begin;
    load.columns = p->wout;
    load.y0 = begin;
    g->kernel->grouped.load(&load);
    args->src = strip;
    args->src_row = load.strip_row;
    args->src_pixel = vector;
}

/* Vectors [v, v + count) of the inputs of a block of output rows of an image. */
static void run_unit(const struct job *job, int64_t image, int64_t block, int64_t v, int64_t count,
                     float *strip)
{
    const struct dc_input_spread *g = job->g;
    const struct dc_problem *p = &g->problem;
    const struct dc_axis axis = dc_rows_axis(p);
    const int64_t vector = g->kernel->vector, channel = v * vector,
                  channels = least(vector, p->desc.cin - channel),
                  stored = dc_channels_stored(dc_layout_block(p->desc.src_layout), channel,
                                              channels, p->desc.cin);
    const int64_t begin = block * g->rows, end = least(p->hout, begin + g->rows);
    const bool direct = stores_directly(g, channel, stored);
    float *const to = job->grad_src + image * g->src_map.image, *const sums =
                                                                    strip + g->strip_floats;
    struct target t = {
        .data = sums,
        .row = p->desc.w * vector,
        .pixel = vector,
        .first = first_input(&axis, begin),
        .end = first_input(&axis, end),
        .channels = vector,
    };
    if (direct) {
        t.data = to + channel_at(&g->src_map, channel) + t.first * g->src_map.row;
        t.row = g->src_map.row;
        t.pixel = g->src_map.pixel;
        t.channels = (count - 1) * vector + stored;
    }
    struct dc_grouped_args args = {
        .bias = job->zeros,
        .vectors = count,
        .src_vector = dc_first_input(&g->tap, channel + vector) - dc_first_input(&g->tap, channel),
        .weights_vector = g->vector_floats,
        .dst_vector = vector,
        .lanes = g->lanes,
        .planes = p->group_cout,
        .kh = 1,
        .kw = 1,
        .stride_h = 1,
        .stride_w = 1,
        .dilation_h = 1,
        .dilation_w = 1,
        .chunk = 1,
        .dst_row = t.row * p->desc.stride_h,
        .dst_pixel = t.pixel * p->desc.stride_w,
        .channels = direct ? channels : vector,
        .stored = direct ? stored : vector,
        .lo = -INFINITY,
        .hi = INFINITY,
    };
    find_grad(job, image, channel, begin, end, strip, &args);
    clear_gaps(g, &t);
    run_taps(g, begin, end, &t, job->packed + v * g->vector_floats, &args);
    if (!direct && t.end > t.first) {
        struct dc_store_args store = dc_store_to(&g->src_map, channel, channels, stored);
        store.tile = sums;
        store.tile_channels = vector;
        store.pixels = (t.end - t.first) * p->desc.w;
        store.dst = to + t.first * g->src_map.row;
        g->kernel->grouped.store(&store);
    }
}

static void run_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_input_spread *g = job->g;
    float *const strip = job->space + index * (g->strip_floats + g->sum_floats);
    const int64_t chunks = divide_up(g->vectors, g->together),
                  units = g->problem.desc.n * g->row_blocks * chunks;
    for (int64_t i = units * index / job->tasks; i < units * (index + 1) / job->tasks; i++) {
        const int64_t block = i / chunks;
        const int64_t first = i % chunks * g->together,
                      last = least(g->vectors, first + g->together);
        for (int64_t v = first, count; v < last; v += count) {
            count = vectors_of(g, v);
            run_unit(job, block / g->row_blocks, block % g->row_blocks, v, count, strip);
        }
    }
}

void dc_input_spread_run(const struct dc_input_spread *g, const float *weight,
                         const float *grad_dst, float *grad_src, char *workspace)
{
    struct job job = {
        .g = g,
        .weight = weight,
        .grad_dst = grad_dst,
        .grad_src = grad_src,
        .packed = (float *)workspace,
        .zeros = (float *)workspace + weight_floats(g),
        .tasks = (int)least(g->problem.threads, g->vectors),
    };
    job.space = job.zeros + CHANNELS_TOGETHER;
    clear(job.zeros, CHANNELS_TOGETHER);
    dc_parallel(g->ctx, job.tasks, pack_task, &job);
    job.tasks = g->tasks;
    dc_parallel(g->ctx, job.tasks, run_task, &job);
}
