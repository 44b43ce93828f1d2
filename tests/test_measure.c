/* SPDX-License-Identifier: MIT */
/*
 * What a measurement chooses, drops and repeats, on a clock that only the candidates move: nothing
 * here depends on the machine. All of doconv_tune() is test_measure_choice.c's.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <doconv/doconv_tune.h>

#include "fake_solver.h"
#include "measure.h"
#include "tuner_fixture.h"

/* Long enough for one call to be a sample. */
#define CALL 1e-3
#define LEAST_ROUNDS 3 /* of near ones */
#define LEAST_CLEAN 2  /* of any that is dropped */

struct bench {
    doconv_context *ctx;
    struct fake fake;
    struct measure_set set;
};

/* A set of the fake's candidates, in their order: the first is the default. */
static void open_set(struct bench *b, struct fixture *f, const doconv_plan_options *options)
{
    b->ctx = fixture_context(f, "c", DOCONV_TUNE_READ);
    fake_install(&b->fake, b->ctx);
    const doconv_conv_desc desc = fixture_problem(FAKE_PROBLEM);
    struct dc_problem problem;
    assert_int_equal(dc_problem_create(b->ctx, &desc, &problem), DOCONV_OK);
    assert_int_equal(dc_measure_set_create(b->ctx, &problem, options, b->fake.count, &b->set),
                     DOCONV_OK);
    for (int i = 0; i < b->fake.count; i++) {
        char variant[DC_VARIANT_SIZE];
        snprintf(variant, sizeof variant, "fake:fake_a@none:number=%d", i);
        assert_int_equal(dc_measure_set_add(&b->set, options, variant), DOCONV_OK);
    }
}

static void close_set(struct bench *b)
{
    dc_measure_set_destroy(&b->set);
    fake_remove(&b->fake, b->ctx);
    doconv_context_destroy(b->ctx);
}

static void start(struct bench *b, const double *seconds, int count)
{
    memset(b, 0, sizeof *b);
    b->fake.kernels = 1;
    b->fake.count = count;
    for (int i = 0; i < count; i++) {
        b->fake.candidates[i].seconds = seconds[i];
    }
}

/* All of a measurement without the check; returns the confidence in the winner. */
static double measure(struct bench *b, double budget_seconds)
{
    dc_measure_set_budget(&b->set, budget_seconds);
    for (int i = 0; i < b->set.count; i++) {
        dc_measure_calibrate(&b->set, &b->set.items[i]);
    }
    dc_measure_race(&b->set, 0.0, 0.0, NULL, NULL);
    return dc_measure_finish(&b->set);
}

static int number_of(const struct measured *m)
{
    return fake_number(m->plan->candidate.text);
}

/* Where a candidate stands after the measurement. */
static const struct measured *find(const struct bench *b, int number)
{
    int i = 0;
    while (i + 1 < b->set.count && number_of(&b->set.items[i]) != number) {
        i++;
    }
    assert_int_equal(number_of(&b->set.items[i]), number);
    return &b->set.items[i];
}

/* A measurement of these times, from the start to the end; returns the winner. */
static int winner_of(struct fixture *f, const double *seconds, int count)
{
    struct bench b;
    start(&b, seconds, count);
    open_set(&b, f, NULL);
    measure(&b, 1.0);
    const int winner = number_of(&b.set.items[0]);
    close_set(&b);
    return winner;
}

/* ---- the choice ---- */

/* Whichever place the fastest has, among near ones and far ones. */
static void test_fastest_wins(void **state)
{
    static const double times[] = {1.00, 1.04, 1.06, 1.08, 1.14, 1.3, 2.0, 5.0};
    enum { COUNT = sizeof times / sizeof times[0] };
    for (int shift = 0; shift < COUNT; shift++) {
        double seconds[COUNT];
        for (int i = 0; i < COUNT; i++) {
            seconds[(i + shift) % COUNT] = CALL * times[i];
        }
        assert_int_equal(winner_of(*state, seconds, COUNT), shift);
        for (int i = 0; i < COUNT; i++) {
            seconds[(COUNT - i + shift) % COUNT] = CALL * times[i];
        }
        assert_int_equal(winner_of(*state, seconds, COUNT), shift);
    }
}

/* A gain within the noise is none: the default, which is the first, stays. */
static void test_margin(void **state)
{
    for (int fast = 1; fast < 6; fast++) {
        double seconds[6];
        for (int i = 0; i < 6; i++) {
            seconds[i] = CALL * (i == 0 ? 1.0 : 1.004);
        }
        seconds[fast] = CALL * 0.995;
        assert_int_equal(winner_of(*state, seconds, 6), 0);
        seconds[fast] = CALL * 0.97;
        assert_int_equal(winner_of(*state, seconds, 6), fast);
        /* It stays where it is no finalist by itself, too: each of the others is faster. */
        for (int i = 1; i < 6; i++) {
            seconds[i] = CALL * (0.995 - 1e-4 * i);
        }
        assert_int_equal(winner_of(*state, seconds, 6), 0);
    }
}

/* Behind the winner, by their medians, which are those of the calls. */
static void test_order_and_medians(void **state)
{
    static const double times[] = {1.3, 1.0, 1.1, 1.7, 1.05, 9.0};
    static const int order[] = {1, 4, 2, 0, 3, 5};
    struct bench b;
    double seconds[6];
    for (int i = 0; i < 6; i++) {
        seconds[i] = CALL * times[i];
    }
    start(&b, seconds, 6);
    open_set(&b, *state, NULL);
    measure(&b, 1.0);
    for (int i = 0; i < 6; i++) {
        const struct measured *m = &b.set.items[i];
        assert_int_equal(number_of(m), order[i]);
        assert_true(fabs(m->median / seconds[order[i]] - 1.0) < 1e-9);
        assert_true(m->spread >= 0.0 && m->spread < 1e-9);
        assert_int_equal(m->is_default, order[i] == 0);
    }
    close_set(&b);
}

/*
 * Candidate 2 was settled behind another; it leads again if it turns out clearly faster than the
 * leader of now in the rounds that both were in, of which there must be enough.
 */
static void test_settled_ones_come_back(void **state)
{
    static const struct {
        double factor; /* of the leader's time */
        int rounds, winner;
    } rows[] = {{0.98, 3, 2}, {0.98, 2, 1}, {0.996, 3, 1}, {0.994, 3, 2}, {1.02, 3, 1}};
    static const double seconds[] = {1.1 * CALL, CALL, CALL};
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct bench b;
        start(&b, seconds, 3);
        open_set(&b, *state, NULL);
        for (int i = 0; i < 3; i++) {
            struct measured *m = &b.set.items[i];
            m->rounds = m->clean_rounds = i == 2 ? rows[r].rounds : 5;
            for (int round = 0; round < m->rounds; round++) {
                m->samples[round] = seconds[i] * (i == 2 ? rows[r].factor : 1.0);
                m->clean[round] = true;
            }
        }
        b.set.items[2].state = MEASURED_SETTLED;
        dc_measure_finish(&b.set);
        assert_int_equal(number_of(&b.set.items[0]), rows[r].winner);
        close_set(&b);
    }
}

/* ---- what is dropped ---- */

/*
 * Nobody is dropped before two clean samples, however far behind; those that are near stay for as
 * long as it takes to tell that it makes no difference.
 */
static void test_far_ones_are_dropped(void **state)
{
    static const double times[] = {1.0, 1.005, 1.01, 1.018, 1.05, 1.25, 1.6, 2.8, 3.2, 50.0};
    enum { COUNT = sizeof times / sizeof times[0], FAR = 4 };
    double seconds[COUNT];
    struct bench b;
    for (int i = 0; i < COUNT; i++) {
        seconds[i] = CALL * times[i];
    }
    start(&b, seconds, COUNT);
    open_set(&b, *state, NULL);
    assert_true(measure(&b, 1.0) >= 0.9);
    for (int i = 0; i < COUNT; i++) {
        const struct measured *m = find(&b, i);
        assert_int_equal(m->state == MEASURED_SLOWER, i >= FAR);
        /* A first call is a sample where it is long, else the second is. */
        assert_int_equal(b.fake.candidates[i].calls, m->rounds + (seconds[i] < 20e-3));
        assert_int_equal(m->clean_rounds, m->rounds);
        if (i >= FAR) {
            assert_int_equal(m->rounds, LEAST_CLEAN);
        } else {
            assert_true(m->rounds >= LEAST_ROUNDS);
        }
    }
    close_set(&b);
}

/* Candidate 1 is the fastest; another process has the core during one of its calls. */
static int stolen_call;
static double lose_one_call(const struct fake *fake, int candidate, int call)
{
    return fake->candidates[candidate].seconds *
           (candidate == 1 && call == stolen_call ? 15.0 : 1.0);
}

static void test_one_slow_sample_costs_nothing(void **state)
{
    static const double seconds[] = {1.2 * CALL, CALL, 1.1 * CALL, 1.12 * CALL, 1.14 * CALL};
    for (stolen_call = 0; stolen_call < 12; stolen_call++) {
        struct bench b;
        start(&b, seconds, 5);
        b.fake.seconds = lose_one_call;
        open_set(&b, *state, NULL);
        measure(&b, 1.0);
        assert_int_equal(number_of(&b.set.items[0]), 1);
        assert_int_equal(b.set.items[0].state, MEASURED_RACING);
        close_set(&b);
    }
}

/* Another process has the core for a while in some calls: the thread's own time leaves that out. */
struct thief {
    struct fake *fake;
    int every; /* which calls */
    int calls;
};

static void steal(void *user)
{
    struct thief *t = user;
    if (t->calls++ % t->every == 0) {
        t->fake->now += 3.0 * CALL;
        t->fake->switches++;
    }
}

/* Samples that lost the core are taken again: they neither cost a candidate its place nor count. */
static void test_lost_samples(void **state)
{
    static const double seconds[] = {1.05 * CALL, CALL, 1.02 * CALL, 1.1 * CALL};
    for (int threads = 1; threads <= 2; threads++) {
        for (int every = 2; every <= 5; every++) {
            struct bench b;
            start(&b, seconds, 4);
            struct thief thief = {&b.fake, every, 0};
            b.fake.called = steal;
            b.fake.user = &thief;
            open_set(&b, *state, NULL);
            b.ctx->threads = threads;
            measure(&b, 1.0);
            b.ctx->threads = 1;
            assert_int_equal(number_of(&b.set.items[0]), 1);
            for (int i = 0; i < 4; i++) {
                const struct measured *m = find(&b, i);
                assert_true(fabs(m->median / seconds[i] - 1.0) < 1e-6);
                assert_true(m->spread < 1e-6);
                assert_int_equal(m->clean_rounds, m->rounds);
            }
            close_set(&b);
        }
    }
}

/* Where none keeps the core, the measurement ends all the same. */
static void test_always_lost(void **state)
{
    static const double seconds[] = {1.5 * CALL, CALL};
    struct bench b;
    start(&b, seconds, 2);
    struct thief thief = {&b.fake, 1, 0};
    b.fake.called = steal;
    b.fake.user = &thief;
    open_set(&b, *state, NULL);
    measure(&b, 1.0);
    assert_int_equal(number_of(&b.set.items[0]), 1);
    for (int i = 0; i < 2; i++) {
        const struct measured *m = find(&b, i);
        /* Four tries a sample, each behind a call that isn't timed. */
        assert_true(b.fake.candidates[i].calls <= 8 * (m->rounds + 1));
        /* By the thread's own time; clean it is not, and nobody is dropped for such. */
        assert_true(fabs(m->median / seconds[i] - 1.0) < 1e-6);
        assert_int_equal(m->clean_rounds, 0);
        assert_true(m->retaken >= m->rounds);
        assert_int_not_equal(m->state, MEASURED_SLOWER);
    }
    close_set(&b);
}

/* One call of candidate 3 seems to take no time: the others are not behind for that. */
static double one_lucky_call(const struct fake *fake, int candidate, int call)
{
    return fake->candidates[candidate].seconds *
           (candidate == 3 && call == stolen_call ? 0.1 : 1.0);
}

static void test_one_fast_sample_wins_nothing(void **state)
{
    static const double seconds[] = {1.2 * CALL, CALL, 1.1 * CALL, 1.12 * CALL, 1.14 * CALL};
    /* From the third on: the first two are the calibration's, of which the faster counts. */
    for (stolen_call = 2; stolen_call < 12; stolen_call++) {
        struct bench b;
        start(&b, seconds, 5);
        b.fake.seconds = one_lucky_call;
        open_set(&b, *state, NULL);
        measure(&b, 1.0);
        assert_int_equal(number_of(&b.set.items[0]), 1);
        close_set(&b);
    }
}

/* A clock that drifts (each call of any candidate is slower than that before) moves all alike. */
static double drift(const struct fake *fake, int candidate, int call)
{
    (void)call;
    return fake->candidates[candidate].seconds * (1.0 + 20.0 * fake->now);
}

static void test_drift(void **state)
{
    for (int fast = 0; fast < 3; fast++) {
        double seconds[] = {CALL, CALL, CALL};
        seconds[fast] *= 0.9;
        struct bench b;
        start(&b, seconds, 3);
        b.fake.seconds = drift;
        open_set(&b, *state, NULL);
        assert_true(measure(&b, 1.0) > 0.9);
        assert_int_equal(number_of(&b.set.items[0]), fast);
        /* Side by side, however far the clock has gone meanwhile. */
        assert_true(fabs(b.set.items[2].median / b.set.items[0].median * 0.9 - 1.0) < 0.05);
        close_set(&b);
    }
}

/*
 * Every second round all run at half the speed: candidate 1 is faster in each round, and has more
 * slow samples than fast ones. Medians of each alone would have it behind.
 */
static double slow_rounds(const struct fake *fake, int candidate, int call)
{
    return fake->candidates[candidate].seconds * (call % 2 != 0 ? 2.0 : 1.0) *
           (candidate == 1 && call % 4 == 0 ? 1.2 : 1.0);
}

static void test_pairs_decide(void **state)
{
    static const double seconds[] = {40e-3, 37e-3};
    struct bench b;
    start(&b, seconds, 2);
    b.fake.seconds = slow_rounds;
    open_set(&b, *state, NULL);
    measure(&b, 3.0);
    assert_int_equal(number_of(&b.set.items[0]), 1);
    close_set(&b);
}

/* Candidate 1 is now faster, now slower than the others: no number of rounds tells. */
static double undecided(const struct fake *fake, int candidate, int call)
{
    static const double factors[] = {1.0, 1.5, 0.7, 1.25, 0.8};
    return fake->candidates[candidate].seconds * (candidate == 1 ? factors[call % 5] : 1.0);
}

static void test_spread(void **state)
{
    /* Too long for a call that isn't timed before each sample: all are samples. */
    static const double seconds[] = {5.0 * CALL, 3.0 * CALL};
    struct bench b;
    start(&b, seconds, 2);
    b.fake.seconds = undecided;
    open_set(&b, *state, NULL);
    measure(&b, 1.0);
    assert_true(find(&b, 1)->spread > 0.05);
    assert_true(fabs(find(&b, 1)->median - 3.0 * CALL) < 0.8 * CALL);
    close_set(&b);
    start(&b, seconds + 1, 1); /* alone, and even */
    open_set(&b, *state, NULL);
    assert_true(measure(&b, 1.0) == 1.0);
    assert_true(b.set.items[0].spread < 1e-9);
    close_set(&b);
}

/* ---- how long and how often ---- */

/* A sample of short calls has many of them, so that the clock vanishes in it. */
static void test_repeats(void **state)
{
    static const struct {
        double seconds;
        int repeats;
    } rows[] = {{1e-9, 1000}, {1e-7, 1000}, {1.01e-6, 199}, {30e-6, 7}, {199e-6, 2}, {201e-6, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct bench b;
        start(&b, &rows[i].seconds, 1);
        open_set(&b, *state, NULL);
        measure(&b, 1.0);
        assert_int_equal(b.set.items[0].repeats, rows[i].repeats);
        assert_true(fabs(b.set.items[0].median / rows[i].seconds - 1.0) < 1e-6);
        /* Where one call is a sample, the second call was. */
        const int rounds = b.set.items[0].rounds - (rows[i].repeats == 1);
        assert_int_equal(b.fake.candidates[0].calls, 2 + rounds * (rows[i].repeats + 1));
        close_set(&b);
    }
}

/* A short call takes twice as long where another candidate's weights have pushed its own out. */
static int last_candidate;
static double cold_after_others(const struct fake *fake, int candidate, int call)
{
    (void)call;
    const bool cold = candidate != last_candidate;
    last_candidate = candidate;
    return fake->candidates[candidate].seconds * (cold ? 2.0 : 1.0);
}

static void test_own_weights_come_back(void **state)
{
    static const double seconds[] = {0.3 * CALL, 0.25 * CALL, 0.28 * CALL};
    struct bench b;
    start(&b, seconds, 3);
    last_candidate = -1;
    b.fake.seconds = cold_after_others;
    open_set(&b, *state, NULL);
    measure(&b, 1.0);
    assert_int_equal(number_of(&b.set.items[0]), 1);
    for (int i = 0; i < 3; i++) {
        assert_true(fabs(find(&b, i)->median / seconds[i] - 1.0) < 1e-6);
    }
    close_set(&b);
}

/* Long calls are not short for having small weights; large ones take their time to come back. */
static void test_large_weights_come_back(void **state)
{
    static const double seconds[] = {3.0 * CALL, 2.5 * CALL, 2.8 * CALL};
    for (int large = 0; large <= 1; large++) {
        struct bench b;
        start(&b, seconds, 3);
        last_candidate = -1;
        b.fake.seconds = cold_after_others;
        open_set(&b, *state, NULL);
        for (int i = 0; i < 3; i++) {
            b.set.items[i].plan->candidate.packed_size = large != 0 ? 16 << 20 : 8 << 20;
        }
        measure(&b, 1.0);
        assert_int_equal(number_of(&b.set.items[0]), 1);
        for (int i = 0; i < 3; i++) {
            const struct measured *m = find(&b, i);
            /* The calibration's calls: the second is a sample. */
            const int calls = large != 0 ? 2 * m->rounds : m->rounds + 1;
            assert_int_equal(b.fake.candidates[i].calls, calls);
            assert_true(large == 0 || fabs(m->median / seconds[i] - 1.0) < 1e-6);
        }
        close_set(&b);
    }
}

/* Who had the core left the caches full of its own: the next call takes twice as long. */
static int calls_until_dirty; /* 0: clean; 1: the next call is the slow one */
static void steal_caches(void *user)
{
    struct thief *t = user;
    const bool steals = t->calls % t->every == 0;
    steal(user);
    calls_until_dirty = steals ? 2 : calls_until_dirty;
}

static double dirty_after_theft(const struct fake *fake, int candidate, int call)
{
    (void)call;
    const bool dirty = calls_until_dirty == 1;
    calls_until_dirty -= calls_until_dirty > 0;
    return fake->candidates[candidate].seconds * (dirty ? 2.0 : 1.0);
}

static void test_caches_come_back(void **state)
{
    static const double seconds[] = {0.3 * CALL, 0.25 * CALL, 0.28 * CALL};
    for (int every = 3; every <= 7; every += 2) {
        struct bench b;
        start(&b, seconds, 3);
        struct thief thief = {&b.fake, every, 1};
        calls_until_dirty = 0;
        b.fake.called = steal_caches;
        b.fake.user = &thief;
        b.fake.seconds = dirty_after_theft;
        open_set(&b, *state, NULL);
        measure(&b, 1.0);
        assert_int_equal(number_of(&b.set.items[0]), 1);
        assert_true(fabs(b.set.items[0].median / seconds[1] - 1.0) < 1e-6);
        close_set(&b);
    }
}

/* The first call pays for what only first calls do. */
static double slow_at_first(const struct fake *fake, int candidate, int call)
{
    return fake->candidates[candidate].seconds * (call == 0 ? 8.0 : 1.0);
}

static void test_first_call_is_forgotten(void **state)
{
    static const double seconds[] = {50e-6, 41e-6};
    struct bench b;
    start(&b, seconds, 2);
    b.fake.seconds = slow_at_first;
    open_set(&b, *state, NULL);
    measure(&b, 1.0);
    assert_int_equal(number_of(&b.set.items[0]), 1);
    assert_int_equal(b.set.items[0].repeats, 5);
    assert_true(fabs(b.set.items[0].once - 41e-6) < 1e-9);
    close_set(&b);
}

/* Of calls that take long, the first is enough; the race ends with the budget. */
static void test_long_calls(void **state)
{
    static const double seconds[] = {0.05, 0.04, 0.3};
    struct bench b;
    start(&b, seconds, 3);
    open_set(&b, *state, NULL);
    measure(&b, 0.6);
    assert_int_equal(number_of(&b.set.items[0]), 1);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(b.fake.candidates[i].calls, find(&b, i)->rounds);
        assert_in_range(find(&b, i)->rounds, 1, 3);
    }
    assert_true(b.fake.now <= 0.6 + 0.3);
    close_set(&b);
}

/* Rounds go on while the budget lasts, and no longer. */
static void test_budget(void **state)
{
    static const double seconds[] = {3.0 * CALL, 3.0 * CALL, 3.0 * CALL};
    int before = 0;
    for (double budget = 0.02; budget < 1.5; budget *= 4.0) {
        struct bench b;
        start(&b, seconds, 3);
        b.fake.seconds = undecided;
        open_set(&b, *state, NULL);
        assert_true(measure(&b, budget) < 0.75);
        assert_true(b.fake.now <= budget + 4.2 * CALL);
        assert_true(b.fake.now >= fmin(budget, 0.18)); /* a race has an end, too */
        assert_true(b.set.items[0].rounds > before || before >= 30);
        before = b.set.items[0].rounds;
        for (int i = 0; i < 3; i++) {
            assert_int_equal(b.set.items[i].state == MEASURED_SLOWER, false);
        }
        close_set(&b);
    }
}

/* What others take of the time is not counted, up to as much again. */
static void test_lost_time(void **state)
{
    static const double seconds[] = {3.0 * CALL, 3.0 * CALL};
    for (int threads = 1; threads <= 2; threads++) {
        struct bench b;
        start(&b, seconds, 2);
        b.fake.seconds = undecided;
        struct thief thief = {&b.fake, 1, 0};
        b.fake.called = steal;
        b.fake.user = &thief;
        open_set(&b, *state, NULL);
        b.ctx->threads = threads;
        measure(&b, 0.1);
        b.ctx->threads = 1;
        assert_true(b.fake.now >= 0.19);
        assert_true(b.fake.now <= 0.2 + 8.0 * CALL);
        close_set(&b);
    }
}

/* ---- cold weights ---- */

enum { COLD_THREADS = 8 };

struct cold {
    struct bench bench;
    char seen[2 * COLD_THREADS]; /* the first and last line of each thread's part */
    int calls, warm;
};

/* Flushing takes a second: none of it may be counted. The candidates' own tasks are fewer. */
static void run_slowly(void *user, int count, void (*task)(void *arg, int index), void *arg)
{
    struct cold *c = user;
    for (int i = 0; i < count; i++) {
        task(arg, i);
    }
    c->bench.fake.now += count == COLD_THREADS ? 1.0 : 0.0;
}

static void look_at_flush(void *user)
{
    struct cold *c = user;
    const struct measure_set *set = &c->bench.set;
    const size_t part = set->flush_bytes / COLD_THREADS;
    bool flushed = true;
    for (int i = 0; i < 2 * COLD_THREADS; i++) {
        const char now = set->flush[part * (size_t)(i / 2) + (i % 2 != 0 ? part - 64 : 0)];
        flushed = flushed && now != c->seen[i];
        c->seen[i] = now;
    }
    c->calls++;
    c->warm += !flushed;
}

/* Before every call the caches are filled with something else, on every thread. */
static void test_cold_flush(void **state)
{
    static const double seconds[] = {20e-6, 15e-6};
    const doconv_plan_options options = {.size = sizeof options, .cold_weights = 1};
    const struct dc_cpu *cpu = dc_cpu_probe();
    struct cold c = {.warm = 0};
    start(&c.bench, seconds, 2);
    c.bench.fake.called = look_at_flush;
    c.bench.fake.user = &c;
    open_set(&c.bench, *state, &options);
    assert_true(c.bench.set.cold);
    const double caches = (double)cpu->l3_bytes + (double)cpu->l2_bytes;
    assert_true((double)c.bench.set.flush_bytes >= fmin(caches, (double)((size_t)1 << 28)));
    assert_int_equal(c.bench.set.flush != NULL, c.bench.set.evict == NULL);
    /* Less is enough to see it. */
    struct measure_set *set = &c.bench.set;
    set->evict = NULL;
    set->flush_bytes = (size_t)COLD_THREADS * 4096;
    dc_free(c.bench.ctx, set->flush);
    set->flush = dc_alloc(c.bench.ctx, set->flush_bytes);
    assert_non_null(set->flush);
    memset(set->flush, 1, set->flush_bytes);
    memset(c.seen, 1, sizeof c.seen);
    c.bench.ctx->threads = COLD_THREADS;
    c.bench.ctx->parallel_for = run_slowly;
    c.bench.ctx->parallel_for_user = &c;
    measure(&c.bench, 1000.0); /* which counts all that flushing takes */
    assert_int_equal(number_of(&c.bench.set.items[0]), 1);
    assert_true(c.calls > 2 * LEAST_CLEAN);
    assert_int_equal(c.warm, 0);
    for (int i = 0; i < 2; i++) {
        const struct measured *m = find(&c.bench, i);
        /* Few calls a sample: each flush costs more than they do. */
        assert_int_equal(m->repeats, 3);
        assert_true(fabs(m->median / seconds[i] - 1.0) < 1e-6);
    }
    c.bench.ctx->threads = 1;
    close_set(&c.bench);
}

/* What was evicted since the last call: packed weights, the weight, anything else. */
static struct eviction {
    struct bench bench;
    int packed, weight, others;
    int calls, warm;
} eviction;

static void note_eviction(const void *memory, size_t bytes)
{
    const struct measure_set *set = &eviction.bench.set;
    const struct measured *m = &set->items[0]; /* whose weights the others have, too */
    if (memory == m->weights->data) {
        eviction.packed += bytes >= m->plan->candidate.packed_size;
    } else if (memory == set->tensors[MEASURE_WEIGHT]) {
        eviction.weight += bytes >= set->bytes[MEASURE_WEIGHT];
    } else {
        eviction.others++;
    }
    eviction.bench.fake.now += 1.0; /* may not be counted */
}

static void look_at_eviction(void *user)
{
    struct eviction *e = user;
    e->calls++;
    e->warm += e->packed != 1 || e->weight != 1 || e->others != 0;
    e->packed = e->weight = e->others = 0;
}

/* Before every call its weights leave the caches, and neither src nor dst. */
static void test_cold_eviction(void **state)
{
    static const double seconds[] = {20e-6, 5e-6};
    static const int repeats[] = {10, 16};
    const doconv_plan_options options = {.size = sizeof options, .cold_weights = 1};
    struct eviction *e = &eviction;
    memset(e, 0, sizeof *e);
    start(&e->bench, seconds, 2);
    e->bench.fake.called = look_at_eviction;
    e->bench.fake.user = e;
    open_set(&e->bench, *state, &options);
    e->bench.set.evict = note_eviction;
    measure(&e->bench, 10000.0);
    assert_int_equal(number_of(&e->bench.set.items[0]), 1);
    assert_true(e->calls > 2 * LEAST_CLEAN);
    assert_int_equal(e->warm, 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(find(&e->bench, i)->repeats, repeats[i]);
        assert_true(fabs(find(&e->bench, i)->median / seconds[i] - 1.0) < 1e-6);
    }
    close_set(&e->bench);
}

/* The machine's own: memory of any place and size is as it was. */
static void test_evicted_memory_stays(void **state)
{
    (void)state;
    dc_evict_fn *evict = dc_find_evict();
    unsigned char bytes[1000];
    for (size_t from = 0; evict != NULL && from < 200; from += 13) {
        for (size_t count = 0; count <= 800; count += 40) {
            for (size_t i = 0; i < sizeof bytes; i++) {
                bytes[i] = (unsigned char)(i * 7 + count);
            }
            evict(bytes + from, count);
            for (size_t i = 0; i < sizeof bytes; i++) {
                assert_int_equal(bytes[i], (unsigned char)(i * 7 + count));
            }
        }
    }
}

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(test_fastest_wins),
        WITH_FIXTURE(test_margin),
        WITH_FIXTURE(test_order_and_medians),
        WITH_FIXTURE(test_settled_ones_come_back),
        WITH_FIXTURE(test_far_ones_are_dropped),
        WITH_FIXTURE(test_one_slow_sample_costs_nothing),
        WITH_FIXTURE(test_lost_samples),
        WITH_FIXTURE(test_always_lost),
        WITH_FIXTURE(test_one_fast_sample_wins_nothing),
        WITH_FIXTURE(test_drift),
        WITH_FIXTURE(test_pairs_decide),
        WITH_FIXTURE(test_spread),
        WITH_FIXTURE(test_repeats),
        WITH_FIXTURE(test_own_weights_come_back),
        WITH_FIXTURE(test_large_weights_come_back),
        WITH_FIXTURE(test_caches_come_back),
        WITH_FIXTURE(test_first_call_is_forgotten),
        WITH_FIXTURE(test_long_calls),
        WITH_FIXTURE(test_budget),
        WITH_FIXTURE(test_lost_time),
        WITH_FIXTURE(test_cold_flush),
        WITH_FIXTURE(test_cold_eviction),
        cmocka_unit_test(test_evicted_memory_stays),
    };
    return cmocka_run_group_tests_name("measure", tests, NULL, NULL);
}
