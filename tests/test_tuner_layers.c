/* SPDX-License-Identifier: MIT */
/*
 * Which composition a DO-Conv layer gets that leaves it open: measured as a whole, kept, and found
 * again; by estimate where nothing is known. Layers take as long as a test says: what is chosen by
 * time is then certain.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <doconv/doconv_train.h>
#include <doconv/doconv_tune.h>

#include "base/clock.h"
#include "base/context.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/solver.h"
#include "tuner_fixture.h"

#define OPEN "mb1_ic20ih9oc40kh3ph1:src=nhwc,dst=nhwc,bias,dmul=9,composition=auto"

/* ---- layers of known durations ---- */

enum { KERNEL, PARTS, WHOLE, FEATURE, VARIANTS };
static const char *const variants[VARIANTS] = {"kernel", "kernel:fold=parts", "kernel:fold=whole",
                                               "feature"};

static struct {
    double seconds[VARIANTS]; /* of a call, beside what it really takes */
    bool wrong[VARIANTS];     /* writes nothing */
    int calls[VARIANTS];
    double added; /* to the clock so far */
} slow;

#define MOST_SOLVERS 64
static struct dc_solver rows[MOST_SOLVERS];
static const struct dc_solver *list[MOST_SOLVERS], *const *own;

static int variant_of(const char *text)
{
    int i = 0;
    while (i < VARIANTS && strcmp(variants[i], text) != 0) {
        i++;
    }
    assert_in_range(i, 0, VARIANTS - 1);
    return i;
}

static void execute(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace)
{
    const int variant = variant_of(plan->candidate.text);
    const int index = (int)(plan->candidate.solver - rows);
    if (!slow.wrong[variant]) {
        own[index]->execute(plan, tensors, workspace);
    }
    slow.calls[variant]++;
    slow.added += slow.seconds[variant];
}

/*
 * What calls really take counts little: an emulator translates each kernel at its first call, which
 * would use up the tuner's budget.
 */
#define REAL_SHARE 0.05

static double wall(void *user)
{
    (void)user;
    return REAL_SHARE * dc_system_clock.wall(dc_system_clock.user) + slow.added;
}

static double thread(void *user)
{
    (void)user;
    return REAL_SHARE * dc_system_clock.thread(dc_system_clock.user) + slow.added;
}

static long switches(void *user)
{
    (void)user;
    return 0;
}

static const struct dc_clock slow_clock = {.wall = wall, .thread = thread, .switches = switches};

/* Lets a context's layers take that long. */
static void slow_down(doconv_context *ctx)
{
    own = ctx->solvers;
    int i = 0;
    for (; own[i] != NULL; i++) {
        assert_in_range(i, 0, MOST_SOLVERS - 2);
        rows[i] = *own[i];
        if (dc_is_layer(rows[i].operation)) {
            rows[i].execute = execute;
        }
        list[i] = dc_is_layer(rows[i].operation) ? &rows[i] : own[i];
    }
    list[i] = NULL;
    ctx->solvers = list;
    ctx->clock = &slow_clock;
}

static void set_seconds(double kernel, double parts, double whole, double feature)
{
    const double seconds[VARIANTS] = {kernel, parts, whole, feature};
    memset(&slow, 0, sizeof slow);
    memcpy(slow.seconds, seconds, sizeof seconds);
}

/* ---- layers ---- */

static doconv_training *create(doconv_context *ctx, const char *text, doconv_purpose purpose)
{
    const doconv_conv_desc desc = fixture_problem(text);
    const doconv_training_options options = {.size = sizeof options, .purpose = purpose};
    doconv_training *training;
    assert_int_equal(doconv_training_create(ctx, &desc, &options, &training), DOCONV_OK);
    return training;
}

static doconv_training_operation choice_of(const doconv_training *training)
{
    doconv_training_operation operation = {.size = sizeof operation};
    assert_int_equal(doconv_training_operation_get(training, 0, &operation), DOCONV_OK);
    assert_string_equal(operation.role, "composition");
    return operation;
}

/* What a context gives such a layer. */
static void assert_choice(doconv_context *ctx, const char *text, doconv_purpose purpose,
                          doconv_composition composition, const char *variant, const char *origin)
{
    doconv_training *training = create(ctx, text, purpose);
    const doconv_training_operation choice = choice_of(training);
    assert_string_equal(choice.origin, origin);
    assert_int_equal(doconv_training_composition(training), composition);
    if (variant != NULL) {
        assert_string_equal(choice.variant, variant);
    }
    assert_int_equal(choice.operation, purpose == DOCONV_PURPOSE_FORWARD
                                           ? DOCONV_OPERATION_LAYER_FORWARD
                                           : DOCONV_OPERATION_LAYER_STEP);
    assert_int_equal(choice.desc->composition, DOCONV_COMPOSITION_AUTO);
    doconv_training_destroy(training);
}

static doconv_plan_options options_of(doconv_operation operation)
{
    return (doconv_plan_options){.size = sizeof(doconv_plan_options), .operation = operation};
}

/* The variants that a context has for the operation on a layer. */
static int find_variants(doconv_context *ctx, const doconv_conv_desc *desc,
                         doconv_operation operation, bool has[VARIANTS])
{
    const doconv_plan_options options = options_of(operation);
    doconv_candidates *candidates;
    int count = 0;
    memset(has, 0, VARIANTS * sizeof *has);
    assert_int_equal(doconv_candidates_create(ctx, desc, &options, &candidates), DOCONV_OK);
    for (int i = 0; i < doconv_candidates_count(candidates); i++) {
        doconv_candidate_info info = {.size = sizeof info};
        assert_int_equal(doconv_candidates_get(candidates, i, &info), DOCONV_OK);
        if (info.refused == NULL) {
            has[variant_of(info.variant)] = true;
            count++;
        }
    }
    doconv_candidates_destroy(candidates);
    assert_true(has[KERNEL] && has[FEATURE] && has[PARTS] == has[WHOLE]);
    return count;
}

/* ---- measured ---- */

/* Tunes with time enough for each variant to race the others. */
static doconv_tune_report *tune(doconv_context *ctx, const doconv_conv_desc *desc,
                                const doconv_plan_options *plan_options)
{
    const doconv_tune_options options = {.size = sizeof options, .force = 1};
    doconv_tune_report *report;
    assert_int_equal(doconv_tune(ctx, desc, plan_options, &options, &report), DOCONV_OK);
    return report;
}

static const doconv_operation operations[] = {DOCONV_OPERATION_LAYER_STEP,
                                              DOCONV_OPERATION_LAYER_FORWARD};

/* Whichever is the fastest, for each purpose, stored and found by other contexts. */
static void test_fastest_wins(void **state)
{
    struct fixture *f = *state;
    for (int fast = 0; fast < VARIANTS; fast++) {
        doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
        const doconv_conv_desc desc = fixture_problem(OPEN);
        const doconv_composition composition =
            fast == FEATURE ? DOCONV_COMPOSITION_FEATURE : DOCONV_COMPOSITION_KERNEL;
        bool has[VARIANTS], any = false;
        slow_down(ctx);
        for (int purpose = DOCONV_PURPOSE_STEP; purpose <= DOCONV_PURPOSE_FORWARD; purpose++) {
            const doconv_plan_options options = options_of(operations[purpose]);
            const int count = find_variants(ctx, &desc, operations[purpose], has);
            if (!has[fast]) { /* loops have no parts */
                continue;
            }
            any = true;
            set_seconds(30e-4, 31e-4, 32e-4, 33e-4);
            slow.seconds[fast] = 20e-4;
            doconv_tune_report *report = tune(ctx, &desc, &options);
            const doconv_tune_summary s = fixture_summary(report);
            assert_string_equal(s.variant, variants[fast]);
            assert_int_equal(s.measured, count);
            assert_true(s.max_rel_error < 1e-5 && s.stored);
            doconv_tune_report_destroy(report);
            for (int i = 0; i < VARIANTS; i++) {
                assert_true((slow.calls[i] > 0) == has[i]);
            }
        }
        doconv_context_destroy(ctx);
        ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
        for (int purpose = DOCONV_PURPOSE_STEP; purpose <= DOCONV_PURPOSE_FORWARD && any;
             purpose++) {
            assert_choice(ctx, OPEN, (doconv_purpose)purpose, composition, variants[fast], "cache");
        }
        doconv_context_destroy(ctx);
    }
    assert_int_equal(f->log.errors, 0);
}

/* In mode tune the first object measures; a choice for steps is none for forward passes. */
static void test_tune_mode(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_TUNE);
    slow_down(ctx);
    set_seconds(30e-4, 30e-4, 30e-4, 20e-4);
    assert_choice(ctx, OPEN, DOCONV_PURPOSE_STEP, DOCONV_COMPOSITION_FEATURE, "feature",
                  "measured");
    assert_choice(ctx, OPEN, DOCONV_PURPOSE_STEP, DOCONV_COMPOSITION_FEATURE, "feature", "cache");
    set_seconds(20e-4, 40e-4, 40e-4, 30e-4);
    assert_choice(ctx, OPEN, DOCONV_PURPOSE_FORWARD, DOCONV_COMPOSITION_KERNEL, "kernel",
                  "measured");
    assert_choice(ctx, OPEN, DOCONV_PURPOSE_STEP, DOCONV_COMPOSITION_FEATURE, "feature", "cache");
    /* What a layer is made of was measured before it. */
    doconv_training *training = create(ctx, OPEN, DOCONV_PURPOSE_STEP);
    for (int i = 0; i < doconv_training_operation_count(training); i++) {
        doconv_training_operation operation = {.size = sizeof operation};
        assert_int_equal(doconv_training_operation_get(training, i, &operation), DOCONV_OK);
        assert_string_equal(operation.origin, "cache");
    }
    doconv_training_destroy(training);
    doconv_context_destroy(ctx);
    ctx = fixture_context(f, "c", DOCONV_TUNE_FORCE);
    slow_down(ctx);
    set_seconds(20e-4, 40e-4, 40e-4, 30e-4);
    assert_choice(ctx, OPEN, DOCONV_PURPOSE_STEP, DOCONV_COMPOSITION_KERNEL, "kernel", "measured");
    doconv_context_destroy(ctx);
    assert_int_equal(f->log.errors, 0);
}

/* The fastest one gives a wrong result: it is dropped. */
static void test_wrong_result(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const doconv_conv_desc desc = fixture_problem(OPEN);
    slow_down(ctx);
    for (int purpose = DOCONV_PURPOSE_STEP; purpose <= DOCONV_PURPOSE_FORWARD; purpose++) {
        const doconv_plan_options options = options_of(operations[purpose]);
        set_seconds(30e-4, 40e-4, 40e-4, 20e-4);
        slow.wrong[FEATURE] = true;
        doconv_tune_report *report = tune(ctx, &desc, &options);
        assert_string_equal(fixture_summary(report).variant, "kernel");
        doconv_tune_report_destroy(report);
    }
    assert_int_equal(f->log.errors, 2);
    doconv_context_destroy(ctx);
}

static void test_only_mode(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_ONLY);
    const doconv_conv_desc desc = fixture_problem(OPEN);
    doconv_training *training;
    assert_int_equal(doconv_training_create(ctx, &desc, NULL, &training), DOCONV_NOT_FOUND);
    assert_null(training);
    doconv_context_destroy(ctx);
}

/* ---- by estimate, and for good ---- */

/* Layers on both sides of the estimate's border. */
static const char *const layers[] = {
    OPEN,
    "mb1_ic512ih7oc512kh3ph1:src=nhwc,dst=nhwc,dmul=9,composition=auto",
    "mb1_ic128ih4oc256kh3ph1sh2:src=nhwc,dst=nhwc,dmul=9,identity,composition=auto",
    "mb1_ic64ih14oc64kh3ph1:src=nhwc,dst=nhwc,dmul=9,composition=auto",
    "g16mb2_ic16ih7oc16kh3ph1:dmul=9,composition=auto",
    "mb1_ic3ih21oc16kh7ph3sh2:dst=nhwc,dmul=12,composition=auto",
};
#define LAYERS (sizeof layers / sizeof layers[0])

/* The number of threads changes nothing. */
static void test_threads(void **state)
{
    struct fixture *f = *state;
    char path[FIXTURE_PATH];
    bool seen[DOCONV_COMPOSITION_AUTO] = {false};
    for (size_t l = 0; l < LAYERS; l++) {
        for (int purpose = DOCONV_PURPOSE_STEP; purpose <= DOCONV_PURPOSE_FORWARD; purpose++) {
            doconv_composition first = DOCONV_COMPOSITION_NONE;
            for (int threads = 1; threads <= 64; threads *= 4) {
                doconv_context_options options = fixture_options(f, "c", path);
                options.tune = DOCONV_TUNE_OFF;
                options.threads = threads;
                doconv_context *ctx;
                assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
                doconv_training *training = create(ctx, layers[l], (doconv_purpose)purpose);
                const doconv_composition composition = doconv_training_composition(training);
                assert_string_equal(choice_of(training).origin, "estimate");
                assert_true(threads == 1 || composition == first);
                first = composition;
                seen[composition] = true;
                doconv_training_destroy(training);
                doconv_context_destroy(ctx);
            }
        }
    }
    /* Layers of both kinds, or this says nothing; loops may prefer one. */
    const bool both = seen[DOCONV_COMPOSITION_KERNEL] && seen[DOCONV_COMPOSITION_FEATURE];
    assert_true(both || dc_cpu_probe()->isa == DC_ISA_NONE);
}

/* A deterministic context takes the estimate's composition, whatever is measured. */
static void test_deterministic(void **state)
{
    struct fixture *f = *state;
    char path[FIXTURE_PATH];
    for (size_t l = 0; l < 3; l += 2) {
        doconv_context_options options = fixture_options(f, "c", path);
        doconv_context *ctx;
        options.tune = DOCONV_TUNE_OFF;
        assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
        doconv_training *training = create(ctx, layers[l], DOCONV_PURPOSE_FORWARD);
        const doconv_composition expected = doconv_training_composition(training);
        doconv_training_destroy(training);
        doconv_context_destroy(ctx);

        options.tune = DOCONV_TUNE_TUNE;
        options.deterministic = 1;
        assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
        slow_down(ctx);
        set_seconds(20e-4, 20e-4, 20e-4, 20e-4);
        for (int i = 0; i < VARIANTS; i++) {
            const bool feature = expected == DOCONV_COMPOSITION_FEATURE;
            slow.seconds[i] = (i == FEATURE) == feature ? 30e-4 : 10e-4;
        }
        assert_choice(ctx, layers[l], DOCONV_PURPOSE_FORWARD, expected, NULL, "measured");
        assert_choice(ctx, layers[l], DOCONV_PURPOSE_FORWARD, expected, NULL, "cache");
        assert_int_equal(slow.calls[expected == DOCONV_COMPOSITION_FEATURE ? KERNEL : FEATURE], 0);
        doconv_context_destroy(ctx);
    }
    assert_int_equal(f->log.warnings, 0);
}

/* Feature composition is defined for the paper's mapping only. */
static void test_mapping(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_OFF);
    static const char text[] = "g4mb1_ic512ih7oc512kh3ph1:dmul=9,composition=auto,mapping=";
    for (int mapping = 0; mapping < 3; mapping++) {
        static const char *const names[] = {"paper", "pytorch", "tensorflow"};
        char problem[128];
        snprintf(problem, sizeof problem, "%s%s", text, names[mapping]);
        const doconv_conv_desc desc = fixture_problem(problem);
        const doconv_plan_options options = options_of(DOCONV_OPERATION_LAYER_STEP);
        doconv_candidates *candidates;
        assert_int_equal(doconv_candidates_create(ctx, &desc, &options, &candidates), DOCONV_OK);
        int found = 0;
        for (int i = 0; i < doconv_candidates_count(candidates); i++) {
            doconv_candidate_info info = {.size = sizeof info};
            assert_int_equal(doconv_candidates_get(candidates, i, &info), DOCONV_OK);
            assert_string_equal(info.kernel, "");
            if (strcmp(info.variant, "feature") == 0) {
                assert_true((info.refused != NULL) == (mapping != 0));
                found++;
            }
        }
        assert_int_equal(found, 1);
        doconv_candidates_destroy(candidates);
        if (mapping != 0) {
            assert_choice(ctx, problem, DOCONV_PURPOSE_STEP, DOCONV_COMPOSITION_KERNEL, NULL,
                          "estimate");
        }
    }
    doconv_context_destroy(ctx);
}

/* ---- chosen by the caller ---- */

/* By name: the layer is what it says, down to how it folds. */
static void test_forced(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_OFF);
    doconv_conv_desc desc = fixture_problem(layers[3]);
    doconv_training_options options = {.size = sizeof options};
    doconv_training *training;
    bool has[VARIANTS];
    find_variants(ctx, &desc, DOCONV_OPERATION_LAYER_STEP, has);
    for (int i = 0; i < VARIANTS; i++) {
        options.variant = variants[i];
        if (!has[i]) {
            assert_int_equal(doconv_training_create(ctx, &desc, &options, &training),
                             DOCONV_NOT_FOUND);
            continue;
        }
        assert_int_equal(doconv_training_create(ctx, &desc, &options, &training), DOCONV_OK);
        assert_string_equal(choice_of(training).variant, variants[i]);
        assert_string_equal(choice_of(training).origin, "forced");
        assert_int_equal(doconv_training_composition(training),
                         i == FEATURE ? DOCONV_COMPOSITION_FEATURE : DOCONV_COMPOSITION_KERNEL);
        for (int j = 1; j < doconv_training_operation_count(training); j++) {
            doconv_training_operation operation = {.size = sizeof operation};
            assert_int_equal(doconv_training_operation_get(training, j, &operation), DOCONV_OK);
            const bool parts = strstr(operation.variant, "order=pack") != NULL ||
                               strstr(operation.variant, "fold=parts") != NULL;
            assert_true(i != PARTS || parts || operation.operation == DOCONV_OPERATION_FOLD ||
                        operation.operation == DOCONV_OPERATION_FOLD_GRADIENT ||
                        strcmp(operation.role, "gradient of src") == 0);
            assert_true(i != WHOLE || strstr(operation.variant, "fold=parts") == NULL);
        }
        doconv_training_destroy(training);
    }
    options.variant = "kernel:fold=never";
    assert_int_equal(doconv_training_create(ctx, &desc, &options, &training), DOCONV_NOT_FOUND);
    options.variant = "kernel";
    desc.composition = DOCONV_COMPOSITION_KERNEL;
    assert_int_equal(doconv_training_create(ctx, &desc, &options, &training),
                     DOCONV_INVALID_ARGUMENT);
    options.variant = NULL;
    options.purpose = (doconv_purpose)2;
    assert_int_equal(doconv_training_create(ctx, &desc, &options, &training),
                     DOCONV_INVALID_ARGUMENT);
    doconv_context_destroy(ctx);
    assert_int_equal(doconv_training_composition(NULL), DOCONV_COMPOSITION_NONE);
}

/* Measurements allow a layer the rounding of the operation that rounds most. */
static void test_rounding(void **state)
{
    doconv_context *ctx = fixture_context(*state, "c", DOCONV_TUNE_OFF);
    static struct dc_kernel copies[256];
    const struct dc_kernel *kernels[257] = {NULL}, *const *before = ctx->kernels;
    for (int i = 0; before[i] != NULL; i++) {
        assert_in_range(i, 0, 255);
        copies[i] = *before[i];
        copies[i].error_amplification = 2.0f;
        kernels[i] = &copies[i];
    }
    ctx->kernels = kernels;
    const doconv_conv_desc desc = fixture_problem(OPEN);
    doconv_plan_options options = options_of(DOCONV_OPERATION_LAYER_STEP);
    struct dc_problem problem;
    assert_int_equal(dc_plan_problem(ctx, &desc, &options, &problem), DOCONV_OK);
    struct dc_candidate_list candidates;
    assert_int_equal(dc_enumerate(ctx, &problem, NULL, &candidates), DOCONV_OK);
    for (int i = 0; i < candidates.count; i++) {
        if (strncmp(candidates.items[i].text, "kernel", 6) == 0) {
            assert_true(candidates.items[i].error_amplification == 2.0f);
        }
    }
    dc_free(ctx, candidates.items);
    options.variant = "kernel";
    doconv_plan *plan;
    assert_int_equal(dc_plan_create(ctx, &problem, &options, &plan), DOCONV_OK);
    assert_true(plan->candidate.error_amplification == 2.0f);
    doconv_plan_destroy(plan);
    ctx->kernels = before;
    doconv_context_destroy(ctx);
}

/* By a table, which comes before the cache, but not in what a deterministic context promises. */
static void test_table(void **state)
{
    struct fixture *f = *state;
    char path[FIXTURE_PATH], key[DC_KEY_SIZE];
    doconv_context_options options = fixture_options(f, "c", path);
    options.tune = DOCONV_TUNE_OFF;
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    const doconv_conv_desc desc = fixture_problem(OPEN);
    const doconv_plan_options step = options_of(DOCONV_OPERATION_LAYER_STEP);
    struct dc_problem problem;
    assert_int_equal(dc_plan_problem(ctx, &desc, &step, &problem), DOCONV_OK);
    dc_plan_key(ctx, &problem, &step, key, sizeof key);
    assert_non_null(strstr(key, "composition=auto operation=layer_step "));
    doconv_context_destroy(ctx);
    for (int feature = 0; feature < 2; feature++) {
        const doconv_table_row row = {.key = key, .variant = feature ? "feature" : "kernel"};
        const doconv_table table = {.size = sizeof table, .rows = &row, .count = 1};
        options.table = &table;
        assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
        assert_choice(ctx, OPEN, DOCONV_PURPOSE_STEP,
                      feature ? DOCONV_COMPOSITION_FEATURE : DOCONV_COMPOSITION_KERNEL, row.variant,
                      "table");
        doconv_context_destroy(ctx);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_fastest_wins), TEST(test_tune_mode), TEST(test_wrong_result),
        TEST(test_only_mode),    TEST(test_threads),   TEST(test_deterministic),
        TEST(test_mapping),      TEST(test_forced),    TEST(test_rounding),
        TEST(test_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
