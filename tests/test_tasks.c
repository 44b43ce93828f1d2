/* SPDX-License-Identifier: MIT */
/*
 * How calls are cut into tasks: never more than the context has threads, and enough for each of
 * them where an image is too small for that, by cutting its outputs.
 */
#include "api_support.h"
#include "plans.h"

enum { THREADS = 8 };

struct counts {
    int calls, most; /* tasks of a call */
};

static void count_tasks(void *user, int count, void (*task)(void *arg, int index), void *arg)
{
    struct counts *c = user;
    c->calls++;
    c->most = count > c->most ? count : c->most;
    for (int i = 0; i < count; i++) {
        task(arg, i);
    }
}

static doconv_context *open_counting(struct counts *counts)
{
    const doconv_context_options options = {.size = sizeof options,
                                            .threads = THREADS,
                                            .tune = DOCONV_TUNE_OFF,
                                            .parallel_for = count_tasks,
                                            .parallel_for_user = counts};
    doconv_context *context = NULL;
    expect_ok(doconv_context_create(&options, &context));
    return context;
}

/* The most tasks of a call by this variant, on tensors of zeros. */
static int tasks_of(doconv_context *ctx, struct counts *counts, const struct dc_problem *problem,
                    const char *variant)
{
    doconv_plan *plan = plan_of(ctx, problem, variant);
    const size_t floats = 1 << 20;
    float *zeros = calloc(floats, sizeof *zeros), *dst = calloc(floats, sizeof *dst);
    char *workspace = aligned_alloc(64, (plan->workspace_size + 127) / 64 * 64);
    assert_true(zeros != NULL && dst != NULL && workspace != NULL);
    doconv_weights *weights = NULL;
    struct dc_tensors tensors = {.src = zeros, .w = zeros, .d = zeros, .bias = zeros, .dst = dst};
    if (problem->operation == DC_CONVOLUTION) {
        expect_ok(doconv_weights_create(plan, zeros, NULL, &weights));
        tensors.packed = weights->data;
    }
    *counts = (struct counts){0};
    dc_plan_run(plan, &tensors, workspace);
    doconv_weights_destroy(weights);
    doconv_plan_destroy(plan);
    free(zeros);
    free(dst);
    free(workspace);
    return counts->most > 1 ? counts->most : 1;
}

/*
 * Images of a few tiles and many outputs: each candidate cuts these. Those that fold or pack in the
 * call have their own ways.
 */
static void test_outputs_of_small_images(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum dc_operation operation;
    } layers[] = {
        {"mb1_ic16ih4oc256kh1:src=nhwc,dst=nhwc", DC_CONVOLUTION},
        {"mb1_ic16ih4oc512kh1", DC_CONVOLUTION},
        {"mb1_ic16ih7oc256kh3ph1:src=nhwc,dst=nhwc", DC_CONVOLUTION},
        {"mb1_ic16ih7oc256kh3ph1:accuracy=fast", DC_CONVOLUTION},
        {"mb1_ic16ih7oc256kh3ph1:src=nChw16c,dst=nChw16c", DC_CONVOLUTION},
        {"mb1_ic16ih4oc256kh3ph1:src=nhwc,dst=nhwc,dmul=9,composition=feature", DC_FEATURE_FORWARD},
    };
    struct counts counts;
    doconv_context *ctx = open_counting(&counts);
    for (size_t l = 0; l < sizeof layers / sizeof layers[0]; l++) {
        struct dc_problem convolution;
        const doconv_conv_desc desc = problem(layers[l].text);
        expect_ok(dc_problem_create(ctx, &desc, &convolution));
        const struct dc_problem p = dc_problem_for(&convolution, layers[l].operation);
        struct dc_candidate_list list = forcible(ctx, &p);
        for (int i = 0; i < list.count; i++) {
            const int tasks = tasks_of(ctx, &counts, &p, list.items[i].text);
            /* Outputs are 4 blocks of a kernel, or more: a thread may be left over, not most. */
            if (tasks < 4 || tasks > THREADS) {
                fail_msg("%s: %d tasks for %d threads by %s", layers[l].text, tasks, THREADS,
                         list.items[i].text);
            }
        }
        dc_free(ctx, list.items);
    }
    doconv_context_destroy(ctx);
}

/* ---- the arithmetic ---- */

/* Share of the threads' time that so many equal pieces use. */
static double balance(int threads, int64_t pieces)
{
    return (double)pieces / (double)((pieces + threads - 1) / threads * threads);
}

/* The fewest cuts that leave hardly a thread idle, for each cut reads the input again. */
static void test_cut(void **state)
{
    (void)state;
    static const struct {
        int threads, units, blocks, expected;
    } rows[] = {
        {1, 1, 8, 8}, {8, 8, 8, 8}, {8, 16, 3, 3}, {8, 1, 8, 1}, {8, 1, 16, 2}, {8, 2, 8, 2},
        {8, 9, 8, 2}, {2, 1, 5, 3}, {2, 3, 6, 3},  {3, 1, 1, 1}, {4, 3, 2, 2},  {2, 19, 4, 4},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(dc_cut_outputs(rows[i].threads, rows[i].units, rows[i].blocks),
                         rows[i].expected);
    }
    for (int threads = 1; threads <= 9; threads++) {
        for (int64_t units = 1; units <= 20; units++) {
            for (int64_t blocks = 1; blocks <= 20; blocks++) {
                const int64_t chunk = dc_cut_outputs(threads, units, blocks);
                assert_in_range(chunk, 1, blocks);
                const int64_t cuts = (blocks + chunk - 1) / chunk;
                const double got = balance(threads, units * cuts);
                for (int64_t other = 1; other <= blocks; other++) {
                    const int64_t fewer = (blocks + other - 1) / other;
                    const double theirs = balance(threads, units * fewer);
                    assert_true(got >= 0.9 || theirs <= got);
                    assert_true(fewer >= cuts || (theirs < 0.9 && theirs < got));
                }
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outputs_of_small_images),
        cmocka_unit_test(test_cut),
    };
    return cmocka_run_group_tests_name("tasks", tests, NULL, NULL);
}
