/* SPDX-License-Identifier: MIT */
/*
 * The transforms of a Winograd call: from src, or from strips of it, to a block's points; and from
 * the products of an output block to dst, or through a buffer of rows.
 */
#include "base/arithmetic.h"
#include "base/layout.h"
#include "geometry/strips.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "solvers/winograd/winograd.h"
#include "solvers/winograd/winograd_call.h"

/* Tiles side by side, in lines one below the other. */
struct tile_run {
    int64_t n, row, column; /* the first one's place, in tiles */
    int64_t slot;           /* the first one's, in the block */
    int64_t lines, tiles;   /* tiles: of each line */
};

/*
 * The run from `slot` on of at most so many lines and tiles, of `slots` of a place. Where one axis
 * is transformed a place's slots may go on below its image: there are more rows of inputs.
 */
static struct tile_run run_of(const struct dc_winograd_state *s,
                              const struct dc_winograd_place *place, int64_t slots, int64_t slot,
                              int64_t most_lines, int64_t most_tiles)
{
    const int64_t of_image = s->tile_rows * s->tile_columns, tile = place->first + slot;
    struct tile_run run = {.n = (s->row_blocks == 0 ? tile : place->first) / of_image,
                           .slot = slot};
    run.row = (tile - run.n * of_image) / s->tile_columns;
    run.column = tile % s->tile_columns;
    run.lines = most(1, least(most_lines, (slots - slot + run.column) / s->tile_columns));
    run.tiles = least(least(s->tile_columns - run.column, slots - slot), most_tiles);
    return run;
}

/* The slot of the run that follows: of the same lines, or of those below them. */
static int64_t slot_after(const struct dc_winograd_state *s, const struct tile_run *run)
{
    const bool ends = run->column + run->tiles == s->tile_columns;
    return run->slot + run->tiles + (ends ? (run->lines - 1) * s->tile_columns : 0);
}

/* ---- input ---- */

static void exchange(ptrdiff_t *a, ptrdiff_t *b)
{
    const ptrdiff_t was = *a;
    *a = *b;
    *b = was;
}

/*
 * A load of a run's pixels of a block of channels, with the borders' zeros. Where the view has rows
 * and columns exchanged the load has not, but those of the strip: so what is contiguous in planes
 * is loaded as such.
 */
static struct dc_load_args load_of(const struct dc_winograd_state *s, const struct tile_run *run,
                                   const float *image, int64_t group, int64_t y, int64_t x,
                                   float *strip)
{
    const struct dc_winograd_view *v = &s->view;
    struct dc_load_args load = dc_load_from(&v->src_map, image, group * s->cin, s->cin, v->h, v->w);
    load.strip = strip;
    load.strip_row = s->strip_row;
    load.strip_pixel = DC_CHANNEL_BLOCK;
    load.rows = s->row_blocks == 0 ? s->kernel->winograd.points : run->lines;
    load.columns = run->tiles * s->outputs + s->kernel->winograd.taps - 1;
    load.y0 = y;
    load.x0 = x;
    if (s->down) {
        exchange(&load.strip_row, &load.strip_pixel);
        exchange(&load.src_row, &load.src_pixel);
        exchange(&load.rows, &load.columns);
        exchange(&load.h, &load.w);
        exchange(&load.y0, &load.x0);
    }
    return load;
}

/* Channels [first, last) of a run. */
static void transform_run(const struct dc_winograd_job *job, const struct dc_winograd_task *task,
                          const struct tile_run *run, int64_t group, int64_t first, int64_t last,
                          float *points)
{
    const struct dc_winograd_state *s = job->s;
    const struct dc_winograd_view *v = &s->view;
    const struct dc_tensor_map *map = &v->src_map;
    const int64_t vector = s->kernel->vector, y = run->row * s->tile_height - v->pad_top,
                  x = run->column * s->outputs - v->pad_left;
    const float *const image = job->src + run->n * map->image;
    struct dc_winograd_input_args args = {
        .tiles = run->tiles,
        .points = points + run->slot * s->points_tile + first,
        .point = s->points_point,
        .tile = s->points_tile,
    };
    if (s->in_place) {
        args.src = image + channel_at(map, group * s->cin + first);
        args.src_block_channels = map->block_channels;
        args.src_block = map->block;
        args.src_row = map->row;
        args.src_pixel = map->pixel;
        args.h = v->h;
        args.w = v->w;
        args.y0 = y;
        args.x0 = x;
        args.vectors = divide_up(last - first, vector);
        s->kernel->winograd.input(&args);
        return;
    }
    struct dc_load_args load = load_of(s, run, image, group, y, x, task->strip);
    float *const to = args.points;
    args.src = task->strip;
    args.src_block_channels = DC_CHANNEL_BLOCK;
    args.src_row = s->strip_row;
    args.src_pixel = DC_CHANNEL_BLOCK;
    args.h = s->strip_floats / s->strip_row;
    args.w = run->tiles * s->outputs + s->kernel->winograd.taps - 1;
    for (int64_t c = first; c < last; c += DC_CHANNEL_BLOCK) {
        load.src_first_channel = group * s->cin + c;
        load.channels = least(DC_CHANNEL_BLOCK, last - c);
        args.vectors = divide_up(load.channels, vector);
        s->gemm->direct.load(&load);
        for (args.y0 = 0; args.y0 < run->lines; args.y0++) {
            args.points = to + (c - first) + args.y0 * s->tile_columns * s->points_tile;
            s->kernel->winograd.input(&args);
        }
    }
}

void dc_winograd_transform(const struct dc_winograd_job *job, const struct dc_winograd_task *task,
                           const struct dc_winograd_place *place, int64_t first, int64_t last,
                           float *points)
{
    const struct dc_winograd_state *s = job->s;
    /* Kernel rows that are taps of the products need as many rows of inputs more. */
    const int64_t slots = place->tiles + (s->taps - 1) * s->tile_columns;
    for (int64_t slot = 0; slot < slots;) {
        const struct tile_run run = run_of(s, place, slots, slot, s->strip_lines, s->strip_tiles);
        transform_run(job, task, &run, place->group, first, last, points);
        slot = slot_after(s, &run);
    }
}

/* ---- output ---- */

/* Where an output block's channels lie, and how they are stored. */
struct target {
    struct dc_winograd_output_args args;
    struct dc_store_args store;
    ptrdiff_t vector_at[DC_MAX_TILE_VECTORS];
    bool through_rows; /* rows of outputs go to the buffer, then store() */
};

static void find_target(const struct dc_winograd_job *job, const struct dc_winograd_output *output,
                        struct target *t)
{
    const struct dc_winograd_state *s = job->s;
    const struct dc_problem *p = &job->plan->problem;
    const int64_t nr = s->tile_channels, vector = s->kernel->vector, first = output->ob * nr,
                  channel = output->group * s->cout + first, channels = least(nr, s->cout - first);
    const int64_t stored =
        dc_channels_stored(dc_layout_block(p->desc.dst_layout), channel, channels, p->desc.cout);
    *t = (struct target){
        .args =
            {
                .point = s->products_point,
                .tile = nr,
                .bias = output->bias,
                .vectors = divide_up(channels, vector),
                .dst_row = s->view.dst_map.row,
                .dst_pixel = s->view.dst_map.pixel,
                .lo = p->lo,
                .hi = p->hi,
            },
        .store = dc_store_to(&s->view.dst_map, channel, channels, stored),
        .through_rows = !s->direct_store || stored % vector != 0 || stored != channels,
    };
    for (int64_t v = 0; v < t->args.vectors; v++) {
        t->vector_at[v] =
            t->through_rows ? v * vector : channel_at(&s->view.dst_map, channel + v * vector);
    }
    if (t->through_rows) {
        t->args.dst_row = s->store_tiles * s->outputs * nr;
        t->args.dst_pixel = nr;
        t->args.lo = -__builtin_inff();
        t->args.hi = __builtin_inff();
        t->store.lo = p->lo;
        t->store.hi = p->hi;
    }
}

/*
 * Stores the buffer's rows; or, where the view has rows and columns exchanged, its columns, so that
 * what is contiguous in planes is stored as such. at: the first pixel's place.
 */
static void store_rows(const struct dc_winograd_job *job, const struct dc_winograd_task *task,
                       struct target *t, int64_t rows, ptrdiff_t at)
{
    const struct dc_winograd_state *s = job->s;
    const struct dc_tensor_map *map = &s->view.dst_map;
    const ptrdiff_t tile_row = t->args.dst_row, tile_pixel = t->args.dst_pixel;
    t->store.pixels = s->down ? rows : t->args.columns;
    t->store.tile_channels = s->down ? tile_row : tile_pixel;
    t->store.dst_pixel = s->down ? map->row : map->pixel;
    for (int64_t i = 0; i < (s->down ? t->args.columns : rows); i++) {
        const ptrdiff_t to = at + i * (s->down ? map->pixel : map->row);
        t->store.tile = task->rows + i * (s->down ? tile_pixel : tile_row);
        t->store.dst = job->dst + to;
        t->store.residual = job->residual != NULL ? job->residual + to : NULL;
        s->gemm->direct.store(&t->store);
    }
}

static void run_back(const struct dc_winograd_job *job, const struct dc_winograd_task *task,
                     const struct tile_run *run, struct target *t, const float *products)
{
    const struct dc_winograd_state *s = job->s;
    const struct dc_winograd_view *v = &s->view;
    const int64_t y = run->row * s->tile_height, x = run->column * s->outputs;
    const ptrdiff_t at = run->n * v->dst_map.image + y * v->dst_map.row + x * v->dst_map.pixel;
    t->args.tiles = run->tiles;
    t->args.rows = least(s->tile_height, v->hout - y);
    t->args.columns = least(run->tiles * s->outputs, v->wout - x);
    for (int64_t line = 0; line < run->lines; line++) {
        const ptrdiff_t down = line * t->args.dst_row;
        t->args.points = products + (run->slot + line * s->tile_columns) * s->tile_channels;
        t->args.dst = t->through_rows ? task->rows + down : job->dst + at + down;
        t->args.residual =
            t->through_rows || job->residual == NULL ? NULL : job->residual + at + down;
        s->kernel->winograd.output(&t->args);
    }
    if (t->through_rows) {
        store_rows(job, task, t, run->lines > 1 ? run->lines : t->args.rows, at);
    }
}

void dc_winograd_transform_back(const struct dc_winograd_job *job,
                                const struct dc_winograd_task *task,
                                const struct dc_winograd_place *place,
                                const struct dc_winograd_output *output, const float *products)
{
    const struct dc_winograd_state *s = job->s;
    struct target t;
    find_target(job, output, &t);
    t.args.vector_at = t.vector_at;
    const int64_t most_lines = t.through_rows ? s->store_lines : 1,
                  most_tiles = t.through_rows ? s->store_tiles : s->tile_columns;
    for (int64_t slot = 0; slot < place->tiles;) {
        const struct tile_run run = run_of(s, place, place->tiles, slot, most_lines, most_tiles);
        run_back(job, task, &run, &t, products);
        slot = slot_after(s, &run);
    }
}
