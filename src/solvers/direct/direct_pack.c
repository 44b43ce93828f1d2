/* SPDX-License-Identifier: MIT */
/*
 * Packed weights of direct plans: [biases][group][output block][16-channel
 * block][tap][channel][tile_channels], zeros where channels end.
 */
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "compose/fold.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/solver.h"
#include "solvers/direct/direct.h"

/*
 * Columns of a call of the packing kernel, and the most that a filter may span for it: 11 x 11 taps
 * of 16 channels fit.
 */
#define MOST_COLUMNS 2048
/* Units that are folded before they are packed. */
#define FOLDED_UNITS 8

struct job {
    const doconv_plan *plan;
    const struct dc_weight_view *weight;
    /* (group, output block, 16 input channels): the first one's block, and how many */
    int64_t first, units;
    float *blocks; /* packed, from the first on */
    int tasks;
    int64_t low, span; /* taps lie from `low` on in `span` floats, from an input's first */
    /* the inputs of an output follow each other in memory, so that many are packed in a call */
    bool inputs_follow;
};

/* A unit: lanes outputs and channels inputs of a block, and where they begin. */
struct unit {
    const float *from;
    float *to;
    int64_t lanes, channels;
};

static struct unit unit_of(const struct job *job, int64_t number)
{
    const struct dc_direct_state *s = job->plan->state;
    const struct dc_weight_view *w = job->weight;
    const int64_t parts = divide_up(s->cin, DC_CHANNEL_BLOCK), part = number % parts,
                  block = job->first + number / parts;
    const int64_t group = block / s->out_blocks, first = block % s->out_blocks * s->tile_channels,
                  start = part * DC_CHANNEL_BLOCK;
    return (struct unit){
        .from = w->data + group * w->group + first * w->out + start * w->in,
        .to = job->blocks + (block - job->first) * s->block_floats +
              start * s->taps * s->tile_channels,
        .lanes = least(s->tile_channels, s->cout - first),
        .channels = least(s->cin - start, DC_CHANNEL_BLOCK),
    };
}

/* Filters that span more than a call has columns, or that lie as no kernel expects. */
static void pack_portably(const struct job *job, const struct unit *u)
{
    const struct dc_direct_state *s = job->plan->state;
    const struct dc_weight_view *w = job->weight;
    const doconv_conv_desc *d = &job->plan->problem.desc;
    for (int64_t c = 0; c < u->channels; c++) {
        for (int64_t o = 0; o < u->lanes; o++) {
            const float *at = u->from + c * w->in + o * w->out;
            float *to = u->to + c * s->tile_channels + o;
            for (int64_t y = 0; y < d->kh; y++, at += w->row) {
                for (int64_t x = 0; x < d->kw; x++, to += u->channels * s->tile_channels) {
                    *to = at[x * w->column];
                }
            }
        }
    }
}

/* Where the columns of `channels` inputs of an output go. */
static void map_columns(const struct job *job, int64_t channels, int64_t of, ptrdiff_t columns,
                        ptrdiff_t *place)
{
    const struct dc_direct_state *s = job->plan->state;
    const struct dc_weight_view *w = job->weight;
    const doconv_conv_desc *d = &job->plan->problem.desc;
    for (ptrdiff_t j = 0; j < columns; j++) {
        place[j] = -1;
    }
    for (int64_t c = 0; c < channels; c++) {
        for (int64_t y = 0; y < d->kh; y++) {
            for (int64_t x = 0; x < d->kw; x++) {
                place[c * w->in + y * w->row + x * w->column - job->low] =
                    ((y * d->kw + x) * of + c) * s->tile_channels;
            }
        }
    }
}

static void pack_units(const struct job *job, int64_t begin, int64_t last)
{
    const struct dc_direct_state *s = job->plan->state;
    const struct dc_weight_view *w = job->weight;
    const struct dc_kernel *kernel = job->plan->candidate.kernel;
    const int64_t nr = s->tile_channels;
    ptrdiff_t place[MOST_COLUMNS];
    int64_t mapped = 0; /* the channels that place is for */
    for (int64_t number = begin; number < last; number++) {
        const struct unit u = unit_of(job, number),
                          next = number + 1 < last ? unit_of(job, number + 1) : u;
        const bool ends = (number + 1) % divide_up(s->cin, DC_CHANNEL_BLOCK) == 0;
        if (u.lanes < nr || ends) {
            const float *const end =
                u.to + (ends ? s->block_floats - (s->cin - u.channels) * s->taps * nr
                             : u.channels * s->taps * nr);
            memset(u.to, 0, (size_t)(end - u.to) * sizeof *u.to);
        }
        if (job->span > MOST_COLUMNS) {
            pack_portably(job, &u);
            continue;
        }
        const int64_t together = job->inputs_follow ? u.channels : 1;
        struct dc_pack_args args = {
            .src = u.from + job->low,
            .lane_step = w->out,
            .lanes = u.lanes,
            .place = place,
            .columns = (together - 1) * w->in + job->span,
            .to = u.to,
            .soon = next.from + job->low,
            .soon_rows = job->inputs_follow ? next.lanes : 1,
            .soon_step = w->out,
            .soon_floats = job->inputs_follow ? (next.channels - 1) * w->in + job->span
                                              : (next.lanes - 1) * w->out + job->span,
        };
        if (mapped != u.channels) {
            map_columns(job, together, u.channels, args.columns, place);
            mapped = u.channels;
        }
        for (int64_t c = 0; c < u.channels; c += together) {
            kernel->direct.pack(&args);
            args.src += w->in;
            args.to += nr;
            args.soon += c + 1 < next.channels ? w->in : 0;
        }
    }
}

static void pack_task(void *arg, int index)
{
    const struct job *job = arg;
    pack_units(job, job->units * index / job->tasks, job->units * (index + 1) / job->tasks);
}

static struct job create_job(const doconv_plan *plan, const struct dc_weight_view *weight,
                             int64_t first, int64_t count, float *blocks)
{
    const struct dc_direct_state *s = plan->state;
    const doconv_conv_desc *d = &plan->problem.desc;
    struct job job = {.plan = plan, .weight = weight, .first = first, .blocks = blocks};
    const int64_t rows = (d->kh - 1) * weight->row, columns = (d->kw - 1) * weight->column;
    job.units = count * divide_up(s->cin, DC_CHANNEL_BLOCK);
    job.tasks = (int)least(plan->ctx->threads, job.units);
    job.low = least(rows, 0) + least(columns, 0);
    job.span = most(rows, 0) + most(columns, 0) - job.low + 1;
    job.inputs_follow =
        weight->in < weight->out && (DC_CHANNEL_BLOCK - 1) * weight->in + job.span <= MOST_COLUMNS;
    return job;
}

/* A block's biases; bias: all of them, or NULL. */
static void pack_bias(const doconv_plan *plan, int64_t block, const float *bias, float *to)
{
    const struct dc_direct_state *s = plan->state;
    const int64_t group = block / s->out_blocks, channel = block % s->out_blocks * s->tile_channels;
    memset(to, 0, (size_t)s->tile_channels * sizeof *to);
    if (bias != NULL) {
        memcpy(to, bias + group * s->cout + channel,
               (size_t)least(s->tile_channels, s->cout - channel) * sizeof *to);
    }
}

void dc_direct_pack(const doconv_plan *plan, const struct dc_weight_view *weight, const float *bias,
                    float *packed)
{
    const struct dc_direct_state *s = plan->state;
    const int64_t blocks = s->groups * s->out_blocks;
    for (int64_t block = 0; block < blocks; block++) {
        pack_bias(plan, block, bias, packed + block * s->tile_channels);
    }
    struct job job = create_job(plan, weight, 0, blocks, packed + s->bias_floats);
    dc_parallel(plan->ctx, job.tasks, pack_task, &job);
}

bool dc_direct_folds_blocks(const doconv_fold_desc *fold)
{
    return fold->groups == 1;
}

bool dc_direct_shares_blocks(const doconv_plan *plan)
{
    const struct dc_direct_state *s = plan->state;
    const int64_t blocks = s->groups * s->out_chunks;
    return 4 * blocks >= 3 * divide_up(blocks, s->tasks) * s->tasks;
}

void dc_direct_make_block(const doconv_plan *plan, const struct dc_weight_source *source,
                          int64_t index, float *bias, float *block, float *scratch)
{
    const struct dc_direct_state *s = plan->state;
    const struct job job = create_job(plan, &source->view, index, 1, block);
    pack_bias(plan, index, source->bias, bias);
    /* What is folded is packed while it is in L1 or L2. */
    const int64_t piece = source->fold != NULL ? FOLDED_UNITS : job.units,
                  first = index * s->tile_channels;
    for (int64_t unit = 0; unit < job.units; unit += piece) {
        if (source->fold != NULL) {
            const int64_t in = unit * DC_CHANNEL_BLOCK;
            const struct dc_fold_part part = {.out = first,
                                              .outs = least(s->tile_channels, s->cout - first),
                                              .in = in,
                                              .ins = least(piece * DC_CHANNEL_BLOCK, s->cin - in)};
            dc_fold_part(plan->ctx, source->fold, &part, source->w, source->d, source->folded,
                         scratch);
        }
        pack_units(&job, unit, least(unit + piece, job.units));
    }
}
