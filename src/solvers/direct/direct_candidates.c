/* SPDX-License-Identifier: MIT */
/*
 * Candidates of the direct kernels: where the input is read from, rows of a unit, channels of a
 * pass; and what each should cost.
 */
#include <math.h>
#include <stdio.h>

#include "base/context.h"
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

/*
 * Bytes a cycle that a core gets from where a working set of this size lives. Rates of current x86
 * cores, a little under their best.
 */
static double rate(const struct dc_cpu *cpu, double working_set)
{
    return working_set <= 0.5 * (double)cpu->l1d_bytes   ? 96.0
           : working_set <= 0.75 * (double)cpu->l2_bytes ? 40.0
                                                         : 14.0;
}

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

/*
 * Seconds at a nominal 3 GHz: the bounds of the tiles, then the copies. It only has to rank: what
 * matters is measured.
 */
static double estimate(const struct dc_problem *p, const struct dc_candidate *c,
                       const struct dc_direct_state *s)
{
    const struct dc_cpu *cpu = dc_cpu_probe();
    const struct dc_kernel *kernel = c->kernel;
    const double taps = (double)s->taps, row_blocks = (double)s->row_blocks,
                 pixels = (double)s->hout * (double)p->wout;
    const double k = (double)s->cin * taps, k_blocks = (double)s->k_blocks;
    const double panel = 4.0 * (double)s->k_block * taps * (double)s->tile_channels;
    const double input = 4.0 * (s->strip_floats != 0 ? (double)s->strip_floats
                                                     : (double)s->k_block * pixels / row_blocks);
    const double panel_rate = rate(cpu, panel + input);
    const double full = (double)(s->out_blocks - 1),
                 last = (double)(s->cout - (s->out_blocks - 1) * s->tile_channels);
    const double vectors = (double)(s->tile_channels / kernel->vector),
                 last_vectors = ceil(last / kernel->vector);
    double cycles = 0.0;
    if (s->flat) {
        const double run = pixels / row_blocks;
        cycles = row_blocks * (full * run_cycles(cpu, kernel, s, run, vectors, k, panel_rate) +
                               run_cycles(cpu, kernel, s, run, last_vectors, k, panel_rate));
    } else {
        /*
         * Rectangles that share their taps, each along rows or down columns; what lies in the
         * padding is skipped.
         */
        struct dc_direct_range ys[MOST_RANGES] = {{0, p->hout, 0, p->desc.kh}},
                               xs[MOST_RANGES] = {{0, p->wout, 0, p->desc.kw}};
        int64_t rows = 1, columns = 1;
        if (s->y_count <= MOST_RANGES) {
            rows = dc_direct_ranges(p->desc.h, p->desc.pad_top, p->desc.stride_h,
                                    p->desc.dilation_h, p->desc.kh, p->hout, ys);
        }
        if (c->source == DC_SOURCE_INPLACE && s->x_count <= MOST_RANGES) {
            columns = dc_direct_ranges(p->desc.w, p->desc.pad_left, p->desc.stride_w,
                                       p->desc.dilation_w, p->desc.kw, p->wout, xs);
        }
        for (int64_t y = 0; y < rows; y++) {
            for (int64_t x = 0; x < columns; x++) {
                const double width = (double)(xs[x].end - xs[x].begin),
                             all_rows = (double)(ys[y].end - ys[y].begin);
                const double cuts = ceil(all_rows / (double)s->rows), height = all_rows / cuts;
                const double part = k * (double)(xs[x].tap1 - xs[x].tap0) *
                                    (double)(ys[y].tap1 - ys[y].tap0) / taps;
                const double along = height * ceil(width / kernel->tile_pixels),
                             down = width * ceil(height / kernel->tile_pixels);
                const double lines = cuts * (down < along ? width : height),
                             length = down < along ? height : width;
                cycles +=
                    lines * (full * run_cycles(cpu, kernel, s, length, vectors, part, panel_rate) +
                             run_cycles(cpu, kernel, s, length, last_vectors, part, panel_rate));
            }
        }
    }
    cycles *= (double)s->groups;
    /*
     * All panels come in once a row block, the input once a panel; loads ahead hide half of that.
     */
    const double weights =
        4.0 * (double)s->block_floats * (double)s->groups * (double)s->out_blocks;
    const double places = row_blocks * (double)s->images,
                 pixels_first = c->order == DC_ORDER_PIXELS ? 1.0 : 0.0;
    cycles += 0.3 * (pixels_first != 0.0 ? row_blocks : 1.0 / (double)s->images) * weights /
              rate(cpu, weights + input);
    cycles += 0.3 * (double)(s->groups * s->out_blocks) * k_blocks * row_blocks * input /
              rate(cpu, (pixels_first != 0.0 ? 1.0 : places) * input + panel);
    if (p->fresh_weights) {
        /* Packing reads them once; what isn't used at once goes through memory, and back. */
        cycles += weights / rate(cpu, 2.0 * weights) * (c->order == DC_ORDER_PACK ? 1.0 : 2.5) /
                  (double)s->images;
    }
    if (s->strip_floats != 0) {
        const double bytes = 4.0 * (double)s->strip_floats * row_blocks * k_blocks *
                             (double)(s->groups * s->out_chunks);
        cycles += bytes / (s->src_map.channel == 1 ? 12.0 : 5.0);
    }
    const double out = 4.0 * pixels * (double)p->desc.cout;
    cycles += (k_blocks - 1.0) * 2.0 * out / 32.0;
    if (!s->direct_store) {
        cycles += out / 6.0;
    }
    /* Pixels 4 KiB apart share cache sets: a tile's inputs evict each other. */
    if (c->source == DC_SOURCE_INPLACE && 4 * s->src_map.pixel * p->desc.stride_w % 4096 == 0) {
        cycles *= 1.1;
    }
    return (double)s->images * cycles / 3e9 / (double)s->tasks;
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
                         struct dc_candidate *c, const char *solver, struct dc_candidate_list *list)
{
    struct dc_direct_state s;
    const char *refused = dc_direct_geometry(ctx, p, c, &s);
    if (refused != NULL) {
        return refused;
    }
    c->workspace_size = (size_t)s.tasks * (size_t)s.task_floats * sizeof(float) + 64;
    c->packed_size =
        (size_t)(s.bias_floats + s.groups * s.out_blocks * s.block_floats) * sizeof(float);
    c->estimated_seconds = estimate(p, c, &s);
    int used = snprintf(c->text, sizeof c->text, "%s:%s:src=%s,rows=%d", solver, c->kernel->name,
                        source_names[c->source], c->rows);
    if (c->k_block != 0) {
        used += snprintf(c->text + used, sizeof c->text - (size_t)used, ",kc=%d", c->k_block);
    }
    snprintf(c->text + used, sizeof c->text - (size_t)used, "%s", order_texts[c->order]);
    dc_candidate_append(ctx, list, c);
    return NULL;
}

static const char *enumerate(const doconv_context *ctx, const struct dc_problem *p,
                             const struct dc_kernel *kernel, const char *solver, int64_t channels,
                             struct dc_candidate_list *list)
{
    static const int k_blocks[] = {0, 512, 256, 128, 64};
    const struct dc_cpu *cpu = dc_cpu_probe();
    const doconv_conv_desc *d = &p->desc;
    const bool pointwise = d->kh == 1 && d->kw == 1 && d->pad_left == 0 && d->pad_right == 0 &&
                           d->pad_top == 0 && d->pad_bottom == 0;
    const char *refused = NULL;
    for (enum dc_source source = DC_SOURCE_INPLACE; source <= DC_SOURCE_FLAT; source++) {
        if (source == DC_SOURCE_ROWS && pointwise) {
            continue; /* no borders: the flat strip is the same with fewer pixels */
        }
        if (source == DC_SOURCE_FLAT && d->kw > 1 && p->wout > 8 * kernel->tile_pixels) {
            continue; /* rows are long enough: copies for each kernel column would buy nothing */
        }
        const int64_t joined = dc_direct_joined_rows(p, source),
                      hout = joined != 0 ? joined : p->hout;
        for (size_t i = 0; i < sizeof k_blocks / sizeof k_blocks[0]; i++) {
            const int64_t k = k_blocks[i] != 0 ? k_blocks[i] : channels;
            if (k_blocks[i] >= channels) {
                continue;
            }
            const double copies = source == DC_SOURCE_FLAT ? (double)d->kw : 1.0;
            const int64_t targets[] = {hout, (hout + ctx->threads - 1) / ctx->threads,
                                       rows_for(p, hout, k, 0.5 * (double)cpu->l2_bytes / copies),
                                       rows_for(p, hout, k, 0.2 * (double)cpu->l2_bytes / copies),
                                       rows_for(p, hout, k, 0.6 * (double)cpu->l1d_bytes / copies)};
            int last = 0;
            for (size_t t = 0; t < sizeof targets / sizeof targets[0]; t++) {
                const int rows = even_rows(hout, targets[t]);
                if (rows == last) {
                    continue;
                }
                last = rows;
                for (enum dc_order order = DC_ORDER_PIXELS; order <= DC_ORDER_PACK; order++) {
                    /*
                     * Going over all pixels for each block of weights pays where these leave L2
                     * between pixels, or are made for it.
                     */
                    const bool large = (double)p->weight_bytes > 0.5 * (double)cpu->l2_bytes,
                               many = d->n > 1 || rows < hout;
                    if ((order != DC_ORDER_PIXELS && k_blocks[i] != 0) ||
                        (order == DC_ORDER_WEIGHTS && !(large && many && !p->fresh_weights)) ||
                        (order == DC_ORDER_PACK && !p->fresh_weights)) {
                        continue;
                    }
                    struct dc_candidate c = {.kernel = kernel,
                                             .source = source,
                                             .order = order,
                                             .rows = rows,
                                             .k_block = k_blocks[i]};
                    const char *reason = offer(ctx, p, &c, solver, list);
                    refused = reason != NULL ? reason : refused;
                }
            }
        }
    }
    return refused;
}

/* A kernel is refused only if none of its parameter sets works. */
static const char *enumerate_direct(const doconv_context *ctx, const struct dc_problem *p,
                                    const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    const int before = list->count;
    const char *refused = enumerate(ctx, p, kernel, "direct", p->group_cin, list);
    return list->count > before ? NULL : refused;
}

const struct dc_solver dc_solver_direct = {
    .name = "direct",
    .family = DC_FAMILY_DIRECT,
    .enumerate = enumerate_direct,
    .prepare = dc_direct_prepare,
    .pack = dc_direct_pack,
    .execute = dc_direct_execute,
    .execute_fresh = dc_direct_execute_fresh,
    .fresh_workspace_size = dc_direct_fresh_workspace_size,
};
