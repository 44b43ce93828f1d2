/* SPDX-License-Identifier: MIT */
/*
 * Winograd's convolutions, which no test for kernels that sum directly suits: they round
 * differently, and what an input does to the sums reaches all outputs of its tile. Every kernel of
 * the family on shapes sampled around the edges of its tile, in guarded memory and on several
 * threads, on random and on unkind data, against sums in double precision.
 */
#include <math.h>

#include "capped.h"
#include "base/context.h"
#include "base/cpu.h"
#include "base/registry.h"
#include "plan/plan.h"
#include "harness.h"
#include "harness_buffer.h"
#include "harness_rig.h"
#include "oracle.h"

enum { TEXT_SIZE = 1024, MOST_THREADS = 8 };

static size_t outputs_of(const struct experiment *e)
{
    return (size_t)(e->desc.n * e->desc.cout * e->hout * e->wout);
}

static float output_at(const struct rig *rig, int64_t output)
{
    const doconv_conv_desc *d = &rig->e->desc;
    const int64_t h = rig->e->hout, w = rig->e->wout;
    const float *dst = rig->dst.data;
    return dst[oracle_index(d->dst_layout, d->cout, h, w, output / w / h / d->cout,
                            output / w / h % d->cout, output / w % h, output % w)];
}

/* A shape that the kernel takes: see harness_sample(). */
static doconv_conv_desc sample(const struct dc_kernel *kernel, struct rng *rng)
{
    doconv_conv_desc d;
    harness_sample(kernel, rng, 1, &d);
    return d;
}

/* ---- unkind data ---- */

enum kind { RANDOM, OFFSET, ALTERNATING, DENORMAL, HUGE_VALUE, KINDS };

/* Fills src and weight of an experiment's reals anew. */
static void refill(struct experiment *e, enum kind kind, struct rng *rng)
{
    const doconv_conv_desc *d = &e->desc;
    struct data *data = &e->reals;
    const int64_t inputs = d->n * d->cin * d->h * d->w;
    for (int64_t i = 0; i < inputs; i++) {
        const float value = (float)(2.0 * rng_unit(rng) - 1.0);
        const int64_t x = i % d->w, y = i / d->w % d->h;
        data->src[i] = kind == OFFSET        ? 1000.0f + value
                       : kind == ALTERNATING ? ((x + y) % 2 != 0 ? -1.0f : 1.0f) + 0.001f * value
                       : kind == DENORMAL    ? 1e-38f * value
                                             : value;
    }
    if (kind == HUGE_VALUE) {
        data->src[rng_range(rng, 0, inputs - 1)] = 1e30f;
    }
    oracle_convolve(d, data->src, data->weight, data->bias, data->residual, data->value,
                    data->magnitude);
}

/* ---- runs ---- */

static doconv_context *guarded_context(const struct dc_kernel *kernel, enum buffer_place *side)
{
    const doconv_context_options options = {.size = sizeof options,
                                            .threads = 1,
                                            .tune = DOCONV_TUNE_OFF,
                                            .max_isa = (doconv_isa)kernel->isa,
                                            .allocate = guard_allocate,
                                            .release = guard_release,
                                            .allocate_user = side};
    doconv_context *context = NULL;
    expect_ok(doconv_context_create(&options, &context));
    return context;
}

static void fail_run(const struct dc_kernel *kernel, const struct experiment *e,
                     const char *variant, const char *text)
{
    fail_msg("%s: problem=%s variant=%s seed=%" PRIu64 ": %s", kernel->name, e->text, variant,
             e->seed, text);
}

/* Runs, checks and returns dst, which the caller frees; first: what another run gave, or NULL. */
static float *run(const struct dc_kernel *kernel, doconv_context *context,
                  const struct experiment *e, const struct data *data, const char *variant,
                  struct rig_options options, const float *first)
{
    char text[TEXT_SIZE];
    struct rig rig;
    const bool ok =
        rig_prepare(&rig, context, e, data, variant, options, text, TEXT_SIZE) &&
        rig_execute(&rig, text, TEXT_SIZE) &&
        rig_check_close(&rig, (double)kernel->error_amplification, text, TEXT_SIZE) &&
        (options.place != BUFFER_CANARIES || rig_check_complete(&rig, text, TEXT_SIZE)) &&
        rig_check_gaps(&rig, text, TEXT_SIZE) &&
        (first == NULL || rig_check_same(&rig, first, "another run", text, TEXT_SIZE));
    if (!ok) {
        fail_run(kernel, e, variant, text);
    }
    float *const dst = malloc(rig.dst.bytes);
    assert_non_null(dst);
    memcpy(dst, rig.dst.data, rig.dst.bytes);
    rig_destroy(&rig);
    return dst;
}

/* Whether filters are transformed when they are packed or in the call decides the bits. */
static const char *const forms[] = {",outputs=", ",raw="};

/* So does the axis: where both are offered, columns are tested, for rows are elsewhere. */
static const char columns[] = ":columns=";

static bool has_columns(const doconv_candidates *list)
{
    for (int i = 0; i < doconv_candidates_count(list); i++) {
        doconv_candidate_info info = {.size = sizeof info};
        expect_ok(doconv_candidates_get(list, i, &info));
        if (info.refused == NULL && strstr(info.variant, columns) != NULL) {
            return true;
        }
    }
    return false;
}

/* Variants of a kernel whose text has `form`: at most `most` of them, at random; how many. */
static int pick_variants(const struct dc_kernel *kernel, doconv_context *context,
                         const doconv_conv_desc *desc, const char *form, struct rng *rng,
                         char (*variants)[128], int most)
{
    const doconv_plan_options options = {.size = sizeof options, .variant = kernel->name};
    doconv_candidates *list;
    expect_ok(doconv_candidates_create(context, desc, &options, &list));
    const bool down = has_columns(list);
    const char *chunk = NULL; /* the first one's: taps are summed beside it */
    int seen = 0;
    for (int i = 0; i < doconv_candidates_count(list); i++) {
        doconv_candidate_info info = {.size = sizeof info};
        expect_ok(doconv_candidates_get(list, i, &info));
        if (info.refused != NULL || strstr(info.variant, form) == NULL ||
            (down && strstr(info.variant, columns) == NULL)) {
            continue;
        }
        chunk = chunk == NULL ? strstr(info.variant, ",raw=") : chunk;
        if (chunk != NULL && strstr(info.variant, chunk) == NULL) {
            continue;
        }
        const int64_t place = seen < most ? seen : rng_range(rng, 0, seen);
        if (place < most) {
            snprintf(variants[place], 128, "%s", info.variant);
        }
        seen++;
    }
    doconv_candidates_destroy(list);
    return seen < most ? seen : most;
}

static bool usable(const struct dc_kernel *kernel)
{
    return dc_isa_usable(kernel->isa, dc_cpu_probe()->isa);
}

/* Every accepted variant of sampled shapes: values, bounds, gaps, the same bits from all. */
static void test_shapes(void **state)
{
    const struct dc_kernel *kernel = *state;
    if (!usable(kernel)) {
        skip();
    }
    enum buffer_place sides[] = {BUFFER_GUARD_AFTER, BUFFER_GUARD_BEFORE};
    doconv_context *const contexts[] = {guarded_context(kernel, &sides[0]),
                                        guarded_context(kernel, &sides[1]),
                                        open_with((doconv_isa)kernel->isa, 1, NULL)};
    struct rng rng = rng_from(harness_seed(), kernel->name);
    for (int shape = 0; shape < harness_scaled(60, 12); shape++) {
        const doconv_conv_desc desc = sample(kernel, &rng);
        struct experiment e;
        char text[TEXT_SIZE], variants[3][128];
        if (!experiment_create(&e, &desc, harness_seed(), text, TEXT_SIZE)) {
            fail_msg("%s", text);
        }
        refill(&e, (enum kind)(shape % KINDS), &rng);
        float *first = NULL;
        const int count =
            pick_variants(kernel, contexts[2], &desc, forms[shape / KINDS % 2], &rng, variants, 3);
        if (count == 0) {
            fail_run(kernel, &e, "any", "no candidate takes it");
        }
        for (int v = 0; v < count; v++) {
            for (int side = 0; side < 3; side++) {
                const struct rig_options options = {.place =
                                                        side == 2 ? BUFFER_CANARIES : sides[side],
                                                    .nan_gaps = true,
                                                    .alias = side == 2 && desc.residual,
                                                    .dirt = side == 0 ? 0xff : 0x42};
                float *dst = run(kernel, contexts[side], &e, &e.reals, variants[v], options, first);
                free(first);
                first = dst;
            }
        }
        free(first);
        experiment_destroy(&e);
    }
    for (int i = 0; i < 3; i++) {
        doconv_context_destroy(contexts[i]);
    }
}

/* Any number of tasks, in any order: the same bits. */
static void test_threads(void **state)
{
    const struct dc_kernel *kernel = *state;
    if (!usable(kernel)) {
        skip();
    }
    const struct rig_options options = {.place = BUFFER_CANARIES, .dirt = 0xff};
    doconv_context *const alone = open_with((doconv_isa)kernel->isa, 1, NULL);
    struct rng rng = rng_from(harness_seed(), kernel->name);
    for (int shape = 0; shape < harness_scaled(24, 8); shape++) {
        doconv_conv_desc desc = sample(kernel, &rng);
        if (shape % 2 == 0) { /* fewer places than threads, many outputs */
            desc.n = desc.groups = 1;
            desc.cin = kernel->vector + 5;
            desc.cout = 150;
        }
        struct experiment e;
        char text[TEXT_SIZE], variants[1][128];
        if (!experiment_create(&e, &desc, harness_seed(), text, TEXT_SIZE)) {
            fail_msg("%s", text);
        }
        const char *const form = forms[shape / 2 % 2];
        assert_int_equal(pick_variants(kernel, alone, &desc, form, &rng, variants, 1), 1);
        float *first = run(kernel, alone, &e, &e.reals, variants[0], options, NULL);
        for (int threads = 2; threads <= MOST_THREADS; threads += 1 + shape % 3) {
            struct task_order order = {(enum task_kind)(threads % TASK_KINDS), harness_seed()};
            doconv_context *context = open_with((doconv_isa)kernel->isa, threads, &order);
            assert_int_equal(
                pick_variants(kernel, context, &desc, forms[shape / 2 % 2], &rng, variants, 1), 1);
            float *dst = run(kernel, context, &e, &e.reals, variants[0], options, first);
            free(first);
            first = dst;
            doconv_context_destroy(context);
        }
        free(first);
        experiment_destroy(&e);
    }
    doconv_context_destroy(alone);
}

/*
 * A NaN or an infinity reaches every output that reads it, perhaps the others of their tiles, and
 * no other: those keep their bits.
 */
static void check_spread(const struct dc_kernel *kernel, doconv_context *context,
                         struct experiment *e, const char *variant, int64_t at, float value)
{
    const doconv_conv_desc *d = &e->desc;
    const struct rig_options options = {.place = BUFFER_CANARIES, .dirt = 0xff};
    char text[TEXT_SIZE];
    struct rig clean, dirty;
    bool ok = rig_prepare(&clean, context, e, &e->reals, variant, options, text, TEXT_SIZE) &&
              rig_execute(&clean, text, TEXT_SIZE);
    const float before = e->reals.src[at];
    e->reals.src[at] = value;
    ok = ok && rig_prepare(&dirty, context, e, &e->reals, variant, options, text, TEXT_SIZE) &&
         rig_execute(&dirty, text, TEXT_SIZE);
    if (!ok) {
        fail_run(kernel, e, variant, text);
    }
    const int64_t x = at % d->w, y = at / d->w % d->h, c = at / d->w / d->h % d->cin,
                  n = at / d->w / d->h / d->cin;
    for (int64_t i = 0; i < (int64_t)outputs_of(e); i++) {
        const int64_t q = i % e->wout, p = i / e->wout % e->hout,
                      o = i / e->wout / e->hout % d->cout;
        struct rig_window tile;
        assert_true(rig_tile(&clean, i, &tile));
        const bool meets = i / e->wout / e->hout / d->cout == n &&
                           o / (d->cout / d->groups) == c / (d->cin / d->groups),
                   in_tile = meets && y >= tile.y0 && y < tile.y1 && x >= tile.x0 && x < tile.x1,
                   reads = meets && y + d->pad_top >= p && y + d->pad_top < p + d->kh &&
                           x + d->pad_left >= q && x + d->pad_left < q + d->kw;
        const float seen = output_at(&dirty, i), was = output_at(&clean, i);
        if (reads && isfinite(seen)) {
            snprintf(text, TEXT_SIZE, "output %" PRId64 " reads a %f, but is %f", i, (double)value,
                     (double)seen);
            fail_run(kernel, e, variant, text);
        }
        if (!in_tile && memcmp(&seen, &was, sizeof seen) != 0) {
            snprintf(text, TEXT_SIZE, "output %" PRId64 " has nothing to do with a %f, but is %f",
                     i, (double)value, (double)seen);
            fail_run(kernel, e, variant, text);
        }
    }
    e->reals.src[at] = before;
    rig_destroy(&clean);
    rig_destroy(&dirty);
}

/* A NaN in a weight turns to NaN outputs of its channel alone: the others keep their bits. */
static void check_weight_spread(const struct dc_kernel *kernel, doconv_context *context,
                                struct experiment *e, const char *variant, int64_t at)
{
    const doconv_conv_desc *d = &e->desc;
    const struct rig_options options = {.place = BUFFER_CANARIES, .dirt = 0xff};
    char text[TEXT_SIZE];
    struct rig clean, dirty;
    bool ok = rig_prepare(&clean, context, e, &e->reals, variant, options, text, TEXT_SIZE) &&
              rig_execute(&clean, text, TEXT_SIZE);
    e->reals.weight[at] = NAN;
    ok = ok && rig_prepare(&dirty, context, e, &e->reals, variant, options, text, TEXT_SIZE) &&
         rig_execute(&dirty, text, TEXT_SIZE);
    if (!ok) {
        fail_run(kernel, e, variant, text);
    }
    const int64_t channel = at / (d->cin / d->groups * d->kh * d->kw);
    for (int64_t i = 0; i < (int64_t)outputs_of(e); i++) {
        const float seen = output_at(&dirty, i), was = output_at(&clean, i);
        if (i / e->wout / e->hout % d->cout != channel && memcmp(&seen, &was, sizeof seen) != 0) {
            snprintf(text, TEXT_SIZE, "output %" PRId64 " changes by another channel's weight", i);
            fail_run(kernel, e, variant, text);
        }
    }
    rig_destroy(&clean);
    rig_destroy(&dirty);
}

static void test_spread(void **state)
{
    const struct dc_kernel *kernel = *state;
    if (!usable(kernel)) {
        skip();
    }
    doconv_context *const context = open_with((doconv_isa)kernel->isa, 1, NULL);
    struct rng rng = rng_from(harness_seed(), kernel->name);
    for (int shape = 0; shape < harness_scaled(24, 8); shape++) {
        doconv_conv_desc desc = sample(kernel, &rng);
        desc.relu = desc.clamp = 0; /* they would hide an infinity */
        struct experiment e;
        char text[TEXT_SIZE], variants[1][128];
        if (!experiment_create(&e, &desc, harness_seed(), text, TEXT_SIZE)) {
            fail_msg("%s", text);
        }
        assert_int_equal(
            pick_variants(kernel, context, &desc, forms[shape / 2 % 2], &rng, variants, 1), 1);
        const int64_t at = rng_range(&rng, 0, desc.n * desc.cin * desc.h * desc.w - 1);
        check_spread(kernel, context, &e, variants[0], at, shape % 2 == 0 ? NAN : INFINITY);
        check_weight_spread(
            kernel, context, &e, variants[0],
            rng_range(&rng, 0, desc.cout * (desc.cin / desc.groups) * desc.kh * desc.kw - 1));
        experiment_destroy(&e);
    }
    doconv_context_destroy(context);
}

/* ---- rounding ---- */

/* A sample of a normal distribution, nearly. */
static float normal(struct rng *rng)
{
    double sum = -6.0;
    for (int i = 0; i < 12; i++) {
        sum += rng_unit(rng);
    }
    return (float)sum;
}

static double rms_error(doconv_context *context, const struct experiment *e, const char *variant)
{
    char text[TEXT_SIZE];
    struct rig rig;
    const struct rig_options options = {.place = BUFFER_CANARIES, .dirt = 0xff};
    if (!rig_prepare(&rig, context, e, &e->reals, variant, options, text, TEXT_SIZE) ||
        !rig_execute(&rig, text, TEXT_SIZE)) {
        fail_msg("%s: %s", variant, text);
    }
    double sum = 0.0;
    for (size_t i = 0; i < outputs_of(e); i++) {
        const double error = (double)output_at(&rig, (int64_t)i) - e->reals.value[i];
        sum += error * error;
    }
    rig_destroy(&rig);
    return sqrt(sum / (double)outputs_of(e));
}

/* Of any variant of a kernel. */
static double kernel_error(doconv_context *context, const struct experiment *e,
                           const struct dc_kernel *kernel, const char *form)
{
    struct rng rng = rng_from(e->seed, kernel->name);
    char variants[1][128];
    assert_int_equal(pick_variants(kernel, context, &e->desc, form, &rng, variants, 1), 1);
    return rms_error(context, e, variants[0]);
}

/* A direct kernel's error, times no more than what the row states. */
static void test_rounding(void **state)
{
    const struct dc_kernel *kernel = *state;
    if (!usable(kernel)) {
        skip();
    }
    doconv_context *const context = open_with((doconv_isa)kernel->isa, 1, NULL);
    /* Square; and, of one axis, a row and a column of taps, whose direct sums are the shortest. */
    const struct dc_winograd_kernel *w = &kernel->winograd;
    const int shapes[3][2] = {{w->taps, w->taps}, {1, w->taps}, {w->taps, 1}};
    for (int p = 0; p < (w->axes == 2 ? 2 : 6); p++) {
        const int *shape = shapes[p / 2];
        char layer[TEXT_SIZE];
        snprintf(layer, sizeof layer,
                 "ic%dih12iw12oc32kh%dkw%dph%dpw%d:src=nhwc,dst=nhwc,accuracy=fast",
                 p % 2 == 0 ? 64 : 160, shape[0], shape[1], shape[0] / 2, shape[1] / 2);
        const doconv_conv_desc desc = problem(layer);
        struct experiment e;
        char text[TEXT_SIZE];
        assert_true(experiment_create(&e, &desc, harness_seed(), text, TEXT_SIZE));
        struct rng rng = rng_from(harness_seed(), NULL);
        for (int64_t i = 0; i < desc.cin * desc.h * desc.w; i++) {
            e.reals.src[i] = normal(&rng);
        }
        for (int64_t i = 0; i < desc.cout * desc.cin * desc.kh * desc.kw; i++) {
            e.reals.weight[i] = normal(&rng);
        }
        oracle_convolve(&desc, e.reals.src, e.reals.weight, NULL, NULL, e.reals.value,
                        e.reals.magnitude);
        const struct dc_kernel *direct =
            dc_kernel_next(context, DC_FAMILY_DIRECT, kernel->isa, NULL);
        const double error = kernel_error(context, &e, direct, "direct");
        for (int f = 0; f < 2; f++) {
            const double ratio = kernel_error(context, &e, kernel, forms[f]) / error;
            print_message("%s: %s: %s: %.2f times a direct kernel's error\n", kernel->name, e.text,
                          forms[f], ratio);
            assert_true(ratio <= (double)kernel->error_amplification);
        }
        experiment_destroy(&e);
    }
    doconv_context_destroy(context);
}

/* ---- what it refuses, and who may ask for it ---- */

static void expect_refused(const struct dc_kernel *kernel, doconv_context *context,
                           const char *text, size_t workspace_limit, bool refused)
{
    const doconv_conv_desc desc = problem(text);
    const doconv_plan_options options = {
        .size = sizeof options, .variant = kernel->name, .workspace_limit = workspace_limit};
    doconv_plan *plan = NULL;
    const doconv_status status = doconv_plan_create(context, &desc, &options, &plan);
    if ((status != DOCONV_OK) != refused) {
        fail_msg("%s: %s: %s", kernel->name, text, doconv_status_string(status));
    }
    if (refused) {
        assert_int_equal(status, DOCONV_NOT_FOUND);
        expect_error(context, "can't take this problem", NULL);
    }
    doconv_plan_destroy(plan);
}

/* A layer of kh x kw taps. */
static void expect_taps(const struct dc_kernel *kernel, doconv_context *context,
                        const char *channels, int kh, int kw, const char *rest,
                        size_t workspace_limit, bool refused)
{
    char text[TEXT_SIZE];
    snprintf(text, sizeof text, "%sih20iw20kh%dkw%dpw3%s", channels, kh, kw, rest);
    expect_refused(kernel, context, text, workspace_limit, refused);
}

static void test_refusals(void **state)
{
    const struct dc_kernel *kernel = *state;
    if (!usable(kernel)) {
        skip();
    }
    doconv_context *const context = open_with((doconv_isa)kernel->isa, 1, NULL);
    const struct dc_winograd_kernel *w = &kernel->winograd;
    const int taps = w->taps;
    static const struct {
        const char *channels, *rest;
    } refused[] = {
        {"ic32oc32", "ph3:accuracy=strict"},  {"ic32oc32", "sh2ph3:accuracy=fast"},
        {"ic32oc32", "dh1ph6:accuracy=fast"}, {"ic3oc32", "ph3:accuracy=fast"},
        {"ic32oc3", "ph3:accuracy=fast"},     {"g32ic32oc32", "ph3:accuracy=fast"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        expect_taps(kernel, context, refused[i].channels, taps, taps, refused[i].rest, 0, true);
    }
    const char *const layer = "ic32oc32", *const rest = "ph3:accuracy=fast";
    expect_taps(kernel, context, layer, taps + 1, taps + 1, rest, 0, true);
    expect_taps(kernel, context, layer, taps, 17, rest, 0, true);
    expect_taps(kernel, context, layer, 17, taps, rest, 0, true);
    expect_taps(kernel, context, layer, taps, 1, rest, 0, w->axes == 2);
    expect_taps(kernel, context, layer, 1, taps, rest, 0, w->axes == 2);
    expect_taps(kernel, context, layer, taps, taps, rest, 0, false);
    expect_taps(kernel, context, layer, taps, taps, rest, 4096, true);
    /* The default class takes four times a direct kernel's error. */
    expect_taps(kernel, context, layer, taps, taps, "ph3", 0, kernel->error_amplification > 4.0f);
    doconv_context_destroy(context);
}

/* With no more memory for packed weights than a direct kernel's, filters are packed as they are. */
static void test_packed_limit(void **state)
{
    const struct dc_kernel *kernel = *state;
    if (!usable(kernel)) {
        skip();
    }
    doconv_context *const context = open_with((doconv_isa)kernel->isa, 1, NULL);
    static const size_t channels[] = {96, 192};
    for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++) {
        const int taps = kernel->winograd.taps;
        const size_t c = channels[i], bias = c * sizeof(float),
                     weight = c * c * (size_t)(taps * taps) * sizeof(float);
        char text[64];
        snprintf(text, sizeof text, "ic%zuih9oc%zukh%dph1:accuracy=fast", c, c, taps);
        const doconv_conv_desc desc = problem(text);
        doconv_plan_options options = {
            .size = sizeof options, .variant = kernel->name, .packed_limit = weight + bias};
        doconv_plan *plan;
        expect_ok(doconv_plan_create(context, &desc, &options, &plan));
        assert_non_null(strstr(doconv_plan_variant(plan), ",raw="));
        assert_true(doconv_plan_packed_size(plan) <= options.packed_limit);
        doconv_plan_destroy(plan);
        options.packed_limit = weight - 1;
        expect_status(doconv_plan_create(context, &desc, &options, &plan), DOCONV_NOT_FOUND);
        expect_error(context, "packed weights take more than the limit", NULL);
    }
    doconv_context_destroy(context);
}

/* ---- weights that are folded ---- */

/* Packed from W and D, block by block or as a whole: as packed from the folded weight. */
static void test_fold(void **state)
{
    const struct dc_kernel *kernel = *state;
    if (!usable(kernel)) {
        skip();
    }
    doconv_context *const context = open_with((doconv_isa)kernel->isa, 3, NULL);
    static const char *const layers[] = {"ic150oc70", "g2ic36oc38"};
    const struct dc_winograd_kernel *winograd = &kernel->winograd;
    for (size_t p = 0; p < 2; p++) {
        char layer[TEXT_SIZE];
        /* Of one axis, once down the columns. */
        snprintf(layer, sizeof layer, "%sih6iw6kh%dkw%dph3pw3:src=nhwc,dst=nhwc,bias,accuracy=fast",
                 layers[p], winograd->taps, p == 0 && winograd->axes == 1 ? 2 : winograd->taps);
        const doconv_conv_desc desc = problem(layer);
        const int64_t taps = desc.kh * desc.kw;
        const doconv_fold_desc fold = {.size = sizeof fold,
                                       .cout = desc.cout,
                                       .cin = desc.cin,
                                       .kh = desc.kh,
                                       .kw = desc.kw,
                                       .groups = desc.groups,
                                       .d_mul = taps};
        const size_t floats = (size_t)(desc.cout * desc.cin / desc.groups * taps);
        float *w = malloc(floats * sizeof *w), *folded = malloc(floats * sizeof *w),
              *d = malloc((size_t)(desc.cin * taps * taps) * sizeof *d);
        assert_true(w != NULL && folded != NULL && d != NULL);
        struct rng rng = rng_from(harness_seed(), NULL);
        for (size_t i = 0; i < floats; i++) {
            w[i] = normal(&rng);
        }
        for (int64_t i = 0; i < desc.cin * taps * taps; i++) {
            d[i] = normal(&rng);
        }
        struct tensors t = tensors_for(&desc);
        doconv_plan *plan;
        expect_ok(doconv_fold(context, &fold, w, d, folded));
        for (int f = 0; f < 2; f++) {
            char variants[1][128];
            assert_int_equal(pick_variants(kernel, context, &desc, forms[f], &rng, variants, 1), 1);
            const doconv_plan_options options = {.size = sizeof options, .variant = variants[0]};
            expect_ok(doconv_plan_create(context, &desc, &options, &plan));
            doconv_weights *weights[2];
            expect_ok(doconv_weights_create(plan, folded, t.bias, &weights[0]));
            expect_ok(doconv_weights_fold(plan, &fold, w, d, t.bias, &weights[1]));
            assert_memory_equal(weights[0]->data, weights[1]->data, doconv_plan_packed_size(plan));
            doconv_weights_destroy(weights[0]);
            doconv_weights_destroy(weights[1]);
            doconv_plan_destroy(plan);
        }
        free_tensors(&t);
        free(w);
        free(folded);
        free(d);
    }
    doconv_context_destroy(context);
}

int main(void)
{
    static const struct {
        const char *name;
        CMUnitTestFunction test;
    } kinds[] = {{"shapes", test_shapes},     {"threads", test_threads},
                 {"spread", test_spread},     {"rounding", test_rounding},
                 {"refusals", test_refusals}, {"packed limit", test_packed_limit},
                 {"fold", test_fold}};
    enum { PER_KERNEL = sizeof kinds / sizeof kinds[0], MOST = 32 };
    static struct CMUnitTest tests[MOST * PER_KERNEL];
    static char names[MOST * PER_KERNEL][96];
    size_t count = 0;
    for (int i = 0; dc_builtin_kernels[i] != NULL; i++) {
        if (dc_builtin_kernels[i]->family != DC_FAMILY_WINOGRAD) {
            continue;
        }
        for (size_t k = 0; k < PER_KERNEL && count < MOST * PER_KERNEL; k++, count++) {
            snprintf(names[count], sizeof names[count], "%s %s", kinds[k].name,
                     dc_builtin_kernels[i]->name);
            tests[count] = (struct CMUnitTest){.name = names[count],
                                               .test_func = kinds[k].test,
                                               .initial_state = (void *)dc_builtin_kernels[i]};
        }
    }
    return _cmocka_run_group_tests("winograd", tests, count, NULL, NULL);
}
