/* SPDX-License-Identifier: MIT */
/* Geometry of a direct plan: strips, runs, segments, tasks. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/layout.h"
#include "base/log.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "solvers/direct/direct.h"

/* Segments of a plan: they are made in a few milliseconds, and take 10 MB. */
#define MOST_SEGMENTS 3e5

static void strip_geometry(const struct dc_problem *p, struct dc_direct_state *s)
{
    const doconv_conv_desc *d = &p->desc;
    /*
     * A block of fewer than 16 channels is kept tight: then the taps of a kernel row are one
     * segment (first layers).
     */
    s->strip_pixel = least(s->cin, DC_CHANNEL_BLOCK);
    const int64_t blocks = divide_up(s->k_block, DC_CHANNEL_BLOCK);
    if (s->source == DC_SOURCE_ROWS) {
        s->strip_rows = (s->rows - 1) * d->stride_h + (d->kh - 1) * d->dilation_h + 1;
        s->strip_columns = (p->wout - 1) * d->stride_w + (d->kw - 1) * d->dilation_w + 1;
        s->strip_row = unalias_floats(s->strip_columns * s->strip_pixel);
        s->strip_block = unalias_floats(s->strip_rows * s->strip_row);
        s->phases = 1;
    } else {
        s->strip_rows = s->rows + (d->kh - 1) * d->dilation_h / d->stride_h;
        s->strip_columns = p->wout;
        s->strip_row = s->strip_columns * s->strip_pixel;
        s->strip_phase = s->strip_rows * s->strip_row;
        s->phases = least(d->stride_h, (d->kh - 1) * d->dilation_h + 1);
        s->strip_plane = s->phases * s->strip_phase;
        s->strip_block = unalias_floats(d->kw * s->strip_plane);
    }
    s->strip_floats = unalias_floats(divide_up(blocks * s->strip_block, 16) * 16);
}

/* Does each output pixel read one input pixel, and each input pixel serve one output? */
static bool is_pointwise(const doconv_conv_desc *d)
{
    return d->kh == 1 && d->kw == 1 && d->stride_h == 1 && d->stride_w == 1 && d->pad_top == 0 &&
           d->pad_left == 0 && d->pad_bottom == 0 && d->pad_right == 0;
}

static bool joins(const struct dc_tensor_map *map, int64_t h, int64_t w)
{
    return h * w == 1 || map->image == h * w * map->pixel;
}

int64_t dc_direct_joined_rows(const struct dc_problem *p, enum dc_source source)
{
    const doconv_conv_desc *d = &p->desc;
    const struct dc_tensor_map src = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
                               dst = dc_tensor_map(d->dst_layout, d->cout, p->hout, p->wout);
    const bool can = source == DC_SOURCE_INPLACE && is_pointwise(d) && joins(&src, d->h, d->w) &&
                     joins(&dst, p->hout, p->wout);
    return can && (double)d->n * (double)p->hout < (double)INT_MAX ? d->n * p->hout : 0;
}

/* How channels, images and rows are cut, whatever the input is read from. */
static void cut(const struct dc_problem *p, const struct dc_kernel *kernel,
                const struct dc_direct_parameters *q, struct dc_direct_state *s)
{
    const doconv_conv_desc *d = &p->desc;
    *s = (struct dc_direct_state){
        .source = (enum dc_source)q->source,
        .order = (enum dc_order)q->order,
        .groups = d->groups,
        .cin = p->group_cin,
        .cout = p->group_cout,
        .tile_channels = kernel->tile_channels,
        .taps = d->kh * d->kw,
        .src_map = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
        .dst_map = dc_tensor_map(d->dst_layout, d->cout, p->hout, p->wout),
        .weights = dc_packed_weights(d->groups, p->group_cin, p->group_cout, d->kh, d->kw,
                                     kernel->tile_channels),
    };
    s->out_blocks = s->weights.out_blocks;
    s->k_block = q->k_block > 0 && q->k_block < s->cin ? q->k_block : s->cin;
    s->k_blocks = divide_up(s->cin, s->k_block);
    const int64_t joined = dc_direct_joined_rows(p, s->source);
    s->images = joined != 0 ? 1 : d->n;
    s->hout = joined != 0 ? joined : p->hout;
    if (joined != 0 && d->h * d->w == 1) {
        s->src_map.row = s->src_map.pixel = s->src_map.image;
        s->dst_map.row = s->dst_map.pixel = s->dst_map.image;
    }
    s->rows = least(q->rows, s->hout);
    s->row_blocks = divide_up(s->hout, s->rows);
    s->weights_first = s->order != DC_ORDER_PIXELS;
    const int64_t dst_block = dc_layout_block(d->dst_layout);
    s->direct_store =
        s->dst_map.channel == 1 &&
        (d->dst_layout == DOCONV_NHWC ||
         (dst_block % kernel->vector == 0 && (s->groups == 1 || s->cout % kernel->vector == 0)));
}

/*
 * Counts ranges of equal taps, and through them the segments: two kinds of passes (full, last) x
 * ranges x taps x blocks (8 channels each at least). NULL, or why the candidate can't be.
 */
static const char *count_ranges(const struct dc_problem *p, struct dc_direct_state *s)
{
    const struct dc_axis rows = dc_rows_axis(p), columns = dc_columns_axis(p);
    const double list = 2.0 * (double)s->taps * (double)(s->k_block / 8 + 2);
    int64_t limit = (int64_t)(MOST_SEGMENTS / list);
    s->y_count = s->x_count = 1;
    if (!s->flat && limit > 0) {
        s->y_count = dc_tap_ranges(&rows, NULL, limit);
        limit /= s->y_count;
    }
    if (!s->flat && limit > 0 && s->source == DC_SOURCE_INPLACE) {
        s->x_count = dc_tap_ranges(&columns, NULL, limit);
        limit /= s->x_count;
    }
    return limit > 0 ? NULL : "the kernel has too many taps";
}

/* The strip, or none, and ranges of equal taps. NULL, or why the candidate can't be. */
static const char *plan_input(const struct dc_problem *p, struct dc_direct_state *s)
{
    const doconv_conv_desc *d = &p->desc;
    if (s->source == DC_SOURCE_INPLACE) {
        if (s->src_map.channel != 1) {
            return "its channels are not contiguous in memory";
        }
        if (d->src_layout != DOCONV_NHWC && s->groups > 1 &&
            s->cin % dc_layout_block(d->src_layout) != 0) {
            return "a group starts inside a channel block";
        }
        s->flat = is_pointwise(d);
    } else {
        /* In double first: the largest problems would overflow the strides. */
        const double area =
            (double)(s->rows + d->kh) * (double)d->stride_h * (double)d->dilation_h *
            (double)d->kw *
            ((double)p->wout * (double)d->stride_w + (double)d->kw * (double)d->dilation_w);
        if (area * (double)(s->k_block + DC_CHANNEL_BLOCK) > 1e15) {
            return "it needs too much workspace";
        }
        strip_geometry(p, s);
        s->flat = s->source == DC_SOURCE_FLAT;
    }
    if (s->weights_first &&
        (s->k_blocks > 1 || (s->strip_floats != 0 && s->images * s->row_blocks > 1))) {
        return "with weights first, a pass has all channels, and pixels are read in place";
    }
    return count_ranges(p, s);
}

const char *dc_direct_geometry(const struct dc_problem *p, const struct dc_kernel *kernel,
                               const struct dc_direct_parameters *q, struct dc_direct_state *s)
{
    cut(p, kernel, q, s);
    const char *refused = plan_input(p, s);
    if (refused != NULL) {
        return refused;
    }
    const int64_t units = s->images * s->groups * s->row_blocks, nr = s->tile_channels;
    s->out_chunk = s->weights_first ? 1 : dc_cut_outputs(p->threads, units, s->out_blocks);
    s->out_chunks = divide_up(s->out_blocks, s->out_chunk);
    s->tasks = (int)least(p->threads, units * s->out_chunks);
    if ((double)s->rows * (double)p->wout * (double)(s->out_chunk * nr) > 1e15) {
        return "it needs too much workspace";
    }
    const int64_t pixels = s->rows * p->wout;
    s->tile_pixels = s->k_blocks > 1 ? pixels : least(pixels, DC_STORE_PIXELS);
    /*
     * dst blocks may end past the last tile: then that tile's stores go through the buffer as well,
     * so it always exists.
     */
    s->partial_floats =
        (s->k_blocks > 1 ? s->out_chunk * pixels * nr : s->tile_pixels * nr) + DC_TILE_SLACK * nr;
    s->task_floats = align_floats(s->strip_floats + s->partial_floats);
    return NULL;
}

/* ---- segments ---- */

struct builder {
    const struct dc_problem *p;
    const struct dc_direct_state *s;
    struct dc_segment *next, *first; /* first: of the current list's current 16 channels */
};

/* Adds a segment; one that continues the last in src and weights just lengthens it. */
static void add(struct builder *b, ptrdiff_t src, ptrdiff_t weight, ptrdiff_t length)
{
    if (b->next != b->first) {
        struct dc_segment *last = b->next - 1;
        if (last->src_offset + last->length == src &&
            last->weight_offset + last->length * b->s->tile_channels == weight) {
            last->length += length;
            return;
        }
    }
    *b->next++ = (struct dc_segment){.src_offset = src, .weight_offset = weight, .length = length};
}

/*
 * Offset of channel c (from the group's first) and tap (y, x), from the range's first tap where the
 * source is src or rows.
 */
static ptrdiff_t source_offset(const struct builder *b, int64_t c, int64_t y, int64_t x, int64_t y0,
                               int64_t x0)
{
    const struct dc_direct_state *s = b->s;
    const doconv_conv_desc *d = &b->p->desc;
    switch (b->s->source) {
    case DC_SOURCE_INPLACE:
        return c / s->src_map.block_channels * s->src_map.block + c % s->src_map.block_channels +
               (y - y0) * d->dilation_h * s->src_map.row +
               (x - x0) * d->dilation_w * s->src_map.pixel;
    case DC_SOURCE_ROWS:
        return c / DC_CHANNEL_BLOCK * s->strip_block + c % DC_CHANNEL_BLOCK +
               (y - y0) * d->dilation_h * s->strip_row + x * d->dilation_w * s->strip_pixel;
    default:
        return c / DC_CHANNEL_BLOCK * s->strip_block + c % DC_CHANNEL_BLOCK + x * s->strip_plane +
               y * d->dilation_h % d->stride_h * s->strip_phase +
               y * d->dilation_h / d->stride_h * s->strip_row;
    }
}

/* Segments of `block` input channels from c on. */
static void build_block(struct builder *b, int64_t c, int64_t block, const struct dc_tap_range *yr,
                        const struct dc_tap_range *xr)
{
    const struct dc_direct_state *s = b->s;
    const int64_t kw = b->p->desc.kw, nr = s->tile_channels;
    /* Pieces that are contiguous in every source. */
    const int64_t piece = b->s->source == DC_SOURCE_INPLACE
                              ? least(s->src_map.block_channels, DC_CHANNEL_BLOCK)
                              : DC_CHANNEL_BLOCK;
    b->first = b->next;
    for (int64_t y = yr->tap0; y < yr->tap1; y++) {
        for (int64_t x = xr->tap0; x < xr->tap1; x++) {
            const int64_t tap = y * kw + x;
            for (int64_t i = 0; i < block; i += piece) {
                add(b, source_offset(b, c + i, y, x, yr->tap0, xr->tap0),
                    (c * s->taps + tap * block + i) * nr, least(piece, block - i));
            }
        }
        /*
         * The taps of a kernel row read nearly the same pixels; what comes after them may be far
         * away.
         */
        if (b->next != b->first) {
            b->next[-1].fetch = 1;
        }
    }
}

/*
 * The first segments are of 16 input channels, which are as far from the next 16 in every source
 * and in the weights as these from those that follow: copies but for that. Thousands of them, where
 * channels are many, would take longer than all else that a plan does.
 */
static void repeat_block(struct builder *b, const struct dc_segment *from, ptrdiff_t count,
                         int64_t blocks)
{
    const ptrdiff_t src = source_offset(b, DC_CHANNEL_BLOCK, 0, 0, 0, 0),
                    weight = (ptrdiff_t)DC_CHANNEL_BLOCK * b->s->taps * b->s->tile_channels;
    for (int64_t block = 1; block < blocks; block++) {
        for (ptrdiff_t i = 0; i < count; i++) {
            *b->next = from[i];
            b->next->src_offset += src * block;
            b->next->weight_offset += weight * block;
            b->next++;
        }
    }
}

static void build_list(struct builder *b, int64_t channels, const struct dc_tap_range *yr,
                       const struct dc_tap_range *xr, struct dc_direct_segments *list)
{
    struct dc_segment *const items = b->next;
    const int64_t whole = channels / DC_CHANNEL_BLOCK, rest = channels % DC_CHANNEL_BLOCK;
    if (whole > 0) {
        build_block(b, 0, DC_CHANNEL_BLOCK, yr, xr);
        repeat_block(b, items, b->next - items, whole);
    }
    if (rest > 0) {
        build_block(b, whole * DC_CHANNEL_BLOCK, rest, yr, xr);
    }
    *list = (struct dc_direct_segments){items, b->next - items};
}

/*
 * The segments of every pass and range, into what was allocated for them. A last pass of as many
 * channels as the others has theirs.
 */
static void build_lists(const struct dc_problem *p, struct dc_direct_state *s,
                        struct dc_segment *segments)
{
    struct builder b = {.p = p, .s = s, .next = segments};
    const int64_t lists = s->y_count * s->x_count,
                  last_channels = s->cin - (s->k_blocks - 1) * s->k_block;
    for (int last = 0; last < 2; last++) {
        const int64_t channels = last ? last_channels : s->k_block;
        if (last && channels == s->k_block) {
            memcpy(s->segments + lists, s->segments, (size_t)lists * sizeof *s->segments);
            return;
        }
        for (int64_t y = 0; y < s->y_count; y++) {
            for (int64_t x = 0; x < s->x_count; x++) {
                build_list(&b, channels, &s->y_ranges[y], &s->x_ranges[x],
                           &s->segments[(last * s->y_count + y) * s->x_count + x]);
            }
        }
    }
}

/*
 * Do the blocks keep the tasks busy, where each is made (folded and packed) by one task alone? Then
 * a layer of one group is folded block by block.
 */
static bool shares_blocks(const struct dc_direct_state *s)
{
    const int64_t blocks = s->groups * s->out_chunks;
    return 4 * blocks >= 3 * divide_up(blocks, s->tasks) * s->tasks;
}

/* What a task needs to make weights on the way. */
static void plan_fresh(doconv_plan *plan, struct dc_direct_state *s)
{
    const doconv_plan *fold = plan->fold;
    plan->takes_fresh = plan->problem.fresh_weights && s->order == DC_ORDER_PACK;
    if (!plan->takes_fresh) {
        return;
    }
    const struct dc_part_hooks *parts = fold != NULL ? fold->candidate.solver->parts : NULL;
    plan->folds_parts = fold != NULL && parts->inputs(fold) != 0 && shares_blocks(s);
    s->made_floats = s->weights.block_floats + align_floats(s->tile_channels);
    s->fresh_floats = s->made_floats;
    if (plan->folds_parts) {
        s->fresh_floats += align_floats((int64_t)parts->scratch_floats(fold));
    }
    plan->candidate.workspace_size += (size_t)s->tasks * (size_t)s->fresh_floats * sizeof(float);
}

doconv_status dc_direct_prepare(doconv_plan *plan)
{
    const struct dc_problem *p = &plan->problem;
    struct dc_direct_parameters q;
    struct dc_direct_state s;
    dc_get_parameters(&plan->candidate, &q);
    dc_direct_geometry(p, plan->candidate.kernel, &q, &s); /* enumerate() did it before */
    const size_t lists = (size_t)(2 * s.y_count * s.x_count);
    const size_t segments = lists * (size_t)s.taps * (size_t)(s.k_block / 8 + 2);
    const size_t ranges = (size_t)(s.y_count + s.x_count);
    char *block =
        dc_alloc(plan->ctx, sizeof s + ranges * sizeof *s.y_ranges + lists * sizeof *s.segments +
                                segments * sizeof(struct dc_segment));
    if (block == NULL) {
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "plan: no memory for %zu segments",
                       segments);
    }
    s.y_ranges = (struct dc_tap_range *)(block + sizeof s);
    s.x_ranges = s.y_ranges + s.y_count;
    s.segments = (struct dc_direct_segments *)(s.x_ranges + s.x_count);
    const struct dc_axis rows = dc_rows_axis(p), columns = dc_columns_axis(p);
    s.y_ranges[0] = (struct dc_tap_range){0, s.hout, 0, p->desc.kh};
    s.x_ranges[0] = (struct dc_tap_range){0, p->wout, 0, p->desc.kw};
    if (!s.flat) {
        dc_tap_ranges(&rows, s.y_ranges, s.y_count);
    }
    if (!s.flat && s.source == DC_SOURCE_INPLACE) {
        dc_tap_ranges(&columns, s.x_ranges, s.x_count);
    }
    build_lists(p, &s, (struct dc_segment *)(s.segments + lists));
    plan_fresh(plan, &s);
    plan->state = memcpy(block, &s, sizeof s);
    return DOCONV_OK;
}
