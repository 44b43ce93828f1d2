/* SPDX-License-Identifier: MIT */
/*
 * Whole networks: what is measured in which mode, deadlines and cancelling, what is chosen and what
 * is refused, on a clock that only the candidates move.
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
#include "tuner_fixture.h"

#define CALL 1e-3
#define MOST_LAYERS 8

/* A network by the texts of its problems; without inputs it is a chain. */
struct net {
    int count;
    doconv_conv_desc descs[MOST_LAYERS];
    doconv_network_layer layers[MOST_LAYERS];
};

static void add_layer(struct net *net, const char *name, const char *text)
{
    net->descs[net->count] = fixture_problem(text);
    net->layers[net->count] = (doconv_network_layer){
        .size = sizeof net->layers[0], .name = name, .desc = &net->descs[net->count]};
    net->count++;
}

/* Two equal layers and another one between, of 16 channels: 2 problems. */
static void make_chain(struct net *net)
{
    net->count = 0;
    add_layer(net, "a", "mb1_ic16ih3oc16kh1");
    add_layer(net, "b", "mb1_ic16ih3oc16kh1:relu");
    add_layer(net, "c", "mb1_ic16ih3oc16kh1");
}

static doconv_network_options make_options(doconv_tune_mode mode)
{
    return (doconv_network_options){
        .size = sizeof(doconv_network_options),
        .mode = mode,
        .layouts = 1u << DOCONV_NHWC | 1u << DOCONV_NCHW16C,
    };
}

static doconv_network_plan *tune(doconv_context *ctx, const struct net *net,
                                 const doconv_network_options *options)
{
    doconv_network_plan *plan;
    assert_int_equal(doconv_tune_network(ctx, net->layers, net->count, options, &plan), DOCONV_OK);
    assert_int_equal(doconv_network_plan_count(plan), net->count);
    return plan;
}

static doconv_network_total total_of(const doconv_network_plan *plan)
{
    doconv_network_total total = {.size = sizeof total};
    assert_int_equal(doconv_network_plan_total(plan, &total), DOCONV_OK);
    return total;
}

static doconv_network_choice choice_of(const doconv_network_plan *plan, int index)
{
    doconv_network_choice choice = {.size = sizeof choice};
    assert_int_equal(doconv_network_plan_get(plan, index, &choice), DOCONV_OK);
    return choice;
}

static doconv_network_reorder reorder_of(const doconv_network_plan *plan, int index)
{
    doconv_network_reorder reorder = {.size = sizeof reorder};
    assert_int_equal(doconv_network_plan_get_reorder(plan, index, &reorder), DOCONV_OK);
    return reorder;
}

static void assert_layouts(const doconv_network_plan *plan, int index, doconv_layout src,
                           doconv_layout dst)
{
    const doconv_network_choice choice = choice_of(plan, index);
    assert_int_equal(choice.desc->src_layout, src);
    assert_int_equal(choice.desc->dst_layout, dst);
}

static void assert_near(double seen, double expected)
{
    assert_true(fabs(seen - expected) <= 1e-6 * expected);
}

/* ---- times by layout ---- */

static double pair_seconds[4][4];

static double by_layouts(const struct fake *fake, int candidate, int call)
{
    (void)call;
    const doconv_conv_desc *d = &fake->problem->desc;
    /* The first candidate, which is the estimate's, is the slower one. */
    return pair_seconds[d->src_layout][d->dst_layout] * (candidate == 0 ? 1.5 : 1.0);
}

struct bench {
    doconv_context *ctx;
    struct fake fake;
};

static void open_bench(struct bench *b, struct fixture *f, const char *cache, doconv_tune_mode mode)
{
    memset(b, 0, sizeof *b);
    b->fake.kernels = 1;
    b->fake.count = 2;
    b->fake.seconds = by_layouts;
    for (int i = 0; i < 16; i++) {
        pair_seconds[i / 4][i % 4] = 4 * CALL;
    }
    b->ctx = fixture_context(f, cache, mode);
    fake_install(&b->fake, b->ctx);
}

static void close_bench(struct bench *b)
{
    fake_remove(&b->fake, b->ctx);
    doconv_context_destroy(b->ctx);
}

static int calls_of(const struct bench *b)
{
    return b->fake.candidates[0].calls + b->fake.candidates[1].calls;
}

/* ---- what is measured ---- */

static void assert_origins(const doconv_network_plan *plan, const char *origin)
{
    for (int i = 0; i < doconv_network_plan_count(plan); i++) {
        assert_string_equal(choice_of(plan, i).origin, origin);
    }
}

static void test_modes(void **state)
{
    struct bench b;
    struct net net;
    make_chain(&net);
    open_bench(&b, *state, "c", DOCONV_TUNE_READ);
    doconv_network_options options = make_options(DOCONV_TUNE_OFF);
    doconv_network_plan *plan = tune(b.ctx, &net, &options);
    assert_origins(plan, "estimate");
    assert_int_equal(total_of(plan).estimated, 3);
    doconv_network_plan_destroy(plan);
    plan = tune(b.ctx, &net, NULL); /* as the context: read */
    assert_origins(plan, "estimate");
    doconv_network_plan_destroy(plan);
    options.mode = DOCONV_TUNE_ONLY;
    assert_int_equal(doconv_tune_network(b.ctx, net.layers, 3, &options, &plan), DOCONV_NOT_FOUND);
    assert_null(plan);
    assert_int_equal(calls_of(&b), 0);

    /* Measured: equal layers once; what no path wants, and copies, perhaps not. */
    options.mode = DOCONV_TUNE_TUNE;
    plan = tune(b.ctx, &net, &options);
    assert_origins(plan, "measured");
    doconv_network_total total = total_of(plan);
    assert_in_range(total.measured, 4, 8);
    assert_int_equal(total.estimated, 0);
    assert_int_equal(total.exact, 1);
    assert_near(total.seconds, 12 * CALL);
    assert_near(total.single_seconds[DOCONV_NHWC], 12 * CALL);
    assert_near(total.single_seconds[DOCONV_NCHW16C], 12 * CALL);
    assert_true(total.single_seconds[DOCONV_NCHW] == 0.0);
    assert_int_equal(fake_number(choice_of(plan, 0).variant), 1);
    doconv_network_plan_destroy(plan);

    /* Known. */
    const int calls = calls_of(&b);
    static const doconv_tune_mode known[] = {DOCONV_TUNE_TUNE, DOCONV_TUNE_READ, DOCONV_TUNE_ONLY};
    for (int i = 0; i < 3; i++) {
        options.mode = known[i];
        plan = tune(b.ctx, &net, &options);
        assert_origins(plan, "cache");
        assert_int_equal(total_of(plan).measured, 0);
        assert_near(total_of(plan).seconds, 12 * CALL);
        doconv_network_plan_destroy(plan);
        assert_int_equal(calls_of(&b), calls);
    }
    options.mode = DOCONV_TUNE_FORCE;
    plan = tune(b.ctx, &net, &options);
    assert_origins(plan, "measured");
    assert_in_range(total_of(plan).measured, 4, 8);
    assert_true(calls_of(&b) > calls);
    doconv_network_plan_destroy(plan);
    close_bench(&b);
}

/* Nothing is measured after the deadline, and what is not is estimated by what is. */
static void test_deadline(void **state)
{
    struct bench b;
    struct net net;
    make_chain(&net);
    doconv_network_options options = make_options(DOCONV_TUNE_TUNE);
    double before = 0.0;
    int measured_before = -1;
    static const double budgets[] = {1e-4, 0.4, 1.0, 100.0};
    for (int i = 0; i < 4; i++) {
        char cache[16];
        snprintf(cache, sizeof cache, "c%d", i);
        open_bench(&b, *state, cache, DOCONV_TUNE_READ);
        options.budget_seconds = budgets[i];
        doconv_network_plan *plan = tune(b.ctx, &net, &options);
        const doconv_network_total total = total_of(plan);
        assert_true(b.fake.now >= before);
        assert_true(total.measured >= measured_before);
        assert_true(total.measured > 0);
        if (i == 0) {
            /* One problem. The estimate of all others is corrected by it. */
            assert_int_equal(total.measured, 1);
            assert_in_range(total.estimated, 1, 2);
            assert_near(total.seconds, 12 * CALL);
        }
        before = b.fake.now;
        measured_before = total.measured;
        doconv_network_plan_destroy(plan);
        close_bench(&b);
    }
    assert_in_range(measured_before, 4, 8);
}

struct watch {
    int asked, most, told, done, total;
};

static int cancel_after(void *user)
{
    struct watch *w = user;
    return w->asked++ >= w->most;
}

static void tell(void *user, int done, int total)
{
    struct watch *w = user;
    assert_true(done >= w->done && done <= total);
    w->told++;
    w->done = done;
    w->total = total;
}

static void test_cancel_and_progress(void **state)
{
    struct bench b;
    struct net net;
    make_chain(&net);
    for (int most = 0; most < 4; most++) {
        char cache[16];
        snprintf(cache, sizeof cache, "c%d", most);
        struct watch watch = {.most = most};
        open_bench(&b, *state, cache, DOCONV_TUNE_READ);
        doconv_network_options options = make_options(DOCONV_TUNE_TUNE);
        options.cancel = cancel_after;
        options.cancel_user = &watch;
        options.progress = tell;
        options.progress_user = &watch;
        doconv_network_plan *plan = tune(b.ctx, &net, &options);
        assert_int_equal(total_of(plan).measured, most);
        assert_int_equal(watch.told, most + 2);
        assert_int_equal(watch.done, most);
        assert_int_equal(watch.total, most);
        doconv_network_plan_destroy(plan);
        close_bench(&b);
    }
}

/* What is measured and wrong, or can't be, is estimated. */
static void test_failing_measurement(void **state)
{
    struct bench b;
    struct net net;
    make_chain(&net);
    open_bench(&b, *state, "c", DOCONV_TUNE_READ);
    b.fake.candidates[0].wrong = b.fake.candidates[1].wrong = true;
    const doconv_network_options options = make_options(DOCONV_TUNE_TUNE);
    doconv_network_plan *plan = tune(b.ctx, &net, &options);
    assert_origins(plan, "estimate");
    assert_int_equal(total_of(plan).measured, 0);
    doconv_network_plan_destroy(plan);
    close_bench(&b);
}

/* ---- what is chosen ---- */

/* Puts the time of a pair of layouts into the cache. */
static void tune_pair(doconv_context *ctx, doconv_conv_desc desc, doconv_layout src,
                      doconv_layout dst)
{
    const doconv_plan_options cold = {.size = sizeof cold, .cold_weights = 1};
    desc.src_layout = src;
    desc.dst_layout = dst;
    doconv_tune_report_destroy(fixture_tune(ctx, &desc, &cold, false));
}

/*
 * The fastest pair of layouts is a mixed one, which the cache knows: the copies, which take no time
 * here, are made.
 */
static void test_mixture(void **state)
{
    struct bench b;
    struct net net;
    make_chain(&net);
    const doconv_layout nchw = DOCONV_NCHW;
    open_bench(&b, *state, "c", DOCONV_TUNE_READ);
    pair_seconds[DOCONV_NHWC][DOCONV_NCHW16C] = CALL;
    doconv_network_options options = make_options(DOCONV_TUNE_TUNE);
    options.input_layout = &nchw;
    options.output_layout = &nchw;
    tune_pair(b.ctx, net.descs[0], DOCONV_NHWC, DOCONV_NCHW16C);
    tune_pair(b.ctx, net.descs[1], DOCONV_NHWC, DOCONV_NCHW16C);
    doconv_network_plan *plan = tune(b.ctx, &net, &options);
    const doconv_network_total total = total_of(plan);
    assert_near(total.seconds, 3 * CALL);
    assert_near(total.single_seconds[DOCONV_NHWC], 12 * CALL);
    const doconv_layout nhwc = DOCONV_NHWC, blocked = DOCONV_NCHW16C;
    static const int ends[4][2] = {{-1, 0}, {0, 1}, {1, 2}, {2, 3}};
    assert_int_equal(doconv_network_plan_reorder_count(plan), 4);
    for (int i = 0; i < 4; i++) {
        const doconv_network_reorder r = reorder_of(plan, i);
        assert_int_equal(r.producer, ends[i][0]);
        assert_int_equal(r.consumer, ends[i][1]);
        assert_int_equal(r.input, 0);
        assert_int_equal(r.from, i == 0 ? nchw : blocked);
        assert_int_equal(r.to, i == 3 ? nchw : nhwc);
        assert_true(r.n == 1 && r.c == 16 && r.h == 3 && r.w == 3);
        assert_int_equal(r.reused, 0);
        assert_int_equal(r.estimated, 0);
        if (i < 3) {
            assert_layouts(plan, i, nhwc, blocked);
        }
    }
    doconv_network_plan_destroy(plan);
    close_bench(&b);
}

/* Layouts that are fixed, few channels, a pool between, a residual, channels that are joined. */
static void test_edges(void **state)
{
    struct bench b;
    struct net net = {0};
    static const int inputs[] = {1, 2}, first[] = {0};
    add_layer(&net, NULL, "mb1_ic3ih8oc16kh3ph1");
    add_layer(&net, NULL, "mb1_ic16ih4oc16kh3ph1");       /* behind a pool */
    add_layer(&net, NULL, "mb1_ic16ih4oc8kh3ph1");        /* of the same */
    add_layer(&net, NULL, "mb1_ic24ih4oc16kh1:residual"); /* both, and what the pool made */
    add_layer(&net, NULL, "mb1_ic16ih4oc16kh1:src=nchw,dst=nchw");
    net.layers[2].inputs = first;
    net.layers[2].input_count = 1;
    net.layers[3].inputs = inputs;
    net.layers[3].input_count = 2;
    net.layers[3].residual = 0;
    net.layers[4].fixed_src = 1;
    net.layers[4].fixed_dst = 1;
    open_bench(&b, *state, "c", DOCONV_TUNE_READ);
    doconv_network_options options = make_options(DOCONV_TUNE_TUNE);
    pair_seconds[DOCONV_NCHW16C][DOCONV_NCHW16C] = CALL;
    pair_seconds[DOCONV_NCHW][DOCONV_NCHW16C] = 2 * CALL;
    doconv_network_plan *plan = tune(b.ctx, &net, &options);
    assert_string_equal(choice_of(plan, 0).name, "layer1");
    assert_layouts(plan, 0, DOCONV_NCHW, DOCONV_NCHW16C);
    assert_layouts(plan, 1, DOCONV_NCHW16C, DOCONV_NCHW16C);
    assert_layouts(plan, 2, DOCONV_NCHW16C, DOCONV_NCHW16C);
    /* 16 and 8 channels: no whole blocks of 16. */
    assert_int_equal(choice_of(plan, 3).desc->src_layout, DOCONV_NHWC);
    assert_layouts(plan, 4, DOCONV_NCHW, DOCONV_NCHW);
    const int count = doconv_network_plan_reorder_count(plan);
    int joined = 0;
    for (int i = 0; i < count; i++) {
        const doconv_network_reorder r = reorder_of(plan, i);
        if (r.consumer == 3 && r.input >= 0) {
            assert_int_equal(r.producer, r.input + 1);
            assert_int_equal(r.c, r.input == 0 ? 16 : 8);
            assert_int_equal(r.h, 4);
            joined++;
        }
    }
    assert_int_equal(joined, 2);
    doconv_network_plan_destroy(plan);

    /* 8 and 16 channels are whole blocks of 8; the pool's output is copied for both once. */
    options.layouts = 1u << DOCONV_NCHW8C;
    const doconv_layout nhwc = DOCONV_NHWC;
    net.descs[0].dst_layout = nhwc;
    net.layers[0].fixed_dst = 1;
    plan = tune(b.ctx, &net, &options);
    assert_layouts(plan, 0, DOCONV_NCHW, DOCONV_NHWC);
    assert_layouts(plan, 3, DOCONV_NCHW8C, DOCONV_NCHW8C);
    int reused = 0;
    for (int i = 0; i < doconv_network_plan_reorder_count(plan); i++) {
        reused += reorder_of(plan, i).reused;
    }
    assert_int_equal(reused, 2);
    doconv_network_plan_destroy(plan);
    close_bench(&b);
}

/* ---- what is refused ---- */

static void expect_refused(doconv_context *ctx, const struct net *net,
                           const doconv_network_options *options, doconv_status expected,
                           const char *detail)
{
    doconv_network_plan *plan = (doconv_network_plan *)net;
    char text[256];
    assert_int_equal(doconv_tune_network(ctx, net->layers, net->count, options, &plan), expected);
    assert_null(plan);
    assert_int_equal(doconv_context_last_error(ctx, text, sizeof text), DOCONV_OK);
    if (strstr(text, detail) == NULL) {
        fail_msg("\"%s\" is not in \"%s\"", detail, text);
    }
}

static void test_refused_layers(void **state)
{
    doconv_context *ctx = fixture_context(*state, "c", DOCONV_TUNE_OFF);
    static const char *const names[] = {"", "-", "with blank", "tab\t", "b"};
    static const int later[] = {1}, below[] = {-2}, given[] = {0, -1}, twice[] = {0, 0};
    struct net net;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        make_chain(&net);
        net.layers[2].name = names[i];
        expect_refused(ctx, &net, NULL, DOCONV_INVALID_ARGUMENT, "name");
    }
    const struct {
        const int *inputs;
        int count;
        const char *detail;
    } edges[] = {{later, 1, "no layer before"}, {below, 1, "no layer before"},
                 {given, 2, "one of several"},  {twice, 2, "32 channels together, not 16"},
                 {NULL, 1, "inputs"},           {later, -1, "inputs"}};
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++) {
        make_chain(&net);
        net.layers[1].inputs = edges[i].inputs;
        net.layers[1].input_count = edges[i].count;
        expect_refused(ctx, &net, NULL, DOCONV_INVALID_ARGUMENT, edges[i].detail);
    }
    make_chain(&net);
    net.descs[1].residual = 1;
    net.layers[1].residual = 1;
    expect_refused(ctx, &net, NULL, DOCONV_INVALID_ARGUMENT, "\"b\"");
    make_chain(&net);
    net.descs[1].stride_h = 0;
    expect_refused(ctx, &net, NULL, DOCONV_INVALID_PROBLEM, "\"b\": stride_h");
    make_chain(&net);
    net.descs[1].d_mul = 1;
    net.descs[1].composition = DOCONV_COMPOSITION_KERNEL;
    expect_refused(ctx, &net, NULL, DOCONV_UNSUPPORTED, "\"b\"");
    make_chain(&net);
    net.layers[1].desc = NULL;
    expect_refused(ctx, &net, NULL, DOCONV_INVALID_ARGUMENT, "desc");
    make_chain(&net);
    net.layers[1].fixed_src = 2;
    expect_refused(ctx, &net, NULL, DOCONV_INVALID_ARGUMENT, "fixed_src");
    make_chain(&net);
    net.layers[1].size += 8;
    expect_refused(ctx, &net, NULL, DOCONV_MISMATCH, "size");
    make_chain(&net);
    net.layers[0].size = 8;
    expect_refused(ctx, &net, NULL, DOCONV_MISMATCH, "size");
    net.count = 0;
    expect_refused(ctx, &net, NULL, DOCONV_INVALID_ARGUMENT, "count");
    doconv_context_destroy(ctx);
}

static void test_refused_options(void **state)
{
    doconv_context *ctx = fixture_context(*state, "c", DOCONV_TUNE_OFF);
    struct net net;
    make_chain(&net);
    const doconv_layout none = (doconv_layout)4;
    const doconv_network_options wrong[] = {
        {.size = sizeof wrong[0], .layouts = 16},
        {.size = sizeof wrong[0], .input_layout = &none},
        {.size = sizeof wrong[0], .output_layout = &none},
        {.size = sizeof wrong[0], .mode = (doconv_tune_mode)6},
        {.size = sizeof wrong[0], .budget_seconds = -1.0},
        {.size = sizeof wrong[0], .problem_seconds = NAN},
        {.size = sizeof wrong[0], .most_states = -1},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        expect_refused(ctx, &net, &wrong[i], DOCONV_INVALID_ARGUMENT, "options.");
    }
    const doconv_network_options size = {.size = 8};
    expect_refused(ctx, &net, &size, DOCONV_MISMATCH, "doconv_network_options");
    doconv_network_plan *plan;
    assert_int_equal(doconv_tune_network(NULL, net.layers, 3, NULL, &plan),
                     DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_tune_network(ctx, NULL, 3, NULL, &plan), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_tune_network(ctx, net.layers, 3, NULL, NULL), DOCONV_INVALID_ARGUMENT);
    /* Getters. */
    plan = tune(ctx, &net, NULL);
    doconv_network_choice choice = {.size = sizeof choice};
    assert_int_equal(doconv_network_plan_get(plan, 3, &choice), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_network_plan_get(plan, -1, &choice), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_network_plan_get(plan, 0, NULL), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_network_plan_get(NULL, 0, &choice), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_network_plan_get_reorder(plan, 0, NULL), DOCONV_INVALID_ARGUMENT);
    assert_int_equal(doconv_network_plan_total(plan, NULL), DOCONV_INVALID_ARGUMENT);
    choice.size = 8;
    assert_int_equal(doconv_network_plan_get(plan, 0, &choice), DOCONV_MISMATCH);
    assert_int_equal(doconv_network_plan_count(NULL), 0);
    assert_int_equal(doconv_network_plan_reorder_count(NULL), 0);
    doconv_network_plan_destroy(plan);
    doconv_network_plan_destroy(NULL);
    doconv_context_destroy(ctx);
}

static void test_out_of_memory(void **state)
{
    char path[FIXTURE_PATH];
    struct fixture_failing failing;
    doconv_context_options options = fixture_options(*state, "c", path);
    fixture_fail(&options, &failing);
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    struct net net;
    make_chain(&net);
    const doconv_network_options own = make_options(DOCONV_TUNE_OFF);
    doconv_network_plan *plan;
    doconv_status status = DOCONV_OUT_OF_MEMORY;
    for (int call = 0; status != DOCONV_OK; call++) {
        atomic_fetch_add(&ctx->choices, 1); /* each plan is made, none remembered */
        failing.calls = 0;
        failing.fail_at = call;
        status = doconv_tune_network(ctx, net.layers, net.count, &own, &plan);
        failing.fail_at = -1;
        assert_true(status == DOCONV_OUT_OF_MEMORY || status == DOCONV_OK);
        assert_true((plan != NULL) == (status == DOCONV_OK));
        assert_true(call < 5000);
    }
    doconv_network_plan_destroy(plan);
    doconv_context_destroy(ctx);
    assert_int_equal(failing.live, 0); /* the context had kept choices alone */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_modes),
        TEST(test_deadline),
        TEST(test_cancel_and_progress),
        TEST(test_failing_measurement),
        TEST(test_mixture),
        TEST(test_edges),
        TEST(test_refused_layers),
        TEST(test_refused_options),
        TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("network", tests, NULL, NULL) != 0;
}
