/* SPDX-License-Identifier: MIT */
/*
 * Plans whose weights are made in the call, plans that go over weights first, and plans of many
 * groups: every candidate of some problems, in guarded memory and on several threads, against the
 * double-precision oracle. Values are small integers, whose results are exact in every order of
 * additions: any difference is an error, but of kernels that don't add products alone.
 */
#include <math.h>

#include "capped.h"
#include "base/context.h"
#include "base/cpu.h"
#include "harness.h"
#include "harness_buffer.h"
#include "oracle.h"
#include "plans.h"

static const char *const problems[] = {
    "ic19ih5oc21kh3ph1:src=nhwc,dst=nhwc,bias",
    "mb2_ic40ih4oc70kh3ph1:src=nhwc,dst=nhwc,bias",
    "mb3_ic130ih3oc100kh3ph1:src=nhwc,dst=nhwc",
    "mb2_ic136ih3oc112kh3ph1sh2:src=nChw16c,dst=nChw8c",
    "ic24ih9oc48kh1:src=nhwc,dst=nhwc,bias",
    "ic33ih6iw6oc35kh2kw3pw1:src=nchw,dst=nchw",
    /* Filters of more taps than packing takes of 16 inputs, and of one, at once. */
    "ic17ih12oc20kh12ph1:src=nhwc,dst=nhwc",
    "ic2ih46oc18kh46:src=nhwc,dst=nhwc",
    "g2ic40ih5oc36kh3ph1:src=nhwc,dst=nhwc,bias",
    "g6ic12ih5oc12kh3ph1:src=nhwc,dst=nhwc",
};
enum { PROBLEMS = sizeof problems / sizeof problems[0] };

static float small_integer(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (float)(int)(*state >> 61) - 3.0f;
}

static float *create_integers(struct buffer *buffer, size_t floats, uint64_t seed)
{
    buffer_create(buffer, floats * sizeof(float), BUFFER_GUARD_AFTER, 0);
    float *data = buffer->data;
    for (size_t i = 0; i < floats; i++) {
        data[i] = small_integer(&seed);
    }
    return data;
}

/* A problem with its tensors; the weight is folded from w and d in double. */
struct rig {
    doconv_context *context;
    struct dc_problem problem;  /* a plain layer's convolution */
    struct dc_problem composed; /* the same, of the weight that W and D fold to */
    doconv_fold_desc fold;
    struct buffer buffers[5];
    float *src, *weight, *w, *d, *bias;
    double *expected, *magnitude;
};

static void fold_exactly(struct rig *rig)
{
    const int64_t taps = rig->fold.kh * rig->fold.kw, group_cin = rig->problem.group_cin,
                  d_mul = rig->fold.d_mul;
    for (int64_t row = 0; row < rig->fold.cout * group_cin; row++) {
        const int64_t channel =
            row / group_cin / rig->problem.group_cout * group_cin + row % group_cin;
        for (int64_t m = 0; m < taps; m++) {
            double sum = 0.0;
            for (int64_t s = 0; s < d_mul; s++) {
                sum += (double)rig->d[(channel * taps + m) * d_mul + s] *
                       (double)rig->w[row * d_mul + s];
            }
            rig->weight[row * taps + m] = (float)sum;
        }
    }
}

static void rig_create(struct rig *rig, const char *text, doconv_isa cap, int threads,
                       struct task_order *order)
{
    const doconv_context_options options = {.size = sizeof options,
                                            .threads = threads,
                                            .tune = DOCONV_TUNE_OFF,
                                            .max_isa = cap,
                                            .parallel_for = task_run,
                                            .parallel_for_user = order};
    expect_ok(doconv_context_create(&options, &rig->context));
    doconv_conv_desc desc;
    expect_ok(doconv_conv_desc_parse(rig->context, text, &desc));
    expect_ok(dc_problem_create(rig->context, &desc, &rig->problem));
    const doconv_conv_desc *p = &rig->problem.desc;
    const int64_t taps = p->kh * p->kw, d_mul = taps == 1 ? 2 : taps;
    desc.d_mul = d_mul;
    desc.composition = DOCONV_COMPOSITION_KERNEL;
    expect_ok(dc_problem_create(rig->context, &desc, &rig->composed));
    rig->composed.fresh_weights = true;
    rig->fold = rig->composed.fold;
    assert_true(rig->fold.cout == p->cout && rig->fold.cin == p->cin && rig->fold.kh == p->kh &&
                rig->fold.kw == p->kw && rig->fold.groups == p->groups &&
                rig->fold.d_mul == d_mul && rig->fold.mapping == DOCONV_MAPPING_PAPER &&
                !rig->fold.add_identity);
    rig->src = create_integers(&rig->buffers[0], rig->problem.src_bytes / sizeof(float), 1);
    rig->weight = create_integers(&rig->buffers[1], rig->problem.weight_bytes / sizeof(float), 2);
    rig->w =
        create_integers(&rig->buffers[2], (size_t)(p->cout * rig->problem.group_cin * d_mul), 3);
    rig->d = create_integers(&rig->buffers[3], (size_t)(p->cin * taps * d_mul), 4);
    rig->bias = create_integers(&rig->buffers[4], (size_t)p->cout, 5);
    fold_exactly(rig);
    rig->expected =
        malloc((size_t)(p->n * p->cout * rig->problem.hout * rig->problem.wout) * sizeof(double));
    rig->magnitude =
        malloc((size_t)(p->n * p->cout * rig->problem.hout * rig->problem.wout) * sizeof(double));
    assert_true(rig->expected != NULL && rig->magnitude != NULL);
    const size_t pixels = (size_t)(p->h * p->w), planes = (size_t)(p->n * p->cin);
    float *src = malloc(planes * pixels * sizeof *src);
    assert_non_null(src);
    for (size_t i = 0; i < planes * pixels; i++) {
        const int64_t plane = (int64_t)(i / pixels), pixel = (int64_t)(i % pixels);
        src[i] = rig->src[oracle_index(p->src_layout, p->cin, p->h, p->w, plane / p->cin,
                                       plane % p->cin, pixel / p->w, pixel % p->w)];
    }
    oracle_convolve(p, src, rig->weight, p->has_bias ? rig->bias : NULL, NULL, rig->expected,
                    rig->magnitude);
    free(src);
}

static void rig_destroy(struct rig *rig)
{
    for (size_t i = 0; i < sizeof rig->buffers / sizeof rig->buffers[0]; i++) {
        buffer_destroy(&rig->buffers[i]);
    }
    free(rig->expected);
    free(rig->magnitude);
    doconv_context_destroy(rig->context);
}

/* Exactly; or, by algorithms whose arithmetic isn't exact, within the bound of the largest sum. */
static void expect_result(const struct rig *rig, const float *dst, const doconv_plan *plan,
                          const char *how)
{
    const doconv_conv_desc *d = &rig->problem.desc;
    const int64_t h = rig->problem.hout, w = rig->problem.wout, count = d->n * d->cout * h * w;
    const double amplification = (double)plan->candidate.error_amplification;
    double bound = 0.0;
    for (int64_t i = 0; i < count && amplification > 1.0; i++) {
        bound = fmax(bound, amplification * 0x1p-24 * rig->magnitude[i] *
                                (double)(d->cin / d->groups * d->kh * d->kw));
    }
    for (int64_t i = 0; i < count; i++) {
        const float seen = dst[oracle_index(d->dst_layout, d->cout, h, w, i / w / h / d->cout,
                                            i / w / h % d->cout, i / w % h, i % w)];
        if (!(fabs((double)seen - rig->expected[i]) <= bound)) {
            fail_msg("%s, %s: element %" PRId64 " is %g, not %g", doconv_plan_variant(plan), how, i,
                     (double)seen, rig->expected[i]);
        }
    }
}

/* With the weight as it is or (folds) with one that is folded on the way. */
static void run_fresh(const struct rig *rig, const char *variant, bool folds)
{
    struct dc_problem plain = rig->problem;
    plain.fresh_weights = true;
    doconv_plan *plan = plan_of(rig->context, folds ? &rig->composed : &plain, variant);
    assert_true((plan->fold != NULL) == folds);
    struct buffer dst, workspace, folded;
    buffer_create(&dst, rig->problem.dst_bytes, BUFFER_GUARD_AFTER, 0);
    buffer_create(&workspace, plan->workspace_size, BUFFER_GUARD_AFTER, 0);
    buffer_create(&folded, rig->problem.weight_bytes, BUFFER_GUARD_AFTER, 0);
    struct dc_weight_source source = {
        .view = dc_weight_view(&rig->problem, folds ? folded.data : rig->weight),
        .bias = rig->problem.desc.has_bias ? rig->bias : NULL};
    if (folds) {
        source.fold = plan->fold;
        source.w = rig->w;
        source.d = rig->d;
        source.folded = folded.data;
    }
    assert_int_equal((uintptr_t)workspace.data % 64, 0);
    const struct dc_tensors tensors = {.src = rig->src, .fresh = &source, .dst = dst.data};
    dc_plan_run(plan, &tensors, workspace.data);
    expect_result(rig, dst.data, plan, folds ? "folded" : "packed in the call");
    if (folds) {
        assert_memory_equal(folded.data, rig->weight, rig->problem.weight_bytes);
    }
    buffer_destroy(&dst);
    buffer_destroy(&workspace);
    buffer_destroy(&folded);
    doconv_plan_destroy(plan);
}

/* By doconv_execute() with weights that are packed before. */
static void run_packed(const struct rig *rig, const struct dc_problem *problem, const char *variant)
{
    const float *const bias = problem->desc.has_bias ? rig->bias : NULL;
    doconv_plan *plan = plan_of(rig->context, problem, variant);
    doconv_weights *weights;
    expect_ok(doconv_weights_create(plan, rig->weight, bias, &weights));
    struct buffer dst, workspace;
    buffer_create(&dst, rig->problem.dst_bytes, BUFFER_GUARD_AFTER, 0);
    buffer_create(&workspace, doconv_plan_workspace_size(plan), BUFFER_GUARD_AFTER, 0);
    expect_ok(
        doconv_execute(plan, weights, rig->src, NULL, dst.data, workspace.data, workspace.bytes));
    expect_result(rig, dst.data, plan, "packed before");
    buffer_destroy(&dst);
    buffer_destroy(&workspace);
    doconv_weights_destroy(weights);
    doconv_plan_destroy(plan);
}

static void every_candidate(void **state)
{
    (void)state;
    int pack_orders = 0, winograd_pack_orders = 0;
    for (size_t i = 0; i < (size_t)PROBLEMS * CAPS; i++) {
        struct task_order order = {.kind = i % 2 == 0 ? TASKS_SHUFFLED : TASKS_PTHREADS, .seed = i};
        struct rig rig;
        rig_create(&rig, problems[i % PROBLEMS], caps[i / PROBLEMS], 1 + (int)(i % 3), &order);
        struct dc_problem fresh = rig.problem;
        fresh.fresh_weights = true;
        run_fresh(&rig, NULL, false);
        run_fresh(&rig, NULL, true);
        struct dc_candidate_list list = forcible_share(rig.context, &fresh);
        for (int c = 0; c < list.count; c++) {
            run_fresh(&rig, list.items[c].text, false);
            run_fresh(&rig, list.items[c].text, true);
            run_packed(&rig, &fresh, list.items[c].text);
            const bool packs = strstr(list.items[c].text, ",order=pack") != NULL;
            pack_orders += packs;
            winograd_pack_orders += packs && strncmp(list.items[c].text, "winograd:", 9) == 0;
        }
        dc_free(rig.context, list.items);
        rig_destroy(&rig);
    }
    assert_true(CAPS == 1 || pack_orders > winograd_pack_orders);
    assert_true(CAPS == 1 || winograd_pack_orders > 0 || harness_scaled(100, 1) < 100);
}

/*
 * Groups of several vectors of outputs, the first of which that ends outside of a block of inputs
 * comes late.
 */
static void many_groups(void **state)
{
    (void)state;
    static const char *const texts[] = {"g18ic18ih5oc288kh3ph1:src=nChw16c,dst=nChw16c,bias",
                                        "g9ic9ih5oc144kh3ph1:src=nChw8c,dst=nChw8c,bias",
                                        "g20ic60ih4oc320kh3ph1:src=nChw16c,dst=nChw8c,bias"};
    enum { TEXTS = sizeof texts / sizeof texts[0] };
    for (size_t i = 0; i < (size_t)TEXTS * CAPS; i++) {
        struct task_order order = {.kind = TASKS_SHUFFLED, .seed = i};
        struct rig rig;
        rig_create(&rig, texts[i % TEXTS], caps[i / TEXTS], 2, &order);
        struct dc_candidate_list list = forcible_share(rig.context, &rig.problem);
        for (int c = 0; c < list.count; c++) {
            run_packed(&rig, &rig.problem, list.items[c].text);
        }
        dc_free(rig.context, list.items);
        rig_destroy(&rig);
    }
}

/* Weights larger than L2 that go first, packed beforehand. */
static void weights_first(void **state)
{
    (void)state;
    struct task_order order = {.kind = TASKS_SHUFFLED};
    struct rig rig;
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    /* The library offers that order where the weight takes half of L2. */
    int64_t channels = 64;
    while (channels * channels * 9 * (int64_t)sizeof(float) <= dc_cpu_probe()->l2_bytes &&
           channels < 1024) {
        channels += 64;
    }
    snprintf(text, sizeof text, "mb2_ic%" PRId64 "ih2oc%" PRId64 "kh3ph1:src=nhwc,dst=nhwc,bias",
             channels, channels);
    rig_create(&rig, text, DOCONV_ISA_DEFAULT, 3, &order);
    struct dc_candidate_list list;
    expect_ok(dc_enumerate(rig.context, &rig.problem, NULL, &list));
    int found = 0;
    for (int c = 0; c < list.count && found < 3; c++) {
        if (list.items[c].refused == NULL && strstr(list.items[c].text, ",order=weights") != NULL) {
            run_packed(&rig, &rig.problem, list.items[c].text);
            found++;
        }
    }
    const bool direct = list.count > 0 && list.items[0].kernel->family == DC_FAMILY_DIRECT;
    dc_free(rig.context, list.items);
    rig_destroy(&rig);
    assert_true(found > 0 || !direct);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_candidate),
        cmocka_unit_test(many_groups),
        cmocka_unit_test(weights_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
