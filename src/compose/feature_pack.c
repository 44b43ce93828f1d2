/* SPDX-License-Identifier: MIT */
/*
 * Feature composition with kernels, what both passes make of a block of input channels: D and W
 * packed, and their gradients brought back, src's channels as a strip, and Z.
 */
#include <math.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/layout.h"
#include "compose/feature_blocks.h"
#include "geometry/strips.h"
#include "kernel.h"
#include "plan/problem.h"

/* Rows of W that are fetched before they are needed. */
#define ROWS_AHEAD 6

/*
 * A block of 16 channels, one s a step: each tap's [channel][s] is transposed, whole squares of 8
 * by the direct kernel.
 */
static void pack_whole_factors(const struct dc_feature_job *job, const struct dc_feature_block *b,
                               float *factors)
{
    const struct dc_feature *f = job->f;
    const int64_t vector = f->depthwise->vector, pitch = LANES * f->taps, row = f->taps * f->d_mul,
                  squares = f->d_mul / 8 * 8;
    for (int64_t m = 0; m < f->taps; m++) {
        for (int64_t lane = 0; lane < LANES; lane += vector) {
            const float *from = job->d + (b->first + lane) * row + m * f->d_mul;
            float *const to = factors + lane * f->taps + tap_place(f, m) * vector;
            dc_transpose(f->gemm, from, row, vector, squares, to, pitch);
            for (int64_t s = squares; s < f->d_mul; s++) {
                for (int64_t i = 0; i < vector; i++) {
                    to[s * pitch + i] = from[i * row + s];
                }
            }
            for (int64_t s = m; s < f->repeated; s += f->taps) {
                for (int64_t i = 0; i < vector; i++) {
                    to[s * pitch + i] += 1.0f;
                }
            }
        }
    }
}

void dc_feature_pack_factors(const struct dc_feature_job *job, const struct dc_feature_block *b,
                             float *factors)
{
    const struct dc_feature *f = job->f;
    const int64_t vector = f->depthwise->vector;
    if (b->count == LANES && f->copies == 1) {
        pack_whole_factors(job, b, factors);
        return;
    }
    for (int64_t q = 0; q < f->steps; q++) {
        for (int64_t lane = 0; lane < LANES; lane++) {
            const int64_t s = s_of(f, b, q, lane);
            float *const out =
                factors + (q * LANES + lane / vector * vector) * f->taps + lane % vector;
            const float *const from =
                job->d + (b->first + lane % b->count) * f->taps * f->d_mul + s;
            for (int64_t m = 0; m < f->taps; m++) {
                const float identity = s < f->repeated && s % f->taps == m ? 1.0f : 0.0f;
                out[tap_place(f, m) * vector] = s < f->d_mul ? from[m * f->d_mul] + identity : 0.0f;
            }
        }
    }
}

void dc_feature_store_factors(const struct dc_feature_job *job, const struct dc_feature_block *b,
                              const float *factor_sums)
{
    const struct dc_feature *f = job->f;
    const int64_t vector = f->depthwise->vector;
    for (int64_t q = 0; q < f->steps; q++) {
        for (int64_t lane = 0; lane < LANES; lane++) {
            const int64_t s = s_of(f, b, q, lane);
            const float *from =
                factor_sums + (q * LANES + lane / vector * vector) * f->taps + lane % vector;
            float *out = job->grad_d + (b->first + lane % b->count) * f->taps * f->d_mul + s;
            for (int64_t m = 0; m < f->taps && s < f->d_mul; m++) {
                out[m * f->d_mul] = from[tap_place(f, m) * vector];
            }
        }
    }
}

void dc_feature_load_block(const struct dc_feature_job *job, const struct dc_feature_block *b,
                           int64_t image, int64_t y0, int64_t rows, float *strip)
{
    const struct dc_feature *f = job->f;
    const doconv_conv_desc *d = &f->problem.desc;
    struct dc_load_args load = dc_load_from(&f->src_map, job->src + image * f->src_map.image,
                                            b->first, b->count, d->h, d->w);
    load.strip = strip;
    load.strip_row = d->w * LANES;
    load.strip_pixel = LANES;
    load.rows = rows;
    load.columns = d->w;
    load.y0 = y0;
    load.copies = f->copies;
    if (rows > 0) {
        f->gemm->direct.load(&load);
    }
}

void dc_feature_make_z(const struct dc_feature *f, const float *factors, const float *src,
                       ptrdiff_t src_row, ptrdiff_t src_pixel, const ptrdiff_t *vectors,
                       int64_t row0, int64_t row1, int64_t y0, int64_t y1, int64_t lanes, float *z,
                       ptrdiff_t z_block)
{
    static const float zeros[LANES] __attribute__((aligned(64)));
    const doconv_conv_desc *d = &f->problem.desc;
    const int64_t vector = f->depthwise->vector;
    struct dc_grouped_args args = {
        .vectors = 1,
        .src_row = src_row,
        .src_pixel = src_pixel,
        .h = row1 - row0,
        .w = d->w,
        .bias = zeros,
        .planes = 1,
        .kh = d->kh,
        .kw = d->kw,
        .stride_h = d->stride_h,
        .stride_w = d->stride_w,
        .dilation_h = d->dilation_h,
        .dilation_w = d->dilation_w,
        .pad_top = d->pad_top + row0,
        .pad_left = d->pad_left,
        .chunk = f->chunk,
        .edge = f->edge,
        .y0 = y0,
        .y1 = y1,
        .wout = f->problem.wout,
        .dst_row = f->problem.wout * lanes,
        .dst_pixel = lanes,
        .channels = vector,
        .stored = vector,
        .lo = -INFINITY,
        .hi = INFINITY,
    };
    for (int64_t e = 0; e < f->steps * LANES; e += vector) {
        args.src = src + vectors[e % LANES / vector];
        args.weights = factors + e * f->taps;
        args.dst = z + e / lanes * z_block + e % lanes;
        f->depthwise->grouped.run(&args);
    }
}

/* Rows of src that outputs [y0, y1) read: [*begin, *end). */
static void rows_read(const doconv_conv_desc *d, int64_t y0, int64_t y1, int64_t *begin,
                      int64_t *end)
{
    *begin = least(d->h, most(0, y0 * d->stride_h - d->pad_top));
    *end = most(*begin,
                least(d->h, (y1 - 1) * d->stride_h - d->pad_top + (d->kh - 1) * d->dilation_h + 1));
}

void dc_feature_make_z_of(const struct dc_feature_job *job, const struct dc_feature_block *b,
                          const float *factors, int64_t image, int64_t y0, int64_t y1, float *strip,
                          int64_t lanes, float *z, ptrdiff_t z_block)
{
    const struct dc_feature *f = job->f;
    const int64_t vector = f->depthwise->vector;
    ptrdiff_t vectors[LANES];
    if (block_in_place(f, b)) {
        for (int64_t v = 0; v * vector < LANES; v++) {
            vectors[v] = channel_at(&f->src_map, b->first + v * vector);
        }
        dc_feature_make_z(f, factors, job->src + image * f->src_map.image, f->src_map.row,
                          f->src_map.pixel, vectors, 0, f->problem.desc.h, y0, y1, lanes, z,
                          z_block);
        return;
    }
    for (int64_t v = 0; v * vector < LANES; v++) {
        vectors[v] = v * vector;
    }
    int64_t row0, row1;
    rows_read(&f->problem.desc, y0, y1, &row0, &row1);
    dc_feature_load_block(job, b, image, row0, row1 - row0, strip);
    dc_feature_make_z(f, factors, strip, f->problem.desc.w * LANES, LANES, vectors, row0, row1, y0,
                      y1, lanes, z, z_block);
}

void dc_feature_pack_panel(const struct dc_feature_job *job, const struct dc_feature_block *b,
                           int64_t o, int64_t count, float *natural, float *panel)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const int64_t tile = f->gemm->tile_channels, inputs = b->count * f->d_mul,
                  row = p->group_cin * f->d_mul;
    const float *w = job->w + (b->group * p->group_cout + o) * row + b->number * LANES * f->d_mul;
    /* The kernel transposes whole squares; what is left over is little. */
    const int64_t channels = inputs / 8 * 8, outputs = count / 8 * 8;
    if (channels != 0 && outputs != 0) {
        dc_transpose(f->gemm, w, row, outputs, channels, natural, tile);
    }
    for (int64_t k = 0; k < inputs; k++) {
        for (int64_t t = k < channels ? outputs : 0; t < tile; t++) {
            natural[k * tile + t] = t < count ? w[t * row + k] : 0.0f;
        }
    }
    for (int64_t q = 0; q < f->steps; q++) {
        for (int64_t lane = 0; lane < LANES; lane++) {
            const int64_t s = s_of(f, b, q, lane);
            float *out = panel + (q * LANES + lane) * tile;
            if (s < f->d_mul) {
                memcpy(out, natural + (lane % b->count * f->d_mul + s) * tile,
                       (size_t)tile * sizeof *out);
            } else {
                memset(out, 0, (size_t)tile * sizeof *out);
            }
        }
    }
}

void dc_feature_map_lanes(const struct dc_feature *f, const struct dc_feature_block *b,
                          int32_t *map)
{
    if (f->natural) {
        return;
    }
    for (int64_t e = 0; e < f->parts * f->wide->tile_channels; e++) {
        const int64_t s = e < f->steps * LANES ? s_of(f, b, e / LANES, e % LANES) : f->d_mul;
        map[e] = s < f->d_mul ? (int32_t)(e % LANES % b->count * f->d_mul + s) : -1;
    }
}

/* Lanes that lie together in every part. */
#define RUN 8

void dc_feature_pack_weights(const struct dc_feature_job *job, const struct dc_feature_block *b,
                             const int32_t *map, float *weights)
{
    const struct dc_feature *f = job->f;
    const int64_t lanes = f->wide->tile_channels, cout = f->problem.group_cout, d_mul = f->d_mul,
                  inputs = b->count * d_mul;
    const ptrdiff_t row = f->problem.group_cin * d_mul;
    const bool whole = b->count == LANES && f->copies == 1;
    for (int64_t o = 0; o < cout; o++) {
        const float *from = job->w + weight_at(f, b, o);
        if (o + ROWS_AHEAD < cout) {
            fetch_row(from + ROWS_AHEAD * row, inputs);
        }
        for (int64_t part = 0; part < f->parts && f->natural; part++) {
            const int64_t valid = most(0, least(lanes, inputs - part * lanes));
            float *out = weights + (part * cout + o) * lanes;
            memcpy(out, from + part * lanes, (size_t)valid * sizeof *out);
            memset(out + valid, 0, (size_t)(lanes - valid) * sizeof *out);
        }
        for (int64_t part = 0; part < f->parts && !f->natural; part++) {
            const int32_t *places = map + part * lanes;
            float *out = weights + (part * cout + o) * lanes;
            for (int64_t j = 0; j < lanes; j += RUN) {
                if (whole && places[j] >= 0) {
                    for (int64_t i = 0; i < RUN; i++) {
                        out[j + i] = from[places[j] + i * d_mul];
                    }
                    continue;
                }
                for (int64_t i = 0; i < RUN; i++) {
                    out[j + i] = places[j + i] >= 0 ? from[places[j + i]] : 0.0f;
                }
            }
        }
    }
}

void dc_feature_store_weights(const struct dc_feature_job *job, const struct dc_feature_block *b,
                              const int32_t *map, const float *sums)
{
    const struct dc_feature *f = job->f;
    const int64_t lanes = f->wide->tile_channels, cout = f->problem.group_cout, d_mul = f->d_mul,
                  inputs = b->count * d_mul;
    const ptrdiff_t row = f->problem.group_cin * d_mul;
    const bool whole = b->count == LANES && f->copies == 1;
    for (int64_t o = 0; o < cout; o++) {
        float *out = job->grad_w + weight_at(f, b, o);
        if (o + ROWS_AHEAD < cout) {
            fetch_row_to_write(out + ROWS_AHEAD * row, inputs);
        }
        for (int64_t part = 0; part < f->parts && f->natural; part++) {
            const int64_t valid = most(0, least(lanes, inputs - part * lanes));
            memcpy(out + part * lanes, sums + (part * cout + o) * lanes,
                   (size_t)valid * sizeof *out);
        }
        for (int64_t part = 0; part < f->parts && !f->natural; part++) {
            const int32_t *places = map + part * lanes;
            const float *from = sums + (part * cout + o) * lanes;
            for (int64_t j = 0; j < lanes; j += RUN) {
                if (whole && places[j] >= 0) {
                    for (int64_t i = 0; i < RUN; i++) {
                        out[places[j] + i * d_mul] = from[j + i];
                    }
                    continue;
                }
                for (int64_t i = 0; i < RUN; i++) {
                    if (places[j + i] >= 0) {
                        out[places[j + i]] = from[j + i];
                    }
                }
            }
        }
    }
}
