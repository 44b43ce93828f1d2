/* SPDX-License-Identifier: MIT */
/*
 * Plans and what is done with them: options, candidates, workspace, weights of other plans, failing
 * memory, threads that share one plan.
 */
#include <pthread.h>

#include "api_support.h"

#define PROBLEM "mb2_ic19ih9oc35kh3ph1:src=nhwc,dst=nhwc,bias,relu"

/* ---- options and candidates ---- */

static void test_bad_options(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    const doconv_conv_desc desc = problem(PROBLEM);
    struct {
        doconv_plan_options options;
        int64_t unknown;
    } newer = {plan_options(), 1};
    static const size_t sizes[] = {0, sizeof newer.options - 1, sizeof newer};
    doconv_plan *plan;
    doconv_candidates *list;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        newer.options.size = sizes[i];
        expect_status(doconv_plan_create(context, &desc, &newer.options, &plan), DOCONV_MISMATCH);
        expect_error(context, "doconv_plan_options", "size");
        assert_null(plan);
        expect_status(doconv_candidates_create(context, &desc, &newer.options, &list),
                      DOCONV_MISMATCH);
    }
    static const int values[] = {-1, 4, 1000};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        doconv_plan_options options = plan_options();
        char value[16];
        snprintf(value, sizeof value, "%d", values[i]);
        options.rigor = (doconv_rigor)values[i];
        expect_status(doconv_plan_create(context, &desc, &options, &plan), DOCONV_INVALID_ARGUMENT);
        expect_error(context, "rigor", value);
        options = plan_options();
        options.cold_weights = values[i];
        expect_status(doconv_plan_create(context, &desc, &options, &plan), DOCONV_INVALID_ARGUMENT);
        expect_error(context, "cold_weights", value);
        options = plan_options();
        options.fresh_weights = values[i];
        expect_status(doconv_plan_create(context, &desc, &options, &plan), DOCONV_INVALID_ARGUMENT);
        expect_error(context, "fresh_weights", value);
    }
    doconv_context_destroy(context);
}

static void test_candidates(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    const doconv_conv_desc desc = problem(PROBLEM);
    doconv_candidates *list;
    expect_ok(doconv_candidates_create(context, &desc, NULL, &list));
    const int count = doconv_candidates_count(list);
    bool refused = false;
    double last = 0.0;
    for (int i = 0; i < count; i++) {
        doconv_candidate_info info = {.size = sizeof info};
        expect_ok(doconv_candidates_get(list, i, &info));
        assert_non_null(strstr(info.variant, info.kernel));
        assert_true(strlen(info.variant) < DOCONV_VARIANT_TEXT_SIZE);
        if (info.refused != NULL) {
            refused = true;
            assert_true(strlen(info.refused) > 3);
            assert_true(info.estimated_seconds == 0.0);
            continue;
        }
        assert_false(refused); /* accepted ones first, best estimate first */
        assert_true(info.estimated_seconds > 0.0 && info.estimated_seconds >= last);
        assert_true(info.packed_size > 0);
        last = info.estimated_seconds;
        for (int j = 0; j < i; j++) {
            doconv_candidate_info other = {.size = sizeof other};
            expect_ok(doconv_candidates_get(list, j, &other));
            assert_string_not_equal(info.variant, other.variant);
        }
        /* Text and variant are one to one. */
        doconv_plan_options options = plan_options();
        doconv_plan *plan;
        options.variant = info.variant;
        expect_ok(doconv_plan_create(context, &desc, &options, &plan));
        assert_string_equal(doconv_plan_variant(plan), info.variant);
        assert_string_equal(doconv_plan_origin(plan), "forced");
        assert_int_equal(doconv_plan_workspace_size(plan), info.workspace_size);
        assert_int_equal(doconv_plan_packed_size(plan), info.packed_size);
        doconv_plan_destroy(plan);
    }
    /* Every kernel is there, by name, but those that don't convolve: they are no candidates. */
    for (int k = 0; k < doconv_kernel_count(context); k++) {
        doconv_kernel_info kernel = {.size = sizeof kernel};
        expect_ok(doconv_kernel_get(context, k, &kernel));
        int found = 0;
        for (int i = 0; i < count; i++) {
            doconv_candidate_info info = {.size = sizeof info};
            expect_ok(doconv_candidates_get(list, i, &info));
            found += strcmp(info.kernel, kernel.name) == 0;
        }
        if (strcmp(kernel.operation, "compose") == 0 || strcmp(kernel.operation, "product") == 0 ||
            strcmp(kernel.operation, "correlate") == 0) {
            assert_int_equal(found, 0);
        } else {
            assert_true(found >= 1);
        }
    }
    /* The default is the best estimate. */
    doconv_candidate_info best = {.size = sizeof best};
    expect_ok(doconv_candidates_get(list, 0, &best));
    doconv_plan *plan;
    expect_ok(doconv_plan_create(context, &desc, NULL, &plan));
    assert_string_equal(doconv_plan_variant(plan), best.variant);
    assert_string_equal(doconv_plan_origin(plan), "estimate");
    doconv_plan_destroy(plan);
    doconv_candidates_destroy(list);
    doconv_context_destroy(context);
}

/* Weights from memory take time: none is estimated faster, and large ones are slower. */
static void test_cold_estimates(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    const doconv_conv_desc desc = problem("mb1_ic512ih7oc512kh3ph1:src=nhwc,dst=nhwc");
    doconv_plan_options options = plan_options();
    doconv_candidates *warm, *cold;
    expect_ok(doconv_candidates_create(context, &desc, &options, &warm));
    options.cold_weights = 1;
    expect_ok(doconv_candidates_create(context, &desc, &options, &cold));
    const int count = doconv_candidates_count(warm);
    assert_int_equal(doconv_candidates_count(cold), count);
    for (int i = 0; i < count; i++) {
        doconv_candidate_info a = {.size = sizeof a}, b = {.size = sizeof b};
        expect_ok(doconv_candidates_get(warm, i, &a));
        for (int j = 0; j < count; j++) {
            expect_ok(doconv_candidates_get(cold, j, &b));
            if (strcmp(a.variant, b.variant) == 0) {
                break;
            }
        }
        assert_string_equal(a.variant, b.variant);
        assert_true(b.estimated_seconds >= a.estimated_seconds);
        if (a.refused == NULL && strstr(a.variant, "reference") == NULL) {
            assert_true(b.estimated_seconds > a.estimated_seconds);
        }
    }
    doconv_candidates_destroy(cold);
    doconv_candidates_destroy(warm);
    doconv_context_destroy(context);
}

static void test_unknown_variant(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    const doconv_conv_desc desc = problem(PROBLEM);
    static const char *const names[] = {"",
                                        "nothing@none",
                                        "direct",
                                        "reference",
                                        "reference:",
                                        "reference:reference_f32@none:x=1",
                                        " reference_f32@none",
                                        "depthwise:reference_f32@none"};
    doconv_plan *plan;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        doconv_plan_options options = plan_options();
        options.variant = names[i];
        expect_status(doconv_plan_create(context, &desc, &options, &plan), DOCONV_NOT_FOUND);
        expect_error(context, names[i], NULL);
        assert_null(plan);
    }
    doconv_plan_options options = plan_options();
    options.variant = "reference_f32@none";
    expect_ok(doconv_plan_create(context, &desc, &options, &plan));
    assert_string_equal(doconv_plan_variant(plan), "reference:reference_f32@none");
    doconv_plan_destroy(plan);
    doconv_context_destroy(context);
    /* A kernel over the cap is not found, however it is called. */
    const doconv_context_options capped = {
        .size = sizeof capped, .threads = 1, .tune = DOCONV_TUNE_OFF, .max_isa = DOCONV_ISA_NONE};
    expect_ok(doconv_context_create(&capped, &context));
    for (int i = 0; i < doconv_kernel_count(context); i++) {
        doconv_kernel_info kernel = {.size = sizeof kernel};
        expect_ok(doconv_kernel_get(context, i, &kernel));
        options.variant = kernel.name;
        if (!kernel.usable) {
            expect_status(doconv_plan_create(context, &desc, &options, &plan), DOCONV_NOT_FOUND);
            expect_error(context, kernel.name, NULL);
        }
    }
    doconv_context_destroy(context);
}

static void test_workspace_limit(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    const doconv_conv_desc desc = problem(PROBLEM);
    static const size_t limits[] = {1, 64, 1000, 5000, 20000, 1u << 20};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        doconv_plan_options options = plan_options();
        options.workspace_limit = limits[i];
        doconv_plan *plan;
        /* the reference needs none */
        expect_ok(doconv_plan_create(context, &desc, &options, &plan));
        assert_true(doconv_plan_workspace_size(plan) <= limits[i]);
        doconv_plan_destroy(plan);
        doconv_candidates *list;
        expect_ok(doconv_candidates_create(context, &desc, &options, &list));
        for (int j = 0; j < doconv_candidates_count(list); j++) {
            doconv_candidate_info info = {.size = sizeof info};
            expect_ok(doconv_candidates_get(list, j, &info));
            assert_true(info.refused != NULL || info.workspace_size <= limits[i]);
        }
        doconv_candidates_destroy(list);
    }
    doconv_context_destroy(context);
}

/* The smallest of what the candidates' packed weights take. */
static size_t least_packed(doconv_context *context, const doconv_conv_desc *desc)
{
    doconv_candidates *list;
    size_t least = SIZE_MAX;
    expect_ok(doconv_candidates_create(context, desc, NULL, &list));
    for (int i = 0; i < doconv_candidates_count(list); i++) {
        doconv_candidate_info info = {.size = sizeof info};
        expect_ok(doconv_candidates_get(list, i, &info));
        least = info.refused == NULL && info.packed_size < least ? info.packed_size : least;
    }
    doconv_candidates_destroy(list);
    return least;
}

/* A limit takes those that fit and no other, whatever else is asked for; a plan keeps to it. */
static void check_packed_limit(doconv_context *context, const doconv_conv_desc *desc,
                               doconv_plan_options options, size_t limit, bool fits)
{
    doconv_candidates *all, *list;
    options.packed_limit = 0;
    expect_ok(doconv_candidates_create(context, desc, &options, &all));
    options.packed_limit = limit;
    expect_ok(doconv_candidates_create(context, desc, &options, &list));
    assert_int_equal(doconv_candidates_count(list), doconv_candidates_count(all));
    int accepted = 0, fitting = 0;
    for (int i = 0; i < doconv_candidates_count(list); i++) {
        doconv_candidate_info info = {.size = sizeof info}, without = {.size = sizeof without};
        expect_ok(doconv_candidates_get(list, i, &info));
        expect_ok(doconv_candidates_get(all, i, &without));
        accepted += info.refused == NULL;
        fitting += without.refused == NULL && without.packed_size <= limit;
        assert_true(info.refused != NULL || info.packed_size <= limit);
        assert_true(info.refused == NULL || strstr(info.refused, "packed weights") == NULL ||
                    info.packed_size > limit);
    }
    doconv_candidates_destroy(all);
    doconv_candidates_destroy(list);
    doconv_plan *plan;
    const doconv_status status = doconv_plan_create(context, desc, &options, &plan);
    assert_int_equal(accepted, fitting);
    assert_true((accepted > 0) == fits);
    if (!fits) {
        assert_int_equal(status, DOCONV_UNSUPPORTED);
        expect_error(context, "packed weights of", NULL);
        return;
    }
    expect_ok(status);
    assert_true(doconv_plan_packed_size(plan) <= limit);
    doconv_plan_destroy(plan);
}

static void test_packed_limit(void **state)
{
    (void)state;
    static const char *const texts[] = {
        PROBLEM,
        "ic64ih14oc64kh3ph1:src=nhwc,dst=nhwc",
        "ic40ih6oc48kh3ph1:src=nChw16c,dst=nChw8c,accuracy=fast",
        "g4ic64ih9oc64kh3ph1",
        "g19ic19ih9oc19kh3ph1",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const doconv_conv_desc desc = problem(texts[i]);
        doconv_context *context = open_context();
        const size_t least = least_packed(context, &desc);
        const size_t limits[] = {1,         least - 1, least,    least + 64,
                                 2 * least, 4 * least, SIZE_MAX, 5 * least};
        for (size_t j = 0; j < sizeof limits / sizeof limits[0]; j++) {
            doconv_plan_options options = plan_options();
            check_packed_limit(context, &desc, options, limits[j], limits[j] >= least);
            options.workspace_limit = SIZE_MAX;
            check_packed_limit(context, &desc, options, limits[j], limits[j] >= least);
        }
        /* With both limits a message names both. */
        doconv_plan_options options = plan_options();
        options.packed_limit = options.workspace_limit = 1;
        doconv_plan *plan;
        expect_status(doconv_plan_create(context, &desc, &options, &plan), DOCONV_UNSUPPORTED);
        expect_error(context, "a workspace of 1 bytes and packed weights of 1 bytes", NULL);
        doconv_context_destroy(context);
    }
}

/* Where a vector kernel takes the problem, the estimate never chooses scalar loops. */
static void test_reference_is_last(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "ic4096ih7oc8kh3sh2ph1",
        "ic3ih10oc2kh1sh7:src=nchw,dst=nChw16c",
        "g45ic90ih2oc45kh2sh2:src=nChw16c,dst=nChw8c",
        "ic1ih1oc1kh1",
        "ic430ih3oc8kh1sh3:src=nChw16c,dst=nChw8c",
    };
    for (int threads = 1; threads <= 64; threads *= 8) {
        const doconv_context_options options = {
            .size = sizeof options, .threads = threads, .tune = DOCONV_TUNE_OFF};
        doconv_context *context;
        expect_ok(doconv_context_create(&options, &context));
        for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
            const doconv_conv_desc desc = problem(texts[i]);
            doconv_candidates *list;
            expect_ok(doconv_candidates_create(context, &desc, NULL, &list));
            doconv_candidate_info first = {.size = sizeof first}, second = {.size = sizeof second};
            expect_ok(doconv_candidates_get(list, 0, &first));
            expect_ok(doconv_candidates_get(list, 1, &second));
            if (strstr(first.variant, "reference") != NULL && second.refused == NULL) {
                fail_msg("%s, %d threads: %s is chosen", texts[i], threads, first.variant);
            }
            doconv_candidates_destroy(list);
        }
        doconv_context_destroy(context);
    }
}

static size_t default_limit(const doconv_context *context)
{
    doconv_context_info info = {.size = sizeof info};
    expect_ok(doconv_context_get_info(context, &info));
    const size_t caches = 4 * (size_t)info.l3_bytes, floor = (size_t)64 << 20;
    return caches > floor ? caches : floor;
}

/* Those that need more are refused by default, and some that a limit of SIZE_MAX accepts. */
static int refused_by_default(doconv_context *context, const doconv_conv_desc *desc, size_t limit)
{
    doconv_candidates *list;
    int refused = 0;
    expect_ok(doconv_candidates_create(context, desc, NULL, &list));
    for (int i = 0; i < doconv_candidates_count(list); i++) {
        doconv_candidate_info info = {.size = sizeof info};
        expect_ok(doconv_candidates_get(list, i, &info));
        assert_true(info.refused != NULL || info.workspace_size <= limit);
        if (info.refused != NULL && strstr(info.refused, "default limit") != NULL) {
            refused++;
            assert_true(info.workspace_size > limit);
            /* By its full text it can be had all the same, and so with a limit of the caller's. */
            doconv_plan_options options = plan_options();
            options.variant = info.variant;
            options.workspace_limit = SIZE_MAX;
            doconv_plan *plan;
            expect_ok(doconv_plan_create(context, desc, &options, &plan));
            doconv_plan_destroy(plan);
            options.workspace_limit = 0;
            expect_ok(doconv_plan_create(context, desc, &options, &plan));
            assert_int_equal(doconv_plan_workspace_size(plan), info.workspace_size);
            doconv_plan_destroy(plan);
        }
    }
    doconv_candidates_destroy(list);
    return refused;
}

static void test_default_workspace_limit(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool larger; /* a row needs more than the default */
    } layers[] = {
        {"ic64ih2400oc64kh3ph1", false},
        {"ic16ih65536iw16384oc16kh3kw3ph1pw1", false},
        {"ic64ih2400oc64kh3ph1sh2:src=nchw,dst=nhwc", false},
        {"ic48ih3iw30000000oc64kh3kw3ph1pw1", true},
    };
    for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
        for (int threads = 1; threads <= 16; threads *= 4) {
            const doconv_context_options options = {
                .size = sizeof options, .threads = threads, .tune = DOCONV_TUNE_OFF};
            doconv_context *context;
            expect_ok(doconv_context_create(&options, &context));
            doconv_context_info info = {.size = sizeof info};
            expect_ok(doconv_context_get_info(context, &info));
            const doconv_conv_desc desc = problem(layers[i].text);
            doconv_plan *plan;
            expect_ok(doconv_plan_create(context, &desc, NULL, &plan));
            const size_t size = doconv_plan_workspace_size(plan), limit = default_limit(context);
            /* Whatever the limit, a layer is never left to the reference for it. */
            if (info.isa != DOCONV_ISA_NONE) {
                assert_null(strstr(doconv_plan_variant(plan), "reference"));
                assert_true(layers[i].larger || size <= limit);
                assert_true(layers[i].larger || refused_by_default(context, &desc, limit) > 0);
            }
            doconv_plan_destroy(plan);
            doconv_context_destroy(context);
        }
    }
}

/* ---- execute ---- */

struct prepared {
    doconv_context *context;
    doconv_conv_desc desc;
    doconv_plan *plan;
    doconv_weights *weights;
    struct tensors t;
    void *workspace;
    size_t workspace_size;
};

static struct prepared prepare(const char *text)
{
    struct prepared p = {.context = open_context(), .desc = problem(text)};
    expect_ok(doconv_plan_create(p.context, &p.desc, NULL, &p.plan));
    p.t = tensors_for(&p.desc);
    expect_ok(doconv_weights_create(p.plan, p.t.weight, p.t.bias, &p.weights));
    p.workspace_size = doconv_plan_workspace_size(p.plan);
    p.workspace = malloc(p.workspace_size + 1);
    assert_non_null(p.workspace);
    return p;
}

static void finish(struct prepared *p)
{
    free(p->workspace);
    free_tensors(&p->t);
    doconv_weights_destroy(p->weights);
    doconv_plan_destroy(p->plan);
    doconv_context_destroy(p->context);
}

static void expect_refused_execute(const struct prepared *p, const doconv_weights *weights,
                                   const float *residual, void *workspace, size_t size,
                                   doconv_status expected, const char *detail)
{
    float *before = malloc(p->t.dst_bytes);
    assert_non_null(before);
    memcpy(before, p->t.dst, p->t.dst_bytes);
    expect_status(doconv_execute(p->plan, weights, p->t.src, residual, p->t.dst, workspace, size),
                  expected);
    assert_memory_equal(before, p->t.dst, p->t.dst_bytes);
    expect_error(p->context, detail, NULL);
    free(before);
}

static void test_execute_arguments(void **state)
{
    (void)state;
    struct prepared p = prepare(PROBLEM);
    expect_refused_execute(&p, p.weights, p.t.src, p.workspace, p.workspace_size,
                           DOCONV_INVALID_ARGUMENT, "residual: given");
    if (p.workspace_size > 0) {
        expect_refused_execute(&p, p.weights, NULL, NULL, 0, DOCONV_WORKSPACE_TOO_SMALL,
                               "workspace");
        expect_refused_execute(&p, p.weights, NULL, NULL, p.workspace_size,
                               DOCONV_WORKSPACE_TOO_SMALL, "workspace");
        expect_refused_execute(&p, p.weights, NULL, p.workspace, 0, DOCONV_WORKSPACE_TOO_SMALL,
                               "workspace");
        expect_refused_execute(&p, p.weights, NULL, p.workspace, p.workspace_size - 1,
                               DOCONV_WORKSPACE_TOO_SMALL, "workspace");
    }
    expect_ok(
        doconv_execute(p.plan, p.weights, p.t.src, NULL, p.t.dst, p.workspace, p.workspace_size));
    /* A bias that the problem has not. */
    doconv_conv_desc plain = p.desc;
    plain.has_bias = 0;
    doconv_plan *plan;
    doconv_weights *weights;
    expect_ok(doconv_plan_create(p.context, &plain, NULL, &plan));
    expect_status(doconv_weights_create(plan, p.t.weight, p.t.bias, &weights),
                  DOCONV_INVALID_ARGUMENT);
    expect_error(p.context, "bias: given", NULL);
    assert_null(weights);
    doconv_plan_destroy(plan);
    finish(&p);
}

static void test_foreign_weights(void **state)
{
    (void)state;
    struct prepared p = prepare(PROBLEM);
    static const char *const others[] = {
        "mb2_ic19ih9oc36kh3ph1:src=nhwc,dst=nhwc,bias,relu",
        "mb2_ic18ih9oc35kh3ph1:src=nhwc,dst=nhwc,bias,relu",
        "mb2_ic19ih9oc35kh5ph2:src=nhwc,dst=nhwc,bias,relu",
        "mb2_ic19ih9iw9oc35kh3kw1ph1pw0:src=nhwc,dst=nhwc,bias,relu",
        "mb2_ic19ih9oc35kh3ph1:src=nhwc,dst=nhwc,relu",
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        struct prepared other = prepare(others[i]);
        expect_refused_execute(&p, other.weights, NULL, p.workspace, p.workspace_size,
                               DOCONV_MISMATCH, "weights");
        finish(&other);
    }
    /*
     * The same weights for another kernel with another packed layout; and for one that packs
     * columns otherwise with another dilation.
     */
    struct prepared dense = prepare("g32mb1_ic32ih9oc32kh3ph1:src=nhwc,dst=nhwc"),
                    dilated = prepare("g32mb1_ic32ih9oc32kh3ph2dh1:src=nhwc,dst=nhwc");
    if (strncmp(doconv_plan_variant(dense.plan), "depthwise", 9) == 0 &&
        strncmp(doconv_plan_variant(dilated.plan), "depthwise", 9) == 0) {
        expect_refused_execute(&dense, dilated.weights, NULL, dense.workspace, dense.workspace_size,
                               DOCONV_MISMATCH, "weights");
        expect_refused_execute(&dilated, dense.weights, NULL, dilated.workspace,
                               dilated.workspace_size, DOCONV_MISMATCH, "weights");
    }
    finish(&dense);
    finish(&dilated);
    doconv_plan_options options = plan_options();
    doconv_plan *reference;
    options.variant = "reference_f32@none";
    expect_ok(doconv_plan_create(p.context, &p.desc, &options, &reference));
    doconv_weights *weights;
    expect_ok(doconv_weights_create(reference, p.t.weight, p.t.bias, &weights));
    if (strcmp(doconv_plan_variant(p.plan), doconv_plan_variant(reference)) != 0) {
        expect_refused_execute(&p, weights, NULL, p.workspace, p.workspace_size, DOCONV_MISMATCH,
                               "weights");
    }
    doconv_weights_destroy(weights);
    doconv_plan_destroy(reference);
    /* Weights outlive their plan, and serve another one of the same problem. */
    doconv_plan *again;
    expect_ok(doconv_plan_create(p.context, &p.desc, NULL, &again));
    doconv_plan_destroy(p.plan);
    p.plan = again;
    expect_ok(
        doconv_execute(p.plan, p.weights, p.t.src, NULL, p.t.dst, p.workspace, p.workspace_size));
    finish(&p);
}

struct worker {
    const struct prepared *p;
    const float *expected;
    bool same;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    const struct prepared *p = w->p;
    float *dst = malloc(p->t.dst_bytes);
    void *workspace = malloc(p->workspace_size + 1);
    w->same = dst != NULL && workspace != NULL;
    for (int i = 0; w->same && i < 20; i++) {
        memset(dst, 0xff, p->t.dst_bytes);
        w->same = doconv_execute(p->plan, p->weights, p->t.src, p->t.residual, dst, workspace,
                                 p->workspace_size) == DOCONV_OK &&
                  memcmp(dst, w->expected, p->t.dst_bytes) == 0;
    }
    free(dst);
    free(workspace);
    return NULL;
}

static void test_reentrant(void **state)
{
    (void)state;
    static const char *const texts[] = {PROBLEM, "mb1_ic19ih9oc35kh3ph1:bias,residual,relu",
                                        "g16ic16ih12oc16kh3ph1sh2:src=nChw8c,dst=nChw16c"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct prepared p = prepare(texts[i]);
        expect_ok(doconv_execute(p.plan, p.weights, p.t.src, p.t.residual, p.t.dst, p.workspace,
                                 p.workspace_size));
        enum { WORKERS = 6 };
        struct worker workers[WORKERS];
        pthread_t threads[WORKERS];
        for (int j = 0; j < WORKERS; j++) {
            workers[j] = (struct worker){&p, p.t.dst, false};
            assert_int_equal(pthread_create(&threads[j], NULL, work, &workers[j]), 0);
        }
        for (int j = 0; j < WORKERS; j++) {
            pthread_join(threads[j], NULL);
            assert_true(workers[j].same);
        }
        finish(&p);
    }
}

/* ---- memory ---- */

struct memory {
    int allocations, live;
    int fail_at; /* this allocation returns NULL, and those after it; -1: none */
};

static void *count_allocate(void *user, size_t size, size_t alignment)
{
    struct memory *m = user;
    if (m->fail_at >= 0 && m->allocations++ >= m->fail_at) {
        return NULL;
    }
    void *block = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    assert_non_null(block);
    memset(block, 0xff, size);
    m->live++;
    return block;
}

static void count_release(void *user, void *block)
{
    struct memory *m = user;
    assert_non_null(block);
    m->live--;
    free(block);
}

/* Everything that allocates; the status of the first call that fails. */
static doconv_status use_all(struct memory *m)
{
    const doconv_context_options options = {.size = sizeof options,
                                            .threads = 1,
                                            .tune = DOCONV_TUNE_OFF,
                                            .allocate = count_allocate,
                                            .release = count_release,
                                            .allocate_user = m};
    doconv_context *context = NULL;
    doconv_plan *plan = NULL;
    doconv_candidates *list = NULL;
    doconv_weights *weights = NULL;
    const doconv_conv_desc desc = problem(PROBLEM);
    struct tensors t = tensors_for(&desc);
    doconv_status status = doconv_context_create(&options, &context);
    if (status == DOCONV_OK) {
        status = doconv_candidates_create(context, &desc, NULL, &list);
        assert_true((status == DOCONV_OK) == (list != NULL));
    }
    if (status == DOCONV_OK) {
        status = doconv_plan_create(context, &desc, NULL, &plan);
        assert_true((status == DOCONV_OK) == (plan != NULL));
    }
    if (status == DOCONV_OK) {
        status = doconv_weights_create(plan, t.weight, t.bias, &weights);
        assert_true((status == DOCONV_OK) == (weights != NULL));
    }
    if (status == DOCONV_OK) {
        void *workspace = malloc(doconv_plan_workspace_size(plan) + 1);
        const int before = m->allocations;
        status = doconv_execute(plan, weights, t.src, NULL, t.dst, workspace,
                                doconv_plan_workspace_size(plan));
        assert_int_equal(m->allocations, before); /* execute allocates nothing */
        free(workspace);
    } else if (context != NULL) {
        char text[256] = "";
        doconv_context_last_error(context, text, sizeof text);
        assert_true(text[0] != '\0');
    }
    doconv_weights_destroy(weights);
    doconv_plan_destroy(plan);
    doconv_candidates_destroy(list);
    doconv_context_destroy(context);
    free_tensors(&t);
    return status;
}

static void test_failing_memory(void **state)
{
    (void)state;
    struct memory m = {.fail_at = INT32_MAX};
    expect_ok(use_all(&m));
    assert_int_equal(m.live, 0);
    const int needed = m.allocations;
    assert_true(needed >= 5);
    for (int fail_at = 0; fail_at < needed; fail_at++) {
        m = (struct memory){.fail_at = fail_at};
        const doconv_status status = use_all(&m);
        if (status != DOCONV_OUT_OF_MEMORY) {
            fail_msg("allocation %d of %d fails: %s", fail_at, needed,
                     doconv_status_string(status));
        }
        if (m.live != 0) {
            fail_msg("allocation %d of %d fails: %d blocks leak", fail_at, needed, m.live);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_candidates),
        cmocka_unit_test(test_cold_estimates),
        cmocka_unit_test(test_unknown_variant),
        cmocka_unit_test(test_workspace_limit),
        cmocka_unit_test(test_packed_limit),
        cmocka_unit_test(test_default_workspace_limit),
        cmocka_unit_test(test_reference_is_last),
        cmocka_unit_test(test_execute_arguments),
        cmocka_unit_test(test_foreign_weights),
        cmocka_unit_test(test_reentrant),
        cmocka_unit_test(test_failing_memory),
    };
    return cmocka_run_group_tests_name("plan", tests, NULL, NULL) != 0;
}
