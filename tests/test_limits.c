/* SPDX-License-Identifier: MIT */
/*
 * What planning may cost: any valid problem, however odd its sizes, is planned within a time and a
 * memory that don't grow with them.
 */
#include <math.h>
#include <time.h>

#include <doconv/doconv_train.h>

#include "api_support.h"
#include "base/context.h"
#include "geometry/tap_ranges.h"
#include "harness.h"

/* ---- ranges of taps ---- */

/* The taps [*tap0, *tap1) that output i meets, one by one; 0, 0: none. */
static void taps_of(const struct dc_axis *a, int64_t i, int64_t *tap0, int64_t *tap1)
{
    *tap0 = *tap1 = 0;
    for (int64_t k = 0; k < a->kernel; k++) {
        const int64_t place = i * a->stride + k * a->dilation - a->pad;
        if (place >= 0 && place < a->size) {
            *tap0 = *tap1 == 0 ? k : *tap0;
            *tap1 = k + 1;
        }
    }
}

static void check_ranges(const struct dc_axis *a)
{
    struct dc_tap_range ranges[200];
    const int64_t count = dc_tap_ranges(a, NULL, INT64_MAX);
    assert_true(count >= 1 && count <= a->out && count <= 200);
    /* Taps come in one by one, and leave so. */
    assert_true(count <= 2 * a->kernel + 1);
    assert_int_equal(dc_tap_ranges(a, ranges, count), count);
    assert_int_equal(dc_tap_ranges(a, NULL, count - 1), count);
    int64_t next = 0;
    for (int64_t r = 0; r < count; r++) {
        assert_int_equal(ranges[r].begin, next);
        assert_true(ranges[r].end > next);
        for (; next < ranges[r].end; next++) {
            int64_t tap0, tap1;
            taps_of(a, next, &tap0, &tap1);
            assert_int_equal(ranges[r].tap0, tap0);
            assert_int_equal(ranges[r].tap1, tap1);
        }
    }
    assert_int_equal(next, a->out);
}

static void test_tap_ranges(void **state)
{
    (void)state;
    struct rng rng = rng_from(1, "tap ranges");
    for (int i = 0; i < 20000; i++) {
        struct dc_axis a = {.size = rng_range(&rng, 1, 40),
                            .kernel = rng_range(&rng, 1, 9),
                            .stride = rng_range(&rng, 1, 7),
                            .dilation = rng_range(&rng, 1, 12),
                            .pad = rng_range(&rng, 0, 50)};
        a.out = rng_range(&rng, 1, 200);
        check_ranges(&a);
    }
    /* By their number, not by that of outputs: a loop over these would never end. */
    const struct dc_axis large = {.size = INT32_MAX,
                                  .out = (int64_t)1 << 60,
                                  .kernel = 3,
                                  .stride = 1,
                                  .dilation = INT32_MAX / 2,
                                  .pad = INT32_MAX};
    assert_true(dc_tap_ranges(&large, NULL, INT64_MAX) <= 7);
    const struct dc_axis many = {
        .size = 1, .out = (int64_t)1 << 60, .kernel = INT32_MAX, .stride = 1, .dilation = 1};
    assert_int_equal(dc_tap_ranges(&many, NULL, 1000), 2);
    struct dc_axis padded = many;
    padded.pad = INT32_MAX - 1;
    assert_int_equal(dc_tap_ranges(&padded, NULL, 1000), 1001);
}

/* ---- plans of any problem ---- */

/* What a plan may take, of processor time and memory; a few milliseconds and MB are usual. */
#define MOST_SECONDS 1.0
#define MOST_PLAN_BYTES ((size_t)64 << 20)
#define MOST_TRAINING_BYTES ((size_t)1 << 30) /* its plans are up to some thirty */

static double processor_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Memory of a context, and how much was asked for in all. */
static void *count_allocation(void *user, size_t size, size_t alignment)
{
    *(size_t *)user += size;
    void *memory = NULL;
    return posix_memalign(&memory, alignment, size) == 0 ? memory : NULL;
}

static void release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

static void plan(doconv_context *context, const doconv_conv_desc *desc, bool train,
                 const size_t *allocated)
{
    char text[DOCONV_PROBLEM_TEXT_SIZE], error[256];
    expect_ok(doconv_conv_desc_format(context, desc, text, sizeof text));
    const size_t before = *allocated;
    const double start = processor_seconds();
    doconv_plan *plan = NULL;
    doconv_training *training = NULL;
    const doconv_status status = train ? doconv_training_create(context, desc, NULL, &training)
                                       : doconv_plan_create(context, desc, NULL, &plan);
    const double seconds = processor_seconds() - start;
    const size_t bytes = *allocated - before;
    /* Rows of features that no memory holds are all that can't be planned. */
    if (status != DOCONV_OK &&
        (status != DOCONV_UNSUPPORTED || desc->composition != DOCONV_COMPOSITION_FEATURE)) {
        doconv_context_last_error(context, error, sizeof error);
        fail_msg("%s: %s", text, error);
    }
    if (seconds > MOST_SECONDS || bytes > (train ? MOST_TRAINING_BYTES : MOST_PLAN_BYTES)) {
        fail_msg("%s: %s takes %.3f s and %zu bytes", text, train ? "training" : "a plan", seconds,
                 bytes);
    }
    doconv_plan_destroy(plan);
    doconv_training_destroy(training);
}

static doconv_context *counting_context(int threads, size_t *allocated)
{
    const doconv_context_options options = {.size = sizeof options,
                                            .threads = threads,
                                            .allocate = count_allocation,
                                            .release = release,
                                            .allocate_user = allocated,
                                            .tune = DOCONV_TUNE_OFF};
    doconv_context *context;
    expect_ok(doconv_context_create(&options, &context));
    return context;
}

static void test_hard_problems(void **state)
{
    (void)state;
    static const char *const texts[] = {
        /* Each output meets other taps. */
        "ic1ih20000000iw1oc1kh20000000kw1ph19999999pw0",
        "mb962_ic1ih653iw1oc5kh672680kw1sh1345360sw1ph1345358pw0dh1dw0:dst=nhwc",
        "ic1ih1000000iw1oc1kh1001kw1ph500000pw0dh999dw999",
        /* As many classes of inputs as a stride has pairs of residues. */
        "ic3ih1024oc16kh512sh512",
        "ic3ih1024oc16kh513sh512",
        "ic1ih1024oc1kh1024sh511dh512ph262144",
        "mb1_ic215340ih421202iw17557oc1kh1kw1sh315569sw1ph2pw0:dst=nhwc",
        "ic1ih2147483647iw1oc1kh2147483647kw1sh2147483646sw1ph1pw0",
        /* As many vectors, chunks of rows, or segments, as an axis has elements. */
        "g2147483632_ic2147483632ih3iw1oc2147483632kh3kw1ph1pw0",
        "ic1ih2147483647iw1oc1kh1kw1",
        "ic1ih40000iw1oc1kh50kw1ph25pw0",
        "ic256ih16oc16kh31ph15",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        size_t allocated = 0;
        doconv_context *context = counting_context(2, &allocated);
        const doconv_conv_desc desc = problem(texts[i]);
        plan(context, &desc, false, &allocated);
        plan(context, &desc, true, &allocated);
        doconv_context_destroy(context);
    }
}

/* A size with up to `bits` bits: small ones are as frequent as large ones. */
static int64_t any_size(struct rng *rng, double bits)
{
    return (int64_t)exp2(rng_unit(rng) * bits);
}

static bool chance(struct rng *rng, double share)
{
    return rng_unit(rng) < share;
}

static doconv_conv_desc any_problem(struct rng *rng)
{
    static const double bits[] = {12.0, 20.0, 31.0};
    const double b = bits[rng_range(rng, 0, 2)];
    doconv_conv_desc d;
    doconv_conv_desc_init(&d);
    d.n = chance(rng, 0.6) ? 1 : any_size(rng, b / 2);
    d.groups = chance(rng, 0.6) ? 1 : any_size(rng, b / 2);
    d.cin = d.groups * any_size(rng, b / 2);
    d.cout = d.groups * any_size(rng, b / 2);
    d.h = any_size(rng, b);
    d.w = chance(rng, 0.2) ? 1 : any_size(rng, b);
    d.kh = any_size(rng, b);
    d.kw = chance(rng, 0.4) ? 1 : any_size(rng, b);
    d.stride_h = chance(rng, 0.5) ? 1 : any_size(rng, b);
    d.stride_w = chance(rng, 0.5) ? 1 : any_size(rng, b);
    d.dilation_h = chance(rng, 0.6) ? 1 : any_size(rng, b);
    d.dilation_w = chance(rng, 0.6) ? 1 : any_size(rng, b);
    if (chance(rng, 0.3)) {
        d.stride_h = d.kh;
        d.stride_w = d.kw;
    }
    if (chance(rng, 0.6)) {
        d.pad_top = d.pad_bottom = (d.kh - 1) * d.dilation_h / rng_range(rng, 1, 2);
        d.pad_left = d.pad_right = (d.kw - 1) * d.dilation_w / rng_range(rng, 1, 2);
    }
    d.src_layout = (doconv_layout)rng_range(rng, 0, 3);
    d.dst_layout = (doconv_layout)rng_range(rng, 0, 3);
    if (chance(rng, 0.2)) {
        d.d_mul = chance(rng, 0.5) ? d.kh * d.kw : any_size(rng, 8.0);
        d.composition = chance(rng, 0.5) ? DOCONV_COMPOSITION_KERNEL : DOCONV_COMPOSITION_FEATURE;
    }
    return d;
}

static void test_any_problem(void **state)
{
    (void)state;
    struct rng rng = rng_from(1, "any problem");
    static const int threads[] = {1, 3, 16};
    for (size_t t = 0; t < sizeof threads / sizeof threads[0]; t++) {
        size_t allocated = 0;
        doconv_context *context = counting_context(threads[t], &allocated);
        for (int valid = 0; valid < 1500;) {
            const doconv_conv_desc desc = any_problem(&rng);
            int64_t shape[4];
            if (doconv_conv_dst_shape(NULL, &desc, shape) == DOCONV_OK) {
                valid++;
                plan(context, &desc, desc.d_mul > 0 || chance(&rng, 0.4), &allocated);
            }
        }
        doconv_context_destroy(context);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tap_ranges),
        cmocka_unit_test(test_hard_problems),
        cmocka_unit_test(test_any_problem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
