/* SPDX-License-Identifier: MIT */
/*
 * What the tuner measures and checks of the operations of layers in training: wrong kernels of
 * every family are found out, and a fold runs with the convolution that needs it.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <doconv/doconv_tune.h>

#include "tuner_fixture.h"

#define PLAIN "mb1_ic20ih9oc40kh3ph1:src=nhwc,dst=nhwc"
#define COMPOSED PLAIN ",bias,dmul=9"
#define FEATURE COMPOSED ",composition=feature"
#define DEPTHWISE "g16mb2_ic16ih7oc16kh3ph1:bias,dmul=9"
/* Too much for loops: a part of the results is compared. */
#define LARGE "mb1_ic64ih40oc64kh3ph1:src=nhwc,dst=nhwc"

static const doconv_tune_options anew = {.size = sizeof anew, .budget_seconds = 1e-3, .force = 1};

/* ---- wrong kernels ---- */

static const struct dc_kernel *victim; /* the kernel that the wrong ones below are made of */
static atomic_int calls;

/* A usable kernel; NULL if there is none (portable builds). */
static const struct dc_kernel *find_kernel(const doconv_context *ctx, enum dc_family family)
{
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        if ((*row)->family == family && dc_isa_usable((*row)->isa, ctx->isa)) {
            return *row;
        }
    }
    return NULL;
}

static void compose_nothing(const struct dc_compose_args *args)
{
    (void)args;
}
static void compose_short(const struct dc_compose_args *args)
{
    struct dc_compose_args changed = *args;
    changed.steps -= changed.steps > 1; /* leaves the last row out */
    victim->compose.run(&changed);
}
static void compose_shifted(const struct dc_compose_args *args)
{
    victim->compose.run(args);
    args->weight[args->results[0] * args->taps] += 1e-3f; /* one value, a little */
}
static void compose_counting(const struct dc_compose_args *args)
{
    atomic_fetch_add(&calls, 1);
    victim->compose.run(args);
}
static void gradient_nothing(const struct dc_compose_gradient_args *args)
{
    (void)args;
}
static void gradient_shifted(const struct dc_compose_gradient_args *args)
{
    victim->compose.gradient(args);
    if (!args->goes_on) {
        args->grad_d[args->channels[0] * args->taps * args->d_mul] += 1e-2f;
    }
}
static void gradient_counting(const struct dc_compose_gradient_args *args)
{
    atomic_fetch_add(&calls, 1);
    victim->compose.gradient(args);
}

static void product_short(const struct dc_product_args *args)
{
    struct dc_product_args changed = *args;
    changed.rows -= changed.rows > 1;
    victim->product.run(&changed);
}
static void product_nan(const struct dc_product_args *args)
{
    victim->product.run(args);
    args->sums[0] = NAN;
}
static void weave_nothing(const struct dc_weave_args *args)
{
    (void)args;
}

static void correlate_nothing(const struct dc_correlate_args *args)
{
    (void)args;
}
static void correlate_short(const struct dc_correlate_args *args)
{
    struct dc_correlate_args changed = *args;
    changed.wout -= changed.wout > 1; /* leaves a column out */
    victim->correlate.run(&changed);
}

static void grouped_short(const struct dc_grouped_args *args)
{
    struct dc_grouped_args changed = *args;
    changed.y1 -= changed.y1 > changed.y0 + 1;
    victim->grouped.run(&changed);
}
static void taps_correlate_short(const struct dc_taps_args *args)
{
    struct dc_taps_args changed = *args;
    changed.rows -= changed.rows > 1;
    victim->grouped.taps_correlate(&changed);
}
static void taps_scatter_short(const struct dc_taps_args *args)
{
    struct dc_taps_args changed = *args;
    changed.pixels -= changed.pixels > 1;
    victim->grouped.taps_scatter(&changed);
}

static void direct_short(const struct dc_run_args *args)
{
    struct dc_run_args changed = *args;
    changed.segment_count -= changed.segment_count > 1;
    changed.pixels -= changed.pixels > 1 && changed.partial_out == NULL;
    victim->direct.run(&changed);
}
static void direct_nothing(const struct dc_run_args *args)
{
    (void)args;
}

#define MOST_KERNELS 128

/*
 * The context's kernels with the wrong one first, in place of all of its family or beside them.
 */
static void plant(doconv_context *ctx, const struct dc_kernel *const *all,
                  const struct dc_kernel *wrong, bool beside,
                  const struct dc_kernel *kernels[MOST_KERNELS])
{
    int count = 0;
    kernels[count++] = wrong;
    for (const struct dc_kernel *const *row = all; *row != NULL; row++) {
        if ((*row)->family != wrong->family || beside) {
            assert_true(count < MOST_KERNELS - 1);
            kernels[count++] = *row;
        }
    }
    kernels[count] = NULL;
    fixture_reattach(ctx, kernels);
}

/* Each variant with the wrong kernel alone, then all that there are. */
static void assert_refused(doconv_context *ctx, const doconv_conv_desc *desc,
                           const doconv_plan_options *options)
{
    doconv_candidates *list;
    doconv_tune_report *report = (doconv_tune_report *)ctx;
    assert_int_equal(doconv_candidates_create(ctx, desc, options, &list), DOCONV_OK);
    int accepted = 0, others = 0;
    for (int i = 0; i < doconv_candidates_count(list); i++) {
        doconv_candidate_info info = {.size = sizeof info};
        assert_int_equal(doconv_candidates_get(list, i, &info), DOCONV_OK);
        if (info.refused == NULL && strstr(info.variant, "_wrong") != NULL) {
            doconv_plan_options forced = *options;
            forced.variant = info.variant;
            assert_int_equal(doconv_tune(ctx, desc, &forced, &fixture_quick, &report),
                             DOCONV_UNSUPPORTED);
            assert_null(report);
            accepted++;
        } else if (info.refused == NULL) {
            others += strstr(info.variant, "portable") == NULL;
        }
    }
    doconv_candidates_destroy(list);
    assert_true(accepted > 0);
    const doconv_status status = doconv_tune(ctx, desc, options, &anew, &report);
    assert_int_equal(status, others > 0 ? DOCONV_OK : DOCONV_UNSUPPORTED);
    doconv_tune_report_destroy(report);
}

/* A wrong row of functions, and an operation that uses them. */
struct planted {
    enum dc_family family;
    const char *layer;
    doconv_operation operation;
    void (*spoil)(struct dc_kernel *kernel);
};

#define SPOIL(name, field, function)                                                               \
    static void name(struct dc_kernel *k)                                                          \
    {                                                                                              \
        k->field = function;                                                                       \
    }
SPOIL(no_compose, compose.run, compose_nothing)
SPOIL(short_compose, compose.run, compose_short)
SPOIL(shifted_compose, compose.run, compose_shifted)
SPOIL(no_gradient, compose.gradient, gradient_nothing)
SPOIL(shifted_gradient, compose.gradient, gradient_shifted)
SPOIL(short_product, product.run, product_short)
SPOIL(nan_product, product.run, product_nan)
SPOIL(no_weave, product.weave, weave_nothing)
SPOIL(no_correlate, correlate.run, correlate_nothing)
SPOIL(short_correlate, correlate.run, correlate_short)
SPOIL(short_grouped, grouped.run, grouped_short)
SPOIL(short_taps_correlate, grouped.taps_correlate, taps_correlate_short)
SPOIL(short_taps_scatter, grouped.taps_scatter, taps_scatter_short)
SPOIL(short_direct, direct.run, direct_short)
SPOIL(no_direct, direct.run, direct_nothing)

static const struct planted planted[] = {
    {DC_FAMILY_COMPOSE, COMPOSED, DOCONV_OPERATION_FOLD, no_compose},
    {DC_FAMILY_COMPOSE, COMPOSED, DOCONV_OPERATION_FOLD, short_compose},
    {DC_FAMILY_COMPOSE, COMPOSED, DOCONV_OPERATION_FOLD, shifted_compose},
    {DC_FAMILY_COMPOSE, COMPOSED, DOCONV_OPERATION_FOLD_GRADIENT, no_compose},
    {DC_FAMILY_COMPOSE, COMPOSED, DOCONV_OPERATION_FOLD_GRADIENT, shifted_compose},
    {DC_FAMILY_COMPOSE, COMPOSED, DOCONV_OPERATION_FOLD_GRADIENT, no_gradient},
    {DC_FAMILY_COMPOSE, COMPOSED, DOCONV_OPERATION_FOLD_GRADIENT, shifted_gradient},
    {DC_FAMILY_PRODUCT, COMPOSED, DOCONV_OPERATION_WEIGHT_GRADIENT, short_product},
    {DC_FAMILY_PRODUCT, COMPOSED, DOCONV_OPERATION_WEIGHT_GRADIENT, nan_product},
    /* what it should write lies in the workspace, where a right variant may have left it before */
    {DC_FAMILY_PRODUCT, COMPOSED, DOCONV_OPERATION_WEIGHT_GRADIENT, no_weave},
    {DC_FAMILY_PRODUCT, PLAIN, DOCONV_OPERATION_WEIGHT_GRADIENT, short_product},
    {DC_FAMILY_PRODUCT, LARGE, DOCONV_OPERATION_WEIGHT_GRADIENT, short_product},
    /* the check itself takes the wrong kernel first */
    {DC_FAMILY_PRODUCT, LARGE ",dmul=9", DOCONV_OPERATION_WEIGHT_GRADIENT, nan_product},
    {DC_FAMILY_CORRELATE, DEPTHWISE, DOCONV_OPERATION_WEIGHT_GRADIENT, no_correlate},
    {DC_FAMILY_CORRELATE, DEPTHWISE, DOCONV_OPERATION_WEIGHT_GRADIENT, short_correlate},
    {DC_FAMILY_DEPTHWISE, FEATURE, DOCONV_OPERATION_FEATURE_FORWARD, short_grouped},
    {DC_FAMILY_DIRECT, FEATURE, DOCONV_OPERATION_FEATURE_FORWARD, short_direct},
    {DC_FAMILY_DEPTHWISE, DEPTHWISE ",composition=feature", DOCONV_OPERATION_FEATURE_FORWARD,
     short_grouped},
    {DC_FAMILY_DEPTHWISE, FEATURE, DOCONV_OPERATION_FEATURE_BACKWARD, short_taps_correlate},
    {DC_FAMILY_DEPTHWISE, FEATURE, DOCONV_OPERATION_FEATURE_BACKWARD, short_taps_scatter},
    {DC_FAMILY_DEPTHWISE, LARGE ",dmul=9,composition=feature", DOCONV_OPERATION_FEATURE_BACKWARD,
     short_taps_scatter},
    {DC_FAMILY_DIRECT, FEATURE, DOCONV_OPERATION_FEATURE_BACKWARD, no_direct},
    {DC_FAMILY_DEPTHWISE, DEPTHWISE ",composition=feature", DOCONV_OPERATION_FEATURE_BACKWARD,
     short_taps_correlate},
};
#define PLANTED (sizeof planted / sizeof planted[0])

/* In place of its family, so that loops alone are left beside it: it must be found out. */
static void test_wrong_kernels_are_caught(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const struct dc_kernel *const *all = ctx->kernels, *kernels[MOST_KERNELS];
    int caught = 0;
    for (size_t i = 0; i < PLANTED; i++) {
        const doconv_conv_desc desc = fixture_problem(planted[i].layer);
        const doconv_plan_options options = {.size = sizeof options,
                                             .operation = planted[i].operation};
        victim = find_kernel(ctx, planted[i].family);
        if (victim == NULL) {
            continue;
        }
        struct dc_kernel wrong = *victim;
        char name[128];
        snprintf(name, sizeof name, "f32_wrong@%s", dc_isa_name(victim->isa));
        wrong.name = name;
        planted[i].spoil(&wrong);
        plant(ctx, all, &wrong, false, kernels);
        fixture_log_clear(f);
        assert_refused(ctx, &desc, &options);
        assert_true(f->log.errors >= 1);
        fixture_reattach(ctx, all);
        caught++;
    }
    const bool none = find_kernel(ctx, DC_FAMILY_DIRECT) == NULL;
    doconv_context_destroy(ctx);
    if (none) {
        skip();
    }
    assert_true(caught > 0);
}

/* Beside the kernel that it was made of: that one wins, and is what the cache keeps. */
static void test_wrong_kernels_never_win(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const struct dc_kernel *const *all = ctx->kernels, *kernels[MOST_KERNELS];
    for (size_t i = 0; i < PLANTED; i += 3) {
        const struct planted *p = &planted[i];
        const doconv_conv_desc desc = fixture_problem(p->layer);
        const doconv_plan_options options = {.size = sizeof options, .operation = p->operation};
        victim = find_kernel(ctx, p->family);
        if (victim == NULL) {
            continue;
        }
        struct dc_kernel wrong = *victim;
        char name[128];
        snprintf(name, sizeof name, "f32_wrong@%s", dc_isa_name(victim->isa));
        wrong.name = name;
        p->spoil(&wrong);
        plant(ctx, all, &wrong, true, kernels);
        doconv_tune_report *report = fixture_tune(ctx, &desc, &options, true);
        const doconv_tune_summary s = fixture_summary(report);
        assert_null(strstr(s.variant, "wrong"));
        assert_null(strstr(s.variant, "portable"));
        assert_true(s.max_rel_error < 1e-5);
        doconv_tune_report_destroy(report);
        fixture_reattach(ctx, all);
    }
    doconv_context_destroy(ctx);
}

/* ---- what is measured with an operation ---- */

/* A DO-Conv layer's convolution folds in each call, its weight's gradient hands back in each. */
static void test_measured_with_the_fold(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const struct dc_kernel *const *all = ctx->kernels, *kernels[MOST_KERNELS];
    const doconv_conv_desc desc = fixture_problem(COMPOSED);
    victim = find_kernel(ctx, DC_FAMILY_COMPOSE);
    if (victim == NULL) {
        doconv_context_destroy(ctx);
        skip();
    }
    struct dc_kernel counting = *victim;
    counting.name = "f32_counting@none";
    counting.compose.run = compose_counting;
    counting.compose.gradient = gradient_counting;
    plant(ctx, all, &counting, false, kernels);
    static const doconv_plan_options options[] = {
        {.size = sizeof options[0], .fresh_weights = 1},
        {.size = sizeof options[0], .operation = DOCONV_OPERATION_WEIGHT_GRADIENT},
    };
    for (int i = 0; i < 2; i++) {
        atomic_store(&calls, 0);
        doconv_tune_report *report = fixture_tune(ctx, &desc, &options[i], true);
        int samples = 0;
        for (int j = 0; j < doconv_tune_report_count(report); j++) {
            doconv_tune_entry e = {.size = sizeof e};
            assert_int_equal(doconv_tune_report_get(report, j, &e), DOCONV_OK);
            samples += e.rounds;
        }
        /* once a call at least, and a sample is of one call or more */
        assert_true(atomic_load(&calls) >= samples);
        assert_true(fixture_summary(report).max_rel_error < 1e-5);
        doconv_tune_report_destroy(report);
    }
    /* A wrong fold makes every forward pass wrong, and every gradient of W. */
    counting.compose.run = compose_shifted;
    fixture_reattach(ctx, kernels);
    for (int i = 0; i < 2; i++) {
        doconv_tune_report *report;
        assert_int_equal(doconv_tune(ctx, &desc, &options[i], &anew, &report), DOCONV_UNSUPPORTED);
    }
    fixture_reattach(ctx, all);
    doconv_context_destroy(ctx);
}

/* ---- the errors that are told ---- */

/* The larger the error that a kernel states, the larger the one that is measured. */
static double smallest_error(doconv_context *ctx, const doconv_conv_desc *desc,
                             const doconv_tune_report *report, double amplification)
{
    doconv_candidates *list;
    double smallest = INFINITY;
    assert_int_equal(doconv_candidates_create(ctx, desc, NULL, &list), DOCONV_OK);
    for (int i = 0; i < doconv_tune_report_count(report); i++) {
        doconv_tune_entry e = {.size = sizeof e};
        assert_int_equal(doconv_tune_report_get(report, i, &e), DOCONV_OK);
        for (int j = 0; j < doconv_candidates_count(list); j++) {
            doconv_candidate_info info = {.size = sizeof info};
            assert_int_equal(doconv_candidates_get(list, j, &info), DOCONV_OK);
            if (strcmp(info.variant, e.variant) == 0 &&
                fabs(info.error_amplification - amplification) < 1e-6) {
                smallest = fmin(smallest, e.rms_error);
            }
        }
    }
    doconv_candidates_destroy(list);
    return smallest;
}

static void test_errors(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    doconv_tune_options options = fixture_quick;
    options.force = 1;
    static const char *const layers[] = {FIXTURE_PROBLEM, "ic64ih14oc64kh3ph1:src=nhwc,dst=nhwc"};
    for (int i = 0; i < 2; i++) {
        const doconv_conv_desc desc = fixture_problem(layers[i]);
        for (options.errors = 0; options.errors <= 1; options.errors++) {
            doconv_tune_report *report;
            assert_int_equal(doconv_tune(ctx, &desc, NULL, &options, &report), DOCONV_OK);
            const doconv_tune_summary s = fixture_summary(report);
            for (int j = 0; j < doconv_tune_report_count(report); j++) {
                doconv_tune_entry e = {.size = sizeof e};
                assert_int_equal(doconv_tune_report_get(report, j, &e), DOCONV_OK);
                assert_true(e.rms_error >= 0.0 && e.rms_error < 1e-5);
                assert_true((e.rms_error > 0.0) == (j == 0 || options.errors == 1) ||
                            strstr(e.variant, "reference") != NULL);
                assert_true(j != 0 || memcmp(&e.rms_error, &s.rms_error, sizeof s.rms_error) == 0);
            }
            /* The root mean square is less than the largest, of other scales: not by a few. */
            assert_true(s.rms_error < 10.0 * s.max_rel_error + 1e-12);
            if (options.errors == 1) {
                const double direct = smallest_error(ctx, &desc, report, 1.0),
                             tiles = smallest_error(ctx, &desc, report, 2.5);
                assert_true(direct == INFINITY || tiles == INFINITY || direct < tiles);
            }
            doconv_tune_report_destroy(report);
        }
        /* The cache has no errors. */
        options.errors = 0;
        doconv_tune_options cached = options;
        cached.force = 0;
        doconv_tune_report *report;
        assert_int_equal(doconv_tune(ctx, &desc, NULL, &cached, &report), DOCONV_OK);
        const doconv_tune_summary s = fixture_summary(report);
        assert_true(!s.from_cache || s.rms_error == 0.0);
        doconv_tune_report_destroy(report);
    }
    const int wrong[] = {-1, 2, 100};
    for (int i = 0; i < 3; i++) {
        const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
        options.errors = wrong[i];
        doconv_tune_report *report;
        assert_int_equal(doconv_tune(ctx, &desc, NULL, &options, &report), DOCONV_INVALID_ARGUMENT);
    }
    doconv_context_destroy(ctx);
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(test_wrong_kernels_are_caught),
        WITH_FIXTURE(test_wrong_kernels_never_win),
        WITH_FIXTURE(test_measured_with_the_fold),
        WITH_FIXTURE(test_errors),
    };
    return cmocka_run_group_tests_name("tuner_checks", tests, NULL, NULL);
}
