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
    f->rows = most(1, least(p->hout, most_pixels / p->wout));
    f->chunks_image = divide_up(p->hout, f->rows);
    f->rows = divide_up(p->hout, f->chunks_image);
    f->images = f->chunks_image > 1 ? 1 : most(1, least(d->n, most_pixels / pixels));
    f->chunk_pixels = f->images * f->rows * p->wout;
    f->out_blocks = divide_up(p->group_cout, tile);
    const int64_t units = divide_up(d->n, f->images) * f->chunks_image * d->groups;
    f->out_chunk = dc_cut_outputs(f->ctx, units, f->out_blocks);
    f->out_chunks = divide_up(f->out_blocks, f->out_chunk);
    const int64_t dst_block = dc_layout_block(d->dst_layout);
    f->direct_store = f->dst_map.channel == 1 && (d->dst_layout == DOCONV_NHWC ||
                                                  (dst_block % f->direct->vector == 0 && (d->groups == 1 || p->group_cout % f->direct->vector == 0)));
    const int64_t strip_rows = least(d->h, (f->rows - 1) * d->stride_h + (d->kh - 1) * d->dilation_h + 1);
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

void dc_feature_plan_blocks(struct dc_feature *f)
{
    const struct dc_problem *p = &f->problem;
    const doconv_conv_desc *d = &p->desc;
    /* Few outputs a group fill no tiles; and in double, what would need absurd copies is left to the loops without any. */
    const double strip = (double)d->h * (double)d->w * 64.0, z = (double)p->wout * (double)f->d_mul * 64.0;
    if (p->group_cout < 4 || strip > 1e10 || z > 1e9 || (double)f->d_mul * (double)f->taps * 64.0 > 1e9) {
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
}

struct job {
    const struct dc_feature *f;
    const float *w, *d, *bias, *src, *grad_dst;
    float *dst, *grad_src, *grad_w, *grad_d;
    float *workspace;
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
        u.y0 = rest % f->chunks_image * f->rows;
        u.y1 = least(p->hout, u.y0 + f->rows);
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

void dc_feature_forward_blocks(const struct dc_feature *f, const float *w, const float *d, const float *bias, const float *src, float *dst,
                               char *workspace)
{
    struct job job = {.f = f, .w = w, .d = d, .bias = bias, .src = src, .dst = dst, .workspace = (float *)workspace};
    dc_parallel(f->ctx, f->forward_tasks, forward_task, &job);
}
