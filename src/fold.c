/* SPDX-License-Identifier: MIT */
/* Folding: the kernel that D and W of a DO-Conv layer compose to (arXiv 2006.12030, section 3; the mappings of grouped layers are those of its modules). */
#include <inttypes.h>
#include <string.h>

#include "core.h"

static doconv_status check(doconv_context *ctx, const doconv_fold_desc *desc)
{
    if (desc->size != sizeof *desc) {
        return dc_fail(ctx, DOCONV_MISMATCH, "fold: size: %zu, not %zu", desc->size, sizeof *desc);
    }
    const struct {
        const char *name;
        int64_t value;
    } counts[] = {{"cout", desc->cout}, {"cin", desc->cin}, {"kh", desc->kh}, {"kw", desc->kw}, {"groups", desc->groups}, {"d_mul", desc->d_mul}};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        if (counts[i].value < 1) {
            return dc_fail(ctx, DOCONV_INVALID_PROBLEM, "fold: %s: %" PRId64 " is less than 1", counts[i].name, counts[i].value);
        }
    }
    if (desc->cin % desc->groups != 0 || desc->cout % desc->groups != 0) {
        return dc_fail(ctx, DOCONV_INVALID_PROBLEM, "fold: groups: %" PRId64 " does not divide cin %" PRId64 " and cout %" PRId64, desc->groups,
                       desc->cin, desc->cout);
    }
    if (desc->mapping < DOCONV_MAPPING_PAPER || desc->mapping > DOCONV_MAPPING_TENSORFLOW) {
        return dc_fail(ctx, DOCONV_INVALID_PROBLEM, "fold: mapping: %d is none", (int)desc->mapping);
    }
    if (desc->add_identity != 0 && desc->add_identity != 1) {
        return dc_fail(ctx, DOCONV_INVALID_PROBLEM, "fold: add_identity: %d is neither 0 nor 1", desc->add_identity);
    }
    int64_t taps, sizes[3];
    if (__builtin_mul_overflow(desc->kh, desc->kw, &taps) || __builtin_mul_overflow(desc->cout, desc->cin / desc->groups, &sizes[0]) ||
        __builtin_mul_overflow(sizes[0], taps > desc->d_mul ? taps : desc->d_mul, &sizes[1]) ||
        __builtin_mul_overflow(taps, desc->d_mul, &sizes[2]) || __builtin_mul_overflow(sizes[2], desc->cin, &sizes[2]) ||
        sizes[1] > PTRDIFF_MAX / (int64_t)sizeof(float) || sizes[2] > PTRDIFF_MAX / (int64_t)sizeof(float)) {
        return dc_fail(ctx, DOCONV_OVERFLOW, "fold: its tensors are larger than memory can be");
    }
    return DOCONV_OK;
}

struct job {
    const doconv_fold_desc *desc;
    const float *w, *d;
    float *weight;
    int tasks;
};

static int64_t channel_of(const doconv_fold_desc *desc, int64_t o, int64_t i)
{
    const int64_t group_cin = desc->cin / desc->groups, group_cout = desc->cout / desc->groups;
    switch (desc->mapping) {
    case DOCONV_MAPPING_PYTORCH:
        return (o * group_cin + i) % desc->cin;
    case DOCONV_MAPPING_TENSORFLOW:
        return (i * desc->cout + o) / group_cout;
    default:
        return o / group_cout * group_cin + i;
    }
}

/* Output channels in contiguous ranges, one a task. */
static void fold_task(void *arg, int index)
{
    const struct job *job = arg;
    const doconv_fold_desc *desc = job->desc;
    const int64_t group_cin = desc->cin / desc->groups, taps = desc->kh * desc->kw, d_mul = desc->d_mul, repeated = d_mul / taps * taps;
    for (int64_t o = desc->cout * index / job->tasks; o < desc->cout * (index + 1) / job->tasks; o++) {
        for (int64_t i = 0; i < group_cin; i++) {
            const float *w = job->w + (o * group_cin + i) * d_mul;
            const float *d = job->d + channel_of(desc, o, i) * taps * d_mul;
            float *out = job->weight + (o * group_cin + i) * taps;
            for (int64_t m = 0; m < taps; m++) {
                float sum = 0.0f;
                for (int64_t s = 0; s < d_mul; s++) {
                    const float identity = desc->add_identity && s < repeated && s % taps == m ? 1.0f : 0.0f;
                    sum += (d[m * d_mul + s] + identity) * w[s];
                }
                out[m] = sum;
            }
        }
    }
}

doconv_status doconv_fold(doconv_context *context, const doconv_fold_desc *desc, const float *w, const float *d, float *weight)
{
    if (context == NULL || desc == NULL || w == NULL || weight == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "fold: %s: NULL",
                       context == NULL ? "context"
                       : desc == NULL  ? "desc"
                       : w == NULL     ? "w"
                                       : "weight");
    }
    const doconv_status status = check(context, desc);
    if (status != DOCONV_OK) {
        return status;
    }
    const int64_t weights = desc->cout * (desc->cin / desc->groups);
    if (d == NULL) {
        if (desc->kh * desc->kw != 1 || desc->d_mul != 1) {
            return dc_fail(context, DOCONV_INVALID_ARGUMENT, "fold: d: NULL, but only a 1x1 kernel with d_mul 1 has no D");
        }
        memcpy(weight, w, (size_t)weights * sizeof(float));
        return DOCONV_OK;
    }
    struct job job = {.desc = desc, .w = w, .d = d, .weight = weight, .tasks = (int)(context->threads < desc->cout ? context->threads : desc->cout)};
    dc_parallel(context, job.tasks, fold_task, &job);
    return DOCONV_OK;
}
