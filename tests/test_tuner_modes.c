/* SPDX-License-Identifier: MIT */
/* What plans do with the cache: each mode, by option and by variable, and for whom an entry is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tuner_fixture.h"

static const char *const mode_words[] = {"", "off", "read", "tune", "force", "only"};

/*
 * What a plan's choice rests on ("": the plan fails with NOT_FOUND), without and with an entry in
 * the cache.
 */
static const struct {
    const char *without, *with;
} mode_origins[] = {
    [DOCONV_TUNE_DEFAULT] = {"estimate", "cache"},  [DOCONV_TUNE_OFF] = {"estimate", "estimate"},
    [DOCONV_TUNE_READ] = {"estimate", "cache"},     [DOCONV_TUNE_TUNE] = {"measured", "cache"},
    [DOCONV_TUNE_FORCE] = {"measured", "measured"}, [DOCONV_TUNE_ONLY] = {"", "cache"},
};

static void test_modes(void **state)
{
    struct fixture *f = *state;
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    doconv_context *planter = fixture_context(f, "planted", DOCONV_TUNE_READ);
    fixture_plant(planter, &desc, NULL, NULL);
    doconv_context_destroy(planter);
    for (int api = DOCONV_TUNE_DEFAULT; api <= DOCONV_TUNE_ONLY; api++) {
        for (int variable = DOCONV_TUNE_DEFAULT; variable <= DOCONV_TUNE_ONLY; variable++) {
            setenv("DOCONV_TUNE", mode_words[variable], 1);
            const int mode = api != DOCONV_TUNE_DEFAULT ? api : variable;
            char empty[32], text[16384], entry[FIXTURE_PATH];
            snprintf(empty, sizeof empty, "empty %d %d", api, variable);
            doconv_context *ctx = fixture_context(f, empty, (doconv_tune_mode)api);
            fixture_assert_origin(ctx, &desc, NULL, mode_origins[mode].without);
            if (mode != DOCONV_TUNE_TUNE && mode != DOCONV_TUNE_FORCE) {
                assert_int_equal(fixture_count(f, empty, "", NULL), 0);
            }
            doconv_context_destroy(ctx);
            assert_int_equal(fixture_count(f, "planted", ".txt", entry), 1);
            const size_t length = fixture_read(entry, text, sizeof text);
            ctx = fixture_context(f, "planted", (doconv_tune_mode)api);
            fixture_assert_origin(ctx, &desc, NULL, mode_origins[mode].with);
            doconv_context_destroy(ctx);
            fixture_write(entry, text, length); /* force may have measured another winner */
        }
    }
    assert_int_equal(f->log.errors, 0);
}

/* A plan's rigor goes over the mode. */
static void test_rigor(void **state)
{
    struct fixture *f = *state;
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    static const struct {
        doconv_tune_mode mode;
        doconv_rigor rigor;
        const char *without, *with;
    } rows[] = {
        {DOCONV_TUNE_OFF, DOCONV_RIGOR_READ, "estimate", "cache"},
        {DOCONV_TUNE_OFF, DOCONV_RIGOR_MEASURE, "measured", "cache"},
        {DOCONV_TUNE_TUNE, DOCONV_RIGOR_ESTIMATE, "estimate", "estimate"},
        {DOCONV_TUNE_ONLY, DOCONV_RIGOR_READ, "estimate", "cache"},
        {DOCONV_TUNE_READ, DOCONV_RIGOR_MEASURE, "measured", "cache"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char name[32];
        const doconv_plan_options options = {.size = sizeof options, .rigor = rows[i].rigor};
        snprintf(name, sizeof name, "c%zu", i);
        doconv_context *ctx = fixture_context(f, name, rows[i].mode);
        fixture_assert_origin(ctx, &desc, &options, rows[i].without);
        fixture_plant(ctx, &desc, NULL, NULL);
        doconv_context_destroy(ctx);
        ctx = fixture_context(f, name, rows[i].mode);
        fixture_assert_origin(ctx, &desc, &options, rows[i].with);
        doconv_context_destroy(ctx);
    }
}

/* ---- a measurement that somebody watches ---- */

struct watcher {
    int told, asked, last, cancel_at; /* cancel_at: the call that ends it; 0: none */
};

static void watch(void *user, int done, int total)
{
    struct watcher *w = user;
    assert_in_range(done, 0, total);
    w->told++;
    w->last = done == total;
}

static int ask(void *user)
{
    struct watcher *w = user;
    return ++w->asked == w->cancel_at;
}

/* By a plan's options and by those of a tuning. */
static void test_cancel(void **state)
{
    struct fixture *f = *state;
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    for (int cancel_at = 0; cancel_at < 3; cancel_at++) {
        char name[32];
        struct watcher w = {.cancel_at = cancel_at};
        snprintf(name, sizeof name, "cancel %d", cancel_at);
        doconv_context *ctx = fixture_context(f, name, DOCONV_TUNE_TUNE);
        const doconv_plan_options options = {.size = sizeof options,
                                             .budget_seconds = 0.01,
                                             .progress = watch,
                                             .progress_user = &w,
                                             .cancel = ask,
                                             .cancel_user = &w};
        fixture_assert_origin(ctx, &desc, &options, "measured");
        assert_true(w.asked >= 1);
        if (cancel_at > 0) {
            assert_int_equal(w.asked, cancel_at);
            /* It is stored. This context does not measure again, another one does. */
            assert_int_equal(fixture_count(f, name, ".txt", NULL), 1);
            fixture_assert_origin(ctx, &desc, &options, "cache");
            assert_int_equal(w.asked, cancel_at);
            doconv_context *other = fixture_context(f, name, DOCONV_TUNE_TUNE);
            w = (struct watcher){.cancel_at = cancel_at};
            fixture_assert_origin(other, &desc, &options, "measured");
            assert_int_equal(w.asked, cancel_at);
            doconv_context_destroy(other);
        } else {
            assert_true(w.told > 1 && w.last);
        }
        doconv_tune_options tune = {.size = sizeof tune,
                                    .force = 1,
                                    .budget_seconds = 0.01,
                                    .cancel = ask,
                                    .cancel_user = &w};
        w = (struct watcher){.cancel_at = cancel_at};
        doconv_tune_report *report;
        assert_int_equal(doconv_tune(ctx, &desc, NULL, &tune, &report), DOCONV_OK);
        const doconv_tune_summary s = fixture_summary(report);
        if (cancel_at > 0) {
            assert_int_equal(w.asked, cancel_at);
            assert_true(s.noisy);
        }
        assert_true(s.seconds > 0.0);
        doconv_tune_report_destroy(report);
        doconv_context_destroy(ctx);
    }
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_TUNE);
    const doconv_plan_options wrong = {.size = sizeof wrong, .budget_seconds = -1.0};
    doconv_plan *plan;
    assert_int_equal(doconv_plan_create(ctx, &desc, &wrong, &plan), DOCONV_INVALID_ARGUMENT);
    doconv_context_destroy(ctx);
}

/* ---- whom an entry is for ---- */

static void test_never_served_elsewhere(void **state)
{
    struct fixture *f = *state;
    static const char *const other_problems[] = {
        "mb2_ic5ih9oc7kh3ph1:bias",
        "mb1_ic5ih9oc7kh3ph1",
        "mb1_ic5ih9oc8kh3ph1:bias",
        "mb1_ic5ih9oc7kh3ph1:bias,relu",
        "mb1_ic5ih9oc7kh3ph1:src=nhwc,bias",
        "mb1_ic5ih9oc7kh3ph1:dst=nChw16c,bias",
        "mb1_ic5ih9oc7kh3ph1:bias,residual",
        "mb1_ic5ih9oc7kh3ph1:bias,accuracy=strict",
        "mb1_ic5ih9oc7kh3ph1:bias,accuracy=fast",
        "mb1_ic5ih9oc7kh3ph1dh1:bias",
        "mb1_ic5ih9oc7kh3ph1sh2:bias",
        "mb1_ic5ih9oh8oc7kh3ph1:bias",
        "mb1_ic5ih9oc7kh3ph1:bias,clamp=0/1",
    };
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_ONLY);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    fixture_plant(ctx, &desc, NULL, NULL);
    fixture_assert_origin(ctx, &desc, NULL, "cache");
    for (size_t i = 0; i < sizeof other_problems / sizeof other_problems[0]; i++) {
        const doconv_conv_desc other = fixture_problem(other_problems[i]);
        fixture_assert_origin(ctx, &other, NULL, "");
    }
    const doconv_plan_options limited = {.size = sizeof limited,
                                         .workspace_limit = (size_t)1 << 30};
    const doconv_plan_options cold = {.size = sizeof cold, .cold_weights = 1};
    const doconv_plan_options fresh = {.size = sizeof fresh, .fresh_weights = 1};
    fixture_assert_origin(ctx, &desc, &limited, "");
    fixture_assert_origin(ctx, &desc, &cold, "");
    fixture_assert_origin(ctx, &desc, &fresh, "");
    fixture_plant(ctx, &desc, &limited, NULL);
    fixture_assert_origin(ctx, &desc, &limited, "cache");
    fixture_assert_origin(ctx, &desc, &cold, "");
    const doconv_plan_options tighter = {.size = sizeof tighter,
                                         .workspace_limit = ((size_t)1 << 30) - 1};
    fixture_assert_origin(ctx, &desc, &tighter, "");
    /* A choice within packed weights of one size is none without the limit, or within another. */
    const doconv_plan_options packed = {.size = sizeof packed, .packed_limit = (size_t)1 << 30},
                              smaller = {.size = sizeof smaller,
                                         .packed_limit = ((size_t)1 << 30) - 1};
    const doconv_conv_desc second = fixture_problem(other_problems[0]);
    fixture_assert_origin(ctx, &desc, &packed, "");
    fixture_plant(ctx, &second, &packed, NULL);
    fixture_assert_origin(ctx, &second, &packed, "cache");
    fixture_assert_origin(ctx, &second, &smaller, "");
    fixture_assert_origin(ctx, &second, NULL, "");
    doconv_context_destroy(ctx);

    char path[FIXTURE_PATH];
    doconv_context_options options = fixture_options(f, "c", path);
    options.tune = DOCONV_TUNE_ONLY;
    options.threads = 2;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    fixture_assert_origin(ctx, &desc, NULL, "");
    doconv_context_destroy(ctx);
    if (dc_cpu_probe()->isa != DC_ISA_NONE) {
        options.threads = 1;
        options.max_isa = DOCONV_ISA_NONE;
        assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
        fixture_assert_origin(ctx, &desc, NULL, "");
        doconv_context_destroy(ctx);
    }
    /* Other variants may be allowed where the order of sums is kept; in training it always is. */
    options = fixture_options(f, "c", path);
    options.tune = DOCONV_TUNE_ONLY;
    options.deterministic = 1;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    fixture_assert_origin(ctx, &desc, NULL, "");
    doconv_tune_report *report = fixture_tune(ctx, &desc, NULL, false);
    doconv_tune_report_destroy(report);
    fixture_assert_origin(ctx, &desc, NULL, "cache");
    struct dc_problem problem;
    char key[DC_KEY_SIZE], trained[DC_KEY_SIZE];
    assert_int_equal(dc_problem_create(ctx, &desc, &problem), DOCONV_OK);
    problem.fresh_weights = true;
    dc_plan_key(ctx, &problem, NULL, trained, sizeof trained);
    doconv_context_destroy(ctx);
    ctx = fixture_context(f, "c", DOCONV_TUNE_ONLY);
    dc_plan_key(ctx, &problem, NULL, key, sizeof key);
    assert_string_equal(key, trained);
    fixture_assert_origin(ctx, &desc, NULL, "cache"); /* still its own */
    doconv_context_destroy(ctx);
    ctx = fixture_context(f, "other directory", DOCONV_TUNE_ONLY);
    fixture_assert_origin(ctx, &desc, NULL, "");
    doconv_context_destroy(ctx);
}

/* Its kernel is there, but its parameters are none that the planner would make. */
static void test_stale_variant(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    struct dc_problem p;
    const struct dc_candidate c = fixture_candidate(ctx, &desc);
    struct cache_entry entry = {
        .revision = c.kernel->revision, .picoseconds = 1, .when = FIXTURE_WHEN, .against = "a"};
    assert_int_equal(dc_problem_create(ctx, &desc, &p), DOCONV_OK);
    dc_plan_key(ctx, &p, NULL, entry.key, sizeof entry.key);
    snprintf(entry.variant, sizeof entry.variant, "direct:%s:src=nowhere", c.kernel->name);
    assert_int_equal(dc_cache_store(ctx->advisor.self, &entry), CACHE_STORED);
    fixture_assert_origin(ctx, &desc, NULL, "estimate");
    doconv_tune_report *report = fixture_tune(ctx, &desc, NULL, false);
    const doconv_tune_summary s = fixture_summary(report);
    assert_int_equal(s.from_cache, 0);
    assert_null(strstr(s.variant, "nowhere"));
    doconv_tune_report_destroy(report);
    assert_int_equal(f->log.errors, 0);
    doconv_context_destroy(ctx);
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(test_modes),         WITH_FIXTURE(test_rigor),
        WITH_FIXTURE(test_cancel),        WITH_FIXTURE(test_never_served_elsewhere),
        WITH_FIXTURE(test_stale_variant),
    };
    return cmocka_run_group_tests_name("tuner_modes", tests, NULL, NULL);
}
