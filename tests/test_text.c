/* SPDX-License-Identifier: MIT */
/* Problems as text: what is read, what is refused, and that writing is canonical. */
#include <locale.h>

#include "api_support.h"

static void expect_text(const doconv_conv_desc *desc, const char *expected)
{
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    expect_ok(doconv_conv_desc_format(NULL, desc, text, sizeof text));
    assert_string_equal(text, expected);
}

static bool same_problem(const doconv_conv_desc *a, const doconv_conv_desc *b)
{
    return a->n == b->n && a->cin == b->cin && a->h == b->h && a->w == b->w && a->cout == b->cout &&
           a->kh == b->kh && a->kw == b->kw && a->stride_h == b->stride_h &&
           a->stride_w == b->stride_w && a->pad_top == b->pad_top && a->pad_left == b->pad_left &&
           a->pad_bottom == b->pad_bottom && a->pad_right == b->pad_right &&
           a->dilation_h == b->dilation_h && a->dilation_w == b->dilation_w &&
           a->groups == b->groups && a->src_layout == b->src_layout &&
           a->dst_layout == b->dst_layout && a->has_bias == b->has_bias &&
           a->residual == b->residual && a->relu == b->relu && a->clamp == b->clamp &&
           (!a->clamp || (a->clamp_lo == b->clamp_lo && a->clamp_hi == b->clamp_hi)) &&
           a->accuracy == b->accuracy && a->d_mul == b->d_mul && a->composition == b->composition &&
           a->mapping == b->mapping && a->add_identity == b->add_identity;
}

static void test_fields(void **state)
{
    (void)state;
    const doconv_conv_desc d =
        problem("g2mb3_ic4ih10iw11oc6oh4ow5kh3kw2sh2sw3ph1pw2dh1dw0n\"a name: x,y\""
                ":src=nhwc,dst=nChw8c,bias,residual,relu,clamp=-1.5/6,accuracy=fast");
    assert_int_equal(d.groups, 2);
    assert_int_equal(d.n, 3);
    assert_int_equal(d.cin, 4);
    assert_int_equal(d.h, 10);
    assert_int_equal(d.w, 11);
    assert_int_equal(d.cout, 6);
    assert_int_equal(d.kh, 3);
    assert_int_equal(d.kw, 2);
    assert_int_equal(d.stride_h, 2);
    assert_int_equal(d.stride_w, 3);
    assert_int_equal(d.pad_top, 1);
    assert_int_equal(d.pad_left, 2);
    assert_int_equal(d.dilation_h, 2);
    assert_int_equal(d.dilation_w, 1);
    assert_int_equal(d.src_layout, DOCONV_NHWC);
    assert_int_equal(d.dst_layout, DOCONV_NCHW8C);
    assert_true(d.has_bias && d.residual && d.relu && d.clamp);
    assert_true(d.clamp_lo == -1.5f && d.clamp_hi == 6.0f);
    assert_int_equal(d.accuracy, DOCONV_ACCURACY_FAST);
    int64_t shape[4];
    expect_ok(doconv_conv_dst_shape(NULL, &d, shape));
    assert_true(shape[0] == 3 && shape[1] == 6 && shape[2] == 4 && shape[3] == 5);
}

static void test_defaults(void **state)
{
    (void)state;
    /*
     * Without a width field each takes the height's value, n and groups are 1, strides 1, no
     * padding, no dilation.
     */
    const doconv_conv_desc d = problem("ic5ih9oc7kh3ph1"),
                           full = problem("g1mb1_ic5ih9iw9oc7oh9ow9kh3kw3sh1sw1ph1pw1dh0dw0");
    assert_true(same_problem(&d, &full));
    const doconv_conv_desc pointwise = problem("ic5ih9oc7");
    assert_true(pointwise.kh == 1 && pointwise.kw == 1 && pointwise.w == 9);
    /* The output decides the bottom and right padding. */
    const doconv_conv_desc asymmetric = problem("ic3ih10iw8oc4oh5ow4kh3kw3sh2sw2ph0pw0");
    assert_true(asymmetric.pad_top == 0 && asymmetric.pad_bottom == 1 && asymmetric.pad_left == 0 &&
                asymmetric.pad_right == 1);
    /* A width of zero is a value, not a missing one. */
    const doconv_conv_desc no_width_padding = problem("ic3ih10iw10oc4kh3kw3ph1pw0");
    assert_true(no_width_padding.pad_top == 1 && no_width_padding.pad_left == 0);
    /* Separators between fields may be there or not. */
    const doconv_conv_desc spaced = problem("_ic5_ih9__oc7_kh3_ph1_");
    assert_true(same_problem(&d, &spaced));
}

static void test_malformed(void **state)
{
    (void)state;
    static const struct {
        const char *text, *detail; /* detail: part of the message, NULL: any */
    } rows[] = {
        {"", "ic"},
        {":", NULL},
        {":relu", NULL},
        {"ic3", NULL},
        {"ic3ih5", "oc"},
        {"ih5oc3", "ic"},
        {"ic3oc3", "ih"},
        {"ic3ih5oc", "oc"},
        {"icih5oc3", "ic"},
        {"ic3ih5oc3kh", "kh"},
        {"ic3ih5oc3zz3", "zz3"},
        {"ic3ih5oc3 ", NULL},
        {" ic3ih5oc3", NULL},
        {"ic3ih5oc3\n", NULL},
        {"ic3ih5oc-3", "oc"},
        {"ic+3ih5oc3", "ic"},
        {"ic3.5ih5oc3", NULL},
        {"ic3ih5oc3e2", NULL},
        {"ic0x3ih5oc3", NULL},
        {"ic3ic4ih5oc3", "twice"},
        {"ic3ih5oc3oc3", "twice"},
        {"ic2147483648ih5oc3", "ic"},
        {"ic99999999999999999999999999ih5oc3", "ic"},
        {"IC3IH5OC3", NULL},
        {"ic3ih5oc3n\"open", "name"},
        {"ic3ih5oc3n\"a\"kh3", "kh3"},
        {"ic3ih5oc3n\"a\"_", "after the name"},
        {"ic3ih5oc3n\"a\"*", "after the name"},
        {"ic3ih5oc3n\"a\"*4x", "after the name"},
        {"ic3ih5oc3nnet:conv1*4", "needs quotes"},
        /* Half-written axes. */
        {"ic3ih5oc3pw1", "iw is missing"},
        {"ic3ih10oc4kh3ph1pw0", "iw is missing"},
        {"ic3ih5iw5oc3kh3", "kw is missing"},
        {"ic3ih5iw5oc3kw3", "kh is missing"},
        {"ic3iw5oc3kw3sh1", "ih is missing"},
        {"ic3oc3kw3", "iw is missing"},
        {"ic3ih5oc3,relu", NULL},
        {"ic3ih5oc3:", NULL},
        {"ic3ih5oc3:relu,", NULL},
        {"ic3ih5oc3:,relu", NULL},
        {"ic3ih5oc3:relu bias", NULL},
        {"ic3ih5oc3:relu:bias", NULL},
        {"ic3ih5oc3:Relu", "Relu"},
        {"ic3ih5oc3:relux", "relux"},
        {"ic3ih5oc3:src", "src"},
        {"ic3ih5oc3:src=", "src="},
        {"ic3ih5oc3:src=nchwx", NULL},
        {"ic3ih5oc3:src=NCHW", "NCHW"},
        {"ic3ih5oc3:dst=nChw4c", "nChw4c"},
        {"ic3ih5oc3:dst=nChw1", NULL},
        {"ic3ih5oc3:clamp", "clamp"},
        {"ic3ih5oc3:clamp=", "clamp="},
        {"ic3ih5oc3:clamp=1", NULL},
        {"ic3ih5oc3:clamp=1/", NULL},
        {"ic3ih5oc3:clamp=/1", NULL},
        {"ic3ih5oc3:clamp=0/nan", NULL},
        {"ic3ih5oc3:clamp=0/1/2", NULL},
        {"ic3ih5oc3:clamp=1e999999999999/2", NULL},
        {"ic3ih5oc3:accuracy=", NULL},
        {"ic3ih5oc3:accuracy=best", "best"},
        {"ic3ih5oc3:bias=1", "bias"},
        {"ic3ih5oc3:threads=4", "threads"},
        {"ic3ih5oc3:dmul", "dmul"},
        {"ic3ih5oc3:dmul=", "dmul="},
        {"ic3ih5oc3:dmul=-9", "dmul=-9"},
        {"ic3ih5oc3:dmul=2147483648", "dmul=2147483648"},
        {"ic3ih5oc3:dmul=9x", NULL},
        {"ic3ih5oc3:dmul=9,composition=none", "composition=none"},
        {"ic3ih5oc3:dmul=9,composition=", "composition="},
        {"ic3ih5oc3:dmul=9,composition=kernels", "composition=kernels"},
        {"ic3ih5oc3:dmul=9,mapping=jax", "mapping=jax"},
        {"ic3ih5oc3:dmul=9,mapping=", "mapping="},
        {"ic3ih5oc3:dmul=9,identity=1", "identity=1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        doconv_context *context = open_context();
        doconv_conv_desc desc;
        memset(&desc, 0x5a, sizeof desc);
        const doconv_conv_desc before = desc;
        const doconv_status status = doconv_conv_desc_parse(context, rows[i].text, &desc);
        if (status != DOCONV_INVALID_ARGUMENT) {
            fail_msg("\"%s\": %s", rows[i].text, doconv_status_string(status));
        }
        assert_memory_equal(&desc, &before, sizeof desc);
        expect_error(context, rows[i].detail, NULL);
        expect_status(doconv_conv_desc_parse(NULL, rows[i].text, &desc), DOCONV_INVALID_ARGUMENT);
        doconv_context_destroy(context);
    }
}

/* Well-formed texts of problems that are none: what validation says. */
static void test_invalid(void **state)
{
    (void)state;
    static const struct {
        const char *text, *detail;
    } rows[] = {
        {"ic0ih5oc3", "cin: 0"},
        {"ic3ih0oc3", "h: 0"},
        {"ic3ih5iw0oc3", "w: 0"},
        {"ic3ih5oc0", "cout: 0"},
        {"mb1_ic0ih5oc3", "cin: 0"},
        {"g0ic3ih5oc3", "groups: 0"},
        {"g2ic3ih5oc3", "groups: 2"},
        {"ic3ih5oc3kh0", "kh: 0"},
        {"ic3ih5iw5oc3kh3kw0", "kw: 0"},
        {"ic3ih5oc3sh0", "stride_h: 0"},
        {"ic3ih5oc3kh6", "h: "},
        {"ic3ih5oc3kh3dh2", "h: "},
        {"ic3ih5oc3:clamp=2/1", "clamp"},
        {"ic3ih5oc3oh3kh3ph1", "oh: 3"},
        {"ic3ih5oc3oh0", "oh: 0"},
        {"ic3ih5iw5oc3oh5ow4", "ow: 4"},
        /* An output that no padding gives: less than none. */
        {"ic3ih10oc3oh4kh3", "oh: 4"},
        {"ic3iw10oc3ow4kw3", "ow: 4"},
        {"ic3ih5oc3:composition=kernel", "composition: 1"},
        {"ic3ih5oc3:dmul=0,composition=feature", "composition: 2"},
        {"g3ic3ih5oc3:mapping=pytorch", "mapping: 1"},
        {"ic3ih5oc3:identity", "add_identity: 1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        doconv_context *context = open_context();
        doconv_conv_desc desc;
        const doconv_status status = doconv_conv_desc_parse(context, rows[i].text, &desc);
        if (status != DOCONV_INVALID_PROBLEM) {
            char text[256];
            doconv_context_last_error(context, text, sizeof text);
            fail_msg("\"%s\": %s: %s", rows[i].text, doconv_status_string(status), text);
        }
        expect_error(context, rows[i].detail, NULL);
        doconv_context_destroy(context);
    }
}

static void test_arguments(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    doconv_conv_desc desc = problem("ic3ih5oc3");
    expect_status(doconv_conv_desc_parse(context, NULL, &desc), DOCONV_INVALID_ARGUMENT);
    expect_error(context, "text: NULL", NULL);
    expect_status(doconv_conv_desc_parse(context, "ic3ih5oc3", NULL), DOCONV_INVALID_ARGUMENT);
    expect_error(context, "desc: NULL", NULL);
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    expect_status(doconv_conv_desc_format(context, NULL, text, sizeof text),
                  DOCONV_INVALID_ARGUMENT);
    expect_error(context, "desc: NULL", NULL);
    expect_status(doconv_conv_desc_format(context, &desc, NULL, sizeof text),
                  DOCONV_INVALID_ARGUMENT);
    expect_error(context, "text: ", NULL);
    /* The text fits whole or not at all. */
    expect_ok(doconv_conv_desc_format(context, &desc, text, sizeof text));
    const size_t length = strlen(text);
    char small[DOCONV_PROBLEM_TEXT_SIZE] = "untouched";
    expect_status(doconv_conv_desc_format(context, &desc, small, length), DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_conv_desc_format(context, &desc, small, 0), DOCONV_INVALID_ARGUMENT);
    assert_string_equal(small, "untouched");
    expect_ok(doconv_conv_desc_format(context, &desc, small, length + 1));
    assert_string_equal(small, text);
    /* A text as long as no problem needs is no overrun. */
    char *endless = malloc(100001);
    assert_non_null(endless);
    memset(endless, '7', 100000);
    endless[100000] = '\0';
    memcpy(endless, "ic", 2);
    expect_status(doconv_conv_desc_parse(context, endless, &desc), DOCONV_INVALID_ARGUMENT);
    free(endless);
    doconv_context_destroy(context);
}

static void test_canonical(void **state)
{
    (void)state;
    static const char *const groups[][6] = {
        /* Equal problems, written differently: one text. */
        {"ic3ih5oc3kh1", "mb1_ic3ih5iw5oc3", "ic3_ih5_oc3_oh5", "oc3ih5ic3", "ic3ih5oc3n\"x\"",
         "g1ic3ih5oc3:accuracy=default,src=nchw"},
        {"ic8ih9oc8kh3ph1:relu,bias", "ic8ih9iw9oc8kh3kw3ph1pw1oh9:bias,relu",
         "ic8ih9oc8kh3ph1sh1:bias,bias,relu", NULL},
        /* Padding that no output reads. */
        {"ic8ih10oc8oh5kh3sh2ph1", "ic8ih10oc8kh3sh2ph1", NULL},
        {"ic3ih5oc3:clamp=0.5/6", "ic3ih5oc3:clamp=5e-1/6.0", "ic3ih5oc3:clamp=+.5/600e-2", NULL},
        {"ic3ih5oc3:dmul=0", "ic3ih5oc3:mapping=paper", "ic3ih5oc3", NULL},
        /* A mapping that is the paper's: with one group, or one output or input in each. */
        {"ic3ih5oc3kh3:dmul=9", "ic3ih5oc3kh3:composition=kernel,dmul=9",
         "ic3ih5oc3kh3:dmul=9,mapping=pytorch", "ic3ih5oc3kh3:mapping=tensorflow,dmul=9", NULL},
        {"g3ic6ih5oc3kh3:dmul=9", "g3ic6ih5oc3kh3:dmul=9,mapping=pytorch", NULL},
        {"g3ic3ih5oc6kh3:dmul=9", "g3ic3ih5oc6kh3:dmul=9,mapping=tensorflow", NULL},
        /* The identity needs a D_mul of KH*KW at least. */
        {"ic3ih5oc3kh3:dmul=8", "ic3ih5oc3kh3:dmul=8,identity", NULL},
    };
    for (size_t g = 0; g < sizeof groups / sizeof groups[0]; g++) {
        char first[DOCONV_PROBLEM_TEXT_SIZE] = "";
        for (int i = 0; i < 6 && groups[g][i] != NULL; i++) {
            const doconv_conv_desc desc = problem(groups[g][i]);
            if (i == 0) {
                expect_ok(doconv_conv_desc_format(NULL, &desc, first, sizeof first));
            }
            expect_text(&desc, first);
        }
    }
    /* What is ignored is not written. */
    doconv_conv_desc desc = problem("ic3ih5oc3"), other = desc;
    other.clamp_lo = 3.0f;
    other.clamp_hi = 4.0f;
    other.pad_bottom = 0;
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    expect_ok(doconv_conv_desc_format(NULL, &desc, text, sizeof text));
    expect_text(&other, text);
}

static uint64_t next(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

static doconv_conv_desc random_problem(uint64_t *state)
{
    doconv_conv_desc d;
    doconv_conv_desc_init(&d);
    d.n = 1 + (int64_t)(next(state) % 5);
    d.groups = 1 + (int64_t)(next(state) % 4);
    d.cin = d.groups * (1 + (int64_t)(next(state) % 300));
    d.cout = d.groups * (1 + (int64_t)(next(state) % 300));
    d.h = 1 + (int64_t)(next(state) % 60);
    d.w = 1 + (int64_t)(next(state) % 60);
    d.kh = 1 + (int64_t)(next(state) % 7);
    d.kw = 1 + (int64_t)(next(state) % 7);
    d.stride_h = 1 + (int64_t)(next(state) % 4);
    d.stride_w = 1 + (int64_t)(next(state) % 4);
    d.dilation_h = 1 + (int64_t)(next(state) % 3);
    d.dilation_w = 1 + (int64_t)(next(state) % 3);
    d.pad_top = (int64_t)(next(state) % 5);
    d.pad_left = (int64_t)(next(state) % 5);
    d.pad_bottom = (int64_t)(next(state) % 25);
    d.pad_right = (int64_t)(next(state) % 25);
    d.src_layout = (doconv_layout)(next(state) % 4);
    d.dst_layout = (doconv_layout)(next(state) % 4);
    d.has_bias = (int)(next(state) % 2);
    d.residual = (int)(next(state) % 2);
    d.relu = (int)(next(state) % 2);
    d.clamp = (int)(next(state) % 2);
    uint32_t bits = (uint32_t)next(state);
    memcpy(&d.clamp_hi, &bits, sizeof bits); /* any positive float; not NaN below */
    if (!(d.clamp_hi >= 0.0f)) {
        d.clamp_hi = 0.1f;
    }
    d.clamp_lo = -d.clamp_hi;
    d.accuracy = (doconv_accuracy)(next(state) % 3);
    if (next(state) % 2 != 0) {
        d.d_mul = 1 + (int64_t)(next(state) % 50);
        d.composition = (doconv_composition)(1 + next(state) % DOCONV_COMPOSITION_AUTO);
        d.mapping = (doconv_mapping)(next(state) % 3);
        d.add_identity = (int)(next(state) % 2);
    }
    return d;
}

static void test_round_trip(void **state)
{
    (void)state;
    uint64_t random = 5;
    int tried = 0;
    for (int i = 0; i < 4000; i++) {
        const doconv_conv_desc d = random_problem(&random);
        char text[DOCONV_PROBLEM_TEXT_SIZE], again[DOCONV_PROBLEM_TEXT_SIZE];
        if (doconv_conv_desc_format(NULL, &d, text, sizeof text) != DOCONV_OK) {
            continue; /* a kernel larger than the padded image */
        }
        tried++;
        const doconv_conv_desc read = problem(text);
        expect_ok(doconv_conv_desc_format(NULL, &read, again, sizeof again));
        assert_string_equal(again, text);
        int64_t shape[4], shape_read[4];
        expect_ok(doconv_conv_dst_shape(NULL, &d, shape));
        expect_ok(doconv_conv_dst_shape(NULL, &read, shape_read));
        assert_memory_equal(shape, shape_read, sizeof shape);
        /* All but unread padding comes back, floats to the bit. */
        doconv_conv_desc same = d;
        same.pad_bottom = read.pad_bottom;
        same.pad_right = read.pad_right;
        const bool one_channel =
            d.mapping == DOCONV_MAPPING_PYTORCH ? d.cout == d.groups : d.cin == d.groups;
        if (d.groups == 1 || one_channel) {
            same.mapping = DOCONV_MAPPING_PAPER;
        }
        same.add_identity = d.add_identity && d.d_mul >= d.kh * d.kw;
        assert_true(read.pad_bottom <= d.pad_bottom && read.pad_right <= d.pad_right);
        if (!same_problem(&same, &read)) {
            fail_msg("%s does not come back", text);
        }
    }
    assert_true(tried > 1000);
}

static void test_doconv_layers(void **state)
{
    (void)state;
    const doconv_conv_desc d =
        problem("g2ic4ih6oc8kh3:dmul=12,composition=feature,mapping=tensorflow,identity,bias");
    assert_true(d.d_mul == 12 && d.composition == DOCONV_COMPOSITION_FEATURE &&
                d.mapping == DOCONV_MAPPING_TENSORFLOW && d.add_identity == 1 && d.has_bias == 1);
    expect_text(&d, "g2mb1_ic4ih6iw6oc8oh4ow4kh3kw3sh1sw1ph0pw0dh0dw0:bias,dmul=12,"
                    "composition=feature,mapping=tensorflow,identity");
    const doconv_conv_desc open_one = problem("g2ic4ih6oc8kh3:dmul=9,composition=auto");
    assert_int_equal(open_one.composition, DOCONV_COMPOSITION_AUTO);
    expect_text(&open_one, "g2mb1_ic4ih6iw6oc8oh4ow4kh3kw3sh1sw1ph0pw0dh0dw0:dmul=9,"
                           "composition=auto");
    const doconv_conv_desc short_one = problem("g2ic4ih6oc8kh3:dmul=9");
    assert_true(short_one.composition == DOCONV_COMPOSITION_KERNEL &&
                short_one.mapping == DOCONV_MAPPING_PAPER && short_one.add_identity == 0);
    expect_text(&short_one, "g2mb1_ic4ih6iw6oc8oh4ow4kh3kw3sh1sw1ph0pw0dh0dw0:dmul=9,"
                            "composition=kernel");
    const doconv_conv_desc pytorch = problem("g2ic4ih6oc8kh3:dmul=9,mapping=pytorch");
    expect_text(&pytorch, "g2mb1_ic4ih6iw6oc8oh4ow4kh3kw3sh1sw1ph0pw0dh0dw0:dmul=9,"
                          "composition=kernel,mapping=pytorch");
}

/* The longest text that a problem has. */
static void test_longest(void **state)
{
    (void)state;
    const doconv_conv_desc d =
        problem("g2mb9_ic8ih9oc8:src=nChw16c,dst=nChw16c,bias,residual,relu,"
                "clamp=-1.23456789e-30/1.23456789e-30,accuracy=strict,dmul=10,"
                "composition=feature,mapping=tensorflow,identity");
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    expect_ok(doconv_conv_desc_format(NULL, &d, text, sizeof text));
    assert_true(strlen(text) + 17 * 9 < sizeof text); /* with ten digits in each field too */
}

static void test_infinite_clamp(void **state)
{
    (void)state;
    const doconv_conv_desc d = problem("ic3ih5oc3:clamp=-inf/inf");
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    expect_ok(doconv_conv_desc_format(NULL, &d, text, sizeof text));
    assert_non_null(strstr(text, "clamp=-inf/inf"));
    assert_true(d.clamp_lo < -1e38f && d.clamp_hi > 1e38f);
}

/* Numbers don't follow the locale. Skipped where no locale with a decimal comma is installed. */
static void test_locale(void **state)
{
    (void)state;
    static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "fr_FR"};
    const char *found = NULL;
    for (int i = 0; i < 4 && found == NULL; i++) {
        found = setlocale(LC_ALL, names[i]);
    }
    if (found == NULL) {
        print_message("no locale with a decimal comma is installed\n");
        skip();
    }
    const doconv_conv_desc d = problem("ic3ih5oc3:clamp=0.25/1.5");
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    expect_ok(doconv_conv_desc_format(NULL, &d, text, sizeof text));
    setlocale(LC_ALL, "C");
    assert_true(d.clamp_lo == 0.25f && d.clamp_hi == 1.5f);
    assert_non_null(strstr(text, "clamp=0.25/1.5"));
}

/*
 * An output without padding has half of the padding that it needs before the image; each axis has
 * its own. All of benchdnn's forms are in test_benchdnn.c.
 */
static void test_padding_of_outputs(void **state)
{
    (void)state;
    static const struct {
        const char *text, *full;
    } rows[] = {
        {"ic16ih56oc16oh56kh3", "ic16ih56oc16kh3ph1"},
        {"ic16ih56oc16oh28kh3sh2", "ic16ih56iw56oc16oh28ow28kh3kw3sh2sw2ph0pw0"},
        {"ic16ih56oc16oh56kh3dh1", "ic16ih56oc16kh3ph2dh1"},
        {"ic16ih9iw9oc16oh9kh3kw3", "ic16ih9iw9oc16kh3kw3ph1pw0"},
        {"ic16ih9iw9oc16oh9ow9kh3kw3pw1", "ic16ih9iw9oc16kh3kw3ph1pw1"},
        {"ic16ih9iw9oc16oh8ow9kh3kw3ph0", "ic16ih9iw9oc16oh8ow9kh3kw3ph0pw1"},
        {"ic16ih9oc16oh5kh2sh2", "ic16ih9iw9oc16oh5ow5kh2kw2sh2sw2ph0pw0"},
        {"ic16iw9oc16ow9kw3", "ic16ih1iw9oc16kh1kw3ph0pw1"},
        {"ic16iw9oc16kw3sw2pw1dw1", "ic16ih1iw9oc16kh1kw3sh1sw2ph0pw1dh0dw1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const doconv_conv_desc read = problem(rows[i].text), full = problem(rows[i].full);
        if (!same_problem(&read, &full)) {
            fail_msg("%s is not %s", rows[i].text, rows[i].full);
        }
    }
    const doconv_conv_desc even = problem("ic16ih56oc16oh56kh2");
    assert_true(even.pad_top == 0 && even.pad_left == 0 && even.pad_bottom == 1 &&
                even.pad_right == 1);
}

static void test_names(void **state)
{
    (void)state;
    static const char *const names[] = {"n\"net:conv1\"",
                                        "n\"net:conv1*4\"",
                                        "n\"net:conv1\"*4",
                                        "_n\"a, b: relu\"",
                                        "nconv1",
                                        "_nconv1*4",
                                        "n\"\"",
                                        "n"};
    const doconv_conv_desc plain = problem("ic3ih5oc3kh3"), relu = problem("ic3ih5oc3kh3:relu");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char text[64];
        snprintf(text, sizeof text, "ic3ih5oc3kh3%s", names[i]);
        doconv_conv_desc read = problem(text);
        assert_true(same_problem(&read, &plain));
        snprintf(text, sizeof text, "ic3ih5oc3kh3%s:relu", names[i]);
        read = problem(text);
        assert_true(same_problem(&read, &relu));
    }
}

static void test_three_dimensions(void **state)
{
    (void)state;
    static const char *const texts[] = {"ic3id5oc3",        "mb2_ic3id5ih5iw5oc3od3kd3kh3kw3",
                                        "ic3ih5oc3pd0kh3",  "ic3ih5oc3sd1",
                                        "ic3ih5oc3kh3dd0n", "od1ic3ih5oc3"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        doconv_context *context = open_context();
        doconv_conv_desc desc;
        expect_status(doconv_conv_desc_parse(context, texts[i], &desc), DOCONV_UNSUPPORTED);
        expect_error(context, "3-D convolution is not supported", NULL);
        doconv_context_destroy(context);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),     cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_malformed),  cmocka_unit_test(test_invalid),
        cmocka_unit_test(test_arguments),  cmocka_unit_test(test_canonical),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_infinite_clamp),
        cmocka_unit_test(test_locale),     cmocka_unit_test(test_doconv_layers),
        cmocka_unit_test(test_longest),    cmocka_unit_test(test_padding_of_outputs),
        cmocka_unit_test(test_names),      cmocka_unit_test(test_three_dimensions),
    };
    return cmocka_run_group_tests_name("text", tests, NULL, NULL) != 0;
}
