/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <math.h>

#include "base/log.h"
#include "plan/problem.h"

static doconv_status check_dims(doconv_context *ctx, const doconv_conv_desc *d)
{
    const struct {
        const char *name;
        int64_t value, least;
    } fields[] = {
        {"n", d->n, 0},
        {"cin", d->cin, 1},
        {"h", d->h, 1},
        {"w", d->w, 1},
        {"cout", d->cout, 1},
        {"kh", d->kh, 1},
        {"kw", d->kw, 1},
        {"stride_h", d->stride_h, 1},
        {"stride_w", d->stride_w, 1},
        {"pad_top", d->pad_top, 0},
        {"pad_left", d->pad_left, 0},
        {"pad_bottom", d->pad_bottom, 0},
        {"pad_right", d->pad_right, 0},
        {"dilation_h", d->dilation_h, 1},
        {"dilation_w", d->dilation_w, 1},
        {"groups", d->groups, 1},
        {"d_mul", d->d_mul, 0},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (fields[i].value < fields[i].least) {
            return dc_fail(ctx, DOCONV_INVALID_PROBLEM, "%s: %" PRId64 " is not in %" PRId64 "..%d",
                           fields[i].name, fields[i].value, fields[i].least, INT32_MAX);
        }
        if (fields[i].value > INT32_MAX) {
            return dc_fail(ctx, DOCONV_OVERFLOW, "%s: %" PRId64 " is not in %" PRId64 "..%d",
                           fields[i].name, fields[i].value, fields[i].least, INT32_MAX);
        }
    }
    if (d->cin % d->groups != 0 || d->cout % d->groups != 0) {
        return dc_fail(ctx, DOCONV_INVALID_PROBLEM,
                       "groups: %" PRId64 " does not divide %s = %" PRId64, d->groups,
                       d->cin % d->groups != 0 ? "cin" : "cout",
                       d->cin % d->groups != 0 ? d->cin : d->cout);
    }
    return DOCONV_OK;
}

static doconv_status check_options(doconv_context *ctx, const doconv_conv_desc *d)
{
    const struct {
        const char *name;
        int value, most;
    } fields[] = {
        {"src_layout", (int)d->src_layout, DOCONV_NCHW16C},
        {"dst_layout", (int)d->dst_layout, DOCONV_NCHW16C},
        {"has_bias", d->has_bias, 1},
        {"residual", d->residual, 1},
        {"relu", d->relu, 1},
        {"clamp", d->clamp, 1},
        {"accuracy", (int)d->accuracy, DOCONV_ACCURACY_FAST},
        {"composition", (int)d->composition, DOCONV_COMPOSITION_FEATURE},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (fields[i].value < 0 || fields[i].value > fields[i].most) {
            return dc_fail(ctx, DOCONV_INVALID_PROBLEM, "%s: %d is not in 0..%d", fields[i].name,
                           fields[i].value, fields[i].most);
        }
    }
    if (d->clamp && !(d->clamp_lo <= d->clamp_hi)) {
        return dc_fail(ctx, DOCONV_INVALID_PROBLEM, "clamp_lo, clamp_hi: %g, %g is no range",
                       (double)d->clamp_lo, (double)d->clamp_hi);
    }
    if ((d->d_mul > 0) != (d->composition != DOCONV_COMPOSITION_NONE)) {
        return dc_fail(ctx, DOCONV_INVALID_PROBLEM,
                       "composition: %d does not go with d_mul = %" PRId64, (int)d->composition,
                       d->d_mul);
    }
    if (d->d_mul > 0) {
        return dc_fail(ctx, DOCONV_UNSUPPORTED,
                       "d_mul: %" PRId64
                       ": plans are of plain convolutions; train with doconv_training_create(), or "
                       "fold D and W into one weight first",
                       d->d_mul);
    }
    return DOCONV_OK;
}

/* Output size along an axis; pad_after becomes what outputs really read. */
static doconv_status output_size(doconv_context *ctx, const char *axis, int64_t size,
                                 int64_t kernel, int64_t stride, int64_t dilation,
                                 int64_t pad_before, int64_t *pad_after, int64_t *out)
{
    /* All factors are under 2^31: no overflow in 64 bits. */
    const int64_t extent = (kernel - 1) * dilation + 1, padded = size + pad_before + *pad_after;
    if (padded < extent) {
        return dc_fail(ctx, DOCONV_INVALID_PROBLEM,
                       "%s: the padded input of %" PRId64
                       " is smaller than the dilated kernel of %" PRId64,
                       axis, padded, extent);
    }
    *out = (padded - extent) / stride + 1;
    if (*out > INT32_MAX) {
        return dc_fail(ctx, DOCONV_OVERFLOW, "%s: an output of %" PRId64 " is not in 1..%d", axis,
                       *out, INT32_MAX);
    }
    const int64_t needed = (*out - 1) * stride + extent - size - pad_before;
    *pad_after = needed > 0 ? needed : 0;
    return DOCONV_OK;
}

doconv_status dc_problem_create(doconv_context *ctx, const doconv_conv_desc *desc,
                                struct dc_problem *problem)
{
    if (desc == NULL) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "desc: NULL");
    }
    if (desc->size != sizeof *desc) {
        return dc_fail(ctx, DOCONV_MISMATCH,
                       "desc.size: %zu is not %zu, the size of doconv_conv_desc in this version",
                       desc->size, sizeof *desc);
    }
    doconv_status status = check_dims(ctx, desc);
    if (status == DOCONV_OK) {
        status = check_options(ctx, desc);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    struct dc_problem p = {.desc = *desc, .empty = desc->n == 0, .lo = -INFINITY, .hi = INFINITY};
    doconv_conv_desc *d = &p.desc;
    d->n = p.empty ? 1 : d->n;
    status = output_size(ctx, "h", d->h, d->kh, d->stride_h, d->dilation_h, d->pad_top,
                         &d->pad_bottom, &p.hout);
    if (status == DOCONV_OK) {
        status = output_size(ctx, "w", d->w, d->kw, d->stride_w, d->dilation_w, d->pad_left,
                             &d->pad_right, &p.wout);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    if (doconv_tensor_bytes(d->src_layout, d->n, d->cin, d->h, d->w, &p.src_bytes) != DOCONV_OK) {
        return dc_fail(ctx, DOCONV_OVERFLOW,
                       "src: n * cin * h * w = %" PRId64 " * %" PRId64 " * %" PRId64 " * %" PRId64
                       " is over 2^62 bytes",
                       d->n, d->cin, d->h, d->w);
    }
    if (doconv_tensor_bytes(d->dst_layout, d->n, d->cout, p.hout, p.wout, &p.dst_bytes) !=
        DOCONV_OK) {
        return dc_fail(ctx, DOCONV_OVERFLOW,
                       "dst: n * cout * hout * wout = %" PRId64 " * %" PRId64 " * %" PRId64
                       " * %" PRId64 " is over 2^62 bytes",
                       d->n, d->cout, p.hout, p.wout);
    }
    p.group_cin = d->cin / d->groups;
    p.group_cout = d->cout / d->groups;
    if (doconv_tensor_bytes(DOCONV_NCHW, d->cout, p.group_cin, d->kh, d->kw, &p.weight_bytes) !=
            DOCONV_OK ||
        p.weight_bytes > (size_t)1 << 56) {
        return dc_fail(ctx, DOCONV_OVERFLOW,
                       "weight: cout * cin/groups * kh * kw = %" PRId64 " * %" PRId64 " * %" PRId64
                       " * %" PRId64 " is over 2^56 bytes",
                       d->cout, p.group_cin, d->kh, d->kw);
    }
    p.macs = (double)d->n * (double)p.hout * (double)p.wout * (double)d->cout *
             (double)p.group_cin * (double)d->kh * (double)d->kw;
    if (d->relu) {
        p.lo = 0.0f;
    }
    if (d->clamp) {
        /* min(max(max(v, 0), lo), hi) = min(max(v, max(0, lo)), hi) */
        p.lo = d->clamp_lo > p.lo ? d->clamp_lo : p.lo;
        p.hi = d->clamp_hi;
    } else {
        d->clamp_lo = d->clamp_hi = 0.0f;
    }
    *problem = p;
    return DOCONV_OK;
}

doconv_status doconv_conv_dst_shape(doconv_context *context, const doconv_conv_desc *desc,
                                    int64_t shape[4])
{
    struct dc_problem problem;
    const doconv_status status = dc_problem_create(context, desc, &problem);
    if (status != DOCONV_OK) {
        return status;
    }
    if (shape == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "shape: NULL");
    }
    shape[0] = desc->n;
    shape[1] = problem.desc.cout;
    shape[2] = problem.hout;
    shape[3] = problem.wout;
    return DOCONV_OK;
}

doconv_status doconv_conv_desc_init(doconv_conv_desc *desc)
{
    if (desc == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    *desc = (doconv_conv_desc){
        .size = sizeof *desc,
        .n = 1,
        .cin = 1,
        .h = 1,
        .w = 1,
        .cout = 1,
        .kh = 1,
        .kw = 1,
        .stride_h = 1,
        .stride_w = 1,
        .dilation_h = 1,
        .dilation_w = 1,
        .groups = 1,
    };
    return DOCONV_OK;
}
