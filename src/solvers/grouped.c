/* SPDX-License-Identifier: MIT */
/*
 * Depthwise convolution and convolution in narrow groups. A unit of work is one vector of output
 * channels over a block of rows of an image. The kernel reads src in place where the vector of
 * input channels lies together, else a copy of the rows; it finds the borders of the image itself.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/costs.h"
#include "base/cpu.h"
#include "base/layout.h"
#include "base/log.h"
#include "base/registry.h"
#include "geometry/strips.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "solvers/grouped.h"

/*
 * Floats of a call's sums on their way into a layout that the kernel can't store itself: half of
 * the smallest L1.
 */
#define SUMS_FLOATS 4096

/*
 * Channels that may be taken together, in as many vectors: where they lie side by side, these are
 * two cache lines, which the hardware fetches as a pair; and what a tile costs beside its taps is
 * paid once. Where they lie far apart a tile reads that many streams at a time.
 */
#define CHANNELS_TOGETHER 32

/* Vectors whose places are fixed with a plan. */
#define MOST_PLACES 4096

/* What a candidate chooses. */
struct parameters {
    int rows;     /* output rows of a unit */
    int together; /* channels that a call takes: CHANNELS_TOGETHER, or 0: a vector */
};

/* Where a vector of output channels and its inputs lie in an image. */
struct place {
    ptrdiff_t src, dst;
    int32_t channels, stored; /* valid, and to write */
    bool copied, buffered;    /* its inputs are copied; its sums go through the buffer */
};

struct grouped_state {
    int64_t vectors, row_blocks, rows; /* rows: output rows of a unit */
    int64_t together;                  /* channels that a call takes, at most */
    int64_t store_rows;                /* output rows of a call whose sums go through the buffer */
    int tasks;
    ptrdiff_t strip_row, strip_floats, task_floats;
    ptrdiff_t bias_floats, vector_floats; /* of packed weights: all biases; one vector's taps */
    struct dc_tensor_map src_map, dst_map;
    struct dc_grouped_args args; /* what all calls share */
    /*
     * [vectors], for a unit may be as short as a few hundred cycles, and an address takes several
     * divisions; NULL where there would be more than MOST_PLACES
     */
    const struct place *places;
};

/* Channels of dst that the vector from `channel` on writes. */
static int64_t channels_stored(const struct dc_problem *p, int64_t vector, int64_t channel)
{
    const int64_t channels = least(vector, p->desc.cout - channel);
    return dc_channels_stored(dc_layout_block(p->desc.dst_layout), channel, channels, p->desc.cout);
}

static bool stores_directly(const struct dc_problem *p, const struct dc_tensor_map *map,
                            int64_t vector, int64_t channel)
{
    const int64_t stored = channels_stored(p, vector, channel);
    return map->channel == 1 && stored <= vector &&
           channel % map->block_channels + stored <= map->block_channels;
}

/*
 * Does any vector of output channels have to be copied, or to be buffered? Places in a block repeat
 * after as many groups of input channels, or vectors of outputs, as a block has channels, and only
 * the last may differ otherwise. A group has one vector or several.
 */
static void find_detours(const struct dc_problem *p, const struct grouped_state *s, int64_t vector,
                         bool *copies, bool *buffers)
{
    const int64_t group = most(1, p->group_cout / vector), last = s->vectors - 1;
    *copies = *buffers = false;
    for (int64_t i = 0; i <= DC_CHANNEL_BLOCK; i++) {
        const int64_t reads = i < DC_CHANNEL_BLOCK ? least(i * group, last) : last,
                      stores = i < DC_CHANNEL_BLOCK ? least(i, last) : last;
        *copies = *copies || !dc_vector_in_place(&s->src_map, p->desc.cin, vector,
                                                 dc_first_input(p, reads * vector));
        *buffers = *buffers || !stores_directly(p, &s->dst_map, vector, stores * vector);
    }
}

/* NULL, or why the kernel can't do the problem. */
static const char *refuse(const struct dc_problem *p, const struct dc_kernel *kernel)
{
    const doconv_conv_desc *d = &p->desc;
    const int64_t vector = kernel->vector;
    if (kernel->family == DC_FAMILY_DEPTHWISE) {
        if (p->group_cin != 1 || p->group_cout != 1) {
            return "it takes one input and one output channel a group";
        }
    } else if (d->groups == 1) {
        return "it takes more than one group";
    } else if (p->group_cin == 1 && p->group_cout == 1) {
        return "the depthwise kernel of this ISA does the same without permutations";
    } else if (!dc_groups_fit_vector(p, vector)) {
        return "a group's output channels end inside a vector, or a vector of them sees more than "
               "a "
               "vector of input channels";
    }
    /* In double first: the largest problems would overflow the strides. */
    if ((double)d->h * (double)d->w * (double)vector > 1e15 ||
        (double)p->hout * (double)p->wout * (double)vector > 1e15 ||
        (double)d->kh * (double)d->kw * (double)p->group_cin * (double)vector > 1e12) {
        return "it needs too much memory";
    }
    return NULL;
}

/* A problem that is not refused. */
static void geometry(const struct dc_problem *p, const struct dc_kernel *kernel,
                     const struct parameters *q, struct grouped_state *s)
{
    const doconv_conv_desc *d = &p->desc;
    const struct dc_axis axis = dc_rows_axis(p);
    const int64_t vector = kernel->vector, taps = d->kh * d->kw;
    const int64_t right =
        (p->wout - 1) * d->stride_w - d->pad_left + (d->kw - 1) * d->dilation_w - (d->w - 1);
    *s = (struct grouped_state){
        .vectors = divide_up(d->cout, vector),
        .rows = least(q->rows, p->hout),
        .together = most(q->together, vector),
        .src_map = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
        .dst_map = dc_tensor_map(d->dst_layout, d->cout, p->hout, p->wout),
        .args = {.vectors = 1,
                 .w = d->w,
                 .planes = p->group_cin,
                 .kh = d->kh,
                 .kw = d->kw,
                 .stride_h = d->stride_h,
                 .stride_w = d->stride_w,
                 .dilation_h = d->dilation_h,
                 .dilation_w = d->dilation_w,
                 .pad_left = d->pad_left,
                 .edge = most(d->pad_left, right),
                 .wout = p->wout},
    };
    s->args.chunk = dc_taps_together(d->kw, d->stride_w, d->dilation_w, s->args.edge);
    s->row_blocks = divide_up(p->hout, s->rows);
    bool copies, buffers;
    find_detours(p, s, vector, &copies, &buffers);
    s->strip_row = d->w * vector;
    s->strip_floats = copies ? least(d->h, dc_inputs_spanned(&axis, s->rows)) * s->strip_row : 0;
    s->store_rows = least(s->rows, most(1, SUMS_FLOATS / (p->wout * vector)));
    s->task_floats = align_floats(
        s->strip_floats + (buffers ? (s->store_rows * p->wout + DC_TILE_SLACK) * vector : 0));
    s->vector_floats = align_floats(taps * p->group_cin * vector);
    s->args.weights_vector = s->vector_floats;
    s->bias_floats = align_floats(s->vectors * vector);
    s->tasks = (int)least(p->threads, d->n * s->row_blocks * s->vectors);
}

/*
 * How much slower than its FMAs a kernel goes through its taps. Where these have 32 registers, or
 * tiles are small, neighbouring pixels share their columns in registers; with strides less so, but
 * where a row of five taps is taken at once.
 */
static double tap_factor(const struct dc_problem *p, const struct dc_kernel *kernel,
                         const struct grouped_state *s)
{
    const bool shares = kernel->vector != 8 || kernel->tile_pixels <= 8;
    return kernel->family == DC_FAMILY_GROUPED           ? 1.2
           : !shares                                     ? 1.4
           : p->desc.stride_w == 1 || s->args.chunk == 5 ? 1.0
                                                         : 1.2;
}

/* Cycles of what an image's tensors take to come and go. */
static double tensor_cycles(const struct dc_problem *p, const struct grouped_state *s)
{
    const struct dc_cpu *cpu = dc_cpu_probe();
    const double in = 4.0 * (double)(p->desc.cin * p->desc.h * p->desc.w),
                 out = 4.0 * (double)(p->desc.cout * p->hout * p->wout);
    /*
     * Where channels of a pixel lie side by side, a pass over a block of rows should find them in a
     * cache again; else each is read once.
     */
    const double block = p->desc.src_layout == DOCONV_NHWC ? in / (double)s->row_blocks : in + out;
    double cycles = in / (block < 0.5 * (double)cpu->l1d_bytes  ? 64.0
                          : block < 0.6 * (double)cpu->l2_bytes ? 32.0
                                                                : 10.0);
    if (s->strip_floats != 0) {
        cycles += 4.0 * (double)s->strip_floats * (double)s->vectors * (double)s->row_blocks /
                  (s->src_map.channel == 1 ? 12.0 : 5.0);
    }
    return s->task_floats > s->strip_floats ? cycles + out / 6.0 : cycles;
}

/* Seconds. It only has to rank: what matters is measured. */
static double estimate(const struct dc_problem *p, const struct dc_kernel *kernel,
                       const struct grouped_state *s)
{
    const struct dc_cpu *cpu = dc_cpu_probe();
    const double taps = (double)(p->desc.kh * p->desc.kw * p->group_cin),
                 fma_rate = kernel->vector == 16 ? cpu->fma512_per_cycle : 2.0,
                 calls = (double)kernel->vector / (double)s->together; /* of a vector */
    const double tiles = ceil((double)p->wout / kernel->tile_pixels),
                 lines = (double)(s->vectors * p->hout);
    double cycles = lines * ((double)p->wout * (taps / fma_rate * tap_factor(p, kernel, s) + 3.0) +
                             tiles * (15.0 + 10.0 * calls)) +
                    (double)(s->vectors * s->row_blocks) * 60.0 * calls + tensor_cycles(p, s);
    if (calls < 1.0 && p->desc.src_layout != DOCONV_NHWC &&
        (double)(p->src_bytes + p->dst_bytes) > 0.6 * (double)cpu->l2_bytes) {
        cycles *= 1.1; /* several streams of what no cache holds */
    }
    return (double)p->desc.n * cycles / DC_NOMINAL_HERTZ / (double)s->tasks;
}

static void append(const doconv_context *ctx, const struct dc_problem *p,
                   const struct dc_kernel *kernel, const struct parameters *q,
                   struct dc_candidate_list *list)
{
    const bool depthwise = kernel->family == DC_FAMILY_DEPTHWISE;
    struct grouped_state s;
    geometry(p, kernel, q, &s);
    struct dc_candidate c = {
        .solver = depthwise ? &dc_solver_depthwise : &dc_solver_grouped,
        .kernel = kernel,
        .order_of_sums = depthwise ? DC_SUMS_DEPTHWISE : DC_SUMS_GROUPED,
        .error_amplification = kernel->error_amplification,
        .workspace_size = (size_t)s.tasks * (size_t)s.task_floats * sizeof(float) + 64,
        .packed_size = (size_t)(s.bias_floats + s.vectors * s.vector_floats) * sizeof(float),
        .estimated_seconds = estimate(p, kernel, &s),
    };
    dc_set_parameters(&c, q);
    dc_candidate_append(ctx, list, &c);
}

static const char *enumerate(const doconv_context *ctx, const struct dc_problem *p,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    const struct dc_cpu *cpu = dc_cpu_probe();
    const char *refused = refuse(p, kernel);
    if (refused != NULL) {
        return refused;
    }
    struct parameters q = {.rows = 1};
    struct grouped_state s;
    geometry(p, kernel, &q, &s);
    const bool apart = s.src_map.channel != 1 || s.dst_map.channel != 1 || s.vectors == 1 ||
                       kernel->vector >= CHANNELS_TOGETHER;
    /*
     * Rows whose inputs, of all channels, stay in a cache from one vector to the next; or whose
     * copy does.
     */
    const double row = 4.0 * (double)p->desc.w * (double)p->desc.stride_h *
                       (double)(s.strip_floats != 0 ? kernel->vector : p->desc.cin);
    const int64_t targets[] = {p->hout, divide_up(p->hout, p->threads),
                               (int64_t)fmin(1e9, 0.5 * (double)cpu->l2_bytes / row),
                               (int64_t)fmin(1e9, 0.6 * (double)cpu->l1d_bytes / row)};
    enum { TARGETS = sizeof targets / sizeof targets[0] };
    int offered[TARGETS], count = 0;
    for (int t = 0; t < TARGETS; t++) {
        const int64_t blocks = divide_up(p->hout, most(1, least(p->hout, targets[t])));
        q.rows = (int)divide_up(p->hout, blocks);
        if (!is_new(q.rows, offered, &count)) {
            continue;
        }
        for (int together = 0; together <= (apart ? 0 : CHANNELS_TOGETHER);
             together += CHANNELS_TOGETHER) {
            q.together = together;
            append(ctx, p, kernel, &q, list);
        }
    }
    return NULL;
}

static void describe(const struct dc_candidate *c, char *text, size_t size)
{
    struct parameters q;
    dc_get_parameters(c, &q);
    if (q.together != 0) {
        snprintf(text, size, ":rows=%d,channels=%d", q.rows, q.together);
    } else {
        snprintf(text, size, ":rows=%d", q.rows);
    }
}

static struct place place_of(const struct dc_problem *p, const struct grouped_state *s,
                             int64_t vector, int64_t channel)
{
    const int64_t first = dc_first_input(p, channel);
    return (struct place){
        .src = channel_at(&s->src_map, first),
        .dst = channel_at(&s->dst_map, channel),
        .channels = (int32_t)least(vector, p->desc.cout - channel),
        .stored = (int32_t)channels_stored(p, vector, channel),
        .copied = !dc_vector_in_place(&s->src_map, p->desc.cin, vector, first),
        .buffered = !stores_directly(p, &s->dst_map, vector, channel),
    };
}

static doconv_status prepare(doconv_plan *plan)
{
    const struct dc_problem *p = &plan->problem;
    const int64_t vector = plan->candidate.kernel->vector, planes = p->group_cin;
    struct parameters q;
    struct grouped_state state, *s;
    dc_get_parameters(&plan->candidate, &q);
    geometry(p, plan->candidate.kernel, &q, &state); /* enumerate() did it before */
    const int64_t placed = state.vectors <= MOST_PLACES ? state.vectors : 0;
    const size_t places = (size_t)placed * sizeof(struct place);
    s = dc_alloc(plan->ctx, sizeof *s + places + (size_t)(planes * vector) * sizeof(int32_t));
    if (s == NULL) {
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "plan: out of memory");
    }
    *s = state;
    struct place *const place = (struct place *)(s + 1);
    for (int64_t v = 0; v < placed; v++) {
        place[v] = place_of(p, s, vector, v * vector);
    }
    s->places = placed != 0 ? place : NULL;
    int32_t *lanes = (int32_t *)(place + placed);
    dc_group_lanes(p, vector, lanes);
    s->args.lanes = lanes;
    s->args.src_pixel = s->src_map.pixel;
    s->args.dst_pixel = s->dst_map.pixel;
    s->args.src_row = s->src_map.row;
    s->args.dst_row = s->dst_map.row;
    s->args.h = p->desc.h;
    s->args.pad_top = p->desc.pad_top;
    s->args.lo = p->lo;
    s->args.hi = p->hi;
    plan->state = s;
    plan->packed_layout = dc_hash(plan->packed_layout, &s->args.chunk, sizeof s->args.chunk);
    return DOCONV_OK;
}

/*
 * [biases][vector][kx / chunk][ky][input channel of the group][kx % chunk][lane], zeros where
 * channels end.
 */
static void pack(const doconv_plan *plan, const struct dc_weight_view *weight, const float *bias,
                 float *packed)
{
    const struct grouped_state *s = plan->state;
    const struct dc_problem *p = &plan->problem;
    const int64_t vector = plan->candidate.kernel->vector, kh = p->desc.kh, kw = p->desc.kw,
                  planes = p->group_cin, chunk = s->args.chunk;
    memset(packed, 0, plan->candidate.packed_size);
    for (int64_t o = 0; o < p->desc.cout; o++) {
        if (bias != NULL) {
            packed[o] = bias[o];
        }
        float *out = packed + s->bias_floats + o / vector * s->vector_floats + o % vector;
        const float *from =
            weight->data + o / p->group_cout * weight->group + o % p->group_cout * weight->out;
        for (int64_t first = 0; first < kw; first += chunk) {
            const int64_t columns = least(chunk, kw - first);
            for (int64_t y = 0; y < kh; y++) {
                for (int64_t i = 0; i < planes; i++) {
                    for (int64_t x = 0; x < columns; x++) {
                        *out =
                            from[i * weight->in + y * weight->row + (first + x) * weight->column];
                        out += vector;
                    }
                }
            }
        }
    }
}

/* ---- execution ---- */

struct job {
    const doconv_plan *plan;
    const float *packed, *src, *residual;
    float *dst;
    float *workspace;
};

/* Copies the rows that outputs [y0, y1) read and lets args read the copy. */
static void copy_rows(const struct job *job, struct dc_grouped_args *args, int64_t n,
                      int64_t channel, int64_t y0, int64_t y1, float *strip)
{
    const struct grouped_state *s = job->plan->state;
    const struct dc_problem *p = &job->plan->problem;
    const doconv_conv_desc *d = &p->desc;
    const struct dc_kernel *kernel = job->plan->candidate.kernel;
    const struct dc_axis axis = dc_rows_axis(p);
    int64_t first, end;
    dc_inputs_read(&axis, y0, y1, &first, &end);
    struct dc_load_args load =
        dc_load_from(&s->src_map, job->src + n * s->src_map.image, dc_first_input(p, channel),
                     dc_inputs_seen(p, kernel->vector, channel), d->h, d->w);
    load.strip = strip;
    load.strip_row = s->strip_row;
    load.strip_pixel = kernel->vector;
    load.rows = end - first;
    load.columns = d->w;
    load.y0 = first;
    if (load.rows > 0) {
        kernel->grouped.load(&load);
    }
    args->src = strip;
    args->src_row = s->strip_row;
    args->src_pixel = kernel->vector;
    args->h = load.rows;
    args->pad_top = d->pad_top + first;
}

/*
 * How many vectors from v on, of at most `most`, can be one call's, which takes a tile of pixels
 * for all of them before the next tile: whole ones, read and written in place, equally far apart.
 */
static int64_t vectors_together(const struct grouped_state *s, int64_t vector, int64_t v,
                                int64_t most)
{
    int64_t count = 1;
    if (s->places == NULL) {
        return count;
    }
    const struct place *first = &s->places[v];
    while (count < most && (v + count) * vector % s->together != 0) {
        const struct place *next = first + count;
        if (first->copied || first->buffered || next->copied || next->buffered ||
            next->src - first->src != count * (first[1].src - first->src) ||
            next->dst - first->dst != count * (first[1].dst - first->dst) ||
            next->channels != vector || next->stored != vector) {
            break;
        }
        count++;
    }
    return count;
}

/* Vectors [v, v + vectors); several only as vectors_together() has them. */
static void run_unit(const struct job *job, int64_t n, int64_t row_block, int64_t v,
                     int64_t vectors, float *strip)
{
    const struct grouped_state *s = job->plan->state;
    const struct dc_problem *p = &job->plan->problem;
    const struct dc_kernel *kernel = job->plan->candidate.kernel;
    const int64_t vector = kernel->vector, channel = v * vector;
    const struct place place = s->places != NULL ? s->places[v] : place_of(p, s, vector, channel);
    const int64_t y0 = row_block * s->rows, y1 = least(p->hout, y0 + s->rows);
    struct dc_grouped_args args = s->args;
    args.weights = job->packed + s->bias_floats + v * s->vector_floats;
    args.bias = job->packed + channel;
    args.vectors = vectors;
    if (vectors > 1) {
        args.src_vector = s->places[v + 1].src - place.src;
        args.dst_vector = s->places[v + 1].dst - place.dst;
    }
    args.channels = place.channels;
    if (place.copied) {
        copy_rows(job, &args, n, channel, y0, y1, strip);
    } else {
        args.src = job->src + n * s->src_map.image + place.src;
    }
    float *const dst = job->dst + n * s->dst_map.image + y0 * s->dst_map.row;
    const float *const residual = job->residual != NULL ? job->residual + (dst - job->dst) : NULL;
    if (!place.buffered) {
        args.stored = place.stored;
        args.y0 = y0;
        args.y1 = y1;
        args.dst = dst + place.dst;
        args.residual = residual != NULL ? residual + place.dst : NULL;
        kernel->grouped.run(&args);
        return;
    }
    float *const sums = strip + s->strip_floats;
    args.channels = args.stored = vector;
    args.lo = -INFINITY;
    args.hi = INFINITY;
    args.dst = sums;
    args.dst_pixel = vector;
    args.dst_row = p->wout * vector;
    struct dc_store_args store = dc_store_to(&s->dst_map, channel, place.channels, place.stored);
    store.tile = sums;
    store.tile_channels = vector;
    store.lo = p->lo;
    store.hi = p->hi;
    for (args.y0 = y0; args.y0 < y1; args.y0 = args.y1) {
        args.y1 = least(y1, args.y0 + s->store_rows);
        kernel->grouped.run(&args);
        store.pixels = (args.y1 - args.y0) * p->wout;
        store.dst = dst + (args.y0 - y0) * s->dst_map.row;
        store.residual = residual != NULL ? residual + (args.y0 - y0) * s->dst_map.row : NULL;
        kernel->grouped.store(&store);
    }
}

static void run_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct grouped_state *s = job->plan->state;
    float *const strip = job->workspace + index * s->task_floats;
    const int64_t vector = job->plan->candidate.kernel->vector;
    const int64_t units = job->plan->problem.desc.n * s->row_blocks * s->vectors;
    const int64_t begin = units * index / s->tasks, end = units * (index + 1) / s->tasks;
    int64_t v = begin % s->vectors, row_block = begin / s->vectors % s->row_blocks,
            n = begin / s->vectors / s->row_blocks;
    for (int64_t i = begin, count; i < end; i += count) {
        count = vectors_together(s, vector, v, least(end - i, s->vectors - v));
        run_unit(job, n, row_block, v, count, strip);
        v += count;
        if (v == s->vectors) {
            v = 0;
            if (++row_block == s->row_blocks) {
                row_block = 0;
                n++;
            }
        }
    }
}

static void execute(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace)
{
    const struct grouped_state *s = plan->state;
    struct job job = {
        .plan = plan,
        .packed = tensors->packed,
        .src = tensors->src,
        .residual = tensors->residual,
        .dst = tensors->dst,
        .workspace = (float *)workspace,
    };
    dc_parallel(plan->ctx, s->tasks, run_task, &job);
}

const struct dc_solver dc_solver_depthwise = {
    .name = "depthwise",
    .operation = DC_CONVOLUTION,
    .family = DC_FAMILY_DEPTHWISE,
    .enumerate = enumerate,
    .describe = describe,
    .prepare = prepare,
    .execute = execute,
    .pack = pack,
};

const struct dc_solver dc_solver_grouped = {
    .name = "grouped",
    .operation = DC_CONVOLUTION,
    .family = DC_FAMILY_GROUPED,
    .enumerate = enumerate,
    .describe = describe,
    .prepare = prepare,
    .execute = execute,
    .pack = pack,
};
