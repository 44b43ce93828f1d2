/* SPDX-License-Identifier: MIT */
/*
 * Feature composition with kernels, what is decided once: which kernels, how pixels and outputs are
 * cut into chunks, and the workspace that they need.
 */
#include <stdio.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/costs.h"
#include "base/cpu.h"
#include "base/layout.h"
#include "base/log.h"
#include "base/registry.h"
#include "compose/feature.h"
#include "compose/feature_blocks.h"
#include "compose/fold_cut.h"
#include "geometry/strips.h"
#include "kernel.h"
#include "plan/plan.h"
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

static void plan_forward(struct dc_feature *f)
{
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t pixels = p->hout * p->wout, tile = f->gemm->tile_channels,
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
    f->out_chunk = dc_cut_outputs(f->problem.threads, units, f->out_blocks);
    f->out_chunks = divide_up(f->out_blocks, f->out_chunk);
    const int64_t dst_block = dc_layout_block(d->dst_layout);
    f->direct_store =
        f->dst_map.channel == 1 && (d->dst_layout == DOCONV_NHWC ||
                                    (dst_block % f->gemm->vector == 0 &&
                                     (d->groups == 1 || p->group_cout % f->gemm->vector == 0)));
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
    f->forward_tasks = (int)least(f->problem.threads, units * f->out_chunks);
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
    f->plane = f->planes_in_place ? pixels : unalias_floats(pixels);
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
    f->backward_tasks = (int)least(f->problem.threads, d->groups * f->blocks);
}

/*
 * Packing W takes as long as multiplying it with a dozen pixels: layers of few pixels read it in
 * place, and turn Z round instead.
 */
static bool rows_suit(const struct dc_feature *f)
{
    const int64_t pixels = f->problem.desc.n * f->problem.hout * f->problem.wout;
    return f->copies == 1 && pixels <= ROWS_PIXELS && 2 * pixels <= f->problem.group_cout;
}

static void plan_rows(struct dc_feature *f)
{
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t pixels = d->n * p->hout * p->wout, inputs = LANES * f->d_mul;
    const int64_t tile = f->gemm->tile_channels;
    f->panels = divide_up(pixels, tile);
    f->pass_blocks = least(f->blocks, divide_up(PANELS_FLOATS, f->panels * tile * inputs));
    f->panel_inputs = f->pass_blocks * inputs;
    f->images = d->n;
    f->height = p->hout;
    f->chunk_pixels = pixels;
    f->out_blocks = divide_up(p->group_cout, LANES);
    f->out_chunk = dc_cut_outputs(f->problem.threads, d->groups, f->out_blocks);
    f->out_chunks = divide_up(f->out_blocks, f->out_chunk);
    f->z_floats = (f->steps * pixels + DC_TILE_SLACK) * LANES;
    f->panels_floats = align_floats(f->panels * f->panel_inputs * tile);
    f->sums_floats = align_floats((f->panels * f->out_chunk * LANES + DC_TILE_SLACK) * tile);
    const bool copies = !f->in_place || p->group_cin % LANES != 0;
    f->strip_floats = copies ? d->h * d->w * LANES : 0;
    f->forward_floats =
        f->strip_floats + f->z_floats + f->panels_floats + f->sums_floats + f->factors_floats;
    f->forward_tasks = (int)least(f->problem.threads, d->groups * f->out_chunks);
}

/* A block's unit is a chunk of rows: its Z, and its sums, stay in L2. */
static void plan_depthwise(struct dc_feature *f)
{
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    f->wide = f->gemm;
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
    f->forward_tasks = (int)least(f->problem.threads, f->blocks * d->n * f->chunks_image);
    f->planes_in_place = f->pixels_in_place = true; /* neither is needed */
    f->image_floats = copies ? (d->h * d->w + DC_TILE_SLACK) * LANES : 0;
    f->walk_floats = f->multiplier * f->walk_pixels * LANES; /* dst's gradient */
    f->weight_floats = f->panel_floats;
    f->backward_floats = 2 * f->image_floats + 2 * f->walk_floats +
                         f->steps * f->walk_pixels * LANES + 2 * f->weight_floats +
                         2 * f->factors_floats;
    f->backward_tasks = (int)least(f->problem.threads, f->blocks);
}

/* ---- what all plans share ---- */

/*
 * Few outputs a group fill no tiles; and in double, what would need absurd copies is left to the
 * loops without any.
 */
static const char *refuse(const struct dc_problem *p, const struct dc_kernel *depthwise)
{
    const doconv_conv_desc *d = &p->desc;
    const double d_mul = (double)p->fold.d_mul, strip = (double)d->h * (double)d->w * 64.0,
                 z = (double)p->wout * d_mul * 64.0;
    if (LANES % depthwise->vector != 0) {
        return "its vectors do not fit 16 lanes";
    }
    if (p->group_cout < 4 && !(p->group_cin == 1 && d->groups > 1)) {
        return "a group has too few outputs for tiles of them";
    }
    if (strip > 1e9 || z > 1e9 || d_mul * (double)d->kh * (double)d->kw * 64.0 > 1e9) {
        return "its copies would be too large";
    }
    return NULL;
}

/* Layout, blocks of channels, the depthwise kernel's parameters. */
static struct dc_feature create(doconv_context *ctx, const struct dc_problem *p,
                                const struct dc_kernel *depthwise, const struct dc_kernel *direct)
{
    const doconv_conv_desc *d = &p->desc;
    const bool depthwise_layer = p->group_cin == 1 && d->groups > 1;
    struct dc_feature f = {
        .ctx = ctx,
        .problem = *p,
        .src_map = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
        .dst_map = dc_tensor_map(d->dst_layout, d->cout, p->hout, p->wout),
        .d_mul = p->fold.d_mul,
        .taps = d->kh * d->kw,
        .repeated = dc_fold_repeated(&p->fold),
        .depthwise = depthwise,
        .gemm = direct,
        .wide = direct,
    };
    f.multiplier = depthwise_layer && depthwise->grouped.taps_scatter != NULL ? p->group_cout : 0;
    f.groups = f.multiplier != 0 ? 1 : d->groups;
    f.group_cin = f.multiplier != 0 ? d->cin : p->group_cin;
    f.copies = f.multiplier != 0 ? 1 : most(1, least(f.d_mul, LANES / p->group_cin));
    f.steps = divide_up(f.d_mul, f.copies);
    f.blocks = divide_up(f.group_cin, LANES);
    const int64_t right =
        (p->wout - 1) * d->stride_w - d->pad_left + (d->kw - 1) * d->dilation_w - (d->w - 1);
    f.edge = most(d->pad_left, right);
    f.chunk = dc_taps_together(d->kw, d->stride_w, d->dilation_w, f.edge);
    f.factors_floats = align_floats(f.steps * f.taps * LANES);
    f.in_place = f.group_cin >= LANES &&
                 dc_groups_in_place(&f.src_map, f.groups, f.group_cin, depthwise->vector);
    return f;
}

/*
 * Lanes of a direct kernel that are computed for `channels` of them, in sixteenths, with what a
 * tile of few FMAs a broadcast loses.
 */
static int64_t lanes_taken(const struct dc_kernel *k, int64_t channels)
{
    const int64_t vectors = divide_up(channels, k->vector), full = k->tile_channels / k->vector;
    return vectors * k->vector * 16 + divide_up(vectors, full) * 16 +
           (k->tile_pixels * full < 12 ? vectors * k->vector * 8 : 0);
}

/* Cycles of `steps` steps of a reduction over as many lanes. */
static double tile_cycles(const struct dc_kernel *k, double steps, int64_t lanes)
{
    const double rate = k->vector == 16 ? 16.0 * dc_cpu_probe()->fma512_per_cycle : 16.0;
    /* Of equal rates, longer vectors need fewer loads. */
    return steps * (double)lanes / 16.0 / rate * (k->vector == 16 ? 1.0 : 1.05);
}

/* Of the depthwise part: Z, or what its gradient hands back. */
static double z_cycles(const struct dc_feature *f, double passes)
{
    const struct dc_problem *p = &f->problem;
    const double rate = f->depthwise->vector == 16 ? 16.0 * dc_cpu_probe()->fma512_per_cycle : 16.0;
    const double pixels = (double)(p->desc.n * p->hout * p->wout);
    /* Depthwise: what all columns share, src's borders and dst's stores, costs as much as one. */
    const double shared = f->multiplier != 0 ? 1.0 + 1.0 / (double)p->fold.d_mul : 1.0;
    return passes * 1.5 * shared * pixels * (double)(f->groups * f->blocks * f->steps * LANES) *
           (double)f->taps / rate;
}

/* ---- forward ---- */

static const char *const way_names[] = {[DC_FEATURE_PIXELS] = "pixels",
                                        [DC_FEATURE_ROWS] = "rows",
                                        [DC_FEATURE_DEPTHWISE] = "depthwise"};

static void plan_way(struct dc_feature *f, enum dc_feature_way way)
{
    f->way = way;
    if (way == DC_FEATURE_DEPTHWISE) {
        plan_depthwise(f);
    } else {
        plan_forward(f);
    }
    if (way == DC_FEATURE_ROWS) {
        plan_rows(f);
    }
}

static double forward_seconds(const struct dc_feature *f)
{
    const struct dc_problem *p = &f->problem;
    const double pixels = (double)(p->desc.n * p->hout * p->wout),
                 inputs = (double)(f->groups * f->blocks * f->steps * LANES);
    double cycles = z_cycles(f, 1.0);
    if (f->way == DC_FEATURE_PIXELS) {
        /* Packing W costs what a dozen pixels do. */
        cycles +=
            tile_cycles(f->gemm, (pixels + 12.0) * inputs, lanes_taken(f->gemm, p->group_cout));
    } else if (f->way == DC_FEATURE_ROWS) {
        const double tile =
            (double)(f->gemm->tile_pixels * f->gemm->tile_channels / f->gemm->vector);
        /* W is not packed; small tiles wait for their loads, short ones read the panel often. */
        const int64_t lanes = divide_up((int64_t)pixels, f->gemm->vector) * f->gemm->vector;
        cycles +=
            tile_cycles(f->gemm, (double)p->desc.cout * inputs / (double)f->groups, 16 * lanes) *
            (0.7 * (tile < 24.0 ? 1.25 : 1.0) + 0.1 / (double)f->gemm->tile_pixels);
    } else {
        cycles += pixels * inputs * (double)f->multiplier / 8.0;
    }
    return cycles / DC_NOMINAL_HERTZ / f->forward_tasks;
}

static void offer_forward(const doconv_context *ctx, struct dc_feature *f, enum dc_feature_way way,
                          struct dc_candidate_list *list)
{
    const struct dc_feature_parameters q = {.way = way};
    plan_way(f, way);
    struct dc_candidate c = {
        .solver = &dc_solver_feature_forward,
        .kernel = f->depthwise,
        .second = f->gemm,
        .order_of_sums = 1 + (int)way + 4 * (int)f->depthwise->isa,
        .error_amplification = f->gemm->error_amplification,
        .workspace_size = (size_t)(f->forward_tasks * f->forward_floats) * sizeof(float),
        .estimated_seconds = forward_seconds(f),
    };
    dc_set_parameters(&c, &q);
    dc_candidate_append(ctx, list, &c);
}

static void describe_forward(const struct dc_candidate *c, char *text, size_t size)
{
    struct dc_feature_parameters q;
    dc_get_parameters(c, &q);
    snprintf(text, size, ":way=%s", way_names[q.way]);
}

static const char *enumerate_forward(const doconv_context *ctx, const struct dc_problem *p,
                                     const struct dc_kernel *depthwise,
                                     struct dc_candidate_list *list)
{
    const char *refused = refuse(p, depthwise);
    if (refused != NULL) {
        return refused;
    }
    const struct dc_kernel *direct = NULL;
    refused = "this ISA has no direct kernel";
    while ((direct = dc_kernel_next(ctx, DC_FAMILY_DIRECT, depthwise->isa, direct)) != NULL) {
        refused = NULL;
        struct dc_feature f = create((doconv_context *)ctx, p, depthwise, direct);
        if (f.multiplier != 0) {
            offer_forward(ctx, &f, DC_FEATURE_DEPTHWISE, list);
            break; /* its direct kernel only loads and stores */
        }
        offer_forward(ctx, &f, DC_FEATURE_PIXELS, list);
        if (rows_suit(&f)) {
            f = create((doconv_context *)ctx, p, depthwise, direct);
            offer_forward(ctx, &f, DC_FEATURE_ROWS, list);
        }
    }
    return refused;
}

static doconv_status keep(doconv_plan *plan, const struct dc_feature *f)
{
    struct dc_feature *state = dc_alloc(plan->ctx, sizeof *state);
    if (state == NULL) {
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "training: out of memory");
    }
    plan->state = memcpy(state, f, sizeof *f);
    return DOCONV_OK;
}

static doconv_status prepare_forward(doconv_plan *plan)
{
    struct dc_feature_parameters q;
    dc_get_parameters(&plan->candidate, &q);
    struct dc_feature f =
        create(plan->ctx, &plan->problem, plan->candidate.kernel, plan->candidate.second);
    plan_way(&f, (enum dc_feature_way)q.way);
    return keep(plan, &f);
}

const struct dc_solver dc_solver_feature_forward = {
    .name = "feature",
    .operation = DC_FEATURE_FORWARD,
    .family = DC_FAMILY_DEPTHWISE,
    .enumerate = enumerate_forward,
    .describe = describe_forward,
    .prepare = prepare_forward,
    .execute = dc_feature_forward_execute,
};

/* ---- backward ---- */

static void plan_walk(struct dc_feature *f)
{
    if (f->multiplier != 0) {
        f->way = DC_FEATURE_DEPTHWISE;
        plan_depthwise(f);
    } else {
        plan_backward(f);
    }
}

static size_t backward_bytes(const struct dc_feature *f)
{
    return (size_t)(f->backward_tasks * f->backward_floats + f->planes_floats + f->pixels_floats) *
           sizeof(float);
}

static const char *enumerate_backward(const doconv_context *ctx, const struct dc_problem *p,
                                      const struct dc_kernel *depthwise,
                                      struct dc_candidate_list *list)
{
    const char *refused = refuse(p, depthwise);
    if (refused != NULL) {
        return refused;
    }
    if (depthwise->grouped.taps_correlate == NULL || depthwise->grouped.taps_scatter == NULL) {
        return "it has no backward taps";
    }
    const struct dc_kernel *direct = NULL;
    refused = "this ISA has no direct kernel";
    while ((direct = dc_kernel_next(ctx, DC_FAMILY_DIRECT, depthwise->isa, direct)) != NULL) {
        refused = NULL;
        struct dc_feature f = create((doconv_context *)ctx, p, depthwise, direct);
        plan_walk(&f);
        const double pixels = (double)(p->desc.n * p->hout * p->wout);
        const double cycles = z_cycles(&f, 3.0) + tile_cycles(direct,
                                                              2.0 * pixels * (double)p->desc.cout *
                                                                  (double)(f.groups * f.blocks) /
                                                                  (double)p->desc.groups,
                                                              lanes_taken(direct, f.steps * LANES));
        struct dc_candidate c = {
            .solver = &dc_solver_feature_backward,
            .kernel = depthwise,
            .second = direct,
            .order_of_sums = 1 + 4 * (int)depthwise->isa,
            .error_amplification = direct->error_amplification,
            .workspace_size = backward_bytes(&f),
            .estimated_seconds = cycles / DC_NOMINAL_HERTZ / f.backward_tasks,
        };
        dc_candidate_append(ctx, list, &c);
        if (f.multiplier != 0) {
            break; /* its direct kernel only loads and stores */
        }
    }
    return refused;
}

static doconv_status prepare_backward(doconv_plan *plan)
{
    struct dc_feature f =
        create(plan->ctx, &plan->problem, plan->candidate.kernel, plan->candidate.second);
    plan_walk(&f);
    return keep(plan, &f);
}

const struct dc_solver dc_solver_feature_backward = {
    .name = "feature",
    .operation = DC_FEATURE_BACKWARD,
    .family = DC_FAMILY_DEPTHWISE,
    .enumerate = enumerate_backward,
    .prepare = prepare_backward,
    .execute = dc_feature_backward_execute,
};
