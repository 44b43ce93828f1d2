/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's weight and bias, what runs: weight_gradient_plan.h says how,
 * weight_gradient_plan.c decides it.
 */
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/layout.h"
#include "compose/fold.h"
#include "kernel.h"
#include "plan/problem.h"
#include "train/weight_gradient.h"
#include "train/weight_gradient_plan.h"

struct job {
    const struct dc_weight_gradient *g;
    const float *src, *grad_dst;
    float *grad_weight, *grad_bias;
    float *tasks;
    int copy_tasks;
};

/* ---- portable ---- */

static void add_portably(const struct dc_weight_gradient *g, const float *src,
                         const float *grad_dst, int64_t o, float *out)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t oy = g->dst_map.block_channels, iy = g->src_map.block_channels;
    for (int64_t i = 0; i < p->group_cin; i++) {
        const int64_t channel = o / p->group_cout * p->group_cin + i;
        for (int64_t m = 0; m < g->taps; m++) {
            float sum = 0.0f;
            for (int64_t n = 0; n < d->n; n++) {
                const float *plane = src + n * g->src_map.image + channel / iy * g->src_map.block +
                                     channel % iy * g->src_map.channel;
                const float *grad = grad_dst + n * g->dst_map.image + o / oy * g->dst_map.block +
                                    o % oy * g->dst_map.channel;
                for (int64_t y = 0; y < p->hout; y++) {
                    const int64_t row = y * d->stride_h + m / d->kw * d->dilation_h - d->pad_top;
                    for (int64_t x = 0; x < p->wout && row >= 0 && row < d->h; x++) {
                        const int64_t column =
                            x * d->stride_w + m % d->kw * d->dilation_w - d->pad_left;
                        if (column >= 0 && column < d->w) {
                            sum += grad[y * g->dst_map.row + x * g->dst_map.pixel] *
                                   plane[row * g->src_map.row + column * g->src_map.pixel];
                        }
                    }
                }
            }
            out[i * g->taps + m] = sum;
        }
    }
}

static void portable_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_weight_gradient *g = job->g;
    const int64_t cout = g->problem.desc.cout;
    for (int64_t o = cout * index / g->tasks; o < cout * (index + 1) / g->tasks; o++) {
        add_portably(g, job->src, job->grad_dst, o,
                     job->grad_weight + o * g->problem.group_cin * g->taps);
    }
}

/* ---- products ---- */

/*
 * Rows of the tile from channel o of left on: they end where the layout's block does, and are
 * nearly as many as those of the tiles that follow.
 */
static int64_t tile_rows(const struct dc_weight_gradient *g, int64_t o, int64_t end)
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
 * Which floats of src the n columns from kx on of output pixels in [0, wout) are, in a row of the
 * image or (NULL) above or below it.
 */
static void copy_columns(const struct dc_weight_gradient *g, const float *row, int64_t kx,
                         int64_t n, bool room, float *to)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const ptrdiff_t pixel = g->src_map.pixel;
    int64_t begin = p->wout, end = p->wout;
    if (row != NULL) {
        /* All n columns lie inside for pixels [begin, end). */
        int64_t unused;
        valid_range(d->w, d->stride_w, kx * d->dilation_w - d->pad_left, p->wout, &begin, &unused);
        valid_range(d->w, d->stride_w, (kx + n - 1) * d->dilation_w - d->pad_left, p->wout, &unused,
                    &end);
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
    int64_t count = end - begin;
    if (room && n % 4 == 3) {
        /* All but the last pixel, whose next float may not be src's. */
        if (n == 3) {
            copy_runs(to, g->tile, from, step, count - 1, 4);
        } else if (n == 7) {
            copy_runs(to, g->tile, from, step, count - 1, 8);
        } else {
            copy_runs(to, g->tile, from, step, count - 1, (int)n + 1);
        }
        from += (count - 1) * step;
        to += (count - 1) * g->tile;
        count = 1;
    }
    switch (n) {
    case 1:
        copy_runs(to, g->tile, from, step, count, 1);
        break;
    case 2:
        copy_runs(to, g->tile, from, step, count, 2);
        break;
    case 5:
        copy_runs(to, g->tile, from, step, count, 5);
        break;
    default:
        copy_runs(to, g->tile, from, step, count, (int)n);
        break;
    }
}

/* The panel of lanes [lane, lane + lanes) of a group for output rows [y0, y1) of an image. */
static void load_panel(const struct dc_weight_gradient *g, const float *image, int64_t group,
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
        const struct dc_load_args args = {
            .strip = panel,
            .strip_block = DC_CHANNEL_BLOCK,
            .strip_row = g->panel_row,
            .strip_pixel = g->tile,
            .channels = lanes,
            .rows = rows,
            .columns = d->kw == 1 ? g->problem.wout : from->w,
            .src = image,
            .src_block_channels = from->map.block_channels,
            .src_block = from->map.block,
            .src_channel = from->map.channel,
            .src_row = from->map.row,
            .src_pixel = from->map.pixel,
            .src_first_channel = channel + lane,
            .h = from->h,
            .w = from->w,
            .x0 = d->kw == 1 ? -from->pad_left : 0,
            .y0 = origin,
            .step_x = d->kw == 1 ? from->stride_w : 1,
            .step_y = step_y,
        };
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

/* Chunks [chunk0, chunk1) of `images` images from `image` on, one block, all tiles. */
static void run_block(const struct job *job, const struct part *part, int64_t block, int64_t image,
                      int64_t images, int64_t chunk0, int64_t chunk1)
{
    const struct dc_weight_gradient *g = job->g;
    const struct dc_problem *p = &g->problem;
    const int64_t lane = block * g->tile, lanes = least(g->tile, g->columns - lane);
    const bool waits = g->chunks > 1 || g->chunk_images < p->desc.n,
               begins = image == 0 && chunk0 == 0;
    const bool ends = image + images == p->desc.n && chunk1 == g->chunks;
    /* Sums that lie as the gradient does are summed there. */
    const bool direct = g->outer == 1 && lanes % g->kernel->vector == 0 && !g->swapped;
    const float *const left = (g->swapped ? job->src : job->grad_dst) + image * g->left.map.image;
    const float *const right = (g->swapped ? job->grad_dst : job->src) + image * g->right.map.image;
    const ptrdiff_t filter = part->out_row;
    struct dc_product_args args = {.left_step = g->left_step,
                                   .left_row = g->left.map.channel,
                                   .right_step = g->right_step,
                                   .lanes = lanes,
                                   .lists = g->outer,
                                   .sums_row = direct ? filter : g->tile,
                                   .soon_row = filter};
    if (g->in_place) {
        args.right = right + channel_at(&g->right.map, part->group * g->right.channels + lane);
    } else {
        const int64_t y0 = chunk0 * g->chunk_rows, y1 = least(p->hout, chunk1 * g->chunk_rows);
        for (int64_t i = 0; i < images; i++) {
            load_panel(g, right + i * g->right.map.image, part->group, lane, lanes, y0, y1,
                       part->panel + i * g->panel_image);
        }
        /* Where row 0 would be: an integer, for it may lie outside. */
        args.right =
            (const float *)((uintptr_t)part->panel -
                            (uintptr_t)((g->by_output ? y0 : panel_origin(g, y0)) * g->panel_row) *
                                sizeof(float));
    }
    for (int64_t row = part->row0; row < part->row1; row += args.rows) {
        /* Of one row after another, if rows are output channels. */
        float *const out =
            part->out + (row - part->row0) * filter + (block - part->block0) * g->tile * g->outer;
        args.rows = tile_rows(g, row, part->row1);
        args.left = left + channel_at(&g->left.map, row);
        args.sums = direct  ? out
                    : waits ? part->sums + ((block - part->block0) * (part->row1 - part->row0) +
                                            row - part->row0) *
                                               g->outer * g->tile
                            : part->sums;
        args.sums_list = args.rows * g->tile;
        for (int64_t chunk = chunk0; chunk < chunk1; chunk++) {
            const int64_t list = images == g->chunk_images ? chunk : g->chunks;
            args.counts = g->counts + list * g->outer;
            args.segments = g->segments + g->first[list];
            args.resume = !begins || chunk != chunk0;
            args.soon = ends && chunk == chunk1 - 1 && !g->swapped && (!direct || !args.resume)
                            ? out
                            : NULL;
            g->kernel->product.run(&args);
        }
        if (!ends || direct) {
            continue;
        }
        struct dc_weave_args weave = {
            .sums = args.sums,
            .sums_list = args.sums_list,
            .sums_row = g->tile,
            .lists = g->outer,
            .rows = args.rows,
            .lanes = lanes,
            .dst = out,
            .dst_row = filter,
            .dst_lane = g->outer,
        };
        if (g->swapped) {
            /* Lanes are output channels: rows, which are inputs, lie side by side. */
            weave.sums_list = g->tile;
            weave.lists = args.rows;
            weave.rows = 1;
            weave.dst = job->grad_weight + (part->group * p->group_cout + lane) * filter + row -
                        part->group * p->group_cin;
            weave.dst_lane = filter;
        }
        g->kernel->product.weave(&weave);
    }
}

static void run_part(const struct job *job, const struct part *part)
{
    const struct dc_weight_gradient *g = job->g;
    const int64_t n = g->problem.desc.n;
    for (int64_t image = 0; image < n; image += g->chunk_images) {
        for (int64_t chunk = 0; chunk < g->chunks; chunk += g->panel_chunks) {
            for (int64_t block = part->block0; block < part->block1; block++) {
                run_block(job, part, block, image, least(g->chunk_images, n - image), chunk,
                          least(g->chunks, chunk + g->panel_chunks));
            }
        }
    }
}

static void product_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_weight_gradient *g = job->g;
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

/* Output channels of a part: DC_COMPOSE_CHUNK or a multiple. */
#define PART_ROWS (2 * DC_COMPOSE_CHUNK)

struct fold_job {
    struct job job;
    const doconv_fold_desc *fold;
    const float *w, *d;
    float *grad_w, *grad_d;
    int64_t part_blocks, parts; /* blocks of lanes of a part; parts of all */
    int tasks;
    ptrdiff_t sums_floats, out_floats, task_floats;
};

/* How the work is cut, without pointers; false: not for this layer. */
static bool plan_fold(const struct dc_weight_gradient *g, const doconv_fold_desc *fold,
                      struct fold_job *f)
{
    const int64_t inputs = dc_fold_gradient_part_inputs(g->ctx, fold);
    *f = (struct fold_job){.fold = fold};
    /* Lanes are inputs, and inputs of a part begin where the fold's blocks do. */
    if (g->way != PRODUCT || g->problem.desc.groups != 1 || g->inner != 1 || g->swapped ||
        inputs == 0 || inputs % g->tile != 0) {
        return false;
    }
    /* Parts as wide as the fold likes, or narrower where threads would be idle. */
    f->part_blocks = inputs / g->tile;
    while (f->part_blocks > 1 && divide_up(g->blocks, f->part_blocks) % g->ctx->threads != 0) {
        f->part_blocks--;
    }
    f->parts = divide_up(g->blocks, f->part_blocks);
    f->tasks = (int)least(g->ctx->threads, f->parts);
    if (2 * f->tasks <= least(g->ctx->threads, g->tasks)) {
        return false; /* too few parts: output channels have to be shared out */
    }
    const int64_t rows = least(PART_ROWS, g->left.channels);
    f->sums_floats = divide_up(f->part_blocks * rows * g->outer * g->tile +
                                   DC_TILE_SLACK * g->kernel->tile_pixels * g->tile,
                               16) *
                     16;
    f->out_floats = divide_up(rows * f->part_blocks * g->tile * g->taps, 16) * 16;
    f->task_floats = divide_up(g->panel_floats, 16) * 16 + f->sums_floats + f->out_floats +
                     divide_up((ptrdiff_t)dc_fold_gradient_part_floats(g->ctx, fold), 16) * 16;
    return true;
}

size_t dc_weight_gradient_fold_workspace_size(const struct dc_weight_gradient *g,
                                              const doconv_fold_desc *fold)
{
    struct fold_job f;
    const bool can = plan_fold(g, fold, &f);
    return can ? (size_t)(f.tasks * f.task_floats) * sizeof(float) : 0;
}

static void fold_task(void *arg, int index)
{
    const struct fold_job *f = arg;
    const struct dc_weight_gradient *g = f->job.g;
    float *const sums = f->job.tasks + index * f->task_floats, *const out = sums + f->sums_floats,
                 *const scratch = out + f->out_floats;
    const int64_t scratch_floats =
        divide_up((ptrdiff_t)dc_fold_gradient_part_floats(g->ctx, f->fold), 16) * 16;
    for (int64_t part = f->parts * index / f->tasks; part < f->parts * (index + 1) / f->tasks;
         part++) {
        struct part p = {.block0 = part * f->part_blocks,
                         .sums = sums,
                         .panel = scratch + scratch_floats,
                         .out = out};
        p.block1 = least(g->blocks, p.block0 + f->part_blocks);
        struct dc_fold_part folded = {.in = p.block0 * g->tile};
        folded.ins = least(p.block1 * g->tile, g->columns) - folded.in;
        p.out_row = folded.ins * g->taps;
        for (p.row0 = 0; p.row0 < g->left.channels; p.row0 = p.row1) {
            p.row1 = least(g->left.channels, p.row0 + PART_ROWS);
            run_part(&f->job, &p);
            folded.out = p.row0;
            folded.outs = p.row1 - p.row0;
            dc_fold_gradient_part(g->ctx, f->fold, &folded, f->w, f->d, out, f->grad_w, f->grad_d,
                                  scratch);
        }
    }
}

void dc_weight_gradient_fold(const struct dc_weight_gradient *g, const doconv_fold_desc *fold,
                             const float *w, const float *d, const float *src,
                             const float *grad_dst, float *grad_w, float *grad_d, char *workspace)
{
    struct fold_job f;
    plan_fold(g, fold, &f);
    f.job = (struct job){.g = g, .src = src, .grad_dst = grad_dst, .tasks = (float *)workspace};
    f.w = w;
    f.d = d;
    f.grad_w = grad_w;
    f.grad_d = grad_d;
    dc_parallel(g->ctx, f.tasks, fold_task, &f);
}

/* ---- depthwise and narrow groups ---- */

/*
 * Rows [first, first + rows) of channels [channel, channel + channels) of an image, `width`
 * columns, become a strip of vectors.
 */
static void load_strip(const struct dc_weight_gradient *g, const struct dc_tensor_map *map,
                       const float *image, int64_t channel, int64_t channels, int64_t first,
                       int64_t rows, int64_t width, float *strip)
{
    const struct dc_load_args load = {
        .strip = strip,
        .strip_row = width * g->kernel->vector,
        .strip_pixel = g->kernel->vector,
        .channels = channels,
        .rows = rows,
        .columns = width,
        .src = image,
        .src_block_channels = map->block_channels,
        .src_block = map->block,
        .src_channel = map->channel,
        .src_row = map->row,
        .src_pixel = map->pixel,
        .src_first_channel = channel,
        .h = first + rows,
        .w = width,
        .y0 = first,
        .step_x = 1,
        .step_y = 1,
    };
    if (rows > 0) {
        g->kernel->correlate.load(&load);
    }
}

static void run_vector(const struct job *job, int64_t v, float *src_strip)
{
    const struct dc_weight_gradient *g = job->g;
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t vector = g->kernel->vector, channel = v * vector,
                  count = least(vector, d->cout - channel), input = first_input(p, channel);
    const bool src_in_place = reads_in_place(p, &g->src_map, vector, input, d->cin);
    const bool grad_in_place = reads_in_place(p, &g->dst_map, vector, channel, d->cout);
    float *const grad_strip = src_strip + g->src_strip, *const sums = grad_strip + g->grad_strip;
    struct dc_correlate_args args = {
        .lanes = g->lanes,
        .planes = p->group_cin,
        .kh = d->kh,
        .kw = d->kw,
        .stride_h = d->stride_h,
        .stride_w = d->stride_w,
        .dilation_h = d->dilation_h,
        .dilation_w = d->dilation_w,
        .pad_left = d->pad_left,
        .w = d->w,
        .wout = p->wout,
        .sums = sums,
    };
    memset(sums, 0, (size_t)g->sums_floats * sizeof *sums);
    for (int64_t n = 0; n < d->n; n++) {
        const float *const src = job->src + n * g->src_map.image, *const grad =
                                                                      job->grad_dst +
                                                                      n * g->dst_map.image;
        for (args.y0 = 0; args.y0 < p->hout; args.y0 = args.y1) {
            args.y1 = least(p->hout, args.y0 + g->call_rows);
            if (grad_in_place) {
                args.grad = grad + channel_at(&g->dst_map, channel) + args.y0 * g->dst_map.row;
                args.grad_row = g->dst_map.row;
                args.grad_pixel = g->dst_map.pixel;
            } else {
                load_strip(g, &g->dst_map, grad, channel, count, args.y0, args.y1 - args.y0,
                           p->wout, grad_strip);
                args.grad = grad_strip;
                args.grad_row = p->wout * vector;
                args.grad_pixel = vector;
            }
            if (src_in_place) {
                args.src = src + channel_at(&g->src_map, input);
                args.src_row = g->src_map.row;
                args.src_pixel = g->src_map.pixel;
                args.h = d->h;
                args.pad_top = d->pad_top;
            } else {
                const int64_t first = least(d->h, most(0, args.y0 * d->stride_h - d->pad_top));
                const int64_t end =
                    most(first, least(d->h, (args.y1 - 1) * d->stride_h - d->pad_top +
                                                (d->kh - 1) * d->dilation_h + 1));
                load_strip(g, &g->src_map, src, input, inputs_seen(p, vector, channel), first,
                           end - first, d->w, src_strip);
                args.src = src_strip;
                args.src_row = d->w * vector;
                args.src_pixel = vector;
                args.h = end - first;
                args.pad_top = d->pad_top + first;
            }
            g->kernel->correlate.run(&args);
        }
    }
    const int64_t row = p->group_cin * g->taps;
    for (int64_t c = 0; c < count; c++) {
        for (int64_t i = 0; i < row; i++) {
            job->grad_weight[(channel + c) * row + i] = sums[i * vector + c];
        }
    }
}

static void correlate_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_weight_gradient *g = job->g;
    for (int64_t v = g->vectors * index / g->tasks; v < g->vectors * (index + 1) / g->tasks; v++) {
        run_vector(job, v, job->tasks + index * g->task_floats);
    }
}

/* ---- bias ---- */

/* Rows are summed in eight parts, in float, then in double: exact enough for any number of them. */
static void bias_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_weight_gradient *g = job->g;
    const struct dc_problem *p = &g->problem;
    enum { WIDTH = 16 };
    const int64_t blocks = divide_up(p->desc.cout, WIDTH);
    for (int64_t block = blocks * index / job->copy_tasks;
         block < blocks * (index + 1) / job->copy_tasks; block++) {
        const int64_t first = block * WIDTH, count = least(WIDTH, p->desc.cout - first);
        double total[WIDTH] = {0.0};
        for (int64_t n = 0; n < p->desc.n; n++) {
            for (int64_t y = 0; y < p->hout; y++) {
                const float *row = job->grad_dst + n * g->dst_map.image + y * g->dst_map.row;
                if (g->dst_map.channel == 1 && count == WIDTH) {
                    float sums[WIDTH] = {0.0f};
                    for (int64_t half = 0; half < WIDTH; half += 8) {
                        const int64_t c = first + half;
                        const float *at = row + c / g->dst_map.block_channels * g->dst_map.block +
                                          c % g->dst_map.block_channels;
                        for (int64_t x = 0; x < p->wout; x++) {
                            for (int i = 0; i < 8; i++) {
                                sums[half + i] += at[x * g->dst_map.pixel + i];
                            }
                        }
                    }
                    for (int i = 0; i < WIDTH; i++) {
                        total[i] += (double)sums[i];
                    }
                    continue;
                }
                for (int64_t i = 0; i < count; i++) {
                    const int64_t c = first + i;
                    const float *at = row + c / g->dst_map.block_channels * g->dst_map.block +
                                      c % g->dst_map.block_channels * g->dst_map.channel;
                    float sums[8] = {0.0f};
                    int64_t x = 0;
                    for (; x + 8 <= p->wout; x += 8) {
                        for (int j = 0; j < 8; j++) {
                            sums[j] += at[(x + j) * g->dst_map.pixel];
                        }
                    }
                    for (; x < p->wout; x++) {
                        sums[0] += at[x * g->dst_map.pixel];
                    }
                    total[i] += (double)(((sums[0] + sums[1]) + (sums[2] + sums[3])) +
                                         ((sums[4] + sums[5]) + (sums[6] + sums[7])));
                }
            }
        }
        for (int64_t i = 0; i < count; i++) {
            job->grad_bias[first + i] = (float)total[i];
        }
    }
}

void dc_weight_gradient_run(const struct dc_weight_gradient *g, const float *src,
                            const float *grad_dst, float *grad_weight, float *grad_bias,
                            char *workspace)
{
    struct job job = {.g = g,
                      .src = src,
                      .grad_dst = grad_dst,
                      .grad_weight = grad_weight,
                      .grad_bias = grad_bias,
                      .tasks = (float *)workspace};
    if (grad_bias != NULL) {
        job.copy_tasks = (int)least(g->ctx->threads, divide_up(g->problem.desc.cout, 16));
        dc_parallel(g->ctx, job.copy_tasks, bias_task, &job);
    }
    if (grad_weight != NULL) {
        dc_parallel(g->ctx, g->tasks,
                    g->way == PORTABLE  ? portable_task
                    : g->way == PRODUCT ? product_task
                                        : correlate_task,
                    &job);
    }
}
