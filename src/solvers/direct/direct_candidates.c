/* SPDX-License-Identifier: MIT */
/*
 * Candidates of the direct kernels: where the input is read from, rows of a unit, channels of a
 * pass; and what each should cost.
 */
#include <math.h>
#include <stdio.h>

#include "base/context.h"
#include "base/costs.h"
#include "base/cpu.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "solvers/direct/direct.h"

/* Ranges of an axis that the estimate looks at one by one. */
#define MOST_RANGES 16

static const char *const source_names[] = {
    [DC_SOURCE_INPLACE] = "inplace", [DC_SOURCE_ROWS] = "rows", [DC_SOURCE_FLAT] = "flat"};

static const char *const order_texts[] = {
    [DC_ORDER_PIXELS] = "", [DC_ORDER_WEIGHTS] = ",order=weights", [DC_ORDER_PACK] = ",order=pack"};

/* Cycles of one run of pixels against a block of weights, for a pass over all of the reduction. */
static double run_cycles(const struct dc_cpu *cpu, const struct dc_kernel *kernel,
                         const struct dc_direct_state *s, double pixels, double vectors, double k,
                         double panel_rate)
{
    const double tiles = ceil(pixels / kernel->tile_pixels), tile_pixels = pixels / tiles;
    const double fma_rate = kernel->vector == 16 ? cpu->fma512_per_cycle : 2.0;
    /*
     * A step of a tile: its FMAs, its loads (two a cycle), the latency of its chains, and the row
     * of weights that it streams.
     */
    const double fma = tile_pixels * vectors / fma_rate;
    const double loads = (tile_pixels + vectors) / 2.0;
    const double weights = 4.0 * vectors * kernel->vector / panel_rate;
    const double segment = s->cin < DC_CHANNEL_BLOCK ? (double)s->cin : (double)DC_CHANNEL_BLOCK;
    return tiles * (k * (fmax(fmax(fma, loads), fmax(4.0, weights)) + 3.0 / segment) +
                    30.0 * (double)s->k_blocks);
}

/* What a run costs: all output blocks of a group over `pixels` pixels in a line. */
struct block_costs {
    const struct dc_cpu *cpu;
    const struct dc_kernel *kernel;
    const struct dc_direct_state *s;
    double full;                  /* output blocks of whole tiles */
    double vectors, last_vectors; /* of a whole tile; of the last block's */
    double panel_rate;            /* bytes a cycle that weights stream at */
};

static double line_cycles(const struct block_costs *c, double pixels, double k)
{
    return c->full * run_cycles(c->cpu, c->kernel, c->s, pixels, c->vectors, k, c->panel_rate) +
           run_cycles(c->cpu, c->kernel, c->s, pixels, c->last_vectors, k, c->panel_rate);
}

/*
 * An image's pixels, of a group: rectangles that share their taps, each along rows or down columns;
 * what lies in the padding is skipped.
 */
static double image_cycles(const struct dc_problem *p, const struct block_costs *c)
{
    const struct dc_direct_state *s = c->s;
    const double taps = (double)s->taps, k = (double)s->cin * taps,
                 row_blocks = (double)s->row_blocks;
    if (s->flat) {
        return row_blocks * line_cycles(c, (double)s->hout * (double)p->wout / row_blocks, k);
    }
    const struct dc_axis rows_axis = dc_rows_axis(p), columns_axis = dc_columns_axis(p);
    struct dc_tap_range ys[MOST_RANGES] = {{0, p->hout, 0, p->desc.kh}},
                        xs[MOST_RANGES] = {{0, p->wout, 0, p->desc.kw}};
    int64_t rows = 1, columns = 1;
    if (s->y_count <= MOST_RANGES) {
        rows = dc_tap_ranges(&rows_axis, ys, MOST_RANGES);
    }
    if (s->source == DC_SOURCE_INPLACE && s->x_count <= MOST_RANGES) {
        columns = dc_tap_ranges(&columns_axis, xs, MOST_RANGES);
    }
    double cycles = 0.0;
    for (int64_t y = 0; y < rows; y++) {
        for (int64_t x = 0; x < columns; x++) {
            const double width = (double)(xs[x].end - xs[x].begin),
                         all_rows = (double)(ys[y].end - ys[y].begin);
            const double cuts = ceil(all_rows / (double)s->rows), height = all_rows / cuts;
            const double part =
                k * (double)(xs[x].tap1 - xs[x].tap0) * (double)(ys[y].tap1 - ys[y].tap0) / taps;
            const double along = height * ceil(width / c->kernel->tile_pixels),
                         down = width * ceil(height / c->kernel->tile_pixels);
            const double lines = cuts * (down < along ? width : height),
                         length = down < along ? height : width;
            cycles += lines * line_cycles(c, length, part);
        }
    }
    return cycles;
}

/* An image's copies: strips, sums between passes, stores through a buffer. */
static double copy_cycles(const struct dc_problem *p, const struct dc_direct_state *s)
{
    const double out = 4.0 * (double)s->hout * (double)p->wout * (double)p->desc.cout;
    double cycles = ((double)s->k_blocks - 1.0) * 2.0 * out / 32.0;
    if (s->strip_floats != 0) {
        const double bytes = 4.0 * (double)s->strip_floats * (double)s->row_blocks *
                             (double)s->k_blocks * (double)(s->groups * s->out_chunks);
        cycles += bytes / (s->src_map.channel == 1 ? 12.0 : 5.0);
    }
    return s->direct_store ? cycles : cycles + out / 6.0;
}

/*
 * Seconds: the bounds of the tiles, then the copies. It only has to rank: what matters is measured.
 */
static double estimate(const struct dc_problem *p, const struct dc_kernel *kernel,
                       const struct dc_direct_state *s)
{
    const struct dc_cpu *cpu = dc_cpu_probe();
    const double row_blocks = (double)s->row_blocks, images = (double)s->images;
    const double panel = 4.0 * (double)(s->k_block * s->taps * s->tile_channels);
    const double input = 4.0 * (s->strip_floats != 0 ? (double)s->strip_floats
                                                     : (double)s->k_block * (double)s->hout *
                                                           (double)p->wout / row_blocks);
    const double last = (double)(s->cout - (s->out_blocks - 1) * s->tile_channels);
    const struct block_costs costs = {
        .cpu = cpu,
        .kernel = kernel,
        .s = s,
        .full = (double)(s->out_blocks - 1),
        .vectors = (double)(s->tile_channels / kernel->vector),
        .last_vectors = ceil(last / kernel->vector),
        .panel_rate = dc_rate(panel + input),
    };
    double cycles = (double)s->groups * image_cycles(p, &costs);
    /* Panels come in once a row block, inputs once a panel; loads ahead hide half of that. */
    const double blocks = (double)(s->groups * s->out_blocks),
                 weights = 4.0 * (double)s->weights.block_floats * blocks;
    const bool pixels_first = s->order == DC_ORDER_PIXELS;
    cycles += 0.3 * (pixels_first ? row_blocks : 1.0 / images) * weights / dc_rate(weights + input);
    cycles += 0.3 * blocks * (double)s->k_blocks * row_blocks * input /
              dc_rate((pixels_first ? 1.0 : row_blocks * images) * input + panel);
    if (p->cold_weights) {
        cycles += 0.5 * weights / DC_MEMORY_RATE / images;
    }
    if (p->fresh_weights) {
        /* Packing reads them once; what isn't used at once goes through memory, and back. */
        cycles +=
            weights / dc_rate(2.0 * weights) * (s->order == DC_ORDER_PACK ? 1.0 : 2.5) / images;
    }
    cycles += copy_cycles(p, s);
    /* Pixels 4 KiB apart share cache sets: more inputs than these have ways evict each other. */
    if (s->source == DC_SOURCE_INPLACE && 4 * s->src_map.pixel * p->desc.stride_w % 4096 == 0 &&
        (kernel->tile_pixels > 9 || p->desc.stride_w > 1)) {
        cycles *= 1.06;
    }
    return images * cycles / DC_NOMINAL_HERTZ / (double)s->tasks;
}

/* Rows whose part of the strip (or of src) takes about these bytes. */
static int64_t rows_for(const struct dc_problem *p, int64_t hout, int64_t channels, double bytes)
{
    const double row = 4.0 * (double)channels *
                       (double)(p->desc.w + p->desc.pad_left + p->desc.pad_right) *
                       (double)p->desc.stride_h;
    const double rows = bytes / row;
    return rows < 1.0 ? 1 : rows > (double)hout ? hout : (int64_t)rows;
}

/* Row blocks of nearly equal size: 14 rows by 12 are 7 + 7. */
static int even_rows(int64_t hout, int64_t rows)
{
    const int64_t blocks = (hout + rows - 1) / rows;
    return (int)((hout + blocks - 1) / blocks);
}

static const char *offer(const doconv_context *ctx, const struct dc_problem *p,
                         const struct dc_kernel *kernel, const struct dc_direct_parameters *q,
                         struct dc_candidate_list *list)
{
    struct dc_direct_state s;
    const char *refused = dc_direct_geometry(p, kernel, q, &s);
    if (refused != NULL) {
        return refused;
    }
    struct dc_candidate c = {
        .solver = &dc_solver_direct,
        .kernel = kernel,
        .order_of_sums = DC_SUMS_CHANNELS,
        .error_amplification = kernel->error_amplification,
        .workspace_size = (size_t)s.tasks * (size_t)s.task_floats * sizeof(float) + 64,
        .packed_size = dc_packed_bytes(&s.weights),
        .estimated_seconds = estimate(p, kernel, &s),
    };
    dc_set_parameters(&c, q);
    dc_candidate_append(ctx, list, &c);
    return NULL;
}

static void describe(const struct dc_candidate *c, char *text, size_t size)
{
    struct dc_direct_parameters q;
    char passes[24] = "";
    dc_get_parameters(c, &q);
    if (q.k_block != 0) {
        snprintf(passes, sizeof passes, ",kc=%d", q.k_block);
    }
    snprintf(text, size, ":src=%s,rows=%d%s%s", source_names[q.source], q.rows, passes,
             order_texts[q.order]);
}

/* May the order go with passes over `k_block` channels (0: all), `rows` rows a unit? */
static bool order_fits(const struct dc_problem *p, enum dc_order order, int k_block, int64_t rows,
                       int64_t hout)
{
    /*
     * Going over all pixels for each block of weights pays where these leave L2 between pixels, or
     * are made for it.
     */
    const bool large = (double)p->weight_bytes > 0.5 * (double)dc_cpu_probe()->l2_bytes;
    const bool many = p->desc.n > 1 || rows < hout;
    switch (order) {
    case DC_ORDER_PIXELS:
        return true;
    case DC_ORDER_WEIGHTS:
        return k_block == 0 && large && many && !p->fresh_weights;
    default:
        return k_block == 0 && p->fresh_weights;
    }
}

/* The candidates of a source and a size of passes, by the rows of a unit and the order. */
static const char *offer_rows(const doconv_context *ctx, const struct dc_problem *p,
                              const struct dc_kernel *kernel, enum dc_source source, int k_block,
                              struct dc_candidate_list *list)
{
    const struct dc_cpu *cpu = dc_cpu_probe();
    const int64_t joined = dc_direct_joined_rows(p, source), hout = joined != 0 ? joined : p->hout;
    const int64_t k = k_block != 0 ? k_block : p->group_cin;
    const double copies = source == DC_SOURCE_FLAT ? (double)p->desc.kw : 1.0;
    const int64_t targets[] = {
        hout,
        (hout + p->threads - 1) / p->threads,
        rows_for(p, hout, k, 0.5 * (double)cpu->l2_bytes / copies),
        rows_for(p, hout, k, 0.2 * (double)cpu->l2_bytes / copies),
        rows_for(p, hout, k, 0.6 * (double)cpu->l1d_bytes / copies),
    };
    enum { TARGETS = sizeof targets / sizeof targets[0] };
    const char *refused = NULL;
    int offered[TARGETS], count = 0;
    for (int t = 0; t < TARGETS; t++) {
        const int rows = even_rows(hout, targets[t]);
        if (!is_new(rows, offered, &count)) {
            continue;
        }
        for (enum dc_order order = DC_ORDER_PIXELS; order <= DC_ORDER_PACK; order++) {
            if (order_fits(p, order, k_block, rows, hout)) {
                const struct dc_direct_parameters q = {
                    .source = source, .order = order, .rows = rows, .k_block = k_block};
                const char *reason = offer(ctx, p, kernel, &q, list);
                refused = reason != NULL ? reason : refused;
            }
        }
    }
    return refused;
}

/* A kernel is refused only if none of its parameter sets works. */
static const char *enumerate(const doconv_context *ctx, const struct dc_problem *p,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    static const int k_blocks[] = {0, 512, 256, 128, 64};
    const doconv_conv_desc *d = &p->desc;
    const bool pointwise = d->kh == 1 && d->kw == 1 && d->pad_left == 0 && d->pad_right == 0 &&
                           d->pad_top == 0 && d->pad_bottom == 0;
    const int before = list->count;
    const char *refused = NULL;
    for (enum dc_source source = DC_SOURCE_INPLACE; source <= DC_SOURCE_FLAT; source++) {
        if (source == DC_SOURCE_ROWS && pointwise) {
            continue; /* no borders: the flat strip is the same with fewer pixels */
        }
        if (source == DC_SOURCE_FLAT && d->kw > 1 && p->wout > 8 * kernel->tile_pixels) {
            continue; /* rows are long enough: copies for each column would buy nothing */
        }
        for (size_t i = 0; i < sizeof k_blocks / sizeof k_blocks[0]; i++) {
            if (k_blocks[i] < p->group_cin) {
                const char *reason = offer_rows(ctx, p, kernel, source, k_blocks[i], list);
                refused = reason != NULL ? reason : refused;
            }
        }
    }
    return list->count > before ? NULL : refused;
}

const struct dc_solver dc_solver_direct = {
    .name = "direct",
    .operation = DC_CONVOLUTION,
    .family = DC_FAMILY_DIRECT,
    .enumerate = enumerate,
    .describe = describe,
    .prepare = dc_direct_prepare,
    .execute = dc_direct_execute,
    .pack = dc_direct_pack,
    .blocks = &dc_direct_blocks,
};
