/* SPDX-License-Identifier: MIT */
/* The choice of layouts in a network, on tables of made-up times, against every choice there is. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "network_select.h"
#include "tuner_fixture.h"

#define MOST_LAYERS 5
#define MOST_VIEWS 32
#define MOST_STATES 4096

/* A network with memory of its own. */
struct net {
    struct select_graph graph;
    struct select_layer layers[MOST_LAYERS];
    struct select_view views[MOST_VIEWS];
    int inputs[MOST_LAYERS][MOST_LAYERS];
    int outputs[MOST_LAYERS];
    unsigned layouts; /* that anything has */
};

static uint64_t seed = 1;

static int pick(int count)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int)((seed >> 33) % (uint64_t)count);
}

/* Whole numbers, so that sums are exact in any order. */
static void fill(select_seconds seconds, unsigned layouts, int most, int impossible)
{
    for (int a = 0; a < SELECT_LAYOUTS; a++) {
        for (int b = 0; b < SELECT_LAYOUTS; b++) {
            const bool there = (layouts >> a & 1) != 0 && (layouts >> b & 1) != 0;
            seconds[a][b] = there && pick(100) >= impossible ? 1 + pick(most) : INFINITY;
        }
    }
}

/* A view of a tensor before a layer: sometimes another one than others see. */
static int add_view(struct net *net, int tensor)
{
    for (int i = 0; i < net->graph.view_count; i++) {
        if (net->views[i].tensor == tensor && pick(4) != 0) {
            return i;
        }
    }
    struct select_view *view = &net->views[net->graph.view_count];
    view->tensor = tensor;
    fill(view->seconds, 0xf, 8, pick(4) == 0 ? 30 : 0);
    return net->graph.view_count++;
}

static bool is_read(const struct net *net, int tensor)
{
    bool read = false;
    for (int i = 0; i < net->graph.view_count; i++) {
        read = read || net->views[i].tensor == tensor;
    }
    return read;
}

static void make_net(struct net *net, int layers, unsigned layouts)
{
    memset(net, 0, sizeof *net);
    net->layouts = layouts;
    net->graph = (struct select_graph){.layers = net->layers,
                                       .count = layers,
                                       .views = net->views,
                                       .input_layouts = pick(2) != 0 ? layouts : 2u,
                                       .outputs = net->outputs,
                                       .output_layout = DOCONV_NHWC};
    for (int i = 0; i < layers; i++) {
        struct select_layer *layer = &net->layers[i];
        layer->inputs = net->inputs[i];
        layer->input_count = pick(3) != 0 ? 1 : 1 + pick(i + 1);
        for (int k = 0; k < layer->input_count; k++) {
            /* Mostly a chain. */
            net->inputs[i][k] = add_view(net, k == 0 && pick(3) != 0 ? i : pick(i + 1));
        }
        layer->residual = pick(3) == 0 ? add_view(net, pick(i + 1)) : -1;
        fill(layer->seconds, layouts, 12, pick(3) == 0 ? 25 : 0);
    }
    for (int i = 0; i < layers && pick(2) == 0; i++) {
        if (!is_read(net, i + 1)) {
            net->outputs[net->graph.output_count++] = add_view(net, i + 1);
        }
    }
}

/* ---- every choice ---- */

static double read_view(const struct net *net, const uint8_t *tensor, int view, int layout,
                        bool copied[MOST_VIEWS][SELECT_LAYOUTS])
{
    const int from = tensor[net->views[view].tensor];
    if (from == layout || copied[view][layout]) {
        return 0.0;
    }
    copied[view][layout] = true;
    return net->views[view].seconds[from][layout];
}

/* All that a choice costs. */
static double cost_of(const struct net *net, const uint8_t *tensor, const uint8_t *src)
{
    bool copied[MOST_VIEWS][SELECT_LAYOUTS] = {{false}};
    double seconds = (net->graph.input_layouts >> tensor[0] & 1) != 0 ? 0.0 : INFINITY;
    for (int i = 0; i < net->graph.count; i++) {
        const struct select_layer *layer = &net->layers[i];
        seconds += layer->seconds[src[i]][tensor[i + 1]];
        for (int k = 0; k < layer->input_count; k++) {
            seconds += read_view(net, tensor, layer->inputs[k], src[i], copied);
        }
        if (layer->residual >= 0) {
            seconds += read_view(net, tensor, layer->residual, tensor[i + 1], copied);
        }
    }
    for (int k = 0; k < net->graph.output_count; k++) {
        seconds += read_view(net, tensor, net->outputs[k], (int)net->graph.output_layout, copied);
    }
    return seconds;
}

/* The next choice, as the next number; false after the last. */
static bool next_choice(uint8_t *digits, int count, unsigned layouts)
{
    for (int i = 0; i < count; i++) {
        do {
            digits[i]++;
        } while (digits[i] < SELECT_LAYOUTS && (layouts >> digits[i] & 1) == 0);
        if (digits[i] < SELECT_LAYOUTS) {
            return true;
        }
        for (digits[i] = 0; (layouts >> digits[i] & 1) == 0; digits[i]++) {
        }
    }
    return false;
}

static double least_cost(const struct net *net)
{
    const int count = net->graph.count;
    uint8_t digits[2 * MOST_LAYERS + 1];
    for (int i = 0; i <= 2 * count; i++) {
        for (digits[i] = 0; (net->layouts >> digits[i] & 1) == 0; digits[i]++) {
        }
    }
    double best = INFINITY;
    do {
        best = fmin(best, cost_of(net, digits, digits + count + 1));
    } while (next_choice(digits, 2 * count + 1, net->layouts));
    return best;
}

static struct select_choice make_choice(uint8_t *tensor, uint8_t *src)
{
    return (struct select_choice){.tensor = tensor, .src = src};
}

static void test_against_every_choice(void **state)
{
    doconv_context *ctx = fixture_context(*state, "c", DOCONV_TUNE_OFF);
    int possible = 0;
    for (int number = 0; number < 600; number++) {
        struct net net;
        const bool three = number % 4 == 0;
        make_net(&net, 1 + pick(three ? 3 : MOST_LAYERS), three ? 0xbu : 0xau);
        uint8_t tensor[MOST_LAYERS + 1], src[MOST_LAYERS];
        struct select_choice choice = make_choice(tensor, src);
        const double least = least_cost(&net);
        const doconv_status status = dc_select(ctx, &net.graph, MOST_STATES, &choice);
        assert_int_equal(status, least < INFINITY ? DOCONV_OK : DOCONV_UNSUPPORTED);
        if (status == DOCONV_OK) {
            possible++;
            assert_true(choice.exact);
            assert_true(choice.seconds == least);
            assert_true(cost_of(&net, tensor, src) == least);
        }
    }
    assert_true(possible > 300);
    doconv_context_destroy(ctx);
}

/* With fewer states than there are: still a choice with its right sum, and it says so. */
static void test_few_states(void **state)
{
    doconv_context *ctx = fixture_context(*state, "c", DOCONV_TUNE_OFF);
    int best = 0, inexact = 0, possible = 0;
    for (int number = 0; number < 300; number++) {
        struct net net;
        make_net(&net, MOST_LAYERS, 0xau);
        uint8_t tensor[MOST_LAYERS + 1], src[MOST_LAYERS];
        struct select_choice choice = make_choice(tensor, src);
        if (dc_select(ctx, &net.graph, 2, &choice) == DOCONV_OK) {
            const double least = least_cost(&net);
            possible++;
            assert_true(cost_of(&net, tensor, src) == choice.seconds);
            assert_true(choice.seconds >= least);
            assert_true(!choice.exact || choice.seconds == least);
            best += choice.seconds == least;
            inexact += !choice.exact;
        }
    }
    assert_true(possible > 100 && inexact > 50);
    assert_true(best > possible / 2);
    doconv_context_destroy(ctx);
}

/* A tensor that everybody reads is copied once; one that is read through a pool, once more. */
static void test_shared_copies(void **state)
{
    doconv_context *ctx = fixture_context(*state, "c", DOCONV_TUNE_OFF);
    struct net net = {.layouts = 0xau};
    net.graph = (struct select_graph){.layers = net.layers,
                                      .count = 4,
                                      .views = net.views,
                                      .view_count = 4,
                                      .input_layouts = 2u,
                                      .outputs = net.outputs};
    for (int i = 0; i < 4; i++) {
        /* Only from blocked to NHWC; tensor 0 is NHWC, and three layers read it. */
        net.views[i].tensor = i == 1 ? 0 : i == 0 ? 0 : i - 1;
        fill(net.views[i].seconds, 0xau, 1, 0);
        net.layers[i].inputs = net.inputs[i];
        net.layers[i].input_count = 1;
        net.layers[i].residual = -1;
        fill(net.layers[i].seconds, 0, 1, 0);
        net.layers[i].seconds[DOCONV_NCHW16C][DOCONV_NHWC] = 10;
    }
    net.inputs[0][0] = 0;
    net.inputs[1][0] = 0;
    net.inputs[2][0] = 1;
    net.inputs[3][0] = 2;
    net.layers[3].residual = 3;
    uint8_t tensor[5], src[4];
    struct select_choice choice = make_choice(tensor, src);
    assert_int_equal(dc_select(ctx, &net.graph, MOST_STATES, &choice), DOCONV_OK);
    /* Views 0 and 1 of tensor 0, and view 2 of tensor 1, each once; the residual is NHWC. */
    assert_true(choice.seconds == 40 + 3);
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
    uint8_t tensor[MOST_LAYERS + 1], src[MOST_LAYERS];
    do {
        make_net(&net, 4, 0xau);
    } while (least_cost(&net) == INFINITY);
    doconv_status status = DOCONV_OUT_OF_MEMORY;
    int failures = 0;
    while (status != DOCONV_OK) {
        struct select_choice choice = make_choice(tensor, src);
        const int live = failing.live;
        failing.calls = 0;
        failing.fail_at = failures++;
        status = dc_select(ctx, &net.graph, MOST_STATES, &choice);
        failing.fail_at = -1;
        assert_true(status == DOCONV_OK || status == DOCONV_OUT_OF_MEMORY);
        assert_int_equal(failing.live, live);
        assert_true(failures < 1000);
    }
    assert_true(failures > 20);
    doconv_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_against_every_choice, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_few_states, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_shared_copies, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_out_of_memory, fixture_setup, fixture_teardown),
    };
    return cmocka_run_group_tests_name("network_select", tests, NULL, NULL) != 0;
}
