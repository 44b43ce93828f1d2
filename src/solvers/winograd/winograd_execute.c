/* SPDX-License-Identifier: MIT */
/*
 * Running a Winograd plan. A place is a block of tiles of one group: its inputs are transformed, a
 * direct tile multiplies them by the weights of each point, and the products of an output block are
 * transformed back (both in winograd_transform.c). Tasks own places; or, where these are fewer than
 * threads, all points are made first and tasks own places' chunks of output blocks. Each output has
 * the same sums whatever the block, the chunk and the task.
 */
#include "base/arithmetic.h"
#include "base/context.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "solvers/winograd/winograd.h"
#include "solvers/winograd/winograd_call.h"

/* Floats of packed weights that stay in L2 beside a block's points and products. */
#define SMALL_WEIGHTS 131072
/* Channels that a task of the transform alone takes at a time. */
#define SHARE (2 * DC_CHANNEL_BLOCK)

static struct dc_winograd_place place_of(const struct dc_winograd_state *s, int64_t number)
{
    const int64_t block = number / s->groups, of_image = s->tile_rows * s->tile_columns;
    struct dc_winograd_place place = {.group = number % s->groups};
    if (s->row_blocks == 0) {
        place.first = block * s->block;
        place.tiles = least(s->block, s->tiles - place.first);
    } else {
        const int64_t in_image = block % s->row_blocks * s->block;
        place.first = block / s->row_blocks * of_image + in_image;
        place.tiles = least(s->block, of_image - in_image);
    }
    return place;
}

/* ---- products ---- */

static const float *block_weights(const struct dc_winograd_job *job, int64_t group, int64_t ob)
{
    const struct dc_winograd_state *s = job->s;
    return job->packed + s->weights.bias_floats +
           (group * s->out_blocks + ob) * s->weights.block_floats;
}

static const float zeros[DC_PACK_LANES] __attribute__((aligned(64)));

/*
 * The products of a place's points, but for weights and sums, and the segments of `channels`
 * channels whose weights have taps `weight_tap` floats apart.
 */
static struct dc_run_args products_of(const struct dc_winograd_state *s,
                                      const struct dc_winograd_place *place, int64_t channels,
                                      ptrdiff_t weight_tap,
                                      struct dc_segment segments[DC_WINOGRAD_TAPS])
{
    for (int64_t tap = 0; tap < s->taps; tap++) {
        segments[tap] = (struct dc_segment){
            .src_offset = tap * s->tile_columns * s->points_tile,
            .weight_offset = tap * weight_tap,
            .length = channels,
        };
    }
    return (struct dc_run_args){
        .src_pixel = s->points_tile,
        .segments = segments,
        .segment_count = s->taps,
        .bias = zeros,
        .lines = 1,
        .pixels = place->tiles,
    };
}

/*
 * Output blocks [begin, end) of a place: point by point, so that a point's inputs serve all of them
 * from L1. after: what will be multiplied after the last.
 */
static void multiply(const struct dc_winograd_job *job, const struct dc_winograd_place *place,
                     const float *points, int64_t begin, int64_t end, const float *after,
                     float *products)
{
    const struct dc_winograd_state *s = job->s;
    const int64_t nr = s->tile_channels, floats = s->taps * s->cin * nr;
    const bool small = s->weights.block_floats * s->out_blocks * s->groups <= SMALL_WEIGHTS;
    struct dc_segment segments[DC_WINOGRAD_TAPS];
    struct dc_run_args args = products_of(s, place, s->cin, s->cin * nr, segments);
    args.soon_floats = small ? 0 : floats;
    for (int64_t point = 0; point < s->points; point++) {
        args.src = points + point * s->points_point;
        for (int64_t ob = begin; ob < end; ob++) {
            const bool last = ob + 1 == end;
            args.channels = least(nr, s->cout - ob * nr);
            args.weights = block_weights(job, place->group, ob) + point * floats;
            args.soon = !last ? block_weights(job, place->group, ob + 1) + point * floats
                        : point + 1 < s->points
                            ? block_weights(job, place->group, begin) + (point + 1) * floats
                            : after;
            args.partial_out = products + ((ob - begin) * s->points + point) * s->products_point;
            s->gemm->direct.run(&args);
        }
    }
}

static struct dc_winograd_output packed_output(const struct dc_winograd_job *job, int64_t group,
                                               int64_t ob)
{
    const struct dc_winograd_state *s = job->s;
    return (struct dc_winograd_output){
        .group = group,
        .ob = ob,
        .weights = block_weights(job, group, ob),
        .bias = job->packed + (group * s->out_blocks + ob) * s->tile_channels,
    };
}

/* Filters of `channels` inputs of an output block, whose weights begin at `block`. */
static void transform_filters(const struct dc_winograd_state *s, const float *block, int64_t first,
                              int64_t channels, float *filters)
{
    const int64_t nr = s->tile_channels, taps = s->weights.kh * s->weights.kw;
    for (int64_t c = 0; c < channels; c += DC_CHANNEL_BLOCK) {
        const int64_t rows = least(DC_CHANNEL_BLOCK, channels - c);
        struct dc_winograd_filter_args args = {
            .src_tap = rows * nr,
            .floats = rows * nr,
            .point = s->filters_point,
        };
        for (int64_t tap = 0; tap < s->taps; tap++) {
            args.src = block + ((first + c) * taps + tap * s->weights.kw * rows) * nr;
            args.points = filters + tap * s->filters_tap + c * nr;
            s->kernel->winograd.filter_rows(&args);
        }
    }
}

/*
 * An output block of a place, whose weights are transformed a chunk of input channels at a time:
 * they stay in L2, and the next chunk's come there in the meantime. ready: all of them are there.
 */
static void multiply_raw(const struct dc_winograd_job *job, const struct dc_winograd_task *task,
                         const struct dc_winograd_place *place, const float *points,
                         const struct dc_winograd_output *output, bool ready, const float *after)
{
    const struct dc_winograd_state *s = job->s;
    const int64_t nr = s->tile_channels, taps = s->weights.kh * s->weights.kw;
    const float *const block = output->weights;
    struct dc_segment segments[DC_WINOGRAD_TAPS];
    for (int64_t c = 0; c < s->cin; c += s->chunk) {
        const int64_t channels = least(s->chunk, s->cin - c);
        if (!ready) {
            transform_filters(s, block, c, channels, task->filters);
        }
        struct dc_run_args args = products_of(s, place, channels, s->filters_tap, segments);
        args.channels = least(nr, s->cout - output->ob * nr);
        /* Each point fetches its share of what is transformed next. */
        const bool ends = c + s->chunk >= s->cin;
        args.soon = ends ? after : block + (c + s->chunk) * taps * nr;
        args.soon_floats = least(s->chunk, ends ? s->cin : s->cin - c - s->chunk) * taps * nr /
                           s->points / 16 * 16;
        for (int64_t point = 0; point < s->points; point++) {
            args.src = points + point * s->points_point + c;
            args.weights = task->filters + point * s->filters_point;
            args.partial_out = task->products + point * s->products_point;
            args.partial_in = c != 0 ? args.partial_out : NULL;
            s->gemm->direct.run(&args);
            args.soon += args.soon_floats;
        }
    }
}

/* ---- tasks ---- */

static struct dc_winograd_task task_of(const struct dc_winograd_job *job, int index)
{
    const struct dc_winograd_state *s = job->s;
    float *const space = job->space + index * job->task_floats;
    struct dc_winograd_task task = {.points = space};
    task.products = space + (s->shared ? 0 : s->points_floats);
    task.strip = task.products + s->products_floats;
    task.rows = task.strip + s->strip_floats;
    task.filters = task.rows + s->rows_floats;
    task.made = space + s->task_floats;
    return task;
}

/* Where points are shared: places' channels, a few at a time. */
static void points_task(void *arg, int index)
{
    const struct dc_winograd_job *job = arg;
    const struct dc_winograd_state *s = job->s;
    const struct dc_winograd_task task = task_of(job, index);
    const int64_t shares = divide_up(s->cin, SHARE), units = s->places * shares;
    for (int64_t unit = units * index / s->tasks; unit < units * (index + 1) / s->tasks; unit++) {
        const int64_t number = unit / shares, first = unit % shares * SHARE;
        const struct dc_winograd_place place = place_of(s, number);
        dc_winograd_transform(job, &task, &place, first, least(s->cin, first + SHARE),
                              job->shared + number * s->points_floats);
    }
}

/* Output blocks [begin, end) of a place. after: what will be multiplied after the last. */
static void run_outputs(const struct dc_winograd_job *job, const struct dc_winograd_task *task,
                        const struct dc_winograd_place *place, const float *points, int64_t begin,
                        int64_t end, const float *after)
{
    const struct dc_winograd_state *s = job->s;
    for (int64_t ob = begin; ob < end; ob += s->outs) {
        const int64_t end_outs = least(end, ob + s->outs);
        const float *const next =
            end_outs < end ? block_weights(job, place->group, end_outs) : after;
        const struct dc_winograd_output first = packed_output(job, place->group, ob);
        if (s->chunk != 0) {
            multiply_raw(job, task, place, points, &first, false, next);
        } else {
            multiply(job, place, points, ob, end_outs, next, task->products);
        }
        for (int64_t i = ob; i < end_outs; i++) {
            const struct dc_winograd_output output = packed_output(job, place->group, i);
            dc_winograd_transform_back(job, task, place, &output,
                                       task->products + (i - ob) * s->points * s->products_point);
        }
    }
}

static void run_task(void *arg, int index)
{
    const struct dc_winograd_job *job = arg;
    const struct dc_winograd_state *s = job->s;
    const struct dc_winograd_task task = task_of(job, index);
    const int64_t units = s->places * s->out_chunks, last = units * (index + 1) / s->tasks;
    for (int64_t unit = units * index / s->tasks; unit < last; unit++) {
        const int64_t number = unit / s->out_chunks, begin = unit % s->out_chunks * s->out_chunk;
        const struct dc_winograd_place place = place_of(s, number);
        const float *points = task.points;
        if (s->shared) {
            points = job->shared + number * s->points_floats;
        } else {
            dc_winograd_transform(job, &task, &place, 0, s->cin, task.points);
        }
        /* The next unit's first block, or this one's once more. */
        const int64_t next = unit + 1 < last ? unit + 1 : unit;
        const float *const after = block_weights(job, next / s->out_chunks % s->groups,
                                                 next % s->out_chunks * s->out_chunk);
        run_outputs(job, &task, &place, points, begin, least(s->out_blocks, begin + s->out_chunk),
                    after);
    }
}

/* Where output blocks are made one by one: each for all places, whose points are there. */
static void made_task(void *arg, int index)
{
    const struct dc_winograd_job *job = arg;
    const struct dc_winograd_state *s = job->s;
    const struct dc_winograd_task task = task_of(job, index);
    const int64_t blocks = s->groups * s->out_blocks;
    for (int64_t i = blocks * index / s->tasks; i < blocks * (index + 1) / s->tasks; i++) {
        struct dc_winograd_output output = {.group = i / s->out_blocks, .ob = i % s->out_blocks};
        if (job->fresh != NULL) {
            float *const bias = task.made + s->weights.block_floats;
            dc_pack_bias(&s->weights, i, job->fresh->bias, bias);
            dc_winograd_make_block(job->plan, job->fresh, i, true, task.made,
                                   task.made + s->made_floats);
            output.weights = task.made;
            output.bias = bias;
        } else {
            output = packed_output(job, output.group, output.ob);
        }
        for (int64_t block = 0; block < s->blocks; block++) {
            const int64_t number = block * s->groups + output.group;
            const struct dc_winograd_place place = place_of(s, number);
            multiply_raw(job, &task, &place, job->shared + number * s->points_floats, &output,
                         block != 0 && s->chunk >= s->cin, output.weights);
            dc_winograd_transform_back(job, &task, &place, &output, task.products);
        }
    }
}

void dc_winograd_execute(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace)
{
    const struct dc_winograd_state *s = plan->state;
    const bool makes = tensors->packed == NULL;
    struct dc_winograd_job job = {
        .plan = plan,
        .s = s,
        .packed = tensors->packed,
        .fresh = makes ? tensors->fresh : NULL,
        .src = tensors->src,
        .residual = tensors->residual,
        .dst = tensors->dst,
        .shared = s->shared ? (float *)workspace : NULL,
        .space = (float *)workspace,
        .task_floats = s->task_floats + (makes ? s->fresh_floats : 0),
    };
    if (s->shared) {
        job.space += s->places * s->points_floats;
        dc_parallel(plan->ctx, s->tasks, points_task, &job);
    }
    dc_parallel(plan->ctx, s->tasks, s->made ? made_task : run_task, &job);
}
