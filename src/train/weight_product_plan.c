/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's weight by products, what is decided once: how taps, lanes and
 * pixels are cut, and the segments.
 */
#include <math.h>
#include <stdio.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/costs.h"
#include "base/cpu.h"
#include "base/layout.h"
#include "base/log.h"
#include "geometry/tap_ranges.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "train/weight_gradient.h"
#include "train/weight_product.h"

/*
 * Pixels between a tile's loading and storing its sums: few enough for its rows, and the lanes, to
 * stay near over all taps.
 */
#define CHUNK_PIXELS 256

/*
 * Segments of outer tap m over rows [row0, row1) of image `image` of a chunk; segments may be NULL
 * to count them. Offsets are those from the first row of output or src, whatever the panel's rows
 * are.
 */
static ptrdiff_t list_tap(const struct dc_weight_product *g, int64_t m, int64_t image, int64_t row0,
                          int64_t row1, struct dc_segment *segments, ptrdiff_t count)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const struct operand *l = &g->left, *r = &g->right;
    const int64_t ky = g->inner == 1 ? m / d->kw : m, kx = g->inner == 1 ? m % d->kw : 0;
    const int64_t dy = ky * d->dilation_h - r->pad_top, dx = kx * d->dilation_w - r->pad_left;
    int64_t x0 = 0, x1 = p->wout, y0 = 0, y1 = p->hout;
    if (g->inner == 1) {
        dc_outputs_inside(r->w, r->stride_w, dx, p->wout, &x0, &x1);
    }
    if (g->inner != g->taps || g->taps == 1) {
        dc_outputs_inside(r->h, r->stride_h, dy, p->hout, &y0, &y1);
    }
    if (x1 <= x0) {
        return count;
    }
    for (int64_t y = most(y0, row0); y < least(y1, row1); y++) {
        const int64_t row = g->by_output ? y : y * r->stride_h + dy;
        struct dc_segment s = {.src_offset = image * l->map.image + y * l->stride_h * l->map.row +
                                             x0 * g->left_step,
                               .length = x1 - x0};
        if (g->in_place) {
            s.weight_offset = image * r->map.image + (y * r->stride_h + dy) * r->map.row +
                              (x0 * r->stride_w + dx) * r->map.pixel;
        } else {
            const int64_t column = g->inner != 1 || d->kw == 1 ? x0 : x0 * r->stride_w + dx;
            s.weight_offset = image * g->panel_image + row * g->panel_row + column * g->tile;
        }
        struct dc_segment *last = segments != NULL && count != 0 ? segments + count - 1 : NULL;
        if (last != NULL && last->src_offset + last->length * g->left_step == s.src_offset &&
            last->weight_offset + last->length * g->right_step == s.weight_offset) {
            last->length += s.length;
            continue;
        }
        if (segments != NULL) {
            segments[count] = s;
        }
        count++;
    }
    return count;
}

static doconv_status list_taps(struct dc_weight_product *g)
{
    const struct dc_problem *p = &g->problem;
    const int64_t left_over = p->desc.n % g->chunk_images;
    ptrdiff_t most_segments = 0;
    for (int64_t m = 0; m < g->outer; m++) {
        most_segments += (g->chunk_images + left_over) * list_tap(g, m, 0, 0, p->hout, NULL, 0);
    }
    g->counts = dc_alloc(g->ctx, (size_t)((g->chunks + 1) * g->outer) * sizeof *g->counts);
    g->first = dc_alloc(g->ctx, (size_t)(g->chunks + 1) * sizeof *g->first);
    g->segments = dc_alloc(g->ctx, (size_t)(most_segments + 1) * sizeof *g->segments);
    if (g->counts == NULL || g->first == NULL || g->segments == NULL) {
        return dc_fail(g->ctx, DOCONV_OUT_OF_MEMORY, "training: no memory for %td segments",
                       most_segments);
    }
    ptrdiff_t used = 0;
    for (int64_t chunk = 0; chunk <= g->chunks; chunk++) {
        const int64_t images = chunk < g->chunks ? g->chunk_images : left_over,
                      row0 = chunk < g->chunks ? chunk * g->chunk_rows : 0;
        g->first[chunk] = used;
        for (int64_t m = 0; m < g->outer; m++) {
            ptrdiff_t count = 0;
            for (int64_t image = 0; image < images; image++) {
                count = list_tap(g, m, image, row0, least(p->hout, row0 + g->chunk_rows),
                                 g->segments + used, count);
            }
            g->counts[chunk * g->outer + m] = count;
            used += count;
        }
    }
    return DOCONV_OK;
}

/* Everything but the segments for a way to share out the taps. */
static void plan_taps(struct dc_weight_product *g, int64_t inner)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const struct dc_cpu *cpu = dc_cpu_probe();
    const struct operand *r = &g->right;
    const int64_t pixels = p->hout * p->wout;
    g->inner = inner;
    g->outer = g->taps / inner;
    g->tile = g->kernel->tile_channels;
    g->columns = r->channels * inner;
    g->blocks = divide_up(g->columns, g->tile);
    g->chunk_rows = most(1, least(p->hout, CHUNK_PIXELS / p->wout));
    g->chunks = divide_up(p->hout, g->chunk_rows);
    g->chunk_rows = divide_up(p->hout, g->chunks);
    g->chunks = divide_up(p->hout, g->chunk_rows);
    g->chunk_images = g->chunks > 1 ? 1 : most(1, least(d->n, CHUNK_PIXELS / pixels));
    /*
     * A tile that multiplies little for each vector needs its lanes in L1, and pixels far apart
     * evict one another from there.
     */
    const bool near =
        g->kernel->vector == 16 && r->stride_w * r->map.pixel < (g->taps == 1 ? 1024 : 512);
    g->in_place =
        near && inner == 1 && r->map.channel == 1 && r->channels % g->kernel->vector == 0 &&
        (r->map.block == 0 || (r->map.block_channels % g->tile == 0 && r->channels % g->tile == 0));
    g->left_step = g->left.stride_w * g->left.map.pixel;
    g->by_output = inner == g->taps || d->kh == 1;
    g->panel_chunks = 1;
    if (g->in_place) {
        g->right_step = r->stride_w * r->map.pixel;
        g->panel_floats = 0;
    } else {
        g->right_step = inner != 1 || d->kw == 1 ? g->tile : r->stride_w * g->tile;
        g->panel_row = (inner != 1 || d->kw == 1 ? p->wout : r->w) * g->tile;
    }
    /* Panels of several chunks copy fewer rows twice. */
    const int64_t floats = cpu->l2_bytes / 2 / (int64_t)sizeof(float),
                  row_floats = p->wout * (g->left.channels + g->tile);
    if (g->chunk_images == 1) {
        g->panel_chunks = most(1, least(g->chunks, floats / row_floats / g->chunk_rows));
    }
    if (!g->in_place) {
        const struct dc_axis axis = dc_rows_axis(p);
        const int64_t rows = least(p->hout, g->panel_chunks * g->chunk_rows);
        g->panel_image =
            (g->by_output ? rows : least(r->h, dc_inputs_spanned(&axis, rows))) * g->panel_row;
        g->panel_floats = align_floats(g->chunk_images * g->panel_image);
    }
}

/* Which tasks there are, and what each needs. */
static void plan_tasks(struct dc_weight_product *g)
{
    const struct dc_problem *p = &g->problem;
    const int64_t splits = divide_up(p->threads, p->desc.groups);
    double best = 0.0;
    for (int64_t parts = 1; parts <= least(splits, g->blocks); parts++) {
        /* A panel costs about as much as some rows. */
        const int64_t row_parts = least(g->left.channels, most(1, splits / parts));
        const double cost = (double)divide_up(g->blocks, parts) *
                            (double)(divide_up(g->left.channels, row_parts) + 16);
        if (parts == 1 || cost < best) {
            best = cost;
            g->block_parts = (int)parts;
            g->row_parts = (int)row_parts;
        }
    }
    g->part_blocks = divide_up(g->blocks, g->block_parts);
    g->part_rows = divide_up(g->left.channels, g->row_parts);
    g->tasks = (int)least(p->threads, p->desc.groups * g->block_parts * g->row_parts);
    const bool waits = g->chunks > 1 || g->chunk_images < p->desc.n; /* sums between chunks */
    const int64_t blocks = waits ? g->part_blocks : 1,
                  rows = waits ? g->part_rows : least(g->part_rows, g->kernel->tile_pixels);
    g->sums_floats =
        blocks * rows * g->outer * g->tile + DC_TILE_SLACK * g->kernel->tile_pixels * g->tile;
    g->task_floats = align_floats(g->panel_floats + g->sums_floats) + 16;
}

/* Whose channels are lanes. */
static void plan_operands(struct dc_weight_product *g)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const struct operand src = {.map = g->src_map,
                                .channels = p->group_cin,
                                .h = d->h,
                                .w = d->w,
                                .stride_h = d->stride_h,
                                .stride_w = d->stride_w,
                                .pad_top = d->pad_top,
                                .pad_left = d->pad_left};
    const struct operand grad = {.map = g->dst_map,
                                 .channels = p->group_cout,
                                 .h = p->hout,
                                 .w = p->wout,
                                 .stride_h = 1,
                                 .stride_w = 1};
    /*
     * Planes are transposed to be lanes, so the fewer the better, if there are pixels enough to pay
     * for the sums, which are transposed then.
     */
    const bool inside = d->pad_top == 0 && d->pad_left == 0 && (p->hout - 1) * d->stride_h < d->h &&
                        (p->wout - 1) * d->stride_w < d->w;
    const bool pays =
        3 * p->group_cout <= p->group_cin && d->n * p->hout * p->wout > 10 * p->group_cout;
    g->swapped = g->taps == 1 && inside && pays && g->src_map.pixel == 1 && g->dst_map.pixel == 1 &&
                 p->group_cout % g->kernel->tile_channels == 0;
    g->left = g->swapped ? src : grad;
    g->right = g->swapped ? grad : src;
}

/* Cycles an output pixel and group, roughly: what is multiplied, and what is copied. */
static double pixel_cycles(const struct dc_weight_product *g)
{
    const struct dc_problem *p = &g->problem;
    const double rate = g->kernel->vector == 16 ? dc_cpu_probe()->fma512_per_cycle : 2.0;
    const double vectors = (double)divide_up(p->group_cin * g->inner, g->kernel->vector),
                 lists = (double)g->outer;
    const double copy = g->inner == 1 ? 0.5 : g->src_map.pixel == 1 ? 0.7 : 1.3;
    return lists * vectors * (double)p->group_cout / rate +
           copy * (double)(p->group_cin * g->inner);
}

/* ---- for folded weights ---- */

/* How parts are cut, where their inputs may be `inputs`; false: not for this layer. */
static bool plan_parts(struct dc_weight_product *g, int64_t inputs)
{
    const int threads = g->problem.threads;
    /* Lanes are inputs, and inputs of a part begin where the fold's blocks do. */
    if (g->problem.desc.groups != 1 || g->inner != 1 || g->swapped || inputs == 0 ||
        inputs % g->tile != 0) {
        return false;
    }
    /* Parts as wide as the fold likes, or narrower where threads would be idle. */
    g->fold_blocks = inputs / g->tile;
    while (g->fold_blocks > 1 && divide_up(g->blocks, g->fold_blocks) % threads != 0) {
        g->fold_blocks--;
    }
    g->fold_parts = divide_up(g->blocks, g->fold_blocks);
    g->fold_tasks = (int)least(threads, g->fold_parts);
    if (2 * g->fold_tasks <= least(threads, g->tasks)) {
        return false; /* too few parts: output channels have to be shared out */
    }
    const int64_t rows = least(DC_PART_ROWS, g->left.channels);
    g->fold_sums = align_floats(g->fold_blocks * rows * g->outer * g->tile +
                                DC_TILE_SLACK * g->kernel->tile_pixels * g->tile);
    g->fold_out = align_floats(rows * g->fold_blocks * g->tile * g->taps);
    return true;
}

/* Inputs of a part of the fold's gradient, as its plan will have them, if it takes parts at all. */
static int64_t expected_inputs(const struct dc_problem *p, const struct dc_kernel *kernel)
{
    const doconv_fold_desc *f = &p->fold;
    return f->groups == 1 && f->kh * f->kw * f->d_mul <= 256
               ? DC_COMPOSE_GRADIENT_BLOCKS * kernel->vector
               : 0;
}

/* ---- candidates ---- */

static struct dc_weight_product create_state(doconv_context *ctx, const struct dc_problem *p,
                                             const struct dc_kernel *kernel, int64_t inner)
{
    const doconv_conv_desc *d = &p->desc;
    struct dc_weight_product g = {
        .ctx = ctx,
        .problem = *p,
        .kernel = kernel,
        .src_map = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
        .dst_map = dc_tensor_map(d->dst_layout, d->cout, p->hout, p->wout),
        .taps = d->kh * d->kw,
    };
    plan_operands(&g);
    plan_taps(&g, inner);
    plan_tasks(&g);
    return g;
}

static double estimate(const struct dc_weight_product *g)
{
    const struct dc_problem *p = &g->problem;
    const bool slow512 = dc_cpu_probe()->fma512_per_cycle < 1.5;
    /*
     * Where 512-bit FMAs are no faster, two short vectors share each broadcast that one long one
     * would need for itself; else long ones need fewer loads.
     */
    const bool short_is_better = p->group_cin * (p->group_cin < 16 ? g->taps : 1) <= 16 && slow512;
    const double penalty = (g->kernel->vector == 16) == short_is_better ? 1.1 : 1.0;
    return penalty * pixel_cycles(g) * (double)(p->desc.n * p->hout * p->wout) *
           (double)p->desc.groups / DC_NOMINAL_HERTZ / g->tasks;
}

static void offer(const doconv_context *ctx, struct dc_weight_product *g, bool parts,
                  struct dc_candidate_list *list)
{
    const struct dc_product_parameters q = {
        .inner = (int)g->inner,
        .parts = parts,
        .folds = g->problem.fold.d_mul != 0,
    };
    struct dc_candidate c = {
        .solver = &dc_solver_weight_product,
        .kernel = g->kernel,
        .order_of_sums = g->inner == 1 ? DC_SUMS_PIXELS : DC_SUMS_PIXELS_BY_TAP,
        .error_amplification = g->kernel->error_amplification,
        .workspace_size = (size_t)g->tasks * (size_t)g->task_floats * sizeof(float),
        .estimated_seconds = estimate(g) * (parts ? 0.98 : 1.0),
    };
    dc_set_parameters(&c, &q);
    dc_candidate_append(ctx, list, &c);
}

static void describe(const struct dc_candidate *c, char *text, size_t size)
{
    struct dc_product_parameters q;
    dc_get_parameters(c, &q);
    snprintf(text, size, ":taps=%s%s", q.inner == 1 ? "outer" : "inner",
             !q.folds  ? ""
             : q.parts ? ",fold=parts"
                       : ",fold=whole");
}

static const char *enumerate(const doconv_context *ctx, const struct dc_problem *p,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    const int64_t taps = p->desc.kh * p->desc.kw;
    if (!dc_weight_gradient_is_small(p)) {
        return "its copies and lists of segments would be too large";
    }
    if (p->group_cin * taps < kernel->vector / 2) {
        return "a group's inputs and taps fill less than half a vector";
    }
    for (int64_t inner = 1; inner <= taps; inner += taps - 1) {
        struct dc_weight_product g = create_state((doconv_context *)ctx, p, kernel, inner);
        offer(ctx, &g, false, list);
        if (p->fold.d_mul != 0 && plan_parts(&g, expected_inputs(p, kernel))) {
            offer(ctx, &g, true, list);
        }
        if (taps == 1) {
            break;
        }
    }
    return NULL;
}

/* ---- the plan ---- */

/* Where the fold takes no parts after all, it follows as a whole. */
static void prepare_parts(doconv_plan *plan, struct dc_weight_product *g)
{
    const doconv_plan *fold = plan->fold;
    const struct dc_part_hooks *parts = fold->candidate.solver->parts;
    if (parts == NULL || !plan_parts(g, parts->inputs(fold))) {
        return;
    }
    g->fold_scratch = align_floats((int64_t)parts->scratch_floats(fold));
    g->fold_floats = align_floats(g->panel_floats) + g->fold_sums + g->fold_out + g->fold_scratch;
    plan->folds_parts = true;
    const size_t bytes = (size_t)(g->fold_tasks * g->fold_floats) * sizeof(float);
    plan->candidate.workspace_size = most_bytes(plan->candidate.workspace_size, bytes);
}

static void release(doconv_plan *plan)
{
    struct dc_weight_product *g = plan->state;
    dc_free(plan->ctx, g->counts);
    dc_free(plan->ctx, g->first);
    dc_free(plan->ctx, g->segments);
}

static doconv_status prepare(doconv_plan *plan)
{
    struct dc_weight_product *g = dc_alloc(plan->ctx, sizeof *g);
    if (g == NULL) {
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "training: out of memory");
    }
    struct dc_product_parameters q;
    dc_get_parameters(&plan->candidate, &q);
    *g = create_state(plan->ctx, &plan->problem, plan->candidate.kernel, q.inner);
    plan->state = g;
    if (q.parts && plan->fold != NULL) {
        prepare_parts(plan, g);
    }
    return list_taps(g);
}

const struct dc_solver dc_solver_weight_product = {
    .name = "product",
    .operation = DC_WEIGHT_GRADIENT,
    .family = DC_FAMILY_PRODUCT,
    .enumerate = enumerate,
    .describe = describe,
    .prepare = prepare,
    .release = release,
    .execute = dc_weight_product_execute,
};
