/* SPDX-License-Identifier: MIT */
/*
 * When results are the same bits: contexts that are deterministic, whatever their threads and
 * variants; and values that are not finite.
 */
#include <math.h>

#include "api_support.h"
#include "harness.h"
#include "oracle.h"

static doconv_context *open_for(int threads, int deterministic)
{
    const doconv_context_options options = {.size = sizeof options,
                                            .threads = threads,
                                            .tune = DOCONV_TUNE_OFF,
                                            .deterministic = deterministic};
    doconv_context *context;
    expect_ok(doconv_context_create(&options, &context));
    return context;
}

static bool has_kernels(const doconv_context *context)
{
    doconv_context_info info = {.size = sizeof info};
    expect_ok(doconv_context_get_info(context, &info));
    return info.isa != DOCONV_ISA_NONE;
}

static doconv_conv_desc any_layer(struct rng *rng)
{
    static const int64_t groups[] = {1, 1, 2, 4, 8, 16, 24};
    static const int64_t channels[] = {1, 2, 3, 4, 5, 8, 13, 16, 20, 33};
    doconv_conv_desc d;
    doconv_conv_desc_init(&d);
    d.n = rng_range(rng, 1, 2);
    d.groups = rng_pick(rng, groups, sizeof groups / sizeof groups[0]);
    d.cin = d.groups * rng_pick(rng, channels, d.groups > 1 ? 6 : 10);
    d.cout = d.groups * rng_pick(rng, channels, d.groups > 1 ? 6 : 10);
    d.h = rng_range(rng, 3, 12);
    d.w = rng_range(rng, 3, 12);
    d.kh = rng_range(rng, 1, 3);
    d.kw = rng_range(rng, 1, 3);
    d.stride_h = rng_range(rng, 1, 2);
    d.stride_w = rng_range(rng, 1, 2);
    d.pad_top = rng_range(rng, 0, 2);
    d.pad_left = rng_range(rng, 0, 2);
    d.pad_bottom = rng_range(rng, 0, 2);
    d.pad_right = rng_range(rng, 0, 2);
    d.src_layout = (doconv_layout)rng_range(rng, 0, 3);
    d.dst_layout = (doconv_layout)rng_range(rng, 0, 3);
    d.has_bias = (int)rng_range(rng, 0, 1);
    return d;
}

/* Tensors whose products are rounded, so that the order of sums shows. */
static struct tensors real_tensors(const doconv_conv_desc *desc, struct rng *rng)
{
    struct tensors t = tensors_for(desc);
    const size_t weights = (size_t)(desc->cout * (desc->cin / desc->groups) * desc->kh * desc->kw);
    for (size_t i = 0; i < t.src_bytes / sizeof(float); i++) {
        t.src[i] = (float)(rng_unit(rng) - 0.5);
    }
    for (size_t i = 0; i < weights; i++) {
        t.weight[i] = (float)(rng_unit(rng) - 0.5);
    }
    return t;
}

/* dst by a variant (NULL: the context's choice). */
static void run(doconv_context *context, const doconv_conv_desc *desc, struct tensors *t,
                const char *variant)
{
    doconv_plan_options options = plan_options();
    doconv_plan *plan;
    doconv_weights *weights;
    options.variant = variant;
    expect_ok(doconv_plan_create(context, desc, &options, &plan));
    expect_ok(doconv_weights_create(plan, t->weight, t->bias, &weights));
    const size_t size = doconv_plan_workspace_size(plan);
    void *workspace = malloc(size + 1);
    assert_non_null(workspace);
    memset(t->dst, 0xff, t->dst_bytes);
    expect_ok(doconv_execute(plan, weights, t->src, t->residual, t->dst, workspace, size));
    free(workspace);
    doconv_weights_destroy(weights);
    doconv_plan_destroy(plan);
}

static void *copy_of(const void *from, size_t bytes)
{
    void *copy = malloc(bytes);
    assert_non_null(copy);
    return memcpy(copy, from, bytes);
}

/* ---- deterministic contexts ---- */

static const int threads[] = {1, 2, 3, 8, 16};
enum { THREADS = sizeof threads / sizeof threads[0], FORCED = 3 };

/* The choice, and some of the candidates, whose bits must all be *first (NULL: these are). */
static void compare_choices(doconv_context *context, const doconv_conv_desc *desc,
                            struct tensors *t, struct rng *rng, void **first)
{
    doconv_candidates *list;
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    expect_ok(doconv_conv_desc_format(context, desc, text, sizeof text));
    expect_ok(doconv_candidates_create(context, desc, NULL, &list));
    int accepted = 0;
    doconv_candidate_info info = {.size = sizeof info};
    while (accepted < doconv_candidates_count(list)) {
        expect_ok(doconv_candidates_get(list, accepted, &info));
        if (info.refused != NULL) {
            break;
        }
        accepted++;
    }
    assert_true(accepted > 0);
    for (int i = -1; i < FORCED; i++) {
        const char *variant = NULL;
        if (i >= 0) {
            expect_ok(doconv_candidates_get(list, (int)rng_range(rng, 0, accepted - 1), &info));
            variant = info.variant;
        }
        run(context, desc, t, variant);
        if (*first == NULL) {
            *first = copy_of(t->dst, t->dst_bytes);
        } else if (memcmp(*first, t->dst, t->dst_bytes) != 0) {
            fail_msg("%s: %s has other bits than the first choice", text,
                     variant != NULL ? variant : "the choice");
        }
    }
    doconv_candidates_destroy(list);
}

static void test_deterministic(void **state)
{
    (void)state;
    doconv_context *contexts[THREADS], *one = open_for(1, 0), *many = open_for(16, 0);
    for (int i = 0; i < THREADS; i++) {
        contexts[i] = open_for(threads[i], 1);
    }
    struct rng rng = rng_from(1, "deterministic");
    int differ = 0;
    for (int valid = 0; valid < 600;) {
        const doconv_conv_desc desc = any_layer(&rng);
        int64_t shape[4];
        if (doconv_conv_dst_shape(NULL, &desc, shape) != DOCONV_OK) {
            continue;
        }
        valid++;
        struct tensors t = real_tensors(&desc, &rng);
        void *first = NULL;
        for (int i = 0; i < THREADS; i++) {
            compare_choices(contexts[i], &desc, &t, &rng, &first);
        }
        /* Without the option, some differ: what is promised isn't so by itself. */
        run(one, &desc, &t, NULL);
        memcpy(first, t.dst, t.dst_bytes);
        run(many, &desc, &t, NULL);
        differ += memcmp(first, t.dst, t.dst_bytes) != 0;
        free(first);
        free_tensors(&t);
    }
#if defined(__x86_64__)
    assert_true(differ > 0 || !has_kernels(one));
#endif
    print_message("%d of 600 differ without it\n", differ);
    for (int i = 0; i < THREADS; i++) {
        doconv_context_destroy(contexts[i]);
    }
    doconv_context_destroy(one);
    doconv_context_destroy(many);
}

static void test_deterministic_options(void **state)
{
    (void)state;
    doconv_context_options options = {.size = sizeof options, .deterministic = 2};
    doconv_context *context;
    expect_status(doconv_context_create(&options, &context), DOCONV_INVALID_ARGUMENT);
    options.deterministic = -1;
    expect_status(doconv_context_create(&options, &context), DOCONV_INVALID_ARGUMENT);
    context = open_for(2, 1);
    /* The order that is kept doesn't depend on a limit, which may so leave nothing. */
    const doconv_conv_desc desc = problem("ic20ih9oc40kh3ph1");
    doconv_plan_options plans = plan_options();
    doconv_plan *plan;
    plans.workspace_limit = 1;
    if (has_kernels(context)) {
        expect_status(doconv_plan_create(context, &desc, &plans, &plan), DOCONV_UNSUPPORTED);
        expect_error(context, "order of sums", "1 bytes");
    }
    /* A variant that is forced is the caller's choice. */
    plans.workspace_limit = 0;
    plans.variant = "reference_f32@none";
    expect_ok(doconv_plan_create(context, &desc, &plans, &plan));
    doconv_plan_destroy(plan);
    doconv_context_destroy(context);
}

/* ---- values that are not finite ---- */

/* Places of the tensors of a problem. */
struct place {
    int64_t o, i, y, x; /* of the weight that is not finite; i: of its group */
};

/* Does output (o, p, q) meet the weight's tap in the padding? */
static bool meets_in_padding(const doconv_conv_desc *d, const struct place *w, int64_t o, int64_t p,
                             int64_t q)
{
    const int64_t row = p * d->stride_h + w->y * d->dilation_h - d->pad_top,
                  column = q * d->stride_w + w->x * d->dilation_w - d->pad_left;
    return o == w->o && (row < 0 || row >= d->h || column < 0 || column >= d->w);
}

static bool same_value(float a, float b)
{
    return a == b || (isnan(a) && isnan(b));
}

/* Every candidate against the reference; w: of a weight that isn't finite, or NULL. */
static void compare_variants(doconv_context *context, const doconv_conv_desc *d, struct tensors *t,
                             const struct place *w)
{
    int64_t shape[4];
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    expect_ok(doconv_conv_desc_format(context, d, text, sizeof text));
    expect_ok(doconv_conv_dst_shape(context, d, shape));
    run(context, d, t, "reference_f32@none");
    float *expected = copy_of(t->dst, t->dst_bytes);
    doconv_candidates *list;
    expect_ok(doconv_candidates_create(context, d, NULL, &list));
    for (int i = 0; i < doconv_candidates_count(list); i++) {
        doconv_candidate_info info = {.size = sizeof info};
        expect_ok(doconv_candidates_get(list, i, &info));
        if (info.refused != NULL) {
            break;
        }
        run(context, d, t, info.variant);
        for (int64_t at = 0; at < shape[0] * shape[1] * shape[2] * shape[3]; at++) {
            const int64_t q = at % shape[3], p = at / shape[3] % shape[2],
                          o = at / shape[3] / shape[2] % shape[1],
                          n = at / shape[3] / shape[2] / shape[1];
            const size_t index =
                (size_t)oracle_index(d->dst_layout, shape[1], shape[2], shape[3], n, o, p, q);
            const float seen = t->dst[index];
            if (!same_value(seen, expected[index]) &&
                !(w != NULL && isnan(seen) && meets_in_padding(d, w, o, p, q))) {
                fail_msg("%s, %s: output %d, row %d, column %d is %g, expected %g", text,
                         info.variant, (int)o, (int)p, (int)q, (double)seen,
                         (double)expected[index]);
            }
        }
    }
    free(expected);
    doconv_candidates_destroy(list);
}

/*
 * Small integers, whose sums are exact in any order, with a few values that are not finite. Strict,
 * since Winograd's algorithms promise less: test_winograd.
 */
static void test_not_finite(void **state)
{
    (void)state;
    static const float values[] = {INFINITY, -INFINITY, NAN};
    doconv_context *context = open_for(2, 0);
    struct rng rng = rng_from(1, "not finite");
    for (int valid = 0; valid < 120;) {
        doconv_conv_desc d = any_layer(&rng);
        int64_t shape[4];
        if (doconv_conv_dst_shape(NULL, &d, shape) != DOCONV_OK) {
            continue;
        }
        d.accuracy = DOCONV_ACCURACY_STRICT;
        const float value = values[valid++ % 3];
        struct tensors t = tensors_for(&d);
        /* In src: outputs that read it, in each variant. */
        const int64_t index =
            oracle_index(d.src_layout, d.cin, d.h, d.w, rng_range(&rng, 0, d.n - 1),
                         rng_range(&rng, 0, d.cin - 1), rng_range(&rng, 0, d.h - 1),
                         rng_range(&rng, 0, d.w - 1));
        const float kept = t.src[index];
        t.src[index] = value;
        compare_variants(context, &d, &t, NULL);
        t.src[index] = kept;
        if (d.has_bias) {
            const int64_t o = rng_range(&rng, 0, d.cout - 1);
            const float bias = t.bias[o];
            t.bias[o] = value;
            compare_variants(context, &d, &t, NULL);
            t.bias[o] = bias;
        }
        /* In a weight: these, and such as meet it in the padding. */
        const struct place w = {rng_range(&rng, 0, d.cout - 1),
                                rng_range(&rng, 0, d.cin / d.groups - 1),
                                rng_range(&rng, 0, d.kh - 1), rng_range(&rng, 0, d.kw - 1)};
        t.weight[((w.o * (d.cin / d.groups) + w.i) * d.kh + w.y) * d.kw + w.x] = value;
        compare_variants(context, &d, &t, &w);
        free_tensors(&t);
    }
    doconv_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_deterministic),
        cmocka_unit_test(test_deterministic_options),
        cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
