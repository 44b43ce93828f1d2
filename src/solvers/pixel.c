/* SPDX-License-Identifier: MIT */
/*
 * 1x1 convolutions of a single pixel, as squeeze-and-excite blocks and classifiers have: a matrix
 * times a vector. Every layout is the same here, and each weight is used once: blocks of outputs as
 * wide as a tile of sums follow each other in one stream of weights.
 */
#include <math.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/costs.h"
#include "base/cpu.h"
#include "base/layout.h"
#include "base/log.h"
#include "base/registry.h"
#include "kernel.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "solvers/pixel.h"

struct state {
    /* outputs to write: a blocked dst is filled up with zeros */
    int64_t stored;
    /* vectors of outputs; blocks: the first `larger` have size + 1 vectors each, the rest size */
    int64_t vectors, blocks, size, larger;
    int64_t bias_floats; /* of packed weights: all biases */
    int tasks;
};

static void geometry(const struct dc_problem *p, const struct dc_kernel *kernel, struct state *s)
{
    const int64_t block = dc_layout_block(p->desc.dst_layout);
    *s = (struct state){.stored = divide_up(p->desc.cout, block) * block};
    s->vectors = divide_up(s->stored, kernel->vector);
    s->blocks = divide_up(s->vectors, kernel->tile_channels / kernel->vector);
    s->size = s->vectors / s->blocks;
    s->larger = s->vectors % s->blocks;
    s->bias_floats = align_floats(s->vectors * kernel->vector);
    s->tasks = (int)least(p->threads, s->blocks);
}

/* First vector of a block. */
static int64_t block_first(const struct state *s, int64_t block)
{
    return block * s->size + least(block, s->larger);
}

/* Seconds, as the direct solver's estimate. */
static double estimate(const struct dc_problem *p, const struct dc_kernel *kernel,
                       const struct state *s)
{
    const struct dc_cpu *cpu = dc_cpu_probe();
    const double k = (double)p->desc.cin, size = (double)s->vectors / (double)s->blocks,
                 step = 4.0 * size * kernel->vector, weights = step * k * (double)s->blocks;
    const double fma_rate = kernel->vector == 16 ? cpu->fma512_per_cycle : 2.0;
    const double rate = weights <= 0.5 * (double)cpu->l1d_bytes   ? 64.0
                        : weights <= 0.75 * (double)cpu->l2_bytes ? 40.0
                                                                  : 30.0;
    /* A sum waits four cycles for its FMA. */
    const double cycles = fmax(fmax(size / fma_rate, 4.0), step / rate);
    return ((double)s->blocks * (k * cycles + 30.0) + 100.0) / DC_NOMINAL_HERTZ / (double)s->tasks;
}

static const char *enumerate(const doconv_context *ctx, const struct dc_problem *p,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    const doconv_conv_desc *d = &p->desc;
    if (d->n != 1 || d->h != 1 || d->w != 1 || d->groups != 1) {
        return "it takes one image of one pixel, in one group";
    }
    if (d->kh != 1 || d->kw != 1 || p->hout != 1 || p->wout != 1 || d->pad_top != 0 ||
        d->pad_left != 0) {
        return "it takes 1x1 kernels without padding";
    }
    struct state s;
    geometry(p, kernel, &s);
    const struct dc_candidate c = {
        .solver = &dc_solver_pixel,
        .kernel = kernel,
        .order_of_sums = DC_SUMS_CHANNELS,
        .error_amplification = kernel->error_amplification,
        .packed_size =
            (size_t)(s.bias_floats + d->cin * s.vectors * kernel->vector) * sizeof(float),
        .estimated_seconds = estimate(p, kernel, &s),
    };
    dc_candidate_append(ctx, list, &c);
    return NULL;
}

static doconv_status prepare(doconv_plan *plan)
{
    struct state *state = dc_alloc(plan->ctx, sizeof *state);
    if (state == NULL) {
        return dc_fail(plan->ctx, DOCONV_OUT_OF_MEMORY, "plan: out of memory");
    }
    geometry(&plan->problem, plan->candidate.kernel, state); /* enumerate() did it before */
    plan->state = state;
    /* Zeros behind the outputs are packed too, as many as the layout of dst has. */
    plan->packed_layout = dc_hash(plan->packed_layout, &state->vectors, sizeof state->vectors);
    return DOCONV_OK;
}

/* [biases][output block][input channel][output of the block], zeros where the outputs end. */
static void pack(const doconv_plan *plan, const struct dc_weight_view *weight, const float *bias,
                 float *packed)
{
    const struct state *s = plan->state;
    const doconv_conv_desc *d = &plan->problem.desc;
    const int64_t vector = plan->candidate.kernel->vector;
    memset(packed, 0, plan->candidate.packed_size);
    if (bias != NULL) {
        memcpy(packed, bias, (size_t)d->cout * sizeof *bias);
    }
    for (int64_t block = 0; block < s->blocks; block++) {
        const int64_t first = block_first(s, block) * vector,
                      width = block_first(s, block + 1) * vector - first;
        float *out = packed + s->bias_floats + first * d->cin;
        for (int64_t o = first; o < least(first + width, d->cout); o++, out++) {
            const float *from = weight->data + o * weight->out;
            for (int64_t c = 0; c < d->cin; c++) {
                out[c * width] = from[c * weight->in];
            }
        }
    }
}

struct job {
    const doconv_plan *plan;
    const struct dc_tensors *tensors;
};

static void run_task(void *arg, int index)
{
    const struct job *job = arg;
    const struct state *s = job->plan->state;
    const struct dc_problem *p = &job->plan->problem;
    const struct dc_kernel *kernel = job->plan->candidate.kernel;
    const float *const packed = job->tensors->packed, *const residual = job->tensors->residual;
    const int64_t begin = s->blocks * index / s->tasks, end = s->blocks * (index + 1) / s->tasks,
                  first = block_first(s, begin) * kernel->vector;
    const struct dc_pixel_args args = {
        .src = job->tensors->src,
        .channels = p->desc.cin,
        .weights = packed + s->bias_floats + first * p->desc.cin,
        .bias = packed + first,
        .larger = most(least(end, s->larger) - begin, 0),
        .smaller = most(end - most(begin, s->larger), 0),
        .size = s->size,
        .dst = job->tensors->dst + first,
        .residual = residual != NULL ? residual + first : NULL,
        .outputs = p->desc.cout - first,
        .stored = s->stored - first,
        .lo = p->lo,
        .hi = p->hi,
    };
    kernel->pixel.run(&args);
}

static void execute(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace)
{
    (void)workspace;
    const struct state *s = plan->state;
    struct job job = {.plan = plan, .tensors = tensors};
    dc_parallel(plan->ctx, s->tasks, run_task, &job);
}

const struct dc_solver dc_solver_pixel = {
    .name = "pixel",
    .operation = DC_CONVOLUTION,
    .family = DC_FAMILY_PIXEL,
    .enumerate = enumerate,
    .prepare = prepare,
    .execute = execute,
    .pack = pack,
};
