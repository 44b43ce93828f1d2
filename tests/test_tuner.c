/* SPDX-License-Identifier: MIT */
/*
 * The tuner as programs and plans see it: what is measured, checked, stored and found again; wrong
 * kernels. Nothing here depends on how long anything takes: where a test needs an entry on disk,
 * noise on the machine must not keep it out (see fixture_plant()).
 */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <doconv/doconv_tune.h>

#include "cache.h"
#include "tuner_fixture.h"

/* ---- reports ---- */

static void test_report(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    doconv_tune_report *report = fixture_tune(ctx, &desc, NULL, false);
    const doconv_tune_summary s = fixture_summary(report);
    assert_int_equal(s.from_cache, 0);
    assert_int_equal(s.stored, 1);
    assert_true(s.confidence >= 0.0 && s.confidence <= 1.0);
    assert_int_equal(strlen(s.when), strlen(FIXTURE_WHEN));
    assert_true(s.against[0] != '\0' && s.against_seconds > 0.0);
    assert_true(s.seconds > 0.0 && s.max_rel_error >= 0.0 && s.max_rel_error < 1e-5);
    assert_true(s.measured >= 1);
    assert_int_equal(doconv_tune_report_count(report), s.measured);
    for (int i = 0; i < s.measured; i++) {
        doconv_tune_entry e = {.size = sizeof e}, before = {.size = sizeof before};
        assert_int_equal(doconv_tune_report_get(report, i, &e), DOCONV_OK);
        assert_true(e.median_seconds > 0.0 && e.spread >= 0.0 &&
                    (e.dropped == 0 || e.dropped == 1));
        assert_true(e.clean <= e.rounds && e.retaken >= 0);
        /* The budget is a thousandth of a second: there may be no time for samples. */
        assert_true(!e.dropped || e.clean >= 2);
        assert_string_equal(e.why, e.dropped ? "slower" : "");
        if (i == 0) {
            assert_string_equal(e.variant, s.variant);
            assert_int_equal(e.dropped, 0);
            assert_true(fabs(e.median_seconds - s.seconds) <= 1e-12);
        } else if (i > 1) {
            assert_int_equal(doconv_tune_report_get(report, i - 1, &before), DOCONV_OK);
            assert_true(before.median_seconds <= e.median_seconds);
        }
    }
    assert_int_equal(f->log.warnings, 0);
    assert_int_equal(fixture_count(f, "c", ".txt", NULL), s.stored);
    doconv_tune_report_destroy(report);
    doconv_context_destroy(ctx);
}

/* Everything from the cache: in this context, in the next, in another process. */
static void test_found_again(void **state)
{
    struct fixture *f = *state;
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    char variant[DC_VARIANT_SIZE];
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    doconv_tune_report *measured = fixture_tune(ctx, &desc, NULL, true);
    const doconv_tune_summary first = fixture_summary(measured);
    assert_int_equal(first.from_cache, 0);
    assert_int_equal(first.stored, 1);
    char when[32], against[DC_VARIANT_SIZE];
    snprintf(variant, sizeof variant, "%s", first.variant);
    snprintf(when, sizeof when, "%s", first.when);
    snprintf(against, sizeof against, "%s", first.against);
    doconv_tune_report_destroy(measured);
    for (int i = 0; i < 2; i++) {
        doconv_tune_report *report = fixture_tune(ctx, &desc, NULL, false);
        const doconv_tune_summary s = fixture_summary(report);
        assert_int_equal(s.from_cache, 1);
        assert_int_equal(s.stored, 1);
        assert_int_equal(s.measured, 0);
        assert_int_equal(s.noisy, first.noisy);
        assert_string_equal(s.when, when);
        assert_string_equal(s.against, against);
        assert_true(fabs(s.confidence - first.confidence) < 1e-9);
        assert_int_equal(doconv_tune_report_count(report), 0);
        assert_string_equal(s.variant, variant);
        assert_true(s.seconds > 0.0);
        doconv_tune_report_destroy(report);
        doconv_context_destroy(ctx);
        ctx = fixture_context(f, "c", DOCONV_TUNE_ONLY);
    }
    doconv_plan *plan;
    assert_int_equal(doconv_plan_create(ctx, &desc, NULL, &plan), DOCONV_OK);
    assert_string_equal(doconv_plan_origin(plan), "cache");
    assert_string_equal(doconv_plan_variant(plan), variant);
    doconv_plan_destroy(plan);
    doconv_context_destroy(ctx);

    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char path[FIXTURE_PATH];
        doconv_context_options options = fixture_options(f, "c", path);
        doconv_tune_report *report;
        doconv_tune_summary s = {.size = sizeof s};
        bool ok = doconv_context_create(&options, &ctx) == DOCONV_OK &&
                  doconv_tune(ctx, &desc, NULL, &fixture_quick, &report) == DOCONV_OK;
        ok = ok && doconv_tune_report_summary(report, &s) == DOCONV_OK && s.from_cache == 1 &&
             strcmp(s.variant, variant) == 0;
        _exit(ok ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_force(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    fixture_plant(ctx, &desc, NULL, NULL);
    doconv_tune_report *report = fixture_tune(ctx, &desc, NULL, true);
    const doconv_tune_summary s = fixture_summary(report);
    assert_int_equal(s.from_cache, 0);
    assert_true(s.measured >= 1);
    doconv_tune_report_destroy(report);
    report = fixture_tune(ctx, &desc, NULL, false);
    /* the new winner, or the old one if the new result is doubtful */
    assert_int_equal(fixture_summary(report).from_cache, 1);
    doconv_tune_report_destroy(report);
    doconv_context_destroy(ctx);
}

static void test_bad_arguments(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    doconv_tune_report *report = (doconv_tune_report *)ctx;
    char text[256];
    assert_int_equal(doconv_tune(NULL, &desc, NULL, NULL, &report), DOCONV_INVALID_ARGUMENT);
    assert_null(report);
    assert_int_equal(doconv_tune(ctx, &desc, NULL, NULL, NULL), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_tune(ctx, NULL, NULL, NULL, &report), DOCONV_INVALID_ARGUMENT);
    doconv_conv_desc bad = desc;
    bad.stride_h = 0;
    assert_int_equal(doconv_tune(ctx, &bad, NULL, NULL, &report), DOCONV_INVALID_PROBLEM);
    bad.size = 1;
    assert_int_equal(doconv_tune(ctx, &bad, NULL, NULL, &report), DOCONV_MISMATCH);
    doconv_plan_options plan_options = {.size = sizeof plan_options, .cold_weights = 2};
    assert_int_equal(doconv_tune(ctx, &desc, &plan_options, NULL, &report),
                     DOCONV_INVALID_ARGUMENT);
    plan_options = (doconv_plan_options){.size = sizeof plan_options, .variant = "nonesuch"};
    assert_int_equal(doconv_tune(ctx, &desc, &plan_options, NULL, &report), DOCONV_NOT_FOUND);
    assert_int_equal(doconv_context_last_error(ctx, text, sizeof text), DOCONV_OK);
    assert_non_null(strstr(text, "nonesuch"));
    static const double budgets[] = {-1.0, NAN, INFINITY, 1e9};
    for (size_t i = 0; i < sizeof budgets / sizeof budgets[0]; i++) {
        const doconv_tune_options options = {.size = sizeof options, .budget_seconds = budgets[i]};
        assert_int_equal(doconv_tune(ctx, &desc, NULL, &options, &report), DOCONV_INVALID_ARGUMENT);
        assert_null(report);
    }
    doconv_tune_options options = {.size = sizeof options, .force = 2};
    assert_int_equal(doconv_tune(ctx, &desc, NULL, &options, &report), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_context_last_error(ctx, text, sizeof text), DOCONV_OK);
    assert_non_null(strstr(text, "force: 2"));
    options = (doconv_tune_options){.size = sizeof options - 1};
    assert_int_equal(doconv_tune(ctx, &desc, NULL, &options, &report), DOCONV_MISMATCH);

    report = fixture_tune(ctx, &desc, NULL, false);
    doconv_tune_summary s = {.size = 0};
    doconv_tune_entry e = {.size = sizeof e};
    assert_int_equal(doconv_tune_report_summary(report, &s), DOCONV_MISMATCH);
    assert_int_equal(doconv_tune_report_summary(report, NULL), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_tune_report_summary(NULL, &s), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_tune_report_get(report, -1, &e), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_tune_report_get(report, doconv_tune_report_count(report), &e),
                     DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_tune_report_get(report, 0, NULL), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_tune_report_get(NULL, 0, &e), DOCONV_INVALID_ARGUMENT);
    e.size++;
    assert_int_equal(doconv_tune_report_get(report, 0, &e), DOCONV_MISMATCH);
    assert_int_equal(doconv_tune_report_count(NULL), 0);
    doconv_tune_report_destroy(report);
    doconv_tune_report_destroy(NULL);
    doconv_context_destroy(ctx);
}

struct progress {
    int calls, last_done, last_total;
};

static void follow(void *user, int done, int total)
{
    struct progress *p = user;
    assert_true(done >= 0 && done <= total && total > 0);
    p->calls++;
    p->last_done = done;
    p->last_total = total;
}

static void test_progress(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    struct progress p = {0};
    doconv_tune_options options = fixture_quick;
    options.progress = follow;
    options.progress_user = &p;
    doconv_tune_report *report;
    assert_int_equal(doconv_tune(ctx, &desc, NULL, &options, &report), DOCONV_OK);
    assert_true(p.calls >= 1);
    assert_int_equal(p.last_done, p.last_total);
    doconv_tune_report_destroy(report);
    doconv_context_destroy(ctx);
}

/*
 * A caller that names a variant or a kernel measures only that, and the cache learns nothing from
 * it.
 */
static void test_restricted(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    const struct dc_candidate c = fixture_candidate(ctx, &desc);
    const char *const names[] = {c.text, c.kernel->name};
    for (int i = 0; i < 2; i++) {
        const doconv_plan_options options = {.size = sizeof options, .variant = names[i]};
        doconv_tune_report *report = fixture_tune(ctx, &desc, &options, false);
        const doconv_tune_summary s = fixture_summary(report);
        assert_int_equal(s.stored, 0);
        assert_int_equal(s.from_cache, 0);
        for (int j = 0; j < s.measured; j++) {
            doconv_tune_entry e = {.size = sizeof e};
            assert_int_equal(doconv_tune_report_get(report, j, &e), DOCONV_OK);
            assert_non_null(strstr(e.variant, c.kernel->name));
        }
        doconv_tune_report_destroy(report);
    }
    assert_int_equal(fixture_count(f, "c", "", NULL), 0);
    assert_int_equal(dc_cache_memory_count(ctx->advisor.self), 0);
    doconv_context_destroy(ctx);
}

static void test_many_problems(void **state)
{
    struct fixture *f = *state;
    static const char *const problems[] = {
        "mb1_ic1ih1oc1kh1",
        "mb2_ic3ih8oc20kh3sh2ph1:src=nhwc,dst=nChw16c,bias,relu",
        "mb1_ic17ih6iw11oc9kh2kw3ph1pw0:src=nChw8c,dst=nchw,residual",
        "g4mb1_ic8ih7oc12kh3ph1:src=nhwc,dst=nhwc",
        "g16mb2_ic16ih7oc16kh3ph1:src=nChw16c,dst=nChw16c,bias,clamp=0/6",
        "mb1_ic8ih5oc8kh3ph1:bias,clamp=0/1e-6",
        /* small values left of large ones, with their rounding */
        "mb1_ic64ih16oc64kh3ph1:clamp=-1e-2/1e-2",
        "mb1_ic8ih5oc8kh3ph1:relu,clamp=-3/-1", /* nothing at all */
        "mb1_ic8ih5oc8kh3ph1dh1:src=nhwc,dst=nChw8c,accuracy=strict",
        "mb3_ic4ih9oc5kh5sh3ph2:residual,relu",
        /* enough to be measured by more than one kernel */
        "mb1_ic40ih12oc40kh3ph1:src=nhwc,dst=nhwc",
    };
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    for (size_t i = 0; i < sizeof problems / sizeof problems[0]; i++) {
        const doconv_conv_desc desc = fixture_problem(problems[i]);
        doconv_tune_report *report = fixture_tune(ctx, &desc, NULL, false);
        const doconv_tune_summary s = fixture_summary(report);
        assert_true(isfinite(s.max_rel_error));
        doconv_plan_options options = {.size = sizeof options, .variant = s.variant};
        doconv_plan *plan;
        assert_int_equal(doconv_plan_create(ctx, &desc, &options, &plan), DOCONV_OK);
        doconv_plan_destroy(plan);
        doconv_tune_report_destroy(report);
    }
    assert_int_equal(f->log.errors, 0);
    doconv_context_destroy(ctx);
}

static void test_cold_weights(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    const struct dc_candidate c = fixture_candidate(ctx, &desc);
    /* One variant: flushing caches takes time. */
    const doconv_plan_options options = {
        .size = sizeof options, .cold_weights = 1, .variant = c.text};
    doconv_tune_report *report = fixture_tune(ctx, &desc, &options, false);
    assert_string_equal(fixture_summary(report).variant, c.text);
    doconv_tune_report_destroy(report);
    doconv_context_destroy(ctx);
}

/*
 * Each candidate is measured with its packing, those that pack block by block among them, and the
 * winner is checked.
 */
static void test_fresh_weights(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    /* strict: direct kernels, which are those that pack block by block */
    const doconv_conv_desc desc =
        fixture_problem("mb1_ic40ih6oc96kh3ph1:src=nhwc,dst=nhwc,bias,accuracy=strict");
    const doconv_plan_options options = {.size = sizeof options, .fresh_weights = 1};
    doconv_tune_report *report = fixture_tune(ctx, &desc, &options, true);
    int in_order_pack = 0;
    for (int i = 0; i < doconv_tune_report_count(report); i++) {
        doconv_tune_entry entry = {.size = sizeof entry};
        assert_int_equal(doconv_tune_report_get(report, i, &entry), DOCONV_OK);
        in_order_pack += strstr(entry.variant, ",order=pack") != NULL;
    }
    const bool direct = strncmp(fixture_summary(report).variant, "reference", 9) != 0;
    assert_true(in_order_pack > 0 || !direct);
    assert_true(fixture_summary(report).max_rel_error < 1e-5);
    doconv_tune_report_destroy(report);
    assert_int_equal(f->log.errors, 0);
    doconv_context_destroy(ctx);
}

/* Works, says so once, stores nothing on disk; memory serves this context. */
static void test_unwritable_directory(void **state)
{
    struct fixture *f = *state;
    char path[FIXTURE_PATH];
    fixture_path(f, "file", path);
    fixture_write(path, "x", 1);
    doconv_context *ctx = fixture_context(f, "file/below", DOCONV_TUNE_READ);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM),
                           other = fixture_problem("mb1_ic2ih4oc3kh1");
    for (int i = 0; i < 3; i++) {
        doconv_tune_report *report = fixture_tune(ctx, i < 2 ? &desc : &other, NULL, i != 1);
        const doconv_tune_summary s = fixture_summary(report);
        assert_int_equal(s.stored, 0);
        assert_int_equal(s.from_cache, i == 1);
        doconv_tune_report_destroy(report);
    }
    assert_int_equal(f->log.errors, 0);
    assert_int_equal(f->log.warnings, 1); /* for the directory */
    doconv_context_destroy(ctx);
}

/* ---- wrong kernels ---- */

static const struct dc_kernel *victim; /* the kernel that the wrong ones below are made of */

static void run_nothing(const struct dc_run_args *args)
{
    (void)args;
}

static void run_short_sum(const struct dc_run_args *args)
{
    struct dc_run_args changed = *args;
    changed.segment_count -= changed.segment_count > 1; /* leaves a term out */
    victim->direct.run(&changed);
}

static void run_short_row(const struct dc_run_args *args)
{
    struct dc_run_args changed = *args;
    if (changed.partial_out == NULL && changed.pixels > 1) {
        changed.pixels--;
    }
    victim->direct.run(&changed);
}

static void run_wrong_bias(const struct dc_run_args *args)
{
    float bias[DC_MAX_TILE_FLOATS] __attribute__((aligned(64)));
    struct dc_run_args changed = *args;
    if (args->partial_in == NULL) {
        memcpy(bias, args->bias, (size_t)victim->tile_channels * sizeof *bias);
        bias[0] += 1e-3f; /* one channel of a block, a little */
        changed.bias = bias;
    }
    victim->direct.run(&changed);
}

static void run_nan(const struct dc_run_args *args)
{
    float bias[DC_MAX_TILE_FLOATS] __attribute__((aligned(64)));
    struct dc_run_args changed = *args;
    if (args->partial_in == NULL) {
        memcpy(bias, args->bias, (size_t)victim->tile_channels * sizeof *bias);
        bias[0] = NAN;
        changed.bias = bias;
    }
    victim->direct.run(&changed);
}

static void (*const wrong_runs[])(const struct dc_run_args *) = {
    run_nothing, run_short_sum, run_short_row, run_wrong_bias, run_nan};

/*
 * A usable direct kernel and the reference of the build; NULL if there is none (portable builds).
 */
static const struct dc_kernel *find_kernel(const doconv_context *ctx, enum dc_family family)
{
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        if ((*row)->family == family && dc_isa_usable((*row)->isa, ctx->isa)) {
            return *row;
        }
    }
    return NULL;
}

/* Each of them alone, then all of them. */
static void assert_every_variant_wrong(doconv_context *ctx, const doconv_conv_desc *desc)
{
    doconv_candidates *list;
    doconv_tune_report *report = (doconv_tune_report *)ctx;
    assert_int_equal(doconv_candidates_create(ctx, desc, NULL, &list), DOCONV_OK);
    int accepted = 0;
    for (int i = 0; i < doconv_candidates_count(list); i++) {
        doconv_candidate_info info = {.size = sizeof info};
        assert_int_equal(doconv_candidates_get(list, i, &info), DOCONV_OK);
        if (info.refused == NULL && strstr(info.variant, "wrong") != NULL) {
            const doconv_plan_options options = {.size = sizeof options, .variant = info.variant};
            assert_int_equal(doconv_tune(ctx, desc, &options, &fixture_quick, &report),
                             DOCONV_UNSUPPORTED);
            assert_null(report);
            accepted++;
        }
    }
    doconv_candidates_destroy(list);
    assert_true(accepted > 0);
    assert_int_equal(doconv_tune(ctx, desc, NULL, &fixture_quick, &report), DOCONV_UNSUPPORTED);
    assert_null(report);
}

/* Beside the reference alone, so that it is the winner whatever the times: it must be found out. */
static void test_wrong_kernels_are_caught(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_TUNE);
    const doconv_conv_desc desc = fixture_problem("mb1_ic20ih9oc40kh3ph1:src=nhwc,dst=nhwc,bias");
    const struct dc_kernel *const *all = ctx->kernels,
                                  *reference = find_kernel(ctx, DC_FAMILY_REFERENCE);
    victim = find_kernel(ctx, DC_FAMILY_DIRECT);
    if (victim == NULL) {
        doconv_context_destroy(ctx);
        skip();
    }
    for (size_t i = 0; i < sizeof wrong_runs / sizeof wrong_runs[0]; i++) {
        struct dc_kernel wrong = *victim;
        wrong.name = "direct_f32_wrong@none";
        wrong.direct.run = wrong_runs[i];
        const struct dc_kernel *const kernels[] = {&wrong, reference, NULL};
        fixture_reattach(ctx, kernels);
        fixture_log_clear(f);
        assert_every_variant_wrong(ctx, &desc);
        assert_true(f->log.errors >= 1);
        assert_non_null(strstr(f->log.last, "direct_f32_wrong@none"));
        doconv_plan *plan;
        /* mode tune */
        assert_int_equal(doconv_plan_create(ctx, &desc, NULL, &plan), DOCONV_UNSUPPORTED);
        assert_int_equal(fixture_count(f, "c", "", NULL), 0);
        fixture_reattach(ctx, all);
    }
    doconv_context_destroy(ctx);
}

/* Beside a right one it loses, though it is the fastest by far. */
static void test_wrong_kernel_never_wins(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const doconv_conv_desc desc = fixture_problem("mb1_ic20ih9oc40kh3ph1:src=nhwc,dst=nhwc,bias");
    const struct dc_kernel *const *all = ctx->kernels,
                                  *reference = find_kernel(ctx, DC_FAMILY_REFERENCE);
    victim = find_kernel(ctx, DC_FAMILY_DIRECT);
    if (victim == NULL) {
        doconv_context_destroy(ctx);
        skip();
    }
    struct dc_kernel wrong = *victim;
    wrong.name = "direct_f32_wrong@none";
    wrong.direct.run = run_nothing;
    const struct dc_kernel *const kernels[] = {&wrong, victim, reference, NULL};
    fixture_reattach(ctx, kernels);
    doconv_tune_report *report = fixture_tune(ctx, &desc, NULL, false);
    const doconv_tune_summary s = fixture_summary(report);
    assert_non_null(strstr(s.variant, victim->name));
    assert_true(s.max_rel_error < 1e-5);
    char path[FIXTURE_PATH], text[16384];
    if (fixture_count(f, "c", ".txt", path) > 0) {
        struct cache_entry entry;
        assert_null(dc_cachefile_parse(text, fixture_read(path, text, sizeof text), &entry));
        assert_string_equal(entry.variant, s.variant);
        assert_int_equal(entry.count, s.measured);
        assert_int_equal(entry.measured[0].fate, 0);
    }
    doconv_tune_report_destroy(report);
    fixture_reattach(ctx, all);
    doconv_context_destroy(ctx);
}

static void test_reference_alone(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const struct dc_kernel *const *all = ctx->kernels, *const kernels[] = {
                                                           find_kernel(ctx, DC_FAMILY_REFERENCE),
                                                           NULL};
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    fixture_reattach(ctx, kernels);
    doconv_tune_report *report = fixture_tune(ctx, &desc, NULL, false);
    const doconv_tune_summary s = fixture_summary(report);
    assert_non_null(strstr(s.variant, kernels[0]->name));
    assert_int_equal(s.measured, 1);
    assert_true(s.max_rel_error == 0.0);
    doconv_tune_report_destroy(report);
    fixture_reattach(ctx, all);
    doconv_context_destroy(ctx);
}

/* Nothing to check a winner against: refused, not believed. */
static void test_no_reference(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    const struct dc_kernel *const *all = ctx->kernels, *const kernels[] = {
                                                           find_kernel(ctx, DC_FAMILY_DIRECT),
                                                           NULL};
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    if (kernels[0] == NULL) {
        doconv_context_destroy(ctx);
        skip();
    }
    fixture_reattach(ctx, kernels);
    doconv_tune_report *report = (doconv_tune_report *)ctx;
    assert_int_equal(doconv_tune(ctx, &desc, NULL, &fixture_quick, &report), DOCONV_UNSUPPORTED);
    assert_null(report);
    assert_int_equal(fixture_count(f, "c", "", NULL), 0);
    fixture_reattach(ctx, all);
    doconv_context_destroy(ctx);
}

/* ---- contexts of all kinds ---- */

struct runner {
    int calls, most;
};

/* Last task first, on the calling thread. */
static void run_backwards(void *user, int count, void (*task)(void *arg, int index), void *arg)
{
    struct runner *r = user;
    r->calls++;
    r->most = count > r->most ? count : r->most;
    for (int i = count - 1; i >= 0; i--) {
        task(arg, i);
    }
}

static void test_own_parallel_for(void **state)
{
    struct fixture *f = *state;
    char path[FIXTURE_PATH];
    struct runner runner = {0};
    doconv_context_options options = fixture_options(f, "c", path);
    options.threads = 3;
    options.parallel_for = run_backwards;
    options.parallel_for_user = &runner;
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    const doconv_conv_desc desc = fixture_problem("mb2_ic20ih9oc40kh3ph1:bias");
    doconv_tune_report *report = fixture_tune(ctx, &desc, NULL, false);
    assert_true(runner.calls > 0);
    /* never more tasks than threads: a caller may start one for each */
    assert_in_range(runner.most, 1, 3);
    doconv_tune_report_destroy(report);
    fixture_plant(ctx, &desc, NULL, NULL);
    doconv_context_destroy(ctx);
    options.parallel_for = NULL;
    options.tune = DOCONV_TUNE_ONLY;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    fixture_assert_origin(ctx, &desc, NULL, ""); /* the same number of threads of another kind */
    doconv_context_destroy(ctx);
}

/* The lines of verbose mode are for the caller's executes, and would be timed. */
static void test_verbose_measures_quietly(void **state)
{
    struct fixture *f = *state;
    char path[FIXTURE_PATH];
    doconv_context_options options = fixture_options(f, "c", path);
    options.verbose = 2;
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    const doconv_conv_desc desc = fixture_problem(FIXTURE_PROBLEM);
    doconv_tune_report_destroy(fixture_tune(ctx, &desc, NULL, false));
    assert_int_equal(f->log.executes, 0);
    doconv_context_destroy(ctx);
}

struct planner {
    pthread_t thread;
    doconv_context *ctx;
    doconv_conv_desc desc;
    bool ok;
};

static void *make_plans(void *arg)
{
    struct planner *p = arg;
    p->ok = true;
    for (int i = 0; i < 3; i++) {
        doconv_plan *plan;
        p->ok = p->ok && doconv_plan_create(p->ctx, &p->desc, NULL, &plan) == DOCONV_OK;
        p->ok = p->ok && strcmp(doconv_plan_origin(plan), "estimate") != 0;
        doconv_plan_destroy(plan);
    }
    return NULL;
}

static void test_shared_context(void **state)
{
    enum { THREADS = 4 };
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_TUNE);
    struct planner planners[THREADS];
    for (int i = 0; i < THREADS; i++) {
        planners[i].ctx = ctx;
        planners[i].desc = fixture_problem(i % 2 == 0 ? FIXTURE_PROBLEM : "mb1_ic3ih6oc4kh1");
        assert_int_equal(pthread_create(&planners[i].thread, NULL, make_plans, &planners[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(planners[i].thread, NULL), 0);
        assert_true(planners[i].ok);
    }
    assert_int_equal(f->log.errors, 0);
    doconv_context_destroy(ctx);
}

/* Each allocation of a tuning fails once: an answer or OUT_OF_MEMORY, nothing lost. */
static void test_out_of_memory(void **state)
{
    struct fixture *f = *state;
    char path[FIXTURE_PATH];
    struct fixture_failing failing;
    doconv_context_options options = fixture_options(f, "c", path);
    fixture_fail(&options, &failing);
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    const doconv_conv_desc desc = fixture_problem("mb1_ic2ih3oc2kh1:bias,residual");
    int refused = 0, n = 0;
    for (bool done = false; !done; n++) {
        failing.calls = 0;
        failing.fail_at = -1;
        fixture_reattach(ctx, ctx->kernels); /* nothing in memory */
        const int live = failing.live;
        failing.calls = 0;
        failing.fail_at = n;
        doconv_tune_report *report;
        const doconv_tune_options forced = {
            .size = sizeof forced, .force = 1, .budget_seconds = 1e-3};
        const doconv_status status = doconv_tune(ctx, &desc, NULL, &forced, &report);
        assert_true(status == DOCONV_OK || (status == DOCONV_OUT_OF_MEMORY && report == NULL));
        assert_true(status != DOCONV_OK || fixture_summary(report).variant[0] != '\0');
        refused += status != DOCONV_OK;
        done = failing.calls <= n;
        doconv_tune_report_destroy(report);
        failing.fail_at = -1;
        fixture_reattach(ctx, ctx->kernels);
        assert_int_equal(failing.live, live);
    }
    assert_in_range(refused, 5, n - 1);
    doconv_context_destroy(ctx);
    assert_int_equal(failing.live, 0);
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(test_report),
        WITH_FIXTURE(test_found_again),
        WITH_FIXTURE(test_force),
        WITH_FIXTURE(test_bad_arguments),
        WITH_FIXTURE(test_progress),
        WITH_FIXTURE(test_restricted),
        WITH_FIXTURE(test_many_problems),
        WITH_FIXTURE(test_cold_weights),
        WITH_FIXTURE(test_fresh_weights),
        WITH_FIXTURE(test_unwritable_directory),
        WITH_FIXTURE(test_wrong_kernels_are_caught),
        WITH_FIXTURE(test_wrong_kernel_never_wins),
        WITH_FIXTURE(test_reference_alone),
        WITH_FIXTURE(test_no_reference),
        WITH_FIXTURE(test_own_parallel_for),
        WITH_FIXTURE(test_verbose_measures_quietly),
        WITH_FIXTURE(test_shared_context),
        WITH_FIXTURE(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("tuner", tests, NULL, NULL);
}
