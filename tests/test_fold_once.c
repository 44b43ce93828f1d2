/* SPDX-License-Identifier: MIT */
/*
 * The plan that a call of doconv_fold() or doconv_fold_gradient() leaves to the next one: whichever
 * layer was folded before, whoever folds at the same time, whatever the tuner has chosen since.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "api_support.h"
#include "base/context.h"
#include "plan/plan.h"
#include "plan/problem.h"

enum { LAYERS = 5, FOLDS = 200, MOST_ROWS = 24 * 24, MOST_TAPS = 9 };

/* Layers that differ in one thing each, but for the last, which is the first again. */
static doconv_fold_desc layer(int index)
{
    return (doconv_fold_desc){.size = sizeof(doconv_fold_desc),
                              .cout = index == 1 ? 24 : 12,
                              .cin = index == 2 ? 24 : 12,
                              .kh = 3,
                              .kw = 3,
                              .groups = 1,
                              .d_mul = 9,
                              .add_identity = index == 3};
}

struct values {
    float w[MOST_ROWS * 9], d[24 * MOST_TAPS * 9], grad[MOST_ROWS * MOST_TAPS];
};

/* All that the calls write. */
struct results {
    float weight[MOST_ROWS * MOST_TAPS], grad_w[MOST_ROWS * 9], grad_d[24 * MOST_TAPS * 9];
};

static struct values values;

static void fill(float *at, size_t floats, unsigned seed)
{
    for (size_t i = 0; i < floats; i++) {
        seed = seed * 1103515245u + 12345u;
        at[i] = (float)(int)(seed >> 16 & 15) - 7.5f;
    }
}

static bool fold(doconv_context *context, int index, struct results *results)
{
    const doconv_fold_desc desc = layer(index);
    memset(results, 0, sizeof *results);
    return doconv_fold(context, &desc, values.w, values.d, results->weight) == DOCONV_OK &&
           doconv_fold_gradient(context, &desc, values.w, values.d, values.grad, results->grad_w,
                                results->grad_d) == DOCONV_OK;
}

struct folder {
    doconv_context *context;
    const struct results *expected;
    int first, wrong;
};

/* Thread i folds layer i, or each in turn. */
static void *fold_often(void *arg)
{
    struct folder *f = arg;
    struct results *results = malloc(sizeof *results);
    for (int i = 0; i < FOLDS; i++) {
        const int index = (f->first + (f->first % 2 != 0 ? i : 0)) % LAYERS;
        f->wrong += results == NULL || !fold(f->context, index, results) ||
                    memcmp(results, &f->expected[index], sizeof *results) != 0;
    }
    free(results);
    return NULL;
}

static void test_layers_and_threads(void **state)
{
    (void)state;
    struct results *expected = malloc(LAYERS * sizeof *expected);
    assert_non_null(expected);
    for (int i = 0; i < LAYERS; i++) {
        doconv_context *fresh = open_context();
        assert_true(fold(fresh, i, &expected[i]));
        doconv_context_destroy(fresh);
    }
    assert_memory_equal(&expected[0], &expected[LAYERS - 1], sizeof expected[0]);
    doconv_context *context = open_context();
    struct folder folders[4];
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        folders[i] = (struct folder){.context = context, .expected = expected, .first = i};
        assert_int_equal(pthread_create(&threads[i], NULL, fold_often, &folders[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(folders[i].wrong, 0);
    }
    doconv_context_destroy(context);
    free(expected);
}

/* ---- which plan is taken ---- */

static void *count_allocate(void *user, size_t size, size_t alignment)
{
    ++*(int *)user;
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void count_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

/* Takes a plan for a layer and leaves it again. Returns whether it was made for that. */
static bool is_made(doconv_context *context, enum dc_operation operation, int index,
                    const int *allocations)
{
    const doconv_fold_desc desc = layer(index);
    struct dc_problem problem;
    struct dc_kept *taken;
    const doconv_plan *plan;
    expect_ok(dc_problem_create_fold(context, &desc, operation, &problem));
    const int before = *allocations;
    expect_ok(dc_plan_take(context, &problem, &taken, &plan));
    assert_int_equal(plan->problem.operation, operation);
    assert_memory_equal(&plan->problem.fold, &problem.fold, sizeof problem.fold);
    const bool made = *allocations != before;
    dc_plan_leave(taken);
    return made;
}

static doconv_context *open_counting(int *allocations)
{
    const doconv_context_options options = {.size = sizeof options,
                                            .threads = 1,
                                            .tune = DOCONV_TUNE_OFF,
                                            .cache_directory = "",
                                            .allocate = count_allocate,
                                            .release = count_release,
                                            .allocate_user = allocations};
    doconv_context *context = NULL;
    expect_ok(doconv_context_create(&options, &context));
    return context;
}

static void test_which(void **state)
{
    (void)state;
    static const enum dc_operation operations[] = {DC_FOLD, DC_FOLD_GRADIENT};
    int allocations = 0;
    doconv_context *context = open_counting(&allocations);
    for (int i = 0; i < 2; i++) {
        assert_true(is_made(context, operations[i], 0, &allocations));
        assert_false(is_made(context, operations[i], 0, &allocations));
    }
    /* Each operation has a place of its own; any difference counts. */
    for (int index = 1; index < LAYERS; index++) {
        for (int i = 0; i < 2; i++) {
            assert_true(is_made(context, operations[i], index, &allocations));
        }
        for (int i = 0; i < 2; i++) {
            assert_false(is_made(context, operations[i], index, &allocations));
        }
    }
    /* The tuner has chosen something. */
    atomic_fetch_add(&context->choices, 1);
    for (int i = 0; i < 2; i++) {
        assert_true(is_made(context, operations[i], LAYERS - 1, &allocations));
        assert_false(is_made(context, operations[i], LAYERS - 1, &allocations));
    }
    doconv_context_destroy(context);
}

/* Where each plan is to be measured anew, none is left. */
static void test_force(void **state)
{
    (void)state;
    int allocations = 0;
    doconv_context *context = open_counting(&allocations);
    context->tune = DOCONV_TUNE_FORCE;
    context->advisor.measure = NULL; /* a fold of this size is not what this is about */
    for (int i = 0; i < 3; i++) {
        assert_true(is_made(context, DC_FOLD, 0, &allocations));
    }
    doconv_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layers_and_threads),
        cmocka_unit_test(test_which),
        cmocka_unit_test(test_force),
    };
    fill((float *)&values, sizeof values / sizeof(float), 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
