/* SPDX-License-Identifier: MIT */
/*
 * Checking a variant's results: what all operations share, and those that give dst or a folded
 * weight. Gradients are check_gradients.c's.
 */
#include "base/arithmetic.h"
#include "base/context.h"
#include "base/layout.h"
#include "base/log.h"
#include "check.h"
#include "kernel.h"
#include "measure.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"
#include "solvers/reference.h"

#include <math.h>
#include <string.h>

#define FEWEST_PLANES 8  /* compared whatever they cost */
#define ROUNDING 0x1p-24 /* unit roundoff of fp32 */

/* ---- differences ---- */

bool dc_difference_is_rounding(const struct difference *d, const struct sums *sums,
                               float error_amplification)
{
    return d->worst <= (double)error_amplification * 16.0 * ROUNDING * sqrt(sums->terms) *
                           fmax(d->largest, sums->usual);
}

void dc_check_judge(struct check *check, const struct difference *d, const struct sums *sums)
{
    const double scale = d->largest > 0.0 ? d->largest : sums->usual;
    const double error = scale > 0.0 ? d->worst / scale : d->worst > 0.0 ? INFINITY : 0.0;
    const double rms = d->expected_squares > 0.0 ? sqrt(d->squares / d->expected_squares) : error;
    struct check_result *result = &check->result;
    result->max_rel_error = fmax(result->max_rel_error, error);
    result->rms_error = fmax(result->rms_error, isnan(rms) ? INFINITY : rms);
    result->right = result->right && dc_difference_is_rounding(
                                         d, sums, check->item->plan->candidate.error_amplification);
}

void dc_check_tensor(struct check *check, enum measure_tensor which, const float *expected,
                     const struct sums *sums)
{
    struct difference d = {0};
    const float *got = check->set->tensors[which];
    for (size_t i = 0; i < check->set->bytes[which] / sizeof *got; i++) {
        dc_difference_add(&d, (double)got[i], (double)expected[i]);
    }
    dc_check_judge(check, &d, sums);
}

double dc_largest_of(const float *values, size_t bytes)
{
    float largest = 0.0f;
    for (size_t i = 0; i < bytes / sizeof *values; i++) {
        largest = fmaxf(largest, fabsf(values[i]));
    }
    return (double)largest;
}

/* ---- other ways to the same ---- */

doconv_status dc_check_run(doconv_context *ctx, const struct dc_problem *problem,
                           const char *variant, const struct dc_tensors *tensors)
{
    const doconv_plan_options options = {
        .size = sizeof options, .rigor = DOCONV_RIGOR_ESTIMATE, .variant = variant};
    doconv_plan *plan;
    doconv_status status = dc_plan_create(ctx, problem, &options, &plan);
    if (status != DOCONV_OK) {
        return status;
    }
    char *workspace = plan->workspace_size != 0 ? dc_alloc(ctx, plan->workspace_size) : NULL;
    if (plan->workspace_size != 0 && workspace == NULL) {
        status = dc_fail(ctx, DOCONV_OUT_OF_MEMORY,
                         "tune: no memory to check a result: a workspace of %zu bytes",
                         plan->workspace_size);
    } else {
        dc_plan_run(plan, tensors, workspace);
    }
    dc_free(ctx, workspace);
    doconv_plan_destroy(plan);
    return status;
}

doconv_status dc_check_fold(const struct measure_set *set, float **folded)
{
    const struct dc_problem fold = dc_problem_for(&set->problem, DC_FOLD);
    *folded = dc_alloc(set->ctx, fold.weight_bytes);
    if (*folded == NULL) {
        return dc_fail(set->ctx, DOCONV_OUT_OF_MEMORY,
                       "tune: no memory to check a result: a weight of %zu bytes",
                       fold.weight_bytes);
    }
    const struct dc_tensors tensors = {
        .w = set->tensors[MEASURE_W],
        .d = set->tensors[MEASURE_D],
        .weight = *folded,
    };
    const doconv_status status = dc_check_run(set->ctx, &fold, CHECK_FOLD, &tensors);
    if (status != DOCONV_OK) {
        dc_free(set->ctx, *folded);
        *folded = NULL;
    }
    return status;
}

/* ---- dst, by the reference kernel ---- */

/* A plane is one image's output channel, those that only pad a blocked layout included. */
struct planes {
    const struct dc_kernel *reference;
    struct dc_reference_args args;
    const float *got;
    bool known;     /* what is expected is there already */
    int64_t stored; /* channels of an image in dst */
    int64_t count, checked;
    int tasks;
    struct difference *found; /* of each plane checked */
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

static void check_plane(const struct planes *planes, int64_t index)
{
    struct dc_reference_args args = planes->args;
    /* Spread evenly, the first and the last among them. */
    const double step =
        planes->checked > 1 ? (double)(planes->count - 1) / (double)(planes->checked - 1) : 0.0;
    const int64_t plane =
        index == planes->checked - 1 ? planes->count - 1 : (int64_t)(step * (double)index);
    args.n = plane / planes->stored;
    args.out_channel = plane % planes->stored;
    if (!planes->known) {
        planes->reference->reference.run(&args);
    }
    const struct dc_tensor_map *map = &args.dst_map;
    const ptrdiff_t start = args.n * map->image + channel_at(map, args.out_channel);
    struct difference d = {0};
    for (ptrdiff_t y = 0; y < args.hout; y++) {
        for (ptrdiff_t x = 0; x < args.wout; x++) {
            const ptrdiff_t at = start + y * map->row + x * map->pixel;
            dc_difference_add(&d, (double)planes->got[at], (double)args.dst[at]);
        }
    }
    planes->found[index] = d;
}

static void check_task(void *arg, int task)
{
    const struct planes *planes = arg;
    for (int64_t i = task; i < planes->checked; i += planes->tasks) {
        check_plane(planes, i);
    }
}

static doconv_status check_planes(struct check *check, const float *weight, const struct sums *sums)
{
    struct measure_set *set = check->set;
    const struct dc_problem *p = &set->problem;
    const int64_t block = dc_layout_block(p->desc.dst_layout),
                  stored = divide_up(p->desc.cout, block) * block;
    struct planes planes = {.reference = find_reference(set->ctx),
                            .got = set->tensors[MEASURE_DST],
                            .stored = stored,
                            .count = p->desc.n * stored};
    if (planes.reference == NULL) {
        return dc_fail(set->ctx, DOCONV_UNSUPPORTED,
                       "tune: there is no reference kernel to check a winner against");
    }
    const double affordable = CHECK_MACS / (p->macs / (double)planes.count);
    planes.checked = affordable < FEWEST_PLANES ? FEWEST_PLANES
                     : affordable < INT32_MAX   ? (int64_t)affordable
                                                : INT32_MAX;
    planes.checked = least(planes.checked, planes.count);
    /* The same for every variant of the set, whose tensors stay what they are. */
    planes.known = set->expected != NULL;
    float *expected = planes.known ? set->expected : dc_alloc(set->ctx, p->dst_bytes);
    planes.found = dc_alloc(set->ctx, (size_t)planes.checked * sizeof *planes.found);
    if (expected == NULL || planes.found == NULL) {
        dc_free(set->ctx, planes.known ? NULL : expected);
        dc_free(set->ctx, planes.found);
        return dc_fail(set->ctx, DOCONV_OUT_OF_MEMORY,
                       "tune: no memory for a reference result of %zu bytes", p->dst_bytes);
    }
    set->expected = expected;
    planes.args =
        dc_reference_args(p, set->tensors[MEASURE_SRC], weight, set->tensors[MEASURE_BIAS],
                          set->tensors[MEASURE_RESIDUAL], expected);
    planes.tasks = (int)least(set->ctx->threads, planes.checked);
    dc_parallel(set->ctx, planes.tasks, check_task, &planes);
    struct difference all = {0};
    for (int64_t i = 0; i < planes.checked; i++) {
        dc_difference_join(&all, &planes.found[i]);
    }
    dc_free(set->ctx, planes.found);
    dc_check_judge(check, &all, sums);
    return DOCONV_OK;
}

/* ---- operations ---- */

/* D_mul terms a weight, in which D may have an identity. */
static struct sums fold_sums(const struct dc_problem *p)
{
    const double terms = (double)p->fold.d_mul + CHECK_FEWEST_TERMS;
    return (struct sums){.terms = terms, .usual = 0.25 * sqrt(terms)};
}

static doconv_status check_fold(struct check *check)
{
    float *folded;
    const doconv_status status = dc_check_fold(check->set, &folded);
    if (status == DOCONV_OK) {
        const struct sums sums = fold_sums(&check->set->problem);
        dc_check_tensor(check, MEASURE_FOLDED, folded, &sums);
    }
    dc_free(check->set->ctx, folded);
    return status;
}

/*
 * dst of a convolution, or of a DO-Conv layer, whose folded weight is handed on by kernel
 * composition and never there by feature composition.
 */
static doconv_status check_forward(struct check *check)
{
    const struct measure_set *set = check->set;
    const struct dc_problem *p = &set->problem;
    const double terms = (double)p->group_cin * (double)p->desc.kh * (double)p->desc.kw;
    struct sums sums = {.terms = terms + CHECK_FEWEST_TERMS};
    sums.usual = 0.25 * sqrt(sums.terms);
    if (set->tensors[MEASURE_W] == NULL) {
        return check_planes(check, set->tensors[MEASURE_WEIGHT], &sums);
    }
    float *folded;
    doconv_status status = dc_check_fold(set, &folded);
    if (status == DOCONV_OK) {
        sums.terms += (double)p->group_cin * (double)p->fold.d_mul;
        sums.usual *= 2.0 * dc_largest_of(folded, p->weight_bytes);
        status = check_planes(check, folded, &sums);
    }
    if (status == DOCONV_OK && set->tensors[MEASURE_FOLDED] != NULL) {
        sums = fold_sums(p);
        dc_check_tensor(check, MEASURE_FOLDED, folded, &sums);
    }
    dc_free(set->ctx, folded);
    return status;
}

static doconv_status check_step(struct check *check)
{
    const doconv_status status = check_forward(check);
    return status == DOCONV_OK ? dc_check_feature_backward(check) : status;
}

doconv_status dc_measure_check(struct measure_set *set, const struct measured *item,
                               struct check_result *result)
{
    static doconv_status (*const checks[DC_OPERATIONS])(struct check *) = {
        [DC_CONVOLUTION] = check_forward,
        [DC_FOLD] = check_fold,
        [DC_FOLD_GRADIENT] = dc_check_fold_gradient,
        [DC_FEATURE_FORWARD] = check_forward,
        [DC_FEATURE_BACKWARD] = dc_check_feature_backward,
        [DC_WEIGHT_GRADIENT] = dc_check_weight_gradient,
        [DC_LAYER_FORWARD] = check_forward,
        [DC_LAYER_STEP] = check_step,
    };
    struct check check = {.set = set, .item = item, .result.right = true};
    /* NaN: what is left out shows, and is not taken from what another variant left behind. */
    for (int i = MEASURE_FIRST_WRITTEN; i < MEASURE_TENSORS; i++) {
        if (set->tensors[i] != NULL) {
            memset(set->tensors[i], 0xff, set->bytes[i]);
        }
    }
    if (set->workspace != NULL) {
        memset(set->workspace, 0xff, set->workspace_size);
    }
    dc_measure_run(set, item);
    const doconv_status status = checks[set->problem.operation](&check);
    *result = check.result;
    return status;
}
