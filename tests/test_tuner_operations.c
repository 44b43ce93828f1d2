/* SPDX-License-Identifier: MIT */
/*
 * The tuner on every operation of layers in training: measured, kept with the revisions of its
 * kernels, and found by the layer. test_tuner_checks.c has wrong kernels.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <doconv/doconv_train.h>
#include <doconv/doconv_tune.h>

#include "cache.h"
#include "tuner_fixture.h"

/* Layers of each way to compose, of each family of kernels; odd channels, borders and layouts. */
static const char *const layers[] = {
    "mb1_ic20ih9oc40kh3ph1:src=nhwc,dst=nhwc,bias",
    "mb1_ic20ih9oc40kh3ph1:src=nhwc,dst=nhwc,bias,dmul=9",
    "mb1_ic20ih9oc40kh3ph1:src=nhwc,dst=nhwc,bias,dmul=9,composition=feature",
    "g16mb2_ic16ih7oc16kh3ph1:dmul=9,identity",
    "g16mb2_ic16ih7oc16kh3ph1:bias,dmul=12,identity,composition=feature",
    "g4mb1_ic8ih7oc12kh3ph1:src=nChw8c,dst=nChw16c,dmul=12,mapping=pytorch,identity",
    "mb3_ic17ih9oc24kh3sh2ph1:src=nChw8c,dst=nChw16c,dmul=9,identity,composition=feature",
    "mb1_ic12ih5oc8kh1:dmul=1",
    "mb1_ic3ih4oc2kh3ph2dh1:dmul=2",
    /* too much for loops: a part of the results is compared */
    "mb1_ic64ih40oc64kh3ph1:src=nhwc,dst=nhwc,dmul=9",
    "mb1_ic64ih40oc64kh3ph1:src=nhwc,dst=nhwc,dmul=9,composition=feature",
    /* open: the last two, for what is chosen alone */
    "mb1_ic20ih9oc40kh3ph1:src=nhwc,dst=nhwc,bias,dmul=9,composition=auto",
    "g4mb1_ic8ih7oc12kh3ph1:src=nChw8c,dst=nChw16c,dmul=12,mapping=pytorch,composition=auto",
};
#define LAYERS (sizeof layers / sizeof layers[0])
#define OPEN_LAYERS 2
#define COMPOSED "mb1_ic20ih9oc40kh3ph1:src=nhwc,dst=nhwc,bias,dmul=9"
#define FEATURE COMPOSED ",composition=feature"
#define DEPTHWISE "g16mb2_ic16ih7oc16kh3ph1:bias,dmul=9"

static doconv_training *create_training(doconv_context *ctx, const doconv_conv_desc *desc,
                                        doconv_rigor rigor, doconv_purpose purpose)
{
    const doconv_training_options options = {
        .size = sizeof options, .rigor = rigor, .purpose = purpose};
    doconv_training *training;
    assert_int_equal(doconv_training_create(ctx, desc, &options, &training), DOCONV_OK);
    return training;
}

static doconv_training_operation operation_of(const doconv_training *training, int index)
{
    doconv_training_operation operation = {.size = sizeof operation};
    assert_int_equal(doconv_training_operation_get(training, index, &operation), DOCONV_OK);
    return operation;
}

/* What doconv_tune() takes to tune it. */
static doconv_plan_options options_of(const doconv_training_operation *operation)
{
    return (doconv_plan_options){
        .size = sizeof(doconv_plan_options),
        .operation = operation->operation,
        .fresh_weights = operation->fresh_weights,
    };
}

/* ---- measured and checked ---- */

static void test_every_operation(void **state)
{
    struct fixture *f = *state;
    char path[FIXTURE_PATH];
    struct fixture_failing counted;
    doconv_context_options context_options = fixture_options(f, "c", path);
    fixture_fail(&context_options, &counted);
    context_options.tune = DOCONV_TUNE_READ;
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&context_options, &ctx), DOCONV_OK);
    int tuned[DC_OPERATIONS] = {0};
    for (size_t l = 0; l < LAYERS + OPEN_LAYERS; l++) {
        const doconv_conv_desc desc = fixture_problem(layers[l < LAYERS ? l : l - OPEN_LAYERS]);
        doconv_training *training =
            create_training(ctx, &desc, DOCONV_RIGOR_ESTIMATE,
                            l < LAYERS ? DOCONV_PURPOSE_STEP : DOCONV_PURPOSE_FORWARD);
        for (int i = 0; i < doconv_training_operation_count(training); i++) {
            const doconv_training_operation operation = operation_of(training, i);
            doconv_plan_options options = options_of(&operation);
            doconv_tune_report *report = fixture_tune(ctx, operation.desc, &options, true);
            const doconv_tune_summary s = fixture_summary(report);
            assert_int_equal(s.from_cache, 0);
            assert_true(s.measured >= 1 && s.seconds > 0.0);
            assert_true(s.max_rel_error >= 0.0 && s.max_rel_error < 1e-5);
            /* The winner is a variant that its plan would take. */
            options.variant = s.variant;
            doconv_tune_report_destroy(fixture_tune(ctx, operation.desc, &options, false));
            doconv_tune_report_destroy(report);
            tuned[operation.operation]++;
        }
        doconv_training_destroy(training);
    }
    for (int i = 0; i < DC_OPERATIONS; i++) {
        assert_true(tuned[i] > 0);
    }
    assert_int_equal(f->log.errors, 0);
    doconv_context_destroy(ctx);
    assert_int_equal(counted.live, 0);
}

/* Loops and the reference are not measured where kernels take the problem. */
static void test_loops_are_left_out(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const doconv_conv_desc desc = fixture_problem(COMPOSED);
    doconv_training *training =
        create_training(ctx, &desc, DOCONV_RIGOR_ESTIMATE, DOCONV_PURPOSE_STEP);
    for (int i = 0; i < doconv_training_operation_count(training); i++) {
        const doconv_training_operation operation = operation_of(training, i);
        const doconv_plan_options options = options_of(&operation);
        doconv_tune_report *report = fixture_tune(ctx, operation.desc, &options, true);
        int slow = 0;
        const int count = doconv_tune_report_count(report);
        for (int j = 0; j < count; j++) {
            doconv_tune_entry e = {.size = sizeof e};
            assert_int_equal(doconv_tune_report_get(report, j, &e), DOCONV_OK);
            slow += strstr(e.variant, "portable") != NULL || strstr(e.variant, "reference") != NULL;
        }
        assert_true(slow == 0 || (slow == 1 && count == 1));
        doconv_tune_report_destroy(report);
    }
    doconv_training_destroy(training);
    doconv_context_destroy(ctx);
}

static void test_bad_operations(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    static const struct {
        const char *layer;
        doconv_operation operation;
        doconv_status status;
    } bad[] = {
        {COMPOSED, DOCONV_OPERATION_CONVOLUTION, DOCONV_UNSUPPORTED}, /* weights not fresh */
        {COMPOSED, DOCONV_OPERATION_FEATURE_FORWARD, DOCONV_INVALID_PROBLEM},
        {FEATURE, DOCONV_OPERATION_FOLD, DOCONV_INVALID_PROBLEM},
        {FIXTURE_PROBLEM, DOCONV_OPERATION_FOLD_GRADIENT, DOCONV_INVALID_PROBLEM},
        {COMPOSED, (doconv_operation)DC_OPERATIONS, DOCONV_INVALID_ARGUMENT},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const doconv_conv_desc desc = fixture_problem(bad[i].layer);
        const doconv_plan_options options = {.size = sizeof options, .operation = bad[i].operation};
        doconv_tune_report *report = (doconv_tune_report *)ctx;
        assert_int_equal(doconv_tune(ctx, &desc, &options, &fixture_quick, &report), bad[i].status);
        assert_null(report);
    }
    doconv_context_destroy(ctx);
}

static void test_cold_parameters(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const doconv_conv_desc desc = fixture_problem(COMPOSED);
    /* One variant: flushing caches takes time. */
    const doconv_plan_options options = {.size = sizeof options,
                                         .cold_weights = 1,
                                         .variant = "compose:portable",
                                         .operation = DOCONV_OPERATION_FOLD_GRADIENT};
    doconv_tune_report *report = fixture_tune(ctx, &desc, &options, false);
    assert_string_equal(fixture_summary(report).variant, "compose:portable");
    assert_true(fixture_summary(report).max_rel_error == 0.0);
    doconv_tune_report_destroy(report);
    doconv_context_destroy(ctx);
}

/* ---- stored and found again ---- */

/*
 * Puts a candidate other than the estimate's choice, where there is one, into the cache of ctx, on
 * disk, as a measurement without noise would.
 */
static void plant(doconv_context *ctx, const doconv_training_operation *operation,
                  char variant[DC_VARIANT_SIZE])
{
    doconv_plan_options options = options_of(operation);
    struct dc_problem p;
    struct dc_candidate_list list;
    assert_int_equal(dc_plan_problem(ctx, operation->desc, &options, &p), DOCONV_OK);
    assert_int_equal(dc_enumerate(ctx, &p, &options, &list), DOCONV_OK);
    int i = 0;
    while (i + 1 < list.count && list.items[i + 1].refused == NULL) {
        i++;
    }
    const struct dc_candidate *c = &list.items[i];
    assert_null(c->refused);
    struct cache_entry entry = {
        .revision = c->kernel != NULL ? c->kernel->revision : 0,
        .second_revision = c->second != NULL ? c->second->revision : 0,
        .picoseconds = 5000000,
        .when = FIXTURE_WHEN,
        .against = "a",
    };
    dc_plan_key(ctx, &p, &options, entry.key, sizeof entry.key);
    memcpy(entry.variant, c->text, sizeof entry.variant);
    memcpy(variant, c->text, DC_VARIANT_SIZE);
    const char *name = doconv_operation_string(operation->operation);
    char named[64];
    snprintf(named, sizeof named, " operation=%s ", name);
    assert_true((strstr(entry.key, named) != NULL) ==
                (operation->operation != DOCONV_OPERATION_CONVOLUTION));
    assert_int_equal(dc_cache_store(ctx->advisor.self, &entry), CACHE_STORED);
    dc_free(ctx, list.items);
}

/* A layer in training reads what was stored for each of its operations; tuning finds it, too. */
static void test_training_reads(void **state)
{
    struct fixture *f = *state;
    for (size_t l = 0; l < LAYERS - OPEN_LAYERS; l++) {
        char variants[16][DC_VARIANT_SIZE];
        const doconv_conv_desc desc = fixture_problem(layers[l]);
        doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
        doconv_training *training =
            create_training(ctx, &desc, DOCONV_RIGOR_ESTIMATE, DOCONV_PURPOSE_STEP);
        const int count = doconv_training_operation_count(training);
        assert_in_range(count, 2, 16);
        for (int i = 0; i < count; i++) {
            const doconv_training_operation operation = operation_of(training, i);
            assert_string_equal(operation.origin, "estimate");
            plant(ctx, &operation, variants[i]);
        }
        doconv_training_destroy(training);
        doconv_context_destroy(ctx);

        ctx = fixture_context(f, "c", DOCONV_TUNE_ONLY);
        training = create_training(ctx, &desc, DOCONV_RIGOR_DEFAULT, DOCONV_PURPOSE_STEP);
        for (int i = 0; i < count; i++) {
            const doconv_training_operation operation = operation_of(training, i);
            const doconv_plan_options options = options_of(&operation);
            assert_string_equal(operation.origin, "cache");
            assert_string_equal(operation.variant, variants[i]);
            doconv_tune_report *report = fixture_tune(ctx, operation.desc, &options, false);
            assert_int_equal(fixture_summary(report).from_cache, 1);
            assert_string_equal(fixture_summary(report).variant, variants[i]);
            doconv_tune_report_destroy(report);
        }
        doconv_training_destroy(training);
        doconv_context_destroy(ctx);
    }
    assert_int_equal(f->log.lines, 0);
}

/* The measured winner itself. */
static void test_training_reads_winners(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const doconv_conv_desc desc = fixture_problem(DEPTHWISE);
    doconv_training *training =
        create_training(ctx, &desc, DOCONV_RIGOR_ESTIMATE, DOCONV_PURPOSE_STEP);
    const int count = doconv_training_operation_count(training);
    char variants[8][DC_VARIANT_SIZE] = {""};
    assert_in_range(count, 5, 8);
    for (int i = 0; i < count; i++) {
        const doconv_training_operation operation = operation_of(training, i);
        const doconv_plan_options options = options_of(&operation);
        doconv_tune_report *report = fixture_tune(ctx, operation.desc, &options, true);
        const doconv_tune_summary s = fixture_summary(report);
        assert_int_equal(s.stored, 1);
        snprintf(variants[i], DC_VARIANT_SIZE, "%s", s.variant);
        doconv_tune_report_destroy(report);
    }
    doconv_training_destroy(training);
    doconv_context_destroy(ctx);
    ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    training = create_training(ctx, &desc, DOCONV_RIGOR_DEFAULT, DOCONV_PURPOSE_STEP);
    for (int i = 0; i < count; i++) {
        const doconv_training_operation operation = operation_of(training, i);
        assert_string_equal(operation.origin, variants[i][0] != '\0' ? "cache" : "estimate");
        if (variants[i][0] != '\0') {
            assert_string_equal(operation.variant, variants[i]);
        }
    }
    doconv_training_destroy(training);
    doconv_context_destroy(ctx);
}

static void test_training_measures(void **state)
{
    static const char *const measured[] = {DEPTHWISE, DEPTHWISE ",composition=feature",
                                           "mb1_ic3ih5oc4kh2sh2"};
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_OFF);
    for (size_t l = 0; l < sizeof measured / sizeof measured[0]; l++) {
        const doconv_conv_desc desc = fixture_problem(measured[l]);
        doconv_training *training =
            create_training(ctx, &desc, DOCONV_RIGOR_MEASURE, DOCONV_PURPOSE_STEP);
        for (int i = 0; i < doconv_training_operation_count(training); i++) {
            const doconv_training_operation operation = operation_of(training, i);
            /* Classes of strides may be the same problem: the second one is found. */
            assert_string_equal(operation.origin,
                                strcmp(operation.origin, "cache") == 0 &&
                                        strcmp(operation.role, "gradient of src") == 0
                                    ? "cache"
                                    : "measured");
        }
        doconv_training_destroy(training);
    }
    assert_int_equal(f->log.errors, 0);
    assert_true(dc_cache_memory_count(ctx->advisor.self) >= 5 + 2 + 3);
    doconv_context_destroy(ctx);
}

/* ---- revisions ---- */

/* Of each of two kernels, of loops; forged files of every kind are misses with a log line. */
static void test_revisions(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const struct dc_kernel *one = NULL, *two = NULL;
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        two = one;
        one = *row;
    }
    if (two == NULL) { /* a portable build has one */
        two = one;
    }
    char pair[DC_VARIANT_SIZE], missing[DC_VARIANT_SIZE];
    snprintf(pair, sizeof pair, "feature:%s+%s:way=rows", one->name, two->name);
    snprintf(missing, sizeof missing, "feature:%s+nonesuch@none:way=rows", one->name);
    const struct {
        const char *variant;
        unsigned revision, second;
        const char *reason; /* NULL: it is valid */
    } cases[] = {
        {pair, one->revision, two->revision, NULL},
        {"compose:portable", 0, 0, NULL},
        {pair, one->revision + 1, two->revision, "another revision"},
        {pair, one->revision, two->revision + 1, "another revision"},
        {pair, one->revision, 0, "another revision"},
        {"compose:portable", 1, 0, "another revision"},
        {"compose:portable", 0, 1, "no second kernel"},
        {missing, one->revision, 1, "not in this build"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cache_entry entry = {.key = "key",
                                    .revision = cases[i].revision,
                                    .second_revision = cases[i].second,
                                    .when = FIXTURE_WHEN,
                                    .against = "a"};
        struct cache_entry back;
        snprintf(entry.variant, sizeof entry.variant, "%s", cases[i].variant);
        struct cache *writer = dc_cache_create(ctx), *reader = dc_cache_create(ctx);
        fixture_log_clear(f);
        assert_int_equal(dc_cache_store(writer, &entry), CACHE_STORED);
        assert_int_equal(dc_cache_lookup(reader, "key", &back),
                         cases[i].reason == NULL ? CACHE_STORED : CACHE_MISS);
        assert_int_equal(f->log.warnings, cases[i].reason != NULL);
        if (cases[i].reason != NULL) {
            assert_non_null(strstr(f->log.last, cases[i].reason));
        } else {
            assert_int_equal(back.second_revision, cases[i].second);
        }
        dc_cache_destroy(writer);
        dc_cache_destroy(reader);
    }
    doconv_context_destroy(ctx);
}

/* ---- out of memory ---- */

/* Each allocation of a tuning fails once: an answer or OUT_OF_MEMORY, nothing lost. */
static void fail_each(doconv_context *ctx, struct fixture_failing *failing,
                      const doconv_conv_desc *desc, const doconv_plan_options *plan)
{
    const doconv_tune_options forced = {.size = sizeof forced, .force = 1, .budget_seconds = 1e-3};
    int refused = 0, n = 0;
    for (bool done = false; !done; n++) {
        failing->fail_at = -1;
        fixture_reattach(ctx, ctx->kernels); /* nothing in memory */
        const int live = failing->live;
        failing->calls = 0;
        failing->fail_at = n;
        doconv_tune_report *report;
        const doconv_status status = doconv_tune(ctx, desc, plan, &forced, &report);
        assert_true(status == DOCONV_OK || (status == DOCONV_OUT_OF_MEMORY && report == NULL));
        refused += status != DOCONV_OK;
        done = failing->calls <= n;
        doconv_tune_report_destroy(report);
        failing->fail_at = -1;
        fixture_reattach(ctx, ctx->kernels);
        assert_int_equal(failing->live, live);
    }
    assert_in_range(refused, 5, n - 1);
}

static void test_out_of_memory(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *layer;
        doconv_operation operation;
    } cases[] = {
        {"mb1_ic2ih3oc2kh2:bias,dmul=4", DOCONV_OPERATION_CONVOLUTION},
        {"mb1_ic2ih3oc2kh2:dmul=4", DOCONV_OPERATION_FOLD_GRADIENT},
        {"mb1_ic2ih3oc2kh2:dmul=4", DOCONV_OPERATION_WEIGHT_GRADIENT},
        {"mb1_ic2ih3oc2kh2:dmul=4,composition=feature", DOCONV_OPERATION_FEATURE_BACKWARD},
    };
    char path[FIXTURE_PATH], variant[DC_VARIANT_SIZE];
    struct fixture_failing failing;
    doconv_context_options options = fixture_options(f, "c", path);
    fixture_fail(&options, &failing);
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const doconv_conv_desc desc = fixture_problem(cases[i].layer);
        doconv_plan_options plan = {
            .size = sizeof plan, .operation = cases[i].operation, .fresh_weights = i == 0};
        /* One candidate: test_tuner.c has failures between them. */
        doconv_candidates *list;
        doconv_candidate_info best = {.size = sizeof best};
        assert_int_equal(doconv_candidates_create(ctx, &desc, &plan, &list), DOCONV_OK);
        assert_int_equal(doconv_candidates_get(list, 0, &best), DOCONV_OK);
        snprintf(variant, sizeof variant, "%s", best.variant);
        doconv_candidates_destroy(list);
        plan.variant = variant;
        fail_each(ctx, &failing, &desc, &plan);
    }
    doconv_context_destroy(ctx);
    assert_int_equal(failing.live, 0);
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(test_every_operation),   WITH_FIXTURE(test_loops_are_left_out),
        WITH_FIXTURE(test_bad_operations),    WITH_FIXTURE(test_cold_parameters),
        WITH_FIXTURE(test_training_reads),    WITH_FIXTURE(test_training_reads_winners),
        WITH_FIXTURE(test_training_measures), WITH_FIXTURE(test_revisions),
        WITH_FIXTURE(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("tuner_operations", tests, NULL, NULL);
}
