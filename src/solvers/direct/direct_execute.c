/* SPDX-License-Identifier: MIT */
/*
 * Running a direct plan. Units (image, group, row block, chunk of output blocks) are dealt out to
 * tasks in contiguous ranges; a unit loads its strip, then takes each output block over all its
 * runs of pixels. Neighbours share their pixels or, in the other orders, their weights. The
 * additions of an output come in the same order however units, passes and runs are cut: results
 * don't depend on threads.
 */
#include "base/arithmetic.h"
#include "base/context.h"
#include "base/layout.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "geometry/strips.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "solvers/direct/direct.h"

/* Floats of packed weights that stay in L2 beside a unit's inputs. */
#define SMALL_WEIGHTS 65536

struct job {
    const doconv_plan *plan;
    const struct dc_direct_state *s;
    const float *packed, *src, *residual;
    float *dst;
    char *workspace;
    int64_t units;
    const struct dc_weight_source *fresh; /* weights that are made on the way; NULL: packed */
    ptrdiff_t task_floats;                /* a task's part of the workspace */
};

struct unit {
    int64_t n, group, row_block, chunk;
    int64_t place; /* of all (image, group, row block) */
    int64_t row0, rows, pixels;
    int64_t pass, channel0, channels; /* channels of the pass, from the group's first */
    float *strip, *partial;
};

static void load_strip(const struct job *job, const struct unit *u)
{
    const struct dc_direct_state *s = job->s;
    const struct dc_problem *p = &job->plan->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t first = u->group * s->cin + u->channel0;
    struct dc_load_args args = dc_load_from(&s->src_map, job->src + u->n * s->src_map.image, first,
                                            least(u->channels, d->cin - first), d->h, d->w);
    args.strip = u->strip;
    args.strip_block = s->strip_block;
    args.strip_row = s->strip_row;
    args.strip_pixel = s->strip_pixel;
    args.columns = s->strip_columns;
    const int64_t row = u->row0 * d->stride_h - d->pad_top;
    if (!s->flat) {
        args.rows = (u->rows - 1) * d->stride_h + (d->kh - 1) * d->dilation_h + 1;
        args.y0 = row;
        args.x0 = -d->pad_left;
        job->plan->candidate.kernel->direct.load(&args);
        return;
    }
    args.step_x = d->stride_w;
    args.step_y = d->stride_h;
    args.rows = s->strip_rows - (s->rows - u->rows);
    for (int64_t x = 0; x < d->kw; x++) {
        for (int64_t phase = 0; phase < s->phases; phase++) {
            args.strip = u->strip + x * s->strip_plane + phase * s->strip_phase;
            args.y0 = row + phase;
            args.x0 = x * d->dilation_w - d->pad_left;
            job->plan->candidate.kernel->direct.load(&args);
        }
    }
}

/* One output block of a unit's pass: where its channels lie and how its runs end. */
struct block {
    struct dc_run_args args;
    struct dc_store_args store;
    bool through_buffer; /* sums go to the buffer, then store() */
    /* sums of the unit's pixels between passes; else a buffer of tile_pixels */
    float *partial;
    bool first, last;
    const float *next; /* the weights that follow: each run fetches its share of them into L2 */
    ptrdiff_t next_floats;
    int64_t pixels; /* of the unit: all runs */
};

/*
 * Lets a run of `pixels` pixels, from the unit's pixel `slot` on, fetch its share of the weights
 * that follow.
 */
static void share_next(const struct block *b, struct dc_run_args *args, int64_t slot,
                       int64_t pixels)
{
    const int64_t line = 16, lines = b->next_floats / line;
    const int64_t begin = lines * slot / b->pixels * line,
                  end = lines * (slot + pixels) / b->pixels * line;
    args->soon = b->next + begin;
    args->soon_floats = end - begin;
}

/*
 * Runs the lines that the block's args describe; their sums wait in the slots from `slot` on
 * between passes. Sums that go through the buffer of a single pass go a part of a line at a time.
 */
static void run_lines(const struct job *job, const struct block *b, int64_t slot)
{
    const struct dc_direct_state *s = job->s;
    const struct dc_kernel *kernel = job->plan->candidate.kernel;
    struct dc_run_args args = b->args;
    share_next(b, &args, slot, args.lines * args.pixels);
    if (!b->through_buffer || !b->last || s->k_blocks > 1) {
        /* one pass that stores directly has no slots */
        float *sums = b->partial + (s->k_blocks > 1 ? slot * s->tile_channels : 0);
        args.partial_in = b->first ? NULL : sums;
        args.partial_out = !b->last || b->through_buffer ? sums : NULL;
        kernel->direct.run(&args);
        if (!b->through_buffer || !b->last) {
            return;
        }
    }
    struct dc_store_args store = b->store;
    store.dst_pixel = args.dst_pixel;
    /* Parts of nearly equal size, of whole squares for the transposition. */
    const int64_t parts = (b->args.pixels + s->tile_pixels - 1) / s->tile_pixels,
                  even = (b->args.pixels + parts - 1) / parts;
    const int64_t part =
        least(s->tile_pixels, (even + DC_TILE_SLACK - 1) / DC_TILE_SLACK * DC_TILE_SLACK);
    for (int64_t line = 0; line < b->args.lines; line++) {
        for (int64_t done = 0; done < b->args.pixels; done += store.pixels) {
            const ptrdiff_t dst = line * args.dst_line + done * args.dst_pixel;
            store.pixels = least(part, b->args.pixels - done);
            store.tile = b->partial;
            if (s->k_blocks > 1) {
                store.tile += (slot + line * b->args.pixels + done) * s->tile_channels;
            } else {
                args.lines = 1;
                args.pixels = store.pixels;
                args.src = b->args.src + line * args.src_line + done * args.src_pixel;
                args.partial_out = b->partial;
                share_next(b, &args, slot + line * b->args.pixels + done, store.pixels);
                kernel->direct.run(&args);
            }
            store.dst = b->args.dst + dst;
            store.residual = b->args.residual != NULL ? b->args.residual + dst : NULL;
            kernel->direct.store(&store);
        }
    }
}

/*
 * The pixels of rows [y0, y1) and columns [x0, x1) of the output, which share their taps: lines are
 * rows or columns, whatever makes fewer tiles.
 */
static void run_rectangle(const struct job *job, const struct unit *u, const struct block *block,
                          const float *src, ptrdiff_t src_row, int64_t slot, int64_t y0, int64_t y1,
                          int64_t x0, int64_t x1)
{
    const struct dc_tensor_map *map = &job->s->dst_map;
    const int64_t tile = job->plan->candidate.kernel->tile_pixels, height = y1 - y0,
                  width = x1 - x0;
    struct block b = *block;
    struct dc_run_args *args = &b.args;
    const bool down = width * ((height + tile - 1) / tile) < height * ((width + tile - 1) / tile);
    const ptrdiff_t first = (y0 - u->row0) * map->row + x0 * map->pixel;
    args->src = src;
    args->lines = down ? width : height;
    args->pixels = down ? height : width;
    args->src_line = down ? args->src_pixel : src_row;
    args->src_pixel = down ? src_row : args->src_pixel;
    args->dst_line = down ? map->pixel : map->row;
    args->dst_pixel = down ? map->row : map->pixel;
    args->dst += first;
    args->residual += args->residual != NULL ? first : 0;
    run_lines(job, &b, slot);
}

/* Where unit `number` is; false: past the last. */
static bool find_unit(const struct job *job, int64_t number, struct unit *u)
{
    const struct dc_direct_state *s = job->s;
    int64_t rest = number;
    if (s->weights_first) {
        u->row_block = rest % s->row_blocks;
        rest /= s->row_blocks;
        u->n = rest % s->images;
        rest /= s->images;
        u->chunk = rest % s->out_chunks;
        u->group = rest / s->out_chunks;
    } else {
        u->chunk = rest % s->out_chunks;
        rest /= s->out_chunks;
        u->row_block = rest % s->row_blocks;
        rest /= s->row_blocks;
        u->group = rest % s->groups;
        u->n = rest / s->groups;
    }
    u->place = (u->n * s->groups + u->group) * s->row_blocks + u->row_block;
    u->row0 = u->row_block * s->rows;
    u->rows = least(s->rows, s->hout - u->row0);
    u->pixels = u->rows * job->plan->problem.wout;
    return number < job->units;
}

/* An output block's weights for a pass. */
static const float *block_weights(const struct job *job, int64_t group, int64_t ob, int64_t pass)
{
    const struct dc_direct_state *s = job->s;
    return job->packed + s->weights.bias_floats +
           (group * s->out_blocks + ob) * s->weights.block_floats +
           pass * s->k_block * s->taps * s->tile_channels;
}

/* Where the unit's part of output block ob goes, and how its runs end. */
static struct block create_block(const struct job *job, const struct unit *u, int64_t ob)
{
    const struct dc_direct_state *s = job->s;
    const struct dc_problem *p = &job->plan->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t nr = s->tile_channels, in_group = ob * nr,
                  channel = u->group * s->cout + in_group;
    struct block b = {
        .first = u->pass == 0,
        .last = u->pass == s->k_blocks - 1,
        .pixels = u->pixels,
        .partial = u->partial +
                   (s->k_blocks > 1 ? (ob - u->chunk * s->out_chunk) * s->rows * p->wout * nr : 0),
    };
    struct dc_run_args *args = &b.args;
    args->channels = least(least(nr, s->cout - in_group), d->cout - channel);
    args->stored =
        dc_channels_stored(dc_layout_block(d->dst_layout), channel, args->channels, d->cout);
    args->lo = p->lo;
    args->hi = p->hi;
    args->dst_pixel = s->dst_map.pixel;
    args->dst = job->dst + u->n * s->dst_map.image + u->row0 * s->dst_map.row;
    args->residual = job->residual != NULL ? job->residual + (args->dst - job->dst) : NULL;
    b.through_buffer = !s->direct_store || args->stored > nr;
    if (b.through_buffer) {
        b.store = dc_store_to(&s->dst_map, channel, args->channels, args->stored);
        b.store.tile_channels = nr;
        b.store.dst = args->dst;
        b.store.residual = args->residual;
        b.store.lo = p->lo;
        b.store.hi = p->hi;
    }
    const int64_t vector = job->plan->candidate.kernel->vector;
    for (int64_t v = 0; v * vector < nr; v++) {
        const int64_t c = channel + v * vector;
        args->dst_vector[v] =
            c / s->dst_map.block_channels * s->dst_map.block + c % s->dst_map.block_channels;
    }
    return b;
}

/* All of a unit's pixels in one line: they follow each other, and so do what they read. */
static void run_flat(const struct job *job, const struct unit *u, struct block *b, const float *src)
{
    const struct dc_direct_state *s = job->s;
    const struct dc_direct_segments *list = s->segments + (b->last ? 1 : 0);
    b->args.src = s->source == DC_SOURCE_INPLACE ? src + u->row0 * s->src_map.row : u->strip;
    b->args.segments = list->items;
    b->args.segment_count = list->count;
    b->args.lines = 1;
    b->args.pixels = u->pixels;
    run_lines(job, b, 0);
}

/* Rectangles of pixels that meet the same taps. */
static void run_ranges(const struct job *job, const struct unit *u, struct block *b,
                       const float *src)
{
    const struct dc_direct_state *s = job->s;
    const doconv_conv_desc *d = &job->plan->problem.desc;
    const bool in_place = s->source == DC_SOURCE_INPLACE;
    const struct dc_direct_segments *lists = s->segments + (b->last ? s->y_count * s->x_count : 0);
    const ptrdiff_t src_row = d->stride_h * (in_place ? s->src_map.row : s->strip_row);
    int64_t slot = 0;
    for (int64_t yr = 0; yr < s->y_count; yr++) {
        const struct dc_tap_range *y = &s->y_ranges[yr];
        const int64_t y0 = most(y->begin, u->row0), y1 = least(y->end, u->row0 + u->rows);
        for (int64_t xr = 0; xr < s->x_count && y0 < y1; xr++) {
            const struct dc_tap_range *x = &s->x_ranges[xr];
            const struct dc_direct_segments *list = &lists[yr * s->x_count + xr];
            const float *from = in_place ? src : u->strip;
            const int64_t row =
                (in_place ? y0 * d->stride_h - d->pad_top : (y0 - u->row0) * d->stride_h) +
                y->tap0 * d->dilation_h;
            if (list->count != 0 && in_place) {
                from += row * s->src_map.row +
                        (x->begin * d->stride_w - d->pad_left + x->tap0 * d->dilation_w) *
                            s->src_map.pixel;
            } else if (list->count != 0) {
                from += row * s->strip_row;
            }
            b->args.segments = list->items;
            b->args.segment_count = list->count;
            run_rectangle(job, u, b, from, src_row, slot, y0, y1, x->begin, x->end);
            slot += (y1 - y0) * (x->end - x->begin);
        }
    }
}

static void run_block(const struct job *job, const struct unit *u, int64_t ob, const float *weights,
                      const float *bias, const float *next, ptrdiff_t next_floats)
{
    const struct dc_direct_state *s = job->s;
    const int64_t stride_w = job->plan->problem.desc.stride_w;
    const int64_t channel = u->group * s->cin + u->channel0;
    struct block b = create_block(job, u, ob);
    b.args.weights = weights;
    b.args.bias = bias;
    b.next = next;
    b.next_floats = next_floats;
    b.args.src_pixel = s->source == DC_SOURCE_INPLACE ? s->src_map.pixel * stride_w
                       : s->flat                      ? s->strip_pixel
                                                      : s->strip_pixel * stride_w;
    const float *const src = job->src + u->n * s->src_map.image +
                             channel / s->src_map.block_channels * s->src_map.block +
                             channel % s->src_map.block_channels;
    if (s->flat) {
        run_flat(job, u, &b, src);
    } else {
        run_ranges(job, u, &b, src);
    }
}

/* A unit whose weights are packed. `follows`: a unit follows, at `next`. */
static void run_packed(const struct job *job, struct unit *u, const struct unit *next, bool follows,
                       int64_t *loaded)
{
    const struct dc_direct_state *s = job->s;
    const int64_t begin = u->chunk * s->out_chunk, end = least(s->out_blocks, begin + s->out_chunk);
    /* After its first unit a task finds weights as small as these in L2. */
    const bool small =
        *loaded >= 0 && s->groups * s->out_blocks * s->weights.block_floats <= SMALL_WEIGHTS;
    for (u->pass = 0; u->pass < s->k_blocks; u->pass++) {
        u->channel0 = u->pass * s->k_block;
        u->channels = least(s->k_block, s->cin - u->channel0);
        if (s->strip_floats != 0 && *loaded != u->place * s->k_blocks + u->pass) {
            load_strip(job, u);
        }
        *loaded = u->place * s->k_blocks + u->pass;
        for (int64_t ob = begin; ob < end; ob++) {
            /*
             * What comes next: the pass's next block, the next pass's first, the next unit's first.
             */
            int64_t group = u->group, block = ob + 1, pass = u->pass;
            if (block == end) {
                pass = (pass + 1) % s->k_blocks;
                block = pass != 0 || !follows ? begin : next->chunk * s->out_chunk;
                group = pass != 0 || !follows ? group : next->group;
            }
            const bool same = group == u->group && block == ob && pass == u->pass;
            const int64_t floats =
                least(s->k_block, s->cin - pass * s->k_block) * s->taps * s->tile_channels;
            run_block(job, u, ob, block_weights(job, u->group, ob, u->pass),
                      job->packed + (u->group * s->out_blocks + ob) * s->tile_channels,
                      block_weights(job, group, block, pass), small || same ? 0 : floats);
        }
    }
}

static void run_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_direct_state *s = job->s;
    float *const strip = (float *)job->workspace + index * job->task_floats;
    struct unit u = {.strip = strip, .partial = strip + s->strip_floats};
    const int64_t last = job->units * (index + 1) / s->tasks;
    int64_t loaded = -1; /* the strip's unit and pass */
    for (int64_t i = job->units * index / s->tasks; i < last; i++) {
        struct unit next;
        find_unit(job, i, &u);
        const bool follows = find_unit(job, i + 1, &next);
        run_packed(job, &u, &next, follows, &loaded);
    }
}

/* ---- weights that are made on the way ---- */

/* One pass, one output block a unit: dc_direct_geometry() sees to that. */
static void fresh_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_direct_state *s = job->s;
    float *const strip = (float *)job->workspace + index * job->task_floats, *const block =
                                                                                 strip +
                                                                                 s->task_floats;
    float *const bias = block + s->weights.block_floats, *const scratch = block + s->made_floats;
    struct unit u = {.strip = strip, .partial = strip + s->strip_floats, .channels = s->cin};
    /*
     * A block that is folded is one task's: the others must not read what it is writing. One that
     * is only packed, each task packs for itself.
     */
    const int64_t together = job->fresh->fold != NULL ? s->images * s->row_blocks : 1,
                  shares = job->units / together;
    int64_t loaded = -1, packed = -1;
    for (int64_t i = shares * index / s->tasks * together;
         i < shares * (index + 1) / s->tasks * together; i++) {
        find_unit(job, i, &u);
        if (packed != u.group * s->out_blocks + u.chunk) {
            packed = u.group * s->out_blocks + u.chunk;
            dc_direct_make_block(job->plan, job->fresh, packed, true, bias, block, scratch);
        }
        if (s->strip_floats != 0 && loaded != u.place) {
            load_strip(job, &u);
            loaded = u.place;
        }
        run_block(job, &u, u.chunk, block, bias, block, 0);
    }
}

void dc_direct_execute(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace)
{
    const struct dc_direct_state *s = plan->state;
    const bool makes = tensors->packed == NULL;
    struct job job = {
        .plan = plan,
        .s = s,
        .packed = tensors->packed,
        .fresh = makes ? tensors->fresh : NULL,
        .src = tensors->src,
        .residual = tensors->residual,
        .dst = tensors->dst,
        .workspace = workspace,
        .units = s->images * s->groups * s->row_blocks * s->out_chunks,
        .task_floats = s->task_floats + (makes ? s->fresh_floats : 0),
    };
    dc_parallel(plan->ctx, s->tasks, makes ? fresh_task : run_task, &job);
}
