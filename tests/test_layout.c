/* SPDX-License-Identifier: MIT */
/* Sizes of tensors, and copies between layouts. */
#include "api_support.h"
#include "oracle.h"

static void test_bytes(void **state)
{
    (void)state;
    static const struct {
        doconv_layout layout;
        int64_t n, c, h, w;
        size_t floats;
    } rows[] = {
        {DOCONV_NCHW, 2, 3, 5, 7, 210},    {DOCONV_NHWC, 2, 3, 5, 7, 210},
        {DOCONV_NCHW8C, 2, 3, 5, 7, 560},  {DOCONV_NCHW16C, 2, 3, 5, 7, 1120},
        {DOCONV_NCHW8C, 1, 8, 1, 1, 8},    {DOCONV_NCHW8C, 1, 9, 1, 1, 16},
        {DOCONV_NCHW16C, 1, 16, 1, 1, 16}, {DOCONV_NCHW16C, 1, 17, 1, 1, 32},
        {DOCONV_NCHW, 1, 1, 1, 1, 1},      {DOCONV_NHWC, 1, INT32_MAX, 1, 1, INT32_MAX},
        {DOCONV_NCHW, 0, 3, 5, 7, 0},      {DOCONV_NCHW16C, 0, INT32_MAX, INT32_MAX, 1, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t bytes = 0;
        expect_ok(doconv_tensor_bytes(rows[i].layout, rows[i].n, rows[i].c, rows[i].h, rows[i].w,
                                      &bytes));
        assert_int_equal(bytes, rows[i].floats * sizeof(float));
        assert_int_equal(bytes,
                         oracle_floats(rows[i].layout, rows[i].n, rows[i].c, rows[i].h, rows[i].w) *
                             sizeof(float));
    }
}

static void test_bad_bytes(void **state)
{
    (void)state;
    size_t bytes = 42;
    static const int64_t below[] = {-1, INT64_MIN, 0}, above[] = {INT64_C(1) << 31, INT64_MAX};
    for (int field = 0; field < 4; field++) {
        /* n may be 0 */
        for (size_t i = 0; i < sizeof below / sizeof below[0] - (field == 0); i++) {
            int64_t d[4] = {2, 3, 4, 5};
            d[field] = below[i];
            expect_status(doconv_tensor_bytes(DOCONV_NCHW, d[0], d[1], d[2], d[3], &bytes),
                          DOCONV_INVALID_ARGUMENT);
        }
        for (size_t i = 0; i < sizeof above / sizeof above[0]; i++) {
            int64_t d[4] = {2, 3, 4, 5};
            d[field] = above[i];
            expect_status(doconv_tensor_bytes(DOCONV_NHWC, d[0], d[1], d[2], d[3], &bytes),
                          DOCONV_OVERFLOW);
        }
    }
    expect_status(doconv_tensor_bytes(DOCONV_NCHW, 1 << 20, 1 << 20, 1 << 20, 4, &bytes),
                  DOCONV_OVERFLOW);
    expect_status(doconv_tensor_bytes(DOCONV_NCHW16C, INT32_MAX, 1, 1 << 28, 1, &bytes),
                  DOCONV_OVERFLOW);
    expect_status(doconv_tensor_bytes((doconv_layout)4, 1, 1, 1, 1, &bytes),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_tensor_bytes((doconv_layout)-1, 1, 1, 1, 1, &bytes),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_tensor_bytes(DOCONV_NCHW, 1, 1, 1, 1, NULL), DOCONV_INVALID_ARGUMENT);
    /* only written on success */
    assert_int_equal(bytes, 42);
    /* 2^62: the largest there is */
    expect_ok(doconv_tensor_bytes(DOCONV_NCHW, 1 << 20, 1 << 20, 1 << 20, 1, &bytes));
    assert_true(bytes == (size_t)1 << 62);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(doconv_layout_string(DOCONV_NCHW), "nchw");
    assert_string_equal(doconv_layout_string(DOCONV_NHWC), "nhwc");
    assert_string_equal(doconv_layout_string(DOCONV_NCHW8C), "nChw8c");
    assert_string_equal(doconv_layout_string(DOCONV_NCHW16C), "nChw16c");
    assert_string_equal(doconv_layout_string((doconv_layout)4), "unknown");
    assert_string_equal(doconv_layout_string((doconv_layout)-1), "unknown");
}

/*
 * Every pair of layouts, against the oracle's own index; nothing beside dst is touched, padding
 * channels become zero.
 */
static void check_reorder(doconv_layout from, doconv_layout to, int64_t n, int64_t c, int64_t h,
                          int64_t w)
{
    const size_t src_floats = oracle_floats(from, n, c, h, w),
                 dst_floats = oracle_floats(to, n, c, h, w);
    float *src = malloc(src_floats * sizeof *src), *dst = malloc((dst_floats + 2) * sizeof *dst);
    assert_true(src != NULL && dst != NULL);
    for (size_t i = 0; i < src_floats; i++) {
        src[i] = -1.0f; /* what stays is padding of src: it must not arrive */
    }
    for (size_t i = 0; i < dst_floats + 2; i++) {
        dst[i] = -2.0f;
    }
    float value = 1.0f;
    for (int64_t i = 0; i < n * c * h * w; i++) {
        src[oracle_index(from, c, h, w, i / (c * h * w), i / (h * w) % c, i / w % h, i % w)] =
            value++;
    }
    expect_ok(doconv_reorder(from, to, n, c, h, w, src, dst + 1));
    assert_true(dst[0] == -2.0f && dst[dst_floats + 1] == -2.0f);
    for (int64_t image = 0; image < n; image++) {
        for (int64_t channel = 0; channel < oracle_stored_channels(to, c); channel++) {
            for (int64_t y = 0; y < h; y++) {
                for (int64_t x = 0; x < w; x++) {
                    const float seen = dst[1 + oracle_index(to, c, h, w, image, channel, y, x)];
                    const float expected =
                        channel < c ? (float)(((image * c + channel) * h + y) * w + x + 1) : 0.0f;
                    if (seen != expected) {
                        fail_msg("%s to %s, c=%d: [%d][%d][%d][%d] is %g, must be %g",
                                 doconv_layout_string(from), doconv_layout_string(to), (int)c,
                                 (int)image, (int)channel, (int)y, (int)x, (double)seen,
                                 (double)expected);
                    }
                }
            }
        }
    }
    /* And back. */
    float *back = malloc(src_floats * sizeof *back);
    assert_non_null(back);
    expect_ok(doconv_reorder(to, from, n, c, h, w, dst + 1, back));
    for (int64_t i = 0; i < n * c * h * w; i++) {
        const size_t at =
            oracle_index(from, c, h, w, i / (c * h * w), i / (h * w) % c, i / w % h, i % w);
        assert_true(back[at] == src[at]);
    }
    free(src);
    free(dst);
    free(back);
}

static void test_reorder(void **state)
{
    (void)state;
    static const int64_t channels[] = {1, 3, 7, 8, 9, 15, 16, 17, 33};
    for (int from = 0; from < 4; from++) {
        for (int to = 0; to < 4; to++) {
            for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++) {
                check_reorder((doconv_layout)from, (doconv_layout)to, 1, channels[i], 1, 1);
                check_reorder((doconv_layout)from, (doconv_layout)to, 2, channels[i], 3, 5);
                check_reorder((doconv_layout)from, (doconv_layout)to, 1, channels[i], 17, 9);
            }
        }
    }
}

static void test_bad_reorder(void **state)
{
    (void)state;
    float src[16] = {1.0f}, dst[16] = {2.0f};
    expect_status(doconv_reorder(DOCONV_NCHW, DOCONV_NHWC, 1, 1, 1, 1, NULL, dst),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_reorder(DOCONV_NCHW, DOCONV_NHWC, 1, 1, 1, 1, src, NULL),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_reorder((doconv_layout)4, DOCONV_NHWC, 1, 1, 1, 1, src, dst),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_reorder(DOCONV_NCHW, (doconv_layout)-1, 1, 1, 1, 1, src, dst),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_reorder(DOCONV_NCHW, DOCONV_NHWC, 1, 0, 1, 1, src, dst),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_reorder(DOCONV_NCHW, DOCONV_NHWC, 0, 0, 1, 1, NULL, NULL),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_reorder(DOCONV_NCHW, DOCONV_NHWC, 1, -1, 1, 1, src, dst),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_reorder(DOCONV_NCHW, DOCONV_NHWC, 1, 1, INT64_MAX, 1, src, dst),
                  DOCONV_OVERFLOW);
    expect_status(doconv_reorder(DOCONV_NCHW, DOCONV_NCHW16C, INT32_MAX, 1, 1 << 28, 1, src, dst),
                  DOCONV_OVERFLOW);
    assert_true(dst[0] == 2.0f);
    /* Nothing to copy. */
    expect_ok(doconv_reorder(DOCONV_NCHW, DOCONV_NCHW16C, 0, 1, 1, 1, src, dst));
    expect_ok(doconv_reorder(DOCONV_NCHW, DOCONV_NCHW16C, 0, 1, 1, 1, NULL, NULL));
    assert_true(dst[0] == 2.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),       cmocka_unit_test(test_bad_bytes),
        cmocka_unit_test(test_names),       cmocka_unit_test(test_reorder),
        cmocka_unit_test(test_bad_reorder),
    };
    return cmocka_run_group_tests_name("layout", tests, NULL, NULL) != 0;
}
