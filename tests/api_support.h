/* SPDX-License-Identifier: MIT */
/* What the tests of the public API share. */
#ifndef DOCONV_TEST_API_SUPPORT_H
#define DOCONV_TEST_API_SUPPORT_H

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <doconv/doconv.h>

/* Compares statuses and prints both in words. */
void expect_status_at(doconv_status seen, doconv_status expected, const char *call,
                      const char *file, int line);
#define expect_status(call, expected)                                                              \
    expect_status_at((call), (expected), #call, __FILE__, __LINE__)
#define expect_ok(call) expect_status(call, DOCONV_OK)

/* The context's last error contains both texts (NULL: any). */
void expect_error_at(const doconv_context *context, const char *first, const char *second,
                     const char *file, int line);
#define expect_error(context, first, second)                                                       \
    expect_error_at((context), (first), (second), __FILE__, __LINE__)

/* A context of one thread without tuner; ends the test if it can't be made. */
doconv_context *open_context(void);

/* A problem's descriptor; ends the test if the text is malformed. */
doconv_conv_desc problem(const char *text);

/* The empty options of a plan, with their size. */
doconv_plan_options plan_options(void);

/* Tensors of a problem, filled with small integers; NULL where it has none. */
struct tensors {
    float *src, *weight, *bias, *residual, *dst;
    size_t src_bytes, dst_bytes;
};
struct tensors tensors_for(const doconv_conv_desc *desc);
void free_tensors(struct tensors *tensors);

/*
 * Calls body(arg) with stderr going to a file and returns what was written there, cut at size - 1
 * characters; the number of characters in all.
 */
size_t capture_stderr(void (*body)(void *arg), void *arg, char *text, size_t size);

#endif
