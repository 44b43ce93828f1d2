/* SPDX-License-Identifier: MIT */
/*
 * Feature composition with kernels. Ordered by s first, the channels of Z are depthwise convolutions of src like any other, so the depthwise kernel makes them,
 * a block of 16 input channels at a time, into a strip [step][pixel][16] of the task's workspace; the direct kernel contracts that with W.
 *
 * W and D change with each step of training: a unit packs what it needs of them as it goes. The order of an output's additions is that of the blocks, steps
 * and lanes, however pixels and outputs are cut: results don't depend on threads.
 */
#include <math.h>
#include <string.h>

#include "feature.h"

#define LANES DC_CHANNEL_BLOCK
/* Inputs of a pass over the reduction, at least: loading and storing the sums is a per cent of the work then. */
#define PASS_INPUTS 128
/* Backward, pixels of a chunk: tiles of rows stay in L1, and loading and storing the sums is a per cent of the work. */
#define WALK_PIXELS 256
/* Vectors of the gradient of Z that all taps of a piece of a row share, in L1. */
#define PIECE_VECTORS 256
/* Forward, most pixels of a layer whose W is read in place; and floats of Z of a pass then: they stay in L2. */
#define ROWS_PIXELS 128
#define PANELS_FLOATS 65536
/* Rows of W that are fetched before they are needed. */
#define ROWS_AHEAD 6
/* Pixels of a chunk, at most, and floats of its strip: they stay in L2. Packing W costs what a dozen pixels do. */
#define CHUNK_PIXELS 512
#define CHUNK_FLOATS 98304

static int64_t align_floats(int64_t floats)
{
    return divide_up(floats, 16) * 16;
}

/* The best usable direct kernel: the one that leaves the fewest lanes of `channels` empty. */
static const struct dc_kernel *find_direct(const doconv_context *ctx, enum dc_isa isa, int64_t channels)
{
    const struct dc_kernel *best = NULL;
    int64_t best_lanes = 0;
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        const struct dc_kernel *k = *row;
        if (k->op != DC_OP_DIRECT || k->isa != isa) {
            continue;
        }
        /* Lanes that are computed, with what a tile of few FMAs a broadcast loses. */
        const int64_t vectors = divide_up(channels, k->vector), full = k->tile_channels / k->vector;
        const int64_t lanes = vectors * k->vector * 16 + divide_up(vectors, full) * 16 + (k->tile_pixels * full < 12 ? vectors * k->vector * 8 : 0);
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
        if ((*row)->op == DC_OP_DEPTHWISE && dc_isa_usable((*row)->isa, ctx->isa) && LANES % (*row)->vector == 0 &&
            (best == NULL || (*row)->isa > best->isa)) {
            best = *row;
        }
    }
    return best;
}

/* Can the kernel read every full block of input channels where it is? */
static bool reads_in_place(const struct dc_feature *f, int64_t vector)
{
    const int64_t group_cin = f->problem.group_cin, block = f->src_map.block_channels;
    return f->src_map.channel == 1 && (block % vector == 0 || block == PTRDIFF_MAX) && group_cin >= LANES &&
           (block == PTRDIFF_MAX || f->problem.desc.groups == 1 || group_cin % block == 0);
}

static void plan_forward(struct dc_feature *f)
{
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t pixels = p->hout * p->wout, tile = f->direct->tile_channels, inputs = f->steps * LANES;
    f->pass_blocks = least(f->blocks, divide_up(PASS_INPUTS, inputs));
    const int64_t most_pixels = most(1, least(CHUNK_PIXELS, CHUNK_FLOATS / (f->pass_blocks * inputs)));
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
    f->direct_store = f->dst_map.channel == 1 && (d->dst_layout == DOCONV_NHWC ||
                                                  (dst_block % f->direct->vector == 0 && (d->groups == 1 || p->group_cout % f->direct->vector == 0)));
    const int64_t strip_rows = least(d->h, (f->height - 1) * d->stride_h + (d->kh - 1) * d->dilation_h + 1);
    const bool copies = !f->in_place || p->group_cin % LANES != 0;
    f->strip_floats = copies ? strip_rows * d->w * LANES : 0;
    f->z_floats = f->pass_blocks * inputs * f->chunk_pixels;
    f->partial_floats = align_floats((f->out_chunk * f->chunk_pixels + DC_TILE_SLACK) * tile);
    f->panel_floats = align_floats(f->pass_blocks * inputs * tile);
    f->natural_floats = align_floats(LANES * f->d_mul * tile);
    f->segment_floats = align_floats(divide_up(f->pass_blocks * f->steps * (int64_t)sizeof(struct dc_segment), (int64_t)sizeof(float)));
    f->forward_floats =
        f->strip_floats + f->z_floats + f->partial_floats + f->panel_floats + f->natural_floats + f->segment_floats + f->factors_floats;
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
    f->group_segment_floats = align_floats(divide_up((p->group_cout / 8 + 2) * (int64_t)sizeof(struct dc_segment), (int64_t)sizeof(float)));
    const int64_t images_floats = align_floats(divide_up(f->walk_images * (int64_t)sizeof(struct dc_segment), (int64_t)sizeof(float)));
    f->backward_floats = 2 * f->image_floats + 2 * f->walk_floats + (f->natural ? f->steps * f->walk_pixels * LANES : 0) + 2 * f->weight_floats +
                         2 * f->factors_floats + f->map_floats + f->group_segment_floats + images_floats;
    f->backward_tasks = (int)least(f->ctx->threads, d->groups * f->blocks);
}

/* The direct kernel that takes the fewest cycles for `pixels` lanes. */
static const struct dc_kernel *find_rows(const doconv_context *ctx, int64_t pixels)
{
    const struct dc_kernel *best = NULL;
    double best_cost = 0.0;
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        const struct dc_kernel *k = *row;
        if (k->op != DC_OP_DIRECT || !dc_isa_usable(k->isa, ctx->isa)) {
            continue;
        }
        const double rate = k->vector == 16 ? dc_cpu_probe()->fma512_per_cycle : 2.0;
        /* Small tiles wait for their loads; of equals, the one that reads the panel least often. */
        const double tile = (double)(k->tile_pixels * k->tile_channels / k->vector);
        const double cost = (double)divide_up(pixels, k->vector) / rate * (tile < 24.0 ? 1.25 : 1.0) + 0.1 / (double)k->tile_pixels;
        if (best == NULL || cost < best_cost) {
            best = k;
            best_cost = cost;
        }
    }
    return best;
}

/* Packing W takes as long as multiplying it with a dozen pixels: layers of few pixels read it in place, and turn Z round instead. */
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
    f->forward_floats = f->strip_floats + f->z_floats + f->panels_floats + f->sums_floats + f->factors_floats;
    f->forward_tasks = (int)least(f->ctx->threads, d->groups * f->out_chunks);
}

void dc_feature_plan_blocks(struct dc_feature *f)
{
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    /* Few outputs a group fill no tiles; and in double, what would need absurd copies is left to the loops without any. */
    const double strip = (double)d->h * (double)d->w * 64.0, z = (double)p->wout * (double)f->d_mul * 64.0;
    if (p->group_cout < 4 || strip > 1e9 || z > 1e9 || (double)f->d_mul * (double)f->taps * 64.0 > 1e9) {
        return;
    }
    const struct dc_kernel *depthwise = find_depthwise(f->ctx);
    const struct dc_kernel *direct = depthwise != NULL ? find_direct(f->ctx, depthwise->isa, p->group_cout) : NULL;
    if (direct == NULL) {
        return;
    }
    f->depthwise = depthwise;
    f->direct = direct;
    f->copies = most(1, least(f->d_mul, LANES / p->group_cin));
    f->steps = divide_up(f->d_mul, f->copies);
    f->blocks = divide_up(p->group_cin, LANES);
    const int64_t right = (p->wout - 1) * d->stride_w - d->pad_left + (d->kw - 1) * d->dilation_w - (d->w - 1);
    f->edge = most(d->pad_left, right);
    f->chunk = d->dilation_w == 1 && d->stride_w <= 2 && f->edge <= DC_GROUPED_EDGE ? 3 : 1;
    f->factors_floats = align_floats(f->steps * f->taps * LANES);
    f->in_place = reads_in_place(f, depthwise->vector);
    plan_forward(f);
    plan_rows(f);
    if (depthwise->taps_correlate != NULL && depthwise->taps_scatter != NULL) {
        f->wide = find_direct(f->ctx, depthwise->isa, f->steps * LANES);
        plan_backward(f);
    }
}

struct job {
    const struct dc_feature *f;
    const float *w, *d, *bias, *src, *grad_dst;
    float *dst, *grad_src, *grad_w, *grad_d;
    float *workspace;
    /* Backward: dst's gradient as planes, and as pixels. */
    float *planes_copy, *pixels_copy;
    const float *planes, *pixels;
    struct dc_tensor_map pixels_map;
    int copy_tasks;
};

/* A block of input channels. */
struct block {
    int64_t group, number; /* in the group */
    int64_t first, count;  /* channels */
};

static struct block block_of(const struct dc_feature *f, int64_t group, int64_t number)
{
    const int64_t cin = f->problem.group_cin;
    return (struct block){group, number, group * cin + number * LANES, least(LANES, cin - number * LANES)};
}

/* s of a lane of a step: d_mul or more if the lane is empty. */
static int64_t s_of(const struct dc_feature *f, const struct block *b, int64_t q, int64_t lane)
{
    return lane < b->count * f->copies ? q * f->copies + lane / b->count : f->d_mul;
}

/* D of a block: [step][vector of lanes][kx / chunk][ky][kx % chunk][lane of the vector], with the identity. */
static void pack_factors(const struct job *job, const struct block *b, float *factors)
{
    const struct dc_feature *f = job->f;
    const doconv_conv_desc *d = &f->problem.desc;
    const int64_t vector = f->depthwise->vector;
    for (int64_t q = 0; q < f->steps; q++) {
        for (int64_t lane = 0; lane < LANES; lane++) {
            const int64_t s = s_of(f, b, q, lane);
            float *out = factors + (q * LANES + lane / vector * vector) * f->taps + lane % vector;
            if (s >= f->d_mul) {
                for (int64_t m = 0; m < f->taps; m++) {
                    out[m * vector] = 0.0f;
                }
                continue;
            }
            const float *from = job->d + (b->first + lane % b->count) * f->taps * f->d_mul + s;
            const int64_t ones = s < f->repeated ? s % f->taps : -1;
            for (int64_t x0 = 0; x0 < d->kw; x0 += f->chunk) {
                const int64_t x1 = least(d->kw, x0 + f->chunk);
                for (int64_t y = 0; y < d->kh; y++) {
                    for (int64_t x = x0; x < x1; x++) {
                        const int64_t m = y * d->kw + x;
                        *out = from[m * f->d_mul] + (m == ones ? 1.0f : 0.0f);
                        out += vector;
                    }
                }
            }
        }
    }
}

/* Rows [y0, y0 + rows) of an image of src, a block's channels and their copies: [row][column][16]. */
static void load_block(const struct job *job, const struct block *b, int64_t image, int64_t y0, int64_t rows, float *strip)
{
    const struct dc_feature *f = job->f;
    const doconv_conv_desc *d = &f->problem.desc;
    const struct dc_load_args load = {
        .strip = strip,
        .strip_row = d->w * LANES,
        .strip_pixel = LANES,
        .channels = b->count,
        .rows = rows,
        .columns = d->w,
        .src = job->src + image * f->src_map.image,
        .src_block_channels = f->src_map.block_channels,
        .src_block = f->src_map.block,
        .src_channel = f->src_map.channel,
        .src_row = f->src_map.row,
        .src_pixel = f->src_map.pixel,
        .src_first_channel = b->first,
        .h = d->h,
        .w = d->w,
        .y0 = y0,
        .step_x = 1,
        .step_y = 1,
    };
    if (rows > 0) {
        f->direct->load(&load);
    }
    for (int64_t x = 0; x < rows * d->w && f->copies > 1; x++) {
        float *at = strip + x * LANES;
        for (int64_t lane = b->count; lane < b->count * f->copies; lane++) {
            at[lane] = at[lane - b->count];
        }
    }
}

static bool block_in_place(const struct dc_feature *f, const struct block *b)
{
    return f->in_place && b->count == LANES;
}

static ptrdiff_t channel_at(const struct dc_tensor_map *map, int64_t channel)
{
    return channel / map->block_channels * map->block + channel % map->block_channels * map->channel;
}

/* Rows of src that outputs [y0, y1) read: [*begin, *end). */
static void rows_read(const doconv_conv_desc *d, int64_t y0, int64_t y1, int64_t *begin, int64_t *end)
{
    *begin = least(d->h, most(0, y0 * d->stride_h - d->pad_top));
    *end = most(*begin, least(d->h, (y1 - 1) * d->stride_h - d->pad_top + (d->kh - 1) * d->dilation_h + 1));
}

/*
 * Z of a block for output rows [y0, y1) of an image: lane e of all steps together lies at z + e / lanes * z_block + e % lanes, pixels `lanes` apart. src: the
 * block's first channel in row `row0`.
 */
static void make_z(const struct dc_feature *f, const float *factors, const float *src, ptrdiff_t src_row, ptrdiff_t src_pixel,
                   const ptrdiff_t *vectors, int64_t row0, int64_t row1, int64_t y0, int64_t y1, int64_t lanes, float *z, ptrdiff_t z_block)
{
    static const float zeros[LANES] __attribute__((aligned(64)));
    const doconv_conv_desc *d = &f->problem.desc;
    const int64_t vector = f->depthwise->vector;
    struct dc_grouped_args args = {
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
        f->depthwise->grouped(&args);
    }
}

/* make_z() from src itself, or from a copy of the rows in `strip`. */
static void make_z_of(const struct job *job, const struct block *b, const float *factors, int64_t image, int64_t y0, int64_t y1, float *strip,
                      int64_t lanes, float *z, ptrdiff_t z_block)
{
    const struct dc_feature *f = job->f;
    const int64_t vector = f->depthwise->vector;
    ptrdiff_t vectors[LANES];
    if (block_in_place(f, b)) {
        for (int64_t v = 0; v * vector < LANES; v++) {
            vectors[v] = channel_at(&f->src_map, b->first + v * vector);
        }
        make_z(f, factors, job->src + image * f->src_map.image, f->src_map.row, f->src_map.pixel, vectors, 0, f->problem.desc.h, y0, y1, lanes, z,
               z_block);
        return;
    }
    for (int64_t v = 0; v * vector < LANES; v++) {
        vectors[v] = v * vector;
    }
    int64_t row0, row1;
    rows_read(&f->problem.desc, y0, y1, &row0, &row1);
    load_block(job, b, image, row0, row1 - row0, strip);
    make_z(f, factors, strip, f->problem.desc.w * LANES, LANES, vectors, row0, row1, y0, y1, lanes, z, z_block);
}

/* W of a block for the outputs [o, o + count) of its group: panel[step][lane][output], zeros past the last. natural: room for it in the order of memory. */
static void pack_panel(const struct job *job, const struct block *b, int64_t o, int64_t count, float *natural, float *panel)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const int64_t tile = f->direct->tile_channels, inputs = b->count * f->d_mul, row = p->group_cin * f->d_mul;
    const float *w = job->w + (b->group * p->group_cout + o) * row + b->number * LANES * f->d_mul;
    /* The kernel transposes whole squares; what is left over is little. */
    const int64_t channels = inputs / 8 * 8, outputs = count / 8 * 8;
    if (channels != 0 && outputs != 0) {
        const struct dc_store_args args = {
            .tile = w,
            .tile_channels = row,
            .pixels = outputs,
            .channels = channels,
            .stored = channels,
            .dst = natural,
            .dst_block_channels = PTRDIFF_MAX,
            .dst_channel = tile,
            .dst_pixel = 1,
            .lo = -INFINITY,
            .hi = INFINITY,
        };
        f->direct->store(&args);
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
                memcpy(out, natural + (lane % b->count * f->d_mul + s) * tile, (size_t)tile * sizeof *out);
            } else {
                memset(out, 0, (size_t)tile * sizeof *out);
            }
        }
    }
}

/* ---- forward ---- */

struct unit {
    int64_t group, image, images, y0, y1, pixels; /* pixels: of an image */
    int64_t block0, block1;                       /* of the pass */
    int64_t out0, out1;
    float *strip, *z, *partial, *panel, *natural, *factors;
    struct dc_segment *segments;
    ptrdiff_t segment_count;
};

static void contract(const struct job *job, const struct unit *u, int64_t ob)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const int64_t tile = f->direct->tile_channels, in_group = ob * tile, channel = u->group * p->group_cout + in_group;
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
    args.stored = ends ? divide_up(p->desc.cout, layout_block) * layout_block - channel : args.channels;
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
        for (int64_t v = 0; v * f->direct->vector < tile; v++) {
            args.dst_vector[v] = channel_at(&f->dst_map, channel + v * f->direct->vector);
        }
    }
    f->direct->run(&args);
    for (int64_t image = 0; image < u->images && last && through_buffer; image++) {
        const struct dc_store_args store = {
            .tile = partial + image * u->pixels * tile,
            .tile_channels = tile,
            .pixels = u->pixels,
            .channels = args.channels,
            .stored = args.stored,
            .dst = dst + image * f->dst_map.image,
            .dst_block_channels = f->dst_map.block_channels,
            .dst_block = f->dst_map.block,
            .dst_channel = f->dst_map.channel,
            .dst_pixel = f->dst_map.pixel,
            .dst_first_channel = channel,
            .lo = -INFINITY,
            .hi = INFINITY,
        };
        f->direct->store(&store);
    }
}

static void run_pass(const struct job *job, struct unit *u)
{
    const struct dc_feature *f = job->f;
    const int64_t tile = f->direct->tile_channels, inputs = f->steps * LANES, z_block = f->chunk_pixels * LANES;
    u->segment_count = 0;
    for (int64_t number = u->block0; number < u->block1; number++) {
        const struct block b = block_of(f, u->group, number);
        const int64_t first = (number - u->block0) * f->steps;
        pack_factors(job, &b, u->factors);
        for (int64_t image = 0; image < u->images; image++) {
            make_z_of(job, &b, u->factors, u->image + image, u->y0, u->y1, u->strip, LANES, u->z + first * z_block + image * u->pixels * LANES,
                      z_block);
        }
        for (int64_t q = first; q < first + f->steps; q++) {
            u->segments[u->segment_count++] = (struct dc_segment){
                .src_offset = q * z_block, .weight_offset = q * LANES * tile, .length = least(LANES, b.count * f->copies), .fetch = 1};
        }
    }
    for (int64_t ob = u->out0; ob < u->out1; ob++) {
        for (int64_t number = u->block0; number < u->block1; number++) {
            const struct block b = block_of(f, u->group, number);
            pack_panel(job, &b, ob * tile, least(tile, f->problem.group_cout - ob * tile), u->natural,
                       u->panel + (number - u->block0) * inputs * tile);
        }
        contract(job, u, ob);
    }
}

static void forward_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    float *const space = job->workspace + index * f->forward_floats;
    struct unit u = {.strip = space};
    u.z = u.strip + f->strip_floats;
    u.partial = u.z + f->z_floats;
    u.panel = u.partial + f->partial_floats;
    u.natural = u.panel + f->panel_floats;
    u.factors = u.natural + f->natural_floats;
    u.segments = (struct dc_segment *)(void *)(u.factors + f->factors_floats);
    const int64_t units = divide_up(p->desc.n, f->images) * f->chunks_image * p->desc.groups * f->out_chunks;
    for (int64_t i = units * index / f->forward_tasks; i < units * (index + 1) / f->forward_tasks; i++) {
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

/* ---- forward, few pixels ---- */

/* Z of a pass's block, its number `number` in it, as panels: [panel][channel, s][pixel]. */
static void fill_panels(const struct job *job, const struct block *b, int64_t number, float *strip, float *z, float *factors, float *panels)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const int64_t tile = f->rows->tile_channels, pixels = f->chunk_pixels, image_pixels = p->hout * p->wout;
    pack_factors(job, b, factors);
    for (int64_t image = 0; image < p->desc.n; image++) {
        make_z_of(job, b, factors, image, 0, p->hout, strip, LANES, z + image * image_pixels * LANES, pixels * LANES);
    }
    for (int64_t panel = 0; panel < f->panels; panel++) {
        for (int64_t q = 0; q < f->steps; q++) {
            const struct dc_store_args args = {
                .tile = z + (q * pixels + panel * tile) * LANES,
                .tile_channels = LANES,
                .pixels = least(tile, pixels - panel * tile),
                .channels = b->count,
                .stored = b->count,
                .dst = panels + (panel * f->panel_inputs + number * LANES * f->d_mul + q) * tile,
                .dst_block_channels = PTRDIFF_MAX,
                .dst_channel = f->d_mul * tile,
                .dst_pixel = 1,
                .lo = -INFINITY,
                .hi = INFINITY,
            };
            f->direct->store(&args);
        }
    }
}

/* Outputs [o0, o1) of a group, whose sums are [panel][output][pixel], and the zeros past the last of a blocked layout. */
static void store_panels(const struct job *job, int64_t group, int64_t o0, int64_t o1, ptrdiff_t pitch, const float *sums)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const int64_t tile = f->rows->tile_channels, image_pixels = p->hout * p->wout;
    const int64_t channel0 = group * p->group_cout + o0, channel1 = group * p->group_cout + o1;
    for (int64_t pixel = 0, count; pixel < f->chunk_pixels; pixel += count) {
        const int64_t panel = pixel / tile, image = pixel / image_pixels;
        count = least(least(f->chunk_pixels, (panel + 1) * tile), (image + 1) * image_pixels) - pixel;
        const float *from = sums + panel * pitch + pixel % tile;
        float *const dst = job->dst + image * f->dst_map.image + pixel % image_pixels * f->dst_map.pixel;
        if (f->dst_map.channel != 1) {
            for (int64_t c = channel0; c < channel1; c++) {
                memcpy(dst + channel_at(&f->dst_map, c), from + (c - channel0) * tile, (size_t)count * sizeof *dst);
            }
            continue;
        }
        for (int64_t c = channel0, channels; c < channel1; c += channels) {
            channels = least(channel1 - c, f->dst_map.block_channels - c % f->dst_map.block_channels);
            const struct dc_store_args args = {
                .tile = from + (c - channel0) * tile,
                .tile_channels = tile,
                .pixels = channels,
                .channels = count,
                .stored = count,
                .dst = dst + channel_at(&f->dst_map, c),
                .dst_block_channels = PTRDIFF_MAX,
                .dst_channel = f->dst_map.pixel,
                .dst_pixel = 1,
                .lo = -INFINITY,
                .hi = INFINITY,
            };
            f->direct->store(&args);
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
    const struct job *job = arg;
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    float *const strip = job->workspace + index * f->forward_floats, *const z = strip + f->strip_floats;
    float *const panels = z + f->z_floats, *const sums = panels + f->panels_floats, *const factors = sums + f->sums_floats;
    const int64_t tile = f->rows->tile_channels, step = f->rows->tile_pixels, units = p->desc.groups * f->out_chunks;
    const ptrdiff_t pitch = f->out_chunk * LANES * tile, row = p->group_cin * f->d_mul;
    memset(panels, 0, (size_t)f->panels_floats * sizeof(float)); /* lanes past the last pixel are multiplied too */
    for (int64_t unit = units * index / f->forward_tasks; unit < units * (index + 1) / f->forward_tasks; unit++) {
        const int64_t group = unit / f->out_chunks, o0 = unit % f->out_chunks * f->out_chunk * LANES;
        const int64_t o1 = least(p->group_cout, o0 + f->out_chunk * LANES);
        for (int64_t i = 0; i < f->panels * (o1 - o0); i++) {
            const int64_t o = o0 + i % (o1 - o0);
            for (int64_t t = 0; t < tile; t++) {
                sums[i / (o1 - o0) * pitch + (o - o0) * tile + t] = job->bias != NULL ? job->bias[group * p->group_cout + o] : 0.0f;
            }
        }
        for (int64_t block0 = 0; block0 < f->blocks; block0 += f->pass_blocks) {
            const int64_t block1 = least(f->blocks, block0 + f->pass_blocks), k0 = block0 * LANES * f->d_mul;
            for (int64_t number = block0; number < block1; number++) {
                const struct block b = block_of(f, group, number);
                fill_panels(job, &b, number - block0, strip, z, factors, panels);
            }
            const struct dc_segment segment = {.length = least(row, block1 * LANES * f->d_mul) - k0, .fetch = 1};
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
                    f->rows->run(&args);
                }
            }
        }
        store_panels(job, group, o0, o1, pitch, sums);
    }
}

void dc_feature_forward_blocks(const struct dc_feature *f, const float *w, const float *d, const float *bias, const float *src, float *dst,
                               char *workspace)
{
    struct job job = {.f = f, .w = w, .d = d, .bias = bias, .src = src, .dst = dst, .workspace = (float *)workspace};
    dc_parallel(f->ctx, f->forward_tasks, f->rows != NULL ? rows_task : forward_task, &job);
}

/* ---- backward ---- */

/* `count` channels of an image of dst's gradient from `from` on become planes. */
static void copy_planes(const struct dc_feature *f, const float *from, int64_t count, float *to)
{
    /* The kernel transposes whole squares of 8; what is left over is little. */
    const int64_t all = f->problem.hout * f->problem.wout, step = f->dst_map.pixel;
    const int64_t channels = f->dst_map.channel == 1 ? count / 8 * 8 : 0, pixels = all / 8 * 8;
    if (channels != 0 && pixels != 0) {
        const struct dc_store_args args = {
            .tile = from,
            .tile_channels = step,
            .pixels = pixels,
            .channels = channels,
            .stored = channels,
            .dst = to,
            .dst_block_channels = PTRDIFF_MAX,
            .dst_channel = f->plane,
            .dst_pixel = 1,
            .lo = -INFINITY,
            .hi = INFINITY,
        };
        f->wide->store(&args);
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
    const struct job *job = arg;
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const int64_t block = least(f->dst_map.block_channels, LANES), blocks = divide_up(p->desc.cout, block);
    for (int64_t i = p->desc.n * blocks * index / job->copy_tasks; i < p->desc.n * blocks * (index + 1) / job->copy_tasks; i++) {
        const int64_t image = i / blocks, c = i % blocks * block, count = least(block, p->desc.cout - c);
        const float *from = job->grad_dst + image * f->dst_map.image;
        if (!f->planes_in_place) {
            copy_planes(f, from + channel_at(&f->dst_map, c), count, job->planes_copy + (image * p->desc.cout + c) * f->plane);
        }
        if (!f->pixels_in_place) {
            const struct dc_load_args load = {
                .strip = job->pixels_copy + image * job->pixels_map.image + c / LANES * job->pixels_map.block,
                .strip_row = job->pixels_map.row,
                .strip_pixel = LANES,
                .channels = count,
                .rows = p->hout,
                .columns = p->wout,
                .src = from,
                .src_block_channels = f->dst_map.block_channels,
                .src_block = f->dst_map.block,
                .src_channel = f->dst_map.channel,
                .src_row = f->dst_map.row,
                .src_pixel = f->dst_map.pixel,
                .src_first_channel = c,
                .h = p->hout,
                .w = p->wout,
                .step_x = 1,
                .step_y = 1,
            };
            f->wide->load(&load);
        }
    }
}

/* A task's block and where it stands in its walk over the pixels. */
struct walk {
    struct block b;
    bool in_place;
    int64_t image, images, y0, y1, pixels; /* pixels: of an image */
    bool first;                            /* chunk of all */
    float *strip, *grad_strip;             /* src's channels and their gradient in whole images, if not in place */
    float *z, *grad_z;                     /* [part][pixel][lanes] */
    float *steps;                          /* natural: one of these by steps, [step][pixel][16] */
    float *weights, *sums;                 /* [part][output][lanes]: W and its gradient */
    float *factors, *factor_sums;          /* D and its gradient, packed */
    int32_t *map;                          /* where lane e of all steps is in W's row of the block; -1: nowhere */
    struct dc_segment *group_segments, *image_segments;
    ptrdiff_t group_segment_count;
};

static void map_lanes(const struct dc_feature *f, struct walk *w)
{
    if (f->natural) {
        return;
    }
    for (int64_t e = 0; e < f->parts * f->wide->tile_channels; e++) {
        const int64_t s = e < f->steps * LANES ? s_of(f, &w->b, e / LANES, e % LANES) : f->d_mul;
        w->map[e] = s < f->d_mul ? (int32_t)(e % LANES % w->b.count * f->d_mul + s) : -1;
    }
}

/* Floats of W from the start to the block's inputs of an output of its group. */
static ptrdiff_t weight_at(const struct dc_feature *f, const struct block *b, int64_t o)
{
    const struct dc_problem *p = &f->problem;
    return ((b->group * p->group_cout + o) * p->group_cin + b->number * LANES) * f->d_mul;
}

/* Fetches what is `ahead` rows on: rows are pages apart, and a block's part of one is too short for the hardware to see. */
static void fetch_row(const float *row, int64_t floats)
{
    for (int64_t at = 0; at < floats; at += 16) {
        __builtin_prefetch(row + at);
    }
}

static void fetch_row_to_write(const float *row, int64_t floats)
{
    for (int64_t at = 0; at < floats; at += 16) {
        __builtin_prefetch(row + at, 1);
    }
}

/* Lanes that lie together in every part. */
#define RUN 8

static void pack_weights(const struct job *job, const struct walk *w)
{
    const struct dc_feature *f = job->f;
    const int64_t lanes = f->wide->tile_channels, cout = f->problem.group_cout, d_mul = f->d_mul, inputs = w->b.count * d_mul;
    const ptrdiff_t row = f->problem.group_cin * d_mul;
    const bool whole = w->b.count == LANES && f->copies == 1;
    for (int64_t o = 0; o < cout; o++) {
        const float *from = job->w + weight_at(f, &w->b, o);
        if (o + ROWS_AHEAD < cout) {
            fetch_row(from + ROWS_AHEAD * row, inputs);
        }
        for (int64_t part = 0; part < f->parts && f->natural; part++) {
            const int64_t valid = most(0, least(lanes, inputs - part * lanes));
            float *out = w->weights + (part * cout + o) * lanes;
            memcpy(out, from + part * lanes, (size_t)valid * sizeof *out);
            memset(out + valid, 0, (size_t)(lanes - valid) * sizeof *out);
        }
        for (int64_t part = 0; part < f->parts && !f->natural; part++) {
            const int32_t *map = w->map + part * lanes;
            float *out = w->weights + (part * cout + o) * lanes;
            for (int64_t j = 0; j < lanes; j += RUN) {
                if (whole && map[j] >= 0) {
                    for (int64_t i = 0; i < RUN; i++) {
                        out[j + i] = from[map[j] + i * d_mul];
                    }
                    continue;
                }
                for (int64_t i = 0; i < RUN; i++) {
                    out[j + i] = map[j + i] >= 0 ? from[map[j + i]] : 0.0f;
                }
            }
        }
    }
}

static void store_weights(const struct job *job, const struct walk *w)
{
    const struct dc_feature *f = job->f;
    const int64_t lanes = f->wide->tile_channels, cout = f->problem.group_cout, d_mul = f->d_mul, inputs = w->b.count * d_mul;
    const ptrdiff_t row = f->problem.group_cin * d_mul;
    const bool whole = w->b.count == LANES && f->copies == 1;
    for (int64_t o = 0; o < cout; o++) {
        float *out = job->grad_w + weight_at(f, &w->b, o);
        if (o + ROWS_AHEAD < cout) {
            fetch_row_to_write(out + ROWS_AHEAD * row, inputs);
        }
        for (int64_t part = 0; part < f->parts && f->natural; part++) {
            const int64_t valid = most(0, least(lanes, inputs - part * lanes));
            memcpy(out + part * lanes, w->sums + (part * cout + o) * lanes, (size_t)valid * sizeof *out);
        }
        for (int64_t part = 0; part < f->parts && !f->natural; part++) {
            const int32_t *map = w->map + part * lanes;
            const float *from = w->sums + (part * cout + o) * lanes;
            for (int64_t j = 0; j < lanes; j += RUN) {
                if (whole && map[j] >= 0) {
                    for (int64_t i = 0; i < RUN; i++) {
                        out[map[j] + i * d_mul] = from[j + i];
                    }
                    continue;
                }
                for (int64_t i = 0; i < RUN; i++) {
                    if (map[j + i] >= 0) {
                        out[map[j + i]] = from[j + i];
                    }
                }
            }
        }
    }
}

/* Where pack_factors() puts tap m. */
static int64_t tap_place(const struct dc_feature *f, int64_t m)
{
    const doconv_conv_desc *d = &f->problem.desc;
    const int64_t x = m % d->kw, x0 = x / f->chunk * f->chunk;
    return x0 * d->kh + m / d->kw * (least(d->kw, x0 + f->chunk) - x0) + x - x0;
}

static void store_factors(const struct job *job, const struct walk *w)
{
    const struct dc_feature *f = job->f;
    const int64_t vector = f->depthwise->vector;
    for (int64_t q = 0; q < f->steps; q++) {
        for (int64_t lane = 0; lane < LANES; lane++) {
            const int64_t s = s_of(f, &w->b, q, lane);
            const float *from = w->factor_sums + (q * LANES + lane / vector * vector) * f->taps + lane % vector;
            float *out = job->grad_d + (w->b.first + lane % w->b.count) * f->taps * f->d_mul + s;
            for (int64_t m = 0; m < f->taps && s < f->d_mul; m++) {
                out[m * f->d_mul] = from[tap_place(f, m) * vector];
            }
        }
    }
}

/* The gradient of src that has been summed in the strip. */
static void store_strip(const struct job *job, const struct walk *w)
{
    const struct dc_feature *f = job->f;
    const doconv_conv_desc *d = &f->problem.desc;
    const int64_t pixels = d->h * d->w, count = w->b.count;
    for (int64_t x = 0; x < w->images * pixels && f->copies > 1; x++) {
        float *at = w->grad_strip + x * LANES;
        for (int64_t lane = count; lane < count * f->copies; lane++) {
            at[lane % count] += at[lane];
        }
    }
    for (int64_t image = 0; image < w->images; image++) {
        const struct dc_store_args store = {
            .tile = w->grad_strip + image * pixels * LANES,
            .tile_channels = LANES,
            .pixels = pixels,
            .channels = count,
            .stored = count,
            .dst = job->grad_src + (w->image + image) * f->src_map.image,
            .dst_block_channels = f->src_map.block_channels,
            .dst_block = f->src_map.block,
            .dst_channel = f->src_map.channel,
            .dst_pixel = f->src_map.pixel,
            .dst_first_channel = w->b.first,
            .lo = -INFINITY,
            .hi = INFINITY,
        };
        f->wide->store(&store);
    }
}

/* Zeros the block's channels of src's gradient in the walk's images. */
static void zero_gradient(const struct job *job, const struct walk *w)
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
            float *at = job->grad_src + image * f->src_map.image + channel_at(&f->src_map, w->b.first + c);
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

static void make_walk_z(const struct job *job, const struct walk *w)
{
    const struct dc_feature *f = job->f;
    const doconv_conv_desc *d = &f->problem.desc;
    const int64_t lanes = f->natural ? LANES : f->wide->tile_channels, vector = f->depthwise->vector, z_block = f->walk_pixels * lanes;
    ptrdiff_t vectors[LANES];
    for (int64_t v = 0; v * vector < LANES; v++) {
        vectors[v] = w->in_place ? channel_at(&f->src_map, w->b.first + v * vector) : v * vector;
    }
    for (int64_t image = 0; image < w->images; image++) {
        float *const z = (f->natural ? w->steps : w->z) + image * w->pixels * lanes;
        if (w->in_place) {
            make_z(f, w->factors, job->src + (w->image + image) * f->src_map.image, f->src_map.row, f->src_map.pixel, vectors, 0, d->h, w->y0, w->y1,
                   lanes, z, z_block);
        } else {
            make_z(f, w->factors, w->strip + image * d->h * d->w * LANES, d->w * LANES, LANES, vectors, 0, d->h, w->y0, w->y1, lanes, z, z_block);
        }
    }
    if (f->natural) {
        order_naturally(f, w);
    }
}

static const float zeros[DC_MAX_TILE_VECTORS * 16] __attribute__((aligned(64)));

/* The gradient of W if there is one chunk, in W's order: rows at a time, which are fetched for all parts together. */
static void store_products(const struct job *job, const struct walk *w)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const int64_t lanes = f->wide->tile_channels, inputs = w->b.count * f->d_mul, rows = 4 * f->wide->tile_pixels;
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
                .src = job->planes + (w->image * p->desc.cout + w->b.group * p->group_cout + first) * f->plane,
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
            f->wide->run(&args);
        }
    }
}

/* Adds the chunk's products of dst's gradient and Z to the gradient of W. */
static void add_weights(const struct job *job, const struct walk *w)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const int64_t lanes = f->wide->tile_channels;
    for (int64_t image = 0; image < w->images; image++) {
        w->image_segments[image] = (struct dc_segment){
            .src_offset = image * p->desc.cout * f->plane, .weight_offset = image * w->pixels * lanes, .length = w->pixels, .fetch = 1};
    }
    if (f->natural && f->walk_pixels == p->desc.n * p->hout * p->wout) {
        store_products(job, w);
        return;
    }
    for (int64_t part = 0; part < f->parts; part++) {
        float *const sums = w->sums + part * p->group_cout * lanes;
        const struct dc_run_args args = {
            .src = job->planes + (w->image * p->desc.cout + w->b.group * p->group_cout) * f->plane + w->y0 * p->wout,
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
        f->wide->run(&args);
    }
}

/* The gradient of Z: W, transposed, times that of dst. */
static void make_grad_z(const struct job *job, const struct walk *w)
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
        f->wide->run(&args);
    }
}

/* Where x * stride + offset lies in [0, size), x in [*begin, *end): cuts the range. False if none is left. */
static bool cut_range(int64_t size, int64_t stride, int64_t offset, int64_t *begin, int64_t *end)
{
    *begin = most(*begin, offset >= 0 ? 0 : divide_up(-offset, stride));
    *end = least(*end, offset > size - 1 ? 0 : (size - 1 - offset) / stride + 1);
    return *begin < *end;
}

/* The rectangle of output pixels [y0, y1) x [x0, x1) of the walk's image number `image`: what its gradient of Z adds to those of D and of src. */
static void hand_back(const struct job *job, const struct walk *w, int64_t image, int64_t y0, int64_t y1, int64_t x0, int64_t x1)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t lanes = f->natural ? LANES : f->wide->tile_channels, vector = f->depthwise->vector;
    const float *const grad_z = f->natural ? w->steps : w->grad_z;
    const ptrdiff_t row = w->in_place ? f->src_map.row : d->w * LANES, pixel = w->in_place ? f->src_map.pixel : LANES;
    const ptrdiff_t at_image = w->in_place ? (w->image + image) * f->src_map.image : image * d->h * d->w * LANES;
    const float *const src = (w->in_place ? job->src : w->strip) + at_image;
    float *const grad_src = job->grad_src != NULL ? (w->in_place ? job->grad_src : w->grad_strip) + at_image : NULL;
    for (int64_t v = 0; v * vector < LANES; v++) {
        const ptrdiff_t lane = w->in_place ? channel_at(&f->src_map, w->b.first + v * vector) : v * vector;
        for (int64_t m = 0; m < f->taps; m++) {
            const int64_t dy = m / d->kw * d->dilation_h - d->pad_top, dx = m % d->kw * d->dilation_w - d->pad_left;
            int64_t ya = y0, yb = y1, xa = x0, xb = x1;
            if (!cut_range(d->h, d->stride_h, dy, &ya, &yb) || !cut_range(d->w, d->stride_w, dx, &xa, &xb)) {
                continue;
            }
            const ptrdiff_t at = lane + (ya * d->stride_h + dy) * row + (xa * d->stride_w + dx) * pixel;
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
                    f->depthwise->taps_correlate(&args);
                }
                if (grad_src != NULL) {
                    args.x = grad_src + at;
                    args.factors = w->factors + q * args.factors_step + factor;
                    f->depthwise->taps_scatter(&args);
                }
            }
        }
    }
}

/* Small pieces, whose gradient of Z stays in L1 over all taps. */
static void hand_back_chunk(const struct job *job, const struct walk *w)
{
    const struct dc_feature *f = job->f;
    const int64_t width = f->problem.wout, piece = most(8, PIECE_VECTORS / f->steps);
    const int64_t columns = divide_up(width, divide_up(width, piece)), rows = most(1, piece / width);
    for (int64_t image = 0; image < w->images; image++) {
        for (int64_t y = w->y0; y < w->y1; y += rows) {
            for (int64_t x = 0; x < width; x += columns) {
                hand_back(job, w, image, y, least(w->y1, y + rows), x, least(width, x + columns));
            }
        }
    }
}

static void walk_block(const struct job *job, struct walk *w)
{
    const struct dc_feature *f = job->f;
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    const bool wants_grad_z = job->grad_d != NULL || job->grad_src != NULL;
    const bool one_chunk = f->natural && f->walk_pixels == d->n * p->hout * p->wout;
    map_lanes(f, w);
    pack_factors(job, &w->b, w->factors);
    memset(w->factor_sums, 0, (size_t)f->factors_floats * sizeof(float));
    if (wants_grad_z) {
        pack_weights(job, w);
    }
    const int64_t block_channels = job->pixels_map.block_channels, lanes = f->wide->tile_channels;
    w->group_segment_count = 0;
    for (int64_t o = 0; o < p->group_cout;) {
        const int64_t channel = w->b.group * p->group_cout + o, length = least(p->group_cout - o, block_channels - channel % block_channels);
        w->group_segments[w->group_segment_count++] =
            (struct dc_segment){.src_offset = channel_at(&job->pixels_map, channel), .weight_offset = o * lanes, .length = length, .fetch = 1};
        o += length;
    }
    w->first = true;
    for (w->image = 0; w->image < d->n; w->image += w->images) {
        w->images = least(f->walk_images, d->n - w->image);
        for (int64_t image = 0; image < w->images && !w->in_place; image++) {
            load_block(job, &w->b, w->image + image, 0, d->h, w->strip + image * d->h * d->w * LANES);
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
        store_weights(job, w);
    }
    if (job->grad_d != NULL) {
        store_factors(job, w);
    }
}

static void backward_task(void *arg, int index)
{
    const struct job *job = arg;
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
    w.image_segments = (struct dc_segment *)(void *)((float *)(void *)w.group_segments + f->group_segment_floats);
    const int64_t units = f->problem.desc.groups * f->blocks;
    for (int64_t i = units * index / f->backward_tasks; i < units * (index + 1) / f->backward_tasks; i++) {
        w.b = block_of(f, i / f->blocks, i % f->blocks);
        w.in_place = block_in_place(f, &w.b);
        walk_block(job, &w);
    }
}

void dc_feature_backward_blocks(const struct dc_feature *f, const float *w, const float *d, const float *src, const float *grad_dst, float *grad_src,
                                float *grad_w, float *grad_d, char *workspace)
{
    const doconv_conv_desc *desc = &f->problem.desc;
    const int64_t pixels = f->problem.hout * f->problem.wout;
    struct job job = {.f = f, .w = w, .d = d, .src = src, .grad_dst = grad_dst, .grad_src = grad_src, .grad_w = grad_w, .grad_d = grad_d};
    job.planes_copy = (float *)workspace;
    job.pixels_copy = job.planes_copy + f->planes_floats;
    job.workspace = job.pixels_copy + f->pixels_floats;
    job.planes = f->planes_in_place ? grad_dst : job.planes_copy;
    job.pixels = f->pixels_in_place ? grad_dst : job.pixels_copy;
    job.pixels_map = f->pixels_in_place ? f->dst_map
                                        : (struct dc_tensor_map){.image = divide_up(desc->cout, LANES) * LANES * pixels,
                                                                 .block_channels = LANES,
                                                                 .block = LANES * pixels,
                                                                 .channel = 1,
                                                                 .row = LANES * f->problem.wout,
                                                                 .pixel = LANES};
    if (!f->planes_in_place || !f->pixels_in_place) {
        job.copy_tasks = (int)least(f->ctx->threads, desc->n * divide_up(desc->cout, least(f->dst_map.block_channels, LANES)));
        dc_parallel(f->ctx, job.copy_tasks, copy_task, &job);
    }
    dc_parallel(f->ctx, f->backward_tasks, backward_task, &job);
}
