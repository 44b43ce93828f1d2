/* SPDX-License-Identifier: MIT */
/*
 * An empty batch, as an engine has it when nothing is left to do: every call takes it, and needs
 * and writes nothing.
 */
#include <doconv/doconv_train.h>
#include <doconv/doconv_tune.h>

#include "api_support.h"

static const char *const problems[] = {
    "mb0_ic5ih6oc7kh3ph1:bias,relu",
    "mb0_ic16ih8oc32:residual",
    "g8mb0_ic8ih7oc8kh3ph1:src=nhwc,dst=nhwc",
    "g2mb0_ic8ih7oc16kh3sh2:src=nChw8c,dst=nChw16c,bias,residual",
};
#define PROBLEMS (sizeof problems / sizeof problems[0])

static void test_descriptor(void **state)
{
    (void)state;
    for (size_t i = 0; i < PROBLEMS; i++) {
        const doconv_conv_desc desc = problem(problems[i]);
        assert_int_equal(desc.n, 0);
        int64_t shape[4];
        expect_ok(doconv_conv_dst_shape(NULL, &desc, shape));
        assert_int_equal(shape[0], 0);
        assert_int_equal(shape[1], desc.cout);
        size_t bytes = 1;
        expect_ok(
            doconv_tensor_bytes(desc.dst_layout, shape[0], shape[1], shape[2], shape[3], &bytes));
        assert_int_equal(bytes, 0);
        char text[DOCONV_PROBLEM_TEXT_SIZE], again[DOCONV_PROBLEM_TEXT_SIZE];
        expect_ok(doconv_conv_desc_format(NULL, &desc, text, sizeof text));
        assert_non_null(strstr(text, "mb0_"));
        const doconv_conv_desc back = problem(text);
        expect_ok(doconv_conv_desc_format(NULL, &back, again, sizeof again));
        assert_string_equal(text, again);
    }
    doconv_conv_desc bad = problem(problems[0]);
    bad.n = -1;
    int64_t shape[4];
    expect_status(doconv_conv_dst_shape(NULL, &bad, shape), DOCONV_INVALID_PROBLEM);
    bad.n = 0;
    bad.h = 0;
    expect_status(doconv_conv_dst_shape(NULL, &bad, shape), DOCONV_INVALID_PROBLEM);
}

/*
 * Each variant packs weights, runs without tensors, and leaves those that are given alone. The
 * weights serve a plan of one image, too.
 */
static void test_execute(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    for (size_t i = 0; i < PROBLEMS; i++) {
        const doconv_conv_desc desc = problem(problems[i]);
        doconv_conv_desc one = desc;
        one.n = 1;
        struct tensors t = tensors_for(&one);
        doconv_candidates *list;
        expect_ok(doconv_candidates_create(context, &desc, NULL, &list));
        for (int k = 0; k < doconv_candidates_count(list); k++) {
            doconv_candidate_info info = {.size = sizeof info};
            expect_ok(doconv_candidates_get(list, k, &info));
            if (info.refused != NULL) {
                continue;
            }
            doconv_plan_options options = plan_options();
            options.variant = info.variant;
            doconv_plan *plan, *plan_of_one;
            doconv_weights *weights;
            expect_ok(doconv_plan_create(context, &desc, &options, &plan));
            expect_ok(doconv_plan_create(context, &one, &options, &plan_of_one));
            assert_int_equal(doconv_plan_workspace_size(plan), 0);
            expect_ok(doconv_weights_create(plan, t.weight, t.bias, &weights));
            memset(t.dst, 0x5a, t.dst_bytes);
            float *const before = malloc(t.dst_bytes);
            assert_non_null(before);
            memcpy(before, t.dst, t.dst_bytes);
            expect_ok(doconv_execute(plan, weights, NULL, NULL, NULL, NULL, 0));
            expect_ok(doconv_execute(plan, weights, t.src, t.residual, t.dst, NULL, 0));
            assert_memory_equal(before, t.dst, t.dst_bytes);
            expect_status(doconv_execute(plan, NULL, NULL, NULL, NULL, NULL, 0),
                          DOCONV_INVALID_ARGUMENT);
            const size_t size = doconv_plan_workspace_size(plan_of_one);
            void *workspace = malloc(size + 1);
            expect_ok(
                doconv_execute(plan_of_one, weights, t.src, t.residual, t.dst, workspace, size));
            free(workspace);
            free(before);
            doconv_weights_destroy(weights);
            doconv_plan_destroy(plan_of_one);
            doconv_plan_destroy(plan);
        }
        doconv_candidates_destroy(list);
        free_tensors(&t);
    }
    doconv_context_destroy(context);
}

/* Tuning measures one image; a plan of the empty batch gets the same winner. */
static void test_tuning(void **state)
{
    (void)state;
    const doconv_context_options options = {
        .size = sizeof options, .threads = 1, .tune = DOCONV_TUNE_TUNE, .cache_directory = ""};
    doconv_context *context;
    expect_ok(doconv_context_create(&options, &context));
    doconv_conv_desc desc = problem(problems[0]);
    doconv_plan *empty, *one;
    expect_ok(doconv_plan_create(context, &desc, NULL, &empty));
    desc.n = 1;
    expect_ok(doconv_plan_create(context, &desc, NULL, &one));
    assert_string_equal(doconv_plan_variant(empty), doconv_plan_variant(one));
    doconv_plan_destroy(empty);
    doconv_plan_destroy(one);
    doconv_context_destroy(context);
}

static void expect_zeros(const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        assert_true(values[i] == 0.0f);
    }
    assert_true(values[count] == 7.0f);
}

static void check_training(doconv_context *context, doconv_composition composition)
{
    doconv_conv_desc desc = problem("mb0_ic4ih5oc8kh3ph1:bias");
    desc.composition = composition;
    desc.d_mul = composition != DOCONV_COMPOSITION_NONE ? 10 : 0;
    doconv_training *training;
    expect_ok(doconv_training_create(context, &desc, NULL, &training));
    assert_int_equal(doconv_training_workspace_size(training), 0);
    assert_int_equal(doconv_training_saved_size(training), 0);
    const size_t weights = 8 * 4 * (desc.d_mul != 0 ? 10 : 9), ds = 4 * 9 * 10;
    float *const weight = calloc(weights, sizeof(float)), *const d = calloc(ds, sizeof(float)),
                 bias[8] = {0.0f}, grad_weight[8 * 4 * 10 + 1], grad_d[4 * 9 * 10 + 1],
                 grad_bias[9];
    const doconv_parameters parameters = {
        .size = sizeof parameters, .weight = weight, .d = desc.d_mul != 0 ? d : NULL, .bias = bias};
    const doconv_gradients gradients = {.size = sizeof gradients,
                                        .weight = grad_weight,
                                        .d = desc.d_mul != 0 ? grad_d : NULL,
                                        .bias = grad_bias};
    expect_ok(doconv_training_forward(training, &parameters, NULL, NULL, NULL, NULL, 0));
    for (size_t i = 0; i < 8 * 4 * 10 + 1; i++) {
        grad_weight[i] = 7.0f;
    }
    for (size_t i = 0; i < ds + 1; i++) {
        grad_d[i] = 7.0f;
    }
    for (int i = 0; i < 9; i++) {
        grad_bias[i] = 7.0f;
    }
    expect_ok(
        doconv_training_backward(training, &parameters, NULL, NULL, NULL, &gradients, NULL, 0));
    expect_zeros(grad_weight, weights);
    expect_zeros(grad_bias, 8);
    if (desc.d_mul != 0) {
        expect_zeros(grad_d, ds);
    }
    expect_status(doconv_training_backward(training, &parameters, NULL, NULL, NULL, NULL, NULL, 0),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_training_forward(training, NULL, NULL, NULL, NULL, NULL, 0),
                  DOCONV_INVALID_ARGUMENT);
    free(weight);
    free(d);
    doconv_training_destroy(training);
}

static void test_training(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    check_training(context, DOCONV_COMPOSITION_NONE);
    check_training(context, DOCONV_COMPOSITION_KERNEL);
    check_training(context, DOCONV_COMPOSITION_FEATURE);
    doconv_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_descriptor),
        cmocka_unit_test(test_execute),
        cmocka_unit_test(test_tuning),
        cmocka_unit_test(test_training),
    };
    return cmocka_run_group_tests_name("empty", tests, NULL, NULL) != 0;
}
