/* SPDX-License-Identifier: MIT */
/*
 * Feature composition of depthwise layers (groups = Cin), where they differ from others: a lane's
 * outputs see that lane's channels of Z alone, so W is factors of vectors as D is, and the kernel
 * functions that hand back through a tap (body_taps.h) contract and sum. A block has 16 groups.
 */
#include <math.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/layout.h"
#include "compose/feature_blocks.h"
#include "geometry/strips.h"
#include "kernel.h"
#include "plan/problem.h"

/* Steps of a call. */
#define MOST_STEPS 64

/* Output t, of f->multiplier, of a lane's group. */
static int64_t output_of(const struct dc_feature *f, const struct dc_feature_block *b, int64_t lane,
                         int64_t t)
{
    return (b->first + lane) * f->multiplier + t;
}

void dc_feature_depthwise_pack_weights(const struct dc_feature_job *job,
                                       const struct dc_feature_block *b, float *weights)
{
    const struct dc_feature *f = job->f;
    memset(weights, 0, (size_t)(f->multiplier * f->d_mul * LANES) * sizeof *weights);
    for (int64_t t = 0; t < f->multiplier; t++) {
        for (int64_t lane = 0; lane < b->count; lane++) {
            const float *from = job->w + output_of(f, b, lane, t) * f->d_mul;
            for (int64_t s = 0; s < f->d_mul; s++) {
                weights[(t * f->d_mul + s) * LANES + lane] = from[s];
            }
        }
    }
}

void dc_feature_depthwise_store_weights(const struct dc_feature_job *job,
                                        const struct dc_feature_block *b, const float *sums)
{
    const struct dc_feature *f = job->f;
    for (int64_t t = 0; t < f->multiplier; t++) {
        for (int64_t lane = 0; lane < b->count; lane++) {
            float *to = job->grad_w + output_of(f, b, lane, t) * f->d_mul;
            for (int64_t s = 0; s < f->d_mul; s++) {
                to[s] = sums[(t * f->d_mul + s) * LANES + lane];
            }
        }
    }
}

/*
 * run (taps_correlate or taps_scatter) of `steps` steps, `z_step` and `factors_step` floats apart,
 * with x, over pixels that follow each other; all of a block's lanes.
 */
static void run_taps(const struct dc_feature *f, void (*run)(const struct dc_taps_args *args),
                     const float *z, ptrdiff_t z_step, float *factors, ptrdiff_t factors_step,
                     int64_t steps, float *x, int64_t pixels)
{
    ptrdiff_t steps_at[MOST_STEPS];
    for (int64_t q = 0; q < steps; q += MOST_STEPS) {
        struct dc_taps_args args = {
            .steps_at = steps_at,
            .z_pixel = LANES,
            .x_pixel = LANES,
            .factors_step = factors_step,
            .steps = least(MOST_STEPS, steps - q),
            .rows = 1,
            .pixels = pixels,
        };
        for (int64_t i = 0; i < args.steps; i++) {
            steps_at[i] = (q + i) * z_step;
        }
        for (int64_t lane = 0; lane < LANES; lane += f->depthwise->vector) {
            args.z = z + lane;
            args.x = x + lane;
            args.factors = factors + q * factors_step + lane;
            run(&args);
        }
    }
}

/* ---- forward ---- */

/*
 * Stores sums [pixel][16] of the outputs t of a block, and the zeros past the last of a blocked
 * layout.
 */
static void store_outputs(const struct dc_feature_job *job, const struct dc_feature_block *b,
                          int64_t t, const float *sums, int64_t image, int64_t y0, int64_t pixels)
{
    const struct dc_feature *f = job->f;
    const doconv_conv_desc *d = &f->problem.desc;
    const int64_t block = dc_layout_block(d->dst_layout),
                  stored = divide_up(d->cout, block) * block;
    const bool ends = b->first + b->count == d->cin && t == f->multiplier - 1;
    float *const dst = job->dst + image * f->dst_map.image + y0 * f->dst_map.row;
    if (f->multiplier == 1) {
        struct dc_store_args store =
            dc_store_to(&f->dst_map, b->first, b->count, ends ? stored - b->first : b->count);
        store.tile = sums;
        store.tile_channels = LANES;
        store.pixels = pixels;
        store.dst = dst;
        f->gemm->direct.store(&store);
        return;
    }
    for (int64_t lane = 0; lane < b->count; lane++) {
        float *to = dst + channel_at(&f->dst_map, output_of(f, b, lane, t));
        for (int64_t x = 0; x < pixels; x++) {
            to[x * f->dst_map.pixel] = sums[x * LANES + lane];
        }
    }
    for (int64_t c = d->cout; c < stored && ends; c++) {
        for (int64_t x = 0; x < pixels; x++) {
            dst[channel_at(&f->dst_map, c) + x * f->dst_map.pixel] = 0.0f;
        }
    }
}

void dc_feature_depthwise_task(void *arg, int index)
{
    const struct dc_feature_job *job = arg;
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    float *const strip = job->workspace + index * f->forward_floats,
                 *const z = strip + f->strip_floats, *const sums = z + f->z_floats;
    const int64_t chunks = p->desc.n * f->chunks_image, units = f->blocks * chunks,
                  first = units * index / f->forward_tasks;
    int64_t packed = 0; /* blocks: all that the task meets, or the last alone */
    for (int64_t i = first; i < units * (index + 1) / f->forward_tasks; i++) {
        const int64_t number = f->blocks_together ? i % f->blocks : i / chunks,
                      chunk = f->blocks_together ? i / f->blocks : i % chunks;
        const int64_t image = chunk / f->chunks_image, y0 = chunk % f->chunks_image * f->height;
        const int64_t y1 = least(p->hout, y0 + f->height), pixels = (y1 - y0) * p->wout;
        const struct dc_feature_block b = block_of(f, 0, number);
        float *const weights =
            sums + f->partial_floats +
            (f->blocks_together ? number * (f->panel_floats + f->factors_floats) : 0);
        float *const factors = weights + f->panel_floats;
        if (f->blocks_together ? packed < f->blocks : i == first || chunk == 0) {
            dc_feature_pack_factors(job, &b, factors);
            dc_feature_depthwise_pack_weights(job, &b, weights);
            packed++;
        }
        dc_feature_make_z_of(job, &b, factors, image, y0, y1, strip, LANES, z,
                             f->chunk_pixels * LANES);
        for (int64_t t = 0; t < f->multiplier; t++) {
            float bias[LANES] = {0.0f};
            for (int64_t lane = 0; lane < b.count && job->bias != NULL; lane++) {
                bias[lane] = job->bias[output_of(f, &b, lane, t)];
            }
            for (int64_t x = 0; x < pixels; x++) {
                memcpy(sums + x * LANES, bias, sizeof bias);
            }
            run_taps(f, f->depthwise->grouped.taps_scatter, z, f->chunk_pixels * LANES,
                     weights + t * f->d_mul * LANES, LANES, f->d_mul, sums, pixels);
            store_outputs(job, &b, t, sums, image, y0, pixels);
        }
    }
}

/* ---- backward ---- */

void dc_feature_depthwise_load(const struct dc_feature_job *job, const struct dc_feature_block *b,
                               int64_t image, int64_t y0, int64_t y1, float *grad)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    if (f->multiplier == 1) {
        struct dc_load_args load =
            dc_load_from(&f->dst_map, job->grad_dst + image * f->dst_map.image, b->first, b->count,
                         p->hout, p->wout);
        load.strip = grad;
        load.strip_row = p->wout * LANES;
        load.strip_pixel = LANES;
        load.rows = y1 - y0;
        load.columns = p->wout;
        load.y0 = y0;
        f->gemm->direct.load(&load);
        return;
    }
    const int64_t pixels = (y1 - y0) * p->wout;
    for (int64_t t = 0; t < f->multiplier; t++) {
        float *const to = grad + t * f->walk_pixels * LANES;
        for (int64_t lane = 0; lane < LANES; lane++) {
            const float *from = job->grad_dst + image * f->dst_map.image + y0 * f->dst_map.row;
            from += lane < b->count ? channel_at(&f->dst_map, output_of(f, b, lane, t)) : 0;
            for (int64_t x = 0; x < pixels; x++) {
                to[x * LANES + lane] = lane < b->count ? from[x * f->dst_map.pixel] : 0.0f;
            }
        }
    }
}

void dc_feature_depthwise_add_weights(const struct dc_feature *f, const float *z, float *grad,
                                      int64_t pixels, float *sums)
{
    for (int64_t t = 0; t < f->multiplier; t++) {
        run_taps(f, f->depthwise->grouped.taps_correlate, z, f->walk_pixels * LANES,
                 sums + t * f->d_mul * LANES, LANES, f->d_mul, grad + t * f->walk_pixels * LANES,
                 pixels);
    }
}

void dc_feature_depthwise_grad_z(const struct dc_feature *f, const float *grad, float *weights,
                                 int64_t pixels, float *grad_z)
{
    for (int64_t s = 0; s < f->d_mul; s++) {
        float *const to = grad_z + s * f->walk_pixels * LANES;
        memset(to, 0, (size_t)(pixels * LANES) * sizeof *to);
        run_taps(f, f->depthwise->grouped.taps_scatter, grad, f->walk_pixels * LANES,
                 weights + s * LANES, f->d_mul * LANES, f->multiplier, to, pixels);
    }
}
