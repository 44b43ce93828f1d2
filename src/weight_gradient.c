/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's weight and bias. It is a matrix product whose reduction runs over the pixels of all images, so the direct kernels compute it
 * with their roles dealt anew: acc[row][lane] += rows[row][pixel] * lanes[pixel][lane], pixel by pixel. The planes of one tensor are the rows, and the
 * other, a copy with `tile_channels` channels a pixel side by side, is the lanes.
 *
 * - Taps: rows are planes of dst's gradient (an output channel each), lanes are input channels; a tap shifts the lanes against the rows, and taps in the padding are
 *   left out. For layers of 16 input channels or more.
 * - Columns: rows are those of an im2col matrix (an input channel and a tap each), lanes are output channels. For the few input channels of first
 *   layers, which would leave most lanes empty; each copied value is used by all output channels.
 *
 * The order of an output's additions depends on the problem and the kernel alone: chunks of pixels in order, each in the order of its rows.
 */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "core.h"

/* Pixels of a chunk: tiles of rows stay in L1 over all taps, and loading and storing the sums is a per cent of the work. */
#define CHUNK_PIXELS 256

enum way { PORTABLE, TAPS, COLUMNS };

/* A chunk: rows [row0, row1) of `images` images. */
struct chunk {
    int64_t image, images, row0, row1;
};

struct tap_list {
    ptrdiff_t first, count; /* of segments */
};

struct dc_weight_gradient {
    doconv_context *ctx;
    struct dc_problem problem;
    enum way way;
    const struct dc_kernel *kernel;
    struct dc_tensor_map src_map, dst_map;
    int64_t taps, pixels; /* pixels: Hout * Wout */
    int64_t lanes;        /* tile_channels of the kernel */
    int64_t blocks;       /* of lanes, in a group */
    int tasks, splits;    /* splits: parts of the rows of a block that are different tasks */
    /* TAPS: planes of dst's gradient; in place if plane_floats is 0. */
    int64_t plane_floats, planes_image, plane;
    int64_t tile, tiles;           /* rows of a tile; tiles */
    int64_t phases, phase_columns; /* columns of src by their residue modulo stride_w */
    ptrdiff_t strip_row, strip_phase, strip_image;
    int64_t chunk_rows, chunk_images;
    int64_t lists_image;    /* chunks of an image, or 1 */
    struct tap_list *lists; /* [lists_image][taps] of an image or chunk_images images */
    struct dc_segment *segments;
    /* COLUMNS: */
    int64_t columns, pitch; /* rows of the im2col matrix of a group; floats between them */
    ptrdiff_t strip_floats, sums_floats, task_floats;
};

/* ---- portable ---- */

static void add_portably(const struct dc_weight_gradient *g, const float *src, const float *grad_dst, int64_t o, float *out)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t oy = g->dst_map.block_channels, iy = g->src_map.block_channels;
    for (int64_t i = 0; i < p->group_cin; i++) {
        const int64_t channel = o / p->group_cout * p->group_cin + i;
        for (int64_t m = 0; m < g->taps; m++) {
            float sum = 0.0f;
            for (int64_t n = 0; n < d->n; n++) {
                const float *plane = src + n * g->src_map.image + channel / iy * g->src_map.block + channel % iy * g->src_map.channel;
                const float *grad = grad_dst + n * g->dst_map.image + o / oy * g->dst_map.block + o % oy * g->dst_map.channel;
                for (int64_t y = 0; y < p->hout; y++) {
                    const int64_t row = y * d->stride_h + m / d->kw * d->dilation_h - d->pad_top;
                    for (int64_t x = 0; x < p->wout && row >= 0 && row < d->h; x++) {
                        const int64_t column = x * d->stride_w + m % d->kw * d->dilation_w - d->pad_left;
                        if (column >= 0 && column < d->w) {
                            sum += grad[y * g->dst_map.row + x * g->dst_map.pixel] * plane[row * g->src_map.row + column * g->src_map.pixel];
                        }
                    }
                }
            }
            out[i * g->taps + m] = sum;
        }
    }
}

/* ---- geometry ---- */

/* Strides of 4 KiB put every plane into the same few cache sets. */
static int64_t unalias(int64_t floats)
{
    return floats % 1024 == 0 ? floats + 16 : floats;
}

/* The best usable direct kernel whose tiles are whole blocks of a strip: the one that leaves the fewest lanes empty. */
static const struct dc_kernel *find_kernel(const doconv_context *ctx, int64_t channels)
{
    const struct dc_kernel *best = NULL;
    int64_t best_lanes = 0;
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        const struct dc_kernel *k = *row;
        if (k->op != DC_OP_DIRECT || !dc_isa_usable(k->isa, ctx->isa) || (k->tile_channels % DC_CHANNEL_BLOCK != 0 && k->tile_channels != 8)) {
            continue;
        }
        /* Lanes that are computed, with what a tile of few FMAs a broadcast loses. */
        const int64_t vectors = divide_up(channels, k->vector), full = k->tile_channels / k->vector;
        const int64_t lanes = vectors * k->vector * 16 + divide_up(vectors, full) * 16 + (k->tile_pixels * full < 12 ? vectors * k->vector * 8 : 0);
        if (best == NULL || k->isa > best->isa || (k->isa == best->isa && lanes < best_lanes)) {
            best = k;
            best_lanes = lanes;
        }
    }
    return best;
}

/* Where x * stride + offset lies in [0, size): [*begin, *end). */
static void valid_range(int64_t size, int64_t stride, int64_t offset, int64_t out, int64_t *begin, int64_t *end)
{
    *begin = offset >= 0 ? 0 : divide_up(-offset, stride);
    *end = offset > size - 1 ? 0 : least(out, (size - 1 - offset) / stride + 1);
}

/* Floor and residue of a possibly negative offset. */
static int64_t quotient(int64_t a, int64_t b)
{
    return a >= 0 ? a / b : -((-a + b - 1) / b);
}

/* Segments of a tap over rows [row0, row1) of an image; segments may be NULL to count them. */
static ptrdiff_t list_tap(const struct dc_weight_gradient *g, int64_t tap, int64_t image, int64_t row0, int64_t row1, struct dc_segment *segments,
                          ptrdiff_t count)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t dy = tap / d->kw * d->dilation_h - d->pad_top, dx = tap % d->kw * d->dilation_w - d->pad_left;
    int64_t x0, x1, y0, y1;
    valid_range(d->w, d->stride_w, dx, p->wout, &x0, &x1);
    valid_range(d->h, d->stride_h, dy, p->hout, &y0, &y1);
    if (x1 <= x0) {
        return count;
    }
    const int64_t shift = quotient(dx, d->stride_w), phase = dx - shift * d->stride_w;
    const ptrdiff_t start = count; /* an image's segments stay its own: the last chunk may have fewer images */
    for (int64_t y = most(y0, row0); y < least(y1, row1); y++) {
        const struct dc_segment s = {
            .src_offset = image * g->planes_image + y * p->wout + x0,
            .weight_offset = image * g->strip_image + phase * g->strip_phase + (y * d->stride_h + dy) * g->strip_row + (x0 + shift) * g->lanes,
            .length = x1 - x0,
            .fetch = 1,
        };
        struct dc_segment *last = segments != NULL && count != start ? segments + count - 1 : NULL;
        if (last != NULL && last->src_offset + last->length == s.src_offset && last->weight_offset + last->length * g->lanes == s.weight_offset) {
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

/* TAPS: everything but the segments. */
static void plan_taps(struct dc_weight_gradient *g)
{
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    g->lanes = g->kernel->tile_channels;
    g->blocks = divide_up(p->group_cin, g->lanes);
    const bool in_place = d->dst_layout == DOCONV_NCHW && (g->pixels % 1024 != 0 || p->group_cout == 1);
    g->plane = in_place ? g->pixels : unalias(g->pixels);
    g->planes_image = d->cout * g->plane;
    g->plane_floats = in_place ? 0 : divide_up(d->n * g->planes_image, 16) * 16;
    g->tiles = divide_up(p->group_cout, g->kernel->tile_pixels);
    g->tile = divide_up(p->group_cout, g->tiles);
    g->phases = least(d->stride_w, d->w);
    g->phase_columns = divide_up(d->w, d->stride_w);
    g->strip_row = g->phase_columns * g->lanes;
    g->strip_phase = d->h * g->strip_row;
    g->strip_image = g->phases * g->strip_phase;
    g->chunk_rows = most(1, least(p->hout, CHUNK_PIXELS / p->wout));
    g->chunk_rows = divide_up(p->hout, divide_up(p->hout, g->chunk_rows));
    g->chunk_images = g->chunk_rows < p->hout ? 1 : most(1, least(d->n, CHUNK_PIXELS / g->pixels));
    g->lists_image = divide_up(p->hout, g->chunk_rows);
    g->strip_floats = divide_up(d->n * g->strip_image, 16) * 16;
    g->sums_floats = (g->taps + DC_TILE_SLACK) * g->tile * g->lanes;
}

static void plan_columns(struct dc_weight_gradient *g)
{
    const struct dc_problem *p = &g->problem;
    g->lanes = g->kernel->tile_channels;
    g->blocks = divide_up(p->group_cout, g->lanes);
    g->columns = p->group_cin * g->taps;
    g->chunk_rows = most(1, least(p->hout, CHUNK_PIXELS / p->wout));
    g->pitch = unalias(divide_up(g->chunk_rows * p->wout, 16) * 16);
    g->tiles = divide_up(g->columns, g->kernel->tile_pixels);
    g->tile = divide_up(g->columns, g->tiles);
    g->strip_floats = g->chunk_rows * p->wout * g->lanes;
}

static size_t task_bytes(const struct dc_weight_gradient *g)
{
    return (size_t)g->task_floats * sizeof(float);
}

static doconv_status list_taps(struct dc_weight_gradient *g)
{
    const struct dc_problem *p = &g->problem;
    const int64_t lists = g->lists_image * g->taps;
    ptrdiff_t most_segments = 0;
    for (int64_t m = 0; m < g->taps; m++) {
        most_segments += g->chunk_images * list_tap(g, m, 0, 0, p->hout, NULL, 0);
    }
    g->lists = dc_alloc(g->ctx, (size_t)lists * sizeof *g->lists);
    g->segments = dc_alloc(g->ctx, (size_t)most_segments * sizeof *g->segments);
    if (g->lists == NULL || g->segments == NULL) {
        return dc_fail(g->ctx, DOCONV_OUT_OF_MEMORY, "training: no memory for %td segments", most_segments);
    }
    ptrdiff_t used = 0;
    for (int64_t chunk = 0; chunk < g->lists_image; chunk++) {
        for (int64_t m = 0; m < g->taps; m++) {
            struct dc_segment *const segments = g->segments + used;
            const int64_t row0 = chunk * g->chunk_rows;
            ptrdiff_t count = 0;
            for (int64_t image = 0; image < g->chunk_images; image++) {
                count = list_tap(g, m, image, row0, least(p->hout, row0 + g->chunk_rows), segments, count);
            }
            g->lists[chunk * g->taps + m] = (struct tap_list){used, count};
            used += count;
        }
    }
    return DOCONV_OK;
}

static bool narrow(const struct dc_problem *p, int64_t vector)
{
    return p->group_cin < least(vector, DC_CHANNEL_BLOCK);
}

doconv_status dc_weight_gradient_create(doconv_context *ctx, const struct dc_problem *problem, struct dc_weight_gradient **gradient)
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
        .pixels = problem->hout * problem->wout,
        .kernel = find_kernel(ctx, problem->group_cin),
        .tasks = (int)least(ctx->threads, d->cout),
    };
    /* In double: what would overflow, or need absurd copies, is left to the loop without any. */
    const double strip = (double)d->n * ((double)d->w + (double)d->stride_w) * (double)d->h * 64.0, planes = (double)problem->dst_bytes;
    const bool small =
        strip < 1e11 && planes < 1e12 && (double)g->taps * (double)(problem->hout + d->n) < 1e8 && (double)g->taps * (double)d->cin < 1e7;
    doconv_status status = DOCONV_OK;
    if (g->kernel != NULL && small && narrow(problem, g->kernel->vector) && problem->group_cout >= g->kernel->vector) {
        g->way = COLUMNS;
        g->kernel = find_kernel(ctx, problem->group_cout);
        plan_columns(g);
        g->splits = (int)least(g->tiles, divide_up(ctx->threads, d->groups));
        g->tasks = (int)least(ctx->threads, d->groups * g->splits);
        const int64_t rows = divide_up(g->tiles, g->splits) * g->tile;
        g->sums_floats = g->blocks * (rows + DC_TILE_SLACK) * g->lanes;
        g->task_floats = divide_up(rows * g->pitch + g->strip_floats + g->sums_floats, 16) * 16 + 16;
    } else if (g->kernel != NULL && small && !narrow(problem, g->kernel->vector)) {
        g->way = TAPS;
        plan_taps(g);
        g->splits = (int)least(g->tiles, divide_up(ctx->threads, d->groups * g->blocks));
        g->tasks = (int)least(ctx->threads, d->groups * g->blocks * g->splits);
        g->task_floats = divide_up(g->strip_floats + g->sums_floats, 16) * 16 + 16;
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
        dc_free(gradient->ctx, gradient->lists);
        dc_free(gradient->ctx, gradient->segments);
        dc_free(gradient->ctx, gradient);
    }
}

size_t dc_weight_gradient_workspace_size(const struct dc_weight_gradient *g)
{
    return g->way == PORTABLE ? 0 : (size_t)g->plane_floats * sizeof(float) + (size_t)g->tasks * task_bytes(g) + 64 * sizeof(float);
}

/* ---- running ---- */

struct job {
    const struct dc_weight_gradient *g;
    const float *src, *grad_dst;
    float *grad_weight, *grad_bias;
    float *planes;     /* of dst's gradient */
    const float *rows; /* planes, or dst's gradient itself */
    float *zeros;      /* 64 */
    float *tasks;
    int copy_tasks;
};

/* `count` channels of an image of dst's gradient from `from` on, pixels `step` apart, become planes. */
static void copy_planes(const struct dc_weight_gradient *g, const float *from, ptrdiff_t step, ptrdiff_t channel_step, int64_t count, float *to)
{
    /* The kernel transposes whole squares of 8; what is left over is little. */
    const int64_t channels = channel_step == 1 ? count / 8 * 8 : 0, pixels = g->pixels / 8 * 8;
    if (channels != 0 && pixels != 0) {
        const struct dc_store_args args = {
            .tile = from,
            .tile_channels = step,
            .pixels = pixels,
            .channels = channels,
            .stored = channels,
            .dst = to,
            .dst_block_channels = PTRDIFF_MAX,
            .dst_channel = g->plane,
            .dst_pixel = 1,
            .lo = -INFINITY,
            .hi = INFINITY,
        };
        g->kernel->store(&args);
    }
    for (int64_t c = 0; c < count; c++) {
        for (int64_t x = c < channels ? pixels : 0; x < g->pixels; x++) {
            to[c * g->plane + x] = from[x * step + c * channel_step];
        }
    }
}

static void planes_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_weight_gradient *g = job->g;
    const doconv_conv_desc *d = &g->problem.desc;
    const int64_t block = least(g->dst_map.block_channels, DC_CHANNEL_BLOCK), blocks = divide_up(d->cout, block);
    for (int64_t i = d->n * blocks * index / job->copy_tasks; i < d->n * blocks * (index + 1) / job->copy_tasks; i++) {
        const int64_t image = i / blocks, c = i % blocks * block;
        const float *from = job->grad_dst + image * g->dst_map.image + c / g->dst_map.block_channels * g->dst_map.block +
                            c % g->dst_map.block_channels * g->dst_map.channel;
        copy_planes(g, from, g->dst_map.pixel, g->dst_map.channel, least(block, d->cout - c), job->planes + image * g->planes_image + c * g->plane);
    }
}

/* Does any tap read this row of src? Strides leave rows out. */
static bool row_is_read(const struct dc_problem *p, int64_t y)
{
    const doconv_conv_desc *d = &p->desc;
    for (int64_t k = 0; k < d->kh; k++) {
        const int64_t at = y + d->pad_top - k * d->dilation_h;
        if (at >= 0 && at % d->stride_h == 0 && at / d->stride_h < p->hout) {
            return true;
        }
    }
    return false;
}

static bool phase_is_read(const doconv_conv_desc *d, int64_t phase)
{
    for (int64_t k = 0; k < d->kw; k++) {
        const int64_t dx = k * d->dilation_w - d->pad_left;
        if (dx - quotient(dx, d->stride_w) * d->stride_w == phase) {
            return true;
        }
    }
    return false;
}

/* The lanes of a block: src's channels [channel, channel + count) of all images, columns apart by phase. */
static void load_lanes(const struct job *job, int64_t channel, int64_t count, float *strip)
{
    const struct dc_weight_gradient *g = job->g;
    const doconv_conv_desc *d = &g->problem.desc;
    struct dc_load_args args = {
        .strip_block = DC_CHANNEL_BLOCK,
        .strip_row = g->strip_row,
        .strip_pixel = g->lanes,
        .channels = count,
        .src_block_channels = g->src_map.block_channels,
        .src_block = g->src_map.block,
        .src_channel = g->src_map.channel,
        .src_row = g->src_map.row,
        .src_pixel = g->src_map.pixel,
        .src_first_channel = channel,
        .h = d->h,
        .w = d->w,
        .step_x = d->stride_w,
        .step_y = 1,
    };
    for (int64_t n = 0; n < d->n; n++) {
        args.src = job->src + n * g->src_map.image;
        for (int64_t phase = 0; phase < g->phases; phase++) {
            if (!phase_is_read(d, phase)) {
                continue;
            }
            args.x0 = phase;
            args.columns = (d->w - phase + d->stride_w - 1) / d->stride_w;
            for (int64_t y = 0; y < d->h; y += args.rows) {
                args.rows = 1;
                if (!row_is_read(&g->problem, y)) {
                    continue;
                }
                while (y + args.rows < d->h && row_is_read(&g->problem, y + args.rows)) {
                    args.rows++;
                }
                args.strip = strip + n * g->strip_image + phase * g->strip_phase + y * g->strip_row;
                args.y0 = y;
                g->kernel->load(&args);
            }
        }
    }
}

/* Sums [rows][lanes], rows `pitch` floats apart, to out[lane * step + row]. */
static void store_sums(const struct dc_weight_gradient *g, const float *sums, ptrdiff_t pitch, int64_t rows, int64_t lanes, float *out,
                       ptrdiff_t step)
{
    if (step == 1) {
        memcpy(out, sums, (size_t)lanes * sizeof(float));
        return;
    }
    const struct dc_store_args args = {
        .tile = sums,
        .tile_channels = pitch,
        .pixels = rows,
        .channels = lanes,
        .stored = lanes,
        .dst = out,
        .dst_block_channels = PTRDIFF_MAX,
        .dst_channel = step,
        .dst_pixel = 1,
        .lo = -INFINITY,
        .hi = INFINITY,
    };
    g->kernel->store(&args);
}

/* A tile: output channels [o, o + rows) of all, against the lanes of a block. */
static void run_tile(const struct job *job, int64_t block, int64_t o, int64_t rows, const float *strip, float *sums)
{
    const struct dc_weight_gradient *g = job->g;
    const struct dc_problem *p = &g->problem;
    struct dc_run_args args = {
        .src_pixel = g->plane,
        .bias = job->zeros,
        .lines = 1,
        .pixels = rows,
        .channels = least(g->lanes, p->group_cin - block * g->lanes),
    };
    bool first = true;
    for (int64_t image = 0; image < p->desc.n; image += g->chunk_images) {
        const int64_t images = least(g->chunk_images, p->desc.n - image);
        for (int64_t chunk = 0; chunk < g->lists_image; chunk++) {
            for (int64_t m = 0; m < g->taps; m++) {
                const struct tap_list *list = &g->lists[chunk * g->taps + m];
                args.segments = g->segments + list->first;
                args.segment_count = list->count / g->chunk_images * images;
                args.src = job->rows + image * g->planes_image + o * g->plane;
                args.weights = strip + image * g->strip_image;
                args.partial_out = sums + m * rows * g->lanes;
                args.partial_in = first ? NULL : args.partial_out;
                args.src_next = (uintptr_t)args.src;
                g->kernel->run(&args);
            }
            first = false;
        }
    }
    for (int64_t r = 0; r < rows; r++) {
        float *out = job->grad_weight + ((o + r) * p->group_cin + block * g->lanes) * g->taps;
        store_sums(g, sums + r * g->lanes, rows * g->lanes, g->taps, args.channels, out, g->taps);
    }
}

static void taps_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_weight_gradient *g = job->g;
    const struct dc_problem *p = &g->problem;
    float *const strip = job->tasks + index * g->task_floats, *const sums = strip + g->strip_floats;
    const int64_t units = p->desc.groups * g->blocks * g->splits;
    int64_t loaded = -1;
    for (int64_t unit = units * index / g->tasks; unit < units * (index + 1) / g->tasks; unit++) {
        const int64_t split = unit % g->splits, place = unit / g->splits, group = place / g->blocks, block = place % g->blocks;
        if (loaded != place) {
            load_lanes(job, group * p->group_cin + block * g->lanes, least(g->lanes, p->group_cin - block * g->lanes), strip);
            loaded = place;
        }
        for (int64_t tile = g->tiles * split / g->splits; tile < g->tiles * (split + 1) / g->splits; tile++) {
            const int64_t begin = p->group_cout * tile / g->tiles, end = p->group_cout * (tile + 1) / g->tiles;
            run_tile(job, block, group * p->group_cout + begin, end - begin, strip, sums);
        }
    }
}

/* Rows [k0, k1) of the im2col matrix of a group for output rows [y0, y1) of an image. */
static void load_columns(const struct job *job, int64_t image, int64_t group, int64_t y0, int64_t y1, int64_t k0, int64_t k1, float *matrix)
{
    const struct dc_weight_gradient *g = job->g;
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    for (int64_t k = k0; k < k1; k++) {
        const int64_t channel = group * p->group_cin + k / g->taps, tap = k % g->taps;
        const float *plane = job->src + image * g->src_map.image + channel / g->src_map.block_channels * g->src_map.block +
                             channel % g->src_map.block_channels * g->src_map.channel;
        const int64_t dx = tap % d->kw * d->dilation_w - d->pad_left;
        int64_t x0, x1;
        valid_range(d->w, d->stride_w, dx, p->wout, &x0, &x1);
        float *to = matrix + (k - k0) * g->pitch;
        for (int64_t y = y0; y < y1; y++, to += p->wout) {
            const int64_t row = y * d->stride_h + tap / d->kw * d->dilation_h - d->pad_top;
            if (row < 0 || row >= d->h || x1 <= x0) {
                memset(to, 0, (size_t)p->wout * sizeof *to);
                continue;
            }
            const float *from = plane + row * g->src_map.row + (x0 * d->stride_w + dx) * g->src_map.pixel;
            const ptrdiff_t step = d->stride_w * g->src_map.pixel;
            memset(to, 0, (size_t)x0 * sizeof *to);
            memset(to + x1, 0, (size_t)(p->wout - x1) * sizeof *to);
            if (step == 1) {
                memcpy(to + x0, from, (size_t)(x1 - x0) * sizeof *to);
                continue;
            }
            for (int64_t x = x0; x < x1; x++) {
                to[x] = from[(x - x0) * step];
            }
        }
    }
}

static void columns_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_weight_gradient *g = job->g;
    const struct dc_problem *p = &g->problem;
    const doconv_conv_desc *d = &p->desc;
    const int64_t most_rows = divide_up(g->tiles, g->splits) * g->tile;
    float *const strip = job->tasks + index * g->task_floats, *const sums = strip + divide_up(g->strip_floats, 16) * 16;
    float *const matrix = sums + g->sums_floats;
    const int64_t units = d->groups * g->splits;
    for (int64_t unit = units * index / g->tasks; unit < units * (index + 1) / g->tasks; unit++) {
        const int64_t group = unit / g->splits, split = unit % g->splits;
        const int64_t tile0 = g->tiles * split / g->splits, tile1 = g->tiles * (split + 1) / g->splits;
        const int64_t k0 = least(g->columns, tile0 * g->tile), k1 = least(g->columns, tile1 * g->tile);
        bool first = true;
        for (int64_t n = 0; n < d->n; n++) {
            for (int64_t y = 0; y < p->hout; y += g->chunk_rows) {
                const int64_t y1 = least(p->hout, y + g->chunk_rows);
                const struct dc_segment segment = {.length = (y1 - y) * p->wout};
                load_columns(job, n, group, y, y1, k0, k1, matrix);
                for (int64_t block = 0; block < g->blocks; block++) {
                    const int64_t channel = group * p->group_cout + block * g->lanes, lanes = least(g->lanes, p->group_cout - block * g->lanes);
                    const struct dc_load_args load = {
                        .strip = strip,
                        .strip_block = DC_CHANNEL_BLOCK,
                        .strip_row = p->wout * g->lanes,
                        .strip_pixel = g->lanes,
                        .channels = lanes,
                        .rows = y1 - y,
                        .columns = p->wout,
                        .src = job->grad_dst + n * g->dst_map.image,
                        .src_block_channels = g->dst_map.block_channels,
                        .src_block = g->dst_map.block,
                        .src_channel = g->dst_map.channel,
                        .src_row = g->dst_map.row,
                        .src_pixel = g->dst_map.pixel,
                        .src_first_channel = channel,
                        .h = p->hout,
                        .w = p->wout,
                        .y0 = y,
                        .step_x = 1,
                        .step_y = 1,
                    };
                    g->kernel->load(&load);
                    float *const out = sums + block * (most_rows + DC_TILE_SLACK) * g->lanes;
                    const struct dc_run_args args = {
                        .src = matrix,
                        .src_pixel = g->pitch,
                        .segments = &segment,
                        .segment_count = 1,
                        .weights = strip,
                        .bias = job->zeros,
                        .partial_in = first ? NULL : out,
                        .partial_out = out,
                        .lines = 1,
                        .pixels = k1 - k0,
                        .channels = lanes,
                    };
                    g->kernel->run(&args);
                }
                first = false;
            }
        }
        for (int64_t block = 0; block < g->blocks && k1 > k0; block++) {
            const int64_t o = group * p->group_cout + block * g->lanes;
            store_sums(g, sums + block * (most_rows + DC_TILE_SLACK) * g->lanes, g->lanes, k1 - k0, least(g->lanes, p->group_cout - block * g->lanes),
                       job->grad_weight + o * g->columns + k0, g->columns);
        }
    }
}

static void portable_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_weight_gradient *g = job->g;
    const int64_t cout = g->problem.desc.cout;
    for (int64_t o = cout * index / g->tasks; o < cout * (index + 1) / g->tasks; o++) {
        add_portably(g, job->src, job->grad_dst, o, job->grad_weight + o * g->problem.group_cin * g->taps);
    }
}

/* Rows are summed in eight parts, in float, then in double: exact enough for any number of them. */
static void bias_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct dc_weight_gradient *g = job->g;
    const struct dc_problem *p = &g->problem;
    enum { WIDTH = 16 };
    const int64_t blocks = divide_up(p->desc.cout, WIDTH);
    for (int64_t block = blocks * index / job->copy_tasks; block < blocks * (index + 1) / job->copy_tasks; block++) {
        const int64_t first = block * WIDTH, count = least(WIDTH, p->desc.cout - first);
        double total[WIDTH] = {0.0};
        for (int64_t n = 0; n < p->desc.n; n++) {
            for (int64_t y = 0; y < p->hout; y++) {
                const float *row = job->grad_dst + n * g->dst_map.image + y * g->dst_map.row;
                if (g->dst_map.channel == 1 && count == WIDTH) {
                    float sums[WIDTH] = {0.0f};
                    for (int64_t half = 0; half < WIDTH; half += 8) {
                        const int64_t c = first + half;
                        const float *at = row + c / g->dst_map.block_channels * g->dst_map.block + c % g->dst_map.block_channels;
                        for (int64_t x = 0; x < p->wout; x++) {
                            for (int i = 0; i < 8; i++) {
                                sums[half + i] += at[x * g->dst_map.pixel + i];
                            }
                        }
                    }
                    for (int i = 0; i < WIDTH; i++) {
                        total[i] += (double)sums[i];
                    }
                    continue;
                }
                for (int64_t i = 0; i < count; i++) {
                    const int64_t c = first + i;
                    const float *at = row + c / g->dst_map.block_channels * g->dst_map.block + c % g->dst_map.block_channels * g->dst_map.channel;
                    float sums[8] = {0.0f};
                    int64_t x = 0;
                    for (; x + 8 <= p->wout; x += 8) {
                        for (int j = 0; j < 8; j++) {
                            sums[j] += at[(x + j) * g->dst_map.pixel];
                        }
                    }
                    for (; x < p->wout; x++) {
                        sums[0] += at[x * g->dst_map.pixel];
                    }
                    total[i] += (double)(((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7])));
                }
            }
        }
        for (int64_t i = 0; i < count; i++) {
            job->grad_bias[first + i] = (float)total[i];
        }
    }
}

void dc_weight_gradient_run(const struct dc_weight_gradient *g, const float *src, const float *grad_dst, float *grad_weight, float *grad_bias,
                            char *workspace)
{
    const doconv_conv_desc *d = &g->problem.desc;
    struct job job = {.g = g, .src = src, .grad_dst = grad_dst, .grad_weight = grad_weight, .grad_bias = grad_bias, .rows = grad_dst};
    if (grad_bias != NULL) {
        job.copy_tasks = (int)least(g->ctx->threads, divide_up(d->cout, 16));
        dc_parallel(g->ctx, job.copy_tasks, bias_task, &job);
    }
    if (grad_weight == NULL) {
        return;
    }
    if (g->way == PORTABLE) {
        dc_parallel(g->ctx, g->tasks, portable_task, &job);
        return;
    }
    job.zeros = (float *)workspace;
    memset(job.zeros, 0, 64 * sizeof(float));
    job.planes = job.zeros + 64;
    job.tasks = job.planes + g->plane_floats;
    if (g->plane_floats != 0) {
        job.rows = job.planes;
        job.copy_tasks = (int)least(g->ctx->threads, d->n * divide_up(d->cout, least(g->dst_map.block_channels, DC_CHANNEL_BLOCK)));
        dc_parallel(g->ctx, job.copy_tasks, planes_task, &job);
    }
    dc_parallel(g->ctx, g->tasks, g->way == TAPS ? taps_task : columns_task, &job);
}
