/* SPDX-License-Identifier: MIT */
/*
 * Calls refuse memory that overlaps what they write: every pair of their arguments, equal, shifted
 * by a float either way, touching by the last float of one; and take it where it only adjoins.
 */
#include <doconv/doconv_train.h>

#include "api_support.h"

#define MOST_RANGES 12

struct call {
    doconv_status (*run)(const struct call *call);
    int count;
    const char *names[MOST_RANGES];
    size_t bytes[MOST_RANGES];
    bool written[MOST_RANGES];
    int may_equal[2]; /* a pair that may be the same memory; both 0: none */
    char *at[MOST_RANGES];
    /* what run() needs beside */
    doconv_context *context;
    doconv_plan *plan;
    doconv_weights *weights;
    doconv_training *training;
    doconv_fold_desc fold;
    int residual, workspace; /* ranges of execute; 0: none */
};

static void add(struct call *call, const char *name, size_t bytes, bool written)
{
    call->names[call->count] = name;
    call->bytes[call->count] = bytes;
    call->written[call->count++] = written;
}

/* Puts every range into its own part of the arena, with room around it. */
static void spread(struct call *call, char *arena, size_t largest)
{
    for (int i = 0; i < call->count; i++) {
        call->at[i] = arena + (size_t)(2 * i + 1) * (largest + 64);
    }
}

static void expect_refused(struct call *call, int moved, char *to, int other)
{
    call->at[moved] = to;
    const doconv_status status = call->run(call);
    if (status != DOCONV_INVALID_ARGUMENT) {
        fail_msg("%s at %td of %s: %s", call->names[moved], to - call->at[other],
                 call->names[other], doconv_status_string(status));
    }
}

static void check(struct call *call)
{
    size_t largest = 0;
    for (int i = 0; i < call->count; i++) {
        assert_true(call->bytes[i] >= 8 && call->bytes[i] % 4 == 0);
        largest = call->bytes[i] > largest ? call->bytes[i] : largest;
    }
    largest = (largest + 63) / 64 * 64;
    char *arena = aligned_alloc(64, (largest + 64) * (size_t)(2 * call->count + 1));
    assert_non_null(arena);
    memset(arena, 0, (largest + 64) * (size_t)(2 * call->count + 1));
    spread(call, arena, largest);
    expect_ok(call->run(call));
    for (int i = 0; i < call->count; i++) {
        for (int k = 0; k < call->count; k++) {
            if (i == k) {
                continue;
            }
            char *const other = call->at[k], *const home = call->at[i];
            const bool equal_is_right = call->may_equal[0] + call->may_equal[1] == i + k &&
                                        (call->may_equal[0] == i || call->may_equal[1] == i);
            if (call->written[i] || call->written[k]) {
                expect_refused(call, i, other + 4, k);
                expect_refused(call, i, other - 4, k);
                expect_refused(call, i, other + call->bytes[k] - 4, k);
                expect_refused(call, i, other - call->bytes[i] + 4, k);
            }
            call->at[i] = other;
            if (equal_is_right || !(call->written[i] || call->written[k])) {
                expect_ok(call->run(call));
            } else {
                expect_refused(call, i, other, k);
            }
            call->at[i] = other + call->bytes[k];
            expect_ok(call->run(call));
            call->at[i] = other - call->bytes[i];
            expect_ok(call->run(call));
            call->at[i] = home;
        }
    }
    free(arena);
}

/* ---- execute ---- */

static doconv_status run_execute(const struct call *c)
{
    return doconv_execute(c->plan, c->weights, (float *)c->at[0],
                          c->residual != 0 ? (float *)c->at[c->residual] : NULL, (float *)c->at[1],
                          c->workspace != 0 ? c->at[c->workspace] : NULL,
                          c->workspace != 0 ? c->bytes[c->workspace] : 0);
}

static void check_execute(const char *text)
{
    struct call c = {.run = run_execute, .context = open_context()};
    const doconv_conv_desc desc = problem(text);
    doconv_candidates *list;
    expect_ok(doconv_candidates_create(c.context, &desc, NULL, &list));
    struct tensors t = tensors_for(&desc);
    for (int i = 0; i < doconv_candidates_count(list); i++) {
        doconv_candidate_info info = {.size = sizeof info};
        expect_ok(doconv_candidates_get(list, i, &info));
        if (info.refused != NULL) {
            continue;
        }
        doconv_plan_options options = plan_options();
        options.variant = info.variant;
        expect_ok(doconv_plan_create(c.context, &desc, &options, &c.plan));
        expect_ok(doconv_weights_create(c.plan, t.weight, t.bias, &c.weights));
        c.count = 0;
        add(&c, "src", t.src_bytes, false);
        add(&c, "dst", t.dst_bytes, true);
        c.residual = desc.residual ? c.count : 0;
        if (desc.residual) {
            add(&c, "residual", t.dst_bytes, false);
            c.may_equal[0] = 1;
            c.may_equal[1] = c.residual;
        }
        const size_t size = doconv_plan_workspace_size(c.plan);
        c.workspace = size != 0 ? c.count : 0;
        if (size != 0) {
            add(&c, "workspace", size, true);
        }
        check(&c);
        doconv_weights_destroy(c.weights);
        doconv_plan_destroy(c.plan);
    }
    free_tensors(&t);
    doconv_candidates_destroy(list);
    doconv_context_destroy(c.context);
}

static void test_execute(void **state)
{
    (void)state;
    check_execute("mb1_ic16ih4oc16");
    check_execute("mb2_ic8ih5oc8kh3ph1:src=nhwc,dst=nChw16c,residual");
    check_execute("g8mb1_ic8ih5oc8kh3ph1:src=nhwc,dst=nhwc,residual,relu");
}

/* ---- reorder ---- */

static doconv_status run_reorder(const struct call *c)
{
    return doconv_reorder(DOCONV_NCHW, DOCONV_NCHW8C, 2, 5, 3, 3, (float *)c->at[0],
                          (float *)c->at[1]);
}

static void test_reorder(void **state)
{
    (void)state;
    struct call c = {.run = run_reorder};
    add(&c, "src", 2 * 5 * 9 * sizeof(float), false);
    add(&c, "dst", 2 * 8 * 9 * sizeof(float), true);
    check(&c);
}

/* ---- folding ---- */

static doconv_status run_fold(const struct call *c)
{
    return doconv_fold(c->context, &c->fold, (float *)c->at[0], (float *)c->at[1],
                       (float *)c->at[2]);
}

static doconv_status run_fold_gradient(const struct call *c)
{
    return doconv_fold_gradient(c->context, &c->fold, (float *)c->at[0], (float *)c->at[1],
                                (float *)c->at[2], (float *)c->at[3], (float *)c->at[4]);
}

static void test_fold(void **state)
{
    (void)state;
    const size_t w = 4 * 3 * 11 * sizeof(float), d = 6 * 9 * 11 * sizeof(float),
                 weight = 4 * 3 * 9 * sizeof(float);
    struct call c = {.run = run_fold,
                     .context = open_context(),
                     .fold = {.size = sizeof c.fold,
                              .cout = 4,
                              .cin = 6,
                              .kh = 3,
                              .kw = 3,
                              .groups = 2,
                              .d_mul = 11}};
    add(&c, "w", w, false);
    add(&c, "d", d, false);
    add(&c, "weight", weight, true);
    check(&c);
    c.run = run_fold_gradient;
    c.written[2] = false;
    add(&c, "grad_w", w, true);
    add(&c, "grad_d", d, true);
    check(&c);
    doconv_context_destroy(c.context);
}

/* ---- training ---- */

/* Ranges: src, dst, weight, bias, workspace; of a DO-Conv layer D, and what is saved, too. */
static doconv_status run_forward(const struct call *c)
{
    const doconv_parameters parameters = {.size = sizeof parameters,
                                          .weight = (float *)c->at[2],
                                          .bias = (float *)c->at[3],
                                          .d = c->count > 5 ? (float *)c->at[5] : NULL};
    return doconv_training_forward(c->training, &parameters, (float *)c->at[0], (float *)c->at[1],
                                   c->count > 6 ? c->at[6] : NULL, c->at[4], c->bytes[4]);
}

/*
 * Ranges: src, dst's gradient, weight, bias, workspace, gradients of src, weight and bias; of a
 * DO-Conv layer D, its gradient, and what was saved, too.
 */
static doconv_status run_backward(const struct call *c)
{
    const doconv_parameters parameters = {.size = sizeof parameters,
                                          .weight = (float *)c->at[2],
                                          .bias = (float *)c->at[3],
                                          .d = c->count > 8 ? (float *)c->at[8] : NULL};
    const doconv_gradients gradients = {.size = sizeof gradients,
                                        .src = (float *)c->at[5],
                                        .weight = (float *)c->at[6],
                                        .bias = (float *)c->at[7],
                                        .d = c->count > 8 ? (float *)c->at[9] : NULL};
    return doconv_training_backward(c->training, &parameters, (float *)c->at[0], (float *)c->at[1],
                                    c->count > 10 ? c->at[10] : NULL, &gradients, c->at[4],
                                    c->bytes[4]);
}

static void check_training(doconv_composition composition)
{
    struct call c = {.context = open_context()};
    doconv_conv_desc desc = problem("mb2_ic4ih5oc8kh3ph1:bias");
    desc.composition = composition;
    desc.d_mul = composition != DOCONV_COMPOSITION_NONE ? 10 : 0;
    expect_ok(doconv_training_create(c.context, &desc, NULL, &c.training));
    const size_t src = 2 * 4 * 25 * sizeof(float), dst = 2 * 8 * 25 * sizeof(float),
                 d = 4 * 9 * 10 * sizeof(float), bias = 8 * sizeof(float),
                 weight = 8 * 4 * (size_t)(desc.d_mul != 0 ? 10 : 9) * sizeof(float),
                 workspace = doconv_training_workspace_size(c.training),
                 saved = doconv_training_saved_size(c.training);
    add(&c, "src", src, false);
    add(&c, "dst", dst, true);
    add(&c, "weight", weight, false);
    add(&c, "bias", bias, false);
    add(&c, "workspace", workspace, true);
    if (desc.d_mul != 0) {
        add(&c, "d", d, false);
    }
    if (saved != 0) {
        add(&c, "saved", saved, true);
    }
    c.run = run_forward;
    check(&c);
    c.count = 5;
    c.written[1] = false;
    add(&c, "gradients.src", src, true);
    add(&c, "gradients.weight", weight, true);
    add(&c, "gradients.bias", bias, true);
    if (desc.d_mul != 0) {
        add(&c, "d", d, false);
        add(&c, "gradients.d", d, true);
    }
    if (saved != 0) {
        add(&c, "saved", saved, false);
    }
    c.run = run_backward;
    check(&c);
    doconv_training_destroy(c.training);
    doconv_context_destroy(c.context);
}

static void test_training(void **state)
{
    (void)state;
    check_training(DOCONV_COMPOSITION_NONE);
    check_training(DOCONV_COMPOSITION_KERNEL);
    check_training(DOCONV_COMPOSITION_FEATURE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_execute),
        cmocka_unit_test(test_reorder),
        cmocka_unit_test(test_fold),
        cmocka_unit_test(test_training),
    };
    return cmocka_run_group_tests_name("overlap", tests, NULL, NULL) != 0;
}
