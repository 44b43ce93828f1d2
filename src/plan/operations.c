/* SPDX-License-Identifier: MIT */
/* The operations on a layer: each as a problem of its own, without what doesn't bear on it. */
#include <inttypes.h>
#include <math.h>

#include "base/context.h"
#include "base/log.h"
#include "base/versioned.h"
#include "plan/problem.h"

/* A fold's descriptor, as one of this version in *desc. */
static doconv_status read_fold(doconv_context *ctx, const doconv_fold_desc *from,
                               doconv_fold_desc *desc)
{
    const doconv_status status = DC_READ_STRUCT(ctx, doconv_fold_desc, from, desc);
    if (status != DOCONV_OK) {
        return status;
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
    if (!dc_fold_fits(desc)) {
        return dc_fail(ctx, DOCONV_OVERFLOW, "fold: its tensors are larger than memory can be");
    }
    return DOCONV_OK;
}

/* The smallest convolution that the fold's weight belongs to. */
static doconv_conv_desc smallest_layer(const doconv_fold_desc *fold)
{
    doconv_conv_desc d;
    doconv_conv_desc_init(&d);
    d.cin = fold->cin;
    d.h = fold->kh;
    d.w = fold->kw;
    d.cout = fold->cout;
    d.kh = fold->kh;
    d.kw = fold->kw;
    d.groups = fold->groups;
    d.d_mul = fold->d_mul;
    d.composition = DOCONV_COMPOSITION_KERNEL;
    d.mapping = fold->mapping;
    d.add_identity = fold->add_identity;
    return d;
}

doconv_status dc_problem_create_fold(doconv_context *ctx, const doconv_fold_desc *fold,
                                     enum dc_operation operation, struct dc_problem *problem)
{
    doconv_fold_desc own;
    doconv_status status = read_fold(ctx, fold, &own);
    if (status == DOCONV_OK) {
        const doconv_conv_desc layer = smallest_layer(&own);
        status = dc_problem_create(ctx, &layer, problem);
        if (status == DOCONV_OK) {
            problem->operation = operation;
        }
    }
    return status;
}

struct dc_problem dc_problem_for(const struct dc_problem *layer, enum dc_operation operation)
{
    struct dc_problem p = *layer;
    doconv_conv_desc *d = &p.desc;
    p.operation = operation;
    if (operation == DC_CONVOLUTION) {
        return p;
    }
    d->residual = d->relu = d->clamp = 0;
    d->clamp_lo = d->clamp_hi = 0.0f;
    d->accuracy = dc_is_layer(operation) ? d->accuracy : DOCONV_ACCURACY_DEFAULT;
    d->has_bias = operation == DC_FEATURE_FORWARD || dc_is_layer(operation) ? d->has_bias : 0;
    p.lo = -INFINITY;
    p.hi = INFINITY;
    p.fresh_weights = p.cold_weights = false;
    if (operation == DC_FOLD || operation == DC_FOLD_GRADIENT) {
        *d = smallest_layer(&layer->fold);
        p.hout = p.wout = 1;
        p.macs = (double)d->cout * (double)p.group_cin * (double)d->kh * (double)d->kw;
        /* No call has these tensors. */
        p.src_bytes = p.dst_bytes = 0;
    }
    return p;
}

const char *dc_operation_name(enum dc_operation operation)
{
    static const char *const names[DC_OPERATIONS] = {
        [DC_CONVOLUTION] = "convolution",           [DC_FOLD] = "fold",
        [DC_FOLD_GRADIENT] = "fold_gradient",       [DC_FEATURE_FORWARD] = "feature_forward",
        [DC_FEATURE_BACKWARD] = "feature_backward", [DC_WEIGHT_GRADIENT] = "weight_gradient",
        [DC_LAYER_FORWARD] = "layer_forward",       [DC_LAYER_STEP] = "layer_step",
    };
    return (int)operation >= 0 && operation < DC_OPERATIONS ? names[operation] : "unknown";
}

const char *doconv_operation_string(doconv_operation operation)
{
    return dc_operation_name((enum dc_operation)operation);
}
