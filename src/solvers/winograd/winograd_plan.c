/* SPDX-License-Identifier: MIT */
/* Geometry of a Winograd plan: tiles, blocks, buffers, tasks. */
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/cpu.h"
#include "base/layout.h"
#include "base/log.h"
#include "base/registry.h"
#include "geometry/strips.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "solvers/winograd/winograd.h"

static void exchange(struct dc_tensor_map *map)
{
    const ptrdiff_t row = map->row;
    map->row = map->pixel;
    map->pixel = row;
}

struct dc_winograd_view dc_winograd_view(const struct dc_problem *p, bool down)
{
    const doconv_conv_desc *d = &p->desc;
    struct dc_winograd_view v = {
        .h = down ? d->w : d->h,
        .w = down ? d->h : d->w,
        .hout = down ? p->wout : p->hout,
        .wout = down ? p->hout : p->wout,
        .kh = down ? d->kw : d->kh,
        .kw = down ? d->kh : d->kw,
        .pad_top = down ? d->pad_left : d->pad_top,
        .pad_left = down ? d->pad_top : d->pad_left,
        .src_map = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
        .dst_map = dc_tensor_map(d->dst_layout, d->cout, p->hout, p->wout),
    };
    if (down) {
        exchange(&v.src_map);
        exchange(&v.dst_map);
    }
    return v;
}

/* Tiles, channels and blocks, whatever the workspace. */
static void cut(const struct dc_problem *p, const struct dc_winograd_parameters *q,
                struct dc_winograd_state *s)
{
    const doconv_conv_desc *d = &p->desc;
    const struct dc_winograd_kernel *w = &s->kernel->winograd;
    const struct dc_winograd_view *v = &s->view;
    const bool tiled = w->axes == 2;
    s->outputs = w->outputs;
    s->tile_height = tiled ? w->outputs : 1;
    s->points = tiled ? w->points * w->points : w->points;
    s->taps = tiled ? 1 : v->kh;
    s->groups = d->groups;
    s->cin = p->group_cin;
    s->cout = p->group_cout;
    s->tile_channels = s->gemm->tile_channels;
    s->chunk = q->chunk;
    s->made = q->made != 0;
    const bool raw = q->chunk != 0;
    s->weights = dc_packed_weights(d->groups, s->cin, s->cout, raw ? v->kh : s->points,
                                   raw ? v->kw : s->taps, s->gemm->tile_channels);
    s->out_blocks = s->weights.out_blocks;
    s->tile_rows = divide_up(v->hout, s->tile_height);
    s->tile_columns = divide_up(v->wout, s->outputs);
    s->tiles = d->n * s->tile_rows * s->tile_columns;
    if (tiled) {
        s->block = least(q->block, s->tiles);
        s->blocks = divide_up(s->tiles, s->block);
    } else {
        const int64_t rows = least(q->block, v->hout);
        s->row_blocks = divide_up(v->hout, rows);
        s->block = rows * s->tile_columns;
        s->blocks = d->n * s->row_blocks;
    }
    s->places = s->blocks * s->groups;
}

/* What is read and written in place. */
static void find_layouts(struct dc_winograd_state *s)
{
    const int64_t vector = s->kernel->vector;
    s->in_place =
        s->cin % vector == 0 && dc_groups_in_place(&s->view.src_map, s->groups, s->cin, vector);
    s->direct_store = dc_groups_in_place(&s->view.dst_map, s->groups, s->cout, vector);
}

static void lay_out_buffers(struct dc_winograd_state *s)
{
    const bool tiled = s->row_blocks == 0;
    /* Input rows of a block are more than its outputs' by the kernel's height. */
    const int64_t slots =
        tiled ? s->block : (s->block / s->tile_columns + s->taps - 1) * s->tile_columns;
    s->points_tile = align_floats(s->cin);
    s->points_tile += s->points_tile % 512 == 0 ? 16 : 0;
    s->points_point = odd_lines_floats(slots * s->points_tile);
    s->points_floats = s->points * s->points_point;
    s->products_point = odd_lines_floats(s->block * s->tile_channels);
    s->products_floats = s->outs * s->points * s->products_point;
    const int64_t lines = s->down ? DC_WINOGRAD_DOWN_LINES : 1;
    s->strip_lines = s->in_place ? 1 : lines;
    s->strip_tiles = s->in_place ? s->tile_columns
                     : s->down   ? DC_WINOGRAD_DOWN_TILES
                                 : DC_WINOGRAD_STRIP_TILES;
    if (!s->in_place) {
        const struct dc_winograd_kernel *w = &s->kernel->winograd;
        s->strip_row = (s->strip_tiles * w->outputs + w->taps - 1) * DC_CHANNEL_BLOCK;
        s->strip_floats = (tiled ? w->points : lines) * s->strip_row;
    }
    if (s->chunk != 0) {
        s->filters_tap = least(s->chunk, s->cin) * s->tile_channels;
        s->filters_point = odd_lines_floats(s->taps * s->filters_tap);
        s->filters_floats = s->points * s->filters_point;
    }
    s->store_lines = lines;
    s->store_tiles = s->down ? DC_WINOGRAD_DOWN_TILES : DC_WINOGRAD_STORE_TILES;
    const int64_t row = s->store_tiles * s->outputs;
    s->rows_floats = s->down ? (lines + DC_TILE_SLACK) * row * s->tile_channels
                             : (s->tile_height * row + DC_TILE_SLACK) * s->tile_channels;
    s->task_floats = align_floats((s->shared ? 0 : s->points_floats) + s->products_floats +
                                  s->strip_floats + s->rows_floats + s->filters_floats);
}

const char *dc_winograd_geometry(const struct dc_problem *p, const struct dc_kernel *kernel,
                                 const struct dc_kernel *gemm,
                                 const struct dc_winograd_parameters *q,
                                 struct dc_winograd_state *s)
{
    *s = (struct dc_winograd_state){.kernel = kernel, .gemm = gemm, .down = q->down != 0};
    s->view = dc_winograd_view(p, s->down);
    cut(p, q, s);
    find_layouts(s);
    /* Outputs are cut only if there are fewer places than threads, or they are made one by one. */
    s->out_chunk = s->made ? 1 : dc_cut_outputs(p->threads, s->places, s->out_blocks);
    s->out_chunks = divide_up(s->out_blocks, s->out_chunk);
    s->outs = q->outs == 0 ? s->out_chunk : least(q->outs, s->out_chunk);
    s->shared = s->out_chunks > 1 || s->made;
    s->tasks =
        (int)least(p->threads, s->made ? s->groups * s->out_blocks : s->places * s->out_chunks);
    const double channels = (double)(s->cin + (s->outs + 1) * s->tile_channels),
                 tiles = (double)s->block + (double)(s->taps * s->tile_columns);
    if ((double)s->points * tiles * channels * (double)(s->shared ? s->places + 1 : 1) > 1e12) {
        return "it needs too much workspace";
    }
    lay_out_buffers(s);
    return NULL;
}

/* What a task needs to make weights on the way. */
static void plan_fresh(doconv_plan *plan, struct dc_winograd_state *s)
{
    const doconv_plan *fold = plan->fold;
    plan->takes_fresh = plan->problem.fresh_weights && s->made;
    if (!plan->takes_fresh) {
        return;
    }
    const struct dc_part_hooks *parts = fold != NULL ? fold->candidate.solver->parts : NULL;
    plan->folds_parts = fold != NULL && parts->inputs(fold) != 0;
    s->made_floats = s->weights.block_floats + align_floats(s->tile_channels);
    s->fresh_floats = s->made_floats;
    if (plan->folds_parts) {
        s->fresh_floats += align_floats((int64_t)parts->scratch_floats(fold));
    }
    plan->candidate.workspace_size += (size_t)s->tasks * (size_t)s->fresh_floats * sizeof(float);
}

/*
 * Are packed weights so many that they, written as usual, would only pass through the caches? Those
 * of a call are used at once: any that L3 holds are better there.
 */
static bool streams(const struct dc_problem *p, const struct dc_winograd_state *s)
{
    const size_t bytes = dc_packed_bytes(&s->weights);
    return (s->cin * s->tile_channels) % 16 == 0 &&
           (p->fresh_weights ? 1 : 4) * bytes > (size_t)dc_cpu_probe()->l3_bytes;
}

doconv_status dc_winograd_prepare(doconv_plan *plan)
{
    struct dc_winograd_parameters q;
    struct dc_winograd_state *s = dc_alloc(plan->ctx, sizeof *s);
    if (s == NULL) {
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "plan: out of memory");
    }
    const struct dc_candidate *c = &plan->candidate;
    dc_get_parameters(c, &q);
    dc_winograd_geometry(&plan->problem, c->kernel, c->second, &q,
                         s); /* enumerate() did it before */
    s->stream = streams(&plan->problem, s);
    plan_fresh(plan, s);
    plan->state = s;
    const int64_t layout[] = {s->points,        s->taps,       s->outputs,
                              s->tile_channels, s->chunk != 0, s->down};
    plan->packed_layout = dc_hash(plan->packed_layout, layout, sizeof layout);
    return DOCONV_OK;
}
