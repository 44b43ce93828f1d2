/* SPDX-License-Identifier: MIT */
/*
 * The harness must catch kernels that are wrong. Each row below wraps a real kernel with one defect
 * and names the property that must notice it, checked alone; the wrapper without a defect must pass
 * all of them.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cmocka.h>

#include "base/cpu.h"
#include "base/registry.h"
#include "harness.h"

enum defect {
    DEFECT_NONE,
    WRONG_LAST_CHANNEL,
    SKIPS_LAST_PIXEL,
    DROPS_A_TAP,
    FORGETS_BIAS,
    IGNORES_RESIDUAL,
    CLAMPS_BEFORE_RESIDUAL,
    IGNORES_CLAMP,
    SHIFTS_STRIP,
    RESIDUAL_READ_LATE,
    ROUNDS_COARSELY,
    LOSES_NAN,
    WRITES_PAST_DST,
    WRITES_BEFORE_DST,
    READS_PAST_SRC,
    READS_BEFORE_SRC,
    READS_PAST_RESIDUAL,
    READS_PAST_WEIGHTS,
    LEAVES_LAST_PIXEL,
    CHANGES_A_NEIGHBOUR,
    FORGETS_PADDING,
    READS_SRC_PADDING,
    STORES_RESIDUAL_PADDING,
    WRITES_SRC,
    WRITES_RESIDUAL,
    WRITES_WEIGHTS,
    COUNTS_CALLS,
    READS_DIRTY_WORKSPACE,
    DEPENDS_ON_THREAD,
    DEPENDS_ON_RUN_LENGTH,
    CHANGES_MODES,
    DEFECTS
};

static const struct {
    const char *name;
    enum property caught_by;
} defects[DEFECTS] = {
    [WRONG_LAST_CHANNEL] = {"wrong last channel", PROPERTY_EXACT},
    [SKIPS_LAST_PIXEL] = {"skips the last pixel", PROPERTY_EXACT},
    [DROPS_A_TAP] = {"drops a tap", PROPERTY_EXACT},
    [FORGETS_BIAS] = {"forgets the bias", PROPERTY_EXACT},
    [IGNORES_RESIDUAL] = {"ignores the residual", PROPERTY_EXACT},
    [CLAMPS_BEFORE_RESIDUAL] = {"clamps before the residual", PROPERTY_EXACT},
    [IGNORES_CLAMP] = {"ignores ReLU and clamp", PROPERTY_EXACT},
    [SHIFTS_STRIP] = {"loads the strip a column off", PROPERTY_EXACT},
    [RESIDUAL_READ_LATE] = {"reads the residual after dst is written", PROPERTY_EXACT},
    [ROUNDS_COARSELY] = {"rounds coarsely", PROPERTY_REAL},
    [LOSES_NAN] = {"turns a NaN into the clamp's bound", PROPERTY_NAN},
    [WRITES_PAST_DST] = {"writes one float past dst", PROPERTY_BOUNDS},
    [WRITES_BEFORE_DST] = {"writes one float before dst", PROPERTY_BOUNDS},
    [READS_PAST_SRC] = {"reads one float past src", PROPERTY_BOUNDS},
    [READS_BEFORE_SRC] = {"reads one float before src", PROPERTY_BOUNDS},
    [READS_PAST_RESIDUAL] = {"reads one float past the residual", PROPERTY_BOUNDS},
    [READS_PAST_WEIGHTS] = {"reads past the packed weights", PROPERTY_BOUNDS},
    [LEAVES_LAST_PIXEL] = {"leaves the last pixel unwritten", PROPERTY_COMPLETE},
    [CHANGES_A_NEIGHBOUR] = {"changes the float after dst", PROPERTY_COMPLETE},
    [FORGETS_PADDING] = {"forgets to zero the padding of dst", PROPERTY_COMPLETE},
    [READS_SRC_PADDING] = {"multiplies the padding of src by zero", PROPERTY_UNPOLLUTED},
    [STORES_RESIDUAL_PADDING] = {"adds the padding of the residual", PROPERTY_UNPOLLUTED},
    [WRITES_SRC] = {"writes src", PROPERTY_CONST},
    [WRITES_RESIDUAL] = {"writes the residual", PROPERTY_CONST},
    [WRITES_WEIGHTS] = {"writes the packed weights", PROPERTY_CONST},
    [COUNTS_CALLS] = {"gives other bits the second time", PROPERTY_CONST},
    [READS_DIRTY_WORKSPACE] = {"reads what is left in the workspace", PROPERTY_CONST},
    [DEPENDS_ON_THREAD] = {"gives other bits on other threads", PROPERTY_THREADS},
    [DEPENDS_ON_RUN_LENGTH] = {"rounds by the number of pixels", PROPERTY_SPLITS},
    [CHANGES_MODES] = {"leaves denormals flushed to zero", PROPERTY_STATE},
};

/*
 * The kernel behind the wrapper and its defect. Kernels have no data of their own, so these are
 * global.
 */
static const struct dc_kernel *base;
static void (*base_load)(const struct dc_load_args *), (*base_store)(const struct dc_store_args *);
static enum defect defect;
static pthread_t main_thread;
static unsigned calls;

static float *stored_at(const struct dc_run_args *a, ptrdiff_t pixel, ptrdiff_t channel)
{
    return a->dst + pixel * a->dst_pixel + a->dst_vector[channel / base->vector] +
           channel % base->vector;
}

/* Where the sum of a pixel and channel went: to dst or to the sums for later. */
static float *result_at(const struct dc_run_args *a, ptrdiff_t pixel, ptrdiff_t channel)
{
    return a->partial_out != NULL ? a->partial_out + pixel * base->tile_channels + channel
                                  : stored_at(a, pixel, channel);
}

static void add_to_results(const struct dc_run_args *a, float value)
{
    for (ptrdiff_t p = 0; p < a->pixels; p++) {
        for (ptrdiff_t c = 0; c < a->channels; c++) {
            *result_at(a, p, c) += value;
        }
    }
}

static float clamped(float value, float lo, float hi)
{
    value = value < lo ? lo : value;
    return value > hi ? hi : value;
}

static const float *residual_for(const struct dc_run_args *a, const float *stored)
{
    return a->residual + (stored - a->dst);
}

/* Defects that change what the real kernel is told. true: nothing is left to do. */
static void before_run(struct dc_run_args *a)
{
    const bool last = a->partial_out == NULL;
    switch (defect) {
    case SKIPS_LAST_PIXEL:
    case LEAVES_LAST_PIXEL:
        a->pixels -= a->pixels > 1;
        break;
    case DROPS_A_TAP:
        a->segment_count -= a->segment_count > 1;
        break;
    case FORGETS_BIAS: {
        static const _Alignas(64) float zeros[DC_MAX_TILE_FLOATS];
        a->bias = zeros;
        break;
    }
    case IGNORES_RESIDUAL:
    case CLAMPS_BEFORE_RESIDUAL:
        a->residual = last ? NULL : a->residual;
        break;
    case IGNORES_CLAMP:
        a->lo = -__builtin_inff();
        a->hi = __builtin_inff();
        break;
    case FORGETS_PADDING:
        a->stored = a->channels;
        break;
    case RESIDUAL_READ_LATE:
        if (last && a->residual != NULL) { /* as a kernel that clears dst first would */
            for (ptrdiff_t p = 0; p < a->pixels; p++) {
                for (ptrdiff_t c = 0; c < a->channels; c++) {
                    *stored_at(a, p, c) = 0.0f;
                }
            }
        }
        break;
    default:
        break;
    }
}

/* Defects beside the sums: stray reads and writes. */
static void stray(const struct dc_run_args *a)
{
    volatile float sink;
    const bool last = a->partial_out == NULL;
    const ptrdiff_t pixel = a->pixels - 1;
    if (defect == WRITES_WEIGHTS) {
        ((float *)(uintptr_t)a->weights)[0] += 1.0f;
    }
    if (defect == READS_PAST_WEIGHTS) {
        for (ptrdiff_t i = 0; i < a->segment_count; i++) {
            sink = a->weights[a->segments[i].weight_offset +
                              (base->family == DC_FAMILY_DIRECT ? a->segments[i].length + 3 : 4) *
                                  base->tile_channels];
        }
    }
    if (defect == WRITES_SRC && a->segment_count > 0) {
        ((float *)(uintptr_t)a->src)[a->segments[0].src_offset] += 1.0f;
    }
    if (defect == READS_PAST_SRC || defect == READS_BEFORE_SRC) {
        for (ptrdiff_t i = 0; i < a->segment_count; i++) {
            const float *first = a->src + a->segments[i].src_offset;
            sink = defect == READS_BEFORE_SRC ? first[-1]
                                              : first[pixel * a->src_pixel + a->segments[i].length];
        }
    }
    if (last && a->dst != NULL) {
        float *const end = stored_at(a, pixel, a->stored - 1) + 1;
        switch (defect) {
        case WRITES_PAST_DST:
            *(volatile float *)end = *end;
            break;
        case WRITES_BEFORE_DST:
            *(volatile float *)(stored_at(a, 0, 0) - 1) = stored_at(a, 0, 0)[-1];
            break;
        case CHANGES_A_NEIGHBOUR:
            *end = 0.0f; /* inside dst later runs repair it */
            break;
        case READS_PAST_RESIDUAL:
            if (a->residual != NULL) {
                sink = *residual_for(a, end);
            }
            break;
        case WRITES_RESIDUAL:
            if (a->residual != NULL && a->residual != a->dst) {
                *(float *)(uintptr_t)a->residual += 1.0f;
            }
            break;
        default:
            break;
        }
    }
    (void)sink;
}

/* Defects of the sums, after the real kernel's run. given: what the wrapper was told. */
static void after_run(const struct dc_run_args *a, const struct dc_run_args *given)
{
    const bool last = a->partial_out == NULL;
    switch (defect) {
    case WRONG_LAST_CHANNEL:
        *result_at(a, 0, a->channels - 1) += 1.0f;
        break;
    case CLAMPS_BEFORE_RESIDUAL:
        for (ptrdiff_t i = 0; last && given->residual != NULL && i < a->pixels * a->channels; i++) {
            float *stored = stored_at(a, i / a->channels, i % a->channels);
            *stored += *residual_for(given, stored);
        }
        break;
    case ROUNDS_COARSELY: /* to 16 bits: the small integers of `exact` have no more */
        for (ptrdiff_t i = 0; i < a->pixels * a->channels; i++) {
            float *result = result_at(a, i / a->channels, i % a->channels);
            uint32_t bits;
            memcpy(&bits, result, sizeof bits);
            bits &= UINT32_C(0xffffff00);
            memcpy(result, &bits, sizeof bits);
        }
        break;
    case LOSES_NAN:
        for (ptrdiff_t i = 0; last && i < a->pixels * a->channels; i++) {
            float *stored = stored_at(a, i / a->channels, i % a->channels);
            *stored = *stored >= a->lo ? *stored : a->lo;
        }
        break;
    case READS_SRC_PADDING: /* where pixels are channel blocks, and this one is not full */
        for (ptrdiff_t i = 0; a->src_pixel % 8 == 0 && i < a->segment_count; i++) {
            if (a->segments[i].length % 8 == 0) {
                continue;
            }
            const float *past = a->src + a->segments[i].src_offset + a->segments[i].length;
            for (ptrdiff_t p = 0; p < a->pixels; p++) {
                *result_at(a, p, 0) += past[p * a->src_pixel] * 0.0f;
            }
        }
        break;
    case STORES_RESIDUAL_PADDING:
        for (ptrdiff_t c = a->channels; last && a->residual != NULL && c < a->stored; c++) {
            for (ptrdiff_t p = 0; p < a->pixels; p++) {
                float *stored = stored_at(a, p, c);
                *stored += *residual_for(a, stored);
            }
        }
        break;
    case COUNTS_CALLS:
        add_to_results(a, (float)(++calls % 7));
        break;
    case DEPENDS_ON_THREAD:
        if (!pthread_equal(pthread_self(), main_thread)) {
            add_to_results(a, 0.5f);
        }
        break;
    case DEPENDS_ON_RUN_LENGTH:
        add_to_results(a, (float)(a->pixels % base->tile_pixels) / 64.0f);
        break;
    case CHANGES_MODES:
#if defined(__x86_64__)
        _mm_setcsr(_mm_getcsr() | 0x8000u);
#elif defined(__aarch64__)
        __asm__ volatile("msr fpcr, %0" : : "r"(UINT64_C(1) << 24));
#endif
        break;
    default:
        break;
    }
}

static void wrapped_run(const struct dc_run_args *args)
{
    struct dc_run_args a = *args;
    before_run(&a);
    base->direct.run(&a);
    stray(&a);
    after_run(&a, args);
}

static void wrapped_load(const struct dc_load_args *args)
{
    struct dc_load_args a = *args;
    if (defect == SHIFTS_STRIP) {
        a.x0++;
    }
    if (defect == READS_DIRTY_WORKSPACE) {
        a.rows -= a.rows > 1; /* the last row keeps what was there */
    }
    base_load(&a);
    if (defect == WRITES_SRC) {
        ((float *)(uintptr_t)a.src)[0] += 1.0f;
    }
}

static void wrapped_store(const struct dc_store_args *args)
{
    struct dc_store_args a = *args;
    switch (defect) {
    case IGNORES_RESIDUAL:
        a.residual = NULL;
        break;
    case IGNORES_CLAMP:
        a.lo = -__builtin_inff();
        a.hi = __builtin_inff();
        break;
    case FORGETS_PADDING:
        a.stored = a.channels;
        break;
    case CLAMPS_BEFORE_RESIDUAL:
        for (ptrdiff_t i = 0; i < a.pixels * a.channels; i++) {
            float *sum =
                (float *)(uintptr_t)a.tile + i / a.channels * a.tile_channels + i % a.channels;
            *sum = clamped(*sum, a.lo, a.hi);
        }
        a.lo = -__builtin_inff();
        a.hi = __builtin_inff();
        break;
    default:
        break;
    }
    base_store(&a);
}

/* ---- tests ---- */

static struct dc_kernel wrapper;
static const struct dc_kernel *const *reference_row;

/* Wraps the first usable kernel of a family, direct or depthwise; false: the CPU has none. */
static bool wrap(enum dc_family family)
{
    const enum dc_isa best = dc_cpu_probe()->isa;
    base = NULL;
    for (const struct dc_kernel *const *row = dc_builtin_kernels; *row != NULL; row++) {
        if (base == NULL && (*row)->family == family && dc_isa_usable((*row)->isa, best)) {
            base = *row;
        }
        if ((*row)->family == DC_FAMILY_REFERENCE) {
            reference_row = row;
        }
    }
    if (base == NULL) {
        return false;
    }
    wrapper = *base;
    wrapper.name = "wrapped@none";
    if (family == DC_FAMILY_DIRECT) {
        base_load = base->direct.load;
        base_store = base->direct.store;
        wrapper.direct.run = wrapped_run;
        wrapper.direct.load = wrapped_load;
        wrapper.direct.store = wrapped_store;
    } else {
        base_load = base->grouped.load;
        base_store = base->grouped.store;
        wrapper.grouped.load = wrapped_load;
        wrapper.grouped.store = wrapped_store;
    }
    main_thread = pthread_self();
    return true;
}

static bool run_wrapped(enum defect which, unsigned properties, struct harness_report *report)
{
    const struct dc_kernel *const kernels[] = {&wrapper, *reference_row, NULL};
    struct harness h = harness_for(&wrapper);
    h.kernels = kernels;
    h.properties = properties;
    defect = which;
    const bool ok = harness_run(&h, report);
    defect = DEFECT_NONE;
    return ok;
}

static void test_healthy(void **state)
{
    const enum dc_family family = (enum dc_family)(intptr_t)*state;
    if (!wrap(family)) {
        skip();
    }
    struct harness_report report;
    if (!run_wrapped(DEFECT_NONE, PROPERTY_ALL, &report)) {
        fail_msg("%s", report.failure);
    }
}

static void test_defect(void **state)
{
    const enum defect which = (enum defect)(intptr_t)*state;
    if (!wrap(DC_FAMILY_DIRECT)) {
        skip();
    }
    const char *property = property_name(defects[which].caught_by);
    struct harness_report report;
    if (run_wrapped(which, PROPERTY_BIT(defects[which].caught_by), &report)) {
        fail_msg("\"%s\" is not caught by %s in %d shapes", defects[which].name, property,
                 report.sampled);
    }
    print_message("    caught after %d shapes: %s\n", report.sampled, report.failure);
    /* The line says all that it takes to run this again. */
    char expected[64];
    snprintf(expected, sizeof expected, "wrapped@none: %s: problem=", property);
    assert_int_equal(strncmp(report.failure, expected, strlen(expected)), 0);
    assert_non_null(strstr(report.failure, " variant=direct:wrapped@none:"));
    assert_non_null(strstr(report.failure, " seed="));
    assert_null(strchr(report.failure, '\n'));
    /* ... and does: the problem of the line fails alone, in the same way. */
    char problem[DOCONV_PROBLEM_TEXT_SIZE], first[sizeof report.failure];
    snprintf(first, sizeof first, "%s", report.failure);
    assert_int_equal(sscanf(strstr(first, "problem=") + 8, "%511s", problem), 1);
    doconv_conv_desc desc;
    assert_int_equal(doconv_conv_desc_parse(NULL, problem, &desc), DOCONV_OK);
    const struct dc_kernel *const kernels[] = {&wrapper, *reference_row, NULL};
    struct harness h = harness_for(&wrapper);
    h.kernels = kernels;
    h.properties = PROPERTY_BIT(defects[which].caught_by);
    defect = which;
    const bool ok = harness_run_problem(&h, &desc, &report);
    defect = DEFECT_NONE;
    assert_false(ok);
}

/* A reference that forgets its last column. */
static void short_reference(const struct dc_reference_args *args)
{
    struct dc_reference_args a = *args;
    a.wout -= a.wout > 1;
    (*reference_row)->reference.run(&a);
}

static void test_reference_defect(void **state)
{
    (void)state;
    for (reference_row = dc_builtin_kernels; (*reference_row)->family != DC_FAMILY_REFERENCE;
         reference_row++) {
    }
    struct dc_kernel kernel = **reference_row;
    kernel.name = "short@none";
    kernel.reference.run = short_reference;
    const struct dc_kernel *const kernels[] = {&kernel, NULL};
    struct harness h = harness_for(&kernel);
    h.kernels = kernels;
    const enum property named[] = {PROPERTY_EXACT, PROPERTY_REAL, PROPERTY_COMPLETE};
    for (int i = 0; i < 3; i++) {
        struct harness_report report;
        h.properties = PROPERTY_BIT(named[i]);
        assert_false(harness_run(&h, &report));
        assert_non_null(strstr(report.failure, property_name(named[i])));
    }
}

/* A kernel that takes nearly nothing was not tested: no success. */
static void test_too_few_shapes(void **state)
{
    (void)state;
    if (!wrap(DC_FAMILY_DIRECT)) {
        skip();
    }
    const struct dc_kernel *const kernels[] = {&wrapper, *reference_row, NULL};
    struct harness h = harness_for(&wrapper);
    struct harness_report report;
    h.kernels = kernels;
    h.cap = DOCONV_ISA_NONE;
    h.shapes = 50;
    assert_false(harness_run(&h, &report));
    assert_int_equal(report.accepted, 0);
    assert_non_null(strstr(report.failure, "only 0 of 50 shapes are accepted, 40 must be"));
    /* The seed decides everything. */
    struct rng a = rng_from(1, "x"), b = rng_from(1, "x"), c = rng_from(2, "x"),
               d = rng_from(1, "y");
    const uint64_t first = rng_next(&a);
    assert_true(first == rng_next(&b) && first != rng_next(&c) && first != rng_next(&d));
}

int main(void)
{
    struct CMUnitTest tests[DEFECTS + 4] = {
        {.name = "healthy_direct",
         .test_func = test_healthy,
         .initial_state = (void *)(intptr_t)DC_FAMILY_DIRECT},
        {.name = "healthy_depthwise",
         .test_func = test_healthy,
         .initial_state = (void *)(intptr_t)DC_FAMILY_DEPTHWISE},
        {.name = "too_few_shapes", .test_func = test_too_few_shapes},
        {.name = "reference_without_last_column", .test_func = test_reference_defect},
    };
    size_t count = 4;
    for (int i = DEFECT_NONE + 1; i < DEFECTS; i++) {
        tests[count++] = (struct CMUnitTest){.name = defects[i].name,
                                             .test_func = test_defect,
                                             .initial_state = (void *)(intptr_t)i};
    }
    return _cmocka_run_group_tests("harness", tests, count, NULL, NULL) != 0;
}
