/* SPDX-License-Identifier: MIT */
/*
 * Descriptors out of range: each field alone, through every function that takes one; the status,
 * and a detail that names the field and the value.
 */
#include <math.h>
#include <time.h>

#include <doconv/doconv_train.h>
#include <doconv/doconv_tune.h>

#include "api_support.h"

static doconv_conv_desc good(void)
{
    return problem("g2mb2_ic4ih6iw7oc6kh3kw3sh2sw2ph1pw1:bias");
}

/* Every function that validates says the same. field: must be in the detail, NULL: any. */
static void expect_refused(const doconv_conv_desc *desc, doconv_status expected, const char *field,
                           const char *value)
{
    doconv_context *context = open_context();
    const doconv_plan_options options = plan_options();
    doconv_plan *plan = (doconv_plan *)desc; /* anything but NULL */
    expect_status(doconv_plan_create(context, desc, &options, &plan), expected);
    assert_null(plan);
    expect_error(context, field, value);
    doconv_context_destroy(context);

    context = open_context();
    doconv_candidates *list = (doconv_candidates *)desc;
    expect_status(doconv_candidates_create(context, desc, NULL, &list), expected);
    assert_null(list);
    expect_error(context, field, value);
    doconv_context_destroy(context);

    context = open_context();
    int64_t shape[4] = {-7, -7, -7, -7};
    expect_status(doconv_conv_dst_shape(context, desc, shape), expected);
    assert_true(shape[0] == -7 && shape[3] == -7);
    expect_error(context, field, value);
    expect_status(doconv_conv_dst_shape(NULL, desc, shape), expected);
    doconv_context_destroy(context);

    context = open_context();
    char text[DOCONV_PROBLEM_TEXT_SIZE] = "untouched";
    expect_status(doconv_conv_desc_format(context, desc, text, sizeof text), expected);
    assert_string_equal(text, "untouched");
    expect_error(context, field, value);
    expect_status(doconv_conv_desc_format(NULL, desc, text, sizeof text), expected);
    doconv_context_destroy(context);
}

static void test_dimensions(void **state)
{
    (void)state;
#define FIELD(name, least)                                                                         \
    {                                                                                              \
#name, offsetof(doconv_conv_desc, name), least                                             \
    }
    static const struct {
        const char *name;
        size_t offset;
        int64_t least;
    } fields[] = {FIELD(n, 0),         FIELD(cin, 1),        FIELD(h, 1),
                  FIELD(w, 1),         FIELD(cout, 1),       FIELD(kh, 1),
                  FIELD(kw, 1),        FIELD(stride_h, 1),   FIELD(stride_w, 1),
                  FIELD(pad_top, 0),   FIELD(pad_left, 0),   FIELD(pad_bottom, 0),
                  FIELD(pad_right, 0), FIELD(dilation_h, 1), FIELD(dilation_w, 1),
                  FIELD(groups, 1),    FIELD(d_mul, 0)};
#undef FIELD
    static const int64_t values[] = {
        0, -1, -2147483647, INT64_MIN, INT64_C(1) << 31, INT64_C(1) << 40, INT64_MAX};
    for (size_t f = 0; f < sizeof fields / sizeof fields[0]; f++) {
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            if (values[v] >= fields[f].least && values[v] < INT64_C(1) << 31) {
                continue;
            }
            doconv_conv_desc desc = good();
            memcpy((char *)&desc + fields[f].offset, &values[v], sizeof values[v]);
            char name[32], value[32];
            snprintf(name, sizeof name, "%s: ", fields[f].name);
            snprintf(value, sizeof value, "%" PRId64, values[v]);
            expect_refused(&desc,
                           values[v] < fields[f].least ? DOCONV_INVALID_PROBLEM : DOCONV_OVERFLOW,
                           name, value);
        }
    }
}

static void test_flags_and_enums(void **state)
{
    (void)state;
#define FIELD(name, most)                                                                          \
    {                                                                                              \
#name, offsetof(doconv_conv_desc, name), sizeof(((doconv_conv_desc *)0)->name), most       \
    }
    static const struct {
        const char *name;
        size_t offset, size;
        int most;
    } fields[] = {FIELD(src_layout, 3),  FIELD(dst_layout, 3),  FIELD(has_bias, 1),
                  FIELD(residual, 1),    FIELD(relu, 1),        FIELD(clamp, 1),
                  FIELD(accuracy, 2),    FIELD(composition, 3), FIELD(mapping, 2),
                  FIELD(add_identity, 1)};
#undef FIELD
    for (size_t f = 0; f < sizeof fields / sizeof fields[0]; f++) {
        const int values[] = {-1, fields[f].most + 1, 1000000, INT32_MIN, INT32_MAX};
        assert_int_equal(fields[f].size, sizeof values[0]);
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            doconv_conv_desc desc = good();
            memcpy((char *)&desc + fields[f].offset, &values[v], sizeof values[v]);
            char name[32], value[32];
            snprintf(name, sizeof name, "%s: ", fields[f].name);
            snprintf(value, sizeof value, "%d", values[v]);
            expect_refused(&desc, DOCONV_INVALID_PROBLEM, name, value);
        }
    }
}

static void test_size(void **state)
{
    (void)state;
    struct {
        doconv_conv_desc desc;
        int64_t unknown;
    } newer = {good(), 1};
    static const size_t sizes[] = {0,
                                   1,

                                   sizeof newer.desc - 1,
                                   sizeof newer,
                                   1000000,
                                   SIZE_MAX - 7,
                                   SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        newer.desc.size = sizes[i];
        char value[32];
        snprintf(value, sizeof value, "%zu", sizes[i]);
        expect_refused(&newer.desc, DOCONV_MISMATCH, "doconv_conv_desc.size", value);
    }
    expect_status(doconv_conv_desc_init(NULL), DOCONV_INVALID_ARGUMENT);
    doconv_conv_desc desc;
    memset(&desc, 0xa5, sizeof desc);
    expect_ok(doconv_conv_desc_init(&desc));
    assert_int_equal(desc.size, sizeof desc);
    int64_t shape[4];
    expect_ok(doconv_conv_dst_shape(NULL, &desc, shape)); /* the defaults are a valid problem */
    assert_true(shape[0] == 1 && shape[1] == 1 && shape[2] == 1 && shape[3] == 1);
    assert_true(!desc.has_bias && !desc.residual && !desc.relu && !desc.clamp && desc.d_mul == 0 &&
                desc.src_layout == DOCONV_NCHW);
}

static void test_groups(void **state)
{
    (void)state;
    doconv_conv_desc desc = good();
    desc.groups = 3; /* divides cout = 6, not cin = 4 */
    expect_refused(&desc, DOCONV_INVALID_PROBLEM, "groups: 3", "cin = 4");
    desc.groups = 4; /* the other way round */
    expect_refused(&desc, DOCONV_INVALID_PROBLEM, "groups: 4", "cout = 6");
    desc.groups = 8;
    expect_refused(&desc, DOCONV_INVALID_PROBLEM, "groups: 8", NULL);
}

static void test_empty_output(void **state)
{
    (void)state;
    doconv_conv_desc desc = good();
    desc.h = 1;
    desc.pad_top = desc.pad_bottom = 0;
    expect_refused(&desc, DOCONV_INVALID_PROBLEM, "h: ", "3");
    desc = good();
    desc.w = 1;
    desc.pad_left = desc.pad_right = 0;
    expect_refused(&desc, DOCONV_INVALID_PROBLEM, "w: ", "3");
    desc = good();
    desc.dilation_w = 100;
    expect_refused(&desc, DOCONV_INVALID_PROBLEM, "w: ", "201");
    /* One pixel is enough. */
    desc = good();
    desc.h = 2;
    desc.pad_top = 1;
    desc.pad_bottom = 0;
    int64_t shape[4];
    expect_ok(doconv_conv_dst_shape(NULL, &desc, shape));
    assert_int_equal(shape[2], 1);
}

static void test_clamp(void **state)
{
    (void)state;
    static const struct {
        float lo, hi;
        bool valid;
    } rows[] = {{1, 0, false},       {0, 1, true},
                {2, 2, true},        {-INFINITY, 6, true},
                {0, INFINITY, true}, {-INFINITY, INFINITY, true},
                {NAN, 1, false},     {0, NAN, false},
                {NAN, NAN, false},   {INFINITY, -INFINITY, false}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        doconv_conv_desc desc = good();
        desc.clamp = 1;
        desc.clamp_lo = rows[i].lo;
        desc.clamp_hi = rows[i].hi;
        if (!rows[i].valid) {
            expect_refused(&desc, DOCONV_INVALID_PROBLEM, "clamp", NULL);
        }
        int64_t shape[4];
        if (rows[i].valid) {
            expect_ok(doconv_conv_dst_shape(NULL, &desc, shape));
        }
        desc.clamp = 0; /* ignored then */
        expect_ok(doconv_conv_dst_shape(NULL, &desc, shape));
    }
    doconv_conv_desc desc = good();
    desc.clamp = 1;
    desc.clamp_lo = 2.5f;
    desc.clamp_hi = -1.5f;
    expect_refused(&desc, DOCONV_INVALID_PROBLEM, "2.5", "-1.5");
}

static void test_composition(void **state)
{
    (void)state;
    doconv_conv_desc desc = good();
    desc.d_mul = 9;
    expect_refused(&desc, DOCONV_INVALID_PROBLEM, "composition: 0", "9");
    desc.composition = DOCONV_COMPOSITION_FEATURE;
    desc.d_mul = 0;
    expect_refused(&desc, DOCONV_INVALID_PROBLEM, "composition: 2", "d_mul");
    desc = good();
    desc.mapping = DOCONV_MAPPING_TENSORFLOW;
    expect_refused(&desc, DOCONV_INVALID_PROBLEM, "mapping: 2", "d_mul = 0");
    desc = good();
    desc.add_identity = 1;
    expect_refused(&desc, DOCONV_INVALID_PROBLEM, "add_identity: 1", "d_mul = 0");
    /* W, and D: Cin x (KH*KW) x D_mul. */
    desc = good();
    desc.composition = DOCONV_COMPOSITION_KERNEL;
    desc.d_mul = INT32_MAX;
    desc.cin = desc.cout = 1 << 11;
    expect_refused(&desc, DOCONV_OVERFLOW, "d_mul: 2147483647", NULL);
    desc.cin = desc.groups = 1 << 7;
    desc.cout = 1 << 10;
    expect_refused(&desc, DOCONV_OVERFLOW, "d_mul: 2147483647", NULL);
}

/* A DO-Conv layer is a problem like any other, but plans and training differ in what they take. */
static void test_doconv_layers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        doconv_status training;
    } rows[] = {
        {"g2mb2_ic4ih6oc6kh3ph1:bias,dmul=9", DOCONV_OK},
        {"g2mb2_ic4ih6oc6kh3ph1:dmul=4,mapping=tensorflow,identity", DOCONV_OK},
        {"g2mb2_ic4ih6oc6kh3ph1:dmul=12,composition=feature,identity", DOCONV_OK},
        {"g2mb2_ic4ih6oc6kh3ph1:dmul=9,composition=feature,mapping=tensorflow", DOCONV_UNSUPPORTED},
        {"g2mb2_ic4ih6oc6kh3ph1:dmul=9,composition=feature,mapping=pytorch", DOCONV_UNSUPPORTED},
        /* Mappings that are the paper's for the layer. */
        {"ic4ih6oc6kh3ph1:dmul=9,composition=feature,mapping=pytorch", DOCONV_OK},
        {"g4ic4ih6oc8kh3ph1:dmul=9,composition=feature,mapping=tensorflow", DOCONV_OK},
        {"g4ic8ih6oc4kh3ph1:dmul=9,composition=feature,mapping=pytorch", DOCONV_OK},
        {"ic4ih6oc6:dmul=1", DOCONV_OK},
        {"ic4ih6oc6:dmul=3,composition=feature", DOCONV_OK},
        {"ic4ih6oc6kh3ph1:relu,dmul=9", DOCONV_UNSUPPORTED},
    };
    doconv_context *context = open_context();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const doconv_conv_desc desc = problem(rows[i].text);
        int64_t shape[4];
        expect_ok(doconv_conv_dst_shape(context, &desc, shape));
        assert_true(shape[1] == desc.cout && shape[2] == 6 && shape[3] == 6);
        char text[DOCONV_PROBLEM_TEXT_SIZE];
        expect_ok(doconv_conv_desc_format(context, &desc, text, sizeof text));
        doconv_training *training = NULL;
        const doconv_status status = doconv_training_create(context, &desc, NULL, &training);
        if (status != rows[i].training) {
            fail_msg("%s: %s", rows[i].text, doconv_status_string(status));
        }
        doconv_training_destroy(training);
        doconv_plan *plan = NULL;
        char detail[32];
        snprintf(detail, sizeof detail, "d_mul: %" PRId64 ": plans", desc.d_mul);
        expect_status(doconv_plan_create(context, &desc, NULL, &plan), DOCONV_UNSUPPORTED);
        expect_error(context, detail, NULL);
        doconv_candidates *list = NULL;
        expect_status(doconv_candidates_create(context, &desc, NULL, &list), DOCONV_UNSUPPORTED);
        expect_error(context, detail, NULL);
        doconv_tune_report *report = NULL;
        expect_status(doconv_tune(context, &desc, NULL, NULL, &report), DOCONV_UNSUPPORTED);
        assert_true(plan == NULL && list == NULL && report == NULL);
    }
    doconv_context_destroy(context);
}

static void test_tensor_overflow(void **state)
{
    (void)state;
    doconv_conv_desc desc = good();
    desc.groups = 1;
    desc.n = desc.cin = desc.h = desc.w = 1 << 20;
    expect_refused(&desc, DOCONV_OVERFLOW, "src: ", "1048576");
    doconv_conv_desc_init(&desc);
    desc.n = INT32_MAX;
    desc.h = 1 << 20;
    desc.cout = 1 << 20;
    expect_refused(&desc, DOCONV_OVERFLOW, "dst: ", "2147483647");
    doconv_conv_desc_init(&desc);
    desc.cin = desc.cout = 1 << 30;
    expect_refused(&desc, DOCONV_OVERFLOW, "weight: ", "1073741824");
    /* A blocked layout's padding counts. */
    doconv_conv_desc_init(&desc);
    desc.n = INT32_MAX;
    desc.h = 1 << 28;
    desc.src_layout = DOCONV_NCHW16C;
    expect_refused(&desc, DOCONV_OVERFLOW, "src: ", NULL);
    doconv_conv_desc_init(&desc);
    desc.pad_top = desc.pad_bottom = INT32_MAX;
    expect_refused(&desc, DOCONV_OVERFLOW, "h: ", "4294967295");
}

/* At the edges of what is valid: an answer within seconds and without a crash, whatever it is. */
static void test_extremes(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "ic1ih2147483647iw1oc1kh1kw1",
        "ic1ih1iw2147483647oc1kh1kw1",
        "ic1ih1iw2147483647oc1kh1kw3ph0pw1",
        "ic2147483647ih1oc1kh1",
        "ic1ih1oc2147483647kh1",
        "mb2147483647_ic1ih1oc1kh1",
        "ic65536ih65536iw65536oc16kh1kw1",
        "ic1ih1iw1oc1oh2147483647ow1kh1kw1ph2147483646pw0",
        "ic1ih1iw1oc1kh2147483647kw1ph1073741823pw0",
        "ic16ih32768iw32768oc16kh32767kw32767ph16383pw16383",
        "ic3ih40000iw40000oc64kh7kw7sh2sw2ph3pw3:dst=nhwc",
        "ic1ih2147483647iw1oc1kh3kw1ph1pw0dh1073741822dw0",
        "ic64ih1073741824iw1oc64kh1kw1sh2147483647sw1:src=nhwc,dst=nhwc",
        "g2147483647ic2147483647ih1oc2147483647kh1",
        "ic16ih3000iw3000oc16kh3kw3ph1000pw1000dh999dw999:src=nChw16c,dst=nChw16c",
        "ic16ih30000iw2oc16kh20001kw1ph10000pw0:src=nhwc",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        doconv_context *context = open_context();
        doconv_conv_desc desc;
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        doconv_status status = doconv_conv_desc_parse(context, texts[i], &desc);
        if (status == DOCONV_OK) {
            doconv_candidates *list;
            status = doconv_candidates_create(context, &desc, NULL, &list);
            if (status == DOCONV_OK) {
                assert_true(doconv_candidates_count(list) >= 1);
                doconv_candidates_destroy(list);
            }
            doconv_plan *plan = NULL;
            status = doconv_plan_create(context, &desc, NULL, &plan);
            doconv_plan_destroy(plan);
        }
        clock_gettime(CLOCK_MONOTONIC, &end);
        const double seconds =
            (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
        if (status != DOCONV_OK && status != DOCONV_UNSUPPORTED && status != DOCONV_OVERFLOW &&
            status != DOCONV_OUT_OF_MEMORY) {
            fail_msg("%s: %s", texts[i], doconv_status_string(status));
        }
        if (seconds > 20.0) {
            fail_msg("%s: planning took %.1f seconds", texts[i], seconds);
        }
        doconv_context_destroy(context);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dimensions),   cmocka_unit_test(test_flags_and_enums),
        cmocka_unit_test(test_size),         cmocka_unit_test(test_groups),
        cmocka_unit_test(test_empty_output), cmocka_unit_test(test_clamp),
        cmocka_unit_test(test_composition),  cmocka_unit_test(test_tensor_overflow),
        cmocka_unit_test(test_extremes),     cmocka_unit_test(test_doconv_layers),
    };
    return cmocka_run_group_tests_name("desc", tests, NULL, NULL) != 0;
}
