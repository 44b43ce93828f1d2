/* SPDX-License-Identifier: MIT */
/*
 * Feature composition with kernels, backward: a task owns blocks of input channels, so that no sum
 * is shared, and walks over the pixels of all images, a chunk at a time.
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

/* Vectors of the gradient of Z that all taps of a piece of a row share, in L1. */
#define PIECE_VECTORS 256

/* `count` channels of an image of dst's gradient from `from` on become planes. */
static void copy_planes(const struct dc_feature *f, const float *from, int64_t count, float *to)
{
    /* The kernel transposes whole squares of 8; what is left over is little. */
    const int64_t all = f->problem.hout * f->problem.wout, step = f->dst_map.pixel;
    const int64_t channels = f->dst_map.channel == 1 ? count / 8 * 8 : 0, pixels = all / 8 * 8;
    if (channels != 0 && pixels != 0) {
        dc_transpose(f->wide, from, step, pixels, channels, to, f->plane);
    }
    for (int64_t c = 0; c < count; c++) {
        for (int64_t x = c < channels ? pixels : 0; x < all; x++) {
            to[c * f->plane + x] = from[x * step + c * f->dst_map.channel];
        }
    }
}

/* Both copies of dst's gradient, as far as they are needed. */
static void copy_task(void *arg, int index)
{
    const struct dc_feature_job *job = arg;
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const int64_t block = least(f->dst_map.block_channels, LANES),
                  blocks = divide_up(p->desc.cout, block);
    for (int64_t i = p->desc.n * blocks * index / job->copy_tasks;
         i < p->desc.n * blocks * (index + 1) / job->copy_tasks; i++) {
        const int64_t image = i / blocks, c = i % blocks * block,
                      count = least(block, p->desc.cout - c);
        const float *from = job->grad_dst + image * f->dst_map.image;
        if (!f->planes_in_place) {
            copy_planes(f, from + channel_at(&f->dst_map, c), count,
                        job->planes_copy + (image * p->desc.cout + c) * f->plane);
        }
        if (!f->pixels_in_place) {
            struct dc_load_args load = dc_load_from(&f->dst_map, from, c, count, p->hout, p->wout);
            load.strip = job->pixels_copy + image * job->pixels_map.image +
                         c / LANES * job->pixels_map.block;
            load.strip_row = job->pixels_map.row;
            load.strip_pixel = LANES;
            load.rows = p->hout;
            load.columns = p->wout;
            f->wide->direct.load(&load);
        }
    }
}

/* A task's block and where it stands in its walk over the pixels. */
struct walk {
    struct dc_feature_block b;
    bool in_place;
    int64_t image, images, y0, y1, pixels; /* pixels: of an image */
    bool first;                            /* chunk of all */
    /* src's channels and their gradient in whole images, if not in place */
    float *strip, *grad_strip;
    float *z, *grad_z;            /* [part][pixel][lanes] */
    float *steps;                 /* natural: one of these by steps, [step][pixel][16] */
    float *weights, *sums;        /* [part][output][lanes]: W and its gradient */
    float *factors, *factor_sums; /* D and its gradient, packed */
    /* where lane e of all steps is in W's row of the block; -1: nowhere */
    int32_t *map;
    struct dc_segment *group_segments, *image_segments;
    ptrdiff_t group_segment_count;
};

/* The gradient of src that has been summed in the strip. */
static void store_strip(const struct dc_feature_job *job, const struct walk *w)
{
    const struct dc_feature *f = job->f;
    const doconv_conv_desc *d = &f->problem.desc;
    const int64_t pixels = d->h * d->w, count = w->b.count;
    for (int64_t x = 0; x < w->images * pixels && f->copies > 1; x++) {
        float *at = w->grad_strip + x * LANES;
        for (int64_t c = 0; c < count; c++) {
            float sum = at[c];
            for (int64_t lane = c + count; lane < count * f->copies; lane += count) {
                sum += at[lane];
            }
            at[c] = sum;
        }
    }
    for (int64_t image = 0; image < w->images; image++) {
        struct dc_store_args store = dc_store_to(&f->src_map, w->b.first, count, count);
        store.tile = w->grad_strip + image * pixels * LANES;
        store.tile_channels = LANES;
        store.pixels = pixels;
        store.dst = job->grad_src + (w->image + image) * f->src_map.image;
        f->wide->direct.store(&store);
    }
}

/* Zeros the block's channels of src's gradient in the walk's images. */
static void zero_gradient(const struct dc_feature_job *job, const struct walk *w)
{
    const struct dc_feature *f = job->f;
    const doconv_conv_desc *d = &f->problem.desc;
    if (!w->in_place) {
        memset(w->grad_strip, 0, (size_t)(w->images * d->h * d->w * LANES) * sizeof(float));
        return;
    }
    const int64_t run = least(f->src_map.block_channels, LANES);
    for (int64_t image = w->image; image < w->image + w->images; image++) {
        for (int64_t c = 0; c < LANES; c += run) {
            float *at =
                job->grad_src + image * f->src_map.image + channel_at(&f->src_map, w->b.first + c);
            for (int64_t x = 0; x < d->h * d->w; x++) {
                memset(at + x * f->src_map.pixel, 0, (size_t)run * sizeof(float));
            }
        }
    }
}

/* Place k of a pixel in W's order, lane by lane: the next part begins where a part's lanes end. */
struct place {
    int64_t at, lane, lanes, next;
};

static struct place first_place(const struct dc_feature *f, int64_t pixel)
{
    const int64_t lanes = f->wide->tile_channels;
    return (struct place){pixel * lanes, 0, lanes, (f->walk_pixels - 1) * lanes};
}

static int64_t take_place(struct place *place)
{
    const int64_t at = place->at++;
    if (++place->lane == place->lanes) {
        place->lane = 0;
        place->at += place->next;
    }
    return at;
}

/* Z by steps becomes Z in W's order. */
static void order_naturally(const struct dc_feature *f, const struct walk *w)
{
    const int64_t all = w->images * w->pixels;
    if (w->b.count != LANES) {
        memset(w->z, 0, (size_t)f->walk_floats * sizeof(float));
    }
    for (int64_t pixel = 0; pixel < all; pixel++) {
        struct place place = first_place(f, pixel);
        for (int64_t i = 0; i < w->b.count; i++) {
            const float *from = w->steps + pixel * LANES + i;
            for (int64_t q = 0; q < f->steps; q++) {
                w->z[take_place(&place)] = from[q * f->walk_pixels * LANES];
            }
        }
    }
}

/* The gradient of Z in W's order becomes one by steps. */
static void order_by_steps(const struct dc_feature *f, const struct walk *w)
{
    const int64_t all = w->images * w->pixels;
    if (w->b.count != LANES) {
        memset(w->steps, 0, (size_t)(f->steps * f->walk_pixels * LANES) * sizeof(float));
    }
    for (int64_t pixel = 0; pixel < all; pixel++) {
        struct place place = first_place(f, pixel);
        for (int64_t i = 0; i < w->b.count; i++) {
            float *to = w->steps + pixel * LANES + i;
            for (int64_t q = 0; q < f->steps; q++) {
                to[q * f->walk_pixels * LANES] = w->grad_z[take_place(&place)];
            }
        }
    }
}

static void make_walk_z(const struct dc_feature_job *job, const struct walk *w)
{
    const struct dc_feature *f = job->f;
    const doconv_conv_desc *d = &f->problem.desc;
    const int64_t lanes = f->natural ? LANES : f->wide->tile_channels,
                  vector = f->depthwise->vector, z_block = f->walk_pixels * lanes;
    ptrdiff_t vectors[LANES];
    for (int64_t v = 0; v * vector < LANES; v++) {
        vectors[v] = w->in_place ? channel_at(&f->src_map, w->b.first + v * vector) : v * vector;
    }
    for (int64_t image = 0; image < w->images; image++) {
        float *const z = (f->natural ? w->steps : w->z) + image * w->pixels * lanes;
        if (w->in_place) {
            dc_feature_make_z(f, w->factors, job->src + (w->image + image) * f->src_map.image,
                              f->src_map.row, f->src_map.pixel, vectors, 0, d->h, w->y0, w->y1,
                              lanes, z, z_block);
        } else {
            dc_feature_make_z(f, w->factors, w->strip + image * d->h * d->w * LANES, d->w * LANES,
                              LANES, vectors, 0, d->h, w->y0, w->y1, lanes, z, z_block);
        }
    }
    if (f->natural && f->multiplier == 0) {
        order_naturally(f, w);
    }
}

static const float zeros[DC_MAX_TILE_VECTORS * 16] __attribute__((aligned(64)));

/*
 * The gradient of W if there is one chunk, in W's order: rows at a time, which are fetched for all
 * parts together.
 */
static void store_products(const struct dc_feature_job *job, const struct walk *w)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const int64_t lanes = f->wide->tile_channels, inputs = w->b.count * f->d_mul,
                  rows = 4 * f->wide->tile_pixels;
    const ptrdiff_t row = p->group_cin * f->d_mul;
    float *const out = job->grad_w + weight_at(f, &w->b, 0);
    for (int64_t o = 0; o < least(rows, p->group_cout); o++) {
        fetch_row_to_write(out + o * row, inputs);
    }
    for (int64_t first = 0; first < p->group_cout; first += rows) {
        for (int64_t o = first + rows; o < least(first + 2 * rows, p->group_cout); o++) {
            fetch_row_to_write(out + o * row, inputs);
        }
        for (int64_t part = 0; part * lanes < inputs; part++) {
            struct dc_run_args args = {
                .src = job->planes +
                       (w->image * p->desc.cout + w->b.group * p->group_cout + first) * f->plane,
                .src_pixel = f->plane,
                .segments = w->image_segments,
                .segment_count = w->images,
                .weights = w->z + part * f->walk_pixels * lanes,
                .bias = zeros,
                .lines = 1,
                .pixels = least(rows, p->group_cout - first),
                .channels = least(lanes, inputs - part * lanes),
                .dst = out + first * row + part * lanes,
                .dst_pixel = row,
                .stored = least(lanes, inputs - part * lanes),
                .lo = -INFINITY,
                .hi = INFINITY,
            };
            for (int64_t v = 0; v * f->wide->vector < lanes; v++) {
                args.dst_vector[v] = v * f->wide->vector;
            }
            f->wide->direct.run(&args);
        }
    }
}

/* Adds the chunk's products of dst's gradient and Z to the gradient of W. */
static void add_weights(const struct dc_feature_job *job, const struct walk *w)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const int64_t lanes = f->wide->tile_channels;
    for (int64_t image = 0; image < w->images; image++) {
        w->image_segments[image] =
            (struct dc_segment){.src_offset = image * p->desc.cout * f->plane,
                                .weight_offset = image * w->pixels * lanes,
                                .length = w->pixels,
                                .fetch = 1};
    }
    if (f->natural && f->walk_pixels == p->desc.n * p->hout * p->wout) {
        store_products(job, w);
        return;
    }
    for (int64_t part = 0; part < f->parts; part++) {
        float *const sums = w->sums + part * p->group_cout * lanes;
        const struct dc_run_args args = {
            .src = job->planes + (w->image * p->desc.cout + w->b.group * p->group_cout) * f->plane +
                   w->y0 * p->wout,
            .src_pixel = f->plane,
            .segments = w->image_segments,
            .segment_count = w->images,
            .weights = w->z + part * f->walk_pixels * lanes,
            .bias = zeros,
            .partial_in = w->first ? NULL : sums,
            .partial_out = sums,
            .lines = 1,
            .pixels = p->group_cout,
            .channels = least(lanes, f->steps * LANES - part * lanes),
        };
        f->wide->direct.run(&args);
    }
}

/* The gradient of Z: W, transposed, times that of dst. */
static void make_grad_z(const struct dc_feature_job *job, const struct walk *w)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const struct dc_tensor_map *map = &job->pixels_map;
    const int64_t lanes = f->wide->tile_channels;
    for (int64_t part = 0; part < f->parts; part++) {
        const struct dc_run_args args = {
            .src = job->pixels + w->image * map->image + w->y0 * map->row,
            .src_pixel = map->pixel,
            .src_line = map->image,
            .segments = w->group_segments,
            .segment_count = w->group_segment_count,
            .weights = w->weights + part * p->group_cout * lanes,
            .bias = zeros,
            .partial_out = w->grad_z + part * f->walk_pixels * lanes,
            .lines = w->images,
            .pixels = w->pixels,
            .channels = least(lanes, f->steps * LANES - part * lanes),
        };
        f->wide->direct.run(&args);
    }
}

/*
 * Where x * stride + offset lies in [0, size), x in [*begin, *end): cuts the range. False if none
 * is left.
 */
static bool cut_range(int64_t size, int64_t stride, int64_t offset, int64_t *begin, int64_t *end)
{
    *begin = most(*begin, offset >= 0 ? 0 : divide_up(-offset, stride));
    *end = least(*end, offset > size - 1 ? 0 : (size - 1 - offset) / stride + 1);
    return *begin < *end;
}

/*
 * The rectangle of output pixels [y0, y1) x [x0, x1) of the walk's image number `image`: what its
 * gradient of Z adds to those of D and of src.
 */
static void hand_back(const struct dc_feature_job *job, const struct walk *w, int64_t image,
                      int64_t y0, int64_t y1, int64_t x0, int64_t x1)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t lanes = f->natural ? LANES : f->wide->tile_channels,
                  vector = f->depthwise->vector;
    const float *const grad_z = f->natural ? w->steps : w->grad_z;
    const ptrdiff_t row = w->in_place ? f->src_map.row : d->w * LANES,
                    pixel = w->in_place ? f->src_map.pixel : LANES;
    const ptrdiff_t at_image =
        w->in_place ? (w->image + image) * f->src_map.image : image * d->h * d->w * LANES;
    const float *const src = (w->in_place ? job->src : w->strip) + at_image;
    float *const grad_src =
        job->grad_src != NULL ? (w->in_place ? job->grad_src : w->grad_strip) + at_image : NULL;
    for (int64_t v = 0; v * vector < LANES; v++) {
        const ptrdiff_t lane =
            w->in_place ? channel_at(&f->src_map, w->b.first + v * vector) : v * vector;
        for (int64_t m = 0; m < f->taps; m++) {
            const int64_t dy = m / d->kw * d->dilation_h - d->pad_top,
                          dx = m % d->kw * d->dilation_w - d->pad_left;
            int64_t ya = y0, yb = y1, xa = x0, xb = x1;
            if (!cut_range(d->h, d->stride_h, dy, &ya, &yb) ||
                !cut_range(d->w, d->stride_w, dx, &xa, &xb)) {
                continue;
            }
            const ptrdiff_t at =
                lane + (ya * d->stride_h + dy) * row + (xa * d->stride_w + dx) * pixel;
            const ptrdiff_t factor = v * vector * f->taps + tap_place(f, m) * vector;
            enum { MOST = 64 };
            for (int64_t q = 0; q < f->steps; q += MOST) {
                ptrdiff_t steps_at[MOST];
                const int64_t steps = least(MOST, f->steps - q);
                for (int64_t i = 0; i < steps; i++) {
                    const int64_t e = (q + i) * LANES + v * vector;
                    steps_at[i] = e / lanes * f->walk_pixels * lanes + e % lanes;
                }
                struct dc_taps_args args = {
                    .z = grad_z + (image * w->pixels + (ya - w->y0) * p->wout + xa) * lanes,
                    .steps_at = steps_at,
                    .z_row = p->wout * lanes,
                    .z_pixel = lanes,
                    .x_row = d->stride_h * row,
                    .x_pixel = d->stride_w * pixel,
                    .factors_step = LANES * f->taps,
                    .steps = steps,
                    .rows = yb - ya,
                    .pixels = xb - xa,
                };
                if (job->grad_d != NULL) {
                    args.x = (float *)src + at;
                    args.factors = w->factor_sums + q * args.factors_step + factor;
                    f->depthwise->grouped.taps_correlate(&args);
                }
                if (grad_src != NULL) {
                    args.x = grad_src + at;
                    args.factors = w->factors + q * args.factors_step + factor;
                    f->depthwise->grouped.taps_scatter(&args);
                }
            }
        }
    }
}

/* Small pieces, whose gradient of Z stays in L1 over all taps. */
static void hand_back_chunk(const struct dc_feature_job *job, const struct walk *w)
{
    const struct dc_feature *f = job->f;
    const int64_t width = f->problem.wout, piece = most(8, PIECE_VECTORS / f->steps);
    const int64_t columns = divide_up(width, divide_up(width, piece)),
                  rows = most(1, piece / width);
    for (int64_t image = 0; image < w->images; image++) {
        for (int64_t y = w->y0; y < w->y1; y += rows) {
            for (int64_t x = 0; x < width; x += columns) {
                hand_back(job, w, image, y, least(w->y1, y + rows), x, least(width, x + columns));
            }
        }
    }
}

static void walk_block(const struct dc_feature_job *job, struct walk *w)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    const bool wants_grad_z = job->grad_d != NULL || job->grad_src != NULL;
    const bool one_chunk = f->natural && f->walk_pixels == d->n * p->hout * p->wout;
    dc_feature_map_lanes(f, &w->b, w->map);
    dc_feature_pack_factors(job, &w->b, w->factors);
    memset(w->factor_sums, 0, (size_t)f->factors_floats * sizeof(float));
    if (wants_grad_z) {
        dc_feature_pack_weights(job, &w->b, w->map, w->weights);
    }
    const int64_t block_channels = job->pixels_map.block_channels, lanes = f->wide->tile_channels;
    w->group_segment_count = 0;
    for (int64_t o = 0; o < p->group_cout;) {
        const int64_t channel = w->b.group * p->group_cout + o,
                      length = least(p->group_cout - o, block_channels - channel % block_channels);
        w->group_segments[w->group_segment_count++] =
            (struct dc_segment){.src_offset = channel_at(&job->pixels_map, channel),
                                .weight_offset = o * lanes,
                                .length = length,
                                .fetch = 1};
        o += length;
    }
    w->first = true;
    for (w->image = 0; w->image < d->n; w->image += w->images) {
        w->images = least(f->walk_images, d->n - w->image);
        for (int64_t image = 0; image < w->images && !w->in_place; image++) {
            dc_feature_load_block(job, &w->b, w->image + image, 0, d->h,
                                  w->strip + image * d->h * d->w * LANES);
        }
        if (job->grad_src != NULL) {
            zero_gradient(job, w);
        }
        for (w->y0 = 0; w->y0 < p->hout; w->y0 = w->y1) {
            w->y1 = least(p->hout, w->y0 + f->walk_rows);
            w->pixels = (w->y1 - w->y0) * p->wout;
            if (job->grad_w != NULL) {
                make_walk_z(job, w);
                add_weights(job, w);
            }
            if (wants_grad_z) {
                make_grad_z(job, w);
                if (f->natural) {
                    order_by_steps(f, w);
                }
                hand_back_chunk(job, w);
            }
            w->first = false;
        }
        if (job->grad_src != NULL && !w->in_place) {
            store_strip(job, w);
        }
    }
    if (job->grad_w != NULL && !one_chunk) {
        dc_feature_store_weights(job, &w->b, w->map, w->sums);
    }
    if (job->grad_d != NULL) {
        dc_feature_store_factors(job, &w->b, w->factor_sums);
    }
}

/*
 * The same for a depthwise layer: z has a chunk of dst's gradient, steps have Z, then its gradient.
 */
static void walk_depthwise_block(const struct dc_feature_job *job, struct walk *w)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    dc_feature_pack_factors(job, &w->b, w->factors);
    dc_feature_depthwise_pack_weights(job, &w->b, w->weights);
    memset(w->factor_sums, 0, (size_t)f->factors_floats * sizeof(float));
    memset(w->sums, 0, (size_t)f->weight_floats * sizeof(float));
    w->images = 1;
    for (w->image = 0; w->image < d->n; w->image++) {
        if (!w->in_place) {
            dc_feature_load_block(job, &w->b, w->image, 0, d->h, w->strip);
        }
        if (job->grad_src != NULL) {
            zero_gradient(job, w);
        }
        for (w->y0 = 0; w->y0 < p->hout; w->y0 = w->y1) {
            w->y1 = least(p->hout, w->y0 + f->walk_rows);
            w->pixels = (w->y1 - w->y0) * p->wout;
            dc_feature_depthwise_load(job, &w->b, w->image, w->y0, w->y1, w->z);
            if (job->grad_w != NULL) {
                make_walk_z(job, w);
                dc_feature_depthwise_add_weights(f, w->steps, w->z, w->pixels, w->sums);
            }
            if (job->grad_d != NULL || job->grad_src != NULL) {
                dc_feature_depthwise_grad_z(f, w->z, w->weights, w->pixels, w->steps);
                hand_back_chunk(job, w);
            }
        }
        if (job->grad_src != NULL && !w->in_place) {
            store_strip(job, w);
        }
    }
    if (job->grad_w != NULL) {
        dc_feature_depthwise_store_weights(job, &w->b, w->sums);
    }
    if (job->grad_d != NULL) {
        dc_feature_store_factors(job, &w->b, w->factor_sums);
    }
}

static void backward_task(void *arg, int index)
{
    const struct dc_feature_job *job = arg;
    const struct dc_feature *f = job->f;
    struct walk w = {.strip = job->workspace + index * f->backward_floats};
    w.grad_strip = w.strip + f->image_floats;
    w.z = w.grad_strip + f->image_floats;
    w.grad_z = w.z + f->walk_floats;
    w.steps = w.grad_z + f->walk_floats;
    w.weights = w.steps + (f->natural ? f->steps * f->walk_pixels * LANES : 0);
    w.sums = w.weights + f->weight_floats;
    w.factors = w.sums + f->weight_floats;
    w.factor_sums = w.factors + f->factors_floats;
    w.map = (int32_t *)(void *)(w.factor_sums + f->factors_floats);
    w.group_segments = (struct dc_segment *)(void *)((float *)(void *)w.map + f->map_floats);
    w.image_segments =
        (struct dc_segment *)(void *)((float *)(void *)w.group_segments + f->group_segment_floats);
    const int64_t units = f->groups * f->blocks;
    for (int64_t i = units * index / f->backward_tasks; i < units * (index + 1) / f->backward_tasks;
         i++) {
        w.b = block_of(f, i / f->blocks, i % f->blocks);
        w.in_place = block_in_place(f, &w.b);
        (f->multiplier != 0 ? walk_depthwise_block : walk_block)(job, &w);
    }
}

void dc_feature_backward_execute(const doconv_plan *plan, const struct dc_tensors *tensors,
                                 char *workspace)
{
    const struct dc_feature *f = plan->state;
    const float *const grad_dst = tensors->grad_dst;
    const doconv_conv_desc *desc = &f->problem.desc;
    const int64_t pixels = f->problem.hout * f->problem.wout;
    struct dc_feature_job job = {
        .f = f,
        .w = tensors->w,
        .d = tensors->d,
        .src = tensors->src,
        .grad_dst = grad_dst,
        .grad_src = tensors->grad_src,
        .grad_w = tensors->grad_w,
        .grad_d = tensors->grad_d,
    };
    if (job.grad_src != NULL && desc->cin % dc_layout_block(desc->src_layout) != 0) {
        memset(job.grad_src, 0, f->problem.src_bytes); /* the channels past the last */
    }
    job.planes_copy = (float *)workspace;
    job.pixels_copy = job.planes_copy + f->planes_floats;
    job.workspace = job.pixels_copy + f->pixels_floats;
    job.planes = f->planes_in_place ? grad_dst : job.planes_copy;
    job.pixels = f->pixels_in_place ? grad_dst : job.pixels_copy;
    job.pixels_map =
        f->pixels_in_place
            ? f->dst_map
            : (struct dc_tensor_map){.image = divide_up(desc->cout, LANES) * LANES * pixels,
                                     .block_channels = LANES,
                                     .block = LANES * pixels,
                                     .channel = 1,
                                     .row = LANES * f->problem.wout,
                                     .pixel = LANES};
    if (!f->planes_in_place || !f->pixels_in_place) {
        job.copy_tasks =
            (int)least(f->problem.threads,
                       desc->n * divide_up(desc->cout, least(f->dst_map.block_channels, LANES)));
        dc_parallel(f->ctx, job.copy_tasks, copy_task, &job);
    }
    dc_parallel(f->ctx, f->backward_tasks, backward_task, &job);
}
