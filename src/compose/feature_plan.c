/* SPDX-License-Identifier: MIT */
/*
 * Feature composition with kernels, what is decided once: which kernels, how pixels and outputs are
 * cut into chunks, and the workspace that they need.
 */
#include "base/arithmetic.h"
#include "base/context.h"
#include "base/cpu.h"
#include "base/layout.h"
#include "compose/feature_blocks.h"
#include "kernel.h"
#include "plan/problem.h"
#include "plan/solver.h"

/*
 * Inputs of a pass over the reduction, at least: loading and storing the sums is a per cent of the
 * work then.
 */
#define PASS_INPUTS 128
/*
 * Backward, pixels of a chunk: tiles of rows stay in L1, and loading and storing the sums is a per
 * cent of the work.
 */
#define WALK_PIXELS 256
/*
 * Forward, most pixels of a layer whose W is read in place; and floats of Z of a pass then: they
 * stay in L2.
 */
#define ROWS_PIXELS 128
#define PANELS_FLOATS 65536
/*
 * Pixels of a chunk, at most, and floats of its strip: they stay in L2. Packing W costs what a
 * dozen pixels do.
 */
#define CHUNK_PIXELS 512
#define CHUNK_FLOATS 98304

static int64_t align_floats(int64_t floats)
{
    return divide_up(floats, 16) * 16;
}

/* The best usable direct kernel: the one that leaves the fewest lanes of `channels` empty. */
static const struct dc_kernel *find_direct(const doconv_context *ctx, enum dc_isa isa,
                                           int64_t channels)
{
    const struct dc_kernel *best = NULL;
    int64_t best_lanes = 0;
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        const struct dc_kernel *k = *row;
        if (k->family != DC_FAMILY_DIRECT || k->isa != isa) {
            continue;
        }
        /* Lanes that are computed, with what a tile of few FMAs a broadcast loses. */
        const int64_t vectors = divide_up(channels, k->vector), full = k->tile_channels / k->vector;
        const int64_t lanes = vectors * k->vector * 16 + divide_up(vectors, full) * 16 +
                              (k->tile_pixels * full < 12 ? vectors * k->vector * 8 : 0);
        if (best == NULL || lanes < best_lanes) {
            best = k;
            best_lanes = lanes;
        }
    }
    return best;
}

static const struct dc_kernel *find_depthwise(const doconv_context *ctx)
{
    const struct dc_kernel *best = NULL;
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        if ((*row)->family == DC_FAMILY_DEPTHWISE && dc_isa_usable((*row)->isa, ctx->isa) &&
            LANES % (*row)->vector == 0 && (best == NULL || (*row)->isa > best->isa)) {
            best = *row;
        }
    }
    return best;
}

/* Can the kernel read every full block of input channels where it is? */
static bool reads_in_place(const struct dc_feature *f, int64_t vector)
{
    const int64_t block = f->src_map.block_channels;
    return f->src_map.channel == 1 && (block % vector == 0 || block == PTRDIFF_MAX) &&
           f->group_cin >= LANES &&
           (block == PTRDIFF_MAX || f->groups == 1 || f->group_cin % block == 0);
}

static void plan_forward(struct dc_feature *f)
{
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t pixels = p->hout * p->wout, tile = f->direct->tile_channels,
                  inputs = f->steps * LANES;
    f->pass_blocks = least(f->blocks, divide_up(PASS_INPUTS, inputs));
    const int64_t most_pixels =
        most(1, least(CHUNK_PIXELS, CHUNK_FLOATS / (f->pass_blocks * inputs)));
    f->height = most(1, least(p->hout, most_pixels / p->wout));
    f->chunks_image = divide_up(p->hout, f->height);
    f->height = divide_up(p->hout, f->chunks_image);
    f->images = f->chunks_image > 1 ? 1 : most(1, least(d->n, most_pixels / pixels));
    f->chunk_pixels = f->images * f->height * p->wout;
    f->out_blocks = divide_up(p->group_cout, tile);
    const int64_t units = divide_up(d->n, f->images) * f->chunks_image * d->groups;
    f->out_chunk = dc_cut_outputs(f->ctx, units, f->out_blocks);
    f->out_chunks = divide_up(f->out_blocks, f->out_chunk);
    const int64_t dst_block = dc_layout_block(d->dst_layout);
    f->direct_store =
        f->dst_map.channel == 1 && (d->dst_layout == DOCONV_NHWC ||
                                    (dst_block % f->direct->vector == 0 &&
                                     (d->groups == 1 || p->group_cout % f->direct->vector == 0)));
    const int64_t strip_rows =
        least(d->h, (f->height - 1) * d->stride_h + (d->kh - 1) * d->dilation_h + 1);
    const bool copies = !f->in_place || p->group_cin % LANES != 0;
    f->strip_floats = copies ? strip_rows * d->w * LANES : 0;
    f->z_floats = f->pass_blocks * inputs * f->chunk_pixels;
    f->partial_floats = align_floats((f->out_chunk * f->chunk_pixels + DC_TILE_SLACK) * tile);
    f->panel_floats = align_floats(f->pass_blocks * inputs * tile);
    f->natural_floats = align_floats(LANES * f->d_mul * tile);
    f->segment_floats = align_floats(divide_up(
        f->pass_blocks * f->steps * (int64_t)sizeof(struct dc_segment), (int64_t)sizeof(float)));
    f->forward_floats = f->strip_floats + f->z_floats + f->partial_floats + f->panel_floats +
                        f->natural_floats + f->segment_floats + f->factors_floats;
    f->forward_tasks = (int)least(f->ctx->threads, units * f->out_chunks);
}

/* Strides of 4 KiB put every plane into the same few cache sets. */
static int64_t unalias(int64_t floats)
{
    return floats % 1024 == 0 ? floats + 16 : floats;
}

static void plan_backward(struct dc_feature *f)
{
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t pixels = p->hout * p->wout, lanes = f->wide->tile_channels;
    f->parts = divide_up(f->steps * LANES, lanes);
    f->walk_rows = most(1, least(p->hout, WALK_PIXELS / p->wout));
    f->walk_rows = divide_up(p->hout, divide_up(p->hout, f->walk_rows));
    f->walk_images = f->walk_rows < p->hout ? 1 : most(1, least(d->n, WALK_PIXELS / pixels));
    f->walk_pixels = f->walk_images * f->walk_rows * p->wout;
    f->planes_in_place = d->dst_layout == DOCONV_NCHW && (pixels % 1024 != 0 || p->group_cout == 1);
    f->plane = f->planes_in_place ? pixels : unalias(pixels);
    f->planes_floats = f->planes_in_place ? 0 : align_floats(d->n * d->cout * f->plane);
    f->pixels_in_place = f->dst_map.channel == 1;
    f->pixels_floats = f->pixels_in_place ? 0 : d->n * divide_up(d->cout, LANES) * LANES * pixels;
    const bool copies = !f->in_place || p->group_cin % LANES != 0;
    f->image_floats = copies ? (f->walk_images * d->h * d->w + DC_TILE_SLACK) * LANES : 0;
    f->walk_floats = align_floats(f->parts * f->walk_pixels * lanes);
    f->natural = f->copies == 1 && d->n * pixels < p->group_cout;
    f->weight_floats = align_floats(f->parts * p->group_cout * lanes);
    f->map_floats = align_floats(f->parts * lanes);
    f->group_segment_floats = align_floats(divide_up(
        (p->group_cout / 8 + 2) * (int64_t)sizeof(struct dc_segment), (int64_t)sizeof(float)));
    const int64_t images_floats = align_floats(
        divide_up(f->walk_images * (int64_t)sizeof(struct dc_segment), (int64_t)sizeof(float)));
    f->backward_floats = 2 * f->image_floats + 2 * f->walk_floats +
                         (f->natural ? f->steps * f->walk_pixels * LANES : 0) +
                         2 * f->weight_floats + 2 * f->factors_floats + f->map_floats +
                         f->group_segment_floats + images_floats;
    f->backward_tasks = (int)least(f->ctx->threads, d->groups * f->blocks);
}

/* The direct kernel that takes the fewest cycles for `pixels` lanes. */
static const struct dc_kernel *find_rows(const doconv_context *ctx, int64_t pixels)
{
    const struct dc_kernel *best = NULL;
    double best_cost = 0.0;
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        const struct dc_kernel *k = *row;
        if (k->family != DC_FAMILY_DIRECT || !dc_isa_usable(k->isa, ctx->isa)) {
            continue;
        }
        const double rate = k->vector == 16 ? dc_cpu_probe()->fma512_per_cycle : 2.0;
        /* Small tiles wait for their loads; of equals, the one that reads the panel least often. */
        const double tile = (double)(k->tile_pixels * k->tile_channels / k->vector);
        const double cost =
            (double)divide_up(pixels, k->vector) / rate * (tile < 24.0 ? 1.25 : 1.0) +
            0.1 / (double)k->tile_pixels;
        if (best == NULL || cost < best_cost) {
            best = k;
            best_cost = cost;
        }
    }
    return best;
}

/*
 * Packing W takes as long as multiplying it with a dozen pixels: layers of few pixels read it in
 * place, and turn Z round instead.
 */
static void plan_rows(struct dc_feature *f)
{
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t pixels = d->n * p->hout * p->wout, inputs = LANES * f->d_mul;
    if (f->copies > 1 || pixels > ROWS_PIXELS || 2 * pixels > p->group_cout) {
        return;
    }
    f->rows = find_rows(f->ctx, pixels);
    const int64_t tile = f->rows->tile_channels;
    f->panels = divide_up(pixels, tile);
    f->pass_blocks = least(f->blocks, divide_up(PANELS_FLOATS, f->panels * tile * inputs));
    f->panel_inputs = f->pass_blocks * inputs;
    f->images = d->n;
    f->height = p->hout;
    f->chunk_pixels = pixels;
    f->out_blocks = divide_up(p->group_cout, LANES);
    f->out_chunk = dc_cut_outputs(f->ctx, d->groups, f->out_blocks);
    f->out_chunks = divide_up(f->out_blocks, f->out_chunk);
    f->z_floats = (f->steps * pixels + DC_TILE_SLACK) * LANES;
    f->panels_floats = align_floats(f->panels * f->panel_inputs * tile);
    f->sums_floats = align_floats((f->panels * f->out_chunk * LANES + DC_TILE_SLACK) * tile);
    const bool copies = !f->in_place || p->group_cin % LANES != 0;
    f->strip_floats = copies ? d->h * d->w * LANES : 0;
    f->forward_floats =
        f->strip_floats + f->z_floats + f->panels_floats + f->sums_floats + f->factors_floats;
    f->forward_tasks = (int)least(f->ctx->threads, d->groups * f->out_chunks);
}

/* A block's unit is a chunk of rows: its Z, and its sums, stay in L2. */
static void plan_depthwise(struct dc_feature *f)
{
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    f->wide = f->direct;
    f->natural = true; /* Z by steps */
    f->walk_rows = f->height = most(1, least(p->hout, WALK_PIXELS / p->wout));
    f->blocks_together = d->src_layout == DOCONV_NHWC;
    const double l2 = (double)dc_cpu_probe()->l2_bytes,
                 row = (double)d->w * (double)d->cin * sizeof(float);
    if (f->blocks_together && (double)d->h * row > l2 / 2.0) {
        /* What all blocks read of src stays in a quarter of L2. */
        const double height =
            (l2 / 4.0 / row - (double)((d->kh - 1) * d->dilation_h)) / (double)d->stride_h;
        f->height = height < (double)f->height ? most(1, (int64_t)height) : f->height;
    }
    f->walk_images = f->images = 1;
    f->walk_pixels = f->walk_rows * p->wout;
    f->chunk_pixels = f->height * p->wout;
    f->chunks_image = divide_up(p->hout, f->height);
    const bool copies = !f->in_place || f->group_cin % LANES != 0;
    const int64_t strip_rows =
        least(d->h, (f->height - 1) * d->stride_h + (d->kh - 1) * d->dilation_h + 1);
    f->strip_floats = copies ? strip_rows * d->w * LANES : 0;
    f->z_floats = f->steps * f->chunk_pixels * LANES;
    f->partial_floats = (f->chunk_pixels + DC_TILE_SLACK) * LANES;
    f->panel_floats = f->multiplier * f->d_mul * LANES;
    f->forward_floats =
        f->strip_floats + f->z_floats + f->partial_floats +
        (f->blocks_together ? f->blocks : 1) * (f->panel_floats + f->factors_floats);
    f->forward_tasks = (int)least(f->ctx->threads, f->blocks * d->n * f->chunks_image);
    f->planes_in_place = f->pixels_in_place = true; /* neither is needed */
    f->image_floats = copies ? (d->h * d->w + DC_TILE_SLACK) * LANES : 0;
    f->walk_floats = f->multiplier * f->walk_pixels * LANES; /* dst's gradient */
    f->weight_floats = f->panel_floats;
    f->backward_floats = 2 * f->image_floats + 2 * f->walk_floats +
                         f->steps * f->walk_pixels * LANES + 2 * f->weight_floats +
                         2 * f->factors_floats;
    f->backward_tasks = (int)least(f->ctx->threads, f->blocks);
}

void dc_feature_plan_blocks(struct dc_feature *f)
{
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    const bool depthwise_layer = p->group_cin == 1 && d->groups > 1;
    /*
     * Few outputs a group fill no tiles; and in double, what would need absurd copies is left to
     * the loops without any.
     */
    const double strip = (double)d->h * (double)d->w * 64.0,
                 z = (double)p->wout * (double)f->d_mul * 64.0;
    if ((p->group_cout < 4 && !depthwise_layer) || strip > 1e9 || z > 1e9 ||
        (double)f->d_mul * (double)f->taps * 64.0 > 1e9) {
        return;
    }
    const struct dc_kernel *depthwise = find_depthwise(f->ctx);
    const struct dc_kernel *direct =
        depthwise != NULL ? find_direct(f->ctx, depthwise->isa, p->group_cout) : NULL;
    if (direct == NULL) {
        return;
    }
    f->depthwise = depthwise;
    f->direct = direct;
    f->multiplier = depthwise_layer && depthwise->grouped.taps_scatter != NULL ? p->group_cout : 0;
    f->groups = f->multiplier != 0 ? 1 : d->groups;
    f->group_cin = f->multiplier != 0 ? d->cin : p->group_cin;
    f->copies = f->multiplier != 0 ? 1 : most(1, least(f->d_mul, LANES / p->group_cin));
    f->steps = divide_up(f->d_mul, f->copies);
    f->blocks = divide_up(f->group_cin, LANES);
    const int64_t right =
        (p->wout - 1) * d->stride_w - d->pad_left + (d->kw - 1) * d->dilation_w - (d->w - 1);
    f->edge = most(d->pad_left, right);
    f->chunk = d->dilation_w == 1 && d->stride_w <= 2 && f->edge <= DC_GROUPED_EDGE ? 3 : 1;
    f->factors_floats = align_floats(f->steps * f->taps * LANES);
    f->in_place = reads_in_place(f, depthwise->vector);
    if (f->multiplier != 0) {
        plan_depthwise(f);
        return;
    }
    plan_forward(f);
    plan_rows(f);
    if (depthwise->grouped.taps_correlate != NULL && depthwise->grouped.taps_scatter != NULL) {
        f->wide = find_direct(f->ctx, depthwise->isa, f->steps * LANES);
        plan_backward(f);
    }
}
