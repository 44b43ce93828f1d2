/* SPDX-License-Identifier: MIT */
/*
 * What all of a tuning chooses, keeps and measures again, on a clock that only the candidates move:
 * nothing here depends on the machine. A single measurement is test_measure.c's.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include <doconv/doconv_tune.h>

#include "fake_solver.h"
#include "picks.h"
#include "tuner_fixture.h"

/* Long enough for one call to be a sample. */
#define CALL 1e-3
#define LEAST_CLEAN 2 /* samples of any candidate that is dropped */

/* Candidate 1 is now faster, now slower than the others: no number of rounds tells. */
static double undecided(const struct fake *fake, int candidate, int call)
{
    static const double factors[] = {1.0, 1.5, 0.7, 1.25, 0.8};
    return fake->candidates[candidate].seconds * (candidate == 1 ? factors[call % 5] : 1.0);
}

/* Tunes the fake's candidates. */
static doconv_tune_report *tune(doconv_context *ctx)
{
    const doconv_conv_desc desc = fixture_problem(FAKE_PROBLEM);
    const doconv_tune_options options = {.size = sizeof options, .force = 1};
    doconv_tune_report *report;
    assert_int_equal(doconv_tune(ctx, &desc, NULL, &options, &report), DOCONV_OK);
    return report;
}

static doconv_tune_entry entry_of(const doconv_tune_report *report, int index)
{
    doconv_tune_entry entry = {.size = sizeof entry};
    assert_int_equal(doconv_tune_report_get(report, index, &entry), DOCONV_OK);
    return entry;
}

/* In the report: the number of a candidate's entry; -1: not measured. */
static int place_of(const doconv_tune_report *report, int number)
{
    for (int i = 0; i < doconv_tune_report_count(report); i++) {
        if (fake_number(entry_of(report, i).variant) == number) {
            return i;
        }
    }
    return -1;
}

/* The fastest is chosen, reported with its time, stored, and what plans get from then on. */
static void test_tuned_choice(void **state)
{
    struct fixture *f = *state;
    static const double times[] = {1.2, 1.5, 1.0, 1.07, 1.1, 6.0};
    struct fake fake = {.kernels = 1, .count = 6};
    for (int i = 0; i < 6; i++) {
        fake.candidates[i].seconds = CALL * times[i];
    }
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    fake_install(&fake, ctx);
    doconv_tune_report *report = tune(ctx);
    const doconv_tune_summary s = fixture_summary(report);
    assert_int_equal(fake_number(s.variant), 2);
    assert_true(fabs(s.seconds - CALL) < 1e-9);
    assert_true(s.stored && !s.noisy && !s.from_cache && s.max_rel_error == 0.0);
    assert_int_equal(s.measured, 6);
    assert_true(s.confidence >= 0.9);
    assert_int_equal(fake_number(s.against), 0);
    assert_true(fabs(s.against_seconds - 1.2 * CALL) < 1e-9);
    assert_int_equal(strlen(s.when), strlen(FIXTURE_WHEN));
    for (int i = 0; i < 6; i++) {
        const doconv_tune_entry e = entry_of(report, i);
        const int number = fake_number(e.variant);
        assert_true(fabs(e.median_seconds - fake.candidates[number].seconds) < 1e-9);
        assert_int_equal(e.dropped, number != 2);
        assert_string_equal(e.why, number != 2 ? "slower" : "");
        assert_true(e.clean >= LEAST_CLEAN && e.clean == e.rounds && e.retaken == 0);
    }
    doconv_tune_report_destroy(report);
    const doconv_conv_desc desc = fixture_problem(FAKE_PROBLEM);
    doconv_plan *plan;
    assert_int_equal(doconv_plan_create(ctx, &desc, NULL, &plan), DOCONV_OK);
    assert_string_equal(doconv_plan_origin(plan), "cache");
    assert_int_equal(fake_number(doconv_plan_variant(plan)), 2);
    doconv_plan_destroy(plan);
    fake_remove(&fake, ctx);
    doconv_context_destroy(ctx);
}

/* An entry is found with the revisions of both its kernels, and with no others. */
static void test_revisions_of_pairs(void **state)
{
    struct fixture *f = *state;
    struct fake fake = {.kernels = 3, .count = 1, .pairs = true};
    for (int i = 0; i < 3; i++) {
        fake.candidates[i].seconds = i == 0 ? CALL : 2.0 * CALL;
    }
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    fake_install(&fake, ctx);
    doconv_tune_report_destroy(tune(ctx));
    const doconv_conv_desc desc = fixture_problem(FAKE_PROBLEM);
    for (int changed = 0; changed < 3; changed++) {
        fake.rows[0].revision += changed == 1;
        fake.rows[2].revision += changed == 2 ? 1 : 0;
        fake.rows[0].revision -= changed == 2;
        fixture_reattach(ctx, fake.list); /* nothing in memory */
        doconv_plan *plan;
        assert_int_equal(doconv_plan_create(ctx, &desc, NULL, &plan), DOCONV_OK);
        assert_string_equal(doconv_plan_origin(plan), changed == 0 ? "cache" : "estimate");
        doconv_plan_destroy(plan);
    }
    fake_remove(&fake, ctx);
    doconv_context_destroy(ctx);
}

/* The candidates that were measured, by their numbers. */
static void assert_measured(const struct fake *fake, const int *numbers, int count)
{
    for (int i = 0; i < fake->kernels * fake->count; i++) {
        bool expected = false;
        for (int j = 0; j < count; j++) {
            expected = expected || numbers[j] == i;
        }
        assert_int_equal(fake->candidates[i].calls > 0, expected);
    }
}

/*
 * Of many candidates the best by estimate are measured, the best of other kernels among them, none
 * that the estimate finds three times slower; then the winner's neighbours, and those of a
 * neighbour that won.
 */
static void test_picks(void **state)
{
    enum { EACH = 30 };
    static const struct {
        int fastest, winner, count;
        int measured[16];
    } rows[] = {
        /* The first is the best: four neighbours more are enough. */
        {0, 0, 10, {0, 1, 2, 3, 4, 5, 6, 7, 8, 30}},
        /* A neighbour is: four more. */
        {7, 7, 14, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 30}},
        /* The other kernel's first: the neighbours that this one has. */
        {30, 30, 10, {0, 1, 2, 3, 4, 30, 31, 32, 33, 34}},
        /* Too far for any search. */
        {29, 0, 10, {0, 1, 2, 3, 4, 5, 6, 7, 8, 30}},
    };
    struct fixture *f = *state;
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct fake fake = {.kernels = 3, .count = EACH};
        for (int i = 0; i < 3 * EACH; i++) {
            fake.candidates[i].seconds = CALL * (i == rows[r].fastest ? 0.8 : 1.0);
            /* The second kernel's stand behind all of the first's; the third's are hopeless. */
            fake.candidates[i].estimated = i < 2 * EACH ? 1.0 + 0.02 * i : 3.1;
        }
        doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
        fake_install(&fake, ctx);
        doconv_tune_report *report = tune(ctx);
        assert_measured(&fake, rows[r].measured, rows[r].count);
        assert_int_equal(fake_number(fixture_summary(report).variant), rows[r].winner);
        doconv_tune_report_destroy(report);
        fake_remove(&fake, ctx);
        doconv_context_destroy(ctx);
    }
}

/* In how many things variants differ: a neighbour does in one. */
static void test_distances(void **state)
{
    enum { FAR = 100 };
    (void)state;
    static const struct {
        const char *one, *other;
        int distance;
    } rows[] = {
        {"s:k@a:x=1,y=2", "s:k@a:x=1,y=2", 0},
        {"s:k@a:x=1,y=2", "s:k@a:y=2,x=1", 0},
        {"s:k@a:x=1,y=2", "s:k@a:x=1,y=3", 1},
        {"s:k@a:x=1,y=2", "s:k@a:x=2,y=3", 2},
        {"s:k@a:x=1", "s:k@a:x=12", 1},
        {"s:k@a:x=1", "s:k@a:xx=1", 2},
        {"s:k@a:x=1", "s:k@a:x=1,y=3", 1},
        {"s:k@a:x=1", "s:k@a", 1},
        {"s:k@a", "s:k@a", 0},
        {"s:k@a", "s:l@a", 1},
        {"s:k@a:x=1", "s:l@a:x=2", 2},
        {"s:k@a+m@a:x=1", "s:k@a+n@a:x=1", 1},
        {"s:k@a+m@a:x=1", "s:l@a+n@a:x=1", 2},
        {"s:k@a+m@a:x=1", "s:k@a:x=1", 1},
        {"s", "s", 0},
        {"s:k@a:x=1", "t:k@a:x=1", FAR},
        {"s:k@a:x=1", "ss:k@a:x=1", FAR},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(dc_picks_distance(rows[i].one, rows[i].other), rows[i].distance);
        assert_int_equal(dc_picks_distance(rows[i].other, rows[i].one), rows[i].distance);
    }
}

/* Few: all but the hopeless. */
static void test_few_candidates(void **state)
{
    struct fixture *f = *state;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    struct fake fake = {.kernels = 3, .count = 2};
    for (int i = 0; i < 6; i++) {
        fake.candidates[i].seconds = CALL;
        fake.candidates[i].estimated = 1.0 + 0.5 * i;
    }
    fake.candidates[5].estimated = 3.01;
    fake_install(&fake, ctx);
    doconv_tune_report *report = tune(ctx);
    assert_int_equal(doconv_tune_report_count(report), 5);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(place_of(report, i) >= 0, i < 5);
    }
    doconv_tune_report_destroy(report);
    fake_remove(&fake, ctx);
    doconv_context_destroy(ctx);
}

/* A call that is long against the budget: fewer candidates, with samples enough. */
static void test_deadline(void **state)
{
    static const double calls[] = {1e-3, 5e-3, 19e-3, 25e-3, 64e-3, 0.2, 1.0};
    const double budget = 0.25; /* the default */
    int before = 100;
    for (size_t c = 0; c < sizeof calls / sizeof calls[0]; c++) {
        struct fake fake = {.kernels = 1, .count = 20};
        for (int i = 0; i < 20; i++) {
            fake.candidates[i].seconds = calls[c] * (i == 1 ? 0.8 : 1.0);
        }
        doconv_context *ctx = fixture_context(*state, "c", DOCONV_TUNE_TUNE);
        fake_install(&fake, ctx);
        doconv_tune_report *report = tune(ctx);
        const doconv_tune_summary s = fixture_summary(report);
        /* A sample that begins in time, and the check's call. */
        assert_true(fake.now <= budget + 2.0 * calls[c] || fake.now <= 3.0 * calls[c]);
        assert_int_equal(s.measured, doconv_tune_report_count(report));
        assert_in_range(s.measured, 2, before);
        before = s.measured;
        if (calls[c] < 0.1) {
            assert_int_equal(fake_number(s.variant), 1);
            assert_int_equal(s.noisy, 0);
        } else {
            assert_int_equal(s.noisy, 1); /* too little time to be sure */
        }
        doconv_tune_report_destroy(report);
        fake_remove(&fake, ctx);
        doconv_context_destroy(ctx);
    }
}

/* Another process has the core for as long as each call, and twice as long again. */
static void steal(void *user)
{
    ((struct fake *)user)->now += 6.0 * CALL;
}

/* Likewise, of the four tries that a disturbed sample has. */
static double undecided_in_four(const struct fake *fake, int candidate, int call)
{
    return undecided(fake, candidate, call / 4);
}

/* Who takes the core stretches a measurement: to twice the budget, or thrice if it is in doubt. */
static void test_deadline_of_a_busy_machine(void **state)
{
    const double budget = 0.25;
    for (int doubt = 0; doubt <= 1; doubt++) {
        struct fake fake = {.kernels = 1, .count = 2, .called = steal};
        fake.user = &fake;
        fake.candidates[0].seconds = fake.candidates[1].seconds = 3.0 * CALL;
        fake.candidates[1].seconds *= doubt != 0 ? 1.0 : 0.5;
        fake.seconds = doubt != 0 ? undecided_in_four : NULL;
        doconv_context *ctx = fixture_context(*state, "c", DOCONV_TUNE_TUNE);
        fake_install(&fake, ctx);
        doconv_tune_report *report = tune(ctx);
        assert_int_equal(fixture_summary(report).noisy, doubt);
        if (doubt != 0) {
            assert_true(fake.now > 2.7 * budget);
            assert_true(fake.now <= 3.0 * budget + 40.0 * CALL);
        } else {
            assert_int_equal(fake_number(fixture_summary(report).variant), 1);
            assert_true(fake.now <= 2.0 * budget + 40.0 * CALL);
        }
        doconv_tune_report_destroy(report);
        fake_remove(&fake, ctx);
        doconv_context_destroy(ctx);
    }
}

/* What is wrong may be the fastest by far, and is never chosen; the others run again. */
static void test_wrong_ones_are_passed_over(void **state)
{
    struct fixture *f = *state;
    static const double times[] = {1.0, 0.5, 0.9, 0.1, 0.95};
    struct fake fake = {.kernels = 1, .count = 5};
    for (int i = 0; i < 5; i++) {
        fake.candidates[i] =
            (struct fake_candidate){.seconds = CALL * times[i], .wrong = i == 1 || i == 3};
    }
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    fake_install(&fake, ctx);
    doconv_tune_report *report = tune(ctx);
    assert_int_equal(fake_number(fixture_summary(report).variant), 2);
    assert_int_equal(f->log.errors, 2);
    assert_true(place_of(report, 1) >= 3 && place_of(report, 3) >= 3);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(strcmp(entry_of(report, place_of(report, i)).why, "wrong") == 0,
                         i == 1 || i == 3);
    }
    doconv_tune_report_destroy(report);
    fake_remove(&fake, ctx);
    doconv_context_destroy(ctx);
}

/* A plan of the fake's problem in a new context: its variant's number, where it came from. */
static int plan_anew(struct fixture *f, struct fake *fake, doconv_tune_mode mode,
                     const char *origin, int plans)
{
    doconv_context *ctx = fixture_context(f, "c", mode);
    fake_install(fake, ctx);
    const doconv_conv_desc desc = fixture_problem(FAKE_PROBLEM);
    int number = -1;
    for (int i = 0; i < plans; i++) {
        doconv_plan *plan;
        assert_int_equal(doconv_plan_create(ctx, &desc, NULL, &plan), DOCONV_OK);
        assert_string_equal(doconv_plan_origin(plan), i == 0 ? origin : "cache");
        number = fake_number(doconv_plan_variant(plan));
        doconv_plan_destroy(plan);
    }
    fake_remove(fake, ctx);
    doconv_context_destroy(ctx);
    return number;
}

/* Kept and used; measured again by the next context that tunes, once, until it is sure. */
static void test_doubtful_results(void **state)
{
    struct fixture *f = *state;
    struct fake fake = {.kernels = 1, .count = 2, .seconds = undecided};
    fake.candidates[0].seconds = fake.candidates[1].seconds = 3.0 * CALL;
    doconv_context *ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    fake_install(&fake, ctx);
    doconv_tune_report *report = tune(ctx);
    doconv_tune_summary s = fixture_summary(report);
    assert_true(s.noisy && s.stored && s.confidence < 0.75);
    assert_int_equal(fixture_count(f, "c", ".txt", NULL), 1);
    doconv_tune_report_destroy(report);
    fake_remove(&fake, ctx);
    doconv_context_destroy(ctx);

    int calls = fake.candidates[0].calls;
    plan_anew(f, &fake, DOCONV_TUNE_READ, "cache", 2);
    plan_anew(f, &fake, DOCONV_TUNE_ONLY, "cache", 2);
    assert_int_equal(fake.candidates[0].calls, calls);
    for (int i = 0; i < 2; i++) { /* no surer than before */
        fake.candidates[0].calls = fake.candidates[1].calls = calls = 0;
        plan_anew(f, &fake, DOCONV_TUNE_TUNE, "measured", 3);
        assert_true(fake.candidates[0].calls > 0);
    }
    fake.seconds = NULL;
    fake.candidates[1].seconds = 2.0 * CALL;
    assert_int_equal(plan_anew(f, &fake, DOCONV_TUNE_TUNE, "measured", 2), 1);
    calls = fake.candidates[0].calls;
    assert_int_equal(plan_anew(f, &fake, DOCONV_TUNE_TUNE, "cache", 2), 1);
    assert_int_equal(fake.candidates[0].calls, calls);

    /* What is sure stays against what is not. */
    fake.seconds = undecided;
    fake.candidates[0].seconds = fake.candidates[1].seconds;
    fake.candidates[1].calls = 0;
    ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    fake_install(&fake, ctx);
    report = tune(ctx);
    s = fixture_summary(report);
    assert_true(s.noisy && !s.stored);
    doconv_tune_report_destroy(report);
    fake_remove(&fake, ctx);
    doconv_context_destroy(ctx);
    assert_int_equal(plan_anew(f, &fake, DOCONV_TUNE_TUNE, "cache", 1), 1);
}

/* No memory for all that a measurement needs: planned without, and it is said. */
static void test_failure_falls_back(void **state)
{
    struct fixture *f = *state;
    struct fake fake = {.kernels = 1, .count = 2};
    char path[FIXTURE_PATH];
    struct fixture_failing failing;
    doconv_context_options options = fixture_options(f, "c", path);
    fixture_fail(&options, &failing);
    options.tune = DOCONV_TUNE_TUNE;
    options.cache_directory = ""; /* each context anew */
    fake.candidates[0].seconds = 2.0 * CALL;
    fake.candidates[1].seconds = CALL;
    const doconv_conv_desc desc = fixture_problem(FAKE_PROBLEM);
    int estimates = 0, measured = 0, said = 0;
    for (int n = 0; measured == 0; n++) {
        doconv_context *ctx;
        failing.calls = 0;
        failing.fail_at = -1;
        assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
        fake_install(&fake, ctx);
        fixture_log_clear(f);
        failing.calls = 0;
        failing.fail_at = n;
        doconv_plan *plan;
        const doconv_status status = doconv_plan_create(ctx, &desc, NULL, &plan);
        const bool failed = failing.calls > n;
        failing.fail_at = -1;
        if (status == DOCONV_OK) {
            const bool estimate = strcmp(doconv_plan_origin(plan), "estimate") == 0;
            /* With some things that are missing a measurement goes on, without one candidate. */
            assert_true(estimate || strcmp(doconv_plan_origin(plan), "measured") == 0);
            assert_true(!estimate || (failed && fake_number(doconv_plan_variant(plan)) == 0));
            estimates += estimate;
            said += estimate && f->log.warnings > 0;
            measured += !failed;
            doconv_plan_destroy(plan);
        } else {
            assert_int_equal(status, DOCONV_OUT_OF_MEMORY); /* of the plan itself */
        }
        fake_remove(&fake, ctx);
        doconv_context_destroy(ctx);
    }
    assert_true(estimates >= 3);
    assert_int_equal(said, estimates);
}

struct progress {
    int calls, done, total;
};

static void follow(void *user, int done, int total)
{
    struct progress *p = user;
    assert_in_range(done, p->done, total);
    *p = (struct progress){p->calls + 1, done, total};
}

static void test_progress_ends(void **state)
{
    for (int count = 1; count <= 5; count += 4) {
        struct progress p = {0};
        struct fake fake = {.kernels = 1, .count = count, .seconds = undecided};
        for (int i = 0; i < count; i++) {
            fake.candidates[i].seconds = 3.0 * CALL;
        }
        doconv_context *ctx = fixture_context(*state, "c", DOCONV_TUNE_READ);
        fake_install(&fake, ctx);
        const doconv_conv_desc desc = fixture_problem(FAKE_PROBLEM);
        const doconv_tune_options options = {
            .size = sizeof options, .force = 1, .progress = follow, .progress_user = &p};
        doconv_tune_report *report;
        assert_int_equal(doconv_tune(ctx, &desc, NULL, &options, &report), DOCONV_OK);
        doconv_tune_report_destroy(report);
        assert_int_equal(p.done, p.total);
        assert_true(p.calls > LEAST_CLEAN);
        fake_remove(&fake, ctx);
        doconv_context_destroy(ctx);
    }
}

/* ---- the clock that all others have ---- */

static void test_system_clock(void **state)
{
    doconv_context *ctx = fixture_context(*state, "c", DOCONV_TUNE_OFF);
    assert_ptr_equal(ctx->clock, &dc_system_clock);
    const struct dc_clock *clock = ctx->clock;
    const double wall = clock->wall(clock->user), thread = clock->thread(clock->user);
    const struct timespec pause = {.tv_nsec = 30000000};
    nanosleep(&pause, NULL);
    const double slept = clock->wall(clock->user) - wall;
    assert_true(slept >= 0.029);
    /* Who sleeps has no core. */
    const double ran = clock->thread(clock->user) - thread;
    assert_true(ran >= 0.0 && ran < 0.8 * slept);
    assert_true(dc_now(ctx) >= wall + slept);
    doconv_context_destroy(ctx);
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(test_progress_ends),
        WITH_FIXTURE(test_tuned_choice),
        WITH_FIXTURE(test_revisions_of_pairs),
        WITH_FIXTURE(test_picks),
        cmocka_unit_test(test_distances),
        WITH_FIXTURE(test_few_candidates),
        WITH_FIXTURE(test_deadline),
        WITH_FIXTURE(test_deadline_of_a_busy_machine),
        WITH_FIXTURE(test_wrong_ones_are_passed_over),
        WITH_FIXTURE(test_doubtful_results),
        WITH_FIXTURE(test_failure_falls_back),
        WITH_FIXTURE(test_system_clock),
    };
    return cmocka_run_group_tests_name("measure_choice", tests, NULL, NULL);
}
