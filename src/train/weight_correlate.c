/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's weight for depthwise convolution and narrow groups: lanes are
 * output channels, whose sums are taps. A task has whole vectors of them; each sums its pixels in
 * order.
 */
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/costs.h"
#include "base/cpu.h"
#include "base/layout.h"
#include "base/log.h"
#include "geometry/strips.h"
#include "geometry/tap_ranges.h"
#include "kernel.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "train/weight_gradient.h"

/* Pixels of a call whose rows are read in several passes: few enough to stay near. */
#define CALL_PIXELS 512

struct state {
    struct dc_tensor_map src_map, dst_map;
    int tasks;
    int64_t vectors, call_rows; /* of output channels; output rows of a call */
    /* Copies of the rows of a call, where a vector isn't contiguous: floats, or 0. */
    ptrdiff_t src_strip, grad_strip;
    ptrdiff_t sums_floats, task_floats;
    const int32_t *lanes; /* of dc_correlate_args, behind the state; NULL: in order */
};

/*
 * Should the kernel read a vector of a tensor's channels, from `first` on, where it is? Channels of
 * a group are passes over the pixels, which pixels far apart push out of L1.
 */
static bool reads_in_place(const struct dc_problem *p, const struct dc_tensor_map *map,
                           int64_t vector, int64_t first, int64_t channels)
{
    const bool near = p->group_cin < 4 || map->pixel < 128;
    return near && dc_vector_in_place(map, channels, vector, first);
}

static const char *refuse(const struct dc_problem *p, const struct dc_kernel *kernel)
{
    const bool depthwise = p->group_cin == 1 && p->group_cout == 1;
    if (p->desc.groups == 1) {
        return "it takes more than one group";
    }
    if (depthwise && kernel->correlate.deals) {
        return "the depthwise kernel of this ISA does the same without permutations";
    }
    if (!depthwise && !kernel->correlate.deals) {
        return "it takes one input and one output channel a group";
    }
    if (p->group_cin >= DC_CHANNEL_BLOCK || !dc_groups_fit_vector(p, kernel->vector)) {
        return "a group's output channels end inside a vector, or a vector of them sees more than "
               "a "
               "vector of input channels";
    }
    return dc_weight_gradient_is_small(p) ? NULL : "its copies would be too large";
}

/* All but the lanes. */
static struct state create_state(const struct dc_problem *p, const struct dc_kernel *kernel)
{
    const doconv_conv_desc *d = &p->desc;
    const struct dc_axis axis = dc_rows_axis(p);
    const int64_t vector = kernel->vector, planes = p->group_cin;
    struct state s = {
        .src_map = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
        .dst_map = dc_tensor_map(d->dst_layout, d->cout, p->hout, p->wout),
        .vectors = divide_up(d->cout, vector),
    };
    bool src_copies = false, grad_copies = false;
    /*
     * Places in a block repeat after as many groups of inputs, or vectors of outputs, as a block
     * has channels, and only the last may differ otherwise. A group has one vector or several.
     */
    const int64_t group = most(1, p->group_cout / vector), last = s.vectors - 1;
    for (int64_t i = 0; i <= DC_CHANNEL_BLOCK; i++) {
        const int64_t reads = i < DC_CHANNEL_BLOCK ? least(i * group, last) : last,
                      grads = i < DC_CHANNEL_BLOCK ? least(i, last) : last;
        const int64_t input = dc_first_input(p, reads * vector);
        src_copies = src_copies || !reads_in_place(p, &s.src_map, vector, input, d->cin);
        grad_copies =
            grad_copies || !reads_in_place(p, &s.dst_map, vector, grads * vector, d->cout);
    }
    /* Rows that are read once are read at once; else a few, that stay near from pass to pass. */
    const bool once = planes == 1 && d->kh <= 3 && d->kw <= 3 && !src_copies && !grad_copies;
    s.call_rows = once ? p->hout : most(1, least(p->hout, CALL_PIXELS / p->wout));
    const int64_t src_rows = least(d->h, dc_inputs_spanned(&axis, s.call_rows));
    s.src_strip = src_copies ? align_floats(src_rows * d->w * vector) : 0;
    s.grad_strip = grad_copies ? align_floats(s.call_rows * p->wout * vector) : 0;
    s.sums_floats = planes * d->kh * d->kw * vector;
    s.task_floats = align_floats(s.src_strip + s.grad_strip + s.sums_floats) + 16;
    s.tasks = (int)least(p->threads, s.vectors);
    return s;
}

static const char *enumerate(const doconv_context *ctx, const struct dc_problem *p,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    const char *refused = refuse(p, kernel);
    if (refused != NULL) {
        return refused;
    }
    const struct state s = create_state(p, kernel);
    const double rate = kernel->vector == 16 ? dc_cpu_probe()->fma512_per_cycle : 2.0;
    const double products =
        (double)(p->desc.n * p->hout * p->wout) * (double)(p->group_cin * p->desc.kh * p->desc.kw);
    struct dc_candidate c = {
        .solver = &dc_solver_weight_correlate,
        .kernel = kernel,
        .order_of_sums = DC_SUMS_CORRELATE + (int)kernel->isa,
        .error_amplification = kernel->error_amplification,
        .workspace_size = (size_t)s.tasks * (size_t)s.task_floats * sizeof(float),
        /* Short vectors need more calls. */
        .estimated_seconds = products * (double)s.vectors * (1.5 / rate + 1.0 / kernel->vector) /
                             DC_NOMINAL_HERTZ / s.tasks,
    };
    dc_candidate_append(ctx, list, &c);
    return NULL;
}

static doconv_status prepare(doconv_plan *plan)
{
    const struct dc_problem *p = &plan->problem;
    const struct dc_kernel *kernel = plan->candidate.kernel;
    const int64_t vector = kernel->vector, planes = p->group_cin;
    struct state *s = dc_alloc(plan->ctx, sizeof *s + (size_t)(planes * vector) * sizeof(int32_t));
    if (s == NULL) {
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "training: out of memory");
    }
    *s = create_state(p, kernel);
    int32_t *const lanes = (int32_t *)(s + 1);
    dc_group_lanes(p, vector, lanes);
    s->lanes = kernel->correlate.deals ? lanes : NULL;
    plan->state = s;
    return DOCONV_OK;
}

/* ---- execution ---- */

struct job {
    const doconv_plan *plan;
    const float *src, *grad_dst;
    float *grad_weight;
    float *workspace;
};

/*
 * Rows [first, first + rows) of channels [channel, channel + channels) of an image, `width`
 * columns, become a strip of vectors.
 */
static void load_strip(const struct dc_kernel *kernel, const struct dc_tensor_map *map,
                       const float *image, int64_t channel, int64_t channels, int64_t first,
                       int64_t rows, int64_t width, float *strip)
{
    struct dc_load_args load = dc_load_from(map, image, channel, channels, first + rows, width);
    load.strip = strip;
    load.strip_row = width * kernel->vector;
    load.strip_pixel = kernel->vector;
    load.rows = rows;
    load.columns = width;
    load.y0 = first;
    if (rows > 0) {
        kernel->correlate.load(&load);
    }
}

/* Where a call finds the gradient of its output rows, in place or in a strip. */
static void find_grad(const struct job *job, int64_t channel, const float *image, float *strip,
                      struct dc_correlate_args *args)
{
    const struct state *s = job->plan->state;
    const struct dc_problem *p = &job->plan->problem;
    const struct dc_kernel *kernel = job->plan->candidate.kernel;
    const int64_t vector = kernel->vector;
    if (reads_in_place(p, &s->dst_map, vector, channel, p->desc.cout)) {
        args->grad = image + channel_at(&s->dst_map, channel) + args->y0 * s->dst_map.row;
        args->grad_row = s->dst_map.row;
        args->grad_pixel = s->dst_map.pixel;
        return;
    }
    load_strip(kernel, &s->dst_map, image, channel, least(vector, p->desc.cout - channel), args->y0,
               args->y1 - args->y0, p->wout, strip);
    args->grad = strip;
    args->grad_row = p->wout * vector;
    args->grad_pixel = vector;
}

/* And where it finds the rows of src that those meet. */
static void find_src(const struct job *job, int64_t channel, const float *image, float *strip,
                     struct dc_correlate_args *args)
{
    const struct state *s = job->plan->state;
    const struct dc_problem *p = &job->plan->problem;
    const doconv_conv_desc *d = &p->desc;
    const struct dc_kernel *kernel = job->plan->candidate.kernel;
    const int64_t vector = kernel->vector, input = dc_first_input(p, channel);
    if (reads_in_place(p, &s->src_map, vector, input, d->cin)) {
        args->src = image + channel_at(&s->src_map, input);
        args->src_row = s->src_map.row;
        args->src_pixel = s->src_map.pixel;
        args->h = d->h;
        args->pad_top = d->pad_top;
        return;
    }
    const struct dc_axis axis = dc_rows_axis(p);
    int64_t first, end;
    dc_inputs_read(&axis, args->y0, args->y1, &first, &end);
    load_strip(kernel, &s->src_map, image, input, dc_inputs_seen(p, vector, channel), first,
               end - first, d->w, strip);
    args->src = strip;
    args->src_row = d->w * vector;
    args->src_pixel = vector;
    args->h = end - first;
    args->pad_top = d->pad_top + first;
}

static void run_vector(const struct job *job, int64_t v, float *src_strip)
{
    const struct state *s = job->plan->state;
    const struct dc_problem *p = &job->plan->problem;
    const doconv_conv_desc *d = &p->desc;
    const struct dc_kernel *kernel = job->plan->candidate.kernel;
    const int64_t vector = kernel->vector, channel = v * vector,
                  count = least(vector, d->cout - channel);
    float *const grad_strip = src_strip + s->src_strip, *const sums = grad_strip + s->grad_strip;
    struct dc_correlate_args args = {
        .lanes = s->lanes,
        .planes = p->group_cin,
        .kh = d->kh,
        .kw = d->kw,
        .stride_h = d->stride_h,
        .stride_w = d->stride_w,
        .dilation_h = d->dilation_h,
        .dilation_w = d->dilation_w,
        .pad_left = d->pad_left,
        .w = d->w,
        .wout = p->wout,
        .sums = sums,
    };
    memset(sums, 0, (size_t)s->sums_floats * sizeof *sums);
    for (int64_t n = 0; n < d->n; n++) {
        for (args.y0 = 0; args.y0 < p->hout; args.y0 = args.y1) {
            args.y1 = least(p->hout, args.y0 + s->call_rows);
            find_grad(job, channel, job->grad_dst + n * s->dst_map.image, grad_strip, &args);
            find_src(job, channel, job->src + n * s->src_map.image, src_strip, &args);
            kernel->correlate.run(&args);
        }
    }
    const int64_t row = p->group_cin * d->kh * d->kw;
    for (int64_t c = 0; c < count; c++) {
        for (int64_t i = 0; i < row; i++) {
            job->grad_weight[(channel + c) * row + i] = sums[i * vector + c];
        }
    }
}

static void run_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct state *s = job->plan->state;
    for (int64_t v = s->vectors * index / s->tasks; v < s->vectors * (index + 1) / s->tasks; v++) {
        run_vector(job, v, job->workspace + index * s->task_floats);
    }
}

static void execute(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace)
{
    const struct state *s = plan->state;
    struct job job = {
        .plan = plan,
        .src = tensors->src,
        .grad_dst = tensors->grad_dst,
        .grad_weight = tensors->grad_weight,
        .workspace = (float *)workspace,
    };
    dc_parallel(plan->ctx, s->tasks, run_task, &job);
}

const struct dc_solver dc_solver_weight_correlate = {
    .name = "correlate",
    .operation = DC_WEIGHT_GRADIENT,
    .family = DC_FAMILY_CORRELATE,
    .enumerate = enumerate,
    .prepare = prepare,
    .execute = execute,
};
