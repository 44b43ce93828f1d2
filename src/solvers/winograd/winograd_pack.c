/* SPDX-License-Identifier: MIT */
/*
 * Packed weights of Winograd plans: filters transformed in double precision, so that they are
 * rounded once; or, where the call transforms them, as direct tiles have them.
 */
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "geometry/packed_weights.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/solver.h"
#include "solvers/winograd/winograd.h"

/* Inputs that are folded before they are packed: both stay in L1 or L2. */
#define FOLDED_INPUTS (8 * DC_CHANNEL_BLOCK)

/* Room for a row of packed weights, and taps of those. */
enum { LANES = DC_PACK_LANES, MOST = DC_WINOGRAD_POINTS, TAPS = DC_WINOGRAD_FILTER };

/* to[p * row + lane] = sum over k of G[p][k] * f[k * tap + lane], in the order of k */
static void transform(const struct dc_winograd_kernel *w, int64_t lanes, const double *f,
                      int64_t tap, double *to, int64_t row)
{
    const double *g = w->filter;
    for (int p = 0; p < w->points; p++, g += w->taps) {
        for (int64_t lane = 0; lane < lanes; lane++) {
            double sum = g[0] * f[lane];
            for (int k = 1; k < w->taps; k++) {
                sum += g[k] * f[k * tap + lane];
            }
            to[p * row + lane] = sum;
        }
    }
}

/* One input of a block: `lanes` filters, `at` its first one's first tap. */
static void pack_input(const struct dc_winograd_state *s, const struct dc_weight_view *weight,
                       const float *at, int64_t lanes, float *to)
{
    const struct dc_winograd_kernel *w = &s->kernel->winograd;
    const int64_t nr = s->tile_channels, point = s->taps * s->cin * nr, taps = w->taps;
    for (int64_t tap = 0; tap < s->taps; tap++) {
        double f[TAPS * TAPS * LANES] = {0}, rows[MOST * TAPS * LANES], all[MOST * MOST * LANES];
        const int64_t height = w->axes == 2 ? taps : 1;
        for (int64_t y = 0; y < height; y++) {
            for (int64_t x = 0; x < taps; x++) {
                const float *from = at + (tap + y) * weight->row + x * weight->column;
                for (int64_t lane = 0; lane < lanes; lane++) {
                    f[(y * taps + x) * LANES + lane] = (double)from[lane * weight->out];
                }
            }
        }
        for (int64_t x = 0; x < taps && w->axes == 2; x++) {
            transform(w, nr, f + x * LANES, taps * LANES, rows + x * LANES, taps * LANES);
        }
        for (int64_t p = 0; p < w->points && w->axes == 2; p++) {
            transform(w, nr, rows + p * taps * LANES, LANES, all + p * w->points * LANES, LANES);
        }
        if (w->axes == 1) {
            transform(w, nr, f, LANES, all, LANES);
        }
        for (int64_t p = 0; p < s->points; p++) {
            float *const row = to + p * point + tap * s->cin * nr;
            for (int64_t lane = 0; lane < nr; lane++) {
                row[lane] = (float)all[p * LANES + lane];
            }
        }
    }
}

/* Weights as the plan's view sees them. */
static struct dc_weight_view seen(const struct dc_winograd_state *s,
                                  const struct dc_weight_view *weight)
{
    struct dc_weight_view view = *weight;
    if (s->down) {
        view.row = weight->column;
        view.column = weight->row;
    }
    return view;
}

/* Inputs [first, last) of block `index` of all groups' blocks. */
static void pack_inputs(const struct dc_winograd_state *s, const struct dc_weight_view *weight,
                        int64_t index, int64_t first, int64_t last, float *block)
{
    if (s->chunk != 0) {
        dc_pack_inputs(&s->weights, &s->gemm->direct, weight, index, first, last - first, block);
        return;
    }
    const int64_t group = index / s->out_blocks, out = index % s->out_blocks * s->tile_channels;
    const float *at = weight->data + group * weight->group + (out - weight->first) * weight->out;
    for (int64_t c = first; c < last; c++) {
        pack_input(s, weight, at + c * weight->in, least(s->tile_channels, s->cout - out),
                   block + c * s->tile_channels);
    }
}

static float *block_of(const struct dc_winograd_state *s, float *packed, int64_t index)
{
    return packed + s->weights.bias_floats + index * s->weights.block_floats;
}

/*
 * Zeros in what lies between the last bias and the first weight: never read, but the same in all
 * packed weights.
 */
static void clear_gap(const struct dc_packed_weights *w, float *packed)
{
    const int64_t biases = w->groups * w->out_blocks * w->tile_channels;
    memset(packed + biases, 0, (size_t)(w->bias_floats - biases) * sizeof *packed);
}

/* A block's biases; and zeros between its weights and the next block's. */
static void finish_block(const struct dc_winograd_state *s, int64_t index, const float *bias,
                         float *packed)
{
    const struct dc_packed_weights *w = &s->weights;
    const int64_t floats = w->kh * w->kw * s->cin * s->tile_channels;
    memset(block_of(s, packed, index) + floats, 0,
           (size_t)(w->block_floats - floats) * sizeof *packed);
    dc_pack_bias(w, index, bias, packed + index * s->tile_channels);
    if (index == 0) {
        clear_gap(w, packed);
    }
}

struct job {
    const struct dc_winograd_state *s;
    const struct dc_weight_view *weight;
    const float *bias;
    float *packed;
    int64_t parts; /* of a block, of DC_CHANNEL_BLOCK inputs each */
    int64_t units;
    int tasks;
};

static void pack_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_winograd_state *s = job->s;
    for (int64_t unit = job->units * index / job->tasks;
         unit < job->units * (index + 1) / job->tasks; unit++) {
        const int64_t block = unit / job->parts, first = unit % job->parts * DC_CHANNEL_BLOCK;
        pack_inputs(s, job->weight, block, first, least(s->cin, first + DC_CHANNEL_BLOCK),
                    block_of(s, job->packed, block));
        if (first == 0) {
            finish_block(s, block, job->bias, job->packed);
        }
    }
}

void dc_winograd_pack(const doconv_plan *plan, const struct dc_weight_view *weight,
                      const float *bias, float *packed)
{
    const struct dc_winograd_state *s = plan->state;
    const struct dc_weight_view view = seen(s, weight);
    if (s->chunk != 0) {
        clear_gap(&s->weights, packed);
        dc_pack_weights(plan->ctx, plan->problem.threads, &s->weights, &s->gemm->direct, &view,
                        bias, packed);
        return;
    }
    struct job job = {.s = s, .weight = &view, .bias = bias, .packed = packed};
    job.parts = divide_up(s->cin, DC_CHANNEL_BLOCK);
    job.units = s->groups * s->out_blocks * job.parts;
    job.tasks = (int)least(plan->problem.threads, job.units);
    dc_parallel(plan->ctx, job.tasks, pack_task, &job);
}

static int64_t count(const doconv_plan *plan)
{
    const struct dc_winograd_state *s = plan->state;
    return s->groups * s->out_blocks;
}

static int64_t weight_floats(const doconv_plan *plan)
{
    const struct dc_winograd_state *s = plan->state;
    return s->tile_channels * s->cin * plan->problem.desc.kh * plan->problem.desc.kw;
}

static void make(const doconv_plan *plan, const struct dc_weight_source *source, int64_t index,
                 float *packed, float *scratch)
{
    const struct dc_winograd_state *s = plan->state;
    float *const block = block_of(s, packed, index);
    finish_block(s, index, source->bias, packed);
    struct dc_weight_view view = seen(s, &source->view);
    if (source->fold == NULL) {
        pack_inputs(s, &view, index, 0, s->cin, block);
        return;
    }
    struct dc_part part = {.out = index * s->tile_channels};
    part.outs = least(s->tile_channels, s->cout - part.out);
    view.first = part.out;
    const struct dc_tensors tensors = {.w = source->w, .d = source->d, .weight = source->folded};
    for (part.in = 0; part.in < s->cin; part.in += part.ins) {
        part.ins = least(FOLDED_INPUTS, s->cin - part.in);
        source->fold->candidate.solver->parts->run(source->fold, &part, &tensors, scratch);
        pack_inputs(s, &view, index, part.in, part.in + part.ins, block);
    }
}

const struct dc_block_hooks dc_winograd_blocks = {
    .count = count,
    .weight_floats = weight_floats,
    .make = make,
};
