/* SPDX-License-Identifier: MIT */
/*
 * Everything at once: threads plan, execute on shared plans and weights, tune the same problems
 * through one context and through several with one directory, train, and make failing calls, in
 * orders of their own. Results are those of one thread alone. Built with TSan it also shows what
 * isn't ordered (test_tsan.sh).
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <doconv/doconv_train.h>
#include <doconv/doconv_tune.h>

#include "tuner_fixture.h"

/* The first contexts are alike. */
enum { CALLERS = 4, CONTEXTS = 3, ALIKE = 2 };

/* Small ones of each solver, and layers in training of each composition. */
static const char *const layers[] = {
    "mb1_ic16ih9oc40kh3ph1:src=nhwc,dst=nhwc,bias,relu,accuracy=strict",
    "mb2_ic20ih7oc24kh3ph1:src=nchw,dst=nChw16c,bias",
    "mb1_ic33ih6oc20kh1:bias",
    "g32mb1_ic32ih8oc32kh3ph1:src=nhwc,dst=nhwc,bias",
    "g4mb1_ic16ih7oc16kh3ph1:src=nhwc,dst=nhwc,bias",
    "mb1_ic16ih12oc32kh3ph1:src=nhwc,dst=nhwc,bias",
};
enum { LAYERS = sizeof layers / sizeof layers[0] };
static const char *const trained[] = {
    "mb1_ic12ih8oc20kh3ph1:src=nhwc,dst=nhwc,bias,dmul=9",
    "g16mb1_ic16ih7oc16kh3ph1:src=nhwc,dst=nhwc,bias,dmul=9,composition=feature",
    "mb2_ic8ih7oc12kh3ph1sh2:bias",
};
enum { TRAINED = sizeof trained / sizeof trained[0] };

/* Tensors of any layer above, with room to spare; reproducible values. */
enum { FLOATS = 16384 };

struct layer {
    doconv_conv_desc desc;
    doconv_plan *plan;
    doconv_weights *weights;
    size_t dst_bytes;
    float expected[FLOATS];
};

struct step {
    doconv_conv_desc desc;
    doconv_training *training;
    doconv_parameters parameters;
    size_t bytes[4]; /* of what a step writes: dst, and the gradients of src, weight, D */
    float expected[4][FLOATS];
};

/* What all threads share. */
struct shared {
    doconv_context *contexts[CONTEXTS];
    float values[FLOATS];
    struct layer layers[LAYERS];
    struct step steps[TRAINED];
};

struct caller {
    pthread_t thread;
    struct shared *shared;
    int number;
    uint64_t random;
    int rounds;
    const char *failed; /* what went wrong; NULL: nothing */
};

static int pick(struct caller *c, int count)
{
    c->random = c->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int)((c->random >> 33) % (uint64_t)count);
}

/* ---- what a thread may do; false: something was wrong ---- */

/* On a plan and weights that others use, too. */
static bool run_layer(const struct layer *l, const float *values, float *dst)
{
    const size_t size = doconv_plan_workspace_size(l->plan);
    void *workspace = malloc(size + 1);
    const bool ok =
        doconv_execute(l->plan, l->weights, values, NULL, dst, workspace, size) == DOCONV_OK;
    free(workspace);
    return ok;
}

static bool execute(struct caller *c)
{
    float dst[FLOATS];
    const struct layer *l = &c->shared->layers[pick(c, LAYERS)];
    return run_layer(l, c->shared->values, dst) && memcmp(dst, l->expected, l->dst_bytes) == 0;
}

/* A plan and weights of its own, by whatever way of choosing. */
static bool plan(struct caller *c)
{
    static const doconv_rigor rigors[] = {DOCONV_RIGOR_DEFAULT, DOCONV_RIGOR_ESTIMATE,
                                          DOCONV_RIGOR_READ};
    float dst[FLOATS];
    struct layer l = c->shared->layers[pick(c, LAYERS)];
    doconv_context *ctx = c->shared->contexts[pick(c, CONTEXTS)];
    const doconv_plan_options options = {.size = sizeof options, .rigor = rigors[pick(c, 3)]};
    bool ok = doconv_plan_create(ctx, &l.desc, &options, &l.plan) == DOCONV_OK &&
              doconv_weights_create(l.plan, c->shared->values, c->shared->values, &l.weights) ==
                  DOCONV_OK;
    ok = ok && run_layer(&l, c->shared->values, dst);
    if (ok) {
        doconv_weights_destroy(l.weights);
        doconv_plan_destroy(l.plan);
    }
    return ok;
}

static bool list_candidates(struct caller *c)
{
    const struct layer *l = &c->shared->layers[pick(c, LAYERS)];
    doconv_candidates *list;
    const bool ok = doconv_candidates_create(c->shared->contexts[pick(c, CONTEXTS)], &l->desc, NULL,
                                             &list) == DOCONV_OK;
    if (ok) {
        doconv_candidates_destroy(list);
    }
    return ok;
}

static bool tune(struct caller *c)
{
    const struct layer *l = &c->shared->layers[pick(c, LAYERS)];
    const doconv_tune_options options = {
        .size = sizeof options, .force = pick(c, 4) == 0, .budget_seconds = 1e-4};
    /*
     * One variant, most of the time: measuring all takes long under TSan. It is that of a context
     * with as many threads.
     */
    const doconv_plan_options forced = {.size = sizeof forced,
                                        .variant = doconv_plan_variant(l->plan)};
    const bool all = pick(c, 3) == 0;
    doconv_context *ctx = c->shared->contexts[pick(c, all ? CONTEXTS : ALIKE)];
    doconv_tune_report *report;
    const bool ok =
        doconv_tune(ctx, &l->desc, all ? NULL : &forced, &options, &report) == DOCONV_OK;
    doconv_tune_report_destroy(report);
    return ok;
}

static bool clean(struct caller *c)
{
    const doconv_cache_clean_options options = {.size = sizeof options, .all = pick(c, 2)};
    const doconv_status status =
        doconv_cache_clean(c->shared->contexts[pick(c, CONTEXTS)], &options);
    /* A directory that another thread removes, or writes to, meanwhile is no failure of ours. */
    return status == DOCONV_OK || status == DOCONV_IO_ERROR;
}

/* Both passes; outputs: dst, and the gradients of src, weight, D. */
static bool run_step(const struct step *s, const float *values, float *outputs[4])
{
    const size_t size = doconv_training_workspace_size(s->training);
    void *workspace = malloc(size + 1),
         *saved = malloc(doconv_training_saved_size(s->training) + 1);
    const doconv_gradients gradients = {.size = sizeof gradients,
                                        .src = outputs[1],
                                        .weight = outputs[2],
                                        .d = s->parameters.d != NULL ? outputs[3] : NULL};
    const bool ok = doconv_training_forward(s->training, &s->parameters, values, outputs[0], saved,
                                            workspace, size) == DOCONV_OK &&
                    doconv_training_backward(s->training, &s->parameters, values, values, saved,
                                             &gradients, workspace, size) == DOCONV_OK;
    free(workspace);
    free(saved);
    return ok;
}

static bool train(struct caller *c)
{
    float *outputs[4];
    const struct step *s = &c->shared->steps[pick(c, TRAINED)];
    bool ok = true;
    for (int i = 0; i < 4; i++) {
        outputs[i] = malloc(FLOATS * sizeof(float));
        ok = ok && outputs[i] != NULL;
    }
    ok = ok && run_step(s, c->shared->values, outputs);
    for (int i = 0; i < 4; i++) {
        ok = ok && memcmp(outputs[i], s->expected[i], s->bytes[i]) == 0;
        free(outputs[i]);
    }
    return ok;
}

static bool create_training(struct caller *c)
{
    doconv_training *training;
    const bool ok = doconv_training_create(c->shared->contexts[pick(c, CONTEXTS)],
                                           &c->shared->steps[pick(c, TRAINED)].desc, NULL,
                                           &training) == DOCONV_OK;
    doconv_training_destroy(training);
    return ok;
}

/* The detail is this thread's own, whatever the others fail at meanwhile. */
static bool call_wrongly(struct caller *c)
{
    doconv_context *ctx = c->shared->contexts[pick(c, CONTEXTS)];
    const struct layer *l = &c->shared->layers[pick(c, LAYERS)];
    doconv_conv_desc wrong = l->desc;
    char own[32], detail[256], text[64];
    doconv_plan *made;
    wrong.stride_h = -1000 - c->number * 100 - pick(c, 100);
    snprintf(own, sizeof own, "%d", (int)wrong.stride_h);
    bool ok = doconv_plan_create(ctx, &wrong, NULL, &made) == DOCONV_INVALID_PROBLEM;
    doconv_context_last_error(ctx, detail, sizeof detail);
    ok = ok && strstr(detail, own) != NULL;
    snprintf(text, sizeof text, "mb1_ic1ih1oc1kh1:word%d", c->number);
    ok = ok && doconv_conv_desc_parse(ctx, text, &wrong) != DOCONV_OK;
    doconv_context_last_error(ctx, detail, sizeof detail);
    ok = ok && strstr(detail, strchr(text, ':') + 1) != NULL;
    ok = ok &&
         doconv_execute(l->plan, l->weights, NULL, NULL, NULL, NULL, 0) == DOCONV_INVALID_ARGUMENT;
    return ok;
}

/* A context of its own beside the shared ones, in their directory. */
static bool come_and_go(struct caller *c)
{
    const doconv_context *like = c->shared->contexts[0];
    const doconv_context_options options = {.size = sizeof options,
                                            .threads = 1 + pick(c, 3),
                                            .tune = DOCONV_TUNE_READ,
                                            .cache_directory = like->cache_directory};
    doconv_context *ctx;
    doconv_plan *made;
    bool ok = doconv_context_create(&options, &ctx) == DOCONV_OK;
    ok = ok && doconv_plan_create(ctx, &c->shared->layers[pick(c, LAYERS)].desc, NULL, &made) ==
                   DOCONV_OK;
    if (ok) {
        doconv_plan_destroy(made);
    }
    doconv_context_destroy(ctx);
    return ok;
}

static const struct {
    const char *name;
    bool (*run)(struct caller *c);
} actions[] = {
    {"execute", execute},
    {"plan", plan},
    {"list candidates", list_candidates},
    {"tune", tune},
    {"clean the cache", clean},
    {"train", train},
    {"create a training", create_training},
    {"call wrongly", call_wrongly},
    {"contexts come and go", come_and_go},
};
enum { ACTIONS = sizeof actions / sizeof actions[0] };

/* 400, of which DOCONV_TEST_SCALE per cent. */
static int rounds(void)
{
    const char *scale = getenv("DOCONV_TEST_SCALE");
    const int percent = scale != NULL ? atoi(scale) : 0;
    return percent > 0 ? 4 * percent : 400;
}

static void *run_caller(void *arg)
{
    struct caller *c = arg;
    for (int i = 0; i < c->rounds && c->failed == NULL; i++) {
        /* Each one first with all others at it, too; then as it comes. */
        const int action = i < ACTIONS ? i : pick(c, ACTIONS);
        if (!actions[action].run(c)) {
            c->failed = actions[action].name;
        }
    }
    return NULL;
}

/* ---- what they share ---- */

static size_t bytes_of(doconv_layout layout, int64_t n, int64_t channels, int64_t h, int64_t w)
{
    size_t bytes;
    assert_int_equal(doconv_tensor_bytes(layout, n, channels, h, w, &bytes), DOCONV_OK);
    assert_true(bytes <= FLOATS * sizeof(float));
    return bytes;
}

static size_t dst_bytes(const doconv_conv_desc *desc)
{
    int64_t s[4];
    assert_int_equal(doconv_conv_dst_shape(NULL, desc, s), DOCONV_OK);
    return bytes_of(desc->dst_layout, s[0], s[1], s[2], s[3]);
}

static void make_layer(struct shared *shared, struct layer *l, const char *text)
{
    l->desc = fixture_problem(text);
    l->dst_bytes = dst_bytes(&l->desc);
    bytes_of(l->desc.src_layout, l->desc.n, l->desc.cin, l->desc.h, l->desc.w);
    assert_int_equal(doconv_plan_create(shared->contexts[0], &l->desc, NULL, &l->plan), DOCONV_OK);
    assert_int_equal(doconv_weights_create(l->plan, shared->values, shared->values, &l->weights),
                     DOCONV_OK);
    assert_true(run_layer(l, shared->values, l->expected));
}

static void make_step(struct shared *shared, struct step *s, const char *text)
{
    s->desc = fixture_problem(text);
    const doconv_conv_desc *d = &s->desc;
    const int64_t taps = d->kh * d->kw, d_mul = d->d_mul != 0 ? d->d_mul : taps;
    s->parameters = (doconv_parameters){.size = sizeof s->parameters,
                                        .weight = shared->values,
                                        .d = d->d_mul != 0 ? shared->values : NULL,
                                        .bias = d->has_bias ? shared->values : NULL};
    s->bytes[0] = dst_bytes(d);
    s->bytes[1] = bytes_of(d->src_layout, d->n, d->cin, d->h, d->w);
    s->bytes[2] = bytes_of(DOCONV_NCHW, d->cout, d->cin / d->groups, d_mul, 1);
    s->bytes[3] = d->d_mul != 0 ? bytes_of(DOCONV_NCHW, d->cin, taps, d_mul, 1) : 0;
    assert_int_equal(doconv_training_create(shared->contexts[0], d, NULL, &s->training), DOCONV_OK);
    float *outputs[4] = {s->expected[0], s->expected[1], s->expected[2], s->expected[3]};
    assert_true(run_step(s, shared->values, outputs));
}

static struct shared *open_shared(struct fixture *f)
{
    struct shared *shared = calloc(1, sizeof *shared);
    assert_non_null(shared);
    /* The last has no threads of its own. */
    static const int threads[CONTEXTS] = {3, 3, 1};
    for (int i = 0; i < CONTEXTS; i++) {
        char path[FIXTURE_PATH];
        doconv_context_options options = fixture_options(f, "c", path);
        options.threads = threads[i];
        options.tune = DOCONV_TUNE_READ;
        assert_int_equal(doconv_context_create(&options, &shared->contexts[i]), DOCONV_OK);
    }
    for (int i = 0; i < FLOATS; i++) {
        shared->values[i] = (float)(i * 7 % 31 - 15) / 8.0f;
    }
    for (int i = 0; i < LAYERS; i++) {
        make_layer(shared, &shared->layers[i], layers[i]);
    }
    for (int i = 0; i < TRAINED; i++) {
        make_step(shared, &shared->steps[i], trained[i]);
    }
    return shared;
}

static void close_shared(struct shared *shared)
{
    for (int i = 0; i < LAYERS; i++) {
        doconv_weights_destroy(shared->layers[i].weights);
        doconv_plan_destroy(shared->layers[i].plan);
    }
    for (int i = 0; i < TRAINED; i++) {
        doconv_training_destroy(shared->steps[i].training);
    }
    for (int i = 0; i < CONTEXTS; i++) {
        doconv_context_destroy(shared->contexts[i]);
    }
    free(shared);
}

static void test_everything_at_once(void **state)
{
    struct fixture *f = *state;
    struct shared *shared = open_shared(f);
    struct caller callers[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        callers[i] = (struct caller){
            .shared = shared, .number = i, .random = (uint64_t)i + 1, .rounds = rounds()};
        assert_int_equal(pthread_create(&callers[i].thread, NULL, run_caller, &callers[i]), 0);
    }
    for (int i = 0; i < CALLERS; i++) {
        assert_int_equal(pthread_join(callers[i].thread, NULL), 0);
    }
    for (int i = 0; i < CALLERS; i++) {
        if (callers[i].failed != NULL) {
            fail_msg("thread %d failed: %s", i, callers[i].failed);
        }
    }
    assert_int_equal(f->log.errors, 0);
    close_shared(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_everything_at_once, fixture_setup, fixture_teardown),
    };
    return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
