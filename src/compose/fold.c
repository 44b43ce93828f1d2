/* SPDX-License-Identifier: MIT */
/*
 * Folding: the kernel that D and W of a DO-Conv layer compose to (arXiv 2006.12030, section 3; the
 * mappings of grouped layers are those of its modules).
 */
#include <inttypes.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/cpu.h"
#include "base/log.h"
#include "base/overlap.h"
#include "compose/fold.h"
#include "kernel.h"

/*
 * Of a tensor: 4 TiB, which leaves room for sixteen lanes, and for each thread's, in all sizes that
 * are computed from it.
 */
#define MOST_FLOATS ((int64_t)1 << 40)

doconv_status dc_fold_check(doconv_context *ctx, const doconv_fold_desc *desc)
{
    if (desc->size != sizeof *desc) {
        return dc_fail(ctx, DOCONV_MISMATCH, "fold: size: %zu, not %zu", desc->size, sizeof *desc);
    }
    const struct {
        const char *name;
        int64_t value;
    } counts[] = {{"cout", desc->cout}, {"cin", desc->cin},       {"kh", desc->kh},
                  {"kw", desc->kw},     {"groups", desc->groups}, {"d_mul", desc->d_mul}};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        if (counts[i].value < 1) {
            return dc_fail(ctx, DOCONV_INVALID_PROBLEM, "fold: %s: %" PRId64 " is less than 1",
                           counts[i].name, counts[i].value);
        }
    }
    if (desc->cin % desc->groups != 0 || desc->cout % desc->groups != 0) {
        return dc_fail(ctx, DOCONV_INVALID_PROBLEM,
                       "fold: groups: %" PRId64 " does not divide cin %" PRId64
                       " and cout %" PRId64,
                       desc->groups, desc->cin, desc->cout);
    }
    if (desc->mapping < DOCONV_MAPPING_PAPER || desc->mapping > DOCONV_MAPPING_TENSORFLOW) {
        return dc_fail(ctx, DOCONV_INVALID_PROBLEM, "fold: mapping: %d is none",
                       (int)desc->mapping);
    }
    if (desc->add_identity != 0 && desc->add_identity != 1) {
        return dc_fail(ctx, DOCONV_INVALID_PROBLEM, "fold: add_identity: %d is neither 0 nor 1",
                       desc->add_identity);
    }
    int64_t taps, sizes[3];
    if (__builtin_mul_overflow(desc->kh, desc->kw, &taps) ||
        __builtin_mul_overflow(desc->cout, desc->cin / desc->groups, &sizes[0]) ||
        __builtin_mul_overflow(sizes[0], taps > desc->d_mul ? taps : desc->d_mul, &sizes[1]) ||
        __builtin_mul_overflow(taps, desc->d_mul, &sizes[2]) ||
        __builtin_mul_overflow(sizes[2], desc->cin, &sizes[2]) || sizes[1] > MOST_FLOATS ||
        sizes[2] > MOST_FLOATS) {
        return dc_fail(ctx, DOCONV_OVERFLOW, "fold: its tensors are larger than memory can be");
    }
    return DOCONV_OK;
}

struct job {
    const doconv_fold_desc *desc;
    bool gradient; /* desc is turned() of the layer's, which D's channels are laid out by */
    const float *w, *d;
    float *weight;
    int tasks;
    /* With a kernel: */
    const struct dc_kernel *kernel;
    int64_t blocks; /* vectors of channels of D in all */
    /* tasks are parts of the blocks x parts of the rows that meet a channel */
    int block_parts;
    ptrdiff_t blocks_a_call; /* which the kernel shares rows over */
    ptrdiff_t panel;         /* of dc_compose_args */
    bool in_memory;
    float *scratch;
    size_t scratch_floats; /* a task's */
    /*
     * inputs 0: W and the weight have all rows. Else w has those of some outputs and inputs only.
     */
    int64_t out, in, inputs;
};

/*
 * The rows of W (one for an output and in-group input) that meet a channel of D: Cout/groups of
 * them, `step` apart.
 */
struct row_series {
    int64_t first, step;
};

static struct row_series rows_of(const doconv_fold_desc *desc, int64_t channel)
{
    if (desc->groups == 1) {
        /* whatever the mapping, and without its divisions */
        return (struct row_series){.first = channel, .step = desc->cin};
    }
    const int64_t group_cin = desc->cin / desc->groups, group_cout = desc->cout / desc->groups;
    switch (desc->mapping) {
    case DOCONV_MAPPING_PYTORCH:
        return (struct row_series){.first = channel, .step = desc->cin};
    case DOCONV_MAPPING_TENSORFLOW:
        return (struct row_series){.first = channel % desc->groups * group_cout * group_cin +
                                            channel / desc->groups,
                                   .step = group_cin};
    default:
        return (struct row_series){.first = channel / group_cin * group_cout * group_cin +
                                            channel % group_cin,
                                   .step = group_cin};
    }
}

/* How much of D_mul the identity is added to. */
static int64_t repeated_of(const struct job *job)
{
    const doconv_fold_desc *desc = job->desc;
    const int64_t kernel = desc->kh * desc->kw, taps = job->gradient ? desc->d_mul : kernel,
                  d_mul = job->gradient ? kernel : desc->d_mul;
    return desc->add_identity ? d_mul / taps * taps : 0;
}

/* Channels [first, end) of D, and rows [start, stop) of those that meet each, without a kernel. */
static void fold_portably(const struct job *job, int64_t first, int64_t end, int64_t start,
                          int64_t stop)
{
    const doconv_fold_desc *desc = job->desc;
    const int64_t taps = desc->kh * desc->kw, d_mul = desc->d_mul, repeated = repeated_of(job);
    for (int64_t channel = first; channel < end; channel++) {
        const struct row_series rows = rows_of(desc, channel);
        for (int64_t t = start; t < stop; t++) {
            const float *w = job->w + (rows.first + t * rows.step) * d_mul;
            const float *d = job->d + channel * taps * d_mul;
            float *out = job->weight + (rows.first + t * rows.step) * taps;
            for (int64_t m = 0; m < taps; m++) {
                float sum = 0.0f;
                for (int64_t s = 0; s < d_mul; s++) {
                    const float identity = s < repeated && s % taps == m ? 1.0f : 0.0f;
                    sum += (d[m * d_mul + s] + identity) * w[s];
                }
                out[m] = sum;
            }
        }
    }
}

/*
 * Calls the kernel for `blocks` vectors of `channels` channels each, from the channel `first` on,
 * and rows [start, start + copies * steps) of each channel. Where channels are fewer than lanes,
 * `copies` rows of a channel lie side by side; lanes past these repeat the first.
 */
static void compose(const struct job *job, float *scratch, int64_t first, int64_t blocks,
                    int64_t channels, int64_t start, int64_t copies, int64_t steps)
{
    const doconv_fold_desc *desc = job->desc;
    const int64_t vector = job->kernel->vector, taps = desc->kh * desc->kw;
    ptrdiff_t rows[DC_COMPOSE_BLOCKS * DC_CHANNEL_BLOCK],
        results[DC_COMPOSE_BLOCKS * DC_CHANNEL_BLOCK], lanes[DC_COMPOSE_BLOCKS * DC_CHANNEL_BLOCK];
    for (int64_t i = 0; i < blocks * vector; i += vector) {
        int64_t channel = 0, copy = 0;
        for (int64_t lane = 0; lane < vector; lane++) {
            lanes[i + lane] = first + i + channel;
            const struct row_series series = rows_of(desc, lanes[i + lane]);
            const int64_t row = start + copy;
            results[i + lane] = series.first + row * series.step;
            rows[i + lane] = job->inputs == 0
                                 ? results[i + lane]
                                 : (row - job->out) * job->inputs + lanes[i + lane] - job->in;
            if (++channel == channels) {
                channel = 0;
                copy = copy + 1 < copies ? copy + 1 : 0;
            }
        }
    }
    const struct dc_compose_args args = {
        .w = job->w,
        .d = job->d,
        .weight = job->weight,
        .rows = rows,
        .results = results,
        .channels = lanes,
        .blocks = blocks,
        .row_step = copies * (job->inputs == 0 ? rows_of(desc, first).step : job->inputs),
        .result_step = copies * rows_of(desc, first).step,
        .steps = steps,
        .taps = taps,
        .d_mul = desc->d_mul,
        .repeated = repeated_of(job),
        .d_turned = job->gradient,
        .in_memory = job->in_memory,
        .panel = job->panel,
        .scratch = scratch,
    };
    job->kernel->compose(&args);
}

/*
 * Blocks [block, last) of channels of D with a kernel, and rows [start, end) of those that meet
 * each.
 */
static void fold_blocks(const struct job *job, float *scratch, int64_t block, int64_t last,
                        int64_t start, int64_t end)
{
    const doconv_fold_desc *desc = job->desc;
    const int64_t vector = job->kernel->vector, full = desc->cin / vector;
    while (block < least(full, last)) {
        const int64_t blocks = least(job->blocks_a_call, least(full, last) - block);
        compose(job, scratch, block * vector, blocks, vector, start, 1, end - start);
        block += blocks;
    }
    if (block < last) {
        const int64_t channels = desc->cin % vector, copies = least(vector / channels, end - start),
                      steps = (end - start) / copies;
        compose(job, scratch, block * vector, 1, channels, start, copies, steps);
        if (copies * steps < end - start) {
            compose(job, scratch, block * vector, 1, channels, start + copies * steps,
                    end - start - copies * steps, 1);
        }
    }
}

static void fold_task(void *arg, int index)
{
    const struct job *job = arg;
    const doconv_fold_desc *desc = job->desc;
    const int64_t group_cout = desc->cout / desc->groups;
    if (job->kernel == NULL) {
        fold_portably(job, desc->cin * index / job->tasks, desc->cin * (index + 1) / job->tasks, 0,
                      group_cout);
        return;
    }
    const int row_parts = job->tasks / job->block_parts, block_part = index / row_parts,
              row_part = index % row_parts;
    fold_blocks(job, job->scratch + (size_t)index * job->scratch_floats,
                job->blocks * block_part / job->block_parts,
                job->blocks * (block_part + 1) / job->block_parts,
                group_cout * row_part / row_parts, group_cout * (row_part + 1) / row_parts);
}

/* Of W and of the weight. */
static double bytes_of_rows(const doconv_fold_desc *desc)
{
    return 4.0 * (double)(desc->cout * (desc->cin / desc->groups)) *
           (double)(desc->kh * desc->kw + desc->d_mul);
}

/* Do these come from beyond L2? */
static bool rows_are_far(const doconv_fold_desc *desc)
{
    return bytes_of_rows(desc) > 0.75 * (double)dc_cpu_probe()->l2_bytes;
}

/*
 * From beyond L3 even, which others use as well, so that a part of its size may be too much
 * already?
 */
static bool rows_are_in_memory(const doconv_fold_desc *desc)
{
    return rows_are_far(desc) && bytes_of_rows(desc) > 0.25 * (double)dc_cpu_probe()->l3_bytes;
}

/*
 * The kernel of the best usable ISA, and how to cut the work for it: so that transposed rows of D
 * stay in L1 over all the rows that meet them; or in L2, where rows come from far: blocks of
 * neighbouring channels follow each other in a row, and memory is fast only where it is read on and
 * on.
 */
static void choose(const doconv_context *ctx, struct job *job)
{
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL && job->kernel == NULL;
         row++) {
        if ((*row)->op == DC_OP_COMPOSE && dc_isa_usable((*row)->isa, ctx->isa)) {
            job->kernel = *row;
        }
    }
    const doconv_fold_desc *desc = job->desc;
    const int64_t taps = desc->kh * desc->kw, group_cout = desc->cout / desc->groups;
    if (job->kernel == NULL) {
        job->tasks = (int)least(ctx->threads, desc->cin);
        return;
    }
    const struct dc_cpu *cpu = dc_cpu_probe();
    const int64_t vector = job->kernel->vector, tap_floats = desc->d_mul * vector;
    const int64_t fitting = cpu->l2_bytes / 4 / (int64_t)sizeof(float) / tap_floats,
                  tile = job->kernel->tile_pixels;
    job->blocks = (desc->cin + vector - 1) / vector;
    job->panel = least(taps, fitting < tile ? tile : fitting);
    job->in_memory = rows_are_in_memory(desc);
    const int64_t room = rows_are_far(desc) ? cpu->l2_bytes / 3 : cpu->l1d_bytes * 2 / 3,
                  fit = room / (int64_t)sizeof(float) / (job->panel * tap_floats);
    job->blocks_a_call = fit < 1 ? 1 : least(least(fit, DC_COMPOSE_BLOCKS), job->blocks);
    const int64_t rows = job->kernel->tile_channels / vector;
    job->scratch_floats = (size_t)(vector * (job->blocks_a_call * job->panel * desc->d_mul +
                                             rows * (desc->d_mul + job->panel)) +
                                   15) /
                          16 * 16;
    /*
     * Parts of rows balance better where there are few blocks, but each transposes D again, which
     * costs about as much as eight rows.
     */
    double best = 0.0;
    for (int parts = 1; parts <= least(ctx->threads, job->blocks); parts++) {
        const int64_t row_parts = least(ctx->threads / parts, group_cout);
        const double cost = (double)((job->blocks + parts - 1) / parts) *
                            (double)((group_cout + row_parts - 1) / row_parts + 8);
        if (parts == 1 || cost < best) {
            best = cost;
            job->block_parts = parts;
            job->tasks = (int)(parts * row_parts);
        }
    }
}

static void run(const doconv_context *ctx, struct job job, char *workspace)
{
    choose(ctx, &job);
    job.scratch = (float *)workspace;
    dc_parallel(ctx, job.tasks, fold_task, &job);
}

void dc_fold_run(const doconv_context *ctx, const doconv_fold_desc *desc, const float *w,
                 const float *d, float *weight, char *workspace)
{
    run(ctx, (struct job){.desc = desc, .w = w, .d = d, .weight = weight}, workspace);
}

size_t dc_fold_part_floats(const doconv_context *ctx, const doconv_fold_desc *desc)
{
    struct job job = {.desc = desc};
    choose(ctx, &job);
    return job.scratch_floats;
}

void dc_fold_part(const doconv_context *ctx, const doconv_fold_desc *desc,
                  const struct dc_fold_part *part, const float *w, const float *d, float *weight,
                  float *scratch)
{
    struct job job = {.desc = desc, .w = w, .d = d, .weight = weight};
    choose(ctx, &job);
    const int64_t in_end = part->in + part->ins, out_end = part->out + part->outs;
    if (job.kernel == NULL) {
        fold_portably(&job, part->in, in_end, part->out, out_end);
        return;
    }
    fold_blocks(&job, scratch, part->in / job.kernel->vector, divide_up(in_end, job.kernel->vector),
                part->out, out_end);
}

/* ---- the gradient ---- */

struct gradient_job {
    const doconv_fold_desc *desc;
    const float *w, *d, *grad_weight;
    float *grad_w, *grad_d;
    int tasks;
    const struct dc_kernel *kernel;
    float *scratch;
    ptrdiff_t scratch_floats; /* a task's */
    /*
     * inputs 0: grad_weight has all rows. Else it has those of some inputs only, and begins with
     * the outputs of the call.
     */
    int64_t in, inputs;
};

/* A task has whole channels of D: all that meets them is summed there, in order of the outputs. */
static void gradient_portably(void *arg, int index)
{
    const struct gradient_job *job = arg;
    const doconv_fold_desc *desc = job->desc;
    const int64_t taps = desc->kh * desc->kw, d_mul = desc->d_mul,
                  repeated = desc->add_identity ? d_mul / taps * taps : 0;
    for (int64_t channel = desc->cin * index / job->tasks;
         channel < desc->cin * (index + 1) / job->tasks; channel++) {
        const struct row_series rows = rows_of(desc, channel);
        const float *d = job->d + channel * taps * d_mul;
        float *grad_d = job->grad_d != NULL ? job->grad_d + channel * taps * d_mul : NULL;
        if (grad_d != NULL) {
            memset(grad_d, 0, (size_t)(taps * d_mul) * sizeof *grad_d);
        }
        for (int64_t t = 0; t < desc->cout / desc->groups; t++) {
            const int64_t row = rows.first + t * rows.step;
            const float *w = job->w + row * d_mul, *grad = job->grad_weight + row * taps;
            float *grad_w = job->grad_w != NULL ? job->grad_w + row * d_mul : NULL;
            for (int64_t s = 0; s < d_mul && grad_w != NULL; s++) {
                grad_w[s] = s < repeated ? grad[s % taps] : 0.0f;
            }
            for (int64_t m = 0; m < taps; m++) {
                for (int64_t s = 0; s < d_mul && grad_w != NULL; s++) {
                    grad_w[s] += d[m * d_mul + s] * grad[m];
                }
                for (int64_t s = 0; s < d_mul && grad_d != NULL; s++) {
                    grad_d[m * d_mul + s] += w[s] * grad[m];
                }
            }
        }
    }
}

/*
 * Blocks of channels of a call for the gradient of D: rows of several follow each other in memory,
 * which pays where they are far and leaves L1.
 */
static int64_t gradient_blocks(const doconv_fold_desc *desc)
{
    return rows_are_far(desc) && desc->kh * desc->kw * desc->d_mul <= 256
               ? DC_COMPOSE_GRADIENT_BLOCKS
               : 1;
}

/*
 * Outputs [start, end) of a layer, of the paper's mapping or one group, in the gradient of D for
 * blocks [block, block + count) of channels.
 */
static void add_to_grad_d(const struct gradient_job *job, int64_t block, int64_t count,
                          int64_t start, int64_t end, float *scratch)
{
    const doconv_fold_desc *desc = job->desc;
    const int64_t vector = job->kernel->vector, rows_a_channel = desc->cout / desc->groups;
    ptrdiff_t rows[DC_COMPOSE_GRADIENT_BLOCKS * DC_CHANNEL_BLOCK],
        g_rows[DC_COMPOSE_GRADIENT_BLOCKS * DC_CHANNEL_BLOCK];
    ptrdiff_t channels[DC_COMPOSE_GRADIENT_BLOCKS * DC_CHANNEL_BLOCK];
    for (int64_t lane = 0; lane < count * vector; lane++) {
        const int64_t channel = block * vector + lane;
        /* past the last: the block's first again */
        channels[lane] = channel < desc->cin ? channel : (block + lane / vector) * vector;
        const struct row_series series = rows_of(desc, channels[lane]);
        rows[lane] = series.first + start * series.step;
        g_rows[lane] = job->inputs == 0 ? rows[lane] : channels[lane] - job->in;
    }
    const ptrdiff_t step = rows_of(desc, 0).step;
    const struct dc_compose_gradient_args args = {
        .w = job->w,
        .g = job->grad_weight,
        .grad_d = job->grad_d,
        .rows = rows,
        .g_rows = g_rows,
        .channels = channels,
        .blocks = count,
        .row_step = step,
        .g_step = job->inputs == 0 ? step : job->inputs,
        .steps = end - start,
        .resumes = start != 0,
        .goes_on = end != rows_a_channel,
        .taps = desc->kh * desc->kw,
        .d_mul = desc->d_mul,
        .scratch = scratch,
    };
    job->kernel->compose_gradient(&args);
}

/* Gradients of D: a task has whole vectors of channels, some of them a call. */
static void grad_d_task(void *arg, int index)
{
    const struct gradient_job *job = arg;
    const doconv_fold_desc *desc = job->desc;
    const int64_t blocks = divide_up(desc->cin, job->kernel->vector),
                  end = blocks * (index + 1) / job->tasks;
    for (int64_t block = blocks * index / job->tasks, count; block < end; block += count) {
        count = least(gradient_blocks(desc), end - block);
        add_to_grad_d(job, block, count, 0, desc->cout / desc->groups,
                      job->scratch + index * job->scratch_floats);
    }
}

/*
 * That of W folds grad_weight as if it were W, by the same D with taps and d_mul exchanged: a fold
 * whose result has d_mul taps.
 */
static doconv_fold_desc turned(const doconv_fold_desc *desc)
{
    doconv_fold_desc other = *desc;
    other.kh = desc->d_mul;
    other.kw = 1;
    other.d_mul = desc->kh * desc->kw;
    return other;
}

static struct gradient_job plan_gradient(const doconv_context *ctx, const doconv_fold_desc *desc)
{
    struct job fold = {.desc = desc};
    choose(ctx, &fold);
    struct gradient_job job = {
        .desc = desc, .kernel = fold.kernel, .tasks = (int)least(ctx->threads, desc->cin)};
    if (job.kernel != NULL) {
        job.tasks = (int)least(ctx->threads, divide_up(desc->cin, job.kernel->vector));
        job.scratch_floats =
            divide_up(dc_compose_gradient_floats(desc->kh * desc->kw, desc->d_mul,
                                                 job.kernel->tile_pixels,
                                                 job.kernel->tile_channels / job.kernel->vector,
                                                 job.kernel->vector, gradient_blocks(desc)),
                      16) *
            16;
    }
    return job;
}

size_t dc_fold_workspace_size(const doconv_context *ctx, const doconv_fold_desc *desc)
{
    struct job fold = {.desc = desc};
    choose(ctx, &fold);
    const struct gradient_job gradient = plan_gradient(ctx, desc);
    if (gradient.kernel == NULL) {
        return 0;
    }
    const doconv_fold_desc other = turned(desc);
    struct job back = {.desc = &other, .gradient = true};
    choose(ctx, &back);
    /*
     * Of as many tasks as there may be: parts of the layer, with fewer outputs, are cut otherwise.
     */
    const size_t threads = (size_t)ctx->threads, forward = threads * fold.scratch_floats;
    const size_t grad_w = threads * back.scratch_floats,
                 grad_d = (size_t)gradient.tasks * (size_t)gradient.scratch_floats;
    const size_t most = forward > grad_w ? forward : grad_w;
    return (most > grad_d ? most : grad_d) * sizeof(float);
}

void dc_fold_gradient_run(const doconv_context *ctx, const doconv_fold_desc *desc, const float *w,
                          const float *d, const float *grad_weight, float *grad_w, float *grad_d,
                          char *workspace)
{
    struct gradient_job job = plan_gradient(ctx, desc);
    job.w = w, job.d = d, job.grad_weight = grad_weight, job.grad_w = grad_w, job.grad_d = grad_d;
    if (job.kernel == NULL) {
        dc_parallel(ctx, job.tasks, gradient_portably, &job);
        return;
    }
    if (grad_w != NULL) {
        const doconv_fold_desc other = turned(desc);
        run(ctx,
            (struct job){
                .desc = &other, .gradient = true, .w = grad_weight, .d = d, .weight = grad_w},
            workspace);
    }
    if (grad_d != NULL) {
        job.scratch = (float *)workspace;
        dc_parallel(ctx, job.tasks, grad_d_task, &job);
    }
}

/* ---- the gradient of parts, as they come ---- */

int64_t dc_fold_gradient_part_inputs(const doconv_context *ctx, const doconv_fold_desc *desc)
{
    const struct gradient_job job = plan_gradient(ctx, desc);
    const bool fits = desc->kh * desc->kw * desc->d_mul <= 256;
    return job.kernel == NULL || desc->groups != 1 || !fits
               ? 0
               : DC_COMPOSE_GRADIENT_BLOCKS * job.kernel->vector;
}

/* The sums of the gradient of D, which wait from part to part, and the scratch of its calls. */
static ptrdiff_t grad_d_floats(const doconv_fold_desc *desc, const struct dc_kernel *kernel)
{
    return divide_up(dc_compose_gradient_floats(desc->kh * desc->kw, desc->d_mul,
                                                kernel->tile_pixels,
                                                kernel->tile_channels / kernel->vector,
                                                kernel->vector, DC_COMPOSE_GRADIENT_BLOCKS),
                     16) *
           16;
}

size_t dc_fold_gradient_part_floats(const doconv_context *ctx, const doconv_fold_desc *desc)
{
    const doconv_fold_desc other = turned(desc);
    struct job back = {.desc = &other, .gradient = true};
    choose(ctx, &back);
    return (size_t)grad_d_floats(desc, back.kernel) + back.scratch_floats;
}

void dc_fold_gradient_part(const doconv_context *ctx, const doconv_fold_desc *desc,
                           const struct dc_fold_part *part, const float *w, const float *d,
                           const float *grad_weight, float *grad_w, float *grad_d, float *scratch)
{
    const doconv_fold_desc other = turned(desc);
    struct job back = {
        .desc = &other, .gradient = true, .w = grad_weight, .d = d, .weight = grad_w};
    back.out = part->out;
    back.in = part->in;
    back.inputs = part->ins;
    choose(ctx, &back);
    const int64_t block = part->in / back.kernel->vector,
                  end = divide_up(part->in + part->ins, back.kernel->vector);
    if (grad_d != NULL) {
        struct gradient_job job = {.desc = desc,
                                   .w = w,
                                   .grad_weight = grad_weight,
                                   .grad_d = grad_d,
                                   .kernel = back.kernel};
        job.in = part->in;
        job.inputs = part->ins;
        add_to_grad_d(&job, block, end - block, part->out, part->out + part->outs, scratch);
    }
    if (grad_w != NULL) {
        fold_blocks(&back, scratch + grad_d_floats(desc, back.kernel), block, end, part->out,
                    part->out + part->outs);
    }
}

/*
 * What either call below is given, as ranges of its three tensors: what is read, and the weight (or
 * the gradients) that is written.
 */
static doconv_status check_memory(doconv_context *ctx, const doconv_fold_desc *desc, const float *w,
                                  const float *d, const float *grad_weight, float *weight,
                                  float *grad_w, float *grad_d)
{
    const size_t rows = (size_t)(desc->cout * (desc->cin / desc->groups)) * sizeof(float),
                 taps = (size_t)(desc->kh * desc->kw), d_mul = (size_t)desc->d_mul,
                 d_bytes = (size_t)desc->cin * taps * d_mul * sizeof(float);
    const struct dc_range ranges[] = {
        {"w", w, rows * d_mul, false},
        {"d", d, d_bytes, false},
        {"grad_weight", grad_weight, rows * taps, false},
        {"weight", weight, rows * taps, true},
        {"grad_w", grad_w, rows * d_mul, true},
        {"grad_d", grad_d, d_bytes, true},
    };
    return dc_check_overlaps(ctx, ranges, sizeof ranges / sizeof ranges[0]);
}

doconv_status doconv_fold(doconv_context *context, const doconv_fold_desc *desc, const float *w,
                          const float *d, float *weight)
{
    if (context == NULL || desc == NULL || w == NULL || weight == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "fold: %s: NULL",
                       context == NULL ? "context"
                       : desc == NULL  ? "desc"
                       : w == NULL     ? "w"
                                       : "weight");
    }
    doconv_status status = dc_fold_check(context, desc);
    if (status == DOCONV_OK) {
        status = check_memory(context, desc, w, d, NULL, weight, NULL, NULL);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    const int64_t weights = desc->cout * (desc->cin / desc->groups);
    if (d == NULL) {
        if (desc->kh * desc->kw != 1 || desc->d_mul != 1) {
            return dc_fail(context, DOCONV_INVALID_ARGUMENT,
                           "fold: d: NULL, but only a 1x1 kernel with d_mul 1 has no D");
        }
        memcpy(weight, w, (size_t)weights * sizeof(float));
        return DOCONV_OK;
    }
    const size_t size = dc_fold_workspace_size(context, desc);
    char *workspace = size != 0 ? dc_alloc(context, size) : NULL;
    if (size != 0 && workspace == NULL) {
        return dc_fail(context, DOCONV_OUT_OF_MEMORY, "fold: out of memory");
    }
    dc_fold_run(context, desc, w, d, weight, workspace);
    dc_free(context, workspace);
    return DOCONV_OK;
}

doconv_status doconv_fold_gradient(doconv_context *context, const doconv_fold_desc *desc,
                                   const float *w, const float *d, const float *grad_weight,
                                   float *grad_w, float *grad_d)
{
    if (context == NULL || desc == NULL || w == NULL || grad_weight == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "fold gradient: %s: NULL",
                       context == NULL ? "context"
                       : desc == NULL  ? "desc"
                       : w == NULL     ? "w"
                                       : "grad_weight");
    }
    doconv_status status = dc_fold_check(context, desc);
    if (status == DOCONV_OK) {
        status = check_memory(context, desc, w, d, grad_weight, NULL, grad_w, grad_d);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    if (d == NULL) {
        if (desc->kh * desc->kw != 1 || desc->d_mul != 1 || grad_d != NULL) {
            return dc_fail(context, DOCONV_INVALID_ARGUMENT, "fold gradient: %s",
                           grad_d != NULL ? "grad_d: given, but the layer has no D"
                                          : "d: NULL, but only a 1x1 kernel with d_mul 1 has no D");
        }
        if (grad_w != NULL) {
            memcpy(grad_w, grad_weight,
                   (size_t)(desc->cout * (desc->cin / desc->groups)) * sizeof(float));
        }
        return DOCONV_OK;
    }
    const size_t size = dc_fold_workspace_size(context, desc);
    char *workspace = size != 0 ? dc_alloc(context, size) : NULL;
    if (size != 0 && workspace == NULL) {
        return dc_fail(context, DOCONV_OUT_OF_MEMORY, "fold gradient: out of memory");
    }
    dc_fold_gradient_run(context, desc, w, d, grad_weight, grad_w, grad_d, workspace);
    dc_free(context, workspace);
    return DOCONV_OK;
}
