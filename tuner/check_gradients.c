/* SPDX-License-Identifier: MIT */
/*
 * Checking gradients. The gradient of a weight and that of src are compared, an element here and
 * there, with sums in double; those of W and D with what portable loops make of the folded weight's
 * gradient, which is computed apart and checked by such elements itself.
 */
#include "base/arithmetic.h"
#include "base/context.h"
#include "base/layout.h"
#include "base/log.h"
#include "check.h"
#include "measure.h"
#include "plan/problem.h"
#include "plan/solver.h"

#include <math.h>

/* Products of the sums in double, and the fewest elements compared all the same. */
#define SAMPLED_PRODUCTS 1e7
#define FEWEST_SAMPLES 64

/* ---- elements ---- */

struct samples {
    const struct dc_problem *p;
    struct dc_tensor_map src_map, dst_map;
    const float *src, *grad_dst; /* as the element's function needs them */
    const float *weight;         /* OIHW */
    const float *got;            /* the gradient */
    double (*expected)(const struct samples *s, int64_t index, ptrdiff_t *at); /* at: in got */
    int64_t elements, count; /* there are, are compared */
    int tasks;
    struct difference *found; /* of each task */
};

static struct samples samples_of(const struct dc_problem *p, const struct measure_set *set)
{
    const doconv_conv_desc *d = &p->desc;
    return (struct samples){
        .p = p,
        .src_map = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
        .dst_map = dc_tensor_map(d->dst_layout, d->cout, p->hout, p->wout),
        .src = set->tensors[MEASURE_SRC],
        .grad_dst = set->tensors[MEASURE_GRAD_DST],
    };
}

/* Tap (ky, kx) between an output and an input channel, over the pixels of all images. */
static double weight_element(const struct samples *s, int64_t index, ptrdiff_t *at)
{
    const struct dc_problem *p = s->p;
    const doconv_conv_desc *d = &p->desc;
    const int64_t taps = d->kh * d->kw, ky = index % taps / d->kw, kx = index % d->kw,
                  i = index / taps % p->group_cin, o = index / taps / p->group_cin,
                  channel = o / p->group_cout * p->group_cin + i;
    double sum = 0.0;
    for (int64_t n = 0; n < d->n; n++) {
        const float *src = s->src + n * s->src_map.image + channel_at(&s->src_map, channel),
                    *grad = s->grad_dst + n * s->dst_map.image + channel_at(&s->dst_map, o);
        for (int64_t y = 0; y < p->hout; y++) {
            const int64_t row = y * d->stride_h + ky * d->dilation_h - d->pad_top;
            for (int64_t x = 0; x < p->wout && row >= 0 && row < d->h; x++) {
                const int64_t column = x * d->stride_w + kx * d->dilation_w - d->pad_left;
                if (column >= 0 && column < d->w) {
                    sum += (double)grad[y * s->dst_map.row + x * s->dst_map.pixel] *
                           (double)src[row * s->src_map.row + column * s->src_map.pixel];
                }
            }
        }
    }
    *at = index;
    return sum;
}

/* The output that a tap takes an input to, or -1. */
static int64_t output_of(int64_t input, int64_t pad, int64_t offset, int64_t stride, int64_t size)
{
    const int64_t reach = input + pad - offset;
    return reach < 0 || reach % stride != 0 || reach / stride >= size ? -1 : reach / stride;
}

/* A pixel of an input channel; those that only pad a blocked layout are zero. */
static double src_element(const struct samples *s, int64_t index, ptrdiff_t *at)
{
    const struct dc_problem *p = s->p;
    const doconv_conv_desc *d = &p->desc;
    const int64_t block = dc_layout_block(d->src_layout), stored = divide_up(d->cin, block) * block;
    const int64_t x = index % d->w, y = index / d->w % d->h, channel = index / d->w / d->h % stored,
                  n = index / d->w / d->h / stored;
    *at = n * s->src_map.image + channel_at(&s->src_map, channel) + y * s->src_map.row +
          x * s->src_map.pixel;
    double sum = 0.0;
    for (int64_t m = 0; m < d->kh * d->kw && channel < d->cin; m++) {
        const int64_t row =
                          output_of(y, d->pad_top, m / d->kw * d->dilation_h, d->stride_h, p->hout),
                      column = output_of(x, d->pad_left, m % d->kw * d->dilation_w, d->stride_w,
                                         p->wout);
        const int64_t first = channel / p->group_cin * p->group_cout;
        for (int64_t o = first; o < first + p->group_cout && row >= 0 && column >= 0; o++) {
            const float *grad = s->grad_dst + n * s->dst_map.image + channel_at(&s->dst_map, o);
            const int64_t filter = o * p->group_cin + channel % p->group_cin;
            sum += (double)grad[row * s->dst_map.row + column * s->dst_map.pixel] *
                   (double)s->weight[filter * d->kh * d->kw + m];
        }
    }
    return sum;
}

/* ---- samples ---- */

/*
 * One element of each of `count` equal stretches, somewhere in it so that no period of tiles or
 * layouts hides what is wrong, the first and the last of all among them.
 */
static int64_t element_at(const struct samples *s, int64_t index)
{
    if (s->count == s->elements || index == 0) {
        return index;
    }
    if (index == s->count - 1) {
        return s->elements - 1;
    }
    uint64_t bits = (uint64_t)index * UINT64_C(0x9e3779b97f4a7c15);
    bits = (bits ^ bits >> 32) * UINT64_C(0xd6e8feb86659fd93);
    const double stretch = (double)s->elements / (double)s->count,
                 inside = (double)(bits >> 40) * 0x1p-24;
    return least(s->elements - 1, (int64_t)(stretch * ((double)index + inside)));
}

static void sample_task(void *arg, int task)
{
    const struct samples *s = arg;
    struct difference d = {0};
    for (int64_t i = task; i < s->count; i += s->tasks) {
        ptrdiff_t at;
        const double expected = s->expected(s, element_at(s, i), &at);
        dc_difference_add(&d, (double)s->got[at], expected);
    }
    s->found[task] = d;
}

/* products: of an element. */
static doconv_status compare(doconv_context *ctx, struct samples *s, double products,
                             struct difference *found)
{
    const double affordable = SAMPLED_PRODUCTS / products;
    s->count = affordable > (double)s->elements
                   ? s->elements
                   : least(s->elements, most(FEWEST_SAMPLES, (int64_t)affordable));
    s->tasks = (int)least(ctx->threads, s->count);
    s->found = dc_alloc(ctx, (size_t)s->tasks * sizeof *s->found);
    if (s->found == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "tune: no memory to check a gradient");
    }
    dc_parallel(ctx, s->tasks, sample_task, s);
    *found = (struct difference){0};
    for (int i = 0; i < s->tasks; i++) {
        dc_difference_join(found, &s->found[i]);
    }
    dc_free(ctx, s->found);
    return DOCONV_OK;
}

/* ---- the gradient of a weight ---- */

/* A term a pixel of all images. */
static struct sums pixel_sums(const struct dc_problem *p)
{
    const double pixels = (double)p->desc.n * (double)p->hout * (double)p->wout;
    return (struct sums){.terms = pixels + CHECK_FEWEST_TERMS, .usual = 0.25 * sqrt(pixels)};
}

static doconv_status compare_weight(const struct measure_set *set, const struct dc_problem *p,
                                    const float *got, struct difference *found)
{
    struct samples s = samples_of(p, set);
    s.got = got;
    s.expected = weight_element;
    s.elements = p->desc.cout * p->group_cin * p->desc.kh * p->desc.kw;
    const double pixels = (double)p->desc.n * (double)p->hout * (double)p->wout;
    return compare(set->ctx, &s, pixels, found);
}

/*
 * The gradient of the weight that W and D fold to: by loops, or, where those would take long, by
 * the estimate's variant if sampled elements of it are right.
 */
static doconv_status fill_gradient(const struct measure_set *set, float *gradient)
{
    struct dc_problem plain = dc_problem_for(&set->problem, DC_WEIGHT_GRADIENT);
    plain.fold = (doconv_fold_desc){0};
    plain.desc.d_mul = 0;
    plain.desc.composition = DOCONV_COMPOSITION_NONE;
    plain.desc.mapping = DOCONV_MAPPING_PAPER;
    plain.desc.add_identity = 0;
    const struct dc_tensors tensors = {
        .src = set->tensors[MEASURE_SRC],
        .grad_dst = set->tensors[MEASURE_GRAD_DST],
        .grad_weight = gradient,
    };
    if (plain.macs > CHECK_MACS) {
        const struct sums sums = pixel_sums(&plain);
        struct difference found;
        doconv_status status = dc_check_run(set->ctx, &plain, NULL, &tensors);
        if (status == DOCONV_OK) {
            status = compare_weight(set, &plain, gradient, &found);
        }
        if (status != DOCONV_OK || dc_difference_is_rounding(&found, &sums, 1.0f)) {
            return status;
        }
    }
    return dc_check_run(set->ctx, &plain, CHECK_WEIGHT_GRADIENT, &tensors);
}

/* ---- those of W and D ---- */

/*
 * From the folded weight's gradient, whose values are sums of so many terms themselves.
 */
static doconv_status check_parameters(struct check *check, const float *folded, double terms)
{
    const struct measure_set *set = check->set;
    const struct dc_problem p = dc_problem_for(&set->problem, DC_FOLD_GRADIENT);
    float *const grad_w = dc_alloc(set->ctx, set->bytes[MEASURE_GRAD_W]),
                 *const grad_d = dc_alloc(set->ctx, set->bytes[MEASURE_GRAD_D]);
    doconv_status status = DOCONV_OK;
    if (grad_w == NULL || grad_d == NULL) {
        status = dc_fail(set->ctx, DOCONV_OUT_OF_MEMORY, "tune: no memory to check a gradient");
    }
    if (status == DOCONV_OK) {
        const struct dc_tensors tensors = {
            .w = set->tensors[MEASURE_W],
            .d = set->tensors[MEASURE_D],
            .grad_folded = folded,
            .grad_w = grad_w,
            .grad_d = grad_d,
        };
        status = dc_check_run(set->ctx, &p, CHECK_FOLD, &tensors);
    }
    if (status == DOCONV_OK) {
        const double size = 0.5 * dc_largest_of(folded, p.weight_bytes),
                     taps = (double)(p.desc.kh * p.desc.kw), rows = (double)p.group_cout,
                     added = terms + CHECK_FEWEST_TERMS;
        const struct sums of_w = {.terms = taps + added, .usual = size * sqrt(taps)},
                          of_d = {.terms = rows + added, .usual = size * sqrt(rows)};
        dc_check_tensor(check, MEASURE_GRAD_W, grad_w, &of_w);
        dc_check_tensor(check, MEASURE_GRAD_D, grad_d, &of_d);
    }
    dc_free(set->ctx, grad_w);
    dc_free(set->ctx, grad_d);
    return status;
}

/* From src and grad_dst. */
static doconv_status check_composed(struct check *check)
{
    const struct measure_set *set = check->set;
    float *gradient = dc_alloc(set->ctx, set->problem.weight_bytes);
    if (gradient == NULL) {
        return dc_fail(set->ctx, DOCONV_OUT_OF_MEMORY, "tune: no memory to check a gradient");
    }
    doconv_status status = fill_gradient(set, gradient);
    if (status == DOCONV_OK) {
        status = check_parameters(check, gradient, pixel_sums(&set->problem).terms);
    }
    dc_free(set->ctx, gradient);
    return status;
}

/* ---- operations ---- */

doconv_status dc_check_fold_gradient(struct check *check)
{
    return check_parameters(check, check->set->tensors[MEASURE_GRAD_FOLDED], 0.0);
}

doconv_status dc_check_weight_gradient(struct check *check)
{
    const struct measure_set *set = check->set;
    if (set->tensors[MEASURE_GRAD_WEIGHT] == NULL) {
        return check_composed(check);
    }
    struct difference found;
    const struct sums sums = pixel_sums(&set->problem);
    const doconv_status status =
        compare_weight(set, &set->problem, set->tensors[MEASURE_GRAD_WEIGHT], &found);
    if (status == DOCONV_OK) {
        dc_check_judge(check, &found, &sums);
    }
    return status;
}

static doconv_status check_grad_src(struct check *check, const float *folded)
{
    const struct measure_set *set = check->set;
    const struct dc_problem *p = &set->problem;
    const double outputs = (double)p->group_cout, d_mul = (double)p->fold.d_mul,
                 taps = (double)(p->desc.kh * p->desc.kw);
    /* By W first, for each of D_mul, then by D. */
    const struct sums sums = {
        .terms = outputs * taps + d_mul * (outputs + taps) + CHECK_FEWEST_TERMS,
        .usual = 0.5 * dc_largest_of(folded, p->weight_bytes) * sqrt(outputs * taps),
    };
    struct samples s = samples_of(p, set);
    s.weight = folded;
    s.got = set->tensors[MEASURE_GRAD_SRC];
    s.expected = src_element;
    s.elements = (int64_t)(set->bytes[MEASURE_GRAD_SRC] / sizeof(float));
    struct difference found;
    const doconv_status status = compare(set->ctx, &s, outputs * taps, &found);
    if (status == DOCONV_OK) {
        dc_check_judge(check, &found, &sums);
    }
    return status;
}

doconv_status dc_check_feature_backward(struct check *check)
{
    float *folded;
    doconv_status status = dc_check_fold(check->set, &folded);
    if (status == DOCONV_OK) {
        status = check_grad_src(check, folded);
    }
    dc_free(check->set->ctx, folded);
    return status == DOCONV_OK ? check_composed(check) : status;
}
