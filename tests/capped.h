/* SPDX-License-Identifier: MIT */
/*
 * Contexts under every ISA cap that this machine's architecture has. For programs with api_support
 * and the harness.
 */
#ifndef DOCONV_TEST_CAPPED_H
#define DOCONV_TEST_CAPPED_H

#include "api_support.h"
#include "harness_parallel.h"

static const doconv_isa caps[] = {
    DOCONV_ISA_NONE,
#if defined(__x86_64__)
    DOCONV_ISA_AVX2,
    DOCONV_ISA_AVX512,
#elif defined(__aarch64__)
    DOCONV_ISA_NEON,
#endif
};
enum { CAPS = sizeof caps / sizeof caps[0] };

/* order NULL: the library's own threads. */
static inline doconv_context *open_with(doconv_isa cap, int threads, struct task_order *order)
{
    doconv_context_options options = {
        .size = sizeof options, .threads = threads, .tune = DOCONV_TUNE_OFF, .max_isa = cap};
    if (order != NULL) {
        options.parallel_for = task_run;
        options.parallel_for_user = order;
    }
    doconv_context *context = NULL;
    expect_ok(doconv_context_create(&options, &context));
    return context;
}

#endif
