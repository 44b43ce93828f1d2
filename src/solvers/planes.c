/* SPDX-License-Identifier: MIT */
/*
 * 1x1 convolutions from planes to planes (NCHW on both sides): a product of matrices whose pixels
 * are the vectors, so that nothing is transposed. Pixels are read in place, or copied into a panel
 * of tiles, which strides need. The additions of an output come in the order of the input channels,
 * however pixels and outputs are cut.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/cpu.h"
#include "base/log.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

struct state {
    /* of an image; of a unit; units of an image and group */
    int64_t pixels, chunk, chunks;
    /* of a group; of a unit; units of a group's outputs */
    int64_t out_blocks, out_chunk, out_chunks;
    /* pixels that are read in place; the others come through the panel */
    int64_t whole;
    /* of packed weights: all biases; one output block's weights */
    int64_t bias_floats, block_floats;
    int64_t panel_tile, line_floats, task_floats; /* of the workspace */
    int tasks;
};

/*
 * Output blocks are of nearly equal size: 64 channels by 14 are 13 + 13 + 13 + 13 + 12. First
 * channel of a block.
 */
static int64_t block_first(const struct dc_problem *p, const struct state *s, int64_t block)
{
    const int64_t size = p->group_cout / s->out_blocks, larger = p->group_cout % s->out_blocks;
    return block * size + least(block, larger);
}

static const char *geometry(const doconv_context *ctx, const struct dc_problem *p,
                            const struct dc_candidate *c, struct state *s)
{
    const struct dc_kernel *kernel = c->kernel;
    const int64_t tile = kernel->tile_pixels, nr = kernel->tile_channels;
    *s = (struct state){.pixels = p->hout * p->wout};
    s->chunk = c->pixels < s->pixels ? c->pixels : s->pixels;
    s->chunks = divide_up(s->pixels, s->chunk);
    s->out_blocks = divide_up(p->group_cout, nr);
    const int64_t base = p->desc.n * p->desc.groups * s->chunks;
    s->out_chunk = dc_cut_outputs(ctx, base, s->out_blocks);
    s->out_chunks = divide_up(s->out_blocks, s->out_chunk);
    s->tasks = (int)least(ctx->threads, base * s->out_chunks);
    const bool in_place = c->source == DC_SOURCE_INPLACE;
    s->whole = !in_place                         ? 0
               : s->pixels % kernel->vector == 0 ? s->pixels
                                                 : s->pixels / tile * tile;
    const int64_t copied = in_place ? s->pixels - s->whole : s->chunk;
    if ((double)p->group_cin * ((double)copied + (double)tile) > 1e15) {
        return "it needs too much workspace";
    }
    if (copied != 0) {
        s->panel_tile = p->group_cin * tile;
        s->line_floats = divide_up(copied, 16) * 16 + 16;
        s->task_floats = divide_up(copied, tile) * s->panel_tile + s->line_floats;
    }
    s->block_floats = divide_up(p->group_cin * nr, 16) * 16;
    s->bias_floats = divide_up(p->desc.groups * s->out_blocks * nr, 16) * 16;
    return NULL;
}

/* Seconds at a nominal 3 GHz, as the direct solver's estimate. */
static double estimate(const struct dc_problem *p, const struct dc_candidate *c,
                       const struct state *s)
{
    const struct dc_cpu *cpu = dc_cpu_probe();
    const struct dc_kernel *kernel = c->kernel;
    const double k = (double)p->group_cin, rest = (double)(s->pixels % kernel->tile_pixels),
                 blocks = (double)s->out_blocks;
    const double vectors = (double)(kernel->tile_pixels / kernel->vector),
                 rows = (double)p->group_cout / blocks;
    const double fma_rate = kernel->vector == 16 ? cpu->fma512_per_cycle : 2.0;
    const double tiles = (double)(s->pixels / kernel->tile_pixels);
    /* A unit takes the panel of pixels once an output block, and all weights once. */
    const double panel = 4.0 * k * (double)s->chunk, weights = 4.0 * k * (double)p->group_cout;
    const double panel_rate = panel <= 0.5 * (double)cpu->l1d_bytes   ? 64.0
                              : panel <= 0.75 * (double)cpu->l2_bytes ? 32.0
                                                                      : 12.0;
    const double weight_rate = weights <= 0.5 * (double)cpu->l2_bytes ? 32.0 : 12.0;
    double cycles = 0.0;
    for (int tail = 0; tail < 2; tail++) {
        const double v = tail ? ceil(rest / kernel->vector) : vectors;
        const double fma = fmax(rows * v / fma_rate, 4.0), loads = (rows + v) / 2.0;
        const double step = fmax(fmax(fma, loads), 4.0 * v * kernel->vector / panel_rate);
        cycles +=
            (tail ? (v > 0.0 ? 1.0 : 0.0) : tiles) * blocks * (k * step + 30.0 + 2.0 * rows * v);
    }
    cycles += 0.5 * (double)s->chunks * weights / weight_rate;
    if (c->source != DC_SOURCE_INPLACE) {
        cycles += 4.0 * k * (double)s->pixels * (double)s->out_chunks /
                  (p->desc.stride_w == 1 ? 10.0 : 6.0);
    }
    return (double)p->desc.n * (double)p->desc.groups * cycles / 3e9 / (double)s->tasks;
}

static const char *enumerate(const doconv_context *ctx, const struct dc_problem *p,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    const doconv_conv_desc *d = &p->desc;
    if (d->src_layout != DOCONV_NCHW || d->dst_layout != DOCONV_NCHW) {
        return "it takes NCHW on both sides";
    }
    if (d->kh != 1 || d->kw != 1 || d->pad_top != 0 || d->pad_left != 0 || d->pad_bottom != 0 ||
        d->pad_right != 0) {
        return "it takes 1x1 kernels without padding";
    }
    const struct dc_cpu *cpu = dc_cpu_probe();
    const int64_t tile = kernel->tile_pixels, pixels = p->hout * p->wout;
    const bool plain = d->stride_h == 1 && d->stride_w == 1;
    const char *refused = NULL;
    for (enum dc_source source = plain ? DC_SOURCE_INPLACE : DC_SOURCE_FLAT;
         source <= DC_SOURCE_FLAT; source += DC_SOURCE_FLAT) {
        /* A tile, what L1 holds, parts of L2, all. */
        const double pixel = 4.0 * (double)p->group_cin;
        const double targets[] = {0.0, 0.5 * (double)cpu->l1d_bytes / pixel,
                                  0.12 * (double)cpu->l2_bytes / pixel,
                                  0.4 * (double)cpu->l2_bytes / pixel, (double)pixels};
        int last = 0;
        for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
            const int64_t tiles =
                least((int64_t)fmin(targets[i], (double)pixels) / tile, divide_up(pixels, tile));
            const int64_t most = tiles < 1 ? tile
                                 : i + 1 == sizeof targets / sizeof targets[0]
                                     ? divide_up(pixels, tile) * tile
                                     : tiles * tile;
            /* Chunks of nearly equal size. */
            const int64_t chunks = divide_up(pixels, most),
                          chunk = divide_up(divide_up(pixels, chunks), tile) * tile;
            if (chunk > INT32_MAX || (int)chunk == last) {
                continue;
            }
            last = (int)chunk;
            struct dc_candidate c = {.kernel = kernel, .source = source, .pixels = last};
            struct state s;
            const char *reason = geometry(ctx, p, &c, &s);
            if (reason != NULL) {
                refused = reason;
                continue;
            }
            c.workspace_size = s.task_floats != 0
                                   ? (size_t)s.tasks * (size_t)s.task_floats * sizeof(float) + 64
                                   : 0;
            c.packed_size =
                (size_t)(s.bias_floats + d->groups * s.out_blocks * s.block_floats) * sizeof(float);
            c.estimated_seconds = estimate(p, &c, &s);
            snprintf(c.text, sizeof c.text, "planes:%s:src=%s,pixels=%d", kernel->name,
                     source == DC_SOURCE_INPLACE ? "inplace" : "panel", c.pixels);
            dc_candidate_append(ctx, list, &c);
            refused = NULL;
        }
    }
    return refused;
}

static doconv_status prepare(doconv_plan *plan)
{
    struct state *state = dc_alloc(plan->ctx, sizeof *state);
    if (state == NULL) {
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "plan: out of memory");
    }
    /* can't fail: enumerate() did it before */
    geometry(plan->ctx, &plan->problem, &plan->candidate, state);
    plan->state = state;
    return DOCONV_OK;
}

/*
 * [biases][group][output block][input channel][tile_channels], zeros where a block's channels end.
 */
static void pack(const doconv_plan *plan, const struct dc_weight_view *weight, const float *bias,
                 float *packed)
{
    const struct state *s = plan->state;
    const struct dc_problem *p = &plan->problem;
    const int64_t nr = plan->candidate.kernel->tile_channels, k = p->group_cin;
    memset(packed, 0, plan->candidate.packed_size);
    for (int64_t g = 0; g < p->desc.groups; g++) {
        for (int64_t b = 0; b < s->out_blocks; b++) {
            const int64_t index = g * s->out_blocks + b,
                          first = g * p->group_cout + block_first(p, s, b);
            const int64_t outputs = block_first(p, s, b + 1) - block_first(p, s, b);
            float *out = packed + s->bias_floats + index * s->block_floats;
            for (int64_t o = 0; o < outputs; o++) {
                if (bias != NULL) {
                    packed[index * nr + o] = bias[first + o];
                }
                const float *from =
                    weight->data + g * weight->group + (block_first(p, s, b) + o) * weight->out;
                for (int64_t c = 0; c < k; c++) {
                    out[c * nr + o] = from[c * weight->in];
                }
            }
        }
    }
}

struct job {
    const doconv_plan *plan;
    const float *packed, *src, *residual;
    float *dst;
    char *workspace;
    int64_t units;
};

static void run_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct state *s = job->plan->state;
    const struct dc_problem *p = &job->plan->problem;
    const doconv_conv_desc *d = &p->desc;
    const struct dc_kernel *kernel = job->plan->candidate.kernel;
    const int64_t plane = d->h * d->w;
    float *const line = (float *)job->workspace + index * s->task_floats, *const panel =
                                                                              line + s->line_floats;
    int64_t loaded = -1; /* the panel's place */
    for (int64_t i = job->units * index / s->tasks; i < job->units * (index + 1) / s->tasks; i++) {
        const int64_t out_chunk = i % s->out_chunks, place = i / s->out_chunks;
        const int64_t chunk = place % s->chunks, image_group = place / s->chunks,
                      group = image_group % d->groups;
        const int64_t begin = chunk * s->chunk, end = least(begin + s->chunk, s->pixels);
        /* [begin, in_place), then the panel's */
        const int64_t in_place = begin < s->whole ? least(end, s->whole) : begin;
        const float *const src = job->src + image_group * p->group_cin * plane;
        if (in_place < end && loaded != place) {
            kernel->planes.gather(&(struct dc_gather_args){
                .panel = panel,
                .panel_tile = s->panel_tile,
                .line = line,
                .src = src,
                .src_channel = plane,
                .src_row = d->w * d->stride_h,
                .step = d->stride_w,
                .columns = p->wout,
                .channels = p->group_cin,
                .first = in_place,
                .pixels = end - in_place,
            });
            loaded = place;
        }
        struct dc_planes_args args = {
            .channels = p->group_cin,
            .dst_channel = s->pixels,
            .lo = p->lo,
            .hi = p->hi,
        };
        const int64_t first_block = out_chunk * s->out_chunk;
        for (int64_t b = first_block; b < least(first_block + s->out_chunk, s->out_blocks); b++) {
            const int64_t channel = block_first(p, s, b), packed = group * s->out_blocks + b;
            const int64_t dst = (image_group * p->group_cout + channel) * s->pixels;
            args.outputs = block_first(p, s, b + 1) - channel;
            args.weights = job->packed + s->bias_floats + packed * s->block_floats;
            args.bias = job->packed + packed * kernel->tile_channels;
            if (begin < in_place) {
                args.src = src + begin;
                args.src_channel = plane;
                args.src_tile = kernel->tile_pixels;
                args.pixels = in_place - begin;
                args.dst = job->dst + dst + begin;
                args.residual = job->residual != NULL ? job->residual + dst + begin : NULL;
                args.fetch_next = b == first_block;
                kernel->planes.run(&args);
            }
            if (in_place < end) {
                args.src = panel;
                args.src_channel = kernel->tile_pixels;
                args.src_tile = s->panel_tile;
                args.pixels = end - in_place;
                args.dst = job->dst + dst + in_place;
                args.residual = job->residual != NULL ? job->residual + dst + in_place : NULL;
                args.fetch_next = 0;
                kernel->planes.run(&args);
            }
        }
    }
}

static void execute(const doconv_plan *plan, const float *packed, const float *src,
                    const float *residual, float *dst, char *workspace)
{
    const struct state *s = plan->state;
    struct job job = {
        .plan = plan,
        .packed = packed,
        .src = src,
        .residual = residual,
        .dst = dst,
        .workspace = workspace,
        .units = plan->problem.desc.n * plan->problem.desc.groups * s->chunks * s->out_chunks,
    };
    dc_parallel(plan->ctx, s->tasks, run_task, &job);
}

const struct dc_solver dc_solver_planes = {
    .name = "planes",
    .family = DC_FAMILY_PLANES,
    .enumerate = enumerate,
    .prepare = prepare,
    .pack = pack,
    .execute = execute,
};
