/* SPDX-License-Identifier: MIT */
/*
 * A program of version 0.1: compiled against that version's headers, linked with the library as it
 * is now. Its structs hold anything where it sets nothing: in padding, and past their end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <doconv/doconv.h>
#include <doconv/doconv_train.h>
#include <doconv/doconv_tune.h>

#if DOCONV_VERSION_MAJOR != 0 || DOCONV_VERSION_MINOR != 1
#error "these are not the headers of version 0.1"
#endif

#define FILLED 0x5a
#define BEHIND 64

/* A struct that is zero but for its size, before bytes that are no part of it. */
#define STRUCT(type, variable)                                                                     \
    struct {                                                                                       \
        type is;                                                                                   \
        unsigned char behind[BEHIND];                                                              \
    } variable;                                                                                    \
    memset(&variable, FILLED, sizeof variable);                                                    \
    memset(&variable.is, 0, sizeof variable.is);                                                   \
    variable.is.size = sizeof(type)

static void expect_rest(const unsigned char behind[BEHIND])
{
    for (int i = 0; i < BEHIND; i++) {
        assert_int_equal(behind[i], FILLED);
    }
}
#define EXPECT_WRITTEN(variable)                                                                   \
    do {                                                                                           \
        assert_int_equal((variable).is.size, sizeof(variable).is);                                 \
        expect_rest((variable).behind);                                                            \
    } while (0)

/* Padding at the end of a struct, which a program need not have set. */
#define FILL_PADDING(variable, last)                                                               \
    memset((char *)&(variable).is.last + sizeof(variable).is.last, FILLED,                         \
           (size_t)((char *)(&(variable).is + 1) - (char *)(&(variable).is.last + 1)))

#define LAYER "mb1_ic4ih5oc6kh3ph1:bias"
enum { CIN = 4, COUT = 6, SIDE = 5, TAPS = 9, D_MUL = 9 };
enum { SRC = CIN * SIDE * SIDE, DST = COUT * SIDE * SIDE, WEIGHT = COUT * CIN * TAPS };
enum { W = COUT * CIN * D_MUL, D = CIN * TAPS * D_MUL, MIDDLE = SIDE * SIDE / 2 };

static float ones[1024], bias[COUT];

static doconv_context *make_context(void)
{
    STRUCT(doconv_context_options, options);
    options.is.threads = 2;
    options.is.tune = DOCONV_TUNE_OFF;
    FILL_PADDING(options, cache_directory);
    doconv_context *context = NULL;
    assert_int_equal(doconv_context_create(&options.is, &context), DOCONV_OK);
    return context;
}

static void test_context(void **state)
{
    (void)state;
    doconv_context *context = make_context();
    STRUCT(doconv_context_info, info);
    assert_int_equal(doconv_context_get_info(context, &info.is), DOCONV_OK);
    EXPECT_WRITTEN(info);
    assert_int_equal(info.is.threads, 2);
    assert_int_equal(strlen(info.is.registry), 16);
    STRUCT(doconv_kernel_info, kernel);
    assert_int_equal(doconv_kernel_get(context, 0, &kernel.is), DOCONV_OK);
    EXPECT_WRITTEN(kernel);
    assert_true(kernel.is.name[0] != '\0' && kernel.is.revision >= 1);
    doconv_context_destroy(context);
}

static void test_descriptor(void **state)
{
    (void)state;
    doconv_context *context = make_context();
    STRUCT(doconv_conv_desc, desc);
    assert_int_equal(doconv_conv_desc_init(&desc.is), DOCONV_OK);
    EXPECT_WRITTEN(desc);
    assert_int_equal(desc.is.stride_w, 1);
    assert_int_equal(
        doconv_conv_desc_parse(context, LAYER ",dmul=9,composition=feature,identity", &desc.is),
        DOCONV_OK);
    EXPECT_WRITTEN(desc);
    assert_true(desc.is.d_mul == 9 && desc.is.composition == DOCONV_COMPOSITION_FEATURE &&
                desc.is.add_identity == 1);
    FILL_PADDING(desc, add_identity);
    int64_t shape[4];
    assert_int_equal(doconv_conv_dst_shape(context, &desc.is, shape), DOCONV_OK);
    assert_int_equal(shape[1], COUT);
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    assert_int_equal(doconv_conv_desc_format(context, &desc.is, text, sizeof text), DOCONV_OK);
    assert_non_null(strstr(text, "dmul=9,composition=feature"));
    doconv_context_destroy(context);
}

/* Runs a plan with src all ones; the middle pixel of channel 0. */
static float run(const doconv_plan *plan, const doconv_weights *weights)
{
    float dst[DST];
    const size_t size = doconv_plan_workspace_size(plan);
    void *workspace = malloc(size + 1);
    assert_int_equal(doconv_execute(plan, weights, ones, NULL, dst, workspace, size), DOCONV_OK);
    free(workspace);
    return dst[MIDDLE];
}

static void test_plan(void **state)
{
    (void)state;
    doconv_context *context = make_context();
    STRUCT(doconv_conv_desc, desc);
    assert_int_equal(doconv_conv_desc_parse(context, LAYER, &desc.is), DOCONV_OK);
    FILL_PADDING(desc, add_identity);
    STRUCT(doconv_plan_options, options);
    options.is.rigor = DOCONV_RIGOR_ESTIMATE;
    doconv_candidates *list = NULL;
    assert_int_equal(doconv_candidates_create(context, &desc.is, &options.is, &list), DOCONV_OK);
    STRUCT(doconv_candidate_info, candidate);
    assert_int_equal(doconv_candidates_get(list, 0, &candidate.is), DOCONV_OK);
    EXPECT_WRITTEN(candidate);
    assert_true(candidate.is.refused == NULL && candidate.is.packed_size > 0);
    doconv_candidates_destroy(list);
    doconv_plan *plan = NULL;
    assert_int_equal(doconv_plan_create(context, &desc.is, &options.is, &plan), DOCONV_OK);
    doconv_weights *weights = NULL;
    assert_int_equal(doconv_weights_create(plan, ones, bias, &weights), DOCONV_OK);
    assert_true(run(plan, weights) == CIN * TAPS + 0.5f);
    doconv_weights_destroy(weights);

    STRUCT(doconv_fold_desc, fold);
    fold.is.cout = COUT;
    fold.is.cin = CIN;
    fold.is.kh = fold.is.kw = 3;
    fold.is.groups = 1;
    fold.is.d_mul = D_MUL;
    fold.is.add_identity = 1;
    float weight[WEIGHT], grad_w[W], grad_d[D];
    assert_int_equal(doconv_fold(context, &fold.is, ones, ones, weight), DOCONV_OK);
    assert_true(weight[0] == D_MUL + 1 && weight[WEIGHT - 1] == D_MUL + 1);
    assert_int_equal(doconv_fold_gradient(context, &fold.is, ones, ones, ones, grad_w, grad_d),
                     DOCONV_OK);
    assert_true(grad_w[0] == TAPS + 1 && grad_d[0] == COUT);
    assert_int_equal(doconv_weights_fold(plan, &fold.is, ones, ones, bias, &weights), DOCONV_OK);
    assert_true(run(plan, weights) == CIN * TAPS * (D_MUL + 1) + 0.5f);
    doconv_weights_destroy(weights);
    doconv_plan_destroy(plan);
    doconv_context_destroy(context);
}

static void test_training(void **state)
{
    (void)state;
    doconv_context *context = make_context();
    STRUCT(doconv_conv_desc, desc);
    assert_int_equal(doconv_conv_desc_parse(context, LAYER ",dmul=9", &desc.is), DOCONV_OK);
    FILL_PADDING(desc, add_identity);
    STRUCT(doconv_training_options, options);
    options.is.rigor = DOCONV_RIGOR_ESTIMATE;
    FILL_PADDING(options, rigor);
    doconv_training *training = NULL;
    assert_int_equal(doconv_training_create(context, &desc.is, &options.is, &training), DOCONV_OK);
    STRUCT(doconv_parameters, parameters);
    parameters.is.weight = parameters.is.d = ones;
    parameters.is.bias = bias;
    const size_t size = doconv_training_workspace_size(training);
    void *workspace = malloc(size + 1);
    float dst[DST], grad_src[SRC], grad_w[W], grad_bias[COUT];
    assert_int_equal(
        doconv_training_forward(training, &parameters.is, ones, dst, NULL, workspace, size),
        DOCONV_OK);
    assert_true(dst[MIDDLE] == CIN * TAPS * D_MUL + 0.5f);
    STRUCT(doconv_gradients, gradients);
    gradients.is.src = grad_src;
    gradients.is.weight = grad_w;
    gradients.is.bias = grad_bias;
    assert_int_equal(doconv_training_backward(training, &parameters.is, ones, ones, NULL,
                                              &gradients.is, workspace, size),
                     DOCONV_OK);
    assert_true(grad_src[MIDDLE] == COUT * TAPS * D_MUL && grad_bias[0] == SIDE * SIDE);
    free(workspace);
    doconv_training_destroy(training);
    doconv_context_destroy(context);
}

static void see_layer(void *user, const doconv_folded_layer *layer)
{
    *(bool *)user = layer->size >= sizeof *layer && strcmp(layer->name, "a") == 0 &&
                    layer->desc->size >= sizeof *layer->desc && layer->desc->cout == 1 &&
                    layer->has_d == 1 && layer->bytes_after == sizeof(float);
}

static void test_checkpoint(void **state)
{
    (void)state;

#define ONE(part, begin, end)                                                                      \
    "\"a." part "\":{\"dtype\":\"F32\",\"shape\":[1,1,1],\"data_offsets\":[" begin "," end "]}"
    static const char header[] =
        "{" ONE("W", "0", "4") "," ONE("D", "4", "8") "," ONE("d_diag", "8", "12") "}";
    enum { LENGTH = sizeof header - 1 };
    unsigned char file[8 + LENGTH + 12] = {LENGTH};
    memcpy(file + 8, header, LENGTH);
    doconv_context *context = make_context();
    STRUCT(doconv_fold_checkpoint_options, options);
    bool seen = false;
    options.is.report = see_layer;
    options.is.report_user = &seen;
    void *result = NULL;
    size_t size = 0;
    const doconv_status status =
        doconv_fold_checkpoint(context, file, sizeof file, &options.is, &result, &size);
    if (status != DOCONV_UNSUPPORTED) { /* a build without Jansson */
        assert_int_equal(status, DOCONV_OK);
        assert_true(seen && result != NULL && size > 8);
    }
    doconv_checkpoint_free(context, result);
    doconv_context_destroy(context);
}

static void test_tune(void **state)
{
    (void)state;
    doconv_context *context = make_context();
    STRUCT(doconv_conv_desc, desc);
    assert_int_equal(doconv_conv_desc_parse(context, LAYER, &desc.is), DOCONV_OK);
    FILL_PADDING(desc, add_identity);
    STRUCT(doconv_kernel_info, kernel);
    for (int i = 0; i < doconv_kernel_count(context); i++) {
        assert_int_equal(doconv_kernel_get(context, i, &kernel.is), DOCONV_OK);
        if (strcmp(kernel.is.operation, "reference") == 0) {
            break;
        }
    }
    STRUCT(doconv_plan_options, plan_options);
    plan_options.is.variant = kernel.is.name; /* nothing is stored then */
    STRUCT(doconv_tune_options, options);
    options.is.budget_seconds = 1e-3;
    doconv_tune_report *report = NULL;
    const doconv_status status =
        doconv_tune(context, &desc.is, &plan_options.is, &options.is, &report);
    if (status != DOCONV_UNSUPPORTED) { /* a build without tuner */
        assert_int_equal(status, DOCONV_OK);
        STRUCT(doconv_tune_summary, summary);
        assert_int_equal(doconv_tune_report_summary(report, &summary.is), DOCONV_OK);
        EXPECT_WRITTEN(summary);
        assert_true(summary.is.seconds > 0.0 && summary.is.measured == 1);
        STRUCT(doconv_tune_entry, entry);
        assert_int_equal(doconv_tune_report_get(report, 0, &entry.is), DOCONV_OK);
        EXPECT_WRITTEN(entry);
        assert_string_equal(entry.is.variant, summary.is.variant);
    }
    doconv_tune_report_destroy(report);
    doconv_context_destroy(context);
}

int main(void)
{
    for (size_t i = 0; i < sizeof ones / sizeof ones[0]; i++) {
        ones[i] = 1.0f;
    }
    for (size_t i = 0; i < COUT; i++) {
        bias[i] = 0.5f;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_context),    cmocka_unit_test(test_descriptor),
        cmocka_unit_test(test_plan),       cmocka_unit_test(test_training),
        cmocka_unit_test(test_checkpoint), cmocka_unit_test(test_tune),
    };
    return cmocka_run_group_tests_name("old headers", tests, NULL, NULL) != 0;
}
