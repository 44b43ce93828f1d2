/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's weight, what is decided once: the way, its kernel, how taps,
 * lanes and pixels are cut, and the segments.
 */
#include "base/arithmetic.h"
#include "base/context.h"
#include "base/cpu.h"
#include "base/layout.h"
#include "base/log.h"
#include "kernel.h"
#include "plan/problem.h"
#include "train/weight_gradient.h"
#include "train/weight_gradient_plan.h"

/*
 * Pixels between a tile's loading and storing its sums: few enough for its rows, and the lanes, to
 * stay near over all taps.
 */
#define CHUNK_PIXELS 256

/* ---- geometry ---- */

/* The best usable kernel. */
static const struct dc_kernel *find_kernel(const doconv_context *ctx, int64_t channels)
{
    const struct dc_kernel *best = NULL;
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        const struct dc_kernel *k = *row;
        if (k->family != DC_FAMILY_PRODUCT || !dc_isa_usable(k->isa, ctx->isa)) {
            continue;
        }
        /*
         * Where 512-bit FMAs are no faster, two short vectors share each broadcast that one long
         * one would need for itself.
         */
        const bool better = best != NULL && best->vector == 16 && k->vector == 8 &&
                            channels <= 16 && dc_cpu_probe()->fma512_per_cycle < 1.5;
        if (best == NULL || better) {
            best = k;
        }
    }
    return best;
}

/*
 * Segments of outer tap m over rows [row0, row1) of image `image` of a chunk; segments may be NULL
 * to count them. Offsets are those from the first row of output or src, whatever the panel's rows
 * are.
 */
static ptrdiff_t list_tap(const struct dc_weight_gradient *g, int64_t m, int64_t image,
                          int64_t row0, int64_t row1, struct dc_segment *segments, ptrdiff_t count)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const struct operand *l = &g->left, *r = &g->right;
    const int64_t ky = g->inner == 1 ? m / d->kw : m, kx = g->inner == 1 ? m % d->kw : 0;
    const int64_t dy = ky * d->dilation_h - r->pad_top, dx = kx * d->dilation_w - r->pad_left;
    int64_t x0 = 0, x1 = p->wout, y0 = 0, y1 = p->hout;
    if (g->inner == 1) {
        valid_range(r->w, r->stride_w, dx, p->wout, &x0, &x1);
    }
    if (g->inner != g->taps || g->taps == 1) {
        valid_range(r->h, r->stride_h, dy, p->hout, &y0, &y1);
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

static doconv_status list_taps(struct dc_weight_gradient *g)
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
static void plan_taps(struct dc_weight_gradient *g, int64_t inner)
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
        int64_t rows = 0;
        for (int64_t chunk = 0; chunk < g->chunks; chunk += g->panel_chunks) {
            rows =
                most(rows, panel_rows(g, chunk * g->chunk_rows,
                                      least(p->hout, (chunk + g->panel_chunks) * g->chunk_rows)));
        }
        g->panel_image = rows * g->panel_row;
        g->panel_floats = divide_up(g->chunk_images * g->panel_image, 16) * 16;
    }
}

/* Which tasks there are, and what each needs. */
static void plan_tasks(struct dc_weight_gradient *g)
{
    const struct dc_problem *p = &g->problem;
    const int64_t splits = divide_up(g->ctx->threads, p->desc.groups);
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
    g->tasks = (int)least(g->ctx->threads, p->desc.groups * g->block_parts * g->row_parts);
    const bool waits = g->chunks > 1 || g->chunk_images < p->desc.n; /* sums between chunks */
    const int64_t blocks = waits ? g->part_blocks : 1,
                  rows = waits ? g->part_rows : least(g->part_rows, g->kernel->tile_pixels);
    g->sums_floats =
        blocks * rows * g->outer * g->tile + DC_TILE_SLACK * g->kernel->tile_pixels * g->tile;
    g->task_floats = divide_up(g->panel_floats + g->sums_floats, 16) * 16 + 16;
}

/* Whose channels are lanes. */
static void plan_operands(struct dc_weight_gradient *g)
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

/*
 * Cycles an output pixel and group, roughly, with `inner` taps in a lane: what is multiplied, and
 * what is copied.
 */
static double estimate(const struct dc_weight_gradient *g, int64_t inner)
{
    const struct dc_problem *p = &g->problem;
    const double rate = g->kernel->vector == 16 ? dc_cpu_probe()->fma512_per_cycle : 2.0;
    const double vectors = (double)divide_up(p->group_cin * inner, g->kernel->vector),
                 lists = (double)(g->taps / inner);
    const double copy = inner == 1 ? 0.5 : g->src_map.pixel == 1 ? 0.7 : 1.3;
    return lists * vectors * (double)p->group_cout / rate + copy * (double)(p->group_cin * inner);
}

/* ---- narrow groups: geometry ---- */

/* The kernel for groups that are too narrow for lanes of input channels, or NULL. */
static const struct dc_kernel *find_correlate(const doconv_context *ctx, const struct dc_problem *p)
{
    const int deals = p->group_cin != 1 || p->group_cout != 1;
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        const int64_t vector = (*row)->vector;
        if ((*row)->family != DC_FAMILY_CORRELATE || !dc_isa_usable((*row)->isa, ctx->isa) ||
            (*row)->correlate.deals != deals) {
            continue;
        }
        const bool ends_inside = vector % p->group_cout != 0 && p->group_cout % vector != 0;
        const int64_t seen =
            p->group_cout < vector ? vector / p->group_cout * p->group_cin : p->group_cin;
        return p->desc.groups == 1 || p->group_cin >= DC_CHANNEL_BLOCK || ends_inside ||
                       seen > vector
                   ? NULL
                   : *row;
    }
    return NULL;
}

static doconv_status plan_narrow(struct dc_weight_gradient *g)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t vector = g->kernel->vector, planes = p->group_cin;
    g->vectors = divide_up(d->cout, vector);
    bool src_copies = false, grad_copies = false;
    for (int64_t v = 0; v < g->vectors; v++) {
        src_copies = src_copies ||
                     !reads_in_place(p, &g->src_map, vector, first_input(p, v * vector), d->cin);
        grad_copies = grad_copies || !reads_in_place(p, &g->dst_map, vector, v * vector, d->cout);
    }
    /* Rows that are read once are read at once; else a few, that stay near from pass to pass. */
    const bool once = planes == 1 && d->kh <= 3 && d->kw <= 3 && !src_copies && !grad_copies;
    g->call_rows = once ? p->hout : most(1, least(p->hout, 2 * CHUNK_PIXELS / p->wout));
    g->src_strip =
        src_copies
            ? least(d->h, (g->call_rows - 1) * d->stride_h + (d->kh - 1) * d->dilation_h + 1) *
                  d->w * vector
            : 0;
    g->grad_strip = grad_copies ? g->call_rows * p->wout * vector : 0;
    g->src_strip = divide_up(g->src_strip, 16) * 16;
    g->grad_strip = divide_up(g->grad_strip, 16) * 16;
    g->sums_floats = planes * g->taps * vector;
    g->task_floats = divide_up(g->src_strip + g->grad_strip + g->sums_floats, 16) * 16 + 16;
    g->tasks = (int)least(g->ctx->threads, g->vectors);
    if (!g->kernel->correlate.deals) {
        return DOCONV_OK;
    }
    g->lanes = dc_alloc(g->ctx, (size_t)(planes * vector) * sizeof *g->lanes);
    if (g->lanes == NULL) {
        return dc_fail(g->ctx, DOCONV_OUT_OF_MEMORY, "training: out of memory");
    }
    for (int64_t i = 0; i < planes; i++) {
        for (int64_t o = 0; o < vector; o++) {
            g->lanes[i * vector + o] =
                (int32_t)(p->group_cout < vector ? o / p->group_cout * planes + i : i);
        }
    }
    return DOCONV_OK;
}

doconv_status dc_weight_gradient_create(doconv_context *ctx, const struct dc_problem *problem,
                                        struct dc_weight_gradient **gradient)
{
    const doconv_conv_desc *d = &problem->desc;
    *gradient = NULL;
    struct dc_weight_gradient *g = dc_alloc(ctx, sizeof *g);
    if (g == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "training: out of memory");
    }
    *g = (struct dc_weight_gradient){
        .ctx = ctx,
        .problem = *problem,
        .src_map = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
        .dst_map = dc_tensor_map(d->dst_layout, d->cout, problem->hout, problem->wout),
        .taps = d->kh * d->kw,
        .kernel =
            find_kernel(ctx, problem->group_cin * (problem->group_cin < 16 ? d->kh * d->kw : 1)),
        .tasks = (int)least(ctx->threads, d->cout),
    };
    /* In double: what would overflow, or need absurd copies, is left to the loop without any. */
    const double taps = (double)d->kh * (double)d->kw,
                 row = ((double)d->w + (double)problem->wout) * 64.0;
    const double extent =
        (double)d->kh * (double)d->dilation_h + (double)d->stride_h * 2.0 * CHUNK_PIXELS;
    const bool small = row * extent < 1e10 && taps * (double)(problem->hout + CHUNK_PIXELS) < 1e7 &&
                       taps * (double)d->cin * (double)d->cout < 1e10;
    doconv_status status = DOCONV_OK;
    const struct dc_kernel *narrow = find_correlate(ctx, problem);
    if (narrow != NULL && small) {
        g->way = CORRELATE;
        g->kernel = narrow;
        status = plan_narrow(g);
    } else if (g->kernel != NULL && small &&
               problem->group_cin * g->taps >= g->kernel->vector / 2) {
        g->way = PRODUCT;
        plan_operands(g);
        plan_taps(g, estimate(g, g->taps) < estimate(g, 1) ? g->taps : 1);
        plan_tasks(g);
        status = list_taps(g);
    }
    if (status != DOCONV_OK) {
        dc_weight_gradient_destroy(g);
        return status;
    }
    *gradient = g;
    return DOCONV_OK;
}

void dc_weight_gradient_destroy(struct dc_weight_gradient *gradient)
{
    if (gradient != NULL) {
        dc_free(gradient->ctx, gradient->counts);
        dc_free(gradient->ctx, gradient->first);
        dc_free(gradient->ctx, gradient->segments);
        dc_free(gradient->ctx, gradient->lanes);
        dc_free(gradient->ctx, gradient);
    }
}

size_t dc_weight_gradient_workspace_size(const struct dc_weight_gradient *g)
{
    return g->way == PORTABLE ? 0 : (size_t)g->tasks * (size_t)g->task_floats * sizeof(float);
}
