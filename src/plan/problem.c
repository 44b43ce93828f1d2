/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <math.h>

#include "base/context.h"
#include "base/log.h"
#include "base/versioned.h"
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
        {"composition", (int)d->composition, DOCONV_COMPOSITION_AUTO},
        {"mapping", (int)d->mapping, DOCONV_MAPPING_TENSORFLOW},
        {"add_identity", d->add_identity, 1},
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
    if (d->d_mul == 0 && (d->mapping != DOCONV_MAPPING_PAPER || d->add_identity)) {
        const bool mapping = d->mapping != DOCONV_MAPPING_PAPER;
        return dc_fail(ctx, DOCONV_INVALID_PROBLEM, "%s: %d does not go with d_mul = 0",
                       mapping ? "mapping" : "add_identity",
                       mapping ? (int)d->mapping : d->add_identity);
    }
    return DOCONV_OK;
}

/* Four TiB of floats, which leaves room for sixteen lanes, and for each thread's, in all sizes. */
#define MOST_FOLD_FLOATS ((int64_t)1 << 40)

bool dc_fold_fits(const doconv_fold_desc *desc)
{
    int64_t taps, rows, most_of_w, d;
    return !__builtin_mul_overflow(desc->kh, desc->kw, &taps) &&
           !__builtin_mul_overflow(desc->cout, desc->cin / desc->groups, &rows) &&
           !__builtin_mul_overflow(rows, taps > desc->d_mul ? taps : desc->d_mul, &most_of_w) &&
           !__builtin_mul_overflow(taps, desc->d_mul, &d) &&
           !__builtin_mul_overflow(d, desc->cin, &d) && most_of_w <= MOST_FOLD_FLOATS &&
           d <= MOST_FOLD_FLOATS;
}

/* The weight of a DO-Conv layer as doconv_fold() makes it, for a problem with d_mul > 0. */
static doconv_fold_desc fold_of(const struct dc_problem *problem)
{
    const doconv_conv_desc *d = &problem->desc;
    return (doconv_fold_desc){.size = sizeof(doconv_fold_desc),
                              .cout = d->cout,
                              .cin = d->cin,
                              .kh = d->kh,
                              .kw = d->kw,
                              .groups = d->groups,
                              .d_mul = d->d_mul,
                              .mapping = d->mapping,
                              .add_identity = d->add_identity};
}

/*
 * Does every filter meet the channels of D that it reads, as with the paper's mapping, o / Cog *
 * Cig + i? PyTorch's is o % groups * Cig + i, the same only if o % groups is o / Cog for each o:
 * with one group, or one output in each. TensorFlow's is i * groups + o / Cog, which for o = 0 is i
 * only with one group, or one input in each, and then it is the same for each o.
 */
static bool mapping_is_paper(const struct dc_problem *p)
{
    return p->desc.groups == 1 || p->desc.mapping == DOCONV_MAPPING_PAPER ||
           (p->desc.mapping == DOCONV_MAPPING_PYTORCH ? p->group_cout == 1 : p->group_cin == 1);
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

/* The sizes of a problem's tensors. */
static doconv_status set_sizes(doconv_context *ctx, struct dc_problem *p)
{
    const doconv_conv_desc *d = &p->desc;
    if (doconv_tensor_bytes(d->src_layout, d->n, d->cin, d->h, d->w, &p->src_bytes) != DOCONV_OK) {
        return dc_fail(ctx, DOCONV_OVERFLOW,
                       "src: n * cin * h * w = %" PRId64 " * %" PRId64 " * %" PRId64 " * %" PRId64
                       " is over 2^62 bytes",
                       d->n, d->cin, d->h, d->w);
    }
    if (doconv_tensor_bytes(d->dst_layout, d->n, d->cout, p->hout, p->wout, &p->dst_bytes) !=
        DOCONV_OK) {
        return dc_fail(ctx, DOCONV_OVERFLOW,
                       "dst: n * cout * hout * wout = %" PRId64 " * %" PRId64 " * %" PRId64
                       " * %" PRId64 " is over 2^62 bytes",
                       d->n, d->cout, p->hout, p->wout);
    }
    if (doconv_tensor_bytes(DOCONV_NCHW, d->cout, p->group_cin, d->kh, d->kw, &p->weight_bytes) !=
            DOCONV_OK ||
        p->weight_bytes > (size_t)1 << 56) {
        return dc_fail(ctx, DOCONV_OVERFLOW,
                       "weight: cout * cin/groups * kh * kw = %" PRId64 " * %" PRId64 " * %" PRId64
                       " * %" PRId64 " is over 2^56 bytes",
                       d->cout, p->group_cin, d->kh, d->kw);
    }
    if (d->d_mul > 0) {
        const doconv_fold_desc fold = fold_of(p);
        if (!dc_fold_fits(&fold)) {
            return dc_fail(ctx, DOCONV_OVERFLOW,
                           "d_mul: %" PRId64 ": W or D is larger than memory can be", d->d_mul);
        }
    }
    return DOCONV_OK;
}

doconv_status dc_problem_create(doconv_context *ctx, const doconv_conv_desc *desc,
                                struct dc_problem *problem)
{
    if (desc == NULL) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "desc: NULL");
    }
    struct dc_problem p = {.lo = -INFINITY, .hi = INFINITY};
    doconv_conv_desc *d = &p.desc;
    doconv_status status = DC_READ_STRUCT(ctx, doconv_conv_desc, desc, d);
    if (status == DOCONV_OK) {
        status = check_dims(ctx, d);
    }
    if (status == DOCONV_OK) {
        status = check_options(ctx, d);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    p.empty = d->n == 0;
    d->n = p.empty ? 1 : d->n;
    status = output_size(ctx, "h", d->h, d->kh, d->stride_h, d->dilation_h, d->pad_top,
                         &d->pad_bottom, &p.hout);
    if (status == DOCONV_OK) {
        status = output_size(ctx, "w", d->w, d->kw, d->stride_w, d->dilation_w, d->pad_left,
                             &d->pad_right, &p.wout);
    }
    p.group_cin = d->cin / d->groups;
    p.group_cout = d->cout / d->groups;
    if (status == DOCONV_OK) {
        status = set_sizes(ctx, &p);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    if (mapping_is_paper(&p)) {
        d->mapping = DOCONV_MAPPING_PAPER;
    }
    if (d->d_mul < d->kh * d->kw) {
        d->add_identity = 0;
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
    p.threads = ctx != NULL ? ctx->threads : 1;
    if (d->d_mul > 0) {
        p.fold = fold_of(&p);
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
    shape[0] = problem.empty ? 0 : problem.desc.n;
    shape[1] = problem.desc.cout;
    shape[2] = problem.hout;
    shape[3] = problem.wout;
    return DOCONV_OK;
}

doconv_status doconv_conv_desc_init_sized(doconv_conv_desc *desc, size_t size)
{
    if (desc == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    const doconv_conv_desc defaults = {
        .size = sizeof defaults,
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
    return dc_write_struct(NULL, DC_STRUCT(doconv_conv_desc), &defaults, desc, size);
}
