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

/* Taps that are brought side by side at a time, for a vector of lanes: they stay in L1. */
#define MOST_TAPS 9
/* Floats that packing a unit may write behind it. */
#define PACK_SLACK 16

/*
 * Inputs of a block from `first` on, DC_CHANNEL_BLOCK of them or what is left: `rows` kernel rows,
 * from `row` on, which are transformed together or each alone.
 */
static void pack_rows(const struct dc_winograd_state *s, const struct dc_weight_view *weight,
                      int64_t index, int64_t first, int64_t row, int64_t rows, float *to)
{
    const struct dc_winograd_kernel *w = &s->kernel->winograd;
    const int64_t nr = s->tile_channels, columns = w->taps, lines = w->axes == 2 ? rows : 1,
                  floats = least(DC_CHANNEL_BLOCK, s->cin - first) * nr;
    float filters[MOST_TAPS * DC_CHANNEL_BLOCK * DC_PACK_LANES + PACK_SLACK]
        __attribute__((aligned(64)));
    const struct dc_packed_weights part =
        dc_packed_weights(s->groups, s->cin, s->cout, rows, columns, nr);
    struct dc_weight_view view = *weight;
    view.data += row * weight->row;
    dc_pack_unit(&part, &s->gemm->direct, &view, index, first, filters);
    struct dc_winograd_filter_args args = {
        .src_tap = floats,
        .floats = floats,
        .point = s->taps * s->cin * nr,
        .stream = s->stream,
    };
    for (int64_t y = 0; y < rows; y += lines) {
        args.src = filters + y * columns * floats;
        args.points = to + (w->axes == 2 ? 0 : (row + y) * s->cin * nr) + first * nr;
        w->pack_filters(&args);
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
    const int64_t columns = s->kernel->winograd.taps,
                  height = s->kernel->winograd.axes == 2 ? columns : s->taps;
    for (int64_t c = first; c < last; c += DC_CHANNEL_BLOCK) {
        for (int64_t row = 0; row < height; row += MOST_TAPS / columns) {
            pack_rows(s, weight, index, c, row, least(MOST_TAPS / columns, height - row), block);
        }
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

/* Zeros between a block's weights and the next block's. */
static void finish_block(const struct dc_winograd_state *s, float *block)
{
    const struct dc_packed_weights *w = &s->weights;
    const int64_t floats = w->kh * w->kw * s->cin * s->tile_channels;
    memset(block + floats, 0, (size_t)(w->block_floats - floats) * sizeof *block);
}

/* And a block's biases. */
static void put_bias(const struct dc_winograd_state *s, int64_t index, const float *bias,
                     float *packed)
{
    dc_pack_bias(&s->weights, index, bias, packed + index * s->tile_channels);
    if (index == 0) {
        clear_gap(&s->weights, packed);
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
            finish_block(s, block_of(s, job->packed, block));
            put_bias(s, block, job->bias, job->packed);
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

/* A block that is folded a part at a time. */
struct making {
    const struct dc_winograd_state *s;
    int64_t index;
    float *block;
};

static void pack_part(void *arg, const struct dc_weight_view *view, const struct dc_part *part)
{
    const struct making *m = arg;
    const struct dc_weight_view turned = seen(m->s, view);
    pack_inputs(m->s, &turned, m->index, part->in, part->in + part->ins, m->block);
}

void dc_winograd_make_block(const doconv_plan *plan, const struct dc_weight_source *source,
                            int64_t index, bool whole, float *block, float *scratch)
{
    const struct dc_winograd_state *s = plan->state;
    finish_block(s, block);
    if (source->fold == NULL) {
        const struct dc_weight_view view = seen(s, &source->view);
        pack_inputs(s, &view, index, 0, s->cin, block);
        return;
    }
    struct making making = {.s = s, .index = index, .block = block};
    const int64_t out = index * s->tile_channels;
    dc_fold_block(source, out, least(s->tile_channels, s->cout - out), s->cin, whole, scratch,
                  pack_part, &making);
}

static void make(const doconv_plan *plan, const struct dc_weight_source *source, int64_t index,
                 float *packed, float *scratch)
{
    const struct dc_winograd_state *s = plan->state;
    put_bias(s, index, source->bias, packed);
    dc_winograd_make_block(plan, source, index, false, block_of(s, packed, index), scratch);
}

const struct dc_block_hooks dc_winograd_blocks = {
    .count = count,
    .weight_floats = weight_floats,
    .make = make,
};
