/* SPDX-License-Identifier: MIT */
/*
 * Candidates of Winograd's transforms: the direct tile that multiplies, tiles of a block, output
 * blocks that are multiplied together; and what each should cost.
 */
#include <math.h>
#include <stdio.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/costs.h"
#include "base/cpu.h"
#include "base/registry.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "solvers/winograd/winograd.h"

/*
 * Cycles of the products of `tiles` tiles and one output block, for one point. The next products'
 * weights come in meanwhile, but not quite hidden.
 */
static double product_cycles(const struct dc_winograd_state *s, double tiles, double vectors,
                             double weight_rate)
{
    const struct dc_kernel *gemm = s->gemm;
    const double fma_rate = gemm->vector == 16 ? dc_cpu_probe()->fma512_per_cycle : 2.0;
    const double runs = ceil(tiles / gemm->tile_pixels), pixels = tiles / runs;
    /* A lone vector loads an input for each FMA. */
    const double fma = pixels * vectors / fma_rate * (vectors < 2.0 ? 1.25 : 1.0),
                 loads = (pixels + vectors) / 2.0;
    const double inputs = (double)(s->taps * s->cin);
    const double tile = inputs * runs * fmax(fmax(fma, loads), 4.0),
                 weights = inputs * 4.0 * vectors * gemm->vector / weight_rate;
    return fmax(tile, weights) + 0.15 * fmin(tile, weights) + 40.0 * runs + 40.0;
}

/* Cycles of all products of a block of one group. */
static double place_cycles(const struct dc_winograd_state *s, double tiles, double weight_rate)
{
    const double vectors = (double)(s->tile_channels / s->kernel->vector),
                 tail = (double)(s->cout - (s->out_blocks - 1) * s->tile_channels);
    return (double)s->points *
           ((double)(s->out_blocks - 1) * product_cycles(s, tiles, vectors, weight_rate) +
            product_cycles(s, tiles, ceil(tail / s->kernel->vector), weight_rate));
}

/* Cycles of an operation of 256 bits that one of the kernel's vectors takes. */
static double width(const struct dc_winograd_state *s)
{
    return s->kernel->vector == 16 ? 2.0 / dc_cpu_probe()->fma512_per_cycle : 1.0;
}

/* Cycles of the transforms of a tile's vector of channels, in and out. */
static void transform_cycles(const struct dc_winograd_state *s, double *in, double *out)
{
    const double points = s->kernel->winograd.points, outputs = (double)s->outputs;
    const bool tiled = s->row_blocks == 0;
    /* Two operations a point and step of the tile's size; a store a cycle, of 256 bits. */
    const double line_in = 2.0 * points, line_out = 1.8 * points;
    const double lines_in = tiled ? 2.0 * points : 1.0, lines_out = tiled ? points + outputs : 1.0;
    *in = width(s) * lines_in * (0.5 * line_in + points);
    *out = width(s) * lines_out * (0.5 * line_out + outputs);
}

/*
 * Cycles of a place that transforms its filters: every one does, but where a block that is made has
 * a single chunk; and sums come and go for each chunk.
 */
static double raw_cycles(const struct dc_winograd_state *s, double products)
{
    const double chunks = ceil((double)s->cin / (double)s->chunk),
                 times = s->made && chunks <= 1.0 ? 1.0 / (double)s->blocks : 1.0;
    return times * 2.5 * width(s) * (double)(s->points * s->taps) * (double)s->cin *
               ceil((double)s->cout / s->kernel->vector) +
           (chunks - 1.0) * 2.0 * products * (double)s->out_blocks / 40.0;
}

/* Cycles of making the weights of a call, all groups'. */
static double fresh_cycles(const struct dc_winograd_state *s, double all_weights)
{
    const double vector = s->kernel->vector, stream = all_weights / dc_rate(2.0 * all_weights);
    if (s->chunk != 0) {
        /* What isn't used at once goes through memory, and back. */
        return (s->made ? 1.0 : 4.0) * stream;
    }
    /* Packing transforms each filter in double precision, and writes it transformed. */
    return 2.0 * width(s) * (double)(s->points * s->taps * s->groups * s->cin) *
               ceil((double)s->cout / vector) * (16.0 / vector) +
           2.0 * stream;
}

/* The part of all work that the task with the most of it has. */
static double largest_share(const struct dc_winograd_state *s)
{
    const double places = (double)(s->made ? s->groups : s->places);
    const double units = ceil(places * (double)s->out_chunks / (double)s->tasks);
    return units * (double)s->out_chunk / (places * (double)s->out_blocks);
}

/*
 * Seconds: the products, then the transforms and the copies beside them. It only has to rank, and
 * to know where direct kernels are better: what matters is measured.
 */
static double estimate(const struct dc_problem *p, const struct dc_winograd_state *s)
{
    const double places = (double)s->places, blocks = (double)s->out_blocks,
                 vector = s->kernel->vector;
    const double tiles = (double)s->tiles / (double)s->blocks;
    const double inputs =
        s->row_blocks == 0 ? tiles : tiles + (double)((s->taps - 1) * s->tile_columns);
    const double points = 4.0 * (double)s->points * inputs * (double)s->points_tile,
                 products = 4.0 * (double)s->points * tiles * (double)(s->outs * s->tile_channels),
                 weights = 4.0 * (double)s->weights.block_floats * blocks;
    const double all_weights = weights * (double)s->groups,
                 used = (s->made ? (double)s->blocks : 1.0) * points + products;
    const bool raw = s->chunk != 0;
    /* An output block's weights are one stream; going from block to block is many short ones. */
    const double streams =
        s->outs > 1 && all_weights > 0.75 * (double)dc_cpu_probe()->l2_bytes ? 0.8 : 1.0;
    const double weight_rate = dc_rate(all_weights + used);
    double cycles = place_cycles(s, tiles, raw ? 40.0 : streams * weight_rate);
    /* What a group's first block takes longer for weights that come from memory. */
    double cold = 0.0;
    if (p->cold_weights) {
        cold = 0.1 * weights / DC_MEMORY_RATE;
        cold += raw ? 0.3 * weights / DC_MEMORY_RATE
                    : place_cycles(s, tiles, streams * DC_MEMORY_RATE) - cycles;
    }
    double in, out;
    transform_cycles(s, &in, &out);
    cycles +=
        in * inputs * ceil((double)s->cin / vector) + out * tiles * ceil((double)s->cout / vector);
    /* What the buffers move: in L2, if they leave room there for tensors and weights in passing. */
    const double fill = fmin(used / (double)dc_cpu_probe()->l2_bytes, 1.0);
    cycles += (1.0 + fill) * (points + products * blocks / (double)s->outs) / dc_rate(1.15 * used);
    const bool vectors = s->view.src_map.channel == 1 && s->view.src_map.block_channels >= vector;
    cycles += s->in_place ? 0.0 : 0.25 * points / (vectors ? 12.0 : 5.0);
    cycles +=
        s->direct_store ? 0.0 : 4.0 * tiles * (double)(s->tile_height * s->outputs * s->cout) / 6.0;
    if (s->made && used > 0.75 * (double)dc_cpu_probe()->l2_bytes) {
        /* Each output block meets the points of all places anew. */
        cycles += points * blocks / dc_rate(used);
    }
    cycles += raw ? raw_cycles(s, products) + 0.5 * weights / weight_rate : 0.0;
    cycles = cycles * places + (p->fresh_weights ? fresh_cycles(s, all_weights) : 0.0);
    return (cycles + cold * (double)s->groups) / DC_NOMINAL_HERTZ * largest_share(s);
}

/*
 * A number for each form: points, outputs, which axes, how filters are transformed. Where taps are
 * summed beside channels, a chunk's come before the next chunk's.
 */
static int order_of(const struct dc_winograd_kernel *w, const struct dc_winograd_state *s)
{
    enum { CHUNKS = DC_WINOGRAD_MOST_CHUNK / DC_CHANNEL_BLOCK + 1 };
    const int axes = w->axes == 2 ? 2 : s->down;
    const int chunk = s->chunk == 0 ? 0 : s->taps == 1 ? 1 : (int)s->chunk / DC_CHANNEL_BLOCK;
    return chunk + CHUNKS * (axes + 3 * (w->points + (DC_WINOGRAD_POINTS + 1) * w->outputs));
}

static const char *offer(const doconv_context *ctx, const struct dc_problem *p,
                         const struct dc_kernel *kernel, const struct dc_kernel *gemm,
                         const struct dc_winograd_parameters *q, struct dc_candidate_list *list)
{
    struct dc_winograd_state s;
    const char *refused = dc_winograd_geometry(p, kernel, gemm, q, &s);
    if (refused != NULL) {
        return refused;
    }
    const struct dc_winograd_kernel *w = &kernel->winograd;
    const size_t floats = (size_t)s.tasks * (size_t)s.task_floats +
                          (s.shared ? (size_t)s.places * (size_t)s.points_floats : 0);
    struct dc_candidate c = {
        .solver = &dc_solver_winograd,
        .kernel = kernel,
        .second = gemm,
        .order_of_sums = DC_SUMS_WINOGRAD + order_of(w, &s),
        .error_amplification = kernel->error_amplification,
        .workspace_size = floats * sizeof(float) + 64,
        .packed_size = dc_packed_bytes(&s.weights),
        .estimated_seconds = estimate(p, &s),
    };
    dc_set_parameters(&c, q);
    dc_candidate_append(ctx, list, &c);
    return NULL;
}

static void describe(const struct dc_candidate *c, char *text, size_t size)
{
    struct dc_winograd_parameters q;
    dc_get_parameters(c, &q);
    const char *const blocks = c->kernel->winograd.axes == 2 ? "tiles"
                               : q.down                      ? "columns"
                                                             : "rows";
    if (q.chunk != 0) {
        snprintf(text, size, ":%s=%d,raw=%d%s", blocks, q.block, q.chunk,
                 q.made != 0 ? ",order=pack" : "");
    } else {
        snprintf(text, size, ":%s=%d,outputs=%s", blocks, q.block, q.outs == 0 ? "all" : "each");
    }
}

/* Blocks of nearly equal size: 49 by 28 are 25 + 24. */
static int even(int64_t all, int64_t block)
{
    const int64_t blocks = divide_up(all, least(all, block));
    return (int)divide_up(all, blocks);
}

/* Input channels whose transformed filters take a third of L2. */
static int chunk_for(const struct dc_winograd_view *v, const struct dc_kernel *kernel,
                     const struct dc_kernel *gemm)
{
    const struct dc_winograd_kernel *w = &kernel->winograd;
    const int64_t points = w->axes == 2 ? w->points * w->points : w->points * v->kh,
                  channel = 4 * points * gemm->tile_channels;
    const int64_t blocks = dc_cpu_probe()->l2_bytes / 3 / channel / DC_CHANNEL_BLOCK;
    return (int)least(most(blocks, 1) * DC_CHANNEL_BLOCK, DC_WINOGRAD_MOST_CHUNK);
}

/* The candidates of a direct tile and of an axis, by the size of blocks. */
static const char *offer_blocks(const doconv_context *ctx, const struct dc_problem *p,
                                const struct dc_kernel *kernel, const struct dc_kernel *gemm,
                                bool down, struct dc_candidate_list *list)
{
    const struct dc_winograd_kernel *w = &kernel->winograd;
    const struct dc_winograd_view v = dc_winograd_view(p, down);
    const int64_t columns = divide_up(v.wout, w->outputs),
                  tiles = divide_up(v.hout, w->outputs) * columns * p->desc.n;
    /* Tiles of blocks: as many as a few direct tiles; or rows that have about as many. */
    static const int64_t targets[] = {14, 28, 56, 112};
    const bool several = p->group_cout > gemm->tile_channels;
    const char *refused = NULL;
    int last = 0;
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
        const int block =
            w->axes == 2 ? even(tiles, targets[i]) : even(v.hout, most(1, targets[i] / columns));
        for (int outs = 0; outs <= (several ? 1 : 0) && block != last; outs++) {
            const struct dc_winograd_parameters q = {.block = block, .outs = outs, .down = down};
            const char *reason = offer(ctx, p, kernel, gemm, &q, list);
            refused = reason != NULL ? reason : refused;
        }
        for (int made = 0; made <= (p->fresh_weights ? 1 : 0) && block != last; made++) {
            const struct dc_winograd_parameters raw = {.block = block,
                                                       .outs = 1,
                                                       .chunk = chunk_for(&v, kernel, gemm),
                                                       .made = made,
                                                       .down = down};
            const char *reason = offer(ctx, p, kernel, gemm, &raw, list);
            refused = reason != NULL ? reason : refused;
        }
        last = block;
    }
    return refused;
}

/* Does the kernel's filter lie along rows (or down columns) of the problem's? */
static bool fits(const struct dc_problem *p, const struct dc_winograd_kernel *w, bool down)
{
    const struct dc_winograd_view v = dc_winograd_view(p, down);
    return v.kw == w->taps && (w->axes == 2 ? v.kh == w->taps && !down : v.kh <= DC_WINOGRAD_TAPS);
}

/*
 * Is an axis worth a try? Where both fit, columns are if they are cut into fewer tiles: else there
 * is nothing in it that rows don't have.
 */
static bool has_axis(const struct dc_problem *p, const struct dc_winograd_kernel *w, bool down)
{
    return fits(p, w, down) &&
           (!down || !fits(p, w, false) ||
            divide_up(p->hout, w->outputs) * p->wout < divide_up(p->wout, w->outputs) * p->hout);
}

static const char *refuse(const struct dc_problem *p, const struct dc_kernel *kernel)
{
    const doconv_conv_desc *d = &p->desc;
    const struct dc_winograd_kernel *w = &kernel->winograd;
    if (!fits(p, w, false) && !fits(p, w, true)) {
        return "it computes kernels of other sizes";
    }
    if (d->stride_h != 1 || d->stride_w != 1 || d->dilation_h != 1 || d->dilation_w != 1) {
        return "it computes no strides and no dilations";
    }
    if (p->group_cin < kernel->vector || p->group_cout < kernel->vector) {
        return "a group has fewer channels than a vector";
    }
    return NULL;
}

static const char *enumerate(const doconv_context *ctx, const struct dc_problem *p,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    const char *refused = refuse(p, kernel);
    if (refused != NULL) {
        return refused;
    }
    refused = "no direct kernel of its ISA is there to multiply";
    const int before = list->count;
    const struct dc_kernel *gemm = NULL;
    while ((gemm = dc_kernel_next(ctx, DC_FAMILY_DIRECT, kernel->isa, gemm)) != NULL) {
        for (int down = 0; down < 2; down++) {
            const char *reason = has_axis(p, &kernel->winograd, down)
                                     ? offer_blocks(ctx, p, kernel, gemm, down, list)
                                     : NULL;
            refused = reason != NULL ? reason : refused;
        }
    }
    return list->count > before ? NULL : refused;
}

const struct dc_solver dc_solver_winograd = {
    .name = "winograd",
    .operation = DC_CONVOLUTION,
    .family = DC_FAMILY_WINOGRAD,
    .enumerate = enumerate,
    .describe = describe,
    .prepare = dc_winograd_prepare,
    .execute = dc_winograd_execute,
    .pack = dc_winograd_pack,
    .blocks = &dc_winograd_blocks,
};
