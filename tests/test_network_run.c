/* SPDX-License-Identifier: MIT */
/*
 * A network like ResNet-18, small: planned whole, and run as an engine would, with the layouts,
 * variants and copies of its plan, against the same network written down naively.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <doconv/doconv_tune.h>

#include "oracle.h"
#include "tuner_fixture.h"

#define LAYERS 9

/* Stem, two plain blocks, a block with stride and a layer beside it; a pool after the stem. */
static const struct {
    const char *problem;
    int input, residual;
} rows[LAYERS] = {
    {"mb2_ic3ih16oc16kh7sh2ph3:bias,relu", -1, -1},
    {"mb2_ic16ih4oc16kh3ph1:bias,relu", 0, -1},
    {"mb2_ic16ih4oc16kh3ph1:bias,residual,relu", 1, 0},
    {"mb2_ic16ih4oc16kh3ph1:bias,relu", 2, -1},
    {"mb2_ic16ih4oc16kh3ph1:bias,residual,relu", 3, 2},
    {"mb2_ic16ih4oc32kh3sh2ph1:bias,relu", 4, -1},
    {"mb2_ic16ih4oc32kh1sh2:bias", 4, -1},
    {"mb2_ic32ih2oc32kh3ph1:bias,residual,relu", 5, 6},
    {"mb2_ic32ih2oc5kh1:bias", 7, -1},
};

struct net {
    doconv_conv_desc descs[LAYERS];
    doconv_network_layer layers[LAYERS];
    float *weight[LAYERS], *bias[LAYERS];
    float *given; /* NCHW */
};

static float *make_floats(size_t count, unsigned seed)
{
    float *values = malloc((count + 1) * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1103515245u + 12345u;
        values[i] = (float)(int)(seed >> 16 & 0xff) / 256.0f - 0.5f;
    }
    return values;
}

static void make_net(struct net *net)
{
    for (int i = 0; i < LAYERS; i++) {
        net->descs[i] = fixture_problem(rows[i].problem);
        const doconv_conv_desc *d = &net->descs[i];
        net->layers[i] = (doconv_network_layer){.size = sizeof net->layers[i],
                                                .desc = d,
                                                .inputs = &rows[i].input,
                                                .input_count = 1,
                                                .residual = rows[i].residual};
        net->weight[i] = make_floats((size_t)(d->cout * d->cin * d->kh * d->kw), 2u * (unsigned)i);
        net->bias[i] = make_floats((size_t)d->cout, 2u * (unsigned)i + 1);
    }
    net->given = make_floats(2 * 3 * 16 * 16, 99);
}

static void free_net(struct net *net)
{
    for (int i = 0; i < LAYERS; i++) {
        free(net->weight[i]);
        free(net->bias[i]);
    }
    free(net->given);
}

/* A pool that takes every other pixel, of any layout; whole, where the images are of one size. */
static float *pool(const float *from, doconv_layout layout, int64_t c, int64_t h, int64_t to_h)
{
    float *to = calloc(oracle_floats(layout, 2, c, to_h, to_h), sizeof *to);
    assert_non_null(to);
    const int64_t step = h / to_h;
    for (int64_t at = 0; at < 2 * c * to_h * to_h; at++) {
        const int64_t x = at % to_h, y = at / to_h % to_h, ch = at / to_h / to_h % c,
                      n = at / to_h / to_h / c;
        to[oracle_index(layout, c, to_h, to_h, n, ch, y, x)] =
            from[oracle_index(layout, c, h, h, n, ch, y * step, x * step)];
    }
    return to;
}

/* ---- naively, in NCHW ---- */

static void run_naively(const struct net *net, float *dst[LAYERS])
{
    for (int i = 0; i < LAYERS; i++) {
        const doconv_conv_desc *d = &net->descs[i];
        const int input = rows[i].input, residual = rows[i].residual;
        int64_t shape[4];
        assert_int_equal(doconv_conv_dst_shape(NULL, d, shape), DOCONV_OK);
        const size_t count = oracle_floats(DOCONV_NCHW, 2, shape[1], shape[2], shape[3]);
        double *value = malloc(count * sizeof *value), *magnitude = malloc(count * sizeof *value);
        dst[i] = malloc(count * sizeof *dst[i]);
        assert_true(value != NULL && magnitude != NULL && dst[i] != NULL);
        float *src = pool(input < 0 ? net->given : dst[input], DOCONV_NCHW, d->cin,
                          input == 0 ? 8 : d->h, d->h);
        float *added = residual < 0 ? NULL
                                    : pool(dst[residual], DOCONV_NCHW, shape[1],
                                           residual == 0 ? 8 : shape[2], shape[2]);
        oracle_convolve(d, src, net->weight[i], net->bias[i], added, value, magnitude);
        for (size_t k = 0; k < count; k++) {
            dst[i][k] = (float)value[k];
        }
        free(src);
        free(added);
        free(value);
        free(magnitude);
    }
}

/* ---- as an engine ---- */

struct engine {
    doconv_context *ctx;
    const doconv_network_plan *plan;
    float *dst[LAYERS + 1]; /* of each layer, then what the network is given */
    int copies;             /* that were made */
};

static doconv_network_choice choice_of(const struct engine *e, int layer)
{
    doconv_network_choice choice = {.size = sizeof choice};
    assert_int_equal(doconv_network_plan_get(e->plan, layer, &choice), DOCONV_OK);
    return choice;
}

/* What a consumer reads on an edge: the pooled tensor, copied if the plan says so. */
static float *read_edge(struct engine *e, int consumer, int input, int producer,
                        doconv_layout expected, const int64_t shape[4])
{
    const float *from = e->dst[producer < 0 ? LAYERS : producer];
    doconv_layout layout = producer < 0 ? DOCONV_NCHW : choice_of(e, producer).desc->dst_layout;
    float *tensor = pool(from, layout, shape[1], producer == 0 ? 8 : shape[2], shape[2]);
    for (int i = 0; i < doconv_network_plan_reorder_count(e->plan); i++) {
        doconv_network_reorder r = {.size = sizeof r};
        assert_int_equal(doconv_network_plan_get_reorder(e->plan, i, &r), DOCONV_OK);
        if (r.consumer == consumer && r.input == input) {
            assert_int_equal(r.producer, producer);
            assert_int_equal(r.from, layout);
            float *copy = calloc(oracle_floats(r.to, r.n, r.c, r.h, r.w), sizeof *copy);
            assert_int_equal(doconv_reorder(r.from, r.to, r.n, r.c, r.h, r.w, tensor, copy),
                             DOCONV_OK);
            free(tensor);
            tensor = copy;
            layout = r.to;
            e->copies++;
        }
    }
    assert_int_equal(layout, expected);
    return tensor;
}

static void run_layer(struct engine *e, const struct net *net, int i, char *workspace, size_t size)
{
    const doconv_network_choice choice = choice_of(e, i);
    const doconv_conv_desc *d = choice.desc;
    const doconv_plan_options options = {
        .size = sizeof options, .variant = choice.variant, .cold_weights = 1};
    int64_t dst[4];
    const int64_t src[4] = {d->n, d->cin, d->h, d->w};
    doconv_plan *plan;
    doconv_weights *weights;
    assert_int_equal(doconv_conv_dst_shape(NULL, d, dst), DOCONV_OK);
    assert_int_equal(doconv_plan_create(e->ctx, d, &options, &plan), DOCONV_OK);
    assert_string_equal(doconv_plan_variant(plan), choice.variant);
    assert_int_equal(doconv_plan_workspace_size(plan), choice.workspace_size);
    assert_int_equal(doconv_weights_create(plan, net->weight[i], net->bias[i], &weights),
                     DOCONV_OK);
    float *tensor = read_edge(e, i, 0, rows[i].input, d->src_layout, src);
    float *added =
        rows[i].residual < 0 ? NULL : read_edge(e, i, -1, rows[i].residual, d->dst_layout, dst);
    e->dst[i] =
        malloc(oracle_floats(d->dst_layout, dst[0], dst[1], dst[2], dst[3]) * sizeof *e->dst[i]);
    assert_int_equal(doconv_execute(plan, weights, tensor, added, e->dst[i], workspace, size),
                     DOCONV_OK);
    free(tensor);
    free(added);
    doconv_weights_destroy(weights);
    doconv_plan_destroy(plan);
}

/* The last layer's dst in NCHW, against that of the naive run. */
static void check_engine(doconv_context *ctx, const struct net *net,
                         const doconv_network_plan *plan, const float *expected)
{
    struct engine e = {.ctx = ctx, .plan = plan};
    doconv_network_total total = {.size = sizeof total};
    assert_int_equal(doconv_network_plan_total(plan, &total), DOCONV_OK);
    char *workspace = malloc(total.workspace_size + 1);
    e.dst[LAYERS] = net->given;
    for (int i = 0; i < LAYERS; i++) {
        run_layer(&e, net, i, workspace, total.workspace_size);
    }
    const int64_t shape[4] = {2, 5, 2, 2};
    float *result = read_edge(&e, LAYERS, 0, LAYERS - 1, DOCONV_NCHW, shape);
    double largest = 0.0;
    for (int k = 0; k < 2 * 5 * 2 * 2; k++) {
        /* fmax() here crashes gcc 12 for aarch64, in its vectorizer */
        const double magnitude = fabs((double)expected[k]);
        largest = magnitude > largest ? magnitude : largest;
    }
    for (int k = 0; k < 2 * 5 * 2 * 2; k++) {
        assert_true(fabs((double)result[k] - (double)expected[k]) <= 1e-4 * largest);
    }
    assert_int_equal(e.copies, doconv_network_plan_reorder_count(plan));
    for (int i = 0; i < LAYERS; i++) {
        free(e.dst[i]);
    }
    free(result);
    free(workspace);
}

static void test_run(void **state)
{
    static const unsigned layouts[] = {0, 1u << DOCONV_NCHW8C, 0xf,
                                       1u << DOCONV_NCHW | 1u << DOCONV_NCHW16C};
    const doconv_layout nchw = DOCONV_NCHW;
    struct net net;
    float *naive[LAYERS];
    make_net(&net);
    run_naively(&net, naive);
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        const bool measures = i == 0;
        doconv_context *ctx =
            fixture_context(*state, "c", measures ? DOCONV_TUNE_TUNE : DOCONV_TUNE_OFF);
        const doconv_network_options options = {.size = sizeof options,
                                                .layouts = layouts[i],
                                                .input_layout = &nchw,
                                                .output_layout = &nchw,
                                                .problem_seconds = 1e-3,
                                                .budget_seconds = 2.0};
        doconv_network_plan *plan;
        assert_int_equal(doconv_tune_network(ctx, net.layers, LAYERS, &options, &plan), DOCONV_OK);
        check_engine(ctx, &net, plan, naive[LAYERS - 1]);
        doconv_network_plan_destroy(plan);
        doconv_context_destroy(ctx);
    }
    for (int i = 0; i < LAYERS; i++) {
        free(naive[i]);
    }
    free_net(&net);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_run, fixture_setup, fixture_teardown),
    };
    return cmocka_run_group_tests_name("network_run", tests, NULL, NULL) != 0;
}
