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
#include "base/costs.h"
#include "base/cpu.h"
#include "base/log.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "solvers/planes.h"

/* What a candidate chooses. */
struct parameters {
    int panel;  /* 1: pixels come through a panel of tiles; 0: they are read in place */
    int pixels; /* output pixels of a unit */
};

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

static const char *geometry(const struct dc_problem *p, const struct dc_kernel *kernel,
                            const struct parameters *q, struct state *s)
{
    const int64_t tile = kernel->tile_pixels, nr = kernel->tile_channels;
    *s = (struct state){.pixels = p->hout * p->wout};
    s->chunk = least(q->pixels, s->pixels);
    s->chunks = divide_up(s->pixels, s->chunk);
    s->out_blocks = divide_up(p->group_cout, nr);
    const int64_t base = p->desc.n * p->desc.groups * s->chunks;
    s->out_chunk = dc_cut_outputs(p->threads, base, s->out_blocks);
    s->out_chunks = divide_up(s->out_blocks, s->out_chunk);
    s->tasks = (int)least(p->threads, base * s->out_chunks);
    const bool in_place = !q->panel;
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

/* Seconds, as the direct solver's estimate. */
static double estimate(const struct dc_problem *p, const struct dc_kernel *kernel,
                       const struct parameters *q, const struct state *s)
{
    const struct dc_cpu *cpu = dc_cpu_probe();
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
    if (q->panel) {
        cycles += 4.0 * k * (double)s->pixels * (double)s->out_chunks /
                  (p->desc.stride_w == 1 ? 10.0 : 6.0);
    }
    return (double)p->desc.n * (double)p->desc.groups * cycles / DC_NOMINAL_HERTZ /
           (double)s->tasks;
}

static const char *offer(const doconv_context *ctx, const struct dc_problem *p,
                         const struct dc_kernel *kernel, const struct parameters *q,
                         struct dc_candidate_list *list)
{
    struct state s;
    const char *refused = geometry(p, kernel, q, &s);
    if (refused != NULL) {
        return refused;
    }
    const size_t workspace = (size_t)s.tasks * (size_t)s.task_floats * sizeof(float);
    struct dc_candidate c = {
        .solver = &dc_solver_planes,
        .kernel = kernel,
        .order_of_sums = DC_SUMS_CHANNELS,
        .error_amplification = kernel->error_amplification,
        .workspace_size = workspace != 0 ? workspace + 64 : 0,
        .packed_size = (size_t)(s.bias_floats + p->desc.groups * s.out_blocks * s.block_floats) *
                       sizeof(float),
        .estimated_seconds = estimate(p, kernel, q, &s),
    };
    dc_set_parameters(&c, q);
    dc_candidate_append(ctx, list, &c);
    return NULL;
}

static void describe(const struct dc_candidate *c, char *text, size_t size)
{
    struct parameters q;
    dc_get_parameters(c, &q);
    snprintf(text, size, ":src=%s,pixels=%d", q.panel ? "panel" : "inplace", q.pixels);
}

/* Whole tiles of pixels of a unit, in chunks of nearly equal size; `target`: pixels, or fewer. */
static int64_t chunk_for(int64_t pixels, int64_t tile, double target)
{
    const int64_t all = divide_up(pixels, tile);
    const int64_t tiles =
        target >= (double)pixels ? all : most(1, least((int64_t)target / tile, all));
    const int64_t chunks = divide_up(pixels, tiles * tile);
    return divide_up(divide_up(pixels, chunks), tile) * tile;
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
    const int64_t pixels = p->hout * p->wout;
    const int before = list->count;
    const char *refused = NULL;
    for (int panel = d->stride_h != 1 || d->stride_w != 1; panel <= 1; panel++) {
        /* A tile, what L1 holds, parts of L2, all. */
        const double pixel = 4.0 * (double)p->group_cin;
        const double targets[] = {0.0, 0.5 * (double)cpu->l1d_bytes / pixel,
                                  0.12 * (double)cpu->l2_bytes / pixel,
                                  0.4 * (double)cpu->l2_bytes / pixel, (double)pixels};
        enum { TARGETS = sizeof targets / sizeof targets[0] };
        int offered[TARGETS], count = 0;
        for (int i = 0; i < TARGETS; i++) {
            const int64_t chunk = chunk_for(pixels, kernel->tile_pixels, targets[i]);
            if (chunk > INT32_MAX || !is_new((int)chunk, offered, &count)) {
                continue;
            }
            const struct parameters q = {.panel = panel, .pixels = (int)chunk};
            const char *reason = offer(ctx, p, kernel, &q, list);
            refused = reason != NULL ? reason : refused;
        }
    }
    return list->count > before ? NULL : refused;
}

static doconv_status prepare(doconv_plan *plan)
{
    struct state *state = dc_alloc(plan->ctx, sizeof *state);
    if (state == NULL) {
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "plan: out of memory");
    }
    struct parameters q;
    dc_get_parameters(&plan->candidate, &q);
    geometry(&plan->problem, plan->candidate.kernel, &q, state); /* enumerate() did it before */
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

/* Pixels [begin, end) of an image and group; [begin, in_place) are read there, the rest a panel. */
struct chunk {
    int64_t image_group, group, begin, in_place, end;
    const float *src; /* the group's first channel */
};

static void gather(const struct job *job, const struct chunk *c, float *line, float *panel)
{
    const struct state *s = job->plan->state;
    const struct dc_problem *p = &job->plan->problem;
    const doconv_conv_desc *d = &p->desc;
    const struct dc_gather_args args = {
        .panel = panel,
        .panel_tile = s->panel_tile,
        .line = line,
        .src = c->src,
        .src_channel = d->h * d->w,
        .src_row = d->w * d->stride_h,
        .step = d->stride_w,
        .columns = p->wout,
        .channels = p->group_cin,
        .first = c->in_place,
        .pixels = c->end - c->in_place,
    };
    job->plan->candidate.kernel->planes.gather(&args);
}

/* Output block b of a chunk. fetch: its pixels are read for the first time. */
static void run_block(const struct job *job, const struct chunk *c, int64_t b, bool fetch,
                      const float *panel)
{
    const struct state *s = job->plan->state;
    const struct dc_problem *p = &job->plan->problem;
    const struct dc_kernel *kernel = job->plan->candidate.kernel;
    const int64_t channel = block_first(p, s, b), packed = c->group * s->out_blocks + b;
    const int64_t dst = (c->image_group * p->group_cout + channel) * s->pixels;
    struct dc_planes_args args = {
        .channels = p->group_cin,
        .dst_channel = s->pixels,
        .outputs = block_first(p, s, b + 1) - channel,
        .weights = job->packed + s->bias_floats + packed * s->block_floats,
        .bias = job->packed + packed * kernel->tile_channels,
        .lo = p->lo,
        .hi = p->hi,
    };
    if (c->begin < c->in_place) {
        args.src = c->src + c->begin;
        args.src_channel = p->desc.h * p->desc.w;
        args.src_tile = kernel->tile_pixels;
        args.pixels = c->in_place - c->begin;
        args.dst = job->dst + dst + c->begin;
        args.residual = job->residual != NULL ? job->residual + dst + c->begin : NULL;
        args.fetch_next = fetch;
        kernel->planes.run(&args);
    }
    if (c->in_place < c->end) {
        args.src = panel;
        args.src_channel = kernel->tile_pixels;
        args.src_tile = s->panel_tile;
        args.pixels = c->end - c->in_place;
        args.dst = job->dst + dst + c->in_place;
        args.residual = job->residual != NULL ? job->residual + dst + c->in_place : NULL;
        args.fetch_next = 0;
        kernel->planes.run(&args);
    }
}

static void run_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct state *s = job->plan->state;
    const struct dc_problem *p = &job->plan->problem;
    const int64_t plane = p->desc.h * p->desc.w;
    float *const line = (float *)job->workspace + index * s->task_floats;
    float *const panel = line + s->line_floats;
    int64_t loaded = -1; /* the panel's place */
    for (int64_t i = job->units * index / s->tasks; i < job->units * (index + 1) / s->tasks; i++) {
        const int64_t out_chunk = i % s->out_chunks, place = i / s->out_chunks,
                      image_group = place / s->chunks;
        struct chunk c = {
            .image_group = image_group,
            .group = image_group % p->desc.groups,
            .begin = place % s->chunks * s->chunk,
            .src = job->src + image_group * p->group_cin * plane,
        };
        c.end = least(c.begin + s->chunk, s->pixels);
        c.in_place = c.begin < s->whole ? least(c.end, s->whole) : c.begin;
        if (c.in_place < c.end && loaded != place) {
            gather(job, &c, line, panel);
            loaded = place;
        }
        const int64_t first = out_chunk * s->out_chunk;
        for (int64_t b = first; b < least(first + s->out_chunk, s->out_blocks); b++) {
            run_block(job, &c, b, b == first, panel);
        }
    }
}

static void execute(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace)
{
    const struct state *s = plan->state;
    struct job job = {
        .plan = plan,
        .packed = tensors->packed,
        .src = tensors->src,
        .residual = tensors->residual,
        .dst = tensors->dst,
        .workspace = workspace,
        .units = plan->problem.desc.n * plan->problem.desc.groups * s->chunks * s->out_chunks,
    };
    dc_parallel(plan->ctx, s->tasks, run_task, &job);
}

const struct dc_solver dc_solver_planes = {
    .name = "planes",
    .operation = DC_CONVOLUTION,
    .family = DC_FAMILY_PLANES,
    .enumerate = enumerate,
    .describe = describe,
    .prepare = prepare,
    .execute = execute,
    .pack = pack,
};
