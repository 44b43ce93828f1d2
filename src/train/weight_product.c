/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's weight by products, what runs: weight_product.h says how,
 * weight_product_plan.c decides it.
 */
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/layout.h"
#include "geometry/strips.h"
#include "geometry/tap_ranges.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "train/weight_product.h"

struct job {
    const doconv_plan *plan;
    const struct dc_weight_product *g;
    const float *src, *grad_dst;
    float *grad_weight;
    float *tasks;
    const struct dc_tensors *tensors; /* W, D and their gradients, where they follow part by part */
};

/*
 * Rows of the tile from channel o of left on: they end where the layout's block does, and are
 * nearly as many as those of the tiles that follow.
 */
static int64_t tile_rows(const struct dc_weight_product *g, int64_t o, int64_t end)
{
    const int64_t limit =
        g->left.map.block == 0
            ? end
            : least(end, (o / g->left.map.block_channels + 1) * g->left.map.block_channels);
    return divide_up(limit - o, divide_up(limit - o, g->kernel->tile_pixels));
}

/*
 * `count` pixels of n floats each, `from_step` and `step` apart. Four floats at a time; where there
 * is room the last ones overwrite what is copied later.
 */
static inline void copy_runs(float *to, ptrdiff_t step, const float *from, ptrdiff_t from_step,
                             int64_t count, int n)
{
    for (; count > 0; count--, to += step, from += from_step) {
        int i = 0;
        for (; i + 4 <= n; i += 4) {
            memcpy(to + i, from + i, 4 * sizeof(float));
        }
        if (n & 2) {
            memcpy(to + i, from + i, 2 * sizeof(float));
            i += 2;
        }
        if (n & 1) {
            to[i] = from[i];
        }
    }
}

/*
 * `count` pixels of n columns that follow each other in src. room: the float behind a pixel's
 * columns is copied later. Constants for n let the compiler make moves of a copy.
 */
static void copy_pixels(float *to, ptrdiff_t to_step, const float *from, ptrdiff_t step,
                        int64_t count, int64_t n, bool room)
{
    if (room && n % 4 == 3) {
        /* All but the last pixel, whose next float may not be src's. */
        if (n == 3) {
            copy_runs(to, to_step, from, step, count - 1, 4);
        } else if (n == 7) {
            copy_runs(to, to_step, from, step, count - 1, 8);
        } else {
            copy_runs(to, to_step, from, step, count - 1, (int)n + 1);
        }
        from += (count - 1) * step;
        to += (count - 1) * to_step;
        count = 1;
    }
    switch (n) {
    case 1:
        copy_runs(to, to_step, from, step, count, 1);
        break;
    case 2:
        copy_runs(to, to_step, from, step, count, 2);
        break;
    case 5:
        copy_runs(to, to_step, from, step, count, 5);
        break;
    default:
        copy_runs(to, to_step, from, step, count, (int)n);
        break;
    }
}

/*
 * Which floats of src the n columns from kx on of output pixels in [0, wout) are, in a row of the
 * image or (NULL) above or below it.
 */
static void copy_columns(const struct dc_weight_product *g, const float *row, int64_t kx, int64_t n,
                         bool room, float *to)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const ptrdiff_t pixel = g->src_map.pixel;
    int64_t begin = p->wout, end = p->wout;
    if (row != NULL) {
        /* All n columns lie inside for pixels [begin, end). */
        int64_t unused;
        dc_outputs_inside(d->w, d->stride_w, kx * d->dilation_w - d->pad_left, p->wout, &begin,
                          &unused);
        dc_outputs_inside(d->w, d->stride_w, (kx + n - 1) * d->dilation_w - d->pad_left, p->wout,
                          &unused, &end);
        end = most(begin, end);
    }
    for (int64_t x = 0; x < p->wout; x++) {
        if (x == begin && begin < end) {
            x = end - 1;
            continue;
        }
        for (int64_t k = 0; k < n; k++) {
            const int64_t column = x * d->stride_w + (kx + k) * d->dilation_w - d->pad_left;
            to[x * g->tile + k] =
                row != NULL && column >= 0 && column < d->w ? row[column * pixel] : 0.0f;
        }
    }
    if (begin >= end) {
        return;
    }
    const ptrdiff_t step = d->stride_w * pixel;
    const float *from = row + (begin * d->stride_w + kx * d->dilation_w - d->pad_left) * pixel;
    to += begin * g->tile;
    if (d->dilation_w * pixel != 1) {
        for (int64_t k = 0; k < n; k++, from += d->dilation_w * pixel) {
            copy_runs(to + k, g->tile, from, step, end - begin, 1);
        }
        return;
    }
    copy_pixels(to, g->tile, from, step, end - begin, n, room);
}

/* The panel of lanes [lane, lane + lanes) of a group for output rows [y0, y1) of an image. */
static void load_panel(const struct dc_weight_product *g, const float *image, int64_t group,
                       int64_t lane, int64_t lanes, int64_t y0, int64_t y1, float *panel)
{
    const doconv_conv_desc *d = &g->problem.desc;
    const struct operand *from = &g->right;
    const int64_t rows = panel_rows(g, y0, y1), origin = panel_origin(g, y0),
                  step_y = g->by_output ? from->stride_h : 1;
    const int64_t channel = group * from->channels;
    if (rows == 0) {
        return;
    }
    if (g->inner == 1) {
        struct dc_load_args args =
            dc_load_from(&from->map, image, channel + lane, lanes, from->h, from->w);
        args.strip = panel;
        args.strip_block = DC_CHANNEL_BLOCK;
        args.strip_row = g->panel_row;
        args.strip_pixel = g->tile;
        args.rows = rows;
        args.columns = d->kw == 1 ? g->problem.wout : from->w;
        args.x0 = d->kw == 1 ? -from->pad_left : 0;
        args.y0 = origin;
        args.step_x = d->kw == 1 ? from->stride_w : 1;
        args.step_y = step_y;
        g->kernel->product.load(&args);
        return;
    }
    const int64_t padded = divide_up(lanes, g->kernel->vector) * g->kernel->vector;
    for (int64_t l = 0, n; l < lanes; l += n) {
        const int64_t tap = (lane + l) % g->inner, ky = tap / d->kw, kx = tap % d->kw;
        n = least(d->kw - kx, lanes - l);
        const float *plane = image + channel_at(&g->src_map, channel + (lane + l) / g->inner);
        for (int64_t r = 0; r < rows; r++) {
            const int64_t row = origin + r * step_y + ky * d->dilation_h;
            copy_columns(g, row >= 0 && row < d->h ? plane + row * g->src_map.row : NULL, kx, n,
                         l + n < padded, panel + r * g->panel_row + l);
        }
    }
    for (int64_t x = 0; x < rows * g->problem.wout && padded > lanes; x++) {
        memset(panel + x * g->tile + lanes, 0, (size_t)(padded - lanes) * sizeof *panel);
    }
}

/* What a task does: blocks [block0, block1) of lanes, rows [row0, row1): channels of left. */
struct part {
    int64_t group, block0, block1, row0, row1;
    float *panel, *sums;
    float *out; /* the gradient of the first row's first lane */
    ptrdiff_t out_row;
};

/* Chunks [chunk0, chunk1) of `images` images from `image` on. */
struct stretch {
    int64_t image, images, chunk0, chunk1;
};

/* The lanes of a block for a stretch: where they are, or a panel of them. */
static const float *find_lanes(const struct job *job, const struct part *part, int64_t lane,
                               int64_t lanes, const struct stretch *t)
{
    const struct dc_weight_product *g = job->g;
    const float *const right =
        (g->swapped ? job->grad_dst : job->src) + t->image * g->right.map.image;
    if (g->in_place) {
        return right + channel_at(&g->right.map, part->group * g->right.channels + lane);
    }
    const int64_t y0 = t->chunk0 * g->chunk_rows,
                  y1 = least(g->problem.hout, t->chunk1 * g->chunk_rows);
    for (int64_t i = 0; i < t->images; i++) {
        load_panel(g, right + i * g->right.map.image, part->group, lane, lanes, y0, y1,
                   part->panel + i * g->panel_image);
    }
    /* Where row 0 would be: an integer, for it may lie outside. */
    const uintptr_t before = (uintptr_t)((g->by_output ? y0 : panel_origin(g, y0)) * g->panel_row);
    return (const float *)((uintptr_t)part->panel - before * sizeof(float));
}

/* Finished sums of rows from `row` on, into the gradient, where they don't lie as it does. */
static void weave_sums(const struct job *job, const struct part *part, int64_t row, int64_t lane,
                       const struct dc_product_args *args, float *out)
{
    const struct dc_weight_product *g = job->g;
    const struct dc_problem *p = &g->problem;
    struct dc_weave_args weave = {
        .sums = args->sums,
        .sums_list = args->sums_list,
        .sums_row = g->tile,
        .lists = g->outer,
        .rows = args->rows,
        .lanes = args->lanes,
        .dst = out,
        .dst_row = part->out_row,
        .dst_lane = g->outer,
    };
    if (g->swapped) {
        /* Lanes are output channels: rows, which are inputs, lie side by side. */
        weave.sums_list = g->tile;
        weave.lists = args->rows;
        weave.rows = 1;
        weave.dst = job->grad_weight + (part->group * p->group_cout + lane) * part->out_row + row -
                    part->group * p->group_cin;
        weave.dst_lane = part->out_row;
    }
    g->kernel->product.weave(&weave);
}

/* A stretch of pixels in the sums of one block of lanes, all tiles of rows. */
static void run_block(const struct job *job, const struct part *part, int64_t block,
                      const struct stretch *t)
{
    const struct dc_weight_product *g = job->g;
    const int64_t n = g->problem.desc.n, lane = block * g->tile,
                  lanes = least(g->tile, g->columns - lane);
    const bool waits = g->chunks > 1 || g->chunk_images < n,
               begins = t->image == 0 && t->chunk0 == 0;
    const bool ends = t->image + t->images == n && t->chunk1 == g->chunks;
    /* Sums that lie as the gradient does are summed there. */
    const bool direct = g->outer == 1 && lanes % g->kernel->vector == 0 && !g->swapped;
    const float *const left =
        (g->swapped ? job->src : job->grad_dst) + t->image * g->left.map.image;
    struct dc_product_args args = {
        .left_step = g->left_step,
        .left_row = g->left.map.channel,
        .right = find_lanes(job, part, lane, lanes, t),
        .right_step = g->right_step,
        .lanes = lanes,
        .lists = g->outer,
        .sums_row = direct ? part->out_row : g->tile,
        .soon_row = part->out_row,
    };
    const int64_t blocks_before = block - part->block0, part_rows = part->row1 - part->row0;
    for (int64_t row = part->row0; row < part->row1; row += args.rows) {
        const int64_t rows_before = row - part->row0;
        /* Of one row after another, if rows are output channels. */
        float *const out =
            part->out + rows_before * part->out_row + blocks_before * g->tile * g->outer;
        float *const waiting =
            part->sums +
            (waits ? (blocks_before * part_rows + rows_before) * g->outer * g->tile : 0);
        args.rows = tile_rows(g, row, part->row1);
        args.left = left + channel_at(&g->left.map, row);
        args.sums = direct ? out : waiting;
        args.sums_list = args.rows * g->tile;
        for (int64_t chunk = t->chunk0; chunk < t->chunk1; chunk++) {
            const int64_t list = t->images == g->chunk_images ? chunk : g->chunks;
            args.counts = g->counts + list * g->outer;
            args.segments = g->segments + g->first[list];
            args.resume = !begins || chunk != t->chunk0;
            const bool stores = ends && chunk == t->chunk1 - 1 && !g->swapped;
            args.soon = stores && (!direct || !args.resume) ? out : NULL;
            g->kernel->product.run(&args);
        }
        if (ends && !direct) {
            weave_sums(job, part, row, lane, &args, out);
        }
    }
}

static void run_part(const struct job *job, const struct part *part)
{
    const struct dc_weight_product *g = job->g;
    const int64_t n = g->problem.desc.n;
    for (int64_t image = 0; image < n; image += g->chunk_images) {
        for (int64_t chunk = 0; chunk < g->chunks; chunk += g->panel_chunks) {
            const struct stretch t = {
                .image = image,
                .images = least(g->chunk_images, n - image),
                .chunk0 = chunk,
                .chunk1 = least(g->chunks, chunk + g->panel_chunks),
            };
            for (int64_t block = part->block0; block < part->block1; block++) {
                run_block(job, part, block, &t);
            }
        }
    }
}

static void product_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_weight_product *g = job->g;
    const struct dc_problem *p = &g->problem;
    struct part part = {.panel = job->tasks + index * g->task_floats};
    part.sums = part.panel + g->panel_floats;
    const int64_t splits = (int64_t)g->block_parts * g->row_parts, units = p->desc.groups * splits;
    for (int64_t unit = units * index / g->tasks; unit < units * (index + 1) / g->tasks; unit++) {
        part.group = unit / splits;
        const int64_t block_part = unit % splits / g->row_parts, row_part = unit % g->row_parts;
        part.block0 = g->blocks * block_part / g->block_parts;
        part.block1 = g->blocks * (block_part + 1) / g->block_parts;
        part.row0 = part.group * g->left.channels + g->left.channels * row_part / g->row_parts;
        part.row1 =
            part.group * g->left.channels + g->left.channels * (row_part + 1) / g->row_parts;
        part.out_row = p->group_cin * g->taps;
        part.out = job->grad_weight + part.row0 * part.out_row + part.block0 * g->tile * g->outer;
        run_part(job, &part);
    }
}

/* ---- for folded weights ---- */

/* The gradient of a part of the weight, then what the fold makes of it, while it is in L2. */
static void fold_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_weight_product *g = job->g;
    const doconv_plan *fold = job->plan->fold;
    float *const sums = job->tasks + index * g->fold_floats, *const out = sums + g->fold_sums,
                 *const scratch = out + g->fold_out;
    struct dc_tensors tensors = *job->tensors;
    tensors.grad_folded = out;
    for (int64_t part = g->fold_parts * index / g->fold_tasks;
         part < g->fold_parts * (index + 1) / g->fold_tasks; part++) {
        struct part p = {
            .block0 = part * g->fold_blocks,
            .sums = sums,
            .panel = scratch + g->fold_scratch,
            .out = out,
        };
        p.block1 = least(g->blocks, p.block0 + g->fold_blocks);
        struct dc_part folded = {.in = p.block0 * g->tile};
        folded.ins = least(p.block1 * g->tile, g->columns) - folded.in;
        p.out_row = folded.ins * g->taps;
        for (p.row0 = 0; p.row0 < g->left.channels; p.row0 = p.row1) {
            p.row1 = least(g->left.channels, p.row0 + DC_PART_ROWS);
            run_part(job, &p);
            folded.out = p.row0;
            folded.outs = p.row1 - p.row0;
            fold->candidate.solver->parts->run(fold, &folded, &tensors, scratch);
        }
    }
}

void dc_weight_product_execute(const doconv_plan *plan, const struct dc_tensors *tensors,
                               char *workspace)
{
    const struct dc_weight_product *g = plan->state;
    struct job job = {
        .plan = plan,
        .g = g,
        .src = tensors->src,
        .grad_dst = tensors->grad_dst,
        .grad_weight = tensors->grad_weight,
        .tasks = (float *)workspace,
        .tensors = tensors,
    };
    if (plan->folds_parts) {
        dc_parallel(g->ctx, g->fold_tasks, fold_task, &job);
    } else {
        dc_parallel(g->ctx, g->tasks, product_task, &job);
    }
}
