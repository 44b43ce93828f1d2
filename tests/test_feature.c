/* SPDX-License-Identifier: MIT */
/*
 * Feature composition by itself: plans of both of its passes, of every candidate, against sums in
 * double that go through the whole of Z, as the paper writes it (test_training's go through the
 * folded weight). Shapes are large enough that pixels, channels, steps of D_mul and images are cut
 * into several parts, with a shorter one at the end. Small integers are exact in every order of
 * additions, so any difference is an error.
 */
#include <math.h>

#include "capped.h"
#include "harness.h"
#include "harness_buffer.h"
#include "oracle.h"
#include "plans.h"

static void *zeros(size_t count, size_t size)
{
    void *memory = calloc(count != 0 ? count : 1, size);
    assert_non_null(memory);
    return memory;
}

/* ---- a layer, in NCHW and so on ---- */

enum { SRC, W, D, BIAS, DST, TENSORS }; /* of DST: its gradient goes in, dst comes out */
static const char *const names[TENSORS] = {"grad_src", "grad_w", "grad_d", "grad_bias", "dst"};

struct layer {
    const char *text;
    doconv_conv_desc desc;
    int64_t d_mul, taps, hout, wout, cig, cog;
    int identity;
    size_t counts[TENSORS];
    float *in[TENSORS];
    /* what must come out: gradients, and dst; that of the bias is nobody's here and stays 0 */
    double *out[TENSORS];
};

/* D + I; the identity is repeated along d_mul as often as it fits. */
static double composed(const struct layer *l, const double *d, int64_t channel, int64_t m,
                       int64_t s)
{
    return d[(channel * l->taps + m) * l->d_mul + s] +
           (l->identity && s < l->d_mul / l->taps * l->taps && s % l->taps == m ? 1.0 : 0.0);
}

/* Where tap m of output pixel at (of a plane) reads src's plane; -1: in the padding. */
static int64_t reads(const struct layer *l, int64_t at, int64_t m)
{
    const doconv_conv_desc *d = &l->desc;
    const int64_t y = at / l->wout * d->stride_h + m / d->kw * d->dilation_h - d->pad_top;
    const int64_t x = at % l->wout * d->stride_w + m % d->kw * d->dilation_w - d->pad_left;
    return y < 0 || y >= d->h || x < 0 || x >= d->w ? -1 : y * d->w + x;
}

/* out of in, forward and backward: Z of one channel and one s at a time. */
static void compute(const struct layer *l, const double *const in[TENSORS],
                    double *const out[TENSORS])
{
    const doconv_conv_desc *desc = &l->desc;
    const int64_t pixels = l->hout * l->wout, plane = desc->h * desc->w;
    double *z = zeros((size_t)pixels, sizeof *z), *grad_z = zeros((size_t)pixels, sizeof *grad_z);
    for (int t = 0; t < TENSORS; t++) {
        memset(out[t], 0, l->counts[t] * sizeof(double));
    }
    for (int64_t at = 0; at < (int64_t)l->counts[DST] && desc->has_bias; at++) {
        out[DST][at] = in[BIAS][at / pixels % desc->cout];
    }
    for (int64_t n = 0; n < desc->n; n++) {
        for (int64_t c = 0; c < desc->cin; c++) {
            const double *src = in[SRC] + (n * desc->cin + c) * plane;
            double *grad_src = out[SRC] + (n * desc->cin + c) * plane;
            for (int64_t s = 0; s < l->d_mul; s++) {
                for (int64_t at = 0; at < pixels; at++) {
                    z[at] = grad_z[at] = 0.0;
                    for (int64_t m = 0; m < l->taps; m++) {
                        const int64_t from = reads(l, at, m);
                        z[at] += from < 0 ? 0.0 : composed(l, in[D], c, m, s) * src[from];
                    }
                }
                for (int64_t o = c / l->cig * l->cog; o < (c / l->cig + 1) * l->cog; o++) {
                    const int64_t w = (o * l->cig + c % l->cig) * l->d_mul + s,
                                  dst = (n * desc->cout + o) * pixels;
                    for (int64_t at = 0; at < pixels; at++) {
                        out[DST][dst + at] += in[W][w] * z[at];
                        out[W][w] += in[DST][dst + at] * z[at];
                        grad_z[at] += in[DST][dst + at] * in[W][w];
                    }
                }
                for (int64_t at = 0; at < pixels; at++) {
                    for (int64_t m = 0; m < l->taps; m++) {
                        const int64_t from = reads(l, at, m);
                        if (from >= 0) {
                            out[D][(c * l->taps + m) * l->d_mul + s] += grad_z[at] * src[from];
                            grad_src[from] += grad_z[at] * composed(l, in[D], c, m, s);
                        }
                    }
                }
            }
        }
    }
    free(z);
    free(grad_z);
}

static struct layer make_layer(const char *text, int64_t d_mul, int identity, bool integers)
{
    struct layer l = {.text = text, .desc = problem(text), .d_mul = d_mul, .identity = identity};
    l.desc.d_mul = d_mul;
    l.desc.composition = DOCONV_COMPOSITION_FEATURE;
    l.desc.add_identity = identity;
    const doconv_conv_desc *d = &l.desc;
    int64_t shape[4];
    expect_ok(doconv_conv_dst_shape(NULL, d, shape));
    l.hout = shape[2];
    l.wout = shape[3];
    l.taps = d->kh * d->kw;
    l.cig = d->cin / d->groups;
    l.cog = d->cout / d->groups;
    const int64_t counts[TENSORS] = {d->n * d->cin * d->h * d->w, d->cout * l.cig * d_mul,
                                     d->cin * l.taps * d_mul, d->cout,
                                     d->n * d->cout * l.hout * l.wout};
    struct rng rng = rng_from(11, text);
    double *in[TENSORS];
    for (int t = 0; t < TENSORS; t++) {
        l.counts[t] = (size_t)counts[t];
        l.in[t] = zeros(l.counts[t], sizeof(float));
        l.out[t] = zeros(l.counts[t], sizeof(double));
        in[t] = zeros(l.counts[t], sizeof(double));
        for (size_t i = 0; i < l.counts[t]; i++) {
            l.in[t][i] =
                integers ? (float)rng_range(&rng, -2, 2) : (float)(2.0 * rng_unit(&rng) - 1.0);
            in[t][i] = (double)l.in[t][i];
        }
    }
    compute(&l, (const double *const *)in, l.out);
    for (int t = 0; t < TENSORS; t++) {
        free(in[t]);
        /*
         * Every partial sum of integers must be exact in float; half of the range is left for those
         * that are larger than their result.
         */
        for (size_t i = 0; i < l.counts[t] && integers; i++) {
            assert_true(fabs(l.out[t][i]) < 8388608.0);
        }
    }
    return l;
}

static void free_layer(struct layer *l)
{
    for (int t = 0; t < TENSORS; t++) {
        free(l->in[t]);
        free(l->out[t]);
    }
}

/* ---- running, in guarded memory ---- */

enum { FORWARD, BACKWARD, PASSES };
static const enum dc_operation operations[PASSES] = {DC_FEATURE_FORWARD, DC_FEATURE_BACKWARD};

struct run {
    struct buffer in[TENSORS], out[TENSORS], workspace[PASSES];
};

static doconv_layout layout_of(const struct layer *l, int tensor)
{
    return tensor == SRC ? l->desc.src_layout : l->desc.dst_layout;
}

static bool is_image(int tensor)
{
    return tensor == SRC || tensor == DST;
}

/* Channels, rows and columns of an image tensor. */
static void shape_of(const struct layer *l, int tensor, int64_t shape[3])
{
    shape[0] = tensor == SRC ? l->desc.cin : l->desc.cout;
    shape[1] = tensor == SRC ? l->desc.h : l->hout;
    shape[2] = tensor == SRC ? l->desc.w : l->wout;
}

/* Place of element i of a tensor in its layout. */
static size_t place_of(const struct layer *l, int tensor, size_t i)
{
    if (!is_image(tensor)) {
        return i;
    }
    int64_t shape[3];
    shape_of(l, tensor, shape);
    const int64_t plane = shape[1] * shape[2], at = (int64_t)i;
    return oracle_index(layout_of(l, tensor), shape[0], shape[1], shape[2], at / plane / shape[0],
                        at / plane % shape[0], at % plane / shape[2], at % shape[2]);
}

static size_t floats_of(const struct layer *l, int tensor)
{
    if (!is_image(tensor)) {
        return l->counts[tensor];
    }
    int64_t shape[3];
    shape_of(l, tensor, shape);
    return oracle_floats(layout_of(l, tensor), l->desc.n, shape[0], shape[1], shape[2]);
}

static float value_at(const struct layer *l, const struct run *r, int tensor, size_t i)
{
    return ((const float *)r->out[tensor].data)[place_of(l, tensor, i)];
}

/* Padding channels of blocked inputs stay NaN. */
static struct run make_run(const struct layer *l, doconv_plan *const plans[PASSES],
                           enum buffer_place place)
{
    struct run r;
    for (int t = 0; t < TENSORS; t++) {
        buffer_create(&r.in[t], floats_of(l, t) * sizeof(float), place, 4);
        buffer_create(&r.out[t], floats_of(l, t) * sizeof(float), place, 20);
        for (size_t i = 0; i < l->counts[t]; i++) {
            ((float *)r.in[t].data)[place_of(l, t, i)] = l->in[t][i];
        }
    }
    /* The only tensors that are aligned: as closely to the guarded page as that allows. */
    for (int pass = 0; pass < PASSES; pass++) {
        buffer_create(&r.workspace[pass],
                      plans[pass] != NULL ? (plans[pass]->workspace_size + 63) / 64 * 64 : 0,
                      place == BUFFER_CANARIES ? BUFFER_GUARD_AFTER : place, 0);
    }
    return r;
}

static void free_run(struct run *r)
{
    for (int t = 0; t < TENSORS; t++) {
        assert_true(buffer_intact(&r->in[t]));
        assert_true(buffer_intact(&r->out[t]));
        buffer_destroy(&r->in[t]);
        buffer_destroy(&r->out[t]);
    }
    for (int pass = 0; pass < PASSES; pass++) {
        buffer_destroy(&r->workspace[pass]);
    }
}

enum { ALL = 1 << SRC | 1 << W | 1 << D };

/* A pass in a workspace of NaNs: nothing is left there from the other one. */
static void run_pass(const doconv_plan *plan, int pass, const struct dc_tensors *tensors,
                     struct run *r)
{
    if (r->workspace[pass].data != NULL) {
        memset(r->workspace[pass].data, 0xff, r->workspace[pass].bytes);
    }
    dc_plan_run(plan, tensors, r->workspace[pass].data);
}

static void backward(const doconv_plan *plan, struct run *r, int wanted)
{
    const struct dc_tensors tensors = {
        .src = r->in[SRC].data,
        .w = r->in[W].data,
        .d = r->in[D].data,
        .grad_dst = r->in[DST].data,
        .grad_src = wanted & 1 << SRC ? r->out[SRC].data : NULL,
        .grad_w = wanted & 1 << W ? r->out[W].data : NULL,
        .grad_d = wanted & 1 << D ? r->out[D].data : NULL,
    };
    run_pass(plan, BACKWARD, &tensors, r);
}

static void forward(const struct layer *l, const doconv_plan *plan, struct run *r)
{
    const struct dc_tensors tensors = {
        .src = r->in[SRC].data,
        .w = r->in[W].data,
        .d = r->in[D].data,
        .bias = l->desc.has_bias ? r->in[BIAS].data : NULL,
        .dst = r->out[DST].data,
    };
    run_pass(plan, FORWARD, &tensors, r);
}

static struct dc_problem problem_of(doconv_context *context, const struct layer *l, int pass)
{
    struct dc_problem p;
    expect_ok(dc_problem_create(context, &l->desc, &p));
    return dc_problem_for(&p, operations[pass]);
}

/* The plans of both passes, as the context chooses. */
static void make_plans(doconv_context *context, const struct layer *l, doconv_plan *plans[PASSES])
{
    for (int pass = 0; pass < PASSES; pass++) {
        const struct dc_problem p = problem_of(context, l, pass);
        plans[pass] = plan_of(context, &p, NULL);
    }
}

static void destroy_plans(doconv_plan *plans[PASSES])
{
    for (int pass = 0; pass < PASSES; pass++) {
        doconv_plan_destroy(plans[pass]);
    }
}

/* ---- comparisons ---- */

static void fail_at(const struct layer *l, const char *where, int tensor, size_t i, double seen,
                    double expected, double bound)
{
    fail_msg("%s, d_mul %" PRId64 ", identity %d, %s: %s[%zu] is %.9g, expected %.9g within %g",
             l->text, l->d_mul, l->identity, where, names[tensor], i, seen, expected, bound);
}

/* The tensors that a pass writes: dst, or all but that and the bias's gradient. */
static bool writes(int pass, int tensor)
{
    return tensor != BIAS && (tensor == DST) == (pass == FORWARD);
}

/* What a pass has written. bounds: of each element's error; NULL: none is allowed. */
static void compare(const struct layer *l, const struct run *r, int pass, const char *where,
                    double *const bounds[TENSORS])
{
    for (int t = 0; t < TENSORS; t++) {
        if (!writes(pass, t)) {
            continue;
        }
        for (size_t i = 0; i < l->counts[t]; i++) {
            const double seen = (double)value_at(l, r, t, i),
                         bound = bounds != NULL ? bounds[t][i] : 0.0;
            if (!(fabs(seen - l->out[t][i]) <= bound)) {
                fail_at(l, where, t, i, seen, l->out[t][i], bound);
            }
        }
        if (!is_image(t)) {
            continue;
        }
        /* The channels past the last one. */
        int64_t shape[3];
        shape_of(l, t, shape);
        const int64_t stored = oracle_stored_channels(layout_of(l, t), shape[0]),
                      plane = shape[1] * shape[2];
        for (int64_t i = 0; i < l->desc.n * (stored - shape[0]) * plane; i++) {
            const size_t at = oracle_index(
                layout_of(l, t), shape[0], shape[1], shape[2], i / plane / (stored - shape[0]),
                shape[0] + i / plane % (stored - shape[0]), i % plane / shape[2], i % shape[2]);
            const float seen = ((const float *)r->out[t].data)[at];
            if (seen != 0.0f) {
                fail_msg("%s, %s: padding of %s is %.9g", l->text, where, names[t], (double)seen);
            }
        }
    }
}

static void same_bits(const struct layer *l, int pass, const struct run *a, const struct run *b,
                      const char *where)
{
    for (int t = 0; t < TENSORS; t++) {
        if (writes(pass, t) && memcmp(a->out[t].data, b->out[t].data, a->out[t].bytes) != 0) {
            fail_msg("%s, d_mul %" PRId64 ", %s: %s has other bits than with one thread or with "
                     "another candidate of the same order of sums",
                     l->text, l->d_mul, where, names[t]);
        }
    }
}

/* A way to run: numbers and orders of threads, places in memory. */
static const struct way {
    int threads;
    enum task_kind kind;
    enum buffer_place place;
} ways[] = {{1, TASKS_FORWARD, BUFFER_GUARD_AFTER},
            {2, TASKS_PTHREADS, BUFFER_GUARD_BEFORE},
            {3, TASKS_REVERSED, BUFFER_CANARIES},
            {8, TASKS_SHUFFLED, BUFFER_GUARD_AFTER}};
enum { WAYS = sizeof ways / sizeof ways[0] };

/* The context of a way; order is its user. */
static doconv_context *open_way(doconv_isa cap, const struct way *way, struct task_order *order)
{
    *order = (struct task_order){.kind = way->kind, .seed = 5};
    return open_with(cap, way->threads, way->threads > 1 ? order : NULL);
}

/* The plans that a context chooses itself, in every way: right, and all the same bits. */
static void check_choice(const struct layer *l, doconv_isa cap, double *const bounds[TENSORS])
{
    struct run first = {0};
    for (int way = 0; way < WAYS; way++) {
        struct task_order order;
        doconv_context *context = open_way(cap, &ways[way], &order);
        doconv_plan *plans[PASSES];
        make_plans(context, l, plans);
        struct run r = make_run(l, plans, ways[way].place);
        char where[64];
        snprintf(where, sizeof where, "cap %s, %d threads", doconv_isa_string(cap),
                 ways[way].threads);
        forward(l, plans[FORWARD], &r);
        backward(plans[BACKWARD], &r, ALL);
        for (int pass = 0; pass < PASSES; pass++) {
            compare(l, &r, pass, where, bounds);
            if (way != 0) {
                same_bits(l, pass, &first, &r, where);
            }
        }
        destroy_plans(plans);
        doconv_context_destroy(context);
        if (way == 0) {
            first = r;
        } else {
            free_run(&r);
        }
    }
    free_run(&first);
}

/* Most orders of sums that a pass's candidates have. */
enum { MOST_ORDERS = 32 };

/*
 * Every candidate of a pass and a cap, each in one of the ways: right, and the same bits for one
 * order of sums.
 */
static void check_candidates(const struct layer *l, doconv_isa cap, int pass,
                             double *const bounds[TENSORS])
{
    struct {
        int order_of_sums;
        struct run run;
    } first[MOST_ORDERS];
    int orders = 0;
    for (int way = 0; way < WAYS; way++) {
        struct task_order order;
        doconv_context *context = open_way(cap, &ways[way], &order);
        const struct dc_problem p = problem_of(context, l, pass);
        struct dc_candidate_list list = forcible_share(context, &p);
        for (int c = way; c < list.count; c += WAYS) {
            if (!of_cap(context, &list.items[c])) {
                continue;
            }
            doconv_plan *plans[PASSES] = {NULL};
            plans[pass] = plan_of(context, &p, list.items[c].text);
            struct run r = make_run(l, plans, ways[way].place);
            char where[DC_VARIANT_SIZE + 32];
            snprintf(where, sizeof where, "%s, %d threads", list.items[c].text, ways[way].threads);
            if (pass == FORWARD) {
                forward(l, plans[FORWARD], &r);
            } else {
                backward(plans[BACKWARD], &r, ALL);
            }
            compare(l, &r, pass, where, bounds);
            destroy_plans(plans);
            int known = 0;
            while (known < orders && first[known].order_of_sums != list.items[c].order_of_sums) {
                known++;
            }
            if (known < orders) {
                same_bits(l, pass, &first[known].run, &r, where);
                free_run(&r);
                continue;
            }
            assert_true(orders < MOST_ORDERS);
            first[orders].order_of_sums = list.items[c].order_of_sums;
            first[orders++].run = r;
        }
        dc_free(context, list.items);
        doconv_context_destroy(context);
    }
    while (orders > 0) {
        free_run(&first[--orders].run);
    }
}

/* A step at each cap. */
static void check_layer(const struct layer *l, double *const bounds[TENSORS])
{
    for (int cap = 0; cap < CAPS; cap++) {
        check_choice(l, caps[cap], bounds);
        for (int pass = 0; pass < PASSES; pass++) {
            check_candidates(l, caps[cap], pass, bounds);
        }
    }
}

/* ---- tests ---- */

enum { ROUNDED = 1, FOLDED = 2, WANTED = 4 };
static const struct {
    const char *text;
    int64_t d_mul;
    int identity;
    unsigned also; /* the slower tests that take this case too */
} cases[] = {
    /* Rows of an image are cut, with a shorter part at the end; an odd width. */
    {"mb1_ic16ih47iw23oc16kh3kw3ph1pw1:src=nhwc,dst=nhwc,bias", 9, 1, ROUNDED},
    {"mb2_ic20ih29oc20kh3ph1:src=nchw,dst=nchw,bias", 9, 1, ROUNDED | FOLDED},
    {"mb1_ic24ih37oc24kh3ph1:src=nChw8c,dst=nChw16c", 11, 0, WANTED},
    {"mb1_ic12ih33oc20kh3ph1:src=nChw16c,dst=nChw8c,bias", 9, 0, 0},
    /* A row is longer than a part; one row, one column. */
    {"mb1_ic4ih3iw700oc8kh3kw3ph1pw1:src=nhwc,dst=nhwc", 9, 1, 0},
    {"mb1_ic16ih1iw530oc16kh1kw3ph0pw1:src=nchw,dst=nhwc,bias", 3, 1, 0},
    {"mb1_ic5ih600iw1oc6kh3kw1ph1pw0:src=nhwc,dst=nchw", 4, 1, 0},
    /* Several passes over the inputs and blocks of outputs; ends inside each. */
    {"mb1_ic69ih9oc101kh3ph1:src=nhwc,dst=nhwc,bias", 9, 1, ROUNDED},
    {"mb1_ic80ih5oc112kh3ph1:src=nChw16c,dst=nChw16c", 10, 1, ROUNDED | FOLDED},
    {"mb1_ic65ih6oc33kh3ph1:src=nchw,dst=nchw,bias", 9, 0, WANTED},
    {"mb1_ic128ih3oc256kh3ph1:src=nhwc,dst=nhwc", 9, 1, 0},
    {"mb1_ic108ih10oc50kh3ph1:src=nhwc,dst=nhwc,bias", 4, 1, 0},
    {"g2_mb1_ic200ih3oc98kh3ph1:src=nchw,dst=nchw", 3, 0, 0},
    /* Many small images, with fewer in the last part. */
    {"mb71_ic16ih2oc16kh3ph1:src=nhwc,dst=nhwc,bias", 9, 1, ROUNDED},
    {"mb37_ic18ih4iw3oc17kh3kw3ph1pw1:src=nchw,dst=nchw", 9, 0, WANTED},
    {"mb131_ic8ih1oc8kh3ph1:src=nChw8c,dst=nChw8c", 9, 1, 0},
    {"mb150_ic20ih2oc36kh3ph1:src=nhwc,dst=nhwc,bias", 9, 1, 0},
    {"mb150_ic16ih2oc24kh3ph1:src=nchw,dst=nChw16c,bias", 9, 0, 0},
    /* D_mul: 1, fewer and more than the taps, more than 64, a multiple of the taps and not. */
    {"mb1_ic16ih8oc16kh3ph1:src=nhwc,dst=nhwc", 1, 1, 0},
    {"mb1_ic19ih8oc16kh3ph1:src=nchw,dst=nhwc,bias", 4, 1, 0},
    {"mb1_ic16ih6oc12kh3ph1:src=nhwc,dst=nhwc", 29, 1, 0},
    {"mb1_ic18ih5oc8kh3ph1:src=nhwc,dst=nchw", 83, 1, 0},
    {"mb1_ic3ih9oc8kh3ph1:src=nchw,dst=nhwc,bias", 70, 1, 0},
    {"mb1_ic16ih7oc16kh1:src=nhwc,dst=nhwc", 2, 1, 0},
    /* Fewer pixels than outputs: W is read, and its gradient written, where it is. */
    {"mb1_ic20ih5oc70kh3ph1:src=nhwc,dst=nhwc,bias", 9, 1, ROUNDED | WANTED},
    {"mb2_ic33ih4oc75kh3ph1:src=nchw,dst=nChw16c,bias", 9, 1, 0},
    {"mb1_ic40ih9iw11oc210kh3kw3ph1pw1:src=nChw8c,dst=nchw", 9, 0, 0},
    {"mb7_ic17ih6oc101kh3ph1sh2:src=nhwc,dst=nhwc,bias", 10, 1, ROUNDED | FOLDED},
    {"g2_mb3_ic48ih2iw3oc84kh3kw3ph1pw1:src=nhwc,dst=nChw8c", 9, 1, 0},
    {"g2_mb1_ic34ih3oc50kh3ph1:src=nChw16c,dst=nhwc,bias", 9, 1, 0},
    {"g3_mb1_ic60ih2oc57kh3ph1:src=nChw8c,dst=nChw16c", 9, 1, 0},
    {"mb1_ic24ih7oc60kh3ph1:src=nhwc,dst=nhwc", 9, 1, WANTED},
    {"mb4_ic17ih3oc52kh3ph1:src=nchw,dst=nchw,bias", 9, 0, 0},
    {"mb1_ic20ih17oc300kh3ph1:src=nhwc,dst=nhwc", 9, 1, ROUNDED},
    {"mb37_ic12ih3oc340kh3ph1:src=nchw,dst=nhwc,bias", 9, 1, WANTED},
    {"mb1_ic16ih3oc24kh3ph1:src=nhwc,dst=nchw", 83, 1, 0},
    {"mb1_ic40ih3oc64kh1:src=nhwc,dst=nhwc,bias", 2, 1, 0},
    {"mb1_ic8ih4oc40kh3ph1:src=nchw,dst=nhwc", 1, 1, 0},
    {"mb1_ic300ih1oc130kh3ph1:src=nhwc,dst=nhwc,bias", 9, 1, 0},
    /* The same, but with copies of few input channels side by side. */
    {"mb1_ic5ih3oc40kh3ph1:src=nhwc,dst=nhwc,bias", 9, 1, 0},
    {"g2_mb1_ic12ih4oc50kh3ph1:src=nchw,dst=nchw", 10, 0, 0},
    /* First layers. */
    {"mb1_ic3ih43iw45oc64kh7kw7ph3pw3sh2sw2:src=nchw,dst=nhwc,bias", 49, 1, ROUNDED | WANTED},
    {"mb2_ic1ih30oc20kh5ph2:src=nhwc,dst=nchw", 25, 1, 0},
    {"mb1_ic7ih24oc32kh3ph1sh2:src=nChw8c,dst=nChw16c", 9, 0, 0},
    {"mb1_ic15ih21oc9kh3ph1:src=nhwc,dst=nhwc", 9, 1, 0},
    /* Strides, dilation, uneven padding, kernels that reach far out of the image. */
    {"mb1_ic32ih39iw41oc32kh3kw3ph1pw1sh2sw2:src=nhwc,dst=nhwc,bias", 9, 1, ROUNDED},
    {"mb1_ic17ih40iw31oc19kh5kw5ph2pw2sh3sw3:src=nchw,dst=nchw", 25, 0, FOLDED},
    {"mb1_ic16ih27oc24kh3ph2dh1:src=nChw16c,dst=nhwc", 9, 1, 0},
    {"mb2_ic16ih14iw19oc16kh3kw4ph3pw5sh1sw2dh2dw1:src=nhwc,dst=nchw,bias", 12, 1, 0},
    {"mb1_ic16ih4oc16kh7ph6:src=nhwc,dst=nhwc", 49, 1, 0},
    {"mb1_ic16ih13oc16kh3ph0sh4:src=nhwc,dst=nhwc", 9, 1, 0},
    /*
     * Groups: depthwise, narrow, blocks of channels that begin inside one of the layout, outputs
     * that don't end with it.
     */
    {"g32_mb1_ic32ih24oc32kh3ph1:src=nhwc,dst=nhwc,bias", 9, 1, 0},
    {"g10_mb1_ic10ih9oc40kh3ph1sh2:src=nchw,dst=nChw8c", 9, 1, 0},
    {"g8_mb1_ic32ih17oc32kh3ph1:src=nChw16c,dst=nChw16c,bias", 9, 0, 0},
    {"g2_mb1_ic40ih18oc72kh3ph1:src=nhwc,dst=nhwc,bias", 9, 1, 0},
    {"g3_mb1_ic60ih11oc57kh3ph1:src=nChw16c,dst=nChw8c", 9, 1, ROUNDED | FOLDED | WANTED},
    {"g2_mb2_ic48ih20oc10kh3ph1:src=nChw8c,dst=nChw16c,bias", 9, 1, FOLDED},
    {"g4_mb3_ic64ih6oc100kh3ph1sh2:src=nchw,dst=nhwc", 10, 0, 0},
    {"g5_mb1_ic85ih5oc20kh3ph1:src=nhwc,dst=nChw16c", 9, 1, 0},
    {"g2_mb1_ic36ih16oc6kh3ph1:src=nhwc,dst=nhwc", 9, 1, 0},
    /* Depthwise layers: blocks across groups, some outputs of each. */
    {"g20_mb3_ic20ih11iw9oc20kh3kw3ph1pw1:src=nchw,dst=nChw16c,bias", 9, 1,
     ROUNDED | FOLDED | WANTED},
    {"g40_mb2_ic40ih30oc80kh3ph1sh2:src=nChw8c,dst=nChw8c,bias", 10, 0, WANTED},
    {"g17_mb1_ic17ih20oc51kh5ph2:src=nhwc,dst=nchw", 70, 1, 0},
    {"g48_mb2_ic48ih9oc48kh3ph2dh1:src=nhwc,dst=nhwc,bias", 3, 1, FOLDED},
};

static void exact_values(void **state)
{
    (void)state;
    /* Where they are slow, every third: their order goes through layouts and kinds. */
    const size_t step = harness_scaled(100, 1) < 100 ? 3 : 1;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i += step) {
        struct layer l = make_layer(cases[i].text, cases[i].d_mul, cases[i].identity, true);
        check_layer(&l, NULL);
        free_layer(&l);
    }
}

/* gamma(k): the relative error of a sum of k rounded products, in any order. */
static double gamma_of(int64_t terms)
{
    const double u = ldexp(1.0, -24);
    return (double)terms * u / (1.0 - (double)terms * u);
}

/*
 * Values that round: each result within the a-priori bound of its two nested sums, gamma(terms of
 * both) times the same sums of magnitudes. dst is then equal to a convolution by the folded kernel
 * within that bound, for the sums in double are: folding is their distributive law.
 */
static void rounded_values(void **state)
{
    (void)state;
    for (size_t number = 0; number < sizeof cases / sizeof cases[0]; number++) {
        if ((cases[number].also & ROUNDED) == 0) {
            continue;
        }
        struct layer l =
            make_layer(cases[number].text, cases[number].d_mul, cases[number].identity, false);
        double *in[TENSORS], *bounds[TENSORS];
        for (int t = 0; t < TENSORS; t++) {
            in[t] = zeros(l.counts[t], sizeof(double));
            bounds[t] = zeros(l.counts[t], sizeof(double));
            for (size_t at = 0; at < l.counts[t]; at++) {
                in[t][at] = fabs((double)l.in[t][at]);
            }
        }
        compute(&l, (const double *const *)in, bounds);
        const int64_t pixels = l.desc.n * l.hout * l.wout, rounded_d = 1;
        const double gammas[TENSORS] = {[SRC] = gamma_of(l.cog + l.d_mul * l.taps + rounded_d),
                                        [W] = gamma_of(l.taps + pixels + rounded_d),
                                        [D] = gamma_of(l.cog + pixels),
                                        [DST] = gamma_of(l.taps + l.cig * l.d_mul + 1 + rounded_d)};
        for (int t = 0; t < TENSORS; t++) {
            for (size_t at = 0; at < l.counts[t]; at++) {
                bounds[t][at] *= gammas[t];
            }
            free(in[t]);
        }
        check_layer(&l, bounds);
        for (int t = 0; t < TENSORS; t++) {
            free(bounds[t]);
        }
        free_layer(&l);
    }
}

/* The folded kernel, by doconv_fold(), convolved in double: an oracle that knows nothing of Z. */
static void equals_folded(void **state)
{
    (void)state;
    for (size_t number = 0; number < sizeof cases / sizeof cases[0]; number++) {
        if ((cases[number].also & FOLDED) == 0) {
            continue;
        }
        struct layer l =
            make_layer(cases[number].text, cases[number].d_mul, cases[number].identity, true);
        const doconv_conv_desc *d = &l.desc;
        const doconv_fold_desc fold = {.size = sizeof fold,
                                       .cout = d->cout,
                                       .cin = d->cin,
                                       .kh = d->kh,
                                       .kw = d->kw,
                                       .groups = d->groups,
                                       .d_mul = l.d_mul,
                                       .mapping = DOCONV_MAPPING_PAPER,
                                       .add_identity = l.identity};
        float *weight = zeros((size_t)(d->cout * l.cig * l.taps), sizeof *weight);
        double *value = zeros(l.counts[DST], sizeof *value),
               *magnitude = zeros(l.counts[DST], sizeof *magnitude);
        doconv_context *context = open_with(DOCONV_ISA_NONE, 1, NULL);
        expect_ok(doconv_fold(context, &fold, l.in[W], l.in[D], weight));
        oracle_convolve(d, l.in[SRC], weight, l.in[BIAS], NULL, value, magnitude);
        for (size_t at = 0; at < l.counts[DST]; at++) {
            if (value[at] != l.out[DST][at]) {
                fail_at(&l, "folded", DST, at, l.out[DST][at], value[at], 0.0);
            }
        }
        doconv_context_destroy(context);
        free(weight);
        free(value);
        free(magnitude);
        free_layer(&l);
    }
}

/*
 * With a candidate of the backward pass, a gradient that nobody wants is not written, and its
 * absence changes no bit of the others.
 */
static void check_wanted(const struct layer *l, doconv_context *context, const struct dc_problem *p,
                         const char *variant)
{
    doconv_plan *plans[PASSES] = {[BACKWARD] = plan_of(context, p, variant)};
    struct run all = make_run(l, plans, BUFFER_CANARIES);
    backward(plans[BACKWARD], &all, ALL);
    for (int wanted = 0; wanted < ALL; wanted++) {
        struct run some = make_run(l, plans, BUFFER_CANARIES);
        backward(plans[BACKWARD], &some, wanted);
        for (int t = SRC; t <= D; t++) {
            const uint32_t *seen = some.out[t].data;
            if ((wanted & 1 << t) != 0 && memcmp(seen, all.out[t].data, all.out[t].bytes) != 0) {
                fail_msg("%s, %s, wanted %d: %s has other bits than with all gradients", l->text,
                         variant, wanted, names[t]);
            }
            for (size_t at = 0; at < some.out[t].bytes / 4 && (wanted & 1 << t) == 0; at++) {
                assert_int_equal(seen[at], BUFFER_UNWRITTEN);
            }
        }
        free_run(&some);
    }
    free_run(&all);
    destroy_plans(plans);
}

static void wanted_gradients(void **state)
{
    (void)state;
    for (size_t number = 0; number < sizeof cases / sizeof cases[0]; number++) {
        if ((cases[number].also & WANTED) == 0) {
            continue;
        }
        struct layer l =
            make_layer(cases[number].text, cases[number].d_mul, cases[number].identity, false);
        for (int cap = 0; cap < CAPS; cap++) {
            doconv_context *context = open_with(caps[cap], 1, NULL);
            const struct dc_problem p = problem_of(context, &l, BACKWARD);
            struct dc_candidate_list list = forcible_share(context, &p);
            for (int c = 0; c < list.count; c++) {
                check_wanted(&l, context, &p, list.items[c].text);
            }
            dc_free(context, list.items);
            doconv_context_destroy(context);
        }
        free_layer(&l);
    }
}

/*
 * The loss sum(dst * grad_dst) is linear in each tensor: with integers, its difference over a step
 * of 1 is the gradient, to the bit.
 */
static void finite_differences(void **state)
{
    (void)state;
    struct layer l = make_layer("g2_mb2_ic36ih7oc40kh3ph1sh2:src=nhwc,dst=nchw,bias", 10, 1, true);
    for (int cap = 0; cap < CAPS; cap++) {
        doconv_context *context = open_with(caps[cap], 1, NULL);
        doconv_plan *plans[PASSES];
        make_plans(context, &l, plans);
        struct run r = make_run(&l, plans, BUFFER_CANARIES);
        backward(plans[BACKWARD], &r, ALL);
        for (int t = SRC; t <= D; t++) {
            float *value = r.in[t].data;
            const float *gradient = r.out[t].data;
            for (size_t at = 0; at < l.counts[t]; at += 1 + l.counts[t] / 60) {
                double losses[2] = {0.0, 0.0};
                for (int side = 0; side < 2; side++) {
                    value[at] += side == 0 ? 1.0f : -1.0f;
                    forward(&l, plans[FORWARD], &r);
                    for (size_t o = 0; o < l.counts[DST]; o++) {
                        losses[side] += (double)((const float *)r.out[DST].data)[o] *
                                        (double)((const float *)r.in[DST].data)[o];
                    }
                }
                if (losses[0] - losses[1] != (double)gradient[at]) {
                    fail_at(&l, doconv_isa_string(caps[cap]), t, at, (double)gradient[at],
                            losses[0] - losses[1], 0.0);
                }
            }
        }
        free_run(&r);
        destroy_plans(plans);
        doconv_context_destroy(context);
    }
    free_layer(&l);
}

/* Both passes have kernels on every ISA: loops of ordinary layers are for CPUs without any. */
static void passes_have_kernels(void **state)
{
    (void)state;
    struct layer l = make_layer("ic32ih14oc32kh3ph1:src=nhwc,dst=nhwc", 9, false, true);
    for (int cap = 0; cap < CAPS; cap++) {
        doconv_context *context = open_with(caps[cap], 1, NULL);
        doconv_plan *plans[PASSES];
        make_plans(context, &l, plans);
        for (int pass = 0; pass < PASSES; pass++) {
            const bool kernel = strchr(doconv_plan_variant(plans[pass]), '@') != NULL;
            assert_true(kernel == (caps[cap] != DOCONV_ISA_NONE));
        }
        destroy_plans(plans);
        doconv_context_destroy(context);
    }
    free_layer(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_values),       cmocka_unit_test(rounded_values),
        cmocka_unit_test(equals_folded),      cmocka_unit_test(wanted_gradients),
        cmocka_unit_test(finite_differences), cmocka_unit_test(passes_have_kernels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
