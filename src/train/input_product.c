/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's input by one product, where no input is read twice: kernels that
 * are no larger than the strides, as patch embeddings and projections have. A 1x1 convolution of
 * the output's gradient makes, for each output pixel, the gradients of all inputs that it reads:
 * pairs of a channel and a tap. Then each goes to its place: pairs come tap by tap, so that what
 * lies together goes together, channels and the taps of a row; or, to planes, plane by plane.
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
 * Where a group has few outputs, its products are less work than the pairs' way through memory: so
 * many pairs stay in L2. Where it has more, the weights' way to many chunks takes as long. Measured
 * from 16 to 768 outputs.
 */
#define FEW_OUTPUTS 32
#define CHUNK_FLOATS 65536.0
/* Planes that are woven into one: of more, a pixel's pairs are copied. */
#define MOST_PLANES 4

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
    /* Pairs that lie in the padding are computed for nothing: no more of these than of others. */
    const double taps = (double)d->kh * (double)d->kw;
    return taps * (double)d->cin <= INT32_MAX - DC_CHANNEL_BLOCK &&
           taps * (double)p->hout * (double)p->wout <= 2.0 * (double)d->h * (double)d->w;
}

/* Where pairs lie: a pixel's together, unless inputs are planes, for rows of few taps. */
static doconv_layout pairs_layout(const struct dc_problem *p)
{
    const doconv_conv_desc *d = &p->desc;
    const bool same = d->src_layout == DOCONV_NCHW
                          ? d->kw <= MOST_PLANES
                          : p->group_cin % dc_layout_block(d->src_layout) == 0;
    return same || d->kh * d->kw == 1 ? d->src_layout : DOCONV_NHWC;
}

/* Rows of outputs whose pairs stay in cache; 0: the products are most of the work. */
static int64_t chunk_rows(const struct dc_problem *p, int64_t pairs)
{
    const double row = (double)pairs * (double)p->wout;
    if (p->group_cout > FEW_OUTPUTS) {
        return 0;
    }
    const int64_t rows = least(p->hout, most(1, (int64_t)(CHUNK_FLOATS / row)));
    return divide_up(p->hout, divide_up(p->hout, rows));
}

/* Of one group, those by taps are whole vectors: zeros at the end cost less than masks. */
static int64_t pairs_of_group(const struct dc_problem *p, bool by_taps)
{
    const int64_t pairs = p->group_cin * p->desc.kh * p->desc.kw;
    return by_taps && p->desc.groups == 1 ? divide_up(pairs, DC_CHANNEL_BLOCK) * DC_CHANNEL_BLOCK
                                          : pairs;
}

/* A chunk's is one thread's, with weights that are packed once. */
static doconv_status plan_chunk(doconv_context *ctx, const doconv_plan_options *options,
                                const doconv_conv_desc *desc, doconv_plan **plan)
{
    struct dc_problem problem;
    const doconv_status status = dc_plan_problem(ctx, desc, options, &problem);
    if (status != DOCONV_OK) {
        return status;
    }
    problem.threads = 1;
    return dc_plan_create(ctx, &problem, options, plan);
}

doconv_status dc_input_product_create(doconv_context *ctx, const struct dc_problem *problem,
                                      const doconv_plan_options *options,
                                      struct dc_input_product *product)
{
    doconv_conv_desc d = dc_input_convolution(problem);
    const int64_t taps = problem->desc.kh * problem->desc.kw;
    const bool by_taps = problem->desc.src_layout != DOCONV_NCHW && taps > 1;
    const int64_t pairs = pairs_of_group(problem, by_taps);
    d.cout = pairs * d.groups;
    d.dst_layout = pairs_layout(problem);
    const int64_t rows = chunk_rows(problem, d.cout);
    d.h = rows != 0 ? rows : problem->hout;
    d.w = problem->wout;
    d.n = rows != 0 ? 1 : d.n;
    *product = (struct dc_input_product){
        .ctx = ctx,
        .problem = *problem,
        .by_taps = by_taps,
        .pairs = pairs,
        .rows = rows,
        .chunks = rows != 0 ? divide_up(problem->hout, rows) : 0,
        .map = dc_tensor_map(d.dst_layout, d.cout, d.h, d.w),
        .tasks = 1,
        .pairs_size = dc_room_for(d.dst_layout, d.n, d.cout, d.h, d.w),
        .weight_size = by_taps ? align_bytes((size_t)(d.cin * pairs) * sizeof(float)) : 0,
    };
    const doconv_status status = rows != 0
                                     ? plan_chunk(ctx, options, &d, &product->plan)
                                     : dc_input_plan(ctx, problem, options, &d, &product->plan);
    if (status == DOCONV_OK && rows != 0) {
        product->tasks = (int)least(problem->threads, problem->desc.n * product->chunks);
        product->grad_size = dc_room_for(d.src_layout, 1, d.cin, d.h, d.w);
        product->packed_size = align_bytes(product->plan->candidate.packed_size);
    }
    return status;
}

size_t dc_input_product_workspace_size(const struct dc_input_product *g)
{
    return g->weight_size + g->packed_size +
           (size_t)g->tasks * (g->grad_size + g->pairs_size + align_bytes(g->plan->workspace_size));
}

/* ---- places ---- */

struct job {
    const struct dc_input_product *g;
    const float *weight, *grad_dst;
    const struct dc_weight_source *source;
    float *by_taps, *packed;   /* weights */
    char *space;               /* the tasks' */
    struct dc_pixels from, to; /* grad_dst, grad_src */
    const float *pairs;        /* of all images */
    int64_t lines;             /* rows of all blocks of all images */
    int tasks;
    bool clear; /* a row has inputs that no output reads, or channels past the last */
};

/* `count` floats of each of `pixels` pixels; inline, for calls would take longer than copies. */
static void copy_pixels(const float *from, ptrdiff_t from_pixel, int64_t pixels, int64_t count,
                        float *to, ptrdiff_t to_pixel)
{
    for (int64_t i = 0; i < pixels; i++, from += from_pixel, to += to_pixel) {
        int64_t c = 0;
        for (; c + 8 <= count; c += 8) {
            memcpy(to + c, from + c, 8 * sizeof *to);
        }
        for (; c + 2 <= count; c += 2) {
            memcpy(to + c, from + c, 2 * sizeof *to);
        }
        if (c < count) {
            to[c] = from[c];
        }
    }
}

/* Planes of `taps` taps, side by side; inline, so that constant numbers are unrolled. */
static inline __attribute__((always_inline)) void weave(const float *restrict from, ptrdiff_t plane,
                                                        int64_t taps, int64_t pixels,
                                                        float *restrict to, ptrdiff_t to_pixel,
                                                        ptrdiff_t to_tap)
{
    for (int64_t i = 0; i < pixels; i++) {
        for (int64_t k = 0; k < taps; k++) {
            to[i * to_pixel + k * to_tap] = from[i + k * plane];
        }
    }
}

/* Of a row: what outputs [begin, end) read by taps [kx, kx + taps). */
struct columns {
    int64_t kx, taps, begin, end;
};

static struct columns columns_of(const struct dc_problem *p, int64_t kx)
{
    const doconv_conv_desc *d = &p->desc;
    struct columns x = {.kx = kx, .taps = 1};
    dc_outputs_inside(d->w, d->stride_w, kx * d->dilation_w - d->pad_left, p->wout, &x.begin,
                      &x.end);
    return x;
}

/* A channel: a pixel's taps lie together, or each in a plane. */
static void place_channel(const struct job *job, const float *from, const struct columns *x,
                          int64_t pixels, float *row)
{
    const doconv_conv_desc *d = &job->g->problem.desc;
    const ptrdiff_t plane = job->g->map.channel;
    if (job->g->map.pixel != 1) {
        copy_pixels(from, job->g->map.pixel, pixels, x->taps, row, d->stride_w);
        return;
    }
    switch (d->stride_w == x->taps ? x->taps : 0) { /* dilation 1, then */
    case 2:
        weave(from, plane, 2, pixels, row, 2, 1);
        break;
    case 3:
        weave(from, plane, 3, pixels, row, 3, 1);
        break;
    case 4:
        weave(from, plane, 4, pixels, row, 4, 1);
        break;
    default:
        weave(from, plane, x->taps, pixels, row, d->stride_w, d->dilation_w);
    }
}

/* Channels that lie together: those of each group by themselves. */
static void place_channels(const struct job *job, const float *from, int64_t tap, int64_t first,
                           int64_t count, int64_t pixels, float *row)
{
    const struct dc_input_product *g = job->g;
    const struct dc_problem *p = &g->problem;
    for (int64_t c = first, run; c < first + count; c += run) {
        const int64_t within = c % p->group_cin;
        run = least(p->group_cin - within, first + count - c);
        const int64_t pair = c / p->group_cin * g->pairs + tap * p->group_cin + within;
        copy_pixels(from + channel_at(&g->map, pair), g->map.pixel, pixels, run, row + c - first,
                    p->desc.stride_w * job->to.pixel);
    }
}

/* Channels [first, first + count) of the inputs that taps (ky, ...) of these columns read. */
static void place_columns(const struct job *job, const float *from, int64_t ky, int64_t first,
                          int64_t count, const struct columns *x, float *row)
{
    const struct dc_input_product *g = job->g;
    const doconv_conv_desc *d = &g->problem.desc;
    const int64_t tap = ky * d->kw + x->kx, pixels = x->end - x->begin;
    if (pixels <= 0) {
        return;
    }
    from += x->begin * g->map.pixel;
    row += (x->begin * d->stride_w + x->kx * d->dilation_w - d->pad_left) * job->to.pixel;
    if (job->to.inner == 1 && !g->by_taps) {
        place_channel(job, from + channel_at(&g->map, first * d->kh * d->kw + tap), x, pixels, row);
    } else if (x->taps > 1) { /* pixels that follow each other */
        copy_pixels(from + tap * d->cin, g->map.pixel, pixels, x->taps * d->cin, row,
                    d->stride_w * job->to.pixel);
    } else {
        place_channels(job, from, tap, first, count, pixels, row);
    }
}

/* All taps (ky, ...), those of outputs that have them all inside the image at once if possible. */
static void place_taps(const struct job *job, const float *from, int64_t ky, int64_t first,
                       int64_t count, float *row)
{
    const struct dc_input_product *g = job->g;
    const doconv_conv_desc *d = &g->problem.desc;
    const bool planes = d->src_layout == DOCONV_NCHW && g->map.pixel == 1,
               follow = d->dilation_w == 1 && (d->src_layout == DOCONV_NCHW ||
                                               (d->src_layout == DOCONV_NHWC && d->groups == 1));
    const int64_t wout = g->problem.wout;
    struct columns all = {.taps = d->kw, .begin = wout, .end = wout};
    if (follow || planes) { /* the first tap has the largest begin, the last one the smallest end */
        all.begin = columns_of(&g->problem, 0).begin;
        all.end = most(all.begin, columns_of(&g->problem, d->kw - 1).end);
        place_columns(job, from, ky, first, count, &all, row);
    }
    for (int64_t k = 0; k < d->kw && (all.begin > 0 || all.end < wout); k++) {
        struct columns before = columns_of(&g->problem, k), after = before;
        before.end = least(before.end, all.begin);
        after.begin = most(after.begin, all.end);
        place_columns(job, from, ky, first, count, &before, row);
        place_columns(job, from, ky, first, count, &after, row);
    }
}

/*
 * Row y of a block of channels of an image. pairs: of the image, those of its output row `origin`
 * first.
 */
static void place_row(const struct job *job, const float *pairs, int64_t origin, int64_t image,
                      int64_t block, int64_t y)
{
    const struct dc_input_product *g = job->g;
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t first = block * job->to.inner, count = least(job->to.inner, d->cin - first);
    const int64_t output = (y + d->pad_top) / d->stride_h, rest = (y + d->pad_top) % d->stride_h;
    const int64_t ky = rest / d->dilation_h;
    const bool read = output < p->hout && ky < d->kh && rest % d->dilation_h == 0;
    float *row = job->to.data + image * job->to.image + block * job->to.block + y * job->to.row;
    if (!read || job->clear) {
        memset(row, 0, (size_t)(d->w * job->to.pixel) * sizeof *row);
    }
    if (read) {
        place_taps(job, pairs + (output - origin) * g->map.row, ky, first, count, row);
    }
}

static void place_task(void *arg, int index)
{
    const struct job *job = arg;
    const int64_t h = job->g->problem.desc.h, blocks = job->to.blocks;
    for (int64_t line = job->lines * index / job->tasks;
         line < job->lines * (index + 1) / job->tasks; line++) {
        const int64_t image = line / h / blocks;
        place_row(job, job->pairs + image * job->g->map.image, 0, image, line / h % blocks,
                  line % h);
    }
}

/* ---- execution ---- */

/* The weights of a group's outputs [output][tap][input], from [output][input][tap]. */
static void turn_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_problem *p = &job->g->problem;
    const int64_t taps = p->desc.kh * p->desc.kw, filter = taps * p->group_cin;
    for (int64_t o = p->desc.cout * index / job->tasks; o < p->desc.cout * (index + 1) / job->tasks;
         o++) {
        const float *const from = job->weight + o * filter;
        float *const to = job->by_taps + o * job->g->pairs;
        memset(to + filter, 0, (size_t)(job->g->pairs - filter) * sizeof *to);
        for (int64_t c = 0; c < p->group_cin; c++) {
            for (int64_t tap = 0; tap < taps; tap++) {
                to[tap * p->group_cin + c] = from[c * taps + tap];
            }
        }
    }
}

/* The gradient of outputs [begin, begin + rows) of an image as a tensor: in place, or a copy. */
static const float *chunk_of(const struct job *job, int64_t image, int64_t begin, float *copy)
{
    const struct dc_pixels *from = &job->from;
    const int64_t floats = job->g->rows * from->row;
    const float *const grad = from->data + image * from->image + begin * from->row;
    if (from->blocks == 1) {
        return grad;
    }
    for (int64_t b = 0; b < from->blocks; b++) {
        memcpy(copy + b * floats, grad + b * from->block, (size_t)floats * sizeof *copy);
    }
    return copy;
}

/* The first input row of a chunk; that of what follows the last: the end. */
static int64_t first_input(const struct dc_input_product *g, int64_t chunk)
{
    const doconv_conv_desc *d = &g->problem.desc;
    return chunk == 0           ? 0
           : chunk == g->chunks ? d->h
                                : least(d->h, most(0, chunk * g->rows * d->stride_h - d->pad_top));
}

static void run_chunk(const struct job *job, int64_t image, int64_t chunk, char *space)
{
    const struct dc_input_product *g = job->g;
    /* The last one has as many rows as others, of which some are computed again. */
    const int64_t begin = least(chunk * g->rows, g->problem.hout - g->rows);
    float *const pairs = (float *)(space + g->grad_size);
    const struct dc_tensors tensors = {
        .src = chunk_of(job, image, begin, (float *)space),
        .packed = job->packed,
        .dst = pairs,
    };
    dc_plan_run(g->plan, &tensors, (char *)pairs + g->pairs_size);
    for (int64_t y = first_input(g, chunk); y < first_input(g, chunk + 1); y++) {
        for (int64_t block = 0; block < job->to.blocks; block++) {
            place_row(job, pairs, begin, image, block, y);
        }
    }
}

static void chunk_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_input_product *g = job->g;
    const int64_t units = g->problem.desc.n * g->chunks;
    char *const space = job->space + (size_t)index * (g->grad_size + g->pairs_size +
                                                      align_bytes(g->plan->workspace_size));
    for (int64_t i = units * index / job->tasks; i < units * (index + 1) / job->tasks; i++) {
        run_chunk(job, i / g->chunks, i % g->chunks, space);
    }
}

static void run_chunks(struct job *job)
{
    const doconv_plan *plan = job->g->plan;
    plan->candidate.solver->pack(plan, &job->source->view, NULL, job->packed);
    job->tasks = job->g->tasks;
    dc_parallel(job->g->ctx, job->tasks, chunk_task, job);
}

static void run_whole(struct job *job)
{
    const struct dc_input_product *g = job->g;
    float *const pairs = (float *)job->space;
    const struct dc_tensors tensors = {.src = job->grad_dst, .fresh = job->source, .dst = pairs};
    dc_plan_run(g->plan, &tensors, job->space + g->pairs_size);
    job->pairs = pairs;
    job->lines = g->problem.desc.n * job->to.blocks * g->problem.desc.h;
    job->tasks = (int)least(g->problem.threads, job->lines);
    dc_parallel(g->ctx, job->tasks, place_task, job);
}

void dc_input_product_run(const struct dc_input_product *g, const float *weight,
                          const float *grad_dst, float *grad_src, char *workspace)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    struct job job = {
        .g = g,
        .weight = weight,
        .grad_dst = grad_dst,
        .by_taps = (float *)workspace,
        .packed = (float *)(workspace + g->weight_size),
        .space = workspace + g->weight_size + g->packed_size,
        /* only read */
        .from =
            dc_pixels_of(d->dst_layout, (float *)(uintptr_t)grad_dst, d->cout, p->hout, p->wout),
        .to = dc_pixels_of(d->src_layout, grad_src, d->cin, d->h, d->w),
        .clear = d->kw != d->stride_w || p->wout * d->stride_w - d->pad_left < d->w ||
                 d->cin % dc_layout_block(d->src_layout) != 0,
    };
    if (g->by_taps) {
        job.tasks = (int)least(p->threads, d->cout);
        dc_parallel(g->ctx, job.tasks, turn_task, &job);
    }
    const struct dc_weight_source source = {.view = {.data = g->by_taps ? job.by_taps : weight,
                                                     .group = p->group_cout * g->pairs,
                                                     .out = 1,
                                                     .in = g->pairs}};
    job.source = &source;
    if (g->rows != 0) {
        run_chunks(&job);
    } else {
        run_whole(&job);
    }
}
