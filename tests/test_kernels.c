/* SPDX-License-Identifier: MIT */
/*
 * Every convolving kernel of the registry through every property of the harness, a test each
 * (test_operations.c has the others); kernels that this CPU can't run are skipped by name. With an
 * argument, a pattern for names of tests (* and ?), only those run. Environment: see harness.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/context.h"
#include "base/cpu.h"
#include "base/registry.h"
#include "library.h"
#include "plan/solver.h"
#include "harness.h"

static doconv_context *open_context(doconv_isa cap)
{
    const doconv_context_options options = {
        .size = sizeof options, .threads = 1, .tune = DOCONV_TUNE_OFF, .max_isa = cap};
    doconv_context *ctx;
    assert_int_equal(doconv_context_create(&options, &ctx), DOCONV_OK);
    return ctx;
}

static void print_report(const char *name, const struct harness_report *report)
{
    printf("    %s: %d shapes, %d accepted, %d variants;", name, report->sampled, report->accepted,
           report->variants);
    for (int i = 0; i < PROPERTY_COUNT; i++) {
        printf(" %s %d", property_name((enum property)i), report->runs[i]);
    }
    printf("\n");
    fflush(stdout);
}

static void test_kernel(void **state)
{
    const struct dc_kernel *kernel = *state;
    doconv_context *ctx = open_context(DOCONV_ISA_DEFAULT);
    const bool usable = dc_isa_usable(kernel->isa, ctx->isa);
    doconv_context_destroy(ctx);
    if (!usable) {
        print_message("%s: this CPU has no %s\n", kernel->name,
                      doconv_isa_string((doconv_isa)kernel->isa));
        skip();
    }
    const struct harness h = harness_for(kernel);
    struct harness_report report;
    const char *problem = getenv("DOCONV_TEST_PROBLEM");
    bool ok;
    if (problem != NULL && *problem != '\0') {
        doconv_conv_desc desc;
        assert_int_equal(doconv_conv_desc_parse(NULL, problem, &desc), DOCONV_OK);
        ok = harness_run_problem(&h, &desc, &report);
    } else {
        ok = harness_run(&h, &report);
    }
    print_report(kernel->name, &report);
    if (!ok) {
        fail_msg("%s", report.failure);
    }
}

/* ---- the ISA cap ---- */

static const char *const capped_problems[] = {
    "mb1_ic32ih14oc48kh3ph1:src=nChw16c,dst=nChw16c,bias,relu",
    "mb2_ic3ih23oc40kh7sh2ph3:dst=nhwc,bias",
    "g24mb1_ic24ih9oc24kh3ph1:src=nhwc,dst=nhwc,residual",
    "g4mb1_ic12ih8oc20kh3ph1:src=nChw8c,dst=nChw8c",
    "mb2_ic40ih9oc50kh1:bias,residual,relu",
    "mb1_ic17ih7oc19kh1",
};

static void test_cap(void **state)
{
    const doconv_isa cap = (doconv_isa)(intptr_t)*state;
    doconv_context *ctx = open_context(cap);
    doconv_context_info context_info = {.size = sizeof context_info};
    assert_int_equal(doconv_context_get_info(ctx, &context_info), DOCONV_OK);
    assert_true(context_info.isa <= cap);
    assert_true(context_info.isa <= context_info.cpu_isa);
    for (size_t p = 0; p < sizeof capped_problems / sizeof capped_problems[0]; p++) {
        doconv_conv_desc desc;
        assert_int_equal(doconv_conv_desc_parse(ctx, capped_problems[p], &desc), DOCONV_OK);
        doconv_candidates *list;
        assert_int_equal(doconv_candidates_create(ctx, &desc, NULL, &list), DOCONV_OK);
        int accepted = 0;
        for (int i = 0; i < doconv_candidates_count(list); i++) {
            doconv_candidate_info info = {.size = sizeof info};
            assert_int_equal(doconv_candidates_get(list, i, &info), DOCONV_OK);
            const struct dc_kernel *kernel = dc_kernel_find(ctx, info.kernel, strlen(info.kernel));
            assert_non_null(kernel);
            if (info.refused == NULL) {
                accepted++;
                if ((doconv_isa)kernel->isa > cap) {
                    fail_msg("%s: %s is accepted under the cap %s", capped_problems[p],
                             info.variant, doconv_isa_string(cap));
                }
            }
        }
        assert_true(accepted > 0);
        doconv_candidates_destroy(list);
        char failure[1024];
        if (!harness_check_default(ctx, &desc, harness_seed(), failure, sizeof failure)) {
            fail_msg("%s under the cap %s: %s", capped_problems[p], doconv_isa_string(cap),
                     failure);
        }
    }
    doconv_context_destroy(ctx);
}

/* ---- the registry ---- */

/* The tile is within the limits of the contract, and whole vectors. */
static void assert_tile(const struct dc_kernel *kernel)
{
    assert_true(kernel->tile_pixels >= 1 && kernel->tile_channels >= 1 && kernel->vector >= 1);
    assert_true(kernel->tile_channels * kernel->tile_pixels <= DC_MAX_TILE_FLOATS);
    if (kernel->family == DC_FAMILY_PLANES) { /* vectors of pixels; else of channels */
        assert_int_equal(kernel->tile_pixels % kernel->vector, 0);
    } else {
        assert_int_equal(kernel->tile_channels % kernel->vector, 0);
        assert_true(kernel->tile_channels / kernel->vector <= DC_MAX_TILE_VECTORS);
    }
    if (kernel->family == DC_FAMILY_DEPTHWISE || kernel->family == DC_FAMILY_GROUPED ||
        kernel->family == DC_FAMILY_CORRELATE || kernel->family == DC_FAMILY_WINOGRAD) {
        assert_int_equal(kernel->tile_channels, kernel->vector);
    }
    if (kernel->family == DC_FAMILY_COMPOSE) {
        assert_true(kernel->vector <= DC_CHANNEL_BLOCK);
    }
    if (kernel->family == DC_FAMILY_DIRECT) {
        assert_true(kernel->tile_channels <= DC_PACK_LANES);
    }
}

/* Is there a solver of the kernel's family, and (convolves) one for convolutions? */
static bool has_solver(const struct dc_kernel *kernel, bool convolves)
{
    for (const struct dc_solver *const *solver = dc_solvers; *solver != NULL; solver++) {
        if ((*solver)->family == kernel->family &&
            (!convolves || (*solver)->operation == DC_CONVOLUTION)) {
            return true;
        }
    }
    return false;
}

/* Every function that the kernel's family requires, and none that it must leave out. */
static void assert_functions(const struct dc_kernel *kernel)
{
    switch (kernel->family) {
    case DC_FAMILY_REFERENCE:
        assert_non_null(kernel->reference.run);
        return;
    case DC_FAMILY_DIRECT:
        assert_non_null(kernel->direct.run);
        assert_non_null(kernel->direct.load);
        assert_non_null(kernel->direct.store);
        assert_non_null(kernel->direct.pack);
        return;
    case DC_FAMILY_DEPTHWISE:
    case DC_FAMILY_GROUPED: {
        const bool taps = kernel->family == DC_FAMILY_DEPTHWISE;
        assert_non_null(kernel->grouped.run);
        assert_non_null(kernel->grouped.load);
        assert_non_null(kernel->grouped.store);
        assert_true((kernel->grouped.taps_correlate != NULL) == taps);
        assert_true((kernel->grouped.taps_scatter != NULL) == taps);
        assert_true((kernel->grouped.taps_spread != NULL) == taps);
        return;
    }
    case DC_FAMILY_PLANES:
        assert_non_null(kernel->planes.run);
        assert_non_null(kernel->planes.gather);
        return;
    case DC_FAMILY_PIXEL:
        assert_non_null(kernel->pixel.run);
        return;
    case DC_FAMILY_WINOGRAD: {
        const struct dc_winograd_kernel *w = &kernel->winograd;
        assert_non_null(w->input);
        assert_non_null(w->filter_rows);
        assert_non_null(w->output);
        assert_non_null(w->pack_filters);
        assert_int_equal(w->points, w->outputs + w->taps - 1);
        assert_true(w->points <= DC_WINOGRAD_POINTS && w->taps <= DC_WINOGRAD_FILTER);
        assert_true(w->axes == 1 || w->axes == 2);
        assert_int_equal(kernel->tile_pixels, w->axes == 2 ? w->outputs * w->outputs : w->outputs);
        assert_true(kernel->error_amplification > 1.0f); /* accuracy=strict takes none */
        return;
    }
    case DC_FAMILY_COMPOSE:
        assert_non_null(kernel->compose.run);
        assert_non_null(kernel->compose.gradient);
        return;
    case DC_FAMILY_PRODUCT:
        assert_non_null(kernel->product.run);
        assert_non_null(kernel->product.load);
        assert_non_null(kernel->product.weave);
        return;
    case DC_FAMILY_CORRELATE:
        assert_non_null(kernel->correlate.run);
        assert_non_null(kernel->correlate.load);
        return;
    case DC_FAMILY_NONE:
        break;
    }
    fail_msg("%s: unknown family %d", kernel->name, (int)kernel->family);
}

static void test_registry(void **state)
{
    (void)state;
    doconv_context *ctx = open_context(DOCONV_ISA_DEFAULT);
    const int count = doconv_kernel_count(ctx);
    assert_true(count >= 1);
    for (int i = 0; i < count; i++) {
        doconv_kernel_info info = {.size = sizeof info};
        assert_int_equal(doconv_kernel_get(ctx, i, &info), DOCONV_OK);
        const struct dc_kernel *kernel = dc_builtin_kernels[i];
        assert_ptr_equal(info.name, kernel->name);
        char end[32];
        snprintf(end, sizeof end, "@%s", doconv_isa_string(info.isa));
        const size_t length = strlen(info.name);
        assert_true(length > strlen(end) && length < 64);
        assert_string_equal(info.name + length - strlen(end), end);
        /* cache files hold names as single words */
        assert_true(strspn(info.name, "abcdefghijklmnopqrstuvwxyz0123456789_@") == length);
        assert_true(info.revision >= 1);
        assert_true(info.tile_pixels == kernel->tile_pixels &&
                    info.tile_channels == kernel->tile_channels);
        assert_int_equal(info.isa, kernel->isa);
        assert_true(kernel->error_amplification >= 1.0f);
        assert_tile(kernel);
        assert_functions(kernel);
        assert_true(has_solver(kernel, false));
        for (int j = 0; j < i; j++) {
            assert_string_not_equal(info.name, dc_builtin_kernels[j]->name);
        }
    }
    assert_null(dc_builtin_kernels[count]);
    /* The portable reference ends the list: it takes what nothing before it took. */
    assert_int_equal(dc_builtin_kernels[count - 1]->family, DC_FAMILY_REFERENCE);
    assert_int_equal(dc_builtin_kernels[count - 1]->isa, DC_ISA_NONE);
    doconv_context_destroy(ctx);
}

int main(int argc, char **argv)
{
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
    if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
        fprintf(stderr, "usage: test_kernels [PATTERN]\n");
        return 2;
    }
    const char *problem = getenv("DOCONV_TEST_PROBLEM");
    doconv_conv_desc desc;
    if (problem != NULL && *problem != '\0' &&
        doconv_conv_desc_parse(NULL, problem, &desc) != DOCONV_OK) {
        fprintf(stderr, "test_kernels: DOCONV_TEST_PROBLEM=\"%s\" is no problem\n", problem);
        return 2;
    }
    int kernels = 0;
    while (dc_builtin_kernels[kernels] != NULL) {
        kernels++;
    }
    struct CMUnitTest *tests = calloc((size_t)kernels + CAPS + 1, sizeof *tests);
    char(*names)[32] = calloc(CAPS, sizeof *names);
    if (tests == NULL || names == NULL) {
        fprintf(stderr, "test_kernels: out of memory\n");
        return 1;
    }
    int count = 0;
    tests[count++] = (struct CMUnitTest){.name = "registry", .test_func = test_registry};
    for (int i = 0; i < CAPS; i++) {
        snprintf(names[i], sizeof names[i], "cap_%s", doconv_isa_string(caps[i]));
        tests[count++] = (struct CMUnitTest){
            .name = names[i], .test_func = test_cap, .initial_state = (void *)(intptr_t)caps[i]};
    }
    for (int i = 0; i < kernels; i++) {
        if (!has_solver(dc_builtin_kernels[i], true)) {
            continue;
        }
        void *kernel = (void *)(uintptr_t)dc_builtin_kernels[i];
        tests[count++] = (struct CMUnitTest){
            .name = dc_builtin_kernels[i]->name, .test_func = test_kernel, .initial_state = kernel};
    }
    printf("test_kernels: DOCONV_TEST_SEED=%llu, %d kernels\n", (unsigned long long)harness_seed(),
           kernels);
    fflush(stdout);
    if (argc == 2) {
        cmocka_set_test_filter(argv[1]);
    }
    const int failed = _cmocka_run_group_tests("kernels", tests, (size_t)count, NULL, NULL);
    free(tests);
    free(names);
    return failed != 0;
}
