/* SPDX-License-Identifier: MIT */
/*
 * Feature composition with kernels, forward: a unit is a chunk of pixels against a chunk of output
 * blocks, or, for few pixels, the outputs' rows of W, where they are, against all pixels.
 */
#include <math.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/layout.h"
#include "compose/feature_blocks.h"
#include "geometry/strips.h"
#include "kernel.h"
#include "plan/problem.h"

/* ---- many pixels ---- */

struct unit {
    int64_t group, image, images, y0, y1, pixels; /* pixels: of an image */
    int64_t block0, block1;                       /* of the pass */
    int64_t out0, out1;
    int64_t factors_of, panel_of; /* the block and the outputs that are packed; -1: none */
    float *strip, *z, *partial, *panel, *natural, *factors;
    struct dc_segment *segments;
    ptrdiff_t segment_count;
};

static void contract(const struct dc_feature_job *job, const struct unit *u, int64_t ob)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const int64_t tile = f->gemm->tile_channels, in_group = ob * tile,
                  channel = u->group * p->group_cout + in_group;
    float bias[DC_MAX_TILE_VECTORS * 16] __attribute__((aligned(64)));
    const bool last = u->block1 == f->blocks;
    struct dc_run_args args = {
        .src = u->z,
        .src_pixel = LANES,
        .src_line = u->pixels * LANES,
        .segments = u->segments,
        .segment_count = u->segment_count,
        .weights = u->panel,
        .bias = bias,
        .lines = 1,
        .pixels = u->images * u->pixels,
        .channels = least(tile, p->group_cout - in_group),
        .dst_pixel = f->dst_map.pixel,
        .dst_line = f->dst_map.image,
        .lo = -INFINITY,
        .hi = INFINITY,
    };
    for (int64_t t = 0; t < tile; t++) {
        bias[t] = job->bias != NULL && t < args.channels ? job->bias[channel + t] : 0.0f;
    }
    const int64_t layout_block = dc_layout_block(p->desc.dst_layout);
    const bool ends = channel + args.channels == p->desc.cout;
    args.stored =
        ends ? divide_up(p->desc.cout, layout_block) * layout_block - channel : args.channels;
    float *const partial = u->partial + (ob - u->out0) * f->chunk_pixels * tile;
    float *const dst = job->dst + u->image * f->dst_map.image + u->y0 * f->dst_map.row;
    args.partial_in = u->block0 == 0 ? NULL : partial;
    const bool through_buffer = !f->direct_store || args.stored > tile;
    if (!last || through_buffer) {
        args.partial_out = partial;
    } else {
        args.dst = dst;
        args.lines = u->images;
        args.pixels = u->pixels;
        for (int64_t v = 0; v * f->gemm->vector < tile; v++) {
            args.dst_vector[v] = channel_at(&f->dst_map, channel + v * f->gemm->vector);
        }
    }
    f->gemm->direct.run(&args);
    for (int64_t image = 0; image < u->images && last && through_buffer; image++) {
        struct dc_store_args store = dc_store_to(&f->dst_map, channel, args.channels, args.stored);
        store.tile = partial + image * u->pixels * tile;
        store.tile_channels = tile;
        store.pixels = u->pixels;
        store.dst = dst + image * f->dst_map.image;
        f->gemm->direct.store(&store);
    }
}

static void run_pass(const struct dc_feature_job *job, struct unit *u)
{
    const struct dc_feature *f = job->f;
    const int64_t tile = f->gemm->tile_channels, inputs = f->steps * LANES,
                  z_block = f->chunk_pixels * LANES;
    u->segment_count = 0;
    for (int64_t number = u->block0; number < u->block1; number++) {
        const struct dc_feature_block b = block_of(f, u->group, number);
        const int64_t first = (number - u->block0) * f->steps;
        if (u->factors_of != u->group * f->blocks + number) {
            u->factors_of = u->group * f->blocks + number;
            dc_feature_pack_factors(job, &b, u->factors);
        }
        for (int64_t image = 0; image < u->images; image++) {
            dc_feature_make_z_of(job, &b, u->factors, u->image + image, u->y0, u->y1, u->strip,
                                 LANES, u->z + first * z_block + image * u->pixels * LANES,
                                 z_block);
        }
        for (int64_t q = first; q < first + f->steps; q++) {
            u->segments[u->segment_count++] =
                (struct dc_segment){.src_offset = q * z_block,
                                    .weight_offset = q * LANES * tile,
                                    .length = least(LANES, b.count * f->copies),
                                    .fetch = 1};
        }
    }
    for (int64_t ob = u->out0; ob < u->out1; ob++) {
        const bool packed =
            f->pass_blocks == f->blocks && u->panel_of == u->group * f->out_blocks + ob;
        u->panel_of = u->group * f->out_blocks + ob;
        for (int64_t number = u->block0; number < u->block1 && !packed; number++) {
            const struct dc_feature_block b = block_of(f, u->group, number);
            dc_feature_pack_panel(job, &b, ob * tile,
                                  least(tile, f->problem.group_cout - ob * tile), u->natural,
                                  u->panel + (number - u->block0) * inputs * tile);
        }
        contract(job, u, ob);
    }
}

static void forward_task(void *arg, int index)
{
    const struct dc_feature_job *job = arg;
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    float *const space = job->workspace + index * f->forward_floats;
    struct unit u = {.strip = space, .factors_of = -1, .panel_of = -1};
    u.z = u.strip + f->strip_floats;
    u.partial = u.z + f->z_floats;
    u.panel = u.partial + f->partial_floats;
    u.natural = u.panel + f->panel_floats;
    u.factors = u.natural + f->natural_floats;
    u.segments = (struct dc_segment *)(void *)(u.factors + f->factors_floats);
    const int64_t units =
        divide_up(p->desc.n, f->images) * f->chunks_image * p->desc.groups * f->out_chunks;
    for (int64_t i = units * index / f->forward_tasks; i < units * (index + 1) / f->forward_tasks;
         i++) {
        int64_t rest = i;
        u.out0 = rest % f->out_chunks * f->out_chunk;
        u.out1 = least(f->out_blocks, u.out0 + f->out_chunk);
        rest /= f->out_chunks;
        u.y0 = rest % f->chunks_image * f->height;
        u.y1 = least(p->hout, u.y0 + f->height);
        rest /= f->chunks_image;
        u.group = rest % p->desc.groups;
        u.image = rest / p->desc.groups * f->images;
        u.images = least(f->images, p->desc.n - u.image);
        u.pixels = (u.y1 - u.y0) * p->wout;
        for (u.block0 = 0; u.block0 < f->blocks; u.block0 = u.block1) {
            u.block1 = least(f->blocks, u.block0 + f->pass_blocks);
            run_pass(job, &u);
        }
    }
}

/* ---- few pixels ---- */

/* Z of a pass's block, its number `number` in it, as panels: [panel][channel, s][pixel]. */
static void fill_panels(const struct dc_feature_job *job, const struct dc_feature_block *b,
                        int64_t number, float *strip, float *z, float *factors, float *panels)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const int64_t tile = f->gemm->tile_channels, pixels = f->chunk_pixels,
                  image_pixels = p->hout * p->wout;
    dc_feature_pack_factors(job, b, factors);
    for (int64_t image = 0; image < p->desc.n; image++) {
        dc_feature_make_z_of(job, b, factors, image, 0, p->hout, strip, LANES,
                             z + image * image_pixels * LANES, pixels * LANES);
    }
    for (int64_t panel = 0; panel < f->panels; panel++) {
        for (int64_t q = 0; q < f->steps; q++) {
            dc_transpose(f->gemm, z + (q * pixels + panel * tile) * LANES, LANES,
                         least(tile, pixels - panel * tile), b->count,
                         panels + (panel * f->panel_inputs + number * LANES * f->d_mul + q) * tile,
                         f->d_mul * tile);
        }
    }
}

/*
 * Outputs [o0, o1) of a group, whose sums are [panel][output][pixel], and the zeros past the last
 * of a blocked layout.
 */
static void store_panels(const struct dc_feature_job *job, int64_t group, int64_t o0, int64_t o1,
                         ptrdiff_t pitch, const float *sums)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const int64_t tile = f->gemm->tile_channels, image_pixels = p->hout * p->wout;
    const int64_t channel0 = group * p->group_cout + o0, channel1 = group * p->group_cout + o1;
    for (int64_t pixel = 0, count; pixel < f->chunk_pixels; pixel += count) {
        const int64_t panel = pixel / tile, image = pixel / image_pixels;
        count =
            least(least(f->chunk_pixels, (panel + 1) * tile), (image + 1) * image_pixels) - pixel;
        const float *from = sums + panel * pitch + pixel % tile;
        float *const dst =
            job->dst + image * f->dst_map.image + pixel % image_pixels * f->dst_map.pixel;
        if (f->dst_map.channel != 1) {
            for (int64_t c = channel0; c < channel1; c++) {
                memcpy(dst + channel_at(&f->dst_map, c), from + (c - channel0) * tile,
                       (size_t)count * sizeof *dst);
            }
            continue;
        }
        for (int64_t c = channel0, channels; c < channel1; c += channels) {
            channels =
                least(channel1 - c, f->dst_map.block_channels - c % f->dst_map.block_channels);
            dc_transpose(f->gemm, from + (c - channel0) * tile, tile, channels, count,
                         dst + channel_at(&f->dst_map, c), f->dst_map.pixel);
        }
        const int64_t block = dc_layout_block(p->desc.dst_layout);
        for (int64_t c = p->desc.cout; channel1 == p->desc.cout && c % block != 0; c++) {
            for (int64_t x = 0; x < count; x++) {
                dst[channel_at(&f->dst_map, c) + x * f->dst_map.pixel] = 0.0f;
            }
        }
    }
}

static void rows_task(void *arg, int index)
{
    static const float zeros[DC_MAX_TILE_VECTORS * 16] __attribute__((aligned(64)));
    const struct dc_feature_job *job = arg;
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    float *const strip = job->workspace + index * f->forward_floats, *const z =
                                                                         strip + f->strip_floats;
    float *const panels = z + f->z_floats, *const sums = panels + f->panels_floats,
                 *const factors = sums + f->sums_floats;
    const int64_t tile = f->gemm->tile_channels, step = f->gemm->tile_pixels,
                  units = p->desc.groups * f->out_chunks;
    const ptrdiff_t pitch = f->out_chunk * LANES * tile, row = p->group_cin * f->d_mul;
    /* lanes past the last pixel are multiplied too */
    memset(panels, 0, (size_t)f->panels_floats * sizeof(float));
    for (int64_t unit = units * index / f->forward_tasks;
         unit < units * (index + 1) / f->forward_tasks; unit++) {
        const int64_t group = unit / f->out_chunks,
                      o0 = unit % f->out_chunks * f->out_chunk * LANES;
        const int64_t o1 = least(p->group_cout, o0 + f->out_chunk * LANES);
        for (int64_t i = 0; i < f->panels * (o1 - o0); i++) {
            const int64_t o = o0 + i % (o1 - o0);
            for (int64_t t = 0; t < tile; t++) {
                sums[i / (o1 - o0) * pitch + (o - o0) * tile + t] =
                    job->bias != NULL ? job->bias[group * p->group_cout + o] : 0.0f;
            }
        }
        for (int64_t block0 = 0; block0 < f->blocks; block0 += f->pass_blocks) {
            const int64_t block1 = least(f->blocks, block0 + f->pass_blocks),
                          k0 = block0 * LANES * f->d_mul;
            for (int64_t number = block0; number < block1; number++) {
                const struct dc_feature_block b = block_of(f, group, number);
                fill_panels(job, &b, number - block0, strip, z, factors, panels);
            }
            const struct dc_segment segment = {.length = least(row, block1 * LANES * f->d_mul) - k0,
                                               .fetch = 1};
            for (int64_t o = o0; o < o1; o += step) {
                for (int64_t panel = 0; panel < f->panels; panel++) {
                    float *const partial = sums + panel * pitch + (o - o0) * tile;
                    const struct dc_run_args args = {
                        .src = job->w + (group * p->group_cout + o) * row + k0,
                        .src_pixel = row,
                        .segments = &segment,
                        .segment_count = 1,
                        .weights = panels + panel * f->panel_inputs * tile,
                        .bias = zeros,
                        .partial_in = partial,
                        .partial_out = partial,
                        .lines = 1,
                        .pixels = least(step, o1 - o),
                        .channels = least(tile, f->chunk_pixels - panel * tile),
                    };
                    f->gemm->direct.run(&args);
                }
            }
        }
        store_panels(job, group, o0, o1, pitch, sums);
    }
}

void dc_feature_forward_execute(const doconv_plan *plan, const struct dc_tensors *tensors,
                                char *workspace)
{
    const struct dc_feature *f = plan->state;
    struct dc_feature_job job = {
        .f = f,
        .w = tensors->w,
        .d = tensors->d,
        .bias = tensors->bias,
        .src = tensors->src,
        .dst = tensors->dst,
        .workspace = (float *)workspace,
    };
    dc_parallel(plan->ctx, f->forward_tasks,
                f->way == DC_FEATURE_DEPTHWISE ? dc_feature_depthwise_task
                : f->way == DC_FEATURE_ROWS    ? rows_task
                                               : forward_task,
                &job);
}
