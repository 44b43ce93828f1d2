/* SPDX-License-Identifier: MIT */
#include "geometry/packed_weights.h"

#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"

/*
 * Columns of a call of the packing kernel, and the most that a filter may span for it: 11 x 11 taps
 * of 16 channels fit.
 */
#define MOST_COLUMNS 2048

struct dc_packed_weights dc_packed_weights(int64_t groups, int64_t cin, int64_t cout, int64_t kh,
                                           int64_t kw, int64_t tile_channels)
{
    const int64_t out_blocks = divide_up(cout, tile_channels);
    return (struct dc_packed_weights){
        .groups = groups,
        .cin = cin,
        .cout = cout,
        .kh = kh,
        .kw = kw,
        .tile_channels = tile_channels,
        .out_blocks = out_blocks,
        .bias_floats = align_floats(groups * out_blocks * tile_channels),
        .block_floats = align_floats(cin * kh * kw * tile_channels),
    };
}

struct job {
    const struct dc_packed_weights *p;
    const struct dc_direct_kernel *kernel;
    const struct dc_weight_view *weight;
    int64_t first, units; /* (group, output block, 16 input channels): the first one's block */
    float *blocks;        /* packed, from the first on, */
    int64_t origin;       /* which begins with this input */
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

/* 16-channel parts of a block's inputs. */
static int64_t parts_of(const struct dc_packed_weights *p)
{
    return divide_up(p->cin, DC_CHANNEL_BLOCK);
}

static struct unit unit_of(const struct job *job, int64_t number)
{
    const struct dc_packed_weights *p = job->p;
    const struct dc_weight_view *w = job->weight;
    const int64_t part = number % parts_of(p), block = job->first + number / parts_of(p);
    const int64_t group = block / p->out_blocks, first = block % p->out_blocks * p->tile_channels,
                  start = part * DC_CHANNEL_BLOCK;
    return (struct unit){
        .from = w->data + group * w->group + (first - w->first) * w->out + start * w->in,
        .to = job->blocks + (block - job->first) * p->block_floats +
              (start - job->origin) * p->kh * p->kw * p->tile_channels,
        .lanes = least(p->tile_channels, p->cout - first),
        .channels = least(p->cin - start, DC_CHANNEL_BLOCK),
    };
}

/* Filters that span more than a call has columns, or that lie as no kernel expects. */
static void pack_portably(const struct job *job, const struct unit *u)
{
    const struct dc_packed_weights *p = job->p;
    const struct dc_weight_view *w = job->weight;
    for (int64_t c = 0; c < u->channels; c++) {
        for (int64_t o = 0; o < u->lanes; o++) {
            const float *at = u->from + c * w->in + o * w->out;
            float *to = u->to + c * p->tile_channels + o;
            for (int64_t y = 0; y < p->kh; y++, at += w->row) {
                for (int64_t x = 0; x < p->kw; x++, to += u->channels * p->tile_channels) {
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
    const struct dc_packed_weights *p = job->p;
    const struct dc_weight_view *w = job->weight;
    for (ptrdiff_t j = 0; j < columns; j++) {
        place[j] = -1;
    }
    for (int64_t c = 0; c < channels; c++) {
        for (int64_t y = 0; y < p->kh; y++) {
            for (int64_t x = 0; x < p->kw; x++) {
                place[c * w->in + y * w->row + x * w->column - job->low] =
                    ((y * p->kw + x) * of + c) * p->tile_channels;
            }
        }
    }
}

/* What a block has no channels for becomes zero. */
static void clear(const struct job *job, const struct unit *u, bool ends)
{
    const struct dc_packed_weights *p = job->p;
    const int64_t row = p->kh * p->kw * p->tile_channels;
    if (u->lanes < p->tile_channels || ends) {
        const int64_t floats =
            ends ? p->block_floats - (p->cin - u->channels) * row : u->channels * row;
        memset(u->to, 0, (size_t)floats * sizeof *u->to);
    }
}

static void pack_units(const struct job *job, int64_t begin, int64_t last)
{
    const struct dc_packed_weights *p = job->p;
    const struct dc_weight_view *w = job->weight;
    ptrdiff_t place[MOST_COLUMNS];
    int64_t mapped = 0; /* the channels that place is for */
    for (int64_t number = begin; number < last; number++) {
        const struct unit u = unit_of(job, number),
                          next = number + 1 < last ? unit_of(job, number + 1) : u;
        clear(job, &u, (number + 1) % parts_of(p) == 0);
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
            job->kernel->pack(&args);
            args.src += w->in;
            args.to += p->tile_channels;
            args.soon += c + 1 < next.channels ? w->in : 0;
        }
    }
}

static void pack_task(void *arg, int index)
{
    const struct job *job = arg;
    pack_units(job, job->units * index / job->tasks, job->units * (index + 1) / job->tasks);
}

/* Of `count` blocks from the block `first` on. */
static struct job create_job(const struct dc_packed_weights *p,
                             const struct dc_direct_kernel *kernel,
                             const struct dc_weight_view *weight, int64_t first, int64_t count,
                             float *blocks)
{
    struct job job = {.p = p, .kernel = kernel, .weight = weight, .first = first, .blocks = blocks};
    const int64_t rows = (p->kh - 1) * weight->row, columns = (p->kw - 1) * weight->column;
    job.units = count * parts_of(p);
    job.low = least(rows, 0) + least(columns, 0);
    job.span = most(rows, 0) + most(columns, 0) - job.low + 1;
    job.inputs_follow =
        weight->in < weight->out && (DC_CHANNEL_BLOCK - 1) * weight->in + job.span <= MOST_COLUMNS;
    return job;
}

void dc_pack_bias(const struct dc_packed_weights *p, int64_t index, const float *bias, float *to)
{
    const int64_t group = index / p->out_blocks, channel = index % p->out_blocks * p->tile_channels;
    memset(to, 0, (size_t)p->tile_channels * sizeof *to);
    if (bias != NULL) {
        const int64_t count = least(p->tile_channels, p->cout - channel);
        memcpy(to, bias + group * p->cout + channel, (size_t)count * sizeof *to);
    }
}

void dc_pack_weights(const doconv_context *ctx, int threads, const struct dc_packed_weights *p,
                     const struct dc_direct_kernel *kernel, const struct dc_weight_view *weight,
                     const float *bias, float *packed)
{
    const int64_t blocks = p->groups * p->out_blocks;
    for (int64_t block = 0; block < blocks; block++) {
        dc_pack_bias(p, block, bias, packed + block * p->tile_channels);
    }
    struct job job = create_job(p, kernel, weight, 0, blocks, packed + p->bias_floats);
    job.tasks = (int)least(threads, job.units);
    dc_parallel(ctx, job.tasks, pack_task, &job);
}

void dc_pack_inputs(const struct dc_packed_weights *p, const struct dc_direct_kernel *kernel,
                    const struct dc_weight_view *weight, int64_t index, int64_t first,
                    int64_t count, float *block)
{
    const struct job job = create_job(p, kernel, weight, index, 1, block);
    pack_units(&job, first / DC_CHANNEL_BLOCK, divide_up(first + count, DC_CHANNEL_BLOCK));
}

void dc_pack_unit(const struct dc_packed_weights *p, const struct dc_direct_kernel *kernel,
                  const struct dc_weight_view *weight, int64_t index, int64_t first, float *to)
{
    struct job job = create_job(p, kernel, weight, index, 1, to);
    job.origin = first;
    pack_units(&job, first / DC_CHANNEL_BLOCK, first / DC_CHANNEL_BLOCK + 1);
}
