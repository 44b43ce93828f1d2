/* SPDX-License-Identifier: MIT */
/* Checking a variant's result against the reference kernel. */
#include "base/context.h"
#include "base/layout.h"
#include "base/log.h"
#include "kernel.h"
#include "measure.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "solvers/reference.h"

#include <math.h>
#include <string.h>

/*
 * MACs that the reference may compute for a check (about a tenth of a second), and the fewest
 * planes compared all the same.
 */
#define CHECK_MACS 5e7
#define FEWEST_PLANES 8
#define ROUNDING 0x1p-24 /* unit roundoff of fp32 */

/* A plane is one image's output channel, those that only pad a blocked layout included. */
struct check {
    const struct dc_kernel *reference;
    struct dc_reference_args args;
    const float *got;
    int64_t stored; /* channels of an image in dst */
    int64_t planes, checked;
    int tasks;
    double *worst, *largest; /* of each plane checked */
};

static const struct dc_kernel *find_reference(const doconv_context *ctx)
{
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        if ((*row)->family == DC_FAMILY_REFERENCE) {
            return *row;
        }
    }
    return NULL;
}

static void check_plane(const struct check *check, int64_t index)
{
    struct dc_reference_args args = check->args;
    /* Spread evenly, the first and the last among them. */
    const double step =
        check->checked > 1 ? (double)(check->planes - 1) / (double)(check->checked - 1) : 0.0;
    const int64_t plane =
        index == check->checked - 1 ? check->planes - 1 : (int64_t)(step * (double)index);
    args.n = plane / check->stored;
    args.out_channel = plane % check->stored;
    check->reference->reference.run(&args);
    const struct dc_tensor_map *map = &args.dst_map;
    const ptrdiff_t start = args.n * map->image +
                            args.out_channel / map->block_channels * map->block +
                            args.out_channel % map->block_channels * map->channel;
    double worst = 0.0, largest = 0.0;
    for (ptrdiff_t y = 0; y < args.hout; y++) {
        for (ptrdiff_t x = 0; x < args.wout; x++) {
            const ptrdiff_t at = start + y * map->row + x * map->pixel;
            const double difference = fabs((double)check->got[at] - (double)args.dst[at]);
            worst = isnan(difference) ? INFINITY : fmax(worst, difference);
            largest = fmax(largest, fabs((double)args.dst[at]));
        }
    }
    check->worst[index] = worst;
    check->largest[index] = largest;
}

static void check_task(void *arg, int task)
{
    const struct check *check = arg;
    for (int64_t i = task; i < check->checked; i += check->tasks) {
        check_plane(check, i);
    }
}

/* A little more than the terms of a dot product: bias and residual, and room for the shortest. */
static double terms(const struct dc_problem *p)
{
    return (double)p->group_cin * (double)p->desc.kh * (double)p->desc.kw + 16.0;
}

/*
 * The usual size of a sum of products of values in [-0.5, 0.5): post-ops may leave nothing of it.
 */
static double usual_size(const struct dc_problem *p)
{
    return 0.25 * sqrt(terms(p));
}

/*
 * Sums of k terms without a common sign grow like sqrt(k), and so does their rounding relative to
 * them: 16 units leave room for every order of additions, and none for a term that is missing.
 */
static double tolerance(const struct dc_problem *p, const struct dc_kernel *kernel, double largest)
{
    return (double)kernel->error_amplification * 16.0 * ROUNDING * sqrt(terms(p)) *
           fmax(largest, usual_size(p));
}

doconv_status dc_measure_check(struct measure_set *set, const struct measured *item,
                               double *max_rel_error, bool *right)
{
    doconv_context *ctx = set->ctx;
    const struct dc_problem *p = &set->problem;
    const int64_t block = dc_layout_block(p->desc.dst_layout),
                  stored = (p->desc.cout + block - 1) / block * block;
    struct check check = {.reference = find_reference(ctx),
                          .got = set->dst,
                          .stored = stored,
                          .planes = p->desc.n * stored};
    if (check.reference == NULL) {
        return dc_fail(ctx, DOCONV_UNSUPPORTED,
                       "tune: there is no reference kernel to check a winner against");
    }
    const double affordable = CHECK_MACS / (p->macs / (double)check.planes);
    check.checked = affordable < FEWEST_PLANES ? FEWEST_PLANES
                    : affordable < INT32_MAX   ? (int64_t)affordable
                                               : INT32_MAX;
    check.checked = check.checked < check.planes ? check.checked : check.planes;
    float *expected = dc_alloc(ctx, p->dst_bytes);
    check.worst = dc_alloc(ctx, 2 * (size_t)check.checked * sizeof *check.worst);
    if (expected == NULL || check.worst == NULL) {
        dc_free(ctx, expected);
        dc_free(ctx, check.worst);
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY,
                       "tune: no memory for a reference result of %zu bytes", p->dst_bytes);
    }
    check.largest = check.worst + check.checked;
    check.args = dc_reference_args(p, set->src, set->weight, set->bias, set->residual, expected);
    memset(set->dst, 0xff, p->dst_bytes); /* NaN: what a variant leaves out shows */
    dc_measure_run(set, item);
    check.tasks = ctx->threads < check.checked ? ctx->threads : (int)check.checked;
    dc_parallel(ctx, check.tasks, check_task, &check);
    double worst = 0.0, largest = 0.0;
    for (int64_t i = 0; i < check.checked; i++) {
        worst = fmax(worst, check.worst[i]);
        largest = fmax(largest, check.largest[i]);
    }
    dc_free(ctx, expected);
    dc_free(ctx, check.worst);
    *max_rel_error = worst / (largest > 0.0 ? largest : usual_size(p));
    *right = worst <= tolerance(p, item->plan->candidate.kernel, largest);
    return DOCONV_OK;
}
