/* SPDX-License-Identifier: MIT */
/*
 * What the planner promises of each operation, on a sample of layers, under every ISA cap and with
 * 1, 2 and 3 threads: candidates have texts of their own that force them, refusals have reasons,
 * candidates of one order of sums have the same bits, and all agree with portable loops within
 * rounding; kernels that round more serve the accuracy classes that allow it.
 */
#include <math.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/registry.h"
#include "capped.h"
#include "harness.h"
#include "harness_buffer.h"
#include "oracle.h"
#include "plans.h"

/* ---- a layer and its tensors ---- */

enum { SRC, WEIGHT, W, D, BIAS, RESIDUAL, GRAD_DST, GRAD_FOLDED, INPUTS };
enum { DST, FOLDED, GRAD_SRC, GRAD_WEIGHT, GRAD_W, GRAD_D, OUTPUTS };
static const char *const output_names[OUTPUTS] = {"dst",         "weight", "grad_src",
                                                  "grad_weight", "grad_w", "grad_d"};

struct layer {
    const char *text;
    struct dc_problem problem; /* its convolution */
    /* Uniform values, and their magnitudes; padding channels of blocked layouts are NaN. */
    struct buffer values[INPUTS], magnitudes[INPUTS];
};

/* The layout and the shape of an image tensor; others are one row. */
static doconv_layout shape_of(const struct dc_problem *p, int input, int64_t shape[4])
{
    const doconv_conv_desc *d = &p->desc;
    const int64_t taps = d->kh * d->kw, rows = d->cout * p->group_cin;
    const int64_t counts[INPUTS] = {[WEIGHT] = rows * taps,
                                    [W] = rows * d->d_mul,
                                    [D] = d->cin * taps * d->d_mul,
                                    [BIAS] = d->cout,
                                    [GRAD_FOLDED] = rows * taps};
    const bool output = input == RESIDUAL || input == GRAD_DST;
    shape[0] = input == SRC || output ? d->n : 1;
    shape[1] = input == SRC ? d->cin : output ? d->cout : 1;
    shape[2] = input == SRC ? d->h : output ? p->hout : 1;
    shape[3] = input == SRC ? d->w : output ? p->wout : counts[input];
    return input == SRC ? d->src_layout : output ? d->dst_layout : DOCONV_NCHW;
}

static void make_layer(struct layer *l, const char *text)
{
    *l = (struct layer){.text = text};
    const doconv_conv_desc desc = problem(text);
    expect_ok(dc_problem_create(NULL, &desc, &l->problem));
    struct rng rng = rng_from(harness_seed(), text);
    for (int input = 0; input < INPUTS; input++) {
        int64_t s[4];
        const doconv_layout layout = shape_of(&l->problem, input, s);
        const size_t bytes = oracle_floats(layout, s[0], s[1], s[2], s[3]) * sizeof(float);
        buffer_create(&l->values[input], bytes, BUFFER_CANARIES, 4);
        buffer_create(&l->magnitudes[input], bytes, BUFFER_CANARIES, 4);
        for (int64_t i = 0; i < s[0] * s[1] * s[2] * s[3]; i++) {
            const size_t at = oracle_index(layout, s[1], s[2], s[3], i / s[3] / s[2] / s[1],
                                           i / s[3] / s[2] % s[1], i / s[3] % s[2], i % s[3]);
            const float value = (float)(2.0 * rng_unit(&rng) - 1.0);
            ((float *)l->values[input].data)[at] = value;
            ((float *)l->magnitudes[input].data)[at] = fabsf(value);
        }
    }
}

static void free_layer(struct layer *l)
{
    for (int input = 0; input < INPUTS; input++) {
        assert_true(buffer_intact(&l->values[input]));
        buffer_destroy(&l->values[input]);
        buffer_destroy(&l->magnitudes[input]);
    }
}

/* ---- an operation on it ---- */

struct result {
    struct buffer out[OUTPUTS];
};

static bool composed(const struct dc_problem *p)
{
    return p->fold.d_mul != 0;
}

static bool writes(const struct dc_problem *p, int output)
{
    switch (p->operation) {
    case DC_CONVOLUTION:
        return output == DST || (output == FOLDED && composed(p));
    case DC_FOLD:
        return output == FOLDED;
    case DC_FOLD_GRADIENT:
        return output == GRAD_W || output == GRAD_D;
    case DC_FEATURE_FORWARD:
        return output == DST;
    case DC_FEATURE_BACKWARD:
        return output == GRAD_SRC || output == GRAD_W || output == GRAD_D;
    case DC_WEIGHT_GRADIENT:
        return composed(p) ? output == GRAD_W || output == GRAD_D : output == GRAD_WEIGHT;
    default:
        fail();
        return false;
    }
}

static void make_result(const struct layer *l, const struct dc_problem *p, struct result *r)
{
    static const int alike[OUTPUTS] = {[DST] = GRAD_DST,       [FOLDED] = WEIGHT, [GRAD_SRC] = SRC,
                                       [GRAD_WEIGHT] = WEIGHT, [GRAD_W] = W,      [GRAD_D] = D};
    *r = (struct result){0};
    for (int output = 0; output < OUTPUTS; output++) {
        if (writes(p, output)) {
            buffer_create(&r->out[output], l->values[alike[output]].bytes, BUFFER_CANARIES, 20);
        }
    }
}

static void free_result(struct result *r)
{
    for (int output = 0; output < OUTPUTS; output++) {
        assert_true(r->out[output].data == NULL || buffer_intact(&r->out[output]));
        buffer_destroy(&r->out[output]);
    }
}

/* A plan on inputs, which are values or magnitudes. */
static void run_plan(const struct layer *l, const doconv_plan *plan, const struct buffer *in,
                     struct result *r)
{
    const struct dc_problem *p = &plan->problem;
    const float *const bias = p->desc.has_bias ? in[BIAS].data : NULL;
    struct buffer workspace;
    buffer_create(&workspace, plan->workspace_size, BUFFER_GUARD_AFTER, 0);
    make_result(l, p, r);
    struct dc_weight_source source = {.bias = bias};
    struct dc_tensors tensors = {
        .src = in[SRC].data,
        .residual = p->desc.residual ? in[RESIDUAL].data : NULL,
        .bias = bias,
        .w = in[W].data,
        .d = in[D].data,
        .grad_dst = in[GRAD_DST].data,
        .grad_folded = in[GRAD_FOLDED].data,
        .dst = r->out[DST].data,
        .weight = r->out[FOLDED].data,
        .grad_src = r->out[GRAD_SRC].data,
        .grad_weight = r->out[GRAD_WEIGHT].data,
        .grad_w = r->out[GRAD_W].data,
        .grad_d = r->out[GRAD_D].data,
    };
    doconv_weights *weights = NULL;
    if (p->operation == DC_CONVOLUTION && p->fresh_weights) {
        source.fold = plan->fold;
        source.w = in[W].data;
        source.d = in[D].data;
        source.folded = r->out[FOLDED].data;
        source.view = dc_weight_view(p, composed(p) ? source.folded : in[WEIGHT].data);
        tensors.fresh = &source;
    } else if (p->operation == DC_CONVOLUTION) {
        expect_ok(doconv_weights_create(plan, in[WEIGHT].data, bias, &weights));
        tensors.packed = weights->data;
    }
    dc_plan_run(plan, &tensors, workspace.data);
    doconv_weights_destroy(weights);
    buffer_destroy(&workspace);
}

/* The problem of an operation in a context, which has its number of threads. */
static struct dc_problem problem_for(doconv_context *context, const struct layer *l,
                                     enum dc_operation operation, bool fresh)
{
    struct dc_problem p = dc_problem_for(&l->problem, operation);
    p.threads = context->threads;
    p.fresh_weights = fresh;
    return p;
}

/* Most roundings on the way of a product to a result, in any order of sums. */
static double roundings(const struct layer *l, const struct dc_problem *p)
{
    const struct dc_problem *c = &l->problem;
    const int64_t taps = c->desc.kh * c->desc.kw, d_mul = c->fold.d_mul,
                  pixels = c->desc.n * c->hout * c->wout,
                  handed_back = most(taps, c->group_cout) + 2;
    switch (p->operation) {
    case DC_CONVOLUTION:
        return (double)(c->group_cin * taps + 4 + (composed(p) ? d_mul + 2 : 0));
    case DC_FOLD:
        return (double)(d_mul + 2);
    case DC_FOLD_GRADIENT:
        return (double)handed_back;
    case DC_FEATURE_FORWARD:
        return (double)(taps + c->group_cin * d_mul + 4);
    case DC_FEATURE_BACKWARD:
        return (double)(c->group_cout + d_mul * taps + taps + pixels + 4);
    default:
        return (double)(pixels + 3 + (composed(p) ? handed_back : 0));
    }
}

/* ---- an operation under test ---- */

/* Most orders of sums of an operation's candidates. */
enum { MOST_ORDERS = 64 };

struct subject {
    const struct layer *layer;
    enum dc_operation operation;
    bool fresh;
    struct result portable, magnitudes;
    struct {
        int order_of_sums;
        struct result result;
        char where[DC_VARIANT_SIZE + 64];
    } first[MOST_ORDERS];
    int orders;
};

/* By portable loops, and with magnitudes for values: what bounds of rounding are taken from. */
static void run_portably(struct subject *s)
{
    doconv_context *context = open_with(DOCONV_ISA_NONE, 1, NULL);
    const struct dc_problem p = problem_for(context, s->layer, s->operation, s->fresh);
    doconv_plan *plan = plan_of(context, &p, NULL);
    assert_true(plan->candidate.kernel == NULL ||
                plan->candidate.kernel->family == DC_FAMILY_REFERENCE);
    run_plan(s->layer, plan, s->layer->values, &s->portable);
    run_plan(s->layer, plan, s->layer->magnitudes, &s->magnitudes);
    doconv_plan_destroy(plan);
    doconv_context_destroy(context);
}

static void expect_close(const struct subject *s, const doconv_plan *plan, const struct result *r,
                         const char *where)
{
    const double count = roundings(s->layer, &plan->problem), unit = ldexp(1.0, -24);
    const double gamma = count * unit / (1.0 - count * unit);
    /* Both sides round, and so do the magnitudes. */
    const double factor = 1.01 * gamma * (1.0 + (double)plan->candidate.error_amplification);
    for (int output = 0; output < OUTPUTS; output++) {
        const float *seen = r->out[output].data, *expected = s->portable.out[output].data,
                    *magnitude = s->magnitudes.out[output].data;
        for (size_t i = 0; i < r->out[output].bytes / sizeof *seen; i++) {
            const double error = fabs((double)seen[i] - (double)expected[i]);
            if (!(error <= factor * (double)magnitude[i])) {
                fail_msg("%s, %s: %s[%zu] is %.9g, by portable loops %.9g", s->layer->text, where,
                         output_names[output], i, (double)seen[i], (double)expected[i]);
            }
        }
    }
}

/* The first result of an order of sums is kept, others must be the same. Takes *r. */
static void expect_same(struct subject *s, int order_of_sums, struct result *r, const char *where)
{
    int known = 0;
    while (known < s->orders && s->first[known].order_of_sums != order_of_sums) {
        known++;
    }
    if (known == s->orders) {
        assert_true(known < MOST_ORDERS);
        s->first[known].order_of_sums = order_of_sums;
        s->first[known].result = *r;
        snprintf(s->first[known].where, sizeof s->first[known].where, "%s", where);
        s->orders++;
        return;
    }
    for (int output = 0; output < OUTPUTS; output++) {
        const struct buffer *a = &s->first[known].result.out[output], *b = &r->out[output];
        if (a->bytes != 0 && memcmp(a->data, b->data, a->bytes) != 0) {
            fail_msg("%s, %s: %s has other bits than %s, order %d", s->layer->text, where,
                     output_names[output], s->first[known].where, order_of_sums);
        }
    }
    free_result(r);
}

static void forget_orders(struct subject *s)
{
    while (s->orders > 0) {
        free_result(&s->first[--s->orders].result);
    }
}

/* What every list of candidates holds. */
static void check_list(doconv_context *context, const struct dc_problem *p, const char *layer)
{
    struct dc_candidate_list list;
    expect_ok(dc_enumerate(context, p, NULL, &list));
    assert_true(list.count > 0 && list.items[0].refused == NULL);
    const bool one_order = p->operation != DC_CONVOLUTION || p->fresh_weights;
    for (int i = 0; i < list.count; i++) {
        const struct dc_candidate *c = &list.items[i];
        for (int j = 0; j < i; j++) {
            if (strcmp(c->text, list.items[j].text) == 0) {
                fail_msg("%s, %s: two candidates are called %s", layer,
                         dc_operation_name(p->operation), c->text);
            }
        }
        assert_true(strchr(c->text, ':') != NULL && strchr(c->text, ' ') == NULL);
        assert_true(strlen(c->text) + 1 < sizeof c->text); /* was not cut off */
        assert_true(c->solver->operation == p->operation);
        assert_true(c->refused == NULL || c->refused[0] != '\0');
        if (c->refused != NULL) {
            continue;
        }
        assert_true(i == 0 || list.items[i - 1].refused == NULL); /* accepted ones come first */
        assert_true(i == 0 || list.items[i - 1].estimated_seconds <= c->estimated_seconds);
        assert_true(c->estimated_seconds > 0.0 && isfinite(c->estimated_seconds));
        assert_true(c->error_amplification >= 1.0f);
        assert_true(!one_order || c->order_of_sums == list.items[0].order_of_sums);
    }
    dc_free(context, list.items);
}

/* A refused candidate can't be forced, but for one whose order of sums alone is in the way. */
static void check_refused(doconv_context *context, const struct dc_problem *p,
                          const struct dc_candidate_list *forced)
{
    struct dc_candidate_list list;
    expect_ok(dc_enumerate(context, p, NULL, &list));
    for (int i = 0; i < list.count; i++) {
        bool can_be = false;
        for (int j = 0; j < forced->count; j++) {
            can_be = can_be || strcmp(list.items[i].text, forced->items[j].text) == 0;
        }
        assert_true(can_be || list.items[i].refused != NULL);
        if (!can_be) {
            const doconv_plan_options options = {.size = sizeof options,
                                                 .variant = list.items[i].text};
            doconv_plan *plan = NULL;
            expect_status(dc_plan_create(context, p, &options, &plan), DOCONV_NOT_FOUND);
            assert_null(plan);
            expect_error(context, list.items[i].text, list.items[i].refused);
        }
    }
    dc_free(context, list.items);
}

static void check_context(struct subject *s, doconv_isa cap, int threads)
{
    struct task_order order = {.kind = threads % 2 == 0 ? TASKS_PTHREADS : TASKS_SHUFFLED};
    doconv_context *context = open_with(cap, threads, &order);
    const struct dc_problem p = problem_for(context, s->layer, s->operation, s->fresh);
    check_list(context, &p, s->layer->text);
    struct dc_candidate_list list = forcible(context, &p);
    check_refused(context, &p, &list);
    for (int c = 0; c < list.count; c++) {
        doconv_plan *plan = plan_of(context, &p, list.items[c].text);
        assert_string_equal(doconv_plan_origin(plan), "forced");
        char where[sizeof s->first[0].where];
        snprintf(where, sizeof where, "%s, %s, cap %s, %d threads", dc_operation_name(p.operation),
                 list.items[c].text, doconv_isa_string(cap), threads);
        struct result r;
        run_plan(s->layer, plan, s->layer->values, &r);
        expect_close(s, plan, &r, where);
        expect_same(s, plan->candidate.order_of_sums, &r, where);
        doconv_plan_destroy(plan);
    }
    dc_free(context, list.items);
    doconv_context_destroy(context);
}

static void check_operation(const struct layer *l, enum dc_operation operation, bool fresh)
{
    struct subject *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->layer = l;
    s->operation = operation;
    s->fresh = fresh;
    run_portably(s);
    for (int cap = 0; cap < CAPS; cap++) {
        for (int threads = 1; threads <= 3; threads++) {
            check_context(s, caps[cap], threads);
        }
        /* Folds before and after it have orders of their own, which the cap decides. */
        if (composed(&l->problem) &&
            (operation == DC_CONVOLUTION || operation == DC_WEIGHT_GRADIENT)) {
            forget_orders(s);
        }
    }
    forget_orders(s);
    free_result(&s->portable);
    free_result(&s->magnitudes);
    free(s);
}

/* ---- the layers ---- */

static void plain_layers(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "mb2_ic20ih7oc36kh3ph1:src=nhwc,dst=nhwc,bias,relu",
        "mb1_ic70ih6oc40kh3ph1:src=nchw,dst=nchw,bias,residual",
        "mb1_ic3ih17oc24kh7ph3sh2:src=nchw,dst=nhwc,bias",
        "mb2_ic33ih9oc20kh3ph1sh2:src=nChw16c,dst=nChw8c",
        "mb1_ic16ih11iw11oc16kh3kw3ph2pw2dh1dw1:src=nhwc,dst=nchw",
        "mb2_ic40ih7oc50kh1:src=nchw,dst=nchw,bias",
        "mb3_ic24ih5oc32kh1:src=nhwc,dst=nhwc",
        "g2_mb1_ic40ih6oc36kh3ph1:src=nhwc,dst=nhwc,bias",
        "g8_mb2_ic32ih7oc64kh3ph1:src=nChw16c,dst=nChw16c",
        "g12_mb1_ic24ih8oc24kh3ph1sh2:src=nchw,dst=nchw,bias",
        "g37_mb2_ic37ih9oc37kh3ph1:src=nhwc,dst=nhwc,bias,relu",
        "g32_mb1_ic32ih12oc32kh5ph2sh2:src=nChw8c,dst=nChw8c",
        "g16_mb1_ic16ih9iw9oc32kh3kw3ph2pw2dh1dw1:src=nchw,dst=nchw",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct layer l;
        make_layer(&l, texts[i]);
        check_operation(&l, DC_CONVOLUTION, false);
        check_operation(&l, DC_CONVOLUTION, true);
        check_operation(&l, DC_WEIGHT_GRADIENT, false);
        free_layer(&l);
    }
}

static void kernel_composition(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "mb2_ic20ih5oc36kh3ph1:src=nhwc,dst=nhwc,bias,dmul=9,identity",
        "mb1_ic70ih5oc40kh3ph1:src=nchw,dst=nchw,dmul=11,identity",
        "mb1_ic19ih6oc48kh3ph1sh2:src=nChw16c,dst=nChw16c,bias,dmul=4",
        "mb1_ic36ih5oc50kh1:src=nhwc,dst=nhwc,dmul=3,identity",
        "mb1_ic17ih8iw8oc24kh3kw3ph2pw2dh1dw1:src=nhwc,dst=nchw,dmul=9",
        "g4_mb1_ic32ih5oc24kh3ph1:src=nhwc,dst=nhwc,bias,dmul=9,identity",
        "g4_mb1_ic32ih5oc40kh3ph1:src=nhwc,dst=nhwc,dmul=9,mapping=pytorch,identity",
        "g3_mb2_ic60ih4oc42kh3ph1:src=nchw,dst=nhwc,dmul=10,mapping=tensorflow",
        "g24_mb1_ic24ih7oc24kh3ph1:src=nhwc,dst=nhwc,bias,dmul=9,identity",
        "g20_mb1_ic20ih6oc40kh3ph1:src=nchw,dst=nchw,dmul=12,mapping=pytorch",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct layer l;
        make_layer(&l, texts[i]);
        check_operation(&l, DC_CONVOLUTION, true);
        check_operation(&l, DC_FOLD, false);
        check_operation(&l, DC_FOLD_GRADIENT, false);
        check_operation(&l, DC_WEIGHT_GRADIENT, false);
        free_layer(&l);
    }
}

static void feature_composition(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "mb2_ic20ih7oc36kh3ph1:src=nhwc,dst=nhwc,bias,dmul=9,composition=feature,identity",
        "mb1_ic3ih13oc24kh7ph3sh2:src=nchw,dst=nhwc,dmul=49,composition=feature,identity",
        "mb1_ic40ih5oc120kh3ph1:src=nchw,dst=nchw,bias,dmul=11,composition=feature,identity",
        "mb1_ic20ih5oc70kh3ph1sh2:src=nhwc,dst=nhwc,dmul=4,composition=feature",
        "mb2_ic24ih9iw9oc20kh3kw3ph2pw2dh1dw1:src=nChw16c,dst=nChw8c,dmul=9,composition=feature",
        "mb1_ic32ih5oc48kh1:src=nhwc,dst=nhwc,dmul=2,composition=feature,identity",
        "g4_mb1_ic64ih6oc48kh3ph1:src=nhwc,dst=nhwc,bias,dmul=9,composition=feature,identity",
        /* A block of dst has outputs of two groups. */
        "g2_mb1_ic36ih5oc34kh3ph1:src=nChw16c,dst=nChw16c,bias,dmul=9,composition=feature",
        "g20_mb2_ic20ih9oc20kh3ph1:src=nchw,dst=nchw,dmul=9,composition=feature,identity",
        "g17_mb1_ic17ih8oc34kh3ph1sh2:src=nhwc,dst=nhwc,bias,dmul=10,composition=feature",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct layer l;
        make_layer(&l, texts[i]);
        check_operation(&l, DC_FEATURE_FORWARD, false);
        check_operation(&l, DC_FEATURE_BACKWARD, false);
        free_layer(&l);
    }
}

/* ---- families ---- */

/* The first row of a family that the context may use, or NULL. */
static const struct dc_kernel *usable(const doconv_context *context, enum dc_family family)
{
    const struct dc_kernel *found = NULL;
    for (int isa = DC_ISA_NONE; isa <= DC_ISA_NEON; isa++) {
        const struct dc_kernel *next = dc_kernel_next(context, family, (enum dc_isa)isa, NULL);
        found = next != NULL ? next : found;
    }
    return found;
}

/*
 * A solver that refuses everything leaves every result right: layers of each family's own kind have
 * candidates of it under every cap that has its kernels.
 */
static void families_are_offered(void **state)
{
    (void)state;
    static const char plain[] = "mb1_ic32ih14oc32kh3ph1:src=nhwc,dst=nhwc",
                      depthwise[] = "g32_mb1_ic32ih14oc32kh3ph1:src=nhwc,dst=nhwc",
                      narrow_groups[] = "g16_mb1_ic64ih14oc64kh3ph1:src=nhwc,dst=nhwc",
                      folded[] = "mb1_ic32ih14oc32kh3ph1:src=nhwc,dst=nhwc,dmul=9,identity",
                      feature[] = "mb1_ic32ih14oc32kh3ph1:src=nhwc,dst=nhwc,dmul=9,identity,"
                                  "composition=feature",
                      feature_depthwise[] = "g32_mb1_ic32ih14oc32kh3ph1:src=nhwc,dst=nhwc,dmul=9,"
                                            "identity,composition=feature";
    static const struct {
        const char *text;
        enum dc_operation operation;
        enum dc_family family;
    } rows[] = {
        {plain, DC_CONVOLUTION, DC_FAMILY_REFERENCE},
        {plain, DC_CONVOLUTION, DC_FAMILY_DIRECT},
        {plain, DC_CONVOLUTION, DC_FAMILY_WINOGRAD},
        {depthwise, DC_CONVOLUTION, DC_FAMILY_DEPTHWISE},
        {narrow_groups, DC_CONVOLUTION, DC_FAMILY_GROUPED},
        {"mb1_ic32ih14oc32kh1:src=nchw,dst=nchw", DC_CONVOLUTION, DC_FAMILY_PLANES},
        {"mb1_ic64ih1oc64kh1:src=nhwc,dst=nhwc", DC_CONVOLUTION, DC_FAMILY_PIXEL},
        {plain, DC_WEIGHT_GRADIENT, DC_FAMILY_PRODUCT},
        {depthwise, DC_WEIGHT_GRADIENT, DC_FAMILY_CORRELATE},
        {folded, DC_FOLD, DC_FAMILY_COMPOSE},
        {folded, DC_FOLD_GRADIENT, DC_FAMILY_COMPOSE},
        {feature, DC_FEATURE_FORWARD, DC_FAMILY_DEPTHWISE},
        {feature, DC_FEATURE_BACKWARD, DC_FAMILY_DEPTHWISE},
        {feature_depthwise, DC_FEATURE_FORWARD, DC_FAMILY_DEPTHWISE},
        {feature_depthwise, DC_FEATURE_BACKWARD, DC_FAMILY_DEPTHWISE},
    };
    for (int cap = 0; cap < CAPS; cap++) {
        doconv_context *context = open_with(caps[cap], 1, NULL);
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            struct layer l;
            make_layer(&l, rows[i].text);
            const struct dc_problem p = problem_for(context, &l, rows[i].operation, false);
            struct dc_candidate_list list = forcible(context, &p);
            bool offered = usable(context, rows[i].family) == NULL;
            for (int c = 0; c < list.count; c++) {
                const struct dc_kernel *kernel = list.items[c].kernel;
                offered = offered || (kernel != NULL && kernel->family == rows[i].family);
            }
            if (!offered) {
                fail_msg("%s, %s, cap %s: no candidate of family %d", rows[i].text,
                         dc_operation_name(rows[i].operation), doconv_isa_string(caps[cap]),
                         (int)rows[i].family);
            }
            dc_free(context, list.items);
            free_layer(&l);
        }
        doconv_context_destroy(context);
    }
}

/* ---- accuracy classes ---- */

/* Is a copy of the kernel that amplifies errors accepted, under a class of accuracy? */
static bool accepts(doconv_context *context, const struct dc_kernel *kernel, float amplification,
                    const char *text, enum dc_operation operation, doconv_accuracy accuracy)
{
    struct dc_kernel copy = *kernel;
    char name[64];
    snprintf(name, sizeof name, "rounding_%s", kernel->name);
    copy.name = name;
    copy.error_amplification = amplification;
    const struct dc_kernel *rows[256] = {&copy};
    const struct dc_kernel *const *own = context->kernels;
    for (int i = 0; own[i] != NULL; i++) {
        assert_true(i + 2 < (int)(sizeof rows / sizeof rows[0]));
        rows[i + 1] = own[i];
    }
    context->kernels = rows;
    doconv_conv_desc desc = problem(text);
    desc.accuracy = accuracy;
    struct dc_problem layer;
    expect_ok(dc_problem_create(context, &desc, &layer));
    const struct dc_problem p = dc_problem_for(&layer, operation);
    struct dc_candidate_list list;
    expect_ok(dc_enumerate(context, &p, NULL, &list));
    int candidates = 0, accepted = 0;
    for (int i = 0; i < list.count; i++) {
        const struct dc_candidate *c = &list.items[i];
        if (c->kernel != &copy) {
            continue;
        }
        assert_true(c->error_amplification == amplification || c->refused != NULL);
        const doconv_plan_options options = {.size = sizeof options, .variant = c->text};
        doconv_plan *plan = NULL;
        const doconv_status status = dc_plan_create(context, &p, &options, &plan);
        assert_true(status == DOCONV_OK || c->refused != NULL);
        if (status != DOCONV_OK) {
            expect_status(status, DOCONV_NOT_FOUND);
            assert_string_equal(c->refused, "its rounding is more than the accuracy class allows");
            expect_error(context, c->text, c->refused);
        }
        doconv_plan_destroy(plan);
        candidates++;
        accepted += status == DOCONV_OK;
    }
    dc_free(context, list.items);
    context->kernels = own;
    assert_true(candidates > 0 && (accepted == 0 || accepted == candidates));
    return accepted > 0;
}

static void accuracy_classes(void **state)
{
    (void)state;
    static const char *const text = "mb1_ic32ih6oc32kh3ph1:src=nhwc,dst=nhwc";
    static const struct {
        float amplification;
        doconv_accuracy accuracy;
        bool accepted;
    } rows[] = {
        {1.0f, DOCONV_ACCURACY_STRICT, true},  {1.0f, DOCONV_ACCURACY_DEFAULT, true},
        {1.0f, DOCONV_ACCURACY_FAST, true},    {2.0f, DOCONV_ACCURACY_STRICT, false},
        {2.0f, DOCONV_ACCURACY_DEFAULT, true}, {2.0f, DOCONV_ACCURACY_FAST, true},
        {5.0f, DOCONV_ACCURACY_STRICT, false}, {5.0f, DOCONV_ACCURACY_DEFAULT, false},
        {5.0f, DOCONV_ACCURACY_FAST, true},
    };
    for (int cap = 0; cap < CAPS; cap++) {
        doconv_context *context = open_with(caps[cap], 2, NULL);
        static const enum dc_family families[] = {DC_FAMILY_REFERENCE, DC_FAMILY_DIRECT};
        for (size_t family = 0; family < 2; family++) {
            const struct dc_kernel *kernel = usable(context, families[family]);
            for (size_t i = 0; i < sizeof rows / sizeof rows[0] && kernel != NULL; i++) {
                assert_int_equal(accepts(context, kernel, rows[i].amplification, text,
                                         DC_CONVOLUTION, rows[i].accuracy),
                                 rows[i].accepted);
            }
        }
        /* The gradient of a weight is of the default class. */
        const struct dc_kernel *product = usable(context, DC_FAMILY_PRODUCT);
        if (product != NULL) {
            assert_true(
                accepts(context, product, 2.0f, text, DC_WEIGHT_GRADIENT, DOCONV_ACCURACY_DEFAULT));
            assert_false(
                accepts(context, product, 5.0f, text, DC_WEIGHT_GRADIENT, DOCONV_ACCURACY_DEFAULT));
        }
        doconv_context_destroy(context);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_layers),
        cmocka_unit_test(kernel_composition),
        cmocka_unit_test(feature_composition),
        cmocka_unit_test(families_are_offered),
        cmocka_unit_test(accuracy_classes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
